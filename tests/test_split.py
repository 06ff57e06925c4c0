"""A grid cut in two, and grids planned for two networks: against whole runs, the sampler itself and small perturbations."""

from __future__ import annotations

import math

import numpy as np
import pytest

from eigenstep import OBJECTIVES, CallError, Spectrum, divergence, optimal_grid, optimal_split, sample, split, wiener_gain
from eigenstep.optimal.split import _feasible, _TwoRuns
from eigenstep.solvers import SOLVERS

SPECTRUM = Spectrum.from_eigenvalues([40.0, 6.0, 1.0, 0.1, 0.003], mean_energy=[9.0, 1.0, 0.0, 0.0, 0.0])
RANGE = (0.002, 80.0)
BOUNDARY = 7.0
SOLVER_NAMES = ["ddim", "heun", "dpmpp_2m", "ipndm4", "unipc3", "ddim_eta", "dpmpp_2m_sde"]


POOR = CallError([80.0, 10.0, 2.0, 0.3, 0.01], [0.5, 0.3, 0.02, 0.005, 1e-4])
WORSE = CallError([80.0, 2.0, 0.01], [1.0, 0.1, 1e-3])


class TestSplit:
    def test_no_level_moves_and_the_boundary_is_shared(self):
        grid = np.array([80.0, 20.0, 5.0, 1.0, 0.0])
        high, low = split(grid, 7.0)
        np.testing.assert_array_equal(np.concatenate([high, low[1:]]), grid)
        assert high[-1] == low[0] == 5.0

    def test_each_network_is_called_on_its_side_only(self):
        grid = np.append(np.geomspace(80.0, 0.01, 30), 0.0)
        high, low = split(grid, 3.0)
        assert (high[:-1] > 3.0).all()
        assert (low[:-1] <= 3.0).all()

    def test_a_level_at_the_boundary_is_where_they_meet(self):
        high, low = split([1.0, 0.875, 0.5, 0.0], 0.875)
        assert high.tolist() == [1.0, 0.875]
        assert low.tolist() == [0.875, 0.5, 0.0]

    def test_rounding_to_float32_does_not_miss_the_boundary(self):
        level = float(np.float32(0.3))
        assert level > 0.3
        assert split([1.0, level, 0.0], 0.3)[0].tolist() == [1.0, level]

    def test_takes_what_has_sigmas(self):
        result = optimal_grid(SPECTRUM, 5, *RANGE)
        for mine, theirs in zip(split(result, 7.0), split(result.sigmas, 7.0), strict=True):
            np.testing.assert_array_equal(mine, theirs)

    @pytest.mark.parametrize("sigma", [80.0, 100.0, 0.5, 0.0])
    def test_a_side_without_a_step_is_refused(self, sigma):
        with pytest.raises(ValueError, match=r"`sigma` must lie below the first level and not below the last but one.*80 "):
            split([80.0, 5.0, 1.0, 0.0], sigma)

    def test_the_grid_is_checked(self):
        with pytest.raises(ValueError, match="`sigmas` must be strictly descending"):
            split([1.0, 2.0, 0.0], 1.5)

    def test_parts_are_copies(self):
        grid = np.array([4.0, 2.0, 1.0, 0.0])
        split(grid, 2.0)[0][:] = -1
        assert grid[0] == 4.0


class TestTwoRuns:
    """The value that is minimised, by two other routes."""

    @pytest.mark.parametrize("solver", ["ddim", "heun", "dpm_2", "ddim_eta"])
    @pytest.mark.parametrize("objective", OBJECTIVES)
    def test_without_a_history_two_runs_are_one(self, solver, objective):
        grid = np.array([80.0, 25.0, 7.0, 2.0, 0.6, 0.1, 0.0])
        options = {"objective": objective, "noise_floor": 0.05}
        runs = _TwoRuns(SPECTRUM, SOLVERS[solver], start="marginal", **options)
        assert runs(grid, 2)[0] == pytest.approx(divergence(SPECTRUM, grid, solver=solver, **options), rel=1e-12)

    @pytest.mark.parametrize("solver", ["dpmpp_2m", "ipndm4", "unipc3"])
    def test_with_a_history_it_is_what_the_sampler_makes_in_two_passes(self, solver):
        grid = np.array([80.0, 40.0, 15.0, 7.0, 2.0, 0.6, 0.1, 0.0])
        lam = SPECTRUM.eigenvalues

        def denoiser(x, sigma):
            return wiener_gain(lam, sigma) * x

        gain = np.ones_like(lam)
        for part in (grid[:4], grid[3:]):
            gain = sample(denoiser, gain, part, solver=solver)
        expected = ((np.abs(gain) * np.sqrt(lam + grid[0] ** 2) - np.sqrt(lam)) ** 2).sum()
        value, _ = _TwoRuns(SPECTRUM, SOLVERS[solver], "w2", 0.0, "marginal")(grid, 3)
        assert value == pytest.approx(expected, rel=1e-12)
        assert abs(value / divergence(SPECTRUM, grid, solver=solver) - 1) > 1e-3  # one pass is something else

    def test_a_missed_mean_and_the_solvers_noise_add_up(self):
        grid = np.array([30.0, 7.0, 2.0, 0.0])
        options = {"solver": "ddim_eta", "start": "prior"}
        value, _ = _TwoRuns(SPECTRUM, SOLVERS["ddim_eta"], "w2", 0.0, "prior")(grid, 1)
        assert value == pytest.approx(divergence(SPECTRUM, grid, **options), rel=1e-12)

    @pytest.mark.parametrize("solver", ["ddim", "heun", "ddim_eta"])
    @pytest.mark.parametrize("objective", OBJECTIVES)
    def test_the_networks_errors_are_those_of_one_run_where_there_is_no_history(self, solver, objective):
        grid = np.array([80.0, 25.0, 7.0, 2.0, 0.6, 0.1, 0.0])
        options = {"objective": objective, "noise_floor": 0.05}
        runs = _TwoRuns(SPECTRUM, SOLVERS[solver], start="marginal", errors=(POOR, POOR), **options)
        expected = divergence(SPECTRUM, grid, solver=solver, denoiser_error=POOR, **options)
        assert runs(grid, 2)[0] == pytest.approx(expected, rel=1e-12)
        assert expected > 1.001 * divergence(SPECTRUM, grid, solver=solver, **options)

    @pytest.mark.parametrize("errors", [(POOR, None), (None, POOR)], ids=["high", "low"])
    def test_each_network_has_its_own_error(self, errors):
        grid = np.array([80.0, 25.0, 7.0, 2.0, 0.6, 0.1, 0.0])
        # The same error for both, cut off where the other network's levels begin.
        levels = np.geomspace(80.0, 0.05, 400)
        mine = (levels > 5.0) == (errors[0] is not None)
        cut = CallError(levels, np.where(mine, POOR.variance(levels), 0.0))
        value, _ = _TwoRuns(SPECTRUM, SOLVERS["ddim"], "w2", 0.0, "marginal", errors)(grid, 3)
        # POOR at 80 ... 2 and at 0.6 ... lies between nodes of the cubic that are 2 % apart.
        assert value == pytest.approx(divergence(SPECTRUM, grid, denoiser_error=cut), rel=1e-4)

    @pytest.mark.parametrize("solver", SOLVER_NAMES)
    @pytest.mark.parametrize("objective", ["w2", "kl", "local", "blend"])
    @pytest.mark.parametrize("errors", [(None, None), (POOR, WORSE)], ids=["exact", "poor"])
    def test_gradient_is_the_slope(self, solver, objective, errors):
        grid = np.array([80.0, 25.0, 7.0, 2.0, 0.6, 0.1, 0.0])
        runs = _TwoRuns(SPECTRUM, SOLVERS[solver], objective, 0.05, "marginal", errors)
        _, gradient = runs(grid, 2)
        for k in (1, 3, 4, 5):
            shift = np.exp(1e-5 * (np.arange(grid.size) == k))
            slope = (runs(grid * shift, 2)[0] - runs(grid / shift, 2)[0]) / 2e-5
            # Central differences: h^2 of third derivatives, and rounding over h, both below 1e-6 of the largest slope.
            assert gradient[k] == pytest.approx(slope, rel=1e-5, abs=1e-6 * np.abs(gradient).max())


class TestOptimalSplit:
    @pytest.mark.parametrize("solver", SOLVER_NAMES)
    def test_shape_and_boundary(self, solver):
        result = optimal_split(SPECTRUM, 6, BOUNDARY, *RANGE, solver=solver)
        assert result.sigmas.shape == (7,)
        assert result.high[0] == 80.0
        assert result.high[-1] == result.low[0] == BOUNDARY
        assert result.low[-1] == 0.0
        assert (np.diff(result.sigmas) < 0).all()
        assert result.low[-2] >= RANGE[0] * (1 - 1e-12)
        assert result.converged

    @pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "dpmpp_2m_sde"])
    @pytest.mark.parametrize("objective", ["w2", "kl", "local", "blend"])
    def test_no_perturbation_improves(self, solver, objective):
        options = {"objective": objective, "noise_floor": 0.05}
        result = optimal_split(SPECTRUM, 7, BOUNDARY, *RANGE, solver=solver, **options)
        runs = _TwoRuns(SPECTRUM, SOLVERS[solver], start="marginal", **options)
        m = result.high.size - 1
        rng = np.random.default_rng(5)
        for _ in range(40):
            moved = result.sigmas * np.exp(0.01 * rng.standard_normal(8))
            moved[0] = 80.0
            moved = _feasible(moved, m, (RANGE[0], BOUNDARY, 80.0, 0.0))
            # The search ends where a change of ln sigma changes ln value at a rate below 1e-4: here by 1e-6 at most.
            assert runs(moved, m)[0] >= result.value * (1 - 1e-6)

    @pytest.mark.parametrize("solver", ["ddim", "heun", "dpmpp_2m"])
    def test_no_other_share_is_better(self, solver):
        result = optimal_split(SPECTRUM, 6, BOUNDARY, *RANGE, solver=solver)
        each = [
            optimal_split(SPECTRUM, 6, BOUNDARY, *RANGE, solver=solver, high_steps=m).value for m in range(1, 6)
        ]
        assert result.value == pytest.approx(min(each), rel=1e-6)  # two searches of one minimum
        assert result.high.size - 1 == int(np.argmin(each)) + 1
        assert set(result.shares) == {1, 2, 3, 4, 5}

    def test_one_level_held_costs_something_but_little(self):
        spectrum = Spectrum.from_zoo("cifar10")
        for n in (4, 8):
            value = optimal_split(spectrum, n, BOUNDARY, *RANGE).value
            free = optimal_grid(spectrum, n, *RANGE).value
            assert free <= value * (1 + 1e-9)
            assert value < 1.15 * free  # measured: 13 % at 4 steps, 0.4 % at 8

    def test_a_boundary_on_the_optimal_grid_costs_nothing(self):
        free = optimal_grid(SPECTRUM, 6, *RANGE)
        result = optimal_split(SPECTRUM, 6, float(free.sigmas[2]), *RANGE)
        np.testing.assert_allclose(result.sigmas, free.sigmas, rtol=1e-4)  # ends of two searches, values equal to 1e-8
        assert result.value == pytest.approx(free.value, rel=1e-8)

    def test_two_steps_by_hand(self):
        result = optimal_split(Spectrum.from_eigenvalues([1.0]), 2, 1.0, 0.002, 2.0)
        assert result.sigmas.tolist() == [2.0, 1.0, 0.0]
        assert result.value == pytest.approx((math.sqrt(0.45) - 1) ** 2, rel=1e-12)  # theory (2): 5 cos^2 cos^2

    def test_an_error_of_the_networks_moves_the_levels_and_no_perturbation_improves(self):
        result = optimal_split(SPECTRUM, 7, BOUNDARY, *RANGE, denoiser_error=(WORSE, POOR))
        runs = _TwoRuns(SPECTRUM, SOLVERS["ddim"], "w2", 0.0, "marginal", (WORSE, POOR))
        m = result.high.size - 1
        assert result.value == pytest.approx(runs(result.sigmas, m)[0], rel=1e-12)
        assert np.abs(np.log(result.sigmas[:-1] / optimal_split(SPECTRUM, 7, BOUNDARY, *RANGE).sigmas[:-1])).max() > 0.02
        rng = np.random.default_rng(5)
        for _ in range(40):
            moved = result.sigmas * np.exp(0.01 * rng.standard_normal(8))
            moved[0] = 80.0
            moved = _feasible(moved, m, (RANGE[0], BOUNDARY, 80.0, 0.0))
            # As above: a rate below 1e-4 in steps of 0.01.
            assert runs(moved, m)[0] >= result.value * (1 - 1e-6)
        both = optimal_split(SPECTRUM, 4, BOUNDARY, *RANGE, denoiser_error=POOR)
        pair = optimal_split(SPECTRUM, 4, BOUNDARY, *RANGE, denoiser_error=(POOR, POOR))
        np.testing.assert_array_equal(both.sigmas, pair.sigmas)

    def test_ending_at_sigma_min(self):
        result = optimal_split(SPECTRUM, 5, BOUNDARY, 0.05, 80.0, final=None)
        assert result.low[-1] == 0.05
        assert result.sigmas.size == 6

    def test_a_narrow_side_takes_few_steps(self):
        result = optimal_split(SPECTRUM, 12, 78.0, *RANGE)
        assert result.high.size - 1 <= 2
        assert result.shares[11] == math.inf

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"n": 1}, "`n` must be at least 2, got 1"),
            ({"boundary": 80.0}, "`boundary` must lie between `sigma_min` and `sigma_max`, got 80 for 0.002 ... 80"),
            ({"boundary": 0.001}, "`boundary` must lie between"),
            ({"high_steps": 6}, "`high_steps` must be at least 1 and at most 5, got 6"),
            ({"high_steps": 5, "boundary": 79.0}, "`n` = 6 steps find no room"),
            ({"solver": "rk4"}, "`solver` must be"),
            ({"objective": "fid"}, "`objective` must be one of"),
            ({"final": 0.1}, "`final` must not exceed `sigma_min`"),
            ({"objective": "local", "start": "prior"}, "`start` must be 'marginal' for `objective`='local'"),
            ({"noise_floor": -1.0}, "`noise_floor` must be at least 0"),
            ({"denoiser_error": 0.1}, "`denoiser_error` must be an `ErrorCurve` or a `CallError`, got float"),
            ({"denoiser_error": (POOR,)}, "`denoiser_error` must be one for both networks or a pair, got 1"),
        ],
    )
    def test_refusals(self, arguments, message):
        given = {"n": 6, "boundary": BOUNDARY, "sigma_min": 0.002, "sigma_max": 80.0} | arguments
        with pytest.raises(ValueError, match=message):
            optimal_split(SPECTRUM, **given)
