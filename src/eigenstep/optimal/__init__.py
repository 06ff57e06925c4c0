"""Where the steps go: the tangent and geodesic laws, the optimal finite grid, integer timesteps, ranking."""

from eigenstep.optimal.geodesic import geodesic_law
from eigenstep.optimal.ranking import RankedGrid, rank
from eigenstep.optimal.search import GridResult, optimal_grid
from eigenstep.optimal.split import SplitResult, optimal_split
from eigenstep.optimal.tangent import tangent_gamma, tangent_law
from eigenstep.optimal.timesteps import TimestepResult, optimal_timesteps

__all__ = [
    "GridResult",
    "RankedGrid",
    "SplitResult",
    "TimestepResult",
    "geodesic_law",
    "optimal_grid",
    "optimal_split",
    "optimal_timesteps",
    "rank",
    "tangent_gamma",
    "tangent_law",
]
