"""Mirror descent to first order in two layers of stock attention, without MLPs.

Layer 0 computes responsibilities and copies the query's own parents. Layer 1 has a pair of heads
for each outcome b. A key at evidence position k scores ``±ε Σ_g (γ_k(g) - 1/m) π[y_{t+1-g}, b]``:
what the evidence says for the parents of this query. Half of the attention, but for this, rests on
position 0. Values are 1/ε at evidence positions and -1/ε at position 0, so that their mean under
even scores is 0, and what passes is the covariance of score and value: the softmax's first order.
Even orders cancel between the heads of a pair, whose outputs are subtracted. The correction is
left, with an error of at most ``ε²``. Uniform weights' prediction is read from the parents.
"""

from dataclasses import replace
from typing import cast

import torch
from torch import Tensor

from mtd_lens.architectures.layout import Layout, ReadOut
from mtd_lens.architectures.parts import (
    Layer,
    Part,
    beside,
    copies,
    head,
    put_together,
    read,
    written,
)
from mtd_lens.architectures.writing import MARGIN, eye, zeros
from mtd_lens.errors import ArgumentError
from mtd_lens.families.mtd import stages
from mtd_lens.families.mtd.fused_model import FLOOR, FusedCausalModel
from mtd_lens.families.mtd.plan import READ_OUTS, assembled
from probes import checks
from probes.subject import HookedModel

EPSILON = 4e-3
"""Of scores: small enough for first order, large enough for float32."""

MAX_EPSILON = 0.5


def construct_fused(
    causal_model: FusedCausalModel,
    read_out: str = "log_probs",
    dtype: torch.dtype = torch.float32,
    *,
    epsilon: float = EPSILON,
) -> HookedModel:
    """A stock two-layer attention-only transformer that computes one step to first order.

    Its layer 1 writes the correction with an error of at most ``epsilon ** 2``; and, in float32, of
    about ``1e-7 / epsilon``.

    Args:
        causal_model: Whose task and β the weights hold.
        read_out: ``"log_probs"``: the output is log-probabilities, with the causal model's floor;
            ``"probs"``: first order itself, which may be negative.
        dtype: Of the parameters.
        epsilon: Factor of the scores.

    Returns:
        A HookedTransformer on the CPU, in evaluation mode.

    Raises:
        ArgumentError: Something else than a causal model, an unknown read-out, a dtype that is not
            floating, or an epsilon out of range.

    Examples:
        >>> import mtd_lens
        >>> task = mtd_lens.MTDTask([[0.9, 0.1], [0.4, 0.6]], order=2, seq_len=8)
        >>> model = mtd_lens.construct_fused(mtd_lens.FusedCausalModel(task, beta=2.0))
        >>> model(task.sample(3, seed=0).tokens).shape
        torch.Size([3, 8, 2])
    """
    causal = checks.instance(
        causal_model, FusedCausalModel, "causal_model", ArgumentError,
        "Use FusedCausalModel(task, beta).",
    )  # fmt: skip
    checks.choice(read_out, "read_out", READ_OUTS, ArgumentError)
    epsilon = checks.number(epsilon, "epsilon", 0, MAX_EPSILON, ArgumentError)
    task = causal.task
    layout = lay_out(causal)
    recent = [copies(layout, g - 1, name) for g, name in enumerate(parents(causal), 1) if g > 1]
    layers = [
        Layer([stages.responsibilities(task, layout), *recent]),
        Layer([correct(causal, layout, epsilon)]),
    ]
    architecture, weights = put_together(
        layout,
        layers,
        ends(causal, layout),
        n_ctx=task.seq_len,
        n_tokens=task.n_tokens,
        read_out=cast(ReadOut, read_out),
    )
    architecture = replace(architecture, probability_floor=FLOOR / task.n_tokens)
    return assembled(task, "fused", architecture, weights, causal, dtype)


def parents(causal: FusedCausalModel) -> list[str]:
    """The subspaces of what comes next's parents, from lag 1 on: the token itself is the first."""
    return ["token", *[f"token at lag {g}" for g in range(1, causal.task.order)]]


def lay_out(causal: FusedCausalModel) -> Layout:
    """The residual stream: position, parents, γ by lag, correction."""
    task = causal.task
    tokens = dict.fromkeys(parents(causal), task.n_tokens)
    rest = {"position": task.seq_len, "lag": task.order, "correction": task.n_tokens}
    return Layout(tokens | rest)


def ends(causal: FusedCausalModel, layout: Layout) -> dict[str, Tensor]:
    """One-hot tokens and positions; the mean of the parents' rows, and the correction."""
    task = causal.task
    W_E, W_pos = zeros(task.n_tokens, layout.size), zeros(task.seq_len, layout.size)
    W_U = zeros(layout.size, task.n_tokens)
    W_E[:, layout["token"]] = eye(task.n_tokens)
    W_pos[:, layout["position"]] = eye(task.seq_len)
    for name in parents(causal):
        W_U[layout[name]] = task.transition / task.order
    W_U[layout["correction"]] = causal.beta / task.order * eye(task.n_tokens)
    return {"embed.W_E": W_E, "pos_embed.W_pos": W_pos, "unembed.W_U": W_U}


def correct(causal: FusedCausalModel, layout: Layout, epsilon: float) -> Part:
    """Layer 1: for each outcome a pair of heads, whose difference is its correction."""
    task = causal.task
    signs = torch.full((task.seq_len, 1), 1 / epsilon, dtype=torch.float64)
    signs[0] = -1 / epsilon  # the next ones are never attended to
    value, pairs = read(layout, "position", signs), []
    keys = [evidence(causal, layout, lag) for lag in range(task.order)]
    for outcome, unit in enumerate(eye(task.n_tokens)):
        for sign in (1, -1):
            column = sign * epsilon * task.transition[:, outcome, None]
            queries = [read(layout, name, column) for name in parents(causal)]
            scores = [*zip(queries, keys, strict=True), half_at_rest(causal, layout)]
            pairs.append(head(scores, value, written(layout, "correction", sign * unit[None])))
    return beside(pairs)


def evidence(causal: FusedCausalModel, layout: Layout, lag: int) -> Tensor:
    """``γ(g) - 1/m`` at evidence positions and 0 at position 0, by lag from 0.

    At position 0 resting heads of layer 0 leave the last lag's unit vector.
    """
    task = causal.task
    offset = torch.full((task.seq_len, 1), -1 / task.order, dtype=torch.float64)
    offset[0] = -1.0 if lag == task.order - 1 else 0.0
    return read(layout, "lag", eye(task.order)[:, lag, None]) + read(layout, "position", offset)


def half_at_rest(causal: FusedCausalModel, layout: Layout) -> tuple[Tensor, Tensor]:
    """Scores whose softmax is half at position 0, and half even over the evidence.

    Those of evidence are exactly 0, so that nothing is rounded where ε is added.
    """
    task = causal.task
    query, key = torch.arange(task.seq_len)[:, None], torch.arange(task.seq_len)
    admitted = (key >= task.order) & (key <= query)
    scores = torch.where(admitted, 0.0, -2 * MARGIN).to(torch.float64)
    scores[:, 0] = admitted.sum(1).clamp_min(1).log()
    return read(layout, "position", scores), read(layout, "position", eye(task.seq_len))
