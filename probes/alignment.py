"""Distributed alignment search: the subspace of an activation that carries a variable.

A rotation is learned such that swapping only a subspace of chosen width between a base and a source
run changes the output as a causal model says (Geiger et al. 2024, "Finding alignments between
interpretable causal variables and distributed neural representations"). What the output ought to be
is the caller's affair, as in :mod:`probes.interchange`.

Two choices keep the search honest and short. It stays within the span of the differences between
sources and bases: outside it nothing is read, but a swap would still write, into directions that no
natural run uses (Makelov et al. 2023 on such dormant directions). And it starts from the subspace
that is best to first order, since from a random one it often ends in a local minimum.

A learned subspace says little by itself: on sequences that it was not fitted on, hold it against
:func:`random_subspace`, a fit on a model with random weights, and a fit to arbitrary targets.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.parametrizations import orthogonal

from probes import checks
from probes.capture import NaturalRuns, check_natural, check_source, check_tokens
from probes.errors import DataError, SiteError
from probes.files import json_text
from probes.interchange import Fused, patched, resumable, streams_of
from probes.packing import packed, unpacked
from probes.passes import alone
from probes.sites import Site, check_hooks
from probes.subject import HookedModel

STEPS = 200
LEARNING_RATE = 0.05
BATCH_SIZE = 64

RANK_TOLERANCE = 1e-5
"""Differences this much smaller than the largest, by singular value, are rounding."""

Loss = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Alignment:
    """A learned subspace.

    Attributes:
        site: Where it was learned, with the subspace: ready for ``probes.run_interchange``.
        span: ``[component, direction]``: orthonormal columns that span the differences between
            sources and bases, within which the subspace was sought; a fair random control lies in
            it too.
        losses: Mean divergence of the batch before each step, in the divergence's unit.
        seed: Of the batches.
    """

    site: Site
    span: Float[Tensor, "component direction"] = field(repr=False)
    losses: tuple[float, ...] = field(repr=False)
    seed: int

    @property
    def basis(self) -> Float[Tensor, "component width"]:
        """``[component, width]``: orthonormal columns that span the subspace, one of its bases."""
        assert self.site.subspace is not None
        return self.site.subspace

    @property
    def width(self) -> int:
        """Dimension of the subspace."""
        return self.basis.shape[1]

    def to_dict(self) -> dict[str, Any]:
        """Plain data; the basis is a list of rows, one for each component."""
        positions = None if self.site.positions is None else list(self.site.positions)
        return {
            "hook": self.site.hook,
            "positions": positions,
            "head": self.site.head,
            "width": self.width,
            "span": self.span.shape[1],
            "seed": self.seed,
            "losses": list(self.losses),
            "basis": self.basis.tolist(),
            "directions": packed(self.span),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Alignment":
        """The alignment that ``to_dict`` described.

        Args:
            data: What ``to_dict`` returned. Without ``directions``, which older files lack, those
                of the span are NaN.

        Raises:
            DataError: A field is missing or of another form.
        """
        try:
            basis = torch.tensor(data["basis"], dtype=torch.float64)
            positions = None if data["positions"] is None else tuple(data["positions"])
            unknown = torch.full((len(basis), data["span"]), torch.nan, dtype=torch.float64)
            return cls(
                site=Site(data["hook"], positions, data["head"], basis),
                span=unpacked(data["directions"]) if "directions" in data else unknown,
                losses=tuple(data["losses"]),
                seed=data["seed"],
            )
        except (LookupError, TypeError, ValueError, RuntimeError) as error:
            raise DataError(f"expected what Alignment.to_dict returns: {error!r}.") from error

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The alignment as JSON text, also written to ``path`` if one is given.

        Args:
            path: Also write it there.

        Raises:
            OutputPathError: The path cannot be written to.
        """
        return json_text(self.to_dict(), path)

    def __repr__(self) -> str:
        first, last = self.losses[0], self.losses[-1]
        return (
            f"Alignment({self.site.hook!r}, width={self.width}, loss {first:.4g} → {last:.4g}, "
            f"seed={self.seed})"
        )


def random_subspace(n_components: int, width: int, seed: int) -> Float[Tensor, "component width"]:
    """Orthonormal columns that span a uniformly random subspace, float64 on the CPU.

    Args:
        n_components: Dimension of the activation.
        width: Dimension of the subspace.
        seed: Of the draw.

    Returns:
        ``[component, width]``: orthonormal columns, uniform over subspaces.

    Raises:
        DataError: A width outside 1 … ``n_components``.
    """
    n_components = checks.integer(n_components, "n_components", 1, DataError)
    width = checks.integer(width, "width", 1, DataError, n_components)
    generator = np.random.default_rng(checks.seed(seed, DataError))
    return torch.linalg.qr(torch.from_numpy(generator.normal(size=(n_components, width)))).Q


@alone
def fit_alignment(
    model: HookedModel,
    tokens: Tensor,
    source: Tensor,
    targets: Tensor,
    site: Site,
    width: int,
    *,
    predict: Callable[[Tensor], Tensor],
    divergence: Callable[[Tensor, Tensor], Tensor],
    steps: int = STEPS,
    learning_rate: float | int = LEARNING_RATE,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    natural: NaturalRuns | None = None,
) -> Alignment:
    """Learn the subspace whose swap brings the outputs nearest to ``targets``.

    Minimises the mean divergence of the targets from the patched predictions by Adam, over
    orthonormal bases of the given width; all positions of the site share one. Only the basis is
    learned: the model, its hooks, its mode and its gradients are left as they were found. This is
    distributed alignment search (Geiger et al. 2024), started at the best subspace to first order.

    Args:
        model: A hooked model.
        tokens: ``[sequence, position]``.
        source: ``[sequence]``: the row of ``tokens`` that is each sequence's source.
        targets: ``[sequence, outcome]``: the prediction that each patched run should make.
        site: Where to look, inside a block and without a subspace; at a hook with a head axis it
            must name one head. The subspace is one of the activation's last axis.
        width: Dimension of the subspace.
        predict: From raw outputs at the last position, ``[sequence, d_vocab_out]``, to predictions,
            ``[sequence, outcome]``; differentiable.
        divergence: ``(target, prediction) -> [sequence]``, differentiable in the prediction.
        steps: Of Adam.
        learning_rate: Of Adam at the first step; it falls to 0 along a cosine.
        batch_size: Sequences a step.
        seed: Of the batches; the process's random state is left alone.
        natural: The model's unedited runs on ``tokens``: what they hold is not run again.

    Returns:
        The learned subspace, and the loss on the way.

    Raises:
        SiteError: A site that the model does not have, outside the blocks, with all heads, or with
            a subspace already.
        DataError: Tokens, sources, targets or a width that do not fit, a loss that is not finite,
            or one that does not depend on the activation at the site.
    """
    check_tokens(model, tokens)
    check_source(tokens, source)
    _check_targets(tokens, targets)
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise DataError(
            "no gradient leads through weights that were made in torch.inference_mode. Build or "
            "load the model outside of it."
        )
    steps = checks.integer(steps, "steps", 1, DataError)
    learning_rate = checks.number(learning_rate, "learning_rate", 0, np.inf, DataError)
    batch_size = min(checks.integer(batch_size, "batch_size", 1, DataError), len(tokens))
    seed = checks.seed(seed, DataError)
    checks.instance(site, Site, "site", SiteError)
    checks.function(predict, "predict", DataError)
    checks.function(divergence, "divergence", DataError)
    check_natural(natural, model, tokens)
    runs = _shifts(natural or NaturalRuns(model, tokens), source, site)
    checks.integer(width, "width", 1, DataError, runs.differences.shape[-1])

    def loss(rows: Tensor, shift: Tensor) -> Tensor:
        divergences = divergence(targets[rows], predict(runs.shifted(rows, shift)))
        return _checked_loss(divergences)

    span = _span(runs.differences, width, site)
    first = _first_order(runs.differences, span, width, loss, batch_size)
    rotation = _rotation(first)
    (free,) = rotation.parameters()
    optimizer = torch.optim.Adam([free], lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for rows in _batches(len(tokens), batch_size, steps, seed):
        rows = rows.to(tokens.device)
        with torch.enable_grad():
            difference = runs.differences[rows]
            basis = (span @ rotation.weight).to(difference)
            value = loss(rows, difference @ basis @ basis.T)
        free.grad = _gradient(value, free)
        optimizer.step()
        schedule.step()
        losses.append(float(value.detach()))
    basis = (span @ rotation.weight).detach()
    return Alignment(replace(site, subspace=basis), span, tuple(losses), seed)


@dataclass(frozen=True)
class _Shifts:
    """Runs in which the activation at a site is shifted, and how far each source is from its base.

    Attributes:
        runs: The natural runs.
        site: Where.
        values: What is there in the natural runs.
        differences: What the sources hold there, less that.
        fused: For resumed runs; None where hooked ones are needed.
    """

    runs: NaturalRuns
    site: Site
    values: Float[Tensor, "sequence ... component"]
    differences: Float[Tensor, "sequence ... component"]
    fused: Fused | None

    def shifted(
        self, rows: Int[Tensor, " batch"], shift: Float[Tensor, "batch ... component"]
    ) -> Float[Tensor, "batch outcome"]:
        """Outputs at the last position with ``shift`` added to the activation at the site."""
        return patched(self.runs, rows, self.fused).swap([(self.site, self.values[rows] + shift)])


def _shifts(runs: NaturalRuns, source: Tensor, site: Site) -> _Shifts:
    if site.layer is None:
        raise SiteError(
            f"a subspace is sought inside blocks; {site.hook!r} is outside. Use a hook named "
            "blocks.LAYER.…"
        )
    if site.subspace is not None:
        raise SiteError(f"the site at {site.hook!r} has a subspace already. Leave it out.")
    check_hooks(runs.model, [site.hook])
    values = runs.read([site, *streams_of(runs.model)])[0]
    if values.ndim > 3:
        raise SiteError(
            f"hook {site.hook!r} has a head axis, and a subspace is one of a single head. "
            "Name it: Site(hook, positions, head=0)."
        )
    differences = values[source] - values
    if not differences.isfinite().all():
        raise DataError(f"activations at {site.hook!r} must be finite. Check the model's weights.")
    fused = resumable(runs, [[(site, values[source])]])
    return _Shifts(runs, site, values, differences, fused)


def _span(
    differences: Float[Tensor, "sequence ... component"], width: int, site: Site
) -> Float[Tensor, "component direction"]:
    """Orthonormal columns that span the differences, those of most variance first."""
    flat = differences.flatten(0, -2).to("cpu", torch.float64)
    variances, directions = torch.linalg.eigh(flat.T @ flat)
    rank = int((variances > RANK_TOLERANCE**2 * variances[-1]).sum())
    if rank < width:
        raise DataError(
            f"sources and bases differ at {site.hook!r} in {rank} directions only, so there is no "
            f"subspace of width {width} to swap. Use a smaller width, other pairs or another site."
        )
    return directions[:, -rank:].flip(-1)


def _first_order(
    differences: Float[Tensor, "sequence ... component"],
    span: Float[Tensor, "component direction"],
    width: int,
    loss: Loss,
    batch_size: int,
) -> Float[Tensor, "direction width"]:
    """The subspace of the span whose swap lowers the loss most, to first order around no swap.

    A swap shifts activations by ``P d`` for a projection ``P`` and differences ``d``, so with
    gradients ``g`` the loss changes by ``tr(P E[d gᵀ])``: least for the lowest eigenvectors of the
    symmetric part.
    """
    sensitivity = torch.zeros(len(span), len(span), dtype=torch.float64)
    for rows in torch.arange(len(differences), device=differences.device).split(batch_size):
        difference = differences[rows]
        shift = torch.zeros_like(difference).requires_grad_()
        with torch.enable_grad():
            value = loss(rows, shift) * len(rows)
        gradient = _gradient(value, shift).flatten(0, -2).to("cpu", torch.float64)
        sensitivity += difference.flatten(0, -2).to("cpu", torch.float64).T @ gradient
    if not sensitivity.any():
        raise DataError(_INDEPENDENT)
    within = span.T @ (sensitivity + sensitivity.T) @ span
    return torch.linalg.eigh(within).eigenvectors[:, :width]


_INDEPENDENT = (
    "the loss does not depend on the activation at the site, so no subspace can be learned there: "
    "nothing leads from it to the prediction at the last position, or predict or divergence is not "
    "differentiable. Choose another site, or check predict and divergence."
)


def _rotation(first: Float[Tensor, "direction width"]) -> Any:
    """A module whose ``weight`` is a product of Householder reflections with free vectors."""
    module = nn.Module()
    module.weight = nn.Parameter(first)
    # Without the trivialization, which would draw from the process's random state.
    return orthogonal(module, "weight", "householder", use_trivialization=False)


def _gradient(value: Tensor, variable: Tensor) -> Tensor:
    """The gradient in ``variable`` alone: the model's parameters get none."""
    (found,) = torch.autograd.grad(value, [variable], allow_unused=True)
    if found is None:
        raise DataError(_INDEPENDENT)
    if not found.isfinite().all():
        raise DataError(
            "the gradient of the loss is not finite. Check predict and divergence where "
            "predictions are 0."
        )
    return found


def _checked_loss(value: Tensor) -> Tensor:
    value = checks.tensor(value, "what divergence returns", "…", DataError).mean()
    if not value.isfinite():
        raise DataError(
            "the divergence of the targets from the patched predictions must be finite; its mean "
            f"is {float(value.detach())}. Check the model's outputs, predict and divergence."
        )
    if not value.requires_grad:
        raise DataError(_INDEPENDENT)
    return value


def _batches(n: int, size: int, steps: int, seed: int) -> Iterator[Int[Tensor, " batch"]]:
    """Rows for each step: every sequence once before any is drawn again, leftovers dropped."""
    generator = np.random.default_rng([seed, 1])
    left: list[Tensor] = []
    for _ in range(steps):
        if not left:
            order = torch.from_numpy(generator.permutation(n))
            left = [rows for rows in order.split(size) if len(rows) == size]
        yield left.pop()


def _check_targets(tokens: Tensor, targets: Tensor) -> None:
    real = isinstance(targets, Tensor) and targets.is_floating_point()
    if not real or targets.ndim != 2 or len(targets) != len(tokens):
        came = tuple(targets.shape) if isinstance(targets, Tensor) else targets
        raise DataError(
            f"targets must be a floating-point tensor, [sequence, outcome], with one row for each "
            f"of the {len(tokens)} sequences; got {came!r}."
        )
    if not targets.isfinite().all():
        row = int((~targets.isfinite()).any(-1).nonzero()[0])
        raise DataError(f"targets must be finite; those of sequence {row} are not.")
