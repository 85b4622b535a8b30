"""Mean divergences of estimators, with their intervals."""

from collections.abc import Mapping

from torch import Tensor

import probes
from mtd_lens.results.scorecard import EstimatorResult


def distances(
    found: Mapping[str, tuple[Tensor, Mapping[str, float]]], seed: int
) -> tuple[EstimatorResult, ...]:
    """Mean divergences with their intervals, the least of them marked.

    Args:
        found: By name, divergences ``[sequence]``, and what was fitted.
        seed: Of the resampling.
    """
    intervals = {
        name: probes.mean_interval(values, seed=seed) for name, (values, _) in found.items()
    }
    best = min((interval.score for interval in intervals.values()), default=0.0)
    return tuple(
        EstimatorResult(
            name,
            interval.score,
            interval.low,
            interval.high,
            found[name][1],
            interval.score == best,
        )
        for name, interval in intervals.items()
    )
