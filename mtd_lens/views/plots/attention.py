"""Mean attention at the last query, of several models."""

import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mtd_lens.errors import ArgumentError
from mtd_lens.views.plots import style
from mtd_lens.views.plots.outputs import written
from probes import checks

if TYPE_CHECKING:
    import matplotlib.figure

NAME_WIDTH = 16
"""Characters, after which a model's name goes on in the next line."""


def plot_attention(
    patterns: Mapping[str, Sequence[Sequence[float]]],
    path: str | os.PathLike[str] | None = None,
    *,
    data: str | os.PathLike[str] | None = None,
) -> "matplotlib.figure.Figure":
    """Mean attention at the last query, a row for each model, a column for each layer.

    Args:
        patterns: By model, for each layer, the attention to every key position, from 0 to 1.
        path: Also write the figure there, as PNG or SVG by its ending.
        data: Also write what is drawn there, as CSV: a row for each model, layer and key.

    Returns:
        A ``matplotlib.figure.Figure``.

    Raises:
        ArgumentError: Nothing to draw, a path that ends in neither ``.png`` nor ``.svg``, or data
            that do not end in ``.csv``.
        OutputPathError: A path cannot be written to.
    """
    patterns = {
        checks.text(name, "a model's name", ArgumentError): [
            _attention(values, f"layer {layer} of {name!r}")
            for layer, values in enumerate(checks.listed(layers, name, "layers", ArgumentError))
        ]
        for name, layers in checks.mapping(patterns, "patterns", ArgumentError).items()
    }
    if not patterns or not all(patterns.values()):
        raise ArgumentError("plot_attention needs at least one model with one layer.")
    table = [
        {"model": name, "layer": layer, "key": key, "attention": value}
        for name, layers in patterns.items()
        for layer, values in enumerate(layers)
        for key, value in enumerate(values)
    ]
    return written(path, data, lambda: _draw(patterns), lambda: table)


def _attention(values: object, what: str) -> list[float]:
    entries = checks.listed(values, what, "numbers, one a key", ArgumentError)
    return [
        checks.number(value, f"an entry of {what}", -math.inf, math.inf, ArgumentError)
        for value in entries
    ]


def _draw(patterns: Mapping[str, Sequence[Sequence[float]]]) -> "matplotlib.figure.Figure":
    n_layers = max(map(len, patterns.values()))
    inches = (2.1 * n_layers + 1.2, 1.35 * len(patterns) + 0.6)
    figure, panels = style.new_figure(inches, len(patterns), n_layers, sharey="row")
    for row, (name, layers) in zip(panels, patterns.items(), strict=True):
        for layer, axes in enumerate(row):
            if layer >= len(layers):
                axes.set_visible(False)
                continue
            values = layers[layer]
            axes.bar(range(len(values)), values, width=0.9, color=style.MODEL_COLOURS[0])
            axes.set_title(f"layer {layer}", fontsize="small")
            axes.tick_params(labelsize="x-small")
            axes.set_xlim(-1, len(values))
            style.plain(axes)
        label = textwrap.fill(name.replace("/", "/ "), NAME_WIDTH, break_long_words=False)
        row[0].set_ylabel(label, fontsize="x-small")
    figure.supxlabel("key position (tokens)", fontsize="small")
    figure.supylabel("attention (0 to 1)", fontsize="small")
    style.add_title(figure, "attention at the last query, mean over sequences and heads")
    return figure
