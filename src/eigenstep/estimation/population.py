"""The spectrum of the population behind a sample: the nonnegative measure whose degrees of freedom fit what was seen."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from eigenstep._checks import Float, integer, real_array
from eigenstep.estimation.curve import (
    DofCurve,
    dof_from_parts,
    dof_from_samples,
    dof_from_spectrum,
    group_labels,
    noise_covariance,
    resolvable,
    with_deviations,
)
from eigenstep.estimation.evidence import LEFT_OUT, kept_curve, kept_variance_error
from eigenstep.moments import Accumulator, GramMoments, Moments
from eigenstep.spectrum import RankWarning, Spectrum

_ATOMS = 200
_REACH = 1e-3
"""Atoms reach down to this fraction of the lowest level, for variance that is felt only as a sum."""
_DRAWS = 64
_NORMAL_95 = 1.959964
_MODEL_ERROR = 1e-4
"""Relative error granted to the theory itself; without it, rounding decides."""


@dataclass(frozen=True)
class Population:
    r"""Estimated population spectrum, the curve it was fitted to, and what else the samples might have meant.

    The measure sum_j M_j delta(t_j), M_j >= 0, on a fixed logarithmic grid of t, is fitted by nonnegative least squares

        dof_hat(kappa_k) = sum_j M_j t_j/(t_j + kappa_k) + error,    cov(error) from `noise_covariance`

    with the dimension and trace kept. The kernel is the planner's own: grids see a spectrum through smooth functions of
    lambda/(lambda + sigma^2), so what this fit cannot resolve, a plan does not need. `spectrum` is
    the mean of fits to curves drawn from the first fit with its noise (a parametric bootstrap): smooth where the data leave
    it open, sharp where they do not.

    The idea of inverting the Marchenko-Pastur equation on a grid is El Karoui's (Ann. Statist. 36 (2008) 2757); the real
    axis, the noise covariance and the left-out samples are not.

    Attributes
    ----------
    spectrum : Spectrum
        At most 200 eigenvalues with real multiplicities; `n_samples`, `item_shape` and provenance are kept.
    replicates : tuple of Spectrum
        What else it might have been, for `half_width`: the fits to the drawn curves, or, from samples, the estimates without
        each of some ten groups of them (a delete-a-group jackknife).
    spread : float
        Factor from the replicates' standard deviation to the standard error. For drawn curves `inflation`; for G groups left
        out (G-1)/sqrt(G), and Student's quantile over the normal one, since G is small.
    curve : DofCurve
        What was fitted.
    inflation : float
        Standard error of the curve over that of independent Gaussian samples, root mean square over its levels, by jackknife;
        1.0 where it was not measured, or is less.
    resolution : float
        Noise level sigma below which the samples say nothing of single eigenvalues, only of their sum; data units. The
        spectrum below resolution^2 is one of many that would do.
    variance_error : float or None
        Relative standard error of the total variance, where it was measured on the samples and kept with the spectrum.

    Examples
    --------
    >>> truth = 1.0 / np.arange(1, 401) ** 1.5
    >>> x = np.random.default_rng(0).standard_normal((100, 400)) * np.sqrt(truth)
    >>> seen = np.linalg.svd(x - x.mean(axis=0), compute_uv=False) ** 2 / 99
    >>> sample = Spectrum.from_eigenvalues(np.append(seen[:99], np.zeros(301)), n_samples=100)
    >>> population = Population.from_spectrum(sample)
    >>> dof = lambda lam, m: round(float(m @ (lam / (lam + 0.02))))                   # what a step at sigma = 0.14 feels
    >>> dof(sample.eigenvalues, sample.multiplicities), dof(truth, np.ones(400))
    (23, 27)
    >>> dof(population.spectrum.eigenvalues, population.spectrum.multiplicities)
    27
    """

    spectrum: Spectrum
    replicates: tuple[Spectrum, ...]
    spread: float
    curve: DofCurve
    inflation: float
    resolution: float
    variance_error: float | None = None

    @property
    def measured(self) -> bool:
        """Whether the uncertainty was measured on samples or parts left out, and not derived for Gaussian samples."""
        return len(self.curve.deviations) > 0 or self.variance_error is not None

    @property
    def noise_floor(self) -> float:
        """A floor tau for `kl` that these samples support: the larger of `spectrum.std` and `resolution`; data units.

        Details below the data's own standard deviation per dimension are not what the eye or ear judges by (theory
        section 5: floors near it predict sample quality), and below `resolution` the samples say nothing of them.
        """
        return max(self.spectrum.std, self.resolution)

    def at_rank(self, ranks: ArrayLike) -> tuple[Float, Float, Float]:
        """Eigenvalue of each rank (1 for the largest), and its 95 % interval; squared data units. `ranks` is (k,).

        Eigenvalues are interpolated, logarithm against rank, between the middles of the atoms' shares.

        Raises
        ------
        ValueError
            Ranks below 1 or above the dimension.

        Examples
        --------
        >>> population = Population.from_spectrum(Spectrum.from_zoo("digits"))
        >>> middle, low, high = population.at_rank([1, 10])
        >>> bool(np.all(low < middle) and np.all(middle < high))
        True
        """
        wanted = real_array(ranks, "ranks", ndim=1)
        if wanted.size and not 1 <= wanted.min() <= wanted.max() <= self.curve.dim:
            raise ValueError(f"`ranks` must lie between 1 and {self.curve.dim:g}, got {wanted.min():g} to {wanted.max():g}.")
        middle = _at_rank(self.spectrum, wanted)
        # A replicate may know more directions to be without variance; no eigenvalue is told from one so far below.
        least = _REACH * self.resolution**2
        curves = [np.log(np.maximum(_at_rank(one, wanted), least)) for one in self.replicates]
        half = np.exp(self.half_width(curves))
        low, high = middle / half, middle * half
        # Eigenvalues descend: what bounds one from above bounds all that follow, and from below all before.
        order = np.argsort(wanted, kind="stable")
        high[order] = np.minimum.accumulate(high[order])
        low[order[::-1]] = np.maximum.accumulate(low[order[::-1]])
        return middle, low, high

    def half_width(self, values: ArrayLike) -> Float:
        """Half the 95 % interval of a quantity, from its value on each of `replicates` (first axis).

            1.96 spread (standard deviation over the replicates)

        Take logarithms of quantities that are positive.

        Raises
        ------
        ValueError
            Not one value for each replicate.
        """
        given = real_array(values, "values")
        if given.ndim == 0 or len(given) != len(self.replicates):
            raise ValueError(f"`values` must hold one entry per replicate ({len(self.replicates)}), got shape {given.shape}.")
        return np.asarray(_NORMAL_95 * self.spread * np.std(given, axis=0, ddof=1))

    @classmethod
    def from_spectrum(cls, spectrum: Spectrum, *, replicates: int = 64, seed: int = 0) -> Population:
        """From sample eigenvalues, and from what `with_evidence` kept beside them.

        Alone, they take independent samples, Gaussian or nearly so, for granted. Heavy tails and mixtures break that
        (measured on images: docs/few_samples.md). A kept curve takes its place; a kept error of the total variance, where
        it exceeds that of such samples, goes to the replicates as a common factor of all eigenvalues.

        Raises
        ------
        ValueError
            `n_samples` is unknown or below 3; as `dof_from_spectrum` does.
        """
        silverstein = dof_from_spectrum(spectrum)
        curve = kept_curve(spectrum) or silverstein
        fitted = cls._fitted(curve, spectrum, replicates, seed)
        error = kept_variance_error(spectrum)
        return fitted if error is None else fitted._with_variance_error(error, seed)

    @classmethod
    def from_samples(
        cls, x: ArrayLike, *, groups: ArrayLike | None = None, folds: int | None = None, seed: int = 0, **record: Any
    ) -> Population:
        """From the samples: nothing is assumed of their distribution but that they (or `groups`) are independent.

        Parameters
        ----------
        x, groups
            As in `dof_from_samples`.
        folds : int, optional
            Groups of samples that are left out in turn for the replicates: the whole estimate is made as many times more. None
            takes 10, or 5 beyond 1000 samples, where each takes seconds. 0, or too few samples for it (fewer than 6, or 3
            groups), draws curves instead, for Gaussian samples.
        seed : int
            For the deal of samples into folds, and for the smoothing.
        record
            Goes to `Spectrum.from_samples`, for its provenance.

        Raises
        ------
        ValueError
            As `dof_from_samples` and `Spectrum.from_samples` do.
        """
        rows = np.asarray(x)
        folds = (10 if len(rows) <= 1000 else 5) if folds is None else integer(folds, "folds", minimum=0)
        curve = dof_from_samples(rows, groups=groups)
        with warnings.catch_warnings():
            # The want of samples is what is being mended.
            warnings.simplefilter("ignore", RankWarning)
            seen = Spectrum.from_samples(rows, **record)
        labels = np.arange(len(rows)) if groups is None else group_labels(groups, len(rows))
        kinds = int(labels.max()) + 1
        if folds < 2 or kinds < (6 if groups is None else 3):
            return cls._fitted(curve, seen, _DRAWS, seed)
        fold_of = np.random.default_rng(seed).permutation(kinds) % min(folds, kinds)
        others = []
        for fold in range(min(folds, kinds)):
            kept = fold_of[labels] != fold
            others.append(dof_from_samples(rows[kept], groups=None if groups is None else labels[kept]))
        curve = with_deviations(curve, [(other.dof, other.levels) for other in others])
        return cls._fitted(curve, seen, _DRAWS, seed, others)

    @classmethod
    def from_parts(cls, parts: Sequence[Moments], *, replicates: int = 64, seed: int = 0) -> Population:
        """From accumulators of separate parts of the data, as many machines or `--checkpoint` leave them.

        Raises
        ------
        ValueError
            As `dof_from_parts` does.
        """
        curve = dof_from_parts(parts)
        whole = deepcopy(parts[0])
        for part in parts[1:]:
            whole.merge(part)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RankWarning)
            seen = whole.spectrum()
        return cls._fitted(curve, seen, replicates, seed)

    @classmethod
    def from_moments(cls, moments: Accumulator, *, replicates: int = 64, seed: int = 0) -> Population:
        """From one accumulator: a Gram form still holds its samples, of the others only the spectrum is left.

        `replicates` matters to the latter.

        Raises
        ------
        ValueError
            As `from_samples` or `from_spectrum` do; a stationary form.
        """
        if isinstance(moments, GramMoments):
            return cls.from_samples(moments.items.reshape(-1, *moments.item_shape), seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RankWarning)
            seen = moments.spectrum()
        return cls.from_spectrum(seen, replicates=replicates, seed=seed)

    def _with_variance_error(self, error: float, seed: int) -> Population:
        """The replicates times a common factor, for what the total variance varies beyond independent Gaussian samples."""
        lam, m = self.spectrum.eigenvalues, self.spectrum.multiplicities
        gaussian = 2 * float(m @ lam**2) / (self.curve.freedom * self.spectrum.trace**2)
        beyond = np.sqrt(max(error**2 - gaussian, 0.0))
        normals = _balanced_normals(np.random.default_rng(seed + 1), len(self.replicates), 1)[:, 0]
        factors = np.exp(beyond * normals)
        again = [replace(one, eigenvalues=one.eigenvalues * by) for one, by in zip(self.replicates, factors, strict=True)]
        return replace(self, replicates=tuple(again), variance_error=error)

    @classmethod
    def _fitted(
        cls, curve: DofCurve, seen: Spectrum, replicates: int, seed: int, others: Sequence[DofCurve] = ()
    ) -> Population:
        """From a curve, and from those of the samples without each fold, where they were made."""
        replicates = integer(replicates, "replicates", minimum=2)
        record = {"estimated": f"population spectrum from {seen.n_samples} samples: {curve.method}"}
        # The curve was for this estimate; as a record of it, its method is enough.
        kept = {key: value for key, value in seen.provenance.items() if key != LEFT_OUT}
        seen = replace(seen, provenance={**kept, **record})
        fit = _Fit(curve)
        draws = fit.draws(replicates, seed)
        if others:
            count = len(others)
            fits = [_Fit(other) for other in others]
            again = [_spectrum(np.mean(one.draws(replicates, seed), axis=0), one, seen) for one in fits]
            spread = (count - 1) / np.sqrt(count) * _student_95(count - 1) / _NORMAL_95
        else:
            again = [_spectrum(draw, fit, seen) for draw in draws]
            spread = fit.inflation
        return cls(
            spectrum=_spectrum(np.mean(draws, axis=0), fit, seen),
            replicates=tuple(again),
            spread=float(spread),
            curve=curve,
            inflation=fit.inflation,
            resolution=float(np.sqrt(curve.levels[0])),
        )


class _Fit:
    """Nonnegative least squares of multiplicities on `atoms`, whitened by the noise of the curve."""

    def __init__(self, curve: DofCurve) -> None:
        atoms = np.geomspace(_REACH * curve.levels[0], 1.3 * curve.largest, _ATOMS)
        self.atoms = atoms
        self.zeros = curve.zeros
        self.dim = curve.dim - curve.zeros
        self.trace = curve.trace
        levels, dof = curve.levels, curve.dof
        design = atoms / (atoms + levels[:, None])
        first = self._solve(design * (100 / np.sqrt(dof))[:, None], 100 * np.sqrt(dof), self.trace)
        usable = resolvable(atoms, first, curve.freedom, levels)
        # The highest levels are always usable: a curve cannot be lost whole.
        usable[-8:] = True
        self.levels, self.dof, self.design = levels[usable], dof[usable], design[usable]
        self.multiplicities = first
        for _ in range(2):
            covariance = noise_covariance(atoms, self.multiplicities, curve.freedom, self.levels)
            covariance += np.diag((_MODEL_ERROR * self.dof) ** 2)
            self.root = np.linalg.cholesky(covariance)
            self.whiten = np.linalg.inv(self.root)
            self.multiplicities = self._solve(self.whiten @ self.design, self.whiten @ self.dof, self.trace)
        ratio = float(np.mean(np.sum(curve.deviations[:, usable] ** 2, axis=0) / covariance.diagonal()))
        self.inflation = max(ratio, 1.0) ** 0.5

    def draws(self, count: int, seed: int) -> list[Float]:
        """Multiplicities fitted to curves drawn from the fit."""
        normals = _balanced_normals(np.random.default_rng(seed), count, self.levels.size)
        return [self._replicate(self.root @ row) for row in normals]

    def _replicate(self, noise: Float) -> Float:
        # Far above the largest eigenvalue dof = trace / kappa: the trace moves with the curve's upper end.
        trace = max(self.trace + self.levels[-1] * float(noise[-1]), 0.1 * self.trace)
        drawn = self.design @ self.multiplicities + noise
        return self._solve(self.whiten @ self.design, self.whiten @ drawn, trace)

    def _solve(self, design: Float, target: Float, trace: float) -> Float:
        from scipy.optimize import nnls

        firm = 1e4
        rows = np.vstack([design, firm / trace * self.atoms, np.full(self.atoms.size, firm / self.dim)])
        scale = np.sqrt((rows**2).sum(axis=0))
        found, _ = nnls(rows / scale, np.concatenate([target, [firm, firm]]), maxiter=100 * self.atoms.size)
        return np.asarray(found / scale)


def _balanced_normals(rng: np.random.Generator, count: int, size: int) -> Float:
    """Standard normal rows whose sample mean is zero and, where there are enough, whose sample covariance is exact.

    Intervals from some dozens of replicates are then free of the luck of their draw, to second order.
    """
    normals = rng.standard_normal((count, size))
    normals -= normals.mean(axis=0)
    if count > size + 1:
        normals = np.sqrt(count - 1) * np.linalg.qr(normals)[0]
    return normals


def _spectrum(multiplicities: Float, fit: _Fit, seen: Spectrum) -> Spectrum:
    """Atoms with a share worth keeping, the known zeros, exact dimension and trace kept, and the mean's energy."""
    kept = multiplicities > 1e-9 * fit.dim
    m, lam = multiplicities[kept][::-1], fit.atoms[kept][::-1]
    # The firm rows hold to 1e-4 or so: the rest is put right by scaling.
    m = m * (fit.dim / m.sum())
    if fit.zeros > 0:
        lam, m = np.append(lam, 0.0), np.append(m, fit.zeros)
    # The atoms are no directions of the data: they have no eigenvectors.
    return replace(
        seen,
        eigenvalues=lam,
        multiplicities=m,
        mean_energy=_mean_energy(seen, lam, m),
        binning_error=0.0,
        mean=None,
        basis=None,
    )


def _student_95(freedom: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))


def _at_rank(spectrum: Spectrum, ranks: Float) -> Float:
    positive = spectrum.eigenvalues > 0
    lam, m = spectrum.eigenvalues[positive], spectrum.multiplicities[positive]
    middles = np.cumsum(m) - 0.5 * m
    found: Float = np.exp(np.interp(ranks - 0.5, middles, np.log(lam)))
    return np.where(ranks - 0.5 > m.sum(), 0.0, found)


def _mean_energy(seen: Spectrum, lam: Float, m: Float) -> Float:
    """The sample mean's energy by rank, less the noise lambda/n that a mean of n samples carries in each direction.

    Directions keep their order of variance: the energy of the ranks that a new eigenvalue covers becomes its own.
    """
    if not seen.mean_energy.any():
        return np.zeros_like(lam)
    ranks = np.concatenate(([0.0], np.cumsum(seen.multiplicities))) / seen.multiplicities.sum()
    totals = np.concatenate(([0.0], np.cumsum(seen.mean_energy)))
    edges = np.concatenate(([0.0], np.cumsum(m))) / m.sum()
    energy = np.diff(np.interp(edges, ranks, totals))
    assert seen.n_samples is not None
    noise = m * lam / seen.n_samples
    # What noise alone explains is taken off the whole and not below zero anywhere.
    left: Float = np.maximum(energy - noise, 0.0)
    return left
