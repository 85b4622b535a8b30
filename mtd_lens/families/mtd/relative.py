"""The construction with relative key and value tables, one head a layer (Proposition 3).

It differs from the paper in one respect: a flag that the positional embedding writes at the first
``order`` positions keeps them out of layer 1's average at *every* query, not only at the last.
"""

from torch import Tensor

from mtd_lens.architectures.layout import Architecture, Layout
from mtd_lens.architectures.writing import eye, for_block, zeros
from mtd_lens.families.mtd.plan import Plan, unembed


def construct_relative(plan: Plan) -> tuple[Architecture, dict[str, Tensor]]:
    """Architecture and float64 weights of the relative-attention construction."""
    layout = lay_out(plan)
    weights = embed(plan, layout)
    weights |= responsibilities(plan, layout)
    weights |= average(plan, layout)
    weights |= read_out(plan, layout)
    weights |= unembed(plan, layout)
    architecture = Architecture(
        form="relative",
        read_out=plan.read_out,
        n_layers=3,
        n_heads=1,
        d_model=layout.size,
        d_head=_d_head(plan),
        n_ctx=plan.task.seq_len,
        n_tokens=plan.task.n_tokens,
    )
    return architecture, weights


def lay_out(plan: Plan) -> Layout:
    """The residual stream: token, two flags, γ, mean γ, mixed tokens."""
    task = plan.task
    return Layout(
        {
            "token": task.n_tokens,
            "always": 1,
            "preamble": 1,
            "lag": task.order,
            "mean": task.order,
            "output": task.n_tokens,
        }
    )


def embed(plan: Plan, layout: Layout) -> dict[str, Tensor]:
    """One-hot tokens; positions write a constant and a flag on the first ``order`` of them."""
    task = plan.task
    W_E, W_pos = zeros(task.n_tokens, layout.size), zeros(task.seq_len, layout.size)
    W_E[:, layout["token"]] = eye(task.n_tokens)
    W_pos[:, layout["always"]] = 1.0
    W_pos[: task.order, layout["preamble"]] = 1.0
    return {"embed.W_E": W_E, "pos_embed.W_pos": W_pos}


def responsibilities(plan: Plan, layout: Layout) -> dict[str, Tensor]:
    """Layer 0: the pattern over lags 1 … m is γ, and the relative values write it by lag.

    Queries in the preamble have no full window; they attend to themselves, and write nothing.
    """
    task = plan.task
    m, q = task.order, task.n_tokens
    W_Q, W_K, _, W_O, RK, RV = _attention(plan, layout)
    W_Q[0, layout["token"], :q] = eye(q)
    W_K[0, layout["token"], :q] = plan.content_scores
    W_Q[0, layout["always"], q] = 1.0
    RK[0, :, q] = -plan.responsibility_gap
    RK[0, 1 : m + 1, q] = 0.0
    W_Q[0, layout["preamble"], q + 1] = 1.0
    RK[0, 0, q + 1] = 2 * plan.responsibility_gap
    RV[0, 1 : m + 1, :m] = eye(m)
    W_O[0, :m, layout["lag"]] = eye(m)
    return for_block(0, "attn", W_Q=W_Q, W_K=W_K, W_O=W_O, RK=RK, RV=RV)


def average(plan: Plan, layout: Layout) -> dict[str, Tensor]:
    """Layer 1: uniform attention over evidence positions; values carry γ to the mean."""
    m = plan.task.order
    W_Q, W_K, W_V, W_O, RK, _ = _attention(plan, layout)
    W_Q[0, layout["always"], 0] = 1.0
    W_K[0, layout["preamble"], 0] = -plan.average_gap
    if plan.window is not None:
        RK[0, plan.window :, 0] = -plan.average_gap
    W_V[0, layout["lag"], :m] = eye(m)
    W_O[0, :m, layout["mean"]] = eye(m)
    return for_block(1, "attn", W_Q=W_Q, W_K=W_K, W_V=W_V, W_O=W_O, RK=RK)


def read_out(plan: Plan, layout: Layout) -> dict[str, Tensor]:
    """Layer 2: the key at lag g scores β · mean γ(g); values copy the token."""
    task = plan.task
    m, q = task.order, task.n_tokens
    W_Q, _, W_V, W_O, RK, _ = _attention(plan, layout)
    W_Q[0, layout["mean"], :m] = plan.beta * eye(m)
    W_Q[0, layout["always"], m] = 1.0
    RK[0, :m, :m] = eye(m).roll(plan.lag_shift, 1)
    RK[0, m:, m] = -plan.weights_gap
    W_V[0, layout["token"], :q] = eye(q)
    W_O[0, :q, layout["output"]] = eye(q)
    return for_block(2, "attn", W_Q=W_Q, W_V=W_V, W_O=W_O, RK=RK)


def _d_head(plan: Plan) -> int:
    return max(plan.task.n_tokens, plan.task.order) + 2


def _attention(plan: Plan, layout: Layout) -> tuple[Tensor, ...]:
    """Zero W_Q, W_K, W_V, W_O, RK, RV of a layer with one head."""
    inward, tables = (1, layout.size, _d_head(plan)), (1, plan.task.seq_len, _d_head(plan))
    outward = (1, _d_head(plan), layout.size)
    return tuple(zeros(*shape) for shape in (inward, inward, inward, outward, tables, tables))
