"""A cell: one grid, one solver, one number of network calls, one seed. And the bench that runs cells in some process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eigenstep._checks import Float
from eigenstep.evaluation.competitors import Entry
from eigenstep.evaluation.features import Features
from eigenstep.evaluation.metrics import (
    bootstrap_interval,
    frechet_distance,
    kernel_distance,
    rmse,
    sliced_w2,
    squared_errors,
)
from eigenstep.evaluation.store import Shelf, file_name
from eigenstep.evaluation.subject import Model
from eigenstep.grids import exponential_law, grid
from eigenstep.models import generate
from eigenstep.solvers import solver_named

SHEET = 8
"""Samples of each cell kept for the sheets."""

REFERENCE_SOLVER = "dpmpp_2m"
REFERENCE_STEPS = 64
"""The first, coarse run towards the converged endpoint; doubled until two runs agree."""


@dataclass(frozen=True)
class Cell:
    """Which cell: `calls` is the number of network calls that each sample takes."""

    grid: str
    solver: str
    calls: int
    seed: int

    @property
    def key(self) -> str:
        """Its name in the store.

        >>> Cell("karras", "ddim", 4, 0).key
        'karras, ddim, 4 calls, seed 0'
        """
        return f"{self.grid}, {self.solver}, {self.calls} calls, seed {self.seed}"


@dataclass(frozen=True, eq=False)
class Recipe:
    """All that a process needs to run the cells of an evaluation.

    Attributes
    ----------
    folder : str
        Of the store: every process must find it under this name.
    run : str
        Differs between any two runs: what a worker has loaded for one does not serve another.
    model : Model
    features : tuple of Features
    item_shape : tuple of int
    n_items, batch_size : int
        Samples of each cell, and how many go through the network at a time.
    sigma_min, sigma_max : float
    dtype : str or None
        As torch names it; None for float32.
    tolerance : float
        RMSE between a run and one of half its steps at which the endpoint counts as converged, data units.
    most_steps : int
        Where doubling ends.
    """

    folder: str
    run: str
    model: Model
    features: tuple[Features, ...]
    item_shape: tuple[int, ...]
    n_items: int
    batch_size: int
    sigma_min: float
    sigma_max: float
    dtype: str | None
    tolerance: float
    most_steps: int


@dataclass(frozen=True)
class Side:
    """One side of a comparison: items as rows, and their features by name.

    >>> from eigenstep.evaluation.features import PixelFeatures
    >>> pixels = PixelFeatures(np.zeros(2), np.array([[1.0], [0.0]]))
    >>> side = Side.of(np.array([[[1.0, 2.0]], [[3.0, 4.0]]]), (pixels,), None)
    >>> side.rows.shape, side.features["pixels"].ravel().tolist(), Side.from_arrays(side.arrays()).rows[1].tolist()
    ((2, 2), [1.0, 3.0], [3.0, 4.0])
    """

    rows: Float
    features: Mapping[str, Float]

    @classmethod
    def of(cls, items: NDArray[Any], features: tuple[Features, ...], device: Any) -> Side:
        """The features of items (n, *item_shape)."""
        found = {each.name: each(items, device=device) for each in features}
        return cls(np.asarray(items, dtype=np.float64).reshape(len(items), -1), found)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """For `Shelf.keep`."""
        return {"rows": self.rows.astype(np.float32), **{f"features.{name}": value for name, value in self.features.items()}}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Side:
        """What `arrays` gave."""
        features = {key.removeprefix("features."): value for key, value in arrays.items() if key.startswith("features.")}
        return cls(arrays["rows"].astype(np.float64), features)


class Bench:
    """The model on one device, with what its samples are compared to."""

    def __init__(self, recipe: Recipe, device: Any) -> None:
        """Load the model."""
        self.recipe = recipe
        self.device = device
        self.shelf = Shelf(recipe.folder)
        self.denoiser = recipe.model.load(device)
        self._sides: dict[str, Side] = {}

    def reference(self, seed: int) -> dict[str, Any]:
        """Find and keep the converged endpoint of a seed; returns its record.

        DPM-Solver++(2M) on levels uniform in ln sigma, with 64 steps, 128, ... until the RMSE between two runs is below the
        recipe's tolerance (a second-order method's own error is then about a third of it).
        """
        began = time.monotonic()
        recipe = self.recipe
        steps, apart = REFERENCE_STEPS, math.inf
        coarse = self._samples(self._fine(steps), REFERENCE_SOLVER, seed)
        while True:
            steps *= 2
            fine = self._samples(self._fine(steps), REFERENCE_SOLVER, seed)
            apart = rmse(fine, coarse)
            coarse = fine
            if apart <= recipe.tolerance or 2 * steps > recipe.most_steps:
                break
        side = Side.of(fine, recipe.features, self.device)
        self.shelf.keep(_reference_name(seed), side.arrays())
        return {
            "error": None,
            "steps": steps,
            "halving_rmse": apart,
            "converged": apart <= recipe.tolerance,
            "metrics": distances(side, self._side("data"), suffix="/data"),
            "seconds": time.monotonic() - began,
        }

    def run(self, cell: Cell, entry: Entry) -> dict[str, Any]:
        """Sample a cell and compare it; returns its record."""
        began = time.monotonic()
        solver = solver_named(cell.solver)
        samples = self._samples(entry, cell.solver, cell.seed)
        side, endpoint = Side.of(samples, self.recipe.features, self.device), self._side(_reference_name(cell.seed))
        metrics = distances(side, endpoint) | distances(side, self._side("data"), suffix="/data")
        interval = None
        if not solver.stochastic:
            found = bootstrap_interval(squared_errors(samples, endpoint.rows.reshape(samples.shape)), _root_mean)
            metrics["rmse"], interval = found.mean, [found.low, found.high]
        self.shelf.keep(f"samples/{file_name(cell.key)}", {"items": samples[:SHEET].astype(np.float16)})
        return {
            "error": None,
            **record_of(entry),
            "metrics": metrics,
            "rmse_interval": interval,
            "seconds": time.monotonic() - began,
        }

    def _samples(self, entry: Entry, solver: str, seed: int) -> NDArray[Any]:
        """Of one seed the same noise for every grid: samples of all of them are pairs."""
        recipe = self.recipe
        dtype = None
        if recipe.dtype is not None:
            import torch

            dtype = getattr(torch, recipe.dtype)
        found = generate(
            self.denoiser,
            entry,
            recipe.n_items,
            item_shape=recipe.item_shape,
            solver=solver,
            seed=seed,
            batch_size=recipe.batch_size,
            device=self.device,
            dtype=dtype,
        )
        return np.asarray(found.numpy())

    def _fine(self, steps: int) -> Entry:
        return Entry("converged", grid(exponential_law(self.recipe.sigma_min, self.recipe.sigma_max), steps, final=0.0))

    def _side(self, name: str) -> Side:
        if name not in self._sides:
            arrays = self.shelf.arrays(name)
            if arrays is None:
                raise ValueError(f"There is no {name}.npz in {str(self.shelf.folder)!r}: the converged endpoint is missing.")
            self._sides[name] = Side.from_arrays(arrays)
        return self._sides[name]


def record_of(entry: Entry) -> dict[str, Any]:
    """What says whether a finished cell is still the cell that is wanted: its levels and whether it starts warm.

    `warm_from` is the level of the noise that a warm start begins at: None for infinity, and without one.

    >>> record_of(Entry("two", np.array([2.0, 1.0, 0.0])))
    {'sigmas': [2.0, 1.0, 0.0], 'warm': False, 'warm_from': None}
    """
    origin = float(getattr(entry.warm, "sigma_max", math.inf))
    return {
        "sigmas": [float(s) for s in entry.sigmas],
        "warm": entry.warm is not None,
        "warm_from": origin if math.isfinite(origin) else None,
    }


def distances(side: Side, other: Side, *, suffix: str = "") -> dict[str, float]:
    """Every distance between two sides, by name; the kernel's with its standard error as "... error".

    >>> x = np.random.default_rng(0).standard_normal((30, 2))
    >>> side = Side(x, {"pixels": x})
    >>> sorted(distances(side, side))
    ['frechet/pixels', 'kernel/pixels', 'kernel/pixels error', 'sliced_w2']
    """
    found = {f"sliced_w2{suffix}": sliced_w2(side.rows, other.rows)}
    for name, ours in side.features.items():
        theirs = other.features[name]
        found[f"frechet/{name}{suffix}"] = frechet_distance(ours, theirs)
        few = min(len(ours), len(theirs))
        if few >= 3:
            kernel = kernel_distance(ours[:few], theirs[:few])
            found[f"kernel/{name}{suffix}"] = kernel.value
            found[f"kernel/{name}{suffix} error"] = kernel.standard_error
    return found


def _root_mean(rows: Float) -> Any:
    return np.sqrt(rows.mean(axis=-1))


def _reference_name(seed: int) -> str:
    return f"references/seed-{seed}"


# ---------------------------------------------------------------------- what runs in workers


def reference_key(seed: int) -> str:
    """The name of a seed's reference among the cells.

    >>> reference_key(0)
    'converged endpoint, seed 0'
    """
    return f"converged endpoint, seed {seed}"


def work(bench: Bench, cell: Cell, entry: Entry | None) -> dict[str, Any]:
    """The record of a cell, or with no entry of the reference of its seed; one that fails says why in `error`."""
    try:
        return bench.reference(cell.seed) if entry is None else bench.run(cell, entry)
    except (ValueError, MemoryError, RuntimeError) as error:
        failed: dict[str, Any] = {"error": " ".join(str(error).split()) or type(error).__name__}
        return failed | ({} if entry is None else record_of(entry))


_LOADED: dict[str, Bench] = {}
"""The bench of the run that this worker process works for."""


def work_in_worker(
    recipe: Recipe, cell: Cell, entry: Entry | None, warm: Callable[[Any], Any] | None, device: Any
) -> dict[str, Any]:
    """As `work`, in a worker process, which loads the model once; `warm` comes apart, since many entries share it."""
    if recipe.run not in _LOADED:
        _LOADED.clear()
        _LOADED[recipe.run] = Bench(recipe, device)
    return work(_LOADED[recipe.run], cell, entry if entry is None else replace(entry, warm=warm))
