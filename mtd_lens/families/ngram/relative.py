"""The construction with relative key tables: heads copy by offset, so no positions are needed."""

from mtd_lens.architectures.layout import Architecture, Layout
from mtd_lens.architectures.writing import for_block, zeros
from mtd_lens.families.ngram import plan as stages
from mtd_lens.families.ngram.plan import Plan, Weights


def construct_relative(plan: Plan) -> tuple[Architecture, Weights]:
    """Architecture and float64 weights of the relative-attention construction."""
    layout = stages.lay_out(plan, {"preamble": 1})
    weights = stages.embed_tokens(plan, layout)
    weights |= embed_preamble(plan, layout)
    weights |= copy(plan, layout)
    weights |= stages.select(plan, layout)
    weights |= stages.classify(plan, layout, "relative", layout["preamble"])
    weights |= stages.unembed(plan, layout)
    return stages.architecture(plan, layout, "relative"), weights


def embed_preamble(plan: Plan, layout: Layout) -> Weights:
    """A flag on the first ``window`` positions, which are no evidence."""
    W_pos = zeros(plan.task.seq_len, layout.size)
    W_pos[: plan.task.window, layout["preamble"]] = 1.0
    return {"pos_embed.W_pos": W_pos}


def copy(plan: Plan, layout: Layout) -> Weights:
    """Block 0: the head of lag h attends to the position h back, whatever is there.

    Positions that have none so far back attend to all before them alike; they are no queries, and
    as keys they are no evidence.
    """
    task = plan.task
    width = stages.d_head(plan, "relative")
    b_Q, RK = zeros(task.window, width), zeros(task.window, task.seq_len, width)
    b_Q[:, 0] = 1.0
    RK[:, :, 0] = -plan.copy_gap
    for head, lag in enumerate(range(1, task.window + 1)):
        RK[head, lag, 0] = 0.0
    W_V, W_O = stages.move_copies(plan, layout, "relative")
    return for_block(0, "attn", b_Q=b_Q, RK=RK, W_V=W_V, W_O=W_O)
