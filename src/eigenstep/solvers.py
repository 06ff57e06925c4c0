"""Solvers of the reverse process as array-agnostic steps in the one coordinate x~ = x_0 + sigma * noise.

A step needs only `+`, `-`, `*`, `/` from its arrays, so the same code moves samples (numpy, torch), the gain of every
eigenvalue at once, or complex-perturbed grids for exact derivatives. Sources and conventions are in each step's docstring.
Two conventions hold for every solver, as in the programs people sample with: a step onto sigma = 0 is first order (it
returns the denoiser's output), and a multistep method starts with lower orders until it has a history. Every step agrees
with its host's in float64; diffusers itself casts the sample to float32 inside several of its schedulers' steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike

from eigenstep import _checks

Array = Any
Denoiser = Callable[[Array, Any], Array]
History = tuple[tuple[Any, Array], ...]


class Step(Protocol):
    """One step from `sigma` to `sigma_next`: returns the new state and the new history, newest entry first.

    The caller cuts the history to `Solver.memory` entries.
    """

    def __call__(
        self, denoise: Denoiser, x: Array, history: History, sigma: Any, sigma_next: Any, context: StepContext
    ) -> tuple[Array, History]:
        """Take the step."""
        ...


@dataclass(frozen=True)
class StepContext:
    """What a step is told besides its state: how many model outputs it may use, whether it is the last, and its noise.

    `order` counts model outputs, the current one included; 1 means the first-order step. `noise()` returns a standard
    normal array shaped like the state (stochastic solvers only).
    """

    order: int
    last: bool
    noise: Callable[[], Array]


@dataclass(frozen=True)
class Solver:
    """A solver as data: its step, its order and what it costs.

    Parameters
    ----------
    name : str
        Name in `SOLVERS`.
    order : int
        Number of model outputs a full step uses (1, 2, ...), and its nominal order of accuracy: with an exact history the
        error of one step falls as the step size to the power order + 1. Where the published step does otherwise: UniPC's
        corrector gains one order; iPNDM of order 3 and 4 has it only on levels equally spaced in sigma, on any other smooth
        law it is second order; DPM-Solver++(3M) is second order. A whole run is of order 2 at most wherever one of its
        steps is of order 1, the first of a multistep solver or the last under `lower_order_final`.
    step : Step
        The step itself.
    evaluations : int
        Network calls per full step (2 for Heun, DPM-Solver-2, DPM-Solver++(2S)).
    memory : int
        Past outputs kept in the history (0 for one-step methods).
    window : int
        Noise levels a full step depends on (2: `sigma` and `sigma_next`).
    output : {"denoised", "derivative"}
        What the history holds: D or d = (x - D) / sigma.
    evaluates_ahead : bool
        True when the step ends with the evaluation at `sigma_next` (predictor-corrector), so that the newest history
        entry belongs to the current level and not to the previous one.
    lower_order_final : bool
        True when the order falls to 1 over the last steps whatever the final level and the number of steps.
    eta : float
        Stochasticity: 0 is deterministic.
    drift : float
        Drift of the exact reverse process that the solver approximates, in units of the ODE's: 1 plus its Langevin part
        (1 for a deterministic solver, 2 at eta = 1). Neighbouring exact states of a direction correlate by
        ((lambda + sigma'^2)/(lambda + sigma^2))^(drift/2) times the earlier one.
    source : str
        Where the definition comes from.

    Examples
    --------
    A step in ln sigma, x' = x + ln(sigma'/sigma) (x - D), against DDIM's in sigma, from 2 to 1 with a denoiser of 0:

    >>> def step(denoise, x, history, sigma, sigma_next, context):
    ...     return x + np.log(sigma_next / sigma) * (x - denoise(x, sigma)), ()
    >>> mine = Solver("mine", 1, step)
    >>> [round(float(sample(lambda x, sigma: 0 * x, 2.0, [2.0, 1.0], solver=solver)), 6) for solver in (mine, "ddim")]
    [0.613706, 1.0]
    >>> mine.nfe(5), mine.stochastic
    (5, False)
    """

    name: str
    order: int
    step: Step
    evaluations: int = 1
    memory: int = 0
    window: int = 2
    output: Literal["denoised", "derivative"] = "denoised"
    evaluates_ahead: bool = False
    lower_order_final: bool = False
    eta: float = 0.0
    drift: float = 1.0
    source: str = ""

    @property
    def stochastic(self) -> bool:
        """Whether steps inject noise."""
        return self.eta > 0

    @property
    def calls_per_step(self) -> int:
        """The most network calls that one step makes: the first of a predictor-corrector also evaluates at its start."""
        return self.evaluations + self.evaluates_ahead

    def order_at(self, k: int, n: int, *, onto_zero: bool) -> int:
        """Model outputs that step `k` of `n` uses; `onto_zero` says whether the grid ends at sigma = 0."""
        order = self.order
        if self.memory:
            order = min(order, k + 1)
            if self.lower_order_final:
                order = min(order, n - k)
        return 1 if onto_zero and k == n - 1 else order

    def nfe(self, n: int, *, final: float | None = 0.0) -> int:
        """Network calls for `n` steps on a grid that ends at `final` (0.0: the last step is first order).

        >>> [SOLVERS[name].nfe(5) for name in ("ddim", "heun", "unipc3", "dpmpp_2m")]
        [5, 9, 5, 5]
        >>> SOLVERS["heun"].nfe(5, final=None)
        10
        """
        n = _checks.integer(n, "n")
        return self.evaluations * n - (self.evaluations - 1) * (final == 0.0)


def _toward(denoised: Array, x: Array, sigma: Any, sigma_next: Any) -> Array:
    """x' = D + (sigma'/sigma)(x - D): theory (1)."""
    return denoised + (sigma_next / sigma) * (x - denoised)


def _ddim(
    denoise: Denoiser, x: Array, history: History, sigma: Any, sigma_next: Any, context: StepContext
) -> tuple[Array, History]:
    """DDIM = Euler on the EDM ODE = Euler in rectified-flow time: x' = D + (sigma'/sigma)(x - D).

    Song, Meng, Ermon (arXiv:2010.02502) eq. 12 at eta = 0; theory (1).
    """
    return _toward(denoise(x, sigma), x, sigma, sigma_next), ()


def _heun(
    denoise: Denoiser, x: Array, history: History, sigma: Any, sigma_next: Any, context: StepContext
) -> tuple[Array, History]:
    """Heun's method on dx/dsigma = (x - D)/sigma. Karras et al. (arXiv:2206.00364) algorithm 1."""
    denoised = denoise(x, sigma)
    x_euler = _toward(denoised, x, sigma, sigma_next)
    if context.order == 1:
        return x_euler, ()
    d = (x - denoised) / sigma
    d_next = (x_euler - denoise(x_euler, sigma_next)) / sigma_next
    return x + (sigma_next - sigma) * (0.5 * (d + d_next)), ()


def _dpm_2(
    denoise: Denoiser, x: Array, history: History, sigma: Any, sigma_next: Any, context: StepContext
) -> tuple[Array, History]:
    """DPM-Solver-2 in its EDM form: midpoint at the geometric mean of the two levels.

    Karras et al. (arXiv:2206.00364); k-diffusion `sample_dpm_2`.
    """
    denoised = denoise(x, sigma)
    if context.order == 1:
        return _toward(denoised, x, sigma, sigma_next), ()
    sigma_mid = (sigma * sigma_next) ** 0.5
    x_mid = _toward(denoised, x, sigma, sigma_mid)
    d_mid = (x_mid - denoise(x_mid, sigma_mid)) / sigma_mid
    return x + (sigma_next - sigma) * d_mid, ()


def _dpmpp_2s(
    denoise: Denoiser, x: Array, history: History, sigma: Any, sigma_next: Any, context: StepContext
) -> tuple[Array, History]:
    """DPM-Solver++(2S): exponential midpoint in log-SNR. Lu et al. (arXiv:2211.01095) algorithm 1 with r = 1/2."""
    denoised = denoise(x, sigma)
    if context.order == 1:
        return _toward(denoised, x, sigma, sigma_next), ()
    sigma_mid = (sigma * sigma_next) ** 0.5
    denoised_mid = denoise(_toward(denoised, x, sigma, sigma_mid), sigma_mid)
    return _toward(denoised_mid, x, sigma, sigma_next), ()


def _dpmpp_2m_output(denoised: Array, history: History, sigma: Any, sigma_next: Any) -> Array:
    """D + (D - D_1) / (2 r), r = h_1 / h: the extrapolated output of a second-order multistep step."""
    sigma_1, denoised_1 = history[0]
    r = _log(sigma_1 / sigma) / _log(sigma / sigma_next)
    return denoised + (denoised - denoised_1) / (2 * r)


def _dpmpp_2m(
    denoise: Denoiser, x: Array, history: History, sigma: Any, sigma_next: Any, context: StepContext
) -> tuple[Array, History]:
    """DPM-Solver++(2M). Lu et al. (arXiv:2211.01095) algorithm 2.

    A last step above sigma = 0 extrapolates as any other, as in k-diffusion; diffusers' is first order below 15 steps.
    """
    denoised = denoise(x, sigma)
    newer = ((sigma, denoised),)
    if context.order == 1:
        return _toward(denoised, x, sigma, sigma_next), newer
    return _toward(_dpmpp_2m_output(denoised, history, sigma, sigma_next), x, sigma, sigma_next), newer


def _dpmpp_3m(
    denoise: Denoiser, x: Array, history: History, sigma: Any, sigma_next: Any, context: StepContext
) -> tuple[Array, History]:
    """DPM-Solver++(3M): diffusers' `DPMSolverMultistepScheduler(solver_order=3)`; its second step is a (2M) step.

    Lu et al. (arXiv:2211.01095) appendix; with h = log(sigma/sigma'), phi_2 = (e^-h - 1)/h + 1, phi_3 = phi_2/h - 1/2.
    The published weight of `second`, kept by diffusers and k-diffusion, is half of what a third-order step needs
    (-2 phi_3), so the error of a step is of third order, with a smaller constant than that of (2M). diffusers lowers the
    last orders only below 15 steps.
    """
    denoised = denoise(x, sigma)
    newer = ((sigma, denoised), *history)
    if context.order == 1:
        return _toward(denoised, x, sigma, sigma_next), newer
    if context.order == 2:
        return _toward(_dpmpp_2m_output(denoised, history, sigma, sigma_next), x, sigma, sigma_next), newer
    (sigma_1, denoised_1), (sigma_2, denoised_2) = history
    h = _log(sigma / sigma_next)
    r_0, r_1 = _log(sigma_1 / sigma) / h, _log(sigma_2 / sigma_1) / h
    slope_0, slope_1 = (denoised - denoised_1) / r_0, (denoised_1 - denoised_2) / r_1
    first = slope_0 + (slope_0 - slope_1) * (r_0 / (r_0 + r_1))
    second = (slope_0 - slope_1) / (r_0 + r_1)
    phi_1, phi_2, phi_3 = _phi(h)
    return (sigma_next / sigma) * x + phi_1 * denoised + phi_2 * first - phi_3 * second, newer


_ADAMS_BASHFORTH = ((1.0,), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24))


def _ipndm(
    denoise: Denoiser, x: Array, history: History, sigma: Any, sigma_next: Any, context: StepContext
) -> tuple[Array, History]:
    """iPNDM: Adams-Bashforth weights for equal steps applied to d = (x - D)/sigma whatever the steps are.

    Zhang & Chen (arXiv:2204.13902) section 3; the improved PNDM of Liu et al. (arXiv:2202.09778); ComfyUI `sample_ipndm`.
    """
    denoised = denoise(x, sigma)
    d = (x - denoised) / sigma
    newer = ((sigma, d), *history)
    if context.order == 1:
        return _toward(denoised, x, sigma, sigma_next), newer
    slope = _weighted(_ADAMS_BASHFORTH[context.order - 1], [d_j for _, d_j in newer[: context.order]])
    return x + (sigma_next - sigma) * slope, newer


def _deis(
    denoise: Denoiser, x: Array, history: History, sigma: Any, sigma_next: Any, context: StepContext
) -> tuple[Array, History]:
    """DEIS-tAB: d = (x - D)/sigma extrapolated by the Lagrange polynomial in y = ln(rho/sigma), integrated exactly.

    x' = x + sum_j d_j int_sigma^sigma' l_j(ln rho) d rho. Zhang & Chen (arXiv:2204.13902) eq. 14-15 with the time
    variable t = log rho, as in diffusers' `DEISMultistepScheduler`, which lowers the last orders only below 15 steps and
    has no step onto sigma = 0 (it gives NaN; here, as everywhere, D).
    """
    denoised = denoise(x, sigma)
    d = (x - denoised) / sigma
    newer = ((sigma, d), *history)
    if context.order == 1:
        return _toward(denoised, x, sigma, sigma_next), newer
    y = _log(sigma_next / sigma)
    moment_0 = sigma_next - sigma
    moment_1 = sigma_next * (y - 1) + sigma
    y_1 = _log(history[0][0] / sigma)
    if context.order == 2:
        weights = [moment_0 - moment_1 / y_1, moment_1 / y_1]
    else:
        y_2 = _log(history[1][0] / sigma)
        moment_2 = sigma_next * (y * y - 2 * y + 2) - 2 * sigma
        weights = [
            moment_0 - (y_1 + y_2) / (y_1 * y_2) * moment_1 + moment_2 / (y_1 * y_2),
            (moment_2 - y_2 * moment_1) / (y_1 * (y_1 - y_2)),
            (moment_2 - y_1 * moment_1) / (y_2 * (y_2 - y_1)),
        ]
    return x + _weighted(weights, [d_j for _, d_j in newer[: context.order]]), newer


def _unipc(
    denoise: Denoiser, x: Array, history: History, sigma: Any, sigma_next: Any, context: StepContext
) -> tuple[Array, History]:
    """UniPC with B(h) = e^h - 1 ("bh2"), data prediction: UniP predictor, one evaluation ahead, UniC corrector.

    Zhao et al. (arXiv:2302.04867) algorithms 5-8. The last step has no corrector, so n steps cost n calls. diffusers'
    `UniPCMultistepScheduler` at any number of steps; ComfyUI's `uni_pc_bh2` (order 3) puts 0.001 for a final sigma = 0.
    """
    if not history:
        history = ((sigma, denoise(x, sigma)),)
    denoised = history[0][1]
    first_order = _toward(denoised, x, sigma, sigma_next)
    if context.last and context.order == 1:
        return first_order, history
    h = _log(sigma / sigma_next)
    scale, moments = _unipc_moments(h)
    past = history[1 : context.order]
    nodes = [-_log(sigma_j / sigma) / h for sigma_j, _ in past]
    slopes = [(denoised_j - denoised) / node for node, (_, denoised_j) in zip(nodes, past, strict=True)]
    predicted = first_order - scale * _weighted(_unipc_weights(nodes, moments), slopes)
    if context.last:
        return predicted, history
    denoised_next = denoise(predicted, sigma_next)
    slopes.append(denoised_next - denoised)
    corrected = first_order - scale * _weighted(_unipc_weights([*nodes, 1.0], moments), slopes)
    return corrected, ((sigma_next, denoised_next), *history)


def _unipc_moments(h: Any) -> tuple[Any, list[Any]]:
    """B(h) for data prediction (with hh = -h: e^hh - 1) and the right-hand sides b_i = i! phi_{i+1}(hh) hh / B."""
    hh = -h
    scale = _expm1(hh)
    moments = []
    phi = scale / hh - 1
    factorial = 1
    for i in (1, 2, 3):
        factorial *= i
        moments.append(phi * factorial / scale)
        phi = phi / hh - 1 / math.factorial(i + 1)
    return scale, moments


def _unipc_weights(nodes: list[Any], moments: list[Any]) -> list[Any]:
    """Weights w with sum_j w_j r_j^i = b_i for i < len(nodes) <= 3, by Lagrange's formula; 1/2 for a single node.

    The single-node 1/2 in place of b_0 is the published simplification (UniPC section 3.3), kept by every host.
    """
    if len(nodes) < 2:
        return [0.5] * len(nodes)
    if len(nodes) == 2:
        r, s = nodes
        return [(moments[1] - s * moments[0]) / (r - s), (moments[1] - r * moments[0]) / (s - r)]
    weights = []
    for j in range(3):
        r, (s, t) = nodes[j], [node for i, node in enumerate(nodes) if i != j]
        weights.append((moments[2] - (s + t) * moments[1] + s * t * moments[0]) / ((r - s) * (r - t)))
    return weights


def _weighted(weights: Sequence[Any], arrays: Sequence[Array]) -> Array:
    """sum_j w_j a_j over as many arrays as there are weights (0.0 for none)."""
    return sum((w * a for w, a in zip(weights, arrays, strict=True)), 0.0)


def _ancestral_step(eta: float) -> Step:
    def step(
        denoise: Denoiser, x: Array, history: History, sigma: Any, sigma_next: Any, context: StepContext
    ) -> tuple[Array, History]:
        variance_up = eta**2 * sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2
        sigma_down = (sigma_next**2 - variance_up) ** 0.5
        moved = _toward(denoise(x, sigma), x, sigma, sigma_down)
        return (moved + variance_up**0.5 * context.noise() if eta else moved), ()

    return step


def _dpmpp_2m_sde_step(eta: float) -> Step:
    def step(
        denoise: Denoiser, x: Array, history: History, sigma: Any, sigma_next: Any, context: StepContext
    ) -> tuple[Array, History]:
        denoised = denoise(x, sigma)
        target = denoised if context.order == 1 else _dpmpp_2m_output(denoised, history, sigma, sigma_next)
        shrink = (sigma_next / sigma) ** (1 + eta)
        moved = shrink * x + (1 - shrink) * target
        if eta:
            moved = moved + sigma_next * (1 - (sigma_next / sigma) ** (2 * eta)) ** 0.5 * context.noise()
        return moved, ((sigma, denoised),)

    return step


def ddim_eta(eta: float = 1.0) -> Solver:
    """eta-DDIM, the same step as ancestral Euler on every path: x' = D + (s_down/s)(x - D) + s_up * noise.

    s_up^2 = eta^2 s'^2 (s^2 - s'^2)/s^2, s_down^2 = s'^2 - s_up^2. eta = 0 is DDIM, eta = 1 is DDPM's ancestral step.

    Song, Meng, Ermon (arXiv:2010.02502) eq. 12 and 16; k-diffusion `get_ancestral_step`.

    Parameters
    ----------
    eta : float
        Stochasticity in [0, 1].

    Raises
    ------
    ValueError
        If `eta` lies outside [0, 1].

    >>> ddim_eta(0.5).stochastic, ddim_eta(0.0).stochastic
    (True, False)
    """
    eta = _checks.real_number(eta, "eta", minimum=0.0, maximum=1.0)
    return Solver(
        name="ddim_eta", order=1, step=_ancestral_step(eta), eta=eta, drift=1 + eta**2, source="arXiv:2010.02502 eq. 16"
    )


def dpmpp_2m_sde(eta: float = 1.0) -> Solver:
    """SDE-DPM-Solver++(2M), midpoint form: x' = c x + (1 - c) D_bar + s' sqrt(1 - (s'/s)^(2 eta)) * noise.

    c = (s'/s)^(1 + eta); D_bar extrapolates as DPM-Solver++(2M) does, whose step this is at eta = 0.

    Lu et al. (arXiv:2211.01095) eq. 18; k-diffusion `sample_dpmpp_2m_sde(solver_type="midpoint")`.

    Parameters
    ----------
    eta : float
        Stochasticity in [0, 1].

    Raises
    ------
    ValueError
        If `eta` lies outside [0, 1].

    >>> dpmpp_2m_sde().nfe(6)
    6
    """
    eta = _checks.real_number(eta, "eta", minimum=0.0, maximum=1.0)
    return Solver(
        name="dpmpp_2m_sde",
        order=2,
        step=_dpmpp_2m_sde_step(eta),
        memory=1,
        window=3,
        eta=eta,
        drift=1 + eta,
        source="arXiv:2211.01095 eq. 18; k-diffusion sample_dpmpp_2m_sde",
    )


def _ipndm_solver(order: int) -> Solver:
    return Solver(
        name=f"ipndm{order}",
        order=order,
        step=_ipndm,
        memory=order - 1,
        output="derivative",
        source="arXiv:2204.13902 sec. 3"
    )


def _deis_solver(order: int) -> Solver:
    return Solver(
        name=f"deis{order}",
        order=order,
        step=_deis,
        memory=order - 1,
        window=order + 1,
        output="derivative",
        lower_order_final=True,
        source="arXiv:2204.13902 eq. 14-15; diffusers DEISMultistepScheduler",
    )


def _unipc_solver(order: int) -> Solver:
    return Solver(
        name=f"unipc{order}",
        order=order,
        step=_unipc,
        memory=order,
        window=order + 1,
        evaluates_ahead=True,
        lower_order_final=True,
        source="arXiv:2302.04867; diffusers UniPCMultistepScheduler(solver_type='bh2')",
    )


_DDIM = Solver(name="ddim", order=1, step=_ddim, source="arXiv:2010.02502 eq. 12")

SOLVERS: Mapping[str, Solver] = MappingProxyType(
    {
        "ddim": _DDIM,
        "euler": _DDIM,
        "heun": Solver(name="heun", order=2, step=_heun, evaluations=2, source="arXiv:2206.00364 algorithm 1"),
        "dpm_2": Solver(name="dpm_2", order=2, step=_dpm_2, evaluations=2, source="k-diffusion sample_dpm_2"),
        "dpmpp_2m": Solver(
            name="dpmpp_2m", order=2, step=_dpmpp_2m, memory=1, window=3, source="arXiv:2211.01095 algorithm 2"
        ),
        "dpmpp_3m": Solver(
            name="dpmpp_3m",
            order=3,
            step=_dpmpp_3m,
            memory=2,
            window=4,
            lower_order_final=True,
            source="arXiv:2211.01095; diffusers DPMSolverMultistepScheduler(solver_order=3)",
        ),
        "dpmpp_2s": Solver(
            name="dpmpp_2s", order=2, step=_dpmpp_2s, evaluations=2, source="arXiv:2211.01095 algorithm 1"
        ),
        "ipndm2": _ipndm_solver(2),
        "ipndm3": _ipndm_solver(3),
        "ipndm4": _ipndm_solver(4),
        "unipc2": _unipc_solver(2),
        "unipc3": _unipc_solver(3),
        "deis2": _deis_solver(2),
        "deis3": _deis_solver(3),
        "euler_ancestral": ddim_eta(1.0),
        "ddim_eta": ddim_eta(1.0),
        "dpmpp_2m_sde": dpmpp_2m_sde(1.0),
    }
)
"""Every solver by name; `ddim` and `euler` are one step, so are `ddim_eta` and `euler_ancestral` (eta = 1)."""


def solver_named(solver: str | Solver) -> Solver:
    """The solver of that name, or the solver itself (for `ddim_eta(0.5)` or one of your own).

    Raises
    ------
    ValueError
        If the name is unknown; the message lists the known ones and the nearest.

    >>> solver_named("euler").name
    'ddim'
    """
    if isinstance(solver, Solver):
        return solver
    return SOLVERS[_checks.choice(solver, SOLVERS, "solver")]


def sample(
    denoiser: Denoiser,
    x: Array,
    sigmas: ArrayLike,
    *,
    solver: str | Solver = "ddim",
    noise: Callable[[int], Array] | None = None,
    callback: Callable[[int, Array], None] | None = None,
) -> Array:
    """Run the reverse process from `x` at `sigmas[0]` down to `sigmas[-1]`.

    Parameters
    ----------
    denoiser : callable
        D(x, sigma) -> E[x_0 | x], any array type with arithmetic; `sigma` is a Python float.
    x : array
        State at `sigmas[0]`, in the coordinate x~ = x_0 + sigma * noise (for a prior start: sigma_0 times a standard normal).
    sigmas : array_like, (n+1,)
        Descending noise levels.
    solver : str or Solver
        Name in `SOLVERS` or a `Solver`.
    noise : callable, optional
        `noise(k)` returns the standard normal array of step k, shaped like `x`. Needed by stochastic solvers.
    callback : callable, optional
        `callback(k, x)` after step k (k = 0 .. n-1) with the state at `sigmas[k+1]`.

    Returns
    -------
    array
        State at `sigmas[-1]`.

    Raises
    ------
    ValueError
        If the grid does not descend, the solver is unknown, or a stochastic solver gets no `noise`.

    >>> shrink = lambda x, sigma: x / (1 + sigma**2)          # data N(0, 1)
    >>> round(sample(shrink, 80.0, [80.0, 2.0, 0.5, 0.0], solver="dpmpp_2m"), 6)
    0.687862
    """
    method = solver_named(solver)
    levels = [float(s) for s in _checks.descending_sigmas(sigmas)]
    if method.stochastic and noise is None:
        raise ValueError(f"`noise` must be given for the stochastic solver {method.name!r}: a function of the step index.")
    for k, state, _ in advance(denoiser, x, levels, method, noise=noise):
        if callback is not None:
            callback(k, state)
    return state


def advance(
    denoiser: Denoiser,
    x: Array,
    levels: Sequence[Any],
    method: Solver,
    *,
    first: int = 0,
    history: History = (),
    noise: Callable[[int], Array] | None = None,
) -> Iterator[tuple[int, Array, History]]:
    """The steps of a run from step `first` on: each one's index, and the state and history after it.

    `x` and `history` are those before step `first`; whoever kept them can take up a run there, with other levels after it.
    `levels` may be scalars of any framework that numpy's functions apply to.

    >>> shrink = lambda x, sigma: x / (1 + sigma**2)
    >>> states = [x for _, x, _ in advance(shrink, 80.0, [80.0, 2.0, 0.5, 0.0], SOLVERS["ddim"])]
    >>> later = advance(shrink, states[0], [80.0, 2.0, 0.5, 0.0], SOLVERS["ddim"], first=1)
    >>> [x for _, x, _ in later] == states[1:]
    True
    """
    n = len(levels) - 1
    onto_zero = bool(levels[-1] == 0.0)
    for k in range(first, n):
        context = StepContext(
            order=method.order_at(k, n, onto_zero=onto_zero),
            last=k == n - 1,
            noise=_no_noise if noise is None else lambda k=k: noise(k),  # type: ignore[misc]
        )
        x, history = method.step(denoiser, x, history, levels[k], levels[k + 1], context)
        history = history[: method.memory]
        yield k, x, history


def _no_noise() -> Array:
    raise AssertionError("a deterministic solver asked for noise")


def _log(value: Any) -> Any:
    """Natural logarithm; a Python float stays one, so that it multiplies arrays of any framework."""
    return math.log(value) if isinstance(value, float) else np.log(value)


def _expm1(value: Any) -> Any:
    """e^x - 1 without cancellation; a Python float stays one."""
    return math.expm1(value) if isinstance(value, float) else np.expm1(value)


def _phi(h: Any) -> tuple[Any, Any, Any]:
    """1 - e^-h and the two weights of a third-order exponential step: phi_2 = (e^-h - 1)/h + 1, phi_3 = phi_2/h - 1/2."""
    decay = _expm1(-h)
    phi_2 = decay / h + 1
    return -decay, phi_2, phi_2 / h - 0.5
