"""What tasks of every family share: names, categorical draws, and their form as plain data."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any, ClassVar, TypeVar

import numpy as np

from mtd_lens.errors import TaskError, nearest
from probes import checks

CONCENTRATIONS = (1e-3, 1e6)
"""Range in which Dirichlet draws are sound in float64."""


def draw(probabilities: np.ndarray, uniforms: np.ndarray) -> np.ndarray:
    """Categorical draws by inversion; an outcome of probability 0 is never drawn.

    Args:
        probabilities: ``[…, outcome]``.
        uniforms: ``[…]``, in [0, 1).

    Returns:
        ``[…]``: an outcome for each uniform.
    """
    cumulative = probabilities.cumsum(-1)
    scaled = uniforms[..., None] * cumulative[..., -1:]
    return (cumulative <= scaled).sum(-1)


def check_name(name: str | None) -> str | None:
    """A task's name, or None.

    Raises:
        TaskError: It is no string, holds a slash, or cannot be shown.
    """
    if name is not None and (not isinstance(name, str) or "/" in name):
        raise TaskError(f"a task's name must be a string without a slash; got {name!r}.")
    checks.texts(name, "a task's name", TaskError)
    return name


Plain = TypeVar("Plain", bound="PlainData")


class PlainData:
    """A task that is a dataclass of plain data: its form in JSON is its fields."""

    family: ClassVar[str]
    required: ClassVar[tuple[str, ...]]
    """Fields without which no task is described."""

    def to_json(self) -> dict[str, Any]:
        """Plain data; ``from_json`` makes an equal task of it."""
        data: dict[str, Any] = {"family": self.family, **asdict(self)}  # type: ignore[call-overload]
        return {k: list(v) if isinstance(v, tuple) else v for k, v in data.items()}

    @classmethod
    def from_json(cls: type[Plain], data: Mapping[str, Any]) -> Plain:
        """The task that ``to_json`` described.

        Args:
            data: What ``to_json`` returned.

        Raises:
            TaskError: A field is missing, not known or out of its range.
        """
        return cls(**plain_fields(cls, data))


def plain_fields(kind: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a task in plain data, by name.

    Args:
        kind: The task's dataclass, with ``family`` and ``required`` fields.
        data: What ``to_json`` returned.

    Raises:
        TaskError: Another family, or a field that is missing or not known.
    """
    return checked_fields(kind, data, kind.required, [field.name for field in fields(kind)])


def checked_fields(
    kind: Any, data: Mapping[str, Any], required: Sequence[str], known: Sequence[str]
) -> dict[str, Any]:
    """Plain data of a task without its family, if its fields are the task's.

    Args:
        kind: The task's class.
        data: What ``to_json`` returned.
        required: Fields without which no task is described.
        known: All fields.

    Raises:
        TaskError: Another family, or a field that is missing or not known.
    """
    if not isinstance(data, Mapping) or data.get("family", kind.family) != kind.family:
        raise TaskError(f"expected what {kind.__name__}.to_json returns; got {data!r}.")
    found = {name: value for name, value in data.items() if name != "family"}
    for name in found:
        if name not in known:
            raise TaskError(f"a task in JSON has no field {name!r}. {nearest(name, known)}")
    missing = set(required) - set(found)
    if missing:
        *others, last = required
        raise TaskError(
            f"a task in JSON needs {', '.join(others)} and {last}; missing: {sorted(missing)}."
        )
    return found
