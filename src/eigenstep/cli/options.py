"""The options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import click

from eigenstep.cli.aim import EDM_RANGE
from eigenstep.gaussian import OBJECTIVES, STARTS
from eigenstep.paths import PATHS
from eigenstep.solvers import SOLVERS

Command = TypeVar("Command", bound=Callable[..., None])

SOURCE_OPTIONS = (
    click.option("--kind", metavar="NAME", help="What to read in a folder that holds several kinds of files, such as audio."),
    click.option(
        "--key",
        metavar="NAME",
        help="Array of an npz, safetensors or HDF5 file, column of a dataset, suffix of a tar's members. Default: the "
        "largest numeric array; the images.",
    ),
    click.option(
        "--range",
        "value_range",
        metavar="RANGE",
        help="Bring the values to -1,1 0,1 or 0,255, or leave them raw. Default: -1,1 for images and sound, raw for arrays.",
    ),
    click.option(
        "--stored-range", metavar="LOW,HIGH", help="Range of stored arrays that --range maps. Default: by type, or detected."
    ),
    click.option("--scale", type=float, metavar="S", help="Multiply every value by S."),
    click.option("--size", type=int, metavar="PIXELS", help="Resize images to squares of this side."),
    click.option("--crop", type=int, metavar="PIXELS", help="Cut the middle square of this side out of images."),
    click.option("--gray/--rgb", default=None, help="Read images in gray or in colour. Default: as the first one is."),
    click.option("--stacked/--single", default=None, help="Whether each of several array files holds many items, or one."),
    click.option("--length", type=int, metavar="SAMPLES", help="Cut or pad sound to this length. Default: the first's."),
    click.option("--mono/--channels", default=None, help="Take the mean of the channels of sound. Default: keep them."),
    click.option("--rate", type=int, metavar="HZ", help="Resample sound to this rate. Default: the first's; others refused."),
    click.option("--workers", type=int, metavar="N", help="Processes that decode. Default: one per core, where it helps."),
    click.option("--batch-size", type=int, metavar="N", help="Items read at a time."),
)
"""How a data source is read."""

READING = (
    "kind", "key", "value_range", "stored_range", "scale", "size", "crop", "gray", "stacked", "length", "mono", "rate",
    "workers", "batch_size",
)  # fmt: skip
"""The names of SOURCE_OPTIONS as `open_source` knows them."""

PLAN_OPTIONS = (
    click.option("--solver", default="ddim", show_default=True, metavar="NAME", help=f"{', '.join(SOLVERS)}."),
    click.option(
        "--objective",
        default="auto",
        show_default=True,
        metavar="NAME",
        help=f"{', '.join(OBJECTIVES)}, or auto: w2 for one-step solvers, blend for multistep ones.",
    ),
    click.option(
        "--noise-floor",
        type=float,
        default=0.0,
        show_default=True,
        metavar="TAU",
        help="Ignore details below this standard deviation, in units of the data.",
    ),
    click.option(
        "--eigenvalues",
        default="auto",
        show_default=True,
        metavar="auto|sample|population",
        help="Plan on the sample's own eigenvalues, on those estimated for the population behind it, or on the latter "
        "where the former would put a level more than 3 % off.",
    ),
    click.option("--path", "path_name", metavar="NAME", help=f"Noise path of the model: {', '.join(PATHS)}, or a .json file "
        "with its alphas_cumprod or betas."),
    click.option(
        "--timesteps",
        default="fractional",
        show_default=True,
        metavar="fractional|integer",
        help="Whether the model can be called between the timesteps of a discrete path, or at integers only.",
    ),
    click.option(
        "--sigma-min",
        type=float,
        metavar="S",
        help=f"Lowest level the model may be called at; 0 for no limit. Default: the path's, else {EDM_RANGE[0]:g}.",
    ),
    click.option(
        "--sigma-max",
        type=float,
        metavar="S",
        help=f"Level to start at. Default: the path's, else {EDM_RANGE[1]:g} (EDM's, for data in [-1, 1]).",
    ),
    click.option(
        "--final",
        "final_name",
        default="zero",
        show_default=True,
        metavar="zero|sigma-min",
        help="Where the grid ends: at 0, or at --sigma-min.",
    ),
    click.option(
        "--start",
        default="marginal",
        show_default=True,
        metavar="|".join(STARTS),
        help="Start from the data's exact noisy distribution, or from the pure noise that samplers draw.",
    ),
)
"""What a grid is planned for."""

MODEL_OPTIONS = (
    click.option(
        "--model",
        metavar="MODEL",
        help="Plan for this network: a folder of a diffusers pipeline, or module:function (file.py:function) that returns a "
        "denoiser D(x, sigma) on torch tensors. Its own runs judge.",
    ),
    click.option(
        "--data",
        "gauge_data",
        metavar="SOURCE",
        help="Data in the model's value range: for its gauge, beside a measured spectrum; else for the spectrum as well.",
    ),
    click.option("--items", type=int, default=10_000, show_default=True, metavar="N", help="Items of the data to read."),
    click.option(
        "--encode-with", metavar="FOLDER", help="Put images through the autoencoder of this pipeline: data for a latent model."
    ),
    click.option(
        "--target", default="endpoint", show_default=True, metavar="endpoint|data",
        help="What to come near: where the network's own converged run from the same noise ends, or the data.",
    ),
    click.option(
        "--judges", default="48", show_default=True, metavar="K|quick",
        help="Noises whose converged runs judge between grids; 0 trusts the theory alone; quick: four runs judge between the "
        "20 grids that the theory finds most promising, some hundred network calls in all.",
    ),
    click.option(
        "--fit/--no-fit", default=True, show_default=True,
        help="Fit the winner's levels to converged runs from 24 more noises. Without judges, or by quick ones, nothing is.",
    ),
    click.option(
        "--gauge-items", type=int, metavar="N",
        help="Items of the data for the gauge: 400 unless given, at 25 levels each; with --judges quick 8, at 12 levels. A "
        "dozen are enough for --judges 0.",
    ),
    click.option("--seed", type=int, default=0, show_default=True, metavar="S", help="Of these noises."),
    click.option(
        "--cold", is_flag=True,
        help="No warm start: for programs that begin with plain noise. The --format of a host implies it.",
    ),
    click.option("--label", type=int, metavar="K", help="Class that a conditional model is told."),
    click.option("--prompt", metavar="TEXT", help="Prompt that the model is told, encoded by the pipeline in its folder."),
    click.option("--negative-prompt", metavar="TEXT", help="What to guide away from. Default: what the pipeline takes."),
    click.option("--guidance", type=float, metavar="G", help="Classifier-free guidance scale."),
    click.option("--variant", metavar="NAME", help="Of the files of a pipeline, such as fp16."),
    click.option("--allow-pickle", is_flag=True, help="Read weights that are not safetensors: such a file can run any code."),
    click.option("--dtype", metavar="NAME", help="Precision of the network: float32, float16, bfloat16, float64."),
    click.option("--device", metavar="NAME", help="Of torch, such as cuda. Default: the CPU."),
    click.option("--network-batch", type=int, default=100, show_default=True, metavar="N", help="Items per network call."),
)  # fmt: skip
"""A pretrained network to plan for."""

FOR_MODELS = (
    "gauge_data", "items", "gauge_items", "encode_with", "target", "judges", "fit", "seed", "cold", "label", "prompt",
    "negative_prompt", "guidance", "variant", "allow_pickle", "dtype", "device", "network_batch",
)  # fmt: skip
"""Names of the options that mean something beside --model only."""

REPORT = click.option("--report", metavar="FILE", help="Write a report of the spectrum: an .html page or a .png figure.")
BINS = click.option("--bins", type=int, metavar="K", help="Keep at most K weighted eigenvalues; the error is measured.")

BASIS = click.option(
    "--basis",
    type=int,
    default=0,
    show_default=True,
    metavar="K",
    help="Keep the mean and K leading eigenvectors too, for warm starts; 200 is plenty. Needs an .npz file.",
)

OUTPUT_OPTIONS = (
    click.option("-o", "--output", metavar="FILE", help="Where to save the spectrum: a .json or .npz file."),
    REPORT,
    BINS,
    BASIS,
)
"""What becomes of a measured spectrum."""

WORK_OPTIONS = (
    click.option(
        "--method",
        default="auto",
        show_default=True,
        metavar="NAME",
        help="Accumulator: dense, gram, stationary, low-rank, or auto, which chooses by size and memory.",
    ),
    click.option(
        "--memory", type=float, metavar="GIB", help="Memory that the accumulator may take. Default: half of what is free."
    ),
    click.option(
        "--precision",
        default="float64",
        show_default=True,
        metavar="NAME",
        help="float64, or float32 for products in single precision: twice as fast.",
    ),
    click.option("--part", metavar="I/N", help="Read the I-th of N shares of the data; `eigenstep merge` joins them."),
    click.option("--dask", metavar="ADDRESS|local:N", help="Work on a Dask cluster, or on N local processes."),
    click.option("--checkpoint", metavar="FILE", help="Keep the state of the work in this .npz file."),
    click.option(
        "--checkpoint-every", type=int, default=100_000, show_default=True, metavar="K", help="Items between checkpoints."
    ),
    click.option("--resume", is_flag=True, help="Go on from the checkpoint, if it exists."),
)
"""How the work is done, and where."""

QUIET = click.option("-q", "--quiet", is_flag=True, help="No progress bar and no remarks; warnings stay.")


def with_options(options: tuple[Callable[[Command], Command], ...]) -> Callable[[Command], Command]:
    """A decorator that adds `options` to a command, in their order."""

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add
