"""Published tables, Align Your Steps and GITS: their own figures, and their shape as laws for other ranges."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from eigenstep._checks import Float, choice, integer, sigma_range
from eigenstep.grids.cut import Law, make_law, replace_last


def ays_grid(n: int, *, model: str = "sd15", final: float | None = None) -> Float:
    """The published Align Your Steps table of a model, interpolated log-linearly to n steps.

    n = 10 is the table itself (n + 1 = 11 noise levels); other n are its authors' interpolation, linear in log sigma
    over the index.

    Source: Sabour et al., arXiv:2404.14507, Table 3; "sd15" and "sdxl" with the digits of ComfyUI
    comfy_extras/nodes_align_your_steps.py, which are Stable Diffusion's own levels at the table's timesteps.

    Parameters
    ----------
    n : int
        Number of steps, >= 1.
    model : str
        "sd15", "sdxl", "svd" or "deepfloyd-if".
    final : float or None
        Replaces the last level (ComfyUI's node and diffusers put 0 there); None keeps it. A1111 instead appends a 0 to
        n levels: `grid(ays_law(lo, hi), n, final=0.0)` at the table's own ends.

    Raises
    ------
    ValueError
        Unknown model.

    Examples
    --------
    >>> print(ays_grid(5, model="sdxl", final=0.0).round(3))
    [14.615  3.768  1.341  0.555  0.233  0.   ]
    """
    table = _ays_table(model)
    return replace_last(ays_law(table[-1], table[0], model=model), n, final)


def ays_law(sigma_min: float, sigma_max: float, *, model: str = "sd15") -> Law:
    """The *shape* of an Align Your Steps table, stretched to another range affinely in log sigma.

    At the table's own ends it is the published table; elsewhere it is our use of its shape, not a published grid.

    Parameters
    ----------
    sigma_min : float
        > 0.
    sigma_max : float
        Above `sigma_min`, finite.
    model : str
        As in `ays_grid`.

    Examples
    --------
    >>> print(ays_law(0.002, 80.0, model="sd15")([0.0, 0.5, 1.0]).round(4))
    [8.000e+01 1.458e+00 2.000e-03]
    """
    return _table_law(_ays_table(model), sigma_min, sigma_max, f"ays_law(model={model!r})")


def gits_grid(n: int, *, coeff: float = 1.2, final: float | None = None) -> Float:
    """The published GITS table of Stable Diffusion 1.5 for n steps.

    n = 2 ... 20 are published each; more steps are the 20-step table interpolated log-linearly, as in ComfyUI.

    Source: Chen et al., arXiv:2405.11326; values as released in ComfyUI comfy_extras/nodes_gits.py (figures only).

    Parameters
    ----------
    n : int
        Number of steps, >= 2.
    coeff : float
        The dynamic programme's discount, 1.0 or 1.2 (ComfyUI's default); the source has others.
    final : float or None
        Replaces the last level (ComfyUI puts 0 there); None keeps it.

    Raises
    ------
    ValueError
        n < 2, or a coeff that is not here.

    Examples
    --------
    >>> print(gits_grid(4, final=0.0).round(3))
    [14.615  2.363  0.922  0.366  0.   ]
    """
    n = integer(n, "n", minimum=2)
    table = _gits_table(n, coeff)
    return replace_last(gits_law(table[-1], table[0], n=n, coeff=coeff), n, final)


def gits_law(sigma_min: float, sigma_max: float, *, n: int, coeff: float = 1.2) -> Law:
    """The *shape* of the n-step GITS table, stretched to another range affinely in log sigma.

    Parameters
    ----------
    sigma_min : float
        > 0.
    sigma_max : float
        Above `sigma_min`, finite.
    n : int
        Which table, >= 2 (above 20, the 20-step one).
    coeff : float
        As in `gits_grid`.

    Examples
    --------
    >>> print(gits_law(0.002, 80.0, n=4)([0.0, 0.5, 1.0]).round(4))
    [8.000e+01 7.203e-01 2.000e-03]
    """
    n = integer(n, "n", minimum=2)
    return _table_law(_gits_table(n, coeff), sigma_min, sigma_max, f"gits_law(n={n}, coeff={coeff:g})")


def _ays_table(model: str) -> tuple[float, ...]:
    return _AYS[choice(model, _AYS, "model")]


def _gits_table(n: int, coeff: float) -> tuple[float, ...]:
    if coeff not in _GITS:
        raise ValueError(f"`coeff` must be one of {', '.join(map(str, _GITS))}, got {coeff!r}.")
    high, low = _GITS_ENDS
    return (high, *_GITS[coeff][min(n, 20) - 2], low)


def _table_law(table: tuple[float, ...], sigma_min: float, sigma_max: float, name: str) -> Law:
    low, high = sigma_range(sigma_min, sigma_max)
    log_table = np.log(table)
    depth = (log_table[0] - log_table) / (log_table[0] - log_table[-1])
    log_low, log_high = math.log(low), math.log(high)

    def formula(u: Float) -> Float:
        w = np.interp(u * (depth.size - 1), np.arange(depth.size), depth)
        return np.asarray(np.exp((1.0 - w) * log_high + w * log_low))

    return make_law(formula, name, low, high)


_AYS: Mapping[str, tuple[float, ...]] = {
    # Stable Diffusion's sigma at t = 999, 850, 736, 645, 545, 455, 343, 233, 124, 24, 0.
    "sd15": (
        14.6146412293, 6.4745760956, 3.8636745985, 2.6946151520, 1.8841921177, 1.3943805092,
        0.9642583904, 0.6523686016, 0.3977456272, 0.1515232662, 0.0291671582,
    ),
    # ... and at t = 999, 845, 730, 587, 443, 310, 193, 116, 53, 13, 0.
    "sdxl": (
        14.6146412293, 6.3184485287, 3.7681790315, 2.1811480769, 1.3405244945, 0.8620721141,
        0.5550693289, 0.3798540708, 0.2332364134, 0.1114188177, 0.0291671582,
    ),
    "svd": (700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002),
    "deepfloyd-if": (160.41, 8.081, 3.315, 1.885, 1.207, 0.785, 0.553, 0.293, 0.186, 0.030, 0.006),
}

# GITS: the levels between the two ends, for 2, 3, ... 20 steps.
_GITS_ENDS = (14.61464119, 0.02916753)
_GITS: Mapping[float, tuple[tuple[float, ...], ...]] = {
    1.0: (
        (1.56271636,),
        (6.77309084, 0.95350921),
        (6.77309084, 2.36326075, 0.803307),
        (7.11996698, 3.07277966, 1.56271636, 0.59516323),
        (7.49001646, 4.86714602, 2.84484982, 1.41535246, 0.57119018),
        (7.49001646, 4.86714602, 2.84484982, 1.61558151, 0.86115354, 0.38853383),
        (11.54541874, 7.49001646, 4.86714602, 2.84484982, 1.61558151, 0.86115354, 0.38853383),
        (11.54541874, 7.49001646, 4.86714602, 3.07277966, 1.98035145, 1.24153244, 0.72133851, 0.34370604),
        (11.54541874, 7.49001646, 5.85520077, 4.45427561, 3.07277966, 1.98035145, 1.24153244, 0.72133851, 0.34370604),
        (
            11.54541874, 7.49001646, 5.85520077, 4.45427561, 3.1956799, 2.27973175, 1.51179266, 0.95350921, 0.54755926,
            0.25053367,
        ),
        (
            11.54541874, 7.49001646, 5.85520077, 4.45427561, 3.1956799, 2.36326075, 1.61558151, 1.08895338, 0.72133851,
            0.41087446, 0.17026083,
        ),
        (
            11.54541874, 8.75849152, 7.49001646, 5.85520077, 4.45427561, 3.1956799, 2.36326075, 1.61558151, 1.08895338,
            0.72133851, 0.41087446, 0.17026083,
        ),
        (
            11.54541874, 8.75849152, 7.49001646, 5.85520077, 4.65472794, 3.60512662, 2.84484982, 2.12350607, 1.56271636,
            1.08895338, 0.72133851, 0.41087446, 0.17026083,
        ),
        (
            11.54541874, 8.75849152, 7.49001646, 5.85520077, 4.65472794, 3.60512662, 2.84484982, 2.19988537, 1.61558151,
            1.162866, 0.803307, 0.50118381, 0.27464288, 0.09824532,
        ),
        (
            11.54541874, 8.75849152, 7.49001646, 5.85520077, 4.65472794, 3.75677586, 3.07277966, 2.45070267, 1.84880662,
            1.36964464, 1.01931262, 0.72133851, 0.45573691, 0.25053367, 0.09824532,
        ),
        (
            11.54541874, 8.75849152, 7.49001646, 6.14220476, 5.09240818, 4.26497746, 3.46139455, 2.84484982, 2.19988537,
            1.67050016, 1.24153244, 0.92192322, 0.64427125, 0.43325692, 0.25053367, 0.09824532,
        ),
        (
            11.54541874, 8.75849152, 7.49001646, 6.14220476, 5.09240818, 4.26497746, 3.60512662, 2.95596409, 2.45070267,
            1.91321158, 1.51179266, 1.12534678, 0.83188516, 0.59516323, 0.38853383, 0.22545385, 0.09824532,
        ),
        (
            12.2308979, 9.24142551, 8.30717278, 7.49001646, 6.14220476, 5.09240818, 4.26497746, 3.60512662, 2.95596409,
            2.45070267, 1.91321158, 1.51179266, 1.12534678, 0.83188516, 0.59516323, 0.38853383, 0.22545385, 0.09824532,
        ),
        (
            12.2308979, 9.24142551, 8.30717278, 7.49001646, 6.77309084, 5.85520077, 5.09240818, 4.26497746, 3.60512662,
            2.95596409, 2.45070267, 1.91321158, 1.51179266, 1.12534678, 0.83188516, 0.59516323, 0.38853383, 0.22545385,
            0.09824532,
        ),
    ),
    1.2: (
        (0.803307,),
        (1.56271636, 0.52423614),
        (2.36326075, 0.92192322, 0.36617002),
        (2.84484982, 1.24153244, 0.59516323, 0.25053367),
        (5.85520077, 2.05039096, 0.95350921, 0.45573691, 0.17026083),
        (5.85520077, 2.45070267, 1.24153244, 0.64427125, 0.29807833, 0.09824532),
        (5.85520077, 2.45070267, 1.36964464, 0.803307, 0.45573691, 0.25053367, 0.09824532),
        (5.85520077, 2.84484982, 1.61558151, 0.95350921, 0.59516323, 0.36617002, 0.19894916, 0.09824532),
        (5.85520077, 2.84484982, 1.67050016, 1.08895338, 0.74807048, 0.50118381, 0.32104823, 0.19894916, 0.09824532),
        (
            5.85520077, 2.95596409, 1.84880662, 1.24153244, 0.83188516, 0.59516323, 0.41087446, 0.27464288, 0.17026083,
            0.09824532,
        ),
        (
            5.85520077, 3.07277966, 1.98035145, 1.36964464, 0.95350921, 0.69515091, 0.50118381, 0.36617002, 0.25053367,
            0.17026083, 0.09824532,
        ),
        (
            6.77309084, 3.46139455, 2.36326075, 1.56271636, 1.08895338, 0.803307, 0.59516323, 0.45573691, 0.34370604,
            0.25053367, 0.17026083, 0.09824532,
        ),
        (
            6.77309084, 3.46139455, 2.45070267, 1.61558151, 1.162866, 0.86115354, 0.64427125, 0.50118381, 0.38853383,
            0.29807833, 0.22545385, 0.17026083, 0.09824532,
        ),
        (
            7.49001646, 4.65472794, 3.07277966, 2.12350607, 1.51179266, 1.08895338, 0.83188516, 0.64427125, 0.50118381,
            0.38853383, 0.29807833, 0.22545385, 0.17026083, 0.09824532,
        ),
        (
            7.49001646, 4.65472794, 3.07277966, 2.12350607, 1.51179266, 1.08895338, 0.83188516, 0.64427125, 0.50118381,
            0.41087446, 0.32104823, 0.25053367, 0.19894916, 0.13792117, 0.09824532,
        ),
        (
            7.49001646, 4.65472794, 3.07277966, 2.12350607, 1.51179266, 1.08895338, 0.83188516, 0.64427125, 0.50118381,
            0.41087446, 0.34370604, 0.27464288, 0.22545385, 0.17026083, 0.13792117, 0.09824532,
        ),
        (
            7.49001646, 4.65472794, 3.07277966, 2.19988537, 1.61558151, 1.20157266, 0.92192322, 0.72133851, 0.57119018,
            0.45573691, 0.36617002, 0.29807833, 0.25053367, 0.19894916, 0.17026083, 0.13792117, 0.09824532,
        ),
        (
            7.49001646, 4.65472794, 3.07277966, 2.19988537, 1.61558151, 1.24153244, 0.95350921, 0.74807048, 0.59516323,
            0.4783645, 0.38853383, 0.32104823, 0.27464288, 0.22545385, 0.19894916, 0.17026083, 0.13792117, 0.09824532,
        ),
        (
            7.49001646, 4.65472794, 3.07277966, 2.19988537, 1.61558151, 1.24153244, 0.95350921, 0.74807048, 0.59516323,
            0.50118381, 0.41087446, 0.34370604, 0.29807833, 0.25053367, 0.22545385, 0.19894916, 0.17026083, 0.13792117,
            0.09824532,
        ),
    ),
}
