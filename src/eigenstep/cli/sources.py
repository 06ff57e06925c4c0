"""What a command plans on: a saved spectrum, one of the zoo, or data measured at once."""

from __future__ import annotations

import glob
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eigenstep.cli.errors import say
from eigenstep.cli.progress import progress
from eigenstep.spectrum import JSON, Spectrum, zoo_names


def spectrum_of(data: str, quiet: bool, **reading: Any) -> tuple[Spectrum, str]:
    """The spectrum that `data` names, and its name: a saved file, one of the zoo, or a source to measure now."""
    if _holds_spectrum(Path(data)):
        kept = Spectrum.load(data)
        return kept, str(kept.provenance.get("name", Path(data).stem))
    if data in zoo_names():
        if Path(data).exists():
            say(f"warning: {data!r} is taken for the spectrum of that name in the zoo; write ./{data} for the file.")
        return Spectrum.from_zoo(data), data
    if not (Path(data).expanduser().exists() or glob.has_magic(data) or "://" in data):
        raise ValueError(f"There is no file, folder or zoo spectrum {data!r}; the zoo has {', '.join(zoo_names())}.")
    measured = _measured(data, quiet, **reading)
    return measured, str(measured.provenance["name"])


def _holds_spectrum(path: Path) -> bool:
    """Whether `path` is a saved spectrum: any .json, or an .npz with a spectrum's own arrays."""
    if path.suffix.lower() != ".npz" or not path.is_file():
        return path.suffix.lower() == ".json"
    try:
        with zipfile.ZipFile(path) as archive:
            return {"header.npy", "eigenvalues.npy"} <= set(archive.namelist())
    except zipfile.BadZipFile:
        return False


def _measured(
    source: str | list[str], quiet: bool, *, provenance: Mapping[str, JSON] | None = None, **reading: Any
) -> Spectrum:
    """The spectrum of the data at `source`, measured with a progress bar."""
    from eigenstep.data import measure, open_source

    opened = open_source(source, **{key: value for key, value in reading.items() if value is not None})
    with progress("measuring", quiet) as report:
        return measure(opened, progress=report, provenance=provenance)
