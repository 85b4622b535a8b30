"""Ridge probes: fitted on some sequences, scored on others.

The penalty is chosen by cross-validation over *sequences* (positions of one sequence are not
independent), from Gram matrices alone, so the data are read once.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from probes import checks
from probes.errors import DataError

PENALTIES = tuple(10.0**power for power in range(-10, 3))
"""Ridge penalties tried, in units of the mean variance of a feature."""

N_FOLDS = 5


@dataclass(frozen=True)
class RidgeProbe:
    """A fitted linear map from activations to a variable.

    Attributes:
        weights: ``[feature, output]``.
        bias: ``[output]``.
        penalty: The chosen ridge penalty, in units of the mean variance of a feature.
        cross_validated: R² over the held-out folds of the fit split.
    """

    weights: Float[Tensor, "feature output"]
    bias: Float[Tensor, " output"]
    penalty: float
    cross_validated: float

    def predict(
        self, features: Float[Tensor, "sequence position feature"]
    ) -> Float[Tensor, "sequence position output"]:
        """The variable as the probe reads it.

        Args:
            features: ``[sequence, position, feature]``.

        Returns:
            ``[sequence, position, output]``, float64.
        """
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
            DataError: Other shapes.
        """
        _check_pair(features, targets)
        residual = targets - self.predict(features).to(targets)
        deviation = targets - targets.mean((0, 1))
        return residual.square().sum((1, 2)), deviation.square().sum((1, 2))


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
    n_folds = checks.integer(n_folds, "n_folds", 2, DataError)
    if not penalties or min(penalties) <= 0:
        raise DataError(f"penalties must be positive, at least one; got {penalties!r}.")
    _check_pair(features, targets)
    if len(features) < n_folds:
        raise DataError(
            f"a ridge probe needs at least {n_folds} sequences, one a fold; got {len(features)}. "
            "Use more sequences."
        )
    features, targets = features.to(torch.float64), targets.to(torch.float64)
    if not (features.isfinite().all() and targets.isfinite().all()):
        raise DataError("a ridge probe needs finite activations and targets; got NaN or infinity.")
    feature_mean, target_mean = features.mean((0, 1)), targets.mean((0, 1))
    x, y = features - feature_mean, targets - target_mean
    folds = torch.arange(len(x), device=x.device) % n_folds
    moments = [_moments(x[folds == fold], y[folds == fold]) for fold in range(n_folds)]
    gram, cross, total = (sum(parts[1:], parts[0]) for parts in zip(*moments, strict=True))
    rows = x.shape[0] * x.shape[1]
    unit = (gram.diagonal().mean() / rows).clamp_min(torch.finfo(torch.float64).tiny)

    held_out = torch.zeros(len(penalties), dtype=torch.float64, device=x.device)
    for fold_gram, fold_cross, fold_total in moments:
        solutions = _solve(gram - fold_gram, cross - fold_cross, penalties, unit * rows)
        for index, solution in enumerate(solutions):
            quadratic = (solution * (fold_gram @ solution)).sum()
            held_out[index] += fold_total - 2 * (solution * fold_cross).sum() + quadratic
    best = int(held_out.argmin())
    weights = _solve(gram, cross, (penalties[best],), unit * rows)[0]
    variation = float(total)
    return RidgeProbe(
        weights=weights,
        bias=target_mean - feature_mean @ weights,
        penalty=penalties[best],
        cross_validated=1 - float(held_out[best]) / variation if variation > 0 else 0.0,
    )


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
    if features.shape[:2] != targets.shape[:2]:
        raise DataError(
            "features and targets must agree in their numbers of sequences and positions; got "
            f"{tuple(features.shape)} and {tuple(targets.shape)}."
        )


def _moments(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x, y = x.flatten(0, 1), y.flatten(0, 1)
    return x.T @ x, x.T @ y, y.square().sum()


def _solve(gram: Tensor, cross: Tensor, penalties: tuple[float, ...], unit: Tensor) -> list[Tensor]:
    values, vectors = torch.linalg.eigh(gram)
    rotated = vectors.T @ cross
    return [
        vectors @ (rotated / (values.clamp_min(0) + penalty * unit)[:, None])
        for penalty in penalties
    ]
