"""Which layer a claim is about: chosen on the fit split, before any score."""

from collections.abc import Mapping
from typing import TypeVar

Key = TypeVar("Key")

TIE = 0.01
"""Layers whose score on the fit split is within this of the best tie; the earliest is taken."""


def earliest_best(scores: Mapping[Key, float]) -> Key:
    """The first one whose score is within ``TIE`` of the best.

    Args:
        scores: On the fit split, in the order of layers.
    """
    best = max(scores.values())
    return next(key for key, score in scores.items() if score >= best - TIE)
