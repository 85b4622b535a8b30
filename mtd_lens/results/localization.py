"""Where a model's variables were found: the result of ``localize``, and how it is shown."""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from mtd_lens.errors import ArgumentError, UnknownNameError, nearest
from mtd_lens.results import forms as render
from mtd_lens.results.localization_tables import WORDS, order_in_words, tables
from mtd_lens.results.scorecard import parameters

VERDICTS = {
    "found": "the interval of the smallest set lies above the threshold",
    "not_found": "it does not: the best set that was found is given with its score",
    "not_applicable": "the variable does not vary on this task",
}

STAGES = ("pattern", "z", "mlp_out")
"""Kinds of sites at which a variable is sought, as they follow one another in a block."""


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


@dataclass(frozen=True)
class SiteScore:
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
    score: float
    low: float
    high: float
    p_value: float
    adjusted_p_value: float
    significant: bool


@dataclass(frozen=True)
class ProbeScore:
    """A ridge probe's R² on held-out sequences at one place, beside its control task's.

    ``low`` and ``high`` are its 95% bootstrap interval over sequences, ``control_low`` and
    ``control_high`` the control's. Heads that write too faintly to be heard beside others of
    their layer count as silent.
    """

    variable: str
    place: Place
    score: float
    low: float
    high: float
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


@dataclass(frozen=True)
class Localization:
    """Where each variable of the causal model lives in a model.

    ``found["mixture_weights"]`` is one variable's finding; ``print(found)`` shows the tables.

    Attributes:
        model: Its name.
        task: The task's name, or its description if it has none.
        seed: Of the sequences and of resampling.
        n_sequences: Half for choices, half for scores.
        findings: For each variable, in causal order, the smallest set of places that carries it.
        sites: The interchange map: every place by itself.
        probes: The probe map.
        threshold: What the interval of a found set must lie above.
        floor: What a single place's score is tested against.
        level: Of those tests, over all of them together.
        parameters: Of the causal model, fitted to the model.
        divergence: Its name and unit.
        versions: Of what the result depends on.
    """

    model: str
    task: str | Mapping[str, Any]
    seed: int
    n_sequences: int
    threshold: float
    floor: float
    level: float
    parameters: Mapping[str, float]
    findings: tuple[Finding, ...]
    sites: tuple[SiteScore, ...]
    probes: tuple[ProbeScore, ...]
    divergence: str
    versions: Mapping[str, str]

    def __getitem__(self, variable: str) -> Finding:
        for finding in self.findings:
            if finding.variable == variable:
                return finding
        known = [finding.variable for finding in self.findings]
        raise UnknownNameError(f"no variable is named {variable!r}. {nearest(variable, known)}")

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

    def has_joint_layers(self, variable: str) -> bool:
        """Whether some layer has several places of a variable, which can be swapped together.

        Args:
            variable: Of the causal model.
        """
        layers = [entry.place.layer for entry in self.sites if entry.variable == variable]
        return len(layers) > len(set(layers))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as ``to_json`` writes it."""
        data = asdict(self)
        for plain, probe in zip(data["probes"], self.probes, strict=True):
            plain["selectivity"] = probe.selectivity
        data["order"] = {
            "appearances": [asdict(entry) for entry in self.order],
            "carried_in_order": self.carried_in_order,
            "readable_in_order": self.readable_in_order,
        }
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Localization":
        """The result that ``to_dict`` described.

        Args:
            data: What ``to_dict`` or a JSON file holds.

        Raises:
            ArgumentError: A field is missing or of another form.
        """
        try:
            given = {name: value for name, value in data.items() if name != "order"}
            given["findings"] = tuple(
                Finding(
                    **{k: v for k, v in plain.items() if k not in ("places", "whole_layers")},
                    places=tuple(Place(**place) for place in plain["places"]),
                    whole_layers=tuple(plain["whole_layers"]),
                )
                for plain in data["findings"]
            )
            given["sites"] = tuple(
                SiteScore(**{**plain, "place": Place(**plain["place"])}) for plain in data["sites"]
            )
            given["probes"] = tuple(
                ProbeScore(
                    **{k: v for k, v in plain.items() if k not in ("place", "selectivity")},
                    place=Place(**plain["place"]),
                )
                for plain in data["probes"]
            )
            return cls(**given)
        except (AttributeError, KeyError, TypeError) as error:
            raise ArgumentError(f"expected what Localization.to_dict returns: {error}.") from error

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The result as JSON text, also written to ``path`` if one is given.

        Args:
            path: Also write it there.

        Raises:
            OutputPathError: The path cannot be written to.
        """
        return render.json_text(self.to_dict(), path)

    def plot(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        data: str | os.PathLike[str] | None = None,
    ) -> Any:
        """Both maps of every variable.

        Args:
            path: Also write the figure there, as PNG or SVG by its ending.
            data: Also write what is drawn there, as CSV.

        Returns:
            A ``matplotlib.figure.Figure``.

        Raises:
            ArgumentError: A path of another ending.
            OutputPathError: A path cannot be written to.
        """
        from mtd_lens.views.plots import plot_localization

        return plot_localization(self, path, data=data)

    def __repr__(self) -> str:
        sets = ", ".join(f"{f.variable} {_set_in_words(f)}" for f in self.findings)
        return f"Localization({self.model!r}: {sets})"

    def __str__(self) -> str:
        blocks = [self._title()]
        for title, header, rows in tables(self):
            left = tuple(i for i, name in enumerate(header) if not name or name in WORDS)
            blocks += [title] * bool(title) + [render.text_table(header, rows, left=left)]
        return "\n\n".join([*blocks, order_in_words(self)])

    def _repr_html_(self) -> str:
        return render.html(
            "localization.html",
            title=self._title(),
            tables=tables(self),
            words=WORDS,
            order=order_in_words(self),
        )

    def _title(self) -> str:
        return f"{self.model}   {parameters(self.parameters)}   {self.n_sequences} sequences"

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
