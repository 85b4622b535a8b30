"""The result of ``read_weights``: findings in weights, beside random models' figures."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from mtd_lens.errors import UnknownNameError
from mtd_lens.results.base import Result
from mtd_lens.results.forms import NOTHING, Table, figure
from probes import checks
from probes.circuits import WeightFinding


@dataclass(frozen=True, kw_only=True)
class WeightReading(Result):
    """A model's weights held against the construction, each figure beside random models'.

    ``reading["content"]`` are the findings of that name; ``print(reading)`` shows the table.

    Attributes:
        model: Its name.
        task: Its name, or its description.
        seed: Of the random models.
        n_sequences: 0, for no data are run.
        parameters: None: nothing is fitted to what the model predicts.
        divergence: Empty: each finding has a unit of its own.
        versions: Of what the result depends on.
        through: What the runs of a ``TransformerBridge`` went through.
        n_random: How many random models.
        findings: In the order of the algorithm.
    """

    FIGURE: ClassVar[str] = "plot_weights"

    n_random: int
    findings: tuple[WeightFinding, ...]

    @classmethod
    def _fields_of(cls, data: dict[str, Any], *, first: bool) -> dict[str, Any]:
        return {"n_sequences": 0, "parameters": {}, "divergence": ""} | data if first else data

    def __iter__(self) -> Iterator[WeightFinding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __getitem__(self, name: str) -> tuple[WeightFinding, ...]:
        known = {finding.name for finding in self.findings}
        checks.choice(name, "finding", known, UnknownNameError)
        return tuple(finding for finding in self.findings if finding.name == name)

    def __repr__(self) -> str:
        best: dict[str, float] = {}
        for finding in self.findings:
            if finding.score is not None:
                best[finding.name] = max(finding.score, best.get(finding.name, finding.score))
        scores = ", ".join(f"{name} {figure(score, 2)}" for name, score in best.items())
        return f"WeightReading({self.model!r}: {scores})"

    def _title(self) -> str:
        return (
            f"{self.model}: weights against the construction; null: 95% range over "
            f"{self.n_random} random models of the same architecture"
        )

    def _tables(self) -> list[Table]:
        header = ["finding", "layer.head", "value", "unit", "null", "score", "null"]
        rows = [
            [
                f.name,
                f.place or NOTHING,
                *(figure(f.value), f.unit, _range(f.null_value)),
                *("not applicable" if f.score is None else figure(f.score), _range(f.null_score)),
            ]
            for f in self.findings
        ]
        return [Table(header, rows, left=(0, 1, 3))]

    def _notes(self) -> list[str]:
        return [f"{f.name}: {f.statement}" for f in self.findings if f.score is None]

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {"finding": f.name, "place": f.place, "value": f.value, "unit": f.unit}
            | dict(zip(("value_low", "value_high"), f.null_value or (None, None), strict=True))
            | {"score": f.score}
            | dict(zip(("score_low", "score_high"), f.null_score or (None, None), strict=True))
            for f in self.findings
        ]


def _range(bounds: tuple[float, float] | None) -> str:
    return NOTHING if bounds is None else f"[{figure(bounds[0])}, {figure(bounds[1])}]"
