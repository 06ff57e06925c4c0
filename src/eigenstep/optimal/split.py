"""Two networks, one budget: the optimal grid with a level at the boundary between them, and each one's share of the steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eigenstep import _checks
from eigenstep.call_error import CallError, call_error
from eigenstep.gaussian import BLEND, OBJECTIVES, check_start, divergence_terms, local_weight
from eigenstep.grids import grid
from eigenstep.optimal.geodesic import geodesic_law
from eigenstep.solvers import Solver, solver_named
from eigenstep.spectrum import Spectrum
from eigenstep.transfer import Outcome, local_errors, outcome

Float = NDArray[np.float64]

_COMPLEX_STEP = 1e-30
_BINS, _SCOUT_BINS = 72, 18
_LEAST_RATIO = 0.01
"""Neighbouring levels differ by at least 1 %, as in `optimal_grid`."""
_STATIONARY = 1e-4
"""A grid counts as optimal when no allowed change of ln sigma changes ln value at a rate above this."""
_CANDIDATES = 3
"""Shares of the steps that are searched to the end, after a coarse search of all of them."""


@dataclass(frozen=True)
class SplitResult:
    """A grid for each of two networks.

    Attributes
    ----------
    high : (m+1,)
        Levels of the first network, sigma_max ... boundary.
    low : (n-m+1,)
        Levels of the second network, boundary ... end.
    value : float
        The divergence of the two runs one after the other, on the full spectrum.
    converged : bool
        Whether the search for these levels ended where nothing improves on them.
    shares : mapping
        m -> the value that the search saw with m steps above the boundary: exact for the best few, roughly (within a few
        per cent) for the others. Infinite where so many steps find no room.

    Examples
    --------
    >>> result = optimal_split(Spectrum.from_eigenvalues([4.0]), 3, 2.0, 0.1, 10.0)
    >>> result.high.tolist(), result.low.round(3).tolist(), result.converged
    ([10.0, 2.0], [2.0, 0.828, 0.0], True)
    """

    high: Float
    low: Float
    value: float
    converged: bool
    shares: Mapping[int, float] = field(repr=False)

    @property
    def sigmas(self) -> Float:
        """The whole grid (n+1,), the boundary once.

        >>> result = optimal_split(Spectrum.from_eigenvalues([4.0]), 3, 2.0, 0.1, 10.0)
        >>> result.sigmas.round(3).tolist()                                              # 2 tan(pi/8): the tangent law
        [10.0, 2.0, 0.828, 0.0]
        """
        return np.concatenate([self.high, self.low[1:]])


def optimal_split(
    spectrum: Spectrum,
    n: int,
    boundary: float,
    sigma_min: float,
    sigma_max: float,
    *,
    high_steps: int | None = None,
    final: float | None = 0.0,
    solver: str | Solver = "ddim",
    objective: str = "w2",
    noise_floor: float = 0.0,
    start: str = "marginal",
    denoiser_error: Any = None,
) -> SplitResult:
    """The best n steps of two networks that change places at `boundary`, each run beginning afresh.

    The divergence of both runs together is minimised over the free levels with one level held at the boundary, for every
    share m of the steps, 1 <= m < n: with A the gain and q the added variance of a run, A = A_low A_high and
    q = A_low^2 q_high + q_low. A multistep solver starts the second run without a history, as hosts do that sample in two
    passes. Where one run serves both networks (diffusers' Wan pipelines), no level is needed at the boundary: use
    `optimal_grid`, and `grids.split` to see the shares.

    Parameters
    ----------
    spectrum : Spectrum
        Searched on at most 72 Gauss nodes; the value returned is that of the full spectrum.
    n : int
        Steps of both together, >= 2.
    boundary : float
        sigma where the second network takes over, data units, sigma_min < boundary < sigma_max.
    sigma_min, sigma_max : float
        Lowest level at which the second network may be called, > 0, and the first level of the first, data units.
    high_steps : int, optional
        Steps of the first network, 1 <= high_steps < n; by default, the best share.
    final : float or None
        Where the grid ends, <= sigma_min: 0.0, or None to end at sigma_min.
    solver, objective, noise_floor, start
        As in `optimal_grid`.
    denoiser_error : CallError or ErrorCurve, or a pair of them, optional
        What a call of either network adds to a direction, or what a call of each does: (first, second), None where it is not
        known.

    Raises
    ------
    ValueError
        n < 2, a boundary outside the range, `high_steps` that leave a network without a step, steps that find no room (levels
        differ by 1 % at least), or names unknown.

    Examples
    --------
    >>> result = optimal_split(Spectrum.from_zoo("cifar10"), 6, 7.0, 0.002, 80.0)
    >>> result.high.round(3).tolist(), result.low.round(3).tolist()
    ([80.0, 17.77, 7.0], [7.0, 2.976, 1.093, 0.293, 0.0])
    """
    n = _checks.integer(n, "n", minimum=2)
    low, high = _checks.sigma_range(sigma_min, sigma_max)
    boundary = _checks.real_number(boundary, "boundary")
    if not low < boundary < high:
        raise ValueError(
            f"`boundary` must lie between `sigma_min` and `sigma_max`, got {boundary:.6g} for {low:.6g} ... {high:.6g}."
        )
    end = low if final is None else _checks.real_number(final, "final", minimum=0.0)
    if end > low:
        raise ValueError(f"`final` must not exceed `sigma_min`, got {end:.6g} and {low:.6g}; use final=None to end there.")
    shares = list(range(1, n))
    if high_steps is not None:
        shares = [_checks.integer(high_steps, "high_steps", maximum=n - 1)]
    method = solver_named(solver)
    check_start(_checks.choice(objective, OBJECTIVES, "objective"), start)
    noise_floor = _checks.real_number(noise_floor, "noise_floor", minimum=0.0)

    limits = (low, boundary, high, end)
    given = denoiser_error if isinstance(denoiser_error, tuple | list) else (denoiser_error, denoiser_error)
    if len(given) != 2:
        raise ValueError(f"`denoiser_error` must be one for both networks or a pair, got {len(given)}.")
    settings = (method, objective, noise_floor, start, (call_error(given[0]), call_error(given[1])))
    values = dict.fromkeys(shares, math.inf)
    begun: dict[int, Float] = {}
    coarse = _TwoRuns(spectrum.binned(_SCOUT_BINS), *settings)
    for m in shares:
        if _fits(m, n, limits):
            begun[m] = _first_guess(coarse, m, n, limits)
            if len(shares) > 1:
                begun[m], values[m], _ = _minimum(coarse, begun[m], m, limits, iterations=30)
    if not begun:
        raise ValueError(
            f"`n` = {n} steps find no room between {high:.6g}, {boundary:.6g} and {low:.6g} where levels must differ by 1 %; "
            "use fewer steps or another `boundary`."
        )
    fine = _TwoRuns(spectrum.binned(_BINS), *settings)
    ends: dict[int, tuple[Float, bool]] = {}
    for m in sorted(begun, key=lambda m: values[m])[:_CANDIDATES]:
        sigmas, values[m], stationary = _minimum(fine, begun[m], m, limits, iterations=300)
        ends[m] = (sigmas, stationary)
    best = min(ends, key=lambda m: values[m])
    sigmas, stationary = ends[best]
    value, _ = _TwoRuns(spectrum, *settings)(sigmas, best)
    return SplitResult(
        high=sigmas[: best + 1].copy(),
        low=sigmas[best:].copy(),
        value=value,
        converged=stationary,
        shares=MappingProxyType(values),
    )


@dataclass(frozen=True)
class _TwoRuns:
    """The divergence of a run to position m of a grid and another from there, with its gradient in ln sigma."""

    spectrum: Spectrum
    solver: Solver
    objective: str
    noise_floor: float
    start: str
    errors: tuple[CallError | None, CallError | None] = (None, None)

    def __call__(self, sigmas: Float, m: int) -> tuple[float, Float]:
        if self.objective == "blend":
            whole, by_whole = replace(self, objective="w2")(sigmas, m)
            steps, by_steps = replace(self, objective="local", errors=(None, None))(sigmas, m)
            return whole + BLEND * steps, by_whole + BLEND * by_steps
        parts = sigmas[None, : m + 1], sigmas[None, m:]
        return self._local(parts, m) if self.objective == "local" else self._end_to_end(parts, m)

    def _end_to_end(self, parts: tuple[Float, Float], m: int) -> tuple[float, Float]:
        lam, multiplicities = self.spectrum.eigenvalues, self.spectrum.multiplicities
        high, low = self._runs(parts)
        first, last = parts[0][0, 0], parts[1][0, -1]
        initial = (lam if self.start == "marginal" else 0.0) + first**2
        mean = self.spectrum.mean_energy / multiplicities * (self.start == "prior")
        gain = (high.gain * low.gain)[0]
        noise = (low.gain**2 * high.noise + low.noise)[0]
        error = (low.gain**2 * high.error + low.error)[0]

        def terms(squared: Any, added: Any, missed: Any) -> tuple[float, Float]:
            psi = divergence_terms(
                self.objective, squared * initial + added, lam + last**2, squared * mean + missed, self.noise_floor
            )
            return float(multiplicities @ psi.real), multiplicities * psi.imag / _COMPLEX_STEP

        # (gain + i h)^2 to first order, as in `optimal.objective`.
        value, by_gain = terms(gain**2 + 2j * _COMPLEX_STEP * gain, noise, error)
        _, by_noise = terms(gain**2, noise + 1j * _COMPLEX_STEP, error)
        gradient = np.zeros(parts[0].size + parts[1].size - 1)
        gradient[: m + 1] += (high.d_gain * low.gain)[0] @ by_gain + (low.gain**2 * high.d_noise)[0] @ by_noise
        gradient[m:] += (low.d_gain * high.gain)[0] @ by_gain
        gradient[m:] += (2 * low.gain * low.d_gain * high.noise + low.d_noise)[0] @ by_noise
        if any(self.errors):
            _, by_error = terms(gain**2, noise, error + 1j * _COMPLEX_STEP)
            gradient += self._by_error(high, low, m) @ by_error
        return value, gradient

    def _runs(self, parts: tuple[Float, Float]) -> tuple[Outcome, Outcome]:
        """Either run by itself."""
        first, second = (
            outcome(self.solver, self.spectrum.eigenvalues, part, error) for part, error in zip(parts, self.errors, strict=True)
        )
        return first, second

    def _by_error(self, high: Outcome, low: Outcome, m: int) -> Float:
        """Derivatives (n+1, k) of the variance that the calls' errors leave at the end, A_low^2 e_high + e_low."""
        slopes = np.zeros((m + low.d_error.shape[1], low.gain.shape[1]))
        slopes[: m + 1] += (low.gain**2 * high.d_error)[0]
        slopes[m:] += (2 * low.gain * low.d_gain * high.error + low.d_error)[0]
        return slopes

    def _local(self, parts: tuple[Float, Float], m: int) -> tuple[float, Float]:
        lam = self.spectrum.eigenvalues
        n = parts[0].size + parts[1].size - 2
        target = lam + parts[1][0, -1] ** 2
        weights = n * self.spectrum.multiplicities * local_weight(target, self.noise_floor)
        value, gradient = 0.0, np.zeros(n + 1)
        for part, begin in zip(parts, (0, m), strict=True):
            run = local_errors(self.solver, lam, part)
            # Errors of the first run are carried to its own end; the exact trajectory takes them on from there.
            weighted = run.error[0] * (weights if begin else weights * target / (lam + part[0, -1] ** 2))
            value += float((weighted * run.error[0]).sum())
            slopes = 2 * np.einsum("nk,nlk->nl", weighted, run.d_error[0])
            used = run.windows >= 0
            np.add.at(gradient, begin + run.windows[used], slopes[used])
        if any(self.errors):
            high, low = self._runs(parts)
            value += float((low.gain**2 * high.error + low.error)[0] @ self.spectrum.multiplicities)
            gradient += self._by_error(high, low, m) @ self.spectrum.multiplicities
        return value, gradient


Limits = tuple[float, float, float, float]


def _rooms(limits: Limits) -> tuple[float, float]:
    """Lengths in ln sigma of the two sides."""
    low, boundary, high, _ = limits
    return math.log(high / boundary), math.log(boundary / low)


def _fits(m: int, n: int, limits: Limits) -> bool:
    """Whether levels 1 % apart have room: m steps above the boundary, and n-m below it, the last one onto the end."""
    above, below = _rooms(limits)
    ends_at_low = limits[3] == limits[0]
    return m * _LEAST_RATIO <= above and (n - m - (not ends_at_low)) * _LEAST_RATIO <= below


def _first_guess(runs: _TwoRuns, m: int, n: int, limits: Limits) -> Float:
    """The better of two feasible grids: the geodesic law on either side, and levels equally spaced in ln sigma."""
    low, boundary, high, end = limits
    scale: dict[str, Any] = {"objective": runs.objective, "noise_floor": runs.noise_floor}
    sides = [
        grid(geodesic_law(runs.spectrum, boundary, high, **scale), m),
        grid(geodesic_law(runs.spectrum, end, boundary, **scale), n - m)[1:],
    ]
    below = np.geomspace(boundary, low, n - m + (end == low))[1:]
    even = np.concatenate([np.geomspace(high, boundary, m + 1), below, [end] * (end != low)])
    guesses = [_feasible(guess, m, limits) for guess in (np.concatenate(sides), even)]
    return min(guesses, key=lambda sigmas: runs(sigmas, m)[0])


def _feasible(sigmas: Float, m: int, limits: Limits) -> Float:
    """The grid with its free levels moved as little as spacing, boundary and lowest level need."""
    low, boundary, _, end = limits
    sigmas = sigmas.copy()
    sigmas[m] = boundary
    ratio = math.exp(_LEAST_RATIO)
    n = sigmas.size - 1
    for begin, stop in ((0, m), (m, n)):
        for k in range(begin + 1, stop):
            sigmas[k] = min(sigmas[k], sigmas[k - 1] / ratio)
        floor = boundary * ratio if stop == m else low * (ratio if end == low else 1.0)
        for k in range(stop - 1, begin, -1):
            sigmas[k] = max(sigmas[k], floor)
            floor = sigmas[k] * ratio
    return sigmas


def _minimum(runs: _TwoRuns, sigmas: Float, m: int, limits: Limits, *, iterations: int) -> tuple[Float, float, bool]:
    """Levels of least value near a grid, that value, and whether nothing improves on them."""
    from scipy.optimize import minimize, nnls

    low, _, _, end = limits
    n = sigmas.size - 1
    free = np.array([k for k in range(1, n) if k != m], dtype=np.intp)
    if not free.size:
        return sigmas, runs(sigmas, m)[0], True
    # Spacing of every pair with a free level, and the lowest free level not below sigma_min.
    rows, limit = [], []
    log = np.log(np.where(sigmas > 0, sigmas, 1.0))
    for k in range(n):
        touched = [j for j in (k, k + 1) if j in free]
        if not touched or (k + 1 == n and end == 0):
            continue
        row = np.zeros(free.size)
        fixed = 0.0
        for j, sign in ((k, 1.0), (k + 1, -1.0)):
            if j in free:
                row[np.searchsorted(free, j)] = sign
            else:
                fixed += sign * log[j]
        rows.append(row)
        limit.append(_LEAST_RATIO - fixed)
    if n - 1 in free:
        row = np.zeros(free.size)
        row[-1] = 1.0
        rows.append(row)
        limit.append(math.log(low))
    matrix, bound = np.array(rows), np.array(limit)

    def placed(y: Float) -> Float:
        moved = sigmas.copy()
        moved[free] = np.exp(y)
        return np.asarray(moved)

    def logarithm(y: Float) -> tuple[float, Float]:
        moved = placed(y)
        # A line search may try levels out of order; they are worth nothing.
        if np.any(np.diff(moved) >= 0):
            return 1e3, np.zeros(y.size)
        value, gradient = runs(moved, m)
        positive = max(value, 1e-300)
        return math.log(positive), gradient[free] / positive

    found = minimize(
        logarithm,
        log[free],
        jac=True,
        method="SLSQP",
        constraints={"type": "ineq", "fun": lambda y: matrix @ y - bound, "jac": lambda y: matrix},
        options={"maxiter": iterations, "ftol": 1e-13},
    )
    y = found.x if found.fun < logarithm(log[free])[0] and (matrix @ found.x - bound > -1e-9).all() else log[free]
    best = _feasible(placed(y), m, limits)
    met = matrix @ np.log(best[free]) - bound < 1e-7
    _, gradient = logarithm(np.log(best[free]))
    unbalanced = nnls(matrix[met].T, gradient)[1] if met.any() else float(np.linalg.norm(gradient))
    return best, runs(best, m)[0], bool(unbalanced < _STATIONARY)
