"""Scores in rows, each with its range: a learned subspace's beside its controls, and weights'."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mtd_lens.errors import ArgumentError
from mtd_lens.results.alignment import ROWS, AlignmentReport
from mtd_lens.results.forms import NOTHING, figure as number, interval
from mtd_lens.results.weights import WeightReading
from mtd_lens.views.plots import style
from mtd_lens.views.plots.cells import LOWEST_SCORE
from mtd_lens.views.plots.outputs import written

if TYPE_CHECKING:
    import matplotlib.figure

ROW = 0.3
"""Height of a row, in inches."""

INCHES = (7.4, 1.5)
"""Width of a figure, and its height without the rows."""

SCORE, VALUE = "score [95% interval]", "value"
"""Headings of the words beside the rows: bars are intervals, or ranges of null models."""

HIGHEST_SCORE = 1.0
MARGIN = 0.06
"""Beside the lowest and the highest score that are drawn."""


@dataclass(frozen=True)
class Row:
    """A score, its range, and what stands beside it."""

    label: str
    score: float | None
    low: float | None
    high: float | None
    words: str
    own: bool = True


def plot_alignment(
    report: AlignmentReport,
    path: str | os.PathLike[str] | None = None,
    *,
    data: str | os.PathLike[str] | None = None,
) -> "matplotlib.figure.Figure":
    """The score of a learned subspace beside its controls', with 95% bootstrap intervals.

    Args:
        report: What ``align`` returned.
        path: Also write the figure there, as PNG or SVG by its ending.
        data: Also write what is drawn there, as CSV: a row for each score, as they are.

    Returns:
        A ``matplotlib.figure.Figure``. Scores below ``LOWEST_SCORE`` are drawn at it.

    Raises:
        ArgumentError: Something else than a report, a path that ends in neither ``.png`` nor
            ``.svg``, or data that do not end in ``.csv``.
        OutputPathError: A path cannot be written to.
    """
    if not isinstance(report, AlignmentReport):
        raise ArgumentError(
            f"plot_alignment draws what mtd_lens.align returned; got a {type(report).__name__}."
        )
    rows = [
        Row(ROWS[name], s.score, s.low, s.high, f"{number(s.score, 2)} {interval(s, 2)}",
            own=name == "learned")
        for name, s in report.scores.items()
    ]  # fmt: skip
    head, _, rest = report._title().partition("; ")
    notes = f"{rest}; bars: 95% intervals, cut at {LOWEST_SCORE:g}"
    return written(path, data, lambda: _draw(rows, f"{head}\n{notes}", SCORE), report.to_dataframe)


def plot_weights(
    reading: WeightReading,
    path: str | os.PathLike[str] | None = None,
    *,
    data: str | os.PathLike[str] | None = None,
) -> "matplotlib.figure.Figure":
    """The score of every finding in a model's weights, beside the range of random models'.

    Args:
        reading: What ``read_weights`` returned.
        path: Also write the figure there, as PNG or SVG by its ending.
        data: Also write what is drawn there, as CSV: a row for each finding, as they are.

    Returns:
        A ``matplotlib.figure.Figure``. Scores below ``LOWEST_SCORE`` are drawn at it.

    Raises:
        ArgumentError: Something else than a reading, a path that ends in neither ``.png`` nor
            ``.svg``, or data that do not end in ``.csv``.
        OutputPathError: A path cannot be written to.
    """
    if not isinstance(reading, WeightReading):
        raise ArgumentError(
            f"plot_weights draws what mtd_lens.read_weights returned; got a "
            f"{type(reading).__name__}."
        )
    rows = []
    for finding in reading:
        low, high = finding.null_score or (None, None)
        words = NOTHING if finding.value is None else f"{number(finding.value)} {finding.unit}"
        label = "  ".join(filter(None, [finding.name, finding.place]))
        rows.append(Row(label, finding.score, low, high, words))
    head, _, rest = reading._title().partition("; ")
    grey = rest.removeprefix("null: ")
    notes = f"rows: finding, layer.head; grey: {grey}; cut at {LOWEST_SCORE:g}"
    return written(path, data, lambda: _draw(rows, f"{head}\n{notes}", VALUE), reading.to_dataframe)


def _draw(rows: Sequence[Row], title: str, heading: str) -> "matplotlib.figure.Figure":
    """Rows from the top: a mark at each score, its range as a bar, and its words at the right."""
    figure, [[axes]] = style.new_figure((INCHES[0], INCHES[1] + ROW * len(rows)))
    style.plain(axes, "x")
    for at in (0, HIGHEST_SCORE):
        axes.axvline(at, color=(style.INK, 0.5), linewidth=0.8, zorder=1)
    null = heading == VALUE
    for height, row in enumerate(rows):
        colour: Any = style.MODEL_COLOURS[0] if row.own else (style.INK, 0.6)
        if row.low is not None and row.high is not None:
            ends = [_shown(row.low), _shown(row.high)]
            bar = (style.INK, 0.25) if null else colour
            axes.plot(ends, [height] * 2, color=bar, linewidth=6 if null else 1.6, zorder=2)
        if row.score is not None:
            marker = "o" if row.score >= LOWEST_SCORE else "<"
            disc = colour if row.own else style.INK
            axes.plot(_shown(row.score), height, marker, color=disc, markersize=6, zorder=3)
        axes.annotate(
            row.words, (1, height), xycoords=("axes fraction", "data"), xytext=(8, 0),
            textcoords="offset points", va="center", fontsize="small",
        )  # fmt: skip
    axes.annotate(
        heading, (1, -0.9), xycoords=("axes fraction", "data"),
        xytext=(8, 0), textcoords="offset points", va="center", fontsize="small",
    )  # fmt: skip
    axes.set_xlim(LOWEST_SCORE - MARGIN, HIGHEST_SCORE + MARGIN)
    axes.set_xticks([LOWEST_SCORE, LOWEST_SCORE / 2, 0, HIGHEST_SCORE / 2, HIGHEST_SCORE])
    axes.set_ylim(len(rows) - 0.5, -0.6)
    axes.set_yticks(range(len(rows)), [row.label for row in rows], fontsize="small")
    axes.tick_params(labelsize="small")
    axes.set_xlabel(
        "score (1: as the algorithm, 0: no better than the reference)", fontsize="small"
    )
    style.add_title(figure, title)
    return figure


def _shown(score: float) -> float:
    return min(max(score, LOWEST_SCORE), HIGHEST_SCORE + MARGIN)
