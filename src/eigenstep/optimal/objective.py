"""The divergence of many grids at once with its exact gradient in ln sigma: what the search minimises.

It reaches `gaussian.divergence`'s numbers by another route: products of step maps instead of a sampler's run.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eigenstep.call_error import CallError
from eigenstep.gaussian import BLEND, divergence_terms, local_weight
from eigenstep.solvers import Solver
from eigenstep.spectrum import Spectrum
from eigenstep.transfer import assembled, jets, local_errors, local_jet, outcome

Float = NDArray[np.float64]

_COMPLEX_STEP = 1e-30
_SHIFT = 1e-5
_SHIFTED = {q: np.concatenate([np.zeros((q, 1)), np.kron(np.eye(q), [[1.0, -1.0]])], axis=1)[:, :, None] for q in (1, 2, 3)}
"""Changes of q variables: none, then each in turn up and down; (q, 1 + 2 q, 1)."""
_GRIDS_AT_ONCE = 2**21
"""Numbers per array in one vectorised call: larger batches of grids are evaluated in parts."""


@dataclass(frozen=True)
class GridObjective:
    """Divergence as a function of grids; arguments as in `gaussian.divergence`, already checked."""

    spectrum: Spectrum
    solver: Solver
    objective: str
    noise_floor: float
    start: str
    error: CallError | None = None

    def __call__(self, grids: Float) -> tuple[Float, Float]:
        """Values (S,) and gradients in ln sigma (S, n+1) of S grids (S, n+1) of one length.

        >>> from eigenstep.solvers import SOLVERS
        >>> f = GridObjective(Spectrum.from_eigenvalues([1.0]), SOLVERS["ddim"], "w2", 0.0, "marginal")
        >>> value, gradient = f(np.array([[2.0, 1.0, 0.0]]))
        >>> value.round(6).tolist(), gradient.round(6).tolist()          # (sqrt(0.45) - 1)^2
        ([0.108359], [[0.412198, 0.147214, 0.0]])
        """
        if self.objective == "blend":
            (whole, by_whole), (steps, by_steps) = (part(grids) for part in self._blended)
            return whole + BLEND * steps, by_whole + BLEND * by_steps
        n, state = grids.shape[1] - 1, 1 + self.solver.memory
        calls = 0 if self.error is None else self.solver.calls_per_step
        size = state * (state + calls) * self.solver.window * n * self.spectrum.eigenvalues.size
        parts = np.array_split(grids, -(-grids.shape[0] * size // _GRIDS_AT_ONCE))
        results = [self._local(part) if self.objective == "local" else self._end_to_end(part) for part in parts]
        return np.concatenate([value for value, _ in results]), np.concatenate([slope for _, slope in results])

    @property
    def _blended(self) -> tuple[GridObjective, GridObjective]:
        """What `blend` is made of: the calls' errors count once."""
        return replace(self, objective="w2"), replace(self, objective="local", error=None)

    @property
    def negligible(self) -> float:
        """The value of relative errors of 1.2e-7 in every standard deviation: what rounding to float32 makes of samples.

        >>> from eigenstep.solvers import SOLVERS
        >>> f = GridObjective(Spectrum.from_eigenvalues([3.0, 1.0]), SOLVERS["ddim"], "w2", 0.0, "marginal")
        >>> float(f"{f.negligible:.3g}")
        5.68e-14
        """
        size = self.spectrum.dim if self.objective in ("kl", "reverse_kl") else self.spectrum.trace
        return float(np.finfo(np.float32).eps) ** 2 * size

    def _local(self, grids: Float) -> tuple[Float, Float]:
        n = grids.shape[1] - 1
        lam = self.spectrum.eigenvalues
        run = local_errors(self.solver, lam, grids)
        weights = n * self.spectrum.multiplicities * local_weight(lam + grids[:, -1:] ** 2, self.noise_floor)
        weighted = run.error * weights[:, None]
        slopes = 2 * np.einsum("snk,snlk->snl", weighted, run.d_error)
        gradient = np.zeros_like(grids)
        for slot in range(run.windows.shape[1]):
            used = np.flatnonzero(run.windows[:, slot] >= 0)
            gradient[:, run.windows[used, slot]] += slopes[:, used, slot]
        value = np.einsum("snk,snk->s", weighted, run.error)
        if self.error is not None:
            calls = outcome(self.solver, lam, grids, self.error)
            value = value + calls.error @ self.spectrum.multiplicities
            gradient += calls.d_error @ self.spectrum.multiplicities
        return value, gradient

    def _end_to_end(self, grids: Float) -> tuple[Float, Float]:
        run = outcome(self.solver, self.spectrum.eigenvalues, grids, self.error)
        initial, last = self._initial(grids[:, :1]), grids[:, -1:]
        # (gain + i h)^2 to first order: -h^2 would make a variance of a direction that has none.
        squared = run.gain**2 + 2j * _COMPLEX_STEP * run.gain
        value, by_gain = self._terms(squared * initial + run.noise, squared, run.error, last)
        gradient = np.einsum("sjk,sk->sj", run.d_gain, by_gain)
        variance = run.gain**2 * initial + run.noise
        if self.solver.stochastic:
            _, by_noise = self._terms(variance + 1j * _COMPLEX_STEP, run.gain**2, run.error, last)
            gradient += np.einsum("sjk,sk->sj", run.d_noise, by_noise)
        if self.error is not None:
            _, by_error = self._terms(variance, run.gain**2, run.error + 1j * _COMPLEX_STEP, last)
            gradient += np.einsum("sjk,sk->sj", run.d_error, by_error)
        return value.sum(axis=-1), gradient

    def _initial(self, first: Any) -> Any:
        """Variance of every direction at the first level."""
        lam = self.spectrum.eigenvalues
        return (lam if self.start == "marginal" else np.zeros_like(lam)) + first**2

    def _terms(self, variance: Any, squared_gain: Any, error: Any, last: Any) -> tuple[Float, Float]:
        """Contributions of the directions to the value; from complex arguments, also their derivative.

        The variance of the calls' errors counts as an error of the mean does: it must not fill variance that was lost.
        """
        lam, multiplicities = self.spectrum.eigenvalues, self.spectrum.multiplicities
        missed = squared_gain * (self.spectrum.mean_energy / multiplicities) if self.start == "prior" else 0.0
        psi = divergence_terms(self.objective, variance, lam + last**2, missed + error, self.noise_floor)
        return multiplicities * psi.real, multiplicities * psi.imag / _COMPLEX_STEP

    def curved(self, sigmas: Float) -> tuple[float, Float, Float]:
        """Value, gradient and Hessian in ln sigma of one grid (n+1,), for its inner levels: float, (n-1,), (n-1, n-1).

        End to end, with psi_i(g_i) the contribution of a direction, hess = sum_i psi_i'' dg_i dg_i^T + psi_i' d^2 g_i; with
        noise of the solver's own, likewise in the output variance (and the squared gain, which shrinks a missed mean); `local`
        likewise in the errors of the steps.

        >>> from eigenstep.solvers import SOLVERS
        >>> f = GridObjective(Spectrum.from_eigenvalues([1.0]), SOLVERS["ddim"], "w2", 0.0, "marginal")
        >>> value, gradient, hessian = f.curved(np.array([2.0, 1.0, 0.0]))
        >>> round(value, 6), gradient.round(6).tolist(), hessian.round(6).tolist()
        (0.108359, [0.147214], [[0.394427]])
        """
        if self.objective == "blend":
            (whole, *by_whole), (steps, *by_steps) = (part.curved(sigmas) for part in self._blended)
            gradient, hessian = (one + BLEND * other for one, other in zip(by_whole, by_steps, strict=True))
            return whole + BLEND * steps, gradient, hessian
        if self.objective == "local":
            value, gradient, hessian = self._local_curved(sigmas)
        else:
            value, gradient, hessian = self._end_to_end_curved(sigmas)
        return value, gradient[1:-1], hessian

    def _local_curved(self, sigmas: Float) -> tuple[float, Float, Float]:
        n = sigmas.size - 1
        lam = self.spectrum.eigenvalues
        run = local_jet(self.solver, lam, sigmas)
        weights = n * self.spectrum.multiplicities * local_weight(lam + sigmas[-1] ** 2, self.noise_floor)
        weighted = run.error * weights
        slopes = 2 * np.matmul(run.d_error, weighted[:, :, None])
        blocks = 2 * np.matmul(run.d_error * weights, run.d_error.transpose(0, 2, 1))
        blocks += 2 * np.matmul(run.dd_error, weighted[:, None, :, None])[..., 0]
        gradient = assembled(slopes, run.windows, np.zeros((n, 1), dtype=np.intp))[:, 0]
        hessian = assembled(blocks, run.windows, run.windows)[1:-1, 1:-1]
        value = float((weighted * run.error).sum())
        if self.error is not None:
            (calls,) = jets(self.solver, lam, sigmas, [], self.error)
            value += float(calls.value[0] @ self.spectrum.multiplicities)
            gradient = gradient + calls.slope[:, 0] @ self.spectrum.multiplicities
            hessian = hessian + calls.weighted_curvature(self.spectrum.multiplicities[None])
        return value, gradient, 0.5 * (hessian + hessian.T)

    def _end_to_end_curved(self, sigmas: Float) -> tuple[float, Float, Float]:
        initial, last = self._initial(sigmas[0]), sigmas[-1]
        noisy = self.solver.stochastic
        starts = [(initial, 1.0), (1.0, 0.0)] if noisy else [(1.0, 0.0)]
        starts = starts[: 1 + (self.start == "prior")]
        runs = jets(self.solver, self.spectrum.eigenvalues, sigmas, starts, self.error)
        values, slopes = np.concatenate([run.value for run in runs]), np.concatenate([run.slope for run in runs], axis=1)
        # Second derivatives of psi: central differences of its exact first ones, at arguments changed by one part in 10^5.
        variables = len(values)
        nearby = values[:, None] * (1 + _SHIFT * _SHIFTED[variables])
        by = np.empty_like(nearby)
        for q in range(variables):
            here = nearby + 0j
            here[q] += 1j * _COMPLEX_STEP
            error = here[-1] if self.error is not None else 0.0
            if noisy:
                value, by[q] = self._terms(here[0], here[len(starts) - 1], error, last)
            else:
                squared = nearby[0] ** 2 + 2j * here[0].imag * nearby[0]
                value, by[q] = self._terms(squared * initial, squared, error, last)
        inner = slopes[1:-1]
        hessian = runs[0].weighted_curvature(by[: len(starts), 0])
        for run in runs[1:]:
            hessian = hessian + run.weighted_curvature(by[len(starts) :, 0])
        for p in range(variables):
            step = 2 * _SHIFT * values[p]
            bend = np.divide(by[:, 1 + 2 * p] - by[:, 2 + 2 * p], step, out=np.zeros_like(by[:, 0]), where=step != 0)
            for q in range(variables):
                hessian = hessian + (inner[:, p] * bend[q]) @ inner[:, q].T
        return float(value[0].sum()), np.einsum("aqk,qk->a", slopes, by[:, 0]), 0.5 * (hessian + hessian.T)
