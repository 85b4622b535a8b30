"""Checks of arguments, each with an error that says what came and what to do.

A public function calls them once, at its door: what it hands on is of the kind that it says.
"""

import math
import numbers
import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from probes.errors import ProbesError, nearest, shown

if TYPE_CHECKING:
    from torch import Tensor

MAX_SEED = MAX_INTEGER = 2**63 - 1

Kind = TypeVar("Kind")

FLOATS = frozenset(f"torch.{name}" for name in ("float16", "bfloat16", "float32", "float64"))
"""Of floating-point tensors; smaller ones can hardly be computed with."""

JOINERS = "\u200c\u200d"
"""Of letters, in the words of some scripts; they show nothing of their own."""


def integer(
    value: object, what: str, minimum: int, error: type[ProbesError], maximum: int | None = None
) -> int:
    """``value`` as an int, if it is an integer (not a bool) of at least ``minimum``."""
    most = MAX_INTEGER if maximum is None else maximum
    if (
        not isinstance(value, numbers.Integral)
        or isinstance(value, bool)
        or value < minimum
        or not value <= most
    ):
        huge = maximum is not None or (isinstance(value, int) and value > most)
        bounds = f"from {minimum} to {most}" if huge else f"of at least {minimum}"
        raise error(f"{what} must be an integer {bounds}; got {shown(value)}.")
    return int(value)


def seed(value: object, error: type[ProbesError]) -> int:
    """``value`` as a seed."""
    return integer(value, "seed", 0, error, MAX_SEED)


def number(
    value: object,
    what: str,
    low: float | int,
    high: float | int,
    error: type[ProbesError],
    advice: str = "",
    *,
    low_included: bool = False,
) -> float:
    """``value`` as a float, if it is a finite real number above ``low`` and at most ``high``."""
    if (
        not isinstance(value, numbers.Real)
        or isinstance(value, bool)
        or value < low
        or (value <= low and not low_included)
        or not value <= high
        or not math.isfinite(_float(value))
    ):
        start = f"of at least {low:g}" if low_included else f"above {low:g}"
        end = f", at most {high:g}" if math.isfinite(high) else " and finite"
        raise error(f"{what} must be a number {start}{end}; got {shown(value)}. {advice}".rstrip())
    return float(value)


def choice(value: object, what: str, known: Collection[str], error: type[ProbesError]) -> str:
    """``value``, if it is one of the ``known`` names."""
    if not isinstance(value, str) or value not in known:
        raise error(f"unknown {what} {shown(value)}. {nearest(value, known)}")
    return value


def flag(value: object, what: str, error: type[ProbesError]) -> bool:
    """``value`` as a bool, if it is True or False; 1 and 0 stand for them, also NumPy's."""
    plain: Any = value
    if isinstance(plain, np.generic):
        plain = plain.item()
    if not isinstance(plain, int) or plain not in (0, 1):
        raise error(f"{what} must be True or False; got {shown(value)}.")
    return bool(plain)


def text(value: object, what: str, error: type[ValueError]) -> str:
    """``value``, if it is a text that a terminal, a page and a figure can show on one line."""
    if not isinstance(value, str):
        raise error(f"{what} must be a text; got {shown(value)}.")
    if not value.isprintable():
        for character in value:
            visible = character.isprintable() or character in JOINERS
            if not visible and unicodedata.category(character) != "Zs":  # spaces of other widths
                raise error(
                    f"{what} holds {character!r}, which cannot be shown; got {shown(value)}. Leave "
                    "out control characters, line breaks and halves of characters."
                )
    return value


def texts(value: object, what: str, error: type[ValueError]) -> None:
    """Check every text in plain data: in lists, and the keys and values of mappings."""
    try:
        _texts(value, what, error)
    except RecursionError:
        raise error(f"{what} is nested too deep.") from None


def _texts(value: object, what: str, error: type[ValueError]) -> None:
    if isinstance(value, str):
        text(value, what, error)
    elif isinstance(value, Mapping):
        _texts(list(value), f"a key of {what}", error)
        for key, item in value.items():
            _texts(item, f"{what}[{key!r}]", error)
    elif isinstance(value, list | tuple):
        for item in value:
            _texts(item, what, error)


def instance(
    value: object, kind: type[Kind], what: str, error: type[ProbesError], advice: str = ""
) -> Kind:
    """``value``, if it is of a class."""
    if not isinstance(value, kind):
        raise error(
            f"{what} must be of the class {kind.__name__}; got {shown(value)}. {advice}".rstrip()
        )
    return value


def function(value: object, what: str, error: type[ProbesError]) -> Callable[..., Any]:
    """``value``, if it can be called."""
    if not callable(value):
        raise error(f"{what} must be a function; got {shown(value)}.")
    return value


def mapping(value: object, what: str, error: type[ProbesError]) -> Mapping[Any, Any]:
    """``value``, if it is a dict or another mapping."""
    if not isinstance(value, Mapping):
        raise error(f"{what} must be a mapping, such as a dict; got {shown(value)}.")
    return value


def listed(
    value: object, what: str, of: str, error: type[ProbesError], kind: type | None = None
) -> list[Any]:
    """The entries of a list, or of anything else that has some in an order, one after another."""
    entries = list(value) if isinstance(value, list | tuple) else None
    if (
        entries is None
        and isinstance(value, Iterable)
        and not isinstance(value, str | bytes | Mapping)
    ):
        plain: Any = value
        try:  # of a tensor or an array, plain numbers
            plain = plain.tolist() if kind is None and hasattr(plain, "tolist") else plain
            iterator = iter(plain)
        except (TypeError, RuntimeError):  # without axes, or without data
            iterator = None
        entries = None if iterator is None else list(iterator)
    if entries is None or not (kind is None or all(isinstance(e, kind) for e in entries)):
        raise error(f"{what} must be a list of {of}; got {shown(value)}.")
    return entries


def integers(
    value: object,
    what: str,
    error: type[ProbesError],
    low: int = -MAX_INTEGER,
    high: int = MAX_INTEGER,
) -> list[int]:
    """The entries of a list of integers, no bools, from ``low`` to ``high``."""
    start = "" if low == -MAX_INTEGER else f" from {low}"
    of = f"integers{start}" + ("" if high == MAX_INTEGER else f" to {high}")
    found = []
    for entry in listed(value, what, of, error):
        if isinstance(entry, bool) or not isinstance(entry, int | numbers.Integral):
            raise error(f"{what} must be a list of {of}; got {shown(value)}.")
        if entry < low or not entry <= high:
            raise error(f"{what} must be a list of {of}; {entry} is outside.")
        found.append(int(entry))
    return found


def bounds(value: object, what: str, error: type[ProbesError]) -> tuple[float, float]:
    """``value`` as the two ends of a range, in any order."""
    ends = listed(value, what, "two numbers", error)
    if len(ends) != 2 or not all(
        isinstance(end, numbers.Real) and not isinstance(end, bool) for end in ends
    ):
        raise error(f"{what} must be a pair of numbers; got {shown(value)}.")
    low, high = (_float(end) for end in ends)
    return low, high


def _float(value: Any) -> float:
    """A real number as a float, infinite where it is too large for one."""
    try:
        return float(value)
    except OverflowError:
        return math.copysign(math.inf, value)


def tensor(
    value: object,
    what: str,
    axes: str,
    error: type[ProbesError],
    kind: str = "floating-point",
) -> "Tensor":
    """``value``, if it is a dense tensor of a kind of numbers with these axes.

    Args:
        value: What came.
        what: What it is called.
        axes: Their names, ``"sequence, position"``; ``"…"`` stands for any number of them.
        error: What is raised.
        kind: ``"floating-point"``, ``"integer"`` or ``"real"``, which is either.
    """
    import torch

    if isinstance(value, torch.Tensor) and value.layout == torch.strided and not value.is_meta:
        dtype, n_axes = value.dtype, axes.count(",") + 1
        if value.ndim >= n_axes - 1 if "…" in axes else value.ndim == n_axes:
            whole = not dtype.is_floating_point and not dtype.is_complex and dtype != torch.bool
            if (str(dtype) in FLOATS and kind != "integer") or (whole and kind != "floating-point"):
                return value
    article = "an" if kind == "integer" else "a"
    raise error(f"{what} must be {article} {kind} tensor, [{axes}]; got {shown(value)}.")
