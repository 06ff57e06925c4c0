"""The Cramer-Rao gauge: what a real network adds to the Gaussian theory, measured by one pass over some data.

For any source with covariance Sigma the best denoiser obeys mmse(sigma) <= b(sigma) = sum lambda sigma^2/(lambda + sigma^2),
with equality for the Gaussian. The measured error m(sigma) of a network splits into mmse plus its own excess, b into mmse plus
what the Wiener filter misses, so m - b is the difference of the two excesses without knowing mmse: theory (9).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eigenstep import _checks
from eigenstep.call_error import CallError
from eigenstep.gaussian import cramer_rao_bound
from eigenstep.spectrum import Spectrum

Float = NDArray[np.float64]

_STREAM = 0x6761756765
_DISAGREEMENT = 3.0


@dataclass(frozen=True)
class ErrorCurve:
    """A network's denoising error beside the Cramer-Rao bound, at descending noise levels.

    Attributes
    ----------
    sigmas : (levels,)
        Descending noise levels, data units.
    error : (levels,)
        m(sigma) = E ||D(x_0 + sigma eps) - x_0||^2, squared data units, summed over the item.
    standard_error : (levels,)
        Standard error of `error` over items.
    bound : (levels,)
        b(sigma) of the data's covariance.
    n_items : int
    dim : float
        Numbers per item.
    """

    sigmas: Float
    error: Float
    standard_error: Float
    bound: Float
    n_items: int
    dim: float

    @property
    def ratio(self) -> Float:
        """m/b: above 1 the network is worse than the Wiener filter, which is free; below 1 it sees more than covariance."""
        return self.error / self.bound

    @property
    def ratio_standard_error(self) -> Float:
        """Standard error of `ratio` over items; the bound counts as exact."""
        return self.standard_error / self.bound

    @property
    def call_error(self) -> CallError:
        """What one call adds to a direction, max(m - b, 0)/d: for `denoiser_error=` of everything that plans. Theory section 7.

        >>> curve = ErrorCurve(np.array([4.0, 1.0]), np.array([3.0, 0.2]), np.zeros(2), np.array([1.0, 0.5]), 10, 2.0)
        >>> curve.call_error.variance([4.0, 2.0, 1.0]).round(6).tolist()
        [1.0, 0.25, 0.0]
        """
        return CallError(self.sigmas, np.maximum(self.error - self.bound, 0.0) / self.dim)

    def check_agreement(self) -> None:
        """Refuse a network that denoises these data far worse than the Wiener filter at every level.

        Even a poor network comes near the filter at some level when it is fed the data that it was trained on; in another value
        range, or with other data, it does nowhere.

        Raises
        ------
        ValueError
            If m/b is above 3 everywhere.

        >>> curve = ErrorCurve(np.array([4.0, 1.0]), np.array([90.0, 8.0]), np.zeros(2), np.array([3.0, 2.0]), 10, 2.0)
        >>> curve.check_agreement()
        Traceback (most recent call last):
        ...
        ValueError: `data` do not seem to be what `denoiser` was trained on: its error is at least 4 times that of the Wiener \
filter at every level from 1 to 4; check the value range (-1 to 1, 0 to 1, a latent scale), the shape and the prediction.
        """
        least = float(self.ratio.min())
        if least > _DISAGREEMENT:
            raise ValueError(
                f"`data` do not seem to be what `denoiser` was trained on: its error is at least {least:.3g} times that of the "
                f"Wiener filter at every level from {self.sigmas[-1]:.3g} to {self.sigmas[0]:.3g}; check the value range (-1 "
                "to 1, 0 to 1, a latent scale), the shape and the prediction."
            )

    def start_level(self, *, threshold: float = 0.95) -> float:
        """The lowest level above which the network has never been measured better than `threshold` of the bound.

        Above it the Gaussian's own solution is as good as the network (warm start, theory section 6). Infinite where even
        the highest level lies below the threshold: nothing can be saved.

        >>> curve = ErrorCurve(np.array([9.0, 3.0, 1.0]), np.array([2.0, 1.0, 0.3]), np.zeros(3), np.ones(3), 10, 2.0)
        >>> curve.start_level()
        3.0
        """
        below = np.flatnonzero(self.ratio < threshold)
        if below.size and below[0] == 0:
            return math.inf
        return float(self.sigmas[below[0] - 1] if below.size else self.sigmas[-1])


def error_curve(
    denoiser: Callable[[Any, float], Any],
    data: ArrayLike,
    *,
    spectrum: Spectrum,
    sigma_min: float,
    sigma_max: float,
    levels: int = 25,
    batch_size: int = 100,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> ErrorCurve:
    """Measure m(sigma) of a denoiser on data items at levels spaced uniformly in ln sigma: one forward pass per item and level.

    The same noise is scaled to every level, so that the curve is smooth in sigma.

    Parameters
    ----------
    denoiser : callable
        D(x~, sigma) on numpy arrays (batch, ...): a `ModelDenoiser` around a network that takes and gives numpy arrays, or
        any function.
    data : (n, ...) array
        Items the network was not trained on, in its own value range.
    spectrum : Spectrum
        Of the same data in the same range.
    sigma_min, sigma_max : float
        Range of levels, 0 < sigma_min < sigma_max < inf, data units.
    levels, batch_size, seed : int
    progress : callable, optional
        Called with the number of items finished at a level, `levels` times n in total.

    Returns
    -------
    ErrorCurve

    Raises
    ------
    ValueError
        For fewer than two items, another number of dimensions than the spectrum's, or NaN from the network (its level is
        named).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> x = rng.standard_normal((4000, 2)) * [2.0, 1.0]
    >>> spectrum = Spectrum.from_eigenvalues([4.0, 1.0])
    >>> wiener = lambda x, sigma: x * [4 / (4 + sigma**2), 1 / (1 + sigma**2)]
    >>> curve = error_curve(wiener, x, spectrum=spectrum, sigma_min=0.1, sigma_max=10.0, levels=5)
    >>> bool(np.all(abs(curve.ratio - 1) < 4 * curve.ratio_standard_error))
    True
    """
    items = _checks.real_array(data, "data")
    low, high = _checks.sigma_range(sigma_min, sigma_max)
    count = _checks.integer(levels, "levels", minimum=2)
    size = _checks.integer(batch_size, "batch_size")
    if items.ndim < 2 or len(items) < 2:
        raise ValueError(f"`data` must hold at least 2 items of one shape, got shape {items.shape}.")
    dim = items[0].size
    if dim != round(float(spectrum.dim)):
        raise ValueError(f"`data` has {dim} numbers per item and `spectrum` {spectrum.dim} dimensions; they must agree.")
    # A stream of its own: a caller who drew the data from default_rng(seed) must not get that noise again.
    noise = np.random.default_rng([_STREAM, seed]).standard_normal(items.shape)
    sigmas = np.geomspace(high, low, count)
    error, standard_error = np.empty(count), np.empty(count)
    for k, sigma in enumerate(sigmas):
        squares = np.empty(len(items))
        for first in range(0, len(items), size):
            batch = slice(first, first + size)
            clean = items[batch]
            difference = np.asarray(denoiser(clean + sigma * noise[batch], float(sigma)), dtype=np.float64) - clean
            squares[batch] = (difference.reshape(len(clean), -1) ** 2).sum(axis=1)
            if progress is not None:
                progress(len(clean))
        if not np.all(np.isfinite(squares)):
            raise ValueError(
                f"`denoiser` gave NaN or infinity at sigma = {sigma:.6g} for {int((~np.isfinite(squares)).sum())} of "
                f"{len(items)} items; check its range of levels and its precision."
            )
        error[k] = squares.mean()
        standard_error[k] = squares.std(ddof=1) / math.sqrt(len(items))
    return ErrorCurve(sigmas, error, standard_error, cramer_rao_bound(spectrum, sigmas), len(items), float(dim))
