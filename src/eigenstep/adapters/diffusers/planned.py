"""One subclass for each scheduler class of diffusers: the class itself, walking the levels that its configuration carries.

`planned_class(DDIMScheduler)` makes `PlannedDDIMScheduler`. Its steps are its parent's; only the levels, the timesteps that
name them to the network and the first state are replaced, in `set_timesteps`, `step` and `scale_model_input`.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from numpy.typing import NDArray

from eigenstep._checks import Float
from eigenstep.adapters.diffusers.hosts import Host, host_of, takes_flow
from eigenstep.paths import VPDiscrete

KEY = "_eigenstep"
"""Where the configuration of a planned scheduler keeps its grid; diffusers passes over names that begin with an underscore."""

END_SLACK = 1e-3
"""How far, relatively, a grid may reach over the ends of a scheduler's range. Schedulers hold alphas_cumprod in float32, and
1 - alphas_cumprod = 1e-4 at the clean end has half of its seven digits left."""

_TERMINAL = 2.0**-24  # what diffusers itself puts for alphas_cumprod = 0 at zero terminal SNR


def table_of(scheduler: Any) -> VPDiscrete:
    """The levels of the integer timesteps that the scheduler's network was trained at.

    At zero terminal SNR the last level is infinite. diffusers puts 2**-24 for its alphas_cumprod (sigma 4096); steep tables
    pass that a timestep earlier: a quarter of the last but one, twice its sigma, stands there then.

    >>> from diffusers import DDIMScheduler
    >>> table_of(DDIMScheduler())
    VPDiscrete(1000 timesteps, sigma 0.0100013 to 157.407)
    >>> round(table_of(DDIMScheduler(rescale_betas_zero_snr=True, beta_schedule="scaled_linear")).sigma_max)
    4096
    """
    kept = scheduler.alphas_cumprod.double().cpu().numpy().copy()
    if kept[-1] == 0.0 or kept[-1] >= kept[-2]:
        kept[-1] = _TERMINAL if kept[-2] > _TERMINAL else kept[-2] / 4
    return VPDiscrete.from_alphas_cumprod(kept)


def level_range(scheduler: Any, host: Host) -> tuple[float, float]:
    """The lowest and the highest level that the scheduler was made for; (0, inf) where it has no bound.

    >>> from diffusers import EDMEulerScheduler, FlowMatchEulerDiscreteScheduler
    >>> [level_range(each, host_of(each)[1]) for each in (EDMEulerScheduler(), FlowMatchEulerDiscreteScheduler())]
    [(0.0, 80.0), (0.0, inf)]
    """
    config = scheduler.config
    if takes_flow(scheduler, host) or host.layout in ("angles", "trig"):
        return 0.0, float("inf")
    if host.layout == "cosine":
        return (1e-4 / 0.9999) ** 0.5, (0.9999 / 1e-4) ** 0.5
    if hasattr(scheduler, "alphas_cumprod"):
        path = table_of(scheduler)
        return path.sigma_min, path.sigma_max
    return 0.0, float(config.sigma_max)


def labels_of(scheduler: Any, host: Host, sigmas: Float) -> Float:
    """What the network is told in place of each level: the scheduler's own time, fractional where it counts in integers.

    >>> from diffusers import FlowMatchEulerDiscreteScheduler
    >>> flow = FlowMatchEulerDiscreteScheduler(shift=3.0)                   # a shift says only which levels are taken
    >>> labels_of(flow, host_of(flow)[1], np.array([3.0, 1.0])).tolist()
    [750.0, 500.0]
    """
    config = scheduler.config
    count = config.get("num_train_timesteps", 1000)
    if takes_flow(scheduler, host):
        u = host_levels(scheduler, host, sigmas)
        return np.asarray(1.0 - u if host_of(scheduler)[0] == "MiniMaxH3Scheduler" else u * count)
    if host.layout == "angles":
        return np.arctan(sigmas) * 2 / np.pi
    if host.layout == "trig":
        return np.arctan(sigmas)
    if host.layout == "cosine":
        s = float(scheduler.s)
        kept = np.sqrt(np.cos(s / (1 + s) * np.pi / 2) ** 2 / (1.0 + sigmas**2))
        t = np.maximum(np.arccos(kept) * 2 / np.pi * (1 + s) - s, 0.0)
        scaler = scheduler.scaler
        return np.asarray(1 - (1 - t) ** (1 / scaler) if scaler > 1 else t ** (1 / scaler))
    if hasattr(scheduler, "precondition_noise"):
        return np.asarray(scheduler.precondition_noise(torch.from_numpy(sigmas)).numpy())
    if hasattr(scheduler, "sigma_to_t"):
        return np.asarray(scheduler.sigma_to_t(sigmas))
    if config.get("timestep_type") == "continuous" and config.prediction_type == "v_prediction":
        return np.asarray(0.25 * np.log(sigmas))
    path = table_of(scheduler)
    return path.sigma_to_t(np.clip(sigmas, path.sigma_min, path.sigma_max))


def host_levels(scheduler: Any, host: Host, sigmas: Float) -> Float:
    """Levels as the scheduler's own array holds them: u = sigma/(1 + sigma) for a flow (1 - u where it is inverted).

    >>> from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
    >>> levels = np.array([3.0, 1.0])
    >>> [host_levels(each, host_of(each)[1], levels).tolist() for each in (FlowMatchEulerDiscreteScheduler(), DDIMScheduler())]
    [[0.75, 0.5], [3.0, 1.0]]
    """
    if not takes_flow(scheduler, host):
        return sigmas
    u = sigmas / (1.0 + sigmas)
    return np.asarray(1.0 - u if scheduler.config.get("invert_sigmas", False) else u)


def own_levels(scheduler: Any, host: Host, levels: Float) -> Float:
    """Inverse of `host_levels`; infinite where a flow starts from noise alone.

    >>> from diffusers import FlowMatchEulerDiscreteScheduler
    >>> flow = FlowMatchEulerDiscreteScheduler()
    >>> own_levels(flow, host_of(flow)[1], np.array([1.0, 0.75, 0.5])).tolist()
    [inf, 3.0, 1.0]
    """
    if not takes_flow(scheduler, host):
        return levels
    u = 1.0 - levels if scheduler.config.get("invert_sigmas", False) else levels
    with np.errstate(divide="ignore"):
        return np.asarray(u / (1.0 - u))


def signal_scale(scheduler: Any, host: Host, sigma: float) -> float:
    """The factor between x~ and the state that the scheduler moves, at a level.

    >>> from diffusers import DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
    >>> kinds = (DDIMScheduler(), EulerDiscreteScheduler(), FlowMatchEulerDiscreteScheduler())
    >>> [round(signal_scale(each, host_of(each)[1], 3.0), 6) for each in kinds]
    [0.316228, 1.0, 0.25]
    """
    if takes_flow(scheduler, host):
        return 1.0 / (1.0 + sigma)
    return 1.0 if host.state == "x" else float((1.0 + sigma**2) ** -0.5)


class Planned:
    """What every planned class has over its parent; `_host` is its row, `_parent` the class of diffusers."""

    _host: Host
    _parent: Any
    config: Any
    sigmas: Any
    timesteps: Any
    _warm: Callable[[Any], Any] | None = None
    _begun = False
    _mapped = False
    _given = False
    _noised = False

    @classmethod
    def from_config(cls, config: Any = None, return_unused_kwargs: bool = False, **kwargs: Any) -> Any:
        """As the parent's, and the grid in the configuration is laid out at once."""
        made = super().from_config(config, return_unused_kwargs, **kwargs)  # type: ignore[misc]
        scheduler = made[0] if return_unused_kwargs else made
        if scheduler.planned() is not None:
            scheduler.set_timesteps()
        return made

    def planned(self) -> Mapping[str, Any] | None:
        """The plan in the configuration, or None while the parent's constructor runs."""
        plan: Mapping[str, Any] | None = self.config.get(KEY)
        return plan

    @property
    def init_noise_sigma(self) -> Any:
        """What a pipeline multiplies standard normal noise by: the deviation of the state's noise at the first level."""
        plan = self.planned()
        if plan is None:
            kept = self.__dict__.get("_init_noise_sigma")
            return super().init_noise_sigma if kept is None else kept  # type: ignore[misc]
        return plan["sigmas"][0] * signal_scale(self, self._host, plan["sigmas"][0])

    @init_noise_sigma.setter
    def init_noise_sigma(self, value: Any) -> None:
        self.__dict__["_init_noise_sigma"] = value

    def set_timesteps(self, *args: Any, **kwargs: Any) -> None:
        """Lay out the planned levels and forget the last run; only the count of what is passed in is looked at."""
        plan = self.planned()
        if plan is None:
            self._parent.set_timesteps(self, *args, **kwargs)
            return
        asked = inspect.signature(self._parent.set_timesteps).bind_partial(self, *args, **kwargs).arguments
        n, skip = len(plan["sigmas"]) - 1, plan["skip"]
        for name, given in (
            ("num_inference_steps", asked.get("num_inference_steps")),
            *((name, None if asked.get(name) is None else len(asked[name])) for name in ("sigmas", "timesteps")),
        ):
            if given is not None and given != n + skip:
                raise ValueError(self._disagreement(name, given, n, skip))
        if plan["warm"] and self._warm is None and self.__dict__.get("_laid"):
            raise ValueError(
                f"`scheduler` was saved with a plan that starts warm at sigma = {plan['sigmas'][0]:.6g}, and what warms it is "
                "not part of a scheduler's folder; apply the plan again."
            )
        device = asked.get("device")
        self._parent.set_timesteps(self, **self._host.reset(n + skip), device=device)
        self._lay_out(np.asarray(plan["sigmas"], dtype=np.float64), skip, device)
        self._begun = self._mapped = self._noised = False
        self._laid = True

    def _disagreement(self, name: str, given: int, n: int, skip: int) -> str:
        wanted = "num_inference_steps" if name == "num_inference_steps" else f"the length of `{name}`"
        steps = f"{n} step{'s' * (n != 1)}"
        if skip:
            strength = self.config[KEY]["strength"]
            return (
                f"{wanted} must be {n + skip}, of which strength = {strength:g} leaves the {steps} planned, got {given}; call "
                f"the pipeline with num_inference_steps={n + skip}, strength={strength:g}."
            )
        return (
            f"{wanted} must be {n}, for the {steps} planned, got {given}; call the pipeline with num_inference_steps={n}, or "
            f"apply a plan of {given}."
        )

    def set_begin_index(self, begin_index: int = 0) -> None:
        """As the parent's; refused where image-to-image would not begin with the first planned level."""
        plan = self.planned()
        if plan is not None and plan["skip"]:
            order = getattr(self, "order", 1)
            if begin_index != plan["skip"] * order:
                raise ValueError(
                    f"`begin_index` must be that of step {plan['skip']}, the plan's first, got that of step "
                    f"{begin_index // order}; call the pipeline with strength={plan['strength']:g}, as given to `apply`."
                )
        self._parent.set_begin_index(self, begin_index)

    def _lay_out(self, sigmas: Float, skip: int, device: Any) -> None:
        """Write levels and timesteps where the parent's steps look for them; `skip` places before them are never reached."""
        host = self._host
        labels = labels_of(self, host, sigmas[:-1])
        # Image-to-image pipelines cut away the first places: what stands there only has to differ from the rest.
        ahead = np.arange(skip, 0, -1.0)
        sigmas = np.concatenate([sigmas[0] * (1.0 + ahead), sigmas])
        labels = np.concatenate([labels[0] + ahead, labels])
        whole = not self.timesteps.is_floating_point() and bool(np.all(labels == np.rint(labels)))
        kind = torch.int64 if whole else torch.float32
        # On the MPS backend there is no float64; float32 keeps a level to 6e-8 of itself, and of 1 - level for a flow.
        # DPMSolverSDE asks its Brownian path for times between its ends, which it computes in float32.
        narrow = str(device).startswith("mps") or host.layout == "midpoint_sde"
        self._real = torch.float32 if narrow else torch.float64

        def tell(values: Float) -> Any:
            return torch.from_numpy(np.ascontiguousarray(values)).to(device=device, dtype=kind)

        count = sigmas.size - 1
        if hasattr(self, "num_inference_steps") or host.layout != "cosine":
            self.num_inference_steps = count
        if host.layout == "levels":
            if hasattr(self, "order_list") and sigmas[-1] == 0.0:
                self.order_list[-1] = 1  # diffusers 0.30 and 0.31 may end at a higher order, which has no value at 0
            self.timesteps = tell(labels)
            self.sigmas = self._numbers(host_levels(self, host, sigmas), device)
        elif host.layout in ("twice", "midpoint_sde"):
            doubled = np.concatenate([labels[:1], np.repeat(labels[1:], 2)])
            if host.layout == "midpoint_sde" and count > 1:
                doubled[1::2] = labels_of(self, host, np.sqrt(sigmas[:-2] * sigmas[1:-1]))
            self.timesteps = tell(doubled)
            inner = np.concatenate([sigmas[:1], np.repeat(sigmas[1:-1], 2), sigmas[-1:]])
            self.sigmas = self._numbers(host_levels(self, host, inner), device)
        elif host.layout in ("midpoint", "midpoint_ancestral"):
            self._lay_out_midpoints(sigmas, labels, tell, ancestral=host.layout == "midpoint_ancestral")
        elif host.layout == "table":
            self.timesteps = self._lay_out_table(sigmas, labels, tell)
        elif host.layout == "integer":
            self.timesteps = torch.from_numpy(np.rint(labels).astype(np.int64)).to(device)
        elif host.layout == "angles":
            self.timesteps = tell(labels)
            self.alphas = self._numbers(1.0 / np.sqrt(1.0 + sigmas**2))
            self.betas = self._numbers(sigmas / np.sqrt(1.0 + sigmas**2))
        else:
            self.timesteps = tell(np.append(labels, 0.0))
            self._within = {"timesteps": self._numbers(np.arctan(sigmas))} if host.layout == "trig" else {}
            self._kept = self._numbers(1.0 / (1.0 + sigmas**2), device)

    def _numbers(self, values: Float, device: Any = None) -> Any:
        """A tensor of levels, on the CPU unless the parent keeps them beside the state (flows do)."""
        tensor = torch.from_numpy(np.ascontiguousarray(values)).to(self._real)
        return tensor.to(device) if self._host.state == "flow" or self._host.layout == "cosine" else tensor

    def _lay_out_midpoints(self, sigmas: Float, labels: Float, tell: Callable[[Float], Any], *, ancestral: bool) -> None:
        """The arrays of diffusers' two DPM-Solver-2 classes: every level but the first twice, a middle between each pair."""

        def twice(values: Float) -> Any:
            return self._numbers(np.concatenate([values[:1], np.repeat(values[1:], 2), values[-1:]]))

        following = np.append(sigmas[1:], 0.0)
        if ancestral:
            # Ancestral step: s_up^2 = s'^2 (s^2 - s'^2)/s^2, s_down = s'^2/s; nothing is left to do at the final 0.
            down = following**2 / np.where(sigmas > 0.0, sigmas, 1.0)
            up = np.sqrt(following**2 - down**2)
            middles = np.sqrt(sigmas * down)
            self.sigmas_up, self.sigmas_down = twice(up), twice(down)
            self.sigmas_interpol = twice(middles)
            between = middles[: labels.size - 1]
        else:
            middles = np.sqrt(np.append(0.0, sigmas[:-1]) * sigmas)
            self.sigmas_interpol = twice(middles)
            between = middles[1 : labels.size]
        self.sigmas = twice(sigmas)
        told = labels_of(self, self._host, between) if between.size else between
        self.timesteps = tell(np.append(labels[:1], np.stack([told, labels[1:]], axis=1).ravel()))

    def _lay_out_table(self, sigmas: Float, labels: Float, tell: Callable[[Float], Any]) -> Any:
        """A table of the planned levels by place, from the last up, for classes that subtract an equal stride from a timestep.

        Inside `step` place stands for timestep and the stride is one place (two for PNDM, whose Runge-Kutta steps call the
        network half-way in time between two levels). Returns the timesteps of the calls.
        """
        stride = 2 if self._parent_is("PNDMScheduler") else 1
        times, levels = labels[::-1], sigmas[-2::-1]
        if stride == 2:
            path = table_of(self)
            middle = (times[1:] + times[:-1]) / 2
            between = path.t_to_sigma(np.clip(middle, 0.0, path.t_max))
            times = np.insert(times, np.arange(1, times.size), middle)
            levels = np.insert(levels, np.arange(1, levels.size), between)
        kept, last = 1.0 / (1.0 + levels**2), 1.0 / (1.0 + sigmas[-1] ** 2)
        before = np.append(last, kept[:-1])
        count = self.config.num_train_timesteps
        calls = np.arange(times.size)[::-stride]
        if stride == 2:
            calls = self._lay_out_pndm(calls)
        self._times = times
        self._places = {float(t): place for place, t in enumerate(tell(times).tolist())}
        self._within = {
            "alphas_cumprod": self._numbers(kept),
            "alphas": self._numbers(kept / before),
            "betas": self._numbers(1.0 - kept / before),
            "final_alpha_cumprod": self._numbers(np.asarray(last)),
            "one": self._numbers(np.asarray(last)),
            "timesteps": torch.from_numpy(calls.copy()),
        }
        if not self._parent_is("LCMScheduler"):  # which counts its steps by it
            self._within["num_inference_steps"] = count // stride
        return tell(times[calls])

    def _lay_out_pndm(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """The order of PNDM's calls: its two warm-ups, then one per level; `places` are those of the levels, descending."""
        if self.config.skip_prk_steps:
            self.prk_timesteps = np.array([], dtype=np.int64)
            self.plms_timesteps = np.concatenate([places[:1], places[1:2], places[1:]])
        else:
            warm = [place for top, end in pairwise(places[:4]) for place in (top, top - 1, top - 1, end)]
            self.prk_timesteps = np.array(warm)
            self.plms_timesteps = places[3:].copy()
        return np.concatenate([self.prk_timesteps, self.plms_timesteps])

    def _parent_is(self, name: str) -> bool:
        return host_of(self)[0] == name

    @contextmanager
    def _inside(self) -> Iterator[None]:
        """The parent's attributes replaced by the planned ones while one of its methods runs."""
        kept = {name: self.__dict__[name] for name in self._within if name in self.__dict__}
        self.__dict__.update((name, self._within[name]) for name in kept)
        try:
            yield
        finally:
            self.__dict__.update(kept)

    def _place(self, timestep: Any) -> int:
        place = self._places.get(float(timestep))
        if place is None:
            raise ValueError(
                f"`timestep` must be one of the scheduler's planned timesteps, got {float(timestep):g}; go through "
                "scheduler.timesteps."
            )
        return place

    def walked(self) -> Float:
        """The levels that the parent's steps find, first to last, in the coordinate of the library."""
        host, within = self._host, getattr(self, "_within", {})
        if host.layout == "table":
            stride = 2 if self._parent_is("PNDMScheduler") else 1
            kept = within["alphas_cumprod"].double().numpy()[::-stride]
            last = float(within["final_alpha_cumprod"])
            kept = np.append(kept, last)
            return np.asarray(np.sqrt((1.0 - kept) / kept))
        if host.layout == "trig":
            return np.asarray(np.tan(within["timesteps"].double().numpy()))
        if host.layout == "cosine":
            kept = self._kept.double().cpu().numpy()
            return np.asarray(np.sqrt((1.0 - kept) / kept))
        return unfolded(self, host)


def unfolded(scheduler: Any, host: Host) -> Float:
    """The n+1 levels of a scheduler's arrays, planned or diffusers' own, in the coordinate of the library.

    >>> from diffusers import DDIMScheduler
    >>> scheduler = DDIMScheduler(timestep_spacing="trailing")
    >>> scheduler.set_timesteps(2)
    >>> unfolded(scheduler, host_of(scheduler)[1]).round(3).tolist()
    [157.407, 3.424, 0.0]
    """
    if host.layout == "angles":
        return np.asarray((scheduler.betas.double() / scheduler.alphas.double()).cpu().numpy())
    if host.layout == "trig":
        return np.asarray(np.tan(scheduler.timesteps.double().cpu().numpy()))
    if host.layout == "cosine":
        t = scheduler.timesteps
        kept = scheduler._alpha_cumprod(t, t.device).double().cpu().numpy()
        return np.asarray(np.sqrt((1.0 - kept) / kept))
    if host.layout in ("table", "integer"):
        called = scheduler.timesteps.cpu().numpy()
        if hasattr(scheduler, "_timesteps"):  # PNDM calls some levels twice, and others between them
            called = scheduler._timesteps[::-1]
        levels = table_of(scheduler).sigmas[called.astype(np.int64)]
        last = scheduler.alphas_cumprod[:1] if host.layout == "integer" else getattr(scheduler, "final_alpha_cumprod", 1.0)
        kept = 1.0 if host.zero else float(last)
        return np.append(levels, np.sqrt((1.0 - kept) / kept))
    levels = scheduler.sigmas.double().cpu().numpy()
    if host.layout in ("twice", "midpoint_sde"):
        levels = np.append(levels[::2], levels[-1])
    elif host.layout.startswith("midpoint"):
        levels = levels[::2]
    return own_levels(scheduler, host, levels)


def _step(parent: Any) -> Callable[..., Any]:
    """The parent's `step` at the planned place, from the warm state where the plan has one."""
    signature = inspect.signature(parent.step)

    @functools.wraps(parent.step)
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        call = signature.bind(self, *args, **kwargs)
        named = call.arguments
        sample = named["sample"]
        if not self._begun:
            named["sample"] = _first_state(self, sample)
            self._begun, self._given = True, False
        if self._host.layout == "table":
            named["timestep"] = self._place(named["timestep"])
            if named.get("timestep_back") is not None:
                named["timestep_back"] = self._place(named["timestep_back"])
            named.pop("prev_timestep", None)
        elif self._host.layout == "trig" and self.step_index is None:
            self._init_step_index(named["timestep"])  # while the timesteps are still those told in float32
        elif _ends_by_hand(self, named["timestep"]):
            return _onto_zero(self, named)
        with self._inside() if getattr(self, "_within", None) else _nothing():
            made = parent.step(*call.args, **call.kwargs)
        return _like(made, sample)

    return step


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _first_state(self: Any, sample: Any) -> Any:
    """The warm state in place of the pipeline's noise, if the network has seen it too."""
    if self._warm is None or self._noised or self._given:
        return sample
    if not self._mapped:
        raise ValueError(
            "`sample` must have gone through scale_model_input for this plan's warm start, which the pipeline does not call; "
            "pass latents=eigenstep.adapters.diffusers.start(pipe.scheduler, noise) to it, or sample with "
            "eigenstep.models.generate."
        )
    return warmed(self, sample)


def warmed(self: Any, sample: Any) -> Any:
    """What a pipeline's initial sample, init_noise_sigma times standard normal noise, becomes under the plan's warm start."""
    top = self.planned()["sigmas"][0]
    state = self._warm(sample.float() / self.init_noise_sigma) * signal_scale(self, self._host, top)
    return state.to(dtype=sample.dtype, device=sample.device)


def _ends_by_hand(self: Any, timestep: Any) -> bool:
    """Whether this is a step onto sigma = 0 of a class whose formula has no value there (or, for iPNDM, a higher order).

    Sets iPNDM's memory aside itself, so that its last step is the first-order one.
    """
    name = host_of(self)[0]
    if name not in _NO_ZERO or self.planned()["sigmas"][-1] != 0.0:
        return False
    if self.step_index is None:
        self._init_step_index(timestep)
    if self.step_index != len(self.timesteps) - 1:
        return False
    if name == "IPNDMScheduler":
        self.ets = []
        return False
    return name in ("DEISMultistepScheduler", "SASolverScheduler") or self.config.solver_type == "bh1" or _keeps_noise(self)


_NO_ZERO = frozenset(
    {
        "DEISMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "IPNDMScheduler",
        "SASolverScheduler",
        "UniPCMultistepScheduler",
    }
)


def _keeps_noise(scheduler: Any) -> bool:
    """Whether a class's history holds noise rather than denoised states."""
    name, config = host_of(scheduler)[0], scheduler.config
    if name == "DEISMultistepScheduler":
        return True
    if name.startswith("DPMSolver"):
        return config.algorithm_type in ("dpmsolver", "sde-dpmsolver")
    return not scheduler.predict_x0


def _onto_zero(self: Any, named: Mapping[str, Any]) -> Any:
    """The step onto sigma = 0: the denoised state."""
    sample = named["sample"]
    made = self.convert_model_output(named["model_output"], sample=sample)
    if _keeps_noise(self):
        alpha, s = self._sigma_to_alpha_sigma_t(self.sigmas[self.step_index])
        made = (sample - s * made) / alpha
    self._step_index += 1
    return SchedulerOutput(prev_sample=made) if named.get("return_dict", True) else (made,)


def _like(made: Any, sample: Any) -> Any:
    """The result in the sample's type where the levels' float64 has widened it."""
    state = made[0] if isinstance(made, tuple) else made.prev_sample
    if state.dtype != torch.float64 or sample.dtype == torch.float64:
        return made
    if isinstance(made, tuple):
        return (state.float(), *made[1:])
    made.prev_sample = state.float()
    return made


def _scale_model_input(parent: Any) -> Callable[..., Any]:
    """The parent's `scale_model_input`, of the warm state where the plan has one."""

    @functools.wraps(parent.scale_model_input)
    def scale_model_input(self: Any, sample: Any, *args: Any, **kwargs: Any) -> Any:
        if self.planned() is not None and self._warm is not None and not (self._begun or self._noised or self._given):
            sample, self._mapped = warmed(self, sample), True
        return parent.scale_model_input(self, sample, *args, **kwargs)

    return scale_model_input


def _reading(parent: Any, name: str) -> Callable[..., Any]:
    """A method of the parent that looks up timesteps, at the planned places where all of them are planned ones."""
    method = getattr(parent, name)

    @functools.wraps(method)
    def read(self: Any, first: Any, second: Any, third: Any, *args: Any, **kwargs: Any) -> Any:
        at, given = (1, second) if name == "batch_step_no_noise" else (2, third)
        values = [first, second, third]
        times = given.tolist() if isinstance(given, torch.Tensor) else list(given)
        if self.planned() is None or not all(float(t) in self._places for t in times):
            return method(self, *values, *args, **kwargs)
        places = torch.tensor([self._place(t) for t in times])
        values[at] = places if isinstance(given, torch.Tensor) else places.tolist()
        self._noised = self._noised or name == "add_noise"
        with self._inside():
            return method(self, *values, *args, **kwargs)

    return read


def _noising(parent: Any, name: str) -> Callable[..., Any]:
    """The parent's way to noise an image, remembering that the run starts from one."""
    method = getattr(parent, name)

    @functools.wraps(method)
    def noise(self: Any, *args: Any, **kwargs: Any) -> Any:
        self._noised = True
        return method(self, *args, **kwargs)

    return noise


def _boundary_scalings(self: Any, timestep: Any) -> Any:
    """LCM's weights of state and network, which are functions of the time itself and not of its place in the table."""
    time = float(self._times[int(timestep)]) if self.planned() is not None else timestep
    return self._parent.get_scalings_for_boundary_condition_discrete(self, time)


def _alpha_cumprod(self: Any, t: Any, device: Any) -> Any:
    """Wuerstchen's formula at the planned levels themselves: its float32 cosine keeps three digits of a small one."""
    if self.planned() is None:
        return self._parent._alpha_cumprod(self, t, device)
    nearest = (self.timesteps.to(device)[None] - t.reshape(-1)[:, None]).abs().argmin(dim=1)
    return self._kept.to(device)[nearest].reshape(t.shape)


@functools.cache
def planned_class(parent: Any) -> Any:
    """The subclass of a scheduler class that walks the grid in its configuration.

    >>> from diffusers import DDIMScheduler
    >>> planned_class(DDIMScheduler).__name__, issubclass(planned_class(DDIMScheduler), DDIMScheduler)
    ('PlannedDDIMScheduler', True)
    """
    name, host = host_of(parent.__new__(parent))
    members: dict[str, Any] = {
        "__doc__": f"{parent.__name__} on the grid in its configuration, made by `eigenstep.adapters.diffusers.apply`.",
        "__module__": __name__.rpartition(".")[0],
        "_parent": parent,
        "_host": host,
        "step": _step(parent),
        "set_timesteps": functools.wraps(parent.set_timesteps)(_through(Planned.set_timesteps)),
    }
    if hasattr(parent, "scale_model_input"):
        members["scale_model_input"] = _scale_model_input(parent)
    members |= {read: _reading(parent, read) for read in host.reads if hasattr(parent, read)}
    for noise in ("add_noise", "scale_noise"):
        if hasattr(parent, noise) and noise not in members:
            members[noise] = _noising(parent, noise)
    if not hasattr(parent, "set_begin_index"):
        members["set_begin_index"] = property()  # absent in the parent: pipelines ask whether a scheduler has it
    if name == "LCMScheduler":
        members["get_scalings_for_boundary_condition_discrete"] = _boundary_scalings
    if name == "DDPMWuerstchenScheduler":
        members["_alpha_cumprod"] = _alpha_cumprod
    return type(f"Planned{parent.__name__}", (Planned, parent), members)


def _through(method: Callable[..., None]) -> Callable[..., None]:
    """A function of its own around a method, so that it can wear another signature."""

    def call(self: Any, *args: Any, **kwargs: Any) -> None:
        method(self, *args, **kwargs)

    return call
