"""Which noises make up the error of a cell of the tournament: ours beside the best grid at its published defaults.

    EIGENSTEP_SHARED=../shared python experiments/tails.py speech ecg --solvers ipndm4 --calls 10 --folder results/

Printed for each, over all noises of all seeds: root mean square error, the error of the median noise, and the share of the
squared error that the worst noises make up. Where 2 % of them make up nearly all of it, those end in another mode than the
converged run, and the root mean square is about them.
"""

import numpy as np
from tournament import Bench, Entry, arguments, best, finished

WORST = 0.02


def squares(bench, entry, solver):
    """Mean squared difference from the endpoint of every noise."""
    difference = bench.run(entry, solver) - bench.endpoint
    return np.mean(np.square(difference).reshape(len(difference), -1), axis=1)


def told(values):
    """RMSE, the median noise's, and the worst noises' share."""
    worst = np.sort(values)[-max(1, round(WORST * values.size)) :]
    return float(np.sqrt(values.mean())), float(np.sqrt(np.median(values))), float(worst.sum() / values.sum())


def main():
    parser = arguments(__doc__)
    parser.add_argument("names", nargs="+")
    given = parser.parse_args()
    print(f"| cell | grid | RMSE | median noise | worst {WORST:.0%} of noises |\n|---|---|--:|--:|--:|")
    for name in given.names:
        bench = None
        for cell in finished(given, name):
            bench = bench or Bench(name, folder=given.networks, seeds=cell["seeds"], items=cell["items"])
            where = f"{name}, {cell['solver']}, {cell['calls']}"
            for pool in ("ours", "D"):
                entry = Entry(**best(cell, pool, "rmse"))
                rmse, median, share = told(squares(bench, entry, cell["solver"]))
                print(f"| {where} | {pool}: {entry.name} | {rmse:.2g} | {median:.2g} | {share:.0%} |", flush=True)


if __name__ == "__main__":
    main()
