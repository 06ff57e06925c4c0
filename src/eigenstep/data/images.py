"""From named streams of encoded images to batches: decoding, sizes, channels, and what to do with corrupt ones."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import numpy as np

from eigenstep.data.source import Batch, Options, Source, SourceError, affine, range_words

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
_NATIVE = (0.0, 255.0)
_GRAY_MODES = ("1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "F")


def pillow() -> Any:
    """The module PIL.Image, or the pip command that brings it."""
    try:
        from PIL import Image
    except ImportError:
        raise ImportError('reading images needs Pillow; install it with: pip install "eigenstep[images]"') from None
    return Image


def image_range(options: Options) -> str:
    """The units that `decoded` gives, in words."""
    return range_words(_NATIVE, options.value_range or "-1,1", options.scale, "pixels")


def decoded(files: Iterable[tuple[str, BinaryIO]], source: Source, options: Options) -> Iterator[Batch]:
    """Batches (m, channels, h, w) of the images in `files`; what cannot be decoded is named in `source.skipped`.

    Animated images give their first frame; alpha is dropped; 16-bit gray is reduced to 8 bits' range, not clipped.
    """
    library = pillow()
    convert = affine(_NATIVE, options.value_range or "-1,1", options.scale)
    gray = options.gray
    shape: tuple[int, ...] | None = None
    first_name = ""
    items: list[Batch] = []
    for name, stream in files:
        try:
            with library.open(stream) as image:
                colour = image.mode not in _GRAY_MODES
                if gray is None:
                    gray = not colour
                pixels = _pixels(image, options.size, gray, library)
        except (OSError, ValueError, SyntaxError, EOFError, struct.error, library.DecompressionBombError) as error:
            # Pillow speaks through all of these when a file is damaged; SyntaxError is a broken PNG.
            source.skipped.append(f"{name} ({error})")
            continue
        if colour and gray and options.gray is None:
            raise SourceError(
                f"{source.description}: {name} is in colour but {first_name} is gray; choose with `gray`, True or False."
            )
        if shape is None:
            shape, first_name = pixels.shape, name
        if pixels.shape != shape:
            raise SourceError(
                f"{source.description}: {name} has {_words(pixels.shape)} pixels but {first_name} has {_words(shape)}; "
                "pass `size` to bring all images to one size."
            )
        items.append(pixels)
        if len(items) == options.batch_size:
            yield convert(np.stack(items))
            items = []
    if items:
        yield convert(np.stack(items))


def _pixels(image: Any, size: int | None, gray: bool, library: Any) -> Batch:
    if image.mode == "F":
        raise ValueError("float pixels have no known range")
    if image.mode.startswith("I"):
        # Pillow clips wide gray at 255; its full scale is 65535.
        image = library.fromarray((np.asarray(image, dtype=np.float64) / 257.0).round().clip(0, 255).astype(np.uint8))
    image = image.convert("L" if gray else "RGB")
    if size is not None:
        width, height = image.size
        ratio = size / min(width, height)
        wide, high = max(size, round(width * ratio)), max(size, round(height * ratio))
        left, top = (wide - size) // 2, (high - size) // 2
        image = image.resize((wide, high), library.Resampling.LANCZOS).crop((left, top, left + size, top + size))
    pixels = np.asarray(image)
    return pixels[None] if gray else pixels.transpose(2, 0, 1)


def _words(shape: tuple[int, ...]) -> str:
    return f"{shape[-1]}x{shape[-2]}"
