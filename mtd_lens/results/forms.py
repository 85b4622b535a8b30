"""Forms of results: numbers in words, plain-text tables, and HTML."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from mtd_lens.printing import text_table
from probes import pages
from probes.statistics.intervals import Interval

AT_BOUND = "_at_bound"
"""Ends the name of the flag beside a parameter that was fitted to the end of its range."""

AS = "_as_"
"""Joins a parameter's name to that of the same in other units: ``beta_as_step_size``."""

SYMBOLS = {"beta": "β"}
"""Of words in the names of parameters."""

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
    """Fitted parameters in words; numbered ones, such as ``step_size_1``, share one label.

    What one equals in other units stands in brackets behind it: ``β 13.96 (step size 0.07628)``.
    """
    groups = grouped(values)
    same = {
        label_of(name): f" ({label_of(other)} {value:.4g})"
        for both, value in values.items()
        for name, joined, other in [both.partition(AS)]
        if joined
    }
    words = [
        f"{label} {', '.join(f'{value:.4g}' + '*' * at_bound for value, at_bound in listed)}"
        + same.get(label, "")
        for label, listed in groups.items()
    ]
    marked = any(at_bound for listed in groups.values() for _, at_bound in listed)
    return ", ".join(words) + " (* at the end of its range: no estimate)" * marked


def at_bounds(values: Mapping[str, float]) -> list[str]:
    """In words, the parameters that were fitted to the ends of their ranges: ``first β 1.555``."""
    return [
        f"{label_of(name)} {value:.4g}"
        for name, value in values.items()
        if name + AT_BOUND in values
    ]


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
        if not name.endswith(AT_BOUND) and AS not in name:
            label = label_of(re.sub(r"_\d+$", "", name))
            groups.setdefault(label, []).append((value, name + AT_BOUND in values))
    return groups


def label_of(name: str) -> str:
    """What tables and titles call a parameter."""
    return " ".join(SYMBOLS.get(word, word) for word in name.split("_"))


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
        return self.text()

    def __html__(self) -> str:
        return pages.table(self.header, self.rows, self.left, self.title)

    def text(self, width: int | None = None) -> str:
        """The table in plain text.

        Args:
            width: Of the lines; see ``text_table``.
        """
        table = text_table(self.header, self.rows, self.left, width)
        return f"{self.title}\n\n" * bool(self.title) + table


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
