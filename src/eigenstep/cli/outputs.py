"""The files that commands write: checked before the work, and never lost with it."""

from __future__ import annotations

import shlex
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

from eigenstep._checks import integer
from eigenstep.cli.errors import ARGUMENTS, say
from eigenstep.cli.evidence import read_again, with_evidence_of
from eigenstep.spectrum import Spectrum

if TYPE_CHECKING:
    from eigenstep.data import Measurement, Source


def check_output(path: str, suffixes: tuple[str, ...]) -> None:
    """Refuse a file that could not be written before the work that would fill it."""
    target = Path(path)
    if target.suffix.lower() not in suffixes:
        raise ValueError(f"The output file must end in {' or '.join(suffixes)}, got {path!r}.")
    if not target.parent.is_dir():
        raise ValueError(f"The output file {path!r} must be in a folder that exists: make {str(target.parent)!r}.")


def check_outputs(output: str | None, report: str | None, accumulator: str | None, checkpoint: str | None) -> None:
    """Refuse work of which nothing would be kept, and files that could not be written."""
    if output is None and report is None and accumulator is None:
        raise click.UsageError("nothing would be kept: give --output, --report or --accumulator.")
    files = ((output, (".json", ".npz")), (report, (".html", ".png")), (accumulator, (".npz",)), (checkpoint, (".npz",)))
    for path, suffixes in files:
        if path is not None:
            check_output(path, suffixes)


def save(result: Spectrum | Measurement, output: Path, what: str = "measured spectrum") -> None:
    """Save, or where that fails save elsewhere and say where: measuring may have taken hours."""
    try:
        result.save(output)
    except OSError as error:
        refuge = refuge_for(result, output.name)
        raise OSError(error.errno, f"{error.strerror} The {what} is safe in {refuge}") from error


def save_text(text: str, output: str) -> None:
    """Save a plan, or where that fails print it: a network may have worked on it for hours."""
    try:
        Path(output).write_text(text + "\n", encoding="utf-8")
    except OSError:
        click.echo(text)
        raise


def check_basis(basis: int, bins: int | None, output: str | None) -> None:
    """Refuse eigenvectors that could not be kept, before any work."""
    integer(basis, "basis", minimum=0)
    if basis and bins is not None:
        raise ValueError("`basis` and `bins` exclude each other: the nodes of a binned spectrum are no directions of the data.")
    if basis and output is not None and Path(output).suffix == ".json":
        raise ValueError(f"`output` must end in .npz for a spectrum with eigenvectors, got {output!r}.")


def refuge_for(result: Spectrum | Measurement, name: str) -> Path:
    """Save in the temporary folder, under this name; where that is."""
    refuge = Path(tempfile.mkdtemp(prefix="eigenstep-")) / name
    result.save(refuge)
    return refuge


def write_spectrum(
    measurement: Measurement,
    output: str | None,
    report: str | None,
    bins: int | None,
    quiet: bool,
    *,
    basis: int = 0,
    again: tuple[Source, int] | None = None,
) -> None:
    """The spectrum of a measurement, and what is asked of it: a file, a report.

    `again` is the source to read once more, and in how many runs, for how sure the total variance is.
    """
    if output is None and report is None:
        return
    command = shlex.join(["eigenstep", *click.get_current_context().meta[ARGUMENTS]])
    try:
        measured = measurement.spectrum(basis=basis, provenance={"command": command})
    except MemoryError as error:
        refuge = refuge_for(measurement, "accumulator.npz")
        raise MemoryError(
            f"the spectrum of {measurement.moments.dim} dimensions does not fit into memory. The accumulator is safe in "
            f"{refuge}: run `eigenstep merge` on it where there is more"
        ) from error
    if again is None:
        measured = with_evidence_of(measurement, measured)
    else:
        measured = read_again(again[0], measurement, with_evidence_of(measurement, measured), again[1], quiet)
    if output is not None:
        kept = measured if bins is None else measured.binned(bins)
        save(kept, Path(output))
        if not quiet:
            say(f"saved {kept!r} to {output}.")
    if report is not None:
        from eigenstep.estimation import Population
        from eigenstep.moments import GramMoments
        from eigenstep.report import spectrum_report

        moments = measurement.moments
        # The Gram form still holds its items: leaving each out in turn assumes nothing of their distribution.
        held = isinstance(moments, GramMoments) and moments.count > 2
        try:
            spectrum_report(measured, report, population=Population.from_moments(moments) if held else None)
        except (ImportError, OSError):
            if output is None:
                say(f"the measured spectrum is safe in {refuge_for(measured, 'spectrum.npz')}.")
            raise
        if not quiet:
            say(f"wrote the report to {report}.")
