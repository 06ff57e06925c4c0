"""What competes in a cell: the planned grid, the catalogue, and each with or without the warm start."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from eigenstep._checks import Float, choice
from eigenstep.grids import LAWS, catalogue_grids
from eigenstep.models import ErrorCurve
from eigenstep.models.warm import WarmStart
from eigenstep.optimal import optimal_grid
from eigenstep.paths import NoisePath
from eigenstep.solvers import Solver
from eigenstep.spectrum import Spectrum

OURS = "eigenstep"
WITHOUT_WARM = "eigenstep, no warm start"
WARM_SUFFIX = " + warm start"


@dataclass(frozen=True)
class Entry:
    """A grid that competes: n + 1 descending sigmas, and the warm start to their first level where there is one.

    `sigmas` and `warm` are what `models.generate` asks of a plan; `note` says what else there is to know.
    """

    name: str
    sigmas: Float
    warm: Callable[[Any], Any] | None = None
    note: str = ""

    @property
    def ours(self) -> bool:
        """Whether it was planned."""
        return self.name in (OURS, WITHOUT_WARM)


class Planner(Protocol):
    """From a number of steps and a solver to our entries, the first of them named `OURS`."""

    def __call__(self, n: int, solver: Solver) -> Sequence[Entry]:
        """Plan."""
        ...


def steps_for(calls: int, solver: Solver) -> int:
    """The most steps that a number of network calls pays for, on a grid that ends at 0; 0 where not even one.

    >>> from eigenstep import solver_named
    >>> [steps_for(calls, solver_named("heun")) for calls in (1, 2, 3, 4, 5)]
    [1, 1, 2, 2, 3]
    >>> steps_for(4, solver_named("ddim"))
    4
    """
    # n steps cost evaluations * n - (evaluations - 1): the last one is first order.
    return (calls + solver.evaluations - 1) // solver.evaluations


def hand_entries(
    n: int,
    sigma_min: float,
    sigma_max: float,
    *,
    names: Sequence[str] | None = None,
    path: NoisePath | None = None,
    spectrum: Spectrum | None = None,
    warm: Callable[[Any], Any] | None = None,
    warm_level: float | None = None,
) -> tuple[Entry, ...]:
    """The grids of the catalogue of n steps over this range; with `warm`, also those from its level down.

    Parameters
    ----------
    n, sigma_min, sigma_max, path, spectrum
        As for `catalogue_grids`.
    names : sequence of str, optional
        Which of them; all that fit by default. One that does not fit is left out.
    warm : callable, optional
        Of the plan, from noise to the state at `warm_level`: every grid then competes once more from there.

    Raises
    ------
    ValueError
        For a name that the catalogue does not know.

    Examples
    --------
    >>> [(entry.name, entry.sigmas.size) for entry in hand_entries(3, 0.002, 80.0, names=["karras", "exponential"])]
    [('karras', 4), ('exponential', 4)]
    """
    for name in names or ():
        choice(name, LAWS, "grids")

    def cut(top: float) -> Mapping[str, Float]:
        found = catalogue_grids(n, sigma_min, top, final=0.0, path=path, spectrum=spectrum)
        return found if names is None else {name: found[name] for name in names if name in found}

    entries = [Entry(name, sigmas) for name, sigmas in cut(sigma_max).items()]
    if warm is not None and warm_level is not None:
        entries += [Entry(f"{name}{WARM_SUFFIX}", sigmas, warm) for name, sigmas in cut(warm_level).items()]
    return tuple(entries)


@dataclass(frozen=True, eq=False)
class GaugePlanner:
    """Our entries: the plan from the data's spectrum and the model's error curve, and the same without its warm start.

    Parameters
    ----------
    spectrum : Spectrum
        With mean and basis, for a warm start.
    curve : ErrorCurve
        Of the model on the same data.
    sigma_min, sigma_max : float
    """

    spectrum: Spectrum
    curve: ErrorCurve
    sigma_min: float
    sigma_max: float

    def __call__(self, n: int, solver: Solver) -> tuple[Entry, ...]:
        """Plan n steps of a solver."""
        objective = "w2" if solver.order == 1 else "local"
        options: dict[str, Any] = {"solver": solver, "objective": objective, "denoiser_error": self.curve}
        cold = optimal_grid(self.spectrum, n, self.sigma_min, self.sigma_max, **options)
        level = min(self.curve.start_level(), self.sigma_max)
        if self.spectrum.basis is None or not self.sigma_min < level < self.sigma_max:
            return (Entry(OURS, cold.sigmas),)
        warm = optimal_grid(self.spectrum, n, self.sigma_min, level, **options)
        start = WarmStart(self.spectrum, level, self.sigma_max)
        return Entry(OURS, warm.sigmas, start), Entry(WITHOUT_WARM, cold.sigmas)
