"""What a diffusers scheduler says about the model it belongs to: its path, what it predicts, and what time it is told."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eigenstep.models.denoiser import AroundNetwork, Array, ModelDenoiser, Preconditioned, edm_noise_label
from eigenstep.paths import EDM, VE, NoisePath, RectifiedFlow, VPCosine, VPDiscrete

TERMINAL = 2.0**-24
"""What stands for alpha_cumprod = 0 (zero terminal SNR), as in diffusers: sigma 4096 in place of infinity."""

_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0", "flow_prediction": "velocity"}


@dataclass(frozen=True)
class HostConvention:
    """How the network of a host is to be called: everything of a scheduler that is no sampler.

    Attributes
    ----------
    path : NoisePath
        A flow's path keeps the shift, so that its t is the host's; the network is told the shifted level.
    prediction : str
        One of `PREDICTIONS`.
    time_label : callable or None
        From the path's time to the number that the network is told.
    wrap : callable or None
        Around the network, where the scheduler keeps a part of the model: EDM's preconditioning, a score's sign.

    Examples
    --------
    >>> convention = HostConvention(RectifiedFlow(), "velocity", time_label=lambda t: 1000 * t)
    >>> convention.denoiser(lambda x, t: 0 * x)(np.array([[4.0]]), 1.0).tolist()         # x_t = x~/2, and no velocity
    [[2.0]]
    """

    path: NoisePath
    prediction: str
    time_label: Callable[[float], float] | None = None
    wrap: Callable[[Callable[[Array, float], Array]], Callable[[Array, float], Array]] | None = None

    def denoiser(
        self,
        network: Callable[[Array, float], Array],
        *,
        item_shape: tuple[int, ...] | None = None,
        timesteps: str = "fractional",
    ) -> ModelDenoiser:
        """The denoiser of a network that already takes `time_label`'s numbers."""
        wrapped = network if self.wrap is None else self.wrap(network)
        return ModelDenoiser(wrapped, self.path, self.prediction, item_shape=item_shape, timesteps=timesteps)


def scheduler_convention(scheduler: Any, *, tokens: int | None = None) -> HostConvention:
    """The convention of a diffusers scheduler object, from its own table of alphas or its configuration.

    - `alphas_cumprod` (DDPM, DDIM, PNDM, Euler, Heun, KDPM2, LMS, DEIS, DPM-Solver, UniPC, ...): `VPDiscrete` from the
      table that the scheduler itself uses, whichever betas made it; zero terminal SNR ends at sigma 4096.
    - flow matching (FlowMatchEuler, -Heun, -LCM; any other with `use_flow_sigmas`): `RectifiedFlow` with its shift. A
      shift only says which sigma a t is; the network is told sigma/(1 + sigma) times the number of timesteps.
    - EDM (EDMEuler, EDMDPMSolverMultistep, CosineDPMSolverMultistep, Euler with continuous timesteps): `EDM` with the
      preconditioning that these keep in the scheduler.
    - IPNDM: `VPCosine(s=0)` with v; ScoreSdeVe: `VE` with a score.

    Timestep spacing, clipping and thresholding are the sampler's, and left out.

    Parameters
    ----------
    scheduler : a diffusers scheduler.
    tokens : int, optional
        Tokens of one item, which set the shift where it is dynamic (Flux).

    Raises
    ------
    ValueError
        A scheduler without a known path; an unknown prediction type; a dynamic shift without `tokens`.

    Examples
    --------
    >>> from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
    >>> scheduler_convention(DDIMScheduler()).path
    VPDiscrete(1000 timesteps, sigma 0.0100013 to 157.407)
    >>> flow = scheduler_convention(FlowMatchEulerDiscreteScheduler(shift=3.0))
    >>> flow.prediction, flow.path.shift, flow.time_label(0.5)
    ('velocity', 3.0, 750.0)
    """
    kind, config = _kind(scheduler), dict(scheduler.config)
    flow = config.get("use_flow_sigmas") or kind in _FLOW_DEFAULTS
    predicts = config.get("prediction_type", "flow_prediction" if flow else "epsilon")
    if predicts not in _PREDICTIONS:
        raise ValueError(
            f"`prediction_type` {predicts!r} of {kind} is unknown; known are {', '.join(_PREDICTIONS)}. Wrap the network with "
            "ModelDenoiser.from_module, which takes its path and prediction."
        )
    if flow:
        return _flow(kind, config, predicts, tokens)
    if predicts == "flow_prediction":
        raise ValueError(
            f"`prediction_type` 'flow_prediction' of {kind} needs `use_flow_sigmas=True`, got False; correct the scheduler's "
            "configuration."
        )
    if kind in _EDM_LABELS:
        return _edm(kind, config, predicts, float(config["sigma_data"]))
    if config.get("timestep_type") == "continuous" and predicts == "v_prediction":
        path_of_table = _discrete(scheduler.alphas_cumprod)
        ends = {"sigma_min": path_of_table.sigma_min, "sigma_max": path_of_table.sigma_max}
        ends.update({name: config[name] for name in ends if config.get(name) is not None})
        return _edm(kind, ends, predicts, 1.0)
    if kind == "IPNDMScheduler" and config.get("trained_betas") is None:
        return HostConvention(VPCosine(s=0.0), "v")
    if kind == "ScoreSdeVeScheduler":
        path = VE(config["sigma_min"], config["sigma_max"])
        return HostConvention(path, "epsilon", lambda t: float(path.t_to_sigma(t)), lambda network: _Score(network, path))
    if (table := getattr(scheduler, "alphas_cumprod", None)) is not None:
        return HostConvention(_discrete(table), _PREDICTIONS[predicts])
    raise ValueError(
        f"{kind} has no known path: it holds no alphas_cumprod and is no flow or EDM scheduler; pass `scheduler`, another one "
        "that the model was trained with, or wrap the network with ModelDenoiser.from_module and its path."
    )


_FLOW_DEFAULTS = (
    "FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler",
    "LTXEulerAncestralRFScheduler",
)  # fmt: skip

_EDM_LABELS: Mapping[str, Callable[[float], float]] = {
    "EDMEulerScheduler": edm_noise_label,
    "EDMDPMSolverMultistepScheduler": edm_noise_label,
    "CosineDPMSolverMultistepScheduler": lambda sigma: math.atan(sigma) / math.pi * 2,
}
"""EDM-style schedulers and what each tells the network of sigma."""


def _kind(scheduler: Any) -> str:
    """Its class, or where that is a subclass (such as of `adapters.diffusers.apply`), the class known here that it is of."""
    names = [each.__name__ for each in type(scheduler).__mro__]
    known = (*_FLOW_DEFAULTS, *_EDM_LABELS, "IPNDMScheduler", "ScoreSdeVeScheduler")
    return next((name for name in names if name in known), names[0])


def finite_table(alphas_cumprod: ArrayLike) -> NDArray[np.float64]:
    """The table of a host with a finite last level: zero terminal SNR ends at 2^-24, sigma 4096, as in diffusers.

    Steep tables pass that a timestep earlier: they end at a quarter of the last but one, twice its sigma.

    >>> float(finite_table([0.5, 0.1, 0.0])[-1]) == 2.0**-24
    True
    >>> finite_table([0.5, 4e-9, 2.0**-24])
    array([5.e-01, 4.e-09, 1.e-09])
    """
    table = np.array(alphas_cumprod, dtype=np.float64)
    if table.ndim == 1 and table.size > 1 and (table[-1] == 0.0 or table[-1] == TERMINAL):
        table[-1] = TERMINAL if table[-2] > TERMINAL else table[-2] / 4
    return table


def _discrete(alphas_cumprod: Any) -> VPDiscrete:
    """The path of a scheduler's own table, which is float32: its last digits are the host's."""
    table = alphas_cumprod.double().cpu().numpy() if hasattr(alphas_cumprod, "double") else alphas_cumprod
    return VPDiscrete.from_alphas_cumprod(finite_table(table))


def _flow(kind: str, config: Mapping[str, Any], predicts: str, tokens: int | None) -> HostConvention:
    if predicts == "v_prediction":
        raise ValueError(
            f"`prediction_type` 'v_prediction' of {kind} has no meaning on a flow, where alpha + s = 1; write "
            "'flow_prediction', or 'epsilon' or 'sample'."
        )
    if config.get("invert_sigmas"):
        raise ValueError(
            f"{kind} with `invert_sigmas` counts its levels from clean data, which no known path does; wrap the network with "
            "ModelDenoiser.from_module, paths.RectifiedFlow and a `time_label`."
        )
    shift = float(config.get("shift", config.get("flow_shift", 1.0)))
    if config.get("use_dynamic_shifting"):
        if tokens is None:
            raise ValueError(
                f"{kind} shifts its levels by the size of an item (`use_dynamic_shifting`), which the model does not tell; "
                "pass `item_shape`, (channels, height, width) of its latents."
            )
        shift = _dynamic_shift(config, tokens)
    count = int(config.get("num_train_timesteps", 1000))
    path = RectifiedFlow(shift, 1.0 / count, 1.0 - 1.0 / count)

    def level(t: float) -> float:
        return count * shift * t / (1.0 + (shift - 1.0) * t)

    return HostConvention(path, _PREDICTIONS[predicts], level)


def _dynamic_shift(config: Mapping[str, Any], tokens: int) -> float:
    """Flux's: mu is linear in the number of tokens, the shift exp(mu), or mu itself where the config says linear."""
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    base, most = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    mu = base + (most - base) / (high - low) * (tokens - low)
    return mu if config.get("time_shift_type") == "linear" else math.exp(mu)


def _edm(kind: str, config: Mapping[str, Any], predicts: str, sigma_data: float) -> HostConvention:
    if predicts == "sample":
        raise ValueError(
            f"`prediction_type` 'sample' is unknown to {kind}; known are epsilon and v_prediction. Wrap the network with "
            "ModelDenoiser.from_module, which takes its path and prediction."
        )
    label = _EDM_LABELS.get(kind, edm_noise_label)
    path = EDM(float(config["sigma_min"]), float(config["sigma_max"]))
    return HostConvention(
        path, "x0", None, lambda network: Preconditioned(network, sigma_data, predicts == "v_prediction", label)
    )


@dataclass(frozen=True)
class _Score(AroundNetwork):
    """A network of the score, -eps/sigma on a VE path, as one of eps."""

    network: Callable[[Array, float], Array]
    path: VE

    def __call__(self, x: Array, t: float) -> Array:
        """-sigma score."""
        return -float(self.path.t_to_sigma(t)) * self.network(x, t)
