r"""The spectrum behind random filters: from the eigenvalues of probed sample covariances to those of the population.

For a covariance with eigenvalues lambda, F(kappa) = sum lambda/(lambda + kappa) counts the directions above kappa. The
same sum over the eigenvalues g of what is seen through random filters is the same number at another level s,

    F = sum_j g_j/(g_j + s),    kappa = s (d - F)/(l - F) / (1 - F/(n - 1))

for l orthonormal probes of dimension d and n items: each filter multiplies its S-transform at -F/d to the level (Voiculescu
1987; for items alone it is Marchenko and Pastur's equation in Silverstein's form, 1995, with kappa = 1/m). So F(kappa) is
known, to a part of 10^3 or better, wherever F < min(l, n), and it is linear in the unknown density, which is then found by
least squares (El Karoui 2008), with the trace and the dimension as constraints and as near to a power law as these allow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from eigenstep._checks import Float

_PER_DECADE = 10
_SMOOTHNESS = 0.5
_STARTS = (1.0, 0.1, 0.01)  # lowest eigenvalue to begin with, relative to the level down to which there is sight


@dataclass(frozen=True, eq=False)
class ProbedSpectrum:
    """Eigenvalues seen through probes and items, without those of the leading directions.

    Parameters
    ----------
    eigenvalues : (l,) those of U Sigma U^T on the probes that are left, in squared data units, in any order.
    dim : dimension of the data.
    n_items : items behind the covariance.
    leading : directions that were taken out of it.
    rounding : level below which eigenvalues are rounding, in squared data units.
    ceiling : no eigenvalue of the population is larger, in squared data units.
    constant : coordinates without any variance, which are directions of eigenvalue zero.
    """

    eigenvalues: Float
    dim: int
    n_items: int
    leading: int = 0
    rounding: float = 0.0
    ceiling: float = math.inf
    constant: int = 0

    def curve(self, points: int) -> tuple[Float, Float]:
        """Levels kappa of the population, descending, and F at each."""
        g = np.maximum(self.eigenvalues, 0.0)
        top = float(g.max())
        g = g[g > self.rounding]
        s = np.geomspace(30 * top, max(10 * self.rounding, 1e-2 * float(g.min())), points)
        f = (g / (g + s[:, None])).sum(axis=1)
        d, probes, n = self.dim - self.leading, self.eigenvalues.size, self.n_items - 1
        probed = (d - f) / (probes - f) if probes < d else np.ones_like(f)
        sampled = 1 - (self.leading + f) / n
        inside = sampled > 1e-9
        kappa = s[inside] * probed[inside] / sampled[inside]
        f = f[inside]
        # Where all probes or all items are used up the level stands still: nothing more is seen.
        falls = np.concatenate(([True], kappa[1:] < (1 - 1e-6) * np.minimum.accumulate(kappa)[:-1]))
        return kappa[falls], f[falls]


@dataclass(frozen=True, eq=False)
class Density:
    """Eigenvalues with real multiplicities that add up to the dimension, and the level down to which they are seen."""

    eigenvalues: Float
    multiplicities: Float
    resolved: float


def resolved_density(seen: ProbedSpectrum, trace: float, *, smoothness: float = _SMOOTHNESS) -> Density:
    r"""The density of population eigenvalues on a logarithmic grid, from its ceiling down to a lowest one that is found.

        minimise  sum_a ((F(kappa_a) - F_a)/error_a)^2 + smoothness^2 int (d^2 y/d(ln lambda)^2)^2 d ln lambda
        over y_j = ln(m_j lambda_j) and the lowest lambda,    sum_j m_j = d - constant,    sum_j m_j lambda_j = trace

    A power law has a straight y and costs nothing, so that is how the density goes on below the last level seen.

    Parameters
    ----------
    seen : what came through the filters.
    trace : sum of the eigenvalues, in squared data units.
    smoothness : weight of the curvature, in units of the standard error.

    Degenerate cases: no variance gives eigenvalue zero with all the dimensions.
    """
    d = seen.dim - seen.leading
    directions = d - seen.constant
    if d <= 0:
        return Density(np.zeros(0), np.zeros(0), 0.0)
    if trace <= 0 or directions <= 0 or not seen.eigenvalues.max(initial=0.0) > seen.rounding:
        return Density(np.zeros(1), np.array([float(d)]), 0.0)
    kappa, f = seen.curve(80)
    # An eigenvalue lambda shows in the probes as one of at least lambda (probes/dim), whatever else is added to it.
    highest = 1.5 * float(seen.eigenvalues.max()) * d / seen.eigenvalues.size
    high = min(2.0 * float(np.interp(0.5, f, kappa)), highest, seen.ceiling)
    probes = max(1 / seen.eigenvalues.size - 1 / d, 0.0)
    error = np.sqrt(0.2 * f * (probes + 1 / seen.n_items)) + 1e-5 * f
    fits = [_fitted(kappa, f, error, trace, directions, high, start * float(kappa[-1]), smoothness) for start in _STARTS]
    _, lam, m = min(fits, key=lambda fit: fit[0])
    lam, m = lam[m > 0], m[m > 0]
    # The two constraints were met to a part in 10^4; the trace is now met exactly, the dimension by the smallest.
    lam = lam * (trace / float(m @ lam))
    m *= directions / float(m.sum())
    lam = lam * (trace / float(m @ lam))
    if seen.constant:
        lam, m = np.append(lam, 0.0), np.append(m, float(seen.constant))
    return Density(lam, m, float(kappa[-1]))


def _fitted(
    kappa: Float, f: Float, error: Float, trace: float, directions: int, high: float, start: float, smoothness: float
) -> tuple[float, Float, Float]:
    """Cost, eigenvalues and multiplicities of the best fit that is reached from one lowest eigenvalue."""
    from scipy.optimize import least_squares

    top, low = np.log(high), np.log(min(start, high / 30))
    count = max(12, int(_PER_DECADE * (top - low) / np.log(10))) + 1
    t = np.linspace(0.0, 1.0, count)
    cap = np.log(trace) + 3.0
    met = 1e-4  # the constraints, relative

    def nodes(p: Float) -> tuple[Float, Float, float]:
        bottom = min(p[-1], top - 0.5)
        return np.exp(top + t * (bottom - top)), np.exp(np.minimum(p[:-1], cap)), (top - bottom) / (count - 1)

    def residuals(p: Float) -> Float:
        lam, x, h = nodes(p)
        found = (x / (lam + kappa[:, None])).sum(axis=1)
        sums = (x.sum() / trace - 1, (x / lam).sum() / directions - 1)
        # The last line is no more than a hint: it keeps a lowest eigenvalue that nothing depends on where it began.
        return np.concatenate(
            ((found - f) / error, np.array(sums) / met, smoothness * np.diff(p[:-1], 2) / h**1.5, [0.03 * (p[-1] - low)])
        )

    def jacobian(p: Float) -> Float:
        lam, x, h = nodes(p)
        rows = np.zeros((f.size + count + 1, count + 1))
        rows[: f.size, :-1] = x / (lam + kappa[:, None]) / error[:, None]
        rows[f.size, :-1] = x / (met * trace)
        rows[f.size + 1, :-1] = x / lam / (met * directions)
        first = np.arange(count - 2)
        for shift, factor in enumerate((1.0, -2.0, 1.0)):
            rows[f.size + 2 + first, first + shift] = factor * smoothness / h**1.5
        moved = p.copy()
        moved[-1] += 1e-6
        rows[:, -1] = (residuals(moved) - residuals(p)) / 1e-6
        return rows

    guess = np.append(np.full(count, np.log(trace / count)), low)
    # A fit that is not converged after this many steps is used as it is: its cost says how good it is.
    found = least_squares(residuals, guess, jacobian, method="lm", ftol=1e-5, xtol=1e-5, max_nfev=100)
    lam, x, _ = nodes(found.x)
    return float(found.cost), lam, x / lam
