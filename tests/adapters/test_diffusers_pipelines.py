"""diffusers: small pipelines, saved, loaded, given a plan in one line, and run as their users run them."""

from __future__ import annotations

import functools
import inspect
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

from eigenstep import Spectrum, sample  # noqa: E402
from eigenstep.adapters import diffusers as adapter  # noqa: E402
from eigenstep.models.schedulers import scheduler_convention  # noqa: E402

# What diffusers itself sets off under newer numpy and torch is not this library's to mend.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

GRID = np.array([13.0, 4.0, 1.3, 0.4, 0.06, 0.0])
STABLE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SHAPE = (1, 4, 8, 8)


def quiet(pipeline):
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module", name="stable")
def _stable(tmp_path_factory):
    """The folder of a tiny Stable Diffusion; its prompts come as embeddings."""
    torch.manual_seed(0)
    pytest.importorskip("transformers", reason="Stable Diffusion's pipelines import transformers")
    unet = diffusers.UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8,
        attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8,),
        norm_num_groups=4,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
    )
    scheduler = diffusers.PNDMScheduler(**STABLE, skip_prk_steps=True, steps_offset=1, timestep_spacing="leading")
    pipeline = diffusers.StableDiffusionPipeline(
        vae=vae, unet=unet, scheduler=scheduler, text_encoder=None, tokenizer=None, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )
    folder = tmp_path_factory.mktemp("stable")
    pipeline.save_pretrained(folder)
    return folder


@functools.cache
def loaded_once(folder, kind):
    pipeline = getattr(diffusers, kind).from_pretrained(
        folder, text_encoder=None, tokenizer=None, safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )
    return quiet(pipeline.to(torch.float64))


def loaded(folder, kind="StableDiffusionPipeline"):
    """The pipeline of a folder, with the scheduler that was saved in it."""
    pipeline = loaded_once(folder, kind)
    pipeline.scheduler = diffusers.PNDMScheduler.from_pretrained(folder, subfolder="scheduler")
    return pipeline


def embeddings(seed):
    return torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


PROMPT = {
    "prompt_embeds": embeddings(1),
    "negative_prompt_embeds": embeddings(2),
    "guidance_scale": 3.0,
    "output_type": "latent",
}


def standard(shape=SHAPE, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def guided(pipeline, original):
    """The pipeline's guided denoiser, from its U-Net and the conventions of its scheduler."""

    @torch.no_grad()
    def network(x, t):
        t = torch.as_tensor(t, dtype=torch.float64)
        without, with_prompt = (
            pipeline.unet(x, t, encoder_hidden_states=PROMPT[key]).sample for key in ("negative_prompt_embeds", "prompt_embeds")
        )
        return without + 3.0 * (with_prompt - without)

    return scheduler_convention(original).denoiser(network)


def relative(a, b):
    return float((a.double() - b.double()).norm() / b.double().norm())


SCHEDULERS = [
    ("EulerDiscreteScheduler", {}),
    ("EulerDiscreteScheduler", {"timestep_spacing": "leading", "use_karras_sigmas": True}),
    ("EulerAncestralDiscreteScheduler", {}),
    ("HeunDiscreteScheduler", {}),
    ("KDPM2DiscreteScheduler", {}),
    ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    ("DEISMultistepScheduler", {}),
    ("UniPCMultistepScheduler", {}),
    ("DDIMScheduler", {"clip_sample": False, "timestep_spacing": "leading", "steps_offset": 1}),
    ("DDPMScheduler", {"clip_sample": False}),
]


@pytest.mark.parametrize(("name", "config"), SCHEDULERS, ids=[f"{name}-{len(config)}" for name, config in SCHEDULERS])
def test_stable_diffusion_runs_the_plan(name, config, stable):
    pipeline = loaded(stable)
    original = getattr(diffusers, name).from_config(pipeline.scheduler.config, **config)
    pipeline.scheduler = adapter.apply(GRID, original)
    z = standard()
    theirs = pipeline(
        num_inference_steps=5, latents=z, generator=torch.Generator().manual_seed(7), **PROMPT
    ).images
    generator = torch.Generator().manual_seed(7)
    draws = [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(5)]
    ours = sample(
        guided(pipeline, original), GRID[0] * z, GRID, solver=adapter.solver_of(original), noise=lambda k: draws[k]
    )
    # float32 inside some of diffusers' steps, and timesteps told in float32.
    assert relative(theirs, ours) < 1e-4


OTHERS = (
    "PNDMScheduler",
    "LMSDiscreteScheduler",
    "DPMSolverSinglestepScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "LCMScheduler",
)


@pytest.mark.parametrize("name", OTHERS)
def test_stable_diffusion_runs_with_the_other_classes(name, stable):
    pipeline = loaded(stable)
    pipeline.scheduler = adapter.apply(GRID, getattr(diffusers, name).from_config(pipeline.scheduler.config))
    calls = []
    hook = pipeline.unet.register_forward_pre_hook(lambda module, args: calls.append(float(args[1])))
    made = pipeline(num_inference_steps=5, latents=standard(), **PROMPT).images
    hook.remove()
    assert torch.isfinite(made).all()
    # The network was called at the planned levels, from the first to the last.
    expected = scheduler_convention(pipeline.scheduler).path.sigma_to_t(GRID[:-1])
    if name == "TCDScheduler":
        expected = np.rint(expected)
    told = list(dict.fromkeys(calls))
    assert set(np.round(expected, 2)) <= set(np.round(told, 2))
    assert told[0] == pytest.approx(expected[0], abs=0.51)


class Warm:
    """A plan that starts warm, as `models.plan` makes one: half of the noise, and a mean."""

    sigmas = GRID
    solver = "ddim"

    @staticmethod
    def warm(z):
        return GRID[0] * z * 0.5 + torch.linspace(-1, 1, 8, dtype=z.dtype)


DETERMINISTIC = (
    "EulerDiscreteScheduler",
    "DDIMScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "HeunDiscreteScheduler",
)


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_warm_start_needs_no_further_line(name, stable):
    pipeline = loaded(stable)
    config = {"clip_sample": False} if name == "DDIMScheduler" else {}
    original = getattr(diffusers, name).from_config(pipeline.scheduler.config, **config)
    plan = SimpleNamespace(sigmas=GRID, warm=Warm.warm, solver=adapter.solver_of(original))
    pipeline.scheduler = adapter.apply(plan, original)
    z = standard()
    for _ in range(2):  # and again: nothing is left over from a run
        theirs = pipeline(num_inference_steps=5, latents=z, **PROMPT).images
    ours = sample(guided(pipeline, original), Warm.warm(z), GRID, solver=plan.solver)
    cold = sample(guided(pipeline, original), GRID[0] * z, GRID, solver=plan.solver)
    # The warm start is computed in float32.
    assert relative(theirs, ours) < 1e-5
    assert relative(cold, ours) > 0.01


def test_a_saved_pipeline_comes_back_with_its_plan(stable, tmp_path):
    pipeline = loaded(stable)
    pipeline.scheduler = adapter.apply(GRID, diffusers.DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config))
    before = pipeline(num_inference_steps=5, latents=standard(), **PROMPT).images
    pipeline.save_pretrained(tmp_path)
    again = loaded_once(tmp_path, "StableDiffusionPipeline")
    assert isinstance(again.scheduler, diffusers.DPMSolverMultistepScheduler)
    np.testing.assert_array_equal(adapter.read_back(again.scheduler), GRID)
    after = again(num_inference_steps=5, latents=standard(), **PROMPT).images
    assert relative(after, before) == 0.0


def test_another_number_of_steps_is_refused(stable):
    pipeline = loaded(stable)
    pipeline.scheduler = adapter.apply(GRID, pipeline.scheduler)
    with pytest.raises(ValueError, match=r"num_inference_steps must be 5, for the 5 steps planned, got 50; call the"):
        pipeline(**PROMPT)


@pytest.mark.parametrize("name", DETERMINISTIC)
@pytest.mark.parametrize("strength", [0.6, 0.35, 1.0])
def test_image_to_image_runs_all_planned_steps(name, strength, stable):
    pipeline = loaded(stable, "StableDiffusionImg2ImgPipeline")
    config = {"clip_sample": False} if name == "DDIMScheduler" else {}
    original = getattr(diffusers, name).from_config(pipeline.scheduler.config, **config)
    top = adapter.strength_level(original, strength)
    grid = np.append(np.geomspace(top, 0.06, 4), 0.0)
    pipeline.scheduler = adapter.apply(grid, original, strength=strength)
    np.testing.assert_allclose(adapter.read_back(pipeline.scheduler), grid, rtol=1e-12)
    count = pipeline.scheduler.num_inference_steps
    image = standard(seed=5)  # four channels: taken for latents as it is
    theirs = pipeline(
        image=image, strength=strength, num_inference_steps=count, generator=torch.Generator().manual_seed(7), **PROMPT
    ).images
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    ours = sample(guided(pipeline, original), image + top * noise, grid, solver=adapter.solver_of(original))
    assert relative(theirs, ours) < 1e-4


def test_image_to_image_refuses_another_strength(stable):
    pipeline = loaded(stable, "StableDiffusionImg2ImgPipeline")
    pipeline.scheduler = adapter.apply(
        [2.0, 1.0, 0.3, 0.0], diffusers.EulerDiscreteScheduler.from_config(pipeline.scheduler.config), strength=0.5
    )
    asked = {"image": standard(), **PROMPT}
    with pytest.raises(ValueError, match=r"must be 6, of which strength = 0\.5 leaves the 3 steps planned, got 50"):
        pipeline(strength=0.5, **asked)
    with pytest.raises(ValueError, match=r"`begin_index` must be that of step 3, .* got that of step 2; .*strength=0\.5"):
        pipeline(strength=0.7, num_inference_steps=6, **asked)


@pytest.fixture(scope="module", name="unconditional")
def _unconditional(tmp_path_factory):
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
        down_block_types=("DownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    folder = tmp_path_factory.mktemp("unconditional")
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler(clip_sample=False)).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["DDIMPipeline", "DDPMPipeline"])
def test_pipelines_of_a_bare_network(kind, unconditional):
    """They take no latents and scale nothing: the network first sees standard normal noise, sqrt(1 + sigma^2) z in x~."""
    pipeline = quiet(getattr(diffusers, kind).from_pretrained(unconditional))
    original = pipeline.scheduler
    pipeline.scheduler = adapter.apply(GRID, original)
    made = pipeline(num_inference_steps=5, generator=torch.Generator().manual_seed(7), output_type="np").images
    generator = torch.Generator().manual_seed(7)
    z, *draws = [torch.randn(1, 3, 8, 8, generator=generator) for _ in range(6)]

    @torch.no_grad()
    def network(x, t):
        return pipeline.unet(x, torch.as_tensor(t)).sample

    denoiser = scheduler_convention(original).denoiser(network)
    ours = sample(
        denoiser, (1 + GRID[0] ** 2) ** 0.5 * z, GRID, solver=adapter.solver_of(original), noise=lambda k: draws[k]
    )
    ours = (ours / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1)
    assert relative(torch.from_numpy(made), ours) < 1e-4


def test_a_pipeline_that_scales_nothing_cannot_start_warm(unconditional):
    pipeline = quiet(diffusers.DDIMPipeline.from_pretrained(unconditional))
    pipeline.scheduler = adapter.apply(Warm, pipeline.scheduler)
    with pytest.raises(ValueError, match=r"`sample` must have gone through scale_model_input for this plan's warm start"):
        pipeline(num_inference_steps=5)


@pytest.mark.parametrize("warm", [False, True])
@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
        ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}),
        ("UniPCMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}),
        ("DPMSolverMultistepScheduler", {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0}),
    ],
)
def test_flow_pipelines_take_their_start_as_latents(name, config, warm):
    pytest.importorskip("transformers", reason="Stable Diffusion 3's pipeline imports transformers")
    torch.manual_seed(0)
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=1, in_channels=4, out_channels=4, num_layers=1, attention_head_dim=8, num_attention_heads=4,
        caption_projection_dim=32, joint_attention_dim=32, pooled_projection_dim=64, pos_embed_max_size=16,
    )
    with torch.no_grad():
        transformer.proj_out.weight.normal_(0, 0.5)
    texts = [f"{part}{number}" for part in ("text_encoder", "tokenizer") for number in ("", "_2", "_3")]
    nothing = dict.fromkeys([*texts, "vae"])
    if not set(config) <= set(inspect.signature(getattr(diffusers, name).__init__).parameters):
        pytest.skip(f"{name} has no flows in diffusers {diffusers.__version__}")
    original = getattr(diffusers, name)(**config)
    pipeline = quiet(diffusers.StableDiffusion3Pipeline(transformer=transformer, scheduler=original, **nothing))
    plan = SimpleNamespace(sigmas=GRID, warm=Warm.warm if warm else None, solver=adapter.solver_of(original))
    pipeline.scheduler = adapter.apply(plan, original)
    text, pooled = torch.randn(1, 3, 32), torch.randn(1, 64)
    z = standard().float()
    theirs = pipeline(
        prompt_embeds=text, pooled_prompt_embeds=pooled, guidance_scale=0.0, num_inference_steps=5, output_type="latent",
        latents=adapter.start(pipeline.scheduler, z), height=64, width=64,
    ).images

    @torch.no_grad()
    def network(x, t):
        told = torch.full((1,), t)
        return transformer(x, encoder_hidden_states=text, pooled_projections=pooled, timestep=told, return_dict=False)[0]

    def denoiser(x, sigma):
        u = sigma / (1 + sigma)
        return (1 - u) * x - u * network((1 - u) * x, 1000 * u)

    ours = sample(denoiser, Warm.warm(z) if warm else GRID[0] * z, GRID, solver=plan.solver)
    assert relative(theirs, ours) < 1e-4


def test_a_plan_of_the_library_is_walked_as_planned(unconditional):
    """From the folder to the samples: `models.plan`, `apply`, and the loop of any pipeline."""
    from eigenstep.models import WarmStart, load_denoiser, plan

    rng = np.random.default_rng(0)
    data = np.cumsum(rng.standard_normal((2000, 3, 8, 8)), axis=-1) / 3
    spectrum = Spectrum.from_samples(data, basis=100)
    made = plan(str(unconditional), spectrum, 4, data=data[:200], judges=0)
    # The network is untrained, so that its own endpoint asks for no warm start; the best that has one is walked all the same.
    chosen = next(each for each in made.candidates if each.warm)
    made = replace(made, chosen=chosen, sigmas=chosen.sigmas, warm=WarmStart(spectrum, float(chosen.sigmas[0]), made.sigma_max))
    scheduler = adapter.apply(made, diffusers.EulerDiscreteScheduler.from_pretrained(unconditional, subfolder="scheduler"))
    np.testing.assert_array_equal(adapter.read_back(scheduler), made.sigmas)
    unet = diffusers.UNet2DModel.from_pretrained(unconditional, subfolder="unet")
    z = torch.from_numpy(rng.standard_normal((2, 3, 8, 8))).float()
    x = z * scheduler.init_noise_sigma
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(unet(scheduler.scale_model_input(x, t), t).sample, t, x).prev_sample
    ours = sample(load_denoiser(str(unconditional)), made.warm(z), made.sigmas, solver=made.solver)
    assert relative(x, ours) < 1e-5
