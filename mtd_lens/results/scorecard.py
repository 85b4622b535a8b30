"""The scorecard: what was found of each claim, and how it is shown."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mtd_lens.errors import UnknownNameError, nearest
from mtd_lens.results import forms as render

AT_BOUND = "_at_bound"
"""Ends the name of the flag beside a parameter that was fitted to the end of its range."""

VERDICTS = {
    "supported": "the interval lies above the null's and above the threshold",
    "refuted": "the interval reaches no higher than the null's, or than the reference's score of 0",
    "inconclusive": "none of the others",
    "not_diagnostic": "the test cannot tell: the null passes it too, or the construction fails it",
    "not_applicable": "the variable does not vary on this task",
}


@dataclass(frozen=True)
class ClaimResult:
    """A claim's score, what it is held against, and the verdict.

    Scores are 1 where the model equals the construction and 0 where it is no better than the
    reference; every field is None where the claim does not apply.

    Attributes:
        id: ``variable.test``.
        statement: The claim in a sentence.
        layer: The layer found, counted from 0; None for the model's output.
        site: Hook, heads and positions.
        score: With ``low`` and ``high``, its 95% bootstrap interval over sequences.
        null: The random model's score, or the control task's where that is larger.
        null_high: Upper end of the null's interval.
        ceiling: The construction's score.
        threshold: What the interval must lie above.
        verdict: A key of ``VERDICTS``.
        details: Further figures.
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


@dataclass(frozen=True)
class MatrixEntry:
    """A claim's score at one layer, chosen or not."""

    claim: str
    layer: int
    site: str
    score: float
    low: float
    high: float


@dataclass(frozen=True)
class EstimatorResult:
    """A mean divergence with its interval: an estimator from the model, or the truth from it."""

    name: str
    divergence: float
    low: float
    high: float
    parameters: Mapping[str, float]
    closest: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return _plain(self)


@dataclass(frozen=True)
class Scorecard:
    """What a model computes of its task's algorithm, layer by layer.

    ``card["mixture_weights.attention"]`` is one claim's result; ``print(card)`` shows the table.

    Attributes:
        model: Its name.
        task: The task's name, or its description if it has none.
        seed: Of sequences, pairs, controls and resampling.
        n_sequences: Half for choices, half for scores.
        parameters: Of the causal model, fitted to the model.
        claims: One result a claim, in the order of the algorithm.
        matrix: The score of every claim at every layer.
        estimators: Mean divergence of the model's predictions from each reference estimator's.
        divergence: Its name and unit.
        versions: Of what the result depends on.
    """

    model: str
    task: str | Mapping[str, Any]
    seed: int
    n_sequences: int
    parameters: Mapping[str, float]
    claims: tuple[ClaimResult, ...]
    matrix: tuple[MatrixEntry, ...]
    estimators: tuple[EstimatorResult, ...]
    divergence: str
    versions: Mapping[str, str]

    def __iter__(self) -> Iterator[ClaimResult]:
        return iter(self.claims)

    def __len__(self) -> int:
        return len(self.claims)

    def __getitem__(self, claim_id: str) -> ClaimResult:
        for claim in self.claims:
            if claim.id == claim_id:
                return claim
        ids = [claim.id for claim in self.claims]
        raise UnknownNameError(f"no claim is named {claim_id!r}. {nearest(claim_id, ids)}")

    @property
    def n_layers(self) -> int:
        """Number of layers that claims were tried at."""
        return max((entry.layer for entry in self.matrix), default=-1) + 1

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as ``to_json`` writes it."""
        head = {
            "model": self.model,
            "task": self.task,
            "seed": self.seed,
            "n_sequences": self.n_sequences,
        }
        return {
            **head,
            **{name: value for name, value in self.parameters.items() if name not in head},
            "claims": [_plain(claim) for claim in self.claims],
            "matrix": [_plain(entry) for entry in self.matrix],
            "estimators": [estimator.to_dict() for estimator in self.estimators],
            "divergence": self.divergence,
            "versions": dict(self.versions),
        }

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The scorecard as JSON text, also written to ``path`` if one is given.

        Args:
            path: Also write it there.

        Raises:
            OutputPathError: The path cannot be written to.
        """
        return render.json_text(self.to_dict(), path)

    def to_html(self, path: str | os.PathLike[str] | None = None) -> str:
        """A self-contained page with the table and the matrix, also written to ``path``.

        Args:
            path: Also write it there.

        Raises:
            OutputPathError: The path cannot be written to.
        """
        text = render.html("scorecard_page.html", **self._view())
        if path is not None:
            render.write_text(path, text)
        return text

    def _repr_html_(self) -> str:
        return render.html("scorecard.html", **self._view())

    def __repr__(self) -> str:
        counts = {v: sum(c.verdict == v for c in self.claims) for v in VERDICTS}
        summary = ", ".join(f"{n} {v}" for v, n in counts.items() if n)
        return f"Scorecard({self.model!r}: {summary})"

    def __str__(self) -> str:
        header = ("claim", "layer", "score", "95% interval", "null", "ceiling", "verdict")
        rows = [
            (
                claim.id,
                "–" if claim.layer is None else str(claim.layer),
                figure(claim.score),
                interval(claim.low, claim.high),
                figure(claim.null),
                figure(claim.ceiling),
                claim.verdict,
            )
            for claim in self.claims
        ]
        blocks = [
            f"{self.model}   {parameters(self.parameters)}   {self.n_sequences} sequences",
            render.text_table(header, rows, left=(0, 6)),
        ]
        if self.matrix:
            blocks += ["Every layer (* chosen)", self._matrix_table()]
        if self.estimators:
            estimators = [
                (
                    e.name,
                    figure(e.divergence, 5),
                    interval(e.low, e.high, 5),
                    parameters(e.parameters),
                )
                for e in self._by_distance()
            ]
            heading = ("estimator", "divergence", "95% interval", "fitted")
            blocks += [
                f"Estimator ‖ model at the last query ({self.divergence})",
                render.text_table(heading, estimators, left=(0, 3)),
            ]
        return "\n\n".join(blocks)

    def _by_distance(self) -> list[EstimatorResult]:
        return sorted(self.estimators, key=lambda estimator: estimator.divergence)

    def _matrix_table(self) -> str:
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
        return render.text_table(["claim", *(f"layer {layer} " for layer in layers)], rows)

    def _view(self) -> dict[str, Any]:
        scores = {(entry.claim, entry.layer): entry for entry in self.matrix}
        chosen = {(claim.id, claim.layer) for claim in self.claims}
        return {
            "card": self,
            "task": self.task if isinstance(self.task, str) else "a task of the user's own",
            "rows": [claim.id for claim in self.claims if claim.id in {key[0] for key in scores}],
            "scores": scores,
            "chosen": chosen,
            "verdicts": VERDICTS,
            "figure": figure,
            "interval": interval,
            "parameters": parameters,
            "colour": colour,
            "estimators": self._by_distance(),
        }


def figure(value: float | None, digits: int = 3) -> str:
    """A number for a table; a dash for none, and no minus before a rounded 0."""
    if value is None:
        return "–"
    if value < -99:
        return "< -99"
    return f"{round(value, digits) + 0.0:.{digits}f}"


def interval(low: float | None, high: float | None, digits: int = 3) -> str:
    """An interval for a table."""
    if low is None or high is None:
        return "–"
    return f"[{figure(low, digits)}, {figure(high, digits)}]"


def parameters(values: Mapping[str, float]) -> str:
    """Fitted parameters in words; numbered ones, such as ``step_size_1``, share one label."""
    groups = grouped(values)
    words = [
        f"{label} {', '.join(f'{value:.4g}' + '*' * at_bound for value, at_bound in listed)}"
        for label, listed in groups.items()
    ]
    marked = any(at_bound for listed in groups.values() for _, at_bound in listed)
    return ", ".join(words) + " (* at the end of its range: no estimate)" * marked


def grouped(values: Mapping[str, float]) -> dict[str, list[tuple[float, bool]]]:
    """By label, parameters and whether each lies at the end of its range.

    ``step_size_1``, ``step_size_2``, … are listed under one label, ``step size``.
    """
    groups: dict[str, list[tuple[float, bool]]] = {}
    for name, value in values.items():
        if not name.endswith(AT_BOUND):
            label = re.sub(r"_\d+$", "", name).replace("_", " ")
            groups.setdefault(label, []).append((value, name + AT_BOUND in values))
    return groups


def colour(score: float) -> dict[str, str]:
    """Background and text of a matrix cell: white at 0 and below, dark blue at 1 (viridis-like)."""
    stops: Sequence[tuple[int, int, int]] = ((247, 251, 255), (107, 174, 214), (8, 48, 107))
    level = min(max(score, 0.0), 1.0) * (len(stops) - 1)
    index = min(int(level), len(stops) - 2)
    share = level - index
    red, green, blue = (
        round(a + (b - a) * share) for a, b in zip(stops[index], stops[index + 1], strict=True)
    )
    return {
        "background": f"rgb({red}, {green}, {blue})",
        "color": "#ffffff" if score > 0.55 else "#10202c",
    }


def _plain(value: Any) -> dict[str, Any]:
    data = dict(vars(value))
    return {key: dict(item) if isinstance(item, Mapping) else item for key, item in data.items()}
