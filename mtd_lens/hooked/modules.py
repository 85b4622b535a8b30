"""Modules in place of a HookedTransformer's stock ones: attention, embeddings, a read-out."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint

from mtd_lens.architectures.layout import last_vectors
from mtd_lens.errors import TokensError
from mtd_lens.hooked.library import (
    Attention,
    Embed,
    HookedTransformerConfig,
    PosEmbed,
    Unembed,
)


class RelativeAttention(Attention):
    """Attention with relative key and value tables (Shaw et al. 2018).

    ``score_ij = q_i · (k_j + RK[i-j])`` and ``z_i = Σ_j A_ij (v_j + RV[i-j])``, with one row of
    each table for every offset ``0 … n_ctx-1``. All hooks of the stock attention stay causal.
    """

    def __init__(self, cfg: HookedTransformerConfig, layer_id: int) -> None:
        super().__init__(cfg, "global", layer_id)
        shape = (cfg.n_heads, cfg.n_ctx, cfg.d_head)
        self.RK = nn.Parameter(torch.zeros(shape, dtype=cfg.dtype))
        self.RV = nn.Parameter(torch.zeros(shape, dtype=cfg.dtype))

    def calculate_attention_scores(
        self,
        q: Float[Tensor, "batch query_pos head_index d_head"],
        k: Float[Tensor, "batch key_pos head_index d_head"],
    ) -> Float[Tensor, "batch head_index query_pos key_pos"]:
        """Content score plus the relative key's score at each offset."""
        by_offset = torch.einsum("bqhd,hod->bhqo", q, self.RK)
        offsets = _offsets(q.shape[1], k.shape[1], q.device).clamp_min(0)
        relative = by_offset.gather(-1, offsets.expand(*by_offset.shape[:3], -1))
        return super().calculate_attention_scores(q, k) + relative / self.attn_scale

    def calculate_z_scores(
        self,
        v: Float[Tensor, "batch key_pos head_index d_head"],
        pattern: Float[Tensor, "batch head_index query_pos key_pos"],
    ) -> Float[Tensor, "batch query_pos head_index d_head"]:
        """Average of values plus the relative values, through the stock ``hook_z``."""
        content = torch.einsum("bhqk,bkhd->bqhd", pattern, v)
        offsets = _offsets(pattern.shape[-2], pattern.shape[-1], v.device)
        by_offset = torch.zeros_like(pattern).scatter_add(
            -1,
            offsets.clamp_min(0).expand_as(pattern),
            torch.where(offsets >= 0, pattern, torch.zeros_like(pattern)),
        )
        relative = torch.einsum("bhqo,hod->bqhd", by_offset, self.RV[:, : pattern.shape[-1]])
        return self.hook_z(content + relative)


def _offsets(n_queries: int, n_keys: int, device: torch.device) -> Int[Tensor, "query key"]:
    """``i - j``; queries are the last positions, so that cached keys come before them."""
    queries = torch.arange(n_keys - n_queries, n_keys, device=device)[:, None]
    return queries - torch.arange(n_keys, device=device)


class LinearAttention(Attention):
    """Attention without a softmax: the pattern is the scores, 0 where attention is masked.

    With ``hook_result``, all hooks of the stock attention are there and causal.
    """

    def forward(
        self,
        query_input: Float[Tensor, "batch query_pos d_model"],
        key_input: Float[Tensor, "batch key_pos d_model"],
        value_input: Float[Tensor, "batch key_pos d_model"],
        past_kv_cache_entry: Any = None,
        additive_attention_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_bias: Tensor | None = None,
    ) -> Float[Tensor, "batch query_pos d_model"]:
        """Sum of the values, each times its query's and its key's inner product."""
        q, k, v = self.calculate_qkv_matrices(query_input, key_input, value_input)
        if past_kv_cache_entry is not None:
            k, v = past_kv_cache_entry.append(k, v)
        scores = self.calculate_attention_scores(q, k)
        if self.cfg.attention_dir == "causal":
            later = _offsets(q.shape[1], k.shape[1], q.device) < 0
            scores = scores.masked_fill(later, 0.0)
        z = self.calculate_z_scores(v, self.hook_pattern(self.hook_attn_scores(scores)))
        if self.cfg.use_attn_result:
            each = self.hook_result(torch.einsum("bqhd,hdm->bqhm", z, self.W_O))
            return each.sum(2) + self.b_O
        return nn.functional.linear(z.flatten(2), self.W_O.flatten(0, 1).T, self.b_O)


class VectorEmbed(Embed):
    """Vectors into the residual stream: the last ``lags`` of them, newest first, times ``W_E``."""

    def __init__(self, cfg: HookedTransformerConfig, lags: int) -> None:
        super().__init__(cfg)
        self.d_in, self.lags = cfg.d_vocab, lags
        self.W_E = nn.Parameter(torch.empty(lags * self.d_in, cfg.d_model, dtype=cfg.dtype))

    def forward(self, vectors: Tensor) -> Float[Tensor, "batch pos d_model"]:
        """A linear map of each position's vectors; before the first one there are zeros."""
        if not vectors.is_floating_point() or vectors.shape[2:] != (self.d_in,):
            raise TokensError(
                f"this model reads vectors, floating-point [batch, position, {self.d_in}]; got "
                f"{vectors.dtype} {tuple(vectors.shape)}."
            )
        if vectors.shape[1] > self.cfg.n_ctx:
            raise TokensError(
                f"sequences of {vectors.shape[1]} vectors are longer than the model's context of "
                f"{self.cfg.n_ctx}. Cut them."
            )
        return last_vectors(vectors.to(self.W_E), self.lags) @ self.W_E


class VectorPosEmbed(PosEmbed):
    """Absolute positions of a sequence of vectors."""

    def forward(
        self, vectors: Tensor, past_kv_pos_offset: int = 0, attention_mask: Tensor | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        """One row of ``W_pos`` a position, whatever the vectors."""
        return super().forward(vectors[..., 0], past_kv_pos_offset, attention_mask)


class LogProbUnembed(Unembed):
    """A linear read-out of probabilities, returned as log-probabilities.

    Probabilities below ``floor``, or the smallest normal number of the dtype, are raised to it.
    ``hook_prob`` holds the probabilities, ``hook_out`` their logarithms.
    """

    def __init__(self, cfg: HookedTransformerConfig, floor: float = 0.0) -> None:
        super().__init__(cfg)
        self.floor = floor
        self.hook_prob = HookPoint()

    def forward(
        self, residual: Float[Tensor, "batch pos d_model"]
    ) -> Float[Tensor, "batch pos d_vocab_out"]:
        """Log-probabilities of the next token."""
        linear = nn.functional.linear(self.hook_in(residual), self.W_U.T.contiguous(), self.b_U)
        probability = self.hook_prob(linear)
        floor = max(self.floor, torch.finfo(linear.dtype).tiny)
        return self.hook_out(probability.clamp_min(floor).log())
