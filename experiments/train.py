"""Train small networks of every kind that people sample with, each saved as an ordinary diffusers folder.

    EIGENSTEP_SHARED=../shared python experiments/train.py edm_fashion ecg_eps --folder networks/     # or no name: all

Evidence only, never part of the package: the networks are rebuilt by this command and evaluated by `pretrained.py`. A recipe
names its data, its network and the scheduler that states its path and prediction, so that `load_denoiser` reads the folder as
it reads anybody's. `--images` scales the training; the same call goes on from the last checkpoint. On an accelerator pass
`--device cuda`.
"""

import argparse
import functools
import io
import json
import os
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet1DModel,
    UNet2DModel,
)
from PIL import Image

SHARED = Path(os.environ.get("EIGENSTEP_SHARED", "../shared"))
COOLDOWN = 0.2
TRAIN_STREAM, CHECK_STREAM = 1, 2
UNCONDITIONAL = 0.1
"""Share of the items that a conditional network sees without their label: its last class."""


# Data: all float32, centred near 0


def padded(file, split):
    """28 x 28 pictures padded by two black pixels on every side: (n, 1, 32, 32) in [-1, 1]."""
    pixels = np.load(file)[split].astype(np.float32)[:, None] / 127.5 - 1
    return np.pad(pixels, ((0, 0), (0, 0), (2, 2), (2, 2)), constant_values=-1.0)


def mnist(split):
    return padded(SHARED / "data" / "mnist.npz", split)


def fashion(split):
    return padded(SHARED / "data" / "fashion_mnist.npz", split)


def fashion_labels(split):
    return np.load(SHARED / "data" / "fashion_mnist.npz")[f"{split}_labels"].astype(np.int64)


@functools.cache
def cifar(split):
    """(n, 3, 32, 32) in [-1, 1]: the last of the five archives is the test split. The pictures went through JPEG."""
    numbers = range(4) if split == "train" else (4,)
    found = []
    for number in numbers:
        with tarfile.open(SHARED / "data" / "cifar10" / f"train-{number:03d}.tar") as archive:
            names = [member for member in archive if member.name.endswith(".jpg")]
            found += [np.asarray(Image.open(io.BytesIO(archive.extractfile(name).read())).convert("RGB")) for name in names]
    return np.moveaxis(np.stack(found), -1, 1).astype(np.float32) / 127.5 - 1


def ecg(split):
    """(n, 1, 512) in units of 0.5 mV, clipped at 4 mV: a few windows hold artefacts of ten."""
    return np.clip(np.load(SHARED / "data" / "ecg512.npz")[split].astype(np.float32)[:, None] / 500.0, -8.0, 8.0)


def speech(split, bands=32, frames=32):
    """Spoken digits as (n, 1, 32, 32) spectrograms: band energies of 256-sample windows, 80 dB scaled to [-1, 1]."""
    waves = np.load(SHARED / "data" / "speech_digits_wave4096.npz")[split].astype(np.float32) / 32768.0
    hop, width = waves.shape[1] // frames, 2 * waves.shape[1] // frames
    ahead = np.pad(waves, ((0, 0), (0, width - hop)))
    windows = np.lib.stride_tricks.sliding_window_view(ahead, width, axis=1)[:, ::hop][:, :frames] * np.hanning(width)
    power = np.abs(np.fft.rfft(windows, axis=2)[:, :, 1:]) ** 2
    energy = power.reshape(len(waves), frames, bands, -1).mean(3).swapaxes(1, 2)
    decibels = 10 * np.log10(np.maximum(energy, 1e-12))
    return np.clip((decibels - decibels.max()) / 40.0 + 1.0, -1.0, 1.0)[:, None].astype(np.float32)


# Networks


def unet(channels, widths, size=32, classes=None):
    return UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=widths,
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * len(widths),
        up_block_types=("UpBlock2D",) * len(widths),
        norm_num_groups=8,
        attention_head_dim=32,
        num_class_embeds=classes,
    )


def unet_1d(length, widths=(16, 32, 64, 64)):
    return UNet1DModel(
        sample_size=length,
        in_channels=1,
        out_channels=1,
        extra_in_channels=0,
        time_embedding_type="positional",
        use_timestep_embedding=True,
        down_block_types=("DownResnetBlock1D",) * len(widths),
        up_block_types=("UpResnetBlock1D",) * (len(widths) - 1),
        mid_block_type="MidResTemporalBlock1D",
        out_block_type="OutConv1DBlock",
        block_out_channels=widths,
        norm_num_groups=8,
        act_fn="mish",
    )


# What a network is trained to predict


def _shaped(values, like):
    return torch.as_tensor(values, dtype=like.dtype, device=like.device).view(-1, *[1] * (like.ndim - 1))


def table_task(net, clean, noise, sigmas, scheduler, **given):
    """A table of alphas (DDPM): eps, or v = alpha eps - s x_0 (Salimans & Ho, arXiv:2202.00512), at the nearest timestep."""
    cumulative = scheduler.alphas_cumprod.double().numpy()
    levels = np.log((1 - cumulative) / cumulative) / 2
    timesteps = np.searchsorted(levels, np.log(sigmas)).clip(0, len(levels) - 1)
    alpha, s = (_shaped(np.sqrt(part[timesteps]), clean) for part in (cumulative, 1 - cumulative))
    predicted = net(alpha * clean + s * noise, torch.as_tensor(timesteps, device=clean.device), **given).sample
    return predicted, noise if scheduler.config.prediction_type == "epsilon" else alpha * noise - s * clean


def flow_task(net, clean, noise, sigmas, scheduler, **given):
    """The velocity eps - x_0 of the straight path, t = sigma/(1 + sigma) (Liu et al., arXiv:2209.03003)."""
    times = sigmas / (1 + sigmas)
    t = _shaped(times, clean)
    label = torch.as_tensor(1000 * times, dtype=clean.dtype, device=clean.device)
    return net((1 - t) * clean + t * noise, label, **given).sample, noise - clean


def edm_task(net, clean, noise, sigmas, scheduler, **given):
    """F of EDM's preconditioning, so that the loss has unit weight at every level (arXiv:2206.00364, eq. (8))."""
    known = scheduler.config.sigma_data
    sigma = _shaped(sigmas, clean)
    c_in = 1 / (sigma**2 + known**2).sqrt()
    noisy, label = clean + sigma * noise, torch.as_tensor(0.25 * np.log(sigmas), dtype=clean.dtype, device=clean.device)
    wanted = (clean - (known * c_in) ** 2 * noisy) / (sigma * known * c_in)
    return net(c_in * noisy, label, **given).sample, wanted


TASKS = {"DDPMScheduler": table_task, "DDIMScheduler": table_task, "EDMEulerScheduler": edm_task,
         "FlowMatchEulerDiscreteScheduler": flow_task}  # fmt: skip


@dataclass(frozen=True)
class Recipe:
    """One network: its data by split, its architecture, the scheduler that states its convention, and how it is trained.

    Four levels in five have ln sigma ~ N(centre, spread^2), where the content forms; the rest lie evenly in `ends`, so that
    no level is unseen.
    """

    data: Callable[[str], np.ndarray]
    network: Callable[[], torch.nn.Module]
    scheduler: Callable[[], object]
    centre: float
    spread: float
    ends: tuple[float, float]
    images: int
    labels: Callable[[str], np.ndarray] | None = None
    classes: int = 0
    autoencoder: Callable[[], AutoencoderKL] | None = None

    def draw(self, rng, count):
        """Levels sigma for `count` items."""
        formed = self.centre + self.spread * rng.standard_normal(count)
        low, high = np.log(self.ends)
        mixed = np.where(rng.random(count) < 0.8, formed, low + (high - low) * rng.random(count))
        return np.exp(np.clip(mixed, low, high))


def table(prediction):
    # clip_sample off: clamping the estimate is no part of the ODE.
    return lambda: DDIMScheduler(prediction_type=prediction, clip_sample=False)


TABLE_ENDS = (0.0101, 157.0)
FLOW_ENDS = (0.001, 999.0)

RECIPES = {
    "edm_fashion": Recipe(
        fashion, lambda: unet(1, (16, 32, 64)), lambda: EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, sigma_data=0.7),
        -0.4, 1.4, (0.002, 80.0), 25_000,
    ),
    "eps_cifar": Recipe(
        cifar, lambda: unet(3, (16, 32, 64)), lambda: DDPMScheduler(clip_sample=False), -0.4, 1.4, TABLE_ENDS, 25_000
    ),
    "v_fashion_classes": Recipe(
        fashion, lambda: unet(1, (16, 32, 64), classes=11), table("v_prediction"), -0.2, 1.4, TABLE_ENDS, 25_000,
        labels=fashion_labels, classes=10,
    ),
    "flow_latent": Recipe(
        fashion, lambda: unet(4, (48, 96), size=8), FlowMatchEulerDiscreteScheduler, 0.0, 1.4, FLOW_ENDS, 120_000,
        autoencoder=lambda: AutoencoderKL(
            in_channels=1, out_channels=1, down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3, block_out_channels=(16, 32, 32), layers_per_block=1,
            latent_channels=4, norm_num_groups=8, sample_size=32, mid_block_add_attention=False,
        ),
    ),
    "ecg_eps": Recipe(ecg, lambda: unet_1d(512, (16, 32, 32, 32)), table("epsilon"), -0.6, 1.4, TABLE_ENDS, 25_000),
    "speech_flow": Recipe(
        speech, lambda: unet(1, (16, 32, 64)), FlowMatchEulerDiscreteScheduler, -0.4, 1.4, FLOW_ENDS, 20_000
    ),
}  # fmt: skip
"""Every network of `python experiments/train.py`: three images, one in latents, one ECG, one speech; one with classes."""


def learning_rate(seen, total, peak, warmup):
    """Linear rise over `warmup` images, constant, linear fall over the last fifth."""
    return peak * min(seen / warmup, 1.0, (total - seen) / (COOLDOWN * total))


class Training:
    """Adam on mini-batches with an average of the weights, resumable: `task(rng, indices)` gives predicted and wanted."""

    def __init__(
        self, net, average, file, *, batch=32, lr=1.5e-3, decay=0.999, seed=0, bf16=False, every=120.0, warmup=10_000
    ):
        self.net, self.average, self.file = net, average.eval().requires_grad_(False), file
        self.batch, self.lr, self.decay, self.seed, self.bf16, self.every = batch, lr, decay, seed, bf16, every
        self.warmup = warmup
        average.load_state_dict(net.state_dict())
        self.adam = torch.optim.Adam(net.parameters(), betas=(0.9, 0.99))
        self.seen, self.seconds = 0, 0.0
        if file.exists():
            state = torch.load(file, weights_only=True)
            net.load_state_dict(state["net"])
            average.load_state_dict(state["average"])
            self.adam.load_state_dict(state["optimizer"])
            self.seen, self.seconds = state["seen"], state["seconds"]
            print(f"goes on at {self.seen} images", flush=True)

    def run(self, total, loss, report=None):
        """Until `total` images are seen; `loss(rng, count)`; `report()` gives figures to print at each checkpoint."""
        began = last = time.monotonic()
        spent, device = self.seconds, next(self.net.parameters()).device.type
        weights, averaged = list(self.net.parameters()), list(self.average.parameters())
        losses = []
        while self.seen < total:
            step = self.seen // self.batch
            # The step's own stream: a resumed run draws the same.
            rng = np.random.default_rng([self.seed, TRAIN_STREAM, step])
            for group in self.adam.param_groups:
                group["lr"] = learning_rate(self.seen + self.batch / 2, total, self.lr, self.warmup)
            with torch.autocast(device, dtype=torch.bfloat16, enabled=self.bf16):
                value = loss(rng, self.batch)
            self.adam.zero_grad(set_to_none=True)
            value.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            self.adam.step()
            self.seen += self.batch
            new = 1 - min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(averaged, [weight.detach() for weight in weights], new)
            losses.append(value.item())
            now = time.monotonic()
            if now - last > self.every or self.seen >= total:
                self.seconds = spent + now - began
                self.save()
                line = {"images": self.seen, "seconds": round(self.seconds), "loss": round(float(np.mean(losses)), 4)}
                print(json.dumps(line | (report() if report else {})), flush=True)
                losses, last = [], time.monotonic()

    def save(self):
        """The checkpoint, put in place whole."""
        state = {"net": self.net.state_dict(), "average": self.average.state_dict(), "optimizer": self.adam.state_dict()}
        partial = self.file.with_suffix(".tmp")
        torch.save(state | {"seen": self.seen, "seconds": self.seconds}, partial)
        partial.replace(self.file)


def train_autoencoder(recipe, folder, *, bf16, device, images=60_000):
    """The VAE of a latent model, by squared error with a slight pull to N(0, 1); its latents are scaled to unit variance."""
    saved = folder / "vae"
    if (saved / "config.json").exists():
        return AutoencoderKL.from_pretrained(saved).to(device)
    torch.manual_seed(0)
    vae, average = recipe.autoencoder().to(device), recipe.autoencoder().to(device)
    data = torch.tensor(recipe.data("train"))

    def loss(rng, count):
        x = data[torch.tensor(rng.integers(0, len(data), count))].to(device)
        posterior = vae.encode(x).latent_dist
        noise = torch.tensor(rng.standard_normal(posterior.mean.shape, dtype=np.float32), device=device)
        decoded = vae.decode(posterior.mean + posterior.std * noise).sample
        return (decoded - x).square().mean() + 1e-5 * posterior.kl().mean()

    Training(vae, average, folder / "vae.pt", bf16=bf16).run(images, loss)
    average.register_to_config(scaling_factor=1 / float(encoded(average, recipe.data("test")[:1000], scale=1.0).std()))
    average.save_pretrained(saved)
    return average


@torch.no_grad()
def encoded(vae, items, *, scale=None, batch=250):
    """Latent means of items in the pipeline's scaling."""
    scale = vae.config.scaling_factor if scale is None else scale
    parts = torch.tensor(items).split(batch)
    found = [vae.encode(part.to(vae.device)).latent_dist.mean.cpu() for part in parts]
    return (torch.cat(found) * scale).numpy()


def items(name, split, folder):
    """A recipe's items in the space its network works in."""
    recipe = RECIPES[name]
    found = recipe.data(split)
    if recipe.autoencoder is None:
        return found
    return encoded(AutoencoderKL.from_pretrained(Path(folder) / name / "vae"), found)


def train(name, folder, *, images=None, bf16=False, device="cpu"):
    """Train one recipe and save it as folder/name, a diffusers pipeline."""
    recipe, folder = RECIPES[name], Path(folder) / name
    folder.mkdir(parents=True, exist_ok=True)
    data, held_out = recipe.data("train"), recipe.data("test")[:256]
    if recipe.autoencoder is not None:
        vae = train_autoencoder(recipe, folder, bf16=bf16, device=device)
        data, held_out = encoded(vae, data), encoded(vae, held_out)
    labels = None if recipe.labels is None else recipe.labels("train")
    torch.manual_seed(0)
    net, average = recipe.network().to(device), recipe.network().to(device)
    scheduler = recipe.scheduler()
    task = TASKS[type(scheduler).__name__]
    weights = sum(w.numel() for w in net.parameters())
    print(f"{name}: {weights} weights, items {data.shape}, deviation {data.std():.3f}", flush=True)

    def loss(rng, count, net=net, source=data, known=labels, which=None):
        which = rng.integers(0, len(source), count) if which is None else which
        clean = torch.tensor(source[which], device=device)
        noise = torch.tensor(rng.standard_normal(clean.shape, dtype=np.float32), device=device)
        given = {}
        if known is not None:
            dropped = np.where(rng.random(count) < UNCONDITIONAL, recipe.classes, known[which])
            given["class_labels"] = torch.tensor(dropped, device=device)
        predicted, wanted = task(net, clean, noise, recipe.draw(rng, count), scheduler, **given)
        return (predicted - wanted).square().mean()

    @torch.no_grad()
    def held():
        known = None if labels is None else recipe.labels("test")
        rng = np.random.default_rng(CHECK_STREAM)
        value = loss(rng, len(held_out), net=average, source=held_out, known=known, which=np.arange(len(held_out)))
        return {"held_out": round(float(value), 4)}

    run = Training(net, average, folder / "checkpoint.pt", bf16=bf16)
    run.run(images or recipe.images, loss, held)
    DDPMPipeline(average, scheduler).save_pretrained(folder, safe_serialization=True)
    record = {"images": run.seen, "seconds": round(run.seconds), "weights": weights}
    (folder / "training.json").write_text(json.dumps(record | held()) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list(RECIPES), help=", ".join(RECIPES))
    parser.add_argument("--folder", type=Path, default=Path("networks"))
    parser.add_argument("--images", type=int, help="images to see; default: the recipe's, for a core or two")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast, where the processor has it")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    for name in given.names:
        train(name, given.folder, images=given.images, bf16=given.bf16, device=given.device)


if __name__ == "__main__":
    main()
