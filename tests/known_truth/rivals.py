"""Models that run rival algorithms, which predict much like one step of mirror descent."""

import torch
from torch import Tensor

import mtd_lens
from known_truth.lookups import window_likelihoods, window_units
from known_truth.making import build
from mtd_lens import MTDTask
from mtd_lens.architectures.layout import Layout
from mtd_lens.architectures.parts import (
    Layer,
    Part,
    by_position,
    copies,
    head,
    read,
    scaled,
    units,
    written,
)
from mtd_lens.architectures.writing import MARGIN, eye, zeros
from mtd_lens.families.mtd import stages
from mtd_lens.families.mtd.posterior import exact_nodes, simplex_rule
from probes.subject import HookedModel

FLOOR = 40.0
"""Log-likelihoods of a window are raised to minus this."""

SIDE = 6
"""Nodes along a side of the triangular grid for three lags."""


def exact_bayes(task: MTDTask, shares: tuple[float, ...] = (1.0,)) -> HookedModel:
    """The posterior mean under nodes that integrate the posterior of two lags exactly.

    Args:
        task: With two lags.
        shares: What each of several layers writes of the log-likelihoods, and again of the mean.
    """
    nodes, log_masses = simplex_rule(2, task.concentration, exact_nodes(task.seq_len - 2))
    return posterior(task, nodes, log_masses, "exact Bayes", shares)


def bayes_on_a_grid(task: MTDTask) -> HookedModel:
    """The posterior mean of three lags under a uniform prior on a triangular grid."""
    nodes = triangular_grid()
    return posterior(task, nodes, zeros(len(nodes)), "Bayes on a grid", (1.0,))


def triangular_grid() -> Tensor:
    """Points of the simplex of three lags, off its edges, ``[node, lag]``."""
    corners = [(i, j, SIDE - 1 - i - j) for i in range(SIDE) for j in range(SIDE - i)]
    nodes = torch.tensor(corners).double() + 1 / 3
    return nodes / nodes.sum(-1, keepdim=True)


def product_of_likelihoods(task: MTDTask) -> HookedModel:
    """Weights by the likelihood of each lag alone: the posterior of a single lag."""
    m = task.order
    return posterior(task, eye(m), zeros(m), "product of likelihoods", (1.0,))


def posterior(
    task: MTDTask, nodes: Tensor, log_masses: Tensor, name: str, shares: tuple[float, ...]
) -> HookedModel:
    """Exact posterior over nodes of the simplex, and the prediction of its mean.

    Layer 0 copies the window, and its MLP looks up the log-likelihood of each node. Averages over
    evidence follow, and an MLP that multiplies them by the number of evidence positions; then
    attention to the first positions, each of which stands for a node. Its values are the nodes.

    Args:
        task: The task.
        nodes: ``[node, lag]``, no more than positions.
        log_masses: ``[node]``, of the prior.
        name: Of the model.
        shares: What each of several layers writes of the averages, and of the posterior mean.
    """
    q, m = task.n_tokens, task.order
    lags = range(1, m + 1)
    parents = {f"token at lag {g}": q for g in lags}
    per_node = dict.fromkeys(("log-likelihood", "mean", "sum"), len(nodes))
    layout = stages.lay_out(task, **parents, **per_node, weights=m, product=m * q)
    likelihoods = torch.stack([window_likelihoods(task, g) for g in lags], -1)
    found = (likelihoods @ nodes.T).log().clamp_min(-FLOOR)
    copied = [copies(layout, g, f"token at lag {g}") for g in lags]
    lookup = window_units(task, layout, written(layout, "log-likelihood", found))
    averaged = head(
        [by_position(layout, evidence_or_start(task))],
        read(layout, "log-likelihood", eye(len(nodes))),
        written(layout, "mean", eye(len(nodes))),
    )
    chosen = choose(task, layout, nodes, log_masses)
    averages = [Layer([scaled(averaged, share)]) for share in shares]
    averages[-1] = Layer(averages[-1].heads, [multiplied(task, layout, len(nodes))])
    choices = [Layer([scaled(chosen, share)]) for share in shares]
    choices[-1] = Layer(choices[-1].heads, [products(task, layout)])
    ends = stages.ends(task, layout)
    ends["unembed.W_U"] = read(layout, "product", task.transition.repeat(m, 1))
    return build(task, layout, [Layer(copied, [lookup]), *averages, *choices], ends, name)


def evidence_or_start(task: MTDTask) -> Tensor:
    """The mean over evidence as a pattern; queries without evidence attend to position 0."""
    pattern = stages.shares(task)
    pattern[: task.order, 0] = 1.0
    return pattern


def multiplied(task: MTDTask, layout: Layout, n_nodes: int) -> Part:
    """Units for each query and node: mean log-likelihood times the number of evidence positions.

    ``relu(mean + floor · 1[position = t])`` is ``mean + floor`` at t, and 0 elsewhere. The constant
    is the same for all nodes, and so without effect on the softmax that follows.
    """
    length = task.seq_len
    counts = (torch.arange(length) + 1 - task.order).clamp_min(0).double()
    reads = read(layout, "position", FLOOR * eye(length).repeat_interleave(n_nodes, 1))
    reads += read(layout, "mean", eye(n_nodes).repeat(1, length))
    writes = torch.kron(counts[:, None], eye(n_nodes))
    return units(reads, zeros(length * n_nodes), written(layout, "sum", writes))


def choose(task: MTDTask, layout: Layout, nodes: Tensor, log_masses: Tensor) -> Part:
    """A head whose pattern over the first positions is the posterior over nodes."""
    n_nodes, length = len(nodes), task.seq_len
    place = eye(length)[:, :n_nodes]
    prior = torch.full((length, 1), -(FLOOR + MARGIN) * length).double()
    prior[:n_nodes, 0] = log_masses
    values = zeros(length, task.order)
    values[:n_nodes] = nodes
    scores = [
        (read(layout, "sum", eye(n_nodes)), read(layout, "position", place)),
        (read(layout, "position", torch.ones(length, 1).double()), read(layout, "position", prior)),
    ]
    return head(
        scores, read(layout, "position", values), written(layout, "weights", eye(len(nodes[0])))
    )


def products(task: MTDTask, layout: Layout) -> Part:
    """Units for each lag and token: the lag's weight if the parent at that lag is the token."""
    q, m = task.n_tokens, task.order
    reads = read(layout, "weights", eye(m).repeat_interleave(q, 1))
    for lag in range(1, m + 1):
        parent = "token" if lag == 1 else f"token at lag {lag - 1}"
        columns = zeros(q, m * q)
        columns[:, (lag - 1) * q : lag * q] = eye(q)
        reads += read(layout, parent, columns)
    bias = -torch.ones(m * q).double()
    return units(reads, bias, written(layout, "product", eye(m * q)))


def passes(task: MTDTask, n_passes: int, factor: float = 1.0) -> HookedModel:
    """Responsibilities under the weights so far, averaged anew, ``n_passes`` times after the first.

    Args:
        task: The task.
        n_passes: How many.
        factor: Of the task's best β, at every stage.
    """
    m, beta = task.order, factor * mtd_lens.best_beta(task)
    names = range(1, n_passes + 1)
    further = {f"lag {i}": m for i in names} | {f"class {i}": m for i in names}
    layout = stages.lay_out(task, **further)
    layers = [Layer([stages.responsibilities(task, layout)]), Layer([stages.average(task, layout)])]
    last = "class"
    for i in names:
        again = stages.second_responsibilities(task, layout, beta, last, f"lag {i}")
        last = f"class {i}"
        averaged = stages.average(task, layout, source=f"lag {i}", target=last)
        layers += [Layer([again]), Layer([averaged])]
    layers.append(Layer([stages.read_out(task, layout, beta, last)]))
    return build(task, layout, layers, stages.ends(task, layout), f"{n_passes + 1} passes")
