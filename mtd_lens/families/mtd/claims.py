"""What a scorecard tests of a model on an MTD task."""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

import probes
from mtd_lens.claims import Claim, Code, QueryTokens
from mtd_lens.contracts import BUT_LAST, LAST, Carrier
from mtd_lens.families.mtd import estimators
from mtd_lens.families.mtd.causal_model import MTDCausalModel
from mtd_lens.families.mtd.task import MTDTask
from mtd_lens.measures import (
    Attention,
    Content,
    Injection,
    Interchange,
    Prediction,
    Probe,
    ProbeGivenQuery,
    Scrubbing,
)
from mtd_lens.shapes import Predictions, Tokens, WeightsPerQuery


def claims(task: MTDTask) -> list[Claim]:
    """The claims, in causal order."""
    window, lags = task.order + 1, range(1, task.order + 1)
    return [
        Claim(
            "responsibilities.interchange",
            "Swapping a layer's output at all evidence positions but the last acts as swapping γ.",
            Interchange("responsibilities", "hook_attn_out", BUT_LAST, linear=True),
        ),
        Claim(
            "responsibilities.scrubbing",
            "At evidence positions a layer passes on γ and nothing else.",
            Scrubbing("responsibilities", "hook_attn_out", BUT_LAST, window),
            slow=True,
        ),
        Claim(
            "responsibilities.injection",
            "γ written linearly into a layer at evidence positions acts as swapping γ.",
            Injection("responsibilities", "hook_attn_out", BUT_LAST),
            slow=True,
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
            Interchange("mean_responsibility", "hook_attn_out", LAST, linear=True),
        ),
        Claim(
            "mean_responsibility.interchange_given_query",
            "The same, with sources that share the query's own tokens.",
            Interchange(
                "mean_responsibility", "hook_attn_out", LAST, given_query=True, linear=True
            ),
        ),
        Claim(
            "mean_responsibility.scrubbing_given_query",
            "At the last query a layer passes on the mean of γ and nothing else, given its tokens.",
            Scrubbing("mean_responsibility", "hook_attn_out", LAST),
            slow=True,
        ),
        Claim(
            "mean_responsibility.injection",
            "The mean of γ, or its correction, written linearly into a layer acts as swapping it.",
            Injection("mean_responsibility", "hook_attn_out", LAST, given_query=True),
            slow=True,
        ),
        Claim(
            "mean_responsibility.probe",
            "The mean of γ can be read linearly from a layer at the last query.",
            Probe("mean_responsibility", control_task, window, LAST),
        ),
        Claim(
            "mean_responsibility.probe_given_query",
            "The same, among sequences that share the query's own tokens.",
            ProbeGivenQuery("mean_responsibility", control_task),
        ),
        Claim(
            "mixture_weights.interchange",
            "Swapping a layer's attention pattern at the last query acts as swapping the weights.",
            Interchange("mixture_weights", "attn.hook_pattern", LAST),
        ),
        Claim(
            "mixture_weights.interchange_given_query",
            "The same, with sources that share the query's own tokens.",
            Interchange("mixture_weights", "attn.hook_pattern", LAST, given_query=True),
        ),
        Claim(
            "mixture_weights.attention",
            "At the last query a head's pattern over the last m positions is the mixture weights.",
            Attention("mixture_weights", range(task.order), LAST),
        ),
        Claim(
            "prediction.estimator",
            "Predictions at the last query are like those of one step of mirror descent.",
            Prediction(without_evidence),
        ),
    ]


def query_tokens(task: MTDTask) -> QueryTokens:
    """The m parents of what comes next."""

    def possible(tokens: Tokens) -> Bool[Tensor, " sequence"]:
        windows = tokens.unfold(1, task.order + 1, 1)
        likelihoods = task.transition.to(tokens.device)[windows[..., :-1], windows[..., -1:]]
        return (likelihoods > 0).any(-1).all(-1)

    return QueryTokens(task.order, possible)


def codes(task: MTDTask) -> list[Code]:
    """What the mean responsibility adds to the prediction, to first order, and its rivals.

    The prediction is ``(1/m) Σ_g π[parent_g] + (β/m) Σ_g (S(g) - 1/m) π[parent_g] + …``: the second
    term, without its factor, is the correction.
    """

    def delivered(
        weights: Callable[[MTDCausalModel, Tokens], Tensor],
    ) -> Callable[[MTDCausalModel, Tokens], Tensor]:
        """``Σ_g (weights(g) - 1/m) π[parent_g]`` at every query."""

        def values(causal_model: MTDCausalModel, tokens: Tokens) -> Tensor:
            rows = estimators.parent_rows(task, tokens)
            change = weights(causal_model, tokens) - 1 / task.order
            return torch.einsum("nql,nqlb->nqb", change, rows)

        return values

    return [
        Code(
            "correction",
            "mean_responsibility",
            delivered(lambda c, t: c.run(t)["mean_responsibility"]),
        ),
        Code(
            "updated weights",
            "mean_responsibility",
            delivered(lambda c, t: c.run(t)["mixture_weights"]),
            rival=True,
        ),
        Code(
            "mean log likelihood",
            "mean_responsibility",
            delivered(lambda _, tokens: mean_log_likelihood(task, tokens)),
            rival=True,
        ),
    ]


def mean_log_likelihood(task: MTDTask, tokens: Tokens) -> WeightsPerQuery:
    """The running mean of ``log p_k(g)``; where p is 0, the least possible one stands for it."""
    floor = task.transition[task.transition > 0].min()
    logs = estimators.lag_likelihoods(task, tokens).clamp_min(float(floor)).log()
    counts = torch.arange(1, logs.shape[1] + 1).to(logs)[:, None]
    return logs.cumsum(1) / counts


def carriers(task: MTDTask) -> tuple[Carrier, ...]:
    """Responsibilities and their mean are written, the mixture weights attended with.

    Responsibilities are sought at all evidence positions but the last query: there, a later layer
    holds what was computed from all of them. A model with absolute positions may have a head for
    each class of positions modulo the order.
    """
    written = ("z", "mlp_out")
    return (
        Carrier("responsibilities", written, BUT_LAST, position_class(task)),
        Carrier("mean_responsibility", written, LAST),
        Carrier("mixture_weights", ("pattern",), LAST),
    )


def position_class(task: MTDTask) -> Callable[[int], str]:
    """The class of a position modulo the order, in words."""
    return lambda position: f"k mod {task.order} = {position % task.order}"


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
