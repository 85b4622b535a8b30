"""Tables of a localization, for text and HTML."""

from collections.abc import Mapping, Sequence
from typing import Any

from mtd_lens.results.scorecard import figure, interval

WHOLE_LAYER = "together"
"""Heading of a layer's joint score."""

WORDS = ("variable", "verdict", "smallest set", "site")
"""Columns that are flush left."""


def tables(found: Any) -> list[tuple[str, list[str], list[list[str]]]]:
    """Titles, headers and rows; maps only of variables that vary."""
    sets = [
        [
            finding.variable,
            finding.verdict,
            ", ".join(map(str, finding.places)) or "–",
            figure(finding.score),
            interval(finding.low, finding.high),
            figure(finding.blind),
            "–" if entry.carried is None else str(entry.carried),
            "–" if entry.readable is None else str(entry.readable),
        ]
        for finding, entry in zip(found.findings, found.order, strict=True)
    ]
    header = [
        *("variable", "verdict", "smallest set", "F", "95% interval", "blind F"),
        *("carried from layer", "readable from layer"),
    ]
    shown = [("", header, sets)]
    members = {(f.variable, place) for f in found.findings for place in f.places}
    scores = {
        (entry.variable, entry.place): figure(entry.score, 2)
        + ("*" if entry.significant else " ")
        + ("+" if (entry.variable, entry.place) in members else " ")
        for entry in found.sites
    }
    header, rows = _by_layer(scores)
    for finding in found.findings:
        if found.has_joint_layers(finding.variable):
            last = max(i for i, row in enumerate(rows) if row[0] == finding.variable)
            joint = [f"{figure(score, 2)}  " for score in finding.whole_layers]
            rows.insert(last + 1, [finding.variable, WHOLE_LAYER, *joint])
    shown.append((_sites_title(found), header, rows))
    probed = {
        (entry.variable, entry.place): f"{figure(entry.score, 2)} ({figure(entry.control, 2)})"
        for entry in found.probes
    }
    title = "Probes: R² on held-out sequences (its control task's)"
    shown.append((title, *_by_layer(probed)))
    return [table for table in shown if table[2]]


def order_in_words(found: Any) -> str:
    """Whether variables appear in the order of the algorithm."""
    answers = {True: "causal", False: "not causal", None: "too few to tell"}
    return (
        f"Order of the found sets: {answers[found.carried_in_order]}; of the layers from which "
        f"variables are readable: {answers[found.readable_in_order]}. Blind F is the algorithm's "
        "score with the variable at its mean: what can be reached without looking at the source."
    )


def _sites_title(found: Any) -> str:
    return (
        f"Interchange at each site, F (* above {found.floor:g} at the {found.level:.3g} level "
        f"after Holm's correction over {len(found.sites)} sites; + in the smallest set)"
    )


def _by_layer(
    cells: Mapping[tuple[str, Any], str],
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table: a row for each variable and kind of place, a column a layer."""
    layers: Sequence[int] = sorted({place.layer for _, place in cells})
    found = {(variable, p.column, p.layer): cell for (variable, p), cell in cells.items()}
    rows = [
        [variable, column, *(found.get((variable, column, layer), "–") for layer in layers)]
        for variable, column in dict.fromkeys((name, place.column) for name, place in cells)
    ]
    return ["variable", "site", *(f"layer {layer}" for layer in layers)], rows
