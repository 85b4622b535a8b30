"""The n-gram family as the rest of the package sees it."""

from dataclasses import replace
from functools import partial

from torch import Tensor

from mtd_lens.contracts import Algorithm, Examples, Family
from mtd_lens.families.ngram import estimators
from mtd_lens.families.ngram.analysis import analyse, patterns
from mtd_lens.families.ngram.causal_model import NGramCausalModel, best_sharpness, fit_kernel
from mtd_lens.families.ngram.claims import (
    additive_claims,
    bayes_claims,
    carriers,
    claims,
    control_task,
    count_carriers,
    likelihood_claims,
    query_tokens,
)
from mtd_lens.families.ngram.constructions import construct_causal, construct_ngram, random_ngram
from mtd_lens.families.ngram.counts_model import (
    NGramCountsModel,
    fit_bayes,
    maximum_likelihood,
)
from mtd_lens.families.ngram.presets import PRESETS
from mtd_lens.families.ngram.references import references
from mtd_lens.families.ngram.task import NGramBatch, NGramTask, resized
from probes.subject import HookedModel


def ceiling(task: NGramTask, causal_model: NGramCausalModel) -> HookedModel:
    """The construction with the causal model's sharpness."""
    return construct_causal(causal_model, "relative")


def counting_ceiling(task: NGramTask, causal_model: NGramCountsModel) -> HookedModel:
    """The construction with the causal model's concentration."""
    return construct_causal(causal_model)


def truth(task: NGramTask, batch: NGramBatch) -> Tensor:
    """The row of each sequence's own table that its next token is drawn from."""
    return estimators.ngram_truth(task, batch.tokens, batch.tables)[:, -1]


def examples(task: NGramTask, n: int, seed: int, with_truth: bool) -> Examples:
    """Sequences of one token more than the context, so that every query has a target."""
    batch = resized(task, task.seq_len + 1).sample(n, seed)
    inputs = batch.tokens[:, :-1]
    known = estimators.ngram_truth(task, inputs, batch.tables) if with_truth else None
    return Examples(inputs, batch.tokens[:, task.window + 1 :], known)


def yardsticks(task: NGramTask, n: int, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The truth, the best kernel, and exact Bayes."""
    batch = task.sample(n, seed)
    everything = estimators.last_counts(task, batch.tokens, ())
    counts = estimators.last_counts(task, batch.tokens)
    return batch.tokens, {
        "KL from truth": truth(task, batch),
        "KL from kernel": estimators.of_counts(counts, everything, best_sharpness(task)),
        "KL from exact Bayes": estimators.posterior_mean(counts, task.concentration),
    }


KERNEL = Algorithm(
    name="kernel",
    fit=fit_kernel,
    claims=claims,
    construct=ceiling,
    carriers=carriers,
    control=control_task,
    patterns=patterns,
    query=query_tokens,
)

ADDITIVE = replace(
    KERNEL,
    name="additive kernel",
    id="additive-kernel",
    fit=partial(fit_kernel, match="tokens"),
    claims=additive_claims,
)

BAYES = replace(
    KERNEL,
    name="exact Bayes",
    id="exact-bayes",
    fit=fit_bayes,
    claims=bayes_claims,
    construct=counting_ceiling,
    carriers=count_carriers,
    statistic="matching_counts",
)

LIKELIHOOD = replace(
    BAYES,
    name="maximum likelihood",
    id="maximum-likelihood",
    fit=maximum_likelihood,
    claims=likelihood_claims,
)

FAMILY = Family(
    name=NGramTask.family,
    task_from_json=NGramTask.from_json,
    shortest=lambda task: task.window + 1,
    algorithms=(KERNEL, ADDITIVE, BAYES, LIKELIHOOD),
    truth=truth,
    references=references,
    drawn=("uniform", "kernel", "maximum likelihood", "exact Bayes"),
    presets={name: partial(PRESETS.__getitem__, name) for name in PRESETS},
    variants={
        f"{kind}-{form}": partial(build, form=form)
        for kind, build in (("constructed", construct_ngram), ("random", random_ngram))
        for form in ("absolute", "relative")
    },
    resized=resized,
    construct=construct_ngram,
    examples=examples,
    yardsticks=yardsticks,
    analyse=analyse,
)
