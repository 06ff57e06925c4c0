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
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any, Protocol, TypeVar

import numpy as np

_PATIENCE = 0.5  # seconds of work in this process before others are started for the rest
_AHEAD = 3  # jobs per process that may wait to be run or fetched
_PIPE_BYTES = 1 << 20
_BUFFER = 1 << 16
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
        yield from _here(rest, lambda: workers == 1 or time.perf_counter() - begun < _PATIENCE)
    if workers == 1:
        yield from _here(rest, lambda: True)
        return
    first = next(rest, None)
    if first is not None:
        yield from _elsewhere(itertools.chain([first], rest), workers)


def _here(jobs: Iterator[Tagged], go_on: Callable[[], bool]) -> Iterator[tuple[Tagged, Any]]:
    """Jobs done in this process while `go_on()`; no job is taken and left undone."""
    while go_on():
        tagged = next(jobs, None)
        if tagged is None:
            return
        yield tagged, tagged[1].job()


def _elsewhere(jobs: Iterator[Tagged], workers: int) -> Iterator[tuple[Tagged, Any]]:
    """A thread for each process sends a job and waits for the answer; results are taken in the order of the jobs."""
    idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
    team = [_Process() for _ in range(workers)]

    def awaken(process: _Process) -> None:
        process.run(_nothing)
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
        awake = [threads.submit(awaken, process) for process in team]
        yield from _here(jobs, lambda: not all(future.done() for future in awake))
        for future in awake:
            future.result()
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


def _nothing() -> None:
    """The first job of a process: it has started once this is done."""


class _Process:
    """An interpreter that runs one job at a time; one that dies is replaced once per job."""

    def __init__(self) -> None:
        self._closed = threading.Event()
        self._child = self._start()

    def run(self, job: Callable[[], Any]) -> Any:
        for last in (False, True):
            try:
                fine, result, trace = self._answer(job)
            except (EOFError, BrokenPipeError):
                code = self._child.wait()
                self._end()
                if last or self._closed.is_set():
                    raise RuntimeError(
                        f"a process that reads data died twice over the same job (exit code {code}); it may lack memory, or "
                        "a file may crash its decoder. Read with `workers` 1 to see which."
                    ) from None
                self._child = self._start()
                continue
            if fine:
                return result
            raise result from (RuntimeError(f"in a process that reads data:\n{trace}") if trace else None)
        raise AssertionError("the second attempt returns or raises")

    def close(self) -> None:
        self._closed.set()
        self._end()

    def _end(self) -> None:
        self._child.kill()
        self._child.wait()
        for stream in (self._child.stdin, self._child.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()

    def _answer(self, job: Callable[[], Any]) -> tuple[bool, Any, str]:
        assert self._child.stdin is not None
        assert self._child.stdout is not None
        _send(job, self._child.stdin)
        answer: tuple[bool, Any, str] = _receive(self._child.stdout)
        return answer

    @staticmethod
    def _start() -> subprocess.Popen[bytes]:
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        child = subprocess.Popen(
            [sys.executable, "-c", "from eigenstep.data.pool import serve; serve()"],
            bufsize=_BUFFER,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **_ONE_THREAD, "PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is for the caller, who decides what it means
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
    jobs, answers = os.fdopen(os.dup(0), "rb", _BUFFER), os.fdopen(os.dup(1), "wb", _BUFFER)
    os.dup2(2, 1)  # what a library prints must not land among the answers
    while True:
        try:
            job = _receive(jobs)
        except EOFError:
            return
        try:
            answer = (True, job(), "")
        except Exception as error:
            answer = (False, *_portable(error))
        try:
            _send(answer, answers)
        except BrokenPipeError:
            return


def _send(thing: Any, stream: IO[bytes]) -> None:
    """Pickle `thing`; the numbers of its arrays follow as they lie in memory, without a copy."""
    buffers: list[pickle.PickleBuffer] = []
    content = pickle.dumps(thing, protocol=5, buffer_callback=buffers.append)
    raws = [buffer.raw() for buffer in buffers]
    stream.write(struct.pack(f"<{2 + len(raws)}Q", len(raws), len(content), *(raw.nbytes for raw in raws)))
    stream.write(content)
    for raw in raws:
        stream.write(raw)
    stream.flush()


def _receive(stream: IO[bytes]) -> Any:
    """What `_send` sent; EOFError where it ends early."""
    n, length = struct.unpack("<2Q", _exactly(stream, 16))
    sizes = struct.unpack(f"<{n}Q", _exactly(stream, 8 * n))
    content = _exactly(stream, length)
    return pickle.loads(content, buffers=[_exactly(stream, size) for size in sizes])


def _exactly(stream: IO[bytes], size: int) -> memoryview:
    held = np.empty(size, np.uint8)  # unlike a bytearray, not filled with zeros first
    view = memoryview(held)  # type: ignore[arg-type]
    done = 0
    while done < size:
        count = stream.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            raise EOFError("the other process has gone")
        done += count
    return view


def _portable(error: Exception) -> tuple[Exception, str]:
    """The error and its traceback; a refusal of the data speaks for itself."""
    trace = "" if isinstance(error, ValueError) else traceback.format_exc()
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}"), trace
    return error, trace
