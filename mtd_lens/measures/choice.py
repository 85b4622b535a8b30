"""Which layer a claim is about, chosen on the fit split before any score, and its score there."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

import probes
from mtd_lens.claims import Measurement
from probes.statistics import Interval

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


def chosen(found: Sequence[Measurement]) -> Measurement | None:
    """The earliest layer among those that are best on the fit split, up to a tie.

    Args:
        found: Of every layer; None is chosen of none.
    """
    return found[earliest_best({i: m.selection for i, m in enumerate(found)})] if found else None


def score_of(measurement: Measurement, seed: int) -> Interval:
    """A measurement's score with its interval.

    Args:
        measurement: Of one layer.
        seed: Of the resampling.
    """
    if measurement.interval is not None:
        return measurement.interval
    if measurement.exact:
        value = 1 - float(measurement.numerator.mean() / measurement.denominator.mean())
        return Interval(value, value, value)
    return ratio_of(measurement.numerator, measurement.denominator, seed)


def rows_of(measurement: Measurement) -> Float[Tensor, "2 row"] | None:
    """``[numerator or denominator, row]``, float32, in units of the mean denominator.

    None where the score is exact, or uncertain by more than its rows.

    Args:
        measurement: Of one layer.
    """
    if measurement.exact or measurement.interval is not None:
        return None
    rows = torch.stack([measurement.numerator.double(), measurement.denominator.double()])
    return (rows / rows[1].mean()).float().cpu()


def controls_of(measurement: Measurement, seed: int) -> dict[str, Interval]:
    """By name in words, the scores of what must not pass.

    Args:
        measurement: Of one layer.
        seed: Of the resampling.
    """
    return {
        name: found if isinstance(found, Interval) else ratio_of(*found, seed)
        for name, found in measurement.controls.items()
    }


def ratio_of(numerator: Tensor, denominator: Tensor, seed: int) -> Interval:
    """One minus a ratio of means over rows, with its expanded percentile interval."""
    return probes.one_minus_ratio(numerator, denominator, seed=seed, expanded=True)
