"""Figures of the three studies of autoregressions."""

from typing import Any

import numpy as np
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from mtd_lens.families.autoregressive.study import DEPTHS, DIM, HEADS, LENGTH, STARTS
from mtd_lens.measures.held_out import N_SEQUENCES
from mtd_lens.views.plots import style
from probes import files
from tutorials.site import RESULTS

Rows = list[dict[str, Any]]


LABELS = {
    "linear attention": "trained linear attention",
    "softmax attention": "trained softmax attention",
    "gradient descent": "gradient descent, one step size",
    "gradient descent, free": "gradient descent, free step sizes",
    "gradient descent, prefix": "gradient descent, prefix variant",
}
"""Of the sources in the figure of errors against depth."""

N_MODELS = 2
"""The first of ``LABELS`` that are models."""


def draw_studies(task: str, depth: Rows, heads: Rows, order: Rows) -> None:
    """Every study's figure, from what was measured on models of a task."""
    with style.applied():
        for name, figure in (
            ("depth", draw_depth(task, depth)),
            ("heads", draw_heads(heads)),
            ("order", draw_order(order)),
        ):
            files.write_figure(figure, RESULTS / f"autoregression-{name}.png")


def _errors(rows: Rows) -> Any:
    """Distances of the intervals' ends from the scores, ``[side, row]``."""
    return np.array([[r["score"] - r["low"], r["high"] - r["score"]] for r in rows]).T


def draw_depth(task: str, rows: Rows) -> Any:
    """Error against depth, with 95% intervals."""
    figure, [[axes]] = style.new_figure((6.4, 4.2))
    handles = {}
    for index, (source, label) in enumerate(LABELS.items()):
        look = style.model_style(index) if index < N_MODELS else style.estimator_style(index)
        mine = [row for row in rows if row["source"] == source]
        depths, values = [r["depth"] for r in mine], [r["score"] for r in mine]
        handles[label] = axes.errorbar(depths, values, _errors(mine), capsize=3, **look)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.set_xticks(DEPTHS)
    axes.set_xlabel("layers, or steps")
    axes.set_ylabel("squared error of the next vector")
    style.plain(axes)
    style.add_title(figure, f"Error against depth: {task}, last query, {N_SEQUENCES} sequences")
    style.add_legend_below(figure, handles)
    return figure


def draw_heads(rows: Rows) -> Any:
    """The loss against the number of heads, the positions used, and the matrix of all heads."""
    figure, [[losses, positions, matrix]] = style.new_figure((10.5, 3.4), 1, 3)
    look = style.model_style(0) | {"linestyle": "none"}
    losses.plot([r["n_heads"] for r in rows], [r["loss"] for r in rows], **look)
    losses.plot(HEADS, [DIM - h for h in HEADS], **style.estimator_style(0) | {"marker": None})
    losses.set_xlabel("heads (dotted: dim - heads)")
    losses.set_ylabel("expected squared error")
    style.plain(losses)
    for row in rows:
        squared = [value**2 for value in row["position"]]
        look = style.model_style(0) | {"linewidth": 1.0, "markersize": 3}
        positions.plot(range(1, LENGTH + 1), squared, **look)
    positions.set_xlabel("key position")
    positions.set_ylabel("share of p²")
    style.plain(positions)
    last = np.array(rows[-1]["matrix"])
    shown = matrix.imshow(last, cmap="RdBu_r", vmin=-1, vmax=1)
    figure.colorbar(shown, ax=matrix, shrink=0.8)
    matrix.set_xlabel("component")
    matrix.set_ylabel("component")
    matrix.set_title(f"p_T BᵀA, {rows[-1]['n_heads']} heads", fontsize="medium")
    style.add_title(
        figure,
        f"Commuting unitary matrices, dim {DIM}, T = {LENGTH}: the closed-form loss, minimised "
        f"from {len(STARTS)} starts a number of heads",
    )
    return figure


def draw_order(rows: Rows) -> Any:
    """Error of the fit against the noise, ordered and shuffled."""
    figure, [[axes]] = style.new_figure((6.0, 4.0))
    handles = {}
    for index, order in enumerate(("ordered", "shuffled")):
        mine = [row for row in rows if row["order"] == order]
        handles[order] = axes.errorbar(
            [r["noise"] for r in mine],
            [r["score"] for r in mine],
            _errors(mine).clip(0),
            capsize=3,
            **style.model_style(index),
        )
    axes.set_ylim(0, 1)
    axes.set_xlabel("noise (standard deviation a component; the first vector has length 1)")
    axes.set_ylabel("share of the squares left by the fit")
    style.plain(axes)
    style.add_title(figure, "Least-squares autoregression of 32 vectors in 5 dimensions")
    style.add_legend_below(figure, handles)
    return figure
