"""Paths: inverse pairs, published configurations by value, and what each refuses."""

import math

import mpmath
import numpy as np
import pytest

from eigenstep.paths import EDM, PATHS, VE, NoisePath, RectifiedFlow, VPCosine, VPDiscrete, VPLinear

NAMES = sorted(PATHS)


def inner_times(path: NoisePath, count: int = 41) -> np.ndarray:
    return np.linspace(path.t_min, path.t_max, count)


@pytest.mark.parametrize("name", NAMES)
def test_t_and_sigma_are_inverse_to_each_other(name):
    path = PATHS[name]()
    t = inner_times(path)
    # 1e-12: the worst condition number d ln t / d ln sigma (or back) over these paths is about 60 (cosine near t_max).
    np.testing.assert_allclose(path.sigma_to_t(path.t_to_sigma(t)), t, rtol=1e-12, atol=1e-15)
    sigma = np.geomspace(path.sigma_min, path.sigma_max, 57)
    np.testing.assert_allclose(path.t_to_sigma(path.sigma_to_t(sigma)), sigma, rtol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_sigma_rises_with_t_and_the_ends_are_the_trained_range(name):
    path = PATHS[name]()
    sigma = path.t_to_sigma(inner_times(path))
    assert np.all(np.diff(sigma) > 0)
    assert sigma[0] == path.sigma_min
    assert sigma[-1] == path.sigma_max
    assert path.sigma_domain[0] <= path.sigma_min < path.sigma_max <= path.sigma_domain[1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(), (3,), (2, 1, 4)])
def test_arrays_in_arrays_out_same_shape(name, shape):
    path = PATHS[name]()
    t = np.full(shape, 0.5 * (path.t_min + path.t_max))
    for values in (path.t_to_sigma(t), path.alpha(t), path.log_snr(t), path.sigma_to_t(path.t_to_sigma(t))):
        assert isinstance(values, np.ndarray)
        assert values.shape == shape
        assert values.dtype == np.float64


@pytest.mark.parametrize("name", NAMES)
def test_log_snr_is_the_log_of_signal_over_noise_power(name):
    path = PATHS[name]()
    t = inner_times(path, 11)
    alpha, sigma = path.alpha(t), path.t_to_sigma(t)
    noise = sigma * alpha
    np.testing.assert_allclose(path.log_snr(t), np.log(alpha**2 / noise**2), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("path", [VPLinear(), VPCosine(), VPDiscrete.ddpm()])
def test_variance_preserving_paths_keep_unit_total_power(path):
    t = inner_times(path)
    alpha = path.alpha(t)
    np.testing.assert_allclose(alpha**2 + (alpha * path.t_to_sigma(t)) ** 2, 1.0, rtol=1e-14)


def test_flow_interpolates_and_its_shift_multiplies_sigma():
    t = np.linspace(0.0, 0.999, 23)
    plain, shifted = RectifiedFlow(), RectifiedFlow(shift=3.0)
    np.testing.assert_allclose(shifted.t_to_sigma(t), 3.0 * plain.t_to_sigma(t), rtol=1e-14)
    flow = 3.0 * t / (1.0 + 2.0 * t)  # diffusers' own form of the shift
    np.testing.assert_allclose(shifted.t_to_sigma(t), flow / (1.0 - flow), rtol=1e-12)
    np.testing.assert_allclose(shifted.alpha(t), 1.0 - flow, rtol=1e-12)
    # Hand-worked: u = 1/2, shift 3 -> f = 1.5/2 = 3/4, sigma = 3, alpha = 1/4.
    assert float(shifted.t_to_sigma(0.5)) == 3.0
    assert float(shifted.alpha(0.5)) == 0.25


def test_edm_is_the_identity_and_ve_is_geometric():
    assert float(EDM().t_to_sigma(3.7)) == 3.7
    assert float(EDM().alpha(3.7)) == 1.0
    np.testing.assert_allclose(VE(sigma_min=0.01, sigma_max=100.0).t_to_sigma([0.25, 0.5, 0.75]), [0.1, 1.0, 10.0])
    assert np.all(VE().alpha([0.0, 1.0]) == 1.0)


def test_vp_linear_against_the_integral_of_beta():
    path = VPLinear(beta_min=0.1, beta_max=20.0)
    for t in (0.001, 0.1, 0.5, 1.0):
        with mpmath.workdps(30):
            total = mpmath.quad(lambda s: mpmath.mpf("0.1") + s * mpmath.mpf("19.9"), [0, t])
            expected = float(mpmath.sqrt(mpmath.expm1(total)))
        assert float(path.t_to_sigma(t)) == pytest.approx(expected, rel=1e-14)
    # A constant beta (beta_max = beta_min) has no quadratic term to divide by.
    flat = VPLinear(beta_min=2.0, beta_max=2.0)
    assert float(flat.sigma_to_t(flat.t_to_sigma(0.3))) == pytest.approx(0.3, rel=1e-14)


def test_vp_cosine_against_its_definition_at_40_digits():
    path = VPCosine()
    for t in (1e-6, 0.001, 0.3, 0.9946):
        with mpmath.workdps(40):
            s = mpmath.mpf("0.008")
            level = [mpmath.cos((mpmath.mpf(u) + s) / (1 + s) * mpmath.pi / 2) ** 2 for u in (t, 0)]
            expected = float(mpmath.sqrt(level[1] / level[0] - 1))
        # 1e-11 at t = 1e-6: (t + s)/(1 + s) loses 4 of 16 digits of so small a t, in any formula.
        assert float(path.t_to_sigma(t)) == pytest.approx(expected, rel=1e-11 if t < 1e-3 else 1e-12)


def test_vp_cosine_without_offset_is_the_tangent_of_scale_one():
    t = np.linspace(0.0, 0.99, 12)
    np.testing.assert_allclose(VPCosine(s=0.0).t_to_sigma(t), np.tan(0.5 * np.pi * t), rtol=1e-13, atol=1e-16)


def exact_table(betas) -> list[float]:
    """sigma_t from betas in 40 digits, as an independent product."""
    with mpmath.workdps(40):
        product, table = mpmath.mpf(1), []
        for beta in betas:
            product *= 1 - beta
            table.append(float(mpmath.sqrt((1 - product) / product)))
    return table


def test_ddpm_linear_table():
    with mpmath.workdps(40):
        start, end = mpmath.mpf("1e-4"), mpmath.mpf("0.02")
        betas = [start + (end - start) * k / 999 for k in range(1000)]
    # 1e-12: a product of 1000 factors, each rounded once.
    np.testing.assert_allclose(VPDiscrete.ddpm().sigmas, exact_table(betas), rtol=1e-12)


def test_stable_diffusion_table_and_its_published_ends():
    path = VPDiscrete.sd15()
    with mpmath.workdps(40):
        start, end = mpmath.sqrt(mpmath.mpf("0.00085")), mpmath.sqrt(mpmath.mpf("0.012"))
        betas = [(start + (end - start) * k / 999) ** 2 for k in range(1000)]
    np.testing.assert_allclose(path.sigmas, exact_table(betas), rtol=1e-12)
    # ComfyUI and k-diffusion front ends print 0.0291675 and 14.614642, from a float32 table: 2e-5 is float32's
    # relative error of 1 - abar at abar = 0.99915.
    assert path.sigma_min == pytest.approx(0.0291675, rel=2e-5)
    assert path.sigma_max == pytest.approx(14.614642, rel=1e-6)
    # The printed maximum is above the exact one by 5e-8 of it: it must still name the last timestep.
    assert float(path.sigma_to_t(14.614642)) == 999.0


def test_squared_cosine_table_caps_its_last_step_only():
    path = VPDiscrete.squaredcos()
    with mpmath.workdps(40):
        s, cap = mpmath.mpf("0.008"), mpmath.mpf("0.999")
        level = [mpmath.cos((mpmath.mpf(k) / 1000 + s) / (1 + s) * mpmath.pi / 2) ** 2 for k in range(1001)]
        betas = [min(1 - level[k + 1] / level[k], cap) for k in range(1000)]
    assert [k for k, beta in enumerate(betas) if beta == cap] == [999]
    # 1e-11: 1 - level[k+1]/level[k] is 4e-5 at k = 0 and loses five digits there.
    np.testing.assert_allclose(path.sigmas, exact_table(betas), rtol=1e-11)
    # Uncapped entries lie on the continuous path: t = (k + 1) / 1000.
    k = np.array([0, 10, 500, 993])
    np.testing.assert_allclose(path.sigmas[k], VPCosine().t_to_sigma((k + 1) / 1000), rtol=1e-11)


def test_discrete_path_interpolates_log_sigma():
    path = VPDiscrete.from_alphas_cumprod([0.8, 0.5, 0.2])  # sigma = 1/2, 1, 2
    np.testing.assert_array_equal(path.t_to_sigma([0, 1, 2]), path.sigmas)
    np.testing.assert_allclose(path.sigmas, [0.5, 1.0, 2.0], rtol=1e-15)
    np.testing.assert_allclose(path.t_to_sigma([0.5, 1.5]), [math.sqrt(0.5), math.sqrt(2.0)], rtol=1e-15)
    np.testing.assert_allclose(path.sigma_to_t([2.0**-0.25, 2.0**0.5]), [0.75, 1.5], rtol=1e-14)


def test_discrete_path_agrees_with_k_diffusion():
    # Numbers from running k-diffusion's DiscreteSchedule.sigma_to_t / t_to_sigma (crowsonkb/k-diffusion at 4601bf0) in
    # float64 on Stable Diffusion's table.
    path = VPDiscrete.sd15()
    t = [965.744610328774, 697.4045234976975, 353.89041059493974, 125.00824308570633, 1.9338543555603032]
    np.testing.assert_allclose(path.sigma_to_t([12.0, 3.3, 1.0, 0.4, 0.05]), t, rtol=1e-12)
    sigma = [14.54831685795818, 1.6209831940804367, 0.12760093412703255, 0.03787038420615993]
    np.testing.assert_allclose(path.t_to_sigma([998.25, 500.5, 17.125, 0.75]), sigma, rtol=1e-12)


def test_from_betas_and_from_alphas_cumprod_agree():
    betas = np.random.default_rng(7).uniform(1e-3, 0.1, 50)
    by_product = VPDiscrete.from_alphas_cumprod(np.cumprod(1.0 - betas))
    np.testing.assert_array_equal(VPDiscrete.from_betas(betas).sigmas, by_product.sigmas)


def test_zero_terminal_snr_is_named_or_stood_for_never_nan():
    with pytest.raises(ValueError, match=r"`alphas_cumprod` must be positive, got 0 at its last timestep 2 \(zero"):
        VPDiscrete.from_alphas_cumprod([0.8, 0.5, 0.0])
    with pytest.raises(ValueError, match="pass terminal=2"):
        VPDiscrete.from_betas([0.2, 0.375, 1.0])
    path = VPDiscrete.from_betas([0.2, 0.375, 1.0], terminal=2.0**-24)
    assert path.sigma_max == pytest.approx(math.sqrt(2.0**24 - 1), rel=1e-14)
    with pytest.raises(ValueError, match="`terminal` must be greater than 0 and less than 1, got 0"):
        VPDiscrete.from_betas([0.2, 0.375, 1.0], terminal=0.0)


@pytest.mark.parametrize("path", [VPCosine(), RectifiedFlow()])
def test_pure_noise_is_refused_by_name(path):
    with pytest.raises(ValueError, match=r"`t` must lie between 0 and 0\.999999999 on .*got 1; at t = 1 no signal"):
        path.t_to_sigma(1.0)
    assert float(path.sigma_to_t(0.0)) == 0.0
    assert float(path.t_to_sigma(0.0)) == 0.0
    assert float(path.log_snr(0.0)) == np.inf


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: VPDiscrete.sd15().sigma_to_t([14.0, 0.0]), "`sigma` must lie between 0.029.* got 0; .*drop it"),
        (lambda: VPDiscrete.sd15().sigma_to_t(80.0), "on VPDiscrete, got 80; this path is trained from sigma 0.029"),
        (lambda: VPDiscrete.sd15().t_to_sigma(1000), "`t` must lie between 0 and 999 on VPDiscrete, got 1000"),
        (lambda: VPLinear().t_to_sigma(-0.1), "`t` must lie between 0 and 1 on VPLinear, got -0.1"),
        (lambda: VE().sigma_to_t(60.0), "`sigma` must lie between 0.01 and 50 on VE, got 60"),
        (lambda: EDM().sigma_to_t([1.0, math.nan]), "`sigma` must be finite, got 1 NaN or infinite value"),
        (lambda: EDM().t_to_sigma(math.inf), "`t` must be finite"),
        (lambda: VPLinear(beta_min=0.0), "`beta_min` must be greater than 0, got 0"),
        (lambda: VPLinear(beta_min=2.0, beta_max=1.0), "`beta_max` must be at least 2, got 1"),
        (lambda: VPLinear(t_min=1.0), "`t_min` must be greater than 0 and less than 1, got 1"),
        (lambda: VPCosine(s=-1.0), "`s` must be at least 0, got -1"),
        (lambda: VPCosine(t_max=1.0), "`t_max` must be below 1 on a cosine path, got 1: at t = 1 no signal"),
        (lambda: RectifiedFlow(t_max=1.0), "`t_max` must be below 1 on a flow path, got 1: .*sigma is infinite"),
        (lambda: RectifiedFlow(t_min=0.5, t_max=0.4), "`t_max` must exceed `t_min`, got 0.4 and 0.5"),
        (lambda: RectifiedFlow(shift=0.0), "`shift` must be greater than 0, got 0"),
        (lambda: VE(sigma_min=2.0, sigma_max=1.0), "`sigma_max` must exceed `sigma_min`, got 1 and 2"),
        (lambda: EDM(sigma_max=math.inf), "`sigma_max` must be finite, got inf"),
        (lambda: VPDiscrete(np.array([1.0])), "`sigmas` must hold at least 2 timesteps, got 1"),
        (lambda: VPDiscrete(np.array([0.0, 1.0])), "`sigmas` must be positive and strictly ascending in t, got 0 at"),
        (lambda: VPDiscrete(np.array([0.1, 0.3, 0.2])), "strictly ascending in t, got 0.2 at timestep 2"),
        (lambda: VPDiscrete.from_alphas_cumprod([1.0, 0.5]), "strictly between 0 and 1, got 1 at timestep 0"),
        (lambda: VPDiscrete.from_alphas_cumprod([[0.5]]), r"must have 1 dimension, got shape \(1, 1\)"),
        (lambda: VPDiscrete.from_betas([0.1, -0.2]), r"`betas` must lie in \(0, 1\], got -0.2 at timestep 1"),
        (lambda: VPDiscrete.ddpm(n_timesteps=1), "`n_timesteps` must be at least 2, got 1"),
        (lambda: VPDiscrete.squaredcos(max_beta=1.0), "`max_beta` must be greater than 0 and less than 1, got 1"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_path_cannot_be_changed_behind_its_back():
    table = np.array([0.5, 1.0, 2.0])
    path = VPDiscrete(table)
    table[0] = 9.0
    assert path.sigma_min == 0.5
    with pytest.raises(ValueError, match="read-only"):
        path.sigmas[0] = 9.0
    with pytest.raises(AttributeError):
        EDM().sigma_max = 3.0  # type: ignore[misc]


def test_only_discrete_paths_count_their_timesteps():
    counts = {name: PATHS[name]().n_timesteps for name in NAMES}
    assert counts == {
        "ddpm": 1000, "edm": None, "flow": None, "flow-shift3": None, "sd15": 1000, "squaredcos": 1000,
        "ve": None, "vp-cosine": None, "vp-linear": None,
    }
    assert repr(VPDiscrete.sd15()) == "VPDiscrete(1000 timesteps, sigma 0.0291672 to 14.6146)"
