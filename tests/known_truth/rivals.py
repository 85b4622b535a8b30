"""Models that run rival algorithms, which predict much like one step of mirror descent."""

from functools import cached_property

import torch
from torch import Tensor

import mtd_lens
from known_truth.making import build
from mtd_lens import MTDTask, PosteriorCausalModel
from mtd_lens.architectures.parts import Layer, of_block, scaled
from mtd_lens.architectures.writing import zeros
from mtd_lens.families.mtd import posterior_weights, stages, two_pass_weights
from probes.subject import HookedModel

SIDE = 6
"""Nodes along a side of the triangular grid for three lags."""


class OnAGrid(PosteriorCausalModel):
    """The posterior of three lags under a uniform prior on a triangular grid."""

    @cached_property
    def rule_nodes(self) -> tuple[Tensor, Tensor]:
        """Nodes, and the logarithm of their prior masses, up to a constant."""
        nodes = triangular_grid()
        return nodes, zeros(len(nodes))


def triangular_grid() -> Tensor:
    """Points of the simplex of three lags, off its edges, ``[node, lag]``."""
    corners = [(i, j, SIDE - 1 - i - j) for i in range(SIDE) for j in range(SIDE - i)]
    nodes = torch.tensor(corners).double() + 1 / 3
    return nodes / nodes.sum(-1, keepdim=True)


def bayes_on_a_grid(task: MTDTask) -> HookedModel:
    """The posterior mean of three lags under a uniform prior on a triangular grid."""
    return mtd_lens.construct_posterior(OnAGrid(task), dtype=torch.float64)


def product_of_likelihoods(task: MTDTask) -> HookedModel:
    """Weights by the likelihood of each lag alone: the posterior of a single lag."""
    return mtd_lens.construct(task, algorithm="product-of-likelihoods", dtype=torch.float64)


def exact_bayes(task: MTDTask, shares: tuple[float, ...] = (1.0,)) -> HookedModel:
    """The posterior mean under nodes that integrate the posterior of two lags exactly.

    Args:
        task: With two lags.
        shares: What each of several layers writes of the sums, and again of the mean.
    """
    causal = PosteriorCausalModel(task)
    layout = posterior_weights.lay_out(causal)
    copied, looked_up, added, chosen, mixed = (
        of_block(stage(causal, layout))
        for stage in (
            posterior_weights.copy_window,
            posterior_weights.look_up,
            posterior_weights.add_up,
            posterior_weights.choose,
            posterior_weights.mix,
        )
    )
    sums, choices = (
        [Layer([scaled(heads, share)]) for share in shares] for heads in (added, chosen)
    )
    choices[-1] = Layer(choices[-1].heads, [mixed])
    layers = [Layer([copied], [looked_up]), *sums, *choices]
    return build(task, layout, layers, posterior_weights.embed(causal, layout), "exact Bayes")


def passes(task: MTDTask, n_passes: int, factor: float = 1.0) -> HookedModel:
    """Responsibilities under the weights so far, averaged anew, ``n_passes`` times after the first.

    Args:
        task: The task.
        n_passes: How many.
        factor: Of the task's best β, at every stage.
    """
    betas = [factor * mtd_lens.best_beta(task)] * (n_passes + 1)
    layout, layers = two_pass_weights.passes(task, betas)
    return build(task, layout, layers, stages.ends(task, layout), f"{n_passes + 1} passes")
