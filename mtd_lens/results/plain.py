"""Plain data, both ways: dataclasses field by field, tensors packed, by their types alone."""

import sys
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
from jaxtyping import AbstractArray
from torch import Tensor

from probes.errors import ProbesError
from probes.packing import packed, unpacked

LARGEST = {float: sys.float_info.max, int: 2**63 - 1}
"""Numbers are finite, and integers those of tensors."""

IN_WORDS = {float: "a number", int: "an integer", str: "a text", bool: "true or false"}


class UnreadableError(ValueError):
    """Says what was expected, what came, and where."""


def to_plain(value: object) -> Any:
    """What JSON can hold of a value.

    Mappings stay, tuples become lists, tensors are packed. What has a ``to_dict`` says itself what
    it is; any other dataclass is a mapping of its fields, and of the properties that ``DERIVED``
    names in its class.
    """
    if isinstance(value, Tensor):
        return packed(value)
    if isinstance(value, Mapping):
        return {name: to_plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(item) for item in value]
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if isinstance(value, np.generic):
        return value.item()
    return plain_fields(value) if is_dataclass(value) else value


def plain_fields(value: Any) -> dict[str, Any]:
    """What JSON can hold of a dataclass's fields and of what derives from them."""
    names = [*(field.name for field in fields(value)), *getattr(value, "DERIVED", ())]
    return {name: to_plain(getattr(value, name)) for name in names}


def from_plain(kind: Any, data: Any, where: str = "") -> Any:
    """A value of a type, from what ``to_plain`` made of it.

    Args:
        kind: The type, as fields are annotated.
        data: Plain data.
        where: Of the data in what is read, for errors: ``claims[3].layer``.

    Raises:
        UnreadableError: Data of another form.
    """
    if kind is Any:
        return data
    origin, of = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _one_of(of, data, where)
    if origin in (tuple, list):
        return origin(_items(origin, of, data, where))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        check(isinstance(data, Mapping), "a mapping", data, where)
        return {name: from_plain(of[1], item, f"{where}[{name!r}]") for name, item in data.items()}
    if kind in IN_WORDS:
        accepted = {float: (int, float)}.get(kind, (kind,))
        fits = isinstance(data, accepted) and (kind is bool or not isinstance(data, bool))
        fits = fits and (kind not in LARGEST or abs(data) <= LARGEST[kind])
        check(fits, IN_WORDS[kind], data, where)
        return kind(data)
    if kind is type(None):
        check(data is None, "null", data, where)
        return None
    check(isinstance(data, Mapping), "a mapping", data, where)
    try:
        if issubclass(kind, AbstractArray):
            tensor = unpacked(data)
            check(isinstance(tensor, kind), f"a {kind.__name__}", tuple(tensor.shape), where)
            return tensor
        if hasattr(kind, "from_dict"):
            return kind.from_dict(data)
        return kind(**read(kind, data, where))
    except (ProbesError, KeyError, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, UnreadableError):
            raise
        raise UnreadableError(f"{where}: {type(error).__name__}: {error}") from error


def read(kind: type, data: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """The fields of a dataclass, from plain data; those with a default may be missing.

    Raises:
        UnreadableError: A field is missing, unknown, or of another form.
    """
    hints, prefix = get_type_hints(kind), f"{where}." * bool(where)
    known = {field.name: field for field in fields(kind)}
    for name in data:
        if name not in known and name not in getattr(kind, "DERIVED", ()):
            raise UnreadableError(f"{prefix}{name} is unknown")
    for name, field in known.items():
        if name not in data and field.default is MISSING and field.default_factory is MISSING:
            raise UnreadableError(f"{prefix}{name} is missing")
    return {
        name: from_plain(hints[name], data[name], f"{prefix}{name}")
        for name in known
        if name in data
    }


def _one_of(kinds: tuple[Any, ...], data: object, where: str) -> Any:
    """The first kind that fits; if none does, the last one's error, which is not that of None."""
    ordered = sorted(kinds, key=lambda kind: kind is not type(None))
    for index, kind in enumerate(ordered):
        try:
            return from_plain(kind, data, where)
        except UnreadableError:
            if index == len(ordered) - 1:
                raise
    raise AssertionError("a union has at least one kind")


def _items(origin: type, of: tuple[Any, ...], data: Any, where: str) -> list[Any]:
    check(isinstance(data, list | tuple), "a list", data, where)
    if origin is list or of[-1] is Ellipsis:
        of = of[:1] * len(data)
    check(len(data) == len(of), f"a list of {len(of)}", data, where)
    return [
        from_plain(kind, item, f"{where}[{index}]")
        for index, (kind, item) in enumerate(zip(of, data, strict=True))
    ]


def check(fits: bool, expected: str, data: object, where: str) -> None:
    """Raise an UnreadableError for data that are not what was expected.

    Args:
        fits: Whether they are.
        expected: In words.
        data: What came.
        where: As in ``from_plain``.
    """
    if not fits:
        raise UnreadableError(f"{where} must be {expected}; got {data!r:.60}")
