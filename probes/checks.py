"""Checks of arguments, each with an error that says what came and what to do."""

import math
import numbers
from collections.abc import Collection

from torch import Tensor

from probes.errors import ProbesError, nearest, shown

MAX_SEED = 2**63 - 1


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


def tensor(value: object, what: str, error: type[ProbesError]) -> Tensor:
    """``value``, if it is a tensor of real numbers."""
    if not isinstance(value, Tensor) or value.is_complex():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise error(
            f"{what} must be a tensor of real numbers; got {kind}. Convert it with torch.as_tensor."
        )
    return value


def choice(value: object, what: str, known: Collection[str], error: type[ProbesError]) -> str:
    """``value``, if it is one of the ``known`` names."""
    if not isinstance(value, str) or value not in known:
        raise error(f"unknown {what} {shown(value)}. {nearest(value, known)}")
    return value
