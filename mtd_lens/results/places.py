"""Places in a model, and what was found of a variable there."""

from dataclasses import dataclass
from typing import ClassVar

from probes.statistics.intervals import Interval

VERDICTS = {
    "found": "the interval of the smallest set lies above the threshold and above what a wrong "
    "source may reach",
    "not_found": "no set was found: the best one that was tried is given with its score",
    "not_applicable": "the variable does not vary on this task, or the test cannot be made",
}

STAGES = ("pattern", "z", "mlp_out")
"""Kinds of sites at which a variable is sought, as they follow one another in a block."""

GIVEN_QUERY = "given the query"
"""In words: sources share the query's own tokens with their base."""


@dataclass(frozen=True)
class Place:
    """A kind of activation in a layer, of one head or of the whole layer.

    >>> from mtd_lens.results.places import Place
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
        score: ``1 - E D(counterfactual ‖ patched) / E D(counterfactual ‖ blind)``, with ``low`` and
            ``high``, its 95% bootstrap interval over pairs.
        p_value: Of ``E [D(counterfactual ‖ base) - D(counterfactual ‖ patched)]`` being no more
            than the floor's share of ``E D(counterfactual ‖ base)``, by one-sided sign flips.
        adjusted_p_value: Holm's, over all places of all variables.
        significant: Whether that is below the level: swapping here moves the prediction towards the
            counterfactual, even where its score is below 0.
        given_query: Whether sources share the query's own tokens with their base.
    """

    variable: str
    place: Place
    p_value: float
    adjusted_p_value: float
    significant: bool
    given_query: bool = False


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


@dataclass(frozen=True, kw_only=True)
class ClassLoss(Interval):
    """What a set's score loses where one member keeps its base value at one class of positions.

    ``score`` is the loss, with ``low`` and ``high``, its 95% bootstrap interval over pairs; all
    other members are swapped at all positions.

    Attributes:
        place: The member.
        positions: The class, in words.
    """

    place: Place
    positions: str


@dataclass(frozen=True)
class Finding:
    """The smallest set of places that carries a variable; figures are None where none can.

    Attributes:
        variable: Of the causal model.
        verdict: A key of ``VERDICTS``.
        where: Positions that are swapped, in words.
        places: The set, chosen on the fit split; empty where none was found.
        score: Of swapping the set, or the best that was tried, at once, on evaluation pairs, with
            ``low`` and ``high``.
        fit_score: The same on the fit split's pairs.
        whole_layers: The score of swapping all places of a layer at once, for every layer.
        pairs: Number of evaluation pairs.
        mean_denominator: ``E D(counterfactual ‖ blind)``, in the family's unit.
        blind: Of older results, whose scores are over the base run in place of blind: the score of
            the algorithm with the variable at its mean.
        probed: Positions that are probed, in words.
        token_window: R² of a probe on the raw tokens of the shortest window that every query has.
        given_query: Whether sources share the query's own tokens with their base.
        tried: The best set that was tried, where none was found.
        reason: For the verdict, in words.
        wrong: The score with the values of a wrong source.
        unswapped: The score of swapping nothing, from which sets start: mostly below 0.
        classes: What each member is worth at each class of positions; empty where there is one
            class, or one member.
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
    given_query: bool = False
    tried: tuple[Place, ...] = ()
    reason: str = ""
    wrong: Interval | None = None
    unswapped: float | None = None
    classes: tuple[ClassLoss, ...] = ()

    @property
    def in_words(self) -> str:
        """The variable, and whether sources share the query's own tokens."""
        return self.variable + f", {GIVEN_QUERY}" * self.given_query


@dataclass(frozen=True)
class Appearance:
    """Layers from which on a variable is there; None where it is not.

    Attributes:
        variable: Of the causal model.
        carried: Layer of the last place of the set, if the variable was found.
        carried_given_query: The same of the set that was found given the query.
        readable: Earliest layer with a probe whose interval lies above its control's, and at or
            above the threshold.
    """

    variable: str
    carried: int | None
    readable: int | None
    carried_given_query: int | None = None
