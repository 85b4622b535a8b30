"""Attention: heads with keys and values of their own, and heads that share them by groups."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional
from transformer_lens import FactoredMatrix
from transformer_lens.hook_points import HookPoint
from transformer_lens.utilities import get_offset_position_ids

from mtd_lens.errors import ModelError
from mtd_lens.hooked.own.config import HookedTransformerConfig
from mtd_lens.hooked.own.part import Part, soft_capped
from mtd_lens.hooked.own.rotary import rotary_tables, rotated

N_ROTARY = 2048
"""Positions whose angles are computed at first; the others when they are needed."""


class Attention(Part):
    """Attention whose every step has a hook.

    Args:
        cfg: Of the model.
        attn_type: ``"global"``, or ``"local"`` to see the last ``cfg.window_size`` positions.
        layer_id: Of the block.
    """

    mask: Tensor
    IGNORE: Tensor
    rotary_sin: Tensor
    rotary_cos: Tensor

    def __init__(
        self, cfg: HookedTransformerConfig, attn_type: str = "global", layer_id: int | None = None
    ) -> None:
        super().__init__(cfg)
        if attn_type not in ("global", "local"):
            raise ModelError(f"attn_types are 'global' or 'local'; got {attn_type!r}.")
        self.attn_type, self.layer_id = attn_type, layer_id
        self.W_Q = self.weight(cfg.n_heads, cfg.d_model, cfg.d_head)
        self.W_O = self.weight(cfg.n_heads, cfg.d_head, cfg.d_model)
        self.b_Q = self.constant(0.0, cfg.n_heads, cfg.d_head)
        self.b_O = self.constant(0.0, cfg.d_model)
        self.add_keys_and_values()
        # Version 3 has these two in its state_dict; the first is empty there as well.
        self.register_buffer("mask", torch.empty((0, 0), dtype=torch.bool))
        self.register_buffer("IGNORE", torch.tensor(-torch.inf))
        self.attn_scale = cfg.attn_scale if cfg.use_attn_scale else 1.0
        if cfg.scale_attn_by_inverse_layer_idx:
            self.attn_scale *= (layer_id or 0) + 1
        self.hook_k = HookPoint()  # [batch, position, head, d_head]
        self.hook_q = HookPoint()
        self.hook_v = HookPoint()
        self.hook_z = HookPoint()
        self.hook_attn_scores = HookPoint()  # [batch, head, query, key]
        self.hook_pattern = HookPoint()  # [batch, head, query, key]
        self.hook_result = HookPoint()  # [batch, position, head, d_model]
        if cfg.positional_embedding_type == "rotary":
            self.hook_rot_k = HookPoint()  # [batch, position, head, d_head]
            self.hook_rot_q = HookPoint()
            self._set_tables(min(cfg.n_ctx, N_ROTARY))

    def add_keys_and_values(self) -> None:
        """Make the parameters of keys and values."""
        cfg = self.cfg
        self.W_K = self.weight(cfg.n_heads, cfg.d_model, cfg.d_head)
        self.W_V = self.weight(cfg.n_heads, cfg.d_model, cfg.d_head)
        self.b_K = self.constant(0.0, cfg.n_heads, cfg.d_head)
        self.b_V = self.constant(0.0, cfg.n_heads, cfg.d_head)

    def _set_tables(self, n_positions: int) -> None:
        sines, cosines = rotary_tables(self.cfg, n_positions, self.attn_type == "local")
        self.register_buffer("rotary_sin", sines.to(self.W_Q.device))
        self.register_buffer("rotary_cos", cosines.to(self.W_Q.device))

    @property
    def OV(self) -> FactoredMatrix:
        """``W_V W_O`` of each head."""
        return FactoredMatrix(self.W_V, self.W_O)

    @property
    def QK(self) -> FactoredMatrix:
        """``W_Q W_Kᵀ`` of each head."""
        return FactoredMatrix(self.W_Q, self.W_K.mT)

    def forward(
        self,
        query_input: Tensor,
        key_input: Tensor,
        value_input: Tensor,
        past_kv_cache_entry: Any = None,
        additive_attention_mask: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """What the heads write.

        Args:
            query_input: ``[batch, pos, d_model]``, or with a head axis before the last.
            key_input: The same of keys.
            value_input: The same of values.
            past_kv_cache_entry: Earlier keys and values; these are added to them.
            additive_attention_mask: Added to the scores.
            attention_mask: ``[batch, past and new pos]``, 0 at padding.
        """
        q, k, v = self.calculate_qkv_matrices(query_input, key_input, value_input)
        n_past = 0
        if past_kv_cache_entry is not None:
            n_past = past_kv_cache_entry.past_keys.shape[1]
            k, v = past_kv_cache_entry.append(k, v)
        if self.cfg.positional_embedding_type == "rotary":
            q = self.hook_rot_q(self.apply_rotary(q, n_past, attention_mask))
            k = self.hook_rot_k(self.apply_rotary(k, 0, attention_mask))
        scores = self.calculate_attention_scores(q, k)
        if self.cfg.attention_dir == "causal":
            scores = self.apply_causal_mask(scores, n_past, attention_mask)
        if additive_attention_mask is not None:
            scores = scores + additive_attention_mask
        pattern = functional.softmax(self.hook_attn_scores(scores), dim=-1)
        pattern = torch.where(pattern.isnan(), torch.zeros_like(pattern), pattern)
        pattern = self.hook_pattern(pattern).to(device=v.device, dtype=v.dtype)
        z = self.calculate_z_scores(v, pattern).to(self.W_O.dtype)
        if self.cfg.use_attn_result:
            return self.hook_result((z[..., None] * self.W_O).sum(-2)).sum(2) + self.b_O
        return functional.linear(z.flatten(2), self.W_O.flatten(0, 1).T.contiguous(), self.b_O)

    def calculate_qkv_matrices(
        self, query_input: Tensor, key_input: Tensor, value_input: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, ``[batch, pos, head, d_head]``."""
        q = self.hook_q(self.project(query_input, self.W_Q, self.b_Q))
        k = self.hook_k(self.project(key_input, self.W_K, self.b_K))
        return q, k, self.hook_v(self.project(value_input, self.W_V, self.b_V))

    def project(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """``x W + b`` by head; heads have inputs of their own where they are split."""
        if self.cfg.use_split_qkv_input or self.cfg.use_attn_in:
            return torch.einsum("bphm,hmd->bphd", x, weight) + bias
        inward = weight.mT.flatten(0, 1)
        return functional.linear(x, inward, bias.flatten()).unflatten(-1, bias.shape)

    def calculate_attention_scores(
        self, q: Tensor, k: Tensor
    ) -> Float[Tensor, "batch head query key"]:
        """Products of queries and keys over the scale."""
        scores = q.transpose(1, 2) @ k.permute(0, 2, 3, 1) / self.attn_scale
        return soft_capped(scores, self.cfg.attn_scores_soft_cap)

    def calculate_z_scores(self, v: Tensor, pattern: Tensor) -> Float[Tensor, "batch pos head dim"]:
        """Averages of values."""
        return self.hook_z((pattern @ v.transpose(1, 2)).transpose(1, 2))

    def apply_causal_mask(
        self, scores: Tensor, n_past: int = 0, attention_mask: Tensor | None = None
    ) -> Float[Tensor, "batch head query key"]:
        """The scores, minus infinity where a query may not look."""
        n_queries, n_keys = scores.shape[-2:]
        if n_queries + n_past != n_keys:
            raise ModelError(
                f"{n_queries} queries after {n_past} positions cannot look at {n_keys} keys. Pass "
                "keys and values of the same positions."
            )
        queries = torch.arange(n_past, n_keys, device=scores.device)[:, None]
        keys = torch.arange(n_keys, device=scores.device)
        seen = keys <= queries
        if self.attn_type == "local" and self.cfg.window_size is not None:
            seen = seen & (keys > queries - self.cfg.window_size)
        seen = seen[None, None]
        if attention_mask is not None:
            seen = seen & attention_mask[:, None, None].bool()
        return torch.where(seen, scores, self.IGNORE)

    def apply_rotary(
        self, x: Tensor, n_past: int = 0, attention_mask: Tensor | None = None
    ) -> Float[Tensor, "batch pos head dim"]:
        """Queries or keys turned by the angles of their positions.

        Args:
            x: ``[batch, pos, head, d_head]``.
            n_past: Positions before the first of them.
            attention_mask: ``[batch, past and new pos]``, 0 at padding, which is not counted.
        """
        end = n_past + x.shape[1]
        if end > len(self.rotary_sin):
            self._set_tables(min(self.cfg.n_ctx, max(end, 2 * len(self.rotary_sin))))
        rows: Any = (None, slice(n_past, end))
        if attention_mask is not None:
            rows = (get_offset_position_ids(n_past, attention_mask),)
        sines, cosines = self.rotary_sin[rows], self.rotary_cos[rows]
        adjacent = self.cfg.rotary_adjacent_pairs
        return rotated(x, sines[:, :, None], cosines[:, :, None], adjacent)

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Tensor], prefix: str, *args: Any
    ) -> None:
        """Load, but for buffers of another length: they follow from the configuration."""
        kept = dict(state_dict)
        for name, buffer in self.named_buffers(recurse=False):
            if kept.get(prefix + name, buffer).shape != buffer.shape:
                kept[prefix + name] = buffer
        super()._load_from_state_dict(kept, prefix, *args)


def _repeated(name: str) -> Any:
    """A property: a parameter of groups, once for each head of a group."""

    def by_head(attention: Any) -> Tensor:
        return getattr(attention, name).repeat_interleave(attention.repeat_kv_heads, dim=0)

    return property(by_head)


class GroupedQueryAttention(Attention):
    """Attention in which groups of heads share keys and values (Ainslie et al. 2023)."""

    W_K, W_V = _repeated("_W_K"), _repeated("_W_V")
    b_K, b_V = _repeated("_b_K"), _repeated("_b_V")

    def add_keys_and_values(self) -> None:
        """Make the parameters of keys and values, one for each group."""
        cfg, n_groups = self.cfg, self.cfg.n_key_value_heads
        assert n_groups is not None
        self.repeat_kv_heads = cfg.n_heads // n_groups
        self._W_K = self.weight(n_groups, cfg.d_model, cfg.d_head)
        self._W_V = self.weight(n_groups, cfg.d_model, cfg.d_head)
        self._b_K = self.constant(0.0, n_groups, cfg.d_head)
        self._b_V = self.constant(0.0, n_groups, cfg.d_head)

    def calculate_qkv_matrices(
        self, query_input: Tensor, key_input: Tensor, value_input: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries by head; keys and values by group, unless the configuration ungroups them."""
        if self.cfg.ungroup_grouped_query_attention:
            return super().calculate_qkv_matrices(query_input, key_input, value_input)
        q = self.hook_q(self.project(query_input, self.W_Q, self.b_Q))
        k = self.hook_k(self.project(key_input, self._W_K, self._b_K))
        return q, k, self.hook_v(self.project(value_input, self._W_V, self._b_V))

    def calculate_attention_scores(
        self, q: Tensor, k: Tensor
    ) -> Float[Tensor, "batch head query key"]:
        """Products of queries and their groups' keys over the scale."""
        return super().calculate_attention_scores(q, self._by_head(k))

    def calculate_z_scores(self, v: Tensor, pattern: Tensor) -> Float[Tensor, "batch pos head dim"]:
        """Averages of the groups' values."""
        return super().calculate_z_scores(self._by_head(v), pattern)

    def _by_head(self, x: Tensor) -> Tensor:
        if self.cfg.ungroup_grouped_query_attention:
            return x
        return x.repeat_interleave(self.repeat_kv_heads, dim=2)
