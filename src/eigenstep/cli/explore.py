"""`eigenstep explore`: the page on which to see a grid, drag its levels and take it away."""

from __future__ import annotations

import socket
import webbrowser
from pathlib import Path
from urllib.parse import urlencode

import click

from eigenstep.cli.errors import say
from eigenstep.cli.evidence import with_evidence_of
from eigenstep.cli.options import QUIET, READING, SOURCE_OPTIONS, with_options
from eigenstep.cli.sources import spectrum_of
from eigenstep.spectrum import zoo_names

PORT = 8421


@click.command("explore")
@click.argument("data", required=False, metavar="[SPECTRUM_OR_SOURCE]")
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="0 for any that is free.")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="0.0.0.0 lets other machines in: whoever comes can read folders."
)
@click.option("--browser/--no-browser", default=True, help="Open the page in a browser.  [default: browser]")
@with_options(SOURCE_OPTIONS)
@QUIET
def command(data: str | None, port: int, host: str, browser: bool, quiet: bool, **options: object) -> None:
    """Open a local page on which to see grids, drag their levels and copy them.

    SPECTRUM_OR_SOURCE is what the page begins with: a saved spectrum, a name from `eigenstep zoo`, or a source to measure
    now. Everything runs on this machine; the page loads nothing from elsewhere.
    """
    from eigenstep.explore import Desk, Shelf
    from eigenstep.explore.server import listen, serve

    listening = listen(host, port)
    shelf = Shelf(lambda measurement: with_evidence_of(measurement, measurement.spectrum()))
    first = "cifar10"
    if data in zoo_names() and not Path(data).exists():
        first = data
    elif data is not None:
        spectrum, name = spectrum_of(data, quiet, **{key: options[key] for key in READING})
        first = name if name in zoo_names() and name == data else shelf.put(name, spectrum)
    address = f"http://{_shown(listening)}/?{urlencode({'spectrum': first})}"

    def started() -> None:
        click.echo(address)
        say("Ctrl-C stops the server.")
        if browser and not _opened(address):
            say("no browser could be opened; open the address above in one.")

    serve(Desk(shelf, first), listening, started=started)


def _shown(listening: socket.socket) -> str:
    """Host and port as an address names them."""
    host, port = listening.getsockname()[:2]
    host = "127.0.0.1" if host == "0.0.0.0" else host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _opened(address: str) -> bool:
    try:
        return webbrowser.open(address)
    except webbrowser.Error:
        return False
