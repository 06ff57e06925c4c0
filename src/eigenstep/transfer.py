"""Every step of a solver as an exact linear map per eigenvalue, with exact derivatives in the noise levels.

With the Wiener denoiser a solver acts on each eigen-direction as a product of small matrices over its state
(x, newest stored output, older ones, ...). This module obtains those matrices by applying the solver's own step to unit
states, for all steps of the same kind and any number of grids in one vectorised call, and differentiates them by complex
step. Everything that optimises a grid goes through here; `gaussian.propagate` runs the sampler instead, which makes the two
independent routes to one number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eigenstep.call_error import CallError
from eigenstep.solvers import Solver, StepContext

Float = NDArray[np.float64]
Int = NDArray[np.intp]
Complex = NDArray[np.complex128]

_COMPLEX_STEP = 1e-30
"""Imaginary perturbation of ln sigma; no subtraction takes place, so the derivative is exact to rounding."""


def wiener_gain(lam: Any, sigma: Any) -> Any:
    """w = lambda / (lambda + sigma^2), the best linear denoiser of a direction: theory section 2. w = 1 at sigma = 0.

    >>> float(wiener_gain(1.0, 2.0))
    0.2
    """
    return lam / (lam + sigma * sigma)


@dataclass(frozen=True, eq=False)
class _Kind:
    """Steps that share one formula: the same order, the same length of history, last or not.

    `window` (steps, width) holds the grid positions a step depends on, newest first: sigma', sigma, the history's. `levels`
    are the levels a step is given, sigma and sigma' and then the history's: grid positions (steps,) and the factor
    (1, steps, width, 1, 1) that puts the complex step of slot l on window position l.
    """

    steps: Int
    order: int
    last: bool
    window: Int
    levels: tuple[tuple[Int, Complex], ...]

    def perturbed(self, sigmas: Float) -> list[Complex]:
        """The levels of S grids, each (S, steps, width, 1, 1)."""
        return [sigmas[:, positions, None, None, None] * factor for positions, factor in self.levels]


@lru_cache(maxsize=256)
def _schedule(solver: Solver, n: int, onto_zero: bool, width: int) -> tuple[tuple[_Kind, ...], Int]:
    """The kinds of steps in a run, and the window of every step: (n, width), -1 where a step depends on fewer levels."""
    groups: dict[tuple[int, int, bool], list[int]] = {}
    for k in range(n):
        stored = 0 if k == 0 else min(k + solver.evaluates_ahead, solver.memory)
        groups.setdefault((solver.order_at(k, n, onto_zero=onto_zero), stored, k == n - 1), []).append(k)
    kinds = []
    windows = np.full((n, width), -1, dtype=np.intp)
    for (order, stored, last), members in groups.items():
        steps = np.array(members, dtype=np.intp)
        window = steps[:, None] + 1 - np.arange(min(width, order + 1))
        windows[steps, : window.shape[1]] = window
        newest = steps - (not solver.evaluates_ahead)
        levels = [steps, steps + 1, *(newest - j for j in range(stored))]
        factors = [(1 + 1j * _COMPLEX_STEP * (at[:, None] == window))[None, :, :, None, None] for at in levels]
        kinds.append(_Kind(steps, order, last, window, tuple(zip(levels, factors, strict=True))))
    return tuple(kinds), windows


@dataclass(frozen=True)
class StepMaps:
    """Linear maps of S grids of n steps over k directions, state size h, with c independent sources in every step.

    Attributes
    ----------
    maps : (S, n, h, h, k)
        State before step -> state after it.
    sources : (S, n, h, c, k)
        What one unit of each source adds to the state: the solver's own noise first (none for a deterministic solver), then
        the errors of the step's calls (none for a perfect denoiser).
    d_maps : (S, n, width, h, h, k)
        Derivatives of the maps in ln sigma at the `windows` positions.
    d_sources : (S, n, width, h, c, k)
        Those of the sources.
    windows : (n, width)
        Grid positions of the derivatives; -1 where a step reads fewer.
    """

    maps: Float
    sources: Float
    d_maps: Float
    d_sources: Float
    windows: Int


def step_maps(solver: Solver, lam: Float, sigmas: Float, error: CallError | None = None) -> StepMaps:
    """The linear map of every step and its derivatives in ln sigma, by running the step on unit states.

    Parameters
    ----------
    solver : Solver
        The solver.
    lam : (k,)
        Eigenvalues, squared data units, >= 0.
    sigmas : (S, n+1)
        S descending grids of the same length, all ending at zero or none. A terminal 0 is no variable: its derivative is 0.
    error : CallError, optional
        What every call of the denoiser adds besides.

    >>> from eigenstep.solvers import SOLVERS
    >>> maps = step_maps(SOLVERS["ddim"], np.array([1.0]), np.array([[2.0, 1.0]]))
    >>> round(float(maps.maps[0, 0, 0, 0, 0]), 12)         # (lambda + sigma sigma')/(lambda + sigma^2) = 3/5
    0.6
    """
    maps, windows = _complex_maps(solver, lam, sigmas, error)
    size = 1 + solver.memory
    real, slopes = maps[:, :, 0].real, maps.imag / _COMPLEX_STEP
    return StepMaps(
        maps=real[:, :, :, :size],
        sources=real[:, :, :, size:],
        d_maps=slopes[:, :, :, :, :size],
        d_sources=slopes[:, :, :, :, size:],
        windows=windows,
    )


def _complex_maps(solver: Solver, lam: Float, sigmas: Float, error: CallError | None = None) -> tuple[Complex, Int]:
    """Maps of S grids, (S, n, width, h, h + c, k), sources last, derivatives by window position in the imaginary part."""
    grids, n = sigmas.shape[0], sigmas.shape[1] - 1
    size = 1 + solver.memory
    calls = 0 if error is None else solver.calls_per_step
    inputs = size + solver.stochastic + calls
    kinds, windows = _schedule(solver, n, not np.any(sigmas[:, -1]), solver.window)
    rows = np.zeros((size, grids, n, solver.window, inputs, lam.size), complex)
    unit = np.eye(inputs)[:, :, None]
    for kind in kinds:
        sigma, sigma_next, *past = kind.perturbed(sigmas)
        x, stored = solver.step(
            wiener_denoiser(lam, error, unit[inputs - calls :]),
            unit[0],
            tuple((level, unit[1 + j]) for j, level in enumerate(past)),
            sigma,
            sigma_next,
            StepContext(order=kind.order, last=kind.last, noise=lambda: unit[size]),
        )
        width = kind.window.shape[1]
        for row, value in zip(rows, [x, *(output for _, output in stored)], strict=False):
            row[:, kind.steps, :width] = value
    # (row, S, n, width, column, k) -> (S, n, width, row, column, k)
    return rows.transpose(1, 2, 3, 0, 4, 5), windows


def wiener_denoiser(lam: Float, error: CallError | None, units: Any) -> Callable[[Any, Any], Any]:
    """The Wiener denoiser; with an error, each call adds a(sigma) times the next of some independent unit sources.

    >>> erring = wiener_denoiser(np.array([1.0]), CallError([3.0, 1.0], [0.25, 0.25]), np.eye(2)[1:, :, None])
    >>> erring(np.eye(2)[:1].T, 1.0).ravel().tolist()
    [0.5, 0.5]
    """
    if error is None:
        return lambda x, sigma: wiener_gain(lam, sigma) * x
    fresh = iter(units)
    return lambda x, sigma: wiener_gain(lam, sigma) * x + error.amplitude(sigma) * next(fresh)


@dataclass(frozen=True)
class Outcome:
    """What a run makes of each direction, for S grids and k directions.

    `gain` (S, k) multiplies the initial state; `noise` (S, k) is the variance that the steps' own noise leaves at the end,
    `error` (S, k) that of the calls' errors. `d_gain`, `d_noise`, `d_error` (S, n+1, k) are their derivatives in ln sigma.
    """

    gain: Float
    noise: Float
    error: Float
    d_gain: Float
    d_noise: Float
    d_error: Float


def outcome(solver: Solver, lam: Float, sigmas: Float, error: CallError | None = None) -> Outcome:
    """Gain, noise variance and their exact derivatives, by one forward and one backward sweep over the step maps.

    Arguments as in `step_maps`. With Y_k the state a unit start reaches, N_k the covariance of what was injected and w_k the
    row that carries a state at k to the end, d gain = w_{k+1} dT_k Y_k and
    d noise = 2 w_{k+1} dT_k N_k T_k^T w_{k+1}^T + 2 (w_{k+1} B_k) . (w_{k+1} dB_k).

    >>> from eigenstep.solvers import SOLVERS
    >>> run = outcome(SOLVERS["ddim"], np.array([1.0]), np.array([[2.0, 1.0]]))
    >>> run.gain.round(12).tolist(), run.d_gain.round(12).tolist()       # (1 + s s')/(1 + s^2) at (2, 1)
    ([[0.6]], [[[-0.56], [0.4]]])
    """
    steps = step_maps(solver, lam, sigmas, error)
    n = steps.maps.shape[1]
    states, carry = _sweeps(steps.maps)
    carried = np.einsum("snlrck,snrk->snlck", steps.d_maps, carry[:, 1:])
    d_gain = _scatter(np.einsum("snlck,snck->snlk", carried, states[:, :-1]), steps.windows, n)
    own = slice(0, int(solver.stochastic))
    noise, d_noise = _injected(steps, carry, carried, own)
    errors, d_errors = _injected(steps, carry, carried, slice(own.stop, None))
    return Outcome(carry[:, 0, 0], noise, errors, d_gain, d_noise, d_errors)


def _injected(steps: StepMaps, carry: Float, carried: Float, sources: slice) -> tuple[Float, Float]:
    """Variance at the end of what some of the sources add, (S, k), and its derivatives (S, n+1, k)."""
    grids, n, size, _, k = steps.maps.shape
    added, d_added = steps.sources[:, :, :, sources], steps.d_sources[:, :, :, :, sources]
    if not added.shape[3]:
        return np.zeros((grids, k)), np.zeros((grids, n + 1, k))
    ends = np.einsum("snrck,snrk->snck", added, carry[:, 1:])
    d_ends = np.einsum("snlrck,snrk->snlck", d_added, carry[:, 1:])
    reached = np.zeros((grids, n, size, k))
    covariance = np.zeros((grids, size, size, k))
    for j in range(n):
        reached[:, j] = np.einsum("sabk,sbk->sak", covariance, carry[:, j])
        half = np.einsum("srck,scdk->srdk", steps.maps[:, j], covariance)
        covariance = np.einsum("srdk,stdk->srtk", half, steps.maps[:, j])
        covariance += np.einsum("srck,stck->srtk", added[:, j], added[:, j])
    slopes = 2 * np.einsum("snlck,snck->snlk", carried, reached) + 2 * np.einsum("snlck,snck->snlk", d_ends, ends)
    return np.einsum("snck,snck->sk", ends, ends), _scatter(slopes, steps.windows, n)


def _sweeps(maps: Float) -> tuple[Float, Float]:
    """Y_k, the state a unit start reaches, and w_k, the row that carries a state at k to the end: each (S, n+1, h, k)."""
    grids, n, size, _, k = maps.shape
    states = np.zeros((grids, n + 1, size, k))
    states[:, 0, 0] = 1.0
    carry = np.zeros((grids, n + 1, size, k))
    carry[:, n, 0] = 1.0
    if size == 1:
        np.cumprod(maps[:, :, 0], axis=1, out=states[:, 1:])
        np.cumprod(maps[:, ::-1, 0], axis=1, out=carry[:, n - 1 :: -1])
        return states, carry
    for j in range(n):
        states[:, j + 1] = np.einsum("srck,sck->srk", maps[:, j], states[:, j])
        i = n - 1 - j
        carry[:, i] = np.einsum("srck,srk->sck", maps[:, i], carry[:, i + 1])
    return states, carry


def _scatter(slopes: Float, windows: Int, n: int) -> Float:
    """(S, n, width, k) derivatives at window positions -> (S, n+1, k) derivatives at grid positions."""
    total = np.zeros((slopes.shape[0], n + 1, slopes.shape[3]))
    for slot in range(windows.shape[1]):
        used = np.flatnonzero(windows[:, slot] >= 0)
        total[:, windows[used, slot]] += slopes[:, used, slot]
    return total


# ---------------------------------------------------------------------------------------------------------------------
# Second derivatives

_SHIFT = 1e-8
"""Shift of ln sigma in differences of exact first derivatives, good to about 1e-7: a Hessian steers, it is not the answer."""


def _with_shifts(sigmas: Float, width: int) -> Float:
    """The grid, then the grids whose inner positions congruent to c mod width are shifted: (1 + width, n+1).

    A window holds `width` consecutive positions, one of each class, so that one shifted grid serves every step at once.
    """
    shifts = _SHIFT * (np.arange(sigmas.size) % width == np.arange(-1, width)[:, None])
    shifts[:, [0, -1]] = 0.0
    return np.asarray(sigmas * np.exp(shifts))


def _second(slopes: Float, windows: Int) -> Float:
    """Slopes of the grid and its shifted ones (1 + width, n, ...) -> (n, slot, ...): differences in the window's positions."""
    by_class = (slopes[1:] - slopes[0]) / _SHIFT
    return np.asarray(by_class[windows % windows.shape[1], np.arange(windows.shape[0])[:, None]])


def assembled(blocks: Float, windows: Int, columns: Int) -> Float:
    """The sum of every step's block of a matrix over grid positions: (n+1, n+1).

    Parameters
    ----------
    blocks : (n, width, c)
        Rows belong to the positions of `windows` (n, width), columns to those of `columns` (n, c); -1 is dropped.

    >>> assembled(np.ones((2, 2, 2)), np.array([[1, 0], [2, 1]]), np.array([[1, 0], [2, 1]])).astype(int).tolist()
    [[1, 1, 0], [1, 2, 1], [0, 1, 1]]
    """
    n = windows.shape[0]
    size = n + 2  # -1 falls into an extra last row or column
    cells = (windows % size)[:, :, None] * size + (columns % size)[:, None, :]
    total: Float = np.bincount(cells.ravel(), blocks.ravel(), size * size).astype(np.float64, copy=False)
    return total.reshape(size, size)[: n + 1, : n + 1]


@dataclass(frozen=True, eq=False)
class _Tangents:
    """The maps of one grid of n steps with c sources each, and the derivatives of what they carry to the end.

    `maps` (n, h, h, k); `states` (n, s, h, k), what one unit of each of the s = 1 + n c sources has become before every step:
    the initial state, then the sources of every step in order; `pushes` (n, width, h, h + c, k), the derivatives of maps and
    sources at the `windows` (n, width); `carried` (1 + width, n, width, h + c, k): w_{k+1} dT_k, of the grid and its shifted
    ones.
    """

    maps: Float
    states: Float
    pushes: Float
    carried: Float
    windows: Int

    def curvature(self, amounts: Float) -> Float:
        """Second derivatives of the end of a run that `amounts` (s, k) of the sources join, summed: (n-1, n-1), inner levels.

        Two changes in different steps: w_{k+1} dT_k dY_k, once for each order of the two; two changes in the same step:
        w_{k+1} d^2 T_k Y_k.
        """
        n, width, size, columns, k = self.pushes.shape
        joined = amounts[1:].reshape(n, columns - size, k)
        inputs = np.concatenate([np.einsum("sk,nsrk->nrk", amounts, self.states), joined], axis=1)
        # dY_k in every position, forward: dY_{k+1} = T_k dY_k + dT_k Y_k.
        pushes = np.einsum("nlrck,nck->nlrk", self.pushes, inputs)
        reached = np.zeros((n, n + 1, size, k))
        for j in range(n - 1):
            held = self.windows[j] >= 0
            reached[j + 1] = np.einsum("rck,ack->ark", self.maps[j], reached[j])
            reached[j + 1, self.windows[j, held]] += pushes[j, held]
        rows = self.carried[0, :, :, :size].reshape(n, width, size * k)
        across = np.matmul(rows, reached.reshape(n, n + 1, size * k).transpose(0, 2, 1))
        crossed = assembled(across, self.windows, np.tile(np.arange(n + 1), (n, 1)))
        within = _second(np.einsum("snlck,nck->snl", self.carried, inputs), self.windows)
        total = crossed + crossed.T + assembled(within, self.windows, self.windows)
        return np.asarray(total[1:-1, 1:-1])


@dataclass(frozen=True, eq=False)
class Jet:
    """What one grid makes of given starts, with first and second derivatives in ln sigma.

    `value` (q, k), `slope` (n+1, q, k); second derivatives stay in factors, since only their weighted sum is ever wanted.
    A value is a sum over sources, the start and what every step adds, of an amount times what one unit of the source is at
    the end: its coefficient, or that squared for a variance.
    """

    value: Float
    slope: Float
    _tangents: _Tangents
    _ends: Float
    _d_ends: Float
    _amounts: Float
    _squared: bool

    def weighted_curvature(self, weights: Float) -> Float:
        """sum_qi weights_qi d^2 value_qi / d ln sigma_a d ln sigma_b over inner levels: (n-1, n-1) for weights (q, k).

        With a_s the weighted amount of a source and c_s its coefficient: sum a_s d^2 c_s, or, of squares,
        2 sum a_s (dc_s dc_s^T + c_s d^2 c_s). What a run ends at is linear in its sources, so that all of them go in one.

        >>> from eigenstep.solvers import SOLVERS
        >>> run, = jets(SOLVERS["ddim"], np.array([1.0]), np.array([2.0, 1.0, 0.0]), [(1.0, 0.0)])
        >>> run.weighted_curvature(np.ones((1, 1))).round(6).tolist()    # of (1 + 2s)/5/(1 + s^2) at s = 1
        [[-0.2]]
        """
        amounts = np.einsum("qk,qsk->sk", weights, self._amounts)
        if not self._squared:
            return self._tangents.curvature(amounts)
        doubled = 2 * amounts
        curved = self._tangents.curvature(doubled * self._ends)
        inner = self._d_ends[1:-1].reshape(curved.shape[0], doubled.size)
        return np.asarray(curved + (inner * doubled.ravel()) @ inner.T)


def jets(
    solver: Solver, lam: Float, sigmas: Float, starts: Sequence[tuple[Any, Any]], error: CallError | None = None
) -> tuple[Jet, ...]:
    """What one grid (n+1,) makes of q starts: the gain of a solver without noise, the variance of one with noise.

    With an error, a further jet holds the variance (1, k) that the errors of the calls leave at the end. Second derivatives of
    a step's own map are differences of its exact first derivatives, on `width` shifted grids in the same call. Arguments as in
    `step_maps`.

    Parameters
    ----------
    starts : q pairs of scalars or (k,)
        Initial state (deterministic solver), or initial variance and the factor of the noise's variance (stochastic one).
        Without any, only the errors' jet is computed.

    >>> from eigenstep.solvers import SOLVERS
    >>> run, = jets(SOLVERS["ddim"], np.array([1.0]), np.array([2.0, 1.0]), [(1.0, 0.0)])
    >>> run.value.round(12).tolist(), run.slope.round(12).tolist()
    ([[0.6]], [[[-0.56]], [[0.4]]])
    >>> run, = jets(SOLVERS["ddim_eta"], np.array([1.0]), np.array([2.0, 1.0]), [(5.0, 1.0)])    # 5 (2/5)^2 + 3/4
    >>> run.value.round(12).tolist()
    [[1.55]]
    >>> erring = CallError([3.0, 1.0], [0.25, 0.25])
    >>> _, run = jets(SOLVERS["ddim"], np.array([1.0]), np.array([2.0, 1.0]), [(1.0, 0.0)], erring)   # (1 - 1/2)^2 / 4
    >>> run.value.round(12).tolist()
    [[0.0625]]
    """
    maps, windows = _complex_maps(solver, lam, _with_shifts(sigmas, solver.window), error)
    tangents, ends, d_ends = _sources_at_the_end(maps, windows)
    n, noisy, k = windows.shape[0], int(solver.stochastic), lam.size
    per_step = (ends.shape[0] - 1) // n

    def jet(amounts: Float, squared: bool) -> Jet:
        factors = 2 * ends if squared else np.ones_like(ends)
        return Jet(
            value=np.einsum("qsk,sk->qk", amounts, ends**2 if squared else ends),
            slope=np.einsum("ask,qsk->aqk", d_ends, amounts * factors),
            _tangents=tangents,
            _ends=ends,
            _d_ends=d_ends,
            _amounts=amounts,
            _squared=squared,
        )

    runs = []
    if starts:
        amounts = np.zeros((len(starts), ends.shape[0], k))
        for amount, (initial, noise) in zip(amounts, starts, strict=True):
            amount[0] = initial
            if noisy:
                amount[1::per_step] = noise
        runs.append(jet(amounts, solver.stochastic))
    if error is not None:
        of_calls = np.zeros((1, n, per_step, k))
        of_calls[:, :, noisy:] = 1.0
        runs.append(jet(np.concatenate([np.zeros((1, 1, k)), of_calls.reshape(1, -1, k)], axis=1), True))
    return tuple(runs)


def _sources_at_the_end(complex_maps: Complex, windows: Int) -> tuple[_Tangents, Float, Float]:
    """The tangents of a grid's maps; what one unit of each source is at the end, (s, k), and its slopes, (n+1, s, k).

    The sources are the initial state, then those of every step in order: s = 1 + n c.
    """
    maps, slopes = complex_maps[0, :, 0].real, complex_maps.imag / _COMPLEX_STEP
    n, size, columns, k = maps.shape
    per_step = columns - size
    carry = np.zeros((n + 1, size, k))
    carry[n, 0] = 1.0
    for j in range(n - 1, -1, -1):
        carry[j] = np.einsum("rck,rk->ck", maps[j, :, :size], carry[j + 1])
    carried = np.einsum("snlrck,nrk->snlck", slopes, carry[1:])
    added = np.einsum("nrck,nrk->nck", maps[:, :, size:], carry[1:])
    ends = np.concatenate([carry[:1, 0], added.reshape(n * per_step, k)])
    states = np.zeros((n, 1 + n * per_step, size, k))
    states[0, 0, 0] = 1.0
    for j in range(n - 1):
        known = 1 + j * per_step  # the sources of later steps are not there yet
        states[j + 1, :known] = np.einsum("rck,qck->qrk", maps[j, :, :size], states[j, :known])
        states[j + 1, known : known + per_step] = maps[j, :, size:].transpose(1, 0, 2)
    d_ends = _scatter(np.einsum("nlck,nqck->qnlk", carried[0, :, :, :size], states), windows, n)
    own = 1 + np.arange(n * per_step).reshape(n, per_step)
    for slot in range(windows.shape[1]):
        used = np.flatnonzero(windows[:, slot] >= 0)
        d_ends[own[used], windows[used, slot, None]] += carried[0, used, slot, size:]
    return _Tangents(maps[:, :, :size], states, slopes[0], carried, windows), ends, d_ends.transpose(1, 0, 2)


@dataclass(frozen=True)
class LocalErrors:
    """Errors that single steps make on the exact trajectory, carried to the end: theory (10).

    `error` is (S, n, k); `d_error` (S, n, width, k) its derivatives in ln sigma at the `windows` (n, width) positions.
    """

    error: Float
    d_error: Float
    windows: Int


def local_errors(solver: Solver, lam: Float, sigmas: Float) -> LocalErrors:
    """delta_k = (step_k(X) - X(sigma_{k+1})) X(sigma_n)/X(sigma_{k+1}), X(sigma) = sqrt(lambda + sigma^2), exact history.

    For a stochastic solver the exact history is jointly Gaussian, neighbouring states correlating as the exact reverse
    process makes them (`Solver.drift`), and the step's output enters by its standard deviation. A direction with lambda = 0
    on a grid that ends at 0 has no error.

    >>> from eigenstep.solvers import SOLVERS
    >>> run = local_errors(SOLVERS["ddim"], np.array([1.0]), np.array([[2.0, 0.0]]))
    >>> round(float(run.error[0, 0, 0]), 6)                # 1/sqrt(5) - 1
    -0.552786
    """
    grids, n = sigmas.shape[0], sigmas.shape[1] - 1
    width = solver.order + 1 if solver.memory else 2  # the exact history depends on levels the formula may not read
    kinds, windows = _schedule(solver, n, not np.any(sigmas[:, -1]), width)
    error = np.zeros((grids, n, lam.size))
    slopes = np.zeros((grids, n, width, lam.size))
    with np.errstate(divide="ignore", invalid="ignore"):
        for kind in kinds:
            delta = _local_error(solver, kind, lam, sigmas)
            error[:, kind.steps] = delta[:, :, 0].real
            slopes[:, kind.steps, : kind.window.shape[1]] = delta.imag / _COMPLEX_STEP
    if not np.any(sigmas[:, -1]):
        error[:, :, lam == 0] = 0.0
        slopes[:, :, :, lam == 0] = 0.0
    return LocalErrors(error, slopes, windows)


@dataclass(frozen=True)
class LocalJet:
    """Local errors of one grid: `error` (n, k), `d_error` (n, width, k), `dd_error` (n, width, width, k), at `windows`."""

    error: Float
    d_error: Float
    dd_error: Float
    windows: Int


def local_jet(solver: Solver, lam: Float, sigmas: Float) -> LocalJet:
    """`local_errors` of one grid (n+1,) with second derivatives in the inner levels, by differences of the exact first ones.

    >>> from eigenstep.solvers import SOLVERS
    >>> jet = local_jet(SOLVERS["ddim"], np.array([1.0]), np.array([3.0, 2.0, 0.0]))
    >>> jet.dd_error.shape, round(float(jet.dd_error[1, 1, 1, 0]), 6)     # d^2/dy^2 of (1 + e^2y)^(-1/2) at s = 2
    ((2, 2, 2, 1), 0.143108)
    """
    width = solver.order + 1 if solver.memory else 2
    run = local_errors(solver, lam, _with_shifts(sigmas, width))
    return LocalJet(run.error[0], run.d_error[0], _second(run.d_error, run.windows), run.windows)


def _local_error(solver: Solver, kind: _Kind, lam: Float, sigmas: Float) -> Complex:
    """delta of the steps of one kind: (S, steps, width, k), derivatives in the imaginary part."""
    sigma, sigma_next, *stored = kind.perturbed(sigmas)
    # The exact joint state over independent unit sources (axis -2), built from the oldest level to the current one.
    levels = [*stored[int(solver.evaluates_ahead) :][::-1], sigma]
    sources = (len(levels) if solver.stochastic else 1) + solver.stochastic
    unit = np.eye(sources)[:, :, None]
    states: list[Complex] = [np.sqrt(lam + levels[0] ** 2) * unit[0]]
    for j, (older, newer) in enumerate(pairwise(levels)):
        keep = ((lam + newer**2) / (lam + older**2)) ** (solver.drift / 2)
        state = keep * states[-1]
        if solver.stochastic:
            state = state + np.sqrt(lam + newer**2 - keep**2 * (lam + older**2)) * unit[j + 1]
        states.append(state)
    x = states[-1]
    held = states[::-1] if solver.evaluates_ahead else states[-2::-1]
    history = tuple(
        (level, wiener_gain(lam, level) * state if solver.output == "denoised" else level / (lam + level**2) * state)
        for level, state in zip(stored, held, strict=False)
    )
    out, _ = solver.step(
        wiener_denoiser(lam, None, ()),
        x,
        history,
        sigma,
        sigma_next,
        StepContext(order=kind.order, last=kind.last, noise=lambda: unit[-1]),
    )
    spread = np.sqrt((out**2).sum(axis=-2)) if solver.stochastic else out[..., 0, :]
    exact_next = np.sqrt(lam + sigma_next[..., 0, :] ** 2)
    if kind.last:
        return np.asarray(spread - exact_next)
    exact_end = np.sqrt(lam + sigmas[:, -1, None, None, None] ** 2)
    return np.asarray((spread - exact_next) * (exact_end / exact_next))
