"""The autoregressive family as the rest of the package sees it."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

import probes
from mtd_lens import hooked
from mtd_lens.contracts import Algorithm, Examples, Family
from mtd_lens.families.autoregressive import estimators
from mtd_lens.families.autoregressive.analysis import analyse, patterns
from mtd_lens.families.autoregressive.causal_model import (
    AutoregressiveCausalModel,
    best_step_size,
    fit_one_step,
    fit_steps,
)
from mtd_lens.families.autoregressive.claims import (
    carriers,
    claims,
    control_task,
    least_squares_carriers,
    least_squares_claims,
)
from mtd_lens.families.autoregressive.constructions import (
    algorithm_id,
    construct_autoregressive,
    variant,
)
from mtd_lens.families.autoregressive.presets import PRESETS
from mtd_lens.families.autoregressive.references import DESCENTS, containing, references
from mtd_lens.families.autoregressive.squares_model import least_squares_model
from mtd_lens.families.autoregressive.task import AutoregressiveBatch, AutoregressiveTask, resized
from probes.subject import HookedModel

NULL_SEED = 0

N_SCALING, SCALING_SEED = 64, 0
"""Sequences on which a random model's outputs are measured."""

CONSTRUCTIONS = ((1, True), (4, True), (4, False))
"""Steps of the constructions that every task has, and whether they are causal."""


def ceiling(task: AutoregressiveTask, causal_model: AutoregressiveCausalModel) -> HookedModel:
    """The construction with the causal model's steps."""
    steps, causal = causal_model.n_steps, causal_model.causal
    return construct_autoregressive(task, causal_model.step_size, n_steps=steps, causal=causal)


def truth(task: AutoregressiveTask, batch: AutoregressiveBatch) -> Tensor:
    """The mean of the next vector, ``[sequence, component]``."""
    return batch.truth


def examples(task: AutoregressiveTask, n: int, seed: int, with_truth: bool) -> Examples:
    """Sequences of one vector more than the context, so that every query has a target."""
    tokens = resized(task, task.seq_len + 1).sample(n, seed).tokens
    return Examples(tokens[:, :-1], tokens[:, 2:], None)


def yardsticks(task: AutoregressiveTask, n: int, seed: int) -> tuple[Tensor, dict[str, Tensor]]:
    """The truth, the best one step of gradient descent, and least squares."""
    batch = task.sample(n, seed)
    one_step = AutoregressiveCausalModel(task, best_step_size(task)).run(batch.tokens)
    squares = estimators.least_squares(batch.tokens, last_only=True)
    return batch.tokens, {
        "error from truth": batch.truth,
        "error from one step": one_step["prediction"][:, -1],
        "error from least squares": estimators.predict_next(batch.tokens, squares)[:, 0],
    }


def random_construction(task: AutoregressiveTask, dtype: torch.dtype) -> HookedModel:
    """The architecture of one step with random weights."""
    model = construct_autoregressive(task, 1.0, dtype=dtype)
    return randomized(model, task, NULL_SEED, f"{task.name or task.family}/random-one-step")


def randomized(
    model: HookedModel, task: AutoregressiveTask, seed: int, name: str = "null"
) -> HookedModel:
    """Random weights, scaled on the task layer by layer, as in LSUV (Mishkin & Matas 2016).

    What untrained linear attention writes is of three times the degree of what it reads, so that
    after a few layers single sequences decide every mean. Here no layer adds more than what it
    reads is long, on any position of the sequences that it is scaled on. Outputs are as long as the
    task's vectors. Swapping an activation makes a random model's outputs shorter on average, which
    alone brings them nearer to any counterfactual: interchange scores of these models reach 0.43.
    """
    null: Any = hooked.randomized(model, seed, name)
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


def constructed(
    task: AutoregressiveTask, dtype: torch.dtype, n_steps: int, causal: bool
) -> HookedModel:
    """The construction of so many steps."""
    return construct_autoregressive(task, n_steps=n_steps, causal=causal, dtype=dtype)


def descent(name: str) -> Algorithm:
    """Steps of gradient descent of one size, by the name of their reference."""
    n_steps, causal = DESCENTS[name]
    fit = partial(fit_steps, n_steps=n_steps, causal=causal)
    return Algorithm(
        name=name,
        id=algorithm_id(name),
        fit=fit_one_step if n_steps == 1 else fit,
        claims=partial(claims, n_steps=n_steps),
        construct=ceiling,
        carriers=partial(carriers, n_steps=n_steps),
        control=control_task,
        patterns=patterns,
        containing=containing(name),
    )


LEAST_SQUARES = Algorithm(
    name="least squares",
    fit=least_squares_model,
    claims=least_squares_claims,
    carriers=least_squares_carriers,
    control=control_task,
    patterns=patterns,
    statistic="estimate",
)

FAMILY = Family(
    name=AutoregressiveTask.family,
    task_from_json=AutoregressiveTask.from_json,
    shortest=lambda task: 2,
    algorithms=(*map(descent, DESCENTS), LEAST_SQUARES),
    truth=truth,
    references=references,
    drawn=("zero", "one step", "2 steps", "4 steps, free"),
    presets={name: partial(PRESETS.__getitem__, name) for name in PRESETS},
    variants={
        variant(n_steps, causal): partial(constructed, n_steps=n_steps, causal=causal)
        for n_steps, causal in CONSTRUCTIONS
    }
    | {"random-one-step": random_construction},
    resized=resized,
    construct=construct_autoregressive,
    null=randomized,
    examples=examples,
    yardsticks=yardsticks,
    analyse=analyse,
)
