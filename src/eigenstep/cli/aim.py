"""What a grid is planned for, and the optimum and the hand-made grids under it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eigenstep._checks import choice
from eigenstep.gaussian import OBJECTIVES, STARTS, divergence
from eigenstep.paths import PATHS, NoisePath
from eigenstep.solvers import SOLVERS
from eigenstep.spectrum import Spectrum

if TYPE_CHECKING:
    from eigenstep.estimation import ChosenSpectrum
    from eigenstep.optimal import GridResult

EDM_RANGE = (0.002, 80.0)
"""The noise levels planned for where no path is named: EDM's, for data within [-1, 1]."""


@dataclass(frozen=True)
class Aim:
    """What a grid is planned for: the options that `plan` and `compare` share, checked."""

    solver: str
    objective: str
    noise_floor: float
    path_name: str | None
    sigma_min: float
    sigma_max: float
    final: float | None
    start: str
    eigenvalues: str

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
    ) -> Aim:
        """Check the names and fill in the range, before anything long begins."""
        choice(final_name, ("zero", "sigma-min"), "final")
        path = None if path_name is None else PATHS[choice(path_name, PATHS, "path")]()
        low, high = EDM_RANGE if path is None else (path.sigma_min, path.sigma_max)
        return cls(
            solver=choice(solver, SOLVERS, "solver"),
            objective=choice(objective, OBJECTIVES, "objective"),
            noise_floor=noise_floor,
            path_name=path_name,
            sigma_min=low if sigma_min is None else sigma_min,
            sigma_max=high if sigma_max is None else sigma_max,
            final=0.0 if final_name == "zero" else None,
            start=choice(start, STARTS, "start"),
            eigenvalues=choice(eigenvalues, ("auto", "sample", "population"), "eigenvalues"),
        )

    @property
    def path(self) -> NoisePath | None:
        """The path itself, where one was named."""
        return None if self.path_name is None else PATHS[self.path_name]()

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

    def optimum(self, spectrum: Spectrum, n: int) -> GridResult:
        """The optimal grid of `n` steps."""
        from eigenstep.optimal import optimal_grid

        return optimal_grid(spectrum, n, self.sigma_min, self.sigma_max, final=self.final, **self.measure)

    def baselines(self, spectrum: Spectrum, n: int) -> dict[str, float]:
        """The same error for every catalogue grid of `n` steps that fits the range, ascending."""
        from eigenstep.grids import catalogue_grids

        grids = catalogue_grids(
            n, self.sigma_min, self.sigma_max, final=self.final, spectrum=spectrum, path=self.path
        )
        values = {name: divergence(spectrum, sigmas, **self.measure) for name, sigmas in grids.items()}
        return dict(sorted(values.items(), key=lambda item: item[1]))
