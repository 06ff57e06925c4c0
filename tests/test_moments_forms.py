"""What all four forms promise alike: batching, mergers, checkpoints, refusals; how "auto" chooses; Gram against dense."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest

from eigenstep.moments import (
    FORMS,
    Accumulator,
    GramMoments,
    LowRankMoments,
    Moments,
    StationaryMoments,
    load_moments,
    new_moments,
)
from eigenstep.spectrum import RankWarning, Spectrum

SHAPE = (2, 6, 8)
MAKERS = {
    "dense": Moments,
    "gram": GramMoments,
    "stationary": StationaryMoments,
    "stationary, hann": lambda shape, **options: StationaryMoments(shape, window="hann", **options),
    "low-rank": lambda shape, **options: LowRankMoments(shape, probes=40, rank=8, **options),
}
PRECISIONS = ("float64", "float32")
every_form = pytest.mark.parametrize("form", MAKERS)
every_precision = pytest.mark.parametrize("precision", PRECISIONS)


def items(n: int = 700, *, seed: int = 0, mean: float = 2.0) -> np.ndarray:
    """Smooth fields of decaying power around a mean that is not constant."""
    rng = np.random.default_rng(seed)
    dim = int(np.prod(SHAPE))
    mixing = np.linalg.qr(rng.standard_normal((dim, dim)))[0] * np.geomspace(2.0, 0.05, dim)
    return (rng.standard_normal((n, dim)) @ mixing.T + mean * rng.random(dim)).reshape(n, *SHAPE)


def fed(form: str, batches: list[np.ndarray], precision: str = "float64") -> Accumulator:
    moments = MAKERS[form](SHAPE, precision=precision)
    for batch in batches:
        moments.update(batch)
    return moments


def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a few dozen items, so that short streams fill several of them."""
    monkeypatch.setattr("eigenstep.moments.stationary._BLOCK_NUMBERS", 2**12)
    monkeypatch.setattr("eigenstep.moments.low_rank._BLOCK_NUMBERS", 2**12)
    monkeypatch.setattr("eigenstep.moments.gram._BLOCK_NUMBERS", 2**12)


def same_bits(a: Accumulator, b: Accumulator) -> None:
    np.testing.assert_array_equal(a.mean, b.mean)  # which folds in what is staged
    one, other = a._state(), b._state()
    assert one.keys() == other.keys()
    for name in one:
        # What stands above the diagonal of the dense form's products is never read.
        parts = (one[name], other[name]) if name != "products" else (np.tril(one[name]), np.tril(other[name]))
        np.testing.assert_array_equal(*parts, err_msg=name)
    if isinstance(a, LowRankMoments):
        return  # the spectrum is a function of the state, and takes a second
    one, other = a.spectrum(), b.spectrum()
    for name in ("eigenvalues", "multiplicities", "mean_energy", "mean"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


# ---------------------------------------------------------------------- batching, mergers, checkpoints


@every_form
@every_precision
def test_batching_changes_no_bit(form: str, precision: str, monkeypatch) -> None:
    small_blocks(monkeypatch)
    x = items().astype(precision)
    whole = fed(form, [x], precision)
    for batch in (1, 37, 500):
        same_bits(fed(form, [x[start : start + batch] for start in range(0, len(x), batch)], precision), whole)


@every_form
@pytest.mark.parametrize("mean", [2.0, 1e6])
def test_merging_in_any_order_agrees_with_one_stream(form: str, mean: float, monkeypatch) -> None:
    small_blocks(monkeypatch)
    x = items(300, mean=mean)
    x[150:] += 3.0  # parts of different means
    whole = fed(form, [x])
    expected = whole.spectrum()
    for order in ((0, 1, 2, 3), (3, 1, 0, 2), (2, 3, 1, 0)):
        parts = [fed(form, [part]) for part in np.split(x, [1, 90, 170])]
        merged = MAKERS[form](SHAPE)
        for place in order:
            merged.merge(parts[place])
        # ((a + b) + (c + d)) as well as (((a + b) + c) + d)
        left, right = fed(form, [x[:90]]), fed(form, [x[90:170]])
        right.merge(parts[3])
        left.merge(right)
        for result in (merged, left):
            assert result.count == 300
            np.testing.assert_allclose(result.mean, whole.mean, rtol=1e-13, atol=1e-13 * mean)
            found = result.spectrum()
            # A mean of 1e6 rounds the data themselves by 1e-10, relative to a standard deviation near 1.
            tolerance = 1e-10 if mean == 2.0 else 1e-8
            scale = float(expected.eigenvalues[0])
            if form == "low-rank":
                # Its density is the solution of a least-squares problem, which turns the last digits over.
                grid = np.geomspace(1e-3, 10, 30)[:, None] * scale
                curves = [(s.multiplicities * s.eigenvalues / (s.eigenvalues + grid)).sum(axis=1) for s in (found, expected)]
                np.testing.assert_allclose(curves[0], curves[1], rtol=1e-4)
                np.testing.assert_allclose(result._sums()["range"], whole._sums()["range"], atol=tolerance * 300 * scale)
                lower = np.tril_indices(result.probes)
                products = (result._products[lower], whole._products[lower])
                np.testing.assert_allclose(*products, atol=tolerance * 300 * scale)
            else:
                np.testing.assert_allclose(found.eigenvalues, expected.eigenvalues, atol=tolerance * scale)
                energy = float(expected.mean_energy.sum())
                np.testing.assert_allclose(found.mean_energy.sum(), energy, rtol=1e-10)


@every_form
def test_an_empty_part_changes_nothing_takes_all_and_leaves_the_other_alone(form: str) -> None:
    x = items(160)
    a, empty = fed(form, [x]), MAKERS[form](SHAPE)
    reference = fed(form, [x])
    reference._mean()
    a.merge(empty)
    same_bits(a, reference)
    empty.merge(a)
    same_bits(empty, reference)
    empty.update(x)
    assert (a.count, empty.count) == (160, 320)
    same_bits(a, reference)


@every_form
@every_precision
@pytest.mark.parametrize("at", [0, 1, 130, 699])
def test_a_resumed_stream_ends_with_the_same_bits(form: str, precision: str, at: int, tmp_path, monkeypatch) -> None:
    small_blocks(monkeypatch)
    x = items().astype(precision)
    whole = fed(form, [x], precision)
    half = MAKERS[form](SHAPE, precision=precision)
    half.reason = "because"
    if at:
        half.update(x[:at])
    half.save(tmp_path / "half.npz")
    for resumed in (load_moments(tmp_path / "half.npz"), type(half).load(tmp_path / "half.npz")):
        assert (resumed.count, resumed.options, resumed.item_shape) == (at, half.options, SHAPE)
        assert (type(resumed), resumed.reason) == (type(half), "because")
        resumed.update(x[at:])
        same_bits(resumed, whole)


@every_form
def test_damaged_and_altered_files_are_refused(form: str, tmp_path) -> None:
    path = tmp_path / "moments.npz"
    fed(form, [items(20)]).save(path)
    content = path.read_bytes()
    for keep in (0.0, 0.5, 0.95):
        path.write_bytes(content[: int(keep * len(content))])
        with pytest.raises(ValueError, match="is truncated, corrupt or no moments file"):
            load_moments(path)
    path.write_bytes(content)
    with np.load(path) as archive:
        arrays = dict(archive)
    header = str(arrays["header"])
    for changed, message in (
        (header.replace("[2, 6, 8]", "[2, 6, 9]"), "that do not fit"),
        (header.replace('"format_version": 1', '"format_version": 2'), "written by a newer eigenstep"),
        (header.replace(f'"form": "{FORMS_OF[form]}"', '"form": "woven"'), "its form is 'woven'"),
    ):
        np.savez(path, **{**arrays, "header": np.array(changed)})
        with pytest.raises(ValueError, match=message):
            load_moments(path)
    other = GramMoments if form == "dense" else Moments
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"its form is '{FORMS_OF[form]}', not '{other.form}'"):
        other.load(path)


FORMS_OF = {name: name.partition(",")[0] for name in MAKERS}


# ---------------------------------------------------------------------- refusals


@every_form
def test_refusals_leave_the_accumulator_as_it_was(form: str) -> None:
    moments = fed(form, [items(120)])
    bad = items(5)
    bad[3, 1, 2, 3] = np.nan
    with pytest.raises(ValueError, match="1 NaN or infinite value in 1 item, the first in item 123"):
        moments.update(bad)
    with pytest.raises(ValueError, match=r"`batch` must have shape \(m, 2, 6, 8\), got \(2, 6, 8\); pass one item"):
        moments.update(bad[0])
    single = fed(form, [items(20)], "float32")
    with pytest.raises(ValueError, match=r"values up to 1e\+38 are too large for float32"):
        single.update(np.full((1, *SHAPE), 1e38))
    assert (moments.count, single.count) == (120, 20)
    same_bits(moments, fed(form, [items(120)]))


@every_form
def test_mergers_refuse_other_forms_shapes_and_options(form: str) -> None:
    moments = fed(form, [items(20)])
    other = Moments(SHAPE) if form != "dense" else GramMoments(SHAPE)
    with pytest.raises(TypeError, match=f"`other` must be a {type(moments).__name__}, got {type(other).__name__}"):
        moments.merge(other)
    with pytest.raises(ValueError, match=r"`other` must hold items of shape \(2, 6, 8\), got \(3, 6, 8\)"):
        moments.merge(MAKERS[form]((3, 6, 8)))
    with pytest.raises(ValueError, match=r"`other` must have the options .*float64.*, got .*float32"):
        moments.merge(MAKERS[form](SHAPE, precision="float32"))
    assert moments.count == 20


@every_form
def test_too_few_items_and_constant_data_are_refused(form: str) -> None:
    moments = MAKERS[form](SHAPE)
    with pytest.raises(ValueError, match="needs at least 1 item for this, got 0"):
        _ = moments.mean
    moments.update(items(1))
    np.testing.assert_allclose(moments.mean, items(1)[0], rtol=1e-15)
    with pytest.raises(ValueError, match="needs at least 2 items for this, got 1"):
        moments.spectrum()
    with pytest.raises(ValueError, match="The data are constant: all 3 items are equal"):
        fed(form, [np.full((3, *SHAPE), 0.1)]).spectrum()


def test_options_of_the_forms() -> None:
    low = [LowRankMoments(200, probes=50, seed=seed) for seed in (0, 1)]
    with pytest.raises(ValueError, match=r"`other` must have the options .*'seed': 0.*, got .*'seed': 1"):
        low[0].merge(low[1])
    with pytest.raises(ValueError, match="`probes` must be at least 16 and at most 200, got 8"):
        LowRankMoments(200, probes=8)
    with pytest.raises(ValueError, match="`rank` must be at least 1 and at most 25, got 26"):
        LowRankMoments(200, probes=50, rank=26)
    with pytest.raises(ValueError, match="`window` must be one of none, hann, got 'hamming'"):
        StationaryMoments((8, 8), window="hamming")
    with pytest.raises(ValueError, match=r"`spatial_axes` must leave at most one axis of channels .* got 1"):
        StationaryMoments((2, 8, 8), spatial_axes=1)
    with pytest.raises(ValueError, match=r"must have the channels first, got \(64, 64, 3\)"):
        StationaryMoments((64, 64, 3))
    with pytest.raises(ValueError, match="`precision` must be one of float64, float32"):
        StationaryMoments((8, 8), precision="float16")


# ---------------------------------------------------------------------- choosing


@pytest.mark.parametrize(
    ("options", "form", "reason"),
    [
        ({"item_shape": 3072, "n_items": 50_000}, Moments, "dense: the covariance of 3072 dimensions takes"),
        ({"item_shape": 3072}, Moments, "dense: the covariance of 3072 dimensions"),
        ({"item_shape": 3072, "n_items": 3072}, GramMoments, "gram: 3072 items are no more than their 3072 dimensions"),
        ({"item_shape": 65536, "n_items": 500}, GramMoments, "gram: 500 items are no more than their 65536 dim"),
        ({"item_shape": 16385}, LowRankMoments, "low-rank: the covariance of 16385 dimensions is too large .more than 16384"),
        ({"item_shape": 65536, "n_items": 20_000}, LowRankMoments, "low-rank: "),
        ({"item_shape": 3072, "memory": 2**27}, LowRankMoments, "low-rank: .* too large .0.281 GiB, more than the 0.125 GiB"),
    ],
)
def test_auto_chooses_by_items_dimensions_and_memory(options: dict, form: type, reason: str) -> None:
    moments = new_moments("auto", **{"memory": 2**32, **options})
    assert type(moments) is form
    assert re.match(reason, moments.reason), moments.reason


def test_named_methods_pass_their_options_on() -> None:
    assert set(FORMS) == {"dense", "gram", "stationary", "low-rank"}
    for name, form in FORMS.items():
        moments = new_moments(name, SHAPE)
        assert type(moments) is form
        assert moments.reason == f"{name}: it was asked for."
    assert new_moments("stationary", SHAPE, window="hann", precision="float32").options == {
        "precision": "float32",
        "spatial_axes": 2,
        "window": "hann",
    }
    assert new_moments("low-rank", 4000, probes=99, seed=3).options["probes"] == 99
    with pytest.raises(ValueError, match=r"`method` must be one of auto, dense, .*Did you mean 'dense'"):
        new_moments("dens", SHAPE)
    with pytest.raises(ValueError, match="`form_options` must be one of precision, got 'window'"):
        new_moments("dense", SHAPE, window="hann")
    with pytest.raises(ValueError, match="`form_options` need a named `method`, got window for 'auto'"):
        new_moments("auto", SHAPE, window="hann")


def test_low_rank_sizes_follow_the_memory() -> None:
    sizes = [LowRankMoments(65536, memory=memory).options for memory in (2**28, 2**30, 2**32)]
    assert [size["probes"] for size in sizes] == sorted(size["probes"] for size in sizes)
    assert sizes[-1]["probes"] == 4096
    assert sizes[0]["probes"] < 2048


# ---------------------------------------------------------------------- Gram


@every_precision
@pytest.mark.parametrize("n", [5, 60, 96, 97, 300])  # 96 dimensions
def test_gram_agrees_with_dense(n: int, precision: str, monkeypatch) -> None:
    small_blocks(monkeypatch)
    x = items(n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RankWarning)
        gram = fed("gram", [x], precision).spectrum(basis=4)
        dense = Spectrum.from_covariance(np.cov(x.reshape(n, -1).T), mean=x.mean(axis=0).ravel(), basis=4)
    # float32 items are rounded by 6e-8 of their size, which is a few standard deviations.
    tolerance = 1e-12 if precision == "float64" else 1e-6
    k = min(n - 1, 96)
    scale = dense.eigenvalues[0]
    np.testing.assert_allclose(gram.eigenvalues[:k], dense.eigenvalues[:k], atol=tolerance * scale)
    np.testing.assert_allclose(gram.mean, x.mean(axis=0), atol=2 * tolerance)
    assert gram.mean_energy.sum() == pytest.approx(float((x.mean(axis=0) ** 2).sum()), rel=tolerance)
    assert (gram.rank, gram.dim, gram.n_samples) == (k, 96, n)
    overlap = np.abs(np.sum(gram.basis * dense.basis, axis=1))
    # A direction turns by the relative error over the relative gap, which is 4 % here.
    np.testing.assert_allclose(overlap, 1.0, atol=1e3 * tolerance**2 + 1e-12)


def test_gram_warns_of_its_rank_and_refuses_beyond_its_memory() -> None:
    moments = fed("gram", [items(12)])
    with pytest.warns(RankWarning, match="12 samples of 96 dimensions give a covariance of rank 11"):
        moments.spectrum()
    limited = GramMoments(2**20, memory=2**27)
    limited.update(np.ones((4, 2**20), np.float32))
    with pytest.raises(ValueError, match=r"would make 16 items of 1048576 numbers.* need 0.188 GiB, more than the `memory`"):
        limited.update(np.ones((12, 2**20), np.float32))
    assert limited.count == 4
