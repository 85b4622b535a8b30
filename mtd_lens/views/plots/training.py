"""Scores of claims over the steps of a training run."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mtd_lens.errors import ArgumentError
from mtd_lens.views.plots import style
from mtd_lens.views.plots.cells import LOWEST_SCORE
from mtd_lens.views.plots.outputs import written
from probes import checks

FIGURES = ("score", "low", "high", "threshold")

if TYPE_CHECKING:
    import matplotlib.figure


def plot_training(
    steps: Sequence[int],
    claims: Mapping[str, Sequence[Mapping[str, Any]]],
    path: str | os.PathLike[str] | None = None,
    *,
    title: str = "",
    data: str | os.PathLike[str] | None = None,
) -> "matplotlib.figure.Figure":
    """Scores of claims over the steps of a training run, with their 95% intervals.

    Args:
        steps: At which checkpoints were scored, increasing.
        claims: By claim, at each step, ``score``, ``low``, ``high`` and ``threshold`` as in a
            scorecard's JSON. A claim that does not apply at some step is left out.
        path: Also write the figure there, as PNG or SVG by its ending.
        title: Of the figure: model, task and seed.
        data: Also write what is drawn there, as CSV: a row for each claim and step, with the scores
            as they are.

    Returns:
        A ``matplotlib.figure.Figure``. Scores below ``LOWEST_SCORE`` are drawn at it.

    Raises:
        ArgumentError: No steps, a path that ends in neither ``.png`` nor ``.svg``, or data that do
            not end in ``.csv``.
        OutputPathError: A path cannot be written to.
    """
    steps = checks.integers(steps, "steps", ArgumentError)
    claims = {
        checks.text(claim, "a claim's id", ArgumentError): [
            _result(result, claim)
            for result in checks.listed(results, claim, "results, one a step", ArgumentError)
        ]
        for claim, results in checks.mapping(claims, "claims", ArgumentError).items()
    }
    title = checks.text(title, "title", ArgumentError)
    if not steps or not claims or any(len(results) != len(steps) for results in claims.values()):
        raise ArgumentError("plot_training needs at least one step, and as many results a claim.")
    drawn = {
        claim: results
        for claim, results in claims.items()
        if all(result["score"] is not None for result in results)
    }
    return written(
        path, data, lambda: _draw(steps, claims, drawn, title), lambda: _table(steps, drawn)
    )


def _result(result: object, claim: str) -> dict[str, float | None]:
    """The figures of a claim at a step; None of all where it does not apply."""
    what = f"a result of {claim!r}"
    known = checks.mapping(result, what, ArgumentError)
    if known.get("score", "") is not None:
        for name in FIGURES:
            checks.number(
                known.get(name), f"{name!r} of {what}", -math.inf, math.inf, ArgumentError
            )
    return dict(known)


def _draw(
    steps: Sequence[int],
    claims: Mapping[str, Sequence[Mapping[str, Any]]],
    drawn: Mapping[str, Sequence[Mapping[str, Any]]],
    title: str,
) -> "matplotlib.figure.Figure":
    variables = list(dict.fromkeys(claim.partition(".")[0] for claim in claims))
    tests = list(dict.fromkeys(claim.partition(".")[2] for claim in claims))
    inches = (2.6 * len(variables) + 1.2, 3.0)
    figure, [panels] = style.new_figure(inches, 1, len(variables), sharey=True)
    shown: dict[str, Any] = {}
    for axes, variable in zip(panels, variables, strict=True):
        for index, test in enumerate(tests):
            results = drawn.get(f"{variable}.{test}")
            if results is None:
                continue
            score, low, high = (
                [max(result[key], LOWEST_SCORE) for result in results]
                for key in ("score", "low", "high")
            )
            look = style.model_style(index) | {"linewidth": 1.8, "markersize": 4}
            (shown[test],) = axes.plot(steps, score, label=test, **look)
            axes.fill_between(steps, low, high, color=look["color"], alpha=0.2, linewidth=0)
        threshold = next(iter(claims.values()))[0]["threshold"]
        axes.axhline(threshold, color=style.FAINT, linestyle=(0, (4, 3)), linewidth=1)
        axes.set_title(variable.replace("_", " "), fontsize="medium")
        axes.set_xlabel("step")
        axes.set_ylim(LOWEST_SCORE - 0.05, 1.05)
        style.plain(axes)
    panels[0].set_ylabel(f"score (at least {LOWEST_SCORE:g} shown)")
    figure.legend(shown.values(), shown.keys(), loc="outside right upper", frameon=False)
    style.add_title(figure, f"{title}; dashed: threshold; bands: 95% intervals".lstrip("; "))
    return figure


def _table(
    steps: Sequence[int], drawn: Mapping[str, Sequence[Mapping[str, Any]]]
) -> list[dict[str, Any]]:
    return [
        {"claim": claim, "step": step} | {key: result[key] for key in FIGURES}
        for claim, results in drawn.items()
        for step, result in zip(steps, results, strict=True)
    ]
