"""How far planned noise levels are from those of the truth when only n = d/4 samples are at hand, with and without mending.

    python benchmarks/few_samples.py [--seeds 6] [--dim 4096] [--only NAME ...] [--data FOLDER]

Known spectra: Gaussian samples are drawn, and grids of 6 steps planned from the sample's eigenvalues, from two classical
shrinkages of them, and from `Population`. "known directions" plans with the sample variances along the true eigenvectors:
what is left then is the luck of the draw, which no estimator can undo. Each number is the root mean square over the seeds
of the largest relative difference among the planned levels; "cost" is the largest excess error of the plan, on the truth.
"sure" counts how often the truth's levels lie within the 95 % intervals of `plan_certainty`.

With --data, the same on real data: n = d/4 items drawn from mnist.npz, fashion_mnist.npz and ecg512.npz in that folder,
against all of them. There the samples are no Gaussians, and `Population.from_samples` is shown beside `from_spectrum`.
"""

from __future__ import annotations

import argparse
import os
import platform
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from eigenstep import RankWarning, Spectrum, __version__, divergence, optimal_grid
from eigenstep.estimation import (
    Population,
    ledoit_wolf_shrinkage,
    nonlinear_shrinkage,
    plan_certainty,
)

STEPS, RANGE = 6, (0.002, 80.0)
PLANS = {
    "ddim w2": {"solver": "ddim", "objective": "w2"},
    "ddim kl": {"solver": "ddim", "objective": "kl"},
    "2m w2": {"solver": "dpmpp_2m", "objective": "local"},
    "2m kl": {"solver": "dpmpp_2m", "objective": "local"},
}
"""Objectives; those named kl get a noise floor at the truth's standard deviation. 2m is DPM-Solver++(2M), local error."""


def smooth(name: str) -> np.ndarray:
    """The zoo's spectrum as single eigenvalues."""
    kept = Spectrum.from_zoo(name)
    positive = kept.eigenvalues > 0
    middle = (np.cumsum(kept.multiplicities) - 0.5 * kept.multiplicities)[positive]
    return np.exp(np.interp(np.arange(int(kept.dim)) + 0.5, middle, np.log(kept.eigenvalues[positive])))


def truths(dim: int) -> dict[str, np.ndarray]:
    rank = np.arange(1.0, dim + 1)
    spikes = np.r_[50.0, 30.0, 20.0, 10.0, 5.0, np.full(dim - 5, 0.1)]
    levels = np.where(rank <= dim / 10, 1.0, 0.01)
    powers = {f"power law {p:g}": rank**-p for p in (1.0, 1.5, 2.0, 3.0)}
    made = {**powers, "5 spikes on noise": spikes, "two levels": levels}
    return {**made, **{name: smooth(name) for name in ("cifar10", "fashion-mnist", "mnist", "ecg", "speech")}}


def goals(truth: Spectrum) -> dict[str, dict]:
    return {name: {**goal, "noise_floor": truth.std if name.endswith("kl") else 0.0} for name, goal in PLANS.items()}


def measure(truth: Spectrum, estimates: Callable[[int], tuple[dict[str, Spectrum], Population]], seeds: int) -> None:
    """Print one row for each way to estimate the spectrum."""
    wanted = {name: optimal_grid(truth, STEPS, *RANGE, **goal) for name, goal in goals(truth).items()}
    moved: dict[str, list[list[float]]] = {}
    cost: dict[str, float] = {}
    inside = []
    for seed in range(seeds):
        spectra, population = estimates(seed)
        for way, spectrum in spectra.items():
            row = []
            for name, goal in goals(truth).items():
                sigmas = optimal_grid(spectrum, STEPS, *RANGE, **goal).sigmas
                row.append(float(np.max(np.abs(sigmas[1:-1] / wanted[name].sigmas[1:-1] - 1))))
                excess = divergence(truth, sigmas, **goal) / wanted[name].value - 1
                cost[way] = max(cost.get(way, 0.0), excess)
            moved.setdefault(way, []).append(row)
        for name in ("ddim w2", "ddim kl"):
            sure = plan_certainty(population, STEPS, *RANGE, **goals(truth)[name])
            level = wanted[name].sigmas[1:-1]
            inside.append(np.mean((sure.lower[1:-1] <= level) & (level <= sure.upper[1:-1])))
    for way, rows in moved.items():
        rms = np.sqrt(np.mean(np.square(rows), axis=0))
        sure_text = f"{100 * np.mean(inside):6.0f} %" if way.startswith("population") else ""
        print(f"    {way:30s}" + "".join(f"{100 * value:9.2f}" for value in rms) + f"{100 * cost[way]:9.2f}  {sure_text}")


def known(lam: np.ndarray) -> Callable[[int], tuple[dict[str, Spectrum], Population]]:
    def estimates(seed: int) -> tuple[dict[str, Spectrum], Population]:
        n = lam.size // 4
        x = np.random.default_rng(seed).standard_normal((n, lam.size)) * np.sqrt(lam)
        x -= x.mean(axis=0)
        sample = Spectrum.from_samples(x)
        population = Population.from_spectrum(sample)
        return {
            "sample as it is": sample,
            "linear shrinkage": ledoit_wolf_shrinkage(x),
            "nonlinear shrinkage": nonlinear_shrinkage(sample),
            "population (from_spectrum)": population.spectrum,
            "known directions (the limit)": Spectrum.from_eigenvalues(np.sum(x**2, axis=0) / (n - 1)),
        }, population

    return estimates


def real(x: np.ndarray, truth: Spectrum, directions: np.ndarray) -> Callable[[int], tuple[dict[str, Spectrum], Population]]:
    def estimates(seed: int) -> tuple[dict[str, Spectrum], Population]:
        n = x.shape[1] // 4
        chosen = x[np.random.default_rng(seed).choice(len(x), n, replace=False)].astype(np.float64)
        sample = Spectrum.from_samples(chosen)
        population = Population.from_samples(chosen)
        along = np.var(chosen @ directions, axis=0, ddof=1)
        along[along < 1e-12 * along.max()] = 0.0
        return {
            "sample as it is": sample,
            "linear shrinkage": ledoit_wolf_shrinkage(chosen),
            "eigenvalues only (from_spectrum)": Population.from_spectrum(sample).spectrum,
            "population (from_samples)": population.spectrum,
            "known directions (the limit)": Spectrum.from_eigenvalues(along),
        }, population

    return estimates


def items(folder: Path, name: str) -> np.ndarray:
    with np.load(folder / f"{name}.npz") as archive:
        x = archive["train"].reshape(len(archive["train"]), -1).astype(np.float32)
    return x * 1e-3 if name == "ecg512" else x / 127.5 - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--dim", type=int, default=4096, help="dimension of the spectra that are made up")
    parser.add_argument("--only", nargs="*", help="spectra to take, by name; default all")
    parser.add_argument("--data", type=Path, help="folder with mnist.npz, fashion_mnist.npz and ecg512.npz")
    options = parser.parse_args()
    warnings.simplefilter("ignore", RankWarning)

    print(f"largest move of a planned level, % (rms over {options.seeds} seeds), and the largest cost, %; n = d/4")
    print(" " * 34 + "".join(f"{name:>9s}" for name in PLANS) + f"{'cost':>9s}  sure")
    chosen = {name: lam for name, lam in truths(options.dim).items() if options.only is None or name in options.only}
    for name, lam in chosen.items():
        print(f"{name}, d = {lam.size}, n = {lam.size // 4}", flush=True)
        measure(Spectrum.from_eigenvalues(lam), known(lam), options.seeds)
    if options.data is not None:
        print("\nreal data against all of it")
        for name in ("mnist", "fashion_mnist", "ecg512"):
            x = items(options.data, name)
            print(f"{name}, d = {x.shape[1]}, n = {x.shape[1] // 4} of {len(x)}", flush=True)
            directions = np.linalg.eigh(np.cov(x.astype(np.float64), rowvar=False))[1]
            truth = Spectrum.from_samples(x, precision="float64")
            measure(truth, real(x, truth, directions), options.seeds)
    print(f"\neigenstep {__version__}, numpy {np.__version__}, {platform.machine()}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
