"""Results of every kind, as they were written."""

import json
from pathlib import Path

from drawn import made_fitted, made_inspection

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
}
MADE = {"Inspection": made_inspection, "FittedAlgorithm": made_fitted}
"""Those that were not written in the first form; they hold tensors, which have no equality."""


def stored(name):
    """A result of every kind."""
    if name in MADE:
        return MADE[name]()
    return KINDS[name].from_dict(FIRST_FORM[name])
