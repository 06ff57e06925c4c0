"""The effective spectrum: the eigenvalues that a network's own error curve asks for where it sees more than the covariance."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from eigenstep.models.gauge import ErrorCurve
from eigenstep.spectrum import Spectrum

Float = NDArray[np.float64]

_PER_DECADE = 8
_SMOOTHING = 1e-3
"""Weight of the pull towards the covariance's own spectrum: enough to choose among spectra that fit alike."""


def effective_spectrum(curve: ErrorCurve, spectrum: Spectrum) -> Spectrum:
    """Nonnegative p_j at levels lambda_j with sum_j p_j lambda_j sigma^2/(lambda_j + sigma^2) = min(m, b)(sigma).

    A Stieltjes inversion by nonnegative least squares in relative errors (theory section 7), with the number of directions kept
    (sum_j p_j = d) and a weak pull towards the covariance's own distribution, which decides where the curve cannot. Above the
    levels where the network beats the Wiener filter nothing changes; below them structure that the covariance does not see
    turns large eigenvalues into small ones. Grids planned for it are better for some networks and solvers and worse
    for others than those planned for the covariance: `plan` tries both where the network sees more, and lets its judge decide.

    Parameters
    ----------
    curve : ErrorCurve
        Of the network, on the same data.
    spectrum : Spectrum
        The covariance's.

    Returns
    -------
    Spectrum
        Eigenvalues on a logarithmic grid with real multiplicities; no basis, since it is no covariance.

    Raises
    ------
    ValueError
        If the two speak of other numbers of dimensions.

    Examples
    --------
    >>> source = Spectrum.from_eigenvalues([4.0, 1.0])
    >>> sigmas = np.geomspace(20.0, 0.05, 25)
    >>> from eigenstep import cramer_rao_bound
    >>> bound = cramer_rao_bound(source, sigmas)
    >>> gaussian = effective_spectrum(ErrorCurve(sigmas, bound, 0 * bound, bound, 10, 2.0), source)
    >>> better = effective_spectrum(ErrorCurve(sigmas, 0.5 * bound, 0 * bound, bound, 10, 2.0), source)
    >>> round(gaussian.trace, 2), better.trace < 3
    (5.0, True)
    """
    if curve.dim != float(spectrum.dim):
        raise ValueError(f"`curve` has {curve.dim:g} dimensions and `spectrum` {spectrum.dim}; they must be of the same data.")
    from scipy.optimize import nnls

    target = np.minimum(curve.error, curve.bound)
    positive = spectrum.eigenvalues > 0
    low = min(float(curve.sigmas[-1]) ** 2, float(spectrum.eigenvalues[positive][-1]))
    high = float(spectrum.eigenvalues[0])
    size = max(16, int(_PER_DECADE * np.log10(high / low)) + 1)
    levels = np.geomspace(low / 10, high, size)
    edges = np.sqrt(levels[1:] * levels[:-1])
    own = np.bincount(np.searchsorted(edges, spectrum.eigenvalues[positive]), spectrum.multiplicities[positive], size)
    own[0] += float(spectrum.multiplicities[~positive].sum())
    squares = curve.sigmas[:, None] ** 2
    rows = levels * squares / (levels + squares) / target[:, None]
    # Rows: the curve in relative errors, the count of directions in relative error, the pull on every level in its share.
    scale = _SMOOTHING / np.sqrt(own + 1.0)
    matrix = np.concatenate([rows, np.full((1, size), 1 / curve.dim), np.diag(scale)])
    wanted = np.concatenate([np.ones(len(target)), [1.0], scale * own])
    weights, _ = nnls(matrix, wanted)
    kept = weights > 1e-9 * curve.dim
    return Spectrum.from_eigenvalues(
        levels[kept][::-1],
        multiplicities=weights[kept][::-1],
        provenance={"effective": "nonnegative least squares on a network's error curve", **spectrum.provenance},
    )
