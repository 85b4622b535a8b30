"""Figures: divergence against context length, claims over training, attention patterns.

Drawn through matplotlib's figure objects alone: pyplot is never imported, and no figure stays open.
matplotlib is imported when a figure is asked for.
"""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mtd_lens.errors import ArgumentError, UnknownNameError, nearest
from probes import files

INCHES = (7.6, 4.4)

SHOWN = ("uniform", "one step", "2 steps", "maximum likelihood", "exact Bayes")
"""Estimators that are drawn unless others are asked for; all of a family that has none of these."""

MODEL_ROW = "model"

MODEL_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito's palette, which readers with any colour vision can tell apart."""

MODEL_MARKERS = ("o", "s", "^", "D", "v", "P", "X")

ESTIMATOR_GREYS = ("#999999", "#7d7d7d", "#626262", "#7d7d7d", "#1a1a1a")
ESTIMATOR_DASHES = ((1, 1.5), (6, 2), (6, 1.5, 1.5, 1.5), (2.5, 1.5), ())
ESTIMATOR_MARKERS = ("1", "x", "+", "2", ".", "3", "4")
"""So many that dashes, greys and markers together repeat late."""

LOWEST_SCORE = -1.0
"""Scores below this are drawn at it: how much worse than the reference says little."""

MAX_TICKS = 10
LABELLED_DIGITS = {0.8: range(1, 10), 2.5: (1, 2, 5), math.inf: (1,)}
"""Leading digits of the labelled divergences, for axes of up to so many decades."""


@runtime_checkable
class Compared(Protocol):
    """What is drawn: the result of ``compare``."""

    @property
    def model(self) -> str: ...  # noqa: D102
    @property
    def task(self) -> Any: ...  # noqa: D102
    @property
    def seed(self) -> int: ...  # noqa: D102
    @property
    def n_sequences(self) -> int: ...  # noqa: D102
    @property
    def lengths(self) -> tuple[int, ...]: ...  # noqa: D102
    @property
    def rows(self) -> tuple[tuple[Any, ...], ...]: ...  # noqa: D102
    @property
    def divergence(self) -> str: ...  # noqa: D102


def plot_comparisons(
    comparisons: Any,
    path: str | os.PathLike[str] | None = None,
    *,
    estimators: Sequence[str] | None = None,
) -> Any:
    """Divergence from the truth against context length: models in colour, estimators in grey.

    Bands are the models' 95% bootstrap intervals. The estimators' are of much the same width, since
    the sequences are the same, and are left to the table and to each comparison's ``to_json``.

    Args:
        comparisons: Results of ``compare``, of one task and the same lengths, number of sequences
            and seed, so that their estimators are the same; each gives one model's line.
        path: Also write the figure there, as PNG or SVG by its ending.
        estimators: Names of the estimators to draw; by default those of ``SHOWN``.

    Returns:
        A ``matplotlib.figure.Figure``.

    Raises:
        ArgumentError: Nothing to draw, comparisons that are not comparable, two models of one
            name, or a path that ends in neither ``.png`` nor ``.svg``.
        UnknownNameError: An estimator that was not compared.
        OutputPathError: The path cannot be written to.
    """
    compared = _checked(comparisons)
    names = _checked_estimators(compared[0], estimators)
    target = None if path is None else check_figure_path(path)
    return write_figure(_draw(compared, names), target)


def plot_training(
    steps: Sequence[int],
    claims: Mapping[str, Sequence[Mapping[str, Any]]],
    path: str | os.PathLike[str] | None = None,
    *,
    title: str = "",
) -> Any:
    """Scores of claims over the steps of a training run, with their 95% intervals.

    Args:
        steps: At which checkpoints were scored, increasing.
        claims: By claim, at each step, ``score``, ``low``, ``high`` and ``threshold`` as in a
            scorecard's JSON.
        path: Also write the figure there, as PNG or SVG by its ending.
        title: Of the figure.

    Returns:
        A ``matplotlib.figure.Figure``. Scores below ``LOWEST_SCORE`` are drawn at it.

    Raises:
        ArgumentError: No steps, or a path that ends in neither ``.png`` nor ``.svg``.
        OutputPathError: The path cannot be written to.
    """
    if not steps or not claims or any(len(results) != len(steps) for results in claims.values()):
        raise ArgumentError("plot_training needs at least one step, and as many results a claim.")
    target = None if path is None else check_figure_path(path)
    from matplotlib.figure import Figure

    variables = list(dict.fromkeys(claim.partition(".")[0] for claim in claims))
    figure = Figure(figsize=(2.6 * len(variables) + 1.2, 3.0), layout="constrained")
    panels = figure.subplots(1, len(variables), sharey=True, squeeze=False)[0]
    tests = list(dict.fromkeys(claim.partition(".")[2] for claim in claims))
    shown: dict[str, Any] = {}
    for axes, variable in zip(panels, variables, strict=True):
        for index, test in enumerate(tests):
            results = claims.get(f"{variable}.{test}")
            if results is None or any(result["score"] is None for result in results):
                continue
            score, low, high = (
                [max(result[key], LOWEST_SCORE) for result in results]
                for key in ("score", "low", "high")
            )
            style = _model_style(index) | {"linewidth": 1.8, "markersize": 4}
            (shown[test],) = axes.plot(steps, score, label=test, **style)
            axes.fill_between(steps, low, high, color=style["color"], alpha=0.2, linewidth=0)
        threshold = next(iter(claims.values()))[0]["threshold"]
        axes.axhline(threshold, color="#7d7d7d", linestyle=(0, (4, 3)), linewidth=1)
        axes.set_title(variable.replace("_", " "), fontsize="medium")
        axes.set_xlabel("step")
        axes.set_ylim(LOWEST_SCORE - 0.05, 1.05)
        _plain(axes)
    panels[0].set_ylabel(f"score (at least {LOWEST_SCORE:g} shown)")
    figure.legend(shown.values(), shown.keys(), loc="outside right upper", frameon=False)
    figure.suptitle(
        f"{title}; dashed: threshold".lstrip("; "), x=0.01, ha="left", fontsize="medium"
    )
    return write_figure(figure, target)


def plot_attention(
    patterns: Mapping[str, Sequence[Sequence[float]]],
    path: str | os.PathLike[str] | None = None,
) -> Any:
    """Mean attention at the last query, a row for each model, a column for each layer.

    Args:
        patterns: By model, for each layer, the attention to every key position.
        path: Also write the figure there, as PNG or SVG by its ending.

    Returns:
        A ``matplotlib.figure.Figure``.

    Raises:
        ArgumentError: Nothing to draw, or a path that ends in neither ``.png`` nor ``.svg``.
        OutputPathError: The path cannot be written to.
    """
    if not patterns or not all(patterns.values()):
        raise ArgumentError("plot_attention needs at least one model with one layer.")
    target = None if path is None else check_figure_path(path)
    from matplotlib.figure import Figure

    n_layers = max(map(len, patterns.values()))
    figure = Figure(
        figsize=(2.1 * n_layers + 1.0, 1.35 * len(patterns) + 0.6), layout="constrained"
    )
    panels = figure.subplots(len(patterns), n_layers, sharey="row", squeeze=False)
    for row, (name, layers) in zip(panels, patterns.items(), strict=True):
        for layer, axes in enumerate(row):
            if layer >= len(layers):
                axes.set_visible(False)
                continue
            values = layers[layer]
            axes.bar(range(len(values)), values, width=0.9, color=MODEL_COLOURS[0])
            axes.set_title(f"layer {layer}", fontsize="small")
            axes.tick_params(labelsize="x-small")
            axes.set_xlim(-1, len(values))
            _plain(axes)
        row[0].set_ylabel(name.replace("-", "-\n", 2), fontsize="x-small")
    figure.supxlabel("key position", fontsize="small")
    figure.suptitle(
        "attention at the last query, mean over sequences and heads", x=0.01, ha="left",
        fontsize="medium",
    )  # fmt: skip
    return write_figure(figure, target)


def _plain(axes: Any) -> None:
    axes.grid(axis="y", color="#e4e4e4", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def write_figure(figure: Any, target: Path | None) -> Any:
    """``figure``, also written to ``target`` if there is one."""
    if target is not None:
        files.write_figure(figure, target)
    return figure


def _draw(compared: Sequence[Compared], names: Sequence[str]) -> Any:
    from matplotlib.figure import Figure
    from matplotlib.ticker import (
        FixedLocator,
        LogLocator,
        NullLocator,
        ScalarFormatter,
        StrMethodFormatter,
    )

    first = compared[0]
    figure = Figure(figsize=INCHES, layout="constrained")
    axes = figure.add_subplot()
    for index, name in enumerate(names):
        _line(axes, first, name, name, _estimator_style(index))
    for index, comparison in enumerate(compared):
        style = _model_style(index)
        _band(axes, comparison, style["color"])
        _line(axes, comparison, MODEL_ROW, _shortened(comparison), style)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(FixedLocator(sorted(set(first.lengths)), nbins=MAX_TICKS))
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("context length T (tokens)")
    axes.set_yscale("log")
    low, high = axes.get_ylim()
    decades = math.log10(high / low)
    digits = next(digits for most, digits in LABELLED_DIGITS.items() if decades <= most)
    axes.yaxis.set_major_locator(LogLocator(subs=[float(digit) for digit in digits]))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    measure, _, unit = first.divergence.partition(", ")
    axes.set_ylabel(f"{measure}(truth ‖ prediction)" + (f", {unit}" if unit else ""))
    _plain(axes)
    task = first.task if isinstance(first.task, str) else "a task of the user's own"
    axes.set_title(
        f"{task}: prediction after the last token of the context\n"
        f"{first.n_sequences} sequences a length, seed {first.seed}; models with 95% intervals",
        loc="left",
        fontsize="medium",
    )
    handles, labels = axes.get_legend_handles_labels()
    highest_first = sorted(zip(handles, labels, strict=True), key=_last_height, reverse=True)
    axes.legend(
        *zip(*highest_first, strict=True),
        loc="upper left",
        bbox_to_anchor=(1.02, 1.0),
        borderaxespad=0,
        frameon=False,
        handlelength=4,
    )
    return figure


def _estimator_style(index: int) -> dict[str, Any]:
    return {
        "color": ESTIMATOR_GREYS[index % len(ESTIMATOR_GREYS)],
        "linestyle": (0, ESTIMATOR_DASHES[index % len(ESTIMATOR_DASHES)] or None),
        "marker": ESTIMATOR_MARKERS[index % len(ESTIMATOR_MARKERS)],
        "linewidth": 1.2,
        "markersize": 6,
        "zorder": 4,
    }


def _model_style(index: int) -> dict[str, Any]:
    return {
        "color": MODEL_COLOURS[index % len(MODEL_COLOURS)],
        "marker": MODEL_MARKERS[index % len(MODEL_MARKERS)],
        "linewidth": 2.8,
        "markersize": 6,
        "zorder": 3,
    }


def _shortened(comparison: Compared) -> str:
    """The model's name, without the task's where that stands in the title."""
    return comparison.model.removeprefix(f"{comparison.task}/")


def _row(comparison: Compared, name: str) -> tuple[list[int], list[Any]]:
    """Lengths in order, and what was found at each."""
    found = {
        length: next(entry for entry in entries if entry.name == name)
        for length, entries in zip(comparison.lengths, comparison.rows, strict=True)
    }
    lengths = sorted(found)
    return lengths, [found[length] for length in lengths]


def _line(axes: Any, comparison: Compared, name: str, label: str, style: dict[str, Any]) -> None:
    lengths, entries = _row(comparison, name)
    axes.plot(lengths, [entry.divergence for entry in entries], label=label, **style)


def _band(axes: Any, comparison: Compared, colour: str) -> None:
    lengths, entries = _row(comparison, MODEL_ROW)
    lows, highs = [entry.low for entry in entries], [entry.high for entry in entries]
    if len(lengths) > 1:
        axes.fill_between(lengths, lows, highs, color=colour, alpha=0.2, linewidth=0, zorder=2)
    else:  # a band of no width cannot be seen
        axes.vlines(lengths, lows, highs, color=colour, linewidth=1.5, zorder=2)


def _last_height(handle_and_label: tuple[Any, str]) -> float:
    return float(handle_and_label[0].get_ydata()[-1])


def _checked(comparisons: Any) -> list[Compared]:
    listed = list(comparisons) if isinstance(comparisons, Iterable) else [comparisons]
    if not listed:
        raise ArgumentError("there is nothing to draw: give at least one result of compare.")
    for item in listed:
        if not isinstance(item, Compared):
            raise ArgumentError(f"expected results of compare; got a {type(item).__name__}.")
    first = listed[0]
    for other in listed[1:]:
        for what in ("task", "lengths", "n_sequences", "seed", "divergence"):
            one, two = getattr(first, what), getattr(other, what)
            if one != two:
                raise ArgumentError(
                    f"comparisons in one figure must share their {what}; {first.model!r} has "
                    f"{_short(one)}, {other.model!r} has {_short(two)}. Run compare with the same "
                    "task, lengths, n_sequences and seed for each model."
                )
    names = [item.model for item in listed]
    for name in names:
        if names.count(name) > 1:
            raise ArgumentError(
                f"two comparisons are of a model called {name!r}. Give compare a name for each."
            )
    return listed


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _checked_estimators(comparison: Compared, wanted: Sequence[str] | None) -> list[str]:
    known = [entry.name for entry in comparison.rows[0] if entry.name != MODEL_ROW]
    if wanted is None:
        return [name for name in known if name in SHOWN] or known
    for name in wanted:
        if name not in known:
            raise UnknownNameError(f"no estimator is named {name!r}. {nearest(name, known)}")
    return list(wanted)


def check_figure_path(path: Any) -> Path:
    """The path with links resolved, after checking that a figure can be written there.

    Raises:
        ArgumentError: It ends in neither ``.png`` nor ``.svg``.
        OutputPathError: It cannot be written to.
    """
    return files.check_figure_path(path, ArgumentError)
