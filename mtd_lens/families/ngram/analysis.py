"""The algorithm beside a model on single sequences, at every position."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mtd_lens import token_tasks
from mtd_lens.contracts import Analysis, AnalyticPattern
from mtd_lens.families.ngram import estimators
from mtd_lens.families.ngram.causal_model import NGramCausalModel
from mtd_lens.families.ngram.task import NGramTask
from mtd_lens.shapes import Tokens


def analyse(
    model: Any, causal_model: NGramCausalModel, tokens: Tensor, tables: Tensor | None
) -> Analysis:
    """See :class:`mtd_lens.contracts.InspectableFamily`.

    What must be inferred in context is the table; what a prediction tells of it is the row in use,
    which is the prediction itself.

    Args:
        model: A HookedTransformer.
        causal_model: A generalized induction head, its sharpness fitted to the model.
        tokens: ``[sequence, position]``.
        tables: ``[sequence, row, token]``: what the tokens were drawn from, or None.
    """
    task = causal_model.task
    found = {
        "model": token_tasks.predictions(model, tokens)[:, task.window :],
        "kernel": causal_model.run(tokens)["prediction"],
        "maximum likelihood": estimators.ngram_maximum_likelihood(task, tokens),
        "exact Bayes": estimators.ngram_bayes(task, tokens),
    }
    if tables is not None:
        found["truth"] = estimators.ngram_truth(task, tokens, tables)
    predictions = _at_every_position(task, found)
    return Analysis(
        patterns=patterns(causal_model, tokens),
        latent="row of the table in use",
        components=tuple(f"token {token}" for token in range(task.n_tokens)),
        latents=predictions,
        predictions=predictions,
    )


def patterns(causal_model: NGramCausalModel, tokens: Tokens) -> tuple[AnalyticPattern, ...]:
    """The attention that computes each variable exactly: a head a lag, and the match.

    Args:
        causal_model: A generalized induction head.
        tokens: ``[sequence, position]``.
    """
    task, length = causal_model.task, tokens.shape[1]
    weights = causal_model.run(tokens)["match_weights"]
    nothing = weights.new_zeros(len(weights), length, length)
    nothing[:, : task.window] = torch.nan
    queries = torch.arange(task.window, length)
    found = []
    for lag in range(1, task.window + 1):
        copies = nothing.clone()
        copies[:, queries, queries - lag] = 1.0
        found.append(AnalyticPattern(f"copy of lag {lag}", "copied_parents", copies))
    match = nothing.clone()
    match[:, task.window :, task.window :] = weights
    return (*found, AnalyticPattern("match weights", "match_weights", match))


def _at_every_position(
    task: NGramTask, values: Mapping[str, Tensor]
) -> dict[str, Float[Tensor, "sequence position entry"]]:
    """Values at queries, with NaN before the first of them."""
    return {
        source: torch.cat(
            [value.new_full((len(value), task.window, value.shape[-1]), torch.nan), value], 1
        )
        for source, value in values.items()
    }
