"""The before/after picture of `eigenstep demo`, laid out in whole pixels so that every sample stays as sharp as it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from eigenstep._checks import Float
from eigenstep.plots import INK, OURS, SUBDUED

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 200
MAGNIFIED = 3
"""Pixels of the picture per pixel of a sample, along each side."""

MARGIN, LABELS, GAP, CAPTION, HEAD, FOOT = 36, 132, 26, 90, 136, 86
"""In pixels: around all, left of the cells for the numbers of calls, between cells, under each, above and below all."""


@dataclass(frozen=True)
class Cell:
    """Some samples of one grid, and the words under them: what is measured, and what follows from it."""

    images: Float
    number: str
    remark: str = ""


def figure_class() -> type[Figure]:
    """matplotlib's Figure, or the pip command that brings it: to be called before the work that ends in a picture."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('Figures need matplotlib; install it with `pip install "eigenstep[plots]"`.') from error
    return Figure


def before_and_after(
    title: str,
    columns: Sequence[tuple[str, str]],
    rows: Sequence[tuple[str, Sequence[Cell]]],
    foot: str,
    *,
    ours: int,
    tiles: tuple[int, int],
) -> Figure:
    """One row of cells for each number of calls, one column for each grid, the numbers under the pictures.

    Parameters
    ----------
    title, foot : str
        A line above, a line below.
    columns : sequence of (name, explanation)
        From left to right.
    rows : sequence of (label, cells)
        From top to bottom, each with one cell per column.
    ours : int
        Index of the column in our colour.
    tiles : (int, int)
        Rows and columns of samples in a cell; a cell's images, (tiles, height, width) in [-1, 1], are cut to [-1, 1].

    Returns
    -------
    Figure
        Save it at its own resolution: `savefig(path)`.
    """
    high, wide = rows[0][1][0].images.shape[1:]
    cell_height, cell_width = MAGNIFIED * tiles[0] * high, MAGNIFIED * tiles[1] * wide
    width = 2 * MARGIN + LABELS + len(columns) * cell_width + (len(columns) - 1) * GAP
    height = MARGIN + HEAD + len(rows) * (cell_height + CAPTION) + FOOT
    figure = figure_class()(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")

    def write(x: float, y: float, words: str, size: float, colour: str, **how: Any) -> None:
        """Words at x, y pixels from the upper left corner, their baseline at y."""
        figure.text(x / width, 1 - y / height, words, fontsize=size, color=colour, va="baseline", **how)

    write(MARGIN, MARGIN + 30, title, 10.5, INK, fontweight="bold")
    for k, (name, explanation) in enumerate(columns):
        left = MARGIN + LABELS + k * (cell_width + GAP)
        colour = OURS if k == ours else INK
        write(left, MARGIN + 92, name, 8.0, colour, fontweight="bold")
        write(left, MARGIN + 120, explanation, 6.0, colour if k == ours else SUBDUED)
    for r, (label, cells) in enumerate(rows):
        top = MARGIN + HEAD + r * (cell_height + CAPTION)
        number, _, unit = label.partition(" ")
        write(MARGIN, top + cell_height / 2 + 4, number, 19.0, INK, fontweight="bold")
        write(MARGIN, top + cell_height / 2 + 34, unit, 8.0, SUBDUED)
        for k, cell in enumerate(cells):
            left = MARGIN + LABELS + k * (cell_width + GAP)
            box = (left / width, 1 - (top + cell_height) / height, cell_width / width, cell_height / height)
            axes = figure.add_axes(box)
            axes.imshow(_tiled(cell.images, tiles), cmap="gray", vmin=-1, vmax=1, interpolation="nearest", aspect="auto")
            axes.set_axis_off()
            write(left, top + cell_height + 28, cell.number, 7.5, OURS if k == ours else INK, fontweight="bold")
            write(left, top + cell_height + 55, cell.remark, 6.0, OURS if k == ours else SUBDUED)
    write(MARGIN, height - 38, foot, 6.0, SUBDUED)
    return figure


def _tiled(images: Float, tiles: tuple[int, int]) -> Float:
    """The images side by side, row by row, as one."""
    down, across = tiles
    high, wide = images.shape[1:]
    sheet = np.clip(images[: down * across], -1, 1).reshape(down, across, high, wide)
    return np.asarray(sheet.swapaxes(1, 2).reshape(down * high, across * wide))
