"""Where the steps go: the tangent and geodesic laws, the optimal finite grid, integer timesteps, ranking."""

from eigenstep.optimal.geodesic import geodesic_law
from eigenstep.optimal.search import GridResult, optimal_grid
from eigenstep.optimal.tangent import tangent_gamma, tangent_law

__all__ = ["GridResult", "geodesic_law", "optimal_grid", "tangent_gamma", "tangent_law"]
