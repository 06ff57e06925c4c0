"""Sampling with a network in torch: any solver of the catalogue, in batches, on any device, every item from its own seed.

No step is written here: each batch is one run of `solvers.sample`, whose steps take torch tensors and Python floats as they
come, so that a float32 network is sampled in float32 with coefficients that were computed in float64.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eigenstep import _checks
from eigenstep.models.network import torch_device, torch_dtype, torch_module
from eigenstep.solvers import Solver, sample, solver_named

if TYPE_CHECKING:
    import torch

Float = NDArray[np.float64]

_STREAM = 0x73616D70
# A level outside an end of the network's range by less than this (relatively) is that end, as everywhere in `paths`: printed
# digits, float32.
_END_SLACK = 1e-6


class SamplingError(ValueError):
    """Sampling stopped: the message says where and why, and what was finished is not lost.

    Attributes
    ----------
    finished : torch.Tensor, (m, *item_shape)
        The first m items, from the batches that ended before; m may be 0.
    step : int or None
        Index of the step during which the network was called, from 0.
    sigma : float or None
        Noise level of that call.

    Examples
    --------
    >>> import torch
    >>> blind = lambda x, sigma: x / (1 + sigma**2) if sigma > 1 else x * float("nan")
    >>> try:
    ...     generate(blind, [10.0, 2.0, 0.5, 0.0], 3, item_shape=(2,))
    ... except SamplingError as stopped:
    ...     print(stopped.step, stopped.sigma, tuple(stopped.finished.shape))
    2 0.5 (0, 2)
    """

    def __init__(self, message: str, *, finished: torch.Tensor, step: int | None, sigma: float | None) -> None:
        """Keep what was finished beside the message."""
        super().__init__(message)
        self.finished = finished
        self.step = step
        self.sigma = sigma


def item_noise(items: Iterable[int], item_shape: Sequence[int], *, seed: int = 0, step: int | None = None) -> Float:
    """Standard normal noise of some items of one seed: the start of each, or what a stochastic solver adds in a step.

    Item i of seed s has the same noise in every batch, on every device and in every precision: it is drawn by numpy, in
    float64, from a generator of its own (PCG64 seeded with s, i and the step).

    Parameters
    ----------
    items : iterable of int
        Indices of the items, each >= 0.
    item_shape : sequence of int
        Shape of one item.
    seed : int
        At least 0.
    step : int, optional
        Index of a step, from 0; None (default) for the noise that the run starts from.

    Returns
    -------
    (len(items), *item_shape) float64 array

    Raises
    ------
    ValueError
        For a negative seed, item or step, or a side below 1.

    Examples
    --------
    >>> item_noise([1], (2,)).round(6).tolist()
    [[1.481703, -0.183299]]
    >>> bool((item_noise(range(5), (2,))[1] == item_noise([1], (2,))[0]).all())
    True
    """
    shape = _shape(item_shape)
    seed = _checks.integer(seed, "seed", minimum=0)
    place = 0 if step is None else _checks.integer(step, "step", minimum=0) + 1
    indices = [_checks.integer(item, "items", minimum=0) for item in items]
    noise = np.empty((len(indices), *shape))
    for row, item in enumerate(indices):
        noise[row] = np.random.default_rng([_STREAM, seed, item, place]).standard_normal(shape)
    return noise


def generate(
    denoiser: Callable[..., Any],
    grid_or_plan: Any,
    n_items: int,
    *,
    item_shape: Sequence[int] | None = None,
    solver: str | Solver | None = None,
    seed: int = 0,
    batch_size: int = 64,
    device: Any = None,
    dtype: torch.dtype | None = None,
    noise: Any = None,
    progress: Callable[[int, int], None] | bool | None = None,
    callback: Callable[[int, float, torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """Sample items with a network on a grid or a plan.

    The state starts at x~ = sigma_0 z, or at `grid_or_plan.warm(z)` where a plan has a warm start, z = `item_noise` of each
    item, and goes down the grid by the solver's steps. Item i of a seed is the same whatever `n_items` and `batch_size` are,
    up to what the network itself makes of another batch. The device holds one batch at a time.

    Parameters
    ----------
    denoiser : callable
        D(x~, sigma) -> E[x_0 | x~], x~ a tensor (batch, *item_shape), sigma a Python float. Its attributes `sigma_min` and
        `sigma_max`, where it has them, bound the levels it may be called at. Where items have conditions of their own, its
        method `for_items(range)` gives the denoiser of a batch.
    grid_or_plan : (n+1,) array_like, or any object with `sigmas`
        Descending noise levels; a plan's `solver` and `warm` are used as well.
    n_items : int
    item_shape : sequence of int, optional
        Shape of one item, as (channels, height, width); by default the denoiser's own `item_shape`.
    solver : str or Solver, optional
        Name in `SOLVERS` or a `Solver`; by default the plan's, else "ddim".
    seed : int
        At least 0.
    batch_size : int
        Items per call of the network. It is halved, with a warning, whenever memory runs out.
    device : torch.device or str, optional
        Where the state lives; by default the denoiser's own `device`, else the CPU.
    dtype : torch.dtype, optional
        Precision that the denoiser is called in, float32 by default; float64 also keeps the state in float64, anything else
        keeps it in float32. A `ModelDenoiser` turns to its network's own precision by itself and loses less than a call in
        half precision, where D is a difference of large numbers.
    noise : (n_items, *item_shape) array or tensor, optional
        Standard normal z to start from, instead of the seed's. What stochastic solvers add comes from the seed all the same.
    progress : callable or True, optional
        `progress(done, total)` after every call of the network, in network calls times items; True draws a bar with tqdm.
    callback : callable, optional
        `callback(step, sigma, x0)` after every step of every batch: x0 is the network's latest output, its running estimate
        of the batch, and sigma the level it was made at. A batch that is halved starts again at step 0.

    Returns
    -------
    torch.Tensor, (n_items, *item_shape)
        On the CPU; data units, where the grid ends at 0 (else x~ at its last level).

    Raises
    ------
    ValueError
        For a grid above the network's `sigma_max`, a solver that would call it below its `sigma_min`, a device that is not
        there, noise of another shape.
    SamplingError
        (a ValueError) Where the network fails, gives NaN or infinity or another shape, or memory runs out for one item: step
        and sigma are named, `finished` holds the items of the batches before.
    ImportError
        Without torch; without tqdm for `progress=True`.

    Warns
    -----
    RuntimeWarning
        When memory runs out and the batch is halved.

    Examples
    --------
    >>> shrink = lambda x, sigma: x / (1 + sigma**2)          # data N(0, 1)
    >>> x = generate(shrink, [80.0, 2.0, 0.5, 0.0], 3, item_shape=(2,), solver="dpmpp_2m")
    >>> tuple(x.shape)
    (3, 2)
    >>> z = item_noise(range(3), (2,))
    >>> float((x.numpy() / z).round(5).min()), float((x.numpy() / z).round(5).max())   # 0.687862: every direction's gain
    (0.68786, 0.68786)
    """
    torch = torch_module()
    n_items = _checks.integer(n_items, "n_items")
    size = _checks.integer(batch_size, "batch_size")
    seed = _checks.integer(seed, "seed", minimum=0)
    shape = _shape(getattr(denoiser, "item_shape", None) if item_shape is None else item_shape)
    sigmas = _checks.descending_sigmas(getattr(grid_or_plan, "sigmas", grid_or_plan), "grid_or_plan")
    method = solver_named(getattr(grid_or_plan, "solver", "ddim") if solver is None else solver)
    warm = getattr(grid_or_plan, "warm", None)
    levels = _levels_called(sigmas, method)
    bounds = _bounds(denoiser, sigmas, levels, method)
    own = getattr(denoiser, "device", None) if device is None else device
    where = torch_device("cpu" if own is None else own)
    called = torch.float32 if dtype is None else torch_dtype(dtype)
    kept = torch.float64 if called == torch.float64 else torch.float32
    given = None if noise is None else _given_noise(torch, noise, (n_items, *shape))

    def tensor(array: Any) -> Any:
        return torch.as_tensor(array).to(kept).to(where)  # in this order: some devices have no float64

    def run(items: range, network: _Network) -> Any:
        z = tensor(item_noise(items, shape, seed=seed) if given is None else given[items.start : items.stop])
        return sample(
            network,
            sigmas[0].item() * z if warm is None else warm(z),
            sigmas,
            solver=method,
            noise=lambda k: tensor(item_noise(items, shape, seed=seed, step=k)),
            callback=network.step_done,
        ).cpu()

    finished = [torch.empty((0, *shape), dtype=kept)]
    first = 0
    with torch.no_grad(), _reporting(progress, n_items * len(levels)) as report:
        while first < n_items:
            items = range(first, min(first + size, n_items))
            told = _per_item(report, first * len(levels), len(items))
            batched = denoiser.for_items(items) if hasattr(denoiser, "for_items") else denoiser
            network = _Network(torch, batched, bounds, called, finished, len(sigmas) - 1, told, callback)
            exhausted = False
            try:
                batch = run(items, network)
            except Exception as error:
                exhausted = _out_of_memory(torch, error)
                if not exhausted:
                    raise
                if len(items) == 1:
                    raise network.stopped("memory ran out for a single item") from error
            # Outside the handler: only here are the frames gone that held the batch's tensors.
            if exhausted:
                del network
                size = (len(items) + 1) // 2
                if where.type == "cuda":
                    torch.cuda.empty_cache()
                message = f"Out of memory with a batch of {len(items)}; going on with {size}."
                warnings.warn(message, RuntimeWarning, stacklevel=2)
                continue
            finished.append(batch)
            first = items.stop
    return torch.cat(finished)


@dataclass
class _Network:
    """The denoiser as a solver sees it: called in its own precision and range, its outputs checked, counted and kept."""

    torch: Any
    denoiser: Callable[..., Any]
    bounds: tuple[float, float]
    dtype: torch.dtype
    finished: list[torch.Tensor]
    n: int
    report: Callable[[int], None] | None
    callback: Callable[[int, float, torch.Tensor], None] | None
    calls: int = 0
    step: int = 0
    sigma: float | None = None
    denoised: torch.Tensor | None = None

    def __call__(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        """D(x~, sigma) in the precision of `x`."""
        low, high = self.bounds
        self.sigma = min(max(sigma, low), high)
        try:
            denoised = self.denoiser(x.to(self.dtype), self.sigma)
        except Exception as error:
            if _out_of_memory(self.torch, error):
                raise
            raise self.stopped(f"the network failed ({type(error).__name__}: {error})") from error
        if tuple(denoised.shape) != tuple(x.shape):
            raise self.stopped(f"the network gave shape {tuple(denoised.shape)} for a state of shape {tuple(x.shape)}")
        denoised = denoised.to(x.dtype)
        # One fast pass: any NaN or infinity makes the sum non-finite. So may mere size, hence the second look.
        if not math.isfinite(denoised.sum()):
            bad = int((~denoised.isfinite()).sum())
            if bad:
                raise self.stopped(f"the network gave NaN or infinity in {bad} of {denoised.numel()} numbers")
        self.denoised = denoised
        self.calls += 1
        if self.report is not None:
            self.report(self.calls)
        return denoised

    def step_done(self, k: int, x: torch.Tensor) -> None:
        """Go on to step k + 1; tell the callback the newest estimate."""
        self.step = k + 1
        if self.callback is not None:
            assert self.sigma is not None
            assert self.denoised is not None
            self.callback(k, self.sigma, self.denoised)

    def stopped(self, what: str) -> SamplingError:
        """The error that says where sampling stopped and holds what was finished."""
        done = self.torch.cat(self.finished)
        level = "" if self.sigma is None else f", at sigma = {self.sigma:.6g}"
        return SamplingError(
            f"Sampling stopped in step {self.step} of {self.n} (from 0){level}: {what}. {len(done)} items were finished "
            "before; they are in this error's `finished`.",
            finished=done,
            step=self.step,
            sigma=self.sigma,
        )


def _levels_called(sigmas: Float, method: Solver) -> list[float]:
    """The levels at which the solver calls the network, in order: they do not depend on the state, so a number will do."""
    levels: list[float] = []

    def record(x: float, sigma: float) -> float:
        levels.append(sigma)
        return 0.0 * x

    sample(record, 1.0, sigmas, solver=method, noise=lambda k: 0.0)
    return levels


def _bounds(denoiser: Any, sigmas: Float, levels: list[float], method: Solver) -> tuple[float, float]:
    """The network's own range of levels, which must hold every level it will be called at."""
    low, high = float(getattr(denoiser, "sigma_min", 0.0)), float(getattr(denoiser, "sigma_max", math.inf))
    if sigmas[0] > high * (1 + _END_SLACK):
        raise ValueError(
            f"`grid_or_plan` starts at sigma = {sigmas[0]:.6g}, above the denoiser's `sigma_max` = {high:.6g}, where the "
            f"network was never trained; plan with sigma_max={high:.6g}."
        )
    lowest = min(levels)
    if lowest < low * (1 - _END_SLACK):
        raise ValueError(
            f"`grid_or_plan` makes {method.name} call the denoiser at sigma = {lowest:.6g}, below its `sigma_min` = {low:.6g}; "
            f"plan with sigma_min={low:.6g} (the last level may be 0: the network is not called there)."
        )
    return low, high


def _given_noise(torch: Any, noise: Any, shape: tuple[int, ...]) -> Any:
    tensor = torch.as_tensor(noise)
    if tuple(tensor.shape) != shape:
        raise ValueError(f"`noise` must have shape (n_items, *item_shape) = {shape}, got {tuple(tensor.shape)}.")
    if not bool(torch.isfinite(tensor).all()):
        raise ValueError("`noise` must be finite, got NaN or infinite values; give standard normal numbers.")
    return tensor


def _shape(item_shape: Sequence[int] | None) -> tuple[int, ...]:
    if item_shape is None:
        raise ValueError("`item_shape` must be given for a denoiser that does not say it; as (channels, height, width).")
    shape = tuple(item_shape)
    if not shape:
        raise ValueError("`item_shape` must have at least one side, got (); one number per item is (1,).")
    return tuple(_checks.integer(side, "item_shape") for side in shape)


def _out_of_memory(torch: Any, error: Exception) -> bool:
    """Whether memory ran out: CUDA has a class for it; the CPU's allocator and others only say so."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    message = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in message or "not enough memory" in message)


def _per_item(report: Callable[[int], None] | None, before: int, count: int) -> Callable[[int], None] | None:
    """Count calls of a batch in calls times items, on top of the batches before."""
    return None if report is None else lambda calls: report(before + calls * count)


@contextmanager
def _reporting(progress: Callable[[int, int], None] | bool | None, total: int) -> Iterator[Callable[[int], None] | None]:
    """What is told the work done so far: nothing, the caller's function, or a bar."""
    if progress is None or progress is False:
        yield None
    elif progress is True:
        try:
            from tqdm import tqdm  # type: ignore[import-untyped]
        except ImportError as error:
            raise ImportError(
                "A progress bar needs tqdm; install it with `pip install tqdm`, or give `progress` a function of (done, total)."
            ) from error
        with tqdm(total=total, unit="call") as bar:
            yield lambda done: bar.update(done - bar.n)
    else:
        chosen = progress
        yield lambda done: chosen(done, total)
