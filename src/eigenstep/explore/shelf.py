"""The spectra that the page can choose from: the zoo's, files, and data that are measured while a bar shows how far."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from eigenstep.explore.jobs import Job, Jobs
from eigenstep.explore.state import EDM_RANGE
from eigenstep.spectrum import Spectrum, zoo_names

if TYPE_CHECKING:
    from eigenstep.data import Measurement
    from eigenstep.estimation import ChosenSpectrum


class Shelf:
    """Spectra by key, and the jobs that measure new ones; safe to use from several threads.

    Parameters
    ----------
    finish : callable
        From a finished measurement to its spectrum; it may add what the items say of how sure that is.

    Attributes
    ----------
    jobs : Jobs
        All that is under way on this server.
    """

    def __init__(self, finish: Callable[[Measurement], Spectrum] | None = None) -> None:
        """The zoo, and nothing else yet."""
        self._finish = finish or (lambda measurement: measurement.spectrum())
        self._kept: dict[str, Spectrum] = {}
        self._chosen: dict[tuple[str, str], ChosenSpectrum] = {}
        self.jobs = Jobs()
        self._lock = threading.Lock()

    def names(self) -> list[str]:
        """Keys of all spectra: those that were put here first, then the zoo's."""
        with self._lock:
            mine = list(self._kept)
        return [*mine, *(name for name in zoo_names() if name not in mine)]

    def put(self, key: str, spectrum: Spectrum) -> str:
        """Keep a spectrum under this key, or under the next free one: `photos`, `photos-2`."""
        taken = set(zoo_names())
        with self._lock:
            free, count = key, 1
            while free in taken or free in self._kept:
                count += 1
                free = f"{key}-{count}"
            self._kept[free] = spectrum
        return free

    def spectrum(self, key: str) -> Spectrum:
        """The spectrum of that key.

        Raises
        ------
        ValueError
            There is none: an address may outlive the server that knew it.
        """
        with self._lock:
            if key in self._kept:
                return self._kept[key]
        if key in zoo_names():
            return Spectrum.from_zoo(key)
        raise ValueError(f"`spectrum` {key!r} is not known to this server; open its file or folder again, or choose another.")

    def chosen(self, key: str, eigenvalues: str) -> ChosenSpectrum:
        """Which eigenvalues to plan on: decided once for each spectrum, for DDIM over EDM's range."""
        from eigenstep.estimation import choose_spectrum

        known = self._chosen.get((key, eigenvalues))
        if known is None:
            spectrum = self.spectrum(key)
            known = self._chosen[key, eigenvalues] = choose_spectrum(spectrum, *EDM_RANGE, eigenvalues=eigenvalues)
        return known

    def load(self, path: Path, name: str) -> str:
        """Keep the spectrum that a saved file holds; its key."""
        try:
            spectrum = Spectrum.load(path)
        except ValueError as error:
            # The file has a temporary name here; the reader knows it by another.
            raise ValueError(str(error).replace(str(path), name)) from None
        return self.put(str(spectrum.provenance.get("name", Path(name).stem)), spectrum)

    def measure(self, folder: str, *, name: str = "", size: int | None = None, discard: bool = False) -> str:
        """Begin to measure the data of a folder or file; the id of the job.

        Parameters
        ----------
        folder : str
            A path on this machine, or any other source that `open_source` knows.
        name : str
            What to call it; empty for the folder's own name.
        size : int, optional
            Shrink images to this many pixels a side first.
        discard : bool
            Whether to delete the folder afterwards, because it holds copies only.
        """

        def work(job: Job) -> str:
            from eigenstep.data import accumulate, open_source

            source = open_source(folder, size=size, name=name or None)
            spectrum = self._finish(accumulate(source, progress=job.report))
            return self.put(str(spectrum.provenance["name"]), spectrum)

        def after() -> None:
            if discard:
                shutil.rmtree(folder, ignore_errors=True)

        return self.jobs.begin(Job(name or folder), work, after=after)
