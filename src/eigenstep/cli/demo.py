"""`eigenstep demo`: a bundled network samples in 4, 6 and 10 calls, on hand-made grids and on planned ones, in one picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from eigenstep._checks import Float, integer
from eigenstep.cli.errors import say
from eigenstep.cli.options import QUIET
from eigenstep.cli.outputs import check_output
from eigenstep.cli.picture import Cell, before_and_after, figure_class
from eigenstep.cli.progress import progress
from eigenstep.cli.tables import rendered
from eigenstep.grids import grid, karras_law, timestep_grid
from eigenstep.solvers import SOLVERS
from eigenstep.spectrum import Spectrum

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CALLS = (4, 6, 10)
SHOWN = (2, 4)
"""Rows and columns of samples in one cell of the picture."""

CONVERGED_STEPS = 30
"""Steps of Heun, two calls each but the last, on Karras' levels."""


@dataclass(frozen=True)
class Samples:
    """What one grid made of the noise.

    Attributes
    ----------
    grid : str
        Its name.
    images : (items, height, width)
        In the units of the data: -1 is black, 1 white.
    rmse : float
        From the converged images of the same noise, over items and pixels; 0 for these themselves.
    """

    grid: str
    images: Float
    rmse: float


@dataclass(frozen=True)
class Comparison:
    """The same noise sampled on three grids at each number of calls, and to convergence."""

    rows: Mapping[int, Sequence[Samples]]
    """By number of calls: diffusers' default, the best other grid of the catalogue, ours."""

    converged: Samples
    calls: int
    """Network calls per item of the converged ones."""

    weights: int
    """Of the network."""

    hand_grids: int
    """How many other grids the best one by hand was chosen from."""


def bundled() -> Path:
    """The folder of the bundled network: a diffusers pipeline, with the spectrum of its data and what was measured of it."""
    return Path(str(resources.files("eigenstep") / "bundled" / "mnist"))


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread of torch: on so small a network a second hardly helps, and hurts much where cores are shared."""
    from eigenstep._torch import torch_module

    torch = torch_module()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def compared(items: int, seed: int, report: Callable[[int, int | None], None]) -> Comparison:
    """Sample with the bundled network on every grid, from the same noise.

    The plans come along as well: `experiments/train_bundled.py` makes them, with `models.plan`, from other noise.

    Parameters
    ----------
    items, seed : int
        How many samples, from which noise: `models.item_noise`.
    report : callable
        Told the network calls done, times items, and how many there will be.
    """
    from eigenstep.evaluation import rmse
    from eigenstep.models import Plan, generate, load_denoiser

    denoiser: Any = load_denoiser(bundled())
    spectrum = Spectrum.load(bundled() / "spectrum.npz")
    plans = {n: Plan.from_json((bundled() / f"plan-{n}.json").read_text(encoding="utf-8"), spectrum=spectrum) for n in CALLS}
    heun = SOLVERS["heun"].nfe(CONVERGED_STEPS)
    done, total = 0, items * (3 * sum(CALLS) + heun)

    def images(levels: Any, solver: str) -> Float:
        nonlocal done
        made = generate(
            denoiser,
            levels,
            items,
            item_shape=denoiser.item_shape,
            solver=solver,
            seed=seed,
            progress=lambda calls, _: report(done + calls, total),
        )
        done += items * SOLVERS[solver].nfe(len(getattr(levels, "sigmas", levels)) - 1)
        return np.asarray(made[:, 0].double().numpy())

    fine = grid(karras_law(denoiser.sigma_min, denoiser.sigma_max), CONVERGED_STEPS, final=0.0)
    converged = images(fine, "heun")
    rows = {}
    for n, plan in plans.items():
        other = next(each for each in plan.candidates if _rival(each))
        grids = {
            "diffusers' default": timestep_grid(n, path=denoiser.path, spacing="leading"),
            other.name: other.sigmas,
            "eigenstep": plan,
        }
        made = {name: images(levels, "ddim") for name, levels in grids.items()}
        rows[n] = [Samples(name, each, rmse(each, converged)) for name, each in made.items()]
    return Comparison(
        rows=rows,
        converged=Samples("converged", converged, 0.0),
        calls=heun,
        weights=sum(each.numel() for each in denoiser.network.module.parameters()),
        hand_grids=min(sum(_rival(each) for each in plan.candidates) for plan in plans.values()),
    )


def _rival(candidate: Any) -> bool:
    """Whether it is another grid of the catalogue than diffusers' default, from the noise that samplers draw."""
    return not candidate.planned and not candidate.warm and candidate.name != "leading"


def picture(comparison: Comparison, items: int, seed: int) -> Figure:
    """A row of cells for each number of calls: default, best other by hand, ours, converged; the number under each.

    The first row shows the first samples, the next row the next ones; every cell of a row shows the same.
    """
    size = SHOWN[0] * SHOWN[1]
    rows = []
    for r, (n, runs) in enumerate(comparison.rows.items()):
        part = slice(r * size, (r + 1) * size)
        default, best, ours = runs
        rival = min(default, best, key=lambda run: run.rmse)
        remarks = ("", best.grid, f"{_against(ours, rival)} than the best by hand")
        cells = [Cell(run.images[part], f"RMSE {run.rmse:.3f}", words) for run, words in zip(runs, remarks, strict=True)]
        rows.append((f"{n} calls", [*cells, Cell(comparison.converged.images[part], "")]))
    return before_and_after(
        "Same network, same noise, same number of calls: other noise levels",
        [
            ("diffusers' default", "even timesteps, “leading”"),
            (f"best of {comparison.hand_grids} others", "made by hand; all of them tried"),
            ("eigenstep", "planned for this network"),
            ("where they all lead", f"converged, {comparison.calls} calls"),
        ],
        rows,
        f"A U-Net of {comparison.weights / 1e6:.2f} million weights, trained on MNIST, sampled by DDIM. Black is -1, white 1.\n"
        f"RMSE from the converged images, over {items} samples of seed {seed}; the first {size * len(rows)} are shown.",
        ours=2,
        tiles=SHOWN,
    )


def _against(ours: Samples, other: Samples) -> str:
    """By how much ours is off the other's error."""
    change = ours.rmse / other.rmse - 1
    return f"{abs(change):.0%} {'less' if change <= 0 else 'more'}"


def over_seeds(
    items: int, seeds: Sequence[int], report: Callable[[int, int | None], None]
) -> Sequence[Comparison]:
    """The comparison from the noise of each seed; `report` is told of all of them together."""

    def share(k: int) -> Callable[[int, int | None], None]:
        return lambda done, total: report(done + k * (total or 0), None if total is None else len(seeds) * total)

    return [compared(items, seed, share(k)) for k, seed in enumerate(seeds)]


def _gain(ours: Sequence[float], other: Sequence[float]) -> str:
    """By how much ours is off the other's error: of several seeds, the mean and its 95 % interval, seed by seed.

    >>> _gain([0.3], [0.4]), _gain([0.30, 0.29, 0.31], [0.40, 0.40, 0.40])
    ('25% less', '25% less ±6%')
    """
    from eigenstep.evaluation import t_interval

    changes = [mine / theirs - 1 for mine, theirs in zip(ours, other, strict=True)]
    found = t_interval(changes)
    words = f"{abs(found.mean):.0%} {'less' if found.mean <= 0 else 'more'}"
    return words if len(changes) == 1 else f"{words} ±{found.half_width:.0%}"


def _table(comparisons: Sequence[Comparison], items: int, seed: int) -> str:
    """Three lines for each number of calls; of several seeds, means over them."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for column in ("calls", "noise levels", "RMSE", "ours"):
        table.add_column(column, justify="left" if column == "noise levels" else "right")
    first = comparisons[0]
    for n, runs in first.rows.items():
        errors = [[each.rows[n][k].rmse for each in comparisons] for k in range(len(runs))]
        names = [runs[0].grid, f"{runs[1].grid} (best other by hand)", runs[2].grid]
        gains = [_gain(errors[2], errors[0]), _gain(errors[2], errors[1]), ""]
        for k, (name, found, gain) in enumerate(zip(names, errors, gains, strict=True)):
            table.add_row("" if k else str(n), name, f"{np.mean(found):.4f}", gain, end_section=k == 2)
    whose = f"seed {seed}" if len(comparisons) == 1 else f"each of the seeds {seed} to {seed + len(comparisons) - 1}"
    spread = "" if len(comparisons) == 1 else "\n± : 95 % interval of the mean over seeds, each with its own noise."
    return (
        f"DDIM, {items} samples of {whose}, RMSE from the converged ones ({first.calls} calls):\n\n{rendered(table)}{spread}"
    )


@click.command("demo")
@click.option("-o", "--output", default="eigenstep-demo.png", show_default=True, metavar="FILE", help="The picture, a .png.")
@click.option("--items", type=int, default=48, show_default=True, metavar="N", help="Samples that the numbers are over.")
@click.option("--seed", type=int, default=0, show_default=True, metavar="S", help="Of the noise they start from.")
@click.option(
    "--seeds", type=int, default=1, show_default=True, metavar="K", help="How many seeds, from S on: gains with their spread."
)
@QUIET
def command(output: str, items: int, seed: int, seeds: int, quiet: bool) -> None:
    """Sample with a small network that comes along: the same noise, the same calls, other levels.

    A U-Net trained on MNIST draws digits by DDIM in 4, 6 and 10 calls: on the levels that diffusers takes by default, on
    the best of the hand-made grids, and on planned ones. Offline, in less than a minute for each seed. The picture is that of
    the first seed.
    """
    check_output(output, (".png",))
    shown = len(CALLS) * SHOWN[0] * SHOWN[1]
    integer(items, "items", minimum=shown)
    integer(seed, "seed", minimum=0)
    integer(seeds, "seeds")
    figure_class()
    with one_thread(), progress("sampling", quiet) as report:
        comparisons = over_seeds(items, range(seed, seed + seeds), report)
    click.echo(_table(comparisons, items, seed))
    picture(comparisons[0], items, seed).savefig(output)
    if not quiet:
        say(f"saved the picture to {output}.")
