"""What a plan for a pretrained model costs beyond the network's own forward passes, and what a warm start costs.

    python benchmarks/model_planning.py [--side 32] [--steps 4 10]

The gauge takes 400 items at 25 levels, the judge 48 noises; the network is timed from inside and its time taken off. The warm
start (200 eigenvectors, float32, a batch of 64) is compared with one call of a U-Net. Needs the extra
`diffusers`.
"""

from __future__ import annotations

import argparse
import platform
import time

import numpy as np
import torch
from diffusers import UNet2DModel

from eigenstep import Spectrum, __version__
from eigenstep.models import ModelDenoiser, WarmStart, plan, profile
from eigenstep.paths import EDM

SOLVERS = ("ddim", "heun", "dpmpp_2m", "unipc3", "ipndm4")


class Timed:
    """The Wiener filter with half its gain, as a network whose own time is known."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self, x: np.ndarray, sigma: float) -> np.ndarray:
        start = time.process_time()
        out = x * (0.3 / (0.3 + sigma**2))
        self.seconds += time.process_time() - start
        return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=32, help="items are (3, side, side)")
    parser.add_argument("--steps", type=int, nargs="+", default=(4, 10))
    given = parser.parse_args()
    shape = (3, given.side, given.side)
    dim = 3 * given.side**2
    rng = np.random.default_rng(0)
    items = (rng.standard_normal((4000, dim)) * np.geomspace(5.0, 0.02, dim)).astype(np.float32)
    spectrum = Spectrum.from_samples(items, basis=200)

    network = Timed()
    model = ModelDenoiser(network, EDM(), "x0", item_shape=shape)
    start = time.process_time()
    measured = profile(model, spectrum, data=items[:400].reshape(-1, *shape))
    spent = time.process_time() - start
    print(f"gauge and converged endpoints: {spent - network.seconds:.2f} s beyond {measured.calls} forward passes")
    for solver in SOLVERS:
        for n in given.steps:
            network.seconds, start = 0.0, time.process_time()
            made = plan(measured, None, n, solver=solver)
            own = time.process_time() - start - network.seconds
            print(f"{solver:9s} {n:3d} steps: {own:.2f} s beyond {made.calls} forward passes")

    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=given.side, in_channels=3, out_channels=3, block_out_channels=(32, 64, 64), layers_per_block=1,
        norm_num_groups=8, down_block_types=("DownBlock2D",) * 3, up_block_types=("UpBlock2D",) * 3,
    ).eval()  # fmt: skip
    batch = torch.randn(64, *shape)
    warm = WarmStart(spectrum, 3.0, 80.0)
    seconds = {}
    with torch.no_grad():
        for name, work in (("one call of the U-Net", lambda: unet(batch, 500)), ("warm start", lambda: warm(batch))):
            work()
            times = []
            for _ in range(5):
                start = time.process_time()
                work()
                times.append(time.process_time() - start)
            seconds[name] = min(times)
            print(f"{name}: {1e3 * seconds[name]:.1f} ms for 64 items, best of 5")
    share = 100 * seconds["warm start"] / seconds["one call of the U-Net"]
    size = sum(parameter.numel() for parameter in unet.parameters()) / 1e6
    print(f"the warm start is {share:.2f} % of a call of {size:.1f} million parameters   (target: at most 2 %)")
    print(f"processor time; eigenstep {__version__}, torch {torch.__version__}, {platform.machine()}")


if __name__ == "__main__":
    main()

# 2 cores of an AMD EPYC (Zen 4) with other work on them (load 5), 2026-11-22:
#
# gauge and converged endpoints: 0.18 s beyond 13120 forward passes
# ddim        4 steps: 0.56 s beyond 3232 forward passes
# ddim       10 steps: 0.79 s beyond 8400 forward passes
# heun        4 steps: 0.77 s beyond 5656 forward passes
# heun       10 steps: 1.04 s beyond 15808 forward passes
# dpmpp_2m    4 steps: 0.44 s beyond 2976 forward passes
# dpmpp_2m   10 steps: 0.97 s beyond 7520 forward passes
# unipc3      4 steps: 1.18 s beyond 2944 forward passes
# unipc3     10 steps: 2.70 s beyond 7520 forward passes
# ipndm4      4 steps: 0.72 s beyond 3008 forward passes
# ipndm4     10 steps: 1.27 s beyond 7520 forward passes
# one call of the U-Net: 504.3 ms for 64 items, best of 5
# warm start: 2.9 ms for 64 items, best of 5
# the warm start is 0.57 % of a call of 1.1 million parameters   (target: at most 2 %)
