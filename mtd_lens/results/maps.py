"""How places and what was found there are listed: words, tables, rows of a data frame."""

from collections.abc import Mapping, Sequence
from typing import Any

from mtd_lens.results.forms import NOTHING, Table, figure, interval
from mtd_lens.results.places import ClassLoss, Finding, ProbeScore, SiteScore


def listed_set(finding: Finding) -> str:
    """A finding's set in words, or that there is none, and what was tried.

    Args:
        finding: Of a localization.
    """
    if finding.verdict == "found":
        return ", ".join(map(str, finding.places))
    if not finding.tried:
        return NOTHING
    score = f"{figure(finding.score)} {interval(finding)}"
    return f"no set found; best tried: {', '.join(map(str, finding.tried))} ({score})"


def set_in_words(finding: Finding) -> str:
    """A finding's set for one line.

    Args:
        finding: Of a localization.
    """
    if finding.verdict != "found":
        return finding.verdict.replace("_", " ")
    return "in " + "+".join(map(str, finding.places))


def map_row(name: str, entry: SiteScore | ProbeScore) -> dict[str, Any]:
    """A row of a data frame.

    Args:
        name: Of the map.
        entry: What is drawn there.
    """
    place = {"site": entry.place.column, "layer": entry.place.layer}
    scores = {"score": entry.score, "low": entry.low, "high": entry.high}
    return {"map": name, "variable": entry.variable} | place | scores


def by_layer(cells: Mapping[tuple[str, str, int], str], title: str) -> Table:
    """A row for each variable and kind of place, a column for each layer.

    Args:
        cells: By variable, column of a place, and layer.
        title: Of the table.
    """
    layers = sorted({layer for _, _, layer in cells})
    rows = [
        [variable, column, *(cells.get((variable, column, layer), NOTHING) for layer in layers)]
        for variable, column in dict.fromkeys((name, column) for name, column, _ in cells)
    ]
    return Table(["variable", "site", *(f"layer {layer}" for layer in layers)], rows, (0, 1), title)


def class_table(finding: Finding) -> Table:
    """A row for each member of a set, a column for each class of positions.

    Args:
        finding: With losses at several classes.
    """
    classes: Sequence[str] = list(dict.fromkeys(entry.positions for entry in finding.classes))
    cells = {(entry.place, entry.positions): _loss(entry) for entry in finding.classes}
    rows = [
        [str(place), *(cells[place, name] for name in classes)]
        for place in dict.fromkeys(entry.place for entry in finding.classes)
    ]
    which = "smallest set" if finding.verdict == "found" else "best set that was tried"
    title = (
        f"{finding.in_words}: what F of the {which} loses where one site is left as it is at one "
        "class of positions, with its 95% interval"
    )
    return Table(["site", *classes], rows, (0,), title)


def _loss(entry: ClassLoss) -> str:
    return f"{figure(entry.score, 2)} {interval(entry, 2)}"
