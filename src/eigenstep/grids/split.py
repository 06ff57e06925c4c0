"""One grid for two networks: where the second takes over, without moving a level."""

from __future__ import annotations

from typing import Any

import numpy as np

from eigenstep._checks import Float, descending_sigmas, real_number

SAME = 1e-6
"""Levels this close in ratio are one level: hosts hold them in float32."""


def split(grid_or_plan: Any, sigma: float) -> tuple[Float, Float]:
    """Cut a grid in two at a noise level: the steps of the network for high noise, and those of the network for low noise.

    high = sigmas[: k+1], low = sigmas[k:], k the first position with sigmas[k] <= sigma. Both hold sigmas[k], where one run
    ends and the other begins; no level is moved, and no network is called outside its side: the first at levels > sigma, the
    second at levels <= sigma. `optimal.optimal_split` plans a grid with a level at sigma itself.

    Parameters
    ----------
    grid_or_plan : array_like (n+1,), or an object with `sigmas`
        Descending noise levels, data units (or flow times: only their order matters).
    sigma : float
        The level where the second network takes over, in the units of the grid. A level within 1e-6 of it, in ratio, counts
        as equal to it.

    Returns
    -------
    (array (m+1,), array (n-m+1,))
        Both descending, at least one step each: high[-1] == low[0].

    Raises
    ------
    ValueError
        The grid does not descend, or `sigma` leaves one side without a step.

    Examples
    --------
    >>> high, low = split([80.0, 20.0, 5.0, 1.0, 0.0], 7.0)
    >>> high.tolist(), low.tolist()
    ([80.0, 20.0, 5.0], [5.0, 1.0, 0.0])
    """
    sigmas = descending_sigmas(getattr(grid_or_plan, "sigmas", grid_or_plan))
    boundary = real_number(sigma, "sigma", minimum=0.0)
    k = int(np.argmax(sigmas <= boundary * (1 + SAME)))
    if not (sigmas[0] > boundary * (1 + SAME) and sigmas[-2] <= boundary * (1 + SAME)):
        raise ValueError(
            f"`sigma` must lie below the first level and not below the last but one, or a side has no step, got "
            f"{boundary:.6g} for levels {sigmas[0]:.6g} ... {sigmas[-2]:.6g}, {sigmas[-1]:.6g}; use more steps, or give the "
            "whole grid to one network."
        )
    return sigmas[: k + 1].copy(), sigmas[k:].copy()
