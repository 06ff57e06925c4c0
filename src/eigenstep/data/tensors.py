"""Arrays: in memory, and in npy, npz, PyTorch and safetensors files, of one item each or of many."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import islice
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from eigenstep.data import files
from eigenstep.data.files import Files
from eigenstep.data.readers import CorruptItem, NamedFiles, Rows, decode, first_item, open_each, part_size, row_parts
from eigenstep.data.source import RANGES, Batch, Convert, Options, Source, SourceError, units

TENSOR_SUFFIXES = (".npy", ".npz", ".pt", ".pth", ".safetensors")

# Integer audio is full scale at a power of two, so that zero stays zero; unsigned integers are pixels.
_NATIVE = {
    np.dtype(np.uint8): (0.0, 255.0),
    np.dtype(np.int16): (-32768.0, 32768.0),
    np.dtype(np.uint16): (0.0, 65535.0),
}
_LOOK = 64  # items that tell the range of floats where reading all of them first would take long
_BFLOAT = "BF16"
_SAFE_TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", _BFLOAT: "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1",
}  # fmt: skip
_LONGEST_HEADER = 100_000_000  # bytes, the limit of the format's own readers


class Damaged(ValueError):
    """A file of arrays is not whole, or holds no numbers."""


class Stored:
    """Rows of numbers at a place in a file: a memory map where the file is local, read row by row where it is not.

    bfloat16, which numpy lacks, comes as float32: the same numbers with zeros added.
    """

    def __init__(self, path: str, offset: int, dtype: np.dtype[Any], shape: tuple[int, ...], *, bfloat: bool) -> None:
        """Check that the file is long enough."""
        self._path, self._offset, self._stored, self._bfloat = path, offset, dtype, bfloat
        self.shape = shape
        self.dtype = np.dtype(np.float32) if bfloat else dtype
        self._map: NDArray[Any] | None = None
        if not files.is_url(path):
            self._map = np.memmap(path, dtype, "r", offset, shape)

    def __len__(self) -> int:
        """Number of rows."""
        return self.shape[0]

    def __getitem__(self, rows: slice) -> NDArray[Any]:
        """Consecutive rows."""
        low, high, _ = rows.indices(len(self))
        if self._map is not None:
            return _widened(self._map[low:high]) if self._bfloat else self._map[low:high]
        step = int(np.prod(self.shape[1:], dtype=np.int64)) * self._stored.itemsize
        with files.opened(self._path) as stream:
            stream.seek(self._offset + low * step)
            content = stream.read((high - low) * step)
        if len(content) < (high - low) * step:
            raise SourceError(f"{self._path!r} is truncated at row {low + len(content) // step}; fetch it again.")
        array = np.frombuffer(content, self._stored).reshape(high - low, *self.shape[1:])
        return _widened(array) if self._bfloat else array


class TorchRows:
    """A tensor whose rows come as numpy arrays, bfloat16 as float32; a mapped file stays on disk until they do."""

    def __init__(self, tensor: Any) -> None:
        """Around a `torch.Tensor` on the CPU."""
        self._tensor = tensor
        self.shape = tuple(tensor.shape)
        self.dtype = self[:1].dtype if self.shape and len(self) else np.dtype(np.float32)

    def __len__(self) -> int:
        """Number of rows."""
        return self.shape[0] if self.shape else 0

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """The rows."""
        part = self._tensor[rows].detach()
        part = part.float() if str(part.dtype) in ("torch.bfloat16", "torch.float8_e4m3fn", "torch.float8_e5m2") else part
        found: NDArray[Any] = part.numpy()
        return found


def open_array(array: NDArray[Any], options: Options, *, description: str = "") -> Source:
    """Batches of the rows of an array (n, ...) in memory, read in order."""
    description = description or f"array of shape {array.shape}, {array.dtype}"
    refuse_empty(array, description)
    convert, words = tensor_units(options, array.dtype, [array], description)
    at_once = options.items_at_once(array.shape[1:])
    size = part_size(len(array), at_once)
    # Each part carries its own rows to another machine, not the whole array.
    readers = tuple(
        Rows(partial(_same, array[low : low + size]), 0, min(size, len(array) - low)) for low in range(0, len(array), size)
    )
    return Source(description, words, array.shape[1:], readers, convert, at_once)


def open_tensors(found: Files, options: Options) -> Source:
    """Arrays in one file, whose first axis counts items, or in several: shards of many items or files of one each.

    Of several, those of one or three dimensions are an item each, and of others the first axis counts items, unless
    `stacked` says so. Items in files of their own are skipped and counted when damaged; a damaged shard is refused.
    """
    names = found.groups["tensors"]
    if found.single:
        if options.stacked is False:
            raise SourceError(f"{found.path!r} alone is a single item if not `stacked`; pass its folder.")
        return _open_file(found.path, options)
    recipe = TensorRecipe(options.key)
    name, first = first_item(open_each(names), recipe, found.description)
    if first.ndim not in (1, 3) if options.stacked is None else options.stacked:
        return _open_shards(list(names), found.description, options)
    recipe = replace(recipe, shape=first.shape, like=name)
    looked, _ = decode(open_each(islice(names, _LOOK)), recipe)
    assert looked is not None, "the first item can be read"
    convert, words = tensor_units(options, first.dtype, [looked], found.description, detected=True)
    at_once = options.items_at_once(first.shape)
    readers = tuple(NamedFiles(some, recipe) for some in names.split(part_size(len(names), at_once)))
    workers = options.workers if found.shared else 1
    return Source(found.description, words, first.shape, readers, convert, at_once, workers)


def _open_file(path: str, options: Options) -> Source:
    key, array = _loaded(path, options.key)
    description = path if key is None else f"{path}[{key}]"
    refuse_empty(array, description)
    at_once = options.items_at_once(array.shape[1:])
    rows = (array[low : low + at_once] for low in range(0, len(array), at_once))
    convert, words = tensor_units(options, array.dtype, rows, description)
    readers = row_parts(partial(_rows_of, path, options.key), len(array), at_once, stamp_of=partial(files.stamp, path))
    return Source(description, words, tuple(array.shape[1:]), readers, convert, at_once)


def _open_shards(paths: list[str], description: str, options: Options) -> Source:
    key, array = _loaded(paths[0], options.key)
    refuse_empty(array, paths[0])
    description = description if key is None else f"{description}[{key}]"
    convert, words = tensor_units(options, array.dtype, [array[:_LOOK]], description, detected=True)
    readers = tuple(
        Rows(partial(_rows_of, path, options.key), 0, _count_rows(path, options.key), partial(files.stamp, path))
        for path in paths
    )
    return Source(description, words, tuple(array.shape[1:]), readers, convert, options.items_at_once(array.shape[1:]))


@dataclass(frozen=True)
class TensorRecipe:
    """One item in each file: a latent, say. Not-a-numbers and infinities make it corrupt.

    Parameters
    ----------
    key : which array of a file of several; None chooses as for one file.
    shape, like : shape and name of the first item, which the others must have; None before it is seen.
    """

    key: str | None = None
    shape: tuple[int, ...] | None = None
    like: str = ""

    def item(self, name: str, stream: BinaryIO) -> Batch:
        """The array, or why there is none."""
        try:
            _, rows = _LOADERS[_suffix(name)](stream, None, self.key)
        except Damaged as error:
            raise CorruptItem(str(error)) from error
        except SourceError as error:
            raise SourceError(f"{name!r} {error}") from None
        array = np.asarray(rows[...] if isinstance(rows, TorchRows) else rows)
        if array.size == 0:
            raise CorruptItem("it is empty")
        bad = int(np.count_nonzero(~np.isfinite(array))) if array.dtype.kind == "f" else 0
        if bad:
            raise CorruptItem(f"{bad} NaN or infinite value{'s' * (bad != 1)}")
        if self.shape is not None and array.shape != self.shape:
            raise SourceError(
                f"{name} holds an array of shape {array.shape} but {self.like} one of {self.shape}; items must have one "
                "shape. Where the first axis counts items, say so with `stacked`."
            )
        return array


def tensor_units(
    options: Options, dtype: np.dtype[Any], looked: Iterable[Batch], description: str, *, detected: bool = False
) -> tuple[Convert, str]:
    """The map to the units asked for, and these in words. The native range is stated, told by the type, or looked for.

    `detected` says that `looked` is not everything, so that values outside the range may come and must be refused.
    """
    if options.value_range in (None, "raw"):
        return units(options, None, str(dtype))
    if options.stored_range is not None:
        low, high = (float(end) for end in options.stored_range.split(","))
        return units(options, (low, high), str(dtype))
    if dtype in _NATIVE:
        return units(options, _NATIVE[dtype], str(dtype))
    low, high = np.inf, -np.inf
    for items in looked:
        # np.minimum, unlike min, keeps NaN.
        low, high = float(np.minimum(low, items.min())), float(np.maximum(high, items.max()))
    if np.isnan(low) or np.isinf(high - low):
        raise SourceError(f"{description}: it holds NaN or infinite values; remove or replace them.")
    for a, b in (RANGES["0,1"], RANGES["-1,1"], RANGES["0,255"]):
        if a <= low and high <= b:
            return units(options, (a, b), str(dtype), detected=detected)
    raise SourceError(
        f"{description}: values from {low:g} to {high:g} are in no known range ([0, 1], [-1, 1] or [0, 255]); state it "
        "with `stored_range`, or leave `value_range` out and use `scale`."
    )


def refuse_empty(array: Any, description: str) -> None:
    """Refuse what has no rows, empty rows, or no numbers."""
    if not array.shape or 0 in array.shape:
        raise SourceError(f"{description}: it holds no items (shape {tuple(array.shape)}).")
    if array.dtype.kind not in "fiub":
        raise SourceError(f"{description}: its type {array.dtype} is not a real number.")


def _same(array: NDArray[Any]) -> NDArray[Any]:
    return array


def _suffix(name: str) -> str:
    return os.path.splitext(name.partition("::")[0])[1].lower()


def _loaded(path: str, key: str | None) -> tuple[str | None, Any]:
    """The key that was chosen, None where the file has none, and what gives its rows."""
    try:
        with files.opened(path) as stream:
            return _LOADERS[_suffix(path)](stream, path, key)
    except Damaged as error:
        raise SourceError(
            f"{path!r} is truncated, corrupt or no {_suffix(path)[1:]} file of numbers ({error}); write it again."
        ) from error
    except SourceError as error:
        raise SourceError(f"{path!r} {error}") from None


def _rows_of(path: str, key: str | None) -> Any:
    return _loaded(path, key)[1]


def _count_rows(path: str, key: str | None) -> int | None:
    """How many items a shard holds, where that is cheap to tell."""
    if _suffix(path) in (".pt", ".pth") and files.is_url(path):
        return None
    return len(_loaded(path, key)[1])


# ---------------------------------------------------------------------- formats: (stream, path, key) -> (key, rows)
# Without a path the stream is read at once; with one, rows stay in the file until they are asked for.


def _npy(stream: BinaryIO, path: str | None, key: str | None) -> tuple[None, Any]:
    if key is not None:
        raise SourceError(f"holds one array without a name; leave out `key`, got {key!r}.")
    try:
        if path is None:
            return None, np.load(stream, allow_pickle=False)
        shape, fortran, dtype = _npy_header(stream)
        if fortran or dtype.hasobject:
            stream.seek(0)
            return None, np.load(stream, allow_pickle=False)
        if 0 in shape or not shape:
            return None, np.empty(shape, dtype)
        return None, Stored(path, stream.tell(), dtype, shape, bfloat=False)
    except (ValueError, EOFError, OSError) as error:
        raise Damaged(str(error)) from error


def _npy_header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(stream)


def _npz(stream: BinaryIO, path: str | None, key: str | None) -> tuple[str, Any]:
    try:
        heads = {}
        with zipfile.ZipFile(stream) as archive:
            for name in archive.namelist():
                with archive.open(name) as member:
                    shape, _, dtype = _npy_header(member)
                heads[name.removesuffix(".npy")] = (shape, dtype)
            chosen = choose(heads, key)
            if path is not None:
                return chosen, _unpacked(path, chosen, files.stamp(path))
            with archive.open(f"{chosen}.npy") as member:
                return chosen, np.load(io.BytesIO(member.read()), allow_pickle=False)
    except SourceError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, KeyError, ValueError) as error:
        raise Damaged(str(error)) from error


@lru_cache(maxsize=1)
def _unpacked(path: str, key: str, stamp: str) -> NDArray[Any]:
    """One array of an archive, which must be unpacked whole; kept for the parts that follow while the file is the same."""
    with files.opened(path) as stream, np.load(stream, allow_pickle=False) as archive:
        array: NDArray[Any] = archive[key]
        return array


def choose(heads: Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]], key: str | None) -> str:
    """The array named, else `train`, else the largest numeric one of two dimensions or more."""
    listing = ", ".join(f"{name} {shape} {dtype}" for name, (shape, dtype) in heads.items())
    if key is not None:
        if key not in heads:
            raise SourceError(f"has no array {key!r}; it holds: {listing}.")
        return key
    sizes = {
        name: int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        for name, (shape, dtype) in heads.items()
        if dtype.kind in "fiu" and len(shape) >= 2
    }
    if not sizes:
        raise SourceError(f"has no numeric array of two dimensions or more; it holds: {listing}.")
    if "train" in sizes:
        return "train"
    largest = [name for name, size in sizes.items() if size == max(sizes.values())]
    if len(largest) > 1:
        raise SourceError(f"has several largest arrays; choose one with `key`. It holds: {listing}.")
    return largest[0]


def _safetensors(stream: BinaryIO, path: str | None, key: str | None) -> tuple[str, Any]:
    try:
        length = int.from_bytes(stream.read(8), "little")
        if not 2 <= length <= _LONGEST_HEADER:
            raise Damaged(f"its header would have {length} bytes")
        header = json.loads(stream.read(length))
        heads = {}
        for name, entry in header.items():
            if name != "__metadata__":
                heads[name] = (tuple(int(side) for side in entry["shape"]), _safe_type(entry["dtype"], name))
        chosen = choose(heads, key)
        shape, dtype = heads[chosen]
        begin, end = header[chosen]["data_offsets"]
        size = stream.seek(0, os.SEEK_END)
        if end - begin != int(np.prod(shape, dtype=np.int64)) * dtype.itemsize or begin < 0 or 8 + length + end > size:
            raise Damaged(f"the numbers of {chosen!r} are not all there")
        bfloat = header[chosen]["dtype"] == _BFLOAT
        if path is not None and end > begin:
            return chosen, Stored(path, 8 + length + begin, dtype, shape, bfloat=bfloat)
        stream.seek(8 + length + begin)
        array = np.frombuffer(stream.read(end - begin), dtype).reshape(shape)
        return chosen, _widened(array) if bfloat else array
    except (SourceError, Damaged):
        raise
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        raise Damaged(str(error)) from error


def _safe_type(name: str, tensor: str) -> np.dtype[Any]:
    if name not in _SAFE_TYPES:
        raise SourceError(f"holds {tensor!r} of type {name}, which is not read; save it as F32.")
    return np.dtype(_SAFE_TYPES[name])


def _widened(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """bfloat16 is the upper half of a float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _torch(stream: BinaryIO, path: str | None, key: str | None) -> tuple[str | None, Any]:
    try:
        import torch
    except ImportError:
        raise ImportError("reading .pt files needs PyTorch; install it with: pip install torch") from None
    try:
        if path is not None and not files.is_url(path) and zipfile.is_zipfile(path):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        else:
            content = torch.load(stream, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise Damaged("it holds more than tensors, and other objects are never loaded") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise Damaged(str(error).partition("\n")[0] or "it ends too early") from error
    if isinstance(content, Mapping):
        tensors = {str(name): TorchRows(value) for name, value in content.items() if isinstance(value, torch.Tensor)}
        chosen = choose({name: (rows.shape, rows.dtype) for name, rows in tensors.items()}, key)
        return chosen, tensors[chosen]
    if key is not None:
        raise SourceError(f"holds one tensor without a name; leave out `key`, got {key!r}.")
    if isinstance(content, Sequence) and content and all(isinstance(item, torch.Tensor) for item in content):
        if len({tuple(item.shape) for item in content}) > 1:
            raise SourceError("is a list of tensors of several shapes; items must have one shape.")
        content = torch.stack(list(content))
    if not isinstance(content, torch.Tensor) or content.layout != torch.strided or content.is_complex():
        raise Damaged("it holds no dense tensor of real numbers")
    return None, TorchRows(content)


_LOADERS: dict[str, Callable[[BinaryIO, str | None, str | None], tuple[str | None, Any]]] = {
    ".npy": _npy,
    ".npz": _npz,
    ".pt": _torch,
    ".pth": _torch,
    ".safetensors": _safetensors,
}
