"""What looking for several minima gains `optimal_grid`: with a noise floor, on few eigenvalues, and in few steps.

    OPENBLAS_NUM_THREADS=1 python benchmarks/many_minima.py floors
    OPENBLAS_NUM_THREADS=1 python benchmarks/many_minima.py few

`floors`: end to end (w2) in long multistep grids, the value found when minima of other floors are followed too, over that found
from the floor asked for alone: geometric mean, least and largest ratio, and how many times as long the search takes (processor
time, median). `few`: `local` on random spectra of few eigenvalues and in few steps; how many of the minima found are more than
1 % above the best known, with 40 random restarts, and how far, by a search from one start and by the search as it is.
"""

from __future__ import annotations

import argparse
import time
from unittest import mock

import numpy as np

from eigenstep import Spectrum, optimal_grid
from eigenstep.optimal import search

RANGE = (0.002, 80.0)


def spectra() -> dict[str, Spectrum]:
    ripple = np.random.default_rng(0).uniform(0.9, 1.1, 3072)
    return {
        "geometric, with ripple": Spectrum.from_eigenvalues(np.geomspace(200.0, 1e-5, 3072) * ripple),
        "power law": Spectrum.from_eigenvalues(50 * np.arange(1, 1025.0) ** -1.5),
        "cifar10": Spectrum.from_zoo("cifar10"),
        "ecg": Spectrum.from_zoo("ecg"),
    }


def found(*arguments, **options) -> tuple[float, float]:
    """Value and seconds of processor time."""
    began = time.thread_time()
    value = optimal_grid(*arguments, *RANGE, **options).value
    return value, time.thread_time() - began


def floors() -> None:
    scouts = search._scouts
    print("| solver, steps | cases | geometric mean | least | largest | time |\n|---|--:|--:|--:|--:|--:|")
    for solver, steps in (("dpmpp_2m", (11, 15, 20, 24)), ("unipc3", (7, 9)), ("ipndm4", (8,))):
        ratios, seconds = [], []
        for n in steps:
            for spectrum in spectra().values():
                for floor in (0.01, 0.02, 0.05):
                    options = {"solver": solver, "noise_floor": floor}
                    now = found(spectrum, n, **options)
                    with mock.patch.object(search, "_scouts", lambda objective, n: scouts(objective, 1)):
                        before = found(spectrum, n, **options)
                    ratios.append(now[0] / before[0])
                    seconds.append(now[1] / before[1])
        name, mean = f"{solver}, {', '.join(map(str, steps))}", np.exp(np.mean(np.log(ratios)))
        columns = f"{mean:.2f} | {min(ratios):.2g} | {max(ratios):.2f} | {np.median(seconds):.1f}"
        print(f"| {name} | {len(ratios)} | {columns} |", flush=True)


def few() -> None:
    rng = np.random.default_rng(0)
    print("| eigenvalues | steps | cases | before | largest | after | largest |\n|--:|--:|--:|--:|--:|--:|--:|")
    for count, steps in ((2, 3), (5, 3), (8, 3), (11, 3), (18, 3), (24, 3), (150, 3), (24, 6), (150, 6)):
        ratios = []
        for case in range(12):
            spectrum = Spectrum.from_eigenvalues(np.sort(np.exp(rng.uniform(np.log(1e-3), np.log(100.0), count)))[::-1])
            n, final = int(rng.integers(steps, steps + 3)), None if case % 2 else 0.0
            for solver in ("dpmpp_2m", "dpmpp_3m", "unipc3"):
                options = {"solver": solver, "objective": "local", "final": final}
                now, best = found(spectrum, n, **options)[0], found(spectrum, n, restarts=40, **options)[0]
                with mock.patch.object(search, "_many_minima", return_value=False):
                    before = found(spectrum, n, **options)[0]
                ratios.append(np.array([before, now]) / min(now, best, before))
        missed, worst = (np.array(ratios) > 1.01).sum(0), np.max(ratios, axis=0)
        columns = f"{len(ratios)} | {missed[0]} | {worst[0]:.3g} | {missed[1]} | {worst[1]:.3g}"
        print(f"| {count} | {steps} to {steps + 2} | {columns} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=("floors", "few"))
    {"floors": floors, "few": few}[parser.parse_args().table]()


if __name__ == "__main__":
    main()
