"""The models that golden values are kept of, and what each is asked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Case:
    """What is asked of one model.

    Attributes:
        model: A name that ``load_model`` knows.
        seed: Of every command.
        commands: By name, further arguments of each; patched grids bear the component's name.
        slow: Left to the slow tests; the others take a few seconds each.
    """

    model: str
    seed: int
    commands: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    slow: bool = False

    @property
    def name(self) -> str:
        """The name of its file."""
        return self.model.replace("/", "--")


SCORE = LOCALIZE = COMPARE = {"n_sequences": 64}
INSPECT = {"n_sequences": 2}
ALIGN = {"n_sequences": 64, "steps": 20}
HEADS, POSITIONS = {"by": ["head"]}, {"by": ["position"]}

CASES = (
    Case(
        "mtd-q3-m2-t32/constructed-absolute",
        1,
        {
            "score": SCORE,
            "localize": LOCALIZE,
            "inspect": INSPECT,
            "read_weights": {},
            "patch z": HEADS,
        },
        slow=True,
    ),
    Case(
        "mtd-q5-m3-t32/trained-disentangled-3l-s0",
        2,
        {
            "score": SCORE,
            "align": {"variable": "mean_responsibility", "layer": 1, **ALIGN},
            "read_weights": {"n_random": 8},
            "patch resid_pre": POSITIONS,
        },
        slow=True,
    ),
    Case(
        "mtd-q5-m3-t32/trained-gpt-3l-s0",
        3,
        {
            "localize": LOCALIZE,
            "inspect": INSPECT,
            "patch z": HEADS,
            "patch resid_pre": POSITIONS,
        },
        slow=True,
    ),
    Case(
        "mtd-q5-m3-t32/trained-attn-only-1l-s0",
        4,
        {
            "score": {"n_sequences": 128},
            "compare": {"lengths": [16, 32], **COMPARE},
            "read_weights": {},
            "patch z": HEADS,
        },
        slow=True,
    ),
    Case(
        "mtd-q5-m3-t32/random-relative",
        5,
        {
            "score": SCORE,
            "align": {"variable": "responsibilities", "layer": 0, **ALIGN},
            "inspect": INSPECT,
            "read_weights": {"n_random": 8},
            "patch resid_pre": POSITIONS,
        },
        slow=True,
    ),
    Case(
        "mtd-q5-m3-t32/constructed-relative",
        6,
        {
            "align": {"variable": "mean_responsibility", "layer": 1, "width": 3, **ALIGN},
            "compare": {"lengths": [12], **COMPARE},
            "inspect": INSPECT,
            "patch z": HEADS,
        },
    ),
    Case(
        "ngram-q3-s12-t32/trained-gpt-2l-s0",
        7,
        {
            "score": SCORE,
            "localize": LOCALIZE,
            "align": {"variable": "selected_feature", "layer": 0, **ALIGN},
            "compare": COMPARE,
            "inspect": INSPECT,
            "patch z": {"by": ["head", "position"]},
        },
        slow=True,
    ),
    Case(
        "ngram-q3-s12-t32/constructed-absolute",
        8,
        {
            "score": SCORE,
            "align": {"variable": "copied_parents", "layer": 0, "width": 3, **ALIGN},
            "inspect": INSPECT,
            "patch resid_pre": POSITIONS,
        },
        slow=True,
    ),
    Case(
        "ngram-q3-s12-t32/random-absolute",
        9,
        {"localize": LOCALIZE, "compare": COMPARE, "patch z": HEADS},
    ),
    Case(
        "ar-d5-t32/constructed-one-step",
        10,
        {"localize": LOCALIZE, "inspect": INSPECT, "patch z": HEADS},
    ),
    Case(
        "ar-d5-t32/trained-linear-augmented-2l-s0",
        11,
        {
            "score": {"n_sequences": 128},
            "align": {"variable": "augmented_token", "layer": 0, "kind": "z", "head": 1, **ALIGN},
            "inspect": INSPECT,
            "patch resid_pre": POSITIONS,
        },
        slow=True,
    ),
    Case(
        "ar-d5-t32/random-one-step",
        12,
        {"score": SCORE, "localize": LOCALIZE, "compare": COMPARE, "patch z": HEADS},
    ),
)


def cases_named(words: list[str]) -> list[Case]:
    """Cases whose name contains one of some words; all where there are none."""
    return [case for case in CASES if not words or any(word in case.model for word in words)]
