"""The tangent law: optimal for one eigenvalue at every number of steps, and the best one-parameter law for a spectrum."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eigenstep import _checks
from eigenstep.expansion import leading_weights
from eigenstep.grids import Law
from eigenstep.spectrum import Spectrum

Float = NDArray[np.float64]


def tangent_law(sigma_min: float, sigma_max: float, *, gamma: float) -> Law:
    """sigma(u) = gamma tan((1-u) atan(sigma_max/gamma) + u atan(sigma_min/gamma)): equal angles. Theory section 4.

    With gamma = sqrt(lambda) this is the optimal grid of a single eigenvalue for every number of steps. gamma = 1 is VP-cosine
    and `kl_optimal` (Align Your Steps, arXiv:2404.14507, theorem 3.1); it is not RES4LYF's `bong_tangent`, which is an
    arc-tangent curve.

    Parameters
    ----------
    sigma_min : float
        Last level, >= 0, data units.
    sigma_max : float
        First level, > sigma_min, data units; infinity is legal (the law then starts there).
    gamma : float
        Scale at which steps are spent, > 0, data units.

    Returns
    -------
    callable
        u in [0, 1] -> sigma, float or array in, array out.

    Raises
    ------
    ValueError
        If sigma_min >= sigma_max, or gamma <= 0.

    >>> tangent_law(0.0, 1.0, gamma=1.0)(np.array([0.0, 0.5, 1.0])).round(6).tolist()
    [1.0, 0.414214, 0.0]
    """
    low, high = _checks.sigma_range(sigma_min, sigma_max, zero_min=True, infinite_max=True)
    scale = _checks.real_number(gamma, "gamma", minimum=0.0, exclusive=True)
    first, last = math.atan2(high, scale), math.atan2(low, scale)

    def law(u: ArrayLike) -> Float:
        position = np.asarray(u, dtype=np.float64)
        sigma = scale * np.tan((1 - position) * first + position * last)
        return np.where(position == 0, high, np.where(position == 1, low, sigma))

    return law


def tangent_gamma(
    spectrum: Spectrum,
    *,
    objective: str = "w2",
    noise_floor: float = 0.0,
    sigma_min: float = 0.0,
    sigma_max: float = math.inf,
) -> float:
    """gamma of the best tangent law for a spectrum, to leading order in 1/N: theory (5), (6).

    From infinity to 0, gamma = (sum w lambda / sum w/lambda)^(1/4) over the non-zero eigenvalues: (tr S / tr S^-1)^(1/4) for
    `kl`, (sum lambda^2 / rank)^(1/4) for `w2`. On a finite range, or for `local`, the minimum of
    sum_i m_i w_i E_i(gamma)^2 with the closed form of E_i, or of sum_i m_i w_i int phi_i'^4.

    Parameters
    ----------
    spectrum : Spectrum
        lambda = 0 directions have no weight.
    objective : {"w2", "kl", "reverse_kl", "local", "blend"}
        `kl` and `reverse_kl` agree to leading order.
    noise_floor : float
        tau >= 0, data units.
    sigma_min, sigma_max : float
        Range of the grid, 0 <= sigma_min < sigma_max <= inf, data units.

    Returns
    -------
    float
        gamma, data units.

    Raises
    ------
    ValueError
        For a bad range, objective or noise floor.

    >>> spectrum = Spectrum.from_eigenvalues([4.0, 1.0])
    >>> round(tangent_gamma(spectrum, objective="kl"), 6), round(tangent_gamma(spectrum), 6)     # 4^(1/4), (17/2)^(1/4)
    (1.414214, 1.707476)
    """
    low, high = _checks.sigma_range(sigma_min, sigma_max, zero_min=True, infinite_max=True)
    positive = spectrum.eigenvalues > 0
    lam = spectrum.eigenvalues[positive]
    weights = (spectrum.multiplicities * leading_weights(spectrum, objective=objective, noise_floor=noise_floor))[positive]
    if low == 0 and math.isinf(high) and objective != "local":
        return float((weights @ lam / (weights @ (1 / lam))) ** 0.25)

    def error(log_gamma: float) -> float:
        gamma = math.exp(log_gamma)
        swept = math.atan2(high, gamma) - math.atan2(low, gamma)
        if objective == "local":
            return float(swept**3 * (weights @ _speed_integral(lam, gamma, low, high, 3)))
        return float(swept**2 * (weights @ _speed_integral(lam, gamma, low, high, 1) ** 2))

    bracket = 0.5 * np.log([lam.min(), lam.max()])
    if bracket[1] - bracket[0] < 1e-12:
        return float(np.sqrt(lam[0]))
    from scipy.optimize import minimize_scalar

    # The sum may have more than one minimum in gamma: scan, then refine the best cell.
    scan = np.linspace(bracket[0], bracket[1], 65)
    best = int(np.argmin([error(float(x)) for x in scan]))
    cell = (scan[max(best - 1, 0)], scan[min(best + 1, 64)])
    found = minimize_scalar(error, bounds=cell, method="bounded", options={"xatol": 1e-10})
    return float(math.exp(found.x))


def _speed_integral(lam: Float, gamma: float, low: float, high: float, power: int) -> Float:
    """int (d phi/d theta)^power d phi over the range, with d phi/d theta = a + b cos 2 phi: (6) is power = 1.

    c = gamma/sqrt(lambda), a = (c + 1/c)/2, b = (c - 1/c)/2, and int (a + b cos 2 phi) = a phi + (b/2) sin 2 phi.
    """
    root = np.sqrt(lam)
    c = gamma / root
    a, b = 0.5 * (c + 1 / c), 0.5 * (c - 1 / c)

    def primitive(phi: Float) -> Float:
        sine = np.sin(2 * phi)
        if power == 1:
            return a * phi + 0.5 * b * sine
        square = 0.5 * phi + 0.125 * np.sin(4 * phi)
        return a**3 * phi + 1.5 * a**2 * b * sine + 3 * a * b**2 * square + b**3 * (0.5 * sine - sine**3 / 6)

    return primitive(np.arctan2(high, root)) - primitive(np.arctan2(low, root))
