"""Named MTD tasks, stored with the values of their transitions."""

import json
from importlib import resources

from mtd_lens.families.mtd.task import MTDTask

PRESETS = ("mtd-q3-m2-t32", "mtd-q5-m3-t32", "mtd-q5-m3-t64", "mtd-q10-m5-t192")


def load_preset(name: str) -> MTDTask:
    """The preset of that name, read from the package."""
    path = resources.files("mtd_lens.families.mtd") / "presets" / f"{name}.json"
    return MTDTask.from_json(json.loads(path.read_text(encoding="utf-8")))
