"""What a scorecard tests of a model on an MTD task."""

from collections.abc import Callable
from functools import partial
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

import probes
from mtd_lens import measures, token_tasks
from mtd_lens.contracts import Claim, Measurement, Trial
from mtd_lens.families.mtd import estimators
from mtd_lens.families.mtd.causal_model import MTDCausalModel
from mtd_lens.families.mtd.task import MTDTask, check_tokens
from mtd_lens.hooked import probabilities, task_of
from mtd_lens.shapes import Tokens

PROBE_HOOKS = ("hook_attn_out", "hook_resid_post")


def claims(task: MTDTask) -> list[Claim]:
    """The claims, in causal order."""
    interchange = partial(
        measures.measure_interchange, prediction=probabilities, divergence=probes.kl_divergence
    )
    probe = partial(measures.measure_probe, hooks=PROBE_HOOKS, window=partial(raw_windows, task))
    lags = range(1, task.order + 1)
    return [
        Claim(
            "responsibilities.interchange",
            "Swapping a layer's output at all evidence positions acts as swapping γ.",
            lambda t: interchange(t, "responsibilities", "hook_attn_out", last_only=False),
        ),
        Claim(
            "responsibilities.probe",
            "γ can be read linearly from a layer at every evidence position.",
            lambda t: probe(
                t, "responsibilities", control=_control(t, "responsibilities"), last_only=False
            ),
        ),
        Claim(
            "responsibilities.attention",
            "At every evidence position a head's pattern over lags 1 to m is γ.",
            lambda t: measures.measure_attention(t, "responsibilities", lags, last_only=False),
        ),
        Claim(
            "responsibilities.weights",
            "A head's content score between tokens is the log of the transition.",
            lambda t: measures.measure_content(t, *column_normalised(task)),
        ),
        Claim(
            "mean_responsibility.interchange",
            "Swapping a layer's output at the last query acts as swapping the mean of γ.",
            lambda t: interchange(t, "mean_responsibility", "hook_attn_out", last_only=True),
        ),
        Claim(
            "mean_responsibility.probe",
            "The mean of γ can be read linearly from a layer at the last query.",
            lambda t: probe(
                t,
                "mean_responsibility",
                control=_control(t, "mean_responsibility"),
                last_only=True,
            ),
        ),
        Claim(
            "mixture_weights.interchange",
            "Swapping a layer's attention pattern at the last query acts as swapping the weights.",
            lambda t: interchange(t, "mixture_weights", "attn.hook_pattern", last_only=True),
        ),
        Claim(
            "mixture_weights.attention",
            "At the last query a head's pattern over the last m positions is the mixture weights.",
            lambda t: measures.measure_attention(
                t, "mixture_weights", [g - 1 for g in lags], last_only=True
            ),
        ),
        Claim(
            "prediction.estimator",
            "Predictions at the last query are those of one step of mirror descent.",
            measure_estimator,
        ),
    ]


def column_normalised(
    task: MTDTask,
) -> tuple[Float[Tensor, "query_token key_token"], Int[Tensor, " query_token"]]:
    """``transition[a, b] / Σ_a' transition[a', b]`` for each query token b that can occur.

    It is the posterior over the parent token a with all tokens equally likely: what the softmax of
    a content score ``log transition[a, b]`` over key tokens must be.

    Returns:
        One row for each query token, and those tokens; tokens that never follow another have none.
    """
    columns = task.transition.T
    occurring = (columns.sum(-1) > 0).nonzero()[:, 0]
    return columns[occurring] / columns[occurring].sum(-1, keepdim=True), occurring


def raw_windows(task: MTDTask, tokens: Tokens) -> Float[Tensor, "sequence query feature"]:
    """One-hot features of the last m+1 tokens, of which γ is a function."""
    positions = tuple(range(task.order, tokens.shape[1]))
    windows = probes.token_windows(tokens, positions, task.order + 1)
    return probes.one_hot_windows(windows, task.n_tokens)


def control_task(
    causal_model: MTDCausalModel, tokens: Tokens, variable: str, seed: int
) -> Float[Tensor, "sequence query output"]:
    """The control task of a variable: random responsibilities through the same algorithm.

    An arbitrary point of the simplex for each token window stands in for γ, so that the control of
    the mean is a mean of controls.
    """
    order = causal_model.task.order
    positions = tuple(range(order, tokens.shape[1]))
    windows = probes.token_windows(tokens, positions, order + 1)
    decoys = probes.random_simplex_map(windows, order, seed)
    return causal_model.do(responsibilities=decoys).run(tokens)[variable]


def _control(trial: Trial, variable: str) -> Callable[[Tensor], Tensor]:
    return lambda tokens: control_task(trial.causal_model, tokens, variable, trial.seed)


def model_predictions(
    model: Any, tokens: Tensor, task: MTDTask | None = None
) -> Float[Tensor, "sequence token"]:
    """A model's distribution of the token after the last position, whatever its read-out.

    Args:
        model: A HookedTransformer.
        tokens: ``[sequence, position]``.
        task: Whose tokens they are; by default the task that the model knows.

    Returns:
        ``[sequence, token]``, float64, rows sum to 1.

    Raises:
        TokensError: Tokens that do not fit the task, or longer than the model's context.
        ModelError: The model's output is not finite, or no task is known.
    """
    tokens = check_tokens(task or task_of(model), tokens, max_length=model.cfg.n_ctx)
    return token_tasks.last_predictions(model, tokens)


def measure_estimator(trial: Trial) -> list[Measurement]:
    """``1 - KL(one step ‖ model) / KL(one step ‖ uniform weights)`` at the last query."""
    halves = []
    for tokens in (trial.fit_tokens, trial.tokens):
        one_step = trial.causal_model.run(tokens)["prediction"][:, -1]
        no_evidence = estimators.uniform_weights(trial.task, tokens)
        uniform = estimators.predict(trial.task, tokens, no_evidence)
        predicted = model_predictions(trial.model, tokens, trial.task)
        halves.append(
            (
                probes.kl_divergence(one_step, predicted),
                probes.kl_divergence(one_step, uniform),
            )
        )
    fit, evaluation = halves
    if float(evaluation[1].mean()) <= probes.statistics.NEGLIGIBLE:
        return []
    selection = 1 - float(fit[0].mean() / fit[1].mean())
    return [Measurement(None, "output at the last query", selection, *evaluation)]
