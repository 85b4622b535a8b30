"""Bootstrap intervals over sequences.

Every score of this package is one minus a ratio of means over sequences,
``1 - E[numerator] / E[denominator]``: 1 where the discrepancy in the numerator vanishes, 0 where
it is as large as that of the reference in the denominator. R² has that form too.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probes import checks
from probes.errors import DataError

CONFIDENCE = 0.95
N_RESAMPLES = 1000
MIN_SEQUENCES = 16
NEGLIGIBLE = 1e-12
"""What is at most this share of the size of its parts is rounding, not a reference."""

_MAX_ELEMENTS = 2**22
"""Of a matrix of resampled means: more sites are done in several such matrices."""


@dataclass(frozen=True)
class Interval:
    """A score with its bootstrap confidence interval.

    Attributes:
        score: The figure itself.
        low: Lower end of its interval, 95% unless said otherwise.
        high: Upper end.
    """

    score: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.score:.3f} [{self.low:.3f}, {self.high:.3f}]"


def one_minus_ratio(
    numerator: Float[Tensor, " sequence"],
    denominator: Float[Tensor, " sequence"],
    seed: int = 0,
    *,
    expanded: bool = False,
) -> Interval:
    """Score ``1 - mean(numerator) / mean(denominator)`` with a 95% percentile bootstrap interval.

    Args:
        numerator: ``[sequence]``: the model's discrepancy.
        denominator: ``[sequence]``: the reference's discrepancy, in the same unit.
        seed: Of the resampling.
        expanded: Take the percentiles further out, as much as quantiles of a mean's t-statistic
            lie further out than a percentile bootstrap's (Hesterberg 2015); what is left of it is
            little from a hundred sequences on.

    Returns:
        The score, with the ends of its interval.

    Raises:
        DataError: Fewer than 16 sequences, different lengths, values that are not finite, or a
            denominator whose mean is zero.

    Examples:
        >>> import probes, torch
        >>> error, reference = torch.linspace(0, 1, 64), torch.ones(64)
        >>> print(probes.one_minus_ratio(error, reference))
        0.500 [0.430, 0.575]
    """
    checks.tensor(numerator, "numerator", "…, sequence", DataError)
    checks.tensor(denominator, "denominator", "…, sequence", DataError)
    if numerator.shape != denominator.shape or numerator.ndim != 1:
        raise DataError(
            "a score needs as many numerators as denominators, [sequence] each; got "
            f"{tuple(numerator.shape)} and {tuple(denominator.shape)}."
        )
    expanded = checks.flag(expanded, "expanded", DataError)
    confidence = expanded_confidence(len(numerator)) if expanded else CONFIDENCE
    found = ratio_intervals(numerator, denominator, seed, confidence)
    score, low, high = (float(figure) for figure in found)
    if math.isnan(score):
        raise DataError(
            f"the reference discrepancy is {float(denominator.double().mean()):.3g}, so the score "
            "is undefined: the variable does not vary, or intervening on it changes nothing."
        )
    return Interval(score, low, high)


def mean_interval(values: Float[Tensor, " sequence"], seed: int = 0) -> Interval:
    """Mean over sequences with a 95% percentile bootstrap interval (units of ``values``).

    Args:
        values: ``[sequence]``.
        seed: Of the resampling.

    Returns:
        The mean, with the ends of its interval.

    Raises:
        DataError: Fewer than 16 values, or values that are not finite.
    """
    if checks.tensor(values, "values", "…, sequence", DataError).ndim != 1:
        raise DataError(f"a mean is over one axis, [sequence]; got shape {tuple(values.shape)}.")
    mean, low, high = mean_intervals(values, seed)
    return Interval(float(mean), float(low), float(high))


def ratio_intervals(
    numerator: Float[Tensor, "*site sequence"],
    denominator: Float[Tensor, "*reference sequence"],
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> tuple[Float[Tensor, "*site"], Float[Tensor, "*site"], Float[Tensor, "*site"]]:
    """``one_minus_ratio`` of many sites at once: scores, lower and upper limits.

    All sites share the resamples, so the means of all are one matrix product of resample weights
    with values.

    Args:
        numerator: ``[*site, sequence]``: the discrepancies at every site.
        denominator: The reference's, in the same unit: one for all sites, ``[sequence]``, or any
            shape that broadcasts to that of ``numerator``.
        seed: Of the resampling.
        confidence: Coverage of the percentile intervals, between 0 and 1.

    Returns:
        Score, low and high, each ``[*site]``, float64; NaN at sites whose mean denominator is 0,
        or rounding beside its values.

    Raises:
        DataError: Fewer than 16 sequences, shapes that do not fit, or values that are not finite.
    """
    above, below = _checked(numerator, "numerator"), _checked(denominator, "denominator")
    try:
        spread = np.broadcast_to(below, above.shape)
    except ValueError:
        raise DataError(
            "the denominator must broadcast to the numerator, [*site, sequence]; got shapes "
            f"{tuple(denominator.shape)} and {tuple(numerator.shape)}."
        ) from None
    below = below if below.ndim == 1 else spread
    undefined = below.mean(-1) <= NEGLIGIBLE * np.abs(below).mean(-1)
    exponent = np.frexp(below.mean(-1))[1][..., None]
    above, below = np.ldexp(above, -exponent), np.ldexp(below, -exponent)  # exact, to about 1
    low, high = _limits((above, below), _score, seed, confidence)
    score = _score(above.mean(-1), below.mean(-1))
    found = [np.where(undefined, np.nan, values) for values in (score, low, high)]
    return torch.from_numpy(found[0]), torch.from_numpy(found[1]), torch.from_numpy(found[2])


def mean_intervals(
    values: Float[Tensor, "*site sequence"], seed: int = 0, confidence: float = CONFIDENCE
) -> tuple[Float[Tensor, "*site"], Float[Tensor, "*site"], Float[Tensor, "*site"]]:
    """``mean_interval`` of many sites at once: means, lower and upper limits, in float64.

    Args:
        values: ``[*site, sequence]``.
        seed: Of the resampling.
        confidence: Coverage of the percentile intervals, between 0 and 1.

    Returns:
        Mean, low and high, each ``[*site]``.

    Raises:
        DataError: Fewer than 16 sequences, or values that are not finite.
    """
    array = _checked(values, "values")
    low, high = _limits((array,), lambda mean: mean, seed, confidence)
    mean, low, high = (torch.as_tensor(figure) for figure in (array.mean(-1), low, high))
    return mean, low, high


def expanded_confidence(n_sequences: int) -> float:
    """What a percentile interval must claim so that it covers 95% for so few sequences.

    Args:
        n_sequences: At least 2.

    Returns:
        A number from 0.95 to 1.

    Raises:
        DataError: Too few, or no number.
    """
    from scipy import special

    n_sequences = checks.integer(n_sequences, "n_sequences", 2, DataError)
    quantile = special.stdtrit(n_sequences - 1, (1 - CONFIDENCE) / 2)
    return float(1 - 2 * special.ndtr(math.sqrt(n_sequences / (n_sequences - 1)) * quantile))


def _checked(values: Tensor, what: str) -> np.ndarray:
    """Values as a NumPy array, if there are enough sequences and all are finite."""
    n_sequences = checks.tensor(values, what, "…, sequence", DataError).shape[-1]
    if n_sequences < MIN_SEQUENCES:
        raise DataError(
            f"a bootstrap interval needs at least {MIN_SEQUENCES} sequences; got {n_sequences}. "
            "Use more sequences."
        )
    array = values.detach().to("cpu", torch.float64).numpy()
    if not np.isfinite(array).all():
        raise DataError(
            "a bootstrap interval needs finite values; got NaN or infinity. Check that the model's "
            "outputs are finite on these sequences."
        )
    return array


def _score(above: np.ndarray | float, below: np.ndarray | float) -> np.ndarray | float:
    return 1 - above / np.maximum(below, NEGLIGIBLE)


def _limits(
    samples: tuple[np.ndarray, ...],
    statistic: Callable[..., np.ndarray | float],
    seed: int,
    confidence: float,
) -> np.ndarray:
    """Percentile limits ``[2, *site]`` of a statistic of means, from resamples of the sequences."""
    confidence = checks.number(confidence, "confidence", 0, 1, DataError)
    *sites, n_sequences = samples[0].shape
    flat = [sample.reshape(-1, n_sequences) for sample in samples]
    seed = checks.seed(seed, DataError)
    weights = resample_weights(n_sequences, seed)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    limits = np.empty((2, len(flat[0])))
    step = _MAX_ELEMENTS // N_RESAMPLES
    for start in range(0, len(flat[0]), step):
        chunks = [x if len(x) == 1 else x[start : start + step] for x in flat]
        means = [weights @ chunk.T for chunk in chunks]
        limits[:, start : start + step] = np.quantile(statistic(*means), tails, axis=0)
    return limits.reshape(2, *sites)


def resample_weights(n_sequences: int, seed: int) -> np.ndarray:
    """``[resample, sequence]``: how often each sequence is drawn, as a share of all draws.

    Args:
        n_sequences: Of which, with replacement, as many are drawn.
        seed: Of the resampling.
    """
    small = n_sequences * N_RESAMPLES <= _MAX_ELEMENTS
    return (_kept_weights if small else _weights)(n_sequences, seed)


def _weights(n_sequences: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    weights = np.empty((N_RESAMPLES, n_sequences))
    for row in weights:
        chosen = rng.integers(0, n_sequences, n_sequences)
        row[:] = np.bincount(chosen, minlength=n_sequences) / n_sequences
    return weights


_kept_weights = lru_cache(maxsize=4)(_weights)
