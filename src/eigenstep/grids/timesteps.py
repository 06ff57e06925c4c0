"""Published grids that are recipes in n rather than cuts of a law: integer timesteps of a path, flow time."""

from __future__ import annotations

from typing import Literal

import numpy as np

from eigenstep._checks import Float, choice, integer, real_number
from eigenstep.grids.cut import GridError, check_path, checked_final, descending, replace_last
from eigenstep.grids.laws import uniform_t_law
from eigenstep.paths import NoisePath, VPDiscrete


def _table_of(path: NoisePath, n: int, name: str) -> Float:
    """The ascending sigma table of a discrete path that has at least n timesteps."""
    check_path(path)
    if not isinstance(path, VPDiscrete):
        raise GridError(f"`path` must be discrete for {name}, which takes entries of a timestep table, got {path!r}.")
    if n > path.n_timesteps:
        raise GridError(f"`n` must be at most the path's {path.n_timesteps} timesteps for {name}, got {n}.")
    return path.sigmas


def timestep_grid(
    n: int,
    *,
    path: NoisePath,
    spacing: Literal["trailing", "leading", "linspace"] = "trailing",
    steps_offset: int = 0,
    final: float = 0.0,
) -> Float:
    """diffusers' `timestep_spacing`: n timesteps of the path, then `final`.

    On T integer timesteps: trailing, t_k = round(T - k T/n) - 1; leading, t_k = (n-1-k) floor(T/n) + steps_offset;
    linspace, t_k = round((T-1) (n-1-k)/(n-1)). On a continuous path the same without rounding over [t_min, t_max]:
    trailing, t_max - k (t_max - t_min)/n; leading, t_min + (n-1-k) (t_max - t_min)/n; linspace, both ends included.

    `leading` does not start at the path's sigma_max (T = 1000, n = 10: at t = 900).

    Source: Lin et al., arXiv:2305.08891, Table 2; diffusers `DDIMScheduler.set_timesteps`.

    Parameters
    ----------
    n : int
        Number of steps, 1 <= n <= T.
    path : NoisePath
        Where the timesteps live.
    spacing : {"trailing", "leading", "linspace"}
        One of the three names.
    steps_offset : int
        >= 0, added to every timestep, `leading` on a discrete path only (1 in Stable Diffusion 1.5).
    final : float
        Where the grid ends, >= 0: 0 is diffusers' final_sigmas_type "zero"; path.sigma_min its "sigma_min".

    Raises
    ------
    GridError
        n above T, or `final` not below the last level.
    ValueError
        An unknown spacing, an offset where none applies or that runs past T - 1.

    Examples
    --------
    >>> path = VPDiscrete.sd15()
    >>> print(path.sigma_to_t(timestep_grid(4, path=path)[:-1]).round())
    [999. 749. 499. 249.]
    >>> print(timestep_grid(4, path=path, spacing="leading", steps_offset=1).round(4))
    [4.1167 1.6237 0.6984 0.0413 0.    ]
    """
    n = integer(n, "n")
    spacing_name = choice(spacing, ("trailing", "leading", "linspace"), "spacing")
    steps_offset = integer(steps_offset, "steps_offset", minimum=0)
    check_path(path)
    k = np.arange(n, dtype=np.float64)
    t: Float
    if steps_offset and (spacing_name != "leading" or path.n_timesteps is None):
        raise ValueError(
            f"`steps_offset` must be 0 unless the spacing is 'leading' on a discrete path, got {steps_offset} with "
            f"{spacing_name!r} on {path!r}."
        )
    if path.n_timesteps is not None:
        T = _table_of(path, n, "timestep_grid").size
        if spacing_name == "trailing":
            t = np.rint(T - k * (T / n)) - 1.0
        elif spacing_name == "leading":
            t = (n - 1.0 - k) * (T // n) + steps_offset
        else:
            t = np.rint(np.linspace(0.0, T - 1.0, n))[::-1]
        if t[0] > T - 1:
            raise ValueError(f"`steps_offset` must keep the timesteps below {T}, got {steps_offset}: t = {t[0]:g}.")
    else:
        stride = (path.t_max - path.t_min) / n
        if spacing_name == "trailing":
            t = path.t_max - k * stride
        elif spacing_name == "leading":
            t = path.t_min + (n - 1.0 - k) * stride
        else:
            t = np.linspace(path.t_min, path.t_max, n, dtype=np.float64)[::-1]
    return descending(np.append(path.t_to_sigma(t), checked_final(final)), f"timestep_grid(spacing={spacing_name!r})")


def sgm_uniform_grid(n: int, *, path: NoisePath, final: float = 0.0) -> Float:
    """ComfyUI's `sgm_uniform`: n + 1 points uniform in t, the last replaced by `final`.

    t_k = t_max - k (t_max - t_min)/n, k < n: `timestep_grid`'s trailing without its rounding to integers.

    Source: Comfy-Org/ComfyUI comfy/samplers.py, `normal_scheduler` with sgm=True; Stability generative-models.

    Parameters
    ----------
    n : int
        Number of steps, >= 1.
    path : NoisePath
        Gives t_max, t_min and sigma(t).
    final : float
        Where the grid ends, >= 0.

    Raises
    ------
    GridError
        `final` not below the last level.

    Examples
    --------
    >>> print(sgm_uniform_grid(3, path=VPDiscrete.sd15()).round(4))
    [14.6146  2.9183  0.9324  0.    ]
    """
    check_path(path)
    return replace_last(uniform_t_law(path.sigma_min, path.sigma_max, path=path), n, final)


def simple_grid(n: int, *, path: NoisePath, final: float = 0.0) -> Float:
    """ComfyUI's `simple`: every (T/n)-th entry of the table from its noisy end, then `final`.

    sigma_k = S[T - 1 - floor(k T/n)], k < n, with S the ascending table of T sigmas.

    Source: Comfy-Org/ComfyUI comfy/samplers.py, `simple_scheduler`.

    Parameters
    ----------
    n : int
        Number of steps, 1 <= n <= T.
    path : NoisePath
        A discrete path.
    final : float
        Where the grid ends, >= 0.

    Raises
    ------
    GridError
        A continuous path, n above T, `final` not below the last level.

    Examples
    --------
    >>> print(simple_grid(3, path=VPDiscrete.sd15()).round(4))
    [14.6146  2.9183  0.9324  0.    ]
    """
    n = integer(n, "n")
    S = _table_of(path, n, "simple_grid")
    k = np.arange(n)
    index = S.size - 1 - (k * (S.size / n)).astype(np.intp)
    return descending(np.append(S[index], checked_final(final)), "simple_grid")


def ddim_uniform_grid(n: int, *, path: NoisePath, final: float = 0.0) -> Float:
    """ComfyUI's `ddim_uniform`: entries 1, 1 + stride, ... of the table, stride = floor(T/n), reversed, then `final`.

    It starts below the path's sigma_max, and for most n (46 of n = 1 ... 60 at T = 1000) the recipe has more than n
    steps; since n steps mean n + 1 sigmas here, those n are refused. (Its special case for tables whose second entry is
    0 cannot arise: a path's sigmas are positive.)

    Source: Comfy-Org/ComfyUI comfy/samplers.py, `ddim_scheduler`.

    Parameters
    ----------
    n : int
        Number of steps, 1 <= n <= T.
    path : NoisePath
        A discrete path.
    final : float
        Where the grid ends, >= 0.

    Raises
    ------
    GridError
        The recipe yields another number of steps (named), a continuous path, n above T.

    Examples
    --------
    >>> print(ddim_uniform_grid(4, path=VPDiscrete.sd15()).round(4))
    [4.1167 1.6237 0.6984 0.0413 0.    ]
    """
    n = integer(n, "n")
    S = _table_of(path, n, "ddim_uniform_grid")
    levels = S[1 :: S.size // n][::-1]
    if levels.size != n:
        raise GridError(
            f"`n` must suit the stride of ddim_uniform_grid, got {n}: its stride of {S.size // n} over {S.size} "
            f"timesteps makes {levels.size} steps; use timestep_grid or another n."
        )
    return descending(np.append(levels, checked_final(final)), "ddim_uniform_grid")


def beta_timestep_grid(
    n: int, *, path: NoisePath, alpha: float = 0.6, beta: float = 0.6, final: float = 0.0
) -> Float:
    """ComfyUI's `beta`: quantiles of a Beta distribution over the timestep's index, then `final`.

    sigma_k = S[round(I^{-1}(1 - k/n; alpha, beta) (T - 1))], k < n. ComfyUI drops repeated indices and so returns fewer
    steps for some n; those n are refused. `beta_law` is the other scheduler of this name.

    Source: Lee et al., arXiv:2407.12173; Comfy-Org/ComfyUI comfy/samplers.py, `beta_scheduler`.

    Parameters
    ----------
    n : int
        Number of steps, 1 <= n <= T.
    path : NoisePath
        A discrete path.
    alpha, beta : float
        > 0.
    final : float
        Where the grid ends, >= 0.

    Raises
    ------
    GridError
        Two quantiles round to one timestep (naming how many are left), a continuous path, n above T.

    Examples
    --------
    >>> print(beta_timestep_grid(3, path=VPDiscrete.sd15()).round(4))
    [14.6146  3.6758  0.7624  0.    ]
    """
    from scipy.special import betaincinv

    n = integer(n, "n")
    alpha = real_number(alpha, "alpha", minimum=0.0, exclusive=True)
    beta = real_number(beta, "beta", minimum=0.0, exclusive=True)
    S = _table_of(path, n, "beta_timestep_grid")
    quantile = 1.0 - np.linspace(0.0, 1.0, n, endpoint=False)
    t = np.rint(betaincinv(alpha, beta, quantile) * (S.size - 1)).astype(np.intp)
    distinct = np.unique(t).size
    if distinct != n:
        raise GridError(
            f"`n` must keep the timesteps of beta_timestep_grid distinct, got {n}: only {distinct} are; use fewer."
        )
    return descending(np.append(S[t], checked_final(final)), "beta_timestep_grid")


def linear_quadratic_grid(
    n: int, sigma_max: float, *, threshold_noise: float = 0.025, linear_steps: int | None = None
) -> Float:
    """ComfyUI's `linear_quadratic` for flow models: the flow level falls linearly at first, then quadratically, to 0.

    With tau = threshold_noise, m = linear_steps, q = n - m: z_k = k tau / m for k < m; then z_k = a k^2 + b k + c,
    a = (m - tau n) / (m q^2), b = tau / m - 2 (m - tau n) / q^2, c = a m^2. The flow level is f_k = (1 - z_k) f_0, with
    f_0 = sigma_max / (1 + sigma_max), and sigma_k = f_k / (1 - f_k); z_n = 1, so the grid ends at 0.

    (ComfyUI starts flow models at f_0 = 1, where sigma is infinite: the limit of large sigma_max. Its use on other
    models, with sigma_k = (1 - z_k) sigma_max, is not this grid.)

    Source: Mochi (genmoai/models `linear_quadratic_schedule`); Comfy-Org/ComfyUI comfy/samplers.py.

    Parameters
    ----------
    n : int
        Number of steps, >= 1; n = 1 is [sigma_max, 0].
    sigma_max : float
        > 0, finite.
    threshold_noise : float
        tau, in (0, 1).
    linear_steps : int or None
        m, 1 <= m < n; None is n // 2.

    Raises
    ------
    GridError
        tau n >= m makes the grid rise.

    Examples
    --------
    >>> print(linear_quadratic_grid(4, 999.0).round(4))
    [999.      73.1427  37.4986   2.6268   0.    ]
    """
    n = integer(n, "n")
    sigma_max = real_number(sigma_max, "sigma_max", minimum=0.0, exclusive=True)
    tau = real_number(threshold_noise, "threshold_noise", minimum=0.0, maximum=1.0, exclusive=True)
    if n == 1:
        return np.array([sigma_max, 0.0])
    m = n // 2 if linear_steps is None else integer(linear_steps, "linear_steps", maximum=n - 1)
    q = n - m
    k = np.arange(n + 1.0)
    a = (m - tau * n) / (m * q**2)
    b = tau / m - 2.0 * (m - tau * n) / q**2
    c = a * m**2
    z = np.where(k < m, k * tau / m, a * k**2 + b * k + c)
    z[-1] = 1.0  # a n^2 + b n + c = 1 up to rounding
    f = (1.0 - z) * (sigma_max / (1.0 + sigma_max))
    sigmas = f / (1.0 - f)
    sigmas[0] = sigma_max
    return descending(sigmas, "linear_quadratic_grid")
