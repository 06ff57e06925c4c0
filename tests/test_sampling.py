"""models/sampling.py: the catalogue in torch against numpy, diffusers' own schedulers and k-diffusion's own samplers.

The hosts run as they are: only their tables of levels are set by hand, and what they call is one exact, nonlinear denoiser in
whatever parametrisation they want. k-diffusion may be absent; its numbers are stored beside the script that made them.
"""

import importlib.util
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from eigenstep import EDM, SOLVERS, VPDiscrete, sample
from eigenstep.models import ModelDenoiser, SamplingError, generate, item_noise

torch = pytest.importorskip("torch")

# diffusers applies numpy functions to tensors, which torch announces with warnings under numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")

PARITY = Path(__file__).with_name("parity") / "k_diffusion_numbers.py"
_spec = importlib.util.spec_from_file_location("k_diffusion_numbers", PARITY)
numbers = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(numbers)

MIXTURE = numbers.Mixture()
SHAPE = numbers.ITEM_SHAPE
GRIDS = numbers.GRIDS
SIX = (14.6, 6.1, 2.5, 1.1, 0.45, 0.12)
Z, NOISE = (torch.from_numpy(part).to(torch.float32) for part in numbers.inputs())


def ours(name, levels, n_items=len(Z), **options):
    return generate(MIXTURE, levels, n_items, item_shape=SHAPE, solver=name, **options)


def assert_agree(one, other, rtol=1e-5):
    """The largest difference beside the largest number: coordinates near 0 have no precision of their own."""
    assert one.dtype == other.dtype == torch.float32
    difference = float((one - other).abs().max() / other.abs().max())
    assert difference < rtol


# ---------------------------------------------------------------------------------------------------------------------
# The same steps as in numpy


@pytest.mark.parametrize("end", GRIDS)
@pytest.mark.parametrize("name", SOLVERS)
def test_every_solver_in_torch_float64_is_the_one_in_numpy(name, end):
    def numpy_mixture(x, sigma):
        return MIXTURE(torch.from_numpy(x), sigma).numpy()

    z = item_noise(range(3), SHAPE, seed=7)
    theirs = sample(
        numpy_mixture,
        GRIDS[end][0] * z,
        GRIDS[end],
        solver=name,
        noise=lambda k: item_noise(range(3), SHAPE, seed=7, step=k),
    )
    # 1e-12: the same operations in the same precision.
    np.testing.assert_allclose(ours(name, GRIDS[end], 3, seed=7, dtype=torch.float64), theirs, rtol=1e-12)


@pytest.mark.parametrize("name", SOLVERS)
def test_float32_agrees_with_float64(name):
    # 1e-5: some dozen operations on numbers of at most 15 at 6e-8 each, hardly amplified on the way down.
    assert_agree(ours(name, GRIDS["zero"]), ours(name, GRIDS["zero"], dtype=torch.float64).to(torch.float32))


# ---------------------------------------------------------------------------------------------------------------------
# k-diffusion's samplers


@pytest.mark.parametrize("end", GRIDS)
@pytest.mark.parametrize("name", numbers.NAMES)
def test_k_diffusion_gave_the_same_numbers(name, end):
    stored = json.loads(numbers.NUMBERS.read_text())["results"][f"{name}, {end}"]
    # 1e-5 here and below: the host computes its coefficients in float32, we ours in float64.
    assert_agree(ours(name, GRIDS[end]), torch.tensor(stored).reshape(len(Z), *SHAPE))


@pytest.mark.parametrize("end", GRIDS)
@pytest.mark.parametrize("name", numbers.NAMES)
def test_k_diffusion_gives_the_same_numbers(name, end):
    try:
        sampling, _ = numbers.host()
    except ImportError as error:
        pytest.skip(str(error))
    sigmas = torch.tensor(GRIDS[end])
    x = numbers.run(sampling, name, lambda x, sigma: MIXTURE(x, float(sigma[0])), sigmas[0] * Z, sigmas, NOISE)
    assert_agree(ours(name, GRIDS[end]), x)


# ---------------------------------------------------------------------------------------------------------------------
# diffusers' schedulers. `levels` of a scheduler are ours; in the variance-preserving ones the sample is alpha x~.


def host_run(scheduler, levels, *, called=None, vp=True, prediction="sample", step=lambda k: {}):
    """Run a scheduler on our levels: `called` are those of its model calls, step by step."""
    called = levels[:-1] if called is None else called
    scheduler.timesteps = torch.arange(len(called), 0.0, -1.0)
    scheduler.num_inference_steps = len(called)
    scheduler._step_index = None
    scheduler._begin_index = 0
    alpha = [1 / math.hypot(1.0, level) if vp else 1.0 for level in [*called, levels[-1]]]
    x = alpha[0] * levels[0] * Z
    for k, (t, sigma) in enumerate(zip(scheduler.timesteps, called, strict=True)):
        output = MIXTURE(x / alpha[k], sigma)
        if prediction == "epsilon":
            output = (x / alpha[k] - output) / sigma
        x = scheduler.step(output, t, x, **step(k), return_dict=False)[0]
    return x / alpha[-1]


def tables(scheduler, levels):
    scheduler.sigmas = torch.tensor(levels)
    return scheduler


@pytest.fixture(scope="module")
def diffusers():
    return pytest.importorskip("diffusers")


@pytest.mark.parametrize("end", GRIDS)
def test_diffusers_euler(diffusers, end):
    scheduler = tables(diffusers.EulerDiscreteScheduler(prediction_type="sample"), GRIDS[end])
    assert_agree(ours("euler", GRIDS[end]), host_run(scheduler, GRIDS[end], vp=False))


@pytest.mark.parametrize("end", GRIDS)
def test_diffusers_flow_match_euler(diffusers, end):
    """Euler in the time of a rectified flow, sigma/(1+sigma), on a velocity: the same step as ours."""
    levels = GRIDS[end]
    flow = [s / (1 + s) for s in levels]
    scheduler = tables(diffusers.FlowMatchEulerDiscreteScheduler(), flow)
    scheduler.timesteps = torch.arange(len(flow) - 1, 0.0, -1.0)
    scheduler._step_index, scheduler._begin_index = None, 0
    x = flow[0] * Z
    for t, s, sigma in zip(scheduler.timesteps, flow, levels, strict=False):
        velocity = (x - MIXTURE(x / (1 - s), sigma)) / s
        x = scheduler.step(velocity, t, x, return_dict=False)[0]
    assert_agree(ours("euler", levels), x / (1 - flow[-1]))


@pytest.mark.parametrize("end", GRIDS)
def test_diffusers_heun(diffusers, end):
    levels = GRIDS[end]
    twice = [levels[0], *np.repeat(levels[1:-1], 2).tolist(), levels[-1]]
    # Its last step is Euler's, and onto sigma = 0 ours is too; above 0 it has to be told of one more level.
    called = twice[:-1] if end == "zero" else [*twice, levels[-1]][:-1]
    scheduler = tables(diffusers.HeunDiscreteScheduler(), twice if end == "zero" else [*twice, levels[-1]])
    theirs = host_run(scheduler, levels, called=called, vp=False, prediction="epsilon")
    assert_agree(ours("heun", levels), theirs)


@pytest.mark.parametrize("end", GRIDS)
def test_diffusers_kdpm2(diffusers, end):
    levels = torch.tensor(GRIDS[end])
    middle = levels.log().lerp(levels.roll(1).log(), 0.5).exp()  # as its set_timesteps has it
    scheduler = diffusers.KDPM2DiscreteScheduler()
    scheduler.sigmas, scheduler.sigmas_interpol = (
        torch.cat([part[:1], part[1:].repeat_interleave(2), part[-1:]]) for part in (levels, middle)
    )
    called = torch.stack([levels[:-1], middle[1:]], dim=1).flatten().tolist()
    theirs = host_run(
        scheduler, GRIDS[end], called=called[: -1 if end == "zero" else None], vp=False, prediction="epsilon"
    )
    assert_agree(ours("dpm_2", GRIDS[end]), theirs)


@pytest.mark.parametrize(("name", "order", "end"), [
    ("dpmpp_2m", 2, "zero"), ("dpmpp_2m", 2, "above"), ("dpmpp_3m", 3, "zero"), ("dpmpp_3m", 3, "above"),
])
def test_diffusers_dpmsolver_multistep(diffusers, name, order, end):
    options = {"solver_order": order, "prediction_type": "sample"}
    if end == "above":
        # Its (2M) ends with a first-order step below 15 steps, ours only onto 0.
        options |= {"final_sigmas_type": "sigma_min", "lower_order_final": order == 3}
    scheduler = tables(diffusers.DPMSolverMultistepScheduler(**options), GRIDS[end])
    assert_agree(ours(name, GRIDS[end]), host_run(scheduler, GRIDS[end]))


def test_diffusers_sde_dpmsolver_multistep_with_the_same_noise(diffusers):
    options = {"solver_order": 2, "prediction_type": "sample", "algorithm_type": "sde-dpmsolver++"}
    scheduler = tables(diffusers.DPMSolverMultistepScheduler(**options), GRIDS["zero"])
    theirs = host_run(scheduler, GRIDS["zero"], step=lambda k: {"variance_noise": NOISE[k]})
    assert_agree(ours("dpmpp_2m_sde", GRIDS["zero"]), theirs)


def test_diffusers_dpmsolver_singlestep(diffusers):
    """Its second-order step spans two of its own levels; on geometric midpoints it is ours."""
    levels = GRIDS["above"]
    middle = [math.sqrt(one * two) for one, two in zip(levels, levels[1:], strict=False)]
    every = [level for pair in zip(levels, middle, strict=False) for level in pair] + [levels[-1]]
    scheduler = diffusers.DPMSolverSinglestepScheduler(
        solver_order=2, prediction_type="sample", final_sigmas_type="sigma_min", lower_order_final=False
    )
    scheduler = tables(scheduler, every)
    scheduler.order_list = [1, 2] * len(middle)
    assert_agree(ours("dpmpp_2s", levels), host_run(scheduler, [levels[0], levels[-1]], called=every[:-1]))


@pytest.mark.parametrize("end", GRIDS)
@pytest.mark.parametrize("order", [2, 3])
def test_diffusers_unipc(diffusers, order, end):
    scheduler = diffusers.UniPCMultistepScheduler(solver_order=order, prediction_type="sample", solver_type="bh2")
    assert_agree(ours(f"unipc{order}", GRIDS[end]), host_run(tables(scheduler, GRIDS[end]), GRIDS[end]))


@pytest.mark.parametrize("order", [2, 3])
def test_diffusers_deis(diffusers, order):
    """It has no step onto 0."""
    scheduler = diffusers.DEISMultistepScheduler(solver_order=order, prediction_type="sample")
    assert_agree(ours(f"deis{order}", GRIDS["above"]), host_run(tables(scheduler, GRIDS["above"]), GRIDS["above"]))


def test_diffusers_ipndm(diffusers):
    """Its model predicts v of a path with alpha^2 + s^2 = 1; its last step keeps order 4, ours does above 0."""
    levels = GRIDS["above"]
    scheduler = diffusers.IPNDMScheduler()
    alphas = [1 / math.hypot(1.0, s) for s in levels]
    scheduler.alphas, scheduler.betas = torch.tensor(alphas), torch.tensor([a * s for a, s in zip(alphas, levels, strict=True)])
    scheduler.timesteps, scheduler.num_inference_steps = torch.arange(len(levels) - 1, 0, -1), len(levels) - 1
    scheduler._step_index, scheduler._begin_index, scheduler.ets = None, 0, []
    x = alphas[0] * levels[0] * Z
    for t, alpha, sigma in zip(scheduler.timesteps, alphas, levels, strict=False):
        denoised = MIXTURE(x / alpha, sigma)
        eps = (x / alpha - denoised) / sigma
        x = scheduler.step(alpha * eps - alpha * sigma * denoised, t, x, return_dict=False)[0]
    assert_agree(ours("ipndm4", levels), x / alphas[-1])


@pytest.mark.parametrize("end", GRIDS)
def test_diffusers_euler_ancestral_with_the_same_noise(diffusers, end, monkeypatch):
    given = iter(NOISE)
    module = sys.modules[diffusers.EulerAncestralDiscreteScheduler.__module__]
    monkeypatch.setattr(module, "randn_tensor", lambda *args, **options: next(given))
    scheduler = tables(diffusers.EulerAncestralDiscreteScheduler(), GRIDS[end])
    theirs = host_run(scheduler, GRIDS[end], vp=False, prediction="epsilon")
    assert_agree(ours("euler_ancestral", GRIDS[end]), theirs)


@pytest.mark.parametrize(("name", "eta"), [("ddim", 0.0), ("ddim_eta", 1.0)])
def test_diffusers_ddim_with_the_same_noise(diffusers, name, eta):
    """Its stride is uniform in its table of alphas: the table is our grid."""
    levels = GRIDS["zero"]
    n = len(levels) - 1
    scheduler = diffusers.DDIMScheduler(num_train_timesteps=n, prediction_type="sample", clip_sample=False)
    scheduler.alphas_cumprod = torch.tensor([1 / (1 + s * s) for s in reversed(levels[:-1])])
    scheduler.final_alpha_cumprod = torch.tensor(1.0)
    scheduler.set_timesteps(n)
    x = Z * levels[0] / math.hypot(1.0, levels[0])
    for k, (t, sigma) in enumerate(zip(scheduler.timesteps, levels, strict=False)):
        denoised = MIXTURE(x * math.hypot(1.0, sigma), sigma)
        x = scheduler.step(denoised, int(t), x, eta=eta, variance_noise=NOISE[k], return_dict=False)[0]
    assert_agree(ours(name, levels), x)
