"""The folder of an evaluation: what is finished is on disk before the next cell begins, and is found there again."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from eigenstep import _files
from eigenstep.evaluation.features import ConvolutionFeatures

FORMAT = {"format": "eigenstep-evaluation", "format_version": 1}


class Shelf:
    """Arrays in a folder, each whole or not there: what worker processes read and write.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Shelf(folder).keep("two", {"x": np.ones(2)})
    ...     print(Shelf(folder).arrays("two"), Shelf(folder).arrays("three"))
    {'x': array([1., 1.])} None
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Of a folder that is there."""
        self.folder = Path(folder)

    def keep(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write `name`.npz."""
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        self._write(f"{name}.npz", buffer.getvalue())

    def arrays(self, name: str) -> dict[str, NDArray[Any]] | None:
        """What `keep` wrote, or None."""
        path = self.folder / f"{name}.npz"
        return _files.read_npz(path, "evaluation")[1] if path.exists() else None

    def _write(self, name: str, content: bytes) -> None:
        def write(stream: BinaryIO) -> None:
            stream.write(content)

        _files.write_atomically(self.folder / name, write)


class Store(Shelf):
    """Files of one evaluation, for the one process that keeps its books.

    `settings.json` says what all its numbers depend on; `cells.jsonl` holds one line for each finished or failed cell;
    `references/` the converged endpoints of each seed, `plans/` what was planned, `samples/` the first samples of each cell.

    Parameters
    ----------
    folder : path
        Made where it is not there.
    settings : mapping
        Plain JSON; a folder of other settings is refused.
    resume : bool
        Whether to go on with what is there.

    Raises
    ------
    ValueError
        The folder holds an evaluation and `resume` is not asked for, or one of other settings; it is damaged.
    OSError
        It cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Store(folder, {"items": 8}, resume=False).add("karras, ddim, 4 calls, seed 0", {"error": None})
    ...     print(Store(folder, {"items": 8}, resume=True).finished)
    {'karras, ddim, 4 calls, seed 0': {'error': None}}
    """

    def __init__(self, folder: str | os.PathLike[str], settings: Mapping[str, Any], *, resume: bool) -> None:
        """Open or begin."""
        super().__init__(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("references", "samples", "plans"):
            (self.folder / name).mkdir(exist_ok=True)
        self.settings = json.loads(json.dumps(settings))
        self.finished: dict[str, dict[str, Any]] = {}
        header = self.folder / "settings.json"
        if not header.exists():
            self._write("settings.json", json.dumps({**FORMAT, "settings": self.settings}, indent=1).encode())
        elif not resume:
            raise ValueError(
                f"The folder {str(self.folder)!r} holds an evaluation already; go on with it by --resume, or choose another "
                "folder."
            )
        else:
            self._check(header)
        self._read()

    def _check(self, header: Path) -> None:
        record = _files.read_json(header, "evaluation")
        _files.check_format(record, header, "evaluation", newest=1)
        found = record["settings"]
        for key in sorted(set(found) | set(self.settings)):
            if found.get(key) != self.settings.get(key):
                raise ValueError(
                    f"The evaluation in {str(self.folder)!r} was begun with another {key} ({_short(found.get(key))}, now "
                    f"{_short(self.settings.get(key))}); its cells cannot stand beside new ones. Choose another folder."
                )

    def _read(self) -> None:
        """The finished cells; a last line that a killed process left unfinished is cut off."""
        path = self.folder / "cells.jsonl"
        if not path.exists():
            return
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            self._write("cells.jsonl", whole)
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                record = json.loads(line)
                self.finished[record.pop("cell")] = record
            except (ValueError, KeyError) as error:
                raise ValueError(_files.damaged(path, "evaluation", f"line {number}: {error}")) from error

    def add(self, cell: str, record: Mapping[str, Any]) -> None:
        """Keep a cell: on the disk when this returns. A cell done again replaces the earlier one."""
        line = json.dumps({"cell": cell, **record}, allow_nan=False) + "\n"
        with open(self.folder / "cells.jsonl", "ab") as stream:
            stream.write(line.encode())
            stream.flush()
            os.fsync(stream.fileno())
        self.finished[cell] = dict(record)

    def keep_features(self, features: ConvolutionFeatures) -> None:
        """Keep a network that was trained in the run: one that is gone on with must compare in the same."""
        arrays: dict[str, NDArray[Any]] = {f"weights.{key}": value for key, value in features.weights.items()}
        facts = np.array(json.dumps({"name": features.name, "item_shape": features.item_shape, "note": features.note}))
        arrays |= {"shift": features.shift, "scale": features.scale, "facts": facts}
        self.keep(f"features-{features.name}", arrays)

    def features(self, name: str) -> ConvolutionFeatures | None:
        """What `keep_features` wrote, or None."""
        arrays = self.arrays(f"features-{name}")
        if arrays is None:
            return None
        facts = json.loads(str(arrays["facts"]))
        weights = {key.removeprefix("weights."): value for key, value in arrays.items() if key.startswith("weights.")}
        return ConvolutionFeatures(
            facts["name"], tuple(facts["item_shape"]), weights, arrays["shift"], arrays["scale"], facts["note"]
        )


def file_name(cell: str) -> str:
    """A file name for a cell: its words, and a digest where they would not do.

    >>> file_name("karras, ddim, 4 calls, seed 0")
    'karras-ddim-4-calls-seed-0-7877a8ef'
    """
    words = re.sub(r"[^A-Za-z0-9.]+", "-", cell).strip("-")[:80]
    return f"{words}-{hashlib.sha256(cell.encode()).hexdigest()[:8]}"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
