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
from eigenstep.transfer import wiener_gain

Float = NDArray[np.float64]

_STREAM = 0x6761756765
_DISAGREEMENT = 3.0
_QUADRATURE = 1025
_CHANCE = 2.0
"""Standard errors below which a difference from the bound is put down to the items."""


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
        Standard error of `error` over items, of what is left where the Wiener filter's error was a control variate.
    bound : (levels,)
        b(sigma) of the data's covariance.
    n_items : int
    dim : float
        Numbers per item.

    Examples
    --------
    >>> curve = ErrorCurve(np.array([9.0, 3.0]), np.array([2.0, 0.3]), np.array([0.1, 0.06]), np.array([1.0, 0.6]), 10, 2.0)
    >>> curve.ratio.tolist(), curve.ratio_standard_error.round(3).tolist()        # poor at 9, better than Wiener's at 3
    ([2.0, 0.5], [0.1, 0.1])
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

        Two standard errors are taken off first: the chance of a few items is no error of the network.

        >>> curve = ErrorCurve(np.array([4.0, 1.0]), np.array([3.0, 0.2]), np.zeros(2), np.array([1.0, 0.5]), 10, 2.0)
        >>> curve.call_error.variance([4.0, 2.0, 1.0]).round(6).tolist()
        [1.0, 0.25, 0.0]
        """
        return CallError(self.sigmas, self._beyond_chance(self.error - self.bound))

    def _beyond_chance(self, difference: Float) -> Float:
        """What of a difference of errors is left above two standard errors, per number of an item."""
        return np.maximum(difference - _CHANCE * self.standard_error, 0.0) / self.dim

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

    def missed(self, level: float, *, leading: float) -> float:
        """Root mean square per number that a start at `level` by the Gaussian's own solution leaves out: >= 0, data units.

            int_level^sigma_max sqrt(max(b - m, 0)/d) sqrt(leading/(leading + s^2)) ds/s,   b - m less two standard errors

        For a network that gives the posterior mean, b - m = E||D - D_Gauss||^2; the ODE dx~/ds = (x~ - D)/s adds it up, and
        from s the leading direction shrinks by the second root on its way to 0. Errors of all levels count as of one sign,
        but the amplification where trajectories part is left out: measured losses were 1 to 10 times this.

        Parameters
        ----------
        level : float
            sigma > 0; nothing is missed above the curve's highest level.
        leading : float
            lambda_1 >= 0, squared data units.

        >>> levels, error, bound = np.array([8.0, 2.0, 0.5]), np.array([4.0, 3.0, 1.0]), np.array([4.0, 3.5, 2.0])
        >>> curve = ErrorCurve(levels, error, np.zeros(3), bound, 10, 2.0)
        >>> [round(curve.missed(level, leading=1.0), 4) for level in (8.0, 2.0, 0.5)]
        [0.0, 0.1077, 0.6996]
        """
        return self._added_up(self.bound - self.error, level, leading)

    def displaced(self, level: float, *, leading: float) -> float:
        """Root mean square per number by which a start at `level` moves a network's own endpoint: what it errs above, added up.

        As `missed`, of m - b in place of b - m: above that level the network's error carries its own run away from the
        Gaussian's. Measured displacements were 0.7 to 1.4 times this where a network is much worse than the filter.

        >>> levels, error, bound = np.array([8.0, 2.0, 0.5]), np.array([4.0, 4.5, 1.0]), np.array([4.0, 3.5, 2.0])
        >>> curve = ErrorCurve(levels, error, np.zeros(3), bound, 10, 2.0)
        >>> [round(curve.displaced(level, leading=1.0), 4) for level in (8.0, 2.0, 0.5)]
        [0.0, 0.1523, 0.4547]
        """
        return self._added_up(self.error - self.bound, level, leading)

    def _added_up(self, difference: Float, level: float, leading: float) -> float:
        _checks.real_number(level, "level", minimum=0.0, exclusive=True)
        _checks.real_number(leading, "leading", minimum=0.0)
        x = np.log(self.sigmas)
        fine = np.linspace(x[0], min(x[0], math.log(level)), _QUADRATURE)
        seen = np.interp(-fine, -x, np.sqrt(self._beyond_chance(difference)))
        rate = seen * np.sqrt(leading / (leading + np.exp(2 * fine)))
        return float(np.sum(0.5 * (rate[1:] + rate[:-1]) * -np.diff(fine)))


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

    The same noise is scaled to every level, so that the curve is smooth in sigma. Where the spectrum has mean and eigenvectors,
    the Wiener filter's own error on these very items and noises, whose expectation is known, is taken as a control variate:
    what the items have in common with it is no error of the network, and few of them are enough.

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
    filtered = None
    if isinstance(spectrum.basis, np.ndarray) and spectrum.mean is not None:
        filtered = _Filter(spectrum, items, noise)
        filtered.check_agreement(sigmas)
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
        error[k], standard_error[k] = _mean(squares) if filtered is None else _mean(squares, *filtered.errors(float(sigma)))
    return ErrorCurve(sigmas, error, standard_error, cramer_rao_bound(spectrum, sigmas), len(items), float(dim))


def _mean(squares: Float, control: Float | None = None, expected: float = 0.0) -> tuple[float, float]:
    """Mean and standard error; with a control variate of known expectation, of what regression on it leaves.

    >>> _mean(np.array([1.0, 3.0]))
    (2.0, 1.0)
    >>> _mean(np.array([3.0, 5.0, 9.0]), np.array([1.0, 2.0, 4.0]), 2.0)           # squares = 1 + 2 control
    (5.0, 0.0)
    """
    slope, used = 0.0, 1
    if control is not None and len(squares) > 2 and (spread := float(((control - control.mean()) ** 2).sum())) > 0:
        slope, used = float(((control - control.mean()) * (squares - squares.mean())).sum()) / spread, 2
        squares = squares - slope * (control - expected)
    residual = float(((squares - squares.mean()) ** 2).sum()) / (len(squares) - used)
    return float(squares.mean()), math.sqrt(residual / len(squares))


class _Filter:
    """The Wiener filter on some items and noises: exact along the kept eigenvectors, one mean eigenvalue off them."""

    def __init__(self, spectrum: Spectrum, items: Float, noise: Float) -> None:
        vectors = np.asarray(spectrum.basis, dtype=np.float64)
        assert spectrum.mean is not None
        clean, drawn = (a.reshape(len(items), -1) for a in (items - spectrum.mean.reshape(items.shape[1:]), noise))
        self.along, self.noise = clean @ vectors.T, drawn @ vectors.T
        self.lam, self.others = spectrum.eigenvalues[: len(vectors)], spectrum.eigenvalues[len(vectors) :]
        self.counts = spectrum.multiplicities[len(vectors) :]
        whole, kept = (clean, drawn), (self.along, self.noise)
        # Off the kept eigenvectors: |x_0 - mu|^2, |eps|^2 and their product.
        self.off = [(whole[i] * whole[j]).sum(1) - (kept[i] * kept[j]).sum(1) for i, j in ((0, 0), (1, 1), (0, 1))]

    def errors(self, sigma: float) -> tuple[Float, float]:
        """Squared error of each item at a level, and its expectation over data of this spectrum and noise."""
        gain = wiener_gain(self.lam, sigma)
        each = (((gain - 1) * self.along + gain * sigma * self.noise) ** 2).sum(axis=1)
        expected = float((self.lam * (1 - gain)).sum())
        if self.counts.size:
            rest = float(wiener_gain(np.average(self.others, weights=self.counts), sigma))
            clean, drawn, both = self.off
            each = each + (1 - rest) ** 2 * clean + (rest * sigma) ** 2 * drawn - 2 * (1 - rest) * rest * sigma * both
            expected += float((self.counts * ((1 - rest) ** 2 * self.others + (rest * sigma) ** 2)).sum())
        return each, expected

    def check_agreement(self, sigmas: Float) -> None:
        """Refuse items that are far from what the spectrum was measured on."""
        found = [self.errors(float(sigma)) for sigma in sigmas]
        ratios = np.array([float(each.mean()) / expected for each, expected in found if expected > 0])
        if ratios.size and (ratios.min() > _DISAGREEMENT or ratios.max() < 1 / _DISAGREEMENT):
            raise ValueError(
                "`data` do not seem to be what `spectrum` was measured on: the Wiener filter's error on them is "
                f"{ratios.min():.3g} to {ratios.max():.3g} times what the spectrum says, at no level near it; check the value "
                "range (-1 to 1, 0 to 1)."
            )
