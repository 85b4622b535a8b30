"""The one table by which every claim is decided, with its reason in words.

The floor of a claim is the largest of 0 and the upper ends of what must not score as well: a random
model, a control task, a wrong source. The first line that holds decides:

1. not applicable: the variable does not vary, or the test cannot be made;
2. not diagnostic: the construction does not pass, or something passes that must not;
3. refuted: the interval reaches no higher than the floor;
4. supported: the interval lies above the threshold and the floor, the dose within ``DOSES``, and
   the model predicts as the algorithm does;
5. partial: the interval lies above the floor, but one of these is missing;
6. inconclusive: the interval holds the floor.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from mtd_lens.defaults import THRESHOLD
from probes.statistics.intervals import Interval

DOSES = (0.8, 1.25)
"""Between which the dose's interval must lie."""

REFERENCE = 1e-6
"""The reference's score, 0, with room for rounding."""

SUPPORTED, PARTIAL, REFUTED = "supported", "partial", "refuted"
INCONCLUSIVE, NOT_DIAGNOSTIC = "inconclusive", "not_diagnostic"
NOT_APPLICABLE = "not_applicable"
ILLUSION = "illusion_suspected"
"""Of learned subspaces alone, in place of a verdict of the table; see ``mtd_lens.align``."""

IN_WORDS = {
    SUPPORTED: "the interval lies above the threshold and the floor, the dose is near 1, and the "
    "model predicts as the algorithm does",
    PARTIAL: "the interval lies above the floor, but one of these is missing",
    REFUTED: "the interval reaches no higher than the floor",
    INCONCLUSIVE: "the interval holds the floor: more sequences would tell",
    NOT_DIAGNOSTIC: "the test cannot tell: the construction fails it, or what must not pass does",
    NOT_APPLICABLE: "the variable does not vary on this task, or the test cannot be made",
}


@dataclass(frozen=True)
class Verdict:
    """What was decided of a claim.

    Attributes:
        name: A key of ``IN_WORDS``.
        reason: In words, with what would change it.
        floor: What the score must exceed.
    """

    name: str
    reason: str
    floor: float


def decide(
    score: Interval,
    beside: Mapping[str, Interval],
    ceiling: Interval | None,
    threshold: float = THRESHOLD,
    dose: Interval | None = None,
    refuted: str | None = None,
) -> Verdict:
    """Decide a claim.

    Args:
        score: Of the model.
        beside: By name in words, the scores of what must not pass: a random model, controls.
        ceiling: The construction's score; None where there is none.
        threshold: What a supported claim's interval must lie above.
        dose: How much of the source's value acts, if that was measured.
        refuted: A claim about the model's predictions that is refuted.
    """
    uppers = {"blind guessing": REFERENCE} | {name: found.high for name, found in beside.items()}
    highest = max(uppers, key=lambda name: uppers[name])
    floor = uppers[highest]
    floor_in_words = "the reference's score of 0"
    if highest in beside:
        floor_in_words = f"what {highest} may reach, {floor:.3f}"
    if ceiling is not None and ceiling.low <= threshold:
        reason = f"the construction itself scores {ceiling}, not above {threshold:g}"
        return Verdict(NOT_DIAGNOSTIC, reason, floor)
    if floor >= threshold:
        reason = f"{highest} scores {beside[highest]}, which reaches {threshold:g}"
        return Verdict(NOT_DIAGNOSTIC, reason, floor)
    if score.high <= floor:
        return Verdict(REFUTED, f"the interval reaches no higher than {floor_in_words}", floor)
    if score.low <= floor:
        reason = f"the interval holds {floor_in_words}; more sequences would tell"
        return Verdict(INCONCLUSIVE, reason, floor)
    missing = []
    if score.low <= threshold:
        missing.append(f"the interval does not lie above {threshold:g}")
    low, high = DOSES
    if dose is not None and not low <= dose.low <= dose.high <= high:
        missing.append(f"the dose is {dose}, not within {low:g} to {high:g}")
    if refuted is not None:
        missing.append(f"{refuted} is refuted")
    if missing:
        reason = f"above {floor_in_words}, but {' and '.join(missing)}"
        return Verdict(PARTIAL, reason, floor)
    reason = f"the interval lies above {threshold:g} and above {floor_in_words}"
    if dose is not None:
        reason += f", at a dose of {dose}"
    return Verdict(SUPPORTED, reason, floor)
