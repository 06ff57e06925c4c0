"""training.py: a law as alphas_cumprod, betas and a density of noise levels."""

import numpy as np
import pytest

from eigenstep import (
    VPDiscrete,
    alphas_cumprod,
    betas,
    exponential_law,
    karras_law,
    noise_level_density,
    tangent_law,
)

LAW = tangent_law(0.002, 80.0, gamma=1.0)


def test_the_tangent_law_of_gamma_one_is_a_cosine_schedule():
    """alpha_bar = 1/(1 + tan^2) = cos^2 of an angle linear in t: Nichol & Dhariwal's schedule without its offset."""
    angles = np.linspace(np.arctan(0.002), np.arctan(80.0), 1000)
    np.testing.assert_allclose(alphas_cumprod(LAW, 1000), np.cos(angles) ** 2, rtol=1e-11)  # cos^2 is 1.6e-4 at the top


def test_betas_multiply_up_to_alphas_cumprod():
    beta = betas(LAW, 1000)
    assert np.all((beta > 0) & (beta < 1))
    np.testing.assert_allclose(np.cumprod(1 - beta), alphas_cumprod(LAW, 1000), rtol=1e-12)


def test_a_path_made_of_the_schedule_has_the_levels_of_the_law():
    path = VPDiscrete.from_alphas_cumprod(alphas_cumprod(LAW, 100))
    # sigma = sqrt(1/alpha_bar - 1) cancels near alpha_bar = 1: 1e-16 against sigma^2 = 4e-6.
    np.testing.assert_allclose(path.t_to_sigma(np.arange(100))[::-1], LAW(np.linspace(0, 1, 100)), rtol=1e-9)


@pytest.mark.parametrize("sigma_min", [0.002, 0.0])
def test_density_of_the_tangent_law_in_closed_form(sigma_min):
    gamma = 0.7
    law = tangent_law(sigma_min, 80.0, gamma=gamma)
    sigma = np.geomspace(0.003, 79.0, 50)
    expected = gamma / (gamma**2 + sigma**2) / (np.arctan(80 / gamma) - np.arctan(sigma_min / gamma))
    np.testing.assert_allclose(noise_level_density(law, sigma), expected, rtol=1e-7)  # 1e-7 is what the docstring promises


@pytest.mark.parametrize("law", [karras_law(0.01, 80.0), exponential_law(0.01, 80.0)])
def test_a_density_integrates_to_one_and_matches_draws(law):
    edges = np.geomspace(0.01, 80.0, 4001)
    middles = np.sqrt(edges[1:] * edges[:-1])
    mass = noise_level_density(law, middles) * np.diff(edges)
    assert mass.sum() == pytest.approx(1, abs=1e-5)  # midpoint rule on 4000 cells
    draws = law(np.random.default_rng(0).random(200_000))
    share = np.mean(draws < 1.0)
    expected = mass[middles < 1.0].sum()
    assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / draws.size) + 1e-3  # five standard errors


def test_the_density_is_zero_outside_and_finite_at_the_ends():
    law = exponential_law(0.5, 2.0)
    got = noise_level_density(law, [0.49, 0.5, 2.0, 2.01])
    np.testing.assert_allclose(got, [0.0, 1 / (0.5 * np.log(4)), 1 / (2.0 * np.log(4)), 0.0], rtol=1e-7)


def test_refusals():
    with pytest.raises(ValueError, match="`n_timesteps` must be at least 2, got 1"):
        alphas_cumprod(LAW, 1)
    with pytest.raises(ValueError, match="`law` must be strictly descending"):
        betas(lambda u: 1 + np.asarray(u), 10)
    with pytest.raises(ValueError, match="`law` must be finite"):
        noise_level_density(tangent_law(0.0, np.inf, gamma=1.0), [1.0])
