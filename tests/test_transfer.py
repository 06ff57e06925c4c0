"""Step maps: their product against the sampler's run, their derivatives against differences, local errors and their orders."""

import math

import numpy as np
import pytest

from eigenstep.gaussian import divergence, propagate
from eigenstep.solvers import SOLVERS, StepContext, sample
from eigenstep.spectrum import Spectrum
from eigenstep.transfer import local_errors, outcome, step_maps, wiener_gain

DETERMINISTIC = [name for name, solver in SOLVERS.items() if not solver.stochastic]
STOCHASTIC = [name for name, solver in SOLVERS.items() if solver.stochastic]
ONE_STEP = [name for name in DETERMINISTIC if not SOLVERS[name].memory]

LAM = np.array([1e4, 9.0, 0.5, 1e-3, 1e-8, 0.0])
GRIDS = {
    "to zero": np.array([14.6, 6.1, 2.5, 1.1, 0.45, 0.12, 0.0]),
    "above zero": np.array([14.6, 6.1, 2.5, 1.1, 0.45, 0.12, 0.02]),
    "one step to zero": np.array([3.0, 0.0]),
    "one step above zero": np.array([3.0, 0.4]),
    "two steps": np.array([3.0, 1.0, 0.4]),
}
every_solver = pytest.mark.parametrize("name", SOLVERS)
every_grid = pytest.mark.parametrize("sigmas", GRIDS.values(), ids=GRIDS)


def exact(sigma):
    """X(sigma), the exact trajectory of every direction that starts one standard deviation out."""
    return np.sqrt(LAM + sigma**2)


# ---------------------------------------------------------------------------------------------------------------------
# Maps and their products


def test_wiener_gain_at_its_ends():
    assert wiener_gain(0.0, 2.0) == 0.0
    assert wiener_gain(3.0, 0.0) == 1.0
    assert wiener_gain(2.0, 2.0) == pytest.approx(1 / 3, rel=1e-15)


def test_maps_worked_by_hand():
    """lambda = 2: w(4) = 1/9, w(2) = 1/3. State (x, stored D): x' of (2M) after history is D + (D - D_1)/2 + (x - that)/2."""
    lam = np.array([2.0])
    grid = np.array([[4.0, 2.0, 1.0]])
    maps = step_maps(SOLVERS["dpmpp_2m"], lam, grid).maps[0, :, :, :, 0]
    # Step 0: x' = x/2 + D/2 = 5x/9, D = x/9; step 1: x' = x/2 + (3/2 D - 1/2 D_1)/2 = 3x/4 - D_1/4, D = x/3.
    np.testing.assert_allclose(maps[0], [[5 / 9, 0], [1 / 9, 0]], rtol=1e-15)
    np.testing.assert_allclose(maps[1], [[3 / 4, -1 / 4], [1 / 3, 0]], rtol=1e-15)


def test_noise_column_worked_by_hand():
    """Ancestral 4 -> 2: sigma_up^2 = 4 (16 - 4)/16 = 3, sigma_down = 1: x' = x/9 + (x - x/9)/4 = x/3, noise sqrt 3."""
    run = step_maps(SOLVERS["euler_ancestral"], np.array([2.0]), np.array([[4.0, 2.0]]))
    assert run.maps[0, 0, 0, 0, 0] == pytest.approx(1 / 3, rel=1e-15)
    assert run.sources[0, 0, 0, 0, 0] == pytest.approx(math.sqrt(3), rel=1e-15)


@every_grid
@every_solver
def test_products_of_maps_agree_with_the_samplers_run(name, sigmas):
    run = outcome(SOLVERS[name], LAM, sigmas[None])
    variances = run.gain[0] ** 2 * (LAM + sigmas[0] ** 2) + run.noise[0]
    expected = propagate(Spectrum.from_eigenvalues(LAM), sigmas, solver=name)
    # 1e-11: multistep weights of opposite signs cancel to a tenth at worst; 1e-30: lambda = 0 at sigma = 0.
    np.testing.assert_allclose(variances, expected, rtol=1e-11, atol=1e-30)
    assert run.noise.any() == (name in STOCHASTIC and sigmas[1] > 0)  # the step onto 0 adds none


@every_solver
def test_many_grids_at_once_equal_one_by_one(name):
    rng = np.random.default_rng(5)
    grids = np.sort(np.exp(rng.uniform(-3, 3, size=(4, 6))), axis=1)[:, ::-1]
    together = outcome(SOLVERS[name], LAM, grids)
    errors = local_errors(SOLVERS[name], LAM, grids)
    for i, sigmas in enumerate(grids):
        alone = outcome(SOLVERS[name], LAM, sigmas[None])
        for field in ("gain", "noise", "d_gain", "d_noise"):
            # 1e-13: numpy may sum another shape in another order.
            np.testing.assert_allclose(getattr(together, field)[i], getattr(alone, field)[0], rtol=1e-13, atol=1e-15)
        alone = local_errors(SOLVERS[name], LAM, sigmas[None])
        np.testing.assert_allclose(errors.error[i], alone.error[0], rtol=1e-13, atol=1e-13)
        np.testing.assert_allclose(errors.d_error[i], alone.d_error[0], rtol=1e-12, atol=1e-12)


# ---------------------------------------------------------------------------------------------------------------------
# Derivatives in ln sigma against central differences

DIFFERENCE = 1e-5
# A difference errs by 1e-10 times the third derivative plus 1e-16/1e-5 times the value; both are of the derivative's size.
DIFFERENCE_RTOL, DIFFERENCE_ATOL = 2e-7, 2e-9


def central_difference(function, sigmas, j):
    up, down = sigmas.copy(), sigmas.copy()
    up[j] *= math.exp(DIFFERENCE)
    down[j] *= math.exp(-DIFFERENCE)
    return (function(up) - function(down)) / (2 * DIFFERENCE)


@every_grid
@every_solver
def test_outcome_derivatives_are_central_differences(name, sigmas):
    solver = SOLVERS[name]
    run = outcome(solver, LAM, sigmas[None])
    for j in range(len(sigmas)):
        d_gain = central_difference(lambda s: outcome(solver, LAM, s[None]).gain[0], sigmas, j)
        d_noise = central_difference(lambda s: outcome(solver, LAM, s[None]).noise[0], sigmas, j)
        np.testing.assert_allclose(run.d_gain[0, j], d_gain, rtol=DIFFERENCE_RTOL, atol=DIFFERENCE_ATOL)
        np.testing.assert_allclose(run.d_noise[0, j], d_noise, rtol=DIFFERENCE_RTOL, atol=DIFFERENCE_ATOL)
    if sigmas[-1] == 0:
        assert not run.d_gain[0, -1].any()  # a terminal 0 is no variable
        assert not run.d_noise[0, -1].any()
    assert run.d_noise.any() == (name in STOCHASTIC and sigmas[1] > 0)


@every_grid
@every_solver
def test_local_error_derivatives_are_central_differences(name, sigmas):
    """In every level but the last, which is where the errors are carried to and no variable of a search."""
    solver = SOLVERS[name]
    lam = LAM[1:]  # at lambda = 1e4 the errors are differences of numbers 1e4 times larger: noise in a difference
    run = local_errors(solver, lam, sigmas[None])
    n = len(sigmas) - 1
    dense = np.zeros((n, n + 1, lam.size))
    for k in range(n):
        for slot, position in enumerate(run.windows[k]):
            if position >= 0:
                dense[k, position] += run.d_error[0, k, slot]
    for j in range(n):
        difference = central_difference(lambda s: local_errors(solver, lam, s[None]).error[0], sigmas, j)
        np.testing.assert_allclose(dense[:, j], difference, rtol=DIFFERENCE_RTOL, atol=DIFFERENCE_ATOL)


# ---------------------------------------------------------------------------------------------------------------------
# Local errors


def check_errors(ours, expected, last):
    """Equal to 1e-12 of X(sigma_n), whose size the two numbers have whose difference an error is."""
    scale = np.where(exact(last) > 0, exact(last), 1.0)
    np.testing.assert_allclose(ours / scale, expected / scale, rtol=1e-9, atol=1e-12)


def history_of(solver, sigmas, k):
    """What a solver would have stored before step k on the exact trajectory, newest first."""
    newest = k if solver.evaluates_ahead else k - 1
    if k == 0:
        return ()
    stored = []
    for j in range(newest, max(newest - solver.memory, -1), -1):
        w = wiener_gain(LAM, sigmas[j])
        stored.append((sigmas[j], (w if solver.output == "denoised" else (1 - w) / sigmas[j]) * exact(sigmas[j])))
    return tuple(stored)


@every_grid
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_local_errors_are_those_of_the_step_itself(name, sigmas):
    solver = SOLVERS[name]
    run = local_errors(solver, LAM, sigmas[None])
    n = len(sigmas) - 1
    levels = [float(s) for s in sigmas]
    for k in range(n):
        context = StepContext(order=solver.order_at(k, n, onto_zero=levels[-1] == 0), last=k == n - 1, noise=lambda: None)
        x, _ = solver.step(
            lambda x, s: wiener_gain(LAM, s) * x,
            exact(levels[k]),
            history_of(solver, levels, k),
            levels[k],
            levels[k + 1],
            context,
        )
        carry = exact(levels[n]) / exact(levels[k + 1]) if k < n - 1 else 1.0
        check_errors(run.error[0, k], (x - exact(levels[k + 1])) * carry, levels[n])


@every_grid
@pytest.mark.parametrize("name", ONE_STEP)
def test_local_errors_of_a_one_step_solver_multiply_to_the_end_to_end_gain(name, sigmas):
    """gain X(sigma_0) = X(sigma_n) prod_k (1 + delta_k / X(sigma_n)): every step scales the exact trajectory."""
    lam = LAM[:-1]
    errors = local_errors(SOLVERS[name], lam, sigmas[None]).error[0]
    end, start = np.sqrt(lam + sigmas[-1] ** 2), np.sqrt(lam + sigmas[0] ** 2)
    gain = outcome(SOLVERS[name], lam, sigmas[None]).gain[0]
    # 1e-10: at lambda = 1e-8 the last factor is 1e-3, found as 1 minus nearly 1.
    np.testing.assert_allclose(end * np.prod(1 + errors / end, axis=0), gain * start, rtol=1e-10)


@pytest.mark.parametrize("name", ["euler_ancestral", "ddim_eta"])
def test_local_errors_of_ancestral_steps_are_those_of_the_standard_deviation(name):
    sigmas = GRIDS["above zero"]
    run = step_maps(SOLVERS[name], LAM, sigmas[None])
    variance = run.maps[0, :, 0, 0] ** 2 * exact(sigmas[:-1, None]) ** 2 + run.sources[0, :, 0, 0] ** 2
    expected = (np.sqrt(variance) - exact(sigmas[1:, None])) * exact(sigmas[-1]) / exact(sigmas[1:, None])
    errors = local_errors(SOLVERS[name], LAM, sigmas[None]).error[0]
    check_errors(errors, expected, sigmas[-1])


def test_local_errors_of_sde_multistep_use_the_covariance_of_the_forward_process():
    """At eta = 1 the exact reverse process is the forward one read backwards: Cov(x_k, x_{k-1}) = lambda + sigma_k^2."""
    sigmas = GRIDS["above zero"]
    run = step_maps(SOLVERS["dpmpp_2m_sde"], LAM, sigmas[None])
    errors = local_errors(SOLVERS["dpmpp_2m_sde"], LAM, sigmas[None]).error[0]
    for k in range(1, 6):
        on_x, on_stored = run.maps[0, k, 0]
        on_past = on_stored * wiener_gain(LAM, sigmas[k - 1])
        now, before, after = (exact(sigmas[j]) ** 2 for j in (k, k - 1, k + 1))
        variance = on_x**2 * now + 2 * on_x * on_past * now + on_past**2 * before + run.sources[0, k, 0, 0] ** 2
        expected = (np.sqrt(variance) - np.sqrt(after)) * exact(sigmas[-1]) / np.sqrt(after)
        check_errors(errors[k], expected, sigmas[-1])


@every_solver
def test_a_direction_without_data_has_no_local_error(name):
    """lambda = 0: D = 0 and the step must follow sigma exactly; onto sigma = 0 nothing is left of it."""
    above = local_errors(SOLVERS[name], np.array([0.0]), GRIDS["above zero"][None])
    # 1e-11: multistep weights of opposite signs cancel.
    np.testing.assert_allclose(above.error, 0.0, atol=1e-11)
    np.testing.assert_allclose(above.d_error, 0.0, atol=1e-11)
    onto = local_errors(SOLVERS[name], np.array([1.0, 0.0]), GRIDS["to zero"][None])
    assert np.all(np.isfinite(onto.error))
    assert np.all(np.isfinite(onto.d_error))
    assert not onto.error[..., 1].any()


@every_solver
def test_one_step_onto_zero_loses_what_the_wiener_filter_loses(name):
    """x' = D = lambda/(lambda + sigma^2) x, whatever the solver: delta = lambda/sqrt(lambda + sigma^2) - sqrt(lambda)."""
    lam = LAM[:-1]
    run = local_errors(SOLVERS[name], lam, np.array([[3.0, 0.0]]))
    expected = lam / np.sqrt(lam + 9.0) - np.sqrt(lam)
    np.testing.assert_allclose(run.error[0, 0], expected, rtol=1e-10)  # at lambda = 1e4 a difference of near-equals
    assert outcome(SOLVERS[name], lam, np.array([[3.0, 0.0]])).gain[0] == pytest.approx(lam / (lam + 9.0), rel=1e-14)


def test_the_local_objective_is_the_sum_of_squares():
    spectrum = Spectrum.from_eigenvalues([4.0, 0.25], multiplicities=[1.0, 3.0])
    sigmas = GRIDS["to zero"]
    squares = (local_errors(SOLVERS["dpmpp_2m"], spectrum.eigenvalues, sigmas[None]).error[0] ** 2).sum(axis=0)
    value = divergence(spectrum, sigmas, solver="dpmpp_2m", objective="local")
    assert value == pytest.approx(6 * (squares[0] + 3 * squares[1]), rel=1e-14)


# ---------------------------------------------------------------------------------------------------------------------
# Order of a single full-order step with exact history

EQUAL_RATIOS = {name: solver.order + 1 for name, solver in SOLVERS.items()} | {
    "unipc2": 4,  # the corrector gains one order
    "unipc3": 5,
    "dpmpp_3m": 3,  # its published weight of the curvature is half the exact one
    "ipndm3": 3,  # weights for equal steps on unequal ones
    "ipndm4": 3,
}
EQUAL_STEPS = {"ipndm2": 3, "ipndm3": 4, "ipndm4": 5}


def slope_of_the_local_error(name, law):
    """d ln|delta| / d ln h at h -> 0, extrapolated from three step sizes."""
    solver = SOLVERS[name]
    k, n = solver.order, 2 * solver.order + 2
    errors = []
    for h in (0.04, 0.02, 0.01):
        sigmas = law(h * (np.arange(n + 1) - k))
        errors.append(local_errors(solver, np.array([9.0, 4.0]), sigmas[None]).error[0, k])
    coarse, fine = np.log2(np.abs(errors[0] / errors[1])), np.log2(np.abs(errors[1] / errors[2]))
    return 2 * fine - coarse


@pytest.mark.parametrize(("name", "slope"), EQUAL_RATIOS.items())
def test_error_of_one_step_falls_by_the_stated_order_on_equal_ratios(name, slope):
    # 0.02: after the extrapolation the next terms in h are worth 0.012 at most.
    np.testing.assert_allclose(slope_of_the_local_error(name, lambda u: 1.3 * np.exp(-u)), slope, atol=0.02)


@pytest.mark.parametrize(("name", "slope"), EQUAL_STEPS.items())
def test_error_of_one_ipndm_step_falls_by_its_nominal_order_on_equal_steps(name, slope):
    np.testing.assert_allclose(slope_of_the_local_error(name, lambda u: 1.3 - u), slope, atol=0.02)


def test_runs_of_a_sampler_reproduce_a_row_of_the_maps():
    """One sample through two steps equals the product of the two matrices: the state's order is (x, newest stored, ...)."""
    solver = SOLVERS["ipndm2"]
    sigmas = GRIDS["two steps"]
    maps = step_maps(solver, LAM, sigmas[None]).maps[0]
    x = np.linspace(-2.0, 3.0, LAM.size)
    end = sample(lambda x, s: wiener_gain(LAM, s) * x, x, sigmas, solver=solver)
    by_maps = np.einsum("rck,csk->rsk", maps[1], maps[0])[0, 0] * x
    np.testing.assert_allclose(end, by_maps, rtol=1e-13)
