"""One protocol for pretrained networks: a denoiser D(x~, sigma) with the path it was trained on.

Framework-free: arrays need arithmetic only, so a network of torch, numpy or anything else is wrapped alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np

from eigenstep import _checks
from eigenstep.paths import NoisePath

Array = Any

PREDICTIONS: tuple[str, ...] = ("epsilon", "v", "x0", "velocity")
"""What a network may predict: the noise, the v of progressive distillation, the clean data, the flow's velocity."""

TIMESTEPS: tuple[str, ...] = ("fractional", "integer")
"""Which times of a discrete path a network is called at."""


@runtime_checkable
class Denoiser(Protocol):
    """What everything in this package asks of a model: D(x~, sigma), and where it is defined.

    >>> from eigenstep.paths import EDM
    >>> isinstance(ModelDenoiser(lambda x, sigma: x, EDM(), "x0"), Denoiser)
    True
    """

    @property
    def path(self) -> NoisePath:
        """The path the model was trained on."""
        ...

    @property
    def sigma_min(self) -> float:
        """The lowest level it was trained at."""
        ...

    @property
    def sigma_max(self) -> float:
        """The highest level it was trained at."""
        ...

    @property
    def item_shape(self) -> tuple[int, ...] | None:
        """Shape of one item; None where the model takes several or does not tell."""
        ...

    def __call__(self, x: Array, sigma: float, /) -> Array:
        """D(x~, sigma), shaped like `x`."""
        ...


_Around = TypeVar("_Around", bound="AroundNetwork")


class AroundNetwork:
    """What every dataclass around a `network` passes on from it: where it runs, in what, and the rows of some items.

    >>> import torch
    >>> from eigenstep.models.network import TorchNetwork
    >>> Preconditioned(TorchNetwork(lambda x, t: x, dtype="float16"), sigma_data=0.5).dtype
    torch.float16
    """

    network: Any

    @property
    def device(self) -> Any:
        """The torch device the network runs on; None where it is no torch network."""
        return getattr(self.network, "device", None)

    @property
    def dtype(self) -> Any:
        """The torch type the network computes in; None where it is no torch network."""
        return getattr(self.network, "dtype", None)

    def for_items(self: _Around, items: range) -> _Around:
        """The same around the network of some items alone: their rows of the conditioning, for sampling in batches."""
        return replace(self, network=_of_items(self.network, items))  # type: ignore[type-var]


@dataclass(frozen=True)
class ModelDenoiser(AroundNetwork):
    """D(x~, sigma) = E[x_0 | x~] of a network, in the coordinate x~ = x_0 + sigma * noise.

    With alpha and s = alpha sigma of the path at sigma, and x_t = alpha x~ what the network is fed:

    - `epsilon`: D = (x_t - s net)/alpha
    - `v` (net = alpha eps - s x_0, Salimans & Ho, arXiv:2202.00512): D = (alpha x_t - s net)/(alpha^2 + s^2)
    - `x0`: D = net
    - `velocity` (net = eps - x_0 on a rectified flow, alpha + s = 1): D = x_t - s net

    Parameters
    ----------
    network : callable
        net(x_t, t), t a Python float in the path's own time (fractional on a discrete path). Torch modules are wrapped by
        `from_module`; any function D(x~, sigma) is an `x0` network on `paths.EDM(sigma_min, sigma_max)`.
    path : NoisePath
        The path it was trained on; `paths.EDM()` for a network that takes sigma itself (alpha = 1).
    prediction : {"epsilon", "v", "x0", "velocity"}
    item_shape : tuple of int, optional
        Shape of one item, for those who draw the first noise.
    timesteps : {"fractional", "integer"}
        "integer" is for networks of a discrete path that look their time up in a table: they are told the integer that is
        nearest in t (hence in ln sigma), an `int`, while alpha and s stay those of sigma itself. Right at the integers'
        own levels; between them as wrong as the network is at a level off by half a timestep.

    Raises
    ------
    ValueError
        For an unknown prediction, or integer timesteps on a path that has none, at construction; for a sigma outside the
        path, and for NaN or infinity from the network, at a call.

    Examples
    --------
    >>> from eigenstep.paths import EDM, VPDiscrete
    >>> wiener = ModelDenoiser(lambda x, sigma: x / (1 + sigma**2), EDM(), "x0")       # data N(0, 1)
    >>> wiener(3.0, 1.0)
    1.5
    >>> noise = ModelDenoiser(lambda x, t: 0.0 * x, VPDiscrete.ddpm(), "epsilon")      # sees no noise: D is x~ itself
    >>> round(noise(3.0, 1.0), 12)
    3.0
    """

    network: Callable[[Array, float], Array]
    path: NoisePath
    prediction: str
    item_shape: tuple[int, ...] | None = field(default=None, kw_only=True)
    timesteps: str = field(default="fractional", kw_only=True)

    def __post_init__(self) -> None:
        """Check the names."""
        _checks.choice(self.prediction, PREDICTIONS, "prediction")
        _checks.choice(self.timesteps, TIMESTEPS, "timesteps")
        if self.timesteps == "integer" and self.path.n_timesteps is None:
            raise ValueError(
                f"`timesteps` must be 'fractional' on {type(self.path).__name__}, whose time is continuous, got 'integer'; "
                "a network of a continuous path that takes whole numbers needs a `time_label`."
            )

    @classmethod
    def from_module(
        cls,
        module: Callable[..., Any],
        path: NoisePath,
        prediction: str,
        *,
        time_label: Callable[[float], float] | None = None,
        timesteps: str = "fractional",
        arguments: Mapping[str, Any] | None = None,
        device: Any = None,
        dtype: Any = None,
        batch_size: int | None = None,
        item_shape: tuple[int, ...] | None = None,
    ) -> ModelDenoiser:
        """The denoiser of a torch module called as module(x_t, t, **arguments), t a tensor of the batch.

        Takes and gives numpy arrays or tensors; see `TorchNetwork`, which runs it.

        Parameters
        ----------
        module : torch.nn.Module or callable on tensors
            Discrete or continuous time; an EDM-style net(x, sigma) with `paths.EDM()` and "x0".
        path, prediction, timesteps, item_shape : as for the class.
        time_label : callable, optional
            From the path's time to the number that the network takes, such as lambda t: 1000 * t. Default: t itself.
        arguments : mapping, optional
            Conditioning, such as {"class_labels": 3}: numbers and tensors of one row hold for every item.
        device, dtype, batch_size : as for `TorchNetwork`.

        Examples
        --------
        >>> import torch
        >>> from eigenstep.paths import EDM
        >>> denoiser = ModelDenoiser.from_module(lambda x, sigma: x / (1 + sigma[:, None] ** 2), EDM(), "x0")
        >>> denoiser(torch.tensor([[3.0]]), 1.0), denoiser(np.array([[3.0]]), 1.0)
        (tensor([[1.5000]]), array([[1.5]]))
        """
        from eigenstep.models.network import TorchNetwork

        network = TorchNetwork(
            module, time_label=time_label, arguments=arguments, device=device, dtype=dtype, batch_size=batch_size
        )
        return cls(network, path, prediction, item_shape=item_shape, timesteps=timesteps)

    @property
    def sigma_min(self) -> float:
        """The lowest level the network was trained at."""
        return self.path.sigma_min

    @property
    def sigma_max(self) -> float:
        """The highest level the network was trained at."""
        return self.path.sigma_max

    def __call__(self, x: Array, sigma: float) -> Array:
        """D(x~, sigma), shaped like `x`."""
        t = float(self.path.sigma_to_t(sigma))
        alpha = float(self.path.alpha(t))
        s = alpha * float(sigma)
        x_t = alpha * x
        output = self.network(x_t, round(t) if self.timesteps == "integer" else t)
        denoised = output
        if self.prediction == "epsilon":
            denoised = (x_t - s * output) / alpha
        elif self.prediction == "v":
            denoised = (alpha * x_t - s * output) / (alpha**2 + s**2)
        elif self.prediction == "velocity":
            denoised = x_t - s * output
        if not _finite(denoised):
            raise ValueError(
                f"`network` gave NaN or infinity at sigma = {float(sigma):.6g} (t = {t:.6g}); check that its input is in "
                "the units it was trained on, and its precision: float16 ends at 65504, so try float32."
            )
        return denoised


@dataclass(frozen=True)
class GuidedDenoiser:
    """Classifier-free guidance: D(x~, sigma) = D_u + g (D_c - D_u), two calls, or one where g is 0 or 1.

    A gauge or plan of this denoiser takes the guidance into account: it is the guided one that is sampled with.

    Source: Ho & Salimans, arXiv:2207.12598, eq. (6), with w = g - 1.

    Parameters
    ----------
    conditional, unconditional : Denoiser
        On one path.
    guidance_scale : float
        g: 0 is unconditional, 1 conditional without guidance.

    Raises
    ------
    ValueError
        For two paths, or a scale that is not finite.

    Examples
    --------
    >>> from eigenstep.paths import EDM
    >>> towards, away = (ModelDenoiser(lambda x, sigma, d=d: 0 * x + d, EDM(), "x0") for d in (3.0, 1.0))
    >>> GuidedDenoiser(towards, away, 4.0)(0.0, 1.0)
    9.0
    """

    conditional: Denoiser
    unconditional: Denoiser
    guidance_scale: float

    def __post_init__(self) -> None:
        """Check that both speak of the same levels."""
        _checks.real_number(self.guidance_scale, "guidance_scale")
        one, other = self.conditional, self.unconditional
        if (one.sigma_min, one.sigma_max) != (other.sigma_min, other.sigma_max):
            raise ValueError(
                "`conditional` and `unconditional` must be trained on one path, got sigma "
                f"{one.sigma_min:.6g} to {one.sigma_max:.6g} and {other.sigma_min:.6g} to {other.sigma_max:.6g}."
            )

    @property
    def path(self) -> NoisePath:
        """The path of both."""
        return self.conditional.path

    @property
    def sigma_min(self) -> float:
        """The lowest level they were trained at."""
        return self.conditional.sigma_min

    @property
    def sigma_max(self) -> float:
        """The highest level they were trained at."""
        return self.conditional.sigma_max

    @property
    def item_shape(self) -> tuple[int, ...] | None:
        """Shape of one item, where it is known."""
        return self.conditional.item_shape

    @property
    def device(self) -> Any:
        """The torch device; None where it is no torch network."""
        return getattr(self.conditional, "device", None)

    @property
    def dtype(self) -> Any:
        """The torch type; None where it is no torch network."""
        return getattr(self.conditional, "dtype", None)

    def for_items(self, items: range) -> GuidedDenoiser:
        """The denoiser of some items alone: their rows of what either side is conditioned on."""
        return replace(
            self, conditional=_of_items(self.conditional, items), unconditional=_of_items(self.unconditional, items)
        )

    def __call__(self, x: Array, sigma: float) -> Array:
        """D_u + g (D_c - D_u), shaped like `x`."""
        if self.guidance_scale == 1.0:
            return self.conditional(x, sigma)
        away = self.unconditional(x, sigma)
        if self.guidance_scale == 0.0:
            return away
        return away + self.guidance_scale * (self.conditional(x, sigma) - away)


def edm_noise_label(sigma: float) -> float:
    """EDM's c_noise = ln(sigma)/4. Karras et al., arXiv:2206.00364, Table 1.

    >>> edm_noise_label(1.0)
    0.0
    """
    return 0.25 * math.log(sigma)


@dataclass(frozen=True)
class Preconditioned(AroundNetwork):
    """EDM's preconditioning around a raw network F: an `x0` network on `paths.EDM`.

    D = c_skip x~ + c_out F(c_in x~, c_noise), with c_in = 1/sqrt(sigma^2 + sigma_d^2), c_skip = (sigma_d c_in)^2 and
    c_out = +- sigma sigma_d c_in. Needed where a host keeps the preconditioning in its scheduler; networks that contain
    it, as NVlabs' do, are plain `x0` networks. At sigma_d = 1 with the minus sign it is the `v` of a VP path.

    Source: Karras et al., arXiv:2206.00364, eq. (7) and Table 1.

    Parameters
    ----------
    network : callable
        F(x, c_noise).
    sigma_data : float
        sigma_d > 0, in the units of the data.
    negative : bool
        Whether F predicts with the sign of v (diffusers' `v_prediction`), so that c_out < 0.
    noise_label : callable
        c_noise of sigma; EDM's by default.

    Examples
    --------
    >>> from eigenstep.paths import EDM
    >>> skip_only = ModelDenoiser(Preconditioned(lambda x, c: 0 * x, sigma_data=0.5), EDM(), "x0")
    >>> skip_only(2.0, 0.5)
    1.0
    """

    network: Callable[[Array, float], Array]
    sigma_data: float
    negative: bool = False
    noise_label: Callable[[float], float] = edm_noise_label

    def __post_init__(self) -> None:
        """Check the scale."""
        _checks.real_number(self.sigma_data, "sigma_data", minimum=0.0, exclusive=True)

    def __call__(self, x: Array, sigma: float) -> Array:
        """D(x~, sigma), sigma > 0."""
        c_in = 1.0 / math.hypot(sigma, self.sigma_data)
        c_skip = self.sigma_data**2 / (sigma**2 + self.sigma_data**2)
        c_out = (-sigma if self.negative else sigma) * self.sigma_data * c_in
        return c_skip * x + c_out * self.network(c_in * x, self.noise_label(sigma))


def _of_items(of: Any, items: range) -> Any:
    """What `of` is for some items alone; itself where it knows no items."""
    return of.for_items(items) if hasattr(of, "for_items") else of


def _finite(array: Array) -> bool:
    """Whether every number is: zero times NaN or infinity alone is not zero. Arithmetic only, for any kind of array."""
    with np.errstate(invalid="ignore"):
        nothing = 0.0 * array
        return bool((nothing.sum() if hasattr(nothing, "sum") else nothing) == 0.0)
