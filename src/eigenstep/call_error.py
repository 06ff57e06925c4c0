"""The error that one call of a real denoiser adds to a run: its variance per direction, as a smooth function of the level."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eigenstep import _checks

Float = NDArray[np.float64]


class CallError:
    """Standard deviation a(sigma) of the error that one call adds to every direction, beyond the Gaussian's own.

    Monotone cubic in ln sigma through the measured levels (Fritsch & Carlson), constant beyond both ends, and defined for
    complex levels, so that grids can be optimised with exact derivatives. The errors of two calls count as independent.

    Parameters
    ----------
    sigmas : (levels,)
        Noise levels > 0 in either order, no two alike, data units.
    variance : (levels,)
        e(sigma) >= 0 per direction, squared data units: max(m - b, 0)/d of an error curve, theory section 7.

    Raises
    ------
    ValueError
        For fewer than two levels, levels that repeat or are not positive, a negative variance, or other lengths.

    Examples
    --------
    >>> error = CallError([4.0, 1.0], [0.25, 0.0])
    >>> error.variance([8.0, 4.0, 2.0, 1.0]).round(6).tolist()
    [0.25, 0.25, 0.0625, 0.0]
    """

    def __init__(self, sigmas: ArrayLike, variance: ArrayLike) -> None:
        """Check the levels and fit the cubics."""
        levels, values = _checks.real_array(sigmas, "sigmas"), _checks.real_array(variance, "variance")
        if levels.ndim != 1 or levels.size < 2 or levels.shape != values.shape:
            raise ValueError(
                f"`sigmas` and `variance` must be two lists of one length >= 2, got shapes {levels.shape} and {values.shape}."
            )
        order = np.argsort(levels)
        levels, values = levels[order], values[order]
        if levels[0] <= 0 or np.any(np.diff(levels) <= 0):
            raise ValueError("`sigmas` must be positive and all different.")
        if np.any(values < 0):
            raise ValueError(f"`variance` must not be negative, got {values.min():.6g}.")
        from scipy.interpolate import PchipInterpolator

        self.sigmas, self.variances = levels[::-1], values[::-1]
        self._knots = np.log(levels)
        self._cubics = PchipInterpolator(self._knots, np.sqrt(values)).c

    def amplitude(self, sigma: Any) -> Any:
        """a(sigma), shaped like `sigma`; a complex `sigma` carries its derivative along."""
        x = np.log(sigma)
        inside = np.minimum(np.maximum(x.real, self._knots[0]), self._knots[-1])
        piece = np.searchsorted(self._knots[1:-1], inside, side="right")
        offset = np.where(inside == x.real, x, inside) - self._knots[piece]
        value, *rest = self._cubics[:, piece]
        for coefficients in rest:
            value = value * offset + coefficients
        return value

    def variance(self, sigmas: ArrayLike) -> Float:
        """e(sigma) = a(sigma)^2 at any levels > 0."""
        return np.asarray(self.amplitude(_checks.real_array(sigmas, "sigmas")) ** 2)

    def __repr__(self) -> str:
        """The range it was measured on."""
        return (
            f"CallError({self.sigmas.size} levels, sigma {self.sigmas[-1]:.4g} to {self.sigmas[0]:.4g}, "
            f"variance {self.variances.min():.3g} to {self.variances.max():.3g})"
        )


def call_error(denoiser_error: Any) -> CallError | None:
    """The `CallError` that a `denoiser_error` argument stands for: itself, a curve that has one as `call_error`, or None.

    >>> call_error(None) is None
    True
    """
    if denoiser_error is None or isinstance(denoiser_error, CallError):
        return denoiser_error
    found = getattr(denoiser_error, "call_error", None)
    if isinstance(found, CallError):
        return found
    raise ValueError(f"`denoiser_error` must be an `ErrorCurve` or a `CallError`, got {type(denoiser_error).__name__}.")
