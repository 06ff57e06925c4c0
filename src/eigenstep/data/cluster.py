"""`accumulate_on_cluster`: the parts of a source on many machines through Dask, merged in a tree.

The workers run the same code as one machine does. A task is pure, so that one lost with its worker is done again
elsewhere and the result is the same bit for bit; a merge leaves its inputs alone, since Dask may need them again.
"""

from __future__ import annotations

import itertools
import math
import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from typing import TYPE_CHECKING, Any

from eigenstep._version import __version__
from eigenstep.data.measure import Progress, begun, between, shared
from eigenstep.data.measurement import Measurement
from eigenstep.data.source import Source
from eigenstep.moments import FORMS

if TYPE_CHECKING:
    from distributed import Client, Future

CONNECT_SECONDS = 5.0
"""How long a scheduler may take to answer before it counts as unreachable."""

GROUP_NUMBERS = 2**26
"""Numbers that a group of parts should hold at least: seconds of work, so that its own accumulator costs little."""

GROUPS_PER_WORKER = (2, 16)
"""Fewest and most groups per worker thread: a slow or lost worker holds up the rest by the time of one group."""

_REPORT_SECONDS = 0.5


def accumulate_on_cluster(
    source: Source,
    address: str,
    *,
    method: str = "auto",
    precision: str = "float64",
    memory: int | None = None,
    share: tuple[int, int] = (1, 1),
    progress: Progress | None = None,
) -> Measurement:
    """What `accumulate` gives, from the workers of a Dask cluster; equal to it to rounding.

    Parameters
    ----------
    source : from `open_source`; every worker must find its files under the same names.
    address : of a scheduler, "tcp://host:port" or "host:port"; a scheduler file, "cluster.json"; or "local:N" for N
        worker processes on this machine, with one BLAS thread each.
    method, precision, memory, share, progress : as for `accumulate`. "auto" is decided once, for all workers.

    Raises
    ------
    OSError : no scheduler answers, or no worker is there, within seconds.
    SourceError, ValueError : as for `accumulate`.
    ImportError : dask or distributed is missing; the message has the pip command.
    """
    chosen = shared(source, share)
    # Begun here: what "auto" chooses depends on the memory of the machine that chooses, and all must choose alike.
    fresh = begun(source, share, method=method, precision=precision, memory=memory)
    (reading,) = fresh.readings
    with cluster_client(address) as client:
        measurement = _tree(client, chosen, Start.of(fresh), progress)
    chosen.judge(measurement.count, measurement.skipped)
    if progress is not None:
        progress(measurement.count, chosen.n_items)  # the last reports of the workers may have come too late
    reading.finished = True
    measurement.readings = [reading]
    return measurement


@contextmanager
def cluster_client(address: str) -> Iterator[Client]:
    """A client of the cluster at `address`; a local cluster is made, and ends with the block."""
    try:
        from distributed import Client, LocalCluster
    except ImportError:
        raise ImportError('clusters need dask; install it with: pip install "eigenstep[dask]"') from None
    local = re.fullmatch(r"local:(\d+)", address)
    if local:
        workers = int(local[1])
        if workers < 1:
            raise ValueError(f"`address` must be local:N with at least 1 worker, got {address!r}.")
        # Processes of one thread each: the reading of a batch holds Python's lock for much of its time.
        with (
            LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=":0") as cluster,
            Client(cluster) as client,
        ):
            yield client
        return
    where: dict[str, Any] = {"address": address}
    if address.endswith(".json"):
        # Dask would wait for the file without end.
        if not os.path.isfile(address):
            raise OSError(f"there is no scheduler file {address!r}; `dask scheduler --scheduler-file {address}` writes it.")
        where = {"scheduler_file": address}
    try:
        client = Client(**where, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise OSError(
            f"no Dask scheduler answers at {address!r} within {CONNECT_SECONDS:g} s ({error}); start one with `dask "
            "scheduler`, check the address and the network, or use local:N."
        ) from error
    with client:
        _check_workers(client, address)
        yield client


def _check_workers(client: Client, address: str) -> None:
    from distributed import TimeoutError as NoWorker  # asyncio's, under the name that distributed gives it

    try:
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
    except NoWorker as error:
        told = f"--scheduler-file {address}" if address.endswith(".json") else address
        raise OSError(
            f"the Dask scheduler at {address!r} has no worker after {CONNECT_SECONDS:g} s; start some with "
            f"`dask worker {told}`."
        ) from error
    def version() -> str | None:
        # Sent by value: a worker without eigenstep could not even import it from here.
        from importlib import import_module
        from importlib.util import find_spec

        found = find_spec("eigenstep")
        return None if found is None else str(import_module("eigenstep._version").__version__)

    for worker, installed in client.run(version).items():
        if installed != __version__:
            found = "no eigenstep" if installed is None else f"eigenstep {installed}"
            raise ValueError(
                f"the Dask worker {worker} has {found}, this machine has {__version__}; install the same version on all."
            )


def _tree(client: Client, source: Source, start: Start, progress: Progress | None) -> Measurement:
    """Split the parts into groups, read each on some worker, and merge them in a tree until one measurement is left."""
    threads = max(1, sum(client.nthreads().values()))
    groups = _groups(source, threads * _per_worker(source, threads))
    topic = f"eigenstep-{uuid.uuid4().hex}"
    read = [client.submit(_measured, group, start, topic, k, pure=False) for k, group in enumerate(groups)]
    everything = list(read)

    def merged(one: Future, other: Future) -> Future:
        # Merges first: they free the memory of two accumulators for one.
        everything.append(client.submit(_merged, start, one, other, pure=False, priority=1))
        return everything[-1]

    # Workers take groups in turn, so that every `threads`-th most often lies on the same one: those need no network.
    futures = [reduce(merged, read[k::threads]) for k in range(min(threads, len(read)))]
    while len(futures) > 1:
        pairs = [merged(one, other) for one, other in zip(futures[::2], futures[1::2], strict=False)]
        futures = pairs + futures[len(pairs) * 2 :]
    try:
        with _reported(client, topic, source.n_items, progress):
            return _result(futures[0])
    except BaseException:
        client.cancel(everything)
        raise


def _result(future: Future) -> Measurement:
    """The result of the last merge; what Dask says of a worker or scheduler that is gone, in a sentence."""
    from distributed import CancelledError, KilledWorker

    try:
        measurement: Measurement = future.result()
    except KilledWorker as error:
        raise OSError(
            f"a task was given up because its worker died each time ({error}); most often the worker has too little "
            "memory: give it more, run fewer threads on it, or choose a smaller `method`."
        ) from error
    except CancelledError as error:
        raise OSError(f"the Dask scheduler is gone ({error}); start it again and repeat the command.") from error
    return measurement


@contextmanager
def _reported(client: Client, topic: str, total: int | None, progress: Progress | None) -> Iterator[None]:
    """Tell `progress` the items read by all workers together; a task done again starts from zero again."""
    if progress is None:
        yield
        return
    counts: dict[int, int] = {}

    def heard(event: tuple[float, dict[str, int]]) -> None:
        counts[event[1]["group"]] = event[1]["count"]
        progress(sum(counts.values()), total)

    client.subscribe_topic(topic, heard)
    try:
        yield
    finally:
        client.unsubscribe_topic(topic)


def _per_worker(source: Source, threads: int) -> int:
    """How many groups each worker thread should get."""
    fewest, most = GROUPS_PER_WORKER
    if source.n_items is None:
        return 2 * fewest
    return min(most, max(fewest, source.n_items * math.prod(source.item_shape) // (GROUP_NUMBERS * threads)))


def _groups(source: Source, wanted: int) -> list[Source]:
    """At most `wanted` runs of neighbouring parts, of lengths that differ by one at most; losses are for the whole."""
    parts = len(source.readers)
    n = min(wanted, parts)
    edges = [k * parts // n for k in range(n + 1)]
    return [
        replace(
            between(source, start, stop),
            description=f"{source.description}, parts {start + 1} to {stop} of {parts}",
            workers=1,
            whole=False,
        )
        for start, stop in itertools.pairwise(edges)
    ]


# ---------------------------------------------------------------------- what runs on the workers


@dataclass(frozen=True)
class Start:
    """How the measurement of a group begins: an empty accumulator in a few bytes, though some hold large matrices."""

    form: str
    item_shape: tuple[int, ...]
    options: dict[str, Any]
    reason: str
    name: str
    source: str
    value_range: str

    @classmethod
    def of(cls, empty: Measurement) -> Start:
        """What begins as `empty` does."""
        moments = empty.moments
        return cls(
            moments.form,
            moments.item_shape,
            dict(moments.options),
            moments.reason,
            empty.name,
            empty.source,
            empty.value_range,
        )

    def __call__(self) -> Measurement:
        """An empty measurement; what it reads is recorded once, for all groups together."""
        moments = FORMS[self.form](self.item_shape, **self.options)
        moments.reason = self.reason
        return Measurement(moments, self.name, self.source, self.value_range)


def _measured(group: Source, start: Start, topic: str, number: int) -> Measurement:
    """All items of a group of parts; tells the topic how many it has read, twice a second."""
    from distributed import get_worker

    worker, told = get_worker(), time.monotonic()
    measurement = start()
    measurement.source = group.description  # for refusals, which count items within it
    for batch in group:
        measurement.update(batch)
        if time.monotonic() - told > _REPORT_SECONDS:
            worker.log_event(topic, {"group": number, "count": measurement.count})
            told = time.monotonic()
    worker.log_event(topic, {"group": number, "count": measurement.count})
    measurement.skipped = list(group.skipped)
    measurement.source = start.source
    return _merged(start, measurement)  # without its workspace, which is larger than what it has to say


def _merged(start: Start, *measurements: Measurement) -> Measurement:
    """All of them together, each left as it was: Dask may need it again should this worker die."""
    together = start()
    for measurement in measurements:
        together.merge(measurement)
    return together
