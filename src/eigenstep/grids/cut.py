"""Cutting a law into a grid: the one place where u meets n, and where a bad law is caught."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from eigenstep._checks import Float, integer, real_array, real_number
from eigenstep.paths import NoisePath

Law = Callable[[ArrayLike], Float]
"""u in [0, 1] -> sigma, vectorised; u = 0 gives sigma_max and u = 1 gives sigma_min."""


class GridError(ValueError):
    """The law, table or path at hand cannot give n + 1 strictly descending sigmas for what was asked."""


def grid(law: Law, n: int, *, final: float | None = None) -> Float:
    """The n + 1 descending sigmas of n steps on a law.

    final=None: sigma_k = law(k / n), k = 0 ... n. Otherwise: sigma_k = law(k / (n - 1)), k = 0 ... n - 1, then `final`.

    Parameters
    ----------
    law : callable
        u in [0, 1] -> sigma, any callable that takes an array.
    n : int
        Number of steps, >= 1. With n = 1 and a `final` the grid is [law(0), final].
    final : float or None
        Where the grid ends, >= 0 and below the law's last point; None ends it on the law.

    Returns
    -------
    array, (n + 1,)
        float64, strictly descending.

    Raises
    ------
    GridError
        The law rises, repeats itself, is negative or not finite (naming it and the place), or `final` is not below its
        last point.
    ValueError
        n < 1 or final < 0.
    TypeError
        n not an integer, `law` not a callable of arrays.

    Examples
    --------
    >>> from eigenstep.grids import karras_law
    >>> print(grid(karras_law(0.002, 80.0), 3).round(4))
    [8.0000e+01 9.7232e+00 4.7000e-01 2.0000e-03]
    >>> print(grid(karras_law(0.002, 80.0), 3, final=0.0).round(4))
    [8.0000e+01 2.5152e+00 2.0000e-03 0.0000e+00]
    """
    n = integer(n, "n")
    if not callable(law):
        raise TypeError(f"`law` must be a callable u -> sigma such as karras_law(0.002, 80.0), got {law!r}.")
    u = np.linspace(0.0, 1.0, n + 1 if final is None else n)
    try:
        sigmas = np.asarray(law(u), dtype=np.float64)
    except TypeError as error:
        raise TypeError(f"`law` must take an array of u (write it with numpy functions), got {error}.") from error
    if sigmas.shape != u.shape:
        raise GridError(f"`law` must return one sigma for each u, got shape {sigmas.shape} for {u.shape}.")
    name = getattr(law, "__name__", repr(law))
    bad = np.flatnonzero(~np.isfinite(sigmas) | (sigmas < 0.0))
    if bad.size:
        raise GridError(
            f"`law` {name} must return finite sigmas >= 0, got {sigmas[bad[0]]:g} at u = {u[bad[0]]:.6g}; change its "
            "range."
        )
    return descending(sigmas if final is None else np.append(sigmas, checked_final(final)), name)


def checked_final(final: float) -> float:
    """`final` as a float >= 0."""
    return real_number(final, "final", minimum=0.0)


def descending(sigmas: Float, name: str) -> Float:
    """`sigmas`, refused with `name` where two neighbours do not fall."""
    stuck = np.flatnonzero(np.diff(sigmas) >= 0.0)
    if stuck.size:
        k = int(stuck[0])
        raise GridError(
            f"`sigmas` of {name} must fall strictly, got {sigmas[k]:.8g} then {sigmas[k + 1]:.8g} at positions {k} and "
            f"{k + 1}; use fewer steps, a lower `final` or another range."
        )
    return sigmas


def replace_last(law: Law, n: int, final: float | None) -> Float:
    """n + 1 points of the law, the last of which `final` replaces (the other published way to end at 0)."""
    sigmas = grid(law, n)
    if final is not None:
        sigmas[-1] = checked_final(final)
    return descending(sigmas, getattr(law, "__name__", repr(law)))


def make_law(formula: Callable[[Float], Float], name: str, sigma_min: float, sigma_max: float) -> Law:
    """The formula as a law: u checked, its two ends exactly sigma_max and sigma_min."""

    def law(u: ArrayLike) -> Float:
        position = real_array(u, "u")
        if np.any((position < 0.0) | (position > 1.0)):
            raise ValueError(f"`u` must lie in [0, 1], got {position.min():g} to {position.max():g}.")
        # A grid starts at the very sigma_max it was asked for, not at (sigma_max^(1/7))^7.
        return np.where(position == 0.0, sigma_max, np.where(position == 1.0, sigma_min, formula(position)))

    law.__name__ = name
    return law


def check_path(path: NoisePath) -> None:
    """Refuse what is not a path, before its absence is found deep inside a formula."""
    if not isinstance(path, NoisePath):
        raise TypeError(f"`path` must be a NoisePath such as VPDiscrete.sd15(), got {path!r}.")
