"""Predictions against the truth, at several context lengths: reference estimators and a model."""

from collections.abc import Iterable
from typing import Any

from mtd_lens.errors import ArgumentError
from mtd_lens.questions.score import (
    check_sampling,
    estimator_results,
    name_of,
    task_for,
    versions,
)
from mtd_lens.registry import family_of
from mtd_lens.results.comparison import Comparison
from probes import checks

N_SEQUENCES = 256


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

    Returns:
        Mean divergences in nats, with intervals, of every estimator and the model at each length.

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
