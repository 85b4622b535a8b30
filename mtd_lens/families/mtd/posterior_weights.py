"""Exact Bayes in a stock three-layer transformer: attention, ReLU MLPs, no normalisation.

Layer 0 copies the window, and its MLP looks the log-likelihood of each node up. Layer 1 adds them
up over the evidence. Layer 2 attends to the first positions, each of which stands for a node: its
pattern is the posterior, its output the mixture weights, and its MLP gives them to the parents.
"""

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional

from mtd_lens.architectures.layout import Architecture, Layout, ReadOut
from mtd_lens.architectures.writing import MARGIN, eye, for_block, zeros
from mtd_lens.errors import ArgumentError
from mtd_lens.families.mtd.plan import READ_OUTS, assembled
from mtd_lens.families.mtd.posterior_model import PosteriorCausalModel, explained
from mtd_lens.families.mtd.task import MTDTask
from probes import checks
from probes.subject import HookedModel

NAMES = {"quadrature": "posterior", "vertices": "product-of-likelihoods"}
"""By rule, what the algorithm is called."""

MAX_WINDOWS = 2**14
"""Of a token and its parents: layer 0's MLP has a unit for each."""


def construct_posterior(
    causal_model: PosteriorCausalModel,
    read_out: str = "log_probs",
    dtype: torch.dtype = torch.float32,
) -> HookedModel:
    """A stock HookedTransformer that computes a posterior over nodes of the simplex exactly.

    It equals the causal model at every query position ``t >= n - 1`` with n nodes, since node j
    is position j of the context; before, the later nodes are missing.

    Args:
        causal_model: Whose task, nodes and inverse temperature the weights hold.
        read_out: ``"log_probs"``: the output is log-probabilities; ``"probs"``: the probabilities
            themselves.
        dtype: Of the parameters.

    Returns:
        A HookedTransformer on the CPU, in evaluation mode.

    Raises:
        ArgumentError: An unknown read-out, a dtype that is not floating, or a task with too many
            windows of tokens.

    Examples:
        >>> import mtd_lens
        >>> task = mtd_lens.MTDTask([[0.9, 0.1], [0.4, 0.6]], order=2, seq_len=8)
        >>> model = mtd_lens.construct_posterior(mtd_lens.PosteriorCausalModel(task))
        >>> model(task.sample(3, seed=0).tokens).shape
        torch.Size([3, 8, 2])
    """
    causal = checks.instance(
        causal_model, PosteriorCausalModel, "causal_model", ArgumentError,
        "Use PosteriorCausalModel(task).",
    )  # fmt: skip
    checks.choice(read_out, "read_out", READ_OUTS, ArgumentError)
    task = causal.task
    check_windows(task)
    layout = lay_out(causal)
    stages = (embed, copy_window, look_up, add_up, choose, mix)
    weights = {name: value for stage in stages for name, value in stage(causal, layout).items()}
    architecture = Architecture(
        form="absolute",
        read_out=cast(ReadOut, read_out),
        n_layers=3,
        n_heads=task.order,
        d_model=layout.size,
        d_head=_d_head(causal),
        n_ctx=task.seq_len,
        n_tokens=task.n_tokens,
        d_mlp=max(n_windows(task), task.order * task.n_tokens),
        activation="relu",
    )
    return assembled(task, NAMES[causal.rule], architecture, weights, causal, dtype)


def n_windows(task: MTDTask) -> int:
    """How many windows of a token and its parents there are."""
    return int(task.n_tokens ** (task.order + 1))


def check_windows(task: MTDTask) -> None:
    """Raise an ArgumentError for a task with more windows than an MLP can look up."""
    if n_windows(task) <= MAX_WINDOWS:
        return
    tokens = max(q for q in range(1, MAX_WINDOWS + 1) if q ** (task.order + 1) <= MAX_WINDOWS)
    raise ArgumentError(
        f"the MLP of layer 0 would need {n_windows(task):,} units, one for each window of "
        f"{task.order + 1} of {task.n_tokens} tokens, and may have {MAX_WINDOWS:,}. With order "
        f"{task.order} up to {tokens} tokens fit; or use a lower order."
    )


def lay_out(causal: PosteriorCausalModel) -> Layout:
    """The residual stream: token, position, parents, two log-likelihoods by node, weights by lag.

    ``"lag 0"`` is the token itself.
    """
    task, n_nodes = causal.task, len(causal.rule_nodes[0])
    tokens = {f"lag {g}": task.n_tokens for g in range(task.order + 1)}
    by_node = {"each": n_nodes, "total": n_nodes}
    rest = {"weights": task.order, "output": task.n_tokens}
    return Layout({"position": task.seq_len} | tokens | by_node | rest)


def embed(causal: PosteriorCausalModel, layout: Layout) -> dict[str, Tensor]:
    """One-hot tokens and positions, and the transition as unembedding."""
    task = causal.task
    W_E, W_pos = zeros(task.n_tokens, layout.size), zeros(task.seq_len, layout.size)
    W_U = zeros(layout.size, task.n_tokens)
    W_E[:, layout["lag 0"]] = eye(task.n_tokens)
    W_pos[:, layout["position"]] = eye(task.seq_len)
    W_U[layout["output"]] = task.transition
    return {"embed.W_E": W_E, "pos_embed.W_pos": W_pos, "unembed.W_U": W_U}


def copy_window(causal: PosteriorCausalModel, layout: Layout) -> dict[str, Tensor]:
    """Layer 0's head g copies the token at lag g; where there is none, it reads position 0."""
    task = causal.task
    q, length = task.n_tokens, task.seq_len
    W_Q, W_K, W_V, W_O = _attention(causal, layout)
    for g in range(1, task.order + 1):
        parent = functional.one_hot((torch.arange(length) - g).clamp_min(0), length)
        W_Q[g - 1, layout["position"], :length] = _scores(parent)
        W_K[g - 1, layout["position"], :length] = eye(length)
        W_V[g - 1, layout["lag 0"], :q] = eye(q)
        W_O[g - 1, :q, layout[f"lag {g}"]] = eye(q)
    return for_block(0, "attn", W_Q=W_Q, W_K=W_K, W_V=W_V, W_O=W_O)


def look_up(causal: PosteriorCausalModel, layout: Layout) -> dict[str, Tensor]:
    """MLP 0 has a unit for each window, 1 at an evidence position where it stands, or else 0."""
    task = causal.task
    q, m = task.n_tokens, task.order
    windows = torch.cartesian_prod(*[torch.arange(q)] * (m + 1))
    W_in, W_out = zeros(layout.size, len(windows)), zeros(len(windows), layout.size)
    for g in range(m + 1):
        W_in[layout[f"lag {g}"]] = functional.one_hot(windows[:, g], q).T.double()
    W_in[layout["position"]][m:] = 1.0
    likelihoods = task.transition[windows[:, 1:], windows[:, :1]]
    W_out[:, layout["each"]] = explained(causal, likelihoods)
    b_in = torch.full((len(windows),), -(m + 1.0), dtype=torch.float64)
    return for_block(0, "mlp", W_in=W_in, b_in=b_in, W_out=W_out)


def add_up(causal: PosteriorCausalModel, layout: Layout) -> dict[str, Tensor]:
    """Layer 1 gives each piece of evidence the weight 1/T, and multiplies by T.

    What is left goes to position 0, which is no evidence and holds zeros: so an average becomes a
    sum over however many pieces there are.
    """
    length, n_nodes = causal.task.seq_len, len(causal.rule_nodes[0])
    W_Q, W_K, W_V, W_O = _attention(causal, layout)
    query, key = torch.arange(length)[:, None], torch.arange(length)
    pattern = ((key >= causal.task.order) & (key <= query)).double() / length
    pattern[:, 0] = 1 - pattern.sum(1)
    W_Q[0, layout["position"], :length] = _scores(pattern)
    W_K[0, layout["position"], :length] = eye(length)
    W_V[0, layout["each"], :n_nodes] = eye(n_nodes)
    W_O[0, :n_nodes, layout["total"]] = length * eye(n_nodes)
    return for_block(1, "attn", W_Q=W_Q, W_K=W_K, W_V=W_V, W_O=W_O)


def choose(causal: PosteriorCausalModel, layout: Layout) -> dict[str, Tensor]:
    """Layer 2's pattern over the first positions is the posterior; values are the nodes."""
    nodes, log_masses = causal.rule_nodes
    n_nodes, m = nodes.shape
    W_Q, W_K, W_V, W_O = _attention(causal, layout)
    first = layout["position"].start
    places = slice(first, first + n_nodes)
    W_Q[0, layout["total"], :n_nodes] = causal.inverse_temperature * eye(n_nodes)
    W_K[0, places, :n_nodes] = eye(n_nodes)
    W_Q[0, layout["position"], n_nodes] = 1.0
    W_K[0, layout["position"], n_nodes] = -nodes_gap(causal)
    W_K[0, places, n_nodes] = log_masses
    W_V[0, places, :m] = nodes
    W_O[0, :m, layout["weights"]] = eye(m)
    return for_block(2, "attn", W_Q=W_Q, W_K=W_K, W_V=W_V, W_O=W_O)


def nodes_gap(causal: PosteriorCausalModel) -> float:
    """How far below 0 keys score that stand for no node: by the margin lower than any node."""
    log_masses = causal.rule_nodes[1]
    lowest = causal.least if bool((causal.rule_nodes[0] > 0).all()) else causal.floor
    n_evidence = causal.task.seq_len - causal.task.order
    return MARGIN - causal.inverse_temperature * n_evidence * lowest - float(log_masses.min())


def mix(causal: PosteriorCausalModel, layout: Layout) -> dict[str, Tensor]:
    """MLP 2 has a unit for each lag and token: the lag's weight if the parent there is the token.

    ``relu(x + 1[…] - 1)`` is ``x · 1[…]`` for x from 0 to 1. Of what is predicted next, the parent
    at lag g is what stands at lag g - 1 now.
    """
    q, m = causal.task.n_tokens, causal.task.order
    W_in, W_out = zeros(layout.size, m * q), zeros(m * q, layout.size)
    W_in[layout["weights"]] = eye(m).repeat_interleave(q, 1)
    for g in range(m):
        W_in[layout[f"lag {g}"], g * q : (g + 1) * q] = eye(q)
    W_out[:, layout["output"]] = eye(q).repeat(m, 1)
    return for_block(2, "mlp", W_in=W_in, b_in=zeros(m * q) - 1.0, W_out=W_out)


def _d_head(causal: PosteriorCausalModel) -> int:
    """Room for a position, a token, or the nodes and one entry more."""
    task = causal.task
    return max(task.seq_len, task.n_tokens, len(causal.rule_nodes[0]) + 1)


def _attention(
    causal: PosteriorCausalModel, layout: Layout
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    d_head = _d_head(causal)
    inward = (causal.task.order, layout.size, d_head)
    return zeros(*inward), zeros(*inward), zeros(*inward), zeros(inward[0], d_head, layout.size)


def _scores(pattern: Tensor) -> Tensor:
    """Scores ``[query, key]`` whose softmax is a pattern, with shares far above the margin."""
    return pattern.double().log().clamp_min(-2 * MARGIN)
