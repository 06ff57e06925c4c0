"""One protocol for pretrained networks: a denoiser D(x~, sigma) with the path it was trained on.

Framework-free: arrays need arithmetic only, so a network of torch, numpy or anything else is wrapped alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from eigenstep import _checks
from eigenstep.paths import NoisePath

Array = Any

PREDICTIONS: tuple[str, ...] = ("epsilon", "v", "x0", "velocity")
"""What a network may predict: the noise, the v of progressive distillation, the clean data, the flow's velocity."""


@dataclass(frozen=True)
class ModelDenoiser:
    """D(x~, sigma) = E[x_0 | x~] of a network, in the coordinate x~ = x_0 + sigma * noise.

    With alpha and s = alpha sigma of the path at sigma, and x_t = alpha x~ what the network is fed:

    - `epsilon`: D = (x_t - s net)/alpha
    - `v` (net = alpha eps - s x_0, Salimans & Ho, arXiv:2202.00512): D = (alpha x_t - s net)/(alpha^2 + s^2)
    - `x0`: D = net
    - `velocity` (net = eps - x_0 on a rectified flow, alpha + s = 1): D = x_t - s net

    Parameters
    ----------
    network : callable
        net(x_t, t), t a Python float in the path's own time (fractional on a discrete path).
    path : NoisePath
        The path it was trained on; `paths.EDM()` for a network that takes sigma itself (alpha = 1).
    prediction : {"epsilon", "v", "x0", "velocity"}

    Raises
    ------
    ValueError
        For an unknown prediction, at construction; for a sigma outside the path, at a call.

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

    def __post_init__(self) -> None:
        """Check the name of the prediction."""
        _checks.choice(self.prediction, PREDICTIONS, "prediction")

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
        output = self.network(x_t, t)
        if self.prediction == "epsilon":
            return (x_t - s * output) / alpha
        if self.prediction == "v":
            return (alpha * x_t - s * output) / (alpha**2 + s**2)
        if self.prediction == "velocity":
            return x_t - s * output
        return output
