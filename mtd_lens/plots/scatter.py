"""A model's attention and inferences against the algorithm's, value by value."""

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mtd_lens.contracts import Analysis, AnalyticPattern
from mtd_lens.errors import ArgumentError
from mtd_lens.inspection import Inspection
from mtd_lens.plots import style
from mtd_lens.plots.inspected import MODEL, checked_analysis, headline
from mtd_lens.plots.outputs import check_outputs
from probes.statistics import NEGLIGIBLE

REFERENCE = "one step"
"""The source that a model's inference is held against."""

PANEL_INCHES = (2.8, 3.7)
MARGIN = 1.04
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
    inspection: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    data: str | os.PathLike[str] | None = None,
) -> Any:
    """A model against the algorithm: a panel for each analytic pattern, and one for the latent.

    A point of a pattern's panel is the attention of one query to one key, where the algorithm
    attends at all: the model's is that of the layer whose nearest heads have the least mean total
    variation from the pattern. A point of the last panel is one component of the latent after one
    position, as the model's predictions imply it and by one step of the algorithm.

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
    outputs = check_outputs(path, data)
    panels = [_attended(inspection, pattern) for pattern in analysis.patterns]
    panels += _inferred(analysis)
    panels = [panel for panel in panels if len(panel.analytic)]
    if not panels:
        raise ArgumentError(
            f"the inspection of {inspection.model!r} holds no value to compare: no pattern is "
            f"defined at any query, and {REFERENCE!r} and {MODEL!r} at no position. Inspect longer "
            "sequences."
        )
    with style.applied():
        figure = _draw(panels)
        shown = f"{len(inspection.tokens)} sequences, model against algorithm"
        style.add_title(figure, headline(inspection, shown))
    return outputs.write(figure, None if data is None else _table(inspection, panels))


def _attended(inspection: Inspection, pattern: AnalyticPattern) -> Panel:
    """Attention of the layer that is nearest to a pattern."""
    heads = inspection.nearest_heads[pattern.name].cpu()  # [layer, query]
    distances = inspection.distances(pattern).cpu().gather(1, heads[:, None])[:, 0]
    layer = int(distances.nanmean(-1).nan_to_num(1.0).argmin())
    queries = torch.arange(heads.shape[1])
    nearest = inspection.attention[layer].cpu()[heads[layer], :, queries].transpose(0, 1)
    analytic = pattern.values.cpu()
    sequence, query, key = (analytic > 0).nonzero(as_tuple=True)
    points = {
        "sequence": sequence,
        "query": query,
        "key": key,
        "layer": torch.full_like(query, layer),
        "head": heads[layer, query],
    }
    return Panel(
        name=pattern.name,
        where=f"attention of layer {layer}, nearest heads",
        labels=("algorithm's attention (0 to 1)", "model's attention (0 to 1)"),
        columns={name: value.numpy() for name, value in points.items()},
        analytic=analytic[sequence, query, key].double().numpy(),
        model=nearest[sequence, query, key].double().numpy(),
        groups=(query - key).numpy(),
        grouped_by="query − key",
    )


def _inferred(analysis: Analysis) -> list[Panel]:
    """The latent, if both the model and the algorithm say something of it."""
    if not {REFERENCE, MODEL} <= set(analysis.latents):
        return []
    one_step, model = (
        analysis.latents[source].detach().cpu().double() for source in (REFERENCE, MODEL)
    )
    sequence, position, component = (one_step + model).isfinite().nonzero(as_tuple=True)
    names = np.array(analysis.components)[component.numpy()]
    panel = Panel(
        name=analysis.latent,
        where="implied by the model's predictions",
        labels=(f"{REFERENCE} (0 to 1)", "model (0 to 1)"),
        columns={"sequence": sequence.numpy(), "query": position.numpy(), "component": names},
        analytic=one_step[sequence, position, component].numpy(),
        model=model[sequence, position, component].numpy(),
        groups=names,
    )
    return [panel]


def _draw(panels: list[Panel]) -> Any:
    from matplotlib.ticker import MaxNLocator

    inches = (PANEL_INCHES[0] * len(panels) + 0.3, PANEL_INCHES[1] + 0.5)
    figure, [row] = style.new_figure(inches, 1, len(panels))
    for axes, panel in zip(row, panels, strict=True):
        _draw_points(axes, panel)
        end = max(panel.analytic.max(), panel.model.max()) * MARGIN
        axes.plot([0, end], [0, end], color=style.INK, linewidth=0.8, zorder=4)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(N_TICKS, steps=[1, 2, 2.5, 5, 10]))
        axes.set(xlim=(-0.02 * end, end), ylim=(-0.02 * end, end), aspect="equal")
        axes.tick_params(labelsize="small")
        axes.set_xlabel(panel.labels[0], fontsize="small")
        axes.set_ylabel(panel.labels[1], fontsize="small")
        r_squared = f"R² = {panel.r_squared:.3f}".replace("-", "−")
        fit = "R² not defined" if np.isnan(panel.r_squared) else r_squared
        title = f"{panel.name}\n{panel.where}\n{fit}, n = {len(panel.analytic)}"
        axes.set_title(title, loc="left", fontsize="small")
        style.plain(axes, grid="both")
    return figure


def _draw_points(axes: Any, panel: Panel) -> None:
    """Coloured by group, unless there are more groups than colours."""
    crowd = FEW / len(panel.analytic)
    opacity = min(max(BOLDEST * crowd, FAINTEST), BOLDEST)
    look = {"s": 10 if crowd >= 1 else 5, "alpha": opacity, "linewidths": 0, "zorder": 3}
    groups = list(dict.fromkeys(sorted(panel.groups.tolist())))
    if not 1 < len(groups) <= len(style.MODEL_COLOURS):
        colour = style.MODEL_COLOURS[0]
        axes.scatter(panel.analytic, panel.model, color=colour, rasterized=True, **look)
        return
    for name, colour in zip(groups, style.MODEL_COLOURS, strict=False):
        at = panel.groups == name
        values = panel.analytic[at], panel.model[at]
        axes.scatter(*values, color=colour, label=str(name), rasterized=True, **look)
    legend = axes.legend(
        title=panel.grouped_by or None, loc="upper center", bbox_to_anchor=(0.5, -0.2),
        ncols=len(groups), frameon=False, fontsize="small", title_fontsize="small",
        handletextpad=0.1, columnspacing=0.7,
    )  # fmt: skip
    for handle in legend.legend_handles:
        handle.set(alpha=1, sizes=[24])


def _table(inspection: Inspection, panels: list[Panel]) -> Any:
    """A row for each point; what a panel's points do not have is left empty."""
    import pandas as pd

    parts = [
        pd.DataFrame(
            style.provenance(inspection)
            | {"panel": panel.name, "where": panel.where}
            | panel.columns
            | {"algorithm_value": panel.analytic, "model_value": panel.model}
        )
        for panel in panels
    ]
    return pd.concat(parts)
