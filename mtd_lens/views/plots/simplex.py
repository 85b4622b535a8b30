"""The path of an estimate over the simplex of three components."""

import math
import os
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from mtd_lens.errors import ArgumentError
from mtd_lens.results.inspection import Inspection
from mtd_lens.views.plots import style
from mtd_lens.views.plots.inspected import (
    MODEL,
    TRUTH,
    are_shares,
    checked_analysis,
    checked_sequence,
    defined,
    estimates,
    headline,
    looks,
)
from mtd_lens.views.plots.outputs import written

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

CORNERS = ((0.0, 0.0), (1.0, 0.0), (0.5, math.sqrt(3) / 2))
"""In the plane, of the first, the second and the third component."""

GRID_LINES = (0.25, 0.5, 0.75)
INCHES = (5.8, 5.5)


def plot_simplex(
    inspection: Inspection,
    sequence: int = 0,
    path: str | os.PathLike[str] | None = None,
    *,
    data: str | os.PathLike[str] | None = None,
) -> "matplotlib.figure.Figure":
    """The path of every source's estimate of the latent, of three components, over one sequence.

    An estimate is a point of the triangle: its components are the weights of the corners. A circle
    marks the first query position, a disc the last, a star the truth.

    Args:
        inspection: What ``inspect`` returned, of a latent with three components.
        sequence: Which of its sequences, counted from 0.
        path: Also write the figure there, as PNG or SVG by its ending.
        data: Also write what is drawn there, as CSV: a row for each source and position, with the
            components and the point in the plane (sides of the triangle have length 1).

    Returns:
        A ``matplotlib.figure.Figure``. Lines are broken at positions where a source is not defined.

    Raises:
        ArgumentError: Something else than an inspection, one without an analysis, a latent that
            is not of exactly three shares of 1, no such sequence, nothing that is defined on it, a
            path that ends in neither ``.png`` nor ``.svg``, or data that do not end in ``.csv``.
        OutputPathError: A path cannot be written to.
    """
    analysis = checked_analysis(inspection)
    if len(analysis.components) != len(CORNERS):
        raise ArgumentError(
            f"the simplex is drawn for three components; the {analysis.latent} of "
            f"{inspection.model!r} have {len(analysis.components)}. Use plot_latents."
        )
    sequence = checked_sequence(inspection, sequence)
    found = estimates(inspection, sequence)
    if not all(are_shares(values) for values in found.values()):
        raise ArgumentError(
            f"the simplex is drawn for shares of 1; the {analysis.latent} of {inspection.model!r} "
            "has components of other sums or signs. Use plot_latents."
        )
    points = {source: in_plane(values) for source, values in found.items()}
    table = [
        inspection.provenance
        | {"sequence": sequence, "source": source, "position": position}
        | dict(zip(analysis.components, values[position].tolist(), strict=True))
        | dict(zip("xy", points[source][position].tolist(), strict=True))
        for source, values in found.items()
        for position in defined(values)
    ]
    what = f"{analysis.latent} over sequence {sequence} (0 to 1)"
    title = headline(inspection, what, "circle: first query, disc: last query")
    sources = looks(inspection, found)
    return written(
        path, data, lambda: _draw(analysis.components, points, sources, title), lambda: table
    )


def in_plane(weights: Float[Tensor, "*axes 3"]) -> Float[Tensor, "*axes 2"]:
    """Points of the triangle of ``CORNERS`` with given weights of its corners."""
    return weights @ torch.tensor(CORNERS, dtype=weights.dtype)


def _draw(
    components: tuple[str, ...],
    points: dict[str, Tensor],
    sources: dict[str, dict[str, Any]],
    title: str,
) -> "matplotlib.figure.Figure":
    figure, [[axes]] = style.new_figure(INCHES)
    _draw_triangle(axes, components)
    handles: dict[str, Any] = {}
    for source, look in sources.items():
        path = points[source][defined(points[source])]
        if source == TRUTH:
            [handles[source]] = axes.plot(
                *path[-1].tolist(), color=look["color"], marker="*", markersize=13,
                linestyle="none", zorder=7,
            )  # fmt: skip
            continue
        line = look | {"marker": "." if source == MODEL else None, "linewidth": 1.2}
        [handles[source]] = axes.plot(*points[source].T.tolist(), **line)
        _mark_ends(axes, path, look["color"], 6 if source == MODEL else 5)
    style.add_legend_below(figure, handles)
    style.add_title(figure, title)
    return figure


def _mark_ends(
    axes: "matplotlib.axes.Axes", path: Tensor, colour: style.Colour, height: int
) -> None:
    ends: dict[str, Any] = {"marker": "o", "markersize": 6}
    ends |= {"markeredgecolor": colour, "zorder": height}
    axes.plot(*path[0].tolist(), markerfacecolor="none", **ends)
    axes.plot(*path[-1].tolist(), markerfacecolor=colour, **ends)


def _draw_triangle(axes: "matplotlib.axes.Axes", components: tuple[str, ...]) -> None:
    """Sides, lines of equal components, and the names of corners."""
    axes.set_aspect("equal")
    axes.set_axis_off()
    corners = torch.eye(3, dtype=torch.float64)
    axes.plot(*in_plane(corners[[0, 1, 2, 0]]).T.tolist(), color=style.INK, linewidth=1)
    for index, name in enumerate(components):
        one, two = corners[(index + 1) % 3], corners[(index + 2) % 3]
        for value in GRID_LINES:
            ends = value * corners[index] + (1 - value) * torch.stack([one, two])
            axes.plot(*in_plane(ends).T.tolist(), color=style.GRID, linewidth=0.8, zorder=1)
            _write(axes, ends[1], two - one, f"{value:g}", 0.03, "x-small", style.FAINT)
        _write(axes, corners[index], corners[index] - 1 / 3, name, 0.06, "medium", style.INK)


def _write(
    axes: "matplotlib.axes.Axes",
    weights: Tensor,
    direction: Tensor,
    text: str,
    far: float,
    size: str,
    colour: style.Colour,
) -> None:
    """Text beside a point, so far off in a direction."""
    away = in_plane(direction)
    x, y = (in_plane(weights) + far * away / away.norm()).tolist()
    axes.text(x, y, text, ha="center", va="center", fontsize=size, color=colour)
