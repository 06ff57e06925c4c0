"""What each step of a grid does by itself: the angle it sweeps in every direction, and the error it makes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from eigenstep import _checks
from eigenstep._checks import Float
from eigenstep.gaussian import local_weight
from eigenstep.solvers import Solver, solver_named
from eigenstep.spectrum import Spectrum
from eigenstep.transfer import local_errors


def swept_angles(spectrum: Spectrum, sigmas: ArrayLike) -> Float:
    """The angle that each step sweeps in each direction: phi_k - phi_{k+1} with phi = atan(sigma/sqrt(lambda)).

    A DDIM step keeps cos^2 of it of the variance: theory (2).

    Parameters
    ----------
    spectrum : Spectrum
        A direction with lambda = 0 sweeps nothing above sigma = 0, and pi/2 in the step onto it.
    sigmas : array_like, (n+1,)
        Descending noise levels, data units.

    Returns
    -------
    array, (n, k)
        Radians, in [0, pi/2]; columns in the order of `spectrum.eigenvalues`.

    Raises
    ------
    ValueError
        For a grid that does not descend.

    Examples
    --------
    >>> angles = swept_angles(Spectrum.from_eigenvalues([1.0]), [1.0, 3**-0.5, 0.0])
    >>> np.degrees(angles).ravel().round(6).tolist()
    [15.0, 30.0]
    """
    levels = _checks.descending_sigmas(sigmas)
    phi = np.arctan2(levels[:, None], np.sqrt(spectrum.eigenvalues))
    return np.asarray(phi[:-1] - phi[1:])


def local_shares(
    spectrum: Spectrum, sigmas: ArrayLike, *, solver: str | Solver = "ddim", noise_floor: float = 0.0
) -> Float:
    """What each step adds to the objective `local`: n times the squared error it makes on the exact trajectory.

        n sum_i m_i delta_ki^2 q_i/(q_i + tau^2),    q_i = lambda_i + sigma_n^2                           theory (10)

    Parameters
    ----------
    spectrum, sigmas, solver, noise_floor
        As in `divergence`, whose value for `objective="local"` is the sum.

    Returns
    -------
    array, (n,)
        Squared data units, >= 0.

    Raises
    ------
    ValueError
        For a grid that does not descend, an unknown solver or a negative noise floor.

    Examples
    --------
    >>> shares = local_shares(Spectrum.from_eigenvalues([1.0]), [1.0, 3**-0.5, 0.0])
    >>> shares.round(6).tolist()
    [0.002322, 0.035898]
    """
    levels = _checks.descending_sigmas(sigmas)
    tau = _checks.real_number(noise_floor, "noise_floor", minimum=0.0)
    lam = spectrum.eigenvalues
    errors = local_errors(solver_named(solver), lam, levels[None]).error[0]
    terms = (levels.size - 1) * errors**2 * local_weight(lam + levels[-1] ** 2, tau)
    return np.asarray(terms @ spectrum.multiplicities)
