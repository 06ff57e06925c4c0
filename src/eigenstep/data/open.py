"""`open_source`: which iterator reads a given source."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from eigenstep._checks import choice, integer, real_number
from eigenstep.data import files
from eigenstep.data.audio import AUDIO_SUFFIXES, open_audio
from eigenstep.data.digits import open_digits
from eigenstep.data.files import Files
from eigenstep.data.huggingface import TABLE_SUFFIXES, is_dataset, open_dataset, open_saved, open_tables
from eigenstep.data.images import IMAGE_SUFFIXES, open_images
from eigenstep.data.readers import Stream
from eigenstep.data.source import RANGES, Batch, Options, Source, SourceError
from eigenstep.data.stores import HDF5_SUFFIXES, open_hdf5, open_zarr
from eigenstep.data.tars import TAR_SUFFIXES, open_tars
from eigenstep.data.tensors import TENSOR_SUFFIXES, open_array, open_tensors

_NUMBERED = re.compile(r"\{(?P<low>\d+)\.\.(?P<high>\d+)\}")  # shard-{000..099}.tar, as WebDataset writes it
_ALWAYS = ("batch_size", "value_range", "scale")


@dataclass(frozen=True)
class SourceKind:
    """One kind of source: how to recognise it, how to open it, and which options mean something to it.

    Parameters
    ----------
    open : from what was found and the options to a `Source`.
    suffixes : endings of the files that belong to it; `open` is given `Files`, the names under this kind in `groups`.
    markers : sets of names; a folder that holds all names of one of them at its top is of this kind as a whole.
    recognises : for what is neither file nor folder.
    uses : names of `Options` that mean something to it, besides those that always do.
    example : what to write, for messages.

    Examples
    --------
    >>> SOURCES["digits"].recognises("digits"), SOURCES["array"].recognises("digits")
    (True, False)
    >>> [name for name, kind in SOURCES.items() if ".flac" in kind.suffixes]
    ['audio']
    """

    open: Callable[[Any, Options], Source]
    suffixes: tuple[str, ...] = ()
    markers: tuple[frozenset[str], ...] = ()
    recognises: Callable[[Any], bool] = lambda source: False
    uses: tuple[str, ...] = ()
    example: str = ""


_PIXELS = ("size", "crop", "gray", "workers")

SOURCES: dict[str, SourceKind] = {
    "array": SourceKind(
        open_array,
        recognises=lambda source: isinstance(source, np.ndarray),
        uses=("stored_range",),
        example="a numpy array",
    ),
    "digits": SourceKind(open_digits, recognises=lambda source: source == "digits", example="the word digits"),
    "dataset": SourceKind(
        open_dataset,
        recognises=is_dataset,
        uses=("key", "stored_range", *_PIXELS),
        example="an object of Hugging Face's datasets",
    ),
    "saved": SourceKind(
        open_saved,
        markers=(frozenset(["dataset_info.json", "state.json"]), frozenset(["dataset_dict.json"])),
        uses=("key", "stored_range", *_PIXELS),
        example="a dataset saved by save_to_disk",
    ),
    "zarr": SourceKind(
        open_zarr,
        markers=(frozenset(["zarr.json"]), frozenset([".zarray"]), frozenset([".zgroup"])),
        uses=("key", "stored_range"),
        example="data.zarr",
    ),
    "hdf5": SourceKind(open_hdf5, HDF5_SUFFIXES, uses=("key", "stored_range"), example="data.h5"),
    "tables": SourceKind(
        open_tables, TABLE_SUFFIXES, uses=("key", "stored_range", *_PIXELS), example="data.parquet or .arrow"
    ),
    "tars": SourceKind(
        open_tars, TAR_SUFFIXES, uses=("key", "stored_range", *_PIXELS), example="shard.tar, 'shards/*.tar', a folder of tars"
    ),
    "audio": SourceKind(
        open_audio, AUDIO_SUFFIXES, uses=("length", "mono", "rate", "workers"), example="a folder of wav or flac files"
    ),
    "tensors": SourceKind(
        open_tensors,
        TENSOR_SUFFIXES,
        uses=("key", "stacked", "stored_range", "workers"),
        example="data.npy, .npz, .pt or .safetensors, or a folder of them",
    ),
    "images": SourceKind(open_images, IMAGE_SUFFIXES, uses=_PIXELS, example="a folder of images"),
}


def open_source(
    source: Any,
    *,
    kind: str | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    value_range: str | None = None,
    stored_range: str | None = None,
    scale: float = 1.0,
    size: int | None = None,
    crop: int | None = None,
    gray: bool | None = None,
    key: str | None = None,
    stacked: bool | None = None,
    length: int | None = None,
    mono: bool | None = None,
    rate: int | None = None,
    name: str | None = None,
) -> Source:
    """Open data of any known kind (`SOURCES`) as a `Source` of batches.

    Parameters
    ----------
    source : a numpy array; a file, a folder (searched through and sorted; links to folders are not followed), a glob
        pattern, a range such as shard-{000..099}.tar, or a list of files: images, sound, arrays, WebDataset tars,
        parquet, HDF5; a zarr store; a dataset of Hugging Face, saved or in memory; any of these by a URL that fsspec
        knows (s3://, hf://, zip://in::out); or "digits", scikit-learn's 1797 digits of 8 x 8 (write "./digits" for a
        folder of that name).
    kind : a name in `SOURCES`, needed only for a folder that holds several kinds of files.
    batch_size : items per batch, at least 1, corrupt ones included. Default: what 32 MiB hold as float64, at most 1024.
    workers : processes that decode images, sound and small files of arrays. Default: one per core, once half a second
        of work has shown need. The batches do not depend on it.
    value_range : "-1,1", "0,1", "0,255" or "raw" (values as stored). Default: images are decoded to [-1, 1]
        (pixel/127.5 - 1), the convention of pretrained pixel models, and sound to [-1, 1], full scale; arrays are taken
        as they are. Noise levels come out in the same units.
    stored_range : arrays only, "low,high": the range of the stored values that `value_range` is to map. Default: that
        of the type (uint8 0,255; int16 -32768,32768; uint16 0,65535), else the first of [0, 1], [-1, 1], [0, 255] that
        holds them. Where only the first were looked at, later values outside it are refused.
    scale : factor applied last, such as 0.001 from microvolts to millivolts, or 0.18215 for latents.
    size : images only: shrink or enlarge the shorter side to this many pixels, and cut the middle square out. Without
        it, images of different sizes are refused.
    crop : images only: side of the middle square that is cut out, after `size`. Default: `size`.
    gray : images only: True makes them gray (1, h, w), False makes them RGB (3, h, w), None does as the first image is.
    key : the array of an npz, safetensors, HDF5 file or zarr store, the column (or split/column) of a dataset, or the
        suffix of a tar's members. Default: `train`, else the largest numeric array; the only column of images, else
        of arrays; images.
    stacked : several files of arrays only: whether each holds many items, along its first axis. Default: those of one
        or three dimensions are one item each.
    length : sound only, samples: of longer files the middle is cut out, shorter ones are followed by zeros. Default:
        the length of the first; others are refused.
    mono : sound only: True takes the mean of the channels.
    rate : sound only, samples a second: resample files of other rates. Default: the rate of the first; others are
        refused.
    name : a short name to label results with. Default: the file's or folder's own.

    Raises
    ------
    SourceError : nothing there, nothing in it, a damaged archive, an option that means nothing to this kind.
    ImportError : Pillow or another package that this kind needs is missing; the message has the pip command.

    Examples
    --------
    >>> source = open_source(np.zeros((5, 2, 2)), batch_size=2)
    >>> source.n_items, [batch.shape for batch in source]
    (5, [(2, 2, 2), (2, 2, 2), (1, 2, 2)])
    """
    options = Options(
        batch_size=_count(batch_size, "batch_size"),
        workers=_count(workers, "workers"),
        value_range=None if value_range is None else choice(value_range, (*RANGES, "raw"), "value_range"),
        stored_range=_interval(stored_range),
        scale=real_number(scale, "scale", minimum=0.0, exclusive=True),
        size=_count(size, "size"),
        crop=_count(crop, "crop"),
        gray=gray,
        key=key,
        stacked=stacked,
        length=_count(length, "length"),
        mono=mono,
        rate=_count(rate, "rate"),
    )
    if kind is not None:
        choice(kind, SOURCES, "kind")
    found = _found(source)
    label = _kind_of(found, kind)
    for option in fields(Options):
        given = getattr(options, option.name)
        if given != option.default and option.name not in (*_ALWAYS, *SOURCES[label].uses):
            raise SourceError(f"`{option.name}` means nothing to a source of kind {label!r}, got {given!r}.")
    opened = SOURCES[label].open(found, options)
    opened.name = name or _own_name(found)
    return opened


def from_batches(
    arrays: Callable[[], Iterable[Batch]], *, description: str, batch_size: int = 1024, n_items: int | None = None
) -> Source:
    """A source of what a function's iterators give: arrays (m, *item_shape), taken as they are.

    Parameters
    ----------
    arrays : makes a fresh iterator each time; all of them give the same.
    description : what it is, in a few words.
    batch_size : items per batch; the arrays are cut at its multiples.
    n_items : how many items there are, if known.

    Raises
    ------
    SourceError : there is no first array.

    Examples
    --------
    >>> source = from_batches(lambda: iter([np.eye(3)]), description="unit vectors")
    >>> [batch.shape for batch in source], source.item_shape
    ([(3, 3)], (3,))
    """
    first = next(iter(arrays()), None)
    if first is None:
        raise SourceError(f"{description}: there is nothing in it to read.")
    words = f"as stored ({first.dtype})"
    return Source(description, words, first.shape[1:], (Stream(arrays, n_items),), batch_size=batch_size)


def _kind_of(found: Any, kind: str | None) -> str:
    """The row of `SOURCES` that reads what was found."""
    if not isinstance(found, Files):
        for label, row in SOURCES.items():
            if row.recognises(found):
                return label
        raise _unknown(found)
    for label, row in SOURCES.items():
        if any(marker <= set(found.top) for marker in row.markers):
            return label
    if kind is not None:
        if kind not in found.groups:
            raise SourceError(f"{found.description} holds no files of kind {kind!r}.")
        return kind
    if len(found.groups) > 1:
        holds = " and ".join(f"{len(names)} of kind {label!r}" for label, names in found.groups.items())
        raise SourceError(f"{found.description} holds {holds}; choose with `kind`.")
    if not found.groups:
        if found.single:
            raise _unknown(found.path)
        endings = ", ".join(ending for row in SOURCES.values() for ending in row.suffixes)
        raise SourceError(f"{found.description} holds nothing that can be read; looked for {endings} at any depth.")
    return next(iter(found.groups))


def _unknown(thing: Any) -> SourceError:
    known = "; ".join(kind.example for kind in SOURCES.values())
    shown = repr(thing) if isinstance(thing, str) else _short(thing)  # a path is of use only whole
    return SourceError(f"{shown} is no source that can be read; known are: {known}.")


def _found(source: Any) -> Any:
    """Paths, patterns and lists of paths as `Files`; whatever else, as it is."""
    suffixes = {label: row.suffixes for label, row in SOURCES.items()}
    if isinstance(source, (list, tuple)):
        if not source or not all(isinstance(path, (str, os.PathLike)) for path in source):
            raise SourceError("`source` must be a list of paths, got something else; pass numbers as a numpy array.")
        paths = [os.path.expanduser(os.fspath(path)) for path in source]
        absent = next((path for path in paths if not files.exists(path)), None)
        if absent is not None:
            raise SourceError(f"there is no file {absent!r}; check the path.")
        return _gathered(paths, paths[0], f"{len(paths)} files, the first {paths[0]}", suffixes)
    if not isinstance(source, (str, os.PathLike)):
        if any(row.recognises(source) for row in SOURCES.values()):
            return source
        raise SourceError(f"`source` must be a path or a numpy array, got {_short(source)}.")
    path = os.path.expanduser(os.fspath(source))
    if (numbered := _NUMBERED.search(path)) and not files.exists(path):
        low, high = numbered["low"], numbered["high"]
        each = [f"{k:0{len(low)}d}" for k in range(int(low), int(high) + 1)]
        return _found([path[: numbered.start()] + number + path[numbered.end() :] for number in each])
    if any(row.recognises(path) for row in SOURCES.values()):
        return path
    if glob.has_magic(path.partition("::")[0]) and not files.exists(path):
        found = files.matches(path)
        if not found:
            raise SourceError(f"no file matches {path!r}.")
        return _gathered(found, path, f"{path} ({len(found)} files)", suffixes)
    if files.is_folder(path):
        top = tuple(files.top(path))
        marked = any(marker <= set(top) for row in SOURCES.values() for marker in row.markers)
        return _gathered([] if marked else files.walk(path), path, path, suffixes, top=top)
    if not files.exists(path):
        raise SourceError(f"there is no file or folder {path!r}; check the path, or the current folder.")
    groups, others = files.gather([path], suffixes, hidden=True)
    return Files(path, path, groups, single=True, others=others)


def _gathered(
    names: Iterable[str], path: str, description: str, suffixes: dict[str, tuple[str, ...]], *, top: tuple[str, ...] = ()
) -> Files:
    groups, others = files.gather(names, suffixes)
    return Files(path, description, groups, others=others, top=top)


def _own_name(found: Any) -> str:
    if isinstance(found, np.ndarray):
        return "array"
    path = found.path if isinstance(found, Files) else found if isinstance(found, str) else type(found).__name__
    inner = path.partition("::")[0].rstrip("/")
    inner = inner if files.is_url(path) else os.path.abspath(inner)
    return os.path.basename(inner).partition(".")[0]


def _count(value: int | None, name: str) -> int | None:
    return None if value is None else integer(value, name)


def _interval(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        low, high = (float(end) for end in text.split(","))
    except (AttributeError, ValueError):
        raise ValueError(f"`stored_range` must be two numbers such as '0,4095', got {_short(text)}.") from None
    if not low < high:
        raise ValueError(f"`stored_range` must rise, got {text!r}.")
    return text


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
