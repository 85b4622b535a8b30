"""Named subspaces of the residual stream, and the architecture that carries them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

Form = Literal["relative", "absolute", "linear"]
ReadOut = Literal["log_probs", "probs", "logits"]
Activation = Literal["gelu", "relu"]


class Layout:
    """A direct sum of named subspaces, each a slice of consecutive components.

    >>> layout = Layout({"token": 3, "lag": 2})
    >>> layout["lag"], layout.size
    (slice(3, 5, None), 5)
    """

    def __init__(self, widths: Mapping[str, int]) -> None:
        self._slices: dict[str, slice] = {}
        start = 0
        for name, width in widths.items():
            self._slices[name] = slice(start, start + width)
            start += width
        self.size = start

    def __getitem__(self, name: str) -> slice:
        return self._slices[name]

    def __repr__(self) -> str:
        parts = ", ".join(f"{name}: {s.start}..{s.stop - 1}" for name, s in self._slices.items())
        return f"Layout({parts})"


@dataclass(frozen=True)
class Architecture:
    """Shape of a HookedTransformer.

    Attributes:
        form: ``"absolute"`` for stock attention, ``"relative"`` for attention with relative key
            and value tables (Shaw et al. 2018), ``"linear"`` for attention without a softmax.
        read_out: ``"log_probs"`` puts a logarithm behind the unembedding, ``"probs"`` and
            ``"logits"`` leave it linear; they differ in how the output is read. A vector that is
            predicted is the linear output itself.
        n_tokens: Size of the vocabulary; with ``reads_vectors``, components of a vector.
        n_outputs: Outcomes that are predicted; None for as many as tokens.
        d_mlp: Width of the MLPs; None for attention only.
        activation: Of the MLPs.
        layer_norm: LayerNorm before each layer and before the unembedding.
        scaled: Attention scores are divided by the square root of ``d_head``.
        probability_floor: What a ``"log_probs"`` read-out raises smaller values to before the
            logarithm; 0 for the smallest normal number.
        reads_vectors: Its input is ``[batch, position, n_tokens]``, embedded linearly.
        lags: How many last vectors the embedding of a position reads; 1 for its own alone.
        causal: Attention is to earlier positions and the own one; or else to all.
    """

    form: Form
    read_out: ReadOut
    n_layers: int
    n_heads: int
    d_model: int
    d_head: int
    n_ctx: int
    n_tokens: int
    d_mlp: int | None = None
    n_outputs: int | None = None
    activation: Activation = "gelu"
    layer_norm: bool = False
    scaled: bool = False
    probability_floor: float = 0.0
    reads_vectors: bool = False
    lags: int = 1
    causal: bool = True


def last_vectors(
    vectors: Float[Tensor, "batch pos d_in"], lags: int
) -> Float[Tensor, "batch pos window"]:
    """The last ``lags`` vectors at every position, newest first, 0 before the first one.

    Args:
        vectors: ``[batch, pos, d_in]``.
        lags: How many.
    """
    padded = functional.pad(vectors, (0, 0, lags - 1, 0))
    length = vectors.shape[1]
    windows = [padded[:, lags - 1 - lag : lags - 1 - lag + length] for lag in range(lags)]
    return torch.cat(windows, -1)
