"""`evaluate`: planned grids and the catalogue on a model, cell by cell, and what they say together."""

from __future__ import annotations

import hashlib
import json
import math
import os
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eigenstep._checks import Float, choice, integer, real_array, real_number
from eigenstep._version import __version__
from eigenstep.estimation import choose_spectrum
from eigenstep.evaluation.cells import Cell, Recipe, Side, record_of, reference_key
from eigenstep.evaluation.competitors import (
    OURS,
    WARM_SUFFIX,
    WITHOUT_WARM,
    Entry,
    ModelPlanner,
    Planner,
    hand_entries,
    keep_profile,
    kept_profile,
    steps_for,
)
from eigenstep.evaluation.features import KINDS, ConvolutionFeatures, Features, features_named
from eigenstep.evaluation.metrics import Interval, paired_interval, t_interval
from eigenstep.evaluation.store import Store, file_name
from eigenstep.evaluation.subject import Model, Subject, check_calls, fitted_items, model_range, on_arrays
from eigenstep.evaluation.workers import Job, workers
from eigenstep.models import ErrorCurve
from eigenstep.models.network import torch_device
from eigenstep.models.profile import TARGETS, ModelProfile, profile
from eigenstep.solvers import solver_named
from eigenstep.spectrum import Spectrum

BASIS = 200
"""Eigenvectors measured for the warm start."""

TOLERANCE = 0.01
"""Of the converged endpoint, in standard deviations of the data."""

FIT_ITEMS = 400
"""Items that the model's error curve is measured on."""

JUDGES = 48
"""Noises that plans are judged by."""

PLANNING_SEED = 0x706C616E
"""Of the noise that plans are judged by: none that a cell is likely to draw."""


@dataclass(frozen=True)
class Verdict:
    """Ours beside the best grid of the catalogue in one measure, which is chosen with hindsight on the same seeds.

    Attributes
    ----------
    solver : str
    calls : int
    metric : str
    ours : Interval
    best : str
        Name of the catalogue's best.
    theirs : Interval
    difference : Interval
        Ours minus theirs, seed by seed.
    word : str
        "better" or "worse" where the interval of the difference leaves 0 out, else "even"; "one seed" where there is no
        interval.

    Examples
    --------
    >>> ours, theirs = t_interval([0.10, 0.12, 0.11]), t_interval([0.20, 0.23, 0.23])
    >>> difference = paired_interval([0.10, 0.12, 0.11], [0.20, 0.23, 0.23])
    >>> won = Verdict("ddim", 4, "rmse", ours, "karras", theirs, difference, "better")
    >>> round(won.ratio, 3), won.difference.high < 0
    (0.5, True)
    """

    solver: str
    calls: int
    metric: str
    ours: Interval
    best: str
    theirs: Interval
    difference: Interval
    word: str

    @property
    def ratio(self) -> float:
        """Ours over theirs."""
        return self.ours.mean / self.theirs.mean if self.theirs.mean else math.nan


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found so far.

    Attributes
    ----------
    settings : mapping
        What its numbers depend on.
    model : str
        Its name.
    facts : mapping
        About the run: what was planned, on which eigenvalues and why, how well a trained network learned, the folder.
    fit : ErrorCurve
        Of the model on the data.
    references : mapping of int to record
        The converged endpoint of each seed.
    cells : mapping of Cell to record
        `metrics`, `sigmas`; or why there is none in `error`.
    sheets : mapping of Cell to (m, *item_shape) float16 arrays
        The first samples of the first seed.

    Examples
    --------
    >>> curve = ErrorCurve(np.array([2.0, 1.0]), np.ones(2), np.zeros(2), np.ones(2), n_items=100, dim=1)
    >>> values = {"karras": (0.20, 0.23, 0.23), "uniform": (0.3, 0.3, 0.3), OURS: (0.10, 0.12, 0.11)}
    >>> cells = {
    ...     Cell(grid, "ddim", 4, seed): {"error": None, "metrics": {"rmse": value}}
    ...     for grid, found in values.items()
    ...     for seed, value in enumerate(found)
    ... }
    >>> found = Evaluation({"solvers": ["ddim"]}, "a network", {}, curve, {}, cells, {})
    >>> found.grids, round(found.interval("karras", "ddim", 4, "rmse").mean, 3)
    (['eigenstep', 'karras', 'uniform'], 0.22)
    >>> verdict, = found.verdicts()
    >>> verdict.best, verdict.word, round(verdict.difference.mean, 3)
    ('karras', 'better', -0.11)
    """

    settings: Mapping[str, Any]
    model: str
    facts: Mapping[str, Any]
    fit: ErrorCurve
    references: Mapping[int, Mapping[str, Any]]
    cells: Mapping[Cell, Mapping[str, Any]]
    sheets: Mapping[Cell, NDArray[Any]] = field(repr=False)

    @property
    def failures(self) -> dict[str, str]:
        """Why each cell or endpoint that failed did."""
        found = {reference_key(seed): record["error"] for seed, record in self.references.items() if record["error"]}
        return found | {cell.key: record["error"] for cell, record in self.cells.items() if record["error"]}

    @property
    def metrics(self) -> list[str]:
        """Names of the measures, those to the converged endpoint first; standard errors are not among them."""
        names = dict.fromkeys(
            name for record in self.cells.values() for name in record.get("metrics", ()) if not name.endswith(" error")
        )
        return sorted(names, key=lambda name: (name.endswith("/data"), _ORDER.index(name.partition("/")[0])))

    @property
    def grids(self) -> list[str]:
        """Names of what competed, ours first."""
        names = dict.fromkeys(cell.grid for cell in self.cells)
        return sorted(names, key=lambda name: (name != OURS, name != WITHOUT_WARM, name.endswith(WARM_SUFFIX)))

    def values(self, grid: str, solver: str, calls: int, metric: str) -> dict[int, float]:
        """The measure of each seed that has it."""
        return {
            cell.seed: record["metrics"][metric]
            for cell, record in self.cells.items()
            if (cell.grid, cell.solver, cell.calls) == (grid, solver, calls) and metric in record.get("metrics", ())
        }

    def interval(self, grid: str, solver: str, calls: int, metric: str) -> Interval | None:
        """Mean over seeds and its 95 % interval; None where no seed has it.

        Of one seed, the RMSE has the interval over its items, and other measures none.
        """
        found = self.values(grid, solver, calls, metric)
        if not found:
            return None
        whole = t_interval(list(found.values()))
        (seed,) = found if len(found) == 1 else (None,)
        if metric == "rmse" and seed is not None:
            ends = self.cells[Cell(grid, solver, calls, seed)]["rmse_interval"]
            return Interval(whole.mean, ends[0], ends[1], 1)
        return whole

    def settings_pairs(self) -> list[tuple[str, int]]:
        """Every (solver, calls) that has cells, in order."""
        order = {name: k for k, name in enumerate(self.settings["solvers"])}
        pairs = {(cell.solver, cell.calls) for cell in self.cells}
        return sorted(pairs, key=lambda pair: (order.get(pair[0], len(order)), pair))

    def verdict(self, solver: str, calls: int, metric: str, *, ours: str = OURS) -> Verdict | None:
        """Ours beside the catalogue's best; None where one of the two has no cell. Only seeds that both have count."""
        mine = self.values(ours, solver, calls, metric)
        hand = {}
        for name in self.grids:
            if name in (OURS, WITHOUT_WARM) or name.endswith(WARM_SUFFIX):
                continue
            values = self.values(name, solver, calls, metric)
            if mine and set(values) >= set(mine):
                hand[name] = [values[seed] for seed in mine]
        if not hand:
            return None
        best = min(hand, key=lambda name: float(np.mean(hand[name])))
        difference = paired_interval(list(mine.values()), hand[best])
        word = "one seed" if difference.n == 1 else "even"
        if difference.high < 0:
            word = "better"
        elif difference.low > 0:
            word = "worse"
        return Verdict(
            solver, calls, metric, t_interval(list(mine.values())), best, t_interval(hand[best]), difference, word
        )

    def verdicts(self, *, ours: str = OURS) -> list[Verdict]:
        """Every verdict there is."""
        found = [self.verdict(*pair, metric, ours=ours) for pair in self.settings_pairs() for metric in self.metrics]
        return [each for each in found if each is not None]

    def to_json(self) -> dict[str, Any]:
        """Everything, as plain JSON values; null for what is not finite.

        Cells are rows of grid, solver, calls and seed with their measures; `summary` has means and intervals over seeds,
        `verdicts` ours beside the catalogue's best.
        """
        summary = []
        for solver, calls in self.settings_pairs():
            for name in self.grids:
                found = {metric: self.interval(name, solver, calls, metric) for metric in self.metrics}
                rows = {metric: _interval_json(each) for metric, each in found.items() if each is not None}
                if rows:
                    summary.append({"grid": name, "solver": solver, "calls": calls, "metrics": rows})
        return {
            "version": __version__,
            "model": self.model,
            "settings": dict(self.settings),
            "facts": dict(self.facts),
            "fit": {
                "sigmas": self.fit.sigmas.tolist(),
                "ratio": self.fit.ratio.tolist(),
                "ratio_standard_error": self.fit.ratio_standard_error.tolist(),
                "n_items": self.fit.n_items,
            },
            "references": {str(seed): dict(record) for seed, record in self.references.items()},
            "summary": summary,
            "verdicts": [
                {
                    "solver": each.solver,
                    "calls": each.calls,
                    "metric": each.metric,
                    "ours": _interval_json(each.ours),
                    "best": each.best,
                    "theirs": _interval_json(each.theirs),
                    "difference": _interval_json(each.difference),
                    "ratio": _finite(each.ratio),
                    "word": each.word,
                }
                for each in self.verdicts()
            ],
            "cells": [
                {"grid": cell.grid, "solver": cell.solver, "calls": cell.calls, "seed": cell.seed, **record}
                for cell, record in self.cells.items()
            ],
            "failures": self.failures,
        }


_ORDER = ("rmse", "frechet", "kernel", "sliced_w2")
_TITLES = {"rmse": "RMSE", "frechet": "Fréchet distance", "kernel": "kernel distance", "sliced_w2": "sliced W2"}


def metric_title(name: str) -> str:
    """What a measure is, in words.

    >>> metric_title("frechet/pixels"), metric_title("sliced_w2/data")
    ('Fréchet distance to the converged endpoint, pixels', 'sliced W2 to the data')
    """
    kind, *rest = name.removesuffix("/data").split("/")
    target = "data" if name.endswith("/data") else "converged endpoint"
    return f"{_TITLES[kind]} to the {target}" + (f", {rest[0]}" if rest else "")


def headline_metrics(evaluation: Evaluation) -> list[str]:
    """The two measures that tables and figures show: the RMSE, where there is one, and the Fréchet distance to the endpoint.

    Of several features the most telling that there are: a pretrained network, one trained in the run, random convolutions.

    >>> from types import SimpleNamespace
    >>> headline_metrics(SimpleNamespace(metrics=["rmse", "frechet/pixels", "frechet/trained", "sliced_w2"]))
    ['rmse', 'frechet/trained']
    """
    frechet = {name.split("/")[1]: name for name in evaluation.metrics if name.startswith("frechet/") and name.count("/") == 1}
    telling = next((frechet[kind] for kind in reversed(KINDS) if kind in frechet), None)
    return [name for name in ("rmse", telling) if name in evaluation.metrics and name is not None]


def evaluate(
    model: Any,
    data: ArrayLike,
    folder: str | os.PathLike[str],
    *,
    calls: Sequence[int] = (4, 6, 10),
    solvers: Sequence[str] = ("ddim", "dpmpp_2m"),
    seeds: int | Sequence[int] = 3,
    n_items: int = 500,
    grids: Sequence[str] | None = None,
    warm_hand: bool = False,
    features: Sequence[str] = ("pixels", "random-convolutions"),
    labels: ArrayLike | None = None,
    weights: Mapping[str, str] | None = None,
    value_range: tuple[float, float] | None = None,
    spectrum: Spectrum | None = None,
    target: str = "endpoint",
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    batch_size: int = 100,
    dtype: str | None = None,
    model_options: Mapping[str, Any] | None = None,
    tolerance: float = TOLERANCE,
    most_steps: int = 512,
    devices: Sequence[Any] = (None,),
    dask: str | None = None,
    resume: bool = False,
    planner: Planner | None = None,
    name: str = "",
    progress: Callable[[int, int | None], object] | None = None,
    stage: Callable[[str], object] | None = None,
) -> Evaluation:
    """Planned grids and those of the catalogue side by side, on a model, from the same noise.

    Every cell (grid, solver, network calls, seed) draws `n_items` samples and is compared with the endpoint that the same
    noise converges to (RMSE, Fréchet distance, kernel distance, sliced W2) and with the data (all but the RMSE). All of it is
    kept in `folder` as it is finished.

    Parameters
    ----------
    model : str, pipeline or denoiser
        As for `Model`.
    data : (m, *item_shape) array
        In the model's value range; m >= 20. Up to `FIT_ITEMS` of them measure the model's error curve.
    folder : path
        Of the results; made where it is not there.
    calls : sequence of int
        Most network calls per sample. A solver that needs more than one a step takes as many steps as they pay for, and its
        cells are named by the calls it really makes: 2 n - 1 for n steps of Heun.
    solvers : sequence of str
        Names in `SOLVERS`. Stochastic ones have no RMSE.
    seeds : int or sequence of int
        How many, or which.
    n_items : int
        Samples of each cell, >= 3.
    grids : sequence of str, optional
        Of the catalogue; all that fit the range by default.
    warm_hand : bool
        Let every grid of the catalogue compete from our warm start too.
    features : sequence of str
        From `features.KINDS`.
    labels, weights, value_range
        As for `features_named`.
    spectrum : Spectrum, optional
        Of more data than these; with `mean` and `basis`, for a warm start. Default: measured from `data`. Where the samples
        are too few for their own eigenvalues, plans are made on the population's (`estimation.choose_spectrum`); `facts`
        has which, and why.
    target : {"endpoint", "data"}
        What plans are to come near, as for `models.plan`.
    sigma_min, sigma_max : float, optional
        Range of levels; the model's own by default.
    batch_size, dtype
        Of the network; halved where memory runs out.
    model_options : mapping, optional
        Passed to `load_denoiser` or the model's function.
    tolerance, most_steps
        Of the converged endpoint, in standard deviations of the data; and where its doubling ends.
    devices, dask
        As for `workers`.
    resume : bool
        Go on with the folder: what is finished is not done again, what failed is.
    planner : Planner, optional
        Makes our entries; `models.plan` by default, which judges by other noise than the cells draw.
    name : str
        Of the data, for titles.
    progress : callable, optional
        Told (cells done, cells) as they end, those found finished included.
    stage : callable, optional
        Told in words what begins.

    Returns
    -------
    Evaluation
        Also where cells failed: see `failures`.

    Raises
    ------
    ValueError
        Model and data differ in shape or range; names that are not known; a folder of another evaluation.
    ImportError
        torch, or what a kind of features needs, is missing.

    Examples
    --------
    >>> import tempfile
    >>> x = np.random.default_rng(0).standard_normal((200, 4)) * [2.0, 1.0, 0.5, 0.1]
    >>> def wiener(x, sigma):
    ...     lam = x.new_tensor([4.0, 1.0, 0.25, 0.01])
    ...     return x * lam / (lam + sigma**2)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = evaluate(wiener, x, folder, calls=[4], solvers=["ddim"], seeds=3, n_items=20, grids=["karras"],
    ...                      features=["pixels"], sigma_min=0.01, sigma_max=40.0)
    >>> found.verdict("ddim", 4, "rmse").word
    'better'
    """
    say = stage or (lambda words: None)
    counts = sorted({integer(count, "calls") for count in calls})
    methods = {solver_named(each).name: (each, solver_named(each)) for each in reversed(list(solvers))}
    numbers = list(range(integer(seeds, "seeds"))) if isinstance(seeds, int) else list(dict.fromkeys(seeds))
    numbers = [integer(seed, "seeds", minimum=0) for seed in numbers]
    if not counts or not methods or not numbers:
        raise ValueError("`calls`, `solvers` and `seeds` must each hold at least one, got none.")
    n_items = integer(n_items, "n_items", minimum=3)
    hand_entries(1, 0.1, 1.0, names=grids)  # refuses unknown names before any work

    source = Model(model, dict(model_options or {}))
    if not devices:
        raise ValueError("`devices` must hold at least one, got none; None is the model's own.")
    for device in devices:
        if device is not None:
            torch_device(device)  # refuses one that is not there before any work
    first = devices[0]
    denoiser = source.load(first)
    items = fitted_items(denoiser, real_array(data, "data"))
    if items.ndim < 2 or len(items) < 20:
        raise ValueError(f"`data` must hold at least 20 items, got shape {items.shape}.")
    low, high = model_range(denoiser, sigma_min, sigma_max)
    check_calls(denoiser, items.shape[1:], high, device=first)
    # In an order of their own: sources are often sorted by kind.
    order = np.random.default_rng(0).permutation(len(items))
    items = items[order]
    kinds = None if labels is None else _one_label_each(labels, len(items))[order]
    choice(target, TARGETS, "target")
    planned_on = "the data's" if spectrum is None else _digest(spectrum.eigenvalues)
    if spectrum is None:
        say("measuring the spectrum")
        spectrum = Spectrum.from_samples(items, basis=min(BASIS, items[0].size, len(items) - 1))
    chosen = choose_spectrum(spectrum, low, high)
    spectrum = spectrum if chosen.eigenvalues == "sample" else _on_directions(chosen.spectrum, spectrum)
    settings = {
        "data": _digest(items),
        "data_name": name,
        "model": source.name,
        "conditions": _plain(source.options),
        "spectrum": planned_on,
        "eigenvalues": None if chosen.eigenvalues == "sample" else chosen.eigenvalues,
        "target": target,
        "item_shape": list(items.shape[1:]),
        "n_items": n_items,
        "sigma_min": low,
        "sigma_max": high,
        "dtype": dtype or "float32",
        "features": list(dict.fromkeys(features)),
        "tolerance": tolerance,
        "most_steps": integer(most_steps, "most_steps"),
    }
    store = Store(folder, settings, resume=resume)
    _check_model(store, denoiser, low, high, device=first)
    subject = Subject(denoiser, low, high, items.shape[1:], first, integer(batch_size, "batch_size"))
    measured = kept_profile(store, subject, spectrum)
    # A planner that was given needs no runs of the model to judge by.
    judges = JUDGES if planner is None else 0
    if measured is None or len(measured.noise) < judges:
        say("measuring the model")
        measured = profile(subject, spectrum, data=items[:FIT_ITEMS], target=target, judges=judges, seed=PLANNING_SEED)
        keep_profile(store, measured)
    say("preparing the features")
    extractors = _features(store, features, items, labels=kinds, weights=weights, value_range=value_range, device=first)
    _keep_data(store, items, extractors, first)
    spread = math.sqrt(float(spectrum.trace) / items[0].size)
    recipe = Recipe(
        folder=str(store.folder.resolve()),
        run=uuid.uuid4().hex,
        model=source,
        features=extractors,
        item_shape=items.shape[1:],
        n_items=n_items,
        batch_size=batch_size,
        sigma_min=low,
        sigma_max=high,
        dtype=dtype,
        tolerance=real_number(tolerance, "tolerance", minimum=0.0, exclusive=True) * spread,
        most_steps=most_steps,
    )
    say("planning")
    plan = planner or ModelPlanner(measured, store)
    path = getattr(denoiser, "path", None)
    jobs: list[Job] = []
    unplanned: list[Cell] = []
    plans: list[dict[str, Any]] = []
    for title, method in reversed(methods.values()):
        # Several numbers of calls may pay for the same steps.
        for n in dict.fromkeys(steps_for(count, method) for count in counts):
            count = method.nfe(n)
            try:
                entries = list(plan(n, method))
            except ValueError as error:
                # One number of steps that cannot be planned must not cost the others.
                entries = []
                for seed in numbers:
                    cell = Cell(OURS, title, count, seed)
                    store.add(cell.key, {"error": f"not planned: {error}"})
                    unplanned.append(cell)
            warm = next((entry for entry in entries if entry.warm is not None), None)
            entries += hand_entries(
                n,
                low,
                high,
                names=grids,
                path=path,
                spectrum=spectrum,
                warm=None if warm is None or not warm_hand else warm.warm,
                warm_level=None if warm is None else float(warm.sigmas[0]),
            )
            plans += [
                {"grid": e.name, "solver": title, "calls": count, "sigmas": e.sigmas.tolist(), "warm": e.warm is not None,
                 "reason": e.note}
                for e in entries if e.ours
            ]  # fmt: skip
            jobs += [Job(Cell(e.name, title, count, seed), e) for seed in numbers for e in entries]
    # Seed by seed: what is interrupted has whole seeds to show.
    jobs.sort(key=lambda job: numbers.index(job.cell.seed))
    _run(store, recipe, jobs, numbers, devices=devices, dask=dask, progress=progress, stage=say)
    cells = [*unplanned, *(job.cell for job in jobs)]
    titles = [title for title, _ in reversed(methods.values())]
    facts = {
        "plans": plans,
        "spectrum": {"eigenvalues": chosen.eigenvalues, "reason": chosen.reason, "doubt": chosen.doubt},
        "folder": str(store.folder),
    }
    return _evaluation(store, source.name, extractors, measured, facts, cells, numbers, solvers=titles)


def _run(
    store: Store,
    recipe: Recipe,
    jobs: Sequence[Job],
    seeds: Sequence[int],
    *,
    devices: Sequence[Any],
    dask: str | None,
    progress: Callable[[int, int | None], object] | None,
    stage: Callable[[str], object],
) -> None:
    """Run what the store does not have yet: first the references of the seeds, then the cells."""
    references = [Job(Cell("", "", 0, seed), None) for seed in seeds]
    missing = [job for job in references if not _done(store, reference_key(job.cell.seed), None)]
    open_cells = [job for job in jobs if not _done(store, job.cell.key, job.entry)]
    done, total = len(references) + len(jobs) - len(missing) - len(open_cells), len(references) + len(jobs)

    def finish(results: Iterable[tuple[Job, dict[str, Any]]]) -> None:
        nonlocal done
        for job, record in results:
            key = reference_key(job.cell.seed) if job.entry is None else job.cell.key
            store.add(key, _finite_record(record))
            done += 1
            if progress is not None:
                progress(done, total)

    if progress is not None:
        progress(done, total)
    if not missing and not open_cells:
        return
    with workers(recipe, devices=devices, dask=dask) as run:
        stage("finding the converged endpoints")
        finish(run(missing))
        reason = {seed: store.finished[reference_key(seed)]["error"] for seed in seeds}
        stage("running the cells")
        lost = [job for job in open_cells if reason[job.cell.seed]]
        finish((job, {"error": f"no converged endpoint: {reason[job.cell.seed]}"}) for job in lost)
        finish(run([job for job in open_cells if not reason[job.cell.seed]]))


def _done(store: Store, key: str, entry: Entry | None) -> bool:
    """Whether a cell is finished, without an error, and with the levels that are wanted now."""
    record = store.finished.get(key)
    if record is None or record["error"]:
        return False
    if entry is None:
        return True
    wanted = record_of(entry)
    same = len(record["sigmas"]) == len(wanted["sigmas"]) and np.allclose(record["sigmas"], wanted["sigmas"], rtol=1e-6, atol=0)
    return bool(same) and all(record.get(key) == wanted[key] for key in ("warm", "warm_from"))


def _check_model(store: Store, denoiser: Any, low: float, high: float, *, device: Any) -> None:
    """Refuse another model than the one that the store's cells are of, by what it answers to the same noise.

    An answer may differ by 1 % of its size: that much is another device or precision, and no other model.
    """
    shape = store.settings["item_shape"]
    noise = np.random.default_rng(0).standard_normal((2, *shape))
    call = on_arrays(denoiser, device=device)
    found = np.stack([call(sigma * noise, float(sigma)) for sigma in np.geomspace(high, low, 3)])
    kept = store.arrays("probe")
    if kept is None:
        store.keep("probe", {"answers": found})
    elif np.sqrt(((found - kept["answers"]) ** 2).mean()) > 0.01 * np.sqrt((kept["answers"] ** 2).mean()):
        raise ValueError(
            f"The evaluation in {str(store.folder)!r} was begun with another model than {store.settings['model']!r} is now: it "
            "answers otherwise to the same noise. Choose another folder."
        )


def _keep_data(store: Store, items: Float, extractors: Sequence[Features], device: Any) -> None:
    """The features of the data, made once."""
    identities = json.dumps({each.name: each.identity for each in extractors})
    kept = store.arrays("data")
    if kept is None:
        arrays = Side.of(items, tuple(extractors), device).arrays()
        # As many as a cell has: sliced distances of thousands of items would cost more than the samples.
        arrays["rows"] = arrays["rows"][: store.settings["n_items"]]
        store.keep("data", {**arrays, "identities": np.array(identities)})
    elif str(kept["identities"]) != identities:
        raise ValueError(
            f"The evaluation in {str(store.folder)!r} was begun with features of other weights; choose another folder."
        )


def _one_label_each(labels: ArrayLike, count: int) -> NDArray[Any]:
    kinds = np.asarray(labels)
    if kinds.shape != (count,):
        raise ValueError(f"`labels` must be one for each of the {count} items, got shape {kinds.shape}.")
    return kinds


def _features(
    store: Store,
    names: Sequence[str],
    items: Float,
    *,
    labels: ArrayLike | None,
    weights: Mapping[str, str] | None,
    value_range: tuple[float, float] | None,
    device: Any,
) -> tuple[Features, ...]:
    """The features; a network trained in an earlier part of the run is taken from the store."""
    kept = store.features("trained") if "trained" in names else None
    fresh = [name for name in dict.fromkeys(names) if name != "trained" or kept is None]
    options: dict[str, Any] = {"labels": labels, "weights": weights, "value_range": value_range, "device": device}
    made = {each.name: each for each in (features_named(fresh, items, **options) if fresh or not names else ())}
    if kept is not None:
        made["trained"] = kept
    elif isinstance(trained := made.get("trained"), ConvolutionFeatures):
        store.keep_features(trained)
    return tuple(made[name] for name in dict.fromkeys(names))


def _evaluation(
    store: Store,
    model: str,
    extractors: Sequence[Features],
    measured: ModelProfile,
    facts: Mapping[str, Any],
    wanted: Sequence[Cell],
    seeds: Sequence[int],
    *,
    solvers: Sequence[str],
) -> Evaluation:
    cells = {cell: store.finished[cell.key] for cell in wanted if cell.key in store.finished}
    sheets = {}
    for cell in cells:
        if cell.seed == seeds[0]:
            arrays = store.arrays(f"samples/{file_name(cell.key)}")
            if arrays is not None:
                sheets[cell] = arrays["items"]
    endpoint = store.arrays(f"references/seed-{seeds[0]}")
    shape = store.settings["item_shape"]
    if endpoint is not None:
        rows = endpoint["rows"][: len(next(iter(sheets.values()), endpoint["rows"][:8]))]
        sheets[Cell("converged", "", 0, seeds[0])] = rows.reshape(len(rows), *shape)
    assert measured.curve is not None
    notes = {each.name: each.note for each in extractors if isinstance(each, ConvolutionFeatures) and each.note}
    return Evaluation(
        settings={**store.settings, "solvers": list(solvers), "seeds": list(seeds)},
        model=model,
        facts={"features": notes, **facts},
        fit=measured.curve,
        references={seed: store.finished[reference_key(seed)] for seed in seeds if reference_key(seed) in store.finished},
        cells=cells,
        sheets=sheets,
    )


def _on_directions(population: Spectrum, sample: Spectrum) -> Spectrum:
    """The population's eigenvalues by rank on the sample's mean and eigenvectors, which a warm start needs.

    The trace stays the population's: a rank takes the eigenvalue in its middle.
    """
    counts = sample.multiplicities.astype(int)
    ranks = np.arange(counts.sum()) + 0.5
    places = np.searchsorted(np.cumsum(population.multiplicities), ranks).clip(max=population.eigenvalues.size - 1)
    lam = population.eigenvalues[places]
    return replace(
        sample,
        eigenvalues=lam * (population.trace / lam.sum()),
        multiplicities=np.ones_like(lam),
        mean_energy=np.repeat(sample.mean_energy / counts, counts),
    )


def _plain(options: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a model was told that can be written down: a prompt, a class, guidance; None where it was told nothing."""
    return {name: value for name, value in options.items() if isinstance(value, str | int | float)} or None


def _digest(items: Float) -> str:
    return hashlib.sha256(repr(items.shape).encode() + np.ascontiguousarray(items).tobytes()).hexdigest()[:16]


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _finite_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record as JSON can hold it: a measure that overflowed is left out."""
    kept = dict(record)
    if "metrics" in kept:
        kept["metrics"] = {name: value for name, value in kept["metrics"].items() if math.isfinite(value)}
    return kept


def _interval_json(interval: Interval) -> dict[str, Any]:
    return {"mean": interval.mean, "low": _finite(interval.low), "high": _finite(interval.high), "n": interval.n}
