"""The stages of one step of mirror descent, to be put into any layer, whole or in part."""

import torch
from torch import Tensor

from mtd_lens.architectures.layout import Layout
from mtd_lens.architectures.parts import (
    Part,
    Renamed,
    beside,
    by_position,
    classes,
    head,
    of_block,
    read,
    written,
)
from mtd_lens.architectures.writing import eye
from mtd_lens.families.mtd import absolute
from mtd_lens.families.mtd.plan import Plan, unembed
from mtd_lens.families.mtd.task import MTDTask


def lay_out(task: MTDTask, **further: int) -> Layout:
    """The subspaces of the construction in stock attention, and further ones."""
    widths = {
        "token": task.n_tokens,
        "position": task.seq_len,
        "lag": task.order,
        "class": task.order,
        "output": task.n_tokens,
    }
    return Layout(widths | further)


def ends(task: MTDTask, layout: Layout) -> dict[str, Tensor]:
    """One-hot tokens and positions, and the transition as unembedding."""
    plan = Plan(task, 0.0)
    return absolute.embed(plan, layout) | unembed(plan, layout)


def responsibilities(task: MTDTask, layout: Layout, target: str = "lag") -> Part:
    """Heads whose sum is γ by lag."""
    return of_block(absolute.responsibilities(Plan(task, 0.0), Renamed(layout, lag=target)))


def second_responsibilities(
    task: MTDTask, layout: Layout, beta: float, source: str, target: str
) -> Part:
    """Heads whose sum is the responsibilities under ``softmax(β · mean so far)``.

    The mean stands in ``source`` by the class of the keys that the *next* position attends to,
    which are one position later.
    """
    plan = Plan(task, beta, spread=beta)
    group = of_block(absolute.responsibilities(plan, Renamed(layout, lag=target)))
    m = task.order
    query = read(layout, source, beta * eye(m)).expand(m, -1, -1)
    key = read(layout, "position", classes(task.seq_len, m).roll(-1, 0)).expand(m, -1, -1)
    further = {"W_Q": query, "W_K": key}
    return group | {name: torch.cat([group[name], x], -1) for name, x in further.items()}


def shares(task: MTDTask) -> Tensor:
    """The share of each position in the mean over evidence, ``[query, position]``."""
    query, position = torch.arange(task.seq_len)[:, None], torch.arange(task.seq_len)[None]
    evidence = ((position >= task.order) & (position <= query)).to(torch.float64)
    return evidence / evidence.sum(1, keepdim=True).clamp_min(1)


def average(
    task: MTDTask,
    layout: Layout,
    pattern: Tensor | None = None,
    source: str = "lag",
    target: str = "class",
    resting: bool = True,
) -> Part:
    """Heads whose sum is an average of ``source`` over positions, by class.

    Args:
        task: The task.
        layout: Of the stream.
        pattern: ``[query, position]``, sums up to 1; None for the mean over evidence.
        source: By lag.
        target: By class.
        resting: Whether ``source`` holds the last lag's unit vector at position 0, as resting
            heads of ``responsibilities`` leave it; it is taken off.
    """
    m, length = task.order, task.seq_len
    pattern = shares(task) if pattern is None else pattern
    value = read(layout, source, eye(m))
    if resting:
        value[layout["position"].start, m - 1] = -1.0
    groups = []
    for c in range(m):
        serves = (torch.arange(length) % m == c)[:, None]
        attended = torch.where(serves, pattern, 0.0)
        attended[:, 0] += 1 - attended.sum(1)  # position 0 has nothing to give
        turned = eye(m)[[(c - g) % m for g in range(m)]]
        output = written(layout, target, turned)
        groups.append(head([by_position(layout, attended.clamp_min(0))], value, output))
    return beside(groups)


def read_out(task: MTDTask, layout: Layout, beta: float, source: str = "class") -> Part:
    """A head whose pattern is ``softmax(β · mean)`` over lags; values copy the token."""
    return of_block(absolute.read_out(Plan(task, beta), Renamed(layout, **{"class": source})))
