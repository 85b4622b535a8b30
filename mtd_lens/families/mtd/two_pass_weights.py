"""Two passes in a stock five-layer transformer, attention only.

Layers 0 and 1 are those of one step. Layer 2 computes responsibilities again, with β₁ times each
position's own mean added to its scores; layer 3 averages them, and layer 4 reads them out.
"""

from collections.abc import Sequence
from typing import cast

import torch

from mtd_lens.architectures.layout import Layout, ReadOut
from mtd_lens.architectures.parts import Layer, put_together
from mtd_lens.errors import ArgumentError
from mtd_lens.families.mtd import stages
from mtd_lens.families.mtd.plan import READ_OUTS, assembled
from mtd_lens.families.mtd.task import MTDTask
from mtd_lens.families.mtd.two_pass_model import TwoPassCausalModel
from probes import checks
from probes.subject import HookedModel


def construct_two_pass(
    causal_model: TwoPassCausalModel,
    read_out: str = "log_probs",
    dtype: torch.dtype = torch.float32,
) -> HookedModel:
    """A stock attention-only HookedTransformer that computes two passes exactly, at every query.

    Args:
        causal_model: Whose task and sizes the weights hold.
        read_out: ``"log_probs"``: the output is log-probabilities; ``"probs"``: the probabilities
            themselves.
        dtype: Of the parameters.

    Returns:
        A HookedTransformer on the CPU, in evaluation mode.

    Raises:
        ArgumentError: Something else than a TwoPassCausalModel, an unknown read-out, or a dtype
            that is not floating.

    Examples:
        >>> import mtd_lens
        >>> task = mtd_lens.MTDTask([[0.9, 0.1], [0.4, 0.6]], order=2, seq_len=8)
        >>> model = mtd_lens.construct_two_pass(mtd_lens.TwoPassCausalModel(task, 4.0, 2.0))
        >>> model(task.sample(3, seed=0).tokens).shape
        torch.Size([3, 8, 2])
    """
    causal = checks.instance(
        causal_model, TwoPassCausalModel, "causal_model", ArgumentError,
        "Use TwoPassCausalModel(task, first_beta, second_beta).",
    )  # fmt: skip
    checks.choice(read_out, "read_out", READ_OUTS, ArgumentError)
    task = causal.task
    layout, layers = passes(task, [float(causal.first_beta), float(causal.second_beta)])
    architecture, weights = put_together(
        layout, layers, stages.ends(task, layout),
        n_ctx=task.seq_len, n_tokens=task.n_tokens, read_out=cast(ReadOut, read_out),
    )  # fmt: skip
    return assembled(task, "two-pass", architecture, weights, causal, dtype)


def passes(task: MTDTask, betas: Sequence[float]) -> tuple[Layout, list[Layer]]:
    """The residual stream and the layers of any number of passes.

    Args:
        task: The task.
        betas: Of each pass's weights; the last one's are the mixture weights.
    """
    further = [(f"lag {i}", f"class {i}") for i in range(1, len(betas))]
    widths = dict.fromkeys([name for names in further for name in names], task.order)
    layout = stages.lay_out(task, **widths)
    groups, mean = [stages.responsibilities(task, layout), stages.average(task, layout)], "class"
    for beta, (own, averaged) in zip(betas[:-1], further, strict=True):
        groups.append(stages.second_responsibilities(task, layout, beta, mean, own))
        groups.append(stages.average(task, layout, source=own, target=averaged))
        mean = averaged
    groups.append(stages.read_out(task, layout, betas[-1], mean))
    return layout, [Layer([heads]) for heads in groups]
