"""The distances and their intervals: hand-worked values, two routes to each number, known expectations."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from eigenstep.evaluation.metrics import (
    bootstrap_interval,
    frechet_distance,
    gaussian_frechet,
    kernel_distance,
    paired_interval,
    rmse,
    sliced_w2,
    squared_errors,
    t_interval,
)


def covariance(d, seed, rank=None):
    root = np.random.default_rng(seed).standard_normal((rank or d, d))
    return root.T @ root / d


def items_with(mean, matrix):
    """2 d items whose sample mean and covariance are exactly these: +- the columns of a root."""
    d = len(mean)
    values, vectors = np.linalg.eigh(matrix)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))).T * math.sqrt((2 * d - 1) / 2)
    return np.concatenate([root, -root]) + mean


def test_frechet_of_known_gaussians_by_both_routes():
    d = 7
    means, matrices = (np.arange(d) / 3.0, np.ones(d)), (covariance(d, 1), covariance(d, 2))
    by_eigenvalues = gaussian_frechet(means[0], matrices[0], means[1], matrices[1])
    by_items = frechet_distance(items_with(means[0], matrices[0]), items_with(means[1], matrices[1]))
    # Third route: the eigenvalues of the product S_x S_y itself, which are real and >= 0.
    cross = np.sqrt(np.linalg.eigvals(matrices[0] @ matrices[1]).real).sum()
    known = ((means[0] - means[1]) ** 2).sum() + np.trace(matrices[0]) + np.trace(matrices[1]) - 2 * cross
    # 1e-10: the roots of d well-separated eigenvalues, in double precision.
    np.testing.assert_allclose([by_eigenvalues, by_items], known, rtol=1e-10)


def test_frechet_of_commuting_gaussians_is_the_sum_of_squared_differences_of_deviations():
    a, b = np.array([4.0, 1.0, 0.25]), np.array([1.0, 9.0, 0.0])
    known = 1.0 + (2 - 1) ** 2 + (1 - 3) ** 2 + 0.5**2
    x, y = items_with(np.zeros(3), np.diag(a)), items_with(np.array([1.0, 0.0, 0.0]), np.diag(b))
    assert gaussian_frechet([0, 0, 0], np.diag(a), [1, 0, 0], np.diag(b)) == pytest.approx(known, rel=1e-12)
    assert frechet_distance(x, y) == pytest.approx(known, rel=1e-12)


def test_frechet_of_a_sample_with_itself_is_zero_even_below_full_rank():
    x = np.random.default_rng(3).standard_normal((5, 40))
    # Singular values carry rounding of 1e-16 of the scale each; the roots of eigenvalues would carry 1e-8.
    assert frechet_distance(x, x) < 1e-12
    assert frechet_distance(x, x + 2.0) == pytest.approx(160.0, rel=1e-12)


def test_frechet_bias_is_as_documented():
    rng, n, d = np.random.default_rng(4), 400, 12
    found = [frechet_distance(rng.standard_normal((n, d)), rng.standard_normal((n, d))) for _ in range(200)]
    # Four standard errors of the mean of 200 draws, and the 2 % of the next order, d/n.
    expected = 2 * d * (d + 5) / (4 * n)
    assert abs(np.mean(found) - expected) < 4 * np.std(found) / math.sqrt(200) + 0.02 * expected


def test_kernel_distance_by_the_definition_and_its_jackknife_by_leaving_out():
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal((9, 4)), rng.standard_normal((9, 4)) + 0.3

    def direct(x, y):
        k = lambda a, b: (a @ b / 4 + 1.0) ** 3  # noqa: E731
        pairs = itertools.permutations(range(len(x)), 2)
        h = [k(x[i], x[j]) + k(y[i], y[j]) - k(x[i], y[j]) - k(x[j], y[i]) for i, j in pairs]
        return np.mean(h)

    found = kernel_distance(x, y)
    left_out = [direct(np.delete(x, i, 0), np.delete(y, i, 0)) for i in range(9)]
    assert found.value == pytest.approx(direct(x, y), rel=1e-12)
    assert found.standard_error == pytest.approx(math.sqrt(8 / 9 * 9 * np.var(left_out)), rel=1e-10)


def test_kernel_distance_is_unbiased_and_its_error_is_its_spread():
    rng = np.random.default_rng(6)
    same = [kernel_distance(rng.standard_normal((60, 3)), rng.standard_normal((60, 3))) for _ in range(300)]
    values = np.array([found.value for found in same])
    # Four standard errors of the mean: unbiased at zero, so below it about half of the time.
    assert abs(values.mean()) < 4 * values.std() / math.sqrt(300)
    assert 0.2 < (values < 0).mean() < 0.8
    apart = [kernel_distance(rng.standard_normal((60, 3)) * 1.5, rng.standard_normal((60, 3))) for _ in range(300)]
    spread = np.std([found.value for found in apart])
    # The jackknife is a little too large on average, here by less than a third.
    assert 0.9 * spread < np.mean([found.standard_error for found in apart]) < 1.35 * spread


def test_kernel_distance_sees_what_means_and_covariances_do_not():
    rng = np.random.default_rng(7)
    signs = rng.choice([-1.0, 1.0], (4000, 1))
    skewed = rng.exponential(size=(4000, 1)) - 1.0
    assert frechet_distance(signs, skewed) < 0.01
    found = kernel_distance(signs, skewed)
    assert found.value > 4 * found.standard_error


def test_sliced_w2_of_shifted_items_is_the_mean_projection():
    x = np.random.default_rng(8).standard_normal((50, 3))
    shift = np.array([1.0, -2.0, 0.5])
    # E (u . shift)^2 = |shift|^2 / d over the sphere; 20,000 directions leave less than 1 %.
    assert sliced_w2(x, x + shift, directions=20000) == pytest.approx(math.sqrt(shift @ shift / 3), rel=0.01)
    assert sliced_w2(x, x[::-1]) == 0.0


def test_sliced_w2_of_different_numbers_is_that_of_repeated_items():
    rng = np.random.default_rng(9)
    x, y = rng.standard_normal((6, 2)), rng.standard_normal((4, 2))
    repeated = sliced_w2(np.repeat(x, 2, axis=0), np.repeat(y, 3, axis=0))
    assert sliced_w2(x, y) == pytest.approx(repeated, rel=1e-12)


def test_rmse_and_squared_errors():
    x, y = np.zeros((2, 2, 2)), np.stack([np.ones((2, 2)), np.full((2, 2), 3.0)])
    assert squared_errors(x, y).tolist() == [1.0, 9.0]
    assert rmse(x, y) == pytest.approx(math.sqrt(5.0), rel=1e-15)


def test_t_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(10)
    covered = [(lambda i: i.low < 0.0 < i.high)(t_interval(rng.standard_normal(5))) for _ in range(2000)]
    # Four binomial standard errors of 2000 draws.
    assert abs(np.mean(covered) - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 2000)
    alone = t_interval([2.0])
    assert alone.mean == 2.0
    assert math.isnan(alone.low)


def test_paired_interval_is_narrower_where_noise_is_shared():
    rng = np.random.default_rng(11)
    shared = rng.standard_normal(8)
    ours, theirs = shared + 0.01 * rng.standard_normal(8), shared + 0.1 + 0.01 * rng.standard_normal(8)
    found = paired_interval(ours, theirs)
    assert found.high < 0 < t_interval(ours).half_width
    assert found.half_width < 0.1 * t_interval(ours).half_width


def test_bootstrap_interval_agrees_with_the_normal_one_for_a_mean():
    items = np.random.default_rng(12).exponential(size=2000)
    found = bootstrap_interval(items)
    half = 1.96 * items.std() / math.sqrt(items.size)
    # 2000 resamples place a 2.5 % quantile to about 5 % of the half width.
    assert found.half_width == pytest.approx(half, rel=0.12)
    assert found.low < found.mean < found.high
    root = bootstrap_interval(items, lambda rows: np.sqrt(rows.mean(axis=-1)))
    assert root.mean == pytest.approx(math.sqrt(items.mean()), rel=1e-14)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: rmse([[1.0]], [[1.0], [2.0]]), r"pairs of items of one shape, got shapes \(1, 1\) and \(2, 1\)"),
        (lambda: frechet_distance([[1.0]], [[1.0], [2.0]]), "at least 2 items each, got 1 and 2"),
        (lambda: frechet_distance([[1.0, 2.0]] * 2, [[1.0]] * 2), "the same dimensions"),
        (lambda: frechet_distance([[1.0], [np.nan]], [[1.0], [2.0]]), "`x` must be finite"),
        (lambda: gaussian_frechet([0.0], [[1.0]], [0.0, 0.0], np.eye(2)), r"`covariance_x` must be \(1, 1\)"),
        (lambda: gaussian_frechet([0.0, 0.0], [[1.0, 1.0], [0.0, 1.0]], [0.0, 0.0], np.eye(2)), "must be symmetric"),
        (lambda: kernel_distance(np.ones((4, 1)), np.ones((5, 1))), "as many items each, at least 3, got 4 and 5"),
        (lambda: kernel_distance(np.ones((4, 1)), np.ones((4, 1)), degree=0), "`degree` must be at least 1"),
        (lambda: kernel_distance(np.ones((4, 1)), np.ones((4, 1)), gamma=0.0), "`gamma` must be greater than 0"),
        (lambda: sliced_w2(np.ones((4, 1)), np.ones((4, 1)), directions=0), "`directions` must be at least 1"),
        (lambda: t_interval([]), "at least one repetition"),
        (lambda: t_interval([1.0, 2.0], level=1.0), "`level` must be"),
        (lambda: paired_interval([1.0], [1.0, 2.0]), "pairs of repetitions, got 1 and 2"),
        (lambda: bootstrap_interval([1.0]), "at least 2 items, got 1"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()
