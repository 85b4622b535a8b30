"""A small set of sites that carry a variable together, grown greedily and pruned."""

from collections.abc import Callable, Sequence
from itertools import combinations, groupby

import numpy as np

from mtd_lens.results.places import Place

GAIN = 0.01
"""Sites join the set if they raise the joint score by this, and one stays if it is worth that."""

MAX_PAIRS = 64
"""Tried at a time, where no single site gains."""

PAIRED = 8
"""Sites that are paired with each other, where all pairs would be more than ``MAX_PAIRS``."""

Places = tuple[Place, ...]


def smallest_set(
    scores: Callable[[Sequence[Places]], Sequence[float]], places: Sequence[Place]
) -> tuple[Places, float]:
    """A small set of places with a high joint score.

    It is grown by whichever place raises the score most. Where none raises it by ``GAIN``, pairs
    and whole layers are tried: of a variable in two halves, or of a product, neither place gains by
    itself. Members that are worth less than ``GAIN`` then leave. What comes within ``GAIN`` of the
    best is its equal.

    Args:
        scores: Of several candidate sets, at most 1 each; the empty one is of nothing swapped.
        places: In the order of layers: the earliest of equals is taken.

    Returns:
        The set in the order of ``places``, and its score. Where nothing gains, the best that was
        tried.
    """
    chosen: Places = ()
    [score] = scores([chosen])
    while len(chosen) < len(places) and score < 1 - GAIN:
        added, better = _best_addition(scores, places, chosen, score)
        if chosen and better - score < GAIN:
            break
        gains = better - score >= GAIN
        chosen, score = (*chosen, *added), better
        if not gains:
            break
    chosen = tuple(place for place in places if place in chosen)
    while len(chosen) > 1:
        candidates = [tuple(p for p in chosen if p != member) for member in reversed(chosen)]
        found = scores(candidates)
        best = _first_best(found)
        if score - found[best] >= GAIN:
            best = int(np.argmax(found))
        if score - found[best] >= GAIN:
            break
        chosen, score = candidates[best], found[best]
    return chosen, float(score)


def _best_addition(
    scores: Callable[[Sequence[Places]], Sequence[float]],
    places: Sequence[Place],
    chosen: Places,
    score: float,
) -> tuple[Places, float]:
    """What raises the score of a set most, and that score: a place, or several if none gains."""
    left = [place for place in places if place not in chosen]
    groups: list[Places] = [(place,) for place in left]
    found = list(scores([(*chosen, *group) for group in groups]))
    if max(found) - score < GAIN:
        changes = {place: abs(value - score) for place, value in zip(left, found, strict=True)}
        together = _together(left, changes)
        if together:
            groups += together
            found += scores([(*chosen, *group) for group in together])
    best = _first_best(found)
    if found[best] - score < GAIN:
        best = int(np.argmax(found))
    return groups[best], found[best]


def _first_best(found: Sequence[float]) -> int:
    return next(index for index, value in enumerate(found) if value > max(found) - GAIN)


def _together(left: Sequence[Place], changes: dict[Place, float]) -> list[Places]:
    """Pairs and whole layers; of many pairs, those of the places that change the score most.

    Either way: half of a variable may well do harm by itself.
    """
    pairs: list[Places] = list(combinations(left, 2))
    if len(pairs) > MAX_PAIRS:
        strongest = set(sorted(left, key=lambda place: -changes[place])[:PAIRED])
        near = [pair for pair in pairs if strongest.issuperset(pair)]
        beside = [pair for pair in pairs if pair[0].layer == pair[1].layer and pair not in near]
        beside.sort(key=lambda pair: -changes[pair[0]] - changes[pair[1]])
        pairs = [*near, *beside][:MAX_PAIRS]
    layers = [tuple(group) for _, group in groupby(left, key=lambda place: place.layer)]
    return pairs + [layer for layer in layers if len(layer) > 2]
