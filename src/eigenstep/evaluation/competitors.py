"""What competes in a cell: the planned grid, the catalogue, and each with or without the warm start."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from eigenstep._checks import Float, choice
from eigenstep.evaluation.store import Shelf
from eigenstep.grids import LAWS, catalogue_grids
from eigenstep.models import Denoiser, ErrorCurve
from eigenstep.models.plan import plan
from eigenstep.models.profile import ModelProfile
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

    >>> Entry("karras", np.array([2.0, 1.0, 0.0])).ours, Entry(OURS, np.array([2.0, 0.8, 0.0])).ours
    (False, True)
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
class ModelPlanner:
    """Our entries: `models.plan`, and the best planned grid of the same field that needs no warm start.

    What it has measured and planned is kept on a shelf: a run that is gone on with plans nothing twice.

    Parameters
    ----------
    profile : ModelProfile
        Judged by other noise than the cells are.
    shelf : Shelf

    Examples
    --------
    >>> import tempfile
    >>> from eigenstep import EDM, solver_named
    >>> from eigenstep.models import ModelDenoiser
    >>> from eigenstep.models.profile import profile as measured
    >>> wiener = ModelDenoiser(lambda x, sigma: x / (1 + sigma**2), EDM(), "x0", item_shape=(2,))
    >>> known = measured(wiener, Spectrum.from_eigenvalues([1.0, 1.0]), judges=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     (Shelf(folder).folder / "plans").mkdir()
    ...     planned, = ModelPlanner(known, Shelf(folder))(2, solver_named("ddim"))
    >>> planned.name, planned.sigmas.round(3).tolist()                     # equal angles atan(sigma)
    ('eigenstep', [80.0, 0.988, 0.0])
    """

    profile: ModelProfile
    shelf: Shelf

    def __call__(self, n: int, solver: Solver) -> tuple[Entry, ...]:
        """Plan n steps of a solver."""
        name = f"plans/{solver.name}-{n}"
        kept = self.shelf.arrays(name)
        if kept is None:
            made = plan(self.profile, None, n, solver=solver)
            # None where pure noise is a wrong start at any level: every candidate then starts warm.
            cold = next((each.sigmas for each in made.candidates if each.planned and not each.warm), np.empty(0))
            kept = {"sigmas": made.sigmas, "cold": cold, "reason": np.array(made.reason)}
            kept["warm"] = np.array(made.warm is not None)
            self.shelf.keep(name, kept)
        sigmas, cold = kept["sigmas"], kept["cold"]
        warm = self.profile.warm(float(sigmas[0])) if kept["warm"] else None
        ours = Entry(OURS, sigmas, warm, str(kept["reason"]))
        return (ours, Entry(WITHOUT_WARM, cold)) if warm is not None and cold.size else (ours,)


def kept_profile(shelf: Shelf, subject: Denoiser, spectrum: Spectrum) -> ModelProfile | None:
    """The profile that `keep_profile` wrote, or None."""
    found = shelf.arrays("profile")
    if found is None:
        return None
    facts = json.loads(str(found["facts"]))
    curve = {name: found[f"curve.{name}"] for name in ("sigmas", "error", "standard_error", "bound")}
    numbers: dict[str, Any] = {name: float(facts[name]) for name in _LEVELS}
    return ModelProfile(
        denoiser=subject,
        spectrum=spectrum,
        curve=ErrorCurve(**curve, n_items=facts["n_items"], dim=facts["dim"]),
        target=facts["target"],
        noise=found["noise"],
        endpoint=found["endpoint"],
        calls=facts["calls"],
        seed=facts["seed"],
        **numbers,
    )


def keep_profile(shelf: Shelf, profile: ModelProfile) -> None:
    """Keep what a model was measured to be."""
    curve = profile.curve
    assert curve is not None
    facts: dict[str, Any] = {name: str(getattr(profile, name)) for name in _LEVELS}
    facts |= {name: getattr(profile, name) for name in ("target", "calls", "seed")}
    facts |= {"n_items": curve.n_items, "dim": curve.dim}
    arrays = {f"curve.{name}": getattr(curve, name) for name in ("sigmas", "error", "standard_error", "bound")}
    arrays |= {"noise": profile.noise, "endpoint": profile.endpoint, "facts": np.array(json.dumps(facts))}
    shelf.keep("profile", arrays)


_LEVELS = ("sigma_min", "sigma_max", "start_level", "origin", "endpoint_error")
"""Numbers of a profile, of which `origin` may be infinite."""
