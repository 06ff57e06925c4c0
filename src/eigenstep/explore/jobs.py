"""Work that takes longer than a page should wait: in a thread of its own, which tells how far it is and can be stopped."""

from __future__ import annotations

import secrets
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


class Cancelled(Exception):
    """The reader asked for the work to stop."""


@dataclass
class Job:
    """A piece of work under way.

    Attributes
    ----------
    name : str
        What is shown.
    done, total : int, int or None
        Items read or network calls made, and how many there will be.
    began : float
        When, by `time.monotonic`.
    key : str
        Of what it made, once that is there.
    error : str
        Why there is nothing, in a sentence.
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

    @property
    def ended(self) -> bool:
        """Whether it has made something or failed."""
        return bool(self.key or self.error)

    def report(self, done: int, total: int | None) -> None:
        """Tell how far the work is; where the reader asked for it to stop, it stops here.

        Raises
        ------
        Cancelled
        """
        self.done, self.total = done, total
        if self.cancelled:
            raise Cancelled

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


class Jobs:
    """Jobs by their id, one at a time; safe to use from several threads.

    >>> finished, jobs = threading.Event(), Jobs()
    >>> identity = jobs.begin(Job("three"), lambda job: "a key", after=finished.set)
    >>> finished.wait(60), jobs.job(identity).key
    (True, 'a key')
    """

    def __init__(self) -> None:
        """None yet."""
        self._known: dict[str, Job] = {}
        self._lock = threading.Lock()
        self._one_at_a_time = threading.Lock()

    def begin(self, job: Job, work: Callable[[Job], str], *, after: Callable[[], None] = lambda: None) -> str:
        """Start `work`, which gives the key of what it made; the id of the job.

        A refusal becomes the job's `error`. `after` is called in the end, whatever became of the work.
        """
        identity = secrets.token_hex(8)
        with self._lock:
            self._known[identity] = job
        threading.Thread(target=self._work, args=(job, work, after), daemon=True).start()
        return identity

    def job(self, identity: str) -> Job:
        """The job of that id.

        Raises
        ------
        ValueError
            There is none: a page may outlive the server that knew it.
        """
        with self._lock:
            if identity not in self._known:
                raise ValueError("`job` is not known to this server, which may have been started again; begin once more.")
            return self._known[identity]

    def _work(self, job: Job, work: Callable[[Job], str], after: Callable[[], None]) -> None:
        try:
            # Filters of warnings belong to the whole process; so does the memory that a second job would take.
            with self._one_at_a_time, warnings.catch_warnings():
                warnings.simplefilter("ignore")
                job.began = time.monotonic()
                job.report(0, job.total)
                job.key = work(job)
        except Cancelled as stopped:
            job.error = str(stopped) or "Stopped; nothing was kept."
        except (ImportError, MemoryError, OSError, ValueError) as error:
            job.error = str(error) or "There is not enough memory for this; make it smaller."
        except BaseException as error:
            # Whatever it was, the bar must not stand still for ever.
            job.error = f"eigenstep failed on this ({type(error).__name__}: {error}); please report it."
            raise
        finally:
            after()
