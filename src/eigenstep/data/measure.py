"""`measure`: the spectrum of a source, one batch at a time; interrupted and gone on with, or one share among many."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType

from eigenstep._checks import integer
from eigenstep.data.measurement import Measurement, Reading
from eigenstep.data.source import Position, Source, SourceError
from eigenstep.moments import new_moments
from eigenstep.spectrum import JSON, Spectrum

CHECKPOINT_EVERY = 100_000

Progress = Callable[[int, int | None], object]
"""Told, after every batch, the number of items read and the number there are, None where that is unknown."""


class CheckpointWarning(UserWarning):
    """A checkpoint could not be written; the work goes on, and the earlier checkpoint is still there."""


def measure(
    source: Source,
    *,
    method: str = "auto",
    precision: str = "float64",
    memory: int | None = None,
    share: tuple[int, int] = (1, 1),
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = CHECKPOINT_EVERY,
    resume: bool = False,
    progress: Progress | None = None,
    provenance: Mapping[str, JSON] | None = None,
) -> Spectrum:
    """Spectrum of the items of a source, read once: `accumulate(...).spectrum(...)`.

    Parameters
    ----------
    source, method, precision, memory, share, checkpoint, checkpoint_every, resume, progress : as for `accumulate`.
    provenance : added to what is recorded: the source, its units, the smallest and largest value, items skipped, the
        accumulator and why it was chosen.

    Raises
    ------
    SourceError : NaN values, more than 1 % of corrupt items, items of several shapes.
    ValueError : fewer than two items, constant data; what `accumulate` refuses.

    Warns
    -----
    RankWarning : no more items than dimensions.

    Examples
    --------
    >>> from eigenstep.data import open_source
    >>> spectrum = measure(open_source("digits"))
    >>> spectrum.dim, spectrum.n_samples, spectrum.provenance["value_range"]
    (64, 1797, '[-1, 1] from digits [0, 16]')
    """
    measurement = accumulate(
        source,
        method=method,
        precision=precision,
        memory=memory,
        share=share,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        resume=resume,
        progress=progress,
    )
    return measurement.spectrum(provenance=provenance)


def accumulate(
    source: Source,
    *,
    method: str = "auto",
    precision: str = "float64",
    memory: int | None = None,
    share: tuple[int, int] = (1, 1),
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = CHECKPOINT_EVERY,
    resume: bool = False,
    progress: Progress | None = None,
) -> Measurement:
    """Everything that the spectrum of a source needs, read once: it can be saved, merged and gone on with.

    Parameters
    ----------
    source : from `open_source`.
    method, precision, memory : which accumulator, as for `new_moments`.
    share : (i, n) reads the i-th of n shares of the parts, 1 <= i <= n, for machines that work apart; the n results
        merge into the same spectrum, to rounding.
    checkpoint : a `.npz` file that is replaced every `checkpoint_every` items, at the end, and when the work is
        interrupted or fails. It is a measurement like any other: `Measurement.load` reads it.
    checkpoint_every : items, at least 1. A crash loses no more than this and one batch.
    resume : go on from `checkpoint` where it exists, with a result that is the same bit for bit as without the pause.
    progress : called after every batch with the number of items read and the number there are, None if unknown.

    Raises
    ------
    SourceError : NaN values, more than 1 % of corrupt items, items of several shapes.
    ValueError : a checkpoint of another source or of other options; one that exists where `resume` is not asked for;
        more shares than parts.

    Warns
    -----
    CheckpointWarning : a checkpoint could not be written, as on a full disk; the work goes on.

    Examples
    --------
    >>> import numpy as np
    >>> from eigenstep.data import open_source
    >>> source = open_source(np.arange(12.0).reshape(6, 2), batch_size=2)
    >>> half, rest = (accumulate(source, share=(i, 2)) for i in (1, 2))
    >>> half.merge(rest)
    >>> half.count, half.moments.mean
    (6, array([5., 6.]))
    """
    chosen = shared(source, share)
    every = integer(checkpoint_every, "checkpoint_every")
    if checkpoint is None and resume:
        raise ValueError("`resume` needs the `checkpoint` to go on from, got none.")
    measurement = begun(source, share, method=method, precision=precision, memory=memory)
    if checkpoint is not None:
        measurement = _resumed(Path(checkpoint), measurement, resume=resume)
    (reading,) = measurement.readings
    saved = measurement.count
    if progress is not None and saved:
        progress(saved, chosen.n_items)
    if reading.finished:
        return measurement
    try:
        for batch in chosen.batches(after=reading.position):
            with _undivided():
                measurement.update(batch)
                reading.position = chosen.position
            if progress is not None:
                progress(measurement.count, chosen.n_items)
            if checkpoint is not None and measurement.count - saved >= every:
                _keep(measurement, checkpoint)
                saved = measurement.count
    except (KeyboardInterrupt, OSError, SourceError):
        if checkpoint is not None:
            _keep(measurement, checkpoint)
        raise
    measurement.skipped = list(chosen.skipped)
    reading.position, reading.finished = Position(), True
    if checkpoint is not None:
        _keep(measurement, checkpoint)
    return measurement


def shared(source: Source, share: tuple[int, int]) -> Source:
    """The i-th of n shares of a source's parts: neighbours, as many in each share to within one."""
    n = integer(share[1], "share")
    i = integer(share[0], "share", maximum=n)
    parts = len(source.readers)
    if parts < n:
        raise ValueError(
            f"`share` {i}/{n} asks for {n} shares but {source.description} has {parts} part{'s' * (parts != 1)}; ask for at "
            "most as many shares as parts."
        )
    return between(source, (i - 1) * parts // n, i * parts // n)


def between(source: Source, start: int, stop: int) -> Source:
    """Parts start..stop of a source, as a source of its own."""
    return replace(source, readers=source.readers[start:stop], skipped=[], position=Position())


def begun(source: Source, share: tuple[int, int], *, method: str, precision: str, memory: int | None) -> Measurement:
    """A measurement of a share of a source, of no items yet."""
    moments = new_moments(method, source.item_shape, n_items=source.n_items, memory=memory, precision=precision)
    identity: dict[str, JSON] = {"stamp": source.stamp(), "method": method, "precision": precision}
    reading = Reading(source.description, identity, share)
    return Measurement(moments, source.name, source.description, source.value_range, readings=[reading])


@contextmanager
def _undivided() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until the block is done: half a batch in a checkpoint would be a wrong spectrum."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []

    def wait(number: int, _: FrameType | None) -> None:
        waiting.append(number)

    earlier = {each: signal.signal(each, wait) for each in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for each, handler in earlier.items():
            # None stands for a handler that was not installed from Python and cannot be put back by it.
            signal.signal(each, signal.SIG_DFL if handler is None else handler)
    for number in waiting[:1]:
        signal.raise_signal(number)


def _keep(measurement: Measurement, checkpoint: str | os.PathLike[str]) -> None:
    """Save the checkpoint; a full disk is a warning, since the work itself can go on."""
    try:
        measurement.save(checkpoint)
    except OSError as error:
        warnings.warn(f"{error.strerror} The measurement goes on.", CheckpointWarning, stacklevel=3)


def _resumed(checkpoint: Path, fresh: Measurement, *, resume: bool) -> Measurement:
    """What to go on from: the checkpoint where there is one and it is asked for, else `fresh`."""
    if checkpoint.suffix.lower() != ".npz":
        raise ValueError(f"`checkpoint` must end in .npz, got {str(checkpoint)!r}.")
    for leftover in Measurement.unfinished(checkpoint):
        leftover.unlink(missing_ok=True)
    if not checkpoint.exists():
        return fresh
    if not resume:
        raise ValueError(
            f"the checkpoint {str(checkpoint)!r} exists: go on from it with `resume`, or delete it to start again."
        )
    kept = Measurement.load(checkpoint)
    differing = _differences(kept, fresh)
    if differing:
        raise ValueError(
            f"the checkpoint {str(checkpoint)!r} is of another measurement: {'; '.join(differing)}. Name another file, or "
            "give the same source and options."
        )
    return kept


def _differences(kept: Measurement, fresh: Measurement) -> list[str]:
    """Why `kept` does not go on as `fresh` would: empty where it does."""
    if len(kept.readings) != 1:
        return [f"it holds {len(kept.readings)} readings, a checkpoint has one"]
    (then,), (now,) = kept.readings, fresh.readings
    pairs = {
        "source": (then.source, now.source),
        "units": (kept.value_range, fresh.value_range),
        "item shape": (kept.moments.item_shape, fresh.moments.item_shape),
        "part": (then.share, now.share),
        "method": (then.identity.get("method"), now.identity["method"]),
        "precision": (then.identity.get("precision"), now.identity["precision"]),
    }
    differing = [f"its {name} is {found}, now {asked}" for name, (found, asked) in pairs.items() if found != asked]
    if not differing and then.identity.get("stamp") != now.identity["stamp"]:
        return ["the files, or the options they are read with, have changed since"]
    return differing
