"""Few samples: the spectrum of the population behind them, how sure the plan is, and the classical shrinkages beside it.

With n samples of d dimensions and n not far above d, the eigenvalues of the sample covariance are too large on top, too
small or zero below. `Population` undoes that; `plan_certainty` says how far the planned noise levels may still move;
`noise_check` says whether the small eigenvalues look like plain noise.
"""

from eigenstep.estimation.certainty import PlanCertainty, plan_certainty
from eigenstep.estimation.curve import DofCurve, dof_from_parts, dof_from_samples, dof_from_spectrum
from eigenstep.estimation.noise import NoiseCheck, noise_check
from eigenstep.estimation.population import Population
from eigenstep.estimation.shrinkage import ledoit_wolf_shrinkage, nonlinear_shrinkage, oracle_approximating_shrinkage

__all__ = [
    "DofCurve",
    "NoiseCheck",
    "PlanCertainty",
    "Population",
    "dof_from_parts",
    "dof_from_samples",
    "dof_from_spectrum",
    "ledoit_wolf_shrinkage",
    "noise_check",
    "nonlinear_shrinkage",
    "oracle_approximating_shrinkage",
    "plan_certainty",
]
