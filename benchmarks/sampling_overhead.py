"""What sampling costs beside the network: microseconds of one core per item and call, next to diffusers' schedulers.

    OMP_NUM_THREADS=1 python benchmarks/sampling_overhead.py [--repeats 9]

The network is one multiplication, whose own time is subtracted; items are 3 x 32 x 32 in float32 on the CPU, 10 steps onto 0.
`generate` does everything it does: the checks for NaN, the levels, the noise of the start (given here, drawn once) and, for
the stochastic solver, that of each step. diffusers' column is its scheduler's `step` alone, on its own levels, in the loop of
a pipeline. A plan costs nothing per image: it is made once, and `generate` reads its levels. The last line is a network of
three convolutions of 64 channels, for scale. Public API only; seconds of `time.process_time`, the least of the repeats.
"""

import argparse
import platform
import time
from functools import partial

import diffusers
import numpy as np
import torch

from eigenstep import SOLVERS, __version__
from eigenstep.models import generate, item_noise

STEPS, SHAPE = 10, (3, 32, 32)
SIGMAS = np.append(np.geomspace(80.0, 0.002, STEPS), 0.0)
HOSTS = {
    "ddim": lambda: diffusers.DDIMScheduler(),
    "dpmpp_2m": lambda: diffusers.DPMSolverMultistepScheduler(),
    "unipc3": lambda: diffusers.UniPCMultistepScheduler(solver_order=3),
    "heun": lambda: diffusers.HeunDiscreteScheduler(),
    "deis3": lambda: diffusers.DEISMultistepScheduler(solver_order=3),
    "dpmpp_2m_sde": lambda: diffusers.DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++"),
}


def least(work, repeats):
    """Least seconds of one core over the repeats."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


def halve(x, sigma):
    return 0.5 * x


def network_alone(x):
    for _ in range(100):
        halve(x, 1.0)


@torch.no_grad()
def pipeline_loop(scheduler, x):
    scheduler.set_timesteps(STEPS)
    for t in scheduler.timesteps:
        x = scheduler.step(0.5 * x, t, x, return_dict=False)[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    print(f"eigenstep {__version__}, torch {torch.__version__}, diffusers {diffusers.__version__}, {platform.machine()}")
    print(f"{'batch':>5s} {'solver':13s} {'ours, us':>9s} {'diffusers, us':>14s}")
    for batch in (1, 64):
        noise = item_noise(range(batch), SHAPE)
        x = torch.from_numpy(noise).to(torch.float32)
        network = least(partial(network_alone, x), repeats) / 100
        for name, host in HOSTS.items():
            options = {"item_shape": SHAPE, "solver": name, "batch_size": batch, "noise": noise}
            calls = SOLVERS[name].nfe(STEPS)
            ours = least(partial(generate, halve, SIGMAS, batch, **options), repeats)
            theirs = least(partial(pipeline_loop, host(), x), repeats)
            per = [1e6 * (total - calls * network) / calls / batch for total in (ours, theirs)]
            print(f"{batch:5d} {name:13s} {per[0]:9.1f} {per[1]:14.1f}")
    draw = least(lambda: item_noise(range(64), SHAPE), repeats) / 64
    layers = [torch.nn.Conv2d(3, 64, 3, padding=1), torch.nn.Conv2d(64, 64, 3, padding=1), torch.nn.Conv2d(64, 3, 3, padding=1)]
    with torch.no_grad():
        scale = least(lambda: torch.nn.Sequential(*layers)(x), repeats) / 64
    print(f"noise of one item: {1e6 * draw:.0f} us; three convolutions: {1e6 * scale:.0f} us per item")


if __name__ == "__main__":
    main()


# Result, 22 November 2026, one core of an AMD EPYC (x86_64) on a busy machine, torch 2.13.0+cpu, diffusers 0.42.1,
# --repeats 25:
#
#     batch solver         ours, us  diffusers, us
#         1 ddim               29.9           69.7
#         1 dpmpp_2m           37.3          137.6
#         1 unipc3             87.9          531.2
#         1 heun               30.7           29.7
#         1 deis3              51.7          564.8
#         1 dpmpp_2m_sde      128.4          200.7
#        64 ddim                3.8            4.9
#        64 dpmpp_2m            5.6           12.7
#        64 unipc3             15.5           32.1
#        64 heun                4.7            5.4
#        64 deis3               8.3           17.8
#        64 dpmpp_2m_sde       60.1           24.4
#     noise of one item: 43 us; three convolutions: 1544 us per item
#
# The stochastic solver pays for noise that does not depend on the batch: a generator for every item and step, in float64.
