"""Where data come from: one iterator of batches per kind of source, and `measure`, which takes their spectrum.

    measure(open_source("photos/", size=32))

A new kind of source is one iterator and one row in `SOURCES`. Nothing here is imported by the core, and Pillow and
other packages are imported only by the sources that need them.
"""

from eigenstep.data.cluster import accumulate_on_cluster
from eigenstep.data.latents import EncodedSource, Encoder, encoded
from eigenstep.data.measure import CheckpointWarning, accumulate, measure
from eigenstep.data.measurement import Measurement, Reading
from eigenstep.data.open import SOURCES, SourceKind, from_batches, open_source
from eigenstep.data.source import Options, Position, Source, SourceError

__all__ = [
    "SOURCES", "CheckpointWarning", "EncodedSource", "Encoder", "Measurement", "Options", "Position", "Reading", "Source",
    "SourceError", "SourceKind", "accumulate", "accumulate_on_cluster", "encoded", "from_batches", "measure", "open_source",
]  # fmt: skip
