"""What a grid is planned for, and the optimum and the hand-made grids under it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eigenstep._checks import Float, choice, real_array
from eigenstep.gaussian import OBJECTIVES, STARTS, divergence, objective_for
from eigenstep.paths import PATHS, NoisePath, VPDiscrete
from eigenstep.solvers import SOLVERS
from eigenstep.spectrum import Spectrum

if TYPE_CHECKING:
    from eigenstep.estimation import ChosenSpectrum

EDM_RANGE = (0.002, 80.0)
"""The noise levels planned for where no path is named: EDM's, for data within [-1, 1]."""


@dataclass(frozen=True)
class Planned:
    """The optimal grid of some number of steps: what `optimal_grid` and `optimal_timesteps` both say."""

    sigmas: Float
    timesteps: list[int] | list[float] | None
    value: float
    converged: bool
    message: str


@dataclass(frozen=True)
class Aim:
    """What a grid is planned for: the options that `plan` and `compare` share, checked."""

    solver: str
    objective: str
    noise_floor: float
    path_name: str | None
    path: NoisePath | None
    sigma_min: float
    sigma_max: float
    final: float | None
    start: str
    eigenvalues: str
    timesteps: str

    @classmethod
    def from_options(
        cls,
        *,
        solver: str,
        objective: str,
        noise_floor: float,
        path_name: str | None,
        sigma_min: float | None,
        sigma_max: float | None,
        final_name: str,
        start: str,
        eigenvalues: str,
        timesteps: str,
    ) -> Aim:
        """Check the names and fill in the range, before anything long begins."""
        choice(final_name, ("zero", "sigma-min"), "final")
        path = None if path_name is None else named_path(path_name)
        if choice(timesteps, ("fractional", "integer"), "timesteps") == "integer":
            _check_integer(path, path_name, sigma_min, sigma_max, final_name)
        choice(solver, SOLVERS, "solver")
        choice(start, STARTS, "start")
        if choice(objective, ("auto", *OBJECTIVES), "objective") == "auto":
            objective = objective_for(solver, start=start)
        low, high = EDM_RANGE if path is None else (path.sigma_min, path.sigma_max)
        return cls(
            solver=solver,
            objective=objective,
            noise_floor=noise_floor,
            path_name=path_name,
            path=path,
            sigma_min=low if sigma_min is None else sigma_min,
            sigma_max=high if sigma_max is None else sigma_max,
            final=0.0 if final_name == "zero" else None,
            start=start,
            eigenvalues=choice(eigenvalues, ("auto", "sample", "population"), "eigenvalues"),
            timesteps=timesteps,
        )

    @property
    def measure(self) -> dict[str, Any]:
        """The arguments that say how a grid is judged."""
        return {
            "solver": self.solver,
            "objective": self.objective,
            "noise_floor": self.noise_floor,
            "start": self.start,
        }

    def chosen(self, spectrum: Spectrum) -> ChosenSpectrum:
        """What to plan on: the measured eigenvalues, or the population's."""
        from eigenstep.estimation import choose_spectrum

        return choose_spectrum(
            spectrum, self.sigma_min, self.sigma_max, eigenvalues=self.eigenvalues, final=self.final, **self.measure
        )

    def optimum(self, spectrum: Spectrum, n: int) -> Planned:
        """The optimal grid of `n` steps, on the path's integer timesteps where those are asked for."""
        from eigenstep.optimal import optimal_grid, optimal_timesteps

        if self.timesteps == "integer":
            assert self.path is not None
            # The first timestep is the last one whose level does not exceed `sigma_max`.
            first = int(self.path.sigma_to_t(self.sigma_max) + 1e-9)
            found = optimal_timesteps(spectrum, n, self.path, first=first, **self.measure)
            cost = found.value / found.continuous_value - 1 if found.continuous_value > 0 else 0.0
            message = f"integer timesteps cost {100 * cost:.2g} % more than fractional ones"
            return Planned(found.sigmas, found.timesteps.tolist(), found.value, found.converged, message)
        result = optimal_grid(spectrum, n, self.sigma_min, self.sigma_max, final=self.final, **self.measure)
        times = None if self.path is None else np.asarray(self.path.sigma_to_t(result.sigmas[:-1])).tolist()
        return Planned(result.sigmas, times, result.value, result.converged, result.message)

    def baselines(self, spectrum: Spectrum, n: int) -> dict[str, float]:
        """The same error for every catalogue grid of `n` steps that fits the range, ascending.

        For integer timesteps each grid is rounded to them first; one that then calls a timestep twice is left out.
        """
        from eigenstep.grids import catalogue_grids

        grids = catalogue_grids(
            n, self.sigma_min, self.sigma_max, final=self.final, spectrum=spectrum, path=self.path
        )
        if self.timesteps == "integer":
            grids = {name: rounded for name, grid in grids.items() if (rounded := self._rounded(grid)) is not None}
        values = {name: divergence(spectrum, sigmas, **self.measure) for name, sigmas in grids.items()}
        return dict(sorted(values.items(), key=lambda item: item[1]))

    def _rounded(self, sigmas: Float) -> Float | None:
        """The grid at the nearest integer timesteps; None where two of them are one."""
        assert self.path is not None
        inside = np.clip(sigmas[:-1], self.path.sigma_min, self.path.sigma_max)
        steps = np.rint(self.path.sigma_to_t(inside))
        if np.any(np.diff(steps) >= 0):
            return None
        return np.append(self.path.t_to_sigma(steps), sigmas[-1])


def named_path(text: str) -> NoisePath:
    """The path of that name, or of the model whose `alphas_cumprod` or `betas` a .json file holds."""
    if not text.lower().endswith(".json"):
        return PATHS[choice(text, PATHS, "path")]()
    try:
        content = json.loads(Path(text).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"`path` {text!r} is no JSON file ({error}).") from None
    from eigenstep.models.schedulers import finite_table

    alphas = content.get("alphas_cumprod") if isinstance(content, Mapping) else content
    if isinstance(alphas, list):
        return VPDiscrete.from_alphas_cumprod(finite_table(real_array(alphas, "alphas_cumprod", ndim=1)))
    if isinstance(content, Mapping) and isinstance(content.get("betas"), list):
        betas = real_array(content["betas"], "betas", ndim=1)
        return VPDiscrete.from_betas(betas, terminal=float(finite_table(np.cumprod(1.0 - betas))[-1]))
    raise ValueError(
        f"`path` {text!r} must hold the model's table: a list, its `alphas_cumprod`, or an object with `alphas_cumprod` or "
        "`betas`."
    )


def _check_integer(
    path: NoisePath | None, name: str | None, sigma_min: float | None, sigma_max: float | None, final_name: str
) -> None:
    """Refuse what integer timesteps cannot mean."""
    if not isinstance(path, VPDiscrete):
        discrete = [known for known, make in PATHS.items() if make().n_timesteps is not None]
        got = "none" if name is None else repr(name)
        raise ValueError(
            f"`timesteps` integer needs a `path` that has them ({', '.join(discrete)}, or a .json file with the model's "
            f"alphas_cumprod), got {got}."
        )
    if sigma_min is not None or final_name != "zero":
        raise ValueError(
            "`timesteps` integer plans down to timestep 0 and ends at 0: leave out --sigma-min, and --final sigma-min."
        )
    if sigma_max is not None and not path.sigma_min <= sigma_max <= path.sigma_max:
        raise ValueError(
            f"`sigma_max` must lie on the path, {path.sigma_min:.6g} to {path.sigma_max:.6g}, got {sigma_max:g}."
        )
