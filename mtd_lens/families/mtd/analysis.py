"""The algorithm beside a model on single sequences, at every position."""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

import probes
from mtd_lens.contracts import Analysis, AnalyticPattern
from mtd_lens.errors import ArgumentError
from mtd_lens.families.mtd import estimators, iterative
from mtd_lens.families.mtd.causal_model import MTDCausalModel, fit_one_step
from mtd_lens.families.mtd.head_scores import head_scores
from mtd_lens.families.mtd.posterior import refined_quadrature
from mtd_lens.families.mtd.posterior_model import RULES
from mtd_lens.families.mtd.references import tied_step_size
from mtd_lens.families.mtd.task import MTDBatch, MTDTask
from mtd_lens.shapes import Tokens, WeightsPerQuery
from mtd_lens.spaces import at_every_position, every_prediction, last_predictions
from probes import checks
from probes.subject import HookedModel

BAYES = RULES["quadrature"]

IDENTIFIED = 1e-3
"""Weights are read from a prediction where the parents' transition rows are independent: their
smallest singular value is above this share of the largest."""

MAX_DIVERGENCE = 0.05
"""In nats; a prediction farther from every mixture implies no weights.

About what separates exact Bayes from uniform weights, at the presets' lengths.
"""


def analyse(
    model: HookedModel,
    causal_model: Any,
    tokens: Tensor,
    fit_tokens: Tensor,
    batch: MTDBatch | None,
) -> Analysis:
    """Mixture weights and predictions by every source; see :class:`mtd_lens.contracts.Family`.

    Two steps are of one size, fitted to the model's predictions at the last query. At earlier
    queries it grows as the number of pieces of evidence falls, as that of one step does, whose β
    is the same at every query. Exact Bayes is integrated as finely as it needs to be, unless it is
    the algorithm: then it is what that computes, under its own fitted temperature.

    Args:
        model: A hooked model.
        causal_model: An algorithm of the family, fitted to the model.
        tokens: ``[sequence, position]``.
        fit_tokens: ``[sequence, position]``: for fitting.
        batch: What the tokens were sampled with, or None.
    """
    task, name, found = causal_model.task, causal_model.name, causal_model.run(tokens)
    predicted = every_prediction(model, tokens, task.outputs)[:, task.order :]
    likelihoods = estimators.lag_likelihoods(task, tokens)
    target = last_predictions(model, fit_tokens, task.outputs)
    latents = {
        "model": implied_weights(task, tokens, predicted),
        "one step": _one_step(causal_model, tokens, fit_tokens, target),
        "2 steps": _two_steps(task, fit_tokens, target, likelihoods),
    }
    if name != BAYES:
        posterior = refined_quadrature(likelihoods, task.concentration, every_query=True)
        latents |= {} if posterior is None else {BAYES: posterior}
    if "mixture_weights" in found:
        latents[name] = found["mixture_weights"]
    if batch is not None:
        weights = batch.weights.to(likelihoods)[:, None]
        latents["truth"] = weights.expand_as(latents["model"])
    predictions = {"model": predicted} | {
        source: estimators.predict(task, tokens, estimate)
        for source, estimate in latents.items()
        if source != "model"
    }
    predictions.setdefault(name, found["prediction"])
    return Analysis(
        latent="mixture weights",
        components=tuple(f"lag {lag}" for lag in range(1, task.order + 1)),
        latents=at_every_position(latents, task.order),
        predictions=at_every_position(predictions, task.order),
        scores=head_scores(model, task, tokens, fit_tokens),
    )


def patterns(causal_model: MTDCausalModel, tokens: Tokens) -> tuple[AnalyticPattern, ...]:
    """The attention that computes each variable exactly, a head a variable.

    Responsibilities lie on the keys 1 to m before an evidence position, mixture weights on the m
    keys up to the query; the mean responsibility is a uniform average over evidence positions.

    Args:
        causal_model: One step of mirror descent.
        tokens: ``[sequence, position]``.
    """
    found = causal_model.run(tokens)
    own, mixed = on_lags(found["responsibilities"], 1), on_lags(found["mixture_weights"], 0)
    return (
        AnalyticPattern("responsibilities", "responsibilities", own),
        AnalyticPattern(
            "uniform average", "mean_responsibility", over_evidence(causal_model.task, tokens)
        ),
        AnalyticPattern("mixture weights", "mixture_weights", mixed),
    )


def on_lags(shares: WeightsPerQuery, first: int) -> Float[Tensor, "sequence position key"]:
    """Attention with given shares to m keys in a row; NaN at queries before the first.

    Args:
        shares: ``[sequence, query, lag]``.
        first: How far before the query the first of the keys lies.
    """
    order, length = shares.shape[2], shares.shape[1] + shares.shape[2]
    attention = shares.new_zeros(len(shares), length, length)
    attention[:, :order] = torch.nan
    queries = torch.arange(order, length)
    for lag in range(order):
        attention[:, queries, queries - lag - first] = shares[..., lag]
    return attention


def over_evidence(task: MTDTask, tokens: Tokens) -> Float[Tensor, "sequence position key"]:
    """Uniform attention over the evidence so far; NaN at queries that have none."""
    key = torch.arange(tokens.shape[1], device=tokens.device)
    evidence = ((key >= task.order) & (key <= key[:, None])).double()
    average = evidence / evidence.sum(1, keepdim=True)
    return average.expand(len(tokens), -1, -1)


def implied_weights(
    task: MTDTask,
    tokens: Tensor,
    predictions: Tensor,
    *,
    max_divergence: float | int = MAX_DIVERGENCE,
) -> WeightsPerQuery:
    """The mixture weights whose prediction is nearest to a model's, query by query.

    Minimises ``KL(prediction ‖ Σ_g λ_g transition[y_{t+1-g}, ·])`` in nats over the simplex: how
    a prediction is read as an estimate of λ (Raftery 1985 for the mixture).

    Args:
        task: The task.
        tokens: ``[sequence, position]``.
        predictions: ``[sequence, query, token]``: after each query position ``order … T-1``, rows
            sum to 1.
        max_divergence: In nats; a prediction that is farther from every mixture implies nothing.

    Returns:
        ``[sequence, query, lag]``, float64; NaN where the prediction does not tell. Either it is
        too far from every mixture, as one that gives a token no lag can explain any probability;
        or the transition rows of the last m tokens are linearly dependent, as where two of the
        tokens are equal.

    Raises:
        TokensError: Tokens that do not fit the task.
        ArgumentError: Predictions of another shape, not finite, or not summing to 1; a divergence
            that is not positive.
    """
    max_divergence = checks.number(max_divergence, "max_divergence", 0, math.inf, ArgumentError)
    rows = estimators.parent_rows(task, tokens)
    expected = (*rows.shape[:2], task.n_tokens)
    shape = tuple(predictions.shape) if isinstance(predictions, Tensor) else None
    if shape != expected:
        came = f"shape {shape}" if shape is not None else f"a {type(predictions).__name__}"
        raise ArgumentError(
            f"predictions must be a tensor, [sequence, query, token] = {expected}; got {came}. "
            f"Leave out the first order = {task.order} positions."
        )
    if not predictions.isfinite().all():
        raise ArgumentError("predictions must be finite; some entries are not.")
    predictions = estimators.on_simplex(predictions.detach().to(rows), expected).clamp_min(0)
    spread = torch.linalg.svdvals(rows)
    told = (spread[..., -1] > IDENTIFIED * spread[..., 0]) & (rows.shape[-2] <= rows.shape[-1])
    implied = torch.full_like(rows[..., 0], torch.nan)
    if told.any():
        likelihoods = rows[told].transpose(-1, -2)  # [query, token, lag]: outcomes as evidence
        found = iterative.likeliest_weights(likelihoods, predictions[told])
        near = found.isfinite().all(-1)  # it is not where no mixture gives what is predicted
        mixture = torch.einsum("nbl,nl->nb", likelihoods[near], found[near])
        divergence = probes.kl_divergence(predictions[told][near], mixture)
        near[near.clone()] = divergence <= max_divergence
        implied[told] = found.masked_fill(~near[:, None], torch.nan)
    return implied


def _one_step(
    causal_model: Any, tokens: Tensor, fit_tokens: Tensor, target: Tensor
) -> WeightsPerQuery:
    """The weights of one step: the algorithm itself, or else fitted to the model."""
    if not isinstance(causal_model, MTDCausalModel):
        causal_model = fit_one_step(causal_model.task, fit_tokens, target)
    return causal_model.run(tokens)["mixture_weights"]


def _two_steps(
    task: MTDTask, fit_tokens: Tensor, target: Tensor, likelihoods: Tensor
) -> WeightsPerQuery:
    step_size = tied_step_size(task, fit_tokens, target, n_steps=2)
    n_evidence = torch.arange(1, likelihoods.shape[1] + 1).to(likelihoods)
    sizes = (step_size * (fit_tokens.shape[1] - task.order) / n_evidence)[:, None]
    return iterative.mirror_steps(likelihoods, [sizes, sizes], every_query=True)
