"""What single steps do: their angles make DDIM's retained variance, their errors add up to the local objective."""

from __future__ import annotations

import numpy as np
import pytest

from eigenstep.gaussian import divergence, retained_variance
from eigenstep.spectrum import Spectrum
from eigenstep.steps import local_shares, swept_angles

SPECTRUM = Spectrum.from_eigenvalues([9.0, 1.0, 0.04, 0.0], multiplicities=[1.0, 2.0, 5.0, 3.0])
GRID = [80.0, 4.0, 1.0, 0.2, 0.0]


def test_ddim_keeps_the_cosines_of_the_angles():
    angles = swept_angles(SPECTRUM, GRID)
    assert angles.shape == (4, 4)
    kept = np.prod(np.cos(angles[:, :3]) ** 2, axis=0)
    # Two routes to one number: theory (2) and the sampler itself; rounding of a dozen operations.
    np.testing.assert_allclose(kept, retained_variance(SPECTRUM, GRID)[:3], rtol=1e-12)


def test_angles_sum_to_the_whole_way():
    angles = swept_angles(SPECTRUM, GRID)
    whole = np.arctan2(80.0, np.sqrt(SPECTRUM.eigenvalues))
    np.testing.assert_allclose(angles.sum(axis=0), whole, rtol=1e-12)


def test_a_direction_without_variance_turns_in_the_last_step_only():
    # Exactly: atan2(sigma, 0) is pi/2 for every sigma > 0.
    assert swept_angles(SPECTRUM, GRID)[:, 3].tolist() == [0.0, 0.0, 0.0, np.pi / 2]


@pytest.mark.parametrize("solver", ["ddim", "heun", "dpmpp_2m", "euler_ancestral"])
@pytest.mark.parametrize("noise_floor", [0.0, 0.3])
def test_shares_add_up_to_the_local_objective(solver, noise_floor):
    shares = local_shares(SPECTRUM, GRID, solver=solver, noise_floor=noise_floor)
    total = divergence(SPECTRUM, GRID, solver=solver, objective="local", noise_floor=noise_floor)
    assert shares.shape == (4,)
    assert np.all(shares >= 0)
    # The same terms in another order.
    np.testing.assert_allclose(shares.sum(), total, rtol=1e-12)


@pytest.mark.parametrize("ask", [swept_angles, local_shares])
def test_a_grid_that_rises_is_refused(ask):
    with pytest.raises(ValueError, match="`sigmas` must be strictly descending"):
        ask(SPECTRUM, [1.0, 2.0, 0.0])


def test_a_negative_noise_floor_is_refused():
    with pytest.raises(ValueError, match="`noise_floor` must be at least 0"):
        local_shares(SPECTRUM, GRID, noise_floor=-1.0)
