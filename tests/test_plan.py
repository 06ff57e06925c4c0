"""Plans for models: against exact non-Gaussian denoisers, fresh noise, and networks that are bad in known ways."""

import math
from dataclasses import replace

import numpy as np
import pytest

from eigenstep import SOLVERS, Spectrum, catalogue_grids, divergence, grid, karras_law, sample
from eigenstep.models import (
    Candidate,
    ModelDenoiser,
    Plan,
    WarmStart,
    effective_spectrum,
    error_curve,
    item_noise,
    plan,
    profile,
)
from eigenstep.models.plan import _advantage, _Contest, _decide
from eigenstep.paths import EDM, VPDiscrete

RNG = np.random.default_rng(11)
DIM, PARTS = 12, 6
CENTRES = RNG.standard_normal((PARTS, DIM)) * np.geomspace(1.0, 0.05, DIM)
WIDTHS = np.geomspace(0.5, 0.01, DIM) ** 2


def draw(count, seed):
    rng = np.random.default_rng(seed)
    return CENTRES[rng.integers(PARTS, size=count)] + rng.standard_normal((count, DIM)) * np.sqrt(WIDTHS)


def exact(x, sigma):
    """E[x_0 | x~] of a mixture of Gaussians with one diagonal covariance."""
    spread = WIDTHS + sigma**2
    away = x[:, None] - CENTRES
    logits = -0.5 * (away**2 / spread).sum(axis=2)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    means = CENTRES + WIDTHS / spread * away
    return (weights[:, :, None] * means).sum(axis=1)


DATA = draw(4000, 1)
HELD_OUT = draw(300, 2)
SPECTRUM = Spectrum.from_samples(DATA, basis=DIM)
EXACT = ModelDenoiser(exact, EDM(), "x0", item_shape=(DIM,))
FIXED = np.random.default_rng(3).standard_normal(DIM)
POOR = ModelDenoiser(lambda x, sigma: exact(x, sigma) + 0.03 * sigma * FIXED, EDM(), "x0", item_shape=(DIM,))


@pytest.fixture(scope="module", params=["exact", "poor"])
def measured(request):
    return profile({"exact": EXACT, "poor": POOR}[request.param], SPECTRUM, data=HELD_OUT, judges=32)


FRESH = item_noise(range(200), (DIM,), seed=99)
"""Noise that no plan has seen."""


@pytest.fixture(scope="module")
def fresh_end(measured):
    """Where it ends, by another solver than the plan's own reference: Heun, 150 steps."""
    return sample(measured.denoiser, 80.0 * FRESH, np.append(np.geomspace(80.0, 0.002, 150), 0.0), solver="heun")


def fresh_error(measured, fresh_end, sigmas, warm, solver):
    start = sigmas[0] * FRESH if warm is None else warm(FRESH)
    return np.mean((sample(measured.denoiser, start, sigmas, solver=solver) - fresh_end) ** 2, axis=1)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "unipc3", "ipndm4"])
@pytest.mark.parametrize("n", [4, 8])
def test_never_worse_than_the_best_hand_grid_on_fresh_noise(measured, fresh_end, solver, n):
    made = plan(measured, None, n, solver=solver)
    own = fresh_error(measured, fresh_end, made.sigmas, made.warm, solver)
    hands = catalogue_grids(n, 0.002, 80.0, spectrum=SPECTRUM, path=EDM())
    best = min((fresh_error(measured, fresh_end, sigmas, None, solver) for sigmas in hands.values()), key=np.mean)
    gain = best - own
    # Not worse beyond two standard errors of the paired difference.
    assert gain.mean() >= -2 * gain.std() / math.sqrt(gain.size)
    # What the plan says of itself holds for the typical fresh noise; the mean is of the few that end at another centre.
    assert 0.4 * made.predicted < math.sqrt(np.median(own)) < 1.3 * made.predicted


def test_first_order_plans_are_far_better_than_hand_grids(measured, fresh_end):
    made = plan(measured, None, 5)
    assert made.warm is not None
    assert made.advantage[1] > 1.5  # the lower end of the interval of the squared errors' ratio
    own = fresh_error(measured, fresh_end, made.sigmas, made.warm, "ddim")
    hand = fresh_error(measured, fresh_end, made.hand.sigmas, None, "ddim")
    assert own.mean() < 0.6 * hand.mean()


def test_a_network_that_is_poor_at_high_levels_is_started_lower():
    poor = profile(POOR, SPECTRUM, data=HELD_OUT, judges=0, target="data")
    curve = poor.curve
    # 0.03 sigma per number adds (0.03 sigma)^2 |fixed|^2 to the exact error, which exceeds the bound from some level on.
    assert curve.ratio[0] > 1.5
    assert poor.start_level < 20
    made = plan(poor, None, 5)
    assert made.sigmas[0] == poor.start_level
    assert made.warm.sigma_start == poor.start_level
    # Near the data: the distance of the mean, which the network's own endpoint misses.
    noise = item_noise(range(400), (DIM,), seed=5)
    planned = sample(POOR, made.warm(noise), made.sigmas).mean(axis=0)
    own = sample(POOR, 80.0 * noise, np.append(np.geomspace(80.0, 0.002, 100), 0.0), solver="heun").mean(axis=0)
    assert np.linalg.norm(planned - DATA.mean(axis=0)) < 0.5 * np.linalg.norm(own - DATA.mean(axis=0))


def test_a_path_that_stops_short_of_noise_is_repaired():
    """sigma_max = 1.5 and lambda_1 about 2.7: pure noise lacks half the variance; the repaired start has it."""
    levels = 1 / (1 + np.geomspace(0.01, 1.5, 200) ** 2)
    model = ModelDenoiser(exact, EDM(0.01, 1.5), "x0", item_shape=(DIM,))
    assert profile(model, SPECTRUM, data=HELD_OUT, judges=0).origin == 1.5  # the model's own endpoint is of its own start
    measured = profile(model, SPECTRUM, data=HELD_OUT, judges=8, target="data")
    assert math.isinf(measured.origin)
    made = plan(measured, None, 4)
    noise = item_noise(range(4000), (DIM,), seed=8)
    start = made.warm(noise)
    assert made.sigmas[0] <= 1.5
    wanted = SPECTRUM.eigenvalues + made.sigmas[0] ** 2
    along = (start - SPECTRUM.mean) @ SPECTRUM.basis.T
    np.testing.assert_allclose(along.var(axis=0), wanted, rtol=0.12)  # 5 standard errors of 4000 samples: 0.112
    discrete = VPDiscrete.from_alphas_cumprod(levels)
    assert discrete.sigma_max == pytest.approx(1.5)


def test_without_a_judge_the_theory_decides():
    made = plan(EXACT, SPECTRUM, 5, data=HELD_OUT, judges=0)
    assert made.calls == 4 * 14
    assert made.chosen.measured is None
    assert made.predicted == min(candidate.predicted for candidate in made.candidates)
    assert "No run of the network judged" in made.reason


@pytest.mark.parametrize(("solver", "n", "tried"), [("dpmpp_2m", 9, True), ("dpmpp_2m", 8, False), ("ddim", 9, False)])
def test_many_steps_of_a_multistep_solver_may_end_well_above_the_lowest_level(measured, solver, n, tried):
    made = plan(measured, None, n, solver=solver, fit=False)
    raised = [each for each in made.candidates if each.name.startswith("raised")]
    assert bool(raised) == tried
    if tried:
        lowest = [each.sigmas[-2] for each in raised]
        assert min(lowest) == pytest.approx(0.05 * math.sqrt(SPECTRUM.trace / DIM))  # published tables end higher yet
        assert len(raised) <= 8
        assert all(each.planned for each in raised)
        assert len({each.sigmas[0] for each in raised}) == 1


def test_a_model_whose_lowest_level_is_high_has_no_level_to_raise():
    few = ModelDenoiser(exact, EDM(0.06 * math.sqrt(SPECTRUM.trace / DIM), 80.0), "x0", item_shape=(DIM,))
    made = plan(profile(few, SPECTRUM, data=HELD_OUT, judges=16), None, 9, solver="dpmpp_2m", fit=False)
    assert not any(each.name.startswith("raised") for each in made.candidates)


def test_a_stochastic_solver_is_planned_by_theory(measured):
    cost = measured.parting_calls
    made = plan(measured, None, 4, solver="euler_ancestral")
    assert made.calls == cost <= 4 * 14
    assert made.chosen.predicted <= made.hand.predicted


def test_without_data_there_is_no_gauge_and_without_basis_no_warm_start():
    bare = Spectrum.from_eigenvalues(SPECTRUM.eigenvalues)
    made = plan(EXACT, bare, 4, judges=8)
    assert made.warm is None
    assert made.sigmas[0] == 80.0


def test_plans_are_reproducible_and_say_what_they_cost(measured):
    counted = []
    one = plan(measured, None, 4, progress=counted.append)
    other = plan(measured, None, 4)
    np.testing.assert_array_equal(one.sigmas, other.sigmas)
    assert one.calls == sum(counted) > 0
    assert one.candidates[0].noises == len(measured.noise)
    assert one.nfe == one.n == 4


def test_json_and_back(measured):
    made = plan(measured, None, 4)
    again = Plan.from_json(made.to_json(), spectrum=SPECTRUM)
    np.testing.assert_array_equal(again.sigmas, made.sigmas)
    assert (again.solver, again.reason, again.chosen.name, again.advantage) == (
        made.solver, made.reason, made.chosen.name, made.advantage
    )  # fmt: skip
    noise = item_noise(range(3), (DIM,))
    np.testing.assert_array_equal(again.warm(noise), made.warm(noise))
    with pytest.raises(ValueError, match="`spectrum` must be given for a plan with a warm start"):
        Plan.from_json(made.to_json())
    with pytest.raises(ValueError, match=r"`text` must be what `Plan\.to_json` wrote"):
        Plan.from_json("{}")
    with pytest.raises(ValueError, match="`text` is not JSON"):
        Plan.from_json("sigmas")


@pytest.mark.parametrize("level", [80.0, 7.0, 0.5])
@pytest.mark.parametrize("origin", [80.0, math.inf])
def test_warm_starts_are_the_same_in_numpy_and_torch(level, origin):
    torch = pytest.importorskip("torch")
    start = WarmStart(SPECTRUM, level, origin)
    noise = item_noise(range(5), (DIM,))
    expected = start(noise)
    got = start(torch.tensor(noise))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-12, atol=1e-12 * level)
    single = start(torch.tensor(noise, dtype=torch.float32))
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), expected, rtol=1e-5, atol=1e-5 * level)  # float32


def test_warm_starts_in_the_fourier_basis_take_tensors():
    torch = pytest.importorskip("torch")
    from eigenstep import new_moments

    images = np.random.default_rng(4).standard_normal((200, 1, 8, 8)).cumsum(axis=2)
    moments = new_moments("stationary", (1, 8, 8))
    moments.update(images)
    start = WarmStart(moments.spectrum(basis=1), 1.0)
    noise = item_noise(range(3), (1, 8, 8))
    np.testing.assert_allclose(start(torch.tensor(noise)).numpy(), start(noise), rtol=1e-12)


def test_data_of_another_range_are_named():
    scaled = Spectrum.from_samples(DATA * 127.5 + 127.5, basis=DIM)
    with pytest.raises(ValueError, match=r"`data` do not seem to be what `denoiser` was trained on: .*value range"):
        profile(EXACT, scaled, data=HELD_OUT * 127.5 + 127.5, judges=0)


def test_effective_spectrum_has_the_networks_curve():
    curve = error_curve(EXACT, HELD_OUT, spectrum=SPECTRUM, sigma_min=0.002, sigma_max=80.0)
    found = effective_spectrum(curve, SPECTRUM)
    from eigenstep import cramer_rao_bound

    target = np.minimum(curve.error, curve.bound)
    # A Stieltjes transform is smooth in sigma; a mixture's error falls faster than any: 20 % where it does.
    np.testing.assert_allclose(cramer_rao_bound(found, curve.sigmas), target, rtol=0.2)
    assert found.dim == pytest.approx(DIM, rel=0.05)
    assert found.eigenvalues[0] <= SPECTRUM.eigenvalues[0] * (1 + 1e-9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "both"}, "`target`"),
        ({"judges": -1}, "`judges` must be at least 0"),
        ({"target": "data", "data": None}, "`target`='data' needs `data`"),
    ],
)
def test_refusals(change, message):
    with pytest.raises(ValueError, match=message):
        profile(EXACT, SPECTRUM, **{"data": HELD_OUT, "judges": 0, **change})


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="`model` takes items of shape"):
        profile(EXACT, Spectrum.from_eigenvalues([1.0, 2.0]), judges=0)
    with pytest.raises(ValueError, match="`data_or_spectrum` must be a Spectrum or at least two items"):
        plan(EXACT, DATA[0], 3)
    with pytest.raises(ValueError, match="`sigma_start` must lie above 0"):
        WarmStart(SPECTRUM, 90.0, 80.0)
    with pytest.raises(ValueError, match="`spectrum` must keep its mean and leading eigenvectors"):
        WarmStart(Spectrum.from_eigenvalues([1.0, 2.0]), 1.0)


def test_where_the_network_sees_more_its_effective_spectrum_is_tried_too(measured):
    assert measured.curve.ratio.min() < 0.8
    names = {candidate.name for candidate in plan(measured, None, 4).candidates}
    assert {"planned: w2", "planned: local, effective spectrum"} & names
    assert any(name.endswith("effective spectrum") for name in names)


def test_a_network_as_good_as_the_filter_everywhere_still_gets_a_warm_start_to_try():
    widths = np.sqrt(SPECTRUM.eigenvalues)
    x = np.random.default_rng(6).standard_normal((4000, DIM)) * widths
    spectrum = Spectrum.from_samples(x, basis=DIM)
    slightly_better = ModelDenoiser(
        lambda x, sigma: x * widths**2 / (widths**2 + sigma**2), EDM(), "x0", item_shape=(DIM,)
    )
    found = profile(slightly_better, spectrum, data=x[:300], judges=4)
    below = replace(found.curve, error=0.9 * found.curve.bound)  # as a network might that knows what it is to make
    found = replace(found, curve=below)
    assert math.isinf(found.curve.start_level())
    assert any(candidate.warm for candidate in plan(found, None, 4).candidates)


def test_an_advantage_inside_the_uncertainty_is_not_taken():
    measured = profile(EXACT, SPECTRUM, judges=0)
    planned = Candidate("planned: w2", True, np.array([20.0, 1.0, 0.0]), True, 0.1, 0.1, (0.05, 0.15), 8)
    usual = Candidate("karras", False, np.array([80.0, 1.0, 0.0]), False, 0.1, 0.11, (0.06, 0.16), 8)
    noisy = np.array([1.0, 3.0, 0.5, 2.0, 1.5, 0.2, 4.0, 0.8])
    swing = np.array([0.9, -0.8, 0.9, -0.8, 0.9, -0.8, 0.9, -0.8])
    chosen, hand, advantage, reason = _decide(measured, [planned, usual], {0: noisy, 1: noisy + swing})
    assert chosen is usual
    assert hand is usual
    assert advantage == (1.0, 1.0, 1.0)
    assert "inside the uncertainty" in reason
    # Paired: the same mean gain, the same for every noise, is certain however much the noises differ.
    chosen, hand, advantage, _ = _decide(measured, [planned, usual], {0: noisy, 1: noisy + 0.05})
    assert chosen is planned
    assert hand is usual
    assert advantage == pytest.approx((1 + 0.05 / noisy.mean(),) * 3, rel=1e-12)


def test_a_few_noises_do_not_hide_an_advantage_that_nearly_all_have():
    own = np.array([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 90.0])
    other = np.array([2.0, 2.2, 1.8, 2.0, 2.1, 1.9, 2.0, 86.0])
    estimate, low, high = _advantage(own, other)  # the mean gains 3/97, inside the spread that the last noise makes
    ratios = np.log(other / own)
    assert estimate == pytest.approx(np.exp(ratios.mean()), rel=1e-12)
    assert (low, high) == pytest.approx(np.exp(ratios.mean() + np.array([-1, 1]) * 1.96 * ratios.std(ddof=1) / np.sqrt(8)))
    assert low > 1
    # Where the mean is against it, most noises do not count.
    estimate, low, high = _advantage(own, np.append(other[:-1], 80.0))
    assert estimate == pytest.approx((other[:-1].sum() + 80) / own.sum())
    assert low < 1 < high
    assert _advantage(np.zeros(3), np.ones(3)) == (math.inf, 0.0, math.inf)


def test_more_judges_are_those_that_a_longer_profile_has(measured):
    few = profile(measured.denoiser, SPECTRUM, data=HELD_OUT, judges=20)
    more = few.judged_by(32)
    np.testing.assert_array_equal(more.noise, measured.noise)
    np.testing.assert_allclose(more.endpoint, measured.endpoint, rtol=1e-12, atol=1e-12)
    assert more.calls == measured.calls
    assert few.judged_by(20) is few
    with pytest.raises(ValueError, match="`judges` must be at least 20"):
        few.judged_by(19)


def test_the_judges_are_doubled_before_a_usual_grid_is_kept():
    """Of four noises none decides: the finalists see 8 or 16, all other candidates 4 at most."""
    found = profile(EXACT, SPECTRUM, data=HELD_OUT, judges=4)
    seen = [plan(found, None, n, solver=solver) for n in (6, 8, 10, 12) for solver in ("dpmpp_2m", "ipndm4", "unipc3")]
    most = [max(candidate.noises for candidate in made.candidates) for made in seen]
    assert set(most) <= {4, 8, 16}
    assert max(most) > 4
    for made, count in zip(seen, most, strict=True):
        assert sum(candidate.noises == count for candidate in made.candidates) > 1 or count == 4
        if made.chosen is made.hand and made.candidates[0] is not made.hand:
            assert count == 16


def test_doubled_judges_cost_once():
    found, spent = profile(EXACT, SPECTRUM, data=HELD_OUT, judges=4), []
    made = plan(found, None, 10, solver="ipndm4", progress=spent.append)
    most = max(candidate.noises for candidate in made.candidates)
    assert most > 4
    assert found.doubling_calls == 0
    again = plan(found, None, 10, solver="ipndm4")
    assert [each.measured for each in again.candidates] == [each.measured for each in made.candidates]
    # 60 for each judge beyond the first four, and for each of the 24 noises that levels are fitted to.
    assert made.calls - again.calls == 60 * (most - 4) + 60 * 24
    assert sum(spent) == made.calls


def test_fitted_levels_are_nearer_the_endpoints_of_noises_that_no_plan_has_seen(measured):
    """Multistep grids in eight steps: by the mean distance over 200 fresh noises, four solvers together."""
    fine = grid(karras_law(measured.sigma_min, measured.start_level, rho=7.0), 300, final=0.0)
    goal = measured.run(FRESH, fine, "dpmpp_2m")
    ratios = []
    for solver in ("dpmpp_2m", "ipndm4", "unipc3", "deis3"):
        distance = []
        for fit in (True, False):
            made = plan(measured, None, 8, solver=solver, fit=fit)
            assert fit or not any(each.name.endswith("fitted") for each in made.candidates)
            out = measured.run(FRESH, made.sigmas, solver, warm=made.warm is not None)
            distance.append(np.sqrt(np.mean((out - goal) ** 2, axis=1)).mean())
        ratios.append(distance[0] / distance[1])
    assert np.exp(np.mean(np.log(ratios))) < 0.9
    assert max(ratios) < 1.1


def test_the_noises_that_levels_are_fitted_to_are_no_judges_and_cost_once():
    found = profile(EXACT, SPECTRUM, data=HELD_OUT, judges=8)
    assert found.fitting_calls == 24 * 60
    first = plan(found, None, 4)
    assert found.fitting_calls == 0
    second = plan(found, None, 4)
    np.testing.assert_array_equal(first.sigmas, second.sigmas)
    assert first.calls - second.calls == 24 * 60
    noise, endpoint = found.fitting
    everyone = np.concatenate([found.judged_by(192).noise, noise]).reshape(-1, DIM)
    assert len(np.unique(everyone, axis=0)) == 192 + 24
    again = found.run(noise[:3], found._reference(60), "dpmpp_2m")
    np.testing.assert_allclose(endpoint[:3], again, rtol=1e-12, atol=1e-12)


def test_levels_go_the_whole_way_only_where_that_is_certainly_better_than_half(measured):
    """Over six cells both happen; half of the way is the geometric mean of both ends."""
    seen = set()
    for n, solver in ((4, "ddim"), (6, "dpmpp_2m"), (8, "unipc3"), (8, "ipndm4"), (10, "ipndm4"), (6, "deis3")):
        contest = _Contest(measured, n, SOLVERS[solver], None)
        contest.add_usual(measured.start_level)
        contest.add_planned(10.0, contest.objectives)
        contest.race(range(len(contest.candidates)), (14, 5))
        winner, known = contest.candidates[contest.ranked()[0]], len(contest.candidates)
        contest.fit()
        added = contest.candidates[known:]
        names = [each.name.removeprefix(f"{winner.name}, ") for each in added]
        assert names in ([], ["half fitted"], ["half fitted", "fitted"])
        seen.update(names)
        assert {contest.squares[known + k].size for k in range(len(added))} <= {32}
        if len(added) == 2:
            np.testing.assert_allclose(added[0].sigmas, np.sqrt(winner.sigmas * added[1].sigmas), rtol=1e-12)
            gained = contest.squares[known] - contest.squares[known + 1]
            assert gained.mean() > 1.96 * gained.std(ddof=1) / np.sqrt(32)
    assert seen == {"half fitted", "fitted"}


def test_nothing_is_fitted_where_nothing_judges():
    trusting = profile(EXACT, SPECTRUM, data=HELD_OUT, judges=0)
    assert plan(trusting, None, 8, solver="unipc3").calls == 4 * 14
    assert trusting.fitting_calls == 24 * 60


def test_without_a_judge_starts_go_down_to_where_the_runs_were_compared():
    trusting = profile(EXACT, SPECTRUM, data=HELD_OUT, judges=0)
    judged = profile(EXACT, SPECTRUM, data=HELD_OUT, judges=8)
    lowest = [min(float(each.sigmas[0]) for each in plan(each, None, 4).candidates) for each in (trusting, judged)]
    assert lowest[0] == pytest.approx(np.sqrt(SPECTRUM.trace / SPECTRUM.dim), rel=1e-12)
    # The means of a judge's finalists lie between their levels.
    assert lowest[1] < 0.6 * judged.curve.start_level()


def test_parting_is_the_difference_of_the_means_that_two_gaussians_flow_to():
    """A network that is the Wiener filter of another mean: x~ - mean shrinks by sqrt((lambda + s^2)/(lambda + s_max^2))."""
    shift, lam, basis = 0.7, SPECTRUM.eigenvalues, SPECTRUM.basis.reshape(DIM, DIM)
    other = SPECTRUM.mean.reshape(-1) + shift * basis[0]

    def wiener(x, sigma):
        return other + ((x - other) @ basis.T * (lam / (lam + sigma**2))) @ basis

    model = ModelDenoiser(wiener, EDM(), "x0", item_shape=(DIM,))
    measured = profile(model, SPECTRUM, judges=0)
    levels, apart = measured.parting
    gain = np.sqrt((lam[0] + levels**2) / (lam[0] + 80.0**2))
    expected = shift * (1 - gain) * np.sqrt(lam[0] / (lam[0] + levels**2)) / np.sqrt(DIM)
    # Fourteen steps of a second-order solver; below 1 % of the largest their own error shows.
    np.testing.assert_allclose(apart, expected, rtol=0.05, atol=0.02 * expected.max())
    assert measured.parting_calls == 0
    assert plan(measured, None, 4).calls == 0  # it is known already


@pytest.fixture(scope="module")
def quick():
    return profile(POOR, SPECTRUM, data=HELD_OUT[:8], levels=12, judges="quick")


def test_quick_judges_are_the_runs_that_are_compared_with_the_gaussian_carried_on(quick):
    trusting = profile(POOR, SPECTRUM, data=HELD_OUT[:8], levels=12, judges=0)
    assert (quick.calls, quick.parting_calls) == (8 * 12 + 4 * 22, 0)
    for own, other in zip(quick.parting, trusting.parting, strict=True):
        np.testing.assert_allclose(own, other, rtol=1e-12)
    assert math.isnan(quick.endpoint_error)
    converged = quick.run(quick.noise, quick._reference(300), "dpmpp_2m")
    off = np.sqrt(np.mean((quick.endpoint - converged) ** 2))
    usual = catalogue_grids(6, quick.sigma_min, 80.0, final=0.0, spectrum=SPECTRUM)["karras"]
    hand = quick.run(quick.noise, usual, "dpmpp_2m")
    assert off < 0.1 * np.sqrt(np.mean((hand - converged) ** 2))  # a tenth of what they are to judge between


def test_a_quick_plan_runs_the_most_promising_grids_from_four_noises(quick):
    made = plan(quick, None, 5, solver="dpmpp_2m")
    assert len(made.candidates) in (20, 21)
    assert {each.noises for each in made.candidates} == {4}
    assert made.calls == 4 * 5 * len(made.candidates)
    assert made.chosen is made.candidates[0]
    assert any(each is made.hand for each in made.candidates)
    assert "from the end of longer runs over 4 noises; the most promising usual grid" in made.reason
    trusting = replace(quick, quick=False, noise=quick.noise[:0], endpoint=quick.endpoint[:0])
    unseen = plan(trusting, None, 5, solver="dpmpp_2m")
    predicted = sorted(each.predicted for each in unseen.candidates)
    assert sorted(each.predicted for each in made.candidates)[:20] == pytest.approx(predicted[:20], rel=1e-12)


def test_a_quick_plan_is_taken_as_it_is_and_says_whether_that_is_certain(quick):
    made, hand = (Candidate(name, name != "hand", np.array([80.0, 1.0, 0.0]), False, 1.0) for name in ("made", "hand"))
    ranked = [replace(made, measured=1.0, noises=4), replace(hand, measured=1.1, noises=4)]
    # The first would be certain of many noises, at 1.96 standard errors; of four it takes 3.18.
    for other, end in (([1.2, 1.05, 1.3, 1.1], "4 runs do not make that certain."), ([1.2, 1.21, 1.2, 1.21], "surely so.")):
        chosen, beside, _, reason = _decide(quick, ranked, {0: np.ones(4), 1: np.array(other)})
        assert (chosen.name, beside.name) == ("made", "hand")
        assert reason.endswith(end)


def test_quick_plans_of_a_poor_network_end_nearer_than_those_of_theory_alone(quick):
    """What the network makes of its errors at high noise is more than a curve of twelve levels foresees."""
    trusting = replace(quick, quick=False, noise=quick.noise[:0], endpoint=quick.endpoint[:0])
    fine = grid(karras_law(quick.sigma_min, quick.start_level, rho=7.0), 300, final=0.0)
    goal = quick.run(FRESH, fine, "dpmpp_2m")
    ratios = []
    for n, solver in ((4, "ddim"), (6, "ddim"), (4, "dpmpp_2m"), (6, "dpmpp_2m"), (6, "unipc3")):
        distance = []
        for known in (quick, trusting):
            made = plan(known, None, n, solver=solver)
            out = known.run(FRESH, made.sigmas, solver, warm=made.warm is not None)
            distance.append(np.sqrt(np.mean((out - goal) ** 2)))
        ratios.append(distance[0] / distance[1])
    assert np.exp(np.mean(np.log(ratios))) < 0.95


def test_a_stochastic_solver_is_not_judged_by_quick_runs_either(quick):
    made = plan(quick, None, 4, solver="dpmpp_2m_sde")
    assert made.calls == 0
    assert made.chosen.measured is None


def test_quick_judges_need_no_eigenvectors_and_no_room_below_the_deviation():
    bare = profile(EXACT, Spectrum.from_eigenvalues(SPECTRUM.eigenvalues), judges="quick")
    assert plan(bare, None, 4).warm is None
    assert "parting" not in vars(bare)
    high = ModelDenoiser(exact, EDM(sigma_min=2.0), "x0", item_shape=(DIM,))
    short = profile(high, SPECTRUM, judges="quick")
    assert short.calls == 4 * 15  # from 2, above the data's deviation, in one step to 0
    assert plan(short, None, 4).sigmas[-2] >= 2.0


def test_judges_take_the_place_of_quick_ones(quick):
    many = quick.judged_by(6)
    assert not many.quick
    np.testing.assert_array_equal(many.noise, item_noise(range(6), (DIM,)))
    assert many.calls == quick.calls + 6 * 60


def test_doubling_quick_judges_costs_what_it_says(quick):
    before = quick.calls
    told = quick.doubling_calls
    assert quick.doubled.calls - before == told == 8 * 60
    assert quick.doubling_calls == 0


def test_plan_measures_a_small_gauge_for_quick_judges():
    seen = []
    made = plan(EXACT, DATA, 4, judges="quick", basis=DIM, progress=seen.append)
    assert sum(seen) == 8 * 12 + 4 * 22 + made.calls
    with pytest.raises(ValueError, match=r"`judges` must be a number of noises, or .quick., got 'fast'"):
        plan(EXACT, DATA, 4, judges="fast")


def test_a_model_that_parts_early_from_the_gaussian_begins_higher():
    """The theory's start levels follow what was measured, and not how many steps there are."""
    near, far = (profile(EXACT, SPECTRUM, data=HELD_OUT, judges=0) for _ in range(2))
    levels, apart = near.parting
    vars(far)["parting"] = (levels, 30 * apart)
    for solver in ("ddim", "dpmpp_2m"):
        assert plan(far, None, 6, solver=solver).start_level > 1.5 * plan(near, None, 6, solver=solver).start_level


def test_what_a_host_does_by_default_is_among_the_usual_grids():
    """diffusers' "leading" timesteps begin below sigma_max, from plain noise, and are run so."""
    path = VPDiscrete.ddpm()

    def network(x, t):
        return exact(x / float(path.alpha(t)), float(path.t_to_sigma(t)))

    model = ModelDenoiser(network, path, "x0", item_shape=(DIM,))
    found = profile(model, SPECTRUM, data=HELD_OUT, judges=24)
    made = plan(found, None, 6)
    leading = next(each for each in made.candidates if each.name == "leading")
    assert not leading.warm
    assert leading.sigmas[0] < 0.5 * found.sigma_max
    out = sample(model, leading.sigmas[0] * found.noise[: leading.noises], leading.sigmas)
    assert leading.measured == pytest.approx(np.sqrt(np.mean((out - found.endpoint[: leading.noises]) ** 2)), rel=1e-9)
    assert made.hand.measured <= leading.measured * (1 + 1e-12) or leading.noises < made.hand.noises
    alone = replace(made, chosen=leading, sigmas=leading.sigmas, warm=None)
    again = Plan.from_json(alone.to_json(), spectrum=SPECTRUM)
    assert again.warm is None
    assert again.start_level == leading.sigmas[0]


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_means_with_a_hosts_default_begin_with_plain_noise_where_there_are_no_eigenvectors(solver):
    """Its levels begin below sigma_max; a mean of them and another grid has no warm start to begin from."""
    path = VPDiscrete.ddpm()
    inverse = lambda x, t: exact(x / float(path.alpha(t)), float(path.t_to_sigma(t)))  # noqa: E731
    model = ModelDenoiser(inverse, path, "x0", item_shape=(DIM,))
    measured = profile(model, Spectrum.from_eigenvalues(SPECTRUM.eigenvalues), judges=8)
    contest = _Contest(measured, 6, SOLVERS[solver], None)
    contest.add_usual(measured.start_level)
    contest.add_planned(measured.start_level, contest.objectives)
    contest.race(range(len(contest.candidates)), (14, 5))
    leading = next(k for k, each in enumerate(contest.candidates) if each.name == "leading")
    contest.squares[leading] = 1e-6 * np.ones(8)  # among the finalists, whatever it is worth here
    contest.refine()
    means = [k for k, each in enumerate(contest.candidates) if each.name.startswith("mean of") and "leading" in each.name]
    assert means
    for k in means:
        level = contest.candidates[k].sigmas[0]
        assert level < measured.sigma_max
        assert not contest.candidates[k].warm
        out = sample(model, level * measured.noise, contest.candidates[k].sigmas, solver=solver)
        expected = np.mean((out - measured.endpoint) ** 2, axis=1)
        np.testing.assert_allclose(contest.squares[k], expected[: contest.squares[k].size], rtol=1e-9)
    contest.squares[leading] = 1e-9 * np.ones(8)
    contest.fit()
    assert plan(measured, None, 6, solver=solver).warm is None


def test_what_plain_noise_is_off_at_a_low_level_is_that_of_many_small_steps():
    """4,000 second-order steps from the prior, two routes to one number: they are 1.2e-5 apart, with half the steps 5e-5."""
    contest = _Contest(profile(EXACT, SPECTRUM, data=HELD_OUT, judges=0), 4, SOLVERS["ddim"], None)
    fine = grid(karras_law(1e-4, 10.0), 4000, final=0.0)
    flow = divergence(SPECTRUM, fine, solver="dpmpp_2m", objective="w2", start="prior")
    assert contest._unscaled(10.0) == pytest.approx(np.sqrt(flow / DIM), rel=3e-5)


def test_a_network_that_is_nowhere_better_leaves_nothing_to_plan():
    found = profile(POOR, SPECTRUM, data=HELD_OUT, target="data", judges=0)
    worse = replace(found.curve, error=2 * found.curve.bound)
    nothing = replace(found, curve=worse, start_level=worse.start_level())
    with pytest.raises(ValueError, match="`model` is nowhere better than the Gaussian of these data"):
        plan(nothing, None, 4)
