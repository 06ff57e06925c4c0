"""How sure a plan is: what the noise levels, gamma and the predicted error would be for other samples of the same kind."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from eigenstep._checks import Float, real_number
from eigenstep.estimation.population import Population
from eigenstep.gaussian import divergence
from eigenstep.optimal import optimal_grid, tangent_gamma
from eigenstep.solvers import Solver

ENOUGH, CHEAP = 0.03, 0.01
"""Samples are enough where planned sigmas move by at most the first, or cost at most the second (`regret`)."""
USABLE, BEARABLE = 0.10, 0.05
"""Likewise for a usable plan; beyond both, the samples are too few."""
_ON_TRUST = " That takes the samples for independent and Gaussian-like."


@dataclass(frozen=True)
class PlanCertainty:
    """A plan from an estimated population, with 95 % intervals.

    Attributes
    ----------
    sigmas, lower, upper : (n+1,)
        The plan, and the range of each of its levels; data units. Ends that are given do not move.
    movement : float
        Largest relative half-width among the levels: 0.03 says that every level is sure to 3 %.
    gamma, gamma_lower, gamma_upper : float
        `tangent_gamma` on the plan's range, data units.
    error, error_lower, error_upper : float
        Predicted divergence of `sigmas`.
    regret : float
        How much larger that is than the least that could be had, were the truth known: the 95th percentile, relative.
        A level may move far where the error is flat; this says what it costs.
    n_samples : int
        Samples the plan was made from.
    enough_samples : int
        Samples at which `movement` would be 3 %, since it falls like 1/sqrt(n); two digits.
    verdict : str
        A sentence or two. Enough: `movement` <= 3 % or `regret` <= 1 %; usable: <= 10 % or <= 5 %; else too few. Where
        nothing was measured on the samples themselves (`Population.measured`), it says on what trust.

    Examples
    --------
    >>> from eigenstep.spectrum import Spectrum
    >>> sure = plan_certainty(Population.from_spectrum(Spectrum.from_zoo("fashion-mnist")), 4, 0.002, 80.0)
    >>> bool(np.all(sure.lower <= sure.sigmas)) and bool(np.all(sure.sigmas <= sure.upper)), sure.n_samples
    (True, 60000)
    """

    sigmas: Float
    lower: Float
    upper: Float
    movement: float
    gamma: float
    gamma_lower: float
    gamma_upper: float
    error: float
    error_lower: float
    error_upper: float
    regret: float
    n_samples: int
    enough_samples: int
    verdict: str


def plan_certainty(
    population: Population,
    n: int,
    sigma_min: float,
    sigma_max: float,
    *,
    final: float | None = 0.0,
    solver: str | Solver = "ddim",
    objective: str = "w2",
    noise_floor: float = 0.0,
    start: str = "marginal",
) -> PlanCertainty:
    r"""Plan for the estimated population, and again for each of its replicates.

        sigma_k exp(-+ 1.96 s_k),    s_k = standard error of ln sigma_k, from its spread over the replicates

    Parameters
    ----------
    population : Population
        Its `replicates` and `half_width` make the intervals.
    n, sigma_min, sigma_max, final, solver, objective, noise_floor, start
        As in `optimal_grid`.

    Degenerate cases: n = 1 has no free level; its movement is 0 and the verdict says why.

    Raises
    ------
    ValueError
        As `optimal_grid` does.

    Examples
    --------
    >>> from eigenstep.spectrum import Spectrum
    >>> population = Population.from_spectrum(Spectrum.from_zoo("fashion-mnist"))
    >>> sure = plan_certainty(population, 6, 0.002, 80.0)
    >>> sure.movement < 0.03, sure.verdict.split(": ")[1]
    (True, 'enough samples. That takes the samples for independent and Gaussian-like.')
    """
    goal = {"solver": solver, "objective": objective, "noise_floor": noise_floor, "start": start}
    # Random restarts look for better minima end to end; replicates are planned as the plan itself is.
    plan = optimal_grid(population.spectrum, n, sigma_min, sigma_max, final=final, **goal)  # type: ignore[arg-type]
    low = sigma_min if final is None else final
    levels, gammas, errors, regrets = [], [], [], []
    for other in population.replicates:
        best = optimal_grid(other, n, sigma_min, sigma_max, final=final, **goal)  # type: ignore[arg-type]
        levels.append(np.log(best.sigmas[1:-1]))
        gammas.append(math.log(_gamma(other, objective, noise_floor, low, sigma_max)))
        error = divergence(other, plan.sigmas, **goal)  # type: ignore[arg-type]
        errors.append(math.log(max(error, 1e-300)))
        regrets.append(error / best.value - 1 if best.value > 0 else 0.0)
    half = np.zeros_like(plan.sigmas)
    # The first and last level are given.
    half[1:-1] = population.half_width(levels)
    movement = float(np.expm1(half.max()))
    gamma = _gamma(population.spectrum, objective, noise_floor, low, sigma_max)
    gamma_half = float(population.half_width(gammas))
    error_half = float(population.half_width(errors))
    n_samples = population.spectrum.n_samples
    assert n_samples is not None
    enough = enough_samples(n_samples, movement)
    # Quadratic in the plan's error, so of mean spread^2 times the replicates' mean, and in the main of one direction: the
    # 95th percentile of a square of a normal number is 3.84 times its mean.
    regret = 3.84 * population.spread**2 * float(np.mean(np.maximum(regrets, 0.0)))
    return PlanCertainty(
        sigmas=plan.sigmas,
        lower=plan.sigmas * np.exp(-half),
        upper=plan.sigmas * np.exp(half),
        movement=movement,
        gamma=gamma,
        gamma_lower=gamma * math.exp(-gamma_half),
        gamma_upper=gamma * math.exp(gamma_half),
        error=plan.value,
        error_lower=plan.value * math.exp(-error_half),
        error_upper=plan.value * math.exp(error_half),
        regret=regret,
        n_samples=n_samples,
        enough_samples=enough,
        verdict=_verdict(movement, regret, enough, n) + ("" if population.measured or n == 1 else _ON_TRUST),
    )


def enough_samples(n_samples: int, movement: float, *, wanted: float = ENOUGH) -> int:
    """Samples at which a plan that now moves by `movement` would move by `wanted`: n (movement/wanted)^2, two digits.

    Raises
    ------
    ValueError
        `wanted` is not positive.

    Examples
    --------
    >>> enough_samples(500, 0.06), enough_samples(500, 0.0)
    (2000, 2)
    """
    wanted = real_number(wanted, "wanted", minimum=0.0, exclusive=True)
    exact = max(n_samples * (movement / wanted) ** 2, 2.0)
    digits = 10 ** max(math.floor(math.log10(exact)) - 1, 0)
    return int(math.ceil(exact / digits - 1e-9) * digits)


def _gamma(spectrum: object, objective: str, noise_floor: float, low: float, high: float) -> float:
    return tangent_gamma(spectrum, objective=objective, noise_floor=noise_floor, sigma_min=low, sigma_max=high)  # type: ignore[arg-type]


def _verdict(movement: float, regret: float, enough: int, n: int) -> str:
    if n == 1:
        return "One step has no level to plan, so nothing can move."
    moved = f"Planned sigmas move by at most {percent(movement)}"
    if movement <= ENOUGH:
        return f"{moved}: enough samples."
    cost = f"which costs at most {percent(regret)} of the predicted error"
    if regret <= CHEAP:
        word = "enough samples"
    elif movement <= USABLE or regret <= BEARABLE:
        word = "usable"
    else:
        word = "too few samples"
    return f"{moved}, {cost}: {word}. About {enough:,} samples would hold them to {percent(ENOUGH)}."


def percent(share: float) -> str:
    """A share in per cent, in words: two digits below ten."""
    percent = 100 * share
    return f"{percent:.0f} %" if percent >= 9.95 or abs(percent - round(percent)) < 1e-9 else f"{percent:.1f} %"
