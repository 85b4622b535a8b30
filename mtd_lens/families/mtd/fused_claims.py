"""What a scorecard tests of a model that is held against mirror descent to first order."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

import probes
from mtd_lens.claims import Claim, Code
from mtd_lens.contracts import BUT_LAST, LAST, AnalyticPattern, Carrier
from mtd_lens.families.mtd import estimators
from mtd_lens.families.mtd.claims import mean_log_likelihood, without_evidence
from mtd_lens.families.mtd.fused_model import FusedCausalModel, delivered
from mtd_lens.families.mtd.score_claims import ANY, COMPETING, ONE_CODE, ScoreForm
from mtd_lens.families.mtd.task import MTDTask
from mtd_lens.measures import (
    Injection,
    Interchange,
    MeanPattern,
    Prediction,
    Probe,
    ProbeGivenQuery,
    Scrubbing,
)
from mtd_lens.shapes import Tokens


def fused_claims(task: MTDTask) -> list[Claim]:
    """The claims, in causal order."""
    window = task.order + 1
    return [
        Claim(
            "responsibilities.interchange",
            "Swapping a layer's output at all evidence positions but the last acts as swapping γ.",
            Interchange("responsibilities", "hook_attn_out", BUT_LAST, linear=True),
        ),
        Claim(
            "responsibilities.probe",
            "γ can be read linearly from a layer at every evidence position.",
            Probe("responsibilities", fused_control, window),
        ),
        Claim(
            "correction.interchange",
            "Swapping a layer's attention output at the last query acts as swapping the "
            "correction.",
            Interchange("correction", "hook_attn_out", LAST, linear=True),
        ),
        Claim(
            "correction.interchange_given_query",
            "The same, with sources that share the query's own tokens.",
            Interchange("correction", "hook_attn_out", LAST, given_query=True, linear=True),
        ),
        Claim(
            "correction.scrubbing_given_query",
            "At the last query a layer passes on the correction and nothing else, given its "
            "tokens.",
            Scrubbing("correction", "hook_attn_out", LAST),
            slow=True,
        ),
        Claim(
            "correction.injection",
            "The correction written linearly into a layer at the last query acts as swapping it.",
            Injection("correction", "hook_attn_out", LAST, given_query=True),
            slow=True,
        ),
        Claim(
            "correction.pattern",
            "What the query's own tokens do not say of the correction comes in through a layer's "
            "attention pattern at the last query.",
            MeanPattern(),
            slow=True,
        ),
        Claim(
            "correction.scores",
            "That layer's scores depend on pairs of tokens before each key and there, by the "
            "query's parents.",
            ScoreForm(ANY),
            slow=True,
        ),
        Claim(
            "correction.competing_scores",
            "They do so by a code of the pair at each lag times one of the query's parent there, "
            "less its mean over lags.",
            ScoreForm(COMPETING),
            slow=True,
        ),
        Claim(
            "correction.one_code",
            "What pairs do by their own parent has rank one, with one code of parents for all "
            "lags.",
            ScoreForm(ONE_CODE),
            slow=True,
        ),
        Claim(
            "correction.probe",
            "The correction can be read linearly from a layer at the last query.",
            Probe("correction", fused_control, window, LAST),
        ),
        Claim(
            "correction.probe_given_query",
            "The same, among sequences that share the query's own tokens.",
            ProbeGivenQuery("correction", fused_control),
        ),
        Claim(
            "prediction.estimator",
            "Predictions at the last query are like those of one step to first order.",
            Prediction(without_evidence),
        ),
    ]


def fused_codes(task: MTDTask) -> list[Code]:
    """Rivals of the correction: of weights that are updated already, of unnormalised evidence."""

    def code(name: str, weights: Callable[[FusedCausalModel, Tokens], Tensor]) -> Code:
        return Code(
            name,
            "correction",
            lambda causal, tokens: delivered(
                weights(causal, tokens), estimators.parent_rows(task, tokens)
            ),
            rival=True,
        )

    def updated(causal: FusedCausalModel, tokens: Tokens) -> Tensor:
        gamma = causal.run(tokens)["responsibilities"]
        counts = torch.arange(1, gamma.shape[1] + 1).to(gamma)[:, None]
        return (causal.beta * gamma.cumsum(1) / counts).softmax(-1)

    return [
        code("updated weights", updated),
        code("mean log likelihood", lambda _, tokens: mean_log_likelihood(task, tokens)),
    ]


def fused_carriers(task: MTDTask) -> tuple[Carrier, ...]:
    """Both variables are written to the stream."""
    written = ("z", "mlp_out")
    return (
        Carrier("responsibilities", written, BUT_LAST),
        Carrier("correction", written, LAST),
    )


def fused_control(
    causal_model: FusedCausalModel, tokens: Tokens, variable: str, seed: int
) -> Float[Tensor, "sequence query output"]:
    """The control task of a variable: random responsibilities through the same algorithm.

    An arbitrary point of the simplex for each token window stands in for γ.
    """
    order = causal_model.task.order
    positions = tuple(range(order, tokens.shape[1]))
    windows = probes.token_windows(tokens, positions, order + 1)
    decoys = probes.random_simplex_map(windows, order, seed)
    return causal_model.do(responsibilities=decoys).run(tokens)[variable]


def fused_patterns(
    causal_model: FusedCausalModel, tokens: Tokens
) -> tuple[AnalyticPattern, AnalyticPattern]:
    """The attention that computes each variable, a head a variable.

    Responsibilities lie on the keys 1 to m before an evidence position. What computes the
    correction is half at position 0 and half even over the evidence, but for terms of order ε.

    Args:
        causal_model: One step to first order.
        tokens: ``[sequence, position]``.
    """
    order, length = causal_model.task.order, tokens.shape[1]
    gamma = causal_model.run(tokens)["responsibilities"]
    own = gamma.new_zeros(len(gamma), length, length)
    own[:, :order] = torch.nan
    halves = own.clone()
    queries = torch.arange(order, length)
    for lag in range(1, order + 1):
        own[:, queries, queries - lag] = gamma[..., lag - 1]
    for query in range(order, length):
        halves[:, query, 0] = 0.5
        halves[:, query, order : query + 1] = 0.5 / (query + 1 - order)
    return (
        AnalyticPattern("responsibilities", "responsibilities", own),
        AnalyticPattern("even, half at rest", "correction", halves),
    )
