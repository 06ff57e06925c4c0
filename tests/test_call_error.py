"""The error of a network's calls: its interpolant, and what a run makes of it, by independent routes."""

import numpy as np
import pytest

from eigenstep import CallError, Spectrum, VPDiscrete, divergence, grid, karras_law, optimal_grid, optimal_timesteps, rank
from eigenstep.gaussian import OBJECTIVES, STEPWISE, reverse_trajectory
from eigenstep.optimal.objective import GridObjective
from eigenstep.solvers import SOLVERS, sample
from eigenstep.transfer import wiener_gain

LEVELS = np.array([80.0, 20.0, 5.0, 1.2, 0.3, 0.05])
ERROR = CallError(LEVELS, [4.0, 0.9, 0.2, 0.03, 0.0, 0.0])
SOURCE = Spectrum.from_eigenvalues([4.0, 1.0, 0.1, 0.002], multiplicities=[1, 2, 3, 2], mean_energy=[1.0, 0.0, 0.3, 0.1])
SIGMAS = grid(karras_law(0.05, 80.0, rho=4.0), 6, final=0.0)


def test_goes_through_the_measured_levels_without_overshoot():
    np.testing.assert_allclose(ERROR.variance(LEVELS), [4.0, 0.9, 0.2, 0.03, 0.0, 0.0], rtol=1e-14, atol=0)
    dense = ERROR.variance(np.geomspace(80, 0.05, 500))
    assert np.all(np.diff(dense) <= 1e-15)  # rounding of a Horner scheme near 0
    np.testing.assert_array_equal(ERROR.variance([1e3, 1e-3]), [4.0, 0.0])


@pytest.mark.parametrize("sigma", [200.0, 30.0, 2.0, 0.7, 0.1, 0.01])
def test_complex_levels_carry_the_derivative(sigma):
    slope = ERROR.amplitude(np.array(sigma * (1 + 1e-30j))).imag / 1e-30
    difference = (ERROR.amplitude(sigma * np.exp(1e-5)) - ERROR.amplitude(sigma * np.exp(-1e-5))) / 2e-5
    assert slope == pytest.approx(difference, rel=1e-7, abs=1e-9)  # a central difference of step 1e-5
    assert (slope == 0) == (sigma in (200.0, 0.1, 0.01))


@pytest.mark.parametrize("name", SOLVERS)
def test_error_variance_is_that_of_samples(name):
    """A run with random errors in every call, against the exact variance: 2^16 runs at once, one direction."""
    solver = SOLVERS[name]
    lam, count = 0.5, 2**16
    rng = np.random.default_rng(7)

    def erring(x, sigma):
        return wiener_gain(lam, sigma) * x + ERROR.amplitude(sigma) * rng.standard_normal(count)

    # From a fixed start and without the solver's own noise, all variance is the calls' errors.
    out = sample(erring, np.zeros(count), SIGMAS, solver=solver, noise=lambda k: np.zeros(count))
    run = reverse_trajectory(Spectrum.from_eigenvalues([lam]), SIGMAS, solver=solver, denoiser_error=ERROR)
    # 5 standard errors of a variance from 2^16 samples: 5 sqrt(2/2^16) = 0.028.
    assert out.var() == pytest.approx(run.error_variances[-1, 0], rel=0.028)


def sampled_w2(solver, sigmas, lam, count):
    """W2 to the data by Monte Carlo: a denoiser with errors of that size, from the exact start, with the solver's own noise.

    Two runs share start and noise, one without errors: their difference is what the errors leave at the end.
    """

    def run(erring):
        own, wrong = np.random.default_rng(1), np.random.default_rng(2)

        def denoiser(x, sigma):
            error = erring * ERROR.amplitude(sigma) * wrong.standard_normal((count, lam.size))
            return wiener_gain(lam, sigma) * x + error

        start = np.sqrt(lam + sigmas[0] ** 2) * own.standard_normal((count, lam.size))
        return sample(denoiser, start, sigmas, solver=solver, noise=lambda k: own.standard_normal((count, lam.size)))

    perfect, real = run(0.0), run(1.0)
    return ((perfect.std(axis=0) - np.sqrt(lam + sigmas[-1] ** 2)) ** 2 + (real - perfect).var(axis=0)).sum()


@pytest.mark.parametrize("solver", ["ddim_eta", "dpmpp_2m_sde"])
def test_the_optimum_of_a_stochastic_solver_with_errors_is_that_of_samples(solver):
    """The value of the optimal grid is what 2^16 runs measure, and every level moved by a third makes those runs worse."""
    lam, count = np.array([4.0, 0.5, 0.02]), 2**16
    found = optimal_grid(Spectrum.from_eigenvalues(lam), 4, 0.05, 80.0, solver=solver, denoiser_error=ERROR)
    assert found.converged
    best = sampled_w2(solver, found.sigmas, lam, count)
    # A variance of 2^16 samples has a standard error of 0.55 %; the errors' is most of the value. Five of them.
    assert best == pytest.approx(found.value, rel=0.028)
    plain = optimal_grid(Spectrum.from_eigenvalues(lam), 4, 0.05, 80.0, solver=solver)
    assert sampled_w2(solver, plain.sigmas, lam, count) > best
    for k in (1, 2, 3):
        for factor in (0.75, 4 / 3):
            moved = found.sigmas.copy()
            moved[k] *= factor
            if moved[k] < moved[k - 1] and moved[k] > moved[k + 1]:
                assert sampled_w2(solver, moved, lam, count) > best, (k, factor)


def test_one_step_worked_by_hand():
    """DDIM 2 -> 1 -> 0 with a = 1/2, lambda = 1: (1 - 1/2) a at 1, times the Wiener gain 1/2, then a from the last call."""
    error = CallError([3.0, 0.5], [0.25, 0.25])
    run = reverse_trajectory(Spectrum.from_eigenvalues([1.0]), [2.0, 1.0, 0.0], denoiser_error=error)
    np.testing.assert_allclose(run.error_variances.ravel(), [0.0, 1 / 16, 1 / 64 + 1 / 4], rtol=1e-15)
    np.testing.assert_allclose(run.variances.ravel(), [5.0, 1.8, 0.45], rtol=1e-14)
    # w2 = (sqrt .45 - 1)^2 + the errors' variance, as in local and blend; kl has it over 2 v, reverse_kl over 2 q.
    plain = {o: divergence(Spectrum.from_eigenvalues([1.0]), [2.0, 1.0, 0.0], objective=o) for o in OBJECTIVES}
    erring = {
        o: divergence(Spectrum.from_eigenvalues([1.0]), [2.0, 1.0, 0.0], objective=o, denoiser_error=error) for o in OBJECTIVES
    }
    added = {"w2": 17 / 64, "kl": 17 / 64 / 0.9, "reverse_kl": 17 / 128, "local": 17 / 64, "blend": 17 / 64}
    for objective in OBJECTIVES:
        assert erring[objective] - plain[objective] == pytest.approx(added[objective], rel=1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("start", "final"), [("marginal", 0.0), ("prior", 0.0), ("marginal", None)])
def test_value_gradient_and_hessian_with_errors(solver, objective, start, final):
    if start == "prior" and objective in STEPWISE:
        start = "marginal"
    sigmas = grid(karras_law(0.05, 80.0, rho=4.0), 5, final=final)
    function = GridObjective(SOURCE, SOLVERS[solver], objective, 0.1, start, ERROR)
    options = {"solver": solver, "objective": objective, "noise_floor": 0.1, "start": start, "denoiser_error": ERROR}
    value, gradient, hessian = function.curved(sigmas)
    values, gradients = function(sigmas[None])
    # 1e-9: kl near r = 1 is a difference of numbers of size (r-1) that is of size (r-1)^2.
    assert value == pytest.approx(divergence(SOURCE, sigmas, **options), rel=1e-9)
    assert values[0] == pytest.approx(value, rel=1e-12)
    np.testing.assert_allclose(gradient, gradients[0, 1:-1], atol=1e-10 * np.abs(gradients).max())
    for j in range(1, 5):
        step = 1e-4 * np.eye(6)[j]
        up, down = (divergence(SOURCE, sigmas * np.exp(sign * step), **options) for sign in (1, -1))
        # A central difference of step 1e-4 is good to 1e-8 of the third derivative, here up to 100 times the value.
        assert gradient[j - 1] == pytest.approx((up - down) / 2e-4, rel=1e-5, abs=1e-6 * value)
    step = 1e-4 * np.eye(6)[1:-1]
    shifted = [function(sigmas * np.exp(factor * step))[1][:, 1:-1] for factor in (1, -1, 2, -2)]
    expected = (8 * (shifted[0] - shifted[1]) - (shifted[2] - shifted[3])) / 12e-4
    # 1e-4: a step's own second derivatives are first differences of step 1e-8.
    np.testing.assert_allclose(hessian, expected, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("solver", ["ddim", "heun", "dpmpp_2m", "unipc3", "euler_ancestral"])
@pytest.mark.parametrize("objective", ["w2", "local", "blend"])
def test_the_optimum_with_errors_beats_the_optimum_without(solver, objective):
    options = {"solver": solver, "objective": objective}
    blind = optimal_grid(SOURCE, 6, 0.05, 80.0, **options)
    aware = optimal_grid(SOURCE, 6, 0.05, 80.0, denoiser_error=ERROR, **options)
    assert aware.converged
    assert aware.value == pytest.approx(divergence(SOURCE, aware.sigmas, denoiser_error=ERROR, **options), rel=1e-12)
    assert aware.value < divergence(SOURCE, blind.sigmas, denoiser_error=ERROR, **options) * (1 - 1e-3)
    assert aware.value <= min(aware.candidates.values()) * (1 + 1e-9)


def test_a_network_poor_at_high_levels_is_not_trusted_with_one_great_leap():
    """Without the error, a large error at sigma_max costs nothing; with it, the grid visits better levels first."""
    poor = CallError([80.0, 40.0, 10.0, 1.0], [50.0, 10.0, 0.2, 0.0])
    blind, aware = (optimal_grid(SOURCE, 4, 0.05, 80.0, denoiser_error=e).sigmas for e in (None, poor))
    assert aware[1] > 1.5 * blind[1]


def test_integer_timesteps_and_ranking_take_the_error():
    path = VPDiscrete.ddpm()
    aware = optimal_timesteps(SOURCE, 5, path, denoiser_error=ERROR)
    assert aware.value == pytest.approx(divergence(SOURCE, aware.sigmas, denoiser_error=ERROR), rel=1e-12)
    assert aware.value >= aware.continuous_value
    for k in range(1, 5):  # no timestep beside the found one is better, the error counted
        for move in (-1, 1):
            steps = aware.timesteps.copy()
            steps[k] += move
            sigmas = np.append(path.t_to_sigma(steps), 0.0)
            assert divergence(SOURCE, sigmas, denoiser_error=ERROR) >= aware.value
    blind = optimal_timesteps(SOURCE, 5, path)
    rows = rank(SOURCE, {"aware": aware.sigmas, "blind": blind.sigmas}, denoiser_error=ERROR)
    assert [row.name for row in rows] == ["aware", "blind"]


def test_no_error_is_no_error():
    none = CallError([80.0, 0.1], [0.0, 0.0])
    for objective in OBJECTIVES:
        assert divergence(SOURCE, SIGMAS, objective=objective, denoiser_error=none) == divergence(
            SOURCE, SIGMAS, objective=objective
        )


@pytest.mark.parametrize(
    ("sigmas", "variance", "message"),
    [
        ([1.0], [1.0], "two lists of one length >= 2"),
        ([2.0, 1.0], [1.0], "two lists of one length >= 2"),
        ([2.0, 2.0], [1.0, 1.0], "`sigmas` must be positive and all different."),
        ([2.0, 0.0], [1.0, 1.0], "`sigmas` must be positive and all different."),
        ([2.0, 1.0], [1.0, -0.5], "`variance` must not be negative, got -0.5."),
        ([2.0, 1.0], [1.0, np.nan], "`variance`"),
    ],
)
def test_refusals(sigmas, variance, message):
    with pytest.raises(ValueError, match=message):
        CallError(sigmas, variance)


def test_something_else_is_refused():
    with pytest.raises(ValueError, match=r"`denoiser_error` must be an `ErrorCurve` or a `CallError`, got float\."):
        divergence(SOURCE, SIGMAS, denoiser_error=0.1)
