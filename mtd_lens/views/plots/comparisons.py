"""Divergence from the truth against context length."""

import math
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from mtd_lens.errors import ArgumentError, UnknownNameError, nearest
from mtd_lens.results.comparison import Comparison
from mtd_lens.views.plots import style
from mtd_lens.views.plots.outputs import written
from probes import checks

if TYPE_CHECKING:
    import matplotlib.axes
    import matplotlib.figure

INCHES = (7.6, 4.4)
MODEL_ROW = "model"

DIRECTED = "(truth ‖ prediction)"
"""Which way round a divergence that is not symmetric is taken."""

MAX_TICKS = 10
LABELLED_DIGITS = {0.8: range(1, 10), 2.5: (1, 2, 5), math.inf: (1,)}
"""Leading digits of the labelled divergences, for axes of up to so many decades."""


def plot_comparisons(
    comparisons: Iterable[Comparison] | Comparison,
    path: str | os.PathLike[str] | None = None,
    *,
    estimators: Sequence[str] | None = None,
    data: str | os.PathLike[str] | None = None,
) -> "matplotlib.figure.Figure":
    """Divergence from the truth against context length: models in colour, estimators in grey.

    Bands are the models' 95% bootstrap intervals. The estimators' are of much the same width, since
    the sequences are the same, and are left to the table and to each comparison's ``to_json``.

    Args:
        comparisons: Results of ``compare``, of one task and the same lengths, number of sequences
            and seed, so that their estimators are the same; each gives one model's line.
        path: Also write the figure there, as PNG or SVG by its ending.
        estimators: Names of the estimators to draw; by default those that the
            comparison names in ``drawn``.
        data: Also write what is drawn there, as CSV: a row for each line and length.

    Returns:
        A ``matplotlib.figure.Figure``.

    Raises:
        ArgumentError: Nothing to draw, comparisons that are not comparable, two models of one
            name, estimators that are not a list of names, a path that ends in neither ``.png``
            nor ``.svg``, or data that do not end in ``.csv``.
        UnknownNameError: An estimator that was not compared.
        OutputPathError: A path cannot be written to.
    """
    compared = _checked(comparisons)
    names = _checked_estimators(compared[0], estimators)
    return written(path, data, lambda: _draw(compared, names), lambda: _table(compared, names))


def _draw(compared: Sequence[Comparison], names: Sequence[str]) -> "matplotlib.figure.Figure":
    from matplotlib.ticker import (
        FixedLocator,
        LogLocator,
        NullLocator,
        ScalarFormatter,
        StrMethodFormatter,
    )

    first = compared[0]
    figure, [[axes]] = style.new_figure(INCHES)
    for index, name in enumerate(names):
        _line(axes, first, name, name, style.estimator_style(index))
    for index, comparison in enumerate(compared):
        look = style.model_style(index)
        _band(axes, comparison, look["color"])
        _line(axes, comparison, MODEL_ROW, comparison.short_name, look)
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
    what = f"{measure}{DIRECTED}" if measure == "KL" else f"{measure} from the truth"
    axes.set_ylabel(what + (f", {unit}" if unit else ""))
    style.plain(axes)
    axes.set_title(
        f"{first.task_name}: prediction after the last token of the context\n"
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


def _row(comparison: Comparison, name: str) -> tuple[list[int], list[Any]]:
    """Lengths in order, and what was found at each."""
    found = {
        length: next(entry for entry in entries if entry.name == name)
        for length, entries in zip(comparison.lengths, comparison.rows, strict=True)
    }
    lengths = sorted(found)
    return lengths, [found[length] for length in lengths]


def _line(
    axes: "matplotlib.axes.Axes",
    comparison: Comparison,
    name: str,
    label: str,
    look: dict[str, Any],
) -> None:
    lengths, entries = _row(comparison, name)
    axes.plot(lengths, [entry.divergence for entry in entries], label=label, **look)


def _band(axes: "matplotlib.axes.Axes", comparison: Comparison, colour: str) -> None:
    lengths, entries = _row(comparison, MODEL_ROW)
    lows, highs = [entry.low for entry in entries], [entry.high for entry in entries]
    if len(lengths) > 1:
        axes.fill_between(lengths, lows, highs, color=colour, alpha=0.2, linewidth=0, zorder=2)
    else:  # a band of no width cannot be seen
        axes.vlines(lengths, lows, highs, color=colour, linewidth=1.5, zorder=2)


def _table(compared: Sequence[Comparison], names: Sequence[str]) -> list[dict[str, Any]]:
    rows = [(compared[0], name) for name in names] + [(found, MODEL_ROW) for found in compared]
    return [
        {
            "source": name,
            "model": found.model if name == MODEL_ROW else None,
            "task": found.task_name,
            "seed": found.seed,
            "length": length,
            "divergence": entry.divergence,
            "low": entry.low,
            "high": entry.high,
        }
        for found, name in rows
        for length, entry in zip(*_row(found, name), strict=True)
    ]


def _last_height(handle_and_label: tuple[Any, str]) -> float:
    return float(handle_and_label[0].get_ydata()[-1])


def _checked(comparisons: Iterable[Comparison] | Comparison) -> list[Comparison]:
    given = [comparisons] if isinstance(comparisons, Comparison) else comparisons
    listed = checks.listed(given, "comparisons", "results of compare", ArgumentError, Comparison)
    if not listed:
        raise ArgumentError("there is nothing to draw: give at least one result of compare.")
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


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _checked_estimators(comparison: Comparison, wanted: Sequence[str] | None) -> list[str]:
    known = [entry.name for entry in comparison.rows[0] if entry.name != MODEL_ROW]
    if wanted is None:
        return [name for name in known if name in comparison.drawn] or known
    if isinstance(wanted, str) or not isinstance(wanted, Sequence):
        raise ArgumentError(f"estimators must list names, such as {known[:1]}; got {wanted!r}.")
    for name in wanted:
        if name not in known:
            raise UnknownNameError(f"no estimator is named {name!r}. {nearest(name, known)}")
    return list(wanted)
