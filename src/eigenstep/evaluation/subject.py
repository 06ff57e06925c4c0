"""The model that is judged: how every process and device gets its own, and whether it fits the data."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from eigenstep._checks import Float
from eigenstep.models import load_denoiser

_SPEC = re.compile(r"(?P<module>.+):(?P<function>[A-Za-z_]\w*)(?:\((?P<arguments>[^()]*)\))?")


@dataclass(frozen=True)
class Model:
    """How to get the denoiser, in this process or in another.

    Parameters
    ----------
    source : str or object
        A diffusers folder (as for `models.load_denoiser`); "module:function", "file.py:function" or either with arguments in
        brackets, "file.py:function(a, b)", text each, which returns a denoiser D(x~, sigma) on torch tensors; or a denoiser
        or pipeline itself, which stays in this process and on its device.
    options : mapping
        Passed by name to `load_denoiser`, or to the function.

    Raises
    ------
    ValueError
        Where text is neither a folder nor names a function.

    Examples
    --------
    >>> Model(lambda x, sigma: x / (1 + sigma**2)).load()(3.0, 1.0)
    1.5
    """

    source: Any
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what can be no model before any work."""
        if isinstance(self.source, (str, os.PathLike)) and not Path(self.source).expanduser().is_dir():
            match = _SPEC.fullmatch(str(self.source))
            if match is None:
                raise ValueError(
                    f"`model` must be a folder of a diffusers pipeline or module:function, got {str(self.source)!r}; check "
                    "the path."
                )
            if match["module"].endswith(".py") and not Path(match["module"]).expanduser().is_file():
                raise ValueError(f"`model` {str(self.source)!r}: there is no file {match['module']!r}.")

    @property
    def name(self) -> str:
        """A short name for titles."""
        if not isinstance(self.source, (str, os.PathLike)):
            return type(self.source).__name__
        match = _SPEC.fullmatch(str(self.source))
        if match is None:
            return Path(self.source).expanduser().resolve().name
        return match["arguments"] or f"{Path(match['module']).stem}:{match['function']}"

    @property
    def travels(self) -> bool:
        """Whether another process can make it."""
        return isinstance(self.source, (str, os.PathLike))

    def load(self, device: Any = None) -> Any:
        """The denoiser on a device.

        Raises
        ------
        ValueError
            Where the module or the function is not there, or does not return a function; as `load_denoiser` does.
        """
        if self.travels and Path(self.source).expanduser().is_dir():
            return load_denoiser(self.source, device=device, **self.options)
        if not self.travels:
            is_pipeline = hasattr(self.source, "scheduler")
            return load_denoiser(self.source, device=device, **self.options) if is_pipeline else self.source
        match = _SPEC.fullmatch(str(self.source))
        assert match is not None
        function = getattr(_module(match["module"]), match["function"], None)
        if not callable(function):
            raise ValueError(f"`model` {str(self.source)!r}: {match['module']} has no function {match['function']!r}.")
        arguments = [part.strip() for part in match["arguments"].split(",")] if match["arguments"] else []
        options = dict(self.options)
        if device is not None and "device" in inspect.signature(function).parameters:
            options["device"] = device
        try:
            inspect.signature(function).bind(*arguments, **options)
        except TypeError as error:
            told = ", ".join(options) or "nothing"
            raise ValueError(
                f"`model` {str(self.source)!r} cannot be made with {told} by name ({error}); leave out what it does not take."
            ) from None
        denoiser = function(*arguments, **options)
        if not callable(denoiser):
            raise ValueError(f"`model` {str(self.source)!r} must return a denoiser D(x, sigma), got {type(denoiser).__name__}.")
        return denoiser


def _module(name: str) -> Any:
    """A module by name, from the current folder too, or by file."""
    if not name.endswith(".py"):
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise ValueError(f"`model`: there is no module {name!r} ({error}); name a file as path/to/{name}.py.") from error
    path = Path(name).expanduser().resolve()
    # The file's neighbours, as if it were run itself.
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def fitted_items(denoiser: Any, items: Float) -> Float:
    """The items in the shape that the denoiser states, where they differ by axes of length 1 alone.

    Raises
    ------
    ValueError
        For another shape.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> fitted_items(SimpleNamespace(item_shape=(1, 2, 2)), np.zeros((5, 2, 2))).shape
    (5, 1, 2, 2)
    """
    wanted = getattr(denoiser, "item_shape", None)
    shape = items.shape[1:]
    if wanted is None or tuple(wanted) == shape:
        return items
    if [side for side in wanted if side != 1] == [side for side in shape if side != 1]:
        return items.reshape(len(items), *wanted)
    raise ValueError(
        f"the model takes items of shape {tuple(wanted)} and the data have {shape}; read the data in the model's shape "
        "(--size, --crop, --gray or --rgb)."
    )


def on_arrays(denoiser: Any, *, device: Any = None, batch_size: int = 100) -> Callable[[Any, float], Any]:
    """The denoiser on numpy arrays, through float32 tensors on a device, without gradients, so many items at a time.

    >>> shrink = on_arrays(lambda x, sigma: x / (1 + sigma**2))
    >>> shrink(np.ones((1, 2)), 1.0).tolist()
    [[0.5, 0.5]]
    """
    import torch

    def call(x: Any, sigma: float) -> Any:
        items = np.asarray(x)
        found = []
        with torch.no_grad():
            for first in range(0, len(items), batch_size):
                batch = torch.as_tensor(items[first : first + batch_size], dtype=torch.float32, device=device)
                found.append(denoiser(batch, float(sigma)).double().cpu().numpy())
        return np.concatenate(found)

    return call


def check_calls(denoiser: Any, item_shape: Sequence[int], sigma: float, *, device: Any = None) -> None:
    """Call the model once on two items of noise.

    Raises
    ------
    ValueError
        Where it fails on items of this shape, or gives another shape.

    Examples
    --------
    >>> check_calls(lambda x, sigma: x[:, :1], (2,), 1.0)
    Traceback (most recent call last):
    ...
    ValueError: the model gives items of shape (1,) for the data's (2,): model and data differ in shape.
    """
    noise = sigma * np.random.default_rng(0).standard_normal((2, *item_shape))
    try:
        found = np.shape(on_arrays(denoiser, device=device)(noise, sigma))
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        raise ValueError(
            f"the model fails on items of the data's shape {tuple(item_shape)} ({type(error).__name__}: "
            f"{' '.join(str(error).split())}); if they differ in shape, read the data in the model's."
        ) from error
    if found != noise.shape:
        raise ValueError(
            f"the model gives items of shape {found[1:]} for the data's {tuple(item_shape)}: model and data differ in shape."
        )


@dataclass(frozen=True)
class Subject:
    """The denoiser as plans are made for it: on numpy arrays, within the range of levels and on the items it is judged by.

    >>> import torch
    >>> subject = Subject(lambda x, sigma: x / (1 + sigma**2), 0.1, 10.0, (2,), torch.device("cpu"))
    >>> subject(np.ones((1, 2)), 1.0).tolist(), subject.path
    ([[0.5, 0.5]], None)
    """

    denoiser: Any
    sigma_min: float
    sigma_max: float
    item_shape: tuple[int, ...]
    device: Any = None
    batch_size: int = 100

    @property
    def path(self) -> Any:
        """The model's own, or None where it does not tell: the grids of the catalogue that need one are left out."""
        return getattr(self.denoiser, "path", None)

    def __call__(self, x: Any, sigma: float) -> Any:
        """D(x~, sigma)."""
        return on_arrays(self.denoiser, device=self.device, batch_size=self.batch_size)(x, sigma)


def model_range(denoiser: Any, sigma_min: float | None, sigma_max: float | None) -> tuple[float, float]:
    """The range of levels to judge on: as given, else the model's own.

    Raises
    ------
    ValueError
        Where neither tells, or what is given exceeds the model's.

    Examples
    --------
    >>> model_range(lambda x, sigma: x, 0.002, 80.0)
    (0.002, 80.0)
    """
    own = (getattr(denoiser, "sigma_min", None), getattr(denoiser, "sigma_max", None))
    low = own[0] if sigma_min is None else sigma_min
    high = own[1] if sigma_max is None else sigma_max
    if low is None or high is None or not 0 < low < high or math.isinf(high):
        raise ValueError(
            f"the model tells no finite range of noise levels (sigma_min {low}, sigma_max {high}); give --sigma-min and "
            "--sigma-max."
        )
    if own[1] is not None and high > own[1] * (1 + 1e-6):
        raise ValueError(f"`sigma_max` {high:.6g} exceeds the model's own, {own[1]:.6g}.")
    if own[0] is not None and low < own[0] * (1 - 1e-6):
        raise ValueError(f"`sigma_min` {low:.6g} is below the model's own, {own[0]:.6g}.")
    return float(low), float(high)
