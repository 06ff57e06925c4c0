"""data/latents.py: the latents of a source are the pipeline's own, in its own scaling, wherever and however they are read."""

import json
import pickle
import shutil

import numpy as np
import pytest

from eigenstep import Spectrum
from eigenstep.data import SourceError, accumulate, encoded, measure, open_source

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")


def autoencoder(**options):
    generator = torch.Generator().manual_seed(0)
    module = diffusers.AutoencoderKL(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        layers_per_block=1,
        latent_channels=2,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        **options,
    )
    with torch.no_grad():
        for each in module.parameters():
            each.copy_(torch.randn(each.shape, generator=generator) * 0.2)
    return module.eval()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    from PIL import Image

    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for k in range(150):
        Image.fromarray(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(folder / f"{k:03}.png")
    return folder


@pytest.fixture(scope="module")
def stable(tmp_path_factory):
    """A pipeline folder as Stable Diffusion 3's: shift and scale."""
    folder = tmp_path_factory.mktemp("pipeline")
    module = autoencoder(scaling_factor=1.5305, shift_factor=0.0609)
    module.save_pretrained(folder / "vae")
    (folder / "model_index.json").write_text(json.dumps({"vae": ["diffusers", "AutoencoderKL"]}))
    return folder, module


def together(source):
    return np.concatenate(list(source))


def pixels(photos):
    return torch.as_tensor(together(open_source(photos)), dtype=torch.float32)


def test_latents_are_the_pipelines_own(photos, stable):
    folder, module = stable
    with torch.no_grad():
        # The line of the pipeline's image-to-image, with the mode in place of a sample.
        latents = module.encode(pixels(photos)).latent_dist.mode()
    expected = (latents - module.config.shift_factor) * module.config.scaling_factor
    source = encoded(open_source(photos), folder)
    assert source.item_shape == (2, 8, 8)
    # float32 sums in batches of other sizes.
    np.testing.assert_allclose(together(source), expected.double().numpy(), rtol=0, atol=1e-5)
    np.testing.assert_allclose(together(encoded(open_source(photos), folder / "vae")), expected.double(), rtol=0, atol=1e-5)
    assert source.value_range == (
        "latents, (z - 0.0609) * 1.5305, z the mode of AutoencoderKL, of [-1, 1] from pixels [0, 255]"
    )


def test_the_spectrum_is_that_of_the_latents(photos, stable):
    folder, module = stable
    spectrum = measure(encoded(open_source(photos, batch_size=7), folder))
    with torch.no_grad():
        latents = (module.encode(pixels(photos)).latent_dist.mode().double().numpy() - 0.0609) * 1.5305
    by_hand = Spectrum.from_samples(latents.reshape(150, -1))
    # float32 latents of other batches: 1e-5 of the largest eigenvalue.
    np.testing.assert_allclose(
        spectrum.eigenvalues, by_hand.eigenvalues, rtol=0, atol=1e-5 * float(by_hand.eigenvalues[0])
    )
    assert spectrum.item_shape == (2, 8, 8)
    assert str(folder) in spectrum.provenance["source"]


def test_mean_and_std_by_channel(photos, tmp_path):
    module = autoencoder(scaling_factor=0.5, latents_mean=[0.3, -0.2], latents_std=[2.0, 4.0])
    module.save_pretrained(tmp_path)
    x = pixels(photos)
    with torch.no_grad():
        z = module.encode(x).latent_dist.mode().double()
    mean, std = (torch.tensor(each, dtype=torch.float64).view(1, 2, 1, 1) for each in ([0.3, -0.2], [2.0, 4.0]))
    source = encoded(open_source(photos), tmp_path)
    np.testing.assert_allclose(together(source), ((z - mean) * 0.5 / std).numpy(), rtol=0, atol=1e-5)
    assert source.value_range.startswith("latents, (z - mean) * 0.5 / std by channel")


def test_the_tiny_autoencoder(photos, tmp_path):
    module = diffusers.AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1), latent_channels=2, scaling_factor=2.0,
    ).eval()  # fmt: skip
    module.save_pretrained(tmp_path)
    source = encoded(open_source(photos), tmp_path)
    with torch.no_grad():
        expected = module.encode(pixels(photos)).latents.double().numpy() * 2.0
    np.testing.assert_allclose(together(source), expected, rtol=0, atol=1e-5)
    with pytest.raises(SourceError, match="`draw` must be 'mode' with AutoencoderTiny, whose latents are no distribution"):
        encoded(open_source(photos), tmp_path, draw="sample")


def test_a_sample_adds_the_encoders_own_variance_and_is_the_same_each_time(photos, stable):
    folder, module = stable
    drawn = encoded(open_source(photos, batch_size=10), folder, draw="sample")
    first = together(drawn)
    np.testing.assert_array_equal(first, together(encoded(open_source(photos, batch_size=10), folder, draw="sample")))
    with torch.no_grad():
        spread = module.encode(pixels(photos)).latent_dist.std.double().numpy() * 1.5305
    normal = (first - together(encoded(open_source(photos), folder))) / spread
    # 19,200 standard normal numbers: five standard errors of their mean and variance.
    assert abs(normal.mean()) < 5 / np.sqrt(normal.size)
    assert abs(normal.var() - 1) < 5 * np.sqrt(2 / normal.size)


def test_batches_of_the_encoder_and_of_the_source_change_nothing(photos, stable):
    folder, _ = stable
    expected = together(encoded(open_source(photos), folder))
    for size, batch in ((1, None), (7, 2), (150, 149)):
        np.testing.assert_allclose(
            together(encoded(open_source(photos, batch_size=size), folder, batch_size=batch)), expected, rtol=0, atol=1e-5
        )


def test_out_of_memory_halves_the_batch(photos, stable, monkeypatch):
    folder, _ = stable
    source = encoded(open_source(photos, batch_size=30), folder)
    expected, sizes = together(source), []
    whole = source.encoder._encode

    def hungry(module, images):
        sizes.append(len(images))
        if len(images) > 4:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return whole(module, images)

    monkeypatch.setattr(source.encoder, "_encode", hungry)
    np.testing.assert_allclose(together(source), expected, rtol=0, atol=1e-5)
    assert sizes[:4] == [30, 15, 8, 4]
    assert max(sizes[4:]) <= 4

    def full(module, images):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(source.encoder, "_encode", full)
    with pytest.raises(MemoryError, match=r"one image of shape \(3, 16, 16\) does not fit into the encoder on cpu"):
        together(source)


def test_a_checkpoint_knows_its_encoder(photos, stable, tmp_path):
    folder, _ = stable
    own = tmp_path / "vae"
    shutil.copytree(folder / "vae", own)
    checkpoint = tmp_path / "work.npz"

    def begin(**options):
        return encoded(open_source(photos, batch_size=10), own, **options)

    class StopError(OSError):
        pass

    def stop(count, total):
        if count >= 30:
            raise StopError("enough")

    with pytest.raises(StopError):
        accumulate(begin(), checkpoint=checkpoint, progress=stop)
    whole = accumulate(begin()).spectrum()
    kept = accumulate(begin(), checkpoint=checkpoint, resume=True)
    np.testing.assert_array_equal(kept.spectrum().eigenvalues, whole.eigenvalues)
    with pytest.raises(ValueError, match="units"):
        accumulate(begin(draw="sample"), checkpoint=checkpoint, resume=True)
    with pytest.raises(ValueError, match="or the options they are read with, have changed since"):
        accumulate(begin(dtype="bfloat16"), checkpoint=checkpoint, resume=True)


def test_parts_and_processes_read_the_same(photos, stable):
    folder, _ = stable
    source = encoded(open_source(photos, batch_size=10), folder)
    expected = together(source)
    sent = pickle.dumps(source)
    assert len(sent) < 20_000  # the weights stay in their folder
    np.testing.assert_array_equal(together(pickle.loads(sent)), expected)
    parts = source.parts()
    np.testing.assert_allclose(np.concatenate([together(part) for part in parts]), expected, rtol=0, atol=1e-5)


def test_refusals(photos, stable, tmp_path):
    folder, _ = stable
    with pytest.raises(SourceError, match=r"an encoder takes images in \[-1, 1\], got values \[0, 1\] from pixels"):
        encoded(open_source(photos, value_range="0,1"), folder)
    with pytest.raises(SourceError, match=r"takes images in \[-1, 1\], got values as stored \(float64\)"):
        encoded(open_source(np.zeros((4, 3, 16, 16))), folder)
    with pytest.raises(SourceError, match=r"images of shape \(3, height, width\), got \(1, 16, 16\); open the source"):
        encoded(open_source(photos, gray=True), folder)
    with pytest.raises(SourceError, match=r"sides that are multiples of 2, got 15 x 15; open the source with size=14"):
        encoded(open_source(photos, crop=15), folder)
    with pytest.raises(SourceError, match=r"there is no folder '.*nowhere' of a pipeline or autoencoder"):
        encoded(open_source(photos), tmp_path / "nowhere")
    with pytest.raises(SourceError, match=r"holds no config\.json of an autoencoder, and no folder `vae`"):
        encoded(open_source(photos), tmp_path)
    (tmp_path / "config.json").write_text('{"_class_name": "VQModel"}')
    with pytest.raises(SourceError, match="holds VQModel; encoders whose latents are known are AutoencoderKL, AutoencoderTiny"):
        encoded(open_source(photos), tmp_path)
    shutil.copy(folder / "vae" / "config.json", tmp_path)
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"holds no diffusion_pytorch_model\.safetensors; .* in pickle format"):
        encoded(open_source(photos), tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"x")
    with pytest.raises(SourceError, match=r"the weights in .* cannot be read"):
        encoded(open_source(photos), tmp_path)
    with pytest.raises(ValueError, match="`draw` must be one of mode, sample, got 'mean'"):
        encoded(open_source(photos), folder, draw="mean")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="`device` 'cuda' is not there"):
            encoded(open_source(photos), folder, device="cuda")


def test_nan_from_the_encoder_is_named(photos, stable, monkeypatch):
    folder, _ = stable
    source = encoded(open_source(photos), folder)
    monkeypatch.setattr(source.encoder, "_encode", lambda module, images: np.full((len(images), 2, 8, 8), np.nan))
    with pytest.raises(SourceError, match=r"the encoder in .* gave NaN or infinity in float32; encode in float32"):
        together(source)


def test_the_command_measures_latents(photos, stable, tmp_path):
    testing = pytest.importorskip("click.testing")
    from eigenstep.cli import cli

    folder, _ = stable
    output = tmp_path / "latents.json"
    done = testing.CliRunner().invoke(
        cli, ["spectrum", str(photos), "--size", "8", "--encode-with", str(folder), "-o", str(output), "-q"]
    )
    assert done.exit_code == 0, done.output
    kept = Spectrum.load(output)
    assert kept.item_shape == (2, 4, 4)
    expected = measure(encoded(open_source(photos, size=8), folder))
    np.testing.assert_allclose(kept.eigenvalues, expected.eigenvalues, rtol=1e-12)
    assert kept.provenance["value_range"].startswith("latents, (z - 0.0609) * 1.5305")
    done = testing.CliRunner().invoke(
        cli, ["spectrum", str(photos), "--size", "9", "--encode-with", str(folder), "-o", str(output)]
    )
    assert done.exit_code == 2
    assert "sides that are multiples of 2, got 9 x 9; open the source with size=8" in done.stderr
