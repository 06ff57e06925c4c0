"""`eigenstep demo`: a bundled network samples at 4, 6 and 10 calls on hand-made grids and on planned ones, in one picture."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from eigenstep._checks import Float, integer
from eigenstep.cli.outputs import check_output
from eigenstep.cli.progress import progress
from eigenstep.cli.tables import rendered
from eigenstep.grids import LAWS, catalogue_grids, timestep_grid
from eigenstep.spectrum import Spectrum

if TYPE_CHECKING:
    from eigenstep.models import ModelDenoiser

STEPS = (4, 6, 10)
COLUMNS, ROWS = 5, 3
"""How many samples a cell of the picture shows, side by side and one above the other."""

CONVERGED_STEPS = 60
"""Steps of Heun, two calls each but the last, on a grid even in ln sigma: what every sampler converges to."""


@dataclass(frozen=True)
class Outcome:
    """The samples of one grid, and how far they ended from where the network's own trajectories end."""

    name: str
    calls: int
    samples: Float
    rmse: float
    standard_error: float
    sigmas: list[float]
