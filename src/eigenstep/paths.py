"""Paths: how a trained model labels its noise levels, t <-> sigma, and how much signal is left, alpha.

A forward process x_t = alpha(t) x_0 + s(t) eps divided by alpha is x_0 + sigma eps with sigma = s / alpha, so every
path is the same process in that coordinate and a path is only a map t <-> sigma (and alpha). This module alone knows
t, alpha and the log-SNR; everything above it speaks sigma.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import final

import numpy as np
from numpy.typing import ArrayLike

from eigenstep._checks import Float, integer, real_array, real_number, sigma_range

# Published ends are printed to 6-8 digits and host libraries hold their tables in float32, so a sigma this close
# (relatively) outside an end of a path *is* that end: 14.614642 is Stable Diffusion's 14.614641229...
_END_SLACK = 1e-6


class NoisePath(ABC):
    """The map t <-> sigma of one trained model, with alpha and log-SNR.

    `t_to_sigma` and `sigma_to_t` are inverse to each other and increasing; both take and return arrays of any one
    shape. `sigma_min` and `sigma_max` are the levels the model was trained for, those of `t_min` and `t_max`; the map
    itself may reach further (`sigma_domain`). Subclasses are final and supply the three formulas.

    Examples
    --------
    >>> flow = RectifiedFlow()
    >>> float(flow.t_to_sigma(0.5)), float(flow.sigma_to_t(3.0)), float(flow.alpha(0.75))
    (1.0, 0.75, 0.25)
    """

    @property
    @abstractmethod
    def t_min(self) -> float:
        """The trained time of least noise."""

    @property
    @abstractmethod
    def t_max(self) -> float:
        """The trained time of most noise."""

    @property
    @abstractmethod
    def t_domain(self) -> tuple[float, float]:
        """The closed interval of t on which the formula holds and sigma is finite."""

    @abstractmethod
    def _sigma(self, t: Float) -> Float:
        """The formula of `t_to_sigma`, on checked values."""

    @abstractmethod
    def _t(self, sigma: Float) -> Float:
        """The formula of `sigma_to_t`, on checked values."""

    @abstractmethod
    def _alpha(self, sigma: Float) -> Float:
        """The signal's scale at noise level sigma, on checked values."""

    @property
    def n_timesteps(self) -> int | None:
        """How many integer timesteps the model has; None where t is continuous."""
        return None

    @property
    def sigma_min(self) -> float:
        """The lowest trained noise level, sigma(t_min)."""
        return float(self._sigma(np.float64(self.t_min)))

    @property
    def sigma_max(self) -> float:
        """The highest trained noise level, sigma(t_max)."""
        return float(self._sigma(np.float64(self.t_max)))

    @property
    def sigma_domain(self) -> tuple[float, float]:
        """The closed interval of sigma that `sigma_to_t` takes: sigma at the two ends of `t_domain`."""
        low, high = self.t_domain
        return float(self._sigma(np.float64(low))), float(self._sigma(np.float64(high)))

    @final
    def t_to_sigma(self, t: ArrayLike) -> Float:
        """The noise-to-signal ratio sigma(t) = s(t) / alpha(t).

        Parameters
        ----------
        t : array_like
            Times in `t_domain`, any shape (fractional ones too on a discrete path).

        Returns
        -------
        array
            sigma, the same shape, >= 0.

        Raises
        ------
        ValueError
            t outside `t_domain`, where sigma is infinite or the model has no such time.

        Examples
        --------
        >>> print(EDM().t_to_sigma([0.002, 80.0]))
        [2.e-03 8.e+01]
        """
        return np.asarray(self._sigma(self._inside(t, "t", self.t_domain, 0.0)))

    @final
    def sigma_to_t(self, sigma: ArrayLike) -> Float:
        """The time t at which the noise-to-signal ratio is sigma; inverse of `t_to_sigma`.

        Parameters
        ----------
        sigma : array_like
            Noise levels in `sigma_domain`, any shape; a level outside an end by less than 1e-6 of it (printed digits,
            float32) is that end. A grid's final 0 is no level a model is called at: drop it first where the path does
            not reach 0.

        Returns
        -------
        array
            t, the same shape, float64 (round it yourself where a model takes integers only).

        Raises
        ------
        ValueError
            sigma outside `sigma_domain`.

        Examples
        --------
        >>> print(VPDiscrete.sd15().sigma_to_t([14.614642, 0.6523686]).round(3))
        [999. 233.]
        """
        return np.asarray(self._t(self._inside(sigma, "sigma", self.sigma_domain, _END_SLACK)))

    @final
    def alpha(self, t: ArrayLike) -> Float:
        """The scale of the signal in x_t = alpha x_0 + s eps, in (0, 1].

        Variance-preserving paths: 1 / sqrt(1 + sigma^2). Rectified flow: 1 / (1 + sigma). VE and EDM: 1.

        >>> print(VPLinear().alpha([0.0, 1.0]).round(6))
        [1.       0.006572]
        """
        return np.asarray(self._alpha(self.t_to_sigma(t)))

    @final
    def log_snr(self, t: ArrayLike) -> Float:
        """ln(alpha^2 / s^2) = -2 ln sigma, in nats; +inf where sigma = 0.

        (DPM-Solver's lambda, ln(alpha / s), is half of this.)

        >>> print(EDM().log_snr([0.002, 0.5, 80.0]).round(6))
        [12.429216  1.386294 -8.764053]
        """
        with np.errstate(divide="ignore"):  # sigma = 0 is a clean image: its SNR is infinite
            return np.asarray(-2.0 * np.log(self.t_to_sigma(t)))

    def _inside(self, value: ArrayLike, name: str, domain: tuple[float, float], slack: float) -> Float:
        """`value` within the closed `domain`; what is outside an end by less than `slack` (relative) is that end."""
        array = real_array(value, name)
        low, high = domain
        outside = (array < low * (1 - slack)) | (array > high * (1 + slack))
        if np.any(outside):
            worst = float(array[outside].flat[0])
            if name == "t" and worst >= 1.0 > self.t_max:
                remedy = f"at t = 1 no signal is left and sigma is infinite: stop at {self.t_max:g}, the trained end"
            elif name == "sigma" and worst == 0.0:
                remedy = "no model is called at a grid's final 0: drop it"
            else:
                remedy = f"this path is trained from sigma {self.sigma_min:.8g} to {self.sigma_max:.8g}"
            kind = type(self).__name__
            raise ValueError(
                f"`{name}` must lie between {low:.10g} and {high:.10g} on {kind}, got {worst:.8g}; {remedy}."
            )
        return np.clip(array, low, high)


def _vp_alpha(sigma: Float) -> Float:
    return np.asarray(1.0 / np.sqrt(1.0 + sigma**2))


@final
@dataclass(frozen=True)
class VPLinear(NoisePath):
    """Variance-preserving path with beta(t) = beta_min + t (beta_max - beta_min), t in [0, 1].

    sigma(t)^2 = exp(beta_d t^2 / 2 + beta_min t) - 1, with beta_d = beta_max - beta_min.

    Source: Song et al., arXiv:2011.13456, eq. (11); in sigma: Karras et al., arXiv:2206.00364, Table 1, column VP.

    Parameters
    ----------
    beta_min, beta_max : float
        Rates at t = 0 and 1, 0 < beta_min <= beta_max (0.1 and 20: sigma up to 152).
    t_min : float
        The trained time of least noise, in (0, 1).

    Examples
    --------
    >>> print(VPLinear().t_to_sigma([0.0, 0.5, 1.0]).round(6))
    [  0.         3.412918 152.16697 ]
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-3

    def __post_init__(self) -> None:
        """Refuse parameters outside their ranges."""
        real_number(self.beta_min, "beta_min", minimum=0.0, exclusive=True)
        real_number(self.beta_max, "beta_max", minimum=self.beta_min)
        real_number(self.t_min, "t_min", minimum=0.0, maximum=1.0, exclusive=True)

    @property
    def t_max(self) -> float:
        """1, the end of the path."""
        return 1.0

    @property
    def t_domain(self) -> tuple[float, float]:
        """[0, 1]."""
        return 0.0, 1.0

    def _sigma(self, t: Float) -> Float:
        beta_d = self.beta_max - self.beta_min
        return np.sqrt(np.expm1(0.5 * beta_d * t**2 + self.beta_min * t))

    def _t(self, sigma: Float) -> Float:
        beta_d = self.beta_max - self.beta_min
        log = np.log1p(sigma**2)
        # The root of beta_d t^2/2 + beta_min t = log without the difference of near-equal numbers.
        return np.asarray(2.0 * log / (self.beta_min + np.sqrt(self.beta_min**2 + 2.0 * beta_d * log)))

    def _alpha(self, sigma: Float) -> Float:
        return _vp_alpha(sigma)


@final
@dataclass(frozen=True)
class VPCosine(NoisePath):
    """Variance-preserving cosine path with its offset.

    alpha(t)^2 = cos^2(theta(t)) / cos^2(theta(0)), theta(t) = (pi/2) (t + s) / (1 + s); hence, with theta_0 = theta(0),
    sigma(t)^2 = sin(theta - theta_0) sin(theta + theta_0) / cos^2(theta). At s = 0 it is sigma = tan(pi t / 2), the
    tangent law of scale 1. At t = 1 sigma is infinite: t stops at `t_max`.

    Source: Nichol & Dhariwal, arXiv:2102.09672, eq. (17).

    Parameters
    ----------
    s : float
        Offset, >= 0 (0.008).
    t_min, t_max : float
        The trained times, 0 < t_min < t_max < 1; 0.9946 is where DPM-Solver stops (sigma 119).

    Examples
    --------
    >>> print(VPCosine().t_to_sigma([0.0, 0.5, 0.9946]).round(6))
    [  0.         1.01239  118.823651]
    """

    s: float = 0.008
    t_min: float = 1e-3
    t_max: float = 0.9946

    def __post_init__(self) -> None:
        """Refuse parameters outside their ranges."""
        real_number(self.s, "s", minimum=0.0)
        _check_times(self.t_min, self.t_max, "a cosine path")

    @property
    def t_domain(self) -> tuple[float, float]:
        """[0, 1 - 1e-9]: t = 1 has no signal left, and sigma there is infinite."""
        return 0.0, 1.0 - 1e-9

    def _theta(self, t: Float | float) -> Float:
        return np.asarray(0.5 * math.pi * (t + self.s) / (1.0 + self.s))

    def _sigma(self, t: Float) -> Float:
        theta, theta_0 = self._theta(t), self._theta(0.0)
        return np.asarray(np.sqrt(np.sin(theta - theta_0) * np.sin(theta + theta_0)) / np.cos(theta))

    def _t(self, sigma: Float) -> Float:
        theta_0 = self._theta(0.0)
        # tan(theta) from sigma directly: arccos of a number near 1 would lose half the digits at small sigma.
        theta = np.arctan2(np.hypot(sigma, np.sin(theta_0)), np.cos(theta_0))
        return np.maximum(theta * (1.0 + self.s) / (0.5 * math.pi) - self.s, 0.0)

    def _alpha(self, sigma: Float) -> Float:
        return _vp_alpha(sigma)


@final
@dataclass(frozen=True, eq=False)
class VPDiscrete(NoisePath):
    """Variance-preserving path of a model with integer timesteps 0 ... T-1, given by its table.

    sigma_t = sqrt((1 - abar_t) / abar_t). Between two integers ln sigma is linear in t, as in k-diffusion and in
    diffusers' sigma -> t (diffusers' Euler scheduler goes back linearly in sigma itself unless told otherwise; at
    integers both agree).

    Source: Ho et al., arXiv:2006.11239, eq. (4); interpolation: k-diffusion `DiscreteSchedule`.

    Parameters
    ----------
    sigmas : array, (T,)
        The table, positive, strictly ascending in t, T >= 2. Build it by `from_alphas_cumprod`, `from_betas`, `ddpm`,
        `sd15` or `squaredcos`.

    Examples
    --------
    >>> path = VPDiscrete.from_alphas_cumprod([0.8, 0.5, 0.2])
    >>> print(path.t_to_sigma([0, 1, 1.5, 2]).round(6))
    [0.5      1.       1.414214 2.      ]
    """

    sigmas: Float
    _log_sigmas: Float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse parameters outside their ranges."""
        sigmas = real_array(self.sigmas, "sigmas", ndim=1).copy()
        if sigmas.size < 2:
            raise ValueError(f"`sigmas` must hold at least 2 timesteps, got {sigmas.size}.")
        if sigmas[0] <= 0 or np.any(np.diff(sigmas) <= 0):
            k = 0 if sigmas[0] <= 0 else int(np.flatnonzero(np.diff(sigmas) <= 0)[0]) + 1
            raise ValueError(
                f"`sigmas` must be positive and strictly ascending in t, got {sigmas[k]:.8g} at timestep {k}; "
                "alphas_cumprod must lie in (0, 1) and fall with t."
            )
        log_sigmas = np.log(sigmas)
        for array in (sigmas, log_sigmas):
            array.setflags(write=False)
        object.__setattr__(self, "sigmas", sigmas)
        object.__setattr__(self, "_log_sigmas", log_sigmas)

    @classmethod
    def from_alphas_cumprod(cls, alphas_cumprod: ArrayLike, *, terminal: float | None = None) -> VPDiscrete:
        """The path of a model that ships its `alphas_cumprod`.

        Parameters
        ----------
        alphas_cumprod : array_like, (T,)
            abar_t, strictly falling, in (0, 1).
        terminal : float or None
            The value that stands for a last abar of exactly 0 (zero terminal SNR), whose sigma is infinite; diffusers
            puts 2**-24 there (sigma 4096). None refuses such a table.

        Raises
        ------
        ValueError
            Values outside (0, 1), not falling, or a 0 that `terminal` does not cover.

        Examples
        --------
        >>> zero_snr = VPDiscrete.from_alphas_cumprod([0.8, 0.5, 0.0], terminal=2**-24)
        >>> print(round(zero_snr.sigma_max, 3))
        4096.0
        """
        abar = real_array(alphas_cumprod, "alphas_cumprod", ndim=1).copy()
        if abar.size and abar[-1] == 0.0:
            if terminal is None:
                raise ValueError(
                    f"`alphas_cumprod` must be positive, got 0 at its last timestep {abar.size - 1} (zero terminal "
                    "SNR), where sigma is infinite; pass terminal=2**-24 to stand for it as diffusers does, or drop it."
                )
            abar[-1] = real_number(terminal, "terminal", minimum=0.0, maximum=1.0, exclusive=True)
        bad = np.flatnonzero((abar <= 0.0) | (abar >= 1.0))
        if bad.size:
            raise ValueError(
                f"`alphas_cumprod` must lie strictly between 0 and 1, got {abar[bad[0]]:.8g} at timestep {bad[0]}."
            )
        return cls(np.sqrt((1.0 - abar) / abar))

    @classmethod
    def from_betas(cls, betas: ArrayLike, *, terminal: float | None = None) -> VPDiscrete:
        """The path of a model that ships its `betas`: abar_t = prod_{i <= t} (1 - beta_i).

        Parameters
        ----------
        betas : array_like, (T,)
            In (0, 1]; a last beta of 1 is zero terminal SNR, see `from_alphas_cumprod`.
        terminal : float or None
            As in `from_alphas_cumprod`.

        Examples
        --------
        >>> print(VPDiscrete.from_betas([0.2, 0.375, 0.6]).sigmas.round(6))
        [0.5 1.  2. ]
        """
        beta = real_array(betas, "betas", ndim=1)
        bad = np.flatnonzero((beta <= 0.0) | (beta > 1.0))
        if bad.size:
            raise ValueError(f"`betas` must lie in (0, 1], got {beta[bad[0]]:.8g} at timestep {bad[0]}.")
        return cls.from_alphas_cumprod(np.cumprod(1.0 - beta), terminal=terminal)

    @classmethod
    def ddpm(cls, *, n_timesteps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02) -> VPDiscrete:
        """The linear-beta path of DDPM: beta_t evenly spaced from beta_start to beta_end (diffusers' `linear`).

        Source: Ho et al., arXiv:2006.11239, section 4; diffusers `DDPMScheduler` defaults.

        >>> path = VPDiscrete.ddpm()
        >>> print(round(path.sigma_min, 6), round(path.sigma_max, 4))
        0.010001 157.4073
        """
        n_timesteps = integer(n_timesteps, "n_timesteps", minimum=2)
        return cls.from_betas(np.linspace(beta_start, beta_end, n_timesteps))

    @classmethod
    def sd15(cls, *, n_timesteps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012) -> VPDiscrete:
        """The path of Stable Diffusion 1.x, 2.x and SDXL: sqrt(beta_t) evenly spaced (diffusers' `scaled_linear`).

        Source: Rombach et al., arXiv:2112.10752, latent-diffusion `make_beta_schedule("linear")`.

        >>> path = VPDiscrete.sd15()
        >>> print(round(path.sigma_min, 7), round(path.sigma_max, 6))
        0.0291672 14.614641
        """
        n_timesteps = integer(n_timesteps, "n_timesteps", minimum=2)
        return cls.from_betas(np.linspace(math.sqrt(beta_start), math.sqrt(beta_end), n_timesteps) ** 2)

    @classmethod
    def squaredcos(cls, *, n_timesteps: int = 1000, s: float = 0.008, max_beta: float = 0.999) -> VPDiscrete:
        """The discrete cosine path: beta_t = min(1 - abar((t+1)/T) / abar(t/T), max_beta).

        (diffusers' `squaredcos_cap_v2`.) The cap acts on the last step alone and keeps sigma finite there.

        Source: Nichol & Dhariwal, arXiv:2102.09672, eq. (17) and the clip below it.

        >>> path = VPDiscrete.squaredcos()
        >>> print(round(path.sigma_min, 6), round(path.sigma_max, 2))
        0.006425 20291.17
        """
        n_timesteps = integer(n_timesteps, "n_timesteps", minimum=2)
        real_number(s, "s", minimum=0.0)
        real_number(max_beta, "max_beta", minimum=0.0, maximum=1.0, exclusive=True)
        abar = np.cos(0.5 * math.pi * (np.arange(n_timesteps + 1) / n_timesteps + s) / (1.0 + s)) ** 2
        return cls.from_betas(np.minimum(1.0 - abar[1:] / abar[:-1], max_beta))

    @property
    def t_min(self) -> float:
        """0, the first timestep."""
        return 0.0

    @property
    def t_max(self) -> float:
        """T - 1, the last timestep."""
        return float(self.sigmas.size - 1)

    @property
    def t_domain(self) -> tuple[float, float]:
        """[0, T - 1]: nothing outside the table."""
        return 0.0, self.t_max

    @property
    def n_timesteps(self) -> int:
        """T, the number of integer timesteps."""
        return int(self.sigmas.size)

    def _sigma(self, t: Float) -> Float:
        k = np.clip(np.floor(t).astype(np.intp), 0, self.sigmas.size - 2)
        w = t - k
        between = np.exp((1.0 - w) * self._log_sigmas[k] + w * self._log_sigmas[k + 1])
        # At an integer the table's own entry, not exp(log(entry)).
        return np.where(w == 0.0, self.sigmas[k], np.where(w == 1.0, self.sigmas[k + 1], between))

    def _t(self, sigma: Float) -> Float:
        k = np.clip(np.searchsorted(self.sigmas, sigma, side="right") - 1, 0, self.sigmas.size - 2)
        low, high = self._log_sigmas[k], self._log_sigmas[k + 1]
        return np.asarray(k + np.clip((np.log(sigma) - low) / (high - low), 0.0, 1.0))

    def _alpha(self, sigma: Float) -> Float:
        return _vp_alpha(sigma)

    def __repr__(self) -> str:
        """Short: the table itself stays out."""
        return f"VPDiscrete({self.n_timesteps} timesteps, sigma {self.sigma_min:.6g} to {self.sigma_max:.6g})"


@final
@dataclass(frozen=True)
class VE(NoisePath):
    """Variance-exploding path: sigma(t) = sigma_min (sigma_max / sigma_min)^t, t in [0, 1]; alpha = 1.

    Source: Song et al., arXiv:2011.13456, eq. (9), with the geometric sigma(t) of its appendix C.

    Parameters
    ----------
    sigma_min, sigma_max : float
        0 < sigma_min < sigma_max (0.01 and 50: CIFAR-10).

    Examples
    --------
    >>> print(VE().t_to_sigma([0.0, 0.5, 1.0]).round(6))
    [1.00000e-02 7.07107e-01 5.00000e+01]
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        """Refuse parameters outside their ranges."""
        sigma_range(self.sigma_min, self.sigma_max)

    @property
    def t_min(self) -> float:
        """0."""
        return 0.0

    @property
    def t_max(self) -> float:
        """1."""
        return 1.0

    @property
    def t_domain(self) -> tuple[float, float]:
        """[0, 1]."""
        return 0.0, 1.0

    def _sigma(self, t: Float) -> Float:
        return np.asarray(self.sigma_min ** (1.0 - t) * self.sigma_max**t)

    def _t(self, sigma: Float) -> Float:
        return np.asarray(np.log(sigma / self.sigma_min) / math.log(self.sigma_max / self.sigma_min))

    def _alpha(self, sigma: Float) -> Float:
        return np.ones_like(sigma)


@final
@dataclass(frozen=True)
class EDM(NoisePath):
    """EDM's path: t is sigma itself; alpha = 1. It has no upper end, only a trained range.

    Source: Karras et al., arXiv:2206.00364, Table 1, column "Ours".

    Parameters
    ----------
    sigma_min, sigma_max : float
        The trained range, 0 < sigma_min < sigma_max (0.002 and 80).

    Examples
    --------
    >>> print(EDM().sigma_to_t([0.0, 0.002, 80.0]))
    [0.e+00 2.e-03 8.e+01]
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        """Refuse parameters outside their ranges."""
        sigma_range(self.sigma_min, self.sigma_max)

    @property
    def t_min(self) -> float:
        """sigma_min."""
        return self.sigma_min

    @property
    def t_max(self) -> float:
        """sigma_max."""
        return self.sigma_max

    @property
    def t_domain(self) -> tuple[float, float]:
        """[0, the largest float]."""
        return 0.0, float(np.finfo(np.float64).max)

    def _sigma(self, t: Float) -> Float:
        return np.asarray(t)

    def _t(self, sigma: Float) -> Float:
        return np.asarray(sigma)

    def _alpha(self, sigma: Float) -> Float:
        return np.ones_like(sigma)


@final
@dataclass(frozen=True)
class RectifiedFlow(NoisePath):
    """Rectified flow x_t = (1 - f) x_0 + f eps, with the flow level f = shift t / (1 + (shift - 1) t).

    sigma(t) = f / (1 - f) = shift t / (1 - t): a shift multiplies sigma. alpha = 1 - f = 1 / (1 + sigma). Hosts call f
    their "sigma". At t = 1 (f = 1) there is no signal and sigma is infinite, which no grid may hold: the trained range
    ends at t = 0.999, the last of 1000 timesteps short of it (sigma 999 shift).

    Source: Liu et al., arXiv:2209.03003; the shift: Esser et al., arXiv:2403.03206, eq. (23).

    Parameters
    ----------
    shift : float
        > 0; 1 is no shift, 3 is Stable Diffusion 3's.
    t_min, t_max : float
        The trained times, 0 < t_min < t_max < 1.

    Examples
    --------
    >>> print(RectifiedFlow(shift=3.0).t_to_sigma([0.0, 0.25, 0.5]))
    [0. 1. 3.]
    """

    shift: float = 1.0
    t_min: float = 1e-3
    t_max: float = 0.999

    def __post_init__(self) -> None:
        """Refuse parameters outside their ranges."""
        real_number(self.shift, "shift", minimum=0.0, exclusive=True)
        _check_times(self.t_min, self.t_max, "a flow path")

    @property
    def t_domain(self) -> tuple[float, float]:
        """[0, 1 - 1e-9]: t = 1 is pure noise, and sigma there is infinite."""
        return 0.0, 1.0 - 1e-9

    def _sigma(self, t: Float) -> Float:
        return np.asarray(self.shift * t / (1.0 - t))

    def _t(self, sigma: Float) -> Float:
        return np.asarray(sigma / (self.shift + sigma))

    def _alpha(self, sigma: Float) -> Float:
        return np.asarray(1.0 / (1.0 + sigma))


def _check_times(t_min: float, t_max: float, path: str) -> None:
    real_number(t_min, "t_min", minimum=0.0, exclusive=True)
    real_number(t_max, "t_max", minimum=0.0, exclusive=True)
    if t_max >= 1.0:
        raise ValueError(
            f"`t_max` must be below 1 on {path}, got {t_max:g}: at t = 1 no signal is left and sigma is infinite; "
            "stop short of it, at 0.999 say."
        )
    if t_min >= t_max:
        raise ValueError(f"`t_max` must exceed `t_min`, got {t_max:g} and {t_min:g}.")


PATHS: dict[str, Callable[[], NoisePath]] = {
    "edm": EDM,
    "ve": VE,
    "vp-linear": VPLinear,
    "vp-cosine": VPCosine,
    "ddpm": VPDiscrete.ddpm,
    "sd15": VPDiscrete.sd15,
    "squaredcos": VPDiscrete.squaredcos,
    "flow": RectifiedFlow,
    "flow-shift3": lambda: RectifiedFlow(shift=3.0),
}
"""Paths by name, each with its published defaults: call the entry to get the path."""
