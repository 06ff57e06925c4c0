"""`Measurement`: what has been seen of the data so far, as it is kept in a file, gone on with and merged."""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eigenstep import _files
from eigenstep.data.source import Batch, Position, SourceError
from eigenstep.moments import Accumulator, load_moments
from eigenstep.spectrum import JSON, Spectrum

RECORD_VERSION = 1
_RECORD = "measurement"  # the entry of the npz archive beside those of the accumulator


@dataclass
class Reading:
    """Which data a measurement has read, and how far.

    Parameters
    ----------
    source : the source's description.
    identity : what must be the same for the rest to belong to it: a stamp of the source, and options.
    share : (i, n) for the i-th of n shares of its parts; (1, 1) for all of it.
    position : where it stands within the share.
    finished : whether the share was read to its end.
    """

    source: str
    identity: dict[str, JSON]
    share: tuple[int, int] = (1, 1)
    position: Position = field(default_factory=Position)
    finished: bool = False

    def overlaps(self, other: Reading) -> bool:
        """Whether both read some of the same items: share i of n is the range ((i-1)/n, i/n] of the same parts.

        >>> first, second, all_of_it = (Reading("rows.npy", {}, share=share) for share in ((1, 2), (2, 2), (1, 1)))
        >>> first.overlaps(second), first.overlaps(all_of_it)
        (False, True)
        """
        (i, n), (j, m) = self.share, other.share
        return self.identity == other.identity and (i - 1) * m < j * n and (j - 1) * n < i * m


@dataclass
class Measurement:
    """An accumulator, and what the record of a spectrum says of the items in it.

    Parameters
    ----------
    moments : the accumulator.
    name : a short name to label results with.
    source : description of the data.
    value_range : units of the values, in words; the same in everything that is merged.
    low, high : smallest and largest value seen, in data units; (inf, -inf) where that was not recorded.
    skipped : names of the items that could not be read, with the reason.
    readings : which data, and how far; empty where that was not recorded.

    Examples
    --------
    >>> from eigenstep.moments import Moments
    >>> half, rest = (Measurement(Moments(2), "pairs", "numbers 0 to 5", "as stored") for _ in range(2))
    >>> half.update(np.array([[0.0, 1.0], [2.0, 3.0]]))
    >>> rest.update(np.array([[4.0, 5.0]]))
    >>> half.merge(rest)
    >>> half.count, half.low, half.high, half.spectrum().eigenvalues.round(3).tolist()
    (3, 0.0, 5.0, [8.0, 0.0])
    """

    moments: Accumulator
    name: str
    source: str
    value_range: str
    low: float = math.inf
    high: float = -math.inf
    skipped: list[str] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Items seen."""
        return self.moments.count

    def update(self, batch: Batch) -> None:
        """Add a batch of items; SourceError, which names the source, where the accumulator refuses it."""
        try:
            self.moments.update(batch)
        except ValueError as error:
            raise SourceError(f"{self.source}: {error}") from error
        self.low, self.high = min(self.low, float(batch.min())), max(self.high, float(batch.max()))

    def merge(self, other: Measurement) -> None:
        """Add all that `other` saw.

        Raises
        ------
        ValueError : other units, another form or shape of items, data that are in it already.
        """
        if self.value_range != other.value_range and "" not in (self.value_range, other.value_range):
            raise ValueError(
                f"{other.source} has values {other.value_range} but {self.source} has {self.value_range}; measure both "
                "with the same `value_range` and `scale`."
            )
        for ours in self.readings:
            for theirs in other.readings:
                if ours.overlaps(theirs):
                    raise ValueError(
                        f"{theirs.source} (part {_words(theirs.share)}) is in it already, as part {_words(ours.share)}; its "
                        "items would count twice. Leave one out."
                    )
        self.moments.merge(other.moments)
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        self.skipped += other.skipped
        self.readings += other.readings
        self.value_range = self.value_range or other.value_range
        if other.source != self.source:
            self.source = _joined(self.source, other.source)
            self.name = _joined(self.name, other.name)

    def spectrum(self, *, basis: int = 0, provenance: Mapping[str, JSON] | None = None) -> Spectrum:
        """Spectrum of the items seen, with so many eigenvectors; recorded are source, units, extreme values, items skipped."""
        record: dict[str, JSON] = {"name": self.name, "source": self.source, "value_range": self.value_range}
        if self.low <= self.high:
            record["values"] = [self.low, self.high]
        record |= {"skipped": len(self.skipped), "accumulator": self.moments.reason}
        return self.moments.spectrum(basis=basis, provenance={**record, **(provenance or {})})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to an `.npz` file, whole or not at all; `load_moments` reads it too.

        Raises
        ------
        ValueError : another suffix.
        OSError : the disk is full or the folder is closed to us; an earlier file is left as it was.
        """
        target = Path(path)
        if target.suffix.lower() != ".npz":
            raise ValueError(f"`path` must end in .npz, got {os.fspath(path)!r}.")
        beside = _beside(target)
        try:
            self.moments.save(beside)
            with zipfile.ZipFile(beside, "a") as archive, archive.open(f"{_RECORD}.npy", "w") as stream:
                np.lib.format.write_array(stream, np.array(json.dumps(self._record())))
            with open(beside, "rb") as written:
                os.fsync(written.fileno())
            os.replace(beside, target)
        except OSError as error:
            beside.unlink(missing_ok=True)
            kept = "the file that was there is unchanged" if target.exists() else "no file was left behind"
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise OSError(
                error.errno, f"could not write {str(target)!r} ({reason}); {kept}. Free space or choose another folder."
            ) from error

    @staticmethod
    def unfinished(path: str | os.PathLike[str]) -> list[Path]:
        """What a process that was killed in the middle of `save` has left beside `path`; nobody needs it."""
        beside = _beside(Path(path))
        # The second is what the accumulator's own atomic writing leaves.
        return [
            found
            for found in beside.parent.iterdir()
            if found.name == beside.name or (found.name.startswith(f".{beside.name}.") and found.suffix == ".part")
        ]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Measurement:
        """Read what `save` wrote, or a bare accumulator, of whose data nothing more is known.

        Raises
        ------
        ValueError : a truncated, corrupt or foreign file, or one from a newer version.
        FileNotFoundError : no such file.
        """
        moments = load_moments(path)
        with np.load(path, allow_pickle=False) as archive:
            record = json.loads(str(archive[_RECORD])) if _RECORD in archive.files else None
        if record is None:
            return cls(moments, name=Path(path).stem, source=os.fspath(path), value_range="")
        try:
            if record["format_version"] > RECORD_VERSION:
                raise ValueError(
                    f"{os.fspath(path)!r} was written by a newer eigenstep (record version {record['format_version']}, "
                    f"this release reads up to {RECORD_VERSION}); upgrade eigenstep to read it."
                )
            low, high = record["values"] or (math.inf, -math.inf)
            return cls(
                moments,
                name=record["name"],
                source=record["source"],
                value_range=record["value_range"],
                low=low,
                high=high,
                skipped=list(record["skipped"]),
                readings=[_reading(kept) for kept in record["readings"]],
            )
        except (KeyError, TypeError) as error:
            raise ValueError(_files.damaged(path, "moments", error)) from error

    def _record(self) -> dict[str, Any]:
        return {
            "format_version": RECORD_VERSION,
            "name": self.name,
            "source": self.source,
            "value_range": self.value_range,
            "values": [self.low, self.high] if self.low <= self.high else None,
            "skipped": self.skipped,
            "readings": [asdict(reading) for reading in self.readings],
        }


def _beside(target: Path) -> Path:
    return target.with_name(f".{target.stem}.part.npz")


def _reading(kept: dict[str, Any]) -> Reading:
    position = {**kept["position"], "skipped": tuple(kept["position"]["skipped"])}
    return Reading(**{**kept, "share": tuple(kept["share"]), "position": Position(**position)})


def _words(share: tuple[int, int]) -> str:
    return f"{share[0]}/{share[1]}"


def _joined(ours: str, theirs: str) -> str:
    return ours if theirs in ours.split(" + ") else f"{ours} + {theirs}"
