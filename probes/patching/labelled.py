"""Labelled axes of a tensor: their checks, parts of them, and the entries that stand out."""

import itertools
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from probes import checks
from probes.errors import DataError, nearest

Label = int | str
Axes = Mapping[str, Sequence[Label]]
"""Names of axes in order, each with its labels."""


def checked(axes: Axes, reserved: Sequence[str] = ()) -> dict[str, tuple[Label, ...]]:
    """The axes with their labels as plain integers and text.

    Raises:
        DataError: No axes, a reserved name, no labels, the same one twice, or one that cannot be
            shown.
    """
    if not isinstance(axes, Mapping) or not axes:
        raise DataError(f"axes must name at least one, as {{'layer': (0, 1)}} does; got {axes!r}.")
    for name in axes:
        if not isinstance(name, str) or name in reserved:
            raise DataError(f"an axis cannot be called {name!r}. Use a name such as 'layer'.")
        checks.text(name, "an axis's name", DataError)
    return {name: _labels(name, labels) for name, labels in axes.items()}


def _labels(name: str, labels: Sequence[Any]) -> tuple[Label, ...]:
    what = f"a label of axis {name!r} that is not text"
    listed = checks.listed(labels, f"axis {name!r}", "labels, integers or text", DataError)
    checks.texts(listed, f"a label of axis {name!r}", DataError)
    plain = tuple(
        label if isinstance(label, str) else checks.integer(label, what, 0, DataError)
        for label in listed
    )
    if not plain or len(set(plain)) < len(plain):
        raise DataError(f"axis {name!r} needs at least one label, each once; got {plain}.")
    return plain


def choose(axes: Axes, wanted: Mapping[str, Any]) -> tuple[dict[str, Any], list[Tensor]]:
    """The axes with only the wanted labels, and the places of those labels on every axis.

    Args:
        axes: All axes.
        wanted: A label, or several, of some of them.

    Raises:
        DataError: An axis or label that is not there.
    """
    for name in wanted:
        if name not in axes:
            raise DataError(f"there is no axis {name!r}. {nearest(name, axes)}")
    chosen = dict(axes) | {
        name: (labels,)
        if isinstance(labels, Label | Integral)
        else tuple(checks.listed(labels, name, "labels", DataError))
        for name, labels in wanted.items()
    }
    for name, labels in chosen.items():
        for label in labels:
            if not isinstance(label, Label | Integral) or label not in axes[name]:
                known = nearest(label, map(str, axes[name]))
                raise DataError(f"axis {name!r} has no label {label!r}. {known}")
    places = [
        torch.tensor([axes[name].index(label) for label in labels], dtype=torch.long)
        for name, labels in chosen.items()
    ]
    return chosen, places


def strongest(
    values: Float[Tensor, "*axes"], axes: Axes, n: int
) -> list[tuple[dict[str, Label], float]]:
    """The ``n`` entries of the largest absolute value with their labels, largest first."""
    n = checks.integer(n, "n", 1, DataError)
    flat = values.flatten()
    order = flat.abs().argsort(descending=True, stable=True)[:n].tolist()
    sites = list(itertools.product(*axes.values()))
    return [(dict(zip(axes, sites[i], strict=True)), float(flat[i])) for i in order]


def checked_values(
    name: str, tensor: Tensor, wanted: tuple[int, ...], axes: Mapping[str, Sequence[Any]]
) -> Tensor:
    """A tensor of the wanted shape and of finite values, in float64 on the CPU.

    Raises:
        DataError: Another shape, or values that are not finite.
    """
    got = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
    if got != wanted or wanted[-1] < 1:
        meant = ", ".join([*axes, "sequence"] if name == "values" else ["sequence"])
        raise DataError(
            f"{name} must be a tensor [{meant}] of shape {wanted}, with at least one sequence as "
            f"base has them; got {got}."
        )
    plain = tensor.detach().to("cpu", torch.float64, copy=True)  # the caller may edit it later
    if not plain.isfinite().all():
        index = [int(i) for i in (~plain.isfinite()).nonzero()[0]]
        raise DataError(
            f"{name} must be finite; entry {index} is {float(plain[tuple(index)])}. Check the "
            "metric on that sequence."
        )
    return plain
