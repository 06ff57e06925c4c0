"""eigenstep: optimal few-step sampling grids for diffusion models, from the eigenvalues of the data's covariance.

    >>> import eigenstep
    >>> spectrum = eigenstep.Spectrum.from_zoo("digits")
    >>> plan = eigenstep.optimal_grid(spectrum, 6, 0.002, 80.0)
    >>> plan.sigmas.size, plan.converged
    (7, True)

One coordinate: sigma = s/alpha, the noise-to-signal ratio, descending. Four nouns: a *path* maps t to (alpha, sigma); a *law*
maps u in [0, 1] to sigma; a *grid* is the array of n+1 sigmas of n steps; a *solver* takes the steps.
"""

from eigenstep._version import __version__
from eigenstep.call_error import CallError
from eigenstep.expansion import expanded_divergence, leading_weights, log_retained_variance, path_integrals
from eigenstep.fourier import FourierBasis
from eigenstep.gaussian import (
    OBJECTIVES,
    ReverseTrajectory,
    cramer_rao_bound,
    divergence,
    fisher_bound,
    propagate,
    retained_variance,
    reverse_trajectory,
    trajectory,
    warm_start,
)
from eigenstep.grids import (
    LAWS,
    GridError,
    LawRow,
    ays_grid,
    ays_law,
    beta_law,
    beta_timestep_grid,
    catalogue_grids,
    cosine_law,
    ddim_uniform_grid,
    exponential_law,
    gits_grid,
    gits_law,
    golden_law,
    grid,
    karras_law,
    kl_optimal_law,
    laplace_law,
    linear_quadratic_grid,
    polyexponential_law,
    quadratic_t_law,
    rescaled_entropic_law,
    sgm_uniform_grid,
    simple_grid,
    timestep_grid,
    uniform_t_law,
)
from eigenstep.moments import GramMoments, LowRankMoments, Moments, StationaryMoments, load_moments, new_moments
from eigenstep.optimal import (
    GridResult,
    RankedGrid,
    TimestepResult,
    geodesic_law,
    optimal_grid,
    optimal_timesteps,
    rank,
    tangent_gamma,
    tangent_law,
)
from eigenstep.paths import EDM, PATHS, VE, NoisePath, RectifiedFlow, VPCosine, VPDiscrete, VPLinear
from eigenstep.solvers import SOLVERS, Solver, StepContext, ddim_eta, dpmpp_2m_sde, sample, solver_named
from eigenstep.spectrum import RankWarning, Spectrum, zoo_names
from eigenstep.training import alphas_cumprod, betas, noise_level_density
from eigenstep.transfer import wiener_gain

__all__ = [
    "EDM",
    "LAWS",
    "OBJECTIVES",
    "PATHS",
    "SOLVERS",
    "VE",
    "CallError",
    "FourierBasis",
    "GramMoments",
    "GridError",
    "GridResult",
    "LawRow",
    "LowRankMoments",
    "Moments",
    "NoisePath",
    "RankWarning",
    "RankedGrid",
    "RectifiedFlow",
    "ReverseTrajectory",
    "Solver",
    "Spectrum",
    "StationaryMoments",
    "StepContext",
    "TimestepResult",
    "VPCosine",
    "VPDiscrete",
    "VPLinear",
    "__version__",
    "alphas_cumprod",
    "ays_grid",
    "ays_law",
    "beta_law",
    "beta_timestep_grid",
    "betas",
    "catalogue_grids",
    "cosine_law",
    "cramer_rao_bound",
    "ddim_eta",
    "ddim_uniform_grid",
    "divergence",
    "dpmpp_2m_sde",
    "expanded_divergence",
    "exponential_law",
    "fisher_bound",
    "geodesic_law",
    "gits_grid",
    "gits_law",
    "golden_law",
    "grid",
    "karras_law",
    "kl_optimal_law",
    "laplace_law",
    "leading_weights",
    "linear_quadratic_grid",
    "load_moments",
    "log_retained_variance",
    "new_moments",
    "noise_level_density",
    "optimal_grid",
    "optimal_timesteps",
    "path_integrals",
    "polyexponential_law",
    "propagate",
    "quadratic_t_law",
    "rank",
    "rescaled_entropic_law",
    "retained_variance",
    "reverse_trajectory",
    "sample",
    "sgm_uniform_grid",
    "simple_grid",
    "solver_named",
    "tangent_gamma",
    "tangent_law",
    "timestep_grid",
    "trajectory",
    "uniform_t_law",
    "warm_start",
    "wiener_gain",
    "zoo_names",
]
