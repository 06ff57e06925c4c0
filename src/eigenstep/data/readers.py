"""The four ways of reading a part: rows of an array, files by name, encoded items in a stream, and an iterator of batches."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, BinaryIO, Protocol

import numpy as np

from eigenstep.data import files
from eigenstep.data.files import Names
from eigenstep.data.source import Batch, Piece, Read, SourceError

PIECE = 32  # encoded items per job: some 50 ms of photographs, so that the last jobs end together
PARTS = 256  # a long array or list of names is cut into about this many parts


class CorruptItem(Exception):
    """One item cannot be read; it is named, counted and left out."""


class Recipe(Protocol):
    """How one file or tar member becomes one item."""

    def item(self, name: str, stream: BinaryIO) -> Batch:
        """The item as stored; CorruptItem where it is damaged, SourceError where it does not fit the others."""
        ...


def part_size(n: int, batch_size: int) -> int:
    """Items per part when n items are cut into some `PARTS` parts of whole batches."""
    return batch_size * max(1, round(n / (PARTS * batch_size)))


def decode(entries: Iterable[tuple[str, BinaryIO | OSError]], recipe: Recipe) -> Read:
    """The items among `entries`, stacked, and the names of the others with the reason."""
    items: list[Batch] = []
    skipped = []
    for name, stream in entries:
        try:
            if isinstance(stream, OSError):
                raise CorruptItem(stream.strerror or str(stream))
            items.append(recipe.item(name, stream))
        except CorruptItem as error:
            skipped.append(f"{name} ({error})")
    return (_stacked(items) if items else None), skipped


def _stacked(items: list[Batch]) -> Batch:
    """np.stack would keep the order of transposed pixels in memory, which costs five times as much to send."""
    out = np.empty((len(items), *items[0].shape), items[0].dtype)
    for k, item in enumerate(items):
        out[k] = item
    return out


def open_each(names: Iterable[str]) -> Iterator[tuple[str, BinaryIO | OSError]]:
    """Each file by name, open for as long as it is the current one, or why it cannot be."""
    for name in names:
        try:
            stream = files.opened(name)
        except OSError as error:
            yield name, error
            continue
        with stream:
            yield name, stream


def _decode_named(names: list[str], recipe: Recipe) -> Read:
    return decode(open_each(names), recipe)


def _decode_held(entries: list[tuple[str, bytes]], recipe: Recipe) -> Read:
    return decode(((name, io.BytesIO(content)) for name, content in entries), recipe)


@dataclass(frozen=True)
class NamedFiles:
    """One item in each file; the files are opened where they are decoded."""

    names: Names
    recipe: Recipe

    @property
    def n_items(self) -> int:
        """How many files."""
        return len(self.names)

    def pieces(self, start: int, batch_size: int) -> Iterator[Piece]:
        """`PIECE` files at a time."""
        held: list[str] = []
        for stop, name in enumerate(self.names.since(start), start + 1):
            held.append(name)
            if len(held) == PIECE or stop % batch_size == 0 or stop == len(self.names):
                yield Piece(partial(_decode_named, held, self.recipe), stop)
                held = []

    def stamp(self) -> str:
        """Name of every file; of local ones, where asking costs little, also size and time of change."""
        return f"{self.recipe}" + "".join(
            f"\0{name} {'' if files.is_url(name) else files.stamp(name)}" for name in self.names
        )


@dataclass(frozen=True)
class Encoded:
    """Encoded items that come one after another: the members of a tar, the rows of a table."""

    entries: Callable[[int], Iterator[tuple[str, bytes]]]
    """From item number `start` on: name and content of each."""
    recipe: Recipe
    n_items: int | None = None
    stamp_of: Callable[[], str] = str

    def pieces(self, start: int, batch_size: int) -> Iterator[Piece]:
        """`PIECE` items at a time; the jobs carry the content."""
        held: list[tuple[str, bytes]] = []
        stop = start
        for entry in self.entries(start):
            held.append(entry)
            stop += 1
            if len(held) == PIECE or stop % batch_size == 0:
                yield Piece(partial(_decode_held, held, self.recipe), stop)
                held = []
        if held:
            yield Piece(partial(_decode_held, held, self.recipe), stop)

    def stamp(self) -> str:
        """What the recipe and the file say."""
        return f"{self.recipe} {self.stamp_of()}"


@dataclass(frozen=True)
class Rows:
    """The rows start..stop of what `load` gives: an array, a memory map, or anything with a shape that can be sliced.

    `load` is called once per reading, where the reading is. `stop` None stands for as many rows as there are.
    """

    load: Callable[[], Any]
    start: int = 0
    stop: int | None = None
    stamp_of: Callable[[], str] = str

    @property
    def n_items(self) -> int | None:
        """How many rows, where that was told."""
        return None if self.stop is None else self.stop - self.start

    def pieces(self, start: int, batch_size: int) -> Iterator[Piece]:
        """A batch at a time; the jobs slice what is loaded here."""
        array = self.load()
        last = len(array) if self.stop is None else self.stop
        for low in range(self.start + start, last, batch_size):
            high = min(low + batch_size, last)
            yield Piece(partial(_rows, array, low, high), high - self.start)

    def stamp(self) -> str:
        """The range, and what its file says."""
        return f"{self.start}:{self.stop} {self.stamp_of()}"


def _rows(array: Any, low: int, high: int) -> Read:
    return array[low:high], []


def row_parts(
    load: Callable[[], Any], n: int, batch_size: int, *, stamp_of: Callable[[], str] = str
) -> tuple[Rows, ...]:
    """Ranges of the rows of one array, as readers."""
    size = part_size(n, batch_size)
    return tuple(Rows(load, low, min(low + size, n), stamp_of) for low in range(0, n, size))


@dataclass(frozen=True)
class Stream:
    """An iterator of arrays (m, *item_shape), such as a caller's own; only reading it tells where it ends."""

    arrays: Callable[[], Iterable[Batch]]
    n_items: int | None = None
    stamp_of: Callable[[], str] = str

    def pieces(self, start: int, batch_size: int) -> Iterator[Piece]:
        """The arrays cut at multiples of `batch_size`; to begin at `start`, what comes before is read and dropped."""
        stop = 0
        for array in self.arrays():
            low = min(max(start - stop, 0), len(array))
            while low < len(array):
                high = min(low + batch_size - (stop + low) % batch_size, len(array))
                yield Piece(partial(_rows, array, low, high), stop + high)
                low = high
            stop += len(array)

    def stamp(self) -> str:
        """What its maker says; of what will come nothing is known."""
        return f"stream {self.stamp_of()}"


def first_item(entries: Iterable[tuple[str, BinaryIO | OSError]], recipe: Recipe, description: str) -> tuple[str, Batch]:
    """Name and content of the first item that can be read: what the others must fit."""
    skipped: list[str] = []
    for name, stream in entries:
        items, lost = decode([(name, stream)], recipe)
        if items is not None:
            return name, items[0]
        skipped += lost
    if skipped:
        names = ", ".join(skipped[:3]) + (", ..." if len(skipped) > 3 else "")
        raise SourceError(f"{description}: all of its {len(skipped)} items are corrupt ({names}); repair or remove them.")
    raise SourceError(f"{description}: there is nothing in it to read.")
