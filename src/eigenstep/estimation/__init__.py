"""Few samples: the spectrum of the population behind them, how sure the plan is, and the classical shrinkages beside it.

With n samples of d dimensions and n not far above d, the eigenvalues of the sample covariance are too large on top, too
small or zero below. `Population` undoes that; `plan_certainty` says how far the planned noise levels may still move;
`choose_spectrum` says which of the two spectra to plan on; `noise_check` says whether the small eigenvalues look like plain
noise; `with_evidence` keeps in a saved spectrum what only the samples could say.
"""

from eigenstep.estimation.certainty import PlanCertainty, plan_certainty
from eigenstep.estimation.choose import EIGENVALUES, ChosenSpectrum, choose_spectrum
from eigenstep.estimation.curve import DofCurve, dof_from_parts, dof_from_samples, dof_from_spectrum
from eigenstep.estimation.evidence import variance_error, with_evidence
from eigenstep.estimation.noise import NoiseCheck, noise_check
from eigenstep.estimation.population import Population
from eigenstep.estimation.shrinkage import ledoit_wolf_shrinkage, nonlinear_shrinkage, oracle_approximating_shrinkage

__all__ = [
    "EIGENVALUES",
    "ChosenSpectrum",
    "DofCurve",
    "NoiseCheck",
    "PlanCertainty",
    "Population",
    "choose_spectrum",
    "dof_from_parts",
    "dof_from_samples",
    "dof_from_spectrum",
    "ledoit_wolf_shrinkage",
    "noise_check",
    "nonlinear_shrinkage",
    "oracle_approximating_shrinkage",
    "plan_certainty",
    "variance_error",
    "with_evidence",
]
