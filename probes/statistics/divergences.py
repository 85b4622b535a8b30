"""Divergences between predictions, row by row."""

import torch
from jaxtyping import Float
from torch import Tensor

from probes import checks
from probes.errors import DataError


def kl_divergence(
    target: Float[Tensor, "*batch outcome"], prediction: Float[Tensor, "*batch outcome"]
) -> Float[Tensor, "*batch"]:
    """KL(target ‖ prediction) in nats between probability vectors; 0 log 0 counts as 0.

    Predicted probabilities below the smallest normal number of their dtype are raised to it, so a
    prediction of exactly 0 costs a large but finite amount.

    Args:
        target: ``[*batch, outcome]``, rows sum to 1.
        prediction: ``[*batch, outcome]``, rows sum to 1.

    Returns:
        ``[*batch]``, nats.

    Raises:
        DataError: Something else than two floating-point tensors whose shapes fit.

    Examples:
        >>> import probes, torch
        >>> probes.kl_divergence(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]))  # ln 2
        tensor(0.6931)
    """
    _check_pair("target", target, "prediction", prediction)
    floor = torch.finfo(prediction.dtype).tiny
    log_ratio = target.clamp_min(floor).log() - prediction.clamp_min(floor).log()
    return (target * log_ratio).sum(-1)


def squared_error(
    reference: Float[Tensor, "*row outcome"], prediction: Float[Tensor, "*row outcome"]
) -> Float[Tensor, "*row"]:
    """Squared distance of predicted vectors from reference vectors, summed over components.

    Args:
        reference: ``[…, component]``.
        prediction: ``[…, component]``.

    Returns:
        ``[…]``, float64, in squares of the vectors' unit.

    Raises:
        DataError: Something else than two floating-point tensors whose shapes fit.
    """
    _check_pair("reference", reference, "prediction", prediction)
    return (reference.to(torch.float64) - prediction.to(torch.float64)).square().sum(-1)


def total_variation(
    first: Float[Tensor, "*batch outcome"], second: Float[Tensor, "*batch outcome"]
) -> Float[Tensor, "*batch"]:
    """Total variation distance, half the L1 distance: between 0 and 1 for probability vectors.

    Args:
        first: ``[*batch, outcome]``.
        second: ``[*batch, outcome]``.

    Returns:
        ``[*batch]``.

    Raises:
        DataError: Something else than two floating-point tensors whose shapes fit.

    Examples:
        >>> import probes, torch
        >>> probes.total_variation(torch.tensor([0.7, 0.3]), torch.tensor([0.2, 0.8]))
        tensor(0.5000)
    """
    _check_pair("first", first, "second", second)
    return 0.5 * (first - second).abs().sum(-1)


def _check_pair(name: str, value: Tensor, other_name: str, other: Tensor) -> None:
    """Raise a DataError unless both are floating-point tensors whose shapes fit."""
    checks.tensor(value, name, "…, outcome", DataError)
    checks.tensor(other, other_name, "…, outcome", DataError)
    if value.shape != other.shape:
        try:
            torch.broadcast_shapes(value.shape, other.shape)
        except RuntimeError:
            raise DataError(
                f"{name} and {other_name} must have one shape, [*batch, outcome]; got "
                f"{tuple(value.shape)} and {tuple(other.shape)}."
            ) from None
