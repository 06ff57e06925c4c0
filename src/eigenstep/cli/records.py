"""Results as plain JSON values: the format that `--format json` promises."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from eigenstep._version import __version__
from eigenstep.cli.aim import Aim

if TYPE_CHECKING:
    from eigenstep.estimation import ChosenSpectrum


def common_record(aim: Aim, chosen: ChosenSpectrum, name: str) -> dict[str, Any]:
    """What `plan` and `compare` both say: the spectrum and the aim."""
    spectrum = chosen.spectrum
    return {
        "version": __version__,
        "spectrum": {
            "name": name,
            "dim": spectrum.dim,
            "rank": spectrum.rank,
            "trace": spectrum.trace,
            "n_samples": spectrum.n_samples,
            "item_shape": None if spectrum.item_shape is None else list(spectrum.item_shape),
            "binning_error": spectrum.binning_error,
            "provenance": dict(spectrum.provenance),
        },
        "eigenvalues": chosen.eigenvalues,
        "eigenvalues_reason": f"{chosen.reason} {chosen.doubt}".strip(),
        "solver": aim.solver,
        "objective": aim.objective,
        "noise_floor": aim.noise_floor,
        "start": aim.start,
        "path": aim.path_name,
        "sampled_at": aim.timesteps,
        "sigma_min": aim.sigma_min,
        "sigma_max": aim.sigma_max,
        "final": aim.final,
    }


def finite(value: float) -> float | None:
    """JSON has no infinity: null stands for a grid whose error is not finite."""
    return value if math.isfinite(value) else None


def json_text(record: Mapping[str, Any]) -> str:
    """The record as JSON, in which every number is finite."""
    return json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False)
