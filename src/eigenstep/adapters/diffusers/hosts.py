"""What each scheduler class of diffusers keeps its grid in, and what state it moves: one row per class, one reason per refusal.

A row is found along the classes that a scheduler inherits from, so a subclass of one of these is handed over as its parent.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

State = Literal["x", "vp", "flow"]
Layout = Literal[
    "levels", "twice", "midpoint", "midpoint_ancestral", "midpoint_sde", "table", "integer", "angles", "cosine", "trig"
]


@dataclass(frozen=True)
class Host:
    """How one scheduler class is made to walk a grid.

    Attributes
    ----------
    layout : str
        Where the class keeps its levels. `levels`: an array `sigmas` of n+1. `twice`, `midpoint...`: an array in which the
        inner levels stand twice, for two calls per step. `table`: `alphas_cumprod` looked up by timestep. `integer`: the same
        where the algorithm itself needs integers. `angles`, `cosine`, `trig`: a formula of a continuous time.
    state : {"x", "vp", "flow"}
        What the class moves: x~ itself, x~/sqrt(1 + sigma^2), or x~/(1 + sigma).
    takes : str
        What diffusers' own `set_timesteps` would take.
    zero : bool
        Whether the class can end at sigma = 0 only.
    reset : callable
        From the number of steps to the arguments with which the class's own `set_timesteps` only clears its memory.
    reads : tuple of str
        Methods that look timesteps up in the table, besides `step`.

    Examples
    --------
    >>> HOSTS["EulerDiscreteScheduler"].layout, HOSTS["HeunDiscreteScheduler"].layout, HOSTS["DDIMScheduler"].state
    ('levels', 'twice', 'vp')
    """

    layout: Layout
    state: State
    takes: str = "neither"
    zero: bool = False
    reset: Callable[[int], Mapping[str, Any]] = field(default=lambda n: {"num_inference_steps": n})
    reads: tuple[str, ...] = ()


_NOISE = ("add_noise", "get_velocity")

HOSTS: Mapping[str, Host] = MappingProxyType(
    {
        "EulerDiscreteScheduler": Host("levels", "x", "sigmas, timesteps"),
        "EulerAncestralDiscreteScheduler": Host("levels", "x"),
        "HeunDiscreteScheduler": Host("twice", "x", "timesteps", zero=True),
        "KDPM2DiscreteScheduler": Host("midpoint", "x", zero=True),
        "KDPM2AncestralDiscreteScheduler": Host("midpoint_ancestral", "x", zero=True),
        "DPMSolverSDEScheduler": Host("midpoint_sde", "x", zero=True),
        "LMSDiscreteScheduler": Host("levels", "x"),
        "DPMSolverMultistepScheduler": Host("levels", "vp", "timesteps"),
        # By timesteps: with their number alone, diffusers 0.30 fails under numpy 2.
        "DPMSolverSinglestepScheduler": Host(
            "levels", "vp", "timesteps", reset=lambda n: {"timesteps": list(range(n, 0, -1))}
        ),
        "DEISMultistepScheduler": Host("levels", "vp"),
        "UniPCMultistepScheduler": Host("levels", "vp", "sigmas (flow)"),
        "SASolverScheduler": Host("levels", "vp"),
        "EDMEulerScheduler": Host("levels", "x", "a ramp"),
        "EDMDPMSolverMultistepScheduler": Host("levels", "x"),
        "CosineDPMSolverMultistepScheduler": Host("levels", "x"),
        "CMStochasticIterativeScheduler": Host(
            "levels", "x", "timesteps", zero=True, reset=lambda n: {"num_inference_steps": 1}
        ),
        "FlowMatchEulerDiscreteScheduler": Host("levels", "flow", "sigmas, timesteps"),
        "FlowMatchLCMScheduler": Host("levels", "flow", "sigmas, timesteps"),
        "FlowMatchHeunDiscreteScheduler": Host("twice", "flow", zero=True),
        "FlowMapEulerDiscreteScheduler": Host("levels", "flow", "sigmas, timesteps"),
        "LTXEulerAncestralRFScheduler": Host("levels", "flow", "sigmas, timesteps"),
        "MiniMaxH3Scheduler": Host("levels", "flow", "sigmas", reset=lambda n: {"num_inference_steps": n + 1}),
        "DDIMScheduler": Host("table", "vp", reads=_NOISE),
        "DDIMParallelScheduler": Host("table", "vp", reads=(*_NOISE, "batch_step_no_noise")),
        "CogVideoXDDIMScheduler": Host("table", "vp", reads=_NOISE),
        "CogVideoXDPMScheduler": Host("table", "vp", reads=_NOISE),
        "DDPMScheduler": Host("table", "vp", "timesteps", zero=True, reads=_NOISE),
        "DDPMParallelScheduler": Host(
            "table", "vp", "timesteps", zero=True, reads=(*_NOISE, "batch_step_no_noise")
        ),
        "UnCLIPScheduler": Host("table", "vp", zero=True, reset=lambda n: {"num_inference_steps": 2}, reads=("add_noise",)),
        "PNDMScheduler": Host("table", "vp", reads=("add_noise",)),
        "LCMScheduler": Host(
            "table", "vp", "timesteps", zero=True,
            reset=lambda n: {"num_inference_steps": 1, "original_inference_steps": 1}, reads=_NOISE,
        ),
        "TCDScheduler": Host(
            "integer", "vp", "timesteps",
            reset=lambda n: {"num_inference_steps": 1, "original_inference_steps": 1}, reads=(),
        ),
        "IPNDMScheduler": Host("angles", "vp"),
        "DDPMWuerstchenScheduler": Host("cosine", "vp", "timesteps", zero=True),
        "SCMScheduler": Host(
            "trig", "vp", "timesteps", zero=True,
            reset=lambda n: {"num_inference_steps": n, "intermediate_timesteps": None},
        ),
    }
)
"""Every class that a grid can be handed to, by name."""

_DISCRETE = "it fills in tokens, and has no noise level"

REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "AmusedScheduler": _DISCRETE,
        "BlockRefinementScheduler": _DISCRETE,
        "DiscreteDDIMScheduler": _DISCRETE,
        "EntropyBoundScheduler": _DISCRETE,
        "VQDiffusionScheduler": _DISCRETE,
        "ConsistencyDecoderScheduler": "its network was distilled for the two timesteps that it has",
        "PiflowScheduler": "its network was distilled for the timesteps that it has",
        "DDIMInverseScheduler": "it runs from data to noise",
        "DPMSolverMultistepInverseScheduler": "it runs from data to noise",
        "RePaintScheduler": "it goes up in noise between its steps down",
        "ScoreSdeVeScheduler": "its predictor and corrector are two methods, and its pipeline sets their levels itself",
        "ScoreSdeVpScheduler": "its step depends on a time uniform in [0, 1]",
        "KarrasVeScheduler": "it raises the noise before every step down",
        "HeliosScheduler": "it changes the size of the video between its stages, each with its own range",
        "HeliosDMDScheduler": "it changes the size of the video between its stages, each with its own range",
        "RFD4ProteinaScheduler": "the noise that it injects belongs to its own time law",
    }
)
"""Every class that none can be handed to, and why."""


def host_of(scheduler: Any) -> tuple[str, Host]:
    """The row of a scheduler object and its name, found along its classes.

    Raises
    ------
    TypeError
        The object is no scheduler of diffusers, or one that takes no grid: the message says why.

    >>> class Mine:
    ...     pass
    >>> host_of(type("FlowMatchEulerDiscreteScheduler", (Mine,), {})())[1].state
    'flow'
    """
    kinds = [kind.__name__ for kind in type(scheduler).__mro__]
    for name in kinds:
        if name in HOSTS:
            return name, HOSTS[name]
        if name in REFUSED:
            raise TypeError(f"`scheduler` must be one that walks a fixed grid, got {name}: {REFUSED[name]}.")
    near = difflib.get_close_matches(kinds[0], HOSTS, n=1, cutoff=0.6)
    hint = f" The nearest known name is {near[0]}." if near else ""
    raise TypeError(
        f"`scheduler` must be a diffusers scheduler that eigenstep knows, got {kinds[0]}; eigenstep.adapters.text writes grids "
        f"for other programs.{hint}"
    )


def takes_flow(scheduler: Any, host: Host) -> bool:
    """Whether the state is a rectified flow's, (1 - u) x_0 + u noise: by class, or by its `use_flow_sigmas`.

    >>> from diffusers import UniPCMultistepScheduler
    >>> flow = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    >>> [takes_flow(each, host_of(each)[1]) for each in (UniPCMultistepScheduler(), flow)]
    [False, True]
    """
    return host.state == "flow" or bool(scheduler.config.get("use_flow_sigmas", False))


def solver_of(scheduler: Any) -> str | None:
    """The solver of `eigenstep.SOLVERS` whose steps a scheduler takes, to plan for; None where the library has none.

    Parameters
    ----------
    scheduler : diffusers scheduler

    Raises
    ------
    TypeError
        As `apply`.

    Examples
    --------
    >>> from diffusers import DPMSolverMultistepScheduler, TCDScheduler
    >>> solver_of(DPMSolverMultistepScheduler()), solver_of(DPMSolverMultistepScheduler(solver_order=3))
    ('dpmpp_2m', 'dpmpp_3m')
    >>> solver_of(TCDScheduler()) is None
    True
    """
    name, _ = host_of(scheduler)
    config = scheduler.config
    if name in _FIXED_SOLVERS:
        return None if config.get("stochastic_sampling", False) else _FIXED_SOLVERS[name]
    order = config.get("solver_order", None)
    if name in ("DPMSolverMultistepScheduler", "EDMDPMSolverMultistepScheduler", "CosineDPMSolverMultistepScheduler"):
        stochastic = name.startswith("Cosine") or config.algorithm_type == "sde-dpmsolver++"
        if not stochastic and config.algorithm_type != "dpmsolver++":
            return None
        if config.solver_type != "midpoint" and order == 2:
            return None
        return {(1, False): "ddim", (2, False): "dpmpp_2m", (3, False): "dpmpp_3m", (2, True): "dpmpp_2m_sde"}.get(
            (order, stochastic)
        )
    if name == "DEISMultistepScheduler":
        return {1: "ddim", 2: "deis2", 3: "deis3"}.get(order)
    if name == "UniPCMultistepScheduler":
        plain = config.solver_type == "bh2" and config.predict_x0 and not config.disable_corrector and not config.solver_p
        return {2: "unipc2", 3: "unipc3"}.get(order) if plain else None
    if name in ("DDPMScheduler", "DDPMParallelScheduler"):
        return "euler_ancestral" if config.variance_type == "fixed_small" else None
    return None


_FIXED_SOLVERS: Mapping[str, str] = MappingProxyType(
    {
        "EulerDiscreteScheduler": "ddim",
        "EDMEulerScheduler": "ddim",
        "FlowMatchEulerDiscreteScheduler": "ddim",
        "FlowMapEulerDiscreteScheduler": "ddim",
        "MiniMaxH3Scheduler": "ddim",
        "DDIMScheduler": "ddim",
        "DDIMParallelScheduler": "ddim",
        "CogVideoXDDIMScheduler": "ddim",
        "CogVideoXDPMScheduler": "dpmpp_2m_sde",
        "EulerAncestralDiscreteScheduler": "euler_ancestral",
        "HeunDiscreteScheduler": "heun",
        "KDPM2DiscreteScheduler": "dpm_2",
        "IPNDMScheduler": "ipndm4",
        "DDPMWuerstchenScheduler": "euler_ancestral",
    }
)
