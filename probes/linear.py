"""Ridge probes: fitted on some sequences, scored on others.

The penalty is chosen by cross-validation over *sequences* (positions of one sequence are not
independent), from Gram matrices alone, so the data are read once.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from probes import checks
from probes.errors import DataError
from probes.statistics import Interval, one_minus_ratio

PENALTIES = tuple(10.0**power for power in range(-10, 3))
"""Ridge penalties tried, in units of the mean variance of a feature."""

N_FOLDS = 5

_QUANTILE = 1.96
"""Standard deviations on either side of a normal 95% interval."""

ROWS_A_FEATURE = 16
"""From so many rows (positions of sequences) a feature on, intervals of R² cover what they say,
with no penalty chosen."""

LEAST_PENALTY = (PENALTIES[0],)
"""For so many rows: it keeps rounding out, and shrinks nothing else."""


@dataclass(frozen=True)
class RidgeProbe:
    """A fitted linear map from activations to a variable.

    Attributes:
        weights: ``[feature, output]``.
        bias: ``[output]``.
        penalty: The chosen ridge penalty, in units of the mean variance of a feature.
        cross_validated: R² over the held-out folds of the fit split.
        attainable: Squared error of the best linear map, as a share of what this probe's is on new
            sequences: what is lost for having been fitted on finitely many. It is the mean square
            of residuals over the mean product of each with its held-out one, which for residuals
            of equal variance is ``1 - features / rows``.
        spread: Standard deviation, over samples to fit on, of this probe's error as a share of its
            mean, for Gaussian residuals of equal variance.
    """

    weights: Float[Tensor, "feature output"]
    bias: Float[Tensor, " output"]
    penalty: float
    cross_validated: float
    attainable: float = 1.0
    spread: float = 0.0

    def predict(
        self, features: Float[Tensor, "sequence position feature"]
    ) -> Float[Tensor, "sequence position output"]:
        """The variable as the probe reads it.

        Args:
            features: ``[sequence, position, feature]``.

        Returns:
            ``[sequence, position, output]``, float64.

        Raises:
            DataError: Something else, or other numbers of features than the probe was fitted on.
        """
        features = checks.tensor(features, "features", "sequence, position, feature", DataError)
        if features.shape[-1] != len(self.weights):
            raise DataError(
                f"the probe reads {len(self.weights)} features; got {features.shape[-1]}."
            )
        return features.to(self.weights) @ self.weights + self.bias

    def errors(
        self, features: Tensor, targets: Tensor
    ) -> tuple[Float[Tensor, " sequence"], Float[Tensor, " sequence"]]:
        """Squared error and squared deviation from the mean, summed within each sequence.

        One minus the ratio of their means over sequences is R² over all outputs.

        Args:
            features: ``[sequence, position, feature]``.
            targets: ``[sequence, position, output]``.

        Returns:
            Error and deviation, each ``[sequence]``, in squared units of the targets.

        Raises:
            DataError: Other shapes, or no tensors of real numbers.
        """
        _check_pair(features, targets)
        if targets.shape[-1] != self.weights.shape[-1]:
            raise DataError(
                f"the probe reads {self.weights.shape[-1]} outputs; the targets have "
                f"{targets.shape[-1]}."
            )
        targets = targets if targets.is_floating_point() else targets.to(self.weights)
        residual = targets - self.predict(features).to(targets)
        deviation = targets - targets.mean((0, 1))
        return residual.square().sum((1, 2)), deviation.square().sum((1, 2))

    def attainable_errors(
        self, features: Tensor, targets: Tensor
    ) -> tuple[Float[Tensor, " sequence"], Float[Tensor, " sequence"]]:
        """``errors`` of the best linear map, and deviations from the mean of all sequences.

        Both are estimates without the bias of finite samples: errors are scaled by ``attainable``,
        deviations by what the mean of so few sequences takes from them (n / (n - 1) for one
        position each). One minus the ratio of their means is R² for infinitely many
        sequences.

        Args:
            features: ``[sequence, position, feature]``, of other sequences than those of the fit.
            targets: ``[sequence, position, output]``.

        Returns:
            Error and deviation, each ``[sequence]``, in squared units of the targets.

        Raises:
            DataError: Other shapes, or no tensors of real numbers.
        """
        error, deviation = self.errors(features, targets)
        n_sequences, n_positions = targets.shape[:2]
        means = targets.to(deviation).mean(1)
        of_mean = (means - means.mean(0)).square().sum() / (n_sequences * max(n_sequences - 1, 1))
        lost = n_positions * of_mean / deviation.mean().clamp_min(torch.finfo(deviation.dtype).tiny)
        return self.attainable * error, deviation * (1 + lost)


def read_interval(
    error: Float[Tensor, " sequence"],
    deviation: Float[Tensor, " sequence"],
    spread: float | int = 0.0,
    seed: int = 0,
) -> Interval:
    """R² for infinitely many sequences with a 95% interval, from ``attainable_errors``.

    Resampled are evaluation sequences, with percentiles expanded for few of them (Hesterberg 2015).
    That the fit could have come out better or worse than it does on average is added in quadrature:
    it matters where R² is near 0, since there errors and deviations hardly differ.

    Args:
        error: ``[sequence]``.
        deviation: ``[sequence]``, in the same unit.
        spread: The probe's, at least 0.
        seed: Of the resampling.

    Returns:
        R² with the ends of its interval.

    Raises:
        DataError: Fewer than 16 sequences, different lengths, values that are not finite, or no
            deviation.
    """
    spread = checks.number(spread, "spread", 0, math.inf, DataError, low_included=True)
    found = one_minus_ratio(error, deviation, seed, expanded=True)
    of_fit = _QUANTILE * spread * (1 - found.score)
    return Interval(
        found.score,
        found.score - math.hypot(found.score - found.low, of_fit),
        found.score + math.hypot(found.high - found.score, of_fit),
    )


def fit_ridge(
    features: Tensor,
    targets: Tensor,
    penalties: tuple[float, ...] = PENALTIES,
    n_folds: int = N_FOLDS,
) -> RidgeProbe:
    """Fit a ridge regression with an unpenalised intercept, in float64.

    Args:
        features: Activations, ``[sequence, position, feature]``.
        targets: The variable to read, ``[sequence, position, output]``.
        penalties: Candidates, in units of the mean variance of a feature.
        n_folds: Folds of whole sequences.

    Returns:
        The fitted probe.

    Raises:
        DataError: Other shapes, fewer sequences than folds, or values that are not finite.

    Examples:
        >>> import probes, torch
        >>> features = torch.randn(40, 3, 6, generator=torch.Generator().manual_seed(0))
        >>> probe = probes.fit_ridge(features, features[..., :2] * 3)
        >>> round(probe.cross_validated, 3)
        1.0
    """
    return fit_ridges(features, [targets], penalties, n_folds)[0]


def fit_ridges(
    features: Tensor,
    targets: Sequence[Tensor],
    penalties: tuple[float, ...] = PENALTIES,
    n_folds: int = N_FOLDS,
) -> list[RidgeProbe]:
    """``fit_ridge`` of several variables from the same activations, whose moments are shared.

    Args:
        features: Activations, ``[sequence, position, feature]``.
        targets: The variables to read, ``[sequence, position, output]`` each.
        penalties: Candidates, in units of the mean variance of a feature.
        n_folds: Folds of whole sequences.

    Returns:
        A fitted probe for each variable, each with a penalty of its own.

    Raises:
        DataError: As ``fit_ridge``.
    """
    n_folds = checks.integer(n_folds, "n_folds", 2, DataError)
    candidates = checks.listed(penalties, "penalties", "numbers", DataError)
    penalties = tuple(
        checks.number(penalty, "a penalty", 0, math.inf, DataError) for penalty in candidates
    )
    if not penalties:
        raise DataError(f"penalties must be positive, at least one; got {penalties!r}.")
    targets = checks.listed(targets, "targets", "tensors", DataError, Tensor)
    if not targets:
        raise DataError("targets must hold at least one variable to read; got none.")
    for target in targets:
        _check_pair(features, target)
    if len(features) < n_folds:
        raise DataError(
            f"a ridge probe needs at least {n_folds} sequences, one a fold; got {len(features)}. "
            "Use more sequences."
        )
    features, joint = features.to(torch.float64), torch.cat([t.double() for t in targets], -1)
    if not (features.isfinite().all() and joint.isfinite().all()):
        raise DataError("a ridge probe needs finite activations and targets; got NaN or infinity.")
    feature_mean, target_mean = features.mean((0, 1)), joint.mean((0, 1))
    x, y = features - feature_mean, joint - target_mean
    folds = torch.arange(len(x), device=x.device) % n_folds
    moments = [_moments(x[folds == fold], y[folds == fold]) for fold in range(n_folds)]
    gram, cross, total = (sum(parts[1:], parts[0]) for parts in zip(*moments, strict=True))
    rows = x.shape[0] * x.shape[1]
    unit = rows * (gram.diagonal().mean() / rows).clamp_min(torch.finfo(torch.float64).tiny)

    held_out = x.new_zeros(len(penalties), y.shape[-1])
    solvers = [_solver(gram - part[0], cross - part[1], unit) for part in moments]
    for solve, (fold_gram, fold_cross, fold_total) in zip(solvers, moments, strict=True):
        for index, penalty in enumerate(penalties):
            solution = solve(penalty)
            quadratic = (solution * (fold_gram @ solution)).sum(0)
            held_out[index] += fold_total - 2 * (solution * fold_cross).sum(0) + quadratic
    solve, probes, start = _solver(gram, cross, unit), [], 0
    for target in targets:
        own = slice(start, start := start + target.shape[-1])
        errors, variation = held_out[:, own].sum(1), float(total[own].sum())
        best = int(errors.argmin())
        weights = solve(penalties[best])[:, own]
        without = [solver(penalties[best])[:, own] for solver in solvers]
        attainable = _attainable(weights, without, [(g, c[:, own], t[own]) for g, c, t in moments])
        n_read = int((torch.linalg.eigvalsh(gram) > penalties[best] * unit).sum())
        probes.append(
            RidgeProbe(
                weights=weights,
                bias=target_mean[own] - feature_mean @ weights,
                penalty=penalties[best],
                cross_validated=1 - float(errors[best]) / variation if variation > 0 else 0.0,
                attainable=attainable,
                spread=(1 - attainable) * _relative_spread(y[..., own] - x @ weights, n_read),
            )
        )
    return probes


Moments = tuple[Tensor, Tensor, Tensor]
"""Gram and cross moments, and the sum of squares of each output."""


def _attainable(weights: Tensor, without: Sequence[Tensor], moments: Sequence[Moments]) -> float:
    """Sum of squared residuals over that of their products with held-out ones, at most 1.

    A fold's held-out residuals are ``(1 - H)^-1`` times its own, H its block of the hat matrix, so
    that the product has the expected value of a squared residual of the best map.
    """
    own = crossed = 0.0
    for held, (gram, cross, total) in zip(without, moments, strict=True):
        through = gram @ weights
        squares, read = float(total.sum()), float((weights * cross).sum())
        own += squares - 2 * read + float((weights * through).sum())
        crossed += squares - read - float((held * cross).sum()) + float((held * through).sum())
    return min(1.0, max(own, 0.0) / crossed) if crossed > 0 else 1.0


def _relative_spread(residuals: Tensor, n_features: int) -> float:
    """Of a sum of squares of so many features' weights, the standard deviation over the mean."""
    residuals = residuals.flatten(0, 1)
    covariance = residuals.T @ residuals
    total = float(covariance.trace())
    if total <= 0 or n_features < 1:
        return 0.0
    return math.sqrt(2 * float((covariance / total).square().sum()) / n_features)


def _check_pair(features: Tensor, targets: Tensor) -> None:
    """Raise a DataError unless both are ``[sequence, position, …]`` tensors of equal length."""
    tensors = isinstance(features, Tensor) and isinstance(targets, Tensor)
    if not tensors or features.ndim != 3 or targets.ndim != 3:
        shapes = [tuple(x.shape) if isinstance(x, Tensor) else type(x) for x in (features, targets)]
        raise DataError(
            "a ridge probe takes two tensors, features [sequence, position, feature] and targets "
            f"[sequence, position, output]; got {shapes[0]} and {shapes[1]}. Use x[:, None] for "
            "one position."
        )
    checks.tensor(features, "features", "sequence, position, feature", DataError)
    checks.tensor(targets, "targets", "sequence, position, output", DataError, "real")
    if features.shape[:2] != targets.shape[:2]:
        raise DataError(
            "features and targets must agree in their numbers of sequences and positions; got "
            f"{tuple(features.shape)} and {tuple(targets.shape)}."
        )


def _moments(x: Tensor, y: Tensor) -> Moments:
    x, y = x.flatten(0, 1), y.flatten(0, 1)
    return x.T @ x, x.T @ y, y.square().sum(0)


def _solver(gram: Tensor, cross: Tensor, unit: Tensor) -> Callable[[float], Tensor]:
    """Ridge solutions by penalty, in ``unit``, from one eigendecomposition."""
    values, vectors = torch.linalg.eigh(gram)
    rotated = vectors.T @ cross
    return lambda penalty: vectors @ (rotated / (values.clamp_min(0) + penalty * unit)[:, None])
