"""One look for all figures: models in colour, estimators in grey, the truth in black.

What is neutral is :data:`INK`, more or less opaque, so that a page can show it in a colour of its
own; see :func:`mtd_lens.views.plots.outputs.svg_text`.
"""

import math
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

Colour = str | tuple[str, float]
"""A name or a code, and how opaque it is."""

INK = "#161616"
"""Of texts, axes and the truth; nothing else is of this colour."""

FAINT = (INK, 0.7)
"""Of notes and of lines to compare with."""

GRID = (INK, 0.12)

MODEL_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's palette, which readers with any colour vision can tell apart."""

MODEL_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

ESTIMATOR_GREYS = tuple((INK, opacity) for opacity in (0.45, 0.5, 0.7, 0.5, 0.6))
ESTIMATOR_DASHES = ((1, 1.5), (6, 2), (6, 1.5, 1.5, 1.5), (2.5, 1.5), ())
ESTIMATOR_MARKERS = ("1", "x", "+", "2", ".", "3", "4")
"""So many that dashes, greys and markers together repeat late."""

TITLE_SIZE = 9
INCHES_A_CHARACTER = 0.066
"""Of a title, or of a legend."""

INCHES_A_HANDLE = 0.65
"""In a legend, with the space around it."""

DRAWN_WITH: dict[Any, Any] = {
    "axes.edgecolor": INK,
    "axes.facecolor": "white",
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "figure.facecolor": "white",
    "text.color": INK,
    "text.parse_math": False,  # names may hold any sign
}


@contextmanager
def applied() -> Iterator[None]:
    """matplotlib's settings while a figure is made."""
    from matplotlib import rc_context

    with rc_context(DRAWN_WITH):
        yield


def new_figure(
    inches: tuple[float, float], n_rows: int = 1, n_columns: int = 1, **subplots: Any
) -> tuple[Any, Any]:
    """A figure, and an array ``[row, column]`` of its axes."""
    from probes import drawing

    figure = drawing.new_figure(inches)
    panels = figure.subplots(n_rows, n_columns, squeeze=False, **subplots)
    for axes in panels.flat:
        axes.tick_params(colors=INK)
    return figure, panels


def plain(axes: "matplotlib.axes.Axes", grid: Literal["x", "y", "both"] = "y") -> None:
    """Axes with nothing above or to the right, and a faint grid."""
    axes.grid(axis=grid, color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def add_title(figure: "matplotlib.figure.Figure", text: str) -> None:
    """A title that begins at the left, its lines broken where the figure ends."""
    width = int(figure.get_figwidth() / INCHES_A_CHARACTER)
    lines = "\n".join(textwrap.fill(line, width) for line in text.splitlines())
    figure.suptitle(lines, x=0.01, ha="left", fontsize=TITLE_SIZE)


def add_legend_below(figure: "matplotlib.figure.Figure", handles: Mapping[str, Any]) -> None:
    """A legend below all panels, in as few rows as fit."""
    length = sum(len(name) * INCHES_A_CHARACTER + INCHES_A_HANDLE for name in handles)
    n_rows = math.ceil(length / figure.get_figwidth())
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center",
        ncols=math.ceil(len(handles) / n_rows), frameon=False, handlelength=3, fontsize="small",
    )  # fmt: skip


def draw_bar(
    axes: "matplotlib.axes.Axes",
    found: Any,
    height: float | int,
    colour: Any,
    limits: tuple[float, float],
    width: float,
) -> tuple[float, str]:
    """An interval as a bar, cut at the ends of what is drawn, with an arrow where it goes on.

    Args:
        axes: Where it is drawn.
        found: What has a ``score`` with limits, ``low`` and ``high``.
        height: Of the bar.
        colour: Of bar and arrows.
        limits: What is drawn.
        width: Of the line.

    Returns:
        Where its score's mark belongs, and which it is: a disc, or an arrow beyond an end.
    """
    low, score, high = (
        min(max(x, limits[0]), limits[1]) for x in (found.low, found.score, found.high)
    )
    axes.plot([low, high], [height] * 2, color=colour, linewidth=width, zorder=2)
    for end, beyond, arrow in zip(
        limits, (found.low < limits[0], found.high > limits[1]), "<>", strict=True
    ):
        if beyond:
            axes.scatter(
                end, height, 16, colour, marker=arrow, linewidths=0, zorder=3, clip_on=False
            )
    outside = "<" if found.score < limits[0] else ">" if found.score > limits[1] else "o"
    return score, outside


def model_style(index: int) -> dict[str, Any]:
    """Of a line and its markers."""
    return {
        "color": MODEL_COLOURS[index % len(MODEL_COLOURS)],
        "marker": MODEL_MARKERS[index % len(MODEL_MARKERS)],
        "linewidth": 2.8,
        "markersize": 6,
        "zorder": 3,
    }


def estimator_style(index: int) -> dict[str, Any]:
    """Of a line and its markers."""
    return {
        "color": ESTIMATOR_GREYS[index % len(ESTIMATOR_GREYS)],
        "linestyle": (0, ESTIMATOR_DASHES[index % len(ESTIMATOR_DASHES)] or None),
        "marker": ESTIMATOR_MARKERS[index % len(ESTIMATOR_MARKERS)],
        "linewidth": 1.2,
        "markersize": 6,
        "zorder": 4,
    }
