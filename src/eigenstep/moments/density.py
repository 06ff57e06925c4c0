r"""The spectrum behind random filters: from the eigenvalues of probed sample covariances to those of the population.

For a covariance with eigenvalues lambda, F(kappa) = sum lambda/(lambda + kappa) counts the directions above kappa. The
same sum over the eigenvalues g of what is seen through random filters is the same number at another level s,

    F = sum_j g_j/(g_j + s),    kappa = s (d - F)/(l - F) / (1 - F/(n - 1))

for l orthonormal probes of dimension d and n items: each filter multiplies its S-transform at -F/d to the level (Voiculescu
1987; for items alone it is Marchenko and Pastur's equation in Silverstein's form, 1995, with kappa = 1/m). So F(kappa) is
known, with an error of about sqrt(F/l), wherever F < min(l, n), and it is linear in the unknown density: non-negative
least squares finds that (El Karoui 2008), with the trace and the dimension as constraints.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eigenstep._checks import Float

_PER_DECADE = 12
_SMOOTHNESS = 0.3


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
    """

    eigenvalues: Float
    dim: int
    n_items: int
    leading: int = 0
    rounding: float = 0.0

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
    r"""The density of population eigenvalues on a logarithmic grid.

        minimise  sum_a ((F(kappa_a) - F_a)/error_a)^2 + smoothness^-2 sum_j (x_{j-1} - 2 x_j + x_{j+1})^2 / scale_j^2,
        x_j = m_j lambda_j >= 0,    sum_j m_j = d,    sum_j m_j lambda_j = trace

    Parameters
    ----------
    seen : what came through the filters.
    trace : sum of the eigenvalues, in squared data units.
    smoothness : the size, in units of x itself, of second differences that cost as much as one standard error.
    """
    from scipy.optimize import nnls

    d = seen.dim - seen.leading
    if d <= 0:
        return Density(np.zeros(0), np.zeros(0), 0.0)
    if trace <= 0 or not seen.eigenvalues.max(initial=0.0) > seen.rounding:
        return Density(np.zeros(1), np.array([float(d)]), 0.0)
    kappa, f = seen.curve(240)
    # An eigenvalue lambda shows in the probes as one of at least lambda (probes/dim), whatever else is added to it.
    high = min(2.0 * float(np.interp(0.5, f, kappa)), 1.5 * float(seen.eigenvalues.max()) * d / seen.eigenvalues.size)
    low = 1e-4 * float(kappa[-1])
    count = max(8, int(_PER_DECADE * np.log10(high / low)))
    lam = np.geomspace(high, low, count)

    # Columns: x_j = m_j lambda_j, then the number of directions without variance.
    error = np.sqrt(0.2 * f * (1 / seen.eigenvalues.size + 1 / seen.n_items)) + 1e-5 * f
    counts = np.column_stack((1 / (lam + kappa[:, None]), np.zeros(len(f)))) / error[:, None]
    total = np.append(np.ones(count), 0.0) / (1e-5 * trace)
    dimension = np.append(1 / lam, 1.0) / (1e-5 * d)
    bend = np.zeros((count - 2, count + 1))
    bend[np.arange(count - 2), np.arange(count - 2)] = 1.0
    bend[np.arange(count - 2), np.arange(1, count - 1)] = -2.0
    bend[np.arange(count - 2), np.arange(2, count)] = 1.0
    scale = np.full(count, trace / count)
    x = np.zeros(count + 1)
    for _ in range(2):
        # The second round takes the sizes of the first for its scale, so that small x are smooth on their own scale.
        rows = np.vstack((counts, total, dimension, bend / (smoothness * scale[1:-1, None])))
        x, _ = nnls(rows, np.concatenate((f / error, [1e5, 1e5], np.zeros(count - 2))))
        wide = np.convolve(x[:-1], np.ones(9) / 9, mode="same")
        scale = np.maximum(wide, 1e-2 * wide.max())
    m = x[:-1] / lam
    kept = m > 0
    lam, m = lam[kept] * (trace / float(x[:-1].sum())), m[kept]
    m *= min(1.0, d / float(m.sum()))
    zeros = d - float(m.sum())
    if zeros > 1e-9 * d:
        lam, m = np.append(lam, 0.0), np.append(m, zeros)
    return Density(lam, m, float(kappa[-1]))
