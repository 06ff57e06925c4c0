"""What the page is set to: read from the query string of its address, checked, with the defaults filled in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from eigenstep._checks import choice, descending_sigmas, integer, real_number, sigma_range
from eigenstep.gaussian import OBJECTIVES, STARTS, check_start
from eigenstep.grids import LAWS
from eigenstep.paths import PATHS, NoisePath
from eigenstep.solvers import SOLVERS

EDM_RANGE = (0.002, 80.0)
"""The noise levels planned for where no path is named: EDM's, for data within [-1, 1]."""
MOST_STEPS = 40
MOST_COMPARED = 6
WELL_KNOWN = ("karras", "exponential", "ays_sd15")
"""The hand-made grids that are ticked at first, because readers look for them."""
FINALS = ("zero", "sigma-min")
EIGENVALUES = ("auto", "sample", "population")


@dataclass(frozen=True)
class State:
    """Everything that the figures depend on.

    Attributes
    ----------
    spectrum : str
        Its key on the `Shelf`.
    eigenvalues : {"auto", "sample", "population"}
        As in `choose_spectrum`.
    solver, objective, noise_floor, start
        As in `divergence`.
    steps : int
        n, 1 to 40.
    path : str
        A name in `PATHS`, or empty for none.
    sigma_min, sigma_max : float
        The range: that of the path, or EDM's, where none is given.
    start_level : float
        Where our grid begins, at most `sigma_max`; below it the Gaussian's own solution leads there (`warm_start`).
    final : {"zero", "sigma-min"}
    compare : tuple of str
        Rows of `LAWS` that are drawn.
    sigmas : tuple of float, optional
        Levels that were moved by hand, n+1 of them; None for the optimum.
    model_path : NoisePath, optional
        That of the network beside the page, which holds where no other is named.

    Examples
    --------
    >>> state = State("digits", final="sigma-min")
    >>> state.ends, state.measure["objective"]
    (None, 'w2')
    """

    spectrum: str
    eigenvalues: str = "auto"
    solver: str = "ddim"
    objective: str = "w2"
    steps: int = 6
    path: str = ""
    sigma_min: float = EDM_RANGE[0]
    sigma_max: float = EDM_RANGE[1]
    start_level: float = EDM_RANGE[1]
    start: str = "marginal"
    noise_floor: float = 0.0
    final: str = "zero"
    compare: tuple[str, ...] = WELL_KNOWN
    sigmas: tuple[float, ...] | None = None
    model_path: NoisePath | None = None

    @classmethod
    def from_query(
        cls,
        query: Mapping[str, str],
        *,
        spectrum: str,
        ends: tuple[float, float] = EDM_RANGE,
        model_path: NoisePath | None = None,
    ) -> State:
        """The state that a query string names; `spectrum` and the levels `ends` where it names none.

        An empty field counts as not given.

        Raises
        ------
        ValueError
            A field is not a number or not a known name, or the range or the moved levels are out of order.

        Examples
        --------
        >>> State.from_query({"steps": "4", "path": "sd15", "sigma_max": ""}, spectrum="digits").sigma_max
        14.614641229333639
        """
        given = {key: value.strip() for key, value in query.items() if value.strip()}
        path = given.get("path", "")
        low, high = ends
        if path:
            known = PATHS[choice(path, PATHS, "path")]()
            low, high = known.sigma_min, known.sigma_max
        low, high = sigma_range(_number(given, "sigma_min", low), _number(given, "sigma_max", high), zero_min=True)
        level = real_number(_number(given, "start_level", high), "start_level", maximum=high)
        if level <= low:
            raise ValueError(f"`start_level` must exceed `sigma_min`, got {level:.6g} and {low:.6g}.")
        state = cls(
            spectrum=given.get("spectrum", spectrum),
            eigenvalues=choice(given.get("eigenvalues", "auto"), EIGENVALUES, "eigenvalues"),
            solver=choice(given.get("solver", "ddim"), SOLVERS, "solver"),
            objective=choice(given.get("objective", "w2"), OBJECTIVES, "objective"),
            steps=integer(_whole(given.get("steps", "6")), "steps", maximum=MOST_STEPS),
            path=path,
            sigma_min=low,
            sigma_max=high,
            start_level=level,
            start=choice(given.get("start", "marginal"), STARTS, "start"),
            noise_floor=real_number(_number(given, "noise_floor", 0.0), "noise_floor", minimum=0.0),
            final=choice(given.get("final", "zero"), FINALS, "final"),
            compare=_compared(given.get("compare", ",".join(WELL_KNOWN))),
            model_path=model_path,
        )
        check_start(state.objective, state.start)
        if state.final == "sigma-min" and low == 0:
            raise ValueError("`final` sigma-min needs a `sigma_min` above 0 to end at; choose zero, or raise `sigma_min`.")
        if "sigmas" not in given:
            return state
        moved = descending_sigmas([_float(word, "sigmas") for word in given["sigmas"].split(",")])
        if moved.size != state.steps + 1:
            raise ValueError(f"`sigmas` must hold {state.steps + 1} levels for {state.steps} steps, got {moved.size}.")
        ends = (level, low if state.ends is None else 0.0)
        if not np.allclose([moved[0], moved[-1]], ends, rtol=1e-9, atol=0):
            raise ValueError(f"`sigmas` must run from {ends[0]:.6g} to {ends[1]:.6g}, got {moved[0]:.6g} and {moved[-1]:.6g}.")
        if state.steps > 1 and moved[-2] < low * (1 - 1e-9):
            raise ValueError(f"`sigmas` must not call the model below `sigma_min` {low:.6g}, got {moved[-2]:.6g}.")
        return replace(state, sigmas=tuple(moved.tolist()))

    @property
    def ends(self) -> float | None:
        """What `optimal_grid` and the catalogue call `final`."""
        return 0.0 if self.final == "zero" else None

    @property
    def noise_path(self) -> NoisePath | None:
        """The path of that name, else the network's."""
        return PATHS[self.path]() if self.path else self.model_path

    @property
    def measure(self) -> dict[str, Any]:
        """The arguments that say how a grid is judged."""
        return {
            "solver": self.solver,
            "objective": self.objective,
            "noise_floor": self.noise_floor,
            "start": self.start,
        }

    @property
    def aim(self) -> tuple[Any, ...]:
        """What the optimum depends on besides the number of steps."""
        levels = (self.path, self.sigma_min, self.sigma_max, self.start_level, self.final)
        return (self.spectrum, self.eigenvalues, *levels, *self.measure.values())


def _compared(text: str) -> tuple[str, ...]:
    """The rows of the catalogue that `text` names; `none` for none of them."""
    if text == "none":
        return ()
    names = tuple(dict.fromkeys(choice(word.strip(), LAWS, "compare") for word in text.split(",")))
    if len(names) > MOST_COMPARED:
        raise ValueError(f"`compare` must name at most {MOST_COMPARED} grids, as many as colours tell apart, got {len(names)}.")
    return names


def _number(given: Mapping[str, str], name: str, default: float) -> float:
    return _float(given[name], name) if name in given else default


def _float(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"`{name}` must be a number such as 0.5, got {text!r}.") from None


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f"`steps` must be a whole number from 1 to {MOST_STEPS}, got {text!r}.") from None
