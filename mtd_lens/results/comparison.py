"""The result of ``compare``: divergences from the truth at several context lengths."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mtd_lens.errors import ArgumentError
from mtd_lens.results import forms as render
from mtd_lens.results.scorecard import AT_BOUND, EstimatorResult, figure, grouped

SMALLEST_SHOWN = 0.001
"""Fitted parameters below this are shown as such in the table; the JSON holds them in full."""


@dataclass(frozen=True)
class Comparison:
    """Divergence of predictions from the truth after contexts of several lengths.

    Estimators have their step sizes fitted anew at each length; the model is the same at all.

    Attributes:
        model: Its name; its own row is called ``model``.
        lengths: Numbers of tokens in the context.
        rows: For each length, the estimators and the model.
        task: The task's name, or its description if it has none.
        seed: Of the sequences and of resampling.
        n_sequences: At each length.
        divergence: Its name and unit.
        versions: Of what the result depends on.
    """

    model: str
    task: str | dict[str, Any]
    seed: int
    n_sequences: int
    lengths: tuple[int, ...]
    rows: tuple[tuple[EstimatorResult, ...], ...]
    divergence: str
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as ``to_json`` writes it."""
        return {
            "model": self.model,
            "task": self.task,
            "seed": self.seed,
            "n_sequences": self.n_sequences,
            "divergence": self.divergence,
            "lengths": [
                {"length": length, "divergence_from_truth": [entry.to_dict() for entry in entries]}
                for length, entries in zip(self.lengths, self.rows, strict=True)
            ],
            "versions": self.versions,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Comparison":
        """The comparison that ``to_dict`` described.

        Args:
            data: What ``to_dict`` or a JSON file holds.

        Raises:
            ArgumentError: A field is missing or of another form.
        """
        try:
            return cls(
                model=data["model"],
                task=data["task"],
                seed=data["seed"],
                n_sequences=data["n_sequences"],
                lengths=tuple(entry["length"] for entry in data["lengths"]),
                rows=tuple(
                    tuple(EstimatorResult(**result) for result in entry["divergence_from_truth"])
                    for entry in data["lengths"]
                ),
                divergence=data["divergence"],
                versions=data["versions"],
            )
        except (KeyError, TypeError) as error:
            raise ArgumentError(f"expected what Comparison.to_dict returns: {error}.") from error

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The comparison as JSON text, also written to ``path`` if one is given.

        Args:
            path: Also write it there.

        Raises:
            OutputPathError: The path cannot be written to.
        """
        return render.json_text(self.to_dict(), path)

    def __repr__(self) -> str:
        return f"Comparison({self.model!r}, lengths={list(self.lengths)})"

    def __str__(self) -> str:
        blocks = [self._title(), render.text_table(*self._table())]
        header, rows = self._fitted()
        if rows:
            blocks += [self._fitted_title(), render.text_table(header, rows, left=(0, 1))]
        return "\n\n".join(blocks)

    def plot(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        data: str | os.PathLike[str] | None = None,
    ) -> Any:
        """Divergence from the truth against context length.

        Args:
            path: Also write the figure there, as PNG or SVG by its ending.
            data: Also write what is drawn there, as CSV.

        Returns:
            A ``matplotlib.figure.Figure``.

        Raises:
            ArgumentError: A path of another ending.
            OutputPathError: A path cannot be written to.
        """
        from mtd_lens.views.plots import plot_comparisons

        return plot_comparisons([self], path, data=data)

    def _title(self) -> str:
        return (
            f"{self.model}: truth ‖ prediction at the last query ({self.divergence}), ± half the "
            f"95% interval; {self.n_sequences} sequences a length"
        )

    def _fitted_title(self) -> str:
        marked = any(
            name.endswith(AT_BOUND) for row in self.rows for e in row for name in e.parameters
        )
        note = "; * at the end of its range: no estimate" if marked else ""
        return f"Fitted at each length, on as many further sequences{note}"

    def _repr_html_(self) -> str:
        header, rows = self._table()
        fitted_header, fitted_rows = self._fitted()
        return render.html(
            "comparison.html",
            title=self._title(),
            header=header,
            rows=rows,
            fitted_title=self._fitted_title(),
            fitted_header=fitted_header,
            fitted_rows=fitted_rows,
        )

    def _by_name(self) -> Iterator[tuple[EstimatorResult, ...]]:
        """Each estimator's results, and the model's, at all lengths."""
        return zip(*self.rows, strict=True)

    def _lengths(self) -> list[str]:
        return [f"T = {length}" for length in self.lengths]

    def _table(self) -> tuple[list[str], list[list[str]]]:
        body = []
        for entries in self._by_name():
            errors = [(entry.high - entry.low) / 2 for entry in entries]
            cells = [
                f"{figure(entry.divergence, 4)} ± {error:.4f}"
                for entry, error in zip(entries, errors, strict=True)
            ]
            body.append([entries[0].name, *cells])
        return ["estimator", *self._lengths()], body

    def _fitted(self) -> tuple[list[str], list[list[str]]]:
        """What was fitted: a row for each estimator and kind of parameter."""
        body = []
        for entries in self._by_name():
            groups = [grouped(entry.parameters) for entry in entries]
            for label in dict.fromkeys(label for group in groups for label in group):
                cells = [", ".join(map(_compact, group.get(label, []))) or "–" for group in groups]
                shown = "η" if label == "step size" else label
                body.append([entries[0].name, shown, *cells])
        return ["estimator", "", *self._lengths()], body


def _compact(parameter: tuple[float, bool]) -> str:
    """A parameter to two digits, starred at the end of its range."""
    value, at_bound = parameter
    digits = f"{value:.2g}" if value >= SMALLEST_SHOWN else f"<{SMALLEST_SHOWN:g}"
    return digits + "*" * at_bound
