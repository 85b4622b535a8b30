"""Sequences of vectors, for tasks whose tokens are no numbers of a vocabulary."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def last_vectors(
    vectors: Float[Tensor, "batch pos d_in"], lags: int
) -> Float[Tensor, "batch pos window"]:
    """The last ``lags`` vectors at every position, newest first, 0 before the first one."""
    padded = functional.pad(vectors, (0, 0, lags - 1, 0))
    length = vectors.shape[1]
    windows = [padded[:, lags - 1 - lag : lags - 1 - lag + length] for lag in range(lags)]
    return torch.cat(windows, -1)


def signed_shares(
    pattern: Float[Tensor, "*row query key"],
) -> Float[Tensor, "*row query key"]:
    """Attention without a softmax as shares of its magnitude at each query, with their signs.

    Magnitudes sum to 1 at each query. Patterns that are distributions stay as they are; a query
    that attends to nothing keeps zeros.
    """
    total = pattern.abs().sum(-1, keepdim=True)
    return pattern / torch.where(total > 0, total, 1.0)
