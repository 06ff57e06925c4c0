"""Train the small network that `eigenstep demo` samples with, and write it as a diffusers folder with its spectrum.

    EIGENSTEP_SHARED=../shared python experiments/train_bundled.py train --work bundled-run --bf16
    EIGENSTEP_SHARED=../shared python experiments/train_bundled.py export --work bundled-run
    EIGENSTEP_SHARED=../shared python experiments/train_bundled.py plan

A plain recipe, so that the folder is an ordinary host: an unconditional `UNet2DModel` on MNIST padded to 32 x 32 in [-1, 1],
DDPM's own linear betas (1000 timesteps, sigma from 0.01 to 157), v-prediction, Adam, an average of the weights. `train` keeps
a checkpoint in the work folder and goes on from it when called again with the same folder; the learning rate is constant until
the last fifth of `--images` and falls to zero over that fifth, so a run may be made longer until then. An image costs 9 ms of
one core of an AMD EPYC with bfloat16: a quarter of an hour for the 100,000 that made the bundled weights. `export` writes the
averaged weights in fp16, the scheduler, and the data's spectrum with its leading eigenvectors into the package. `plan` adds
the plans for the numbers of calls that the demo shows, each judged against the whole catalogue by the network itself.
"""

import argparse
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
from PIL import Image
from train import Training, padded

from eigenstep import Spectrum
from eigenstep.cli.demo import CALLS
from eigenstep.models import load_denoiser, plan, profile

SHARED = Path(os.environ.get("EIGENSTEP_SHARED", "../shared"))
PACKAGE = Path(__file__).resolve().parents[1] / "src" / "eigenstep" / "bundled" / "mnist"
EIGENVECTORS = 256
CHECK_STREAM, SHEET_STREAM = 2, 3
PLAN_SEED = 1000


def network():
    return UNet2DModel(
        sample_size=32,
        in_channels=1,
        out_channels=1,
        block_out_channels=(16, 32, 64, 96),
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 4,
        up_block_types=("UpBlock2D",) * 4,
        norm_num_groups=8,
        attention_head_dim=32,
    )


def scheduler():
    # clip_sample off: clamping the estimate is no part of the ODE, and a planned grid must mean the same with every sampler.
    return DDIMScheduler(prediction_type="v_prediction", clip_sample=False)


def signal_and_noise(timesteps):
    """alpha and s of integer timesteps, shaped to multiply images."""
    cumulative = scheduler().alphas_cumprod[timesteps].view(-1, 1, 1, 1)
    return cumulative.sqrt(), (1 - cumulative).sqrt()


def draw_timesteps(rng, count):
    """Four in five with ln sigma ~ N(0.3, 1.4^2), where the digits form; the rest uniform, so that no timestep is unseen."""
    cumulative = scheduler().alphas_cumprod.double().numpy()
    ln_sigmas = 0.5 * np.log((1 - cumulative) / cumulative)
    formed = np.searchsorted(ln_sigmas, 0.3 + 1.4 * rng.standard_normal(count)).clip(0, len(ln_sigmas) - 1)
    return torch.tensor(np.where(rng.random(count) < 0.8, formed, rng.integers(0, len(ln_sigmas), count)))


def v_loss(net, clean, noise, timesteps):
    """Mean squared error of v = alpha eps - s x_0 (Salimans & Ho, arXiv:2202.00512)."""
    alpha, s = signal_and_noise(timesteps)
    predicted = net((alpha * clean + s * noise).contiguous(memory_format=torch.channels_last), timesteps).sample
    return (predicted - (alpha * noise - s * clean)).square().mean()


@torch.no_grad()
def check(net, held_out):
    """The same loss on 256 held-out images with fixed noise, the timesteps spread evenly."""
    rng = np.random.default_rng(CHECK_STREAM)
    noise = torch.tensor(rng.standard_normal(held_out.shape, dtype=np.float32))
    return float(v_loss(net, held_out, noise, torch.linspace(0, 999, len(held_out)).round().long()))


def sheet(net, file, steps=40, rows=5, columns=12):
    """A sheet of samples by DDIM from fixed noise, magnified three times."""
    generator = torch.Generator().manual_seed(SHEET_STREAM)
    sampler = DDIMScheduler.from_config(scheduler().config, timestep_spacing="trailing")
    drawn = DDIMPipeline(net, sampler)
    drawn.set_progress_bar_config(disable=True)
    pixels = drawn(batch_size=rows * columns, generator=generator, num_inference_steps=steps, output_type="np").images
    tiled = pixels[..., 0].reshape(rows, columns, 32, 32).swapaxes(1, 2).reshape(rows * 32, columns * 32)
    picture = Image.fromarray((tiled * 255).round().astype(np.uint8))
    picture.resize((picture.width * 3, picture.height * 3), Image.Resampling.NEAREST).save(file)


def train(arguments):
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    work = Path(arguments.work)
    work.mkdir(parents=True, exist_ok=True)
    data = torch.tensor(padded(arguments.data, "train"))
    held_out = torch.tensor(padded(arguments.data, "test")[:256])
    net, average = network().to(memory_format=torch.channels_last), network()

    def loss(rng, count):
        clean = data[torch.tensor(rng.integers(0, len(data), count))]
        noise = torch.tensor(rng.standard_normal(clean.shape, dtype=np.float32))
        return v_loss(net, clean, noise, draw_timesteps(rng, count))

    run = Training(
        net, average, work / "checkpoint.pt", batch=arguments.batch, lr=arguments.lr, decay=arguments.decay,
        seed=arguments.seed, bf16=arguments.bf16, every=arguments.every, warmup=20_000,
    )  # fmt: skip

    def report():
        if arguments.sheets:
            sheet(average, work / f"sheet-{run.seen:08d}.png")
        return {"held_out": round(check(average, held_out), 4)}

    run.run(arguments.images, loss, report)


def export(arguments):
    """The averaged weights in fp16 as a DDIM pipeline, and the spectrum of the training images."""
    state = torch.load(Path(arguments.work) / "checkpoint.pt", weights_only=True)
    net = network()
    net.load_state_dict(state["average"])
    shutil.rmtree(arguments.to / "unet", ignore_errors=True)
    DDIMPipeline(net.half(), scheduler()).save_pretrained(arguments.to, safe_serialization=True)
    provenance = {
        "origin": "MNIST (LeCun, Cortes, Burges), all 60,000 training images, 28 x 28 padded with black to 32 x 32",
        "value_range": "[-1, 1], x = pixel/127.5 - 1",
        "command": "python experiments/train_bundled.py export",
        "caveats": f"{EIGENVECTORS} leading eigenvectors kept; pixels near the border are constant: their eigenvalues are zero",
    }
    spectrum = Spectrum.from_samples(padded(arguments.data, "train"), precision="float64", basis=EIGENVECTORS)
    spectrum = replace(spectrum, basis=spectrum.basis.astype(np.float32), provenance=provenance)
    spectrum.save(arguments.to / "spectrum.npz")
    print(f"{spectrum}; {sum(w.numel() for w in net.parameters())} weights, {state['seen']} images in {state['seconds']:.0f} s")
    for file in sorted(arguments.to.rglob("*")):
        if file.is_file():
            print(f"{file.stat().st_size:9d}  {file.relative_to(arguments.to)}")


def plans(arguments):
    """A plan for each number of calls that the demo shows, judged on noise that it does not use, to plan-N.json."""
    torch.set_num_threads(arguments.threads)
    spectrum = Spectrum.load(arguments.to / "spectrum.npz")
    held_out = padded(arguments.data, "test")[: arguments.items]
    measured = profile(load_denoiser(arguments.to), spectrum, data=held_out, judges=arguments.judges, seed=PLAN_SEED)
    ratios = zip(measured.curve.sigmas[::3], measured.curve.ratio[::3], strict=True)
    print("error over the Gaussian bound:", ", ".join(f"{ratio:.2f} at {sigma:.3g}" for sigma, ratio in ratios), flush=True)
    for calls in CALLS:
        made = plan(measured, None, calls, solver="ddim")
        (arguments.to / f"plan-{calls}.json").write_text(made.to_json() + "\n", encoding="utf-8")
        print(f"{calls} calls: {made.reason} {made.sigmas.round(3).tolist()}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "mnist.npz", help="npz with uint8 `train` and `test`")
    parser.add_argument("--work", default="bundled-run", help="folder of the checkpoint and the sample sheets")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("train")
    command.set_defaults(run=train)
    command.add_argument("--images", type=int, default=100_000, help="images to see in all")
    command.add_argument("--batch", type=int, default=32)
    command.add_argument("--lr", type=float, default=1.5e-3)
    command.add_argument("--decay", type=float, default=0.999, help="of the average of the weights, per step")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--threads", type=int, default=1, help="of torch; two are hardly faster, slower where shared")
    command.add_argument("--every", type=float, default=180.0, help="seconds between checkpoints")
    command.add_argument("--bf16", action="store_true", help="bfloat16 autocast, where the processor has it")
    command.add_argument("--sheets", action="store_true", help="draw a sheet of samples at every checkpoint")
    command = commands.add_parser("export")
    command.set_defaults(run=export)
    command.add_argument("--to", type=Path, default=PACKAGE, help="folder to write")
    command = commands.add_parser("plan")
    command.set_defaults(run=plans)
    command.add_argument("--to", type=Path, default=PACKAGE, help="folder that `export` wrote")
    command.add_argument("--items", type=int, default=400, help="held-out images for the gauge")
    command.add_argument("--judges", type=int, default=96, help="noises that the plans are judged by")
    command.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
