"""What a scorecard tests of a model on an MTD task."""

from jaxtyping import Float, Int
from torch import Tensor

import probes
from mtd_lens.contracts import BUT_LAST, LAST, Carrier, Claim
from mtd_lens.families.mtd import estimators
from mtd_lens.families.mtd.causal_model import MTDCausalModel
from mtd_lens.families.mtd.task import MTDTask
from mtd_lens.measures import Attention, Content, Interchange, Prediction, Probe
from mtd_lens.shapes import Predictions, Tokens


def claims(task: MTDTask) -> list[Claim]:
    """The claims, in causal order."""
    window, lags = task.order + 1, range(1, task.order + 1)
    return [
        Claim(
            "responsibilities.interchange",
            "Swapping a layer's output at all evidence positions acts as swapping γ.",
            Interchange("responsibilities", "hook_attn_out"),
        ),
        Claim(
            "responsibilities.probe",
            "γ can be read linearly from a layer at every evidence position.",
            Probe("responsibilities", control_task, window),
        ),
        Claim(
            "responsibilities.attention",
            "At every evidence position a head's pattern over lags 1 to m is γ.",
            Attention("responsibilities", lags),
        ),
        Claim(
            "responsibilities.weights",
            "A head's content score between tokens is the log of the transition.",
            Content(*column_normalised(task)),
        ),
        Claim(
            "mean_responsibility.interchange",
            "Swapping a layer's output at the last query acts as swapping the mean of γ.",
            Interchange("mean_responsibility", "hook_attn_out", LAST),
        ),
        Claim(
            "mean_responsibility.probe",
            "The mean of γ can be read linearly from a layer at the last query.",
            Probe("mean_responsibility", control_task, window, LAST),
        ),
        Claim(
            "mixture_weights.interchange",
            "Swapping a layer's attention pattern at the last query acts as swapping the weights.",
            Interchange("mixture_weights", "attn.hook_pattern", LAST),
        ),
        Claim(
            "mixture_weights.attention",
            "At the last query a head's pattern over the last m positions is the mixture weights.",
            Attention("mixture_weights", range(task.order), LAST),
        ),
        Claim(
            "prediction.estimator",
            "Predictions at the last query are those of one step of mirror descent.",
            Prediction(without_evidence),
        ),
    ]


def carriers(task: MTDTask) -> tuple[Carrier, ...]:
    """Responsibilities and their mean are written, the mixture weights attended with.

    Responsibilities are sought at all evidence positions but the last query: there, a later layer
    holds what was computed from all of them.
    """
    written = ("z", "mlp_out")
    return (
        Carrier("responsibilities", written, BUT_LAST),
        Carrier("mean_responsibility", written, LAST),
        Carrier("mixture_weights", ("pattern",), LAST),
    )


def without_evidence(task: MTDTask, tokens: Tokens) -> Predictions:
    """What uniform weights predict after the last position."""
    return estimators.predict(task, tokens, estimators.uniform_weights(task, tokens))


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
