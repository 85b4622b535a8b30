"""What a scorecard tests of a model that is held against two passes."""

from jaxtyping import Float
from torch import Tensor

from mtd_lens.claims import Claim
from mtd_lens.contracts import BUT_LAST, LAST, AnalyticPattern, Carrier
from mtd_lens.families.mtd.analysis import on_lags, over_evidence
from mtd_lens.families.mtd.claims import (
    position_class,
    predicted,
    probe_claims,
    responsibility_claims,
    statistic_claims,
    weight_claims,
    window_decoys,
)
from mtd_lens.families.mtd.task import MTDTask
from mtd_lens.families.mtd.two_pass_model import TwoPassCausalModel, under
from mtd_lens.measures import Attention, Interchange, Probe, Scrubbing
from mtd_lens.shapes import Tokens

BEFORE_LAST = slice(-2, -1)


def two_pass_claims(task: MTDTask) -> list[Claim]:
    """The claims, in causal order.

    Prefix weights have none: they stand nowhere by themselves, but act within the pattern that is
    the second responsibilities. The running mean is swapped at later positions alone: at all of
    them together, to swap it would be to swap the responsibilities that it is of. It is probed at
    a single one, since the coordinates that hold a lag differ between classes of positions.
    """
    window, later = task.order + 1, later_half(task)
    mean = "the mean of the second responsibilities"
    return [
        *responsibility_claims(task),
        Claim(
            "mean_responsibility.interchange",
            "Swapping a layer's output at the later half of the evidence positions but the last "
            "acts as swapping the running mean of γ.",
            Interchange("mean_responsibility", "hook_attn_out", later, linear=True),
        ),
        Claim(
            "mean_responsibility.scrubbing",
            "At the later half of the evidence positions a layer passes on the running mean of γ "
            "and nothing else.",
            Scrubbing("mean_responsibility", "hook_attn_out", later, window),
            slow=True,
        ),
        Claim(
            "mean_responsibility.probe",
            "The running mean of γ can be read linearly from a layer at the last evidence position "
            "before the query.",
            Probe("mean_responsibility", two_pass_control, window, BEFORE_LAST),
        ),
        Claim(
            "second_responsibilities.interchange",
            "Swapping a layer's output at all evidence positions but the last acts as swapping the "
            "second responsibilities.",
            Interchange("second_responsibilities", "hook_attn_out", BUT_LAST, linear=True),
        ),
        Claim(
            "second_responsibilities.scrubbing",
            "At evidence positions a layer passes on the second responsibilities and nothing else.",
            Scrubbing("second_responsibilities", "hook_attn_out", BUT_LAST, window),
            slow=True,
        ),
        Claim(
            "second_responsibilities.probe",
            "The second responsibilities can be read linearly from a layer at every evidence "
            "position.",
            Probe("second_responsibilities", two_pass_control, window),
        ),
        Claim(
            "second_responsibilities.attention",
            "At every evidence position a head's pattern over lags 1 to m is the second "
            "responsibilities.",
            Attention("second_responsibilities", range(1, window)),
        ),
        *statistic_claims("second_mean_responsibility", mean, "that mean"),
        *probe_claims("second_mean_responsibility", "that mean", two_pass_control, window),
        *weight_claims(task),
        predicted("two passes"),
    ]


def later_half(task: MTDTask) -> slice:
    """The later half of the queries but the last."""
    return slice((task.seq_len - task.order) // 2, -1)


def two_pass_carriers(task: MTDTask) -> tuple[Carrier, ...]:
    """Both responsibilities and their means are written, the mixture weights attended with."""
    written, by_class = ("z", "mlp_out"), position_class(task)
    return (
        Carrier("responsibilities", written, BUT_LAST, by_class),
        Carrier("mean_responsibility", written, later_half(task), by_class),
        Carrier("second_responsibilities", written, BUT_LAST, by_class),
        Carrier("second_mean_responsibility", written, LAST),
        Carrier("mixture_weights", ("pattern",), LAST),
    )


def two_pass_control(
    causal_model: TwoPassCausalModel, tokens: Tokens, variable: str, seed: int
) -> Float[Tensor, "sequence query output"]:
    """The control task of a variable: random likelihoods through the same algorithm.

    An arbitrary point of the simplex for each token window stands in for the lags' likelihoods, of
    both passes.
    """
    decoys = window_decoys(causal_model.task, tokens, seed)
    first = causal_model.do(responsibilities=decoys)
    second = under(first.run(tokens)["prefix_weights"], decoys)
    return first.do(second_responsibilities=second).run(tokens)[variable]


def two_pass_patterns(
    causal_model: TwoPassCausalModel, tokens: Tokens
) -> tuple[AnalyticPattern, ...]:
    """The attention that computes each variable exactly, a head a variable.

    Args:
        causal_model: Two passes.
        tokens: ``[sequence, position]``.
    """
    found = causal_model.run(tokens)
    first, second = (
        on_lags(found[name], 1) for name in ("responsibilities", "second_responsibilities")
    )
    average, mixed = over_evidence(causal_model.task, tokens), on_lags(found["mixture_weights"], 0)
    return (
        AnalyticPattern("responsibilities", "responsibilities", first),
        AnalyticPattern("uniform average", "mean_responsibility", average),
        AnalyticPattern("second responsibilities", "second_responsibilities", second),
        AnalyticPattern("second average", "second_mean_responsibility", average),
        AnalyticPattern("mixture weights", "mixture_weights", mixed),
    )
