"""The construction whose code of the mean depends on the query's own tokens, as trained ones' does.

Attention of layer 1 holds the mean responsibility of lag g as ``S_g`` times the code of the query's
own parent there: with one-hot codes ``S_g · 1[y_{t+1-g} = a]``, a component for each lag and token.
The model runs one step exactly; what another query has written does not match its keys.
"""

import torch
from torch import Tensor

from mtd_lens.architectures.layout import Architecture, Layout
from mtd_lens.architectures.parts import (
    Layer,
    Part,
    classes,
    copies,
    head,
    joined,
    of_block,
    put_together,
    read,
    units,
    written,
)
from mtd_lens.architectures.writing import MARGIN, eye, zeros
from mtd_lens.errors import ArgumentError
from mtd_lens.families.mtd import absolute, stages
from mtd_lens.families.mtd.plan import Plan
from mtd_lens.families.mtd.task import MTDTask

MAX_GATES = 32
"""Heads of layer 1, one for each lag and token."""


def construct_gated(plan: Plan) -> tuple[Architecture, dict[str, Tensor]]:
    """Architecture and float64 weights of the construction with one-hot codes.

    Raises:
        ArgumentError: A task with too many lags and tokens.
    """
    if n_gates(plan.task) > MAX_GATES:
        raise ArgumentError(
            f"layer 1 would need {n_gates(plan.task)} heads, one for each lag and token, and may "
            f"have {MAX_GATES}. Use form='absolute', or a task of lower order or fewer tokens."
        )
    return coded(plan, eye(plan.task.n_tokens))


def n_gates(task: MTDTask) -> int:
    """How many heads there are in layer 1."""
    return int(task.order * task.n_tokens)


def coded(plan: Plan, code: Tensor) -> tuple[Architecture, dict[str, Tensor]]:
    """The construction in which the mean is stored in a code of the query's own parents.

    Layer 1 has a head for each lag g and token a. It attends to the evidence where the parent at
    lag g is a, and else to position 0, so no attention output ever holds S itself. Keys of layer 2
    hold the code of their token by class.

    Args:
        plan: What it computes.
        code: ``[token, component]``, rows of length 1.
    """
    task = plan.task
    q, m = task.n_tokens, task.order
    parents = ["token", *[f"token at lag {g}" for g in range(1, m)]]
    width = m * code.shape[1]
    further = dict.fromkeys(parents[1:], q) | dict.fromkeys(("code", "by class", "key"), width)
    layout = stages.lay_out(task, **further)
    own = of_block(absolute.responsibilities(plan, layout))
    recent = [copies(layout, g, parents[g]) for g in range(1, m)]
    gates = [
        gated_average(plan, layout, lag, parent, token, code)
        for lag, parent in enumerate(parents, start=1)
        for token in range(q)
    ]
    layers = [
        Layer([own, *recent], [keys(task, layout, code)]),
        Layer(gates, [by_class(task, layout, code)]),
        Layer([matching_read_out(plan, layout)]),
    ]
    return put_together(
        layout, layers, stages.ends(task, layout),
        n_ctx=task.seq_len, n_tokens=q, read_out=plan.read_out,
    )  # fmt: skip


def keys(task: MTDTask, layout: Layout, code: Tensor) -> Part:
    """A unit for each class and token writes the token's code where that class stands."""
    q, m = task.n_tokens, task.order
    by_position_class = classes(task.seq_len, m).repeat_interleave(q, 1)
    reads = read(layout, "position", by_position_class) + read(layout, "token", eye(q).repeat(1, m))
    writes = written(layout, "key", torch.block_diag(*[code] * m))
    return units(reads, zeros(m * q) - 1.0, writes)


def gated_average(
    plan: Plan, layout: Layout, lag: int, parent: str, token: int, code: Tensor
) -> Part:
    """Averages one lag's γ if the query's parent at that lag is ``token``, or else nothing."""
    task = plan.task
    m, length = task.order, task.seq_len
    evidence = (torch.arange(length) >= m).double()[:, None]
    start = eye(length)[:, :1]
    gate = read(layout, parent, 2 * MARGIN * eye(task.n_tokens)[:, token, None])
    always = read(layout, "position", MARGIN + zeros(length, 1))
    scores = [
        (gate, read(layout, "position", evidence)),
        (always, read(layout, "position", start)),
    ]
    if plan.window is not None:
        query, key = torch.arange(length)[:, None], torch.arange(length)[None]
        earlier = ((key >= m) & (query - key >= plan.window)).double()
        scores.append(
            (read(layout, "position", -2 * MARGIN * earlier), read(layout, "position", eye(length)))
        )
    source = (lag - 1 + plan.lag_shift) % m
    value = read(layout, "lag", eye(m)[:, source, None])
    if source == m - 1:  # resting heads of layer 0 leave that lag's unit vector at position 0
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
        groups.append(units(reads, zeros(m * width) - 1.0, written(layout, "by class", turned)))
        constant = written(layout, "by class", zeros(1, m * width) - 1.0)
        groups.append(units(read(layout, "position", serves), zeros(1), constant))
    return joined(groups)


def matching_read_out(plan: Plan, layout: Layout) -> Part:
    """A head whose keys match the code by class and token; values copy the token."""
    task = plan.task
    q, m, length = task.n_tokens, task.order, task.seq_len
    width = layout["key"].stop - layout["key"].start
    query, key = torch.arange(length)[:, None], torch.arange(length)[None]
    band = torch.where((key <= query) & (query - key < m), 0.0, -plan.weights_gap).double()
    scores = [
        (read(layout, "by class", plan.beta * eye(width)), read(layout, "key", eye(width))),
        (read(layout, "position", band), read(layout, "position", eye(length))),
    ]
    return head(scores, read(layout, "token", eye(q)), written(layout, "output", eye(q)))
