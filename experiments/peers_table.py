"""The searched grids of others beside ours on an exact non-Gaussian reference: one table, run by `python experiments/peers.py`.

Every grid starts from the same 64 noises, drawn by nobody who searches; the error is the root mean square difference, per
number, from the endpoint of 200 steps of DPM-Solver++(2M). Two blocks: from sigma_max itself, and from the level and state
of our warm start, which every competitor is given there. Whoever needs a lowest level gets the best of `LOWEST`, picked by
the error that is reported; ours never sees it.
"""

import argparse
import datetime
import os
import time

import mixtures
import numpy as np
import peers

from eigenstep import catalogue_grids, grid, karras_law, optimal_grid, sample
from eigenstep.models import item_noise, plan, profile

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
        self.fine = grid(karras_law(LOW, HIGH, rho=7.0), 200, final=0.0)
        self.endpoint = sample(self.mixture, HIGH * self.noise, self.fine, solver="dpmpp_2m")
        self.other_endpoint = sample(self.mixture, HIGH * self.other[:SEARCH_NOISES], self.fine, solver="dpmpp_2m")
        self.data = self.mixture.draw(1024, 7)
        self.spectrum = self.mixture.spectrum(basis=min(150, int(np.prod(shape)) - 1))
        self.profile = profile(self.mixture.denoiser(), self.spectrum, data=self.data[:400])
        coarse = sample(self.mixture, HIGH * self.noise, self.fine[::2], solver="dpmpp_2m")
        self.endpoint_error = float(np.sqrt(np.mean((coarse - self.endpoint) ** 2)))

    def error(self, states, sigmas, solver):
        """What is reported."""
        out = sample(self.mixture, states, sigmas, solver=solver)
        return float(np.sqrt(np.mean((out - self.endpoint) ** 2)))

    def cell(self, solver, n):
        """Rows (block, name, error, calls, seconds) of one solver and number of calls."""
        start = time.perf_counter()
        made = plan(self.profile, None, n, solver=solver)
        spent, seconds = self.profile.calls + made.calls, time.perf_counter() - start
        unwarmed = next(c for c in made.candidates if c.planned and not c.warm)
        rows = self._block("from sigma_max", HIGH, lambda z: HIGH * z, solver, n, unwarmed.sigmas, spent, seconds)
        if made.warm is not None:
            level = made.start_level
            rows += self._block(f"warm start from {level:.3g}", level, made.warm, solver, n, made.sigmas, spent, seconds)
        return rows, made.reason

    def _block(self, block, top, start, solver, n, ours, spent, seconds):
        states, others = start(self.noise), start(self.other)
        rows = []

        def add(name, candidates, calls, taken):
            scored = sorted((self.error(states, sigmas, solver), tuple(sigmas)) for sigmas in candidates)
            rows.append((block, name, scored[0][0], calls, taken, np.array(scored[0][1])))

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
        add(f"plan: theory alone ({objective})", [theory], 0, time.perf_counter() - began)
        catalogue = {low: catalogue_grids(n, low, top, final=0.0, spectrum=self.spectrum) for low in LOWEST}
        add("catalogue, best at its defaults", catalogue[LOW].values(), 0, 0.0)
        swept = [sigmas for grids in catalogue.values() for sigmas in grids.values()]
        add(f"catalogue, best of {len(swept)} with sigma_min", swept, 0, 0.0)
        searched("GITS", lambda low: peers.gits(m, n, low, top, states=others))
        searched("OSS", lambda low: peers.optimal_stepsize(m, n, low, top, states=others[:16]), (LOW,))
        searched("DMN", lambda low: peers.dmn(n, low, top))
        searched("rescaled entropic", lambda low: peers.rescaled_entropic(m, n, low, top, data=data, spectrum=self.spectrum))
        searched("AYS-style KLUB search", lambda low: peers.klub_search(m, n, low, top, data=data[:256]))
        starts = [rows[0][5], rows[3][5]]
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mixture", default="mnist14", choices=mixtures.DATASETS)
    parser.add_argument("--solvers", nargs="*", default=["ddim", "dpmpp_2m"])
    parser.add_argument("--calls", nargs="*", type=int, default=[4, 6])
    parser.add_argument("--grids", action="store_true", help="print every grid as well")
    given = parser.parse_args()
    bench = Bench(given.mixture)
    found, blocks = {}, {}
    for solver in given.solvers:
        for n in given.calls:
            rows, reason = bench.cell(solver, n)
            print(f"# {solver}, {n} calls: {reason}", flush=True)
            for block, name, error, calls, taken, sigmas in rows:
                kind = "warm" if block.startswith("warm") else "cold"
                blocks.setdefault(kind, []).append(name)
                found[kind, name, solver, n] = (error, calls, taken)
                if given.grids:
                    print(f"#   {block}: {name}: {error:.4f} {sigmas.round(4).tolist()}")
    cells = [(solver, n) for solver in given.solvers for n in given.calls]
    print(f"\nEndpoint good to {bench.endpoint_error:.1g}.")
    for kind, title in (("cold", "from sigma_max = 80"), ("warm", "from our warm start")):
        print(f"\n| {title} | " + " | ".join(f"{solver} {n}" for solver, n in cells) + " | calls spent | seconds |")
        print("|---|" + "--:|" * (len(cells) + 2))
        for name in dict.fromkeys(blocks.get(kind, [])):
            scores = [found.get((kind, name, *cell)) for cell in cells]
            spent = [score for score in scores if score is not None]
            calls = max(score[1] for score in spent)
            texts = ["–" if score is None else f"{score[0]:.4f}" for score in scores]
            print(f"| {name} | " + " | ".join(texts) + f" | {calls:,} | {max(score[2] for score in spent):.1f} |")
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"\n{datetime.date.today().isoformat()}, {os.cpu_count()} cores, load {load}.")


if __name__ == "__main__":
    main()
