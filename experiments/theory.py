"""The theory's own figures: error against steps for hand-made, tangent, geodesic and optimal grids, with slopes.

    python experiments/theory.py --figures docs/figures            # about two minutes on one core

Needs no data and no network: two synthetic spectra and the six of the zoo, every number from the exact Gaussian reference.
All grids run from 80 to 0.002 and end there, n steps on n + 1 levels of each law, so that the expansion in 1/n applies as it
stands. Printed: fitted slopes beside the expansion's constant, and what the tangent law costs over the least error.
"""

import argparse
import datetime
import os
import time
from pathlib import Path

import numpy as np

from eigenstep import (
    LAWS,
    Spectrum,
    divergence,
    expanded_divergence,
    geodesic_law,
    grid,
    optimal_grid,
    plots,
    tangent_gamma,
    tangent_law,
    zoo_names,
)
from eigenstep.paths import VPLinear

LOW, HIGH = 0.002, 80.0
STEPS = (3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 48, 64, 96, 128, 200)
FITTED = 48
"""Slopes are fitted from here on."""

HANDS = ("karras", "exponential", "kl_optimal", "ays_sd15", "cosine", "uniform_t")
TITLES = {"karras": "Karras ρ=7", "exponential": "log-SNR", "ays_sd15": "AYS", "uniform_t": "uniform t"}
OPTIMUM, PLANNED, TANGENT, GEODESIC = "optimum", "optimum of local", "tangent", "geodesic"

MEASURES = (("ddim", "kl"), ("ddim", "w2"), ("dpmpp_2m", "local"), ("dpmpp_2m", "kl"), ("dpmpp_2m", "w2"))
DRAWN = {"ddim": ("power law", "two-point", "cifar10", "speech"), "dpmpp_2m": ("power law", "mnist", "cifar10", "speech")}
"""With two directions a multistep solver's errors can be made to vanish in both: that says nothing of data."""

NAMES = {"ddim": "DDIM", "dpmpp_2m": "DPM-Solver++(2M)"}


def two_point(ratio, dim=256):
    """Half of the directions at 1, half at 1/ratio."""
    return Spectrum.from_eigenvalues([1.0, 1.0 / ratio], multiplicities=[dim / 2, dim / 2])


def power_law(exponent=2.0, dim=1024):
    """lambda_k = 50 k^-exponent, as natural images are for an exponent of about 2."""
    return Spectrum.from_eigenvalues(50.0 * np.arange(1, dim + 1) ** -exponent)


def spectra():
    """Name -> Spectrum."""
    return {
        "power law": power_law(), "two-point": two_point(1e4), **{name: Spectrum.from_zoo(name) for name in zoo_names()}
    }  # fmt: skip


def laws(spectrum, objective):
    """Name -> law, but for the hand-made ones that are tables."""
    gamma = tangent_gamma(spectrum, objective=objective, sigma_min=LOW, sigma_max=HIGH)
    made = {
        TANGENT: tangent_law(LOW, HIGH, gamma=gamma),
        GEODESIC: geodesic_law(spectrum, LOW, HIGH, objective=objective),
    }
    for name in HANDS:
        row = LAWS[name]
        if name.startswith("ays"):
            continue
        made[name] = row.maker(LOW, HIGH, **({"path": VPLinear()} if row.needs == "path" else {}))
    return made


def scale(spectrum, objective):
    """What errors are told in: nats per dimension, or shares of the variance."""
    return float(spectrum.dim) if "kl" in objective else spectrum.trace


def least(solver, objective):
    """Whose optimum stands for the best grid, and its name.

    End to end, the errors of a multistep solver's steps cancel in a Gaussian down to rounding; there it is the grid that is
    best for `local`, measured end to end.
    """
    one_step = solver == "ddim" or objective == "local"
    return (objective, OPTIMUM) if one_step else ("local", PLANNED)


def curves(spectrum, solver, objective, steps=STEPS):
    """Name -> errors at `steps`."""
    options = {"solver": solver, "objective": objective}
    unit = scale(spectrum, objective)
    aim, title = least(solver, objective)
    grids = {name: [grid(law, n) for n in steps] for name, law in laws(spectrum, objective).items()}
    grids["ays_sd15"] = [LAWS["ays_sd15"].grid(n, LOW, HIGH, final=None) for n in steps]
    grids[title] = [optimal_grid(spectrum, n, LOW, HIGH, final=None, solver=solver, objective=aim).sigmas for n in steps]
    return {
        name: np.array([divergence(spectrum, sigmas, **options) / unit for sigmas in cut]) for name, cut in grids.items()
    }  # fmt: skip


def constants(spectrum, objective):
    """Name of a law -> lim n^2 error of DDIM, by the expansion: no step is taken."""
    many = 10**6
    made = laws(spectrum, objective)
    unit = scale(spectrum, objective)
    return {
        name: many**2 * expanded_divergence(spectrum, law, many, objective=objective, order=1) / unit
        for name, law in made.items()
    }


def slope(steps, errors, least=FITTED):
    """d ln error / d ln n by least squares, over steps >= `least`."""
    x, y = np.log(np.asarray(steps, dtype=np.float64)), np.log(errors)
    kept = np.isfinite(y) & (np.asarray(steps) >= least)
    return float(np.polyfit(x[kept], y[kept], 1)[0]) if kept.sum() > 1 else np.nan


def slopes_table(found):
    """One row per spectrum and measure: slopes, and how near DDIM at the most steps is to the expansion's constant."""
    names = [GEODESIC, TANGENT, *HANDS]
    lines = [f"| solver, measure | spectrum | {OPTIMUM} | {' | '.join(TITLES.get(name, name) for name in names)} |"]
    lines.append("|---|---|--:|" + "--:|" * len(names))
    for (solver, objective, title), (errors, predicted) in found.items():
        texts = []
        for name in (least(solver, objective)[1], *names):
            text = f"{slope(STEPS, errors[name]):.2f}"
            if name in predicted:
                text += f" ({STEPS[-1] ** 2 * errors[name][-1] / predicted[name]:.2f})"
            texts.append(text)
        lines.append(f"| {NAMES[solver]}, {objective} | {title} | {' | '.join(texts)} |")
    return "\n".join(lines)


SHOWN = (3, 6, 10, 20, 200)


def decades(spectrum, objective):
    """Powers of ten of lambda between which the middle 80 % lie: of the directions for `kl`, else of the variance.

    Directions below sigma_min are left out: no grid resolves them.
    """
    seen = spectrum.eigenvalues > LOW**2
    lam, weights = spectrum.eigenvalues[seen][::-1], spectrum.multiplicities[seen][::-1]
    weights = weights if objective == "kl" else weights * lam
    place = (np.cumsum(weights) - 0.5 * weights) / weights.sum()
    low, high = np.interp([0.1, 0.9], place, np.log10(lam))
    return float(high - low)


def tangent_table(found):
    """One row per spectrum and measure: the tangent law's error over the least; the geodesic and the best hand beside it."""
    lines = ["| solver, measure | spectrum | decades | " + " | ".join(f"n = {n}" for n in SHOWN) + " |"]
    lines.append("|---|---|--:|" + "--:|" * len(SHOWN))
    for (solver, objective, title), (errors, _) in found.items():
        if least(solver, objective)[1] == PLANNED:
            continue
        texts = []
        for n in SHOWN:
            k = STEPS.index(n)
            hand = min(HANDS, key=lambda name: errors[name][k])
            three = [f"{errors[name][k] / errors[OPTIMUM][k]:.3g}" for name in (TANGENT, GEODESIC, hand)]
            texts.append(f"**{three[0]}**, {three[1]}, {three[2]} {TITLES.get(hand, hand)}")
        wide = decades(spectra()[title], objective)
        lines.append(f"| {NAMES[solver]}, {objective} | {title} | {wide:.1f} | {' | '.join(texts)} |")
    return "\n".join(lines)


def spread_table(ratios=(1, 3, 10, 30, 100, 1e3, 1e4), exponents=(0.5, 1.0, 1.5, 2.0, 3.0), n=10):
    """DDIM's error by the tangent law over the least, by how far two eigenvalues lie apart and by a power law's exponent."""
    kinds = {f"two-point, {ratio:g}": two_point(ratio) for ratio in ratios}
    kinds |= {f"power law, k^-{exponent:g}": power_law(exponent) for exponent in exponents}
    lines = ["| spectrum | decades | kl | decades | w2 |", "|---|--:|--:|--:|--:|"]
    for title, spectrum in kinds.items():
        texts = []
        for objective in ("kl", "w2"):
            best = optimal_grid(spectrum, n, LOW, HIGH, final=None, objective=objective).value
            gamma = tangent_gamma(spectrum, objective=objective, sigma_min=LOW, sigma_max=HIGH)
            value = divergence(spectrum, grid(tangent_law(LOW, HIGH, gamma=gamma), n), objective=objective)
            texts += [f"{decades(spectrum, objective):.1f}", f"{value / best:.2f}"]
        lines.append(f"| {title} | {' | '.join(texts)} |")
    return "\n".join(lines)


YLABELS = {"kl": "KL, nats per dimension", "w2": "W₂², share of the variance", "local": "local error, share of the variance"}
PANELS = {
    "power law": "Power law λₖ ∝ k⁻²", "two-point": "Eigenvalues 1, 10⁻⁴", "cifar10": "CIFAR-10", "mnist": "MNIST",
    "speech": "Speech", "ecg": "ECG",
}  # fmt: skip

SHORT = {"power law": "power law", "two-point": "two eigenvalues"}


def panels(count):
    """A figure and its axes, two to a row."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    rows = (count + 1) // 2
    figure = Figure(figsize=(9.6, 3.9 * rows), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.12, wspace=0.02))
    return figure, figure.subplots(rows, 2).ravel()


def draw_errors(found, solver, objective):
    """Error against steps; dotted, what the expansion says of three laws."""
    figure, axes = panels(4)
    named = [GEODESIC, TANGENT, *(TITLES.get(name, name) for name in HANDS[:4])]
    for ax, title in zip(axes, DRAWN[solver], strict=True):
        errors, predicted = found[solver, objective, title]
        plots.error_against_steps(
            STEPS,
            {TITLES.get(name, name): values for name, values in errors.items()},
            ours=least(solver, objective)[1],
            named=named,
            predicted={
                TITLES.get(name, name): predicted[name] / np.array(STEPS, dtype=np.float64) ** 2
                for name in (GEODESIC, TANGENT, "karras")
                if name in predicted
            },
            log_steps=True,
            ylabel=YLABELS[objective],
            title=PANELS[title],
            ax=ax,
        )
    return figure


def draw_tangent(found):
    """The tangent law's error over the least with DDIM, by spectrum."""
    figure, axes = panels(2)
    for ax, objective in zip(axes, ("kl", "w2"), strict=True):
        ratios = {}
        for title in ("two-point", "power law", "cifar10", "mnist", "speech", "ecg"):
            errors, _ = found["ddim", objective, title]
            ratios[SHORT.get(title) or PANELS[title]] = errors[TANGENT] / errors[OPTIMUM]
        plots.error_against_steps(
            STEPS, {OPTIMUM: np.ones(len(STEPS)), **ratios}, ours=OPTIMUM, named=list(ratios), log_steps=True,
            ylabel="error of the tangent law / least error", title={"kl": "DDIM, KL", "w2": "DDIM, W₂²"}[objective], ax=ax,
        )  # fmt: skip
    axes[1].set_ylabel("")
    return figure


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figures", type=Path, help="a folder to write the figures to")
    given = parser.parse_args()
    began = time.perf_counter()
    found = {}
    for solver, objective in MEASURES:
        every = solver == "ddim" or objective == "local"
        for title, spectrum in spectra().items():
            if (every and (solver == "ddim" or title != "two-point")) or title in DRAWN[solver]:
                predicted = constants(spectrum, objective) if solver == "ddim" else {}
                found[solver, objective, title] = (curves(spectrum, solver, objective), predicted)
    print(f"Slopes from n = {FITTED} to {STEPS[-1]}; in parentheses n^2 error at {STEPS[-1]} over the expansion's constant.\n")
    print(slopes_table(found), "\n")
    print("Error over the least: **tangent law**, geodesic law, best hand-made grid of six.\n")
    print(tangent_table(found), "\n")
    print("The tangent law's error over the least, DDIM at n = 10.\n")
    print(spread_table(), "\n")
    if given.figures is not None:
        given.figures.mkdir(parents=True, exist_ok=True)
        for solver, objective in MEASURES:
            name = f"theory-{objective}-{solver}.png".replace("_", "-")
            draw_errors(found, solver, objective).savefig(given.figures / name, dpi=130)
        draw_tangent(found).savefig(given.figures / "theory-tangent.png", dpi=130)
    print(f"{datetime.date.today().isoformat()}, {os.cpu_count()} cores, {time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
