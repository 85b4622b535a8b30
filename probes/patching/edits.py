"""Where in a layer's activation a grid's edits are made: by position, by head, or by both."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from torch import Tensor

from probes import checks
from probes.errors import SiteError
from probes.sites import HEADED, HEADLESS, PATTERN


@dataclass(frozen=True)
class Edit:
    """Where in one layer's activation the source's value is written.

    Attributes:
        place: Labels on the grid's axes.
        positions: Which positions (queries, for patterns), increasing.
        head: One head, or every one.
        key: One key position of a pattern, or every one.
    """

    place: tuple[int, ...]
    positions: tuple[int, ...]
    head: int | None = None
    key: int | None = None


def write(component: str, activation: Tensor, values: Tensor, edit: Edit, first: int = 0) -> None:
    """Set an edit's part of ``activation``, which holds positions ``first`` on, in place."""
    there, here = list(edit.positions), [position - first for position in edit.positions]
    head: Any = slice(None) if edit.head is None else edit.head
    if component == PATTERN:
        n_keys = activation.shape[-1]
        if edit.key is not None and edit.key >= n_keys:
            return  # a key after the last query: no attention goes there
        key: Any = slice(None, n_keys) if edit.key is None else edit.key
        activation[:, head, here, key] = values[:, head, there, key].to(activation.dtype)
    elif component in HEADED:
        activation[:, here, head] = values[:, there, head].to(activation.dtype)
    else:
        activation[:, here] = values[:, there].to(activation.dtype)


def plan_edits(
    component: str,
    activation: Tensor,
    by: Any,
    heads: Any,
    positions: Any,
) -> tuple[dict[str, tuple[int, ...]], list[Edit]]:
    """The axes of a layer's part of a grid with their labels, and an edit for each of its cells.

    Args:
        component: Which activation.
        activation: One layer's, for its shape.
        by: The axes beside the layer, in any order; see ``patch_activations``.
        heads: Labels of the head axis; all by default.
        positions: Labels of the position axis, or what is edited at once without that axis.

    Raises:
        SiteError: Axes that the component does not have, or labels outside the activation.
    """
    axes = _axes(component, by)
    labels = _axis_labels(axes, component, activation, heads, positions)
    at_once = tuple(sorted(labels["position"]))
    edits = []
    for place in product(*(range(len(labels[axis])) for axis in axes)):
        here = {axis: labels[axis][index] for axis, index in zip(axes, place, strict=True)}
        where = (here["position"],) if "position" in here else at_once
        edits.append(Edit(place, where, here.get("head"), here.get("key")))
    return {axis: tuple(labels[axis]) for axis in axes}, edits


def chosen_labels(chosen: Any, size: int, what: str) -> list[int]:
    """``chosen`` labels of an axis counted from 0, or all ``size`` of them.

    Raises:
        SiteError: No label, one outside the axis, or one twice.
    """
    if chosen is None:
        return list(range(size))
    if not isinstance(chosen, Iterable) or isinstance(chosen, str):
        raise SiteError(f"{what} must be a list of integers, or None for all; got {chosen!r}.")
    labels = [checks.integer(label, what, -size, SiteError, size - 1) for label in chosen]
    if not labels or len({label % size for label in labels}) < len(labels):
        raise SiteError(f"{what} must be distinct, at least one; got {list(chosen)!r}.")
    return [label % size for label in labels]


def _axes(component: str, by: Any) -> list[str]:
    if by is None:
        return ["position"] if component in HEADLESS else ["head"]
    allowed = ["position"] if component in HEADLESS else ["head", "position"]
    allowed += ["key"] if component == PATTERN else []
    wanted = list(by) if isinstance(by, Iterable) and not isinstance(by, str) else [by]
    if not wanted or any(axis not in allowed for axis in wanted) or len(set(wanted)) < len(wanted):
        raise SiteError(
            f"a grid of {component!r} can be by {', '.join(allowed)}; got {by!r}. Name each axis "
            "once."
        )
    return [axis for axis in allowed if axis in wanted]


def _axis_labels(
    axes: Sequence[str],
    component: str,
    activation: Tensor,
    heads: Any,
    positions: Any,
) -> dict[str, list[int]]:
    n_positions = activation.shape[2 if component == PATTERN else 1]
    labels = {"position": chosen_labels(positions, n_positions, "positions")}
    if component == PATTERN:
        labels["key"] = list(range(n_positions))
    if component not in HEADLESS:
        labels["head"] = chosen_labels(
            heads, activation.shape[1 if component == PATTERN else 2], "heads"
        )
    if heads is not None and "head" not in axes:
        advice = f"{component!r} has none." if component in HEADLESS else "Add 'head' to by."
        raise SiteError(f"heads can be chosen where the grid is by head. {advice}")
    return labels
