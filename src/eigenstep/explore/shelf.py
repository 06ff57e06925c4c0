"""The spectra that the page can choose from: the zoo's, files, and data that are measured while a bar shows how far."""

from __future__ import annotations

import secrets
import shutil
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eigenstep.explore.state import EDM_RANGE
from eigenstep.spectrum import Spectrum, zoo_names

if TYPE_CHECKING:
    from eigenstep.data import Measurement
    from eigenstep.estimation import ChosenSpectrum


@dataclass
class Job:
    """Data that are being measured.

    Attributes
    ----------
    name : str
        What is shown.
    done, total : int, int or None
        Items read, and how many there are.
    began : float
        When, by `time.monotonic`.
    key : str
        That of the spectrum, once it is there.
    error : str
        Why there is none, in a sentence.
    cancelled : bool
        Whether the reader asked for it to stop.
    """

    name: str
    done: int = 0
    total: int | None = None
    began: float = field(default_factory=time.monotonic)
    key: str = ""
    error: str = ""
    cancelled: bool = False

    def record(self) -> dict[str, Any]:
        """What the bar shows."""
        elapsed = time.monotonic() - self.began
        return {
            "name": self.name,
            "done": self.done,
            "total": self.total,
            "per_second": self.done / elapsed if elapsed > 0 else 0.0,
            "key": self.key,
            "error": self.error,
        }


class Cancelled(Exception):
    """The reader asked for the measurement to stop."""


class Shelf:
    """Spectra by key, and the jobs that measure new ones; safe to use from several threads.

    Parameters
    ----------
    finish : callable
        From a finished measurement to its spectrum; it may add what the items say of how sure that is.
    """

    def __init__(self, finish: Callable[[Measurement], Spectrum] | None = None) -> None:
        """The zoo, and nothing else yet."""
        self._finish = finish or (lambda measurement: measurement.spectrum())
        self._kept: dict[str, Spectrum] = {}
        self._chosen: dict[tuple[str, str], ChosenSpectrum] = {}
        self._jobs: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._one_at_a_time = threading.Lock()

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
        job = Job(name or folder)
        identity = secrets.token_hex(8)
        with self._lock:
            self._jobs[identity] = job
        threading.Thread(target=self._work, args=(job, folder, size, discard), daemon=True).start()
        return identity

    def job(self, identity: str) -> Job:
        """The job of that id."""
        with self._lock:
            if identity not in self._jobs:
                raise ValueError("`job` is not known to this server, which may have been started again; measure once more.")
            return self._jobs[identity]

    def _work(self, job: Job, folder: str, size: int | None, discard: bool) -> None:
        from eigenstep.data import accumulate, open_source

        def report(done: int, total: int | None) -> None:
            job.done, job.total = done, total
            if job.cancelled:
                raise Cancelled

        try:
            # Filters of warnings belong to the whole process; so does the memory that a second accumulator would take.
            with self._one_at_a_time, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                job.began = time.monotonic()
                source = open_source(folder, size=size, name=None if job.name == folder else job.name)
                spectrum = self._finish(accumulate(source, progress=report))
            job.key = self.put(str(spectrum.provenance["name"]), spectrum)
        except Cancelled:
            job.error = "Stopped; nothing was kept."
        except (ImportError, MemoryError, OSError, ValueError) as error:
            job.error = str(error) or "There is not enough memory for this; shrink the images with `size`."
        except BaseException as error:
            # Whatever it was, the bar must not stand still for ever.
            job.error = f"eigenstep failed on this data ({type(error).__name__}: {error}); please report it."
            raise
        finally:
            if discard:
                shutil.rmtree(folder, ignore_errors=True)
