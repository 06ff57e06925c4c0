"""The solvers: parity by value with the programs people sample with, hand-worked steps, orders, and samples against maps.

The reference numbers are what the hosts' own samplers return in float64 on the two problems below: k-diffusion
(crowsonkb/k-diffusion at 4601bf0), diffusers 0.42.1 (sigmas and timesteps set by hand on the scheduler, its sample being
alpha times ours, alpha = 1/sqrt(1 + sigma^2), and its casts to float32 replaced by float64) and ComfyUI
(Comfy-Org/ComfyUI at a125cd8). Stochastic samplers were given the recorded `NOISE`.
"""

import math
from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import mpmath
import numpy as np
import pytest

from eigenstep.gaussian import propagate
from eigenstep.grids import exponential_law, grid, karras_law
from eigenstep.solvers import SOLVERS, StepContext, ddim_eta, dpmpp_2m_sde, sample, solver_named
from eigenstep.spectrum import Spectrum

DETERMINISTIC = [name for name, solver in SOLVERS.items() if not solver.stochastic]
STOCHASTIC = [name for name, solver in SOLVERS.items() if solver.stochastic]

# ---------------------------------------------------------------------------------------------------------------------
# Parity with the hosts by value

GRIDS = {
    "zero": [14.6, 6.1, 2.5, 1.1, 0.45, 0.12, 0.0],
    "above": [14.6, 6.1, 2.5, 1.1, 0.45, 0.12, 0.02],
}
NOISE = np.array([
    [0.001, 0.299, -0.274, -0.891],
    [0.06, 1.34, -0.492, -0.62],
    [0.105, -0.93, -0.029, 0.695],
    [-1.901, -1.29, -1.842, -0.235],
    [0.157, -0.187, -2.517, -0.539],
    [-1.53, -0.478, -0.979, -0.809],
])

LAM = np.array([9.0, 0.5, 0.001, 0.0])
WIENER_START = np.array([11.0, -7.5, 4.0, 13.0])


def wiener(x, sigma):
    return LAM / (LAM + sigma**2) * x


MEANS = np.array([[1.0, -0.5, 0.25], [-1.5, 1.0, 0.0]])
VARIANCES = np.array([[0.5, 0.1, 0.02], [0.2, 0.4, 0.01]])
LOG_WEIGHTS = np.log([0.3, 0.7])
MIXTURE_START = np.array([3.0, -9.0, 1.5])


def mixture(x, sigma):
    """Exact posterior mean of a mixture of two Gaussians: nonlinear, so that it mixes the coordinates."""
    total = VARIANCES + sigma**2
    offset = x - MEANS
    log_p = LOG_WEIGHTS - 0.5 * (offset**2 / total + np.log(total)).sum(axis=1)
    p = np.exp(log_p - log_p.max())
    return (p / p.sum()) @ (MEANS + VARIANCES / total * offset)


# First line of each entry: Wiener filter; second: mixture.
PARITY = {
    # k-diffusion 4601bf0 sample_euler; diffusers 0.42.1 EulerDiscreteScheduler and DDIMScheduler give the same
    ("ddim", "zero"): [
        1.7933789993943854, -0.28197797608414954, 0.0021668206671721472, 0.0,
        -0.5163147074037822, -0.0032948130370373634, 0.0995600226578495,
    ],
    ("ddim", "above"): [
        1.793857233794224, -0.28333147036935347, 0.007367190268385306, 0.017808219178082188,
        -0.5122275527486206, -0.0026565428444877384, 0.10330470730211565,
    ],
    # k-diffusion 4601bf0 sample_heun
    ("heun", "zero"): [
        2.4553908270634333, -0.40087522413809273, 0.002311804899439558, 0.0,
        0.02858577266662047, -0.4276413537093093, 0.23820326164518488,
    ],
    ("heun", "above"): [
        2.4574096433414456, -0.406804973017094, 0.016116582727521474, 0.017808219178082202,
        0.0142902357018441, -0.4223391433498103, 0.23403154861487693,
    ],
    # k-diffusion 4601bf0 sample_dpm_2
    ("dpm_2", "zero"): [
        2.3297766392622345, -0.3828432098507504, 0.002221018976470715, 0.0,
        -0.04385381061833088, -0.387066055865732, 0.24056906921533114,
    ],
    ("dpm_2", "above"): [
        2.3322356220557934, -0.3900920385617, 0.012190141377313637, 0.017808219178082202,
        -0.06335795981998933, -0.37666998159001885, 0.23689811570910424,
    ],
    # k-diffusion 4601bf0 sample_dpmpp_2s_ancestral(eta=0)
    ("dpmpp_2s", "zero"): [
        2.127508140259157, -0.3399124735703126, 0.0021951365745647433, 0.0,
        -0.1923236271459744, -0.27649827006418265, 0.21466017582435934,
    ],
    ("dpmpp_2s", "above"): [
        2.128760582229723, -0.3435054373761103, 0.00933512785283764, 0.017808219178082188,
        -0.20372228656550656, -0.2656434721605763, 0.20796992952858057,
    ],
    # k-diffusion 4601bf0 sample_dpmpp_2m; diffusers 0.42.1 DPMSolverMultistepScheduler(solver_order=2) the same onto 0
    ("dpmpp_2m", "zero"): [
        2.2742212912236894, -0.36560715407928673, 0.0021803580480264854, 0.0,
        -0.21123118531546514, -0.3210165148652459, 0.20477914448712567,
    ],
    ("dpmpp_2m", "above"): [
        2.3366902245676218, -0.40984362396118423, 0.00830191271925536, 0.017808219178082188,
        -0.16504153981337605, -0.414199231848995, 0.22811496689850977,
    ],
    # diffusers 0.42.1 DPMSolverMultistepScheduler(solver_order=3)
    ("dpmpp_3m", "zero"): [
        2.3106572030535197, -0.38779886531016156, 0.002180892440724061, 0.0,
        -0.11202017650592408, -0.3971110034344633, 0.2186727452705672,
    ],
    ("dpmpp_3m", "above"): [
        2.3112733783076678, -0.3896602998636503, 0.0074150342984618065, 0.017808219178082188,
        -0.11724357469268126, -0.39470650823898507, 0.21512845600531033,
    ],
    # ComfyUI a125cd8 sample_ipndm(max_order=2)
    ("ipndm2", "zero"): [
        2.111551984405107, -0.33316883562298955, 0.0021752550158449188, 0.0,
        -0.2880034495649355, -0.2296697261388618, 0.18821277112464865,
    ],
    ("ipndm2", "above"): [
        2.1159078990330005, -0.3436130654584425, 0.008000214623912538, 0.017808219178082216,
        -0.28101560458632824, -0.23726117091280108, 0.195850179759897,
    ],
    # ComfyUI a125cd8 sample_ipndm(max_order=3)
    ("ipndm3", "zero"): [
        2.16367432411697, -0.3567892928780908, 0.002180322613858272, 0.0,
        -0.1739777824791844, -0.3308894101487429, 0.2114373554366987,
    ],
    ("ipndm3", "above"): [
        2.1656123529283886, -0.3686009834221046, 0.008441865963198538, 0.01780821917808202,
        -0.1760817203536274, -0.3197362731058448, 0.2216650472878083,
    ],
    # ComfyUI a125cd8 sample_ipndm(max_order=4)
    ("ipndm4", "zero"): [
        2.128880551640026, -0.36593755600130523, 0.002183624796667073, 0.0,
        -0.1350358731345185, -0.3701685569855299, 0.21920396084383328,
    ],
    ("ipndm4", "above"): [
        2.1303488628725065, -0.37617386967732563, 0.008795653551023293, 0.017808219178081466,
        -0.1547516116927128, -0.32903707283601896, 0.22627174165403338,
    ],
    # diffusers 0.42.1 DEISMultistepScheduler(solver_order=2), which has no step onto 0
    ("deis2", "above"): [
        2.0733334755239357, -0.3366932713311847, 0.0074000616158857, 0.01780821917808212,
        -0.31777454065883326, -0.2174458157029685, 0.17918571815001733,
    ],
    # diffusers 0.42.1 DEISMultistepScheduler(solver_order=3)
    ("deis3", "above"): [
        2.1231035843435357, -0.3471581656298488, 0.0073996375014734155, 0.017808219178082105,
        -0.24431944356144034, -0.26825656815662574, 0.19433226873238899,
    ],
    # diffusers 0.42.1 UniPCMultistepScheduler(solver_order=2)
    ("unipc2", "zero"): [
        2.339547762914523, -0.3768652612684097, 0.002181725436044469, 0.0,
        -0.1354009874386595, -0.3761923085220915, 0.21608399665544667,
    ],
    ("unipc2", "above"): [
        2.332442223018872, -0.375974003882235, 0.007489997621252816, 0.017808219178082188,
        -0.14566368563584156, -0.36249256913180294, 0.2118801473783709,
    ],
    # diffusers 0.42.1 UniPCMultistepScheduler(solver_order=3); ComfyUI a125cd8 sample_unipc_bh2 the same above 0
    ("unipc3", "zero"): [
        2.371078145160451, -0.3959421822971185, 0.002181678657799354, 0.0,
        -0.01974074721895634, -0.4519405333211199, 0.22993791532234636,
    ],
    ("unipc3", "above"): [
        2.3648069172628645, -0.394478411116472, 0.007489815571144794, 0.017808219178082188,
        -0.033489729373674254, -0.43654208070878786, 0.22584137221747258,
    ],
    # k-diffusion 4601bf0 sample_euler_ancestral; diffusers 0.42.1 DDIMScheduler(eta=1) the same
    ("euler_ancestral", "zero"): [
        -0.1264074591517053, -0.4358754037124735, -0.02284474621347371, 0.0,
        -1.7096945008853497, 0.43782134901868197, -0.15593048949746094,
    ],
    ("euler_ancestral", "above"): [
        -0.15658508415480898, -0.44565039115651556, -0.05128878505771166, -0.017768137307466965,
        -1.7402858983054614, 0.4278328865155196, -0.18147385166968028,
    ],
    # k-diffusion 4601bf0 sample_euler_ancestral(eta=0.5); diffusers 0.42.1 DDIMScheduler(eta=0.5) the same
    ("ddim_eta=0.5", "zero"): [
        1.1774313904225413, -0.2580101203596704, -0.016014186735696878, 0.0,
        -1.2942393137695751, 0.41226503975112067, -0.10521296641113753,
    ],
    ("ddim_eta=0.5", "above"): [
        1.1626185590780644, -0.2638007458157888, -0.05910586051744215, -0.009134200496339624,
        -1.307177287443539, 0.404484116181051, -0.13683545575198142,
    ],
    # k-diffusion 4601bf0 sample_dpmpp_2m_sde; diffusers 0.42.1 sde-dpmsolver++ the same onto 0
    ("dpmpp_2m_sde", "zero"): [
        -0.5349937529326344, -0.7934855294084262, -0.02301062033290294, 0.0,
        -2.1149697964445733, 0.23705155728948402, -0.17143994273166466,
    ],
    ("dpmpp_2m_sde", "above"): [
        -0.8745799922136246, -1.0178775781798108, -0.06408655835388744, -0.01776813730746696,
        -2.346569486374389, 0.0633584406235119, -0.28591532032237726,
    ],
    # k-diffusion 4601bf0 sample_dpmpp_2m_sde(eta=0.3)
    ("dpmpp_2m_sde=0.3", "zero"): [
        0.7576954761519542, -0.4555271915091798, -0.021987467820725914, 0.0,
        -1.8019763389807066, 0.4144503323743682, -0.16082048069056398,
    ],
    ("dpmpp_2m_sde=0.3", "above"): [
        0.5898390064312184, -0.5846132165959498, -0.08029971584566022, -0.017833254840350428,
        -1.9680509046843513, 0.31362932471457233, -0.2798514643691001,
    ],
}


def by_parity_name(name):
    base, _, eta = name.partition("=")
    return {"ddim_eta": ddim_eta, "dpmpp_2m_sde": dpmpp_2m_sde}[base](float(eta)) if eta else SOLVERS[base]


@pytest.mark.parametrize(("name", "end"), PARITY, ids=lambda part: part)
def test_a_run_gives_the_hosts_numbers(name, end):
    solver = by_parity_name(name)
    for denoiser, start, theirs in (
        (wiener, WIENER_START, PARITY[name, end][:4]),
        (mixture, MIXTURE_START, PARITY[name, end][4:]),
    ):
        ours = sample(denoiser, start, GRIDS[end], solver=solver, noise=lambda k, m=start.size: NOISE[k, :m])
        # 1e-12: one algorithm in float64 written twice, a few dozen roundings apart (2e-14 at most was seen).
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-15)


def test_every_solver_has_a_host_to_agree_with():
    stored = {by_parity_name(name).name for name, _ in PARITY}
    assert stored == {solver.name for solver in SOLVERS.values()}


# ---------------------------------------------------------------------------------------------------------------------
# Hand-worked steps. lambda = 2: w(4) = 1/9, w(2) = 1/3, w(1) = 2/3; the geometric mean of 4 and 1 is 2; L = ln 2.

L = math.log(2.0)
ROOT_3 = math.sqrt(3.0)


def hand_wiener(x, sigma):
    return 2 / (2 + sigma**2) * x


HAND = {
    # D = 1: 1 + (9 - 1)/2
    ("ddim", (4, 2)): Fraction(5),
    # d = 2, Euler to 5, there D = 5/3 and d = 5/3: 9 - 2 (2 + 5/3)/2
    ("heun", (4, 2)): Fraction(16, 3),
    # to 5 at sigma 2, d = 5/3 there: 9 - 3 (5/3)
    ("dpm_2", (4, 1)): Fraction(4),
    # the same midpoint, D = 5/3: 5/3 + (9 - 5/3)/4
    ("dpmpp_2s", (4, 1)): Fraction(7, 2),
    # 9 -> 5, then D = 5/3 extrapolated to 2 (r = 1): 2 + (5 - 2)/2
    ("dpmpp_2m", (4, 2, 1)): Fraction(7, 2),
    # d = 2, then 5/3: 5 - (3/2 5/3 - 1/2 2)
    ("ipndm2", (4, 2, 1)): Fraction(7, 2),
    # d = 2; x = 7, d = 21/11; x = 113/22, d = 113/66: 113/22 - (23/12 113/66 - 16/12 21/11 + 5/12 2)
    ("ipndm3", (4, 3, 2, 1)): Fraction(113, 22) - (Fraction(2599, 792) - Fraction(28, 11) + Fraction(5, 6)),
    # 9 -> 5, corrected by half the change of D: 5 + (1/2)(1/2)(5/3 - 1) = 31/6; last: 5/3 + (31/6 - 5/3)/2
    ("unipc2", (4, 2, 1)): Fraction(41, 12),
    # sigma_up^2 = 4 12/16 = 3, sigma_down = 1: 1 + 8/4, and sqrt 3 times the noise
    ("euler_ancestral", (4, 2)): 3 + ROOT_3,
    # 9/4 + 3/4 1 + 2 sqrt(3/4)
    ("dpmpp_2m_sde", (4, 2)): 3 + ROOT_3,
    # from x = 3 + sqrt 3, D = x/3, D_bar = D + (D - 1)/2: x/4 + 3/4 D_bar + sqrt(3/4)
    ("dpmpp_2m_sde", (4, 2, 1)): (3 + ROOT_3) / 4 + 0.75 * ((3 + ROOT_3) / 2 - 0.5) + ROOT_3 / 2,
}


@pytest.mark.parametrize(("name", "sigmas"), HAND, ids=str)
def test_steps_worked_by_hand(name, sigmas):
    # Orders kept to the end, so that a multistep formula shows in three steps at most.
    solver = replace(SOLVERS[name], lower_order_final=name.startswith("unipc"))
    end = sample(hand_wiener, 9.0, sigmas, solver=solver, noise=lambda k: 1.0)
    assert end == pytest.approx(float(HAND[name, sigmas]), rel=1e-14)  # fewer than 20 roundings


def direct_step(name, denoise, x, history, sigma, sigma_next, *, order, last=False):
    context = StepContext(order=order, last=last, noise=lambda: 0.0)
    return SOLVERS[name].step(denoise, x, history, sigma, sigma_next, context)[0]


def test_ddim_is_exact_in_rationals():
    x = direct_step("ddim", hand_wiener, Fraction(9), (), Fraction(4), Fraction(2), order=1)
    assert isinstance(x, Fraction)
    assert x == 5


def test_deis2_by_hand():
    # y = -L, y_1 = L, moments -1 and 1 - L: weights -1/L and (1 - L)/L on d = 5/3 and 2.
    x = direct_step("deis2", hand_wiener, 5.0, ((4.0, 2.0),), 2.0, 1.0, order=2)
    assert x == pytest.approx(3 + 1 / (3 * L), rel=1e-14)


def test_dpmpp_3m_by_hand():
    # D = 3, 2, 0 at sigma = 2, 4, 8: slopes 1 and 2, first = 1/2, second = -1/2, phi_2 = 1 - 1/(2L), phi_3 = phi_2/L - 1/2.
    x = direct_step("dpmpp_3m", lambda x, sigma: 3.0, 5.0, ((4.0, 2.0), (8.0, 0.0)), 2.0, 1.0, order=3)
    assert x == pytest.approx(17 / 4 + 1 / (4 * L) - 1 / (4 * L**2), rel=1e-14)


# ---------------------------------------------------------------------------------------------------------------------
# What a formula integrates exactly, against quadrature of the ODE: an independent route to the weights


POLYNOMIAL = (0.7, -1.3, 0.9, 0.4)  # coefficients of ln(sigma)^i, or of sigma^i
LEVELS = (3.1, 2.3, 1.9, 1.2, 0.8)  # unequally spaced, oldest first


def polynomial(y, degree):
    return sum(c * y**i for i, c in enumerate(POLYNOMIAL[: degree + 1]))


def exact_for_denoised(x, sigma, sigma_next, degree):
    """x' = (s'/s) x + s' int_s'^s D(rho)/rho^2 d rho, with D a polynomial in ln rho."""
    with mpmath.workdps(30):
        integral = mpmath.quad(lambda rho: polynomial(mpmath.log(rho), degree) / rho**2, [sigma_next, sigma])
        return float(mpmath.mpf(sigma_next) / sigma * x + sigma_next * integral)


def exact_for_derivative(x, sigma, sigma_next, slope):
    with mpmath.workdps(30):
        return float(x + mpmath.quad(slope, [sigma, sigma_next]))


@pytest.mark.parametrize(("order", "degree"), [(2, 1), (2, 2), (3, 3)])
def test_unipc_integrates_an_output_polynomial_in_log_sigma(order, degree):
    """Predictor and corrector of order p fit p + 1 outputs: degree p is exact for p = 2 and 3."""
    def denoise(x, sigma):
        return polynomial(math.log(sigma), degree)

    past = [(s, denoise(0.0, s)) for s in LEVELS[3::-1]][:order]
    ours = direct_step(f"unipc{order}", denoise, 1.7, tuple(past), LEVELS[3], LEVELS[4], order=order)
    assert ours == pytest.approx(exact_for_denoised(1.7, LEVELS[3], LEVELS[4], degree), rel=1e-13)


def test_unipc_last_step_is_the_predictor_alone_and_that_of_order_3_integrates_a_quadratic():
    def no_call(x, sigma):
        raise AssertionError("the last step needs no model output beyond its history")

    past = tuple((s, polynomial(math.log(s), 2)) for s in LEVELS[3:0:-1])
    ours = direct_step("unipc3", no_call, 1.7, past, LEVELS[3], LEVELS[4], order=3, last=True)
    assert ours == pytest.approx(exact_for_denoised(1.7, LEVELS[3], LEVELS[4], 2), rel=1e-13)


@pytest.mark.parametrize("order", [2, 3])
def test_deis_integrates_a_slope_polynomial_in_log_sigma(order):
    def slope(sigma):
        return polynomial(mpmath.log(sigma), order - 1)

    past = tuple((s, float(slope(s))) for s in LEVELS[2::-1])
    ours = direct_step(f"deis{order}", lambda x, s: x - s * float(slope(s)), 1.7, past, LEVELS[3], LEVELS[4], order=order)
    assert ours == pytest.approx(exact_for_derivative(1.7, LEVELS[3], LEVELS[4], slope), rel=1e-12)  # moments cancel


@pytest.mark.parametrize("order", [2, 3, 4])
def test_ipndm_integrates_a_slope_polynomial_in_sigma_on_equal_steps(order):
    levels = [3.0, 2.5, 2.0, 1.5, 1.0]
    past = tuple((s, polynomial(s, order - 1)) for s in levels[2::-1])
    ours = direct_step(
        f"ipndm{order}", lambda x, s: x - s * polynomial(s, order - 1), 1.7, past, levels[3], levels[4], order=order
    )
    exact = exact_for_derivative(1.7, levels[3], levels[4], lambda s: polynomial(s, order - 1))
    assert ours == pytest.approx(exact, rel=1e-13)


def test_dpmpp_3m_integrates_a_straight_output_but_half_the_curvature_of_a_parabola():
    """The published third-order weight is phi_3 where phi_3 * 2 is exact: why its accuracy is of second order."""
    sigma, sigma_next = LEVELS[3], LEVELS[4]
    for degree in (1, 2):
        past = tuple((s, polynomial(math.log(s), degree)) for s in LEVELS[2:0:-1])
        ours = direct_step(
            "dpmpp_3m", lambda x, s, d=degree: polynomial(math.log(s), d), 1.7, past, sigma, sigma_next, order=3
        )
        h = math.log(sigma / sigma_next)
        phi_3 = ((math.exp(-h) - 1) / h + 1) / h - 0.5
        second = POLYNOMIAL[2] * h**2 if degree == 2 else 0.0
        exact = exact_for_denoised(1.7, sigma, sigma_next, degree)
        assert ours - phi_3 * second == pytest.approx(exact, rel=1e-13)


# ---------------------------------------------------------------------------------------------------------------------
# Order of accuracy of whole runs

SECOND_ORDER = {name: 2.0 for name in SOLVERS if SOLVERS[name].order > 1}
FIRST_ORDER = {name: 1.0 for name in SOLVERS if SOLVERS[name].order == 1}


def slope_of_the_variance_error(solver):
    spectrum = Spectrum.from_eigenvalues([0.5])
    errors = []
    for n in (256, 512):
        sigmas = grid(karras_law(0.3, 3.0, rho=3.0), n)
        errors.append(propagate(spectrum, sigmas, solver=solver)[0] / (0.5 + sigmas[-1] ** 2) - 1.0)
    return math.log2(errors[0] / errors[1])


@pytest.mark.parametrize(("name", "order"), (FIRST_ORDER | SECOND_ORDER).items(), ids=str)
def test_error_of_the_output_variance_falls_with_the_stated_order(name, order):
    """Order 2 for everything above order 1: a multistep run starts, and diffusers' ends, with a first-order step."""
    # 0.02: what the next order in 1/n still contributes at n = 256 is 0.009 at most.
    assert slope_of_the_variance_error(SOLVERS[name]) == pytest.approx(order, abs=0.02)


def test_unipc2_reaches_its_correctors_order_when_the_last_steps_keep_theirs():
    assert slope_of_the_variance_error(replace(SOLVERS["unipc2"], lower_order_final=False)) == pytest.approx(3.0, abs=0.02)


# ---------------------------------------------------------------------------------------------------------------------
# Samples against the linear maps of the Gaussian reference

SPECTRUM = Spectrum.from_eigenvalues([9.0, 1.0, 0.1, 1e-3, 0.0])


def spectrum_wiener(x, sigma):
    return SPECTRUM.eigenvalues / (SPECTRUM.eigenvalues + sigma**2) * x


@pytest.mark.parametrize("end", GRIDS)
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_runs_multiply_by_the_gain_that_propagate_squares(name, end):
    sigmas = GRIDS[end]
    start = np.random.default_rng(3).standard_normal((7, 5)) * np.sqrt(SPECTRUM.eigenvalues + sigmas[0] ** 2)
    ratio = sample(spectrum_wiener, start, sigmas, solver=name) / start
    variances = ratio**2 * (SPECTRUM.eigenvalues + sigmas[0] ** 2)
    expected = np.broadcast_to(propagate(SPECTRUM, sigmas, solver=name), variances.shape)
    # 1e-12: the same products for every sample; the sample's own size makes the roundings differ.
    np.testing.assert_allclose(variances, expected, rtol=1e-12, atol=1e-30)


def check_sampled_variances(n_samples, seed):
    rng = np.random.default_rng(seed)
    shape = (n_samples, SPECTRUM.eigenvalues.size)
    worst = 0.0
    for name, solver in SOLVERS.items():
        for sigmas in (grid(karras_law(0.02, 20.0), 5, final=0.0), grid(exponential_law(0.05, 20.0), 4)):
            start = rng.standard_normal(shape) * np.sqrt(SPECTRUM.eigenvalues + sigmas[0] ** 2)
            end = sample(spectrum_wiener, start, sigmas, solver=solver, noise=lambda k: rng.standard_normal(shape))
            expected = propagate(SPECTRUM, sigmas, solver=name)
            # The second moment of n normals of variance v has standard error v sqrt(2/n); lambda = 0 has v = 0 at sigma 0.
            distance = np.abs((end**2).mean(axis=0) - expected)
            error = expected * math.sqrt(2 / n_samples)
            # 4: of these 153 comparisons of independent runs one lies beyond it for one seed in a hundred.
            assert np.all(distance <= 4 * error), (name, distance, error)
            worst = max(worst, float(np.max(distance[error > 0] / error[error > 0])))
    assert worst > 1.0  # sampling noise is really there, or nothing was compared


def test_sampled_variances_agree_with_propagate():
    check_sampled_variances(100_000, seed=11)


@pytest.mark.slow
def test_a_million_samples_agree_with_propagate():
    check_sampled_variances(1_000_000, seed=12)


@pytest.mark.parametrize("final", [0.0, None])
def test_ddim_retains_the_product_of_squared_cosines(final):
    """Theory (2) at 40 digits, from 1e-8 to 1e4."""
    eigenvalues = np.logspace(4, -8, 13)
    sigmas = grid(karras_law(0.002, 80.0), 10, final=final)
    ours = propagate(Spectrum.from_eigenvalues(eigenvalues), sigmas)
    for lam, variance in zip(eigenvalues, ours, strict=True):
        with mpmath.workdps(40):
            root = mpmath.sqrt(mpmath.mpf(float(lam)))
            angles = [mpmath.atan(mpmath.mpf(float(s)) / root) for s in sigmas]
            retained = mpmath.fprod(mpmath.cos(a - b) ** 2 for a, b in pairwise(angles))
            exact = float((mpmath.mpf(float(lam)) + mpmath.mpf(float(sigmas[-1])) ** 2) * retained)
        assert variance == pytest.approx(exact, rel=1e-12, abs=0.0), lam  # 10 factors of a few roundings each


@pytest.mark.parametrize("name", SOLVERS)
def test_a_direction_without_data_follows_the_noise_exactly(name):
    """lambda = 0: D = 0, so the variance must be sigma^2 at every level, whatever the solver."""
    spectrum = Spectrum.from_eigenvalues([1.0, 0.0])
    sigmas = GRIDS["above"]
    # 1e-11: iPNDM's large weights of opposite signs cancel to x' = (sigma'/sigma) x.
    assert propagate(spectrum, sigmas, solver=name)[1] == pytest.approx(sigmas[-1] ** 2, rel=1e-11)
    assert propagate(spectrum, GRIDS["zero"], solver=name)[1] == pytest.approx(0.0, abs=1e-30)


# ---------------------------------------------------------------------------------------------------------------------
# The run itself


def operand(other):
    """What a framework's array is sure to take: its own kind or a Python number, not a numpy scalar."""
    assert type(other) in (Arithmetic, float, int), type(other)
    return getattr(other, "value", other)


class Arithmetic:
    """An array with the operators a step may use and nothing else."""

    __array_ufunc__ = None  # a numpy scalar on the left hands the operation over, to be refused by `operand`

    def __init__(self, value):
        self.value = np.asarray(value)

    def __add__(self, other):
        return Arithmetic(self.value + operand(other))

    def __sub__(self, other):
        return Arithmetic(self.value - operand(other))

    def __rsub__(self, other):
        return Arithmetic(operand(other) - self.value)

    def __mul__(self, other):
        return Arithmetic(self.value * operand(other))

    def __truediv__(self, other):
        return Arithmetic(self.value / operand(other))

    __radd__ = __add__
    __rmul__ = __mul__


@pytest.mark.parametrize("name", SOLVERS)
def test_steps_need_only_the_four_operations(name):
    def denoise(x, sigma):
        assert type(sigma) is float  # numpy's float64 is a float too
        return Arithmetic(wiener(x.value, sigma))

    bare = sample(denoise, Arithmetic(WIENER_START), GRIDS["above"], solver=name, noise=lambda k: Arithmetic(NOISE[k]))
    full = sample(wiener, WIENER_START, GRIDS["above"], solver=name, noise=lambda k: NOISE[k])
    assert np.array_equal(bare.value, full)


@pytest.mark.parametrize("end", GRIDS)
@pytest.mark.parametrize("name", SOLVERS)
def test_nfe_counts_the_calls_and_a_grid_to_zero_ends_with_the_models_output(name, end):
    outputs = []

    def denoise(x, sigma):
        assert sigma > 0  # no model is called at sigma = 0
        outputs.append(mixture(x, sigma))
        return outputs[-1]

    states = []
    x = sample(
        denoise,
        MIXTURE_START,
        GRIDS[end],
        solver=name,
        noise=lambda k: NOISE[k, :3],
        callback=lambda k, x: states.append((k, x)),
    )
    assert len(outputs) == SOLVERS[name].nfe(6, final=GRIDS[end][-1])
    assert [k for k, _ in states] == list(range(6))
    assert np.array_equal(states[-1][1], x)
    if end == "zero":
        np.testing.assert_allclose(x, outputs[-1], rtol=1e-13)  # 0 * x is added to it, or D + 0 (x - D)


@pytest.mark.parametrize("name", SOLVERS)
def test_one_step_is_the_first_order_step(name):
    first = sample(mixture, MIXTURE_START, [3.0, 0.0], solver=name, noise=lambda k: NOISE[k, :3])
    np.testing.assert_allclose(first, mixture(MIXTURE_START, 3.0), rtol=1e-13)
    assert SOLVERS[name].nfe(1) == 1


def test_names_and_eta_zero():
    assert solver_named("euler") is solver_named("ddim")
    custom = ddim_eta(0.25)
    assert solver_named(custom) is custom
    for stochastic, plain in ((ddim_eta(0.0), "ddim"), (dpmpp_2m_sde(0.0), "dpmpp_2m")):
        assert not stochastic.stochastic
        np.testing.assert_allclose(
            sample(mixture, MIXTURE_START, GRIDS["zero"], solver=stochastic),
            sample(mixture, MIXTURE_START, GRIDS["zero"], solver=plain),
            rtol=1e-12,  # the same step with s'/s in another place
        )


@pytest.mark.parametrize(("eta", "drift"), [(0.0, 1.0), (0.5, 1.25), (1.0, 2.0)])
def test_drift_of_ddim_eta(eta, drift):
    assert ddim_eta(eta).drift == drift


# ---------------------------------------------------------------------------------------------------------------------
# Refusals


def test_unknown_solver_is_refused_with_the_known_ones_and_the_nearest():
    message = r"`solver` must be one of ddim, euler, heun, .*dpmpp_2m_sde, got 'huen'\. Did you mean 'heun'\?"
    with pytest.raises(ValueError, match=message):
        sample(wiener, WIENER_START, GRIDS["zero"], solver="huen")


@pytest.mark.parametrize("name", STOCHASTIC)
def test_stochastic_solver_without_noise_is_refused(name):
    with pytest.raises(ValueError, match=r"`noise` must be given for the stochastic solver '.*': a function of the step index"):
        sample(wiener, WIENER_START, GRIDS["zero"], solver=name)


@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        ([1.0, 2.0, 0.0], r"`sigmas` must be strictly descending, got 1 then 2 at positions 0 and 1"),
        ([2.0, 1.0, 1.0], r"strictly descending, got 1 then 1 at positions 1 and 2"),
        ([2.0], r"`sigmas` must hold n\+1 >= 2 noise levels for n steps, got 1"),
        ([2.0, -1.0], r"`sigmas` must not be negative, got -1"),
        ([math.inf, 1.0], r"`sigmas` must be finite"),
    ],
)
def test_bad_grids_are_refused(sigmas, message):
    with pytest.raises(ValueError, match=message):
        sample(wiener, WIENER_START, sigmas)


@pytest.mark.parametrize("make", [ddim_eta, dpmpp_2m_sde])
@pytest.mark.parametrize("eta", [-0.1, 1.5])
def test_eta_outside_its_range_is_refused(make, eta):
    with pytest.raises(ValueError, match=rf"`eta` must be at least 0 and at most 1, got {eta}"):
        make(eta)


def test_nfe_refuses_what_is_no_number_of_steps():
    with pytest.raises(ValueError, match="`n` must be at least 1, got 0"):
        SOLVERS["heun"].nfe(0)
    with pytest.raises(TypeError, match=r"`n` must be an integer, got 2\.5"):
        SOLVERS["heun"].nfe(2.5)
