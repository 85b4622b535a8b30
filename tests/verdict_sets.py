"""Which claims of a scorecard hold by their own figures."""

from mtd_lens.verdicts import PARTIAL, SUPPORTED


def supported(card):
    return {claim.id for claim in card if claim.verdict == SUPPORTED}


def held(card):
    """Claims that are supported, or would be if the model's predictions were not refuted."""
    found = supported(card)
    for claim in card:
        above = claim.verdict == PARTIAL and claim.low > max(claim.threshold, claim.floor)
        if above and claim.reason.endswith("is refuted") and "dose" not in claim.reason:
            found.add(claim.id)
    return found


FITTED = {"correction.scores", "correction.competing_scores", "correction.one_code"}
"""Claims that a form fits, which the construction has nearly: γ of two lags is nearly a sum."""


def attainable(claim):
    """The score of a model that computes the algorithm exactly, for matches as near as there were.

    Scrubbing has a noise floor: what the algorithm itself changes by for such matches. Forms are
    fitted on few sequences.
    """
    return 1 - claim.details.get("noise_floor", 0.0) - (0.005 if claim.id in FITTED else 0.0)
