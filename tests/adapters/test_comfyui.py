"""ComfyUI without ComfyUI: the few attributes it gives, with numbers recorded from its release 0.3.64."""

from __future__ import annotations

import importlib.util
import inspect
import json
import math
import os
import re
import sys
from collections import namedtuple
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from eigenstep import Spectrum, divergence, optimal_grid, sample, wiener_gain
from eigenstep.adapters import comfyui
from eigenstep.optimal import optimal_split
from eigenstep.solvers import SOLVERS

ROOT = Path(__file__).parents[2]
SPECTRUM = Spectrum.from_zoo("cifar10")
# A level held in float32 is off by half a unit in its last place, 2^-24, at most.
FLOAT32 = 2.0**-24

# The attributes that a model's `model_sampling` has, and what those of ComfyUI 0.3.64 said.
SD15 = SimpleNamespace(
    sigma_min=0.029167158529162407,
    sigma_max=14.614641189575195,
    percent_to_sigma={0.4: 2.2797305583953857}.__getitem__,
)
EDM = SimpleNamespace(
    sigma_min=0.001999999862164259, sigma_max=120.00000762939453, percent_to_sigma={0.4: 1.4720438612096285}.__getitem__
)


class CONST:
    """The class by which ComfyUI knows flow models."""


class FlowModel(CONST):
    def __init__(self, sigma_min, percents, noise_scale=1.0):
        self.sigma_min, self.sigma_max = sigma_min, 1.0
        self.percent_to_sigma = percents.__getitem__
        self.noise_scale = noise_scale


FLOW3 = FlowModel(0.002994012087583542, {0.4: 0.818181818181818, 1e-4: 0.9999666644442963})
FLUX = FlowModel(0.00031575115281157196, {0.4: 0.8257016621505007, 1e-4: 0.9999683341591349})
MODELS = {"sd15": SD15, "edm": EDM, "flow3": FLOW3, "flux": FLUX}

# What ComfyUI's samplers made of x = sigma_0 z, D the Wiener filter, on these levels (s = sigma/(1+sigma) for flow models).
LEVELS = np.array([14.0, 3.0, 0.7, 0.05, 0.0])
EIGENVALUES = np.array([30.0, 1.0, 0.01])
Z = np.array([1.0, -0.5, 2.0])
RECORDED = [
    ("sigma", "euler", [3.61598433652, -0.328194775556, 0.101186516509]),
    ("sigma", "ddim", [3.61598433652, -0.328194775556, 0.101186516509]),
    ("sigma", "euler_ancestral", [3.49733966516, -0.138306921239, -0.00186841611354]),
    ("sigma", "ddpm", [3.49733966516, -0.138306921239, -0.00186841611354]),
    ("sigma", "heun", [6.48115812182, -0.708616552713, 0.494050678306]),
    ("sigma", "dpm_2", [5.96750952982, -0.616464689106, 0.270051999623]),
    ("sigma", "dpmpp_2m", [4.80114516844, -0.52021035168, 0.115794174442]),
    ("sigma", "dpmpp_2m_sde", [4.78338769125, -0.31683698514, 0.000897606418093]),
    ("sigma", "dpmpp_2m_sde_gpu", [4.78338769125, -0.31683698514, 0.000897606418093]),
    ("sigma", "ipndm", [4.21372964325, -0.476408450535, 0.11421893018]),
    ("sigma", "uni_pc_bh2", [5.05065250397, -0.536439597607, 0.117494940758]),
    ("flow", "euler", [3.61598433652, -0.328194775556, 0.101186516509]),
    ("flow", "ddim", [3.61598433652, -0.328194775556, 0.101186516509]),
    ("flow", "dpmpp_2m_sde", [4.78338769125, -0.31683698514, 0.000897606418093]),
    ("flow", "dpmpp_2m_sde_gpu", [4.78338769125, -0.31683698514, 0.000897606418093]),
]


class TestSamplers:
    @pytest.mark.parametrize(("kind", "sampler", "recorded"), RECORDED)
    def test_named_solver_makes_the_recorded_steps(self, kind, sampler, recorded):
        solver = comfyui.Levels(0.01, 20.0, flow=kind == "flow").solver(sampler)
        noise = [np.cos(3 * k + np.arange(3)) for k in range(4)]
        ends_early = sampler == "uni_pc_bh2"  # which runs in float32 and ends at 0.001 instead of 0
        levels = np.append(LEVELS[:-1], 0.001) if ends_early else LEVELS
        x = sample(
            lambda x, sigma: wiener_gain(EIGENVALUES, sigma) * x,
            14.0 * Z,
            levels,
            solver=solver,
            noise=noise.__getitem__ if SOLVERS[solver].stochastic else None,
        )
        # Twelve recorded digits. uni_pc_bh2 takes 1 - 1/(1 + sigma^2) in float32, wrong by a few per cent at 0.001.
        np.testing.assert_allclose(x, recorded, rtol=5e-4 if ends_early else 1e-11)

    @pytest.mark.parametrize(
        ("sampler", "recorded", "digits"),
        [
            ("ipndm", [4.79918340113, -0.465390440044, 0.109346981773], 1e-11),
            ("dpmpp_2m", [5.2758495384, -0.602945297406, 0.12142769281], 1e-11),
            ("uni_pc_bh2", [5.14311075211, -0.646966516972, 0.122848540545], 1e-3),  # float32, as above
        ],
    )
    def test_long_enough_for_the_highest_order(self, sampler, recorded, digits):
        levels = np.array([14.0, 6.0, 3.0, 1.4, 0.7, 0.05, 0.001 if sampler == "uni_pc_bh2" else 0.0])
        solver = comfyui.SAMPLERS[sampler]
        x = sample(lambda x, sigma: wiener_gain(EIGENVALUES, sigma) * x, 14.0 * Z, levels, solver=solver)
        np.testing.assert_allclose(x, recorded, rtol=digits)

    def test_every_sampler_was_recorded(self):
        assert {name for kind, name, _ in RECORDED if kind == "sigma"} == set(comfyui.SAMPLERS)
        assert {name for kind, name, _ in RECORDED if kind == "flow"} == set(comfyui.FLOW_SAMPLERS)

    def test_unknown_samplers_are_refused(self):
        with pytest.raises(ValueError, match=r"`sampler` must be one of euler, .* got 'dpmpp_2n'. Did you mean 'dpmpp_2m'"):
            comfyui.Levels(0.01, 20.0).solver("dpmpp_2n")

    @pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m", "euler_ancestral", "uni_pc_bh2"])
    def test_flow_models_refuse_steps_made_in_flow_time(self, sampler):
        with pytest.raises(ValueError, match=rf"`sampler` must be one of euler, ddim, dpmpp_2m_sde.* got '{sampler}'"):
            comfyui.plan_sigmas(SPECTRUM, 4, FLOW3, sampler=sampler)


class TestLevels:
    def test_sigma_models_are_their_own_unit(self):
        units = comfyui.Levels.of(SD15)
        assert units == comfyui.Levels(SD15.sigma_min, SD15.sigma_max)
        assert units.to_host([3.0, 0.0]).tolist() == [3.0, 0.0]

    def test_flow_models_by_hand(self):
        units = comfyui.Levels.of(FLOW3)
        assert units.flow
        assert units.sigma_max == math.inf
        assert units.sigma_min == pytest.approx(0.003 / (1 - 0.001), rel=1e-6)  # shift 3 of 1/1000: 3 * 0.001/0.999
        assert [units.to_sigma(s) for s in (1.0, 0.9, 0.5, 0.0)] == [math.inf, pytest.approx(9.0), 1.0, 0.0]

    def test_noise_of_another_scale(self):
        units = comfyui.Levels.of(FlowModel(0.1, {}, noise_scale=2.0))
        assert units.to_sigma(0.5) == 2.0  # x = 0.5 * 2 z + 0.5 x_0
        np.testing.assert_allclose(units.to_host([2.0, 18.0]), [0.5, 0.9], rtol=1e-15)

    @pytest.mark.parametrize("scale", [1.0, 2.0])
    def test_units_are_inverse(self, scale):
        units = comfyui.Levels(0.001, math.inf, flow=True, noise_scale=scale)
        sigma = np.geomspace(1e-3, 1e3, 13)
        back = [units.to_sigma(level) for level in units.to_host(sigma)]
        np.testing.assert_allclose(back, sigma, rtol=1e-12)  # 1 - s loses three digits at 1000

    def test_a_model_without_levels_is_refused(self):
        with pytest.raises(ValueError, match=r"`model` must have noise levels .* got SimpleNamespace"):
            comfyui.Levels.of(SimpleNamespace())

    def test_a_model_without_noise_is_refused(self):
        kind = type("IMG_TO_IMG_FLOW", (FlowModel,), {})
        with pytest.raises(ValueError, match="`model` turns images into images without noise"):
            comfyui.Levels.of(kind(0.1, {}))


class TestPlan:
    @pytest.mark.parametrize("name", MODELS)
    @pytest.mark.parametrize("steps", [1, 4, 9])
    def test_length_ends_and_order(self, name, steps):
        model = MODELS[name]
        levels = comfyui.plan_sigmas(SPECTRUM, steps, model)
        assert levels.shape == (steps + 1,)
        assert levels[0] == model.sigma_max
        assert levels[-1] == 0.0
        assert (np.diff(levels) < 0).all()
        assert steps == 1 or levels[-2] >= model.sigma_min * (1 - 1e-12)

    @pytest.mark.parametrize("sampler", comfyui.SAMPLERS)
    def test_sigma_models_get_the_optimal_grid(self, sampler):
        levels = comfyui.plan_sigmas(SPECTRUM, 5, SD15, sampler=sampler)
        solver = comfyui.SAMPLERS[sampler]
        objective = "blend" if SOLVERS[solver].memory else "w2"
        expected = optimal_grid(SPECTRUM, 5, SD15.sigma_min, SD15.sigma_max, solver=solver, objective=objective)
        np.testing.assert_array_equal(levels, expected.sigmas)

    def test_an_objective_that_is_named_is_taken(self):
        whole = comfyui.plan_sigmas(SPECTRUM, 5, SD15, sampler="dpmpp_2m", objective="w2")
        expected = optimal_grid(SPECTRUM, 5, SD15.sigma_min, SD15.sigma_max, solver="dpmpp_2m")
        np.testing.assert_array_equal(whole, expected.sigmas)

    @pytest.mark.parametrize("name", ["flow3", "flux"])
    def test_flow_models_start_from_nothing_but_noise(self, name):
        levels = comfyui.plan_sigmas(SPECTRUM, 6, MODELS[name])
        back = comfyui.read_back(levels, MODELS[name])
        assert back[0] == math.inf
        # From s = 1 the first step leaves the noise of the second level and the data's mean: gain 0, by hand.
        lam = SPECTRUM.eigenvalues
        gain = np.ones_like(lam)
        for sigma, lower in pairwise(back[1:]):
            gain *= (lam + sigma * lower) / (lam + sigma**2)
        value = (SPECTRUM.multiplicities * (gain * back[1] - np.sqrt(lam)) ** 2).sum()
        far = np.concatenate([[1e15], back[1:]])
        # From a finite level the first step leaves sigma_1 + lambda/sigma_0 of noise: here 1e-12 more than sigma_1 = 27.
        assert value == pytest.approx(divergence(SPECTRUM, far), rel=1e-10)
        rng = np.random.default_rng(3)
        for _ in range(20):
            moved = far * np.exp(0.01 * rng.standard_normal(far.size) * (far < 1e15))
            assert divergence(SPECTRUM, moved) > value

    def test_log_snr_samplers_on_flow_models_start_at_comfyuis_offset(self):
        levels = comfyui.plan_sigmas(SPECTRUM, 6, FLOW3, sampler="dpmpp_2m_sde")
        assert levels[0] == pytest.approx(0.9999666644442963, rel=1e-12)

    @pytest.mark.parametrize("name", MODELS)
    def test_denoise_plans_all_steps_on_the_range_that_is_sampled(self, name):
        model = MODELS[name]
        levels = comfyui.plan_sigmas(SPECTRUM, 5, model, denoise=0.6)
        assert levels.size == 6
        assert levels[0] == model.percent_to_sigma(0.4)
        units = comfyui.Levels.of(model)
        planned = optimal_grid(SPECTRUM, 5, units.sigma_min, units.to_sigma(model.percent_to_sigma(0.4))).sigmas
        np.testing.assert_allclose(comfyui.read_back(levels, model), planned, rtol=1e-14)

    def test_slicing_a_plan_of_the_whole_range_is_worse(self):
        # KSampler's way, int(5/0.6) = 8 steps of which the last six levels are kept, judged on the range it samples.
        sliced = comfyui.plan_sigmas(SPECTRUM, 8, SD15)[-6:]
        assert divergence(SPECTRUM, comfyui.plan_sigmas(SPECTRUM, 5, SD15, start_at=sliced[0])) < divergence(SPECTRUM, sliced)

    def test_denoise_of_zero_is_an_empty_list(self):
        assert comfyui.plan_sigmas(SPECTRUM, 5, SD15, denoise=0.0).size == 0

    @pytest.mark.parametrize("name", MODELS)
    def test_two_runs_meet_where_told(self, name):
        model = MODELS[name]
        middle = 0.4 if name in ("flow3", "flux") else 0.5
        high = comfyui.plan_sigmas(SPECTRUM, 3, model, end_at=middle)
        low = comfyui.plan_sigmas(SPECTRUM, 4, model, start_at=middle)
        assert high[-1] == pytest.approx(middle, rel=1e-12)
        assert low[0] == middle
        assert (high.size, low.size, low[-1]) == (4, 5, 0.0)

    def test_ending_below_the_lowest_level_still_calls_no_lower(self):
        levels = comfyui.plan_sigmas(SPECTRUM, 6, SD15, sampler="dpmpp_2m", end_at=0.01)
        assert levels[-1] == 0.01
        assert levels[-2] >= SD15.sigma_min * (1 - 1e-12)

    def test_without_a_model(self):
        levels = comfyui.plan_sigmas(SPECTRUM, 4, start_at=14.6)
        np.testing.assert_array_equal(levels, optimal_grid(SPECTRUM, 4, 0.0, 14.6).sigmas)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"model_sampling": None}, "`start_at` must be given where no model is connected"),
            ({"start_at": 20.0}, "`start_at` must not exceed the model's highest level 14.6146, got 20"),
            ({"start_at": 3.0, "denoise": 0.5}, "`denoise` must be 1 where `start_at` says where to start, got 0.5 and 3"),
            ({"start_at": 0.01}, "must start above the model's lowest level 0.0291672, got 0.01"),
            ({"end_at": 14.7}, "`end_at` must lie below the level where the run starts, got 14.7 and 14.6146"),
            ({"denoise": 1.5}, "`denoise` must be at least 0 and at most 1, got 1.5"),
            ({"steps": 0}, "`steps` must be at least 1, got 0"),
            ({"objective": "fid"}, "`objective` must be one of"),
        ],
    )
    def test_refusals(self, arguments, message):
        given = {"steps": 4, "model_sampling": SD15} | arguments
        with pytest.raises(ValueError, match=message):
            comfyui.plan_sigmas(SPECTRUM, given.pop("steps"), given.pop("model_sampling"), **given)


class TestTwoModels:
    def test_wan_boundary(self):
        high, low = comfyui.plan_split(SPECTRUM, 8, 0.875, FLOW3)
        assert high[0] == 1.0
        assert high[-1] == low[0] == 0.875
        assert low[-1] == 0.0
        assert high.size + low.size == 10
        best = optimal_split(SPECTRUM, 8, 7.0, comfyui.Levels.of(FLOW3).sigma_min, 1e6 * SPECTRUM.eigenvalues[0] ** 0.5)
        np.testing.assert_allclose(comfyui.read_back(low, FLOW3), best.low, rtol=1e-12)

    def test_shares_can_be_given(self):
        high, low = comfyui.plan_split(SPECTRUM, 8, 0.6, FLOW3, high_steps=2)
        assert high[-1] == low[0] == 0.6  # which sigma = s/(1-s) and back would miss by a rounding
        assert (high.size, low.size) == (3, 7)

    @pytest.mark.parametrize("boundary", [1.0, 0.001])
    def test_a_boundary_outside_is_refused(self, boundary):
        with pytest.raises(ValueError, match=r"`boundary` must lie between the model's lowest level and the start, got"):
            comfyui.plan_split(SPECTRUM, 8, boundary, FLOW3)

    def test_nothing_to_denoise_is_refused(self):
        with pytest.raises(ValueError, match="`denoise` must be greater than 0"):
            comfyui.plan_split(SPECTRUM, 8, 0.5, FLOW3, denoise=0.0)


class TestTensor:
    @pytest.mark.parametrize("name", MODELS)
    def test_read_back(self, name):
        torch = pytest.importorskip("torch")
        model = MODELS[name]
        planned = comfyui.plan_sigmas(SPECTRUM, 8, model)
        value = comfyui.tensor(planned)
        assert value.dtype == torch.float32
        here, back = (comfyui.read_back(levels, model)[:-1] for levels in (planned, value.numpy()))
        finite = np.isfinite(here)
        error = np.abs(np.log(back[finite] / here[finite]))
        # d ln sigma = d ln s for sigma models, and d ln s / (1 - s) = d ln s (1 + sigma) for flow models.
        assert (error <= FLOAT32 * (1 + here[finite] * comfyui.Levels.of(model).flow) * 1.01).all()

    def test_without_torch(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch", None)
        with pytest.raises(ImportError, match=r'pip install "eigenstep\[torch\]"'):
            comfyui.tensor([1.0, 0.0])


class TestSpectra:
    def test_files_and_names(self, tmp_path):
        SPECTRUM.save(tmp_path / "b.json")
        SPECTRUM.save(tmp_path / "a.npz")
        (tmp_path / "notes.txt").write_text("no spectrum")
        assert list(comfyui.spectrum_files([str(tmp_path)])) == ["a.npz", "b.json"]
        np.testing.assert_array_equal(comfyui.load_spectrum("b.json", [str(tmp_path)]).eigenvalues, SPECTRUM.eigenvalues)

    def test_a_changed_file_is_read_again(self, tmp_path):
        file = tmp_path / "mine.json"
        Spectrum.from_eigenvalues([1.0]).save(file)
        first = comfyui.load_spectrum("mine.json", [str(tmp_path)])
        assert comfyui.load_spectrum("mine.json", [str(tmp_path)]) is first
        Spectrum.from_eigenvalues([2.0]).save(file)
        os.utime(file, ns=(1, 1))
        assert comfyui.load_spectrum("mine.json", [str(tmp_path)]).eigenvalues.tolist() == [2.0]

    def test_none_says_how_to_make_one(self, tmp_path):
        message = r"need a spectrum, and there is none\. Measure one with `eigenstep spectrum .*` and put it into "
        with pytest.raises(ValueError, match=message + re.escape(str(tmp_path))):
            comfyui.default_spectrum([str(tmp_path)], {})
        with pytest.raises(ValueError, match=r"There is no spectrum file 'x\.json'"):
            comfyui.load_spectrum("x.json", [str(tmp_path)])

    def test_default_is_the_named_one_then_default_then_the_only_one(self, tmp_path):
        def trace(environment=()):
            return comfyui.default_spectrum([str(tmp_path)], dict(environment)).trace

        Spectrum.from_eigenvalues([1.0]).save(tmp_path / "one.json")
        assert trace() == 1.0
        Spectrum.from_eigenvalues([2.0]).save(tmp_path / "two.json")
        with pytest.raises(ValueError, match=r"need one spectrum, got one\.json, two\.json; rename the right one default"):
            trace()
        Spectrum.from_eigenvalues([3.0]).save(tmp_path / "default.json")
        assert trace() == 3.0
        assert trace([("EIGENSTEP_SPECTRUM", str(tmp_path / "two.json"))]) == 2.0
        with pytest.raises(ValueError, match=r"`EIGENSTEP_SPECTRUM` must name a spectrum file, got 'nowhere\.json'"):
            trace([("EIGENSTEP_SPECTRUM", "nowhere.json")])


@pytest.fixture
def host(tmp_path, monkeypatch):
    """What the node folder imports of ComfyUI, with a registry that already holds another extension's scheduler."""
    samplers = ModuleType("comfy.samplers")
    samplers.SchedulerHandler = namedtuple("SchedulerHandler", ["handler", "use_ms"], defaults=[True])
    samplers.SCHEDULER_HANDLERS = {"simple": None, "theirs": None}
    samplers.SCHEDULER_NAMES = ["simple", "theirs"]
    samplers.shown = samplers.SCHEDULER_NAMES  # as KSampler.SCHEDULERS is
    comfy = ModuleType("comfy")
    comfy.samplers = samplers
    paths = ModuleType("folder_paths")
    paths.models_dir = str(tmp_path)
    paths.known = {}
    paths.add_model_folder_path = lambda name, folder: paths.known.setdefault(name, []).append(folder)
    paths.get_folder_paths = lambda name: list(paths.known[name])
    for name, module in {"comfy": comfy, "comfy.samplers": samplers, "folder_paths": paths}.items():
        monkeypatch.setitem(sys.modules, name, module)
    return samplers


def load_nodes():
    spec = importlib.util.spec_from_file_location("eigenstep_nodes", ROOT / "comfyui" / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def model(sampling):
    return SimpleNamespace(get_model_object={"model_sampling": sampling}.__getitem__)


class TestNodes:
    @pytest.fixture(autouse=True)
    def _torch(self):
        pytest.importorskip("torch")

    def test_schedulers_join_the_list_without_replacing_it(self, host):
        load_nodes()
        assert host.shown is host.SCHEDULER_NAMES
        assert host.shown[:2] == ["simple", "theirs"]
        assert host.shown[2:] == list(comfyui.SCHEDULERS)
        load_nodes()  # a reload adds nothing
        assert len(host.shown) == 2 + len(comfyui.SCHEDULERS)

    def test_old_releases_without_a_registry_keep_the_nodes(self, host):
        del host.SCHEDULER_HANDLERS
        assert "EigenstepSigmas" in load_nodes().NODE_CLASS_MAPPINGS
        assert host.SCHEDULER_NAMES == ["simple", "theirs"]

    def test_schedulers_plan_with_the_default_spectrum(self, host, tmp_path):
        load_nodes()
        handler, takes_model = host.SCHEDULER_HANDLERS["eigenstep_2m"]
        assert takes_model
        with pytest.raises(ValueError, match="there is none"):
            handler(SD15, 5)
        (tmp_path / "eigenstep").mkdir()
        SPECTRUM.save(tmp_path / "eigenstep" / "any.json")
        expected = comfyui.plan_sigmas(SPECTRUM, 5, SD15, sampler="dpmpp_2m")
        np.testing.assert_array_equal(handler(SD15, 5).numpy(), np.float32(expected))

    def test_nodes_return_what_the_planner_plans(self, host, tmp_path):
        nodes = load_nodes().NODE_CLASS_MAPPINGS
        (tmp_path / "eigenstep").mkdir()
        SPECTRUM.save(tmp_path / "eigenstep" / "mine.json")
        (levels,) = nodes["EigenstepSigmas"]().plan("mine.json", 5, "euler", "w2", 0.6, model=model(FLOW3))
        expected = comfyui.plan_sigmas(SPECTRUM, 5, FLOW3, denoise=0.6)
        np.testing.assert_array_equal(levels.numpy(), np.float32(expected))
        parts = nodes["EigenstepTwoModels"]().plan(model(FLOW3), "mine.json", 6, 0.875, 0, "euler", "w2", 1.0)
        for mine, planned in zip(parts, comfyui.plan_split(SPECTRUM, 6, 0.875, FLOW3), strict=True):
            np.testing.assert_array_equal(mine.numpy(), np.float32(planned))
        high, low = nodes["EigenstepSplitSigmas"]().split(levels, float(levels[2]))
        np.testing.assert_array_equal(np.concatenate([high, low[1:]]), levels)

    def test_the_choice_of_spectra_is_never_empty(self, host, tmp_path):
        node = load_nodes().NODE_CLASS_MAPPINGS["EigenstepSigmas"]
        (shown,) = node.INPUT_TYPES()["required"]["spectrum"][0]
        with pytest.raises(ValueError, match="There is no spectrum file"):
            node().plan(shown, 5, "euler", "w2", 1.0, start_at_sigma=10.0)
        (tmp_path / "eigenstep").mkdir()
        SPECTRUM.save(tmp_path / "eigenstep" / "mine.json")
        assert node.INPUT_TYPES()["required"]["spectrum"][0] == ["mine.json"]

    def test_every_input_is_an_argument(self, host):
        module = load_nodes()
        assert set(module.NODE_CLASS_MAPPINGS) == set(module.NODE_DISPLAY_NAME_MAPPINGS)
        for node in module.NODE_CLASS_MAPPINGS.values():
            inputs = [name for group in node.INPUT_TYPES().values() for name in group]
            assert set(inputs) == set(inspect.signature(getattr(node, node.FUNCTION)).parameters) - {"self"}

    def test_the_example_workflow_fits_the_node(self, host):
        nodes = load_nodes().NODE_CLASS_MAPPINGS
        workflow = json.loads((ROOT / "comfyui" / "example_workflows" / "eigenstep.json").read_text())
        by_id = {node["id"]: node for node in workflow["nodes"]}
        for link, source, out, target, at, kind in workflow["links"]:
            assert link in by_id[source]["outputs"][out]["links"]
            assert by_id[target]["inputs"][at]["link"] == link
            assert by_id[source]["outputs"][out]["type"] == by_id[target]["inputs"][at]["type"] == kind
        (ours,) = [node for node in workflow["nodes"] if node["type"] in nodes]
        groups = nodes[ours["type"]].INPUT_TYPES()
        fields = [value for group in groups.values() for value in group.values()]
        widgets = [value for value in fields if value[0] in ("INT", "FLOAT") or isinstance(value[0], list)]
        assert len(ours["widgets_values"]) == len(widgets)
        for given, (kind, *_) in list(zip(ours["widgets_values"], widgets, strict=True))[1:]:
            assert given in kind if isinstance(kind, list) else isinstance(given, (int, float))
        assert [o["type"] for o in ours["outputs"]] == list(nodes[ours["type"]].RETURN_TYPES)


def test_the_folder_asks_for_this_library():
    assert (ROOT / "comfyui" / "requirements.txt").read_text().startswith("eigenstep")
    metadata = (ROOT / "comfyui" / "pyproject.toml").read_text()
    assert "[tool.comfy]" in metadata
    assert 'dependencies = ["eigenstep' in metadata
