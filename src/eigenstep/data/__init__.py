"""Where data come from: one iterator of batches per kind of source, and `measure`, which takes their spectrum.

    measure(open_source("photos/", size=32))

A new kind of source is one iterator and one row in `SOURCES`. Nothing here is imported by the core, and Pillow and
other packages are imported only by the sources that need them.
"""

from eigenstep.data.measure import measure
from eigenstep.data.open import SOURCES, SourceKind, from_batches, open_source
from eigenstep.data.source import Options, Position, Source, SourceError

__all__ = [
    "SOURCES", "Options", "Position", "Source", "SourceError", "SourceKind", "from_batches", "measure", "open_source",
]  # fmt: skip
