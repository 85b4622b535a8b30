"""What a scorecard tests of a model on an autoregressive task."""

import math
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor

import probes
from mtd_lens import measures
from mtd_lens.contracts import Claim, Measurement, Trial
from mtd_lens.errors import ModelError
from mtd_lens.families.autoregressive.causal_model import AutoregressiveCausalModel
from mtd_lens.families.autoregressive.task import AutoregressiveTask, Vectors, check_tokens

PROBE_HOOKS = ("hook_attn_out", "hook_resid_post")

WINDOW = 2
"""Vectors of which the augmented token is a function."""


def claims(task: AutoregressiveTask) -> list[Claim]:
    """The claims, in causal order."""
    interchange = partial(
        measures.measure_interchange, prediction=prediction, divergence=probes.squared_error
    )
    keys = range(1, task.seq_len)
    return [
        Claim(
            "augmented_token.interchange",
            "Swapping a layer's output at all evidence positions acts as swapping (s_t, s_{t-1}).",
            lambda t: interchange(
                t, "augmented_token", "hook_attn_out", last_only=False, but_last=True
            ),
        ),
        Claim(
            "augmented_token.probe",
            "The vector and the one before it can be read linearly from a layer at every position.",
            lambda t: measures.measure_probe(
                t,
                "augmented_token",
                hooks=PROBE_HOOKS,
                control=lambda tokens: control_task(
                    t.causal_model, tokens, "augmented_token", t.seed
                ),
                window=raw_windows,
                last_only=False,
            ),
        ),
        Claim(
            "inner_products.interchange",
            "Swapping a layer's attention pattern at the last query acts as swapping the products.",
            lambda t: interchange(t, "inner_products", "attn.hook_pattern", last_only=True),
        ),
        Claim(
            "inner_products.attention",
            "At every query a head's pattern is, up to one factor, the products with its keys.",
            lambda t: measures.measure_pattern(t, "inner_products", keys, last_only=False),
        ),
        Claim(
            "prediction.estimator",
            "Predictions at the last query are those of one step of gradient descent.",
            measure_estimator,
        ),
    ]


def raw_windows(tokens: Vectors) -> Float[Tensor, "sequence query feature"]:
    """The last two vectors at every query."""
    return probes.raw_features(tokens, tuple(range(1, tokens.shape[1])), WINDOW, tokens.shape[2])


def control_task(
    causal_model: AutoregressiveCausalModel, tokens: Vectors, variable: str, seed: int
) -> Float[Tensor, "sequence query output"]:
    """The control task of a variable: waves of the last two vectors through the same algorithm.

    An arbitrary function of the two stands in for the augmented token, so that the control of a
    product is a product of controls.
    """
    windows = probes.token_windows(tokens, tuple(range(1, tokens.shape[1])), WINDOW)
    decoys = probes.random_wave_map(
        windows, WINDOW * tokens.shape[2], seed, window_size(causal_model.task)
    )
    return causal_model.do(augmented_token=decoys).run(tokens)[variable]


def window_size(task: AutoregressiveTask) -> float:
    """Root mean square of the norm of two vectors in a row, over a sequence's queries.

    W keeps norms, and every step adds ``dim · noise²`` to the mean square: over windows ``t = 1 …
    T-1`` two vectors have seen ``T - 1`` steps on average.
    """
    first = 1.0 if task.ensemble == "orthogonal" else task.dim / 2
    steps = task.seq_len - 1
    return math.sqrt(WINDOW * first + steps * task.dim * task.noise**2)


def prediction(
    model: object, output: Float[Tensor, "*batch component"]
) -> Float[Tensor, "*batch component"]:
    """A model's predicted vector, which is its output, in float64."""
    return output.double()


def predicted_vectors(
    model: Any, tokens: Tensor, task: AutoregressiveTask
) -> Float[Tensor, "sequence component"]:
    """A model's prediction of the vector after the last position.

    Raises:
        TokensError: Tokens that do not fit the task, or longer than the model's context.
        ModelError: The model's output is not finite.
    """
    vectors = check_tokens(task, tokens, max_length=model.cfg.n_ctx)
    output = probes.last_outputs(model, vectors)
    if not output.isfinite().all():
        row = int((~output.isfinite()).any(-1).nonzero()[0])
        raise ModelError(
            f"the model's outputs must be finite; on sequence {row} they are "
            f"{output[row].tolist()}. Check its weights."
        )
    return prediction(model, output)


def measure_estimator(trial: Trial) -> list[Measurement]:
    """``1 - E‖one step - model‖² / E‖one step‖²`` at the last query."""
    halves = []
    for tokens in (trial.fit_tokens, trial.tokens):
        one_step = trial.causal_model.run(tokens)["prediction"][:, -1]
        predicted = predicted_vectors(trial.model, tokens, trial.task)
        halves.append((probes.squared_error(one_step, predicted), one_step.square().sum(-1)))
    fit, evaluation = halves
    if float(evaluation[1].mean()) <= probes.statistics.NEGLIGIBLE:
        return []
    selection = 1 - float(fit[0].mean() / fit[1].mean())
    return [Measurement(None, "output at the last query", selection, *evaluation)]
