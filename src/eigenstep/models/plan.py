"""The plan for a pretrained model: which grid, from which level, and how sure it is that this beats the usual ones."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eigenstep import _checks
from eigenstep._version import __version__
from eigenstep.call_error import CallError
from eigenstep.gaussian import divergence
from eigenstep.grids import catalogue_grids, timestep_grid
from eigenstep.models.denoiser import Denoiser
from eigenstep.models.effective import effective_spectrum
from eigenstep.models.fitting import fit_levels
from eigenstep.models.profile import ModelProfile, gauge_size, profile
from eigenstep.models.warm import WarmStart
from eigenstep.optimal import optimal_grid
from eigenstep.solvers import Solver, solver_named
from eigenstep.spectrum import Spectrum

Float = NDArray[np.float64]

_LADDER, _RUNGS = 2.0, 8
"""Least ratio of neighbouring start levels that are tried, and their greatest number."""

_NODES = 48
"""Of the spectrum: candidates that differ by less than the 1e-4 or so that this costs are one to the judge."""

_SEES_MORE = 0.8
"""Error over the Gaussian bound below which the network's error curve speaks of structure that the covariance does not see."""

_ALIKE = 0.02
"""Two grids whose levels differ by less than this in ln sigma count as one."""

_ROUNDS = (8, 24)
"""Noises after which the field is cut, before the last round on all of them."""

_KEPT, _KEPT_BESIDE = (14, 5), (4, 2)
"""How many go on after each cut, in the first race and among those tried beside its winners."""

_HANDS_PER_LEVEL = 3
_SURE, _SURE_OF_FOUR = 1.96, 3.18
"""Standard errors that a 95 % interval reaches to either side: of many judges, and by Student's t of four quick ones."""

_BELOW = 2.0
"""How far under the gauge's level the ladder of start levels goes: few calls gain even where the network would be better."""

_BLENDED = 4
"""Finalists whose pairwise means are tried."""

_SHIFTS = (2.0**-0.5, 2.0**0.5)
"""Start levels beside the winner's that are tried."""

_END_TO_END = 8
"""Most steps of multistep solvers for which grids best end to end are tried: beyond, they cost seconds and won nothing."""

_RAISED, _RAISED_ROWS = 0.05, 8
"""Lowest level, in standard deviations of the data, of the usual grids that are tried beyond those steps, and their number.

Many steps of a multistep solver gain by ending well above the model's lowest level: in 9 to 20 calls of five mixtures and a
network, plans came to 0.97 of their error in the geometric mean of 43 cells, from 0.64 to 1.40; in 8 they gained nothing.
"""

_DOUBLINGS = 2
"""How often the judges are doubled where they cannot tell the winner from the best usual grid: a few noises can hide much."""

_MISSED = 5.0
"""Times `ErrorCurve.missed` that a warm start is taken to cost where no runs were compared: the middle of what was measured."""

_GROWTH = 2.5
"""How much more than the Gaussian's flow a model makes of a difference on its way to the end, where nothing judges.

1.5 to 3.5 for warm starts on two networks and a mixture, from high levels to low; the errors of a network's calls grow with it.
"""

_FINALISTS = 3
"""Winners that the additional judges see beside the best usual grid."""

_PROMISING = 20
"""Grids that quick judges see: the best by theory. Of four noises, the best of 84 was worse than the best of these."""


@dataclass(frozen=True)
class Candidate:
    """A grid in the running for a plan.

    Attributes
    ----------
    name : str
        A row of the catalogue, or the objective it is optimal for ("planned: local"); "fitted" where its levels were then
        fitted to converged runs.
    planned : bool
        Whether it was computed from the spectrum, or fitted.
    sigmas : (n+1,)
        From its start level down.
    warm : bool
        Whether the Gaussian's own solution leads to the start level.
    predicted : float
        Root mean square error per number by the Gaussian theory, the network's own error and what a warm start leaves out
        included; data units.
    measured : float or None
        Root mean square difference from the converged endpoint per number over the judge's noises; None where it was not run.
    interval : (low, high) or None
        95 % interval of `measured`, for errors of like size: too narrow where a few noises end in another picture altogether.
    noises : int
        Number of the judge's noises it was run from.

    Examples
    --------
    >>> Candidate("karras", False, np.array([80.0, 5.0, 0.0]), warm=False, predicted=0.12).measured is None    # not run yet
    True
    """

    name: str
    planned: bool
    sigmas: Float
    warm: bool
    predicted: float
    measured: float | None = None
    interval: tuple[float, float] | None = None
    noises: int = 0


@dataclass(frozen=True, eq=False)
class Plan:
    """A grid for one model, solver and number of steps, and why.

    Attributes
    ----------
    sigmas : (n+1,)
        From the level where the network begins down to 0.
    solver : str
        Name of the solver it is for.
    nfe : int
        Network calls per item.
    warm : WarmStart or None
        From standard normal noise to the state at `sigmas[0]`; None: that state is sigmas[0] times the noise.
    sigma_max : float
        Where a run without warm start begins.
    target : {"endpoint", "data"}
    chosen : Candidate
        The grid as a candidate.
    hand : Candidate
        The best grid of the catalogue from the reference's own start, by the same judge.
    advantage : (estimate, low, high)
        Squared error of `hand` over that of `chosen`, paired over the judge's noises, with its 95 % interval: of the means, or
        the geometric mean over single noises where a few of them make up most of the means. By the theory alone all three are
        the same number.
    candidates : tuple of Candidate
        All that were compared, best first.
    reason : str
        In words.
    calls : int
        Network calls spent on this plan beyond the profile's, counted by item.

    Examples
    --------
    >>> from eigenstep.models import ModelDenoiser
    >>> from eigenstep.paths import EDM
    >>> model = ModelDenoiser(lambda x, sigma: x / (1 + sigma**2), EDM(), "x0", item_shape=(2,))
    >>> made = plan(model, Spectrum.from_eigenvalues([1.0, 1.0]), 2, judges=4, fit=False)
    >>> made.n, made.nfe, made.chosen.name, made.start_level
    (2, 2, 'planned: w2', 80.0)
    >>> Plan.from_json(made.to_json()).sigmas.tolist() == made.sigmas.tolist()
    True
    """

    sigmas: Float
    solver: str
    nfe: int
    warm: WarmStart | None
    sigma_max: float
    target: str
    chosen: Candidate
    hand: Candidate
    advantage: tuple[float, float, float]
    candidates: tuple[Candidate, ...] = field(repr=False)
    reason: str
    calls: int

    @property
    def n(self) -> int:
        """Number of steps."""
        return int(self.sigmas.size) - 1

    @property
    def start_level(self) -> float:
        """Where the network begins."""
        return float(self.sigmas[0])

    @property
    def predicted(self) -> float:
        """Root mean square error per number that a run on this plan will have: measured by the judge, else by theory."""
        return self.chosen.predicted if self.chosen.measured is None else self.chosen.measured

    def _place(self, candidate: Candidate) -> int:
        return next(k for k, other in enumerate(self.candidates) if other is candidate)

    def to_json(self) -> str:
        """The plan as text; a warm start is kept by its two levels, its spectrum must be kept beside it."""
        record = {
            "format": "eigenstep plan",
            "version": __version__,
            "sigmas": self.sigmas.tolist(),
            "solver": self.solver,
            "nfe": self.nfe,
            "warm": None if self.warm is None else {"start": self.warm.sigma_start, "from": _finite(self.warm.sigma_max)},
            "sigma_max": self.sigma_max,
            "target": self.target,
            "advantage": [_finite(value) for value in self.advantage],
            "reason": self.reason,
            "calls": self.calls,
            "candidates": [_record(candidate) for candidate in self.candidates],
            "chosen": self._place(self.chosen),
            "hand": self._place(self.hand),
        }
        return json.dumps(record, indent=1, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, *, spectrum: Spectrum | None = None) -> Plan:
        """The plan that `to_json` wrote.

        Parameters
        ----------
        text : str
        spectrum : Spectrum, optional
            With mean and basis, for a plan with a warm start.

        Raises
        ------
        ValueError
            If the text is no plan, or its warm start has no spectrum.
        """
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"`text` is not JSON: {error}.") from None
        if not isinstance(record, Mapping) or record.get("format") != "eigenstep plan":
            raise ValueError("`text` must be what `Plan.to_json` wrote; its `format` is not 'eigenstep plan'.")
        warm = None
        if record["warm"] is not None:
            if spectrum is None:
                raise ValueError("`spectrum` must be given for a plan with a warm start: the one it was made with.")
            level = record["warm"]["from"]
            warm = WarmStart(spectrum, record["warm"]["start"], math.inf if level is None else level)
        candidates = tuple(_candidate(entry) for entry in record["candidates"])
        estimate, low, high = (math.inf if value is None else float(value) for value in record["advantage"])
        return cls(
            sigmas=np.array(record["sigmas"], dtype=np.float64),
            solver=record["solver"],
            nfe=record["nfe"],
            warm=warm,
            sigma_max=record["sigma_max"],
            target=record["target"],
            chosen=candidates[record["chosen"]],
            hand=candidates[record["hand"]],
            advantage=(estimate, low, high),
            candidates=candidates,
            reason=record["reason"],
            calls=record["calls"],
        )


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _record(candidate: Candidate) -> dict[str, Any]:
    return {
        "name": candidate.name, "planned": candidate.planned, "sigmas": candidate.sigmas.tolist(), "warm": candidate.warm,
        "predicted": candidate.predicted, "measured": candidate.measured, "interval": candidate.interval,
        "noises": candidate.noises,
    }  # fmt: skip


def _candidate(entry: Mapping[str, Any]) -> Candidate:
    interval = None if entry["interval"] is None else (float(entry["interval"][0]), float(entry["interval"][1]))
    return Candidate(**{**entry, "sigmas": np.array(entry["sigmas"], dtype=np.float64), "interval": interval})


def plan(
    model: Denoiser | ModelProfile | str | os.PathLike[str],
    data_or_spectrum: Any,
    n: int,
    *,
    solver: str | Solver = "ddim",
    data: Any = None,
    target: str = "endpoint",
    judges: int | str = 48,
    fit: bool = True,
    basis: int = 200,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Plan:
    """The best grid of n steps for a model, its start level included, and the best usual grid where that is no worse.

    Grids that are optimal for the data's spectrum and the network's own error (`optimal_grid` with `denoiser_error`), end to
    end and step by step, are computed for several start levels; the lower ones are reached by the Gaussian's own solution.
    Where the network sees more than the covariance does, the same is done for its effective spectrum. All run against the
    catalogue from a few noises, whose converged endpoints judge: the selection of a discretisation that Sun, Poor, Zhang
    (arXiv:2601.13602) make by the Gaussian's KL, made by the model itself. The field is cut after 8 and 24 noises; the means
    of the finalists and plans from levels beside the winner's are tried as well, and in more than 8 steps of a multistep solver
    usual grids that end at a twentieth of the data's standard deviation. The winner's levels are then fitted to the
    converged endpoints of 24 other noises (`fit_levels`), and the judges, whom the fit has not seen, choose again. Where the
    winner's advantage over the best usual grid is inside its 95 % interval, the judges are doubled, twice at most; where it
    still is, that grid is returned.

    A quick plan spends some hundred network calls in place of some ten thousand. The theory alone, told how far four runs of
    the model part from the Gaussian's, chooses start levels and ranks all grids; those runs, carried to the end, judge between
    the 20 most promising and the most promising usual one. Nothing is fitted, no judge is added, and the winner is taken as it
    is.

    Parameters
    ----------
    model : Denoiser, ModelProfile, or path
        A profile saves measuring the model again for another n or solver; a path is that of a diffusers folder.
    data_or_spectrum : (m, *item_shape) array, or Spectrum
        Data in the model's value range, ideally ten times as many items as an item has numbers; or their spectrum, with a basis
        for warm starts. Ignored beside a profile (give None).
    n : int
        Number of steps, >= 1.
    solver : str or Solver
    data : array, optional
        Beside a spectrum: some hundred items for the gauge.
    target : {"endpoint", "data"}
        What to come near: where the network's own converged run ends, or the data (see `TARGETS`).
    judges : int or "quick"
        Noises to judge by; 0 trusts the theory alone; "quick": see above. A stochastic solver has no endpoint of its own and is
        always planned by theory. Ignored beside a profile, which has its own.
    fit : bool
        Whether to fit the winner's levels; False leaves grids as they were computed. Nothing is fitted without judges, or by
        quick ones.
    basis : int
        Eigenvectors to keep of data.
    seed : int
    progress : callable, optional
        Called with numbers of network calls as they are made.

    Returns
    -------
    Plan

    Raises
    ------
    ValueError
        For what `profile` and `optimal_grid` refuse; for the target "data" where the gauge leaves nothing to the network.

    Examples
    --------
    >>> from eigenstep.models import ModelDenoiser
    >>> from eigenstep.paths import EDM
    >>> x = np.random.default_rng(0).standard_normal((500, 2)) * [2.0, 1.0]
    >>> wiener = lambda x, sigma: x * [4 / (4 + sigma**2), 1 / (1 + sigma**2)]
    >>> model = ModelDenoiser(wiener, EDM(), "x0", item_shape=(2,))
    >>> made = plan(model, x, 3, judges=8)
    >>> made.n, made.warm is not None, made.predicted < 0.3 * made.hand.measured
    (3, True, True)
    """
    n = _checks.integer(n, "n")
    method = solver_named(solver)
    measured = _profiled(model, data_or_spectrum, data, target, judges, basis, seed, progress)
    contest = _Contest(measured, n, method, progress)
    for level in _start_levels(measured, contest.thorough):
        if measured.sigma_min < level:
            contest.add_usual(level)
            contest.add_planned(level, contest.objectives)
    if not contest.candidates:
        raise ValueError(
            "`model` is nowhere better than the Gaussian of these data: its gauge says to start it at its lowest level, "
            f"{measured.sigma_min:.4g}, which leaves no step to plan. Check the value range of the data, or take "
            "target='endpoint'."
        )
    if contest.judged:
        if not contest.thorough:
            contest.shorten()
        contest.race(range(len(contest.candidates)), _KEPT)
    if contest.thorough:
        if method.memory and n > _END_TO_END:
            contest.raise_lowest()
        contest.refine()
        if fit:
            contest.fit()
        contest.settle()
    order = contest.ranked()
    squares = {place: contest.squares[k] for place, k in enumerate(order)} if contest.judged else {}
    seen = [_statistics(contest.squares[k], _sure(measured)) if contest.judged else {} for k in order]
    candidates = [replace(contest.candidates[k], **told) for k, told in zip(order, seen, strict=True)]
    chosen, hand, advantage, reason = _decide(measured, candidates, squares)
    return Plan(
        sigmas=chosen.sigmas,
        solver=method.name,
        nfe=method.nfe(n),
        warm=measured.warm(float(chosen.sigmas[0])) if chosen.warm else None,
        sigma_max=measured.sigma_max,
        target=measured.target,
        chosen=chosen,
        hand=hand,
        advantage=advantage,
        candidates=tuple(candidates),
        reason=reason,
        calls=contest.calls,
    )


def _profiled(
    model: Any, given: Any, data: Any, target: str, judges: int | str, basis: int, seed: int,
    progress: Callable[[int], None] | None,
) -> ModelProfile:
    """The model's profile, measured where it is not given."""
    if isinstance(model, ModelProfile):
        return model
    if isinstance(model, str | os.PathLike):
        from eigenstep.models.loading import load_denoiser

        model = load_denoiser(model)
    most, levels = gauge_size(judges)
    options: dict[str, Any] = {"target": target, "judges": judges, "levels": levels, "seed": seed, "progress": progress}
    if isinstance(given, Spectrum):
        return profile(model, given, data=data, **options)
    items = np.asarray(given)
    if items.ndim < 2 or len(items) < 2:
        raise ValueError(f"`data_or_spectrum` must be a Spectrum or at least two items of one shape, got shape {items.shape}.")
    keep = min(basis, items[0].size, len(items) - 1)
    spectrum = Spectrum.from_samples(items, basis=keep)
    gauge = items[:: max(1, len(items) // most)][:most] if data is None else data
    return profile(model, spectrum, data=gauge, **options)


def _start_levels(measured: ModelProfile, thorough: bool) -> list[float]:
    """The levels to try: the reference's own start and, for the network's endpoint, a ladder down to where the gauge allows.

    Many judges see what a start below that costs, and one is tried. The theory knows it where the model's runs were compared
    with the Gaussian's, down to the data's standard deviation.
    """
    top = measured.start_level
    if measured.target == "data" or not measured.spectrum.has_eigenvectors:
        return [top]
    # Also where the gauge sees none: who beats the Wiener filter everywhere may still gain by the calls that a start saves.
    lowest = math.sqrt(float(measured.spectrum.eigenvalues[0]))
    if not thorough:
        lowest = float(measured.parting[0][-1])
    elif measured.curve is not None and (level := measured.curve.start_level()) < top:
        lowest = level
    if not lowest < top:
        return [top]
    ratio = max(_LADDER, (top / lowest) ** (1 / _RUNGS))
    rungs = [lowest * ratio**k for k in range(_RUNGS, -1, -1)]
    if thorough:
        rungs.append(lowest / _BELOW)
    return [top, *(level for level in rungs if level < top / math.sqrt(ratio))]


class _Contest:
    """The candidates of one plan, and their mean squared differences from the endpoint by the judge's noises."""

    def __init__(
        self, measured: ModelProfile, n: int, method: Solver, progress: Callable[[int], None] | None
    ) -> None:
        self.measured, self.n, self.method, self.progress = measured, n, method, progress
        self.candidates: list[Candidate] = []
        self.squares: list[Float] = []
        self.calls = 0
        self.judged = bool(len(measured.noise)) and not method.stochastic
        # Where nothing judges, or little does, the theory must reckon with all that it knows of the model.
        self.thorough = self.judged and not measured.quick
        spectrum, curve = measured.spectrum.binned(_NODES), measured.curve
        error = None if curve is None else curve.call_error
        if error is not None and not self.thorough:
            error = CallError(error.sigmas, _GROWTH**2 * error.variances)
        self._options: dict[str, Any] = {"solver": method, "denoiser_error": error}
        self._parting: tuple[Float, Float] | None = None
        if not self.thorough and measured.target == "endpoint" and measured.spectrum.has_eigenvectors:
            self._count(measured.parting_calls)
            self._parting = measured.parting
        # End to end, a multistep solver's errors cancel as only a Gaussian's do: theory section 7. In few steps such grids may
        # win all the same, and are tried where those that are best step by step did.
        self.objectives: tuple[str, ...] = ("w2", "local") if method.memory == 0 else ("local",)
        if method.memory and method.stochastic:
            # Nothing judges these; of what theory offers, w2 + local/5 made the samples nearest the data.
            self.objectives = ("blend",)
        self._late: tuple[str, ...] = ("w2",) if method.memory and n <= _END_TO_END else ()
        # Where the network sees more than the covariance, the eigenvalues that its own error curve asks for: theory section 7.
        self._sources = [("", spectrum)]
        if curve is not None and bool(np.any(curve.ratio < _SEES_MORE)):
            self._sources.append((", effective spectrum", effective_spectrum(curve, measured.spectrum)))

    def add(self, name: str, sigmas: Float, planned: bool, *, cold: bool = False) -> None:
        """One more candidate, unless its levels are those of another; a cold one scales the noise to its first level."""
        logs = np.log(sigmas[:-1])
        if any(np.abs(np.log(other.sigmas[:-1]) - logs).max() < _ALIKE for other in self.candidates):
            return
        value = divergence(self._sources[0][1], sigmas, objective=self.objectives[0], **self._options)
        level = float(sigmas[0])
        # Without eigenvectors a grid that begins below the reference's own start, as hosts' do, begins with plain noise.
        warm = not cold and self.measured.spectrum.has_eigenvectors and self.measured.warm(level) is not None
        missed = self._missed(level) if warm else self._unscaled(level) if self.measured.begins_below(level) else 0.0
        predicted = math.hypot(math.sqrt(value / float(self.measured.spectrum.dim)), missed)
        self.candidates.append(Candidate(name, planned, sigmas, warm, predicted))
        self.squares.append(np.empty(0))

    def _missed(self, level: float) -> float:
        """What a warm start at a level leaves out, as theory alone must reckon with it."""
        if self._parting is not None:
            levels, apart = self._parting
            return _GROWTH * float(np.interp(math.log(level), np.log(levels[::-1]), apart[::-1], right=0.0))
        curve, leading = self.measured.curve, float(self.measured.spectrum.eigenvalues[0])
        if curve is None:
            return 0.0
        # The data do not ask for what the network errs above; its own endpoint does.
        own = curve.displaced(level, leading=leading) if self.measured.target == "endpoint" else 0.0
        return own + _MISSED * curve.missed(level, leading=leading)

    def _unscaled(self, level: float) -> float:
        """What plain noise at a level is off at the end, where the state should be noise and data: per number, by exact flow.

        sqrt(lambda) becomes s sqrt(lambda/(lambda + s^2)), and the mean's own share shrinks by sqrt(lambda/(lambda + s^2)).
        """
        spectrum = self._sources[0][1]
        lam, squared = spectrum.eigenvalues, level**2
        shrunk = lam / (lam + squared)
        off = spectrum.multiplicities * lam * (1 - level / np.sqrt(lam + squared)) ** 2 + spectrum.mean_energy * shrunk
        return math.sqrt(float(off.sum()) / float(self.measured.spectrum.dim))

    def add_planned(self, level: float, objectives: Sequence[str]) -> None:
        """The optimal grids from a level, for some objectives and every spectrum."""
        for label, source in self._sources:
            for objective in objectives:
                best = optimal_grid(source, self.n, self.measured.sigma_min, level, objective=objective, **self._options)
                self.add(f"planned: {objective}{label}", best.sigmas, True)

    def _best_rows(self, rows: Mapping[str, Float], kept: int) -> list[tuple[str, Float]]:
        """As many grids of the catalogue as are to be kept, the best by the theory of single steps; all as they come."""
        if kept >= len(rows):
            return list(rows.items())
        spectrum = self._sources[0][1]
        values = {name: divergence(spectrum, sigmas, objective="local", **self._options) for name, sigmas in rows.items()}
        return [(name, rows[name]) for name in sorted(values, key=values.__getitem__)[:kept]]

    def add_usual(self, level: float) -> None:
        """The whole catalogue from the reference's own start, its most promising rows from lower levels."""
        measured, spectrum = self.measured, self._sources[0][1]
        path = measured.denoiser.path if level == measured.sigma_max else None
        hands = catalogue_grids(self.n, measured.sigma_min, level, final=0.0, spectrum=spectrum, path=path)
        kept = len(hands) if level == measured.start_level else _HANDS_PER_LEVEL
        for name, sigmas in self._best_rows(hands, kept):
            self.add(name, sigmas, False)
        if path is not None and path.n_timesteps is not None and self.n <= path.n_timesteps:
            # What diffusers' schedulers do unless told otherwise: the first of their levels is below sigma_max.
            leading = timestep_grid(self.n, path=path, spacing="leading")
            if leading[0] < level and leading[-2] >= measured.sigma_min:
                self.add("leading", leading, False, cold=True)

    def shorten(self) -> None:
        """Leave the most promising by theory, and the most promising usual grid."""
        order = sorted(range(len(self.candidates)), key=lambda k: self.candidates[k].predicted)
        kept = order[:_PROMISING]
        kept += [k for k in order if _usual(self.measured, self.candidates[k])][:1]
        self.candidates = [self.candidates[k] for k in dict.fromkeys(kept)]
        self.squares = self.squares[: len(self.candidates)]

    def race(self, running: Sequence[int], kept: Sequence[int]) -> None:
        """Run some candidates from ever more noises, the worst dropping out; the best usual grid always stays to the end."""
        running, total = list(running), len(self.measured.noise)
        cuts = [(stop, keep) for stop, keep in zip(_ROUNDS, kept, strict=True) if stop < total]
        for stop, keep in [*cuts, (total, len(running))]:
            for k in running:
                self._judge(k, stop)
            running.sort(key=lambda k: float(self.squares[k].mean()))
            usual = next((k for k in running if _usual(self.measured, self.candidates[k])), None)
            running = [k for place, k in enumerate(running) if place < keep or k == usual]

    def _judge(self, k: int, stop: int) -> None:
        """Run a candidate from the noises that it has not seen, up to the judge's first `stop`."""
        measured, done = self.measured, self.squares[k].size
        candidate = self.candidates[k]
        out = measured.run(measured.noise[done:stop], candidate.sigmas, self.method, warm=candidate.warm)
        difference = (out - measured.endpoint[done:stop]).reshape(stop - done, -1)
        self.squares[k] = np.concatenate([self.squares[k], np.mean(difference**2, axis=1)])
        self._count((stop - done) * self.method.nfe(self.n))

    def _count(self, made: int) -> None:
        self.calls += made
        if self.progress is not None:
            self.progress(made)

    def ranked(self) -> list[int]:
        """Indices, those that ran from most noises first, the best of them first; without a judge by theory."""
        if self.judged:
            return sorted(range(len(self.squares)), key=lambda k: (-self.squares[k].size, float(self.squares[k].mean())))
        return sorted(range(len(self.squares)), key=lambda k: self.candidates[k].predicted)

    def raise_lowest(self) -> None:
        """Race usual grids from the winner's level that end well above the model's lowest, the best of them step by step."""
        measured, spectrum = self.measured, self._sources[0][1]
        top = float(self.candidates[self.ranked()[0]].sigmas[0])
        low = _RAISED * math.sqrt(float(measured.spectrum.trace) / float(measured.spectrum.dim))
        if not measured.sigma_min < low < top:
            return
        known = len(self.candidates)
        for name, sigmas in self._best_rows(catalogue_grids(self.n, low, top, final=0.0, spectrum=spectrum), _RAISED_ROWS):
            self.add(f"raised {name}", sigmas, True)
        self.race(range(known, len(self.candidates)), _KEPT)

    def refine(self) -> None:
        """Race against the best few their means, plans from levels beside the winner's, and other objectives at its own."""
        finalists = self.ranked()[:_BLENDED]
        known = len(self.candidates)
        for one, other in combinations(finalists, 2):
            blend = np.sqrt(self.candidates[one].sigmas * self.candidates[other].sigmas)
            names = sorted({self.candidates[k].name for k in (one, other)})
            self.add("mean of " + (" and ".join(names) if len(names) > 1 else f"two {names[0]}"), blend, True)
        winner = float(self.candidates[finalists[0]].sigmas[0])
        if winner < self.measured.start_level:
            for shift in _SHIFTS:
                if self.measured.sigma_min < winner * shift < self.measured.start_level:
                    self.add_planned(winner * shift, self.objectives)
        self.add_planned(winner, self._late)
        self.race(range(known, len(self.candidates)), _KEPT_BESIDE)

    def fit(self) -> None:
        """Judge the winner with its levels fitted to endpoints that no judge is asked about, and with them half-way there.

        The whole way remains only where it is certainly better than half: where a few noises make up most of the error it
        serves the others, and the judges, few as they are, cannot see what that costs.
        """
        winner, measured = self.candidates[self.ranked()[0]], self.measured
        self._count(measured.fitting_calls)
        noise, endpoint = measured.fitting
        found = fit_levels(
            measured.denoiser,
            winner.sigmas,
            noise,
            endpoint,
            solver=self.method,
            start=measured.start if winner.warm else None,
            lowest=min(measured.sigma_min, float(winner.sigmas[-2])),
            highest=max(measured.start_level, float(winner.sigmas[0])),
            progress=self._count,
        )
        known = len(self.candidates)
        for name, sigmas in (("half fitted", np.sqrt(winner.sigmas * found.sigmas)), ("fitted", found.sigmas)):
            self.add(f"{winner.name}, {name}", sigmas, True, cold=not winner.warm)
        self.race(range(known, len(self.candidates)), _KEPT_BESIDE)
        if len(self.candidates) == known + 2 and _paired(self.squares[-1], self.squares[-2])[1] <= 1:
            self.candidates.pop()
            self.squares.pop()

    def settle(self) -> None:
        """Double the judges of the finalists until the winner is a usual grid, or surely better than the best of those."""
        for _ in range(_DOUBLINGS):
            order = self.ranked()
            hand = next(k for k in order if _usual(self.measured, self.candidates[k]))
            if order[0] == hand or _advantage(self.squares[order[0]], self.squares[hand])[1] > 1:
                return
            calls = self.measured.doubling_calls
            self.measured = self.measured.doubled
            self._count(calls)
            for k in dict.fromkeys((*order[:_FINALISTS], hand)):
                self._judge(k, len(self.measured.noise))


def _sure(measured: ModelProfile) -> float:
    """Standard errors that a 95 % interval of its judges reaches to either side."""
    return _SURE_OF_FOUR if measured.quick else _SURE


def _statistics(squares: Float, sure: float) -> dict[str, Any]:
    """Root mean square over noises, with its 95 % interval."""
    mean, spread = float(squares.mean()), 0.0
    if squares.size > 1:
        spread = sure * float(squares.std(ddof=1)) / math.sqrt(squares.size)
    low, high = math.sqrt(max(mean - spread, 0.0)), math.sqrt(mean + spread)
    return {"measured": math.sqrt(mean), "interval": (low, high), "noises": int(squares.size)}


def _usual(measured: ModelProfile, candidate: Candidate) -> bool:
    """Whether a candidate is what people use: a hand-made grid from where the reference itself starts, or from plain noise."""
    return not candidate.planned and (not candidate.warm or bool(candidate.sigmas[0] >= measured.start_level * (1 - 1e-9)))


def _advantage(own: Float, other: Float, sure: float = _SURE) -> tuple[float, float, float]:
    """Ratio of squared errors, other over own, with its 95 % interval, paired over the noises that both have.

    Of their means; where that is undecided because a few noises are most of both, though the means favour `own`, the
    geometric mean of the ratios of single noises, if that is decided.
    """
    estimate, low, high = _paired(own, other, sure)
    count = min(own.size, other.size)
    own, other = own[:count], other[:count]
    if low <= 1 < estimate < math.inf and count > 1 and min(own.min(), other.min()) > 0:
        ratios = np.log(other / own)
        middle, half = float(ratios.mean()), sure * float(ratios.std(ddof=1)) / math.sqrt(count)
        if middle > half:
            return math.exp(middle), math.exp(middle - half), math.exp(middle + half)
    return estimate, low, high


def _paired(own: Float, other: Float, sure: float = _SURE) -> tuple[float, float, float]:
    """Ratio of the means, other over own, with the 95 % interval of their differences over the noises that both have."""
    count = min(own.size, other.size)
    own, other = own[:count], other[:count]
    scale = float(own.mean())
    if count < 2 or not scale:
        return (float(other.mean()) / scale if scale else math.inf, 0.0, math.inf)
    gained = other / scale - own / scale
    spread = sure * float(gained.std(ddof=1)) / math.sqrt(count)
    estimate = 1 + float(gained.mean())
    return estimate, estimate - spread, estimate + spread


def _decide(
    measured: ModelProfile, ranked: Sequence[Candidate], squares: Mapping[int, Float]
) -> tuple[Candidate, Candidate, tuple[float, float, float], str]:
    """The winner, or the best hand-made grid from the same start where the winner's advantage is not certain."""
    best = ranked[0]
    place = next(k for k, candidate in enumerate(ranked) if _usual(measured, candidate))
    hand = ranked[place]
    if not squares:
        ratio = (hand.predicted / best.predicted) ** 2 if best.predicted else math.inf
        return best, hand, (ratio, ratio, ratio), (
            f"{_words(best)} has the least error by the Gaussian theory, {best.predicted:.3g} per number; the best usual grid, "
            f"{hand.name}, has {hand.predicted:.3g}. No run of the network judged."
        )
    count = squares[0].size
    estimate, low, high = _advantage(squares[0], squares[place], _sure(measured))
    reached = "the end of longer runs" if measured.quick else "the converged endpoint"
    figures = f"{best.measured:.3g} per number from {reached} over {count} noises"
    if place == 0:
        return best, hand, (1.0, 1.0, 1.0), f"The usual grid {hand.name} is the best of all that were run: {figures}."
    if measured.quick:
        surely = "surely so" if low > 1 else f"{count} runs do not make that certain"
        return best, hand, (estimate, low, high), (
            f"{_words(best)}: {figures}; the most promising usual grid, {hand.name}, has {hand.measured:.3g}: {surely}."
        )
    if low <= 1:
        return hand, hand, (1.0, 1.0, 1.0), (
            f"{_words(best)} came out ahead, {figures}, but its advantage over the usual grid {hand.name} "
            f"({hand.measured:.3g}) is inside the uncertainty; that grid is kept."
        )
    return best, hand, (estimate, low, high), (
        f"{_words(best)}: {figures}; the best usual grid, {hand.name}, has {hand.measured:.3g}."
    )


def _words(candidate: Candidate) -> str:
    level = f"from {candidate.sigmas[0]:.4g}" + (" after a warm start" if candidate.warm else "")
    return f"{candidate.name} {level}"

