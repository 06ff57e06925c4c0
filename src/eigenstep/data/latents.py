"""Latents: images of a source through the encoder of a latent diffusion model, in the units its denoiser works in."""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from eigenstep._checks import choice, integer
from eigenstep._torch import diffusers_module, in_batches, torch_device, torch_dtype, torch_module
from eigenstep.data.source import RANGES, Batch, Position, Source, SourceError

AUTOENCODERS = ("AutoencoderKL", "AutoencoderTiny")
"""Encoders of diffusers whose latents are known here: Stable Diffusion's, SDXL's, SD3's, Flux's, and the tiny ones of them."""

DRAWS = ("mode", "sample")
"""Which latent of an encoder's Gaussian stands for an image."""

_WEIGHTS = "diffusion_pytorch_model"


@dataclass
class Encoder:
    """From images (m, channels, h, w) in [-1, 1] to latents, scaled as a pipeline scales them.

    z -> (z - shift_factor) * scaling_factor, or (z - latents_mean) * scaling_factor / latents_std where the configuration
    has these; z is the mode (mean) of the encoder's Gaussian unless a sample is asked for.

    Parameters
    ----------
    folder : str
        Of a pipeline with a `vae`, or of the autoencoder itself, as save_pretrained wrote them.
    device, dtype : where and in what it runs; the CPU and float32 by default.
    batch_size : images per call at most; halved where CUDA runs out of memory. By default all that come.
    draw : "mode", or "sample", which adds the encoder's own noise, seeded by the images.
    variant : such as "fp16", of files named so.

    Raises
    ------
    SourceError : no autoencoder there, one of another kind, weights that are missing or not safetensors.
    ValueError : CUDA absent, an unknown type.
    ImportError : torch or diffusers is missing; the message has the pip command.
    """

    folder: str
    device: str = "cpu"
    dtype: str = "float32"
    batch_size: int | None = None
    draw: str = "mode"
    variant: str | None = None
    _module: Any = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check everything that can be checked without reading the weights."""
        diffusers_module()
        torch_device(self.device)
        torch_dtype(self.dtype)
        choice(self.draw, DRAWS, "draw")
        if self.batch_size is not None:
            integer(self.batch_size, "batch_size")
        folder = Path(self.folder).expanduser()
        if not folder.is_dir():
            raise SourceError(
                f"there is no folder {self.folder!r} of a pipeline or autoencoder; save one with its save_pretrained."
            )
        inner = folder / "vae" if (folder / "vae").is_dir() else folder
        self.folder = str(inner)
        if not (inner / "config.json").is_file():
            raise SourceError(f"{inner} holds no config.json of an autoencoder, and no folder `vae`; copy all of the pipeline.")
        kind = self.config.get("_class_name")
        if kind not in AUTOENCODERS:
            raise SourceError(f"{inner} holds {kind}; encoders whose latents are known are {', '.join(AUTOENCODERS)}.")
        if self.draw == "sample" and kind == "AutoencoderTiny":
            raise SourceError("`draw` must be 'mode' with AutoencoderTiny, whose latents are no distribution, got 'sample'.")
        if not self._weights().is_file():
            raise SourceError(
                f"{inner} holds no {self._weights().name}; copy all of it, name its `variant`, or save it as safetensors if it "
                "is in pickle format, which can run any code."
            )

    @property
    def config(self) -> dict[str, Any]:
        """The autoencoder's configuration."""
        loaded = json.loads((Path(self.folder) / "config.json").read_text(encoding="utf-8"))
        return loaded if isinstance(loaded, dict) else {}

    def _weights(self) -> Path:
        middle = "" if self.variant is None else f".{self.variant}"
        return Path(self.folder) / f"{_WEIGHTS}{middle}.safetensors"

    def __getstate__(self) -> dict[str, Any]:
        """Without the module: every process reads its own."""
        return {**self.__dict__, "_module": None}

    def stamp(self) -> str:
        """Words that change when the latents would: configuration, size and time of the weights, type and draw.

        The folder's name, the device and the batch stay out: they change no latents beyond rounding.
        """
        status = self._weights().stat()
        chosen = json.dumps(self.config, sort_keys=True)
        return f"{chosen}|{status.st_size}|{status.st_mtime_ns}|{self.dtype}|{self.draw}|{self.variant}"

    def factor(self) -> int:
        """How many pixels a side become one latent."""
        config = self.config
        blocks = config.get("encoder_block_out_channels") or config["block_out_channels"]
        return int(2 ** (len(blocks) - 1))

    def __call__(self, images: Batch) -> Batch:
        """The latents (m, channels, h', w') of images in [-1, 1], float64."""
        module = self._loaded()
        with torch_module().no_grad():
            outputs, self.batch_size = in_batches(
                lambda first, last: self._encode(module, images[first:last]),
                len(images),
                self.batch_size,
                device=torch_device(self.device),
                does_not_fit=(
                    f"one image of shape {images.shape[1:]} does not fit into the encoder on {self.device}; use smaller "
                    "images, dtype='float16', or another device."
                ),
            )
        latents: Batch = np.concatenate(outputs)
        if not np.isfinite(latents).all():
            raise SourceError(
                f"the encoder in {self.folder} gave NaN or infinity in {self.dtype}; encode in float32, and check that the "
                "images are in [-1, 1]."
            )
        return latents

    def _loaded(self) -> Any:
        if self._module is None:
            diffusers = diffusers_module()
            kind = torch_dtype(self.dtype)
            options: dict[str, Any] = {"use_safetensors": True, "local_files_only": True, "torch_dtype": kind}
            if self.variant is not None:
                options["variant"] = self.variant
            maker = getattr(diffusers, self.config["_class_name"])
            try:
                module = maker.from_pretrained(self.folder, **options)
            except (OSError, ValueError, RuntimeError) as error:
                why = " ".join(str(error).split())[:300]
                raise SourceError(f"the weights in {self.folder} cannot be read ({why}); copy them again.") from error
            self._module = module.to(device=torch_device(self.device)).eval()
        return self._module

    def _encode(self, module: Any, images: Batch) -> Batch:
        torch = torch_module()
        pixels = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))
        encoded = module.encode(pixels.to(device=module.device, dtype=module.dtype))
        if hasattr(encoded, "latent_dist"):
            encoded = encoded.latent_dist
            raw = encoded.mean.to("cpu", torch.float64).numpy()
            if self.draw == "sample":
                rng = np.random.default_rng(zlib.crc32(np.ascontiguousarray(images, dtype=np.float32).tobytes()))
                raw = raw + encoded.std.to("cpu", torch.float64).numpy() * rng.standard_normal(raw.shape)
        else:
            raw = encoded.latents.to("cpu", torch.float64).numpy()
        shift, scale = self.scaling()
        return np.asarray((raw - shift) * scale)

    def scaling(self) -> tuple[Any, Any]:
        """(shift, scale) of z -> (z - shift) * scale, numbers or (channels, 1, 1)."""
        config = self.config
        scale = float(config.get("scaling_factor") or 1.0)
        mean, std = config.get("latents_mean"), config.get("latents_std")
        if mean is not None and std is not None:
            shift, spread = (np.asarray(each, dtype=np.float64).reshape(-1, 1, 1) for each in (mean, std))
            return shift, scale / spread
        return float(config.get("shift_factor") or 0.0), scale

    def words(self) -> str:
        """The units of what comes out, in words."""
        shift, scale = self.scaling()
        if isinstance(shift, float):
            return f"latents, (z - {shift:g}) * {scale:g}, z the {self.draw} of {self.config['_class_name']}"
        factor = float(self.config.get("scaling_factor") or 1.0)
        return f"latents, (z - mean) * {factor:g} / std by channel, z the {self.draw} of {self.config['_class_name']}"


@dataclass(kw_only=True)
class EncodedSource(Source):
    """A source of latents: the batches of another source, each through an encoder. Made by `encoded`.

    Everything that reads a source reads it alike: shares, checkpoints, clusters, whose workers read the encoder's folder.
    """

    images: Source
    encoder: Encoder

    def stamp(self) -> str:
        """A digest of what is read, how, and through what."""
        return hashlib.sha256(f"{super().stamp()}|{self.encoder.stamp()}".encode()).hexdigest()

    def _checked(self, pieces: list[Batch]) -> Batch:
        return self.encoder(self.images._checked(pieces))


def encoded(
    source: Source,
    folder: str | os.PathLike[str],
    *,
    device: str = "cpu",
    dtype: str = "float32",
    batch_size: int | None = None,
    draw: str = "mode",
    variant: str | None = None,
) -> EncodedSource:
    """The latents of a source of images, in the scaling of the pipeline that will be sampled with.

    Parameters
    ----------
    source : from `open_source`, images in [-1, 1] with the channels of the encoder, sides a multiple of its factor.
    folder : of a diffusers pipeline with a `vae`, or of the autoencoder itself.
    device, dtype, batch_size, draw, variant : as for `Encoder`. A latent's mean leaves out the encoder's own noise, whose
        variance (1e-6 for Stable Diffusion's) is far below the data's.

    Raises
    ------
    SourceError : images of other units, channels or sides than the encoder takes; what `Encoder` refuses.

    Examples
    --------
    >>> import tempfile
    >>> from diffusers import AutoencoderKL
    >>> from eigenstep.data import measure, open_source
    >>> photos = open_source(np.random.default_rng(0).uniform(-1, 1, (40, 3, 8, 8)), value_range="-1,1", stored_range="-1,1")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     AutoencoderKL(block_out_channels=(4, 4), norm_num_groups=2, down_block_types=["DownEncoderBlock2D"] * 2,
    ...                   up_block_types=["UpDecoderBlock2D"] * 2, latent_channels=1).save_pretrained(folder)
    ...     spectrum = measure(encoded(photos, folder))
    >>> spectrum.item_shape, spectrum.provenance["value_range"]
    ((1, 4, 4), 'latents, (z - 0) * 0.18215, z the mode of AutoencoderKL, of [-1, 1] from float64 [-1, 1]')
    """
    encoder = Encoder(os.fspath(folder), device, dtype, batch_size, draw, variant)
    convert = source.convert
    if convert.target != RANGES["-1,1"] or convert.scale != 1.0:
        raise SourceError(
            f"{source.description}: an encoder takes images in [-1, 1], got values {source.value_range}; open the source with "
            "value_range='-1,1' and no `scale`."
        )
    channels, factor = int(encoder.config["in_channels"]), encoder.factor()
    shape = source.item_shape
    if len(shape) != 3 or shape[0] != channels:
        raise SourceError(
            f"{source.description}: the encoder takes images of shape ({channels}, height, width), got {shape}; "
            + ("open the source with gray=False." if shape[:1] == (1,) and channels == 3 else "arrange the axes so.")
        )
    if shape[1] % factor or shape[2] % factor:
        side = max(factor, min(shape[1:]) // factor * factor)
        raise SourceError(
            f"{source.description}: the encoder takes sides that are multiples of {factor}, got {shape[1]} x {shape[2]}; open "
            f"the source with size={side} or crop={side}."
        )
    latents = encoder(np.zeros((1, *shape)))
    given = {each.name: getattr(source, each.name) for each in fields(Source)}
    given |= {
        "item_shape": latents.shape[1:],
        "value_range": f"{encoder.words()}, of {source.value_range}",
        "description": f"{source.description}, encoded by {folder}",
        "skipped": [],
        "position": Position(),
    }
    return EncodedSource(**given, images=source, encoder=encoder)
