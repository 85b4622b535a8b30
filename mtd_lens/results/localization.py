"""Where a model's variables were found: the result of ``localize``, and how it is shown."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar

from mtd_lens.errors import ArgumentError, UnknownNameError
from mtd_lens.results.base import Result
from mtd_lens.results.forms import NOTHING, Table, figure, interval
from mtd_lens.results.plain import check, to_plain
from probes import checks
from probes.statistics.intervals import Interval

VERDICTS = {
    "found": "the interval of the smallest set lies above the threshold",
    "not_found": "it does not: the best set that was found is given with its score",
    "not_applicable": "the variable does not vary on this task",
}

STAGES = ("pattern", "z", "mlp_out")
"""Kinds of sites at which a variable is sought, as they follow one another in a block."""

TOGETHER = "together"
"""Heading of a layer's joint score."""

IN_ORDER = {True: "causal", False: "not causal", None: "too few to tell"}


@dataclass(frozen=True)
class Place:
    """A kind of activation in a layer, of one head or of the whole layer.

    >>> from mtd_lens.results.localization import Place
    >>> print(Place(0, "z", 1), Place(2, "mlp_out"), sep=", ")
    L0H1 z, L2 mlp_out

    Attributes:
        layer: Counted from 0.
        kind: Last part of the hook's name.
        head: Counted from 0; None for what has no heads.
    """

    layer: int
    kind: str
    head: int | None = None

    @property
    def column(self) -> str:
        """The place without its layer, as in a column's heading."""
        return self.kind if self.head is None else f"{self.kind} H{self.head}"

    def __str__(self) -> str:
        return f"L{self.layer}{'' if self.head is None else f'H{self.head}'} {self.kind}"


@dataclass(frozen=True, kw_only=True)
class SiteScore(Interval):
    """Interchange of a variable at one place, on evaluation pairs.

    Attributes:
        variable: Of the causal model.
        place: Where.
        score: ``1 - E D(counterfactual ‖ patched) / E D(counterfactual ‖ base)``, with ``low`` and
            ``high``, its 95% bootstrap interval over pairs.
        p_value: Of the score being no more than the floor, by one-sided sign flips.
        adjusted_p_value: Holm's, over all places of all variables.
        significant: Whether that is below the level.
    """

    variable: str
    place: Place
    p_value: float
    adjusted_p_value: float
    significant: bool


@dataclass(frozen=True, kw_only=True)
class ProbeScore(Interval):
    """A ridge probe's R² on held-out sequences at one place, beside its control task's.

    ``low`` and ``high`` are its 95% bootstrap interval over sequences, ``control_low`` and
    ``control_high`` the control's. Heads that write too faintly to be heard beside others of
    their layer count as silent.
    """

    DERIVED: ClassVar[tuple[str, ...]] = ("selectivity",)

    variable: str
    place: Place
    control: float
    control_low: float
    control_high: float

    @property
    def selectivity(self) -> float:
        """R² less that of the control task."""
        return self.score - self.control


@dataclass(frozen=True)
class Finding:
    """The smallest set of places that carries a variable; figures are None where none can.

    Attributes:
        variable: Of the causal model.
        verdict: A key of ``VERDICTS``.
        where: Positions that are swapped, in words.
        places: The set: chosen on the fit split.
        score: Of swapping the set at once, on evaluation pairs, with ``low`` and ``high``.
        fit_score: The same on the fit split's pairs.
        whole_layers: The score of swapping all places of a layer at once, for every layer.
        pairs: Number of evaluation pairs.
        mean_denominator: ``E D(counterfactual ‖ base)``, in the family's unit.
        blind: Score of the algorithm with the variable at its mean: what can be reached without
            looking at the source. Lower scores of single places show an effect, not a copy.
        probed: Positions that are probed, in words.
        token_window: R² of a probe on the raw tokens of the shortest window that every query has.
    """

    variable: str
    verdict: str
    where: str = ""
    places: tuple[Place, ...] = ()
    score: float | None = None
    low: float | None = None
    high: float | None = None
    fit_score: float | None = None
    whole_layers: tuple[float, ...] = ()
    pairs: int = 0
    mean_denominator: float | None = None
    blind: float | None = None
    probed: str = ""
    token_window: float | None = None


@dataclass(frozen=True)
class Appearance:
    """Layers at which a variable first appears; None where it does not.

    Attributes:
        variable: Of the causal model.
        carried: Layer of the earliest place of the set, if the variable was found.
        readable: Earliest layer with a probe whose interval lies above its control's, and at or
            above the threshold.
    """

    variable: str
    carried: int | None
    readable: int | None


@dataclass(frozen=True, kw_only=True)
class Localization(Result):
    """Where each variable of the causal model lives in a model.

    ``found["mixture_weights"]`` is one variable's finding; ``print(found)`` shows the tables.

    Attributes:
        model: Its name.
        task: The task's name, or its description if it has none.
        seed: Of the sequences and of resampling.
        n_sequences: Half for choices, half for scores.
        parameters: Of the causal model, fitted to the model.
        divergence: Its name and unit.
        versions: Of what the result depends on.
        findings: For each variable, in causal order, the smallest set of places that carries it.
        sites: The interchange map: every place by itself.
        probes: The probe map.
        threshold: What the interval of a found set must lie above.
        floor: What a single place's score is tested against.
        level: Of those tests, over all of them together.
    """

    FIGURE: ClassVar[str] = "plot_localization"
    DERIVED: ClassVar[tuple[str, ...]] = ("order",)

    threshold: float
    floor: float
    level: float
    findings: tuple[Finding, ...]
    sites: tuple[SiteScore, ...]
    probes: tuple[ProbeScore, ...]

    def _check_fields(self) -> None:
        known = [finding.variable for finding in self.findings]
        places = [place for finding in self.findings for place in finding.places]
        for name, variables in (
            ("sites", [entry.variable for entry in self.sites]),
            ("probes", [entry.variable for entry in self.probes]),
        ):
            for index, variable in enumerate(variables):
                where = f"{name}[{index}].variable"
                check(variable in known, f"one of findings, {known}", variable, where)
        for place in [*places, *(entry.place for entry in self.sites)]:
            check(place.kind in STAGES, f"one of {STAGES}", place.kind, "a place's kind")
        for index, finding in enumerate(self.findings):
            has = finding.verdict != "found" or len(finding.places) > 0
            check(has, "a list of at least one", finding.places, f"findings[{index}].places")

    def __getitem__(self, variable: str) -> Finding:
        by_variable = {finding.variable: finding for finding in self.findings}
        return by_variable[checks.choice(variable, "variable", by_variable, UnknownNameError)]

    @property
    def order(self) -> tuple[Appearance, ...]:
        """Where each variable first appears."""
        return tuple(self._appearance(finding) for finding in self.findings)

    @property
    def carried_in_order(self) -> bool | None:
        """Whether each found variable is carried before the next one; None for fewer than two.

        Each set's earliest place must come strictly before the next one's, in the order of layers
        and, within a layer, of ``STAGES``: what stands side by side cannot be read from each other.
        """
        firsts = [
            min((place.layer, STAGES.index(place.kind)) for place in finding.places)
            for finding in self.findings
            if finding.verdict == "found"
        ]
        return all(a < b for a, b in pairwise(firsts)) if len(firsts) > 1 else None

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
        return entry.place in self[entry.variable].places

    def has_joint_layers(self, variable: str) -> bool:
        """Whether some layer has several places of a variable, which can be swapped together.

        Args:
            variable: Of the causal model.

        Raises:
            UnknownNameError: No such variable.
        """
        variable = self[variable].variable
        layers = [entry.place.layer for entry in self.sites if entry.variable == variable]
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
        sets = ", ".join(f"{f.variable} {_set_in_words(f)}" for f in self.findings)
        return f"Localization({self.model!r}: {sets})"

    def _tables(self) -> list[Table]:
        """The found sets, and the two maps; maps only of variables that vary."""
        sets = [
            [
                finding.variable,
                finding.verdict,
                ", ".join(map(str, finding.places)) or NOTHING,
                figure(finding.score),
                interval(finding),
                figure(finding.blind),
                NOTHING if entry.carried is None else str(entry.carried),
                NOTHING if entry.readable is None else str(entry.readable),
            ]
            for finding, entry in zip(self.findings, self.order, strict=True)
        ]
        header = [
            *("variable", "verdict", "smallest set", "F", "95% interval", "blind F"),
            *("carried from layer", "readable from layer"),
        ]
        return [Table(header, sets, (0, 1, 2)), self._sites_table(), self._probes_table()]

    def _sites_table(self) -> Table:
        scores = {
            (entry.variable, entry.place): figure(entry.score, 2)
            + ("*" if entry.significant else " ")
            + ("+" if self.in_set(entry) else " ")
            for entry in self.sites
        }
        title = (
            f"Interchange at each site, F (* above {self.floor:g} at the {self.level:.3g} level "
            f"after Holm's correction over {len(self.sites)} sites; + in the smallest set)"
        )
        table = _by_layer(scores, title)
        rows = list(table.rows)
        for finding in self.findings:
            if self.has_joint_layers(finding.variable):
                last = max(i for i, row in enumerate(rows) if row[0] == finding.variable)
                joint = [f"{figure(score, 2)}  " for score in finding.whole_layers]
                rows.insert(last + 1, [finding.variable, TOGETHER, *joint])
        return replace(table, rows=rows)

    def _probes_table(self) -> Table:
        cells = {
            (entry.variable, entry.place): f"{figure(entry.score, 2)} ({figure(entry.control, 2)})"
            for entry in self.probes
        }
        return _by_layer(cells, "Probes: R² on held-out sequences (its control task's)")

    def _notes(self) -> list[str]:
        return [
            f"Order of the found sets: {IN_ORDER[self.carried_in_order]}; of the layers from which "
            f"variables are readable: {IN_ORDER[self.readable_in_order]}. Blind F is the "
            "algorithm's score with the variable at its mean: what can be reached without looking "
            "at the source."
        ]

    def _rows(self) -> list[dict[str, Any]]:
        """A row for each cell of both maps; the joint scores of layers have no interval."""
        rows = [
            _cell("interchange", entry)
            | {"significant": entry.significant, "in_set": self.in_set(entry)}
            for entry in self.sites
        ]
        rows += [
            {"map": "interchange", "variable": finding.variable, "site": TOGETHER}
            | {"layer": layer, "score": score}
            for finding in self.findings
            if self.has_joint_layers(finding.variable)
            for layer, score in enumerate(finding.whole_layers)
        ]
        return rows + [_cell("probe", e) | {"control": e.control} for e in self.probes]

    def _appearance(self, finding: Finding) -> Appearance:
        carried = [place.layer for place in finding.places if finding.verdict == "found"]
        readable = [
            entry.place.layer
            for entry in self.probes
            if entry.variable == finding.variable
            and entry.low > entry.control_high
            and entry.low >= self.threshold
        ]
        return Appearance(finding.variable, min(carried, default=None), min(readable, default=None))


def _set_in_words(finding: Finding) -> str:
    if finding.verdict != "found":
        return finding.verdict.replace("_", " ")
    return "in " + "+".join(map(str, finding.places))


def _cell(name: str, entry: SiteScore | ProbeScore) -> dict[str, Any]:
    place = {"site": entry.place.column, "layer": entry.place.layer}
    scores = {"score": entry.score, "low": entry.low, "high": entry.high}
    return {"map": name, "variable": entry.variable} | place | scores


def _by_layer(cells: Mapping[tuple[str, Place], str], title: str) -> Table:
    """A row for each variable and kind of place, a column for each layer."""
    layers = sorted({place.layer for _, place in cells})
    found = {(variable, p.column, p.layer): cell for (variable, p), cell in cells.items()}
    rows = [
        [variable, column, *(found.get((variable, column, layer), NOTHING) for layer in layers)]
        for variable, column in dict.fromkeys((name, place.column) for name, place in cells)
    ]
    return Table(["variable", "site", *(f"layer {layer}" for layer in layers)], rows, (0, 1), title)
