"""Evaluations: cells against closed forms, what is kept and gone on with, what fails, and what is said of it."""

from __future__ import annotations

import json
import math
import textwrap
from itertools import pairwise

import numpy as np
import pytest
from click.testing import CliRunner

from eigenstep import cramer_rao_bound, plots
from eigenstep.estimation import choose_spectrum
from eigenstep.evaluation import OURS, WITHOUT_WARM, Cell, Entry, Evaluation, contest, evaluate, headline_metrics, metric_title
from eigenstep.evaluation.cells import REFERENCE_STEPS, Bench, Recipe
from eigenstep.evaluation.competitors import hand_entries, steps_for
from eigenstep.evaluation.store import Store
from eigenstep.evaluation.subject import Model
from eigenstep.models import ErrorCurve, item_noise
from eigenstep.report import evaluation_report, evaluation_sentences
from eigenstep.solvers import SOLVERS, solver_named
from eigenstep.spectrum import Spectrum

torch = pytest.importorskip("torch")

LAM = np.array([4.0, 1.0, 0.25, 0.04, 0.01, 0.0025])
GRIDS = ["karras", "exponential"]


class Wiener:
    """The exact denoiser of N(0, diag LAM), which counts the items it is given."""

    sigma_min, sigma_max = 0.002, 80.0

    def __init__(self, fails=None):
        self.items, self.fails = 0, fails

    def __call__(self, x, sigma):
        if self.fails is not None:
            x = self.fails(x, sigma)
        self.items += len(x)
        lam = x.new_tensor(LAM)
        return x * (lam / (lam + sigma**2))


@pytest.fixture(scope="module")
def data():
    return np.random.default_rng(0).standard_normal((300, LAM.size)) * np.sqrt(LAM)


def spaced(n, solver):
    """A planner that costs nothing."""
    return [Entry(OURS, np.append(np.geomspace(80.0, 0.3, n), 0.0))]


FITTED = {"calls": [3, 4], "solvers": ["ddim"], "seeds": 2, "n_items": 30, "grids": GRIDS, "features": ["pixels"]}
OPTIONS = {**FITTED, "planner": spaced}


@pytest.fixture(scope="module")
def found(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation") / "out"
    return evaluate(Wiener(), data, folder, **{**FITTED, "solvers": ["ddim", "heun"]}, name="a < b")


# ---------------------------------------------------------------------- cells


def test_the_rmse_of_a_cell_is_the_closed_form(found):
    z = item_noise(range(30), (LAM.size,), seed=1)
    record = found.cells[Cell("karras", "ddim", 4, 1)]
    gains = math.prod(s / t + (1 - s / t) * LAM / (LAM + t**2) for t, s in pairwise(record["sigmas"]))
    exact = np.sqrt(LAM / (LAM + 80.0**2))
    known = math.sqrt((((gains - exact) * 80.0 * z) ** 2).mean())
    apart = found.references[1]["halving_rmse"]
    # The endpoint itself is off by less than its last halving changed it, the samples by float32.
    assert record["metrics"]["rmse"] == pytest.approx(known, abs=apart + 1e-5)
    assert record["rmse_interval"][0] < record["metrics"]["rmse"] < record["rmse_interval"][1]


def test_the_endpoint_is_converged_as_far_as_it_says(found):
    for record in found.references.values():
        assert record["converged"]
        assert record["steps"] >= 2 * REFERENCE_STEPS
        assert record["halving_rmse"] <= 0.01 * math.sqrt(LAM.mean()) * 1.2  # the spread of the sample, 20 % off at most


def test_an_endpoint_that_does_not_converge_says_so(data, tmp_path):
    options = {**OPTIONS, "calls": [3], "seeds": 1, "tolerance": 1e-9, "most_steps": 256}
    record = evaluate(Wiener(), data, tmp_path / "out", **options).references[0]
    assert (record["converged"], record["steps"]) == (False, 256)


def test_cells_are_named_by_the_calls_they_make(found):
    assert found.settings_pairs() == [("ddim", 3), ("ddim", 4), ("heun", 3)]
    assert found.cells[Cell("karras", "heun", 3, 0)]["sigmas"] == pytest.approx([80.0, 0.002, 0.0])
    for name in SOLVERS:
        method = solver_named(name)
        for calls in range(1, 12):
            n = steps_for(calls, method)
            assert method.nfe(n) <= calls < method.nfe(n + 1)


def test_everything_is_measured_against_endpoint_and_data(found):
    expected = ["rmse", "frechet/pixels", "kernel/pixels", "sliced_w2"]
    assert found.metrics == [*expected, *(f"{name}/data" for name in expected[1:])]
    for record in found.cells.values():
        assert record["error"] is None
        assert set(found.metrics) <= set(record["metrics"])


def test_a_stochastic_solver_has_no_rmse(data, tmp_path):
    found = evaluate(Wiener(), data, tmp_path / "out", **{**OPTIONS, "calls": [3], "seeds": 1, "solvers": ["euler_ancestral"]})
    assert "rmse" not in found.metrics
    assert {cell.solver for cell in found.cells} == {"euler_ancestral"}
    assert headline_metrics(found) == ["frechet/pixels"]


def test_ours_is_better_where_the_model_is_the_gaussian_itself(found):
    verdict = found.verdict("ddim", 4, "rmse")
    assert verdict.best in GRIDS
    assert verdict.word == "better"
    assert verdict.ratio < 0.7


def test_the_warm_start_goes_to_the_catalogue_on_request(data, tmp_path):
    planner = lambda n, solver: [Entry(OURS, np.append(np.geomspace(8.0, 0.5, n), 0.0), warm=lambda z: 8.0 * z)]  # noqa: E731
    options = {**OPTIONS, "calls": [3], "seeds": 1, "planner": planner, "warm_hand": True}
    found = evaluate(Wiener(), data, tmp_path / "out", **options)
    assert found.grids == [OURS, *GRIDS, "karras + warm start", "exponential + warm start"]
    record = found.cells[Cell("karras + warm start", "ddim", 3, 0)]
    assert record["warm"]
    assert record["sigmas"][0] == 8.0
    assert found.verdict("ddim", 3, "rmse").best in GRIDS  # the ablation is not the catalogue


# ---------------------------------------------------------------------- what is kept


def test_what_is_finished_is_not_done_again(data, tmp_path):
    first, second, third = Wiener(), Wiener(), Wiener()
    before = evaluate(first, data, tmp_path / "out", **OPTIONS | {"calls": [3]})
    after = evaluate(second, data, tmp_path / "out", **OPTIONS, resume=True)
    for cell, record in before.cells.items():
        assert after.cells[cell] == record
    # 30 samples of 4 calls for 3 grids and 2 seeds; before them the check of the shape, and three levels that tell the model.
    checks = 2 + 3 * 2
    assert second.items == 30 * 4 * 3 * 2 + checks
    evaluate(third, data, tmp_path / "out", **OPTIONS, resume=True)
    assert third.items == checks


def test_what_is_planned_is_not_planned_again(data, tmp_path):
    again = Wiener()
    options = {**FITTED, "calls": [3], "seeds": 1}
    before = evaluate(Wiener(), data, tmp_path / "out", **options)
    after = evaluate(again, data, tmp_path / "out", **options, resume=True)
    assert again.items == 8
    assert after.facts["plans"] == before.facts["plans"]
    assert after.fit.ratio.tolist() == before.fit.ratio.tolist()
    first = next(each for each in after.facts["plans"] if each["grid"] == OURS)
    assert first["reason"]
    assert first["sigmas"] == after.cells[Cell(OURS, "ddim", 3, 0)]["sigmas"]


def test_more_seeds_and_solvers_can_be_added_later(data, tmp_path):
    evaluate(Wiener(), data, tmp_path / "out", **OPTIONS | {"calls": [3], "seeds": [0]})
    found = evaluate(Wiener(), data, tmp_path / "out", **OPTIONS | {"calls": [3], "seeds": [0, 5]}, resume=True)
    assert {cell.seed for cell in found.cells} == {0, 5}
    assert found.interval("karras", "ddim", 3, "rmse").n == 2


def test_ctrl_c_keeps_the_finished_cells(data, tmp_path):
    def stop(done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(Wiener(), data, tmp_path / "out", **OPTIONS, progress=stop)
    lines = (tmp_path / "out" / "cells.jsonl").read_text().splitlines()
    assert len(lines) == 5
    found = evaluate(Wiener(), data, tmp_path / "out", **OPTIONS, resume=True)
    assert not found.failures
    kept = {json.loads(line)["cell"]: json.loads(line)["metrics"] for line in lines}
    assert all(found.cells[cell]["metrics"] == kept[cell.key] for cell in found.cells if cell.key in kept)


def test_a_line_that_was_cut_off_is_forgotten(tmp_path):
    Store(tmp_path, {}, resume=False).add("one", {"error": None})
    with open(tmp_path / "cells.jsonl", "a") as stream:
        stream.write('{"cell": "two", "err')
    store = Store(tmp_path, {}, resume=True)
    assert list(store.finished) == ["one"]
    store.add("three", {"error": None})
    assert list(Store(tmp_path, {}, resume=True).finished) == ["one", "three"]


def test_a_damaged_line_is_refused(tmp_path):
    Store(tmp_path, {}, resume=False).add("one", {"error": None})
    (tmp_path / "cells.jsonl").write_text('{"cell": \n{"cell": "two"}\n')
    with pytest.raises(ValueError, match="line 1"):
        Store(tmp_path, {}, resume=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resume": False}, "holds an evaluation already; go on with it by --resume"),
        ({"n_items": 31}, r"begun with another n_items \(30, now 31\)"),
        ({"data": 0.9}, "begun with another data"),
        ({"model": 1.2}, "begun with another model than"),
    ],
)
def test_other_settings_are_not_mixed(found, data, tmp_path, change, message):
    options = {**OPTIONS, "calls": [3], "seeds": 1}
    evaluate(Wiener(), data, tmp_path / "out", **options)
    scale = change.get("model", 1.0)
    model = Wiener(lambda x, sigma: scale * x)
    rest = {key: value for key, value in change.items() if key not in ("data", "model")}
    with pytest.raises(ValueError, match=message):
        evaluate(model, change.get("data", 1.0) * data, tmp_path / "out", **{**options, "resume": True, **rest})


# ---------------------------------------------------------------------- what fails


def test_nan_costs_one_cell_and_names_step_and_sigma(data, tmp_path):
    blind = Wiener(lambda x, sigma: x * math.nan if math.isclose(sigma, 0.41) else x)
    planner = lambda n, solver: [Entry(OURS, np.array([80.0, 4.0, 0.41, 0.0]))]  # noqa: E731
    options = {**OPTIONS, "calls": [3], "seeds": 1, "planner": planner}
    found = evaluate(blind, data, tmp_path / "out", **options)
    (why,) = found.failures.values()
    assert "in step 2 of 3 (from 0), at sigma = 0.41: the network gave NaN or infinity" in why
    assert found.cells[Cell("karras", "ddim", 3, 0)]["error"] is None
    mended = evaluate(Wiener(), data, tmp_path / "out", **options, resume=True)
    assert not mended.failures


def test_a_seed_without_an_endpoint_costs_its_cells_only(data, tmp_path):
    poisoned = item_noise([0], (LAM.size,), seed=1)[0].astype(np.float32)

    def fails(x, sigma):
        first = 80.0 * torch.as_tensor(poisoned)
        return x * math.nan if len(x) == 30 and torch.allclose(x[0], first, rtol=1e-4) else x

    found = evaluate(Wiener(fails), data, tmp_path / "out", **OPTIONS | {"calls": [3]})
    assert {cell.seed for cell, record in found.cells.items() if record["error"] is None} == {0}
    reasons = [why for cell, why in found.failures.items() if "seed 1" in cell and not cell.startswith("converged")]
    assert reasons
    assert all(why.startswith("no converged endpoint: Sampling stopped in step 0") for why in reasons)


def test_steps_that_cannot_be_planned_cost_their_cell_only(data, tmp_path):
    def planner(n, solver):
        if n == 3:
            raise ValueError("3 steps are one too many")
        return [Entry(OURS, np.append(np.geomspace(80.0, 0.01, n), 0.0))]

    found = evaluate(Wiener(), data, tmp_path / "out", **OPTIONS | {"seeds": 1, "planner": planner})
    assert found.failures == {"eigenstep, ddim, 3 calls, seed 0": "not planned: 3 steps are one too many"}
    assert found.verdict("ddim", 3, "rmse") is None
    assert found.verdict("ddim", 4, "rmse") is not None


def test_out_of_memory_halves_the_batch_and_changes_nothing(found, data, tmp_path):
    def fails(x, sigma):
        if len(x) == 30:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return x

    with pytest.warns(RuntimeWarning, match="Out of memory with a batch of 30; going on with 15"):
        again = evaluate(Wiener(fails), data, tmp_path / "out", **OPTIONS)
    for cell, record in again.cells.items():
        if cell.grid == OURS:
            continue  # planned otherwise here
        # The same samples to float32, whatever the batch.
        assert record["metrics"]["rmse"] == pytest.approx(found.cells[cell]["metrics"]["rmse"], rel=1e-5)


def test_two_devices_give_what_one_gives(found, data, tmp_path):
    again = evaluate(Wiener(), data, tmp_path / "out", **OPTIONS, devices=["cpu", "cpu"])
    assert len(again.cells) == 2 * 3 * 2
    for cell, record in again.cells.items():
        if cell.grid == OURS:
            continue  # planned otherwise here
        assert record["metrics"] == pytest.approx(found.cells[cell]["metrics"], rel=1e-6)


@pytest.mark.parametrize(
    ("model", "change", "message"),
    [
        (lambda x, sigma: x[:, :3], {}, r"the model gives items of shape \(3,\) for the data's \(6,\)"),
        (lambda x, sigma: x @ torch.ones(5, 5), {}, r"the model fails on items of the data's shape \(6,\)"),
        (Wiener(), {"scale": 100.0}, "do not seem to be what `denoiser` was trained on: .* check the value range"),
        (Wiener(), {"sigma_max": 100.0}, "`sigma_max` 100 exceeds the model's own, 80"),
        (Wiener(), {"sigma_min": 0.001}, "`sigma_min` 0.001 is below the model's own, 0.002"),
        (Wiener(), {"calls": []}, "must each hold at least one"),
        (Wiener(), {"calls": [0]}, "`calls` must be at least 1, got 0"),
        (Wiener(), {"n_items": 2}, "`n_items` must be at least 3"),
        (Wiener(), {"solvers": ["ddmi"]}, "`solver` must be one of"),
        (Wiener(), {"grids": ["karas"]}, "`grids` must be one of .* Did you mean 'karras'"),
        (Wiener(), {"features": ["pixel"]}, "`features` must be one of .* Did you mean 'pixels'"),
        (Wiener(), {"features": []}, "`features` must name at least one"),
        (Wiener(), {"labels": [1, 2]}, "one for each of the 300 items"),
        (Wiener(), {"dask": "local:1"}, "`model` must be a folder or module:function for workers"),
        ("nowhere", {}, "`model` must be a folder of a diffusers pipeline or module:function, got 'nowhere'"),
        ("nowhere.py:denoiser", {}, "there is no file 'nowhere.py'"),
        ("no_such_module:denoiser", {}, "there is no module 'no_such_module'"),
        ("json:denoiser", {}, "json has no function 'denoiser'"),
        ("json:dumps(1)", {}, "must return a denoiser D\\(x, sigma\\), got str"),
    ],
)
def test_refusals(data, tmp_path, model, change, message):
    options = {**OPTIONS, "calls": [3], "seeds": 1}
    if not isinstance(model, (str, Wiener)):
        options |= {"sigma_min": 0.002, "sigma_max": 80.0}
    scale = change.pop("scale", 1.0)
    with pytest.raises(ValueError, match=message):
        evaluate(model, scale * data, tmp_path / "out", **{**options, **change})


def test_a_model_without_a_range_must_be_given_one(data, tmp_path):
    with pytest.raises(ValueError, match="tells no finite range of noise levels"):
        evaluate(lambda x, sigma: x, data, tmp_path / "out", **OPTIONS)


def test_too_few_items_are_refused(data, tmp_path):
    with pytest.raises(ValueError, match="at least 20 items, got shape"):
        evaluate(Wiener(), data[:10], tmp_path / "out", **OPTIONS)


def test_another_stated_shape_is_refused_and_unit_axes_are_not(data, tmp_path):
    stated = Wiener()
    stated.item_shape = (1, 6)
    found = evaluate(stated, data, tmp_path / "one", **OPTIONS | {"calls": [3], "seeds": 1})
    assert found.settings["item_shape"] == [1, 6]
    stated.item_shape = (2, 3)
    with pytest.raises(ValueError, match=r"takes items of shape \(2, 3\) and the data have \(6,\)"):
        evaluate(stated, data, tmp_path / "two", **OPTIONS)


def test_a_lost_endpoint_is_named(tmp_path):
    recipe = Recipe(str(tmp_path), "run", Model(Wiener()), (), (6,), 30, 30, 0.002, 80.0, None, 0.01, 128)
    bench = Bench(recipe, None)
    with pytest.raises(ValueError, match="the converged endpoint is missing"):
        bench.run(Cell("karras", "ddim", 3, 0), hand_entries(3, 0.002, 80.0, names=["karras"])[0])


# ---------------------------------------------------------------------- what is said


def made(ours, theirs, others=None):
    """An evaluation of given RMSEs, ddim at 4 calls."""
    values = {OURS: ours, "karras": theirs, **(others or {})}
    cells = {
        Cell(name, "ddim", 4, seed): {"error": None, "metrics": {"rmse": value}, "rmse_interval": [0.9 * value, 1.1 * value]}
        for name, each in values.items()
        for seed, value in enumerate(each)
    }
    fit = ErrorCurve(np.array([2.0, 1.0]), np.ones(2), np.zeros(2), np.ones(2), 10, 2.0)
    return Evaluation({"solvers": ["ddim"]}, "model", {}, fit, {}, cells, {})


def test_verdicts_follow_the_paired_interval():
    noise = np.array([0.0, 0.3, -0.2, 0.1])
    better = made(1.0 + noise, 1.1 + noise + [0.0, 0.01, -0.01, 0.0]).verdict("ddim", 4, "rmse")
    # Unpaired, the spread of the seeds would hide a difference of a tenth.
    assert better.word == "better"
    assert better.ours.low < better.theirs.mean < better.ours.high
    assert made(1.1 + noise, 1.0 + noise).verdict("ddim", 4, "rmse").word == "worse"
    assert made(1.0 + noise, 1.0 - noise).verdict("ddim", 4, "rmse").word == "even"
    assert made([1.0], [2.0]).verdict("ddim", 4, "rmse").word == "one seed"
    others = {"exponential": [0.5, 0.6], "golden": [0.1], "karras + warm start": [0.1, 0.1], WITHOUT_WARM: [0.1, 0.1]}
    hindsight = made([1.0, 1.2], [3.0, 3.1], others).verdict("ddim", 4, "rmse")
    assert hindsight.best == "exponential"  # golden lacks a seed, the last two are no grids of the catalogue
    assert hindsight.ratio == pytest.approx(2.0)


def test_one_seed_has_the_interval_over_items():
    interval = made([1.0], [2.0]).interval(OURS, "ddim", 4, "rmse")
    assert (interval.mean, interval.low, interval.high) == (1.0, 0.9, 1.1)


def test_sentences_count_the_verdicts(found):
    first, second = evaluation_sentences(found)
    words = [each.word for each in found.verdicts() if each.metric == "rmse"]
    better = words.count("better")
    assert first.startswith(f"RMSE to the converged endpoint: ours is better than the catalogue's best in {better} of 3")
    assert second.startswith("Fréchet distance to the converged endpoint, pixels:")
    assert "one seed alone has no interval" in evaluation_sentences(made([1.0], [2.0]))[0]


def test_json_is_plain_and_complete(found):
    record = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert len(record["cells"]) == len(found.cells)
    row = next(r for r in record["summary"] if (r["grid"], r["solver"], r["calls"]) == ("karras", "ddim", 4))
    values = [found.cells[Cell("karras", "ddim", 4, seed)]["metrics"]["rmse"] for seed in (0, 1)]
    assert row["metrics"]["rmse"]["mean"] == pytest.approx(np.mean(values), rel=1e-12)
    assert {each["word"] for each in record["verdicts"]} <= {"better", "even", "worse"}


def test_the_page_holds_everything(found, tmp_path):
    path = tmp_path / "report.html"
    evaluation_report(found, path)
    page = path.read_text(encoding="utf-8")
    assert "on a &lt; b</h1>" in page
    for sentence in evaluation_sentences(found):
        assert sentence in page.replace("&#x27;", "'")
    for metric in found.metrics:
        assert metric_title(metric) in page
    assert page.count("<svg") == 2 + 3  # RMSE and Fréchet curves of ddim; sheets of ddim at 3 and 4 calls, of heun at 3
    for outside in ("<script", "<link", "http://", "https://"):
        assert outside not in page.replace("http://www.w3.org", "")


def test_the_page_tells_what_failed(found, tmp_path):
    broken = dict(found.cells) | {Cell("golden", "ddim", 4, 0): {"error": "it broke & burned"}}
    facts = {"settings": found.settings, "model": "m", "facts": found.facts, "fit": found.fit}
    evaluation_report(Evaluation(**facts, references=found.references, cells=broken, sheets={}), tmp_path / "r.html")
    assert "golden, ddim, 4 calls, seed 0: it broke &amp; burned" in (tmp_path / "r.html").read_text(encoding="utf-8")
    nothing = {Cell(OURS, "ddim", 4, 0): {"error": "it broke"}}
    with pytest.raises(ValueError, match="no finished cell to report; the reasons: it broke"):
        evaluation_report(Evaluation(**facts, references={}, cells=nothing, sheets={}), tmp_path / "n.html")


def test_curves_and_sheets_draw_what_they_are_given():
    nan = math.nan
    curves = {"plan": ([0.5, 0.3], [0.4, 0.2], [0.6, 0.4]), "karras": ([0.9, 0.7], [nan, -0.1], [nan, 1.5])}
    ax = plots.quality_against_calls([4, 6], curves, ours="plan", named=["karras"])
    assert [line.get_ydata().tolist() for line in ax.lines] == [[0.9, 0.7], [0.5, 0.3]]
    assert ax.get_yscale() == "log"
    rows = {"plan": np.zeros((2, 3, 5, 5)), "converged": np.ones((2, 3, 5, 5))}
    sheet = plots.sample_sheet(rows, ours="plan", value_range=(0.0, 1.0))
    assert len(sheet.images) == 4
    assert float(sheet.images[0].get_array().max()) == 0.0
    assert float(sheet.images[-1].get_array().min()) == 1.0
    signals = plots.sample_sheet({"plan": np.zeros((2, 20))})
    assert len(signals.lines) == 2
    assert len(signals.images) == 0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.quality_against_calls([4], {"a": ([1.0], [1.0], [1.0])}, ours="b"), "no curve named 'b'"),
        (lambda: plots.quality_against_calls([4], {"a": ([1.0], [1.0])}, ours="a"), "must hold three values per number"),
        (lambda: plots.quality_against_calls([4], {"a": ([0.0], [0.0], [0.0])}, ours="a"), "must be positive"),
        (lambda: plots.sample_sheet({}), "rows of one shape"),
        (lambda: plots.sample_sheet({"a": np.zeros((2, 9)), "b": np.zeros((3, 9))}), "rows of one shape"),
    ],
)
def test_figures_refuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# ---------------------------------------------------------------------- the command


@pytest.fixture
def files(tmp_path, data):
    np.save(tmp_path / "data.npy", data)
    (tmp_path / "mine.py").write_text(
        textwrap.dedent(
            f"""
            class Wiener:
                sigma_min, sigma_max = 0.002, 80.0
                def __call__(self, x, sigma):
                    lam = x.new_tensor({LAM.tolist()})
                    return x * (lam / (lam + sigma**2))
            def denoiser(scale="1"):
                assert scale == "1"
                return Wiener()
            """
        )
    )
    common = ["--data", tmp_path / "data.npy", "-o", tmp_path / "out", "--grids", "karras", "--features", "pixels", "-q"]
    return tmp_path, [f"{tmp_path}/mine.py:denoiser(1)", *common, "--samples", "20", "--seeds", "2"]


def command(*arguments):
    from eigenstep import cli

    return CliRunner().invoke(cli.cli, ["evaluate", *map(str, arguments)], prog_name="eigenstep")


def test_the_command_writes_and_prints(files):
    folder, arguments = files
    result = command(*arguments, "--steps", "3", "--solvers", "ddim")
    assert result.exit_code == 0, result.stderr
    assert "RMSE to the converged endpoint" in result.stdout
    assert (folder / "out" / "report.html").exists()
    record = json.loads((folder / "out" / "results.json").read_text(encoding="utf-8"))
    assert record["settings"]["data_name"] == "data"
    again = command(*arguments, "--steps", "3", "--solvers", "ddim", "--resume", "--format", "json")
    assert json.loads(again.stdout) == record


def test_the_command_refuses_in_one_line(files):
    _, arguments = files
    for extra, message in (
        (["--steps", "0"], "`steps` must be a range"),
        (["--solvers", "ddmi"], "`solver` must be one of"),
        (["--weights", "inception"], "`weights` must be NAME=FILE"),
        (["--labels", "none.npy"], "`labels`: there is no file 'none.npy'"),
        (["--format", "xml"], "`format` must be one of table, json"),
        (["--device", "cuda:7"], "`device` 'cuda:7' is not there"),
    ):
        result = command(*arguments, *extra)
        assert result.exit_code == 2, (extra, result.output)
        assert message in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1


def test_labels_go_with_the_items_that_were_drawn(tmp_path):
    from eigenstep.cli.evaluate import _labels

    np.savez(tmp_path / "labels.npz", kinds=np.arange(10) * 11)
    np.testing.assert_array_equal(_labels(f"{tmp_path}/labels.npz:kinds", np.array([1, 7])), [11, 77])
    with pytest.raises(ValueError, match=r"`labels` must be one for each item of the data, got 10 for item 12"):
        _labels(f"{tmp_path}/labels.npz:kinds", np.array([1, 12]))


def test_few_items_are_planned_for_on_the_population_and_the_report_says_so(tmp_path):
    """30 items in 12 dimensions: the population's eigenvalues by rank, on the sample's eigenvectors."""
    lam = np.geomspace(9.0, 0.01, 12)
    items = np.random.default_rng(5).standard_normal((30, 12)) * np.sqrt(lam)

    class Few(Wiener):
        def __call__(self, x, sigma):
            return x * (x.new_tensor(lam) / (x.new_tensor(lam) + sigma**2))

    options = {**OPTIONS, "calls": [3], "seeds": 1, "n_items": 4, "grids": ["karras"]}
    found = evaluate(Few(), items, tmp_path / "out", **options)
    sample = Spectrum.from_samples(items, basis=12)
    chosen = choose_spectrum(sample, 0.002, 80.0)
    assert chosen.eigenvalues == "population"
    assert found.settings["eigenvalues"] == "population"
    assert found.facts["spectrum"]["reason"] == chosen.reason
    evaluation_report(found, tmp_path / "report.html")
    assert "Planned on the population" in (tmp_path / "report.html").read_text(encoding="utf-8")
    used = contest._on_directions(chosen.spectrum, sample)
    assert used.trace == pytest.approx(chosen.spectrum.trace, rel=1e-12)
    assert used.basis is not None
    # The bound of the gauge, a smooth sum over the spectrum, is the population's: ranks are one direction wide.
    np.testing.assert_allclose(cramer_rao_bound(used, found.fit.sigmas), found.fit.bound, rtol=1e-12)
    np.testing.assert_allclose(found.fit.bound, cramer_rao_bound(chosen.spectrum, found.fit.sigmas), rtol=0.03)


def test_what_the_model_is_told_is_kept_and_must_be_told_again(files):
    folder, arguments = files
    with open(folder / "mine.py", "a") as stream:
        stream.write("\ndef told(*, prompt):\n    return Wiener()\n")
    arguments[0] = f"{folder}/mine.py:told"
    result = command(*arguments, "--steps", "3", "--solvers", "ddim", "--prompt", "a cat", "--format", "json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["settings"]["conditions"] == {"prompt": "a cat"}
    other = command(*arguments, "--steps", "3", "--solvers", "ddim", "--prompt", "a dog", "--resume")
    assert other.exit_code == 2
    assert "begun with another conditions" in other.stderr
    wrong = command(*arguments, "--steps", "3", "--solvers", "ddim", "--prompt", "a cat", "--guidance", "5", "--resume")
    assert wrong.exit_code == 2
    assert "cannot be made with prompt, guidance_scale by name (got an unexpected keyword argument" in wrong.stderr


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(files, monkeypatch):
    folder, arguments = files
    add = Store.add

    def stop(self, cell, record):
        if len(self.finished) == 3:
            raise KeyboardInterrupt
        add(self, cell, record)

    monkeypatch.setattr(Store, "add", stop)
    result = command(*arguments, "--steps", "3", "--solvers", "ddim")
    assert result.exit_code == 130
    assert "go on with --resume" in result.stderr
    assert len((folder / "out" / "cells.jsonl").read_text().splitlines()) == 3


@pytest.mark.slow
def test_a_cluster_gives_what_this_process_gives(files):
    pytest.importorskip("distributed")
    folder, arguments = files
    alone = command(*arguments, "--steps", "3", "--solvers", "ddim", "--format", "json")
    arguments[arguments.index("-o") + 1] = folder / "cluster"
    result = command(*arguments, "--steps", "3", "--solvers", "ddim", "--format", "json", "--dask", "local:2")
    assert result.exit_code == 0, result.stderr
    ours, theirs = json.loads(result.stdout)["cells"], json.loads(alone.stdout)["cells"]
    for one, other in zip(ours, theirs, strict=True):
        assert one["metrics"] == pytest.approx(other["metrics"], rel=1e-6)


def test_a_spectrum_of_more_data_can_be_planned_on(files):
    folder, arguments = files
    Spectrum.from_eigenvalues(LAM).save(folder / "more.json")
    result = command(*arguments, "--steps", "3", "--solvers", "ddim", "--spectrum", folder / "more.json", "--format", "json")
    assert result.exit_code == 0, result.stderr
    grids = {cell["grid"] for cell in json.loads(result.stdout)["cells"]}
    assert grids == {"eigenstep", "karras"}  # no basis, no warm start


@pytest.mark.slow
def test_a_pipeline_folder_is_a_model(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    network = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    )  # fmt: skip
    diffusers.DDPMPipeline(network, diffusers.DDPMScheduler()).save_pretrained(tmp_path / "pipeline")
    images = np.random.default_rng(0).uniform(-1.0, 1.0, (80, 8, 8))
    options = {**OPTIONS, "calls": [3], "seeds": 1, "n_items": 4, "grids": ["trailing"]}
    found = evaluate(str(tmp_path / "pipeline"), images, tmp_path / "out", **options)
    assert (found.model, found.settings["item_shape"]) == ("pipeline", [1, 8, 8])
    assert found.settings["sigma_max"] == pytest.approx(157.407, rel=1e-5)
    # A grid of the path itself competes.
    assert {cell.grid for cell in found.cells} == {OURS, "trailing"}
    assert not found.failures


def test_a_warm_start_from_elsewhere_is_another_cell():
    from eigenstep.evaluation.cells import record_of
    from eigenstep.evaluation.competitors import Entry
    from eigenstep.models import WarmStart

    spectrum = Spectrum.from_samples(np.random.default_rng(0).standard_normal((50, 3)), basis=3)
    sigmas = np.array([2.0, 1.0, 0.0])
    starts = (None, WarmStart(spectrum, 2.0, 80.0), WarmStart(spectrum, 2.0))
    records = [record_of(Entry("ours", sigmas, warm)) for warm in starts]
    assert [record["warm_from"] for record in records] == [None, 80.0, None]
    assert [record["warm"] for record in records] == [False, True, True]
