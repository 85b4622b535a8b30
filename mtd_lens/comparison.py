"""Predictions against the truth, at several context lengths: reference estimators and a model."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from mtd_lens import render
from mtd_lens.errors import ArgumentError
from mtd_lens.registry import family_of
from mtd_lens.scorecard import EstimatorResult, figure
from mtd_lens.scoring import (
    check_sampling,
    estimator_results,
    name_of,
    task_for,
    versions,
)
from probes import checks

N_SEQUENCES = 256


@dataclass(frozen=True)
class Comparison:
    """Divergence of predictions from the truth after contexts of several lengths.

    Estimators have their step sizes fitted anew at each length; the model is the same at all.

    Attributes:
        model: Its name; its own row is called ``model``.
        lengths: Numbers of tokens in the context.
        rows: For each length, the estimators and the model.
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
            "lengths": [
                {"length": length, "divergence_from_truth": [entry.to_dict() for entry in entries]}
                for length, entries in zip(self.lengths, self.rows, strict=True)
            ],
            "versions": self.versions,
        }

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The comparison as JSON text, also written to ``path`` if one is given.

        Raises:
            OutputPathError: The path cannot be written to.
        """
        return render.json_text(self.to_dict(), path)

    def __repr__(self) -> str:
        return f"Comparison({self.model!r}, lengths={list(self.lengths)})"

    def __str__(self) -> str:
        return f"{self._title()}\n\n{render.text_table(*self._table())}"

    def _title(self) -> str:
        return (
            f"{self.model}: truth ‖ prediction at the last query ({self.divergence}), ± half the "
            f"95% interval; {self.n_sequences} sequences a length; step sizes η fitted at each"
        )

    def _repr_html_(self) -> str:
        header, rows = self._table()
        return render.html("comparison.html", title=self._title(), header=header, rows=rows)

    def _table(self) -> tuple[list[str], list[list[str]]]:
        header = ["estimator", *(f"T = {length}" for length in self.lengths)]
        body = []
        for entries in zip(*self.rows, strict=True):
            cells = []
            for entry in entries:
                fitted = entry.parameters.get("step_size")
                step = "" if fitted is None else f" (η {fitted:.3f})"
                error = (entry.high - entry.low) / 2
                cells.append(f"{figure(entry.divergence, 4)} ± {error:.4f}{step}")
            body.append([entries[0].name, *cells])
        return header, body


def compare(
    model: Any,
    task: Any = None,
    lengths: Any = None,
    n_sequences: Any = N_SEQUENCES,
    seed: Any = 0,
    *,
    name: str | None = None,
    progress: bool = False,
) -> Comparison:
    """Hold a model's predictions and every reference estimator's against the truth.

    Step sizes are fitted, at each length, on as many further sequences.

    Args:
        model: A HookedTransformer.
        task: What it is tested on, or its name; by default the task that the model knows.
        lengths: Numbers of context tokens, up to the model's context; by default the task's
            ``seq_len`` and its halves.
        n_sequences: A length; at least 64.
        seed: Of the sequences and of resampling.
        name: What the result calls the model.
        progress: Show a progress bar on standard error once two seconds have passed.

    Raises:
        ArgumentError: Lengths that the task or the model cannot take, or too few sequences.
        ModelError: The model does not fit the task, or no task is known.
    """
    from tqdm.auto import tqdm

    check_sampling(n_sequences, seed)
    task = task_for(model, task)
    family = family_of(task)
    family.check_model(model, task)
    chosen = _checked_lengths(family.shortest(task), task, model, lengths)
    rows = []
    for length in tqdm(
        chosen, desc="lengths", disable=None if progress else True, delay=2, leave=False
    ):
        entries = family.contenders(task, model, length, n_sequences, seed)
        rows.append(estimator_results(entries, seed))
    return Comparison(
        model=name or name_of(model),
        task=task.name or task.to_json(),
        seed=seed,
        n_sequences=n_sequences,
        lengths=chosen,
        rows=tuple(rows),
        divergence=family.divergence,
        versions=versions(),
    )


def _checked_lengths(shortest: int, task: Any, model: Any, lengths: Any) -> tuple[int, ...]:
    if lengths is None:
        halves = [task.seq_len // 2**power for power in (3, 2, 1, 0)]
        return tuple(length for length in dict.fromkeys(halves) if length >= shortest)
    if not isinstance(lengths, Iterable) or not (chosen := tuple(lengths)):
        raise ArgumentError(f"lengths must list at least one context length; got {lengths!r}.")
    return tuple(
        checks.integer(
            length, "a context length", shortest, ArgumentError, maximum=int(model.cfg.n_ctx)
        )
        for length in chosen
    )
