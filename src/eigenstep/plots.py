"""Figures, one function each: they draw numbers that the library has computed, and compute none themselves.

Every function draws into `ax`, or into a new figure of README width where `ax` is None, and returns the Axes; save with
`ax.figure.savefig("out.png", dpi=200)`. Curves carry their name at their end instead of in a legend; colours are Okabe
and Ito's, which stay apart for colour-blind readers, and what is ours is also thicker. Needs matplotlib:
`pip install "eigenstep[plots]"`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from eigenstep._checks import Float, descending_sigmas, integer, real_array
from eigenstep.spectrum import Spectrum

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OURS = "#0072B2"
NAMED = ("#D55E00", "#009E73", "#CC79A7", "#B8860B", "#56B4E9", "#7F5AA8")
FAINT = "#C9CDD2"
INK = "#24292F"
SUBDUED = "#6E7781"
LINE = "#E7EAED"
FONT = 9.0


def error_against_steps(
    steps: ArrayLike,
    errors: Mapping[str, ArrayLike],
    *,
    ours: str,
    named: Sequence[str] | None = None,
    predicted: Mapping[str, ArrayLike] | None = None,
    log_steps: bool = False,
    ylabel: str = "error",
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw one curve of error against the number of steps for each kind of grid, on a logarithmic axis.

    Parameters
    ----------
    steps : array_like, (m,)
        Numbers of steps, ascending integers >= 1.
    errors : mapping of str to array_like, (m,)
        For each grid its errors > 0; NaN where a grid has no entry at that number of steps.
    ours : str
        The key of `errors` that is drawn thick and on top.
    named : sequence of str, optional
        The other keys that get a colour and a label, at most six; the rest stay grey. None names the four
        that end lowest.
    predicted : mapping of str to array_like, (m,), optional
        For some of `ours` and `named` what a theory says instead, > 0: dotted, in the same colour.
    log_steps : bool
        Whether the axis of steps is logarithmic too, so that a power of the number of steps is a straight line.
    ylabel : str
        The axis label: name the objective and its unit here.
    title : str
        A line above the figure; empty for none.
    ax : Axes, optional
        Where to draw; None makes a figure.

    Raises
    ------
    ValueError
        `ours` or a name in `named` is not in `errors`, a name in `predicted` is neither, lengths differ, or an error is
        not positive.

    Examples
    --------
    >>> ax = error_against_steps([3, 4], {"karras": [0.9, 0.7], "optimal": [0.5, 0.3]}, ours="optimal")
    >>> [text.get_text() for text in ax.texts]
    ['optimal', 'karras']
    """
    x = real_array(steps, "steps", ndim=1)
    curves = {name: np.asarray(values, dtype=np.float64) for name, values in errors.items()}
    dotted = {name: np.asarray(values, dtype=np.float64) for name, values in (predicted or {}).items()}
    for argument, mapping in (("errors", curves), ("predicted", dotted)):
        for name, values in mapping.items():
            if values.shape != x.shape:
                raise ValueError(f"`{argument}[{name!r}]` must have one value per step count, got {values.shape} for {x.size}.")
            if not np.all((values > 0) | np.isnan(values)):
                raise ValueError(f"`{argument}[{name!r}]` must be positive to stand on a logarithmic axis, got {values.min()}.")
    if named is None:
        others = [name for name in curves if name != ours and np.isfinite(curves[name][-1])]
        named = sorted(others, key=lambda name: float(curves[name][-1]))[:4]
    for name in (ours, *named):
        if name not in curves:
            raise ValueError(f"`errors` has no curve named {name!r}; it has {', '.join(curves)}.")
    if len(named) > len(NAMED):
        raise ValueError(f"`named` must hold at most {len(NAMED)} names, got {len(named)}; leave the rest grey.")
    coloured = [(ours, OURS), *zip(named, NAMED, strict=False)]
    for name in dotted:
        if name not in dict(coloured):
            raise ValueError(f"`predicted` may speak of the curves in colour only, {', '.join(dict(coloured))}; got {name!r}.")

    ax = _axes(ax)
    for name, values in curves.items():
        if name != ours and name not in named:
            ax.plot(x, values, color=FAINT, linewidth=1.0, zorder=1)
    for colour, name in zip(NAMED, named, strict=False):
        ax.plot(x, curves[name], color=colour, linewidth=1.5, zorder=2)
    ax.plot(x, curves[ours], color=OURS, linewidth=2.8, zorder=3, marker="o", markersize=4.5)
    ax.set_yscale("log")
    shown = ax.get_ylim()
    for name, colour in coloured:
        if name in dotted:
            ax.plot(x, dotted[name], color=colour, linewidth=1.3, linestyle=(0, (1, 2)), zorder=4)
    # A prediction may leave the axes where it does not hold.
    ax.set_ylim(shown)
    ax.set_xlabel("steps")
    ax.set_ylabel(ylabel)
    if log_steps:
        _log_step_ticks(ax, x)
        if shown[1] < 1e3 * shown[0]:
            _value_ticks(ax, *shown)
    else:
        _integer_ticks(ax, x)
    _title(ax, title, grey=len(curves) - 1 - len(named))
    _label_ends(ax, [(name, colour, x, curves[name]) for name, colour in coloured])
    return ax


def grids_on_line(
    grids: Mapping[str, ArrayLike],
    *,
    ours: str | None = None,
    intervals: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw each grid's noise levels as dots on its own line, from noise at the left to data at the right.

    The axis is logarithmic and runs from high sigma to low, as sampling does; a final sigma of 0, which a logarithmic
    axis cannot hold, is an open dot at the right end, over the tick "0".

    Parameters
    ----------
    grids : mapping of str to array_like, (n+1,)
        For each name its n+1 descending sigmas, in data units; drawn from top to bottom in this order.
    ours : str, optional
        The key drawn in our colour; None for none.
    intervals : mapping of str to two array_like of (n+1,), optional
        For some of the names the range of each level, drawn as a bar behind its dot.
    title : str
        A line above the figure; empty for none.
    ax : Axes, optional
        Where to draw; None makes a figure as tall as the number of grids asks for.

    Raises
    ------
    ValueError
        No grid, a grid that does not descend, `ours` or a key of `intervals` not among the names, or an interval of
        another length.

    Examples
    --------
    >>> ax = grids_on_line({"optimal": [80.0, 4.0, 0.5, 0.0], "karras": [80.0, 2.5, 0.002, 0.0]}, ours="optimal")
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['optimal', 'karras']
    """
    lines = {name: descending_sigmas(values, f"grids[{name!r}]") for name, values in grids.items()}
    if not lines:
        raise ValueError("`grids` must hold at least one grid, got none.")
    if ours is not None and ours not in lines:
        raise ValueError(f"`grids` has no grid named {ours!r}; it has {', '.join(lines)}.")
    bars = {}
    for name, ends in (intervals or {}).items():
        if name not in lines:
            raise ValueError(f"`grids` has no grid named {name!r}; it has {', '.join(lines)}.")
        bars[name] = np.array([real_array(end, f"intervals[{name!r}]", ndim=1) for end in ends])
        if bars[name].shape != (2, lines[name].size):
            raise ValueError(f"`intervals[{name!r}]` must have {lines[name].size} values at either end, one per level.")
    lowest = min(float(sigmas[sigmas > 0][-1]) for sigmas in lines.values())
    highest = max(float(sigmas[0]) for sigmas in lines.values())
    # Zero gets a place of its own, a little below the lowest level: a twelfth of the span that is drawn.
    zero = lowest * (lowest / highest) ** (1 / 12) if highest > lowest else lowest / 2
    ends_at_zero = any(sigmas[-1] == 0 for sigmas in lines.values())

    ax = _axes(ax, height=0.9 + 0.3 * len(lines))
    for row, (name, sigmas) in enumerate(lines.items()):
        colour, size = (OURS, 6.0) if name == ours else (SUBDUED, 4.5)
        shown = np.where(sigmas > 0, sigmas, zero)
        ax.plot(shown, np.full(shown.size, row), color=colour, linewidth=0.8, alpha=0.45, zorder=1)
        if name in bars:
            low, high = bars[name][:, sigmas > 0]
            wide = high > low
            ax.hlines(np.full(wide.sum(), row), low[wide], high[wide], color=colour, linewidth=15.0, alpha=0.22, zorder=1)
        ax.plot(sigmas[sigmas > 0], np.full(np.count_nonzero(sigmas > 0), row), "o", color=colour, markersize=size)
        if sigmas[-1] == 0:
            ax.plot([zero], [row], "o", color=colour, markerfacecolor="white", markersize=size)
    ax.set_xscale("log")
    _decade_ticks(ax, lowest, highest, zero if ends_at_zero else None)
    ax.set_xlim(highest * 1.25, (zero if ends_at_zero else lowest) / 1.25)
    ax.set_xlabel("noise level σ, in units of the data   (sampling runs left to right)")
    ax.set_yticks(range(len(lines)), list(lines))
    for label, name in zip(ax.get_yticklabels(), lines, strict=True):
        if name == ours:
            label.set_color(OURS)
            label.set_fontweight("bold")
    ax.set_ylim(len(lines) - 0.4, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.grid(False)
    ax.grid(True, axis="x", color=LINE, linewidth=0.8)
    ax.spines["left"].set_visible(False)
    _title(ax, title)
    return ax


def retained_variance(
    eigenvalues: ArrayLike,
    ratios: Mapping[str, ArrayLike],
    *,
    ours: str | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw, for each grid, which share of every eigenvalue's variance its samples keep: the detail a grid loses.

    Parameters
    ----------
    eigenvalues : array_like, (k,)
        Eigenvalues of the data's covariance, in squared data units; those equal to 0 are left out, since a
        logarithmic axis cannot hold them.
    ratios : mapping of str to array_like, (k,)
        For each name the ratios of output variance to true variance; 1 is perfect.
    ours : str, optional
        The key drawn thick; None for none.
    title : str
        A line above the figure; empty for none.
    ax : Axes, optional
        Where to draw; None makes a figure.

    Raises
    ------
    ValueError
        Lengths differ, all eigenvalues are 0, more than seven names, or `ours` not among them.

    Examples
    --------
    >>> ax = retained_variance([4.0, 1.0, 0.0], {"optimal": [0.99, 0.9, 1.0]}, ours="optimal")
    >>> [float(r) for r in ax.lines[-1].get_ydata()]
    [0.99, 0.9]
    """
    lam = real_array(eigenvalues, "eigenvalues", ndim=1)
    curves = {name: real_array(values, f"ratios[{name!r}]", ndim=1) for name, values in ratios.items()}
    for name, values in curves.items():
        if values.size != lam.size:
            raise ValueError(f"`ratios[{name!r}]` must have {lam.size} values, one per eigenvalue, got {values.size}.")
    if not np.any(lam > 0):
        raise ValueError("`eigenvalues` must hold at least one positive value to be drawn, got none.")
    if ours is not None and ours not in curves:
        raise ValueError(f"`ratios` has no curve named {ours!r}; it has {', '.join(curves)}.")
    colours = _colours(curves, ours)
    keep = lam > 0

    ax = _axes(ax)
    ax.axhline(1.0, color=SUBDUED, linewidth=0.8, zorder=0)
    ends = []
    for name, values in curves.items():
        ax.plot(lam[keep], values[keep], color=colours[name], linewidth=2.8 if name == ours else 1.5)
        ends.append((name, colours[name], lam[keep], values[keep]))
    ax.set_xscale("log")
    ax.set_xlim(float(lam[keep].max()), float(lam[keep].min()))
    ax.set_ylim(bottom=0.0)
    ax.set_xlabel("eigenvalue λ   (coarse structure left, fine detail right)")
    ax.set_ylabel("variance kept by the samples")
    _title(ax, title)
    _label_ends(ax, ends)
    return ax


def eigenvalue_curve(
    spectra: Mapping[str, Spectrum], *, ours: str | None = None, title: str = "", ax: Axes | None = None
) -> Axes:
    """Draw the eigenvalues of each spectrum against their rank, on logarithmic axes.

    An eigenvalue of multiplicity m covers m ranks. Eigenvalues of exactly 0, which a logarithmic axis cannot hold, are
    counted in the curve's label.

    Parameters
    ----------
    spectra : mapping of str to Spectrum
        For each name a `Spectrum`; at most seven.
    ours : str, optional
        The key drawn thick; None for none.
    title : str
        A line above the figure; empty for none.
    ax : Axes, optional
        Where to draw; None makes a figure.

    Raises
    ------
    ValueError
        No spectrum, more than seven, a spectrum of zeros only, or `ours` not among the names.

    Examples
    --------
    >>> ax = eigenvalue_curve({"two": Spectrum.from_eigenvalues([4.0, 1.0, 0.0])})
    >>> ax.texts[0].get_text()
    'two (1 of 3 are 0)'
    """
    if not spectra:
        raise ValueError("`spectra` must hold at least one spectrum, got none.")
    if ours is not None and ours not in spectra:
        raise ValueError(f"`spectra` has no spectrum named {ours!r}; it has {', '.join(spectra)}.")
    colours = _colours(spectra, ours)
    ax = _axes(ax)
    ends = []
    for name, spectrum in spectra.items():
        keep = spectrum.eigenvalues > 0
        if not np.any(keep):
            raise ValueError(f"`spectra[{name!r}]` must have a positive eigenvalue to be drawn, got zeros only.")
        last = np.cumsum(spectrum.multiplicities[keep])
        first = np.maximum(np.concatenate([[0.0], last[:-1]]) + 1.0, 1.0)
        ranks = np.stack([first, np.maximum(last, first)], axis=1).ravel()
        values = np.repeat(spectrum.eigenvalues[keep], 2)
        ax.plot(ranks, values, color=colours[name], linewidth=2.8 if name == ours else 1.5)
        zeros = float(spectrum.multiplicities[~keep].sum())
        label = name if zeros == 0 else f"{name} ({zeros:g} of {spectrum.dim:g} are 0)"
        ends.append((label, colours[name], ranks, values))
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.set_xlabel("rank")
    ax.set_ylabel("eigenvalue λ, in squared units of the data")
    _title(ax, title)
    _label_ends(ax, ends)
    return ax


def eigenvalue_interval(
    ranks: ArrayLike,
    estimate: ArrayLike,
    lower: ArrayLike,
    upper: ArrayLike,
    *,
    sample: Spectrum | None = None,
    resolution: float = 0.0,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw estimated eigenvalues against their rank with their interval, and the sample's own beside them.

    Parameters
    ----------
    ranks : array_like, (k,)
        Ascending, from 1.
    estimate, lower, upper : array_like, (k,)
        Eigenvalues >= 0 and the ends of their interval, in squared data units; those equal to 0 are left out.
    sample : Spectrum, optional
        Drawn thin and grey, where it differs from the estimate for want of samples.
    resolution : float
        Noise level sigma, in data units, below which the samples resolve nothing: the estimate is dotted there.
    title : str
        A line above the figure; empty for none.
    ax : Axes, optional
        Where to draw; None makes a figure.

    Raises
    ------
    ValueError
        Lengths differ, or no eigenvalue is positive.

    Examples
    --------
    >>> ax = eigenvalue_interval([1, 2, 3], [4.0, 1.0, 0.5], [3.0, 0.8, 0.4], [5.0, 1.2, 0.6])
    >>> [text.get_text() for text in ax.texts]
    ['population']
    """
    x, middle, low, high = (real_array(v, name, ndim=1) for v, name in
                            ((ranks, "ranks"), (estimate, "estimate"), (lower, "lower"), (upper, "upper")))
    if not x.size == middle.size == low.size == high.size:
        raise ValueError(f"`estimate`, `lower` and `upper` must have one value per rank ({x.size}).")
    keep = middle > 0
    if not keep.any():
        raise ValueError("`estimate` must have a positive value to be drawn, got zeros only.")
    x, middle, low, high = x[keep], middle[keep], low[keep], high[keep]

    ax = _axes(ax)
    seen = middle >= resolution**2
    top = float(high[seen].max()) if seen.any() else float(high.max())
    if sample is not None:
        positive = sample.eigenvalues > 0
        places = np.maximum(np.cumsum(sample.multiplicities[positive]), 1.0)
        values = sample.eigenvalues[positive]
        ax.plot(places, values, color=SUBDUED, linewidth=1.3, zorder=2)
        top = max(top, values.max())
    ax.fill_between(x, np.maximum(low, 1e-300), high, color=OURS, alpha=0.18, linewidth=0, zorder=1)
    ax.plot(x[seen], middle[seen], color=OURS, linewidth=2.4, zorder=3)
    if not seen.all():
        # The dots begin where the line ends.
        ax.plot(x[max(int(seen.sum()) - 1, 0) :], middle[max(int(seen.sum()) - 1, 0) :], color=OURS, linewidth=2.4,
                linestyle=(0, (0.6, 1.6)), dash_capstyle="round", zorder=3)
        ax.axhline(resolution**2, color=SUBDUED, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
    ax.set_xscale("log")
    ax.set_yscale("log")
    # What lies far below the resolution would squeeze what is known into a corner.
    lowest = 0.5 * max(float(middle.min()), 1e-2 * resolution**2)
    ax.set_ylim(lowest, 2.0 * top)
    ax.set_xlim(1.0, float(x.max()))
    if not seen.all():
        ax.annotate(
            "below this the samples tell the sum only", (1.15, resolution**2), xytext=(0, -3), textcoords="offset points",
            ha="left", va="top", size=FONT - 0.5, color=SUBDUED,
        )
    ax.set_xlabel("rank")
    ax.set_ylabel("eigenvalue λ, in squared units of the data")
    _title(ax, title)
    if sample is not None and places[-1] < 0.9 * x[-1]:
        # A sample that reaches the last rank runs along the estimate; one that ends before needs its name.
        # A tenth of the height above the axis at least, so that the name stays clear of it.
        at = np.flatnonzero(values >= lowest * (2.0 * top / lowest) ** 0.1)[-1]
        _label_below(ax, "sample", SUBDUED, (float(places[at]), float(values[at])))
    # The name belongs where the curve leaves the axes, be it at the right or at the bottom.
    inside = middle >= 1.3 * lowest
    _label_ends(ax, [("population", OURS, x[inside], middle[inside])])
    return ax


def gauge_curve(
    sigmas: ArrayLike,
    ratio: ArrayLike,
    *,
    standard_error: ArrayLike | None = None,
    start_level: float | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw a network's denoising error over the Gaussian's, from high noise to low, and where the network begins to be better.

    Parameters
    ----------
    sigmas : array_like, (k,)
        Noise levels > 0, data units.
    ratio : array_like, (k,)
        m/b > 0 at them: above 1 the Wiener filter, which is free, denoises better than the network.
    standard_error : array_like, (k,), optional
        Of `ratio`; drawn as a band of two on either side.
    start_level : float, optional
        Marked, where it lies within the levels.
    title : str
        A line above the figure; empty for none.
    ax : Axes, optional
        Where to draw; None makes a figure.

    Raises
    ------
    ValueError
        Lengths differ, or a level or ratio is not positive.

    Examples
    --------
    >>> ax = gauge_curve([100.0, 1.0, 0.1], [170.0, 0.9, 0.25], start_level=1.5)
    >>> [float(r) for r in ax.lines[-1].get_ydata()]                             # ascending in sigma
    [0.25, 0.9, 170.0]
    """
    levels, values = real_array(sigmas, "sigmas", ndim=1), real_array(ratio, "ratio", ndim=1)
    spread = np.zeros_like(values) if standard_error is None else real_array(standard_error, "standard_error", ndim=1)
    if not levels.size == values.size == spread.size:
        raise ValueError(
            f"`sigmas`, `ratio` and `standard_error` must have one length, got {levels.size}, {values.size} and {spread.size}."
        )
    if np.any(levels <= 0) or np.any(values <= 0):
        raise ValueError("`sigmas` and `ratio` must be positive to be drawn on logarithmic axes.")
    order = np.argsort(levels)
    levels, values, spread = levels[order], values[order], spread[order]

    ax = _axes(ax, height=3.6)
    ax.set_xscale("log")
    ax.set_yscale("log")
    low, high = 0.8 * min(float(values.min()), 1.0), 1.25 * max(float(values.max()), 1.0)
    ax.set_ylim(low, high)
    ax.axhspan(1.0, high, color=LINE, alpha=0.6, linewidth=0, zorder=0)
    ax.axhline(1.0, color=SUBDUED, linewidth=1.0)
    if start_level is not None and levels[0] <= start_level <= levels[-1]:
        ax.axvline(start_level, color=NAMED[0], linewidth=1.3, linestyle=(0, (4, 2)))
        ax.annotate(
            f"the network is better\nbelow σ = {start_level:.3g}", (start_level, high), xytext=(7, -6),
            textcoords="offset points", ha="left", va="top", fontsize=FONT, color=NAMED[0],
        )  # fmt: skip
    ax.fill_between(levels, np.maximum(values - 2 * spread, low), values + 2 * spread, color=OURS, alpha=0.18, linewidth=0)
    ax.plot(levels, values, color=OURS, linewidth=2.4)
    ax.set_xlim(float(levels[-1]), float(levels[0]))
    _decade_ticks(ax, float(levels[0]), float(levels[-1]), None)
    _value_ticks(ax, low, high)
    ax.set_xlabel("noise level σ   (noise left, data right)")
    ax.set_ylabel("error of the network / of the Wiener filter")
    ax.annotate(
        "Wiener filter better", (1.0, 1.0), xycoords=("axes fraction", "data"), xytext=(-6, 5), textcoords="offset points",
        ha="right", va="bottom", fontsize=FONT, color=SUBDUED,
    )  # fmt: skip
    _title(ax, title)
    return ax


def step_errors(
    errors: Mapping[str, ArrayLike],
    *,
    ours: str | None = None,
    ylabel: str = "error of the step, carried to the end",
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw what every single step adds to the error (or sweeps of the angle), grid beside grid: where each one spends it.

    Parameters
    ----------
    errors : mapping of str to array_like, (n,)
        For each grid one number >= 0 per step, first step first; at most seven grids.
    ours : str, optional
        The key drawn in our colour; None for none.
    ylabel, title : str
    ax : Axes, optional
        Where to draw; None makes a figure.

    Raises
    ------
    ValueError
        No grid, more than seven, negative numbers, or `ours` not among the names.

    Examples
    --------
    >>> ax = step_errors({"optimal": [0.2, 0.2], "karras": [0.5, 0.1]}, ours="optimal")
    >>> [round(float(bar.get_height()), 3) for bar in ax.patches]
    [0.2, 0.2, 0.5, 0.1]
    """
    bars = {name: real_array(values, f"errors[{name!r}]", ndim=1) for name, values in errors.items()}
    if not bars:
        raise ValueError("`errors` must hold at least one grid, got none.")
    if ours is not None and ours not in bars:
        raise ValueError(f"`errors` has no grid named {ours!r}; it has {', '.join(bars)}.")
    for name, values in bars.items():
        if np.any(values < 0):
            raise ValueError(f"`errors[{name!r}]` must not be negative, got {values.min():.6g}.")
    colours = _colours(bars, ours)

    ax = _axes(ax, height=3.6)
    width = 0.8 / len(bars)
    tallest = max(float(values.max(initial=0.0)) for values in bars.values())
    for k, (name, values) in enumerate(bars.items()):
        places = np.arange(1, values.size + 1) + (k - 0.5 * (len(bars) - 1)) * width
        ax.bar(places, values, width=0.92 * width, color=colours[name], label=name)
    steps = np.arange(1, max(values.size for values in bars.values()) + 1)
    _integer_ticks(ax, steps.astype(np.float64))
    ax.grid(False, axis="x")
    ax.set_ylim(0.0, 1.18 * tallest if tallest else 1.0)
    ax.set_xlabel("step   (from noise to data)")
    ax.set_ylabel(ylabel)
    # Bars have no ends to carry a name: a row of names above them instead, in their own colours.
    ax.legend(
        loc="upper left", ncols=len(bars), frameon=False, fontsize=FONT, labelcolor="linecolor", handlelength=0.9,
        handleheight=0.9, borderaxespad=0.2, columnspacing=1.4,
    )  # fmt: skip
    _title(ax, title)
    return ax


def quality_against_calls(
    calls: ArrayLike,
    curves: Mapping[str, tuple[ArrayLike, ArrayLike, ArrayLike]],
    *,
    ours: str,
    named: Sequence[str] | None = None,
    ylabel: str = "distance",
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw a measured distance against network calls: ours with its confidence band, others with bars.

    Parameters
    ----------
    calls : array_like, (m,)
        Network calls per sample, ascending.
    curves : mapping of str to three array_like, (m,)
        For each grid the means > 0 and the ends of their intervals; NaN where there is none. An end at or below 0 is drawn
        down to the axis.
    ours : str
        The key of `curves` that is drawn thick and on top.
    named : sequence of str, optional
        The other keys that get a colour, a label and their interval, at most six; the rest stay grey. None names the four
        that are lowest on average.
    ylabel, title : str
        What is measured and in what unit; a line above the figure.
    ax : Axes, optional
        Where to draw; None makes a figure.

    Raises
    ------
    ValueError
        `ours` or a name in `named` is not in `curves`, lengths differ, or a mean is not positive.

    Examples
    --------
    >>> three = {"karras": ([0.9, 0.7], [0.8, 0.6], [1.0, 0.8]), "plan": ([0.5, 0.3], [0.4, 0.2], [0.6, 0.4])}
    >>> ax = quality_against_calls([4, 6], three, ours="plan")
    >>> [text.get_text() for text in ax.texts]
    ['plan', 'karras']
    """
    x = real_array(calls, "calls", ndim=1)
    triples = {name: np.array([np.asarray(part, dtype=np.float64) for part in parts]) for name, parts in curves.items()}
    for name, values in triples.items():
        if values.shape != (3, x.size):
            raise ValueError(f"`curves[{name!r}]` must hold three values per number of calls ({x.size}), got {values.shape}.")
        if not np.all((values[0] > 0) | np.isnan(values[0])):
            raise ValueError(f"`curves[{name!r}]` must be positive to stand on a logarithmic axis, got {np.nanmin(values[0])}.")
    if named is None:
        # On average over what each has: a grid may lack some numbers of calls.
        others = [name for name in triples if name != ours and np.isfinite(triples[name][0]).any()]
        named = sorted(others, key=lambda name: float(np.nanmean(np.log(triples[name][0]))))[:4]
    for name in (ours, *named):
        if name not in triples:
            raise ValueError(f"`curves` has no curve named {name!r}; it has {', '.join(triples)}.")
    if len(named) > len(NAMED):
        raise ValueError(f"`named` must hold at most {len(NAMED)} names, got {len(named)}; leave the rest grey.")

    ax = _axes(ax, height=3.7)
    means = np.concatenate([values[0] for values in triples.values()])
    lowest, highest = float(np.nanmin(means)), float(np.nanmax(means))
    for name, values in triples.items():
        if name != ours and name not in named:
            ax.plot(x, values[0], color=FAINT, linewidth=1.0, zorder=1)
    for colour, name in [*zip(NAMED, named, strict=False), (OURS, ours)]:
        middle, low, high = triples[name]
        mine = name == ours
        # A band for one, bars for the others: several bands on top of each other tell nothing apart.
        low = np.maximum(low, 1e-3 * lowest)
        if mine:
            ax.fill_between(x, low, high, color=colour, alpha=0.16, linewidth=0, zorder=2)
        else:
            ax.vlines(x, low, high, color=colour, linewidth=1.0, alpha=0.55, zorder=2)
        ax.plot(x, middle, color=colour, linewidth=2.8 if mine else 1.5, zorder=4 if mine else 3, marker="o",
                markersize=4.5 if mine else 2.5)
    ax.set_yscale("log")
    ax.set_ylim(0.75 * lowest, 1.3 * highest)
    _value_ticks(ax, 0.75 * lowest, 1.3 * highest)
    ax.set_xlabel("network calls per sample")
    ax.set_ylabel(ylabel)
    _integer_ticks(ax, x)
    _title(ax, title, grey=len(triples) - 1 - len(named))
    coloured = [(ours, OURS), *zip(named, NAMED, strict=False)]
    _label_ends(ax, [(name, colour, x, triples[name][0]) for name, colour in coloured])
    return ax


def ratio_dots(
    rows: Mapping[str, ArrayLike], *, sure: Mapping[str, ArrayLike] | None = None, xlabel: str = "ratio", title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw ratios as dots, one row for each group, about the line at 1: left of it ours is lower.

    Parameters
    ----------
    rows : mapping of str to array_like, (m,)
        Ratios > 0 of each group, from top to bottom; the median of each stands as a bar.
    sure : mapping of str to array_like of bool, (m,), optional
        Which are certain: those are filled, the others open. None fills all.
    xlabel, title : str
        Of what the ratios are; a line above the figure.
    ax : Axes, optional
        Where to draw; None makes a figure as tall as the groups ask for.

    Raises
    ------
    ValueError
        No group, an empty one, a ratio that is not positive, or `sure` of another length.

    Examples
    --------
    >>> ax = ratio_dots({"a model": [0.5, 0.8], "another": [1.1]}, sure={"a model": [True, False], "another": [False]})
    >>> [label.get_text() for label in ax.get_yticklabels()], ax.get_xscale()
    (['a model', 'another'], 'log')
    """
    groups = {name: real_array(values, f"rows[{name!r}]", ndim=1) for name, values in rows.items()}
    if not groups or any(values.size == 0 or values.min() <= 0 for values in groups.values()):
        raise ValueError(f"`rows` must hold groups of positive ratios, at least one each, got {dict(rows)}.")
    certain = {} if sure is None else sure
    filled = {name: np.asarray(certain.get(name, [sure is None] * values.size)) for name, values in groups.items()}
    for name, values in groups.items():
        if filled[name].shape != values.shape:
            raise ValueError(f"`sure[{name!r}]` must hold {values.size} values, one for each ratio, got {filled[name].shape}.")
    ax = _axes(ax, height=0.9 + 0.34 * len(groups) + 0.3 * bool(title))
    ax.axvline(1.0, color=SUBDUED, linewidth=1.0, zorder=1)
    for place, (name, values) in enumerate(groups.items()):
        # Neighbours in size stand apart from each other, by their rank: the figure is the same again.
        heights = place + 0.12 * (np.argsort(np.argsort(values)) % 3 - 1)
        colours = np.where(filled[name], OURS, "none")
        ax.scatter(values, heights, s=26, facecolors=colours, edgecolors=OURS, linewidths=1.0, zorder=3)
        ax.vlines(np.median(values), place - 0.34, place + 0.34, color=INK, linewidth=1.6, zorder=4)
    low, high = min(0.9, *(0.9 * v.min() for v in groups.values())), max(1.15, *(1.1 * v.max() for v in groups.values()))
    ax.set_xscale("log")
    ax.set_xlim(low, high)
    _value_ticks(ax, low, high, axis="x")
    ax.set_ylim(len(groups) - 0.5, -0.5)
    ax.set_yticks(range(len(groups)), list(groups))
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(xlabel)
    _title(ax, title)
    return ax


def sample_sheet(
    rows: Mapping[str, ArrayLike],
    *,
    ours: str | None = None,
    value_range: tuple[float, float] | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Axes:
    """Draw samples side by side: one row for each grid, the same noise in each column.

    Images of 1 or 3 channels are drawn as such, anything else as a curve of its numbers.

    Parameters
    ----------
    rows : mapping of str to (m, *item_shape) arrays
        As many items of one shape in each row.
    ours : str, optional
        The key whose name is drawn in our colour.
    value_range : (low, high), optional
        What is black and white; None takes the smallest and largest value of the last row.
    title : str
        A line above the figure; empty for none.
    ax : Axes, optional
        Where to draw; None makes a figure as tall as the rows ask for.

    Raises
    ------
    ValueError
        No row, or rows of different shapes.

    Examples
    --------
    >>> ax = sample_sheet({"plan": np.zeros((3, 1, 4, 4)), "converged": np.ones((3, 1, 4, 4))}, ours="plan")
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['plan', 'converged']
    """
    arrays = {name: np.asarray(items, dtype=np.float64) for name, items in rows.items()}
    shapes = {items.shape for items in arrays.values()}
    if len(shapes) != 1 or next(iter(shapes))[0] < 1:
        raise ValueError(f"`rows` must hold rows of one shape with at least one item, got {sorted(shapes)}.")
    count, *shape = next(iter(shapes))
    last = list(arrays.values())[-1]
    low, high = (float(last.min()), float(last.max())) if value_range is None else value_range
    image = (len(shape) == 2 and min(shape) > 4) or (len(shape) == 3 and shape[0] in (1, 3))
    sides = tuple(shape[-2:]) if image else (2, 3)

    width = 7.6
    ax = _axes(ax, height=0.35 + 0.35 * bool(title) + 0.82 * width / count * len(arrays) * sides[0] / sides[1])
    for row, items in enumerate(arrays.values()):
        for column, item in enumerate(items):
            left, top = column * sides[1], row * sides[0]
            ends = (left, left + 0.95 * sides[1], top + 0.95 * sides[0], top)
            scaled = np.clip((item - low) / (high - low if high > low else 1.0), 0.0, 1.0)
            if image:
                shown = scaled.reshape(-1, *sides)
                picture = np.moveaxis(shown, 0, -1) if len(shown) == 3 else np.repeat(shown[0][..., None], 3, axis=-1)
                ax.imshow(picture, extent=ends, interpolation="nearest", aspect="equal")
            else:
                along = np.linspace(ends[0], ends[1], scaled.size)
                ax.plot(along, ends[2] + (ends[3] - ends[2]) * scaled.reshape(-1), color=INK, linewidth=0.7)
    ax.set_xlim(0, count * sides[1])
    ax.set_ylim(len(arrays) * sides[0], 0)
    ax.set_xticks([])
    ax.set_yticks([(row + 0.475) * sides[0] for row in range(len(arrays))], list(arrays))
    for label, name in zip(ax.get_yticklabels(), arrays, strict=True):
        if name == ours:
            label.set_color(OURS)
            label.set_fontweight("bold")
    ax.tick_params(axis="y", length=0)
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    _title(ax, title)
    return ax


def _axes(ax: Axes | None, *, height: float = 4.2) -> Axes:
    """`ax` in the house style; a new one of README width where it is None."""
    if ax is None:
        try:
            from matplotlib.figure import Figure
            from matplotlib.layout_engine import ConstrainedLayoutEngine
        except ImportError as error:
            raise ImportError('Figures need matplotlib; install it with `pip install "eigenstep[plots]"`.') from error
        # Not pyplot: a library must not choose the backend nor leave figures in a global list.
        ax = Figure(figsize=(7.6, height), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.06)).subplots()
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(SUBDUED)
    ax.grid(True, color=LINE, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=FONT, colors=INK, which="both")
    ax.xaxis.label.set(fontsize=FONT + 0.5, color=INK)
    ax.yaxis.label.set(fontsize=FONT + 0.5, color=INK)
    return ax


def _colours(names: Mapping[str, Any], ours: str | None) -> dict[str, str]:
    """One colour for each name, ours for `ours`; at most seven names can be told apart."""
    others = [name for name in names if name != ours]
    integer(len(others), "number of curves besides `ours`", minimum=0, maximum=len(NAMED))
    return {**dict(zip(others, NAMED, strict=False)), **({} if ours is None else {ours: OURS})}


def _title(ax: Axes, title: str, *, grey: int = 0) -> None:
    """The title at the left above the axes; at the right, a note of how many curves stay unnamed."""
    if title:
        ax.set_title(title, loc="left", fontsize=FONT + 2, color=INK, fontweight="bold", pad=10)
    if grey > 0:
        note = f"grey: {grey} other grid{'s' * (grey != 1)}"
        ax.set_title(note, loc="right", fontsize=FONT - 0.5, color=SUBDUED, pad=10)


def _integer_ticks(ax: Axes, steps: Float) -> None:
    """Ticks on the step counts themselves while there is room, on round numbers beyond."""
    from matplotlib.ticker import MaxNLocator

    if steps.size <= 20:
        ax.set_xticks(steps, [f"{step:g}" for step in steps])
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.margins(x=0.02)


def _log_step_ticks(ax: Axes, steps: Float) -> None:
    """A logarithmic axis of steps with ticks at the fewest, and at 5, 10, 20, 50, ... of them."""
    from matplotlib.ticker import NullLocator

    ax.set_xscale("log")
    round_numbers = [m * 10.0**d for d in range(6) for m in (1, 2, 5)]
    ticks = [float(steps.min()), *(tick for tick in round_numbers if 1.3 * steps.min() < tick <= steps.max())]
    ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.margins(x=0.02)


def _value_ticks(ax: Axes, lowest: float, highest: float, *, axis: str = "y") -> None:
    """Plain numbers on a logarithmic axis, the vertical one by default: at more of each decade the shorter it is."""
    from matplotlib.ticker import NullLocator

    decades = range(int(np.floor(np.log10(lowest))), int(np.ceil(np.log10(highest))) + 1)
    short = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0) if highest < 10 * lowest else (1.0, 2.0, 5.0)
    marks = short if highest < 1e3 * lowest else (1.0,)
    ticks = [m * 10.0**d for d in decades for m in marks if lowest <= m * 10.0**d <= highest]
    line = ax.yaxis if axis == "y" else ax.xaxis
    line.set_ticks(ticks, labels=[f"{tick:.6g}" for tick in ticks])
    line.set_minor_locator(NullLocator())


def _decade_ticks(ax: Axes, lowest: float, highest: float, zero: float | None) -> None:
    """Plain numbers at each decade (at 3 of it too on short ranges) and at the highest level; "0" at its own place."""
    from matplotlib.ticker import NullLocator

    decades = np.arange(np.floor(np.log10(lowest)), np.ceil(np.log10(highest)) + 1)
    marks = (1.0, 3.0) if decades.size <= 5 else (1.0,)
    ticks = [m * 10.0**d for d in decades for m in marks if lowest * 0.999 <= m * 10.0**d <= highest * 1.001]
    if not ticks or highest > 2.0 * max(ticks):
        ticks.append(highest)
    labels = [f"{tick:.3g}" for tick in ticks]
    if zero is not None:
        ticks.append(zero)
        labels.append("0")
    ax.set_xticks(ticks, labels)
    ax.xaxis.set_minor_locator(NullLocator())


def _label_ends(ax: Axes, curves: Sequence[tuple[str, str, Float, Float]]) -> None:
    """Write each curve's name at its right end.

    Names of curves that reach the right edge stand in the margin; those that would overlap there are moved apart and
    tied to their curve by a thin line. A curve that ends inside the axes carries its name at that point.
    """
    from matplotlib.patheffects import withStroke

    figure = ax.get_figure(root=True)
    assert figure is not None
    line_height = _fraction_of_height(ax, figure, 1.3 * FONT)
    inside: list[tuple[str, str, tuple[float, float], float]] = []
    margin: list[tuple[str, str, tuple[float, float], float]] = []
    for name, colour, x, y in curves:
        finite = np.flatnonzero(np.isfinite(y))
        if finite.size == 0:
            continue
        pixels = ax.transData.transform(np.column_stack([x[finite], y[finite]]))
        last = int(np.argmax(pixels[:, 0]))
        across, height = ax.transAxes.inverted().transform(pixels[last])
        point = (float(x[finite[last]]), float(y[finite[last]]))
        (inside if across < 0.9 else margin).append((name, colour, point, float(height)))

    def write(name: str, colour: str, point: tuple[float, float], **more: Any) -> None:
        weight = "bold" if colour == OURS else "normal"
        ax.annotate(name, point, ha="left", va="center", size=FONT, color=colour, weight=weight, **more)

    for name, colour, point, _ in inside:
        halo = [withStroke(linewidth=3.0, foreground="white")]
        write(name, colour, point, xytext=(6, 0), textcoords="offset points", path_effects=halo)
    places = _spread([height for *_, height in margin], line_height)
    for place, (name, colour, point, height) in zip(places, margin, strict=True):
        leader = {"arrowstyle": "-", "color": colour, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 2}
        tie = leader if abs(place - height) > line_height / 4 else None
        margins = {"xytext": (1.035, place), "textcoords": ax.transAxes, "annotation_clip": False}
        write(name, colour, point, arrowprops=tie, **margins)


def _label_below(ax: Axes, name: str, colour: str, point: tuple[float, float]) -> None:
    """A name to the lower left of a descending curve's end, where nothing else runs."""
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=3.0, foreground="white")]
    ax.annotate(
        name, point, xytext=(-5, -2), textcoords="offset points", ha="right", va="top", size=FONT, color=colour,
        path_effects=halo,
    )


def _fraction_of_height(ax: Axes, figure: Figure, points: float) -> float:
    """`points` as a fraction of the axes' height, once the layout has settled."""
    figure.draw_without_rendering()
    return points / 72 * figure.dpi / ax.get_window_extent().height


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """The nearest heights (least squares) that keep their order and are at least `gap` apart.

    Pool-adjacent-violators on heights minus rank times gap: a cluster that overlaps is centred on its mean.
    """
    order = np.argsort(heights, kind="stable")
    pools: list[tuple[float, int]] = []
    for rank, index in enumerate(order):
        mean, size = float(heights[index]) - rank * gap, 1
        while pools and pools[-1][0] > mean:
            previous, count = pools.pop()
            mean, size = (previous * count + mean * size) / (count + size), count + size
        pools.append((mean, size))
    levels = [mean for mean, size in pools for _ in range(size)]
    placed = [0.0] * len(order)
    for rank, index in enumerate(order):
        placed[int(index)] = levels[rank] + rank * gap
    return placed
