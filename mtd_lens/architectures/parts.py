"""Parts that transformers are put together from: groups of heads, and units of MLPs.

A group of heads is a dictionary of ``W_Q``, ``W_K``, ``W_V``, ``W_O`` and, at will, biases; each of
its tensors may be narrower than the model's, and zeros are filled in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from mtd_lens.architectures.layout import Architecture, Layout, ReadOut
from mtd_lens.architectures.writing import MARGIN, eye, for_block, zeros

Part = dict[str, Tensor]

OF_THE_HEAD_AXIS = ("W_Q", "W_K", "W_V", "W_O", "b_Q", "b_K", "b_V")


@dataclass(frozen=True)
class Layer:
    """Groups of heads side by side, and groups of MLP units side by side."""

    heads: Sequence[Part] = ()
    units: Sequence[Part] = ()


class Renamed(Layout):
    """A layout in which names stand for other subspaces: stages read and write elsewhere."""

    def __init__(self, layout: Layout, **others: str) -> None:
        self.size, self._layout, self._others = layout.size, layout, others

    def __getitem__(self, name: str) -> slice:
        return self._layout[self._others.get(name, name)]


def put_together(
    layout: Layout,
    layers: Sequence[Layer],
    ends: Mapping[str, Tensor],
    *,
    n_ctx: int,
    n_tokens: int,
    read_out: ReadOut = "log_probs",
) -> tuple[Architecture, dict[str, Tensor]]:
    """The architecture and the float64 weights of a stock transformer made of parts.

    Args:
        layout: Of the residual stream.
        layers: Its layers; a ``Layer()`` does nothing.
        ends: ``embed.W_E``, ``pos_embed.W_pos`` and ``unembed.W_U``.
        n_ctx: Its context.
        n_tokens: Its vocabulary.
        read_out: How its output is read.
    """
    weights = dict(ends)
    for index, layer in enumerate(layers):
        for part, groups in (("attn", layer.heads), ("mlp", layer.units)):
            found = beside(groups) if part == "attn" else joined(groups)
            weights |= for_block(index, part, **found)
    heads = [value for key, value in weights.items() if key.endswith("attn.W_Q")]
    units = [value.shape[-1] for key, value in weights.items() if key.endswith("mlp.W_in")]
    architecture = Architecture(
        form="absolute",
        read_out=read_out,
        n_layers=len(layers),
        n_heads=max((value.shape[0] for value in heads), default=1),
        d_model=layout.size,
        d_head=max((value.shape[2] for value in heads), default=1),
        n_ctx=n_ctx,
        n_tokens=n_tokens,
        d_mlp=max(units) if units else None,
        activation="relu",
    )
    return architecture, weights


def of_block(weights: Mapping[str, Tensor]) -> Part:
    """Weights of one block's attention, without the block's name."""
    return {name.rsplit(".", 1)[-1]: value for name, value in weights.items()}


def scaled(group: Part, share: float) -> Part:
    """Heads that write ``share`` times as much."""
    return group | {key: share * group[key] for key in ("W_O", "b_O") if key in group}


def beside(groups: Sequence[Part]) -> Part:
    """Groups of heads as one; what they write is added."""
    if not groups:
        return {}
    d_head = max(group["W_Q"].shape[-1] for group in groups)
    whole: Part = {}
    for key in OF_THE_HEAD_AXIS:
        width = (0, 0, 0, 1) if key == "W_O" else (0, 1)
        missing = [zeros(len(group["W_Q"]), 1) for group in groups]
        found = [group.get(key, empty) for group, empty in zip(groups, missing, strict=True)]
        if any(key in group for group in groups):
            axis = -2 if key == "W_O" else -1
            grown = [
                functional.pad(value, [n * (d_head - value.shape[axis]) for n in width])
                for value in found
            ]
            whole[key] = torch.cat(grown)
    biases = [group["b_O"] for group in groups if "b_O" in group]
    return whole | ({"b_O": torch.stack(biases).sum(0)} if biases else {})


def joined(groups: Sequence[Part]) -> Part:
    """Groups of MLP units as one."""
    if not groups:
        return {}
    axes = {"W_in": 1, "b_in": 0, "W_out": 0}
    return {key: torch.cat([group[key] for group in groups], axis) for key, axis in axes.items()}


def read(layout: Layout, name: str, matrix: Tensor) -> Tensor:
    """What reads subspace ``name`` through a matrix, ``[width, r]``, as ``[d_model, r]``."""
    whole = zeros(layout.size, matrix.shape[1])
    whole[layout[name]] = matrix
    return whole


def written(layout: Layout, name: str, matrix: Tensor) -> Tensor:
    """What writes to subspace ``name`` through a matrix, ``[r, width]``, as ``[r, d_model]``."""
    whole = zeros(matrix.shape[0], layout.size)
    whole[:, layout[name]] = matrix
    return whole


def head(scores: Sequence[tuple[Tensor, Tensor]], value: Tensor, output: Tensor) -> Part:
    """One head.

    Args:
        scores: Pairs of what a query and what a key holds, ``[d_model, r]`` each; the scores are
            the sum of their products.
        value: ``[d_model, r]``.
        output: ``[r, d_model]``.
    """
    query, key = (torch.cat(side, 1) for side in zip(*scores, strict=True))
    d_head = max(query.shape[1], value.shape[1])
    padded = [functional.pad(x, (0, d_head - x.shape[1]))[None] for x in (query, key, value)]
    W_O = functional.pad(output, (0, 0, 0, d_head - len(output)))[None]
    return {"W_Q": padded[0], "W_K": padded[1], "W_V": padded[2], "W_O": W_O}


def by_position(layout: Layout, pattern: Tensor) -> tuple[Tensor, Tensor]:
    """Scores whose softmax is a fixed pattern, ``[query, key]``, with rows that sum to 1."""
    scores = pattern.log().clamp_min(-2 * MARGIN)  # shares of an average are far above the margin
    return read(layout, "position", scores), read(layout, "position", eye(len(pattern)))


def units(reads: Tensor, bias: Tensor, writes: Tensor) -> Part:
    """ReLU units: ``[d_model, unit]``, ``[unit]`` and ``[unit, d_model]``."""
    return {"W_in": reads, "b_in": bias, "W_out": writes}


def classes(length: int, order: int) -> Tensor:
    """One-hot classes of positions, ``[position, class]``."""
    return functional.one_hot(torch.arange(length) % order, order).to(torch.float64)


def copies(layout: Layout, lag: int, target: str, source: str = "token") -> Part:
    """A head that copies what stands ``lag`` positions before; early queries read position 0."""
    length = layout["position"].stop - layout["position"].start
    width = layout[source].stop - layout[source].start
    before = (torch.arange(length) - lag).clamp_min(0)
    pattern = eye(length)[before]
    value = read(layout, source, eye(width))
    return head([by_position(layout, pattern)], value, written(layout, target, eye(width)))
