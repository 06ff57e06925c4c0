"""Classical shrinkages of sample eigenvalues, for comparison: they are made for other ends than a plan.

All three choose the matrix closest to the covariance (in Frobenius norm, or a loss near it) among those with the sample's
eigenvectors. Its eigenvalues u^T Sigma u are drawn together by design, more than the population's own: with few samples a
plan made with them is worse than one made with `Population`. They say how far the sample is from its population.
"""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from eigenstep._checks import Float, integer, sample_array
from eigenstep.estimation.curve import freedom_of
from eigenstep.spectrum import RankWarning, Spectrum


def oracle_approximating_shrinkage(spectrum: Spectrum) -> Spectrum:
    r"""Linear shrinkage towards the mean eigenvalue, from the spectrum alone: for Gaussian samples.

        l' = (1 - a) l + a tr S/d,
        a = min(1, ((1 - 2/d) tr S^2 + (tr S)^2) / ((N + 1 - 2/d) (tr S^2 - (tr S)^2/d))),    N = n - 1

    Parameters
    ----------
    spectrum : Spectrum
        Sample eigenvalues with `n_samples`.

    Degenerate cases: equal eigenvalues stay as they are (a = 1).

    Raises
    ------
    ValueError
        `n_samples` is unknown or below 3.

    Source: Chen, Wiesel, Eldar, Hero, IEEE Trans. Signal Process. 58 (2010) 5016, eq. (23): the linear shrinkage that needs
    no fourth moments of the samples; scikit-learn's `OAS` leaves the 2/d out.

    Examples
    --------
    >>> oracle_approximating_shrinkage(Spectrum.from_eigenvalues([3.0, 1.0], n_samples=8)).eigenvalues
    array([2., 2.])
    """
    freedom = freedom_of(spectrum)
    lam, m, dim = spectrum.eigenvalues, spectrum.multiplicities, float(spectrum.dim)
    squares, trace = float(m @ lam**2), spectrum.trace
    distance = squares - trace**2 / dim
    wanted = (1 - 2 / dim) * squares + trace**2
    room = (freedom + 1 - 2 / dim) * distance
    weight = 1.0 if wanted >= room else wanted / room
    return _linear(spectrum, weight, "oracle approximating shrinkage")


def ledoit_wolf_shrinkage(x: ArrayLike, **record: Any) -> Spectrum:
    r"""Linear shrinkage towards the mean eigenvalue, with the weight that the samples' fourth moments give.

        l' = (1 - a) l + a tr S/d,    a = min(1, b/|S - tr S/d|^2),    b = (1/n^2) sum_i |c_i c_i^T - S|^2

    with c_i the centred samples and S their covariance over n. scikit-learn's `ledoit_wolf` is the same number from a
    d x d matrix; this one takes min(n, d).

    Parameters
    ----------
    x : (n, ...) array of n >= 2 items
        In data units.
    record
        Goes to `Spectrum.from_samples`, for its provenance.

    Raises
    ------
    ValueError
        As `Spectrum.from_samples` does.

    Source: Ledoit, Wolf, J. Multivariate Anal. 88 (2004) 365, section 3.

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((30, 4)) * [3.0, 1.0, 1.0, 1.0]
    >>> ledoit_wolf_shrinkage(x).eigenvalues.round(3)
    array([7.022, 1.541, 1.167, 0.927])
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankWarning)
        spectrum = Spectrum.from_samples(x, **record)
    rows = sample_array(x, "x")
    rows = rows.reshape(len(rows), -1).astype(np.float64)
    n, dim = rows.shape
    rows = rows - rows.mean(axis=0)
    # |S|^2 with S over n, as in the paper; the spectrum's own are over n - 1.
    lam = spectrum.eigenvalues * ((n - 1) / n)
    squares = float(spectrum.multiplicities @ lam**2)
    distance = squares - float(spectrum.multiplicities @ lam) ** 2 / dim
    spread = float(np.sum(np.sum(rows**2, axis=1) ** 2)) / n**2 - squares / n
    weight = 1.0 if spread >= distance else spread / distance
    return _linear(spectrum, weight, "Ledoit-Wolf linear shrinkage")


def nonlinear_shrinkage(spectrum: Spectrum) -> Spectrum:
    r"""Analytical nonlinear shrinkage: each eigenvalue by the density of sample eigenvalues around it.

        l' = l / ((pi c l f)^2 + (1 - c - pi c l H f)^2),    c = d/N                                          (n > d)

    f is the density of the sample eigenvalues by Epanechnikov kernels of width N^(-1/3) l_j, H f its Hilbert transform. For
    n <= d the paper's formula for singular matrices applies, and all zero eigenvalues become one positive value.

    Parameters
    ----------
    spectrum : Spectrum
        Sample eigenvalues, not binned, with `n_samples` of 12 or more (the paper's own limit).

    Raises
    ------
    ValueError
        `n_samples` unknown or below 12, or positive eigenvalues with multiplicities other than 1.

    Source: Ledoit, Wolf, Ann. Statist. 48 (2020) 3043, section 4, and appendix C for n < d.

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((200, 100))
    >>> seen = np.linalg.svd(x - x.mean(axis=0), compute_uv=False) ** 2 / 199
    >>> shrunk = nonlinear_shrinkage(Spectrum.from_eigenvalues(seen, n_samples=200)).eigenvalues
    >>> print(f"{seen.max():.2f} {seen.min():.2f} -> {shrunk.max():.2f} {shrunk.min():.2f}")       # all are 1 in truth
    2.72 0.08 -> 1.22 0.63
    """
    freedom = freedom_of(spectrum)
    integer(freedom + 1, "spectrum.n_samples", minimum=12)
    positive = spectrum.eigenvalues > 0
    refuse_binned(spectrum)
    dim = float(spectrum.dim)
    lam = spectrum.eigenvalues[positive][::-1]
    missing = dim - lam.size
    width = freedom ** (-1 / 3)
    kernel = width * lam
    x = (lam[:, None] - lam) / kernel
    density = (0.75 / np.sqrt(5) * np.maximum(1 - x**2 / 5, 0) / kernel).mean(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithm = np.log(np.abs((np.sqrt(5) - x) / (np.sqrt(5) + x)))
        transform = -0.3 / np.pi * x + 0.75 / np.sqrt(5) / np.pi * (1 - x**2 / 5) * logarithm
    # At the kernel's edges the logarithm's pole is cancelled by the factor before it.
    transform = np.where(np.isfinite(transform), transform, -0.3 / np.pi * x)
    hilbert = (transform / kernel).mean(axis=1)
    c = dim / freedom
    if freedom >= dim:
        shrunk = lam / ((np.pi * c * lam * density) ** 2 + (1 - c - np.pi * c * lam * hilbert) ** 2)
        below = 0.0
    else:
        edge = np.log((1 + np.sqrt(5) * width) / (1 - np.sqrt(5) * width))
        at_zero = (0.3 / width**2 + 0.75 / np.sqrt(5) / width * (1 - 0.2 / width**2) * edge) / np.pi * np.mean(1 / lam)
        below = 1 / (np.pi * missing / freedom * at_zero)
        shrunk = lam / (np.pi**2 * lam**2 * (density**2 + hilbert**2))
    values = np.append(shrunk, below) if missing else shrunk
    counts = np.append(np.ones(lam.size), missing) if missing else np.ones(lam.size)
    order = np.argsort(-values, kind="stable")
    return replace(
        spectrum,
        mean=None,
        basis=None,
        eigenvalues=values[order],
        multiplicities=counts[order],
        mean_energy=np.append(spectrum.mean_energy[positive][::-1], spectrum.mean_energy[~positive].sum())[order]
        if missing
        else spectrum.mean_energy[positive][::-1][order],
        provenance={**spectrum.provenance, "estimated": "Ledoit-Wolf analytical nonlinear shrinkage"},
    )


def refuse_binned(spectrum: Spectrum) -> None:
    """Some statistics need the sample's own eigenvalues one by one."""
    positive = spectrum.eigenvalues > 0
    if spectrum.binning_error > 0 or np.any(spectrum.multiplicities[positive] != 1):
        raise ValueError(
            "`spectrum` must hold the sample's own eigenvalues, each once, got binned or merged ones; measure it without "
            "bins."
        )


def _linear(spectrum: Spectrum, weight: float, name: str) -> Spectrum:
    centre = spectrum.trace / float(spectrum.dim)
    shrunk: Float = (1 - weight) * spectrum.eigenvalues + weight * centre
    record = {**spectrum.provenance, "estimated": f"{name}, weight {weight:.6g} on the mean eigenvalue"}
    return replace(spectrum, eigenvalues=shrunk, provenance=record)
