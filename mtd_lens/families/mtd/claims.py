"""What a scorecard tests of a model on an MTD task."""

from collections.abc import Callable
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

import probes
from mtd_lens.claims import Claim, Code, QueryTokens
from mtd_lens.contracts import BUT_LAST, LAST, Carrier
from mtd_lens.families.mtd import estimators
from mtd_lens.families.mtd.causal_model import MTDCausalModel
from mtd_lens.families.mtd.fused_model import FusedCausalModel, delivered
from mtd_lens.families.mtd.task import MTDTask
from mtd_lens.families.mtd.two_pass_model import TwoPassCausalModel
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

SAME_GIVEN_QUERY = "The same, with sources that share the query's own tokens."

Control = Callable[[Any, Tokens, str, int], Tensor]


def claims(task: MTDTask) -> list[Claim]:
    """The claims, in causal order."""
    window, mean = task.order + 1, "the mean of γ"
    swapped, scrubbed, *read = responsibility_claims(task)
    return [
        swapped,
        scrubbed,
        Claim(
            "responsibilities.injection",
            "γ written linearly into a layer at evidence positions acts as swapping γ.",
            Injection("responsibilities", "hook_attn_out", BUT_LAST),
            slow=True,
        ),
        *read,
        *statistic_claims("mean_responsibility", mean, mean),
        Claim(
            "mean_responsibility.injection",
            "The mean of γ, or its correction, written linearly into a layer acts as swapping it.",
            Injection("mean_responsibility", "hook_attn_out", LAST, given_query=True),
            slow=True,
        ),
        *probe_claims("mean_responsibility", mean, control_task, window),
        *weight_claims(task),
        predicted("one step of mirror descent"),
    ]


def responsibility_claims(task: MTDTask) -> list[Claim]:
    """Claims of the first responsibilities: swapped, scrubbed, and read in three ways."""
    return [
        Claim(
            "responsibilities.interchange",
            "Swapping a layer's output at all evidence positions but the last acts as swapping γ.",
            Interchange("responsibilities", "hook_attn_out", BUT_LAST, linear=True),
        ),
        Claim(
            "responsibilities.scrubbing",
            "At evidence positions a layer passes on γ and nothing else.",
            Scrubbing("responsibilities", "hook_attn_out", BUT_LAST, task.order + 1),
            slow=True,
        ),
        Claim(
            "responsibilities.probe",
            "γ can be read linearly from a layer at every evidence position.",
            Probe("responsibilities", control_task, task.order + 1),
        ),
        Claim(
            "responsibilities.attention",
            "At every evidence position a head's pattern over lags 1 to m is γ.",
            Attention("responsibilities", range(1, task.order + 1)),
        ),
        Claim(
            "responsibilities.weights",
            "A head's content score between tokens is the log of the transition.",
            Content(*column_normalised(task)),
        ),
    ]


def statistic_claims(variable: str, swapped: str, passed: str) -> list[Claim]:
    """Claims of what an algorithm keeps of the evidence, at the last query.

    Args:
        variable: The statistic.
        swapped: The same in words.
        passed: The same in words, after these.
    """
    return [
        Claim(
            f"{variable}.interchange",
            f"Swapping a layer's attention output at the last query acts as swapping {swapped}.",
            Interchange(variable, "hook_attn_out", LAST, linear=True),
        ),
        Claim(
            f"{variable}.interchange_given_query",
            SAME_GIVEN_QUERY,
            Interchange(variable, "hook_attn_out", LAST, given_query=True, linear=True),
        ),
        Claim(
            f"{variable}.scrubbing_given_query",
            f"At the last query a layer passes on {passed} and nothing else, given its tokens.",
            Scrubbing(variable, "hook_attn_out", LAST),
            slow=True,
        ),
    ]


def probe_claims(variable: str, words: str, control: Control, window: int) -> list[Claim]:
    """Claims that a statistic can be read at the last query.

    Args:
        variable: The statistic.
        words: The same in words.
        control: Makes the control task.
        window: How many last tokens are held beside it.
    """
    return [
        Claim(
            f"{variable}.probe",
            f"{words[0].upper()}{words[1:]} can be read linearly from a layer at the last query.",
            Probe(variable, control, window, LAST),
        ),
        Claim(
            f"{variable}.probe_given_query",
            "The same, among sequences that share the query's own tokens.",
            ProbeGivenQuery(variable, control),
        ),
    ]


def weight_claims(task: MTDTask) -> list[Claim]:
    """Claims of mixture weights that the last query attends to its parents with."""
    return [
        Claim(
            "mixture_weights.interchange",
            "Swapping a layer's attention pattern at the last query acts as swapping the weights.",
            Interchange("mixture_weights", "attn.hook_pattern", LAST),
        ),
        Claim(
            "mixture_weights.interchange_given_query",
            SAME_GIVEN_QUERY,
            Interchange("mixture_weights", "attn.hook_pattern", LAST, given_query=True),
        ),
        Claim(
            "mixture_weights.attention",
            "At the last query a head's pattern over the last m positions is the mixture weights.",
            Attention("mixture_weights", range(task.order), LAST),
        ),
    ]


def predicted(algorithm: str) -> Claim:
    """The claim of the predictions.

    Args:
        algorithm: Whose they are like, in words.
    """
    return Claim(
        "prediction.estimator",
        f"Predictions at the last query are like those of {algorithm}.",
        Prediction(without_evidence),
    )


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
    variable = "mean_responsibility"
    return [
        code(task, "correction", variable, lambda c, t: c.run(t)[variable], rival=False),
        code(task, "updated weights", variable, lambda c, t: c.run(t)["mixture_weights"]),
        code(task, "mean log likelihood", variable, lambda _, t: mean_log_likelihood(task, t)),
    ]


def code(
    task: MTDTask,
    name: str,
    variable: str,
    weights: Callable[[Any, Tokens], WeightsPerQuery],
    *,
    rival: bool = True,
) -> Code:
    """``Σ_g (weights(g) - 1/m) π[parent_g]`` at every query, as a form that a variable may have.

    Args:
        task: The task.
        name: Of the code.
        variable: That it may be a form of.
        weights: Of a causal model, in sequences.
        rival: Whether it is another algorithm's.
    """

    def values(causal_model: Any, tokens: Tokens) -> Tensor:
        return delivered(weights(causal_model, tokens), estimators.parent_rows(task, tokens))

    return Code(name, variable, values, rival=rival)


def mean_log_likelihood(task: MTDTask, tokens: Tokens) -> WeightsPerQuery:
    """The running mean of ``log p_k(g)``; where p is 0, the least possible one stands for it."""
    floor = task.transition[task.transition > 0].min()
    logs = estimators.lag_likelihoods(task, tokens).clamp_min(float(floor)).log()
    return estimators.running_mean(logs)


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
    causal_model: MTDCausalModel | FusedCausalModel | TwoPassCausalModel,
    tokens: Tokens,
    variable: str,
    seed: int,
) -> Float[Tensor, "sequence query output"]:
    """The control task of a variable: random responsibilities through the same algorithm.

    An arbitrary point of the simplex for each token window stands in for γ, so that the control of
    the mean is a mean of controls.
    """
    decoys = window_decoys(causal_model.task, tokens, seed)
    return causal_model.do(responsibilities=decoys).run(tokens)[variable]


def window_decoys(task: MTDTask, tokens: Tokens, seed: int) -> WeightsPerQuery:
    """An arbitrary point of the simplex of lags for each window of a token and its parents.

    Args:
        task: The task.
        tokens: ``[sequence, position]``.
        seed: Of the points.
    """
    positions = tuple(range(task.order, tokens.shape[1]))
    windows = probes.token_windows(tokens, positions, task.order + 1)
    return probes.random_simplex_map(windows, task.order, seed)
