"""Measure data on a Dask cluster, save the sums, and plan from them.

    python examples/cluster.py my-data.npy --address local:2
    python examples/cluster.py 'shards/{000..099}.tar' --address tcp://scheduler:8786

Needs `pip install "eigenstep[dask]"`. Workers must find the data under the same names. The saved sums can be merged with those
of other data later: `eigenstep merge`.
"""

import argparse

from eigenstep import optimal_grid
from eigenstep.data import accumulate_on_cluster, open_source


def main():
    parser = argparse.ArgumentParser(description="Plan a grid from data that a cluster reads.")
    parser.add_argument("source")
    parser.add_argument("--address", default="local:2", help="of a scheduler, or local:N for N processes here")
    parser.add_argument("--steps", type=int, default=6)
    options = parser.parse_args()

    source = open_source(options.source)
    print(f"{source.n_items} items of shape {source.item_shape}")
    measurement = accumulate_on_cluster(source, options.address)
    measurement.save("sums.npz")

    spectrum = measurement.spectrum()
    print(spectrum)
    plan = optimal_grid(spectrum, options.steps, 0.002, 80.0)
    print("levels:", *(f"{sigma:.4g}" for sigma in plan.sigmas))


if __name__ == "__main__":  # the workers of local:N import this file
    main()
