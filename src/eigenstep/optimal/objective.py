"""The divergence of many grids at once with its exact gradient in ln sigma: what the search minimises.

It reaches `gaussian.divergence`'s numbers by another route: products of step maps instead of a sampler's run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eigenstep.gaussian import divergence_terms, local_weight
from eigenstep.solvers import Solver
from eigenstep.spectrum import Spectrum
from eigenstep.transfer import assembled, gain_jet, local_errors, local_jet, outcome

Float = NDArray[np.float64]

_COMPLEX_STEP = 1e-30
_SHIFT = 1e-5
_NEARBY = np.array([[1.0], [1 + _SHIFT], [1 - _SHIFT]])
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

    def __call__(self, grids: Float) -> tuple[Float, Float]:
        """Values (S,) and gradients in ln sigma (S, n+1) of S grids (S, n+1) of one length.

        >>> from eigenstep.solvers import SOLVERS
        >>> f = GridObjective(Spectrum.from_eigenvalues([1.0]), SOLVERS["ddim"], "w2", 0.0, "marginal")
        >>> value, gradient = f(np.array([[2.0, 1.0, 0.0]]))
        >>> value.round(6).tolist(), gradient.round(6).tolist()          # (sqrt(0.45) - 1)^2
        ([0.108359], [[0.412198, 0.147214, 0.0]])
        """
        n = grids.shape[1] - 1
        size = (1 + self.solver.memory) ** 2 * self.solver.window * n * self.spectrum.eigenvalues.size
        parts = np.array_split(grids, -(-grids.shape[0] * size // _GRIDS_AT_ONCE))
        results = [self._local(part) if self.objective == "local" else self._end_to_end(part) for part in parts]
        return np.concatenate([value for value, _ in results]), np.concatenate([slope for _, slope in results])

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
        return np.einsum("snk,snk->s", weighted, run.error), gradient

    def _end_to_end(self, grids: Float) -> tuple[Float, Float]:
        run = outcome(self.solver, self.spectrum.eigenvalues, grids)
        ends = grids[:, :1], grids[:, -1:]
        value, by_gain = self._terms(run.gain, run.noise, *ends)
        gradient = np.einsum("sjk,sk->sj", run.d_gain, by_gain)
        if self.solver.stochastic:
            gradient += np.einsum("sjk,sk->sj", run.d_noise, self._terms(run.gain, run.noise, *ends, by_noise=True)[1])
        return value.sum(axis=-1), gradient

    def _terms(self, gain: Any, noise: Any, first: Float, last: Float, *, by_noise: bool = False) -> tuple[Float, Float]:
        """Contributions of the directions to the value, and their derivatives in the gain or in the noise variance."""
        lam, multiplicities = self.spectrum.eigenvalues, self.spectrum.multiplicities
        marginal = self.start == "marginal"
        initial = lam + first**2 if marginal else first**2 + np.zeros_like(lam)
        missed = 0.0 if marginal else self.spectrum.mean_energy / multiplicities
        # (gain + i h)^2 to first order: -h^2 would make a variance of a direction that has none.
        squared = gain**2 + 2j * _COMPLEX_STEP * gain * (not by_noise)
        noise = noise + 1j * _COMPLEX_STEP * by_noise
        psi = divergence_terms(self.objective, squared * initial + noise, lam + last**2, squared * missed, self.noise_floor)
        return multiplicities * psi.real, multiplicities * psi.imag / _COMPLEX_STEP

    def curved(self, sigmas: Float) -> tuple[float, Float, Float]:
        """Value, gradient and Hessian in ln sigma of one grid (n+1,), for its inner levels: float, (n-1,), (n-1, n-1).

        End to end, with psi_i(g_i) the contribution of a direction, hess = sum_i psi_i'' dg_i dg_i^T + psi_i' d^2 g_i; `local`
        likewise from its steps; with noise of the solver's own, central differences of the gradient.

        >>> from eigenstep.solvers import SOLVERS
        >>> f = GridObjective(Spectrum.from_eigenvalues([1.0]), SOLVERS["ddim"], "w2", 0.0, "marginal")
        >>> value, gradient, hessian = f.curved(np.array([2.0, 1.0, 0.0]))
        >>> round(value, 6), gradient.round(6).tolist(), hessian.round(6).tolist()
        (0.108359, [0.147214], [[0.394427]])
        """
        if self.objective == "local":
            value, gradient, hessian = self._local_curved(sigmas)
        elif self.solver.stochastic:
            value, gradient, hessian = self._differenced(sigmas)
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
        return float((weighted * run.error).sum()), gradient, 0.5 * (hessian + hessian.T)

    def _differenced(self, sigmas: Float) -> tuple[float, Float, Float]:
        shifts = _SHIFT * np.eye(sigmas.size)[1:-1]
        values, gradients = self(sigmas * np.exp(np.concatenate([np.zeros((1, sigmas.size)), shifts, -shifts])))
        up, down = np.split(gradients[1:, 1:-1], 2)
        hessian = (up - down) / (2 * _SHIFT)
        return float(values[0]), gradients[0], 0.5 * (hessian + hessian.T)

    def _end_to_end_curved(self, sigmas: Float) -> tuple[float, Float, Float]:
        jet = gain_jet(self.solver, self.spectrum.eigenvalues, sigmas)
        # The second derivative of psi by central differences of its exact first one, at gains changed by one part in 10^5.
        value, by_gain = self._terms(jet.gain * _NEARBY, 0.0, sigmas[0], sigmas[-1])
        step = 2 * _SHIFT * jet.gain
        bend = np.divide(by_gain[1] - by_gain[2], step, out=np.zeros_like(step), where=step != 0)
        inner = jet.d_gain[1:-1]
        hessian = (inner * bend) @ inner.T + jet.weighted_curvature(by_gain[0])
        return float(value[0].sum()), jet.d_gain @ by_gain[0], 0.5 * (hessian + hessian.T)
