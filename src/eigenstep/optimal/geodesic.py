"""The geodesic law: the asymptotically optimal placement for a whole spectrum, among all laws."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eigenstep import _checks
from eigenstep.expansion import leading_weights
from eigenstep.grids import Law
from eigenstep.spectrum import Spectrum

Float = NDArray[np.float64]

_PANELS, _NODES = 512, 4
_BINS = 96
_FIXED_POINT_RTOL = 1e-10
_FIXED_POINT_LIMIT = 500


def geodesic_law(
    spectrum: Spectrum, sigma_min: float, sigma_max: float, *, objective: str = "w2", noise_floor: float = 0.0
) -> Law:
    """Constant speed in the metric G(sigma) = sum_i w_i E_i lambda_i/(lambda_i + sigma^2)^2: theory (7).

    u(sigma) = int_sigma^sigma_max sqrt(G) / int_sigma_min^sigma_max sqrt(G) minimises the leading DDIM error sum_i w_i E_i^2
    among all laws. E_i = int phi_i'^2 du depends on the law, so it is a fixed point, started from E_i = 1. For `local` the
    leading error is sum_i w_i int phi_i'^4 du, whose metric G = (sum_i w_i lambda_i^2/(lambda_i + sigma^2)^4)^(1/2) is
    explicit. One eigenvalue gives the tangent law.

    Parameters
    ----------
    spectrum : Spectrum
        lambda = 0 directions have no weight. More than 96 distinct eigenvalues are binned (`Spectrum.binned`).
    sigma_min, sigma_max : float
        0 <= sigma_min < sigma_max < inf, data units.
    objective : {"w2", "kl", "reverse_kl", "local", "blend"}
    noise_floor : float
        tau >= 0, data units.

    Returns
    -------
    callable
        u in [0, 1] -> sigma, float or array in, array out.

    Raises
    ------
    ValueError
        For a bad range, objective or noise floor.

    >>> law = geodesic_law(Spectrum.from_eigenvalues([1.0]), 0.0, 1.0)
    >>> law(np.array([0.0, 0.5, 1.0])).round(6).tolist()
    [1.0, 0.414214, 0.0]
    """
    low, high = _checks.sigma_range(sigma_min, sigma_max, zero_min=True)
    nodes = spectrum.binned(_BINS)
    weights = nodes.multiplicities * leading_weights(nodes, objective=objective, noise_floor=noise_floor)
    used = weights > 0
    lam, weights = nodes.eigenvalues[used], weights[used]
    # Panels of equal ratio down to `edge`; below it the metric is constant to 1e-8, so the law is linear there.
    edge = max(low, min(1e-4 * float(np.sqrt(lam.min())), 0.5 * high))
    edges = np.geomspace(high, edge, _PANELS + 1)
    levels, d_sigma = _quadrature(edges)
    levels, d_sigma = np.append(levels, 0.5 * (edge + low)), np.append(d_sigma, edge - low)
    speed_2 = _angular_speed(lam, levels) ** 2
    if objective == "local":
        density = (weights @ speed_2**2) ** 0.25
        edge_density = (weights @ _angular_speed(lam, edges) ** 4) ** 0.25
    else:
        action = _fixed_point(speed_2, weights, d_sigma)
        density = np.sqrt((weights * action) @ speed_2)
        edge_density = np.sqrt((weights * action) @ _angular_speed(lam, edges) ** 2)
    pieces = density * d_sigma
    position = np.append(0.0, np.cumsum(pieces[:-1].reshape(_PANELS, _NODES).sum(axis=1)))
    total = position[-1] + pieces[-1]
    position /= total
    from scipy.interpolate import CubicHermiteSpline

    log_sigma = CubicHermiteSpline(position, np.log(edges), -total / (edges * edge_density))

    def law(u: ArrayLike) -> Float:
        at = np.asarray(u, dtype=np.float64)
        sigma = np.exp(log_sigma(np.minimum(at, position[-1])))
        if edge > low:
            sigma = np.where(at > position[-1], low + (edge - low) * (1 - at) / (1 - position[-1]), sigma)
        return np.where(at == 0, high, np.where(at == 1, low, sigma))

    return law


def _angular_speed(lam: Float, levels: Float) -> Float:
    """|d phi_i / d sigma| = sqrt(lambda_i)/(lambda_i + sigma^2): (k, levels)."""
    return np.sqrt(lam)[:, None] / (lam[:, None] + levels**2)


def _quadrature(edges: Float) -> tuple[Float, Float]:
    """Gauss-Legendre levels and d sigma on panels between descending edges, in ln sigma."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    log_edges = np.log(edges)
    half = 0.5 * (log_edges[:-1] - log_edges[1:])
    centre = 0.5 * (log_edges[:-1] + log_edges[1:])
    levels = np.exp(centre[:, None] - half[:, None] * nodes)
    return levels.ravel(), (half[:, None] * weights * levels).ravel()


def _fixed_point(speed_2: Float, weights: Float, d_sigma: Float) -> Float:
    """E_i = L int phi_i'(sigma)^2 / sqrt(G) d sigma with L = int sqrt(G) d sigma, iterated from E_i = 1."""
    action = np.ones_like(weights)
    for _ in range(_FIXED_POINT_LIMIT):
        density = np.sqrt((weights * action) @ speed_2)
        updated = (density @ d_sigma) * (speed_2 @ (d_sigma / density))
        updated /= updated.max()
        change = float(np.abs(updated / action - 1).max())
        # The geometric mean of old and new contracts where the plain iteration overshoots.
        action = np.sqrt(updated * action)
        if change < _FIXED_POINT_RTOL:
            break
    return action
