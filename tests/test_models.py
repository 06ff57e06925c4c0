"""models/: every kind of prediction is one denoiser; the gauge against exact errors and the shared networks."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from eigenstep import EDM, RectifiedFlow, Spectrum, VPCosine, VPDiscrete, cramer_rao_bound, wiener_gain
from eigenstep.models import PREDICTIONS, ErrorCurve, ModelDenoiser, error_curve

LAM = np.array([4.0, 1.0, 0.09])
SHARED = Path(os.environ.get("EIGENSTEP_SHARED", Path(__file__).parents[2] / "shared"))


def exact_network(path, prediction):
    """What a perfect network of that kind gives for N(0, diag(LAM)), from the definitions in x_t = alpha x_0 + s eps."""

    def network(x_t, t):
        alpha, sigma = float(path.alpha(t)), float(path.t_to_sigma(t))
        s = alpha * sigma
        total = alpha**2 * LAM + s**2
        x_0, eps = alpha * LAM / total * x_t, s / total * x_t
        return {"epsilon": eps, "v": alpha * eps - s * x_0, "x0": x_0, "velocity": eps - x_0}[prediction]

    return network


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("path", [EDM(), VPDiscrete.ddpm(), VPDiscrete.sd15(), VPCosine(), RectifiedFlow(shift=3.0)])
def test_a_perfect_network_of_any_kind_is_the_wiener_filter(prediction, path):
    if prediction == "velocity" and not isinstance(path, RectifiedFlow):
        pytest.skip("velocity means eps - x_0 with alpha + s = 1")
    denoiser = ModelDenoiser(exact_network(path, prediction), path, prediction)
    x = np.array([1.0, -2.0, 0.3])
    for sigma in np.geomspace(max(denoiser.sigma_min, 0.05), min(denoiser.sigma_max, 60.0), 7):
        # 1e-8: at sigma = 60 an epsilon prediction is subtracted from x_t, which it equals to 1e-3.
        np.testing.assert_allclose(denoiser(x * sigma, sigma), wiener_gain(LAM, sigma) * x * sigma, rtol=1e-8)


def gauge(denoiser, n=3000, **options):
    x = np.random.default_rng(1).standard_normal((n, 3)) * np.sqrt(LAM)
    given = {"sigma_min": 0.1, "sigma_max": 20.0, "levels": 6, **options}
    return error_curve(denoiser, x, spectrum=Spectrum.from_eigenvalues(LAM), **given)


def test_the_wiener_filter_gauges_one():
    curve = gauge(lambda x, sigma: wiener_gain(LAM, sigma) * x)
    assert np.all(np.abs(curve.ratio - 1) < 4.5 * curve.ratio_standard_error)
    assert curve.n_items == 3000
    assert curve.dim == 3
    assert np.all(np.diff(curve.sigmas) < 0)


def test_the_excess_of_a_denoiser_with_a_known_error_is_that_error():
    """D_Wiener plus independent noise of variance (0.1 sigma)^2 per dimension: m - b = 3 (0.1 sigma)^2."""
    rng = np.random.default_rng(2)
    curve = gauge(lambda x, sigma: wiener_gain(LAM, sigma) * x + 0.5 * sigma * rng.standard_normal(x.shape))
    injected = (0.5 * curve.sigmas) ** 2
    spread = curve.standard_error / curve.dim
    assert np.all(np.abs(curve.call_error.variance(curve.sigmas) - injected) < 5 * spread)
    assert curve.call_error.variance(1e6) == curve.call_error.variance(curve.sigmas[0])  # constant beyond the ends
    assert np.all(curve.ratio[:3] > 1)


MEAN = np.array([1.0, 0.0, -2.0])
TURN = np.linalg.qr(np.random.default_rng(7).standard_normal((3, 3)))[0]


def turned(count, seed=3):
    """Items of mean MEAN and covariance TURN^T diag(LAM) TURN."""
    return MEAN + (np.random.default_rng(seed).standard_normal((count, 3)) * np.sqrt(LAM)) @ TURN


def known(kept):
    return Spectrum.from_covariance(TURN.T * LAM @ TURN, mean=MEAN, basis=kept)


def test_with_eigenvectors_the_filters_own_error_is_taken_off():
    """The Wiener filter gauges one to the last digit, from five items; with a known error added that error alone is left."""

    def wiener(x, sigma):
        return MEAN + ((x - MEAN) @ TURN.T * wiener_gain(LAM, sigma)) @ TURN

    levels = {"sigma_min": 0.1, "sigma_max": 20.0, "levels": 6}
    few = error_curve(wiener, turned(5), spectrum=known(3), **levels)
    np.testing.assert_allclose(few.ratio, 1.0, rtol=1e-12)  # regression on itself: rounding alone
    # Orthogonal to nothing in particular: the same offset for all items adds its square and a product that averages out.
    offset = np.array([0.3, -0.4, 0.0])
    many = error_curve(lambda x, sigma: wiener(x, sigma) + offset, turned(4000), spectrum=known(3), **levels)
    assert np.all(np.abs(many.error - many.bound - 0.25) < 5 * many.standard_error)
    bare = Spectrum.from_eigenvalues(LAM)
    raw = error_curve(lambda x, sigma: wiener(x, sigma) + offset, turned(4000), spectrum=bare, **levels)
    assert many.standard_error[0] < 0.2 * raw.standard_error[0]  # what is left is the product with the offset


def test_few_eigenvectors_are_a_control_of_known_expectation_too():
    """Off the kept ones the control has one gain for two eigenvalues: not the filter, but as well known."""
    curves = [
        error_curve(
            lambda x, sigma: MEAN + ((x - MEAN) @ TURN.T * wiener_gain(LAM, sigma)) @ TURN,
            turned(20_000), spectrum=known(kept), sigma_min=0.1, sigma_max=20.0, levels=6,
        )
        for kept in (1, 2)
    ]  # fmt: skip
    assert np.all(np.abs(curves[0].ratio - 1) < 4.5 * curves[0].ratio_standard_error)
    assert np.all(curves[0].ratio_standard_error < 0.01)
    np.testing.assert_allclose(curves[1].ratio, 1.0, rtol=1e-12)  # one direction off them: the filter itself again


def test_items_that_the_spectrum_was_not_measured_on_are_refused():
    with pytest.raises(ValueError, match=r"`data` do not seem to be what `spectrum` was measured on: .* value range"):
        error_curve(lambda x, sigma: x, 128 + 128 * turned(50), spectrum=known(3), sigma_min=0.1, sigma_max=20.0)


def test_what_a_warm_start_misses_is_the_integral_of_what_the_network_sees():
    """A constant gap 0.5 per number between 20 and 0.1, and two standard errors that are taken off it."""
    levels = np.geomspace(20.0, 0.1, 9)
    curve = ErrorCurve(levels, np.full(9, 1.0), np.full(9, 0.25), np.full(9, 2.5), 50, 2.0)
    x = np.linspace(np.log(0.5), np.log(20.0), 20_001)
    expected = np.trapezoid(np.sqrt(0.5) * np.sqrt(3.0 / (3.0 + np.exp(2 * x))), x)
    assert curve.missed(0.5, leading=3.0) == pytest.approx(expected, rel=1e-5)  # trapezoids of 1,025 nodes
    assert curve.missed(30.0, leading=3.0) == 0.0
    assert curve.displaced(0.5, leading=3.0) == 0.0
    swapped = ErrorCurve(levels, np.full(9, 2.5), np.full(9, 0.25), np.full(9, 1.0), 50, 2.0)
    assert swapped.displaced(0.5, leading=3.0) == pytest.approx(expected, rel=1e-5)
    assert swapped.missed(0.5, leading=3.0) == 0.0
    unsure = ErrorCurve(levels, np.full(9, 1.0), np.full(9, 0.8), np.full(9, 2.5), 50, 2.0)
    assert unsure.missed(0.5, leading=3.0) == 0.0
    with pytest.raises(ValueError, match="`level`"):
        curve.missed(0.0, leading=3.0)


def test_chance_is_no_error_of_the_network():
    levels = np.geomspace(20.0, 0.1, 3)
    curve = ErrorCurve(levels, np.array([5.0, 2.2, 1.0]), np.full(3, 0.2), np.full(3, 2.0), 50, 2.0)
    np.testing.assert_allclose(curve.call_error.variance(levels), [1.3, 0.0, 0.0], atol=1e-12)


def test_the_start_level_lies_above_everything_the_network_sees_better():
    def curve(ratios):
        return ErrorCurve(np.array([9.0, 3.0, 1.0, 0.3]), np.array(ratios), np.zeros(4), np.ones(4), 10, 2.0)

    assert curve([5.0, 1.1, 0.9, 0.2]).start_level() == 3.0
    assert curve([5.0, 1.1, 0.9, 0.2]).start_level(threshold=0.5) == 1.0
    assert curve([1.0, 1.0, 1.0, 1.0]).start_level() == 0.3
    assert np.isinf(curve([0.5, 1.1, 0.9, 0.2]).start_level())


def test_progress_counts_every_item_at_every_level():
    seen = []
    gauge(lambda x, sigma: x, n=250, progress=seen.append, batch_size=100)
    assert sum(seen) == 6 * 250


def test_refusals():
    with pytest.raises(ValueError, match="`prediction` must be one of epsilon, v, x0, velocity, got 'eps'"):
        ModelDenoiser(lambda x, t: x, EDM(), "eps")
    with pytest.raises(ValueError, match="`data` has 3 numbers per item and `spectrum` 2 dimensions"):
        error_curve(lambda x, s: x, np.ones((5, 3)), spectrum=Spectrum.from_eigenvalues([1, 2]), sigma_min=1, sigma_max=2)
    with pytest.raises(ValueError, match="`data` must hold at least 2 items"):
        gauge(lambda x, s: x, n=1)
    with pytest.raises(ValueError, match=r"`denoiser` gave NaN or infinity at sigma = 20 for 3000 of 3000 items"):
        gauge(lambda x, s: x * np.nan)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sdaloglu_mnist_lin", 0.0535),
        ("sdaloglu_mnist_geo", 0.0695),
        ("sdaloglu_mnist_cos", 0.0592),
        ("sdaloglu_mnist_lin100ep", 0.0475),
        ("pulfer_mnist", 0.074),
        ("pulfer_fashion", 0.162),
    ],
)
def test_the_shared_networks_are_read_right(monkeypatch, name, expected):
    pytest.importorskip("torch", reason="the shared networks run in torch")
    if not (SHARED / "weights").is_dir():
        pytest.skip("no shared weights; set EIGENSTEP_SHARED")
    monkeypatch.setenv("EIGENSTEP_SHARED", str(SHARED))
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "experiments"))
    sys.modules.pop("shared_networks", None)
    import shared_networks

    # The reference numbers are one noise draw, good to 0.002.
    assert shared_networks.forward_check(name) == pytest.approx(expected, abs=0.002)


@pytest.mark.slow
def test_the_gauge_of_a_shared_network(monkeypatch):
    """Ratios read when the method was derived: 172 at 158, 12 at 40, 1.7 at 10, 1 at 1.7, 0.25 at 0.1."""
    torch = pytest.importorskip("torch", reason="the shared networks run in torch")
    if not (SHARED / "weights").is_dir():
        pytest.skip("no shared weights; set EIGENSTEP_SHARED")
    monkeypatch.setenv("EIGENSTEP_SHARED", str(SHARED))
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "experiments"))
    sys.modules.pop("shared_networks", None)
    import shared_networks

    name = "sdaloglu_mnist_lin100ep"
    net = shared_networks.load(name)
    training = shared_networks.images(name, "train")

    def network(x, t):
        with torch.no_grad():
            return net(torch.tensor(x, dtype=torch.float32), t).numpy()

    denoiser = ModelDenoiser(network, net.path, "epsilon")
    curve = error_curve(
        denoiser,
        shared_networks.images(name)[:200],
        spectrum=Spectrum.from_samples(training),
        sigma_min=0.1,
        sigma_max=denoiser.sigma_max,
        levels=9,
    )
    read = np.interp(np.log([157.0, 40.0, 10.0, 1.7, 0.1]), np.log(curve.sigmas[::-1]), np.log(curve.ratio[::-1]))
    # Read off a log-log curve of nine levels, by eye when first written down: 25 %.
    np.testing.assert_allclose(np.exp(read), [172, 12, 1.7, 1.0, 0.25], rtol=0.25)


def test_the_bound_is_the_gauges_denominator():
    curve = gauge(lambda x, sigma: x, n=10)
    np.testing.assert_array_equal(curve.bound, cramer_rao_bound(Spectrum.from_eigenvalues(LAM), curve.sigmas))
