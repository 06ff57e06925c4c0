"""A grid as text for other programs: pasted, not called, so that no host has to be installed here.

Each host wants its own length, its own end and its own coordinate; these functions write what each one expects:

========================================  =========================  ===================  ==========================
host                                      values for n steps         final 0              coordinate
========================================  =========================  ===================  ==========================
k-diffusion                               n + 1                      in the list          sigma
ComfyUI ManualSigmas, RES4LYF             n + 1                      in the list          sigma; flow models s/(1+s)
stable-diffusion.cpp --sigmas             n + 1                      in the list          sigma; flow models s/(1+s)
A1111, Forge (Extra Schedulers, custom)   n + 1 (n from s = 1)       in the list          sigma; flow models s/(1+s)
diffusers EulerDiscreteScheduler          n + 1                      in the list          sigma
diffusers FlowMatchEulerDiscreteScheduler n                          added by the host    s/(1+s) before its shift
diffusers EDMEulerScheduler               n                          added by the host    ramp of the Karras formula
========================================  =========================  ===================  ==========================

All of them compute in float32; nine significant digits name a float32 exactly. `FORMATS` lists the writers by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from eigenstep._checks import Float, choice, descending_sigmas, real_number, sigma_range

KARRAS_RHO = 7.0

EULER_CONFIGS: Mapping[str, Mapping[str, object]] = {
    "ddpm": {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    "sd15": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "squaredcos": {"beta_schedule": "squaredcos_cap_v2"},
}
"""For each path that diffusers' EulerDiscreteScheduler knows, how to tell it so."""

FLOW_SHIFTS: Mapping[str, float] = {"flow": 1.0, "flow-shift3": 3.0}
"""For each flow path by name, the shift of FlowMatchEulerDiscreteScheduler."""


def k_diffusion(sigmas: ArrayLike) -> str:
    """A line of Python that makes the `sigmas` tensor of k-diffusion's samplers.

    Parameters
    ----------
    sigmas : array_like, (n+1,)
        Descending noise levels, in data units.

    Raises
    ------
    ValueError
        `sigmas` is not a descending grid.

    Examples
    --------
    >>> print(k_diffusion([80.0, 2.5, 0.002, 0.0]))
    sigmas = torch.tensor([80.0, 2.5, 0.002, 0.0])
    """
    return f"sigmas = torch.tensor([{_comma(descending_sigmas(sigmas))}])"


def comfyui(sigmas: ArrayLike, *, flow: bool = False) -> str:
    """The comma-separated list that ComfyUI's ManualSigmas node takes.

    The node finds its numbers by a pattern that knows no exponents (2e-05 would become two numbers), so every value is
    written out in full.

    Parameters
    ----------
    sigmas : array_like, (n+1,)
        Descending noise levels, in data units.
    flow : bool
        True for flow-matching models (SD3, Flux, Wan), whose levels in ComfyUI are sigma/(1+sigma).

    Raises
    ------
    ValueError
        `sigmas` is not a descending grid.

    Examples
    --------
    >>> comfyui([14.6146, 1.0, 0.00002, 0.0])
    '14.6146, 1.0, 0.00002, 0.0'
    >>> comfyui([999.0, 1.0, 0.0], flow=True)
    '0.999, 0.5, 0.0'
    """
    grid = descending_sigmas(sigmas)
    return _comma(flow_levels(grid) if flow else grid)


def stable_diffusion_cpp(sigmas: ArrayLike, *, flow: bool = False) -> str:
    """The options of stable-diffusion.cpp's command line: n + 1 levels, used as they are, without a flow shift.

    The program takes as many steps as there are levels, less one.

    Parameters
    ----------
    sigmas : array_like, (n+1,)
        Descending noise levels, in data units.
    flow : bool
        True for flow-matching models, whose levels there are sigma/(1+sigma).

    Raises
    ------
    ValueError
        `sigmas` is not a descending grid.

    Examples
    --------
    >>> stable_diffusion_cpp([14.6146, 1.0, 0.0])
    '--steps 2 --sigmas "14.6146,1.0,0.0"'
    """
    grid = descending_sigmas(sigmas)
    listed = _comma(flow_levels(grid) if flow else grid).replace(" ", "")
    return f'--steps {grid.size - 1} --sigmas "{listed}"'


def webui(sigmas: ArrayLike, *, flow: bool = False) -> str:
    """The list for the "custom" scheduler of the Extra Schedulers extension of A1111 and Forge.

    A list that ends in 0 is used as it is, whatever the number of steps is set to. Only a list from exactly 1 to 0 counts as
    a shape and would be stretched over the model's range: from a flow time that rounds to 1, the final 0 is left out, which
    the extension then adds; set the number of steps to the length of the list.

    Parameters
    ----------
    sigmas : array_like, (n+1,)
        Descending noise levels, in data units, ending in 0.
    flow : bool
        True for flow-matching models, whose levels there are sigma/(1+sigma).

    Raises
    ------
    ValueError
        `sigmas` is not a descending grid that ends in 0.

    Examples
    --------
    >>> webui([14.6146, 1.0, 0.0])
    '[14.6146, 1.0, 0.0]'
    >>> webui([1e12, 1.0, 0.0], flow=True)
    '[1.0, 0.5]'
    """
    grid = _ending_in_zero(sigmas, "the extension")
    levels = flow_levels(grid) if flow else grid
    listed = _comma(levels)
    return f"[{_comma(levels[:-1])}]" if listed.startswith("1.0,") else f"[{listed}]"


def plain(sigmas: ArrayLike, *, flow: bool = False) -> str:
    """One level per line, n + 1 lines, the last the end of the grid: for programs that are not listed here.

    Parameters
    ----------
    sigmas : array_like, (n+1,)
        Descending noise levels, in data units.
    flow : bool
        True to write flow times sigma/(1+sigma) instead of sigma.

    Raises
    ------
    ValueError
        `sigmas` is not a descending grid.

    Examples
    --------
    >>> print(plain([14.6146, 1.0, 0.0]))
    14.6146
    1.0
    0.0
    """
    grid = descending_sigmas(sigmas)
    return _comma(flow_levels(grid) if flow else grid).replace(", ", "\n")


def levels_json(sigmas: ArrayLike, *, flow: bool = False) -> str:
    """The grid as JSON in both coordinates, with all digits, and its conventions spelled out in the keys.

    Parameters
    ----------
    sigmas : array_like, (n+1,)
        Descending noise levels, in data units.
    flow : bool
        Whether the model is a flow model: `flow_times` holds sigma/(1+sigma) then, and null otherwise.

    Raises
    ------
    ValueError
        `sigmas` is not a descending grid.

    Examples
    --------
    >>> print(levels_json([999.0, 1.0, 0.0], flow=True))
    {"steps": 2, "ends_at_zero": true, "sigmas": [999.0, 1.0, 0.0], "flow_times": [0.999, 0.5, 0.0]}
    """
    grid = descending_sigmas(sigmas)
    return json.dumps(
        {
            "steps": grid.size - 1,
            "ends_at_zero": bool(grid[-1] == 0),
            "sigmas": grid.tolist(),
            "flow_times": flow_levels(grid).tolist() if flow else None,
        }
    )


def diffusers(sigmas: ArrayLike, *, path: str = "edm") -> str:
    """A Python snippet that gives the grid to the diffusers scheduler of a path: one of the three below.

    All three make Euler steps, which are DDIM's; diffusers' other schedulers take no noise levels.

    Parameters
    ----------
    sigmas : array_like, (n+1,)
        Descending noise levels, in data units.
    path : str
        The model's path by name: `edm`, a discrete path (`ddpm`, `sd15`, `squaredcos`) or a flow path (`flow`,
        `flow-shift3`).

    Raises
    ------
    ValueError
        No diffusers scheduler takes noise levels on that path; or as in the three functions.

    Examples
    --------
    >>> print(diffusers([14.6146, 1.0, 0.0], path="sd15").splitlines()[4])
    scheduler = EulerDiscreteScheduler(beta_schedule='scaled_linear', beta_start=0.00085, beta_end=0.012)
    """
    choice(path, ("edm", *EULER_CONFIGS, *FLOW_SHIFTS), "path")
    if path in EULER_CONFIGS:
        return diffusers_euler(sigmas, config=EULER_CONFIGS[path])
    if path in FLOW_SHIFTS:
        return diffusers_flow(sigmas, shift=FLOW_SHIFTS[path])
    return diffusers_edm(sigmas)


def diffusers_euler(sigmas: ArrayLike, *, config: Mapping[str, object]) -> str:
    """A Python snippet that gives the grid to diffusers' EulerDiscreteScheduler, whose steps are DDIM's.

    Not to DDIMScheduler, which takes no grid and assumes equal strides.

    Parameters
    ----------
    sigmas : array_like, (n+1,)
        Descending noise levels, in data units.
    config : mapping
        Arguments of the scheduler that describe the model's path, for example
        `{"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}`.

    Raises
    ------
    ValueError
        `sigmas` is not a descending grid.

    Examples
    --------
    >>> print(diffusers_euler([14.6146, 1.0, 0.0], config={"beta_schedule": "scaled_linear"}))
    from diffusers import EulerDiscreteScheduler
    <BLANKLINE>
    sigmas = [14.6146, 1.0, 0.0]  # 3 levels for 2 steps
    # In a pipeline: EulerDiscreteScheduler.from_config(pipe.scheduler.config), and pipe(..., sigmas=sigmas).
    scheduler = EulerDiscreteScheduler(beta_schedule='scaled_linear')
    scheduler.set_timesteps(sigmas=sigmas)
    """
    grid = descending_sigmas(sigmas)
    arguments = ", ".join(f"{key}={value!r}" for key, value in config.items())
    return "\n".join(
        [
            "from diffusers import EulerDiscreteScheduler",
            "",
            f"sigmas = [{_comma(grid)}]  # {grid.size} levels for {_steps(grid.size - 1)}",
            "# In a pipeline: EulerDiscreteScheduler.from_config(pipe.scheduler.config), and pipe(..., sigmas=sigmas).",
            f"scheduler = EulerDiscreteScheduler({arguments})",
            "scheduler.set_timesteps(sigmas=sigmas)",
        ]
    )


def diffusers_flow(sigmas: ArrayLike, *, shift: float = 1.0) -> str:
    """A Python snippet that gives the grid to diffusers' FlowMatchEulerDiscreteScheduler.

    The scheduler shifts what it is given, u -> k u / (1 + (k-1) u); the snippet undoes that beforehand with the shift
    of the scheduler it meets, u = level / (k - (k-1) level), so that the planned levels are the ones used.

    Parameters
    ----------
    sigmas : array_like, (n+1,)
        Descending noise levels, in data units, ending in 0, which the scheduler adds by itself.
    shift : float
        The `shift` > 0 of the scheduler that the snippet makes.

    Raises
    ------
    ValueError
        `sigmas` is not a descending grid that ends in 0, or `shift` is not positive.

    Examples
    --------
    >>> print(diffusers_flow([999.0, 1.0, 0.0], shift=3.0))
    from diffusers import FlowMatchEulerDiscreteScheduler
    <BLANKLINE>
    # sigma / (1 + sigma) for 2 steps; the scheduler adds the final 0.
    levels = [0.999, 0.5]
    # In a pipeline: scheduler = pipe.scheduler, and pipe(..., sigmas=sigmas).
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    # The scheduler shifts what it is given; with use_dynamic_shifting, put k = exp(mu), the pipeline's mu.
    k = scheduler.shift
    sigmas = [u / (k - (k - 1) * u) for u in levels]
    scheduler.set_timesteps(sigmas=sigmas)
    """
    grid = _ending_in_zero(sigmas, "FlowMatchEulerDiscreteScheduler")
    k = real_number(shift, "shift", minimum=0.0, exclusive=True)
    return "\n".join(
        [
            "from diffusers import FlowMatchEulerDiscreteScheduler",
            "",
            f"# sigma / (1 + sigma) for {_steps(grid.size - 1)}; the scheduler adds the final 0.",
            f"levels = [{_comma(flow_levels(grid[:-1]))}]",
            "# In a pipeline: scheduler = pipe.scheduler, and pipe(..., sigmas=sigmas).",
            f"scheduler = FlowMatchEulerDiscreteScheduler(shift={k!r})",
            "# The scheduler shifts what it is given; with use_dynamic_shifting, put k = exp(mu), the pipeline's mu.",
            "k = scheduler.shift",
            "sigmas = [u / (k - (k - 1) * u) for u in levels]",
            "scheduler.set_timesteps(sigmas=sigmas)",
        ]
    )


def diffusers_edm(sigmas: ArrayLike, *, sigma_min: float = 0.002) -> str:
    """A Python snippet that gives the grid to diffusers' EDMEulerScheduler.

    The scheduler takes a ramp in [0, 1] and puts it through Karras's formula with rho = 7; the snippet holds the ramp
    that comes out as the grid, ramp = (sigma_0^(1/7) - sigma^(1/7)) / (sigma_0^(1/7) - sigma_min^(1/7)).

    Parameters
    ----------
    sigmas : array_like, (n+1,)
        Descending noise levels, in data units, ending in 0, which the scheduler adds by itself.
    sigma_min : float
        The scheduler's own lowest level, in data units; 0 < sigma_min < sigmas[0].

    Raises
    ------
    ValueError
        `sigmas` is not a descending grid that ends in 0, or `sigma_min` is not below its first level.

    Examples
    --------
    >>> print(diffusers_edm([80.0, 0.002, 0.0]))
    import torch
    from diffusers import EDMEulerScheduler
    <BLANKLINE>
    # The scheduler turns this ramp into the noise levels 80.0, 0.002 and adds the final 0.
    ramp = torch.tensor([0.0, 1.0], dtype=torch.float64)
    scheduler = EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0)
    scheduler.set_timesteps(sigmas=ramp)
    """
    grid = _ending_in_zero(sigmas, "EDMEulerScheduler")
    low, high = sigma_range(sigma_min, grid[0])
    first, last = high ** (1 / KARRAS_RHO), low ** (1 / KARRAS_RHO)
    ramp = (first - grid[:-1] ** (1 / KARRAS_RHO)) / (first - last)
    # The seventh power magnifies what rounding the ramp leaves out, so the ramp keeps all its digits.
    written = ", ".join(repr(float(u)) for u in ramp)
    return "\n".join(
        [
            "import torch",
            "from diffusers import EDMEulerScheduler",
            "",
            f"# The scheduler turns this ramp into the noise levels {_comma(grid[:-1])} and adds the final 0.",
            f"ramp = torch.tensor([{written}], dtype=torch.float64)",
            f"scheduler = EDMEulerScheduler(sigma_min={low!r}, sigma_max={high!r})",
            "scheduler.set_timesteps(sigmas=ramp)",
        ]
    )


def flow_levels(sigmas: ArrayLike) -> Float:
    """The levels s/(1+s) in [0, 1) by which flow-matching hosts name the noise level s.

    Parameters
    ----------
    sigmas : array_like, any shape
        Noise-to-signal ratios >= 0.

    Returns
    -------
    array, same shape
        In [0, 1); 0 at sigma = 0.

    Examples
    --------
    >>> flow_levels([999.0, 1.0, 0.0])
    array([0.999, 0.5  , 0.   ])
    """
    sigma = np.asarray(sigmas, dtype=np.float64)
    return sigma / (1.0 + sigma)


def _ending_in_zero(sigmas: ArrayLike, host: str) -> Float:
    grid = descending_sigmas(sigmas)
    if grid[-1] != 0:
        raise ValueError(f"`sigmas` must end in 0, because {host} always adds a final 0, got {grid[-1]:.6g}.")
    return grid


def _comma(values: Sequence[float] | Float) -> str:
    return ", ".join(
        np.format_float_positional(value, precision=9, unique=True, fractional=False, trim="0") for value in values
    )


def _steps(n: int) -> str:
    return f"{n} step{'s' * (n != 1)}"


@dataclass(frozen=True)
class Format:
    """How one host takes a grid.

    Attributes
    ----------
    hosts : str
        The programs that take it, and where.
    values : str
        How many values n steps are.
    end : str
        Who puts the final 0.
    unit : str
        The coordinate of the values.
    write : callable
        (sigmas, path name or None) -> text.

    Examples
    --------
    >>> FORMATS["k-diffusion"].write([2.0, 1.0, 0.0], None)
    'sigmas = torch.tensor([2.0, 1.0, 0.0])'
    """

    hosts: str
    values: str
    end: str
    unit: str
    write: Callable[[ArrayLike, str | None], str]


def _by_flow(write: Callable[..., str]) -> Callable[[ArrayLike, str | None], str]:
    return lambda sigmas, path: write(sigmas, flow=path in FLOW_SHIFTS)


_EITHER = "sigma; flow models s/(1+s)"
FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        "diffusers": Format(
            "diffusers: EulerDiscrete, FlowMatchEulerDiscrete or EDMEuler, by the path",
            "n + 1 (EulerDiscrete), n (the others)",
            "in the list (EulerDiscrete), added by the host (the others)",
            "sigma; s/(1+s) before the shift; ramp of the Karras formula",
            lambda sigmas, path: diffusers(sigmas, path=path or "edm"),
        ),
        "comfyui": Format(
            "ComfyUI: node ManualSigmas; RES4LYF: node Sigmas From Text", "n + 1", "in the list", _EITHER, _by_flow(comfyui)
        ),
        "k-diffusion": Format(
            "k-diffusion: the samplers' `sigmas`", "n + 1", "in the list", "sigma", lambda sigmas, path: k_diffusion(sigmas)
        ),
        "webui": Format(
            "A1111, Forge: scheduler `custom` of the extension Extra Schedulers",
            "n + 1; n where the first is 1",
            "in the list; added by the host where the first is 1",
            _EITHER,
            _by_flow(webui),
        ),
        "sd.cpp": Format("stable-diffusion.cpp: --sigmas", "n + 1", "in the list", _EITHER, _by_flow(stable_diffusion_cpp)),
        "text": Format("any program", "n + 1", "in the list", _EITHER, _by_flow(plain)),
        "levels": Format("any program, as JSON", "n + 1", "in the list, and said", "both", _by_flow(levels_json)),
    }
)
"""Every format by name, for command lines and documentation."""
