"""`eigenstep compare`: optimal grids beside hand-made ones, over a range of step counts."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from eigenstep._checks import choice
from eigenstep.cli.aim import Aim, Planned
from eigenstep.cli.errors import ARGUMENTS, say
from eigenstep.cli.options import PLAN_OPTIONS, QUIET, READING, SOURCE_OPTIONS, with_options
from eigenstep.cli.outputs import check_output
from eigenstep.cli.picture import figure_class
from eigenstep.cli.progress import progress
from eigenstep.cli.records import common_record, finite, json_text
from eigenstep.cli.sources import chosen_for, spectrum_of
from eigenstep.cli.tables import ERROR_NAMES, ratio_text, rendered, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from eigenstep.estimation import ChosenSpectrum

WELL_KNOWN = ("karras", "exponential", "kl_optimal", "ays_sd15")
"""The baselines that a figure names beside the best one, because readers look for them."""


def _record(
    aim: Aim, chosen: ChosenSpectrum, name: str, rows: list[tuple[int, Planned, dict[str, float]]]
) -> dict[str, Any]:
    """Everything a comparison says, as plain JSON values; null where a baseline has no grid of that many steps."""
    names = dict.fromkeys(key for *_, values in rows for key in values)
    return {
        **common_record(aim, chosen, name),
        "steps": [n for n, *_ in rows],
        "sigmas": [result.sigmas.tolist() for _, result, _ in rows],
        "timesteps": [result.timesteps for _, result, _ in rows],
        "values": [result.value for _, result, _ in rows],
        "converged": [result.converged for _, result, _ in rows],
        "baselines": {key: [finite(values.get(key, math.nan)) for *_, values in rows] for key in names},
    }


def _table(record: Mapping[str, Any]) -> str:
    """One row for each number of steps: ours, the best hand-made grid, their ratio."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for column in ("steps", "optimal", "best by hand", "ratio"):
        table.add_column(column, justify="right")
    table.add_column("which")
    for k, (n, value) in enumerate(zip(record["steps"], record["values"], strict=True)):
        errors = {name: values[k] for name, values in record["baselines"].items() if values[k] is not None}
        best = min(errors, key=lambda name: errors[name], default=None)
        hand = ["", "", ""] if best is None else [f"{errors[best]:.5g}", ratio_text(errors[best], value), best]
        table.add_row(str(n), f"{value:.5g}", *hand)
    return f"{title(record)}: {ERROR_NAMES[record['objective']]}, {record['solver']}\n\n{rendered(table)}"


def _axes(record: Mapping[str, Any]) -> Axes:
    """The figure of error against steps."""
    from eigenstep import plots

    errors = {name: [math.nan if v is None else v for v in values] for name, values in record["baselines"].items()}
    last = {name: values[-1] for name, values in record["baselines"].items() if values[-1] is not None}
    best = sorted(last, key=lambda name: float(last[name]))[:1]
    known = [*best, *(name for name in WELL_KNOWN if name in errors and name not in best)]
    return plots.error_against_steps(
        record["steps"],
        {"eigenstep": record["values"], **errors},
        ours="eigenstep",
        ylabel=ERROR_NAMES[record["objective"]],
        named=known,
        title=f"{record['spectrum']['name']}, sampled by {record['solver']}",
    )


def _plot(record: Mapping[str, Any], path: str) -> None:
    figure = _axes(record).get_figure(root=True)
    assert figure is not None
    figure.savefig(path, dpi=200)


def _report(record: Mapping[str, Any], path: str) -> None:
    from eigenstep.report import comparison_report

    command = shlex.join(["eigenstep", *click.get_current_context().meta[ARGUMENTS]])
    comparison_report(record, path, axes=_axes(record), error_name=ERROR_NAMES[record["objective"]], command=command)


def step_counts(text: str) -> list[int]:
    """The step counts that `text` names: `3-20` with both ends, or `4,6,10`."""
    span = re.fullmatch(r"\s*(\d+)\s*-\s*(\d+)\s*", text)
    try:
        counts = list(range(int(span[1]), int(span[2]) + 1)) if span else sorted({int(n) for n in text.split(",")})
    except ValueError:
        counts = []
    if not counts or counts[0] < 1:
        raise ValueError(f"`steps` must be a range such as 3-20 or a list such as 4,6,10 of at least 1, got {text!r}.")
    return counts


@click.command("compare")
@click.argument("data", metavar="SPECTRUM_OR_SOURCE")
@click.option("-n", "--steps", "counts", default="3-20", show_default=True, metavar="A-B", help="As 3-20 or 4,6,10.")
@click.option("--plot", metavar="FILE", help="Save the figure too: a .png, .svg or .pdf file.")
@click.option("--report", metavar="FILE", help="Write the comparison to a page of one file, an .html.")
@click.option("--format", "form", default="table", show_default=True, metavar="NAME", help="table or json.")
@with_options(PLAN_OPTIONS)
@with_options(SOURCE_OPTIONS)
@QUIET
def command(
    data: str, counts: str, plot: str | None, report: str | None, form: str, quiet: bool, **options: Any
) -> None:
    """Compare optimal grids with hand-made ones.

    For each number of steps, the error of the optimal grid beside that of every grid of the catalogue.
    """
    choice(form, ("table", "json"), "format")
    steps = step_counts(counts)
    if plot is not None:
        check_output(plot, (".png", ".svg", ".pdf"))
    if report is not None:
        check_output(report, (".html",))
        figure_class()
    reading = {key: options.pop(key) for key in READING}
    aim = Aim.from_options(**options)
    spectrum, name = spectrum_of(data, quiet, **reading)
    chosen = chosen_for(aim, spectrum, quiet)
    rows: list[tuple[int, Planned, dict[str, float]]] = []
    try:
        with progress("planning", quiet) as tell:
            for n in steps:
                rows.append((n, aim.optimum(chosen.spectrum, n), aim.baselines(chosen.spectrum, n)))
                tell(len(rows), len(steps))
    finally:
        # After Ctrl-C or a failure, what is done is still shown.
        if rows:
            record = _record(aim, chosen, name, rows)
            click.echo(json_text(record) if form == "json" else _table(record))
    if plot is not None:
        _plot(record, plot)
    if report is not None:
        _report(record, report)
        if not quiet:
            say(f"wrote the report to {report}.")
