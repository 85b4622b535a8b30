"""Heat maps of labelled values: one panel for two axes, a row or a grid of panels for more.

Drawn through matplotlib's figure objects alone: pyplot is never imported, and no figure stays open.
matplotlib is imported when a figure is asked for.
"""

import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from probes.errors import DataError

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.cm

COLOURS = "RdBu_r"
"""Diverging about white; blue and red stay apart for readers with any colour vision."""

AXIS_TITLES = {
    "position": "position (tokens)",
    "key": "key position (tokens)",
}
"""Axes whose labels have a unit; the others are titled by their names."""

MAX_NUMBERED = 64
"""Cells; up to so many, each has its value written in it."""

MAX_PANELS = 144
MAX_IN_A_ROW = 4
WIDE = 3
"""A panel of so many times more columns than rows has a row of the figure for itself."""

INCHES_A_CELL = {"few": 0.62, "many": 0.24}
MAX_INCHES = (11.0, 6.5)
MIN_INCHES = (2.2, 0.9)
MIN_FIGURE_WIDTH = 4.6
INCHES_A_CHARACTER = {"small": 0.07, "medium": 0.085}

INK_ON_PALE, INK_ON_DEEP = "#1a1a1a", "#ffffff"
"""Of numbers and marks."""


def draw_heat_map(
    values: Float[Tensor, "*axes"],
    axes: Mapping[str, Sequence[int | str]],
    *,
    label: str,
    title: str,
    marks: Bool[Tensor, "*axes"] | None = None,
) -> Any:
    """A figure of values around 0 over one to four axes, all panels on one colour scale.

    The last two axes are rows and columns of a panel. A third comes before them as a panel for each
    label, a fourth as rows of panels. Axes of one label are left out where others remain.

    Args:
        values: What is drawn.
        axes: Name and labels of each axis of ``values``.
        label: Of the colour bar, with the unit.
        title: Of the figure.
        marks: Cells that get a dot.

    Returns:
        A ``matplotlib.figure.Figure``.

    Raises:
        DataError: More axes, or more panels, than one figure can hold.
    """
    from matplotlib import rc_context

    with rc_context({"text.parse_math": False}):  # names may hold any sign
        return _drawn(values, axes, label, title, marks)


def _drawn(
    values: Tensor,
    axes: Mapping[str, Sequence[int | str]],
    label: str,
    title: str,
    marks: Tensor | None,
) -> Any:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    from probes.drawing import new_figure

    kept = list(axes)
    for name in axes:
        if len(kept) > 2 and len(axes[name]) == 1:
            kept.remove(name)
    labels = [list(axes[name]) for name in kept]
    if len(kept) == 1:
        kept, labels = ["", *kept], [[""], *labels]
    outer, shape = kept[:-2], [len(names) for names in labels]
    n_panels = math.prod(shape[:-2])
    if len(outer) > 2 or n_panels > MAX_PANELS:
        sizes = " × ".join(f"{name} {size}" for name, size in zip(kept, shape, strict=True))
        raise DataError(
            f"a figure holds up to four axes and {MAX_PANELS} panels; got {sizes}. Select a part "
            "of the grid first."
        )
    inner = (shape[-2], shape[-1])
    cells = values.reshape(n_panels, *inner).numpy()
    dots = None if marks is None else marks.reshape(n_panels, *inner).numpy()
    in_a_row = MAX_IN_A_ROW if inner[1] < WIDE * inner[0] else 1
    n_columns = shape[1] if len(outer) == 2 else min(n_panels, in_a_row)
    n_rows = math.ceil(n_panels / n_columns)

    numbered = inner[0] * inner[1] <= MAX_NUMBERED and n_panels == 1
    width, height = _panel_inches(inner, numbered, n_columns, n_rows)
    headed = 0.25 * n_rows if n_panels > 1 else 0
    inches = (max(width * n_columns + 1.9, MIN_FIGURE_WIDTH), height * n_rows + 1.1 + headed)
    figure = new_figure(inches)
    panels = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
    limit = float(abs(cells).max()) or 1.0
    colours = ScalarMappable(Normalize(-limit, limit), COLOURS)
    for index, panel in enumerate(panels.flat):
        if index >= n_panels:
            panel.set_visible(False)
            continue
        panel.imshow(cells[index], cmap=COLOURS, norm=colours.norm, aspect="auto")
        _label(panel, labels[-2:], (width, height))
        panel.tick_params(labelbottom=index + n_columns >= n_panels)
        if outer:
            panel.set_title(_place(outer, labels, index), fontsize="small")
        if numbered:
            _write_numbers(panel, cells[index], colours)
        if dots is not None:
            _mark(panel, cells[index], dots[index], colours, (width, height), numbered)
    figure.supylabel(AXIS_TITLES.get(kept[-2], kept[-2]), fontsize="medium")
    figure.supxlabel(AXIS_TITLES.get(kept[-1], kept[-1]), fontsize="medium")
    bar = figure.colorbar(colours, ax=panels, pad=0.02, aspect=max(8.0, 9 * n_rows))
    bar.set_label(_wrapped(label, height * n_rows, "small"), fontsize="small")
    bar.ax.tick_params(labelsize="small")
    figure.suptitle(_wrapped(title, inches[0], "medium"), x=0.01, ha="left", fontsize="medium")
    return figure


def _panel_inches(
    inner: tuple[int, int], numbered: bool, n_columns: int, n_rows: int
) -> tuple[float, float]:
    """Width and height of a panel: square cells where they fit."""
    cell = INCHES_A_CELL["few" if numbered else "many"]
    width = min(max(inner[1] * cell, MIN_INCHES[0]), max(MAX_INCHES[0] / n_columns, 1.0))
    height = min(max(inner[0] * cell, MIN_INCHES[1]), max(MAX_INCHES[1] / n_rows, 0.8))
    return width, height


def _wrapped(text: str, inches: float, size: str) -> str:
    """Text broken into lines of at most so many inches."""
    width = max(12, int(inches / INCHES_A_CHARACTER[size]))
    return "\n".join(textwrap.fill(line, width) for line in text.splitlines())


def _label(
    panel: "matplotlib.axes.Axes", ticks: Sequence[Sequence[int | str]], inches: tuple[float, float]
) -> None:
    """Labels of rows and columns, as many as there is room for; long ones of columns upright."""
    rows, columns = ticks
    across = max(len(str(label)) for label in columns) * INCHES_A_CHARACTER["small"] + 0.08
    named = any(isinstance(label, str) for label in columns)
    upright = named and across * len(columns) > inches[0]
    needed = (0.18 if upright else across, 0.18)
    for axis, labels, room, each in zip(
        (panel.xaxis, panel.yaxis), (columns, rows), inches, needed, strict=True
    ):
        shown = range(0, len(labels), _step(len(labels), max(1, int(room / each))))
        axis.set_ticks(list(shown), [str(labels[index]) for index in shown])
    panel.tick_params(labelsize="small", length=2)
    if upright:
        panel.tick_params(axis="x", rotation=90)


def _step(n_labels: int, room: int) -> int:
    """The smallest round step that leaves at most ``room`` labels."""
    steps = (first * 10**power for power in range(9) for first in (1, 2, 4, 5, 8))
    return next(step for step in steps if math.ceil(n_labels / step) <= room)


def _place(outer: Sequence[str], labels: Sequence[Sequence[int | str]], index: int) -> str:
    """Names and labels of the panel at ``index``."""
    if len(outer) == 1:
        return f"{outer[0]} {labels[0][index]}"
    row, column = divmod(index, len(labels[1]))
    return f"{outer[0]} {labels[0][row]}, {outer[1]} {labels[1][column]}"


def _ink(value: float, colours: Any) -> str:
    red, green, blue, _ = colours.to_rgba(value)
    return INK_ON_PALE if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else INK_ON_DEEP


def _write_numbers(
    panel: "matplotlib.axes.Axes", cells: np.ndarray, colours: "matplotlib.cm.ScalarMappable"
) -> None:
    digits = 2 if abs(cells).max() >= 0.1 else 3
    for (row, column), value in _each(cells):
        text = f"{value:.{digits}f}" if abs(value) < 1000 else f"{value:.2g}"
        text = text.replace("-", "−") if float(text) else text.removeprefix("-")
        colour = _ink(value, colours)
        panel.text(column, row, text, ha="center", va="center", fontsize="small", color=colour)


def _mark(
    panel: "matplotlib.axes.Axes",
    cells: np.ndarray,
    dots: np.ndarray,
    colours: "matplotlib.cm.ScalarMappable",
    inches: tuple[float, float],
    corner: bool,
) -> None:
    """Dots in the middle of marked cells, or in a corner where numbers stand in the middle."""
    rows, columns = dots.nonzero()
    cell = min(inches[0] / cells.shape[1], inches[1] / cells.shape[0])
    size = 3.5 if corner else min(4.0, max(1.0, 72 * cell * 0.3))
    shift = 0.36 if corner else 0.0
    inks = [_ink(value, colours) for value in cells[rows, columns]]
    panel.scatter(columns + shift, rows - shift, s=size**2, c=inks, linewidths=0)


def _each(cells: np.ndarray) -> Iterator[tuple[tuple[int, int], float]]:
    for row in range(cells.shape[0]):
        for column in range(cells.shape[1]):
            yield (row, column), float(cells[row, column])
