"""Predictions against the truth, at several context lengths: reference estimators and a model."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mtd_lens import render
from mtd_lens.errors import ArgumentError
from mtd_lens.registry import family_of
from mtd_lens.scorecard import EstimatorResult, figure
from mtd_lens.scoring import (
    MIN_SEQUENCES,
    check_sampling,
    estimator_results,
    name_of,
    task_for,
    versions,
)

N_SEQUENCES = 256


@dataclass(frozen=True)
class Comparison:
    """KL(truth ‖ prediction) in nats after contexts of several lengths.

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
    versions: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as ``to_json`` writes it."""
        return {
            "model": self.model,
            "task": self.task,
            "seed": self.seed,
            "n_sequences": self.n_sequences,
            "lengths": [
                {"length": length, "kl_from_truth": [entry.to_dict() for entry in entries]}
                for length, entries in zip(self.lengths, self.rows, strict=True)
            ],
            "versions": self.versions,
        }

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The comparison as JSON text, also written to ``path`` if one is given.

        Raises:
            OutputPathError: The path cannot be written to.
        """
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        if path is not None:
            render.write_text(path, text)
        return text

    def __repr__(self) -> str:
        return f"Comparison({self.model!r}, lengths={list(self.lengths)})"

    def __str__(self) -> str:
        title = (
            f"{self.model}   KL(truth ‖ prediction), nats, at the last query   "
            f"{self.n_sequences} sequences a length"
        )
        return f"{title}\n\n{render.text_table(*self._table(), left=(0,))}"

    def _repr_html_(self) -> str:
        header, rows = self._table()
        return render.html("comparison.html", comparison=self, header=header, rows=rows)

    def _table(self) -> tuple[list[str], list[list[str]]]:
        header = ["estimator", *(f"T = {length}" for length in self.lengths)]
        body = []
        for entries in zip(*self.rows, strict=True):
            cells = []
            for entry in entries:
                fitted = entry.parameters.get("step_size")
                step = "" if fitted is None else f" (η {fitted:.3f})"
                error = (entry.high - entry.low) / 2
                cells.append(f"{figure(entry.kl, 4)} ± {error:.4f}{step}")
            body.append([entries[0].name, *cells])
        return header, body


def compare(
    model: Any,
    task: Any = None,
    lengths: Sequence[int] | None = None,
    n_sequences: int = N_SEQUENCES,
    seed: int = 0,
    *,
    progress: bool = False,
) -> Comparison:
    """Hold a model's predictions and every reference estimator's against the truth.

    Step sizes are fitted, at each length, on as many further sequences.

    Args:
        model: A HookedTransformer.
        task: What it is tested on; by default the task that the model knows.
        lengths: Numbers of context tokens, up to the model's context; by default the task's
            ``seq_len`` and its halves.
        n_sequences: A length; at least 64.
        seed: Of the sequences and of resampling.
        progress: Show a progress bar on standard error once two seconds have passed.

    Raises:
        ArgumentError: Lengths that the task or the model cannot take, or too few sequences.
        ModelError: The model does not fit the task, or no task is known.
    """
    from tqdm.auto import tqdm

    check_sampling(n_sequences, seed, MIN_SEQUENCES)
    task = task_for(model, task)
    family = family_of(task)
    family.check_model(model, task)
    chosen = _checked_lengths(task, model, lengths)
    rows = []
    for length in tqdm(
        chosen, desc="lengths", disable=None if progress else True, delay=2, leave=False
    ):
        entries = family.contenders(task, model, length, n_sequences, seed)
        rows.append(estimator_results(entries, seed))
    return Comparison(
        model=name_of(model),
        task=task.name or task.to_json(),
        seed=seed,
        n_sequences=n_sequences,
        lengths=chosen,
        rows=tuple(rows),
        versions=versions(),
    )


def _checked_lengths(task: Any, model: Any, lengths: Sequence[int] | None) -> tuple[int, ...]:
    shortest = getattr(task, "order", 0) + 1
    if lengths is None:
        halves = [task.seq_len // 2**power for power in (3, 2, 1, 0)]
        return tuple(length for length in dict.fromkeys(halves) if length >= shortest)
    if not lengths:
        raise ArgumentError("lengths must name at least one context length.")
    for length in lengths:
        if not isinstance(length, int) or not shortest <= length <= model.cfg.n_ctx:
            raise ArgumentError(
                f"context lengths must be integers from {shortest} to the model's context of "
                f"{model.cfg.n_ctx}; got {length!r}."
            )
    return tuple(lengths)
