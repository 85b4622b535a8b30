"""Where a model's variables were found: the result of ``localize``, and how it is shown."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

from mtd_lens.errors import ArgumentError, UnknownNameError
from mtd_lens.results.base import Result
from mtd_lens.results.forms import NOTHING, Table, figure, interval
from mtd_lens.results.maps import by_layer, class_table, listed_set, map_row, set_in_words
from mtd_lens.results.places import (
    GIVEN_QUERY,
    STAGES,
    Appearance,
    Finding,
    Place,
    ProbeScore,
    SiteScore,
)
from mtd_lens.results.plain import check, to_plain
from probes import checks

TOGETHER = "together"
"""Heading of a layer's joint score."""

IN_ORDER = {True: "causal", False: "not causal", None: "too few to tell"}


@dataclass(frozen=True, kw_only=True)
class Localization(Result):
    """Where each variable of the causal model lives in a model.

    ``found["mixture_weights"]`` is one variable's finding, ``found.given_query("mixture_weights")``
    the one on sources that share the query's own tokens; ``print(found)`` shows the tables.

    Attributes:
        model: Its name.
        task: The task's name, or its description if it has none.
        seed: Of the sequences and of resampling.
        n_sequences: Half for choices, half for scores.
        parameters: Of the causal model, fitted to the model.
        divergence: Its name and unit.
        versions: Of what the result depends on.
        through: What the runs of a ``TransformerBridge`` went through.
        findings: For each variable, in causal order, the smallest set of places that carries it;
            after it the same given the query, where that can be asked.
        sites: The interchange map: every place by itself.
        probes: The probe map.
        threshold: What the interval of a found set must lie above.
        floor: The share of the way to the counterfactual that a significant single place must go.
        level: Of those tests, over all of them together.
        algorithm: Name of what the model is held against; empty in older files.
    """

    FIGURE: ClassVar[str] = "plot_localization"
    DERIVED: ClassVar[tuple[str, ...]] = ("order",)

    threshold: float
    floor: float
    level: float
    findings: tuple[Finding, ...]
    sites: tuple[SiteScore, ...]
    probes: tuple[ProbeScore, ...]
    algorithm: str = ""

    @classmethod
    def _fields_of(cls, data: dict[str, Any], *, first: bool) -> dict[str, Any]:
        """Results used to list the best set that was tried as if it were one that was found."""
        findings = data.get("findings")
        if isinstance(findings, list | tuple):
            data["findings"] = [
                entry | {"places": [], "tried": entry.get("places", [])}
                if isinstance(entry, dict) and entry.get("verdict") != "found" and _is_old(entry)
                else entry
                for entry in findings
            ]
        return data

    def _check_fields(self) -> None:
        known = [finding.variable for finding in self.findings]
        for name, variables in (
            ("sites", [entry.variable for entry in self.sites]),
            ("probes", [entry.variable for entry in self.probes]),
        ):
            for index, variable in enumerate(variables):
                where = f"{name}[{index}].variable"
                check(variable in known, f"one of findings, {known}", variable, where)
        generic = [finding.variable for finding in self._of_any_source]
        check(sorted({*known}) == sorted(generic), "one for each variable", known, "findings")
        sets = [places for f in self.findings for places in (f.places, f.tried)]
        for place in [*(p for places in sets for p in places), *(e.place for e in self.sites)]:
            check(place.kind in STAGES, f"one of {STAGES}", place.kind, "a place's kind")
        for index, finding in enumerate(self.findings):
            where = f"findings[{index}].places"
            if finding.verdict == "found":
                check(len(finding.places) > 0, "a list of at least one", finding.places, where)
            else:
                check(not finding.places, "empty where none was found", finding.places, where)

    def __getitem__(self, variable: str) -> Finding:
        by_variable = {finding.variable: finding for finding in self._of_any_source}
        return by_variable[checks.choice(variable, "variable", by_variable, UnknownNameError)]

    def given_query(self, variable: str) -> Finding | None:
        """What was found on sources that share the query's own tokens with their base.

        Args:
            variable: Of the causal model.

        Returns:
            The finding; None for variables of other positions, or where no tokens are the query's.

        Raises:
            UnknownNameError: No such variable.
        """
        variable = self[variable].variable
        given = [f for f in self.findings if f.given_query and f.variable == variable]
        return given[0] if given else None

    @property
    def over_blind(self) -> bool:
        """Whether scores are over the best answer without a look at the source, as today."""
        return all(finding.blind is None for finding in self.findings)

    @property
    def order(self) -> tuple[Appearance, ...]:
        """From which layers on each variable is there."""
        return tuple(self._appearance(finding) for finding in self._of_any_source)

    @property
    def carried_in_order(self) -> bool | None:
        """Whether each found variable is carried before the next one; None for fewer than two.

        Each set's last place, by which the variable is all there, must come strictly before the
        next one's, in the order of layers and, within a layer, of ``STAGES``: what stands side by
        side cannot be read from each other.
        A variable that was found only given the query counts as found there.
        """
        sets = [
            finding.places or (given.places if given is not None else ())
            for finding in self._of_any_source
            for given in [self.given_query(finding.variable)]
        ]
        lasts = [
            max((place.layer, STAGES.index(place.kind)) for place in places)
            for places in sets
            if places
        ]
        return all(a < b for a, b in pairwise(lasts)) if len(lasts) > 1 else None

    @property
    def readable_in_order(self) -> bool | None:
        """Whether no variable is readable in an earlier layer than one before it in the algorithm.

        None where fewer than two are readable at all.
        """
        firsts = [entry.readable for entry in self.order if entry.readable is not None]
        return all(a <= b for a, b in pairwise(firsts)) if len(firsts) > 1 else None

    def in_set(self, entry: SiteScore) -> bool:
        """Whether a place is in its variable's smallest set.

        Args:
            entry: One of ``sites``.

        Raises:
            ArgumentError: Something else.
        """
        checks.instance(entry, SiteScore, "entry", ArgumentError, "Give one of sites.")
        finding = self[entry.variable]
        if entry.given_query:
            finding = self.given_query(entry.variable) or finding
        return entry.place in finding.places

    def sites_of(self, finding: Finding) -> list[SiteScore]:
        """The single places of a finding.

        Args:
            finding: One of ``findings``.

        Raises:
            ArgumentError: Something else.
        """
        checks.instance(finding, Finding, "finding", ArgumentError, "Give one of findings.")
        key = (finding.variable, finding.given_query)
        return [entry for entry in self.sites if (entry.variable, entry.given_query) == key]

    def has_joint_layers(self, variable: str) -> bool:
        """Whether some layer has several places of a variable, which can be swapped together.

        Args:
            variable: Of the causal model.

        Raises:
            UnknownNameError: No such variable.
        """
        layers = [entry.place.layer for entry in self.sites_of(self[variable])]
        return len(layers) > len(set(layers))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as ``to_json`` writes it, with the order of variables."""
        order = {
            "appearances": to_plain(self.order),
            "carried_in_order": self.carried_in_order,
            "readable_in_order": self.readable_in_order,
        }
        return super().to_dict() | {"order": order}

    def __repr__(self) -> str:
        sets = "; ".join(f"{f.in_words} {set_in_words(f)}" for f in self.findings)
        return f"Localization({self.model!r}: {sets})"

    @property
    def _of_any_source(self) -> list[Finding]:
        return [finding for finding in self.findings if not finding.given_query]

    def _tables(self) -> list[Table]:
        """The found sets, and the maps; maps only of variables that vary."""
        return [self._sets_table(), self._sites_table(), *self._classes(), self._probes_table()]

    def _sets_table(self) -> Table:
        rows = []
        for finding in self.findings:
            [entry] = [e for e in self.order if e.variable == finding.variable]
            found = finding.verdict == "found"
            carried = entry.carried_given_query if finding.given_query else entry.carried
            beside = [figure(finding.blind)] if not self.over_blind else [
                figure(None if finding.wrong is None else finding.wrong.score),
                figure(finding.unswapped),
            ]  # fmt: skip
            rows.append(
                [
                    finding.in_words,
                    finding.verdict,
                    listed_set(finding),
                    figure(finding.score if found else None),
                    interval(finding) if found else NOTHING,
                    *beside,
                    figure(carried, 0),
                    NOTHING if finding.given_query else figure(entry.readable, 0),
                ]
            )
        header = [
            *("variable", "verdict", "smallest set", "F", "95% interval"),
            *(["wrong source F", "F of no swap"] if self.over_blind else ["blind F"]),
            *("carried from layer", "readable from layer"),
        ]
        return Table(header, rows, (0, 1, 2))

    def _sites_table(self) -> Table:
        moved = f"moves the prediction by more than {self.floor:g} of the way to the counterfactual"
        mark = moved if self.over_blind else f"above {self.floor:g}"
        title = (
            f"Interchange at each site, F (* {mark} at the {self.level:.3g} level after Holm's "
            f"correction over {len(self.sites)} sites; + in the smallest set)"
        )
        cells: dict[tuple[str, str, int], str] = {}
        for finding in self.findings:
            for entry in self.sites_of(finding):
                marks = ("*" if entry.significant else " ") + ("+" if self.in_set(entry) else " ")
                key = (finding.in_words, entry.place.column, entry.place.layer)
                cells[key] = figure(entry.score, 2) + marks
            if self.has_joint_layers(finding.variable):
                for layer, score in enumerate(finding.whole_layers):
                    cells[finding.in_words, TOGETHER, layer] = f"{figure(score, 2)}  "
        return by_layer(cells, title)

    def _classes(self) -> list[Table]:
        return [class_table(finding) for finding in self.findings if finding.classes]

    def _probes_table(self) -> Table:
        cells = {
            (entry.variable, entry.place.column, entry.place.layer): (
                f"{figure(entry.score, 2)} ({figure(entry.control, 2)})"
            )
            for entry in self.probes
        }
        return by_layer(cells, "Probes: R² on held-out sequences (its control task's)")

    def _notes(self) -> list[str]:
        order = (
            f"Order of the found sets: {IN_ORDER[self.carried_in_order]}; of the layers from which "
            f"variables are readable: {IN_ORDER[self.readable_in_order]}."
        )
        if not self.over_blind:
            return [
                f"{order} F is 0 where swapping has no effect. Blind F is the algorithm's score "
                "with the variable at its mean: what can be reached without looking at the source."
            ]
        meaning = (
            "F is 1 where swapping acts as the algorithm says, and 0 where the prediction is no "
            "better than without a look at the source, so that swapping nothing scores below 0."
        )
        if any(finding.given_query for finding in self.findings):
            meaning += f" {GIVEN_QUERY.capitalize()}: sources share its own tokens with their base."
        reasons = [
            f"{finding.in_words}: {finding.verdict.replace('_', ' ')}, since {finding.reason}."
            for finding in self.findings
            if finding.reason and finding.verdict != "found"
        ]
        return [order, meaning, *reasons]

    def _rows(self) -> list[dict[str, Any]]:
        """A row for each cell of the maps; the joint scores of layers have no interval."""
        rows = [
            map_row("interchange", entry)
            | {"given_query": entry.given_query}
            | {"significant": entry.significant, "in_set": self.in_set(entry)}
            for entry in self.sites
        ]
        rows += [
            {"map": "interchange", "variable": finding.variable, "site": TOGETHER}
            | {"layer": layer, "score": score, "given_query": finding.given_query}
            for finding in self.findings
            if self.has_joint_layers(finding.variable)
            for layer, score in enumerate(finding.whole_layers)
        ]
        return rows + [map_row("probe", e) | {"control": e.control} for e in self.probes]

    def _appearance(self, finding: Finding) -> Appearance:
        given = self.given_query(finding.variable)
        readable = [
            entry.place.layer
            for entry in self.probes
            if entry.variable == finding.variable
            and entry.low > entry.control_high
            and entry.low >= self.threshold
        ]
        return Appearance(
            finding.variable,
            carried=_last_layer(finding.places),
            readable=min(readable, default=None),
            carried_given_query=None if given is None else _last_layer(given.places),
        )


def _is_old(finding: Mapping[str, Any]) -> bool:
    return "tried" not in finding


def _last_layer(places: Iterable[Place]) -> int | None:
    return max((place.layer for place in places), default=None)
