"""Exact twins: for a model made otherwise, one of TransformerLens's blocks that does the same.

Whoever can build them says so in ``BUILDERS``, by name, so that nothing is imported before it is
needed. Where a builder has a twin of a model, instruments run on that: its hooks are causal, and
its runs can be resumed. Where none has, they run on the model itself, through its own hooks.
"""

import importlib
from typing import Any, NamedTuple, TypeVar

Model = TypeVar("Model")

BUILDERS: list[str] = []
"""``"module:function"`` each. The function takes a model and returns a :class:`Twin`, or None for
a model of a kind that it knows nothing of."""

MARK = "twin_of"
"""The attribute by which a twin knows what it is of."""


class Twin(NamedTuple):
    """What a builder made of a model.

    Attributes:
        model: The twin; None where there is none.
        reason: Why there is none.
    """

    model: Any
    reason: str = ""


def twin_of(model: object) -> Twin | None:
    """The twin of a model, or why it has none; None for a model that no builder knows.

    Args:
        model: A hooked model.
    """
    for builder in BUILDERS:
        module, _, name = builder.partition(":")
        found: Twin | None = getattr(importlib.import_module(module), name)(model)
        if found is not None:
            return found
    return None


def stand_in(model: Model) -> Model:
    """What instruments run on: the model's exact twin, or the model itself.

    Args:
        model: A hooked model.
    """
    found = twin_of(model)
    return model if found is None or found.model is None else found.model


def through(model: object) -> str:
    """In words, what the runs of a model, or of what stands in for it, go through.

    Args:
        model: A hooked model, or a twin.

    Returns:
        Nothing for a model that no builder knows.
    """
    model = getattr(model, "underlying", model)  # where it is seen through a view
    of = getattr(model, MARK, None)
    if of is not None:
        return f"an exact twin of the {of}"
    found = twin_of(model)
    if found is None:
        return ""
    if found.model is not None:
        return through(found.model)
    return f"the {type(model).__name__}'s own hooks: {found.reason}"
