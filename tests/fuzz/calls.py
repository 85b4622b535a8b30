"""Calls of a public door: a valid one, and those with one value of a wrong kind."""

import contextlib
import inspect
import io
import json
import signal
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import matplotlib.pyplot as plt

from mtd_lens import registry
from probes import ProbesError
from tests.fuzz.arguments import ARGUMENTS, SHORT
from tests.fuzz.doors import Door
from tests.fuzz.instances import INSTANCES, AtWorkError
from tests.fuzz.values import VALUES

SECONDS = 10
"""Of the process's own time; a call that takes longer has not been refused at the door."""


THEIRS = {
    (parameter, what)
    for parameter in ("metric", "predict", "divergence")
    for what in ("class", "module")
}
"""Functions of the caller's that fail when they are called: their errors are the caller's own."""


class TooLongError(Exception):
    """A call that went on for too long."""


def valid(door: Door) -> dict[str, Any]:
    """Arguments that the door takes, by parameter."""
    own: dict[str, Any] = {}
    if inspect.isclass(door.call) and door.call.__name__ in INSTANCES:
        instance = INSTANCES[door.call.__name__]()
        own = {name: getattr(instance, name) for name in _names(door) if hasattr(instance, name)}
    if door.owner is not None and door.call in ("from_dict", "from_json"):
        instance = INSTANCES[door.owner.__name__]()
        plain = instance.to_dict() if hasattr(instance, "to_dict") else instance.to_json()
        own = {"data": plain, "source": plain if isinstance(plain, str) else json.dumps(plain)}
        own = {name: value for name, value in own.items() if name in _names(door)}
    for parameter in door.parameters:
        tables = (ARGUMENTS, SHORT) if _is_needed(parameter) else (SHORT,)
        if parameter.name not in own:
            found = [entry for table in tables for entry in _entries(table, door, parameter.name)]
            if found:
                own[parameter.name] = found[0]()
    missing = [p.name for p in door.parameters if _is_needed(p) and p.name not in own]
    assert not missing, f"{door.name}: tests/fuzz/arguments.py has no {missing} for it"
    return own


def _names(door: Door) -> list[str]:
    return [parameter.name for parameter in door.parameters]


def _is_needed(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty


def _entries(table: dict[str, Any], door: Door, name: str) -> Iterator[Any]:
    places = [key for key in table if ":" in key and door.module.startswith(key.split(":")[0])]
    keys = [f"{door.name}:{name}", *(key for key in places if key.endswith(f":{name}")), name]
    return (table[key] for key in keys if key in table)


def call(door: Door, arguments: dict[str, Any]) -> object:
    """What the door returns; what it registers is forgotten, what it draws is closed."""
    target: Any = door.call
    if door.owner is not None:
        target = getattr(INSTANCES[door.owner.__name__](), str(door.call))
    positional, named = [], {}
    for parameter in door.parameters:
        if parameter.name not in arguments:
            continue
        value = arguments[parameter.name]
        if parameter.kind is parameter.VAR_POSITIONAL:
            positional += value
        elif parameter.kind is parameter.VAR_KEYWORD:
            named |= value
        else:
            named[parameter.name] = value
    if positional:  # only after those before them
        positional = [*named.values(), *positional]
        named = {}
    known = [registry._families, registry._tasks, registry._models]
    kept = [dict(table) for table in known]
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            return target(*positional, **named)
    finally:
        plt.close("all")
        for table, before in zip(known, kept, strict=True):
            table.clear()
            table.update(before)


def spoilt(door: Door) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """A parameter, what it is replaced by, and the arguments with that, valid but for it."""
    for parameter in door.parameters:
        for what, value in VALUES.items():
            arguments: Any = valid(door)
            if parameter.kind is parameter.VAR_POSITIONAL:
                arguments[parameter.name] = (value(),)
            elif parameter.kind is parameter.VAR_KEYWORD:
                given = arguments[parameter.name]
                arguments[parameter.name] = dict.fromkeys(given, value())
            else:
                arguments[parameter.name] = value()
            yield parameter.name, what, arguments


def raw_errors(door: Door) -> dict[str, str]:
    """By spoilt argument, what came that is no error of ours."""
    found = {}
    for parameter, what, arguments in spoilt(door):
        try:
            with _alarm():
                call(door, arguments)
        except (ProbesError, AtWorkError):
            pass
        except Exception as error:
            if (parameter, what) in THEIRS:
                continue
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{frame.filename.rpartition('/')[2]}:{frame.lineno}"
            found[f"{parameter} = {what}"] = (
                f"{type(error).__name__}: {str(error)[:90]!r} at {where}"
            )
    return found


def kinds(found: dict[str, str]) -> Counter[str]:
    """How many of each kind of error."""
    return Counter(text.partition(":")[0] for text in found.values())


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise TooLongError(f"more than {SECONDS} seconds")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
