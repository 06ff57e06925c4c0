"""experiments/predictor.py: rank correlations of known orders, and a Gaussian, whose error the Gaussian predicts."""

import json

import numpy as np
import pytest

from eigenstep import Spectrum, divergence, optimal_grid, solver_named
from eigenstep.evaluation import squared_errors

predictor = pytest.importorskip("predictor", reason="no experiments/ beside these tests")

LAM = np.array([4.0, 1.0, 0.04, 0.01])


def wiener(x, sigma):
    return x * LAM / (LAM + sigma**2)


@pytest.fixture(scope="module")
def gaussian():
    data = np.random.default_rng(0).standard_normal((200, 4)) * np.sqrt(LAM)
    return predictor.Model(wiener, data, Spectrum.from_eigenvalues(LAM), 0.004, 160.0, noises=400, reference_steps=120)


@pytest.fixture(scope="module")
def cell(gaussian):
    return gaussian.cell("ddim", 6)


def test_spearman_of_known_orders():
    said = [1.0, 2.0, 3.0, 4.0, 5.0]
    measured = np.array([[10, 50, 10], [20, 40, 30], [30, 30, 20], [40, 20, 40], [50, 10, 50]])
    # One neighbouring pair exchanged in five: 1 - 6 x 2/(5 x 24).
    np.testing.assert_allclose(predictor.spearman(said, measured), [1.0, -1.0, 0.9], rtol=1e-12)


def test_spearman_shares_the_ranks_of_ties_and_takes_infinity():
    from scipy.stats import spearmanr

    rng = np.random.default_rng(1)
    said, measured = rng.integers(0, 6, 30).astype(float), rng.integers(0, 9, (30, 4)).astype(float)
    said[3] = np.inf
    expected = [spearmanr(said, column).statistic for column in measured.T]
    np.testing.assert_allclose(predictor.spearman(said, measured), expected, rtol=1e-12)


def test_on_a_gaussian_w2_is_the_mean_squared_error(gaussian, cell):
    measured = np.mean(cell["squares"], axis=1) * 4
    # The noises' second moments of 400 draws deviate by sqrt(2/400) = 7 % per direction, three times that at most.
    np.testing.assert_allclose(cell["said"]["w2"], measured, rtol=0.21)
    # The measured ranks move with the draw by as much, so near ties may change places.
    assert predictor.spearman(cell["said"]["w2"], measured[:, None])[0] > 0.98
    assert predictor.spearman(cell["said"]["kl"], measured[:, None])[0] < 0.9


def test_every_grid_is_there_once_from_three_lowest_levels(gaussian, cell):
    grids = list(cell["grids"].values())
    assert len({tuple(sigmas) for sigmas in grids}) == len(grids)
    assert {sigmas[0] for sigmas in grids} == {160.0}
    assert {len(sigmas) for sigmas in grids} == {7}
    karras = [cell["grids"][f"karras from {low:.3g}"][-2] for low in gaussian.lowest]
    np.testing.assert_allclose(karras, [0.004, np.sqrt(0.004 * 0.2 * gaussian.spread), 0.2 * gaussian.spread], rtol=1e-12)


def test_calls_are_what_a_solver_can_spend(gaussian):
    assert gaussian.cell("heun", 4)["calls"] == 3
    assert gaussian.cell("dpmpp_2m", 4)["calls"] == 4


def test_what_is_said_is_the_librarys_own_divergence(gaussian, cell):
    name, sigmas = next(iter(cell["grids"].items()))
    place = list(cell["grids"]).index(name)
    for title, options in {
        "reverse_kl": {"objective": "reverse_kl"},
        "kl floored": {"objective": "kl", "noise_floor": gaussian.spread},
        "local": {"objective": "local"},
        "w2 + error": {"objective": "w2", "denoiser_error": gaussian.error},
    }.items():
        assert cell["said"][title][place] == pytest.approx(divergence(gaussian.spectrum, sigmas, **options), rel=1e-12), title
    both = cell["said"]["w2"][place] + 0.2 * cell["said"]["local"][place]
    assert predictor.said(cell, "w2 + local/5")[place] == pytest.approx(both, rel=1e-12)
    error = cell["said"]["w2 + error"][place] - cell["said"]["w2"][place]
    louder = cell["said"]["w2 effective"][place] + 4 * error
    assert predictor.said(cell, "w2 effective + 4 errors")[place] == pytest.approx(louder, rel=1e-12)
    assert predictor.said(cell, "local")[place] == cell["said"]["local"][place]
    # All errors of DDIM's steps have one sign in a direction, so that their sum is the whole error to first order.
    assert cell["said"]["w2"][place] < cell["said"]["magnitudes"][place]


def test_magnitudes_by_hand():
    class Model:
        spectrum = Spectrum.from_eigenvalues([1.0], multiplicities=[3.0])

    # From 2 to 1 and to 0 at lambda = 1: gains 3/5 and 1/2, true standard deviations sqrt 5, sqrt 2 and 1.
    errors = abs(3 / np.sqrt(10) - 1) + abs(1 / np.sqrt(2) - 1)
    assert predictor.magnitudes(Model, "ddim", np.array([2.0, 1.0, 0.0])) == pytest.approx(3 * errors**2, rel=1e-12)


def test_the_endpoint_is_converged(gaussian):
    exact = gaussian.states * np.sqrt(LAM / (LAM + 160.0**2))
    # A second-order solver of 120 steps over five decades.
    assert np.sqrt(squared_errors(gaussian.endpoint, exact).mean()) < 0.005 * gaussian.spread
    assert gaussian.endpoint_error > np.sqrt(squared_errors(gaussian.endpoint, exact).mean())


def test_intervals_hold_the_value_and_shrink_without_spread(cell):
    plain, drawn = predictor.correlations([cell])["w2"]
    low, high = np.percentile(drawn[0], [0.5, 99.5])
    assert low <= plain[0] <= high
    same = {**cell, "squares": [[row[0]] * 50 for row in cell["squares"]]}
    for measure in predictor.MEASURES:
        plain, drawn = predictor.correlations([same], measure)["w2"]
        np.testing.assert_allclose(drawn[0], plain[0], rtol=1e-12, err_msg=measure)


def test_the_price_of_a_choice():
    squares = [[4.0, 4.0], [1.0, 1.0], [9.0, 9.0]]
    said = {name: [1.0, 2.0, 3.0] for name in predictor.PREDICTORS} | {"w2": [3.0, 1.0, 2.0]}
    paid = predictor.prices([{"squares": squares, "said": said}])
    assert paid["w2"] == [1.0]
    assert paid["local"] == [2.0]


def test_one_noise_in_another_mode_rules_the_mean_and_not_the_median():
    squares = [[1.0, 1.0, 90.0], [2.0, 2.0, 2.0], [3.0, 3.0, 3.0]]
    cell = {"squares": squares, "said": {name: [1.0, 2.0, 3.0] for name in predictor.PREDICTORS}}
    assert predictor.correlations([cell])["w2"][0][0] == -0.5
    assert predictor.correlations([cell], "median noise")["w2"][0][0] == 1.0
    assert predictor.prices([cell])["w2"][0] == pytest.approx((92 / 6) ** 0.5, rel=1e-12)
    assert predictor.prices([cell], "median noise")["w2"] == [1.0]


def test_halves_that_disagree_show():
    squares = [[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]]
    assert predictor.repeatability([{"squares": squares}]) == -1.0


def test_a_second_call_goes_on_from_the_folder(tmp_path, monkeypatch, gaussian):
    made = []
    monkeypatch.setattr(predictor, "loaded", lambda name, noises: made.append(name) or gaussian)
    first = predictor.run("some", tmp_path, noises=400, solvers=("ddim",), calls=(4, 6))
    assert made == ["some"]
    kept = sorted(path.name for path in tmp_path.iterdir())
    assert kept == [f"some-400-{part}ddim-{calls}.json" for part in ("", "plans-") for calls in (4, 6)]
    second = predictor.run("some", tmp_path, noises=400, solvers=("ddim",), calls=(4, 6))
    assert made == ["some"]
    read = [json.loads((tmp_path / name).read_text()) for name in kept]
    assert second == first == (read[:2], read[2:])


def test_tables_hold_the_rho_of_every_model_and_kind_of_solver(gaussian, cell):
    results = {"one": [cell], "two": [gaussian.cell("dpmpp_2m", 4)]}
    rho = predictor.spearman(cell["said"]["kl"], np.mean(cell["squares"], axis=1)[:, None])[0]
    assert list(predictor.of_kind(results, "one-step")) == ["one"]
    head, _, kl = predictor.by_model(results, "one-step").splitlines()[:3]
    assert head == "| one-step: rho | one |"
    assert kl.startswith(f"| kl | {rho:.2f} (")
    first = predictor.summary(results, "one-step").splitlines()[2]
    paid = predictor.prices([cell])["kl"][0]
    assert first.startswith(f"| kl | {rho:.2f} | {rho:.2f} | {paid:.2f} | {paid:.2f} |")
    assert "| rho | ddim 6 | dpmpp_2m 4 |" in predictor.by_cell(results)
    (other,) = results["two"]
    ends = [np.mean(each["squares"], axis=1)[:, None] for each in (cell, other)]
    whole = predictor.spearman(cell["said"]["w2"], ends[0])[0]
    steps = predictor.spearman(other["said"]["local"], ends[1])[0]
    row = f"| w2, for multistep solvers local, by root mean square | {whole:.2f} | {steps:.2f} | {(whole + steps) / 2:.2f} |"
    assert row in predictor.rules_table(results).splitlines()


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m"])
def test_a_blends_plan_is_stationary_and_lies_between_its_parts(solver):
    spectrum, method = Spectrum.from_eigenvalues(LAM), solver_named(solver)
    settings = {"solver": method, "low": 0.004, "high": 160.0}

    def parts(sigmas):
        return np.array([divergence(spectrum, sigmas, solver=method, objective=aim) for aim in ("w2", "local")])

    plan = predictor.best_blend(spectrum, 5, share=0.2, **settings)
    least = parts(plan) @ [1.0, 0.2]
    rng = np.random.default_rng(3)
    for _ in range(20):
        moved = plan.copy()
        moved[1:-1] *= np.exp(0.003 * rng.standard_normal(4))
        assert parts(moved) @ [1.0, 0.2] > least * (1 - 1e-9)
    # The objective of the package, found by Newton's method; SLSQP ends where ln value gains less than 1e-6.
    assert optimal_grid(spectrum, 5, 0.004, 160.0, solver=method, objective="blend").value == pytest.approx(least, rel=1e-6)
    w2, local = (predictor.best_blend(spectrum, 5, share=share, **settings) for share in (0.0, np.inf))
    np.testing.assert_array_equal(w2, optimal_grid(spectrum, 5, 0.004, 160.0, solver=method).sigmas)
    assert parts(w2)[0] < parts(plan)[0] < parts(local)[0]
    assert parts(local)[1] < parts(plan)[1] < parts(w2)[1]


def test_plans_are_compared_with_the_catalogues_best():
    cell = {"solver": "ddim", "squares": [[4.0, 4.0], [1.0, 1.0]]}
    plans = {name: {"squares": [0.25, 0.25]} for name in predictor.PLANNED}
    table = predictor.plans_table({"some": [cell]}, {"some": [plans]}, "root mean square")
    assert table.splitlines()[2] == "| w2 | 0.50 | 0.50 | 0.50 | – | – | – |"


def test_one_plan_beside_another_is_judged_on_the_same_noises():
    cell = {"solver": "dpmpp_2m", "squares": [[1.0] * 4]}
    noisy = [1.0, 100.0, 400.0, 900.0]
    made = {name: {"squares": noisy} for name in predictor.PLANNED}
    # A quarter less on every noise: the noises' own spread does not hide it.
    made["w2 + local/5"] = {"squares": [value - 0.25 for value in noisy]}
    rows = predictor.pairs_table({"some": [cell]}, {"some": [made]}).splitlines()[2:]
    assert rows[0] == "| w2 + local/5 | local | multistep | 1 | 1, 0, 0 | 1.00 | 1.00 |"
    assert rows[2] == "| w2 effective | w2 | multistep | 1 | 0, 1, 0 | 1.00 | 1.00 |"
    assert rows[3] == "| w2 + local/5 effective | w2 + local/5 | multistep | 1 | 0, 0, 1 | 1.00 | 1.00 |"
