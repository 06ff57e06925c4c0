"""The optimal finite grid: the exact divergence of any linear solver, minimised over the free noise levels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eigenstep import _checks
from eigenstep.call_error import call_error
from eigenstep.gaussian import OBJECTIVES, check_start, divergence
from eigenstep.grids import catalogue_grids, grid
from eigenstep.optimal.geodesic import geodesic_law
from eigenstep.optimal.objective import GridObjective
from eigenstep.optimal.tangent import tangent_gamma, tangent_law
from eigenstep.solvers import Solver, solver_named
from eigenstep.spectrum import Spectrum

Float = NDArray[np.float64]

CONVERGED = 1e-6
"""A grid is optimal when no feasible change of ln sigma changes ln value at a rate above this."""

_SCOUT_BINS, _BINS, _POLISH_BINS = 18, 72, 192
_FEW, _SHORT, _LONG = 11, 5, 24
"""Eigenvalues and steps up to which single errors may vanish (`_many_minima`); steps beyond which grids are halved."""

_LEAST_RATIO = 0.01
"""Neighbouring levels differ by at least 1 % (less for very long grids): closer ones are one call to a network."""


@dataclass(frozen=True)
class GridResult:
    """The grid found, what it is worth, and how sure that is.

    Attributes
    ----------
    sigmas : (n+1,)
        Descending noise levels, data units; `sigmas[0]` is sigma_max.
    value : float
        `divergence(spectrum, sigmas, ...)` on the full spectrum.
    converged : bool
        Whether `stationarity` is below 1e-6, nothing is free (n = 1), or the value is below what rounding to float32 makes of
        samples, where a minimum is no longer worth the name (long grids of multistep solvers, whose errors can cancel).
    n_iterations : int
        Iterations of the local search that found the grid, polishing included.
    stationarity : float
        Largest component of d ln value / d ln sigma that no active constraint balances.
    active : tuple of str
        Constraints that hold the grid: "sigma_min" (the last call is at the model's lowest level), "spacing k" (levels k and
        k+1 are as close as is allowed).
    origin : str
        The catalogue grid, law or random start it was reached from.
    binning_error : float
        |value on the binned spectrum the search used / value - 1|.
    candidates : mapping
        Value of every starting grid that has a name: the catalogue, tangent and geodesic laws.
    message : str
        One sentence on how the search ended.

    Examples
    --------
    >>> held = optimal_grid(Spectrum.from_eigenvalues([1.0, 0.01]), 3, 1.0, 10.0)
    >>> held.active, held.converged, held.sigmas.round(3).tolist()            # the model may not be called below 1
    (('sigma_min',), True, [10.0, 2.11, 1.0, 0.0])
    """

    sigmas: Float
    value: float
    converged: bool
    n_iterations: int
    stationarity: float
    active: tuple[str, ...]
    origin: str
    binning_error: float
    candidates: Mapping[str, float] = field(repr=False)
    message: str


def optimal_grid(
    spectrum: Spectrum,
    n: int,
    sigma_min: float,
    sigma_max: float,
    *,
    final: float | None = 0.0,
    solver: str | Solver = "ddim",
    objective: str = "w2",
    noise_floor: float = 0.0,
    start: str = "marginal",
    denoiser_error: Any = None,
    restarts: int = 0,
) -> GridResult:
    """The grid of n steps with the least divergence from the data, for a solver as it is run: theory section 5.

    The divergence is an exact smooth function of the free noise levels. It is minimised from every catalogue grid, the
    tangent and geodesic laws and, where several minima are known to occur (multistep solvers end to end, solvers of higher
    order on up to 11 eigenvalues), from random grids, with exact gradients; the result is never worse than any catalogue
    grid on its own objective.

    Parameters
    ----------
    spectrum : Spectrum
        Searched on at most 72 Gauss nodes (`Spectrum.binned`); the value returned is that of the full spectrum.
    n : int
        Number of steps, >= 1. n = 1 leaves nothing to choose where `sigma_max` and `final` are given.
    sigma_min : float
        Lowest level at which the model may be called, >= 0 (0.0: no limit), data units.
    sigma_max : float
        First level, finite, > sigma_min, data units.
    final : float or None
        Where the grid ends, <= sigma_min: 0.0, or None to end at sigma_min itself.
    solver : str or Solver
    objective : {"w2", "kl", "reverse_kl", "local", "blend"}
    noise_floor : float
        tau >= 0, data units.
    start : {"marginal", "prior"}
    denoiser_error : CallError or ErrorCurve, optional
        What every call of a real network adds to a direction (`divergence`): without it the optimum for a network that is poor
        at high levels jumps there, because a Gaussian allows it. Theory section 7.
    restarts : int
        Random grids to descend from besides, each to its end: to see for oneself that nothing better is found. They are
        seeded: the result is reproducible.

    Returns
    -------
    GridResult

    Raises
    ------
    ValueError
        For a bad range, n = 0, `final` above `sigma_min`, or unknown names. A search that does not converge raises nothing:
        it returns its best grid with `converged` False.

    Examples
    --------
    >>> result = optimal_grid(Spectrum.from_eigenvalues([1.0]), 3, 0.0, 1.0)       # equal angles of 15 degrees
    >>> result.sigmas.round(6).tolist(), result.converged
    ([1.0, 0.57735, 0.267949, 0.0], True)
    """
    n = _checks.integer(n, "n")
    low, high = _checks.sigma_range(sigma_min, sigma_max, zero_min=True)
    end = low if final is None else _checks.real_number(final, "final", minimum=0.0)
    if end > low:
        raise ValueError(f"`final` must not exceed `sigma_min`, got {end:.6g} and {low:.6g}; use final=None to end there.")
    method = solver_named(solver)
    objective = _checks.choice(objective, OBJECTIVES, "objective")
    noise_floor = _checks.real_number(noise_floor, "noise_floor", minimum=0.0)
    check_start(objective, start)
    error = call_error(denoiser_error)
    options: dict[str, Any] = {
        "solver": method, "objective": objective, "noise_floor": noise_floor, "start": start, "denoiser_error": error
    }
    restarts = _checks.integer(restarts, "restarts", minimum=0)

    settings = (method, objective, noise_floor, start, error)
    polished = spectrum.binned(_POLISH_BINS)
    nodes = polished.binned(_BINS)
    fine = GridObjective(nodes, *settings)
    named = _named_grids(nodes, n, low, high, end, objective, noise_floor)
    if n == 1:
        sigmas = np.array([high, end])
        value = divergence(spectrum, sigmas, **options)
        return GridResult(
            sigmas=sigmas,
            value=value,
            converged=True,
            n_iterations=0,
            stationarity=0.0,
            active=(),
            origin="the only grid",
            binning_error=_relative(float(fine(sigmas[None])[0][0]), value),
            candidates=MappingProxyType(dict.fromkeys(named, value)),
            message="One step leaves nothing to choose.",
        )
    levels = _FreeLevels(n, low, high, end, spectrum)
    names = list(named)
    named_values = fine(np.stack([named[name] for name in names]))[0]
    ranked = np.argsort(named_values, kind="stable")
    hand = names[int(ranked[0])]
    if _many_minima(fine, n):
        scouts = _scouts(fine, n)
        starts = [found for scout in scouts for found in _scouted(scout, n, (low, high, end))]
        if len(scouts) > 1:
            starts = _winners(fine, levels, starts)
    else:
        starts = [(hand, levels.feasible(named[hand]))]
    if objective == "blend" and method.memory:
        # Cheap, since `local` has one minimum as a rule; the scouts missed one near it by 1.5 %.
        steps = optimal_grid(nodes, n, low, high, final=end, **{**options, "objective": "local"})
        starts.append(("the best grid step by step", levels.feasible(steps.sigmas)))
    starts += [("a random start", y) for y in levels.random(restarts)]
    best, origin = _best_descent(fine, levels, starts)
    exact = GridObjective(polished, *settings)
    best = _descend(exact, levels, _descent(exact, levels, best.y, best.iterations))
    sigmas = levels.sigmas(best.y)
    value = divergence(spectrum, sigmas, **options)
    candidates = {name: float(v) for name, v in zip(names, named_values, strict=True)}
    if named_values[ranked[0]] < math.exp(best.log_value) * (1 - 1e-9):
        # Possible only for a grid the spacing rule excludes, or a search that failed: keep the promise.
        sigmas, origin, value = named[hand], hand, divergence(spectrum, named[hand], **options)
        best = replace(best, log_value=math.log(named_values[ranked[0]]), stationarity=math.inf, active=())
    negligible = value <= fine.negligible
    converged = negligible or best.stationarity <= CONVERGED
    return GridResult(
        sigmas=sigmas,
        value=value,
        converged=converged,
        n_iterations=best.iterations,
        stationarity=best.stationarity,
        active=levels.names(best.active),
        origin=origin,
        binning_error=_relative(math.exp(best.log_value), value),
        candidates=MappingProxyType(candidates),
        message=(
            f"Converged from {origin} in {best.iterations} iterations."
            if best.stationarity <= CONVERGED
            else f"Stopped where the error is below float32 rounding, from {origin} in {best.iterations} iterations."
            if negligible
            else f"Stopped at stationarity {best.stationarity:.1e} (wanted {CONVERGED:.0e}); this is the best grid found."
        ),
    )


def _relative(approximate: float, exact: float) -> float:
    return 0.0 if approximate == exact else abs(approximate / exact - 1) if exact else math.inf


def _named_grids(
    spectrum: Spectrum, n: int, low: float, high: float, end: float, objective: str, noise_floor: float
) -> dict[str, Float]:
    """Every starting grid with a name: the catalogue on this range, the best tangent laws and the geodesic."""
    floor = low if low > 0 else min(0.5 * high, max(end, 0.1 * math.sqrt(spectrum.eigenvalues[spectrum.eigenvalues > 0][-1])))
    final = None if end == low and low > 0 else end
    named = dict(catalogue_grids(n, floor, high, final=final, spectrum=spectrum))
    scale: dict[str, Any] = {"objective": objective, "noise_floor": noise_floor}
    gamma = tangent_gamma(spectrum, sigma_min=end, sigma_max=high, **scale)
    laws = {"tangent": tangent_law(end, high, gamma=gamma), "geodesic": geodesic_law(spectrum, end, high, **scale)}
    for name, law in laws.items():
        sigmas = grid(law, n)
        sigmas[1:n] = np.maximum(sigmas[1:n], low)
        if np.all(np.diff(sigmas) < 0):
            named[name] = sigmas
    return named


@dataclass(frozen=True)
class _Descent:
    """A point of the search: ln sigma of the free levels, ln value, value's gradient and Hessian over value, what holds it."""

    y: Float
    log_value: float
    gradient: Float
    hessian: Float
    iterations: int
    stationarity: float
    active: tuple[int, ...]


class _FreeLevels:
    """The n-1 free levels as y = ln sigma under linear constraints A y >= b: spacing, and sigma >= sigma_min."""

    def __init__(self, n: int, low: float, high: float, end: float, spectrum: Spectrum) -> None:
        self.n, self.high, self.end = n, high, end
        # Without a lower limit sigma may fall to where not even the smallest eigenvalue notices it.
        least = 1e-6 * math.sqrt(spectrum.eigenvalues[spectrum.eigenvalues > 0][-1])
        bottom = math.log(max(low, end)) if max(low, end) > 0 else math.log(min(least, 1e-6 * high))
        length = math.log(high) - bottom
        self.spacing = min(_LEAST_RATIO, 0.1 * length / n)
        free = n - 1
        self.matrix = np.zeros((n, free))
        self.matrix[np.arange(free), np.arange(free)] = -1
        self.matrix[np.arange(1, free), np.arange(free - 1)] = 1
        self.matrix[free, free - 1] = 1
        self.limit = np.full(n, self.spacing)
        self.limit[0] -= math.log(high)
        self.limit[free] = bottom + (self.spacing if end > 0 and end == max(low, end) else 0.0)
        self.bottom = self.limit[free]

    def sigmas(self, y: Float) -> Float:
        """Grids (..., n+1) from free levels (..., n-1)."""
        shape = y.shape[:-1]
        return np.concatenate([np.full((*shape, 1), self.high), np.exp(y), np.full((*shape, 1), self.end)], axis=-1)

    def feasible(self, sigmas: Float) -> Float:
        """The free levels of a grid, moved as little as the constraints need."""
        y = np.log(sigmas[1:-1])
        below = math.log(self.high)
        for k in range(y.size):
            y[k] = below = min(y[k], below - self.spacing)
        above = self.bottom
        for k in range(y.size - 1, -1, -1):
            y[k] = above = max(y[k], above)
            above += self.spacing
        return y

    def random(self, count: int) -> Iterator[Float]:
        """Grids with uniformly distributed (Dirichlet) gaps in ln sigma, seeded."""
        rng = np.random.default_rng(20260113)
        length = math.log(self.high) - self.bottom
        for _ in range(count):
            gaps = rng.dirichlet(np.ones(self.n))
            yield self.feasible(self.sigmas(math.log(self.high) - length * np.cumsum(gaps)[:-1]))

    def grown(self, y: Float) -> Iterator[Float]:
        """The free levels of a grid of one step less with a level more in the middle of each gap of ln sigma in turn."""
        points = np.concatenate([[math.log(self.high)], y, [self.bottom]])
        for k in range(points.size - 1):
            yield self.feasible(self.sigmas(np.insert(y, k, 0.5 * (points[k] + points[k + 1]))))

    def refined(self, y: Float) -> Float:
        """The free levels of a grid of fewer steps, read as a law from the first level to the last free one."""
        points = np.concatenate([[math.log(self.high)], y])
        at = np.linspace(0, y.size, self.n)[1:]
        return self.feasible(self.sigmas(np.interp(at, np.arange(points.size), points)))

    def names(self, active: tuple[int, ...]) -> tuple[str, ...]:
        """Active constraints in words."""
        last = "sigma_min" if self.end < math.exp(self.bottom) else f"spacing {self.n - 1}"
        return tuple(last if k == self.n - 1 else f"spacing {k}" for k in active)

    def face(self, held: set[int]) -> Float:
        """Orthonormal columns of the moves that keep these constraints as they are: levels tied together move as one."""
        loose = np.ones(self.n, dtype=bool)
        loose[list(held)] = False
        group = np.cumsum(loose[:-1])  # 0: tied to sigma_max
        groups = group[-1] + 1 if loose[-1] else group[-1]  # the last one may be tied to the lowest level
        columns = (group[:, None] == np.arange(1, groups)).astype(float)
        return np.asarray(columns / np.sqrt(columns.sum(axis=0)))

    def stretch(self, y: Float) -> Float:
        """The matrix that turns a move into relative changes of the gaps of ln sigma, the natural measure of its size."""
        gaps = -np.diff(y, prepend=math.log(self.high))
        return np.asarray(self.matrix[:-1] / gaps[:, None])

    def active(self, y: Float, gradient: Float) -> tuple[tuple[int, ...], Float]:
        """Constraints that hold the grid (met, with a positive multiplier), and the gradient they do not balance."""
        met = np.flatnonzero(self.matrix @ y - self.limit < 1e-9)
        if not met.size:
            return (), gradient
        from scipy.optimize import nnls

        multipliers, _ = nnls(self.matrix[met].T, gradient)
        return tuple(int(k) for k in met[multipliers > 0]), gradient - self.matrix[met].T @ multipliers


def _many_minima(objective: GridObjective, n: int) -> bool:
    """Whether several minima are the rule, because errors cancel: of a multistep solver's steps, or in each of few directions.

    On the zoo, one-step solvers have one minimum, and so has the local objective, where no noise adds to the errors. On spectra
    of few eigenvalues a solver of higher order can make the errors of single directions vanish, and in few steps a multistep
    solver those of single steps: in 3 to 5 steps on random spectra of 2 to 150 eigenvalues, one descent missed the minimum in
    36 of 252 cases, the search as it is in 1; in 6 to 8 steps in 2 of 72 (`benchmarks/many_minima.py few`). First-order
    solvers have one minimum on any spectrum.
    """
    solver = objective.solver
    if solver.memory > 0 and (objective.objective != "local" or solver.stochastic):
        return True
    few = objective.spectrum.eigenvalues.size <= _FEW
    return (few and solver.order > 1) or (n <= _SHORT and solver.memory > 0)


def _rooted(solver: Solver) -> int:
    """The most steps of which the best grid is looked for among random ones."""
    return 10 if solver.memory == 1 and not solver.stochastic else 5


def _scouts(objective: GridObjective, n: int) -> list[GridObjective]:
    """What promising starts are looked for on: the objective on few nodes; with a noise floor, where grids are grown, on three.

    A floor hides the eigenvalues below it from `w2`, and what is left on few nodes is cancelled by grids that are nothing
    special on more. With the minima of no floor, and of one four times as high, 0.55 of the error was left in the geometric
    mean of 48 cases (DPM++(2M), 11 to 24 steps, synthetic and real spectra; `benchmarks/many_minima.py floors`), for 2.7 times
    the work; in up to 10 steps, with `kl`, and with a solver's own noise nothing was gained.
    """
    few = replace(objective, spectrum=objective.spectrum.binned(_SCOUT_BINS))
    solver, floor = objective.solver, objective.noise_floor
    several = objective.objective == "w2" and floor > 0 and n > _rooted(solver) and not solver.stochastic
    return [replace(few, noise_floor=each) for each in (0.0, floor, 4 * floor)] if several else [few]


def _scouted(objective: GridObjective, n: int, limits: tuple[float, float, float]) -> list[tuple[str, Float]]:
    """The two most promising starts for n steps, found on few nodes.

    Up to 5 steps (10 where the history is short) from named and random grids. Beyond, also by growing the best grid of so
    many, a level more in one of its gaps at a time: minima of n-1 and n steps are close, while a random grid falls into the
    best one ever more rarely as n grows. Beyond 24 steps, from the best grid of n/2 steps read as a law, which is enough for a
    smooth start.
    """
    levels = _FreeLevels(n, *limits, objective.spectrum)
    named = _named_grids(objective.spectrum, n, *limits, objective.objective, objective.noise_floor)
    values = objective(np.stack(list(named.values())))[0]
    wanted = [list(named)[j] for j in np.argsort(values, kind="stable")[:2]]
    if n > _LONG:
        wanted += [name for name in named if name == "geodesic"]
    starts = [(name, levels.feasible(named[name])) for name in wanted]
    rooted = _rooted(objective.solver)
    if n <= rooted:
        starts += [("a random start", y) for y in levels.random(24 if n <= 8 else 8)]
    elif n > _LONG:
        (_, shorter), *_ = _scouted(objective, n // 2, limits)
        starts.append(("the best grid of half the steps", levels.refined(shorter)))
    else:
        (_, shorter), *_ = _scouted(objective, rooted, limits)
        for m in range(rooted + 1, n):
            longer = _FreeLevels(m, *limits, objective.spectrum)
            shorter = _winners(objective, longer, _grown(objective, longer, shorter))[0][1]
        starts += _grown(objective, levels, shorter)
    return _winners(objective, levels, starts)


def _grown(objective: GridObjective, levels: _FreeLevels, shorter: Float) -> list[tuple[str, Float]]:
    """The four best ways to put one more level into a grid."""
    grown = np.stack(list(levels.grown(shorter)))
    values = objective(levels.sigmas(grown))[0]
    return [("the best grid of one step less", grown[j]) for j in np.argsort(values, kind="stable")[:4]]


def _winners(objective: GridObjective, levels: _FreeLevels, starts: list[tuple[str, Float]]) -> list[tuple[str, Float]]:
    """The best of some starts after short descents, or the best two where they are different minima of like value."""
    runs = [(_descent(objective, levels, y), name) for name, y in starts]
    for iterations, tolerance, kept in ((3, 1e-2, 6), (8, 1e-3, 3), (30, 1e-5, 2)):
        runs = [(_descend(objective, levels, run, tolerance=tolerance, iterations=iterations), name) for run, name in runs]
        runs = sorted(runs, key=lambda run: run[0].log_value)[:kept]
    starts = [(name, run.y) for run, name in runs]
    # The same minimum twice, or one beyond the error of few nodes, need not be searched again on many.
    distinct = len(runs) > 1 and 1e-3 < runs[1][0].log_value - runs[0][0].log_value < 0.3
    return starts if distinct else starts[:1]


def _best_descent(objective: GridObjective, levels: _FreeLevels, starts: list[tuple[str, Float]]) -> tuple[_Descent, str]:
    """The best end of the descents from some starts; on long grids, whose minima differ little, only of the most advanced."""
    runs = [(_descent(objective, levels, y), name) for name, y in starts]
    if len(runs) > 1 and levels.n > _LONG:
        runs = [(_descend(objective, levels, run, iterations=8), name) for run, name in runs]
        runs = [min(runs, key=lambda run: run[0].log_value)]
    return min(((_descend(objective, levels, run), name) for run, name in runs), key=lambda run: run[0].log_value)


_SHORTEST, _WIDEST = 1e-12, 4.0
"""Trust radii, in relative changes of the gaps of ln sigma: a move shorter than the first is rounding."""
_ROUNDING = 1e-9
"""Relative error of a value that is a sum of squares of differences of near-equals."""


def _descend(
    objective: GridObjective, levels: _FreeLevels, best: _Descent, *, tolerance: float = 0.0, iterations: int = 200
) -> _Descent:
    """Newton's method with the exact Hessian in a trust region on the faces of the constraints.

    It ends when a step promises less than `tolerance` of the value. The model is that of the value, not of its logarithm:
    where a sum of squares is small, it is the value that is quadratic.
    """
    radius, allowed = 1.0, best.iterations + iterations
    negligible = math.log(objective.negligible)
    while best.iterations < allowed and best.stationarity > 1e-3 * CONVERGED and best.log_value > negligible:
        move = _newton_move(levels, best, radius)
        length = float(np.linalg.norm(levels.stretch(best.y) @ move))
        promised = -float(best.gradient @ move + 0.5 * move @ best.hessian @ move)
        if length < _SHORTEST or promised <= tolerance:
            break
        trial = _descent(objective, levels, best.y + move, best.iterations + 1)
        gained = -math.expm1(trial.log_value - best.log_value) if trial.log_value < 500 else -math.inf
        within_rounding = abs(gained) < _ROUNDING and trial.stationarity < 0.5 * best.stationarity
        if gained > 1e-4 * promised or within_rounding:
            if gained > 0.75 * promised:
                radius = min(max(radius, 2 * length), _WIDEST)
            elif gained < 0.25 * promised:
                radius = 0.5 * length
            best = trial
        else:
            radius = 0.25 * length
            best = replace(best, iterations=best.iterations + 1)
    return best


def _descent(objective: GridObjective, levels: _FreeLevels, y: Float, iterations: int = 0) -> _Descent:
    """The point of a search at these free levels."""
    with np.errstate(over="ignore", invalid="ignore"):
        value, gradient, hessian = objective.curved(levels.sigmas(y))
    positive = max(value, 1e-300)
    gradient, hessian = gradient / positive, hessian / positive
    if not (math.isfinite(value) and np.isfinite(hessian).all() and np.isfinite(gradient).all()):
        return _Descent(y, math.inf, gradient, hessian, iterations, math.inf, ())
    active, unbalanced = levels.active(y, gradient)
    return _Descent(y, math.log(positive), gradient, hessian, iterations, float(np.abs(unbalanced).max()), active)


def _newton_move(levels: _FreeLevels, best: _Descent, radius: float) -> Float:
    """Newton's step within constraints and radius: along one face until it meets a constraint, then on along the next."""
    move = np.zeros_like(best.y)
    held = set(best.active)
    slack = levels.matrix @ best.y - levels.limit
    stretch = levels.stretch(best.y)
    for _ in range(best.y.size + len(slack)):
        face = levels.face(held)
        room = radius - float(np.linalg.norm(stretch @ move))
        if not face.shape[1] or room < 1e-3 * radius:
            break
        # In coordinates in which the trust region is a ball.
        ball = face @ np.linalg.inv(np.linalg.qr(stretch @ face, mode="r"))
        step = ball @ _trusted(ball.T @ (best.gradient + best.hessian @ move), ball.T @ best.hessian @ ball, room)
        approach = levels.matrix @ step
        approach[list(held)] = 0.0
        closing = approach < -1e-13 * np.abs(step).max()
        reach = np.full(slack.size, np.inf)
        np.divide(np.maximum(slack + levels.matrix @ move, 0.0), -approach, out=reach, where=closing)
        first = int(reach.argmin())
        if reach[first] >= 1:
            return move + step
        move = move + reach[first] * step
        held.add(first)
    return move


def _trusted(slope: Float, hessian: Float, radius: float) -> Float:
    """-(|H| + mu)^-1 slope: |H| has the magnitudes of H's eigenvalues, mu >= 0 keeps the step within the radius."""
    curvature, directions = np.linalg.eigh(hessian)
    curvature = np.abs(curvature)
    curvature = np.maximum(curvature, 1e-12 * curvature[[0, -1]].max())
    along = directions.T @ slope
    if not along.any():
        return np.zeros_like(slope)
    mu = 0.0
    for _ in range(50):  # Newton on 1/length, which is nearly linear in mu
        step = along / (curvature + mu)
        length = float(np.linalg.norm(step))
        if length <= 1.1 * radius:
            break
        mu += (length / radius - 1) * length**2 / float(step @ (step / (curvature + mu)))
    return np.asarray(-directions @ (step * min(1.0, radius / length)))
