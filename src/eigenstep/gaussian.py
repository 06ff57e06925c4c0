"""The Gaussian reference: what a solver on a grid makes of N(mu, Sigma), exactly, and how far that is from the truth.

`propagate` and `trajectory` run the sampler itself (`solvers.sample`) on an array of per-eigenvalue states with the Wiener
denoiser, noise sources on a leading axis; every divergence is one weighted sum over eigenvalues of `divergence_terms`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from eigenstep import _checks
from eigenstep.call_error import call_error
from eigenstep.solvers import Solver, sample, solver_named
from eigenstep.spectrum import Spectrum
from eigenstep.transfer import local_errors, wiener_denoiser

Float = NDArray[np.float64]
Objective = Literal["w2", "kl", "reverse_kl", "local", "blend"]
Start = Literal["marginal", "prior"]

OBJECTIVES: tuple[str, ...] = ("w2", "kl", "reverse_kl", "local", "blend")
"""What a grid can be measured by: `w2`, `kl` (source || output), `reverse_kl` (output || source), `local` (theory (10)) or
`blend`, which is w2 + local/5.
"""

STEPWISE: tuple[str, ...] = ("local", "blend")
"""Those that measure single steps on the exact trajectory, which a run from the prior is not on."""

BLEND = 0.2
"""Share of `local` in `blend`: from a twentieth to the whole, what grids are worth on data hardly depends on it."""

STARTS: tuple[str, ...] = ("marginal", "prior")
"""Where a run starts: the exact marginal N(mu, Sigma + sigma_0^2 I), or the prior N(0, sigma_0^2 I) that samplers draw."""


@dataclass(frozen=True)
class ReverseTrajectory:
    """Output distributions of a run at every level, beside the true ones; rows are levels, columns `spectrum.eigenvalues`.

    Attributes
    ----------
    sigmas : (n+1,)
        The grid.
    variances : (n+1, k)
        Output variance of a direction, squared data units.
    true_variances : (n+1, k)
        lambda + sigma^2.
    mean_gains : (n+1, k)
        Factor by which the initial mean error of a direction has shrunk (1 at the first level).
    mean_errors : (n+1, k)
        Energy of (output mean - true mean) in the directions of each eigenvalue, summed over its multiplicity: 0 for the
        marginal start, mu^2 times the squared gain for the prior start.
    mean_energies : (n+1, k)
        Energy of the output mean likewise: mu^2 (1 - gain)^2 for the prior start, mu^2 for the marginal start.
    error_variances : (n+1, k)
        Variance that the errors of the network's calls have left in a direction; 0 without a `denoiser_error`. It is not part
        of `variances`.

    Examples
    --------
    Started from the prior, a run forgets part of its mean error (theory 2):

    >>> spectrum = Spectrum.from_eigenvalues([1.0], mean_energy=[4.0])
    >>> run = reverse_trajectory(spectrum, [2.0, 1.0, 0.0], start="prior")
    >>> run.mean_gains.ravel().round(6).tolist(), run.mean_errors.ravel().round(6).tolist()
    ([1.0, 0.6, 0.3], [4.0, 1.44, 0.36])
    """

    sigmas: Float
    variances: Float
    true_variances: Float
    mean_gains: Float
    mean_errors: Float
    mean_energies: Float
    error_variances: Float


def reverse_trajectory(
    spectrum: Spectrum,
    sigmas: ArrayLike,
    *,
    solver: str | Solver = "ddim",
    start: str = "marginal",
    denoiser_error: Any = None,
) -> ReverseTrajectory:
    """The whole reverse process of the Gaussian reference, means and variances at every sigma_k: theory section 2.

    Parameters
    ----------
    spectrum : Spectrum
        Eigenvalues lambda >= 0 of the data covariance, squared data units; lambda = 0 is legal.
    sigmas : array_like, (n+1,)
        Descending noise levels, data units; the last may be 0.
    solver : str or Solver
        Name in `solvers.SOLVERS`, or a `Solver`.
    start : {"marginal", "prior"}
        Exact marginal at `sigmas[0]`, or the prior N(0, sigma_0^2 I), which misses the data's mean and covariance.
    denoiser_error : CallError or ErrorCurve, optional
        What every call of a real network adds to a direction, as an independent source: theory section 7.

    Raises
    ------
    ValueError
        For a grid that does not descend, or an unknown solver or start.

    Examples
    --------
    >>> run = reverse_trajectory(Spectrum.from_eigenvalues([1.0]), [2.0, 1.0, 0.0])
    >>> run.variances.ravel().round(6).tolist(), run.true_variances.ravel().tolist()
    ([5.0, 1.8, 0.45], [5.0, 2.0, 1.0])
    """
    levels = _checks.descending_sigmas(sigmas)
    method = solver_named(solver)
    start = _checks.choice(start, STARTS, "start")
    lam = spectrum.eigenvalues
    n = levels.size - 1
    error = call_error(denoiser_error)
    # State: a leading axis of independent unit sources: the initial state, the noise of each step, the error of each call.
    own = 1 + n * method.stochastic
    calls = 0 if error is None else n * method.calls_per_step
    unit = np.eye(own + calls)[:, :, None]
    initial = np.zeros((own + calls, lam.size))
    initial[0] = 1.0
    states = [initial]
    sample(
        wiener_denoiser(lam, error, unit[own:]),
        initial,
        levels,
        solver=method,
        noise=(lambda k: unit[k + 1]) if method.stochastic else None,
        callback=lambda k, x: states.append(x),
    )
    coefficients = np.stack(states)
    true = lam + levels[:, None] ** 2
    initial_variance = true[0] if start == "marginal" else np.full_like(lam, levels[0] ** 2)
    gains = coefficients[:, 0]
    variances = gains**2 * initial_variance + (coefficients[:, 1:own] ** 2).sum(axis=1)
    missed = spectrum.mean_energy * (start == "prior")
    return ReverseTrajectory(
        sigmas=levels,
        variances=variances,
        true_variances=true,
        mean_gains=gains,
        mean_errors=missed * gains**2,
        mean_energies=missed * (1 - gains) ** 2 + (spectrum.mean_energy - missed),
        error_variances=(coefficients[:, own:] ** 2).sum(axis=1),
    )


def trajectory(
    spectrum: Spectrum, sigmas: ArrayLike, *, solver: str | Solver = "ddim", start: str = "marginal"
) -> Float:
    """Output variances at every level of the grid: (n+1, k), columns in the order of `spectrum.eigenvalues`.

    Parameters, errors and degenerate cases as in `reverse_trajectory`, which also returns means and the true values.

    >>> trajectory(Spectrum.from_eigenvalues([1.0]), [2.0, 1.0, 0.0]).ravel().round(6).tolist()
    [5.0, 1.8, 0.45]
    """
    return reverse_trajectory(spectrum, sigmas, solver=solver, start=start).variances


def propagate(
    spectrum: Spectrum, sigmas: ArrayLike, *, solver: str | Solver = "ddim", start: str = "marginal"
) -> Float:
    """Output variances at the end of the grid: (k,), in the order of `spectrum.eigenvalues`.

    For DDIM this is (lambda + sigma_n^2) prod_k cos^2(phi_k - phi_{k+1}), phi = atan(sigma/sqrt(lambda)): theory (2).
    Parameters, errors and degenerate cases as in `reverse_trajectory`.

    >>> propagate(Spectrum.from_eigenvalues([1.0]), [2.0, 1.0, 0.0]).round(6).tolist()
    [0.45]
    """
    return np.asarray(trajectory(spectrum, sigmas, solver=solver, start=start)[-1])


def retained_variance(
    spectrum: Spectrum, sigmas: ArrayLike, *, solver: str | Solver = "ddim", start: str = "marginal"
) -> Float:
    """r_lambda = output variance / true variance at the end of the grid, per eigenvalue: (k,). Theory (2).

    Below 1 the detail of that size is lost, above 1 it is exaggerated. Where both variances are 0 (lambda = 0 on a grid that
    ends at 0) nothing can be lost and r = 1. Parameters and errors as in `reverse_trajectory`.

    >>> retained_variance(Spectrum.from_eigenvalues([1.0, 0.0]), [2.0, 1.0, 0.0]).round(6).tolist()
    [0.45, 1.0]
    """
    run = reverse_trajectory(spectrum, sigmas, solver=solver, start=start)
    variance, target = run.variances[-1], run.true_variances[-1]
    same = (variance == 0) & (target == 0)
    return np.asarray(np.where(same, 1.0, variance / np.where(same, 1.0, target)))


def divergence_terms(objective: str, variance: Any, target: Any, mean_error: Any, noise_floor: float) -> Any:
    """psi of one direction: how far N(m + e, v) lies from the truth N(m, q), with e^2 = `mean_error`.

    With v and q raised by noise_floor^2 and r = v/q:
    `kl` (source || output) = (1/r - 1 + ln r + e^2/v)/2, `reverse_kl` = (r - 1 - ln r + e^2/q)/2,
    `w2` = (sqrt v - sqrt q)^2 + e^2. Theory section 2.

    Parameters
    ----------
    objective : {"w2", "kl", "reverse_kl"}
    variance, target, mean_error : array_like, broadcastable
        Squared data units, >= 0; may be complex (derivatives by complex step).
    noise_floor : float
        tau >= 0, data units: both sides are blurred by N(0, tau^2) first.

    Returns
    -------
    array
        Zero where both sides are the same point (v = q = 0), infinite where only one is.

    >>> float(divergence_terms("w2", 0.25, 1.0, 0.0, 0.0)), round(float(divergence_terms("kl", 0.25, 1.0, 0.0, 0.0)), 6)
    (0.25, 0.806853)
    """
    v, q = variance + noise_floor**2, target + noise_floor**2
    if objective == "w2":
        return np.asarray((np.sqrt(v) - np.sqrt(q)) ** 2 + mean_error)
    with np.errstate(divide="ignore", invalid="ignore"):
        excess = (v - q) / q
        if objective == "kl":
            psi = 0.5 * (np.log1p(excess) - (v - q) / v + mean_error / v)
        else:
            psi = 0.5 * (excess - np.log1p(excess) + mean_error / q)
        empty, aimed = np.real(v) == 0, np.real(q) == 0
        return np.where(empty & aimed, 0.0, np.where(empty | aimed, np.inf, psi))


def divergence(
    spectrum: Spectrum,
    sigmas: ArrayLike,
    *,
    solver: str | Solver = "ddim",
    objective: str = "w2",
    noise_floor: float = 0.0,
    start: str = "marginal",
    denoiser_error: Any = None,
) -> float:
    """How far the output of a run lies from the data (blurred to the last level of the grid), summed over directions.

    Parameters
    ----------
    spectrum, sigmas, solver, start
        As in `reverse_trajectory`.
    objective : {"w2", "kl", "reverse_kl", "local", "blend"}
        `w2`: squared 2-Wasserstein distance, squared data units (= Frechet distance in data space). `kl`: KL(source ||
        output), nats. `reverse_kl`: KL(output || source). `local`: n times the sum of squared errors that single steps make
        on the exact trajectory, carried to the end (theory (10)); needs the marginal start, since it measures steps alone.
        `blend`: w2 + local/5, for multistep solvers on data that are no Gaussian: what cancels between steps counts, but no
        step may rely on it. It needs the marginal start too.
    noise_floor : float
        tau >= 0, data units: both sides are blurred by N(0, tau^2 I) first, so that details below tau do not count.
    denoiser_error : CallError or ErrorCurve, optional
        What every call of a real network adds to a direction. The variance it leaves at the end counts as an error of the mean
        does: added to `w2` and `local`, over 2 v in `kl`, over 2 q in `reverse_kl`; it must not fill variance that was lost.

    Raises
    ------
    ValueError
        For a bad grid, an unknown name, a negative noise floor, or `local` or `blend` with the prior start.

    Examples
    --------
    >>> spectrum = Spectrum.from_eigenvalues([4.0, 1.0, 0.01])
    >>> round(divergence(spectrum, [80.0, 3.0, 0.5, 0.0]), 6)
    0.782188
    """
    levels = _checks.descending_sigmas(sigmas)
    objective = _checks.choice(objective, OBJECTIVES, "objective")
    noise_floor = _checks.real_number(noise_floor, "noise_floor", minimum=0.0)
    check_start(objective, start)
    if objective == "blend":
        options: dict[str, Any] = {"solver": solver, "noise_floor": noise_floor}
        whole = divergence(spectrum, levels, objective="w2", denoiser_error=denoiser_error, **options)
        return whole + BLEND * divergence(spectrum, levels, objective="local", **options)
    if objective == "local":
        lam = spectrum.eigenvalues
        errors = local_errors(solver_named(solver), lam, levels[None]).error[0]
        terms = (levels.size - 1) * (errors**2).sum(axis=0) * local_weight(lam + levels[-1] ** 2, noise_floor)
        if denoiser_error is not None:
            run = reverse_trajectory(spectrum, levels, solver=solver, denoiser_error=denoiser_error)
            terms = terms + run.error_variances[-1]
        return float(spectrum.multiplicities @ terms)
    run = reverse_trajectory(spectrum, levels, solver=solver, start=start, denoiser_error=denoiser_error)
    mean_error = run.mean_errors[-1] / spectrum.multiplicities + run.error_variances[-1]
    terms = divergence_terms(objective, run.variances[-1], run.true_variances[-1], mean_error, noise_floor)
    return float(spectrum.multiplicities @ terms)


def check_start(objective: str, start: str) -> None:
    """Refuse what has no meaning: an objective that measures single steps with the prior start.

    >>> check_start("w2", "prior")
    """
    if _checks.choice(start, STARTS, "start") == "prior" and objective in STEPWISE:
        raise ValueError(
            f"`start` must be 'marginal' for `objective`={objective!r}, which measures single steps on the exact trajectory, "
            "got 'prior'."
        )


def objective_for(solver: str | Solver, *, start: str = "marginal") -> str:
    """What to plan for where nobody says: `w2` for one-step solvers, `blend` for multistep ones.

    Errors of a multistep solver's steps cancel each other in a Gaussian, and not in data. From the prior, where single steps
    cannot be measured, it is `w2` too. The command line and ComfyUI's nodes ask this unless told an objective.

    Parameters
    ----------
    solver : str or Solver
    start : {"marginal", "prior"}

    Raises
    ------
    ValueError
        For an unknown solver or start.

    >>> objective_for("ddim"), objective_for("dpmpp_2m"), objective_for("dpmpp_2m", start="prior")
    ('w2', 'blend', 'w2')
    """
    marginal = _checks.choice(start, STARTS, "start") == "marginal"
    return "blend" if solver_named(solver).memory and marginal else "w2"


def local_weight(target: Any, noise_floor: float) -> Any:
    """q/(q + tau^2): what is left of a squared error in the standard deviation sqrt(q) after blurring by tau; 1 at tau = 0.

    >>> float(local_weight(3.0, 1.0))
    0.75
    """
    return target / (target + noise_floor**2) if noise_floor else np.ones_like(target)


def cramer_rao_bound(spectrum: Spectrum, sigmas: ArrayLike) -> Float:
    """b(sigma) = sum_i lambda_i sigma^2/(lambda_i + sigma^2): no data with this covariance has a larger minimum error.

    The Gaussian attains it, with the Wiener filter; theory section 7. Equivalent to `fisher_bound` by
    tr J(sigma) = (d - mmse/sigma^2)/sigma^2.

    Parameters
    ----------
    spectrum : Spectrum
    sigmas : array_like, any shape
        Noise levels >= 0, data units. At sigma = 0 the bound is 0; it tends to tr Sigma as sigma grows.

    Returns
    -------
    array, same shape
        Squared data units, summed over all d directions.

    >>> cramer_rao_bound(Spectrum.from_eigenvalues([4.0, 1.0]), [1.0, 2.0]).round(6).tolist()
    [1.3, 2.8]
    """
    levels = _levels(sigmas)
    # lambda - lambda w = lambda sigma^2/(lambda+sigma^2), written without 0/0 at lambda = sigma = 0
    lam = spectrum.eigenvalues
    total = lam + levels[..., None] ** 2
    return np.asarray((lam * (levels[..., None] ** 2 / np.where(total == 0, 1.0, total))) @ spectrum.multiplicities)


def fisher_bound(spectrum: Spectrum, sigmas: ArrayLike) -> Float:
    """sum_i 1/(lambda_i + sigma^2): the least Fisher information tr J(sigma) of any data with this covariance.

    Cramer-Rao; theory section 7. Parameters as in `cramer_rao_bound`; infinite where lambda = sigma = 0.

    >>> fisher_bound(Spectrum.from_eigenvalues([4.0, 1.0]), [1.0, 2.0]).round(6).tolist()
    [0.7, 0.325]
    """
    levels = _levels(sigmas)
    with np.errstate(divide="ignore"):
        return np.asarray((1.0 / (spectrum.eigenvalues + levels[..., None] ** 2)) @ spectrum.multiplicities)


def warm_start(
    spectrum: Spectrum, x: ArrayLike, sigma_start: float, *, sigma_max: float = math.inf
) -> Float:
    """The Gaussian's own solution of the reverse ODE from `sigma_max` down to `sigma_start`: no network call. Theory (8).

    x_s = mu + r (x - mu) + U diag( sqrt((lambda + sigma_s^2)/(lambda + sigma_max^2)) - r ) U^T (x - mu), r = sigma_s/sigma_max.
    From infinity (the default) `x` is standard normal noise and the result is drawn from N(mu, Sigma + sigma_s^2 I) itself,
    which also repairs a path that never reaches pure noise. Directions without a kept eigenvector count as lambda = 0, so
    keep those with lambda above 0.1 sigma_s^2 or so. Cf. Wang & Vastola (arXiv:2412.09726).

    Parameters
    ----------
    spectrum : Spectrum
        With `mean` and `basis`: `Spectrum.from_samples(x, basis=k)`, or an accumulator's.
    x : (m, *item_shape) array
        States at `sigma_max` in the coordinate x~ = x_0 + sigma eps, or standard normal noise where that is infinite.
    sigma_start : float
        Level to start the network at, 0 <= sigma_start < sigma_max, data units.
    sigma_max : float
        Level of `x`; infinity for noise.

    Returns
    -------
    array, shaped like `x`

    Raises
    ------
    ValueError
        If the spectrum keeps no mean or basis, shapes do not fit, or the levels are out of order.

    Examples
    --------
    >>> source = Spectrum.from_samples([[3.0, 0.0], [-1.0, 0.0], [1.0, 1.0], [1.0, -1.0]], basis=2)
    >>> source.eigenvalues.round(6).tolist()
    [2.666667, 0.666667]
    >>> warm_start(source, np.zeros((1, 2)), 1.0).round(6).tolist()                        # no noise: the mean
    [[1.0, 0.0]]
    """
    low, high = _checks.sigma_range(sigma_start, sigma_max, zero_min=True, infinite_max=True)
    if spectrum.mean is None or spectrum.basis is None:
        raise ValueError("`spectrum` must keep its mean and leading eigenvectors; measure it with `basis=k`, k > 0.")
    states = _checks.real_array(x, "x")
    mean = spectrum.mean.reshape(-1)
    if states.ndim < 2 or states[0].size != mean.size:
        raise ValueError(f"`x` must have shape (m, ...) with {mean.size} numbers per item, got {states.shape}.")
    lam = spectrum.eigenvalues
    if math.isinf(high):
        keep, gains, centred = low, np.sqrt(lam + low**2), states.reshape(len(states), -1)
    else:
        keep, gains = low / high, np.sqrt((lam + low**2) / (lam + high**2))
        centred = states.reshape(len(states), -1) - mean
    moved = mean + keep * centred + _along_basis(spectrum, centred, gains - keep)
    return np.asarray(moved.reshape(states.shape))


def _along_basis(spectrum: Spectrum, rows: Float, factors: Float) -> Float:
    """U diag(factors) U^T of every row (m, dim), over the eigenvectors that the spectrum keeps."""
    if isinstance(spectrum.basis, np.ndarray):
        vectors = spectrum.basis
        return np.asarray(((rows @ vectors.T) * factors[: len(vectors)]) @ vectors)
    assert spectrum.basis is not None
    shape = spectrum.basis.item_shape
    return np.asarray(spectrum.basis.apply(rows.reshape(-1, *shape), factors).reshape(rows.shape))


def _levels(sigmas: ArrayLike) -> Float:
    levels = _checks.real_array(sigmas, "sigmas")
    if np.any(levels < 0):
        raise ValueError(f"`sigmas` must not be negative, got {levels.min():.6g}.")
    return levels
