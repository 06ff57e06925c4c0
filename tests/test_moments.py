"""Moments: numpy's covariance to 1e-10 whatever the batching, mergers in any order, checkpoints bit for bit."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eigenstep.moments import Moments
from eigenstep.spectrum import RankWarning, Spectrum


def data(n: int = 700, dim: int = 6, *, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, dim)) @ rng.standard_normal((dim, dim)) + 5 * rng.random(dim)


def fed(batches: list[np.ndarray], **options: str) -> Moments:
    moments = Moments(batches[0].shape[1:], **options)
    for batch in batches:
        moments.update(batch)
    return moments


def cuts(x: np.ndarray, places: list[int]) -> list[np.ndarray]:
    return [part for part in np.split(x, sorted(places)) if len(part)]


# ---------------------------------------------------------------------- update


@settings(max_examples=50, deadline=None)
@given(places=st.lists(st.integers(0, 300), max_size=12), seed=st.integers(0, 50), offset=st.sampled_from([0, 1e3]))
def test_any_batching_agrees_with_numpy(places: list[int], seed: int, offset: float) -> None:
    x = data(300, 4, seed=seed) + offset
    moments = fed(cuts(x, places))
    assert moments.count == 300
    np.testing.assert_allclose(moments.mean, x.mean(axis=0), rtol=1e-13)
    scale = np.sqrt(np.outer(*[np.var(x, axis=0)] * 2))
    # The promise is 1e-10 relative to sqrt(S_ii S_jj): an entry may vanish by chance, its rounding does not.
    np.testing.assert_allclose(moments.covariance() / scale, np.cov(x.T) / scale, rtol=0, atol=1e-10)


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_batching_changes_no_bit(precision: str) -> None:
    x = data(9000, 5).astype(np.float32)  # more than two blocks
    whole = fed([x], precision=precision)
    for batch in (1, 37, 4096, 5000):
        parts = fed([x[start : start + batch] for start in range(0, len(x), batch)], precision=precision)
        np.testing.assert_array_equal(parts.covariance(), whole.covariance())
        np.testing.assert_array_equal(parts.mean, whole.mean)


@pytest.mark.parametrize("mean", [1e8, -1e12])
def test_a_huge_mean_costs_nothing(mean: float) -> None:
    # Integers around the mean are exact in float64, so the covariance is known exactly: that of the integers.
    rng = np.random.default_rng(4)
    small = rng.integers(-50, 50, (5000, 3)).astype(np.float64)
    moments = fed(np.array_split(small + mean, 7))
    np.testing.assert_allclose(moments.covariance(), np.cov(small.T), rtol=1e-10)
    naive = (small + mean).T @ (small + mean) / 4999 - np.outer(*[(small + mean).mean(0)] * 2) * 5000 / 4999
    assert np.abs(naive / np.cov(small.T) - 1).max() > 1e-3  # the test is hard enough to fail


def test_a_query_in_the_middle_changes_rounding_only() -> None:
    x = data(500)
    moments = fed([x[:100]])
    moments.covariance()
    moments.update(x[100:])
    np.testing.assert_allclose(moments.covariance(), np.cov(x.T), rtol=1e-11)


@pytest.mark.parametrize("first", [0.0, 1e9])
def test_a_first_item_far_off_does_no_harm(first: float) -> None:
    x = data(6000, 3)
    x[0] = first
    # With an outlier of 1e9 the covariance is 1e14 everywhere: relative to that.
    np.testing.assert_allclose(fed(np.array_split(x, 5)).covariance(), np.cov(x.T), rtol=1e-10)


def test_integers_and_item_shapes() -> None:
    x = np.random.default_rng(1).integers(0, 256, (400, 2, 3), dtype=np.uint8)
    moments = Moments((2, 3))
    moments.update(x)
    np.testing.assert_allclose(moments.covariance(), np.cov(x.reshape(400, 6).T), rtol=1e-10)
    np.testing.assert_allclose(moments.mean, x.mean(axis=0), rtol=1e-14)
    assert (moments.dim, moments.item_shape, moments.mean.shape) == (6, (2, 3), (2, 3))
    assert repr(moments) == "Moments(item_shape=(2, 3), count=400, precision='float64')"


def test_by_hand() -> None:
    moments = Moments(2)
    moments.update([[1, 0], [3, 0]])
    moments.update([[2, 3]])
    # Mean (2, 1); deviations (-1, -1), (1, -1), (0, 2): sums of products 2, 0, 6 over n - 1 = 2.
    assert moments.mean.tolist() == [2.0, 1.0]
    np.testing.assert_allclose(moments.covariance(), [[1.0, 0.0], [0.0, 3.0]], atol=1e-15)


# ---------------------------------------------------------------------- merge


@settings(max_examples=50, deadline=None)
@given(
    places=st.lists(st.integers(1, 299), min_size=1, max_size=6),
    order=st.randoms(use_true_random=False),
    offset=st.sampled_from([0.0, 1e6]),
)
def test_merging_in_any_order_agrees_with_one_stream(places: list[int], order, offset: float) -> None:
    x = data(300, 4, seed=2)
    x[150:] += 3.0  # parts of different means
    parts = [fed([part + offset]) for part in cuts(x, places)]
    order.shuffle(parts)
    merged = Moments(4)
    for part in parts:
        merged.merge(part)
    assert merged.count == 300
    np.testing.assert_allclose(merged.mean - offset, x.mean(axis=0), atol=1e-15 * (10 + 10 * offset))
    # An offset of 1e6 rounds the data themselves by 1e-10.
    np.testing.assert_allclose(merged.covariance(), np.cov(x.T), rtol=1e-10 if offset == 0 else 1e-8)


def test_merged_moments_go_on() -> None:
    x = data(900)
    a, b = fed([x[:200]]), fed([x[200:500]])
    a.merge(b)
    a.update(x[500:])
    np.testing.assert_allclose(a.covariance(), np.cov(x.T), rtol=1e-11)
    np.testing.assert_allclose(b.covariance(), np.cov(x[200:500].T), rtol=1e-11)  # the other is left as it was


def test_an_empty_part_changes_nothing_and_takes_all() -> None:
    x = data(50)
    a, empty = fed([x]), Moments(6)
    before = a.covariance()
    a.merge(empty)
    np.testing.assert_array_equal(a.covariance(), before)
    empty.merge(a)
    np.testing.assert_array_equal(empty.covariance(), before)


def test_merging_with_itself_doubles_the_data() -> None:
    x = data(50)
    a = fed([x])
    a.merge(a)
    np.testing.assert_allclose(a.covariance(), np.cov(np.concatenate((x, x)).T), rtol=1e-12)


def test_float32_parts_of_far_means() -> None:
    x = data(400, 3)
    far = x + 1e6
    a, b = fed([x], precision="float32"), fed([far], precision="float32")
    # The first item is taken away in float64, before anything is rounded to float32.
    np.testing.assert_allclose(b.covariance(), np.cov(x.T), rtol=1e-5, atol=1e-6)
    a.merge(b)
    # float32 keeps 0.06 of a value of 1e6; between the parts lies 1e6, exactly known.
    np.testing.assert_allclose(a.covariance(), np.cov(np.concatenate((x, far)).T), rtol=1e-7)


# ---------------------------------------------------------------------- spectrum


def test_spectrum_is_that_of_the_samples() -> None:
    x = data(800, 40)
    moments = fed(np.array_split(x.reshape(800, 5, 8), 3))
    spectrum = moments.spectrum(provenance={"source": "test"})
    direct = Spectrum.from_samples(x)
    np.testing.assert_allclose(spectrum.eigenvalues, direct.eigenvalues, rtol=1e-10)
    np.testing.assert_allclose(spectrum.mean_energy, direct.mean_energy, rtol=1e-6, atol=1e-9)  # by gaps, see above
    assert (spectrum.n_samples, spectrum.item_shape, spectrum.provenance) == (800, (5, 8), {"source": "test"})


def test_few_items_warn_and_agree_with_the_gram_route() -> None:
    x = data(12, 20)
    moments = fed([x])
    with pytest.warns(RankWarning, match="12 samples of 20 dimensions give a covariance of rank 11"):
        spectrum = moments.spectrum()
    with pytest.warns(RankWarning):
        direct = Spectrum.from_samples(x)
    np.testing.assert_allclose(spectrum.eigenvalues[:11], direct.eigenvalues[:11], rtol=1e-10)
    np.testing.assert_allclose(spectrum.mean_energy[:11], direct.mean_energy[:11], rtol=1e-8)
    assert (spectrum.rank, direct.rank) == (11, 11)
    assert spectrum.mean_energy[11:].sum() == pytest.approx(direct.mean_energy[11:].sum(), rel=1e-9)


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        (np.ones((2, 3)), ValueError, r"`batch` must have shape \(m, 2\), got \(2, 3\)"),
        (np.ones(2), ValueError, r"`batch` must have shape \(m, 2\), got \(2,\); pass one item as batch\[None\]"),
        (np.ones((0, 2)), ValueError, r"`batch` must hold at least one item"),
        ([[1.0, 2.0], [np.nan, np.inf]], ValueError, r"got 2 NaN or infinite values in 1 item, the first in item 6;"),
        (np.ones((2, 2)) * 1j, TypeError, r"`batch` must hold real numbers"),
    ],
)
def test_update_refuses_and_stays_as_it_was(batch: object, error: type[Exception], message: str) -> None:
    moments = fed([np.arange(10.0).reshape(5, 2)])
    with pytest.raises(error, match=message):
        moments.update(batch)
    assert moments.count == 5
    np.testing.assert_allclose(moments.covariance(), np.full((2, 2), 10.0), rtol=1e-15)


def test_float32_sums_refuse_what_they_cannot_hold() -> None:
    moments = fed([np.ones((2, 2))], precision="float32")
    with pytest.raises(ValueError, match=r"values up to 1e\+38 are too large for float32 sums; use precision="):
        moments.update([[0.0, -1e38]])
    assert moments.count == 2


def test_other_refusals() -> None:
    with pytest.raises(ValueError, match=r"`other` must hold items of shape \(2,\), got \(3,\)"):
        Moments(2).merge(Moments(3))
    with pytest.raises(TypeError, match=r"`other` must be a Moments, got list"):
        Moments(2).merge([1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`Moments` needs at least 1 item for this, got 0"):
        _ = Moments(2).mean
    with pytest.raises(ValueError, match=r"`Moments` needs at least 2 items for this, got 1"):
        fed([np.ones((1, 2))]).covariance()
    with pytest.raises(ValueError, match=r"`Moments` needs at least 2 items for this, got 1"):
        fed([np.ones((1, 2))]).spectrum()
    with pytest.raises(ValueError, match=r"The data are constant: all 4 items are equal"):
        fed([np.full((4, 2), 0.1)]).spectrum()
    with pytest.raises(ValueError, match=r"`item_shape` must be at least 1, got 0"):
        Moments((3, 0))
    with pytest.raises(TypeError, match=r"`item_shape` must be an integer"):
        Moments(2.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`precision` must be one of float64, float32"):
        Moments(2, precision="auto")


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("at", [0, 1, 300, 4096, 5000])
def test_a_resumed_stream_ends_with_the_same_bits(tmp_path, precision: str, at: int) -> None:
    x = data(9000, 5)
    whole = fed([x], precision=precision)
    half = Moments(5, precision=precision)
    if at:
        half.update(x[:at])
    half.save(tmp_path / "half.npz")
    resumed = Moments.load(tmp_path / "half.npz")
    assert (resumed.count, resumed.precision, resumed.item_shape) == (at, precision, (5,))
    resumed.update(x[at:])
    np.testing.assert_array_equal(resumed.covariance(), whole.covariance())
    np.testing.assert_array_equal(resumed.mean, whole.mean)


@pytest.mark.parametrize("keep", [0.0, 0.5, 0.95])
def test_truncated_files_are_refused(tmp_path, keep: float) -> None:
    path = tmp_path / "moments.npz"
    fed([data()]).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ValueError, match="is truncated, corrupt or no moments file"):
        Moments.load(path)


def _rewritten(path, **changes: object) -> None:
    with np.load(path) as archive:
        arrays = {**dict(archive), **changes}
    np.savez(path, **arrays)


def test_foreign_newer_and_altered_files_are_refused(tmp_path) -> None:
    path = tmp_path / "moments.npz"
    fed([data()]).save(path)
    with np.load(path) as archive:
        header = str(archive["header"])
    cases = [
        ({"header": header.replace('"format_version": 1', '"format_version": 9')}, "written by a newer eigenstep"),
        ({"header": header.replace("eigenstep-moments", "eigenstep-spectrum")}, "is no eigenstep moments file"),
        ({"header": header.replace("dense", "woven")}, "its form is 'woven', not 'dense'"),
        ({"header": header.replace("[6]", "[7]")}, "arrays that do not fit 7 dimensions"),
        ({"header": header, "folded": -3}, "impossible counts -3"),
    ]
    for changes, message in cases:
        _rewritten(path, **{"folded": 0, **changes})
        with pytest.raises(ValueError, match=message):
            Moments.load(path)
    for verb in (fed([data()]).save, Moments.load):
        with pytest.raises(ValueError, match=r"`path` must end in .npz, got 'moments.json'"):
            verb("moments.json")


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch) -> None:
    path = tmp_path / "moments.npz"
    moments = fed([data(50)])
    moments.save(path)
    before = path.read_bytes()
    moments.update(data(50, seed=9))

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"No space left on device.*unchanged"):
            moments.save(path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["moments.npz"]
