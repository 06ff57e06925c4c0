r"""The one function of the population that few samples do give: its effective degrees of freedom at a noise level.

    dof(kappa) = sum_i m_i lambda_i / (lambda_i + kappa),    kappa = sigma^2

It is the Cramer-Rao curve b(sigma) divided by sigma^2 (theory section 7). A ridge of strength x on n samples sees the
population at a level kappa(x) above x, because the samples' own noise acts as more ridge:

    dof(kappa) = tr S (S + x)^-1,    kappa = x  tr Sigma (S' + x)^-1 / tr S' (S' + x)^-1                            (a)

where S' is a covariance from which the samples that Sigma is felt through were left out. The first factor's mean over
left-out samples needs nothing of their distribution; that the resolvent (S' + x)^-1 is close to a multiple of
(Sigma + kappa)^-1 is the deterministic equivalent of random matrix theory (Silverstein 1995), for samples that are
independent and alike up to their size. For Gaussian samples the left-out trace is known from the eigenvalues alone and
(a) becomes Silverstein's equation kappa = x / (1 - dof/(n-1)).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eigenstep._checks import Float, integer, sample_array
from eigenstep.moments import Moments
from eigenstep.spectrum import Spectrum

_LEVELS = 48
_RIDGES = 160
_TRIES = 400


@dataclass(frozen=True)
class DofCurve:
    """Estimated degrees of freedom of the population at ascending levels, and how noisy they are.

    Attributes
    ----------
    levels : (J,)
        kappa = sigma^2, ascending, squared data units. Below the lowest one the samples resolve nothing.
    dof : (J,)
        Estimate of sum m lambda / (lambda + kappa).
    deviations : (G, J)
        Delete-a-group jackknife: the sum of squares of a column is the variance of that `dof` as these samples vary. No rows
        (G = 0) where that was not measured.
    freedom : int
        Samples that the curve was made with, less the one the mean took.
    dim : float
        Dimension of the data.
    zeros : float
        Directions known to have no variance at all.
    trace : float
        Unbiased total variance, squared data units.
    largest : float
        Largest sample eigenvalue, squared data units: no population eigenvalue is above it, in effect.
    method : str
        How `levels` was found, in words.

    Examples
    --------
    >>> curve = dof_from_samples(np.random.default_rng(0).standard_normal((40, 100)))
    >>> curve.dim, round(curve.trace), curve.zeros
    (100.0, 100, 0.0)
    """

    levels: Float
    dof: Float
    deviations: Float
    freedom: int
    dim: float
    zeros: float
    trace: float
    largest: float
    method: str


def dof_from_spectrum(spectrum: Spectrum) -> DofCurve:
    r"""The curve from sample eigenvalues alone, on the assumption of independent Gaussian-like samples.

        kappa = x / (1 - dof/(n-1)),    dof = sum_i m_i l_i / (l_i + x)                                           (b)

    Parameters
    ----------
    spectrum : Spectrum
        Eigenvalues of a sample covariance, with `n_samples`; binned ones serve as well.

    Degenerate cases: with n > d the zero eigenvalues are taken to be real; with n <= d they are want of samples. With
    n >> d kappa = x and the curve is that of the spectrum itself.

    Raises
    ------
    ValueError
        `n_samples` is unknown or below 3, or the spectrum is of the stationary form or an estimate already.

    Source: Silverstein, J. Multivariate Anal. 55 (1995) 331, theorem 1.1, at z = -x.

    Examples
    --------
    >>> curve = dof_from_spectrum(Spectrum.from_eigenvalues([2.0, 1.0, 0.0, 0.0], n_samples=3))
    >>> curve.freedom, curve.levels.size, bool(curve.dof.max() < 2)
    (2, 48, True)
    """
    freedom = freedom_of(spectrum)
    why = why_final(spectrum)
    if why:
        raise ValueError(why)
    lam, m = spectrum.eigenvalues, spectrum.multiplicities
    zeros = 0.0 if freedom < spectrum.dim else float(spectrum.dim - spectrum.rank)
    ridges = _ridges(lam, _TRIES)
    dof, levels = gaussian_levels(lam, m, freedom, ridges)
    kept = _spread(levels)
    return DofCurve(
        levels=levels[kept],
        dof=dof[kept],
        deviations=np.empty((0, kept.size)),
        freedom=freedom,
        dim=float(spectrum.dim),
        zeros=zeros,
        trace=spectrum.trace,
        largest=float(lam[0]),
        method="sample eigenvalues, taken for those of independent Gaussian samples (Silverstein's equation)",
    )


def dof_from_samples(x: ArrayLike, *, groups: ArrayLike | None = None) -> DofCurve:
    r"""The curve from the samples themselves, by leaving each out: right for heavy tails and mixtures too.

        h_i = n/(n-1)^2  c_i^T (S + x)^-1 c_i,    kappa = x  mean_i h_i/(1-h_i) / mean_i h_i                       (c)

    c_i is sample i less the mean. h/(1-h) is what h would be had sample i been left out of S, so its mean is an unbiased
    estimate of tr Sigma (S' + x)^-1 / (n-1) whatever the distribution; h_i all equal gives back (b).

    Parameters
    ----------
    x : (n, ...) array of n >= 3 items
        In data units; items are flattened. Held in float64, beside a square matrix of side min(n, dim).
    groups : (n,) labels, optional
        Samples that belong together (windows of one record, frames of one film): they are left out together.

    Raises
    ------
    ValueError
        Fewer than 3 samples or 2 groups, constant data, NaN, labels of another length.

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((40, 100))
    >>> curve = dof_from_samples(x)
    >>> at_one = np.interp(1.0, curve.levels, curve.dof)                # 100 eigenvalues of 1: dof(1) = 50
    >>> curve.freedom, bool(curve.levels[0] > 1)                        # 39 samples cannot see below their own noise
    (39, True)
    """
    rows = sample_array(x, "x")
    rows = rows.reshape(len(rows), -1).astype(np.float64)
    n, dim = rows.shape
    integer(n, "number of samples", minimum=3)
    centred = rows - rows.mean(axis=0)
    labels = None if groups is None else group_labels(groups, n)
    freedom = n - 1
    constant = float(np.count_nonzero(np.ptp(rows, axis=0) == 0))
    gram = centred @ centred.T if n <= dim else centred.T @ centred
    if not gram.diagonal().max() > 0:
        raise ValueError(f"The data are constant: all {n} items are equal, so they have no covariance to measure.")
    lam, basis = np.linalg.eigh(gram / freedom)
    positive = lam > max(n, dim) * np.finfo(np.float64).eps * lam[-1]
    lam, basis = lam[positive][::-1], basis[:, positive][:, ::-1]
    # Left singular vectors of the centred samples: row i holds sample i's coordinates, each direction scaled to unit length.
    scores = basis if n <= dim else (centred @ basis) / np.sqrt(freedom * lam)
    ridges = _ridges(lam, _RIDGES)
    shrink = lam / (lam + ridges[:, None])
    left_out = _leave_one_out(scores, shrink) if labels is None else _leave_group_out(scores, shrink, labels)
    dof = shrink.sum(axis=1)
    levels = ridges * left_out * freedom / dof
    kept = _spread(levels)
    levels, dof = levels[kept], dof[kept]
    return DofCurve(
        levels=levels,
        dof=dof,
        deviations=np.empty((0, kept.size)),
        freedom=freedom,
        dim=float(dim),
        zeros=float(dim - lam.size) if n > dim else constant,
        trace=float(np.sum(centred**2)) / freedom,
        largest=float(lam[0]),
        method="samples left out one by one" if labels is None else "samples left out group by group",
    )


def dof_from_parts(parts: Sequence[Moments]) -> DofCurve:
    r"""The curve from dense accumulators of separate parts of the data, each part left out in turn.

        kappa = x  tr Sigma_g (S_-g + x)^-1 / tr S_-g (S_-g + x)^-1,  averaged over the parts g                    (d)

    This is (a) as it stands: the part's own covariance, about the others' mean, stands for Sigma. Nothing is assumed of
    the distribution, and samples of one part may depend on each other if those of different parts do not.

    Parameters
    ----------
    parts : sequence of at least 3 `Moments`
        In data units, all of one item shape, two items or more each.

    Raises
    ------
    ValueError
        Fewer than 3 parts, parts of other shapes, constant data.
    TypeError
        Accumulators of another form.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> parts = [Moments(3) for _ in range(4)]
    >>> for part in parts: part.update(rng.standard_normal((50, 3)))
    >>> curve = dof_from_parts(parts)
    >>> curve.freedom, round(float(np.interp(1.0, curve.levels, curve.dof)), 1)           # three eigenvalues of 1
    (149, 1.5)
    """
    integer(len(parts), "number of parts", minimum=3)
    for part in parts:
        if not isinstance(part, Moments):
            raise TypeError(
                f"`parts` must hold dense `Moments`, got {type(part).__name__}; the other forms keep no covariance."
            )
    shapes = {part.item_shape for part in parts}
    if len(shapes) > 1:
        raise ValueError(f"`parts` must hold items of one shape, got {', '.join(map(str, sorted(shapes)))}.")
    counts = np.array([part.count for part in parts])
    means = np.stack([part.mean.reshape(-1) for part in parts])
    n, dim = int(counts.sum()), means.shape[1]
    mean = counts @ means / n
    scatter = np.zeros((dim, dim))
    for part, centre in zip(parts, means, strict=True):
        scatter += (part.count - 1) * part.covariance() + part.count * np.outer(centre - mean, centre - mean)
    whole = Spectrum.from_covariance(scatter / (n - 1))
    ridges = _ridges(whole.eigenvalues, _RIDGES)
    ratios, dofs, eigenvalues = [], [], []
    for part, centre in zip(parts, means, strict=True):
        own = (part.count - 1) * part.covariance() + part.count * np.outer(centre - mean, centre - mean)
        rest = n - part.count
        others = (n * mean - part.count * centre) / rest
        shift = centre - mean
        # Scatter of the others about their own mean: the part's share goes, and so does the shift of the mean.
        remaining = scatter - own - part.count**2 / rest * np.outer(shift, shift)
        away = part.covariance() * (part.count - 1) + part.count * np.outer(centre - others, centre - others)
        lam, basis = np.linalg.eigh(remaining / (rest - 1))
        lam = np.maximum(lam, 0.0)
        felt = np.einsum("ij,ij->j", basis, away @ basis) / (part.count * (1 + 1 / rest))
        resolvent = 1 / (lam + ridges[:, None])
        ratios.append((resolvent @ felt) / (resolvent @ lam))
        dofs.append(resolvent @ lam)
        eigenvalues.append((lam, rest - 1))
    levels = ridges * np.average(ratios, axis=0, weights=counts)
    dof = np.average(dofs, axis=0, weights=counts)
    kept = _spread(levels)
    curve = DofCurve(
        levels=levels[kept],
        dof=dof[kept],
        deviations=np.empty((0, kept.size)),
        freedom=round(float(np.mean(n - counts))) - 1,
        dim=float(dim),
        zeros=float(whole.dim - whole.rank) if n > dim else 0.0,
        trace=float(scatter.trace()) / (n - 1),
        largest=float(whole.eigenvalues[0]),
        method=f"{len(parts)} parts left out in turn",
    )
    partial = []
    for lam, freedom in eigenvalues:
        lam = np.where(lam > 1e-13 * lam.max(), lam, 0.0)
        partial.append(gaussian_levels(lam, np.ones_like(lam), freedom, _ridges(lam, _TRIES)))
    return with_deviations(curve, partial)


def gaussian_levels(lam: Float, m: Float, freedom: int, ridges: Float) -> tuple[Float, Float]:
    """(b): degrees of freedom at each ridge, and the level kappa it stands for.

    1 - dof/freedom = (freedom - rank)/freedom + mean of x/(l + x): without the cancellation at small x.
    """
    positive = lam > 0
    lam, m = lam[positive], m[positive]
    kept = ridges[:, None] / (lam + ridges[:, None])
    spare = (freedom - m.sum() + kept @ m) / freedom
    return (1 - kept) @ m, ridges / spare


def noise_covariance(lam: Float, m: Float, freedom: int, levels: Float) -> Float:
    r"""Covariance of the estimated dof at pairs of levels, for Gaussian samples of a population (lam, m).

        C(k1, k2) = 2 k1 k2 / (N (1 - s/N)^2)  [A_0 - (A_0 A_2 - A_1^2)/N],
        s = sum m l^2/((l+k1)(l+k2)),    A_p = sum m l^(2+p) / ((l+k1)^2 (l+k2)^2)

    This is the central limit theorem for linear spectral statistics (Bai and Silverstein, Ann. Probab. 32 (2004) 553,
    eq. (1.7)) of the resolvent, in the coordinate kappa and free of its cancellations: with c' the derivative of
    x(kappa) = kappa (1 - dof/N), their kernel c'(k1) c'(k2)/(x1-x2)^2 - 1/(k1-k2)^2 is worked out by hand. For N >> dim it
    is what independent errors of relative variance 2/N in every eigenvalue give.

    Examples
    --------
    >>> one = np.ones(1)
    >>> noise_covariance(one, one, 800, one)                     # 2/N (lambda kappa/(lambda+kappa)^2)^2 (1 + ...)
    array([[0.00015635]])
    """
    gain = lam / (lam + levels[:, None])
    slope = gain / (lam + levels[:, None])
    s = (gain * m) @ gain.T
    moments = [(slope * (m * lam**p)) @ slope.T for p in range(3)]
    bracket = moments[0] - (moments[0] * moments[2] - moments[1] ** 2) / freedom
    covariance: Float = 2 * np.outer(levels, levels) / freedom * bracket / (1 - s / freedom) ** 2
    return covariance


def with_deviations(curve: DofCurve, partial: Sequence[tuple[Float, Float]]) -> DofCurve:
    """The curve with jackknife deviations sqrt((G-1)/G) (y_g - mean y), from the (dof, levels) without each of G parts."""
    values = [np.interp(curve.levels, levels, dof, left=np.nan) for dof, levels in partial]
    away = np.array(values) - np.mean(values, axis=0)
    # Levels that some part does not reach take the deviations of the lowest one that all reach.
    lowest = int(np.argmax(np.isfinite(away).all(axis=0)))
    away[:, :lowest] = away[:, lowest : lowest + 1]
    return replace(curve, deviations=np.sqrt((len(values) - 1) / len(values)) * away)


def resolvable(lam: Float, m: Float, freedom: int, levels: Float) -> NDArray[np.bool_]:
    """Levels at which the resolvent still responds to the population: 1 - sum m (l/(l+k))^2 / N at least 0.02.

    At zero the ridge alone holds the matrix up: with n close to dim, errors there grow without bound.
    """
    usable: NDArray[np.bool_] = 1 - ((lam / (lam + levels[:, None])) ** 2 @ m) / freedom >= 0.02
    return usable


def freedom_of(spectrum: Spectrum) -> int:
    """n - 1, or a refusal where the number of samples is unknown or too small to say anything."""
    if spectrum.n_samples is None:
        raise ValueError(
            "`spectrum.n_samples` is not known, so its eigenvalues cannot be told from those of the population; pass "
            "`n_samples` where the spectrum is made."
        )
    return integer(spectrum.n_samples, "spectrum.n_samples", minimum=3) - 1


def why_final(spectrum: Spectrum) -> str:
    """Why these are no sample eigenvalues to mend; empty where they are."""
    if spectrum.provenance.get("form") == "stationary":
        return (
            "`spectrum` comes from the stationary form, whose powers are averages over frequencies, not eigenvalues of a "
            "sample covariance: they carry no bias to undo. Use it as it is."
        )
    if "estimated" in spectrum.provenance:
        return f"`spectrum` is an estimate already ({spectrum.provenance['estimated']}); pass the sample's own spectrum."
    return ""


def _ridges(lam: Float, count: int) -> Float:
    """Ridges from well below the smallest positive eigenvalue to well above the largest."""
    smallest = max(float(lam[lam > 0].min()), 1e-14 * float(lam.max()))
    return np.geomspace(0.01 * smallest, 100.0 * float(lam.max()), count)


def _spread(levels: Float) -> NDArray[np.intp]:
    """Indices of about 48 levels that ascend in equal ratios: more say nothing new, since the curve is smooth."""
    top = np.maximum.accumulate(levels)
    ascending = np.flatnonzero(np.concatenate(([True], levels[1:] > 1.0001 * top[:-1])))
    wanted = np.geomspace(levels[ascending[0]], levels[ascending[-1]], _LEVELS) * (1 - 1e-9)
    near = np.searchsorted(levels[ascending], wanted).clip(0, ascending.size - 1)
    kept: NDArray[np.intp] = ascending[np.unique(near)]
    return kept


def group_labels(groups: ArrayLike, n: int) -> NDArray[np.intp]:
    """Labels as numbers 0, 1, ..., refused where they are not one per sample or name one group only."""
    names = np.asarray(groups)
    if names.shape != (n,):
        raise ValueError(f"`groups` must hold one label per sample ({n}), got shape {names.shape}.")
    labels: NDArray[np.intp] = np.unique(names, return_inverse=True)[1]
    if labels.max() == 0:
        raise ValueError("`groups` must name at least 2 groups, so that one can be left out; got one.")
    return labels


def _leave_one_out(scores: Float, shrink: Float) -> Float:
    """mean_i h_i/(1-h_i) for every ridge, in parts that stay small in memory. The mean's own share is a = n/(n-1)."""
    n = len(scores)
    a = n / (n - 1)
    total = np.zeros(len(shrink))
    for rows in np.array_split(scores, -(-n // 4096)):
        h = a * (rows**2 @ shrink.T)
        total += (h / np.maximum(1 - h, 1e-9)).sum(axis=0)
    return total / n


def _leave_group_out(scores: Float, shrink: Float, labels: NDArray[np.intp]) -> Float:
    """The same with blocks: tr B M, M = H (1-H)^-1 for H = B^1/2 U_g diag(shrink) U_g^T B^1/2, B = 1 + 11^T/(n-n_g).

    B undoes the centring on a mean that the group took part in.
    """
    n = len(scores)
    total = np.zeros(len(shrink))
    for label in range(labels.max() + 1):
        rows = scores[labels == label]
        size = len(rows)
        # B^1/2 rows: adding a multiple of the column sums, since B is a projection off the identity.
        stretch = (np.sqrt(1 + size / (n - size)) - 1) / size
        rows = rows + stretch * rows.sum(axis=0)
        start = 0
        for factors in np.array_split(shrink, -(-shrink.shape[0] * rows.size // 2**22)):
            hat, vectors = np.linalg.eigh((rows * factors[:, None, :]) @ rows.T)
            outside = vectors.sum(axis=1) ** 2 / (n - size)
            kept = np.sum(hat / np.maximum(1 - hat, 1e-9) * (1 + outside), axis=1) / (1 + 1 / (n - size))
            total[start : start + len(factors)] += kept
            start += len(factors)
    return total / n
