"""A grid's strongest sites in a notebook, each with its interval and p."""

from collections.abc import Mapping, Sequence
from html import escape

from jaxtyping import Float
from torch import Tensor

from probes import pages
from probes.patching.labelled import Label
from probes.statistics.significance import sign_flip_p_values

Site = tuple[Mapping[str, Label], float]
"""Labels of an entry, and its value."""

Limits = tuple[Tensor, Tensor]


def fragment(
    title: str,
    unit: str,
    found: Sequence[Site],
    limits: Limits | None = None,
    differences: Float[Tensor, "site sequence"] | None = None,
    among: int = 1,
    n_flips: int = 1,
) -> str:
    """A table of sites; p is corrected for all sites that they were chosen from (Bonferroni).

    Args:
        title: Above it.
        unit: Of the values.
        found: The sites.
        limits: Of their intervals; None where there are none.
        differences: That p is of; None where there are too few sequences.
        among: How many sites there are.
        n_flips: How many random assignments of signs p is of.
    """
    columns, note = {unit: [f"{value:.3f}" for _, value in found]}, ""
    if limits is not None:
        ends = zip(*limits, strict=True)
        columns["95% interval"] = [f"[{low:.3f}, {high:.3f}]" for low, high in ends]
    if differences is not None:
        p, corrected = sign_flip_p_values(differences, n_flips), f"p × {among}"
        columns["p"] = [f"{x:.2g}" for x in p]
        columns[corrected] = [f"{x:.2g}" for x in (p * among).clamp(max=1)]
        note = f"p of sign flips over sequences; {corrected}: corrected for all sites (Bonferroni)."
    axes = list(found[0][0])
    rows = [
        [*map(str, labels.values()), *figures]
        for (labels, _), figures in zip(found, zip(*columns.values(), strict=True), strict=True)
    ]
    table = pages.table([*axes, *columns], rows, range(len(axes)), title)
    return pages.fragment(table + f'<p class="small">{escape(note)}</p>' * bool(note))
