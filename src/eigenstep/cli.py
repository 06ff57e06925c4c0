"""The `eigenstep` command: measure a spectrum, plan a grid for it, compare grids. Parsing, progress and layout only.

Results go to standard output, progress and messages to standard error. Exit code 2 and one line on standard error for
bad input, 130 after Ctrl-C, 143 after SIGTERM; an error in eigenstep itself keeps its traceback.
"""

from __future__ import annotations

import glob
import json
import math
import re
import shlex
import signal
import tempfile
import textwrap
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

try:
    import click
except ImportError as error:
    raise ImportError(
        'The command line needs click and rich; install them with `pip install "eigenstep[cli]"`.'
    ) from error

from eigenstep._checks import choice
from eigenstep._version import __version__
from eigenstep.gaussian import OBJECTIVES, STARTS, divergence
from eigenstep.paths import PATHS, NoisePath
from eigenstep.solvers import SOLVERS
from eigenstep.spectrum import JSON, Spectrum, zoo_names

if TYPE_CHECKING:
    from rich.table import Table

    from eigenstep.data import Measurement, Source
    from eigenstep.optimal import GridResult

Command = TypeVar("Command", bound=Callable[..., None])

EDM_RANGE = (0.002, 80.0)
"""The noise levels planned for where no path is named: EDM's, for data within [-1, 1]."""

ERROR_NAMES = {
    "w2": "squared Wasserstein distance",
    "kl": "KL(data ‖ samples), nats",
    "reverse_kl": "KL(samples ‖ data), nats",
    "local": "local error",
}


ARGUMENTS = "eigenstep.arguments"
"""Where a click context keeps what was typed after `eigenstep`."""

WELL_KNOWN = ("karras", "exponential", "kl_optimal", "ays_sd15")
"""The baselines that a figure names beside the best one, because readers look for them."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, as a scheduler sends it before it kills: the work is left as after Ctrl-C."""


class Edge(click.Group):
    """The one place where a refusal becomes a line on standard error and an exit code."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Keep the arguments as they were typed, for the provenance of what a command saves."""
        ctx.meta[ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command: 2 for bad input, 130 for Ctrl-C, a traceback for what is our own fault."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("default")
                warnings.showwarning = lambda message, *_: _say(f"warning: {message}")
                return super().invoke(ctx)
        except Terminated:
            _stop("terminated.", code=143)
        except KeyboardInterrupt:
            _stop("interrupted.", code=130)
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else ctx.command_path
            _stop(f"{error.format_message()} `{command} --help` lists what it takes.")
        except BrokenPipeError:
            raise  # the reader of our output has gone, as in `| head`; click ends quietly
        except (ImportError, MemoryError, OSError, TypeError, ValueError) as error:
            if not _is_refusal(error):
                raise
            _stop(error.strerror or str(error) if isinstance(error, OSError) else str(error), about=error)


def _is_refusal(error: Exception) -> bool:
    """Whether the user can mend `error`: raised on purpose by this package, or by the machine's files and memory."""
    if isinstance(error, (OSError, MemoryError)):
        return True
    if isinstance(error, ImportError):
        return "pip install" in str(error)
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    raised_in = frame.f_globals.get("__name__", "")
    return raised_in == "eigenstep._checks" or (isinstance(error, ValueError) and raised_in.startswith("eigenstep."))


def _say(message: str) -> None:
    click.echo(f"eigenstep: {' '.join(message.split())}", err=True)


def _stop(message: str, *, code: int = 2, about: Exception | None = None) -> NoReturn:
    filename = getattr(about, "filename", None)
    _say(f"{message}: {filename}" if filename else message)
    raise click.exceptions.Exit(code)


@click.group(cls=Edge, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="eigenstep")
def cli() -> None:
    """Optimal few-step sampling grids for diffusion models, from the eigenvalues of the data's covariance.

    \b
    eigenstep spectrum my-images/ -o mine.json    measure the data once
    eigenstep plan mine.json --steps 6            the noise levels to sample at
    eigenstep compare mine.json --steps 3-20      what they gain over hand-made grids
    """


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
    click.option("--objective", default="w2", show_default=True, metavar="NAME", help=f"{', '.join(OBJECTIVES)}."),
    click.option(
        "--noise-floor",
        type=float,
        default=0.0,
        show_default=True,
        metavar="TAU",
        help="Ignore details below this standard deviation, in units of the data.",
    ),
    click.option("--path", "path_name", metavar="NAME", help=f"Noise path of the model: {', '.join(PATHS)}."),
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

REPORT = click.option("--report", metavar="FILE", help="Write a report of the spectrum: an .html page or a .png figure.")
BINS = click.option("--bins", type=int, metavar="K", help="Keep at most K weighted eigenvalues; the error is measured.")

OUTPUT_OPTIONS = (
    click.option("-o", "--output", metavar="FILE", help="Where to save the spectrum: a .json or .npz file."),
    REPORT,
    BINS,
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


@dataclass(frozen=True)
class Aim:
    """What a grid is planned for: the options that `plan` and `compare` share, checked."""

    solver: str
    objective: str
    noise_floor: float
    path_name: str | None
    sigma_min: float
    sigma_max: float
    final: float | None
    start: str

    @classmethod
    def from_options(
        cls,
        *,
        solver: str,
        objective: str,
        noise_floor: float,
        path_name: str | None,
        sigma_min: float | None,
        sigma_max: float | None,
        final_name: str,
        start: str,
    ) -> Aim:
        """Check the names and fill in the range, before anything long begins."""
        choice(final_name, ("zero", "sigma-min"), "final")
        path = None if path_name is None else PATHS[choice(path_name, PATHS, "path")]()
        low, high = EDM_RANGE if path is None else (path.sigma_min, path.sigma_max)
        return cls(
            solver=choice(solver, SOLVERS, "solver"),
            objective=choice(objective, OBJECTIVES, "objective"),
            noise_floor=noise_floor,
            path_name=path_name,
            sigma_min=low if sigma_min is None else sigma_min,
            sigma_max=high if sigma_max is None else sigma_max,
            final=0.0 if final_name == "zero" else None,
            start=choice(start, STARTS, "start"),
        )

    @property
    def path(self) -> NoisePath | None:
        """The path itself, where one was named."""
        return None if self.path_name is None else PATHS[self.path_name]()

    @property
    def measure(self) -> dict[str, Any]:
        """The arguments that say how a grid is judged."""
        return {
            "solver": self.solver,
            "objective": self.objective,
            "noise_floor": self.noise_floor,
            "start": self.start,
        }

    def optimum(self, spectrum: Spectrum, n: int) -> GridResult:
        """The optimal grid of `n` steps."""
        from eigenstep.optimal import optimal_grid

        return optimal_grid(spectrum, n, self.sigma_min, self.sigma_max, final=self.final, **self.measure)

    def baselines(self, spectrum: Spectrum, n: int) -> dict[str, float]:
        """The same error for every catalogue grid of `n` steps that fits the range, ascending."""
        from eigenstep.grids import catalogue_grids

        grids = catalogue_grids(
            n, self.sigma_min, self.sigma_max, final=self.final, spectrum=spectrum, path=self.path
        )
        values = {name: divergence(spectrum, sigmas, **self.measure) for name, sigmas in grids.items()}
        return dict(sorted(values.items(), key=lambda item: item[1]))


def _spectrum(data: str, quiet: bool, **reading: Any) -> tuple[Spectrum, str]:
    """The spectrum that `data` names, and its name: a saved file, one of the zoo, or a source to measure now."""
    if _holds_spectrum(Path(data)):
        kept = Spectrum.load(data)
        return kept, str(kept.provenance.get("name", Path(data).stem))
    if data in zoo_names():
        if Path(data).exists():
            _say(f"warning: {data!r} is taken for the spectrum of that name in the zoo; write ./{data} for the file.")
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
    with _progress("measuring", quiet) as report:
        return measure(opened, progress=report, provenance=provenance)


def _save(result: Spectrum | Measurement, output: Path, what: str = "measured spectrum") -> None:
    """Save, or where that fails save elsewhere and say where: measuring may have taken hours."""
    try:
        result.save(output)
    except OSError as error:
        refuge = _refuge(result, output.name)
        raise OSError(error.errno, f"{error.strerror} The {what} is safe in {refuge}") from error


def _refuge(result: Spectrum | Measurement, name: str) -> Path:
    """Save in the temporary folder, under this name; where that is."""
    refuge = Path(tempfile.mkdtemp(prefix="eigenstep-")) / name
    result.save(refuge)
    return refuge


def _check_output(path: str, suffixes: tuple[str, ...]) -> None:
    """Refuse a file that could not be written before the work that would fill it."""
    target = Path(path)
    if target.suffix.lower() not in suffixes:
        raise ValueError(f"The output file must end in {' or '.join(suffixes)}, got {path!r}.")
    if not target.parent.is_dir():
        raise ValueError(f"The output file {path!r} must be in a folder that exists: make {str(target.parent)!r}.")


def _step_counts(text: str) -> list[int]:
    """The step counts that `text` names: `3-20` with both ends, or `4,6,10`."""
    span = re.fullmatch(r"\s*(\d+)\s*-\s*(\d+)\s*", text)
    try:
        counts = list(range(int(span[1]), int(span[2]) + 1)) if span else sorted({int(n) for n in text.split(",")})
    except ValueError:
        counts = []
    if not counts or counts[0] < 1:
        raise ValueError(f"`steps` must be a range such as 3-20 or a list such as 4,6,10 of at least 1, got {text!r}.")
    return counts


@contextmanager
def _progress(task: str, quiet: bool) -> Iterator[Callable[[int, int | None], None]]:
    """Progress with rate and remaining time on standard error: a bar on a terminal, else a line every half minute.

    Yields what tells it (done, total); what is done at the first call was done before, and says nothing of the rate.
    """
    from rich.console import Console

    console = Console(stderr=True)
    if quiet:
        yield lambda done, total: None
    elif console.is_terminal:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn(task), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn()
        )
        with Progress(*columns, console=console, transient=True) as bar:
            running = bar.add_task(task, total=None, rate="")
            pace = Pace()
            yield lambda done, total: bar.update(running, completed=done, total=total, rate=pace.rate(done))
    else:
        yield Log(task, Pace())


class Pace:
    """Items per second since the first report."""

    def __init__(self) -> None:
        """No report yet."""
        self.first: tuple[float, int] | None = None

    def __call__(self, done: int) -> float:
        """The mean rate, 0 at the first report."""
        now = time.monotonic()
        if self.first is None:
            self.first = (now, done)
        began, before = self.first
        return (done - before) / (now - began) if now > began else 0.0

    def rate(self, done: int) -> str:
        """The rate in words."""
        pace = self(done)
        return f"{pace:,.0f}/s" if pace >= 10 else f"{pace:.2g}/s"


class Log:
    """Progress in a log file: one line every half minute, none for what is done within it."""

    def __init__(self, task: str, pace: Pace, every: float = 30.0) -> None:
        """Begin now; `every` is in seconds."""
        self.task, self.pace, self.every = task, pace, every
        self.said = time.monotonic()

    def __call__(self, done: int, total: int | None) -> None:
        """Say where the work stands, if it is time."""
        pace = self.pace(done)
        if time.monotonic() - self.said < self.every:
            return
        self.said = time.monotonic()
        of, left = "", ""
        if total is not None:
            of = f" of {total:,}"
            left = f", {_duration((total - done) / pace)} left" if pace > 0 else ""
        _say(f"{self.task}: {done:,}{of}, {self.pace.rate(done)}{left}.")


def _duration(seconds: float) -> str:
    """Hours, minutes and seconds, the two largest that matter."""
    hours, rest = divmod(round(seconds), 3600)
    minutes, seconds = divmod(rest, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"


@contextmanager
def _terminable() -> Iterator[None]:
    """Within this, SIGTERM raises `Terminated` where Ctrl-C raises KeyboardInterrupt."""

    def terminate(number: int, frame: FrameType | None) -> NoReturn:
        raise Terminated

    earlier = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, earlier)


# ---------------------------------------------------------------------- what is written


def _plan_record(aim: Aim, spectrum: Spectrum, name: str, result: GridResult) -> dict[str, Any]:
    """Everything a plan says, as plain JSON values: the format that `--format json` promises."""
    n = len(result.sigmas) - 1
    times = None if aim.path is None else aim.path.sigma_to_t(result.sigmas[:-1]).tolist()
    return {
        **_common_record(aim, spectrum, name),
        "steps": n,
        "nfe": SOLVERS[aim.solver].nfe(n, final=aim.final),
        "sigmas": result.sigmas.tolist(),
        "timesteps": times,
        "value": result.value,
        "converged": result.converged,
        "message": result.message,
        "baselines": {key: _finite(value) for key, value in aim.baselines(spectrum, n).items()},
    }


def _comparison_record(
    aim: Aim, spectrum: Spectrum, name: str, rows: list[tuple[int, GridResult, dict[str, float]]]
) -> dict[str, Any]:
    """Everything a comparison says, as plain JSON values; null where a baseline has no grid of that many steps."""
    names = dict.fromkeys(key for *_, values in rows for key in values)
    return {
        **_common_record(aim, spectrum, name),
        "steps": [n for n, *_ in rows],
        "sigmas": [result.sigmas.tolist() for _, result, _ in rows],
        "values": [result.value for _, result, _ in rows],
        "converged": [result.converged for _, result, _ in rows],
        "baselines": {key: [_finite(values.get(key, math.nan)) for *_, values in rows] for key in names},
    }


def _common_record(aim: Aim, spectrum: Spectrum, name: str) -> dict[str, Any]:
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
        "solver": aim.solver,
        "objective": aim.objective,
        "noise_floor": aim.noise_floor,
        "start": aim.start,
        "path": aim.path_name,
        "sigma_min": aim.sigma_min,
        "sigma_max": aim.sigma_max,
        "final": aim.final,
    }


def _finite(value: float) -> float | None:
    """JSON has no infinity: null stands for a grid whose error is not finite."""
    return value if math.isfinite(value) else None


def _json(record: Mapping[str, Any]) -> str:
    return json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False)


def _plan_table(record: Mapping[str, Any]) -> str:
    """The plan for reading: where the steps go, and what that gains over the best hand-made grid."""
    from rich.table import Table

    sigmas, times = record["sigmas"], record["timesteps"]
    path = None if record["path"] is None else PATHS[record["path"]]()
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    table.add_column("step", justify="right")
    table.add_column("σ", justify="right")
    if path is not None:
        table.add_column("t", justify="right")
        table.add_column("log-SNR", justify="right")
    table.add_column("from noise to data")
    for k, (sigma, dots) in enumerate(zip(sigmas, _positions(sigmas), strict=True)):
        row = [str(k + 1) if k < record["steps"] else "end", f"{sigma:.6g}"]
        if path is not None:
            row += [f"{times[k]:.6g}", f"{path.log_snr(times[k]):.3f}"] if k < len(times) else ["", ""]
        table.add_row(*row, dots)
    calls = "" if record["nfe"] == record["steps"] else f" = {record['nfe']} network calls"
    plural = "s" * (record["steps"] != 1)
    head = f"{_title(record)}: the optimal {record['steps']} {record['solver']} step{plural}{calls}"
    return f"{head}\n\n{_rendered(table)}\n\n{_verdict(record)}"


def _verdict(record: Mapping[str, Any]) -> str:
    """The error of the plan beside that of the best hand-made grid."""
    value = record["value"]
    lines = [f"{ERROR_NAMES[record['objective']]}: {value:.6g}"]
    if record["objective"] == "w2":
        lines[0] += f" ({value / record['spectrum']['trace']:.2%} of the data's variance)"
    finite = {name: error for name, error in record["baselines"].items() if error is not None}
    if finite:
        best = min(finite, key=lambda name: finite[name])
        ratio = _ratio(finite[best], value)
        lines.append(f"best of {len(finite)} hand-made grids: {finite[best]:.6g} ({best}), {ratio} times as much")
    return "\n".join(lines)


def _ratio(value: float, ours: float) -> str:
    """value/ours to three digits, the same number of decimals in a column while it is below 10."""
    if ours == 0:
        return "inf"
    return f"{value / ours:.2f}" if value < 10 * ours else f"{value / ours:.3g}"


def _comparison_table(record: Mapping[str, Any]) -> str:
    """One row for each number of steps: ours, the best hand-made grid, their ratio."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for column in ("steps", "optimal", "best by hand", "ratio"):
        table.add_column(column, justify="right")
    table.add_column("which")
    for k, (n, value) in enumerate(zip(record["steps"], record["values"], strict=True)):
        finite = {name: values[k] for name, values in record["baselines"].items() if values[k] is not None}
        best = min(finite, key=lambda name: finite[name], default=None)
        hand = ["", "", ""] if best is None else [f"{finite[best]:.5g}", _ratio(finite[best], value), best]
        table.add_row(str(n), f"{value:.5g}", *hand)
    return f"{_title(record)}: {ERROR_NAMES[record['objective']]}, {record['solver']}\n\n{_rendered(table)}"


def _title(record: Mapping[str, Any]) -> str:
    return f"{record['spectrum']['name']} ({record['spectrum']['dim']:.6g} dimensions)"


def _positions(sigmas: list[float], width: int = 32) -> list[str]:
    """A line for each level, with a dot where it lies between the first and the last on a logarithmic scale."""
    levels = [math.log(sigma) for sigma in sigmas if sigma > 0]
    reach = max(levels[0] - levels[-1], 1e-9)
    # A final 0 has no logarithm: the levels above it use nine tenths of the line.
    room = width - 1 if sigmas[-1] > 0 else round(0.9 * (width - 1))
    places = [round(room * (levels[0] - level) / reach) for level in levels]
    marks = ["●"] * len(levels)
    if sigmas[-1] == 0:
        places.append(width - 1)
        marks.append("○")
    return ["·" * place + mark + "·" * (width - 1 - place) for place, mark in zip(places, marks, strict=True)]


def _rendered(table: Table) -> str:
    """The table as text, in colour where standard output shows colour."""
    from rich.console import Console

    console = Console(highlight=False)
    with console.capture() as captured:
        console.print(table)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _comfyui(record: Mapping[str, Any]) -> str:
    from eigenstep.adapters import text

    return text.comfyui(record["sigmas"], flow=record["path"] in text.FLOW_SHIFTS)


def _diffusers(record: Mapping[str, Any]) -> str:
    from eigenstep.adapters import text

    return text.diffusers(record["sigmas"], path=record["path"] or "edm")


def _k_diffusion(record: Mapping[str, Any]) -> str:
    from eigenstep.adapters import text

    return text.k_diffusion(record["sigmas"])


WRITERS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "table": _plan_table,
    "json": _json,
    "diffusers": _diffusers,
    "comfyui": _comfyui,
    "k-diffusion": _k_diffusion,
}
"""How `plan` writes its result, by the name that --format takes."""


def _plot_comparison(record: Mapping[str, Any], path: str) -> None:
    from eigenstep import plots

    errors = {name: [math.nan if v is None else v for v in values] for name, values in record["baselines"].items()}
    last = {name: values[-1] for name, values in record["baselines"].items() if values[-1] is not None}
    best = sorted(last, key=lambda name: float(last[name]))[:1]
    known = [*best, *(name for name in WELL_KNOWN if name in errors and name not in best)]
    axes = plots.error_against_steps(
        record["steps"],
        {"eigenstep": record["values"], **errors},
        ours="eigenstep",
        ylabel=ERROR_NAMES[record["objective"]],
        named=known,
        title=f"{record['spectrum']['name']}, sampled by {record['solver']}",
    )
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.savefig(path, dpi=200)


# ---------------------------------------------------------------------- the commands


@cli.command("spectrum")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@with_options(OUTPUT_OPTIONS)
@click.option(
    "--accumulator", metavar="FILE", help="Where to save the accumulator, an .npz file that `eigenstep merge` reads."
)
@click.option("--name", help="A name to keep with it. Default: the source's.")
@with_options(WORK_OPTIONS)
@with_options(SOURCE_OPTIONS)
@QUIET
def spectrum_command(
    sources: tuple[str, ...],
    output: str | None,
    report: str | None,
    bins: int | None,
    accumulator: str | None,
    part: str | None,
    dask: str | None,
    quiet: bool,
    **options: Any,
) -> None:
    """Measure the spectrum of the data in SOURCE and save it.

    SOURCE is a folder of images, of wav or flac files or of arrays (.npy, .npz, .pt, .safetensors); one such file;
    WebDataset tars; a saved dataset of Hugging Face, parquet, HDF5 or zarr; any of these by a URL that fsspec knows; or
    `digits`, scikit-learn's images of handwritten digits.

    \b
    eigenstep spectrum photos/ -o photos.json --checkpoint photos.npz --resume
    eigenstep spectrum photos/ -o photos.json --dask local:8 --report photos.html
    eigenstep spectrum photos/ --part 3/64 --accumulator part-3.npz
    """
    from eigenstep.data import open_source

    _check_outputs(output, report, accumulator, options["checkpoint"])
    work = {key: options.pop(key) for key in ("method", "precision", "checkpoint", "checkpoint_every", "resume")}
    memory = options.pop("memory")
    work["memory"] = None if memory is None else round(memory * 2**30)
    reading = {key: value for key, value in options.items() if value is not None}
    share = (1, 1) if part is None else _share(part)
    source = open_source(sources[0] if len(sources) == 1 else list(sources), **reading)
    with _terminable():
        if dask is None:
            measurement = _accumulated(source, quiet, share=share, **work)
        else:
            measurement = _accumulated_on_cluster(source, dask, quiet, share=share, **work)
    if not quiet:
        _say(measurement.moments.reason)
    if accumulator is not None:
        _save(measurement, Path(accumulator), "accumulator")
        if not quiet:
            _say(f"saved the accumulator of {measurement.count} items to {accumulator}.")
    _write_spectrum(measurement, output, report, bins, quiet)


def _accumulated(source: Source, quiet: bool, *, checkpoint: str | None, **work: Any) -> Measurement:
    """The measurement of a source on this machine; after Ctrl-C, how to go on."""
    from eigenstep.data import Measurement, accumulate

    try:
        with _progress("measuring", quiet) as report:
            return accumulate(source, progress=report, checkpoint=checkpoint, **work)
    except KeyboardInterrupt:
        if checkpoint is not None and Path(checkpoint).exists():
            _say(f"{Measurement.load(checkpoint).count} items are kept in {checkpoint}; go on from there with --resume.")
        raise


def _accumulated_on_cluster(
    source: Source, address: str, quiet: bool, *, checkpoint: str | None, checkpoint_every: int, resume: bool, **work: Any
) -> Measurement:
    """The measurement of a source on the workers of a cluster."""
    from eigenstep.data import accumulate_on_cluster

    if checkpoint is not None or resume:
        raise ValueError(
            "`checkpoint` is for one machine: a cluster repeats what a lost worker had done by itself. For work that "
            "outlives the cluster use --part with --accumulator, and `eigenstep merge`."
        )
    with _progress("measuring", quiet) as report:
        return accumulate_on_cluster(source, address, progress=report, **work)


@cli.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("-o", "--output", "merged", metavar="FILE", help="Where to save the merged accumulator: an .npz file.")
@click.option("--spectrum", "output", metavar="FILE", help="Where to save its spectrum: a .json or .npz file.")
@REPORT
@BINS
@click.option("--name", help="A name to keep with it. Default: the source's.")
@QUIET
def merge(
    files: tuple[str, ...],
    merged: str | None,
    output: str | None,
    report: str | None,
    bins: int | None,
    name: str | None,
    quiet: bool,
) -> None:
    """Merge accumulators of shares of the data.

    Each FILE was saved by `eigenstep spectrum --accumulator`, as a finished checkpoint, or by `save` of an accumulator
    in Python. All must be of the same form and of items of the same shape.

    \b
    eigenstep merge part-*.npz -o all.npz --spectrum all.json
    """
    if merged is None and output is None and report is None:
        raise click.UsageError("nothing would be kept: give --output, --spectrum or --report.")
    _check_outputs(output, report, merged, None)
    total = _finished(files[0])
    with _progress("merging", quiet) as tell:
        for k, file in enumerate(files[1:], start=2):
            other: Measurement = _finished(file)
            try:
                total.merge(other)
            except (TypeError, ValueError) as error:
                raise ValueError(f"{file!r} cannot be merged with {files[0]!r}: {error}") from error
            tell(k, len(files))
    total.name = name or total.name
    if merged is not None:
        _save(total, Path(merged), "merged accumulator")
        if not quiet:
            _say(f"saved the accumulator of {total.count} items to {merged}.")
    _write_spectrum(total, output, report, bins, quiet)


def _finished(file: str) -> Measurement:
    """A saved accumulator; refused is the checkpoint of a measurement that has not come to its end."""
    from eigenstep.data import Measurement

    measurement = Measurement.load(file)
    if not all(reading.finished for reading in measurement.readings):
        raise ValueError(
            f"{file!r} is the checkpoint of an unfinished measurement ({measurement.count} items); finish it with --resume, "
            "or leave it out."
        )
    return measurement


def _write_spectrum(
    measurement: Measurement, output: str | None, report: str | None, bins: int | None, quiet: bool
) -> None:
    """The spectrum of a measurement, and what is asked of it: a file, a report."""
    if output is None and report is None:
        return
    command = shlex.join(["eigenstep", *click.get_current_context().meta[ARGUMENTS]])
    try:
        measured = measurement.spectrum(provenance={"command": command})
    except MemoryError as error:
        refuge = _refuge(measurement, "accumulator.npz")
        raise MemoryError(
            f"the spectrum of {measurement.moments.dim} dimensions does not fit into memory. The accumulator is safe in "
            f"{refuge}: run `eigenstep merge` on it where there is more"
        ) from error
    if output is not None:
        kept = measured if bins is None else measured.binned(bins)
        _save(kept, Path(output))
        if not quiet:
            _say(f"saved {kept!r} to {output}.")
    if report is not None:
        from eigenstep.estimation import Population
        from eigenstep.moments import GramMoments
        from eigenstep.report import spectrum_report

        moments = measurement.moments
        # The Gram form still holds its items: leaving each out in turn assumes nothing of their distribution.
        held = isinstance(moments, GramMoments) and moments.count > 2
        try:
            spectrum_report(measured, report, population=Population.from_moments(moments) if held else None)
        except (ImportError, OSError):
            if output is None:
                _say(f"the measured spectrum is safe in {_refuge(measured, 'spectrum.npz')}.")
            raise
        if not quiet:
            _say(f"wrote the report to {report}.")


def _share(text: str) -> tuple[int, int]:
    """The share that `text` names: `3/64` is the third of 64."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"`part` must be i/N with 1 <= i <= N, such as 3/64, got {text!r}.")
    return int(match[1]), int(match[2])


def _check_outputs(output: str | None, report: str | None, accumulator: str | None, checkpoint: str | None) -> None:
    """Refuse work of which nothing would be kept, and files that could not be written."""
    if output is None and report is None and accumulator is None:
        raise click.UsageError("nothing would be kept: give --output, --report or --accumulator.")
    files = ((output, (".json", ".npz")), (report, (".html", ".png")), (accumulator, (".npz",)), (checkpoint, (".npz",)))
    for path, suffixes in files:
        if path is not None:
            _check_output(path, suffixes)


@cli.command()
@click.argument("data", metavar="SPECTRUM_OR_SOURCE")
@click.option("-n", "--steps", type=int, required=True, metavar="N", help="Number of steps.")
@click.option(
    "--format",
    "form",
    default="table",
    show_default=True,
    metavar="NAME",
    help="table, json, diffusers, comfyui or k-diffusion.",
)
@with_options(PLAN_OPTIONS)
@with_options(SOURCE_OPTIONS)
@QUIET
def plan(data: str, steps: int, form: str, quiet: bool, **options: Any) -> None:
    """Plan the optimal grid of N steps for the data.

    SPECTRUM_OR_SOURCE is a file that `eigenstep spectrum` saved, a name from `eigenstep zoo`, or any source that
    `eigenstep spectrum` reads.
    """
    write = WRITERS[choice(form, WRITERS, "format")]
    reading = {key: options.pop(key) for key in READING}
    aim = Aim.from_options(**options)
    if form == "diffusers" and SOLVERS[aim.solver].name != "ddim":
        raise ValueError(
            f"`format` diffusers needs `solver` ddim, the steps of every diffusers scheduler that takes noise levels, "
            f"got {aim.solver!r}; take the levels from --format json for your own sampler."
        )
    spectrum, name = _spectrum(data, quiet, **reading)
    result = aim.optimum(spectrum, steps)
    if not result.converged:
        _say(f"warning: the search stopped early ({result.message}); this is the best grid it found.")
    click.echo(write(_plan_record(aim, spectrum, name, result)))


@cli.command()
@click.argument("data", metavar="SPECTRUM_OR_SOURCE")
@click.option("-n", "--steps", "counts", default="3-20", show_default=True, metavar="A-B", help="As 3-20 or 4,6,10.")
@click.option("--plot", metavar="FILE", help="Save the figure too: a .png, .svg or .pdf file.")
@click.option("--format", "form", default="table", show_default=True, metavar="NAME", help="table or json.")
@with_options(PLAN_OPTIONS)
@with_options(SOURCE_OPTIONS)
@QUIET
def compare(data: str, counts: str, plot: str | None, form: str, quiet: bool, **options: Any) -> None:
    """Compare optimal grids with hand-made ones.

    For each number of steps, the error of the optimal grid beside that of every grid of the catalogue.
    """
    choice(form, ("table", "json"), "format")
    steps = _step_counts(counts)
    if plot is not None:
        _check_output(plot, (".png", ".svg", ".pdf"))
    reading = {key: options.pop(key) for key in READING}
    aim = Aim.from_options(**options)
    spectrum, name = _spectrum(data, quiet, **reading)
    rows: list[tuple[int, GridResult, dict[str, float]]] = []
    try:
        with _progress("planning", quiet) as report:
            for n in steps:
                rows.append((n, aim.optimum(spectrum, n), aim.baselines(spectrum, n)))
                report(len(rows), len(steps))
    finally:
        # After Ctrl-C or a failure, what is done is still shown.
        if rows:
            record = _comparison_record(aim, spectrum, name, rows)
            click.echo(_json(record) if form == "json" else _comparison_table(record))
    if plot is not None:
        _plot_comparison(record, plot)


@cli.command()
def zoo() -> None:
    """List the measured spectra that come along.

    Their names can be given to `plan` and `compare`.
    """
    from rich.table import Table

    spectra = {name: Spectrum.from_zoo(name) for name in zoo_names()}
    table = Table(box=None, pad_edge=False, padding=(0, 2))
    for column in ("name", "dimensions", "rank", "std", "samples"):
        table.add_column(column, justify="left" if column == "name" else "right")
    table.add_column("values")
    for name, kept in spectra.items():
        samples = "" if kept.n_samples is None else str(kept.n_samples)
        values = str(kept.provenance.get("value_range", ""))
        table.add_row(name, f"{kept.dim:.6g}", f"{kept.rank:.6g}", f"{kept.std:.3g}", samples, values)
    click.echo(_rendered(table))
    for name, kept in spectra.items():
        story = f"{name}: {kept.provenance.get('caveats', '')} ({kept.provenance.get('origin', 'origin unknown')})"
        click.echo(f"\n{textwrap.fill(story, width=100, subsequent_indent='  ')}")


def main() -> None:
    """Run the command line: the entry point of the `eigenstep` script."""
    cli(prog_name="eigenstep")
