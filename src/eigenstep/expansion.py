"""Euler-Maclaurin expansion of the DDIM error in the number of steps: theory section 3, a second route to gaussian's numbers.

Let sigma_k = law(k/N), phi_i(u) = atan(law(u)/sqrt(lambda_i)), h = 1/N, primes d/du. Then

    ln r_i = -h int phi_i'^2 - h^3 (1/6 int phi_i'^4 - 1/12 int phi_i''^2) + O(h^5).                                (3)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eigenstep import _checks
from eigenstep.gaussian import OBJECTIVES, STEPWISE, divergence_terms, local_weight
from eigenstep.grids import Law
from eigenstep.spectrum import Spectrum

Float = NDArray[np.float64]

_PANELS, _NODES = 96, 16  # composite Gauss-Legendre: integrals of the Karras law to 1e-12 relative


@dataclass(frozen=True)
class PathIntegrals:
    """int phi'^2, int phi'^4 and int phi''^2 over u in [0, 1], each (k,), in the order of `spectrum.eigenvalues`."""

    speed_2: Float
    speed_4: Float
    acceleration_2: Float


def path_integrals(spectrum: Spectrum, law: Law) -> PathIntegrals:
    """The three integrals of the expansion (3) for every eigenvalue.

    Parameters
    ----------
    spectrum : Spectrum
        lambda = 0 is legal: phi is constant and its integrals are 0.
    law : callable
        u in [0, 1] -> sigma > 0 (or reaching 0 at u = 1), smooth (a table interpolated log-linearly is not).

    Raises
    ------
    ValueError
        If the law is negative or not finite somewhere in [0, 1].

    Source: Euler-Maclaurin; theory (3). Derivatives come from the interpolating polynomial on 16 Gauss nodes of each of 96
    panels, in the angle atan(sigma/law(1/2)).

    >>> from eigenstep.grids import karras_law
    >>> integrals = path_integrals(Spectrum.from_eigenvalues([0.3]), karras_law(0.002, 80.0))
    >>> print(f"{integrals.speed_2[0]:.8f} {integrals.speed_4[0]:.4f} {integrals.acceleration_2[0]:.4f}")
    5.61008592 118.2586 240.2123
    """
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    width = 1 / _PANELS
    u = width * (np.arange(_PANELS)[:, None] + 0.5 + 0.5 * nodes)
    sigma = _checks.real_array(np.stack([np.asarray(law(row), dtype=np.float64) for row in u]), "law")
    if np.any(sigma < 0) or not np.isfinite(law(np.array([0.0]))).all():
        raise ValueError(f"`law` must give finite noise levels >= 0 on [0, 1], got {sigma.min():.6g}.")
    differentiate = _differentiation_matrix(nodes) / (0.5 * width)
    # Differentiate the angle z = atan(sigma/scale): smooth wherever the law goes, and exact for the tangent law.
    scale = float(np.asarray(law(np.array([0.5])))[0])
    z = np.arctan(sigma / scale)
    sigma_z = scale + sigma**2 / scale
    sigma_zz = 2 * sigma / scale * sigma_z
    z_u = z @ differentiate.T
    z_uu = z_u @ differentiate.T
    sigma_u, sigma_uu = sigma_z * z_u, sigma_zz * z_u**2 + sigma_z * z_uu
    lam = spectrum.eigenvalues[:, None, None]
    slope = np.sqrt(lam) / (lam + sigma**2)
    phi_u = slope * sigma_u
    phi_uu = slope * sigma_uu - 2 * sigma * slope / (lam + sigma**2) * sigma_u**2
    measure = np.tile(0.5 * width * weights, _PANELS)
    k = spectrum.eigenvalues.size
    return PathIntegrals(
        speed_2=(phi_u**2).reshape(k, -1) @ measure,
        speed_4=(phi_u**4).reshape(k, -1) @ measure,
        acceleration_2=(phi_uu**2).reshape(k, -1) @ measure,
    )


def _differentiation_matrix(nodes: Float) -> Float:
    """D with (D f)_j = f'(x_j) for polynomials through the nodes, by barycentric weights (Berrut & Trefethen 2004)."""
    gaps = nodes[:, None] - nodes
    np.fill_diagonal(gaps, 1.0)
    weights = 1.0 / gaps.prod(axis=1)
    matrix = weights / weights[:, None] / gaps
    np.fill_diagonal(matrix, 0.0)
    np.fill_diagonal(matrix, -matrix.sum(axis=1))
    return np.asarray(matrix)


def log_retained_variance(spectrum: Spectrum, law: Law, n: int, *, order: int = 3) -> Float:
    """ln r_i of DDIM on `grid(law, n)` (n+1 points of the law) to O(1/n) or O(1/n^3): (k,). Theory (3).

    Parameters
    ----------
    spectrum, law
        As in `path_integrals`.
    n : int
        Number of steps, >= 1.
    order : {1, 3}
        Highest power of 1/n kept; the remainder is O(n^-3) or O(n^-5).

    >>> from eigenstep.grids import karras_law
    >>> print(log_retained_variance(Spectrum.from_eigenvalues([0.3]), karras_law(0.002, 80.0), 40).round(7))
    [-0.1402473]
    """
    n = _checks.integer(n, "n")
    if order not in (1, 3):
        raise ValueError(f"`order` must be 1 or 3, got {order!r}.")
    integrals = path_integrals(spectrum, law)
    leading = -integrals.speed_2 / n
    if order == 1:
        return leading
    return leading - (integrals.speed_4 / 6 - integrals.acceleration_2 / 12) / n**3


def expanded_divergence(
    spectrum: Spectrum, law: Law, n: int, *, objective: str = "w2", noise_floor: float = 0.0, order: int = 3
) -> float:
    """The divergence of DDIM on `grid(law, n)` from the expansion (3) instead of the steps themselves.

    Parameters
    ----------
    spectrum, law, n, order
        As in `log_retained_variance`.
    objective : {"w2", "kl", "reverse_kl"}
    noise_floor : float
        tau >= 0, data units.

    >>> from eigenstep.grids import karras_law
    >>> round(expanded_divergence(Spectrum.from_eigenvalues([1.0, 0.3]), karras_law(0.002, 80.0), 20, objective="kl"), 7)
    0.0397142
    """
    objective = _checks.choice(objective, [name for name in OBJECTIVES if name not in STEPWISE], "objective")
    target = spectrum.eigenvalues + float(np.asarray(law(np.array([1.0])))[0]) ** 2
    retained = np.exp(log_retained_variance(spectrum, law, n, order=order))
    return float(spectrum.multiplicities @ divergence_terms(objective, target * retained, target, 0.0, noise_floor))


def leading_weights(spectrum: Spectrum, *, objective: str, noise_floor: float) -> Float:
    """w_i of the leading error (1/4N^2) sum_i m_i w_i E_i^2: theory (4). (k,)

    `kl`, `reverse_kl`: (lambda/(lambda+tau^2))^2; `w2`, `local`, `blend`: lambda^2/(lambda+tau^2), which is lambda at tau = 0
    (for `local`, E_i^2 is replaced by int phi_i'^4, see `optimal.geodesic_law`). Zero where lambda = 0: such a direction is
    never in error.

    >>> leading_weights(Spectrum.from_eigenvalues([4.0, 1.0]), objective="kl", noise_floor=1.0).round(4).tolist()
    [0.64, 0.25]
    """
    objective = _checks.choice(objective, OBJECTIVES, "objective")
    noise_floor = _checks.real_number(noise_floor, "noise_floor", minimum=0.0)
    lam = spectrum.eigenvalues
    kept = np.where(lam > 0, local_weight(np.where(lam > 0, lam, 1.0), noise_floor), 0.0)
    return np.asarray(lam * kept if objective in ("w2", *STEPWISE) else kept**2)
