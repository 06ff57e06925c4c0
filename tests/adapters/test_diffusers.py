"""diffusers: which class takes a grid and how exactly it comes back, its settings, its errors, its folders."""

from __future__ import annotations

import copy
import inspect
import itertools
import json
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from eigenstep.adapters import diffusers as adapter  # noqa: E402
from eigenstep.adapters.diffusers.planned import labels_of, table_of  # noqa: E402

# What diffusers itself sets off under newer numpy and torch is not this library's to mend.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

GRID = np.array([13.0, 4.0, 1.3, 0.4, 0.06, 0.0])
DOCS = Path(__file__).parents[2] / "docs" / "diffusers.md"
FRACTIONAL = [name for name, host in adapter.HOSTS.items() if host.layout != "integer" and hasattr(diffusers, name)]


def made(name, **config):
    return getattr(diffusers, name)(**config)


def difference(scheduler, grid):
    """max |ln sigma - ln planned| over the levels that a network is called at; what a class ends at is compared by itself."""
    return float(np.abs(np.log(adapter.read_back(scheduler)[:-1]) - np.log(grid[:-1])).max())


@pytest.mark.parametrize("name", FRACTIONAL)
def test_every_class_gives_the_grid_back(name):
    grid = np.append(np.geomspace(12.7, 0.0531, 7), 0.0)
    scheduler = adapter.apply(grid, made(name))
    levels = adapter.read_back(scheduler)
    assert levels.size == 8
    assert levels[-1] == 0.0
    # float64 all through, but for one class (float32: 6e-8 of a level).
    assert difference(scheduler, grid) < (1e-7 if name == "DPMSolverSDEScheduler" else 1e-12)


@pytest.mark.parametrize("name", [name for name in FRACTIONAL if adapter.HOSTS[name].state == "flow"])
def test_flows_keep_high_levels_where_float32_would_not(name):
    grid = np.array([999.0, 99.0, 3.0, 0.02, 0.0])
    assert difference(adapter.apply(grid, made(name)), grid) < 1e-12
    u = np.float64(np.float32(grid[:-1] / (1 + grid[:-1])))
    assert np.abs(np.log(u / (1 - u)) - np.log(grid[:-1])).max() > 1e-6  # what a float32 level would have been worth


def test_every_class_of_diffusers_is_handed_over_or_refused():
    schedulers = {
        name
        for name in dir(diffusers.schedulers)
        if inspect.isclass(kind := getattr(diffusers.schedulers, name))
        and issubclass(kind, diffusers.SchedulerMixin)
        and kind is not diffusers.SchedulerMixin
    }
    assert schedulers - set(adapter.HOSTS) - set(adapter.REFUSED) == set()
    assert set(adapter.HOSTS) & set(adapter.REFUSED) == set()


def test_the_table_in_the_docs_is_what_is_measured():
    """Run with EIGENSTEP_WRITE=1 to write it, under the newest supported diffusers."""
    if not hasattr(diffusers, "MiniMaxH3Scheduler"):
        pytest.skip("the table is of a newer diffusers")
    rows = [
        "| scheduler | diffusers' own set_timesteps takes | here | n | read back | max difference in ln sigma |",
        "|---|---|---|--:|--:|--:|",
    ]
    words = {
        "table": "subclass, fractional timesteps, own table",
        "integer": "subclass, best integer grid",
    }
    for name, host in sorted(adapter.HOSTS.items()):
        if not hasattr(diffusers, name):
            continue
        scheduler = adapter.apply(GRID, made(name))
        levels = adapter.read_back(scheduler)
        gap = difference(scheduler, GRID)
        if host.layout == "integer":
            shown = f"best integer grid ({gap:.0e}; ends at {levels[-1]:.2g})"
        else:
            shown = "< 1e-12" if gap < 1e-12 else f"< {10.0 ** np.ceil(np.log10(gap)):.0e}"
        how = words.get(host.layout, "subclass, levels in float32" if gap > 1e-12 else "subclass, levels in float64")
        rows.append(f"| {name} | {host.takes} | {how} | {GRID.size - 1} | {levels.size - 1} | {shown} |")
    rows += [
        f"| {name} | | refused: {why} | | | |" for name, why in sorted(adapter.REFUSED.items()) if hasattr(diffusers, name)
    ]
    table = "\n".join(rows)
    text = DOCS.read_text()
    begin, end = "<!-- table: begin -->\n", "\n<!-- table: end -->"
    before, written, after = text.partition(begin)[0], text.partition(begin)[2].partition(end)[0], text.partition(end)[2]
    if os.environ.get("EIGENSTEP_WRITE"):
        DOCS.write_text(before + begin + table + end + after)
        written = table
    assert written == table


@pytest.mark.parametrize("name", FRACTIONAL)
def test_every_class_keeps_its_kind_configuration_and_folder(name, tmp_path):
    original = made(name)
    scheduler = adapter.apply(GRID, original)
    assert isinstance(scheduler, type(original))
    assert type(scheduler).__name__ == f"Planned{name}"
    assert list(inspect.signature(scheduler.step).parameters) == list(inspect.signature(original.step).parameters)
    assert list(inspect.signature(scheduler.set_timesteps).parameters) == list(
        inspect.signature(original.set_timesteps).parameters
    )
    scheduler.save_pretrained(tmp_path)
    copies = [
        type(scheduler).from_pretrained(tmp_path),
        type(scheduler).from_config(scheduler.config),
        copy.deepcopy(scheduler),
        adapter.apply(GRID, scheduler),
    ]
    if name != "SASolverScheduler":  # whose own lambda cannot be pickled
        copies.append(pickle.loads(pickle.dumps(scheduler)))
    for again in copies:
        np.testing.assert_array_equal(adapter.read_back(again), adapter.read_back(scheduler))
    # diffusers' own class loads the same folder, without the plan.
    plain = type(original).from_pretrained(tmp_path)
    assert type(plain) is type(original)
    # And the original is as it was.
    assert "_eigenstep" not in original.config


@pytest.mark.parametrize("name", FRACTIONAL)
def test_a_second_run_begins_anew(name):
    scheduler = adapter.apply(GRID, made(name))
    first = scheduler.timesteps.clone()
    scheduler.set_timesteps(GRID.size - 1)
    torch.testing.assert_close(scheduler.timesteps, first, rtol=0, atol=0)
    assert getattr(scheduler, "_step_index", None) is None
    assert float(scheduler.init_noise_sigma) == pytest.approx(
        {"x": 13.0, "vp": 13.0 / np.hypot(1, 13.0), "flow": 13.0 / 14.0}[adapter.HOSTS[name].state], rel=1e-12
    )


def test_switches_that_would_move_the_levels_are_off():
    scheduler = adapter.apply(GRID, made("DPMSolverMultistepScheduler", use_karras_sigmas=True, final_sigmas_type="sigma_min"))
    assert not scheduler.config.use_karras_sigmas
    assert scheduler.config.final_sigmas_type == "zero"
    above = adapter.apply(GRID[:-1], made("DPMSolverMultistepScheduler"))
    assert above.config.final_sigmas_type == "sigma_min"
    assert adapter.read_back(above)[-1] == GRID[-2]


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_levels_are_those_of_the_scheduler_with_the_shift_undone(shift):
    """Two routes: this adapter, and diffusers' own `sigmas=` with u/(k - (k-1)u), which it shifts back."""
    u = GRID[:-1] / (1 + GRID[:-1])
    native = made("FlowMatchEulerDiscreteScheduler", shift=shift)
    native.set_timesteps(sigmas=u / (shift - (shift - 1) * u))
    scheduler = adapter.apply(GRID, made("FlowMatchEulerDiscreteScheduler", shift=shift))
    # Two float32 operations per level.
    torch.testing.assert_close(scheduler.sigmas.float(), native.sigmas, rtol=4 * 2**-23, atol=0)
    torch.testing.assert_close(scheduler.timesteps, native.timesteps, rtol=4 * 2**-23, atol=0)


def test_euler_levels_are_those_of_its_own_sigmas():
    native = made("EulerDiscreteScheduler")
    native.set_timesteps(sigmas=GRID.tolist())
    scheduler = adapter.apply(GRID, made("EulerDiscreteScheduler"))
    torch.testing.assert_close(scheduler.sigmas.float(), native.sigmas, rtol=2**-23, atol=0)
    # Its own interpolation works in float32.
    torch.testing.assert_close(scheduler.timesteps, native.timesteps, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["DDIMScheduler", "DPMSolverMultistepScheduler", "PNDMScheduler"])
def test_noise_is_added_at_the_planned_level(name):
    scheduler = adapter.apply(GRID, made(name))
    x, noise = torch.full((2, 1, 1), 2.0, dtype=torch.float64), torch.full((2, 1, 1), 3.0, dtype=torch.float64)
    noisy = scheduler.add_noise(x, noise, scheduler.timesteps[:1].repeat(2))
    expected = (2 + 13 * 3) / np.sqrt(1 + 13**2)
    assert noisy.flatten().tolist() == pytest.approx([expected] * 2, rel=1e-6)  # weights in the input's float32 square roots


def test_training_timesteps_are_still_noised_by_the_trained_table():
    original = made("DDIMScheduler")
    scheduler = adapter.apply(GRID, original)
    x, noise, t = torch.ones(2, 1), torch.full((2, 1), 3.0), torch.tensor([3, 700])
    torch.testing.assert_close(scheduler.add_noise(x, noise, t), original.add_noise(x, noise, t))


class TestIntegers:
    def test_the_least_sum_of_squares_by_trying_all(self):
        original = made("DDIMScheduler", num_train_timesteps=9, beta_start=0.05, beta_end=0.4)
        table = table_of(original).sigmas
        rng = np.random.default_rng(4)
        for _ in range(20):
            wanted = np.sort(np.exp(rng.uniform(np.log(table[0]), np.log(table[-1]), 4)))[::-1]
            scheduler = adapter.apply(np.append(wanted, 0.0), original, timesteps="integer")
            costs = {
                places: ((np.log(table[list(places)]) - np.log(wanted)) ** 2).sum()
                for places in itertools.combinations(range(8, -1, -1), 4)
            }
            assert tuple(scheduler.timesteps.tolist()) == min(costs, key=costs.get)
            np.testing.assert_allclose(adapter.read_back(scheduler)[:-1], table[scheduler.timesteps], rtol=1e-12)

    @pytest.mark.parametrize("name", FRACTIONAL)
    def test_no_two_steps_collide(self, name):
        if not (hasattr(made(name), "alphas_cumprod") or adapter.HOSTS[name].state == "flow"):
            pytest.skip("the network is told the level itself")
        close = np.append(np.geomspace(1.02, 1.0, 12), 0.0)
        scheduler = adapter.apply(close, made(name), timesteps="integer")
        told = labels_of(scheduler, adapter.HOSTS[name], adapter.read_back(scheduler)[:-1])
        if name == "MiniMaxH3Scheduler":
            told = 1000 * told
        np.testing.assert_allclose(told, np.rint(told), atol=1e-4)  # DPMSolverSDE keeps its levels in float32
        assert len(set(np.rint(told))) == 12

    def test_networks_with_a_table_get_integers(self):
        assert adapter.apply(GRID, made("DDIMScheduler"), timesteps="integer").timesteps.dtype == torch.int64
        assert adapter.apply(GRID, made("TCDScheduler")).timesteps.dtype == torch.int64

    def test_every_timestep_can_be_used(self):
        original = made("DDIMScheduler", num_train_timesteps=5, beta_start=0.1, beta_end=0.5)
        grid = np.append(np.geomspace(*table_of(original).sigmas[[-1, 0]], 5), 0.0)
        assert adapter.apply(grid, original, timesteps="integer").timesteps.tolist() == [4, 3, 2, 1, 0]


class TestRefusals:
    @pytest.mark.parametrize("name", [name for name in adapter.REFUSED if hasattr(diffusers, name)])
    def test_classes_that_take_no_grid(self, name):
        kind = getattr(diffusers, name)
        with pytest.raises(TypeError, match=f"one that walks a fixed grid, got {name}: {adapter.REFUSED[name]}"):
            adapter.apply(GRID, kind.__new__(kind))

    def test_no_scheduler(self):
        with pytest.raises(TypeError, match=r"that eigenstep knows, got dict; eigenstep.adapters.text"):
            adapter.apply(GRID, {})

    def test_above_the_range(self):
        with pytest.raises(ValueError, match=r"below the 157\.4\d+ of this DDIMScheduler, got 160; plan with sigma_max=157"):
            adapter.apply([160.0, 1.0, 0.0], made("DDIMScheduler"))
        with pytest.raises(ValueError, match=r"start at or below the 80 of this EDMEulerScheduler, got 99"):
            adapter.apply([99.0, 1.0, 0.0], made("EDMEulerScheduler"))

    def test_below_the_range(self):
        with pytest.raises(ValueError, match=r"above the 0\.0100\d* of this DDIMScheduler, got 0\.002; plan with sigma_min"):
            adapter.apply([80.0, 1.0, 0.002, 0.0], made("DDIMScheduler"))

    def test_a_rounded_end_is_the_end(self):
        original = made("EulerDiscreteScheduler", beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
        assert adapter.apply([14.6147, 1.0, 0.0], original).timesteps[0] == 999.0

    @pytest.mark.parametrize("name", [name for name in FRACTIONAL if adapter.HOSTS[name].zero])
    def test_another_end_than_zero(self, name):
        with pytest.raises(ValueError, match=f"must end at 0, because the last step of {name} goes there, got 0.06; append 0"):
            adapter.apply(GRID[:-1], made(name))

    def test_more_steps_than_timesteps(self):
        original = made("DDIMScheduler", num_train_timesteps=4, beta_start=0.1, beta_end=0.5)
        grid = np.append(np.geomspace(*table_of(original).sigmas[[-1, 0]], 5), 0.0)
        with pytest.raises(ValueError, match=r"no more steps than the 4 timesteps of DDIMScheduler, got 5"):
            adapter.apply(grid, original, timesteps="integer")

    def test_integers_where_there_are_none(self):
        with pytest.raises(ValueError, match=r"`timesteps` must be 'fractional' for EDMEulerScheduler"):
            adapter.apply(GRID, made("EDMEulerScheduler"), timesteps="integer")
        with pytest.raises(ValueError, match=r"`timesteps` must be one of fractional, integer, got 'whole'"):
            adapter.apply(GRID, made("EDMEulerScheduler"), timesteps="whole")

    def test_one_timestep_for_two_levels(self):
        with pytest.raises(ValueError, match=r"which FlowMatchEulerDiscreteScheduler tells the network as one, 1000; use"):
            adapter.apply([3e9, 2e9, 1.0, 0.0], made("FlowMatchEulerDiscreteScheduler"))

    def test_too_few_steps_for_runge_kutta(self):
        with pytest.raises(ValueError, match=r"at least 4 steps for the Runge-Kutta start of PNDMScheduler, got 3; use"):
            adapter.apply([3.0, 1.0, 0.5, 0.0], made("PNDMScheduler"))

    def test_bad_grids(self):
        with pytest.raises(ValueError, match="`sigmas` must be strictly descending, got 1 then 2"):
            adapter.apply([1.0, 2.0, 0.0], made("DDIMScheduler"))

    def test_other_counts(self):
        scheduler = adapter.apply(GRID, made("FlowMatchEulerDiscreteScheduler"))
        scheduler.set_timesteps(sigmas=[0.9, 0.8, 0.7, 0.6, 0.5], mu=1.0)  # what a Flux pipeline passes of its own
        assert difference(scheduler, GRID) < 1e-12
        with pytest.raises(ValueError, match=r"the length of `sigmas` must be 5, for the 5 steps planned, got 3"):
            scheduler.set_timesteps(sigmas=[0.9, 0.8, 0.7])

    def test_a_timestep_of_no_plan(self):
        scheduler = adapter.apply(GRID, made("DDIMScheduler"))
        with pytest.raises(ValueError, match=r"`timestep` must be one of the scheduler's planned timesteps, got 3;"):
            scheduler.step(torch.zeros(1, 1), 3, torch.zeros(1, 1))

    def test_reading_a_scheduler_without_timesteps(self):
        with pytest.raises(ValueError, match=r"`scheduler` must have its timesteps set, got a new DDIMScheduler"):
            adapter.read_back(made("DDIMScheduler"))

    def test_starting_a_scheduler_without_plan(self):
        with pytest.raises(TypeError, match=r"`scheduler` must come from `apply`, got DDIMScheduler"):
            adapter.start(made("DDIMScheduler"), torch.zeros(1))

    def test_strength(self):
        for name in ("PNDMScheduler", "IPNDMScheduler", "TCDScheduler"):
            with pytest.raises(ValueError, match=f"`strength` must be None for {name}, whose steps cannot begin in the middle"):
                adapter.apply(GRID, made(name), strength=0.5)
        warm = SimpleNamespace(sigmas=GRID, warm=lambda z: z)
        with pytest.raises(ValueError, match=r"must not start warm for image-to-image, which starts from an image"):
            adapter.apply(warm, made("DDIMScheduler"), strength=0.5)
        with pytest.raises(ValueError, match="`strength` must be greater than 0, got 0"):
            adapter.strength_level(made("DDIMScheduler"), 0.0)
        with pytest.raises(ValueError, match=r"trained timesteps to take a share of, got EDMEulerScheduler; choose the level"):
            adapter.strength_level(made("EDMEulerScheduler"), 0.5)

    def test_a_warm_plan_is_not_saved_whole(self, tmp_path):
        warm = SimpleNamespace(sigmas=GRID, warm=lambda z: z)
        adapter.apply(warm, made("DDIMScheduler")).save_pretrained(tmp_path)
        again = adapter.PlannedDDIMScheduler.from_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"starts warm at sigma = 13, and what warms it is not part of a"):
            again.set_timesteps(5)

    def test_missing_diffusers(self):
        script = "import sys; sys.modules['diffusers'] = None\nimport eigenstep.adapters.diffusers"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        remedy = 'needs diffusers; install it with: pip install "eigenstep[diffusers]"'
        assert f"ImportError: handing grids to diffusers {remedy}" in done.stderr


@pytest.mark.parametrize("strength", [0.03, 0.2, 0.29, 0.5, 0.58, 0.7, 0.99, 1.0])
@pytest.mark.parametrize("n", [1, 4, 7])
@pytest.mark.parametrize("flow", [False, True])
def test_the_pipelines_rounding_leaves_the_planned_steps(strength, n, flow):
    original = made("FlowMatchEulerDiscreteScheduler" if flow else "EulerDiscreteScheduler")
    grid = np.append(np.geomspace(3.0, 0.5, n), 0.0)
    scheduler = adapter.apply(grid, original, strength=strength)
    total = scheduler.num_inference_steps
    # `get_timesteps` of the image-to-image pipelines of Stable Diffusion 3 and of Stable Diffusion.
    begin = int(total - min(total * strength, total)) if flow else total - min(int(total * strength), total)
    told = scheduler.timesteps[begin:]
    assert len(told) == n
    torch.testing.assert_close(told, adapter.apply(grid, original).timesteps)
    np.testing.assert_allclose(adapter.read_back(scheduler), grid, rtol=1e-12)


def test_strength_levels_are_where_pipelines_of_many_steps_begin():
    native = made("DDIMScheduler")
    native.set_timesteps(500)
    begun = native.timesteps[500 - int(500 * 0.3) :][0]  # leading spacing: 298
    level = table_of(native).sigmas[int(begun)]
    assert adapter.strength_level(native, 0.3) == pytest.approx(level, rel=0.01)  # half a stride of 2 in 300
    assert adapter.strength_level(native, 1.0) == pytest.approx(table_of(native).sigma_max, rel=1e-12)


def test_a_plan_for_another_solver_is_noticed():
    plan = SimpleNamespace(sigmas=GRID, warm=None, solver="heun")
    with pytest.warns(UserWarning, match=r"the plan is for the solver 'heun', and DDIMScheduler .* takes the steps of 'ddim'"):
        adapter.apply(plan, made("DDIMScheduler"))
    adapter.apply(SimpleNamespace(sigmas=GRID, solver="euler"), made("DDIMScheduler"))  # the same step by another name


def test_the_plan_is_written_in_full(tmp_path):
    adapter.apply(GRID / 3, made("DDIMScheduler")).save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert saved["_eigenstep"]["sigmas"] == (GRID / 3).tolist()


def test_unknown_names_of_the_module():
    with pytest.raises(AttributeError, match=re.escape("module 'eigenstep.adapters.diffusers' has no attribute 'Nothing'")):
        adapter.Nothing  # noqa: B018
