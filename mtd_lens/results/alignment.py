"""The result of ``align``: a learned subspace's score beside its controls."""

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
    "random_weights": "fit on random weights",
    "arbitrary_labels": "fit to arbitrary labels",
    "whole_site": "whole site",
    "mean_value": "no swap: variable at its mean",
}


@dataclass(frozen=True, kw_only=True)
class AlignmentReport(Result):
    """How well a learned subspace carries a variable, beside its controls.

    Every score is ``1 - E D(counterfactual ‖ patched) / E D(counterfactual ‖ unpatched)`` on
    sequences that the subspace was not fitted on: 1 where swapping acts as in the causal model, 0
    where it is no better than no swap, negative where it does harm.

    Attributes:
        model: Its name.
        task: Its name, or its description.
        seed: Of sequences, pairs, fits and resampling.
        n_sequences: Half for the fit, half for the scores.
        parameters: Of the causal model, fitted to the model.
        divergence: Its name and unit.
        versions: Of what the result depends on.
        variable: Of the causal model.
        layer: Block index.
        kind: Of site, one of ``KINDS``.
        head: Of a site that has heads; otherwise None.
        width: Dimension of the subspace.
        n_components: Dimension of the activation.
        scores: ``learned``, and the controls: ``random_rotation``, a random subspace of the same
            width within the directions that the learned one was sought in; ``random_weights``, the
            same fit on a model of the same architecture with random weights; ``arbitrary_labels``,
            the same fit towards an arbitrary variable's counterfactuals, scored against those;
            ``whole_site``, everything at the site swapped; ``mean_value``, no swap, but the causal
            model's prediction with the variable at its mean: what can be reached without looking at
            the source, by drawing predictions together. Hold the learned score against these, not
            against 0.
        unpatched: Mean divergence of the counterfactual from the unpatched model, the score's
            denominator.
        alignment: The learned subspace.
    """

    FIGURE: ClassVar[str] = "plot_alignment"

    variable: str
    layer: int
    kind: str
    head: int | None
    width: int
    n_components: int
    scores: Mapping[str, Interval]
    unpatched: float
    alignment: Alignment = field(repr=False, compare=False)

    def _check_fields(self) -> None:
        fits = "learned" in self.scores and set(self.scores) <= set(ROWS)
        check(fits, "'learned' and controls", list(self.scores), "the keys of scores")

    @property
    def score(self) -> Interval:
        """Of the learned subspace."""
        return self.scores["learned"]

    def __repr__(self) -> str:
        return (
            f"AlignmentReport({self.model!r}: {self.variable} at {self._place}, width "
            f"{self.width}: {self.score})"
        )

    @property
    def _place(self) -> str:
        head = "" if self.head is None else f" head {self.head}"
        return f"layer {self.layer} {self.kind}{head}"

    def _title(self) -> str:
        n_pairs = self.n_sequences - self.n_sequences // 2
        return (
            f"{self.model}: {self.variable} in {self.width} of {self.n_components} dimensions of "
            f"{self._place}; {n_pairs} held-out pairs, unpatched {self.unpatched:.4f} "
            f"({self.divergence})"
        )

    def _tables(self) -> list[Table]:
        rows = [[ROWS[name], figure(i.score), interval(i)] for name, i in self.scores.items()]
        return [Table(["what is swapped", "score", "95% interval"], rows)]

    def _rows(self) -> list[dict[str, Any]]:
        return [{"swapped": name} | vars(score) for name, score in self.scores.items()]
