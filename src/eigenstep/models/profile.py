"""A model measured once for every plan that is made for it: spectrum, gauge, and converged runs of its own as judge."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eigenstep import _checks
from eigenstep.gaussian import warm_start
from eigenstep.grids import grid, karras_law
from eigenstep.models.denoiser import Denoiser
from eigenstep.models.gauge import ErrorCurve, error_curve
from eigenstep.models.sampling import item_noise
from eigenstep.models.warm import WarmStart
from eigenstep.solvers import Solver, sample
from eigenstep.spectrum import Spectrum

Float = NDArray[np.float64]

TARGETS: tuple[str, ...] = ("endpoint", "data")
"""What a plan should come near: where the network's own converged run from the same noise ends, or the data.

With "data" the Gaussian takes over wherever the gauge says that it denoises better than the network, and the reference is the
converged run from there.
"""

_REFERENCE_STEPS = 60
_FITTING_NOISES = 24
"""Noises whose endpoints plans fit levels to: twelve gain nearly as much, 48 little more."""

_FIRST_FITTING = 2**30
"""Index of the first of them: no judge has it, nor whoever draws noise of the same seed for samples."""

_PARTING_NOISES, _PARTING_STEPS = 4, 14
"""Noises and steps of the runs that say how far the model parts from the Gaussian."""

_FIRST_PARTING = 2**30 + 2**20
"""Index of the first of them, which are no fit's, and no judge's but a quick one's."""

QUICK = "quick"
"""In place of a number of judges: those runs, carried to the end, judge what the theory takes for the best."""

QUICK_ITEMS, QUICK_LEVELS = 8, 12
"""Items and levels of the gauge of a quick plan: the theory needs no more."""

_ENDING_STEPS = 8
"""From the data's standard deviation to 0, with which a quick judge's run comes near its converged end: 22 steps in all."""

_CHECKED = 8
"""Judges whose endpoint is computed with half the steps as well."""

_PRIOR_MISMATCH = 0.01
"""lambda_1 / sigma_max^2 beyond which pure noise at sigma_max is a wrong start: 1 % of the variance in one direction."""


@dataclass(frozen=True, eq=False)
class ModelProfile:
    """A model measured once, for any number of plans.

    Attributes
    ----------
    denoiser : Denoiser
    spectrum : Spectrum
        Of the data; with mean and basis where warm starts are wanted.
    curve : ErrorCurve or None
        The gauge; None where no data were given.
    target : {"endpoint", "data"}
    sigma_min, sigma_max : float
        Levels the network may be called at, data units.
    start_level : float
        Where the judge's reference begins: sigma_max, or the gauge's start level for the target "data".
    origin : float
        Level of the noise that runs start from: sigma_max, or infinity where, for the target "data", the start repairs a path
        that does not reach pure noise.
    noise : (m, *item_shape)
        Standard normal noise of the judge's runs; m = 0 without a judge.
    endpoint : (m, *item_shape)
        Where the converged runs from it end; those of 22 steps for quick judges.
    endpoint_error : float
        Root mean square change of some endpoints with half the steps, data units: what the reference is worth. Not measured,
        nan, for quick judges.
    calls : int
        Network calls this took, counted by item.
    seed : int
        Of `noise`, which is `item_noise` of the first m items; of others for quick judges.
    quick : bool
        Whether plans are made by theory, and four runs of the model judge between the most promising grids.

    Examples
    --------
    >>> from eigenstep.models import ModelDenoiser
    >>> from eigenstep.paths import EDM
    >>> model = ModelDenoiser(lambda x, sigma: x / (1 + sigma**2), EDM(), "x0", item_shape=(2,))
    >>> measured = profile(model, Spectrum.from_eigenvalues([1.0, 1.0]), judges=4)
    >>> measured.start_level, measured.noise.shape, measured.calls
    (80.0, (4, 2), 360)
    """

    denoiser: Denoiser
    spectrum: Spectrum
    curve: ErrorCurve | None
    target: str
    sigma_min: float
    sigma_max: float
    start_level: float
    origin: float
    noise: Float
    endpoint: Float
    endpoint_error: float
    calls: int
    seed: int = 0
    quick: bool = False

    def judged_by(self, judges: int, *, progress: Callable[[int], None] | None = None) -> ModelProfile:
        """The same with the converged endpoints of as many noises; `calls` counts the new ones too.

        Parameters
        ----------
        judges : int
            How many in all, at least those it has, which stay; quick ones go.
        progress : callable, optional
            Called with the number of network calls just made.

        Raises
        ------
        ValueError
            If fewer are asked for than there are.

        Examples
        --------
        >>> from eigenstep.models import ModelDenoiser
        >>> from eigenstep.paths import EDM
        >>> model = ModelDenoiser(lambda x, sigma: x / (1 + sigma**2), EDM(), "x0", item_shape=(2,))
        >>> few = profile(model, Spectrum.from_eigenvalues([1.0, 1.0]), judges=2)
        >>> more = few.judged_by(5)
        >>> more.endpoint.shape, more.calls - few.calls, bool((more.noise[:2] == few.noise).all())
        ((5, 2), 180, True)
        """
        known = 0 if self.quick else len(self.noise)
        judges = _checks.integer(judges, "judges", minimum=known)
        if judges == known:
            return self
        more = item_noise(range(known, judges), self.noise.shape[1:], seed=self.seed)
        endpoint = self.run(more, self._reference(_REFERENCE_STEPS), "dpmpp_2m")
        made = len(more) * _REFERENCE_STEPS
        if progress is not None:
            progress(made)
        return replace(
            self,
            noise=np.concatenate([self.noise[:known], more]),
            endpoint=np.concatenate([self.endpoint[:known], endpoint]),
            calls=self.calls + made,
            quick=False,
        )

    @functools.cached_property
    def doubled(self) -> ModelProfile:
        """The same with twice the judges: made when first asked for, and kept for the next plan that needs them.

        >>> from eigenstep.models import ModelDenoiser
        >>> from eigenstep.paths import EDM
        >>> model = ModelDenoiser(lambda x, sigma: x / (1 + sigma**2), EDM(), "x0", item_shape=(2,))
        >>> few = profile(model, Spectrum.from_eigenvalues([1.0, 1.0]), judges=2)
        >>> few.doubled.endpoint.shape, few.doubled is few.doubled
        ((4, 2), True)
        """
        return self.judged_by(2 * len(self.noise))

    @property
    def doubling_calls(self) -> int:
        """Network calls that `doubled` will make, counted by item: none where it is known already.

        >>> from eigenstep.models import ModelDenoiser
        >>> from eigenstep.paths import EDM
        >>> model = ModelDenoiser(lambda x, sigma: x / (1 + sigma**2), EDM(), "x0", item_shape=(2,))
        >>> few = profile(model, Spectrum.from_eigenvalues([1.0, 1.0]), judges=2)
        >>> before, _ = few.doubling_calls, few.doubled
        >>> before, few.doubling_calls
        (120, 0)
        """
        # Quick judges do not stay: all of them are made anew.
        new = 2 * len(self.noise) if self.quick else len(self.noise)
        return 0 if "doubled" in vars(self) else new * _REFERENCE_STEPS

    @functools.cached_property
    def fitting(self) -> tuple[Float, Float]:
        """Noises that are no judge's, and where the converged runs from them end: made when first asked for, and kept.

        Two (24, *item_shape) arrays: standard normal noise, and endpoints in data units.

        >>> from eigenstep.models import ModelDenoiser
        >>> from eigenstep.paths import EDM
        >>> model = ModelDenoiser(lambda x, sigma: x / (1 + sigma**2), EDM(), "x0", item_shape=(2,))
        >>> measured = profile(model, Spectrum.from_eigenvalues([1.0, 1.0]), judges=2)
        >>> noise, endpoint = measured.fitting
        >>> noise.shape, bool(np.abs(endpoint - noise).max() < 0.01)            # N(0, 1) data: the exact flow keeps z
        ((24, 2), True)
        """
        noise = item_noise(range(_FIRST_FITTING, _FIRST_FITTING + _FITTING_NOISES), self.noise.shape[1:], seed=self.seed)
        return noise, self.run(noise, self._reference(_REFERENCE_STEPS), "dpmpp_2m")

    @property
    def fitting_calls(self) -> int:
        """Network calls that `fitting` will make, counted by item: none where it is known already.

        >>> from eigenstep.models import ModelDenoiser
        >>> from eigenstep.paths import EDM
        >>> model = ModelDenoiser(lambda x, sigma: x / (1 + sigma**2), EDM(), "x0", item_shape=(2,))
        >>> measured = profile(model, Spectrum.from_eigenvalues([1.0, 1.0]), judges=0)
        >>> before, _ = measured.fitting_calls, measured.fitting
        >>> before, measured.fitting_calls
        (1440, 0)
        """
        return 0 if "fitting" in vars(self) else _FITTING_NOISES * _REFERENCE_STEPS

    @functools.cached_property
    def parting(self) -> tuple[Float, Float]:
        """Levels, and how far from each other the model's own runs and the Gaussian's are there: measured when first asked for.

        Two (14,) arrays: levels from the reference's start down to the data's standard deviation, data units, and the root mean
        square difference per number of four runs (14 steps of DPM++(2M)) from the Gaussian's solution from the same noise, both
        carried to the end by the Gaussian's flow. What a warm start at a level leaves out, but for what the model makes of a
        difference on its way.

        Raises
        ------
        ValueError
            Without eigenvectors in the spectrum.

        >>> from eigenstep.models import ModelDenoiser
        >>> from eigenstep.paths import EDM
        >>> x = np.array([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> source = Spectrum.from_samples(x, basis=2)
        >>> for mean in (0.0, 1.0):                              # the Gaussian's own denoiser, and one of another mean
        ...     wiener = lambda x, sigma: mean + (x - mean) * source.eigenvalues / (source.eigenvalues + sigma**2)
        ...     model = ModelDenoiser(wiener, EDM(), "x0", item_shape=(2,))
        ...     levels, apart = profile(model, source, judges=0).parting
        ...     print(levels[[0, -1]].round(2).tolist(), apart[[0, -1]].round(2).tolist())
        [59.58, 1.29] [0.0, 0.01]
        [59.58, 1.29] [0.01, 0.66]
        """
        levels = self._parting_levels()
        return levels[1:], self._compared(levels)[0]

    def _parting_levels(self) -> Float:
        """From the reference's start down to the data's standard deviation, in equal steps of ln sigma."""
        deviation = math.sqrt(float(self.spectrum.trace) / float(self.spectrum.dim))
        low = min(max(deviation, self.sigma_min), 0.5 * self.start_level)
        return np.geomspace(self.start_level, low, _PARTING_STEPS + 1)

    def _parting_noise(self) -> Float:
        return item_noise(range(_FIRST_PARTING, _FIRST_PARTING + _PARTING_NOISES), self.noise.shape[1:], seed=self.seed)

    def _compared(self, levels: Float) -> tuple[Float, Float]:
        """How far the model's runs are from the Gaussian's at each of the first levels after the start, and where they end."""
        first = self.start(self.start_level, self._parting_noise())
        known = self.spectrum.has_eigenvectors
        own = warm_start(self.spectrum, first, 0.0, sigma_max=self.start_level) if known else first
        apart: list[float] = []

        def compare(k: int, x: Any) -> None:
            if known and k < _PARTING_STEPS:
                end = warm_start(self.spectrum, np.asarray(x, dtype=np.float64), 0.0, sigma_max=float(levels[k + 1]))
                apart.append(math.sqrt(float(np.mean((end - own) ** 2))))

        out = sample(self.denoiser, first, levels, solver="dpmpp_2m", callback=compare)
        return np.array(apart), np.asarray(out, dtype=np.float64)

    def _judged_quickly(self, progress: Callable[[int], None] | None) -> ModelProfile:
        """The same with the runs of `parting`, which they measure as well, carried to the end for judges."""
        levels = self._parting_levels()
        ending = np.array([levels[-1], 0.0])
        if self.sigma_min < levels[-1]:
            ending = grid(karras_law(self.sigma_min, float(levels[-1]), rho=7.0), _ENDING_STEPS, final=0.0)
        sigmas = np.concatenate([levels[:-1], ending])
        apart, endpoint = self._compared(sigmas)
        made = len(endpoint) * (len(sigmas) - 1)
        if progress is not None:
            progress(made)
        found = replace(
            self, noise=self._parting_noise(), endpoint=endpoint, endpoint_error=math.nan, calls=self.calls + made, quick=True
        )  # fmt: skip
        if len(apart):
            vars(found)["parting"] = levels[1:], apart
        return found

    @property
    def parting_calls(self) -> int:
        """Network calls that `parting` will make, counted by item: none where it is known already.

        >>> from eigenstep.models import ModelDenoiser
        >>> from eigenstep.paths import EDM
        >>> x = np.array([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> model = ModelDenoiser(lambda x, sigma: x / (1 + sigma**2), EDM(), "x0", item_shape=(2,))
        >>> measured = profile(model, Spectrum.from_samples(x, basis=2), judges=0)
        >>> before, _ = measured.parting_calls, measured.parting
        >>> before, measured.parting_calls
        (56, 0)
        """
        return 0 if "parting" in vars(self) else _PARTING_NOISES * _PARTING_STEPS

    def start(self, level: float, noise: Float) -> Float:
        """States at a level (data units) from standard normal noise, both (m, *item_shape), by the warm start if there is one.

        Raises
        ------
        ValueError
            For a level below sigma_max without eigenvectors in the spectrum.

        Examples
        --------
        >>> from eigenstep.models import ModelDenoiser
        >>> from eigenstep.paths import EDM
        >>> x = np.array([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])    # eigenvalues 8/3 and 2/3
        >>> model = ModelDenoiser(lambda x, sigma: x, EDM(), "x0", item_shape=(2,))
        >>> measured = profile(model, Spectrum.from_samples(x, basis=2), judges=0)
        >>> measured.start(80.0, np.ones((1, 2))).tolist()                      # sigma_max: the noise, scaled
        [[80.0, 80.0]]
        >>> measured.start(3.0, np.ones((1, 2))).round(1).tolist()              # about sqrt(lambda + 9) in each direction
        [[3.4, 3.1]]
        """
        found = self.warm(level)
        return np.asarray(found(noise), dtype=np.float64) if found is not None else level * noise

    def _reference(self, steps: int) -> Float:
        """The grid of the converged runs."""
        return grid(karras_law(self.sigma_min, self.start_level, rho=7.0), steps, final=0.0)

    def begins_below(self, level: float) -> bool:
        """Whether a level (data units) is below sigma_max by more than rounding: noise scaled to it is not the path's state.

        >>> from eigenstep.models import ModelDenoiser
        >>> from eigenstep.paths import EDM
        >>> model = ModelDenoiser(lambda x, sigma: x / (1 + sigma**2), EDM(), "x0", item_shape=(2,))
        >>> measured = profile(model, Spectrum.from_eigenvalues([1.0, 1.0]), judges=0)
        >>> [measured.begins_below(level) for level in (80.0, 80 * (1 - 1e-15), 20.0)]
        [False, False, True]
        """
        return level < self.sigma_max * (1 - 1e-12)

    def warm(self, level: float) -> WarmStart | None:
        """The start at a level: None where it is the plain sigma_max z.

        >>> from eigenstep.models import ModelDenoiser
        >>> from eigenstep.paths import EDM
        >>> x = np.array([[2.0, 0.0], [-2.0, 0.0], [0.0, 1.0], [0.0, -1.0]])
        >>> model = ModelDenoiser(lambda x, sigma: x, EDM(), "x0", item_shape=(2,))
        >>> measured = profile(model, Spectrum.from_samples(x, basis=2), judges=0)
        >>> measured.warm(80.0) is None, measured.warm(3.0).sigma_start
        (True, 3.0)
        """
        if not self.begins_below(level) and math.isfinite(self.origin):
            return None
        return WarmStart(self.spectrum, min(level, self.sigma_max), self.origin)

    def run(self, noise: Float, sigmas: Float, solver: Solver | str, *, warm: bool = True) -> Float:
        """Where runs of the model from standard normal noise end, on a grid that begins at its start level.

        Without `warm` the noise is scaled to that level, however low, as programs do whose grid begins below sigma_max.
        """
        states = self.start(float(sigmas[0]), noise) if warm else sigmas[0] * noise
        return np.asarray(sample(self.denoiser, states, sigmas, solver=solver), dtype=np.float64)


def profile_calls(n_items: int, judges: int | str, *, levels: int = 25) -> int:
    """Network calls, counted by item, that `profile` makes with `n_items` for the gauge: what its progress goes up to.

    >>> profile_calls(400, 48), profile_calls(8, "quick", levels=12)
    (13120, 184)
    """
    if isinstance(judges, str):
        return n_items * levels + _PARTING_NOISES * (_PARTING_STEPS + _ENDING_STEPS)
    return n_items * levels + judges * _REFERENCE_STEPS + min(_CHECKED, judges) * (_REFERENCE_STEPS // 2)


def gauge_size(judges: int | str) -> tuple[int, int]:
    """Most items, and levels, of the gauge that plans with these judges need.

    >>> gauge_size(48), gauge_size("quick")
    ((400, 25), (8, 12))
    """
    return (QUICK_ITEMS, QUICK_LEVELS) if judges == QUICK else (400, 25)


def profile(
    model: Denoiser,
    spectrum: Spectrum,
    *,
    data: Any = None,
    target: str = "endpoint",
    judges: int | str = 48,
    levels: int = 25,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> ModelProfile:
    """Measure a model: its gauge on some data, and where its own converged runs end.

    Parameters
    ----------
    model : Denoiser
        With `item_shape`, or `data` must be given.
    spectrum : Spectrum
        Of the data, in the model's value range, with `basis` for warm starts.
    data : (m, *item_shape) array, optional
        Some hundred items that the model was not trained on, for the gauge. Without them plans know nothing of the network's
        error.
    target : {"endpoint", "data"}
    judges : int or "quick"
        Number of noises whose converged endpoints (60 calls of DPM++(2M) each) judge between candidate grids; 0: none, the
        Gaussian theory decides alone. "quick": the theory decides which grids are run at all, and the four runs that tell it
        how far the model parts from the Gaussian, 22 steps each, judge between those.
    levels : int
        Levels of the gauge.
    seed : int
    progress : callable, optional
        Called with a number of network calls just made.

    Returns
    -------
    ModelProfile

    Raises
    ------
    ValueError
        For unknown names; for a target "data" without data or basis; where the gauge says that model and data do not belong
        together; where shapes disagree.

    Examples
    --------
    >>> from eigenstep.models import ModelDenoiser
    >>> from eigenstep.paths import EDM
    >>> x = np.random.default_rng(0).standard_normal((500, 2)) * [2.0, 1.0]
    >>> wiener = lambda x, sigma: x * [4 / (4 + sigma**2), 1 / (1 + sigma**2)]
    >>> model = ModelDenoiser(wiener, EDM(), "x0", item_shape=(2,))
    >>> measured = profile(model, Spectrum.from_samples(x, basis=2), data=x[:100], judges=4)
    >>> measured.calls, measured.endpoint.shape, measured.endpoint_error < 0.02
    (2860, (4, 2), True)
    """
    _checks.choice(target, TARGETS, "target")
    if isinstance(judges, str) and judges != QUICK:
        raise ValueError(f'`judges` must be a number of noises, or "quick", got {judges!r}.')
    number = 0 if isinstance(judges, str) else _checks.integer(judges, "judges", minimum=0)
    path_max = float(model.sigma_max)
    low, high = float(model.sigma_min), path_max
    if not math.isfinite(high):
        high = 1e3 * math.sqrt(float(spectrum.eigenvalues[0]))
    if low <= 0:
        low = 1e-3 * math.sqrt(float(spectrum.trace) / float(spectrum.dim))
    items = None if data is None else np.asarray(data)
    shape = model.item_shape or (items.shape[1:] if items is not None else spectrum.item_shape)
    if shape is None:
        raise ValueError("`model` does not tell the shape of an item; give `data`, or a spectrum that knows its `item_shape`.")
    if math.prod(shape) != round(float(spectrum.dim)):
        raise ValueError(
            f"`model` takes items of shape {tuple(shape)}, {math.prod(shape)} numbers, and `spectrum` has {spectrum.dim} "
            "dimensions; measure the spectrum of the data that the model makes."
        )
    curve, calls = None, 0
    if items is not None:
        curve = error_curve(
            model, items, spectrum=spectrum, sigma_min=low, sigma_max=high, levels=levels, seed=seed, progress=progress
        )
        curve.check_agreement()
        calls += len(items) * levels
    start = high
    if target == "data":
        if curve is None or not spectrum.has_eigenvectors:
            raise ValueError(
                "`target`='data' needs `data` for the gauge and a spectrum with mean and eigenvectors: measure it with `basis`."
            )
        start = min(high, curve.start_level())
    mismatched = float(spectrum.eigenvalues[0]) > _PRIOR_MISMATCH * high**2
    # Another start is another endpoint: only who aims at the data may repair it.
    origin = math.inf if mismatched and target == "data" else high
    none = np.empty((0, *shape))
    empty = ModelProfile(model, spectrum, curve, target, low, high, start, origin, none, none, 0.0, calls, seed)
    if isinstance(judges, str):
        return empty._judged_quickly(progress)
    if not number:
        return empty
    judged = empty.judged_by(number, progress=progress)
    few = judged.noise[:_CHECKED]
    change = judged.endpoint[: len(few)] - judged.run(few, judged._reference(_REFERENCE_STEPS // 2), "dpmpp_2m")
    made = len(few) * (_REFERENCE_STEPS // 2)
    if progress is not None:
        progress(made)
    return replace(judged, endpoint_error=float(np.sqrt(np.mean(change**2))), calls=judged.calls + made)
