"""HDF5 files and zarr stores: one array of each, read chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eigenstep.data import files
from eigenstep.data.files import Files
from eigenstep.data.readers import row_parts
from eigenstep.data.source import Options, Source, SourceError
from eigenstep.data.tensors import choose, refuse_empty, tensor_units

HDF5_SUFFIXES = (".h5", ".hdf5", ".hdf")


class Chunked:
    """The rows of an array stored in chunks. The last chunks read are kept: batches need not fit them."""

    def __init__(self, array: Any) -> None:
        """Around an h5py.Dataset or a zarr.Array."""
        self._array = array
        self.shape = tuple(array.shape)
        self.dtype = np.dtype(array.dtype)
        chunks = getattr(array, "chunks", None)
        self._rows = int(chunks[0]) if chunks else 0
        self._held: tuple[int, NDArray[Any]] | None = None

    def __len__(self) -> int:
        """Number of rows."""
        return int(self.shape[0])

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Consecutive rows."""
        low, high, _ = rows.indices(len(self))
        if not self._rows:
            return np.asarray(self._array[low:high])
        pieces = []
        while low < high:
            chunk = low // self._rows
            if self._held is None or self._held[0] != chunk:
                self._held = (chunk, np.asarray(self._array[chunk * self._rows : (chunk + 1) * self._rows]))
            begin = low - chunk * self._rows
            pieces.append(self._held[1][begin : begin + high - low])
            low += len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces)


@dataclass(frozen=True)
class _Hdf5:
    path: str
    key: str | None

    def opened(self) -> tuple[str, Any]:
        try:
            import h5py
        except ImportError:
            raise ImportError('reading HDF5 needs h5py; install it with: pip install "eigenstep[hdf5]"') from None
        try:
            group = h5py.File(files.opened(self.path) if files.is_url(self.path) else self.path, "r")
        except OSError as error:
            raise SourceError(f"{self.path!r} is truncated, corrupt or no HDF5 file ({error}); write it again.") from error
        arrays: dict[str, Any] = {}
        group.visititems(lambda name, item: arrays.update({name: item}) if isinstance(item, h5py.Dataset) else None)
        return _chosen(arrays, self.key, self.path)


@dataclass(frozen=True)
class _Zarr:
    path: str
    key: str | None

    def opened(self) -> tuple[str, Any]:
        try:
            import zarr
        except ImportError:
            raise ImportError('reading zarr stores needs zarr; install it with: pip install "eigenstep[zarr]"') from None
        try:
            root = zarr.open(self.path, mode="r")
        except (OSError, ValueError, KeyError) as error:
            raise SourceError(f"{self.path!r} is corrupt or no zarr store ({error}); write it again.") from error
        if isinstance(root, zarr.Array):
            if self.key is not None:
                raise SourceError(f"{self.path!r} holds one array without a name; leave out `key`, got {self.key!r}.")
            return "", root
        return _chosen(dict(_arrays(root, zarr)), self.key, self.path)


def _arrays(group: Any, zarr: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name in sorted(group):
        if isinstance(group[name], zarr.Array):
            yield prefix + name, group[name]
        else:
            yield from _arrays(group[name], zarr, f"{prefix}{name}/")


def _chosen(arrays: dict[str, Any], key: str | None, path: str) -> tuple[str, Any]:
    try:
        name = choose({name: (tuple(item.shape), np.dtype(item.dtype)) for name, item in arrays.items()}, key)
    except SourceError as error:
        raise SourceError(f"{path!r} {error}") from None
    return name, arrays[name]


def open_hdf5(found: Files, options: Options) -> Source:
    """The rows of one dataset of an HDF5 file."""
    if len(found.groups["hdf5"]) > 1:
        raise SourceError(f"{found.description}: HDF5 files are read one at a time; merge their moments.")
    return _open(_Hdf5(next(iter(found.groups["hdf5"])), options.key), options)


def open_zarr(found: Files, options: Options) -> Source:
    """The rows of one array of a zarr store."""
    return _open(_Zarr(found.path, options.key), options)


def _open(store: _Hdf5 | _Zarr, options: Options) -> Source:
    name, array = store.opened()
    description = f"{store.path}[{name}]" if name else store.path
    refuse_empty(array, description)
    rows = Chunked(array)
    at_once = options.items_at_once(rows.shape[1:])
    looked = (rows[low : low + at_once] for low in range(0, len(rows), at_once))
    convert, words = tensor_units(options, rows.dtype, looked, description)
    readers = row_parts(partial(_rows_of, store), len(rows), at_once, stamp_of=partial(files.stamp, store.path))
    return Source(description, words, rows.shape[1:], readers, convert, at_once)


def _rows_of(store: _Hdf5 | _Zarr) -> Chunked:
    return Chunked(store.opened()[1])
