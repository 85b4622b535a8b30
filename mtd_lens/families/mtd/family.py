"""The MTD family as the rest of the package sees it."""

from dataclasses import replace
from functools import partial

from torch import Tensor

from mtd_lens.contracts import Algorithm, Examples, Family
from mtd_lens.families.mtd import estimators, presets
from mtd_lens.families.mtd.additive_claims import ADDITIVE
from mtd_lens.families.mtd.analysis import analyse, patterns
from mtd_lens.families.mtd.causal_model import MTDCausalModel, best_beta, fit_one_step
from mtd_lens.families.mtd.claims import carriers, claims, codes, control_task, query_tokens
from mtd_lens.families.mtd.constructions import (
    FORMS,
    OTHERS,
    construct,
    random_construction,
)
from mtd_lens.families.mtd.fused_claims import (
    fused_carriers,
    fused_claims,
    fused_codes,
    fused_patterns,
)
from mtd_lens.families.mtd.fused_model import FusedCausalModel, fit_fused
from mtd_lens.families.mtd.fused_weights import construct_fused
from mtd_lens.families.mtd.gated import MAX_GATES, n_gates
from mtd_lens.families.mtd.posterior import posterior_mean
from mtd_lens.families.mtd.posterior_claims import (
    posterior_carriers,
    posterior_claims,
    posterior_control,
    posterior_patterns,
)
from mtd_lens.families.mtd.posterior_model import RULES, fit_posterior
from mtd_lens.families.mtd.posterior_weights import MAX_WINDOWS, construct_posterior, n_windows
from mtd_lens.families.mtd.references import CONTAIN_ONE_STEP, references
from mtd_lens.families.mtd.task import MTDBatch, MTDTask, resized
from mtd_lens.families.mtd.two_pass_claims import (
    two_pass_carriers,
    two_pass_claims,
    two_pass_control,
    two_pass_patterns,
)
from mtd_lens.families.mtd.two_pass_model import TwoPassCausalModel, fit_two_passes
from mtd_lens.families.mtd.two_pass_weights import construct_two_pass
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
    name=MTDCausalModel.name,
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
    name=RULES["quadrature"],
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

PRODUCT_OF_LIKELIHOODS = replace(
    POSTERIOR,
    name=RULES["vertices"],
    id="product-of-likelihoods",
    fit=partial(fit_posterior, rule="vertices"),
    claims=partial(posterior_claims, rule="vertices"),
)

FUSED = Algorithm(
    name=FusedCausalModel.name,
    id="fused",
    fit=fit_fused,
    claims=fused_claims,
    construct=lambda task, causal_model: construct_fused(causal_model),
    carriers=fused_carriers,
    control=control_task,
    patterns=fused_patterns,
    query=query_tokens,
    codes=fused_codes,
    statistic="correction",
)

TWO_PASS = Algorithm(
    name=TwoPassCausalModel.name,
    id="two-pass",
    fit=fit_two_passes,
    claims=two_pass_claims,
    construct=lambda task, causal_model: construct_two_pass(causal_model),
    carriers=two_pass_carriers,
    control=two_pass_control,
    patterns=two_pass_patterns,
    query=query_tokens,
    statistic="second_mean_responsibility",
)


def has_variant(task: MTDTask, variant: str) -> bool:
    """Whether a task is small enough for a variant whose size grows with its tokens and lags."""
    if variant in ("constructed-posterior", "constructed-product-of-likelihoods"):
        return n_windows(task) <= MAX_WINDOWS
    return variant != "constructed-gated" or n_gates(task) <= MAX_GATES


FAMILY = Family(
    name=MTDTask.family,
    task_from_json=MTDTask.from_json,
    shortest=lambda task: task.order + 1,
    algorithms=(ONE_STEP, POSTERIOR, PRODUCT_OF_LIKELIHOODS, TWO_PASS, FUSED),
    truth=truth,
    references=references,
    drawn=("uniform", "one step", "2 steps", "maximum likelihood", "exact Bayes"),
    presets={name: partial(presets.load_preset, name) for name in presets.PRESETS},
    variants={f"constructed-{form}": partial(construct, form=form) for form in FORMS}
    | {f"constructed-{id}": partial(construct, algorithm=id) for id in OTHERS}
    | {
        f"random-{form}": partial(random_construction, form=form)
        for form in ("absolute", "relative")
    },
    has_variant=has_variant,
    resized=resized,
    construct=construct,
    examples=examples,
    yardsticks=yardsticks,
    analyse=analyse,
    weights=weight_findings,
    additive=ADDITIVE,
)
