"""Where in a layer's activation a grid's edits are made: by position, by head, or by both."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from torch import Tensor

from probes import checks
from probes.capture import read_activations
from probes.errors import SiteError, nearest
from probes.sites import HEADED, IN_GRIDS, PATTERN, Site, check_hooks, component_of, hook_name
from probes.subject import HookedModel, subject_of

WITH_HEADS = (*HEADED, PATTERN)

AXES = {
    "pos": "position", "dest_pos": "position", "query": "position", "head_index": "head",
    "src_pos": "key",
}  # fmt: skip
"""Other names of a grid's axes, as TransformerLens's patching has them."""


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
        component: Which activation, by any of its names; ``result`` means ``z``, which determines
            it.
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
        component, layer = component_of(self.component, known=IN_GRIDS)
        component = "z" if component == "result" else component
        n_layers = subject_of(model).n_layers if n_layers is None else n_layers
        layers = tuple(chosen_labels(self._layers(layer), n_layers, what))
        check_hooks(model, (hook_name(component, layer) for layer in layers))
        axes = _axes(component, self.by)
        labels = self._labels(component, axes, model, tokens, layers[0])
        at_once = tuple(sorted(labels["position"]))
        edits = []
        for place in product(*(range(len(labels[axis])) for axis in axes)):
            here = {axis: labels[axis][index] for axis, index in zip(axes, place, strict=True)}
            where = (here["position"],) if "position" in here else at_once
            edits.append(Edit(place, where, here.get("head"), here.get("key")))
        named = {"layer": layers, **{axis: tuple(labels[axis]) for axis in axes}}
        return Plan(component, layers, named, tuple(edits))

    def _layers(self, own: int | None) -> Iterable[int] | None:
        """The layers that are asked for; a full name of a hook asks for its own alone."""
        if own is None:
            return self.layers
        if self.layers is not None:
            raise SiteError(
                f"{self.component!r} names a layer, and so does layers. Give one of both."
            )
        return [own]

    def _labels(
        self, component: str, axes: Sequence[str], model: HookedModel, tokens: Tensor, layer: int
    ) -> dict[str, list[int]]:
        length = tokens.shape[1]
        labels = {"position": chosen_labels(self.positions, length, "positions")}
        if component == PATTERN:
            labels["key"] = list(range(length))
        if component in WITH_HEADS:
            n_heads = _n_heads(model, tokens, component, layer)
            labels["head"] = chosen_labels(self.heads, n_heads, "heads")
        if self.heads is not None and "head" not in axes:
            none = f"{component!r} has none."
            advice = "Add 'head' to by." if component in WITH_HEADS else none
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
        return ["head"] if component in WITH_HEADS else ["position"]
    allowed = ["head", "position"] if component in WITH_HEADS else ["position"]
    allowed += ["key"] if component == PATTERN else []
    entries = [by] if isinstance(by, str) or not isinstance(by, Iterable) else by
    listed = checks.listed(entries, "by", f"axes, from {', '.join(allowed)}", SiteError)
    wanted = [AXES.get(axis, axis) if isinstance(axis, str) else axis for axis in listed]
    wanted = [axis for axis in wanted if axis != "layer"]  # which every grid has
    unknown = [axis for axis in wanted if not isinstance(axis, str) or axis not in allowed]
    if unknown or not listed or len(set(wanted)) < len(wanted):
        names = [*allowed, *(name for name, axis in AXES.items() if axis in allowed)]
        near = nearest(unknown[0], names) if unknown else "Name each axis once."
        raise SiteError(
            f"a grid of {component!r} can be by {', '.join(allowed)}; got {by!r}. {near}"
        )
    return [axis for axis in allowed if axis in wanted]
