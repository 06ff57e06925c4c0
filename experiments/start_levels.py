"""How near the data a network's converged samples come, by the level from which the network begins: docs/evidence.md.

    EIGENSTEP_SHARED=../shared python experiments/start_levels.py pulfer_fashion sdaloglu_mnist_lin100ep

Above its start level the Gaussian's own solution runs (`WarmStart`); below it DPM-Solver++(2M) takes 36 steps. Printed is the
squared Frechet distance to 3,000 test images in random convolutions, as mean and standard deviation over seeds, and beside it
that of as many training images, which is what the number of samples alone makes.
"""

import argparse

import numpy as np
import shared_networks

from eigenstep import Spectrum, grid, karras_law
from eigenstep.evaluation import frechet_distance, random_convolutions
from eigenstep.models import item_noise, profile

LEVELS = (80.0, 40.0, 20.0, 10.0, 5.0)


def distances(name, *, items, seeds):
    """Start level -> distances over seeds; the key None holds those of training images."""
    train, test = shared_networks.images(name, "train"), shared_networks.images(name)
    spectrum = Spectrum.from_samples(train, basis=300)
    measured = profile(shared_networks.denoiser(name), spectrum, data=test[:400], judges=0)
    curve = measured.curve
    print(f"  error at sigma = {curve.sigmas[0]:.4g}: {curve.ratio[0]:.3g} times that of the Wiener filter")
    features = random_convolutions(test[:3000])
    real = features(test[:3000])
    found = {None: [frechet_distance(features(train[k * items : (k + 1) * items]), real) for k in range(seeds)]}
    for level in (measured.sigma_max, *LEVELS, curve.start_level()):
        sigmas = grid(karras_law(measured.sigma_min, level, rho=7.0), 36, final=0.0)
        found[level] = []
        for seed in range(seeds):
            out = measured.run(item_noise(range(items), (1, 28, 28), seed=seed), sigmas, "dpmpp_2m")
            found[level].append(frechet_distance(features(out.astype(np.float32)), real))
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=("pulfer_fashion", "sdaloglu_mnist_lin100ep"))
    parser.add_argument("--items", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    for name in given.names:
        print(name)
        for level, values in distances(name, items=given.items, seeds=given.seeds).items():
            start = "training images" if level is None else f"from {level:.4g}"
            print(f"  {start:16s} {np.mean(values):10.4g} ± {np.std(values, ddof=1):.2g}", flush=True)


if __name__ == "__main__":
    main()
