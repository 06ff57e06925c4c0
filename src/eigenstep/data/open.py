"""`open_source`: which iterator reads a given source."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eigenstep._checks import choice, integer, real_number
from eigenstep.data.arrays import open_array, open_npy, open_npz
from eigenstep.data.digits import open_digits
from eigenstep.data.folder import open_folder
from eigenstep.data.source import RANGES, Options, Source, SourceError
from eigenstep.data.tars import TAR_SUFFIXES, holds_tars, open_tars

_ALWAYS = ("batch_size", "value_range", "scale")


@dataclass(frozen=True)
class SourceKind:
    """One kind of source: how to recognise it, how to open it, and which options mean something to it."""

    recognises: Callable[[Any], bool]
    open: Callable[[Any, Options], Source]
    uses: tuple[str, ...] = ()
    example: str = ""


def _has_suffix(*suffixes: str) -> Callable[[Any], bool]:
    return lambda source: isinstance(source, str) and source.lower().endswith(suffixes)


def _are_tars(source: Any) -> bool:
    if isinstance(source, str):
        return source.lower().endswith(TAR_SUFFIXES) or holds_tars(source)
    return isinstance(source, list) and all(path.lower().endswith(TAR_SUFFIXES) for path in source)


SOURCES: dict[str, SourceKind] = {
    "array": SourceKind(lambda source: isinstance(source, np.ndarray), open_array, example="a numpy array"),
    "digits": SourceKind(lambda source: source == "digits", open_digits, example="the word digits"),
    "npz": SourceKind(_has_suffix(".npz"), open_npz, uses=("key",), example="data.npz"),
    "npy": SourceKind(_has_suffix(".npy"), open_npy, example="data.npy (memory-mapped)"),
    "tars": SourceKind(_are_tars, open_tars, uses=("size", "gray"), example="shard.tar, 'shards/*.tar', a folder of tars"),
    "folder": SourceKind(
        lambda source: isinstance(source, str) and os.path.isdir(source),
        open_folder,
        uses=("size", "gray"),
        example="a folder of images",
    ),
}


def open_source(
    source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | NDArray[Any],
    *,
    batch_size: int = 1024,
    size: int | None = None,
    gray: bool | None = None,
    value_range: str | None = None,
    scale: float = 1.0,
    key: str | None = None,
    name: str | None = None,
) -> Source:
    """Open data of any known kind (`SOURCES`) as a `Source` of batches.

    Parameters
    ----------
    source : an array; a path to an npz or npy file, a folder of images (searched through and sorted), a WebDataset tar,
        a folder of tars; a glob pattern or a list of tars; or "digits", scikit-learn's 1797 digits of 8 x 8
        (write "./digits" for a folder of that name).
    batch_size : items per batch, at least 1.
    size : images only: shrink or enlarge the shorter side to this many pixels, and cut the middle square out. Without
        it, images of different sizes are refused.
    gray : images only: True makes them gray (1, h, w), False makes them RGB (3, h, w), None does as the first image is.
    value_range : "-1,1", "0,1", "0,255" or "raw" (values as stored). Default: images are decoded to [-1, 1]
        (pixel/127.5 - 1), the convention of pretrained pixel models; arrays are taken as they are. Noise levels come
        out in the same units.
    scale : factor applied last, such as 0.001 from microvolts to millivolts.
    key : npz only: the array's name. Default: `train`, else the largest numeric array.
    name : a short name to label results with. Default: the file's or folder's own.

    Raises
    ------
    SourceError : nothing there, nothing in it, a damaged archive, an option that means nothing to this kind.
    ImportError : Pillow or scikit-learn is missing; the message has the pip command.

    Examples
    --------
    >>> source = open_source(np.zeros((5, 2, 2)), batch_size=2)
    >>> source.n_items, [batch.shape for batch in source]
    (5, [(2, 2, 2), (2, 2, 2), (1, 2, 2)])
    """
    if value_range is not None:
        choice(value_range, (*RANGES, "raw"), "value_range")
    options = Options(
        batch_size=integer(batch_size, "batch_size"),
        size=None if size is None else integer(size, "size"),
        gray=gray,
        value_range=value_range,
        scale=real_number(scale, "scale", minimum=0.0, exclusive=True),
        key=key,
    )
    found = _expand(source)
    if isinstance(found, str) and found != "digits" and not os.path.exists(found):
        raise SourceError(f"there is no file or folder {found!r}; check the path, or the current folder.")
    for label, kind in SOURCES.items():
        if kind.recognises(found):
            for option in fields(Options):
                given = getattr(options, option.name)
                if given != option.default and option.name not in (*_ALWAYS, *kind.uses):
                    raise SourceError(f"`{option.name}` means nothing to a source of kind {label!r}, got {given!r}.")
            opened = kind.open(found, options)
            opened.name = name or _own_name(found)
            return opened
    known = "; ".join(kind.example for kind in SOURCES.values())
    raise SourceError(f"{_short(found)} is no source that can be read; known are: {known}.")


def _own_name(source: Any) -> str:
    if isinstance(source, np.ndarray):
        return "array"
    path: str = source[0] if isinstance(source, list) else source
    return os.path.basename(os.path.abspath(path)).partition(".")[0]


def _expand(source: Any) -> Any:
    """Paths as strings, glob patterns and sequences as lists of them; arrays as they are."""
    if isinstance(source, np.ndarray):
        return source
    if isinstance(source, (list, tuple)):
        if not source or not all(isinstance(path, (str, os.PathLike)) for path in source):
            raise SourceError("`source` must be a list of paths, got something else; pass numbers as a numpy array.")
        return [os.fspath(path) for path in source]
    if not isinstance(source, (str, os.PathLike)):
        raise SourceError(f"`source` must be a path or a numpy array, got {_short(source)}.")
    path = os.path.expanduser(os.fspath(source))
    if glob.has_magic(path) and not os.path.exists(path):
        matches = sorted(glob.glob(path, recursive=True))
        if not matches:
            raise SourceError(f"no file matches {path!r}.")
        return matches
    return path


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
