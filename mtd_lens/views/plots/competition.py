"""Which algorithm: how near each is to a model, and what is left for its rivals."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mtd_lens.errors import ArgumentError
from mtd_lens.results.competition import Competition, Duel
from mtd_lens.results.forms import figure as number, interval
from mtd_lens.views.plots import style
from mtd_lens.views.plots.outputs import written
from mtd_lens.views.plots.scorecards import VERDICT_COLOURS
from probes.statistics.intervals import Interval

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

ROW = 0.42
"""Height of an algorithm's row, in inches."""

INCHES = (10.4, 1.9)
"""Width of the figure, and its height without the rows."""

LEAST_SHOWN = 1e-6
"""Smaller divergences are drawn at the left edge."""

DECADE = 10.0

AROUND = 1.5
"""By which factor the axis of divergences goes beyond what is drawn."""

LIMITS = (-0.75, 1.75)
"""Of shares that are drawn."""


def plot_competition(
    competition: Competition,
    path: str | os.PathLike[str] | None = None,
    *,
    data: str | os.PathLike[str] | None = None,
) -> "matplotlib.figure.Figure":
    """Each algorithm's divergence from a model, and where the model lies between two of them.

    At the right, of the nearest algorithm and each rival where the two differ most: 0 where the
    model predicts as the nearest one, 1 where as the rival, with intervals for as many rivals.

    Args:
        competition: What ``compete`` returned.
        path: Also write the figure there, as PNG or SVG by its ending.
        data: Also write what is drawn there, as CSV: a row for each algorithm.

    Returns:
        A ``matplotlib.figure.Figure``. Divergences below ``LEAST_SHOWN`` are drawn at it.

    Raises:
        ArgumentError: Something else than a competition, a path that ends in neither ``.png`` nor
            ``.svg``, or data that do not end in ``.csv``.
        OutputPathError: A path cannot be written to.
    """
    if not isinstance(competition, Competition):
        raise ArgumentError(
            "plot_competition draws what mtd_lens.compete returned; got a "
            f"{type(competition).__name__}."
        )
    return written(path, data, lambda: _draw(competition), competition.to_dataframe)


def _draw(competition: Competition) -> "matplotlib.figure.Figure":
    n = len(competition)
    figure, [[left, right]] = style.new_figure(
        (INCHES[0], INCHES[1] + ROW * n), 1, 2, sharey=True, width_ratios=(1, 1)
    )
    _draw_divergences(left, competition)
    _draw_shares(right, competition.against_nearest())
    left.set_ylim(n - 0.5, -0.5)
    style.add_title(
        figure,
        f"{competition.short_name} on {competition.task_name}, {competition.n_sequences} "
        f"sequences, seed {competition.seed}\n{competition.conclusion}",
    )
    return figure


def _draw_divergences(axes: "matplotlib.axes.Axes", competition: Competition) -> None:
    """A row for each algorithm, with its verdict."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    style.plain(axes, "x")
    axes.set_xscale("log")
    for height, contender in enumerate(competition):
        colour: Any = VERDICT_COLOURS.get(contender.verdict, (style.INK, 0.3))
        _mark(axes, contender.divergence, height, colour, (LEAST_SHOWN, float("inf")))
        _say(axes, height, contender.verdict.replace("_", " "))
    shown = [
        max(x, LEAST_SHOWN) for c in competition for x in (c.divergence.low, c.divergence.high)
    ]
    axes.set_xlim(min(shown) / AROUND, max(*shown, 2 * LEAST_SHOWN) * AROUND)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    if max(shown) < DECADE * min(shown):  # too narrow for powers of ten
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks(range(len(competition)), [c.name for c in competition], fontsize="small")
    axes.tick_params(labelsize="small")
    measure, _, unit = competition.divergence.partition(", ")
    unit = f", {unit}" * bool(unit)
    axes.set_xlabel(f"{measure}, algorithm ‖ model{unit} (bars: 95%)", fontsize="small")


def _draw_shares(axes: "matplotlib.axes.Axes", duels: Sequence[Duel]) -> None:
    """A row for each rival of the nearest algorithm, which stands first."""
    style.plain(axes, "x")
    for at in (0, 1):
        axes.axvline(at, color=(style.INK, 0.5), linewidth=0.8, zorder=1)
    for height, duel in enumerate(duels, start=1):
        if duel.share is None:
            _say(axes, height, "predicts alike")
            continue
        _mark(axes, duel.share, height, style.MODEL_COLOURS[0], LIMITS)
        _say(axes, height, f"{number(duel.share.score, 2)} {interval(duel.share, 2)}")
    axes.set_xlim(*LIMITS)
    axes.set_xticks([-0.5, 0, 0.5, 1, 1.5])
    axes.tick_params(labelsize="small", left=False)
    axes.set_xlabel("0: as the nearest algorithm, 1: as this rival", fontsize="small")


def _mark(
    axes: "matplotlib.axes.Axes",
    found: Interval,
    height: int,
    colour: Any,
    limits: tuple[float, float],
) -> None:
    """A disc, or beyond an end an arrow, with its interval."""
    score, mark = style.draw_bar(axes, found, height, colour, limits, 1.6)
    disc: dict[str, Any] = {"markersize": 6, "markeredgewidth": 0, "zorder": 3, "clip_on": False}
    axes.plot(score, height, mark, color=colour, **disc)


def _say(axes: "matplotlib.axes.Axes", height: int, words: str) -> None:
    axes.annotate(
        words, (1, height), xycoords=("axes fraction", "data"), xytext=(6, 0),
        textcoords="offset points", va="center", fontsize="small",
    )  # fmt: skip
