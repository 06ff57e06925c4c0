"""A folder of images, searched through."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import BinaryIO

from eigenstep.data.images import IMAGE_SUFFIXES, decoded, image_range, pillow
from eigenstep.data.source import Batch, Options, Source, SourceError


def open_folder(path: str, options: Options) -> Source:
    """Every image below `path`, sorted by name; other files and hidden ones are left alone, links are not followed."""
    pillow()
    names = sorted(
        os.path.join(folder, name)
        for folder, _, files in os.walk(path)
        for name in files
        if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
    )
    if not names:
        raise SourceError(f"the folder {path!r} holds no image; looked for {', '.join(IMAGE_SUFFIXES)} at any depth.")

    def batches(source: Source) -> Iterator[Batch]:
        return decoded(_streams(names, source), source, options)

    return Source(path, image_range(options), batches, n_items=len(names))


def _streams(names: list[str], source: Source) -> Iterator[tuple[str, BinaryIO]]:
    for name in names:
        try:
            stream = open(name, "rb")  # noqa: SIM115
        except OSError as error:
            source.skipped.append(f"{name} ({error.strerror})")
            continue
        with stream:
            yield name, stream
