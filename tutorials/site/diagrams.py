"""Drawn diagrams of the algorithms, for README, site and notebooks: text in, SVG out.

A drawing has its own ground, and follows the reader's colour scheme by itself.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tutorials.site import pages

STAGE_WIDTH, COLUMN_WIDTH = 270, 134
"""Of a drawing with columns; so narrow that its words can be read on a telephone."""

FLOW_WIDTH = 400
"""Of a drawing without."""


@dataclass(frozen=True)
class Stage:
    """A quantity of an algorithm.

    Attributes:
        what: It.
        words: What it is.
        where: The part of the construction that holds it.
        cells: The claim about it of each column's model.
        aside: Whether it is the stage before, asked in another way.
    """

    what: str
    words: str
    where: str = ""
    cells: Sequence[dict[str, Any]] = ()
    aside: bool = False


ONE_STEP = (
    Stage("responsibilities", "which lag explains each token", "layer 0"),
    Stage("their mean", "over the sequence so far", "layer 1"),
    Stage("mixture weights", "softmax(β · mean)", "layer 2"),
    Stage("prediction", "rows of the last tokens, mixed", "output"),
)
KERNEL = (
    Stage("copied parents", "the tokens before each position", "heads of layer 0"),
    Stage("selected feature", "which tuple of parents stands there", "MLP of layer 0"),
    Stage("match weights", "where the same tuple stood before", "pattern of layer 1"),
    Stage("prediction", "the tokens that followed, so weighted", "output"),
)
GRADIENT = (
    Stage("augmented token", "each vector and the one before it", "layer 0"),
    Stage("inner products", "of the last vector and each before it", "pattern of layer 1"),
    Stage("prediction", "the vectors that followed, so weighted", "output"),
)

FLOWS = {
    "mixtures": ("One step of mirror descent, layer by layer", ONE_STEP),
    "ngrams": ("A generalized induction head, layer by layer", KERNEL),
    "autoregression": ("One step of gradient descent, layer by layer", GRADIENT),
}
"""By file, what is drawn of each family's first algorithm."""


def flow(title: str, stages: Sequence[Stage]) -> str:
    """The stages of an algorithm, one below the other."""
    return _drawn(title, stages, FLOW_WIDTH, FLOW_WIDTH - 24)


def beside(
    title: str,
    stages: Sequence[Stage],
    heading: tuple[str, str],
    columns: Sequence[tuple[str, str]],
    notes: Sequence[str],
) -> str:
    """The stages of an algorithm, and beside each what was found of some models."""
    width = STAGE_WIDTH + 26 + len(columns) * (COLUMN_WIDTH + 10)
    return _drawn(title, stages, width, STAGE_WIDTH, heading, columns, notes)


def _drawn(
    title: str,
    stages: Sequence[Stage],
    width: int,
    stage_width: int,
    heading: tuple[str, str] = ("", ""),
    columns: Sequence[tuple[str, str]] = (),
    notes: Sequence[str] = (),
) -> str:
    template = pages.templates().get_template("diagram.svg.jinja")
    return template.render(
        title=title,
        rows=stages,
        width=width,
        stage=stage_width,
        heading=heading,
        columns=columns,
        column_width=COLUMN_WIDTH,
        notes=notes,
    )
