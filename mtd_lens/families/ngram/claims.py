"""What a scorecard tests of a model on an n-gram task."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

import probes
from mtd_lens import measures, token_tasks
from mtd_lens.contracts import Claim, Measurement, Trial
from mtd_lens.families.ngram import estimators
from mtd_lens.families.ngram.causal_model import NGramCausalModel
from mtd_lens.families.ngram.task import NGramTask, check_tokens
from mtd_lens.hooked import probabilities
from mtd_lens.shapes import Predictions, Tokens
from probes.statistics.intervals import NEGLIGIBLE


def claims(task: NGramTask) -> list[Claim]:
    """The claims, in causal order."""
    interchange = partial(
        measures.measure_interchange, prediction=probabilities, divergence=probes.kl_divergence
    )
    return [
        Claim(
            "copied_parents.interchange",
            "Swapping a layer's attention output at all evidence positions acts as swapping the "
            "tokens before each.",
            lambda t: interchange(t, "copied_parents", "hook_attn_out", last_only=False),
        ),
        Claim(
            "copied_parents.probe",
            "The tokens of the window can be read linearly from a layer at every position.",
            lambda t: measure_probe(t, "copied_parents", "hook_attn_out"),
        ),
        Claim(
            "copied_parents.attention",
            "For each lag of the window, a head attends to the token that far back.",
            measure_copying,
        ),
        Claim(
            "selected_feature.interchange",
            "Swapping what a layer's MLP writes at all evidence positions acts as swapping which "
            "tuples of parents there are.",
            lambda t: interchange(t, "selected_feature", last_write(t), last_only=False),
        ),
        Claim(
            "selected_feature.probe",
            "Which tuple the parents form can be read linearly from a layer at every position.",
            measure_selection,
        ),
        Claim(
            "match_weights.interchange",
            "Swapping a layer's attention pattern at the last query acts as swapping the match.",
            lambda t: interchange(t, "match_weights", "attn.hook_pattern", last_only=True),
        ),
        Claim(
            "match_weights.attention",
            "At the last query a head attends to evidence positions by the match of their parents.",
            lambda t: measures.measure_attention(
                t, "match_weights", offsets_of_evidence(t), last_only=True
            ),
        ),
        Claim(
            "prediction.estimator",
            "Predictions at the last query are those of a generalized induction head.",
            measure_estimator,
        ),
    ]


def last_write(trial: Trial) -> str:
    """The hook of what each block writes last: its MLP's output, or its heads' without one."""
    return "hook_attn_out" if trial.model.cfg.attn_only else "hook_mlp_out"


def offsets_of_evidence(trial: Trial) -> list[int]:
    """The last query's position less each evidence position's."""
    length = trial.tokens.shape[1]
    return list(range(length - 1 - trial.task.window, -1, -1))


def measure_copying(trial: Trial) -> list[Measurement]:
    """Attention to each lag of the window: ``1 - (1 - A[k, k - h]) / (1 - 1 / (window + 1))``.

    The mean over lags h and evidence positions k; the head of each lag is chosen on the fit split.
    It is 0 for uniform attention over the window and the position itself.
    """
    model, window = trial.model, trial.task.window
    positions = trial.causal_model.query_positions(trial.tokens.shape[1])
    bands = {
        f"{layer}": probes.Band(
            f"blocks.{layer}.attn.hook_pattern", positions, tuple(range(1, window + 1))
        )
        for layer in range(model.cfg.n_layers)
    }
    fit, found = (
        {
            name: attention.to(torch.float64).mean(2)  # [sequence, head, lag]
            for name, attention in probes.read_activations(model, tokens, bands).items()
        }
        for tokens in (trial.fit_tokens, trial.tokens)
    )
    uniform = 1 - 1 / (window + 1)
    measurements = []
    for layer, (name, band) in enumerate(bands.items()):
        heads = fit[name].mean(0).argmax(0)  # [lag]
        each = torch.arange(window)
        missed = 1 - found[name][:, heads, each].mean(-1)
        listed = ", ".join(f"{head} for lag {lag}" for lag, head in enumerate(heads.tolist(), 1))
        measurements.append(
            Measurement(
                layer=layer,
                site=f"{band.hook}, head {listed}",
                selection=1 - float(1 - fit[name][:, heads, each].mean()) / uniform,
                numerator=missed,
                denominator=torch.full_like(missed, uniform),
            )
        )
    return measurements


def measure_probe(trial: Trial, variable: str, hook: str) -> list[Measurement]:
    """A ridge probe of a variable at every evidence position, in a layer's write or its stream."""
    return measures.measure_probe(
        trial,
        variable,
        hooks=(hook, "hook_resid_post"),
        control=_control(trial, variable),
        window=partial(raw_windows, trial.task),
        last_only=False,
    )


def measure_selection(trial: Trial) -> list[Measurement]:
    """The probe of the selected feature, and beside it one of the lags that are not selected.

    The details hold, for each layer, R² of a probe of the unselected lags from what the block
    writes last, and from the selected feature itself: sequences are repetitive, so that one says
    something of the other. Where a selector has dropped the unselected lags, the two agree.
    """
    found = measure_probe(trial, "selected_feature", last_write(trial))
    lags = unselected(trial.task)
    if not lags or not found:
        return found
    task, n_fit = trial.task, len(trial.fit_tokens)
    tokens = torch.cat([trial.fit_tokens, trial.tokens])
    values = trial.causal_model.run(tokens)
    copies = values["copied_parents"].unflatten(-1, (task.window, task.n_tokens))
    dropped = copies[:, :, [lag - 1 for lag in lags]].flatten(2)
    positions = trial.causal_model.query_positions(tokens.shape[1])
    hooks = [f"blocks.{m.layer}.{last_write(trial)}" for m in found]
    captured = probes.read_activations(
        trial.model, tokens, {hook: probes.Site(hook, positions) for hook in hooks}
    )

    def readable(features: Tensor) -> float:
        probe = probes.fit_ridge(features[:n_fit], dropped[:n_fit])
        residual, deviation = probe.errors(features[n_fit:], dropped[n_fit:])
        return 1 - float(residual.mean() / deviation.mean())

    from_feature = readable(values["selected_feature"])
    return [
        replace(
            measurement,
            details={
                **measurement.details,
                "unselected_lags": readable(captured[hook]),
                "unselected_lags_in_feature": from_feature,
            },
        )
        for measurement, hook in zip(found, hooks, strict=True)
    ]


def unselected(task: NGramTask) -> Sequence[int]:
    """Lags of the window that neither the key nor the query feature of a position depends on."""
    used = {*task.parents, *(lag - 1 for lag in task.parents)}
    return [lag for lag in range(1, task.window + 1) if lag not in used]


def raw_windows(task: NGramTask, tokens: Tokens) -> Float[Tensor, "sequence query feature"]:
    """One-hot features of the last window + 1 tokens, which determine copies and features."""
    return one_hot(_windows(task, tokens), task.n_tokens).flatten(2).to(torch.float64)


def control_task(
    causal_model: NGramCausalModel, tokens: Tokens, variable: str, seed: int
) -> Float[Tensor, "sequence query output"]:
    """The control task of a variable: an arbitrary function of the tokens, of the same shape.

    For copies and features, an arbitrary point of the simplex for each token window; for the match
    weights, the match of such features.
    """
    task = causal_model.task
    size = task.window * task.n_tokens if variable == "copied_parents" else 2 * task.n_rows
    decoys = probes.random_simplex_map(_windows(task, tokens), size, seed)
    held = variable if variable == "copied_parents" else "selected_feature"
    return causal_model.do(**{held: decoys}).run(tokens)[variable]


def _control(trial: Trial, variable: str) -> Callable[[Tensor], Tensor]:
    return lambda tokens: control_task(trial.causal_model, tokens, variable, trial.seed)


def _windows(task: NGramTask, tokens: Tokens) -> Tensor:
    positions = tuple(range(task.window, tokens.shape[1]))
    return probes.token_windows(tokens, positions, task.window + 1)


def last_predictions(model: Any, tokens: Tensor, task: NGramTask) -> Predictions:
    """A model's distribution of the token after the last position, whatever its read-out and dtype.

    Probabilities below ``FLOOR`` are raised to it, as those of the estimators are.
    """
    tokens = check_tokens(task, tokens, max_length=model.cfg.n_ctx)
    return token_tasks.last_predictions(model, tokens).clamp_min(estimators.FLOOR)


def measure_estimator(trial: Trial) -> list[Measurement]:
    """``1 - KL(kernel ‖ model) / KL(kernel ‖ unigram)`` at the last query."""
    halves = []
    for tokens in (trial.fit_tokens, trial.tokens):
        kernel = trial.causal_model.run(tokens)["prediction"][:, -1]
        unigram = estimators.likeliest(estimators.last_counts(trial.task, tokens, ()))
        predicted = last_predictions(trial.model, tokens, trial.task)
        halves.append(
            (probes.kl_divergence(kernel, predicted), probes.kl_divergence(kernel, unigram))
        )
    fit, evaluation = halves
    if float(evaluation[1].mean()) <= NEGLIGIBLE:
        return []
    selection = 1 - float(fit[0].mean() / fit[1].mean())
    return [Measurement(None, "output at the last query", selection, *evaluation)]
