"""`eigenstep explore`: the page on which to see a grid, drag its levels and take it away."""

from __future__ import annotations

import math
import socket
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import click

from eigenstep._checks import integer
from eigenstep.cli.errors import say
from eigenstep.cli.evidence import with_evidence_of
from eigenstep.cli.options import QUIET, READING, SOURCE_OPTIONS, with_options
from eigenstep.cli.sources import items_of, named, spectrum_of
from eigenstep.spectrum import Spectrum, zoo_names

if TYPE_CHECKING:
    from eigenstep.explore.network import Network

PORT = 8421
READ, GAUGED, BASIS = 10_000, 200, 200
"""Items of the data that are read, those of them that the gauge is measured on, and eigenvectors kept for warm starts."""

NETWORK_OPTIONS = (
    click.option(
        "--model", metavar="MODEL",
        help="A network to measure and sample with on the page: a folder of a diffusers pipeline, or module:function.",
    ),
    click.option("--data", "gauge_data", metavar="SOURCE", help="Data in the model's value range: for its gauge, and for the "
        "spectrum where none is named."),
    click.option("--judges", type=int, default=24, show_default=True, metavar="K", help="Noises to sample the network from."),
    click.option("--label", type=int, metavar="K", help="Class that a conditional model is told."),
    click.option("--guidance", type=float, metavar="G", help="Classifier-free guidance scale."),
    click.option("--device", metavar="NAME", help="Of torch, such as cuda. Default: the CPU."),
    click.option("--network-batch", type=int, default=100, show_default=True, metavar="N", help="Items per network call."),
    click.option("--sigma-min", type=float, metavar="S", help="Lowest level of the model. Default: its own."),
    click.option("--sigma-max", type=float, metavar="S", help="Highest level of the model. Default: its own."),
)  # fmt: skip
"""A network beside the page."""

FOR_NETWORKS = ("gauge_data", "judges", "label", "guidance", "device", "network_batch", "sigma_min", "sigma_max")


@click.command("explore")
@click.argument("data", required=False, metavar="[SPECTRUM_OR_SOURCE]")
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="0 for any that is free.")
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="0.0.0.0 lets other machines in: whoever comes can read folders."
)
@click.option("--browser/--no-browser", default=True, help="Open the page in a browser.  [default: browser]")
@with_options(NETWORK_OPTIONS)
@with_options(SOURCE_OPTIONS)
@QUIET
def command(
    data: str | None, port: int, host: str, browser: bool, model: str | None, quiet: bool, **options: Any
) -> None:
    """Open a local page on which to see grids, drag their levels and copy them.

    SPECTRUM_OR_SOURCE is what the page begins with: a saved spectrum, a name from `eigenstep zoo`, or a source to measure
    now. Everything runs on this machine; the page loads nothing from elsewhere.

    With --model the page also shows the network's gauge, and its samples on several grids from the same noise.

    \b
    eigenstep explore photos/ --size 64
    eigenstep explore --model my-pipeline/ --data photos/ --size 64
    eigenstep explore photos.npz --model my-pipeline/ --data photos/ --size 64
    """
    from eigenstep.explore import Desk, Shelf
    from eigenstep.explore.server import listen, serve

    _check_options(has_model=model is not None)
    listening = listen(host, port)
    shelf = Shelf(lambda measurement: with_evidence_of(measurement, measurement.spectrum()))
    network, first = None, "cifar10"
    if model is not None:
        network = _network(model, data, quiet, **options)
        known = data in zoo_names() and not Path(str(data)).exists()
        first = str(data) if known else shelf.put(network.data_name, network.spectrum)
    elif data in zoo_names() and not Path(data).exists():
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

    serve(Desk(shelf, first, network), listening, started=started)


def _check_options(*, has_model: bool) -> None:
    """Refuse options that were typed and would mean nothing."""
    context = click.get_current_context()
    for name in FOR_NETWORKS:
        if not has_model and context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            option = next(each.opts[-1] for each in context.command.params if each.name == name)
            raise ValueError(f"`{option}` is for a network beside the page: give --model as well, or leave it out.")


def _network(
    model: str,
    data: str | None,
    quiet: bool,
    *,
    gauge_data: str | None,
    judges: int,
    label: int | None,
    guidance: float | None,
    device: str | None,
    network_batch: int,
    sigma_min: float | None,
    sigma_max: float | None,
    **reading: Any,
) -> Network:
    """The network with its data: read before the page is shown, so that what does not fit is told at once."""
    from eigenstep.data import open_source
    from eigenstep.evaluation import Model
    from eigenstep.evaluation.subject import fitted_items
    from eigenstep.explore.network import Network

    integer(judges, "judges", minimum=2)
    told = {"labels": label, "guidance_scale": guidance}
    host = Model(model, {key: value for key, value in told.items() if value is not None})
    missing = "--model needs data: give --data, or a spectrum or a source to begin with."
    kept, source = named(data, gauge_data, missing=missing)
    opened = None
    if source is not None:
        opened = open_source(source, **{key: reading[key] for key in READING if reading[key] is not None})
    denoiser = host.load(device)
    items = None if opened is None else fitted_items(denoiser, items_of(opened, READ, quiet))
    if kept is not None:
        spectrum, name = kept
    else:
        assert items is not None
        assert opened is not None
        if len(items) < 2:
            raise ValueError(f"`data` must hold at least 2 items, got {len(items)}.")
        about = {"name": opened.name, "source": opened.description, "value_range": opened.value_range}
        basis = min(BASIS, math.prod(items.shape[1:]), len(items) - 1)
        spectrum, name = Spectrum.from_samples(items, basis=basis, provenance=about), opened.name
    return Network(
        denoiser,
        spectrum,
        name=host.name,
        data_name=name,
        items=None if items is None else items[:: max(1, len(items) // GAUGED)][:GAUGED],
        judges=judges,
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        device=device,
        batch_size=network_batch,
    )


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
