"""The MTD family as the rest of the package sees it."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

import probes
from mtd_lens.contracts import Analysis, AnalyticPattern, Carrier, Claim, Estimate, Examples, Trial
from mtd_lens.families.mtd import estimators, presets
from mtd_lens.families.mtd.causal_model import MAX_BETA, MTDCausalModel, best_beta, fit_beta
from mtd_lens.families.mtd.posterior import posterior_mean
from mtd_lens.families.mtd.task import MTDTask, check_model

BETA_SPAN = 8.0
"""A model's β is sought within this factor of the task's best one, on either side.

A model whose predictions ignore the context follows β = 0 best, under which no intervention has an
effect to test; the bound keeps the algorithm that it is held against one that has.
"""

NULL_SEED = 0


class MTDFamily:
    """See :class:`mtd_lens.contracts.Family`."""

    name = "mtd"
    divergence = "KL, nats"
    edited_hooks = ("hook_attn_out", "attn.hook_pattern")

    def shortest(self, task: MTDTask) -> int:
        """Fewest tokens from which the next one can be predicted in context."""
        return task.order + 1

    def presets(self) -> Mapping[str, Callable[[], MTDTask]]:
        """Loaders of the family's named tasks."""
        return {name: partial(presets.load_preset, name) for name in presets.PRESETS}

    def task_from_json(self, data: Mapping[str, Any]) -> MTDTask:
        """The task that ``MTDTask.to_json`` described."""
        return MTDTask.from_json(data)

    def variants(self) -> Mapping[str, Callable[..., Any]]:
        """Builders ``(task, dtype) -> model``."""
        return {
            "constructed-absolute": partial(_constructed, form="absolute"),
            "constructed-relative": partial(_constructed, form="relative"),
            "random-absolute": partial(_random, form="absolute"),
            "random-relative": partial(_random, form="relative"),
        }

    def check_model(self, model: Any, task: MTDTask) -> None:
        """Raise a ModelError if ``model`` cannot be run on ``task``."""
        check_model(model, task)

    def fit_causal_model(self, model: Any, task: MTDTask, tokens: Tensor) -> MTDCausalModel:
        """One step of mirror descent with the β that the model's predictions follow."""
        from mtd_lens.families.mtd.claims import model_predictions

        best = best_beta(task)
        bounds = (best / BETA_SPAN, min(best * BETA_SPAN, MAX_BETA))
        beta = fit_beta(task, tokens, model_predictions(model, tokens, task), bounds)
        nearest_bound = min(abs(math.log(beta / bound)) for bound in bounds)
        return MTDCausalModel(task, beta, beta_at_bound=nearest_bound < 1e-3)

    def null(self, model: Any, task: MTDTask, seed: int) -> Any:
        """A model of the same architecture with random weights."""
        from mtd_lens.hooked import randomized

        return randomized(model, seed, name="null")

    def ceiling(self, task: MTDTask, causal_model: MTDCausalModel) -> Any:
        """The construction with the causal model's β."""
        from mtd_lens.families.mtd.constructions import construct

        return construct(task, causal_model.beta, form="relative")

    def claims(self, task: MTDTask) -> Sequence[Claim]:
        """What a scorecard tests."""
        from mtd_lens.families.mtd.claims import claims

        return claims(task)

    def estimates(self, trial: Trial) -> Sequence[Estimate]:
        """The reference estimators against the model's predictions."""
        from mtd_lens.families.mtd.references import estimates

        return estimates(trial)

    def contenders(
        self, task: MTDTask, model: Any, length: int, n_sequences: int, seed: int
    ) -> Sequence[Estimate]:
        """The estimators and the model against the truth."""
        from mtd_lens.families.mtd.references import contenders

        return contenders(task, model, length, n_sequences, seed)

    def examples(self, task: MTDTask, n: int, seed: int, *, with_truth: bool) -> Examples:
        """Sequences of one token more than the context, so that every query has a target."""
        length = task.seq_len
        longer = MTDTask(task.transition, task.order, length + 1, task.concentration)
        batch = longer.sample(n, seed)
        inputs = batch.tokens[:, :length]
        truth = None
        if with_truth:
            weights = batch.weights[:, None].expand(-1, length - task.order, -1)
            truth = estimators.predict(task, inputs, weights)
        return Examples(inputs, batch.tokens[:, task.order + 1 :], truth)

    def yardsticks(self, task: MTDTask, n: int, seed: int) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The truth, the best one step of mirror descent, and exact Bayes."""
        batch = task.sample(n, seed)
        one_step = MTDCausalModel(task, best_beta(task)).run(batch.tokens)["prediction"][:, -1]
        posterior = posterior_mean(task, batch.tokens)
        return batch.tokens, {
            "KL from truth": estimators.predict(task, batch.tokens, batch.weights),
            "KL from one step": one_step,
            "KL from exact Bayes": estimators.predict(task, batch.tokens, posterior),
        }

    def carriers(self, task: MTDTask) -> Sequence[Carrier]:
        """Responsibilities and their mean are written, the mixture weights attended with.

        Responsibilities are sought at all evidence positions but the last query: there, a later
        layer holds what was computed from all of them.
        """
        written = ("z", "mlp_out")
        return (
            Carrier("responsibilities", written, slice(None, -1)),
            Carrier("mean_responsibility", written, slice(-1, None)),
            Carrier("mixture_weights", ("pattern",), slice(-1, None)),
        )

    def predicted(self, model: Any, output: Tensor) -> Tensor:
        """Probabilities of the next token, whatever the model's read-out."""
        from mtd_lens.hooked import probabilities

        return probabilities(model, output)

    def divergences(self, reference: Tensor, prediction: Tensor) -> Tensor:
        """KL(reference ‖ prediction) in nats."""
        return probes.kl_divergence(reference, prediction)

    def control(self, task: MTDTask, tokens: Tensor, variable: str, seed: int) -> Tensor:
        """Random responsibilities for each token window, through the same algorithm."""
        from mtd_lens.families.mtd.claims import control_task

        return control_task(MTDCausalModel(task, best_beta(task)), tokens, variable, seed)

    def patterns(self, causal_model: MTDCausalModel, tokens: Tensor) -> Sequence[AnalyticPattern]:
        """Responsibilities, their uniform average, and mixture weights as attention."""
        from mtd_lens.families.mtd.analysis import patterns

        return patterns(causal_model, tokens)

    def analyse(
        self, model: Any, causal_model: Any, tokens: Tensor, fit_tokens: Tensor, batch: Any
    ) -> Analysis:
        """Mixture weights by every source, and the algorithm's own attention."""
        from mtd_lens.families.mtd.analysis import analyse

        weights = None if batch is None else batch.weights
        return analyse(model, causal_model, tokens, fit_tokens, weights)

    def read_weights(self, model: Any, task: MTDTask, *, seed: int) -> Any:
        """See :func:`mtd_lens.read_weights`."""
        from mtd_lens.families.mtd.weight_space import read_weights

        return read_weights(model, task, seed=seed)

    def discrepancy(self, reference: Tensor, output: Tensor) -> Tensor:
        """KL(reference ‖ prediction) in nats."""
        return probes.kl_divergence(reference, output.to(torch.float64).softmax(-1))


def _constructed(task: MTDTask, dtype: torch.dtype, form: str) -> Any:
    from mtd_lens.families.mtd.constructions import construct

    return construct(task, form=form, dtype=dtype)


def _random(task: MTDTask, dtype: torch.dtype, form: str) -> Any:
    from mtd_lens.families.mtd.constructions import construct
    from mtd_lens.hooked import randomized

    return randomized(
        construct(task, beta=1.0, form=form, dtype=dtype),
        NULL_SEED,
        name=f"{task.name or 'mtd'}/random-{form}",
    )
