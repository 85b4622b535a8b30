"""The result of ``read_weights``: findings in weights, beside random models' figures."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mtd_lens.errors import UnknownNameError, nearest
from mtd_lens.results import forms as render
from probes.circuits import WeightFinding


@dataclass(frozen=True)
class WeightReading:
    """A model's weights held against the construction, each figure beside random models'.

    ``reading["content"]`` are the findings of that name; ``print(reading)`` shows the table.

    Attributes:
        model: Its name.
        task: Its name, or its description.
        seed: Of the random models.
        n_random: How many.
        findings: In the order of the algorithm.
    """

    model: str
    task: str | Mapping[str, Any]
    seed: int
    n_random: int
    findings: tuple[WeightFinding, ...]

    def __iter__(self) -> Iterator[WeightFinding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __getitem__(self, name: str) -> tuple[WeightFinding, ...]:
        found = tuple(finding for finding in self.findings if finding.name == name)
        if not found:
            known = [finding.name for finding in self.findings]
            raise UnknownNameError(f"no finding is named {name!r}. {nearest(name, known)}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as ``to_json`` writes it."""
        return dict(vars(self), findings=[finding.to_dict() for finding in self.findings])

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The reading as JSON text, also written to ``path`` if one is given.

        Args:
            path: Also write it there.

        Raises:
            OutputPathError: The path cannot be written to.
        """
        return render.json_text(self.to_dict(), path)

    def __repr__(self) -> str:
        best: dict[str, float] = {}
        for finding in self.findings:
            if finding.score is not None:
                best[finding.name] = max(finding.score, best.get(finding.name, finding.score))
        scores = ", ".join(f"{name} {_figure(score, 2)}" for name, score in best.items())
        return f"WeightReading({self.model!r}: {scores})"

    def __str__(self) -> str:
        header, rows = self._table()
        table = render.text_table(header, rows, left=(0, 1, 3))
        return "\n\n".join([self._title(), table, *map(": ".join, self._reasons())])

    def _repr_html_(self) -> str:
        header, rows = self._table()
        return render.html(
            "comparison.html",
            title=self._title(),
            header=header,
            rows=rows,
            fitted_title="Not applicable",
            fitted_header=["finding", "reason"],
            fitted_rows=self._reasons(),
        )

    def _reasons(self) -> list[list[str]]:
        return [[f.name, f.statement] for f in self.findings if f.score is None]

    def _title(self) -> str:
        return (
            f"{self.model}: weights against the construction; null: 95% range over "
            f"{self.n_random} random models of the same architecture"
        )

    def _table(self) -> tuple[list[str], list[list[str]]]:
        header = ["finding", "layer.head", "value", "unit", "null", "score", "null"]
        rows = [
            [
                f.name,
                f.place or "–",
                *(_figure(f.value), f.unit, _range(f.null_value)),
                *("not applicable" if f.score is None else _figure(f.score), _range(f.null_score)),
            ]
            for f in self.findings
        ]
        return header, rows


def _figure(value: float | None, digits: int = 3) -> str:
    return "–" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"


def _range(bounds: tuple[float, float] | None) -> str:
    return "–" if bounds is None else f"[{_figure(bounds[0])}, {_figure(bounds[1])}]"
