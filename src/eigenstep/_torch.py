"""The door to torch: imported on demand, with devices and types refused in whole sentences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def torch_module(purpose: str = "running networks") -> Any:
    """The module torch, or what needs it and the pip command that brings it.

    >>> torch_module().float32
    torch.float32
    """
    try:
        import torch
    except ImportError:
        raise ImportError(f'{purpose} needs torch; install it with: pip install "eigenstep[torch]"') from None
    return torch


def diffusers_module() -> Any:
    """The module diffusers, or the pip command that brings it.

    >>> diffusers_module().__name__
    'diffusers'
    """
    torch_module()
    try:
        import diffusers
    except ImportError:
        raise ImportError(
            'loading pipelines needs diffusers; install it with: pip install "eigenstep[diffusers]"'
        ) from None
    return diffusers


def torch_device(device: Any) -> Any:
    """A torch device that is there.

    Raises
    ------
    ValueError
        For a name that torch does not know; for CUDA where there is none.

    Examples
    --------
    >>> torch_device("cpu")
    device(type='cpu')
    """
    torch = torch_module()
    try:
        found = torch.device(device)
    except (RuntimeError, TypeError):
        raise ValueError(f"`device` must be a device of torch such as 'cpu' or 'cuda:0', got {device!r}.") from None
    count = torch.cuda.device_count() if found.type == "cuda" else 0
    if found.type == "cuda" and (not torch.cuda.is_available() or (found.index or 0) >= count):
        raise ValueError(
            f"`device` {str(device)!r} is not there: torch {torch.__version__} sees {count} CUDA devices; pass device='cpu', "
            "or install a driver and a build of torch for CUDA."
        )
    return found


def torch_dtype(dtype: Any) -> Any:
    """A floating type of torch, by itself or by name.

    >>> torch_dtype("float16")
    torch.float16
    """
    torch = torch_module()
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"`dtype` must be a floating type such as 'float32' or torch.float16, got {dtype!r}.")
    return found


def in_batches(
    run: Callable[[int, int], Any], total: int, size: int | None, *, device: Any, does_not_fit: str
) -> tuple[list[Any], int | None]:
    """run(first, last) of all items in batches that fit: where CUDA runs out of memory, they are halved and halved again.

    Parameters
    ----------
    run : callable
        Of items first ... last - 1.
    total : int
        Number of items.
    size : int or None
        Most items of a batch; None for all.
    device : torch device
        Whose cache is emptied before another attempt.
    does_not_fit : str
        What to say where a single item does not fit.

    Returns
    -------
    (outputs, size)
        Of the batches in order, and the size that fitted at last, for the next time.

    Raises
    ------
    MemoryError
        A single item does not fit.

    Examples
    --------
    >>> in_batches(lambda first, last: last - first, 5, 2, device=torch_device("cpu"), does_not_fit="one item is too large")
    ([2, 2, 1], 2)
    """
    torch = torch_module()
    outputs: list[Any] = []
    first = 0
    while first < total:
        last = min(total, first + (size or total))
        try:
            outputs.append(run(first, last))
        except torch.cuda.OutOfMemoryError as error:
            if last - first == 1:
                raise MemoryError(does_not_fit) from error
            size = (last - first + 1) // 2
        else:
            first = last
            continue
        # Outside of the handler, whose traceback would keep what the failed call had allocated.
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return outputs, size
