"""Low-rank moments: the filters' equation, the density behind it, leading eigenpairs, and plans near the true ones."""

from __future__ import annotations

import numpy as np
import pytest

from eigenstep.moments import LowRankMoments
from eigenstep.moments.density import ProbedSpectrum, resolved_density
from eigenstep.optimal import optimal_grid
from eigenstep.spectrum import Spectrum


def power_law(dim: int, exponent: float) -> np.ndarray:
    lam = np.arange(1.0, dim + 1) ** -exponent
    return 0.25 * lam / lam.mean()


def rotation(dim: int, seed: int = 0) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((dim, dim)))[0]


def freedom(lam: np.ndarray, kappa: np.ndarray) -> np.ndarray:
    return (lam / (lam + np.atleast_1d(kappa)[:, None])).sum(axis=1)


def counted(spectrum: Spectrum, kappa: np.ndarray) -> np.ndarray:
    lam = spectrum.eigenvalues
    return (spectrum.multiplicities * lam / (lam + kappa[:, None])).sum(axis=1)


# ---------------------------------------------------------------------- the equation of the filters


@pytest.mark.parametrize(("probes", "items"), [(150, 10**9), (600, 200), (150, 300)])
def test_the_curve_is_that_of_the_population_behind_probes_and_items(probes: int, items: int) -> None:
    rng = np.random.default_rng(5)
    lam = power_law(600, 1.0)
    q = rotation(600)
    if items > 10**6:
        covariance = (q * lam) @ q.T
    else:
        x = rng.standard_normal((items, 600)) * np.sqrt(lam) @ q.T
        covariance = np.cov(x.T)
    u = np.linalg.qr(rng.standard_normal((600, probes)))[0]
    kappa, f = ProbedSpectrum(np.linalg.eigvalsh(u.T @ covariance @ u), dim=600, n_items=items).curve(40)
    inside = f > 1
    # The fluctuation of such a sum is of order 1, whatever the dimension; sqrt(f/probes) near its top.
    allowed = 3 * np.sqrt(f * (1 / probes + 1 / items))
    np.testing.assert_array_less(np.abs(f - freedom(lam, kappa))[inside], allowed[inside])
    # Without the filters' shift of the level the curve is wrong by far more than that.
    g = np.linalg.eigvalsh(u.T @ covariance @ u)
    raw = freedom(g[g > 1e-10], kappa)
    assert np.abs(raw - freedom(lam, kappa))[inside].max() > 5 * allowed.max()


@pytest.mark.parametrize("exponent", [0.5, 1.0, 1.5, 2.0])
def test_the_density_goes_on_below_what_is_seen(exponent: float) -> None:
    rng = np.random.default_rng(6)
    lam = power_law(8_000, exponent)

    class Exact(ProbedSpectrum):
        def curve(self, points: int):
            levels = np.geomspace(30 * lam[20], lam[-1] * 1e-3, 500)
            f = freedom(lam[20:], levels)
            kappa = np.geomspace(levels[0], np.interp(0.99 * self.eigenvalues.size, f, levels), points)
            f = freedom(lam[20:], kappa)
            # As rough as noise can be, and as large as it is expected: it must not be fitted.
            return kappa, f + np.sqrt(0.2 * f / 1000) * rng.standard_normal(points)

    seen = Exact(lam[20:1020], dim=8_000, n_items=10**6, leading=20, ceiling=float(lam[19]))
    density = resolved_density(seen, float(lam[20:].sum()))
    assert density.multiplicities.sum() == pytest.approx(7_980, rel=1e-12)
    assert density.multiplicities @ density.eigenvalues == pytest.approx(lam[20:].sum(), rel=1e-12)
    spectrum = Spectrum.from_eigenvalues(
        np.append(lam[:20], density.eigenvalues), multiplicities=np.append(np.ones(20), density.multiplicities)
    )
    plans = [optimal_grid(s, 6, 0.002, 80.0).sigmas[:-1] for s in (spectrum, Spectrum.from_eigenvalues(lam))]
    # Only 1000 of 8000 directions are seen one by one; a power law is what is assumed of the others. The noise moves the
    # last sigma by 2 %; fitted, it moves it by 6 %.
    np.testing.assert_allclose(plans[0], plans[1], rtol=0.03)


# ---------------------------------------------------------------------- from items


@pytest.mark.parametrize("basis", ["any", "pixels", "cosines"])
def test_plans_from_fewer_items_than_dimensions_are_near_those_of_the_source(basis: str) -> None:
    from scipy import fft

    rng = np.random.default_rng(7)
    dim, n = 4096, 2000
    lam = power_law(dim, 1.0)
    order = rng.permutation(dim)
    moments = LowRankMoments(dim, probes=1024, rank=64, precision="float32")
    signs = rng.choice([-1.0, 1.0], dim)
    for _ in range(4):
        x = (rng.standard_normal((n // 4, dim)) * np.sqrt(lam))[:, order]
        if basis != "pixels":
            x = fft.idct(x, axis=1, norm="ortho")
        if basis == "any":
            x *= signs
        moments.update(x)
    spectrum = moments.spectrum()
    found, true = (optimal_grid(s, 6, 0.002, 80.0).sigmas[:-1] for s in (spectrum, Spectrum.from_eigenvalues(lam)))
    # 2000 items know the first eigenvalues to sqrt(2/2000) = 3 %, and a sigma to half of that.
    np.testing.assert_allclose(found, true, rtol=0.025)
    assert spectrum.dim == dim
    resolved = float(spectrum.provenance["resolved"])
    kappa = np.geomspace(lam[0], resolved, 20)
    np.testing.assert_allclose(counted(spectrum, kappa), freedom(lam, kappa), rtol=0.03)
    # The sample's own eigenvalues are no such thing: 1999 of them for 4096, the largest of them too large.
    assert spectrum.rank == dim


def test_leading_eigenpairs_of_a_spiked_spectrum() -> None:
    rng = np.random.default_rng(8)
    dim, n, spikes = 800, 1200, np.array([100.0, 60.0, 30.0, 15.0])
    q = rotation(dim)[:, :4]
    x = rng.standard_normal((n, 4)) * np.sqrt(spikes) @ q.T + 0.1 * rng.standard_normal((n, dim)) + 5.0
    moments = LowRankMoments(dim, probes=200, rank=32)
    moments.update(x)
    spectrum = moments.spectrum(basis=10)
    assert spectrum.provenance["leading"] == 4
    assert spectrum.provenance["estimated"] == "density of the population behind 200 random probes of 1200 items"
    # sqrt(2/1200) = 4 % of sampling error.
    np.testing.assert_allclose(spectrum.eigenvalues[:4], spikes, rtol=0.12)
    # Against the items themselves there is none: what is left is what the probes lose.
    rows = spectrum.basis
    assert rows.shape == (4, dim)
    np.testing.assert_allclose(rows @ rows.T, np.eye(4), atol=1e-10)
    exact = np.linalg.svd(x - x.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(np.sum(rows * exact[2][:4], axis=1)), 1.0, atol=1e-3)
    np.testing.assert_allclose(spectrum.eigenvalues[:4], exact[1][:4] ** 2 / (n - 1), rtol=5e-3)
    np.testing.assert_allclose(spectrum.mean, x.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(spectrum.mean_energy[:4], (rows @ x.mean(axis=0)) ** 2, rtol=1e-9)
    assert spectrum.mean_energy.sum() == pytest.approx(float((x.mean(axis=0) ** 2).sum()), rel=1e-12)
    assert spectrum.trace == pytest.approx(x.var(axis=0, ddof=1).sum(), rel=1e-10)


def test_leading_eigenvalues_above_a_loud_rest_are_freed_from_probes_and_sampling() -> None:
    rng = np.random.default_rng(12)
    dim, n, spikes = 800, 400, np.array([200.0, 120.0, 60.0, 30.0])
    x = rng.standard_normal((n, 4)) * np.sqrt(spikes) @ rotation(dim)[:, :4].T + 0.5 * rng.standard_normal((n, dim))
    moments = LowRankMoments(dim, probes=200, rank=32)
    moments.update(x)
    found = moments.spectrum().eigenvalues[:4]
    sample = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)[:4] ** 2 / (n - 1)
    # The rest has trace 200: 400 items add 200/399 to every leading eigenvalue (1.7 % of the last), which is taken off,
    # and 168 probes would add 200/168 (4 %), less what so few directions hide.
    rest = x.var(axis=0, ddof=1).sum() - sample.sum()
    np.testing.assert_allclose(found, sample / (1 + rest / ((n - 1) * sample)), rtol=0.018)


def test_with_as_many_probes_as_dimensions_the_leading_ones_are_exact() -> None:
    rng = np.random.default_rng(9)
    x = rng.standard_normal((4000, 30)) * np.geomspace(3, 0.1, 30) @ rotation(30) + 2.0
    moments = LowRankMoments(30, probes=30, rank=5)
    moments.update(x)
    spectrum = moments.spectrum(basis=5)
    lam, z = np.linalg.eigh(np.cov(x.T))
    # The noise of 4000 items is taken out to first order: less than 1 %.
    np.testing.assert_allclose(spectrum.eigenvalues[:5], lam[::-1][:5], rtol=0.01)
    np.testing.assert_allclose(np.abs(np.sum(spectrum.basis * z.T[::-1][:5], axis=1)), 1.0, atol=1e-10)
    kappa = np.geomspace(10, 0.01, 20)
    np.testing.assert_allclose(counted(spectrum, kappa), freedom(lam, kappa), rtol=0.02)


def test_constant_coordinates_are_counted_and_others_are_not() -> None:
    rng = np.random.default_rng(10)
    x = np.full((300, 500), 0.7)
    x[:, 100:] += rng.standard_normal((300, 400)) * power_law(400, 1.0) ** 0.5
    moments = LowRankMoments(500, probes=200, rank=16)
    moments.update(x)
    spectrum = moments.spectrum()
    assert spectrum.multiplicities[spectrum.eigenvalues == 0].sum() == 100
    assert (spectrum.dim, spectrum.rank) == (500, 400)


@pytest.mark.parametrize("n", [2, 3, 30])
@pytest.mark.parametrize("dim", [1, 2, 5, 17, 100])
def test_few_items_of_few_dimensions(n: int, dim: int) -> None:
    x = np.random.default_rng(11).standard_normal((n, dim)) * np.geomspace(1, 0.01, dim) + 3
    moments = LowRankMoments(dim)
    moments.update(x)
    spectrum = moments.spectrum(basis=3)
    assert spectrum.dim == dim
    assert spectrum.trace == pytest.approx(float(x.var(axis=0, ddof=1).sum()), rel=1e-9)


def test_the_map_is_orthonormal_and_its_own_inverse_backwards() -> None:
    moments = LowRankMoments(64, probes=20)
    u = moments._probe(np.eye(64)).T
    np.testing.assert_allclose(u @ u.T, np.eye(20), atol=1e-14)
    np.testing.assert_allclose(moments._back(np.eye(20)), u, atol=1e-14)
    assert not np.allclose(u, LowRankMoments(64, probes=20, seed=1)._probe(np.eye(64)).T)
