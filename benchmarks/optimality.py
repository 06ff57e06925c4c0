"""Whether planned grids are optimal: no catalogue grid is better, the search converged, random restarts find nothing better.

    OPENBLAS_NUM_THREADS=1 python benchmarks/optimality.py [--quick] [--solvers ddim,heun] [--objectives w2,kl]
        [--zoo cifar10,mnist] [--n 2,3,4] [--restarts 50] [--seconds 600] [--resume FILE]

For every solver, objective, number of steps and zoo spectrum, one plan from 80 down to 0, called at 0.002 or above. Part (a)
compares it with every grid of the catalogue by `divergence` on the full spectrum and records the search's stationarity. Part
(b), for n = 4, 8 and 12, descends to the end from random grids besides (`optimal_grid(..., restarts=50)`) and reports where
that found something more than 0.1 % better. Cases come in a fixed shuffled order, so that `--seconds` leaves a fair sample;
`--resume` keeps the results of earlier runs in a file and goes on. Public API only.
"""

import argparse
import collections
import json
import pathlib
import platform
import time

import numpy as np

from eigenstep import OBJECTIVES, SOLVERS, Spectrum, __version__, catalogue_grids, divergence, optimal_grid, zoo_names

SIGMA_MIN, SIGMA_MAX = 0.002, 80.0
RESTARTED = (4, 8, 12)


def planned(zoo, solver, objective, n):
    """Our value over the best catalogue grid's, stationarity, whether converged, milliseconds."""
    spectrum, options = Spectrum.from_zoo(zoo), {"solver": solver, "objective": objective}
    began = time.process_time()
    result = optimal_grid(spectrum, n, SIGMA_MIN, SIGMA_MAX, **options)
    took = 1e3 * (time.process_time() - began)
    grids = catalogue_grids(n, SIGMA_MIN, SIGMA_MAX, spectrum=spectrum).values()
    ratio = result.value / min(divergence(spectrum, sigmas, **options) for sigmas in grids)
    return [ratio, result.stationarity, result.converged, took]


def restarted(zoo, solver, objective, n, restarts):
    """Our value over that of the best of many descents."""
    spectrum, options = Spectrum.from_zoo(zoo), {"solver": solver, "objective": objective}
    ours = optimal_grid(spectrum, n, SIGMA_MIN, SIGMA_MAX, **options)
    many = optimal_grid(spectrum, n, SIGMA_MIN, SIGMA_MAX, restarts=restarts, **options)
    return ours.value / many.value if many.value else 1.0


def listed(text):
    return text.split(",")


def report(results, restarts):
    """The two tables."""
    cases = collections.defaultdict(list)
    again = collections.defaultdict(list)
    for key, found in results.items():
        part, _, solver, objective, n = key.split()
        (cases if part == "plan" else again)[solver, objective].append((int(n), found))
    print("(a) plans against the catalogue")
    print(f"{'solver':15s} {'objective':10s} {'cases':>5s} {'beaten':>6s} {'converged':>9s} {'worst slope':>11s} {'ms':>9s}")
    for (solver, objective), rows in sorted(cases.items()):
        beaten = sum(row[0] > 1 + 1e-9 for _, row in rows)
        share = np.mean([row[2] for _, row in rows])
        worst = max(row[1] for _, row in rows)
        median = np.median([row[3] for _, row in rows])
        print(f"{solver:15s} {objective:10s} {len(rows):5d} {beaten:6d} {share:9.1%} {worst:11.1e} {median:9.0f}")
    every = [row for rows in cases.values() for _, row in rows]
    if every:
        beaten = sum(row[0] > 1 + 1e-9 for row in every)
        share = np.mean([row[2] for row in every])
        print(f"all: {len(every)} plans, {beaten} beaten by a catalogue grid, {share:.2%} converged")
    print(f"(b) {restarts} random restarts")
    print(f"{'solver':15s} {'objective':10s} {'cases':>5s} {'better by > 0.1 %':>17s} {'worst ratio':>11s}")
    for (solver, objective), rows in sorted(again.items()):
        better = sum(row > 1.001 for _, row in rows)
        print(f"{solver:15s} {objective:10s} {len(rows):5d} {better:17d} {max(row for _, row in rows):11.4f}")
    every = [row for rows in again.values() for _, row in rows]
    if every:
        print(f"all: {len(every)} cases, random restarts more than 0.1 % better in {sum(row > 1.001 for row in every)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    aliases = ("euler", "ddim_eta")  # the same steps as ddim and euler_ancestral
    parser.add_argument("--solvers", type=listed, default=[name for name in SOLVERS if name not in aliases])
    parser.add_argument("--objectives", type=listed, default=list(OBJECTIVES))
    parser.add_argument("--zoo", type=listed, default=list(zoo_names()))
    parser.add_argument("--n", type=listed, default=[str(n) for n in range(2, 21)])
    parser.add_argument("--restarts", type=int, default=50, help="0 leaves part (b) out")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop starting cases after this time")
    parser.add_argument("--resume", type=pathlib.Path, help="JSON file of results to go on from and to write")
    parser.add_argument("--quick", action="store_true", help="two spectra, five numbers of steps, no restarts")
    options = parser.parse_args()
    if options.quick:
        options.zoo, options.n, options.restarts = ["cifar10", "digits"], ["2", "5", "10", "15", "20"], 0
    print(f"eigenstep {__version__}, numpy {np.__version__}, {platform.machine()}, {platform.python_version()}")
    cases = [(zoo, s, o, n) for zoo in options.zoo for s in options.solvers for o in options.objectives for n in options.n]
    todo = [("plan", *case) for case in cases]
    todo += [("restart", *case) for case in cases if options.restarts and int(case[3]) in RESTARTED]
    results = json.loads(options.resume.read_text()) if options.resume and options.resume.exists() else {}
    began = time.perf_counter()
    for j in np.random.default_rng(0).permutation(len(todo)):
        part, zoo, solver, objective, n = todo[j]
        key = " ".join(todo[j])
        if key in results:
            continue
        if time.perf_counter() - began > options.seconds:
            break
        case = (zoo, solver, objective, int(n))
        results[key] = planned(*case) if part == "plan" else restarted(*case, options.restarts)
        if options.resume:
            options.resume.write_text(json.dumps(results))
    report(results, options.restarts)


if __name__ == "__main__":
    main()


# Result, 22 November 2026, 2 cores of an AMD EPYC (x86_64, shared with other work: times are high), Python 3.11.7, numpy 2.4.6.
#
#     --seconds 560: a sample of 213 of the 7,920 cases
#         all: 184 plans, 0 beaten by a catalogue grid, 100.00% converged; worst slope 9.0e-08 (ipndm4, kl)
#         all: 29 cases, random restarts more than 0.1 % better in 1: dpmpp_2m_sde, local, fashion-mnist, n = 8, 1.2037
#             (mended since: that objective is scouted now)
#     --solvers dpmpp_2m,dpmpp_3m,unipc2,unipc3,deis3,ipndm4,dpmpp_2m_sde --objectives w2,kl --n 4,8,12 --seconds 270
#         all: 13 plans, 0 beaten by a catalogue grid, 100.00% converged
#         all: 17 cases, random restarts more than 0.1 % better in 0
#
# Where restarts are known to win (40 of them, multistep solvers end to end, 115 cases with n = 5, 8, 11 on cifar10, mnist, ecg;
# about 8 of them): unipc3 w2 n = 11 on cifar10 (2.78 times better) and mnist (1.35), unipc2 w2 n = 11 on mnist (1.60),
# unipc3 w2 n = 8 on mnist (1.09), deis3 w2 n = 5 on mnist (1.02), ipndm4 kl n = 8 on ecg (1.01); with 50 restarts, dpmpp_2m
# w2 n = 8 on digits (1.75); with 30, dpmpp_2m_sde local on mnist, n = 4 (1.35) and n = 12 (1.08).
# `optimal_grid(..., restarts=50)` finds those.
