"""gaussian.py: exact propagation, divergences, bounds; each number by two routes."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eigenstep import (
    SOLVERS,
    Spectrum,
    cramer_rao_bound,
    ddim_eta,
    divergence,
    dpmpp_2m_sde,
    fisher_bound,
    grid,
    karras_law,
    propagate,
    retained_variance,
    reverse_trajectory,
    trajectory,
)
from eigenstep.gaussian import BLEND, OBJECTIVES, STEPWISE, divergence_terms
from eigenstep.optimal.objective import GridObjective

LAM = np.array([50.0, 2.0, 1.0, 0.3, 1e-4])
SIGMAS = grid(karras_law(0.02, 80.0), 6, final=0.0)


def spectrum(**kwargs):
    return Spectrum.from_eigenvalues(LAM, **kwargs)


def test_ddim_is_a_product_of_squared_cosines():
    """Theory (2), over the whole range of eigenvalues a data set can have."""
    lam = np.geomspace(1e-8, 1e4, 200)
    phi = np.arctan(SIGMAS[:, None] / np.sqrt(lam))
    expected = lam * np.prod(np.cos(np.diff(phi, axis=0)) ** 2, axis=0)
    got = propagate(Spectrum.from_eigenvalues(lam), SIGMAS)
    # 1e-12: cos(pi/2 - x) loses digits of x below 1e-4, the product of gains does not.
    np.testing.assert_allclose(got[::-1], expected, rtol=1e-12)


def test_one_ddim_step_in_rationals():
    lam, s, t = Fraction(3, 10), Fraction(2), Fraction(1, 2)
    gain = (lam + s * t) / (lam + s * s)
    expected = gain**2 * (lam + s * s)
    got = propagate(Spectrum.from_eigenvalues([0.3]), [2.0, 0.5])
    np.testing.assert_allclose(got, [float(expected)], rtol=1e-14)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("start", ["marginal", "prior"])
@pytest.mark.parametrize("final", [0.0, 0.01])
def test_the_sampler_and_the_step_maps_give_one_divergence(solver, start, final):
    """`divergence` runs the sampler on eigenvalue states, `GridObjective` multiplies step maps."""
    grids = np.stack([np.append(SIGMAS[:-1], final), np.append(SIGMAS[:-1] ** 0.9 * 80**0.1, final)])
    source = spectrum(multiplicities=[1, 2, 3, 4, 5], mean_energy=[1.0, 0.5, 0.0, 0.2, 0.1])
    for objective in OBJECTIVES:
        if objective in STEPWISE and start == "prior":
            continue
        values, _ = GridObjective(source, SOLVERS[solver], objective, 0.1, start)(grids)
        direct = [
            divergence(source, sigmas, solver=solver, objective=objective, noise_floor=0.1, start=start) for sigmas in grids
        ]
        # 1e-9: kl near r = 1 is a difference of numbers of size (r-1) that is of size (r-1)^2.
        np.testing.assert_allclose(values, direct, rtol=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_gradient_is_the_slope_of_the_divergence(solver, objective):
    source = spectrum(mean_energy=[1.0, 0.5, 0.0, 0.2, 0.1])
    start = "marginal" if objective in STEPWISE else "prior"
    options = {"solver": solver, "objective": objective, "noise_floor": 0.3, "start": start}
    _, gradient = GridObjective(source, SOLVERS[solver], objective, 0.3, start)(SIGMAS[None])
    step = 1e-4
    for j in range(1, SIGMAS.size - 1):
        nudged = []
        for sign in (1, -1):
            sigmas = SIGMAS.copy()
            sigmas[j] *= np.exp(sign * step)
            nudged.append(divergence(source, sigmas, **options))
        slope = (nudged[0] - nudged[1]) / (2 * step)
        # A central difference of step 1e-4 is good to 1e-8 of the curvature, here up to 30 times the value.
        assert gradient[0, j] == pytest.approx(slope, rel=2e-6, abs=1e-6 * sum(nudged))


def test_every_divergence_of_a_distribution_from_itself_is_zero():
    for objective in ("w2", "kl", "reverse_kl"):
        assert np.all(divergence_terms(objective, LAM, LAM, 0.0, 0.5) == 0)


def test_divergence_terms_against_the_gaussian_formulas():
    """KL and W2 of one-dimensional Gaussians by quadrature of their densities and by optimal transport of quantiles."""
    from scipy.integrate import quad
    from scipy.special import ndtri

    v, q, e = 0.4, 1.3, 0.25

    def density(x, variance, mean):
        return np.exp(-((x - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)

    def kl(v1, m1, v2, m2):
        return quad(lambda x: density(x, v1, m1) * np.log(density(x, v1, m1) / density(x, v2, m2)), -12, 12)[0]

    # 1e-8: the tolerance of quad.
    assert divergence_terms("kl", v, q, e, 0.0) == pytest.approx(kl(q, 0, v, np.sqrt(e)), rel=1e-8)
    assert divergence_terms("reverse_kl", v, q, e, 0.0) == pytest.approx(kl(v, np.sqrt(e), q, 0), rel=1e-8)
    assert divergence_terms("kl", v, q, e, 0.7) == pytest.approx(kl(q + 0.49, 0, v + 0.49, np.sqrt(e)), rel=1e-8)
    transport = quad(lambda u: (np.sqrt(v) * ndtri(u) + np.sqrt(e) - np.sqrt(q) * ndtri(u)) ** 2, 0, 1)[0]
    assert divergence_terms("w2", v, q, e, 0.0) == pytest.approx(transport, rel=1e-6)  # quantiles diverge at 0 and 1


@given(
    lam=st.lists(st.floats(1e-6, 1e4), min_size=1, max_size=6),
    floor=st.floats(0.0, 10.0),
    objective=st.sampled_from(["w2", "kl", "reverse_kl"]),
)
@settings(max_examples=60, deadline=None)
def test_divergences_are_never_negative_and_blurring_never_raises_kl(lam, floor, objective):
    source = Spectrum.from_eigenvalues(lam)
    sharp = divergence(source, SIGMAS, objective=objective)
    blurred = divergence(source, SIGMAS, objective=objective, noise_floor=floor)
    assert blurred >= 0
    assert blurred <= sharp * (1 + 1e-12) + 1e-15  # data processing: blurring both sides cannot separate them


def test_prior_start_scales_the_variance_and_carries_the_mean():
    source = spectrum(mean_energy=[1.0, 0.5, 0.0, 0.2, 0.1])
    exact, prior = (propagate(source, SIGMAS, start=start) for start in ("marginal", "prior"))
    np.testing.assert_allclose(prior / exact, 80.0**2 / (LAM + 80.0**2), rtol=1e-13)
    run = reverse_trajectory(source, SIGMAS, start="prior")
    np.testing.assert_allclose(run.mean_errors[0], source.mean_energy)
    # DDIM's gain squared is the ratio of variances, so the mean's error falls by the same factor.
    np.testing.assert_allclose(run.mean_errors[-1], source.mean_energy * exact / (LAM + 80.0**2), rtol=1e-12)
    # output mean = true mean minus what is left of the initial error
    np.testing.assert_allclose(
        np.sqrt(run.mean_energies) + np.sqrt(run.mean_errors), np.tile(np.sqrt(source.mean_energy), (7, 1)), rtol=1e-12
    )


def test_the_prior_mean_error_of_a_sampler_run_on_vectors():
    """The mean's energy alone gives the same mean error as the vectors do."""
    from eigenstep import sample, wiener_gain

    mu = np.array([1.0, -0.7, 0.0, 0.4, 0.3])
    source = spectrum(mean_energy=mu**2)
    end = sample(lambda x, s: mu + wiener_gain(LAM, s) * (x - mu), np.zeros(5), SIGMAS, solver="dpmpp_2m")
    run = reverse_trajectory(source, SIGMAS, solver="dpmpp_2m", start="prior")
    np.testing.assert_allclose((end - mu) ** 2, run.mean_errors[-1], rtol=1e-10, atol=1e-18)
    np.testing.assert_allclose(end**2, run.mean_energies[-1], rtol=1e-10, atol=1e-18)


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "unipc3", "ddim_eta", "dpmpp_2m_sde"])
def test_a_trajectory_starts_exact_and_ends_where_propagate_does(solver):
    path = trajectory(spectrum(), SIGMAS, solver=solver)
    assert path.shape == (7, 5)
    np.testing.assert_allclose(path[0], LAM + 80.0**2, rtol=1e-15)
    np.testing.assert_array_equal(path[-1], propagate(spectrum(), SIGMAS, solver=solver))
    assert np.all(path > 0)


def test_trajectory_of_ddim_is_that_of_its_prefixes():
    path = trajectory(spectrum(), SIGMAS)
    for k in range(1, SIGMAS.size):
        np.testing.assert_allclose(path[k], propagate(spectrum(), SIGMAS[: k + 1]), rtol=1e-13)


def test_fine_grids_reach_the_truth_for_every_solver():
    fine = np.append(np.geomspace(80.0, 1e-3, 400), 0.0)
    for solver in SOLVERS:
        retained = retained_variance(spectrum(), fine, solver=solver)
        # First order: |ln r| <= h int phi'^2 = ln(8e4)/400 * pi/4 ... 0.05; the stochastic solvers are first order too.
        np.testing.assert_allclose(retained, 1.0, atol=0.06)


def test_zero_eigenvalues_end_exactly_and_cost_nothing():
    flat = Spectrum.from_eigenvalues([1.0, 0.0], mean_energy=[0.0, 3.0])
    plain = Spectrum.from_eigenvalues([1.0])
    for solver in SOLVERS:
        assert retained_variance(flat, SIGMAS, solver=solver)[1] == 1.0
        np.testing.assert_allclose(propagate(flat, [2.0, 1.0, 0.5], solver=solver)[1], 0.25, rtol=1e-12)
        for objective in OBJECTIVES:
            assert divergence(flat, SIGMAS, solver=solver, objective=objective) == pytest.approx(
                divergence(plain, SIGMAS, solver=solver, objective=objective), rel=1e-13
            )
    # With the prior the constant direction still ends at the mean, which D knows exactly.
    assert np.isfinite(divergence(flat, SIGMAS, objective="kl", start="prior"))


def test_a_blend_worked_by_hand():
    """DDIM 2 -> 1 -> 0 at lambda = 1: gains 3/5 and 1/2 where the truth has sqrt(2/5) and sqrt(1/2)."""
    whole = (np.sqrt(5) * 3 / 5 / 2 - 1) ** 2
    first, second = (np.sqrt(5) * 3 / 5 - np.sqrt(2)) / np.sqrt(2), np.sqrt(2) / 2 - 1
    value = divergence(Spectrum.from_eigenvalues([1.0]), [2.0, 1.0, 0.0], objective="blend")
    assert value == pytest.approx(whole + BLEND * 2 * (first**2 + second**2), rel=1e-13)


def test_local_errors_of_ddim_add_up_to_the_end_to_end_error_to_first_order():
    """All DDIM errors have one sign: n sum delta^2 >= (sum delta)^2, and sum delta -> sqrt(v) - sqrt(q)."""
    fine = grid(karras_law(0.02, 80.0), 200)
    from eigenstep.transfer import local_errors

    deltas = local_errors(SOLVERS["ddim"], LAM, fine[None]).error[0].sum(axis=0)
    ends = np.sqrt(propagate(spectrum(), fine)) - np.sqrt(LAM + fine[-1] ** 2)
    np.testing.assert_allclose(deltas, ends, rtol=0.03)  # the difference is O(1/n) of the error itself
    assert divergence(spectrum(), fine, objective="local") >= divergence(spectrum(), fine)


@pytest.mark.parametrize(("stochastic", "deterministic"), [(ddim_eta, "ddim"), (dpmpp_2m_sde, "dpmpp_2m")])
def test_eta_zero_is_the_deterministic_solver(stochastic, deterministic):
    expected = retained_variance(spectrum(), SIGMAS, solver=deterministic)
    np.testing.assert_allclose(retained_variance(spectrum(), SIGMAS, solver=stochastic(0.0)), expected, rtol=1e-13)
    # a little noise moves the result a little: the variance it adds is of order eta
    nudged = retained_variance(spectrum(), SIGMAS, solver=stochastic(1e-3))
    assert 0 < np.abs(nudged - expected).max() < 1e-2


def test_bounds_are_one_identity():
    """tr J = (d - mmse/sigma^2)/sigma^2 (Brown's identity), attained by the Gaussian; theory section 7."""
    source = spectrum(multiplicities=[1, 2, 3, 4, 5])
    sigma = np.geomspace(0.01, 100, 9)
    information = (source.dim - cramer_rao_bound(source, sigma) / sigma**2) / sigma**2
    # At sigma = 0.01 the two terms of the identity agree to 6 digits before they are subtracted.
    np.testing.assert_allclose(fisher_bound(source, sigma), information, rtol=1e-8)
    assert cramer_rao_bound(source, 0.0) == 0
    assert cramer_rao_bound(source, 1e9) == pytest.approx(source.trace, rel=1e-12)
    assert np.isinf(fisher_bound(Spectrum.from_eigenvalues([1.0, 0.0]), 0.0))


def test_the_wiener_filter_attains_the_bound():
    rng = np.random.default_rng(0)
    sigma, draws = 0.7, 200_000
    x = rng.standard_normal((draws, 5)) * np.sqrt(LAM)
    denoised = (x + sigma * rng.standard_normal(x.shape)) * LAM / (LAM + sigma**2)
    errors = ((denoised - x) ** 2).sum(axis=1)
    # five standard errors: fails once in 10^6 seeds
    assert abs(errors.mean() - cramer_rao_bound(spectrum(), sigma)) < 5 * errors.std() / np.sqrt(draws)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sigmas": [1.0, 2.0]}, "`sigmas` must be strictly descending, got 1 then 2"),
        ({"sigmas": [1.0]}, r"`sigmas` must hold n\+1 >= 2 noise levels"),
        ({"sigmas": [1.0, -0.5]}, "`sigmas` must not be negative"),
        ({"sigmas": [np.inf, 1.0]}, "`sigmas` must be finite"),
        ({"solver": "dpmpp2m"}, "Did you mean 'dpmpp_2m'"),
        ({"objective": "KL"}, "Did you mean 'kl'"),
        ({"noise_floor": -1.0}, "`noise_floor` must be at least 0, got -1"),
        ({"start": "Prior"}, "`start` must be one of marginal, prior, got 'Prior'"),
        ({"objective": "local", "start": "prior"}, "`start` must be 'marginal' for `objective`='local'"),
        ({"objective": "blend", "start": "prior"}, "`start` must be 'marginal' for `objective`='blend'"),
    ],
)
def test_refusals(arguments, message):
    call = {"sigmas": SIGMAS, **arguments}
    with pytest.raises(ValueError, match=message):
        divergence(spectrum(), call.pop("sigmas"), **call)


def test_bounds_refuse_negative_levels():
    with pytest.raises(ValueError, match="`sigmas` must not be negative, got -1"):
        cramer_rao_bound(spectrum(), [1.0, -1.0])


# ----------------------------------------------------------------------------------------------------- warm start


def correlated(n=400, seed=3):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, 6)) @ rng.standard_normal((6, 6)) + rng.standard_normal(6)


def test_warm_start_is_the_converged_ode_of_the_wiener_denoiser():
    from eigenstep import sample, warm_start

    source = Spectrum.from_samples(correlated(), basis=6)
    covariance = source.basis.T @ np.diag(source.eigenvalues) @ source.basis
    x = 20.0 * np.random.default_rng(0).standard_normal((5, 6))

    def wiener(state, sigma):
        return source.mean + (state - source.mean) @ np.linalg.inv(covariance + sigma**2 * np.eye(6)) @ covariance

    fine = sample(wiener, x, np.geomspace(20.0, 0.5, 400), solver="heun")
    # Heun with 400 steps of 1 %: third-order local errors of 1e-6 times a few hundred steps of mostly equal sign, halved.
    np.testing.assert_allclose(warm_start(source, x, 0.5, sigma_max=20.0), fine, rtol=1e-4, atol=1e-4)


def test_warm_starts_compose():
    from eigenstep import warm_start

    source = Spectrum.from_samples(correlated(), basis=4)
    x = 20.0 * np.random.default_rng(0).standard_normal((5, 6))
    halfway = warm_start(source, x, 3.0, sigma_max=20.0)
    np.testing.assert_allclose(
        warm_start(source, halfway, 0.5, sigma_max=3.0), warm_start(source, x, 0.5, sigma_max=20.0), rtol=1e-10
    )


def test_a_warm_start_from_noise_has_the_covariance_of_the_marginal():
    from eigenstep import warm_start

    data = correlated()
    source = Spectrum.from_samples(data, basis=6)
    transform = warm_start(source, np.eye(6), 0.7) - warm_start(source, np.zeros((1, 6)), 0.7)
    np.testing.assert_allclose(transform.T @ transform, np.cov(data.T) + 0.49 * np.eye(6), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(warm_start(source, np.zeros((1, 6)), 0.7)[0], data.mean(axis=0), rtol=1e-12)


def test_directions_without_an_eigenvector_shrink_like_noise():
    from eigenstep import warm_start

    source = Spectrum.from_samples(correlated(), basis=2)
    unknown = np.linalg.svd(source.basis)[2][2:]  # orthogonal to both kept vectors
    moved = warm_start(source, source.mean + unknown, 0.5, sigma_max=20.0) - source.mean
    np.testing.assert_allclose(moved, unknown * 0.5 / 20.0, atol=1e-12)


def test_warm_start_in_the_fourier_basis_is_that_of_its_rows():
    from dataclasses import replace

    from eigenstep import warm_start
    from eigenstep.moments import StationaryMoments

    moments = StationaryMoments((2, 4, 4))
    moments.update(np.random.default_rng(0).standard_normal((50, 2, 4, 4)))
    fourier = moments.spectrum(basis=1)
    noise = np.random.default_rng(1).standard_normal((3, 2, 4, 4))
    rows = fourier.basis.rows()
    expanded = replace(
        fourier,
        eigenvalues=np.repeat(fourier.eigenvalues, fourier.multiplicities.astype(int)),
        multiplicities=None,
        mean_energy=None,
        basis=rows,
    )
    np.testing.assert_allclose(warm_start(fourier, noise, 0.3), warm_start(expanded, noise, 0.3), rtol=1e-9, atol=1e-12)


def test_warm_start_refusals():
    from eigenstep import warm_start

    source = Spectrum.from_samples(correlated(), basis=2)
    with pytest.raises(ValueError, match="`spectrum` must keep its mean and leading eigenvectors"):
        warm_start(spectrum(), np.zeros((1, 5)), 1.0)
    with pytest.raises(ValueError, match=r"`x` must have shape \(m, ...\) with 6 numbers per item, got \(6,\)"):
        warm_start(source, np.zeros(6), 1.0)
    with pytest.raises(ValueError, match="`sigma_max` must exceed `sigma_min`"):
        warm_start(source, np.zeros((1, 6)), 3.0, sigma_max=2.0)
