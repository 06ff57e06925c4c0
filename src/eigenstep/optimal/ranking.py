"""Selection among given discretisations by their divergence on the Gaussian reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eigenstep import _checks
from eigenstep.gaussian import divergence
from eigenstep.solvers import Solver, solver_named
from eigenstep.spectrum import Spectrum

Float = NDArray[np.float64]


@dataclass(frozen=True)
class RankedGrid:
    """One row of `rank`: a grid, its divergence, the ratio to the best one, and its network calls.

    >>> row, = rank(Spectrum.from_eigenvalues([1.0]), {"two": [2.0, 1.0, 0.0]}, solver="heun")
    >>> row.name, round(row.value, 6), row.ratio, row.nfe
    ('two', 0.074681, 1.0, 3)
    """

    name: str
    value: float
    ratio: float
    nfe: int
    sigmas: Float


def rank(
    spectrum: Spectrum,
    grids: Mapping[str, ArrayLike],
    *,
    solver: str | Solver = "ddim",
    objective: str = "w2",
    noise_floor: float = 0.0,
    start: str = "marginal",
    denoiser_error: Any = None,
) -> tuple[RankedGrid, ...]:
    """Given grids sorted by divergence, best first: the selection of a discretisation by KL (or another measure).

    No network is called. Grids may differ in length (compare their `nfe`) and range. Source: Sun, Poor, Zhang
    (arXiv:2601.13602), who select among time discretisations of pretrained models this way.

    Parameters
    ----------
    spectrum : Spectrum
    grids : mapping of str to array_like, (n+1,)
        Descending sigmas by name, for example `catalogue_grids(n, sigma_min, sigma_max)`.
    solver, objective, noise_floor, start, denoiser_error
        As in `divergence`.

    Returns
    -------
    tuple of RankedGrid
        Ascending in value; equal values keep the order given. `ratio` is 1 for the best.

    Raises
    ------
    ValueError
        If `grids` is empty, a grid does not descend (its name is in the message), or a name is unknown.

    Examples
    --------
    >>> spectrum = Spectrum.from_eigenvalues([4.0, 1.0, 0.01])
    >>> rows = rank(spectrum, {"coarse": [80, 1, 0], "fine": [80, 4, 1, 0]}, objective="kl", noise_floor=0.1)
    >>> [(row.name, row.nfe, round(row.value, 3)) for row in rows]
    [('fine', 3, 0.795), ('coarse', 2, 2.32)]
    """
    if not grids:
        raise ValueError("`grids` must hold at least one grid, got an empty mapping.")
    method = solver_named(solver)
    rows = []
    for name, given in grids.items():
        sigmas = _checks.descending_sigmas(given, f"grids[{name!r}]")
        value = divergence(
            spectrum,
            sigmas,
            solver=method,
            objective=objective,
            noise_floor=noise_floor,
            start=start,
            denoiser_error=denoiser_error,
        )
        rows.append((value, name, sigmas))
    rows.sort(key=lambda row: row[0])
    best = rows[0][0]
    return tuple(
        RankedGrid(name, value, 1.0 if value == best else float(np.divide(value, best)) if best else np.inf,
                   method.nfe(sigmas.size - 1, final=float(sigmas[-1])), sigmas)
        for value, name, sigmas in rows
    )
