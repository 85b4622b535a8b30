"""Architectures that can be trained, by name; each computes what its HookedTransformer does."""

from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from mtd_lens.architectures.models import (
    MAX_LAYERS,
    MAX_WIDTH,
    DisentangledTransformer,
    Size,
    StockTransformer,
    Trainable,
)
from mtd_lens.architectures.vectors import VectorTransformer
from mtd_lens.errors import ArgumentError
from probes import checks

if TYPE_CHECKING:
    import mtd_lens.contracts

__all__ = [
    "ARCHITECTURES",
    "MAX_LAYERS",
    "MAX_WIDTH",
    "VECTOR_ARCHITECTURES",
    "Size",
    "Trainable",
    "build_trainable",
    "size_for",
]

ARCHITECTURES: dict[str, Any] = {
    "disentangled": DisentangledTransformer,
    "attn-only": lambda size, generator: StockTransformer(size, generator, gpt=False),
    "gpt": lambda size, generator: StockTransformer(size, generator, gpt=True),
}

VECTOR_ARCHITECTURES: dict[str, Any] = {
    "linear": partial(VectorTransformer, linear=True, lags=1),
    "linear-augmented": partial(VectorTransformer, linear=True, lags=2),
    "softmax": partial(VectorTransformer, linear=False, lags=1),
    "softmax-augmented": partial(VectorTransformer, linear=False, lags=2),
}
"""For tasks whose tokens are vectors; an augmented one's embedding reads the last two of them."""


def size_for(task: "mtd_lens.contracts.Task", n_layers: int, d_model: int, n_heads: int) -> Size:
    """The shape of a model for a task.

    Args:
        task: With ``inputs``, ``outputs`` and ``seq_len``.
        n_layers: Depth.
        d_model: Width of a stock model.
        n_heads: Of a stock model.

    Raises:
        ArgumentError: A number out of its range.
    """
    reads, predicts = task.inputs.size, task.outputs.size
    other = None if predicts == reads else predicts
    return Size(reads, task.seq_len, n_layers, d_model, n_heads, other)


def build_trainable(name: str, size: Size, seed: int | None = 0) -> Trainable:
    """A new model of a named architecture, with initial weights.

    Args:
        name: ``"disentangled"``, ``"attn-only"`` or ``"gpt"``; for vectors ``"linear"``,
            ``"linear-augmented"``, ``"softmax"`` or ``"softmax-augmented"``.
        size: Its shape.
        seed: Of the initial weights; the process's random state is left alone. None for shapes
            alone: weights without values, on the device ``"meta"``.

    Raises:
        ArgumentError: An unknown name.
    """
    known = ARCHITECTURES | VECTOR_ARCHITECTURES
    checks.choice(name, "architecture", known, ArgumentError)
    if seed is None:
        with torch.device("meta"):
            return known[name](size, None)
    generator = torch.Generator().manual_seed(checks.seed(seed, ArgumentError))
    return known[name](size, generator)
