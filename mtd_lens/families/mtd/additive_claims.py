"""What a scorecard tests of a model that is held against additive evidence."""

import torch
from jaxtyping import Float
from torch import Tensor

from mtd_lens.additive import Additive
from mtd_lens.claims import Claim
from mtd_lens.contracts import BUT_LAST, LAST, Algorithm, AnalyticPattern, Carrier
from mtd_lens.errors import ArgumentError
from mtd_lens.families.mtd import estimators
from mtd_lens.families.mtd.additive_model import (
    AdditiveCausalModel,
    check_size,
    fit_additive,
    sizes,
)
from mtd_lens.families.mtd.claims import (
    predicted,
    query_tokens,
    statistic_claims,
    window_decoys,
)
from mtd_lens.families.mtd.task import MTDTask
from mtd_lens.measures import Interchange, Probe, ProbeGivenQuery, Scrubbing
from mtd_lens.measures.words import last_write
from mtd_lens.shapes import Tokens

NAME, ID = "additive evidence", "additive"


def additive_algorithm(fitted: AdditiveCausalModel) -> Algorithm:
    """Additive evidence as an algorithm whose causal model is the fitted one, whatever the model.

    Args:
        fitted: The causal model.
    """

    def fit(task: MTDTask, tokens: Tensor, predictions: Tensor) -> AdditiveCausalModel:
        if task != fitted.task:
            raise ArgumentError(
                f"additive evidence was fitted on {fitted.task!r}, and is asked for on {task!r}. "
                "Use fit_algorithm(model, task) with the task that it is held against."
            )
        return fitted

    return Algorithm(
        name=NAME,
        id=ID,
        fit=fit,
        claims=additive_claims,
        carriers=additive_carriers,
        control=additive_control,
        patterns=additive_patterns,
        query=query_tokens,
        statistic="total_evidence",
    )


def additive_claims(task: MTDTask) -> list[Claim]:
    """The claims, in causal order."""
    window = task.order + 1
    return [
        Claim(
            "evidence.interchange",
            "Swapping what a layer writes last at all evidence positions but the last acts as "
            "swapping the evidence.",
            Interchange("evidence", last_write, BUT_LAST, linear=True),
        ),
        Claim(
            "evidence.scrubbing",
            "At evidence positions a layer passes on the evidence and nothing else.",
            Scrubbing("evidence", last_write, BUT_LAST, window),
            slow=True,
        ),
        Claim(
            "evidence.probe",
            "The evidence can be read linearly at every evidence position.",
            Probe("evidence", additive_control, window),
        ),
        *statistic_claims("total_evidence", "the sum", "the sum"),
        Claim(
            "total_evidence.probe_given_query",
            "The sum can be read linearly from a layer among sequences that share the query's own "
            "tokens.",
            ProbeGivenQuery("total_evidence", additive_control),
        ),
        predicted("the fitted sum of evidence"),
    ]


def additive_carriers(task: MTDTask) -> tuple[Carrier, ...]:
    """Evidence and its sum are written, the mixture weights attended with."""
    written = ("z", "mlp_out")
    return (
        Carrier("evidence", written, BUT_LAST),
        Carrier("total_evidence", written, LAST),
        Carrier("mixture_weights", ("pattern",), LAST),
    )


def additive_control(
    causal_model: AdditiveCausalModel, tokens: Tokens, variable: str, seed: int
) -> Float[Tensor, "sequence query output"]:
    """The control task of a variable: random evidence through the same algorithm.

    An arbitrary point of the simplex for each token window, centred over lags, stands in for it.
    """
    task = causal_model.task
    decoys = window_decoys(task, tokens, seed) - 1 / task.order
    return causal_model.do(evidence=decoys).run(tokens)[variable]


def additive_patterns(
    causal_model: AdditiveCausalModel, tokens: Tokens
) -> tuple[AnalyticPattern, ...]:
    """The attention that adds up the evidence: what positions weigh, as shares at each query.

    It is a pattern only where no weight is negative; else it is left out.

    Args:
        causal_model: Additive evidence.
        tokens: ``[sequence, position]``.
    """
    weights, order, length = causal_model.position_weights, causal_model.task.order, tokens.shape[1]
    if (weights < 0).any() or weights[0] == 0:
        return ()
    shares = weights.new_zeros(length, length)
    shares[:order] = torch.nan
    for query in range(order, length):
        own = weights[: query + 1 - order].flip(0)
        shares[query, order : query + 1] = own / own.sum()
    values = shares.to(tokens.device).expand(len(tokens), -1, -1)
    return (AnalyticPattern("weighted sum over evidence", "total_evidence", values),)


def rules(task: MTDTask, tokens: Tokens) -> dict[str, Float[Tensor, "sequence evidence lag"]]:
    """What one step and the product of likelihoods add up, each up to a factor.

    Args:
        task: The task.
        tokens: ``[sequence, position]``.
    """
    likelihoods = estimators.lag_likelihoods(task, tokens)
    least = float(task.transition[task.transition > 0].min())
    return {
        "γ": estimators.responsibilities(task, tokens),
        "log p": likelihoods.clamp_min(least).log(),
    }


ADDITIVE = Additive(
    sizes=sizes,
    check=check_size,
    fit=fit_additive,
    restore=AdditiveCausalModel,
    algorithm=additive_algorithm,
    rules=rules,
)
