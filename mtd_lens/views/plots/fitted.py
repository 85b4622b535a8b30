"""A fitted sum of evidence beside a known rule's, its weights of positions, and divergences."""

import os
from typing import TYPE_CHECKING, Any

from mtd_lens.errors import ArgumentError
from mtd_lens.results.fitted import FITTED, REFERENCE, FittedAlgorithm
from mtd_lens.views.plots import style
from mtd_lens.views.plots.outputs import written

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

INCHES = (13.0, 4.8)
WIDTHS = (1.0, 1.0, 1.15)

LEAST_SHARE = 0.3
"""Bars begin at this share of the least divergence; their axis is logarithmic."""


def plot_fitted(
    fitted: FittedAlgorithm,
    path: str | os.PathLike[str] | None = None,
    *,
    data: str | os.PathLike[str] | None = None,
) -> "matplotlib.figure.Figure":
    """Fitted evidence against the first known rule's, the weights of positions, and divergences.

    Args:
        fitted: What ``fit_algorithm`` returned.
        path: Also write the figure there, as PNG or SVG by its ending.
        data: Also write what is drawn there, as CSV: a row for each point, weight and bar.

    Returns:
        A ``matplotlib.figure.Figure``; points are windows as often as they occur.

    Raises:
        ArgumentError: Something else than a fitted algorithm, a path that ends in neither ``.png``
            nor ``.svg``, or data that do not end in ``.csv``.
        OutputPathError: A path cannot be written to.
    """
    if not isinstance(fitted, FittedAlgorithm):
        raise ArgumentError(
            "plot_fitted draws what mtd_lens.fit_algorithm returned; got a "
            f"{type(fitted).__name__}."
        )
    return written(path, data, lambda: _draw(fitted), lambda: _table(fitted))


def _draw(fitted: FittedAlgorithm) -> "matplotlib.figure.Figure":
    figure, [panels] = style.new_figure(INCHES, 1, 3, width_ratios=WIDTHS)
    for axes, draw in zip(panels, (_points, _weights, _bars), strict=True):
        draw(axes, fitted)
        axes.tick_params(labelsize="small")
    style.add_title(figure, fitted._title())
    return figure


def _points(axes: "matplotlib.axes.Axes", fitted: FittedAlgorithm) -> None:
    rule = fitted.resemblances[0]
    for lag in range(fitted.shown.shape[1]):
        colour = style.MODEL_COLOURS[lag % len(style.MODEL_COLOURS)]
        axes.plot(
            rule.shown[:, lag], fitted.shown[:, lag], ".", color=colour, alpha=0.6,
            markersize=4, label=f"lag {lag + 1}",
        )  # fmt: skip
    style.plain(axes, "both")
    axes.set_xlabel(f"{rule.name}, centred over lags", fontsize="small")
    axes.set_ylabel("fitted evidence, centred", fontsize="small")
    axes.legend(frameon=False, fontsize="small", handletextpad=0.2)
    axes.set_title(f"evidence of a window: r = {rule.correlation}", loc="left", fontsize="medium")


def _weights(axes: "matplotlib.axes.Axes", fitted: FittedAlgorithm) -> None:
    weights = fitted.position_weights
    ages = range(len(weights))
    axes.axhline(1.0, color=style.FAINT, linewidth=0.8)
    axes.vlines(
        ages, [w.low for w in weights], [w.high for w in weights], color=style.MODEL_COLOURS[0]
    )
    axes.plot(ages, [w.score for w in weights], "o", color=style.MODEL_COLOURS[0], markersize=4)
    axes.set_ylim(bottom=min(0.0, *(w.low for w in weights)))
    axes.invert_xaxis()
    style.plain(axes)
    axes.set_xlabel("positions before the query", fontsize="small")
    axes.set_ylabel("weight [95% interval]", fontsize="small")
    axes.set_title("weights of positions, mean 1", loc="left", fontsize="medium")


def _bars(axes: "matplotlib.axes.Axes", fitted: FittedAlgorithm) -> None:
    rows = fitted.misfits
    least = LEAST_SHARE * min(
        (r.divergence.score for r in rows if r.divergence.score > 0), default=1
    )
    for height, row in enumerate(rows):
        found, colour = row.divergence, _colour(row.kind)
        axes.barh(height, max(found.score - least, 0.0), left=least, height=0.7, color=[colour])
        axes.plot(
            [max(end, least) for end in (found.low, found.high)], [height] * 2, color=style.INK
        )
    axes.set_xscale("log")
    axes.set_xlim(left=least)
    axes.set_yticks(range(len(rows)), [row.name for row in rows], fontsize="small")
    axes.invert_yaxis()
    style.plain(axes, "x")
    measure, _, unit = fitted.divergence.partition(", ")
    axes.set_xlabel(f"{measure}(model ‖ it)" + (f", {unit}" if unit else ""), fontsize="small")
    axes.set_title("held out, with 95% intervals", loc="left", fontsize="medium")


def _colour(kind: str) -> Any:
    """The fit as models are, references and controls in greys."""
    if kind == FITTED:
        return style.MODEL_COLOURS[0]
    return (style.INK, 0.45 if kind == REFERENCE else 0.2)


def _table(fitted: FittedAlgorithm) -> list[dict[str, Any]]:
    rule = fitted.resemblances[0]
    pairs = zip(rule.shown.tolist(), fitted.shown.tolist(), strict=True)
    points = [
        {"panel": "evidence", "name": f"lag {lag}", rule.name: known, "value": own}
        for known_row, own_row in pairs
        for lag, (known, own) in enumerate(zip(known_row, own_row, strict=True), start=1)
    ]
    weights = [
        {"panel": "weights", "name": f"{age} before the query", "value": w.score}
        | {"low": w.low, "high": w.high}
        for age, w in enumerate(fitted.position_weights)
    ]
    bars = [
        {"panel": "divergence", "name": row.name, "value": row.divergence.score}
        | {"low": row.divergence.low, "high": row.divergence.high}
        for row in fitted.misfits
    ]
    return points + weights + bars
