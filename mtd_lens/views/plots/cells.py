"""Maps of scores: a coloured cell with its value for every column and row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mtd_lens.results.forms import figure as number

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.cm
    import matplotlib.figure

LOWEST_SCORE = -1.0
"""Scores below this are drawn at it: how much worse than the reference says little."""

OUTLINE = "#e69f00"
SCORE_COLOURS = "RdBu"
"""White at 0: no better than the reference."""

ON_PALE, ON_DEEP = "#202020", "#ffffff"
"""Of texts in cells; unlike ink they stay as they are on a page of any colour."""


@dataclass(frozen=True)
class Cell:
    """One field of a map: its value for the colour, what is written in it, and how it is outlined.

    ``outline`` is a line style, or empty for none.
    """

    value: float
    text: str
    bold: bool = False
    outline: str = ""


Cells = dict[tuple[str, int], Cell]
"""By column and row."""


def clipped(score: float) -> str:
    """A score in a cell."""
    return f"< {LOWEST_SCORE:g}" if score < LOWEST_SCORE else number(score, 2)


def score_scale() -> "matplotlib.cm.ScalarMappable":
    """Colours of scores, a ``matplotlib.cm.ScalarMappable``."""
    return scale_of(LOWEST_SCORE, 1.0, SCORE_COLOURS)


def scale_of(low: float, high: float, colours: str) -> "matplotlib.cm.ScalarMappable":
    """Colours of values from ``low`` to ``high``, a ``matplotlib.cm.ScalarMappable``."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    return ScalarMappable(Normalize(low, high), colours)


def draw_cells(
    axes: "matplotlib.axes.Axes",
    cells: Mapping[tuple[str, int], Cell],
    columns: Sequence[str],
    rows: Mapping[int, str],
    scale: Any,
) -> None:
    """Draw a map, columns from the left, rows downwards at the heights that number them."""
    from matplotlib.patches import Rectangle

    for (column, row), cell in cells.items():
        centre = columns.index(column)
        colour = scale.to_rgba(cell.value)
        axes.add_patch(Rectangle((centre - 0.5, row - 0.5), 1, 1, color=colour, linewidth=0))
        axes.text(
            centre, row, cell.text, ha="center", va="center",
            fontsize="small" if "\n" not in cell.text else "x-small",
            color=_readable_on(colour), weight="bold" if cell.bold else "normal",
        )  # fmt: skip
    for (column, row), cell in cells.items():
        if cell.outline:
            corner = (columns.index(column) - 0.46, row - 0.46)
            axes.add_patch(
                Rectangle(
                    corner, 0.92, 0.92, fill=False, edgecolor=OUTLINE, lw=2.5, ls=cell.outline
                )
            )
    axes.set_xticks(range(len(columns)), columns, fontsize="x-small")
    axes.set_yticks(list(rows), list(rows.values()), fontsize="x-small")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def add_colour_bar(
    figure: "matplotlib.figure.Figure",
    scale: "matplotlib.cm.ScalarMappable",
    panels: Any,
    label: str,
    **place: Any,
) -> Any:
    """A colour bar beside the panels, which is returned."""
    bar = figure.colorbar(scale, ax=panels, **place)
    bar.set_label(label, fontsize="small")
    bar.ax.tick_params(labelsize="x-small")
    return bar


def _readable_on(rgba: tuple[float, ...]) -> str:
    red, green, blue = rgba[:3]
    return ON_PALE if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else ON_DEEP
