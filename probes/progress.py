"""Progress of what takes a while: one rule for when it shows, and one display at a time.

Whatever takes an argument ``progress`` follows the rule of :func:`shown`. It opens the display; the
loops within, however deep, say where they are by :func:`steps`, which shows nothing where no
display is open.
"""

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from probes import checks
from probes.errors import DataError, ProbesError

Item = TypeVar("Item")

EVERY = 0.5
"""Seconds before a display is drawn on a terminal, so that what is done sooner does not flicker,
and between two looks at its clock."""

AT_LEAST = 0.1
"""Seconds between two drawings of one."""

LINE_EVERY = 10.0
"""Seconds between lines where nothing can be drawn in place."""

OFF = "TQDM_DISABLE"
"""The environment variable that switches everything off."""

WAITING, COUNTING = "{desc} [{elapsed}]{postfix}", "{l_bar}{bar}| {n}/{total} [{elapsed}]{postfix}"
"""How it is drawn, without and with a number of steps."""


@dataclass
class _Part:
    """What goes on within another part, and how many steps of it are done."""

    what: str
    total: int | None
    done: int = 0

    def __str__(self) -> str:
        return self.what if self.total is None else f"{self.what} {self.done} of {self.total}"


class _Display:
    """Where nothing is shown."""

    def begin(self, part: _Part) -> None:
        """A part begins."""

    def end(self) -> None:
        """The innermost part ends."""

    def step(self) -> None:
        """A step of the innermost part is done."""

    def note(self, text: str) -> None:
        """Something to say beside it."""

    def tell(self, text: str) -> None:
        """A line that stays."""

    def close(self) -> None:
        """Nothing more comes."""


class _Lines(_Display):
    """A line where an outermost part begins, and now and then within it."""

    def __init__(self, what: str) -> None:
        self.what, self.beside, self.parts = what, "", list[_Part]()
        self.started = self.last = time.monotonic()

    def begin(self, part: _Part) -> None:
        self.parts.append(part)
        if len(self.parts) == 1:
            self.say()

    def end(self) -> None:
        self.parts.pop()
        if not self.parts:  # what was said beside it was of it
            self.beside = ""

    def step(self) -> None:
        self.parts[-1].done += 1
        if time.monotonic() - self.last >= LINE_EVERY:
            self.say()

    def note(self, text: str) -> None:
        self.beside = text

    def tell(self, text: str) -> None:
        print(f"{self.what}: {text}", file=sys.stderr, flush=True)

    def say(self) -> None:
        """Where it is, on a line of its own."""
        self.last = time.monotonic()
        passed = self.last - self.started
        words = [", ".join(map(str, self.parts)), self.beside, f"{passed:.0f} s" * (passed >= 1)]
        print(f"{self.what}: {', '.join(filter(None, words))}", file=sys.stderr, flush=True)


class _InPlace(_Lines):
    """A bar of the outermost part, which is gone when all is done; its clock always runs."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.bar: Any = None
        self.closed, self.lock = threading.Event(), threading.Lock()
        self.clock = threading.Thread(target=self._run, daemon=True)
        self.clock.start()

    def begin(self, part: _Part) -> None:
        super().begin(part)
        if len(self.parts) > 1:
            self.draw()

    def end(self) -> None:
        super().end()
        self.draw()

    def step(self) -> None:
        self.parts[-1].done += 1
        if time.monotonic() - self.last >= AT_LEAST:
            self.draw()

    def say(self) -> None:
        self.draw()

    def draw(self) -> None:
        """Draw it as it is now."""
        with self.lock:
            self.last = time.monotonic()
            if self.bar is None:
                if self.last - self.started < EVERY and not _in_notebook():
                    return
                from tqdm.auto import tqdm

                self.bar = tqdm(leave=False, dynamic_ncols=True, bar_format=WAITING, delay=1e-9)
            first, inner = self.parts[:1], self.parts[1:]
            total, done = (first[0].total, first[0].done) if first else (None, 0)
            if self.bar.total != total:
                self.bar.bar_format = WAITING if total is None else COUNTING
                self.bar.reset(total)
                self.bar.total = total
            self.bar.n = done
            self.bar.set_description_str(": ".join([self.what, *(p.what for p in first)]), False)
            beside = [*map(str, inner), self.beside]
            self.bar.set_postfix_str(", ".join(filter(None, beside)), False)
            self.bar.start_t = time.time() - (self.last - self.started)
            self.bar.refresh()

    def tell(self, text: str) -> None:
        with self.lock:
            if self.bar is not None:
                self.bar.clear()
            super().tell(text)

    def close(self) -> None:
        self.closed.set()
        self.clock.join()
        if self.bar is not None:
            self.bar.close()

    def _run(self) -> None:
        while not self.closed.wait(EVERY):
            if self.bar is None or time.monotonic() - self.last >= EVERY:
                self.draw()


_NOTHING = _Display()
_current: ContextVar[_Display | None] = ContextVar("_current", default=None)


def checked(progress: object, error: type[ProbesError] = DataError) -> bool | None:
    """``progress``, if it is True, False or None.

    Args:
        progress: What was given.
        error: What is raised.
    """
    return None if progress is None else checks.flag(progress, "progress", error)


@contextmanager
def shown(
    what: str, progress: bool | None = None, error: type[ProbesError] = DataError
) -> Iterator[None]:
    """A display on standard error, from the first moment until the block is done.

    Within another one it is that one that goes on.

    Args:
        what: Is done, such as ``"score"``.
        progress: None shows it where somebody looks on: on a terminal and in a notebook. True shows
            it anywhere; where nothing can be drawn in place, such as in a pipe, in a line every ten
            seconds. False does not show it, nor does the environment variable ``TQDM_DISABLE=1``.
        error: Raised if ``progress`` is anything else.
    """
    progress, there = checked(progress, error), _current.get()
    if there is not None and progress is not False:
        yield
        return
    display = _display(what, progress)
    token = _current.set(display)
    try:
        yield
    finally:
        _current.reset(token)
        display.close()


def steps(
    items: Iterable[Item], what: str, total: int | None = None, done: int = 0
) -> Iterator[Item]:
    """The items one after another, each a step of what is shown.

    Args:
        items: In order.
        what: They are, such as ``"claims"``.
        total: How many; by default their number, where they have one.
        done: How many were done before.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    with part(what, total, done):
        display = _current.get() or _NOTHING
        for item in items:
            yield item
            display.step()


@contextmanager
def part(what: str, total: int | None = None, done: int = 0) -> Iterator[None]:
    """What goes on in the block, with :func:`step` after each step of it.

    Args:
        what: Goes on, such as ``"loading the model"``.
        total: Its number of steps, if it has some.
        done: How many were done before.
    """
    display = _current.get() or _NOTHING
    display.begin(_Part(what, total, done))
    try:
        yield
    finally:
        display.end()


def step() -> None:
    """A step of the innermost part is done."""
    (_current.get() or _NOTHING).step()


def tell(text: str) -> None:
    """A line of its own, which stays.

    Args:
        text: Of the line.
    """
    (_current.get() or _NOTHING).tell(text)


def note(text: str) -> None:
    """Something to say beside it, such as the loss.

    Args:
        text: In place of what was said before, until the outermost part ends.
    """
    (_current.get() or _NOTHING).note(text)


def _display(what: str, progress: bool | None) -> _Display:
    off = os.environ.get(OFF, "0").lower() not in ("", "0", "false")
    if progress is False or off:
        return _NOTHING
    if _in_notebook() or _on_terminal():
        return _InPlace(what)
    return _Lines(what) if progress else _NOTHING


def _on_terminal() -> bool:
    return sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty()


def _in_notebook() -> bool:
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None
