"""`eigenstep merge`: one accumulator out of those of shares of the data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from eigenstep.cli.errors import say
from eigenstep.cli.options import BASIS, BINS, QUIET, REPORT
from eigenstep.cli.outputs import check_basis, check_outputs, save, write_spectrum
from eigenstep.cli.progress import progress

if TYPE_CHECKING:
    from eigenstep.data import Measurement


@click.command("merge")
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("-o", "--output", "merged", metavar="FILE", help="Where to save the merged accumulator: an .npz file.")
@click.option("--spectrum", "output", metavar="FILE", help="Where to save its spectrum: a .json or .npz file.")
@REPORT
@BINS
@BASIS
@click.option("--name", help="A name to keep with it. Default: the source's.")
@QUIET
def command(
    files: tuple[str, ...],
    merged: str | None,
    output: str | None,
    report: str | None,
    bins: int | None,
    basis: int,
    name: str | None,
    quiet: bool,
) -> None:
    """Merge accumulators of shares of the data.

    Each FILE was saved by `eigenstep spectrum --accumulator`, as a finished checkpoint, or by `save` of an accumulator
    in Python. All must be of the same form and of items of the same shape.

    \b
    eigenstep merge part-*.npz -o all.npz --spectrum all.json
    """
    if merged is None and output is None and report is None:
        raise click.UsageError("nothing would be kept: give --output, --spectrum or --report.")
    check_outputs(output, report, merged, None)
    check_basis(basis, bins, output)
    total = _finished(files[0])
    with progress("merging", quiet) as tell:
        for k, file in enumerate(files[1:], start=2):
            other: Measurement = _finished(file)
            try:
                total.merge(other)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{file!r} cannot be merged with {files[0]!r}: {error}") from error
            tell(k, len(files))
    total.name = name or total.name
    if merged is not None:
        save(total, Path(merged), "merged accumulator")
        if not quiet:
            say(f"saved the accumulator of {total.count} items to {merged}.")
    write_spectrum(total, output, report, bins, quiet, basis=basis)


def _finished(file: str) -> Measurement:
    """A saved accumulator; refused is the checkpoint of a measurement that has not come to its end."""
    from eigenstep.data import Measurement

    measurement = Measurement.load(file)
    if not all(reading.finished for reading in measurement.readings):
        raise ValueError(
            f"{file!r} is the checkpoint of an unfinished measurement ({measurement.count} items); finish it with --resume, "
            "or leave it out."
        )
    return measurement
