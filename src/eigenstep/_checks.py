"""The only validators: each returns a clean value (float64 array, float, int or str) or raises a whole sentence.

Every public function calls these once, at its door; nothing behind the door checks again.
"""

from __future__ import annotations

import difflib
import math
import operator
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float = NDArray[np.float64]


def real_array(value: ArrayLike, name: str, *, ndim: int | None = None) -> Float:
    """`value` as a finite float64 array, of `ndim` dimensions where that is given."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` must be an array of real numbers, got {_short(value)} ({error}).") from None
    if ndim is not None and array.ndim != ndim:
        raise ValueError(f"`{name}` must have {ndim} dimension{'s' * (ndim != 1)}, got shape {array.shape}.")
    bad = int(np.count_nonzero(~np.isfinite(array)))
    if bad:
        first = tuple(int(i) for i in np.argwhere(~np.isfinite(np.atleast_1d(array)))[0])
        raise ValueError(
            f"`{name}` must be finite, got {bad} NaN or infinite value{'s' * (bad != 1)}, the first at index "
            f"{first[0] if len(first) == 1 else first}; remove or replace them."
        )
    return array


def descending_sigmas(value: ArrayLike, name: str = "sigmas") -> Float:
    """A grid: at least two finite, non-negative, strictly descending noise levels."""
    sigmas = real_array(value, name, ndim=1)
    if sigmas.size < 2:
        raise ValueError(f"`{name}` must hold n+1 >= 2 noise levels for n steps, got {sigmas.size}.")
    if sigmas[-1] < 0:
        raise ValueError(f"`{name}` must not be negative, got {sigmas.min():.6g}.")
    rises = np.flatnonzero(np.diff(sigmas) >= 0)
    if rises.size:
        k = int(rises[0])
        raise ValueError(
            f"`{name}` must be strictly descending, got {sigmas[k]:.6g} then {sigmas[k + 1]:.6g} at positions "
            f"{k} and {k + 1}; sort it in descending order and drop repeats."
        )
    return sigmas


def sigma_range(sigma_min: Any, sigma_max: Any, *, zero_min: bool = False, infinite_max: bool = False) -> tuple[
    float, float
]:
    """The pair (sigma_min, sigma_max), with 0 < sigma_min < sigma_max < inf unless the flags widen it."""
    low = real_number(sigma_min, "sigma_min", minimum=0.0, exclusive=not zero_min)
    high = real_number(sigma_max, "sigma_max", minimum=0.0, exclusive=True, infinite=infinite_max)
    if low >= high:
        raise ValueError(f"`sigma_max` must exceed `sigma_min`, got {high:.6g} and {low:.6g}.")
    return low, high


def real_number(
    value: Any,
    name: str,
    *,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    exclusive: bool = False,
    infinite: bool = False,
) -> float:
    """A float in [minimum, maximum] (or the open interval), finite unless `infinite`."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"`{name}` must be a real number, got {_short(value)}.") from None
    if math.isnan(number) or (math.isinf(number) and not infinite):
        raise ValueError(f"`{name}` must be finite, got {number}.")
    outside = (number <= minimum or number >= maximum) if exclusive else (number < minimum or number > maximum)
    if outside and not (infinite and number == math.inf):
        bounds = []
        if minimum > -math.inf:
            bounds.append(f"{'greater than' if exclusive else 'at least'} {minimum:g}")
        if maximum < math.inf:
            bounds.append(f"{'less than' if exclusive else 'at most'} {maximum:g}")
        raise ValueError(f"`{name}` must be {' and '.join(bounds)}, got {number:g}.")
    return number


def integer(value: Any, name: str, *, minimum: int = 1, maximum: int | None = None) -> int:
    """An integer in [minimum, maximum]; floats are refused, even whole ones."""
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"`{name}` must be an integer, got {_short(value)}.") from None
    if number < minimum or (maximum is not None and number > maximum):
        upper = "" if maximum is None else f" and at most {maximum}"
        raise ValueError(f"`{name}` must be at least {minimum}{upper}, got {number}.")
    return number


def choice(value: Any, known: Iterable[str], name: str) -> str:
    """One of the known names; the refusal lists them and the nearest."""
    names = list(known)
    if isinstance(value, str) and value in names:
        return value
    near = difflib.get_close_matches(str(value).lower(), names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"`{name}` must be one of {', '.join(names)}, got {_short(value)}.{hint}")


def sample_array(value: ArrayLike, name: str, *, first_item: int = 0) -> NDArray[Any]:
    """Items of real numbers, shape (n, ...) with n >= 1, all finite, in the type they came in: never copied.

    `first_item` is the index of the first item in its stream, for the message.
    """
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"`{name}` must be an array of items of one shape, got {_short(value)} ({error}).") from None
    if array.dtype.kind not in "fiub":
        raise TypeError(f"`{name}` must hold real numbers, got an array of type {array.dtype}.")
    if array.ndim == 0 or array.size == 0:
        raise ValueError(f"`{name}` must hold at least one item of at least one number, got shape {array.shape}.")
    _refuse_non_finite(array, name, first_item)
    return array


def _refuse_non_finite(items: NDArray[Any], name: str, first_item: int) -> None:
    if items.dtype.kind != "f":
        return
    with np.errstate(over="ignore", invalid="ignore"):
        # One fast pass: any NaN or infinity makes the sum non-finite. So may mere size, hence the second look.
        if np.isfinite(items.sum()):
            return
    bad = ~np.isfinite(items)
    if not bad.any():
        return
    which = np.flatnonzero(bad.reshape(len(items), -1).any(axis=1))
    raise ValueError(
        f"`{name}` must be finite, got {int(bad.sum())} NaN or infinite value{'s' * (int(bad.sum()) != 1)} in "
        f"{which.size} item{'s' * (which.size != 1)}, the first in item {first_item + int(which[0])}; remove or "
        "replace them."
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
