"""Searched grids of others, re-implemented from their definitions, and an oracle: what planning is compared with.

`tournament.py` runs them beside our plans.

Every function gives (sigmas, calls): n + 1 descending levels from `sigma_max` to 0, and the network calls spent on finding
them, counted by item. `states` are flattened or shaped items x~ at `sigma_max`; they stand for the noises that the authors
search with. Sources of formulas are named with each; no line of their programs is here.
"""

import functools
import math
import warnings
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from eigenstep import exponential_law, grid, karras_law, sample, solver_named
from eigenstep.models import error_curve
from eigenstep.solvers import advance

_FINE = 4097


class Searched(NamedTuple):
    """A grid and what it cost: network calls, counted by item."""

    sigmas: np.ndarray
    calls: int


class Counted:
    """A denoiser that counts its calls by item and keeps its last output."""

    def __init__(self, denoiser):
        self.denoiser, self.calls, self.last = denoiser, 0, None

    def __call__(self, x, sigma):
        self.calls += len(x)
        self.last = self.denoiser(x, sigma)
        return self.last


def _steps(n, most, what):
    if not 1 <= n <= most:
        raise ValueError(f"`n` must be at least 1 and at most the {most} steps of {what}, got {n}.")


# GITS


def gits(
    denoiser, n, sigma_min, sigma_max, *, states, coeff=1.15, metric="dev", teacher=60, teacher_solver="ipndm4", final=0.0
):
    """GITS: nodes of a teacher's grid, chosen by dynamic programming on the cost of one Euler jump between any two of them.

    Chen et al. (arXiv:2405.11326); zju-pi/diff-sampler, gits-main/gits_utils.py: 61 teacher nodes on the Karras law, iPNDM-4
    as teacher, 256 noises, coeff 1.15, metric "dev" (how much farther from the chord between the trajectory's two ends the
    jump lands than the trajectory itself) or "l2" / "l1" (distance from the trajectory). The teacher costs 60 calls per noise
    and its slopes are used again for the jumps. Their trajectories end at sigma_min (`final=None`); with `final=0.0` the
    teacher's last node is 0 instead, so that all n steps are chosen. The solver of the run that follows plays no part.
    """
    _steps(n, teacher, "the teacher")
    if metric not in ("dev", "l1", "l2"):
        raise ValueError(f"`metric` must be one of dev, l1, l2, got {metric!r}.")
    nodes = grid(karras_law(sigma_min, sigma_max, rho=7.0), teacher, final=final)
    points, outputs, calls = _trajectory(denoiser, states, nodes, teacher_solver)
    return Searched(nodes[cheapest_path(gits_cost(points, outputs, nodes, metric), n, coeff=coeff)], calls)


def gits_cost(points, outputs, nodes, metric="dev"):
    """(T+1, T+1) costs of an Euler jump from node i to node j > i along the teacher's slope at i; infinite elsewhere."""
    cost = np.full((len(nodes), len(nodes)), np.inf)
    own = _off_chord(points, points[0], points[-1]).mean(1)
    for i in range(len(nodes) - 1):
        jumps = outputs[i] + (nodes[i + 1 :] / nodes[i])[:, None, None] * (points[i] - outputs[i])
        if metric == "dev":
            cost[i, i + 1 :] = _off_chord(jumps, points[0], points[-1]).mean(1) - own[i + 1 :]
        else:
            cost[i, i + 1 :] = np.linalg.norm(jumps - points[i + 1 :], ord=int(metric[1]), axis=2).mean(1)
    return cost


def _off_chord(points, first, last):
    """Distance of points (..., m, d) from the straight line through both ends of their own item's trajectory."""
    chord = last - first
    chord = chord / np.linalg.norm(chord, axis=1, keepdims=True)
    away = last - points
    return np.linalg.norm(away - (away * chord).sum(-1, keepdims=True) * chord, axis=-1)


def cheapest_path(cost, n, *, coeff=1.0):
    """Indices of n jumps from the first node to the last with least cost_1 + coeff (cost_2 + coeff (cost_3 + ...)).

    Bellman's recursion V_k(j) = min_i cost(j, i) + coeff V_{k-1}(i), V_1(j) = cost(j, last).
    """
    last = len(cost) - 1
    _steps(n, last, "the finest path")
    values, choices = cost[:, last].copy(), []
    for _ in range(n - 1):
        values[last] = np.inf
        total = cost + coeff * values
        choices.append(np.argmin(total, axis=1))
        values = total.min(axis=1)
    path = [0]
    for choice in reversed(choices):
        path.append(int(choice[path[-1]]))
    return [*path, last]


def _trajectory(denoiser, states, nodes, solver):
    """Points (T+1, m, d) of a run and the outputs (T, m, d) at each, for a solver with one call per step at its start."""
    counted, outputs, points = Counted(denoiser), [], [np.asarray(states)]

    def keep(k, x):
        outputs.append(counted.last)
        points.append(x)

    sample(counted, points[0], nodes, solver=solver, callback=keep)
    flat = [np.stack([a.reshape(len(a), -1) for a in arrays]) for arrays in (points, outputs)]
    return flat[0], flat[1], counted.calls


# Optimal stepsize


def optimal_stepsize(denoiser, n, sigma_min, sigma_max, *, states, teacher=100):
    """OSS: per item, the nodes of an Euler teacher by which n Euler steps of its own come nearest the teacher; the median item.

    Pei et al. (arXiv:2503.21774); bebebe666/OptimalSteps, OSS/OSS.py `search_OSS_batch` and `cal_medium`. For k = 1 .. n every
    node keeps the one state, reached from the states of k - 1 steps, that lies nearest the teacher's there: each is a call of
    the network, about n x teacher per item. Two differences: the first step begins at sigma_max and every path has
    n steps (the program may start lower or repeat a node); teacher nodes are Karras' law, not a flow's shifted times.
    """
    _steps(n, teacher, "the teacher")
    nodes = grid(karras_law(sigma_min, sigma_max, rho=7.0), teacher, final=0.0)
    points, outputs, calls = _trajectory(denoiser, states, nodes, "ddim")
    counted, shape, items = Counted(denoiser), np.asarray(states).shape, points.shape[1]
    reached, origins = None, []
    for k in range(1, n + 1):
        best = np.full((teacher + 1, items), np.inf)
        moved, origin = np.zeros_like(points), np.zeros((teacher + 1, items), dtype=int)
        targets = np.arange(teacher, teacher + 1) if k == n else np.arange(k, teacher - (n - k) + 1)
        for i in [0] if k == 1 else range(k - 1, int(targets[-1])):
            state = points[0] if k == 1 else reached[i]
            output = outputs[0] if k == 1 else counted(state.reshape(shape), float(nodes[i])).reshape(items, -1)
            ahead = targets[targets > i]
            jumps = output + (nodes[ahead] / nodes[i])[:, None, None] * (state - output)
            error = ((jumps - points[ahead]) ** 2).mean(2)
            nearer = error < best[ahead]
            best[ahead] = np.where(nearer, error, best[ahead])
            origin[ahead] = np.where(nearer, i, origin[ahead])
            moved[ahead] = np.where(nearer[:, :, None], jumps, moved[ahead])
        reached = moved
        origins.append(origin)
    paths = np.full((n + 1, items), teacher)
    for k in range(n, 0, -1):
        paths[k - 1] = origins[k - 1][paths[k], np.arange(items)]
    # Medians of strictly rising rows rise strictly.
    return Searched(nodes[np.median(paths, axis=1).astype(int)], calls + counted.calls)


# DMN


def dmn(n, sigma_min, sigma_max, *, weight="sigma^2/alpha", start="uniform"):
    """DMN: the n - 1 steps from sigma_max to sigma_min with the least error bound of a third-order method; then 0. No call.

    Xue et al. (arXiv:2402.17376); scxue/DM-NonUniform, step_optim.py: `dmn_bound` minimised over the free half log-SNRs
    lambda = -ln sigma by scipy's trust-constr with ordered levels, from uniform lambda (`start="edm"`: the Karras law). Their
    grids end at sigma_min > 0, where the bound lives; the step to 0 is the one that every law of the catalogue gets.
    """
    from scipy.optimize import LinearConstraint, minimize

    _steps(n, _FINE, "a sensible search")
    if start not in ("uniform", "edm"):
        raise ValueError(f"`start` must be uniform or edm, got {start!r}.")
    if n == 1:
        return Searched(np.array([float(sigma_max), 0.0]), 0)
    law = exponential_law(sigma_min, sigma_max) if start == "uniform" else karras_law(sigma_min, sigma_max)
    first = -np.log(grid(law, n - 1))
    free = first.size - 2
    if free == 0:
        return Searched(np.append(np.exp(-first), 0.0), 0)
    gaps = np.zeros((free + 1, free))
    gaps[np.arange(free), np.arange(free)] = 1.0
    gaps[np.arange(1, free + 1), np.arange(free)] = -1.0
    low = np.zeros(free + 1)
    low[0], low[-1] = first[0], -first[-1]

    def bound(inner):
        return dmn_bound(np.concatenate([first[:1], inner, first[-1:]]), weight=weight)

    ordered = LinearConstraint(gaps, low, np.inf, keep_feasible=True)
    with warnings.catch_warnings():
        # Said where two iterates have one gradient to the last digit, at the end of a search.
        warnings.filterwarnings("ignore", message="delta_grad == 0.0")
        found = minimize(bound, first[1:-1], method="trust-constr", constraints=[ordered])
    inner = found.x if found.fun <= bound(first[1:-1]) else first[1:-1]
    return Searched(np.concatenate([[sigma_max], np.exp(-inner), [sigma_min, 0.0]]), 0)


def dmn_bound(lam, *, weight="sigma^2/alpha", truncated=3):
    """Bound of a run over ascending half log-SNRs: weights of the outputs times the error expected of each.

    Step s integrates e^lambda times the Lagrange polynomial of its last p outputs, J_sj = int_s^{s+1} e^lambda l_j d lambda,
    p = 3 but 1 at both ends and 2 next to them. The first `truncated` steps count as sqrt(sum_j (J_sj eps_j)^2) each (the
    steps of order 1 always as |J| eps), the others as sum_j |sum_s J_sj eps_j|; eps is sigma^2/alpha (latents, the program's)
    or sigma/alpha (pixels), in variance-preserving units.
    """
    if weight not in ("sigma^2/alpha", "sigma/alpha"):
        raise ValueError(f"`weight` must be sigma^2/alpha or sigma/alpha, got {weight!r}.")
    ratio = np.exp(-lam)
    expected = ratio if weight == "sigma/alpha" else ratio**2 / np.sqrt(1 + ratio**2)
    steps, total, later = lam.size - 1, 0.0, np.zeros(lam.size)
    for s in range(steps):
        order = 1 if s in (0, steps - 1) else 2 if s in (1, steps - 2) else 3
        used = np.arange(s - order + 1, s + 1)
        weights = lagrange_weights(lam[used], lam[s], lam[s + 1]) * expected[used]
        if order == 1 or s < truncated:
            total += float(np.sqrt((weights**2).sum()))
        else:
            later[used] += weights
    return total + float(np.abs(later).sum())


def lagrange_weights(nodes, low, high):
    """int_low^high e^x l_j(x) dx for the Lagrange polynomials l_j of up to three nodes, about x = low."""
    h = high - low
    moments = [math.expm1(h)]
    for power in range(1, len(nodes)):
        moments.append(math.exp(h) * h**power - power * moments[-1])
    weights = []
    for j, node in enumerate(nodes):
        polynomial = np.ones(1)
        for other in np.delete(nodes, j):
            polynomial = np.convolve(polynomial, np.array([low - other, 1.0]) / (node - other))
        weights.append(math.exp(low) * float(polynomial @ moments[: polynomial.size]))
    return np.array(weights)


# Rescaled entropic


def rescaled_entropic(denoiser, n, sigma_min, sigma_max, *, data, spectrum, levels=128, seed=0):
    """Uniform in R(sigma) = int m(s)/s^2 ds of the network's own denoising error m; then 0.

    Stancevic et al. (arXiv:2504.13612), who measure m at 128 levels on 1024 items. For a Gaussian: `rescaled_entropic_law`.
    """
    curve = error_curve(
        denoiser, data, spectrum=spectrum, sigma_min=sigma_min, sigma_max=sigma_max, levels=levels, seed=seed
    )
    return Searched(np.append(entropic_levels(curve, n, sigma_min, sigma_max), 0.0), len(data) * levels)


def entropic_levels(curve, n, sigma_min, sigma_max):
    """n levels uniform in R of an `ErrorCurve` that covers the range."""
    from scipy.interpolate import PchipInterpolator

    _steps(n, _FINE, "the finest quadrature")
    if curve.sigmas[-1] > sigma_min * (1 + 1e-9) or curve.sigmas[0] < sigma_max * (1 - 1e-9):
        raise ValueError(
            f"`curve` must cover {sigma_min:g} to {sigma_max:g}, got {curve.sigmas[-1]:g} to {curve.sigmas[0]:g}."
        )
    x = np.linspace(math.log(sigma_min), math.log(sigma_max), _FINE)
    log_error = PchipInterpolator(np.log(curve.sigmas[::-1]), np.log(curve.error[::-1]))(x)
    rate = np.exp(log_error - x)
    entropy = np.concatenate([[0.0], np.cumsum(0.5 * (rate[1:] + rate[:-1]) * np.diff(x))])
    levels = np.exp(np.interp(np.linspace(entropy[-1], 0.0, n), entropy, x))
    levels[0] = sigma_max
    if n > 1:
        levels[-1] = sigma_min
    return levels


# KL upper bound


def klub_search(denoiser, n, sigma_min, sigma_max, *, data, levels=81, rounds=50, seed=0):
    """AYS-style: node-by-node search for the least KL upper bound of an Euler step of the reverse SDE; then 0.

    Sabour et al. (arXiv:2404.14507) minimise sum_i int E|D(x_s, s) - D(x_i, sigma_i)|^2 / s^3 ds over the n - 1 steps from
    sigma_max to sigma_min by local search with early stopping. Their program is not published. This modest version draws
    one forward path per item of `data`, evaluates D once at every level of a lattice uniform in ln sigma, moves one node at a
    time within its neighbours on that lattice by the bound of half the paths, and stops where the other half no longer
    gains. Theirs draws anew for each move, weighs levels by a Gaussian's integrand, and doubles grids: 10, 20, 40 steps.
    """
    _steps(n, levels, "the lattice")
    if len(data) < 2:
        raise ValueError(f"`data` must hold at least 2 items, one half to search and one to stop by, got {len(data)}.")
    lattice = np.geomspace(sigma_max, sigma_min, levels)
    rng = np.random.default_rng(seed)
    x, outputs, level = np.asarray(data, dtype=np.float64), [], 0.0
    for sigma in lattice[::-1]:
        x = x + math.sqrt(sigma**2 - level**2) * rng.standard_normal(x.shape)
        outputs.append(np.asarray(denoiser(x, float(sigma))).reshape(len(x), -1))
        level = sigma
    outputs = np.stack(outputs[::-1])
    half = len(x) // 2
    searched, held_out = (klub_matrix(outputs[:, part], lattice) for part in (slice(half), slice(half, None)))
    path = np.round(np.linspace(0, levels - 1, n)).astype(int)
    best = sum(held_out[a, b] for a, b in pairwise(path))
    for _ in range(rounds):
        trial = path.copy()
        for k in range(1, n - 1):
            between = np.arange(trial[k - 1] + 1, trial[k + 1])
            trial[k] = between[np.argmin(searched[trial[k - 1], between] + searched[between, trial[k + 1]])]
        value = sum(held_out[a, b] for a, b in pairwise(trial))
        if value >= best:
            break
        path, best = trial, value
    return Searched(np.append(lattice[path[:n]], 0.0), len(x) * levels)


def klub_matrix(outputs, lattice):
    """(levels, levels) bounds int_{sigma_b}^{sigma_a} E|D_s - D_a|^2 / s^3 ds by the trapezoid rule; infinite for b <= a."""
    x, bounds = np.log(lattice), np.full((lattice.size, lattice.size), np.inf)
    for a in range(lattice.size - 1):
        rate = ((outputs[a:] - outputs[a]) ** 2).sum(2).mean(1) / lattice[a:] ** 2
        bounds[a, a + 1 :] = np.cumsum(0.5 * (rate[1:] + rate[:-1]) * -np.diff(x[a:]))
    return bounds


# The oracle


def learned(denoiser, starts, *, states, endpoint, solver="ddim", rounds=150, rate=0.05):
    """Levels learned by gradient through the sampler against given endpoints: the bound on what any grid can reach.

    LD3-like (Tong et al.; vinhsuhi/LD3, trainer.py): they backpropagate a perceptual distance to a teacher's images through
    the student's steps; here Adam on the logarithms of the gaps in ln sigma, of the mean squared difference, from every grid
    of `starts` (all with the same first level and last level 0), the best iterate kept. On the very states that judge it is
    an oracle; on others it is a competitor that trains. Needs a denoiser that torch can differentiate; a call and its
    backward pass count as one.
    """
    import torch

    method = solver_named(solver)
    if not len(starts):
        raise ValueError("`starts` must hold at least one grid.")
    x, target = torch.as_tensor(np.asarray(states)), torch.as_tensor(np.asarray(endpoint))
    counted, best, found = Counted(denoiser), math.inf, None
    for start in starts:
        levels = np.asarray(start, dtype=np.float64)
        if levels[-1] != 0.0 or np.any(np.diff(levels) >= 0):
            raise ValueError(f"`starts` must descend to 0, got {levels}.")
        gaps = torch.tensor(np.log(-np.diff(np.log(levels[:-1]))), requires_grad=True)
        adam = torch.optim.Adam([gaps], lr=rate)
        for _ in range(rounds if gaps.numel() else 1):
            inner = [_level_class()(s) for s in (math.log(levels[0]) - gaps.exp().cumsum(0)).exp()]
            loss = ((run(counted, x, [float(levels[0]), *inner, 0.0], method) - target) ** 2).mean()
            if loss.item() < best:
                best, found = loss.item(), np.array([levels[0], *(s.item() for s in inner), 0.0])
            if not gaps.numel() or not math.isfinite(loss.item()):
                break
            adam.zero_grad()
            loss.backward()
            adam.step()
    return Searched(found, counted.calls)


def floored(levels, lowest):
    """Levels that end at 0; those that fall below the lowest lie close above it, apart, for a run needs them to descend."""
    floor = lowest * (1 + 1e-6 * np.arange(len(levels) - 2, -1, -1))
    return np.append(np.maximum(levels[:-1], floor), 0.0)


def fitted_levels(denoiser, start, *, states, endpoint, solver="ddim", evaluations=10, lowest=0.0):
    """Levels fitted to given endpoints by Levenberg-Marquardt with differences: an oracle for denoisers without gradients.

    The squared difference of a run from its endpoint over the logarithms of the gaps in ln sigma, first level and final 0 kept;
    each Jacobian costs a run per free level. Levels stay above the lowest that the denoiser can be called at. The better of
    where it starts and where it ends.
    """
    from scipy.optimize import least_squares

    levels, counted = np.asarray(start, dtype=np.float64), Counted(denoiser)

    def free(gaps):
        return np.concatenate([levels[:1], np.exp(math.log(levels[0]) - np.cumsum(np.exp(gaps))), [0.0]])

    def descending(gaps):
        return floored(free(gaps), lowest)

    def residual(gaps):
        missed = (sample(counted, states, descending(gaps), solver=solver) - endpoint).ravel()
        beyond = math.log(max(1.0, lowest / free(gaps)[-2]))  # what a run does not feel, and is to come back from
        return np.append(missed, beyond * np.linalg.norm(endpoint))

    first = np.log(-np.diff(np.log(levels[:-1])))
    if not first.size:
        return Searched(levels, 0)
    # A network in float32 rounds a run to 1e-7: steps of 1 % are far above that and far below the optimum's width. They go to
    # higher levels, smaller gaps, from a grid that ends at the lowest: of what lies below, a run knows nothing.
    step = 0.01 / np.maximum(np.abs(first), 0.01)
    if descending(first + 0.01)[-2] <= lowest:
        step *= np.where(first < 0, 1.0, -1.0)  # steps are counted away from 0
    found = least_squares(residual, first, diff_step=step, max_nfev=evaluations, x_scale=0.3)
    return Searched(descending(found.x), counted.calls)


def run(denoiser, x, levels, solver):
    """`eigenstep.sample` for levels that carry gradients: the same steps, without its conversion to floats."""
    for _, state, _ in advance(denoiser, x, levels, solver_named(solver)):
        x = state
    return x


@functools.cache
def _level_class():
    """A torch scalar that numpy's functions can be called on, as the steps of multistep solvers do with their levels."""
    import torch

    class Level(torch.Tensor):
        def __array_ufunc__(self, ufunc, kind, *inputs):
            return getattr(torch, ufunc.__name__)(*inputs)

    return Level

