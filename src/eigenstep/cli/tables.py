"""How results are laid out for reading."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

ERROR_NAMES = {
    "w2": "squared Wasserstein distance",
    "kl": "KL(data ‖ samples), nats",
    "reverse_kl": "KL(samples ‖ data), nats",
    "local": "local error",
    "blend": "squared Wasserstein distance and a fifth of the local error",
}


def rendered(table: Table) -> str:
    """The table as text, in colour where standard output shows colour."""
    from rich.console import Console

    console = Console(highlight=False)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def title(record: Mapping[str, Any]) -> str:
    """The name of the spectrum and its size."""
    return f"{record['spectrum']['name']} ({record['spectrum']['dim']:.6g} dimensions)"


def ratio_text(value: float, ours: float) -> str:
    """value/ours to three digits, the same number of decimals in a column while it is below 10."""
    if ours == 0:
        return "inf"
    return f"{value / ours:.2f}" if value < 10 * ours else f"{value / ours:.3g}"


def positions(sigmas: Sequence[float], width: int = 32) -> list[str]:
    """A line for each level, with a dot where it lies between the first and the last on a logarithmic scale."""
    levels = [math.log(sigma) for sigma in sigmas if sigma > 0]
    reach = max(levels[0] - levels[-1], 1e-9)
    # A final 0 has no logarithm: the levels above it use nine tenths of the line.
    room = width - 1 if sigmas[-1] > 0 else round(0.9 * (width - 1))
    places = [round(room * (levels[0] - level) / reach) for level in levels]
    marks = ["●"] * len(levels)
    if sigmas[-1] == 0:
        places.append(width - 1)
        marks.append("○")
    return ["·" * place + mark + "·" * (width - 1 - place) for place, mark in zip(places, marks, strict=True)]
