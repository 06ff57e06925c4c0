"""Each kind of source beside arrays, images and tars: its values by another route, its parts, its faults."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import wave
import zipfile
from pathlib import Path

import numpy as np
import pytest

from eigenstep.data import Position, Source, SourceError, from_batches, open_source


def everything(source: Source) -> np.ndarray:
    return np.concatenate(list(source))


def in_parts(source: Source) -> np.ndarray:
    """The batches of the parts, after each was sent to another machine and came out of the pickle there."""
    parts = [pickle.loads(pickle.dumps(part)) for part in source.parts()]
    batches = [batch for part in parts for batch in part]
    assert [len(batch) for batch in batches] == [len(batch) for batch in source]
    return np.concatenate(batches)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


# ---------------------------------------------------------------------- arrays in files


def save(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez_compressed(path, x=array)
    elif path.suffix == ".safetensors":
        path.write_bytes(safetensors(x=array))
    else:
        torch = pytest.importorskip("torch", reason="PyTorch is never in the default environment")
        torch.save(torch.from_numpy(array), path)
    return path


def safetensors(**arrays: np.ndarray) -> bytes:
    """The format by its specification: length of the header, header, numbers."""
    import json

    header, body = {}, b""
    for name, array in arrays.items():
        kind = {"f": "F", "i": "I", "u": "U"}[array.dtype.kind] + str(8 * array.dtype.itemsize)
        content = array.tobytes()
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [len(body), len(body) + len(content)]}
        body += content
    text = json.dumps({"__metadata__": {"format": "np"}, **header}).encode()
    return len(text).to_bytes(8, "little") + text + body


SUFFIXES = ("npy", "npz", "safetensors", "pt")


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16, np.uint8])
def test_one_file_of_many_items(tmp_path, suffix: str, dtype: type) -> None:
    x = (50 * normal(11, 2, 3)).astype(dtype)
    source = open_source(save(tmp_path / f"x.{suffix}", x), batch_size=4)
    assert (source.n_items, source.item_shape, len(source.parts())) == (11, (2, 3), 3)
    assert [len(batch) for batch in source] == [4, 4, 3]
    assert everything(source).dtype == x.dtype
    np.testing.assert_array_equal(everything(source), x)
    np.testing.assert_array_equal(in_parts(source), x)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_folder_of_shards_is_their_rows_in_order(tmp_path, suffix: str) -> None:
    x = normal(13, 4, 2, 2)
    for k, rows in enumerate((x[:5], x[5:6], x[6:])):
        save(tmp_path / "deep" / f"shard-{k}.{suffix}", rows)
    source = open_source(tmp_path, batch_size=4)
    assert (source.n_items, len(source.parts())) == (13, 3)
    assert [len(batch) for batch in source] == [4, 1, 1, 4, 3]  # batches end with their shard
    np.testing.assert_array_equal(everything(source), x)
    np.testing.assert_array_equal(in_parts(source), x)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_folder_of_single_items(tmp_path, suffix: str) -> None:
    x = normal(7, 4, 2, 2)
    for k, item in enumerate(x):
        save(tmp_path / f"{k}.{suffix}", item)
    source = open_source(tmp_path, batch_size=3)
    assert (source.n_items, source.item_shape, len(source.parts())) == (7, (4, 2, 2), 3)
    np.testing.assert_array_equal(everything(source), x)
    np.testing.assert_array_equal(in_parts(source), x)
    # What the number of dimensions cannot tell is said: rows (2, 2) of shards of four.
    np.testing.assert_array_equal(everything(open_source(tmp_path, stacked=True)), x.reshape(28, 2, 2))


def test_bfloat16_is_the_upper_half_of_float32(tmp_path) -> None:
    # 1.0 is 0x3F80, -2.5 is 0xC020, 2**-126 is 0x0080 in bfloat16, by its definition.
    bits = np.array([[0x3F80, 0xC020], [0x0080, 0x0000]], np.uint16)
    content = safetensors(x=bits).replace(b'"U16"', b'"BF16"')
    content = (len(content) - 8 - bits.nbytes).to_bytes(8, "little") + content[8:]
    (tmp_path / "x.safetensors").write_bytes(content)
    expected = np.array([[1.0, -2.5], [2.0**-126, 0.0]], np.float32)
    np.testing.assert_array_equal(everything(open_source(tmp_path / "x.safetensors")), expected)
    torch = pytest.importorskip("torch", reason="PyTorch is never in the default environment")
    torch.save(torch.tensor(expected).bfloat16(), tmp_path / "x.pt")
    np.testing.assert_array_equal(everything(open_source(tmp_path / "x.pt")), expected)


def test_safetensors_as_its_own_library_writes_it(tmp_path) -> None:
    library = pytest.importorskip("safetensors.numpy", reason="its writer is an oracle, not a dependency")
    x = normal(5, 3).astype(np.float32)
    library.save_file({"latents": x, "labels": np.arange(5)}, tmp_path / "x.safetensors")
    source = open_source(tmp_path / "x.safetensors")
    assert source.description.endswith("x.safetensors[latents]")
    np.testing.assert_array_equal(everything(source), x)


@pytest.mark.parametrize("suffix", ["npy", "safetensors", "pt"])
@pytest.mark.parametrize("keep", [0.0, 0.05, 0.6])
def test_a_shard_cut_off_is_refused_by_name(tmp_path, suffix: str, keep: float) -> None:
    save(tmp_path / f"0.{suffix}", normal(100, 30))
    content = save(tmp_path / f"1.{suffix}", normal(100, 30)).read_bytes()
    (tmp_path / f"1.{suffix}").write_bytes(content[: int(keep * len(content))])
    with pytest.raises(SourceError, match=rf"1.{suffix}' is truncated, corrupt or no {suffix} file of numbers"):
        everything(open_source(tmp_path))


def test_a_header_that_promises_more_than_the_file_holds_is_refused(tmp_path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    with pytest.raises(SourceError, match="its header would have 1099511627776 bytes"):
        open_source(path)
    path.write_bytes(safetensors(x=normal(4, 4)).replace(b"[4, 4]", b"[4, 9]"))
    with pytest.raises(SourceError, match="the numbers of 'x' are not all there"):
        open_source(path)


def test_a_nan_in_one_latent_costs_that_latent(tmp_path) -> None:
    x = normal(150, 1, 2, 2)
    for k, item in enumerate(x):
        if k == 40:
            item[0, 1, 1] = np.nan
        save(tmp_path / f"{k:03d}.npy", item)
    source = open_source(tmp_path, batch_size=32)
    np.testing.assert_array_equal(everything(source), np.delete(x, 40, axis=0))
    assert [name.rpartition("/")[2] for name in source.skipped] == ["040.npy (1 NaN or infinite value)"]
    save(tmp_path / "041.npy", x[40])
    with pytest.raises(SourceError, match=r"at least 2 of 150 items are corrupt, more than 1 % \(.*040.npy \(1 NaN"):
        everything(source)


def test_latents_of_several_shapes_and_ambiguous_files_are_refused(tmp_path) -> None:
    save(tmp_path / "a" / "0.npy", normal(4, 2, 2))
    save(tmp_path / "a" / "1.npy", normal(4, 2, 3))
    with pytest.raises(SourceError, match=r"1.npy holds an array of shape \(4, 2, 3\) but .*0.npy one of \(4, 2, 2\)"):
        everything(open_source(tmp_path / "a"))
    (tmp_path / "b.safetensors").write_bytes(safetensors(mean=normal(3, 2), logvar=normal(3, 2)))
    with pytest.raises(SourceError, match=r"b.safetensors' has several largest arrays; choose one with `key`"):
        open_source(tmp_path / "b.safetensors")
    with pytest.raises(SourceError, match=r"b.safetensors' has no array 'std'; it holds: mean \(3, 2\) float64, logvar"):
        open_source(tmp_path / "b.safetensors", key="std")
    with pytest.raises(SourceError, match="is a single item if not `stacked`; pass its folder"):
        open_source(save(tmp_path / "c.npy", normal(3, 2)), stacked=False)


def test_pt_files_are_never_unpickled(tmp_path) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is never in the default environment")

    torch.save({"x": torch.ones(3, 2), "notes": Path("run")}, tmp_path / "x.pt")
    with pytest.raises(SourceError, match="it holds more than tensors, and other objects are never loaded"):
        open_source(tmp_path / "x.pt")
    torch.save({"latents": torch.arange(6.0).reshape(3, 2), "step": 7}, tmp_path / "y.pt")
    assert everything(open_source(tmp_path / "y.pt")).tolist() == [[0, 1], [2, 3], [4, 5]]
    torch.save([torch.zeros(2), torch.ones(2)], tmp_path / "z.pt")
    assert everything(open_source(tmp_path / "z.pt")).tolist() == [[0, 0], [1, 1]]


def test_the_range_of_latents_is_stated_or_detected_and_held_to(tmp_path) -> None:
    for k in range(80):
        save(tmp_path / f"{k:02d}.npy", np.array([k / 100]))
    source = open_source(tmp_path, value_range="-1,1")
    assert source.value_range == "[-1, 1] from float64 [0, 1], the range detected"
    np.testing.assert_allclose(everything(source)[:, 0], np.arange(80) / 50 - 1, atol=1e-15)  # one rounding
    save(tmp_path / "79.npy", np.array([-0.5]))  # 64 are looked at
    with pytest.raises(SourceError, match=r"values from -0.5 to 0.78 lie outside \[0, 1\], .* state .* `stored_range`"):
        everything(open_source(tmp_path, value_range="-1,1"))
    stated = everything(open_source(tmp_path, value_range="0,1", stored_range="-2,2"))
    assert stated[[0, 79], 0].tolist() == [0.5, 0.375]
    with pytest.raises(ValueError, match="`stored_range` must be two numbers such as '0,4095', got '12 bits'"):
        open_source(tmp_path, stored_range="12 bits")
    with pytest.raises(ValueError, match="`stored_range` must rise, got '1,0'"):
        open_source(tmp_path, stored_range="1,0")


# ---------------------------------------------------------------------- HDF5 and zarr


@pytest.mark.parametrize("chunk", [None, 3, 100])
def test_hdf5(tmp_path, chunk: int | None) -> None:
    h5py = pytest.importorskip("h5py", reason="an optional format")
    x = normal(17, 2, 3)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("a/latents", data=x, chunks=None if chunk is None else (min(chunk, 17), 2, 3))
        file["labels"] = np.arange(17)
    source = open_source(tmp_path / "x.h5", batch_size=4)
    assert (source.n_items, source.item_shape, source.description[-10:]) == (17, (2, 3), "[a/latents]"[-10:])
    np.testing.assert_array_equal(everything(source), x)
    np.testing.assert_array_equal(in_parts(source), x)
    np.testing.assert_array_equal(everything(open_source(tmp_path / "x.h5", key="labels")), np.arange(17))
    content = (tmp_path / "x.h5").read_bytes()
    (tmp_path / "x.h5").write_bytes(content[: len(content) // 2])
    with pytest.raises(SourceError, match=r"x.h5' is truncated, corrupt or no HDF5 file"):
        open_source(tmp_path / "x.h5")


@pytest.mark.parametrize("chunk", [3, 100])
def test_zarr(tmp_path, chunk: int) -> None:
    zarr = pytest.importorskip("zarr", minversion="3", reason="an optional format")
    x = normal(17, 2, 3).astype(np.float32)
    array = zarr.create_array(tmp_path / "x.zarr", shape=x.shape, chunks=(min(chunk, 17), 2, 3), dtype=x.dtype)
    array[:] = x
    source = open_source(tmp_path / "x.zarr", batch_size=4)
    assert (source.n_items, source.name) == (17, "x")
    np.testing.assert_array_equal(everything(source), x)
    np.testing.assert_array_equal(in_parts(source), x)
    group = zarr.open_group(tmp_path / "g.zarr", mode="w")
    group.create_array("small", data=x[:2])
    group.create_group("deep").create_array("large", data=x)
    np.testing.assert_array_equal(everything(open_source(f"file://{tmp_path}/x.zarr")), x)
    assert open_source(tmp_path / "g.zarr").description.endswith("g.zarr[deep/large]")
    np.testing.assert_array_equal(everything(open_source(tmp_path / "g.zarr", key="small")), x[:2])


def test_chunks_are_read_once_whatever_the_batch() -> None:
    from eigenstep.data.stores import Chunked

    class Counting:
        def __init__(self, x: np.ndarray, chunks: tuple[int, ...]) -> None:
            self.x, self.chunks, self.shape, self.dtype, self.reads = x, chunks, x.shape, x.dtype, 0

        def __getitem__(self, rows: slice) -> np.ndarray:
            self.reads += 1
            return self.x[rows]

    stored = Counting(normal(100, 2), (30, 2))
    rows = Chunked(stored)
    np.testing.assert_array_equal(np.concatenate([rows[k : k + 7] for k in range(0, 100, 7)]), stored.x)
    assert stored.reads == 4


# ---------------------------------------------------------------------- sound


def wav(path: Path, samples: np.ndarray, *, rate: int = 8000, width: int = 2) -> Path:
    """Integer samples (n,) or (n, channels) as a wav file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    channels = samples if samples.ndim == 2 else samples[:, None]
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(channels.shape[1])
        sound.setsampwidth(width)
        sound.setframerate(rate)
        unsigned = 128 if width == 1 else 0
        sound.writeframes(b"".join(int(v + unsigned).to_bytes(width, "little", signed=width > 1) for v in channels.ravel()))
    return path


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_wav_of_every_width_is_full_scale_at_one(tmp_path, width: int) -> None:
    full = 2 ** (8 * width - 1)
    levels = np.array([-full, full - 1, 0, 1, -1, full // 2])
    wav(tmp_path / "a.wav", levels, width=width)
    source = open_source(tmp_path)
    assert source.item_shape == (1, 6)
    assert source.value_range == "[-1, 1] from audio full scale [-1, 1]"
    np.testing.assert_array_equal(everything(source)[0, 0], levels / full)  # powers of two divide exactly
    soundfile = pytest.importorskip("soundfile", reason="an oracle for the wav reader")
    heard, rate = soundfile.read(tmp_path / "a.wav")
    np.testing.assert_array_equal(heard, levels / full)
    assert rate == 8000


def test_sound_is_cut_in_the_middle_and_padded_at_the_end(tmp_path) -> None:
    wav(tmp_path / "long.wav", np.arange(10) * 256)
    wav(tmp_path / "short.wav", np.array([256, 512]))
    source = open_source(tmp_path, length=4)
    assert everything(source)[:, 0].tolist() == [[k / 128 for k in (3, 4, 5, 6)], [1 / 128, 2 / 128, 0, 0]]
    assert source.description.endswith(", 4 samples at 8000 Hz, 1 channel")
    with pytest.raises(SourceError, match=r"short.wav has 2 samples but .*long.wav has 10; pass `length`"):
        everything(open_source(tmp_path))


def test_channels_and_rates_are_not_mixed_unasked(tmp_path) -> None:
    wav(tmp_path / "a.wav", np.array([[256, 768], [512, 512]]))
    wav(tmp_path / "b.wav", np.array([256, 512]))
    with pytest.raises(SourceError, match=r"b.wav has 1 channel but .*a.wav has 2 channels; pass `mono` True"):
        everything(open_source(tmp_path))
    assert everything(open_source(tmp_path, mono=True)).tolist() == [[[2 / 128, 2 / 128]], [[1 / 128, 2 / 128]]]
    wav(tmp_path / "c.wav", np.array([256, 512]), rate=16000)
    with pytest.raises(SourceError, match=r"c.wav has 16000 samples a second but .*a.wav has 8000; pass `rate`"):
        everything(open_source(tmp_path, mono=True))


def test_resampling_keeps_a_slow_wave(tmp_path) -> None:
    t = np.arange(8000) / 8000
    wav(tmp_path / "a.wav", np.round(30000 * np.sin(2 * np.pi * 440 * t)).astype(int))
    (clip,) = everything(open_source(tmp_path, rate=12000, length=6000))[:, 0]
    # The middle half second of the second: 440 Hz has 220 whole periods in it, at 12 kHz.
    expected = 30000 / 32768 * np.sin(2 * np.pi * 440 * (np.arange(6000) + 3000) / 12000)
    np.testing.assert_allclose(clip, expected, atol=2e-3)  # ripple of resample_poly's filter in its pass band


def test_damaged_sound_is_skipped_with_the_reason(tmp_path) -> None:
    for k in range(400):
        wav(tmp_path / f"{k:03d}.wav", np.array([k, 0, -k]))
    whole = (tmp_path / "007.wav").read_bytes()
    (tmp_path / "007.wav").write_bytes(whole[:-2])
    (tmp_path / "008.wav").write_bytes(b"")
    (tmp_path / "009.wav").write_bytes(b"no sound at all")
    wav(tmp_path / "010.wav", np.array([]))
    source = open_source(tmp_path, workers=1)
    assert len(everything(source)) == 396
    reasons = [name.partition("(")[2] for name in source.skipped]
    assert reasons == [
        "it is cut off: 2 of 3 samples are there)",
        "it ends in its header)",
        "file does not start with RIFF id)",
        "it has no samples)",
    ]


def test_flac_and_float_wav_by_soundfile(tmp_path) -> None:
    soundfile = pytest.importorskip("soundfile", reason="an optional format")
    samples = np.round(normal(50, 2) * 3000).clip(-32768, 32767) / 32768
    soundfile.write(tmp_path / "a.flac", samples, 8000, subtype="PCM_16")
    soundfile.write(tmp_path / "b.wav", samples, 8000, subtype="DOUBLE")
    a, b = everything(open_source(tmp_path))
    np.testing.assert_array_equal(a, samples.T)
    np.testing.assert_array_equal(b, samples.T)
    ends = everything(open_source(tmp_path, length=10))
    np.testing.assert_array_equal(ends, np.stack([samples.T[:, 20:30]] * 2))
    content = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(content[:20])
    with pytest.raises(SourceError, match=r"all of its 1 items are corrupt \(.*a.flac"):
        open_source([tmp_path / "a.flac"])


# ---------------------------------------------------------------------- Hugging Face


def test_hugging_face_images_saved_tabled_and_streamed(tmp_path) -> None:
    library = pytest.importorskip("datasets", reason="an optional library")
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (10, 4, 5, 3), dtype=np.uint8)
    features = library.Features({"photo": library.Image(), "label": library.Value("int64")})
    rows = {"photo": [image.fromarray(item) for item in pixels], "label": list(range(10))}
    dataset = library.Dataset.from_dict(rows, features=features)
    expected = pixels.transpose(0, 3, 1, 2) / 127.5 - 1
    dataset.save_to_disk(tmp_path / "saved")
    library.DatasetDict({"train": dataset, "test": dataset.select([3, 4])}).save_to_disk(tmp_path / "splits")
    for k in range(2):
        dataset.select(range(5 * k, 5 * k + 5)).to_parquet(tmp_path / "tables" / f"{k}.parquet")
    streamed = library.load_dataset("parquet", data_files=[str(tmp_path / "tables" / f"{k}.parquet") for k in (0, 1)],
                                    split="train", streaming=True)  # fmt: skip
    arrow = tmp_path / "saved" / "data-00000-of-00001.arrow"
    known, unknown = (tmp_path / "saved", tmp_path / "splits"), (arrow, tmp_path / "tables", streamed)
    for place, n in [(place, 10) for place in known] + [(place, None) for place in unknown]:
        source = open_source(place, batch_size=3)
        assert (source.n_items, source.item_shape) == (n, (3, 4, 5))
        np.testing.assert_allclose(everything(source), expected, atol=1e-15)  # one rounding
        np.testing.assert_allclose(in_parts(source), expected, atol=1e-15)
    test = open_source(tmp_path / "splits", key="test/photo")
    np.testing.assert_allclose(everything(test), expected[[3, 4]], atol=1e-15)
    with pytest.raises(SourceError, match=r"has no split 'dev'; name one by `key`, 'split/column': train, test"):
        open_source(tmp_path / "splits", key="dev/photo")
    with pytest.raises(SourceError, match=r"has no column 'picture'; it has: photo \(.*\), label \(int64\)"):
        open_source(dataset, key="picture")


def test_hugging_face_numbers(tmp_path) -> None:
    library = pytest.importorskip("datasets", reason="an optional library")
    x = normal(10, 2, 3).astype(np.float32)
    features = library.Features({"latent": library.Array2D((2, 3), "float32"), "label": library.Value("int64")})
    dataset = library.Dataset.from_dict({"latent": x.tolist(), "label": list(range(10))}, features=features)
    for place in (dataset, dataset.to_iterable_dataset(num_shards=3)):
        source = open_source(place, batch_size=4)
        assert source.item_shape == (2, 3)
        np.testing.assert_array_equal(everything(source), x)
        np.testing.assert_array_equal(in_parts(source), x)
    ragged = library.Dataset.from_dict({"clip": [[1.0, 2.0], [1.0]]})
    with pytest.raises(SourceError, match="the column 'clip' holds arrays of several shapes"):
        everything(open_source(ragged))
    table = tmp_path / "a.parquet"
    dataset.to_parquet(table)
    table.write_bytes(table.read_bytes()[:-30])
    with pytest.raises(SourceError, match=r"a.parquet' is truncated, corrupt or no parquet file"):
        open_source(table)


# ---------------------------------------------------------------------- URLs


def test_urls(tmp_path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="only URLs need it")
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (6, 4, 5, 3), dtype=np.uint8)
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive, tarfile.open(tmp_path / "in.tar", "w") as tar:
        for k, item in enumerate(pixels):
            stream = io.BytesIO()
            image.fromarray(item).save(stream, "PNG")
            memory.pipe(f"/photos/deep/{k}.png", stream.getvalue())
            archive.writestr(f"photos/{k}.png", stream.getvalue())
            info = tarfile.TarInfo(f"{k}.png")
            info.size = len(stream.getvalue())
            tar.addfile(info, io.BytesIO(stream.getvalue()))
            (tmp_path / "photos").mkdir(exist_ok=True)
            (tmp_path / "photos" / f"{k}.png").write_bytes(stream.getvalue())
    memory.pipe("/in.tar", (tmp_path / "in.tar").read_bytes())
    places = ["memory://photos", "memory://photos/**/*.png", f"file://{tmp_path}/photos", f"zip://photos::{tmp_path}/in.zip",
              f"zip://photos/*.png::file://{tmp_path}/in.zip", "memory://in.tar", f"file://{tmp_path}/in.tar"]  # fmt: skip
    for place in places:
        source = open_source(place, batch_size=4)
        np.testing.assert_allclose(everything(source), pixels.transpose(0, 3, 1, 2) / 127.5 - 1, atol=1e-15)
        np.testing.assert_allclose(in_parts(source), everything(source), atol=0)
        assert source.name in ("photos", "in", "**", "*")
    # Another process has another memory: nothing is started for it.
    assert open_source("memory://photos", workers=2).workers == 1
    with pytest.raises(SourceError, match="there is no file or folder 'memory://absent'"):
        open_source("memory://absent")
    with pytest.raises(SourceError, match=r"'memory://a/\*\*.png' is no pattern that can be searched for"):
        open_source("memory://a/**.png")
    with pytest.raises(SourceError, match=r"'nosuch://x' cannot be opened \(Protocol not known: nosuch\)"):
        open_source("nosuch://x")


@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors"])
def test_far_arrays_are_read_row_by_row(tmp_path, suffix: str) -> None:
    fsspec = pytest.importorskip("fsspec", reason="only URLs need it")
    x = normal(10, 2, 3)
    memory = fsspec.filesystem("memory")
    memory.pipe(f"/x.{suffix}", save(tmp_path / f"x.{suffix}", x).read_bytes())
    source = open_source(f"memory://x.{suffix}", batch_size=4)
    np.testing.assert_array_equal(everything(source), x)
    np.testing.assert_array_equal(in_parts(source), x)
    memory.pipe(f"/x.{suffix}", (tmp_path / f"x.{suffix}").read_bytes()[:-100])
    with pytest.raises(SourceError, match=r"x.\w+' is truncated"):
        everything(source)


def test_hdf5_and_zarr_by_url(tmp_path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="only URLs need it")
    h5py = pytest.importorskip("h5py", reason="an optional format")
    x = normal(10, 2)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = x
    fsspec.filesystem("memory").pipe("/x.h5", (tmp_path / "x.h5").read_bytes())
    np.testing.assert_array_equal(everything(open_source("memory://x.h5")), x)


# ---------------------------------------------------------------------- kinds, places, positions


def test_a_folder_of_several_kinds_is_not_guessed_at(tmp_path) -> None:
    wav(tmp_path / "a.wav", np.array([1, 2]))
    save(tmp_path / "b.npy", normal(3))
    with pytest.raises(SourceError, match="holds 1 of kind 'audio' and 1 of kind 'tensors'; choose with `kind`"):
        open_source(tmp_path)
    assert open_source(tmp_path, kind="audio").item_shape == (1, 2)
    assert open_source(tmp_path, kind="tensors").item_shape == (3,)
    with pytest.raises(SourceError, match="holds no files of kind 'images'"):
        open_source(tmp_path, kind="images")
    with pytest.raises(ValueError, match="`kind` must be one of array, digits, "):
        open_source(tmp_path, kind="picture")


def photographs(folder: Path, n: int) -> Path:
    image = pytest.importorskip("PIL.Image")
    folder.mkdir(parents=True, exist_ok=True)
    for k, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (n, 3, 4, 3), dtype=np.uint8)):
        image.fromarray(pixels).save(folder / f"{k:03d}.png")
    return folder


def many(kind: str, folder: Path) -> object:
    """What `open_source` reads 150 items of some kind from, the 71st one damaged where items have files of their own."""
    x = normal(150, 1, 2, 2)
    if kind == "array":
        return x
    if kind == "npy":
        return save(folder / "x.npy", x)
    if kind == "latents":
        for k, item in enumerate(x):
            save(folder / f"{k:03d}.npy", item)
        (folder / "070.npy").write_bytes(b"")
        return folder
    if kind == "stream":
        library = pytest.importorskip("datasets", reason="an optional library")
        features = library.Features({"x": library.Array3D((1, 2, 2), "float64")})
        return library.Dataset.from_dict({"x": x.tolist()}, features=features).to_iterable_dataset(num_shards=2)
    names = sorted(photographs(folder / "photos", 150).iterdir())
    if kind == "images":
        names[70].write_bytes(b"")
        return folder / "photos"
    if kind == "tars":
        for which in (0, 1):
            with tarfile.open(folder / f"{which}.tar", "w") as tar:
                for name in names[which * 90 : 90 + which * 60]:
                    tar.add(name, name.name)
        return str(folder / "*.tar")
    library = pytest.importorskip("datasets", reason="an optional library")
    return library.Dataset.from_dict({"photo": list(map(str, names))}).cast_column("photo", library.Image())


@pytest.mark.parametrize("parts", [1, 256])
@pytest.mark.parametrize("kind", ["array", "npy", "latents", "images", "tars", "dataset", "stream"])
def test_any_position_goes_on_with_the_same_batches(tmp_path, monkeypatch, kind: str, parts: int) -> None:
    # With one part, pieces are cut by batches alone; with many, by parts.
    monkeypatch.setattr("eigenstep.data.readers.PARTS", parts)
    place = many(kind, tmp_path)
    source = open_source(place, batch_size=40 if parts == 1 else 8, workers=None if kind in ("array", "npy", "stream") else 1)
    whole, positions = [], [Position()]
    for batch in source:
        whole.append(batch)
        positions.append(source.position)
    given, lost = positions[-1].given, list(positions[-1].skipped)
    assert (given + len(lost), sum(map(len, whole))) == (150, given)
    assert len(lost) == (kind in ("latents", "images"))
    if parts == 1 and kind not in ("tars", "stream"):  # those have two parts
        assert [len(batch) for batch in whole] == [40, 40 - len(lost), 40, 30]
    for k, position in enumerate(positions):
        rest = list(source.batches(after=position))
        assert [batch.tolist() for batch in rest] == [batch.tolist() for batch in whole[k:]]
        assert source.skipped == lost  # what was skipped before the pause is remembered


@pytest.mark.parametrize("sizes", [[10], [1] * 10, [3, 4, 3], [7, 3]])
def test_a_callers_arrays_are_cut_at_multiples_of_the_batch(sizes: list[int]) -> None:
    x = normal(10, 2)
    cuts = np.cumsum(sizes)[:-1]
    source = from_batches(lambda: iter(np.split(x, cuts)), description="mine", batch_size=4)
    assert [len(batch) for batch in source] == [4, 4, 2]
    np.testing.assert_array_equal(everything(source), x)
    np.testing.assert_array_equal(np.concatenate(list(source.batches(after=Position(0, 4, 4)))), x[4:])
    with pytest.raises(SourceError, match="none: there is nothing in it to read"):
        from_batches(lambda: iter([]), description="none")


def test_the_stamp_follows_the_files(tmp_path) -> None:
    path = save(tmp_path / "a" / "0.npy", normal(1, 2, 2))
    save(tmp_path / "a" / "1.npy", normal(1, 2, 2))
    stamp = open_source(tmp_path / "a").stamp()
    assert open_source(tmp_path / "a").stamp() == stamp
    assert open_source(tmp_path / "a", batch_size=1).stamp() != stamp
    assert open_source(tmp_path / "a", scale=2.0).stamp() != stamp
    os.utime(path, ns=(1, 1))
    assert open_source(tmp_path / "a").stamp() != stamp


def test_many_names_are_packed_and_cut() -> None:
    from eigenstep.data.files import Names

    names = [f"folder/{k:07d} – é\udcff.png" for k in range(5000)]
    packed = Names.of(names)
    assert list(packed) == names
    assert list(packed.since(3000)) == names[3000:]
    assert [name for part in packed.split(1500) for name in part] == names
    assert [len(part) for part in packed.split(1500)] == [1500, 1500, 1500, 500]
    assert sum(map(len, packed.packs)) < sum(map(len, names)) / 4
