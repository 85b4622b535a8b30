"""Divergences and bootstrap intervals over sequences.

Every score of this package is one minus a ratio of means over sequences,
``1 - E[numerator] / E[denominator]``: 1 where the discrepancy in the numerator vanishes, 0 where
it is as large as that of the reference in the denominator. R² has that form too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from scipy import stats
from torch import Tensor

from probes import checks
from probes.errors import DataError

CONFIDENCE = 0.95
N_RESAMPLES = 1000
MIN_SEQUENCES = 16
NEGLIGIBLE = 1e-12
"""A mean denominator at or below this (nats, or squared units) is rounding, not a reference."""


@dataclass(frozen=True)
class Interval:
    """A score with its bootstrap confidence interval."""

    score: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.score:.3f} [{self.low:.3f}, {self.high:.3f}]"


def one_minus_ratio(
    numerator: Float[Tensor, " sequence"],
    denominator: Float[Tensor, " sequence"],
    seed: int = 0,
) -> Interval:
    """Score ``1 - mean(numerator) / mean(denominator)`` with a 95% percentile bootstrap interval.

    Args:
        numerator: The model's discrepancy, one value a sequence.
        denominator: The reference's discrepancy, in the same unit.
        seed: Of the resampling.

    Raises:
        DataError: Fewer than 16 sequences, different lengths, values that are not finite, or a
            denominator whose mean is zero.
    """
    if numerator.shape != denominator.shape or len(numerator) < MIN_SEQUENCES:
        raise DataError(
            f"a bootstrap interval needs at least {MIN_SEQUENCES} sequences and as many numerators "
            f"as denominators; got {len(numerator)} and {len(denominator)}. Use more sequences."
        )
    above, below = (x.detach().to("cpu", torch.float64).numpy() for x in (numerator, denominator))
    if not (np.isfinite(above).all() and np.isfinite(below).all()):
        raise DataError(
            "a score needs finite discrepancies; got NaN or infinity. Check that the model's "
            "outputs are finite on these sequences."
        )
    if below.mean() <= NEGLIGIBLE:
        raise DataError(
            f"the reference discrepancy is {below.mean():.3g}, so the score is undefined: the "
            "variable does not vary, or intervening on it changes nothing."
        )

    def score(a: Any, b: Any, axis: int = -1) -> Any:
        return 1 - a.mean(axis) / np.maximum(b.mean(axis), NEGLIGIBLE)

    return _bootstrap((above, below), score, seed)


def mean_interval(values: Float[Tensor, " sequence"], seed: int = 0) -> Interval:
    """Mean over sequences with a 95% percentile bootstrap interval (units of ``values``).

    Raises:
        DataError: Fewer than 16 values, or values that are not finite.
    """
    array = values.detach().to("cpu", torch.float64).numpy()
    if len(array) < MIN_SEQUENCES or not np.isfinite(array).all():
        raise DataError(
            f"a bootstrap interval needs at least {MIN_SEQUENCES} finite values; got {len(array)}, "
            f"of which {int(np.isfinite(array).sum())} are finite."
        )
    return _bootstrap((array,), np.mean, seed)


def _bootstrap(samples: tuple[Any, ...], statistic: Callable[..., Any], seed: int) -> Interval:
    """A statistic of paired samples with its percentile interval."""
    result = stats.bootstrap(
        samples,
        statistic,
        paired=True,
        vectorized=True,
        n_resamples=N_RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(checks.seed(seed, DataError)),
    )
    low, high = result.confidence_interval
    return Interval(float(statistic(*samples, axis=-1)), float(low), float(high))


def kl_divergence(
    target: Float[Tensor, "*batch outcome"], prediction: Float[Tensor, "*batch outcome"]
) -> Float[Tensor, "*batch"]:
    """KL(target ‖ prediction) in nats between probability vectors; 0 log 0 counts as 0.

    Predicted probabilities below the smallest normal number of their dtype are raised to it, so a
    prediction of exactly 0 costs a large but finite amount.
    """
    floor = torch.finfo(prediction.dtype).tiny
    log_ratio = target.clamp_min(floor).log() - prediction.clamp_min(floor).log()
    return (target * log_ratio).sum(-1)


def total_variation(
    first: Float[Tensor, "*batch outcome"], second: Float[Tensor, "*batch outcome"]
) -> Float[Tensor, "*batch"]:
    """Total variation distance, half the L1 distance: between 0 and 1 for probability vectors."""
    return 0.5 * (first - second).abs().sum(-1)
