"""Transformers for sequences of vectors, with softmax or with linear attention, no MLPs."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mtd_lens.architectures.layout import Form, last_vectors
from mtd_lens.architectures.models import Size, StockTransformer, normal


class VectorTransformer(StockTransformer):
    """Attention alone on vectors, embedded linearly with learned positions, read out linearly.

    Args:
        size: Its shape; ``n_tokens`` is the number of components of a vector.
        generator: Of the initial weights; None for weights without values.
        linear: Without the softmax: the pattern is the scores, 0 where attention is masked.
        lags: How many last vectors the embedding of a position reads.
    """

    def __init__(
        self, size: Size, generator: torch.Generator | None, *, linear: bool, lags: int
    ) -> None:
        super().__init__(size, generator, gpt=False)
        self.linear, self.lags = linear, lags
        form: Form = "linear" if linear else "absolute"
        self.architecture = replace(self.architecture, form=form, reads_vectors=True, lags=lags)
        draw = normal(generator, lags * size.n_tokens, size.d_model, std=1.0)
        self.embed = nn.Module()
        self.embed.W_E = nn.Parameter(draw)
        self.get_parameter("pos_embed.W_pos").data.mul_(0.1)
        if linear:  # values are summed over the context, not averaged
            for layer in range(size.n_layers):
                self.get_parameter(f"blocks.{layer}.attn.W_Q").data.div_(size.n_ctx)

    def _embedded(
        self, vectors: Float[Tensor, "batch pos component"], W_E: Tensor
    ) -> Float[Tensor, "batch pos d_model"]:
        return last_vectors(vectors.to(W_E), self.lags) @ W_E

    def _pattern(
        self, q: Float[Tensor, "row pos d_head"], k: Float[Tensor, "row pos d_head"]
    ) -> Float[Tensor, "row query key"]:
        if not self.linear:
            return super()._pattern(q, k)
        return (q @ k.transpose(1, 2)).tril() * q.shape[-1] ** -0.5
