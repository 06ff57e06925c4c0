"""A pretrained diffusers pipeline to better samples: the same noise and number of calls, before and after.

    python examples/better_samples.py my-pipeline/ my-images/ --steps 6

Needs `pip install "eigenstep[diffusers,images,plots]"`. The images should be of the kind that the model was trained on.
"""

import argparse

import numpy as np
from matplotlib.figure import Figure

from eigenstep import SOLVERS, exponential_law, grid, timestep_grid
from eigenstep.data import open_source
from eigenstep.evaluation import rmse
from eigenstep.models import generate, load_denoiser, plan
from eigenstep.plots import sample_sheet


def main():
    parser = argparse.ArgumentParser(description="Sample a pipeline's network on its own levels and on planned ones.")
    parser.add_argument("pipeline")
    parser.add_argument("images")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--items", type=int, default=8)
    parser.add_argument("--output", default="before-after.png")
    options = parser.parse_args()

    denoiser = load_denoiser(options.pipeline)
    channels, size, _ = denoiser.item_shape
    images = next(iter(open_source(options.images, size=size, gray=channels == 1, batch_size=1000)))

    planned = plan(denoiser, images, options.steps, solver="ddim")
    print(planned.reason)

    grids = {
        "before": timestep_grid(options.steps, path=denoiser.path, spacing="leading"),  # the default of most pipelines
        "after": planned,
        "converged": grid(exponential_law(denoiser.sigma_min, denoiser.sigma_max), 40, final=0.0),
    }
    made = {name: np.asarray(generate(denoiser, levels, options.items, solver="ddim")) for name, levels in grids.items()}
    for name in ("before", "after"):
        print(f"{name:7s} {SOLVERS['ddim'].nfe(options.steps)} calls, RMSE {rmse(made[name], made['converged']):.4f}")

    figure = Figure(figsize=(options.items, 3.6), layout="constrained")
    sample_sheet(made, ours="after", ax=figure.add_subplot())
    figure.savefig(options.output)


if __name__ == "__main__":
    main()
