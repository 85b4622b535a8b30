"""The sites of a grid that stand out, as a table in HTML."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING

import torch

from probes import pages
from probes.errors import DataError
from probes.statistics.intervals import MIN_SEQUENCES
from probes.statistics.significance import N_FLIPS, sign_flip_p_values

if TYPE_CHECKING:
    from probes.patching.grid import Grid

Labels = Mapping[str, int | str]

FLIPS_A_SITE = 25
"""Sign flips for every site, so that ``1 / n_flips`` times the number of sites stays below 0.05."""


def sites_in_html(
    grid: "Grid", found: Sequence[tuple[Labels, float]], *, unit: str, title: str
) -> str:
    """A row a site; with 16 sequences or more, each with its interval and p.

    Args:
        grid: Of which the sites are some.
        found: The sites' labels and effects.
        unit: Of the effects.
        title: Above the table.
    """
    columns = [[f"{effect:.3f}" for _, effect in found]]
    header, note = [*grid.axes, unit], ""
    if grid.n_sequences >= MIN_SEQUENCES:
        columns += _beside(grid, [labels for labels, _ in found])
        corrected = f"p × {grid.n_sites}"
        header += ["95% interval", "p", corrected]
        note = f"p of sign flips over sequences; {corrected}: corrected for all sites (Bonferroni)."
    rows = [
        [*map(str, labels.values()), *figures]
        for (labels, _), figures in zip(found, zip(*columns, strict=True), strict=True)
    ]
    table = pages.table(header, rows, range(len(grid.axes)), title)
    return pages.fragment(table + (f'<p class="small">{escape(note)}</p>' if note else ""))


def _beside(grid: "Grid", sites: Sequence[Labels]) -> list[list[str]]:
    """By column, intervals and p of some sites; corrected, p is that of a choice among all."""
    values = [grid.select(**site).values.flatten() for site in sites]
    few = replace(grid, axes={"site": range(len(sites))}, values=torch.stack(values))
    try:
        limits = zip(*few.intervals(), strict=True)
        intervals = [f"[{low:.3f}, {high:.3f}]" for low, high in limits]
    except DataError:  # undefined, which the title says by its unit
        intervals = ["–"] * len(sites)
    p = sign_flip_p_values(few.differences, max(N_FLIPS, FLIPS_A_SITE * grid.n_sites))
    adjusted = (p * grid.n_sites).clamp(max=1)
    return [intervals, [f"{x:.2g}" for x in p], [f"{x:.2g}" for x in adjusted]]
