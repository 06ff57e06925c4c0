"""A folder of sound to a grid: wav, flac or ogg, of which the middle `--length` samples of each file are taken.

    python examples/audio.py my-sounds/ --length 16384 --steps 8

Needs `pip install "eigenstep[audio]"` for flac, ogg and wav in floats, and nothing for integer wav. Clips that were cut out
anywhere have no preferred place, so that the `stationary` form (one power per frequency) is right for them, at any length.
"""

import argparse

import numpy as np

from eigenstep import catalogue_grids, optimal_grid, rank
from eigenstep.data import measure, open_source


def main():
    parser = argparse.ArgumentParser(description="Plan a grid for a folder of sound.")
    parser.add_argument("sounds")
    parser.add_argument("--length", type=int, default=16384)
    parser.add_argument("--steps", type=int, default=8)
    options = parser.parse_args()

    source = open_source(options.sounds, length=options.length, mono=True)
    spectrum = measure(source, method="stationary")
    print(f"{source.n_items} clips in {source.value_range}: {spectrum}")

    # Sound has small values: a range in standard deviations of the data, not the 0.002 to 80 of images in [-1, 1].
    loudest = float(np.sqrt(spectrum.eigenvalues[0]))
    sigma_min, sigma_max = 1e-3 * spectrum.std, 5 * loudest
    plan = optimal_grid(spectrum, options.steps, sigma_min, sigma_max)
    print(f"levels from {sigma_max:.3g}:", *(f"{sigma:.4g}" for sigma in plan.sigmas))

    hands = catalogue_grids(options.steps, sigma_min, sigma_max, spectrum=spectrum)
    for row in rank(spectrum, {"planned": plan.sigmas, **hands})[:4]:
        print(f"{row.name:24s} {row.ratio:.2f} times the least error")


if __name__ == "__main__":
    main()
