"""`eigenstep zoo`: the measured spectra that come along."""

from __future__ import annotations

import textwrap

import click

from eigenstep.cli.tables import rendered
from eigenstep.spectrum import Spectrum, zoo_names


@click.command("zoo")
def command() -> None:
    """List the measured spectra that come along.

    Their names can be given to `plan` and `compare`.
    """
    from rich.table import Table

    spectra = {name: Spectrum.from_zoo(name) for name in zoo_names()}
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for column in ("name", "dimensions", "rank", "std", "samples"):
        table.add_column(column, justify="left" if column == "name" else "right")
    table.add_column("values")
    for name, kept in spectra.items():
        samples = "" if kept.n_samples is None else str(kept.n_samples)
        values = str(kept.provenance.get("value_range", ""))
        table.add_row(name, f"{kept.dim:.6g}", f"{kept.rank:.6g}", f"{kept.std:.3g}", samples, values)
    click.echo(rendered(table))
    for name, kept in spectra.items():
        story = f"{name}: {kept.provenance.get('caveats', '')} ({kept.provenance.get('origin', 'origin unknown')})"
        click.echo(f"\n{textwrap.fill(story, width=100, subsequent_indent='  ')}")
