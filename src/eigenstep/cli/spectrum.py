"""`eigenstep spectrum`: measure the spectrum of data, on this machine or on a cluster."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eigenstep._checks import integer
from eigenstep.cli.errors import say, terminable
from eigenstep.cli.options import OUTPUT_OPTIONS, QUIET, SOURCE_OPTIONS, WORK_OPTIONS, with_options
from eigenstep.cli.outputs import check_basis, check_outputs, save, write_spectrum
from eigenstep.cli.progress import progress

if TYPE_CHECKING:
    from eigenstep.data import Measurement, Source


@click.command("spectrum")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@with_options(OUTPUT_OPTIONS)
@click.option(
    "--accumulator", metavar="FILE", help="Where to save the accumulator, an .npz file that `eigenstep merge` reads."
)
@click.option(
    "--runs",
    type=int,
    metavar="G",
    help="Read the data once more and compare G runs of neighbours: how sure is the total variance, if items depend on "
    "each other?",
)
@click.option("--name", help="A name to keep with it. Default: the source's.")
@click.option(
    "--encode-with",
    metavar="FOLDER",
    help="Measure latents: put the images through the autoencoder of this diffusers pipeline, in the pipeline's scaling.",
)
@click.option("--device", default="cpu", show_default=True, metavar="NAME", help="Where --encode-with runs, such as cuda.")
@with_options(WORK_OPTIONS)
@with_options(SOURCE_OPTIONS)
@QUIET
def command(
    sources: tuple[str, ...],
    output: str | None,
    report: str | None,
    bins: int | None,
    basis: int,
    accumulator: str | None,
    part: str | None,
    dask: str | None,
    runs: int | None,
    encode_with: str | None,
    device: str,
    quiet: bool,
    **options: Any,
) -> None:
    """Measure the spectrum of the data in SOURCE and save it.

    SOURCE is a folder of images, of wav or flac files or of arrays (.npy, .npz, .pt, .safetensors); one such file;
    WebDataset tars; a saved dataset of Hugging Face, parquet, HDF5 or zarr; any of these by a URL that fsspec knows; or
    `digits`, scikit-learn's images of handwritten digits.

    \b
    eigenstep spectrum photos/ -o photos.json --checkpoint photos.npz --resume
    eigenstep spectrum photos/ -o photos.json --dask local:8 --report photos.html
    eigenstep spectrum photos/ --part 3/64 --accumulator part-3.npz
    eigenstep spectrum photos/ --size 512 --encode-with my-pipeline/ -o latents.json
    """
    from eigenstep.data import encoded, open_source

    check_outputs(output, report, accumulator, options["checkpoint"])
    check_basis(basis, bins, output)
    if runs is not None:
        integer(runs, "runs", minimum=2)
        if part is not None or dask is not None:
            raise ValueError("`runs` reads all of the data again, on this machine: leave out --part and --dask.")
    work = {key: options.pop(key) for key in ("method", "precision", "checkpoint", "checkpoint_every", "resume")}
    memory = options.pop("memory")
    work["memory"] = None if memory is None else round(memory * 2**30)
    reading = {key: value for key, value in options.items() if value is not None}
    share = (1, 1) if part is None else _share(part)
    source = open_source(sources[0] if len(sources) == 1 else list(sources), **reading)
    if encode_with is not None:
        source = encoded(source, encode_with, device=device)
    with terminable():
        if dask is None:
            measurement = _accumulated(source, quiet, share=share, **work)
        else:
            measurement = _accumulated_on_cluster(source, dask, quiet, share=share, **work)
    if not quiet:
        say(measurement.moments.reason)
    if accumulator is not None:
        save(measurement, Path(accumulator), "accumulator")
        if not quiet:
            say(f"saved the accumulator of {measurement.count} items to {accumulator}.")
    again = None if runs is None else (source, runs)
    write_spectrum(measurement, output, report, bins, quiet, basis=basis, again=again)


def _accumulated(source: Source, quiet: bool, *, checkpoint: str | None, **work: Any) -> Measurement:
    """The measurement of a source on this machine; after Ctrl-C, how to go on."""
    from eigenstep.data import Measurement, accumulate

    try:
        with progress("measuring", quiet) as report:
            return accumulate(source, progress=report, checkpoint=checkpoint, **work)
    except KeyboardInterrupt:
        if checkpoint is not None and Path(checkpoint).exists():
            say(f"{Measurement.load(checkpoint).count} items are kept in {checkpoint}; go on from there with --resume.")
        raise


def _accumulated_on_cluster(
    source: Source, address: str, quiet: bool, *, checkpoint: str | None, checkpoint_every: int, resume: bool, **work: Any
) -> Measurement:
    """The measurement of a source on the workers of a cluster."""
    from eigenstep.data import accumulate_on_cluster

    if checkpoint is not None or resume:
        raise ValueError(
            "`checkpoint` is for one machine: a cluster repeats what a lost worker had done by itself. For work that "
            "outlives the cluster use --part with --accumulator, and `eigenstep merge`."
        )
    with progress("measuring", quiet) as report:
        return accumulate_on_cluster(source, address, progress=report, **work)


def _share(text: str) -> tuple[int, int]:
    """The share that `text` names: `3/64` is the third of 64."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"`part` must be i/N with 1 <= i <= N, such as 3/64, got {text!r}.")
    return int(match[1]), int(match[2])
