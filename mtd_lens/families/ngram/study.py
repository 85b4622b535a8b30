"""What is measured of a trained model beside its scorecard: its predictions against the truth."""

from typing import Any

import torch

import probes
from mtd_lens.families.ngram import estimators
from mtd_lens.hooked import probabilities, task_of
from mtd_lens.measures.held_out import N_SEQUENCES, SEED, interval, ratio
from probes.passes import undisturbed
from probes.subject import HookedModel

BATCH = 256
"""Sequences a forward pass."""

Figures = dict[str, Any]
"""Plain data, as JSON holds it."""


def measure(model: HookedModel) -> Figures:
    """The figures of a model."""
    return {"held_out": held_out(model)}


def held_out(model: HookedModel) -> Figures:
    """KL from the truth, the excess over its entropy, of the model and of exact Bayes."""
    task = task_of(model)
    batch = task.sample(N_SEQUENCES, SEED)
    truth = estimators.ngram_truth(task, batch.tokens, batch.tables)
    with undisturbed(model), torch.no_grad():
        output = torch.cat([model(part) for part in batch.tokens.split(BATCH)])[:, task.window :]
    predictions = {
        "model": probabilities(model, output),
        "exact Bayes": estimators.ngram_bayes(task, batch.tokens),
        **{
            f"exact Bayes, lags {{{lag}}}": estimators.ngram_bayes(task, batch.tokens, (lag,))
            for lag in task.parents
        },
    }
    kl = {source: probes.kl_divergence(truth, value) for source, value in predictions.items()}
    return {
        "n_sequences": N_SEQUENCES,
        "from_truth": {source: interval(value[:, -1]) for source, value in kl.items()},
        "over_bayes": ratio(kl["model"][:, -1], kl["exact Bayes"][:, -1]),
        "over_bayes_at_all_queries": ratio(kl["model"].mean(1), kl["exact Bayes"].mean(1)),
    }
