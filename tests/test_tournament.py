"""The tournament of experiments/: its cells on a small exact mixture, and what it reads from them."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from eigenstep.evaluation import frechet_distance

tournament = pytest.importorskip("tournament", reason="no experiments/ beside these tests")
mixtures, networks, pages, peers = (pytest.importorskip(name) for name in ("mixtures", "networks", "pages", "peers"))
pytest.importorskip("torch", reason="features are computed in torch")


@pytest.fixture(scope="module")
def bench():
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((4, 64)) * np.geomspace(1.0, 0.05, 64)
    items = centres[rng.integers(4, size=400)] + rng.standard_normal((400, 64)) * np.geomspace(0.5, 0.02, 64)
    mixture = mixtures.fit(items.reshape(-1, 1, 8, 8), 4, 12)
    known = networks.Subject("small", mixture.denoiser(), mixture.spectrum(basis=40), mixture.draw(600, 7), exact=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(networks, "subject", lambda name, folder: known)
        yield tournament.Bench("small", folder=None, seeds=3, items=12)


@pytest.fixture(scope="module")
def cell(bench):
    return bench.cell("ddim", 4, oracle=True)


def test_a_cell_holds_every_pool_and_all_measures_of_every_seed(cell):
    pools = {entry["pool"] for entry in cell["entries"]}
    ours = {"ours", "ours cold", "unfitted", *tournament.CHEAP}
    rivals = {"D", "H", "H warm", "searched", "searched warm", "learned"}
    assert pools == ours | rivals | {"oracle", "oracle cold"}
    for entry in cell["entries"]:
        assert len(entry["rmse"]) == len(entry["fd_pixels"]) == 3
        assert np.all(np.diff(entry["sigmas"]) < 0)
        assert len(entry["sigmas"]) == 5
        assert entry["pool"] != "D" or entry["sigmas"][0] == 80.0
    light = next(entry for entry in cell["entries"] if entry["pool"] == "ours light")
    assert light["calls"] == 152
    quick = next(entry for entry in cell["entries"] if entry["pool"] == "ours quick")
    assert quick["calls"] in (184 + 20 * 4 * 4, 184 + 21 * 4 * 4)  # a gauge and four runs; 20 grids and a usual one, 4 steps
    ours = next(entry for entry in cell["entries"] if entry["pool"] == "ours")
    assert ours["calls"] > 10_000


def test_oracles_are_no_worse_than_where_they_start(cell):
    for pool, others in tournament.ORACLES.items():
        fitted = np.mean(np.square(tournament.best(cell, pool, "rmse")["rmse"]))
        starts = [e for e in cell["entries"] if e["pool"] in others]
        assert fitted <= min(np.mean(np.square(e["rmse"])) for e in starts) * (1 + 1e-9)


def test_a_finished_cell_gets_the_oracles_it_would_have_had(bench, cell, tmp_path, monkeypatch):
    added = {"learned", *tournament.ORACLES}
    bare = {**cell, "entries": [entry for entry in cell["entries"] if entry["pool"] not in added]}
    kept = tournament.place(tmp_path, "small", "ddim", 4)
    kept.parent.mkdir()
    kept.write_text(json.dumps(bare))
    monkeypatch.setattr(tournament, "Bench", lambda name, seeds, items, **options: bench if (seeds, items) == (3, 12) else None)
    monkeypatch.setattr("sys.argv", ["", "small", "--solvers", "ddim", "--calls", "4", "--folder", str(tmp_path)])
    tournament.main()
    assert json.loads(kept.read_text()) == bare  # finished, and no oracle was asked for
    monkeypatch.setattr("sys.argv", [*sys.argv, "--oracle"])
    tournament.main()
    found = json.loads(kept.read_text())
    assert [entry["pool"] for entry in found["entries"]] == [entry["pool"] for entry in cell["entries"]]
    for pool in added:
        new, old = (tournament.best(each, pool, "rmse") for each in (found, cell))
        assert new["sigmas"] == pytest.approx(old["sigmas"], rel=1e-9)
        assert new["rmse"] == pytest.approx(old["rmse"], rel=1e-9)
    monkeypatch.setattr(bench, "with_oracles", None)
    tournament.main()  # nothing is left to add


def test_figures_make_their_folder(cell, tmp_path):
    pytest.importorskip("matplotlib")
    tournament.figures([cell], tmp_path / "new" / "figures")
    assert len(list((tmp_path / "new" / "figures").glob("tournament-*.png"))) == 3


@pytest.mark.parametrize(("exact", "count", "sizes"), [(False, None, [64, 64, 22]), (False, 70, [64, 6]), (True, None, [150])])
def test_a_networks_noises_run_in_batches(exact, count, sizes):
    """They cover the noises in their order; a mixture's run all at once."""
    bench = SimpleNamespace(noise=np.arange(150), subject=SimpleNamespace(exact=exact))
    batches = tournament.Bench.batches(bench, count)
    assert [len(bench.noise[rows]) for rows in batches] == sizes
    np.testing.assert_array_equal(np.concatenate([bench.noise[rows] for rows in batches]), bench.noise[:count])


def test_a_measure_is_that_of_a_run_by_hand(bench, cell):
    entry = next(entry for entry in cell["entries"] if entry["pool"] == "D")
    from eigenstep import sample

    out = sample(bench.denoiser, 80.0 * bench.noise[12:24], entry["sigmas"], solver="ddim")
    assert entry["rmse"][1] == pytest.approx(np.sqrt(np.mean((out - bench.endpoint[12:24]) ** 2)), rel=1e-9)


def test_levels_that_were_kept_to_six_digits_stay_in_the_models_range(bench, cell):
    entry = tournament.Entry(**next(entry for entry in cell["entries"] if entry["pool"] == "D"))
    beside = tournament.replace(entry, sigmas=[80.0001, *entry.sigmas[1:]])
    within = tournament.within_range(bench.denoiser, [80.0001, 1.0, 0.001999, 0.0])
    np.testing.assert_array_equal(within, [80.0, 1.0, 0.002, 0.0])
    low = tournament.within_range(bench.denoiser, [80.0, 0.0015, 0.001, 0.0])  # as levels learned by gradient may come
    assert 0.002 == low[2] < low[1] < 0.00201
    np.testing.assert_array_equal(bench.run(beside, "ddim"), bench.run(entry, "ddim"))


def test_stochastic_cells_are_judged_by_the_data(bench):
    found = bench.cell("ddim_eta", 4)
    ours = {"ours", "ours cold", *tournament.CHEAP}
    assert {entry["pool"] for entry in found["entries"]} == ours | {"D", "H", "H warm"}
    assert all(entry["rmse"] == [] and len(entry["fd_pixels"]) == 3 for entry in found["entries"])


def made(ours, rivals, model="m", solver="ddim", calls=4):
    entries = [{"pool": "ours", "name": "planned", "sigmas": [2, 0], "warm": False, "rmse": ours, "fd_pixels": ours}]
    entries += [
        {"pool": "D", "name": str(k), "sigmas": [3, 0], "warm": False, "rmse": rival, "fd_pixels": rival}
        for k, rival in enumerate(rivals)
    ]
    return {"model": model, "solver": solver, "calls": calls, "entries": entries}


def test_a_duel_is_with_the_best_of_the_pool_on_the_same_seeds():
    found = tournament.duel(made([1.0, 2.0, 3.0], [[9.0, 9.0, 9.0], [1.1, 2.1, 3.1]]), "D", "rmse")
    assert found.ratio == pytest.approx(6.0 / 6.3)
    assert found.word == "better"  # by 0.1 on every seed, however much the seeds differ
    assert tournament.duel(made([1.0, 2.0, 3.0], [[3.0, 2.0, 1.0]]), "D", "rmse").word == "even"
    assert tournament.duel(made([1.0, 2.0, 3.0], [[3.0, 2.0, 1.5]]), "D", "rmse").word == "even"  # lower, but not certainly
    assert tournament.duel(made([1.0, 2.0, 3.0], [[0.9, 1.9, 2.9]]), "D", "rmse").word == "worse"
    assert tournament.duel(made([1.0, 2.0, 3.0], []), "D", "rmse") is None


def test_the_summary_counts_verdicts_and_takes_medians_and_the_largest():
    cells = [
        {**made([1.0, 1.1], [[2.0, 2.1]], calls=4), "exact": True},
        {**made([1.0, 1.1], [[4.0, 4.5]], "mnist14", "dpmpp_2m", 10), "exact": True},
        {**made([1.0, 3.0], [[1.5, 1.5]], "mnist14", "dpmpp_2m", 12), "exact": False},
    ]
    for cell in cells:
        for entry in cell["entries"]:
            entry.update(fd_convolutions=[], calls=100 if entry["pool"] == "ours" else 0)
    cells[1]["entries"].append({**cells[1]["entries"][1], "pool": "unfitted"})
    ratios = sorted([2.1 / 4.1, 2.1 / 8.5, 4.0 / 3.0])
    assert tournament.row("all", cells) == f"| all | 3 | 2 | 1 | 0 | {ratios[1]:.2f} | {ratios[1]:.2f} | – | {ratios[2]:.2f} |"
    assert tournament.row("none", cells, "H") is None
    told = tournament.summary(cells)
    assert "| **D**, exact models | 2 |" not in told  # no light plan in these
    assert f"| 10 | 1 | 1 | 0 | 0 | {ratios[0]:.2f} |" in told
    assert "| `mnist14` | exact mixture, MNIST 14 × 14 | 2 | 1 | 1 | 0 |" in told
    assert f"| multistep solvers, exact models, 7 calls and more | 1 | 1 | 0 | 0 | {ratios[0]:.2f} |" in told
    assert told.count("| multistep solvers,") == 1
    assert "| one-step solvers," not in told
    assert "mnist14 dpmpp_2m 12: 1.33 of D, even" in told
    assert "ours above 1.15 of D: 1 of 3 cells, 0 of them certainly worse" in told
    assert "calls to match D at 10, by rmse:\n\n- dpmpp_2m, ours: median 10; mnist14 10\n" in told
    assert "| ours | exact | 100 | 100 | 100 |" in told


def test_calls_to_match_is_the_least_that_reach_the_defaults_at_ten():
    cells = [made([error] * 2, [[5.0, 5.0]], calls=calls) for calls, error in ((4, 7.0), (5, 4.9), (6, 3.0), (10, 1.0))]
    assert tournament.calls_to_match(cells) == {("m", "ddim"): 5}
    assert tournament.calls_to_match(cells, ours="oracle") == {}
    for cell in cells[:2]:
        cell["entries"].append({**cell["entries"][0], "pool": "oracle", "rmse": [6.0 - 0.3 * cell["calls"]] * 2})
    assert tournament.calls_to_match(cells, ours="oracle") == {}  # none in 10, and a few calls do not say that none would do
    cells[-1]["entries"].append({**cells[-1]["entries"][0], "pool": "oracle", "rmse": [6.0, 6.0]})
    assert tournament.calls_to_match(cells, ours="oracle") == {("m", "ddim"): 4}
    cells[0]["entries"][-1]["rmse"] = cells[1]["entries"][-1]["rmse"] = [6.0, 6.0]
    assert tournament.calls_to_match(cells, ours="oracle") == {("m", "ddim"): np.inf}


def test_condensed_cells_say_what_whole_ones_say(cell, tmp_path):
    tournament.condense([cell, {**cell, "calls": 5}], tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["small.jsonl"]
    kept = tournament.read(tmp_path)
    assert [each["calls"] for each in kept] == [4, 5]
    few, whole = kept[0]["entries"], cell["entries"]
    assert len(few) < 0.7 * len(whole)
    for pool in {entry["pool"] for entry in whole}:
        for measure in tournament.MEASURES:
            told, known = tournament.best(kept[0], pool, measure), tournament.best(cell, pool, measure)
            assert told["name"] == known["name"]
            # Six digits are kept.
            np.testing.assert_allclose(told[measure], known[measure], rtol=1e-5)
            np.testing.assert_allclose(told["sigmas"], known["sigmas"], rtol=1e-5)
    assert tournament.summary(kept[:1]) == tournament.summary([cell])
    assert tournament.table(kept[:1]) == tournament.table([cell])
    defaults = sorted(np.mean(entry["rmse"]) for entry in whole if entry["pool"] == "D")[:2]
    found = sorted(np.mean(entry["rmse"]) for entry in few if entry["pool"] == "D")[:2]
    np.testing.assert_allclose(found, defaults, rtol=1e-5)
    three = made([1.0], [[2.0], [4.0], [3.0]])
    for entry in three["entries"]:
        entry.update(fd_convolutions=[], calls=0)
    kept = [entry["rmse"] for entry in tournament.condensed(three)["entries"]]
    assert kept == [[1.0], [2.0], [3.0]]  # the best default, and the next, which is best by no measure


@pytest.mark.parametrize("file", pages.PAGES, ids=lambda file: file.name)
def test_the_tables_of_the_docs_are_what_the_kept_cells_say(file):
    text = file.read_text(encoding="utf-8")
    assert pages.page(text) == text
    # A number that the cells do not say is put right, and a row that was left out put back.
    for pattern, other in ((r"(defaults \| )\d+", r"\g<1>9999"), (r"\| the oracle, networks \|.*\n", "")):
        spoiled = re.sub(pattern, other, text)
        assert spoiled != text
        assert pages.page(spoiled) == text


def test_fitted_levels_find_the_best_grid_of_one_direction():
    """Two Euler steps of a Gaussian direction to 0: gain over the exact one is maximal where the two angles are equal."""
    lam, start = 1.0, 40.0
    states = np.random.default_rng(4).standard_normal((50, 1)) * start
    found = peers.fitted_levels(
        lambda x, sigma: x * lam / (lam + sigma**2), [start, 5.0, 0.0], states=states,
        endpoint=states * np.sqrt(lam / (lam + start**2)),
    )  # fmt: skip
    assert found.sigmas[1] == pytest.approx(np.tan(0.5 * np.arctan(start)), rel=1e-3)  # a difference step of 1 %
    assert found.calls == 100 * round(found.calls / 100)


@pytest.mark.parametrize("first", [0.01, 0.5])
def test_fitted_levels_stay_where_a_denoiser_can_be_called(first):
    """A grid that ends at the lowest level leaves it for the best one, or stays there if that lies below."""
    lam, start = np.array([1.0, 0.1]), 40.0
    states = np.random.default_rng(4).standard_normal((50, 2)) * start
    ends = {"states": states, "endpoint": states * np.sqrt(lam / (lam + start**2)), "evaluations": 40}
    best = peers.fitted_levels(lambda x, sigma: x * lam / (lam + sigma**2), [start, 1.0, 0.3, 0.0], **ends).sigmas[2]
    assert best == pytest.approx(0.47, abs=0.01)

    def denoiser(x, sigma):
        assert sigma >= first
        return x * lam / (lam + sigma**2)

    found = peers.fitted_levels(denoiser, [start, 1.0, first, 0.0], lowest=first, **ends).sigmas[2]
    assert found == pytest.approx(max(first, best), rel=0.03)  # the error is flat about its least


@pytest.mark.slow
def test_a_reduced_tournament_on_real_data(tmp_path):
    """MNIST's mixture, four cells: ours is certainly better than every default, and near the oracle."""
    if not (data := Path(mixtures.SHARED) / "data" / "mnist.npz").is_file():
        pytest.skip(f"no {data}; set EIGENSTEP_SHARED")
    bench = tournament.Bench("mnist14", folder=tmp_path, seeds=5, items=40)
    for solver, calls in (("ddim", 4), ("ddim", 6), ("dpmpp_2m", 4), ("dpmpp_2m", 6)):
        found = bench.cell(solver, calls, oracle=True)
        assert tournament.duel(found, "D", "rmse").word == "better"
        assert tournament.duel(found, "D", "fd_pixels").word == "better"
        assert tournament.duel(found, "searched", "rmse", "ours cold").ratio < 1.1
        for ours in tournament.CHEAP:
            assert tournament.duel(found, "D", "rmse", ours).ratio < 1


def test_tails_are_of_the_noises_that_the_cell_was_judged_by(bench, cell):
    import tails

    entry = tournament.Entry(**tournament.best(cell, "D", "rmse"))
    values = tails.squares(bench, entry, "ddim")
    rmse, median, share = tails.told(values)
    assert rmse == pytest.approx(np.sqrt(np.mean(np.square(entry.rmse))), rel=1e-9)
    assert median == pytest.approx(np.sqrt(np.median(values)))
    assert share == pytest.approx(values.max() / values.sum())  # 2 % of 36 noises is one


def test_confirmed_cells_are_judged_by_later_noises(bench, cell):
    import confirm

    later = tournament.Bench("small", folder=None, seeds=3, items=8, first=12)
    assert not set(later.noise.ravel()) & set(bench.noise.ravel())
    found = confirm.again(later, cell, 2)
    assert sorted(entry["pool"] for entry in found["entries"]) == ["D", "D", "converged", "ours", *tournament.CHEAP]
    data = later.features[-1](later.data[:2000])
    assert found["entries"][-1]["fd_data"][2] == frechet_distance(later.features[-1](later.endpoint)[16:24], data)
    told = tournament.summary([found])
    assert "| ours against the converged samples | 1 |" in told
    assert "| theory and 152 calls against **D** | 1 |" in told
    assert "| quick plans against **D** | 1 |" in told
    assert found["items"] == 8
    before = {(entry["pool"], entry["name"]): entry for entry in cell["entries"]}
    for entry in found["entries"][:-1]:
        old = before[entry["pool"], entry["name"]]
        assert entry["sigmas"] == old["sigmas"]
        assert len(entry["rmse"]) == 3
        # Other noises of the same model: near, not the same.
        assert np.mean(entry["rmse"]) == pytest.approx(np.mean(old["rmse"]), rel=0.7)
        assert entry["rmse"] != old["rmse"]
    said = tournament.duel(found, "D", "rmse")
    assert said.ratio < 1.2
