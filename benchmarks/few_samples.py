"""How far planned noise levels are from those of the truth when only n = d/4 samples are at hand, with and without mending.

    python benchmarks/few_samples.py [--seeds 6] [--dim 4096] [--only NAME ...] [--data FOLDER]

Known spectra: Gaussian samples are drawn, and grids of 6 steps planned from the sample's eigenvalues, from two classical
shrinkages of them, and from `Population`. "known directions" plans with the sample variances along the true eigenvectors:
what is left then is the luck of the draw, which no estimator can undo. Each number is the root mean square over the seeds
of the largest relative difference among the planned levels; "cost" is the largest excess error of the plan, on the truth.
"sure" counts how often the truth's levels lie within the 95 % intervals of `plan_certainty`.

Then what `choose_spectrum` takes from d/4 to 64 d samples.

With --data, halves in order and the test split against all items, beside what `plan_certainty` says with and without
`variance_error`; then the first table on real data: n = d/4 items drawn from mnist.npz, fashion_mnist.npz and ecg512.npz
in that folder, against all of them. There the samples are no Gaussians, and `Population.from_samples` is shown beside
`from_spectrum`.
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
    choose_spectrum,
    dof_from_samples,
    ledoit_wolf_shrinkage,
    nonlinear_shrinkage,
    plan_certainty,
    variance_error,
    with_evidence,
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


UNITS = {"ecg512": (1e-3, 0.0), "speech_digits_wave4096": (2.0**-15, 0.0)}
"""Scale and shift of the stored values; others are pixels."""


def items(folder: Path, name: str, part: str = "train") -> np.ndarray:
    with np.load(folder / f"{name}.npz") as archive:
        x = archive[part].reshape(len(archive[part]), -1).astype(np.float32)
    scale, shift = UNITS.get(name, (1 / 127.5, -1.0))
    return x * scale + shift


def choices(dims: int) -> None:
    """What `choose_spectrum` takes as samples become many, and how far its plan and the sample's own are from the truth."""
    print(f"\nthe choice: k^-1.5, d = {dims}, w2; largest move of a level, %, rms over 3 seeds")
    lam = np.arange(1.0, dims + 1) ** -1.5
    wanted = optimal_grid(Spectrum.from_eigenvalues(lam), STEPS, *RANGE).sigmas[1:-1]

    def move(spectrum: Spectrum) -> float:
        return float(np.max(np.abs(optimal_grid(spectrum, STEPS, *RANGE).sigmas[1:-1] / wanted - 1)))

    for n in (dims // 4, dims, 4 * dims, 16 * dims, 64 * dims):
        rows, taken = [], []
        for seed in range(3):
            x = np.random.default_rng(seed).standard_normal((n, lam.size)) * np.sqrt(lam)
            sample = Spectrum.from_samples(x)
            chosen = choose_spectrum(sample, *RANGE)
            rows.append([move(sample), move(chosen.spectrum), chosen.movement])
            taken.append(chosen.eigenvalues)
        raw, best, said = np.sqrt(np.mean(np.square(rows), axis=0))
        print(f"    n = {n:6d}  sample {100 * raw:6.2f}  chosen {100 * best:6.2f}  said {100 * said:6.2f}  {' '.join(taken)}")


def halves(folder: Path) -> None:
    """What the intervals say of real data, and where plans from halves and from the test split lie."""
    print("\nhalves in order and the test split against all items: levels, %; the interval without and with variance_error")
    for name in ("mnist", "fashion_mnist", "speech_digits_wave4096", "ecg512"):
        x = items(folder, name).astype(np.float64)
        energy = np.sum((x - x.mean(axis=0)) ** 2, axis=1)

        def population(y: np.ndarray, error: float | None = None) -> Population:
            curve = dof_from_samples(y) if len(y) <= 4 * y.shape[1] else None
            return Population.from_spectrum(with_evidence(Spectrum.from_samples(y), curve=curve, error=error))

        error = variance_error(energy)
        alone, known = (plan_certainty(population(x, given), STEPS, *RANGE) for given in (None, error))
        print(f"{name}: variance_error {error:.4f}, by single items {variance_error(energy, groups=len(x)):.4f}")
        print(f"    interval +- {100 * alone.movement:.1f} % without, +- {100 * known.movement:.1f} % with it: {known.verdict}")
        middle = len(x) // 2
        test = items(folder, name, "test").astype(np.float64)
        for part, y in (("first half", x[:middle]), ("second half", x[middle:]), (f"test, {len(test)}", test)):
            sigmas = optimal_grid(population(y).spectrum, STEPS, *RANGE).sigmas
            moves = 100 * (sigmas[1:-1] / known.sigmas[1:-1] - 1)
            print(f"    {part:14s}" + "".join(f"{move:+8.1f}" for move in moves))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--dim", type=int, default=4096, help="dimension of the spectra that are made up")
    parser.add_argument("--only", nargs="*", help="spectra to take, by name; default all")
    parser.add_argument("--data", type=Path, help="folder with mnist, fashion_mnist, ecg512 and speech_digits_wave4096.npz")
    options = parser.parse_args()
    warnings.simplefilter("ignore", RankWarning)

    print(f"largest move of a planned level, % (rms over {options.seeds} seeds), and the largest cost, %; n = d/4")
    print(" " * 34 + "".join(f"{name:>9s}" for name in PLANS) + f"{'cost':>9s}  sure")
    chosen = {name: lam for name, lam in truths(options.dim).items() if options.only is None or name in options.only}
    for name, lam in chosen.items():
        print(f"{name}, d = {lam.size}, n = {lam.size // 4}", flush=True)
        measure(Spectrum.from_eigenvalues(lam), known(lam), options.seeds)
    choices(256)
    if options.data is not None:
        halves(options.data)
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

# The choice, and the halves:
# the choice: k^-1.5, d = 256, w2; largest move of a level, %, rms over 3 seeds
#     n =     64  sample  92.68  chosen  10.36  said  80.22  population population population
#     n =    256  sample  21.50  chosen   2.14  said  20.43  population population population
#     n =   1024  sample   4.38  chosen   1.12  said   4.31  population population population
#     n =   4096  sample   1.28  chosen   1.28  said   1.46  sample sample sample
#     n =  16384  sample   0.69  chosen   0.69  said   0.37  sample sample sample
#
# halves in order and the test split against all items: levels, %; the interval without and with variance_error
# mnist: variance_error 0.0033, by single items 0.0012
#     interval +- 0.4 % without, +- 0.5 % with it: Planned sigmas move by at most 0.5 %: enough samples.
#     first half        +0.9    +0.9    +0.8    +0.6    +0.5
#     second half       -0.9    -0.9    -0.8    -0.6    -0.4
#     test, 10000       +1.8    +1.8    +1.7    +1.4    +0.9
# fashion_mnist: variance_error 0.0013, by single items 0.0015
#     interval +- 0.5 % without, +- 0.5 % with it: Planned sigmas move by at most 0.5 %: enough samples.
#     first half        +0.1    +0.1    +0.1    +0.2    +0.1
#     second half       -0.1    -0.1    -0.1    -0.1    +0.1
#     test, 10000       -0.1    -0.1    -0.2    -0.0    +0.3
# speech_digits_wave4096: variance_error 0.0268, by single items 0.0245
#     interval +- 0.6 % without, +- 2.8 % with it: Planned sigmas move by at most 2.8 %: enough samples.
#     first half        -1.5    -1.2    -1.2    -1.2    -5.1
#     second half       +1.6    +1.2    +1.2    +1.6    -0.4
#     test, 300         +1.4    -0.5    -0.4    -2.1    +4.8
# ecg512: variance_error 0.2101, by single items 0.0589
#     interval +- 1.3 % without, +- 22.6 % with it: Planned sigmas move by at most 23 %, which costs at most 2.7 % of the
#         predicted error: usable. About 140,000 samples would hold them to 3 %.
#     first half       -15.2   -14.5   -14.0   -12.8   -10.1
#     second half        +7.0    +6.0    +4.3    +3.9    +5.1
#     test, 292        -35.9   -36.3   -36.4   -34.2   -29.7
#
# Measured 2026-11-22, 2 cores of an AMD EPYC, other work on the machine:
# largest move of a planned level, % (rms over 6 seeds), and the largest cost, %; n = d/4
#                                     ddim w2  ddim kl    2m w2    2m kl     cost  sure
# power law 1, d = 4096, n = 1024
#     sample as it is                   88.53    49.89    93.75    42.53    61.56
#     linear shrinkage                  22.72    42.12    19.93    35.87    10.85
#     nonlinear shrinkage               10.28    14.77     4.93    13.68     2.24
#     population (from_spectrum)         2.79     0.68     3.02     1.78     0.18     100 %
#     known directions (the limit)       1.95     0.67     1.71     1.75     0.08
# power law 1.5, d = 4096, n = 1024
#     sample as it is                   32.62     2.55    35.01     3.12     3.00
#     linear shrinkage                  23.14     2.19    24.28     3.71     1.80
#     nonlinear shrinkage               39.33     3.92    29.44     3.50     3.21
#     population (from_spectrum)         2.44     1.18     2.93     2.61     0.32     100 %
#     known directions (the limit)       2.45     1.18     2.86     2.63     0.31
# power law 2, d = 4096, n = 1024
#     sample as it is                    2.65     1.50     2.98     2.58     0.54
#     linear shrinkage                   3.36     1.52     4.79     2.61     0.50
#     nonlinear shrinkage               82.08    63.24    80.88    76.78  1169.24
#     population (from_spectrum)         2.52     1.50     2.85     2.58     0.52     100 %
#     known directions (the limit)       2.54     1.50     2.86     2.60     0.53
# power law 3, d = 4096, n = 1024
#     sample as it is                    2.49     1.67     2.32     2.24     0.99
#     linear shrinkage                   2.52     1.68     2.53     2.25     0.93
#     nonlinear shrinkage               99.29    97.99    98.95    98.89 32375.14
#     population (from_spectrum)         2.48     1.68     2.33     2.27     0.95     100 %
#     known directions (the limit)       2.48     1.67     2.31     2.24     0.98
# 5 spikes on noise, d = 4096, n = 1024
#     sample as it is                   86.09    84.75   645.49   532.87   826.06
#     linear shrinkage                  36.18    76.12   188.10   477.73   750.03
#     nonlinear shrinkage                3.20     0.83     4.05     3.45     0.23
#     population (from_spectrum)         2.74     0.65     5.07     4.54     0.32     100 %
#     known directions (the limit)       2.73     0.65     4.74     3.10     0.27
# two levels, d = 4096, n = 1024
#     sample as it is                  103.31     5.30   302.09   300.33   377.21
#     linear shrinkage                  31.31    49.49   158.06   152.23   390.65
#     nonlinear shrinkage               13.69    28.79    36.57    91.68   152.82
#     population (from_spectrum)         0.15     0.29     0.91     2.94     0.51     100 %
#     known directions (the limit)       0.13     0.13     0.83     2.90     0.27
# cifar10, d = 3072, n = 768
#     sample as it is                   20.84     9.13    22.24     8.15     2.57
#     linear shrinkage                   2.68     7.29    15.31     6.58     1.91
#     nonlinear shrinkage               23.17     5.79    29.00    14.47    22.57
#     population (from_spectrum)         1.86     0.55     1.55     1.56     0.22     100 %
#     known directions (the limit)       1.90     0.56     1.63     1.62     0.23
# fashion-mnist, d = 784, n = 196
#     sample as it is                   70.09    22.66    71.69    16.93    26.16
#     linear shrinkage                   8.49    12.85     5.70     9.82     2.07
#     nonlinear shrinkage               14.85    16.23    12.62    14.84     4.70
#     population (from_spectrum)         4.17     1.84     6.05     4.78     1.42      97 %
#     known directions (the limit)       4.20     1.85     5.73     4.78     1.52
# mnist, d = 784, n = 196
#     sample as it is                   50.26    17.59    55.23    18.33    18.91
#     linear shrinkage                  23.53    20.93    19.54    21.64     6.87
#     nonlinear shrinkage               23.71    15.73    18.65    16.12     4.70
#     population (from_spectrum)         3.10     1.34     4.20     2.21     0.36      98 %
#     known directions (the limit)       2.31     1.14     2.78     2.60     0.32
# ecg, d = 512, n = 128
#     sample as it is                   31.26    15.79    33.40    19.97     9.70
#     linear shrinkage                  33.07    28.10    32.59    29.22    13.05
#     nonlinear shrinkage               35.26    13.61    32.07    14.53    13.28
#     population (from_spectrum)         3.05     1.88     5.94     2.85     0.88      93 %
#     known directions (the limit)       2.68     1.57     3.13     3.30     0.42
# speech, d = 4096, n = 1024
#     sample as it is                   23.30    10.91    25.70    13.70     4.98
#     linear shrinkage                  40.05    33.61    40.61    36.30    18.06
#     nonlinear shrinkage               41.22     6.67    40.64     8.33    16.44
#     population (from_spectrum)         0.63     0.17     1.45     0.59     0.03     100 %
#     known directions (the limit)       0.42     0.18     0.56     0.55     0.01
#
# real data against all of it
# mnist, d = 784, n = 196 of 60000
#     sample as it is                   52.52    19.49    56.49    19.94    19.29
#     linear shrinkage                  23.51    21.20    19.82    22.18     7.30
#     eigenvalues only (from_spectrum)    16.33     1.10    23.08     1.60     4.59
#     population (from_samples)          3.41     1.25     3.42     1.88     0.34     100 %
#     known directions (the limit)       1.68     1.02     1.68     1.60     0.09
# fashion_mnist, d = 784, n = 196 of 60000
#     sample as it is                   76.62    27.35    77.45    22.15    30.26
#     linear shrinkage                   6.58    18.73     5.03    15.26     2.81
#     eigenvalues only (from_spectrum)    30.59     5.08    36.07     3.56     9.03
#     population (from_samples)          3.78     2.67     4.16     3.68     0.57      98 %
#     known directions (the limit)       2.90     1.27     3.73     2.91     0.45
# ecg512, d = 512, n = 128 of 2315
#     sample as it is                   85.15    47.89    78.13    72.34    76.37
#     linear shrinkage                  48.11    44.35    39.84    37.30   100.79
#     eigenvalues only (from_spectrum)    73.57    40.71    70.30    65.73    68.43
#     population (from_samples)         24.54    15.85    28.33    26.19    28.52      92 %
#     known directions (the limit)      32.71    20.30    30.31    27.98    24.46
#
# eigenstep 0.1.0, numpy 2.4.6, x86_64, 2 cores
#
# --dim 16384 --seeds 2 --only "power law 1.5" "power law 2":
# largest move of a planned level, % (rms over 2 seeds), and the largest cost, %; n = d/4
#                                     ddim w2  ddim kl    2m w2    2m kl     cost  sure
# power law 1.5, d = 16384, n = 4096
#     sample as it is                    6.24     1.81     9.31     2.66     0.23
#     linear shrinkage                   4.45     2.02     7.53     2.75     0.17
#     nonlinear shrinkage               76.68    39.16    72.80    60.57   167.91
#     population (from_spectrum)         1.69     0.68     2.36     1.94     0.10     100 %
#     known directions (the limit)       1.68     0.68     2.29     1.85     0.09
# power law 2, d = 16384, n = 4096
#     sample as it is                    1.70     1.00     2.07     1.98     0.18
#     linear shrinkage                   1.64     0.96     2.03     1.95     0.18
#     nonlinear shrinkage               96.10    86.22    95.59    94.95  4437.98
#     population (from_spectrum)         1.69     0.99     2.05     1.96     0.18      95 %
#     known directions (the limit)       1.68     0.99     2.05     1.97     0.18
