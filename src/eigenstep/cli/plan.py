"""`eigenstep plan`: the optimal grid of so many steps, in the form that a host takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from eigenstep._checks import choice
from eigenstep.adapters.text import FORMATS
from eigenstep.cli.aim import Aim, Planned, named_path
from eigenstep.cli.errors import say
from eigenstep.cli.model import FOR_THEORY, check_options, plan_for_model
from eigenstep.cli.options import FOR_MODELS, MODEL_OPTIONS, PLAN_OPTIONS, QUIET, READING, SOURCE_OPTIONS, with_options
from eigenstep.cli.outputs import check_output, save_text
from eigenstep.cli.records import common_record, finite, json_text
from eigenstep.cli.sources import chosen_for, spectrum_of
from eigenstep.cli.tables import ERROR_NAMES, positions, ratio_text, rendered, title
from eigenstep.paths import PATHS
from eigenstep.solvers import SOLVERS

if TYPE_CHECKING:
    from eigenstep.estimation import ChosenSpectrum


def _record(aim: Aim, chosen: ChosenSpectrum, name: str, result: Planned) -> dict[str, Any]:
    """Everything a plan says, as plain JSON values: the format that `--format json` promises."""
    n = len(result.sigmas) - 1
    ratios = None
    if aim.path is not None and result.timesteps is not None:
        ratios = np.asarray(aim.path.log_snr(result.timesteps)).tolist()
    return {
        **common_record(aim, chosen, name),
        "steps": n,
        "nfe": SOLVERS[aim.solver].nfe(n, final=aim.final),
        "sigmas": result.sigmas.tolist(),
        "timesteps": result.timesteps,
        "log_snr": ratios,
        "value": result.value,
        "converged": result.converged,
        "message": result.message,
        "baselines": {key: finite(value) for key, value in aim.baselines(chosen.spectrum, n).items()},
    }


def _table(record: Mapping[str, Any]) -> str:
    """The plan for reading: where the steps go, and what that gains over the best hand-made grid."""
    from rich.table import Table

    sigmas, times, ratios = record["sigmas"], record["timesteps"], record["log_snr"]
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    table.add_column("step", justify="right")
    table.add_column("σ", justify="right")
    if times is not None:
        table.add_column("t", justify="right")
        table.add_column("log-SNR", justify="right")
    table.add_column("from noise to data")
    for k, (sigma, dots) in enumerate(zip(sigmas, positions(sigmas), strict=True)):
        row = [str(k + 1) if k < record["steps"] else "end", f"{sigma:.6g}"]
        if times is not None:
            row += [f"{times[k]:.6g}", f"{ratios[k]:.3f}"] if k < len(times) else ["", ""]
        table.add_row(*row, dots)
    calls = "" if record["nfe"] == record["steps"] else f" = {record['nfe']} network calls"
    plural = "s" * (record["steps"] != 1)
    head = f"{title(record)}: the optimal {record['steps']} {record['solver']} step{plural}{calls}"
    return f"{head}\n\n{rendered(table)}\n\n{_verdict(record)}"


def _verdict(record: Mapping[str, Any]) -> str:
    """The error of the plan beside that of the best hand-made grid."""
    value = record["value"]
    lines = [f"{ERROR_NAMES[record['objective']]}: {value:.6g}"]
    if record["objective"] == "w2":
        lines[0] += f" ({value / record['spectrum']['trace']:.2%} of the data's variance)"
    errors = {name: error for name, error in record["baselines"].items() if error is not None}
    if errors:
        best = min(errors, key=lambda name: errors[name])
        ratio = ratio_text(errors[best], value)
        lines.append(f"best of {len(errors)} hand-made grids: {errors[best]:.6g} ({best}), {ratio} times as much")
    return "\n".join(lines)


def _for_host(record: Mapping[str, Any], form: str) -> str:
    """The grid as a host takes it; diffusers is told of integer timesteps, and of a path that only a file describes."""
    if form != "diffusers" or (record["sampled_at"] == "fractional" and (record["path"] or "edm") in PATHS):
        return FORMATS[form].write(record["sigmas"], record["path"])
    from eigenstep.adapters.text import EULER_CONFIGS, diffusers_euler
    from eigenstep.adapters.timesteps import diffusers_timesteps, table_config

    name = record["path"]
    config = EULER_CONFIGS[name] if name in PATHS else table_config(named_path(name))
    if record["sampled_at"] == "integer":
        return diffusers_timesteps(record["timesteps"], config=config)
    return diffusers_euler(record["sigmas"], config=config)


WRITERS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "table": _table,
    "json": json_text,
    **{name: partial(_for_host, form=name) for name in FORMATS},
}
"""How `plan` writes its result, by the name that --format takes."""


@click.command("plan")
@click.argument("data", metavar="SPECTRUM_OR_SOURCE", required=False)
@click.option("-n", "--steps", type=int, required=True, metavar="N", help="Number of steps.")
@click.option(
    "--format",
    "form",
    default="table",
    show_default=True,
    metavar="NAME",
    help=f"table, json, or as a host takes it: {', '.join(FORMATS)}.",
)
@click.option("-o", "--output", metavar="FILE", help="Save the plan as well: the JSON of --format json, a .json file.")
@with_options(PLAN_OPTIONS)
@with_options(MODEL_OPTIONS)
@with_options(SOURCE_OPTIONS)
@QUIET
@click.pass_context
def command(
    context: click.Context, /, data: str | None, steps: int, form: str, output: str | None, quiet: bool, **options: Any
) -> None:
    """Plan the optimal grid of N steps for the data, or for a network and its data.

    SPECTRUM_OR_SOURCE is a file that `eigenstep spectrum` saved, a name from `eigenstep zoo`, or any source that
    `eigenstep spectrum` reads.

    \b
    eigenstep plan mine.json --steps 6
    eigenstep plan photos/ --steps 6 --model my-pipeline/ --solver dpmpp_2m -o plan.json
    eigenstep plan photos/ --steps 6 --model my-pipeline/ --encode-with my-pipeline/ --size 512 --format comfyui

    With --model the network is measured on the data, and candidates are run from a few noises: some 15,000 calls of the
    network, counted by item. The best usual grid comes back where nothing is certainly better.
    """
    write = WRITERS[choice(form, WRITERS, "format")]
    if output is not None:
        check_output(output, (".json",))
    check_options(context, has_model=options["model"] is not None)
    reading = {key: options.pop(key) for key in READING}
    if options["model"] is not None:
        for name in FOR_THEORY:
            del options[name]
        plan_for_model(data, steps=steps, form=form, output=output, reading=reading, quiet=quiet, **options)
        return
    if data is None:
        raise click.UsageError("Missing argument 'SPECTRUM_OR_SOURCE'.")
    for name in ("model", *FOR_MODELS):
        del options[name]
    aim = Aim.from_options(**options)
    if form == "diffusers" and SOLVERS[aim.solver].name != "ddim":
        raise ValueError(
            f"`format` diffusers needs `solver` ddim, the steps of every diffusers scheduler that takes noise levels, "
            f"got {aim.solver!r}; take the levels from --format json for your own sampler."
        )
    spectrum, name = spectrum_of(data, quiet, **reading)
    chosen = chosen_for(aim, spectrum, quiet)
    result = aim.optimum(chosen.spectrum, steps)
    if not result.converged:
        say(f"warning: the search stopped early ({result.message}); this is the best grid it found.")
    record = _record(aim, chosen, name, result)
    if output is not None:
        save_text(json_text(record), output)
        if not quiet:
            say(f"saved the plan to {output}.")
    click.echo(write(record))
