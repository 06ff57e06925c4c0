"""`measure`: the spectrum of a source, one batch at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from eigenstep.data.source import Source, SourceError
from eigenstep.moments import Moments
from eigenstep.spectrum import JSON, Spectrum

MAX_DIM = 16_384  # a covariance of 2 GiB; four such matrices are held while the spectrum is taken


def measure(
    source: Source,
    *,
    precision: str = "float64",
    progress: Callable[[int, int | None], object] | None = None,
    provenance: Mapping[str, JSON] | None = None,
) -> Spectrum:
    """Spectrum of the items of a source, read once.

    Parameters
    ----------
    source : from `open_source`.
    precision : as for `Moments`: "float64", or "float32" for twice the speed where decoding is not the bottleneck.
    progress : called after every batch with the number of items read and the number there are, None if unknown.
    provenance : added to what is recorded: the source, its units, the smallest and largest value, items skipped.

    Raises
    ------
    SourceError : NaN values, more than 1 % of corrupt items, items of several shapes, more than 16,384 dimensions.
    ValueError : fewer than two items, constant data.

    Warns
    -----
    RankWarning : no more items than dimensions.

    Examples
    --------
    >>> from eigenstep.data import open_source
    >>> spectrum = measure(open_source("digits"))
    >>> spectrum.dim, spectrum.n_samples, spectrum.provenance["value_range"]
    (64, 1797, '[-1, 1] from digits [0, 16]')
    """
    moments: Moments | None = None
    low, high = math.inf, -math.inf
    for batch in source:
        if moments is None:
            moments = Moments(batch.shape[1:], precision=precision)
            if moments.dim > MAX_DIM:
                raise SourceError(
                    f"{source.description}: items of {moments.dim} numbers have a covariance too large for memory; "
                    f"bring them down to {MAX_DIM} (for images with `size` or `gray`)."
                )
        try:
            moments.update(batch)
        except ValueError as error:
            raise SourceError(f"{source.description}: {error}") from error
        low, high = min(low, float(batch.min())), max(high, float(batch.max()))
        if progress is not None:
            progress(moments.count, source.n_items)
    assert moments is not None, "a source without items raises"
    record: dict[str, JSON] = {
        "name": source.name,
        "source": source.description,
        "value_range": source.value_range,
        "values": [low, high],
        "skipped": len(source.skipped),
    }
    return moments.spectrum(provenance={**record, **(provenance or {})})
