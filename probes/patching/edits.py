"""Where in a layer's activation a grid's edits are made: by position, by head, or by both."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from torch import Tensor

from probes import checks
from probes.capture import read_activations
from probes.errors import SiteError
from probes.sites import COMPONENTS, HEADED, HEADLESS, PATTERN, Site, check_hooks, hook_name
from probes.subject import HookedModel, subject_of


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


@dataclass(frozen=True)
class Plan:
    """A grid's edits.

    Attributes:
        component: Which activation.
        layers: In which blocks.
        axes: The grid's axes in order, each with its labels; the first is the layer.
        edits: One for each place on the other axes, the same in every layer.
    """

    component: str
    layers: tuple[int, ...]
    axes: dict[str, tuple[int, ...]]
    edits: tuple[Edit, ...]

    @property
    def hooks(self) -> list[str]:
        """Names of the component's hooks in these layers."""
        return [hook_name(self.component, layer) for layer in self.layers]


@dataclass(frozen=True)
class Selection:
    """Which activations a grid is of, as ``patch_activations`` takes them.

    Attributes:
        component: One of ``COMPONENTS``.
        by: The axes beside the layer, in any order; None: those that are usual.
        layers: Labels of the layer axis; None: all, as for the other axes.
        heads: Labels of the head axis.
        positions: Labels of the position axis, or what is edited at once without that axis.
    """

    component: str
    by: str | Iterable[str] | None = None
    layers: Iterable[int] | None = None
    heads: Iterable[int] | None = None
    positions: Iterable[int] | None = None

    def plan(
        self, model: HookedModel, tokens: Tensor, n_layers: int | None = None, what: str = "layers"
    ) -> Plan:
        """The grid's axes, and an edit for each of its cells.

        Args:
            model: The model.
            tokens: ``[sequence, position]``: those that will be run.
            n_layers: How many layers there are to choose from; all by default.
            what: The layers, in errors.

        Raises:
            SiteError: Axes that the component does not have, hooks that the model does not have, or
                labels outside its activations.
        """
        checks.choice(self.component, "component", COMPONENTS, SiteError)
        n_layers = subject_of(model).n_layers if n_layers is None else n_layers
        layers = tuple(chosen_labels(self.layers, n_layers, what))
        check_hooks(model, (hook_name(self.component, layer) for layer in layers))
        axes = _axes(self.component, self.by)
        labels = self._labels(axes, model, tokens, layers[0])
        at_once = tuple(sorted(labels["position"]))
        edits = []
        for place in product(*(range(len(labels[axis])) for axis in axes)):
            here = {axis: labels[axis][index] for axis, index in zip(axes, place, strict=True)}
            where = (here["position"],) if "position" in here else at_once
            edits.append(Edit(place, where, here.get("head"), here.get("key")))
        named = {"layer": layers, **{axis: tuple(labels[axis]) for axis in axes}}
        return Plan(self.component, layers, named, tuple(edits))

    def _labels(
        self, axes: Sequence[str], model: HookedModel, tokens: Tensor, layer: int
    ) -> dict[str, list[int]]:
        length = tokens.shape[1]
        labels = {"position": chosen_labels(self.positions, length, "positions")}
        if self.component == PATTERN:
            labels["key"] = list(range(length))
        if self.component not in HEADLESS:
            n_heads = _n_heads(model, tokens, self.component, layer)
            labels["head"] = chosen_labels(self.heads, n_heads, "heads")
        if self.heads is not None and "head" not in axes:
            none = f"{self.component!r} has none."
            advice = none if self.component in HEADLESS else "Add 'head' to by."
            raise SiteError(f"heads can be chosen where the grid is by head. {advice}")
        return labels


def _n_heads(model: HookedModel, tokens: Tensor, component: str, layer: int) -> int:
    if component not in ("k", "v"):
        return subject_of(model).n_heads
    site = Site(hook_name(component, layer))  # key-value heads, unless they are ungrouped
    return read_activations(model, tokens[:1], {component: site})[component].shape[2]


def chosen_labels(chosen: Iterable[int] | None, size: int, what: str) -> list[int]:
    """``chosen`` labels of an axis counted from 0, or all ``size`` of them.

    Raises:
        SiteError: No label, one outside the axis, or one twice.
    """
    if chosen is None:
        return list(range(size))
    entries = checks.listed(chosen, what, "integers, or None for all", SiteError)
    labels = [checks.integer(label, what, -size, SiteError, size - 1) for label in entries]
    if not labels or len({label % size for label in labels}) < len(labels):
        raise SiteError(f"{what} must be distinct, at least one; got {entries!r}.")
    return [label % size for label in labels]


def _axes(component: str, by: str | Iterable[str] | None) -> list[str]:
    if by is None:
        return ["position"] if component in HEADLESS else ["head"]
    allowed = ["position"] if component in HEADLESS else ["head", "position"]
    allowed += ["key"] if component == PATTERN else []
    entries = [by] if isinstance(by, str) or not isinstance(by, Iterable) else by
    wanted = checks.listed(entries, "by", f"axes, from {', '.join(allowed)}", SiteError)
    named = all(isinstance(axis, str) for axis in wanted)
    if not named or not wanted or not set(wanted) <= set(allowed) or len(set(wanted)) < len(wanted):
        raise SiteError(
            f"a grid of {component!r} can be by {', '.join(allowed)}; got {by!r}. Name each axis "
            "once."
        )
    return [axis for axis in allowed if axis in wanted]
