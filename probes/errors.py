"""The root of every error that this distribution raises on purpose.

It stands on the lowest floor so that the instruments and the library above them share it;
``mtd_lens.MTDLensError`` is this class.
"""

import difflib
from collections.abc import Iterable


class MTDLensError(ValueError):
    """Bad input: the message says what was expected, what came, where, and what to do."""


class SiteError(MTDLensError):
    """A hook, head or position that the model does not have, or that ignores edits."""


class DataError(MTDLensError):
    """Activations, targets or scores that an instrument cannot work with."""


class OutputPathError(MTDLensError):
    """A path that a result cannot be written to."""


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
