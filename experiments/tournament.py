"""Planned grids against two yardsticks, searched grids and an oracle, on every model: the tables of README.md.

    EIGENSTEP_SHARED=../shared python experiments/tournament.py mnist14 sdaloglu_mnist_lin --folder results/ --oracle
    python experiments/tournament.py --summary --folder results/
    python experiments/tournament.py --summary --folder experiments/cells       # of the cells that the repository keeps

A cell is model x solver x network calls. All grids of a cell start from the same noises, `--seeds` times `--items` of them,
which nobody searched or planned with, and are judged by the model's own converged endpoint of each noise (a stochastic solver,
which has none, by Fréchet distance to held-out data). The pools:

    D         the catalogue at its published defaults, from sigma_max down, and diffusers' default timesteps
    H         hindsight: the catalogue at three lowest levels, and tangent laws at five gammas
    H warm    the same from our start level and state
    searched  GITS, optimal stepsizes, DMN, entropic times, an AYS-style search; those that take a lowest level at three
    searched warm  the same from our start; exact models only
    ours      `models.plan`;  ours cold: without warm start;  ours light: theory and 152 calls, no judge
    ours quick  theory, and four runs that judge between the most promising grids: some hundred calls
    unfitted  the best of the plan's candidates whose levels were not fitted to endpoints
    learned   LD3-like, by gradient on 64 other noises from our start; exact models only
    oracle    levels fitted to the judged noises themselves, from our start and from sigma_max

The best of a pool is picked by the measure that is reported, on the noises that it is reported for; pools of more than `KEPT`
grids are cut to those by their squared error over the first `SCREENED` noises of each seed. Finished cells are kept in
`--folder`, and a second call goes on; with `--oracle` it adds what finished cells lack of it. `--condense` writes what the
tables need of them, a file for each model, and every script that reads cells reads those too.
"""

import argparse
import datetime
import functools
import json
import math
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import networks
import numpy as np
import peers

from eigenstep import SOLVERS, catalogue_grids, grid, karras_law, plots, sample, tangent_law
from eigenstep.evaluation import frechet_distance, paired_interval
from eigenstep.evaluation.competitors import steps_for
from eigenstep.evaluation.features import features_named
from eigenstep.grids import timestep_grid
from eigenstep.models import WarmStart, error_curve, item_noise, plan, profile
from eigenstep.models.profile import QUICK, QUICK_ITEMS, QUICK_LEVELS

CALLS = (4, 6, 10)
DETERMINISTIC = ("ddim", "heun", "dpmpp_2m", "dpmpp_3m", "unipc3", "ipndm4", "deis3")
STOCHASTIC = ("ddim_eta", "dpmpp_2m_sde")
FIRST_SEED, PEER_SEED = 5000, 4000
FINE_STEPS = 120
BATCH = 64
SCREENED, KEPT = 4, 6
GAMMAS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Of tangent laws, in standard deviations of the data."""

SEARCHED_STEPS = 6
"""Most steps for which grids are searched."""

LIGHT_CALLS = 152
"""Of plans by theory alone: a gauge of 96 calls, and 56 for how far the model parts from the Gaussian, for all plans."""

CHEAP = {"ours light": f"theory and {LIGHT_CALLS} calls", "ours quick": "quick plans"}
"""Of plans that cost little, what the tables call them."""

ORACLES = {"oracle": ("ours", "H warm", "searched warm"), "oracle cold": ("ours cold", "H", "searched")}
"""Each oracle and the pools whose best it starts from."""

MEASURES = ("rmse", "fd_pixels", "fd_convolutions")
"""Distances to the converged endpoint (of stochastic solvers: to data)."""

TO_DATA = "fd_data"
"""Of confirmed cells: squared Fréchet distance to held-out data in random convolutions."""


@dataclass
class Entry:
    """One grid of one pool, and its measures by seed."""

    pool: str
    name: str
    sigmas: list[float]
    warm: bool = False
    calls: int = 0
    seconds: float = 0.0
    rmse: list[float] = field(default_factory=list)
    fd_pixels: list[float] = field(default_factory=list)
    fd_convolutions: list[float] = field(default_factory=list)
    fd_data: list[float] = field(default_factory=list)


class Bench:
    """One model and everything that its cells share."""

    def __init__(self, name, *, folder, seeds, items, first=0):
        self.subject = networks.subject(name, folder)
        self.denoiser, self.spectrum, self.data = self.subject.denoiser, self.subject.spectrum, self.subject.data
        self.low, self.high = float(self.denoiser.sigma_min), float(self.denoiser.sigma_max)
        self.shape = tuple(self.data.shape[1:])
        self.deviation = math.sqrt(self.spectrum.trace / self.spectrum.dim)
        self.seeds, self.items = seeds, items
        rows = range(first, first + items)
        self.noise = np.concatenate([item_noise(rows, self.shape, seed=FIRST_SEED + seed) for seed in range(seeds)])
        raised = (share * self.deviation for share in (0.05, 0.2))
        self.lowest = [self.low, *(level for level in raised if level > self.low)]
        self.found = {}
        kinds = ("pixels", "random-convolutions") if min(self.shape[-2:]) >= 8 else ("pixels",)
        self.features = features_named(kinds, self.data[:3000])

    @functools.cached_property
    def endpoint(self):
        return self._converged(FINE_STEPS)

    @functools.cached_property
    def endpoint_error(self):
        """Root mean square change with half the steps, on one seed's noises."""
        coarse = self._converged(FINE_STEPS // 2, self.items)
        return float(np.sqrt(np.mean((coarse - self.endpoint[: self.items]) ** 2)))

    def _converged(self, steps, count=None):
        fine = grid(karras_law(self.low, self.high, rho=7.0), steps, final=0.0)
        batches = (self.high * self.noise[rows] for rows in self.batches(count))
        return np.concatenate([sample(self.denoiser, states, fine, solver="dpmpp_2m") for states in batches])

    def batches(self, count=None):
        """Slices of the first `count` noises: no more than keep a network's arrays in the caches, on a mixture all at once."""
        total = len(self.noise[:count])
        size = total if self.subject.exact else BATCH
        return [slice(first, min(first + size, total)) for first in range(0, total, size)]

    @functools.cached_property
    def endpoint_features(self):
        return [known(self.endpoint) for known in self.features]

    @functools.cached_property
    def data_features(self):
        return [known(self.data[:2000]) for known in self.features]

    @functools.cached_property
    def profiles(self):
        """Of `plan` with and without eigenvectors, hence warm start, the light and the quick one, by pool."""
        warm = profile(self.denoiser, self.spectrum, data=self.data[:400])
        # The same measurements: without eigenvectors no start level but the highest is tried.
        cold = replace(warm, spectrum=replace(self.spectrum, basis=None))
        return {"ours": warm, "ours cold": cold, **self.cheap}

    @functools.cached_property
    def cheap(self):
        """The profiles of plans by theory alone and of quick ones, by pool."""
        options = {"data": self.data[-QUICK_ITEMS:], "levels": QUICK_LEVELS}
        light = profile(self.denoiser, self.spectrum, judges=0, **options)
        return {"ours light": light, "ours quick": profile(self.denoiser, self.spectrum, judges=QUICK, **options)}

    @functools.cached_property
    def peer_noise(self):
        return item_noise(range(256), self.shape, seed=PEER_SEED)

    @functools.cached_property
    def entropic_curve(self):
        """The error as the authors of entropic times measure it, at 128 levels, on fewer items."""
        few = self.data[:256] if self.subject.exact else self.data[:64]
        return few, error_curve(
            self.denoiser, few, spectrum=self.spectrum, sigma_min=self.low, sigma_max=self.high, levels=128
        )

    def searched(self, n, top, warm):
        """Searched grids do not depend on the solver that follows: once per number of steps and start level."""
        if (n, top) not in self.found:
            self.found[n, top] = self._searched(n, top, warm)
        return self.found[n, top]

    def _searched(self, n, top, warm):
        start = warm if warm is not None else lambda z: top * z
        states, found = start(self.peer_noise), []
        paths = self.data[: 256 if self.subject.exact else 32]
        few, curve = self.entropic_curve
        teachers = states if self.subject.exact else states[:48]
        searches = {
            "GITS": lambda low: peers.gits(self.denoiser, n, low, top, states=teachers),
            "OSS": lambda low: peers.optimal_stepsize(self.denoiser, n, low, top, states=states[:8], teacher=60),
            "DMN": lambda low: peers.dmn(n, low, top),
            "entropic": lambda low: peers.Searched(np.append(peers.entropic_levels(curve, n, low, top), 0.0), 128 * len(few)),
            "KLUB": lambda low: peers.klub_search(self.denoiser, n, low, top, data=paths),
        }
        for name, search in searches.items():
            for low in self.lowest if name != "OSS" else self.lowest[:1]:
                began = time.perf_counter()
                grid_, calls = search(low)
                found.append((f"{name} {low:.3g}", grid_, calls, time.perf_counter() - began))
        return found

    def swept(self, n, top, path=None):
        """The catalogue at every lowest level and tangent laws at five gammas."""
        found = {}
        for low in self.lowest:
            rows = catalogue_grids(n, low, top, final=0.0, spectrum=self.spectrum, path=path if low == self.low else None)
            found.update({f"{name} {low:.3g}": sigmas for name, sigmas in rows.items()})
            for gamma in GAMMAS:
                law = tangent_law(low, top, gamma=gamma * self.deviation)
                found[f"tangent {gamma} {low:.3g}"] = grid(law, n, final=0.0)
        return found

    def planned(self, pool, known, solver, n):
        """The plan that a profile gives, and its entry."""
        began = time.perf_counter()
        made = plan(known, None, n, solver=solver)
        calls = LIGHT_CALLS if pool == "ours light" else known.calls + made.calls
        entry = Entry(
            pool, made.chosen.name, made.sigmas.tolist(), made.warm is not None, calls, time.perf_counter() - began
        )  # fmt: skip
        return made, entry

    def entries(self, solver, n, brief):
        """Every grid of a cell, and how our plans came about."""
        path, entries, notes = self.denoiser.path, [], {}
        plans = {}
        for pool, known in self.profiles.items():
            if brief and pool == "ours cold":
                continue
            made, entry = self.planned(pool, known, solver, n)
            entries.append(entry)
            notes[pool], plans[pool] = made.reason, made
            if pool == "ours" and not SOLVERS[solver].stochastic:
                computed = next(each for each in made.candidates if "fitted" not in each.name)
                entries.append(Entry("unfitted", computed.name, computed.sigmas.tolist(), computed.warm))
        for name, sigmas in catalogue_grids(n, self.low, self.high, final=0.0, spectrum=self.spectrum, path=path).items():
            entries.append(Entry("D", name, sigmas.tolist()))
        if path.n_timesteps is not None:
            entries.append(Entry("D", "leading", timestep_grid(n, path=path, spacing="leading").tolist()))
        for name, sigmas in () if brief else self.swept(n, self.high, path).items():
            entries.append(Entry("H", name, sigmas.tolist()))
        starts = [("", self.high, None)]
        if plans["ours"].warm is not None:
            if self.subject.exact:
                starts.append((" warm", plans["ours"].start_level, plans["ours"].warm))
            for name, sigmas in self.swept(n, plans["ours"].start_level).items():
                entries.append(Entry("H warm", name, sigmas.tolist(), True))
        if n <= SEARCHED_STEPS and not brief and not SOLVERS[solver].stochastic:
            for suffix, top, warm in starts:
                for name, sigmas, calls, seconds in self.searched(n, top, warm):
                    entries.append(Entry(f"searched{suffix}", name, sigmas.tolist(), bool(suffix), calls, seconds))
        return entries, notes

    def states(self, entry, noise):
        """Where an entry's run begins: plain noise, or the Gaussian's own state at its first level."""
        return first_states(self.denoiser, self.spectrum, entry.sigmas, entry.warm, noise)

    def run(self, entry, solver, rows=slice(None)):
        """Where the noises of some rows end on an entry's grid."""
        states = self.states(entry, self.noise[rows])
        drawn = None
        if SOLVERS[solver].stochastic:
            def drawn(k):
                steps = [item_noise(range(self.items), self.shape, seed=FIRST_SEED + s, step=k) for s in range(self.seeds)]
                return np.concatenate(steps)[rows]
        levels = within_range(self.denoiser, entry.sigmas)
        return np.asarray(sample(self.denoiser, states, levels, solver=solver, noise=drawn), dtype=np.float64)

    def judge(self, entry, out, stochastic):
        """Measures by seed."""
        known = self.data_features if stochastic else self.endpoint_features
        made = [each(out) for each in self.features]
        for seed in range(self.seeds):
            part = slice(seed * self.items, (seed + 1) * self.items)
            if not stochastic:
                entry.rmse.append(float(np.sqrt(np.mean((out[part] - self.endpoint[part]) ** 2))))
            for measure, features, others in zip(MEASURES[1:], made, known, strict=False):
                wanted = others if stochastic else others[part]
                getattr(entry, measure).append(frechet_distance(features[part], wanted))

    def screen(self, entries, solver):
        """The most promising of each large pool, by their squared error on a few noises of each seed."""
        rows = np.concatenate([np.arange(SCREENED) + seed * self.items for seed in range(self.seeds)])
        kept = []
        for pool in dict.fromkeys(entry.pool for entry in entries):
            rivals = [entry for entry in entries if entry.pool == pool]
            if len(rivals) > KEPT:
                ends = [self.run(entry, solver, rows) for entry in rivals]
                scores = [float(np.mean((out - self.endpoint[rows]) ** 2)) for out in ends]
                rivals = [rivals[k] for k in np.argsort(scores)[:KEPT]]
            kept += rivals
        return kept

    def learned(self, ours, solver):
        """Levels learned by gradient on 64 noises that nobody judges by, from our plan's levels."""
        noise = self.peer_noise[:64]
        states = self.states(ours, noise)
        fine = grid(karras_law(self.low, self.high, rho=7.0), FINE_STEPS, final=0.0)
        endpoint = sample(self.denoiser, self.high * noise, fine, solver="dpmpp_2m")
        began = time.perf_counter()
        start = np.array(ours.sigmas)
        mixture = self.denoiser.network
        found = peers.learned(mixture, [start], states=states, endpoint=endpoint, solver=solver, rounds=80)
        return Entry("learned", "LD3-like", found.sigmas.tolist(), ours.warm, found.calls, time.perf_counter() - began)

    def cell(self, solver, calls, *, oracle=False, brief=False):
        """All measures of one solver and number of calls."""
        n, stochastic = steps_for(calls, SOLVERS[solver]), SOLVERS[solver].stochastic
        began = time.perf_counter()
        entries, notes = self.entries(solver, n, brief)
        if not stochastic:
            entries = self.screen(entries, solver)
        for entry in entries:
            self.judge(entry, self.run(entry, solver), stochastic)
        found = {
            "model": self.subject.name, "exact": self.subject.exact, "solver": solver, "calls": calls, "n": n,
            "seeds": self.seeds, "items": self.items, "deviation": self.deviation,
            "endpoint_error": None if stochastic else self.endpoint_error, "notes": notes,
            "seconds": time.perf_counter() - began, "date": datetime.date.today().isoformat(),
            "entries": [asdict(entry) for entry in entries],
        }  # fmt: skip
        return self.with_oracles(found) if oracle else found

    def with_cheap(self, cell):
        """A finished cell with the plan by theory alone and the quick one made anew."""
        kept = [each for each in cell["entries"] if each["pool"] not in self.cheap]
        for pool, known in self.cheap.items():
            _, entry = self.planned(pool, known, cell["solver"], cell["n"])
            self.judge(entry, self.run(entry, cell["solver"]), SOLVERS[cell["solver"]].stochastic)
            kept.append(asdict(entry))
        return {**cell, "entries": kept}

    def with_oracles(self, cell):
        """A finished cell, of this bench's seeds and items, with what is fitted to its noises and, if exact, learned."""
        solver, began = cell["solver"], time.perf_counter()
        if SOLVERS[solver].stochastic:
            return cell
        entries, added = [Entry(**entry) for entry in cell["entries"]], []
        if self.subject.exact:
            added.append(self.learned(next(entry for entry in entries if entry.pool == "ours"), solver))
        for pool, kinds in ORACLES.items():
            rivals = [entry for entry in entries if entry.pool in kinds]
            if not rivals:
                continue
            start = min(rivals, key=lambda entry: np.mean(np.square(entry.rmse)))
            states = self.states(start, self.noise)
            found = peers.fitted_levels(
                self.denoiser, start.sigmas, states=states, endpoint=self.endpoint, solver=solver,
                evaluations=10 if self.subject.exact else 5, lowest=self.low,
            )  # fmt: skip
            added.append(Entry(pool, f"from {start.name}", found.sigmas.tolist(), start.warm, found.calls))
        for entry in added:
            self.judge(entry, self.run(entry, solver), False)
        spent = cell["seconds"] + time.perf_counter() - began
        return {**cell, "seconds": spent, "entries": cell["entries"] + [asdict(entry) for entry in added]}


def within_range(denoiser, sigmas):
    """Levels that end at 0, those of kept cells too, whose six digits may lie beside the ends of what a model is called at."""
    return peers.floored(np.minimum(sigmas, float(denoiser.sigma_max)), float(denoiser.sigma_min))


def first_states(denoiser, spectrum, sigmas, warm, noise):
    """Plain noise at the first level, or the Gaussian's own states there."""
    level = float(within_range(denoiser, sigmas)[0])
    return WarmStart(spectrum, level, float(denoiser.sigma_max))(noise) if warm else level * noise


# What the cells say together


def best(cell, pool, measure):
    """The entry of a pool with the least mean over the seeds; None where there is none."""
    rivals = [entry for entry in cell["entries"] if entry["pool"] == pool and entry.get(measure)]
    return min(rivals, key=lambda entry: np.mean(entry[measure]), default=None)


@dataclass(frozen=True)
class Duel:
    """Ours beside the best of a pool in one cell: ratio of the means over the seeds, and the verdict of the paired interval."""

    ratio: float
    word: str


def duel(cell, pool, measure, ours="ours"):
    """None where either side is missing."""
    own, other = best(cell, ours, measure), best(cell, pool, measure)
    if own is None or other is None:
        return None
    ratio = float(np.mean(own[measure]) / np.mean(other[measure]))
    # Levels that agree to the six digits that are kept are one grid: an oracle that moved none by more is even with ours.
    if _rounded(own["sigmas"]) == _rounded(other["sigmas"]) and own["warm"] == other["warm"]:
        return Duel(1.0, "even")
    found = paired_interval(own[measure], other[measure])
    word = "better" if found.high < 0 else "worse" if found.low > 0 else "even"
    return Duel(ratio, word)


COLUMNS = "cells | better | even | worse | RMSE | FD pixels | FD convolutions | largest RMSE |"


def head(title):
    """The head of a table of `row`s."""
    return f"\n| {title} | {COLUMNS}\n|---{'|---' * title.count('|')}|--:|--:|--:|--:|--:|--:|--:|--:|"


def row(title, cells, pool="D", ours="ours"):
    """Verdicts by RMSE over some cells, medians of the ratios by every measure, and the largest by RMSE; None without any."""
    by = [[found for cell in cells if (found := duel(cell, pool, measure, ours)) is not None] for measure in MEASURES]
    if not by[0]:
        return None
    words = [each.word for each in by[0]]
    counts = " | ".join(str(words.count(word)) for word in ("better", "even", "worse"))
    medians = " | ".join(f"{np.median([each.ratio for each in duels]):.2f}" if duels else "–" for duels in by)
    return f"| {title} | {len(words)} | {counts} | {medians} | {max(each.ratio for each in by[0]):.2f} |"


def calls_to_match(cells, measure="rmse", at=10, ours="ours"):
    """Least measured calls with which ours is no worse than the best default with `at`, where both have that many."""
    found = {}
    for model, solver in dict.fromkeys((cell["model"], cell["solver"]) for cell in cells):
        own = {cell["calls"]: cell for cell in cells if (cell["model"], cell["solver"]) == (model, solver)}
        if at not in own or (theirs := best(own[at], "D", measure)) is None:
            continue
        goal = np.mean(theirs[measure])
        values = {calls: entry[measure] for calls, cell in own.items() if (entry := best(cell, ours, measure)) is not None}
        if at in values:
            found[model, solver] = min((calls for calls, each in values.items() if np.mean(each) <= goal), default=math.inf)
    return found


def summary(cells):
    """The tables over all cells, in Markdown."""
    settled = [cell for cell in cells if not SOLVERS[cell["solver"]].stochastic]
    exact, others = ([cell for cell in settled if cell["exact"] is wanted] for wanted in (True, False))
    few, few_exact, few_others = ([cell for cell in group if cell["calls"] <= 6] for group in (settled, exact, others))
    lines = [head("ours against the best of")]
    lines += [
        row("**D**, the catalogue at its defaults", settled),
        row("**D**, at most 6 calls", few),
        row("**D**, 7 calls and more", [cell for cell in settled if cell["calls"] > 6]),
        row("**D**, `ddim` in at most 6 calls", [cell for cell in few if cell["solver"] == "ddim"]),
        row("**H**, hindsight; no warm start on either side", settled, "H", "ours cold"),
        row("**H**, hindsight; our start given to all", settled, "H warm"),
        row("searched grids, at most 6 calls; no warm start on either side", few, "searched", "ours cold"),
        row("searched grids, at most 6 calls; our start given to all (exact models)", few, "searched warm"),
        row("learned by gradient, from our start (exact models)", settled, "learned"),
        row("the oracle, exact models", exact, "oracle"),
        row("the oracle, networks", others, "oracle"),
    ]
    lines.append(head("ours against the oracle"))
    for group, kind in ((exact, "exact models"), (others, "networks")):
        for solver in sorted({cell["solver"] for cell in group}):
            lines.append(row(f"`{solver}`, {kind}", [cell for cell in group if cell["solver"] == solver], "oracle"))
    for ours, title in CHEAP.items():
        lines.append(head(f"{title}, against the best of"))
        lines += [
            row("searched, at most 6 calls, exact models", few_exact, "searched", ours),
            row("searched, at most 6 calls, networks", few_others, "searched", ours),
            row("**D**, exact models", exact, "D", ours),
            row("**D**, networks", others, "D", ours),
            row("**D**, at most 6 calls", few, "D", ours),
            row("**D**, 7 calls and more", [cell for cell in settled if cell["calls"] > 6], "D", ours),
        ]
    lines.append(head("ours against itself before its levels were fitted"))
    for title, solvers in (("one-step solvers", True), ("multistep solvers", False)):
        for group, kind in ((exact, "exact models"), (others, "networks")):
            chosen = [cell for cell in group if (SOLVERS[cell["solver"]].memory == 0) is solvers]
            for name, span in (("up to 6 calls", range(7)), ("7 calls and more", range(7, 100))):
                part = [cell for cell in chosen if cell["calls"] in span]
                lines.append(row(f"{title}, {kind}, {name}", part, "unfitted"))
    lines.append(head("model | "))
    for model, what in networks.WHAT.items():
        group = [cell for cell in settled if cell["model"] == model]
        lines.append(row(f"`{model}` | {what}", group))
    for title, key in (("solver", "solver"), ("calls", "calls")):
        lines.append(head(title))
        for value in sorted({cell[key] for cell in settled}, key=lambda each: (str(each).isdigit(), each)):
            lines.append(row(f"`{value}`" if key == "solver" else value, [cell for cell in settled if cell[key] == value]))
    for measure in MEASURES[1:]:
        duels = [found for cell in cells if cell not in settled and (found := duel(cell, "D", measure)) is not None]
        if duels:
            words, ratios = [each.word for each in duels], [each.ratio for each in duels]
            counts = ", ".join(f"{words.count(word)} {word}" for word in ("better", "even", "worse"))
            lines.append(f"\nstochastic solvers by {measure} to data: {counts}; median {np.median(ratios):.2f} of D's")
    matched = {ours: calls_to_match(settled, ours=ours) for ours in ("ours", "oracle")}
    lines.append("\ncalls to match D at 10, by rmse:\n")
    for solver in dict.fromkeys(solver for _, solver in matched["ours"]):
        for ours, found in matched.items():
            values = {model: calls for (model, each), calls in found.items() if each == solver}
            if values:
                told = f"median {np.median(list(values.values())):g}; " + ", ".join(f"{m} {c:g}" for m, c in values.items())
                lines.append(f"- {solver}, {ours}: {told}")
    for pool, ours in (("D", "ours"), ("H", "ours cold"), ("H warm", "ours")):
        duels = [found for cell in settled if (found := duel(cell, pool, "rmse", ours)) is not None]
        above = [each for each in duels if each.ratio > 1.15]
        sure = sum(each.word == "worse" for each in above)
        lines.append(f"\n{ours} above 1.15 of {pool}: {len(above)} of {len(duels)} cells, {sure} of them certainly worse")
        for cell in settled:
            found = duel(cell, pool, "rmse", ours)
            if found is not None and (found.ratio > 1.15 or (pool == "D" and found.word == "worse")):
                lines.append(f"\n{cell['model']} {cell['solver']} {cell['calls']}: {found.ratio:.2f} of {pool}, {found.word}")
    for cell in settled:
        for ours, title in CHEAP.items():
            if (found := duel(cell, "D", "rmse", ours)) is not None and found.word == "worse":
                where = f"{cell['model']} {cell['solver']} {cell['calls']}"
                lines.append(f"\n{title}, {where}: {found.ratio:.2f} of D, worse")
    spent = {}
    for cell in settled:
        for entry in cell["entries"]:
            if entry["calls"]:
                name = entry["name"].split()[0] if entry["pool"].startswith("searched") else entry["pool"]
                spent.setdefault((name, cell["exact"]), []).append(entry["calls"])
    rows = data_rows(settled)
    if rows:
        lines += ["\n| squared Fréchet distance to held-out data | cells | better | even | worse | median |"]
        lines += ["|---|--:|--:|--:|--:|--:|", *rows]
    lines.append("\n| calls spent, counted by item | models | least | median | most |\n|---|---|--:|--:|--:|")
    for (name, is_exact), calls in sorted(spent.items()):
        kind = "exact" if is_exact else "networks"
        lines.append(f"| {name} | {kind} | {min(calls):,} | {int(np.median(calls)):,} | {max(calls):,} |")
    return "\n".join(text for text in lines if text is not None)


def data_rows(cells):
    """Who is how near held-out data, where that was measured: verdicts and median ratio."""
    rows, duelists = [], [(f"ours against **D**, `{model}`", "D", "ours", model) for model in networks.WHAT]
    duelists += [(f"**D** against the converged samples, `{model}`", "converged", "D", model) for model in networks.WHAT]
    for title, pool, ours, model in (
        ("ours against **D**", "D", "ours", None),
        *((f"{title} against **D**", "D", ours, None) for ours, title in CHEAP.items()),
        ("**D** against the converged samples", "converged", "D", None),
        ("ours against the converged samples", "converged", "ours", None),
        *duelists,
    ):
        duels = [found for cell in cells if model in (None, cell["model"]) and (found := duel(cell, pool, TO_DATA, ours))]
        if duels:
            words = [each.word for each in duels]
            counts = " | ".join(str(words.count(word)) for word in ("better", "even", "worse"))
            rows.append(f"| {title} | {len(duels)} | {counts} | {np.median([each.ratio for each in duels]):.2f} |")
    return rows


def table(cells):
    """One row per cell: ours and each pool's best, by RMSE."""
    pools = ("D", "H", "H warm", "searched", "searched warm", "ours light", "ours quick", "ours cold", "oracle")
    lines = ["| model | solver | calls | ours | " + " | ".join(pools) + " | FD pixels | FD convolutions |"]
    lines.append("|---|---|--:|--:|" + "--:|" * (len(pools) + 2))
    for cell in cells:
        if SOLVERS[cell["solver"]].stochastic:
            continue
        own = best(cell, "ours", "rmse")
        row = f"| {cell['model']} | {cell['solver']} | {cell['calls']} | {np.mean(own['rmse']):.4f} {own['name']} "
        for pool in pools:
            found = duel(cell, pool, "rmse")
            row += f"| {'–' if found is None else f'{found.ratio:.2f} {found.word}'} "
        for measure in MEASURES[1:]:
            found = duel(cell, "D", measure)
            row += f"| {'–' if found is None else f'{found.ratio:.2f} {found.word}'} "
        lines.append(row + "|")
    return "\n".join(lines)


def figures(cells, folder):
    """Ratios of every deterministic cell, by model: to the best default, and to the best in hindsight with our start."""
    settled = [cell for cell in cells if not SOLVERS[cell["solver"]].stochastic]
    folder.mkdir(parents=True, exist_ok=True)
    for pool, measure, label in (
        ("D", "rmse", "RMSE: ours over the best default grid"),
        ("D", "fd_pixels", "Fréchet distance: ours over the best default grid"),
        ("H warm", "rmse", "RMSE: ours over the best grid in hindsight, both from our start"),
    ):  # fmt: skip
        ratios, sure = {}, {}
        for cell in settled:
            if (found := duel(cell, pool, measure)) is not None:
                ratios.setdefault(cell["model"], []).append(found.ratio)
                sure.setdefault(cell["model"], []).append(found.word != "even")
        ax = plots.ratio_dots(ratios, sure=sure, xlabel=label)
        name = f"tournament-{pool}-{measure}.png".lower().translate(str.maketrans(" _", "--"))
        ax.figure.savefig(folder / name, dpi=160)


def read(folder):
    """All finished cells, those condensed to a file for each model among them."""
    cells = [json.loads(file.read_text()) for file in sorted(Path(folder).glob("*/*.json"))]
    return cells + [json.loads(line) for file in sorted(Path(folder).glob("*.jsonl")) for line in file.read_text().splitlines()]


def condensed(cell):
    """What the tables need of a cell, to six digits: of each pool the best by each measure, of others what they cost."""
    measures = (*MEASURES, TO_DATA)
    needed = {id(best(cell, pool, measure)) for pool in {e["pool"] for e in cell["entries"]} for measure in measures}
    # The second default as well, which `confirm.py` runs too.
    known = sorted((e for e in cell["entries"] if e["pool"] == "D" and e["rmse"]), key=lambda e: np.mean(e["rmse"]))
    needed |= {id(entry) for entry in known[:2]}
    entries = []
    for entry in cell["entries"]:
        if id(entry) in needed:
            entries.append({key: value for key, value in entry.items() if key != "seconds"})
        elif entry["calls"]:
            entries.append({key: entry[key] for key in ("pool", "name", "calls")} | dict.fromkeys(MEASURES, ()))
    return _rounded({key: value for key, value in cell.items() if key not in ("notes", "seconds")} | {"entries": entries})


def _rounded(value):
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_rounded(each) for each in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def condense(cells, folder):
    """Write them, a line each, to a file for each model."""
    folder.mkdir(parents=True, exist_ok=True)
    for model in dict.fromkeys(cell["model"] for cell in cells):
        chosen = sorted((cell for cell in cells if cell["model"] == model), key=lambda each: (each["solver"], each["calls"]))
        lines = [json.dumps(condensed(cell), separators=(",", ":"), ensure_ascii=False) for cell in chosen]
        (folder / f"{model}.jsonl").write_text("\n".join(lines) + "\n")


def place(folder, name, solver, calls):
    """Where a finished cell lies."""
    return Path(folder) / name / f"{solver}-{int(calls):02d}.json"


def lacks_oracle(cell):
    """Whether a finished cell could have an oracle and has none."""
    return not SOLVERS[cell["solver"]].stochastic and best(cell, "oracle", "rmse") is None


def cheapened(given, name):
    """Make the plans by theory alone and the quick ones of a model's finished cells anew."""
    benches = {}
    for file in sorted((given.folder / name).glob("*.json")):
        cell = json.loads(file.read_text())
        size = cell["seeds"], cell["items"]
        if size not in benches:
            benches[size] = Bench(name, folder=given.networks, seeds=size[0], items=size[1])
        found = benches[size].with_cheap(cell)
        file.write_text(json.dumps(found))
        measure = "fd_pixels" if SOLVERS[cell["solver"]].stochastic else "rmse"
        said = (duel(found, "D", measure, pool) for pool in benches[size].cheap)
        told = ", ".join(f"{each.ratio:.2f} of D, {each.word}" for each in said)
        print(f"{name} {cell['solver']} {cell['calls']}: {told}", flush=True)


def finished(given, name):
    """The finished deterministic cells of a model, of the solvers and calls that `arguments` were given."""
    wanted = (cell for cell in read(given.folder) if cell["model"] == name and cell["calls"] in given.calls)
    return [cell for cell in wanted if cell["solver"] in given.solvers and not SOLVERS[cell["solver"]].stochastic]


def arguments(doc, *, calls=CALLS, solvers=("ddim", "dpmpp_2m", "unipc3", "ipndm4")):
    """A parser of what every script on the tournament's cells is told: folders, solvers and numbers of calls."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("results"))
    parser.add_argument("--networks", type=Path, default=Path("networks"), help="where train.py put ours")
    parser.add_argument("--solvers", type=lambda text: tuple(text.split(",")), default=solvers)
    parser.add_argument("--calls", type=lambda text: tuple(int(part) for part in text.split(",")), default=calls)
    return parser


def main():
    parser = arguments(__doc__)
    parser.add_argument("names", nargs="*", help=", ".join((*networks.EXACT, *networks.SHARED, *networks.OWN)))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--items", type=int, default=40)
    parser.add_argument("--oracle", action="store_true", help="also fit levels to the judged noises, in finished cells too")
    parser.add_argument("--cheap", action="store_true", help="only make light and quick plans of finished cells anew")
    parser.add_argument("--brief", action="store_true", help="ours, light, quick, D and H warm alone")
    parser.add_argument("--figures", type=Path, help="a folder for figures of what the finished cells say")
    parser.add_argument("--summary", action="store_true", help="only print what the finished cells say")
    parser.add_argument("--condense", type=Path, help="a folder for what the tables need of them, a file for each model")
    given = parser.parse_args()
    for name in given.names if given.cheap else ():
        cheapened(given, name)
    for name in () if given.summary or given.cheap else given.names:
        (given.folder / name).mkdir(parents=True, exist_ok=True)
        bench = None
        for solver in given.solvers:
            for calls in given.calls:
                kept = place(given.folder, name, solver, calls)
                known = json.loads(kept.read_text()) if kept.is_file() else None
                if known is not None and not (given.oracle and lacks_oracle(known)):
                    continue
                seeds, items = (known["seeds"], known["items"]) if known else (given.seeds, given.items)
                if bench is None or (bench.seeds, bench.items) != (seeds, items):
                    bench = Bench(name, folder=given.networks, seeds=seeds, items=items)
                if known is None:
                    found = bench.cell(solver, calls, oracle=given.oracle, brief=given.brief)
                else:
                    found = bench.with_oracles(known)
                kept.write_text(json.dumps(found))
                said = duel(found, "D", "fd_pixels" if SOLVERS[solver].stochastic else "rmse")
                print(f"{name} {solver} {calls}: {said.ratio:.2f} of D, {said.word}, {found['seconds']:.0f} s", flush=True)
    cells = [cell for cell in read(given.folder) if not given.names or cell["model"] in given.names]
    print(table(cells))
    print(summary(cells))
    if given.figures is not None:
        figures(cells, given.figures)
    if given.condense is not None:
        condense(cells, given.condense)


if __name__ == "__main__":
    main()
