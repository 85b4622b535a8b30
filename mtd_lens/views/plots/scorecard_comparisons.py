"""Scorecards beside each other: the scores of every claim, and their differences."""

import os
from typing import TYPE_CHECKING, Any

from mtd_lens.errors import ArgumentError
from mtd_lens.results.forms import figure as number, interval
from mtd_lens.results.scorecard_comparison import ScorecardComparison
from mtd_lens.verdicts import PARTIAL, SUPPORTED
from mtd_lens.views.plots import style
from mtd_lens.views.plots.cells import LOWEST_SCORE
from mtd_lens.views.plots.outputs import written

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

ROW = 0.17
"""Height a claim and scorecard, in inches."""

INCHES = (11.6, 2.1)
"""Width of the figure, and its height without the rows."""

SPREAD = 0.62
"""Share of a claim's row that its scorecards take."""

FILLED = {SUPPORTED: 1.0, PARTIAL: 0.45}
"""How opaque a disc is, by verdict; others are rings."""

MOST_APART = 1.5
"""Differences beyond are drawn at the edge."""


def plot_scorecard_comparison(
    comparison: ScorecardComparison,
    path: str | os.PathLike[str] | None = None,
    *,
    data: str | os.PathLike[str] | None = None,
) -> "matplotlib.figure.Figure":
    """Scores of every claim in several scorecards, and how far each is from the first one's.

    Full discs are supported claims, pale ones partial, rings all others; bars are 95% intervals.

    Args:
        comparison: What ``compare_scorecards`` returned.
        path: Also write the figure there, as PNG or SVG by its ending.
        data: Also write what is drawn there, as CSV: a row for each claim and further scorecard.

    Returns:
        A ``matplotlib.figure.Figure``. Scores below ``LOWEST_SCORE`` and differences beyond
        ``MOST_APART`` are drawn as arrows at the edge.

    Raises:
        ArgumentError: Something else than a comparison of scorecards, a path that ends in neither
            ``.png`` nor ``.svg``, or data that do not end in ``.csv``.
        OutputPathError: A path cannot be written to.
    """
    if not isinstance(comparison, ScorecardComparison):
        raise ArgumentError(
            "plot_scorecard_comparison draws what mtd_lens.compare_scorecards returned; got a "
            f"{type(comparison).__name__}."
        )
    return written(path, data, lambda: _draw(comparison), comparison.to_dataframe)


def _draw(comparison: ScorecardComparison) -> "matplotlib.figure.Figure":
    n_cards, n = len(comparison.cards), len(comparison)
    inches = (INCHES[0], INCHES[1] + ROW * n * n_cards)
    figure, [[left, right]] = style.new_figure(inches, 1, 2, sharey=True, width_ratios=(1, 1))
    for axes, at in ((left, (0, 1)), (right, (0,))):
        style.plain(axes, "x")
        for x in at:
            axes.axvline(x, color=(style.INK, 0.5), linewidth=0.8, zorder=1)
    offsets = [SPREAD * ((i + 0.5) / n_cards - 0.5) for i in range(n_cards)]
    for height, claim in enumerate(comparison):
        for index, found in enumerate(claim.found):
            if found is not None and found.score is not None:
                y = height + offsets[index]
                limits = (LOWEST_SCORE, 1.0)
                _mark(left, found, y, _colour(index), FILLED.get(found.verdict, 0.0), limits)
        words = []
        for index, apart in enumerate(claim.differences, start=1):
            if apart is not None:
                limits = (-MOST_APART, MOST_APART)
                _mark(right, apart, height + offsets[index], _colour(index), 1.0, limits)
                words.append(f"{number(apart.score, 2)} {interval(apart, 2)}")
        shown = words[0] if n_cards == 2 and words else ""
        right.annotate(
            shown, (1, height), xycoords=("axes fraction", "data"), xytext=(6, 0),
            textcoords="offset points", va="center", fontsize="x-small",
        )  # fmt: skip
    if n_cards == 2:
        first, second = comparison.letters
        right.annotate(
            f"{second} − {first} [95%]", (1, 1), xycoords="axes fraction", xytext=(6, 0),
            textcoords="offset points", va="bottom", fontsize="x-small", weight="bold",
        )  # fmt: skip
    left.set_xlim(LOWEST_SCORE - 0.05, 1.05)
    right.set_xlim(-MOST_APART, MOST_APART)
    left.set_ylim(n - 0.4, -0.6)
    left.set_yticks(
        range(n),
        [claim.id.replace("_", " ").replace(".", ": ") for claim in comparison],
        fontsize=7,
    )
    right.tick_params(left=False)
    for axes in (left, right):
        axes.tick_params(axis="x", labelsize="small")
    left.set_xlabel("score (1: as the algorithm, 0: no better than the reference)", fontsize=8)
    right.set_xlabel(f"score − that of {comparison.letters[0]}", fontsize="small")
    named = zip(comparison.letters, comparison.cards, strict=True)
    handles: dict[str, Any] = {
        f"{letter}: {card.name}": left.plot(
            [], [], "o", color=_colour(index), markersize=6, markeredgewidth=0
        )[0]
        for index, (letter, card) in enumerate(named)
    }
    style.add_legend_below(figure, handles)
    style.add_title(
        figure,
        f"{len(comparison.cards)} scorecards against {comparison.algorithm}\n"
        "Full: supported; pale: partial; ring: any other verdict. Bars: 95% intervals; arrows: "
        "beyond the edge",
    )
    return figure


def _colour(index: int) -> str:
    return style.MODEL_COLOURS[index % len(style.MODEL_COLOURS)]


def _mark(
    axes: "matplotlib.axes.Axes",
    found: Any,
    height: float,
    colour: str,
    opacity: float,
    limits: tuple[float, float],
) -> None:
    """A disc, or beyond an end an arrow, as full as its verdict says, with its interval."""
    score, mark = style.draw_bar(axes, found, height, colour, limits, 1.3)
    disc: dict[str, Any] = {"markersize": 5, "zorder": 3, "clip_on": False}
    axes.plot(score, height, mark, mfc="white", mec=colour, mew=1.2, **disc)
    axes.plot(score, height, mark, color=colour, alpha=opacity, mew=0, **disc)
