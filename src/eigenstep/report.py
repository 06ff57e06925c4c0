"""Pages of one file: about a spectrum (HTML or PNG), about a comparison of grids, about an evaluation on a network.

Each holds everything inside it (no network, no script); it follows the reader's light or dark setting and prints.
Needs matplotlib: `pip install "eigenstep[plots]"`.
"""

from __future__ import annotations

import io
import math
import os
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from eigenstep import _files, plots
from eigenstep._checks import Float, choice, integer
from eigenstep._version import __version__
from eigenstep.estimation import NoiseCheck, PlanCertainty, Population, noise_check, plan_certainty
from eigenstep.evaluation import OURS, WARM_SUFFIX, WITHOUT_WARM, Evaluation, Verdict, headline_metrics, metric_title
from eigenstep.grids import catalogue_grids
from eigenstep.optimal import RankedGrid, optimal_grid, rank, tangent_gamma
from eigenstep.spectrum import Spectrum

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".html", ".png")


@dataclass(frozen=True)
class Goal:
    """One way to plan, as the report lists it: its name, plan, error and gamma, and the catalogue's grids, best first."""

    name: str
    sigmas: Float
    value: float
    gamma: float
    certainty: PlanCertainty | None
    baselines: tuple[RankedGrid, ...]


@dataclass(frozen=True)
class Findings:
    """Everything a report says, as numbers and sentences.

    Attributes
    ----------
    name : str
        Of the data; empty where it has none.
    spectrum : Spectrum
        As measured.
    population : Population or None
        What it was estimated to be; None where the number of samples is unknown or nothing is to be mended.
    why_exact : str
        Why there is no population; empty where there is one.
    noise : NoiseCheck or None
        None where there is no population, or the spectrum is binned.
    verdict : str
        Whether the samples are enough, in a sentence or two.
    decades : float
        log10 of the largest eigenvalue over the smallest that the samples resolve.
    noise_floor : float
        Suggested for `kl`, data units.
    goals : tuple of Goal
        The first is `w2`, which is drawn.
    raw_move : float or None
        How far the first plan moves where the sample eigenvalues are used as they are, relative; None without population.
    """

    name: str
    spectrum: Spectrum
    population: Population | None
    why_exact: str
    noise: NoiseCheck | None
    verdict: str
    decades: float
    noise_floor: float
    goals: tuple[Goal, ...]
    raw_move: float | None

    @property
    def title(self) -> str:
        """Heading of the report."""
        return f"Spectrum of {self.name}" if self.name else "Spectrum"

    @property
    def planned_for(self) -> Spectrum:
        """The spectrum that plans are made for: the population's where it was estimated."""
        return self.spectrum if self.population is None else self.population.spectrum


def findings(
    spectrum: Spectrum,
    *,
    population: Population | None = None,
    name: str | None = None,
    steps: int = 6,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
) -> Findings:
    """All that a report says of a spectrum, without drawing anything.

    Parameters
    ----------
    spectrum : Spectrum
        As measured.
    population : Population, optional
        `Population.from_samples` or `from_parts`, where the samples were at hand. None estimates it from the eigenvalues,
        where the number of samples is known.
    name : str, optional
        Of the data; None takes the name in the provenance.
    steps, sigma_min, sigma_max
        Of the plans, which end at 0; levels in data units.

    Raises
    ------
    ValueError
        As `optimal_grid` does for the range and the number of steps.

    Examples
    --------
    >>> digits = Spectrum.from_zoo("digits")
    >>> found = findings(digits, population=Population.from_spectrum(digits, replicates=4), steps=4)
    >>> first = found.goals[0]
    >>> found.name, first.name, first.baselines[0].value >= first.value
    ('digits', 'w2', True)
    """
    steps = integer(steps, "steps")
    why_exact = "" if population is not None else _nothing_to_mend(spectrum)
    if population is None and not why_exact:
        population = Population.from_spectrum(spectrum)
    best = spectrum if population is None else population.spectrum
    floor = spectrum.std if population is None else population.noise_floor
    ends = (steps, sigma_min, sigma_max)
    wanted: dict[str, dict[str, Any]] = {
        "w2": {},
        f"kl, noise floor {_two(floor)}": {"objective": "kl", "noise_floor": floor},
        "DPM-Solver++(2M)": {"solver": "dpmpp_2m", "objective": "local"},
    }
    named = catalogue_grids(*ends, final=0.0, spectrum=best)
    goals = []
    for title, arguments in wanted.items():
        baselines = rank(best, named, **arguments)
        if population is None:
            plan = optimal_grid(best, *ends, **arguments)
            measure = {key: value for key, value in arguments.items() if key != "solver"}
            gamma = tangent_gamma(best, sigma_max=sigma_max, **measure)
            goals.append(Goal(title, plan.sigmas, plan.value, gamma, None, baselines))
        else:
            sure = plan_certainty(population, *ends, **arguments)
            goals.append(Goal(title, sure.sigmas, sure.error, sure.gamma, sure, baselines))
    first = goals[0]
    raw_move = None
    if population is not None:
        raw = optimal_grid(spectrum, *ends).sigmas
        free = first.sigmas > 0
        raw_move = float(np.max(np.abs(raw[free] / first.sigmas[free] - 1)))
    smallest = float(spectrum.eigenvalues[spectrum.eigenvalues > 0][-1])
    if population is not None:
        smallest = max(smallest, population.resolution**2)
    return Findings(
        name=str(name or spectrum.provenance.get("name") or ""),
        spectrum=spectrum,
        population=population,
        why_exact=why_exact,
        noise=None if population is None or _is_binned(spectrum) else noise_check(spectrum),
        # A number and its per cent sign stay on one line.
        verdict=why_exact if first.certainty is None else first.certainty.verdict.replace(" %", "\u00a0%"),
        decades=math.log10(float(best.eigenvalues[0]) / smallest),
        noise_floor=floor,
        goals=tuple(goals),
        raw_move=raw_move,
    )


def spectrum_report(
    spectrum: Spectrum,
    path: str | os.PathLike[str],
    *,
    population: Population | None = None,
    name: str | None = None,
    steps: int = 6,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
) -> Findings:
    """Write the report of a spectrum to an `.html` or `.png` file, whole or not at all, and return what it says.

    Parameters as in `findings`.

    Raises
    ------
    ValueError
        Another suffix; as `findings` does.
    OSError
        The file cannot be written; an earlier one stays as it was.
    ImportError
        Without matplotlib.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = spectrum_report(Spectrum.from_eigenvalues([4.0, 1.0, 0.25]), f"{folder}/three.html", steps=4)
    >>> found.verdict
    'The number of samples is not known, so nothing can be said of how sure this spectrum is.'
    """
    suffix = os.path.splitext(os.fspath(path))[1].lower()
    choice(suffix, SUFFIXES, "suffix of `path`")
    found = findings(
        spectrum, population=population, name=name, steps=steps, sigma_min=sigma_min, sigma_max=sigma_max
    )
    content = _page(found).encode() if suffix == ".html" else _picture(found)

    def write(stream: BinaryIO) -> None:
        stream.write(content)

    _files.write_atomically(path, write)
    return found


# ---------------------------------------------------------------------- what is said


def _nothing_to_mend(spectrum: Spectrum) -> str:
    """Why no population is estimated; empty where one can be."""
    if "estimated" in spectrum.provenance:
        return f"This spectrum is an estimate already: {spectrum.provenance['estimated']}."
    if spectrum.provenance.get("form") == "stationary":
        return "Measured per frequency, for data that are the same at every place: there is no excess of samples to mend."
    if spectrum.n_samples is None:
        return "The number of samples is not known, so nothing can be said of how sure this spectrum is."
    if spectrum.n_samples < 3:
        return f"{spectrum.n_samples} samples are too few to say anything of how sure this spectrum is."
    return ""


def _is_binned(spectrum: Spectrum) -> bool:
    return spectrum.binning_error > 0 or bool(np.any(spectrum.multiplicities[spectrum.eigenvalues > 0] != 1))


def _subtitle(found: Findings) -> str:
    spectrum = found.spectrum
    parts = []
    if spectrum.n_samples is not None:
        parts.append(f"{spectrum.n_samples:,} samples")
    shape = spectrum.item_shape
    sides = f" ({' × '.join(map(str, shape))})" if shape is not None and len(shape) > 1 else ""
    parts.append(f"{spectrum.dim:,.6g} dimensions{sides}")
    value_range = spectrum.provenance.get("value_range")
    if value_range:
        parts.append(f"values {value_range}")
    return " · ".join(parts)


def _facts(found: Findings) -> list[tuple[str, str, str]]:
    """Label, value and remark of each fact."""
    spectrum, best, population = found.spectrum, found.planned_for, found.population
    sure = found.goals[0].certainty
    facts = []
    if spectrum.n_samples is not None:
        remark = "few: the sample's own eigenvalues mislead" if spectrum.n_samples < 4 * spectrum.dim else "plenty"
        facts.append(("samples per dimension", f"{spectrum.n_samples / spectrum.dim:.2g}", remark))
    if sure is not None:
        facts.append(("samples for sure levels", f"{sure.enough_samples:,}", "would hold each level to 3 %"))
    facts.append(("effective rank", _three(best.effective_rank), f"of {best.dim:,.6g}: (tr Σ)² / tr Σ²"))
    remark = "largest to smallest eigenvalue"
    if population is not None and population.resolution**2 > spectrum.eigenvalues[spectrum.eigenvalues > 0][-1]:
        remark = "from the largest down to what the samples resolve"
    facts.append(("decades spanned", f"{found.decades:.1f}", remark))
    facts.append(("standard deviation", _three(best.std), "per dimension, in units of the data"))
    remark = "the standard deviation"
    if found.noise_floor > best.std:
        remark = "the finest level that the samples resolve"
    facts.append(("suggested noise floor", _two(found.noise_floor), f"for kl: {remark}"))
    return facts


def _remarks(found: Findings) -> list[str]:
    remarks = []
    sigma_max, largest = float(found.goals[0].sigmas[0]), math.sqrt(found.planned_for.eigenvalues[0])
    if sigma_max < largest:
        remarks.append(
            f"These plans start at σ = {_three(sigma_max)}, below the data's largest standard deviation of {_three(largest)}: "
            "bring the values to the model's units (a value range or a scale) before you plan."
        )
    if found.noise is not None:
        remarks.append(found.noise.sentence)
    if found.raw_move is not None and found.raw_move > 0.01:
        remarks.append(
            f"Planned from the sample's eigenvalues as they are, a level would be off by {_percent(found.raw_move)}."
        )
    if found.population is not None:
        less = " Heavy tails, or samples that depend on each other, would make all this less sure than it says."
        remarks.append(f"Estimated from {found.population.curve.method}.{'' if found.population.measured else less}")
        if found.population.inflation > 1.2:
            remarks.append(
                f"The samples vary {found.population.inflation:.1f} times as much as independent Gaussian ones would "
                "(heavy tails, kinds of very different detail, or samples that depend on each other); the intervals include it."
            )
    caveats = found.spectrum.provenance.get("caveats")
    if caveats:
        remarks.append(f"Of the data: {caveats}")
    return remarks


def _rows(found: Findings) -> list[tuple[str, ...]]:
    """One row for each goal: name, gamma, movement, error, and the error of the catalogue's best beside it."""
    rows: list[tuple[str, ...]] = []
    for goal in found.goals:
        sure, best = goal.certainty, goal.baselines[0]
        gamma, moves = _three(goal.gamma), "–"
        if sure is not None:
            gamma = f"{_three(goal.gamma)} ({_three(sure.gamma_lower)} – {_three(sure.gamma_upper)})"
            moves = f"± {_percent(sure.movement)}"
        ratio = best.value / goal.value
        rows.append((goal.name, gamma, moves, _three(goal.value), f"{best.name}, {ratio:.2f} × the error"))
    return rows


def _percent(share: float) -> str:
    return f"{100 * share:.0f}\u00a0%" if share >= 0.0995 else f"{100 * share:.1f}\u00a0%"


def _two(value: float) -> str:
    """Two digits; thousands in full."""
    return f"{value:.2g}" if abs(value) < 100 else f"{float(f'{value:.2g}'):,.0f}"


def _three(value: float) -> str:
    """Three digits, zeros at the end included; thousands in full."""
    if abs(value) >= 1000:
        return f"{float(f'{value:.3g}'):,.0f}"
    return f"{value:#.3g}".rstrip(".")


# ---------------------------------------------------------------------- figures


def _draw_eigenvalues(found: Findings, ax: Axes | None = None) -> Axes:
    if found.population is None:
        return plots.eigenvalue_curve({"measured": found.spectrum}, ours="measured", ax=ax)
    ranks = np.unique(np.geomspace(1, found.population.curve.dim - found.population.curve.zeros, 160).astype(int))
    middle, low, high = found.population.at_rank(ranks)
    return plots.eigenvalue_interval(
        ranks, middle, low, high, sample=found.spectrum, resolution=found.population.resolution, ax=ax
    )


def _draw_grids(found: Findings, ax: Axes | None = None) -> Axes:
    first = found.goals[0]
    lines: dict[str, Float] = {"optimal": first.sigmas}
    intervals = {}
    if first.certainty is not None:
        intervals["optimal"] = (first.certainty.lower, first.certainty.upper)
    # The two best, and the one that everybody knows.
    for row in (*first.baselines[:2], *(row for row in first.baselines if row.name == "karras")):
        lines[row.name] = row.sigmas
    return plots.grids_on_line(lines, ours="optimal", intervals=intervals, ax=ax)


HEADINGS = ("planned for", "γ* (95 %)", "levels move", "error", "best of the catalogue")
"""Of the columns of `_rows`."""

TABLE_NOTE = (
    "γ* is the scale of the best tangent law, in units of the data. Errors: squared Wasserstein distance for w2, nats for kl, "
    "local error for DPM-Solver++(2M); steps of DDIM for the first two."
)

PAGE_COLOURS = {plots.OURS: "ours", plots.INK: "ink", plots.SUBDUED: "soft", plots.LINE: "line", "#ffffff": "paper"}
"""The figures' colours, and the variables of the page that stand for them."""


def _svg(axes: Axes, description: str) -> str:
    """A figure as SVG for a page: colours become the page's own, so that they follow light and dark."""
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "eigenstep", "svg.fonttype": "path"}):
        stream = io.StringIO()
        figure = axes.get_figure(root=True)
        assert figure is not None
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for colour, name in PAGE_COLOURS.items():
        svg = re.sub(colour, f"var(--{name})", svg, flags=re.IGNORECASE)
    # Width and height come from the page; the viewBox keeps the proportions.
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(description)}"', 1)


_STYLE = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #24292f; --soft: #6e7781; --line: #e7eaed; --ours: #0072b2;
  --card: #f6f8fa; }
@media (prefers-color-scheme: dark) { :root { --paper: #14181d; --ink: #e6e9ed; --soft: #98a2ad; --line: #2b323a;
  --ours: #57b0e6; --card: #1c2229; } }
@media print { :root { color-scheme: light; --paper: #ffffff; --ink: #24292f; --soft: #6e7781; --line: #e7eaed;
  --ours: #0072b2; --card: #f6f8fa; } body { margin: 0 auto; } svg { min-width: 0; }
  figure, .facts div, table { break-inside: avoid; } }
* { box-sizing: border-box; }
body { background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  max-width: 50rem; margin: 3rem auto; padding: 0 1.25rem; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 2.5rem 0 0.5rem; }
p { margin: 0.5rem 0; }
.note { font-size: 0.88rem; }
.subtitle, figcaption, footer, .note, .facts small { color: var(--soft); }
.subtitle { margin: 0.35rem 0 1.5rem; }
.verdict { font-size: 1.15rem; line-height: 1.45; border-left: 4px solid var(--ours); padding: 0.1rem 0 0.1rem 1rem;
  margin: 1.5rem 0; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(14rem, 1fr)); gap: 0.75rem; margin: 1.5rem 0; }
.facts div { background: var(--card); border-radius: 6px; padding: 0.8rem 1rem; }
.facts span { display: block; font-size: 0.85rem; }
.facts b { display: block; font-size: 1.6rem; line-height: 1.25; font-weight: 600; font-variant-numeric: tabular-nums; }
.facts small { display: block; font-size: 0.8rem; line-height: 1.35; }
figure { margin: 0.5rem 0 0; }
figure > div, .wide { overflow-x: auto; }
svg { width: 100%; min-width: 34rem; height: auto; display: block; }
figcaption { font-size: 0.88rem; margin-top: 0.25rem; }
table { border-collapse: collapse; width: 100%; font-size: 0.92rem; font-variant-numeric: tabular-nums; }
th { text-align: right; font-weight: 600; font-size: 0.82rem; color: var(--soft); }
td { text-align: right; }
th, td { padding: 0.45rem 0.6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child, th:last-child, td:last-child { text-align: left; }
th:first-child, td:first-child { padding-left: 0; }
code { font: 0.9em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
footer { font-size: 0.82rem; margin-top: 3rem; border-top: 1px solid var(--line); padding-top: 0.75rem; }
"""


def _page(found: Findings) -> str:
    """The report as one HTML document without scripts, links or requests."""
    first = found.goals[0]
    steps = first.sigmas.size - 1
    facts = "".join(
        f"<div><span>{escape(label)}</span><b>{escape(value)}</b><small>{escape(remark)}</small></div>"
        for label, value, remark in _facts(found)
    )
    head = "".join(f"<th>{escape(cell)}</th>" for cell in HEADINGS)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in _rows(found))
    remarks = "".join(f"<p>{escape(remark)}</p>" for remark in _remarks(found))
    eigenvalues = _svg(_draw_eigenvalues(found), "Eigenvalues of the data's covariance against their rank")
    grids = _svg(_draw_grids(found), f"Noise levels of the planned grid of {steps} steps and of catalogue grids")
    levels = ", ".join(f"{sigma:.4g}" for sigma in first.sigmas)
    command = found.spectrum.provenance.get("command")
    origin = f"<br>Measured by <code>{escape(str(command))}</code>" if command else ""
    caption = (
        "Blue: the population's eigenvalues and their 95 % interval. Grey: the sample's own."
        if found.population is not None
        else "Eigenvalues as measured."
    )
    bars = " The bars behind the dots of the first line are its 95 % intervals." if first.certainty is not None else ""
    return f"""{_opening(found.title)}
<p class="subtitle">{escape(_subtitle(found))}</p>
<p class="verdict">{escape(found.verdict)}</p>
<div class="facts">{facts}</div>
<h2>Eigenvalues</h2>
<figure><div>{eigenvalues}</div><figcaption>{caption}</figcaption></figure>
{remarks}
<h2>The grid it leads to</h2>
<figure><div>{grids}</div><figcaption>{steps} steps of DDIM planned for w2, beside the best catalogue grids and Karras's.{bars}
</figcaption></figure>
<p>Planned levels: <code>{levels}</code></p>
<h2>Objectives</h2>
<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>
<p class="note">{escape(TABLE_NOTE)}</p>
<footer>eigenstep {__version__}{origin}</footer>
</body>
</html>
"""


def _picture(found: Findings) -> bytes:
    """The report as one PNG figure, 8.27 inches wide at 160 dots per inch, as high as it needs to be."""
    # Laid out once to know the height, and once more to have it.
    _, height = _sheet(found, 12.0)
    figure, _ = _sheet(found, height)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=160)
    return stream.getvalue()


def _sheet(found: Findings, height: float) -> tuple[Figure, float]:
    """The figure of `height` inches, and the height it should have."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Figures need matplotlib; install it with `pip install "eigenstep[plots]"`.') from error

    width, margin = 8.27, 0.7
    soft: dict[str, Any] = {"color": plots.SUBDUED}
    figure = Figure(figsize=(width, height), facecolor="white")

    def write(x: float, y: float, text: str, *, size: float = plots.FONT, wrap: int = 0, **more: Any) -> float:
        """Text whose first baseline starts at (x, y) inches from the top left; how far below it the next line goes."""
        lines = textwrap.wrap(text, wrap) if wrap else [text]
        leading = 1.45 * size / 72
        for number, line in enumerate(lines):
            place = (x / width, 1 - (y + number * leading) / height)
            figure.text(*place, line, fontsize=size, **{"color": plots.INK, "va": "baseline", **more})
        return leading * len(lines)

    def panel(top: float, high: float, *, left: float) -> Axes:
        return figure.add_axes((left / width, 1 - (top + high) / height, (width - left - 1.35) / width, high / height))

    write(margin, 0.85, found.title, size=19, weight="bold")
    write(margin, 1.15, _subtitle(found), size=plots.FONT + 0.5, **soft)
    y = 1.55 + write(margin, 1.55, found.verdict, size=11, wrap=86) + 0.15
    facts = _facts(found)
    for number, (label, value, remark) in enumerate(facts):
        x, top = margin + 2.35 * (number % 3), y + 0.85 * (number // 3)
        write(x, top, label, size=plots.FONT - 0.5)
        write(x, top + 0.25, value, size=15, weight="bold")
        write(x, top + 0.42, remark, size=plots.FONT - 2, wrap=40, **soft)
    y += 0.85 * -(-len(facts) // 3) + 0.05
    _draw_eigenvalues(found, panel(y, 2.9, left=margin + 0.6))
    y += 3.55
    for remark in _remarks(found):
        y += write(margin, y, remark, size=plots.FONT - 1, wrap=116) + 0.04
    y += 0.25
    write(margin, y, f"{found.goals[0].sigmas.size - 1} steps of DDIM planned for w2", weight="bold", size=10)
    _draw_grids(found, panel(y + 0.15, 1.15, left=margin + 1.2))
    y += 2.05
    columns = (0.0, 1.75, 3.35, 4.3, 4.95)
    for number, row in enumerate((HEADINGS, *_rows(found))):
        style: dict[str, Any] = {"weight": "bold", **soft} if number == 0 else {}
        for column, cell in zip(columns, row, strict=True):
            write(margin + column, y, cell, size=plots.FONT - 1, **style)
        y += 0.22
    y += write(margin, y + 0.05, TABLE_NOTE, size=plots.FONT - 2, wrap=128, **soft) + 0.3
    write(margin, y, f"eigenstep {__version__}", size=plots.FONT - 2, **soft)
    return figure, y + 0.45


# ---------------------------------------------------------------------- a comparison


def comparison_report(
    record: Mapping[str, Any], path: str | os.PathLike[str], *, axes: Axes, error_name: str, command: str = ""
) -> None:
    """Write a comparison of planned and hand-made grids to an `.html` file that holds everything inside it, or nothing at all.

    Parameters
    ----------
    record : mapping
        What `eigenstep compare --format json` prints.
    path : path
        Ending in .html.
    axes : Axes
        The figure of error against steps.
    error_name : str
        What the objective is called.
    command : str
        What was typed; empty for nothing.

    Raises
    ------
    ValueError
        Another suffix.
    OSError
        The file cannot be written; an earlier one stays as it was.
    ImportError
        Without matplotlib.
    """
    choice(os.path.splitext(os.fspath(path))[1].lower(), (".html",), "suffix of `path`")
    content = _comparison_page(record, axes, error_name, command).encode()

    def write(stream: BinaryIO) -> None:
        stream.write(content)

    _files.write_atomically(path, write)


def _best_by_hand(record: Mapping[str, Any]) -> list[tuple[str, float] | None]:
    """The hand-made grid of least error for each number of steps, where there is one."""
    found: list[tuple[str, float] | None] = []
    for k in range(len(record["steps"])):
        errors = {name: values[k] for name, values in record["baselines"].items() if values[k] is not None}
        name = min(errors, key=lambda each: errors[each], default=None)
        found.append(None if name is None else (name, float(errors[name])))
    return found


def _comparison_verdict(record: Mapping[str, Any]) -> str:
    """One sentence: how much more error the best hand-made grid leaves."""
    hands = _best_by_hand(record)
    ratios = [hand[1] / value for hand, value in zip(hands, record["values"], strict=True) if hand is not None and value > 0]
    if not ratios:
        return "The catalogue has no grid of so many steps over this range."
    steps = record["steps"]
    span = f"at {steps[0]} step{'s' * (steps[0] != 1)}" if len(steps) == 1 else f"from {steps[0]} to {steps[-1]} steps"
    low, high = _three(min(ratios)), _three(max(ratios))
    times = low if low == high else f"{low} to {high}"
    return f"The best hand-made grid leaves {times} times the error of the planned one {span}."


_COLUMNS = 9


def _comparison_page(record: Mapping[str, Any], axes: Axes, error_name: str, command: str) -> str:
    """A comparison as one HTML document without scripts, links or requests."""
    spectrum, steps = record["spectrum"], record["steps"]
    title = f"{spectrum['name']}: planned and hand-made grids"
    hands = _best_by_hand(record)
    rows = []
    for n, value, hand in zip(steps, record["values"], hands, strict=True):
        ratio = "–" if hand is None or value == 0 else _three(hand[1] / value)
        rows.append((str(n), _three(value), "–" if hand is None else _three(hand[1]), ratio, "" if hand is None else hand[0]))
    # As many planned grids as a figure shows well, evenly taken, the first and the last among them.
    shown = sorted({round(k) for k in np.linspace(0, len(steps) - 1, min(len(steps), 6))})
    lines = {f"{steps[k]} step{'s' * (steps[k] != 1)}": record["sigmas"][k] for k in shown}
    levels = [(str(n), ", ".join(f"{sigma:.6g}" for sigma in grid)) for n, grid in zip(steps, record["sigmas"], strict=True)]
    tables = []
    # As many columns as a printed page takes.
    for first in range(0, len(steps), _COLUMNS):
        part = slice(first, first + _COLUMNS)
        every = [
            (name, *("–" if value is None else _three(value) for value in values[part]))
            for name, values in record["baselines"].items()
        ]
        tables.append(_html_table(("grid", *map(str, steps[part])), every))
    settings = [
        ("solver", record["solver"], "that takes the steps"),
        ("objective", record["objective"], error_name),
        ("noise levels", f"{record['sigma_max']:.4g} – {record['sigma_min']:.3g}", record["path"] or "in units of the data"),
    ]
    facts = "".join(
        f"<div><span>{escape(label)}</span><b>{escape(str(value))}</b><small>{escape(str(remark))}</small></div>"
        for label, value, remark in settings
    )
    curves = _svg(axes, f"{error_name} against the number of steps, planned and hand-made")
    grids = _svg(plots.grids_on_line(lines), "Noise levels of the planned grids")
    samples = "" if spectrum["n_samples"] is None else f"{spectrum['n_samples']:,} samples · "
    size = f"{spectrum['dim']:,.6g} dimensions of total variance {_three(spectrum['trace'])} · {samples}"
    made = f"<br>Made by <code>{escape(command)}</code>" if command else ""
    return f"""{_opening(title, _COMPARISON_STYLE)}
<p class="subtitle">{escape(size)}{escape(record["eigenvalues_reason"])}</p>
<p class="verdict">{escape(_comparison_verdict(record))}</p>
<div class="facts">{facts}</div>
<h2>Error against steps</h2>
<figure><div>{curves}</div></figure>
{_html_table(("steps", "planned", "best by hand", "ratio", "which"), rows)}
<h2>The planned grids</h2>
<figure><div>{grids}</div></figure>
{_html_table(("steps", "levels, from noise to data"), levels).replace("<table>", '<table class="levels">')}
<h2>Every hand-made grid</h2>
<p class="note">Error at each number of steps; – where the catalogue has no such grid, or its error is infinite.</p>
{"".join(tables)}
<footer>eigenstep {__version__}{made}</footer>
</body>
</html>
"""


# ---------------------------------------------------------------------- an evaluation


def evaluation_report(evaluation: Evaluation, path: str | os.PathLike[str]) -> None:
    """Write the report of an evaluation to an `.html` file that holds everything inside it, whole or not at all.

    Parameters
    ----------
    evaluation : Evaluation
    path : path
        Ending in .html.

    Raises
    ------
    ValueError
        Another suffix, or an evaluation without a finished cell.
    OSError
        The file cannot be written; an earlier one stays as it was.
    ImportError
        Without matplotlib.
    """
    choice(os.path.splitext(os.fspath(path))[1].lower(), (".html",), "suffix of `path`")
    if not evaluation.metrics:
        raise ValueError("There is no finished cell to report; the reasons: " + "; ".join(evaluation.failures.values()))
    content = _evaluation_page(evaluation).encode()

    def write(stream: BinaryIO) -> None:
        stream.write(content)

    _files.write_atomically(path, write)


def evaluation_sentences(evaluation: Evaluation) -> list[str]:
    """What an evaluation says of our grids, one sentence for each measure that is shown.

    An example: "RMSE to the converged endpoint: ours is better than the catalogue's best in 3 of 4 settings and worse in none;
    median ratio 0.71."
    """
    sentences = []
    for metric in headline_metrics(evaluation):
        found = [each for each in evaluation.verdicts() if each.metric == metric]
        if not found:
            continue
        words = [each.word for each in found]
        ratio = float(np.median([each.ratio for each in found]))
        what = metric_title(metric)
        if set(words) == {"one seed"}:
            below = sum(each.ratio < 1 for each in found)
            sentences.append(
                f"{what}: ours is below the catalogue's best in {below} of {len(found)} settings, median ratio {ratio:.2f}; "
                "one seed alone has no interval."
            )
            continue
        worse = words.count("worse") or "none"
        sentences.append(
            f"{what}: ours is better than the catalogue's best in {words.count('better')} of {len(found)} settings and worse "
            f"in {worse}; median ratio {ratio:.2f}."
        )
    return sentences


def _evaluation_facts(evaluation: Evaluation) -> list[tuple[str, str, str]]:
    settings, references = evaluation.settings, [r for r in evaluation.references.values() if not r["error"]]
    grids = {cell.grid for cell in evaluation.cells}
    facts = [
        ("samples", f"{settings['n_items']:,}", f"of each cell, from {len(settings['seeds'])} seeds"),
        ("cells", f"{sum(not r['error'] for r in evaluation.cells.values()):,}", f"finished, of {len(evaluation.cells):,}"),
        ("grids", f"{len(grids)}", "that compete, planned ones included"),
        (
            "noise levels",
            f"{settings['sigma_min']:.3g} – {settings['sigma_max']:.4g}",
            "of the model, in units of the data",
        ),
    ]
    if references:
        steps = max(r["steps"] for r in references)
        apart = max(r["halving_rmse"] for r in references)
        known = "converged" if all(r["converged"] for r in references) else "not converged"
        facts.append(("endpoint", f"{apart:.2g}", f"RMSE of {steps} steps to {steps // 2}: {known}"))
    ratio = evaluation.fit.ratio
    facts.append(
        ("model's error", f"{_two(float(ratio.min()))} – {_two(float(ratio.max()))}", "times what the covariance alone allows")
    )
    return facts


def _evaluation_curves(evaluation: Evaluation, solver: str, metric: str) -> Axes | None:
    """The measure against network calls of one solver; None where fewer than two numbers of calls have it."""
    counts = [calls for name, calls in evaluation.settings_pairs() if name == solver]
    curves = {}
    for name in evaluation.grids:
        found = [evaluation.interval(name, solver, calls, metric) for calls in counts]
        # A distance of 0, as of a grid to itself, has no place on a logarithmic axis.
        kept = [each if each is not None and each.mean > 0 else None for each in found]
        if any(kept):
            nan = math.nan
            mean, low, high = (
                [nan if each is None else getattr(each, end) for each in kept] for end in ("mean", "low", "high")
            )
            curves[name] = (mean, low, high)
    if OURS not in curves or len(counts) < 2:
        return None
    words = metric_title(metric).replace(" to the ", "\nto the ")
    named = [name for name in _named_grids(evaluation) if name in curves]
    return plots.quality_against_calls(counts, curves, ours=OURS, named=named, ylabel=words)


def _named_grids(evaluation: Evaluation) -> list[str]:
    """The grids that get a colour, the same in every figure: ours without warm start, Karras's, and those that rank best."""
    ranks: dict[str, list[int]] = {}
    for solver, calls in evaluation.settings_pairs():
        for metric in headline_metrics(evaluation):
            others = [name for name in evaluation.grids if name != OURS and not name.endswith(WARM_SUFFIX)]
            found = {name: evaluation.interval(name, solver, calls, metric) for name in others}
            means = {name: each.mean for name, each in found.items() if each is not None}
            for place, name in enumerate(sorted(means, key=lambda name: means[name])):
                ranks.setdefault(name, []).append(place)
    best = sorted(ranks, key=lambda name: float(np.mean(ranks[name])))
    known = [name for name in (WITHOUT_WARM, "karras") if name in ranks]
    return list(dict.fromkeys([*known, *best]))[: len(known) + 3]


def _evaluation_sheet(evaluation: Evaluation, solver: str, calls: int) -> Axes | None:
    """Samples of ours, the catalogue's best by each shown measure and Karras's grid, over the converged ones."""
    kept = {cell.grid: items for cell, items in evaluation.sheets.items() if (cell.solver, cell.calls) == (solver, calls)}
    verdicts = [evaluation.verdict(solver, calls, metric) for metric in headline_metrics(evaluation)]
    wanted = [OURS, *(each.best for each in verdicts if each is not None), "karras"]
    rows = {name: kept[name] for name in dict.fromkeys(wanted) if name in kept}
    converged = next((items for cell, items in evaluation.sheets.items() if cell.grid == "converged"), None)
    if OURS not in rows or converged is None:
        return None
    rows["converged"] = converged
    count = min(len(items) for items in rows.values())
    ends = (float(np.quantile(converged, 0.001)), float(np.quantile(converged, 0.999)))
    return plots.sample_sheet({name: items[:count] for name, items in rows.items()}, ours=OURS, value_range=ends)


def _cell_text(interval: Any) -> str:
    """A mean with its half width, or alone."""
    if interval is None:
        return "–"
    middle = f"{interval.mean:.3g}"
    return middle if math.isnan(interval.half_width) else f"{middle} ± {interval.half_width:.1g}"


def _verdict_row(each: Verdict) -> tuple[str, ...]:
    ratio = f"{each.ratio:.2f}" if math.isfinite(each.ratio) else "–"
    return (each.solver, str(each.calls), _cell_text(each.ours), _cell_text(each.theirs), ratio, each.word, each.best)


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'


def _evaluation_page(evaluation: Evaluation) -> str:
    """The report of an evaluation as one HTML document without scripts, links or requests."""
    settings = evaluation.settings
    data = settings["data_name"]
    title = f"{evaluation.model}" + (f" on {data}" if data else "")
    facts = "".join(
        f"<div><span>{escape(label)}</span><b>{escape(value)}</b><small>{escape(remark)}</small></div>"
        for label, value, remark in _evaluation_facts(evaluation)
    )
    verdicts = "".join(f'<p class="verdict">{escape(each)}</p>' for each in evaluation_sentences(evaluation))
    parts = []
    for solver in settings["solvers"]:
        parts.append(f"<h2>{escape(solver)}</h2>")
        for metric in headline_metrics(evaluation):
            axes = _evaluation_curves(evaluation, solver, metric)
            if axes is not None:
                words = f"{metric_title(metric)} against network calls, {solver}"
                parts.append(f"<figure><div>{_svg(axes, words)}</div></figure>")
        counts = [calls for name, calls in evaluation.settings_pairs() if name == solver]
        for calls in dict.fromkeys([counts[0], counts[-1]] if counts else []):
            sheet = _evaluation_sheet(evaluation, solver, calls)
            if sheet is not None:
                words = f"Samples at {calls} network calls, the same noise in each column"
                parts.append(f"<figure><div>{_svg(sheet, words)}</div><figcaption>{escape(words)}.</figcaption></figure>")
    tables = []
    head = ("solver", "calls", "ours", "catalogue's best", "ratio", "verdict", "which")
    for metric in evaluation.metrics:
        rows = [_verdict_row(each) for each in evaluation.verdicts() if each.metric == metric]
        if not rows:
            continue
        table = f"<h3>{escape(metric_title(metric))}</h3>{_html_table(head, rows)}"
        every = []
        for solver, calls in evaluation.settings_pairs():
            found = [(name, evaluation.interval(name, solver, calls, metric)) for name in evaluation.grids]
            ranked = sorted(((name, each) for name, each in found if each is not None), key=lambda pair: pair[1].mean)
            every += [(solver, str(calls), _cell_text(each), name) for name, each in ranked]
        tables.append(
            f"{table}<details><summary>every grid</summary>"
            f"{_html_table(('solver', 'calls', 'mean ± 95 %', 'grid'), every)}</details>"
        )
    plans = [
        (each["solver"], str(each["calls"]), ", ".join(f"{sigma:.3g}" for sigma in each["sigmas"]), each["reason"])
        for each in evaluation.facts["plans"]
        if each["grid"] == OURS
    ]
    notes = "".join(f"<p>Features {escape(name)}: {escape(note)}.</p>" for name, note in evaluation.facts["features"].items())
    sentences = evaluation.facts.get("spectrum", {})
    notes += "".join(f"<p>{escape(sentences[each])}</p>" for each in ("reason", "doubt") if sentences.get(each))
    failed = "".join(f"<li>{escape(cell)}: {escape(why)}</li>" for cell, why in evaluation.failures.items())
    failures = f"<h2>What failed</h2><ul>{failed}</ul>" if failed else ""
    return f"""{_opening(title, _EVALUATION_STYLE)}
<p class="subtitle">Planned grids and the catalogue from the same noise</p>
{verdicts}
<div class="facts">{facts}</div>
{"".join(parts)}
<h2>What was planned</h2>
{_html_table(("solver", "calls", "levels", "why"), plans).replace("<table>", '<table class="plans">')}
<h2>Every measure</h2>
<p class="note">{escape(EVALUATION_NOTE)}</p>
{notes}
{"".join(tables)}
{failures}
<footer>eigenstep {__version__}</footer>
</body>
</html>
"""


def _opening(title: str, style: str = "") -> str:
    """What every page begins with, down to its title."""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{_STYLE}{style}</style>
</head>
<body>
<h1>{escape(title)}</h1>"""


_COMPARISON_STYLE = """
.levels td { white-space: normal; text-align: left; } .levels th { text-align: left; }
.wide + .wide { margin-top: 1.5rem; }
"""

_EVALUATION_STYLE = """
h3 { font-size: 0.95rem; margin: 1.75rem 0 0.25rem; }
details { margin: 0.4rem 0 0; } summary { color: var(--soft); font-size: 0.88rem; cursor: pointer; }
figure + figure { margin-top: 1.5rem; }
.plans td { white-space: normal; vertical-align: top; text-align: left; } .plans td:nth-child(-n + 2) { white-space: nowrap; }
.plans th { text-align: left; }
"""

EVALUATION_NOTE = (
    "Means over seeds ± half the width of their 95 % interval. The catalogue's best is chosen with hindsight, for each measure "
    "and number of calls by the same seeds. Better and worse: the 95 % interval of the differences, seed by seed, leaves 0 "
    "out; each row has its own 5 % of chance. Fréchet distances are squared and grow as samples become few: compare them "
    "within this page."
)
