"""Every refusal of bad input by an instrument is a :class:`ProbesError`."""

import difflib
import numbers
from collections.abc import Collection, Iterable

import numpy as np


class ProbesError(ValueError):
    """Bad input: the message says what was expected, what came, where, and what to do."""


class SiteError(ProbesError):
    """A hook, head or position that the model does not have, or that ignores edits."""


class DataError(ProbesError):
    """Activations, targets or scores that an instrument cannot work with."""


class InputPathError(ProbesError):
    """A path that nothing can be read from; readers raise errors of their own from it."""


class OutputPathError(ProbesError):
    """A path that a result cannot be written to."""


class MemoryLimitError(ProbesError):
    """More than there is memory for."""


def shown(value: object, most: int = 100) -> str:
    """A value in an error, of at most so many characters; of tensors and arrays what they are."""
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple) and dtype is not None and not isinstance(value, np.generic):
        where = ", without data" if getattr(value, "is_meta", False) else ""
        sparse = ", sparse" if getattr(value, "is_sparse", False) else ""
        return f"{_kind(value)} of {dtype} and shape {tuple(shape)}{where}{sparse}"
    plain = value is None or isinstance(value, bool | numbers.Number | str | bytes | Collection)
    found = repr(value) if plain else _kind(value)
    if len(found) <= most:
        return found
    return f"{found[:most]}…" + ("" if isinstance(value, str) else f" ({_kind(value)})")


def _kind(value: object) -> str:
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIOU' else 'a'} {name}"


def nearest(name: object, known: Iterable[str], limit: int = 5) -> str:
    """A phrase naming the entries of ``known`` nearest to ``name``, for error messages."""
    known = sorted(known)
    if not known:
        return "None is known."
    matches = difflib.get_close_matches(str(name), known, n=limit, cutoff=0.4)
    if matches:
        return f"Nearest known: {', '.join(matches)}."
    head = ", ".join(known[:limit])
    return f"Known: {head}{', …' if len(known) > limit else ''}."
