"""What models of known truth are made with beside the parts that the package has."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mtd_lens import MTDTask, hooked
from mtd_lens.architectures.layout import Layout
from mtd_lens.architectures.parts import (
    Layer,
    Part,
    by_position,
    head,
    put_together,
    read,
    scaled,
    written,
)
from mtd_lens.architectures.writing import eye, zeros
from mtd_lens.hooked import ModelInfo
from probes.subject import HookedModel

WRITES = ("W_E", "W_pos", "W_O", "b_O", "W_out", "b_out")
READS = ("W_Q", "W_K", "W_V", "W_in", "W_U")


def build(
    task: MTDTask,
    layout: Layout,
    layers: Sequence[Layer],
    ends: Mapping[str, Tensor],
    name: str,
    basis: Tensor | None = None,
) -> HookedModel:
    """A float64 model with log-probabilities as its output.

    Args:
        task: Its task.
        layout: Of the residual stream.
        layers: Its layers; a ``Layer()`` does nothing.
        ends: ``embed.W_E``, ``pos_embed.W_pos`` and ``unembed.W_U``.
        name: Of the model.
        basis: Matrix by which all that is written to the stream is multiplied, its inverse
            being applied to all that is read.
    """
    architecture, weights = put_together(
        layout, layers, ends, n_ctx=task.seq_len, n_tokens=task.n_tokens
    )
    if basis is not None:
        weights = {key: changed(key, value, basis) for key, value in weights.items()}
    return hooked.assemble(architecture, weights, ModelInfo(task, name), torch.float64)


def changed(name: str, value: Tensor, basis: Tensor) -> Tensor:
    """A weight in another basis of the residual stream."""
    kind = name.rsplit(".", 1)[-1]
    if kind in WRITES:
        return value @ basis
    return torch.linalg.inv(basis) @ value if kind in READS else value


def noise(layout: Layout, n_heads: int, target: str, seed: int) -> Part:
    """Heads with random scores and values, writing to ``target`` only."""
    generator = torch.Generator().manual_seed(seed)
    width, inward = layout[target].stop - layout[target].start, (n_heads, layout.size, 6)
    W_Q, W_K, W_V = (torch.randn(inward, generator=generator).double() for _ in range(3))
    W_O = zeros(n_heads, 6, layout.size)
    W_O[:, :, layout[target]] = torch.randn((n_heads, 6, width), generator=generator).double()
    return {"W_Q": W_Q, "W_K": W_K, "W_V": W_V, "W_O": W_O}


def identity(task: MTDTask, layout: Layout, target: str, seed: int) -> Part:
    """A head that writes the tokens at random weights of their positions.

    Different sequences have different sums, so it tells which sequence it is, and no linear map
    makes anything of its evidence.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand((task.seq_len, task.seq_len), generator=generator).double()
    pattern = (drawn + 0.1).tril()
    pattern = pattern / pattern.sum(1, keepdim=True)
    value = read(layout, "token", eye(task.n_tokens))
    output = written(layout, target, eye(task.n_tokens))
    return scaled(head([by_position(layout, pattern)], value, output), float(task.seq_len))
