"""`eigenstep plan --model`: the library's plan for a saved pipeline, written so that it can be read back, and refusals."""

from __future__ import annotations

import json
import re
import shlex

import numpy as np
import pytest
from click.testing import CliRunner, Result

from eigenstep import Spectrum, VPDiscrete
from eigenstep.adapters.text import FORMATS
from eigenstep.cli import cli, sources
from eigenstep.data import open_source
from eigenstep.grids import timestep_grid

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
image = pytest.importorskip("PIL.Image")

FEW = ("--judges", 6, "-q")
COUNT = 120
"""Images in the folder."""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="eigenstep")


def done(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, (result.stderr, result.exception)
    return result.stdout


def pixels(count, seed):
    """Gray images of 8 x 8 with neighbours alike, one row of 64 eigenvalues that fall."""
    white = np.random.default_rng(seed).standard_normal((count, 8, 8))
    smooth = np.cumsum(np.cumsum(white, axis=1), axis=2) / 8
    return (128 + 50 * smooth).clip(0, 255).astype(np.uint8)


WIENER = """
import pathlib
import torch
from eigenstep import EDM
from eigenstep.models import ModelDenoiser
import numpy as np

def wiener():
    items = np.load(pathlib.Path(__file__).parent / "photos.npy").reshape(-1, 64) / 127.5 - 1
    values, vectors = (torch.from_numpy(a).float() for a in np.linalg.eigh(np.cov(items.T)))
    mean = torch.from_numpy(items.mean(axis=0)).float()

    def denoised(x, sigma):
        rows = (x.reshape(len(x), 64) - mean) @ vectors * (values / (values + sigma**2))
        return (mean + rows @ vectors.T).reshape(x.shape)

    return ModelDenoiser(denoised, EDM(), "x0", item_shape=(1, 8, 8))
"""
"""A model that is the best one for Gaussian data like these: the Wiener filter."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A pipeline, a folder of images and one array of them."""
    root = tmp_path_factory.mktemp("plan-model")
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,), norm_num_groups=4, layers_per_block=1,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    )
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler(clip_sample=False)).save_pretrained(root / "pipeline")
    (root / "photos").mkdir()
    items = pixels(COUNT, 1)
    for k, item in enumerate(items):
        image.fromarray(item).save(root / "photos" / f"{k:03}.png")
    np.save(root / "photos.npy", items[:, None])
    (root / "mine.py").write_text(WIENER)
    return root


def data(folder):
    return np.concatenate(list(open_source(str(folder / "photos"))))


def made(folder, n, **options):
    """The same plan by the library alone."""
    from eigenstep.models import load_denoiser, plan

    return plan(load_denoiser(folder / "pipeline"), data(folder), n, judges=6, **options)


def test_the_plan_is_the_library_s(folder, tmp_path):
    out = tmp_path / "plan.json"
    printed = json.loads(
        done("plan", folder / "photos", "--model", folder / "pipeline", "-n", 3, *FEW, "--format", "json", "-o", out)
    )
    expected = made(folder, 3)
    # The command feeds the network float32, the library float64 through float32: candidates may differ in the last digits.
    np.testing.assert_allclose(printed["sigmas"], expected.sigmas, rtol=1e-3)
    assert printed["reason"].split(":")[0] == expected.reason.split(":")[0]
    assert printed["solver"] == "ddim"
    assert (printed["steps"], printed["nfe"]) == (3, 3)
    assert json.loads(out.read_text()) == printed
    assert printed["spectrum"]["n_samples"] == printed["gauge"]["items"] == COUNT
    # 25 levels of the gauge, 60 calls from each judge and 30 from each again, then the candidates.
    assert printed["network_calls"] == COUNT * 25 + 6 * 90 + printed["calls"]


def test_a_warm_plan_is_read_back_with_its_spectrum_and_drives_a_scheduler(folder, tmp_path):
    from eigenstep.adapters.diffusers import apply, read_back
    from eigenstep.models import Plan

    out = tmp_path / "plan.json"
    result = run("plan", folder / "photos", "--model", f"{folder}/mine.py:wiener", "-n", 4, "--judges", 6, "-o", out)
    assert f"saved the plan to {out}; its warm start needs the spectrum in {tmp_path / 'plan.npz'}." in result.stderr
    assert "`eigenstep spectrum`" in result.stderr  # 120 items in 64 dimensions are few
    plan = Plan.from_json(out.read_text(), spectrum=Spectrum.load(tmp_path / "plan.npz"))
    # The Gaussian's own solution is the network's: the later it begins, the less is left to its four steps.
    assert plan.warm is not None
    assert plan.start_level < 20
    noise = np.random.default_rng(0).standard_normal((2, 1, 8, 8))
    assert plan.warm(noise).shape == (2, 1, 8, 8)
    scheduler = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0)
    np.testing.assert_array_equal(read_back(apply(plan, scheduler)), plan.sigmas)


def test_levels_are_fitted_unless_told_not_to(folder):
    arguments = ("plan", folder / "photos", "--model", folder / "pipeline", "-n", 3, "--solver", "dpmpp_2m", *FEW)
    fitted, computed = done(*arguments), done(*arguments, "--no-fit")
    assert "fitted" in fitted
    assert "fitted" not in computed
    spent = [int(re.search(r"([\d,]+) network calls", text).group(1).replace(",", "")) for text in (fitted, computed)]
    assert spent[0] - spent[1] >= 24 * 60


def test_the_table_says_what_was_chosen_why_and_what_it_cost(folder):
    text = done("plan", folder / "photos", "--model", folder / "pipeline", "-n", 3, *FEW)
    lines = text.splitlines()
    assert lines[0] == "pipeline on photos: 3 ddim steps"
    assert [line.split()[0] for line in lines[3:7]] == ["1", "2", "3", "end"]
    (chosen,) = [line for line in lines if "← chosen" in line]
    rivals = lines[lines.index(chosen) + 1 :][:3]
    error, low, high = (float(number) for number in re.search(r"([\d.e+-]+) +([\d.e+-]+) – ([\d.e+-]+)", chosen).groups())
    assert low <= error <= high
    for line in rivals:
        assert float(re.search(r"([\d.e+-]+) +[\d.e+-]+ –", line)[1]) >= error
    assert re.search(r"gauge, 120 items: .*bound", text)
    assert re.search(r"\d+,\d{3} network calls were spent, counted by item\.", text)


def test_quick_plans_say_what_they_cost_and_what_they_rest_on(folder):
    arguments = ("plan", folder / "photos", "--model", folder / "pipeline", "-n", 3, "--judges", "quick", "-q")
    record = json.loads(done(*arguments, "--format", "json"))
    grids = len(record["candidates"])
    assert grids in (20, 21)
    assert record["network_calls"] == 8 * 12 + 4 * 22 + 4 * 3 * grids
    assert (record["gauge"]["items"], record["endpoint_error"]) == (8, None)
    assert {each["noises"] for each in record["candidates"]} == {4}
    assert "from the end of longer runs over 4 noises" in record["reason"]
    more = json.loads(done(*arguments, "--format", "json", "--gauge-items", 16))
    assert more["network_calls"] - record["network_calls"] == 8 * 12 + 4 * 3 * (len(more["candidates"]) - grids)


@pytest.mark.parametrize("name", ["diffusers", "comfyui"])
def test_formats_of_hosts_begin_with_plain_noise(folder, name):
    arguments = ("plan", folder / "photos", "--model", folder / "pipeline", "-n", 2, "--judges", 0, "-q")
    record = json.loads(done(*arguments, "--cold", "--format", "json"))
    assert record["warm"] is None
    # Plain noise begins at the network's top level, or where diffusers' default timesteps do.
    leading = timestep_grid(2, path=VPDiscrete.ddpm(), spacing="leading")
    assert any(record["sigmas"][0] == pytest.approx(level, rel=1e-5) for level in (157.407, leading[0]))
    text = done(*arguments, "--format", name)
    if name == "diffusers":
        scope = {"pipe": type("Pipe", (), {"scheduler": diffusers.DDIMScheduler(clip_sample=False)})}
        exec(text, scope)
        from eigenstep.adapters.diffusers import read_back

        # The lowest timestep's level comes back through a logarithm.
        np.testing.assert_allclose(read_back(scope["pipe"].scheduler), record["sigmas"], rtol=1e-12)
    else:
        assert text == FORMATS[name].write(record["sigmas"], None) + "\n"


def test_a_measured_spectrum_with_and_without_data_for_the_gauge(folder, tmp_path):
    items = data(folder)
    Spectrum.from_samples(items, basis=20).save(tmp_path / "mine.npz")
    model = ("--model", folder / "pipeline", "-n", 2, "--judges", 0, "--format", "json")
    blind = run("plan", tmp_path / "mine.npz", *model)
    assert "without --data there is no gauge" in blind.stderr
    assert json.loads(blind.stdout)["gauge"] is None
    seeing = json.loads(done("plan", tmp_path / "mine.npz", "--data", folder / "photos", *model, "--items", 50))
    assert seeing["gauge"]["items"] == 50
    few = json.loads(done("plan", tmp_path / "mine.npz", "--data", folder / "photos", *model, "--gauge-items", 12))
    assert few["gauge"]["items"] == 12
    assert few["network_calls"] == 12 * 25 + 4 * 14
    assert seeing["spectrum"]["n_samples"] == COUNT
    # Without the argument, --data is both.
    alone = json.loads(done("plan", "--data", folder / "photos", *model, "-q"))
    same = json.loads(done("plan", folder / "photos", *model, "-q"))
    assert alone == same
    plain = tmp_path / "plain.json"
    Spectrum.from_samples(items).save(plain)
    assert "without them there is no warm start" in run("plan", plain, "--data", folder / "photos", *model).stderr


def test_a_function_is_a_model_and_its_range_can_be_narrowed(folder, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text("def shrink():\n    return lambda x, sigma: x / (1 + sigma**2)\n")
    arguments = ("plan", folder / "photos.npy", "--range", "-1,1", "--model", f"{tmp_path}/mine.py:shrink", "-n", 2)
    record = json.loads(done(*arguments, *FEW, "--format", "json", "--sigma-min", 0.1, "--sigma-max", 20, "--cold"))
    assert (record["sigma_min"], record["sigma_max"], record["timesteps"]) == (0.1, 20.0, None)
    assert record["sigmas"][0] == 20.0
    assert "tells no finite range of noise levels" in run(*arguments, *FEW).stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("{photos} --model {model} --path ddpm", "`--path` is for plans by theory alone: with --model, the model tells its"),
        ("{photos} --model {model} --objective kl", "`--objective` is for plans by theory alone"),
        ("digits --judges 8", "`--judges` is for plans for a network: give --model as well"),
        ("digits --data {photos}", "`--data` is for plans for a network"),
        ("{photos} --model {model} --data {photos}", r"`data` is for the gauge beside a measured spectrum, and '.*' is data"),
        ("--model {model}", r"Missing argument 'SPECTRUM_OR_SOURCE'\."),
        ("{photos} --model {photos}/nothing", "`model` must be a folder of a diffusers pipeline or module:function"),
        ("{photos} --model {model} --target fid", "`target` must be one of endpoint, data"),
        ("{photos} --model {model} --target data --cold", "`target` data needs a warm start: leave out --cold"),
        ("{photos} --model {model} --judges -1", "`judges` must be at least 0, got -1"),
        ("{photos} --model {model} --judges few", "`judges` must be a number of noises, or quick, got 'few'"),
        ("{photos} --model {model} --gauge-items 1", "`gauge_items` must be at least 2, got 1"),
        ("digits --gauge-items 8", "`--gauge-items` is for plans for a network: give --model as well"),
        ("{photos} --model {model} --items 3", "`items` must be at least 20, got 3"),
        ("{photos} --model {model} --solver dmp", "`solver` must be one of ddim"),
        ("{photos} --model {model} -o plan.txt", r"The output file must end in \.json, got 'plan\.txt'"),
        ("{photos} --model {model} --size 4", r"the model takes items of shape \(1, 8, 8\) and the data have \(1, 4, 4\)"),
        ("{photos} --model {mine} --range 0,255", "`data` do not seem to be what `denoiser` was trained on"),
        ("{photos} --model {model} --device cuda:77", "`device`"),
        ("{photos}/none --model {model}", "There is no file, folder or zoo spectrum"),
        ("{photos} --model {photos}", "model_index.json"),
        ("{photos} --model {model} --format yaml", "`format` must be one of table, json, diffusers"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(folder, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = arguments.format(photos=folder / "photos", model=folder / "pipeline", mine=f"{folder}/mine.py:wiener")
    result = run("plan", "-n", 2, "-q", *shlex.split(words))
    assert result.exit_code == 2, (result.stdout, result.exception)
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert re.search(message, result.stderr)
    assert not list(tmp_path.iterdir())


def test_items_are_spread_over_a_source_that_is_sorted(tmp_path):
    np.save(tmp_path / "sorted.npy", np.arange(10_000.0)[:, None])
    source = open_source(str(tmp_path / "sorted.npy"), batch_size=512)
    read = sources.items_of(source, 1000, True)[:, 0]
    # Runs of 7 items, each an eighth of the way... to the next: none missing at either end, none twice.
    assert 900 <= read.size <= 1000
    assert np.unique(read).size == read.size
    assert read.mean() == pytest.approx(5000, rel=0.02)
    assert (read[0], read[-1] > 9900) == (0.0, True)
    np.testing.assert_array_equal(sources.items_of(source, 10_000, True)[:, 0], np.arange(10_000.0))


def test_a_random_subset_is_drawn_evenly_and_again_the_same(tmp_path):
    np.save(tmp_path / "sorted.npy", np.arange(10_000.0)[:, None])
    source = open_source(str(tmp_path / "sorted.npy"), batch_size=512)
    for most in (5000, 500):  # all of them read, and runs spread over them
        drawn, numbers = sources.drawn_from(source, most, True, seed=0)
        assert drawn.shape == (most, 1)
        np.testing.assert_array_equal(drawn[:, 0], numbers)
        assert np.all(np.diff(numbers) > 0)
        # Uniform: the Kolmogorov-Smirnov distance of n draws exceeds 1.95/sqrt(n) once in a thousand.
        assert np.abs((numbers + 0.5) / 10_000 - (np.arange(most) + 0.5) / most).max() < 1.95 / most**0.5
        np.testing.assert_array_equal(sources.drawn_from(source, most, True, seed=0)[1], numbers)
        assert not np.array_equal(sources.drawn_from(source, most, True, seed=1)[1], numbers)
    np.testing.assert_array_equal(sources.drawn_from(source, 20_000, True, seed=0)[0][:, 0], np.arange(10_000.0))


def test_a_random_subset_has_the_chance_of_every_item(tmp_path):
    """One of four items, drawn with 600 seeds: each in a quarter of them."""
    np.save(tmp_path / "four.npy", np.arange(12.0)[:, None])
    source = open_source(str(tmp_path / "four.npy"), batch_size=5)
    counts = np.bincount(np.concatenate([sources.drawn_from(source, 4, True, seed=seed)[1] for seed in range(600)]))
    # 200 of 600 expected, with a standard deviation of 11.5: four of them.
    np.testing.assert_allclose(counts, 200, atol=46)


def test_a_full_disk_loses_no_plan(folder, tmp_path, monkeypatch):
    from pathlib import Path

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    result = run("plan", "digits", "-n", 3, "-o", tmp_path / "plan.json")
    assert result.exit_code == 2
    assert len(json.loads(result.stdout)["sigmas"]) == 4
