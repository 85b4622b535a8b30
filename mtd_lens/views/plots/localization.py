"""Where in a model each variable lives: its interchange map and its probe map."""

import os
import textwrap
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from mtd_lens.errors import ArgumentError
from mtd_lens.results.forms import figure as number, interval
from mtd_lens.results.localization import TOGETHER, Localization
from mtd_lens.results.places import Finding, Place
from mtd_lens.views.plots import style
from mtd_lens.views.plots.cells import (
    Cell,
    Cells,
    add_colour_bar,
    draw_cells,
    scale_of,
)
from mtd_lens.views.plots.outputs import written

if TYPE_CHECKING:
    import matplotlib.figure

CELL = (0.74, 0.42)
"""Width and height of a cell, in inches."""

MARGINS = (1.9, 0.5)
"""Of a panel around its cells, in inches: for labels and the space between panels."""

MIN_COLUMNS = 5
"""Room for titles, also where a map has fewer columns."""

TITLE_WIDTH = 70
"""Characters, after which a panel's title goes on in the next line."""

NOTE_CHARACTER = 0.06
"""Inches of a character of the notes below all panels."""

HEAD, FOOT = 0.75, 0.65
"""Inches above and below all panels."""

BARS = 0.7
"""Inches of the colour bars, which lie below the panels, clear of their titles."""

INTERCHANGE_COLOURS, PROBE_COLOURS = "RdBu", "Greens"
"""White where a swap does nothing, blue towards the algorithm, red away from it."""

BLIND = 0.4
"""How blue a score of 0 is, no better than without a look at the source; swapping nothing, which
scores below that, is white, and 1 is as blue as can be."""

GIVEN_QUERY_NOTE = (
    "Sources share the query's own tokens with their base.\n"
    "A set that is found here alone holds the variable\nin a code that depends on those tokens."
)


def plot_localization(
    found: Localization,
    path: str | os.PathLike[str] | None = None,
    *,
    data: str | os.PathLike[str] | None = None,
) -> "matplotlib.figure.Figure":
    """Where each variable lives: a row of panels for each, interchange beside probes.

    Variables that were sought given the query too have a second row, of interchange alone.

    Args:
        found: A result of ``localize``.
        path: Also write the figure there, as PNG or SVG by its ending.
        data: Also write what is drawn there, as CSV: a row for each cell, with the scores as they
            are.

    Returns:
        A ``matplotlib.figure.Figure``. Where F is over blind, cells of interchange are white at
        each finding's own F of no swap, bluer the nearer they come to 1, and red below.

    Raises:
        ArgumentError: Something else than a result of ``localize``, a path that ends in neither
            ``.png`` nor ``.svg``, or data that do not end in ``.csv``.
        OutputPathError: A path cannot be written to.
    """
    if not isinstance(found, Localization):
        raise ArgumentError(f"expected what localize returned; got a {type(found).__name__}.")
    return written(path, data, lambda: _draw(found), found.to_dataframe)


def _draw(found: Localization) -> "matplotlib.figure.Figure":
    maps = [(_interchange(found, finding), _probes(found, finding)) for finding in found.findings]
    widths = [max([MIN_COLUMNS, *(len(_columns(pair[i])) for pair in maps)]) for i in (0, 1)]
    n_layers = max((entry.place.layer for entry in found.probes), default=0) + 1
    height = n_layers * CELL[1] + 2 * MARGINS[1]
    size = (
        sum(widths) * CELL[0] + 2 * MARGINS[0],
        len(maps) * height + HEAD + FOOT + BARS,
    )
    inside = (0, FOOT / size[1], 1, 1 - (HEAD + FOOT) / size[1])
    figure, panels = style.new_figure(size, len(maps), 2, width_ratios=widths)
    figure.get_layout_engine().set(rect=inside, hspace=0.04)
    scales = [scale_of(-1.0, 1.0, INTERCHANGE_COLOURS), scale_of(0.0, 1.0, PROBE_COLOURS)]
    rows = {layer: f"layer {layer}" for layer in range(n_layers)}
    for row, finding, pair in zip(panels, found.findings, maps, strict=True):
        for axes, cells, scale, width in zip(row, pair, scales, widths, strict=True):
            draw_cells(axes, cells, _columns(cells), rows, scale)
            axes.set_xlim(-0.5, width - 0.5)
            axes.set_ylim(n_layers - 0.5, -0.5)
        _name(row, finding)
    blind = BLIND * found.over_blind
    ticks = {0.0: "no swap", blind: "0", (1 + blind) / 2: "0.5", 1.0: "1"}
    for column, (label, marks) in enumerate((("interchange F", ticks), ("probe R²", None))):
        place = {"location": "bottom", "shrink": 0.6, "pad": 0.02, "aspect": 30}
        bar = add_colour_bar(figure, scales[column], panels[:, column].tolist(), label, **place)
        if marks is not None:
            bar.ax.set_xlim(-BLIND, 1.0)
            bar.set_ticks(list(marks), labels=list(marks.values()))
    _explain(figure, found, size)
    return figure


def _interchange(found: Localization, finding: Finding) -> Cells:
    outlined = dict.fromkeys(finding.tried, "dotted") | dict.fromkeys(finding.places, "solid")
    cells = {
        (entry.place.column, entry.place.layer): Cell(
            _shade(entry.score, finding),
            number(entry.score, 2) + "*" * entry.significant,
            bold=entry.significant,
            outline=outlined.get(entry.place, ""),
        )
        for entry in found.sites_of(finding)
    }
    if found.has_joint_layers(finding.variable):
        for layer, score in enumerate(finding.whole_layers):
            cells[TOGETHER, layer] = Cell(_shade(score, finding), number(score, 2))
    return cells


def _shade(score: float, finding: Finding) -> float:
    """Where a score lies in the colours: 0 as without a swap, ``BLIND`` at 0, and 1 at 1."""
    idle = finding.unswapped
    if idle is None or idle >= 0:  # no swap scores 0 where F is not over blind
        return max(score - (idle or 0.0), -BLIND)
    return max(BLIND * (1 - score / idle), -BLIND) if score < 0 else BLIND + (1 - BLIND) * score


def _probes(found: Localization, finding: Finding) -> Cells:
    if finding.given_query:
        return {}
    return {
        (entry.place.column, entry.place.layer): Cell(
            entry.score,
            f"{number(entry.score, 2)}\n({number(entry.control, 2)})",
            bold=entry.low > entry.control_high,
        )
        for entry in found.probes
        if entry.variable == finding.variable
    }


def _name(row: Any, finding: Finding) -> None:
    """Titles of a finding's two panels."""
    name = finding.in_words.replace("_", " ")
    if finding.verdict == "not_applicable":
        why = textwrap.fill(finding.reason or "does not vary on this task", TITLE_WIDTH)
        row[0].set_title(f"{name}: not applicable\n{why}", loc="left", fontsize="small")
        for axes in row:
            axes.set_axis_off()
        return
    score = f"F = {number(finding.score, 2)} {interval(finding, 2)}"
    places = f"in {', '.join(_grouped(finding.places or finding.tried))}, at {finding.where}"
    heading, best = f"{name}: found, {score}", places
    if finding.verdict != "found":
        heading, best = f"{name}: NO SET FOUND", f"best tried: {score} {places}"
    beside = f"blind {number(finding.blind, 2)}" if finding.blind is not None else ""
    if finding.wrong is not None:
        beside = (
            f"F with a wrong source {number(finding.wrong.score, 2)}, "
            f"with no swap {number(finding.unswapped, 2)}"
        )
    lines = [*(textwrap.fill(words, TITLE_WIDTH) for words in (heading, best)), beside]
    row[0].set_title("\n".join(lines), loc="left", fontsize="small")
    if finding.given_query:
        row[1].set_axis_off()
        row[1].set_title(GIVEN_QUERY_NOTE, loc="left", fontsize="small", color=style.FAINT)
        return
    row[1].set_title(
        f"probed at {finding.probed}\n"
        f"R² from the shortest window's raw tokens: {number(finding.token_window, 2)}",
        loc="left",
        fontsize="small",
    )


def _grouped(places: Iterable[Place]) -> list[str]:
    """Places in words, heads of one layer and kind together: ``L0H0+1 z``."""
    groups: dict[tuple[int, str], list[Place]] = {}
    for place in places:
        groups.setdefault((place.layer, place.kind), []).append(place)
    return [
        str(group[0])
        if len(group) == 1
        else f"L{layer}H{'+'.join(str(place.head) for place in group)} {kind}"
        for (layer, kind), group in groups.items()
    ]


def _explain(
    figure: "matplotlib.figure.Figure", found: Localization, size: tuple[float, float]
) -> None:
    """The title above all panels, and below them what the marks mean."""
    joint = any(found.has_joint_layers(finding.variable) for finding in found.findings)
    figure.text(
        0.01, 1 - 0.1 / size[1], f"Where {found.short_name} carries the "
        f"algorithm of {found.task_name}", ha="left", va="top", fontsize="large",
    )  # fmt: skip
    question = (
        "At which sites does swapping a variable's value act as the algorithm says? F = 1: as the "
        "algorithm, 0: no better than not looking at the source"
    )
    marked = f"swapping moves the prediction by more than {found.floor:g} of the way"
    if not found.over_blind:
        question = "F = 1: swapping acts as the algorithm says, 0: no effect"
        marked = f"F above {found.floor:g}"
    figure.text(
        0.01, 1 - 0.38 / size[1], f"{question}.", ha="left", va="top", fontsize="small",
        color=style.FAINT,
    )  # fmt: skip
    notes = (
        f"{found.n_sequences} sequences, seed {found.seed}. Left: orange outline: the smallest set "
        f"(dotted: the best that was tried, where none is found above {found.threshold:g}); "
        f"*: {marked}, at the {found.level:.3g} level with Holm's correction over "
        f"{len(found.sites)} sites{'; together: all sites of the layer at once' * joint}; "
        "white: as without a swap, red: further from the algorithm than without. "
        "Right: in brackets, the control task's R²; bold: the interval lies above the control's."
    )
    width = int(size[0] / NOTE_CHARACTER)
    figure.text(
        0.01, 0.1 / size[1], textwrap.fill(notes, width), ha="left", va="bottom",
        fontsize="x-small", color=style.FAINT,
    )  # fmt: skip


def _columns(cells: Cells) -> list[str]:
    return list(dict.fromkeys(column for column, _ in cells))
