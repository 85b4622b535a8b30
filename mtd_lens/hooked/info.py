"""What a model of this package knows of itself, how its output is read, and where it is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from mtd_lens.errors import ModelError
from probes.subject import HookedModel

Model = TypeVar("Model")

_ATTRIBUTE = "mtd_lens_info"


@dataclass(frozen=True)
class ModelInfo:
    """What a model of this package knows of itself.

    Attributes:
        task: The task it was made for.
        name: Registry name, or a description.
        probabilities: True if its output is probabilities, not logits.
        blueprint: What a construction was built from; None for other models.
        redraw: ``seed -> weights`` by name: random weights of trained scale, for architectures
            whose fixed parts must stay as they are; None where every weight is free.
    """

    task: Any
    name: str
    probabilities: bool = False
    blueprint: Any = None
    redraw: Callable[[int], Mapping[str, Tensor]] | None = None


def info_of(model: object) -> ModelInfo | None:
    """What a model of this package knows of itself; None for other models."""
    return getattr(model, _ATTRIBUTE, None)


def with_info(model: Model, info: ModelInfo) -> Model:
    """``model`` itself, now knowing ``info``."""
    setattr(model, _ATTRIBUTE, info)
    return model


def task_of(model: object) -> Any:
    """The task that a model of this package was made for.

    Args:
        model: A hooked model.

    Raises:
        ModelError: The model was not made by this package.
    """
    info = info_of(model)
    if info is None:
        raise ModelError(
            "this model does not know its task: it was not loaded by name or built by mtd-lens. "
            "Pass the task, for example score(model, task=load_task('mtd-q5-m3-t64'))."
        )
    return info.task


def probabilities(
    model: object, output: Float[Tensor, "*batch token"]
) -> Float[Tensor, "*batch token"]:
    """A model's output as probabilities in float64, whatever its read-out."""
    info = info_of(model)
    output = output.to(torch.float64)
    return output if info is not None and info.probabilities else output.softmax(-1)


def reads_logits(model: HookedModel) -> bool:
    """Whether the linear part of the read-out gives logits, not probabilities.

    Args:
        model: A hooked model.
    """
    info, unembed = info_of(model), getattr(model, "unembed", None)
    gives_probabilities = hasattr(unembed, "hook_prob") or (info is not None and info.probabilities)
    return not gives_probabilities


def moved(
    model: HookedModel, device: torch.device | str | None = None, dtype: torch.dtype | None = None
) -> HookedModel:
    """A model on another device or in another dtype, without TransformerLens's notice of it.

    Args:
        model: A hooked model; it is moved itself.
        device: Where to; None for where it is.
        dtype: Of the parameters; None for theirs.
    """
    there: Any = model
    if dtype is not None:
        there = there.to(dtype, print_details=False)
    return there if device is None else there.to(str(device), print_details=False)
