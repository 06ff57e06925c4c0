"""The command line: the numbers are the library's, output is parsable, every refusal is one line and exit code 2."""

from __future__ import annotations

import ast
import errno
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from eigenstep import cli
from eigenstep._version import __version__
from eigenstep.adapters.text import FORMATS
from eigenstep.cli import evidence, progress
from eigenstep.cli.aim import Aim
from eigenstep.data import Measurement, accumulate, measure, open_source
from eigenstep.estimation import Population, variance_error
from eigenstep.gaussian import divergence
from eigenstep.grids import catalogue_grids
from eigenstep.moments import Moments, StationaryMoments
from eigenstep.optimal import optimal_grid
from eigenstep.paths import PATHS
from eigenstep.spectrum import Spectrum, zoo_names


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli.cli, [str(argument) for argument in arguments], prog_name="eigenstep")


def done(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def plan(*arguments: object) -> dict:
    return json.loads(done("plan", *arguments, "--format", "json"))


@pytest.fixture
def samples() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((200, 4)) * [2.0, 1.0, 0.5, 0.1]


@pytest.fixture
def saved(tmp_path, samples) -> Path:
    path = tmp_path / "mine.json"
    Spectrum.from_samples(samples).save(path)
    return path


class TestPlan:
    def test_json_is_what_the_library_computes(self, saved):
        record = plan(saved, "--steps", 5, "--solver", "heun", "--objective", "kl", "--sigma-max", 40)
        spectrum = Spectrum.load(saved)
        result = optimal_grid(spectrum, 5, 0.002, 40.0, solver="heun", objective="kl")
        assert record["sigmas"] == result.sigmas.tolist()
        assert len(record["sigmas"]) == 6
        assert np.all(np.diff(record["sigmas"]) < 0)
        assert record["value"] == result.value
        assert record["converged"] is True
        assert record["nfe"] == 9
        assert record["timesteps"] is None
        assert record["version"] == __version__
        assert (record["solver"], record["objective"], record["steps"]) == ("heun", "kl", 5)
        assert (record["sigma_min"], record["sigma_max"], record["final"]) == (0.002, 40.0, 0.0)

    @pytest.mark.parametrize(
        ("solver", "options", "objective"),
        [
            ("ddim", (), "w2"),
            ("dpmpp_2m", (), "blend"),
            ("dpmpp_2m", ("--start", "prior"), "w2"),
            ("dpmpp_2m", ("--objective", "local"), "local"),
        ],
    )
    def test_the_solver_says_what_to_plan_for_unless_told(self, saved, solver, options, objective):
        record = plan(saved, "--steps", 4, "--solver", solver, *options)
        assert record["objective"] == objective
        start = "prior" if "prior" in options else "marginal"
        expected = optimal_grid(Spectrum.load(saved), 4, 0.002, 80.0, solver=solver, objective=objective, start=start)
        assert record["sigmas"] == expected.sigmas.tolist()

    def test_json_baselines_are_the_catalogue_in_ascending_order(self, saved):
        record = plan(saved, "--steps", 5)
        spectrum = Spectrum.load(saved)
        grids = catalogue_grids(5, 0.002, 80.0, spectrum=spectrum)
        assert record["baselines"] == {name: divergence(spectrum, grid) for name, grid in grids.items()}
        values = list(record["baselines"].values())
        assert values == sorted(values)
        assert record["value"] <= values[0]

    def test_json_tells_the_spectrums_story(self, tmp_path, samples):
        path = tmp_path / "named.json"
        Spectrum.from_samples(samples, provenance={"name": "four numbers", "caveat": "made up"}).save(path)
        told = plan(path, "--steps", 2)["spectrum"]
        assert (told["name"], told["dim"], told["n_samples"]) == ("four numbers", 4, 200)
        assert told["provenance"]["caveat"] == "made up"
        assert told["trace"] == pytest.approx(np.trace(np.cov(samples.T)), rel=1e-12)

    def test_path_sets_the_range_and_the_times(self):
        record = plan("digits", "--steps", 4, "--path", "sd15")
        path = PATHS["sd15"]()
        assert (record["sigma_min"], record["sigma_max"]) == (path.sigma_min, path.sigma_max)
        assert len(record["timesteps"]) == 4
        # One logarithm and one exponential apart.
        np.testing.assert_allclose(path.t_to_sigma(record["timesteps"]), record["sigmas"][:-1], rtol=1e-12)

    def test_final_at_sigma_min(self):
        record = plan("digits", "--steps", 4, "--final", "sigma-min", "--sigma-min", 0.05)
        assert record["final"] is None
        assert record["sigmas"][-1] == pytest.approx(0.05, rel=1e-12)

    def test_one_step(self):
        record = plan("digits", "--steps", 1)
        assert record["sigmas"] == [80.0, 0.0]

    def test_table_shows_every_level_and_the_verdict(self):
        text = done("plan", "digits", "--steps", 3)
        record = plan("digits", "--steps", 3)
        for sigma in record["sigmas"]:
            assert re.search(rf"\s{re.escape(f'{sigma:.6g}')}\s", text)
        best = next(iter(record["baselines"]))
        share = record["value"] / record["spectrum"]["trace"]
        assert f"squared Wasserstein distance: {record['value']:.6g} ({share:.2%} of the data's variance)\n" in text
        ratio = record["baselines"][best] / record["value"]
        assert f"({best}), {ratio:.2f} times as much" in text
        assert "t  " not in text.splitlines()[2]

    def test_table_with_a_path_shows_times(self):
        text = done("plan", "digits", "--steps", 3, "--path", "ddpm", "--solver", "heun")
        assert "3 heun steps = 5 network calls" in text
        first = text.splitlines()[3].split()
        path = PATHS["ddpm"]()
        assert first[:4] == ["1", f"{path.sigma_max:.6g}", "999", f"{path.log_snr(999):.3f}"]

    def test_comfyui_and_k_diffusion(self):
        record = plan("digits", "--steps", 3)
        listed = [float(v) for v in done("plan", "digits", "--steps", 3, "--format", "comfyui").split(",")]
        line = done("plan", "digits", "--steps", 3, "--format", "k-diffusion")
        tensor = ast.literal_eval(re.fullmatch(r"sigmas = torch\.tensor\((.*)\)\n", line)[1])
        # Nine significant digits.
        np.testing.assert_allclose(listed, record["sigmas"], rtol=1e-8)
        np.testing.assert_allclose(tensor, record["sigmas"], rtol=1e-8)

    @pytest.mark.parametrize("name", FORMATS)
    @pytest.mark.parametrize("path", [None, "sd15", "flow-shift3"])
    def test_every_format_of_the_adapters_is_offered(self, name, path):
        chosen = () if path is None else ("--path", path)
        sigmas = plan("digits", "--steps", 3, *chosen)["sigmas"]
        assert done("plan", "digits", "--steps", 3, "--format", name, *chosen) == FORMATS[name].write(sigmas, path) + "\n"

    def test_comfyui_takes_flow_levels_of_flow_models(self):
        arguments = ("digits", "--steps", 3, "--path", "flow")
        sigmas = np.array(plan(*arguments)["sigmas"])
        listed = [float(v) for v in done("plan", *arguments, "--format", "comfyui").split(",")]
        # Nine significant digits.
        np.testing.assert_allclose(listed, sigmas / (1 + sigmas), rtol=1e-8)

    @pytest.mark.parametrize(
        ("path", "scheduler"),
        [
            (None, "EDMEulerScheduler"),
            ("sd15", "EulerDiscreteScheduler"),
            ("flow-shift3", "FlowMatchEulerDiscreteScheduler"),
        ],
    )
    def test_diffusers_snippet_is_python_for_the_paths_scheduler(self, path, scheduler):
        chosen = () if path is None else ("--path", path)
        snippet = done("plan", "digits", "--steps", 3, "--format", "diffusers", *chosen)
        ast.parse(snippet)
        assert f"scheduler = {scheduler}(" in snippet

    def test_a_search_that_stops_early_is_said(self, monkeypatch):
        import dataclasses

        import eigenstep.optimal

        def early(*arguments, **options):
            return dataclasses.replace(optimal_grid(*arguments, **options), converged=False, message="out of patience")

        monkeypatch.setattr(eigenstep.optimal, "optimal_grid", early)
        result = run("plan", "digits", "--steps", 2, "--format", "json", "--quiet")
        assert json.loads(result.stdout)["converged"] is False
        assert "the search stopped early (out of patience)" in result.stderr


class TestWhatIsPlannedFor:
    def test_every_kind_of_argument(self, tmp_path, samples, monkeypatch):
        expected = optimal_grid(Spectrum.from_samples(samples), 3, 0.002, 80.0).sigmas
        Spectrum.from_samples(samples).save(tmp_path / "spectrum.npz")
        np.save(tmp_path / "array.npy", samples)
        np.savez(tmp_path / "arrays.npz", labels=np.arange(3.0), data=samples)
        for name in ("spectrum.npz", "array.npy", "arrays.npz"):
            # Saved, measured by Moments or measured at once: equal to the rounding of the accumulations.
            np.testing.assert_allclose(plan(tmp_path / name, "--steps", 3)["sigmas"], expected, rtol=1e-6)

    def test_a_zoo_name(self):
        record = plan("digits", "--steps", 3)
        expected = optimal_grid(Spectrum.from_zoo("digits"), 3, 0.002, 80.0).sigmas
        assert record["sigmas"] == expected.tolist()
        assert record["spectrum"]["name"] == "digits"

    def test_a_zoo_name_comes_before_a_file_and_says_so(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        Path("digits").mkdir()
        result = run("plan", "digits", "--steps", 3, "--format", "json")
        assert json.loads(result.stdout)["spectrum"]["dim"] == 64
        assert "'digits' is taken for the spectrum of that name in the zoo; write ./digits" in result.stderr
        folder = run("plan", "./digits", "--steps", 3)
        assert folder.exit_code == 2  # the empty folder, not the spectrum of the zoo

    def test_a_pattern_of_files(self, tmp_path, samples):
        np.save(tmp_path / "only.npy", samples)
        result = run("plan", tmp_path / "*.nothing", "--steps", 3)
        assert result.exit_code == 2
        assert "no file matches" in result.stderr


class TestEigenvalues:
    @pytest.fixture
    def few(self, tmp_path) -> Path:
        x = np.random.default_rng(0).standard_normal((40, 160)) * np.arange(1, 161) ** -0.75
        np.save(tmp_path / "few.npy", x)
        return tmp_path / "few.npy"

    def test_few_samples_are_planned_on_the_population_and_say_so(self, tmp_path, few):
        done("spectrum", few, "-o", tmp_path / "few.json", "-q")
        result = run("plan", tmp_path / "few.json", "--steps", 5, "--format", "json")
        record = json.loads(result.stdout)
        population = Population.from_samples(np.load(few), folds=0).spectrum
        # The file keeps nine digits of the curve, which least squares magnify.
        np.testing.assert_allclose(record["sigmas"], optimal_grid(population, 5, 0.002, 80.0).sigmas, rtol=1e-3)
        assert record["eigenvalues"] == "population"
        assert result.stderr == f"eigenstep: {record['eigenvalues_reason']}\n"
        assert re.search(r"Planned on the population's spectrum: the eigenvalues of 40 samples would put", result.stderr)
        assert run("plan", tmp_path / "few.json", "--steps", 5, "-q").stderr == ""

    def test_the_samples_eigenvalues_can_be_asked_for(self, tmp_path, few):
        done("spectrum", few, "-o", tmp_path / "few.json", "-q")
        result = run("plan", tmp_path / "few.json", "--steps", 5, "--eigenvalues", "sample", "--format", "json")
        record = json.loads(result.stdout)
        assert record["sigmas"] == optimal_grid(Spectrum.load(tmp_path / "few.json"), 5, 0.002, 80.0).sigmas.tolist()
        assert record["eigenvalues"] == "sample"
        assert result.stderr.startswith("eigenstep: The sample's own eigenvalues were asked for. The samples' total variance")
        forced = plan("digits", "--steps", 5, "--eigenvalues", "population")
        expected = optimal_grid(Population.from_spectrum(Spectrum.from_zoo("digits")).spectrum, 5, 0.002, 80.0)
        assert forced["sigmas"] == expected.sigmas.tolist()
        assert plan("digits", "--steps", 5)["eigenvalues"] == "sample"

    def test_a_source_is_planned_as_its_saved_spectrum(self, tmp_path, few):
        done("spectrum", few, "-o", tmp_path / "few.json", "-q")
        assert plan(few, "--steps", 5)["sigmas"] == plan(tmp_path / "few.json", "--steps", 5)["sigmas"]

    def test_compare_takes_the_same_eigenvalues(self, tmp_path, few):
        done("spectrum", few, "-o", tmp_path / "few.json", "-q")
        record = json.loads(done("compare", tmp_path / "few.json", "--steps", "4,5", "--format", "json"))
        assert record["eigenvalues"] == "population"
        assert record["sigmas"][1] == plan(tmp_path / "few.json", "--steps", 5)["sigmas"]

    def test_runs_are_compared_in_a_second_reading(self, tmp_path):
        # Runs of 20 neighbours of one loudness, as windows of one record are.
        loud = np.repeat(np.random.default_rng(1).exponential(size=30), 20)[:, None]
        x = np.random.default_rng(0).standard_normal((600, 4)) * loud
        np.save(tmp_path / "x.npy", x)
        result = run("spectrum", tmp_path / "x.npy", "-o", tmp_path / "x.json", "--runs", 12, "--batch-size", 64)
        assert result.exit_code == 0, result.stderr
        kept = Spectrum.load(tmp_path / "x.json").provenance["variance_error"]
        expected = variance_error(np.sum((x - x.mean(axis=0)) ** 2, axis=1), groups=12)
        assert kept == pytest.approx(expected, rel=5e-3)  # three digits are kept
        assert kept > 0.1
        said = run("plan", tmp_path / "x.json", "--steps", 3).stderr
        assert re.search(r"The samples' total variance has a standard error of \d+ %, so the levels are sure to \d+ %", said)

    def test_items_that_are_held_need_no_second_reading(self, tmp_path, few):
        done("spectrum", few, "-o", tmp_path / "few.json", "-q")
        provenance = Spectrum.load(tmp_path / "few.json").provenance
        assert provenance["left_out"]["method"] == "samples left out one by one"
        x = np.load(few)
        error = variance_error(np.sum((x - x.mean(axis=0)) ** 2, axis=1))
        assert provenance["variance_error"] == pytest.approx(error, rel=5e-3)  # three digits are kept

    def test_too_many_held_items_are_left_alone(self, tmp_path, few, monkeypatch):
        monkeypatch.setattr(evidence, "_MOST_VALUES", 40 * 160 - 1)
        done("spectrum", few, "-o", tmp_path / "few.json", "-q")
        assert "left_out" not in Spectrum.load(tmp_path / "few.json").provenance


class TestSpectrum:
    def test_saves_what_from_samples_gives(self, tmp_path, samples):
        np.save(tmp_path / "x.npy", samples)
        run_result = run("spectrum", tmp_path / "x.npy", "-o", tmp_path / "s.json")
        assert run_result.exit_code == 0, run_result.stderr
        assert run_result.stdout == ""
        assert "saved Spectrum(dim=4" in run_result.stderr
        measured, expected = Spectrum.load(tmp_path / "s.json"), Spectrum.from_samples(samples)
        # The order of float64 additions differs between a stream and one array.
        np.testing.assert_allclose(measured.eigenvalues, expected.eigenvalues, rtol=1e-12)
        assert measured.n_samples == 200

    def test_keeps_the_command_that_made_it(self, tmp_path, samples):
        np.save(tmp_path / "my data.npy", samples)
        run("spectrum", tmp_path / "my data.npy", "-o", tmp_path / "s.json", "--scale", 2, "--quiet")
        kept = Spectrum.load(tmp_path / "s.json").provenance
        assert kept["command"] == f"eigenstep spectrum '{tmp_path}/my data.npy' -o {tmp_path}/s.json --scale 2 --quiet"
        assert kept["name"] == "my data"

    def test_several_tars_are_one_source(self, tmp_path):
        import io
        import tarfile

        from PIL import Image

        rng = np.random.default_rng(0)
        images = rng.integers(0, 256, (40, 4, 4), dtype=np.uint8)
        for part in range(2):
            with tarfile.open(tmp_path / f"{part}.tar", "w") as tar:
                for k in range(20):
                    stream = io.BytesIO()
                    Image.fromarray(images[20 * part + k]).save(stream, "png")
                    entry = tarfile.TarInfo(f"{part}{k:02}.png")
                    entry.size = stream.tell()
                    stream.seek(0)
                    tar.addfile(entry, stream)
        done("spectrum", tmp_path / "0.tar", tmp_path / "1.tar", "-o", tmp_path / "s.json", "-q")
        measured, expected = Spectrum.load(tmp_path / "s.json"), Spectrum.from_samples(images / 127.5 - 1.0)
        # The order of float64 additions differs between a stream and one array.
        np.testing.assert_allclose(measured.eigenvalues, expected.eigenvalues, rtol=1e-11)
        assert measured.n_samples == 40

    def test_reading_options_reach_the_source(self, tmp_path, samples):
        np.savez(tmp_path / "x.npz", a=samples, b=np.tile(samples, (3, 2)))
        assert done("spectrum", tmp_path / "x.npz", "-o", tmp_path / "s.json", "--key", "a", "--scale", 3, "-q") == ""
        measured = Spectrum.load(tmp_path / "s.json")
        assert measured.dim == 4
        np.testing.assert_allclose(measured.trace, 9.0 * Spectrum.from_samples(samples).trace, rtol=1e-12)

    def test_basis_is_kept_for_warm_starts(self, tmp_path):
        rows = np.random.default_rng(5).standard_normal((60, 8)) * np.arange(8, 0, -1)
        np.save(tmp_path / "x.npy", rows)
        done("spectrum", tmp_path / "x.npy", "-o", tmp_path / "s.npz", "--basis", 3, "--accumulator", tmp_path / "a.npz", "-q")
        kept = Spectrum.load(tmp_path / "s.npz")
        assert kept.basis.shape == (3, 8)
        np.testing.assert_allclose(kept.mean.ravel(), rows.mean(axis=0), atol=1e-6)  # float32 means of 60 rows
        done("merge", tmp_path / "a.npz", "--spectrum", tmp_path / "m.npz", "--basis", 3, "-q")
        np.testing.assert_array_equal(Spectrum.load(tmp_path / "m.npz").basis, kept.basis)
        for options, message in (
            (("-o", tmp_path / "s.json"), "`output` must end in .npz"),
            (("-o", tmp_path / "s.npz", "--bins", 4), "exclude each other"),
        ):
            result = run("spectrum", tmp_path / "x.npy", "--basis", 3, *options)
            assert result.exit_code == 2
            assert message in result.stderr

    def test_bins_and_name(self, tmp_path):
        x = np.random.default_rng(0).standard_normal((500, 200)) * np.geomspace(10, 0.1, 200)
        np.save(tmp_path / "x.npy", x)
        done("spectrum", tmp_path / "x.npy", "-o", tmp_path / "s.npz", "--bins", 24, "--name", "wide")
        measured = Spectrum.load(tmp_path / "s.npz")
        assert measured.eigenvalues.size <= 24
        assert measured.dim == 200
        assert measured.binning_error > 0
        assert measured.provenance["name"] == "wide"

    def test_quiet_says_nothing(self, tmp_path, samples):
        np.save(tmp_path / "x.npy", samples)
        result = run("spectrum", tmp_path / "x.npy", "-o", tmp_path / "s.json", "--quiet")
        assert (result.stdout, result.stderr) == ("", "")

    def test_too_few_samples_are_one_warning(self, tmp_path, samples):
        np.save(tmp_path / "x.npy", samples[:3])
        result = run("spectrum", tmp_path / "x.npy", "-o", tmp_path / "s.json", "--quiet")
        assert result.exit_code == 0
        assert re.fullmatch(r"eigenstep: warning: 3 samples of 4 dimensions .*rank 2.*\n", result.stderr)

    def test_a_measured_spectrum_survives_a_full_disk(self, tmp_path, samples, monkeypatch):
        np.save(tmp_path / "x.npy", samples)
        save = Spectrum.save

        def full(self, path):
            if Path(path).parent == tmp_path:
                raise OSError(errno.ENOSPC, "No space left on device.")
            save(self, path)

        monkeypatch.setattr(Spectrum, "save", full)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "elsewhere"))
        (tmp_path / "elsewhere").mkdir()
        result = run("spectrum", tmp_path / "x.npy", "-o", tmp_path / "s.json")
        assert result.exit_code == 2
        refuge = re.search(
            r"^eigenstep: No space left on device\. The measured spectrum is safe in (\S+)\n", result.stderr, re.M
        )[1]
        assert Spectrum.load(refuge).dim == 4

    def test_a_report_that_fails_does_not_lose_the_spectrum(self, tmp_path, samples, monkeypatch):
        report = pytest.importorskip("eigenstep.report", reason="reports need matplotlib")

        def fails(*_: object, **__: object) -> None:
            raise ImportError('Figures need matplotlib; install it with `pip install "eigenstep[plots]"`.')

        monkeypatch.setattr(report, "spectrum_report", fails)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        np.save(tmp_path / "x.npy", samples)
        result = run("spectrum", tmp_path / "x.npy", "--report", tmp_path / "x.html", "--quiet")
        assert result.exit_code == 2
        said = re.fullmatch(
            r"eigenstep: the measured spectrum is safe in (\S+)\.\neigenstep: Figures need matplotlib; .*\n", result.stderr
        )
        assert Spectrum.load(said[1]).dim == 4

    def test_too_little_memory_for_the_eigenvalues_does_not_lose_the_sums(self, tmp_path, samples, monkeypatch):
        def fails(*_: object, **__: object) -> None:
            raise MemoryError

        np.save(tmp_path / "x.npy", samples)
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
        with monkeypatch.context() as patched:
            patched.setattr(Moments, "spectrum", fails)
            result = run("spectrum", tmp_path / "x.npy", "-o", tmp_path / "s.json", "--quiet")
        assert result.exit_code == 2
        kept = re.search(r"4 dimensions does not fit into memory\. The accumulator is safe in (\S+): run", result.stderr)[1]
        done("merge", kept, "--spectrum", tmp_path / "s.json", "--quiet")
        assert Spectrum.load(tmp_path / "s.json").n_samples == 200

    @pytest.mark.parametrize(
        ("output", "message"),
        [
            ("s.txt", r"The output file must end in \.json or \.npz, got .*s\.txt"),
            ("missing/s.json", r"must be in a folder that exists: make .*missing"),
        ],
    )
    def test_a_bad_output_is_refused_before_the_data_are_read(self, tmp_path, output, message):
        result = run("spectrum", tmp_path / "no-such-data.npy", "-o", tmp_path / output)
        assert result.exit_code == 2
        assert re.search(message, result.stderr)


def parts_of(path: Path, n: int) -> list[Path]:
    """The accumulators of n shares of the rows in `path`, each measured by its own command."""
    made = [path.with_name(f"part-{i}.npz") for i in range(1, n + 1)]
    for i, part in enumerate(made, 1):
        done("spectrum", path, "--batch-size", 10, "--part", f"{i}/{n}", "--accumulator", part, "-q")
    return made


class TestMerge:
    def test_parts_merge_into_the_whole(self, tmp_path, samples):
        np.save(tmp_path / "x.npy", samples)
        parts = parts_of(tmp_path / "x.npy", 3)
        result = run("merge", *parts, "-o", tmp_path / "all.npz", "--spectrum", tmp_path / "all.json")
        assert (result.exit_code, result.stdout) == (0, "")
        assert f"saved the accumulator of 200 items to {tmp_path}/all.npz." in result.stderr
        merged, expected = Spectrum.load(tmp_path / "all.json"), Spectrum.from_samples(samples)
        # The order of float64 additions differs between shares and one array.
        np.testing.assert_allclose(merged.eigenvalues, expected.eigenvalues, rtol=1e-12)
        assert merged.n_samples == 200
        assert merged.provenance["command"].startswith("eigenstep merge ")
        assert merged.provenance["source"] == f"{tmp_path}/x.npy"
        # What was merged can be merged again.
        done("merge", tmp_path / "all.npz", "--spectrum", tmp_path / "again.npz", "--bins", 4, "--name", "mine", "-q")
        assert Spectrum.load(tmp_path / "again.npz").provenance["name"] == "mine"

    def test_accumulators_from_elsewhere(self, tmp_path, samples):
        for k, half in enumerate((samples[:90], samples[90:])):
            moments = Moments(4)
            moments.update(half)
            moments.save(tmp_path / f"{k}.npz")
        done("merge", tmp_path / "0.npz", tmp_path / "1.npz", "--spectrum", tmp_path / "s.json", "-q")
        # The order of float64 additions differs.
        expected = Spectrum.from_samples(samples).eigenvalues
        np.testing.assert_allclose(Spectrum.load(tmp_path / "s.json").eigenvalues, expected, rtol=1e-12)

    def test_refusals_name_both_files(self, tmp_path, samples):
        np.save(tmp_path / "x.npy", samples)
        first, second = parts_of(tmp_path / "x.npy", 2)
        made = {"dimension": Moments(3), "form": StationaryMoments(4), "kind": Moments(4, precision="float32")}
        others = {}
        for name, moments in made.items():
            moments.update(np.eye(moments.dim) + 1.0)
            others[name] = tmp_path / f"{name}.npz"
            moments.save(others[name])
        messages = {
            second: None,
            first: r"x.npy \(part 1/2\) is in it already, as part 1/2; its items would count twice",
            others["dimension"]: r"`other` must hold items of shape \(4,\), got \(3,\)",
            others["form"]: "`other` must be a Moments, got StationaryMoments; measure all parts by one method",
            others["kind"]: "`other` must have the options .*float64.*, got .*float32",
        }
        for file, message in messages.items():
            result = run("merge", first, file, "-o", tmp_path / "all.npz", "-q")
            assert result.exit_code == (0 if message is None else 2)
            if message is not None:
                assert result.stderr.count("\n") == 1
                assert re.search(rf"'{file}' cannot be merged with '{first}': .*{message}", result.stderr), result.stderr

    def test_another_version_and_a_damaged_file(self, tmp_path, samples):
        moments = Moments(2)
        moments.update(np.eye(2))
        moments.save(tmp_path / "a.npz")
        with np.load(tmp_path / "a.npz") as archive:
            kept = dict(archive)
        kept["header"] = np.array(str(kept["header"]).replace('"format_version": 1', '"format_version": 99'))
        np.savez(tmp_path / "b.npz", **kept)
        (tmp_path / "c.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:300])
        Spectrum.from_samples(samples).save(tmp_path / "d.npz")
        for name, message in (
            ("b", "was written by a newer eigenstep .format version 99"),
            ("c", "is truncated, corrupt or no moments file"),
            ("d", "is no eigenstep moments file"),
            ("absent", "No such file or directory"),
        ):
            result = run("merge", tmp_path / "a.npz", tmp_path / f"{name}.npz", "-o", tmp_path / "all.npz")
            assert result.exit_code == 2
            assert result.stderr.count("\n") == 1
            assert re.search(message, result.stderr)
        assert not (tmp_path / "all.npz").exists()

    def test_an_unfinished_checkpoint_is_refused(self, tmp_path, samples):
        np.save(tmp_path / "x.npy", samples)
        source = open_source(tmp_path / "x.npy", batch_size=10)
        with pytest.raises(KeyboardInterrupt):
            accumulate(source, checkpoint=tmp_path / "kept.npz", progress=interrupted_at(50))
        result = run("merge", tmp_path / "kept.npz", "-o", tmp_path / "all.npz")
        assert result.exit_code == 2
        assert "kept.npz' is the checkpoint of an unfinished measurement (50 items); finish it with --resume" in result.stderr


def interrupted_at(count: int):
    def report(seen: int, _: int | None) -> None:
        if seen >= count:
            raise KeyboardInterrupt

    return report


class TestLongWork:
    def start(self, folder: Path, *options: object) -> subprocess.Popen[str]:
        arguments = ["spectrum", folder / "x.npy", "--batch-size", 1, "--checkpoint", folder / "kept.npz", *options]
        command = [sys.executable, "-m", "eigenstep", *map(str, arguments)]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    @pytest.mark.flaky(reruns=2)  # a machine that stalls may send the signal after the end
    @pytest.mark.parametrize(
        ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
    )
    def test_stopped_and_resumed(self, tmp_path, number, code, word):
        x = np.random.default_rng(0).standard_normal((8_000, 8))
        np.save(tmp_path / "x.npy", x)
        with self.start(tmp_path, "-o", tmp_path / "s.json", "--checkpoint-every", 200) as process:
            deadline = time.monotonic() + 120
            while not (tmp_path / "kept.npz").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            process.send_signal(number)
            _, said = process.communicate()
            assert process.returncode == code, said
        kept = Measurement.load(tmp_path / "kept.npz").count
        assert 200 <= kept < 8_000
        assert said == (
            f"eigenstep: {kept} items are kept in {tmp_path}/kept.npz; go on from there with --resume.\n"
            f"eigenstep: {word}.\n"
        )
        assert not (tmp_path / "s.json").exists()
        with self.start(tmp_path, "-o", tmp_path / "s.json", "--resume", "-q") as process:
            assert process.wait() == 0
        direct = measure(open_source(tmp_path / "x.npy", batch_size=1000))
        # Bit for bit: the batches do not matter to the sums.
        assert Spectrum.load(tmp_path / "s.json").eigenvalues.tolist() == direct.eigenvalues.tolist()

    def test_refusals(self, tmp_path, samples, monkeypatch):
        monkeypatch.chdir(tmp_path)
        np.save("x.npy", samples)
        done("spectrum", "x.npy", "-o", "s.json", "--checkpoint", "kept.npz")
        for options, message in (
            (("--checkpoint", "kept.npz"), "kept.npz' exists: go on from it with `resume`, or delete it"),
            (("--checkpoint", "kept.npz", "--resume", "--method", "stationary"), "its method is auto, now stationary"),
            (("--resume",), "`resume` needs the `checkpoint` to go on from"),
            (("--checkpoint", "kept.json"), "must end in .npz"),
            (("--checkpoint", "absent/kept.npz"), r"must be in a folder that exists: make 'absent'"),
            (("--checkpoint", "new.npz", "--dask", "local:2"), "`checkpoint` is for one machine"),
            (("--part", "3"), "`part` must be i/N with 1 <= i <= N, such as 3/64, got '3'"),
            (("--part", "3/2"), "`part` must be i/N"),
            (("--method", "sparse"), "`method` must be one of auto, dense, gram, stationary, low-rank"),
            (("--precision", "half"), "`precision` must be one of float64, float32"),
        ):
            result = run("spectrum", "x.npy", "-o", "t.json", *options)
            assert result.exit_code == 2, options
            assert re.search(message, result.stderr), result.stderr
            assert result.stderr.count("\n") == 1
        assert not Path("t.json").exists()

    def test_nothing_to_keep_is_refused(self, tmp_path, samples):
        np.save(tmp_path / "x.npy", samples)
        for command in ("spectrum", "merge"):
            result = run(command, tmp_path / "x.npy")
            assert result.exit_code == 2
            assert "nothing would be kept: give --output" in result.stderr

    def test_a_log_says_rate_and_remaining_time(self, capsys):
        class Clock:
            now = 0.0

            def monotonic(self) -> float:
                return self.now

        clock = Clock()
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(progress, "time", clock)
            log = progress.Log("measuring", progress.Pace(), every=30.0)
            for now, seen in ((1.0, 5000), (20.0, 100_000), (31.0, 155_000), (40.0, 200_000), (61.0, 305_000)):
                clock.now = now
                log(seen, 1_000_000)
            clock.now = 100.0
            log(500_000, None)
        assert capsys.readouterr().err.splitlines() == [
            "eigenstep: measuring: 155,000 of 1,000,000, 5,000/s, 2 min 49 s left.",
            "eigenstep: measuring: 305,000 of 1,000,000, 5,000/s, 2 min 19 s left.",
            "eigenstep: measuring: 500,000, 5,000/s.",
        ]

    def test_durations(self):
        told = [progress.duration(seconds) for seconds in (0, 59.6, 61, 3600, 90_061)]
        assert told == ["0 s", "1 min 00 s", "1 min 01 s", "1 h 00 min", "25 h 01 min"]

    def test_the_report_is_of_the_whole_spectrum(self, tmp_path, samples, monkeypatch):
        report = pytest.importorskip("eigenstep.report", reason="reports need matplotlib")
        written = []
        monkeypatch.setattr(report, "spectrum_report", lambda spectrum, path, **_: written.append((spectrum.dim, path)))
        np.save(tmp_path / "x.npy", np.tile(samples, 3) + np.eye(200, 12))
        accumulator, page = tmp_path / "x.npz", str(tmp_path / "x.html")
        done("spectrum", tmp_path / "x.npy", "--report", page, "--accumulator", accumulator, "-q")
        done("merge", accumulator, "--report", page, "--bins", 4, "-q")
        assert written == [(12, page), (12, page)]
        result = run("merge", accumulator, "--report", tmp_path / "x.txt")
        assert result.exit_code == 2
        assert re.search(r"The output file must end in \.html or \.png, got .*x\.txt", result.stderr)


class TestCompare:
    def test_json_columns_agree_with_single_plans(self, saved):
        record = json.loads(done("compare", saved, "--steps", "3-5", "--format", "json"))
        assert record["steps"] == [3, 4, 5]
        for k, n in enumerate(record["steps"]):
            single = plan(saved, "--steps", n)
            assert record["values"][k] == single["value"]
            assert record["sigmas"][k] == single["sigmas"]
            column = {name: values[k] for name, values in record["baselines"].items() if values[k] is not None}
            assert column == single["baselines"]

    def test_a_baseline_without_a_grid_is_null(self):
        record = json.loads(done("compare", "digits", "--steps", "1,2", "--format", "json"))
        lacking = [name for name, values in record["baselines"].items() if values[0] is None]
        assert "gits_1.2" in lacking
        assert all(record["baselines"][name][1] is not None for name in lacking)

    def test_table_has_a_row_for_each_step_count(self):
        text = done("compare", "digits", "--steps", "4,3")
        rows = text.splitlines()[3:]
        assert [row.split()[0] for row in rows] == ["3", "4"]
        assert all(float(row.split()[3]) >= 1.0 for row in rows)

    @pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
    def test_plot(self, tmp_path, suffix, magic):
        target = tmp_path / f"out.{suffix}"
        done("compare", "digits", "--steps", "3-4", "--plot", target)
        assert target.read_bytes().startswith(magic)

    def test_interrupted_work_is_still_shown(self, monkeypatch):
        optimum = Aim.optimum

        def interrupted(self, spectrum, n):
            if n == 5:
                raise KeyboardInterrupt
            return optimum(self, spectrum, n)

        monkeypatch.setattr(Aim, "optimum", interrupted)
        result = run("compare", "digits", "--steps", "3-9", "--format", "json")
        assert result.exit_code == 130
        assert json.loads(result.stdout)["steps"] == [3, 4]
        assert result.stderr == "eigenstep: interrupted.\n"

    def test_an_unwritable_plot_does_not_lose_the_table(self, tmp_path):
        (tmp_path / "out.png").mkdir()
        result = run("compare", "digits", "--steps", "3", "--plot", tmp_path / "out.png")
        assert result.exit_code == 2
        assert "squared Wasserstein distance" in result.stdout
        assert "Is a directory" in result.stderr


SHARED = Path(os.environ.get("EIGENSTEP_SHARED", Path(__file__).parents[2] / "shared"))
"""Where the data of the zoo lie: too large for the repository, read where they are present."""


@pytest.mark.slow
@pytest.mark.parametrize("name", zoo_names())
def test_the_zoo_is_made_again_by_its_own_command(name, tmp_path):
    kept = Spectrum.from_zoo(name)
    command = str(kept.provenance["command"])
    if "EIGENSTEP_SHARED" in command and not (SHARED / "data").is_dir():
        pytest.skip(f"the data of {name} are not at {SHARED}; set EIGENSTEP_SHARED to their folder")
    program, *arguments = shlex.split(command.replace("$EIGENSTEP_SHARED", str(SHARED)))
    assert program == "eigenstep"
    arguments[-1] = tmp_path / arguments[-1]
    done(*arguments, "--quiet")
    made = Spectrum.load(arguments[-1])
    # Another BLAS and another JPEG decoder round differently; small eigenvalues feel it relative to the largest.
    scale = kept.eigenvalues[0]
    np.testing.assert_allclose(made.eigenvalues, kept.eigenvalues, rtol=1e-6, atol=1e-9 * scale)
    np.testing.assert_allclose(made.trace, kept.trace, rtol=1e-9)
    assert (made.dim, made.n_samples) == (kept.dim, kept.n_samples)
    ours, theirs = (optimal_grid(s, 6, 0.002, 80.0).sigmas for s in (made, kept))
    # What matters: the planned levels. The search itself stops within 1e-6 of stationary.
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_zoo_lists_every_spectrum():
    text = done("zoo")
    for name in zoo_names():
        assert re.search(rf"^{re.escape(name)}\s+{Spectrum.from_zoo(name).dim:.6g}\s", text, re.M)


def test_version():
    assert done("--version") == f"eigenstep, version {__version__}\n"


@pytest.mark.parametrize("command", cli.cli.commands)
def test_every_option_is_explained(command):
    options = [p for p in cli.cli.commands[command].params if p.param_type_name == "option"]
    assert [option.name for option in options if not option.help] == []


BAD = [
    (("plan", "digits"), r"Missing option '-n' / '--steps'\. `eigenstep plan --help` lists what it takes\."),
    (("plan", "digits", "--steps", "0"), "`n` must be at least 1, got 0"),
    (("plan", "digits", "--steps", "many"), "'many' is not a valid integer"),
    (("plan", "digits", "--steps", "3", "--solver", "dpmpp2m"), r"`solver` must be one of ddim, .* mean 'dpmpp_2m'"),
    (("plan", "digits", "--steps", "3", "--objective", "fid"), "`objective` must be one of auto, w2, kl, reverse_kl"),
    (("plan", "digits", "--steps", "3", "--path", "sd51"), "`path` must be one of edm, .* Did you mean 'sd15'"),
    (("plan", "digits", "--steps", "3", "--format", "yaml"), "`format` must be one of table, json, diffusers"),
    (("plan", "digits", "--steps", "3", "--final", "one"), "`final` must be one of zero, sigma-min"),
    (("plan", "digits", "-n3", "--eigenvalues", "raw"), "`eigenvalues` must be one of auto, sample, population, got 'raw'"),
    (("spectrum", "digits", "-o", "s.json", "--runs", "1"), "`runs` must be at least 2, got 1"),
    (("spectrum", "digits", "-o", "s.json", "--runs", "9", "--part", "1/1"), "`runs` reads all of the data again, on this"),
    (("plan", "digits", "--steps", "3", "--start", "noise"), "`start` must be one of marginal, prior"),
    (("plan", "digits", "--steps", "3", "--sigma-min", "90"), "`sigma_max` must exceed `sigma_min`, got 80 and 90"),
    (("plan", "digits", "--steps", "3", "--sigma-max", "inf"), "`sigma_max` must be finite, got inf"),
    (("plan", "digits", "--steps", "3", "--noise-floor", "-1"), "`noise_floor` must be at least 0, got -1"),
    (("plan", "digits", "-n3", "--format", "diffusers", "--solver", "heun"), "`format` diffusers needs `solver` ddim"),
    (("plan", "digits", "-n3", "--format", "diffusers", "--path", "ve"), "`path` must be one of edm, ddpm"),
    (("plan", "cifar", "--steps", "3"), r"There is no file, folder or zoo spectrum 'cifar'; the zoo has .*digits"),
    (("plan", "no-such-file.json", "--steps", "3"), r"No such file or directory: no-such-file\.json"),
    (("compare", "digits", "--steps", "9-3"), "`steps` must be a range such as 3-20 or a list such as 4,6,10"),
    (("compare", "digits", "--steps", "0-3"), "`steps` must be a range such as 3-20"),
    (("compare", "digits", "--steps", "three"), "`steps` must be a range such as 3-20"),
    (("compare", "digits", "--plot", "out.jpeg"), r"The output file must end in \.png or \.svg or \.pdf"),
    (("spectrum", "no-such-thing.npy", "-o", "s.json"), "no-such-thing.npy"),
    (("frobnicate",), r"No such command 'frobnicate'\."),
]


@pytest.mark.parametrize(("arguments", "message"), BAD, ids=[" ".join(arguments) for arguments, _ in BAD])
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("eigenstep: ")
    assert result.stderr.count("\n") == 1
    assert re.search(message, result.stderr)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}", "mine.json"),
        (b'{"format": "eigenstep-spectrum", "format_version": 999}', "newer"),
        (b'{"format": "eigenstep-spe', "mine.json"),
    ],
)
def test_damaged_foreign_and_newer_spectra_are_refused(tmp_path, content, message):
    (tmp_path / "mine.json").write_bytes(content)
    result = run("plan", tmp_path / "mine.json", "--steps", "3")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


def test_warnings_are_lines_but_those_to_programmers_are_not_shown(monkeypatch):
    import warnings

    def noisy(*arguments, **options):
        warnings.warn("__array__ must take a copy keyword", DeprecationWarning, stacklevel=1)
        warnings.warn("the total variance is unsure", RuntimeWarning, stacklevel=1)
        return optimal_grid(*arguments, **options)

    monkeypatch.setattr("eigenstep.optimal.optimal_grid", noisy)
    result = run("plan", "digits", "--steps", 2)
    assert result.exit_code == 0
    assert result.stderr == "eigenstep: warning: the total variance is unsure\n"


def test_a_bug_of_ours_keeps_its_traceback(monkeypatch):
    def broken(self, spectrum, n):
        return np.zeros(2) + np.zeros(3)  # ValueError from numpy, not a refusal of this package

    monkeypatch.setattr(Aim, "optimum", broken)
    result = run("plan", "digits", "--steps", "3")
    assert isinstance(result.exception, ValueError)
    assert "broadcast" in str(result.exception)


def test_a_missing_extra_is_one_line_that_names_it():
    script = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from eigenstep.cli import main\n"
        "sys.argv = ['eigenstep', 'compare', 'digits', '--steps', '3', '--plot', 'out.png']\n"
        "main()\n"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    assert finished.stderr == 'eigenstep: Figures need matplotlib; install it with `pip install "eigenstep[plots]"`.\n'
    assert "squared Wasserstein distance" in finished.stdout


def test_without_click_one_line_names_the_extra():
    script = "import sys; sys.modules['click'] = None; from eigenstep.__main__ import main; main()"
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert finished.returncode == 2
    needed = 'eigenstep: The command line needs click and rich; install them with `pip install "eigenstep[cli]"`.\n'
    assert finished.stderr == needed
