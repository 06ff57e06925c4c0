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
from eigenstep.transfer import local_errors, outcome

Float = NDArray[np.float64]

_COMPLEX_STEP = 1e-30
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
        lam, multiplicities = self.spectrum.eigenvalues, self.spectrum.multiplicities
        run = outcome(self.solver, lam, grids)
        target = lam + grids[:, -1:] ** 2
        marginal = self.start == "marginal"
        initial = lam + grids[:, :1] ** 2 if marginal else np.broadcast_to(grids[:, :1] ** 2, target.shape)
        missed = np.zeros_like(lam) if marginal else self.spectrum.mean_energy / multiplicities
        variance, mean_error = run.gain**2 * initial + run.noise, run.gain**2 * missed

        def terms(variance: Any, mean_error: Any) -> Any:
            return divergence_terms(self.objective, variance, target, mean_error, self.noise_floor)

        value = terms(variance + 1j * _COMPLEX_STEP, mean_error)
        by_variance = value.imag / _COMPLEX_STEP * multiplicities
        by_gain = by_variance * initial
        if not marginal:
            by_gain = by_gain + terms(variance, mean_error + 1j * _COMPLEX_STEP).imag / _COMPLEX_STEP * multiplicities * missed
        gradient = np.einsum("sjk,sk->sj", run.d_gain, 2 * run.gain * by_gain)
        if self.solver.stochastic:
            gradient += np.einsum("sjk,sk->sj", run.d_noise, by_variance)
        return value.real @ multiplicities, gradient
