"""What a command plans on: a saved spectrum, one of the zoo, or data measured at once."""

from __future__ import annotations

import glob
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eigenstep.cli.aim import Aim
from eigenstep.cli.errors import say
from eigenstep.cli.evidence import with_evidence_of
from eigenstep.cli.progress import progress
from eigenstep.spectrum import Spectrum, zoo_names

if TYPE_CHECKING:
    from eigenstep.estimation import ChosenSpectrum


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


def chosen_for(aim: Aim, spectrum: Spectrum, quiet: bool) -> ChosenSpectrum:
    """Which eigenvalues to plan on, said in a line where they are not the measured ones or the levels are in doubt."""
    chosen = aim.chosen(spectrum)
    if not quiet and (chosen.eigenvalues == "population" or chosen.doubt):
        say(f"{chosen.reason} {chosen.doubt}".strip())
    return chosen


def _holds_spectrum(path: Path) -> bool:
    """Whether `path` is a saved spectrum: any .json, or an .npz with a spectrum's own arrays."""
    if path.suffix.lower() != ".npz" or not path.is_file():
        return path.suffix.lower() == ".json"
    try:
        with zipfile.ZipFile(path) as archive:
            return {"header.npy", "eigenvalues.npy"} <= set(archive.namelist())
    except zipfile.BadZipFile:
        return False


def _measured(source: str, quiet: bool, **reading: Any) -> Spectrum:
    """The spectrum of the data at `source`, measured with a progress bar."""
    from eigenstep.data import accumulate, open_source

    opened = open_source(source, **{key: value for key, value in reading.items() if value is not None})
    with progress("measuring", quiet) as report:
        measurement = accumulate(opened, progress=report)
    return with_evidence_of(measurement, measurement.spectrum())
