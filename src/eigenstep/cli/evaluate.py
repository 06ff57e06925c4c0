"""`eigenstep evaluate`: planned grids and the catalogue on a real model, side by side."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from eigenstep._checks import choice, integer
from eigenstep.cli.compare import step_counts
from eigenstep.cli.errors import say, terminable
from eigenstep.cli.model import loading_options
from eigenstep.cli.options import QUIET, READING, SOURCE_OPTIONS, with_options
from eigenstep.cli.progress import progress
from eigenstep.cli.records import json_text
from eigenstep.cli.sources import drawn_from, spectrum_of
from eigenstep.cli.tables import rendered
from eigenstep.solvers import SOLVERS, solver_named

if TYPE_CHECKING:
    from eigenstep.evaluation import Evaluation, Interval


@click.command("evaluate")
@click.argument("model", metavar="MODEL")
@click.option("--data", "source", required=True, metavar="SOURCE", help="Data in the model's value range.")
@click.option("-o", "--output", required=True, metavar="FOLDER", help="For results, report and finished cells.")
@click.option(
    "-n", "--steps", "counts", default="3-10", show_default=True, metavar="A-B", help="Most network calls: 3-10, or 4,6,10."
)
@click.option("--solvers", default="ddim,dpmpp_2m", show_default=True, metavar="NAMES", help=f"Of {', '.join(SOLVERS)}.")
@click.option("--grids", metavar="NAMES", help="Of the catalogue. Default: all that fit the model's range.")
@click.option("--seeds", type=int, default=5, show_default=True, metavar="K", help="Repetitions, for the intervals.")
@click.option("--samples", type=int, default=500, show_default=True, metavar="N", help="Samples of each cell.")
@click.option(
    "--features",
    default="pixels,random-convolutions",
    show_default=True,
    metavar="NAMES",
    help="What distributions are compared in: pixels, random-convolutions, trained, inception, dinov2.",
)
@click.option("--labels", metavar="FILE[:KEY]", help="Integer labels of the data, an .npy or .npz file, for `trained`.")
@click.option("--weights", multiple=True, metavar="NAME=FILE", help="Weights of inception or dinov2.")
@click.option(
    "--items", type=int, default=10_000, show_default=True, metavar="N", help="Items of the data to take at most, at random."
)
@click.option("--spectrum", metavar="SPECTRUM", help="A measured spectrum to plan on. Default: that of the data.")
@click.option(
    "--target", default="endpoint", show_default=True, metavar="NAME", help="What plans come near: endpoint, or data."
)
@click.option("--warm-hand", is_flag=True, help="Let the catalogue compete from our warm start too.")
@click.option("--sigma-min", type=float, metavar="S", help="Lowest level to call the model at. Default: its own.")
@click.option("--sigma-max", type=float, metavar="S", help="Level to start at. Default: the model's own.")
@click.option("--label", type=int, metavar="K", help="Class that a conditional model is told.")
@click.option("--prompt", metavar="TEXT", help="Prompt that the model is told, encoded by the pipeline in its folder.")
@click.option("--negative-prompt", metavar="TEXT", help="What to guide away from. Default: what the pipeline takes.")
@click.option("--guidance", type=float, metavar="G", help="Classifier-free guidance scale.")
@click.option("--variant", metavar="NAME", help="Of the files of a pipeline, such as fp16.")
@click.option("--allow-pickle", is_flag=True, help="Read weights that are not safetensors: such a file can run any code.")
@click.option("--dtype", metavar="NAME", help="Precision of the network: float32, float16, bfloat16, float64.")
@click.option("--device", "devices", metavar="NAMES", help="Of torch, such as cuda:0,cuda:1: one cell at a time on each.")
@click.option("--network-batch", type=int, default=100, show_default=True, metavar="N", help="Samples per network call.")
@click.option("--dask", metavar="ADDRESS|local:N", help="Run cells on a Dask cluster, or on N local processes.")
@click.option("--resume", is_flag=True, help="Go on with the folder: finished cells stay, failed ones are tried again.")
@click.option("--format", "form", default="table", show_default=True, metavar="NAME", help="What is printed: table or json.")
@with_options(SOURCE_OPTIONS)
@QUIET
def command(
    model: str,
    source: str,
    output: str,
    counts: str,
    solvers: str,
    grids: str | None,
    features: str,
    labels: str | None,
    weights: tuple[str, ...],
    items: int,
    spectrum: str | None,
    devices: str | None,
    samples: int,
    network_batch: int,
    form: str,
    quiet: bool,
    **options: Any,
) -> None:
    """Sample MODEL on planned grids and on those of the catalogue, from the same noise, and compare.

    MODEL is a folder of a diffusers pipeline, or module:function (file.py:function, with arguments file.py:function(a,b)) that
    returns a denoiser D(x, sigma) on torch tensors.

    \b
    eigenstep evaluate my-pipeline/ --data photos/ --size 32 -o results/ --steps 4,6,10
    eigenstep evaluate mine.py:denoiser --data train.npz --solvers ddim,unipc3 -o results/ --dask local:8

    FOLDER then holds results.json, report.html and every finished cell. After Ctrl-C, or to add steps, solvers or seeds, run
    the command again with --resume.
    """
    choice(form, ("table", "json"), "format")
    names = _names(solvers)
    for name in names:
        solver_named(name)
    numbers = step_counts(counts)
    files = dict(_weight(text) for text in weights)
    reading = {key: options.pop(key) for key in READING}
    from eigenstep.data import open_source
    from eigenstep.evaluation import evaluate
    from eigenstep.report import evaluation_report, evaluation_sentences

    opened = open_source(source, **{key: value for key, value in reading.items() if value is not None})
    data, chosen = drawn_from(opened, integer(items, "items", minimum=20), quiet, seed=0)
    given = None if spectrum is None else spectrum_of(spectrum, quiet)[0]
    kinds = None if labels is None else _labels(labels, chosen)
    told = {name: options.pop(name) for name in ("label", "prompt", "negative_prompt", "guidance", "variant", "allow_pickle")}
    model_options = loading_options(**told)
    try:
        with terminable(), progress("evaluating", quiet) as report:
            found = evaluate(
                model,
                data,
                output,
                calls=numbers,
                solvers=names,
                n_items=samples,
                grids=None if grids is None else _names(grids),
                features=_names(features),
                labels=kinds,
                weights=files,
                spectrum=given,
                batch_size=network_batch,
                model_options=model_options,
                devices=(None,) if devices is None else _names(devices),
                name=opened.name,
                progress=report,
                stage=None if quiet else lambda words: say(f"{words}."),
                **options,
            )
    except KeyboardInterrupt:
        say(f"finished cells are kept in {output}; go on with --resume.")
        raise
    record = found.to_json()
    text = json_text(record)
    Path(output, "results.json").write_text(text, encoding="utf-8")
    planned_on = found.facts["spectrum"]
    if not quiet and (planned_on["eigenvalues"] == "population" or planned_on["doubt"]):
        say(f"{planned_on['reason']} {planned_on['doubt']}".strip())
    for cell, why in found.failures.items():
        say(f"failed: {cell}: {why}")
    evaluation_report(found, Path(output, "report.html"))
    click.echo(text if form == "json" else _table(found))
    if form == "table":
        click.echo("\n" + "\n".join(evaluation_sentences(found)))
    if not quiet:
        say(f"wrote results.json and report.html to {output}.")


def _table(found: Evaluation) -> str:
    """One row for each solver and number of calls, ours beside the catalogue's best in the two measures that matter most."""
    from rich.table import Table

    from eigenstep.evaluation import headline_metrics, metric_title

    parts = []
    for metric in headline_metrics(found):
        table = Table(box=None, pad_edge=False, padding=(0, 1))
        for column in ("solver", "calls", "ours", "best by hand", "ratio"):
            table.add_column(column, justify="left" if column == "solver" else "right", no_wrap=True)
        for column in ("verdict", "which"):
            table.add_column(column, no_wrap=True)
        for each in found.verdicts():
            if each.metric == metric:
                cells = (each.solver, str(each.calls), _mean(each.ours), _mean(each.theirs), f"{each.ratio:.2f}", each.word)
                table.add_row(*cells, each.best)
        parts.append(f"{metric_title(metric)}\n\n{rendered(table)}")
    return "\n\n".join(parts)


def _mean(interval: Interval) -> str:
    half = interval.half_width
    return f"{interval.mean:.3g}" if np.isnan(half) else f"{interval.mean:.3g} ±{half:.1g}"


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _weight(text: str) -> tuple[str, str]:
    """The network and the file of `inception=FILE`."""
    match = re.fullmatch(r"([a-z0-9]+)=(.+)", text)
    if match is None:
        raise ValueError(f"`weights` must be NAME=FILE, such as inception=weights.pth, got {text!r}.")
    return match[1], match[2]


def _labels(text: str, numbers: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The labels of the items of these numbers: integers in an .npy file, or in one array of an .npz file."""
    path, _, key = text.partition(":")
    if not Path(path).is_file():
        raise ValueError(f"`labels`: there is no file {path!r}.")
    loaded = np.load(path, allow_pickle=False)
    if not isinstance(loaded, np.ndarray):
        if key not in loaded.files:
            arrays = ", ".join(loaded.files)
            raise ValueError(f"`labels` must name one of the arrays {arrays} of {path}, as {path}:NAME, got {key!r}.")
        loaded = loaded[key]
    if len(loaded) <= numbers.max():
        most = int(numbers.max())
        raise ValueError(f"`labels` must be one for each item of the data, got {len(loaded)} for item {most} (from 0).")
    return np.asarray(loaded[numbers])
