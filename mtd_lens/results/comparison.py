"""The result of ``compare``: divergences from the truth at several context lengths."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from mtd_lens.results.base import Result
from mtd_lens.results.first_form import sources_of
from mtd_lens.results.forms import AT_BOUND, Table, compact, figure, grouped
from mtd_lens.results.plain import check, from_plain
from mtd_lens.results.scorecard import EstimatorResult


@dataclass(frozen=True)
class AtLength:
    """What a comparison's file holds of one context length."""

    length: int
    divergence_from_truth: tuple[EstimatorResult, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison(Result):
    """Divergence of predictions from the truth after contexts of several lengths.

    Estimators have their step sizes fitted anew at each length; the model is the same at all.

    Attributes:
        model: Its name; its own row is called ``model``.
        task: The task's name, or its description if it has none.
        seed: Of the sequences and of resampling.
        n_sequences: At each length.
        parameters: None: what is fitted stands in the rows.
        divergence: Its name and unit.
        versions: Of what the result depends on.
        through: What the runs of a ``TransformerBridge`` went through.
        lengths: Numbers of tokens in the context.
        rows: For each length, the estimators and the model.
        drawn: Names of the estimators that figures show unless others are asked for.
    """

    FIGURE: ClassVar[str] = "plot_comparisons"

    lengths: tuple[int, ...]
    rows: tuple[tuple[EstimatorResult, ...], ...]
    drawn: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as ``to_json`` writes it; the rows of a length stand beside it."""
        plain = super().to_dict()
        by_length = zip(plain["lengths"], plain.pop("rows"), strict=True)
        plain["lengths"] = [{"length": n, "divergence_from_truth": rows} for n, rows in by_length]
        return plain

    @classmethod
    def _fields_of(cls, data: dict[str, Any], *, first: bool) -> dict[str, Any]:
        """The rows of each length, which stand beside it in a file."""
        entries: Any = data.get("lengths")
        read = from_plain(tuple[AtLength, ...], entries, "lengths")
        sources = [[row.name for row in entry.divergence_from_truth] for entry in read]
        same = bool(sources) and all(names and names == sources[0] for names in sources)
        check(same, "a list of at least one length, all with the same sources", sources, "lengths")
        rows = [entry["divergence_from_truth"] for entry in entries]
        data |= {"lengths": [entry["length"] for entry in entries], "rows": rows}
        if first:
            data |= {"parameters": {}, "drawn": sources_of(sources[0])[1]}
        return data

    def __repr__(self) -> str:
        return f"Comparison({self.model!r}, lengths={list(self.lengths)})"

    def _title(self) -> str:
        return (
            f"{self.model}: truth ‖ prediction at the last query ({self.divergence}), ± half the "
            f"95% interval; {self.n_sequences} sequences a length"
        )

    def _by_name(self) -> Iterator[tuple[EstimatorResult, ...]]:
        """Each estimator's results, and the model's, at all lengths."""
        return zip(*self.rows, strict=True)

    def _tables(self) -> list[Table]:
        """Divergences, and what was fitted: a row for each estimator and kind of parameter."""
        lengths = [f"T = {length}" for length in self.lengths]
        body, fitted = [], []
        for entries in self._by_name():
            name = entries[0].name
            cells = [f"{figure(e.divergence, 4)} ± {(e.high - e.low) / 2:.4f}" for e in entries]
            body.append([name, *cells])
            groups = [grouped(entry.parameters) for entry in entries]
            for label in dict.fromkeys(label for group in groups for label in group):
                fitted.append([name, label, *(compact(group.get(label, [])) for group in groups)])
        flags = [name.endswith(AT_BOUND) for row in self.rows for e in row for name in e.parameters]
        note = "; * at the end of its range: no estimate" * any(flags)
        title = f"Fitted at each length, on as many further sequences{note}"
        return [
            Table(["estimator", *lengths], body),
            Table(["estimator", "", *lengths], fitted, (0, 1), title),
        ]

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {"length": length, "source": entry.name}
            | {"divergence": entry.divergence, "low": entry.low, "high": entry.high}
            for length, entries in zip(self.lengths, self.rows, strict=True)
            for entry in entries
        ]
