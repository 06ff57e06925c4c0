"""Measuring: in shares, interrupted in every way and gone on with, and what a kept measurement refuses."""

from __future__ import annotations

import errno
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from eigenstep.data import CheckpointWarning, Measurement, Source, SourceError, accumulate, measure, open_source
from eigenstep.moments import FORMS, Moments, StationaryMoments
from eigenstep.spectrum import Spectrum

METHODS = tuple(FORMS)


def rows(n: int = 2000, dim: int = 24, *, seed: int = 0) -> np.ndarray:
    """A random walk: neighbours in a row are correlated, rows drift."""
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, dim)).cumsum(axis=1) + np.linspace(0.0, 3.0, n)[:, None]


@pytest.fixture
def stored(tmp_path) -> Path:
    np.save(tmp_path / "rows.npy", rows())
    return tmp_path / "rows.npy"


def opened(path: Path, **options: object) -> Source:
    return open_source(path, **{"batch_size": 50, **options})


def arrays(path: Path) -> dict[str, np.ndarray]:
    """Everything in an accumulator's file but its reason, which tells the memory that was free at its start."""
    with np.load(path) as archive:
        found = {name: archive[name] for name in archive.files}
    header = json.loads(str(found["header"]))
    header.pop("reason")
    return {**found, "header": np.array(json.dumps(header))}


def assert_same_bits(one: Path, other: Path) -> None:
    ours, theirs = arrays(one), arrays(other)
    assert ours.keys() == theirs.keys()
    for name, array in ours.items():
        assert array.tobytes() == theirs[name].tobytes(), name


def stop_at(count: int, error: type[BaseException] = KeyboardInterrupt):
    """A progress report that interrupts the work at so many items."""

    def report(done: int, _: int | None) -> None:
        if done >= count:
            raise error

    return report


# ---------------------------------------------------------------------- one pass


def test_measure_is_from_samples_batch_by_batch() -> None:
    x = np.random.default_rng(3).random((500, 2, 4))
    calls: list[tuple[int, int | None]] = []
    source = open_source(x, batch_size=200, name="mine")
    spectrum = measure(source, method="dense", progress=lambda *call: calls.append(call), provenance={"a": 1})
    np.testing.assert_allclose(spectrum.eigenvalues, Spectrum.from_samples(x).eigenvalues, rtol=1e-11)
    assert calls == [(200, 500), (400, 500), (500, 500)]
    assert spectrum.item_shape == (2, 4)
    assert spectrum.provenance == {
        "name": "mine",
        "source": "array of shape (500, 2, 4), float64",
        "value_range": "as stored (float64)",
        "values": [x.min(), x.max()],
        "skipped": 0,
        "accumulator": "dense: it was asked for.",
        "a": 1,
    }


def test_measure_names_the_source_and_the_bad_item() -> None:
    x = np.ones((50, 3))
    x[37, 1] = np.nan
    with pytest.raises(SourceError, match=r"array of shape .*: `batch` must be finite, got 1 NaN .* item 37"):
        measure(open_source(x, batch_size=16))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_passed_on_and_recorded(stored, method) -> None:
    spectrum = measure(opened(stored), method=method)
    assert spectrum.provenance["accumulator"] == f"{method}: it was asked for."
    assert spectrum.n_samples == 2000


def test_precision_and_memory_reach_the_accumulator(stored) -> None:
    assert accumulate(opened(stored), method="dense", precision="float32").moments.precision == "float32"
    assert "low-rank" in accumulate(opened(stored), memory=4000).moments.reason  # the covariance takes 18 kB


# ---------------------------------------------------------------------- shares


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("method", ["dense", "stationary", "gram"])
def test_shares_merge_into_the_whole(stored, n, method) -> None:
    shares = [accumulate(opened(stored), method=method, share=(i, n)) for i in range(1, n + 1)]
    total = shares[0]
    for share in shares[1:]:
        total.merge(share)
    whole = measure(opened(stored), method=method)
    assert total.count == 2000
    merged = total.spectrum()
    # Sums in another order: rounding relative to the largest eigenvalue, as the Gram form's zeros show.
    np.testing.assert_allclose(merged.eigenvalues, whole.eigenvalues, rtol=1e-11, atol=1e-12 * whole.eigenvalues[0])
    assert merged.provenance == whole.provenance
    np.testing.assert_allclose(total.moments.mean, rows().mean(axis=0), rtol=1e-12)


@pytest.mark.parametrize(
    ("share", "message"),
    [
        ((0, 2), "`share` must be at least 1 and at most 2, got 0"),
        ((3, 2), "`share` must be at least 1 and at most 2, got 3"),
        ((1, 0), "`share` must be at least 1, got 0"),
        ((1, 99), r"`share` 1/99 asks for 99 shares but .*rows.npy has 40 parts; ask for at most as many shares as parts"),
    ],
)
def test_impossible_shares_are_refused(stored, share, message) -> None:
    with pytest.raises(ValueError, match=message):
        accumulate(opened(stored), share=share)


# ---------------------------------------------------------------------- what is kept


def test_a_measurement_is_kept_whole(tmp_path, stored) -> None:
    measurement = accumulate(opened(stored), share=(2, 3))
    measurement.skipped = ["a.png (broken)"]
    measurement.save(tmp_path / "kept.npz")
    loaded = Measurement.load(tmp_path / "kept.npz")
    for name in ("name", "source", "value_range", "low", "high", "skipped", "readings", "count"):
        assert getattr(loaded, name) == getattr(measurement, name), name
    loaded.save(tmp_path / "again.npz")
    assert_same_bits(tmp_path / "kept.npz", tmp_path / "again.npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.npz", "kept.npz", "rows.npy"]


def test_a_bare_accumulator_is_a_measurement_of_unknown_data(tmp_path) -> None:
    moments = Moments(2)
    moments.update([[0.0, 0.0], [2.0, 1.0], [4.0, 0.0]])
    moments.save(tmp_path / "spark.npz")
    loaded = Measurement.load(tmp_path / "spark.npz")
    assert (loaded.name, loaded.count, loaded.readings) == ("spark", 3, [])
    assert "values" not in loaded.spectrum().provenance
    loaded.merge(Measurement.load(tmp_path / "spark.npz"))  # nothing says that these are the same items
    assert loaded.count == 6
    assert loaded.spectrum().provenance["source"] == str(tmp_path / "spark.npz")


def test_merging_refuses_the_same_data_twice(stored) -> None:
    first, second, half = (accumulate(opened(stored), share=share) for share in ((1, 4), (2, 4), (1, 2)))
    first.merge(second)
    for again in (second, half):
        with pytest.raises(ValueError, match=r"rows.npy \(part .*\) is in it already, as part [12]/4; its items would count"):
            first.merge(again)
    first.merge(accumulate(opened(stored), share=(2, 2)))
    assert first.count == 2000


def test_other_reading_options_are_other_data(stored) -> None:
    first = accumulate(opened(stored))
    first.merge(accumulate(opened(stored, batch_size=49)))  # the user's affair: not the same measurement
    assert first.count == 4000


def test_merging_refuses_other_units(tmp_path, stored) -> None:
    first = accumulate(opened(stored))
    with pytest.raises(ValueError, match=r"has values as stored \(float64\), times 2 but .* with the same `value_range`"):
        first.merge(accumulate(opened(stored, scale=2.0)))


def test_merged_names_and_extremes(tmp_path) -> None:
    np.save(tmp_path / "a.npy", rows(100))
    np.save(tmp_path / "b.npy", rows(100, seed=1) * 2)
    first, second = (accumulate(open_source(tmp_path / f"{name}.npy")) for name in "ab")
    first.merge(second)
    assert first.name == "a + b"
    record = first.spectrum().provenance
    everything = np.concatenate([rows(100), rows(100, seed=1) * 2])
    assert record["values"] == [everything.min(), everything.max()]
    assert record["source"] == f"{tmp_path}/a.npy + {tmp_path}/b.npy"


def test_a_newer_record_is_refused(tmp_path, stored) -> None:
    measurement = accumulate(opened(stored))
    measurement._record = lambda: {"format_version": 2}  # type: ignore[method-assign]
    measurement.save(tmp_path / "new.npz")
    with pytest.raises(ValueError, match=r"new.npz' was written by a newer eigenstep \(record version 2"):
        Measurement.load(tmp_path / "new.npz")
    measurement._record = lambda: {"format_version": 1}  # type: ignore[method-assign]
    measurement.save(tmp_path / "new.npz")
    with pytest.raises(ValueError, match=r"new.npz' is truncated, corrupt or no moments file \('values'\)"):
        Measurement.load(tmp_path / "new.npz")
    with pytest.raises(ValueError, match=r"`path` must end in .npz, got 'x.json'"):
        measurement.save("x.json")


# ---------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stop", [1, 700, 1999])
def test_resumed_is_uninterrupted_bit_for_bit(tmp_path, stored, method, stop) -> None:
    whole, kept = tmp_path / "whole.npz", tmp_path / "kept.npz"
    accumulate(opened(stored), method=method).save(whole)
    with pytest.raises(KeyboardInterrupt):
        accumulate(opened(stored), method=method, checkpoint=kept, progress=stop_at(stop))
    assert Measurement.load(kept).count == -(-stop // 50) * 50
    seen: list[int] = []
    report = lambda done, _: seen.append(done)  # noqa: E731
    resumed = accumulate(opened(stored), method=method, checkpoint=kept, resume=True, progress=report)
    assert seen[:2] == [-(-stop // 50) * 50, min(-(-stop // 50) * 50 + 50, 2000)][: len(seen)]
    assert_same_bits(whole, kept)
    spectrum, direct = resumed.spectrum(), measure(opened(stored), method=method)
    assert spectrum.eigenvalues.tolist() == direct.eigenvalues.tolist()
    assert spectrum.provenance == direct.provenance


def test_resuming_many_times_and_at_any_interval(tmp_path, stored) -> None:
    whole, kept = tmp_path / "whole.npz", tmp_path / "kept.npz"
    accumulate(opened(stored)).save(whole)
    for stop in (120, 121, 700, 1300):
        with pytest.raises(KeyboardInterrupt):
            accumulate(opened(stored), checkpoint=kept, checkpoint_every=130, resume=True, progress=stop_at(stop))
    accumulate(opened(stored), checkpoint=kept, resume=True)
    assert_same_bits(whole, kept)


def test_a_share_has_its_own_checkpoint(tmp_path, stored) -> None:
    whole, kept = tmp_path / "whole.npz", tmp_path / "kept.npz"
    accumulate(opened(stored), share=(3, 4)).save(whole)
    with pytest.raises(KeyboardInterrupt):
        accumulate(opened(stored), share=(3, 4), checkpoint=kept, progress=stop_at(300))
    with pytest.raises(ValueError, match=r"is of another measurement: its part is \(3, 4\), now \(2, 4\)\. Name another"):
        accumulate(opened(stored), share=(2, 4), checkpoint=kept, resume=True)
    accumulate(opened(stored), share=(3, 4), checkpoint=kept, resume=True)
    assert_same_bits(whole, kept)


def test_a_finished_checkpoint_gives_its_result_without_reading(tmp_path, stored, monkeypatch) -> None:
    kept = tmp_path / "kept.npz"
    expected = measure(opened(stored), checkpoint=kept)
    monkeypatch.setattr(Source, "batches", None)
    assert measure(opened(stored), checkpoint=kept, resume=True).eigenvalues.tolist() == expected.eigenvalues.tolist()


def tar_of_images(path: Path, n: int, *, corrupt: tuple[int, ...] = ()) -> Path:
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(2).integers(0, 256, (n, 6, 6, 3), dtype=np.uint8)
    with tarfile.open(path, "w") as tar:
        for k in range(n):
            stream = io.BytesIO()
            image.fromarray(pixels[k]).save(stream, "PNG")
            content = b"nonsense" if k in corrupt else stream.getvalue()
            entry = tarfile.TarInfo(f"{k:05d}.png")
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def test_resumed_images_count_what_was_skipped_before(tmp_path) -> None:
    tar_of_images(tmp_path / "0.tar", 150, corrupt=(3,))
    tar_of_images(tmp_path / "1.tar", 150, corrupt=(60,))
    whole, kept = tmp_path / "whole.npz", tmp_path / "kept.npz"
    paths = [tmp_path / "0.tar", tmp_path / "1.tar"]
    accumulate(open_source(paths, batch_size=20)).save(whole)
    for stop in (40, 170):
        with pytest.raises(KeyboardInterrupt):
            accumulate(open_source(paths, batch_size=20), checkpoint=kept, resume=True, progress=stop_at(stop))
    accumulate(open_source(paths, batch_size=20), checkpoint=kept, resume=True)
    assert_same_bits(whole, kept)
    assert [name.split(" ")[0].rpartition("/")[2] for name in Measurement.load(kept).skipped] == [
        "0.tar:00003.png",
        "1.tar:00060.png",
    ]


def test_work_that_fails_leaves_a_checkpoint(tmp_path, stored) -> None:
    x = rows()
    x[1234, 5] = np.nan
    np.save(stored, x)
    with pytest.raises(SourceError, match=r"rows.npy: `batch` must be finite, got 1 NaN .* item 1234"):
        accumulate(opened(stored), checkpoint=tmp_path / "kept.npz")
    assert Measurement.load(tmp_path / "kept.npz").count == 1200


def changed_rows(path: Path) -> Source:
    np.save(path, rows(seed=1))
    return opened(path)


def other_file(path: Path) -> Source:
    np.save(path.with_name("other.npy"), rows())
    return opened(path.with_name("other.npy"))


@pytest.mark.parametrize(
    ("other", "options", "message"),
    [
        (other_file, {}, r"its source is .*rows.npy, now .*other.npy"),
        (changed_rows, {}, "the files, or the options they are read with, have changed since"),
        (lambda path: opened(path, batch_size=51), {}, "the files, or the options they are read with, have changed since"),
        (lambda path: opened(path, scale=2.0), {}, r"its units is as stored \(float64\), now as stored .* times 2"),
        (opened, {"method": "stationary"}, "its method is auto, now stationary"),
        (opened, {"precision": "float32"}, "its precision is float64, now float32"),
    ],
    ids=["file", "content", "batches", "units", "method", "precision"],
)
def test_the_checkpoint_of_another_measurement_is_refused(tmp_path, stored, other, options, message) -> None:
    kept = tmp_path / "kept.npz"
    with pytest.raises(KeyboardInterrupt):
        accumulate(opened(stored), checkpoint=kept, progress=stop_at(500))
    before = kept.read_bytes()
    with pytest.raises(ValueError, match=rf"the checkpoint .*kept.npz' is of another measurement: {message}"):
        accumulate(other(stored), checkpoint=kept, resume=True, **options)
    assert kept.read_bytes() == before


def test_checkpoints_that_cannot_be_meant_are_refused(tmp_path, stored) -> None:
    kept = tmp_path / "kept.npz"
    accumulate(opened(stored), checkpoint=kept)
    with pytest.raises(ValueError, match=r"kept.npz' exists: go on from it with `resume`, or delete it to start again"):
        accumulate(opened(stored), checkpoint=kept)
    with pytest.raises(ValueError, match="`resume` needs the `checkpoint` to go on from, got none"):
        accumulate(opened(stored), resume=True)
    with pytest.raises(ValueError, match=r"`checkpoint` must end in .npz, got 'kept.json'"):
        accumulate(opened(stored), checkpoint="kept.json")
    with pytest.raises(ValueError, match="`checkpoint_every` must be at least 1, got 0"):
        accumulate(opened(stored), checkpoint=tmp_path / "new.npz", checkpoint_every=0)
    StationaryMoments(3).save(kept)
    with pytest.raises(ValueError, match="it holds 0 readings, a checkpoint has one"):
        accumulate(opened(stored), checkpoint=kept, resume=True)
    kept.write_bytes(kept.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"kept.npz' is truncated, corrupt or no moments file"):
        accumulate(opened(stored), checkpoint=kept, resume=True)


# ---------------------------------------------------------------------- the machine fails


def test_a_full_disk_at_a_checkpoint_is_a_warning_and_the_work_goes_on(tmp_path, stored, monkeypatch) -> None:
    kept, whole = tmp_path / "kept.npz", tmp_path / "whole.npz"
    accumulate(opened(stored)).save(whole)
    with pytest.raises(KeyboardInterrupt):
        accumulate(opened(stored), checkpoint=kept, progress=stop_at(500))
    before = kept.read_bytes()

    def full(self: object, path: object) -> None:
        Path(str(path)).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Moments, "save", full)
        patched.setattr(os, "replace", None)  # and nothing is put in place
        message = r"could not write .*kept.npz' \(No space left on device\); the file that was there is unchanged\. Free"
        with pytest.warns(CheckpointWarning, match=message):
            done = accumulate(opened(stored), checkpoint=kept, checkpoint_every=100, resume=True)
    assert done.count == 2000
    assert kept.read_bytes() == before
    assert not list(tmp_path.glob(".*"))
    accumulate(opened(stored), checkpoint=kept, resume=True)  # the earlier checkpoint is still good
    assert_same_bits(whole, kept)


LIMITED = """
import resource, sys, warnings
from eigenstep.data import accumulate, open_source
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    done = accumulate(open_source(sys.argv[1], batch_size=50), checkpoint=sys.argv[2], checkpoint_every=500)
print(done.count, len(told), told[0].category.__name__, told[0].message)
"""


def test_a_disk_that_really_takes_no_more(tmp_path, stored) -> None:
    """The system itself refuses to write: a file may have 3000 bytes, a checkpoint needs 25,000."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, stored, tmp_path / "kept.npz"], capture_output=True, text=True, check=True
    )
    count, told, name, message = done.stdout.split(" ", 3)
    assert (count, told, name) == ("2000", "5", "CheckpointWarning")
    assert "(File too large); no file was left behind. Free space or choose another folder." in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.npy"]


SLOW = """
import sys, time
from eigenstep.data import accumulate, open_source

def tell(done, total):
    print(done, flush=True)
    time.sleep(0.002)

accumulate(
    open_source(sys.argv[1], batch_size=50), checkpoint=sys.argv[2], checkpoint_every=200, progress=tell, resume=True
)
"""


def killed_at(count: int, stored: Path, kept: Path, number: signal.Signals) -> tuple[int, int]:
    """Run the slow script, send it the signal at so many items; the last count it told and its exit code."""
    with subprocess.Popen([sys.executable, "-c", SLOW, stored, kept], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = 0
        for line in process.stdout:
            told = int(line)
            if told >= count:
                process.send_signal(number)
                break
        told = max([told, *map(int, process.stdout.read().split())])
        return told, process.wait()


def test_sigkill_loses_no_more_than_an_interval(tmp_path, stored) -> None:
    whole, kept = tmp_path / "whole.npz", tmp_path / "kept.npz"
    accumulate(opened(stored)).save(whole)
    for count in (450, 1210, 1700):
        told, code = killed_at(count, stored, kept, signal.SIGKILL)
        assert code == -signal.SIGKILL
        # At most an interval and the batch that was in work.
        assert told - 250 <= Measurement.load(kept).count <= told + 50
    accumulate(opened(stored), checkpoint=kept, resume=True)
    assert_same_bits(whole, kept)


@pytest.mark.parametrize("call", ["os.replace", "os.fsync"])
def test_a_kill_while_the_checkpoint_is_written_leaves_the_earlier_one(tmp_path, stored, call) -> None:
    kept = tmp_path / "kept.npz"
    with pytest.raises(KeyboardInterrupt):
        accumulate(opened(stored), checkpoint=kept, progress=stop_at(500))
    script = (
        "import os, signal, sys\n"
        "from eigenstep.data import accumulate, open_source\n"
        f"{call} = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "accumulate(open_source(sys.argv[1], batch_size=50), checkpoint=sys.argv[2], resume=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, stored, kept], check=False)
    assert done.returncode == -signal.SIGKILL
    assert Measurement.load(kept).count == 500
    assert len(list(tmp_path.glob(".*"))) == 1  # half a checkpoint
    (tmp_path / ".other.part.npz").touch()
    accumulate(opened(stored), checkpoint=kept, resume=True)
    assert [path.name for path in tmp_path.glob(".*")] == [".other.part.npz"]
    accumulate(opened(stored)).save(tmp_path / "whole.npz")
    assert_same_bits(tmp_path / "whole.npz", kept)


def test_ctrl_c_leaves_the_last_batch(tmp_path, stored) -> None:
    whole, kept = tmp_path / "whole.npz", tmp_path / "kept.npz"
    accumulate(opened(stored)).save(whole)
    told, code = killed_at(700, stored, kept, signal.SIGINT)
    assert code == -signal.SIGINT  # Python ends by the signal itself after an unhandled KeyboardInterrupt
    assert Measurement.load(kept).count in (told, told + 50)
    accumulate(opened(stored), checkpoint=kept, resume=True)
    assert_same_bits(whole, kept)


def test_ctrl_c_waits_until_a_batch_is_whole(tmp_path, stored, monkeypatch) -> None:
    kept = tmp_path / "kept.npz"
    update = Moments.update
    during: list[str] = []

    def interrupted(self: Moments, batch: np.ndarray) -> None:
        if self.count == 500 and not during:
            signal.raise_signal(signal.SIGINT)
            during.append("went on")
        update(self, batch)

    monkeypatch.setattr(Moments, "update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        accumulate(opened(stored), method="dense", checkpoint=kept)
    assert during == ["went on"]
    assert Measurement.load(kept).count == 550
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
