"""Write k_diffusion.json: what k-diffusion's own samplers return in float32 on the problem stored beside the numbers.

    python tests/parity/k_diffusion_numbers.py

needs torch, k-diffusion (0.1.1.post1; its sampling.py is that of crowsonkb/k-diffusion at 4601bf0 for every sampler used here)
and what its sampling.py imports: torchdiffeq, torchsde, tqdm, scipy. The tests assert the stored numbers always and run the
samplers again where k-diffusion is installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
import types
import warnings
from pathlib import Path
from typing import Any

import numpy as np

NUMBERS = Path(__file__).with_name("k_diffusion.json")

SIGMAS = [14.6, 9.1, 5.4, 3.2, 1.8, 1.0, 0.5, 0.22, 0.09, 0.03]
GRIDS = {"above": SIGMAS, "zero": [*SIGMAS, 0.0]}
ITEM_SHAPE = (2, 3)
N_ITEMS = 4


class Mixture:
    """Exact posterior mean of a mixture of three Gaussians with diagonal covariances: nonlinear, it mixes the coordinates."""

    def __init__(self) -> None:
        """Draw the mixture."""
        rng = np.random.default_rng(20)
        self.means = rng.uniform(-1.5, 1.5, (3, 6))
        self.variances = rng.uniform(0.01, 0.5, (3, 6))
        self.log_weights = np.log([0.2, 0.5, 0.3])

    def __call__(self, x: Any, sigma: float) -> Any:
        """D(x~, sigma) of a tensor (batch, 2, 3), in its own precision."""
        import torch

        means, variances, log_weights = (
            torch.from_numpy(part).to(x) for part in (self.means, self.variances, self.log_weights)
        )
        total = variances + sigma**2
        offset = x.reshape(len(x), 1, -1) - means
        log_p = log_weights - 0.5 * (offset**2 / total + total.log()).sum(dim=2)
        posterior = (means + variances / total * offset) * log_p.softmax(dim=1)[:, :, None]
        return posterior.sum(dim=1).reshape(x.shape)


def host() -> tuple[Any, Any]:
    """k-diffusion's sampling.py and external.py, without the rest of its package, which needs a dozen more libraries.

    Raises ImportError where one of the two, or what they import, is absent. utils.py imports torchvision for images only:
    an empty module stands in for it where it is absent.
    """
    found = importlib.util.find_spec("k_diffusion")
    if found is None:
        raise ImportError("k-diffusion is not installed")
    package = types.ModuleType("k_diffusion")
    package.__path__ = list(found.submodule_search_locations or [])
    before = dict(sys.modules)
    sys.modules["k_diffusion"] = package
    if importlib.util.find_spec("torchvision") is None:
        for name in ("torchvision", "torchvision.transforms", "torchvision.transforms.functional"):
            sys.modules[name] = types.ModuleType(name)
        sys.modules["torchvision.transforms"].functional = None  # type: ignore[attr-defined]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("k_diffusion.sampling"), importlib.import_module("k_diffusion.external")
    finally:
        for name in set(sys.modules) - set(before):
            if name.split(".")[0] in ("k_diffusion", "torchvision"):
                del sys.modules[name]


def run(sampling: Any, name: str, model: Any, x: Any, sigmas: Any, noise: Any) -> Any:
    """What k-diffusion's sampler for our solver `name` returns; `noise[k]` is added in step k."""
    order = iter(range(len(noise)))
    added = {"noise_sampler": lambda sigma, sigma_next: noise[next(order)]}
    samplers = {
        "ddim": (sampling.sample_euler, {}),
        "heun": (sampling.sample_heun, {}),
        "dpm_2": (sampling.sample_dpm_2, {}),
        "dpmpp_2m": (sampling.sample_dpmpp_2m, {}),
        "dpmpp_2s": (sampling.sample_dpmpp_2s_ancestral, {"eta": 0.0}),
        "euler_ancestral": (sampling.sample_euler_ancestral, added),
        "dpmpp_2m_sde": (sampling.sample_dpmpp_2m_sde, added),
    }
    sampler, options = samplers[name]
    return sampler(model, x, sigmas, disable=True, **options)


NAMES = ("ddim", "heun", "dpm_2", "dpmpp_2m", "dpmpp_2s", "euler_ancestral", "dpmpp_2m_sde")
"""Our solvers that k-diffusion has as well."""


def inputs() -> tuple[np.ndarray, np.ndarray]:
    """Standard normal noise to start from, and that of every step: what `generate` draws for seed 0."""
    from eigenstep.models import item_noise

    steps = [item_noise(range(N_ITEMS), ITEM_SHAPE, step=k) for k in range(len(SIGMAS))]
    return item_noise(range(N_ITEMS), ITEM_SHAPE), np.stack(steps)


def main() -> None:
    """Run every sampler on both grids and write the numbers."""
    import torch

    sampling, _ = host()
    mixture = Mixture()
    z, noise = (torch.from_numpy(part).to(torch.float32) for part in inputs())
    results = {}
    for name in NAMES:
        for end, levels in GRIDS.items():
            sigmas = torch.tensor(levels)
            x = run(sampling, name, lambda x, sigma: mixture(x, float(sigma[0])), sigmas[0] * z, sigmas, noise)
            results[f"{name}, {end}"] = [float(f"{value:.9g}") for value in x.flatten().tolist()]
    NUMBERS.write_text(json.dumps({"host": "k-diffusion 0.1.1.post1", "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
