"""Data that no reader knows, from any function that gives arrays: here the columns of csv files, cut into windows.

    python examples/custom_source.py measurements/ --window 64

What comes of it is a source like the others: it can be measured, shared out and gone on with.
"""

import argparse
from pathlib import Path

import numpy as np

from eigenstep import optimal_grid
from eigenstep.data import from_batches, measure


def main():
    parser = argparse.ArgumentParser(description="Plan a grid for windows of the series in csv files.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--window", type=int, default=64)
    options = parser.parse_args()
    files = sorted(options.folder.glob("*.csv"))

    def windows():
        """(m, window) arrays, one for each file; called again for every pass over the data."""
        for file in files:
            series = np.loadtxt(file, delimiter=",", skiprows=1, ndmin=2)[:, 0]
            yield series[: len(series) // options.window * options.window].reshape(-1, options.window)

    source = from_batches(windows, description=f"windows of {len(files)} csv files")
    spectrum = measure(source)
    print(spectrum)
    plan = optimal_grid(spectrum, 6, 0.01 * spectrum.std, 20 * spectrum.std)
    print("levels:", *(f"{sigma:.4g}" for sigma in plan.sigmas))


if __name__ == "__main__":
    main()
