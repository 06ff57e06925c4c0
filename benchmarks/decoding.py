"""Images per second of a decode-bound folder, against two processes that do nothing but decode with Pillow, in one run.

    python benchmarks/decoding.py [--items 4000] [--side 256] [--size 64] [--repeat 3]

The floor's processes each decode every other file (open, convert to RGB, and with --size resize) and throw the pixels
away; they are started and warmed up before their clock starts. Ours reads the folder through the public API and pays
for everything: listing, starting two processes, transport, conversion to float64 in [-1, 1], batches in order. `measure`
adds the spectrum. All are timed in turn, `repeat` times, and the best of each is kept: noise only adds time.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from eigenstep import __version__
from eigenstep.data import measure, open_source

BARE = """
import sys
from PIL import Image
folder, size, which, n = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
names = [f"{folder}/{k:06d}.jpg" for k in range(which, n, 2)]
def decode(names):
    for name in names:
        with Image.open(name) as image:
            image = image.convert("RGB")
            if size:
                image.resize((size, size), Image.Resampling.LANCZOS)
decode(names[:20])
print("ready", flush=True)
sys.stdin.readline()
decode(names)
"""


def photographs(folder: Path, items: int, side: int) -> None:
    """JPEG files of quality 90 with the 1/f amplitudes of photographs and some noise; 200 of them, over and over."""
    rng = np.random.default_rng(0)
    f = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])[..., None]
    f[0, 0] = np.inf
    for k in range(min(200, items)):
        white = rng.standard_normal((side, side // 2 + 1, 3, 2))
        field = np.fft.irfft2((white[..., 0] + 1j * white[..., 1]) / f, s=(side, side), axes=(0, 1))
        pixels = 128 + 45 * field / field.std() + 3 * rng.standard_normal(field.shape)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{k:06d}.jpg", quality=90)
    for k in range(200, items):
        os.link(folder / f"{k % 200:06d}.jpg", folder / f"{k:06d}.jpg")


def bare(folder: Path, size: int, items: int) -> float:
    """Seconds that two processes of bare Pillow need."""
    command = [sys.executable, "-c", BARE, str(folder), str(size)]
    team = [
        subprocess.Popen([*command, str(k), str(items)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for k in (0, 1)
    ]
    for process in team:
        process.stdout.readline()
    start = time.perf_counter()
    for process in team:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in team:
        process.wait()
    return time.perf_counter() - start


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def read(folder: Path, size: int, workers: int | None) -> int:
    return sum(len(batch) for batch in open_source(folder, size=size or None, workers=workers, batch_size=256))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=12000)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--size", type=int, default=64, help="0 for none")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        photographs(folder, options.items, options.side)
        floor, two, default, whole = [], [], [], []
        for _ in range(options.repeat):
            floor.append(bare(folder, options.size, options.items))
            two.append(seconds(lambda: read(folder, options.size, 2)))
            default.append(seconds(lambda: read(folder, options.size, None)))
            if options.size and options.size <= 64:
                source = open_source(folder, size=options.size, workers=2, gray=True)
                whole.append(seconds(lambda: measure(source)))  # noqa: B023
    print(f"{options.items} JPEGs of {options.side}x{options.side}, size {options.size or 'none'}, best of {options.repeat}")
    rows = {"two bare processes": floor, "open_source, workers=2": two, "open_source, default": default, "measure, gray": whole}
    for label, times in rows.items():
        if times:
            print(f"{label:24}{options.items / min(times):8.0f} images/s   {min(floor) / min(times):5.2f} of the floor")
    print("target: at least 0.90 of the floor")
    print(f"eigenstep {__version__}, Pillow {PIL.__version__}, {platform.machine()}, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
