"""Integer timesteps as text for diffusers, and what its schedulers are told of a path that is known by its table alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from eigenstep._checks import real_array
from eigenstep.paths import NoisePath


def diffusers_timesteps(timesteps: ArrayLike, *, config: Mapping[str, object]) -> str:
    """A Python snippet that gives integer timesteps to diffusers' EulerDiscreteScheduler, whose steps are DDIM's.

    The scheduler takes their levels from its own table and adds the final 0.

    Parameters
    ----------
    timesteps : array_like, (n,)
        Descending integers.
    config : mapping
        As in `diffusers_euler`.

    Raises
    ------
    ValueError
        `timesteps` are no descending integers from 0 up.

    Examples
    --------
    >>> print(diffusers_timesteps([999, 431, 120], config={"beta_schedule": "linear"}))
    from diffusers import EulerDiscreteScheduler
    <BLANKLINE>
    timesteps = [999, 431, 120]  # 3 steps; the scheduler adds the final 0.
    # In a pipeline: EulerDiscreteScheduler.from_config(pipe.scheduler.config), and pipe(..., timesteps=timesteps).
    scheduler = EulerDiscreteScheduler(beta_schedule='linear')
    scheduler.set_timesteps(timesteps=timesteps)
    """
    steps = real_array(timesteps, "timesteps", ndim=1)
    if not steps.size or np.any(steps != np.rint(steps)) or steps[-1] < 0 or np.any(np.diff(steps) >= 0):
        raise ValueError(f"`timesteps` must be descending integers from 0 up, got {steps.tolist()}.")
    arguments = ", ".join(f"{key}={value!r}" for key, value in config.items())
    count = f"{steps.size} step{'s' * (steps.size != 1)}"
    return "\n".join(
        [
            "from diffusers import EulerDiscreteScheduler",
            "",
            f"timesteps = {steps.astype(np.int64).tolist()}  # {count}; the scheduler adds the final 0.",
            "# In a pipeline: EulerDiscreteScheduler.from_config(pipe.scheduler.config), and pipe(..., timesteps=timesteps).",
            f"scheduler = EulerDiscreteScheduler({arguments})",
            "scheduler.set_timesteps(timesteps=timesteps)",
        ]
    )


def table_config(path: NoisePath) -> Mapping[str, object]:
    """Arguments of diffusers' schedulers for a path that is known by its table alone: its betas.

        beta_t = 1 - abar_t / abar_(t-1),    abar = 1/(1 + sigma^2)

    Raises
    ------
    ValueError
        The path has no integer timesteps.

    Examples
    --------
    >>> from eigenstep.paths import VPDiscrete
    >>> table_config(VPDiscrete.from_betas([0.25, 0.5]))
    {'num_train_timesteps': 2, 'trained_betas': [0.25, 0.5]}
    """
    if path.n_timesteps is None:
        raise ValueError(f"`path` must have integer timesteps, got {path!r}.")
    abar = 1 / (1 + path.t_to_sigma(np.arange(path.n_timesteps)) ** 2)
    betas = 1 - abar / np.append(1.0, abar[:-1])
    # diffusers keeps them in float32, which nine digits name exactly.
    return {"num_train_timesteps": path.n_timesteps, "trained_betas": [float(f"{beta:.9g}") for beta in betas]}
