"""Your own images to a grid: measure them once, plan, compare with the hand-made grids, write it for a host.

    python examples/own_images.py my-images/ --size 64 --steps 6

Needs `pip install "eigenstep[images]"`.
"""

import argparse

from eigenstep import catalogue_grids, optimal_grid, rank
from eigenstep.adapters.text import FORMATS
from eigenstep.data import measure, open_source
from eigenstep.estimation import Population, plan_certainty

SIGMA_MIN, SIGMA_MAX = 0.002, 80.0  # of EDM models; take your model's own


def main():
    parser = argparse.ArgumentParser(description="Plan a grid for a folder of images.")
    parser.add_argument("images")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()

    spectrum = measure(open_source(options.images, size=options.size))
    spectrum.save("spectrum.json")
    print(spectrum)

    plan = optimal_grid(spectrum, options.steps, SIGMA_MIN, SIGMA_MAX)
    print("levels:", *(f"{sigma:.4g}" for sigma in plan.sigmas))
    print(f"error: {plan.value / spectrum.trace:.2%} of the variance of the images")

    hands = catalogue_grids(options.steps, SIGMA_MIN, SIGMA_MAX, spectrum=spectrum)
    for row in rank(spectrum, {"planned": plan.sigmas, **hands})[:4]:
        print(f"{row.name:24s} {row.ratio:.2f} times the least error")

    print(plan_certainty(Population.from_spectrum(spectrum), options.steps, SIGMA_MIN, SIGMA_MAX).verdict)
    print(FORMATS["comfyui"].write(plan.sigmas, None))


if __name__ == "__main__":
    main()
