"""What the figures of an inspection share: checks, the order of sources, and their styles."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from jaxtyping import Float
from torch import Tensor

from mtd_lens.contracts import Analysis
from mtd_lens.errors import ArgumentError
from mtd_lens.results.forms import parameters
from mtd_lens.results.inspection import Inspection
from mtd_lens.views.plots import style
from probes import checks

MODEL, TRUTH = "model", "truth"
ROUNDING = 1e-3
"""By which shares may be negative, and their sum another than 1."""


def checked_analysis(inspection: Inspection) -> Analysis:
    """What an inspection found of its sequences.

    Raises:
        ArgumentError: Something else than an inspection, or one of a task whose family does not
            analyse sequences.
    """
    if not isinstance(inspection, Inspection):
        raise ArgumentError(
            f"expected what mtd_lens.inspect returned; got a {type(inspection).__name__}."
        )
    if inspection.analysis is None:
        raise ArgumentError(
            f"the inspection of {inspection.model!r} has no analysis, so there is nothing to draw: "
            "the task's family does not say what its algorithm does on single sequences. Give the "
            "family `analyse`; see mtd_lens.contracts.Family."
        )
    return inspection.analysis


def checked_sequence(inspection: Inspection, sequence: int) -> int:
    """The number of one of an inspection's sequences.

    Raises:
        ArgumentError: There is no such sequence.
    """
    return checks.integer(sequence, "sequence", 0, ArgumentError, len(inspection.tokens) - 1)


def estimates(
    inspection: Inspection, sequence: int
) -> dict[str, Float[Tensor, "position component"]]:
    """The latent of a sequence by source, of sources that say anything.

    Raises:
        ArgumentError: None does.
    """
    analysis = checked_analysis(inspection)
    found = {
        source: values[sequence]
        for source, values in ordered(inspection, analysis.latents).items()
        if values[sequence].isfinite().any()
    }
    if not found:
        raise ArgumentError(
            f"no source says anything of the {analysis.latent} on sequence {sequence}. Choose "
            "another sequence."
        )
    return found


def defined(values: Float[Tensor, "position entry"]) -> list[int]:
    """Positions at which all values are finite."""
    return values.isfinite().all(-1).nonzero()[:, 0].tolist()


def ordered(inspection: Inspection, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Values by source, in the order in which they are drawn, on the CPU as float64."""
    known = dict.fromkeys((MODEL, *inspection.drawn, TRUTH, *values))
    return {name: values[name].detach().cpu().double() for name in known if name in values}


def looks(inspection: Inspection, sources: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Style of each source's lines and markers: as in the figures of comparisons.

    Sources that are not drawn there have the styles that are left.
    """
    others = [name for name in sources if name not in (MODEL, TRUTH)]
    places = {name: index for index, name in enumerate(inspection.drawn) if name in others}
    free = (index for index in itertools.count() if index not in places.values())
    places |= zip((name for name in others if name not in places), free, strict=False)
    own = {
        MODEL: style.model_style(0) | {"linewidth": 2.4, "markersize": 4.5},
        TRUTH: {"color": style.INK, "marker": "*", "linewidth": 1.8, "markersize": 9},
    }
    return {
        name: own.get(name) or style.estimator_style(places[name]) | {"linewidth": 1.3}
        for name in sources
    }


def are_shares(values: Float[Tensor, "*axes component"]) -> bool:
    """Whether components, wherever all are finite, are shares of 1."""
    known = values[values.isfinite().all(-1)]
    sums = known.sum(-1)
    return bool((known >= -ROUNDING).all()) and bool(((sums - 1).abs() < ROUNDING).all())


def headline(inspection: Inspection, what: str, note: str = "") -> str:
    """The title of a figure: what of which model and task, and below it the small print."""
    fitted = parameters(inspection.parameters)
    notes = [f"seed {inspection.seed}", f"fitted to the model: {fitted}" * bool(fitted), note]
    return f"{inspection.short_name} on {inspection.task_name}: {what}\n" + "; ".join(
        filter(None, notes)
    )
