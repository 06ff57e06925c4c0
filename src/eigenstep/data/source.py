"""What every source is: batches of items in stated units, in parts that other machines can read, from any position."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from eigenstep.data.pool import ordered

Batch = NDArray[Any]
Read = tuple["Batch | None", list[str]]
"""Items (m, *item_shape) as stored, None for none, and the names of those that could not be read."""

RANGES = {"-1,1": (-1.0, 1.0), "0,1": (0.0, 1.0), "0,255": (0.0, 255.0)}
MAX_SKIPPED = 0.01
BATCH_BYTES = 1 << 25  # the allocator uses memory of this size again; larger blocks are new, zeroed pages each time
_CACHED = 1 << 14  # numbers


class SourceError(ValueError):
    """The data cannot be read as asked; the message says which file and what to do."""


@dataclass(frozen=True)
class Options:
    """How a source is to be read; `open_source` documents and checks each."""

    batch_size: int | None = None
    workers: int | None = None
    value_range: str | None = None
    stored_range: str | None = None
    scale: float = 1.0
    size: int | None = None
    crop: int | None = None
    gray: bool | None = None
    key: str | None = None
    stacked: bool | None = None
    length: int | None = None
    mono: bool | None = None
    rate: int | None = None

    def items_at_once(self, item_shape: Sequence[int]) -> int:
        """Items per batch: as asked for, else as many as `BATCH_BYTES` hold as float64, from 1 to 1024."""
        return self.batch_size or max(1, min(1024, BATCH_BYTES // (8 * math.prod(item_shape))))


@dataclass(frozen=True)
class Piece:
    """A job that reads some items of a part, and how many of the part's items have then been read or skipped."""

    job: Callable[[], Read]
    stop: int


class Reader(Protocol):
    """What reads one part of a source."""

    @property
    def n_items(self) -> int | None:
        """How many items the part holds, corrupt ones included, or None where only reading would tell."""
        ...

    def pieces(self, start: int, batch_size: int) -> Iterator[Piece]:
        """Jobs for the items from `start` on, in order; no piece crosses a multiple of `batch_size`."""
        ...

    def stamp(self) -> str:
        """Words that change when the part does: names, sizes, times of change."""
        ...


@dataclass(frozen=True)
class Position:
    """A place between two batches: what was read up to there, corrupt items included, and what came of it."""

    part: int = 0
    item: int = 0
    given: int = 0
    skipped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Convert:
    """The map from the native range of stored values to the target range (None: none), times `scale`.

        x -> scale * (a + (b - a)/(high - low) * (x - low))

    With `detected`, values outside the native range are refused: it was told from some items only.
    """

    native: tuple[float, float] | None = None
    target: tuple[float, float] | None = None
    scale: float = 1.0
    detected: bool = False

    def __call__(self, items: Batch) -> Batch:
        """The items in the target's units."""
        return self.joined([items])

    def joined(self, pieces: Sequence[Batch]) -> Batch:
        """The items of all pieces, one after the other, in the target's units."""
        if self.target is None and self.scale == 1.0:
            return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        out = np.empty((sum(map(len, pieces)), *pieces[0].shape[1:]))
        start = 0
        for items in pieces:
            self._into(items, out[start : start + len(items)])
            start += len(items)
        return out

    def _into(self, items: Batch, out: NDArray[np.float64]) -> None:
        if self.detected and self.native is not None:
            low, high = float(items.min()), float(items.max())
            if low < self.native[0] or high > self.native[1]:
                raise SourceError(
                    f"values from {low:g} to {high:g} lie outside [{self.native[0]:g}, {self.native[1]:g}], the range that "
                    "the first items seemed to have; state the range that is stored with `stored_range`."
                )
        if self.native is None or self.target is None:
            np.multiply(items, self.scale, out=out, dtype=np.float64)
            return
        (low, high), (a, b) = self.native, self.target
        # The map of the docstring with x taken out: two passes in place of five.
        slope = self.scale * (b - a) / (high - low)
        offset = self.scale * a - slope * low
        # Large items one by one: the second pass then finds the first one's result in the cache.
        for x, y in zip(items, out, strict=True) if out.size > _CACHED * len(out) else [(items, out)]:
            np.multiply(x, slope, out=y, dtype=np.float64)
            y += offset


def units(options: Options, native: tuple[float, float] | None, stored: str, *, detected: bool = False) -> tuple[
    Convert, str
]:
    """The map to the units asked for, and these in words, such as "[-1, 1] from uint8 [0, 255]"."""
    target = options.value_range
    words = f"as stored ({stored})"
    convert = Convert(scale=options.scale)
    if target not in (None, "raw") and native is not None:
        words = f"[{target.replace(',', ', ')}] from {stored} [{native[0]:g}, {native[1]:g}]"
        words += ", the range detected" if detected else ""
        convert = Convert(native, RANGES[target], options.scale, detected)
    return convert, words if options.scale == 1.0 else f"{words}, times {options.scale:g}"


@dataclass
class Source:
    """Batches of items of one shape, as often as it is iterated.

    Parameters
    ----------
    description : what it is, in a few words: a path, and the array or the options within.
    value_range : the units of the values that come out, in words.
    item_shape : shape of one item.
    readers : one for each part, in order.
    convert : the map from stored values to those units.
    batch_size : items read at a time, corrupt ones included; a batch never crosses from one part into the next.
    workers : processes that decode; None for as many as there are cores, once half a second of work has shown need.
    name : a short name to label results with.
    whole : whether losses are judged at the end; parts leave that to the whole.
    skipped : names of the items that the last iteration could not read.
    position : where the last iteration stands, for `batches(after=...)`.

    Iterating raises `SourceError` where no item, or less than 99 % of them, can be read.

    Examples
    --------
    >>> from eigenstep.data import open_source
    >>> source = open_source(np.arange(10.0).reshape(5, 2), batch_size=2)
    >>> source.n_items, source.item_shape, [len(batch) for batch in source]
    (5, (2,), [2, 2, 1])
    >>> [len(batch) for part in source.parts() for batch in part]
    [2, 2, 1]
    >>> batches = iter(source)
    >>> here = (next(batches), source.position)[1]
    >>> [batch.tolist() for batch in source.batches(after=here)]
    [[[4.0, 5.0], [6.0, 7.0]], [[8.0, 9.0]]]
    """

    description: str
    value_range: str
    item_shape: tuple[int, ...]
    readers: tuple[Reader, ...]
    convert: Convert = field(default_factory=Convert)
    batch_size: int = 1024
    workers: int | None = 1
    name: str = ""
    whole: bool = True
    skipped: list[str] = field(default_factory=list)
    position: Position = field(default_factory=Position)

    @property
    def n_items(self) -> int | None:
        """How many items it holds, corrupt ones included, or None where only reading would tell."""
        counts = [reader.n_items for reader in self.readers]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    def parts(self) -> list[Source]:
        """The files, shards or ranges it is made of, each a picklable source that decodes in its own process.

        Their batches, one part after another, are those of the whole. What they skip is for the whole to judge.
        """
        total = len(self.readers)
        return [
            replace(
                self,
                description=f"{self.description}, part {k} of {total}",
                readers=(reader,),
                workers=1,
                whole=False,
                skipped=[],
                position=Position(),
            )
            for k, reader in enumerate(self.readers, 1)
        ]

    def stamp(self) -> str:
        """A digest of what is read and how; it changes with names, sizes and times of change of files, and options."""
        import hashlib

        digest = hashlib.sha256(f"{self.value_range}|{self.item_shape}|{self.batch_size}".encode())
        for reader in self.readers:
            digest.update(b"\0" + reader.stamp().encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    def __iter__(self) -> Iterator[Batch]:
        """The batches, from the start."""
        return self.batches()

    def batches(self, *, after: Position | None = None) -> Iterator[Batch]:
        """The batches that follow a `position` of this source, an earlier process's or machine's; None for the start."""
        self.position = after or Position()
        self.skipped = list(self.position.skipped)
        pending: list[Batch] = []
        part, stop, given = self.position.part, self.position.item, self.position.given
        total = self.n_items if self.whole else None
        for (now, piece), (items, lost) in ordered(self._pieces(self.position), self.workers):
            if now != part or stop % self.batch_size == 0:
                if pending:
                    given += sum(map(len, pending))
                    self.position = Position(part, stop, given, tuple(self.skipped))
                    yield self._checked(pending)
                pending = []
            part, stop = now, piece.stop
            self.skipped += lost
            if total is not None and len(self.skipped) > MAX_SKIPPED * total:
                raise self._lost(f"at least {len(self.skipped)} of {total}", self.skipped)
            if items is not None:
                pending.append(items)
        if pending:
            given += sum(map(len, pending))
            self.position = Position(part, stop, given, tuple(self.skipped))
            yield self._checked(pending)
        self.judge(given, self.skipped)

    def judge(self, given: int, skipped: Sequence[str]) -> None:
        """Refuse a reading of the whole that gave `given` items and skipped others, if it lost more than 1 %.

        Who reads `parts()` calls this once on the whole, with the sums over the parts; on a part it does nothing.

        Raises
        ------
        SourceError : nothing was read, or more than 1 % was skipped.
        """
        if not self.whole:
            return
        lost = len(skipped)
        if lost > MAX_SKIPPED * (given + lost):
            raise self._lost(f"{lost} of {given + lost}", skipped)
        if not given:
            raise SourceError(f"{self.description}: there is nothing in it to read.")

    def _lost(self, share: str, skipped: Sequence[str]) -> SourceError:
        names = ", ".join(skipped[:3]) + (", ..." if len(skipped) > 3 else "")
        return SourceError(
            f"{self.description}: {share} items are corrupt, more than 1 % ({names}); repair or remove them."
        )

    def _pieces(self, start: Position) -> Iterator[tuple[int, Piece]]:
        for k in range(start.part, len(self.readers)):
            for piece in self.readers[k].pieces(start.item if k == start.part else 0, self.batch_size):
                yield k, piece

    def _checked(self, pieces: list[Batch]) -> Batch:
        for items in pieces:
            if items.shape[1:] != self.item_shape:
                raise SourceError(
                    f"{self.description}: items of shape {items.shape[1:]} come after items of shape {self.item_shape}."
                )
        try:
            return self.convert.joined(pieces)
        except SourceError as error:
            raise SourceError(f"{self.description}: {error}") from None
