"""The catalogue: parity with every published definition by value, exact ends, and what each refuses.

Reference numbers are float64 (the originals' own arithmetic is float32). k-diffusion (crowsonkb/k-diffusion at 4601bf0)
and ComfyUI's schedulers (Comfy-Org/ComfyUI at a125cd8) were run from their own source with numpy in torch's place; the
one-line formulas of A1111 (AUTOMATIC1111/stable-diffusion-webui modules/sd_schedulers.py at 02b0092), diffusers
(huggingface/diffusers at 58eb52c), golden (Extraltodeus/sigmas_tools_and_the_golden_scheduler at c243e85) and
diff-sampler (zju-pi/diff-sampler at 3e34628) were transcribed from there and evaluated apart from this library.
"""

import math

import mpmath
import numpy as np
import pytest

from eigenstep.grids import (
    LAWS,
    GridError,
    ays_grid,
    ays_law,
    beta_law,
    beta_timestep_grid,
    catalogue_grids,
    cosine_law,
    ddim_uniform_grid,
    exponential_law,
    gits_grid,
    gits_law,
    golden_law,
    grid,
    karras_law,
    kl_optimal_law,
    laplace_law,
    linear_quadratic_grid,
    polyexponential_law,
    quadratic_t_law,
    rescaled_entropic_law,
    sgm_uniform_grid,
    simple_grid,
    timestep_grid,
    uniform_t_law,
)
from eigenstep.paths import EDM, VE, RectifiedFlow, VPCosine, VPDiscrete, VPLinear
from eigenstep.spectrum import Spectrum

LOW, HIGH = 0.0291675, 14.614642  # Stable Diffusion's range as front ends print it
SD = VPDiscrete.sd15()
SPECTRUM = Spectrum.from_eigenvalues([9.0, 1.0, 0.25, 1e-4, 0.0], multiplicities=[1.0, 2.0, 3.0, 4.0, 5.0])


def agree(ours, theirs):
    # 1e-12: both are the same formula in float64, a few dozen roundings apart.
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-15)


EVERY_LAW = {
    "karras": lambda low, high: karras_law(low, high),
    "karras rho=1": lambda low, high: karras_law(low, high, rho=1.0),
    "exponential": exponential_law,
    "polyexponential": lambda low, high: polyexponential_law(low, high, rho=1.7),
    "kl_optimal": kl_optimal_law,
    "cosine": cosine_law,
    "beta": beta_law,
    "golden": golden_law,
    "uniform t": lambda low, high: uniform_t_law(low, high, path=VPLinear()),
    "quadratic t": lambda low, high: quadratic_t_law(low, high, path=VPLinear()),
    "ays": lambda low, high: ays_law(low, high, model="svd"),
    "gits": lambda low, high: gits_law(low, high, n=7),
    "entropic": lambda low, high: rescaled_entropic_law(low, high, spectrum=SPECTRUM),
}


# ---------------------------------------------------------------------------------------------------------------------
# What holds for every law


@pytest.mark.parametrize("name", EVERY_LAW)
def test_laws_start_at_sigma_max_end_at_sigma_min_and_fall(name):
    law = EVERY_LAW[name](0.0123, 79.7)
    u = np.linspace(0.0, 1.0, 201)
    sigma = law(u)
    assert sigma.dtype == np.float64
    assert sigma[0] == 79.7
    assert sigma[-1] == 0.0123
    assert np.all(np.diff(sigma) < 0)


@pytest.mark.parametrize("name", EVERY_LAW)
def test_the_exact_ends_are_the_formula_s_own_limits(name):
    # The ends are set exactly, which could hide a wrong formula: approach them. 1e-5: the steepest, linear in sigma,
    # still lacks 1e-9 * 80 = 8e-8 there, 6.5e-6 of sigma_min.
    law = EVERY_LAW[name](0.0123, 79.7)
    assert float(law(1e-9)) == pytest.approx(79.7, rel=1e-5)
    assert float(law(1.0 - 1e-9)) == pytest.approx(0.0123, rel=1e-5)


@pytest.mark.parametrize("name", EVERY_LAW)
def test_laws_take_any_shape_and_refuse_what_is_not_in_the_unit_interval(name):
    law = EVERY_LAW[name](0.0123, 79.7)
    assert law(0.5).shape == ()
    assert law(np.full((2, 3), 0.5)).shape == (2, 3)
    assert float(law(0.25)) == float(law([0.0, 0.25, 1.0])[1])
    with pytest.raises(ValueError, match=r"`u` must lie in \[0, 1\], got 0.5 to 1.5"):
        law([0.5, 1.5])
    with pytest.raises(ValueError, match="`u` must be finite"):
        law(math.nan)


@pytest.mark.parametrize("name", [*EVERY_LAW, "laplace"])
def test_laws_refuse_a_wrong_range(name):
    maker = {**EVERY_LAW, "laplace": laplace_law}[name]
    for low, high, message in (
        (2.0, 1.0, "`sigma_max` must exceed `sigma_min`, got 1 and 2"),
        (1.0, 1.0, "`sigma_max` must exceed `sigma_min`, got 1 and 1"),
        (-1.0, 1.0, "`sigma_min` must be (at least|greater than) 0, got -1"),
        (0.1, math.inf, "`sigma_max` must be finite, got inf"),
        (math.nan, 1.0, "`sigma_min` must be finite, got nan"),
    ):
        with pytest.raises(ValueError, match=message):
            maker(low, high)


@pytest.mark.parametrize("maker", [exponential_law, polyexponential_law, laplace_law, ays_law])
def test_laws_of_log_sigma_refuse_zero(maker):
    with pytest.raises(ValueError, match="`sigma_min` must be greater than 0, got 0"):
        maker(0.0, 1.0)


@pytest.mark.parametrize("maker", [karras_law, kl_optimal_law, cosine_law, beta_law, golden_law])
def test_laws_that_reach_zero_do(maker):
    sigmas = grid(maker(0.0, 80.0), 9)
    assert sigmas[-1] == 0.0
    assert sigmas[-2] > 0.0


# ---------------------------------------------------------------------------------------------------------------------
# grid


def test_grid_conventions_by_hand():
    def law(u):
        return 4.0 - 3.0 * np.asarray(u)

    np.testing.assert_array_equal(grid(law, 3), [4.0, 3.0, 2.0, 1.0])
    np.testing.assert_array_equal(grid(law, 3, final=0.0), [4.0, 2.5, 1.0, 0.0])
    np.testing.assert_array_equal(grid(law, 3, final=0.5), [4.0, 2.5, 1.0, 0.5])
    np.testing.assert_array_equal(grid(law, 1), [4.0, 1.0])
    np.testing.assert_array_equal(grid(law, 1, final=0.0), [4.0, 0.0])


@pytest.mark.parametrize("n", [1, 2, 3, 17, 400])
@pytest.mark.parametrize("final", [None, 0.0, 0.001])
def test_grid_has_n_plus_one_sigmas(n, final):
    sigmas = grid(karras_law(0.002, 80.0), n, final=final)
    assert sigmas.shape == (n + 1,)
    assert sigmas[0] == 80.0
    assert sigmas[-1] == (0.002 if final is None else final)
    if final is not None and n > 1:
        assert sigmas[-2] == 0.002


@pytest.mark.parametrize(
    ("law", "n", "final", "error", "message"),
    [
        (karras_law(1.0, 2.0), 0, None, ValueError, "`n` must be at least 1, got 0"),
        (karras_law(1.0, 2.0), 2.0, None, TypeError, "`n` must be an integer, got 2.0"),
        (karras_law(1.0, 2.0), 2, -0.5, ValueError, "`final` must be at least 0, got -0.5"),
        (karras_law(1.0, 2.0), 2, 1.0, GridError, r"karras_law\(rho=7\) must fall strictly, got 1 then 1 at .* 1 and"),
        (karras_law(0.0, 2.0), 2, 0.0, GridError, "must fall strictly, got 0 then 0"),
        (lambda u: np.asarray(u) + 1.0, 4, None, GridError, "<lambda> must fall strictly, got 1 then 1.25 at"),
        (lambda u: 1.0 - 2.0 * np.asarray(u), 4, None, GridError, r"finite sigmas >= 0, got -0\.5 at u = 0\.75"),
        (lambda u: np.where(np.asarray(u) > 0.4, np.nan, 1.0), 2, None, GridError, "got nan at u = 0.5"),
        (lambda u: 1.0, 4, None, GridError, r"one sigma for each u, got shape \(\) for \(5,\)"),
        (lambda u: math.exp(-u), 4, None, TypeError, "`law` must take an array of u"),
        ("karras", 4, None, TypeError, "`law` must be a callable u -> sigma such as .* got 'karras'"),
    ],
)
def test_grid_refuses(law, n, final, error, message):
    with pytest.raises(error, match=message):
        grid(law, n, final=final)


# ---------------------------------------------------------------------------------------------------------------------
# Parity by value


def test_karras_is_k_diffusion_s():
    theirs = [80.0, 24.408341786580095, 5.838947631011886, 0.9654169263318939, 0.08508720268939021, 0.002, 0.0]
    agree(grid(karras_law(0.002, 80.0), 6, final=0.0), theirs)
    theirs = [HIGH, 6.974849026826498, 2.6073626213602474, 0.597147280213873, LOW, 0.0]
    agree(grid(karras_law(LOW, HIGH, rho=3.0), 5, final=0.0), theirs)


def test_exponential_and_polyexponential_are_k_diffusion_s():
    theirs = [HIGH, 3.0889859834110123, 0.6528955280402831, 0.1379975735805342, LOW, 0.0]
    agree(grid(exponential_law(LOW, HIGH), 5, final=0.0), theirs)
    agree(grid(polyexponential_law(LOW, HIGH), 5, final=0.0), theirs)  # its default rho = 1
    theirs = [HIGH, 0.9629123455913282, 0.13799757358053422, 0.04301721276041915, LOW, 0.0]
    agree(grid(polyexponential_law(LOW, HIGH, rho=2.0), 5, final=0.0), theirs)


def test_uniform_t_is_k_diffusion_s_vp_and_get_sigmas_and_comfyui_s_normal():
    # get_sigmas_vp's defaults name beta_d = 19.9, beta_min = 0.1, eps = 1e-3.
    theirs = [152.1669702839464, 17.04912255896805, 3.422244762572157, 0.9575264822375216, 0.010485992786706403, 0.0]
    path = VPLinear(beta_min=0.1, beta_max=20.0, t_min=1e-3)
    agree(grid(uniform_t_law(path.sigma_min, path.sigma_max, path=path), 5, final=0.0), theirs)
    theirs = [14.614641229333637, 5.09240759066568, 2.2797302952441267, 1.1628645340851465, 0.5711888666489996,
              0.029167158151720367, 0.0]
    agree(grid(uniform_t_law(SD.sigma_min, SD.sigma_max, path=SD), 6, final=0.0), theirs)


def test_uniform_and_quadratic_t_are_diff_sampler_s_time_uniform():
    # The original fits both betas to the range 0.02 to 80 at t = 1e-3 and 1; these are what it finds.
    path = VPLinear(beta_min=0.39154735917892936, beta_max=0.39154735917892936 + 16.74532429592615)
    # (Its last level comes out as 0.019999999999998897: its e^x - 1 at x = 4e-4 loses four digits.)
    theirs = [80.0, 17.039439607026857, 4.987448989114773, 1.866531042500793, 0.7184775633690039, 0.02]
    agree(grid(uniform_t_law(0.02, 80.0, path=path), 5), theirs)
    theirs = [80.0, 6.58959463026873, 1.6636781081857985, 0.6216284993276779, 0.20571287412272174, 0.02]
    agree(grid(quadratic_t_law(0.02, 80.0, path=path), 5), theirs)


def test_sgm_uniform_is_comfyui_s():
    theirs = [14.614641229333637, 5.948899190973973, 2.9183071154268285, 1.6155802601603273, 0.9323579668348474,
              0.4935517203201724, 0.0]
    agree(sgm_uniform_grid(6, path=SD), theirs)


def test_simple_is_comfyui_s():
    theirs = [14.614641229333639, 6.701629404860139, 3.5282031921565453, 2.0616707376769923, 1.2762351350015695,
              0.7900609565844144, 0.43806173266482945, 0.0]
    agree(simple_grid(7, path=SD), theirs)


def test_ddim_uniform_is_comfyui_s_and_refuses_the_lengths_it_gets_wrong():
    theirs = [5.134431117517536, 2.292853821788702, 1.1682159550479787, 0.5740502594628525, 0.04131441199678309, 0.0]
    agree(ddim_uniform_grid(5, path=SD), theirs)
    refused = []
    for n in range(1, 61):
        try:
            ddim_uniform_grid(n, path=SD)
        except GridError:
            refused.append(n)
    # Run on the original: 46 of these n return another number of steps, the first being 6, which returns 7.
    assert len(refused) == 46
    assert refused[:5] == [6, 7, 11, 12, 13]
    with pytest.raises(GridError, match="got 6: its stride of 166 over 1000 timesteps makes 7 steps"):
        ddim_uniform_grid(6, path=SD)


def test_beta_timestep_is_comfyui_s_and_refuses_repeats():
    theirs = [14.614641229333639, 9.70147682765827, 4.712596866747214, 2.268322993348432, 1.1682159550479787,
              0.6126959693142858, 0.27718043455147945, 0.0]
    agree(beta_timestep_grid(7, path=SD), theirs)
    with pytest.raises(GridError, match="distinct, got 150: only 149 are; use fewer"):
        beta_timestep_grid(150, path=SD)


def test_beta_law_is_a1111_s_and_diffusers():
    theirs = [HIGH, 12.821769943194623, 9.324475948244256, 5.319333551755739, 1.8220395568053769, LOW, 0.0]
    agree(grid(beta_law(LOW, HIGH), 6, final=0.0), theirs)
    # alpha = beta = 1 is the uniform distribution: linear in sigma.
    agree(beta_law(1.0, 3.0, alpha=1.0, beta=1.0)([0.0, 0.25, 1.0]), [3.0, 2.5, 1.0])


def test_kl_optimal_has_both_published_conventions():
    comfyui = [HIGH, 4.232351272659622, 2.3937194171915257, 1.5970665958391215, 1.1329972189922748, 0.8152448441661853,
               0.5729145327197993, 0.37248448627566494, 0.1952886616119694, LOW, 0.0]
    agree(grid(kl_optimal_law(LOW, HIGH), 10, final=0.0), comfyui)
    a1111 = [HIGH, 4.565037479562159, 2.63288842243424, 1.786445723603091, 1.2947676588164294, 0.961588359076408,
             0.7116271240043757, 0.5094197096309903, 0.3356376938790779, 0.17834677672247987, LOW]
    agree(grid(kl_optimal_law(LOW, HIGH), 10), a1111)
    # ComfyUI divides 0 by 0 at n = 1; the convention here is plain.
    np.testing.assert_array_equal(grid(kl_optimal_law(LOW, HIGH), 1, final=0.0), [HIGH, 0.0])


def test_laplace_is_comfyui_s():
    theirs = [HIGH, 1.7320248273913166, 1.2247356859083902, 1.0, 0.8165027046291192, 0.5773589293787128, LOW]
    agree(grid(laplace_law(LOW, HIGH), 6), theirs)
    with pytest.raises(GridError, match=r"laplace_law\(mu=0, beta=0.5\) must fall strictly, got 1.2 then 1.2"):
        grid(laplace_law(0.9, 1.2), 50)


def test_golden_is_its_author_s():
    theirs = [HIGH, 10.187707489607245, 6.40145775793745, 3.3310020828680846, 1.1013411410872858, LOW, 0.0]
    agree(grid(golden_law(LOW, HIGH), 6, final=0.0), theirs)
    # With sigma_min near sigma_max the formula rises again near its end: refused, not repaired.
    with pytest.raises(GridError, match="golden_law must fall strictly"):
        grid(golden_law(1.0, 2.0), 10)


def test_linear_quadratic_is_comfyui_s_in_flow_levels():
    # The original starts at flow level 1, sigma = inf: ours scales its levels by f_0 = sigma_max / (1 + sigma_max).
    for n, theirs in (
        (8, [1.0, 0.99375, 0.9875, 0.98125, 0.975, 0.909375, 0.725, 0.421875, 0.0]),
        (5, [1.0, 0.9875, 0.975, 0.8583333333333332, 0.5333333333333332, 0.0]),
    ):
        sigmas = linear_quadratic_grid(n, 999.0)
        flow = sigmas / (1.0 + sigmas)
        # 1e-12 relative in 1 - f: sigma = 999 sits where f = 0.999.
        np.testing.assert_allclose(flow / 0.999, theirs, rtol=1e-12, atol=1e-13)
    np.testing.assert_array_equal(linear_quadratic_grid(1, 80.0), [80.0, 0.0])
    assert linear_quadratic_grid(6, 80.0)[0] == 80.0


@pytest.mark.parametrize(
    ("spacing", "n", "expected"),
    [  # from the lines of diffusers' DDIMScheduler.set_timesteps
        ("trailing", 7, [999, 856, 713, 570, 428, 285, 142]),
        ("leading", 7, [852, 710, 568, 426, 284, 142, 0]),
        ("linspace", 7, [999, 832, 666, 500, 333, 166, 0]),
        ("trailing", 1, [999]),
        ("leading", 1, [0]),
        ("trailing", 1000, list(range(999, -1, -1))),
        ("linspace", 1000, list(range(999, -1, -1))),
    ],
)
def test_timestep_spacings_are_diffusers(spacing, n, expected):
    sigmas = timestep_grid(n, path=SD, spacing=spacing)
    np.testing.assert_array_equal(sigmas, np.append(SD.sigmas[expected], 0.0))


def test_timestep_grid_steps_offset_and_final():
    # Stable Diffusion 1.5 ships leading spacing with steps_offset = 1.
    sigmas = timestep_grid(4, path=SD, spacing="leading", steps_offset=1)
    np.testing.assert_array_equal(sigmas, np.append(SD.sigmas[[751, 501, 251, 1]], 0.0))
    ends = timestep_grid(4, path=SD, final=SD.sigma_min)
    assert ends[-1] == SD.sigma_min
    with pytest.raises(GridError, match=r"timestep_grid\(spacing='linspace'\) must fall strictly"):
        timestep_grid(4, path=SD, spacing="linspace", final=SD.sigma_min)


def test_timestep_grid_on_a_continuous_path():
    path = RectifiedFlow(t_min=0.2, t_max=0.8)
    t = {
        name: path.sigma_to_t(timestep_grid(3, path=path, spacing=name)[:-1])
        for name in ("trailing", "leading", "linspace")
    }
    agree(t["trailing"], [0.8, 0.6, 0.4])
    agree(t["leading"], [0.6, 0.4, 0.2])
    agree(t["linspace"], [0.8, 0.5, 0.2])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: timestep_grid(1001, path=SD), GridError, "the path's 1000 timesteps for timestep_grid, got 1001"),
        (lambda: simple_grid(1001, path=SD), GridError, "at most the path's 1000 timesteps for simple_grid, got 1001"),
        (lambda: simple_grid(0, path=SD), ValueError, "`n` must be at least 1, got 0"),
        (lambda: simple_grid(4, path=EDM()), GridError, r"must be discrete for simple_grid, .* got EDM\("),
        (lambda: beta_timestep_grid(4, path=VE()), GridError, "must be discrete for beta_timestep_grid"),
        (lambda: ddim_uniform_grid(4, path=VE()), GridError, "must be discrete for ddim_uniform_grid"),
        (lambda: timestep_grid(4, path=SD, spacing="trail"), ValueError, "one of trailing, .* mean 'trailing'"),
        (lambda: timestep_grid(4, path=SD, steps_offset=1), ValueError, "must be 0 unless the spacing is 'leading'"),
        (
            lambda: timestep_grid(4, path=SD, spacing="leading", steps_offset=250),
            ValueError,
            "must keep the timesteps below 1000, got 250: t = 1000",
        ),
        (lambda: timestep_grid(4, path="sd15"), TypeError, "`path` must be a NoisePath such as .* got 'sd15'"),
        (lambda: uniform_t_law(0.01, 10.0, path="sd15"), TypeError, "`path` must be a NoisePath"),
        (lambda: uniform_t_law(0.002, 80.0, path=SD), GridError, "must reach from `sigma_min` 0.002 to"),
        (lambda: linear_quadratic_grid(4, 80.0, threshold_noise=0.9), GridError, "linear_quadratic_grid must fall"),
        (lambda: linear_quadratic_grid(4, 80.0, linear_steps=4), ValueError, "at least 1 and at most 3, got 4"),
        (lambda: ays_grid(10, model="sd3"), ValueError, "one of sd15, sdxl, svd, deepfloyd-if, got 'sd3'"),
        (lambda: gits_grid(1), ValueError, "`n` must be at least 2, got 1"),
        (lambda: gits_grid(4, coeff=1.15), ValueError, "`coeff` must be one of 1.0, 1.2, got 1.15"),
        (lambda: karras_law(0.1, 1.0, rho=0.0), ValueError, "`rho` must be greater than 0, got 0"),
        (lambda: cosine_law(0.1, 1.0, s=-1.0), ValueError, "`s` must be at least 0, got -1"),
        (lambda: beta_law(0.1, 1.0, alpha=0.0), ValueError, "`alpha` must be greater than 0, got 0"),
        (lambda: laplace_law(0.1, 1.0, beta=0.0), ValueError, "`beta` must be greater than 0, got 0"),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def test_ays_is_the_published_table_at_ten_steps():
    sd15 = ays_grid(10)
    # The paper's Table 3 has three decimals: 0.029 stands for 0.02917, 6e-3 away.
    paper = [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029]
    np.testing.assert_allclose(sd15, paper, rtol=6e-3)
    # The same levels by another route: Stable Diffusion's path at the quickstart's timesteps. 1e-8: printed digits.
    t = [999, 850, 736, 645, 545, 455, 343, 233, 124, 24, 0]
    np.testing.assert_allclose(sd15, SD.t_to_sigma(t), rtol=1e-8)
    t = [999, 845, 730, 587, 443, 310, 193, 116, 53, 13, 0]
    np.testing.assert_allclose(ays_grid(10, model="sdxl"), SD.t_to_sigma(t), rtol=1e-8)
    svd = [700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002]
    agree(ays_grid(10, model="svd"), svd)
    floyd = [160.41, 8.081, 3.315, 1.885, 1.207, 0.785, 0.553, 0.293, 0.186, 0.030, 0.006]
    agree(ays_grid(10, model="deepfloyd-if"), floyd)


@pytest.mark.parametrize(
    ("n", "model", "theirs"),
    [  # ComfyUI AlignYourStepsScheduler
        (6, "sd15", [14.6146412293, 4.5892051782783, 2.391697369619659, 1.3943805092, 0.7431215272146431,
                     0.2883345709855391, 0.0]),
        (7, "sdxl", [14.6146412293, 5.062968193663253, 2.358338069865334, 1.1816651391410284, 0.6294696041973176,
                     0.35428822905200597, 0.15291865296359017, 0.0]),
        (4, "svd", [700.0, 11.257114283865109, 1.789, 0.2640435570128534, 0.0]),
    ],
)  # fmt: skip
def test_ays_interpolation_is_comfyui_s(n, model, theirs):
    agree(ays_grid(n, model=model, final=0.0), theirs)


def test_ays_law_keeps_the_table_s_shape_on_another_range():
    table = ays_grid(10, model="sdxl")
    stretched = grid(ays_law(0.002, 80.0, model="sdxl"), 10)
    log = np.log(table)
    shape = (log - log[-1]) / (log[0] - log[-1])
    agree(np.log(stretched / 0.002) / math.log(80.0 / 0.002), shape)


def test_gits_is_the_published_table():
    agree(gits_grid(4, final=0.0), [14.61464119, 2.36326075, 0.92192322, 0.36617002, 0.0])
    theirs = [14.61464119, 11.54541874, 7.49001646, 5.85520077, 4.45427561, 3.07277966, 1.98035145, 1.24153244,
              0.72133851, 0.34370604, 0.0]
    agree(gits_grid(10, coeff=1.0, final=0.0), theirs)
    assert gits_grid(10, coeff=1.0)[-1] == 0.02916753
    longer = gits_grid(25, final=0.0)  # ComfyUI above 20 steps: the 20-step table, interpolated
    agree(longer[[1, 2, 5, 12, 24]], [8.561381485204283, 5.630276071006637, 2.19988537, 0.5368496283701436,
                                      0.07706007509308942])


@pytest.mark.parametrize("coeff", [1.0, 1.2])
def test_every_gits_table_has_n_steps_and_falls(coeff):
    for n in range(2, 21):
        sigmas = gits_grid(n, coeff=coeff)
        assert sigmas.shape == (n + 1,)
        # Each level is one of Stable Diffusion's own: between its ends, on the path.
        assert np.all((sigmas >= SD.sigma_min) & (sigmas <= SD.sigma_max))


# ---------------------------------------------------------------------------------------------------------------------
# Two routes to one law


def test_limits_join_the_families():
    u = np.linspace(0.0, 1.0, 21)
    low, high = 0.02, 50.0
    agree(karras_law(low, high, rho=1.0)(u), high + u * (low - high))
    agree(polyexponential_law(low, high)(u), exponential_law(low, high)(u))
    agree(uniform_t_law(low, high, path=EDM())(u), karras_law(low, high, rho=1.0)(u))
    agree(uniform_t_law(low, high, path=VE())(u), exponential_law(low, high)(u))
    # rho -> infinity is the exponential law, with an error of order 1/rho: (ln range)^2 / (8 rho) = 0.8 / 1e6.
    np.testing.assert_allclose(karras_law(low, high, rho=1e7)(u), exponential_law(low, high)(u), rtol=1e-5)
    agree(cosine_law(low, high, s=0.0)(u), kl_optimal_law(low, high)(u))


def test_cosine_law_by_its_angle():
    # cos(theta)^2 = cos(theta_0)^2 / (1 + sigma^2) solved for the angle, at 40 digits.
    u, s = 0.37, mpmath.mpf("0.008")
    with mpmath.workdps(40):
        theta_0 = s / (1 + s) * mpmath.pi / 2

        def angle(sigma):
            return mpmath.acos(mpmath.cos(theta_0) / mpmath.sqrt(1 + mpmath.mpf(sigma) ** 2))

        theta = (1 - u) * angle(50) + u * angle("0.02")
        expected = float(mpmath.sqrt((mpmath.cos(theta_0) / mpmath.cos(theta)) ** 2 - 1))
    assert float(cosine_law(0.02, 50.0)(u)) == pytest.approx(expected, rel=1e-12)


def test_beta_law_inverts_the_incomplete_beta_function():
    sigma = float(beta_law(0.0, 1.0)(0.3))
    with mpmath.workdps(30):
        # 1e-13: mpmath integrates the density; betaincinv is good to a few ulp.
        assert float(mpmath.betainc(0.6, 0.6, 0, sigma, regularized=True)) == pytest.approx(0.7, rel=1e-13)


def test_entropic_law_of_one_eigenvalue_is_the_tangent_law():
    lam = 0.49
    u = np.linspace(0.0, 1.0, 33)
    gamma = math.sqrt(lam)
    tangent = gamma * np.tan((1 - u) * math.atan(80.0 / gamma) + u * math.atan(0.002 / gamma))
    law = rescaled_entropic_law(0.002, 80.0, spectrum=Spectrum.from_eigenvalues([lam]))
    agree(law(u), tangent)
    unit = rescaled_entropic_law(0.002, 80.0, spectrum=Spectrum.from_eigenvalues([1.0], multiplicities=[7.0]))
    agree(unit(u), kl_optimal_law(0.002, 80.0)(u))


@pytest.mark.parametrize(("low", "high"), [(0.002, 80.0), (0.0, 80.0), (1e-4, 1e4)])
def test_entropic_law_is_uniform_in_the_integral_of_the_denoising_error(low, high):
    law = rescaled_entropic_law(low, high, spectrum=SPECTRUM)
    lam, m = SPECTRUM.eigenvalues, SPECTRUM.multiplicities

    def rate(s):  # mmse(s) / s^2, by its definition
        return mpmath.fsum(mi * li / (li + s**2) for li, mi in zip(lam, m, strict=True))

    u = np.array([0.1, 0.5, 0.8, 0.97])
    sigma = law(u)
    knots = sorted({low, *(s for s in (0.003, 0.01, 0.1, 1.0, 10.0, 100.0) if low < s < high), high})
    total = mpmath.quad(rate, knots)
    for position, level in zip(u, sigma, strict=True):
        done = mpmath.quad(rate, [float(level), *(k for k in knots if k > level)])
        # 1e-9: the quadrature's own accuracy over these panels.
        assert float(done / total) == pytest.approx(position, rel=1e-9)


def test_entropic_law_is_solved_to_rounding_on_a_wide_spectrum():
    lam = np.geomspace(1e-8, 1e4, 500)
    spectrum = Spectrum.from_eigenvalues(lam)
    u = np.linspace(0.0, 1.0, 51)
    sigma = rescaled_entropic_law(0.002, 80.0, spectrum=spectrum)(u)
    R = np.arctan(sigma[:, None] / np.sqrt(lam)) @ np.sqrt(lam)
    # 1e-13 of the whole: the sum of 500 terms is rounded to about that.
    np.testing.assert_allclose((R[0] - R) / (R[0] - R[-1]), u, rtol=0, atol=1e-13)


# ---------------------------------------------------------------------------------------------------------------------
# The table and the catalogue


def test_every_row_is_documented_and_named_by_its_key():
    for name, row in LAWS.items():
        assert row.name == name
        assert row.source
        assert row.note
        assert row.needs in ("nothing", "path", "spectrum")
        assert ">>>" in row.maker.__doc__
        assert row.maker.__name__.endswith(("_law", "_grid"))


def check(grids, n, low, high, final):
    assert grids
    for name, sigmas in grids.items():
        assert sigmas.shape == (n + 1,), name
        assert sigmas[0] == pytest.approx(high, rel=1e-12), name
        assert np.all(np.diff(sigmas) < 0), name
        assert sigmas[-1] == (low if final is None else final), name
        if n > 1:
            assert sigmas[-2] >= low * (1 - 1e-12), name


@pytest.mark.parametrize("n", [1, 2, 3, 5, 10, 20, 50])
@pytest.mark.parametrize("final", [None, 0.0])
@pytest.mark.parametrize(("low", "high"), [(0.002, 80.0), (0.02, 5.0), (0.0, 80.0)])
def test_catalogue_grids_keep_their_promise(n, final, low, high):
    check(catalogue_grids(n, low, high, final=final, spectrum=SPECTRUM), n, low, high, final)


@pytest.mark.parametrize("path", [SD, VPLinear(), VPCosine(), VE(), EDM(), RectifiedFlow(shift=3.0)])
@pytest.mark.parametrize("n", [1, 4, 20])
@pytest.mark.parametrize("final", [None, 0.0])
def test_catalogue_grids_on_every_kind_of_path(path, n, final):
    grids = catalogue_grids(n, path.sigma_min, path.sigma_max, final=final, path=path)
    check(grids, n, path.sigma_min, path.sigma_max, final)
    assert "uniform_t" in grids


def test_catalogue_holds_what_it_should():
    plain = catalogue_grids(10, 0.002, 80.0)
    assert set(plain) == {name for name, row in LAWS.items() if row.needs == "nothing"}
    with_all = catalogue_grids(10, SD.sigma_min, SD.sigma_max, path=SD, spectrum=SPECTRUM)
    # The two that start at t = 900 and 901, below sigma_max, answer another question.
    assert set(LAWS) - set(with_all) == {"leading", "ddim_uniform"}
    agree(with_all["karras"], grid(karras_law(SD.sigma_min, SD.sigma_max), 10, final=0.0))
    agree(with_all["sgm_uniform"], sgm_uniform_grid(10, path=SD))
    agree(with_all["simple"], simple_grid(10, path=SD))
    # 1e-8: the table's ends are printed to ten digits, the path's are exact.
    np.testing.assert_allclose(with_all["ays_sd15"], ays_grid(10, final=0.0), rtol=1e-8)
    # The path's whole-table grids do not fit a shorter range; laws of its t do.
    shorter = catalogue_grids(10, 0.1, 5.0, path=SD)
    assert {"uniform_t", "quadratic_t", "sgm_uniform"} <= set(shorter)
    assert not {"trailing", "linspace", "simple", "beta_timestep"} & set(shorter)
    # Nor do those that would call the model below a sigma_min above the path's own.
    high_floor = catalogue_grids(10, 0.5, SD.sigma_max, path=SD)
    assert {"uniform_t", "sgm_uniform", "karras"} <= set(high_floor)
    assert not {"trailing", "linspace", "simple", "beta_timestep"} & set(high_floor)
    # A path that does not reach sigma_max gives nothing, and says so when asked by name.
    assert set(catalogue_grids(10, 0.002, 80.0, path=SD)) == set(plain)
    with pytest.raises(GridError, match="`path` must reach from"):
        LAWS["uniform_t"].grid(10, 0.002, 80.0, path=SD)


def test_catalogue_without_a_lowest_level_ends_its_laws_at_final():
    grids = catalogue_grids(6, 0.0, 80.0)
    agree(grids["karras"], grid(karras_law(0.0, 80.0), 6))
    assert "exponential" not in grids
    assert "linear_quadratic" in grids
    at_sigma_min = catalogue_grids(6, 0.01, 80.0, final=0.01)
    np.testing.assert_array_equal(at_sigma_min["exponential"], grid(exponential_law(0.01, 80.0), 6))


def test_catalogue_refuses():
    with pytest.raises(ValueError, match="`n` must be at least 1, got 0"):
        catalogue_grids(0, 0.002, 80.0)
    with pytest.raises(ValueError, match="`sigma_max` must exceed `sigma_min`"):
        catalogue_grids(4, 80.0, 0.002)
    with pytest.raises(ValueError, match="`final` must be below `sigma_max`, got 90 and 80"):
        catalogue_grids(4, 0.002, 80.0, final=90.0)
    with pytest.raises(ValueError, match="`path` must be given for the baseline 'simple', got None"):
        LAWS["simple"].grid(4, 0.002, 80.0)
    with pytest.raises(ValueError, match="`spectrum` must be given for the baseline 'rescaled_entropic'"):
        LAWS["rescaled_entropic"].grid(4, 0.002, 80.0)
    with pytest.raises(GridError, match="`final` must be 0 for linear_quadratic_grid"):
        LAWS["linear_quadratic"].grid(4, 0.002, 80.0, final=None)
