"""Models whose code of the mean depends on the query's own tokens, as trained ones' does."""

import itertools

import torch
from torch import Tensor

import mtd_lens
from known_truth.making import build
from mtd_lens import MTDTask
from mtd_lens.architectures.layout import Layout
from mtd_lens.architectures.parts import (
    Layer,
    Part,
    by_position,
    classes,
    copies,
    head,
    joined,
    read,
    units,
    written,
)
from mtd_lens.architectures.writing import MARGIN, eye, zeros
from mtd_lens.families.mtd import stages
from probes.subject import HookedModel


def gated(task: MTDTask) -> HookedModel:
    """The mean is stored as ``S_g · 1[y_{t+1-g} = a]``, a component for each lag and token."""
    return coded(task, eye(task.n_tokens), "gated")


def signed(task: MTDTask) -> HookedModel:
    """The mean is stored as ``S_g · sign of y_{t+1-g}``, a component for each lag."""
    return coded(task, signs(task)[:, None], "signed")


def signs(task: MTDTask) -> Tensor:
    """A sign for each token, so that both are about as frequent under the transition."""
    frequency = torch.linalg.matrix_power(task.transition, 1000)[0]
    choices = torch.tensor(list(itertools.product([1.0, -1.0], repeat=task.n_tokens))).double()
    return choices[(choices @ frequency).abs().argmin()]


def coded(task: MTDTask, code: Tensor, name: str) -> HookedModel:
    """The mean is stored as ``S_g`` times the code of the query's own parent at lag g.

    Layer 1 has a head for each lag g and token a. It attends to the evidence where the parent at
    lag g is a, and else to position 0, so no attention output ever holds S itself. Keys of layer 2
    hold the code of their token by class.

    Args:
        task: The task.
        code: ``[token, component]``, rows of length 1.
        name: Of the model.
    """
    q, m = task.n_tokens, task.order
    parents = ["token", *[f"token at lag {g}" for g in range(1, m)]]
    width = m * code.shape[1]
    further = dict.fromkeys(parents[1:], q) | dict.fromkeys(("code", "by class", "key"), width)
    layout = stages.lay_out(task, **further)
    recent = [copies(layout, g, parents[g]) for g in range(1, m)]
    gates = [
        gated_average(task, layout, lag, parent, token, code)
        for lag, parent in enumerate(parents, start=1)
        for token in range(q)
    ]
    layers = [
        Layer([stages.responsibilities(task, layout), *recent], [keys(task, layout, code)]),
        Layer(gates, [by_class(task, layout, code)]),
        Layer([matching_read_out(task, layout)]),
    ]
    return build(task, layout, layers, stages.ends(task, layout), name)


def keys(task: MTDTask, layout: Layout, code: Tensor) -> Part:
    """A unit for each class and token writes the token's code where that class stands."""
    q, m = task.n_tokens, task.order
    by_position_class = classes(task.seq_len, m).repeat_interleave(q, 1)
    reads = read(layout, "position", by_position_class) + read(layout, "token", eye(q).repeat(1, m))
    writes = written(layout, "key", torch.block_diag(*[code] * m))
    return units(reads, -torch.ones(m * q).double(), writes)


def gated_average(
    task: MTDTask, layout: Layout, lag: int, parent: str, token: int, code: Tensor
) -> Part:
    """Averages one lag's γ if the query's parent at that lag is ``token``, or else nothing."""
    m, length = task.order, task.seq_len
    evidence = (torch.arange(length) >= m).double()[:, None]
    start = eye(length)[:, :1]
    gate = read(layout, parent, 2 * MARGIN * eye(task.n_tokens)[:, token, None])
    always = read(layout, "position", torch.full((length, 1), MARGIN).double())
    scores = [
        (gate, read(layout, "position", evidence)),
        (always, read(layout, "position", start)),
    ]
    value = read(layout, "lag", eye(m)[:, lag - 1, None])
    if lag == m:  # resting heads of layer 0 leave that lag's unit vector at position 0
        value -= read(layout, "position", start)
    output = torch.outer(eye(m)[lag - 1], code[token]).reshape(1, -1)
    return head(scores, value, written(layout, "code", output))


def by_class(task: MTDTask, layout: Layout, code: Tensor) -> Part:
    """The code by the class of the keys that stand at its lags: exact products with one-hots.

    ``relu(x + 2·1[…] − 1) − 1[…]`` is ``x·1[…]`` for x from −1 to 1.
    """
    m, width = task.order, code.shape[1]
    of_position, groups = classes(task.seq_len, m), []
    for c in range(m):
        turned = torch.kron(eye(m)[[(c - g) % m for g in range(m)]], eye(width))
        serves = of_position[:, c, None]
        reads = read(layout, "code", eye(m * width))
        reads += read(layout, "position", 2 * serves.expand(-1, m * width))
        bias = -torch.ones(m * width).double()
        groups.append(units(reads, bias, written(layout, "by class", turned)))
        constant = written(layout, "by class", -torch.ones(1, m * width).double())
        groups.append(units(read(layout, "position", serves), zeros(1), constant))
    return joined(groups)


def matching_read_out(task: MTDTask, layout: Layout) -> Part:
    """A head whose keys match the code by class and token; values copy the token."""
    q, m, length = task.n_tokens, task.order, task.seq_len
    width = layout["key"].stop - layout["key"].start
    query, key = torch.arange(length)[:, None], torch.arange(length)[None]
    band = ((key <= query) & (query - key < m)).double()
    match = read(layout, "by class", mtd_lens.best_beta(task) * eye(width))
    scores = [
        (match, read(layout, "key", eye(width))),
        by_position(layout, band / band.sum(1, keepdim=True)),
    ]
    return head(scores, read(layout, "token", eye(q)), written(layout, "output", eye(q)))
