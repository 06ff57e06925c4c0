"""models/loading.py, architectures.py, schedulers.py: what comes out of a pipeline is what the pipeline itself would do.

Every denoiser is checked against the pipeline's own path: its call of the network, then its scheduler's own estimate of the
clean data.
"""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from eigenstep import EDM, VE, RectifiedFlow, Spectrum, VPCosine
from eigenstep.models import (
    GuidedDenoiser,
    ModelDenoiser,
    error_curve,
    generate,
    item_noise,
    load_denoiser,
    scheduler_convention,
)

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

# Within diffusers, where a scheduler turns its table into numpy.
pytestmark = pytest.mark.filterwarnings("ignore:__array_(_|wrap__):DeprecationWarning")

BLOCKS = {
    "sample_size": 8,
    "block_out_channels": (8, 8),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}


def randomized(module, seed=0):
    """Random weights of ordinary size, so that zero-initialised layers speak too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for each in module.parameters():
            each.copy_(torch.randn(each.shape, generator=generator) * 0.2)
    return module.eval()


def unet(**options):
    given = {
        "in_channels": 2,
        "out_channels": 2,
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
        **BLOCKS,
        **options,
    }
    return randomized(diffusers.UNet2DModel(**given))


def unet_condition(**options):
    given = {
        "in_channels": 4,
        "out_channels": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "cross_attention_dim": 12,
        "attention_head_dim": 4,
        **BLOCKS,
        **options,
    }
    return randomized(diffusers.UNet2DConditionModel(**given))


def dit(**options):
    given = {
        "num_attention_heads": 2,
        "attention_head_dim": 8,
        "in_channels": 4,
        "out_channels": 8,
        "num_layers": 1,
        "sample_size": 8,
        "patch_size": 2,
        "num_embeds_ada_norm": 10,
        "norm_num_groups": 4,
        **options,
    }
    return randomized(diffusers.DiTTransformer2DModel(**given))


def sd3():
    return randomized(
        diffusers.SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=4,
            num_layers=1,
            attention_head_dim=8,
            num_attention_heads=2,
            joint_attention_dim=12,
            caption_projection_dim=16,
            pooled_projection_dim=10,
            out_channels=4,
            pos_embed_max_size=8,
        )
    )


def flux(guidance=True):
    return randomized(
        diffusers.FluxTransformer2DModel(
            patch_size=1,
            in_channels=16,
            num_layers=1,
            num_single_layers=1,
            attention_head_dim=12,
            num_attention_heads=2,
            joint_attention_dim=12,
            pooled_projection_dim=10,
            guidance_embeds=guidance,
            axes_dims_rope=(4, 4, 4),
        )
    )


def saved(folder, module, scheduler, name="unet", pipeline="DDPMPipeline"):
    """A pipeline folder with the network, the scheduler, and parts that are not there because nobody needs them."""
    module.save_pretrained(folder / name)
    scheduler.save_pretrained(folder / "scheduler")
    index = {
        "_class_name": pipeline,
        name: ["diffusers", type(module).__name__],
        "scheduler": ["diffusers", type(scheduler).__name__],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "safety_checker": [None, None],
    }
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def close(given, expected):
    """1e-5 of the largest: both are float32, and D of a random network is as large as sigma at high levels."""
    expected = np.asarray(expected, dtype=np.float64)
    np.testing.assert_allclose(np.asarray(given), expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def noise(shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


TABLES = {
    "linear": {},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "squaredcos": {"beta_schedule": "squaredcos_cap_v2"},
    "trained": {"trained_betas": np.linspace(1e-3, 0.05, 100).tolist(), "num_train_timesteps": 100},
    "zero_snr": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "rescale_betas_zero_snr": True},
}


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("table", TABLES)
def test_a_variance_preserving_pipeline_against_ddims_own_estimate(tmp_path, table, prediction):
    scheduler = diffusers.DDIMScheduler(**TABLES[table], prediction_type=prediction, clip_sample=False)
    module = unet()
    denoiser = load_denoiser(saved(tmp_path, module, scheduler))
    assert denoiser.item_shape == (2, 8, 8)
    count = scheduler.config.num_train_timesteps
    scheduler.set_timesteps(count)
    # The last step of zero terminal SNR has alpha = 0: nothing can be divided by it, and sigma 4096 stands for infinity.
    for t in (0, count // 3, count - 2):
        x_t = noise((3, 2, 8, 8))
        with torch.no_grad():
            expected = scheduler.step(module(x_t, t).sample, t, x_t).pred_original_sample
        abar = float(scheduler.alphas_cumprod[t].double())
        sigma = float(denoiser.path.t_to_sigma(t))
        assert sigma == pytest.approx(np.sqrt((1 - abar) / abar), rel=1e-12)
        close(denoiser(x_t / np.sqrt(abar), sigma), expected)


def test_zero_terminal_snr_ends_where_diffusers_ends():
    options = {**TABLES["zero_snr"], "prediction_type": "v_prediction"}
    for kind in (diffusers.DDIMScheduler, diffusers.EulerDiscreteScheduler, diffusers.UniPCMultistepScheduler):
        path = scheduler_convention(kind(**options)).path
        assert path.sigma_max == pytest.approx(4096.0, rel=1e-6)
    module = unet()
    convention = scheduler_convention(diffusers.DDIMScheduler(**options))
    denoiser = convention.denoiser(lambda x, t: module(x, t).sample.detach())
    x_t = noise((2, 2, 8, 8))
    given = denoiser(x_t * 4096.0, denoiser.sigma_max)
    # At alpha = 0 the clean data is -v; alpha = 2^-12 leaves that much of x_t, 2.4e-4.
    np.testing.assert_allclose(given, -module(x_t, 999).sample.detach(), rtol=0, atol=2e-3)


@pytest.mark.parametrize("kind", ["DDIMScheduler", "EulerDiscreteScheduler", "UniPCMultistepScheduler"])
def test_zero_terminal_snr_of_a_steep_table_ends_above_the_level_before(kind):
    """Linear betas, rescaled, pass diffusers' 2^-24 a timestep earlier: its own table goes up at the end."""
    scheduler = getattr(diffusers, kind)(rescale_betas_zero_snr=True)
    before = float(scheduler.alphas_cumprod[-2])
    assert before < 2.0**-24
    path = scheduler_convention(scheduler).path
    assert path.n_timesteps == 1000
    assert path.sigma_max == pytest.approx(2 * float(path.t_to_sigma(998)), rel=1e-6)


PLANNED = {
    "DDIMScheduler": {},
    "EulerDiscreteScheduler": {"timestep_type": "continuous", "prediction_type": "v_prediction"},
    "FlowMatchEulerDiscreteScheduler": {"shift": 3.0},
    "UniPCMultistepScheduler": {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0},
    "EDMEulerScheduler": {},
    "CosineDPMSolverMultistepScheduler": {},
    "IPNDMScheduler": {},
}


@pytest.mark.parametrize("kind", PLANNED)
def test_a_planned_scheduler_tells_of_the_model_what_its_class_does(kind):
    """`adapters.diffusers.apply` makes subclasses, whose names are not diffusers'."""
    from eigenstep.adapters.diffusers import apply

    original = getattr(diffusers, kind)(**PLANNED[kind])
    given = apply([5.0, 1.0, 0.5, 0.0], original)
    assert type(given) is not type(original)
    theirs, ours = scheduler_convention(given), scheduler_convention(original)
    assert repr(theirs.path) == repr(ours.path)
    assert theirs.prediction == ours.prediction
    assert (theirs.time_label is None) == (ours.time_label is None)
    x = np.array([[0.3, -1.2]])
    network = lambda x, t: 0.1 * x + t / 1000  # noqa: E731
    np.testing.assert_array_equal(theirs.denoiser(network)(x, 1.5), ours.denoiser(network)(x, 1.5))


@pytest.mark.parametrize("kind", ["EulerDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler",
                                  "LMSDiscreteScheduler", "EulerAncestralDiscreteScheduler"])  # fmt: skip
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_schedulers_in_sigma_give_the_same_estimate_from_their_own_scaling(kind, prediction):
    """These keep x~ and scale the input; their estimate comes out of a step where they tell it."""
    scheduler = getattr(diffusers, kind)(prediction_type=prediction)
    module = unet()
    denoiser = load_denoiser(diffusers.DDPMPipeline(module, scheduler))
    scheduler.set_timesteps(10)
    t, sigma = scheduler.timesteps[0], float(scheduler.sigmas[0])
    x = noise((2, 2, 8, 8)) * sigma
    with torch.no_grad():
        output = module(scheduler.scale_model_input(x, t), t).sample
    step = scheduler.step(output, t, x)
    given = denoiser(x, sigma)
    if getattr(step, "pred_original_sample", None) is not None:
        close(given, step.pred_original_sample)
    else:
        # Euler's first half step: x + (sigma_next - sigma)(x - D)/sigma, solved for D.
        following = float(scheduler.sigmas[1] if kind != "KDPM2DiscreteScheduler" else scheduler.sigmas_interpol[1])
        close(given, x - sigma * (step.prev_sample - x) / (following - sigma))


@pytest.mark.parametrize("kind", ["DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler",
                                  "DEISMultistepScheduler", "SASolverScheduler"])  # fmt: skip
@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction", "sample", "flow_prediction"])
def test_multistep_schedulers_against_their_own_conversion(kind, predicts):
    flow = predicts == "flow_prediction"
    options = {"use_flow_sigmas": True, "flow_shift": 3.0} if flow else {}
    scheduler = getattr(diffusers, kind)(prediction_type=predicts, **options)
    module = unet()
    denoiser = load_denoiser(diffusers.DDPMPipeline(module, scheduler))
    if flow:
        assert isinstance(denoiser.path, RectifiedFlow)
        assert denoiser.path.shift == 3.0
    scheduler.set_timesteps(10)
    k = 4
    scheduler._step_index = k
    level = float(scheduler.sigmas[k])
    sigma = level / (1 - level) if flow else level
    alpha = 1 - level if flow else 1 / np.sqrt(1 + level**2)
    # Integer timesteps are the scheduler's; its sigma between two of them is not the table's to the last digit.
    label = level * 1000 if flow else float(denoiser.path.sigma_to_t(sigma))
    x_t = noise((2, 2, 8, 8))
    with torch.no_grad():
        output = module(x_t, torch.tensor(label)).sample
    converted = scheduler.convert_model_output(output, sample=x_t)
    if kind == "DEISMultistepScheduler":  # which converts to the noise
        converted = (x_t - alpha * sigma * converted) / alpha
    close(denoiser(x_t / alpha, sigma), converted)


@pytest.mark.parametrize("kind", ["FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"])
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_flow_told_the_shifted_level(tmp_path, kind, shift):
    scheduler = getattr(diffusers, kind)(shift=shift)
    module = unet()
    denoiser = load_denoiser(saved(tmp_path, module, scheduler))
    assert denoiser.path.shift == shift
    scheduler.set_timesteps(8)
    for k in (1, 4):
        t = scheduler.timesteps[2 * k - 1 if "Heun" in kind else k]
        level = float(t) / 1000
        x_t = noise((2, 2, 8, 8))
        with torch.no_grad():
            velocity = module(x_t, t).sample
        close(denoiser(x_t / (1 - level), level / (1 - level)), x_t - level * velocity)
    # The host's own step, from t: x + (f' - f) velocity, is D's, x_t - f velocity, and its noise, put together again.
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(8)
    t = scheduler.timesteps[3]
    f, following = float(scheduler.sigmas[3]), float(scheduler.sigmas[4])
    with torch.no_grad():
        moved = scheduler.step(module(x_t, t).sample, t, x_t).prev_sample
    clean = denoiser(x_t / (1 - f), f / (1 - f))
    close((1 - following) * clean + following * (x_t - (1 - f) * clean) / f, moved)


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("EDMEulerScheduler", {"sigma_data": 0.7}),
        ("EDMDPMSolverMultistepScheduler", {"sigma_data": 0.5}),
        ("CosineDPMSolverMultistepScheduler", {}),
    ],
)
def test_edm_schedulers_hold_the_preconditioning(kind, options, predicts):
    scheduler = getattr(diffusers, kind)(prediction_type=predicts, **options)
    module = unet()
    denoiser = load_denoiser(diffusers.DDPMPipeline(module, scheduler))
    assert denoiser.path == EDM(scheduler.config.sigma_min, scheduler.config.sigma_max)
    scheduler.set_timesteps(6)
    for k in (0, 3):
        sigma = scheduler.sigmas[k]
        x = noise((2, 2, 8, 8)) * sigma
        with torch.no_grad():
            output = module(scheduler.precondition_inputs(x, sigma), scheduler.precondition_noise(sigma).reshape(())).sample
        close(denoiser(x, float(sigma)), scheduler.precondition_outputs(x, output, sigma))


def test_euler_with_continuous_times_is_edm_with_v():
    """Stable Video Diffusion's: told ln(sigma)/4, on a range of its own."""
    scheduler = diffusers.EulerDiscreteScheduler(
        timestep_type="continuous", prediction_type="v_prediction", sigma_min=0.002, sigma_max=700.0, use_karras_sigmas=True
    )
    module = unet()
    denoiser = load_denoiser(diffusers.DDPMPipeline(module, scheduler))
    assert (denoiser.sigma_min, denoiser.sigma_max) == (0.002, 700.0)
    scheduler.set_timesteps(6)
    t, sigma = scheduler.timesteps[0], float(scheduler.sigmas[0])
    x = noise((2, 2, 8, 8)) * sigma
    with torch.no_grad():
        output = module(scheduler.scale_model_input(x, t), t).sample
    close(denoiser(x, sigma), scheduler.step(output, t, x).pred_original_sample)
    bare = diffusers.EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction")
    assert scheduler_convention(bare).path.sigma_max == pytest.approx(157.407, rel=1e-5)


def test_ipndm_is_a_cosine_path_told_its_angle():
    scheduler = diffusers.IPNDMScheduler()
    module = unet()
    denoiser = load_denoiser(diffusers.DDPMPipeline(module, scheduler))
    assert denoiser.path == VPCosine(s=0.0)
    scheduler.set_timesteps(10)
    k = 3
    t, following = scheduler.timesteps[k], scheduler.timesteps[k + 1]
    scheduler._step_index = k
    x_t = noise((2, 2, 8, 8))
    with torch.no_grad():
        moved = scheduler.step(module(x_t, t).sample, t, x_t).prev_sample
    # Its first step is DDIM's: alpha' D + s' eps, with alpha = cos(pi t/2) and s = sin(pi t/2).
    (a, s), (a_next, s_next) = ((np.cos(np.pi * float(u) / 2), np.sin(np.pi * float(u) / 2)) for u in (t, following))
    clean = denoiser(x_t / a, s / a)
    close(a_next * clean + s_next * (x_t - a * clean) / s, moved)


def test_a_score_on_a_variance_exploding_path():
    scheduler = diffusers.ScoreSdeVeScheduler(sigma_min=0.01, sigma_max=50.0, num_train_timesteps=100)
    module = unet()
    denoiser = load_denoiser(diffusers.DDPMPipeline(module, scheduler))
    assert denoiser.path == VE(0.01, 50.0)
    sigma = 3.0
    x = noise((2, 2, 8, 8)) * sigma
    with torch.no_grad():
        score = module(x, torch.tensor(sigma)).sample
    close(denoiser(x, sigma), x + sigma**2 * score)  # Tweedie


def test_a_learned_variance_is_left_out(tmp_path):
    module = unet(out_channels=4)
    scheduler = diffusers.DDPMScheduler(variance_type="learned_range", clip_sample=False)
    denoiser = load_denoiser(saved(tmp_path, module, scheduler))
    t = 300
    x_t = noise((2, 2, 8, 8))
    with torch.no_grad():
        output = module(x_t, t).sample
        expected = scheduler.step(output, t, x_t, generator=torch.Generator().manual_seed(0)).pred_original_sample
    alpha = float(denoiser.path.alpha(t))
    close(denoiser(x_t / alpha, float(denoiser.path.t_to_sigma(t))), expected)


def guided_estimate(scheduler, both, scale, t, x_t):
    """The pipelines' own lines: both halves in one batch, guided, then the scheduler's estimate."""
    scheduler.set_timesteps(1000)
    with torch.no_grad():
        away, towards = both(torch.cat([x_t, x_t])).chunk(2)
        return scheduler.step(away + scale * (towards - away), t, x_t).pred_original_sample


def test_a_class_conditional_unet_with_guidance(tmp_path):
    module = unet(num_class_embeds=5)
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    folder = saved(tmp_path, module, scheduler)
    denoiser = load_denoiser(folder, labels=3, negative_labels=4, guidance_scale=2.5)
    assert isinstance(denoiser, GuidedDenoiser)
    assert denoiser.item_shape == (2, 8, 8)
    t, x_t = 500, noise((2, 2, 8, 8))
    labels = torch.tensor([4, 4, 3, 3])
    expected = guided_estimate(scheduler, lambda x: module(x, t, class_labels=labels).sample, 2.5, t, x_t)
    alpha = float(denoiser.path.alpha(t))
    close(denoiser(x_t / alpha, float(denoiser.path.t_to_sigma(t))), expected)
    each = load_denoiser(folder, labels=[1, 2])(x_t / alpha, 1.0)
    for k, label in enumerate((1, 2)):
        close(each[k : k + 1], load_denoiser(folder, labels=label)(x_t[k : k + 1] / alpha, 1.0))
    with pytest.raises(ValueError, match="`labels` is missing: the model is class-conditional; pass a class label"):
        load_denoiser(folder)
    with pytest.raises(ValueError, match=r"`guidance_scale` 2 needs what to guide away from, the `negative_\.\.\.` of each"):
        load_denoiser(folder, labels=1, guidance_scale=2.0)


def test_a_prompted_unet_with_guidance(tmp_path):
    module = unet_condition()
    scheduler = diffusers.DDIMScheduler(clip_sample=False, prediction_type="v_prediction", **TABLES["scaled_linear"])
    folder = saved(tmp_path, module, scheduler, pipeline="StableDiffusionPipeline")
    prompt, negative = noise((1, 5, 12), 2), noise((1, 5, 12), 3)
    denoiser = load_denoiser(folder, prompt_embeds=prompt, negative_prompt_embeds=negative, guidance_scale=7.5)
    t, x_t = 700, noise((2, 4, 8, 8))
    embeds = torch.cat([negative, negative, prompt, prompt])
    expected = guided_estimate(scheduler, lambda x: module(x, t, encoder_hidden_states=embeds).sample, 7.5, t, x_t)
    alpha = float(denoiser.path.alpha(t))
    close(denoiser(x_t / alpha, float(denoiser.path.t_to_sigma(t))), expected)
    with pytest.raises(ValueError, match="`prompt_embeds` is missing: the model attends to a prompt; pass what the pipeline's"):
        load_denoiser(folder)
    with pytest.raises(ValueError, match="`labels` means nothing to this model, which has no classes"):
        load_denoiser(folder, labels=1, prompt_embeds=prompt)


def test_stable_diffusion_xl_is_told_the_size_of_the_image(tmp_path):
    module = unet_condition(
        addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=6 * 4 + 10
    )
    scheduler = diffusers.EulerDiscreteScheduler(**TABLES["scaled_linear"])
    folder = saved(tmp_path, module, scheduler, pipeline="StableDiffusionXLPipeline")
    prompt, pooled = noise((1, 5, 12), 2), noise((1, 10), 3)
    scheduler.set_timesteps(10)
    t, sigma = scheduler.timesteps[0], float(scheduler.sigmas[0])
    x = noise((2, 4, 8, 8)) * sigma
    for size in (None, (48, 96)):
        denoiser = load_denoiser(folder, prompt_embeds=prompt, pooled_prompt_embeds=pooled, image_size=size)
        height, width = size or (64, 64)
        added = {
            "text_embeds": pooled.expand(2, -1),
            "time_ids": torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32).expand(2, -1),
        }
        scheduler._step_index = None
        with torch.no_grad():
            x_in = scheduler.scale_model_input(x, t)
            output = module(x_in, t, encoder_hidden_states=prompt.expand(2, -1, -1), added_cond_kwargs=added).sample
        close(denoiser(x, sigma), scheduler.step(output, t, x).pred_original_sample)
    with pytest.raises(ValueError, match="`pooled_prompt_embeds` is missing: the model takes it as well"):
        load_denoiser(folder, prompt_embeds=prompt)


def test_dit_against_its_pipelines_lines(tmp_path):
    module = dit()
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    folder = saved(tmp_path, module, scheduler, "transformer", "DiTPipeline")
    t, x_t = 400, noise((2, 4, 8, 8))
    denoiser = load_denoiser(folder, labels=7, guidance_scale=4.0)
    alpha, sigma = float(denoiser.path.alpha(t)), float(denoiser.path.t_to_sigma(t))
    labels = torch.tensor([10, 10, 7, 7])  # the null class comes after the ten

    def both(x):
        return module(x, timestep=torch.full((4,), t), class_labels=labels).sample[:, :4]

    close(denoiser(x_t / alpha, sigma), guided_estimate(scheduler, both, 4.0, t, x_t))
    assert denoiser.item_shape == (4, 8, 8)


def test_dit_as_it_was_saved_before_it_had_a_class(tmp_path):
    module = dit()
    folder = saved(tmp_path, module, diffusers.DDIMScheduler(), "transformer", "DiTPipeline")
    x = noise((2, 4, 8, 8))
    expected = load_denoiser(folder, labels=7)(x, 1.0)
    config = json.loads((folder / "transformer" / "config.json").read_text())
    (folder / "transformer" / "config.json").write_text(json.dumps({**config, "_class_name": "Transformer2DModel"}))
    close(load_denoiser(folder, labels=7)(x, 1.0), expected)


def test_sd3_against_its_pipelines_lines(tmp_path):
    module = sd3()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    folder = saved(tmp_path, module, scheduler, "transformer", "StableDiffusion3Pipeline")
    prompt, negative = (noise((1, 5, 12), seed) for seed in (2, 3))
    pooled, other = (noise((1, 10), seed) for seed in (4, 5))
    denoiser = load_denoiser(
        folder,
        prompt_embeds=prompt,
        negative_prompt_embeds=negative,
        pooled_prompt_embeds=pooled,
        negative_pooled_prompt_embeds=other,
        guidance_scale=5.0,
    )
    scheduler.set_timesteps(6)
    t, f, following = scheduler.timesteps[2], float(scheduler.sigmas[2]), float(scheduler.sigmas[3])
    x_t = noise((2, 4, 8, 8))
    with torch.no_grad():
        output = module(
            hidden_states=torch.cat([x_t, x_t]),
            timestep=t.expand(4),
            encoder_hidden_states=torch.cat([negative, negative, prompt, prompt]),
            pooled_projections=torch.cat([other, other, pooled, pooled]),
        ).sample
        away, towards = output.chunk(2)
        moved = scheduler.step(away + 5.0 * (towards - away), t, x_t).prev_sample
    clean = denoiser(x_t / (1 - f), f / (1 - f))
    close((1 - following) * clean + following * (x_t - (1 - f) * clean) / f, moved)


@pytest.mark.parametrize("guidance", [True, False])
def test_flux_against_its_pipelines_lines(tmp_path, guidance):
    module = flux(guidance)
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15)
    folder = saved(tmp_path, module, scheduler, "transformer", "FluxPipeline")
    prompt, pooled = noise((1, 5, 12), 2), noise((1, 10), 4)
    given = {"prompt_embeds": prompt, "pooled_prompt_embeds": pooled}
    denoiser = load_denoiser(folder, **given, item_shape=(4, 8, 12), guidance_embedding=2.0)
    pipeline = diffusers.FluxPipeline
    tokens = 4 * 6
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    mu = calculate_shift(tokens, 256, 4096, 0.5, 1.15)
    assert denoiser.path.shift == pytest.approx(np.exp(mu), rel=1e-12)
    scheduler.set_timesteps(6, mu=mu)
    t, f, following = scheduler.timesteps[2], float(scheduler.sigmas[2]), float(scheduler.sigmas[3])
    x_t = noise((2, 4, 8, 12))
    packed = pipeline._pack_latents(x_t, 2, 4, 8, 12)
    ids = pipeline._prepare_latent_image_ids(2, 4, 6, "cpu", torch.float32)
    with torch.no_grad():
        output = module(
            hidden_states=packed,
            timestep=t.expand(2) / 1000,
            guidance=torch.full((2,), 2.0) if guidance else None,
            pooled_projections=pooled.expand(2, -1),
            encoder_hidden_states=prompt.expand(2, -1, -1),
            txt_ids=torch.zeros(5, 3),
            img_ids=ids,
        ).sample
    moved = scheduler.step(output, t, packed).prev_sample
    clean = denoiser(x_t / (1 - f), f / (1 - f))
    ours = (1 - following) * clean + following * (x_t - (1 - f) * clean) / f
    close(pipeline._pack_latents(ours, 2, 4, 8, 12), moved)
    np.testing.assert_array_equal(pipeline._unpack_latents(packed, 64, 96, 8), x_t)
    with pytest.raises(ValueError, match=r"shifts its levels by the size of an item .* pass `item_shape`"):
        load_denoiser(folder, **given)
    with pytest.raises(ValueError, match="`x` must have an even height and width for Flux's 2 x 2 tokens, got 7 and 8"):
        denoiser(noise((1, 4, 7, 8)), 1.0)


def test_a_network_folder_with_its_scheduler_in_every_place(tmp_path):
    module, scheduler = unet(), diffusers.DDIMScheduler(clip_sample=False, prediction_type="v_prediction")
    x = noise((1, 2, 8, 8))
    expected = load_denoiser(diffusers.DDPMPipeline(module, scheduler))(x, 1.0)
    whole = saved(tmp_path / "pipeline", module, scheduler)
    close(load_denoiser(whole / "unet")(x, 1.0), expected)  # the scheduler is in the folder above
    inside = tmp_path / "inside"
    module.save_pretrained(inside)
    with pytest.raises(ValueError, match=r"inside has no scheduler/scheduler_config\.json, which states the path; copy it"):
        load_denoiser(inside)
    close(load_denoiser(inside, scheduler=scheduler)(x, 1.0), expected)
    close(load_denoiser(inside, scheduler=whole / "scheduler")(x, 1.0), expected)
    scheduler.save_pretrained(inside / "scheduler")
    close(load_denoiser(inside)(x, 1.0), expected)
    flat = tmp_path / "flat"  # as pipelines of old: everything at the top
    module.save_pretrained(flat)
    scheduler.save_pretrained(flat)
    shutil.copy(whole / "model_index.json", flat)
    close(load_denoiser(flat)(x, 1.0), expected)
    close(load_denoiser(module, scheduler=scheduler)(x, 1.0), expected)  # a network in memory
    with pytest.raises(ValueError, match="UNet2DModel has no scheduler, which states the path; pass `scheduler`"):
        load_denoiser(module)


def test_the_other_scheduler_is_taken_in_place_of_the_pipelines(tmp_path):
    folder = saved(tmp_path, unet(), diffusers.DDIMScheduler())
    denoiser = load_denoiser(folder, scheduler=diffusers.FlowMatchEulerDiscreteScheduler())
    assert isinstance(denoiser.path, RectifiedFlow)
    with pytest.raises(ValueError, match=r"`scheduler` '.*' holds no scheduler_config\.json; pass its folder, or the object"):
        load_denoiser(folder, scheduler=tmp_path / "unet")


def test_types_variants_and_shards(tmp_path):
    module, scheduler = unet(), diffusers.DDIMScheduler()
    folder = saved(tmp_path, module, scheduler)
    x = noise((1, 2, 8, 8))
    expected = load_denoiser(folder)(x, 1.0)
    half = load_denoiser(folder, dtype="float16")
    assert half.dtype == torch.float16
    # float16 carries three digits; the network is a few layers deep.
    np.testing.assert_allclose(half(x, 1.0), expected, rtol=0, atol=0.05 * float(expected.abs().max()))
    shutil.rmtree(folder / "unet")
    module.save_pretrained(folder / "unet", variant="fp16")
    with pytest.raises(ValueError, match=r"found diffusion_pytorch_model\.fp16\.safetensors: choose with `variant`"):
        load_denoiser(folder)
    close(load_denoiser(folder, variant="fp16")(x, 1.0), expected)
    shutil.rmtree(folder / "unet")
    module.save_pretrained(folder / "unet", max_shard_size="8KB")
    close(load_denoiser(folder)(x, 1.0), expected)
    shards = sorted((folder / "unet").glob("*-of-*.safetensors"))
    assert len(shards) > 1
    shards[0].unlink()
    with pytest.raises(ValueError, match=r"lacks 1 of the files that .*index\.json lists, the first .*copy the folder again"):
        load_denoiser(folder)


def test_pickled_weights_are_read_only_when_asked_for(tmp_path):
    module = unet()
    folder = saved(tmp_path, module, diffusers.DDIMScheduler())
    x = noise((1, 2, 8, 8))
    expected = load_denoiser(folder)(x, 1.0)
    shutil.rmtree(folder / "unet")
    module.save_pretrained(folder / "unet", safe_serialization=False)
    with pytest.raises(ValueError, match=r"are in pickle format \(diffusion_pytorch_model\.bin\), which can run any code"):
        load_denoiser(folder)
    close(load_denoiser(folder, allow_pickle=True)(x, 1.0), expected)


def test_integer_timesteps(tmp_path):
    folder = saved(tmp_path, unet(), diffusers.DDIMScheduler())
    fractional, whole = load_denoiser(folder), load_denoiser(folder, timesteps="integer")
    x = noise((1, 2, 8, 8))
    at, between = (float(fractional.path.t_to_sigma(t)) for t in (400, 400.4))
    close(whole(x, at), fractional(x, at))
    assert float((whole(x, between) - fractional(x, between)).abs().max()) > 1e-6
    with pytest.raises(ValueError, match="`timesteps` must be 'fractional' on RectifiedFlow"):
        load_denoiser(folder, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(), timesteps="integer")


def test_the_gauge_of_a_loaded_pipeline(tmp_path):
    module = unet()
    denoiser = load_denoiser(saved(tmp_path, module, diffusers.DDIMScheduler()))
    data = np.random.default_rng(0).standard_normal((12, 2, 8, 8))

    def by_hand(x, sigma):
        x_t = torch.as_tensor(x / np.sqrt(1 + sigma**2), dtype=torch.float32)
        with torch.no_grad():
            return x - sigma * module(x_t, torch.tensor(float(denoiser.path.sigma_to_t(sigma)))).sample.double().numpy()

    given = {"spectrum": Spectrum.from_eigenvalues(np.ones(128)), "sigma_min": 0.1, "sigma_max": 2.0, "levels": 3}
    curve = error_curve(denoiser, data, **given, batch_size=5)
    # float32 networks in batches of another size: their last digits.
    np.testing.assert_allclose(curve.error, error_curve(by_hand, data, **given, batch_size=12).error, rtol=1e-5)


def broken_folder(tmp_path, what):
    folder = saved(tmp_path / what.replace("/", "_"), unet(), diffusers.DDIMScheduler())
    (folder / what).unlink()
    return folder


def test_folders_with_missing_or_damaged_files(tmp_path):
    with pytest.raises(ValueError, match=r"holds no config\.json, which model_index\.json asks for; copy the folder again"):
        load_denoiser(broken_folder(tmp_path, "unet/config.json"))
    with pytest.raises(ValueError, match=r"holds no diffusion_pytorch_model\.safetensors; copy the folder again, all of it"):
        load_denoiser(broken_folder(tmp_path, "unet/diffusion_pytorch_model.safetensors"))
    with pytest.raises(ValueError, match=r"has no scheduler/scheduler_config\.json"):
        load_denoiser(broken_folder(tmp_path, "scheduler/scheduler_config.json"))
    with pytest.raises(ValueError, match=r"holds no config\.json and no model_index\.json; pass the folder that"):
        load_denoiser(broken_folder(tmp_path, "model_index.json"))
    with pytest.raises(ValueError, match=r"there is no folder 'runwayml/sd'; for a name on the Hub pass DiffusionPipe"):
        load_denoiser("runwayml/sd")
    folder = saved(tmp_path / "cut", unet(), diffusers.DDIMScheduler())
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"the weights in .*unet cannot be read .*; copy them again"):
        load_denoiser(folder)
    (folder / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match=r"model_index\.json is damaged and no JSON"):
        load_denoiser(folder)
    (folder / "model_index.json").write_text("[]")
    with pytest.raises(ValueError, match=r"model_index\.json is damaged: it holds no object of JSON"):
        load_denoiser(folder)
    (folder / "model_index.json").write_text('{"prior": ["diffusers", "PriorTransformer"]}')
    with pytest.raises(ValueError, match="names no `unet` or `transformer`; it is no pipeline that denoises step by step"):
        load_denoiser(folder)


@pytest.mark.parametrize(("name", "pickled"), [("model.ckpt", True), ("model.pt", True), ("model.safetensors", False)])
def test_single_files_are_refused(tmp_path, name, pickled):
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(ValueError, match=r"is one file.*without the configuration .* from_single_file") as caught:
        load_denoiser(tmp_path / name, allow_pickle=True)
    assert ("in pickle format, which can run any code" in str(caught.value)) == pickled


def test_unknown_networks_schedulers_and_predictions(tmp_path):
    folder = saved(tmp_path, unet(), diffusers.DDIMScheduler())
    config = json.loads((folder / "unet" / "config.json").read_text())
    (folder / "unet" / "config.json").write_text(json.dumps({**config, "_class_name": "PriorTransformer"}))
    with pytest.raises(ValueError, match="says `_class_name` 'PriorTransformer', no network whose call is known; known are UN"):
        load_denoiser(folder)
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    host = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    for change, said in (
        ({"_class_name": "NoSuchScheduler"}, "says `_class_name` 'NoSuchScheduler', no scheduler of diffusers"),
        ({"prediction_type": "score"}, "`prediction_type` 'score' of DDIMScheduler is unknown; known are epsilon, v_pred"),
    ):
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps({**host, **change}))
        with pytest.raises(ValueError, match=said):
            load_denoiser(folder)
    with pytest.raises(ValueError, match="VQDiffusionScheduler has no known path: it holds no alphas_cumprod"):
        scheduler_convention(diffusers.VQDiffusionScheduler(num_vec_classes=4))
    with pytest.raises(ValueError, match="CMStochasticIterativeScheduler has no known path"):
        scheduler_convention(diffusers.CMStochasticIterativeScheduler())
    with pytest.raises(ValueError, match="'flow_prediction' of UniPCMultistepScheduler needs `use_flow_sigmas=True`"):
        scheduler_convention(diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction"))
    with pytest.raises(ValueError, match="'v_prediction' of UniPCMultistepScheduler has no meaning on a flow"):
        scheduler_convention(diffusers.UniPCMultistepScheduler(prediction_type="v_prediction", use_flow_sigmas=True))
    with pytest.raises(ValueError, match="with `invert_sigmas` counts its levels from clean data"):
        scheduler_convention(diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True))
    with pytest.raises(ValueError, match="`prediction_type` 'sample' is unknown to CosineDPMSolverMultistepScheduler"):
        scheduler_convention(diffusers.CosineDPMSolverMultistepScheduler(prediction_type="sample"))


def test_networks_that_are_conditioned_on_what_nobody_gives():
    scheduler = diffusers.DDIMScheduler()
    prompt = noise((1, 5, 12))
    with pytest.raises(ValueError, match="UNet2DConditionModel takes 9 channels and gives 4: it is conditioned on images"):
        load_denoiser(unet_condition(in_channels=9), scheduler=scheduler, prompt_embeds=prompt)
    with pytest.raises(ValueError, match="`time_cond_proj_dim` is set: the model is a consistency model"):
        load_denoiser(unet_condition(time_cond_proj_dim=4), scheduler=scheduler, prompt_embeds=prompt)
    with pytest.raises(ValueError, match="`addition_embed_type` 'text' is not known"):
        load_denoiser(unet_condition(addition_embed_type="text", encoder_hid_dim=12, addition_embed_type_num_heads=4),
                      scheduler=scheduler, prompt_embeds=prompt)  # fmt: skip
    with pytest.raises(ValueError, match="`guidance_scale` needs a conditional model, got 2 for one without; leave it at 1"):
        load_denoiser(unet(), scheduler=scheduler, guidance_scale=2.0)
    for name in ("labels", "prompt_embeds", "pooled_prompt_embeds"):
        with pytest.raises(ValueError, match=f"`{name}` means nothing to this model, which"):
            load_denoiser(unet(), scheduler=scheduler, **{name: prompt})
    with pytest.raises(ValueError, match="`labels` means nothing to this model, which takes prompts"):
        load_denoiser(sd3(), scheduler=scheduler, labels=2, prompt_embeds=prompt, pooled_prompt_embeds=noise((1, 10)))
    with pytest.raises(ValueError, match="`source` must be a folder or a diffusers pipeline with a `unet` or `trans"):
        load_denoiser(torch.nn.Linear(2, 2), scheduler=scheduler)


def test_cuda_that_is_not_there(tmp_path):
    folder = saved(tmp_path, unet(), diffusers.DDIMScheduler())
    assert load_denoiser(folder, device="cpu").device == torch.device("cpu")
    if torch.cuda.is_available():
        pytest.skip("CUDA is there")
    with pytest.raises(ValueError, match="`device` 'cuda' is not there"):
        load_denoiser(folder, device="cuda")


def test_a_one_dimensional_network_for_sound():
    module = randomized(
        diffusers.UNet1DModel(
            sample_size=32,
            in_channels=2,
            out_channels=2,
            block_out_channels=(32, 32),
            layers_per_block=1,
            down_block_types=("DownBlock1D", "DownBlock1D"),
            up_block_types=("UpBlock1D", "UpBlock1D"),
            mid_block_type="UNetMidBlock1D",
            norm_num_groups=4,
        )
    )
    denoiser = load_denoiser(module, scheduler=diffusers.IPNDMScheduler())
    assert denoiser.item_shape == (2, 32)
    x = noise((3, 2, 32))
    with torch.no_grad():
        v = module(x / np.sqrt(2.0), torch.tensor(0.5)).sample
    # At sigma = 1 of the cosine path t = 1/2 and alpha = s = 1/sqrt 2: D = x~/2 - v/sqrt 2.
    close(denoiser(x, 1.0), x / 2 - v / np.sqrt(2.0))


@pytest.mark.parametrize("guidance", [1.0, 2.5])
@pytest.mark.parametrize("scheduler", [
    diffusers.DDIMScheduler(), diffusers.EDMEulerScheduler(), diffusers.ScoreSdeVeScheduler(sigma_min=0.01, sigma_max=50.0)
], ids=lambda each: type(each).__name__)  # fmt: skip
def test_labels_of_each_item_go_with_it_through_the_batches(scheduler, guidance):
    module = unet(num_class_embeds=5)
    labels = [3, 0, 1, 4, 2, 3, 3, 1]
    pipeline = diffusers.DDPMPipeline(module, scheduler)
    away = [0, 1, 2, 3, 4, 0, 1, 2]
    options = {"guidance_scale": guidance}

    def told(choose):
        return {"labels": choose(labels), **({"negative_labels": choose(away)} if guidance != 1 else {}), **options}

    grid = [5.0, 1.0, 0.3, 0.0]
    whole = load_denoiser(pipeline, **told(list))
    made = generate(whole, grid, 8, batch_size=3)
    for k in (0, 2, 3, 7):
        alone = load_denoiser(pipeline, **told(lambda each, k=k: each[k]))
        z = item_noise([k], (2, 8, 8))
        # float32 through batches of other sizes.
        torch.testing.assert_close(made[k : k + 1], generate(alone, grid, 1, noise=z), rtol=1e-4, atol=1e-5)
    same = load_denoiser(pipeline, **told(lambda each: each[0]))
    assert not torch.allclose(made, generate(same, grid, 8), atol=1e-3)
    with pytest.raises(ValueError, match="`class_labels` has 8 rows, but item 8 was asked for"):
        generate(whole, grid, 9, batch_size=3)


def test_it_is_a_plain_model_denoiser():
    denoiser = load_denoiser(unet(), scheduler=diffusers.DDIMScheduler(prediction_type="sample"))
    assert isinstance(denoiser, ModelDenoiser)
    assert denoiser.prediction == "x0"


def test_the_documented_examples_run(tmp_path, monkeypatch, capsys):
    """docs/models.md, in a folder that holds what its examples name."""
    pillow = pytest.importorskip("PIL.Image")
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "my-pipeline", unet(), diffusers.DDIMScheduler())
    saved(tmp_path / "my-text-pipeline", unet_condition(), diffusers.DDIMScheduler(prediction_type="v_prediction"))
    torch.save((noise((1, 5, 12), 2), noise((1, 5, 12), 3)), "prompt.pt")
    diffusers.AutoencoderKL(
        block_out_channels=(4, 4), norm_num_groups=2, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=1,
    ).save_pretrained("my-latent-pipeline/vae")  # fmt: skip
    (tmp_path / "photos").mkdir()
    for k in range(260):
        pixels = np.random.default_rng(k).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        pillow.fromarray(pixels).save(tmp_path / "photos" / f"{k}.png")
    text = (Path(__file__).parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    # Prompts need text encoders: tests/test_prompts.py.
    examples = [code for code in examples if "prompt=" not in code]
    assert len(examples) == 6
    for code in examples:
        exec(compile(code, "docs/models.md", "exec"), {})
    said = capsys.readouterr().out
    assert "VPDiscrete(1000 timesteps, sigma 0.0100013 to 157.407) epsilon (2, 8, 8)" in said
    assert "torch.Size([2, 4, 8, 8])" in said
    assert "(1, 16, 16) latents, (z - 0) * 0.18215, z the mode of AutoencoderKL" in said
