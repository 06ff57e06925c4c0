"""Distances between two sets of items or features, and the intervals that say how sure they are. numpy and scipy only."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from eigenstep._checks import Float, integer, real_array, real_number

_BLOCK_NUMBERS = 1 << 24
"""Kernel values held at a time: 128 MiB."""


@dataclass(frozen=True)
class Interval:
    """A mean and its confidence interval; `low` and `high` are NaN where one value alone says nothing of the spread.

    >>> Interval(2.0, 1.5, 2.5, 5).half_width
    0.5
    """

    mean: float
    low: float
    high: float
    n: int

    @property
    def half_width(self) -> float:
        """Half of high - low."""
        return 0.5 * (self.high - self.low)


def rmse(x: ArrayLike, y: ArrayLike) -> float:
    """Root of the mean squared difference of paired items: sqrt( mean (x_ij - y_ij)^2 ).

    Parameters
    ----------
    x, y : (n, ...) arrays
        Item i of one belongs to item i of the other, as with samples from the same noise.

    Raises
    ------
    ValueError
        If the shapes differ, or there is no item.

    Examples
    --------
    >>> rmse([[0.0, 0.0]], [[3.0, 4.0]]) == (12.5) ** 0.5
    True
    """
    return math.sqrt(squared_errors(x, y).mean())


def squared_errors(x: ArrayLike, y: ArrayLike) -> Float:
    """Mean squared difference of each pair of items: (n,), whose mean is the square of `rmse`.

    >>> squared_errors([[0.0, 0.0], [1.0, 1.0]], [[3.0, 4.0], [1.0, 1.0]]).tolist()
    [12.5, 0.0]
    """
    a, b = real_array(x, "x"), real_array(y, "y")
    if a.shape != b.shape or a.ndim < 2 or not len(a):
        raise ValueError(f"`x` and `y` must hold pairs of items of one shape, got shapes {a.shape} and {b.shape}.")
    return np.asarray(((a - b).reshape(len(a), -1) ** 2).mean(axis=1))


def frechet_distance(x: ArrayLike, y: ArrayLike) -> float:
    """Fréchet distance of the Gaussians with the mean and covariance of each sample.

        |m_x - m_y|^2 + tr S_x + tr S_y - 2 tr (S_x^(1/2) S_y S_x^(1/2))^(1/2)

    The last trace is the sum of the singular values of R_x R_y^T, with S = R^T R from a QR factorisation of the centred
    items: no matrix root is taken, and singular covariances lose no digits. It is a squared distance, as FID is.

    Bias: of n items each in d dimensions it comes out too large, by about (tr S_x + tr S_y)(d + 5)/(4 n) where the two are
    alike and S is flat (FID's "use 50,000 images"). Compare values at the same n only; two samples paired by
    their noise share much of it.

    Parameters
    ----------
    x : (n, d) array
    y : (m, d) array
        Items or features, n, m >= 2.

    Raises
    ------
    ValueError
        If there are fewer than two items, or the dimensions differ.

    References
    ----------
    Dowson & Landau (1982), eq. 4; Heusel et al. (arXiv:1706.08500), eq. 6.

    Examples
    --------
    >>> x = [[1.0], [-1.0]]                                     # mean 0, variance 2
    >>> y = [[4.0], [2.0]]                                      # mean 3, variance 2
    >>> round(frechet_distance(x, y), 12)
    9.0
    """
    a, b = _two_samples(x, y)
    (mean_a, root_a), (mean_b, root_b) = _moments_root(a), _moments_root(b)
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    return float(max(((mean_a - mean_b) ** 2).sum() + (root_a**2).sum() + (root_b**2).sum() - 2.0 * cross, 0.0))


def gaussian_frechet(mean_x: ArrayLike, covariance_x: ArrayLike, mean_y: ArrayLike, covariance_y: ArrayLike) -> float:
    """The Fréchet distance of two Gaussians given by mean (d,) and covariance (d, d), by symmetric eigenvalues.

    tr (S_x^(1/2) S_y S_x^(1/2))^(1/2) is the sum of the roots of that matrix's eigenvalues, those below 0 by rounding
    counting as 0. Where a covariance is singular its roots carry an error of 1e-8 of its scale: `frechet_distance` on
    the items themselves does not.

    Raises
    ------
    ValueError
        If shapes do not fit, or a covariance is not symmetric.

    Examples
    --------
    >>> round(gaussian_frechet([0.0, 0.0], [[4.0, 0.0], [0.0, 1.0]], [1.0, 0.0], [[1.0, 0.0], [0.0, 9.0]]), 12)
    6.0
    """
    means = [real_array(mean, name, ndim=1) for mean, name in ((mean_x, "mean_x"), (mean_y, "mean_y"))]
    matrices = []
    for value, name in ((covariance_x, "covariance_x"), (covariance_y, "covariance_y")):
        matrix = real_array(value, name, ndim=2)
        if matrix.shape != (means[0].size, means[0].size) or means[0].size != means[1].size:
            raise ValueError(f"`{name}` must be ({means[0].size}, {means[0].size}) for these means, got {matrix.shape}.")
        if not np.allclose(matrix, matrix.T, rtol=1e-8, atol=1e-12 * np.abs(matrix).max()):
            raise ValueError(f"`{name}` must be symmetric.")
        matrices.append(0.5 * (matrix + matrix.T))
    values, vectors = np.linalg.eigh(matrices[0])
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    cross = np.sqrt(np.maximum(np.linalg.eigvalsh(root @ matrices[1] @ root), 0.0)).sum()
    distance = ((means[0] - means[1]) ** 2).sum() + np.trace(matrices[0]) + np.trace(matrices[1]) - 2.0 * cross
    return float(max(distance, 0.0))


@dataclass(frozen=True)
class KernelDistance:
    """MMD^2 and its standard error; the estimate is unbiased, so that it falls below 0 where the two are alike.

    >>> rng = np.random.default_rng(0)
    >>> alike = kernel_distance(rng.standard_normal((50, 2)), rng.standard_normal((50, 2)))
    >>> alike.value < 2 * alike.standard_error
    True
    """

    value: float
    standard_error: float


def kernel_distance(
    x: ArrayLike, y: ArrayLike, *, degree: int = 3, gamma: float | None = None, coefficient: float = 1.0
) -> KernelDistance:
    """Unbiased squared maximum mean discrepancy with the polynomial kernel k(a, b) = (gamma a.b + coefficient)^degree: KID.

        MMD^2 = 1/(n (n-1)) sum_{i != j} h_ij,     h_ij = k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i)

    A U-statistic over the pairs (x_i, y_i): unbiased whether or not the two samples are paired by their noise, since i = j
    never enters. The standard error is the jackknife's, each pair left out in turn, which is slightly too large on average.

    Parameters
    ----------
    x, y : (n, d) arrays
        As many of each, n >= 3.
    degree : int
        >= 1.
    gamma : float, optional
        > 0; None is 1/d.
    coefficient : float
        >= 0.

    Raises
    ------
    ValueError
        If there are fewer than three items, not as many of each, or the dimensions differ.

    References
    ----------
    Gretton et al. (2012), lemma 6, eq. 4; Bińkowski et al. (arXiv:1801.01401), whose kernel is the default.

    Examples
    --------
    >>> x, y = [[0.0], [1.0], [2.0]], [[1.0], [1.0], [4.0]]
    >>> round(kernel_distance(x, y, degree=1).value, 12)       # (0-1)(1-1) + (0-1)(2-4) + (1-1)(2-4) over 3 pairs
    0.666666666667
    """
    a, b = _two_samples(x, y)
    n, d = a.shape
    if len(b) != n or n < 3:
        raise ValueError(f"`x` and `y` must hold as many items each, at least 3, got {n} and {len(b)}.")
    power = integer(degree, "degree")
    slope = 1.0 / d if gamma is None else real_number(gamma, "gamma", minimum=0.0, exclusive=True)
    offset = real_number(coefficient, "coefficient", minimum=0.0)

    def kernel(one: Float, other: Float) -> Float:
        return np.asarray((slope * (one @ other.T) + offset) ** power)

    rows = np.empty(n)
    size = max(1, _BLOCK_NUMBERS // n)
    for first in range(0, n, size):
        part = slice(first, min(first + size, n))
        h = kernel(a[part], a) + kernel(b[part], b) - kernel(a[part], b) - kernel(b[part], a)
        h[np.arange(len(h)), np.arange(part.start, part.stop)] = 0.0
        rows[part] = h.sum(axis=1)
    total = rows.sum()
    # Without pair i the double sum loses its row and its column.
    left_out = (total - 2.0 * rows) / ((n - 1) * (n - 2))
    variance = (n - 1) / n * ((left_out - left_out.mean()) ** 2).sum()
    return KernelDistance(float(total / (n * (n - 1))), math.sqrt(variance))


def sliced_w2(x: ArrayLike, y: ArrayLike, *, directions: int = 256, seed: int = 0) -> float:
    """Sliced 2-Wasserstein distance: sqrt of the mean over random directions u of W2(u.x, u.y)^2.

    On a line W2^2 = int_0^1 (F_x^-1(q) - F_y^-1(q))^2 dq, exact for any two numbers of items (sorted pairs where they are
    equal).

    Parameters
    ----------
    x : (n, d) array
    y : (m, d) array
    directions : int
        Random unit vectors, >= 1.
    seed : int
        Of the directions: the same for all that is to be compared.

    Raises
    ------
    ValueError
        If there are fewer than two items, or the dimensions differ.

    References
    ----------
    Bonneel et al. (2015), eq. 8.

    Examples
    --------
    >>> round(sliced_w2([[0.0], [2.0]], [[1.0], [3.0]]), 12)    # one dimension: every direction is +1 or -1
    1.0
    """
    a, b = _two_samples(x, y)
    count = integer(directions, "directions")
    u = np.random.default_rng(integer(seed, "seed", minimum=0)).standard_normal((a.shape[1], count))
    u /= np.linalg.norm(u, axis=0)
    along_a, along_b = np.sort(a @ u, axis=0), np.sort(b @ u, axis=0)
    if len(a) == len(b):
        return float(np.sqrt(((along_a - along_b) ** 2).mean()))
    # Both quantile functions are constant between neighbouring multiples of 1/n and 1/m.
    edges = np.unique(np.concatenate([np.arange(len(a) + 1) * len(b), np.arange(len(b) + 1) * len(a)]))
    widths = np.diff(edges) / (len(a) * len(b))
    difference = along_a[edges[:-1] // len(b)] - along_b[edges[:-1] // len(a)]
    return float(np.sqrt((widths @ difference**2).mean()))


def t_interval(values: ArrayLike, *, level: float = 0.95) -> Interval:
    """Mean of independent repetitions and its Student interval: mean +- t_{n-1} s/sqrt(n).

    Of one value the ends are NaN.

    Raises
    ------
    ValueError
        If there is no value, or `level` is not within (0, 1).

    Examples
    --------
    >>> found = t_interval([1.0, 2.0, 3.0])                                 # t = 4.302653 at 2 degrees of freedom
    >>> round(found.mean, 6), round(found.low, 6), round(found.high, 6)
    (2.0, -0.484138, 4.484138)
    """
    from scipy.special import stdtrit

    x = real_array(values, "values", ndim=1)
    share = real_number(level, "level", minimum=0.0, maximum=1.0, exclusive=True)
    if not x.size:
        raise ValueError("`values` must hold at least one repetition, got none.")
    mean = float(x.mean())
    if x.size == 1:
        return Interval(mean, math.nan, math.nan, 1)
    half = float(stdtrit(x.size - 1, 0.5 * (1.0 + share)) * x.std(ddof=1) / math.sqrt(x.size))
    return Interval(mean, mean - half, mean + half, x.size)


def paired_interval(ours: ArrayLike, theirs: ArrayLike, *, level: float = 0.95) -> Interval:
    """`t_interval` of the differences ours - theirs of repetitions that share their noise: wholly below 0 is better.

    Raises
    ------
    ValueError
        If the two are not of the same length.

    Examples
    --------
    >>> found = paired_interval([1.0, 2.0, 3.0], [1.5, 2.6, 3.4])
    >>> found.high < 0
    True
    """
    a, b = real_array(ours, "ours", ndim=1), real_array(theirs, "theirs", ndim=1)
    if a.size != b.size:
        raise ValueError(f"`ours` and `theirs` must be pairs of repetitions, got {a.size} and {b.size}.")
    return t_interval(a - b, level=level)


def bootstrap_interval(
    items: ArrayLike,
    statistic: Callable[[Float], Any] = lambda rows: rows.mean(axis=-1),
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a statistic of independent items, from `resamples` draws of as many with replacement.

    For a mean-like statistic of one number per item, where there are no repetitions; a Fréchet distance must not be
    bootstrapped, since repeated items raise its bias.

    Parameters
    ----------
    items : (n,) array
        n >= 2.
    statistic : callable
        From (resamples, n) to (resamples,), vectorised over rows; the mean by default.
    level, resamples, seed
        Of the interval; >= 1; reproducible.

    Raises
    ------
    ValueError
        If there are fewer than two items.

    Examples
    --------
    >>> found = bootstrap_interval(np.arange(10.0))
    >>> found.mean, found.low < 4.5 < found.high
    (4.5, True)
    """
    x = real_array(items, "items", ndim=1)
    share = real_number(level, "level", minimum=0.0, maximum=1.0, exclusive=True)
    count = integer(resamples, "resamples")
    if x.size < 2:
        raise ValueError(f"`items` must hold at least 2 items, got {x.size}.")
    rng = np.random.default_rng(integer(seed, "seed", minimum=0))
    size = max(1, _BLOCK_NUMBERS // x.size)
    drawn = [
        np.atleast_1d(statistic(x[rng.integers(0, x.size, (min(size, count - first), x.size))]))
        for first in range(0, count, size)
    ]
    low, high = np.quantile(np.concatenate(drawn), [0.5 * (1 - share), 0.5 * (1 + share)])
    return Interval(float(np.atleast_1d(statistic(x[None]))[0]), float(low), float(high), x.size)


def _two_samples(x: ArrayLike, y: ArrayLike) -> tuple[Float, Float]:
    a, b = real_array(x, "x", ndim=2), real_array(y, "y", ndim=2)
    if a.shape[1] != b.shape[1] or not a.shape[1]:
        raise ValueError(f"`x` and `y` must have the same dimensions, got shapes {a.shape} and {b.shape}.")
    if min(len(a), len(b)) < 2:
        raise ValueError(f"`x` and `y` must hold at least 2 items each, got {len(a)} and {len(b)}.")
    return a, b


def _moments_root(x: Float) -> tuple[Float, Float]:
    """The mean, and R with R^T R the unbiased covariance."""
    mean = x.mean(axis=0)
    return mean, np.asarray(np.linalg.qr((x - mean) / math.sqrt(len(x) - 1), mode="r"))
