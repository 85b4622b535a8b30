"""The reference estimators that a model's predictions are held against.

======================  ==========================================================================
uniform                 1/q for every token
unigram                 how often each token came, whatever came before
kernel                  a generalized induction head, its sharpness fitted
maximum likelihood      how often each token came after the same parents; uniform if never
exact Bayes             the posterior mean of the row in use
exact Bayes, lags {…}   the same with a wrong set of parents: one lag left out, or one too many
======================  ==========================================================================
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from scipy import optimize
from torch import Tensor

import probes
from mtd_lens.contracts import Estimate, Trial
from mtd_lens.families.ngram import estimators
from mtd_lens.families.ngram.causal_model import SHARPNESS_RANGE, fit_sharpness
from mtd_lens.families.ngram.claims import last_predictions
from mtd_lens.families.ngram.estimators import FLOOR
from mtd_lens.families.ngram.task import NGramTask
from mtd_lens.shapes import Predictions

AT_BOUND = 1e-3
"""A sharpness this close to an end of its range, as a share of it, counts as being there."""

Reference = tuple[str, Predictions, dict[str, float]]


def estimates(trial: Trial) -> Sequence[Estimate]:
    """KL(estimator ‖ model) for every reference estimator, the kernel's sharpness fitted."""
    task = trial.task
    fit_target = last_predictions(trial.model, trial.fit_tokens, task)
    predicted = last_predictions(trial.model, trial.tokens, task)
    sharpness = nearest_sharpness(task, trial.fit_tokens, fit_target)
    return [
        Estimate(name, probes.kl_divergence(reference, predicted), fitted)
        for name, reference, fitted in references(task, trial.tokens, sharpness)
    ]


def contenders(
    task: NGramTask, model: Any, length: int, n_sequences: int, seed: int
) -> Sequence[Estimate]:
    """KL(truth ‖ prediction) of every estimator and of the model, on contexts of ``length``."""
    device = next(model.parameters()).device
    batch = replace(task, seq_len=length).sample(2 * n_sequences, seed)
    tokens = batch.tokens.to(device)
    truth = estimators.ngram_truth(task, tokens, batch.tables)[:, -1]
    fit, test = slice(0, n_sequences), slice(n_sequences, None)
    sharpness = fit_sharpness(task, tokens[fit], truth[fit])
    rows = [
        Estimate(name, probes.kl_divergence(truth[test], reference.clamp_min(FLOOR)), fitted)
        for name, reference, fitted in references(task, tokens[test], sharpness)
    ]
    predicted = last_predictions(model, tokens[test], task)
    return [*rows, Estimate("model", probes.kl_divergence(truth[test], predicted), {})]


def references(task: NGramTask, tokens: Tensor, sharpness: float) -> list[Reference]:
    """Every estimator's prediction at the last query, with what was fitted."""
    everything = estimators.last_counts(task, tokens, ())
    counts = estimators.last_counts(task, tokens)
    at_bound = min(abs(sharpness / bound - 1) for bound in SHARPNESS_RANGE) < AT_BOUND
    flag = {"sharpness_at_bound": 1.0} if at_bound else {}
    found = {
        "uniform": counts.new_full(counts.shape, 1 / task.n_tokens),
        "unigram": estimators.likeliest(everything),
        "kernel": estimators.of_counts(counts, everything, sharpness),
        "maximum likelihood": estimators.likeliest(counts),
        "exact Bayes": estimators.posterior_mean(counts, task.concentration),
    }
    for lags in wrong_parents(task):
        label = ", ".join(map(str, lags))
        found[f"exact Bayes, lags {{{label}}}"] = estimators.posterior_mean(
            estimators.last_counts(task, tokens, lags), task.concentration
        )
    return [
        (name, value, {"sharpness": sharpness} | flag if name == "kernel" else {})
        for name, value in found.items()
    ]


def wrong_parents(task: NGramTask) -> list[tuple[int, ...]]:
    """Sets of lags that differ from the task's parents by one lag, none of them empty."""
    own = set(task.parents)
    different = [own ^ {lag} for lag in range(1, task.window + 1)]
    return sorted(tuple(sorted(lags)) for lags in different if lags)


def nearest_sharpness(task: NGramTask, tokens: Tensor, predictions: Predictions) -> float:
    """The sharpness of least KL(kernel ‖ prediction) at the last query."""
    everything = estimators.last_counts(task, tokens, ())
    matching = estimators.last_counts(task, tokens)

    def divergence(sharpness: float) -> float:
        kernel = estimators.of_counts(matching, everything, sharpness)
        return float(probes.kl_divergence(kernel, predictions).mean())

    result = optimize.minimize_scalar(
        divergence, bounds=SHARPNESS_RANGE, method="bounded", options={"xatol": 1e-6}
    )
    return float(result.x)
