"""diffusers: a grid or plan into any scheduler that walks a fixed grid, and back out of it.

    pipe.scheduler = eigenstep.adapters.diffusers.apply(plan, pipe.scheduler)

The result is a subclass of the scheduler's own class, with its steps and its configuration; pipelines, `from_config`,
`save_pretrained` and `from_pretrained` work as before. It holds the planned levels in float64, tells the network the matching
(fractional) timestep, and needs no other argument than the planned number of steps.

Import this module before loading a folder into which such a scheduler was saved.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from eigenstep._checks import Float, choice, descending_sigmas, real_number

try:
    _diffusers = importlib.import_module("diffusers")
except ImportError as error:
    raise ImportError(
        f'handing grids to diffusers needs {error.name}; install it with: pip install "eigenstep[diffusers]"'
    ) from None

from eigenstep.adapters.diffusers.hosts import HOSTS, REFUSED, Host, host_of, solver_of, takes_flow
from eigenstep.adapters.diffusers.planned import (
    END_SLACK,
    KEY,
    Planned,
    labels_of,
    level_range,
    planned_class,
    table_of,
    unfolded,
    warmed,
)

__all__ = ["HOSTS", "REFUSED", "apply", "read_back", "solver_of", "start", "strength_level"]

_SWITCHES = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_lu_lambdas": False,
    "use_dynamic_shifting": False,
    "shift_terminal": None,
}
"""What would put other levels in the place of the planned ones."""


def apply(
    grid_or_plan: Any,
    scheduler: Any,
    *,
    timesteps: Literal["fractional", "integer"] = "fractional",
    strength: float | None = None,
) -> Any:
    """A scheduler of the same class and configuration that walks the planned levels.

    Parameters
    ----------
    grid_or_plan : array_like (n+1,), or an object with `sigmas`
        Descending noise levels, data units, sigma = s/alpha also for flows. A plan's `warm` maps the pipeline's own noise to
        the state at the first level, in `scale_model_input` and `step` alike; where its `solver` is another than the
        scheduler's, a warning says so.
    scheduler : diffusers scheduler
        Left as it is.
    timesteps : {"fractional", "integer"}
        `fractional`: every level as planned, and the network is told the fractional timestep that belongs to it (ln sigma
        linear between two integers). `integer`: for networks that look timesteps up in a table, the n distinct integers with
        the least sum of squared differences in ln sigma; the levels become theirs. `TCDScheduler` can do nothing else.
    strength : float, optional
        For image-to-image pipelines, in (0, 1]: all planned steps are run, from the plan's own first level, when the pipeline
        is called with this strength and the number of steps that the scheduler then has. See `strength_level`.

    Returns
    -------
    diffusers scheduler
        With the levels laid out: `read_back` gives them.

    Raises
    ------
    TypeError
        No scheduler of diffusers, or one that takes no grid.
    ValueError
        A grid outside the levels that the scheduler's network was trained for, one that does not end at 0 where the class
        must, more steps than integer timesteps, two levels with one float32 timestep, a warm plan for image-to-image.

    Examples
    --------
    >>> from diffusers import DDIMScheduler
    >>> native = DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    >>> scheduler = apply([14.0, 3.0, 0.7, 0.1, 0.0], native)
    >>> scheduler.timesteps
    tensor([991.8843, 673.1553, 251.6154,  10.3822])
    >>> read_back(scheduler).round(12).tolist()
    [14.0, 3.0, 0.7, 0.1, 0.0]
    """
    name, host = host_of(scheduler)
    sigmas = descending_sigmas(getattr(grid_or_plan, "sigmas", grid_or_plan))
    choice(timesteps, ("fractional", "integer"), "timesteps")
    warm = getattr(grid_or_plan, "warm", None)
    _check_levels(scheduler, name, host, sigmas)
    if timesteps == "integer" or host.layout == "integer":
        sigmas = np.append(_nearest_integers(scheduler, name, host, sigmas[:-1]), sigmas[-1])
    labels = np.float32(labels_of(scheduler, host, sigmas[:-1]))
    if np.unique(labels).size < labels.size:
        k = int(np.flatnonzero(np.diff(labels) == 0)[0])
        raise ValueError(
            f"`grid_or_plan` must differ in its timesteps, got {sigmas[k]:.9g} and {sigmas[k + 1]:.9g}, which {name} tells the "
            f"network as one, {labels[k]:.9g}; use fewer steps."
        )
    skip = 0 if strength is None else _skipped(scheduler, name, host, sigmas.size - 1, strength, warm)
    _compare_solvers(grid_or_plan, scheduler, name)
    parent: Any = getattr(type(scheduler), "_parent", type(scheduler))
    kind: Any = planned_class(parent)
    plan = {"sigmas": sigmas.tolist(), "skip": skip, "strength": strength, "warm": warm is not None}
    made = kind.from_config(
        {**scheduler.config, KEY: plan},
        **{key: value for key, value in _settings(scheduler, name, sigmas).items() if key in kind._get_init_keys(kind)},
    )
    made._warm = warm
    return made


def read_back(scheduler: Any) -> Float:
    """The n+1 levels that a scheduler will walk, in the coordinate sigma = s/alpha, from the arrays that its steps read.

    Parameters
    ----------
    scheduler : diffusers scheduler
        From `apply`, or any other known one after its `set_timesteps`.

    Returns
    -------
    array, (n+1,)
        float64. Infinite first where a flow of diffusers starts from noise alone.

    Raises
    ------
    TypeError
        As `apply`.
    ValueError
        A scheduler whose `set_timesteps` has not been called.

    Examples
    --------
    >>> from diffusers import FlowMatchEulerDiscreteScheduler
    >>> native = FlowMatchEulerDiscreteScheduler(shift=3.0)
    >>> native.set_timesteps(3)
    >>> read_back(native).round(3).tolist()
    [inf, 3.018, 0.009, 0.0]
    """
    name, host = host_of(scheduler)
    if isinstance(scheduler, Planned) and (plan := scheduler.planned()) is not None:
        return scheduler.walked()[plan["skip"] :] if host.layout != "integer" else unfolded(scheduler, host)
    if getattr(scheduler, "num_inference_steps", 1) is None or scheduler.timesteps is None:
        raise ValueError(f"`scheduler` must have its timesteps set, got a new {name}; call its set_timesteps, or `apply`.")
    return unfolded(scheduler, host)


def start(scheduler: Any, noise: Any) -> Any:
    """The state at the first planned level from standard normal noise, for `latents=` of pipelines that scale nothing.

    scale(sigma_0) sigma_0 z, or scale(sigma_0) warm(z), with scale = 1, 1/sqrt(1 + sigma^2) or 1/(1 + sigma) as the class
    has it. Pipelines that multiply by `init_noise_sigma` and call `scale_model_input` (Stable Diffusion and its kin) do this
    by themselves; those of flow models and your own loops do not. The next run takes its first sample to be this state.

    Parameters
    ----------
    scheduler : from `apply`
    noise : torch.Tensor
        Standard normal, any shape the plan's `warm` takes.

    Raises
    ------
    TypeError
        A scheduler that is not from `apply`.

    Examples
    --------
    >>> import torch
    >>> from diffusers import FlowMatchEulerDiscreteScheduler
    >>> scheduler = apply([3.0, 1.0, 0.0], FlowMatchEulerDiscreteScheduler())
    >>> start(scheduler, torch.ones(2))
    tensor([0.7500, 0.7500])
    """
    if not isinstance(scheduler, Planned):
        raise TypeError(f"`scheduler` must come from `apply`, got {type(scheduler).__name__}.")
    state = noise * scheduler.init_noise_sigma
    if scheduler._warm is not None:
        state = warmed(scheduler, state)
    scheduler._given = True
    return state


def strength_level(scheduler: Any, strength: float) -> float:
    """The level from which an image-to-image pipeline with this strength starts: plan from here down.

    That of the trained time at the fraction `strength` of all, shifted as the scheduler shifts.

    Parameters
    ----------
    scheduler : diffusers scheduler
    strength : float
        In (0, 1].

    Raises
    ------
    TypeError
        As `apply`.
    ValueError
        `strength` outside (0, 1], or a scheduler without a trained range of times.

    Examples
    --------
    >>> from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
    >>> round(strength_level(DDIMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012), 0.5), 4)
    1.6129
    >>> strength_level(FlowMatchEulerDiscreteScheduler(shift=3.0), 0.5)
    3.0
    """
    name, host = host_of(scheduler)
    share = real_number(strength, "strength", minimum=0.0, maximum=1.0)
    if share == 0.0:
        raise ValueError("`strength` must be greater than 0, got 0: nothing is sampled.")
    if takes_flow(scheduler, host):
        count = scheduler.config.get("num_train_timesteps", 1000)
        share = min(share, 1.0 - 1.0 / count)  # at 1 no signal is left, and sigma is infinite
        shift = getattr(scheduler, "shift", scheduler.config.get("flow_shift", scheduler.config.get("shift", 1.0)))
        return float(float(shift) * share / (1.0 - share))
    if not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(f"`scheduler` must have trained timesteps to take a share of, got {name}; choose the level itself.")
    path = table_of(scheduler)
    return float(path.t_to_sigma(max(share * len(path.sigmas) - 1.0, 0.0)))


def _check_levels(scheduler: Any, name: str, host: Host, sigmas: Float) -> None:
    low, high = level_range(scheduler, host)
    if sigmas[0] > high * (1 + END_SLACK):
        raise ValueError(
            f"`grid_or_plan` must start at or below the {high:.6g} of this {name}, got {sigmas[0]:.6g}; plan with "
            f"sigma_max={high:.6g}."
        )
    if sigmas[-2] < low * (1 - END_SLACK):
        raise ValueError(
            f"`grid_or_plan` must call the network at or above the {low:.6g} of this {name}, got {sigmas[-2]:.6g}; plan with "
            f"sigma_min={low:.6g}."
        )
    if host.zero and sigmas[-1] != 0.0:
        raise ValueError(
            f"`grid_or_plan` must end at 0, because the last step of {name} goes there, got {sigmas[-1]:.6g}; append 0."
        )
    if name == "PNDMScheduler" and not scheduler.config.skip_prk_steps and sigmas.size < 5:
        raise ValueError(
            f"`grid_or_plan` must have at least 4 steps for the Runge-Kutta start of PNDMScheduler, got {sigmas.size - 1}; "
            "use more, or skip_prk_steps=True."
        )


def _nearest_integers(scheduler: Any, name: str, host: Host, sigmas: Float) -> Float:
    """The levels of n distinct integer timesteps with the least sum of squared differences in ln sigma from the wanted ones.

    By dynamic programming over the timesteps: best(k, t), the least sum for the levels k ... n-1 with the k-th at most t.
    """
    if takes_flow(scheduler, host):
        count = int(scheduler.config.get("num_train_timesteps", 1000))
        u = np.arange(1, count) / count
        table = u / (1.0 - u)
    elif hasattr(scheduler, "alphas_cumprod"):
        table = table_of(scheduler).sigmas
    else:
        raise ValueError(f"`timesteps` must be 'fractional' for {name}, whose network is told the level itself, got 'integer'.")
    if sigmas.size > table.size:
        raise ValueError(
            f"`grid_or_plan` must have no more steps than the {table.size} timesteps of {name}, got {sigmas.size}; use fewer."
        )
    costs = (np.log(sigmas)[:, None] - np.log(table)) ** 2
    chosen: list[NDArray[np.int64]] = []
    below = np.zeros(table.size)  # the least cost of all lower levels, each strictly below place t
    for cost in costs[::-1]:
        total = cost + below
        best = np.minimum.accumulate(total)
        # The place of each running minimum: where the minimum last fell.
        chosen.append(np.maximum.accumulate(np.where(total == best, np.arange(table.size), 0)))
        below = np.append(np.inf, best[:-1])
    places, top = [], table.size - 1
    for place in reversed(chosen):
        top = int(place[top])
        places.append(top)
        top -= 1
    return table[places]


def _skipped(scheduler: Any, name: str, host: Host, n: int, strength: float, warm: Any) -> int:
    """How many places stand before the n planned ones, for the pipeline's own rounding to leave exactly these."""
    share = real_number(strength, "strength", minimum=0.0, maximum=1.0)
    if warm is not None:
        raise ValueError("`grid_or_plan` must not start warm for image-to-image, which starts from an image; plan without it.")
    if name == "PNDMScheduler" or host.layout in ("integer", "cosine", "trig", "angles"):
        raise ValueError(f"`strength` must be None for {name}, whose steps cannot begin in the middle of its timesteps.")
    most = int(np.ceil((n + 1) / max(share, 1e-9)))
    for total in range(n, min(most, 10**6) + 1):
        # The expressions of diffusers' pipelines, rounding and all: flows round the part that is left out.
        left = total - min(int(total * share), total)
        if takes_flow(scheduler, host):
            left = int(max(total - min(total * share, total), 0))
        if total - left == n:
            return left
    raise ValueError(f"`strength` must leave {n} steps of some number of them, got {strength}; use one nearer to 1.")


def _compare_solvers(plan: Any, scheduler: Any, name: str) -> None:
    wanted = getattr(plan, "solver", None)
    wanted = getattr(wanted, "name", wanted)
    own = solver_of(scheduler)
    same = {"euler": "ddim", "ddim_eta": "euler_ancestral"}
    if wanted is not None and own is not None and same.get(wanted, wanted) != own:
        warnings.warn(
            f"the plan is for the solver {wanted!r}, and {name} with this configuration takes the steps of {own!r}; plan with "
            f"solver={own!r} for it.",
            stacklevel=3,
        )


def _settings(scheduler: Any, name: str, sigmas: Float) -> dict[str, Any]:
    """The configuration that leaves the planned levels alone and lets the class end where they end."""
    settings: dict[str, Any] = dict(_SWITCHES)
    zero = sigmas[-1] == 0.0
    # diffusers refuses to make a noise-predicting DPM-Solver that ends at 0; that step is taken in `planned`.
    noise = scheduler.config.get("algorithm_type", None) in ("dpmsolver", "sde-dpmsolver")
    settings["final_sigmas_type"] = "zero" if zero and not noise else "sigma_min"
    if zero and name in ("UniPCMultistepScheduler", "SASolverScheduler", "DPMSolverSinglestepScheduler"):
        settings["lower_order_final"] = True
    if name == "CosineDPMSolverMultistepScheduler":  # below its sigma_min the Brownian path of its noise stands still
        settings["sigma_min"] = min(scheduler.config.sigma_min, float(sigmas[-2]))
    return settings


def __getattr__(name: str) -> Any:
    """`PlannedDDIMScheduler` and its like by name, as diffusers looks them up in a saved pipeline."""
    if name.startswith("Planned") and hasattr(_diffusers, name.removeprefix("Planned")):
        return planned_class(getattr(_diffusers, name.removeprefix("Planned")))
    if name in ("SchedulerMixin", "ConfigMixin"):  # how diffusers learns by which method to load it
        return getattr(_diffusers, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
