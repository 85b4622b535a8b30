"""The result of ``align``: a learned subspace's score beside its controls, and the verdict."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from mtd_lens.results.base import Result
from mtd_lens.results.forms import Table, figure, interval
from mtd_lens.results.plain import check
from probes.alignment import Alignment
from probes.statistics.intervals import Interval

ROWS = {
    "learned": "learned subspace",
    "random_rotation": "random rotation",
    "wrong_source": "learned subspace, a wrong source",
    "noise": "fit to noise",
    "complement": "its complement",
    "whole_site": "whole site",
    "whole_site_given_query": "whole site, given the query",
    "within_range": "learned subspace, within the natural range",
    "other_variable": "the other variable's subspace",
    "random_weights": "fit on random weights",
    "arbitrary_labels": "fit to arbitrary labels",
    "mean_value": "no swap: variable at its mean",
}
"""Scores in words; the last is one of older files."""


@dataclass(frozen=True)
class Direction:
    """One direction of a learned subspace.

    Attributes:
        deviation: Standard deviation of natural runs along it, in units of the activation.
        shift: Root mean square over pairs of how far the swap shifts along it, in standard
            deviations. Independent natural runs differ by √2.
        largest: The largest such shift.
    """

    deviation: float
    shift: float
    largest: float


@dataclass(frozen=True)
class Partner:
    """A second variable, in the next columns of the same basis.

    Attributes:
        variable: Of the causal model.
        width: How many columns.
        scores: Against this variable's counterfactuals: ``learned``, its own columns swapped;
            ``other_variable``, the first variable's; ``wrong_source``.
    """

    variable: str
    width: int
    scores: Mapping[str, Interval]


@dataclass(frozen=True, kw_only=True)
class AlignmentReport(Result):
    """How well a learned subspace carries a variable, beside its controls, and what follows.

    Every score is ``1 - E D(counterfactual ‖ patched) / E D(counterfactual ‖ blind)`` over random
    pairs of sequences that the subspace was not fitted on: 1 where swapping acts as in the causal
    model, 0 where it does no better than the best answer without a look at the source, negative
    where it does worse. Older files hold scores over no swap, with ``blind`` None.

    Attributes:
        model: Its name.
        task: Its name, or its description.
        seed: Of sequences, pairs, fits and resampling.
        n_sequences: Half for the fit, half for the scores.
        parameters: Of the causal model, fitted to the model.
        divergence: Its name and unit.
        versions: Of what the result depends on.
        through: What the runs of a ``TransformerBridge`` went through.
        variable: Of the causal model.
        layer: Block index; or several, whose activations are one space.
        kind: Of site, one of ``KINDS``.
        head: Of a site that has heads; otherwise None.
        width: Dimension of the subspace (of each variable's).
        n_components: Dimension of the space it was sought in.
        scores: ``learned``, and beside it what must not score as well: ``random_rotation``, a
            random subspace of the same width within the directions that the learned one was sought
            in; ``random_weights``, the same fit on a model of the same architecture with random
            weights; ``arbitrary_labels``, the same fit towards an arbitrary variable's
            counterfactuals, scored against those; ``wrong_source``, the learned subspace from
            another source; ``other_variable``, the second variable's columns. Then what tells a
            dormant pathway: ``complement``, all but the learned subspace swapped; ``whole_site``;
            ``whole_site_given_query``, from sources that share the query's own tokens;
            ``within_range``, the learned subspace without its shifts along principal directions out
            of their natural range. And ``noise``, a subspace of the same width that a map from
            noise writes to, fitted by least squares: where the site is narrow it scores as well.
        unpatched: Mean divergence of the counterfactual from the unpatched model.
        alignment: The learned subspace, with the tolerance of the search.
        last: So many last query positions are one space; None for the variable's own positions.
        given_query: Sources share the query's own tokens with their base.
        blind: Mean divergence of the counterfactual from blind, the scores' denominator.
        n_pairs: Held out; None in older files.
        directions: One for each column of the learned basis.
        furthest: The largest root mean square shift by the swap along a principal direction of the
            site, in natural standard deviations.
        n_far: Along how many it is out of the natural range.
        partner: The second variable, if two were sought.
        verdict: A key of ``mtd_lens.verdicts.IN_WORDS``, or ``"illusion_suspected"``; empty in
            older files.
        reason: Of the verdict, in words.
        floor: What the score had to exceed.
        algorithm: Name of what the model is held against; empty in older files.
    """

    FIGURE: ClassVar[str] = "plot_alignment"

    variable: str
    layer: int | tuple[int, ...]
    kind: str
    head: int | None
    width: int
    n_components: int
    scores: Mapping[str, Interval]
    unpatched: float
    alignment: Alignment = field(repr=False, compare=False)
    last: int | None = None
    given_query: bool = False
    blind: float | None = None
    n_pairs: int | None = None
    directions: tuple[Direction, ...] = ()
    furthest: float | None = None
    n_far: int = 0
    partner: Partner | None = None
    verdict: str = ""
    reason: str = ""
    floor: float | None = None
    algorithm: str = ""

    def _check_fields(self) -> None:
        listed = [self.scores] if self.partner is None else [self.scores, self.partner.scores]
        for scores in listed:
            fits = "learned" in scores and set(scores) <= set(ROWS)
            check(fits, "'learned' and controls", list(scores), "the keys of scores")

    @property
    def score(self) -> Interval:
        """Of the learned subspace."""
        return self.scores["learned"]

    @property
    def verdict_in_words(self) -> str:
        """The verdict, with spaces."""
        return self.verdict.replace("_", " ")

    def __repr__(self) -> str:
        verdict = f", {self.verdict_in_words}" if self.verdict else ""
        return (
            f"AlignmentReport({self.model!r}: {self.variable} at {self._place}, width "
            f"{self.width}: {self.score}{verdict})"
        )

    @property
    def _place(self) -> str:
        several = isinstance(self.layer, tuple)
        layers = ", ".join(map(str, self.layer)) if isinstance(self.layer, tuple) else self.layer
        head = "" if self.head is None else f" head {self.head}"
        last = "" if self.last is None else f", last {self.last} queries"
        return f"layer{'s' * several} {layers} {self.kind}{head}{last}"

    def _title(self) -> str:
        n_pairs = self.n_pairs or self.n_sequences - self.n_sequences // 2
        below = "" if self.blind is None else f"blind {self.blind:.4f}, "
        given = ", given the query" * self.given_query
        held = f" of {self.algorithm}" * bool(self.algorithm)
        return (
            f"{self.model}: {self.variable}{held} in {self.width} of {self.n_components} "
            f"dimensions of {self._place}{given}; {n_pairs} held-out pairs, {below}unpatched "
            f"{self.unpatched:.4f} ({self.divergence})"
        )

    def _tables(self) -> list[Table]:
        header = ["what is swapped", "score", "95% interval"]
        tables = [Table(header, _shown(self.scores))]
        if self.partner is not None:
            title = f"{self.partner.variable}, the next {self.partner.width} of the same basis"
            tables.append(Table(header, _shown(self.partner.scores), title=title))
        rows = [
            [f"{n + 1}", figure(d.deviation, 4), figure(d.shift, 2), figure(d.largest, 2)]
            for n, d in enumerate(self.directions)
        ]
        if rows:  # which older files lack
            header = ["direction", "natural deviation", "shift, rms", "largest, in deviations"]
            tables.append(Table(header, rows, title="What the swap shifts"))
        return tables

    def _notes(self) -> list[str]:
        if not self.verdict:
            return []
        learned = self.alignment
        note = (
            f"{learned.span.shape[1]} directions were searched; {learned.left_out} in which "
            f"natural runs vary by less than {learned.tolerance:g} of the largest deviation were "
            "left out."
        )
        if self.furthest is not None:
            note += (
                f" Along a principal direction of the site the swap shifts by up to "
                f"{self.furthest:.1f} natural deviations."
            )
        return [f"Verdict: {self.verdict_in_words}: {self.reason}.", note]

    def _rows(self) -> list[dict[str, Any]]:
        return [{"swapped": name} | vars(score) for name, score in self.scores.items()]


def _shown(scores: Mapping[str, Interval]) -> list[list[str]]:
    known = sorted(scores, key=list(ROWS).index)
    return [[ROWS[name], figure(scores[name].score), interval(scores[name])] for name in known]
