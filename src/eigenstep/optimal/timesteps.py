"""The best grid for models that accept integer timesteps only: dynamic programming, then exchange on the exact objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eigenstep import _checks
from eigenstep.call_error import call_error
from eigenstep.expansion import leading_weights
from eigenstep.gaussian import OBJECTIVES, check_start, divergence
from eigenstep.optimal.objective import GridObjective
from eigenstep.optimal.search import optimal_grid
from eigenstep.paths import NoisePath
from eigenstep.solvers import Solver, solver_named
from eigenstep.spectrum import Spectrum

Float = NDArray[np.float64]
Int = NDArray[np.int64]

_BINS, _PROGRAMMING_BINS = 72, 18
_EXCHANGE_WIDTH = 24


@dataclass(frozen=True)
class TimestepResult:
    """The integer grid found.

    Attributes
    ----------
    timesteps : (n,) int
        Descending, distinct; the model is called at these.
    sigmas : (n+1,)
        Their noise levels, then `final`.
    value : float
        `divergence(spectrum, sigmas, ...)` on the full spectrum.
    continuous_value : float
        The same for the optimal real-valued grid from the same first level: what rounding costs.
    converged : bool
        Whether no move of one timestep, or of a run of neighbours by one place, improves the value.

    Examples
    --------
    >>> from eigenstep.paths import VPDiscrete
    >>> path = VPDiscrete.from_betas(np.linspace(1e-4, 0.02, 1000))
    >>> found = optimal_timesteps(Spectrum.from_eigenvalues([1.0, 0.01]), 3, path)
    >>> found.timesteps.tolist(), 0 <= found.value / found.continuous_value - 1 < 1e-3              # whole ones cost little
    ([999, 363, 161], True)
    """

    timesteps: Int
    sigmas: Float
    value: float
    continuous_value: float
    converged: bool


def optimal_timesteps(
    spectrum: Spectrum,
    n: int,
    path: NoisePath,
    *,
    first: int | None = None,
    final: float = 0.0,
    solver: str | Solver = "ddim",
    objective: str = "w2",
    noise_floor: float = 0.0,
    start: str = "marginal",
    denoiser_error: Any = None,
) -> TimestepResult:
    """The n integer timesteps with the least divergence, distinct by construction: theory section 5.

    Two starts: the continuous optimum rounded without collisions, and the optimum of the additive DDIM cost
    sum_k sum_i m_i w_i E_i (-ln cos^2(phi_i(sigma_k) - phi_i(sigma_{k+1}))) by dynamic programming, with E_i the total of the
    continuous optimum (the first variation of theory (4)). Each is improved on the exact divergence by moving one timestep to
    another free place, or a run of neighbours by one place, until no move helps.

    Parameters
    ----------
    spectrum : Spectrum
    n : int
        Number of steps, 1 <= n <= number of timesteps up to `first`.
    path : NoisePath
        A discrete path (`paths.VPDiscrete`).
    first : int, optional
        The first timestep; the path's last one if None.
    final : float
        Where the grid ends, 0 <= final < sigma(0).
    solver, objective, noise_floor, start, denoiser_error
        As in `optimal_grid`.

    Raises
    ------
    ValueError
        For a continuous path, more steps than timesteps, or bad arguments as in `optimal_grid`.

    Examples
    --------
    >>> from eigenstep.paths import VPDiscrete
    >>> result = optimal_timesteps(Spectrum.from_eigenvalues([1.0]), 4, VPDiscrete.ddpm())
    >>> result.timesteps.tolist(), result.converged
    ([999, 431, 257, 120], True)
    """
    n = _checks.integer(n, "n")
    count = path.n_timesteps
    if count is None:
        raise ValueError(f"`path` must have integer timesteps, got {type(path).__name__}; use `optimal_grid` for it.")
    top = _checks.integer(count - 1 if first is None else first, "first", minimum=0, maximum=count - 1)
    if n > top + 1:
        raise ValueError(f"`n` must not exceed the {top + 1} timesteps from 0 to {top}, got {n}.")
    method = solver_named(solver)
    objective = _checks.choice(objective, OBJECTIVES, "objective")
    noise_floor = _checks.real_number(noise_floor, "noise_floor", minimum=0.0)
    check_start(objective, start)
    levels = path.t_to_sigma(np.arange(top + 1))
    end = _checks.real_number(final, "final", minimum=0.0)
    if end >= levels[0]:
        raise ValueError(f"`final` must lie below the path's lowest level {levels[0]:.6g}, got {end:.6g}.")
    error = call_error(denoiser_error)
    options: dict[str, Any] = {
        "solver": method, "objective": objective, "noise_floor": noise_floor, "start": start, "denoiser_error": error
    }
    if n == 1 or n == top + 1:
        steps = np.arange(n)[::-1].astype(np.int64) if n > 1 else np.array([top])
        sigmas = np.append(levels[steps], end)
        value = divergence(spectrum, sigmas, **options)
        return TimestepResult(steps, sigmas, value, value, True)
    continuous = optimal_grid(spectrum, n, float(levels[0]), float(levels[top]), final=end, **options)
    rounded = _distinct(np.rint(np.interp(continuous.sigmas[:-1], levels, np.arange(top + 1))).astype(np.int64), top)
    planned = _programmed(spectrum, levels, n, end, continuous.sigmas, objective, noise_floor)
    exact = GridObjective(spectrum.binned(_BINS), method, objective, noise_floor, start, error)
    results = [_exchange(exact, steps, levels, end) for steps in (rounded, planned)]
    steps = min(results, key=lambda result: result[1])[0]
    sigmas = np.append(levels[steps], end)
    return TimestepResult(steps, sigmas, divergence(spectrum, sigmas, **options), continuous.value, True)


def _distinct(steps: Int, top: int) -> Int:
    """Descending distinct timesteps nearest to the wanted ones: push collisions down, then up off the bottom."""
    steps = steps.copy()
    steps[0] = top
    for k in range(1, steps.size):
        steps[k] = min(steps[k], steps[k - 1] - 1)
    for k in range(steps.size - 1, -1, -1):
        steps[k] = max(steps[k], steps.size - 1 - k)
    return steps


def _programmed(
    spectrum: Spectrum, levels: Float, n: int, end: float, around: Float, objective: str, noise_floor: float
) -> Int:
    """The optimum of the additive cost over increasing timesteps from the first to `end`, by dynamic programming."""
    nodes = spectrum.binned(_PROGRAMMING_BINS)
    root = np.sqrt(nodes.eigenvalues)
    angles = np.arctan2(levels[:, None], root)
    last = np.arctan2(end, root)
    total = -2 * np.log(np.abs(np.cos(np.diff(np.arctan2(around[:, None], root), axis=0)))).sum(axis=0)
    weights = nodes.multiplicities * leading_weights(nodes, objective=objective, noise_floor=noise_floor) * total
    places = levels.size
    cost = np.full((places, places), np.inf)
    for a in range(1, places):
        cost[a, :a] = -2 * np.log(np.cos(angles[a] - angles[:a])) @ weights
    best = -2 * np.log(np.maximum(np.cos(angles - last), 1e-300)) @ weights  # from each place straight to the end
    choices = []
    for _ in range(n - 1):
        through = cost + best
        choices.append(through.argmin(axis=1))
        best = np.take_along_axis(through, choices[-1][:, None], axis=1)[:, 0]
    steps = [places - 1]
    for choice in choices[::-1]:
        steps.append(int(choice[steps[-1]]))
    return _distinct(np.array(steps, dtype=np.int64), places - 1)


def _exchange(exact: GridObjective, steps: Int, levels: Float, end: float) -> tuple[Int, float]:
    """Move one timestep at a time to the best free place between its neighbours until no move helps."""
    steps = steps.copy()

    def values(candidates: Int) -> Float:
        sigmas = np.concatenate([levels[candidates], np.full((candidates.shape[0], 1), end)], axis=1)
        return exact(sigmas)[0]

    value = float(values(steps[None])[0])
    improved = True
    while improved:
        improved = False
        for k in range(1, steps.size):
            below = steps[k + 1] if k + 1 < steps.size else -1
            places = np.arange(below + 1, steps[k - 1])
            if places.size > _EXCHANGE_WIDTH:  # geometric moves about the present place, refined sweep by sweep
                reach = np.unique(np.rint(np.geomspace(1, places.size, _EXCHANGE_WIDTH // 2)).astype(np.int64))
                places = np.concatenate([steps[k] - reach, steps[k] + reach])
                places = places[(places > below) & (places < steps[k - 1])]
            places = places[places != steps[k]]
            if not places.size:
                continue
            candidates = np.tile(steps, (places.size, 1))
            candidates[:, k] = places
            trial = values(candidates)
            if trial.min() < value * (1 - 1e-13):
                steps, value, improved = candidates[int(trial.argmin())], float(trial.min()), True
        shifted = _shifted(steps)
        if shifted.size:
            trial = values(shifted)
            if trial.min() < value * (1 - 1e-13):
                steps, value, improved = shifted[int(trial.argmin())], float(trial.min()), True
    return steps, value


def _shifted(steps: Int) -> Int:
    """Every run of neighbouring timesteps moved together by one place, up or down, where there is room: (moves, n)."""
    candidates = []
    for first in range(1, steps.size):
        for last in range(first + 1, steps.size):
            for shift in (-1, 1):
                moved = steps.copy()
                moved[first : last + 1] += shift
                if moved[-1] >= 0 and np.all(np.diff(moved) < 0):
                    candidates.append(moved)
    return np.array(candidates, dtype=np.int64).reshape(-1, steps.size)
