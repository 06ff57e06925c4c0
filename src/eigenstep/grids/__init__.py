"""The catalogue: every published law and grid that eigenstep measures itself against.

A *law* is a plain callable u in [0, 1] -> sigma with law(0) = sigma_max and law(1) = sigma_min. A *grid* is the array
of n + 1 descending sigmas of n steps. `grid` cuts a law into a grid; `LAWS` lists every baseline with its source, and
`catalogue_grids` builds all that apply. To add a baseline: one function, one row in `LAWS`, one parity test.

Hosts disagree about the end of a grid, so it is always spelled out: `grid(law, n)` ends on the law's own end (n + 1
points of it), `grid(law, n, final=0.0)` puts n points on the law and then a 0, as k-diffusion and EDM do.
"""

from eigenstep.grids.catalogue import LAWS, LawRow, catalogue_grids
from eigenstep.grids.cut import GridError, Law, grid
from eigenstep.grids.laws import (
    beta_law,
    cosine_law,
    exponential_law,
    golden_law,
    karras_law,
    kl_optimal_law,
    laplace_law,
    polyexponential_law,
    quadratic_t_law,
    rescaled_entropic_law,
    uniform_t_law,
)
from eigenstep.grids.split import split
from eigenstep.grids.strength import strength_grid
from eigenstep.grids.tables import (
    ays_grid,
    ays_law,
    gits_grid,
    gits_law,
)
from eigenstep.grids.timesteps import (
    beta_timestep_grid,
    ddim_uniform_grid,
    linear_quadratic_grid,
    sgm_uniform_grid,
    simple_grid,
    timestep_grid,
)

__all__ = [
    "LAWS",
    "GridError",
    "Law",
    "LawRow",
    "ays_grid",
    "ays_law",
    "beta_law",
    "beta_timestep_grid",
    "catalogue_grids",
    "cosine_law",
    "ddim_uniform_grid",
    "exponential_law",
    "gits_grid",
    "gits_law",
    "golden_law",
    "grid",
    "karras_law",
    "kl_optimal_law",
    "laplace_law",
    "linear_quadratic_grid",
    "polyexponential_law",
    "quadratic_t_law",
    "rescaled_entropic_law",
    "sgm_uniform_grid",
    "simple_grid",
    "split",
    "strength_grid",
    "timestep_grid",
    "uniform_t_law",
]
