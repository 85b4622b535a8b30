"""The construction in stock attention: one-hot tokens and one-hot absolute positions."""

import torch

from mtd_lens.architectures.layout import Architecture, Layout
from mtd_lens.architectures.writing import eye, for_block, zeros
from mtd_lens.families.ngram import plan as stages
from mtd_lens.families.ngram.plan import Plan, Weights


def construct_absolute(plan: Plan) -> tuple[Architecture, Weights]:
    """Architecture and float64 weights of the stock-attention construction."""
    layout = stages.lay_out(plan, {"position": plan.task.seq_len})
    start = layout["position"].start
    preamble = slice(start, start + plan.task.window)
    weights = stages.embed_tokens(plan, layout)
    weights |= embed_positions(plan, layout)
    weights |= copy(plan, layout)
    weights |= stages.vote(plan, layout, stages.select(plan, layout))
    weights |= stages.classify(plan, layout, "absolute", preamble)
    weights |= stages.unembed(plan, layout)
    return stages.architecture(plan, layout, "absolute"), weights


def embed_positions(plan: Plan, layout: Layout) -> Weights:
    """One-hot positions."""
    W_pos = zeros(plan.task.seq_len, layout.size)
    W_pos[:, layout["position"]] = eye(plan.task.seq_len)
    return {"pos_embed.W_pos": W_pos}


def copy(plan: Plan, layout: Layout) -> Weights:
    """Block 0: the head of lag h attends to the position h back, or to its own where there is none.

    A query's vector lists the score that it gives to each position, a key's its position.
    """
    task, length = plan.task, plan.task.seq_len
    W_Q, W_K = (zeros(task.window, layout.size, stages.d_head(plan, "absolute")) for _ in range(2))
    query, key = torch.arange(length)[:, None], torch.arange(length)
    for head, lag in enumerate(range(1, task.window + 1)):
        source = torch.where(query >= lag, query - lag, query)
        scores = torch.where(key == source, 0.0, -plan.copy_gap)
        W_Q[head, layout["position"], :length] = scores.to(torch.float64)
        W_K[head, layout["position"], :length] = eye(length)
    W_V, W_O = stages.move_copies(plan, layout, "absolute")
    return for_block(0, "attn", W_Q=W_Q, W_K=W_K, W_V=W_V, W_O=W_O)
