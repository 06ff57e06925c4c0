"""Planned grids against the whole catalogue on networks that others trained, as `eigenstep evaluate` runs them.

    EIGENSTEP_SHARED=../shared python experiments/pretrained.py sdaloglu_mnist_lin100ep --folder results/

Every cell is solver x calls x grid x seed, from the same noise, as `eigenstep evaluate` runs it; finished cells are kept and
a second call goes on. The plan is made once per solver and number of calls, from noise that no cell draws. Ratios are
ours over the best grid of the catalogue, picked with hindsight for every cell and measure on the seeds it is judged by.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import shared_networks

from eigenstep import Spectrum
from eigenstep.evaluation import evaluate

CALLS = (4, 6, 10)
SOLVERS = ("ddim", "dpmpp_2m", "unipc3", "ipndm4")


def run(name, folder, *, seeds, items, calls, solvers, target):
    """Evaluate one network; its spectrum is that of the training images, the gauge and the data side use the test images."""
    train = shared_networks.images(name, "train")
    return evaluate(
        shared_networks.denoiser(name),
        shared_networks.images(name)[:3000],
        folder / f"{name}-{target}",
        calls=calls,
        solvers=solvers,
        seeds=seeds,
        n_items=items,
        spectrum=Spectrum.from_samples(train, basis=300),
        target=target,
        name=name,
        resume=True,
        stage=lambda text: print(f"{name}: {text}", flush=True),
    )


MEASURES = {"RMSE": "rmse", "FD pixels": "frechet/pixels", "FD convolutions": "frechet/random-convolutions"}
"""To the converged endpoint of the same noise."""


def table(results):
    """One row per network, solver and number of calls: ours over the catalogue's best in hindsight, and the verdict."""
    lines = ["| network | solver | calls | RMSE: ours | best of the catalogue | " + " | ".join(MEASURES) + " |"]
    lines.append("|---|---|--:|--:|--:|" + "--:|" * len(MEASURES))
    ratios = {name: [] for name in MEASURES}
    words = {name: [] for name in MEASURES}
    for network, result in results.items():
        for solver, calls in result.settings_pairs():
            found = {name: result.verdict(solver, calls, metric) for name, metric in MEASURES.items()}
            if any(verdict is None for verdict in found.values()):
                continue
            rmse = found["RMSE"]
            spread = 0.5 * (rmse.ours.high - rmse.ours.low)
            row = f"| {network} | {solver} | {calls} | {rmse.ours.mean:.4f} ± {spread:.4f} "
            row += f"| {rmse.theirs.mean:.4f} {rmse.best} |"
            for name, verdict in found.items():
                ratios[name].append(verdict.ratio)
                words[name].append(verdict.word)
                row += f" {verdict.ratio:.2f} {verdict.word} |"
            lines.append(row)
    for name in MEASURES:
        count = len(words[name])
        lines.append(
            f"{name}: {count} cells, {words[name].count('better')} better, {words[name].count('even')} even, "
            f"{words[name].count('worse')} worse; median ratio {np.median(ratios[name]):.2f}, largest {max(ratios[name]):.2f}."
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=shared_networks.NAMES)
    parser.add_argument("--folder", type=Path, default=Path("results"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--items", type=int, default=50)
    parser.add_argument("--calls", type=lambda text: tuple(int(part) for part in text.split(",")), default=CALLS)
    parser.add_argument("--solvers", type=lambda text: tuple(text.split(",")), default=SOLVERS)
    parser.add_argument("--target", default="endpoint")
    given = parser.parse_args()
    results = {}
    for name in given.names:
        results[name] = run(
            name, given.folder, seeds=given.seeds, items=given.items, calls=given.calls, solvers=given.solvers,
            target=given.target,
        )  # fmt: skip
        (given.folder / f"{name}-{given.target}.json").write_text(json.dumps(results[name].to_json()))
    print(table(results))


if __name__ == "__main__":
    main()
