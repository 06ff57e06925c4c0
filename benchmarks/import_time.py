"""How long `import eigenstep` takes, in fresh interpreters: `python benchmarks/import_time.py [--runs 15]`.

Prints the median over runs of the wall time of `python -c "import eigenstep"` less that of `python -c "pass"`, and that
of `import numpy` beside it, which is the floor. Target: at most 0.35 s.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time


def seconds(statement: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    statements = ("pass", "import numpy", "import eigenstep")
    for statement in statements:
        seconds(statement)  # fills the file cache and writes the .pyc files
    # Interleaved, so that a busy moment of the machine falls on all three alike.
    times = {statement: [] for statement in statements}
    for _ in range(runs):
        for statement in statements:
            times[statement].append(seconds(statement))
    floor = statistics.median(times["pass"])
    for statement in statements[1:]:
        print(f"{statement:18s} {statistics.median(times[statement]) - floor:6.3f} s  (median of {runs} runs)")


if __name__ == "__main__":
    main()
