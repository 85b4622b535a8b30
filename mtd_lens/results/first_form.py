"""What results of the first form leave unsaid: which sources are the algorithm's, and drawn.

Families say it since; nothing but results without it is read by these names.
"""

from collections.abc import Iterable

DRAWN = (
    ("uniform", "one step", "2 steps", "maximum likelihood", "exact Bayes"),
    ("uniform", "kernel", "maximum likelihood", "exact Bayes"),
    ("zero", "one step", "2 steps", "4 steps, free"),
)
"""A set for each family; the second is the algorithm's own."""


def sources_of(names: Iterable[str]) -> tuple[str, tuple[str, ...]]:
    """The algorithm's own source, and those that figures draw, of the family with these names."""
    known = set(names)
    drawn = max(DRAWN, key=lambda each: len(known.intersection(each)))
    return drawn[1], drawn
