"""Where cells run: here, on several devices of this machine, or on the workers of a Dask cluster. Results as they come."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from eigenstep.data.cluster import cluster_client
from eigenstep.evaluation.cells import Bench, Cell, Recipe, work, work_in_worker
from eigenstep.evaluation.competitors import Entry

Record = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """A cell with what competes in it; no entry: the reference of its seed."""

    cell: Cell
    entry: Entry | None


Results = Iterator[tuple[Job, Record]]
Run = Callable[[Sequence[Job]], Results]
"""Runs jobs, all of which may run at once, and gives each with its record as soon as it is there."""


@contextmanager
def workers(recipe: Recipe, *, devices: Sequence[Any] = (None,), dask: str | None = None) -> Iterator[Run]:
    """What runs the cells of a recipe.

    Parameters
    ----------
    recipe : Recipe
    devices : sequence of torch.device, str or None
        One thread and one copy of the model for each; None is the model's own device, or the CPU. On a cluster the first is
        every worker's.
    dask : str, optional
        "local:N", an address or a scheduler file, as for `data.accumulate_on_cluster`.

    Raises
    ------
    OSError, ImportError, ValueError
        As for `data.accumulate_on_cluster`; a model object that cannot travel.
    """
    if dask is None:
        benches: queue.SimpleQueue[Bench] = queue.SimpleQueue()
        for device in devices:
            benches.put(Bench(recipe, device))
        if len(devices) == 1:
            only = benches.get()
            yield lambda jobs: ((job, work(only, job.cell, job.entry)) for job in jobs)
            return
        with ThreadPoolExecutor(len(devices)) as pool:
            yield lambda jobs: _in_threads(pool, benches, jobs)
        return
    if not recipe.model.travels:
        raise ValueError("`model` must be a folder or module:function for workers of a cluster to load it, got an object.")
    with cluster_client(dask) as client:
        yield lambda jobs: _on_cluster(client, recipe, devices[0], jobs)


def _in_threads(pool: ThreadPoolExecutor, benches: queue.SimpleQueue[Bench], jobs: Sequence[Job]) -> Results:
    def run(job: Job) -> Record:
        bench = benches.get()
        try:
            return work(bench, job.cell, job.entry)
        finally:
            benches.put(bench)

    waiting: dict[Future[Record], Job] = {pool.submit(run, job): job for job in jobs}
    try:
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                yield waiting.pop(future), future.result()
    finally:
        # After Ctrl-C or a failure: what runs is waited for, what has not begun never does.
        for future in waiting:
            future.cancel()


def _on_cluster(client: Any, recipe: Recipe, device: Any, jobs: Sequence[Job]) -> Results:
    from distributed import CancelledError, KilledWorker, as_completed

    kept = client.scatter(recipe, broadcast=True, hash=False)
    starts: dict[int, Any] = {}
    waiting = {}
    for job in jobs:
        entry, warm = job.entry, None
        if entry is not None and entry.warm is not None:
            # Eigenvectors: sent once, not with every cell.
            if id(entry.warm) not in starts:
                starts[id(entry.warm)] = client.scatter(entry.warm, broadcast=True, hash=False)
            warm, entry = starts[id(entry.warm)], replace(entry, warm=None)
        waiting[client.submit(work_in_worker, kept, job.cell, entry, warm, device, pure=False)] = job
    try:
        for future in as_completed(list(waiting)):
            job = waiting.pop(future)
            try:
                yield job, future.result()
            except KilledWorker as error:
                yield job, {"error": f"its worker died each time ({error}); most often it has too little memory"}
            except CancelledError as error:
                raise OSError(f"the Dask scheduler is gone ({error}); start it again and go on with --resume.") from error
    finally:
        client.cancel(list(waiting))
