"""What the weights of analytic constructions are written with.

A softmax cannot give exactly 0, so keys outside a band get a score that is lower by a finite
margin. Every margin of a construction is at least :data:`MARGIN`, so what leaks out of a band is at
most :func:`leak_bound`.
"""

import math

import torch
from torch import Tensor

MARGIN = 80.0
"""Nats between the scores inside a band and those outside: exp(-80) is 2e-35."""


def leak_bound(n_keys: int) -> float:
    """The most attention that a softmax over ``n_keys`` keys gives outside its band."""
    return (n_keys - 1) * math.exp(-MARGIN)


def zeros(*shape: int) -> Tensor:
    """A float64 tensor of zeros to write weights into."""
    return torch.zeros(*shape, dtype=torch.float64)


def eye(size: int) -> Tensor:
    """A float64 identity matrix."""
    return torch.eye(size, dtype=torch.float64)


def for_block(layer: int, part: str, **weights: Tensor) -> dict[str, Tensor]:
    """Weights of a block's ``attn`` or ``mlp`` under their names in a ``state_dict``."""
    return {f"blocks.{layer}.{part}.{name}": value for name, value in weights.items()}
