"""The figure that everything here is drawn on: one that a notebook shows.

Imported when a figure is asked for, as matplotlib is. pyplot is never imported, and no figure stays
open; a notebook would show other figures only once something has imported pyplot.
"""

import io
from typing import Any

from matplotlib import figure
from PIL import Image

PIXELS_AN_INCH = 96
"""Of a web page."""

DENSITY = 1.5
"""Pixels of the picture for each of the page's, for screens that are finer."""


class Figure(figure.Figure):
    """A ``matplotlib.figure.Figure`` that shows itself as the last value of a notebook's cell."""

    def _repr_png_(self) -> tuple[bytes, dict[str, Any]]:
        """The figure as PNG, and the size in pixels that it is meant to have."""
        drawn, content = io.BytesIO(), io.BytesIO()
        self.savefig(drawn, format="png", dpi=DENSITY * PIXELS_AN_INCH)
        Image.open(drawn).convert("RGB").save(content, "png", optimize=True)  # a tenth smaller
        width, height = (round(inches * PIXELS_AN_INCH) for inches in self.get_size_inches())
        return content.getvalue(), {"width": width, "height": height}


def new_figure(inches: tuple[float, float]) -> Figure:
    """An empty figure, whose parts will be laid out so that none covers another.

    Args:
        inches: Its width and height.
    """
    return Figure(figsize=inches, layout="constrained")
