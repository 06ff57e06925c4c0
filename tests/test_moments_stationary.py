"""Stationary moments: exact on circulant fields against the dense form, windows, channels, and the Fourier basis."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest

from eigenstep.fourier import FourierBasis, half_plane
from eigenstep.moments import Moments, StationaryMoments
from eigenstep.spectrum import Spectrum

SHAPES: list[tuple[tuple[int, ...], int | None]] = [
    *[((7,), None), ((8,), None), ((2, 9), 1), ((6, 5), None), ((4, 6), None)],
    *[((3, 5, 6), None), ((6, 4, 5), None), ((2, 3, 4, 5), 3)],
]
every_shape = pytest.mark.parametrize(("shape", "axes"), SHAPES, ids=[str(shape) for shape, _ in SHAPES])


def all_shifts(x: np.ndarray, axes: int) -> np.ndarray:
    """Every item at every circular shift: data whose sample covariance is circulant exactly."""
    sides = x.shape[x.ndim - axes :]
    places = tuple(range(-axes, 0))
    return np.concatenate([np.roll(x, shift, axis=places) for shift in np.ndindex(sides)])


def circulant(shape: tuple[int, ...], axes: int, *, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return all_shifts(rng.standard_normal((9, *shape)) * np.exp(rng.standard_normal(shape)), axes)


def fed(x: np.ndarray, **options: object) -> StationaryMoments:
    moments = StationaryMoments(x.shape[1:], **options)
    for batch in np.array_split(x, 3):
        moments.update(batch)
    return moments


def expanded(spectrum: Spectrum) -> np.ndarray:
    return np.repeat(spectrum.eigenvalues, spectrum.multiplicities.astype(int))


def number_of_axes(shape: tuple[int, ...], axes: int | None) -> int:
    return axes or min(2, len(shape))


@every_shape
def test_circulant_data_have_the_spectrum_of_the_dense_form(shape, axes) -> None:
    x = circulant(shape, number_of_axes(shape, axes)) + 3.0
    spectrum = fed(x, spatial_axes=axes).spectrum()
    dense = Spectrum.from_covariance(np.atleast_2d(np.cov(x.reshape(len(x), -1).T)))
    # Two routes to eigenvalues of one matrix: rounding relative to the largest.
    np.testing.assert_allclose(expanded(spectrum), dense.eigenvalues, atol=1e-12 * dense.eigenvalues[0])
    assert (spectrum.dim, spectrum.n_samples, spectrum.item_shape) == (math.prod(shape), len(x), shape)
    assert spectrum.provenance["form"] == "stationary"


def test_by_hand() -> None:
    moments = StationaryMoments(2)
    moments.update([[1.0, 0.0], [0.0, 1.0], [3.0, 2.0]])
    # Sums 1, 1, 5 and differences 1, -1, 1; variances 16/3 and 4/3 of them, over the 2 places.
    spectrum = moments.spectrum()
    np.testing.assert_allclose(spectrum.eigenvalues, [8 / 3, 2 / 3], rtol=1e-15)
    # Mean (4/3, 1): sum 7/3, difference 1/3, squared over 2.
    np.testing.assert_allclose(spectrum.mean_energy, [49 / 18, 1 / 18], rtol=1e-14)


@every_shape
def test_trace_mean_and_energy_are_those_of_any_data(shape, axes) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((40, *shape)) * (1 + np.arange(math.prod(shape)).reshape(shape)) + rng.standard_normal(shape)
    spectrum = fed(x, spatial_axes=axes).spectrum()
    rows = x.reshape(40, -1)
    assert spectrum.trace == pytest.approx(np.cov(rows.T).trace(), rel=1e-12)
    np.testing.assert_allclose(spectrum.mean, x.mean(axis=0), rtol=1e-12)
    assert spectrum.mean_energy.sum() == pytest.approx(float((rows.mean(axis=0) ** 2).sum()), rel=1e-12)
    # Schur-Horn: never steeper than the true spectrum.
    true = np.linalg.eigvalsh(np.cov(rows.T))[::-1]
    assert np.all(np.cumsum(expanded(spectrum)) <= np.cumsum(true) * (1 + 1e-12))


@every_shape
def test_the_basis_diagonalises_the_circulant_covariance(shape, axes) -> None:
    x = circulant(shape, number_of_axes(shape, axes), seed=2)
    spectrum = fed(x, spatial_axes=axes).spectrum(basis=1)
    basis = spectrum.basis
    assert isinstance(basis, FourierBasis)
    np.testing.assert_array_equal(basis.multiplicities, spectrum.multiplicities)
    rows = basis.rows()
    np.testing.assert_allclose(rows @ rows.T, np.eye(math.prod(shape)), atol=1e-13)
    turned = rows @ np.atleast_2d(np.cov(x.reshape(len(x), -1).T)) @ rows.T
    np.testing.assert_allclose(turned, np.diag(expanded(spectrum)), atol=1e-12 * spectrum.eigenvalues[0])
    # The two ways to a function of the covariance: plane waves, and explicit rows.
    factors = np.linspace(1.0, -0.3, len(basis))
    direct = x.reshape(len(x), -1) @ rows.T * np.repeat(factors, basis.multiplicities.astype(int)) @ rows
    np.testing.assert_allclose(basis.apply(x, factors), direct.reshape(x.shape), atol=1e-12 * np.abs(x).max())


@pytest.mark.parametrize("sides", [(1,), (2,), (7,), (8,), (1, 1), (4, 6), (5, 6), (5, 7), (3, 4, 5), (2, 2, 2)])
def test_half_plane_lists_one_of_each_pair(sides: tuple[int, ...]) -> None:
    frequencies, where = half_plane(sides)
    pairs = {frozenset({tuple(k), tuple(-k % np.array(sides))}) for k in frequencies}
    assert len(pairs) == len(frequencies)
    assert sum(len(pair) for pair in pairs) == math.prod(sides)
    halved = (*sides[:-1], sides[-1] // 2 + 1)
    np.testing.assert_array_equal(np.stack(np.unravel_index(where, halved), axis=1), frequencies)


def test_a_spectrum_with_a_fourier_basis_survives_a_file(tmp_path) -> None:
    spectrum = fed(circulant((3, 5, 6), 2)).spectrum(basis=1)
    spectrum.save(tmp_path / "s.npz")
    loaded = Spectrum.load(tmp_path / "s.npz")
    np.testing.assert_array_equal(loaded.basis.frequencies, spectrum.basis.frequencies)
    np.testing.assert_array_equal(loaded.basis.vectors, spectrum.basis.vectors)
    np.testing.assert_array_equal(loaded.mean, spectrum.mean)
    assert spectrum.binned(8).basis is None
    with pytest.raises(ValueError, match=r"`path` must end in .npz for a spectrum with a basis, got"):
        spectrum.save(tmp_path / "s.json")


def test_the_fourier_basis_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match=r"`frequencies` and `vectors` must have shapes .* got \(2, 1\) and \(2, 3\)"):
        FourierBasis((4,), np.zeros((2, 1), int), np.ones((2, 3)))
    basis = fed(circulant((8,), 1)).spectrum(basis=1).basis
    with pytest.raises(ValueError, match=r"`x` and `factors` must have shapes \(m, 8\) and \(5,\), got \(2, 7\) and \(5,\)"):
        basis.apply(np.ones((2, 7)), np.ones(5))
    with pytest.raises(ValueError, match=r"`basis` must have one entry per eigenvalue \(2\) for items of shape \(8,\), got 5"):
        Spectrum([2.0, 1.0], [4.0, 4.0], item_shape=(8,), basis=basis)


# ---------------------------------------------------------------------- precision and windows


def test_float32_transforms_keep_single_accuracy_also_far_from_zero() -> None:
    x = (circulant((3, 8, 8), 2) + 1000.0).astype(np.float32)
    single, double = (fed(x, precision=precision).spectrum() for precision in ("float32", "float64"))
    # 1e-7 sqrt(log) per transform, relative to the largest power.
    np.testing.assert_allclose(single.eigenvalues, double.eigenvalues, atol=1e-6 * double.eigenvalues[0])


def field(n: int, side: int, *, channels: int = 2, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Circular-stationary Gaussian fields of power 1/f^2 with correlated channels, and their exact eigenvalues."""
    rng = np.random.default_rng(seed)
    f = np.fft.fftfreq(side) * side
    power = 1.0 / (1.0 + f[:, None] ** 2 + f[None, :] ** 2)
    mix = np.array([[1.0, 0.0], [0.6, 0.5]])[:channels, :channels]
    white = np.fft.fft2(rng.standard_normal((n, channels, side, side)))
    x = np.fft.ifft2(white * np.sqrt(power)).real
    lam = np.linalg.eigvalsh(mix @ mix.T)[:, None, None] * power
    return np.einsum("cd,ndhw->nchw", mix, x), np.sort(lam.ravel())[::-1]


def test_a_synthetic_field_agrees_with_truth_and_with_the_dense_form() -> None:
    x, true = field(6000, 12)
    stationary = fed(x).spectrum()
    dense = Moments(x.shape[1:])
    dense.update(x)
    # A power from 6000 items: sqrt(1/6000) = 1.3 % for a pair, 1.8 % alone; 4.5 standard errors, after sorting less.
    np.testing.assert_allclose(expanded(stationary), true, rtol=0.08)
    found = dense.spectrum().eigenvalues
    # The dense form spreads its eigenvalues by sqrt(288/6000); the sums of tenths of the spectrum agree to 1 %, save
    # the first, where a single pair of eigenvalues has the errors above.
    for ours, theirs in list(zip(np.array_split(expanded(stationary), 6), np.array_split(found, 6), strict=True))[:1]:
        assert ours.sum() == pytest.approx(theirs.sum(), rel=0.01)
    assert stationary.trace == pytest.approx(dense.spectrum().trace, rel=1e-10)


def test_the_window_keeps_the_trace_of_stationary_data_and_stops_leaking() -> None:
    # White noise: every power is the variance, with or without a window, within its standard error.
    rng = np.random.default_rng(3)
    white = rng.standard_normal((3000, 16, 16))
    spectrum = fed(white, window="hann").spectrum()
    # 256 powers of relative error sqrt(1/3000): the trace is known to 1.8 %/sqrt(128 pairs), smeared or not.
    assert spectrum.trace / 256 == pytest.approx(1.0, abs=0.01)
    # A slope from edge to edge is no wave: its jump leaks to every frequency, unless the window closes the edges.
    slopes = rng.standard_normal((500, 1)) * np.linspace(-1, 1, 64)
    bare, windowed = (expanded(fed(slopes, window=window).spectrum()) for window in ("none", "hann"))
    assert bare[20:].sum() / bare.sum() > 1e-2
    assert windowed[20:].sum() / windowed.sum() < 1e-5


def test_the_mean_is_not_windowed() -> None:
    x = np.random.default_rng(4).standard_normal((50, 8, 8)) + np.arange(8.0)
    spectrum = fed(x, window="hann").spectrum()
    np.testing.assert_allclose(spectrum.mean, x.mean(axis=0), rtol=1e-12)
    assert spectrum.mean_energy.sum() == pytest.approx(float((x.mean(axis=0) ** 2).sum()), rel=1e-12)


# ---------------------------------------------------------------------- real data


SHARED = Path(os.environ.get("EIGENSTEP_SHARED", Path(__file__).parents[2] / "shared")) / "data"


# docs/spectra.md and benchmarks/accumulators.py state these: stationary against dense, sigmas 1 to 5 of 6 steps.
STATED = {
    "cifar10/*.tar": [-0.079, -0.094, -0.088, -0.077, -0.055],
    "fashion_mnist.npz": [-0.268, -0.294, -0.276, -0.192, -0.082],
}


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="needs the shared data; set EIGENSTEP_SHARED to their folder")
@pytest.mark.parametrize("name", STATED)
def test_planned_sigmas_of_real_images_differ_by_what_the_page_says(name: str) -> None:
    pytest.importorskip("PIL", reason="images need Pillow")
    from eigenstep.data import open_source
    from eigenstep.optimal import optimal_grid

    forms: list[Moments | StationaryMoments] = []
    for batch in open_source(str(SHARED / name), value_range="-1,1"):
        forms = forms or [form(batch.shape[1:], precision="float32") for form in (Moments, StationaryMoments)]
        for moments in forms:
            moments.update(np.asarray(batch, dtype=np.float32))
    dense, stationary = (optimal_grid(moments.spectrum(), 6, 0.002, 80.0).sigmas[1:-1] for moments in forms)
    # Stated to a tenth of a per cent; decoders of JPEG differ by less than that.
    np.testing.assert_allclose(stationary / dense - 1, STATED[name], atol=2e-3)
