"""Plans on integer timesteps from the command line: the library's numbers, the model's own table, diffusers' levels."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from click.testing import CliRunner, Result

from eigenstep import Spectrum, divergence, optimal_timesteps
from eigenstep.adapters import timesteps
from eigenstep.cli import cli
from eigenstep.grids import catalogue_grids
from eigenstep.paths import PATHS, VPDiscrete


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="eigenstep")


def plan(*arguments: object) -> dict:
    result = run("plan", *arguments, "--format", "json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


INTEGER = ("--timesteps", "integer")


@pytest.mark.parametrize("path", ["ddpm", "sd15", "squaredcos"])
def test_the_librarys_timesteps(path):
    record = plan("digits", "-n", 5, "--path", path, *INTEGER)
    expected = optimal_timesteps(Spectrum.from_zoo("digits"), 5, PATHS[path]())
    assert record["timesteps"] == expected.timesteps.tolist()
    assert all(isinstance(step, int) for step in record["timesteps"])
    assert record["sigmas"] == expected.sigmas.tolist()
    assert (record["value"], record["converged"]) == (expected.value, True)
    assert record["sampled_at"] == "integer"
    np.testing.assert_array_equal(record["log_snr"], PATHS[path]().log_snr(record["timesteps"]))
    share = re.fullmatch(r"integer timesteps cost (\S+) % more than fractional ones", record["message"])[1]
    # Two digits are written.
    assert float(share) == pytest.approx(100 * (expected.value / expected.continuous_value - 1), rel=0.06)


def test_the_model_s_own_table(tmp_path):
    table = VPDiscrete.ddpm(n_timesteps=400)
    alphas = (1 / (1 + table.sigmas**2)).tolist()
    betas = np.linspace(1e-4, 0.02, 400).tolist()
    for name, content in (("list", alphas), ("object", {"alphas_cumprod": alphas}), ("betas", {"betas": betas})):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    expected = optimal_timesteps(Spectrum.from_zoo("digits"), 4, table).timesteps.tolist()
    for name in ("list", "object", "betas"):
        record = plan("digits", "-n", 4, "--path", tmp_path / f"{name}.json", *INTEGER)
        assert record["timesteps"] == expected
        assert expected[0] == 399
        # Forth and back between abar and sigma.
        assert record["sigma_max"] == pytest.approx(table.sigma_max, rel=1e-12)
    fractional = plan("digits", "-n", 4, "--path", tmp_path / "list.json")
    assert fractional["sampled_at"] == "fractional"
    assert any(step != round(step) for step in fractional["timesteps"])
    assert fractional["value"] < record["value"]


def test_zero_terminal_snr_ends_where_diffusers_ends_it(tmp_path):
    (tmp_path / "zero.json").write_text("[0.9, 0.5, 0.1, 0.0]")
    record = plan("digits", "-n", 2, "--path", tmp_path / "zero.json", *INTEGER)
    assert record["sigmas"][0] == pytest.approx(4096.0, rel=1e-6)  # sqrt(2^24 - 1)
    # Where the last level but one is higher than that already, twice its sigma; of betas as of alphas.
    (tmp_path / "steep.json").write_text("[0.5, 1e-8, 0.0]")
    (tmp_path / "betas.json").write_text(json.dumps({"betas": [0.5, 1 - 2e-8, 1.0]}))
    for name in ("steep", "betas"):
        record = plan("digits", "-n", 2, "--path", tmp_path / f"{name}.json", *INTEGER)
        assert record["sigmas"][0] == pytest.approx(2e4, rel=1e-6)


def test_sigma_max_sets_the_first_timestep():
    path = VPDiscrete.ddpm()
    exact = plan("digits", "-n", 3, "--path", "ddpm", "--sigma-max", repr(float(path.sigmas[700])), *INTEGER)
    below = plan("digits", "-n", 3, "--path", "ddpm", "--sigma-max", 0.999 * path.sigmas[700], *INTEGER)
    assert (exact["timesteps"][0], below["timesteps"][0]) == (700, 699)


def test_baselines_are_called_at_integers_too():
    record = plan("digits", "-n", 4, "--path", "ddpm", *INTEGER)
    spectrum, path = Spectrum.from_zoo("digits"), VPDiscrete.ddpm()
    grids = catalogue_grids(4, path.sigma_min, path.sigma_max, spectrum=spectrum, path=path)
    karras = np.rint(path.sigma_to_t(grids["karras"][:-1]))
    rounded = divergence(spectrum, np.append(path.t_to_sigma(karras), 0.0))
    assert record["baselines"]["karras"] == pytest.approx(rounded, rel=1e-12)
    assert rounded != divergence(spectrum, grids["karras"])
    assert record["value"] <= min(record["baselines"].values())


def test_a_baseline_that_calls_a_timestep_twice_is_left_out(tmp_path):
    (tmp_path / "short.json").write_text(json.dumps({"betas": np.linspace(0.02, 0.6, 12).tolist()}))
    record = plan("digits", "-n", 8, "--path", tmp_path / "short.json", *INTEGER)
    assert len(set(record["timesteps"])) == 8
    assert 0 < len(record["baselines"]) < len(plan("digits", "-n", 8, "--path", tmp_path / "short.json")["baselines"])


def test_compare_says_the_timesteps():
    result = run("compare", "digits", "-n", "3,4", "--path", "ddpm", *INTEGER, "--format", "json")
    record = json.loads(result.stdout)
    assert record["timesteps"] == [plan("digits", "-n", n, "--path", "ddpm", *INTEGER)["timesteps"] for n in (3, 4)]


def test_the_table_shows_integers():
    lines = run("plan", "digits", "-n", 3, "--path", "ddpm", *INTEGER).stdout.splitlines()
    steps = plan("digits", "-n", 3, "--path", "ddpm", *INTEGER)["timesteps"]
    assert [int(line.split()[2]) for line in lines[3:6]] == steps


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers' own, under numpy 2
@pytest.mark.parametrize("path", ["ddpm", "sd15", "table"])
@pytest.mark.parametrize("sampled_at", ["integer", "fractional"])
def test_diffusers_uses_these_levels(path, sampled_at, tmp_path):
    pytest.importorskip("diffusers")
    if path == "table":
        path = tmp_path / "table.json"
        path.write_text(json.dumps({"betas": (np.linspace(0.01, 0.2, 100) ** 2).tolist()}))
    arguments = ("digits", "-n", 4, "--path", path, "--timesteps", sampled_at)
    record = plan(*arguments)
    scope: dict = {}
    exec(run("plan", *arguments, "--format", "diffusers").stdout, scope)
    scheduler = scope["scheduler"]
    # The scheduler's table is a float32 cumulative product of up to 1000 factors.
    np.testing.assert_allclose(scheduler.sigmas.numpy(), record["sigmas"], rtol=1e-4)
    if sampled_at == "integer":
        assert scheduler.timesteps.tolist() == record["timesteps"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (INTEGER, r"needs a `path` that has them \(ddpm, sd15, squaredcos, or a \.json file .*\), got none\."),
        (("--path", "flow", *INTEGER), r"`timesteps` integer needs a `path` that has them .*, got 'flow'\."),
        (("--timesteps", "whole"), "`timesteps` must be one of fractional, integer, got 'whole'"),
        (("--path", "ddpm", *INTEGER, "--sigma-min", "0.1"), "plans down to timestep 0 and ends at 0: leave out --sigma-min"),
        (("--path", "ddpm", *INTEGER, "--final", "sigma-min"), "leave out --sigma-min, and --final sigma-min"),
        (("--path", "ddpm", *INTEGER, "--sigma-max", "500"), r"`sigma_max` must lie on the path, 0\.0100.* to 157.*, got 500"),
        (("--path", "no.json"), r"No such file or directory: no\.json"),
        (("--path", "text.json"), r"`path` 'text\.json' is no JSON file"),
        (("--path", "other.json"), r"`path` 'other\.json' must hold the model's table: a list"),
        (("--path", "rising.json"), r"`sigmas` must be positive and strictly ascending in t"),
    ],
)
def test_refusals(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.json").write_text("alphas")
    (tmp_path / "other.json").write_text('{"beta_schedule": "linear"}')
    (tmp_path / "rising.json").write_text("[0.1, 0.9]")
    result = run("plan", "digits", "-n", 3, *arguments)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert re.search(message, result.stderr), result.stderr


@pytest.mark.parametrize("steps", [[], [3.5, 1.0], [1, 2], [2, 2], [3, -1]])
def test_only_descending_integers_are_written(steps):
    with pytest.raises(ValueError, match="`timesteps` must be descending integers from 0 up"):
        timesteps.diffusers_timesteps(steps, config={})


def test_only_a_table_has_a_configuration():
    with pytest.raises(ValueError, match="`path` must have integer timesteps"):
        timesteps.table_config(PATHS["flow"]())
