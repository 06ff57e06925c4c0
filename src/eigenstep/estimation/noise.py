"""The Marchenko-Pastur check: are the small sample eigenvalues plain noise around fewer directions?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from eigenstep._checks import Float
from eigenstep.estimation.curve import freedom_of
from eigenstep.estimation.shrinkage import refuse_binned
from eigenstep.spectrum import Spectrum

_TRACY_WIDOM_99 = 2.0234
_LOOSEST = 0.04
"""Largest distance between two distribution functions that still counts as the same shape."""


@dataclass(frozen=True)
class NoiseCheck:
    """What `noise_check` found.

    Attributes
    ----------
    aspect : float
        Samples per dimension, n/d.
    effective_rank : float
        (tr S)^2 / tr S^2 of the sample.
    directions : int
        Sample eigenvalues above all that noise would give: structure.
    noise_variance : float
        Variance per direction of the rest, were it noise; squared data units.
    distance : float
        Largest difference between the distribution function of the rest and Marchenko and Pastur's.
    is_noise : bool
        Whether that difference is small and the rest is at least half of all.
    sentence : str
        All that in words.

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((400, 100)) * np.where(np.arange(100) < 3, 5.0, 1.0)
    >>> print(noise_check(Spectrum.from_samples(x)).sentence)
    3 directions stand out of what looks like plain noise of standard deviation 1 in the other 97.
    """

    aspect: float
    effective_rank: float
    directions: int
    noise_variance: float
    distance: float
    is_noise: bool
    sentence: str


def noise_check(spectrum: Spectrum) -> NoiseCheck:
    r"""Count the directions above noise, and compare the rest with the Marchenko-Pastur law.

    Noise of variance s^2 alone has its sample eigenvalues in s^2 (1 -+ sqrt(d/N))^2, N = n - 1. Counting from the largest,
    an eigenvalue is structure while it exceeds what the largest of pure noise stays below with probability 0.99,

        s_r^2/N (mu + 2.02 t),    mu = (sqrt(N-1/2) + sqrt(d-1/2))^2,    t = sqrt(mu) (1/sqrt(N-1/2) + 1/sqrt(d-1/2))^(1/3)

    (N and d less the r directions found), with s_r^2 the mean variance of those that remain.

    Parameters
    ----------
    spectrum : Spectrum
        Sample eigenvalues, not binned, with `n_samples`.

    Degenerate cases: a smooth decay, as of natural images, is structure all the way down: `is_noise` is False.

    Raises
    ------
    ValueError
        `n_samples` unknown or below 3, or a binned spectrum.

    Source: Johnstone, Ann. Statist. 29 (2001) 295, theorem 1.1, with the half-integers of Ma, Bernoulli 18 (2012) 322;
    sequential count after Kritchman and Nadler, Chemom. Intell. Lab. Syst. 94 (2008) 19.

    Examples
    --------
    >>> x = np.random.default_rng(0).standard_normal((400, 100)) * np.where(np.arange(100) < 3, 5.0, 1.0)
    >>> check = noise_check(Spectrum.from_samples(x))
    >>> check.directions, round(check.noise_variance, 2), check.is_noise
    (3, 1.0, True)
    """
    freedom = freedom_of(spectrum)
    refuse_binned(spectrum)
    # Directions without variance in more samples than dimensions are no noise either: they are constant.
    dim = float(spectrum.dim if freedom < spectrum.dim else spectrum.rank)
    lam = spectrum.eigenvalues[spectrum.eigenvalues > 0]
    found = np.arange(max(min(lam.size, int(min(dim, freedom))) // 2, 1))
    rest, room = dim - found, freedom - found
    remaining = np.cumsum(lam[::-1])[::-1][found]
    variance = remaining * freedom / (rest * room)
    a, b = np.sqrt(np.maximum(room - 0.5, 0.5)), np.sqrt(np.maximum(rest - 0.5, 0.5))
    largest = variance / freedom * ((a + b) ** 2 + _TRACY_WIDOM_99 * (a + b) * (1 / a + 1 / b) ** (1 / 3))
    inside = np.flatnonzero(lam[found] <= largest)
    structured = inside.size == 0
    directions = int(lam.size if structured else inside[0])
    at = found.size - 1 if structured else directions
    bulk = lam[at:][::-1]
    expected = _marchenko_pastur(bulk / variance[at], float(rest[at]), float(room[at]), freedom)
    steps = np.arange(bulk.size + 1) / bulk.size
    distance = float(np.max(np.maximum(np.abs(steps[1:] - expected), np.abs(expected - steps[:-1]))))
    # Eigenvalues of noise repel each other: their distribution function is within a few steps of the law's.
    is_noise = not structured and distance <= _LOOSEST + 2.0 / bulk.size
    return NoiseCheck(
        aspect=float((freedom + 1) / spectrum.dim),
        effective_rank=spectrum.effective_rank,
        directions=directions,
        noise_variance=float(variance[at]),
        distance=distance,
        is_noise=is_noise,
        sentence=_sentence(is_noise, directions, float(variance[at]), distance, dim, freedom + 1),
    )


def _marchenko_pastur(values: Float, dim: float, freedom: float, scale: float) -> Float:
    """Distribution function of the positive eigenvalues of dim-dimensional unit noise: a (freedom) Wishart over `scale`.

    With x = middle + half cos(angle), the density's roots at both edges become smooth, and the trapezoid rule suffices.
    """
    small, large = min(dim, freedom), max(dim, freedom)
    middle, half = (small + large) / scale, 2 * np.sqrt(small * large) / scale
    angle = np.linspace(np.pi, 0.0, 4001)
    x = middle + half * np.cos(angle)
    density = np.sin(angle) ** 2 / np.maximum(x, 1e-12 * middle)
    mass = np.concatenate(([0.0], np.cumsum(0.5 * (density[1:] + density[:-1]))))
    below: Float = np.interp(values, x, mass / mass[-1])
    return below


def _sentence(is_noise: bool, directions: int, variance: float, distance: float, dim: float, n: int) -> str:
    if is_noise and directions == 0:
        return (
            f"All sample eigenvalues look like plain noise of standard deviation {np.sqrt(variance):.3g}: {n} samples show "
            "no structure."
        )
    if is_noise:
        return (
            f"{directions} direction{'s' * (directions != 1)} stand{'s' * (directions == 1)} out of what looks like plain "
            f"noise of standard deviation {np.sqrt(variance):.3g} in the other {dim - directions:g}."
        )
    if directions >= min(dim, n - 1) / 4:
        return (
            "The eigenvalues show structure at every scale and no floor of plain noise (the lower ones differ from the "
            f"Marchenko-Pastur law by {distance:.2f})."
        )
    return (
        f"{directions} direction{'s' * (directions != 1)} stand{'s' * (directions == 1)} out, and the rest is not plain noise "
        f"either (it differs from the Marchenko-Pastur law by {distance:.2f})."
    )
