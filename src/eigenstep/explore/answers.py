"""The numbers behind every figure of the page, as plain JSON values: eigenstep's public functions, asked in turn."""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from eigenstep._checks import Float, choice
from eigenstep._version import __version__
from eigenstep.adapters import text
from eigenstep.explore.jobs import Job
from eigenstep.explore.shelf import Shelf
from eigenstep.explore.state import EDM_RANGE, State
from eigenstep.gaussian import OBJECTIVES, STEPWISE, divergence, retained_variance
from eigenstep.grids import LAWS, catalogue_grids
from eigenstep.optimal import GridResult, RankedGrid, optimal_grid, rank
from eigenstep.paths import PATHS
from eigenstep.solvers import SOLVERS
from eigenstep.spectrum import Spectrum, zoo_names
from eigenstep.steps import local_shares, swept_angles

if TYPE_CHECKING:
    from eigenstep.estimation import ChosenSpectrum
    from eigenstep.explore.network import Network

PATIENCE = 0.08
"""Seconds that an answer waits for the optimum before it goes out with a first guess in its place."""
_REMEMBERED = 2000
_POINTS, _NODES = 160, 192
FORMATS = ("diffusers", "comfyui", "k-diffusion", "webui", "sd.cpp", "text", "json", "python")
"""What `Desk.copied` writes."""

T = TypeVar("T")


class Desk:
    """Answers questions about the spectra of a shelf, and remembers what it has worked out.

    Parameters
    ----------
    shelf : Shelf
    first : str
        The spectrum that an address without one means.
    network : Network, optional
        One to measure and sample with; its range of levels holds where an address names none.
    """

    def __init__(self, shelf: Shelf, first: str = "cifar10", network: Network | None = None) -> None:
        """Nothing is worked out yet."""
        self.shelf, self.first, self.network = shelf, first, network
        self._under_way = ""
        self._known: OrderedDict[tuple[Any, ...], Future[Any]] = OrderedDict()
        self._lock = threading.Lock()
        self._workers = ThreadPoolExecutor(3, thread_name_prefix="eigenstep")
        # The search imports it when it first needs it: better now than within the first answer.
        self._workers.submit(importlib.import_module, "scipy.optimize")

    def state(self, query: Mapping[str, str]) -> State:
        """What a query string asks for."""
        if self.network is None:
            return State.from_query(query, spectrum=self.first)
        return State.from_query(query, spectrum=self.first, ends=self._ends, model_path=self.network.path)

    def view(self, state: State, *, patience: float = PATIENCE) -> dict[str, Any]:
        """Everything that the page draws at once.

        The optimum of a multistep solver may take longer than a reader should wait. Until it is there, `optimum` is null, and
        where no levels were moved by hand the best of the hand-made grids over our range is drawn.
        """
        chosen = self.shelf.chosen(state.spectrum, state.eigenvalues)
        spectrum = chosen.spectrum
        hand = self._hand(state, state.steps)
        best: GridResult | None
        try:
            best = self._optimum(state, state.steps, instead=True).result(timeout=patience)
        except (NotYet, CancelledError):
            best = None
        if state.sigmas is not None:
            sigmas, origin = np.array(state.sigmas), "moved"
        elif best is not None:
            sigmas, origin = best.sigmas, "optimum"
        else:
            over_ours = replace(state, sigma_max=state.start_level)
            sigmas, origin = self._hand(over_ours, state.steps)[0].sigmas, "guess"
        value = best.value if origin == "optimum" and best is not None else divergence(spectrum, sigmas, **state.measure)
        shown = {"ours": sigmas, **{row.name: row.sigmas for row in hand if row.name in state.compare}}
        return {
            "state": {
                "spectrum": state.spectrum,
                "steps": state.steps,
                "sigma_min": state.sigma_min,
                "sigma_max": state.sigma_max,
                "start_level": state.start_level,
                "nfe": SOLVERS[state.solver].nfe(state.steps, final=state.ends),
            },
            "spectrum": _about(spectrum, chosen.eigenvalues, f"{chosen.reason} {chosen.doubt}".strip()),
            "ours": {
                "origin": origin,
                "sigmas": sigmas.tolist(),
                "value": _finite(value),
                "share": _finite(value / spectrum.trace) if state.objective in ("w2", *STEPWISE) else None,
                "ratio": None if best is None else _ratio(value, best.value),
                "timesteps": _timesteps(state, sigmas),
                "log_snr": _log_snr(sigmas),
            },
            "optimum": None if best is None else {
                "sigmas": best.sigmas.tolist(),
                "value": _finite(best.value),
                "converged": best.converged,
                "message": best.message,
            },
            "hand": [
                {
                    "name": row.name,
                    "value": _finite(row.value),
                    "ratio": None if best is None else _ratio(row.value, best.value),
                    "sigmas": row.sigmas.tolist(),
                }
                for row in hand
            ],
            "missing": [name for name in state.compare if name not in shown],
            "eigenvalues": self._remembered(
                ("curve", state.spectrum, state.eigenvalues), lambda: _curve(self.shelf.spectrum(state.spectrum), chosen)
            ),
            "retained": _retained(spectrum, shown, state),
            "each_step": _each_step(spectrum, sigmas, state),
        }

    def steps(self, state: State, n: int) -> dict[str, Any]:
        """One column of the figure of error against steps: the optimum of n steps and the hand-made grids."""
        best = self._found(state, n)
        return {
            "steps": n,
            "optimum": _finite(best.value),
            "hand": {row.name: _finite(row.value) for row in self._hand(state, n)},
        }

    def interval(self, state: State) -> dict[str, Any]:
        """The 95 % interval of the population's eigenvalues at some ranks, where the samples resolve them.

        `points` holds (rank, low, high); it is null, and `reason` says why, where the samples say nothing of it.
        """
        return self._remembered(("interval", state.spectrum), lambda: _interval(self.shelf.spectrum(state.spectrum)))

    def copied(self, state: State, form: str) -> str:
        """The grid as text for a host: our optimum, or the levels that were moved by hand."""
        choice(form, FORMATS, "format")
        spectrum = self.shelf.chosen(state.spectrum, state.eigenvalues).spectrum
        best: GridResult | None = None if state.sigmas is not None else self._found(state, state.steps)
        sigmas = np.array(state.sigmas) if best is None else best.sigmas
        if form == "json":
            value = divergence(spectrum, sigmas, **state.measure) if best is None else best.value
            return _json(state, spectrum, sigmas, value, moved=best is None)
        if form == "python":
            return _python(state, None if best is not None else sigmas)
        if form == "diffusers":
            return _diffusers(state, sigmas)
        return text.FORMATS[form].write(sigmas, state.path or None)

    def about_network(self, state: State) -> dict[str, Any]:
        """What is known of the network, what it makes of the grid as it stands, and the job that is under way."""
        network = self._network()
        sigmas = self._levels(state, patience=0.0)
        return {
            **network.record(),
            "compared": None if sigmas is None else network.compared(sigmas, state.solver),
            "job": self._running(),
        }

    def measure_network(self) -> str:
        """Begin to measure the network, or join the work that is under way; the id of the job."""
        network = self._network()
        return self._begin(Job(network.name, total=network.calls), network.measure)

    def compare_network(self, state: State) -> str:
        """Begin to sample on the grid as it stands; the id of the job."""
        network = self._network()
        if state.sigmas is not None:
            network.check(state.sigmas, state.solver)

        def compare(job: Job) -> str:
            levels = self._levels(state, patience=None)
            assert levels is not None
            return network.compare(job, levels, state.solver)

        return self._begin(Job(network.name), compare)

    def _network(self) -> Network:
        if self.network is None:
            raise ValueError("This server has no network: start it with `eigenstep explore --model FOLDER`.")
        return self.network

    @property
    def _ends(self) -> tuple[float, float]:
        return EDM_RANGE if self.network is None else (self.network.sigma_min, self.network.sigma_max)

    def _levels(self, state: State, *, patience: float | None) -> list[float] | None:
        """The levels as they stand, moved or optimal; None where the search needs longer than `patience`."""
        if state.sigmas is not None:
            return list(state.sigmas)
        if patience is None:
            levels: list[float] = self._found(state, state.steps).sigmas.tolist()
            return levels
        try:
            found: list[float] = self._optimum(state, state.steps).result(timeout=patience).sigmas.tolist()
            return found
        except (NotYet, CancelledError):
            return None

    def _running(self) -> str | None:
        return self._under_way if self._under_way and not self.shelf.jobs.job(self._under_way).ended else None

    def _begin(self, job: Job, work: Callable[[Job], str]) -> str:
        """Start work with the network, unless some is under way: two at once would only slow each other down."""
        with self._lock:
            self._under_way = self._running() or self.shelf.jobs.begin(job, work)
            return self._under_way

    def options(self) -> dict[str, Any]:
        """What the page's lists hold."""
        return {
            "version": __version__,
            "first": self.first,
            "range": self._ends,
            "network": None if self.network is None else self.network.name,
            "spectra": self.shelf.names(),
            "zoo": zoo_names(),
            "objectives": list(OBJECTIVES),
            "paths": {name: (make().sigma_min, make().sigma_max) for name, make in PATHS.items()},
            "solvers": {name: solver.name for name, solver in SOLVERS.items()},
            "laws": {name: {"source": row.source, "note": row.note, "needs": row.needs} for name, row in LAWS.items()},
            "formats": {name: text.FORMATS[name].hosts if name in text.FORMATS else "" for name in FORMATS},
        }

    def _found(self, state: State, n: int) -> GridResult:
        """The optimum of n steps, however long it takes."""
        while True:
            with contextlib.suppress(CancelledError):
                result: GridResult = self._optimum(state, n).result()
                return result

    def _optimum(self, state: State, n: int, *, instead: bool = False) -> Future[Any]:
        """The search for the optimum of n steps, begun or remembered; `instead` of all that have not begun yet."""
        spectrum = self.shelf.chosen(state.spectrum, state.eigenvalues).spectrum
        key = ("optimum", n, state.aim)

        def search() -> GridResult:
            return optimal_grid(spectrum, n, state.sigma_min, state.start_level, final=state.ends, **state.measure)

        with self._lock:
            if instead:
                for other, waiting in self._known.items():
                    if other != key:
                        waiting.cancel()
            known = self._known.get(key)
            # A search that was cancelled or has failed is begun again.
            if known is None or known.cancelled() or (known.done() and known.exception() is not None):
                known = self._keep(key, self._workers.submit(search))
            self._known.move_to_end(key)
            return known

    def _hand(self, state: State, n: int) -> tuple[RankedGrid, ...]:
        """The catalogue's grids of n steps over the whole range, best first."""
        spectrum = self.shelf.chosen(state.spectrum, state.eigenvalues).spectrum

        def ranked() -> tuple[RankedGrid, ...]:
            grids = catalogue_grids(
                n, state.sigma_min, state.sigma_max, final=state.ends, spectrum=spectrum, path=state.noise_path
            )
            # The errors of single steps take longest: on so many nodes they are the same to ten digits, twenty times as fast.
            ranked_on = spectrum.binned(_NODES) if state.objective in STEPWISE else spectrum
            return rank(ranked_on, grids, **state.measure) if grids else ()

        return self._remembered(("hand", n, state.aim), ranked)

    def _remembered(self, key: tuple[Any, ...], work: Callable[[], T]) -> T:
        """What `work` gives, done here and now unless it has been done before."""
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
        if known is not None:
            result: T = known.result()
            return result
        fresh = work()
        future: Future[Any] = Future()
        future.set_result(fresh)
        with self._lock:
            self._keep(key, future)
        return fresh

    def _keep(self, key: tuple[Any, ...], future: Future[Any]) -> Future[Any]:
        self._known[key] = future
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return future


def _about(spectrum: Spectrum, eigenvalues: str, reason: str) -> dict[str, Any]:
    return {
        "dim": spectrum.dim,
        "rank": spectrum.rank,
        "std": spectrum.std,
        "trace": spectrum.trace,
        "effective_rank": spectrum.effective_rank,
        "n_samples": spectrum.n_samples,
        "item_shape": None if spectrum.item_shape is None else list(spectrum.item_shape),
        "units": str(spectrum.provenance.get("value_range", "")),
        "eigenvalues": eigenvalues,
        "reason": reason,
    }


def _curve(measured: Spectrum, chosen: ChosenSpectrum) -> dict[str, list[list[float]]]:
    """Points (rank, eigenvalue) of the measured spectrum, and of the population's where that is planned on."""
    curves = {"measured": measured, **({"population": chosen.spectrum} if chosen.eigenvalues == "population" else {})}
    points = {}
    for name, spectrum in curves.items():
        ranks = np.maximum(np.cumsum(spectrum.multiplicities), 1.0)
        keep = _some(ranks, spectrum.eigenvalues > 0)
        points[name] = np.column_stack([ranks, spectrum.eigenvalues])[keep].tolist()
    return points


def _interval(spectrum: Spectrum) -> dict[str, Any]:
    """What `plots.eigenvalue_interval` shades, down to what the samples resolve."""
    from eigenstep.estimation import Population

    if spectrum.n_samples is None:
        return {"points": None, "reason": "The number of samples is not known, so there is no interval."}
    try:
        population = Population.from_spectrum(spectrum)
    except ValueError as error:
        return {"points": None, "reason": str(error)}
    ranks = np.unique(np.geomspace(1, population.curve.dim - population.curve.zeros, _POINTS).astype(int))
    middle, low, high = population.at_rank(ranks)
    known = (middle > 0) & (middle >= population.resolution**2)
    return {"points": np.column_stack([ranks, low, high])[known].tolist(), "reason": ""}


def _retained(spectrum: Spectrum, grids: Mapping[str, Float], state: State) -> dict[str, Any]:
    """The share of each eigenvalue's variance that each grid keeps."""
    lam = spectrum.eigenvalues
    keep = _some(lam, lam > 0)
    ratios = {
        name: retained_variance(spectrum, sigmas, solver=state.solver, start=state.start)[keep].tolist()
        for name, sigmas in grids.items()
    }
    return {"eigenvalues": lam[keep].tolist(), "ratios": ratios}


def _each_step(spectrum: Spectrum, sigmas: Float, state: State) -> dict[str, Any]:
    """The angle that each step sweeps in a coarse, a middle and a fine direction, and the error it makes."""
    lam = spectrum.eigenvalues
    positive = np.flatnonzero(lam > 0)
    # Halfway on the logarithmic scale on which all of them are drawn.
    middle = np.abs(np.log(lam[positive]) - np.log(lam[positive[[0, -1]]]).mean()).argmin()
    places = {"coarse": positive[0], "middle": positive[middle], "fine": positive[-1]}
    angles = np.degrees(swept_angles(spectrum, sigmas))
    # As in `Desk._hand`.
    shares = local_shares(spectrum.binned(_NODES), sigmas, solver=state.solver, noise_floor=state.noise_floor)
    return {
        "directions": [
            {"name": name, "eigenvalue": float(lam[k]), "degrees": angles[:, k].tolist()} for name, k in places.items()
        ],
        "errors": shares.tolist(),
    }


def _some(places: Float, wanted: Any) -> Any:
    """Indices of so many of the wanted points, evenly spread in the logarithm, that a curve through them looks the same."""
    index = np.flatnonzero(wanted)
    if index.size <= _POINTS:
        return index
    logs = np.log(places[index])
    even = np.linspace(logs[0], logs[-1], _POINTS)
    rising = logs if logs[0] < logs[-1] else -logs
    found = np.searchsorted(rising, even if logs[0] < logs[-1] else -even)
    return index[np.unique(np.minimum(found, index.size - 1))]


def _timesteps(state: State, sigmas: Float) -> list[float] | None:
    path = state.noise_path
    if path is None:
        return None
    times: list[float] = np.asarray(path.sigma_to_t(np.clip(sigmas[:-1], path.sigma_min, path.sigma_max))).tolist()
    return times


def _log_snr(sigmas: Float) -> list[float | None]:
    return [None if sigma == 0 else -2 * math.log(sigma) for sigma in sigmas.tolist()]


def _finite(value: float) -> float | None:
    """JSON has no infinity: null stands for an error that is not finite."""
    return float(value) if math.isfinite(value) else None


def _ratio(value: float, best: float) -> float | None:
    return 1.0 if value == best else _finite(value / best) if best > 0 else None


def _json(state: State, spectrum: Spectrum, sigmas: Float, value: float, *, moved: bool) -> str:
    record = {
        "version": __version__,
        "spectrum": {"name": state.spectrum, "dim": spectrum.dim, "trace": spectrum.trace, "n_samples": spectrum.n_samples},
        "eigenvalues": state.eigenvalues,
        **state.measure,
        "path": state.path or None,
        "sigma_min": state.sigma_min,
        "sigma_max": state.sigma_max,
        "final": state.ends,
        "steps": state.steps,
        "nfe": SOLVERS[state.solver].nfe(state.steps, final=state.ends),
        "sigmas": sigmas.tolist(),
        "timesteps": _timesteps(state, sigmas),
        "log_snr": _log_snr(sigmas)[: state.steps],
        "moved_by_hand": moved,
        "value": _finite(value),
    }
    return json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False)


def _python(state: State, moved: Float | None) -> str:
    """The calls that give the page's grid, and its error."""
    options = "".join(f", {name}={value!r}" for name, value in state.measure.items() if value != _DEFAULTS[name])
    known = state.spectrum in zoo_names()
    lines = [
        "import eigenstep",
        "",
        f"spectrum = eigenstep.Spectrum.from_zoo({state.spectrum!r})"
        if known
        else f"spectrum = eigenstep.Spectrum.load({state.spectrum + '.json'!r})  # saved by `eigenstep spectrum`",
    ]
    if state.eigenvalues != "sample":
        lines.insert(1, "from eigenstep.estimation import choose_spectrum")
        lines.append(f"spectrum = choose_spectrum(spectrum, 0.002, 80.0, eigenvalues={state.eigenvalues!r}).spectrum")
    if moved is not None:
        return "\n".join([*lines, f"sigmas = {moved.tolist()!r}", f"value = eigenstep.divergence(spectrum, sigmas{options})"])
    final = "" if state.ends == 0.0 else ", final=None"
    span = f"{state.steps}, {state.sigma_min!r}, {state.start_level!r}"
    call = f"result = eigenstep.optimal_grid(spectrum, {span}{final}{options})"
    return "\n".join([*lines, call, "sigmas, value = result.sigmas, result.value"])


_DEFAULTS = {"solver": "ddim", "objective": "w2", "noise_floor": 0.0, "start": "marginal"}


def _diffusers(state: State, sigmas: Float) -> str:
    """A snippet for diffusers: of its own classes where they make these steps, of eigenstep's adapter where others must."""
    # A network's own scheduler takes its levels; without one, a scheduler on EDM's path.
    path = state.path or ("edm" if state.model_path is None else "")
    if SOLVERS[state.solver].name == "ddim" and path in ("edm", *text.EULER_CONFIGS, *text.FLOW_SHIFTS):
        return text.diffusers(sigmas, path=path)
    return "\n".join(
        [
            "from eigenstep.adapters.diffusers import apply",
            "",
            f"sigmas = {sigmas.tolist()!r}  # {sigmas.size} levels for {state.steps} step{'s' * (state.steps != 1)}",
            f"# `pipe` is your pipeline, with a scheduler whose steps are {state.solver}; the planned levels go into it.",
            "pipe.scheduler = apply(sigmas, pipe.scheduler)",
        ]
    )
