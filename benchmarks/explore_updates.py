"""How long the page of `eigenstep explore` waits for an answer, beside the search that it does not wait for.

    OPENBLAS_NUM_THREADS=1 python benchmarks/explore_updates.py [--repeats 7] [--solver dpmpp_2m] [--steps 20]

One change of the noise floor for 3,072 eigenvalues a repeat: wall-clock seconds until the first answer, with the best hand-made
grid or the optimum, whichever is known by then, and until an answer with the optimum; medians with their range.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time

import numpy as np

from eigenstep import Spectrum
from eigenstep.explore import Desk, Shelf

PATIENT = 600.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--solver", default="dpmpp_2m")
    parser.add_argument("--steps", default="20")
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    desk = Desk(Shelf(), "digits")
    key = desk.shelf.put("data", Spectrum.from_eigenvalues(np.geomspace(200.0, 1e-5, 3072) * rng.uniform(0.9, 1.1, 3072)))
    desk.view(desk.state({"spectrum": key}))
    first, whole = [], []
    for floor in np.linspace(0.001, 0.01, given.repeats):
        state = desk.state({"spectrum": key, "solver": given.solver, "steps": given.steps, "noise_floor": str(floor)})
        began = time.perf_counter()
        json.dumps(desk.view(state))
        first.append(time.perf_counter() - began)
        json.dumps(desk.view(state, patience=PATIENT))
        whole.append(time.perf_counter() - began)
    print(f"{given.solver}, {given.steps} steps, load {os.getloadavg()[0]:.1f}")
    for name, seconds in (("first answer", first), ("with the optimum", whole)):
        print(f"{name:17} {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f})")
    ratios = [quick / slow for quick, slow in zip(first, whole, strict=True)]
    print(f"{'ratio':17} {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main()
