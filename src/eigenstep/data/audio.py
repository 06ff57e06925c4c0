"""Sound: wav by the standard library, other wav and flac by soundfile; one clip of fixed length from each file."""

from __future__ import annotations

import wave
from dataclasses import dataclass, replace
from math import gcd
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from eigenstep.data.files import Files
from eigenstep.data.readers import CorruptItem, NamedFiles, first_item, open_each, part_size
from eigenstep.data.source import Batch, Options, Source, SourceError, units

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg")
_NATIVE = (-1.0, 1.0)


@dataclass(frozen=True)
class AudioRecipe:
    """From a file of sound to (channels, length) samples, full scale at 1.

    Longer files give their middle, shorter ones are followed by zeros. With `rate`, files of other rates are resampled
    (scipy.signal.resample_poly, whose filter removes what the new rate cannot hold) before they are cut.

    Parameters
    ----------
    length, mono, rate : see `open_source`; None before the first file is seen.
    shape, hertz, like : shape, rate and name of the first, which the others must have.
    """

    length: int | None = None
    mono: bool | None = None
    rate: int | None = None
    shape: tuple[int, ...] | None = None
    hertz: int | None = None
    like: str = ""

    def item(self, name: str, stream: BinaryIO) -> Batch:
        """The samples, or why there are none."""
        clip, hertz = self.heard(name, stream)
        if self.hertz not in (None, hertz):
            raise SourceError(f"{name} has {hertz} samples a second but {self.like} has {self.hertz}; pass `rate` to resample.")
        if self.shape is not None and clip.shape[0] != self.shape[0]:
            raise SourceError(
                f"{name} has {_channels(clip.shape[0])} but {self.like} has {_channels(self.shape[0])}; pass `mono` True to "
                "take their mean."
            )
        if self.shape is not None and clip.shape != self.shape:
            raise SourceError(
                f"{name} has {clip.shape[1]} samples but {self.like} has {self.shape[1]}; pass `length` to cut or pad all to "
                "one length."
            )
        return clip

    def heard(self, name: str, stream: BinaryIO) -> tuple[NDArray[np.float64], int]:
        """The clip, and the rate it now has."""
        # Of a long file only the middle is read, unless resampling needs what is around it.
        samples, hertz = _samples(name, stream, self.length if self.rate is None else None)
        if samples.shape[1] == 0:
            raise CorruptItem("it has no samples")
        if not np.isfinite(samples).all():
            raise CorruptItem("it has NaN or infinite samples")
        if self.mono:
            samples = samples.mean(axis=0, keepdims=True)
        if self.rate is not None and hertz != self.rate:
            from scipy.signal import resample_poly

            common = gcd(self.rate, hertz)
            samples, hertz = resample_poly(samples, self.rate // common, hertz // common, axis=1), self.rate
        if self.length is not None:
            begin = max(0, (samples.shape[1] - self.length) // 2)
            samples = samples[:, begin : begin + self.length]
            samples = np.pad(samples, ((0, 0), (0, self.length - samples.shape[1])))
        return samples, hertz


def open_audio(found: Files, options: Options) -> Source:
    """One clip from every file of sound below a folder, or of a pattern or list."""
    names = found.groups["audio"]
    recipe = AudioRecipe(options.length, options.mono, options.rate)
    name, first = first_item(open_each(names), recipe, found.description)
    for _, stream in open_each([name]):
        assert not isinstance(stream, OSError), name
        hertz = recipe.heard(name, stream)[1]
    recipe = replace(recipe, shape=first.shape, hertz=hertz, like=name)
    convert, words = units(replace(options, value_range=options.value_range or "-1,1"), _NATIVE, "audio full scale")
    at_once = options.items_at_once(first.shape)
    readers = tuple(NamedFiles(some, recipe) for some in names.split(part_size(len(names), at_once)))
    workers = options.workers if found.shared else 1
    description = f"{found.description}, {first.shape[1]} samples at {hertz} Hz, {_channels(first.shape[0])}"
    return Source(description, words, first.shape, readers, convert, at_once, workers)


def _samples(name: str, stream: BinaryIO, most: int | None) -> tuple[NDArray[np.float64], int]:
    """The samples (channels, n), full scale at 1, at most so many from the middle, and their rate."""
    start = stream.tell()
    if name.partition("::")[0].lower().endswith(".wav"):
        try:
            return _wave(stream, most)
        except wave.Error as error:
            if "unknown format" not in str(error):
                raise CorruptItem(str(error)) from error
        except EOFError as error:
            raise CorruptItem("it ends in its header") from error
        stream.seek(start)
    return _soundfile(name, stream, most)


def _middle(n: int, most: int | None) -> tuple[int, int]:
    """Where to begin, and how many samples to read."""
    return (0, n) if most is None or n <= most else ((n - most) // 2, most)


def _wave(stream: BinaryIO, most: int | None) -> tuple[NDArray[np.float64], int]:
    with wave.open(stream) as sound:
        width, channels, hertz = sound.getsampwidth(), sound.getnchannels(), sound.getframerate()
        begin, n = _middle(sound.getnframes(), most)
        sound.setpos(begin)
        content = sound.readframes(n)
    if len(content) != n * width * channels:
        raise CorruptItem(f"it is cut off: {len(content) // (width * channels)} of {n} samples are there")
    if width == 1:
        levels = np.frombuffer(content, np.uint8) - 128.0  # 8-bit wav alone is unsigned
    elif width == 3:
        low, middle, high = np.frombuffer(content, np.uint8).reshape(-1, 3).T.astype(np.int32)
        levels = (low | middle << 8 | (high ^ 128) - 128 << 16).astype(np.float64)
    else:
        levels = np.frombuffer(content, f"<i{width}").astype(np.float64)
    return levels.reshape(-1, channels).T / 2.0 ** (8 * width - 1), hertz


def _soundfile(name: str, stream: BinaryIO, most: int | None) -> tuple[NDArray[np.float64], int]:
    try:
        import soundfile
    except ImportError:
        raise ImportError(
            f'reading {name!r} needs soundfile; install it with: pip install "eigenstep[audio]"'
        ) from None
    try:
        with soundfile.SoundFile(stream) as sound:
            begin, n = _middle(sound.frames, most)
            sound.seek(begin)
            samples: NDArray[np.float64] = sound.read(n, dtype="float64", always_2d=True).T
            hertz = int(sound.samplerate)
    except soundfile.SoundFileError as error:
        raise CorruptItem(str(error)) from error
    if samples.shape[1] != n:
        raise CorruptItem(f"it is cut off: {samples.shape[1]} of {n} samples are there")
    return samples, hertz


def _channels(n: int) -> str:
    return f"{n} channel{'s' * (n != 1)}"
