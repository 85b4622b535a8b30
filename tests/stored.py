"""Results of every kind, as they were written."""

import json
from dataclasses import replace
from pathlib import Path

from drawn import made_competition, made_fitted, made_inspection

import mtd_lens

FIRST_FORM = json.loads((Path(__file__).parent / "first_form.json").read_text("utf-8"))
"""Results of small models as ``to_json`` wrote them at first, their lists cut short."""

KINDS = {
    "Scorecard": mtd_lens.Scorecard,
    "Comparison": mtd_lens.Comparison,
    "Localization": mtd_lens.Localization,
    "AlignmentReport": mtd_lens.AlignmentReport,
    "WeightReading": mtd_lens.WeightReading,
    "Inspection": mtd_lens.Inspection,
    "FittedAlgorithm": mtd_lens.FittedAlgorithm,
    "Competition": mtd_lens.Competition,
    "ScorecardComparison": mtd_lens.ScorecardComparison,
}


def made_comparison_of_scorecards():
    """Of a card, one of another model of which a claim is lower, and one of another seed."""
    card = KINDS["Scorecard"].from_dict(FIRST_FORM["Scorecard"])
    first, *rest = card.claims
    lower = replace(first, score=0.1, low=0.0, high=0.2, verdict="partial")
    other = replace(card, model="t/other", claims=(lower, *rest))
    return mtd_lens.compare_scorecards([card, other, replace(card, seed=9, claims=(*rest,))])


MADE = {
    "Inspection": made_inspection,
    "FittedAlgorithm": made_fitted,
    "Competition": made_competition,
    "ScorecardComparison": made_comparison_of_scorecards,
}
"""Those that were not written in the first form."""

TENSORS = ("Inspection", "FittedAlgorithm")
"""Those that hold tensors, which have no equality."""


def stored(name):
    """A result of every kind."""
    if name in MADE:
        return MADE[name]()
    return KINDS[name].from_dict(FIRST_FORM[name])
