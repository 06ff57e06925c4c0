"""Plans on networks that others trained, against the whole catalogue: a reduced run of experiments/pretrained.py."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from eigenstep import Spectrum, catalogue_grids, sample
from eigenstep.models import item_noise, plan, profile

SHARED = Path(os.environ.get("EIGENSTEP_SHARED", "../shared"))
ROOT = Path(__file__).parent.parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (SHARED / "weights").is_dir(), reason="the shared networks are absent (EIGENSTEP_SHARED)"),
]


@pytest.fixture(scope="module")
def networks():
    pytest.importorskip("torch")
    sys.path.insert(0, str(ROOT / "experiments"))
    try:
        import shared_networks
    finally:
        sys.path.pop(0)
    return shared_networks


@pytest.fixture(scope="module")
def measured(networks):
    name = "sdaloglu_mnist_lin100ep"
    spectrum = Spectrum.from_samples(networks.images(name, "train"), basis=300)
    return profile(networks.denoiser(name), spectrum, data=networks.images(name)[:200], judges=16, seed=1)


@pytest.fixture(scope="module")
def endpoints(measured):
    noise = item_noise(range(32), (1, 28, 28), seed=7)
    fine = np.append(np.geomspace(measured.sigma_max, measured.sigma_min, 100), 0.0)
    return noise, sample(measured.denoiser, measured.sigma_max * noise, fine, solver="dpmpp_2m")


def errors(measured, endpoints, sigmas, warm, solver):
    noise, end = endpoints
    start = sigmas[0] * noise if warm is None else warm(noise)
    return np.mean((sample(measured.denoiser, start, sigmas, solver=solver) - end) ** 2, axis=(1, 2, 3))


@pytest.mark.parametrize(("solver", "calls"), [("ddim", 4), ("ddim", 6), ("dpmpp_2m", 6)])
def test_against_the_best_of_the_catalogue(measured, endpoints, solver, calls):
    made = plan(measured, None, calls, solver=solver)
    own = errors(measured, endpoints, made.sigmas, made.warm, solver)
    hands = catalogue_grids(
        calls, measured.sigma_min, measured.sigma_max, spectrum=measured.spectrum, path=measured.denoiser.path
    )
    best = min((errors(measured, endpoints, sigmas, None, solver) for sigmas in hands.values()), key=np.mean)
    if solver == "ddim":  # first order: at least a quarter below, in the root mean square
        assert np.sqrt(own.mean()) < 0.75 * np.sqrt(best.mean())
    gain = best - own
    assert gain.mean() >= -2 * gain.std() / np.sqrt(gain.size)  # never worse beyond two standard errors


def test_the_gauge_of_this_network(measured):
    ratio = np.interp(np.log([158.0, 1.7, 0.1]), np.log(measured.curve.sigmas[::-1]), measured.curve.ratio[::-1])
    # 170, 1 and 0.25 to the 5 % or so that 200 items and the interpolation between 25 levels allow.
    np.testing.assert_allclose(ratio, [170.0, 0.97, 0.243], rtol=0.08)
