"""optimal/: the laws, the finite optimum, integer timesteps and ranking, with proofs that the optimum is one."""

import itertools

import numpy as np
import pytest

import eigenstep.optimal.search as search
from eigenstep import (
    EDM,
    LAWS,
    OBJECTIVES,
    SOLVERS,
    Spectrum,
    VPDiscrete,
    catalogue_grids,
    divergence,
    expanded_divergence,
    exponential_law,
    geodesic_law,
    grid,
    karras_law,
    leading_weights,
    optimal_grid,
    optimal_timesteps,
    path_integrals,
    rank,
    tangent_gamma,
    tangent_law,
    zoo_names,
)
from eigenstep.gaussian import STEPWISE
from eigenstep.optimal.objective import GridObjective

SOURCE = Spectrum.from_eigenvalues([50.0, 2.0, 1.0, 0.3, 1e-3], multiplicities=[1, 3, 10, 30, 60])
ONE = Spectrum.from_eigenvalues([0.3])
GAMMA = 0.3**0.5
DETERMINISTIC_MULTISTEP = [name for name, solver in SOLVERS.items() if solver.memory and not solver.stochastic]


# ---------------------------------------------------------------------------------------------------- tangent law


def test_tangent_law_takes_equal_angles_and_hits_its_ends():
    law = tangent_law(0.002, 80.0, gamma=1.3)
    sigma = law(np.linspace(0, 1, 9))
    assert (sigma[0], sigma[-1]) == (80.0, 0.002)
    np.testing.assert_allclose(np.diff(np.arctan(sigma / 1.3), 2), 0, atol=1e-14)
    assert np.isinf(tangent_law(0.0, np.inf, gamma=1.0)(0.0))
    assert float(tangent_law(0.0, np.inf, gamma=2.0)(0.5)) == pytest.approx(2.0, rel=1e-15)


def test_gamma_in_closed_form_from_infinity_to_zero():
    lam, m = SOURCE.eigenvalues, SOURCE.multiplicities
    assert tangent_gamma(SOURCE, objective="kl") == pytest.approx((m @ lam / (m @ (1 / lam))) ** 0.25, rel=1e-14)
    assert tangent_gamma(SOURCE) == pytest.approx((m @ lam**2 / m.sum()) ** 0.25, rel=1e-14)
    singular = Spectrum.from_eigenvalues([4.0, 1.0, 0.0])
    assert tangent_gamma(singular) == pytest.approx((17 / 2) ** 0.25, rel=1e-14)  # zeros have no weight


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("low", "high", "floor"), [(0.0, 80.0, 0.0), (0.002, 80.0, 0.5), (0.3, 3.0, 0.0)])
def test_gamma_minimises_the_leading_error_by_quadrature(objective, low, high, floor):
    """The closed forms of E_i and of int phi'^4 against `path_integrals`, which differentiates numerically."""
    gamma = tangent_gamma(SOURCE, objective=objective, noise_floor=floor, sigma_min=low, sigma_max=high)
    weights = SOURCE.multiplicities * leading_weights(SOURCE, objective=objective, noise_floor=floor)

    def error(scale):
        integrals = path_integrals(SOURCE, tangent_law(low, high, gamma=scale))
        return weights @ (integrals.speed_4 if objective == "local" else integrals.speed_2**2)

    scan = np.geomspace(0.02, 8.0, 60)
    best = error(gamma)
    assert best <= min(error(scale) for scale in scan) * (1 + 1e-9)
    slope = (error(gamma * 1.001) - error(gamma * 0.999)) / (0.002 * best)
    assert abs(slope) < 1e-5  # a central difference of relative step 1e-3: curvature 1e-6 of the value


def test_a_wide_finite_range_tends_to_the_closed_form():
    wide = tangent_gamma(SOURCE, sigma_min=1e-7, sigma_max=1e7)
    assert wide == pytest.approx(tangent_gamma(SOURCE), rel=1e-4)  # the missing angles are of order 1e-7/sqrt(lambda)


# --------------------------------------------------------------------------------------------------- geodesic law


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("low", "high"), [(0.0, 80.0), (0.002, 80.0), (0.01, 3.0)])
def test_one_eigenvalue_makes_the_geodesic_a_tangent_law(objective, low, high):
    u = np.linspace(0, 1, 101)
    got = geodesic_law(ONE, low, high, objective=objective)(u)
    expected = tangent_law(low, high, gamma=GAMMA)(u)
    np.testing.assert_allclose(got, expected, rtol=1e-7, atol=1e-15)  # the law is a Hermite table of 512 panels


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_no_smooth_change_of_the_geodesic_lowers_the_leading_error(objective):
    law = geodesic_law(SOURCE, 0.002, 80.0, objective=objective)
    weights = SOURCE.multiplicities * leading_weights(SOURCE, objective=objective, noise_floor=0.0)

    def error(shape, size):
        integrals = path_integrals(SOURCE, lambda u: law(u + size * np.sin(np.pi * shape * u) / (np.pi * shape)))
        return weights @ (integrals.speed_4 if objective == "local" else integrals.speed_2**2)

    best = error(1, 0.0)
    for shape, size in itertools.product((1, 2, 3, 5), (-0.05, 0.05)):
        change = error(shape, size) / best - 1
        assert 1e-5 < change < 0.05  # second order in the size: 0.05^2 times a curvature of order one


@pytest.mark.parametrize(
    ("n", "tangent", "geodesic"), [(3, 0.774, 0.462), (5, 0.449, 0.180), (10, 0.188, 0.051)]
)
def test_cifar10_figures_of_the_theory(n, tangent, geodesic):
    """Per dimension, KL(output || source), 80 -> 0; the zoo's CIFAR-10 is JPEG, so a few per cent are allowed."""
    source = Spectrum.from_zoo("cifar10")
    gammas = np.geomspace(0.003, 20, 80)
    best_tangent = min(
        divergence(source, grid(tangent_law(0.0, 80.0, gamma=g), n), objective="reverse_kl") for g in gammas
    )
    geo = divergence(source, grid(geodesic_law(source, 0.0, 80.0, objective="reverse_kl"), n), objective="reverse_kl")
    assert best_tangent / source.dim == pytest.approx(tangent, rel=0.03)
    assert geo / source.dim == pytest.approx(geodesic, rel=0.05)


@pytest.mark.parametrize("objective", ["kl", "reverse_kl"])
@pytest.mark.parametrize("n", [3, 5, 10])
def test_the_geodesic_beats_every_tangent_law_and_uniform_log_snr_on_cifar10(objective, n):
    source = Spectrum.from_zoo("cifar10")
    rivals = {f"tangent {g:.3g}": grid(tangent_law(0.002, 80.0, gamma=g), n) for g in np.geomspace(0.01, 20, 60)}
    rivals["log-SNR"] = grid(exponential_law(0.002, 80.0), n)
    rivals["geodesic"] = grid(geodesic_law(source, 0.002, 80.0, objective=objective), n)
    assert rank(source, rivals, objective=objective)[0].name == "geodesic"


# ------------------------------------------------------------------------------------------------- finite optimum


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 10, 15, 20, 50])
@pytest.mark.parametrize(("low", "final"), [(0.0, 0.0), (0.002, None), (0.0, None), (0.05, 0.05)])
def test_one_eigenvalue_gives_the_tangent_law(n, low, final):
    result = optimal_grid(ONE, n, low, 80.0, final=final)
    np.testing.assert_allclose(result.sigmas, grid(tangent_law(low, 80.0, gamma=GAMMA), n), rtol=1e-6, atol=1e-15)
    assert result.converged


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("start", ["geodesic", "exponential"])
def test_one_eigenvalue_gives_the_tangent_law_from_anywhere(monkeypatch, objective, start):
    """The test above starts at the answer; here the search must find it."""
    laws = {"geodesic": karras_law(0.002, 80.0), "exponential": exponential_law(0.002, 80.0)}
    monkeypatch.setattr(search, "_named_grids", lambda *_: {start: grid(laws[start], 8)})
    result = optimal_grid(ONE, 8, 0.002, 80.0, final=None, objective=objective)
    np.testing.assert_allclose(result.sigmas, grid(tangent_law(0.002, 80.0, gamma=GAMMA), 8), rtol=1e-6)
    assert result.converged
    assert result.n_iterations > 3


@pytest.mark.parametrize("solver", ["ddim", "heun", "dpmpp_2m"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_fifty_steps_converge(solver, objective):
    source = Spectrum.from_zoo("cifar10")
    options = {"solver": solver, "objective": objective}
    result = optimal_grid(source, 50, 0.002, 80.0, **options)
    assert result.converged
    assert result.value <= min(
        divergence(source, sigmas, **options) for sigmas in catalogue_grids(50, 0.002, 80.0, spectrum=source).values()
    )


def test_errors_below_float32_rounding_end_the_search():
    """Three directions and forty levels: a multistep solver can cancel every error, and no minimum is left worth the name."""
    source = Spectrum.from_eigenvalues([4.0, 1.0, 0.1])
    result = optimal_grid(source, 40, 0.002, 80.0, solver="dpmpp_2m")
    assert result.value <= np.finfo(np.float32).eps ** 2 * source.trace
    assert result.converged


def projected_gradient(source, result, options, sigma_min):
    """d ln value / d ln sigma on the full spectrum by central differences of `divergence`, free levels only."""
    slopes = []
    for k in range(1, result.sigmas.size - 1):
        values = []
        for sign in (1, -1):
            sigmas = result.sigmas.copy()
            sigmas[k] *= np.exp(sign * 1e-4)
            values.append(divergence(source, sigmas, **options))
        slope = (values[0] - values[1]) / (2e-4 * result.value)
        at_minimum = k == result.sigmas.size - 2 and result.sigmas[k] <= sigma_min * (1 + 1e-9)
        slopes.append(min(slope, 0.0) if at_minimum else slope)
    return np.abs(slopes).max()


@pytest.mark.parametrize("solver", ["ddim", "heun", "dpmpp_2m", "dpmpp_2s", "unipc2", "ddim_eta"])
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_optimum_is_stationary_and_beats_its_neighbours_and_the_catalogue(solver, objective):
    options = {"solver": solver, "objective": objective, "noise_floor": 0.05}
    result = optimal_grid(SOURCE, 5, 0.01, 80.0, **options)
    assert result.converged
    assert result.stationarity <= 1e-6
    assert result.value == pytest.approx(divergence(SOURCE, result.sigmas, **options), rel=1e-13)
    if not any(name.startswith("spacing") for name in result.active):
        # A central difference of step 1e-4 errs by 1e-8 of a third derivative, which cancelling errors make thousands large.
        assert projected_gradient(SOURCE, result, options, 0.01) < 3e-5
    rng = np.random.default_rng(1)
    for size in (1e-3, 1e-2, 0.1):
        for _ in range(10):
            sigmas = result.sigmas.copy()
            sigmas[1:-1] *= np.exp(size * rng.standard_normal(4))
            if np.all(np.diff(sigmas) < 0) and sigmas[-2] >= 0.01 and np.all(sigmas[:-2] >= 1.01 * sigmas[1:-1]):
                assert divergence(SOURCE, sigmas, **options) >= result.value * (1 - 1e-9)
    for name, sigmas in catalogue_grids(5, 0.01, 80.0, spectrum=SOURCE).items():
        assert divergence(SOURCE, sigmas, **options) >= result.value * (1 - 1e-9), name


@pytest.mark.parametrize(
    ("zoo", "n", "floor"), [("ecg", 12, 0.05), pytest.param("cifar10", 16, 0.05, marks=pytest.mark.slow)]
)
def test_no_other_floor_leads_to_a_better_minimum(zoo, n, floor):
    """Descents from the optima of other floors, on 192 nodes: once they ended at 0.77 and 0.57 of its value."""
    source, solver = Spectrum.from_zoo(zoo), SOLVERS["dpmpp_2m"]
    result = optimal_grid(source, n, 0.002, 80.0, solver=solver, noise_floor=floor)
    levels = search._FreeLevels(n, 0.002, 80.0, 0.0, source)
    objective = GridObjective(source.binned(192), solver, "w2", floor, "marginal")
    for other in (0.0, 0.5 * floor, 2 * floor):
        nearby = optimal_grid(source, n, 0.002, 80.0, solver=solver, noise_floor=other).sigmas
        at = search._descend(objective, levels, search._descent(objective, levels, levels.feasible(nearby)))
        # Minima are apart by percents; the descents end within parts in a thousand of theirs.
        assert np.exp(at.log_value) >= 0.998 * result.value


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("zoo", ["digits", "mnist"])
def test_no_catalogue_grid_is_better(solver, objective, zoo):
    source = Spectrum.from_zoo(zoo)
    for n in (2, 4):
        result = optimal_grid(source, n, 0.002, 80.0, solver=solver, objective=objective)
        rows = rank(
            source, catalogue_grids(n, 0.002, 80.0, spectrum=source), solver=solver, objective=objective
        )
        assert result.value <= rows[0].value * (1 + 1e-9), rows[0].name
        assert result.binning_error < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("zoo", zoo_names())
@pytest.mark.parametrize("solver", SOLVERS)
def test_no_catalogue_grid_is_better_anywhere(zoo, solver):
    """Every objective; one solver and spectrum a test. `benchmarks/optimality.py` takes every n from 2 to 20."""
    source = Spectrum.from_zoo(zoo)
    for objective in OBJECTIVES:
        several_minima = SOLVERS[solver].memory and objective != "local"  # seconds each where n is large
        for n in (3, 6) if several_minima else (3, 6, 10, 20):
            result = optimal_grid(source, n, 0.002, 80.0, solver=solver, objective=objective)
            rows = rank(source, catalogue_grids(n, 0.002, 80.0, spectrum=source), solver=solver, objective=objective)
            assert result.value <= rows[0].value * (1 + 1e-9), (objective, n, rows[0].name)


def test_the_search_keeps_its_promise_when_it_fails(monkeypatch):
    """A local search that goes nowhere good must hand back the best grid of the catalogue and say so."""
    monkeypatch.setattr(search, "_descend", lambda f, levels, at: search._descent(f, levels, at.y + 0.3 * np.arange(at.y.size)))
    result = optimal_grid(SOURCE, 5, 0.01, 80.0)
    rows = rank(SOURCE, result_grids := catalogue_grids(5, 0.01, 80.0, spectrum=SOURCE))
    assert not result.converged
    assert result.value <= rows[0].value * (1 + 1e-12)
    assert result.origin in {*result_grids, "tangent", "geodesic"}
    assert "best grid found" in result.message


def test_the_lowest_level_holds_the_grid_where_it_must():
    free = optimal_grid(SOURCE, 6, 0.0, 80.0)
    assert free.active == ()
    held = optimal_grid(SOURCE, 6, float(free.sigmas[-2]) * 3, 80.0)
    assert held.active == ("sigma_min",)
    assert held.sigmas[-2] == pytest.approx(3 * free.sigmas[-2], rel=1e-12)
    assert held.value > free.value
    loose = optimal_grid(SOURCE, 6, float(free.sigmas[-2]) / 3, 80.0)
    np.testing.assert_allclose(loose.sigmas, free.sigmas, rtol=1e-6)  # an idle limit changes nothing


def test_grids_end_where_they_are_told():
    assert optimal_grid(SOURCE, 4, 0.01, 80.0).sigmas[-1] == 0.0
    assert optimal_grid(SOURCE, 4, 0.01, 80.0, final=None).sigmas[-1] == 0.01
    ended = optimal_grid(SOURCE, 4, 0.02, 80.0, final=0.01)
    assert ended.sigmas[-1] == 0.01
    assert ended.sigmas[-2] >= 0.02
    np.testing.assert_array_equal(optimal_grid(SOURCE, 1, 0.01, 80.0).sigmas, [80.0, 0.0])
    np.testing.assert_array_equal(optimal_grid(SOURCE, 1, 0.01, 80.0, final=None).sigmas, [80.0, 0.01])


def test_a_narrow_range_still_fits_the_steps():
    result = optimal_grid(SOURCE, 8, 0.9, 1.0, final=None)
    assert np.all(np.diff(result.sigmas) < 0)
    assert result.converged


def test_more_steps_are_never_worse():
    values = [optimal_grid(SOURCE, n, 0.002, 80.0).value for n in range(1, 12)]
    assert np.all(np.diff(values) < 0)


def test_the_result_is_reproducible():
    first, second = (optimal_grid(SOURCE, 5, 0.002, 80.0, solver="unipc3") for _ in range(2))
    np.testing.assert_array_equal(first.sigmas, second.sigmas)
    assert first.candidates == second.candidates


def test_the_prior_start_moves_the_grid_only_through_the_mean_and_sigma_max():
    low, high = (optimal_grid(SOURCE, 5, 0.002, top, start="prior").value for top in (10.0, 1000.0))
    exact = optimal_grid(SOURCE, 5, 0.002, 10.0).value
    assert low > exact  # a prior at sigma = 10 misses a variance of 50
    assert high > 0


@pytest.mark.parametrize("solver", ["dpmpp_2m", "unipc3"])
@pytest.mark.parametrize(
    ("eigenvalues", "n", "final"), [([2.25, 0.0042], 4, None), ([28.0, 0.27], 3, 0.0), ([9.6, 0.5, 0.014], 5, 0.0)]
)
def test_forty_random_restarts_find_nothing_better_in_few_directions(solver, eigenvalues, n, final):
    """There the errors of a step can vanish in one direction: one descent ended at up to 30 times the minimum."""
    source, options = Spectrum.from_eigenvalues(eigenvalues), {"solver": solver, "objective": "local", "final": final}
    found = optimal_grid(source, n, 0.002, 80.0, **options)
    restarted = optimal_grid(source, n, 0.002, 80.0, restarts=40, **options)
    assert found.converged
    # Either search ends within parts in a million of a minimum.
    assert found.value <= restarted.value * (1 + 1e-5)


@pytest.mark.parametrize(("solver", "seed"), [("dpmpp_3m", 3), ("dpmpp_2m", 1)])
def test_forty_random_restarts_find_nothing_better_in_few_steps(solver, seed):
    """There the errors of a step can vanish in part: one descent ended at 1.29 and 1.16 times the minimum."""
    eigenvalues = np.exp(np.random.default_rng(seed).uniform(np.log(1e-3), np.log(100.0), 24))
    source, options = Spectrum.from_eigenvalues(np.sort(eigenvalues)[::-1]), {"solver": solver, "objective": "local"}
    found = optimal_grid(source, 5, 0.002, 80.0, final=None, **options)
    restarted = optimal_grid(source, 5, 0.002, 80.0, final=None, restarts=40, **options)
    assert found.converged
    # Either search ends within parts in a million of a minimum.
    assert found.value <= restarted.value * (1 + 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["ddim", "heun", "dpm_2", "dpmpp_2s", "ddim_eta", *DETERMINISTIC_MULTISTEP])
@pytest.mark.parametrize("zoo", zoo_names())
def test_fifty_random_restarts_find_nothing_better(solver, zoo):
    """0.1 %, wherever one minimum is the rule: one-step solvers, and deterministic multistep ones if steps count by themselves.

    End to end alone, multistep solvers have many minima; `benchmarks/optimality.py` names those that the default search misses.
    """
    source = Spectrum.from_zoo(zoo)
    for objective in ("local", "blend") if SOLVERS[solver].memory else ("w2", "kl", "local", "blend"):
        for n in (4, 8):
            options = {"solver": solver, "objective": objective}
            found = optimal_grid(source, n, 0.002, 80.0, **options).value
            restarted = optimal_grid(source, n, 0.002, 80.0, restarts=50, **options).value
            assert found <= restarted * 1.001, (objective, n)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("start", "final"), [("marginal", 0.0), ("marginal", None), ("prior", 0.0)])
def test_hessians_are_differences_of_the_gradient(solver, objective, start, final):
    if start == "prior" and objective in STEPWISE:
        start = "marginal"
    mean = np.array([3.0, 0.0, 1.0, 0.5, 0.0])
    source = Spectrum.from_eigenvalues(SOURCE.eigenvalues, multiplicities=SOURCE.multiplicities, mean_energy=mean)
    function = GridObjective(source, SOLVERS[solver], objective, 0.1, start)
    sigmas = grid(karras_law(0.02, 80.0, rho=5.0), 6, final=final)
    value, gradient, hessian = function.curved(sigmas)
    values, gradients = function(sigmas[None])
    assert value == pytest.approx(values[0], rel=1e-12)
    # 1e-10: sums of contributions of both signs.
    np.testing.assert_allclose(gradient, gradients[0, 1:-1], atol=1e-10 * np.abs(gradients).max())
    step = 1e-4 * np.eye(7)[1:-1]
    shifted = [function(sigmas * np.exp(factor * step))[1][:, 1:-1] for factor in (1, -1, 2, -2)]
    expected = (8 * (shifted[0] - shifted[1]) - (shifted[2] - shifted[3])) / 12e-4
    # 3e-5: a step's own second derivatives are first differences of step 1e-8.
    np.testing.assert_allclose(hessian, expected, atol=3e-5 * np.abs(expected).max())
    np.testing.assert_array_equal(hessian, hessian.T)


def test_several_grids_at_once_are_several_grids():
    objective = GridObjective(SOURCE, SOLVERS["unipc3"], "w2", 0.0, "marginal")
    grids = np.stack([grid(karras_law(0.01, 80.0, rho=rho), 6, final=0.0) for rho in (3.0, 5.0, 7.0)])
    values, gradients = objective(grids)
    for j in range(3):
        value, gradient = objective(grids[j : j + 1])
        assert value[0] == pytest.approx(values[j], rel=1e-13)
        np.testing.assert_allclose(gradient[0], gradients[j], rtol=1e-9, atol=1e-12 * value[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 0}, "`n` must be at least 1, got 0"),
        ({"sigma_min": 80.0}, "`sigma_max` must exceed `sigma_min`, got 80 and 80"),
        ({"sigma_max": np.inf}, "`sigma_max` must be finite"),
        ({"sigma_min": -1.0}, "`sigma_min` must be at least 0"),
        ({"final": 0.1}, "`final` must not exceed `sigma_min`, got 0.1 and 0.01"),
        ({"solver": "dpm++2m"}, "`solver` must be one of ddim"),
        ({"objective": "w3"}, "Did you mean 'w2'"),
        ({"restarts": -1}, "`restarts` must be at least 0"),
        ({"objective": "local", "start": "prior"}, "`start` must be 'marginal'"),
    ],
)
def test_refusals(change, message):
    call = {"n": 4, "sigma_min": 0.01, "sigma_max": 80.0, **change}
    with pytest.raises(ValueError, match=message):
        optimal_grid(SOURCE, call.pop("n"), call.pop("sigma_min"), call.pop("sigma_max"), **call)


# ------------------------------------------------------------------------------------------------------ timesteps


def short_path(count=16):
    return VPDiscrete.from_alphas_cumprod(1 / (1 + np.geomspace(0.02, 60.0, count) ** 2))


@pytest.mark.parametrize("solver", ["ddim", "heun", "dpmpp_2m"])
@pytest.mark.parametrize("objective", ["w2", "kl", "local", "blend"])
def test_integer_timesteps_against_every_choice(solver, objective):
    """All C(15, 3) grids of 4 of 16 timesteps."""
    path = short_path()
    levels = path.t_to_sigma(np.arange(16))
    choices = [[15, *reversed(c)] for c in itertools.combinations(range(15), 3)]
    objective_of = GridObjective(SOURCE, SOLVERS[solver], objective, 0.0, "marginal")
    grids = np.concatenate([levels[np.array(choices)], np.zeros((len(choices), 1))], axis=1)
    best = choices[int(objective_of(grids)[0].argmin())]
    result = optimal_timesteps(SOURCE, 4, path, solver=solver, objective=objective)
    assert result.timesteps.tolist() == best
    np.testing.assert_allclose(result.sigmas, np.append(levels[best], 0.0), rtol=1e-13)
    assert result.value == pytest.approx(
        divergence(SOURCE, result.sigmas, solver=solver, objective=objective), rel=1e-13
    )


def test_integer_timesteps_on_a_thousand():
    result = optimal_timesteps(SOURCE, 10, VPDiscrete.ddpm())
    assert result.timesteps[0] == 999
    assert np.all(np.diff(result.timesteps) < 0)
    # A thousand levels are dense: rounding costs little, and it can cost nothing only if it gains nothing.
    assert 1 <= result.value / result.continuous_value < 1.001


def test_collisions_are_resolved_where_timesteps_are_scarce():
    for n in (14, 15, 16):
        steps = optimal_timesteps(SOURCE, n, short_path()).timesteps
        assert steps.size == n == np.unique(steps).size
        assert steps[0] == 15
    assert optimal_timesteps(SOURCE, 1, short_path(), first=9).timesteps.tolist() == [9]


def test_timestep_refusals():
    with pytest.raises(ValueError, match="`n` must not exceed the 16 timesteps from 0 to 15, got 17"):
        optimal_timesteps(SOURCE, 17, short_path())
    with pytest.raises(ValueError, match="`path` must have integer timesteps, got EDM"):
        optimal_timesteps(SOURCE, 4, EDM())
    with pytest.raises(ValueError, match="`final` must lie below the path's lowest level"):
        optimal_timesteps(SOURCE, 4, short_path(), final=1.0)
    with pytest.raises(ValueError, match="`first` must be at least 0 and at most 15, got 16"):
        optimal_timesteps(SOURCE, 4, short_path(), first=16)


# ----------------------------------------------------------------------------------------------------------- rank


def test_rank_sorts_by_divergence_and_counts_calls():
    grids = catalogue_grids(6, 0.002, 80.0, spectrum=SOURCE)
    rows = rank(SOURCE, grids, solver="heun", objective="kl", noise_floor=0.1)
    assert {row.name for row in rows} == set(grids)
    assert [row.value for row in rows] == sorted(row.value for row in rows)
    assert rows[0].ratio == 1
    assert all(row.nfe == 11 for row in rows)
    for row in rows:
        value = divergence(SOURCE, grids[row.name], solver="heun", objective="kl", noise_floor=0.1)
        assert row.value == value
        assert row.ratio == pytest.approx(value / rows[0].value, rel=1e-14)


def test_rank_refusals():
    with pytest.raises(ValueError, match="`grids` must hold at least one grid"):
        rank(SOURCE, {})
    with pytest.raises(ValueError, match=r"`grids\['up'\]` must be strictly descending"):
        rank(SOURCE, {"up": [1.0, 2.0]})


def test_the_catalogue_is_what_the_search_starts_from():
    result = optimal_grid(SOURCE, 5, 0.01, 80.0)
    names = set(result.candidates)
    assert {"tangent", "geodesic"} <= names
    assert names - {"tangent", "geodesic"} <= set(LAWS)
    assert result.value <= min(result.candidates.values())
    assert expanded_divergence(SOURCE, geodesic_law(SOURCE, 0.01, 80.0), 5) > 0
