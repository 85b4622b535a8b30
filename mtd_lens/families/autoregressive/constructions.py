"""The analytic linear-attention models, whole and with one part broken."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mtd_lens import hooked
from mtd_lens.architectures.layout import Architecture, Layout
from mtd_lens.architectures.writing import eye, for_block, zeros
from mtd_lens.errors import ArgumentError, ModelError
from mtd_lens.families.autoregressive.causal_model import (
    MAX_STEPS,
    best_step_size,
    check_step_size,
)
from mtd_lens.families.autoregressive.estimators import StepSizes, checked_step_sizes
from mtd_lens.families.autoregressive.references import DESCENTS, best_common_step_size
from mtd_lens.families.autoregressive.task import AutoregressiveTask, check_task
from mtd_lens.hooked import ModelInfo, info_of
from probes import checks
from probes.subject import HookedModel

PARTS = {
    "previous": "layer 0 puts the vector two back beside the current one, not the one before",
    "keys": "the keys of all layers after the first are the current vectors, not those before them",
    "values": "layer 1's values are the vectors before, not the current ones",
}


@dataclass(frozen=True)
class Plan:
    """What a construction computes; anything but the defaults breaks one of its parts.

    Attributes:
        task: The task.
        step_sizes: η of each step, one step a layer after the first.
        causal: Attention is causal, or else to the whole sequence.
        lag: How far back the vector is that layer 0 puts beside the current one.
        keys: What the layers after the first have as keys, by name of the subspace.
        values: What layer 1 has as values, by name of the subspace.
    """

    task: AutoregressiveTask
    step_sizes: tuple[float, ...]
    causal: bool = True
    lag: int = 1
    keys: str = "previous"
    values: str = "residual"


def construct_autoregressive(
    task: AutoregressiveTask,
    step_sizes: StepSizes | None = None,
    *,
    n_steps: int | None = None,
    causal: bool = True,
    dtype: torch.dtype = torch.float32,
    algorithm: str | None = None,
) -> HookedModel:
    """A HookedTransformer of linear attention that does gradient descent on the context.

    Layer 0 puts the vector before beside each vector by one-hot positions, and every layer after it
    does one step (Sander et al. 2024, section 3; von Oswald et al. 2023). One step is exact at
    every query position. Several steps are exact at the last one with attention to the whole
    sequence, where each query predicts with the estimate from all of it; with causal attention the
    residuals at a position are those of the context up to there, the prefix variant
    (``residual_steps`` of the estimators is either).

    Args:
        task: Whose vectors and context length the weights are for.
        step_sizes: η of each step, ``[step]`` or one number; None fits a common one to the task.
        n_steps: How many steps, 1 to 8, of a single size; by default as many as there are sizes.
        causal: Attention to earlier positions and the own one alone.
        dtype: Of the parameters.
        algorithm: In place of ``n_steps`` and ``causal``: ``"one-step"``, ``"2-steps"`` with
            attention to the whole sequence, ``"2-steps-prefix"`` with causal one, and so on to 4.

    Returns:
        A HookedTransformer on the CPU, in evaluation mode, that reads ``[batch, position,
        component]`` and gives the predicted next vectors, at positions ``t >= 1``.

    Raises:
        ArgumentError: No AutoregressiveTask, step sizes or a number of steps out of range, more
            sizes than steps or fewer, ``causal`` no bool, a dtype that is not floating, or an
            algorithm that is unknown or that is given with ``n_steps`` or ``causal``.

    Examples:
        >>> import mtd_lens
        >>> task = mtd_lens.AutoregressiveTask(dim=3, seq_len=8)
        >>> model = mtd_lens.construct_autoregressive(task, step_sizes=0.4)
        >>> model(task.sample(2, seed=0).tokens).shape
        torch.Size([2, 8, 3])
    """
    check_task(task)
    if not isinstance(causal, bool):
        raise ArgumentError(f"causal must be True or False; got {causal!r}.")
    if algorithm is not None:
        by_id = {algorithm_id(name): steps for name, steps in DESCENTS.items()}
        checks.choice(algorithm, "algorithm", by_id, ArgumentError)
        if n_steps is not None or not causal:
            raise ArgumentError(
                f"algorithm={algorithm!r} says how many steps there are, and of which attention. "
                "Leave n_steps and causal out, or algorithm."
            )
        n_steps, causal = by_id[algorithm]
    if n_steps is not None:
        n_steps = checks.integer(n_steps, "n_steps", 1, ArgumentError, MAX_STEPS)
    if step_sizes is None:
        several = n_steps is not None and n_steps > 1
        step_sizes = best_common_step_size(task, n_steps or 1) if several else best_step_size(task)
    sizes = tuple(check_step_size(size) for size in checked_step_sizes(step_sizes))
    checks.integer(len(sizes), "the number of step_sizes", 1, ArgumentError, MAX_STEPS)
    if len(sizes) == 1:
        sizes *= n_steps or 1
    if n_steps not in (None, len(sizes)):
        raise ArgumentError(
            f"n_steps must be the number of step_sizes, {len(sizes)}; got {n_steps}. Leave it out, "
            "or give one size for all steps."
        )
    return _build(Plan(task, sizes, causal), dtype)


def algorithm_id(name: str) -> str:
    """What an algorithm is asked for by."""
    return name.replace(",", "").replace(" ", "-")


def ablate_autoregressive(model: HookedModel, part: str) -> HookedModel:
    """A new construction like ``model`` with one part broken: what a scorecard must notice.

    Args:
        model: A model from ``construct_autoregressive`` or ``load_model(".../constructed-…")``.
        part: ``"previous"``, ``"keys"`` or ``"values"``; see ``PARTS`` of the constructions.

    Raises:
        ArgumentError: An unknown part, or one that is broken already.
        ModelError: The model is no construction of this family.
    """
    checks.choice(part, "part", PARTS, ArgumentError)
    info = info_of(model)
    if info is None or not isinstance(info.blueprint, Plan):
        raise ModelError(
            "only an analytic construction can be ablated by part; this model is none. Build one "
            "with construct_autoregressive(task)."
        )
    changes: dict[str, Mapping[str, Any]] = {
        "previous": {"lag": 2},
        "keys": {"keys": "current"},
        "values": {"values": "previous"},
    }
    plan = replace(info.blueprint, **changes[part])
    if plan == info.blueprint:
        raise ArgumentError(f"the model's {part} is broken already. Start from a whole one.")
    weight = next(model.parameters())
    broken = _build(plan, weight.dtype, f"{info.name} without its {part}")
    return hooked.moved(broken, weight.device)


def lay_out(plan: Plan) -> Layout:
    """The residual stream: vector and position, the augmented token, residuals, and the output."""
    dim = plan.task.dim
    return Layout(
        {
            "token": dim,
            "position": plan.task.seq_len,
            "current": dim,
            "previous": dim,
            "residual": dim,
            "output": dim,
        }
    )


def embed(plan: Plan, layout: Layout) -> dict[str, Tensor]:
    """The vector as it is, and one-hot positions."""
    task = plan.task
    W_E, W_pos = zeros(task.dim, layout.size), zeros(task.seq_len, layout.size)
    W_E[:, layout["token"]] = eye(task.dim)
    W_pos[:, layout["position"]] = eye(task.seq_len)
    return {"embed.W_E": W_E, "pos_embed.W_pos": W_pos}


def augment(plan: Plan, layout: Layout) -> dict[str, Tensor]:
    """Layer 0: head 0 copies the vector itself, head 1 the one before, 0 at the first position."""
    length, dim = plan.task.seq_len, plan.task.dim
    W_Q, W_K, W_V, W_O = _attention(plan, layout)
    for head, (lag, written) in enumerate(
        ((0, ("current", "residual")), (plan.lag, ("previous",)))
    ):
        query, key = torch.arange(length)[:, None], torch.arange(length)
        W_Q[head, layout["position"], :length] = (query - key == lag).to(torch.float64)
        W_K[head, layout["position"], :length] = eye(length)
        W_V[head, layout["token"], :dim] = eye(dim)
        for name in written:
            W_O[head, :dim, layout[name]] = eye(dim)
    return for_block(0, "attn", W_Q=W_Q, W_K=W_K, W_V=W_V, W_O=W_O)


def step(plan: Plan, layout: Layout, layer: int) -> dict[str, Tensor]:
    """Head 0 adds a step to the prediction; head 1 takes it from the residuals of later layers."""
    dim = plan.task.dim
    W_Q, W_K, W_V, W_O = _attention(plan, layout)
    values = plan.values if layer == 1 else "residual"
    heads = [("current", "output", 1.0), ("previous", "residual", -1.0)]
    for head, (query, written, sign) in enumerate(heads):
        if head == 1 and layer == len(plan.step_sizes):
            break  # no later layer reads them
        W_Q[head, layout[query], :dim] = plan.step_sizes[layer - 1] * eye(dim)
        W_K[head, layout[plan.keys], :dim] = eye(dim)
        W_V[head, layout[values], :dim] = eye(dim)
        W_O[head, :dim, layout[written]] = sign * eye(dim)
    return for_block(layer, "attn", W_Q=W_Q, W_K=W_K, W_V=W_V, W_O=W_O)


def _build(plan: Plan, dtype: torch.dtype, name: str | None = None) -> HookedModel:
    task, layout, n_steps = plan.task, lay_out(plan), len(plan.step_sizes)
    weights = embed(plan, layout) | augment(plan, layout)
    for layer in range(1, n_steps + 1):
        weights |= step(plan, layout, layer)
    W_U = zeros(layout.size, task.dim)
    W_U[layout["output"]] = eye(task.dim)
    weights["unembed.W_U"] = W_U
    architecture = Architecture(
        form="linear",
        read_out="logits",
        n_layers=1 + n_steps,
        n_heads=2,
        d_model=layout.size,
        d_head=max(task.seq_len, task.dim),
        n_ctx=task.seq_len,
        n_tokens=task.dim,
        reads_vectors=True,
        causal=plan.causal,
    )
    name = name or f"{task.name or task.family}/{variant(n_steps, plan.causal)}"
    info = ModelInfo(task, name, blueprint=plan)
    return hooked.assemble(architecture, weights, info, hooked.check_dtype(dtype))


def variant(n_steps: int, causal: bool) -> str:
    """Name of the construction of so many steps."""
    steps = "one-step" if n_steps == 1 else f"{n_steps}-steps"
    return f"constructed-{steps}" if causal else f"constructed-{steps}-bidirectional"


def _attention(plan: Plan, layout: Layout) -> Sequence[Tensor]:
    d_head = max(plan.task.seq_len, plan.task.dim)
    inward = [zeros(2, layout.size, d_head) for _ in range(3)]
    return (*inward, zeros(2, d_head, layout.size))
