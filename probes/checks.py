"""Checks of arguments, each with an error that says what came and what to do."""

import math
import numbers
import unicodedata
from collections.abc import Collection, Mapping

from probes.errors import ProbesError, nearest, shown

MAX_SEED = 2**63 - 1

JOINERS = "\u200c\u200d"
"""Of letters, in the words of some scripts; they show nothing of their own."""


def integer(
    value: object, what: str, minimum: int, error: type[ProbesError], maximum: int | None = None
) -> int:
    """``value`` as an int, if it is an integer (not a bool) of at least ``minimum``."""
    if (
        not isinstance(value, numbers.Integral)
        or isinstance(value, bool)
        or value < minimum
        or not (maximum is None or value <= maximum)
    ):
        bounds = f"of at least {minimum}" if maximum is None else f"from {minimum} to {maximum}"
        raise error(f"{what} must be an integer {bounds}; got {value!r}.")
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
        or not math.isfinite(value)
    ):
        start = f"of at least {low:g}" if low_included else f"above {low:g}"
        end = f", at most {high:g}" if math.isfinite(high) else " and finite"
        raise error(f"{what} must be a number {start}{end}; got {value!r}. {advice}".rstrip())
    return float(value)


def choice(value: object, what: str, known: Collection[str], error: type[ProbesError]) -> str:
    """``value``, if it is one of the ``known`` names."""
    if not isinstance(value, str) or value not in known:
        raise error(f"unknown {what} {shown(value)}. {nearest(value, known)}")
    return value


def text(value: object, what: str, error: type[ValueError]) -> str:
    """``value``, if it is a text that a terminal, a page and a figure can show on one line."""
    if not isinstance(value, str):
        raise error(f"{what} must be a text; got {value!r}.")
    if not value.isprintable():
        for character in value:
            shown = character.isprintable() or character in JOINERS
            if not shown and unicodedata.category(character) != "Zs":  # spaces of other widths
                raise error(
                    f"{what} holds {character!r}, which cannot be shown; got {value!r}. Leave out "
                    "control characters, line breaks and halves of characters."
                )
    return value


def texts(value: object, what: str, error: type[ValueError]) -> None:
    """Check every text in plain data: in lists, and the keys and values of mappings."""
    if isinstance(value, str):
        text(value, what, error)
    elif isinstance(value, Mapping):
        texts(list(value), f"a key of {what}", error)
        for key, item in value.items():
            texts(item, f"{what}[{key!r}]", error)
    elif isinstance(value, list | tuple):
        for item in value:
            texts(item, what, error)
