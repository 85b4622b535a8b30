"""Reference estimators held against a model, or against the truth, and their mean divergences."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

import probes
from mtd_lens.contracts import Family, Reference, last_prediction
from mtd_lens.errors import ArgumentError
from mtd_lens.results.scorecard import EstimatorResult
from mtd_lens.spaces import last_predictions
from mtd_lens.trial import Trial
from probes import checks
from probes.subject import HookedModel, subject_of

Distances = Mapping[str, tuple[Tensor, Mapping[str, float]]]
"""By name of an estimator, divergences ``[sequence]`` and what was fitted."""


def from_model(family: Family, trial: Trial) -> Distances:
    """``D(estimator ‖ model)`` of every reference estimator and the algorithm, fitted to the model.

    An algorithm of whose name the family has no reference is held as its causal model predicts.

    Args:
        family: Of the task.
        trial: The model under test.
    """
    fit_target, predicted = (trial.predictions(tokens) for tokens in trial.splits)
    references = references_of(
        family, trial.task, trial.fit_tokens, fit_target, trial.tokens, False
    )
    divergence = trial.task.outputs.divergence
    own, causal = trial.algorithm, trial.causal_model
    if own is not None and own.name not in references:
        prediction = last_prediction(causal, trial.tokens)
        references = {**references, own.name: Reference(prediction, causal.parameters)}
    return {
        name: (divergence(reference.prediction, predicted), reference.parameters)
        for name, reference in references.items()
    }


def from_truth(
    family: Family, task: Any, model: HookedModel, length: int, n_sequences: int, seed: int
) -> Distances:
    """``D(truth ‖ prediction)`` of every reference estimator, fitted to the truth, and the model.

    Args:
        family: Of the task.
        task: The task.
        model: Its own row is called ``model``.
        length: Tokens in the context.
        n_sequences: For the fit, and as many for the divergences.
        seed: Of the sequences.
    """
    if family.resized is not None:
        task = family.resized(task, length)
    device = subject_of(model).device
    batch = task.sample(2 * n_sequences, seed)
    tokens, truth = batch.tokens.to(device), family.truth(task, batch).to(device)
    fit, test = slice(0, n_sequences), slice(n_sequences, None)
    references = references_of(family, task, tokens[fit], truth[fit], tokens[test], True)
    divergence = task.outputs.divergence
    found: dict[str, tuple[Tensor, Mapping[str, float]]] = {
        name: (divergence(truth[test], reference.prediction), reference.parameters)
        for name, reference in references.items()
    }
    predicted = last_predictions(model, tokens[test], task.outputs)
    return found | {"model": (divergence(truth[test], predicted), {})}


def means(found: Distances, seed: int) -> tuple[EstimatorResult, ...]:
    """Mean divergences with their intervals, the least of them marked.

    Args:
        found: Of each estimator.
        seed: Of the resampling.
    """
    intervals = {
        name: probes.mean_interval(values, seed=seed) for name, (values, _) in found.items()
    }
    best = min((interval.score for interval in intervals.values()), default=0.0)
    return tuple(
        EstimatorResult(
            name,
            interval.score,
            interval.low,
            interval.high,
            found[name][1],
            interval.score == best,
        )
        for name, interval in intervals.items()
    )


def references_of(family: Family, *given: Any) -> Mapping[str, Reference]:
    """A family's estimators, whose names can be shown."""
    found = family.references(*given)
    checks.texts(list(found), "the name of an estimator", ArgumentError)
    return found
