"""A pretrained network beside the page: its gauge, and what it makes of the same noise on several grids."""

from __future__ import annotations

import base64
import io
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from eigenstep._checks import Float, integer
from eigenstep.evaluation import rmse
from eigenstep.evaluation.subject import Subject, check_calls, fitted_items, model_range
from eigenstep.explore.jobs import Cancelled, Job
from eigenstep.models import ModelProfile, Plan, generate, plan, profile
from eigenstep.models.profile import profile_calls
from eigenstep.paths import NoisePath
from eigenstep.solvers import SOLVERS
from eigenstep.spectrum import Spectrum

JUDGES = 24
"""Noises whose converged runs the page's grids are held against: half as many as `models.plan` takes by default."""

SHOWN = 8
_REMEMBERED = 24
_LARGEST = 256
"""Pixels of a picture's longer side: larger samples are shown smaller."""


class Network:
    """A denoiser that the page can measure and sample with, and what is known of it so far.

    Parameters
    ----------
    denoiser : callable
        D(x~, sigma) on torch tensors, as `load_denoiser` gives it.
    spectrum : Spectrum
        Of the data in the network's value range; with mean and basis where start levels are to be tried.
    name, data_name : str
    items : (m, *item_shape) array, optional
        Some hundred that the network was not trained on, for its gauge.
    judges : int
        Noises, >= 2.
    sigma_min, sigma_max : float, optional
        Levels it may be called at; by default its own.
    device : optional
        Of torch.
    batch_size : int
        Items per call.

    Raises
    ------
    ValueError
        For items of another shape, a network that fails on the data's shape, or one that tells no finite range of levels.
    """

    def __init__(
        self,
        denoiser: Any,
        spectrum: Spectrum,
        *,
        name: str,
        data_name: str,
        items: Float | None = None,
        judges: int = JUDGES,
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        device: Any = None,
        batch_size: int = 100,
    ) -> None:
        """Nothing is measured yet."""
        self.denoiser, self.spectrum, self.name, self.data_name = denoiser, spectrum, name, data_name
        self.items = None if items is None else fitted_items(denoiser, items)
        self.judges = integer(judges, "judges", minimum=2)
        self.sigma_min, self.sigma_max = model_range(denoiser, sigma_min, sigma_max)
        shape = getattr(denoiser, "item_shape", None) or (spectrum.item_shape if self.items is None else self.items.shape[1:])
        if shape is None:
            raise ValueError("the model does not tell the shape of an item, nor does the spectrum: give --data.")
        self.item_shape: tuple[int, ...] = tuple(shape)
        if int(np.prod(self.item_shape)) != round(float(spectrum.dim)):
            raise ValueError(
                f"the model takes items of shape {self.item_shape} and the spectrum has {spectrum.dim:g} dimensions: measure "
                "the spectrum of the data that the model makes."
            )
        check_calls(denoiser, self.item_shape, self.sigma_max, device=device)
        self.device, self.batch_size = device, integer(batch_size, "batch_size")
        self._subject = _Watched(
            Subject(denoiser, self.sigma_min, self.sigma_max, self.item_shape, device, self.batch_size)
        )
        self._gauged: ModelProfile | None = None
        self._measured: ModelProfile | None = None
        self._plans: dict[tuple[str, int], Plan] = {}
        self._compared: OrderedDict[tuple[Any, ...], dict[str, Any]] = OrderedDict()

    @property
    def path(self) -> NoisePath | None:
        """The network's own, where it tells."""
        own: NoisePath | None = self._subject.path
        return own

    @property
    def calls(self) -> int:
        """Network calls that `measure` makes, counted by item."""
        return profile_calls(0 if self.items is None else len(self.items), self.judges)

    def record(self) -> dict[str, Any]:
        """What is known, as plain JSON values: `gauge` is null before it is measured and where there are no items."""
        known = self._measured or self._gauged
        return {
            "name": self.name,
            "data": self.data_name,
            "items": 0 if self.items is None else len(self.items),
            "item_shape": list(self.item_shape),
            "sigma_min": self.sigma_min,
            "sigma_max": self.sigma_max,
            "judges": self.judges,
            "calls": self.calls,
            "measured": self._measured is not None,
            "endpoint_error": None if self._measured is None else self._measured.endpoint_error,
            "gauge": None if known is None or known.curve is None else _gauge(known),
            "warm": self.spectrum.has_eigenvectors,
        }

    def compared(self, sigmas: Sequence[float], solver: str) -> dict[str, Any] | None:
        """What `compare` found of a grid; None before."""
        return self._compared.get((solver, tuple(sigmas)))

    def check(self, sigmas: Sequence[float], solver: str) -> None:
        """Refuse what the network cannot be sampled on.

        Raises
        ------
        ValueError
            For a stochastic solver, levels outside the network's range, or a start level without eigenvectors to reach it by.
        """
        if SOLVERS[solver].stochastic:
            raise ValueError(f"`solver` {solver} adds noise of its own, so its samples have no endpoint to be held against.")
        called = [sigma for sigma in sigmas if sigma > 0]
        if called[0] > self.sigma_max * (1 + 1e-9):
            raise ValueError(
                f"`sigma_max` must be at most {self.sigma_max:.6g}, where the network's range ends, got {called[0]:.6g}."
            )
        if called[-1] < self.sigma_min * (1 - 1e-9):
            raise ValueError(
                f"`sigma_min` must be at least {self.sigma_min:.6g}, where the network's range ends, got {called[-1]:.6g}."
            )
        if called[0] < self.sigma_max * (1 - 1e-9) and not self.record()["warm"]:
            raise ValueError(
                f"`start_level` {called[0]:.6g} lies below the network's {self.sigma_max:.6g}, and the spectrum holds no "
                "eigenvectors to reach it by: measure it with `--basis 200`, or give the data with `--data`."
            )

    def measure(self, job: Job) -> str:
        """The gauge, then the endpoints of converged runs; what was finished before a stop is kept."""
        job.total = self.calls
        with self._watched(job):
            if self._gauged is None and self.items is not None:
                self._gauged = profile(self._subject, self.spectrum, data=self.items, judges=0)
            try:
                ends = profile(self._subject, self.spectrum, judges=self.judges)
            except Cancelled:
                raise Cancelled("Stopped; the gauge was kept." if self._gauged is not None else "") from None
        self._measured = ends if self._gauged is None else replace(ends, curve=self._gauged.curve)
        return "measured"

    def compare(self, job: Job, sigmas: Sequence[float], solver: str) -> str:
        """Sample on a grid, on the network's own plan of as many steps, and on the best usual grid, from the same noise."""
        self.check(sigmas, solver)
        if self._measured is None:
            raise ValueError("The network is not measured yet: measure it first.")
        measured, n = self._measured, len(sigmas) - 1
        with self._watched(job):
            if (solver, n) not in self._plans:
                self._plans[solver, n] = plan(measured, None, n, solver=solver)
        made = self._plans[solver, n]
        levels = np.array(sigmas)
        current = SimpleNamespace(sigmas=levels, solver=solver, warm=measured.warm(float(levels[0])))
        start = measured.warm(float(made.hand.sigmas[0])) if made.hand.warm else None
        usual = SimpleNamespace(sigmas=made.hand.sigmas, solver=solver, warm=start)
        grids: list[tuple[str, str, Any]] = [("current", "your grid", current), ("usual", made.hand.name, usual)]
        if made.chosen is not made.hand:
            grids.append(("planned", made.chosen.name, made))
        rows = []
        calls = SOLVERS[solver].nfe(n) * self.judges
        with _cores_left():
            for role, name, run in grids:
                before = job.done
                images = np.asarray(
                    generate(
                        self.denoiser,
                        run,
                        self.judges,
                        item_shape=self.item_shape,
                        batch_size=self.batch_size,
                        device=self.device,
                        progress=lambda done, _, before=before: job.report(before + done, None),  # type: ignore[misc]
                    ).double()
                )
                job.report(before + calls, None)
                rows.append((role, name, np.asarray(run.sigmas), run.warm is not None, images))
        rows.append(("converged", "converged", np.array([measured.sigma_max]), False, measured.endpoint))
        self._compared[solver, tuple(sigmas)] = self._record(made, rows, measured)
        while len(self._compared) > _REMEMBERED:
            self._compared.popitem(last=False)
        return "compared"

    def _record(self, made: Plan, rows: Sequence[tuple[Any, ...]], measured: ModelProfile) -> dict[str, Any]:
        errors = {role: rmse(images, measured.endpoint) for role, *_, images in rows}
        ends = (float(np.quantile(measured.endpoint, 0.001)), float(np.quantile(measured.endpoint, 0.999)))
        return {
            "rows": [
                {
                    "role": role,
                    "name": name,
                    "sigmas": sigmas.tolist() if role != "converged" else None,
                    "start_level": float(sigmas[0]),
                    "warm": warm,
                    "rmse": errors[role],
                    "ratio": errors[role] / errors["usual"] if errors["usual"] > 0 else None,
                    "images": _pictures(images[:SHOWN], ends),
                }
                for role, name, sigmas, warm, images in rows
            ],
            "solver": made.solver,
            "steps": made.n,
            "nfe": made.nfe,
            "noises": self.judges,
            "reason": made.reason,
        }

    @contextmanager
    def _watched(self, job: Job) -> Iterator[None]:
        """Every call of the network is told to the job, which may stop it."""
        self._subject.job = job
        try:
            with _cores_left():
                yield
        finally:
            self._subject.job = None


class _Watched:
    """A denoiser on numpy arrays whose calls a job counts and can stop; its failures are refusals that name the level."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self.job: Job | None = None

    @property
    def path(self) -> Any:
        return self._subject.path

    @property
    def sigma_min(self) -> float:
        return self._subject.sigma_min

    @property
    def sigma_max(self) -> float:
        return self._subject.sigma_max

    @property
    def item_shape(self) -> tuple[int, ...]:
        return self._subject.item_shape

    def __call__(self, x: Any, sigma: float) -> Any:
        size = self._subject.batch_size
        found = []
        for first in range(0, len(x), size):
            batch = x[first : first + size]
            try:
                found.append(self._subject(batch, sigma))
            except (RuntimeError, TypeError, IndexError) as error:
                why = f"{type(error).__name__}: {' '.join(str(error).split())}"
                raise ValueError(f"The network failed at σ = {sigma:.6g} ({why}).") from error
            if self.job is not None:
                self.job.report(self.job.done + len(batch), self.job.total)
        return np.concatenate(found)


@contextmanager
def _cores_left() -> Iterator[None]:
    """Torch leaves one core to the page, which must answer meanwhile."""
    from eigenstep._torch import torch_module

    torch = torch_module()
    threads = torch.get_num_threads()
    torch.set_num_threads(max(1, min(threads, (os.cpu_count() or 2) - 1)))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _gauge(measured: ModelProfile) -> dict[str, Any]:
    """The curve m/b with two standard errors on either side, as `plots.gauge_curve` draws it."""
    curve = measured.curve
    assert curve is not None
    level, band = curve.start_level(), 2 * curve.ratio_standard_error
    return {
        "sigmas": curve.sigmas.tolist(),
        "ratio": curve.ratio.tolist(),
        "low": (curve.ratio - band).tolist(),
        "high": (curve.ratio + band).tolist(),
        "start_level": level if curve.sigmas[-1] < level < curve.sigmas[0] else None,
        "items": curve.n_items,
    }


def _pictures(items: Float, ends: tuple[float, float]) -> list[str]:
    """Items of one or three channels as PNG in data addresses, `ends` black and white; none for what is no picture."""
    channels, *sides = items.shape[1:] if items.ndim == 4 else (1, *items.shape[1:])
    if len(sides) != 2 or channels not in (1, 3) or min(sides) < 2:
        return []
    from PIL import Image

    low, high = ends
    scaled = np.clip((items - low) / (high - low if high > low else 1.0), 0.0, 1.0)
    addresses = []
    for item in np.rint(255 * scaled).astype(np.uint8).reshape(len(items), channels, *sides):
        picture = Image.fromarray(item[0] if channels == 1 else np.moveaxis(item, 0, -1))
        picture.thumbnail((_LARGEST, _LARGEST))
        stream = io.BytesIO()
        picture.save(stream, format="PNG")
        addresses.append("data:image/png;base64," + base64.b64encode(stream.getvalue()).decode())
    return addresses
