"""Samples of a tournament's cells side by side, from the same noise: one sheet per model.

    EIGENSTEP_SHARED=../shared python experiments/sheets.py edm_fashion flow_latent --folder results/ --to sheets/

Rows: the best default grid of the catalogue and our plan at each number of calls, then the converged samples. The plans are
those that the tournament kept; latents are shown decoded.
"""

from pathlib import Path

import networks
import numpy as np
from tournament import FINE_STEPS, FIRST_SEED, arguments, best, finished, first_states, within_range

from eigenstep import grid, karras_law, plots, sample
from eigenstep.models import item_noise


def rows(subject, cells, count):
    """Name of each row and its samples."""
    denoiser = subject.denoiser
    high = float(denoiser.sigma_max)
    noise = item_noise(range(count), subject.data.shape[1:], seed=FIRST_SEED)
    found = {}
    for cell in cells:
        for pool, title in (("D", "best default"), ("ours", "planned")):
            entry = best(cell, pool, "rmse")
            states = first_states(denoiser, subject.spectrum, entry["sigmas"], entry["warm"], noise)
            name = f"{cell['calls']} calls, {title}" + (f" ({entry['name']})" if pool == "D" else "")
            found[name] = sample(denoiser, states, within_range(denoiser, entry["sigmas"]), solver=cell["solver"])
    fine = grid(karras_law(float(denoiser.sigma_min), high, rho=7.0), FINE_STEPS, final=0.0)
    found["converged"] = sample(denoiser, high * noise, fine, solver="dpmpp_2m")
    return found


def decoded(name, folder, items):
    """Pictures of latents; anything else as it is."""
    import torch
    from diffusers import AutoencoderKL

    if not (folder / name / "vae").is_dir():
        return items
    vae = AutoencoderKL.from_pretrained(folder / name / "vae")
    with torch.no_grad():
        return vae.decode(torch.tensor(items, dtype=torch.float32) / vae.config.scaling_factor).sample.numpy()


def main():
    parser = arguments(__doc__, calls=(4, 6), solvers=("ddim",))
    parser.add_argument("names", nargs="+")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--to", type=Path, default=Path("sheets"))
    given = parser.parse_args()
    given.to.mkdir(parents=True, exist_ok=True)
    for name in given.names:
        subject = networks.subject(name, given.networks)
        ends = (float(np.min(subject.data)), float(np.max(subject.data))) if subject.data.ndim == 4 else None
        if (given.networks / name / "vae").is_dir():
            ends = (-1.0, 1.0)
        for solver in given.solvers:
            cells = [cell for cell in finished(given, name) if cell["solver"] == solver]
            drawn = {title: decoded(name, given.networks, items) for title, items in rows(subject, cells, given.count).items()}
            ax = plots.sample_sheet(drawn, value_range=ends, title=f"{name}, {solver}")
            file = given.to / f"{name}-{solver}.png".replace("_", "-")
            ax.figure.savefig(file, dpi=130, bbox_inches="tight")
            print(file)


if __name__ == "__main__":
    main()
