"""k-diffusion: a grid as its `sigmas` tensor, and denoisers as its models and back.

k-diffusion's samplers work in the coordinate of this library, x~ = x_0 + sigma * noise, and take the n + 1 levels of n steps,
the last of them 0, as they are: nothing is appended, shifted or rounded to timesteps. A model is called as
`model(x, sigma, **extra_args)` with one level per item, a tensor (batch,). Three lines hand a plan over:

    x = k_diffusion.start(plan, noise)
    model = k_diffusion.denoiser_to_model(denoiser)              # where the model is not k-diffusion's own already
    x = sampling.sample_dpmpp_2m(model, x, k_diffusion.sigmas(plan, device=x.device))

ComfyUI's `SIGMAS` and A1111's samplers follow the same convention. k-diffusion itself is not imported here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from eigenstep import _checks
from eigenstep._torch import torch_module

if TYPE_CHECKING:
    import torch

# What float32 makes of the level at an end of the network's range still is that end, as everywhere in `paths`.
_END_SLACK = 1e-6


def sigmas(grid_or_plan: Any, *, device: Any = None, dtype: torch.dtype | None = None) -> torch.Tensor:
    """The `sigmas` tensor of k-diffusion's samplers: n + 1 descending levels for n steps, the final 0 among them.

    A grid that ends above 0 is handed over as it ends; k-diffusion's samplers then stop at that level, with its noise.

    Parameters
    ----------
    grid_or_plan : (n+1,) array_like, or any object with `sigmas`
        Descending noise levels, data units.
    device : torch.device or str, optional
        The CPU by default; give that of the state, since the samplers multiply the two.
    dtype : torch.dtype, optional
        float32 by default, in which k-diffusion computes its coefficients: also with a half-precision network.

    Returns
    -------
    torch.Tensor, (n+1,)

    Raises
    ------
    ValueError
        `grid_or_plan` is not a descending grid, or `dtype` cannot hold it: two levels become one, or one infinite.
    ImportError
        Without torch.

    Examples
    --------
    >>> sigmas([80.0, 2.5, 0.002, 0.0])
    tensor([8.0000e+01, 2.5000e+00, 2.0000e-03, 0.0000e+00])
    """
    torch = torch_module("k-diffusion")
    levels = _checks.descending_sigmas(getattr(grid_or_plan, "sigmas", grid_or_plan), "grid_or_plan")
    kept = torch.float32 if dtype is None else dtype
    rounded = torch.from_numpy(levels).to(kept)
    back = rounded.to(torch.float64).numpy()
    lost = np.flatnonzero(~(back[:-1] > back[1:]) | ~np.isfinite(back[:-1]))
    if lost.size:
        k = int(lost[0])
        raise ValueError(
            f"`dtype` {kept} cannot hold `grid_or_plan`: its levels {levels[k]:.9g} and {levels[k + 1]:.9g} become "
            f"{back[k]:.9g} and {back[k + 1]:.9g}; use torch.float32 or torch.float64."
        )
    return rounded.to(device)


def start(grid_or_plan: Any, noise: torch.Tensor) -> torch.Tensor:
    """The state that k-diffusion's samplers start from: x~ = sigma_0 z, or the plan's warm start of z.

    Parameters
    ----------
    grid_or_plan : (n+1,) array_like, or any object with `sigmas`
        Where a plan has a callable `warm`, the state is `warm(noise)`.
    noise : torch.Tensor, (batch, *item_shape)
        Standard normal z.

    Raises
    ------
    ValueError
        `grid_or_plan` is not a descending grid.

    Examples
    --------
    >>> import torch
    >>> start([80.0, 2.5, 0.0], torch.tensor([[1.0, -0.5]]))
    tensor([[ 80., -40.]])
    """
    levels = _checks.descending_sigmas(getattr(grid_or_plan, "sigmas", grid_or_plan), "grid_or_plan")
    warm = getattr(grid_or_plan, "warm", None)
    return levels[0].item() * noise if warm is None else warm(noise)


@dataclass
class Model:
    """A denoiser of this library as k-diffusion calls a model; made by `denoiser_to_model`.

    Attributes
    ----------
    denoiser : callable
        D(x~, sigma), sigma a Python float.
    visited : list of float
        Every level the model was called at, in order: what a sampler really did with a grid.

    Examples
    --------
    >>> import torch
    >>> model = Model(lambda x, sigma: x / (1 + sigma**2))
    >>> model(torch.ones(2, 1), torch.tensor([2.0, 2.0])).ravel().tolist(), model.visited
    ([0.20000000298023224, 0.20000000298023224], [2.0])
    """

    denoiser: Callable[..., Any]
    visited: list[float] = field(default_factory=list)

    @property
    def sigma_min(self) -> float:
        """The lowest level the denoiser may be called at; 0 where it does not say."""
        return float(getattr(self.denoiser, "sigma_min", 0.0))

    @property
    def sigma_max(self) -> float:
        """The highest level the denoiser may be called at; infinite where it does not say."""
        return float(getattr(self.denoiser, "sigma_max", math.inf))

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, **extra_args: Any) -> torch.Tensor:
        """D(x~, sigma) of a batch.

        Parameters
        ----------
        x : torch.Tensor, (batch, ...)
        sigma : torch.Tensor, (batch,)
            One and the same level for every item, as k-diffusion's samplers give it.
        **extra_args
            Passed on to the denoiser.

        Raises
        ------
        ValueError
            For different levels in one call.
        """
        level, highest = (float(end) for end in sigma.aminmax())
        if level != highest:
            raise ValueError(f"`sigma` must be one level for a batch, got {level:.6g} to {highest:.6g}; call once per level.")
        self.visited.append(level)
        for end in (self.sigma_min, self.sigma_max):
            if math.isclose(level, end, rel_tol=_END_SLACK):
                level = end
        return self.denoiser(x, level, **extra_args)


def denoiser_to_model(denoiser: Callable[..., Any]) -> Model:
    """A denoiser of this library as a k-diffusion model, `model(x, sigma, **extra_args)`; inverse of `model_to_denoiser`.

    Parameters
    ----------
    denoiser : callable
        D(x~, sigma) on torch tensors, as `generate` takes it.

    Examples
    --------
    >>> import torch
    >>> model = denoiser_to_model(lambda x, sigma: x / (1 + sigma**2))                 # data N(0, 1)
    >>> model(torch.tensor([[3.0], [5.0]]), torch.tensor([2.0, 2.0])).tolist()
    [[0.6000000238418579], [1.0]]
    >>> model.visited
    [2.0]
    """
    return Model(denoiser)


@dataclass(frozen=True)
class HostDenoiser:
    """A k-diffusion model as a denoiser of this library; made by `model_to_denoiser`.

    Attributes
    ----------
    model : callable
        `model(x, sigma, **extra_args)`, sigma a tensor (batch,).
    sigma_min, sigma_max : float
        Range of levels it may be called at, data units.
    extra_args : mapping
        Keyword arguments of every call. Tensors hold one row per item, as in k-diffusion; other values hold for all.

    Examples
    --------
    >>> host = HostDenoiser(lambda x, sigma, scale: scale * x / (1 + sigma[:, None] ** 2), 0.01, 80.0, {"scale": 2.0})
    >>> host(np.ones((2, 1)), 1.0).ravel().tolist()
    [1.0, 1.0]
    """

    model: Callable[..., Any]
    sigma_min: float
    sigma_max: float
    extra_args: Mapping[str, Any]

    @property
    def device(self) -> Any:
        """Where the model's parameters are; None for a model without parameters."""
        parameters = getattr(self.model, "parameters", None)
        first = None if parameters is None else next(iter(parameters()), None)
        return None if first is None else first.device

    def __call__(self, x: Any, sigma: float) -> Any:
        """D(x~, sigma): a tensor for a tensor; for a numpy array an array, computed in float32 where the model is."""
        if isinstance(x, np.ndarray):
            torch = torch_module("k-diffusion")
            with torch.no_grad():
                return self(torch.from_numpy(x).to(torch.float32).to(self.device), sigma).cpu().numpy()
        return self.model(x, x.new_full((len(x),), sigma), **self.extra_args)

    def for_items(self, items: range) -> HostDenoiser:
        """The denoiser of some items alone: their rows of every tensor in `extra_args`, for sampling in batches.

        Raises
        ------
        ValueError
            A tensor has no row for one of the items.

        Examples
        --------
        >>> import torch
        >>> shift = model_to_denoiser(lambda x, sigma, to: x + to, extra_args={"to": torch.tensor([[1.0], [2.0], [3.0]])})
        >>> shift.for_items(range(1, 3))(torch.zeros(2, 1), 0.5).tolist()
        [[2.0], [3.0]]
        """
        rows = {}
        for name, value in self.extra_args.items():
            # Tensors and arrays alone: a list may be anything.
            if getattr(value, "ndim", 0) and len(value) < items.stop:
                raise ValueError(
                    f"`extra_args` {name!r} has {len(value)} rows, but item {items.stop - 1} was asked for; give one per item."
                )
            rows[name] = value[items.start : items.stop] if getattr(value, "ndim", 0) else value
        return replace(self, extra_args=rows)


def model_to_denoiser(
    model: Callable[..., Any],
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    extra_args: Mapping[str, Any] | None = None,
) -> HostDenoiser:
    """A k-diffusion model as a denoiser for `plan`, `error_curve` and `generate`; inverse of `denoiser_to_model`.

    Parameters
    ----------
    model : callable
        Anything k-diffusion samples with: `CompVisDenoiser`, `OpenAIDenoiser`, `VDenoiser`, the Karras `Denoiser`, a
        guidance wrapper around one of them.
    sigma_min, sigma_max : float, optional
        Range of levels the network was trained at; by default what the model says, or the nearest `inner_model` within it
        that says something (`CompVisDenoiser` does, `VDenoiser` and `Denoiser` do not), else 0 and infinity.
    extra_args : mapping, optional
        Keyword arguments of every call, such as conditions: tensors with one row per item.

    Raises
    ------
    ValueError
        `sigma_max` does not exceed `sigma_min`.

    Examples
    --------
    >>> import torch
    >>> shrink = lambda x, sigma, scale=1.0: scale * x / (1 + sigma[:, None] ** 2)
    >>> denoiser = model_to_denoiser(shrink, sigma_max=80.0, extra_args={"scale": 2.0})
    >>> denoiser(torch.tensor([[3.0], [5.0]]), 2.0).tolist(), denoiser.sigma_max
    ([[1.2000000476837158], [2.0]], 80.0)
    """
    said = _range_said(model)
    low, high = _checks.sigma_range(
        said[0] if sigma_min is None else sigma_min,
        said[1] if sigma_max is None else sigma_max,
        zero_min=True,
        infinite_max=True,
    )
    return HostDenoiser(model, low, high, dict(extra_args or {}))


def _range_said(model: Any) -> tuple[float, float]:
    """The range of levels that the model, or the nearest model within it, says it has."""
    while model is not None:
        if hasattr(model, "sigma_min") and hasattr(model, "sigma_max"):
            return float(model.sigma_min), float(model.sigma_max)
        model = getattr(model, "inner_model", None)
    return 0.0, math.inf
