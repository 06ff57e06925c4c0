"""ComfyUI: plan on a model's own noise levels, in ComfyUI's units, for the sampler that will run them.

The node folder `comfyui/` is a thin skin over this module, which imports neither ComfyUI nor, before a tensor is asked for,
torch. ComfyUI gives every model an object `model_sampling` with `sigmas`, `sigma_min`, `sigma_max` and `percent_to_sigma`.
Two kinds of them exist: models in sigma (SD 1.x, SDXL, EDM, Cosmos), whose levels are ours, and flow models (class `CONST`:
SD3, Flux, Wan, ...), whose levels are flow times s in (0, 1], sigma = noise_scale * s/(1-s).

A flow model begins at s = 1, where sigma is infinite. Steps from there are planned from a sigma so large that the data no
longer count (1e6 standard deviations of the widest direction): the first step then begins, exactly as ComfyUI's does, from
nothing but noise, and the list handed over begins with the model's own s = 1.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, MutableMapping, MutableSequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from eigenstep import _checks
from eigenstep._checks import Float
from eigenstep._torch import torch_module
from eigenstep.gaussian import OBJECTIVES, objective_for
from eigenstep.grids import split
from eigenstep.optimal import optimal_grid, optimal_split
from eigenstep.spectrum import Spectrum

if TYPE_CHECKING:
    import torch

SAMPLERS: Mapping[str, str] = MappingProxyType(
    {
        "euler": "ddim",
        "ddim": "ddim",
        "euler_ancestral": "ddim_eta",
        "ddpm": "ddim_eta",
        "heun": "heun",
        "dpm_2": "dpm_2",
        "dpmpp_2m": "dpmpp_2m",
        "dpmpp_2m_sde": "dpmpp_2m_sde",
        "dpmpp_2m_sde_gpu": "dpmpp_2m_sde",
        "ipndm": "ipndm4",
        "uni_pc_bh2": "unipc3",
    }
)
"""ComfyUI's sampler -> the solver of this library that makes the same steps, on models in sigma.

Each pair was run side by side and agrees to rounding; `uni_pc_bh2` but for its last step, which goes to 0.001 instead of 0.
Not here because no solver of the library makes their steps: `deis` (another time variable), `lms`, `dpm_2_ancestral`,
`dpmpp_2s_ancestral`, `dpmpp_sde`, `dpmpp_3m_sde`, `uni_pc` (bh1), `res_multistep`, `er_sde`, `seeds`, `sa_solver`.
"""

FLOW_SAMPLERS: Mapping[str, str] = MappingProxyType(
    {name: SAMPLERS[name] for name in ("euler", "ddim", "dpmpp_2m_sde", "dpmpp_2m_sde_gpu")}
)
"""The same on flow models, where ComfyUI's other samplers make steps of their own: in s where the originals use sigma."""

SCHEDULERS: Mapping[str, str] = MappingProxyType(
    {
        "eigenstep": "euler",
        "eigenstep_2m": "dpmpp_2m",
        "eigenstep_sde": "dpmpp_2m_sde",
        "eigenstep_ancestral": "euler_ancestral",
    }
)
"""Names in ComfyUI's scheduler list -> the sampler each is planned for: the list does not say which sampler will run."""

SPECTRUM_VARIABLE = "EIGENSTEP_SPECTRUM"
"""Environment variable that names the spectrum file of the scheduler list."""

_BEYOND_DATA = 1e6
_OFFSET = 1e-4
"""Share of the steps' range by which ComfyUI lowers a first level of s = 1 for samplers that work in the log-SNR."""


@dataclass(frozen=True)
class Levels:
    """The noise levels of a ComfyUI model, and the way between its units and sigma.

    Attributes
    ----------
    sigma_min, sigma_max : float
        Lowest and highest level, in sigma, data units; sigma_max is infinite for a flow model that reaches s = 1.
    flow : bool
        Whether ComfyUI names levels by the flow time s.
    noise_scale : float
        Standard deviation of a flow model's noise, in data units; 1 except where a model says otherwise.
    """

    sigma_min: float
    sigma_max: float
    flow: bool = False
    noise_scale: float = 1.0

    @classmethod
    def of(cls, model_sampling: Any) -> Levels:
        """Read the levels of ComfyUI's `model_sampling`.

        Raises
        ------
        ValueError
            It has no noise levels, or belongs to a model that adds no noise.

        >>> from types import SimpleNamespace
        >>> Levels.of(SimpleNamespace(sigma_min=0.0292, sigma_max=14.6))
        Levels(sigma_min=0.0292, sigma_max=14.6, flow=False, noise_scale=1.0)
        """
        kinds = {kind.__name__ for kind in type(model_sampling).__mro__}
        if not (hasattr(model_sampling, "sigma_min") and hasattr(model_sampling, "sigma_max")):
            raise ValueError(
                f"`model` must have noise levels (sigma_min, sigma_max), got {type(model_sampling).__name__}; connect a "
                "diffusion or flow model."
            )
        if any(kind.startswith("IMG_TO_IMG") for kind in kinds):
            raise ValueError("`model` turns images into images without noise, so there are no noise levels to plan.")
        low, high = float(model_sampling.sigma_min), float(model_sampling.sigma_max)
        if "CONST" not in kinds:
            return cls(low, high)
        scale = float(getattr(model_sampling, "noise_scale", 1.0))
        return cls(scale * low / (1 - low), math.inf if high >= 1 else scale * high / (1 - high), True, scale)

    def to_sigma(self, level: float) -> float:
        """Sigma of a level in ComfyUI's units: noise_scale * s/(1-s) for flow models, the level itself for others.

        >>> Levels(0.001, math.inf, flow=True).to_sigma(0.875)
        7.0
        """
        if not self.flow:
            return level
        return math.inf if level >= 1 else self.noise_scale * level / (1 - level)

    def to_host(self, sigmas: ArrayLike) -> Float:
        """Levels in ComfyUI's units: s = sigma/(noise_scale + sigma) for flow models, inverse to `to_sigma`.

        >>> Levels(0.001, math.inf, flow=True).to_host([7.0, 1.0, 0.0]).tolist()
        [0.875, 0.5, 0.0]
        """
        sigma = np.asarray(sigmas, dtype=np.float64)
        return sigma / (self.noise_scale + sigma) if self.flow else sigma.copy()

    def solver(self, sampler: str) -> str:
        """The library's name for the steps that a ComfyUI sampler makes on this model.

        Raises
        ------
        ValueError
            No solver of the library makes them; the message lists the samplers it has.

        >>> Levels(0.03, 14.6).solver("uni_pc_bh2")
        'unipc3'
        """
        known = FLOW_SAMPLERS if self.flow else SAMPLERS
        if sampler in SAMPLERS and sampler not in known:
            raise ValueError(
                f"`sampler` must be one of {', '.join(known)} for a flow model, got {sampler!r}: on flow models ComfyUI makes "
                "its steps in flow time, which this library has no error for; plan for euler, or choose one of these."
            )
        return known[_checks.choice(sampler, known, "sampler")]


def read_back(levels: ArrayLike, model_sampling: Any) -> Float:
    """Sigma of a `SIGMAS` list as ComfyUI will run it on a model: (n+1,) float64, the first infinite where s = 1.

    >>> from types import SimpleNamespace
    >>> read_back([14.6, 1.0, 0.0], SimpleNamespace(sigma_min=0.03, sigma_max=14.6)).tolist()
    [14.6, 1.0, 0.0]
    """
    units = Levels.of(model_sampling)
    return np.array([units.to_sigma(float(level)) for level in np.asarray(levels, dtype=np.float64)])


def start_level(model_sampling: Any, denoise: float) -> float:
    """Where a run with `denoise` < 1 begins, in ComfyUI's units: `percent_to_sigma(1 - denoise)`, the model's own time.

    KSampler instead builds int(steps/denoise) levels of some scheduler and keeps the last steps + 1, which begins nearly
    there for schedulers uniform in time (`simple`, `normal`) and elsewhere for others. Here the start is fixed first and the
    steps are planned on what is left.

    Parameters
    ----------
    denoise : float
        Share of the model's time that is sampled, in (0, 1]; 1 is the model's highest level.

    Raises
    ------
    ValueError
        `denoise` outside (0, 1].

    >>> from types import SimpleNamespace
    >>> start_level(SimpleNamespace(sigma_max=1.0, percent_to_sigma=lambda p: 1 - p), 0.25)
    0.25
    """
    share = _checks.real_number(denoise, "denoise", minimum=0.0, maximum=1.0)
    if share == 0:
        raise ValueError("`denoise` must be greater than 0, got 0: nothing would be sampled.")
    return float(model_sampling.sigma_max if share == 1 else model_sampling.percent_to_sigma(1 - share))


def plan_sigmas(
    spectrum: Spectrum,
    steps: int,
    model_sampling: Any = None,
    *,
    sampler: str = "euler",
    objective: str = "auto",
    noise_floor: float = 0.0,
    denoise: float = 1.0,
    start_at: float | None = None,
    end_at: float = 0.0,
) -> Float:
    """The optimal levels of a run, steps + 1 of them in ComfyUI's units, the terminal 0 among them.

    Parameters
    ----------
    spectrum : Spectrum
        Of the data as the model sees them: latents for latent models, with the model's own scale and shift.
    steps : int
        Steps of this run, >= 1, whatever `denoise` is.
    model_sampling : object, optional
        ComfyUI's `model.get_model_object("model_sampling")`. Without it, levels are sigma, `start_at` must be given, and the
        network may be called at any level.
    sampler : str
        ComfyUI's name for the sampler that will run, one of `SAMPLERS` (`FLOW_SAMPLERS` for flow models).
    objective : str
        "auto", `w2` or `blend` by the sampler (`objective_for`), or one of OBJECTIVES.
    noise_floor
        As in `optimal_grid`.
    denoise : float
        In [0, 1]: where to start, see `start_level`. 0 gives an empty list, as ComfyUI's own nodes do.
    start_at : float, optional
        The level to start at instead, in the model's units.
    end_at : float
        The level to end at, in the model's units; 0 denoises fully, more leaves noise for another run.

    Raises
    ------
    ValueError
        Start and end in the wrong order or outside the model's levels, both `denoise` and `start_at`, a sampler whose steps
        the library does not know, or as in `optimal_grid`.

    Examples
    --------
    >>> plan_sigmas(Spectrum.from_eigenvalues([1.0]), 3, start_at=1.0).round(6).tolist()
    [1.0, 0.57735, 0.267949, 0.0]
    """
    steps = _checks.integer(steps, "steps")
    if start_at is None and _checks.real_number(denoise, "denoise", minimum=0.0, maximum=1.0) == 0:
        return np.empty(0)
    units, top = _range(model_sampling, start_at, denoise)
    solver = units.solver(sampler)
    first = _first_level(units, top, solver, model_sampling, spectrum)
    last = units.to_sigma(_checks.real_number(end_at, "end_at", minimum=0.0))
    if last >= first:
        raise ValueError(f"`end_at` must lie below the level where the run starts, got {end_at:.6g} and {top:.6g}.")
    lowest = max(units.sigma_min, last)
    if lowest >= first:
        raise ValueError(
            f"The run must start above the model's lowest level {_shown(units, units.sigma_min)}, got {top:.6g}; raise "
            "`denoise` or `start_at`."
        )
    final = None if last == lowest > 0 else last
    result = optimal_grid(
        spectrum, steps, lowest, first, final=final, solver=solver, objective=_aim(objective, solver), noise_floor=noise_floor
    )
    return _handed_over(units, result.sigmas, top, solver)


def plan_split(
    spectrum: Spectrum,
    steps: int,
    boundary: float,
    model_sampling: Any,
    *,
    high_steps: int | None = None,
    sampler: str = "euler",
    objective: str = "auto",
    noise_floor: float = 0.0,
    denoise: float = 1.0,
) -> tuple[Float, Float]:
    """The levels of a model for high noise and of one for low noise, which change places at `boundary`.

    Every share of the steps is tried with a level at the boundary, and the one with the least error of both runs together is
    kept (`optimal_split`); both lists hold the boundary, the second ends in 0.

    Parameters
    ----------
    spectrum, steps, model_sampling, sampler, objective, noise_floor, denoise
        As in `plan_sigmas`; `model_sampling` is that of the model for high noise, `steps` counts both runs, >= 2.
    boundary : float
        Where the models change places, in the model's units: for Wan 2.2, 0.875 (text to video) or 0.9 (image to video).
    high_steps : int, optional
        Steps of the model for high noise; by default, the best share.

    Raises
    ------
    ValueError
        As in `plan_sigmas` and `optimal_split`.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> model = SimpleNamespace(sigma_min=0.03, sigma_max=14.6)
    >>> high, low = plan_split(Spectrum.from_zoo("cifar10"), 5, 3.0, model)
    >>> high.size, low.size, float(high[-1]), float(low[0])
    (3, 4, 3.0, 3.0)
    """
    units, top = _range(model_sampling, None, denoise)
    solver = units.solver(sampler)
    first = _first_level(units, top, solver, model_sampling, spectrum)
    at = units.to_sigma(_checks.real_number(boundary, "boundary", minimum=0.0))
    if not units.sigma_min < at < first:
        raise ValueError(
            f"`boundary` must lie between the model's lowest level and the start, got {boundary:.6g} for "
            f"{_shown(units, units.sigma_min)} ... {top:.6g}."
        )
    result = optimal_split(
        spectrum,
        steps,
        at,
        units.sigma_min,
        first,
        high_steps=high_steps,
        solver=solver,
        objective=_aim(objective, solver),
        noise_floor=noise_floor,
    )
    high, low = _handed_over(units, result.high, top, solver), units.to_host(result.low)
    high[-1] = low[0] = boundary
    return high, low


def split_sigmas(levels: ArrayLike, sigma: float) -> tuple[Float, Float]:
    """A `SIGMAS` list cut where the second model takes over, no level moved: `grids.split`, in the model's units.

    >>> [part.tolist() for part in split_sigmas([1.0, 0.95, 0.8, 0.4, 0.0], 0.875)]
    [[1.0, 0.95, 0.8], [0.8, 0.4, 0.0]]
    """
    return split(levels, sigma)


def tensor(levels: ArrayLike) -> torch.Tensor:
    """A `SIGMAS` value as ComfyUI's nodes pass it: a float32 tensor on the CPU.

    Raises
    ------
    ImportError
        torch is absent.

    >>> tensor([1.0, 0.5, 0.0])
    tensor([1.0000, 0.5000, 0.0000])
    """
    torch = torch_module("a value of `SIGMAS`")
    return torch.tensor(np.asarray(levels, dtype=np.float32))


def spectrum_files(folders: list[str]) -> dict[str, Path]:
    """The spectrum files (.json, .npz) in some folders by name, sorted; folders that do not exist hold none.

    >>> spectrum_files(["no/such/folder"])
    {}
    """
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(Path(folder).glob("*")):
            if path.suffix.lower() in (".json", ".npz") and path.is_file():
                found.setdefault(path.name, path)
    return dict(sorted(found.items()))


def load_spectrum(name: str, folders: list[str]) -> Spectrum:
    """The spectrum file `name` of some folders, loaded once as long as the file stays the same.

    Raises
    ------
    ValueError
        There is no such file; the message says how to make one.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Spectrum.from_eigenvalues([4.0, 1.0]).save(Path(folder, "latents.json"))
    ...     load_spectrum("latents.json", [folder]).trace
    5.0
    """
    files = spectrum_files(folders)
    if name not in files:
        raise ValueError(_missing(folders, f"There is no spectrum file {name!r}."))
    return _loaded(files[name], files[name].stat().st_mtime_ns)


def default_spectrum(folders: list[str], environment: Mapping[str, str] = os.environ) -> Spectrum:
    """The spectrum of the scheduler list, which has no field for one.

    It is the file named by the environment variable EIGENSTEP_SPECTRUM, else default.json or default.npz in one of the
    folders, else the only file there. There is no other default: a spectrum belongs to the data and the latent space of one
    family of models.

    Raises
    ------
    ValueError
        None is there, or several and none is called default; the message says what to do.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name, eigenvalue in {"default.json": 4.0, "faces.json": 1.0}.items():
    ...         Spectrum.from_eigenvalues([eigenvalue]).save(Path(folder, name))
    ...     default_spectrum([folder], {}).trace
    4.0
    """
    named = environment.get(SPECTRUM_VARIABLE)
    if named:
        if not Path(named).is_file():
            raise ValueError(f"`{SPECTRUM_VARIABLE}` must name a spectrum file, got {named!r}.")
        return _loaded(Path(named), Path(named).stat().st_mtime_ns)
    files = spectrum_files(folders)
    chosen = [path for name, path in files.items() if Path(name).stem == "default"] or list(files.values())
    if not chosen:
        raise ValueError(_missing(folders, "The eigenstep schedulers need a spectrum, and there is none."))
    if len(chosen) > 1:
        raise ValueError(
            f"The eigenstep schedulers need one spectrum, got {', '.join(path.name for path in chosen)}; rename the right one "
            f"default.json, or name it in {SPECTRUM_VARIABLE}."
        )
    return _loaded(chosen[0], chosen[0].stat().st_mtime_ns)


def register(
    names: MutableSequence[str],
    handlers: MutableMapping[str, Any],
    handler: Callable[..., Any],
    folders: Callable[[], list[str]],
) -> list[str]:
    """Put the schedulers into ComfyUI's list, in place; entries of other extensions stay as they are.

    Parameters
    ----------
    names, handlers
        `comfy.samplers.SCHEDULER_NAMES` and `SCHEDULER_HANDLERS`. Both must be changed, not replaced: KSampler and the nodes
        hold the same list.
    handler
        `comfy.samplers.SchedulerHandler`.
    folders
        Called at sampling time: the folders that hold spectra.

    Returns
    -------
    list of str
        The names that were added; those already there are left alone.

    >>> names, handlers = ["simple"], {}
    >>> register(names, handlers, lambda handler, use_ms: handler, lambda: [])
    ['eigenstep', 'eigenstep_2m', 'eigenstep_sde', 'eigenstep_ancestral']
    >>> names[:2]
    ['simple', 'eigenstep']
    """
    added = [name for name in SCHEDULERS if name not in handlers]
    for name in added:
        handlers[name] = handler(_scheduler(SCHEDULERS[name], folders), True)
    names.extend(name for name in added if name not in names)
    return added


def _scheduler(sampler: str, folders: Callable[[], list[str]]) -> Callable[[Any, int], torch.Tensor]:
    """A function of ComfyUI's registry: (model_sampling, steps) -> steps + 1 levels."""

    def schedule(model_sampling: Any, steps: int) -> torch.Tensor:
        return tensor(plan_sigmas(default_spectrum(folders()), steps, model_sampling, sampler=sampler))

    return schedule


@lru_cache(maxsize=8)
def _loaded(path: Path, modified: int) -> Spectrum:
    return Spectrum.load(path)


def _missing(folders: list[str], what: str) -> str:
    where = " or ".join(folders) or "ComfyUI's models/eigenstep"
    return f"{what} Measure one with `eigenstep spectrum IMAGES --encode-with MODEL -o default.json` and put it into {where}."


def _range(model_sampling: Any, start_at: float | None, denoise: float) -> tuple[Levels, float]:
    """The model's levels, and where the run begins in the model's units."""
    if start_at is not None:
        top = _checks.real_number(start_at, "start_at", minimum=0.0, exclusive=True)
        if denoise != 1:
            raise ValueError(
                f"`denoise` must be 1 where `start_at` says where to start, got {denoise:g} and {top:.6g}; give one of them."
            )
    if model_sampling is None:
        if start_at is None:
            raise ValueError("`start_at` must be given where no model is connected; or connect the model.")
        return Levels(0.0, top), top
    units = Levels.of(model_sampling)
    highest = float(model_sampling.sigma_max)
    if start_at is None:
        top = start_level(model_sampling, denoise)
    if top > highest * (1 + 1e-6):
        raise ValueError(f"`start_at` must not exceed the model's highest level {highest:.6g}, got {top:.6g}.")
    return units, top


def _first_level(units: Levels, top: float, solver: str, model_sampling: Any, spectrum: Spectrum) -> float:
    """Sigma of the first level, finite: for s = 1, ComfyUI's own offset or a level beyond the data."""
    first = units.to_sigma(top)
    if math.isfinite(first):
        return first
    if solver == "dpmpp_2m_sde":
        return units.to_sigma(float(model_sampling.percent_to_sigma(_OFFSET)))
    return _BEYOND_DATA * max(1.0, math.sqrt(float(spectrum.eigenvalues[0])))


def _handed_over(units: Levels, sigmas: Float, top: float, solver: str) -> Float:
    """The levels in the model's units, the first exactly where the run begins: s = 1 where the plan began beyond the data.

    Not so for a sampler that would replace s = 1 by the offset level: the list begins there already.
    """
    levels = units.to_host(sigmas)
    if math.isfinite(units.to_sigma(top)) or solver != "dpmpp_2m_sde":
        levels[0] = top
    return levels


def _aim(objective: str, solver: str) -> str:
    return objective_for(solver) if objective == "auto" else objective


def _shown(units: Levels, sigma: float) -> str:
    return f"{float(units.to_host([sigma])[0]):.6g}"


def objectives() -> list[str]:
    """The objectives that a node offers.

    >>> objectives()
    ['auto', 'w2', 'kl', 'reverse_kl', 'local', 'blend']
    """
    return ["auto", *OBJECTIVES]
