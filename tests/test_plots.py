"""Figures: what is drawn is what was given, names stand clear of each other, bad input is refused."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest

from eigenstep import plots
from eigenstep.spectrum import Spectrum

STEPS = np.arange(3, 9)
ERRORS = {
    "ours": 1.0 / STEPS**2,
    "near": 1.01 / STEPS**2,
    "nearer": 1.005 / STEPS**2,
    "far": 5.0 / STEPS,
    "farther": 9.0 / STEPS,
    "farthest": 30.0 / STEPS,
}


def text_boxes(ax):
    """Pixel boxes of all texts but empty ones, once the layout is final."""
    figure = ax.figure
    figure.draw_without_rendering()
    renderer = figure.canvas.get_renderer()
    # An annotation's own extent would take in the line that ties it to its curve; the text's is asked for.
    from matplotlib.text import Text

    return {text.get_text(): Text.get_window_extent(text, renderer) for text in ax.texts if text.get_text()}


def curve(ax, color):
    return next(line for line in ax.lines if line.get_color() == color)


def with_canvas(ax):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(ax.figure)
    return ax


def test_error_curves_hold_the_numbers_given():
    ax = plots.error_against_steps(STEPS, ERRORS, ours="ours", named=["far"])
    np.testing.assert_array_equal(curve(ax, plots.OURS).get_ydata(), ERRORS["ours"])
    np.testing.assert_array_equal(curve(ax, plots.NAMED[0]).get_ydata(), ERRORS["far"])
    grey = [line for line in ax.lines if line.get_color() == plots.FAINT]
    assert len(grey) == 4
    assert ax.get_yscale() == "log"
    assert ax.get_title(loc="right") == "grey: 4 other grids"


def test_error_curves_name_the_four_lowest_by_default():
    ax = plots.error_against_steps(STEPS, ERRORS, ours="ours")
    names = {text.get_text() for text in ax.texts}
    assert {"ours", "near", "nearer", "far", "farther"} <= names
    assert "farthest" not in names


def test_names_of_close_curves_do_not_overlap():
    ax = with_canvas(plots.error_against_steps(STEPS, ERRORS, ours="ours"))
    boxes = list(text_boxes(ax).values())
    overlaps = [(a, b) for i, a in enumerate(boxes) for b in boxes[i + 1 :] if a.overlaps(b)]
    assert not overlaps


def test_everything_stays_inside_the_figure():
    errors = {**ERRORS, "a name far longer than the default margin": ERRORS["near"]}
    ax = with_canvas(plots.error_against_steps(STEPS, errors, ours="ours", title="A title", ylabel="an error"))
    boxes = text_boxes(ax)
    width, height = ax.figure.canvas.get_width_height()
    for name, box in boxes.items():
        assert box.x0 >= 0, name
        assert box.y0 >= 0, name
        assert box.x1 <= width, name
        assert box.y1 <= height, name


def test_a_missing_error_leaves_a_gap():
    errors = {"ours": [1.0, 0.5, 0.25], "table": [2.0, 1.0, np.nan]}
    ax = plots.error_against_steps([3, 4, 5], errors, ours="ours", named=["table"])
    label = next(text for text in ax.texts if text.get_text() == "table")
    assert label.xy == (4.0, 1.0)  # the last step at which the table has an entry


def test_a_curve_without_an_end_is_not_named_by_default():
    errors = {"ours": [1.0, 0.5], "table": [0.1, np.nan], "hand": [2.0, 1.0]}
    ax = plots.error_against_steps([3, 4], errors, ours="ours")
    assert {text.get_text() for text in ax.texts} == {"ours", "hand"}
    assert ax.get_title(loc="right") == "grey: 1 other grid"


def test_many_step_counts_get_fewer_ticks():
    steps = np.arange(1, 51)
    ax = plots.error_against_steps(steps, {"ours": 1.0 / steps}, ours="ours")
    ticks = ax.get_xticks()
    assert ticks.size < 20
    assert np.all(ticks == np.round(ticks))


def test_on_logarithmic_steps_a_prediction_is_dotted_in_its_curves_colour_and_does_not_move_the_axes():
    steps = np.array([3, 10, 100, 200])
    errors = {"ours": 1.0 / steps**2, "near": 2.0 / steps**2, "far": 9.0 / steps**2}
    plain = plots.error_against_steps(steps, errors, ours="ours", named=["near"], log_steps=True)
    ax = plots.error_against_steps(
        steps, errors, ours="ours", named=["near"], predicted={"near": 1e4 / steps**2}, log_steps=True
    )
    dotted = [line for line in ax.lines if line.get_linestyle() != "-"]
    assert [line.get_color() for line in dotted] == [plots.NAMED[0]]
    np.testing.assert_array_equal(dotted[0].get_ydata(), 1e4 / steps**2)
    assert ax.get_ylim() == plain.get_ylim()
    assert ax.get_xscale() == "log"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["3", "5", "10", "20", "50", "100", "200"]


def test_a_short_range_on_logarithmic_steps_has_plain_numbers_up_the_side():
    ax = plots.error_against_steps([3, 100], {"ours": [1.0, 1.0], "far": [1.2, 2.9]}, ours="ours", log_steps=True)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["1", "1.5", "2", "3"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predicted": {"farthest": STEPS}, "named": ["near"]}, r"`predicted` may speak of .* ours, near; got 'farthest'"),
        ({"predicted": {"ours": [1.0]}}, r"`predicted\['ours'\]` must have one value per step count"),
        ({"ours": "mine"}, r"`errors` has no curve named 'mine'; it has ours, near"),
        ({"named": ["else"]}, r"`errors` has no curve named 'else'"),
        ({"steps": [1, 2]}, r"`errors\['ours'\]` must have one value per step count, got \(6,\) for 2"),
        ({"errors": {"ours": np.zeros(6)}}, r"`errors\['ours'\]` must be positive to stand on a logarithmic axis"),
        ({"named": [*"abcdefg"], "errors": dict.fromkeys(["ours", *"abcdefg"], STEPS)}, "`named` must hold at most 6"),
    ],
)
def test_error_curves_refuse(change, message):
    arguments = {"steps": STEPS, "errors": ERRORS, "ours": "ours", **change}
    with pytest.raises(ValueError, match=message):
        plots.error_against_steps(arguments.pop("steps"), arguments.pop("errors"), **arguments)


def test_grids_run_from_noise_to_data_and_show_zero():
    ax = plots.grids_on_line({"a": [80.0, 4.0, 0.5, 0.0], "b": [80.0, 2.0, 0.25]}, ours="a")
    left, right = ax.get_xlim()
    assert left > right
    assert ax.get_xticklabels()[-1].get_text() == "0"
    hollow = [line for line in ax.lines if line.get_markerfacecolor() == "white"]
    assert len(hollow) == 1  # only the grid that ends at 0
    assert 0 < hollow[0].get_xdata()[0] < 0.25
    dots = next(line for line in ax.lines if line.get_marker() == "o" and line.get_color() == plots.OURS)
    np.testing.assert_array_equal(dots.get_xdata(), [80.0, 4.0, 0.5])


def test_grids_ticks_name_the_highest_level():
    ax = plots.grids_on_line({"a": [80.0, 4.0, 0.5]})
    assert "80" in [label.get_text() for label in ax.get_xticklabels()]
    assert "0" not in [label.get_text() for label in ax.get_xticklabels()]


def test_one_level_above_zero():
    ax = plots.grids_on_line({"one step": [80.0, 0.0]})
    assert [label.get_text() for label in ax.get_xticklabels()] == ["80", "0"]


@pytest.mark.parametrize(
    ("grids", "ours", "message"),
    [
        ({}, None, "`grids` must hold at least one grid, got none"),
        ({"a": [1.0, 2.0]}, None, r"`grids\['a'\]` must be strictly descending"),
        ({"a": [2.0, 1.0]}, "b", "`grids` has no grid named 'b'; it has a"),
    ],
)
def test_grids_refuse(grids, ours, message):
    with pytest.raises(ValueError, match=message):
        plots.grids_on_line(grids, ours=ours)


def test_retained_variance_leaves_zero_eigenvalues_out():
    ax = plots.retained_variance([4.0, 1.0, 0.0], {"ours": [0.9, 0.8, 1.0], "hand": [0.5, 0.4, 1.0]}, ours="ours")
    line = curve(ax, plots.OURS)
    np.testing.assert_array_equal(line.get_xdata(), [4.0, 1.0])
    np.testing.assert_array_equal(line.get_ydata(), [0.9, 0.8])
    assert ax.get_xlim() == (4.0, 1.0)


@pytest.mark.parametrize(
    ("eigenvalues", "ratios", "ours", "message"),
    [
        ([1.0, 0.5], {"a": [1.0]}, None, r"`ratios\['a'\]` must have 2 values, one per eigenvalue, got 1"),
        ([0.0], {"a": [1.0]}, None, "`eigenvalues` must hold at least one positive value"),
        ([1.0], {"a": [1.0]}, "b", "`ratios` has no curve named 'b'"),
        ([1.0], {k: [1.0] for k in "abcdefg"}, None, "must be at least 0 and at most 6, got 7"),
    ],
)
def test_retained_variance_refuses(eigenvalues, ratios, ours, message):
    with pytest.raises(ValueError, match=message):
        plots.retained_variance(eigenvalues, ratios, ours=ours)


def test_an_eigenvalue_covers_as_many_ranks_as_its_multiplicity():
    spectrum = Spectrum.from_eigenvalues([4.0, 1.0, 0.0], multiplicities=[1.0, 3.0, 2.0])
    ax = plots.eigenvalue_curve({"s": spectrum}, ours="s")
    line = curve(ax, plots.OURS)
    np.testing.assert_array_equal(line.get_xdata(), [1.0, 1.0, 2.0, 4.0])
    np.testing.assert_array_equal(line.get_ydata(), [4.0, 4.0, 1.0, 1.0])
    assert ax.texts[0].get_text() == "s (2 of 6 are 0)"


@pytest.mark.parametrize(
    ("names", "ours", "message"),
    [
        ("", None, "`spectra` must hold at least one spectrum, got none"),
        ("a", "b", "`spectra` has no spectrum named 'b'; it has a"),
        ("abcdefg", None, "must be at least 0 and at most 6, got 7"),
    ],
)
def test_eigenvalue_curve_refuses(names, ours, message):
    with pytest.raises(ValueError, match=message):
        plots.eigenvalue_curve({name: Spectrum.from_eigenvalues([1.0]) for name in names}, ours=ours)


def test_a_curve_that_ends_inside_is_named_at_its_end():
    long, short = (Spectrum.from_eigenvalues(np.geomspace(1.0, 1e-3, k)) for k in (1000, 30))
    ax = with_canvas(plots.eigenvalue_curve({"long": long, "short": short}))
    boxes = text_boxes(ax)
    axes = ax.get_window_extent()
    assert boxes["short"].x1 < axes.x1
    assert boxes["long"].x0 > axes.x1


def test_draws_into_axes_that_are_given():
    from matplotlib.figure import Figure

    given = Figure().subplots()
    assert plots.grids_on_line({"a": [2.0, 1.0]}, ax=given) is given
    assert len(given.lines) > 0


def test_spread_by_hand():
    assert plots._spread([0.0, 10.0], 1.0) == [0.0, 10.0]
    assert plots._spread([5.0, 5.0], 1.0) == [4.5, 5.5]
    assert plots._spread([2.0, 1.0, 1.0], 1.0) == pytest.approx([7 / 3, 1 / 3, 4 / 3])


def test_without_matplotlib_the_error_names_the_extra():
    script = (
        "import sys; sys.modules['matplotlib'] = None\n"
        "from eigenstep import plots\n"
        "try:\n"
        "    plots.grids_on_line({'a': [2.0, 1.0]})\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == 'Figures need matplotlib; install it with `pip install "eigenstep[plots]"`.'


def test_intervals_are_bars_behind_the_dots():
    grid = np.array([80.0, 4.0, 0.5, 0.0])
    ax = plots.grids_on_line({"a": grid}, intervals={"a": (grid * [1, 0.9, 0.8, 1], grid * [1, 1.1, 1.25, 1])}, ours="a")
    bars = ax.collections[0].get_segments()
    ends = [(float(bar[0][0]), float(bar[1][0])) for bar in bars]
    np.testing.assert_allclose(ends, [(3.6, 4.4), (0.4, 0.625)], rtol=1e-12)  # the ends that do not move have none


@pytest.mark.parametrize(
    ("intervals", "message"),
    [
        ({"b": ([1.0], [2.0])}, "`grids` has no grid named 'b'; it has a"),
        ({"a": ([1.0], [2.0])}, r"`intervals\['a'\]` must have 3 values at either end"),
    ],
)
def test_intervals_refuse(intervals, message):
    with pytest.raises(ValueError, match=message):
        plots.grids_on_line({"a": [2.0, 1.0, 0.0]}, intervals=intervals)


RANKS = np.arange(1.0, 101.0)


def test_eigenvalue_interval_dots_what_is_not_resolved():
    values = RANKS**-2.0
    ax = plots.eigenvalue_interval(RANKS, values, 0.5 * values, 2 * values, resolution=0.0999)
    solid, dotted = (line for line in ax.lines if line.get_color() == plots.OURS)
    assert solid.get_ydata().min() == pytest.approx(0.01)  # the last above resolution squared, at rank 10
    assert dotted.get_xdata()[0] == 10  # it begins where the line ends
    assert ax.texts[0].get_text() == "below this the samples tell the sum only"
    resolved = plots.eigenvalue_interval(RANKS, values, 0.5 * values, 2 * values)
    assert [text.get_text() for text in resolved.texts] == ["population"]


def test_eigenvalue_interval_names_stay_inside_and_apart():
    values = np.where(RANKS < 90, RANKS**-2.0, 1e-12)  # it leaves the axes at the bottom
    sample = Spectrum.from_eigenvalues(np.append(1.2 * RANKS[:40] ** -2.0, np.zeros(60)))
    ax = with_canvas(
        plots.eigenvalue_interval(RANKS, values, 0.5 * values, 2 * values, sample=sample, resolution=0.05)
    )
    boxes = text_boxes(ax)
    width, height = ax.figure.canvas.get_width_height()
    for name, box in boxes.items():
        assert 0 <= box.x0 <= box.x1 <= width, name
        assert ax.get_window_extent().y0 <= box.y0 <= box.y1 <= height, name
    assert not boxes["sample"].overlaps(boxes["population"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lower": [1.0]}, r"`estimate`, `lower` and `upper` must have one value per rank \(2\)"),
        ({"estimate": [0.0, 0.0]}, "`estimate` must have a positive value to be drawn"),
    ],
)
def test_eigenvalue_interval_refuses(change, message):
    given = {"estimate": [2.0, 1.0], "lower": [1.0, 0.5], "upper": [3.0, 2.0], **change}
    with pytest.raises(ValueError, match=message):
        plots.eigenvalue_interval([1, 2], **given)


def test_the_gauge_runs_from_noise_to_data_and_marks_the_start():
    ax = plots.gauge_curve([0.1, 100.0, 1.0], [0.25, 170.0, 0.9], standard_error=[0.01, 5.0, 0.02], start_level=1.5)
    curve = ax.lines[-1]
    np.testing.assert_array_equal(curve.get_xdata(), [0.1, 1.0, 100.0])
    np.testing.assert_array_equal(curve.get_ydata(), [0.25, 0.9, 170.0])
    assert ax.get_xlim() == (100.0, 0.1)
    assert any("below σ = 1.5" in text.get_text() for text in ax.texts)
    assert not any("below" in text.get_text() for text in plots.gauge_curve([1.0, 2.0], [1.0, 2.0], start_level=9.0).texts)


@pytest.mark.parametrize(
    ("sigmas", "ratio", "message"),
    [
        ([1.0, 2.0], [1.0], "must have one length, got 2, 1 and 1"),
        ([1.0, 0.0], [1.0, 1.0], "must be positive"),
        ([1.0, 2.0], [1.0, 0.0], "must be positive"),
    ],
)
def test_the_gauge_refuses(sigmas, ratio, message):
    with pytest.raises(ValueError, match=message):
        plots.gauge_curve(sigmas, ratio)


def test_step_errors_stand_side_by_side_without_overlap():
    ax = plots.step_errors({"planned": [0.2, 0.2, 0.1], "karras": [0.5, 0.1]}, ours="planned")
    spans = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in ax.patches)
    assert len(spans) == 5
    assert all(left[1] <= right[0] + 1e-12 for left, right in itertools.pairwise(spans))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["planned", "karras"]


@pytest.mark.parametrize(
    ("errors", "ours", "message"),
    [
        ({}, None, "at least one grid"),
        ({"a": [1.0]}, "b", "no grid named 'b'"),
        ({"a": [-1.0]}, None, "must not be negative, got -1"),
    ],
)
def test_step_errors_refuse(errors, ours, message):
    with pytest.raises(ValueError, match=message):
        plots.step_errors(errors, ours=ours)


def test_ratios_stand_as_dots_about_one_and_uncertain_ones_are_open():
    ax = plots.ratio_dots({"one": [0.5, 0.7, 1.2], "two": [0.9]}, sure={"one": [True, False, True], "two": [False]}, title="t")
    first, second = (each for each in ax.collections if len(each.get_offsets()) in (1, 3) and hasattr(each, "get_sizes"))
    np.testing.assert_allclose(np.ma.getdata(first.get_offsets())[:, 0], [0.5, 0.7, 1.2])
    assert [row[3] > 0 for row in first.get_facecolors()] == [True, False, True]
    assert second.get_facecolors()[0][3] == 0
    bars = [each for each in ax.collections if hasattr(each, "get_segments") and len(each.get_segments())]
    assert [float(bar.get_segments()[0][0][0]) for bar in bars] == pytest.approx([0.7, 0.9])
    left, right = ax.get_xlim()
    assert left < 0.5
    assert right > 1.2
    assert [label.get_text() for label in ax.get_yticklabels()] == ["one", "two"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first on top


def test_ratios_that_cannot_be_drawn_are_refused():
    for rows in ({}, {"one": []}, {"one": [0.0]}):
        with pytest.raises(ValueError, match="`rows"):
            plots.ratio_dots(rows)
    with pytest.raises(ValueError, match=r"`sure\['one'\]` must hold 2 values, one for each ratio, got \(1,\)"):
        plots.ratio_dots({"one": [1.0, 2.0]}, sure={"one": [True]})
