"""Levels fitted to where a model's own converged runs end: Gauss-Newton through its runs, with none of its gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eigenstep import _checks
from eigenstep.models.denoiser import Denoiser
from eigenstep.solvers import History, Solver, advance, solver_named

Float = NDArray[np.float64]

_DIFFERENCE = 0.05
"""Of a level's distance from the next in ln sigma: far above what float32 rounds, and each step is judged by its own runs."""

_DAMPING, _RATIO = 0.03, 30.0
"""Of the first round, in units of the diagonal of the normal matrix; every round tries one and another so many times it."""

_STRETCH = 0.6
"""Most that a round widens or narrows a gap, as a share of it."""

_SOFT = 1e-3
"""Of the median squared difference: below it the distance of a single noise counts as its square."""

_NUMBERS = 2**27
"""Float64 numbers that are kept at once, about: 1 GiB."""


class Fitted(NamedTuple):
    """What `fit_levels` found.

    Attributes
    ----------
    sigmas : (n+1,)
        The levels.
    distance : float
        Mean over the noises of the root mean square difference from the endpoint, data units.
    calls : int
        Network calls spent, counted by item.

    Examples
    --------
    >>> z = np.array([[1.0], [-2.0]])
    >>> fit_levels(lambda x, sigma: 0.5 * x, [4.0, 0.0], z, z).distance         # one step of a given level: nothing to fit
    1.5
    """

    sigmas: Float
    distance: float
    calls: int


def fit_levels(
    denoiser: Denoiser,
    sigmas: ArrayLike,
    noise: Float,
    endpoint: Float,
    *,
    solver: str | Solver = "ddim",
    start: Callable[[float, Float], Float] | None = None,
    lowest: float | None = None,
    highest: float | None = None,
    rounds: int = 4,
    tolerance: float = 0.01,
    progress: Callable[[int], None] | None = None,
) -> Fitted:
    """Levels from which a few noises end nearer their endpoints, beginning with a grid that is already good.

    Minimises the mean over the noises of |x_i - y_i|, the distance of a run's end from its endpoint: not its square, which a
    few noises that end in another picture altogether would rule. Gauss-Newton on the logarithms of the levels, each noise
    weighted by its reciprocal distance (iteratively reweighted least squares), damped, with forward differences. A level that
    moves changes only what comes after it, so that a round costs about half of n + 4 runs, not n + 3.

    Parameters
    ----------
    denoiser : callable
        D(x, sigma), numpy arrays in and out.
    sigmas : (n+1,) array_like
        Where to begin; descending to 0.
    noise, endpoint : (m, *item_shape) arrays
        Standard normal noises and where they should end, data units. A dozen noises are enough to gain by, two dozen better.
    solver : str or Solver
        Deterministic.
    start : callable, optional
        `start(level, noise)`, the state at a first level, which then is fitted too; by default the noise times that level,
        which stays.
    lowest, highest : float, optional
        Bounds of the positive levels; by default those of `sigmas`.
    rounds : int
        Of Gauss-Newton, at most; >= 1.
    tolerance : float
        A round that gains less than this share of the mean distance is the last.
    progress : callable, optional
        Called with numbers of network calls as they are made.

    Returns
    -------
    Fitted

    Raises
    ------
    ValueError
        For levels that do not descend to 0, a stochastic solver, noises and endpoints of different shapes, or a bound that
        is not positive or that the levels overstep.

    Examples
    --------
    >>> lam = np.array([4.0, 1.0, 0.04])
    >>> wiener = lambda x, sigma: x * lam / (lam + sigma**2)
    >>> z = np.random.default_rng(0).standard_normal((6, 3))
    >>> first = [80.0, 9.0, 1.0, 0.2, 0.0]
    >>> found = fit_levels(wiener, first, z, 80 * z * np.sqrt(lam / (lam + 80**2)), rounds=8)
    >>> found.sigmas.round(1).tolist(), found.calls
    ([80.0, 4.1, 1.6, 0.6, 0.0], 372)
    """
    method = solver_named(solver)
    levels = np.array(_checks.descending_sigmas(sigmas), dtype=np.float64)
    rounds = _checks.integer(rounds, "rounds")
    if levels[-1] != 0.0:
        raise ValueError(f"`sigmas` must end at 0, where the endpoints are, got {levels[-1]:.4g} as the last.")
    if method.stochastic:
        raise ValueError(f"`solver` {method.name!r} is stochastic: its runs have no endpoint to fit levels to.")
    if noise.shape != endpoint.shape or noise.ndim < 2 or not len(noise):
        raise ValueError(
            "`noise` and `endpoint` must hold as many items of one shape, at least one, got shapes "
            f"{noise.shape} and {endpoint.shape}."
        )
    low = float(levels[-2]) if lowest is None else _checks.real_number(lowest, "lowest", minimum=0.0, exclusive=True)
    high = float(levels[0]) if highest is None else _checks.real_number(highest, "highest", minimum=0.0, exclusive=True)
    if not low <= levels[-2] * (1 + 1e-9) or not levels[0] <= high * (1 + 1e-9):
        raise ValueError(
            f"`sigmas` must lie between `lowest` and `highest`, got {levels[0]:.4g} to {levels[-2]:.4g} for {low:.4g} and "
            f"{high:.4g}."
        )
    runs = _Runs(denoiser, method, noise, endpoint, start, progress)
    free = np.arange(0 if start is not None else 1, levels.size - 1)
    if not free.size:
        return Fitted(levels, float(np.sqrt(runs.squares(levels)).mean()), runs.calls)
    damping, moved = _DAMPING, True
    for _ in range(rounds):
        if moved:
            matrix, gradient, squares = runs.normal_equations(levels, free)
        soft = _SOFT * float(np.median(squares))
        before = float(np.sqrt(squares + soft).mean())
        best, found, chosen = before, levels, damping
        for factor in (damping, _RATIO * damping):
            trial = _stepped(levels, free, matrix, gradient, factor, (low, high))
            value = float(np.sqrt(runs.squares(trial) + soft).mean())
            if value < best:
                best, found, chosen = value, trial, factor
        moved = found is not levels
        if not moved:
            damping *= _RATIO**2
            continue
        levels, damping = found, chosen / math.sqrt(_RATIO)
        if best > (1 - tolerance) * before:
            break
    return Fitted(levels, best, runs.calls)


def _stepped(
    levels: Float, free: NDArray[np.int_], matrix: Float, gradient: Float, factor: float, bounds: tuple[float, float]
) -> Float:
    """The levels after a damped Gauss-Newton step, in order and inside their bounds."""
    logs, (low, high) = np.log(levels[:-1]), np.log(bounds)
    # A level on its bound that would go beyond does not take part.
    stuck = ((logs[free] <= low + 1e-12) & (gradient > 0)) | ((logs[free] >= high - 1e-12) & (gradient < 0))
    moving = np.flatnonzero(~stuck)
    move = np.zeros(logs.size)
    if moving.size:
        kept = matrix[np.ix_(moving, moving)]
        damped = kept + factor * np.diag(np.maximum(np.diag(kept), 1e-12 * np.diag(kept).max(initial=1e-300)))
        move[free[moving]] = np.linalg.lstsq(damped, -gradient[moving], rcond=None)[0]
    gaps = -np.diff(logs)
    share = float((np.abs(np.diff(move)) / gaps).max()) if gaps.size else float(np.abs(move).max())
    moved = levels.copy()
    moved[free] = np.clip(levels[free] * np.exp(move[free] * min(1.0, _STRETCH / max(share, 1e-300))), *bounds)
    return moved if np.all(np.diff(moved) < 0) else levels


class _Runs:
    """Runs of a model from some noises, and how they change with their levels."""

    def __init__(
        self,
        denoiser: Denoiser,
        method: Solver,
        noise: Float,
        endpoint: Float,
        start: Callable[[float, Float], Float] | None,
        progress: Callable[[int], None] | None,
    ) -> None:
        self.denoiser, self.method, self.noise, self.endpoint = denoiser, method, noise, endpoint
        self.start = start if start is not None else lambda level, z: level * z
        self.progress, self.calls = progress, 0

    def _called(self, x: Any, sigma: Any) -> Float:
        out = np.asarray(self.denoiser(x, sigma), dtype=np.float64)
        self.calls += len(out)
        if self.progress is not None:
            self.progress(len(out))
        return out

    def squares(self, levels: Float) -> Float:
        """Mean squared difference from the endpoint, by noise."""
        end = _last(advance(self._called, self.start(float(levels[0]), self.noise), levels.tolist(), self.method))
        return np.asarray(np.mean((end - self.endpoint).reshape(len(end), -1) ** 2, axis=1))

    def normal_equations(self, levels: Float, free: NDArray[np.int_]) -> tuple[Float, Float, Float]:
        """Matrix and gradient of the weighted least squares over the logarithms of free levels, and the squares by noise."""
        gaps = -np.diff(np.log(levels[:-1]))
        steps = _DIFFERENCE * (np.append(gaps, gaps[-1]) if gaps.size else np.ones(1))
        size = max(1, _NUMBERS // (3 * levels.size * self.noise[0].size))
        parts = [self._differences(levels.tolist(), free, steps, slice(k, k + size)) for k in range(0, len(self.noise), size)]
        squares = np.concatenate([square for square, _, _ in parts])
        weights = 1 / np.sqrt(squares + _SOFT * float(np.median(squares)) + np.finfo(float).tiny)
        matrix = np.einsum("i,ipq->pq", weights, np.concatenate([each for _, each, _ in parts]))
        gradient = weights @ np.concatenate([each for _, _, each in parts])
        return matrix, gradient, squares

    def _differences(
        self, levels: list[float], free: NDArray[np.int_], steps: Float, part: slice
    ) -> tuple[Float, Float, Float]:
        """By noise: mean squared difference, products of its derivatives, and of derivatives and difference."""
        noise, denoise = self.noise[part], _Remembered(self._called)
        before: list[tuple[Any, History]] = [(self.start(levels[0], noise), ())]
        for _, state, history in advance(denoise, before[0][0], levels, self.method):
            before.append((state, history))
        denoise.recording = False
        end = np.asarray(before[-1][0], dtype=np.float64).reshape(len(noise), -1)
        columns = []
        for k in free:
            moved = list(levels)
            moved[k] *= math.exp(steps[k])
            first, (state, history) = (k - 1, before[k - 1]) if k else (0, (self.start(moved[0], noise), ()))
            other = _last(advance(denoise, state, moved, self.method, first=first, history=history))
            columns.append((other.reshape(len(noise), -1) - end) / steps[k])
        derivatives, difference = np.stack(columns, axis=1), end - self.endpoint[part].reshape(len(noise), -1)
        scale = 1 / end.shape[1]
        return (
            scale * np.sum(difference**2, axis=1),
            scale * np.einsum("ipd,iqd->ipq", derivatives, derivatives, optimize=True),
            scale * np.einsum("ipd,id->ip", derivatives, difference),
        )


def _last(steps: Iterable[tuple[int, Any, History]]) -> Float:
    """The state after the last of some steps."""
    end = None
    for _, state, _ in steps:
        end = state
    return np.asarray(end, dtype=np.float64)


class _Remembered:
    """A denoiser that knows its outputs of the first run, for runs that take up one of that run's own states."""

    def __init__(self, called: Callable[[Any, Any], Float]) -> None:
        self.called, self.recording = called, True
        self.known: list[tuple[Any, Any, Float]] = []

    def __call__(self, x: Any, sigma: Any) -> Float:
        for state, level, out in self.known:
            if state is x and level == sigma:
                return out
        out = self.called(x, sigma)
        if self.recording:
            self.known.append((x, sigma, out))
        return out
