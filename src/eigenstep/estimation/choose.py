"""Which eigenvalues to plan on: the sample's own, or the population's behind them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eigenstep._checks import Float, choice
from eigenstep.estimation.certainty import ENOUGH, percent
from eigenstep.estimation.curve import dof_from_spectrum, why_final
from eigenstep.estimation.evidence import kept_curve, kept_variance_error
from eigenstep.estimation.population import Population
from eigenstep.optimal import optimal_grid
from eigenstep.solvers import Solver
from eigenstep.spectrum import Spectrum

EIGENVALUES = ("auto", "sample", "population")
"""What `choose_spectrum` can be told to take."""
_STEPS = 6


@dataclass(frozen=True)
class ChosenSpectrum:
    """What `choose_spectrum` took, and why.

    Attributes
    ----------
    spectrum : Spectrum
        To plan on.
    eigenvalues : str
        `sample` or `population`.
    movement : float or None
        How far the sample's eigenvalues put a level off, relative: the formula where that is at most 3 %, else the largest
        distance between the levels planned on the one and on the other. None where that was not asked.
    reason : str
        A sentence.
    doubt : str
        Another, where the samples' total variance, and with it every level, is known to be unsure by more than 3 %; else
        empty.

    Examples
    --------
    >>> many = Spectrum.from_eigenvalues([4.0, 1.0, 0.25], n_samples=5000)
    >>> print(choose_spectrum(many, 0.002, 80.0).reason)
    Planned on the sample's spectrum: the eigenvalues of 5000 samples put no level more than 0.0 % off.
    """

    spectrum: Spectrum
    eigenvalues: str
    movement: float | None
    reason: str
    doubt: str = ""


def choose_spectrum(
    spectrum: Spectrum,
    sigma_min: float,
    sigma_max: float,
    *,
    eigenvalues: str = "auto",
    final: float | None = 0.0,
    solver: str | Solver = "ddim",
    objective: str = "w2",
    noise_floor: float = 0.0,
    start: str = "marginal",
) -> ChosenSpectrum:
    r"""The sample's own eigenvalues where there are samples enough, the population's where there are not.

    The sample's dof at sigma^2 are the population's at a higher level kappa: sample eigenvalues put a level there off by

        1/2 ln(kappa / sigma^2),    = -1/2 ln(1 - dof(sigma^2)/(n-1)) for Gaussian samples

    `auto` plans 6 steps on the sample's, and where that exceeds 3 % at a level, on the population's too; it takes the latter
    where a level then moves by more than 3 %, the measure by which `plan_certainty` calls samples enough. One choice serves
    every number of steps. With n >> d the two agree, but the estimate smears single eigenvalues: it is not taken without
    need.

    Parameters
    ----------
    spectrum : Spectrum
        As measured.
    sigma_min, sigma_max, final, solver, objective, noise_floor, start
        Of the plan, as in `optimal_grid`.
    eigenvalues : {"auto", "sample", "population"}
        The last two take one or the other unseen.

    Degenerate cases: with an unknown number of samples, fewer than 3, a stationary form or an estimate there is nothing to
    mend, and `auto` takes the spectrum as it is.

    Raises
    ------
    ValueError
        `population` is asked for where there is nothing to mend; as `optimal_grid` does.

    Examples
    --------
    >>> many = Spectrum.from_eigenvalues([4.0, 1.0, 0.25], n_samples=5000)
    >>> few = Spectrum.from_eigenvalues([9.0, 4.0, 1.0] + 97 * [0.0], n_samples=4)
    >>> [choose_spectrum(one, 0.002, 80.0).eigenvalues for one in (many, few)]
    ['sample', 'population']
    """
    wanted = choice(eigenvalues, EIGENVALUES, "eigenvalues")
    doubt = _doubt(spectrum)
    if wanted == "sample":
        return ChosenSpectrum(spectrum, wanted, None, "The sample's own eigenvalues were asked for.", doubt)
    if wanted == "auto":
        if spectrum.n_samples is None or spectrum.n_samples < 3:
            count = "an unknown number of" if spectrum.n_samples is None else str(spectrum.n_samples)
            return ChosenSpectrum(spectrum, "sample", None, f"Eigenvalues of {count} samples are taken as they are.")
        if why_final(spectrum):
            return ChosenSpectrum(spectrum, "sample", None, "The spectrum is none of a sample, and taken as it is.")
    goal = {"final": final, "solver": solver, "objective": objective, "noise_floor": noise_floor, "start": start}
    ends = (_STEPS, sigma_min, sigma_max)
    raw = optimal_grid(spectrum, *ends, **goal).sigmas[1:-1]  # type: ignore[arg-type]
    off = _off(spectrum, raw)
    of = f"the eigenvalues of {spectrum.n_samples} samples"
    if wanted == "population" or off > ENOUGH:
        mended = Population.from_spectrum(spectrum).spectrum
        plan = optimal_grid(mended, *ends, **goal).sigmas[1:-1]  # type: ignore[arg-type]
        off = float(np.max(np.abs(raw / plan - 1)))
        if wanted == "population" or off > ENOUGH:
            reason = f"Planned on the population's spectrum: {of} would put a level {percent(off)} off."
            return ChosenSpectrum(mended, "population", off, reason, doubt)
    reason = f"Planned on the sample's spectrum: {of} put no level more than {percent(off)} off."
    return ChosenSpectrum(spectrum, "sample", off, reason, doubt)


def _off(spectrum: Spectrum, sigmas: Float) -> float:
    """Largest |1/2 ln(kappa/sigma^2)| at these levels."""
    curve = kept_curve(spectrum) or dof_from_spectrum(spectrum)
    lam, m = spectrum.eigenvalues, spectrum.multiplicities

    def dof(ridges: Float) -> Float:
        found: Float = (lam / (lam + ridges[:, None])) @ m
        return found

    # Where the sample's dof are those of the curve: sample eigenvalues span what this fine a grid resolves to 1e-4.
    ridges = np.geomspace(1e-3 * curve.levels[0], 1e2 * curve.levels[-1], 4000)
    ridge = np.exp(np.interp(-curve.dof, -dof(ridges), np.log(ridges)))
    shift = 0.5 * np.log(curve.levels / ridge)
    return float(np.max(np.abs(np.interp(-dof(sigmas**2), -curve.dof, shift))))


def _doubt(spectrum: Spectrum) -> str:
    """What an unsure total variance means for the levels, which go with its root: half of 1.96 times its error."""
    error = kept_variance_error(spectrum)
    if error is None:
        return ""
    levels = float(np.expm1(0.98 * error))
    if levels <= ENOUGH:
        return ""
    known = f"a standard error of {percent(error)}"
    return f"The samples' total variance has {known}, so the levels are sure to {percent(levels)} only."
