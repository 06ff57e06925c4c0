"""WebDataset shards: tars whose members are images or arrays, read from start to end."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO

from eigenstep.data import files
from eigenstep.data.files import Files
from eigenstep.data.images import IMAGE_SUFFIXES, ImageRecipe, fixed, image_recipe, image_units
from eigenstep.data.readers import Encoded, first_item
from eigenstep.data.source import Options, Source, SourceError
from eigenstep.data.tensors import TENSOR_SUFFIXES, TensorRecipe, tensor_units

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_BLOCK = 512


def open_tars(found: Files, options: Options) -> Source:
    """The images, or with `key` other members, of one tar or of several in their order; each tar is a part.

    A sample may have several files that share what stands before the first dot; the image is the one whose whole
    suffix is that of an image, so that `000.seg.png` is not taken for `000.png`. `key` is the suffix of the members
    to read: "seg.png", or "npy" for arrays.
    """
    paths = list(found.groups["tars"])
    for path in paths:
        if not files.exists(path):
            raise SourceError(f"there is no tar {path!r}; check the path.")
    wanted = IMAGE_SUFFIXES if options.key is None else ("." + options.key.lower().lstrip("."),)
    recipe: ImageRecipe | TensorRecipe
    if wanted[0].endswith(IMAGE_SUFFIXES):
        recipe = image_recipe(options)
    elif wanted[0].endswith(TENSOR_SUFFIXES):
        recipe = TensorRecipe(None)
    else:
        raise SourceError(
            f"`key` must be the suffix of images or arrays ({', '.join((*IMAGE_SUFFIXES, *TENSOR_SUFFIXES))}), "
            f"got {options.key!r}."
        )
    opened = ((name, io.BytesIO(content)) for path in paths for name, content in _members(path, wanted, 0))
    name, first = first_item(opened, recipe, found.description)
    if isinstance(recipe, ImageRecipe):
        convert, words = image_units(options)
        recipe = fixed(recipe, name, first)
    else:
        convert, words = tensor_units(options, first.dtype, [first], found.description, detected=True)
        recipe = TensorRecipe(None, first.shape, name)
    readers = tuple(
        Encoded(partial(_members, path, wanted), recipe, stamp_of=partial(files.stamp, path)) for path in paths
    )
    return Source(found.description, words, first.shape, readers, convert, options.items_at_once(first.shape), options.workers)


def _members(path: str, wanted: tuple[str, ...], start: int) -> Iterator[tuple[str, bytes]]:
    _refuse_cut_off(path)
    count = 0
    try:
        # tarfile's own gzip stream takes a cut for the end; the gzip module does not.
        with files.opened(path) as packed, _unpacked(path, packed) as plain, tarfile.open(fileobj=plain, mode="r|") as tar:
            for member in tar:
                if member.isfile() and _suffix(member.name) in wanted:
                    count += 1
                    if count > start:
                        stream = tar.extractfile(member)
                        assert stream is not None, member.name
                        yield f"{path}:{member.name}", stream.read()
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SourceError(f"{path!r} is cut off, corrupt or no tar ({error}); fetch it again.") from error


def _unpacked(path: str, packed: BinaryIO) -> BinaryIO | gzip.GzipFile:
    return packed if path.lower().endswith(".tar") else gzip.GzipFile(fileobj=packed)


def _suffix(name: str) -> str:
    return "." + os.path.basename(name).partition(".")[2].lower()


def _refuse_cut_off(path: str) -> None:
    """A plain tar ends in a block of zeros. One cut at a header reads as a shorter tar, without a word from tarfile."""
    if not path.lower().endswith(".tar"):
        return
    with files.opened(path) as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(size - _BLOCK, 0))
        if size < _BLOCK or any(stream.read(_BLOCK)):
            raise SourceError(f"{path!r} is cut off: it does not end as a tar does; fetch it again.")
