"""A scorecard at a glance: the score of every claim at every layer, and the verdicts."""

import os
from typing import TYPE_CHECKING, Any

from mtd_lens import verdicts
from mtd_lens.errors import ArgumentError
from mtd_lens.results.forms import figure as number, interval, parameters
from mtd_lens.results.scorecard import ClaimResult, Scorecard
from mtd_lens.views.plots import style
from mtd_lens.views.plots.cells import (
    LOWEST_SCORE,
    Cell,
    Cells,
    add_colour_bar,
    clipped,
    draw_cells,
    score_scale,
)
from mtd_lens.views.plots.outputs import written

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

CELL = (0.62, 0.34)
"""Width and height of a cell, in inches."""

MARGINS = (5.6, 1.9)
"""Around all cells, in inches: for labels, verdicts and the colour bar, and for the titles."""

GAP = 1
"""Between the rows of two variables, in rows: there the variable is named."""

OUTPUT = "output"
"""Column of claims about the model's output."""

VERDICT_COLOURS = {
    verdicts.SUPPORTED: style.MODEL_COLOURS[2],
    verdicts.PARTIAL: (style.MODEL_COLOURS[2], 0.45),
    verdicts.REFUTED: style.MODEL_COLOURS[1],
}
"""Of the disc beside a verdict; that of others is grey."""


def plot_scorecard(
    card: Scorecard,
    path: str | os.PathLike[str] | None = None,
    *,
    data: str | os.PathLike[str] | None = None,
) -> "matplotlib.figure.Figure":
    """Score of every claim at every layer, with the verdicts; claims of one variable together.

    The outlined layer is the one that was chosen for the claim, on other sequences; the score
    beside the verdict is that layer's, with its 95% bootstrap interval.

    Args:
        card: What ``score`` returned.
        path: Also write the figure there, as PNG or SVG by its ending.
        data: Also write what is drawn there, as CSV: a row for each cell, with the scores as they
            are.

    Returns:
        A ``matplotlib.figure.Figure``. Scores below ``LOWEST_SCORE`` have its colour and say only
        that they are below.

    Raises:
        ArgumentError: Something else than a scorecard, a path that ends in neither ``.png`` nor
            ``.svg``, or data that do not end in ``.csv``.
        OutputPathError: A path cannot be written to.
    """
    if not isinstance(card, Scorecard):
        raise ArgumentError(
            f"plot_scorecard draws what mtd_lens.score returned; got a {type(card).__name__}."
        )
    table = _table(card)
    return written(path, data, lambda: _draw(card, table), lambda: table)


def _table(card: Scorecard) -> list[dict[str, Any]]:
    """A row for each score: of a claim at a layer, or at the output."""
    rows = []
    for claim in card:
        entries = [entry for entry in card.matrix if entry.claim == claim.id]
        tried = {entry.layer for entry in entries}
        scored: list[tuple[int | None, Any, bool]]
        scored = [(entry.layer, entry, entry.layer == claim.layer) for entry in entries]
        if claim.score is not None and claim.layer not in tried:
            scored.append((claim.layer, claim, True))
        for layer, entry, chosen in scored:
            rows.append(
                card.provenance
                | {"claim": claim.id, "layer": OUTPUT if layer is None else layer}
                | {"score": entry.score, "low": entry.low, "high": entry.high}
                | {"chosen": chosen, "verdict": claim.verdict if chosen else None}
            )
    return rows


def _draw(card: Scorecard, table: list[dict[str, Any]]) -> "matplotlib.figure.Figure":
    heights = _heights(card)
    layers = [row["layer"] for row in table if row["layer"] != OUTPUT]
    columns = [f"layer {layer}" for layer in range(max(layers, default=-1) + 1)] + [OUTPUT]
    cells: Cells = {}
    for row in table:
        column = OUTPUT if row["layer"] == OUTPUT else f"layer {row['layer']}"
        outline = "solid" if row["chosen"] and column != OUTPUT else ""
        cells[column, heights[row["claim"]]] = Cell(
            row["score"], clipped(row["score"]), outline=outline
        )
    bottom = max(heights.values(), default=0)
    inches = (len(columns) * CELL[0] + MARGINS[0], (bottom + 1) * CELL[1] + MARGINS[1])
    figure, [[axes]] = style.new_figure(inches)
    names = {height: claim.partition(".")[2].replace("_", " ") for claim, height in heights.items()}
    scale = score_scale()
    draw_cells(axes, cells, columns, names, scale)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.set_ylim(bottom + 0.5, -GAP - 0.5)
    axes.xaxis.tick_top()
    axes.tick_params(axis="both", labelsize="small")
    for claim in card:
        _judge(axes, claim, heights[claim.id], len(columns) - 0.3)
    axes.text(
        len(columns), -GAP - 0.62, "verdict, score [95% interval]", va="bottom", fontsize="small"
    )
    _name_variables(axes, heights)
    add_colour_bar(
        figure, scale, axes, "score (1: as the algorithm,\n0: no better than the reference)",
        shrink=0.8, aspect=25, pad=0.02,
    )  # fmt: skip
    notes = [
        f"{card.n_sequences} sequences, seed {card.seed}",
        parameters(card.parameters),
        f"outlined: layer chosen for the claim; cells are clipped at {LOWEST_SCORE:g}",
    ]
    style.add_title(
        figure,
        f"Claims about {card.short_name} on {card.task_name}\n" + "; ".join(filter(None, notes)),
    )
    return figure


def _heights(card: Scorecard) -> dict[str, int]:
    """Row of each claim, those of a variable together; a gap stands between variables."""
    claims: dict[str, list[str]] = {}
    for claim in card:
        claims.setdefault(claim.id.partition(".")[0], []).append(claim.id)
    heights: dict[str, int] = {}
    for ids in claims.values():
        top = max(heights.values(), default=-1 - GAP) + 1 + GAP
        heights |= {name: top + index for index, name in enumerate(ids)}
    return heights


def _judge(axes: "matplotlib.axes.Axes", claim: ClaimResult, height: int, left: float) -> None:
    """The verdict on a claim, beside its row."""
    words = claim.verdict.replace("_", " ")
    if claim.score is not None:
        words += f", {number(claim.score, 2)} {interval(claim, 2)}"
    colour = VERDICT_COLOURS.get(claim.verdict, (style.INK, 0.3))
    disc: dict[str, Any] = {"marker": "o", "markersize": 6, "markeredgewidth": 0, "clip_on": False}
    axes.plot(left + 0.1, height, color=colour, **disc)
    axes.text(left + 0.3, height, words, va="center", fontsize="small")


def _name_variables(axes: "matplotlib.axes.Axes", heights: dict[str, int]) -> None:
    """Names of variables above their claims."""
    tops: dict[str, int] = {}
    for claim, height in heights.items():
        tops.setdefault(claim.partition(".")[0], height)
    for variable, top in tops.items():
        axes.text(
            -0.5, top - 0.5 - 0.08, variable.replace("_", " "), va="bottom", ha="left",
            fontsize="small", weight="bold",
        )  # fmt: skip
