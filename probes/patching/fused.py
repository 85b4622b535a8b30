"""Stock attention and normalisation by torch's fused kernels.

The attention of a single query is taken without projecting keys and values.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from probes.subject import HookedModel, Subject, subject_of

_STOCK_ATTENTION = frozenset({"Attention", "GroupedQueryAttention"})
_STOCK_NORMS = frozenset({"LayerNorm", "LayerNormPre"})


class FusedAttention:
    """Stock attention by torch's fused kernel; keys and values are kept by query head."""

    def __init__(self, attn: Any, subject: Subject) -> None:
        self.n_heads, self.d_head = subject.n_heads, subject.d_head
        self.scale = 1 / float(attn.attn_scale)
        grouped = type(attn).__name__ == "GroupedQueryAttention"
        key_value = (attn._W_K, attn._W_V) if grouped else (attn.W_K, attn.W_V)
        biases = (attn._b_K, attn._b_V) if grouped else (attn.b_K, attn.b_V)
        self.n_groups = len(key_value[0])
        self._key_value, self._key_value_bias = key_value, biases
        inward = torch.cat([attn.W_Q, *key_value])  # [head, d_model, d_head]
        self._inward = inward.transpose(0, 1).flatten(1).T.contiguous()
        self._bias = torch.cat([attn.b_Q, *biases]).flatten()
        self._outward = attn.W_O.flatten(0, 1).T.contiguous()
        self._outward_bias = attn.b_O

    def by_position(self, x: Tensor) -> Tensor:
        """``[batch, head, position, d_head]`` as it passes hooks, by key-value head."""
        return x[:, :: self.n_heads // self.n_groups].transpose(1, 2)

    def project(self, normalized: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, ``[batch, head, position, d_head]`` each."""
        joint = functional.linear(normalized, self._inward, self._bias)
        joint = joint.unflatten(-1, (-1, self.d_head)).transpose(1, 2)
        query, key, value = joint.split([self.n_heads, self.n_groups, self.n_groups], 1)
        if self.n_groups != self.n_heads:
            times = self.n_heads // self.n_groups
            key, value = (x.repeat_interleave(times, 1) for x in (key, value))
        return query, key, value

    def combine(self, z: Tensor) -> Tensor:
        """Heads' outputs, ``[…, head * d_head]``, to the residual stream."""
        return functional.linear(z, self._outward, self._outward_bias)

    def attend(self, normalized: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attention of the positions in ``normalized`` to all, ``keys`` and ``values`` before."""
        query, key, value = self.project(normalized)
        copies, first = len(query) // len(keys), keys.shape[2]
        if first:
            key = torch.cat([stacked(keys, copies), key], 2)
            value = torch.cat([stacked(values, copies), value], 2)
        return self.combine(self.mix(query, key, value, first).flatten(-2))

    def attend_last(self, normalized: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """What ``attend`` gives at the last position, ``[row, 1, d_model]``.

        One query makes projecting every position needless: its score with ``x W_K + b_K`` is that
        of the query led back through ``W_K`` with ``x``, and an average of projected values is the
        projected average.
        """
        (W_K, W_V), (b_K, b_V) = self._key_value, self._key_value_bias  # [group, d_model, d_head]
        first, n_inner = keys.shape[2], self.n_heads * self.d_head
        query = functional.linear(
            normalized[:, -1], self._inward[:n_inner], self._bias[:n_inner]
        ).unflatten(-1, (self.n_groups, -1, self.d_head))  # [row, group, head of group, d_head]
        led_back = torch.einsum("rghd,gmd->rghm", query, W_K).flatten(1, 2)
        constant = torch.einsum("rghd,gd->rgh", query, b_K).flatten(1)[..., None]
        scores = led_back @ normalized.mT + constant  # [row, head, position]
        if first:
            alike = query.flatten(1, 2).unflatten(0, (-1, len(keys)))
            before = torch.einsum("cbhd,bhkd->cbhk", alike, keys).flatten(0, 1)
            scores = torch.cat([before, scores], -1)
        pattern = (scores * self.scale).softmax(-1)
        own = pattern[..., first:]
        mean = (own @ normalized).unflatten(1, (self.n_groups, -1))
        total = own.sum(-1).unflatten(1, (self.n_groups, -1))[..., None]
        z = (torch.einsum("rghm,gmd->rghd", mean, W_V) + total * b_V[:, None]).flatten(1, 2)
        if first:
            before = pattern[..., :first].unflatten(0, (-1, len(values)))
            z = z + torch.einsum("cbhk,bhkd->cbhd", before, values).flatten(0, 1)
        return self.combine(z.flatten(1))[:, None]

    def mix(self, query: Tensor, key: Tensor, value: Tensor, first: int) -> Tensor:
        """Heads' outputs of queries at positions ``first`` on, ``[batch, query, head, d_head]``."""
        one = query.shape[2] == 1
        mask = None if one or not first else _causal_mask(query, first)
        causal = not (one or first)
        z = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=causal, scale=self.scale
        )
        return z.transpose(1, 2)


def normalized(norm: Any, x: Tensor) -> Tensor:
    """What a normalisation layer makes of ``x``: by torch's kernel, where it is a stock one."""
    if type(norm).__name__ not in _STOCK_NORMS:
        return norm(x)
    weight, bias = getattr(norm, "w", None), getattr(norm, "b", None)
    return functional.layer_norm(x, x.shape[-1:], weight, bias, norm.eps)


def fused_attention(model: HookedModel) -> list[FusedAttention | None]:
    """Fused attention of each block whose attention is the stock kind, None of the others."""
    subject = subject_of(model)
    return [
        FusedAttention(block.attn, subject)
        if type(block.attn).__name__ in _STOCK_ATTENTION
        and block.attn.attn_type == "global"
        and subject.plain_attention
        else None
        for block in subject.model.blocks
    ]


def _causal_mask(query: Tensor, first: int) -> Float[Tensor, "query key"]:
    """0 where queries at positions ``first`` on may attend, else minus infinity."""
    n_queries = query.shape[2]
    mask = query.new_full((n_queries, first + n_queries), -math.inf)
    return mask.triu_(first + 1)


def stacked(x: Tensor, copies: int) -> Tensor:
    """``x`` so many times on its first axis."""
    return x if copies == 1 else x.repeat(copies, *[1] * (x.ndim - 1))
