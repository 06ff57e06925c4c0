"""The searched grids of others beside ours on an exact non-Gaussian reference: one table, run by `python experiments/peers.py`.

Every grid starts from the same 64 noises, drawn by nobody who searches; the error is the root mean square difference, per
number, from the endpoint of 400 steps of DPM-Solver++(2M); the median noise's is in parentheses. Two blocks: from sigma_max
itself, and from the level and state of our warm start, which every competitor is given there. Whoever needs a lowest level
gets the best of `LOWEST`, picked by the error that is reported (the KLUB search also the better of one round and all of
them); ours never sees it. Finished cells are kept in `--folder`, and a second call goes on.
"""

import argparse
import datetime
import functools
import json
import os
import time
from pathlib import Path

import mixtures
import numpy as np
import peers

from eigenstep import catalogue_grids, grid, karras_law, optimal_grid, sample
from eigenstep.models import error_curve, item_noise, plan, profile

LOW, HIGH = 0.002, 80.0
LOWEST = (0.002, 0.02, 0.1)
NOISES, SEARCH_NOISES, TEACHER_NOISES = 64, 64, 256
EVALUATED, TRAINED = 1001, 1002


class Bench:
    """One mixture and everything that is shared by its cells."""

    def __init__(self, name):
        self.mixture = mixtures.fitted(name)
        shape = self.mixture.item_shape
        self.noise = item_noise(range(NOISES), shape, seed=EVALUATED)
        self.other = item_noise(range(TEACHER_NOISES), shape, seed=TRAINED)
        self.fine = grid(karras_law(LOW, HIGH, rho=7.0), 400, final=0.0)
        self.endpoint = sample(self.mixture, HIGH * self.noise, self.fine, solver="dpmpp_2m")
        self.other_endpoint = sample(self.mixture, HIGH * self.other[:SEARCH_NOISES], self.fine, solver="dpmpp_2m")
        self.data = self.mixture.draw(1024, 7)
        self.spectrum = self.mixture.spectrum(basis=min(150, int(np.prod(shape)) - 1))
        # Without eigenvectors there is no warm start.
        self.profiles = [
            profile(self.mixture.denoiser(), spectrum, data=self.data[:400])
            for spectrum in (self.spectrum, self.mixture.spectrum())
        ]
        coarse = sample(self.mixture, HIGH * self.noise, self.fine[::2], solver="dpmpp_2m")
        self.endpoint_error = float(np.sqrt(np.mean((coarse - self.endpoint) ** 2)))

    @functools.cached_property
    def curve(self):
        """The denoising error as the entropic grids' authors measure it."""
        return error_curve(self.mixture, self.data, spectrum=self.spectrum, sigma_min=LOW, sigma_max=HIGH, levels=128)

    def squares(self, states, sigmas, solver):
        """Mean squared difference from the endpoint, per noise."""
        out = sample(self.mixture, states, sigmas, solver=solver)
        return ((out - self.endpoint) ** 2).reshape(len(out), -1).mean(axis=1)

    def cell(self, solver, n):
        """All grids of one solver and number of calls."""
        rows, reasons = [], []
        for known in reversed(self.profiles):
            began = time.perf_counter()
            made = plan(known, None, n, solver=solver)
            cost = (known.calls + made.calls, time.perf_counter() - began)
            reasons.append(made.reason)
            if not rows:
                rows += self._block("cold", HIGH, lambda z: HIGH * z, solver, n, made.sigmas, *cost)
            elif made.warm is not None:
                rows += self._block("warm", made.start_level, made.warm, solver, n, made.sigmas, *cost)
        return {
            "solver": solver, "n": n, "rows": rows, "reasons": reasons, "endpoint_error": self.endpoint_error,
            "load": os.getloadavg()[0], "date": datetime.date.today().isoformat(),
        }  # fmt: skip

    def _block(self, block, top, start, solver, n, ours, spent, seconds):
        states, others = start(self.noise), start(self.other)
        rows = []

        def add(name, candidates, calls, taken):
            squares = [self.squares(states, sigmas, solver) for sigmas in candidates]
            best = min(range(len(squares)), key=lambda k: squares[k].mean())
            rows.append({
                "block": block, "name": name, "error": float(np.sqrt(squares[best].mean())), "calls": calls, "seconds": taken,
                "sigmas": list(candidates[best]), "squares": squares[best].tolist(),
            })  # fmt: skip

        def searched(name, search, lowest=LOWEST):
            began = time.perf_counter()
            found = [search(low) for low in lowest]
            taken = (time.perf_counter() - began) / len(lowest)
            add(name, [each.sigmas for each in found], found[0].calls, taken)

        m, data = self.mixture, self.data
        add("plan: judged by own runs", [ours], spent, seconds)
        began = time.perf_counter()
        objective = "w2" if solver == "ddim" else "local"
        theory = optimal_grid(self.spectrum.binned(48), n, LOW, top, solver=solver, objective=objective).sigmas
        add("plan: theory alone", [theory], 0, time.perf_counter() - began)
        catalogue = {low: catalogue_grids(n, low, top, final=0.0, spectrum=self.spectrum) for low in LOWEST}
        add("catalogue, best at its defaults", list(catalogue[LOW].values()), 0, 0.0)
        swept = [sigmas for grids in catalogue.values() for sigmas in grids.values()]
        add(f"catalogue, best of {len(swept)} with sigma_min", swept, 0, 0.0)
        searched("GITS", lambda low: peers.gits(m, n, low, top, states=others))
        searched("OSS", lambda low: peers.optimal_stepsize(m, n, low, top, states=others[:16]), (LOW,))
        searched("DMN", lambda low: peers.dmn(n, low, top))
        entropic = [np.append(peers.entropic_levels(self.curve, n, low, top), 0.0) for low in LOWEST]
        add("rescaled entropic", entropic, 128 * len(data), 0.0)
        stopped = [(low, rounds) for low in LOWEST for rounds in (1, 50)]
        paths = data[:256]
        searched("AYS-style KLUB search", lambda t: peers.klub_search(m, n, t[0], top, data=paths, rounds=t[1]), stopped)
        starts = [np.array(row["sigmas"]) for row in (rows[0], rows[3])]
        for name, x, target in (
            ("learned on other noises", others[:SEARCH_NOISES], self.other_endpoint),
            ("oracle: learned on these", states, self.endpoint),
        ):
            searched(
                name,
                lambda low, x=x, target=target: peers.learned(m, starts, states=x, endpoint=target, solver=solver, rounds=80),
                (LOW,),
            )
        return rows


def verdict(row, ours):
    """Whether our mean squared error is lower (+), higher (-) or neither (=) by the paired 95 % interval over the noises."""
    gained = np.array(row["squares"]) - np.array(ours["squares"])
    spread = 1.96 * gained.std(ddof=1) / np.sqrt(gained.size)
    return "+" if gained.mean() > spread else "-" if gained.mean() < -spread else "="


def cell_text(row, ours):
    """Root mean square error, verdict, and the median noise's error."""
    return f"{row['error']:.4f} {verdict(row, ours)} ({np.sqrt(np.median(row['squares'])):.3f})"


def table(cells, kind, title):
    """One row per competitor: its error in every cell with our verdict over it, and what it cost at most."""
    rows = [{row["name"]: row for row in cell["rows"] if row["block"] == kind} for cell in cells]
    heads = [f"{cell['solver']} {cell['n']}" for cell in cells]
    lines = [f"| {title} | " + " | ".join(heads) + " | calls spent | seconds |", "|---|" + "--:|" * (len(cells) + 2)]
    for name in dict.fromkeys(name for found in rows for name in found):
        texts = []
        for found in rows:
            ours = found.get(next(iter(found), None))
            texts.append("–" if name not in found else cell_text(found[name], ours))
        costs = [found[name] for found in rows if name in found]
        calls, seconds = (max(row[key] for row in costs) for key in ("calls", "seconds"))
        lines.append(f"| {name} | " + " | ".join(texts) + f" | {calls:,} | {seconds:.1f} |")
    ratios = []
    for found in rows:
        ordered = list(found.values())
        ratios.append(f"{ordered[0]['error'] / ordered[-1]['error']:.2f}" if found else "–")
    lines.append("| plan over oracle | " + " | ".join(ratios) + " | | |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mixture", default="mnist14", choices=mixtures.DATASETS)
    parser.add_argument("--solvers", nargs="*", default=["ddim", "dpmpp_2m"])
    parser.add_argument("--calls", nargs="*", type=int, default=[4, 6])
    parser.add_argument("--folder", type=Path, default=Path("results/peers"))
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    bench, cells = None, []
    for solver in given.solvers:
        for n in given.calls:
            kept = given.folder / f"{given.mixture}-{solver}-{n}.json"
            if not kept.is_file():
                bench = bench or Bench(given.mixture)
                kept.write_text(json.dumps(bench.cell(solver, n)))
            cells.append(json.loads(kept.read_text()))
    for cell in cells:
        for kind, reason in zip(("from sigma_max", "warm starts allowed"), cell["reasons"], strict=True):
            print(f"{cell['solver']}, {cell['n']} calls, {kind}: {reason}")
    print(f"\n{table(cells, 'cold', f'from sigma_max = {HIGH:g}')}\n\n{table(cells, 'warm', 'from our warm start')}\n")
    loads = [cell["load"] for cell in cells]
    print(
        f"The endpoint with half its steps differs by {max(cell['endpoint_error'] for cell in cells):.2g}. "
        f"{cells[-1]['date']}, {os.cpu_count()} cores, load {min(loads):.1f} to {max(loads):.1f}."
    )


if __name__ == "__main__":
    main()
