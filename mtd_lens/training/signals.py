"""SIGINT and SIGTERM while a model is trained: the running step is finished and saved first."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


class Stopped(BaseException):
    """A signal stopped the training; the message says where that stands and how it goes on."""

    exit_status: int


class Interrupted(Stopped, KeyboardInterrupt):
    """SIGINT came, as from Ctrl-C."""

    exit_status = 128 + signal.SIGINT


class Terminated(Stopped, SystemExit):
    """SIGTERM came, as from a scheduler whose time is up."""

    exit_status = code = 128 + signal.SIGTERM


KINDS: dict[int, type[Stopped]] = {signal.SIGINT: Interrupted, signal.SIGTERM: Terminated}
USUAL: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


class Signals:
    """Signals that came while they were deferred.

    Args:
        several: Several processes train together. Their launcher passes on a signal that the
            terminal has sent to all of them already, so that a second one means nothing; it ends
            them itself if they take too long.
    """

    def __init__(self, *, several: bool) -> None:
        self.several, self.number, self._deferring = several, 0, False

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Stop at once, or while signals are deferred at a second one."""
        if not self._deferring or (self.number and not self.several):
            raise KINDS[number]
        self.number = self.number or number

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Remember the first signal as ``number``; it is raised at the end if it still waits."""
        self._deferring = True
        try:
            yield
        finally:
            self._deferring = False
        if self.number and not self.several:
            raise KINDS[self.number]


@contextmanager
def caught(where: Callable[[], str], *, several: bool) -> Iterator[Signals]:
    """Handle both signals here, where nothing but Python's own handlers would.

    Handlers of the caller's own stay, and so does a signal that is ignored; handlers can be set in
    the main thread alone.

    Args:
        where: Says where the training stands, once it is stopped.
        several: Several processes train together.
    """
    signals, here = Signals(several=several), threading.current_thread()
    taken = [number for number, usual in USUAL.items() if signal.getsignal(number) == usual]
    taken = taken if here is threading.main_thread() else []
    try:
        for number in taken:
            signal.signal(number, signals.handle)
        yield signals
    except Stopped as stopped:
        stopped.args = (f"training was stopped: {where()}",)
        raise
    finally:
        for number in taken:
            signal.signal(number, USUAL[number])
