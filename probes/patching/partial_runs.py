"""Forward passes that run only what an edit can change.

In a causal transformer an edit at one layer and position leaves everything below that layer and
before that position as it was. A :class:`PartialRunner` keeps the residual streams, keys and values
of one natural run and goes on from an edited residual stream: from the edited layer, for the
positions from the edit on and, where only the last position's output is asked for, with one query
in the last layer.

Attention is torch's fused kernel where a block's attention is the stock kind, and the module's own
``forward`` on keys and values put before its own (the form of TransformerLens's key-value cache)
everywhere else, so that relative, rotary, local or padded attention keeps its own arithmetic.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from probes.patching.fused import FusedAttention, normalized, stacked
from probes.subject import HookedModel, subject_of
from probes.twins import through

ROUNDING = 16
"""Units in the last place by which outputs of passes that compute the same may differ."""

Stream = Float[Tensor, "batch position d_model"]


def why_not(model: HookedModel, *, with_before: bool = False) -> str | None:
    """The reason why a model's runs cannot be resumed, in words; None if they can be.

    Args:
        model: A hooked model.
        with_before: Whether positions that it puts before every sequence are dealt with.
    """
    subject = subject_of(model)
    if not subject.resumes:
        return through(model) or "it is not made of TransformerLens's blocks"
    if any(point.fwd_hooks or point.bwd_hooks for point in model.hook_dict.values()):
        return "it has hooks of its own"
    if subject.n_before and not with_before:
        return "it puts tokens of its own before every sequence"
    if subject.dtype not in (torch.float32, torch.float64):
        return "in 16 bits, passes of other lengths round otherwise"
    return next(iter(subject.departures), None)


def tolerance(dtype: torch.dtype) -> float:
    """How far resumed outputs may be from hooked ones, as a share of the largest output."""
    return math.sqrt(torch.finfo(dtype).eps) / 3


def distance(outputs: Tensor, reference: Tensor) -> float:
    """The largest difference, as a share of the reference's largest entry."""
    scale = reference.abs().max().clamp_min(torch.finfo(reference.dtype).tiny)
    return float((outputs - reference).abs().max() / scale)


def without_rounding(
    outputs: Float[Tensor, "*copies outcome"], natural: Float[Tensor, "*batch outcome"]
) -> Float[Tensor, "*copies outcome"]:
    """Outputs, set to the natural ones in rows that differ from them by rounding alone.

    In such a row no entry is further off than ``ROUNDING`` units in the last place of the largest
    entry that changed. In 16 bits, where that cannot be told from an effect, all rows stay.

    Args:
        outputs: ``[…, outcome]``: of edited runs, or of other ones; set in place.
        natural: ``[…, outcome]``: of the unedited runs; its axes are the last ones of ``outputs``.
    """
    if outputs.dtype not in (torch.float32, torch.float64):
        return outputs
    share = ROUNDING * torch.finfo(outputs.dtype).eps
    most = share * natural.abs().amax(-1)
    natural = natural.expand_as(outputs)
    # one entry rules out nearly every row that an edit reaches
    near = ~((outputs[..., 0] - natural[..., 0]).abs() > most)
    rows = near.nonzero(as_tuple=True)
    if len(rows[0]):
        edited, own = outputs[rows], natural[rows]
        changed = edited != own
        scale = torch.where(changed, own.abs(), 0).amax(-1, keepdim=True)
        same = (~changed | ((edited - own).abs() <= share * scale)).all(-1, keepdim=True)
        outputs[rows] = torch.where(same, own, edited)
    return outputs


class PartialRunner:
    """One natural run of a model, and passes that go on from edits of it.

    Streams are counted by the block that reads them: stream ``n_layers`` is the last one, which the
    read-out reads; with ``last_only`` it is not kept.

    Args:
        model: A hooked model for which ``why_not`` is None; it is not changed.
        tokens: ``[batch, position]``.
        last_only: Outputs at the last position alone, ``[batch, token]``; otherwise at every one,
            ``[batch, position, token]``.
        fused: What ``fused_attention`` makes of the model's blocks.
        keep_z: Also keep the heads' outputs.

    Attributes:
        streams: ``[batch, position, d_model]``, one a block that reads it.
        attn_out: ``[batch, position, d_model]``, one a block.
        z: Heads' outputs, ``[batch, position, head, d_head]``, one a block, if kept.
        outputs: Of the natural run.
    """

    def __init__(
        self,
        model: HookedModel,
        tokens: Shaped[Tensor, "batch position *component"],
        *,
        last_only: bool,
        fused: Sequence[FusedAttention | None],
        keep_z: bool = False,
    ) -> None:
        self.subject, self.last_only = subject_of(model), last_only
        self.model: Any = self.subject.model
        self.n_layers, self.length = len(self.model.blocks), tokens.shape[1]
        self.streams: list[Tensor] = []
        self.attn_out: list[Tensor] = []
        self.z: list[Tensor] = []
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []
        stream, _, _, self._mask = self.model.input_to_embed(tokens)
        padded = self._mask is not None  # which fused attention knows nothing of
        self._fused = [None] * self.n_layers if padded else fused
        for layer in range(self.n_layers):
            self.streams.append(stream)
            keys, values, z, attn_out = self._natural_attention(layer)
            self._keys.append(keys)
            self._values.append(values)
            if keep_z:
                self.z.append(z)
            self.attn_out.append(attn_out)
            middle = stream + attn_out
            if last_only and layer == self.n_layers - 1:
                middle = middle[:, -1:]
            stream = self.after_mlp(layer, middle)
        outputs = self._read_out(stream)
        self.outputs = outputs[:, 0] if last_only else outputs
        if not last_only:
            self.streams.append(stream)

    def _natural_attention(self, layer: int) -> tuple[Tensor, ...]:
        """Keys and values as the block's attention takes them, heads' outputs, their sum."""
        block, fused, stream = self.model.blocks[layer], self._fused[layer], self.streams[layer]
        if fused is not None:
            query, key, value = fused.project(normalized(block.ln1, stream))
            z = fused.mix(query, key, value, first=0)
            return key.contiguous(), value.contiguous(), z, fused.combine(z.flatten(-2))
        recorder, kept = KeyValues(), []
        hook = (f"blocks.{layer}.attn.hook_z", lambda z, hook: kept.append(z.clone()))
        with self.model.hooks(fwd_hooks=[hook]):
            attn_out = own_attention(block, stream, stream, recorder, self._mask)
        return recorder.keys, recorder.values, kept[0], attn_out

    @property
    def batch(self) -> int:
        """Sequences of the natural run."""
        return len(self.streams[0])

    def after_mlp(self, layer: int, middle: Tensor) -> Tensor:
        """The stream after a block, from the stream between its attention and its MLP."""
        block = self.model.blocks[layer]
        if not self.subject.has_mlp:
            return middle
        return middle + block.mlp(normalized(block.ln2, middle.contiguous()))  # reshapes by view

    def attend(self, layer: int, first: int, n_queries: int | None, copies: int) -> Tensor:
        """A block's own attention on the natural stream, run anew so that its hooks act.

        Args:
            layer: Of the block.
            first: The first query position; queries, keys and values from here on pass the hooks.
            n_queries: How many query positions; None for all from ``first`` on. With fewer, the
                keys and values after the last query are left out.
            copies: How often the batch is stacked.

        Returns:
            ``hook_attn_out`` at the queries, ``[copies * batch, query, d_model]``.
        """
        end = self.length if n_queries is None else first + n_queries
        keys, values = (
            x[:, :first]
            for x in (self._hooked(layer, self._keys), self._hooked(layer, self._values))
        )
        stream = stacked(self.streams[layer][:, first:end], copies)
        prefix = KeyValues(stacked(keys, copies), stacked(values, copies), first)
        mask = None if self._mask is None else stacked(self._mask[:, :end], copies)
        return own_attention(self.model.blocks[layer], stream, stream, prefix, mask)

    def resume(self, layer: int, stream: Stream, first: int) -> Tensor:
        """Outputs when stream ``layer`` is ``stream`` at positions ``first`` on.

        Args:
            layer: Which stream is edited, 0 to ``n_layers``.
            stream: ``[copies * batch, position, d_model]``, the batch stacked ``copies`` times.
            first: Of the positions that ``stream`` holds; earlier ones are natural.
        """
        for index in range(layer, self.n_layers):
            stream = self._block(
                index, stream, first, self.last_only and index == self.n_layers - 1
            )
        if self.last_only:
            return self._read_out(stream[:, -1:])[:, 0]
        earlier = stacked(self.outputs[:, :first], len(stream) // self.batch)
        return torch.cat([earlier, self._read_out(stream)], 1)

    def resume_points(
        self, layer: int, points: Float[Tensor, "point batch d_model"], positions: Sequence[int]
    ) -> Tensor:
        """Outputs when stream ``layer`` is edited at one position, for several positions.

        Args:
            layer: Which stream is edited, 0 to ``n_layers``.
            points: What it holds at the edited position.
            positions: The edited position of each point, in order; one may come several times.

        Returns:
            ``[point, batch, …]``.
        """
        if self.is_cheap(layer):
            whole = layer == self.n_layers
            return (self._final_points if whole else self._last_layer_points)(points, positions)
        first = positions[0]
        stream = self.streams[layer][:, first:].expand(len(points), -1, -1, -1).clone()
        for index, (point, position) in enumerate(zip(points, positions, strict=True)):
            stream[index, :, position - first] = point
        return self.resume(layer, stream.flatten(0, 1), first).unflatten(0, (len(points), -1))

    def is_cheap(self, layer: int) -> bool:
        """Whether many points of stream ``layer`` cost about as much as one pass of a block."""
        last = layer == self.n_layers - 1 and self._fused[layer] is not None
        return self.last_only and (last or layer == self.n_layers)

    def _final_points(self, points: Tensor, positions: Sequence[int]) -> Tensor:
        """The read-out of the last position sees the edits of that position alone."""
        outputs = self.outputs.expand(len(points), *self.outputs.shape).clone()
        for index, position in enumerate(positions):
            if position == self.length - 1:
                outputs[index] = self._read_out(points[index][:, None])[:, 0]
        return outputs

    def _last_layer_points(self, points: Tensor, positions: Sequence[int]) -> Tensor:
        """The last query's attention with one key and value replaced, for all points at once."""
        layer, last = self.n_layers - 1, self.length - 1
        fused, block = self._fused[layer], self.model.blocks[layer]
        assert fused is not None
        keys, values = self._keys[layer], self._values[layer]
        stream = self.streams[layer][:, last]  # [batch, d_model]
        query = fused.project(normalized(block.ln1, stream[:, None]))[0][
            :, :, 0
        ]  # [batch, head, d_head]
        projected = fused.project(normalized(block.ln1, points.flatten(0, 1)[:, None]))
        own, key, value = (x[:, :, 0].unflatten(0, points.shape[:2]) for x in projected)
        index = torch.tensor(positions, device=points.device)
        is_last = (index == last)[:, None, None]
        query = torch.where(is_last[..., None], own, query)  # [point, batch, head, d_head]
        stream = torch.where(is_last, points, stream)

        scores = torch.einsum("pbhd,bhkd->pbhk", query, keys)
        edited = index[:, None, None, None].expand(*query.shape[:3], 1)
        scores.scatter_(-1, edited, (query * key).sum(-1, keepdim=True))
        pattern = (scores * fused.scale).softmax(-1)
        z = torch.einsum("pbhk,bhkd->pbhd", pattern, values)
        z += pattern.gather(-1, edited) * (value - values[:, :, index].permute(2, 0, 1, 3))
        after = self.after_mlp(layer, stream + fused.combine(z.flatten(-2)))
        return self._read_out(after.flatten(0, 1)[:, None])[:, 0].unflatten(0, after.shape[:2])

    def _block(self, layer: int, stream: Tensor, first: int, last_query: bool) -> Tensor:
        block, fused = self.model.blocks[layer], self._fused[layer]
        copies = len(stream) // self.batch
        queries = stream[:, -1:] if last_query else stream
        keys, values = self._keys[layer], self._values[layer]
        if fused is None:
            keys, values = (stacked(x[:, :first], copies) for x in (keys, values))
            offset = self.length - queries.shape[1]
            prefix = KeyValues(keys, values, offset)
            mask = None if self._mask is None else stacked(self._mask, copies)
            attn_out = own_attention(block, queries, stream, prefix, mask)
        else:
            attend = fused.attend_last if last_query else fused.attend
            attn_out = attend(
                normalized(block.ln1, stream), keys[:, :, :first], values[:, :, :first]
            )
        return self.after_mlp(layer, queries + attn_out)

    def _read_out(self, stream: Tensor) -> Tensor:
        if self.subject.normalization is not None:
            stream = normalized(self.model.ln_final, stream)
        return self.model.unembed(stream)

    def _hooked(self, layer: int, kept: list[Tensor]) -> Tensor:
        """Keys or values as they pass the hooks: ``[batch, position, head, d_head]``."""
        fused = self._fused[layer]
        return kept[layer] if fused is None else fused.by_position(kept[layer])


class KeyValues:
    """Keys and values in the form of a key-value cache entry, which it is to an attention module.

    ``offset`` is the position of the first query: with as many queries as new keys, the number of
    keys that come before.
    """

    def __init__(
        self, keys: Tensor | None = None, values: Tensor | None = None, offset: int = 0
    ) -> None:
        self._before = (keys, values)
        self.past_keys = torch.empty(0, offset, device="meta")

    def append(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values with those before in front; kept as ``keys`` and ``values``."""
        before_keys, before_values = self._before
        if before_keys is not None and before_values is not None:
            keys = torch.cat([before_keys, keys], 1)
            values = torch.cat([before_values, values], 1)
        self.keys, self.values = keys, values
        return keys, values


def own_attention(
    block: Any, queries: Tensor, keys: Tensor, past: KeyValues, mask: Tensor | None
) -> Tensor:
    """``hook_attn_out`` by the block's attention module, as ``TransformerBlock`` calls it."""
    keys_in = block.ln1(keys)
    queries_in = keys_in if queries is keys else block.ln1(queries)
    attn_out = block.attn(
        query_input=queries_in,
        key_input=keys_in,
        value_input=keys_in,
        past_kv_cache_entry=past,
        attention_mask=mask,
    )
    return block.hook_attn_out(attn_out)
