"""Figure of a localization: for each variable, its interchange map and its probe map.

Drawn as in :mod:`mtd_lens.plots`: without pyplot, on a figure that does not stay open.
"""

import os
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from mtd_lens.plots import LOWEST_SCORE, check_figure_path, write_figure
from mtd_lens.scorecard import figure as number

CELL = (0.74, 0.42)
"""Width and height of a cell, in inches."""

MARGINS = (1.9, 0.5)
"""Of a panel around its cells, in inches: for labels and the space between panels."""

MIN_COLUMNS = 5
"""Room for titles, also where a map has fewer columns."""

TITLE_WIDTH = 60
"""Characters, after which a panel's title goes on in the next line."""

HEAD, FOOT = 0.75, 0.65
"""Inches above and below all panels."""

OUTLINE = "#e69f00"
INTERCHANGE_COLOURS, PROBE_COLOURS = "RdBu", "Greens"
WHITE_TEXT_FROM = 0.55
"""Where a cell's colour is so dark that its text is white, as a share of the scale's end."""


@dataclass(frozen=True)
class _Cell:
    """One field of a map: its value for the colour, what is written in it, and how it is outlined.

    ``outline`` is a line style, or empty for none.
    """

    value: float
    text: str
    bold: bool = False
    outline: str = ""


Cells = dict[tuple[str, int], _Cell]
"""By column and layer."""


def plot_localization(found: Any, path: str | os.PathLike[str] | None = None) -> Any:
    """Where each variable lives: a row of panels for each, interchange beside probes.

    Args:
        found: A result of ``localize``.
        path: Also write the figure there, as PNG or SVG by its ending.

    Returns:
        A ``matplotlib.figure.Figure``. Interchange scores below ``LOWEST_SCORE`` have its colour
        and say only that they are below.

    Raises:
        ArgumentError: A path that ends in neither ``.png`` nor ``.svg``.
        OutputPathError: The path cannot be written to.
    """
    target = None if path is None else check_figure_path(path)
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    maps = [(_interchange(found, f.variable), _probes(found, f.variable)) for f in found.findings]
    widths = [max([MIN_COLUMNS, *(len(_columns(pair[i])) for pair in maps)]) for i in (0, 1)]
    n_layers = max((entry.place.layer for entry in found.probes), default=0) + 1
    height = n_layers * CELL[1] + 2 * MARGINS[1]
    size = (
        sum(widths) * CELL[0] + 2 * MARGINS[0],
        len(maps) * height + HEAD + FOOT,
    )
    inside = (0, FOOT / size[1], 1, 1 - (HEAD + FOOT) / size[1])
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(rect=inside, hspace=0.04))
    panels = figure.subplots(len(maps), 2, squeeze=False, width_ratios=widths)
    scales = (Normalize(LOWEST_SCORE, 1), Normalize(0, 1))
    colours = (INTERCHANGE_COLOURS, PROBE_COLOURS)
    for row, finding, pair in zip(panels, found.findings, maps, strict=True):
        for index, axes in enumerate(row):
            scale = ScalarMappable(scales[index], colours[index])
            _draw(axes, pair[index], range(n_layers), widths[index], scale)
        _name(row, finding)
    bars = ("interchange F", "probe R²")
    for index, label in enumerate(bars):
        scale = ScalarMappable(scales[index], colours[index])
        bar = figure.colorbar(scale, ax=panels[:, index].tolist(), shrink=0.6, pad=0.02, aspect=30)
        bar.set_label(label, fontsize="small")
        bar.ax.tick_params(labelsize="x-small")
    _explain(figure, found, size)
    return write_figure(figure, target)


def _interchange(found: Any, variable: str) -> Cells:
    [finding] = [finding for finding in found.findings if finding.variable == variable]
    line = "solid" if finding.verdict == "found" else "dotted"
    cells = {
        (entry.place.column, entry.place.layer): _Cell(
            entry.score,
            _clipped(entry.score) + "*" * entry.significant,
            bold=entry.significant,
            outline=(line if entry.place in finding.places else ""),
        )
        for entry in found.sites
        if entry.variable == variable
    }
    if found.has_joint_layers(variable):
        for layer, score in enumerate(finding.whole_layers):
            cells["together", layer] = _Cell(score, _clipped(score))
    return cells


def _probes(found: Any, variable: str) -> Cells:
    return {
        (entry.place.column, entry.place.layer): _Cell(
            entry.score,
            f"{number(entry.score, 2)}\n({number(entry.control, 2)})",
            bold=entry.low > entry.control_high,
        )
        for entry in found.probes
        if entry.variable == variable
    }


def _draw(axes: Any, cells: Cells, layers: Sequence[int], width: int, scale: Any) -> None:
    from matplotlib.patches import Rectangle

    columns = _columns(cells)
    for (column, layer), cell in cells.items():
        corner = (columns.index(column) - 0.5, layer - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, color=scale.to_rgba(cell.value), linewidth=0))
        dark = abs(scale.norm(cell.value) - _middle(scale)) > WHITE_TEXT_FROM * (1 - _middle(scale))
        axes.text(
            columns.index(column), layer, cell.text, ha="center", va="center",
            fontsize="small" if "\n" not in cell.text else "x-small",
            color="white" if dark else "#303030", weight="bold" if cell.bold else "normal",
        )  # fmt: skip
    for (column, layer), cell in cells.items():
        if cell.outline:
            corner = (columns.index(column) - 0.46, layer - 0.46)
            frame: dict[str, Any] = {
                "fill": False,
                "edgecolor": OUTLINE,
                "lw": 2.5,
                "ls": cell.outline,
            }
            axes.add_patch(Rectangle(corner, 0.92, 0.92, **frame))
    axes.set_xlim(-0.5, width - 0.5)
    axes.set_ylim(len(layers) - 0.5, -0.5)
    axes.set_xticks(range(len(columns)), columns, fontsize="x-small")
    axes.set_yticks(layers, [f"layer {layer}" for layer in layers], fontsize="x-small")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _middle(scale: Any) -> float:
    """Where a colour map is lightest: at 0 of either scale."""
    return float(scale.norm(0.0))


def _name(row: Any, finding: Any) -> None:
    """Titles of a variable's two panels."""
    name = finding.variable.replace("_", " ")
    if finding.verdict == "not_applicable":
        row[0].set_title(f"{name}: does not vary on this task", loc="left", fontsize="medium")
        for axes in row:
            axes.set_axis_off()
        return
    verdict = "found" if finding.verdict == "found" else "NOT FOUND; best set"
    score = f"F = {number(finding.score, 2)} [{number(finding.low, 2)}, {number(finding.high, 2)}]"
    score += f"; blind {number(finding.blind, 2)}"
    places = f"in {', '.join(_grouped(finding.places))}, at {finding.where}"
    row[0].set_title(
        f"{name}: {verdict}, {score}\n{textwrap.fill(places, TITLE_WIDTH)}",
        loc="left",
        fontsize="small",
    )
    row[1].set_title(
        f"probed at {finding.probed}\n"
        f"R² from the shortest window's raw tokens: {number(finding.token_window, 2)}",
        loc="left",
        fontsize="small",
    )


def _grouped(places: Iterable[Any]) -> list[str]:
    """Places in words, heads of one layer and kind together: ``L0H0+1 z``."""
    groups: dict[tuple[int, str], list[Any]] = {}
    for place in places:
        groups.setdefault((place.layer, place.kind), []).append(place)
    return [
        str(group[0])
        if len(group) == 1
        else f"L{layer}H{'+'.join(str(place.head) for place in group)} {kind}"
        for (layer, kind), group in groups.items()
    ]


def _explain(figure: Any, found: Any, size: tuple[float, float]) -> None:
    """The title above all panels, and below them what the marks mean."""
    task = found.task if isinstance(found.task, str) else "a task of the user's own"
    joint = any(found.has_joint_layers(finding.variable) for finding in found.findings)
    figure.text(
        0.01, 1 - 0.1 / size[1], f"Where {found.model.removeprefix(f'{task}/')} carries the "
        f"algorithm of {task}", ha="left", va="top", fontsize="large",
    )  # fmt: skip
    figure.text(
        0.01, 1 - 0.38 / size[1], f"{found.n_sequences} sequences, seed {found.seed}; "
        "F = 1: swapping acts as the algorithm says, 0: no effect",
        ha="left", va="top", fontsize="small", color="#505050",
    )  # fmt: skip
    figure.text(
        0.01, 0.1 / size[1],
        f"Left: orange outline: smallest set (dotted: its interval is not above "
        f"{found.threshold:g}, so NOT FOUND); "
        f"*: F above {found.floor:g} at the {found.level:.3g} level, Holm's correction over "
        f"{len(found.sites)} sites{'; together: all sites of the layer at once' * joint}; "
        "blind: F of the algorithm with\nthe variable at its mean, within reach without looking at "
        "the source. "
        "Right: in brackets, the control task's R²; bold: the interval lies above the control's.",
        ha="left", va="bottom", fontsize="x-small", color="#505050",
    )  # fmt: skip


def _clipped(score: float) -> str:
    return f"< {LOWEST_SCORE:g}" if score < LOWEST_SCORE else number(score, 2)


def _columns(cells: Cells) -> list[str]:
    return list(dict.fromkeys(column for column, _ in cells))
