"""What only the samples can say about a spectrum, kept in its provenance, so that a saved spectrum can be mended too.

Two things: the degrees of freedom with each sample left out (`dof_from_samples`), which need no Gaussian samples, and how
sure the total variance is. Eigenvalues alone assume independent Gaussian-like samples, whose total variance has a relative
standard error of sqrt(2 / (n effective_rank)); windows of one record, or a few loud items, make it many times as large, and
every planned level goes with its root.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from eigenstep._checks import Float, integer, real_array, real_number
from eigenstep.estimation.curve import DofCurve, freedom_of, group_labels
from eigenstep.spectrum import JSON, Spectrum

LEFT_OUT, VARIANCE_ERROR = "left_out", "variance_error"
"""The names in a provenance."""
RUNS = 24


def variance_error(energies: ArrayLike, *, groups: int | ArrayLike = RUNS) -> float:
    r"""Relative standard error of the total variance, by leaving out groups of samples.

        T_g = mean of |x_i - mean|^2 over the samples outside group g
        error = sqrt((G-1)/G sum_g (T_g - mean T)^2) / mean T

    Parameters
    ----------
    energies : (n,) of n >= 3
        Squared distance of each sample from the mean, in the order they were taken; squared data units.
    groups : int or (n,) labels
        A number takes so many runs of neighbours (at most n), of equal length: samples that depend on each other are
        neighbours as a rule. Labels where it is known what belongs together, as records.

    Degenerate cases: samples of one energy give 0.

    Raises
    ------
    ValueError
        Fewer than 3 samples, negative or no energy, fewer than 2 groups, labels of another length.

    Source: delete-a-group jackknife, Efron and Tibshirani (1993), section 11.5.

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((3000, 8))
    >>> print(f"{variance_error(np.sum(x**2, axis=1)):.4f}, in theory {np.sqrt(2 / 3000 / 8):.4f}")
    0.0085, in theory 0.0091
    """
    energy = real_array(energies, "energies", ndim=1)
    n = integer(energy.size, "number of samples", minimum=3)
    if energy.min() < 0 or not energy.sum() > 0:
        raise ValueError(f"`energies` must be squared distances, not all of them 0, got {energy.min():g} and up.")
    if np.ndim(groups) == 0:
        labels = np.arange(n) * min(integer(groups, "groups", minimum=2), n) // n
    else:
        labels = group_labels(groups, n)
    sizes, sums = np.bincount(labels), np.bincount(labels, energy)
    without = (energy.sum() - sums) / (n - sizes)
    count = sizes.size
    spread = (count - 1) / count * np.sum((without - without.mean()) ** 2)
    return float(np.sqrt(spread) / without.mean())


def with_evidence(spectrum: Spectrum, *, curve: DofCurve | None = None, error: float | None = None) -> Spectrum:
    """The spectrum with what its samples said of it in its provenance; `Population.from_spectrum` then uses that.

    Parameters
    ----------
    spectrum : Spectrum
        Of those samples, as measured.
    curve : DofCurve, optional
        From `dof_from_samples`: kept as `left_out`.
    error : float, optional
        From `variance_error`, >= 0: kept as `variance_error`.

    Raises
    ------
    ValueError
        `curve` is of other data: of another dimension or number of samples.

    Examples
    --------
    >>> from eigenstep.estimation import Population, dof_from_samples
    >>> x = np.random.default_rng(0).standard_t(3, (300, 100))
    >>> kept = with_evidence(Spectrum.from_samples(x), curve=dof_from_samples(x), error=0.1)
    >>> Population.from_spectrum(kept).curve.method, kept.provenance["variance_error"]
    ('samples left out one by one', 0.1)
    """
    added: dict[str, JSON] = {}
    if curve is not None:
        if curve.dim != spectrum.dim or curve.freedom + 1 != spectrum.n_samples:
            raise ValueError(
                f"`curve` must be of the spectrum's own samples, got one of {curve.freedom + 1} samples of {curve.dim:g} "
                f"dimensions for a spectrum of {spectrum.n_samples} of {spectrum.dim:g}."
            )
        # Nine digits: the curve is an estimate, and its file is to be read by people too.
        added[LEFT_OUT] = {
            "method": curve.method,
            "levels": [float(f"{level:.9g}") for level in curve.levels],
            "dof": [float(f"{value:.9g}") for value in curve.dof],
            "zeros": curve.zeros,
        }
    if error is not None:
        added[VARIANCE_ERROR] = float(f"{real_number(error, 'error', minimum=0.0):.3g}")
    return replace(spectrum, provenance={**spectrum.provenance, **added})


def kept_curve(spectrum: Spectrum) -> DofCurve | None:
    """The curve in a provenance; None where there is none."""
    record = spectrum.provenance.get(LEFT_OUT)
    if not isinstance(record, Mapping):
        return None
    levels: Float = real_array(record["levels"], "left_out levels", ndim=1)  # type: ignore[arg-type]
    return DofCurve(
        levels=levels,
        dof=real_array(record["dof"], "left_out dof", ndim=1),  # type: ignore[arg-type]
        deviations=np.empty((0, levels.size)),
        freedom=freedom_of(spectrum),
        dim=float(spectrum.dim),
        zeros=float(record["zeros"]),  # type: ignore[arg-type]
        trace=spectrum.trace,
        largest=float(spectrum.eigenvalues[0]),
        method=str(record["method"]),
    )


def kept_variance_error(spectrum: Spectrum) -> float | None:
    """The error in a provenance; None where there is none."""
    error = spectrum.provenance.get(VARIANCE_ERROR)
    return None if error is None else real_number(error, "variance_error", minimum=0.0)
