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

from eigenstep import Spectrum, catalogue_grids, divergence, grid, karras_law, sample, solver_named
from eigenstep.evaluation import squared_errors
from eigenstep.evaluation.competitors import steps_for
from eigenstep.models import effective_spectrum, error_curve, item_noise
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


def _sum(*predictors):
    return lambda model, solver, sigmas: sum(predictor(model, solver, sigmas) for predictor in predictors)


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
    "w2 + local": _sum(_by("w2"), _by("local")),
    "w2 + local + error": _sum(_by("w2", error=True), _by("local")),
    "magnitudes": magnitudes,
}
"""Name -> (model, solver, sigmas) -> what it says. "+ error" counts the network's excess error, "effective" is on the spectrum
that the network's own error curve asks for; the floor of "kl floored" is the data's standard deviation."""


def spearman(said, measured):
    """Rank correlation of one list with each column of another: (columns,); equal values share their mean rank.

    >>> spearman([1.0, 2.0, 3.0, 4.0], np.array([[1.0, 9.0], [2.0, 8.0], [4.0, 7.0], [3.0, 6.0]])).round(6).tolist()
    [0.8, -1.0]
    """
    from scipy.stats import rankdata

    first, second = rankdata(said), rankdata(np.asarray(measured), axis=0)
    first, second = first - first.mean(), second - second.mean(axis=0)
    return first @ second / np.sqrt((first @ first) * (second**2).sum(axis=0))


def correlations(cells, *, seed=0):
    """Of one model's cells: objective -> rho of each cell, and of each resample of the noises: (cells,), (cells, resampled)."""
    count = len(cells[0]["squares"][0])
    # One resample serves all cells, since all of them run the same noises.
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLED) / count
    found = {name: ([], []) for name in PREDICTORS}
    for cell in cells:
        squares = np.array(cell["squares"])
        resampled = squares @ weights.T
        for name, (plain, drawn) in found.items():
            plain.append(float(spearman(cell["said"][name], squares.mean(axis=1)[:, None])[0]))
            drawn.append(spearman(cell["said"][name], resampled))
    return {name: (np.array(plain), np.array(drawn)) for name, (plain, drawn) in found.items()}


def repeatability(cells):
    """Rho between the measured errors on either half of the noises, median over cells: what no predictor can much exceed."""
    halves = [np.array(cell["squares"]) for cell in cells]
    return float(np.median([spearman(s[:, ::2].mean(axis=1), s[:, 1::2].mean(axis=1)[:, None])[0] for s in halves]))


def prices(cells):
    """Objective -> measured error of its first choice over the least, per cell."""
    measured = [np.sqrt(np.mean(cell["squares"], axis=1)) for cell in cells]
    return {
        name: [float(m[int(np.argmin(cell["said"][name]))] / m.min()) for cell, m in zip(cells, measured, strict=True)]
        for name in PREDICTORS
    }


KINDS = {"one-step": lambda solver: solver in ONE_STEP, "multistep": lambda solver: solver not in ONE_STEP}


def table(results):
    """One row per model and kind of solver: the median rho of each objective with its interval; then prices likewise."""
    names = list(PREDICTORS)
    lines = []
    for kind, wanted in KINDS.items():
        chosen = {model: [cell for cell in cells if wanted(cell["solver"])] for model, cells in results.items()}
        chosen = {model: cells for model, cells in chosen.items() if cells}
        if not chosen:
            continue
        lines += [f"| {kind} solvers: rho | {' | '.join(names)} | repeated |", "|---|" + "--:|" * (len(names) + 1)]
        every = {name: [] for name in names}
        for model, cells in chosen.items():
            texts = []
            for name, (plain, drawn) in correlations(cells).items():
                low, high = np.percentile(np.median(drawn, axis=0), [2.5, 97.5])
                every[name].extend(plain)
                texts.append(f"{np.median(plain):.2f} ({low:.2f}–{high:.2f})")
            lines.append(f"| {model} | {' | '.join(texts)} | {repeatability(cells):.2f} |")
        lines.append(f"| **all: median** | {' | '.join(f'{np.median(every[name]):.2f}' for name in names)} | |")
        lines.append(f"| all: least | {' | '.join(f'{min(every[name]):.2f}' for name in names)} | |")
        lines += ["", f"| {kind} solvers: price | {' | '.join(names)} |", "|---|" + "--:|" * len(names)]
        every = {name: [] for name in names}
        for model, cells in chosen.items():
            paid = prices(cells)
            for name in names:
                every[name].extend(paid[name])
            lines.append(f"| {model} | {' | '.join(f'{np.median(paid[name]):.2f}' for name in names)} |")
        lines.append(f"| **all: median** | {' | '.join(f'{np.median(every[name]):.2f}' for name in names)} |")
        lines += [f"| all: largest | {' | '.join(f'{max(every[name]):.2f}' for name in names)} |", ""]
    return "\n".join(lines)


def by_cell(results):
    """Solver x calls: the median rho over models of each objective."""
    found = {}
    for cells in results.values():
        for name, (plain, _) in correlations(cells).items():
            for cell, rho in zip(cells, plain, strict=True):
                found.setdefault((cell["solver"], cell["calls"]), {}).setdefault(name, []).append(rho)
    lines = [f"| solver | calls | {' | '.join(PREDICTORS)} |", "|---|--:|" + "--:|" * len(PREDICTORS)]
    for (solver, calls), rhos in found.items():
        lines.append(f"| {solver} | {calls} | {' | '.join(f'{np.median(rhos[name]):.2f}' for name in PREDICTORS)} |")
    return "\n".join(lines)


def run(name, folder, *, noises, solvers=SOLVERS, calls=CALLS):
    """All cells of one model, those in `folder` read from it."""

    @functools.cache
    def model():
        return loaded(name, noises)

    cells = []
    for solver in solvers:
        for count in calls:
            kept = folder / f"{name}-{noises}-{solver}-{count}.json"
            if not kept.is_file():
                # By another name first: a run that is stopped leaves no half of a cell.
                part = kept.with_suffix(".part")
                part.write_text(json.dumps(model().cell(solver, count)))
                part.rename(kept)
                print(f"{name}: {solver}, {count} calls", flush=True)
            cells.append(json.loads(kept.read_text()))
    return cells


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=mixtures.DATASETS)
    parser.add_argument("--folder", type=Path, default=Path("results/predictor"))
    parser.add_argument("--noises", type=int, default=256)
    parser.add_argument("--solvers", type=lambda text: tuple(text.split(",")), default=SOLVERS)
    parser.add_argument("--calls", type=lambda text: tuple(int(part) for part in text.split(",")), default=CALLS)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    results = {
        name: run(name, given.folder, noises=given.noises, solvers=given.solvers, calls=given.calls) for name in given.names
    }
    print(f"\n{table(results)}\n{by_cell(results)}\n")
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
