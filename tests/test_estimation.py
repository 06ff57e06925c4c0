"""Few samples: the population behind them by two routes each, against known spectra, and the refusals."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import quad

from eigenstep import RankWarning, Spectrum, divergence, optimal_grid
from eigenstep.estimation import (
    Population,
    certainty,
    choose,
    choose_spectrum,
    dof_from_parts,
    dof_from_samples,
    dof_from_spectrum,
    ledoit_wolf_shrinkage,
    noise_check,
    nonlinear_shrinkage,
    oracle_approximating_shrinkage,
    plan_certainty,
    variance_error,
    with_evidence,
)
from eigenstep.estimation import curve as curves
from eigenstep.estimation import noise as noises
from eigenstep.estimation import population as populations
from eigenstep.moments import GramMoments, Moments, StationaryMoments

SHARED = Path(os.environ.get("EIGENSTEP_SHARED", Path(__file__).parents[2] / "shared"))
"""Where the data of the zoo lie: too large for the repository, read where they are present."""

POWER = np.arange(1.0, 401.0) ** -1.5


def normal_samples(lam, n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, lam.size)) * np.sqrt(lam)


def sample_spectrum(x):
    """Eigenvalues of the sample covariance by numpy alone."""
    n, dim = x.shape
    centred = x - x.mean(axis=0)
    small = centred @ centred.T if n <= dim else centred.T @ centred
    seen = np.linalg.eigvalsh(small / (n - 1))[::-1]
    lam = np.zeros(dim)
    lam[: min(n - 1, dim)] = seen[: min(n - 1, dim)]
    return Spectrum.from_eigenvalues(lam, n_samples=n)


def dof(lam, levels, m=1.0):
    return np.sum(m * lam / (lam + np.asarray(levels)[:, None]), axis=1)


def smooth_zoo(name):
    kept = Spectrum.from_zoo(name)
    positive = kept.eigenvalues > 0
    middle = (np.cumsum(kept.multiplicities) - 0.5 * kept.multiplicities)[positive]
    return np.exp(np.interp(np.arange(int(kept.dim)) + 0.5, middle, np.log(kept.eigenvalues[positive])))


def largest_move(spectrum, wanted, **goal):
    sigmas = optimal_grid(spectrum, 6, 0.002, 80.0, **goal).sigmas
    return float(np.max(np.abs(sigmas[1:-1] / wanted[1:-1] - 1)))


# ---------------------------------------------------------------------- the curve


def test_gaussian_levels_by_hand():
    # l = 2 once in 4 degrees of freedom, x = 2: dof = 1/2, kappa = 2/(1 - 1/8).
    found, levels = curves.gaussian_levels(np.array([2.0]), np.ones(1), 4, np.array([2.0]))
    assert found == pytest.approx([0.5], rel=1e-15)
    assert levels == pytest.approx([16 / 7], rel=1e-15)


def test_silverstein_equation_holds_on_the_curve():
    sample = sample_spectrum(normal_samples(POWER, 100))
    found = dof_from_spectrum(sample)
    # kappa (1 - dof/N) is the ridge x, and dof is the ridge's own.
    ridges = found.levels * (1 - found.dof / found.freedom)
    np.testing.assert_allclose(dof(sample.eigenvalues, ridges), found.dof, rtol=1e-9)  # 1 - dof/N cancels at small x


def test_many_samples_give_the_spectrum_its_own_curve():
    lam = np.array([4.0, 1.0, 0.1])
    found = dof_from_spectrum(Spectrum.from_eigenvalues(lam, n_samples=10**9))
    np.testing.assert_allclose(dof(lam, found.levels), found.dof, rtol=1e-8)  # kappa/x - 1 = 3/n at most


def test_the_curve_is_the_populations():
    levels = np.array([0.02, 0.1, 1.0])
    found = dof_from_spectrum(sample_spectrum(normal_samples(POWER, 100)))
    error = np.sqrt(np.diag(curves.noise_covariance(POWER, np.ones(400), 99, levels)))
    off = np.interp(levels, found.levels, found.dof) - dof(POWER, levels)
    assert np.all(np.abs(off) < 3 * error)


def test_noise_covariance_is_what_samples_do():
    levels = np.array([0.05, 0.2, 1.0])
    lam = POWER[:120]
    seen = []
    for seed in range(300):
        x = normal_samples(lam, 40, seed)
        x -= x.mean(axis=0)
        values, at = curves.gaussian_levels(np.linalg.eigvalsh(x @ x.T / 39)[1:], np.ones(39), 39, np.geomspace(1e-3, 60, 300))
        seen.append(np.interp(np.log(levels), np.log(at), values))
    expected = curves.noise_covariance(lam, np.ones(120), 39, levels)
    # 300 draws know a standard deviation to 4 %; the theory is for n to infinity and n is 40.
    np.testing.assert_allclose(np.std(seen, axis=0), np.sqrt(np.diag(expected)), rtol=0.12)
    correlation = expected / np.sqrt(np.outer(np.diag(expected), np.diag(expected)))
    np.testing.assert_allclose(np.corrcoef(np.transpose(seen)), correlation, atol=0.1)


def test_noise_covariance_by_hand():
    # One eigenvalue 1, kappa = 1, N = 8: s = 1/4, A_0 = 1/16, no second term; 2/8 / 16 / (31/32)^2.
    one = np.ones(1)
    assert curves.noise_covariance(one, one, 8, one)[0, 0] == pytest.approx(2 / 8 / 16 / (31 / 32) ** 2, rel=1e-14)


@pytest.mark.parametrize("dim", [5, 40])
def test_left_out_samples_by_brute_force(dim):
    n, ridge = 12, 0.3
    x = np.random.default_rng(1).standard_normal((n, dim)) * np.linspace(3.0, 0.1, dim)
    expected = 0.0
    for i in range(n):
        rest = np.delete(x, i, axis=0)
        away = x[i] - rest.mean(axis=0)
        scatter = (rest - rest.mean(axis=0)).T @ (rest - rest.mean(axis=0)) / (n - 1)
        expected += away @ np.linalg.solve(scatter + ridge * np.eye(dim), away) / n / n
    centred = x - x.mean(axis=0)
    u, s, _ = np.linalg.svd(centred, full_matrices=False)
    lam = s[: n - 1] ** 2 / (n - 1)
    shrink = lam / (lam + np.array([[ridge]]))
    assert curves._leave_one_out(u[:, : n - 1], shrink)[0] == pytest.approx(expected, rel=1e-10)
    alone = curves._leave_group_out(u[:, : n - 1], shrink, np.arange(n))
    assert alone[0] == pytest.approx(expected, rel=1e-10)


def test_left_out_groups_by_brute_force():
    n, dim, ridge = 12, 30, 0.3
    x = np.random.default_rng(1).standard_normal((n, dim))
    labels = np.arange(n) // 4
    expected = 0.0
    for label in range(3):
        rest = x[labels != label]
        away = x[labels == label] - rest.mean(axis=0)
        scatter = (rest - rest.mean(axis=0)).T @ (rest - rest.mean(axis=0)) / (n - 1)
        solved = np.linalg.solve(scatter + ridge * np.eye(dim), away.T)
        expected += np.sum(away.T * solved) / (n - 1) / (1 + 1 / 8) / n
    u, s, _ = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    lam = s[: n - 1] ** 2 / (n - 1)
    found = curves._leave_group_out(u[:, : n - 1], lam / (lam + np.array([[ridge]])), labels)
    assert found[0] == pytest.approx(expected, rel=1e-10)


def test_left_out_samples_undo_heavy_tails_and_eigenvalues_cannot():
    # Items of very different size, as images of very different contrast.
    rng = np.random.default_rng(0)
    lam = np.linspace(1.5, 0.5, 300)
    x = normal_samples(lam, 200) * rng.gamma(0.5, 2.0, (200, 1)) ** 0.5
    levels = np.array([2.0])
    truth = dof(lam, levels)[0]
    alone = dof_from_spectrum(sample_spectrum(x))
    left_out = dof_from_samples(x)
    assert np.interp(levels, left_out.levels, left_out.dof)[0] == pytest.approx(truth, rel=0.1)
    assert abs(np.interp(levels, alone.levels, alone.dof)[0] / truth - 1) > 0.2


def test_gaussian_samples_left_out_say_what_their_eigenvalues_say():
    x = normal_samples(POWER, 100)
    levels = np.geomspace(0.03, 3.0, 5)
    by_samples, by_values = dof_from_samples(x), dof_from_spectrum(sample_spectrum(x))
    found = np.interp(levels, by_samples.levels, by_samples.dof)
    np.testing.assert_allclose(found, np.interp(levels, by_values.levels, by_values.dof), rtol=0.05)  # 100 leverages vary


def test_parts_left_out_in_turn():
    lam = np.linspace(2.0, 0.1, 30)
    x = normal_samples(lam, 120) + 5.0
    parts = []
    for share in np.array_split(x, 6):
        part = Moments(30)
        part.update(share)
        parts.append(part)
    found = dof_from_parts(parts)
    levels = np.array([0.3, 1.0])
    error = np.sqrt(np.diag(curves.noise_covariance(lam, np.ones(30), 99, levels)))
    assert np.all(np.abs(np.interp(levels, found.levels, found.dof) - dof(lam, levels)) < 3 * error)
    assert found.trace == pytest.approx(np.var(x, axis=0, ddof=1).sum(), rel=1e-12)
    assert found.deviations.shape == (6, found.levels.size)
    np.testing.assert_allclose(found.deviations.sum(axis=0), 0.0, atol=1e-10)  # deviations from their mean


def test_jackknife_sees_samples_that_repeat():
    # Every sample four times: a quarter of the evidence, twice the error.
    x = np.repeat(normal_samples(POWER[:60], 100), 4, axis=0)
    alike = Population.from_samples(x, groups=np.repeat(np.arange(100), 4))
    apart = Population.from_samples(normal_samples(POWER[:60], 400))
    assert alike.inflation > 1.5  # 2, known to a quarter from ten groups
    assert apart.inflation < 1.5


# ---------------------------------------------------------------------- the population

GOALS = {
    "w2": {"objective": "w2"},
    "kl": {"objective": "kl", "noise_floor": 0.5},
    "2m": {"solver": "dpmpp_2m", "objective": "local"},
}


@pytest.mark.parametrize(("name", "floor"), [("cifar10", 0.5), ("speech", 0.056)])
def test_planned_sigmas_from_a_quarter_of_the_samples(name, floor):
    """The target: n = d/4 samples of a known spectrum, planned sigmas within 2 % of those of the truth."""
    lam = smooth_zoo(name)
    truth = Spectrum.from_eigenvalues(lam)
    sample = sample_spectrum(normal_samples(lam, lam.size // 4))
    estimate = Population.from_spectrum(sample, replicates=60).spectrum
    for goal in ({**GOALS["w2"]}, {**GOALS["kl"], "noise_floor": floor}, {**GOALS["2m"]}):
        wanted = optimal_grid(truth, 6, 0.002, 80.0, **goal).sigmas
        assert largest_move(estimate, wanted, **goal) < 0.02
    assert largest_move(sample, optimal_grid(truth, 6, 0.002, 80.0).sigmas) > 0.1  # without it


@pytest.mark.parametrize("lam", [POWER, np.r_[30.0, 10.0, np.full(398, 0.1)], np.r_[np.ones(60), np.full(340, 0.02)]])
def test_population_plans_as_known_directions_do(lam):
    # The sample variances along the true eigenvectors are the best that these samples could tell.
    x = normal_samples(lam, 100)
    best = Spectrum.from_eigenvalues(np.var(x, axis=0, ddof=1))
    estimate = Population.from_spectrum(sample_spectrum(x)).spectrum
    for goal in (GOALS["w2"], GOALS["kl"]):
        wanted = optimal_grid(best, 6, 0.002, 80.0, **goal).sigmas
        assert largest_move(estimate, wanted, **goal) < 0.05  # 100 samples of 400 dimensions; measured 0.5 to 3 %


def test_dimension_trace_zeros_and_records_are_kept():
    x = normal_samples(POWER[:50], 200) + 1.0
    x = np.hstack([x, np.full((200, 3), 7.0)])
    population = Population.from_samples(x, folds=0, provenance={"name": "mine"})
    spectrum = population.spectrum
    assert spectrum.dim == pytest.approx(53, rel=1e-9)
    assert spectrum.eigenvalues[-1] == 0
    assert spectrum.multiplicities[-1] == 3  # pixels without variance are known to be without
    assert spectrum.trace == pytest.approx(Spectrum.from_samples(x).trace, rel=0.02)  # replicates move around it
    assert spectrum.n_samples == 200
    assert spectrum.provenance["name"] == "mine"
    assert "population spectrum from 200 samples" in spectrum.provenance["estimated"]


def test_constant_pixels_are_known_with_few_samples_too():
    x = np.hstack([normal_samples(POWER[:50], 20), np.zeros((20, 5))])
    assert Population.from_samples(x, folds=0).spectrum.multiplicities[-1] == 5


def test_mean_energy_loses_the_noise_of_the_mean():
    # A mean of zero: the sample mean's energy is noise alone, tr Sigma/n, and goes.
    x = normal_samples(np.ones(200), 50)
    with pytest.warns(RankWarning):
        seen = Spectrum.from_samples(x)
    found = Population.from_samples(x, folds=0).spectrum
    assert seen.mean_energy.sum() == pytest.approx(200 / 50, rel=0.3)
    assert found.mean_energy.sum() < 0.5 * seen.mean_energy.sum()
    far = Population.from_samples(x + 3.0, folds=0).spectrum
    assert far.mean_energy.sum() == pytest.approx(9.0 * 200, rel=0.05)


def test_resolution_is_where_the_samples_end():
    population = Population.from_spectrum(sample_spectrum(normal_samples(POWER, 100)), replicates=2)
    # dof(resolution^2) = n - 1: as many directions stand above it as there are samples.
    assert dof(POWER, [population.resolution**2])[0] == pytest.approx(99, rel=0.1)
    assert population.noise_floor == max(population.spectrum.std, population.resolution)


def test_jackknife_half_widths_are_the_samples_own():
    # The trace is a mean over samples: its jackknife error is its own standard error, grouped or not.
    x = normal_samples(np.full(40, 1.0), 200) * np.random.default_rng(5).gamma(1.0, 1.0, (200, 1))
    population = Population.from_samples(x)
    assert len(population.replicates) == 10
    assert population.spread == pytest.approx(9 / np.sqrt(10) * 2.262 / 1.96, rel=1e-3)  # Student's quantile for 9
    half = population.half_width([one.trace for one in population.replicates])
    sizes = np.sum((x - x.mean(axis=0)) ** 2, axis=1)
    expected = 1.96 * np.std(sizes, ddof=1) / np.sqrt(200)
    assert half == pytest.approx(expected, rel=0.6)  # ten groups know an error to a quarter; 95 % is 1.9 of them


def test_few_samples_fall_back_to_drawn_curves():
    x = normal_samples(POWER[:10], 5)
    assert Population.from_samples(x).spread == 1.0
    assert Population.from_samples(x, groups=[0, 0, 0, 1, 1]).spread == 1.0


def test_replicates_vary_as_samples_do():
    # One large eigenvalue: its logarithm has standard deviation sqrt(2/N), and so has the trace's.
    lam = np.r_[1.0, np.full(9, 1e-6)]
    population = Population.from_spectrum(Spectrum.from_eigenvalues(lam, n_samples=801))
    spread = np.std([np.log(one.trace) for one in population.replicates], ddof=1)
    assert spread == pytest.approx(np.sqrt(2 / 800), rel=0.15)  # atoms 10 % apart


def test_balanced_normals_are_exact_to_second_order():
    normals = populations._balanced_normals(np.random.default_rng(0), 64, 40)
    np.testing.assert_allclose(normals.mean(axis=0), 0.0, atol=1e-12)
    np.testing.assert_allclose(np.cov(normals, rowvar=False), np.eye(40), atol=1e-12)
    assert populations._balanced_normals(np.random.default_rng(0), 8, 40).shape == (8, 40)


def test_from_moments_uses_the_samples_where_they_are_kept():
    x = normal_samples(POWER[:80], 30)
    gram, dense = GramMoments(80), Moments(80)
    gram.update(x)
    dense.update(x)
    assert Population.from_moments(gram).curve.method == "samples left out one by one"
    assert "eigenvalues" in Population.from_moments(dense, replicates=2).curve.method
    direct = Population.from_samples(x, folds=0).spectrum
    np.testing.assert_array_equal(Population.from_moments(gram).spectrum.eigenvalues, direct.eigenvalues)


def test_at_rank_brackets_the_truth():
    population = Population.from_spectrum(sample_spectrum(normal_samples(POWER, 100)))
    ranks = np.array([1, 3, 10, 30])
    middle, low, high = population.at_rank(ranks)
    assert np.all(np.diff(low) <= 0)
    assert np.all(np.diff(high) <= 0)
    assert np.all((low <= middle) & (middle <= high))
    inside = (low <= POWER[ranks - 1]) & (POWER[ranks - 1] <= high)
    assert inside.sum() >= 3  # 95 % intervals


def test_pixels_constant_in_some_folds_only():
    # One sample alone varies there: without it the direction is known to be constant.
    x = np.hstack([normal_samples(POWER[:50], 20), np.zeros((20, 30))])
    x[3, 50:] = 0.1
    middle, low, high = Population.from_samples(x).at_rank(np.arange(1, 81))
    assert np.isfinite(middle).all()
    assert np.isfinite(high).all()
    assert np.all(low <= middle)


def test_the_same_seed_gives_the_same_population():
    sample = sample_spectrum(normal_samples(POWER, 100))
    one, two, other = (Population.from_spectrum(sample, replicates=4, seed=seed).spectrum for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.multiplicities, two.multiplicities)
    assert one.multiplicities.size != other.multiplicities.size or np.any(one.multiplicities != other.multiplicities)


def test_from_parts_keeps_the_parts_as_they_were():
    parts = []
    for seed in range(3):
        part = Moments(8)
        part.update(normal_samples(np.linspace(2, 1, 8), 40, seed))
        parts.append(part)
    population = Population.from_parts(parts, replicates=2)
    assert population.spectrum.n_samples == 120
    assert [part.count for part in parts] == [40, 40, 40]


# ---------------------------------------------------------------------- how sure


def test_movement_falls_with_the_root_of_the_samples():
    lam = np.geomspace(10.0, 0.01, 12)
    few, many = (
        plan_certainty(Population.from_spectrum(Spectrum.from_eigenvalues(lam, n_samples=n)), 3, 0.002, 80.0)
        for n in (4_000, 64_000)
    )
    assert few.movement / many.movement == pytest.approx(4.0, rel=0.15)  # 1/sqrt(16), to the first order in 1/n
    assert few.enough_samples == pytest.approx(many.enough_samples, rel=0.3)


def test_intervals_hold_the_plan_and_the_ends_do_not_move():
    sure = plan_certainty(Population.from_spectrum(sample_spectrum(normal_samples(POWER, 100))), 4, 0.002, 80.0)
    assert np.all((sure.lower <= sure.sigmas) & (sure.sigmas <= sure.upper))
    assert sure.lower[0] == sure.upper[0] == 80.0
    assert sure.lower[-1] == sure.upper[-1] == 0.0
    assert sure.gamma_lower < sure.gamma < sure.gamma_upper
    assert sure.error_lower < sure.error < sure.error_upper
    assert 0 <= sure.regret < sure.movement  # near an optimum the error is flat
    half = sure.upper[1:-1] / sure.sigmas[1:-1] - 1
    assert sure.movement == pytest.approx(half.max(), rel=1e-12)


def test_error_is_the_plans_divergence():
    population = Population.from_spectrum(sample_spectrum(normal_samples(POWER, 100)), replicates=3)
    sure = plan_certainty(population, 3, 0.002, 80.0, objective="kl", noise_floor=0.2)
    value = divergence(population.spectrum, sure.sigmas, objective="kl", noise_floor=0.2)
    assert sure.error == pytest.approx(value, rel=1e-12)


def test_a_verdict_says_on_what_trust():
    sample = sample_spectrum(normal_samples(POWER, 100))
    trust = "That takes the samples for independent and Gaussian-like."
    alone = plan_certainty(Population.from_spectrum(sample, replicates=3), 3, 0.002, 80.0)
    known = plan_certainty(Population.from_spectrum(with_evidence(sample, error=0.1), replicates=3), 3, 0.002, 80.0)
    assert alone.verdict.endswith(trust)
    assert trust not in known.verdict


def test_one_step_has_nothing_to_move():
    sure = plan_certainty(Population.from_spectrum(sample_spectrum(normal_samples(POWER, 50)), replicates=3), 1, 0.002, 80.0)
    assert sure.movement == 0.0
    assert sure.verdict == "One step has no level to plan, so nothing can move."


@pytest.mark.parametrize(
    ("movement", "regret", "words"),
    [
        (0.03, 0.5, "move by at most 3 %: enough samples."),
        (0.08, 0.004, "move by at most 8 %, which costs at most 0.4 % of the predicted error: enough samples. About 700"),
        (0.08, 0.02, "at most 2 % of the predicted error: usable. About 700 samples would hold them to 3 %."),
        (0.3, 0.04, "costs at most 4 % of the predicted error: usable."),
        (0.3, 0.2, "costs at most 20 % of the predicted error: too few samples."),
    ],
)
def test_verdicts(movement, regret, words):
    assert words in certainty._verdict(movement, regret, 700, 6)


@pytest.mark.slow
def test_intervals_cover():
    truth = Spectrum.from_eigenvalues(POWER)
    wanted = optimal_grid(truth, 5, 0.002, 80.0).sigmas[1:-1]
    inside = []
    for seed in range(60):
        sure = plan_certainty(Population.from_spectrum(sample_spectrum(normal_samples(POWER, 100, seed))), 5, 0.002, 80.0)
        inside.append(np.mean((sure.lower[1:-1] <= wanted) & (wanted <= sure.upper[1:-1])))
    assert np.mean(inside) > 0.82  # 95 % in theory, to 3 % from 60 draws; measured 88 to 95 %


# ---------------------------------------------------------------------- evidence and choice


def test_variance_error_by_hand():
    # Energies 1, 2, 3 left out in turn: means 5/2, 2, 3/2; (2/3)(1/4 + 0 + 1/4) = 1/3.
    assert variance_error([1.0, 2.0, 3.0]) == pytest.approx((1 / 3) ** 0.5 / 2, rel=1e-12)
    assert variance_error([4.0, 4.0, 4.0, 4.0]) == 0.0


def test_variance_error_of_single_items_is_the_standard_error_of_a_mean():
    energy = np.random.default_rng(0).exponential(size=500)
    usual = np.std(energy, ddof=1) / np.sqrt(500) / np.mean(energy)
    assert variance_error(energy, groups=500) == pytest.approx(usual, rel=1e-12)
    assert variance_error(energy, groups=9_999) == pytest.approx(usual, rel=1e-12)  # no more runs than items


def test_variance_error_sees_neighbours_that_depend_on_each_other():
    energy = np.random.default_rng(0).exponential(size=240)
    repeated = np.repeat(energy, 10)
    usual = np.std(energy) / np.sqrt(240) / np.mean(energy)
    # 24 runs know their own spread to 1/sqrt(48) = 14 %; three times that.
    assert variance_error(repeated) == pytest.approx(usual, rel=0.43)
    assert variance_error(repeated, groups=2400) == pytest.approx(usual / 10**0.5, rel=0.01)  # blind to it
    labels = np.repeat(np.arange(240), 10)
    shuffled = np.random.default_rng(1).permutation(2400)
    assert variance_error(repeated[shuffled], groups=labels[shuffled]) == pytest.approx(usual, rel=0.01)


def test_a_saved_spectrum_plans_as_its_samples_do(tmp_path):
    x = np.random.default_rng(0).standard_t(4, (100, 1)) * normal_samples(POWER, 100)
    with pytest.warns(RankWarning):
        sample = Spectrum.from_samples(x)
    kept = with_evidence(sample, curve=dof_from_samples(x))
    kept.save(tmp_path / "kept.json")
    again = Population.from_spectrum(Spectrum.load(tmp_path / "kept.json"))
    direct = optimal_grid(Population.from_samples(x, folds=0).spectrum, 6, 0.002, 80.0).sigmas
    # The file keeps nine digits of the curve, which least squares magnify.
    assert largest_move(again.spectrum, direct) < 1e-3
    assert largest_move(Population.from_spectrum(sample).spectrum, direct) > 0.05
    assert "left_out" not in again.spectrum.provenance
    assert "left out one by one" in str(again.spectrum.provenance["estimated"])


def test_an_unsure_total_variance_widens_the_intervals():
    sample = sample_spectrum(normal_samples(POWER, 100))
    population = Population.from_spectrum(with_evidence(sample, error=0.3))
    half = population.half_width([np.log(one.trace) for one in population.replicates])
    # The drawn curves move the trace by 0.1 themselves, and 64 draws of both are correlated by about 1/sqrt(64).
    assert half == pytest.approx(1.96 * 0.3, rel=0.06)
    plain = Population.from_spectrum(sample)
    little = Population.from_spectrum(with_evidence(sample, error=1e-3))
    assert all(np.array_equal(a.eigenvalues, b.eigenvalues) for a, b in zip(plain.replicates, little.replicates, strict=True))
    assert (plain.measured, little.measured) == (False, True)


@pytest.mark.slow
def test_the_ecg_spectrum_says_how_unsure_it_is():
    file = SHARED / "data" / "ecg512.npz"
    if not file.exists():
        pytest.skip(f"no {file}; set EIGENSTEP_SHARED to the folder above data")
    with np.load(file) as archive:
        other = archive["test"] * 1e-3
    seen = optimal_grid(Population.from_samples(other, folds=0).spectrum, 6, 0.002, 80.0).sigmas[1:-1]
    sure = plan_certainty(Population.from_spectrum(Spectrum.from_zoo("ecg")), 6, 0.002, 80.0)
    assert "usable" in sure.verdict
    # Records that were not measured: from a tenth of the data, so with an interval of their own, three times as wide.
    half = np.log(sure.upper[1:-1] / sure.sigmas[1:-1])
    assert np.all(np.abs(np.log(seen / sure.sigmas[1:-1])) < half * np.sqrt(1 + 9))
    assert np.all(np.abs(np.log(seen / sure.sigmas[1:-1])) > 0.2)  # and they do differ: by a third


def test_the_formula_of_the_choice_is_silversteins():
    x = normal_samples(POWER, 3000)
    sample = sample_spectrum(x)
    sigmas = np.array([1.0, 0.3, 0.1, 0.03])
    exact = -0.5 * np.log(1 - dof(sample.eigenvalues, sigmas**2) / 2999)
    for k in range(4):
        # 48 levels of the curve, interpolated.
        assert choose._off(sample, sigmas[k : k + 1]) == pytest.approx(exact[k], rel=0.02)


def test_the_population_is_taken_where_samples_are_few():
    truth = optimal_grid(Spectrum.from_eigenvalues(POWER), 6, 0.002, 80.0).sigmas
    sample = sample_spectrum(normal_samples(POWER, 100))
    chosen = choose_spectrum(sample, 0.002, 80.0)
    assert chosen.eigenvalues == "population"
    assert chosen.movement > 0.3
    assert largest_move(chosen.spectrum, truth) < 0.2 < largest_move(sample, truth)  # n = 100: the luck of the draw
    assert chosen.reason.startswith("Planned on the population's spectrum: the eigenvalues of 100 samples would put a level")
    forced = choose_spectrum(sample, 0.002, 80.0, eigenvalues="sample")
    assert (forced.spectrum, forced.eigenvalues, forced.movement) == (sample, "sample", None)


def test_the_sample_is_taken_where_samples_are_many():
    sample = sample_spectrum(normal_samples(POWER[:20], 2000))
    # Without a floor kl has other minima not far away, which the estimate's smeared eigenvalues would prefer.
    for goal in ({}, {"solver": "heun", "objective": "kl"}):
        chosen = choose_spectrum(sample, 0.002, 80.0, **goal)
        assert chosen.spectrum is sample
        assert chosen.movement < 0.01
    forced = choose_spectrum(sample, 0.002, 80.0, eigenvalues="population")
    assert forced.eigenvalues == "population"
    assert forced.movement < 0.03


def test_what_is_no_sample_is_taken_as_it_is():
    estimate = Population.from_spectrum(few()).spectrum
    unknown, two = Spectrum.from_eigenvalues([2.0, 1.0]), Spectrum.from_eigenvalues([2.0, 1.0], n_samples=2)
    for spectrum, words in ((estimate, "none of a sample"), (unknown, "an unknown number of samples"), (two, "of 2 samples")):
        chosen = choose_spectrum(spectrum, 0.002, 80.0)
        assert chosen.spectrum is spectrum
        assert words in chosen.reason
    with pytest.raises(ValueError, match="is an estimate already"):
        choose_spectrum(estimate, 0.002, 80.0, eigenvalues="population")


def test_a_choice_says_its_doubt():
    sample = Spectrum.from_eigenvalues([2.0, 1.0], n_samples=4000)
    assert choose_spectrum(with_evidence(sample, error=0.02), 0.002, 80.0).doubt == ""
    doubt = choose_spectrum(with_evidence(sample, error=0.21), 0.002, 80.0).doubt
    assert doubt == "The samples' total variance has a standard error of 21 %, so the levels are sure to 23 % only."


# ---------------------------------------------------------------------- shrinkages


def test_ledoit_wolf_is_scikit_learns():
    covariance = pytest.importorskip("sklearn.covariance")
    for n, dim in ((30, 12), (12, 30)):
        x = np.random.default_rng(2).standard_normal((n, dim)) * np.linspace(3, 0.2, dim)
        matrix, _ = covariance.ledoit_wolf(x)
        ours = ledoit_wolf_shrinkage(x)
        # scikit-learn's covariance is over n, ours over n - 1.
        expected = np.linalg.eigvalsh(matrix)[::-1] * n / (n - 1)
        found = np.repeat(ours.eigenvalues, ours.multiplicities.astype(int))
        np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_oracle_approximating_shrinkage_by_hand():
    # l = 3, 1; d = 2, N = 9: tr S^2 = 10, (tr S)^2 = 16; a = (0 + 16) / ((10 - 1)(10 - 8)) = 8/9; mean 2.
    found = oracle_approximating_shrinkage(Spectrum.from_eigenvalues([3.0, 1.0], n_samples=10))
    np.testing.assert_allclose(found.eigenvalues, [2 + 1 / 9, 2 - 1 / 9], rtol=1e-14)
    assert "weight 0.888889" in found.provenance["estimated"]


@pytest.mark.parametrize("n", [60, 15])
def test_nonlinear_shrinkage_by_quadrature(n):
    x = np.random.default_rng(3).standard_normal((n, 20)) * np.linspace(2.0, 0.5, 20)
    sample = sample_spectrum(x)
    freedom, c = n - 1, 20 / (n - 1)
    lam = sample.eigenvalues[sample.eigenvalues > 0]
    width = freedom ** (-1 / 3) * lam

    def kernel(t, centre, h):
        return np.maximum(0.75 / np.sqrt(5) * (1 - ((t - centre) / h) ** 2 / 5), 0.0) / h

    expected = []
    for at in lam:
        density = np.mean([kernel(at, centre, h) for centre, h in zip(lam, width, strict=True)])
        transform = 0.0
        for centre, h in zip(lam, width, strict=True):
            low, high = centre - np.sqrt(5) * h, centre + np.sqrt(5) * h
            if low < at < high:
                transform += quad(kernel, low, high, args=(centre, h), weight="cauchy", wvar=at)[0]
            else:
                transform += quad(lambda t, centre=centre, h=h, at=at: kernel(t, centre, h) / (t - at), low, high)[0]
        transform /= np.pi * lam.size
        if freedom >= 20:
            expected.append(at / ((np.pi * c * at * density) ** 2 + (1 - c - np.pi * c * at * transform) ** 2))
        else:
            expected.append(at / (np.pi * at) ** 2 / (density**2 + transform**2))
    found = nonlinear_shrinkage(sample)
    shrunk = found.eigenvalues[found.multiplicities == 1]
    np.testing.assert_allclose(np.sort(shrunk), np.sort(expected), rtol=1e-7)  # quadrature's own error
    assert found.eigenvalues.min() > 0


def test_nonlinear_shrinkage_draws_noise_together():
    x = normal_samples(np.ones(100), 50)
    sample = sample_spectrum(x)
    found = nonlinear_shrinkage(sample)
    assert found.eigenvalues.max() < 0.5 * sample.eigenvalues.max()
    assert found.multiplicities.max() == 51  # one value for all directions without samples


# ---------------------------------------------------------------------- the check


def test_noise_alone_and_noise_around_directions():
    alone = noise_check(sample_spectrum(normal_samples(np.ones(200), 80)))
    assert alone.is_noise
    assert alone.directions == 0
    assert alone.noise_variance == pytest.approx(1.0, rel=0.02)
    assert "80 samples show no structure" in alone.sentence
    around = noise_check(sample_spectrum(normal_samples(np.r_[np.full(4, 20.0), np.full(196, 0.25)], 300)))
    assert around.is_noise
    assert around.directions == 4
    assert around.noise_variance == pytest.approx(0.25, rel=0.03)
    # A hundred directions take a good part of the samples' freedom with them.
    many = noise_check(sample_spectrum(normal_samples(np.r_[np.full(100, 9.0), np.full(900, 0.01)], 250)))
    assert many.directions == pytest.approx(100, abs=1)
    assert many.noise_variance == pytest.approx(0.01, rel=0.05)
    assert around.sentence == (
        "4 directions stand out of what looks like plain noise of standard deviation 0.5 in the other 196."
    ) or "noise of standard deviation 0.49" in around.sentence


def test_structure_at_every_scale_is_no_noise():
    found = noise_check(sample_spectrum(normal_samples(POWER, 100)))
    assert not found.is_noise
    assert "no floor of plain noise" in found.sentence
    assert found.aspect == 0.25


@pytest.mark.parametrize(("dim", "freedom"), [(50.0, 200.0), (200.0, 50.0)])
def test_marchenko_pastur_by_quadrature(dim, freedom):
    low, high = (1 - np.sqrt(dim / freedom)) ** 2, (1 + np.sqrt(dim / freedom)) ** 2

    def density(x):
        return np.sqrt((high - x) * (x - low)) / x

    whole = quad(density, low, high)[0]
    at = np.linspace(low, high, 5)[1:-1]
    expected = [quad(density, low, x)[0] / whole for x in at]
    np.testing.assert_allclose(noises._marchenko_pastur(at, dim, freedom, freedom), expected, atol=1e-5)  # 4000 panels


# ---------------------------------------------------------------------- refusals


def few():
    return Spectrum.from_eigenvalues([2.0, 1.0], n_samples=5)


def part(dim, items=4):
    one = Moments(dim)
    one.update(np.random.default_rng(0).standard_normal((items, dim)))
    return one


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Population.from_spectrum(Spectrum.from_eigenvalues([1.0])), r"`spectrum.n_samples` is not known"),
        (lambda: dof_from_spectrum(Spectrum.from_eigenvalues([1.0], n_samples=2)), r"`spectrum.n_samples` must be at least 3"),
        (lambda: Population.from_spectrum(Population.from_spectrum(few()).spectrum), r"`spectrum` is an estimate already"),
        (lambda: Population.from_spectrum(few(), replicates=1), r"`replicates` must be at least 2, got 1"),
        (lambda: Population.from_spectrum(few(), replicates=2).half_width([1.0]), "one entry per replicate"),
        (lambda: Population.from_spectrum(few()).at_rank([0.0]), r"`ranks` must lie between 1 and 2, got 0 to 0"),
        (lambda: dof_from_samples(np.eye(2)), r"`number of samples` must be at least 3, got 2"),
        (lambda: dof_from_samples(np.ones((4, 2))), r"The data are constant: all 4 items are equal"),
        (lambda: dof_from_samples(np.eye(4), groups=[1, 2]), r"`groups` must hold one label per sample \(4\), got shape"),
        (lambda: dof_from_samples(np.eye(4), groups=[1] * 4), r"`groups` must name at least 2 groups"),
        (lambda: dof_from_parts([part(2)] * 2), r"`number of parts` must be at least 3, got 2"),
        (lambda: dof_from_parts([part(2), part(2), part(3)]), r"`parts` must hold items of one shape, got \(2,\), \(3,\)"),
        (lambda: variance_error([1.0, 2.0]), r"`number of samples` must be at least 3, got 2"),
        (lambda: variance_error([1.0, -2.0, 3.0]), r"`energies` must be squared distances, not all of them 0, got -2"),
        (lambda: variance_error([0.0, 0.0, 0.0]), r"`energies` must be squared distances, not all of them 0"),
        (lambda: variance_error([1.0, 2.0, 3.0], groups=1), r"`groups` must be at least 2, got 1"),
        (lambda: variance_error([1.0, 2.0, 3.0], groups=[1, 2]), r"`groups` must hold one label per sample \(3\)"),
        (lambda: with_evidence(few(), error=-0.1), r"`error` must be at least 0, got -0\.1"),
        (lambda: with_evidence(few(), curve=dof_from_samples(np.eye(5))), r"`curve` must be of the spectrum's own samples"),
        (lambda: choose_spectrum(few(), 0.002, 80.0, eigenvalues="raw"), r"`eigenvalues` must be one of auto, sample, pop"),
        (lambda: noise_check(few().binned(4)), None),
        (lambda: noise_check(Spectrum.from_zoo("cifar10")), r"`spectrum` must hold the sample's own eigenvalues"),
        (lambda: nonlinear_shrinkage(few()), r"`spectrum.n_samples` must be at least 12, got 5"),
        (lambda: certainty.enough_samples(10, 0.1, wanted=0.0), r"`wanted` must be greater than 0"),
    ],
)
def test_refusals(call, message):
    if message is None:
        call()  # nothing was binned: two eigenvalues stay two
        return
    with pytest.raises(ValueError, match=message):
        call()


def test_parts_of_another_form_are_refused():
    gram = GramMoments(2)
    gram.update(np.eye(2))
    with pytest.raises(TypeError, match=r"`parts` must hold dense `Moments`, got GramMoments"):
        dof_from_parts([gram] * 3)


def test_stationary_spectra_are_refused():
    moments = StationaryMoments((8, 8))
    moments.update(np.random.default_rng(0).standard_normal((6, 8, 8)))
    with pytest.raises(ValueError, match="stationary form, whose powers are averages"):
        Population.from_moments(moments)
