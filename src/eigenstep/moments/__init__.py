"""Moments of a stream of batches: the covariance of data that never is in memory at once, and its spectrum.

One interface, `update(batch)`, `merge(other)`, `spectrum()`, `save(path)` and `load(path)`, and four forms (`FORMS`):

    dense       the whole covariance, up to 16,384 dimensions
    gram        the items themselves, for fewer items than dimensions
    stationary  one power per frequency, for data that are the same at every place
    low-rank    leading eigenpairs and the density of the rest, in any dimension

`new_moments("auto", ...)` chooses, and says why.
"""

from eigenstep.moments.accumulator import Accumulator
from eigenstep.moments.choose import FORMS, load_moments, new_moments
from eigenstep.moments.dense import Moments
from eigenstep.moments.gram import GramMoments
from eigenstep.moments.low_rank import LowRankMoments
from eigenstep.moments.stationary import StationaryMoments

__all__ = [
    "FORMS",
    "Accumulator",
    "GramMoments",
    "LowRankMoments",
    "Moments",
    "StationaryMoments",
    "load_moments",
    "new_moments",
]
