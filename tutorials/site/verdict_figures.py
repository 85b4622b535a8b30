"""Discs of verdicts: how claims of models, or algorithms of constructions, do at a glance."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mtd_lens import verdicts
from mtd_lens.views.plots import style
from mtd_lens.views.plots.scorecards import VERDICT_COLOURS

GREY = (style.INK, 0.3)
"""Of verdicts that are neither for nor against."""

IN_ROW, IN_COLUMN = 0.27, 0.5
"""Inches of the figure of claims."""


def colour_of(verdict: str) -> Any:
    """The colour of its disc."""
    return VERDICT_COLOURS.get(verdict, GREY)


def draw_seeds(axes: Any, column: int, row: float, found: Sequence[str]) -> None:
    """The verdict of each seed, side by side."""
    for index, verdict in enumerate(found):
        at = column + 0.22 * (index - (len(found) - 1) / 2)
        axes.plot(at, row, "o", color=colour_of(verdict), markersize=5, markeredgewidth=0)


def legend_of(axes: Any, words: Mapping[str, str]) -> dict[str, Any]:
    """A disc for each of some words, by their verdicts."""
    return {
        said: axes.plot([], [], "o", color=colour_of(verdict), markersize=5, markeredgewidth=0)[0]
        for said, verdict in words.items()
    }


def draw_claims(groups: Mapping[str, Sequence[Mapping[str, Any]]], title: str) -> Any:
    """Every claim (rows) of every group of models (columns), a disc a seed.

    Args:
        groups: Models that differ in their seed alone, by what they have in common.
        title: Of the figure.
    """
    claims = list(
        dict.fromkeys(c for models in groups.values() for m in models for c in m["claims"])
    )
    rows = dict(zip(claims, _rows(claims), strict=True))
    tall = max(rows.values()) + 1
    inches = (2.6 + IN_COLUMN * len(groups), 2.3 + IN_ROW * tall)
    figure, [[axes]] = style.new_figure(inches)
    for column, models in enumerate(groups.values()):
        for claim, row in rows.items():
            draw_seeds(axes, column, row, [m["claims"][claim]["verdict"] for m in models])
    labels = [claim.partition(".")[2].replace("_", " ") for claim in claims]
    axes.set_yticks(list(rows.values()), labels, fontsize="small")
    for variable, row in _heads(rows).items():
        axes.text(
            -0.6, row, f"{variable.replace('_', ' ')} ", ha="right", va="center",
            fontsize="small", fontweight="bold", color=style.INK,
        )  # fmt: skip
        axes.axhline(row, color=style.GRID, linewidth=0.6)
    axes.set_xticks(range(len(groups)), list(groups), rotation=40, ha="left", fontsize="small")
    axes.xaxis.tick_top()
    axes.set_xlim(-0.6, len(groups) - 0.4)
    axes.set_ylim(tall - 0.4, -0.6)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    words = {"supported": verdicts.SUPPORTED, "partial": verdicts.PARTIAL}
    words |= {"refuted": verdicts.REFUTED, "other": verdicts.INCONCLUSIVE}
    style.add_legend_below(figure, legend_of(axes, words))
    style.add_title(figure, title)
    return figure


def _rows(claims: Iterable[str]) -> list[int]:
    """Heights of claims, with a row above each variable's first for its name."""
    heights, variable, at = [], None, -1
    for claim in claims:
        of = claim.partition(".")[0]
        at += 1 if of == variable else 2
        variable = of
        heights.append(at)
    return heights


def _heads(rows: Mapping[str, int]) -> dict[str, int]:
    """Heights of variables' names."""
    heads: dict[str, int] = {}
    for claim, row in rows.items():
        heads.setdefault(claim.partition(".")[0], row - 1)
    return heads
