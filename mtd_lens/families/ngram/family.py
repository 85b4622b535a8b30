"""The n-gram family as the rest of the package sees it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

import probes
from mtd_lens.contracts import Analysis, AnalyticPattern, Carrier, Claim, Estimate, Examples, Trial
from mtd_lens.families.ngram import estimators
from mtd_lens.families.ngram.causal_model import (
    SHARPNESS_RANGE,
    NGramCausalModel,
    best_sharpness,
    fit_sharpness,
)
from mtd_lens.families.ngram.presets import PRESETS
from mtd_lens.families.ngram.task import NGramTask, check_model

SHARPNESS_SPAN = 2.0
"""A model's sharpness is sought within this factor of the task's best one, on either side.

A model whose predictions ignore the context follows a = 0 best, under which no intervention on
matches has an effect to test; the bound keeps the algorithm that it is held against one that has.
"""

NULL_SEED = 0
AT_BOUND = 1e-3


class NGramFamily:
    """See :class:`mtd_lens.contracts.Family`."""

    name = "ngram"
    divergence = "KL, nats"
    edited_hooks = ("hook_attn_out", "hook_mlp_out", "attn.hook_pattern")

    def shortest(self, task: NGramTask) -> int:
        """Fewest tokens from which the next one can be predicted in context."""
        return task.window + 1

    def presets(self) -> Mapping[str, Callable[[], NGramTask]]:
        """Loaders of the family's named tasks."""
        return {name: partial(PRESETS.__getitem__, name) for name in PRESETS}

    def task_from_json(self, data: Mapping[str, Any]) -> NGramTask:
        """The task that ``NGramTask.to_json`` described."""
        return NGramTask.from_json(data)

    def variants(self) -> Mapping[str, Callable[..., Any]]:
        """Builders ``(task, dtype) -> model``."""
        return {
            "constructed-absolute": partial(_constructed, form="absolute"),
            "constructed-relative": partial(_constructed, form="relative"),
            "random-absolute": partial(_random, form="absolute"),
            "random-relative": partial(_random, form="relative"),
        }

    def check_model(self, model: Any, task: Any) -> None:
        """Raise a ModelError if ``model`` cannot be run on ``task``."""
        check_model(model, task)

    def fit_causal_model(self, model: Any, task: NGramTask, tokens: Tensor) -> NGramCausalModel:
        """A generalized induction head with the sharpness that the model's predictions follow."""
        from mtd_lens.families.ngram.claims import last_predictions

        best = best_sharpness(task)
        bounds = (best / SHARPNESS_SPAN, min(best * SHARPNESS_SPAN, SHARPNESS_RANGE[1]))
        sharpness = fit_sharpness(task, tokens, last_predictions(model, tokens, task), bounds)
        nearest_bound = min(abs(sharpness / bound - 1) for bound in bounds)
        return NGramCausalModel(task, sharpness, sharpness_at_bound=nearest_bound < AT_BOUND)

    def null(self, model: Any, task: NGramTask, seed: int) -> Any:
        """A model of the same architecture with random weights."""
        from mtd_lens.hooked import randomized

        return randomized(model, seed, name="null")

    def ceiling(self, task: NGramTask, causal_model: NGramCausalModel) -> Any:
        """The construction with the causal model's sharpness."""
        from mtd_lens.families.ngram.constructions import construct_ngram

        return construct_ngram(task, causal_model.sharpness, form="relative")

    def claims(self, task: NGramTask) -> Sequence[Claim]:
        """What a scorecard tests."""
        from mtd_lens.families.ngram.claims import claims

        return claims(task)

    def estimates(self, trial: Trial) -> Sequence[Estimate]:
        """The reference estimators against the model's predictions."""
        from mtd_lens.families.ngram.references import estimates

        return estimates(trial)

    def contenders(
        self, task: NGramTask, model: Any, length: int, n_sequences: int, seed: int
    ) -> Sequence[Estimate]:
        """The estimators and the model against the truth."""
        from mtd_lens.families.ngram.references import contenders

        return contenders(task, model, length, n_sequences, seed)

    def examples(self, task: NGramTask, n: int, seed: int, *, with_truth: bool) -> Examples:
        """Sequences of one token more than the context, so that every query has a target."""
        batch = replace(task, seq_len=task.seq_len + 1).sample(n, seed)
        inputs = batch.tokens[:, :-1]
        truth = estimators.ngram_truth(task, inputs, batch.tables) if with_truth else None
        return Examples(inputs, batch.tokens[:, task.window + 1 :], truth)

    def yardsticks(self, task: NGramTask, n: int, seed: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The truth, the best kernel, and exact Bayes."""
        batch = task.sample(n, seed)
        tokens = batch.tokens
        everything = estimators.last_counts(task, tokens, ())
        counts = estimators.last_counts(task, tokens)
        return tokens, {
            "KL from truth": estimators.ngram_truth(task, tokens, batch.tables)[:, -1],
            "KL from kernel": estimators.of_counts(counts, everything, best_sharpness(task)),
            "KL from exact Bayes": estimators.posterior_mean(counts, task.concentration),
        }

    def discrepancy(self, reference: Tensor, output: Tensor) -> Tensor:
        """KL(reference ‖ prediction) in nats."""
        return probes.kl_divergence(reference, output.to(torch.float64).softmax(-1))

    def carriers(self, task: NGramTask) -> Sequence[Carrier]:
        """Heads copy, a layer's write holds the feature, and the match is attended with.

        Only attention moves tokens between positions, so copies are sought in heads alone.
        """
        everywhere = slice(None)
        return (
            Carrier("copied_parents", ("z",), everywhere),
            Carrier("selected_feature", ("mlp_out", "z"), everywhere),
            Carrier("match_weights", ("pattern",), slice(-1, None)),
        )

    def predicted(self, model: Any, output: Tensor) -> Tensor:
        """Probabilities of the next token, whatever the model's read-out."""
        from mtd_lens.hooked import probabilities

        return probabilities(model, output)

    def divergences(self, reference: Tensor, prediction: Tensor) -> Tensor:
        """KL(reference ‖ prediction) in nats."""
        return probes.kl_divergence(reference, prediction)

    def control(self, task: NGramTask, tokens: Tensor, variable: str, seed: int) -> Tensor:
        """Random features of each token window, through the same algorithm."""
        from mtd_lens.families.ngram.claims import control_task

        return control_task(NGramCausalModel(task, best_sharpness(task)), tokens, variable, seed)

    def patterns(self, causal_model: NGramCausalModel, tokens: Tensor) -> Sequence[AnalyticPattern]:
        """One head for each lag of the window, and the match."""
        from mtd_lens.families.ngram.analysis import patterns

        return patterns(causal_model, tokens)

    def analyse(
        self, model: Any, causal_model: Any, tokens: Tensor, fit_tokens: Tensor, batch: Any
    ) -> Analysis:
        """The row of the table in use by every source, and the algorithm's own attention."""
        from mtd_lens.families.ngram.analysis import analyse

        return analyse(model, causal_model, tokens, None if batch is None else batch.tables)


def _constructed(task: NGramTask, dtype: torch.dtype, form: str) -> Any:
    from mtd_lens.families.ngram.constructions import construct_ngram

    return construct_ngram(task, form=form, dtype=dtype)


def _random(task: NGramTask, dtype: torch.dtype, form: str) -> Any:
    from mtd_lens.families.ngram.constructions import construct_ngram
    from mtd_lens.hooked import randomized

    return randomized(
        construct_ngram(task, sharpness=1.0, form=form, dtype=dtype),
        NULL_SEED,
        name=f"{task.name or 'ngram'}/random-{form}",
    )
