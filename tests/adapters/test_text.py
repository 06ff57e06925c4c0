"""Text for hosts: what each host's own parser or scheduler makes of it."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import numpy as np
import pytest

from eigenstep.adapters import text
from eigenstep.paths import PATHS

GRID = np.array([80.0, 14.614642, 1.0 / 3.0, 2.3456789e-05, 0.0])

# One float32 unit in the last place: the hosts hold the levels in float32.
FLOAT32 = 2.0**-23


def run(snippet: str) -> dict[str, object]:
    names: dict[str, object] = {}
    exec(snippet, names)
    return names


def test_k_diffusion_line_reads_back_to_float32():
    line = text.k_diffusion(GRID)
    values = ast.literal_eval(re.fullmatch(r"sigmas = torch\.tensor\((.*)\)", line)[1])
    np.testing.assert_array_equal(np.float32(values), np.float32(GRID))


def test_comfyui_list_survives_the_nodes_own_pattern():
    # The pattern with which ComfyUI's ManualSigmas finds numbers; it knows no exponents.
    pattern = r"[-+]?(?:\d*\.*\d+)"
    values = [float(v) for v in re.findall(pattern, text.comfyui(GRID))]
    np.testing.assert_array_equal(np.float32(values), np.float32(GRID))
    assert len(re.findall(pattern, "2.3e-05")) == 2  # what the plain repr would have become


def test_comfyui_flow_levels_by_hand():
    assert text.comfyui([9.0, 4.0, 1.0, 0.25, 0.0], flow=True) == "0.9, 0.8, 0.5, 0.2, 0.0"


def test_euler_snippet_keeps_the_final_zero():
    snippet = text.diffusers_euler(GRID, config={"beta_start": 0.00085})
    values = ast.literal_eval(re.search(r"^sigmas = (\[.*\])", snippet, re.M)[1])
    assert len(values) == GRID.size
    assert values[-1] == 0.0
    assert "EulerDiscreteScheduler(beta_start=0.00085)" in snippet


@pytest.mark.parametrize("shift", [1.0, 3.0, 7.5])
def test_flow_snippet_undoes_the_shift(shift):
    snippet = text.diffusers_flow(GRID, shift=shift)
    levels = np.array(ast.literal_eval(re.search(r"^levels = (\[.*\])", snippet, re.M)[1]))
    given = levels / (shift - (shift - 1) * levels)
    used = shift * given / (1 + (shift - 1) * given)  # the scheduler's own formula
    assert used.size == GRID.size - 1
    # Nine digits of a level near 1 leave 1e-9 / (1 - level) of sigma = level / (1 - level).
    np.testing.assert_allclose(used / (1 - used), GRID[:-1], rtol=2e-7)


def test_edm_ramp_comes_out_of_karras_formula_as_the_grid():
    snippet = text.diffusers_edm(GRID, sigma_min=0.002)
    ramp = np.array(ast.literal_eval(re.search(r"torch\.tensor\((\[.*\]),", snippet)[1]))
    low, high = 0.002 ** (1 / 7), 80.0 ** (1 / 7)
    # Rounding in the ramp is magnified by rho sigma_0^(1/7) / sigma^(1/7) < 100 at the lowest level.
    np.testing.assert_allclose((high + ramp * (low - high)) ** 7, GRID[:-1], rtol=1e-13)


@pytest.mark.parametrize("write", [text.diffusers_flow, text.diffusers_edm])
def test_hosts_that_add_zero_refuse_another_end(write):
    with pytest.raises(ValueError, match=r"`sigmas` must end in 0, because \w+Scheduler always adds .* got 0\.5"):
        write([80.0, 0.5])


def test_bad_grids_are_refused_by_every_writer():
    for write in (text.k_diffusion, text.comfyui, text.diffusers_flow, text.diffusers_edm):
        with pytest.raises(ValueError, match="`sigmas` must be strictly descending, got 1 then 2"):
            write([1.0, 2.0, 0.0])


def test_edm_refuses_a_grid_below_the_schedulers_range():
    with pytest.raises(ValueError, match="`sigma_max` must exceed `sigma_min`"):
        text.diffusers_edm([0.001, 0.0])


@pytest.mark.parametrize(
    ("path", "scheduler"),
    [
        ("edm", "EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0)"),
        ("ddpm", "EulerDiscreteScheduler(beta_schedule='linear', beta_start=0.0001, beta_end=0.02)"),
        ("squaredcos", "EulerDiscreteScheduler(beta_schedule='squaredcos_cap_v2')"),
        ("flow", "FlowMatchEulerDiscreteScheduler(shift=1.0)"),
        ("flow-shift3", "FlowMatchEulerDiscreteScheduler(shift=3.0)"),
    ],
)
def test_each_path_gets_its_scheduler(path, scheduler):
    assert f"scheduler = {scheduler}\n" in text.diffusers(GRID, path=path)


def test_every_named_path_is_one_of_the_library():
    assert set(text.EULER_CONFIGS) | set(text.FLOW_SHIFTS) <= set(PATHS)


def test_a_path_without_a_scheduler_is_refused():
    with pytest.raises(ValueError, match=r"`path` must be one of edm, ddpm, .* got 've'"):
        text.diffusers(GRID, path="ve")


def test_one_step():
    assert text.comfyui([80.0, 0.0]) == "80.0, 0.0"
    assert "ramp = torch.tensor([0.0]," in text.diffusers_edm([80.0, 0.0])
    assert "for 1 step;" in text.diffusers_flow([80.0, 0.0])


def webui_custom_list(text, n, sigma_min, sigma_max):
    """What the extension Extra Schedulers makes of a list in brackets, by its rules in words."""
    values = [float(v) for v in text.strip("[]").split(",")]
    if values[0] == 1.0 and values[-1] == 0.0:
        values = [v * (sigma_max - sigma_min) + sigma_min for v in values]
    elif values[-1] == 0.0:
        return np.array(values)
    at = np.linspace(0, 1, n)
    logs = np.interp(at, np.linspace(0, 1, len(values)), np.log(values[::-1]))
    return np.append(np.exp(logs)[::-1], 0.0)


@pytest.mark.parametrize("flow", [False, True])
def test_webui_list_is_used_as_planned(flow):
    wanted = text.flow_levels(GRID) if flow else GRID
    got = webui_custom_list(text.webui(GRID, flow=flow), 99, 0.03, 14.6)
    np.testing.assert_array_equal(np.float32(got), np.float32(wanted))


@pytest.mark.parametrize(("grid", "flow"), [([1e12, 3.0, 0.4, 0.0], True), ([1.0, 0.6, 0.2, 0.0], False)])
def test_webui_list_from_one_is_not_taken_for_a_shape(grid, flow):
    line = text.webui(grid, flow=flow)
    assert line.startswith("[1.0, ")
    got = webui_custom_list(line, 3, 0.003, 1.0)
    # The extension interpolates between logarithms at the very points: rounding only.
    np.testing.assert_allclose(got, text.flow_levels(grid) if flow else grid, rtol=1e-8)


def test_sd_cpp_option_reads_back():
    steps, line = re.fullmatch(r'--steps (\d+) --sigmas "([0-9.,]+)"', text.stable_diffusion_cpp(GRID)).groups()
    values = [float(v) for v in line.split(",")]
    assert int(steps) == len(values) - 1
    np.testing.assert_array_equal(np.float32(values), np.float32(GRID))


def test_plain_lines_read_back():
    np.testing.assert_array_equal(np.float32(text.plain(GRID).splitlines()), np.float32(GRID))


def test_levels_json_keeps_every_digit():
    record = json.loads(text.levels_json(GRID, flow=True))
    assert record["sigmas"] == GRID.tolist()
    assert record["flow_times"] == text.flow_levels(GRID).tolist()
    assert (record["steps"], record["ends_at_zero"]) == (4, True)
    assert json.loads(text.levels_json([2.0, 1.0]))["flow_times"] is None


@pytest.mark.parametrize("name", text.FORMATS)
@pytest.mark.parametrize("path", [None, "sd15", "flow-shift3"])
def test_every_format_writes_every_kind_of_model(name, path):
    form = text.FORMATS[name]
    written = form.write(GRID, path)
    assert written
    assert all((form.hosts, form.values, form.end, form.unit))
    flow = path == "flow-shift3"
    if name not in ("diffusers", "k-diffusion"):
        assert ("0.5" in form.write([1.0, 0.0], path)) == flow  # sigma = 1 is s = 1/2


def test_every_format_is_in_the_documentation():
    table = (Path(__file__).parents[2] / "docs" / "hosts.md").read_text()
    for name, form in text.FORMATS.items():
        (row,) = [line for line in table.splitlines() if line.startswith(f"| `{name}` |")]
        assert [cell.strip() for cell in row.strip("|").split("|")][1:] == [form.hosts, form.values, form.end, form.unit]


# diffusers (0.42) converts its tables in a way that numpy 2.4 warns of.
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
class TestAgainstDiffusers:
    """The snippets run against the real schedulers, where diffusers is installed."""

    @pytest.fixture(autouse=True)
    def _diffusers(self):
        pytest.importorskip("diffusers")

    @pytest.mark.parametrize("path", text.EULER_CONFIGS)
    def test_euler(self, path):
        scheduler = run(text.diffusers(GRID, path=path))["scheduler"]
        np.testing.assert_allclose(scheduler.sigmas.numpy(), GRID, rtol=FLOAT32)
        assert len(scheduler.timesteps) == GRID.size - 1

    @pytest.mark.parametrize("path", text.EULER_CONFIGS)
    def test_euler_config_is_the_path(self, path):
        scheduler = run(text.diffusers(GRID, path=path))["scheduler"]
        abar = scheduler.alphas_cumprod.double().numpy()
        # The scheduler's table is float32, and 1 - abar loses digits where abar is near 1.
        np.testing.assert_allclose(np.sqrt((1 - abar) / abar), PATHS[path]().sigmas, rtol=1e-3)

    @pytest.mark.parametrize("shift", [1.0, 3.0])
    def test_flow(self, shift):
        scheduler = run(text.diffusers_flow(GRID, shift=shift))["scheduler"]
        # Two float32 operations per level.
        np.testing.assert_allclose(scheduler.sigmas.numpy(), text.flow_levels(GRID), rtol=4 * FLOAT32)
        assert len(scheduler.timesteps) == GRID.size - 1

    def test_edm(self):
        scheduler = run(text.diffusers_edm(GRID))["scheduler"]
        np.testing.assert_allclose(scheduler.sigmas.numpy(), GRID, rtol=FLOAT32)
        assert float(scheduler.init_noise_sigma) == pytest.approx(np.hypot(80.0, 1.0), rel=FLOAT32)
