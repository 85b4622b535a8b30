"""The algorithm beside a model on single sequences, at every position."""

import torch
from torch import Tensor

from mtd_lens.contracts import Analysis, AnalyticPattern
from mtd_lens.families.ngram import estimators
from mtd_lens.families.ngram.causal_model import NGramCausalModel
from mtd_lens.families.ngram.counts_model import NGramCountsModel
from mtd_lens.families.ngram.task import NGramBatch
from mtd_lens.shapes import Tokens
from mtd_lens.spaces import at_every_position, every_prediction
from probes.subject import HookedModel


def analyse(
    model: HookedModel,
    causal_model: NGramCausalModel | NGramCountsModel,
    tokens: Tensor,
    fit_tokens: Tensor,
    batch: NGramBatch | None,
) -> Analysis:
    """The row of the table in use by every source; see :class:`mtd_lens.contracts.Family`.

    What must be inferred in context is the table; what a prediction tells of it is the row in use,
    which is the prediction itself.

    Args:
        model: A hooked model.
        causal_model: A generalized induction head or a rival, fitted to the model.
        tokens: ``[sequence, position]``.
        fit_tokens: For fitting; nothing more is fitted.
        batch: What the tokens were sampled with, or None.
    """
    task = causal_model.task
    own = causal_model.run(tokens)["prediction"]
    found = {
        "model": every_prediction(model, tokens, task.outputs)[:, task.window :],
        causal_model.source: own,
        "maximum likelihood": estimators.ngram_maximum_likelihood(task, tokens),
        "exact Bayes": estimators.ngram_bayes(task, tokens),
    }
    found[causal_model.source] = own  # its parameters follow the model
    if batch is not None:
        found["truth"] = estimators.ngram_truth(task, tokens, batch.tables)
    predictions = at_every_position(found, task.window)
    return Analysis(
        latent="row of the table in use",
        components=tuple(f"token {token}" for token in range(task.n_tokens)),
        latents=predictions,
        predictions=predictions,
    )


def patterns(
    causal_model: NGramCausalModel | NGramCountsModel, tokens: Tokens
) -> tuple[AnalyticPattern, ...]:
    """The attention that computes each variable exactly: a head a lag, and the match.

    Counts are attended to as a uniform average of the evidence that matches, in which the prior has
    its share, at position 0; without a prior that is where nothing matches.

    Args:
        causal_model: A generalized induction head, or a rival.
        tokens: ``[sequence, position]``.
    """
    task, length = causal_model.task, tokens.shape[1]
    if isinstance(causal_model, NGramCausalModel):
        name, variable = "match weights", "match_weights"
        weights = causal_model.run(tokens)[variable]
        prior = torch.zeros_like(weights[..., 0])
    else:
        name, variable = "matching evidence", "matching_counts"
        matches = estimators.matches(task, tokens)
        total = matches.sum(-1, keepdim=True) + task.n_tokens * causal_model.concentration
        weights = matches / torch.where(total > 0, total, 1.0)
        prior = 1 - weights.sum(-1)
    nothing = weights.new_zeros(len(weights), length, length)
    nothing[:, : task.window] = torch.nan
    queries = torch.arange(task.window, length)
    found = []
    for lag in range(1, task.window + 1):
        copies = nothing.clone()
        copies[:, queries, queries - lag] = 1.0
        found.append(AnalyticPattern(f"copy of lag {lag}", "copied_parents", copies))
    match = nothing.clone()
    match[:, task.window :, 0] = prior
    match[:, task.window :, task.window :] = weights
    return (*found, AnalyticPattern(name, variable, match))
