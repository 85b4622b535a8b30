"""What training minimises, and how large its steps are."""

import math

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mtd_lens.contracts import Examples
from mtd_lens.training.config import VECTOR_LOSS, TrainingConfig


def schedule(config: TrainingConfig, step: int) -> float:
    """The learning rate of a step, from 1, as a fraction of its highest: warm-up, then a cosine."""
    if step < config.warmup_steps:
        return step / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def loss_of(
    kind: str, output: Float[Tensor, "batch pos token"], examples: Examples
) -> Float[Tensor, ""]:
    """A loss of :data:`mtd_lens.training.config.LOSSES`, from the model's output."""
    output = examples.at_queries(output)
    if kind == "next-token":
        return functional.cross_entropy(output.flatten(0, 1), examples.targets.flatten())
    if kind == VECTOR_LOSS:
        return (output - examples.targets.to(output)).square().sum(-1).mean()
    assert examples.truth is not None
    truth = examples.truth.to(output)
    if kind == "distribution":
        return -(truth * output.log_softmax(-1)).sum(-1).mean()
    return (output[:, -1].softmax(-1) - truth[:, -1]).square().sum(-1).mean()
