"""Sources: the values that come out, what is skipped and what is refused, and real data where it is at hand."""

from __future__ import annotations

import io
import os
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eigenstep.data import SOURCES, Options, Source, SourceError, SourceKind, from_batches, measure, open_source
from eigenstep.spectrum import RankWarning, Spectrum

Image = pytest.importorskip("PIL.Image")

SHARED = Path(os.environ.get("EIGENSTEP_SHARED", Path(__file__).parents[2] / "shared")) / "data"
shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data; set EIGENSTEP_SHARED to its folder")


def pictures(n: int, size: tuple[int, int] = (4, 5), *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, *size, 3), dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


def folder_of(path: Path, images: np.ndarray) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    for k, image in enumerate(images):
        (path / f"{k:04d}.png").write_bytes(encoded(image))
    return path


def tar_of(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def everything(source: Source) -> np.ndarray:
    return np.concatenate(list(source))


def as_items(images: np.ndarray) -> np.ndarray:
    """(n, h, w, 3) pixels as (n, 3, h, w) in [-1, 1], by the definition."""
    return images.transpose(0, 3, 1, 2) / 127.5 - 1


# ---------------------------------------------------------------------- arrays


def test_arrays_come_as_they_are() -> None:
    x = np.arange(12.0).reshape(6, 2)
    source = open_source(x, batch_size=4)
    assert [batch.tolist() for batch in source] == [x[:4].tolist(), x[4:].tolist()]
    assert everything(source).tolist() == x.tolist()  # as often as it is iterated
    assert (source.n_items, source.name, source.value_range) == (6, "array", "as stored (float64)")


@pytest.mark.parametrize(
    ("stored", "value_range", "expected"),
    [
        (np.array([[0, 255]], np.uint8), "-1,1", [-1.0, 1.0]),
        (np.array([[0, 255]], np.uint8), "0,1", [0.0, 1.0]),
        (np.array([[0, 255]], np.uint8), "0,255", [0.0, 255.0]),
        (np.array([[0, 255]], np.uint8), "raw", [0, 255]),
        (np.array([[-32768, 0, 16384]], np.int16), "-1,1", [-1.0, 0.0, 0.5]),
        (np.array([[0.0, 1.0]]), "-1,1", [-1.0, 1.0]),
        (np.array([[-1.0, 0.5]]), "0,1", [0.0, 0.75]),
        (np.array([[0.0, 51.0]]), "0,1", [0.0, 0.2]),
    ],
)
def test_ranges(stored: np.ndarray, value_range: str, expected: list[float]) -> None:
    # One multiplication and one addition: rounding of 1e-16.
    np.testing.assert_allclose(everything(open_source(stored, value_range=value_range))[0], expected, atol=1e-15)


def test_scale_comes_last_and_is_said() -> None:
    source = open_source(np.array([[0, 255]], np.uint8), value_range="0,1", scale=10.0)
    assert everything(source).tolist() == [[0.0, 10.0]]
    assert source.value_range == "[0, 1] from uint8 [0, 255], times 10"
    assert everything(open_source(np.array([[3.0]]), scale=0.5)).tolist() == [[1.5]]


def test_a_range_that_cannot_be_told_is_refused() -> None:
    with pytest.raises(SourceError, match=r"shape \(1, 2\), float64: it holds NaN or infinite values; remove"):
        open_source(np.array([[np.nan, 0.5]]), value_range="-1,1")
    with pytest.raises(SourceError, match=r"values from -3 to 900 are in no known range"):
        open_source(np.array([[-3.0, 900.0]]), value_range="-1,1")


def test_npy_is_mapped_and_npz_chooses_its_array(tmp_path) -> None:
    x = np.random.default_rng(0).random((7, 3))
    np.save(tmp_path / "x.npy", x)
    source = open_source(tmp_path / "x.npy")
    assert isinstance(next(iter(source)).base, np.memmap)
    np.testing.assert_array_equal(everything(source), x)

    np.savez(tmp_path / "a.npz", train=x, bigger=np.zeros((99, 3)), labels=np.arange(500))
    np.savez_compressed(tmp_path / "b.npz", small=x[:2], large=x, labels=np.arange(500), names=np.array([["a" * 99]]))
    assert open_source(tmp_path / "a.npz").description.endswith("a.npz[train]")
    assert open_source(tmp_path / "b.npz").description.endswith("b.npz[large]")
    assert open_source(tmp_path / "b.npz").name == "b"
    np.testing.assert_array_equal(everything(open_source(tmp_path / "b.npz", key="small")), x[:2])
    with pytest.raises(SourceError, match=r"has no array 'train'; it holds: small \(2, 3\) float64, large"):
        open_source(tmp_path / "b.npz", key="train")
    np.savez(tmp_path / "c.npz", labels=np.arange(5))
    with pytest.raises(SourceError, match="has no numeric array of two dimensions or more; it holds: labels"):
        open_source(tmp_path / "c.npz")


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
@pytest.mark.parametrize("keep", [0.0, 0.05, 0.6])
def test_truncated_arrays_are_refused(tmp_path, name: str, keep: float) -> None:
    x = np.random.default_rng(0).random((100, 30))
    path = tmp_path / name
    if name.endswith("npz"):
        np.savez(path, x=x)
    else:
        np.save(path, x)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(SourceError, match="is truncated, corrupt or no np"):
        open_source(path)


def test_pickles_and_text_are_refused(tmp_path) -> None:
    np.save(tmp_path / "x.npy", np.array([None]), allow_pickle=True)
    with pytest.raises(SourceError, match="corrupt or no npy file of numbers"):
        open_source(tmp_path / "x.npy")
    with pytest.raises(SourceError, match="its type <U1 is not a real number"):
        open_source(np.array(["a"]))
    with pytest.raises(SourceError, match="it holds no items"):
        open_source(np.ones((0, 3)))


# ---------------------------------------------------------------------- folders of images


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP"])
def test_a_folder_is_searched_and_sorted(tmp_path, kind: str) -> None:
    images = pictures(5)
    for k, image in zip((3, 1, 4, 0, 2), images, strict=True):
        sub = tmp_path / f"part{k % 2}"
        sub.mkdir(exist_ok=True)
        options = {"lossless": True} if kind == "WEBP" else {}
        Image.fromarray(image).save(sub / f"{k}.{kind.lower()}", kind, **options)
    (tmp_path / "part0" / "notes.txt").write_text("no image")
    (tmp_path / "part0" / ".hidden.png").write_text("no image")
    source = open_source(tmp_path, batch_size=2)
    # part0: 0, 2, 4; part1: 1, 3. Pixels are integers: exact up to one rounding.
    expected = as_items(images[[3, 4, 2, 1, 0]])
    np.testing.assert_allclose(everything(source), expected, atol=1e-15)
    assert (source.n_items, source.skipped, source.name) == (5, [], tmp_path.name)
    assert source.value_range == "[-1, 1] from pixels [0, 255]"


def test_image_ranges(tmp_path) -> None:
    images = pictures(2)
    folder = folder_of(tmp_path, images)
    raw = everything(open_source(folder, value_range="raw"))
    np.testing.assert_array_equal(raw, images.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(everything(open_source(folder, value_range="0,1")), raw / 255, atol=1e-15)


def test_gray(tmp_path) -> None:
    images = pictures(3)
    colour, gray = folder_of(tmp_path / "colour", images), tmp_path / "gray"
    folder_of(gray, images[..., 0])
    assert everything(open_source(colour, gray=True)).shape == (3, 1, 4, 5)
    np.testing.assert_allclose(everything(open_source(gray))[:, 0], images[..., 0] / 127.5 - 1, atol=1e-15)
    assert everything(open_source(gray, gray=False)).shape == (3, 3, 4, 5)
    (gray / "last.png").write_bytes(encoded(images[0]))
    with pytest.raises(SourceError, match=r"last.png is in colour but .*0000.png is gray; choose with `gray`"):
        everything(open_source(gray))
    assert everything(open_source(gray, gray=True)).shape == (4, 1, 4, 5)
    # Gray among colours loses nothing: it becomes three equal channels.
    (colour / "last.png").write_bytes(encoded(images[0, ..., 0]))
    last = everything(open_source(colour))[-1]
    np.testing.assert_array_equal(last[0], last[2])


def test_sixteen_bits_keep_their_full_scale(tmp_path) -> None:
    Image.fromarray(np.array([[0, 65535], [32768, 257]], np.uint16)).save(tmp_path / "a.png")
    assert everything(open_source(tmp_path, value_range="raw")).tolist() == [[[[0, 255], [128, 1]]]]


def test_palettes_alpha_and_animations_give_plain_pixels(tmp_path) -> None:
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 255
    Image.fromarray(red).quantize(4).save(tmp_path / "a.png")
    Image.fromarray(np.dstack((red, np.full((4, 4), 9, np.uint8)))).save(tmp_path / "b.png")
    Image.fromarray(red).save(tmp_path / "c.gif", save_all=True, append_images=[Image.fromarray(255 - red)])
    Image.fromarray(red).convert("CMYK").save(tmp_path / "d.jpg", quality=100)
    items = everything(open_source(tmp_path, value_range="raw"))
    for item in items:
        # JPEG may move a flat colour by a level or two.
        np.testing.assert_allclose(item, red.transpose(2, 0, 1), atol=3)


def test_mixed_sizes_are_refused_unless_a_size_is_given(tmp_path) -> None:
    folder_of(tmp_path / "a", pictures(2, (4, 6)))
    folder_of(tmp_path / "b", pictures(1, (8, 5)))
    with pytest.raises(SourceError, match=r"0000.png has 5x8 pixels but .*0000.png has 6x4; pass `size`"):
        everything(open_source(tmp_path))
    assert everything(open_source(tmp_path, size=3)).shape == (3, 3, 3, 3)


def test_size_keeps_the_middle(tmp_path) -> None:
    # 4 x 12: three squares, dark, bright, dark; the middle one remains.
    image = np.zeros((4, 12, 3), np.uint8)
    image[:, 4:8] = 200
    folder_of(tmp_path, image[None])
    np.testing.assert_array_equal(everything(open_source(tmp_path, size=4, value_range="raw")), 200)


def test_a_corrupt_image_is_skipped_and_counted(tmp_path) -> None:
    images = pictures(150, (3, 3))
    folder = folder_of(tmp_path, images)
    (folder / "0007.png").write_bytes(encoded(images[7])[:40])
    source = open_source(folder)
    items = everything(source)
    np.testing.assert_allclose(items, as_items(np.delete(images, 7, axis=0)), atol=1e-15)
    assert len(source.skipped) == 1
    assert "0007.png" in source.skipped[0]
    spectrum = measure(source)
    assert (spectrum.n_samples, spectrum.provenance["skipped"]) == (149, 1)
    # The second of 150 makes 1.3 %.
    (folder / "0009.png").write_bytes(b"")
    with pytest.raises(SourceError, match=r"2 of 150 items are corrupt, more than 1 % \(.*0007.png.*, .*0009.png"):
        measure(source)


def test_empty_folders_and_absent_paths_are_refused(tmp_path) -> None:
    with pytest.raises(SourceError, match=r"holds nothing that can be read; looked for \.h5"):
        open_source(tmp_path)
    with pytest.raises(SourceError, match=r"there is no file or folder '.*absent'; check the path"):
        open_source(tmp_path / "absent")
    with pytest.raises(SourceError, match=r"there is no file or folder '.*absent.npz'"):
        open_source(tmp_path / "absent.npz")
    with pytest.raises(SourceError, match="no file matches"):
        open_source(tmp_path / "*.tar")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(SourceError, match=r"notes.txt' is no source that can be read; known are: a numpy array; "):
        open_source(tmp_path / "notes.txt")
    with pytest.raises(SourceError, match="must be a path or a numpy array, got 3"):
        open_source(3)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- tars


def test_shards_in_every_spelling(tmp_path, monkeypatch) -> None:
    images = pictures(6)
    members = [
        {f"{k:03d}.png": encoded(images[k]), f"{k:03d}.cls": b"3", f"{k:03d}.seg.png": encoded(255 - images[k])}
        for k in range(6)
    ]
    tar_of(tmp_path / "s-0.tar", {**members[0], **members[1], **members[2]})
    tar_of(tmp_path / "s-1.tar", {**members[3], **members[4], **members[5]})
    one = everything(open_source(tmp_path / "s-0.tar"))
    np.testing.assert_allclose(one, as_items(images[:3]), atol=1e-15)
    listing = sorted(os.listdir(tmp_path), reverse=True)
    monkeypatch.setattr(os, "listdir", lambda path: listing)  # a folder's own order is any order
    spellings = (tmp_path, f"{tmp_path}/s-*.tar", f"{tmp_path}/s-{{0..1}}.tar", [tmp_path / "s-0.tar", tmp_path / "s-1.tar"])
    for spelling in spellings:
        source = open_source(spelling, batch_size=2)
        assert [len(batch) for batch in source] == [2, 1, 2, 1]  # batches end with their shard
        np.testing.assert_allclose(everything(source), as_items(images), atol=1e-15)
    zipped = tar_of(tmp_path / "z.tgz", {**members[5], "deep/er/a.png": encoded(images[0])})
    np.testing.assert_allclose(everything(open_source(zipped)), as_items(images[[5, 0]]), atol=1e-15)


@pytest.mark.parametrize("suffix", ["tar", "tgz"])
def test_cut_off_shards_are_refused(tmp_path, suffix: str) -> None:
    path = tar_of(tmp_path / f"s.{suffix}", {f"{k}.png": encoded(image) for k, image in enumerate(pictures(20))})
    whole = path.read_bytes()
    for keep in (0, 512, len(whole) // 2, 1024 * (len(whole) // 2048), len(whole) // 2 + 77):
        path.write_bytes(whole[:keep])
        with pytest.raises(SourceError, match=r"s.t\w+' is cut off"):
            everything(open_source(path))
    path.write_bytes(b"no tar" * 2000)
    with pytest.raises(SourceError, match="is cut off"):
        everything(open_source(path))


def test_a_tar_without_images_is_refused(tmp_path) -> None:
    path = tar_of(tmp_path / "s.tar", {"a.txt": b"hello"})
    with pytest.raises(SourceError, match=r"s.tar: there is nothing in it to read"):
        everything(open_source(path))
    with pytest.raises(SourceError, match=r"there is no file '.*other.tar'; check the path"):
        open_source([path, tmp_path / "other.tar"])


# ---------------------------------------------------------------------- options, digits, measure


def test_options_that_mean_nothing_are_refused(tmp_path) -> None:
    with pytest.raises(SourceError, match=r"`size` means nothing to a source of kind 'array', got 4"):
        open_source(np.ones((3, 2)), size=4)
    with pytest.raises(SourceError, match=r"`key` means nothing to a source of kind 'images', got 'x'"):
        open_source(folder_of(tmp_path, pictures(1)), key="x")
    with pytest.raises(ValueError, match=r"`value_range` must be one of -1,1, 0,1, 0,255, raw, got '1,1'"):
        open_source(np.ones((3, 2)), value_range="1,1")
    with pytest.raises(ValueError, match=r"`batch_size` must be at least 1, got 0"):
        open_source(np.ones((3, 2)), batch_size=0)
    with pytest.raises(ValueError, match=r"`scale` must be greater than 0, got 0"):
        open_source(np.ones((3, 2)), scale=0.0)


def test_digits() -> None:
    datasets = pytest.importorskip("sklearn.datasets")
    images = datasets.load_digits().images
    np.testing.assert_allclose(everything(open_source("digits"))[:, 0], images / 8 - 1, atol=1e-15)
    np.testing.assert_array_equal(everything(open_source("digits", value_range="raw"))[:, 0], images)


@pytest.mark.parametrize(
    ("module", "make", "message"),
    [
        ("PIL", lambda tmp: open_source(tmp), r'needs Pillow; install it with: pip install "eigenstep\[images\]"'),
        ("sklearn.datasets", lambda tmp: open_source("digits"), r'pip install "eigenstep\[digits\]"'),
    ],
)
def test_a_missing_extra_names_its_command(tmp_path, monkeypatch, module: str, make: Callable, message: str) -> None:
    folder_of(tmp_path, pictures(1))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=message):
        make(tmp_path)


def test_a_new_kind_of_source_is_one_iterator_and_one_row(monkeypatch) -> None:
    def threes(_: object, options: Options) -> Source:
        return from_batches(lambda: iter([np.eye(3)]), description="threes", batch_size=options.batch_size)

    monkeypatch.setitem(SOURCES, "threes", SourceKind(threes, recognises=lambda source: source == "threes"))
    source = open_source("threes", batch_size=2)
    assert [batch.tolist() for batch in source] == [np.eye(3)[:2].tolist(), np.eye(3)[2:].tolist()]
    assert (source.name, source.n_items, source.item_shape) == ("threes", None, (3,))


# ---------------------------------------------------------------------- the zoo again, from the data


@pytest.mark.parametrize(
    ("name", "source", "options"),
    [
        ("digits", "digits", {}),
        pytest.param("ecg", SHARED / "ecg512.npz", {"scale": 0.001}, marks=shared),
        pytest.param("mnist", SHARED / "mnist.npz", {"value_range": "-1,1"}, marks=[shared, pytest.mark.slow]),
        pytest.param("fashion-mnist", SHARED / "fashion_mnist.npz", {"value_range": "-1,1"}, marks=[shared, pytest.mark.slow]),
        pytest.param("cifar10", SHARED / "cifar10", {}, marks=[shared, pytest.mark.slow]),
        pytest.param(
            "speech",
            SHARED / "speech_digits_wave4096.npz",
            {"value_range": "-1,1"},
            marks=[shared, pytest.mark.slow, pytest.mark.filterwarnings("ignore::eigenstep.spectrum.RankWarning")],
        ),
    ],
)
def test_the_zoo_is_what_its_commands_make(name: str, source: object, options: dict) -> None:
    measured, kept = measure(open_source(source, **options)), Spectrum.from_zoo(name)
    # BLAS libraries differ in rounding, eps lambda_max of up to 1e-16 x 1e10 of the smallest; JPEG decoders may
    # differ by a level in some pixels.
    assert kept.trace == pytest.approx(measured.trace, rel=1e-4 if name == "cifar10" else 1e-9)
    assert kept.rank == pytest.approx(measured.rank, rel=1e-12)
    assert kept.mean_energy.sum() == pytest.approx(measured.mean_energy.sum(), rel=1e-4 if name == "cifar10" else 1e-9)
    assert kept.n_samples == measured.n_samples
    if kept.binning_error:
        again = measured.binned(96)
        assert again.binning_error == pytest.approx(kept.binning_error, rel=0.05)
        np.testing.assert_allclose(again.eigenvalues[:20], kept.eigenvalues[:20], rtol=1e-3)


@shared
@pytest.mark.slow
def test_speech_has_fewer_clips_than_dimensions() -> None:
    with pytest.warns(RankWarning, match="300 samples of 4096 dimensions"):
        assert measure(open_source(SHARED / "speech_digits_wave4096.npz", key="test", scale=2**-15)).rank == 299
