"""Published laws u -> sigma: those of the range alone, those of a path's time, and that of a spectrum."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from eigenstep._checks import Float, real_number, sigma_range
from eigenstep.grids.cut import GridError, Law, check_path, make_law
from eigenstep.paths import NoisePath, VPCosine

if TYPE_CHECKING:
    from eigenstep.spectrum import Spectrum


def karras_law(sigma_min: float, sigma_max: float, *, rho: float = 7.0) -> Law:
    """Karras et al.'s law: sigma^(1/rho) linear in u.

    sigma(u) = (sigma_max^(1/rho) + u (sigma_min^(1/rho) - sigma_max^(1/rho)))^rho

    Source: Karras et al., arXiv:2206.00364, eq. (5); k-diffusion `get_sigmas_karras`.

    Parameters
    ----------
    sigma_min : float
        >= 0, in data units.
    sigma_max : float
        Above `sigma_min`, finite.
    rho : float
        > 0; 7 is EDM's, 1 is linear in sigma, and as rho grows it becomes `exponential_law`.

    Raises
    ------
    ValueError
        A range or rho outside these bounds.

    Examples
    --------
    >>> print(karras_law(0.002, 80.0)([0.0, 0.5, 1.0]).round(4))
    [8.0000e+01 2.5152e+00 2.0000e-03]
    """
    low, high = sigma_range(sigma_min, sigma_max, zero_min=True)
    rho = real_number(rho, "rho", minimum=0.0, exclusive=True)
    a, b = high ** (1.0 / rho), low ** (1.0 / rho)
    # The weighted sum a (1 - u) + b u, not a + u (b - a), so that no cancellation is left near u = 1.
    return make_law(lambda u: (a * (1.0 - u) + b * u) ** rho, f"karras_law(rho={rho:g})", low, high)


def exponential_law(sigma_min: float, sigma_max: float) -> Law:
    """Uniform in log sigma (uniform log-SNR): sigma(u) = sigma_max^(1-u) sigma_min^u.

    Source: Lu et al., arXiv:2206.00927 (steps uniform in lambda); k-diffusion `get_sigmas_exponential`.

    Parameters
    ----------
    sigma_min : float
        > 0 (its logarithm is taken).
    sigma_max : float
        Above `sigma_min`, finite.

    Examples
    --------
    >>> print(exponential_law(0.01, 100.0)([0.0, 0.5, 1.0]))
    [1.e+02 1.e+00 1.e-02]
    """
    low, high = sigma_range(sigma_min, sigma_max)
    log_low, log_high = math.log(low), math.log(high)
    return make_law(lambda u: np.exp((1.0 - u) * log_high + u * log_low), "exponential_law", low, high)


def polyexponential_law(sigma_min: float, sigma_max: float, *, rho: float = 1.0) -> Law:
    """A power of the ramp in log sigma: ln sigma(u) = (1-u)^rho (ln sigma_max - ln sigma_min) + ln sigma_min.

    Source: k-diffusion `get_sigmas_polyexponential`.

    Parameters
    ----------
    sigma_min : float
        > 0.
    sigma_max : float
        Above `sigma_min`, finite.
    rho : float
        > 0; 1 is `exponential_law`, more puts more points at low noise.

    Examples
    --------
    >>> print(polyexponential_law(0.01, 100.0, rho=2.0)([0.0, 0.5, 1.0]).round(6))
    [1.e+02 1.e-01 1.e-02]
    """
    low, high = sigma_range(sigma_min, sigma_max)
    rho = real_number(rho, "rho", minimum=0.0, exclusive=True)
    log_low, log_high = math.log(low), math.log(high)
    name = f"polyexponential_law(rho={rho:g})"
    return make_law(lambda u: np.exp((1.0 - u) ** rho * (log_high - log_low) + log_low), name, low, high)


def kl_optimal_law(sigma_min: float, sigma_max: float) -> Law:
    """The tangent law of scale 1: sigma(u) = tan((1-u) atan(sigma_max) + u atan(sigma_min)).

    Optimal for data of unit variance in every direction; for other data see `tangent_law`, whose scale is free. Both
    published conventions are cuts of it: `grid(law, n, final=0.0)` is ComfyUI's, `grid(law, n)` A1111's.

    Source: Sabour et al., arXiv:2404.14507, Theorem 3.1, with c = 1.

    Parameters
    ----------
    sigma_min : float
        >= 0.
    sigma_max : float
        Above `sigma_min`, finite.

    Examples
    --------
    >>> print(kl_optimal_law(0.0, 1.0)([0.0, 0.5, 1.0]).round(6))
    [1.       0.414214 0.      ]
    """
    low, high = sigma_range(sigma_min, sigma_max, zero_min=True)
    angle_low, angle_high = math.atan(low), math.atan(high)
    return make_law(lambda u: np.tan((1.0 - u) * angle_high + u * angle_low), "kl_optimal_law", low, high)


def cosine_law(sigma_min: float, sigma_max: float, *, s: float = 0.008) -> Law:
    """Uniform t on the cosine path with its offset: `uniform_t_law` on `VPCosine(s)`.

    Source: Nichol & Dhariwal, arXiv:2102.09672, eq. (17).

    Parameters
    ----------
    sigma_min : float
        >= 0.
    sigma_max : float
        Above `sigma_min`, finite.
    s : float
        Offset, >= 0; at 0 this is `kl_optimal_law`.

    Examples
    --------
    >>> print(cosine_law(0.002, 80.0)([0.0, 0.5, 1.0]).round(6))
    [8.00000e+01 9.99972e-01 2.00000e-03]
    """
    law = uniform_t_law(sigma_min, sigma_max, path=VPCosine(s=s))
    law.__name__ = f"cosine_law(s={s:g})"
    return law


def beta_law(sigma_min: float, sigma_max: float, *, alpha: float = 0.6, beta: float = 0.6) -> Law:
    """Quantiles of a Beta distribution, spread linearly over sigma.

    sigma(u) = sigma_min + I^{-1}(1 - u; alpha, beta) (sigma_max - sigma_min), I^{-1} the Beta quantile function.

    The name has two meanings: this one is A1111's and diffusers' (`use_beta_sigmas`); ComfyUI's takes the quantiles
    over the timestep's index, see `beta_timestep_grid`.

    Source: Lee et al., arXiv:2407.12173; A1111 `beta_scheduler`; diffusers `_convert_to_beta`.

    Parameters
    ----------
    sigma_min : float
        >= 0.
    sigma_max : float
        Above `sigma_min`, finite.
    alpha, beta : float
        > 0.

    Examples
    --------
    >>> print(beta_law(0.002, 80.0)([0.0, 0.25, 0.5, 1.0]).round(4))
    [8.00000e+01 6.59459e+01 4.00010e+01 2.00000e-03]
    """
    from scipy.special import betaincinv

    low, high = sigma_range(sigma_min, sigma_max, zero_min=True)
    alpha = real_number(alpha, "alpha", minimum=0.0, exclusive=True)
    beta = real_number(beta, "beta", minimum=0.0, exclusive=True)
    name = f"beta_law(alpha={alpha:g}, beta={beta:g})"
    return make_law(lambda u: low + betaincinv(alpha, beta, 1.0 - u) * (high - low), name, low, high)


def golden_law(sigma_min: float, sigma_max: float) -> Law:
    """The golden scheduler: sigma(u) = (1-u)^phi sigma_max + u^phi sigma_min, phi = (1 + sqrt 5) / 2.

    Just before u = 1 it dips below sigma_min, by design of the formula; only grids of more than about
    (sigma_max / sigma_min)^1.6 steps come near that, and `grid` refuses them.

    Source: Extraltodeus/sigmas_tools_and_the_golden_scheduler, node "The Golden Scheduler".

    Parameters
    ----------
    sigma_min : float
        >= 0.
    sigma_max : float
        Above `sigma_min`, finite.

    Examples
    --------
    >>> print(golden_law(0.0, 1.0)([0.0, 0.5, 1.0]).round(6))
    [1.       0.325779 0.      ]
    """
    low, high = sigma_range(sigma_min, sigma_max, zero_min=True)
    phi = 0.5 * (1.0 + math.sqrt(5.0))
    return make_law(lambda u: (1.0 - u) ** phi * high + u**phi * low, "golden_law", low, high)


def laplace_law(sigma_min: float, sigma_max: float, *, mu: float = 0.0, beta: float = 0.5) -> Law:
    """Quantiles of a Laplace distribution of ln sigma, clipped to the range.

    ln sigma(u) = mu - beta sgn(1/2 - u) ln(1 - 2 |1/2 - u| + 1e-5)

    At u = 0 and 1 it is sigma_max and sigma_min themselves (the published code stops at e^(mu +- 11.5 beta) where the
    range is wider than that). On a narrow range several points clip to one end and `grid` refuses them.

    Source: Hang et al., arXiv:2407.03297; ComfyUI `get_sigmas_laplace`.

    Parameters
    ----------
    sigma_min : float
        > 0.
    sigma_max : float
        Above `sigma_min`, finite.
    mu : float
        Median of ln sigma.
    beta : float
        > 0, its spread.

    Examples
    --------
    >>> print(laplace_law(0.002, 80.0)([0.0, 0.25, 0.5, 1.0]).round(6))
    [8.000000e+01 1.414199e+00 1.000000e+00 2.000000e-03]
    """
    low, high = sigma_range(sigma_min, sigma_max)
    mu = real_number(mu, "mu")
    beta = real_number(beta, "beta", minimum=0.0, exclusive=True)
    epsilon = 1e-5  # the published guard against ln 0: parity needs it inside the range too

    def formula(u: Float) -> Float:
        log_sigma = mu - beta * np.sign(0.5 - u) * np.log(1.0 - 2.0 * np.abs(0.5 - u) + epsilon)
        return np.clip(np.exp(log_sigma), low, high)

    return make_law(formula, f"laplace_law(mu={mu:g}, beta={beta:g})", low, high)


def uniform_t_law(sigma_min: float, sigma_max: float, *, path: NoisePath) -> Law:
    """Uniform in the path's own time t between the two levels.

    t(u) = (1-u) t(sigma_max) + u t(sigma_min);  sigma(u) = sigma(t(u))

    `grid(law, n, final=0.0)` is k-diffusion's `get_sigmas`, ComfyUI's `normal` and A1111's `uniform`.

    Source: Song et al., arXiv:2010.02502, appendix D.2 ("linear"); k-diffusion `DiscreteSchedule.get_sigmas`.

    Parameters
    ----------
    sigma_min : float
        >= 0.
    sigma_max : float
        Above `sigma_min`, finite. Both within `path.sigma_domain`.
    path : NoisePath
        Where t comes from. On `EDM()` this law is linear in sigma; on `VE()` it is `exponential_law`.

    Raises
    ------
    GridError
        The path does not reach sigma_min or sigma_max.

    Examples
    --------
    >>> from eigenstep.paths import VPLinear
    >>> print(uniform_t_law(0.01, 152.0, path=VPLinear())([0.0, 0.5, 1.0]).round(4))
    [1.5200e+02 3.4204e+00 1.0000e-02]
    """
    return _power_t_law(sigma_min, sigma_max, path, 1, "uniform_t_law")


def quadratic_t_law(sigma_min: float, sigma_max: float, *, path: NoisePath) -> Law:
    """Uniform in the square root of the path's time.

    t(u) = ((1-u) sqrt(t(sigma_max)) + u sqrt(t(sigma_min)))^2;  sigma(u) = sigma(t(u))

    Parameters and errors as in `uniform_t_law`.

    Source: Song et al., arXiv:2010.02502, appendix D.2 ("quadratic"); diff-sampler `time_uniform` with rho = 2.

    >>> from eigenstep.paths import VPLinear
    >>> print(quadratic_t_law(0.01, 152.0, path=VPLinear())([0.0, 0.5, 1.0]).round(4))
    [1.5200e+02 1.0339e+00 1.0000e-02]
    """
    return _power_t_law(sigma_min, sigma_max, path, 2, "quadratic_t_law")


def _power_t_law(sigma_min: float, sigma_max: float, path: NoisePath, rho: int, name: str) -> Law:
    low, high = sigma_range(sigma_min, sigma_max, zero_min=True)
    check_path(path)
    try:
        t_end, t_start = path.sigma_to_t([low, high])
    except ValueError as error:
        raise GridError(f"`path` must reach from `sigma_min` {low:.8g} to `sigma_max` {high:.8g}: {error}") from None
    a, b = t_start ** (1.0 / rho), t_end ** (1.0 / rho)
    return make_law(lambda u: path.t_to_sigma(np.clip((a * (1.0 - u) + b * u) ** rho, t_end, t_start)), name, low, high)


def rescaled_entropic_law(sigma_min: float, sigma_max: float, *, spectrum: Spectrum) -> Law:
    """Uniform in the rescaled entropy of Gaussian data.

    R(sigma) = integral of mmse(s) / s^2 ds = sum_i m_i sqrt(lambda_i) atan(sigma / sqrt(lambda_i));
    R(sigma(u)) = (1-u) R(sigma_max) + u R(sigma_min), solved for sigma by Newton's method.

    Source: Stancevic et al., arXiv:2504.13612 (rescaled entropic time), closed form for a Gaussian derived here.

    Parameters
    ----------
    sigma_min : float
        >= 0.
    sigma_max : float
        Above `sigma_min`, finite.
    spectrum : Spectrum
        The eigenvalues lambda_i and multiplicities m_i; lambda = 0 contributes nothing. With one eigenvalue this is the
        tangent law of scale sqrt(lambda).

    Examples
    --------
    >>> from eigenstep.spectrum import Spectrum
    >>> print(rescaled_entropic_law(0.0, 80.0, spectrum=Spectrum.from_eigenvalues([4.0, 0.01]))([0.0, 0.5]).round(4))
    [80.      1.8129]
    """
    low, high = sigma_range(sigma_min, sigma_max, zero_min=True)
    positive = spectrum.eigenvalues > 0.0
    lam = spectrum.eigenvalues[positive]
    m = spectrum.multiplicities[positive]
    root = np.sqrt(lam)

    def R(sigma: Float) -> Float:
        return np.asarray(np.arctan(sigma[..., None] / root) @ (m * root))

    ends = R(np.array([low, high]))
    # Left brackets: R is concave in sigma, so Newton from the left of the root climbs to it without overshooting.
    nodes = np.append(low, np.geomspace(max(low, 1e-6 * high), high, 33)[1:])
    R_nodes = R(nodes)

    def formula(u: Float) -> Float:
        target = (1.0 - u) * ends[1] + u * ends[0]
        sigma = nodes[np.maximum(np.searchsorted(R_nodes, target, side="right") - 1, 0)]
        for _ in range(50):
            residual = target - R(sigma)
            step = residual / ((lam / (lam + sigma[..., None] ** 2)) @ m)
            sigma = np.clip(sigma + step, low, high)
            if np.all((np.abs(step) <= 1e-14 * sigma) | (np.abs(residual) <= 4e-16 * ends[1])):
                break
        return np.asarray(sigma)

    return make_law(formula, "rescaled_entropic_law", low, high)
