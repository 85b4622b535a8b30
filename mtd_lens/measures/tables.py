"""What relative key and value tables do, read from parameters alone.

These tables, ``RK`` and ``RV``, are those of this package's relative attention; circuits of stock
attention are in :mod:`probes.circuits`, whose conventions hold here too.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mtd_lens.errors import SiteError
from probes import checks
from probes.circuits import (
    Head,
    block_of,
    causal_attention,
    checked_head,
    double,
    mean_embeddings,
)
from probes.subject import HookedModel, subject_of


def has_tables(model: HookedModel) -> bool:
    """Whether every layer's attention has relative key and value tables, ``RK`` and ``RV``.

    Args:
        model: A hooked model.
    """
    return all(map(_holds_tables, subject_of(model).model.blocks))


def relative_scores(
    model: HookedModel, layer: int, head: int, length: int
) -> Float[Tensor, "query_pos offset"]:
    """The score that a head's relative key table gives each offset, ``[query_pos, offset]``.

    Entry ``[t, o]`` is ``q_t · RK[o]``, where ``q_t`` is the query of the mean token embedding plus
    the positional embedding of ``t``, and ``o`` is query minus key position (Shaw et al. 2018).

    Args:
        model: A hooked model whose attention has a relative key table ``RK``.
        layer: Counted from 0.
        head: Counted from 0.
        length: How many positions and offsets, up to the model's context.

    Raises:
        SiteError: A layer, head or length that the model does not have, or no relative table.
    """
    block = _with_tables(block_of(model, layer, head))
    with torch.no_grad():
        embedded = block.ln1(mean_embeddings(model, length)[None])[0]
        query = double(embedded) @ double(block.attn.W_Q[head]) + double(block.attn.b_Q[head])
        return query @ double(block.attn.RK[head, :length]).T / float(block.attn.attn_scale)


def relative_patterns(
    model: HookedModel, length: int
) -> Float[Tensor, "layer head query_pos offset"]:
    """``[layer, head, query_pos, offset]``: softmax of ``relative_scores`` over the keys so far.

    Args:
        model: A hooked model whose attention has relative tables.
        length: How many positions, up to the model's context.

    Raises:
        SiteError: A length that the model does not have, or no relative tables.
    """
    return causal_attention(model, relative_scores, length)


def table_path(
    model: HookedModel,
    writer: Head,
    carriers: Sequence[Head],
    reader: Head,
    value_offsets: Sequence[int],
    key_offsets: Sequence[int],
) -> Float[Tensor, "value_offset key_offset"]:
    """``[value_offset, key_offset]``: scores for what the writer's relative values write.

    Entry ``[g, o]`` is ``RV[g] W_O`` of the writer, through ``W_V W_O`` of every carrier in turn,
    into ``W_Q`` of the reader, times its ``RK[o]``: how much a unit of the writer's attention at
    offset ``g``, read by the reader's query, raises the score of the key at offset ``o``.

    Args:
        model: A hooked model with relative tables and no normalisation layers.
        writer: Layer and head whose relative value table is read.
        carriers: Heads between them; none for the path within one position.
        reader: Layer and head whose relative key table is read.
        value_offsets: Rows of the writer's table.
        key_offsets: Rows of the reader's table.

    Raises:
        SiteError: Heads that the model does not have or that are not in the order of their layers,
            no relative tables, or normalisation layers, through which no such path is linear.
    """
    writer, reader = checked_head(writer, "writer"), checked_head(reader, "reader")
    between = checks.listed(carriers, "carriers", "pairs (layer, head)", SiteError)
    carriers = [checked_head(head, "a carrier") for head in between]
    heads = [writer, *carriers, reader]
    layers = [layer for layer, _ in heads]
    blocks = [block_of(model, *head) for head in heads]
    if any(later <= earlier for earlier, later in pairwise(layers)):
        raise SiteError(f"a path goes through ever later layers; got layers {layers}.")
    if (normalization := subject_of(model).normalization) is not None:
        raise SiteError(
            "a path between tables is linear only without normalisation layers; this model has "
            f"{normalization}."
        )
    first, last = _with_tables(blocks[0]).attn, _with_tables(blocks[-1]).attn
    most = first.RV.shape[1] - 1
    value_offsets = checks.integers(value_offsets, "value_offsets", SiteError, 0, most)
    key_offsets = checks.integers(key_offsets, "key_offsets", SiteError, 0, most)
    with torch.no_grad():
        written = double(first.RV[writer[1], value_offsets]) @ double(first.W_O[writer[1]])
        for block, (_, head) in zip(blocks[1:-1], carriers, strict=True):
            written = written @ double(block.attn.W_V[head]) @ double(block.attn.W_O[head])
        query = written @ double(last.W_Q[reader[1]])
        scores = query @ double(last.RK[reader[1], key_offsets]).T
        return scores / float(last.attn_scale)


def _holds_tables(block: nn.Module) -> bool:
    return hasattr(block.attn, "RK") and hasattr(block.attn, "RV")


def _with_tables(block: nn.Module) -> Any:
    if not _holds_tables(block):
        raise SiteError(
            f"{type(block.attn).__name__} has no relative key and value tables (RK, RV); this "
            "circuit exists only in models with relative attention."
        )
    return block
