"""Image to image in hosts that slice: a grid of which the host keeps exactly the planned end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from eigenstep._checks import Float, choice, descending_sigmas, real_number

# In floating point, as the hosts do: 100 * 0.29 is 28.999999999999996.
_KEPT: Mapping[str, Callable[[int, float], int]] = {
    "diffusers": lambda total, strength: int(total * strength),
    "webui": lambda total, strength: int(min(strength, 0.999) * total) + 1,
}
"""How many of `total` steps an image-to-image run makes."""


def strength_grid(grid_or_plan: Any, strength: float, sigma_max: float, *, host: str = "diffusers") -> Float:
    """A longer grid of which an image-to-image run keeps exactly the given one.

    Such runs take a grid of N steps and skip its beginning: diffusers' pipelines (`strength`) keep the last int(N * strength)
    steps, A1111 and Forge ("denoising strength") int(N * min(strength, 0.999)) + 1. Plan n steps on the range that is really
    sampled, from the level at which the image is to be noised; this function puts N - n levels in front, equally spaced in
    ln sigma from `sigma_max`, with the smallest N of which n steps are kept. No network is called at the levels in front.
    Give the host N as its number of steps.

    Parameters
    ----------
    grid_or_plan : array_like (n+1,), or an object with `sigmas`
        The steps to be made, descending noise levels, data units.
    strength : float
        What the host will be told, in (0, 1]. It only sets N here: where the run begins is `sigmas[0]`.
    sigma_max : float
        First level of the padding, data units; above `sigmas[0]` where there is any, and within the host's range.
    host : {"diffusers", "webui"}
        Whose arithmetic; `webui` is that of A1111 and Forge, with their option to do the exact number of steps off.

    Returns
    -------
    array, (N+1,)
        With strength = 1, the grid itself in diffusers.

    Raises
    ------
    ValueError
        A grid that does not descend, a strength outside (0, 1], an unknown host, or a `sigma_max` that leaves no room.

    Examples
    --------
    >>> grid = strength_grid([2.0, 0.7, 0.0], 0.5, 16.0)
    >>> grid.round(6).tolist(), int((grid.size - 1) * 0.5)
    ([16.0, 5.656854, 2.0, 0.7, 0.0], 2)
    """
    sigmas = descending_sigmas(getattr(grid_or_plan, "sigmas", grid_or_plan))
    share = real_number(strength, "strength", maximum=1.0)
    if share <= 0:
        raise ValueError(f"`strength` must be greater than 0, got {share:g}: nothing would be sampled.")
    n = sigmas.size - 1
    choice(host, _KEPT, "host")
    total = n
    while _KEPT[host](total, share) < n:
        total += 1
    if total == n:
        return np.array(sigmas)
    top = real_number(sigma_max, "sigma_max")
    if top <= sigmas[0]:
        raise ValueError(
            f"`sigma_max` must exceed the first planned level to make room for {total - n} skipped steps, got {top:.6g} and "
            f"{sigmas[0]:.6g}."
        )
    padding: Float = np.geomspace(top, sigmas[0], total - n + 1)[:-1]
    return np.asarray(np.concatenate([padding, sigmas]))
