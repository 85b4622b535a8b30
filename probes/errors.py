"""Every refusal of bad input by an instrument is a :class:`ProbesError`."""

import difflib
from collections.abc import Iterable


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


MOST_SHOWN = 200


def shown(value: object) -> str:
    """A value in an error message, of which a very long one would hide the rest."""
    text = repr(value)
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN // 2]}…"


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
