"""What a plan is worth by the calls that it may cost: few judges, a gauge of 96 calls, no fit, against the best default grid.

    EIGENSTEP_SHARED=../shared python experiments/judges.py mnist14 sdaloglu_mnist_lin100ep --folder results/

Plans anew for the deterministic cells that `tournament.py` has finished, in at most 10 calls, with 0, quick, 4, 8 and 16
judges, runs them from that cell's noises, and prints the tournament's columns for each number of judges. Calls are counted by
item: those of the profile, which all plans of a model share, and the median of what a plan adds; below them stand the cells'
own plans.
"""

import numpy as np
from tournament import Bench, Entry, arguments, finished, head, row

from eigenstep.models import plan, profile
from eigenstep.models.profile import QUICK, QUICK_ITEMS, QUICK_LEVELS

JUDGES = (0, QUICK, 4, 8, 16)


def planned(bench, cell, profiles):
    """The cell with one entry more for each number of judges."""
    found = []
    for judges, measured in profiles.items():
        made = plan(measured, None, cell["n"], solver=cell["solver"], fit=False)
        entry = Entry(f"judges {judges}", made.chosen.name, made.sigmas.tolist(), made.warm is not None, made.calls)
        bench.judge(entry, bench.run(entry, cell["solver"]), False)
        found.append(vars(entry))
    return {**cell, "entries": cell["entries"] + found}


def spent(cells, pool):
    """Median of the calls of a pool's entries."""
    return int(np.median([entry["calls"] for cell in cells for entry in cell["entries"] if entry["pool"] == pool]))


def main():
    parser = arguments(__doc__, calls=tuple(range(3, 11)))
    parser.add_argument("names", nargs="+")
    given = parser.parse_args()
    cells, shared = [], {}
    for name in given.names:
        known = finished(given, name)
        if not known:
            parser.error(f"{given.folder / name} holds no finished cell of these solvers and calls; run tournament.py first.")
        bench = Bench(name, folder=given.networks, seeds=known[0]["seeds"], items=known[0]["items"])
        options = {"data": bench.data[-QUICK_ITEMS:], "levels": QUICK_LEVELS}
        profiles = {judges: profile(bench.denoiser, bench.spectrum, judges=judges, **options) for judges in JUDGES}
        shared = {judges: measured.calls for judges, measured in profiles.items()}
        for cell in known:
            cells.append(planned(bench, cell, profiles))
            print(f"{name} {cell['solver']} {cell['calls']}", flush=True)
    for kind, exact in (("exact models", True), ("networks", False)):
        those = [cell for cell in cells if cell["exact"] is exact]
        if those:
            print(head(f"{kind}: judges, calls of the profile + of a plan, against **D**"))
            for judges in JUDGES:
                pool = f"judges {judges}"
                print(row(f"{judges}: {shared[judges]:,} + {spent(those, pool):,}", those, ours=pool))
            print(row(f"48 and a fit, as in the cells: {spent(those, 'ours'):,} in all", those))


if __name__ == "__main__":
    main()
