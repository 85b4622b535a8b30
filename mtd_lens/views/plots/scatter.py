"""A model's attention and inferences against the algorithm's, value by value."""

import math
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mtd_lens.contracts import Analysis, AnalyticPattern
from mtd_lens.errors import ArgumentError
from mtd_lens.results.inspection import Inspection
from mtd_lens.views.plots import style
from mtd_lens.views.plots.inspected import MODEL, are_shares, checked_analysis, headline
from mtd_lens.views.plots.outputs import written
from probes.statistics.intervals import NEGLIGIBLE

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

MAX_IN_A_ROW = 4
PANEL_INCHES = (2.8, 3.7)
MARGIN = 0.04
"""Of an axis beyond the largest magnitude, as a share of it."""

LEGEND_CHARACTERS = 34
"""In a row of a panel's legend, of which a handle takes HANDLE_CHARACTERS."""

HANDLE_CHARACTERS = 4
LEGEND_ROW_INCHES = 0.22
"""Of rows beyond the first."""
N_TICKS = 5

FEW = 500
"""Points of a panel; more are drawn smaller and fainter, so that their density is seen."""

FAINTEST, BOLDEST = 0.12, 0.5
"""Opacity of points: one alone is still seen."""


@dataclass(frozen=True)
class Panel:
    """One cloud of points.

    Attributes:
        name: What is compared.
        where: In the model.
        labels: Of the two axes.
        columns: Of the data: where each point is from.
        analytic: The algorithm's value of each point.
        model: The model's.
        groups: By what each point is coloured.
        grouped_by: What the groups are, for the legend.
    """

    name: str
    where: str
    labels: tuple[str, str]
    columns: dict[str, Any]
    analytic: Any
    model: Any
    groups: Any
    grouped_by: str = ""

    @property
    def r_squared(self) -> float:
        """1 − squared differences / spread of the algorithm's values; NaN if they have none."""
        spread = float(((self.analytic - self.analytic.mean()) ** 2).sum())
        rounding = NEGLIGIBLE * float((self.analytic**2).sum())
        apart = float(((self.analytic - self.model) ** 2).sum())
        return 1 - apart / spread if spread > rounding else float("nan")


def plot_scatter(
    inspection: Inspection,
    path: str | os.PathLike[str] | None = None,
    *,
    data: str | os.PathLike[str] | None = None,
) -> "matplotlib.figure.Figure":
    """A model against the algorithm: a panel for each analytic pattern, and one for the latent.

    A point of a pattern's panel is the attention of one query to one key, where the algorithm
    attends at all: the model's is that of the layer whose nearest heads have the least mean total
    variation from the pattern. A point of the last panel is one component of the latent after one
    position, as the model's predictions imply it and by the algorithm.

    Panels give R² = 1 − Σ(model − analytic)² / Σ(analytic − mean)²: 1 where all points lie on the
    line of equality, at or below 0 where the algorithm's mean would do as well.

    Args:
        inspection: What ``inspect`` returned.
        path: Also write the figure there, as PNG or SVG by its ending.
        data: Also write what is drawn there, as CSV: a row for each point.

    Returns:
        A ``matplotlib.figure.Figure``; in SVG the points are an image.

    Raises:
        ArgumentError: Something else than an inspection, one without an analysis or without
            anything to compare, a path that ends in neither ``.png`` nor ``.svg``, or data that do
            not end in ``.csv``.
        OutputPathError: A path cannot be written to.
    """
    analysis = checked_analysis(inspection)
    panels = [_attended(inspection, pattern) for pattern in analysis.patterns]
    panels += _inferred(inspection.algorithm, analysis)
    panels = [panel for panel in panels if len(panel.analytic)]
    if not panels:
        raise ArgumentError(
            f"the inspection of {inspection.model!r} holds no value to compare: no pattern is "
            f"defined at any query, and {inspection.algorithm!r} and {MODEL!r} at no position. "
            "Inspect longer sequences."
        )
    what = f"{len(inspection.tokens)} sequences, model against algorithm"
    title = headline(inspection, what)
    return written(path, data, lambda: _draw(panels, title), lambda: _table(inspection, panels))


def _attended(inspection: Inspection, pattern: AnalyticPattern) -> Panel:
    """Attention of the layer that is nearest to a pattern."""
    heads = inspection.nearest_heads[pattern.name].cpu()  # [layer, query]
    layer = int(inspection.nearest_distances(pattern).nan_to_num(1.0).argmin())
    queries = torch.arange(heads.shape[1])
    nearest = inspection.attention[layer].cpu()[heads[layer], :, queries].transpose(0, 1)
    analytic = pattern.values.cpu()
    sequence, query, key = (analytic.nan_to_num() != 0).nonzero(as_tuple=True)
    points = {
        "sequence": sequence,
        "query": query,
        "key": key,
        "layer": torch.full_like(query, layer),
        "head": heads[layer, query],
    }
    algorithms = analytic[sequence, query, key].double().numpy()
    models = nearest[sequence, query, key].double().numpy()
    signed = (algorithms < 0).any() or (models < 0).any()
    unit = "(−1 to 1)" if signed else "(0 to 1)"
    return Panel(
        name=pattern.name,
        where=f"attention of layer {layer}, nearest heads",
        labels=(f"algorithm's attention {unit}", f"model's attention {unit}"),
        columns={name: value.numpy() for name, value in points.items()},
        analytic=algorithms,
        model=models,
        groups=(query - key).numpy(),
        grouped_by="query − key",
    )


def _inferred(algorithm: str, analysis: Analysis) -> list[Panel]:
    """The latent, if both the model and the algorithm say something of it."""
    if not {algorithm, MODEL} <= set(analysis.latents):
        return []
    inferred, model = (
        analysis.latents[source].detach().cpu().double() for source in (algorithm, MODEL)
    )
    sequence, position, component = (inferred + model).isfinite().nonzero(as_tuple=True)
    names = np.array(analysis.components)[component.numpy()]
    unit = " (0 to 1)" if are_shares(inferred) and are_shares(model) else ""
    panel = Panel(
        name=analysis.latent,
        where="implied by the model's predictions",
        labels=(f"{algorithm}{unit}", f"model{unit}"),
        columns={"sequence": sequence.numpy(), "query": position.numpy(), "component": names},
        analytic=inferred[sequence, position, component].numpy(),
        model=model[sequence, position, component].numpy(),
        groups=names,
    )
    return [panel]


def _draw(panels: list[Panel], title: str) -> "matplotlib.figure.Figure":
    from matplotlib.ticker import MaxNLocator

    n_columns = min(len(panels), MAX_IN_A_ROW)
    n_rows = math.ceil(len(panels) / n_columns)
    longest = max(_legend_rows(_groups(panel)) for panel in panels)
    height = PANEL_INCHES[1] + LEGEND_ROW_INCHES * max(longest - 1, 0)
    inches = (PANEL_INCHES[0] * n_columns + 0.3, height * n_rows + 0.5)
    figure, grid = style.new_figure(inches, n_rows, n_columns)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw_points(axes, panel)
        start, end = _limits(panel)
        axes.plot([start, end], [start, end], color=style.INK, linewidth=0.8, zorder=4)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(N_TICKS, steps=[1, 2, 2.5, 5, 10]))
        from_zero = (-0.02 * end, end)  # points at the limits are seen
        limits = (start, end) if start else from_zero
        axes.set(xlim=limits, ylim=limits, aspect="equal")
        axes.tick_params(labelsize="small")
        axes.set_xlabel(panel.labels[0], fontsize="small")
        axes.set_ylabel(panel.labels[1], fontsize="small")
        r_squared = f"R² = {panel.r_squared:.3f}".replace("-", "−")
        fit = "R² not defined" if np.isnan(panel.r_squared) else r_squared
        name = f"{panel.name}\n{panel.where}\n{fit}, n = {len(panel.analytic)}"
        axes.set_title(name, loc="left", fontsize="small")
        style.plain(axes, grid="both")
    style.add_title(figure, title)
    return figure


def _limits(panel: Panel) -> tuple[float, float]:
    """Of both axes: from 0, or with room below the least value where there are negative ones."""
    values = np.concatenate([panel.analytic, panel.model])
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    margin = MARGIN * max(-low, high)
    return low - margin if low < 0 else 0.0, high + margin


def _draw_points(axes: "matplotlib.axes.Axes", panel: Panel) -> None:
    """Coloured by group, unless there are more groups than colours."""
    crowd = FEW / len(panel.analytic)
    opacity = min(max(BOLDEST * crowd, FAINTEST), BOLDEST)
    look: dict[str, Any] = {"s": 10 if crowd >= 1 else 5, "alpha": opacity}
    look |= {"linewidths": 0, "zorder": 3}
    groups = _groups(panel)
    if not groups:
        colour = style.MODEL_COLOURS[0]
        axes.scatter(panel.analytic, panel.model, color=colour, rasterized=True, **look)
        return
    for name, colour in zip(groups, style.MODEL_COLOURS, strict=False):
        at = panel.groups == name
        values = panel.analytic[at], panel.model[at]
        axes.scatter(*values, color=colour, label=str(name), rasterized=True, **look)
    legend: Any = axes.legend(
        title=panel.grouped_by or None, loc="upper center", bbox_to_anchor=(0.5, -0.2),
        ncols=math.ceil(len(groups) / _legend_rows(groups)), frameon=False,
        fontsize="small", title_fontsize="small", handletextpad=0.1,
        columnspacing=0.7,
    )  # fmt: skip
    for handle in legend.legend_handles:
        handle.set(alpha=1, sizes=[24])


def _groups(panel: Panel) -> list[Any]:
    """Those that have colours of their own; none if there is one, or more than colours."""
    groups = sorted(set(panel.groups.tolist()))
    return groups if 1 < len(groups) <= len(style.MODEL_COLOURS) else []


def _legend_rows(groups: list[Any]) -> int:
    """With as many groups in each as fit below a panel."""
    widest = max((len(str(name)) for name in groups), default=0) + HANDLE_CHARACTERS
    return math.ceil(len(groups) / max(LEGEND_CHARACTERS // widest, 1))


def _table(inspection: Inspection, panels: list[Panel]) -> Any:
    """A row for each point; what a panel's points do not have is left empty."""
    import pandas as pd

    parts = [
        pd.DataFrame(
            inspection.provenance
            | {"panel": panel.name, "where": panel.where}
            | panel.columns
            | {"algorithm_value": panel.analytic, "model_value": panel.model}
        )
        for panel in panels
    ]
    return pd.concat(parts)
