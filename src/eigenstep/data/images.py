"""Images: decoding, sizes, channels, and which damage makes one corrupt. Folders, patterns and lists of them."""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import Any, BinaryIO

import numpy as np

from eigenstep.data.files import Files
from eigenstep.data.readers import CorruptItem, NamedFiles, first_item, open_each, part_size
from eigenstep.data.source import Batch, Convert, Options, Source, SourceError, units

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


def image_units(options: Options) -> tuple[Convert, str]:
    """From pixels to the units asked for, [-1, 1] unless others are, and these in words."""
    return units(replace(options, value_range=options.value_range or "-1,1"), _NATIVE, "pixels")


@dataclass(frozen=True)
class ImageRecipe:
    """From an encoded image to (channels, h, w) pixels of 8 bits.

    Animated images give their first frame; alpha is dropped; CMYK and palettes become RGB; 16-bit gray is reduced to
    8 bits' range, not clipped; rotation noted in EXIF is not applied. After `size`, the shorter side, `crop` cuts out
    the middle square.

    Parameters
    ----------
    size, crop : pixels, None for as they are; `gray` : see `open_source`; None before the first image is seen.
    chosen : whether the caller said `gray`; otherwise colour among gray images is refused.
    shape, like : shape and name of the first image, which the others must have.
    """

    size: int | None = None
    crop: int | None = None
    gray: bool | None = None
    chosen: bool = False
    shape: tuple[int, ...] | None = None
    like: str = ""

    def item(self, name: str, stream: BinaryIO) -> Batch:
        """The pixels, or why there are none."""
        library = pillow()
        try:
            with library.open(stream) as image:
                colour = image.mode not in _GRAY_MODES
                pixels = self._pixels(image, not colour if self.gray is None else self.gray, library)
        except CorruptItem:
            raise
        except SourceError as error:
            raise SourceError(f"{name} {error}") from None
        except library.UnidentifiedImageError as error:
            raise CorruptItem("no image that Pillow knows") from error
        except (OSError, ValueError, SyntaxError, EOFError, struct.error, library.DecompressionBombError) as error:
            # Pillow speaks through all of these when a file is damaged; SyntaxError is a broken PNG.
            raise CorruptItem(str(error)) from error
        if colour and self.gray and not self.chosen:
            raise SourceError(f"{name} is in colour but {self.like} is gray; choose with `gray`, True or False.")
        if self.shape is not None and pixels.shape != self.shape:
            raise SourceError(
                f"{name} has {_words(pixels.shape)} pixels but {self.like} has {_words(self.shape)}; pass `size` to bring "
                "all images to one size."
            )
        return pixels

    def _pixels(self, image: Any, gray: bool, library: Any) -> Batch:
        if image.mode == "F":
            raise CorruptItem("float pixels have no known range")
        if image.mode.startswith("I"):
            # Pillow clips wide gray at 255; its full scale is 65535.
            wide = np.asarray(image, dtype=np.float64)
            if wide.max() > 65535 or wide.min() < 0:
                raise CorruptItem("pixels of 32 bits have no known range")
            image = library.fromarray((wide / 257.0).round().astype(np.uint8))
        image = image.convert("L" if gray else "RGB")
        if self.size is not None:
            width, height = image.size
            ratio = self.size / min(width, height)
            image = image.resize(
                (max(self.size, round(width * ratio)), max(self.size, round(height * ratio))), library.Resampling.LANCZOS
            )
        side = self.crop or self.size
        if side is not None:
            width, height = image.size
            left, top = (width - side) // 2, (height - side) // 2
            if left < 0 or top < 0:
                raise SourceError(f"has {width}x{height} pixels, too few for a `crop` of {side}; pass `size` to enlarge it.")
            if (width, height) != (side, side):
                image = image.crop((left, top, left + side, top + side))
        pixels = np.asarray(image)
        return pixels[None] if gray else pixels.transpose(2, 0, 1)


def image_recipe(options: Options) -> ImageRecipe:
    """The recipe before the first image was seen."""
    pillow()
    if options.crop is not None and options.size is not None and options.crop > options.size:
        raise SourceError(f"`crop` must be at most `size`, got {options.crop} and {options.size}.")
    return ImageRecipe(options.size, options.crop, options.gray, chosen=options.gray is not None)


def fixed(recipe: ImageRecipe, name: str, first: Batch) -> ImageRecipe:
    """The recipe for images that are all as the first one is."""
    return replace(recipe, gray=first.shape[0] == 1, shape=first.shape, like=name)


def open_images(found: Files, options: Options) -> Source:
    """Every image below a folder, or of a pattern or list."""
    names = found.groups["images"]
    recipe = image_recipe(options)
    name, first = first_item(open_each(names), recipe, found.description)
    convert, words = image_units(options)
    recipe = fixed(recipe, name, first)
    at_once = options.items_at_once(first.shape)
    readers = tuple(NamedFiles(some, recipe) for some in names.split(part_size(len(names), at_once)))
    workers = options.workers if found.shared else 1
    return Source(found.description, words, first.shape, readers, convert, at_once, workers)


def _words(shape: tuple[int, ...]) -> str:
    return f"{shape[-1]}x{shape[-2]}"
