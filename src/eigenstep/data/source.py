"""What every source is: a description, and an iterator of batches in stated units."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Batch = NDArray[Any]

RANGES = {"-1,1": (-1.0, 1.0), "0,1": (0.0, 1.0), "0,255": (0.0, 255.0)}
MAX_SKIPPED = 0.01


class SourceError(ValueError):
    """The data cannot be read as asked; the message says which file and what to do."""


@dataclass(frozen=True)
class Options:
    """How a source is to be read; `open_source` documents and checks each."""

    batch_size: int = 1024
    size: int | None = None
    gray: bool | None = None
    value_range: str | None = None
    scale: float = 1.0
    key: str | None = None


@dataclass
class Source:
    """Batches of items of one shape, as often as it is iterated.

    Parameters
    ----------
    description : what it is, in a few words: a path, and the array or the options within.
    value_range : the units of the values that come out, in words.
    batches : makes a fresh iterator of arrays (m, *item_shape); it is given this source, to report skips to.
    n_items : how many items it holds, corrupt ones included, or None where only reading would tell.
    name : a short name to label results with.
    skipped : names of the items that the last iteration could not read.

    Iterating raises `SourceError` where no item, or less than 99 % of them, can be read.
    """

    description: str
    value_range: str
    batches: Callable[[Source], Iterator[Batch]]
    n_items: int | None = None
    name: str = ""
    skipped: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Batch]:
        """The batches, from the start."""
        self.skipped = []
        count = 0
        for batch in self.batches(self):
            count += len(batch)
            yield batch
        lost = len(self.skipped)
        if lost > MAX_SKIPPED * (count + lost):
            names = ", ".join(self.skipped[:3]) + (", ..." if lost > 3 else "")
            raise SourceError(
                f"{self.description}: {lost} of {count + lost} items are corrupt, more than 1 % ({names}); repair or "
                "remove them."
            )
        if not count:
            raise SourceError(f"{self.description}: there is nothing in it to read.")


def affine(native: tuple[float, float], target: str, scale: float) -> Callable[[Batch], Batch]:
    """The map from the native range of stored values to the target range ("raw": none), times `scale`."""
    if target == "raw":
        return (lambda batch: batch) if scale == 1.0 else (lambda batch: batch * scale)
    (low, high), (a, b) = native, RANGES[target]
    factor = (b - a) / (high - low)
    return lambda batch: scale * (a + factor * (batch.astype(np.float64) - low))


def range_words(native: tuple[float, float] | None, target: str, scale: float, stored: str) -> str:
    """The units in words, such as "[-1, 1] from uint8 [0, 255]"."""
    words = f"as stored ({stored})"
    if target != "raw" and native is not None:
        words = f"[{target.replace(',', ', ')}] from {stored} [{native[0]:g}, {native[1]:g}]"
    return words if scale == 1.0 else f"{words}, times {scale:g}"
