"""The MTD family as the rest of the package sees it."""

from functools import partial

import torch
from torch import Tensor

from mtd_lens.contracts import Algorithm, Examples, Family
from mtd_lens.families.mtd import estimators, presets
from mtd_lens.families.mtd.analysis import analyse, patterns
from mtd_lens.families.mtd.causal_model import MTDCausalModel, best_beta, fit_one_step
from mtd_lens.families.mtd.claims import carriers, claims, codes, control_task, query_tokens
from mtd_lens.families.mtd.constructions import construct, random_construction
from mtd_lens.families.mtd.fused_claims import (
    fused_carriers,
    fused_claims,
    fused_codes,
    fused_control,
    fused_patterns,
)
from mtd_lens.families.mtd.fused_model import FusedCausalModel, best_fused_beta, fit_fused
from mtd_lens.families.mtd.fused_weights import construct_fused
from mtd_lens.families.mtd.posterior import posterior_mean
from mtd_lens.families.mtd.posterior_claims import (
    posterior_carriers,
    posterior_claims,
    posterior_control,
    posterior_patterns,
)
from mtd_lens.families.mtd.posterior_model import PosteriorCausalModel, fit_posterior
from mtd_lens.families.mtd.posterior_weights import MAX_WINDOWS, construct_posterior, n_windows
from mtd_lens.families.mtd.references import CONTAIN_ONE_STEP, references
from mtd_lens.families.mtd.task import MTDBatch, MTDTask, resized
from mtd_lens.families.mtd.weight_space import weight_findings
from probes.subject import HookedModel


def ceiling(task: MTDTask, causal_model: MTDCausalModel) -> HookedModel:
    """The construction with the causal model's β."""
    return construct(task, causal_model.beta, form="relative")


def truth(task: MTDTask, batch: MTDBatch) -> Tensor:
    """The next token's distribution given the mixture weights, ``[sequence, token]``."""
    return estimators.predict(task, batch.tokens, batch.weights)


def examples(task: MTDTask, n: int, seed: int, with_truth: bool) -> Examples:
    """Sequences of one token more than the context, so that every query has a target."""
    length = task.seq_len
    batch = resized(task, length + 1).sample(n, seed)
    inputs = batch.tokens[:, :length]
    known = None
    if with_truth:
        weights = batch.weights[:, None].expand(-1, length - task.order, -1)
        known = estimators.predict(task, inputs, weights)
    return Examples(inputs, batch.tokens[:, task.order + 1 :], known)


def yardsticks(task: MTDTask, n: int, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The truth, the best one step of mirror descent, and exact Bayes."""
    batch = task.sample(n, seed)
    one_step = MTDCausalModel(task, best_beta(task)).run(batch.tokens)["prediction"][:, -1]
    posterior = posterior_mean(task, batch.tokens)
    return batch.tokens, {
        "KL from truth": truth(task, batch),
        "KL from one step": one_step,
        "KL from exact Bayes": estimators.predict(task, batch.tokens, posterior),
    }


ONE_STEP = Algorithm(
    name="one step",
    fit=fit_one_step,
    claims=claims,
    construct=ceiling,
    carriers=carriers,
    control=control_task,
    patterns=patterns,
    query=query_tokens,
    codes=codes,
    statistic="mean_responsibility",
    containing=CONTAIN_ONE_STEP,
)

POSTERIOR = Algorithm(
    name="exact Bayes",
    id="posterior",
    fit=fit_posterior,
    claims=posterior_claims,
    construct=lambda task, causal_model: construct_posterior(causal_model),
    carriers=posterior_carriers,
    control=posterior_control,
    patterns=posterior_patterns,
    query=query_tokens,
    statistic="total_log_likelihoods",
)

FUSED = Algorithm(
    name="one step to first order",
    id="fused",
    fit=fit_fused,
    claims=fused_claims,
    construct=lambda task, causal_model: construct_fused(causal_model),
    carriers=fused_carriers,
    control=fused_control,
    patterns=fused_patterns,
    query=query_tokens,
    codes=fused_codes,
    statistic="correction",
)


def constructed_fused(task: MTDTask, dtype: torch.dtype) -> HookedModel:
    """One step to first order, with its stages fused, as the weights of a stock transformer."""
    return construct_fused(FusedCausalModel(task, best_fused_beta(task)), dtype=dtype)


def constructed_posterior(task: MTDTask, dtype: torch.dtype) -> HookedModel:
    """Exact Bayes, or as near to it as so few nodes are, as the weights of a stock transformer."""
    return construct_posterior(PosteriorCausalModel(task), dtype=dtype)


FAMILY = Family(
    name=MTDTask.family,
    task_from_json=MTDTask.from_json,
    shortest=lambda task: task.order + 1,
    algorithms=(ONE_STEP, POSTERIOR, FUSED),
    truth=truth,
    references=references,
    drawn=("uniform", "one step", "2 steps", "maximum likelihood", "exact Bayes"),
    presets={name: partial(presets.load_preset, name) for name in presets.PRESETS},
    variants={
        f"{kind}-{form}": partial(build, form=form)
        for kind, build in (("constructed", construct), ("random", random_construction))
        for form in ("absolute", "relative")
    }
    | {"constructed-posterior": constructed_posterior, "constructed-fused": constructed_fused},
    has_variant=lambda task, variant: (
        variant != "constructed-posterior" or n_windows(task) <= MAX_WINDOWS
    ),
    resized=resized,
    examples=examples,
    yardsticks=yardsticks,
    analyse=analyse,
    weights=weight_findings,
)
