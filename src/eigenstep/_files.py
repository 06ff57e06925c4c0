"""Whole files or none: atomic writes, and reads that name what is wrong with a damaged file."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray


def write_atomically(path: str | os.PathLike[str], write: Callable[[BinaryIO], object]) -> None:
    """Let `write` fill a temporary file beside `path`, then replace `path` by it in one step.

    A crash, a full disk or a lost permission leaves an earlier file at `path` as it was. OSError says so.
    """
    target = Path(path)
    temporary: str | None = None
    try:
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
        with os.fdopen(descriptor, "wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes files private; a saved result follows the user's umask like any other file.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, target)
    except OSError as error:
        if temporary is not None and os.path.exists(temporary):
            os.unlink(temporary)
        kept = "the file that was there is unchanged" if target.exists() else "no file was left behind"
        raise OSError(
            error.errno,
            f"could not write {str(target)!r} ({error.strerror or error}); {kept}. Free space or choose "
            "another folder, and save again.",
        ) from error


def read_npz(path: str | os.PathLike[str], kind: str) -> tuple[Any, dict[str, NDArray[Any]]]:
    """The JSON in the entry `header` of an npz archive ({} without one) and all arrays; no pickles."""
    with open(path, "rb") as stream:
        try:
            loaded = np.load(stream, allow_pickle=False)
            if not isinstance(loaded, np.lib.npyio.NpzFile):
                raise ValueError("it holds a single array, not an archive")
            arrays = {name: loaded[name] for name in loaded.files}
            return json.loads(str(arrays.pop("header", "{}"))), arrays
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError, OSError) as error:
            raise ValueError(damaged(path, kind, error)) from error


def read_json(path: str | os.PathLike[str], kind: str) -> Any:
    """The content of a JSON file; ValueError where it is damaged."""
    content = Path(path).read_bytes()
    try:
        return json.loads(content)
    except ValueError as error:
        raise ValueError(damaged(path, kind, error)) from error


def damaged(path: str | os.PathLike[str], kind: str, error: object) -> str:
    """The sentence for a file that cannot be a whole `kind`."""
    return f"{os.fspath(path)!r} is truncated, corrupt or no {kind} file ({error}); write it again."


def check_format(header: Any, path: str | os.PathLike[str], kind: str, *, newest: int) -> None:
    """Refuse a foreign file, and one from a version that this release cannot know."""
    found = header.get("format") if isinstance(header, dict) else None
    if found != f"eigenstep-{kind}":
        raise ValueError(f"{os.fspath(path)!r} is no eigenstep {kind} file: its `format` is {found!r}.")
    version = header.get("format_version")
    if not isinstance(version, int) or version < 1:
        raise ValueError(damaged(path, kind, f"`format_version` is {version!r}"))
    if version > newest:
        raise ValueError(
            f"{os.fspath(path)!r} was written by a newer eigenstep (format version {version}, this release reads up to "
            f"{newest}); upgrade eigenstep to read it."
        )
