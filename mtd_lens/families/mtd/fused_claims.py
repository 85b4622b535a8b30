"""What a scorecard tests of a model that is held against mirror descent to first order."""

from torch import Tensor

from mtd_lens.claims import Claim, Code
from mtd_lens.contracts import BUT_LAST, LAST, AnalyticPattern, Carrier
from mtd_lens.families.mtd import estimators
from mtd_lens.families.mtd.analysis import on_lags, over_evidence
from mtd_lens.families.mtd.claims import (
    code,
    control_task,
    mean_log_likelihood,
    predicted,
    probe_claims,
    responsibility_claims,
    statistic_claims,
)
from mtd_lens.families.mtd.fused_model import FusedCausalModel
from mtd_lens.families.mtd.score_claims import ANY, COMPETING, ONE_CODE, ScoreForm
from mtd_lens.families.mtd.task import MTDTask
from mtd_lens.measures import Injection, MeanPattern
from mtd_lens.shapes import Tokens


def fused_claims(task: MTDTask) -> list[Claim]:
    """The claims, in causal order; of the responsibilities none says how they are computed."""
    correction = "the correction"
    return [
        *(c for c in responsibility_claims(task) if c.id.endswith(("interchange", "probe"))),
        *statistic_claims("correction", correction, correction),
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
        *probe_claims("correction", correction, control_task, task.order + 1),
        predicted("one step to first order"),
    ]


def fused_codes(task: MTDTask) -> list[Code]:
    """Rivals of the correction: of weights that are updated already, of unnormalised evidence."""

    def updated(causal: FusedCausalModel, tokens: Tokens) -> Tensor:
        mean = estimators.running_mean(causal.run(tokens)["responsibilities"])
        return (causal.beta * mean).softmax(-1)

    return [
        code(task, "updated weights", "correction", updated),
        code(task, "mean log likelihood", "correction", lambda _, t: mean_log_likelihood(task, t)),
    ]


def fused_carriers(task: MTDTask) -> tuple[Carrier, ...]:
    """Both variables are written to the stream."""
    written = ("z", "mlp_out")
    return (
        Carrier("responsibilities", written, BUT_LAST),
        Carrier("correction", written, LAST),
    )


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
    own = on_lags(causal_model.run(tokens)["responsibilities"], 1)
    halves = over_evidence(causal_model.task, tokens) / 2
    halves[:, :, 0] += 0.5
    return (
        AnalyticPattern("responsibilities", "responsibilities", own),
        AnalyticPattern("even, half at rest", "correction", halves),
    )
