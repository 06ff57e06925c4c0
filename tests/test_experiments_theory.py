"""experiments/theory.py: its slopes and tables where the answer is known in closed form."""

import math

import numpy as np
import pytest

from eigenstep import Spectrum, divergence, grid

theory = pytest.importorskip("theory", reason="no experiments/ beside these tests")

ONE = Spectrum.from_eigenvalues([0.25], multiplicities=[8.0])
SWEPT = math.atan2(theory.HIGH, 0.5) - math.atan2(theory.LOW, 0.5)
LONG = (48, 64, 96, 128)


def test_one_eigenvalue_is_the_tangent_law_in_closed_form():
    # n equal angles keep cos(SWEPT/n)^(2n) of the variance; `w2` is told as a share of the variance, 8 x 0.25.
    kept = np.array([math.cos(SWEPT / n) ** (2 * n) for n in LONG])
    target = 0.25 + theory.LOW**2
    by_hand = 8 * target * (np.sqrt(kept) - 1) ** 2 / 2.0
    found = theory.curves(ONE, "ddim", "w2", LONG)
    for name in (theory.OPTIMUM, theory.TANGENT, theory.GEODESIC):
        # The search stops at a slope of 1e-6 and the geodesic is a spline: both are second order in the levels' error.
        np.testing.assert_allclose(found[name], by_hand, rtol=1e-8, err_msg=name)


@pytest.mark.parametrize("objective", ["kl", "w2"])
def test_the_constant_of_one_eigenvalue_is_a_quarter_of_the_fourth_power_of_its_angle(objective):
    # error ~ w E^2/(4 n^2) with E = SWEPT^2, w = 1 per direction for kl, q/lambda per unit of variance for w2.
    weight = 1.0 if objective == "kl" else (0.25 + theory.LOW**2) / 0.25
    found = theory.constants(ONE, objective)
    # The constant is taken at 10^6 steps, where the next term is 1e-6 of it.
    assert found[theory.TANGENT] == pytest.approx(weight * SWEPT**4 / 4, rel=1e-5)
    assert found[theory.GEODESIC] == pytest.approx(found[theory.TANGENT], rel=1e-5)
    assert found["karras"] > 1.5 * found[theory.TANGENT]


@pytest.mark.parametrize("objective", ["kl", "w2"])
def test_ddim_approaches_a_slope_of_minus_two_and_the_expansions_constant(objective):
    spectrum = theory.two_point(30.0)
    found, predicted = theory.curves(spectrum, "ddim", objective, LONG), theory.constants(spectrum, objective)
    for name, constant in predicted.items():
        if name in ("cosine", "uniform_t", "kl_optimal"):
            continue  # their limit lies beyond 128 steps
        # The next order is E/n of the first: 1 to 5 % here, and the slope's error is of the same size.
        assert found[name][-1] * LONG[-1] ** 2 == pytest.approx(constant, rel=0.06), name
        assert theory.slope(LONG, found[name], least=LONG[0]) == pytest.approx(-2.0, abs=0.06), name
    assert np.all(found[theory.OPTIMUM] <= found[theory.GEODESIC] * (1 + 1e-9))


def test_a_second_order_solver_gains_two_more_powers():
    found = theory.curves(theory.power_law(dim=64), "dpmpp_2m", "local", (64, 128))
    assert theory.slope((64, 128), found["karras"], least=64) == pytest.approx(-4.0, abs=0.1)


def test_a_multistep_solver_end_to_end_is_shown_by_the_grid_that_is_best_step_by_step():
    found = theory.curves(ONE, "dpmpp_2m", "w2", (6,))
    assert theory.PLANNED in found
    assert theory.OPTIMUM not in found


def test_slope_of_a_power_is_its_exponent_and_ignores_fewer_steps():
    errors = 7.0 * np.array(theory.STEPS, dtype=float) ** -3
    errors[0] = 1e9
    assert theory.slope(theory.STEPS, errors) == pytest.approx(-3.0, rel=1e-12)
    assert theory.slope(theory.STEPS, errors, least=3) < -3.5


def test_decades_count_directions_for_kl_and_variance_else():
    # Directions at 1 and 10^-2, a hundred of the small ones for each large one: equal shares of the variance.
    spectrum = Spectrum.from_eigenvalues([1.0, 1e-2], multiplicities=[1.0, 100.0])
    # By directions the middle 80 % are between the places of the two (mid-weights 50/101 and 101 - 1/2 over 101).
    by_count = np.interp([0.1, 0.9], [50 / 101, 100.5 / 101], [-2.0, 0.0])
    assert theory.decades(spectrum, "kl") == pytest.approx(by_count[1] - by_count[0], rel=1e-12)
    by_variance = np.interp([0.1, 0.9], [0.25, 0.75], [-2.0, 0.0])
    assert theory.decades(spectrum, "w2") == pytest.approx(by_variance[1] - by_variance[0], rel=1e-12)


def test_decades_leave_out_what_no_grid_resolves():
    spectrum = Spectrum.from_eigenvalues([1.0, 0.1 * theory.LOW**2], multiplicities=[2.0, 500.0])
    assert theory.decades(spectrum, "kl") == 0.0


def test_the_tangent_law_costs_more_the_farther_two_eigenvalues_lie_apart():
    rows = [line.split("|") for line in theory.spread_table((1, 10, 100), (), n=4).splitlines()[2:]]
    prices = [float(row[3]) for row in rows]
    assert prices[0] == 1.0
    assert prices == sorted(prices)
    assert prices[2] > 1.3


def test_ays_is_cut_from_its_table_over_the_same_range():
    found = theory.curves(ONE, "ddim", "kl", (10,))
    sigmas = theory.LAWS["ays_sd15"].grid(10, theory.LOW, theory.HIGH, final=None)
    assert (sigmas[0], sigmas[-1], sigmas.size) == (theory.HIGH, theory.LOW, 11)
    assert found["ays_sd15"][0] == pytest.approx(divergence(ONE, sigmas, objective="kl") / 8, rel=1e-12)
    law = theory.laws(ONE, "kl")["exponential"]
    assert found["exponential"][0] == pytest.approx(divergence(ONE, grid(law, 10), objective="kl") / 8, rel=1e-12)


def test_figures_hold_the_curves_of_every_panel():
    pytest.importorskip("matplotlib")
    steps = np.array(theory.STEPS, dtype=float)
    names = [theory.OPTIMUM, theory.GEODESIC, theory.TANGENT, *theory.HANDS]
    errors = {name: (k + 1) / steps**2 for k, name in enumerate(names)}
    found = {
        ("ddim", objective, title): (errors, {theory.TANGENT: 3.0})
        for objective in ("kl", "w2")
        for title in (*theory.DRAWN["ddim"], "mnist", "ecg")
    }
    figure = theory.draw_errors(found, "ddim", "kl")
    assert len(figure.axes) == 4
    for ax in figure.axes:
        assert ax.get_xscale() == "log"
        assert {"optimum", "geodesic", "tangent", "Karras ρ=7", "AYS"} <= {text.get_text() for text in ax.texts}
        dotted = [line for line in ax.lines if line.get_linestyle() != "-" and line.get_linewidth() == 1.3]
        assert [line.get_ydata()[0] for line in dotted] == [3.0 / 9]
    for ax in theory.draw_tangent(found).axes:
        assert {"optimum", "two eigenvalues", "Speech"} <= {text.get_text() for text in ax.texts}
        assert all(line.get_ydata()[0] in (1.0, 3.0) for line in ax.lines)
