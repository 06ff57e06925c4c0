"""Hugging Face `datasets`: saved folders, parquet and arrow files, and dataset objects, streaming ones too."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eigenstep.data import files
from eigenstep.data.files import Files
from eigenstep.data.images import fixed, image_recipe, image_units
from eigenstep.data.readers import PIECE, Encoded, Stream, first_item, part_size, row_parts
from eigenstep.data.source import Batch, Options, Reader, Source, SourceError
from eigenstep.data.tensors import refuse_empty, tensor_units

TABLE_SUFFIXES = (".parquet", ".arrow")
_ARRAYS = ("Sequence", "List", "LargeList", "Array2D", "Array3D", "Array4D", "Array5D")
_TABLE_FORMATS = {".parquet": "parquet", ".arrow": "arrow"}


def is_dataset(thing: Any) -> bool:
    """Whether it is an object of the library `datasets`; no import where the caller has made none."""
    library = sys.modules.get("datasets")
    kinds = ("Dataset", "IterableDataset", "DatasetDict", "IterableDatasetDict")
    return library is not None and isinstance(thing, tuple(getattr(library, kind) for kind in kinds))


def open_saved(found: Files, options: Options) -> Source:
    """A folder that `save_to_disk` made."""
    library = _library()
    try:
        return _open(library.load_from_disk(found.path), options, found.description, partial(files.stamp, found.path))
    except (OSError, ValueError, KeyError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"{found.path!r} is no whole saved dataset ({error}); save it again.") from error


def open_tables(found: Files, options: Options) -> Source:
    """Parquet or arrow files, streamed in their order without a copy in the cache; each is a part."""
    library = _library()
    names = list(found.groups["tables"])
    suffixes = {os.path.splitext(name.partition("::")[0])[1].lower() for name in names}
    if len(suffixes) > 1:
        raise SourceError(f"{found.description}: it holds parquet and arrow files; read them apart.")
    form = _TABLE_FORMATS[suffixes.pop()]
    parts = []
    for name in names:
        try:
            table = library.load_dataset(form, data_files=[name], split="train", streaming=True)
            parts.append(table if table.features is not None else table._resolve_features())
        except Exception as error:
            # The library passes on whatever its readers raise: pyarrow's errors, fsspec's, its own.
            raise SourceError(f"{name!r} is truncated, corrupt or no {form} file ({error}); write it again.") from error
    return _open_streams(parts, options, found.description, [partial(files.stamp, name) for name in names])


def open_dataset(dataset: Any, options: Options) -> Source:
    """A `Dataset`, an `IterableDataset`, or the split `train` of a dictionary of them."""
    return _open(dataset, options, f"datasets.{type(dataset).__name__}", str)


def _library() -> Any:
    try:
        import datasets
    except ImportError:
        raise ImportError(
            'reading Hugging Face datasets needs datasets; install it with: pip install "eigenstep[datasets]"'
        ) from None
    return datasets


def _open(dataset: Any, options: Options, description: str, stamp_of: Any) -> Source:
    library = _library()
    key = options.key
    if isinstance(dataset, dict):
        split, _, key = (key or "").partition("/")
        split = split or "train"
        if split not in dataset:
            raise SourceError(f"{description} has no split {split!r}; name one by `key`, 'split/column': {', '.join(dataset)}.")
        dataset, description = dataset[split], f"{description}[{split}]"
    options = replace(options, key=key or None)
    if isinstance(dataset, library.IterableDataset):
        n = dataset.num_shards
        parts = [dataset.shard(num_shards=n, index=k, contiguous=True) for k in range(n)] if n > 1 else [dataset]
        return _open_streams(parts, options, description, [stamp_of] * len(parts))
    if not len(dataset):
        raise SourceError(f"{description}: it holds no items.")
    column = _column(dataset.features, options.key, description, library)
    description = f"{description}[{column}]"
    if isinstance(dataset.features[column], library.Image):
        encoded = dataset.cast_column(column, library.Image(decode=False)).select_columns([column])
        return _images([partial(_encoded_rows, encoded, column)], options, description, stamp_of, n=len(dataset))
    load = partial(_Column, dataset.with_format("numpy", columns=[column]), column)
    rows = load()
    refuse_empty(rows, description)
    at_once = options.items_at_once(rows.shape[1:])
    looked = (rows[low : low + at_once] for low in range(0, len(rows), at_once))
    convert, words = tensor_units(options, rows.dtype, looked, description)
    readers = row_parts(load, len(rows), at_once, stamp_of=stamp_of)
    return Source(description, words, rows.shape[1:], readers, convert, at_once)


def _open_streams(parts: list[Any], options: Options, description: str, stamps: list[Any]) -> Source:
    library = _library()
    features = parts[0].features or parts[0]._resolve_features().features
    column = _column(features, options.key, description, library)
    description = f"{description}[{column}]"
    if isinstance(features[column], library.Image):
        encoded = [part.cast_column(column, library.Image(decode=False)) for part in parts]
        return _images([partial(_encoded_stream, part, column) for part in encoded], options, description, stamps[0])
    streams = [partial(_arrays, part.with_format("numpy"), column) for part in parts]
    first = next(iter(streams[0]()), None)
    if first is None:
        raise SourceError(f"{description}: there is nothing in it to read.")
    refuse_empty(first, description)
    convert, words = tensor_units(options, first.dtype, [first], description, detected=True)
    readers: tuple[Reader, ...] = tuple(
        Stream(stream, stamp_of=stamp) for stream, stamp in zip(streams, stamps, strict=True)
    )
    return Source(description, words, first.shape[1:], readers, convert, options.items_at_once(first.shape[1:]))


def _images(entries: list[Any], options: Options, description: str, stamp_of: Any, *, n: int | None = None) -> Source:
    """From functions that give encoded images; with n, the only one's first n in parts by its own ranges."""
    recipe = image_recipe(options)
    opened = ((name, BytesIO(content)) for each in entries for name, content in each(start=0))
    name, first = first_item(opened, recipe, description)
    recipe = fixed(recipe, name, first)
    convert, words = image_units(options)
    at_once = options.items_at_once(first.shape)
    readers = tuple(Encoded(each, recipe, stamp_of=stamp_of) for each in entries)
    if n is not None:
        size = part_size(n, at_once)
        cuts = [(low, min(low + size, n)) for low in range(0, n, size)]
        readers = tuple(
            Encoded(partial(entries[0], low=low, high=high), recipe, high - low, stamp_of) for low, high in cuts
        )
    return Source(description, words, first.shape, readers, convert, at_once, options.workers)


def _column(features: Any, key: str | None, description: str, library: Any) -> str:
    """The column named, else the only one of images, else the only one of arrays."""
    listing = ", ".join(f"{name} ({_words(feature)})" for name, feature in features.items())
    if key is not None:
        if key not in features:
            raise SourceError(f"{description} has no column {key!r}; it has: {listing}.")
        return str(key)
    images = [name for name, feature in features.items() if isinstance(feature, library.Image)]
    arrays = [name for name, feature in features.items() if type(feature).__name__ in _ARRAYS]
    found = images or arrays
    if len(found) != 1:
        raise SourceError(f"{description}: choose a column with `key`. It has: {listing}.")
    return str(found[0])


def _words(feature: Any) -> str:
    return str(getattr(feature, "dtype", type(feature).__name__))


def _encoded_rows(
    dataset: Any, column: str, start: int, *, low: int = 0, high: int | None = None
) -> Iterator[tuple[str, bytes]]:
    high = len(dataset) if high is None else high
    for begin in range(low + start, high, PIECE):
        rows = dataset[begin : min(begin + PIECE, high)][column]
        for k, row in enumerate(rows, begin):
            yield _entry(f"row {k}", row)


def _encoded_stream(dataset: Any, column: str, start: int) -> Iterator[tuple[str, bytes]]:
    for k, row in enumerate(dataset.skip(start) if start else dataset, start):
        yield _entry(f"row {k}", row[column])


def _entry(name: str, row: dict[str, Any] | None) -> tuple[str, bytes]:
    """An image that is missing, or whose file cannot be opened, is an empty one: corrupt, and counted as such."""
    if row is None:
        return name, b""
    if row["bytes"] is not None:
        return name, bytes(row["bytes"])
    path = str(row["path"])
    try:
        with files.opened(path) as stream:
            return path, stream.read()
    except OSError:
        return path, b""


def _arrays(dataset: Any, column: str) -> Iterator[Batch]:
    for rows in dataset.iter(batch_size=PIECE):
        yield _stacked(rows[column], column)


def _stacked(rows: Any, column: str) -> NDArray[Any]:
    try:
        array = np.stack(list(rows)) if isinstance(rows, list) or rows.dtype == object else np.asarray(rows)
    except ValueError as error:
        raise SourceError(f"the column {column!r} holds arrays of several shapes; items must have one shape.") from error
    return array


@dataclass(frozen=True)
class _Column:
    """The rows of a column of numbers."""

    dataset: Any
    column: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows, and the shape of the first."""
        return (len(self.dataset), *self[0:1].shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the first row."""
        return self[0:1].dtype

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.dataset)

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Consecutive rows."""
        return _stacked(self.dataset[rows][self.column], self.column)
