"""The construction in stock attention: one-hot tokens and absolute positions, ``order`` heads.

No relative table is needed because keys in a window of ``order`` positions all differ in their
*class*, position mod ``order``. Layer 0's head c serves the queries of class c, so that head's
output matrix knows which lag each class stands for; layer 1's head c turns lags back into the
classes that layer 2's keys carry. Heads rest on one fixed key at all other queries.
"""

import torch
from torch import Tensor

from mtd_lens.architectures.layout import Architecture, Layout
from mtd_lens.architectures.writing import eye, for_block, zeros
from mtd_lens.families.mtd.plan import Plan, unembed


def construct_absolute(plan: Plan) -> tuple[Architecture, dict[str, Tensor]]:
    """Architecture and float64 weights of the stock-attention construction."""
    layout = lay_out(plan)
    weights = embed(plan, layout)
    weights |= responsibilities(plan, layout)
    weights |= average(plan, layout)
    weights |= read_out(plan, layout)
    weights |= unembed(plan, layout)
    task = plan.task
    architecture = Architecture(
        form="absolute",
        read_out=plan.read_out,
        n_layers=3,
        n_heads=task.order,
        d_model=layout.size,
        d_head=max(task.n_tokens, task.order) + task.seq_len,
        n_ctx=task.seq_len,
        n_tokens=task.n_tokens,
    )
    return architecture, weights


def lay_out(plan: Plan) -> Layout:
    """The residual stream: token and position, γ by lag, mean γ by class, mixed tokens."""
    task = plan.task
    return Layout(
        {
            "token": task.n_tokens,
            "position": task.seq_len,
            "lag": task.order,
            "class": task.order,
            "output": task.n_tokens,
        }
    )


def embed(plan: Plan, layout: Layout) -> dict[str, Tensor]:
    """One-hot tokens and one-hot positions."""
    task = plan.task
    W_E, W_pos = zeros(task.n_tokens, layout.size), zeros(task.seq_len, layout.size)
    W_E[:, layout["token"]] = eye(task.n_tokens)
    W_pos[:, layout["position"]] = eye(task.seq_len)
    return {"embed.W_E": W_E, "pos_embed.W_pos": W_pos}


def responsibilities(plan: Plan, layout: Layout) -> dict[str, Tensor]:
    """Layer 0: the pattern of head c at queries of class c is γ; the heads' sum is γ by lag."""
    task = plan.task
    m, q, length = task.order, task.n_tokens, task.seq_len
    W_Q, W_K, W_V, W_O = _attention(plan, layout)
    query, key = _positions(length)
    band = (query - key >= 1) & (query - key <= m) & (query >= m)
    for c in range(m):
        serves = query % m == c
        admitted = torch.where(serves & (query >= m), band, query == key)
        W_Q[c, layout["token"], :q] = eye(q)
        W_K[c, layout["token"], :q] = plan.content_scores
        W_Q[c, layout["position"], q : q + length] = _mask(admitted, plan.responsibility_gap)
        W_K[c, layout["position"], q : q + length] = eye(length)
        W_V[c, layout["position"], :m] = _classes(length, m)
        W_O[c, :m, layout["lag"]] = _permutation([(c - a - 1) % m for a in range(m)])
    # Resting heads write every lag but the last, at every position: the bias takes it off.
    b_O = zeros(layout.size)
    b_O[layout["lag"]][: m - 1] = -1.0
    return for_block(0, "attn", W_Q=W_Q, W_K=W_K, W_V=W_V, W_O=W_O, b_O=b_O)


def average(plan: Plan, layout: Layout) -> dict[str, Tensor]:
    """Layer 1: head c averages γ over the evidence of queries of class c, and writes it by class.

    Resting heads attend to position 0, where layer 0 has left exactly the last lag's unit vector;
    the value of position 0 takes that off, so they write nothing.
    """
    task = plan.task
    m, length = task.order, task.seq_len
    W_Q, W_K, W_V, W_O = _attention(plan, layout)
    query, key = _positions(length)
    band = (key >= m) & (key <= query)
    if plan.window is not None:
        band &= query - key < plan.window
    for c in range(m):
        serves = (query % m == c) & (query >= m)
        admitted = torch.where(serves, band, key == 0)
        W_Q[c, layout["position"], :length] = _mask(admitted, plan.average_gap)
        W_K[c, layout["position"], :length] = eye(length)
        W_V[c, layout["lag"], :m] = eye(m)
        W_V[c, layout["position"].start, m - 1] = -1.0
        W_O[c, :m, layout["class"]] = _permutation([(c - g) % m for g in range(m)])
    return for_block(1, "attn", W_Q=W_Q, W_K=W_K, W_V=W_V, W_O=W_O)


def read_out(plan: Plan, layout: Layout) -> dict[str, Tensor]:
    """Layer 2: the pattern of head 0 is softmax(β · mean γ) over lags; values copy the token."""
    task = plan.task
    m, q, length = task.order, task.n_tokens, task.seq_len
    W_Q, W_K, W_V, W_O = _attention(plan, layout)
    query, key = _positions(length)
    band = (key <= query) & (query - key < m)
    shifted = _permutation([(a + plan.lag_shift) % m for a in range(m)])
    W_Q[0, layout["class"], :m] = plan.beta * shifted
    W_K[0, layout["position"], :m] = _classes(length, m)
    W_Q[0, layout["position"], m : m + length] = _mask(band, plan.weights_gap)
    W_K[0, layout["position"], m : m + length] = eye(length)
    W_V[0, layout["token"], :q] = eye(q)
    W_O[0, :q, layout["output"]] = eye(q)
    return for_block(2, "attn", W_Q=W_Q, W_K=W_K, W_V=W_V, W_O=W_O)


def _attention(plan: Plan, layout: Layout) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    task = plan.task
    d_head = max(task.n_tokens, task.order) + task.seq_len
    inward = (task.order, layout.size, d_head)
    return zeros(*inward), zeros(*inward), zeros(*inward), zeros(inward[0], d_head, layout.size)


def _positions(length: int) -> tuple[Tensor, Tensor]:
    return torch.arange(length)[:, None], torch.arange(length)[None, :]


def _mask(admitted: Tensor, gap: float) -> Tensor:
    return torch.where(admitted, 0.0, -gap).to(torch.float64)


def _classes(length: int, m: int) -> Tensor:
    return torch.nn.functional.one_hot(torch.arange(length) % m, m).to(torch.float64)


def _permutation(targets: list[int]) -> Tensor:
    """Row i is the unit vector of ``targets[i]``."""
    return eye(len(targets))[targets]
