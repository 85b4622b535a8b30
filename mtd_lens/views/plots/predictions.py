"""The predicted distribution after one position."""

import os
from typing import TYPE_CHECKING, Any

from mtd_lens.errors import ArgumentError
from mtd_lens.results.inspection import Inspection, likeliest
from mtd_lens.views.plots import style
from mtd_lens.views.plots.inspected import (
    checked_analysis,
    checked_sequence,
    headline,
    looks,
    ordered,
)
from mtd_lens.views.plots.outputs import written
from probes import checks

if TYPE_CHECKING:
    import matplotlib.figure

GROUP = 0.72
"""Width of an outcome's group, as a share of the space that it has."""

MARGIN = 0.08
"""Above the largest value, and below the least if that is negative."""

OUTCOME_INCHES = 0.62
INCHES_A_CHARACTER = 0.085
MAX_CHARACTERS = 12
"""Of an outcome's name, for which there is room; longer ones may overlap."""

LAST_TOKENS = 6
"""Of the context, in the title."""


def plot_predictions(
    inspection: Inspection,
    sequence: int = 0,
    position: int = -1,
    path: str | os.PathLike[str] | None = None,
    *,
    data: str | os.PathLike[str] | None = None,
) -> "matplotlib.figure.Figure":
    """The distribution of what follows one position, by every source.

    Args:
        inspection: What ``inspect`` returned.
        sequence: Which of its sequences, counted from 0.
        position: After which position, counted from 0, or from the end if negative.
        path: Also write the figure there, as PNG or SVG by its ending.
        data: Also write what is drawn there, as CSV: a row for each outcome and source.

    Returns:
        A ``matplotlib.figure.Figure``. Of more than 24 outcomes, the likeliest are drawn.

    Raises:
        ArgumentError: Something else than an inspection, one without an analysis, no such sequence
            or position, one after which nothing is predicted, a path that ends in neither ``.png``
            nor ``.svg``, or data that do not end in ``.csv``.
        OutputPathError: A path cannot be written to.
    """
    analysis = checked_analysis(inspection)
    sequence = checked_sequence(inspection, sequence)
    length = inspection.tokens.shape[1]
    position = checks.integer(position, "position", -length, ArgumentError, length - 1) % length
    predicted = {
        source: values[sequence, position]
        for source, values in ordered(inspection, analysis.predictions).items()
        if values[sequence, position].isfinite().all()
    }
    if not predicted:
        raise ArgumentError(
            f"no source predicts what follows position {position} of sequence {sequence}. Choose a "
            "later position, such as -1."
        )
    outcomes = likeliest(predicted)
    names = [inspection.token_names[outcome] for outcome in outcomes]
    shown = {source: values[outcomes].tolist() for source, values in predicted.items()}
    vectors = inspection.tokens.is_floating_point()
    if vectors:
        after = f"after {position + 1} vectors"
    else:
        context = inspection.tokens[sequence, : position + 1][-LAST_TOKENS:].tolist()
        words = " ".join(inspection.token_names[token] for token in context)
        after = f"after tokens {'… ' * (position >= LAST_TOKENS)}{words}"
    unit = "value" if vectors else "probability"
    table = [
        inspection.provenance
        | {"sequence": sequence, "position": position, "outcome": name}
        | {"source": source, unit: value}
        for source, values in shown.items()
        for name, value in zip(names, values, strict=True)
    ]
    what = f"prediction after position {position} of sequence {sequence}"

    def draw() -> "matplotlib.figure.Figure":
        figure = _draw(names, shown, looks(inspection, shown), unit)
        figure.axes[0].set_xlabel("next vector" if vectors else "next token")
        style.add_title(figure, headline(inspection, what, after))
        return figure

    return written(path, data, draw, lambda: table)


def _draw(
    names: list[str], shown: dict[str, list[float]], sources: dict[str, dict[str, Any]], unit: str
) -> "matplotlib.figure.Figure":
    longest = min(max(map(len, names)), MAX_CHARACTERS)
    width = max(OUTCOME_INCHES, INCHES_A_CHARACTER * longest + 0.1)
    figure, [[axes]] = style.new_figure((max(6.0, width * len(names) + 1.4), 3.4))
    handles: dict[str, Any] = {}
    step = GROUP / len(shown)
    for index, (source, look) in enumerate(sources.items()):
        shift = (index - (len(shown) - 1) / 2) * step
        places = [place + shift for place in range(len(names))]
        axes.vlines(places, 0, shown[source], color=look["color"], linewidth=1.3)
        [handles[source]] = axes.plot(
            places, shown[source], color=look["color"], marker=look["marker"], linestyle="none",
            markersize=6.5, clip_on=False,
        )  # fmt: skip
    axes.set_xlim(-0.6, len(names) - 0.4)
    values = [value for row in shown.values() for value in row]
    low, high = min(0.0, *values), max(0.0, *values)
    margin = MARGIN * (high - low)
    axes.set_ylim(low - margin if low < 0 else 0.0, high + margin)
    if low < 0:
        axes.axhline(0, color=style.FAINT, linewidth=0.8)
    axes.set_xticks(range(len(names)), names)
    axes.tick_params(axis="x", length=0)
    axes.set_ylabel(unit)
    style.plain(axes)
    style.add_legend_below(figure, handles)
    return figure
