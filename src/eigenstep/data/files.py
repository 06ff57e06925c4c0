"""Where files are: local paths and the URLs of fsspec (s3://, gs://, hf://, zip://inner::outer), listed in a fixed order."""

from __future__ import annotations

import glob
import itertools
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO, cast

from eigenstep.data.source import SourceError

PACK = 1024


def is_url(path: str) -> bool:
    """Whether fsspec is to open it: it names a protocol, or chains several."""
    return "://" in path or "::" in path


def stays_here(path: str) -> bool:
    """Whether no other process can open it: fsspec's memory filesystem belongs to one process."""
    return is_url(path) and any(link.startswith("memory:") for link in path.split("::"))


def opened(path: str) -> BinaryIO:
    """The file, for reading bytes; OSError where that fails."""
    if not is_url(path):
        return open(path, "rb")
    filesystem, inner = _filesystem(path)
    return cast(BinaryIO, filesystem.open(inner, "rb"))


def exists(path: str) -> bool:
    """Whether there is a file or folder."""
    if not is_url(path):
        return os.path.exists(path)
    filesystem, inner = _filesystem(path)
    return bool(filesystem.exists(inner))


def is_folder(path: str) -> bool:
    """Whether it is a folder."""
    if not is_url(path):
        return os.path.isdir(path)
    filesystem, inner = _filesystem(path)
    return bool(filesystem.isdir(inner))


def stamp(path: str) -> str:
    """Size and time of change, as far as they can be known."""
    try:
        if not is_url(path):
            status = os.stat(path)
            return f"{status.st_size} {status.st_mtime_ns}"
        filesystem, inner = _filesystem(path)
        info = filesystem.info(inner)
        return f"{info.get('size')} {info.get('mtime', info.get('LastModified', info.get('ETag', info.get('created'))))}"
    except OSError:
        return "absent"


def matches(pattern: str) -> list[str]:
    """The files that a glob pattern names, sorted; ** goes through folders."""
    if not is_url(pattern):
        return sorted(glob.glob(pattern, recursive=True))
    filesystem, inner = _filesystem(pattern)
    try:
        return sorted(_spelled(pattern, name) for name in filesystem.glob(inner))
    except ValueError as error:
        raise SourceError(f"{pattern!r} is no pattern that can be searched for ({error}).") from error


def top(folder: str) -> list[str]:
    """The names directly in a folder, sorted."""
    if not is_url(folder):
        return sorted(os.listdir(folder))
    filesystem, inner = _filesystem(folder)
    return sorted(os.path.basename(name.rstrip("/")) for name in filesystem.ls(inner, detail=False))


def walk(folder: str) -> Iterator[str]:
    """Every file below a folder in a fixed order, sorted folder by folder. Links to folders are not followed.

    A folder that may not be listed raises SourceError: what it holds would be lost without a word.
    """
    if is_url(folder):
        filesystem, inner = _filesystem(folder)
        yield from sorted(_spelled(folder, name) for name in filesystem.find(inner))
        return

    def refuse(error: OSError) -> None:
        raise SourceError(f"the folder {error.filename!r} cannot be listed ({error.strerror}); permit it or leave it out.")

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders.sort()
        for name in sorted(names):
            yield os.path.join(parent, name)


@dataclass(frozen=True)
class Names:
    """Many names in a fixed order, packed: ten million of a folder take some 100 MB."""

    packs: tuple[bytes, ...]
    count: int

    @classmethod
    def of(cls, names: Iterable[str]) -> Names:
        """Pack the names as they come, `PACK` at a time."""
        packs, count, held = [], 0, []
        for name in names:
            held.append(name)
            count += 1
            if len(held) == PACK:
                packs.append(_packed(held))
                held = []
        return cls((*packs, *([_packed(held)] if held else [])), count)

    def __len__(self) -> int:
        """How many."""
        return self.count

    def __iter__(self) -> Iterator[str]:
        """The names, in order."""
        return self.since(0)

    def since(self, start: int) -> Iterator[str]:
        """The names from number `start` on."""
        for k in range(start // PACK, len(self.packs)):
            names = zlib.decompress(self.packs[k]).decode("utf-8", "surrogateescape").split("\0")
            yield from names[start - k * PACK if k == start // PACK else 0 :]

    def split(self, n: int) -> list[Names]:
        """Parts of n names each, the last of what is left, in order."""
        rest = iter(self)
        return [Names.of(itertools.islice(rest, n)) for _ in range(0, self.count, n)]


def _packed(names: list[str]) -> bytes:
    return zlib.compress("\0".join(names).encode("utf-8", "surrogateescape"), 1)


@dataclass(frozen=True)
class Files:
    """Files that belong together: one, those of a folder or a pattern, or a list; grouped by kind of content.

    Parameters
    ----------
    path : the file, folder or pattern, or the first of a list.
    description : in a few words.
    groups : kind of content -> names, of the files whose suffix says what they are.
    single : whether one file was named.
    others : how many files have a suffix that says nothing.
    top : the names directly in a folder.
    """

    path: str
    description: str
    groups: Mapping[str, Names]
    single: bool = False
    others: int = 0
    top: tuple[str, ...] = ()

    @property
    def shared(self) -> bool:
        """Whether other processes can open them."""
        return not stays_here(self.path)


def gather(
    names: Iterable[str], suffixes: Mapping[str, tuple[str, ...]], *, hidden: bool = False
) -> tuple[dict[str, Names], int]:
    """Names grouped by the kind that their suffix tells, `hidden` files only if asked; and how many tell nothing."""
    held: dict[str, list[str]] = {kind: [] for kind in suffixes}
    packs: dict[str, list[Names]] = {kind: [] for kind in suffixes}
    others = 0
    for name in names:
        base = os.path.basename(name.partition("::")[0]).lower()
        if base.startswith(".") and not hidden:
            continue
        kind = next((kind for kind, ends in suffixes.items() if ends and base.endswith(ends)), None)
        if kind is None:
            others += 1
            continue
        held[kind].append(name)
        if len(held[kind]) == PACK:
            packs[kind].append(Names.of(held[kind]))
            held[kind] = []
    groups = {}
    for kind in suffixes:
        whole = [*packs[kind], *([Names.of(held[kind])] if held[kind] else [])]
        if whole:
            groups[kind] = Names(tuple(pack for some in whole for pack in some.packs), sum(map(len, whole)))
    return groups, others


def _filesystem(path: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs
    except ImportError:
        raise ImportError(f'reading {path!r} needs fsspec; install it with: pip install "eigenstep[remote]"') from None
    try:
        inner, chained, outer = path.partition("::")
        if chained:
            # An archive's filesystem closes with the last reference to it, and opening it anew reads its directory anew.
            filesystem = _archive(inner.partition("://")[0], outer, stamp(outer.removeprefix("file://")))
            return filesystem, filesystem._strip_protocol(inner)
        return cast("tuple[Any, str]", url_to_fs(path))
    except (ImportError, ValueError) as error:
        # fsspec says which package a protocol needs, or that it knows no such protocol.
        raise SourceError(f"{path!r} cannot be opened ({error}).") from error


@lru_cache(maxsize=4)
def _archive(protocol: str, outer: str, stamp: str) -> Any:
    """The filesystem inside an archive, kept while the archive is the same."""
    from fsspec.core import url_to_fs

    return url_to_fs(f"{protocol}://::{outer}")[0]


def _spelled(url: str, name: str) -> str:
    """The URL of a file that the filesystem of `url` calls `name`."""
    first, chain, rest = url.partition("::")
    protocol = first.partition("://")[0]
    return f"{protocol}://{name.removeprefix(protocol + '://').lstrip('/') if protocol != 'file' else name}{chain}{rest}"
