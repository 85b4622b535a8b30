"""What both analytic constructions are built from: the plan, and the gaps of their softmaxes.

Every gap leaves at least the margin of :mod:`mtd_lens.architectures.writing`. Scores inside a
band are never shifted, so they keep full precision.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from mtd_lens import hooked
from mtd_lens.architectures.layout import Architecture, Layout, ReadOut
from mtd_lens.architectures.writing import MARGIN, zeros
from mtd_lens.families.mtd.task import MTDTask
from mtd_lens.hooked import ModelInfo
from mtd_lens.shapes import Transition
from probes.subject import HookedModel

READ_OUTS = ("log_probs", "probs")


@dataclass(frozen=True)
class Plan:
    """What a construction computes; anything but the defaults breaks one of its parts.

    Attributes:
        task: The task.
        beta: Layer 2 computes ``softmax(beta · mean responsibility)``.
        read_out: How the output is read.
        content: The transition whose logarithm layer 0 uses as content score; None for the task's.
        window: Layer 1 averages only this many last positions; None for all.
        lag_shift: Layer 2 gives the token at lag g the weight of lag g + lag_shift (cyclically).
        spread: From 0 to this much is added to layer 0's content scores by what stands beside it.
    """

    task: MTDTask
    beta: float
    read_out: ReadOut = "log_probs"
    content: Transition | None = None
    window: int | None = None
    lag_shift: int = 0
    spread: float = 0.0

    @property
    def content_scores(self) -> Transition:
        """``log transition[key, query]``, with ``content_floor`` for probabilities of 0."""
        transition = self.task.transition if self.content is None else self.content
        return transition.log().clamp_min(self.content_floor)

    @property
    def content_floor(self) -> float:
        """The score of an impossible pair: lower by the margin than that of any possible one."""
        transition = self.task.transition if self.content is None else self.content
        return float(transition[transition > 0].min().log()) - MARGIN - self.spread

    @property
    def responsibility_gap(self) -> float:
        """How far keys outside layer 0's band lie below those inside, which are at most spread."""
        return MARGIN - self.content_floor + self.spread

    @property
    def average_gap(self) -> float:
        """How far keys outside layer 1's band lie below those inside, which are 0."""
        return MARGIN

    @property
    def weights_gap(self) -> float:
        """How far keys outside layer 2's band lie below those inside, which are at most beta."""
        return MARGIN + self.beta


def unembed(plan: Plan, layout: Layout) -> dict[str, Tensor]:
    """The transition itself: mixed one-hot tokens become the mixture of its rows."""
    W_U = zeros(layout.size, plan.task.n_tokens)
    W_U[layout["output"]] = plan.task.transition
    return {"unembed.W_U": W_U}


def assembled(
    task: MTDTask,
    kind: str,
    architecture: Architecture,
    weights: Mapping[str, Tensor],
    blueprint: object,
    dtype: torch.dtype,
    name: str | None = None,
) -> HookedModel:
    """A construction as a HookedTransformer that knows its task and what it was built from.

    Args:
        task: Its task.
        kind: Of construction, as in the model's name.
        architecture: Its shape and read-out.
        weights: Float64, by name.
        blueprint: What it was built from.
        dtype: Of the parameters.
        name: Of the model; by default its task's, and its kind.

    Raises:
        ArgumentError: A dtype that is not floating.
    """
    name = name or f"{task.name or task.family}/constructed-{kind}"
    info = ModelInfo(task, name, architecture.read_out == "probs", blueprint)
    return hooked.assemble(architecture, weights, info, hooked.check_dtype(dtype))
