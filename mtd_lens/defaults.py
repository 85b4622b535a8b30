"""What questions take unless told otherwise, and what they can take; known without torch."""

from dataclasses import dataclass

THRESHOLD = 0.8
"""What a supported claim's interval must lie above."""

MIN_SEQUENCES = 64
"""Of which statistics can be taken."""

MAX_SEED = 2**62
"""Of a question; above it there is room for those that are derived from it."""


@dataclass(frozen=True)
class Sequences:
    """How many sequences a question draws.

    Attributes:
        default: Unless told otherwise.
        least: The fewest.
        most: The most; None where memory alone says.
    """

    default: int
    least: int = MIN_SEQUENCES
    most: int | None = None


SCORE, COMPARE, LOCALIZE, FIT = map(Sequences, (768, 256, 512, 24_576))
COMPETE = Sequences(1024, least=128)
MOST_SHOWN = 16
"""Sequences that can be looked at together."""

INSPECT = Sequences(4, least=1, most=MOST_SHOWN)
