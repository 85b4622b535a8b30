"""What a scorecard tests of a model that is held against the posterior over nodes."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mtd_lens.claims import Claim
from mtd_lens.contracts import BUT_LAST, LAST, AnalyticPattern, Carrier
from mtd_lens.families.mtd.chains import chain_claims
from mtd_lens.families.mtd.claims import (
    SAME_GIVEN_QUERY,
    predicted,
    probe_claims,
    statistic_claims,
    window_decoys,
)
from mtd_lens.families.mtd.posterior_model import PosteriorCausalModel, explained
from mtd_lens.families.mtd.task import MTDTask
from mtd_lens.measures import Attention, Interchange, Probe, Scrubbing
from mtd_lens.measures.words import last_write
from mtd_lens.shapes import Tokens


def posterior_claims(task: MTDTask, rule: str = "quadrature") -> list[Claim]:
    """The claims of the posterior under a rule's nodes, in causal order.

    Swapping the weights at the last query would act as swapping the sums, from which they follow,
    at the same layers: for the weights there is no such claim. With two lags there is one free
    weight, and sums over evidence of anything at all can be read where these are: no claim says
    that they can.
    """
    window, n_nodes = task.order + 1, len(PosteriorCausalModel(task, rule=rule).rule_nodes[0])

    def first_positions(length: int) -> Sequence[int]:
        """How far before the last query the positions lie that stand for nodes."""
        return range(length - 1, length - 1 - n_nodes, -1)

    sums = "total_log_likelihoods"
    return [
        Claim(
            "node_log_likelihoods.interchange",
            "Swapping what a layer writes last at all evidence positions but the last acts as "
            "swapping each node's log-likelihood.",
            Interchange("node_log_likelihoods", last_write, BUT_LAST, linear=True),
        ),
        Claim(
            "node_log_likelihoods.scrubbing",
            "At evidence positions a layer passes on the nodes' log-likelihoods and nothing else.",
            Scrubbing("node_log_likelihoods", last_write, BUT_LAST, window),
            slow=True,
        ),
        Claim(
            "node_log_likelihoods.probe",
            "The nodes' log-likelihoods can be read linearly at every evidence position.",
            Probe("node_log_likelihoods", posterior_control, window),
        ),
        *statistic_claims(sums, "their sums", "the sums"),
        *(probe_claims(sums, "the sums", posterior_control, window) if task.order > 2 else ()),
        Claim(
            "node_posterior.interchange",
            "Swapping a layer's attention pattern at the last query acts as swapping the "
            "posterior over nodes.",
            Interchange("node_posterior", "attn.hook_pattern", LAST),
        ),
        Claim(
            "node_posterior.interchange_given_query",
            SAME_GIVEN_QUERY,
            Interchange("node_posterior", "attn.hook_pattern", LAST, given_query=True),
        ),
        Claim(
            "node_posterior.attention",
            "At the last query a head's pattern over the first positions is the posterior over "
            "nodes.",
            Attention("node_posterior", first_positions, LAST),
        ),
        Claim(
            "mixture_weights.scrubbing_given_query",
            "At the last query a layer passes on the posterior mean and nothing else, given its "
            "tokens.",
            Scrubbing("mixture_weights", "hook_attn_out", LAST),
            slow=True,
        ),
        Claim(
            "mixture_weights.probe",
            "The posterior mean can be read linearly from a layer at the last query.",
            Probe("mixture_weights", posterior_control, window, LAST),
        ),
        *chain_claims(task, "posterior"),
        predicted("the posterior mean"),
    ]


def posterior_carriers(task: MTDTask) -> tuple[Carrier, ...]:
    """Log-likelihoods, their sums and the weights are written, the posterior attended with."""
    written = ("z", "mlp_out")
    return (
        Carrier("node_log_likelihoods", written, BUT_LAST),
        Carrier("total_log_likelihoods", written, LAST),
        Carrier("node_posterior", ("pattern",), LAST),
        Carrier("mixture_weights", written, LAST),
    )


def posterior_control(
    causal_model: PosteriorCausalModel, tokens: Tokens, variable: str, seed: int
) -> Float[Tensor, "sequence query output"]:
    """The control task of a variable: random likelihoods through the same algorithm.

    An arbitrary point of the simplex for each token window stands in for the lags' likelihoods.
    """
    held = explained(causal_model, window_decoys(causal_model.task, tokens, seed))
    return causal_model.do(node_log_likelihoods=held).run(tokens)[variable]


def posterior_patterns(
    causal_model: PosteriorCausalModel, tokens: Tokens
) -> tuple[AnalyticPattern, ...]:
    """The attention that computes the sums and the posterior, a head a variable.

    The sums are 1/T of each piece of evidence, with the rest at position 0; the posterior lies on
    the first positions, at queries that all of these precede.

    Args:
        causal_model: A posterior over nodes.
        tokens: ``[sequence, position]``.
    """
    task, length = causal_model.task, tokens.shape[1]
    posterior = causal_model.run(tokens)["node_posterior"]
    n_nodes = posterior.shape[-1]
    query, key = torch.arange(length)[:, None], torch.arange(length)
    shares = ((key >= task.order) & (key <= query)).to(posterior) / task.seq_len
    shares[:, 0] = 1 - shares.sum(1)
    first = max(n_nodes - 1, task.order)
    chosen = posterior.new_full((len(tokens), length, length), torch.nan)
    chosen[:, first:] = 0.0
    chosen[:, first:, :n_nodes] = posterior[:, first - task.order :]
    return (
        AnalyticPattern("sum over evidence", "total_log_likelihoods", shares.expand_as(chosen)),
        AnalyticPattern("posterior over nodes", "node_posterior", chosen),
    )
