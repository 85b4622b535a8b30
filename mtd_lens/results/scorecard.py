"""The scorecard: what was found of each claim, and how it is shown."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from mtd_lens.errors import UnknownNameError
from mtd_lens.results import forms
from mtd_lens.results.base import Result
from mtd_lens.results.first_form import sources_of
from mtd_lens.results.forms import Table, figure, interval, parameters
from mtd_lens.results.plain import from_plain, to_plain
from mtd_lens.verdicts import DOSES, IN_WORDS, NOT_APPLICABLE, THRESHOLD
from probes import checks, pages
from probes.statistics.intervals import Interval

FIRST_FIELDS = (
    *("model", "task", "seed", "n_sequences", "claims", "matrix", "estimators"),
    *("divergence", "versions"),
)
"""Of a scorecard in its first form, where all others are parameters."""


NESTED = ("details", "controls", "dose", "rows")
"""Fields of a claim that no column of a data frame holds."""


FULL = 0.63
"""Share of its colour from which on a cell is so deep that what it says must be pale."""


@dataclass(frozen=True)
class ClaimResult:
    """A claim's score, what it is held against, and the verdict.

    Scores are 1 where the model equals the construction and 0 where it is no better than the
    reference; where the claim does not apply there is none.

    Attributes:
        id: ``variable.test``.
        statement: The claim in a sentence.
        layer: The layer found, counted from 0; None for the model's output.
        site: Hook, heads and positions.
        score: With ``low`` and ``high``, its 95% bootstrap interval over sequences or pairs.
        null: The random model's score.
        null_high: Upper end of its interval.
        ceiling: The construction's score.
        threshold: What the interval must lie above.
        verdict: A key of ``mtd_lens.verdicts.IN_WORDS``.
        details: Further figures.
        reason: Of the verdict, in words.
        floor: The largest of 0 and the upper ends of the random model and of the controls.
        controls: By name, the scores of what must not pass.
        dose: How much of the source's value the patched model acts on.
        rows: ``[numerator or denominator, row]``: what each sequence or pair contributes to the
            score ``1 - E[numerator] / E[denominator]``, in units of the mean denominator; by them
            two scorecards of the same sequences are paired. None where rows alone do not say how
            uncertain the score is.
    """

    id: str
    statement: str
    layer: int | None
    site: str | None
    score: float | None
    low: float | None
    high: float | None
    null: float | None
    null_high: float | None
    ceiling: float | None
    threshold: float
    verdict: str
    details: Mapping[str, float | str] = field(default_factory=dict)
    reason: str = ""
    floor: float | None = None
    controls: Mapping[str, Interval] = field(default_factory=dict)
    dose: Interval | None = None
    rows: Float[Tensor, "2 row"] | None = field(default=None, repr=False, compare=False)

    @classmethod
    def not_made(
        cls, claim_id: str, statement: str, reason: str, threshold: float = THRESHOLD
    ) -> "ClaimResult":
        """Of a claim that does not apply."""
        nothing: dict[str, Any] = dict.fromkeys(
            ("layer", "site", "score", "low", "high", "null", "null_high", "ceiling")
        )
        return cls(
            claim_id, statement, **nothing, threshold=threshold, verdict=NOT_APPLICABLE,
            reason=reason,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class MatrixEntry(Interval):
    """A claim's score at one layer, chosen or not."""

    claim: str
    layer: int
    site: str


@dataclass(frozen=True)
class EstimatorResult:
    """A mean divergence with its interval: an estimator from the model, or the truth from it."""

    name: str
    divergence: float
    low: float
    high: float
    parameters: Mapping[str, float]
    closest: bool


@dataclass(frozen=True, kw_only=True)
class Scorecard(Result):
    """What a model computes of its task's algorithm, layer by layer.

    ``card["mixture_weights.attention"]`` is one claim's result; ``print(card)`` shows the table.

    Attributes:
        model: Its name.
        task: The task's name, or its description if it has none.
        seed: Of sequences, pairs, controls and resampling.
        n_sequences: Half for choices, half for scores.
        parameters: Of the causal model, fitted to the model.
        divergence: Its name and unit.
        versions: Of what the result depends on.
        through: What the runs of a ``TransformerBridge`` went through.
        claims: One result a claim, in the order of the algorithm.
        matrix: The score of every claim at every layer.
        estimators: Mean divergence of the model's predictions from each reference estimator's.
        algorithm: Name of the estimator that is the algorithm itself.
        conclusion: What it comes to, in two or three sentences.
        quick: Whether the slow tests were left out.
        only: Patterns of the ids of those claims that were asked for; empty where all were, and
            then left out in ``to_dict``.
        left_out: Ids of the claims that were asked for and that ``quick`` left out; not in
            ``to_dict`` where there are none.
        outside_mass: Of a model with a vocabulary of its own, the mean probability that it gives to
            ids that stand for none of the task's tokens, after the last position of the sequences
            for scores; predictions are renormalised without it. None for others, and left out in
            ``to_dict``.
    """

    FIGURE: ClassVar[str] = "plot_scorecard"

    claims: tuple[ClaimResult, ...]
    matrix: tuple[MatrixEntry, ...]
    estimators: tuple[EstimatorResult, ...]
    algorithm: str
    conclusion: str = ""
    quick: bool = False
    only: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    outside_mass: float | None = None

    @classmethod
    def _fields_of(cls, data: dict[str, Any], *, first: bool) -> dict[str, Any]:
        """The first form has the parameters beside the other fields."""
        if not first:
            return data
        own = {name: data.pop(name) for name in FIRST_FIELDS if name in data}
        rows = from_plain(tuple[EstimatorResult, ...], own.get("estimators"), "estimators")
        algorithm, _ = sources_of(row.name for row in rows)
        return own | {"parameters": data, "algorithm": algorithm}

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as ``to_json`` writes it."""
        data = super().to_dict()
        absent: dict[str, Any] = {"outside_mass": None, "only": [], "left_out": []}
        return {k: v for k, v in data.items() if k not in absent or v != absent[k]}

    def __iter__(self) -> Iterator[ClaimResult]:
        return iter(self.claims)

    def __len__(self) -> int:
        return len(self.claims)

    def __getitem__(self, claim_id: str) -> ClaimResult:
        by_id = {claim.id: claim for claim in self.claims}
        return by_id[checks.choice(claim_id, "claim", by_id, UnknownNameError)]

    @property
    def n_layers(self) -> int:
        """Number of layers that claims were tried at."""
        return max((entry.layer for entry in self.matrix), default=-1) + 1

    def _repr_html_(self) -> str:
        return pages.fragment(forms.html("scorecard.html", **self._view()))

    def __repr__(self) -> str:
        counts = {v: sum(c.verdict == v for c in self.claims) for v in IN_WORDS}
        summary = ", ".join(f"{n} {v}" for v, n in counts.items() if n)
        return f"Scorecard({self.model!r}: {summary})"

    def _tables(self) -> list[Table]:
        header = ("claim", "layer", "score", "95% interval", "floor", "ceiling", "dose", "verdict")
        rows = [
            (
                claim.id,
                figure(claim.layer, 0),
                figure(claim.score),
                interval(claim),
                figure(claim.floor),
                figure(claim.ceiling),
                figure(None if claim.dose is None else claim.dose.score, 2),
                claim.verdict,
            )
            for claim in self.claims
        ]
        claims = Table(header, rows, left=(0, 7))
        return [
            claims,
            self._reasons_table(),
            self._beside_table(),
            self._matrix_table(),
            self._estimators_table(),
        ]

    def _notes(self) -> list[str]:
        slow = ", ".join(self.left_out) or "slow tests and the choice between algorithms"
        outside = (
            "Predictions are restricted to the ids that stand for the task's tokens, and "
            "renormalised. After the last position the model gives all others together a "
            f"probability of {self.outside_mass:.3g}, on average."
            if self.outside_mass is not None
            else ""
        )
        return [
            *([outside] if outside else []),
            *(
                [f"Quick left out {slow}."]
                if self.left_out or (self.quick and not self.only)
                else []
            ),
            *([f"Only claims named {', '.join(self.only)} were asked for."] if self.only else []),
            *([self.conclusion] if self.conclusion else []),
        ]

    def _reasons_table(self) -> Table:
        rows = [(claim.id, claim.reason) for claim in self.claims if claim.reason]
        return Table(("claim", "why"), rows, left=(0, 1), title="Why")

    def _beside_table(self) -> Table:
        """Controls and further figures, in one line a claim."""
        rows = [(claim.id, words) for claim in self.claims if (words := _beside(claim))]
        return Table(("claim", "figures"), rows, left=(0, 1), title="Beside each score")

    def _estimators_table(self) -> Table:
        rows = [
            (e.name, figure(e.divergence, 5), interval(e, 5), parameters(e.parameters))
            for e in sorted(self.estimators, key=lambda estimator: estimator.divergence)
        ]
        title = f"Estimator ‖ model at the last query ({self.divergence}), each fitted to be least"
        return Table(("estimator", "divergence", "95% interval", "fitted"), rows, (0, 3), title)

    def _matrix_table(self) -> Table:
        scores = {(entry.claim, entry.layer): entry.score for entry in self.matrix}
        layers = range(self.n_layers)
        rows = []
        for claim in self.claims:
            cells = [
                figure(scores.get((claim.id, layer)), 2) + ("*" if layer == claim.layer else " ")
                for layer in layers
            ]
            if any((claim.id, layer) in scores for layer in layers):
                rows.append([claim.id, *cells])
        header = ["claim", *(f"layer {layer} " for layer in layers)]
        return Table(header, rows, title="Every layer (* chosen)")

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {name: value for name, value in to_plain(claim).items() if name not in NESTED}
            | {f"dose{end}": limit for end, limit in _dose(claim).items()}
            for claim in self.claims
        ]

    def _view(self) -> dict[str, Any]:
        from markupsafe import Markup

        scores = {(entry.claim, entry.layer): entry for entry in self.matrix}
        return {
            "card": self,
            "rows": [claim.id for claim in self.claims if claim.id in {key[0] for key in scores}],
            "scores": scores,
            "chosen": {(claim.id, claim.layer) for claim in self.claims},
            "doses": [claim for claim in self.claims if claim.dose is not None],
            "doses_within": DOSES,
            "at": lambda dose: round(100 * (min(max(dose, -0.5), 2.0) + 0.5), 1),
            "verdicts": IN_WORDS,
            "verdict": lambda name: Markup(pages.verdict(name)),
            "breakable": lambda text: Markup(pages.breakable(text)),
            "figure": figure,
            "interval": interval,
            "parameters": parameters,
            "share": share,
            "full": FULL,
            "estimators": replace(self._estimators_table(), title=""),
            "beside": replace(self._beside_table(), title=""),
            "notes": self._all_notes(),
        }


def _beside(claim: ClaimResult) -> str:
    """Controls with their intervals, and details, in words."""
    words = [
        f"{name} {figure(found.score)} {interval(found)}" for name, found in claim.controls.items()
    ]
    if claim.dose is not None:
        words.append(f"dose {figure(claim.dose.score, 2)} {interval(claim.dose, 2)}")
    for name, value in claim.details.items():
        shown = value if isinstance(value, str) else f"{value:.3g}"
        words.append(f"{name.replace('_', ' ')} {shown}")
    return "; ".join(words)


def _dose(claim: ClaimResult) -> dict[str, float | None]:
    found = claim.dose
    names = {"": "score", "_low": "low", "_high": "high"}
    return {end: None if found is None else getattr(found, name) for end, name in names.items()}


def share(score: float) -> float:
    """How deep the colour of a matrix cell is: 0, as the page, at 0 and below, and 1 at 1."""
    return round(min(max(score, 0.0), 1.0), 2)
