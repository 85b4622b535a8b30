"""Printing that never fails a run, whoever reads it."""

import io
import os
import sys
from collections.abc import Callable
from typing import Any


class Output:
    """Standard output or error that does not fail for its reader's sake.

    Characters that its encoding lacks are replaced. Once a pipe's reader has gone, what is still
    written goes nowhere.

    Args:
        stream: The stream itself.
        ignored: Errors that are no one's concern; after others, too, nothing more is written.
    """

    def __init__(self, stream: Any, ignored: type[OSError]) -> None:
        self._stream = stream or io.StringIO()  # None: it is closed
        self._ignored = ignored

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """The text's length, whether or not anybody reads it."""
        encoding = self._stream.encoding or "utf-8"
        self._try(self._stream.write, text.encode(encoding, "replace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        """Hand on what was written, if anybody is still there."""
        self._try(self._stream.flush)

    def _try(self, function: Callable[..., object], *arguments: str) -> None:
        try:
            function(*arguments)
        except OSError as error:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), self._stream.fileno())
            if not isinstance(error, self._ignored):
                from mtd_lens.errors import OutputPathError

                raise OutputPathError(
                    f"cannot print: {error.strerror or error}. Send the output elsewhere."
                ) from error


def say(line: str) -> int:
    """One line on standard error, whatever is in it; returns the exit status of bad input."""
    shown = " ".join(part.strip() for part in line.splitlines())
    print("".join(c if c.isprintable() else repr(c)[1:-1] for c in shown), file=sys.stderr)
    return 2
