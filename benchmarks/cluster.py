"""What a second worker of a local Dask cluster gains on compute-bound data, and how far its result is from the serial one.

    python benchmarks/cluster.py [--items 60000] [--dim 3072] [--repeat 3]

The rows are a memory-mapped file, so that reading costs little; the workers are processes of one BLAS thread each. Both
clusters stand before the clock starts, run alternately, and the best of each is kept: noise of the machine only adds
time. Beside them stands what the machine itself can do in the same run: the bare products of the same rows in one
process and in two, without Dask and without eigenstep; and what the workers say by their own processor time, which
other work on the machine touches less: twice that of the only worker over that of both together. Needs the extra `dask`.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import os
import platform
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import distributed
import numpy as np

from eigenstep import __version__
from eigenstep.data import accumulate, accumulate_on_cluster, open_source


def rows(path: str, items: int, dim: int) -> None:
    """Correlated float32 rows, written a block at a time."""
    rng = np.random.default_rng(0)
    stored = np.lib.format.open_memmap(path, "w+", np.float32, (items, dim))
    scale = np.geomspace(2.0, 0.02, dim, dtype=np.float32)
    for low in range(0, items, 4096):
        stored[low : low + 4096] = rng.standard_normal((min(4096, items - low), dim), dtype=np.float32) * scale
    stored.flush()


BARE = """
import sys, time
import numpy as np
path, low, high = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
x = np.load(path, mmap_mode="r")
sums = np.zeros((x.shape[1], x.shape[1]))
print("ready", flush=True)
sys.stdin.readline()
for start in range(low, high, 4096):
    block = x[start:min(start + 4096, high)].astype(np.float64)
    sums += block.T @ block
"""


def bare(path: str, items: int, processes: int) -> float:
    """Seconds for the bare products of all rows in so many processes; their start does not count."""
    edges = [k * items // processes for k in range(processes + 1)]
    running = [
        subprocess.Popen(
            [sys.executable, "-c", BARE, path, str(low), str(high)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for low, high in itertools.pairwise(edges)
    ]
    for process in running:
        process.stdout.readline()
    begun = time.perf_counter()
    for process in running:
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in running:
        process.wait()
    return time.perf_counter() - begun


def spent(cluster: distributed.LocalCluster) -> dict[str, float]:
    """Seconds of processor time that each worker has used since it began."""
    with distributed.Client(cluster) as client:
        return client.run(time.process_time)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=60_000)
    parser.add_argument("--dim", type=int, default=3_072)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "rows.npy")
        rows(path, options.items, options.dim)
        source = open_source(path)
        clusters = {
            n: distributed.LocalCluster(
                n_workers=n, threads_per_worker=1, dashboard_address=":0", silence_logs=logging.ERROR
            )
            for n in (1, 2)
        }
        names = ("one bare process", "two bare processes", "serial", "local:1", "local:2")
        seconds: dict[str, list[float]] = {name: [] for name in names}
        processor: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(options.repeat):
            seconds["one bare process"].append(bare(path, options.items, 1))
            seconds["two bare processes"].append(bare(path, options.items, 2))
            begun = time.perf_counter()
            alone = accumulate(source, method="dense")
            alone.count, alone.moments.mean  # noqa: B018  # the last block is folded in here
            seconds["serial"].append(time.perf_counter() - begun)
            for n, cluster in clusters.items():
                before, begun = spent(cluster), time.perf_counter()
                together = accumulate_on_cluster(source, cluster.scheduler_address, method="dense")
                seconds[f"local:{n}"].append(time.perf_counter() - begun)
                processor[n].append(sum(used - before[worker] for worker, used in spent(cluster).items()))
        for cluster in clusters.values():
            cluster.close()
    ours, theirs = together.spectrum().eigenvalues, alone.spectrum().eigenvalues
    best = {name: min(times) for name, times in seconds.items()}
    print(f"{options.items} x {options.dim} float32, float64 products, best of {options.repeat}")
    for name, time_taken in best.items():
        print(f"{name:20s}{time_taken:8.2f} s   {options.items / time_taken:8.0f} items/s")
    print(f"a second worker gains {best['local:1'] / best['local:2']:.2f}   (target: at least 1.7)")
    print(f"the same, by processor time {2 * min(processor[1]) / min(processor[2]):.2f}")
    print(f"a second bare process {best['one bare process'] / best['two bare processes']:.2f}")
    print(f"largest relative difference of an eigenvalue {np.abs(ours / theirs - 1).max():.1e}   (target: at most 1e-9)")
    print(f"eigenstep {__version__}, dask {distributed.__version__}, numpy {np.__version__}, {platform.machine()}, "
          f"{os.cpu_count()} cores")


if __name__ == "__main__":
    main()
