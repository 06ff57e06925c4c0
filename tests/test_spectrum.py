"""Spectrum: constructors against numpy, refusals, files that survive, and nodes that keep the moments."""

from __future__ import annotations

import errno
import json
import os
import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eigenstep.spectrum import RankWarning, Spectrum, zoo_names


def correlated(n: int, dim: int, *, seed: int = 0, mean: float = 3.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, dim)) @ rng.standard_normal((dim, dim)) / np.sqrt(dim) + mean * rng.random(dim)


def reference(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues (descending) and energies of the mean by numpy's full eigendecomposition."""
    rows = x.reshape(len(x), -1).astype(np.float64)
    lam, z = np.linalg.eigh(np.atleast_2d(np.cov(rows.T)))
    return lam[::-1], ((z.T @ rows.mean(axis=0)) ** 2)[::-1]


# ---------------------------------------------------------------------- from_samples


@pytest.mark.parametrize("dim", [1, 2, 15, 16, 17, 60])  # 16 is where the tridiagonal route begins
def test_from_samples_agrees_with_numpy(dim: int) -> None:
    x = correlated(500, dim)
    spectrum = Spectrum.from_samples(x)
    lam, energy = reference(x)
    # Two eigenvalue algorithms differ by eps lambda_max; the smallest here is about 1e-4 of that.
    np.testing.assert_allclose(spectrum.eigenvalues, lam, rtol=1e-10)
    # A direction turns by eps lambda_max/gap, and gaps go down to 1e-4.
    np.testing.assert_allclose(spectrum.mean_energy, energy, rtol=1e-7, atol=1e-9)
    assert spectrum.mean_energy.sum() == pytest.approx(float((x.mean(axis=0) ** 2).sum()), rel=1e-12)
    assert (spectrum.dim, spectrum.rank, spectrum.n_samples, spectrum.item_shape) == (dim, dim, 500, (dim,))


def test_from_samples_by_hand() -> None:
    # Deviations (-1, -1/2), (1, -1/2), (-1, 1/2), (1, 1/2): variances 4/3 and 1/3, covariance 0; mean (1, 1/2).
    spectrum = Spectrum.from_samples([[0, 0], [2, 0], [0, 1], [2, 1]])
    np.testing.assert_allclose(spectrum.eigenvalues, [4 / 3, 1 / 3], rtol=1e-15)
    np.testing.assert_allclose(spectrum.mean_energy, [1.0, 0.25], rtol=1e-15)


def test_more_rows_than_one_block() -> None:
    x = correlated(9000, 20)
    np.testing.assert_allclose(Spectrum.from_samples(x).eigenvalues, reference(x)[0], rtol=1e-10)


@pytest.mark.parametrize("mean", [0.0, 1e3, 1e6])
def test_float32_products_keep_single_accuracy(mean: float) -> None:
    x = (correlated(9000, 40) + mean).astype(np.float32)
    fast, exact = Spectrum.from_samples(x), Spectrum.from_samples(x, precision="float64")
    np.testing.assert_allclose(exact.eigenvalues, reference(x)[0], rtol=1e-9)
    # Rounding of products is 2e-8 per entry, its norm 2 sqrt(dim) of that: 3e-7 of the largest eigenvalue at most.
    np.testing.assert_allclose(fast.eigenvalues, exact.eigenvalues, atol=3e-7 * exact.eigenvalues[0], rtol=0)
    # The fast route was the one taken; at 1e6 float32 leaves so few bits that its sums are exact.
    assert mean == 1e6 or not np.array_equal(fast.eigenvalues, exact.eigenvalues)


@pytest.mark.parametrize("scale", [1e-22, 1e25])
def test_float32_products_neither_vanish_nor_overflow(scale: float) -> None:
    x = correlated(400, 6)
    small = Spectrum.from_samples((x * scale).astype(np.float32))
    # Stored values are rounded to 6e-8, eigenvalues within two decades of each other.
    np.testing.assert_allclose(small.eigenvalues / scale**2, reference(x)[0], rtol=1e-5)


def test_a_stream_that_drifts_from_its_first_items_keeps_float32_accuracy() -> None:
    x = correlated(12_000, 10)
    x[4096:] += 1e4
    x = x.astype(np.float32)
    fast, exact = Spectrum.from_samples(x), Spectrum.from_samples(x, precision="float64")
    # With products about the first block's mean the error would be 1e-8 of 1e8, twenty times this bound.
    np.testing.assert_allclose(fast.eigenvalues[1:], exact.eigenvalues[1:], atol=0.05)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float16, np.bool_])
def test_other_types_and_shapes(dtype: type) -> None:
    x = (np.random.default_rng(1).random((200, 2, 3, 2)) * (1 if dtype is np.bool_ else 100)).round().astype(dtype)
    spectrum = Spectrum.from_samples(x, precision="float64")
    # Integers and halves are exact in float64: only the eigenvalue algorithm differs.
    np.testing.assert_allclose(spectrum.eigenvalues, reference(x)[0], rtol=1e-11)
    assert spectrum.item_shape == (2, 3, 2)


def test_scalars_are_items_of_one_dimension() -> None:
    spectrum = Spectrum.from_samples([1.0, 3.0])
    assert (spectrum.eigenvalues.tolist(), spectrum.mean_energy.tolist(), spectrum.item_shape) == ([2.0], [4.0], ())


def test_constant_pixels_and_dependent_pixels_are_exact_zeros() -> None:
    x = correlated(300, 20)
    x[:, 3] = 0.1
    x[:, 7] = x[:, 8] + x[:, 9]
    spectrum = Spectrum.from_samples(x)
    assert (spectrum.dim, spectrum.rank, spectrum.eigenvalues[18:].tolist()) == (20, 18, [0.0, 0.0])
    # float32 promises the constant pixel's zero only, and that the other is small.
    fast = Spectrum.from_samples(x.astype(np.float32))
    assert fast.eigenvalues[19] == 0.0
    assert fast.eigenvalues[18] < 1e-6 * fast.eigenvalues[0]


@pytest.mark.parametrize("n", [2, 5, 30])
def test_few_samples_warn_and_agree_with_numpy(n: int) -> None:
    x = correlated(n, 30)
    with pytest.warns(RankWarning, match=rf"{n} samples of 30 dimensions give a covariance of rank {n - 1} at most"):
        spectrum = Spectrum.from_samples(x)
    lam, energy = reference(x)
    np.testing.assert_allclose(spectrum.eigenvalues[:-1], lam[: n - 1], rtol=1e-10)
    np.testing.assert_allclose(spectrum.mean_energy[:-1], energy[: n - 1], rtol=1e-7)
    assert spectrum.eigenvalues[-1] == 0.0
    assert (spectrum.rank, spectrum.dim, spectrum.multiplicities[-1]) == (n - 1, 30, 31 - n)
    assert spectrum.mean_energy.sum() == pytest.approx(float((x.mean(axis=0) ** 2).sum()), rel=1e-12)


def test_one_more_sample_than_dimensions_does_not_warn() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Spectrum.from_samples(correlated(31, 30)).rank == 30


def test_a_memory_map_is_read_in_place(tmp_path) -> None:
    x = correlated(50, 4)
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    np.testing.assert_array_equal(Spectrum.from_samples(mapped).eigenvalues, Spectrum.from_samples(x).eigenvalues)


def _bad(*places: tuple[int, int], value: float = np.nan) -> np.ndarray:
    x = correlated(20, 5)
    for place in places:
        x[place] = value
    return x


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (_bad((7, 1), (7, 2), (9, 0)), ValueError, r"`x` must be finite, got 3 NaN .* 2 items, the first in item 7"),
        (_bad((3, 0), value=np.inf), ValueError, r"got 1 NaN or infinite value in 1 item, the first in item 3"),
        (np.full((20, 3), 0.1), ValueError, r"The data are constant: all 20 items are equal"),
        (np.full((2, 3), 0.1), ValueError, r"The data are constant: all 2 items are equal"),
        (np.ones((1, 4)), ValueError, r"`x` must hold at least 2 items to have a covariance, got 1"),
        (np.ones((0, 4)), ValueError, r"at least one item of at least one number, got shape \(0, 4\)"),
        (np.ones((4, 0)), ValueError, r"at least one item of at least one number, got shape \(4, 0\)"),
        (3.0, ValueError, r"at least one item .* got shape \(\)"),
        (np.ones((3, 2)) * 1j, TypeError, r"`x` must hold real numbers, got an array of type complex128"),
        (np.array([["a"], ["b"]]), TypeError, r"`x` must hold real numbers"),
        (np.array([[None], [1]]), TypeError, r"`x` must hold real numbers, got an array of type object"),
        ([[1.0, 2.0], [3.0]], ValueError, r"`x` must be an array of items of one shape"),
    ],
)
def test_from_samples_refuses(x: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Spectrum.from_samples(x)


def test_large_finite_values_are_not_taken_for_infinity() -> None:
    x = np.array([[3e38], [3e38], [-3e38]], dtype=np.float32)  # their float32 sum overflows
    with pytest.raises(ValueError, match=r'3e\+38 are too large for float32 sums; use precision="float64"'):
        Spectrum.from_samples(x)
    exact = Spectrum.from_samples(x, precision="float64")
    assert exact.eigenvalues[0] == pytest.approx(np.var(x.astype(float), ddof=1), rel=1e-14)


def test_precision_is_one_of_two() -> None:
    with pytest.raises(ValueError, match=r"`precision` must be one of auto, float64, got 'double'"):
        Spectrum.from_samples(correlated(5, 2), precision="double")


# ---------------------------------------------------------------------- from_covariance, from_eigenvalues


def test_from_covariance_by_hand() -> None:
    # [[2, 1], [1, 2]]: 3 along (1, 1), 1 along (1, -1); the mean (2, 0) has energy 2 along each.
    spectrum = Spectrum.from_covariance([[2, 1], [1, 2]], mean=[2.0, 0.0], n_samples=9, item_shape=(2,))
    np.testing.assert_allclose(spectrum.eigenvalues, [3.0, 1.0], rtol=1e-15)
    np.testing.assert_allclose(spectrum.mean_energy, [2.0, 2.0], rtol=1e-15)
    assert (spectrum.n_samples, spectrum.trace) == (9, pytest.approx(4.0, rel=1e-15))


def test_from_covariance_and_from_samples_agree() -> None:
    x = correlated(400, 33)
    a = Spectrum.from_samples(x)
    b = Spectrum.from_covariance(np.cov(x.T), mean=x.mean(axis=0))
    np.testing.assert_allclose(a.eigenvalues, b.eigenvalues, rtol=1e-10)
    np.testing.assert_allclose(a.mean_energy, b.mean_energy, rtol=1e-6, atol=1e-9)  # gaps down to 1e-4, as above
    without_mean = Spectrum.from_covariance(np.cov(x.T))
    np.testing.assert_allclose(without_mean.eigenvalues, b.eigenvalues, rtol=1e-10)
    assert not without_mean.mean_energy.any()


def test_from_covariance_takes_rounding_and_leaves_its_input_alone() -> None:
    v = np.random.default_rng(3).standard_normal((40, 3))
    c = v @ v.T
    c[0, 1] += 1e-15
    before = c.copy()
    spectrum = Spectrum.from_covariance(c, mean=np.ones(40))
    assert (spectrum.rank, spectrum.dim) == (3, 40)
    np.testing.assert_array_equal(c, before)
    assert Spectrum.from_covariance(c.astype(np.float32)).rank == 3


@pytest.mark.parametrize(
    ("c", "options", "message"),
    [
        ([[1.0, 0.0], [0.0, -0.1]], {}, r"`c` must be positive semi-definite, got .* -0.1 beside a largest of 1"),
        (-np.eye(20), {"mean": np.ones(20)}, r"`c` must be positive semi-definite, got an eigenvalue -1"),
        ([[1.0, 0.5], [0.4, 1.0]], {}, r"`c` must be symmetric, got entries that differ from their mirror by 0.1"),
        (np.ones((2, 3)), {}, r"`c` must be a square matrix, got shape \(2, 3\)"),
        (np.ones(3), {}, r"`c` must have 2 dimensions"),
        (np.zeros((2, 2)), {}, r"`eigenvalues` are all zero"),
        ([[1.0, np.nan], [np.nan, 1.0]], {}, r"`c` must be finite"),
        (np.eye(2), {"mean": [1.0]}, r"`mean` must have 2 entries like `c`, got 1"),
        (np.eye(2), {"n_samples": 0}, r"`n_samples` must be at least 1, got 0"),
    ],
)
def test_from_covariance_refuses(c: object, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Spectrum.from_covariance(c, **options)


def test_from_eigenvalues_sorts_all_columns_and_merges_nothing() -> None:
    spectrum = Spectrum.from_eigenvalues([1, 4, 1, 0], multiplicities=[1, 2, 3, 4], mean_energy=[10, 20, 30, 40])
    assert spectrum.eigenvalues.tolist() == [4, 1, 1, 0]
    assert spectrum.multiplicities.tolist() == [2, 1, 3, 4]
    assert spectrum.mean_energy.tolist() == [20, 10, 30, 40]
    assert (spectrum.dim, spectrum.rank, spectrum.trace) == (10, 6, 12.0)
    assert spectrum.std == pytest.approx(np.sqrt(1.2), rel=1e-15)
    assert spectrum.effective_rank == pytest.approx(144 / 36, rel=1e-15)  # (2*4+4)^2 / (2*16+4)


def test_one_eigenvalue_as_a_number() -> None:
    spectrum = Spectrum.from_eigenvalues(0.25, multiplicities=3, mean_energy=6.0)
    assert (spectrum.dim, spectrum.std, spectrum.mean_energy.tolist()) == (3, 0.5, [6.0])
    assert repr(spectrum) == "Spectrum(dim=3, rank=3, std=0.5, effective_rank=3, nodes=1)"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Spectrum.from_eigenvalues([1.0, -0.5]), r"`eigenvalues` must not be negative, got -0.5"),
        (lambda: Spectrum.from_eigenvalues([]), r"`eigenvalues` must hold at least one eigenvalue"),
        (lambda: Spectrum.from_eigenvalues([0.0, 0.0]), r"`eigenvalues` are all zero"),
        (lambda: Spectrum.from_eigenvalues([[1.0]]), r"`eigenvalues` must have 1 dimension"),
        (lambda: Spectrum.from_eigenvalues([1.0, np.nan]), r"`eigenvalues` must be finite"),
        (lambda: Spectrum.from_eigenvalues([1.0], multiplicities=[0.0]), r"`multiplicities` must be positive, got 0"),
        (lambda: Spectrum.from_eigenvalues([1.0], multiplicities=[1, 2]), r"`multiplicities` must have one entry per"),
        (lambda: Spectrum.from_eigenvalues([1.0], mean_energy=[-1.0]), r"`mean_energy` must not be negative, got -1"),
        (lambda: Spectrum.from_eigenvalues([1.0], mean_energy=[1.0, 2.0]), r"`mean_energy` must have one entry per"),
        (lambda: Spectrum.from_eigenvalues([1.0], provenance={"x": object()}), r"`provenance` must hold plain JSON"),
        (lambda: Spectrum.from_eigenvalues([1.0], item_shape=(0,)), r"`item_shape` must be at least 1, got 0"),
        (lambda: Spectrum(np.array([1.0, 2.0])), r"must be descending, got 1 then 2 at positions 0 and 1"),
    ],
)
def test_construction_refuses(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_a_spectrum_is_frozen_to_its_arrays_and_shares_none_with_its_maker() -> None:
    lam = np.array([2.0, 1.0])
    spectrum = Spectrum(lam)
    lam[0] = 5.0
    assert spectrum.eigenvalues[0] == 2.0
    with pytest.raises(ValueError, match="read-only"):
        spectrum.eigenvalues[0] = 3.0
    with pytest.raises(AttributeError):
        spectrum.n_samples = 3  # type: ignore[misc]


# ---------------------------------------------------------------------- binned


def power_law(k: int = 2000, *, seed: int = 5, zeros: int = 0) -> Spectrum:
    rng = np.random.default_rng(seed)
    lam = 200.0 * np.arange(1, k + 1) ** -2.0 * np.exp(0.05 * rng.standard_normal(k))
    lam = np.concatenate((lam, np.zeros(zeros)))
    return Spectrum.from_eigenvalues(lam, mean_energy=lam * rng.random(lam.size) + 0.01 * (lam == 0))


def curve_error(fine: Spectrum, coarse: Spectrum) -> float:
    """The definition in the docstring, by plain loops and on a denser grid of levels."""
    positive = fine.eigenvalues[fine.eigenvalues > 0]
    worst = 0.0
    for square in np.geomspace(0.25 * positive[-1], 4.0 * positive[0], 1000):
        for power in (1, 2):
            exact, binned = (
                float(s.multiplicities @ (s.eigenvalues / (s.eigenvalues + square)) ** power) for s in (fine, coarse)
            )
            worst = max(worst, abs(binned - exact) / exact)
    return worst


@pytest.mark.parametrize("k", [4, 5, 12, 36, 72, 200])
@pytest.mark.parametrize("zeros", [0, 7])
def test_binned_keeps_dimension_trace_rank_and_mean_energy(k: int, zeros: int) -> None:
    fine = power_law(zeros=zeros)
    coarse = fine.binned(k)
    assert coarse.eigenvalues.size <= k
    assert coarse.multiplicities.min() > 0
    # Sums of a few thousand terms round at 1e-13.
    assert coarse.dim == pytest.approx(fine.dim, rel=1e-12)
    assert coarse.rank == pytest.approx(fine.rank, rel=1e-12)
    assert coarse.trace == pytest.approx(fine.trace, rel=1e-12)
    assert coarse.mean_energy.sum() == pytest.approx(fine.mean_energy.sum(), rel=1e-12)
    assert coarse.mean_energy.min() >= 0
    if zeros:
        assert (coarse.eigenvalues[-1], coarse.multiplicities[-1]) == (0.0, zeros)
        assert coarse.mean_energy[-1] == pytest.approx(0.01 * zeros, rel=1e-12)


def test_one_panel_integrates_polynomials_of_degree_five() -> None:
    rng = np.random.default_rng(2)
    lam, m = 1.0 + rng.random(50), rng.random(50) + 0.1
    fine = Spectrum.from_eigenvalues(lam, multiplicities=m, mean_energy=m)
    coarse = fine.binned(4)  # one panel of three
    assert coarse.eigenvalues.size == 3
    for p in range(6):
        # Centred powers up to 5 are matched to rounding; powers of lambda near 1 to 2 lose one digit.
        assert coarse.multiplicities @ coarse.eigenvalues**p == pytest.approx(float(m @ lam**p), rel=1e-12)
        # Energy proportional to multiplicity is the same measure, and gets the same weights.
    np.testing.assert_allclose(coarse.mean_energy, coarse.multiplicities, rtol=1e-10)
    assert coarse.multiplicities @ coarse.eigenvalues**6 != pytest.approx(float(m @ lam**6), rel=1e-9)


def test_mean_energy_keeps_two_moments_where_it_can_and_stays_positive_where_it_cannot() -> None:
    lam = np.linspace(2.0, 1.0, 60)
    smooth = Spectrum.from_eigenvalues(lam, mean_energy=lam**2)
    coarse = smooth.binned(4)
    for p in range(3):
        assert coarse.mean_energy @ coarse.eigenvalues**p == pytest.approx(float(lam**2 @ lam**p), rel=1e-12)
    spike = np.zeros(60)
    spike[15] = 1.0  # between two nodes: its interpolatory weights have a negative one
    peaked = Spectrum.from_eigenvalues(lam, mean_energy=spike).binned(4)
    assert peaked.mean_energy.min() >= 0
    assert peaked.mean_energy.sum() == pytest.approx(1.0, rel=1e-14)
    assert peaked.mean_energy @ peaked.eigenvalues == pytest.approx(lam[15], rel=1e-12)


def test_binning_error_is_what_it_says_and_falls_as_the_sixth_power() -> None:
    fine = power_law()
    errors = []
    for k in (36, 72, 144):
        coarse = fine.binned(k)
        # The reported maximum is over 64 levels, the reference's over 1000: equal within the curve's own wiggle.
        assert coarse.binning_error == pytest.approx(curve_error(fine, coarse), rel=0.3)
        errors.append(coarse.binning_error)
    # 2^6 = 64 for each halving; the top panels, which keep their values, make it vary.
    assert errors[0] / errors[1] > 25
    assert errors[1] / errors[2] > 25


def test_errors_of_repeated_binning_add_up() -> None:
    once = power_law().binned(144)
    twice = once.binned(36)
    assert twice.binning_error > once.binning_error > 0
    assert curve_error(power_law(), twice) <= 1.3 * twice.binning_error


def test_few_distinct_eigenvalues_come_back_as_they_are() -> None:
    spectrum = Spectrum.from_eigenvalues([3.0, 2.0, 1.0, 0.0])
    assert spectrum.binned(4) is spectrum
    repeated = Spectrum.from_eigenvalues([2.0, 2.0, 1.0, 0.0, 0.0], mean_energy=[1, 2, 3, 4, 5])
    merged = repeated.binned(4)
    assert merged.eigenvalues.tolist() == [2.0, 1.0, 0.0]
    assert merged.multiplicities.tolist() == [2.0, 1.0, 2.0]
    assert merged.mean_energy.tolist() == [3.0, 3.0, 9.0]
    assert merged.binning_error == 0.0


@pytest.mark.parametrize(
    "lam",
    [
        1.0 + np.finfo(float).eps * np.arange(9),  # one cluster of neighbours in float64
        np.append(1.0 + np.finfo(float).eps * np.arange(9), 1000.0),  # and one value far away: no third node
        np.geomspace(1e-300, 1.0, 9),  # a panel of 300 decades
        np.append(1e-30 * np.arange(1, 9), [0.18789853, 0.03463964]),  # whose lowest node rounds to below zero
    ],
)
def test_degenerate_panels(lam: np.ndarray) -> None:
    fine = Spectrum.from_eigenvalues(lam, mean_energy=np.arange(lam.size))
    coarse = fine.binned(4)
    assert coarse.eigenvalues.size <= 4
    assert coarse.dim == lam.size
    assert coarse.eigenvalues[-1] >= lam.min()
    assert coarse.trace == pytest.approx(fine.trace, rel=1e-14)
    assert coarse.mean_energy.sum() == pytest.approx(fine.mean_energy.sum(), rel=1e-14)


def test_binned_refuses_too_few_nodes() -> None:
    with pytest.raises(ValueError, match=r"`k` must be at least 4, got 3"):
        power_law().binned(3)


@settings(max_examples=60, deadline=None)
@example(logs=[0.0, -13.0, -15.0, -27.0, -14.0], zeros=0, k=4, seed=0)  # nodes that almost coincide
@given(
    logs=st.lists(st.floats(-80, 5), min_size=1, max_size=80),
    zeros=st.integers(0, 3),
    k=st.integers(4, 40),
    seed=st.integers(0, 99),
)
def test_binned_never_loses_what_it_must_keep(logs: list[float], zeros: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lam = np.concatenate((np.exp(logs), np.zeros(zeros)))
    fine = Spectrum.from_eigenvalues(lam, multiplicities=rng.random(lam.size) + 0.1, mean_energy=rng.random(lam.size))
    coarse = fine.binned(k)
    assert coarse.eigenvalues.size <= k
    # 1e-11: clustered values leave a panel's own recurrence ill-conditioned, down to its last five digits.
    assert float(coarse.multiplicities.sum()) == pytest.approx(float(fine.multiplicities.sum()), rel=1e-11)
    assert coarse.trace == pytest.approx(fine.trace, rel=1e-11)
    assert coarse.mean_energy.sum() == pytest.approx(fine.mean_energy.sum(), rel=1e-11)
    # Gauss nodes lie inside the values they stand for.
    positive = fine.eigenvalues[fine.eigenvalues > 0]
    nodes = coarse.eigenvalues[coarse.eigenvalues > 0]
    assert positive.min() <= nodes.min() <= nodes.max() <= positive.max()


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize("suffix", ["json", "npz"])
def test_saved_and_loaded_to_the_last_bit(tmp_path, suffix: str) -> None:
    spectrum = Spectrum.from_eigenvalues(
        np.exp(np.random.default_rng(0).standard_normal(50)),
        multiplicities=np.random.default_rng(1).random(50) + 0.1,
        mean_energy=2.0,
        n_samples=7,
        item_shape=(5, 10),
        provenance={"source": "σ test", "values": [0, 1.5, None], "nested": {"a": True}},
    ).binned(20)
    path = tmp_path / f"spectrum.{suffix}"
    spectrum.save(path)
    loaded = Spectrum.load(str(path))
    for name in ("eigenvalues", "multiplicities", "mean_energy"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(spectrum, name))
    for name in ("n_samples", "item_shape", "provenance", "binning_error"):
        assert getattr(loaded, name) == getattr(spectrum, name)
    assert os.listdir(tmp_path) == [path.name]  # no temporary file stays


@pytest.mark.parametrize("suffix", ["json", "npz"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.7, 0.98])
def test_truncated_files_are_refused(tmp_path, suffix: str, keep: float) -> None:
    path = tmp_path / f"spectrum.{suffix}"
    power_law(200).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ValueError, match="is truncated, corrupt or no spectrum file"):
        Spectrum.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 2}, r"was written by a newer eigenstep \(format version 2, this release reads up to 1\)"),
        ({"format": "other"}, r"is no eigenstep spectrum file: its `format` is 'other'"),
        ({"format_version": "x"}, r"truncated, corrupt or no spectrum file \(`format_version` is 'x'\)"),
        ({"eigenvalues": [1.0, 2.0]}, r"truncated, corrupt .*must be descending"),
        ({"eigenvalues": None}, r"truncated, corrupt"),
        ({"multiplicities": [1.0]}, r"truncated, corrupt .*one entry per eigenvalue"),
        ({"item_shape": 3}, r"truncated, corrupt"),
    ],
)
def test_foreign_newer_and_altered_files_are_refused(tmp_path, change: dict, message: str) -> None:
    path = tmp_path / "spectrum.json"
    Spectrum.from_eigenvalues([2.0, 1.0]).save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match=message):
        Spectrum.load(path)


def test_other_files_are_refused(tmp_path) -> None:
    (tmp_path / "list.json").write_text("[1, 2]")
    with pytest.raises(ValueError, match="is no eigenstep spectrum file"):
        Spectrum.load(tmp_path / "list.json")
    np.savez(tmp_path / "data.npz", x=np.ones(3))
    with pytest.raises(ValueError, match="is no eigenstep spectrum file"):
        Spectrum.load(tmp_path / "data.npz")
    np.savez(tmp_path / "pickle.npz", x=np.array([None]))
    with pytest.raises(ValueError, match="corrupt"):
        Spectrum.load(tmp_path / "pickle.npz")
    with pytest.raises(FileNotFoundError):
        Spectrum.load(tmp_path / "absent.json")
    for verb in (Spectrum.load, Spectrum.from_eigenvalues([1.0]).save):
        with pytest.raises(ValueError, match=r"`path` must end in .json or .npz, got 'a.txt'"):
            verb("a.txt")


@pytest.mark.parametrize("suffix", ["json", "npz"])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch, suffix: str, step: str) -> None:
    path = tmp_path / f"spectrum.{suffix}"
    Spectrum.from_eigenvalues([2.0, 1.0]).save(path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, full)
        with pytest.raises(OSError, match=r"No space left on device\); the file that was there is unchanged") as caught:
            power_law(100).save(path)
    assert caught.value.errno == errno.ENOSPC
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_a_folder_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(OSError, match=r"could not write .*absent.* no file was left behind"):
        Spectrum.from_eigenvalues([1.0]).save(tmp_path / "absent" / "spectrum.json")


# ---------------------------------------------------------------------- zoo


def test_the_zoo_tells_its_story() -> None:
    assert zoo_names() == ("cifar10", "digits", "ecg", "fashion-mnist", "mnist", "speech")
    for name in zoo_names():
        spectrum = Spectrum.from_zoo(name)
        assert spectrum.provenance["command"].startswith("eigenstep spectrum ")
        assert spectrum.provenance["caveats"]
        assert spectrum.dim == np.prod(spectrum.item_shape)
        assert spectrum.n_samples > 1000
        assert spectrum.binning_error < 2e-6


def test_the_zoo_refuses_other_names() -> None:
    with pytest.raises(ValueError, match=r"`name` must be one of cifar10, .* got 'mnits'. Did you mean 'mnist'\?"):
        Spectrum.from_zoo("mnits")


# ---------------------------------------------------------------------- mean and basis


@pytest.mark.parametrize("dim", [1, 5, 16, 40])
def test_the_basis_is_that_of_numpy_by_every_route(dim: int) -> None:
    x = correlated(300, dim, seed=3)
    z = np.linalg.eigh(np.atleast_2d(np.cov(x.T)))[1]
    routes = [
        Spectrum.from_samples(x, basis=4),
        Spectrum.from_covariance(np.atleast_2d(np.cov(x.T)), mean=x.mean(axis=0), basis=4),
    ]
    for spectrum in routes:
        k = min(4, dim)
        assert spectrum.basis.shape == (k, dim)
        np.testing.assert_allclose(spectrum.basis @ spectrum.basis.T, np.eye(k), atol=1e-13)
        # A direction turns by eps lambda_max/gap; the gaps at the top are a few per cent.
        np.testing.assert_allclose(np.abs(np.sum(spectrum.basis * z.T[::-1][:k], axis=1)), 1.0, atol=1e-10)
        np.testing.assert_allclose(spectrum.mean, x.mean(axis=0), rtol=1e-13)
        # The sign does not depend on the route.
        assert np.all(spectrum.basis[np.arange(k), np.abs(spectrum.basis).argmax(axis=1)] > 0)
        np.testing.assert_allclose((spectrum.basis @ spectrum.mean) ** 2, spectrum.mean_energy[:k], rtol=1e-6)


def test_the_basis_of_few_samples_leaves_the_null_space_out() -> None:
    x = correlated(6, 30)
    with pytest.warns(RankWarning):
        spectrum = Spectrum.from_samples(x, basis=10)
    assert spectrum.basis.shape == (5, 30)
    centred = x - x.mean(axis=0)
    right = np.linalg.svd(centred)[2][:5]
    np.testing.assert_allclose(np.abs(np.sum(spectrum.basis * right, axis=1)), 1.0, atol=1e-10)


def test_without_being_asked_for_there_is_no_basis_and_no_mean_that_is_unknown() -> None:
    assert Spectrum.from_samples(correlated(50, 4)).basis is None
    assert Spectrum.from_covariance(np.eye(2)).mean is None
    assert Spectrum.from_eigenvalues([2.0, 1.0]).mean is None


@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_mean_and_basis_survive_a_file_to_the_last_bit(tmp_path, suffix: str) -> None:
    spectrum = Spectrum.from_samples(correlated(60, 12).reshape(60, 3, 4), basis=0 if suffix == ".json" else 5)
    spectrum.save(tmp_path / f"s{suffix}")
    loaded = Spectrum.load(tmp_path / f"s{suffix}")
    assert loaded.mean.shape == (3, 4)
    np.testing.assert_array_equal(loaded.mean, spectrum.mean)
    if suffix == ".npz":
        np.testing.assert_array_equal(loaded.basis, spectrum.basis)
        with pytest.raises(ValueError, match=r"`path` must end in .npz for a spectrum with a basis, got .*s.json'; save"):
            spectrum.save(tmp_path / "s.json")


def test_binned_drops_mean_and_basis() -> None:
    spectrum = Spectrum.from_samples(correlated(60, 12), basis=5)
    for k in (6, 100):
        coarse = spectrum.binned(k)
        assert (coarse.mean, coarse.basis) == (None, None)
    np.testing.assert_array_equal(spectrum.binned(100).eigenvalues, spectrum.eigenvalues)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mean": [1.0]}, ValueError, r"`mean` must have one number per dimension \(2\), got 1"),
        ({"mean": [1.0, np.nan]}, ValueError, "`mean` must be finite"),
        ({"mean": [1.0, 2.0], "item_shape": (3,)}, ValueError, r"`mean` must have the shape \(3,\) of an item, got 2 numbers"),
        ({"basis": np.eye(3)}, ValueError, r"`basis` must have shape \(k, 2\) with k between 1 and 2, got \(3, 3\)"),
        ({"basis": np.eye(2, dtype=int)}, TypeError, "`basis` must be an array of float32 or float64, got int64"),
        ({"basis": np.full((1, 2), np.inf)}, ValueError, "`basis` must be finite"),
    ],
)
def test_a_mean_or_basis_that_does_not_fit_is_refused(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Spectrum([2.0, 1.0], **options)
