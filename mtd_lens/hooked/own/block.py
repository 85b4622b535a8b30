"""A block of a HookedTransformer: attention, then an MLP, each added to the residual stream."""

from typing import Any

from jaxtyping import Float
from torch import Tensor
from transformer_lens.hook_points import HookPoint
from transformer_lens.utilities import repeat_along_head_dimension

from mtd_lens.hooked.own.attention import Attention, GroupedQueryAttention
from mtd_lens.hooked.own.config import HookedTransformerConfig
from mtd_lens.hooked.own.mlps import MLP, GatedMLP
from mtd_lens.hooked.own.norms import norm_of
from mtd_lens.hooked.own.part import Part


class TransformerBlock(Part):
    """A layer.

    Args:
        cfg: Of the model.
        block_index: From 0 on.
    """

    hook_out_is_single_residual_stream = True
    """For TransformerLens's tools, which ask it of a bridge's blocks."""

    def __init__(self, cfg: HookedTransformerConfig, block_index: int) -> None:
        super().__init__(cfg)
        self.normalization_type = cfg.normalization_type
        self.ln1 = norm_of(cfg)
        if not cfg.attn_only:
            self.ln2 = norm_of(cfg)
        kind = Attention if cfg.n_key_value_heads is None else GroupedQueryAttention
        attn_type = cfg.attn_types[block_index] if cfg.use_local_attn and cfg.attn_types else None
        self.attn = kind(cfg, attn_type or "global", block_index)
        if not cfg.attn_only:
            self.mlp = (GatedMLP if cfg.gated_mlp else MLP)(cfg)
        self.hook_attn_in = HookPoint()  # [batch, position, head, d_model]
        self.hook_q_input = HookPoint()
        self.hook_k_input = HookPoint()
        self.hook_v_input = HookPoint()
        self.hook_mlp_in = HookPoint()  # [batch, position, d_model]
        self.hook_attn_out = HookPoint()
        self.hook_mlp_out = HookPoint()
        self.hook_resid_pre = HookPoint()
        if not (cfg.attn_only or cfg.parallel_attn_mlp):
            self.hook_resid_mid = HookPoint()
        self.hook_resid_post = HookPoint()

    def forward(
        self,
        resid_pre: Float[Tensor, "batch pos d_model"],
        shortformer_pos_embed: None = None,
        past_kv_cache_entry: Any = None,
        attention_mask: Tensor | None = None,
    ) -> Float[Tensor, "batch pos d_model"]:
        """The residual stream after the block.

        Args:
            resid_pre: The stream before it.
            shortformer_pos_embed: Of no use: these models have no such positions.
            past_kv_cache_entry: Earlier keys and values; these are added to them.
            attention_mask: ``[batch, past and new pos]``, 0 at padding.
        """
        resid_pre = self.hook_resid_pre(resid_pre)
        query, key, value = self._inputs(resid_pre)
        attn_out = self.hook_attn_out(
            self.attn(
                query_input=self.ln1(query),
                key_input=self.ln1(key),
                value_input=self.ln1(value),
                past_kv_cache_entry=past_kv_cache_entry,
                attention_mask=attention_mask,
            )
        )
        if self.cfg.attn_only:
            return self.hook_resid_post(resid_pre + attn_out)
        if self.cfg.parallel_attn_mlp:
            mlp_out = self._mlp_out(resid_pre)
            return self.hook_resid_post(resid_pre + attn_out + mlp_out)
        resid_mid = self.hook_resid_mid(resid_pre + attn_out)
        return self.hook_resid_post(resid_mid + self._mlp_out(resid_mid))

    def _inputs(self, resid_pre: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What queries, keys and values are computed from: the stream, or a copy for each head."""
        cfg = self.cfg
        if cfg.use_split_qkv_input:
            grouped = None if cfg.ungroup_grouped_query_attention else cfg.n_key_value_heads
            n_groups = cfg.n_heads if grouped is None else grouped
            return (
                self.hook_q_input(repeat_along_head_dimension(resid_pre, n_heads=cfg.n_heads)),
                self.hook_k_input(repeat_along_head_dimension(resid_pre, n_heads=n_groups)),
                self.hook_v_input(repeat_along_head_dimension(resid_pre, n_heads=n_groups)),
            )
        if cfg.use_attn_in:
            copies = repeat_along_head_dimension(resid_pre, n_heads=cfg.n_heads)
            return (self.hook_attn_in(copies),) * 3
        return resid_pre, resid_pre, resid_pre

    def _mlp_out(self, stream: Tensor) -> Tensor:
        if self.cfg.use_hook_mlp_in:
            stream = self.hook_mlp_in(stream.clone())
        return self.hook_mlp_out(self.mlp(self.ln2(stream)))
