"""How well a Gaussian predicts which grid a model runs best on: rank correlations over the catalogue, docs/theory_figures.md.

    EIGENSTEP_SHARED=../shared python experiments/predictor.py mnist14 mnist28 cifar16 speech ecg --folder results/predictor
    EIGENSTEP_SHARED=../shared python experiments/predictor.py sdaloglu_mnist_lin100ep --noises 32 --folder results/predictor

A model is an exact mixture (`mixtures.py`: no network error) or a shared network (`shared_networks.py`). For each solver and
number of calls every grid of the catalogue is run, at three lowest levels where it has one, from the same noises; measured is
the root mean square difference from the converged endpoint of the same noise. What the Gaussian says of the same grids, for
each objective, is correlated with that by rank (Spearman's rho). Intervals: 95 % of the bootstrap over noises. The price of
an objective is what its choice costs: the measured error of the grid that it ranks first over the least measured. Finished
cells are kept in `--folder`, and a second call goes on.
"""

import argparse
import datetime
import functools
import json
import math
import os
from pathlib import Path

import mixtures
import numpy as np

from eigenstep import Spectrum, catalogue_grids, divergence, grid, karras_law, optimal_grid, sample, solver_named
from eigenstep.evaluation import squared_errors
from eigenstep.evaluation.competitors import steps_for
from eigenstep.models import effective_spectrum, error_curve, item_noise
from eigenstep.optimal.objective import GridObjective
from eigenstep.transfer import local_errors

SOLVERS = ("ddim", "heun", "dpmpp_2m", "unipc3", "ipndm4")
ONE_STEP = ("ddim", "heun")
CALLS = (4, 6, 10)
NODES = 96
"""Of the spectra: far fewer differ by less than any two grids."""

GAUGE_ITEMS = 400
RESAMPLED = 400


class Model:
    """A denoiser with its range, its spectrum, its gauge and its own converged endpoints."""

    def __init__(self, denoiser, data, spectrum, low, high, *, noises, reference_steps, path=None):
        self.denoiser, self.low, self.high, self.path = denoiser, low, high, path
        self.spread = math.sqrt(spectrum.trace / spectrum.dim)
        self.lowest = tuple(np.geomspace(low, 0.2 * self.spread, 3))
        curve = error_curve(denoiser, data, spectrum=spectrum, sigma_min=low, sigma_max=high)
        self.spectrum, self.error = spectrum.binned(NODES), curve.call_error
        self.effective = effective_spectrum(curve, spectrum).binned(NODES)
        self.states = high * item_noise(range(noises), data.shape[1:], seed=2001)
        fine, coarse = (
            grid(karras_law(low, high, rho=7.0), steps, final=0.0) for steps in (reference_steps, reference_steps // 2)
        )
        self.endpoint = sample(denoiser, self.states, fine, solver="dpmpp_2m")
        half = sample(denoiser, self.states, coarse, solver="dpmpp_2m")
        self.endpoint_error = float(np.sqrt(squared_errors(half, self.endpoint).mean()))

    def grids(self, n):
        """Name -> sigmas: the catalogue at every lowest level, each grid once."""
        found, seen = {}, set()
        for low in self.lowest:
            for name, sigmas in catalogue_grids(n, low, self.high, spectrum=self.spectrum, path=self.path).items():
                if (key := sigmas.tobytes()) not in seen:
                    seen.add(key)
                    found[f"{name} from {low:.3g}"] = sigmas
        return found

    def cell(self, solver, calls):
        """What every grid measures, noise by noise, and what each objective says of it."""
        n = steps_for(calls, solver_named(solver))
        grids = self.grids(n)
        ends = (sample(self.denoiser, self.states, sigmas, solver=solver) for sigmas in grids.values())
        squares = [squared_errors(end, self.endpoint) for end in ends]
        said = {name: [float(value(self, solver, sigmas)) for sigmas in grids.values()] for name, value in PREDICTORS.items()}
        return {
            "solver": solver, "calls": solver_named(solver).nfe(n), "said": said,
            "grids": {name: sigmas.tolist() for name, sigmas in grids.items()},
            "squares": [[float(f"{value:.6g}") for value in row] for row in squares],
            "endpoint_error": self.endpoint_error, "standard_deviation": self.spread,
            "date": datetime.date.today().isoformat(),
        }  # fmt: skip

    def planned(self, solver, calls):
        """What the grid that is best for each of `PLANNED` measures, noise by noise: predicting is not yet planning."""
        method = solver_named(solver)
        n = steps_for(calls, method)
        found = {}
        for name, (share, effective) in PLANNED.items():
            spectrum = self.effective if effective else self.spectrum
            sigmas = best_blend(spectrum, n, self.low, self.high, solver=method, share=share)
            squares = squared_errors(sample(self.denoiser, self.states, sigmas, solver=method), self.endpoint)
            found[name] = {"sigmas": sigmas.tolist(), "squares": [float(f"{value:.6g}") for value in squares]}
        return found


def loaded(name, noises):
    """The `Model` of a mixture or a shared network."""
    if name in mixtures.DATASETS:
        mixture = mixtures.fitted(name)
        spectrum = mixture.spectrum()
        # EDM's range, 0.002 to 80 for data of standard deviation 0.5, in units of these data.
        spread = math.sqrt(spectrum.trace / spectrum.dim)
        data = mixture.draw(GAUGE_ITEMS, 7)
        return Model(mixture, data, spectrum, 0.004 * spread, 160.0 * spread, noises=noises, reference_steps=300)
    import shared_networks

    net, data = shared_networks.denoiser(name), shared_networks.images(name)[:GAUGE_ITEMS]
    spectrum = Spectrum.from_samples(shared_networks.images(name, "train"))
    return Model(net, data, spectrum, net.sigma_min, net.sigma_max, noises=noises, reference_steps=100, path=net.path)


PLANNED = {
    "w2": (0.0, False),
    "w2 + local/20": (0.05, False),
    "w2 + local/5": (0.2, False),
    "w2 + local": (1.0, False),
    "local": (math.inf, False),
    "w2 effective": (0.0, True),
    "w2 + local/5 effective": (0.2, True),
    "local effective": (math.inf, True),
}
"""Name -> share of `local` beside `w2` (infinite: `local` alone), and whether on the effective spectrum."""


def best_blend(spectrum, n, low, high, *, solver, share):
    """The grid of n steps to 0 with the least w2 + share local, by SLSQP from the optima of both and the best usual grids."""
    from scipy.optimize import minimize

    w2, local = (optimal_grid(spectrum, n, low, high, solver=solver, objective=aim).sigmas for aim in ("w2", "local"))
    if share in (0.0, math.inf):
        return local if share else w2
    whole, steps = (GridObjective(spectrum, solver, aim, 0.0, "marginal") for aim in ("w2", "local"))

    def both(grids):
        return [one + share * other for one, other in zip(whole(grids), steps(grids), strict=True)]

    def cut(y):
        return np.concatenate([[high], np.exp(y), [0.0]])

    def value(y):
        total, slope = both(cut(y)[None])
        return float(np.log(total[0])), slope[0, 1:-1] / total[0]

    usual = list(catalogue_grids(n, low, high, spectrum=spectrum).values())
    ranked = np.argsort(both(np.stack(usual))[0])[:3]
    # Neighbours at least 1 % apart, no call below `low`: what `optimal_grid` allows.
    matrix = np.zeros((n, n - 1))
    matrix[np.arange(n - 1), np.arange(n - 1)] = -1.0
    matrix[np.arange(1, n - 1), np.arange(n - 2)] = 1.0
    matrix[n - 1, n - 2] = 1.0
    bound = np.full(n, 0.01)
    bound[0] -= math.log(high)
    bound[n - 1] = math.log(low)
    held = {"type": "ineq", "fun": lambda y: matrix @ y - bound, "jac": lambda y: matrix}
    ends = []
    for start in (w2, local, *(usual[k] for k in ranked)):
        found = minimize(value, np.log(start[1:-1]), jac=True, method="SLSQP", constraints=held, options={"maxiter": 300})
        if np.all(matrix @ found.x >= bound - 1e-6):
            ends.append((found.fun, found.x))
    return cut(min(ends, key=lambda end: end[0])[1])


def _by(objective, *, floored=False, error=False, effective=False):
    """A divergence as a predictor; the floor is the data's standard deviation."""

    def value(model, solver, sigmas):
        return divergence(
            model.effective if effective else model.spectrum,
            sigmas,
            solver=solver,
            objective=objective,
            noise_floor=model.spread if floored else 0.0,
            denoiser_error=model.error if error else None,
        )

    return value


def magnitudes(model, solver, sigmas):
    """sum_i m_i (sum_k |delta_ki|)^2: as if no two errors of single steps could cancel. Theory section 7."""
    delta = local_errors(solver_named(solver), model.spectrum.eigenvalues, sigmas[None]).error[0]
    return model.spectrum.multiplicities @ np.abs(delta).sum(axis=0) ** 2


PREDICTORS = {
    "kl": _by("kl"),
    "reverse_kl": _by("reverse_kl"),
    "kl floored": _by("kl", floored=True),
    "w2": _by("w2"),
    "local": _by("local"),
    "w2 + error": _by("w2", error=True),
    "local + error": _by("local", error=True),
    "w2 effective": _by("w2", effective=True),
    "local effective": _by("local", effective=True),
    "magnitudes": magnitudes,
}
"""Name -> (model, solver, sigmas) -> what it says. "+ error" counts the network's excess error, "effective" is on the spectrum
that the network's own error curve asks for; the floor of "kl floored" is the data's standard deviation."""


def _blend(share, kind="", error=""):
    """w2 + share local, of what was said; both are squared data units, and the network's error counts once."""
    return lambda said: np.array(said[f"w2{kind}{error}"]) + share * np.array(said[f"local{kind}"])


def _louder(share, spectrum=""):
    """w2 on a spectrum plus `share` times what the network's excess error adds: errors of neighbouring calls may agree."""
    return lambda said: np.array(said[f"w2{spectrum}"]) + share * (np.array(said["w2 + error"]) - np.array(said["w2"]))


BLENDS = {
    "w2 + local": _blend(1.0),
    "w2 + local/5": _blend(0.2),
    "w2 + local/5 + error": _blend(0.2, error=" + error"),
    "w2 + local/5 effective": _blend(0.2, " effective"),
    "w2 + 4 errors": _louder(4.0),
    "w2 effective + error": _louder(1.0, " effective"),
    "w2 effective + 4 errors": _louder(4.0, " effective"),
    "sqrt(w2 local)": lambda said: np.sqrt(np.array(said["w2"]) * np.array(said["local"])),
}
"""Name -> what it makes of what the predictors said of the same grids."""

OBJECTIVES = (*PREDICTORS, *BLENDS)


def said(cell, name):
    """What an objective says of every grid of a cell: (grids,)."""
    return np.asarray(BLENDS[name](cell["said"]) if name in BLENDS else cell["said"][name])


MEASURES = {"root mean square": np.mean, "median noise": np.median}
"""How the squared errors of all noises become one: noises that end in another mode of the data rule the first."""


def spearman(said, measured):
    """Rank correlation of one list with each column of another: (columns,); equal values share their mean rank.

    >>> spearman([1.0, 2.0, 3.0, 4.0], np.array([[1.0, 9.0], [2.0, 8.0], [4.0, 7.0], [3.0, 6.0]])).round(6).tolist()
    [0.8, -1.0]
    """
    from scipy.stats import rankdata

    first, second = rankdata(said), rankdata(np.asarray(measured), axis=0)
    first, second = first - first.mean(), second - second.mean(axis=0)
    return first @ second / np.sqrt((first @ first) * (second**2).sum(axis=0))


def correlations(cells, measure="root mean square", *, seed=0):
    """Of one model's cells: objective -> rho of each cell, and of each resample of the noises: (cells,), (cells, resampled)."""
    count = len(cells[0]["squares"][0])
    # One resample serves all cells, since all of them run the same noises.
    drawn = np.random.default_rng(seed).integers(count, size=(RESAMPLED, count))
    found = {name: ([], []) for name in OBJECTIVES}
    for cell in cells:
        squares = np.array(cell["squares"])
        whole = MEASURES[measure](squares, axis=1)[:, None]
        resampled = np.stack([MEASURES[measure](squares[:, chosen], axis=1) for chosen in drawn], axis=1)
        for name, (plain, again) in found.items():
            plain.append(float(spearman(said(cell, name), whole)[0]))
            again.append(spearman(said(cell, name), resampled))
    return {name: (np.array(plain), np.array(again)) for name, (plain, again) in found.items()}


def repeatability(cells):
    """Rho between the measured errors on either half of the noises, median over cells: what no predictor can much exceed."""
    halves = [np.array(cell["squares"]) for cell in cells]
    return float(np.median([spearman(s[:, ::2].mean(axis=1), s[:, 1::2].mean(axis=1)[:, None])[0] for s in halves]))


def prices(cells, measure="root mean square"):
    """Objective -> measured error of its first choice over the least, per cell."""
    measured = [np.sqrt(MEASURES[measure](cell["squares"], axis=1)) for cell in cells]
    return {
        name: [float(m[int(np.argmin(said(cell, name)))] / m.min()) for cell, m in zip(cells, measured, strict=True)]
        for name in OBJECTIVES
    }


KINDS = {"one-step": lambda solver: solver in ONE_STEP, "multistep": lambda solver: solver not in ONE_STEP}


def of_kind(results, kind):
    """Model -> its cells with that kind of solver, models without any left out."""
    chosen = {model: [cell for cell in cells if KINDS[kind](cell["solver"])] for model, cells in results.items()}
    return {model: cells for model, cells in chosen.items() if cells}


def summary(results, kind):
    """One row per objective: over all cells the median rho, the lowest tenth's, and median and mean price; by both measures."""
    chosen = of_kind(results, kind)
    lines = [f"| {kind} | " + " | ".join(f"{m}: rho | lowest tenth | price | mean price" for m in MEASURES) + " |"]
    lines.append("|---|" + "--:|" * (4 * len(MEASURES)))
    rows = {name: [] for name in OBJECTIVES}
    for measure in MEASURES:
        rhos = [correlations(cells, measure) for cells in chosen.values()]
        paid = [prices(cells, measure) for cells in chosen.values()]
        for name in OBJECTIVES:
            rho, price = np.concatenate([each[name][0] for each in rhos]), np.concatenate([each[name] for each in paid])
            rows[name] += [np.median(rho), np.percentile(rho, 10), np.median(price), np.mean(price)]
    for name, values in rows.items():
        lines.append(f"| {name} | " + " | ".join(f"{value:.2f}" for value in values) + " |")
    return "\n".join(lines)


def by_model(results, kind):
    """One row per objective, one column per model: median rho over its cells with the interval over noises."""
    chosen = of_kind(results, kind)
    found = {model: correlations(cells) for model, cells in chosen.items()}
    lines = [f"| {kind}: rho | " + " | ".join(found) + " |", "|---|" + "--:|" * len(found)]
    for name in OBJECTIVES:
        texts = []
        for rhos in found.values():
            plain, again = rhos[name]
            low, high = np.percentile(np.median(again, axis=0), [2.5, 97.5])
            texts.append(f"{np.median(plain):.2f} ({low:.2f} to {high:.2f})")
        lines.append(f"| {name} | " + " | ".join(texts) + " |")
    again = " | ".join(f"{repeatability(cells):.2f}" for cells in chosen.values())
    lines.append(f"| measured on the other half of the noises | {again} |")
    return "\n".join(lines)


RULES = {
    "w2, for multistep solvers local": ("w2", "local"),
    "**w2, for multistep solvers blend**": ("w2", "w2 + local/5"),
    "the same with the gauge's error": ("w2 + error", "w2 + local/5 + error"),
    "the same on the effective spectrum": ("w2 effective", "w2 + local/5 effective"),
}
"""What one would plan for, one-step and multistep solvers; `blend` is the package's w2 + local/5."""


def rules_table(results):
    """One row per rule and measure, one column per model and one for all: median rho over the cells of all solvers."""
    lines = ["| rho, all solvers | " + " | ".join(results) + " | all |", "|---|" + "--:|" * (len(results) + 1)]
    for measure in MEASURES:
        found = {model: correlations(cells, measure) for model, cells in results.items()}
        for rule, aims in RULES.items():
            rhos = []
            for model, cells in results.items():
                chosen = [found[model][aims[cell["solver"] not in ONE_STEP]][0] for cell in cells]
                rhos.append([each[place] for place, each in enumerate(chosen)])
            medians = [np.median(each) for each in (*rhos, np.concatenate(rhos))]
            lines.append(f"| {rule}, by {measure} | " + " | ".join(f"{each:.2f}" for each in medians) + " |")
    return "\n".join(lines)


def by_cell(results):
    """Solver x calls: the median rho over models of each objective."""
    found = {}
    for cells in results.values():
        for name, (plain, _) in correlations(cells).items():
            for cell, rho in zip(cells, plain, strict=True):
                found.setdefault((cell["solver"], cell["calls"]), {}).setdefault(name, []).append(rho)
    lines = ["| rho | " + " | ".join(f"{solver} {calls}" for solver, calls in found) + " |", "|---|" + "--:|" * len(found)]
    rows = {name: " | ".join(f"{np.median(rhos[name]):.2f}" for rhos in found.values()) for name in OBJECTIVES}
    lines += [f"| {name} | {row} |" for name, row in rows.items()]
    return "\n".join(lines)


def plans_table(results, plans, measure):
    """One row per kind of plan: its measured error over the least of the catalogue's (picked by it), over cells of a kind."""
    heads = [f"{kind}: median | mean | worst" for kind in KINDS]
    lines = [f"| {measure}: plan for | " + " | ".join(heads) + " |", "|---|" + "--:|" * (3 * len(KINDS))]
    for name in PLANNED:
        texts = []
        for wanted in KINDS.values():
            ratios = []
            for model, cells in results.items():
                for cell, made in zip(cells, plans[model], strict=True):
                    if wanted(cell["solver"]):
                        hand = MEASURES[measure](cell["squares"], axis=1).min()
                        ratios.append(math.sqrt(MEASURES[measure](made[name]["squares"]) / hand))
            texts.append(f"{np.median(ratios):.2f} | {np.mean(ratios):.2f} | {max(ratios):.2f}" if ratios else "– | – | –")
        lines.append(f"| {name} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


PAIRS = (("w2 + local/5", "local"), ("w2 + local/5", "w2"), ("w2 effective", "w2"), ("w2 + local/5 effective", "w2 + local/5"))


def pairs_table(results, plans):
    """One plan beside another on the same noises: ratios of their errors, and the paired 95 % interval's verdict per cell."""
    lines = [f"| plan for | over that for | kind | cells | better, even, worse | {' | '.join(MEASURES)} |"]
    lines.append("|---|---|---|--:|--:|--:|--:|")
    for first, second in PAIRS:
        for kind, wanted in KINDS.items():
            ratios, verdicts = {name: [] for name in MEASURES}, []
            for model, cells in results.items():
                for cell, made in zip(cells, plans[model], strict=True):
                    if wanted(cell["solver"]):
                        one, other = (np.array(made[name]["squares"]) for name in (first, second))
                        gained = other - one
                        spread = 1.96 * gained.std(ddof=1) / math.sqrt(gained.size)
                        verdicts.append("better" if gained.mean() > spread else "worse" if gained.mean() < -spread else "even")
                        for name, measure in MEASURES.items():
                            ratios[name].append(math.sqrt(measure(one) / measure(other)))
            if verdicts:
                counts = ", ".join(str(verdicts.count(word)) for word in ("better", "even", "worse"))
                medians = " | ".join(f"{np.median(values):.2f}" for values in ratios.values())
                lines.append(f"| {first} | {second} | {kind} | {len(verdicts)} | {counts} | {medians} |")
    return "\n".join(lines)


def run(name, folder, *, noises, solvers=SOLVERS, calls=CALLS):
    """All cells of one model and the plans for them, those in `folder` read from it."""

    @functools.cache
    def model():
        return loaded(name, noises)

    def kept(title, make):
        place = folder / f"{name}-{noises}-{title}.json"
        if not place.is_file():
            # By another name first: a run that is stopped leaves no half of a cell.
            part = place.with_suffix(".part")
            part.write_text(json.dumps(make()))
            part.rename(place)
            print(f"{name}: {title}", flush=True)
        return json.loads(place.read_text())

    cells, plans = [], []
    for solver in solvers:
        for count in calls:
            cells.append(kept(f"{solver}-{count}", lambda s=solver, c=count: model().cell(s, c)))
            plans.append(kept(f"plans-{solver}-{count}", lambda s=solver, c=count: model().planned(s, c)))
    return cells, plans


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=mixtures.DATASETS)
    parser.add_argument("--folder", type=Path, default=Path("results/predictor"))
    parser.add_argument("--noises", type=int, default=256)
    parser.add_argument("--solvers", type=lambda text: tuple(text.split(",")), default=SOLVERS)
    parser.add_argument("--calls", type=lambda text: tuple(int(part) for part in text.split(",")), default=CALLS)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    results, plans = {}, {}
    for name in given.names:
        results[name], plans[name] = run(
            name, given.folder, noises=given.noises, solvers=given.solvers, calls=given.calls
        )  # fmt: skip
    for kind in KINDS:
        if of_kind(results, kind):
            print(f"\n{summary(results, kind)}\n\n{by_model(results, kind)}")
    print(f"\n{rules_table(results)}\n\n{by_cell(results)}\n")
    for measure in MEASURES:
        print(f"{plans_table(results, plans, measure)}\n")
    print(f"{pairs_table(results, plans)}\n")
    for name, cells in results.items():
        counts = sorted({len(cell["grids"]) for cell in cells})
        print(
            f"{name}: {len(cells[0]['squares'][0])} noises, {counts[0]} to {counts[-1]} grids a cell, standard deviation "
            f"{cells[0]['standard_deviation']:.3g}, the endpoint with half its steps differs by "
            f"{cells[0]['endpoint_error']:.2g}, {cells[-1]['date']}"
        )
    print(f"{os.cpu_count()} cores")


if __name__ == "__main__":
    main()
