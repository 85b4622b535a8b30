"""The ends of a HookedTransformer: tokens and positions in, logits out."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional
from transformer_lens.hook_points import HookPoint
from transformer_lens.utilities import get_offset_position_ids

from mtd_lens.hooked.own.config import HookedTransformerConfig
from mtd_lens.hooked.own.part import Part


class Embed(Part):
    """A vector for each token."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__(cfg)
        self.W_E = self.weight(cfg.d_vocab, cfg.d_model)

    def forward(self, tokens: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch pos d_model"]:
        """The rows of ``W_E``."""
        return self.W_E[tokens, :]


class PosEmbed(Part):
    """A vector for each position."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__(cfg)
        self.W_pos = self.weight(cfg.n_ctx, cfg.d_model)

    def forward(
        self, tokens: Tensor, past_kv_pos_offset: int = 0, attention_mask: Tensor | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        """The rows of ``W_pos``, from the first token that is not padding on; 0 at padding.

        Args:
            tokens: ``[batch, pos]``.
            past_kv_pos_offset: Positions that were read before.
            attention_mask: ``[batch, past and new pos]``, 0 at padding.
        """
        here = slice(past_kv_pos_offset, past_kv_pos_offset + tokens.shape[-1])
        if attention_mask is None:
            return self.W_pos[here].expand(len(tokens), -1, -1).clone()
        rows = self.W_pos[get_offset_position_ids(past_kv_pos_offset, attention_mask)]
        padding = ~attention_mask.bool()[:, here, None]
        return torch.where(padding, 0, rows).clone()


class Unembed(Part):
    """A linear map to logits."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__(cfg)
        self.W_U = self.weight(cfg.d_model, cfg.d_vocab_out)
        self.b_U = self.constant(0.0, cfg.d_vocab_out)
        self.hook_in = HookPoint()  # [batch, position, d_model]
        self.hook_out = HookPoint()  # [batch, position, d_vocab_out]

    def forward(
        self, residual: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos d_vocab_out"]:
        """The logits."""
        residual = self.hook_in(residual)
        return self.hook_out(functional.linear(residual, self.W_U.T.contiguous(), self.b_U))
