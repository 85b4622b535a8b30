"""Runs in which values are written at sites of any blocks at once, resumed from natural streams.

Nothing below the first edited block is run, nor before the first edited position; attention whose
output is replaced at all positions that follow is not run either.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probes.patching.fused import FusedAttention
from probes.patching.partial_runs import KeyValues, own_attention
from probes.sites import COMPONENTS, NEURONS, Site, sequence_axes
from probes.subject import HookedModel, subject_of

Write = tuple[Site, Tensor]
"""A site inside a block and what is written there, ``[batch, …]`` as the site reads it."""

SWAPPED = frozenset({*COMPONENTS, "attn_scores"} - {*NEURONS})
"""Components that can be written: each passes its hook once, at the queries or at the keys."""

_WITHIN_ATTENTION = frozenset({"q", "k", "v", "z", "pattern", "attn_scores"})

_READ_BY_LATER_QUERIES = frozenset({"resid_pre", "k", "v"})
"""Components whose edits at one position reach the attention of every later one."""


class SwappedRuns:
    """Outputs at the last position of one batch under writes.

    Args:
        model: A hooked model for which ``why_not`` is None, without padding.
        stream: By block, the natural stream that it reads, ``[batch, position, d_model]``.
        fused: What ``fused_attention`` makes of the model's blocks.
    """

    def __init__(
        self,
        model: HookedModel,
        stream: Callable[[int], Float[Tensor, "batch position d_model"]],
        fused: Sequence[FusedAttention | None],
    ) -> None:
        self._subject = subject_of(model)
        self._model, self._stream, self._fused = self._subject.model, stream, fused
        self._prefixes: dict[tuple[int, int, bool], tuple[Tensor, Tensor]] = {}

    def swap(self, writes: Sequence[Write]) -> Float[Tensor, "batch outcome"]:
        """Outputs with values written, all in one run.

        Args:
            writes: At least one. Where sites overlap, the last one holds.
        """
        layers = [site.layer for site, _ in writes if site.layer is not None]
        stream = self._stream(min(layers))
        length, n_layers = stream.shape[1], self._subject.n_layers
        first = min(p % length for site, _ in writes for p in site.positions or (0,))
        stream = stream[:, first:]
        for layer in range(min(layers), n_layers):
            here = [(site, value) for site, value in writes if site.layer == layer]
            read_later = any(site.component in _READ_BY_LATER_QUERIES for site, _ in here)
            last_query = layer == n_layers - 1 and not read_later
            start = length - 1 if last_query else first
            stream = self._block(layer, stream, first, start, _from(here, start, length))
        if self._subject.normalization is not None:
            stream = self._model.ln_final(stream)
        return self._model.unembed(stream[:, -1:])[:, 0]

    def _block(
        self, layer: int, stream: Tensor, first: int, start: int, writes: Sequence[Write]
    ) -> Tensor:
        """A block whose stream begins at ``first`` and whose queries begin at ``start``."""
        block, fused = self._model.blocks[layer], self._fused[layer]
        components = {site.component for site, _ in writes}
        own = fused is None or bool(components & _WITHIN_ATTENTION)
        n_queries = stream.shape[1] - (start - first)
        if _written_whole("resid_post", writes, n_queries):
            return _written("resid_post", torch.zeros_like(stream[:, start - first :]), writes)
        whole = _written_whole("attn_out", writes, n_queries)
        keys, values = (None, None) if whole else self._prefix(layer, first, own)
        passed = partial(_passed, block, writes)
        stream = passed("resid_pre", stream)
        queries = stream if start == first else stream[:, start - first :]
        if whole:
            attn_out = passed("attn_out", torch.zeros_like(queries))
        elif own:
            n_before = self._subject.n_before
            hooks = [
                (site.hook, _writer(site, value, n_before))
                for site, value in writes
                if site.component in _WITHIN_ATTENTION
            ]
            with self._subject.underlying.hooks(fwd_hooks=hooks) if hooks else nullcontext():
                past = KeyValues(keys, values, n_before + start)
                attn_out = own_attention(block, queries, stream, past, None)
            attn_out = _written("attn_out", attn_out, writes)
        else:
            assert fused is not None
            assert keys is not None
            assert values is not None
            attend = fused.attend_last if start > first else fused.attend
            attn_out = passed("attn_out", attend(block.ln1(stream), keys, values))
        middle = queries + attn_out
        if self._subject.has_mlp:
            middle = passed("resid_mid", middle)
            middle = middle + passed("mlp_out", block.mlp(block.ln2(middle.contiguous())))
        return passed("resid_post", middle)

    def _prefix(self, layer: int, first: int, own: bool) -> tuple[Tensor, Tensor]:
        """Natural keys and values before ``first``, as the module or fused attention takes them.

        Those of positions that the model puts before every sequence are among them.
        """
        key = (layer, first, own)
        if key not in self._prefixes:
            block, fused = self._model.blocks[layer], self._fused[layer]
            stream, n_before = self._stream(layer), self._subject.n_before
            with torch.no_grad():
                if n_before:
                    stream = self._model.with_before(layer, stream)
                inward = block.ln1(stream[:, : n_before + first])
                if own:
                    _, *found = block.attn.calculate_qkv_matrices(inward, inward, inward)
                else:
                    assert fused is not None
                    _, *found = fused.project(inward)
            self._prefixes[key] = found[0], found[1]
        return self._prefixes[key]


def _passed(block: Any, writes: Sequence[Write], component: str, value: Tensor) -> Tensor:
    """What a hook of a block's own passes on, with values written."""
    return _written(component, getattr(block, f"hook_{component}")(value), writes)


def _written(component: str, value: Tensor, writes: Sequence[Write]) -> Tensor:
    for site, swapped in writes:
        value = site.write(value, swapped) if site.component == component else value
    return value


def _written_whole(component: str, writes: Sequence[Write], n_queries: int) -> bool:
    """Whether a component is written at every query, so that what it would be plays no part."""
    return any(
        site.component == component
        and site.subspace is None
        and (site.positions is None or len(set(site.positions)) == n_queries)
        for site, _ in writes
    )


def _from(writes: Sequence[Write], start: int, length: int) -> list[Write]:
    """Writes to activations that begin at a position; those that lie before are left out."""
    found = []
    for site, value in writes:
        positions = range(length) if site.positions is None else site.positions
        inside = [index for index, p in enumerate(positions) if p % length >= start]
        if inside:
            kept = value.index_select(site.position_axis, torch.tensor(inside).to(value.device))
            shifted = [positions[index] % length - start for index in inside]
            found.append((replace(site, positions=shifted), kept))
    return found


def _writer(site: Site, value: Tensor, n_before: int) -> Callable[[Tensor, Any], Tensor]:
    """What writes at a site; of patterns, attention to what comes before stays as it is."""
    first = n_before if len(sequence_axes(site.hook)) > 1 else 0

    def write(activation: Tensor, hook: object) -> Tensor:
        written = site.write(activation[..., first:], value)
        return torch.cat([activation[..., :first], written], -1) if first else written

    return write
