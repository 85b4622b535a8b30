"""Where figures go: files, their data as CSV, and SVG for a page."""

import hashlib
import io
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mtd_lens.errors import ArgumentError
from mtd_lens.views.plots.style import INK, applied
from probes import checks, files

if TYPE_CHECKING:
    import matplotlib.figure

SVG_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "mtd-lens",
    "font.sans-serif": ["DejaVu Sans"],
}
JOINTS = "stroke-linejoin: round; stroke-linecap: butt"
"""What matplotlib writes as a style sheet, which would hold for the whole page."""

NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
SVG_DIGITS = 2
"""Of coordinates, in points."""

ID_CHARACTERS = 10


def written(
    path: str | os.PathLike[str] | None,
    data: str | os.PathLike[str] | None,
    draw: Callable[[], "matplotlib.figure.Figure"],
    table: Callable[[], Any],
) -> "matplotlib.figure.Figure":
    """A figure in this package's style, written where it is wanted; paths are checked first.

    Args:
        path: Of the figure, or None.
        data: Of the CSV file, or None.
        draw: Makes the figure.
        table: What a ``pandas.DataFrame`` is made of, a row for everything that is drawn.

    Returns:
        The figure.

    Raises:
        ArgumentError: A figure's path that ends in neither ``.png`` nor ``.svg``, one of data that
            does not end in ``.csv``, or a text that cannot be shown.
        OutputPathError: A path cannot be written to.
    """
    target = None if path is None else check_figure_path(path)
    data_target = None if data is None else _check_data_path(data)
    with applied():
        figure = draw()
    _check_texts(figure)
    if data_target is not None:
        import pandas as pd

        files.write_text(data_target, pd.DataFrame(table()).to_csv(index=False))
    if target is not None:
        files.write_figure(figure, target)
    return figure


def check_figure_path(path: str | os.PathLike[str]) -> Path:
    """The path with links resolved, after checking that a figure can be written there.

    Args:
        path: Of the figure.

    Raises:
        ArgumentError: It ends in neither ``.png`` nor ``.svg``.
        OutputPathError: It cannot be written to.
    """
    return files.check_figure_path(path, ArgumentError)


def _check_texts(figure: "matplotlib.figure.Figure") -> None:
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        checks.texts(text.get_text().split("\n"), "a text of the figure", ArgumentError)


def _check_data_path(path: str | os.PathLike[str]) -> Path:
    target = files.check_output_path(path)
    if target.suffix.lower() != ".csv":
        name = os.fspath(path)
        raise ArgumentError(
            f"a figure's data are written as .csv; got {Path(name).name!r}. Change its ending."
        )
    return target


def svg_text(figure: "matplotlib.figure.Figure") -> str:
    """A figure as an SVG element for a web page.

    Text stays text, the background is transparent, and neutral ink has the colour of the text
    around the element (``currentColor``). The same figure gives the same element; those of two
    figures share no ids.

    Args:
        figure: A ``matplotlib.figure.Figure``.

    Returns:
        ``<svg …>…</svg>``, without a prolog.
    """
    from matplotlib import rc_context

    content = io.StringIO()
    with rc_context(SVG_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # text stays text: the page has the fonts
        figure.savefig(
            content, format="svg", dpi=files.DOTS_PER_INCH, transparent=True, metadata=NO_METADATA
        )
    text = content.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->|<style.*?</style>", "", text, flags=re.DOTALL)
    prefix = "f" + hashlib.sha256(text.encode()).hexdigest()[:ID_CHARACTERS] + "-"
    text = text.replace("<svg", f'<svg role="img" style="{JOINTS}"', 1)
    parts = re.split(r"(<[^>]*>)", text)  # texts, which stay as they are, and between them tags
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', "".join(parts[1::2])))
    parts[1::2] = [_for_page(tag, prefix, used) for tag in parts[1::2]]
    return re.sub(r"\s*\n\s*", "\n", "".join(parts)).strip()


def _for_page(tag: str, prefix: str, used: set[str]) -> str:
    """A tag in the colour of the text around it, with short paths and ids of its own."""
    tag = tag.replace(INK, "currentColor")
    tag = re.sub(r'(?<= d=")[^"]*', _rounded, tag)
    tag = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", tag)
    return re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{prefix}", tag)


def _rounded(path: re.Match[str]) -> str:
    """A path's data, on one line and with fewer digits."""
    short = re.sub(r"\d+\.\d+", lambda n: f"{float(n[0]):.{SVG_DIGITS}f}", path[0])
    return " ".join(short.split())
