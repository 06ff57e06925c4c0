"""A law as a training schedule: alphas_cumprod and betas of a VP model, and the density of training noise levels.

Theory section 8: sigma(u) on u in [0, 1] gives alpha = 1/sqrt(1 + sigma^2) and the density p(sigma) = |du/dsigma|.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eigenstep import _checks

Float = NDArray[np.float64]
Law = Callable[[ArrayLike], Float]


def alphas_cumprod(law: Law, n_timesteps: int) -> Float:
    """The cumulative signal power of a VP model whose noise levels follow a law: alpha_bar_t = 1/(1 + sigma_t^2).

    Timestep t = 0 is the least noise, sigma_t = law(1 - t/(T-1)), the order in which diffusers and DDPM store it.

    Parameters
    ----------
    law : callable
        u in [0, 1] -> sigma, descending; law(0) finite.
    n_timesteps : int
        T >= 2.

    Returns
    -------
    (T,)
        Strictly descending values in (0, 1]; 1 only for a law that reaches sigma = 0.

    Raises
    ------
    ValueError
        If the law is not finite, not descending or negative, or T < 2.

    Source: Ho et al. (arXiv:2006.11239) for alpha_bar, theory section 8.

    >>> from eigenstep.grids import exponential_law
    >>> alphas_cumprod(exponential_law(0.5, 2.0), 3).round(6).tolist()
    [0.8, 0.5, 0.2]
    """
    count = _checks.integer(n_timesteps, "n_timesteps", minimum=2)
    sigmas = _checks.descending_sigmas(law(np.linspace(0.0, 1.0, count)), "law")
    return 1 / (1 + sigmas[::-1] ** 2)


def betas(law: Law, n_timesteps: int) -> Float:
    """The per-step noise powers of the same model: beta_t = 1 - alpha_bar_t/alpha_bar_{t-1}, alpha_bar_{-1} = 1.

    Parameters and errors as in `alphas_cumprod`; the product of (1 - beta) gives `alphas_cumprod` back.

    >>> from eigenstep.grids import exponential_law
    >>> betas(exponential_law(0.5, 2.0), 3).round(6).tolist()
    [0.2, 0.375, 0.6]
    """
    remaining = alphas_cumprod(law, n_timesteps)
    return np.asarray(1 - remaining / np.concatenate([[1.0], remaining[:-1]]))


def noise_level_density(law: Law, sigmas: ArrayLike) -> Float:
    """Density of training noise levels that spends equal effort along a law: p(sigma) = |du/dsigma|.

    Draw levels as `law(rng.random(size))`; this is their density with respect to d sigma, which integrates to 1.

    Parameters
    ----------
    law : callable
        u in [0, 1] -> sigma, smooth and strictly descending.
    sigmas : array_like, any shape
        Noise levels, data units.

    Returns
    -------
    array, same shape
        Density in 1/(data units); 0 outside the law's range.

    Raises
    ------
    ValueError
        If the law is not finite, not descending or negative.

    The inverse is found by bisection to rounding, the derivative by a fourth-order difference (relative error below 1e-7 for
    the laws of the catalogue).

    >>> from eigenstep.grids import exponential_law
    >>> noise_level_density(exponential_law(0.5, 2.0), [1.0, 3.0]).round(6).tolist()          # 1/(sigma ln 4)
    [0.721348, 0.0]
    """
    levels = _checks.real_array(sigmas, "sigmas")
    _checks.descending_sigmas(law(np.linspace(0.0, 1.0, 257)), "law")
    ends = np.asarray(law(np.array([0.0, 1.0])), dtype=np.float64)
    inside = (levels <= ends[0]) & (levels >= ends[1])
    low, high = np.zeros_like(levels), np.ones_like(levels)
    for _ in range(60):
        middle = 0.5 * (low + high)
        above = np.asarray(law(middle)) > levels
        low, high = np.where(above, middle, low), np.where(above, high, middle)
    # Differentiate the angle atan(sigma/scale), smooth wherever the law goes; the five points stay inside [0, 1].
    step = 1e-3
    scale = float(np.asarray(law(np.array([0.5])))[0])
    centre = np.clip(0.5 * (low + high), 2 * step, 1 - 2 * step)
    offset = (0.5 * (low + high) - centre) / step
    angles = np.stack([np.arctan(np.asarray(law(centre + j * step)) / scale) for j in (-2, -1, 0, 1, 2)])
    angle_slope = np.einsum("j...,j...->...", _five_point_slopes(offset), angles) / step
    slope = np.abs(angle_slope) * (scale + levels**2 / scale)
    return np.asarray(np.where(inside, 1 / np.where(inside, slope, 1.0), 0.0))


def _five_point_slopes(offset: Float) -> Float:
    """Weights of f'(x_0 + offset h) h on f(x_0 - 2h .. x_0 + 2h): derivative of Lagrange's quartic. (5, ...)"""
    nodes = (-2.0, -1.0, 0.0, 1.0, 2.0)
    weights = []
    for j, node in enumerate(nodes):
        others = [other for i, other in enumerate(nodes) if i != j]
        total = np.zeros_like(offset)
        for omitted in range(4):
            product = np.ones_like(offset)
            for i, other in enumerate(others):
                if i != omitted:
                    product = product * (offset - other)
            total = total + product
        weights.append(total / np.prod([node - other for other in others]))
    return np.stack(weights)
