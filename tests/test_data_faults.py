"""What goes wrong with files and with the processes that decode them; and that their number changes nothing."""

from __future__ import annotations

import gc
import io
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from eigenstep.data import SourceError, open_source
from eigenstep.data.pool import ordered
from eigenstep.data.source import Piece

Image = pytest.importorskip("PIL.Image")

posix = pytest.mark.skipif(os.name != "posix", reason="signals and links are POSIX's")


def picture(seed: int, size: tuple[int, int] = (6, 8)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def folder_of(path: Path, n: int) -> np.ndarray:
    """n PNG files; their items (n, 3, 6, 8)."""
    path.mkdir(parents=True, exist_ok=True)
    pixels = np.stack([picture(k) for k in range(n)])
    for k, image in enumerate(pixels):
        (path / f"{k:04d}.png").write_bytes(encoded(image))
    return pixels.transpose(0, 3, 1, 2)


# ---------------------------------------------------------------------- odd and damaged images among RGB


def test_every_odd_kind_of_image_among_rgb(tmp_path) -> None:
    folder_of(tmp_path, 1)
    flat = np.full((6, 8, 3), (200, 100, 50), np.uint8)
    image = Image.fromarray(flat)
    wide = np.linspace(0, 65535, 48).reshape(6, 8).round().astype(np.uint16)
    image.quantize(2).save(tmp_path / "a-palette.png")
    image.convert("CMYK").save(tmp_path / "b-cmyk.jpg", quality=100)
    image.save(tmp_path / "c-animated.gif", save_all=True, append_images=[Image.fromarray(255 - flat)])
    image.save(tmp_path / "d-animated.webp", save_all=True, append_images=[Image.fromarray(255 - flat)], lossless=True)
    image.convert("L").save(tmp_path / "e-gray.png")
    Image.fromarray(wide).save(tmp_path / "f-sixteen-bit.png")
    Image.fromarray(np.dstack((flat, np.full((6, 8), 7, np.uint8)))).save(tmp_path / "g-alpha.png")
    Image.fromarray(flat[..., 0] > 99).save(tmp_path / "h-one-bit.png")
    source = open_source(tmp_path, value_range="raw", workers=1)
    items = np.concatenate(list(source))
    assert source.skipped == []
    colour = np.broadcast_to(np.array([200, 100, 50])[:, None, None], (3, 6, 8))
    for k in (1, 2, 3, 4, 7):
        np.testing.assert_allclose(items[k], colour, atol=3)  # JPEG and palettes move a flat colour by a level or two
    luma = round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)  # ITU-R 601-2, as Pillow states it
    np.testing.assert_allclose(items[5], luma, atol=1)
    np.testing.assert_array_equal(items[6], np.broadcast_to(np.round(wide / 257), (3, 6, 8)))
    np.testing.assert_array_equal(items[8], 255)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no image that Pillow knows"),
        (b"no image at all", "no image that Pillow knows"),
        (encoded(picture(1))[:60], ""),
        (encoded(picture(1, (60, 80)), "JPEG")[:1500], "truncated"),
        (encoded(picture(1)).replace(b"IDAT", b"IDOT"), ""),
    ],
    ids=["zero-byte", "text", "cut-png", "cut-jpeg", "corrupt-chunk"],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_damaged_images_are_skipped_by_name_and_reason(tmp_path, content: bytes, reason: str, workers: int) -> None:
    expected = folder_of(tmp_path, 120)
    (tmp_path / "0017.png").write_bytes(content)
    source = open_source(tmp_path, value_range="raw", workers=workers)
    np.testing.assert_array_equal(np.concatenate(list(source)), np.delete(expected, 17, axis=0))
    (name,) = source.skipped
    assert name.startswith(f"{tmp_path}/0017.png (")
    assert reason in name


def test_wide_integers_and_floats_have_no_range(tmp_path) -> None:
    Image.fromarray(np.full((2, 2), 70000, np.int32)).save(tmp_path / "a.tif")
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "b.tif")
    with pytest.raises(SourceError, match=r"all of its 2 items are corrupt \(.*32 bits have no known range.*float pixels"):
        open_source(tmp_path)


def test_a_folder_mostly_damaged_is_refused_early(tmp_path) -> None:
    folder_of(tmp_path, 200)
    for k in range(10, 200):
        (tmp_path / f"{k:04d}.png").write_bytes(b"")
    source = open_source(tmp_path, workers=1, batch_size=8)
    with pytest.raises(SourceError, match=r"at least 6 of 200 items are corrupt, more than 1 % \(.*0010.png"):
        list(source)
    assert source.position.item == 8


# ---------------------------------------------------------------------- links and permissions


@posix
def test_links_in_a_loop_are_not_followed_and_lost_ones_counted(tmp_path) -> None:
    expected = folder_of(tmp_path / "a", 250)
    (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a" / "itself.png").symlink_to(tmp_path / "a" / "itself.png")
    (tmp_path / "a" / "nowhere.png").symlink_to(tmp_path / "absent.png")
    source = open_source(tmp_path, value_range="raw", workers=1)
    np.testing.assert_array_equal(np.concatenate(list(source)), expected)
    assert source.n_items == 252
    assert [name.rpartition("/")[2] for name in source.skipped] == [
        "itself.png (Too many levels of symbolic links)",
        "nowhere.png (No such file or directory)",
    ]
    # The folder itself may be a link, and files may.
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert open_source(tmp_path / "link").n_items == 252


def test_unreadable_files_are_counted_and_unreadable_folders_refused(tmp_path, monkeypatch) -> None:
    expected = folder_of(tmp_path, 150)
    import builtins

    plain = open

    def guarded(path: object, *rest: object, **options: object) -> object:
        if str(path).endswith("0003.png"):
            raise PermissionError(13, "Permission denied", str(path))
        return plain(path, *rest, **options)

    monkeypatch.setattr(builtins, "open", guarded)  # root may read everything, whatever chmod says
    source = open_source(tmp_path, value_range="raw", workers=1)
    np.testing.assert_array_equal(np.concatenate(list(source)), np.delete(expected, 3, axis=0))
    assert source.skipped == [f"{tmp_path}/0003.png (Permission denied)"]

    (tmp_path / "private").mkdir()
    scandir = os.scandir

    def refuse(path: object) -> object:
        if str(path).endswith("private"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SourceError, match=r"the folder '.*private' cannot be listed \(Permission denied\); permit it"):
        open_source(tmp_path)


# ---------------------------------------------------------------------- crop


def test_crop_cuts_the_middle_after_size(tmp_path) -> None:
    pixels = picture(0, (12, 20))
    (tmp_path / "a.png").write_bytes(encoded(pixels))
    raw = partial(open_source, tmp_path, value_range="raw", workers=1)
    np.testing.assert_array_equal(next(iter(raw(crop=4)))[0], pixels[4:8, 8:12].transpose(2, 0, 1))
    whole = next(iter(raw(size=12)))[0]
    np.testing.assert_array_equal(whole, pixels[:, 4:16].transpose(2, 0, 1))
    np.testing.assert_array_equal(next(iter(raw(size=12, crop=6)))[0], whole[:, 3:9, 3:9])
    with pytest.raises(SourceError, match="`crop` must be at most `size`, got 13 and 12"):
        raw(size=12, crop=13)
    with pytest.raises(SourceError, match=r"a.png has 20x12 pixels, too few for a `crop` of 13; pass `size`"):
        raw(crop=13)


# ---------------------------------------------------------------------- processes


@pytest.mark.parametrize("workers", [2, 3])
def test_the_number_of_processes_changes_nothing(tmp_path, workers: int) -> None:
    folder_of(tmp_path, 300)
    for k in (5, 290):
        (tmp_path / f"{k:04d}.png").write_bytes(b"")
    one, many = (open_source(tmp_path, workers=n, batch_size=70) for n in (1, workers))
    for a, b in zip(one, many, strict=True):
        np.testing.assert_array_equal(a, b)
        assert one.position == many.position
    assert one.skipped == many.skipped


def test_a_refusal_in_another_process_is_the_same(tmp_path) -> None:
    folder_of(tmp_path, 100)
    (tmp_path / "0099.png").write_bytes(encoded(picture(0, (5, 5))))
    messages = []
    for workers in (1, 2):
        with pytest.raises(SourceError, match=r"0099.png has 5x5 pixels but .*0000.png has 8x6; pass `size`") as refusal:
            list(open_source(tmp_path, workers=workers))
        messages.append(str(refusal.value))
    assert messages[0] == messages[1]


@pytest.fixture
def never_here(monkeypatch) -> None:
    """No job in this process while the others start: these jobs kill who runs them."""
    monkeypatch.setattr("eigenstep.data.pool._here", lambda jobs, go_on: iter(()))


def results(jobs: list, workers: int | None) -> list:
    return [result for _, result in ordered([(k, Piece(job, k)) for k, job in enumerate(jobs)], workers)]


@pytest.mark.usefixtures("never_here")
def test_results_come_in_the_order_of_the_jobs() -> None:
    # The first jobs take longest; functions of the standard library can be found by any interpreter.
    jobs = [partial(subprocess.getoutput, f"sleep {0.2 / (k + 1)}; echo {k}") for k in range(12)]
    assert results(jobs, 3) == [str(k) for k in range(12)]


def test_without_a_number_it_begins_here_and_goes_on_elsewhere(monkeypatch) -> None:
    monkeypatch.setattr("eigenstep.data.pool.cores", lambda: 2)
    here = str(os.getpid())
    # The shell's parent is the process that runs the job.
    assert set(results([partial(subprocess.getoutput, "echo $PPID")] * 5, None)) == {here}
    places = results([partial(subprocess.getoutput, "sleep 0.05; echo $PPID")] * 120, None)
    assert places[0] == here
    assert len(set(places)) == 3
    assert here not in places[-20:]


@posix
@pytest.mark.usefixtures("never_here")
def test_a_process_that_is_killed_loses_nothing(tmp_path) -> None:
    deadly = partial(subprocess.getoutput, f"mkdir {tmp_path}/once 2>/dev/null && kill -9 $PPID; echo survived")
    assert results([partial(abs, -1), deadly, partial(abs, -2)], 2) == [1, "survived", 2]
    assert (tmp_path / "once").is_dir()


@pytest.mark.usefixtures("never_here")
def test_a_job_that_kills_every_process_is_named_as_such() -> None:
    with pytest.raises(RuntimeError, match=r"died twice over the same job \(exit code 3\); it may lack memory"):
        results([partial(os._exit, 3)], 2)


@pytest.mark.usefixtures("never_here")
def test_errors_come_back_as_they_are_and_with_their_traceback() -> None:
    with pytest.raises(ZeroDivisionError) as error:
        results([partial(divmod, 1, 0)], 2)
    assert "in a process that reads data:\nTraceback" in str(error.value.__cause__)


SCRIPT = """
import os, sys, time
from eigenstep.data import open_source
# No `if __name__ == "__main__"`: this must not start the script again.
batches = iter(open_source(sys.argv[1], workers=2, batch_size=16))
first = next(batches)
children = [pid for task in os.listdir("/proc/self/task") for pid in open(f"/proc/self/task/{task}/children").read().split()]
print(*children, flush=True)
if sys.argv[2] == "wait":
    time.sleep(60)
print(len(first) + sum(len(batch) for batch in batches))
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks at processes through /proc")
def test_the_processes_end_with_their_caller_and_scripts_need_no_guard(tmp_path) -> None:
    folder_of(tmp_path / "a", 300)
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "a")]
    done = subprocess.run([*command, "go on"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1] == "300"
    with subprocess.Popen([*command, "wait"], stdout=subprocess.PIPE, text=True) as script:
        assert script.stdout is not None
        children = script.stdout.readline().split()
        assert len(children) == 2
        script.send_signal(signal.SIGKILL)
        script.wait()
        deadline = time.monotonic() + 120
        while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
            time.sleep(0.05)
    assert not [child for child in children if Path(f"/proc/{child}").exists()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="looks at processes through /proc")
def test_whoever_stops_early_leaves_no_process_behind(tmp_path) -> None:
    folder_of(tmp_path, 300)

    def children() -> set[str]:
        tasks = os.listdir("/proc/self/task")
        return {pid for task in tasks for pid in Path(f"/proc/self/task/{task}/children").read_text().split()}

    before = children()
    batches = iter(open_source(tmp_path, workers=2, batch_size=16))
    next(batches)
    assert len(children() - before) == 2
    del batches
    gc.collect()
    assert children() <= before
