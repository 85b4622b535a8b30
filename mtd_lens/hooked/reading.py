"""What a model's read-out gives, and where a model is."""

from typing import Any

import torch

from mtd_lens.hooked import info_of
from probes.subject import HookedModel


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
