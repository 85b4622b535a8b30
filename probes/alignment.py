"""Distributed alignment search: the subspace of an activation that carries a variable.

A rotation is learned such that swapping only a subspace of chosen width between a base and a source
run changes the output as a causal model says (Geiger et al. 2024, "Finding alignments between
interpretable causal variables and distributed neural representations"). What the output ought to be
is the caller's affair, as in :mod:`probes.interchange`.

Two choices keep the search honest and short. It stays within directions in which sources differ
from bases and natural runs vary: outside them hardly anything is read, but a swap would still
write, into directions that no natural run uses (Makelov et al. 2023 on such dormant directions).
And it starts from the better of two subspaces, the best to first order and the best map of
linearised outputs, since from a random one it often ends in a local minimum.

A learned subspace says little by itself: on sequences that it was not fitted on, hold it against
:func:`random_subspace`, a fit on a model with random weights, and a fit to arbitrary targets.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from probes import checks
from probes.capture import NaturalRuns, check_natural, check_tokens
from probes.errors import DataError, SiteError
from probes.files import json_text
from probes.packing import packed, unpacked
from probes.passes import alone
from probes.rotation import (
    INDEPENDENT,
    Loss,
    batches,
    first_order,
    gradient,
    linearised,
    rotation_from,
    shifts_of,
)
from probes.sites import Site
from probes.subject import HookedModel
from probes.subspaces import TOLERANCE, Variation, searched_span, sites_of

STEPS = 200
LEARNING_RATE = 0.05
BATCH_SIZE = 64


@dataclass(frozen=True)
class Alignment:
    """A learned subspace.

    Attributes:
        sites: Where it was learned; of several, components are beside each other in one space.
        basis: ``[component, width]``: orthonormal columns that span the subspace: of each
            variable's part, those along which natural runs vary independently, most first.
        span: ``[component, direction]``: orthonormal columns within which the subspace was sought;
            a fair random control lies in it too.
        losses: Mean divergence of the batch before each step, in the divergence's unit.
        seed: Of the batches.
        deviations: ``[width]``: standard deviation of natural runs along each column of the basis,
            in units of the activation; NaN where an older file does not say.
        tolerance: The share of the largest standard deviation that a direction had to exceed.
        left_out: How many directions vary, but by less.
        widths: How many columns are each variable's; none for all of them the one's.
    """

    sites: tuple[Site, ...]
    basis: Float[Tensor, "component width"] = field(repr=False)
    span: Float[Tensor, "component direction"] = field(repr=False)
    losses: tuple[float, ...] = field(repr=False)
    seed: int
    deviations: Float[Tensor, " width"] = field(repr=False)
    tolerance: float = 0.0
    left_out: int = 0
    widths: tuple[int, ...] = ()

    @cached_property
    def site(self) -> Site:
        """The site with the subspace, ready for ``probes.run_interchange``.

        Raises:
            SiteError: It was learned at several.
        """
        if len(self.sites) > 1:
            raise SiteError(
                f"the subspace is one of {len(self.sites)} sites together, and of none of them "
                "alone. Use sites and basis."
            )
        return replace(self.sites[0], subspace=self.basis)

    @property
    def width(self) -> int:
        """Dimension of the subspace."""
        return self.basis.shape[1]

    @property
    def parts(self) -> tuple[Float[Tensor, "component width"], ...]:
        """The basis, split into each variable's columns, ``[component, width]`` each."""
        return self.basis.split(self.widths or (self.width,), -1)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; the basis is a list of rows, one for each component."""
        sites = [
            {
                "hook": site.hook,
                "positions": None if site.positions is None else list(site.positions),
                "head": site.head,
            }
            for site in self.sites
        ]
        return {
            **sites[0],
            "sites": sites,
            "width": self.width,
            "widths": list(self.widths),
            "span": self.span.shape[1],
            "seed": self.seed,
            "losses": list(self.losses),
            "basis": self.basis.tolist(),
            "directions": packed(self.span),
            "deviations": packed(self.deviations),
            "tolerance": self.tolerance,
            "left_out": self.left_out,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Alignment":
        """The alignment that ``to_dict`` described.

        Args:
            data: What ``to_dict`` returned. Without ``directions`` or ``deviations``, which older
                files lack, those are NaN.

        Raises:
            DataError: A field is missing or of another form.
        """
        try:
            basis = torch.tensor(data["basis"], dtype=torch.float64)
            unknown = torch.full((len(basis), data["span"]), torch.nan, dtype=torch.float64)
            unsaid = torch.full(basis.shape[1:], torch.nan, dtype=torch.float64)
            return cls(
                sites=tuple(
                    Site(each["hook"], each["positions"], each["head"])
                    for each in data.get("sites", [data])
                ),
                basis=basis,
                span=unpacked(data["directions"]) if "directions" in data else unknown,
                losses=tuple(data["losses"]),
                seed=data["seed"],
                deviations=unpacked(data["deviations"]) if "deviations" in data else unsaid,
                tolerance=data.get("tolerance", 0.0),
                left_out=data.get("left_out", 0),
                widths=tuple(data.get("widths", ())),
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
            f"Alignment({', '.join(repr(site.hook) for site in self.sites)}, width={self.width}, "
            f"loss {first:.4g} → {last:.4g}, seed={self.seed})"
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
    targets: Tensor | Sequence[Tensor],
    site: Site | Sequence[Site],
    width: int | Sequence[int],
    *,
    predict: Callable[[Tensor], Tensor],
    divergence: Callable[[Tensor, Tensor], Tensor],
    steps: int = STEPS,
    learning_rate: float | int = LEARNING_RATE,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    natural: NaturalRuns | None = None,
    tolerance: float | int = TOLERANCE,
) -> Alignment:
    """Learn the subspace whose swap brings the outputs nearest to ``targets``.

    Minimises the mean divergence of the targets from the patched predictions by Adam, over
    orthonormal bases of the given width; all positions of the site share one. Only the basis is
    learned: the model, its hooks, its mode and its gradients are left as they were found. This is
    distributed alignment search (Geiger et al. 2024), started at the better of two subspaces: the
    best to first order, and that of the best map of linearised outputs.

    Of several variables each has its own columns of one orthonormal basis, fitted to its own
    targets, with the sum of their divergences as the loss.

    Args:
        model: A hooked model.
        tokens: ``[sequence, position]``: bases first, then any that are only sources.
        source: ``[base]``: the row of ``tokens`` that is each base's source.
        targets: ``[base, outcome]``: the prediction that each patched run should make; or a list
            of such, one for each variable.
        site: Where to look, inside a block and without a subspace; at a hook with a head axis it
            must name one head. The subspace is one of the activation's last axis. Of several sites,
            which need as many positions each, the components are beside each other in one space;
            each is held at its base's natural value plus the swap's shift.
        width: Dimension of the subspace; or a list, one for each variable.
        predict: From raw outputs at the last position, ``[sequence, d_vocab_out]``, to predictions,
            ``[sequence, outcome]``; differentiable.
        divergence: ``(target, prediction) -> [sequence]``, differentiable in the prediction.
        steps: Of Adam.
        learning_rate: Of Adam at the first step; it falls to 0 along a cosine.
        batch_size: Sequences a step.
        seed: Of the batches; the process's random state is left alone.
        natural: The model's unedited runs on ``tokens``: what they hold is not run again.
        tolerance: Directions in which the bases vary by no more than this share of the largest
            standard deviation, among principal directions, are left out.

    Returns:
        The learned subspace, and the loss on the way.

    Raises:
        SiteError: A site that the model does not have, outside the blocks, with all heads, or with
            a subspace already.
        DataError: Tokens, sources, targets or a width that do not fit, a loss that is not finite,
            or one that does not depend on the activation at the site.
    """
    check_tokens(model, tokens)
    _check_source(tokens, source)
    listed: list[Any] = list(targets) if isinstance(targets, list | tuple) else [targets]
    for each in listed:
        _check_targets(source, each)
    if any(parameter.is_inference() for parameter in model.parameters()):
        raise DataError(
            "no gradient leads through weights that were made in torch.inference_mode. Build or "
            "load the model outside of it."
        )
    steps = checks.integer(steps, "steps", 1, DataError)
    learning_rate = checks.number(learning_rate, "learning_rate", 0, np.inf, DataError)
    batch_size = min(checks.integer(batch_size, "batch_size", 1, DataError), len(source))
    seed = checks.seed(seed, DataError)
    tolerance = checks.number(tolerance, "tolerance", 0, 1, DataError, low_included=True)
    sites = sites_of(site)
    checks.function(predict, "predict", DataError)
    checks.function(divergence, "divergence", DataError)
    check_natural(natural, model, tokens)
    runs = shifts_of(natural or NaturalRuns(model, tokens), source, sites)
    widths = _checked_widths(width, len(listed), runs.differences.shape[-1])

    def loss(target: Tensor, rows: Tensor, shift: Tensor) -> Tensor:
        divergences = divergence(target[rows], predict(runs.shifted(rows, shift)))
        return _checked_loss(divergences)

    variation = Variation.of(runs.held.values[: len(source)])
    span = searched_span(runs.differences, variation, tolerance, sum(widths), sites)
    first = span.new_zeros(span.shape[1], 0)
    for target, columns in zip(listed, widths, strict=True):
        own: Loss = partial(loss, target)
        starts = [
            first_order(runs.differences, span, first, columns, own, batch_size),
            linearised(
                runs.differences, span, first, columns, target,
                lambda rows, shift: predict(runs.shifted(rows, shift)), batch_size,
            ),
        ]  # fmt: skip
        first = min(
            starts, key=partial(_start_loss, runs.differences, span, columns, own, batch_size)
        )
    rotation = rotation_from(first)
    (free,) = rotation.parameters()
    optimizer = torch.optim.Adam([free], lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    losses = []
    for rows in batches(len(source), batch_size, steps, seed):
        rows = rows.to(tokens.device)
        with torch.enable_grad():
            difference = runs.differences[rows]
            bases = (span @ rotation.weight).to(difference).split(widths, -1)
            value = torch.stack(
                [
                    loss(target, rows, difference @ basis @ basis.T)
                    for target, basis in zip(listed, bases, strict=True)
                ]
            ).sum()
        free.grad = gradient(value, free)
        optimizer.step()
        schedule.step()
        losses.append(float(value.detach()))
    parts = (span @ rotation.weight).detach().split(widths, -1)
    basis = torch.cat([variation.turned(part) for part in parts], -1)
    return Alignment(
        sites, basis, span, tuple(losses), seed, variation.along(basis), tolerance,
        variation.left_out(tolerance), widths if len(widths) > 1 else (),
    )  # fmt: skip


def _start_loss(
    differences: Tensor,
    span: Tensor,
    columns: int,
    loss: Loss,
    batch_size: int,
    start: Float[Tensor, "direction width"],
) -> float:
    """The mean divergence with the last columns of a start swapped."""
    basis = (span @ start[:, -columns:]).to(differences)
    total = 0.0
    for rows in torch.arange(len(differences), device=differences.device).split(batch_size):
        with torch.enable_grad():  # without which losses say that they depend on nothing
            shift = (differences[rows] @ basis @ basis.T).requires_grad_()
            total += float(loss(rows, shift).detach()) * len(rows)
    return total


def _checked_loss(value: Tensor) -> Tensor:
    value = checks.tensor(value, "what divergence returns", "…", DataError).mean()
    if not value.isfinite():
        raise DataError(
            "the divergence of the targets from the patched predictions must be finite; its mean "
            f"is {float(value.detach())}. Check the model's outputs, predict and divergence."
        )
    if not value.requires_grad:
        raise DataError(INDEPENDENT)
    return value


def _checked_widths(width: object, n_variables: int, n_components: int) -> tuple[int, ...]:
    listed = width if isinstance(width, list | tuple) else [width]
    if len(listed) != n_variables:
        raise DataError(
            f"every variable has targets and a width; got {n_variables} of targets and "
            f"{len(listed)} of widths."
        )
    return tuple(checks.integer(each, "width", 1, DataError, n_components) for each in listed)


def _check_source(tokens: Tensor, source: Tensor) -> None:
    """Raise a DataError unless ``source`` names a row of ``tokens`` for each base."""
    what = "source, one row number of tokens for each base,"
    source = checks.tensor(source, what, "sequence", DataError, "integer")
    n, rows = len(tokens), len(source)
    if source.ndim != 1 or not 1 <= rows <= n or int(source.min()) < 0 or int(source.max()) >= n:
        raise DataError(
            f"source must hold one row number of tokens, 0 … {n - 1}, for each base, of which "
            f"there are at most {n}; got {source!r}."
        )


def _check_targets(source: Tensor, targets: Tensor) -> None:
    real = isinstance(targets, Tensor) and targets.is_floating_point()
    if not real or targets.ndim != 2 or len(targets) != len(source):
        came = tuple(targets.shape) if isinstance(targets, Tensor) else targets
        raise DataError(
            f"targets must be a floating-point tensor, [sequence, outcome], with one row for each "
            f"of the {len(source)} bases; got {came!r}."
        )
    if not targets.isfinite().all():
        row = int((~targets.isfinite()).any(-1).nonzero()[0])
        raise DataError(f"targets must be finite; those of sequence {row} are not.")
