"""Finished cells of the tournament again, from many noises that neither a plan nor the choice of the best default has seen.

    EIGENSTEP_SHARED=../shared python experiments/confirm.py flow_latent --folder results/ --to confirmed/
    python experiments/tournament.py --summary --folder confirmed/

Five seeds of 400 noises by default; ours, the cheap ones, and the best defaults of the first noises by root mean
square error. Measured is also how far each is from held-out data, and how far the converged samples are. Cells are kept in the
tournament's format, so that its summary prints them, and a run may be stopped and gone on with.
"""

import dataclasses
import json
import time
from pathlib import Path

import numpy as np
from tournament import CHEAP, MEASURES, Bench, Entry, arguments, finished, place

from eigenstep.evaluation import frechet_distance


def again(bench, cell, rivals):
    """The cell with ours and the best defaults alone, by the bench's noises."""
    began = time.perf_counter()
    own = [entry for entry in cell["entries"] if entry["pool"] in ("ours", *CHEAP)]
    known = sorted((entry for entry in cell["entries"] if entry["pool"] == "D"), key=lambda entry: np.mean(entry["rmse"]))
    entries = [dataclasses.replace(Entry(**entry), **{measure: [] for measure in MEASURES}) for entry in own + known[:rivals]]
    converged = Entry("converged", "the reference", [])
    parts = [slice(seed * bench.items, (seed + 1) * bench.items) for seed in range(bench.seeds)]
    for entry in entries:
        out = np.concatenate([bench.run(entry, cell["solver"], batch) for batch in bench.batches()])
        bench.judge(entry, out, False)
        to_data(bench, entry, out, parts)
    to_data(bench, converged, bench.endpoint, parts)
    entries.append(converged)
    return {
        **cell, "seeds": bench.seeds, "items": bench.items, "endpoint_error": None,
        "seconds": time.perf_counter() - began, "entries": [dataclasses.asdict(entry) for entry in entries],
    }  # fmt: skip


def to_data(bench, entry, out, parts):
    """Fréchet distance of each seed's samples to held-out data, in the last of the bench's features."""
    made, known = bench.features[-1](out), bench.data_features[-1]
    entry.fd_data = [frechet_distance(made[part], known) for part in parts]


def main():
    parser = arguments(__doc__, calls=(4, 6))
    parser.add_argument("names", nargs="+")
    parser.add_argument("--to", type=Path, default=Path("confirmed"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--items", type=int, default=400)
    parser.add_argument("--rivals", type=int, default=2)
    given = parser.parse_args()
    for name in given.names:
        (given.to / name).mkdir(parents=True, exist_ok=True)
        bench = None
        for cell in finished(given, name):
            kept = place(given.to, name, cell["solver"], cell["calls"])
            if kept.is_file():
                continue
            options = {"folder": given.networks, "seeds": given.seeds, "items": given.items}
            bench = bench or Bench(name, first=cell["items"], **options)
            kept.write_text(json.dumps(again(bench, cell, given.rivals)))
            print(f"{name} {cell['solver']} {cell['calls']}", flush=True)


if __name__ == "__main__":
    main()
