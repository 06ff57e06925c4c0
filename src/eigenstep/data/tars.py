"""WebDataset shards: tars whose members are images, read from start to end."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO

from eigenstep.data.images import IMAGE_SUFFIXES, decoded, image_range, pillow
from eigenstep.data.source import Batch, Options, Source, SourceError

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
_BLOCK = 512


def holds_tars(path: str) -> bool:
    """Whether `path` is a folder with tars in it."""
    return os.path.isdir(path) and any(name.lower().endswith(TAR_SUFFIXES) for name in os.listdir(path))


def open_tars(source: str | list[str], options: Options) -> Source:
    """The images in one tar, in all tars of a folder (sorted by name), or in a list of tars (in its order).

    A sample may have several files that share what stands before the first dot; the image is the one whose whole
    suffix is that of an image, so that `000.seg.png` is not taken for `000.png`.
    """
    pillow()
    if isinstance(source, list):
        paths, description = source, f"{len(source)} tars, the first {source[0]}"
    elif os.path.isdir(source):
        paths = sorted(os.path.join(source, name) for name in os.listdir(source) if name.lower().endswith(TAR_SUFFIXES))
        description = f"{source} ({len(paths)} tars)"
    else:
        paths, description = [source], source
    for path in paths:
        if not os.path.isfile(path):
            raise SourceError(f"there is no tar {path!r}; check the path.")

    def batches(into: Source) -> Iterator[Batch]:
        return decoded(_members(paths), into, options)

    return Source(description, image_range(options), batches)


def _members(paths: list[str]) -> Iterator[tuple[str, BinaryIO]]:
    for path in paths:
        _refuse_cut_off(path)
        # tarfile's own gzip stream takes a cut for the end; the gzip module does not.
        unpack = open if path.lower().endswith(".tar") else gzip.open
        try:
            with unpack(path, "rb") as packed, tarfile.open(fileobj=packed, mode="r|") as tar:
                for member in tar:
                    if member.isfile() and _is_image(member.name):
                        stream = tar.extractfile(member)
                        assert stream is not None, member.name
                        yield f"{path}:{member.name}", io.BytesIO(stream.read())
        except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise SourceError(f"{path!r} is cut off, corrupt or no tar ({error}); fetch it again.") from error


def _is_image(name: str) -> bool:
    suffix = os.path.basename(name).partition(".")[2]
    return f".{suffix.lower()}" in IMAGE_SUFFIXES


def _refuse_cut_off(path: str) -> None:
    """A plain tar ends in a block of zeros. One cut at a header reads as a shorter tar, without a word from tarfile."""
    if not path.lower().endswith(".tar"):
        return
    with open(path, "rb") as stream:
        size = stream.seek(0, os.SEEK_END)
        stream.seek(max(size - _BLOCK, 0))
        if size < _BLOCK or any(stream.read(_BLOCK)):
            raise SourceError(f"{path!r} is cut off: it does not end as a tar does; fetch it again.")
