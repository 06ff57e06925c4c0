"""What a command plans on: a saved spectrum, one of the zoo, or data measured at once."""

from __future__ import annotations

import glob
import itertools
import math
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from numpy.typing import NDArray

from eigenstep._checks import Float
from eigenstep.cli.aim import Aim
from eigenstep.cli.errors import say
from eigenstep.cli.evidence import with_evidence_of
from eigenstep.cli.progress import progress
from eigenstep.spectrum import Spectrum, zoo_names

if TYPE_CHECKING:
    from eigenstep.data import Source
    from eigenstep.estimation import ChosenSpectrum

_PLACES = 128
"""Where a source with more items than are wanted is read."""

_POOL = 3
"""A random subset is drawn from at most so many times its size."""


def spectrum_of(data: str, quiet: bool, **reading: Any) -> tuple[Spectrum, str]:
    """The spectrum that `data` names, and its name: a saved file, one of the zoo, or a source to measure now."""
    kept = kept_spectrum(data)
    if kept is not None:
        return kept
    check_there(data)
    measured = _measured(data, quiet, **reading)
    return measured, str(measured.provenance["name"])


def kept_spectrum(data: str) -> tuple[Spectrum, str] | None:
    """The spectrum in a saved file or in the zoo, and its name; None where `data` is a source to measure."""
    if _holds_spectrum(Path(data)):
        kept = Spectrum.load(data)
        return kept, str(kept.provenance.get("name", Path(data).stem))
    if data in zoo_names():
        if Path(data).exists():
            say(f"warning: {data!r} is taken for the spectrum of that name in the zoo; write ./{data} for the file.")
        return Spectrum.from_zoo(data), data
    return None


def named(given: str | None, gauge_data: str | None, *, missing: str) -> tuple[tuple[Spectrum, str] | None, str | None]:
    """The kept spectrum and the source that the argument and --data name; `missing` is said where neither names one."""
    kept = None if given is None else kept_spectrum(given)
    if kept is None and given is not None and gauge_data is not None:
        raise ValueError(f"`data` is for the gauge beside a measured spectrum, and {given!r} is data itself: leave out --data.")
    source = gauge_data if given is None or kept is not None else given
    if kept is None and source is None:
        raise click.UsageError(missing)
    if source is not None:
        check_there(source)
    return kept, source


def check_there(data: str) -> None:
    """Refuse a source that is neither a file nor a folder, a pattern or a URL."""
    if not (Path(data).expanduser().exists() or glob.has_magic(data) or "://" in data):
        raise ValueError(f"There is no file, folder or zoo spectrum {data!r}; the zoo has {', '.join(zoo_names())}.")


def items_of(source: Source, most: int, quiet: bool) -> Float:
    """The items of a source, float64: all of `most` or fewer, else about `most`, in runs spread evenly over it.

    Files are often sorted by kind, so the first ones alone are not like the rest. A source that does not tell its number of
    items gives the first ones.
    """
    total = source.n_items
    spread = total is not None and total > most
    batches, count = [], 0
    with progress("reading", quiet) as report:
        for batch in (batch for _, batch in _spread(source, most)) if spread else source:
            batches.append(np.asarray(batch[: most - count], dtype=np.float64))
            count += len(batches[-1])
            report(count, most if total is None or spread else total)
            if count >= most:
                break
    return np.concatenate(batches)


def drawn_from(source: Source, most: int, quiet: bool, *, seed: int) -> tuple[Float, NDArray[np.intp]]:
    """A random subset of the items of a source, float64, and their numbers: all where there are no more than `most`.

    Of a source with more than three times as many, the subset of about `3 most` in runs spread evenly over it; of one that does
    not tell its number, of its first `3 most`.
    """
    total, pool = source.n_items, _POOL * most
    rng = np.random.default_rng(seed)
    kept: list[NDArray[Any]] = []
    numbers: list[int] = []
    seen = 0
    with progress("reading", quiet) as report:
        for first, batch in _spread(source, pool) if total is not None and total > pool else _numbered(source):
            for offset, item in enumerate(batch[: pool - seen]):
                # Every item that was seen is kept with the same chance: Vitter's algorithm R.
                place = len(kept) if len(kept) < most else int(rng.integers(seen + 1))
                seen += 1
                if place < most:
                    # A copy: a view would hold the whole batch.
                    kept[place : place + 1], numbers[place : place + 1] = [item.copy()], [first + offset]
            report(seen, pool if total is None else min(pool, total))
            if seen >= pool:
                break
    order = np.argsort(numbers)
    return np.stack([kept[k] for k in order]).astype(np.float64), np.array(numbers, dtype=np.intp)[order]


def _numbered(source: Source) -> Iterator[tuple[int, NDArray[Any]]]:
    """The batches of a source with the number of the first item of each."""
    count = 0
    for batch in source:
        yield count, batch
        count += len(batch)


def _spread(source: Source, most: int) -> Iterator[tuple[int, NDArray[Any]]]:
    """Short batches from evenly spaced places of a source that knows its size, in order, with the number of the first item."""
    from eigenstep.data import Position

    short = replace(source, batch_size=min(source.batch_size, max(1, most // _PLACES)), workers=1, whole=False)
    size = short.batch_size
    places = [(part, first) for part, reader in enumerate(source.readers) for first in range(0, reader.n_items or 0, size)]
    begins = np.cumsum([0, *(reader.n_items or 0 for reader in source.readers)]).tolist()
    assert source.n_items is not None
    wanted = math.ceil(len(places) * most / source.n_items)
    for k in np.unique(np.linspace(0, len(places) - 1, wanted).round().astype(int)):
        part, first = places[k]
        for batch in itertools.islice(short.batches(after=Position(part, first)), 1):
            yield begins[part] + first, batch


def chosen_for(aim: Aim, spectrum: Spectrum, quiet: bool) -> ChosenSpectrum:
    """Which eigenvalues to plan on, said in a line where they are not the measured ones or the levels are in doubt."""
    chosen = aim.chosen(spectrum)
    if not quiet and (chosen.eigenvalues == "population" or chosen.doubt):
        say(f"{chosen.reason} {chosen.doubt}".strip())
    return chosen


def _holds_spectrum(path: Path) -> bool:
    """Whether `path` is a saved spectrum: any .json, or an .npz with a spectrum's own arrays."""
    if path.suffix.lower() != ".npz" or not path.is_file():
        return path.suffix.lower() == ".json"
    try:
        with zipfile.ZipFile(path) as archive:
            return {"header.npy", "eigenvalues.npy"} <= set(archive.namelist())
    except zipfile.BadZipFile:
        return False


def _measured(source: str, quiet: bool, **reading: Any) -> Spectrum:
    """The spectrum of the data at `source`, measured with a progress bar."""
    from eigenstep.data import accumulate, open_source

    opened = open_source(source, **{key: value for key, value in reading.items() if value is not None})
    with progress("measuring", quiet) as report:
        measurement = accumulate(opened, progress=report)
    return with_evidence_of(measurement, measurement.spectrum())
