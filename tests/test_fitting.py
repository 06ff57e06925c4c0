"""Levels fitted to endpoints: their derivatives by whole runs, their optimum by another method, and what they cost."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize

from eigenstep import SOLVERS, sample
from eigenstep.models import fit_levels, fitting

LAM = np.geomspace(4.0, 1e-3, 12)
NOISE = np.random.default_rng(0).standard_normal((8, 12))
ENDPOINT = 80 * NOISE * np.sqrt(LAM / (LAM + 80.0**2))
GRID = np.array([80.0, 9.0, 2.0, 0.5, 0.1, 0.0])
DETERMINISTIC = [name for name, solver in SOLVERS.items() if not solver.stochastic]


def wiener(x, sigma):
    return x * LAM / (LAM + sigma**2)


def ends(levels, solver, start=None):
    states = levels[0] * NOISE if start is None else start(levels[0], NOISE)
    return sample(wiener, states, levels, solver=solver)


def distances(levels, solver, start=None):
    return np.sqrt(np.mean((ends(levels, solver, start) - ENDPOINT) ** 2, axis=1))


def flowed(level, noise):
    """The Gaussian's own state at a level."""
    return 80 * noise * np.sqrt((LAM + level**2) / (LAM + 80.0**2))


@pytest.mark.parametrize("solver", DETERMINISTIC)
@pytest.mark.parametrize("start", [None, flowed])
def test_runs_taken_up_midway_differ_as_whole_runs_do(solver, start):
    """Jacobians of whole runs, column by column, against the normal equations of runs that begin where a level has moved."""
    free = np.arange(0 if start else 1, 5)
    runs = fitting._Runs(wiener, SOLVERS[solver], NOISE, ENDPOINT, start, None)
    matrix, gradient, squares = runs.normal_equations(GRID, free)
    gaps = np.log(GRID[:-2] / GRID[1:-1])
    steps = fitting._DIFFERENCE * np.append(gaps, gaps[-1])
    base, columns = ends(GRID, solver, start), []
    for k in free:
        moved = GRID.copy()
        moved[k] *= math.exp(steps[k])
        columns.append((ends(moved, solver, start) - base) / steps[k])
    jacobian, difference = np.stack(columns, axis=2), base - ENDPOINT
    expected = np.mean(difference**2, axis=1)
    weights = 1 / np.sqrt(expected + fitting._SOFT * np.median(expected)) / 12
    # The same operations in another order: rounding alone.
    np.testing.assert_allclose(squares, expected, rtol=1e-12)
    np.testing.assert_allclose(matrix, np.einsum("i,idp,idq->pq", weights, jacobian, jacobian), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(gradient, np.einsum("i,idp,id->p", weights, jacobian, difference), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "unipc3", "dpmpp_3m"])
def test_the_fit_comes_to_the_optimum_that_a_simplex_finds(solver):
    """Nelder and Mead from the same grid, 6,000 evaluations; there are several minima, the fit's may be the lower one."""

    def loss(logs):
        levels = np.concatenate([GRID[:1], np.exp(logs), [0.0]])
        return distances(levels, solver).mean() if np.all(np.diff(levels) < 0) else np.inf

    found = fit_levels(wiener, GRID, NOISE, ENDPOINT, solver=solver, rounds=40, tolerance=0.0, lowest=1e-3)
    simplex = minimize(loss, np.log(GRID[1:-1]), method="Nelder-Mead", options={"maxfev": 6000, "xatol": 1e-5, "fatol": 1e-9})
    # 1 %: the last digits of a flat minimum are worth nothing in sampling.
    assert found.distance < 1.01 * simplex.fun
    # The fit counts a distance far below the median's as its square: `_SOFT`, half of 1e-3 at most.
    assert found.distance == pytest.approx(loss(np.log(found.sigmas[1:-1])), rel=1e-3)
    assert found.distance < 0.85 * loss(np.log(GRID[1:-1]))


def test_four_rounds_come_most_of_the_way():
    begun = distances(GRID, "dpmpp_2m").mean()
    assert fit_levels(wiener, GRID, NOISE, ENDPOINT, solver="dpmpp_2m", lowest=1e-3).distance < 0.4 * begun


def test_every_call_is_counted_and_a_round_costs_half_the_runs():
    made, told = [], []

    def counted(x, sigma):
        made.append(len(x))
        return wiener(x, sigma)

    found = fit_levels(counted, GRID, NOISE, ENDPOINT, rounds=1, progress=told.append)
    # A run of 5 calls, those after each of the four levels (4 + 3 + 2 + 1), and two trials of 5.
    assert found.calls == sum(made) == sum(told) == 8 * (5 + 10 + 2 * 5)


def test_a_round_that_gains_nothing_is_not_differentiated_again():
    """The endpoints are the grid's own: after one Jacobian every round costs its two trials alone."""
    found = fit_levels(wiener, GRID, NOISE, ends(GRID, "ddim"), rounds=5)
    np.testing.assert_array_equal(found.sigmas, GRID)
    assert found.calls == 8 * (5 + 10 + 5 * 2 * 5)


def test_a_long_item_is_differentiated_in_parts(monkeypatch):
    whole, sizes = fit_levels(wiener, GRID, NOISE, ENDPOINT, solver="unipc3"), set()

    def counted(x, sigma):
        sizes.add(len(x))
        return wiener(x, sigma)

    monkeypatch.setattr(fitting, "_NUMBERS", 3 * GRID.size * 12 * 3)
    parts = fit_levels(counted, GRID, NOISE, ENDPOINT, solver="unipc3")
    assert sizes == {8, 3, 2}  # whole runs; three parts of a Jacobian
    np.testing.assert_allclose(parts.sigmas, whole.sigmas, rtol=1e-9)
    assert parts.calls == whole.calls


def test_levels_stay_inside_their_bounds_and_the_first_where_it_is_given():
    fixed = fit_levels(wiener, GRID, NOISE, ENDPOINT, rounds=10)
    assert fixed.sigmas[0] == 80.0
    assert fixed.sigmas[-2] >= 0.1
    pushed = fit_levels(wiener, GRID, NOISE, ENDPOINT, solver="dpmpp_2m", lowest=0.09, rounds=10)
    assert pushed.sigmas[-2] == 0.09
    free = fit_levels(wiener, [6.0, 2.0, 0.5, 0.1, 0.0], NOISE, ENDPOINT, start=flowed, lowest=0.05, highest=6.5, rounds=10)
    assert free.sigmas[0] != 6.0
    assert free.sigmas[0] <= 6.5
    assert free.sigmas[-2] >= 0.05
    assert np.all(np.diff(free.sigmas) < 0)
    assert free.distance < distances(np.array([6.0, 2.0, 0.5, 0.1, 0.0]), "ddim", flowed).mean()


def test_nothing_is_free_in_a_single_step_from_a_given_level():
    found = fit_levels(wiener, [80.0, 0.0], NOISE, ENDPOINT)
    assert found.sigmas.tolist() == [80.0, 0.0]
    assert found.distance == pytest.approx(distances([80.0, 0.0], "ddim").mean())


def test_a_few_noises_that_end_elsewhere_do_not_rule_the_fit():
    """One endpoint of eight is far from where its noise leads: least squares serves it, the fit serves the other seven."""
    astray = ENDPOINT.copy()
    astray[0] *= -3

    def squares(logs):
        levels = np.concatenate([GRID[:1], np.exp(logs), [0.0]])
        return np.mean((ends(levels, "dpmpp_2m") - astray) ** 2) if np.all(np.diff(levels) < 0) else np.inf

    least = minimize(squares, np.log(GRID[1:-1]), method="Nelder-Mead", options={"maxfev": 4000, "xatol": 1e-4})
    served = distances(np.concatenate([GRID[:1], np.exp(least.x), [0.0]]), "dpmpp_2m")[1:].mean()
    robust = fit_levels(wiener, GRID, NOISE, astray, solver="dpmpp_2m", rounds=10, lowest=1e-3)
    assert distances(robust.sigmas, "dpmpp_2m")[1:].mean() < 0.6 * served


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sigmas": [80.0, 1.0, 0.1]}, "`sigmas` must end at 0, where the endpoints are, got 0.1"),
        ({"solver": "ddim_eta"}, "`solver` 'ddim_eta' is stochastic"),
        ({"endpoint": ENDPOINT[:4]}, r"`noise` and `endpoint` must hold as many items .* got shapes \(8, 12\) and \(4, 12\)"),
        ({"highest": 70.0}, "`sigmas` must lie between `lowest` and `highest`, got 80 to 0.1 for 0.1 and 70"),
        ({"lowest": 0.0}, "`lowest` must be greater than 0"),
        ({"rounds": 0}, "`rounds` must be at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    given = {"sigmas": GRID, "noise": NOISE, "endpoint": ENDPOINT, **change}
    with pytest.raises(ValueError, match=message):
        fit_levels(wiener, **given)
