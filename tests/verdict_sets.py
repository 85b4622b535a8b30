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


def attainable(claim):
    """The score of a model that computes the algorithm exactly, for matches as near as there were.

    Scrubbing has a noise floor: what the algorithm itself changes by for such matches.
    """
    return 1 - claim.details.get("noise_floor", 0.0)
