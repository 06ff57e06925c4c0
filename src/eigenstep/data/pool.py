"""Jobs run in other processes, their results in order: the answer does not depend on how many processes there are.

The processes are plain interpreters that read jobs from their standard input. Unlike those of `multiprocessing` they do
not import the caller's main module, so that a script needs no guard, and they end when their caller does, however it
ends.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

_PATIENCE = 0.5  # seconds of work in this process before others are started for the rest
_AHEAD = 3  # jobs per process that may wait to be run or fetched
_PIPE_BYTES = 1 << 20
_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class Job(Protocol):
    """What can be run: `job()` gives the result."""

    @property
    def job(self) -> Callable[[], Any]:
        """The work; picklable where other processes may run it."""
        ...


Tagged = TypeVar("Tagged", bound="tuple[Any, Job]")


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def ordered(jobs: Iterable[Tagged], workers: int | None) -> Iterator[tuple[Tagged, Any]]:
    """Each job with its result, in the order of the jobs.

    Parameters
    ----------
    jobs : pairs (anything, job); taken a few ahead of the results.
    workers : processes to run them in, 1 for this one. None begins here, and starts one process per core for what is
        left after half a second.

    Raises
    ------
    Whatever a job raises; RuntimeError where a process died twice over one job.
    """
    rest = iter(jobs)
    if workers is None:
        workers = cores()
        begun = time.perf_counter()
        here = itertools.takewhile(lambda _: workers == 1 or time.perf_counter() - begun < _PATIENCE, itertools.count())
        # zip asks `here` first, so that no job is taken and lost when patience ends.
        for _, tagged in zip(here, rest):  # noqa: B905
            yield tagged, tagged[1].job()
    if workers == 1:
        for tagged in rest:
            yield tagged, tagged[1].job()
        return
    first = next(rest, None)
    if first is not None:
        yield from _elsewhere(itertools.chain([first], rest), workers)


def _elsewhere(jobs: Iterator[Tagged], workers: int) -> Iterator[tuple[Tagged, Any]]:
    """A thread for each process sends a job and waits for the answer; results are taken in the order of the jobs."""
    idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
    team = [_Process() for _ in range(workers)]
    for process in team:
        idle.put(process)

    def run(job: Callable[[], Any]) -> Any:
        process = idle.get()
        try:
            return process.run(job)
        finally:
            idle.put(process)

    threads = ThreadPoolExecutor(workers, thread_name_prefix="eigenstep-reader")
    waiting: deque[tuple[Tagged, Future[Any]]] = deque()
    try:
        for tagged in jobs:
            waiting.append((tagged, threads.submit(run, tagged[1].job)))
            if len(waiting) >= _AHEAD * workers:
                done, result = waiting.popleft()
                yield done, result.result()
        while waiting:
            done, result = waiting.popleft()
            yield done, result.result()
    finally:
        # Cancel first: a thread whose process is gone would start another for the next job.
        threads.shutdown(wait=False, cancel_futures=True)
        for process in team:
            process.close()
        threads.shutdown(wait=True)


class _Process:
    """An interpreter that runs one job at a time; one that dies is replaced once per job."""

    def __init__(self) -> None:
        self._closed = threading.Event()
        self._child = self._start()

    def run(self, job: Callable[[], Any]) -> Any:
        for last in (False, True):
            try:
                return self._answer(job)
            except (EOFError, BrokenPipeError, pickle.UnpicklingError):
                code = self._child.wait()
                if last or self._closed.is_set():
                    raise RuntimeError(
                        f"a process that reads data died twice over the same job (exit code {code}); it may lack memory, or "
                        "a file may crash its decoder. Read with `workers` 1 to see which."
                    ) from None
                self._child = self._start()
        raise AssertionError("the second attempt returns or raises")

    def close(self) -> None:
        self._closed.set()
        self._child.kill()
        self._child.wait()
        for stream in (self._child.stdin, self._child.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _answer(self, job: Callable[[], Any]) -> Any:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        pickle.dump(job, self._child.stdin, protocol=5)
        self._child.stdin.flush()
        fine, result, trace = pickle.load(self._child.stdout)
        if fine:
            return result
        raise result from (RuntimeError(f"in a process that reads data:\n{trace}") if trace else None)

    @staticmethod
    def _start() -> subprocess.Popen[bytes]:
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        child = subprocess.Popen(
            [sys.executable, "-c", "from eigenstep.data.pool import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **_ONE_THREAD, "PYTHONPATH": path},
        )
        if sys.platform == "linux":
            import fcntl

            for stream in (child.stdin, child.stdout):
                assert stream is not None
                try:
                    fcntl.fcntl(stream, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
                except OSError:
                    break  # a limit set by the system: smaller pipes are slower and nothing else
        return child


def serve() -> None:
    """Run the jobs that come through standard input until it ends, answering through standard output."""
    # Ctrl-C reaches every process of a terminal; the caller alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    jobs, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints must not land among the answers
    while True:
        try:
            job = pickle.load(jobs)
        except EOFError:
            return
        try:
            answer = (True, job(), "")
        except Exception as error:
            answer = (False, *_portable(error))
        pickle.dump(answer, answers, protocol=5)
        answers.flush()


def _portable(error: Exception) -> tuple[Exception, str]:
    """The error and its traceback; a refusal of the data speaks for itself."""
    trace = "" if isinstance(error, ValueError) else traceback.format_exc()
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}"), trace
    return error, trace
