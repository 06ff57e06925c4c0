"""What the samples themselves say of a spectrum, kept with it while they are at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from eigenstep.cli.progress import progress
from eigenstep.spectrum import Spectrum

if TYPE_CHECKING:
    from eigenstep.data import Measurement, Source

_MOST_ITEMS, _MOST_VALUES = 4096, 2**26
"""Leaving each item out takes another eigendecomposition and copies: up to a minute and two GiB, beyond that not done."""


def read_again(source: Source, measurement: Measurement, spectrum: Spectrum, runs: int, quiet: bool) -> Spectrum:
    """The spectrum with the error of its total variance, from a second reading of the source."""
    from eigenstep.estimation import variance_error, with_evidence

    energies: list[float] = []
    with progress("reading again", quiet) as report:
        for batch in source:
            energies.extend(_energies(batch, measurement))
            report(len(energies), measurement.count)
    return with_evidence(spectrum, error=variance_error(energies, groups=runs))


def with_evidence_of(measurement: Measurement, spectrum: Spectrum) -> Spectrum:
    """The spectrum with what the items say that its accumulator still holds; as it is where it holds none, or too many."""
    from eigenstep.estimation import dof_from_samples, variance_error, with_evidence
    from eigenstep.moments import GramMoments

    moments = measurement.moments
    if not isinstance(moments, GramMoments) or not 3 <= moments.count <= _MOST_ITEMS:
        return spectrum
    if moments.count * moments.dim > _MOST_VALUES:
        return spectrum
    items = moments.items
    error = variance_error(_energies(items, measurement))
    return with_evidence(spectrum, curve=dof_from_samples(items), error=error)


def _energies(items: NDArray[Any], measurement: Measurement) -> list[float]:
    """Squared distances from the mean."""
    mean = np.asarray(measurement.moments.mean).reshape(-1)
    energies: list[float] = np.sum((items.reshape(len(items), -1) - mean) ** 2, axis=1).tolist()
    return energies
