"""Figures of a model on sequences that nothing was trained or fitted on, as plain data."""

from collections.abc import Iterable

import torch

import probes
from mtd_lens.shapes import PerSequence

SEED = 7
"""Of the sequences; training draws others."""

N_SEQUENCES = 4096


def interval(values: PerSequence) -> dict[str, float]:
    """The mean, ``score``, with ``low`` and ``high``, its 95% interval.

    Args:
        values: ``[sequence]``.
    """
    found = probes.mean_interval(values, seed=SEED)
    return {"score": found.score, "low": found.low, "high": found.high}


def ratio(values: PerSequence, others: PerSequence) -> list[float]:
    """The ratio of the means of paired values, with the ends of its 95% interval.

    Args:
        values: ``[sequence]``.
        others: ``[sequence]``: what the mean is divided by, of the same sequences.
    """
    found = probes.one_minus_ratio(values, others, seed=SEED)
    return [1 - found.score, 1 - found.high, 1 - found.low]


def spread(figures: Iterable[float]) -> list[float]:
    """The ends of the 95% range of figures, one a model."""
    low, high = torch.tensor(list(figures)).quantile(torch.tensor([0.025, 0.975])).tolist()
    return [low, high]
