"""diffusers: planned schedulers against the library's own sampler, and against diffusers' own grids, by running both."""

from __future__ import annotations

import inspect

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from eigenstep import sample  # noqa: E402
from eigenstep.adapters import diffusers as adapter  # noqa: E402
from eigenstep.models import ModelDenoiser  # noqa: E402
from eigenstep.models.schedulers import scheduler_convention  # noqa: E402
from eigenstep.paths import VPDiscrete  # noqa: E402

# What diffusers itself sets off under newer numpy and torch is not this library's to mend.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

SHAPE = (2, 3, 8, 8)
# Within every default range, for 5 steps; the last level is above the lowest of CogVideoX's table, 0.0505.
GRID = np.array([13.0, 4.0, 1.3, 0.4, 0.06, 0.0])


@pytest.fixture(scope="module", name="unet")
def _unet(tmp_path_factory):
    """A small U-Net, saved and loaded, in float64: float32 arithmetic would hide what the levels' precision is."""
    torch.manual_seed(0)
    made = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    # The output of a new U-Net is near zero; a louder one makes the run depend on every call.
    with torch.no_grad():
        made.conv_out.weight.mul_(3.0)
    folder = tmp_path_factory.mktemp("unet")
    made.save_pretrained(folder)
    loaded = diffusers.UNet2DModel.from_pretrained(folder).double().eval()

    @torch.no_grad()
    def network(x, t):
        # As a tensor: the U-Net truncates a Python number to an integer.
        return loaded(x.double(), torch.as_tensor(t, dtype=torch.float64)).sample

    return network


def scheduler_class(name, config):
    if not hasattr(diffusers, name):
        pytest.skip(f"{name} is not in diffusers {diffusers.__version__}")
    kind = getattr(diffusers, name)
    unknown = set(config) - set(inspect.signature(kind.__init__).parameters)
    if unknown:
        pytest.skip(f"{name} has no {', '.join(unknown)} in diffusers {diffusers.__version__}")
    return kind


def run(scheduler, network, state, *, seed=7, double=False):
    """The loop of diffusers' pipelines; `double` feeds the network a doubled batch, as classifier-free guidance does."""
    generator = torch.Generator().manual_seed(seed)
    x, old, before = state, None, None
    for t in scheduler.timesteps[: len(scheduler.timesteps) - tail(scheduler)]:
        fed = torch.cat([x, x]) if double else x
        fed = scheduler.scale_model_input(fed, t) if hasattr(scheduler, "scale_model_input") else fed
        if type(scheduler).__name__.endswith("SCMScheduler"):
            fed = fed / scheduler.config.sigma_data
        output = network(fed, t)
        output = output[: len(x)]
        if type(scheduler).__name__.endswith("SCMScheduler"):
            output = output * scheduler.config.sigma_data
        offered = {"generator": generator, "prev_timestep": after(scheduler, t)}
        arguments = {key: value for key, value in offered.items() if takes(scheduler, key)}
        if takes(scheduler, "old_pred_original_sample"):
            x, old = scheduler.step(output, old, t, before, x, **arguments)
            before = t
        else:
            when = t.expand(len(x)) if type(scheduler).__name__.endswith("WuerstchenScheduler") else t
            x = scheduler.step(output, when, x, **arguments).prev_sample
    return x


def takes(scheduler, argument):
    return argument in inspect.signature(scheduler.step).parameters


def after(scheduler, t):
    """As the unCLIP pipeline passes it."""
    following = (scheduler.timesteps == t).nonzero()[0, 0] + 1
    return scheduler.timesteps[following] if following < len(scheduler.timesteps) else None


def tail(scheduler):
    """Timesteps that no call belongs to: two classes list the end as well."""
    return int(type(scheduler).__name__.endswith(("SCMScheduler", "WuerstchenScheduler")))


def noise(count=40, seed=7, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=generator, dtype=dtype) for _ in range(count)]


def standard(seed=1):
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def relative(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


PLAIN = {"clip_sample": False}

# Class, configuration, grid (None: GRID). Every row's steps are those of one of the library's solvers.
OURS = [
    ("EulerDiscreteScheduler", {}),
    ("EulerDiscreteScheduler", {"prediction_type": "v_prediction"}),
    ("EulerDiscreteScheduler", {"timestep_spacing": "leading", "use_karras_sigmas": True}),
    ("EulerAncestralDiscreteScheduler", {}),
    ("HeunDiscreteScheduler", {}),
    ("KDPM2DiscreteScheduler", {}),
    ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    ("DPMSolverMultistepScheduler", {"solver_order": 1}),
    ("DPMSolverMultistepScheduler", {"solver_order": 3, "prediction_type": "v_prediction"}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}),
    ("DEISMultistepScheduler", {}),
    ("DEISMultistepScheduler", {"solver_order": 3}),
    ("UniPCMultistepScheduler", {}),
    ("UniPCMultistepScheduler", {"solver_order": 3, "lower_order_final": False}),
    ("UniPCMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 5.0}),
    ("EDMEulerScheduler", {}),
    ("EDMDPMSolverMultistepScheduler", {}),
    ("EDMDPMSolverMultistepScheduler", {"solver_order": 3}),
    ("EDMDPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ("CosineDPMSolverMultistepScheduler", {}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True, "shift_terminal": 0.1}),
    ("FlowMapEulerDiscreteScheduler", {"shift": 3.0}),
    ("MiniMaxH3Scheduler", {}),
    ("DDIMScheduler", PLAIN),
    ("DDIMScheduler", PLAIN | {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}),
    ("DDIMScheduler", PLAIN | {"prediction_type": "sample", "set_alpha_to_one": False}),
    ("DDIMParallelScheduler", PLAIN),
    ("CogVideoXDDIMScheduler", PLAIN),
    ("CogVideoXDPMScheduler", PLAIN),
    ("DDPMScheduler", PLAIN),
    ("DDPMParallelScheduler", PLAIN),
    ("DDPMWuerstchenScheduler", {}),
    ("IPNDMScheduler", {}),
]


def named(rows):
    return [f"{row[0]}-{'-'.join(f'{k}={v}' for k, v in row[1].items() if k != 'clip_sample')}" for row in rows]


def drawn(name, count):
    """The noise that each step of a class draws from the generator of `run`."""
    draws = noise()
    if name == "CogVideoXDPMScheduler":  # draws for a first-order step, and again where it takes a second-order one
        return [draws[0], *draws[2 : 2 * count : 2]]
    return draws


@pytest.mark.parametrize(("name", "config"), OURS, ids=named(OURS))
def test_same_as_the_librarys_own_sampler(name, config, unet):
    original = scheduler_class(name, config)(**config)
    solver = adapter.solver_of(original)
    assert solver is not None
    scheduler = adapter.apply(GRID, original)
    z = standard()
    draws = drawn(name, len(GRID) - 1)
    if name.startswith("Cosine"):
        # Its noise is a Brownian path from its own generator: hand the same draws to both.
        pytest.importorskip("torchsde")
        queue = iter(draws)
        scheduler.noise_sampler = lambda *_: next(queue)
    if config.get("algorithm_type") == "sde-dpmsolver++" and name.startswith("DPM"):
        draws = [d.double() for d in noise(dtype=torch.float32)]  # as that class draws it
    theirs = run(scheduler, unet, adapter.start(scheduler, z))
    denoiser = reference(original, unet)
    ours = sample(denoiser, GRID[0] * z, GRID, solver=solver, noise=lambda k: draws[k])
    # What is left comes from the timesteps told to the network, which are float32: 6e-8 of a time, 1e-6 at most of the result.
    assert relative(theirs, ours) < 1e-5


def reference(original, unet):
    """The denoiser of the network under the conventions of a scheduler, read by `models`."""
    if type(original).__name__ == "DDPMWuerstchenScheduler":
        def denoiser(x, sigma):
            s = 0.008
            kept = 1 / (1 + sigma**2)
            t = np.arccos(np.sqrt(kept) * np.cos(s / (1 + s) * np.pi / 2)) * 2 / np.pi * (1 + s) - s
            return x - sigma * unet(x * kept**0.5, float(t))
        return denoiser
    if type(original).__name__ == "IPNDMScheduler":
        def denoiser(x, sigma):
            alpha = (1 + sigma**2) ** -0.5
            output = unet(alpha * x, float(np.arctan(sigma) * 2 / np.pi))
            return alpha * (alpha * x) - sigma * alpha * output
        return denoiser
    if type(original).__name__ == "MiniMaxH3Scheduler":
        def denoiser(x, sigma):
            u = sigma / (1 + sigma)
            return x * (1 - u) + u * unet(x * (1 - u), 1 - u)
        return denoiser
    if type(original).__name__ == "FlowMapEulerDiscreteScheduler":
        def denoiser(x, sigma):
            u = sigma / (1 + sigma)
            return x * (1 - u) - u * unet(x * (1 - u), 1000 * u)
        return denoiser
    if original.config.get("rescale_betas_zero_snr", False):
        # The level of the last timestep is infinite; the grid stays below it.
        kept = original.alphas_cumprod.double().numpy()
        path = VPDiscrete.from_alphas_cumprod(kept[:-1])
        return ModelDenoiser(unet, path, "v")
    convention = scheduler_convention(original, tokens=256)
    label = convention.time_label or (lambda t: t)
    return convention.denoiser(lambda x, t: unet(x, label(t)))


def test_the_trigonometric_class_by_hand(unet):
    """One step of SCM: x_0 = cos t x - sin t F at t = arctan(sigma), and nothing added at the end."""
    scheduler = adapter.apply([0.7, 0.0], scheduler_class("SCMScheduler", {})())
    x = standard()
    made = scheduler.step(2 * x, scheduler.timesteps[0], x).prev_sample
    torch.testing.assert_close(made, (1 - 2 * 0.7) / (1 + 0.7**2) ** 0.5 * x, rtol=1e-12, atol=1e-12)


TRIG = {
    "num_inference_steps": 5,
    "timesteps": [1.5, 1.3, 1.0, 0.7, 0.4, 0.0],
    "max_timesteps": None,
    "intermediate_timesteps": None,
}

WHOLE = {"timesteps": [999, 799, 599, 399, 199]}
FLOW = {"sigmas": np.array([0.9, 0.7, 0.5, 0.3, 0.1])}

# Class, configuration, arguments of its own set_timesteps: what diffusers itself would walk, planned and run alike.
NATIVE = [
    ("LMSDiscreteScheduler", {}, {}),
    ("LMSDiscreteScheduler", {"use_karras_sigmas": True}, {}),
    ("SASolverScheduler", {}, {}),
    ("SASolverScheduler", {"algorithm_type": "noise_prediction", "predictor_order": 3, "corrector_order": 4}, {}),
    ("PNDMScheduler", {"skip_prk_steps": True, "steps_offset": 1}, {}),
    ("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": True, "prediction_type": "v_prediction"}, {}),
    ("PNDMScheduler", {"steps_offset": 1}, {}),
    ("KDPM2AncestralDiscreteScheduler", {}, {}),
    ("DPMSolverSinglestepScheduler", {"lower_order_final": True}, WHOLE),
    ("DPMSolverSinglestepScheduler", {"solver_order": 3, "lower_order_final": True}, WHOLE),
    ("DPMSolverMultistepScheduler", {"solver_type": "heun"}, {}),
    ("DPMSolverMultistepScheduler", {"final_sigmas_type": "sigma_min"}, {}),
    ("DEISMultistepScheduler", {}, {}),
    ("UniPCMultistepScheduler", {"solver_type": "bh1", "final_sigmas_type": "sigma_min"}, {}),
    ("UniPCMultistepScheduler", {"predict_x0": False, "final_sigmas_type": "sigma_min"}, {}),
    ("DDIMScheduler", {}, {}),
    ("DDIMScheduler", {"set_alpha_to_one": False, "clip_sample": False, "steps_offset": 1}, {}),
    ("DDPMScheduler", {}, {}),
    ("DDPMScheduler", {"variance_type": "fixed_large"}, {}),
    ("LCMScheduler", {}, {}),
    ("TCDScheduler", {}, {}),
    ("UnCLIPScheduler", {}, {}),
    ("CMStochasticIterativeScheduler", {}, {}),
    ("SCMScheduler", {}, TRIG),
    ("EDMEulerScheduler", {}, {}),
    ("EDMEulerScheduler", {"sigma_schedule": "exponential"}, {}),
    ("EulerDiscreteScheduler", {"use_exponential_sigmas": True}, {}),
    ("HeunDiscreteScheduler", {"use_beta_sigmas": True}, {}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}, FLOW),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0, "invert_sigmas": True}, FLOW),
    ("FlowMatchHeunDiscreteScheduler", {"shift": 3.0}, {"highest": 0.9}),
    ("FlowMatchLCMScheduler", {"shift": 3.0}, FLOW),
    ("LTXEulerAncestralRFScheduler", {}, {"sigmas": [0.9, 0.7, 0.5, 0.3, 0.1, 0.0]}),
    ("DDPMWuerstchenScheduler", {}, {"timesteps": [0.95, 0.7, 0.5, 0.3, 0.1, 0.0]}),
    ("DPMSolverSDEScheduler", {"noise_sampler_seed": 3}, {}),
]


@pytest.mark.filterwarnings("ignore:Should have t:UserWarning")  # torchsde's, of diffusers' own float32 times
@pytest.mark.parametrize(("name", "config", "own"), NATIVE, ids=named(NATIVE))
def test_same_as_diffusers_on_its_own_grid(name, config, own, unet):
    kind = scheduler_class(name, config)
    if name == "DPMSolverSDEScheduler":
        pytest.importorskip("torchsde")
    native = kind(**config)
    if "highest" in own:  # its own start is noise alone, at an infinite level
        native.sigma_max, own = own["highest"], {}
    native.set_timesteps(**({} if {"sigmas", "timesteps"} & set(own) else {"num_inference_steps": 5}) | own)
    levels = adapter.read_back(native)
    if adapter.HOSTS[name].zero:
        levels[-1] = 0.0
    scheduler = adapter.apply(levels, kind(**config))
    np.testing.assert_allclose(np.log(adapter.read_back(scheduler)[:-1]), np.log(levels[:-1]), atol=1e-6)
    state = levels[0] * standard() * (0.3 if adapter.HOSTS[name].state == "x" else 1 / levels[0])
    planned, theirs = run(scheduler, unet, state), run(native, unet, state)
    assert torch.isfinite(planned).all()
    if not torch.isfinite(theirs).all():
        pytest.skip(f"{name} of diffusers {diffusers.__version__} gives infinity on its own grid")
    # unCLIP's own betas and 1 - alphas_cumprod, both float32, differ by 1e-3 at its lowest levels.
    assert relative(planned, theirs) < (1e-3 if name == "UnCLIPScheduler" else 1e-4)


ONTO_ZERO = [
    ("DEISMultistepScheduler", {}),
    ("SASolverScheduler", {}),
    ("SASolverScheduler", {"algorithm_type": "noise_prediction"}),
    ("UniPCMultistepScheduler", {"solver_type": "bh1"}),
    ("UniPCMultistepScheduler", {"predict_x0": False}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
    ("DPMSolverSinglestepScheduler", {"algorithm_type": "dpmsolver", "final_sigmas_type": "sigma_min"}),
    ("IPNDMScheduler", {}),
]


@pytest.mark.parametrize(("name", "config"), ONTO_ZERO, ids=named(ONTO_ZERO))
@pytest.mark.parametrize("count", [5, 16])  # some classes lower their last order below 15 steps only
def test_the_step_onto_zero_is_the_denoised_state(name, config, count, unet):
    grid = np.append(np.geomspace(13.0, 0.06, count), 0.0)
    scheduler = adapter.apply(grid, scheduler_class(name, config)(**config))
    x, sigma = adapter.start(scheduler, standard()), grid[-2]
    alpha = 1 / np.hypot(1, sigma)
    for t in scheduler.timesteps:
        before, output = x, unet(x, t)
        x = scheduler.step(output, t, x).prev_sample
    if name == "IPNDMScheduler":  # which predicts v
        expected = alpha * before - sigma * alpha * output
    else:
        expected = (before - sigma * alpha * output) / alpha
    torch.testing.assert_close(x, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:Should have t:UserWarning")  # torchsde's, at the step onto 0, whose noise weighs nothing
@pytest.mark.parametrize("name", sorted(adapter.HOSTS))
def test_a_step_keeps_the_type_of_the_state(name):
    scheduler = adapter.apply(GRID, scheduler_class(name, {})())
    if name in ("DPMSolverSDEScheduler", "CosineDPMSolverMultistepScheduler"):
        pytest.importorskip("torchsde")
    made = run(scheduler, lambda x, t: 0.1 * x, standard().float())
    assert made.dtype == torch.float32


def test_a_step_with_a_time_for_every_token_keeps_the_type_of_the_state():
    kind = scheduler_class("FlowMatchEulerDiscreteScheduler", {})
    if "per_token_timesteps" not in inspect.signature(kind.step).parameters:
        pytest.skip("not in this diffusers")
    scheduler = adapter.apply(GRID, kind())
    x, times = torch.ones(1, 2, 3), scheduler.timesteps[:1].repeat(1, 2)
    made = scheduler.step(x, scheduler.timesteps[0], x, per_token_timesteps=times).prev_sample
    assert made.dtype == torch.float32
    # From the first level u = 13/14 to the next, 4/5, by diffusers' own sign of the difference.
    torch.testing.assert_close(made, 1 + (13 / 14 - 4 / 5) * x)


@pytest.mark.parametrize("name", ["EulerDiscreteScheduler", "DDIMScheduler"])
def test_an_image_with_noise_is_no_noise_to_be_warmed(name):
    plan = type("Plan", (), {"sigmas": GRID, "warm": staticmethod(lambda z: 0 * z)})
    scheduler = adapter.apply(plan, scheduler_class(name, {})())
    x, t = torch.ones(1, 3, 8, 8), scheduler.timesteps[:1]
    noisy = scheduler.add_noise(x, x, t)
    assert scheduler.scale_model_input(noisy, t[0]).abs().max() > 0
    scheduler.step(0 * x, t[0], noisy)
    scheduler.set_timesteps(len(GRID) - 1)  # and the next run starts from noise again
    assert scheduler.scale_model_input(noisy, t[0]).abs().max() == 0


@pytest.mark.filterwarnings("ignore:Should have t:UserWarning")
def test_the_brownian_noise_of_the_cosine_class_reaches_the_planned_levels():
    pytest.importorskip("torchsde")
    scheduler = adapter.apply(GRID, scheduler_class("CosineDPMSolverMultistepScheduler", {})())
    x = torch.zeros(4000, 1)
    for t in scheduler.timesteps[:1]:
        scheduler.step(x, t, x, generator=torch.Generator().manual_seed(0))
    # Of unit variance over the lowest step, 0.4 to 0.06, too; 0.1 is 4.5 standard errors of the variance of 4000 draws.
    assert float(scheduler.noise_sampler(0.4, 0.06).var()) == pytest.approx(1.0, abs=0.1)
