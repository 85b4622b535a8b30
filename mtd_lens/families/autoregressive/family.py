"""The autoregressive family as the rest of the package sees it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

import probes
from mtd_lens.contracts import Analysis, AnalyticPattern, Carrier, Claim, Estimate, Examples, Trial
from mtd_lens.families.autoregressive import estimators, presets
from mtd_lens.families.autoregressive.causal_model import (
    AT_BOUND,
    AutoregressiveCausalModel,
    best_step_size,
    fit_step_size,
)
from mtd_lens.families.autoregressive.task import AutoregressiveTask, check_model, check_tokens

STEP_SPAN = 2.0
"""A model's step size is sought within this factor of the task's best one, on either side.

A model whose predictions ignore the context follows 0 best, under which no intervention has an
effect to test; the bound keeps the algorithm that it is held against one that has.
"""

NULL_SEED = 0

N_SCALING, SCALING_SEED = 64, 0
"""Sequences on which a random model's outputs are measured."""

N_STEPS = 4
"""Of the construction of several steps."""


class AutoregressiveFamily:
    """See :class:`mtd_lens.contracts.Family`."""

    name = "autoregressive"
    divergence = "squared error"
    edited_hooks = ("hook_attn_out", "attn.hook_pattern")

    def shortest(self, task: AutoregressiveTask) -> int:
        """Fewest vectors from which the next one can be predicted in context."""
        return 2

    def presets(self) -> Mapping[str, Callable[[], AutoregressiveTask]]:
        """Loaders of the family's named tasks."""
        return {name: partial(presets.PRESETS.__getitem__, name) for name in presets.PRESETS}

    def task_from_json(self, data: Mapping[str, Any]) -> AutoregressiveTask:
        """The task that ``AutoregressiveTask.to_json`` described."""
        return AutoregressiveTask.from_json(data)

    def variants(self) -> Mapping[str, Callable[..., Any]]:
        """Builders ``(task, dtype) -> model``."""
        several = f"constructed-{N_STEPS}-steps"
        return {
            "constructed-one-step": partial(_constructed, n_steps=1),
            several: partial(_constructed, n_steps=N_STEPS),
            f"{several}-bidirectional": partial(_constructed, n_steps=N_STEPS, causal=False),
            "random-one-step": _random,
        }

    def check_model(self, model: Any, task: AutoregressiveTask) -> None:
        """Raise a ModelError if ``model`` cannot be run on ``task``."""
        check_model(model, task)

    def fit_causal_model(
        self, model: Any, task: AutoregressiveTask, tokens: Tensor
    ) -> AutoregressiveCausalModel:
        """One step of gradient descent with the step size that the model's predictions follow."""
        from mtd_lens.families.autoregressive.claims import predicted_vectors

        best = best_step_size(task)
        bounds = (best / STEP_SPAN, best * STEP_SPAN)
        target = predicted_vectors(model, tokens, task)
        found = fit_step_size(task, tokens, target, bounds)
        at_bound = min(abs(found / bound - 1) for bound in bounds) < AT_BOUND
        return AutoregressiveCausalModel(task, found, step_size_at_bound=at_bound)

    def null(self, model: Any, task: AutoregressiveTask, seed: int) -> Any:
        """A model of the same architecture with random weights and outputs of the task's length."""
        return _randomized(model, task, seed, "null")

    def ceiling(self, task: AutoregressiveTask, causal_model: AutoregressiveCausalModel) -> Any:
        """The construction with the causal model's step size."""
        from mtd_lens.families.autoregressive.constructions import construct_autoregressive

        return construct_autoregressive(task, causal_model.step_size)

    def claims(self, task: AutoregressiveTask) -> Sequence[Claim]:
        """What a scorecard tests."""
        from mtd_lens.families.autoregressive.claims import claims

        return claims(task)

    def estimates(self, trial: Trial) -> Sequence[Estimate]:
        """The reference estimators against the model's predictions."""
        from mtd_lens.families.autoregressive.references import estimates

        return estimates(trial)

    def contenders(
        self, task: AutoregressiveTask, model: Any, length: int, n_sequences: int, seed: int
    ) -> Sequence[Estimate]:
        """The estimators and the model against the truth."""
        from mtd_lens.families.autoregressive.references import contenders

        return contenders(task, model, length, n_sequences, seed)

    def examples(
        self, task: AutoregressiveTask, n: int, seed: int, *, with_truth: bool
    ) -> Examples:
        """Sequences of one vector more than the context, so that every query has a target."""
        longer = replace(task, seq_len=task.seq_len + 1, name=None)
        tokens = longer.sample(n, seed).tokens
        return Examples(tokens[:, :-1], tokens[:, 2:], None)

    def yardsticks(
        self, task: AutoregressiveTask, n: int, seed: int
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The truth, the best one step of gradient descent, and least squares."""
        batch = task.sample(n, seed)
        one_step = AutoregressiveCausalModel(task, best_step_size(task)).run(batch.tokens)
        squares = estimators.least_squares(batch.tokens, last_only=True)
        return batch.tokens, {
            "error from truth": batch.truth,
            "error from one step": one_step["prediction"][:, -1],
            "error from least squares": estimators.predict_next(batch.tokens, squares)[:, 0],
        }

    def discrepancy(self, reference: Tensor, output: Tensor) -> Tensor:
        """Squared error of the predicted vector."""
        return probes.squared_error(reference, output)

    def carriers(self, task: AutoregressiveTask) -> Sequence[Carrier]:
        """Augmented tokens are written, inner products attended with.

        Augmented tokens are sought at all positions but the last query: there, a later layer holds
        what was computed from all of them.
        """
        return (
            Carrier("augmented_token", ("z", "mlp_out"), slice(None, -1)),
            Carrier("inner_products", ("pattern",), slice(-1, None)),
        )

    def predicted(self, model: Any, output: Tensor) -> Tensor:
        """The predicted vector, which is the output."""
        from mtd_lens.families.autoregressive.claims import prediction

        return prediction(model, output)

    def divergences(self, reference: Tensor, prediction: Tensor) -> Tensor:
        """Squared error, summed over components."""
        return probes.squared_error(reference, prediction)

    def control(self, task: AutoregressiveTask, tokens: Tensor, variable: str, seed: int) -> Tensor:
        """Waves of the last two vectors, through the same algorithm."""
        from mtd_lens.families.autoregressive.claims import control_task

        model = AutoregressiveCausalModel(task, best_step_size(task))
        return control_task(model, check_tokens(task, tokens), variable, seed)

    def patterns(
        self, causal_model: AutoregressiveCausalModel, tokens: Tensor
    ) -> Sequence[AnalyticPattern]:
        """Attention to the vector before, and inner products."""
        from mtd_lens.families.autoregressive.analysis import patterns

        return patterns(causal_model, tokens)

    def analyse(
        self, model: Any, causal_model: Any, tokens: Tensor, fit_tokens: Tensor, batch: Any
    ) -> Analysis:
        """The predicted vectors of every source, and the algorithm's own attention."""
        from mtd_lens.families.autoregressive.analysis import analyse

        return analyse(model, causal_model, tokens, None if batch is None else batch.matrices)


def _constructed(
    task: AutoregressiveTask, dtype: torch.dtype, n_steps: int, *, causal: bool = True
) -> Any:
    from mtd_lens.families.autoregressive.constructions import construct_autoregressive

    return construct_autoregressive(task, n_steps=n_steps, causal=causal, dtype=dtype)


def _random(task: AutoregressiveTask, dtype: torch.dtype) -> Any:
    from mtd_lens.families.autoregressive.constructions import construct_autoregressive

    model = construct_autoregressive(task, 1.0, dtype=dtype)
    return _randomized(model, task, NULL_SEED, f"{task.name or task.family}/random-one-step")


def _randomized(model: Any, task: AutoregressiveTask, seed: int, name: str) -> Any:
    """Random weights, scaled on the task layer by layer, as in LSUV (Mishkin & Matas 2016).

    What untrained linear attention writes is of three times the degree of what it reads, so that
    after a few layers single sequences decide every mean. Here no layer adds more than what it
    reads is long, on any position of the sequences that it is scaled on. Outputs are as long as the
    task's vectors. Swapping an activation makes a random model's outputs shorter on average, which
    alone brings them nearer to any counterfactual: interchange scores of these models reach 0.43.
    """
    from mtd_lens.hooked import randomized

    null = randomized(model, seed, name)
    tokens = task.sample(N_SCALING, SCALING_SEED).tokens.to(null.unembed.W_U)
    with torch.no_grad():
        for layer, block in enumerate(null.blocks):
            sites = {
                "read": probes.Site(f"blocks.{layer}.hook_resid_pre"),
                "written": probes.Site(f"blocks.{layer}.hook_attn_out"),
            }
            found = probes.read_activations(null, tokens, sites)
            lengths = found["written"].norm(dim=-1) / found["read"].norm(dim=-1)
            block.attn.W_O.div_(lengths.max())
        output = null(tokens)[:, -1]
        ratio = (tokens[:, -1].square().mean() / output.square().mean()).sqrt()
        null.unembed.W_U.mul_(ratio)
    return null
