"""What is inferred in context, over the positions of a sequence."""

import math
import os
from typing import TYPE_CHECKING, Any

from mtd_lens.results.inspection import Inspection
from mtd_lens.views.plots import style
from mtd_lens.views.plots.inspected import (
    MODEL,
    checked_analysis,
    checked_sequence,
    defined,
    estimates,
    headline,
    looks,
)
from mtd_lens.views.plots.outputs import written

if TYPE_CHECKING:
    import matplotlib.figure

MAX_IN_A_ROW = 3
INCHES = (2.9, 2.2)
"""Of a panel."""

MARGIN = 0.03
"""Above 1 and below 0, so that lines at the limits are seen."""


def plot_latents(
    inspection: Inspection,
    sequence: int = 0,
    path: str | os.PathLike[str] | None = None,
    *,
    data: str | os.PathLike[str] | None = None,
) -> "matplotlib.figure.Figure":
    """The inferred latent over the query positions of one sequence, a panel for each component.

    For an MTD task: the mixture weights that the model's predictions imply, beside those of the
    algorithm, of estimators and the truth.

    Args:
        inspection: What ``inspect`` returned.
        sequence: Which of its sequences, counted from 0.
        path: Also write the figure there, as PNG or SVG by its ending.
        data: Also write what is drawn there, as CSV: a row for each component, source and position.

    Returns:
        A ``matplotlib.figure.Figure``. Lines go on over positions where a source is not defined;
        the model's markers stand only where it is.

    Raises:
        ArgumentError: Something else than an inspection, one without an analysis, no such sequence,
            nothing that is defined on it, a path that ends in neither ``.png`` nor ``.svg``, or
            data that do not end in ``.csv``.
        OutputPathError: A path cannot be written to.
    """
    analysis = checked_analysis(inspection)
    sequence = checked_sequence(inspection, sequence)
    found = estimates(inspection, sequence)
    curves = {
        (component, source): {
            position: float(values[position, index]) for position in defined(values)
        }
        for index, component in enumerate(analysis.components)
        for source, values in found.items()
    }
    table = [
        inspection.provenance
        | {"sequence": sequence, "component": component, "source": source}
        | {"position": position, "value": value}
        for (component, source), curve in curves.items()
        for position, value in curve.items()
    ]
    title = headline(inspection, f"{analysis.latent}, sequence {sequence}")
    sources = looks(inspection, found)
    return written(
        path,
        data,
        lambda: _draw(analysis.components, curves, sources, analysis.latent, title),
        lambda: table,
    )


def _draw(
    components: tuple[str, ...],
    curves: dict[tuple[str, str], dict[int, float]],
    sources: dict[str, dict[str, Any]],
    latent: str,
    title: str,
) -> "matplotlib.figure.Figure":
    n_columns = min(len(components), MAX_IN_A_ROW)
    n_rows = math.ceil(len(components) / n_columns)
    inches = (INCHES[0] * n_columns + 0.5, INCHES[1] * n_rows + 0.9)
    figure, panels = style.new_figure(inches, n_rows, n_columns, sharex=True, sharey=True)
    handles: dict[str, Any] = {}
    for component, axes in zip(components, panels.flat, strict=False):
        for source, look in sources.items():
            curve = curves[component, source]
            shown = look if source == MODEL else look | {"marker": None}
            [handles[source]] = axes.plot(list(curve), list(curve.values()), **shown)
        axes.set_title(component, fontsize="medium")
        style.plain(axes)
    for axes in panels.flat[len(components) :]:
        axes.set_visible(False)
    values = [value for curve in curves.values() for value in curve.values()]
    shares = min(values) >= 0 and max(values) <= 1
    if shares:
        panels[0, 0].set_ylim(-MARGIN, 1 + MARGIN)
    for index, axes in enumerate(panels.flat[: len(components)]):
        axes.tick_params(labelbottom=index + n_columns >= len(components))
    for axes in panels[-1]:
        axes.set_xlabel("query position (tokens)")
    figure.supylabel(f"{latent} (0 to 1)" if shares else latent, fontsize="medium")
    style.add_legend_below(figure, handles)
    style.add_title(figure, title)
    return figure
