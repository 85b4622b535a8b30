"""What learns a rotation: shifted runs, where to start, and how to step."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from probes import progress
from probes.capture import NaturalRuns
from probes.errors import DataError
from probes.interchange import Fused, patched, resumable
from probes.sites import Site
from probes.subspaces import Held, held_at

Loss = Callable[[Tensor, Tensor], Tensor]
"""From rows and what is added there to a mean divergence."""


@dataclass(frozen=True)
class Shifts:
    """Runs in which activations at sites are shifted, and how far each source is from its base.

    Attributes:
        runs: The natural runs.
        held: What is there in them.
        differences: ``[base, position, component]``: what the sources hold there, less the bases.
        fused: For resumed runs; None where hooked ones are needed.
    """

    runs: NaturalRuns
    held: Held
    differences: Float[Tensor, "base position component"]
    fused: Fused | None

    def shifted(
        self, rows: Int[Tensor, " batch"], shift: Float[Tensor, "batch position component"]
    ) -> Float[Tensor, "batch outcome"]:
        """Outputs at the last position with ``shift`` added to the activations at the sites."""
        writes = self.held.writes(self.held.values[rows] + shift)
        return patched(self.runs, rows, self.fused).swap(writes)


def shifts_of(runs: NaturalRuns, source: Tensor, sites: Sequence[Site]) -> Shifts:
    """What is needed to shift the activations of bases at sites.

    Args:
        runs: Natural ones of bases, and of all sources.
        source: ``[base]``: the row of each base's source.
        sites: Where.
    """
    held = held_at(runs, sites)
    sources = held.values[source]
    fused = resumable(runs, [held.writes(sources)])
    return Shifts(runs, held, sources - held.values[: len(source)], fused)


def first_order(
    differences: Float[Tensor, "base position component"],
    span: Float[Tensor, "component direction"],
    taken: Float[Tensor, "direction taken"],
    width: int,
    loss: Loss,
    batch_size: int,
) -> Float[Tensor, "direction width"]:
    """What is taken, and beside it what lowers the loss most, to first order around no swap.

    A swap shifts activations by ``P d`` for a projection ``P`` and differences ``d``, so with
    gradients ``g`` the loss changes by ``tr(P E[d gᵀ])``: least for the lowest eigenvectors of the
    symmetric part.

    Args:
        differences: ``[base, position, component]``: sources less bases.
        span: ``[component, direction]``: in which to look.
        taken: ``[direction, taken]``: orthonormal columns of other variables.
        width: How many columns to add.
        loss: From rows and what is added there to a mean divergence.
        batch_size: Sequences at a time.

    Raises:
        DataError: The loss does not depend on the activations.
    """
    sensitivity = torch.zeros(len(span), len(span), dtype=torch.float64)
    for rows in torch.arange(len(differences), device=differences.device).split(batch_size):
        difference = differences[rows]
        shift = torch.zeros_like(difference).requires_grad_()
        with torch.enable_grad():
            value = loss(rows, shift) * len(rows)
        found = gradient(value, shift).flatten(0, -2).to("cpu", torch.float64)
        sensitivity += difference.flatten(0, -2).to("cpu", torch.float64).T @ found
    if not sensitivity.any():
        raise DataError(INDEPENDENT)
    free = torch.linalg.qr(taken, mode="complete").Q[:, taken.shape[1] :]
    within = (span @ free).T @ (sensitivity + sensitivity.T) @ (span @ free)
    best = torch.linalg.eigh(within).eigenvectors[:, :width]
    return torch.cat([taken, free @ best], -1)


def linearised(
    differences: Float[Tensor, "base position component"],
    span: Float[Tensor, "component direction"],
    taken: Float[Tensor, "direction taken"],
    width: int,
    targets: Float[Tensor, "base outcome"],
    outputs: Callable[[Tensor, Tensor], Tensor],
    batch_size: int,
) -> Float[Tensor, "direction width"]:
    """What is taken, and beside it the subspace of the map that acts best on linearised outputs.

    Where outputs change by ``J s`` under shifts ``s``, the map M of least squares has ``J M d``
    nearest to what targets differ by from unshifted predictions; the leading eigenvectors of its
    symmetric part are the start. Unlike the first-order one it is not drawn to directions along
    which large differences do harm and good by chance.

    Args:
        differences: ``[base, position, component]``: sources less bases.
        span: ``[component, direction]``: in which to look; of these the first ``N_LINEARISED``.
        taken: ``[direction, taken]``: orthonormal columns of other variables.
        width: How many columns to add.
        targets: ``[base, outcome]``.
        outputs: From rows and what is added there to predictions, ``[row, outcome]``.
        batch_size: Sequences at a time.
    """
    free = torch.linalg.qr(taken, mode="complete").Q[:, taken.shape[1] :]
    free = free[:, : max(N_LINEARISED, width)]
    within = (span @ free).to("cpu", torch.float64)
    n = within.shape[1]
    gram, moment = within.new_zeros(n * n, n * n), within.new_zeros(n * n)
    for rows in torch.arange(len(differences), device=differences.device).split(batch_size):
        difference = differences[rows].to("cpu", torch.float64) @ within
        shift = torch.zeros_like(differences[rows]).requires_grad_()
        with torch.enable_grad():
            predicted = outputs(rows, shift)
            sums = predicted.sum(0)[:N_OUTCOMES].unbind()
        wanted = (targets[rows] - predicted.detach()).to("cpu", torch.float64)
        for each, missing in zip(sums, wanted.T, strict=False):
            if not each.requires_grad:
                raise DataError(INDEPENDENT)
            (slope,) = torch.autograd.grad(each, [shift], retain_graph=True)
            slopes = slope.to("cpu", torch.float64) @ within
            design = torch.einsum("bpi,bpj->bij", slopes, difference).flatten(1)
            gram += design.T @ design
            moment += design.T @ missing
    ridge = RIDGE * gram.diagonal().mean() * torch.eye(n * n, dtype=gram.dtype)
    found = torch.linalg.solve(gram + ridge, moment).view(n, n)
    best = torch.linalg.eigh(found + found.T).eigenvectors[:, -width:]
    return torch.cat([taken, free @ best], -1)


N_LINEARISED = 40
"""Directions of most difference in which a map is fitted to linearised outputs."""

N_OUTCOMES = 16
"""Outcomes whose slopes that takes, each a backward pass."""

RIDGE = 1e-8
"""Of that fit, as a share of the mean square of its regressors."""

INDEPENDENT = (
    "the loss does not depend on the activation at the site, so no subspace can be learned there: "
    "nothing leads from it to the prediction at the last position, or predict or divergence is not "
    "differentiable. Choose another site, or check predict and divergence."
)


def rotation_from(first: Float[Tensor, "direction width"]) -> Any:
    """A module whose ``weight`` is a product of Householder reflections with free vectors."""
    module = nn.Module()
    module.weight = nn.Parameter(first)
    # Without the trivialization, which would draw from the process's random state.
    return orthogonal(module, "weight", "householder", use_trivialization=False)


def gradient(value: Tensor, variable: Tensor) -> Tensor:
    """The gradient in ``variable`` alone: the model's parameters get none."""
    (found,) = torch.autograd.grad(value, [variable], allow_unused=True)
    if found is None:
        raise DataError(INDEPENDENT)
    if not found.isfinite().all():
        raise DataError(
            "the gradient of the loss is not finite. Check predict and divergence where "
            "predictions are 0."
        )
    return found


def batches(n: int, size: int, steps: int, seed: int) -> Iterator[Int[Tensor, " batch"]]:
    """Rows for each step: every sequence once before any is drawn again, leftovers dropped."""
    generator = np.random.default_rng([seed, 1])
    left: list[Tensor] = []
    for _ in progress.steps(range(steps), "steps"):
        if not left:
            order = torch.from_numpy(generator.permutation(n))
            left = [rows for rows in order.split(size) if len(rows) == size]
        yield left.pop()
