"""Prompts: what `load_denoiser` encodes is what the pipeline itself would, and what cannot be encoded is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

from eigenstep import Spectrum  # noqa: E402
from eigenstep.cli import cli  # noqa: E402
from eigenstep.models import error_curve, load_denoiser  # noqa: E402
from eigenstep.models.prompts import encoded_prompt  # noqa: E402

PROMPT, NEGATIVE = "a cat", "bad"


def tokenizer(folder):
    """CLIP's tokenizer of letters alone: its own code, with a vocabulary that fits in a line."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{letter}</w>" for letter in letters), "ca", "cat</w>", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
    return transformers.CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=7)


def text_encoder(width, words, projection=None):
    torch.manual_seed(width)
    config = transformers.CLIPTextConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=width,
        num_attention_heads=2,
        num_hidden_layers=2,
        max_position_embeddings=7,
        bos_token_id=words - 2,
        eos_token_id=words - 1,
        pad_token_id=words - 1,
        **({} if projection is None else {"projection_dim": projection}),
    )
    kind = transformers.CLIPTextModel if projection is None else transformers.CLIPTextModelWithProjection
    return kind(config).eval()


def unet(width, **options):
    torch.manual_seed(0)
    return diffusers.UNet2DConditionModel(
        sample_size=4,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8,),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=width,
        attention_head_dim=4,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        **options,
    ).eval()


def vae():
    return diffusers.AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        norm_num_groups=2,
        down_block_types=["DownEncoderBlock2D"] * 4,
        up_block_types=["UpDecoderBlock2D"] * 4,
        latent_channels=4,
    )


def stable_diffusion(folder):
    words = tokenizer(folder)
    return diffusers.StableDiffusionPipeline(
        vae=vae(),
        text_encoder=text_encoder(8, len(words)),
        tokenizer=words,
        unet=unet(8),
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl(folder, zeros=True):
    words = tokenizer(folder)
    options = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "projection_class_embeddings_input_dim": 6 + 6 * 4,
    }
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=text_encoder(8, len(words)),
        text_encoder_2=text_encoder(12, len(words), projection=6),
        tokenizer=words,
        tokenizer_2=words,
        unet=unet(20, **options),
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        force_zeros_for_empty_prompt=zeros,
    )


KINDS = {"StableDiffusionPipeline": stable_diffusion, "StableDiffusionXLPipeline": stable_diffusion_xl}
NAMES = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")


@pytest.fixture(params=KINDS)
def pipeline(request, tmp_path):
    made = KINDS[request.param](tmp_path)
    made.save_pretrained(tmp_path / "pipeline")
    return made


def own(pipeline, negative, guided):
    with torch.no_grad():
        found = pipeline.encode_prompt(
            prompt=PROMPT, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=guided, negative_prompt=negative
        )
    return {name: value for name, value in zip(NAMES, found, strict=False) if value is not None}


@pytest.mark.parametrize(("negative", "guided"), [(None, False), (None, True), (NEGATIVE, True)])
def test_a_folder_encodes_as_its_pipeline_does(pipeline, tmp_path, negative, guided):
    found = encoded_prompt(tmp_path / "pipeline", PROMPT, negative_prompt=negative, guided=guided)
    expected = own(pipeline, negative, guided)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        # The same code on weights that went through a file in their own type.
        np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert not np.array_equal(found["prompt_embeds"], own_of(pipeline, "a bat"))


def own_of(pipeline, prompt):
    with torch.no_grad():
        return pipeline.encode_prompt(
            prompt=prompt, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False, negative_prompt=None
        )[0]


@pytest.mark.parametrize("in_memory", [False, True])
def test_the_denoiser_of_a_prompt_is_that_of_its_embeddings(pipeline, tmp_path, in_memory):
    source = pipeline if in_memory else str(tmp_path / "pipeline")
    size = {"image_size": (32, 32)} if len(own(pipeline, NEGATIVE, True)) == 4 else {}
    by_text = load_denoiser(source, prompt=PROMPT, negative_prompt=NEGATIVE, guidance_scale=5.0)
    by_tensor = load_denoiser(pipeline, **own(pipeline, NEGATIVE, True), guidance_scale=5.0, **size)
    x = np.random.default_rng(0).standard_normal((2, 4, 4, 4))
    np.testing.assert_array_equal(by_text(x, 2.0), by_tensor(x, 2.0))
    other = load_denoiser(source, prompt="dog", negative_prompt=NEGATIVE, guidance_scale=5.0)
    assert not np.array_equal(other(x, 2.0), by_text(x, 2.0))


def test_the_guided_prompt_is_the_pipelines_own_sample(tmp_path):
    """One DDIM step of the whole pipeline from given latents, against the denoiser: latents at the end are D itself."""
    pipeline = stable_diffusion(tmp_path)
    pipeline.scheduler = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    pipeline.set_progress_bar_config(disable=True)
    latents = torch.from_numpy(np.random.default_rng(3).standard_normal((1, 4, 4, 4)).astype(np.float32))
    ended = pipeline(
        PROMPT, negative_prompt=NEGATIVE, guidance_scale=5.0, num_inference_steps=1, latents=latents, output_type="latent"
    ).images
    denoiser = load_denoiser(pipeline, prompt=PROMPT, negative_prompt=NEGATIVE, guidance_scale=5.0)
    alpha = float(pipeline.scheduler.alphas_cumprod[-1]) ** 0.5
    found = denoiser(latents / alpha, denoiser.sigma_max)
    # float32, in which the division by alpha = 0.006 makes numbers of some hundreds.
    np.testing.assert_allclose(found, ended, rtol=0, atol=1e-4 * float(ended.abs().max()))


def test_zeros_stand_for_no_negative_prompt_where_the_pipeline_says_so(tmp_path):
    for zeros in (True, False):
        stable_diffusion_xl(tmp_path, zeros).save_pretrained(tmp_path / "pipeline")
        found = encoded_prompt(tmp_path / "pipeline", PROMPT, guided=True)
        assert bool((found["negative_prompt_embeds"] == 0).all()) is zeros


def test_the_text_encoders_take_the_type_that_is_asked_for(pipeline, tmp_path):
    found = encoded_prompt(tmp_path / "pipeline", PROMPT, dtype=torch.float16)
    assert found["prompt_embeds"].dtype == torch.float16


def test_progress_bars_are_as_they_were(tmp_path, capsys):
    stable_diffusion(tmp_path).save_pretrained(tmp_path / "pipeline")
    capsys.readouterr()
    encoded_prompt(tmp_path / "pipeline", PROMPT)
    assert capsys.readouterr().err == ""
    assert diffusers.utils.logging.is_progress_bar_enabled()


def told(*arguments):
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="eigenstep")
    assert result.exit_code == 0, (result.stderr, result.exception)
    return json.loads(result.stdout)


@pytest.fixture
def latents(tmp_path):
    path = tmp_path / "latents.npy"
    np.save(path, np.random.default_rng(0).standard_normal((80, 4, 4, 4)))
    return path


def guided(text):
    return ("--prompt", text, "--negative-prompt", NEGATIVE, "--guidance", 5)


def test_a_plan_for_a_prompt_is_the_plan_of_its_denoiser(pipeline, latents, tmp_path):
    arguments = ("plan", latents, "--model", tmp_path / "pipeline", "-n", 2, "--judges", 4, "--cold", "-q", "--format", "json")
    found = told(*arguments, *guided(PROMPT))
    assert found["conditions"] == {"labels": None, "prompt": PROMPT, "negative_prompt": NEGATIVE, "guidance_scale": 5.0}
    denoiser = load_denoiser(pipeline, prompt=PROMPT, negative_prompt=NEGATIVE, guidance_scale=5.0)
    items = np.load(latents)
    ends = {"sigma_min": denoiser.sigma_min, "sigma_max": denoiser.sigma_max}
    curve = error_curve(denoiser, items, spectrum=Spectrum.from_samples(items), **ends)
    # The command measures on float32 tensors, this on numpy through the same network.
    np.testing.assert_allclose(found["gauge"]["error"], curve.error, rtol=1e-4)
    assert told(*arguments, *guided("dog"))["gauge"]["error"] != found["gauge"]["error"]


@pytest.mark.slow
def test_an_evaluation_of_a_prompt_is_gone_on_with_for_that_prompt_only(latents, tmp_path):
    stable_diffusion(tmp_path).save_pretrained(tmp_path / "pipeline")
    few = ("--steps", 2, "--solvers", "ddim", "--grids", "karras", "--samples", 4, "--seeds", 1, "--features", "pixels")
    arguments = ("evaluate", tmp_path / "pipeline", "--data", latents, "-o", tmp_path / "out", *few, "-q", "--format", "json")
    found = told(*arguments, *guided(PROMPT))
    assert found["settings"]["conditions"] == {"prompt": PROMPT, "negative_prompt": NEGATIVE, "guidance_scale": 5.0}
    assert found["failures"] == {}
    assert told(*arguments, *guided(PROMPT), "--resume")["cells"] == found["cells"]
    other = CliRunner().invoke(cli, [str(each) for each in (*arguments, *guided("dog"), "--resume")], prog_name="eigenstep")
    assert other.exit_code == 2
    assert "begun with another conditions" in other.stderr


def test_the_documented_example_runs(tmp_path, monkeypatch, capsys):
    """The example with a prompt in docs/models.md, beside a folder of its name."""
    monkeypatch.chdir(tmp_path)
    stable_diffusion(tmp_path).save_pretrained("stable-diffusion")
    text = (Path(__file__).parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
    (code,) = (each for each in re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL) if "prompt=" in each)
    exec(compile(code, "docs/models.md", "exec"), {})
    assert "(4, 4, 4) 5.0" in capsys.readouterr().out


class TestRefusals:
    def test_another_kind_of_pipeline(self, tmp_path):
        (tmp_path / "model_index.json").write_text('{"_class_name": "PixArtAlphaPipeline"}')
        with pytest.raises(ValueError, match=r"`prompt` can be encoded by StableDiffusion.* PixArtAlphaPipeline; give"):
            encoded_prompt(tmp_path, PROMPT)

    def test_a_network_without_its_pipeline(self, tmp_path):
        with pytest.raises(ValueError, match=r"has no model_index\.json; give embeddings by Python"):
            encoded_prompt(tmp_path, PROMPT)

    def test_a_folder_without_its_text_encoder(self, tmp_path):
        stable_diffusion(tmp_path).save_pretrained(tmp_path / "pipeline")
        (tmp_path / "pipeline" / "text_encoder" / "model.safetensors").unlink()
        with pytest.raises(ValueError, match=r"text encoders and tokenizers in .* cannot be read"):
            encoded_prompt(tmp_path / "pipeline", PROMPT)

    def test_a_pipeline_whose_text_encoder_was_left_out(self, tmp_path):
        made = stable_diffusion(tmp_path)
        made.text_encoder = None
        with pytest.raises(ValueError, match="needs the text encoder of StableDiffusionPipeline"):
            encoded_prompt(made, PROMPT)

    def test_a_negative_prompt_without_guidance(self, tmp_path):
        with pytest.raises(ValueError, match="`negative_prompt` 'bad' means nothing without guidance"):
            load_denoiser(stable_diffusion(tmp_path), prompt=PROMPT, negative_prompt=NEGATIVE)

    def test_a_negative_prompt_alone(self, tmp_path):
        with pytest.raises(ValueError, match="`negative_prompt` means nothing without `prompt`"):
            load_denoiser(stable_diffusion(tmp_path), negative_prompt=NEGATIVE, guidance_scale=5.0)

    def test_a_prompt_beside_embeddings(self, tmp_path):
        made = stable_diffusion(tmp_path)
        with pytest.raises(ValueError, match="`prompt` means nothing beside `prompt_embeds`"):
            load_denoiser(made, prompt=PROMPT, prompt_embeds=torch.zeros(1, 7, 8))

    def test_several_prompts(self, tmp_path):
        with pytest.raises(ValueError, match=r"`prompt` must be text, got \['a', 'b'\]"):
            load_denoiser(stable_diffusion(tmp_path), prompt=["a", "b"])
