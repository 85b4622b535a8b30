"""Divergences between predictions, row by row."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from probes.checks import FLOATS
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
        DataError: Other tensors than two of one shape, floating-point, or rows that are no
            probability vectors.

    Examples:
        >>> import probes, torch
        >>> probes.kl_divergence(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]))  # ln 2
        tensor(0.6931)
    """
    _check_pair("target", target, "prediction", prediction)
    _check_rows("target", target)
    _check_rows("prediction", prediction)
    return kl_of_distributions(target, prediction)


def kl_of_distributions(
    target: Float[Tensor, "*batch outcome"], prediction: Float[Tensor, "*batch outcome"]
) -> Float[Tensor, "*batch"]:
    """What :func:`kl_divergence` returns, for rows that are known to be distributions.

    Args:
        target: ``[*batch, outcome]``.
        prediction: ``[*batch, outcome]``.
    """
    dtype = torch.promote_types(target.dtype, prediction.dtype)
    target, floor = target.to(dtype), torch.finfo(dtype).tiny
    log_ratio = target.clamp_min(floor).log() - prediction.to(dtype).clamp_min(floor).log()
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
        DataError: Other tensors than two of one shape, floating-point.
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
        DataError: Other tensors than two of one shape, floating-point.

    Examples:
        >>> import probes, torch
        >>> probes.total_variation(torch.tensor([0.7, 0.3]), torch.tensor([0.2, 0.8]))
        tensor(0.5000)
    """
    _check_pair("first", first, "second", second)
    return 0.5 * (first - second).abs().sum(-1)


def _check_pair(name: str, one: Tensor, other_name: str, other: Tensor) -> None:
    """Raise a DataError unless both are floating-point tensors of one shape, with rows."""
    tensors = isinstance(one, Tensor) and isinstance(other, Tensor)
    floating = tensors and {str(one.dtype), str(other.dtype)} <= FLOATS
    if not floating or one.ndim == 0 or one.shape != other.shape or one.shape[-1] == 0:
        came = [
            f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            for x in (one, other)
        ]
        raise DataError(
            f"{name} and {other_name} must be floating-point tensors of one shape, with the "
            f"entries of a row on the last axis; got {came[0]} and {came[1]}. Convert them with "
            ".double(), and expand the smaller one."
        )


def _check_rows(name: str, rows: Tensor) -> None:
    """Raise a DataError unless rows are probability vectors, to half of the digits."""
    known = rows.detach()
    room = math.sqrt(max(torch.finfo(known.dtype).eps, torch.finfo(torch.float32).eps))
    sums = known.sum(-1)
    fits = ((sums - 1).abs() <= room) & (known >= -room).all(-1)
    if not fits.all():
        index = tuple((~fits).nonzero()[0].tolist())
        where = f"row {list(index)}" if index else "its row"
        raise DataError(
            f"{name} must hold probability vectors on the last axis; {where} sums to "
            f"{float(sums[index]):.6g}, with a smallest entry of {float(known[index].min()):.3g}. "
            "Turn logits into probabilities with softmax, and divide counts by their sum."
        )
