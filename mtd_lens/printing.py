"""Printing that never fails a run, whoever reads it; and plain text in lines of any width."""

import functools
import io
import itertools
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from textwrap import TextWrapper
from typing import Any

WIDE, NARROW = 3, 2
"""Spaces between two columns, where there is room and where there is not."""

MAX_TABLE_WIDTH = 1000
"""Characters; tables are as wide as what they hold, and cut off beyond this."""

NARROWEST = 20
"""Characters of a line; texts and tables are not broken into shorter ones."""


class Output:
    """Standard output or error that does not fail for its reader's sake.

    Characters that its encoding lacks are replaced. Once a pipe's reader has gone, what is still
    written goes nowhere.

    Args:
        stream: The stream itself.
        ignored: Errors that are no one's concern; after others, too, nothing more is written.
    """

    def __init__(self, stream: Any, ignored: type[OSError]) -> None:
        self._stream = stream or io.StringIO()  # None: it is closed
        self._ignored = ignored

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """The text's length, whether or not anybody reads it."""
        encoding = self._stream.encoding or "utf-8"
        self._try(self._stream.write, text.encode(encoding, "replace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Hand on what was written, if anybody is still there."""
        self._try(self._stream.flush)

    def _try(self, function: Callable[..., object], *arguments: str) -> None:
        try:
            function(*arguments)
        except OSError as error:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())
            if not isinstance(error, self._ignored):
                from mtd_lens.errors import OutputPathError

                raise OutputPathError(
                    f"cannot print: {error.strerror or error}. Send the output elsewhere."
                ) from error


def width_of(stream: Any) -> int | None:
    """Characters that a line of a terminal has; None where the stream is no terminal."""
    if not is_terminal(stream):
        return None
    return max(NARROWEST, shutil.get_terminal_size().columns)


def is_terminal(stream: Any) -> bool:
    """Whether a stream is one."""
    return bool(stream.isatty())


def say(line: str) -> int:
    """One line on standard error, whatever is in it; returns the exit status of bad input."""
    shown = " ".join(part.strip() for part in line.splitlines())
    print("".join(c if c.isprintable() else repr(c)[1:-1] for c in shown), file=sys.stderr)
    return 2


class _Broken(TextWrapper):
    """Lines broken between words and, in names, after underscores and points."""

    wordsep_re = re.compile(r"(\s+)|(?<=[^\W\d]_)(?=\w)|(?<=[^\W\d]\.)(?=[^\W\d])")


def wrapped(text: str, width: int) -> list[str]:
    """A text in lines of at most ``width`` characters, but for words that are longer.

    Args:
        text: Without line breaks.
        width: Of a line.
    """
    return _Broken(width, break_long_words=False).wrap(text) or [""]


def _least(column: Iterable[str]) -> int:
    """The width below which a column's words would be broken."""
    return max(len(line) for cell in column for line in wrapped(cell, 1))


def _narrowed(columns: Sequence[Sequence[str]], width: int) -> list[Sequence[str]]:
    """The columns with cells broken into lines until they fit a width.

    They take few lines below the header, which comes first. No word is broken: what cannot fit
    stays wider.
    """
    lines, least = functools.cache(wrapped), [_least(column) for column in columns]
    widths = [max(1, min(width, max(map(len, column)))) for column in columns]

    def height(tried: Sequence[int]) -> int:
        _, *rows = zip(*columns, strict=True)
        return sum(max(map(len, map(lines, row, tried))) for row in rows)

    def less(index: int) -> list[int]:
        return [size - (i == index) for i, size in enumerate(widths)]

    while sum(widths) > width:
        loose = [i for i in range(len(columns)) if widths[i] > least[i]]
        if not loose:
            break
        widths = less(min(loose, key=lambda i: (height(less(i)), -widths[i])))
    return [
        ["\n".join(lines(cell, most)) for cell in column]
        for column, most in zip(columns, widths, strict=True)
    ]


def _fitting(columns: Sequence[Sequence[str]], width: int) -> int:
    """How many of the columns fit a width, at their narrowest; the first and another at least."""
    taken = itertools.accumulate(_least(column) + NARROW for column in columns)
    return max(2, sum(end - NARROW < width for end in taken))


def text_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    left: Sequence[int] = (0,),
    width: int | None = None,
) -> str:
    """A plain-text table; columns in ``left`` are flush left, the others right.

    Cells are shown as they are: nothing in them is markup.

    Args:
        header: Names of the columns.
        rows: Of cells.
        left: Columns that are flush left.
        width: Of the lines, such as the terminal's. Where the table is wider its cells are broken
            into several lines, and where no word fits any more its columns into several tables,
            each with the first column. None leaves every cell whole.
    """
    rows, gap = [list(row) for row in rows], WIDE
    if width is not None and rows:
        columns: list[Sequence[str]] = list(zip(header, *rows, strict=True))
        if sum(max(map(len, column)) + WIDE for column in columns) - WIDE >= width:
            fitting, gap = _fitting(columns, width), NARROW
            if fitting < len(columns):
                groups = [range(fitting), [0, *range(fitting, len(columns))]]
                return "\n\n".join(
                    text_table(
                        [header[i] for i in group],
                        [[row[i] for i in group] for row in rows],
                        [new for new, old in enumerate(group) if old in left],
                        width,
                    )
                    for group in groups
                )
            columns = _narrowed(columns, width - 1 - NARROW * (len(columns) - 1))
        header, *rows = (list(row) for row in zip(*columns, strict=True))
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable

    padding = (0, 1) if gap == WIDE else (0, 1, 0, 0)
    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, padding=padding)
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index in left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(
        file=io.StringIO(), width=MAX_TABLE_WIDTH, color_system=None, legacy_windows=False,
        markup=False, emoji=False, highlight=False, force_jupyter=False,
    )  # fmt: skip
    console.print(table)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in lines if line.strip())
