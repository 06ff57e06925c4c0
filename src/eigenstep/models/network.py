"""A torch module as a function of arrays: devices, types, batches and memory are settled here and nowhere else."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import numpy as np

from eigenstep import _checks
from eigenstep._torch import in_batches, torch_device, torch_dtype, torch_module

__all__ = ["TorchNetwork", "rows", "rows_of", "torch_device", "torch_dtype", "torch_module"]

Tensor = Any


class TorchNetwork:
    """net(x_t, t) of a torch module, on numpy arrays or tensors, without gradients and in evaluation mode.

    Arrays go to the module's device and type and come back as they came: numpy in, numpy out; a tensor in, a tensor of
    its type on its device out. The module's training flags are put back after each call. t reaches it as a float32
    tensor (batch,), an int64 one where t is an `int`. Where CUDA runs out of memory, the batch is halved and halved again,
    and later batches are cut alike.

    Parameters
    ----------
    module : torch.nn.Module or callable on tensors
        module(x, t, **arguments) -> tensor, tuple whose first is one, or an output with `sample`.
    call : callable, optional
        Called in its place where it must be called in another way; `module` then only says what to move and to switch.
    time_label : callable, optional
        From t to the number that the module takes; t itself by default.
    arguments : mapping, optional
        Passed by name. Tensors of one row hold for all items; those of more rows must have as many as the batch, or as all
        items where `generate` makes the batches.
        Integers and lists of integers become int64 tensors; mappings are gone through.
    device, dtype : optional
        Where and in what the module runs: it is moved there. Default: where and in what its parameters are, else the
        CPU and float32.
    batch_size : int, optional
        Items per call at most. Default: as many as come.

    Raises
    ------
    ValueError
        For a device that is not there; rows of conditioning that fit no batch.
    MemoryError
        Where one item does not fit.
    ImportError
        Without torch.

    Examples
    --------
    >>> import torch
    >>> network = TorchNetwork(lambda x, t: x * t[:, None], batch_size=2)
    >>> network(np.ones((3, 1)), 0.5).tolist()
    [[0.5], [0.5], [0.5]]
    """

    def __init__(
        self,
        module: Any,
        *,
        call: Callable[..., Any] | None = None,
        time_label: Callable[[float], float] | None = None,
        arguments: Mapping[str, Any] | None = None,
        device: Any = None,
        dtype: Any = None,
        batch_size: int | None = None,
    ) -> None:
        """Move the module where it is to run."""
        torch = torch_module()
        # In a list, which the copies of `for_items` share.
        self._limit = [None if batch_size is None else _checks.integer(batch_size, "batch_size")]
        self.module = module
        tensors = chain(module.parameters(), module.buffers()) if isinstance(module, torch.nn.Module) else ()
        own = next((each for each in tensors if each.is_floating_point()), None)
        self.device = torch_device(device) if device is not None else torch.device("cpu") if own is None else own.device
        self.dtype = torch_dtype(dtype) if dtype is not None else torch.float32 if own is None else own.dtype
        # Only where there is something to do: diffusers warns of every change of type.
        if own is not None and own.dtype != self.dtype:
            module.to(dtype=self.dtype)
        if own is not None and own.device != self.device:
            module.to(device=self.device)
        self.call = module if call is None else call
        self.time_label = time_label
        self.arguments = {name: self._placed(value) for name, value in (arguments or {}).items()}

    @property
    def batch_size(self) -> int | None:
        """Items per call at most; it falls where memory runs out, for the networks of `for_items` as well."""
        return self._limit[0]

    def for_items(self, items: range) -> TorchNetwork:
        """The network of some items alone: their rows of every argument that has more than one, for sampling in batches.

        Raises
        ------
        ValueError
            An argument has no row for one of the items.

        Examples
        --------
        >>> import torch
        >>> shift = TorchNetwork(lambda x, t, to: x + to, arguments={"to": torch.tensor([[1.0], [2.0], [3.0]])})
        >>> shift.for_items(range(1, 3))(np.zeros((2, 1)), 0.5).tolist()
        [[2.0], [3.0]]
        """
        some = copy.copy(self)
        some.arguments = {name: rows_of(value, name, items) for name, value in self.arguments.items()}
        return some

    def __call__(self, x: Any, t: float) -> Any:
        """net(x_t, t), of the kind, type and device of `x`."""
        torch = torch_module()
        numpy_in = not isinstance(x, torch.Tensor)
        given = torch.from_numpy(np.require(x, requirements=["C", "W"])) if numpy_in else x
        items = given.to(device=self.device, dtype=self.dtype)
        label = t if self.time_label is None else self.time_label(t)
        training = [each for each in self._modules() if each.training]
        for each in training:
            each.training = False
        try:
            with torch.no_grad():
                output = self._batched(items, label)
        finally:
            for each in training:
                each.training = True
        back = output.to(device=given.device, dtype=given.dtype if given.is_floating_point() else torch.float64)
        return back.numpy() if numpy_in else back

    def _modules(self) -> list[Any]:
        return list(self.module.modules()) if isinstance(self.module, torch_module().nn.Module) else []

    def _batched(self, items: Tensor, label: float) -> Tensor:
        """The output of all items, in batches that fit."""
        outputs, self._limit[0] = in_batches(
            lambda first, last: self._run(items[first:last], label, first, len(items)),
            len(items),
            self.batch_size,
            device=self.device,
            does_not_fit=(
                f"`module` runs out of memory on one item of shape {tuple(items.shape[1:])} on {self.device}; use a smaller "
                "type such as dtype='float16', smaller items, or another device."
            ),
        )
        return torch_module().cat(outputs) if len(outputs) > 1 else outputs[0]

    def _run(self, items: Tensor, label: float, first: int, total: int) -> Tensor:
        """One call of the module on items first ... of all `total`."""
        torch = torch_module()
        kind = torch.int64 if isinstance(label, int) else torch.float32
        times = torch.full((len(items),), label, dtype=kind, device=self.device)
        arguments = {name: rows(value, name, first, len(items), total) for name, value in self.arguments.items()}
        output = self.call(items, times, **arguments)
        if isinstance(output, (tuple, list)):
            return output[0]
        return output if isinstance(output, torch.Tensor) else output.sample

    def _placed(self, value: Any) -> Any:
        """Arrays, tensors and whole numbers as tensors on the device, floating ones in the module's type."""
        torch = torch_module()
        if isinstance(value, Mapping):
            return {name: self._placed(each) for name, each in value.items()}
        if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
            value = torch.tensor([int(value)])
        elif isinstance(value, np.ndarray) or (
            isinstance(value, (list, tuple)) and all(isinstance(each, (int, np.integer)) for each in value)
        ):
            value = torch.as_tensor(np.atleast_1d(np.asarray(value)))
        if not isinstance(value, torch.Tensor):
            return value
        return value.to(device=self.device, dtype=self.dtype if value.is_floating_point() else None)


def rows(value: Any, name: str, first: int, count: int, total: int) -> Any:
    """Rows first ... first + count of what belongs to `total` items: one row holds for all.

    >>> import torch
    >>> rows(torch.tensor([[1, 2]]), "prompt_embeds", 0, 2, 5).tolist()
    [[1, 2], [1, 2]]
    """
    if isinstance(value, Mapping):
        return {key: rows(each, key, first, count, total) for key, each in value.items()}
    if not hasattr(value, "expand") or value.ndim == 0:
        return value
    if len(value) == 1:
        return value.expand(count, *value.shape[1:])
    if len(value) != total:
        raise ValueError(
            f"`{name}` has {len(value)} rows for a batch of {total} items; give one row, which holds for all, or batches "
            f"of {len(value)}."
        )
    return value[first : first + count]


def rows_of(value: Any, name: str, items: range) -> Any:
    """The rows of some items of all: one row holds for all.

    >>> import torch
    >>> rows_of(torch.tensor([5, 6, 7]), "class_labels", range(1, 3)).tolist()
    [6, 7]
    """
    if isinstance(value, Mapping):
        return {key: rows_of(each, key, items) for key, each in value.items()}
    if not hasattr(value, "expand") or value.ndim == 0 or len(value) == 1:
        return value
    if len(value) < items.stop:
        raise ValueError(
            f"`{name}` has {len(value)} rows, but item {items.stop - 1} was asked for (from 0); give one row, which holds for "
            "all, or one for each item."
        )
    return value[items.start : items.stop]
