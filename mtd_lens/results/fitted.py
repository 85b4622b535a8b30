"""The result of ``fit_algorithm``: a sum of evidence that was read off a model's predictions."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from mtd_lens.contracts import Algorithm, CausalModel
from mtd_lens.results.base import Result
from mtd_lens.results.forms import Table, figure, interval, scored
from mtd_lens.results.plain import check
from probes.statistics import Interval

FITTED, REFERENCE, CONTROL = KINDS = ("fitted", "reference", "control")
"""What a row of misfits is of."""

NEGLIGIBLE_SHARE = 1e-6
"""Of what no evidence leaves: who explains no more than that beyond another is no nearer."""

DIGITS = 6
"""Of divergences: those of models that are followed well are below a thousandth of a nat."""


@dataclass(frozen=True)
class Misfit:
    """How far a model's held-out predictions are from what was fitted to them.

    Attributes:
        name: In words.
        kind: ``"fitted"``, ``"reference"`` or ``"control"``.
        divergence: Mean ``D(model ‖ fit)``, with its interval.
        explained: One minus its share of the divergence from predictions without evidence; None
            where there is nothing to explain.
        beyond: By how much it exceeds the fitted algorithm's, paired over sequences, the interval
            corrected for the number of references (Bonferroni); None for the fitted algorithm's
            own row, and for another model's.
        parameters: What was fitted.
    """

    name: str
    kind: str
    divergence: Interval
    explained: Interval | None
    beyond: Interval | None
    parameters: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Resemblance:
    """Correlation of the fitted evidence with a known rule's, both centred over lags.

    Attributes:
        name: Of the rule.
        correlation: Over evidence in held-out sequences, which are resampled.
        shown: ``[window, lag]``: the rule's evidence for some windows, centred.
    """

    name: str
    correlation: Interval
    shown: Float[Tensor, "window lag"]


@dataclass(frozen=True, kw_only=True, eq=False)
class FittedAlgorithm(Result):
    """Additive evidence that a model's own predictions follow, beside every reference and control.

    ``fitted.algorithm`` is what ``score`` holds models against with it.

    Attributes:
        model: Its name.
        task: The task's name, or its description if it has none.
        seed: Of the sequences, the random model, and resampling. The sequences are none that
            another question draws with it.
        n_sequences: How many were drawn: two thirds for fits, the rest for all that is reported.
        parameters: Of the fitted causal model: how many numbers, and the scale of the evidence.
        divergence: Its name and unit.
        versions: Of what the result depends on.
        through: What the runs of a ``TransformerBridge`` went through.
        table_form: What the table is of.
        table: ``[block, entry, lag]``: the evidence, as the causal model holds it.
        position_weights: Of the evidence so many positions before the query, first the query's
            own; their mean is 1. Intervals are for the table as it is.
        slope: Of the weights but the query's own, in weight a position nearer to it.
        misfits: The fitted algorithm's, every reference's and every control's.
        resemblances: Of the evidence to known rules, and to that of a fit to other sequences.
        shown: ``[window, lag]``: evidence for some windows of the held-out sequences, centred.
        described: The task, as its ``to_json`` gives it.
    """

    FIGURE: ClassVar[str] = "plot_fitted"

    table_form: str
    table: Float[Tensor, "block entry lag"]
    position_weights: tuple[Interval, ...]
    slope: Interval
    misfits: tuple[Misfit, ...]
    resemblances: tuple[Resemblance, ...]
    shown: Float[Tensor, "window lag"]
    described: Mapping[str, Any]

    @property
    def causal_model(self) -> CausalModel:
        """The fitted causal model."""
        import torch

        weights = torch.tensor([w.score for w in self.position_weights], dtype=torch.float64)
        additive, task = self._of_family()
        found: CausalModel = additive.restore(task, self.table, weights)
        return found

    @property
    def algorithm(self) -> Algorithm:
        """The algorithm for ``score(model, algorithm=…)``, whose causal model is the fitted one."""
        found: Algorithm = self._of_family()[0].algorithm(self.causal_model)
        return found

    def _of_family(self) -> tuple[Any, Any]:
        """How the task's family fits such algorithms, and the task."""
        registry = importlib.import_module("mtd_lens.registry")  # families stand above results
        task = registry.task_from_json(self.described, "the result")
        return registry.family_of(task).additive, task

    @property
    def fitted(self) -> Misfit:
        """The fitted algorithm's own misfit."""
        return self._of_kind(FITTED)[0]

    @property
    def best_reference(self) -> Misfit:
        """The reference that is nearest to the model."""
        return min(self._of_kind(REFERENCE), key=lambda row: row.divergence.score)

    @property
    def is_nearest(self) -> bool:
        """Whether it is nearer to the model than each reference, by the corrected intervals.

        Differences of less than a millionth of what no evidence leaves are none.
        """
        return all(self._is_farther(row) for row in self._of_kind(REFERENCE))

    def _is_farther(self, row: Misfit) -> bool:
        return self._share(row) > NEGLIGIBLE_SHARE and row.beyond is not None and row.beyond.low > 0

    def _is_nearer(self, row: Misfit) -> bool:
        beyond = row.beyond
        return self._share(row) < -NEGLIGIBLE_SHARE and beyond is not None and beyond.high < 0

    def _share(self, row: Misfit) -> float:
        """How much more is explained by the fitted algorithm; 0 where there is nothing."""
        own, other = self.fitted.explained, row.explained
        return 0.0 if own is None or other is None else own.score - other.score

    def _of_kind(self, kind: str) -> list[Misfit]:
        return [row for row in self.misfits if row.kind == kind]

    def _check_fields(self) -> None:
        kinds = [row.kind for row in self.misfits]
        fits = set(kinds) <= set(KINDS) and kinds.count(FITTED) == 1 and REFERENCE in kinds
        check(fits, f"rows of the kinds {', '.join(KINDS)}, one of them fitted", kinds, "misfits")
        check(len(self.position_weights) > 0, "at least one weight", (), "position_weights")
        for row in self.resemblances:
            shapes = row.shown.shape, self.shown.shape
            check(shapes[0] == shapes[1], "shown as the evidence is", shapes, "resemblances")

    def __repr__(self) -> str:
        best = self.best_reference
        return (
            f"FittedAlgorithm({self.model!r}: {figure(self.fitted.divergence.score, DIGITS)}; "
            f"{best.name} {figure(best.divergence.score, DIGITS)})"
        )

    def _title(self) -> str:
        return (
            f"{self.model}: {self.fitted.name} from a table of {self.table_form}; "
            f"{self.n_sequences} sequences, a third of them held out"
        )

    def _tables(self) -> list[Table]:
        rows = [
            [
                row.name,
                scored(row.divergence, DIGITS),
                interval(row.divergence, DIGITS),
                scored(row.beyond, DIGITS),
                interval(row.beyond, DIGITS),
                scored(row.explained),
            ]
            for row in self.misfits
        ]
        alike = [
            [row.name, scored(row.correlation), interval(row.correlation)]
            for row in self.resemblances
        ]
        last = self.position_weights[0]
        placed = [
            ["weight of evidence at the query", scored(last), interval(last)],
            ["slope of the others, a position", scored(self.slope, 4), interval(self.slope, 4)],
        ]
        measure = self.divergence.partition(",")[0]
        return [
            Table(
                [
                    "held out",
                    f"{measure}(model ‖ it)",
                    "95%",
                    "beyond the fit",
                    "corrected",
                    "share",
                ],
                rows,
                title="What the model's predictions are followed by; share: explained of what no "
                "evidence leaves",
            ),
            Table(["evidence, correlated with", "r", "95%"], alike),
            Table(["weights of positions, mean 1", "", "95%"], placed),
        ]

    def _notes(self) -> list[str]:
        best = self.best_reference
        nearer = "nearer to the model than every reference"
        if self.is_nearest:
            return [f"{self.fitted.name} is {nearer}; {best.name} comes nearest to it."]
        if self._is_nearer(best):
            return [f"{self.fitted.name} is not {nearer}: {best.name} is nearer."]
        return [f"That {self.fitted.name} is {nearer} is not certain: {best.name} is as near."]

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {"name": row.name, "kind": row.kind}
            | _figures("divergence", row.divergence)
            | _figures("explained", row.explained)
            | _figures("beyond", row.beyond)
            for row in self.misfits
        ]


def _figures(name: str, found: Interval | None) -> dict[str, float | None]:
    """A figure with its interval, in columns."""
    values = (None, None, None) if found is None else (found.score, found.low, found.high)
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))
