"""Subspaces of what stands at one site, or at several that are taken as one space.

At several sites components are put beside each other position by position, so that a direction can
lie in all of them; one position after another, given as sites of their own, are one space too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from probes import checks
from probes.capture import NaturalRuns
from probes.errors import DataError, SiteError
from probes.interchange import streams_of
from probes.patching.swaps import Write
from probes.sites import Site, check_hooks

TOLERANCE = 1e-2
"""Directions in which natural runs vary by less than this share of the largest deviation are left
out of a search. A swap would write into them what no natural run holds there, and where the model
reads them all the same, such dormant directions carry whatever one wants (Makelov et al. 2023)."""

RANK_TOLERANCE = 1e-5
"""Variation this much smaller than the largest, by singular value, is rounding."""


@dataclass(frozen=True)
class Held:
    """What natural runs hold at sites, as one space.

    Attributes:
        sites: Where.
        values: ``[sequence, position, component]``: components of all sites, beside each other.
        sizes: How many components are each site's.
    """

    sites: tuple[Site, ...]
    values: Float[Tensor, "sequence position component"]
    sizes: tuple[int, ...]

    def writes(self, values: Float[Tensor, "row position component"]) -> list[Write]:
        """Values of the whole space as writes to each site.

        Args:
            values: ``[row, position, component]``.
        """
        return list(zip(self.sites, values.split(self.sizes, -1), strict=True))


def sites_of(site: Site | Sequence[Site]) -> tuple[Site, ...]:
    """One site or several, in which a subspace can be sought.

    Args:
        site: Inside a block each, and without a subspace.

    Raises:
        SiteError: They are something else, or none.
    """
    one = isinstance(site, Site)
    sites = (site,) if one else tuple(checks.listed(site, "site", "sites", SiteError, Site))
    if not sites:
        raise SiteError("a subspace is sought at one site or more; got none.")
    for each in sites:
        if each.layer is None:
            raise SiteError(
                f"a subspace is sought inside blocks; {each.hook!r} is outside. Use a hook named "
                "blocks.LAYER.…"
            )
        if each.subspace is not None:
            raise SiteError(f"the site at {each.hook!r} has a subspace already. Leave it out.")
    return sites


def held_at(runs: NaturalRuns, site: Site | Sequence[Site]) -> Held:
    """What natural runs hold at one site or several.

    Args:
        runs: Of a model.
        site: Inside a block each, with as many positions each.

    Raises:
        SiteError: A site that the model does not have, with all heads, or with other positions.
        DataError: Activations that are not finite.
    """
    sites = sites_of(site)
    check_hooks(runs.model, [each.hook for each in sites])
    found = runs.read([*sites, *streams_of(runs.model)])[: len(sites)]
    for each, values in zip(sites, found, strict=True):
        if values.ndim > 3:
            raise SiteError(
                f"hook {each.hook!r} has a head axis, and a subspace is one of a single head. "
                "Name it: Site(hook, positions, head=0)."
            )
        if values.shape[1] != found[0].shape[1]:
            raise SiteError(
                f"sites that are taken as one space need as many positions each; {each.hook!r} has "
                f"{values.shape[1]}, {sites[0].hook!r} {found[0].shape[1]}."
            )
        if not values.isfinite().all():
            raise DataError(
                f"activations at {each.hook!r} must be finite. Check the model's weights."
            )
    return Held(sites, torch.cat(found, -1), tuple(values.shape[-1] for values in found))


@dataclass(frozen=True)
class Variation:
    """How far natural runs vary at a site, by principal direction.

    Attributes:
        directions: ``[component, direction]``: orthonormal, those of most variation first.
        deviations: ``[direction]``: standard deviation over runs along each, positions pooled
            after each one's own mean is taken off.
    """

    directions: Float[Tensor, "component direction"]
    deviations: Float[Tensor, " direction"]

    @classmethod
    def of(cls, values: Float[Tensor, "sequence position component"]) -> "Variation":
        """The variation of activations.

        Args:
            values: ``[sequence, position, component]``: of natural runs.
        """
        flat = values.to("cpu", torch.float64)
        flat = (flat - flat.mean(0)).flatten(0, -2)
        variances, directions = torch.linalg.eigh(flat.T @ flat / len(flat))
        return cls(directions.flip(-1), variances.clamp_min(0).sqrt().flip(-1))

    @cached_property
    def least(self) -> float:
        """What is rounding: no direction is taken to vary by less."""
        return RANK_TOLERANCE * float(self.deviations[0])

    def kept(self, tolerance: float) -> int:
        """How many directions vary by more than a share of the largest deviation.

        Args:
            tolerance: The share.
        """
        least = max(tolerance * float(self.deviations[0]), self.least)
        return int((self.deviations > least).sum())

    def left_out(self, tolerance: float) -> int:
        """How many directions vary, but by no more than a share of the largest deviation.

        Args:
            tolerance: The share.
        """
        return self.kept(0.0) - self.kept(tolerance)

    def along(self, basis: Float[Tensor, "component width"]) -> Float[Tensor, " width"]:
        """Standard deviation along directions.

        Args:
            basis: ``[component, width]``: orthonormal columns.
        """
        return (self.deviations[:, None] * (self.directions.T @ basis)).norm(dim=0)

    def turned(self, basis: Float[Tensor, "component width"]) -> Float[Tensor, "component width"]:
        """The basis of the same subspace along which runs vary independently, most first.

        Args:
            basis: ``[component, width]``: orthonormal columns.
        """
        weighted = self.deviations[:, None] * (self.directions.T @ basis)
        return basis @ torch.linalg.svd(weighted, full_matrices=False)[2].T

    def in_deviations(
        self, shift: Float[Tensor, "row position component"]
    ) -> Float[Tensor, " direction"]:
        """Root mean square of shifts along each direction, in standard deviations of natural runs.

        The difference of two independent runs has √2 along every direction.

        Args:
            shift: ``[row, position, component]``: what is added to activations.
        """
        along = shift.flatten(0, -2).to(self.directions) @ self.directions
        return along.square().mean(0).sqrt() / self.deviations.clamp_min(max(self.least, 1e-300))


def searched_span(
    differences: Float[Tensor, "sequence position component"],
    variation: Variation,
    tolerance: float,
    width: int,
    sites: Sequence[Site],
) -> Float[Tensor, "component direction"]:
    """Orthonormal columns in which sources differ from bases and natural runs vary enough.

    Args:
        differences: ``[sequence, position, component]``: sources less bases.
        variation: Of natural runs.
        tolerance: The share of the largest deviation that a direction must exceed.
        width: How many columns are needed.
        sites: Where, for errors.

    Raises:
        DataError: There are fewer.
    """
    within = variation.directions[:, : variation.kept(tolerance)]
    flat = differences.flatten(0, -2).to(within) @ within
    variances, directions = torch.linalg.eigh(flat.T @ flat)
    rank = int((variances > RANK_TOLERANCE**2 * variances.amax()).sum()) if len(variances) else 0
    if rank < width:
        where = ", ".join(repr(site.hook) for site in sites)
        out = variation.left_out(tolerance)
        left = f" ({out} more vary by less than {tolerance:g} of the largest)" if out else ""
        raise DataError(
            f"sources and bases differ at {where} in {rank} directions only{left}, so there is no "
            f"subspace of width {width} to swap. Use a smaller width, other pairs or another site."
        )
    return within @ directions[:, -rank:].flip(-1)
