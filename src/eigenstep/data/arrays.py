"""Arrays in memory, in npz archives and in memory-mapped npy files."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eigenstep.data.source import RANGES, Batch, Options, Source, SourceError, affine, range_words

# int16 audio is full scale at 32768, so that zero stays zero; 8-bit is pixels.
_NATIVE = {np.dtype(np.uint8): (0.0, 255.0), np.dtype(np.int16): (-32768.0, 32768.0)}


def open_array(array: NDArray[Any], options: Options, *, description: str = "") -> Source:
    """Batches of the rows of an array (n, ...), read in order; slices of a memory map stay on disk until needed."""
    description = description or f"array of shape {array.shape}, {array.dtype}"
    if array.ndim == 0 or array.size == 0:
        raise SourceError(f"{description}: it holds no items (shape {array.shape}).")
    if array.dtype.kind not in "fiub":
        raise SourceError(f"{description}: its type {array.dtype} is not a real number.")
    target = options.value_range or "raw"
    native = (0.0, 1.0) if target == "raw" else _native_range(array, description)
    convert = affine(native, target, options.scale)

    def batches(_: Source) -> Iterator[Batch]:
        for start in range(0, len(array), options.batch_size):
            yield convert(array[start : start + options.batch_size])

    words = range_words(native, target, options.scale, str(array.dtype))
    return Source(description, words, batches, n_items=len(array))


def open_npy(path: str, options: Options) -> Source:
    """A npy file, memory-mapped."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise SourceError(f"{path!r} is truncated, corrupt or no npy file of numbers ({error}).") from error
    return open_array(array, options, description=path)


def open_npz(path: str, options: Options) -> Source:
    """One array of a npz archive: `key`, else `train`, else the largest numeric one of at least two dimensions."""
    try:
        headers = _headers(path)
        key = _choose(headers, options.key, path)
        with np.load(path, allow_pickle=False) as archive:
            array = archive[key]
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, KeyError, ValueError) as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"{path!r} is truncated, corrupt or no npz archive of numbers ({error}).") from error
    return open_array(array, options, description=f"{path}[{key}]")


def _headers(path: str) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Shape and type of every array, without reading any."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as stream:
                version = np.lib.format.read_magic(stream)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(stream)
            found[name.removesuffix(".npy")] = (shape, dtype)
    return found


def _choose(headers: dict[str, tuple[tuple[int, ...], np.dtype[Any]]], key: str | None, path: str) -> str:
    listing = ", ".join(f"{name} {shape} {dtype}" for name, (shape, dtype) in headers.items())
    if key is not None:
        if key not in headers:
            raise SourceError(f"{path!r} has no array {key!r}; it holds: {listing}.")
        return key
    usable = {
        name: int(np.prod(shape)) * dtype.itemsize
        for name, (shape, dtype) in headers.items()
        if dtype.kind in "fiu" and len(shape) >= 2
    }
    if not usable:
        raise SourceError(f"{path!r} has no numeric array of two dimensions or more; it holds: {listing}.")
    return "train" if "train" in usable else max(usable, key=lambda name: usable[name])


def _native_range(array: NDArray[Any], description: str) -> tuple[float, float]:
    """The range that stored values have by their type, or for floats by the values themselves."""
    if array.dtype in _NATIVE:
        return _NATIVE[array.dtype]
    low, high = float(array.min()), float(array.max())
    for a, b in (RANGES["0,1"], RANGES["-1,1"], RANGES["0,255"]):
        if a <= low and high <= b:
            return a, b
    raise SourceError(
        f"{description}: values from {low:g} to {high:g} are in no known range ([0, 1], [-1, 1] or [0, 255]); leave "
        "`value_range` out and use `scale`."
    )
