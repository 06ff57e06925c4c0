"""The analytic warm start as a thing that a plan carries: standard normal noise in, the state at the start level out."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from eigenstep import _checks
from eigenstep.gaussian import warm_start
from eigenstep.spectrum import Spectrum


@dataclass(frozen=True)
class WarmStart:
    """From standard normal noise z to the state x~ at `sigma_start`, by the Gaussian's own solution: theory (8).

    With a finite `sigma_max` the state there is sigma_max z, what every sampler draws, and the run ends where the sampler's own
    would. From infinity the state is drawn from N(mu, Sigma + sigma_start^2 I) itself: that repairs a path which does not reach
    pure noise.

    Parameters
    ----------
    spectrum : Spectrum
        With mean and basis.
    sigma_start : float
        Where the network begins, 0 < sigma_start <= sigma_max, data units.
    sigma_max : float
        Level of the noise, or infinity.

    Raises
    ------
    ValueError
        For a spectrum without mean or basis, levels out of order, or states of another shape.

    Examples
    --------
    >>> source = Spectrum.from_samples([[3.0, 0.0], [-1.0, 0.0], [1.0, 1.0], [1.0, -1.0]], basis=2)
    >>> start = WarmStart(source, 1.0)
    >>> start(np.array([[1.0, 0.0]])).round(6).tolist()                       # mean 1, sqrt(8/3 + 1) along the first axis
    [[2.914854, 0.0]]
    """

    spectrum: Spectrum
    sigma_start: float
    sigma_max: float = math.inf
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check what is kept, before any noise is drawn."""
        if not self.spectrum.has_eigenvectors:
            raise ValueError("`spectrum` must keep its mean and leading eigenvectors; measure it with `basis=k`, k > 0.")
        low = _checks.real_number(self.sigma_start, "sigma_start", minimum=0.0)
        if not 0 < low <= self.sigma_max:
            raise ValueError(
                f"`sigma_start` must lie above 0 and not above `sigma_max`, got {low:.6g} and {self.sigma_max:.6g}."
            )

    @property
    def item_shape(self) -> tuple[int, ...]:
        """Shape of one item."""
        assert self.spectrum.mean is not None
        return self.spectrum.item_shape or self.spectrum.mean.shape

    def __call__(self, noise: Any) -> Any:
        """States at `sigma_start`, like `noise` in shape (m, *item_shape), kind (numpy or torch), dtype and device."""
        finite = math.isfinite(self.sigma_max)
        if isinstance(noise, np.ndarray):
            if self.sigma_start == self.sigma_max:
                return self.sigma_max * noise
            first = self.sigma_max * noise if finite else noise
            states = warm_start(self.spectrum, first, self.sigma_start, sigma_max=self.sigma_max)
            return states.astype(noise.dtype, copy=False)
        if not isinstance(self.spectrum.basis, np.ndarray):
            return noise.new_tensor(self(noise.detach().cpu().double().numpy()))
        if self.sigma_start == self.sigma_max:
            return self.sigma_max * noise
        # mu + r (x - mu) + U diag(g - r) U^T (x - mu) at x = sigma_max z; from infinity mu + s z + U diag(g - s) U^T z.
        mean, vectors, gains = self._tensors(noise)
        rows = noise.reshape(len(noise), -1)
        keep = self.sigma_start / self.sigma_max if finite else self.sigma_start
        centred = self.sigma_max * rows - mean if finite else rows
        return (mean + keep * centred + ((centred @ vectors.T) * gains) @ vectors).reshape(noise.shape)

    def _tensors(self, like: Any) -> tuple[Any, Any, Any]:
        """Mean, eigenvectors and their gains minus the rest's, as tensors like `like`; made once per device and dtype."""
        key = (str(like.device), str(like.dtype))
        if key not in self._kept:
            spectrum, low, high = self.spectrum, self.sigma_start, self.sigma_max
            assert spectrum.mean is not None
            assert isinstance(spectrum.basis, np.ndarray)
            lam = spectrum.eigenvalues[: len(spectrum.basis)]
            if math.isfinite(high):
                gains = np.sqrt((lam + low**2) / (lam + high**2)) - low / high
            else:
                gains = np.sqrt(lam + low**2) - low
            self._kept[key] = tuple(like.new_tensor(a) for a in (spectrum.mean.reshape(-1), spectrum.basis, gains))
        mean, vectors, gains = self._kept[key]
        return mean, vectors, gains
