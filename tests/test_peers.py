"""The searched grids of others in experiments/: hand-worked cases, their authors' properties, and the exact mixtures."""

import itertools
import math

import numpy as np
import pytest

from eigenstep import Spectrum, cramer_rao_bound, exponential_law, grid, karras_law, rescaled_entropic_law, sample, solver_named
from eigenstep.models import ErrorCurve

peers = pytest.importorskip("peers", reason="no experiments/ beside these tests")
mixtures = pytest.importorskip("mixtures")

LOW, HIGH = 0.002, 80.0
RNG = np.random.default_rng(5)
LAM = np.array([4.0, 1.0, 0.04])
STATES = HIGH * RNG.standard_normal((6, 3))


def wiener(x, sigma):
    return x * LAM / (LAM + sigma**2)


def small_mixture(seed=0, components=3, rank=2, dim=5):
    rng = np.random.default_rng(seed)
    bases = np.stack([np.linalg.qr(rng.standard_normal((dim, rank)))[0].T for _ in range(components)])
    return mixtures.Mixture(
        weights=rng.dirichlet(np.ones(components)),
        means=rng.standard_normal((components, dim)),
        bases=bases,
        variances=rng.uniform(0.5, 2.0, (components, rank)),
        floors=rng.uniform(0.05, 0.1, components),
        item_shape=(dim,),
    )


def covariances(mixture):
    inner = mixture.variances - mixture.floors[:, None]
    dim = mixture.means.shape[1]
    return np.einsum("crd,cr,cre->cde", mixture.bases, inner, mixture.bases) + mixture.floors[:, None, None] * np.eye(dim)


class TestMixture:
    def test_denoiser_is_the_posterior_mean_by_dense_algebra(self):
        mixture = small_mixture()
        x, sigma = RNG.standard_normal((7, 5)) * 2, 0.7
        logits, means = [], []
        for weight, mean, cov in zip(mixture.weights, mixture.means, covariances(mixture), strict=True):
            spread = cov + sigma**2 * np.eye(5)
            away = x - mean
            solved = np.linalg.solve(spread, away.T).T
            logits.append(np.log(weight) - 0.5 * ((away * solved).sum(1) + np.linalg.slogdet(2 * np.pi * spread)[1]))
            means.append(mean + solved @ cov)
        odds = np.exp(np.array(logits) - np.logaddexp.reduce(logits, axis=0))
        expected = np.einsum("cn,cnd->nd", odds, np.array(means))
        np.testing.assert_allclose(mixture(x, sigma), expected, rtol=1e-11)
        np.testing.assert_allclose(mixture.log_likelihood(x, sigma), np.logaddexp.reduce(logits, axis=0), rtol=1e-12)

    def test_denoiser_is_the_score_of_its_own_density(self):
        # Tweedie: D = x + sigma^2 grad ln p; central differences of step 1e-5 are good to 1e-9.
        mixture, sigma, step = small_mixture(1), 0.4, 1e-5
        x = RNG.standard_normal((4, 5))
        score = np.empty_like(x)
        for k in range(5):
            nudge = step * np.eye(5)[k]
            score[:, k] = (mixture.log_likelihood(x + nudge, sigma) - mixture.log_likelihood(x - nudge, sigma)) / (2 * step)
        np.testing.assert_allclose(mixture(x, sigma), x + sigma**2 * score, atol=1e-8)

    def test_torch_gives_the_same(self):
        torch = pytest.importorskip("torch")
        mixture = small_mixture()
        x = RNG.standard_normal((4, 5))
        np.testing.assert_allclose(mixture(torch.tensor(x), 0.3).numpy(), mixture(x, 0.3), rtol=1e-12)

    def test_one_component_is_the_wiener_filter(self):
        mixture = small_mixture(components=1)
        x, cov = RNG.standard_normal((4, 5)), covariances(mixture)[0]
        expected = mixture.means[0] + (x - mixture.means[0]) @ np.linalg.solve(cov + np.eye(5), cov)
        np.testing.assert_allclose(mixture(x, 1.0), expected, rtol=1e-12)

    def test_spectrum_and_draws_agree(self):
        mixture = small_mixture(2)
        items = mixture.draw(40_000, 3)
        # Standard errors of the entries are about 0.01.
        spectrum = mixture.spectrum()
        np.testing.assert_allclose(np.linalg.eigvalsh(np.cov(items.T))[::-1], spectrum.eigenvalues, rtol=0.05)
        np.testing.assert_allclose((items.mean(0) ** 2).sum(), spectrum.mean_energy.sum(), rtol=0.05)

    def test_em_never_loses_likelihood_and_finds_the_source(self):
        source = small_mixture(4, components=2)
        items = source.draw(3000, 5)
        found = mixtures.fit(items, 2, 2, rounds=40)
        assert np.all(np.diff(found.history) > -1e-9)
        # The fit is better on its own items than the source by half a parameter each at most, about 20 in 3000 items.
        gained = found.log_likelihood(items).mean() - source.log_likelihood(items).mean()
        assert -0.003 < gained < 0.02

    def test_items_fewer_than_numbers_are_fitted_through_their_gram_matrix(self):
        items = RNG.standard_normal((6, 40))
        mixture = mixtures.fit(items, 1, 5, rounds=3, floor=1e-3)
        np.testing.assert_allclose(mixture.bases[0] @ mixture.bases[0].T, np.eye(5), atol=1e-12)
        top = np.linalg.svd(items - items.mean(0))[1][:5] ** 2 / 6
        np.testing.assert_allclose(np.sort(mixture.variances[0]), np.sort(top), rtol=1e-10)
        assert mixture.floors[0] == 1e-3

    def test_k_means_separates_what_is_far_apart(self):
        centres = np.array([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]])
        truth = RNG.integers(3, size=60)
        labels = mixtures.k_means(centres[truth] + RNG.standard_normal((60, 2)), 3)
        assert len({(a, b) for a, b in zip(truth, labels, strict=True)}) == 3

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [((np.zeros((3, 4)), 4, 2), "at most the number of items 3"), ((np.zeros((3, 4)), 1, 4), "below the 4 numbers"),
         ((np.full((3, 4), np.nan), 1, 2), "must be finite")],
    )  # fmt: skip
    def test_refusals(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            mixtures.fit(*arguments)
        with pytest.raises(ValueError, match="must be one of mnist14"):
            mixtures.dataset("imagenet")

    def test_halving_takes_means_of_four(self):
        image = np.arange(16.0).reshape(1, 4, 4)
        np.testing.assert_array_equal(mixtures._halved(image)[0], [[2.5, 4.5], [10.5, 12.5]])
        np.testing.assert_array_equal(mixtures._halved(image[..., None], axis=1)[0, :, :, 0], [[2.5, 4.5], [10.5, 12.5]])


def all_paths(last, n):
    return ([0, *inner, last] for inner in itertools.combinations(range(1, last), n - 1))


class TestGits:
    @pytest.mark.parametrize("coeff", [1.0, 1.15, 0.8])
    def test_dynamic_programming_finds_what_brute_force_finds(self, coeff):
        cost = np.triu(RNG.uniform(size=(8, 8)), 1) + np.tril(np.full((8, 8), np.inf))
        for n in (1, 2, 3, 5, 7):
            def value(path):
                return sum(coeff**k * cost[a, b] for k, (a, b) in enumerate(itertools.pairwise(path)))

            found = value(peers.cheapest_path(cost, n, coeff=coeff))
            assert found == pytest.approx(min(map(value, all_paths(7, n))), rel=1e-14)

    def test_a_hand_worked_path(self):
        # From 0 to 3 in two jumps: by 1 costs 1 + 2 c, by 2 costs 2 + c; the first wins for c < 1, the second above.
        cost = np.array([[np.inf, 1, 2, 9], [np.inf, np.inf, 1, 2], [np.inf, np.inf, np.inf, 1], [np.inf] * 4])
        assert peers.cheapest_path(cost, 2, coeff=0.9) == [0, 1, 3]
        assert peers.cheapest_path(cost, 2, coeff=1.1) == [0, 2, 3]
        assert peers.cheapest_path(cost, 1) == [0, 3]

    def test_the_whole_budget_gives_the_teachers_nodes(self):
        found = peers.gits(wiener, 60, LOW, HIGH, states=STATES)
        np.testing.assert_array_equal(found.sigmas, grid(karras_law(LOW, HIGH), 60, final=0.0))
        assert found.calls == 60 * len(STATES)

    def test_distance_from_the_chord(self):
        # The chord is the x axis from 3 to 1; the point (5, 4) lies 4 from its line.
        first, last = np.array([[3.0, 0.0]]), np.array([[1.0, 0.0]])
        assert peers._off_chord(np.array([[[5.0, 4.0]]]), first, last)[0, 0] == pytest.approx(4.0)

    @pytest.mark.parametrize("metric", ["dev", "l1", "l2"])
    def test_costs_by_hand(self, metric):
        nodes = np.array([4.0, 2.0, 0.0])
        points, outputs, calls = peers._trajectory(wiener, STATES, nodes, "ddim")
        assert calls == 2 * len(STATES)
        np.testing.assert_allclose(points[-1], sample(wiener, STATES, nodes), rtol=1e-14)
        cost = peers.gits_cost(points, outputs, nodes, metric)
        # An Euler teacher jumps to its own next node; only the jump over it costs anything.
        np.testing.assert_allclose(cost[[0, 1], [1, 2]], 0.0, atol=1e-12)
        landed = wiener(STATES, 4.0)
        if metric == "dev":
            chord = points[2] - STATES
            unit = chord / np.linalg.norm(chord, axis=1, keepdims=True)
            away = points[2] - landed
            expected = np.linalg.norm(away - (away * unit).sum(1, keepdims=True) * unit, axis=1).mean()
        else:
            expected = np.linalg.norm(landed - points[2], ord=int(metric[1]), axis=1).mean()
        assert cost[0, 2] == pytest.approx(expected, rel=1e-12)

    def test_the_published_grid_lies_on_the_teachers_nodes(self):
        # diff-sampler gits-main/README.md: the 6-step grid for CIFAR-10, to four decimals, of 61 nodes ending at sigma_min.
        nodes = grid(karras_law(LOW, HIGH), 60)
        for level in (80.0, 10.9836, 3.8811, 1.584, 0.5666, 0.1698, 0.002):
            assert np.abs(nodes - level).min() < 6e-5

    def test_the_grid_hardly_depends_on_the_noise(self):
        # The regularity of trajectories that the method is named for: two draws choose neighbouring nodes.
        mixture = small_mixture(6)
        chosen = []
        for seed in (0, 1):
            states = HIGH * np.random.default_rng(seed).standard_normal((128, 5))
            chosen.append(peers.gits(mixture, 5, LOW, HIGH, states=states, final=None).sigmas)
        positions = [np.searchsorted(-grid(karras_law(LOW, HIGH), 60), -c - 1e-12) for c in chosen]
        assert np.abs(positions[0] - positions[1]).max() <= 1

    def test_a_greater_coefficient_moves_the_grid_down(self):
        mixture, states = small_mixture(6), HIGH * np.random.default_rng(0).standard_normal((64, 5))
        grids = [peers.gits(mixture, 5, LOW, HIGH, states=states, coeff=c, final=None).sigmas for c in (0.8, 1.0, 1.15, 1.3)]
        assert all(np.all(b <= a * (1 + 1e-12)) for a, b in itertools.pairwise(grids))

    def test_refusals(self):
        with pytest.raises(ValueError, match="at most the 60 steps"):
            peers.gits(wiener, 61, LOW, HIGH, states=STATES)
        with pytest.raises(ValueError, match="dev, l1, l2"):
            peers.gits(wiener, 3, LOW, HIGH, states=STATES, metric="cosine")


class TestOptimalStepsize:
    def test_two_steps_are_what_brute_force_finds(self):
        state = STATES[:1]
        nodes = grid(karras_law(LOW, HIGH), 12, final=0.0)
        end = sample(wiener, state, nodes)
        errors = [((sample(wiener, state, nodes[[0, i, 12]]) - end) ** 2).sum() for i in range(1, 12)]
        found = peers.optimal_stepsize(wiener, 2, LOW, HIGH, states=state, teacher=12)
        np.testing.assert_array_equal(found.sigmas, nodes[[0, 1 + int(np.argmin(errors)), 12]])
        # The teacher's 12 calls, and one from each of the 11 nodes between.
        assert found.calls == 23

    def test_the_whole_budget_gives_the_teachers_nodes(self):
        found = peers.optimal_stepsize(wiener, 12, LOW, HIGH, states=STATES, teacher=12)
        np.testing.assert_array_equal(found.sigmas, grid(karras_law(LOW, HIGH), 12, final=0.0))

    def test_one_item_never_does_worse_than_the_karras_grid_of_the_same_nodes(self):
        # The path through the teacher's nodes 0, 5, .. 20 is among those searched over; the recursion is greedy, not exact,
        # but on these sources it finds better.
        mixture = small_mixture(6)
        state = HIGH * np.random.default_rng(2).standard_normal((1, 5))
        nodes = grid(karras_law(LOW, HIGH), 20, final=0.0)
        end = sample(mixture, state, nodes)
        found = peers.optimal_stepsize(mixture, 4, LOW, HIGH, states=state, teacher=20)
        error, usual = (((sample(mixture, state, s) - end) ** 2).sum() for s in (found.sigmas, nodes[::5]))
        assert error < usual

    def test_the_median_grid_descends_and_shapes_survive(self):
        def shaped(x, sigma):
            assert x.shape[1:] == (1, 3)
            return wiener(x, sigma)

        found = peers.optimal_stepsize(shaped, 4, LOW, HIGH, states=STATES.reshape(6, 1, 3), teacher=20)
        assert found.sigmas.size == 5
        assert np.all(np.diff(found.sigmas) < 0)


class TestDmn:
    def test_weights_integrate_the_exponential_times_polynomials(self):
        from scipy.integrate import quad

        nodes = np.array([-1.3, -0.4, 0.2])
        weights = peers.lagrange_weights(nodes, 0.2, 1.1)
        for power in range(3):
            exact = quad(lambda x, power=power: math.exp(x) * x**power, 0.2, 1.1)[0]
            assert weights @ nodes**power == pytest.approx(exact, rel=1e-12)
        assert peers.lagrange_weights(nodes[:1], 0.0, 1.0)[0] == pytest.approx(math.e - 1, rel=1e-14)

    def test_bound_of_two_steps_by_hand(self):
        # Both steps are of order 1: (e^0 - e^-1) s^2/alpha at s = e, and (e - e^0) the same at s = 1.
        def expected(s):
            return s * s / math.sqrt(1 + s * s)

        by_hand = (1 - math.exp(-1)) * expected(math.e) + (math.e - 1) * expected(1.0)
        assert peers.dmn_bound(np.array([-1.0, 0.0, 1.0])) == pytest.approx(by_hand, rel=1e-13)

    @pytest.mark.parametrize("n", [3, 4, 7])
    @pytest.mark.parametrize("weight", ["sigma^2/alpha", "sigma/alpha"])
    def test_its_grids_have_a_lower_bound_than_the_usual_ones_and_cost_no_call(self, n, weight):
        found = peers.dmn(n, LOW, HIGH, weight=weight)
        assert found.calls == 0
        assert found.sigmas.size == n + 1
        assert np.all(np.diff(found.sigmas) < 0)
        assert (found.sigmas[0], found.sigmas[-2], found.sigmas[-1]) == (HIGH, LOW, 0.0)
        own = peers.dmn_bound(-np.log(found.sigmas[:-1]), weight=weight)
        for law in (exponential_law(LOW, HIGH), karras_law(LOW, HIGH)):
            assert own <= peers.dmn_bound(-np.log(grid(law, n - 1)), weight=weight) * (1 + 1e-12)
        if (n, weight) == (3, "sigma/alpha"):
            # Two first-order steps cost e^h - 1 each there: equal steps in lambda are the optimum.
            np.testing.assert_allclose(found.sigmas[1], math.sqrt(LOW * HIGH), rtol=1e-6)

    @pytest.mark.parametrize("n", [4, 6])
    def test_the_start_does_not_matter(self, n):
        uniform, edm = (peers.dmn(n, LOW, HIGH, start=start).sigmas for start in ("uniform", "edm"))
        # trust-constr stops at 1e-8 in its own trust region; the bound is flat there.
        np.testing.assert_allclose(uniform, edm, rtol=1e-3)

    def test_more_steps_bound_less(self):
        bounds = [peers.dmn_bound(-np.log(peers.dmn(n, LOW, HIGH).sigmas[:-1])) for n in (3, 4, 6, 8)]
        assert np.all(np.diff(bounds) < 0)

    def test_one_and_two_steps_leave_nothing_free(self):
        np.testing.assert_allclose(peers.dmn(1, LOW, HIGH).sigmas, [HIGH, 0.0])
        np.testing.assert_allclose(peers.dmn(2, LOW, HIGH).sigmas, [HIGH, LOW, 0.0])

    def test_refusals(self):
        with pytest.raises(ValueError, match="sigma\\^2/alpha or sigma/alpha"):
            peers.dmn(4, LOW, HIGH, weight="alpha")
        with pytest.raises(ValueError, match="uniform or edm"):
            peers.dmn(4, LOW, HIGH, start="cosine")


class TestEntropic:
    def test_a_gaussian_denoiser_gives_the_closed_form(self):
        spectrum, levels = Spectrum.from_eigenvalues(LAM), np.geomspace(HIGH, LOW, 300)
        bound = cramer_rao_bound(spectrum, levels)
        curve = ErrorCurve(levels, bound, 0 * bound, bound, 1, 3.0)
        law = rescaled_entropic_law(LOW, HIGH, spectrum=spectrum)
        for n in (2, 5, 12):
            # The trapezoid rule on 4097 levels in ln sigma and cubics between 300 are good to 1e-5.
            np.testing.assert_allclose(peers.entropic_levels(curve, n, LOW, HIGH), grid(law, n - 1), rtol=2e-5)

    def test_measured_on_data_it_comes_near_the_closed_form(self):
        spectrum = Spectrum.from_eigenvalues(LAM)
        data = np.random.default_rng(1).standard_normal((3000, 3)) * np.sqrt(LAM)
        found = peers.rescaled_entropic(wiener, 6, LOW, HIGH, data=data, spectrum=spectrum, levels=40)
        assert found.calls == 40 * 3000
        law = rescaled_entropic_law(LOW, HIGH, spectrum=spectrum)
        # Errors of 3000 items are good to some 3 %.
        np.testing.assert_allclose(found.sigmas, grid(law, 6, final=0.0), rtol=0.1)

    def test_a_curve_that_is_too_short_is_refused(self):
        levels = np.array([10.0, 1.0])
        with pytest.raises(ValueError, match=r"must cover 0\.002 to 80"):
            peers.entropic_levels(ErrorCurve(levels, levels, levels, levels, 1, 1.0), 4, LOW, HIGH)


class TestKlub:
    def test_the_matrix_of_a_gaussian_is_its_integral(self):
        from scipy.integrate import quad

        # E|D_s - D_a|^2 = lambda (w_s - w_a) for N(0, lambda) along the forward path.
        lattice, lam = np.geomspace(10.0, 0.1, 201), 1.0
        rng = np.random.default_rng(0)
        x, outputs, level = rng.standard_normal((20_000, 1)), [], 0.0
        for sigma in lattice[::-1]:
            x = x + math.sqrt(sigma**2 - level**2) * rng.standard_normal(x.shape)
            outputs.append(x * lam / (lam + sigma**2))
            level = sigma
        found = peers.klub_matrix(np.stack(outputs[::-1]), lattice)
        for a, b in ((0, 100), (50, 200), (100, 101)):
            start = lattice[a]
            exact = quad(lambda s, start=start: (lam / (lam + s**2) - lam / (lam + start**2)) / s**3, lattice[b], start)[0]
            # Monte Carlo over 20,000 paths: 1 %; the trapezoid rule on a single interval of the lattice is exact to 2 %.
            assert found[a, b] == pytest.approx(exact, rel=0.05)
        assert np.isinf(found[3, 3])

    def test_local_search_comes_near_the_best_path_of_its_lattice(self):
        mixture = small_mixture(6)
        data = mixture.draw(64, 0)
        found = peers.klub_search(mixture, 5, 0.05, 20.0, data=data, levels=41)
        assert found.calls == 64 * 41
        assert (found.sigmas[0], found.sigmas[-1]) == (pytest.approx(20.0), 0.0)
        lattice = np.geomspace(20.0, 0.05, 41)
        chosen = [int(np.argmin(np.abs(lattice - s))) for s in found.sigmas[:-1]]
        rng = np.random.default_rng(9)
        x, outputs, level = mixture.draw(2000, 1), [], 0.0
        for sigma in lattice[::-1]:
            x = x + math.sqrt(sigma**2 - level**2) * rng.standard_normal(x.shape)
            outputs.append(mixture(x, float(sigma)))
            level = sigma
        bounds = peers.klub_matrix(np.stack(outputs[::-1]), lattice)

        def value(path):
            return sum(bounds[a, b] for a, b in itertools.pairwise(path))

        best = value(peers.cheapest_path(bounds, 4))
        uniform = value(np.round(np.linspace(0, 40, 5)).astype(int))
        assert best <= value(chosen) < best + 0.3 * (uniform - best)

    def test_refusals(self):
        with pytest.raises(ValueError, match="at most the 81 steps"):
            peers.klub_search(wiener, 82, LOW, HIGH, data=STATES)
        with pytest.raises(ValueError, match="at least 2 items"):
            peers.klub_search(wiener, 4, LOW, HIGH, data=STATES[:1])


class TestOracle:
    @pytest.mark.parametrize("solver", ["ddim", "heun", "dpmpp_2m", "dpmpp_3m", "ipndm4", "deis3", "unipc3"])
    def test_its_run_is_the_librarys(self, solver):
        torch = pytest.importorskip("torch")
        mixture, sigmas = small_mixture(6), grid(karras_law(0.02, HIGH), 5, final=0.0)
        states = HIGH * RNG.standard_normal((3, 5))
        level = peers._level_class()
        levels = [float(HIGH), *(level(torch.tensor(s)) for s in sigmas[1:-1]), 0.0]
        found = peers.run(mixture, torch.tensor(states), levels, solver_named(solver))
        np.testing.assert_allclose(found.numpy(), sample(mixture, states, sigmas, solver=solver), rtol=1e-10, atol=1e-12)

    @pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
    def test_never_worse_than_its_starts(self, solver):
        pytest.importorskip("torch")
        mixture = small_mixture(6)
        states = HIGH * RNG.standard_normal((16, 5))
        end = sample(mixture, states, grid(karras_law(LOW, HIGH), 100, final=0.0), solver="dpmpp_2m")
        starts = [grid(law, 4, final=0.0) for law in (karras_law(LOW, HIGH), exponential_law(0.1, HIGH))]
        found = peers.learned(mixture, starts, states=states, endpoint=end, solver=solver, rounds=40)

        def error(sigmas):
            return float(((sample(mixture, states, sigmas, solver=solver) - end) ** 2).mean())

        assert error(found.sigmas) < 0.9 * min(map(error, starts))
        assert found.calls == 2 * 40 * 4 * 16
        unmoved = peers.learned(mixture, [found.sigmas], states=states, endpoint=end, solver=solver, rounds=1)
        np.testing.assert_allclose(unmoved.sigmas, found.sigmas, rtol=1e-10)

    def test_a_rate_that_overshoots_leaves_the_start(self):
        pytest.importorskip("torch")
        start = np.array([HIGH, math.tan(math.atan(HIGH) / 2), 0.0])
        states = np.array([[HIGH]])
        end = states / math.sqrt(1 + HIGH**2)
        found = peers.learned(lambda x, s: x / (1 + s**2), [start], states=states, endpoint=end, rounds=3, rate=2.0)
        np.testing.assert_allclose(found.sigmas, start, rtol=1e-12)

    def test_it_finds_the_best_middle_level_of_a_gaussian(self):
        pytest.importorskip("torch")
        # One direction of variance 1, two steps from 80 to 0: equal angles, sigma = tan(atan(80)/2), theory section 4.
        def one(x, sigma):
            return x / (1 + sigma**2)

        states = np.array([[HIGH]])
        end = states / math.sqrt(1 + HIGH**2)
        found = peers.learned(one, [np.array([HIGH, 3.0, 0.0])], states=states, endpoint=end, rounds=400, rate=0.03)
        assert found.sigmas[1] == pytest.approx(math.tan(math.atan(HIGH) / 2), rel=1e-3)

    def test_refusals(self):
        pytest.importorskip("torch")
        with pytest.raises(ValueError, match="descend to 0"):
            peers.learned(wiener, [np.array([80.0, 1.0, 0.1])], states=STATES, endpoint=STATES)
        with pytest.raises(ValueError, match="at least one grid"):
            peers.learned(wiener, [], states=STATES, endpoint=STATES)
