"""Forms of results: numbers in words, plain-text tables, and HTML."""

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from probes import pages
from probes.statistics.intervals import Interval

MAX_TABLE_WIDTH = 1000
"""Characters; tables are as wide as what they hold, and cut off beyond this."""

AT_BOUND = "_at_bound"
"""Ends the name of the flag beside a parameter that was fitted to the end of its range."""

NOTHING = "–"
"""Stands in tables for what there is not."""

LOWEST_SHOWN = -99
"""Figures below this are shown as being below it; the JSON holds them in full."""

SMALLEST_SHOWN = 0.001
"""The same of parameters in a narrow column."""


@runtime_checkable
class Limited(Protocol):
    """Whatever has limits, which are None where there is nothing to limit."""

    @property
    def low(self) -> float | None:
        """Lower end."""

    @property
    def high(self) -> float | None:
        """Upper end."""


def figure(value: float | int | None, digits: int = 3) -> str:
    """A number for a table; a dash for none, and no minus before a rounded 0."""
    if value is None or math.isnan(value):
        return NOTHING
    if value < LOWEST_SHOWN:
        return f"< {LOWEST_SHOWN}"
    return f"{round(value, digits) + 0.0:.{digits}f}"


def interval(found: Limited | None, digits: int = 3) -> str:
    """The limits of a score for a table; a dash for none."""
    if found is None or found.low is None:
        return NOTHING
    return f"[{figure(found.low, digits)}, {figure(found.high, digits)}]"


def scored(found: Interval | None, digits: int = 3) -> str:
    """A score for a table, without its limits; a dash for none."""
    return figure(None if found is None else found.score, digits)


def parameters(values: Mapping[str, float]) -> str:
    """Fitted parameters in words; numbered ones, such as ``step_size_1``, share one label."""
    groups = grouped(values)
    words = [
        f"{label} {', '.join(f'{value:.4g}' + '*' * at_bound for value, at_bound in listed)}"
        for label, listed in groups.items()
    ]
    marked = any(at_bound for listed in groups.values() for _, at_bound in listed)
    return ", ".join(words) + " (* at the end of its range: no estimate)" * marked


def compact(listed: Sequence[tuple[float, bool]]) -> str:
    """Parameters of one group of ``grouped`` to two digits, starred at the ends of their ranges."""
    shown = [
        (f"{value:.2g}" if value >= SMALLEST_SHOWN else f"<{SMALLEST_SHOWN:g}") + "*" * at_bound
        for value, at_bound in listed
    ]
    return ", ".join(shown) or NOTHING


def grouped(values: Mapping[str, float]) -> dict[str, list[tuple[float, bool]]]:
    """By label, parameters and whether each lies at the end of its range.

    ``step_size_1``, ``step_size_2``, … are listed under one label, ``step size``.
    """
    groups: dict[str, list[tuple[float, bool]]] = {}
    for name, value in values.items():
        if not name.endswith(AT_BOUND):
            label = re.sub(r"_\d+$", "", name).replace("_", " ")
            groups.setdefault(label, []).append((value, name + AT_BOUND in values))
    return groups


@dataclass(frozen=True)
class Table:
    """What text and HTML show of a result; the columns ``left`` are flush left, the others right.

    ``title`` stands above it, unless that is empty.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Sequence[int] = (0,)
    title: str = ""

    def __str__(self) -> str:
        return f"{self.title}\n\n" * bool(self.title) + text_table(
            self.header, self.rows, self.left
        )

    def __html__(self) -> str:
        return pages.table(self.header, self.rows, self.left, self.title)


def text_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int] = (0,)
) -> str:
    """A plain-text table; columns in ``left`` are flush left, the others right.

    Cells are shown as they are: nothing in them is markup.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable

    table = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
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


def html(template: str, **values: Any) -> str:
    """A page or fragment from ``mtd_lens/views/templates``, with every value escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mtd_lens", "views/templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
