"""expansion.py: the Euler-Maclaurin route against exact propagation and against quadrature at 40 digits."""

import mpmath
import numpy as np
import pytest

from eigenstep import (
    Spectrum,
    divergence,
    expanded_divergence,
    grid,
    karras_law,
    leading_weights,
    log_retained_variance,
    path_integrals,
    retained_variance,
    tangent_law,
)

LAW = karras_law(0.002, 80.0)
ONE = Spectrum.from_eigenvalues([0.3])


def test_path_integrals_against_mpmath():
    """The three integrals of the Karras law by mpmath's quadrature and differentiation at 40 digits."""
    with mpmath.workdps(40):
        root = mpmath.sqrt(mpmath.mpf("0.3"))
        top, bottom = mpmath.mpf(80) ** (mpmath.mpf(1) / 7), mpmath.mpf("0.002") ** (mpmath.mpf(1) / 7)

        def phi(u):
            return mpmath.atan((top + u * (bottom - top)) ** 7 / root)

        def integral(order, power):
            pieces = mpmath.linspace(0, 1, 9)
            return float(mpmath.quad(lambda u: mpmath.diff(phi, u, order) ** power, pieces))

        expected = (integral(1, 2), integral(1, 4), integral(2, 2))
    got = path_integrals(ONE, LAW)
    np.testing.assert_allclose([got.speed_2[0], got.speed_4[0], got.acceleration_2[0]], expected, rtol=1e-10)


def test_the_remainder_is_of_fifth_order():
    """Theory section 3: residual * N^5 tends to a constant (0.2124, 0.2154, 0.2162 there); slope -5 +- 0.1."""
    n = np.array([40, 80, 160])
    residual = np.array(
        [float((np.log(retained_variance(ONE, grid(LAW, k))) - log_retained_variance(ONE, LAW, k))[0]) for k in n]
    )
    np.testing.assert_allclose(np.abs(residual) * n**5.0, [0.2124, 0.2154, 0.2162], atol=2e-3)  # double precision at N = 160
    slopes = np.diff(np.log(np.abs(residual))) / np.diff(np.log(n))
    np.testing.assert_allclose(slopes, -5, atol=0.1)


def test_the_leading_term_alone_leaves_third_order():
    n = np.array([100, 200, 400])
    residual = [
        float((np.log(retained_variance(ONE, grid(LAW, k))) - log_retained_variance(ONE, LAW, k, order=1))[0]) for k in n
    ]
    slopes = np.diff(np.log(np.abs(residual))) / np.diff(np.log(n))
    np.testing.assert_allclose(slopes, -3, atol=0.05)


@pytest.mark.parametrize("objective", ["w2", "kl", "reverse_kl"])
def test_divergences_by_the_expansion(objective):
    source = Spectrum.from_eigenvalues([4.0, 1.0, 0.3, 0.01], multiplicities=[1, 2, 3, 4])
    exact = divergence(source, grid(LAW, 60), objective=objective, noise_floor=0.1)
    # At N = 60 the O(N^-5) remainder is below 1e-5 of the leading term for these eigenvalues.
    assert expanded_divergence(source, LAW, 60, objective=objective, noise_floor=0.1) == pytest.approx(exact, rel=1e-4)


@pytest.mark.parametrize("objective", ["w2", "kl", "reverse_kl"])
@pytest.mark.parametrize("noise_floor", [0.0, 0.5])
def test_leading_weights_are_the_limit_of_the_divergence(objective, noise_floor):
    """N^2 divergence -> (1/4) sum w E^2: theory (4)."""
    source = Spectrum.from_eigenvalues([4.0, 1.0, 0.3], multiplicities=[1, 2, 3])
    weights = source.multiplicities * leading_weights(source, objective=objective, noise_floor=noise_floor)
    limit = 0.25 * weights @ path_integrals(source, tangent_law(0.0, 80.0, gamma=1.0)).speed_2 ** 2
    scaled = [
        n**2 * divergence(source, grid(tangent_law(0.0, 80.0, gamma=1.0), n), objective=objective, noise_floor=noise_floor)
        for n in (400, 800)
    ]
    assert scaled[1] == pytest.approx(limit, rel=0.02)
    assert abs(scaled[1] - limit) < 0.6 * abs(scaled[0] - limit)  # the correction falls like 1/N


def test_one_eigenvalue_on_its_tangent_law_has_constant_speed():
    law = tangent_law(0.0, 80.0, gamma=0.3**0.5)
    swept = np.arctan(80 / 0.3**0.5)
    got = path_integrals(ONE, law)
    np.testing.assert_allclose([got.speed_2[0], got.speed_4[0]], [swept**2, swept**4], rtol=1e-12)
    # phi is linear: what is left is rounding, 1e-16 through two differentiation matrices of norm 1e5, squared.
    assert got.acceleration_2[0] < 1e-10 * swept**4
    np.testing.assert_allclose(
        log_retained_variance(ONE, law, 50), 2 * 50 * np.log(np.cos(swept / 50)), rtol=1e-5
    )  # -x^2/2 - x^4/12 of ln cos x; the next term is x^6/45


def test_zero_eigenvalue_has_no_integrals():
    got = path_integrals(Spectrum.from_eigenvalues([1.0, 0.0]), LAW)
    assert got.speed_2[1] == got.speed_4[1] == got.acceleration_2[1] == 0


def test_refusals():
    with pytest.raises(ValueError, match="`order` must be 1 or 3, got 2"):
        log_retained_variance(ONE, LAW, 5, order=2)
    with pytest.raises(ValueError, match="`n` must be at least 1, got 0"):
        log_retained_variance(ONE, LAW, 0)
    with pytest.raises(ValueError, match="`law` must be finite"):
        path_integrals(ONE, lambda u: np.where(np.asarray(u) < 0.5, np.nan, 1.0))
    with pytest.raises(ValueError, match="`objective` must be one of w2, kl, reverse_kl"):
        expanded_divergence(ONE, LAW, 5, objective="local")
