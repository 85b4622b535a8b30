"""The public doors, found by looking: functions, classes and their methods that take arguments."""

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

import mtd_lens
import mtd_lens.families
import probes

PACKAGES = (mtd_lens, probes)
OWN = tuple(package.__name__ for package in PACKAGES)

AT_THE_TOP = ("mtd_lens.errors", "mtd_lens.hooked", "mtd_lens.registry")
"""Modules whose public names stand in ``mtd_lens`` itself; the others are for a family's code."""


@dataclass(frozen=True)
class Door:
    """Something that can be called from outside.

    Attributes:
        name: Dotted, as it is reached.
        parameters: Those that can be given, in order, without ``self``.
        owner: The class whose instance is needed, for methods.
        call: The function or class; of methods, the name of the method.
    """

    name: str
    parameters: tuple[inspect.Parameter, ...]
    call: Callable[..., Any] | str
    owner: type | None = None

    @property
    def module(self) -> str:
        """Where it is defined."""
        return (self.owner or self.call).__module__


def doors() -> dict[str, Door]:
    """All of both packages, by the first name that each is reached by."""
    found: dict[Any, Door] = {}
    for package in PACKAGES:
        for door in _of_module(package, package.__name__, set()):
            found.setdefault((door.owner, door.call), door)
    return {door.name: door for door in found.values()}


def _of_module(module: ModuleType, path: str, seen: set[str]) -> Iterator[Door]:
    if module.__name__ in (*seen, *AT_THE_TOP):
        return
    seen.add(module.__name__)
    inner = []
    for name in _public(module):
        value = getattr(module, name)
        if isinstance(value, ModuleType):
            inner.append((value, f"{path}.{name}"))
        elif inspect.isclass(value):
            yield from _of_class(value, f"{path}.{name}")
        elif inspect.isfunction(value):
            yield from _of_call(value, f"{path}.{name}", value)
    for value, name in inner:
        yield from _of_module(value, name, seen)


def _public(module: ModuleType) -> list[str]:
    """The names that a module offers: its list, the families of their folder, or its own."""
    if module is mtd_lens.families:
        names = [found.name for found in pkgutil.iter_modules(module.__path__)]
        for name in names:
            importlib.import_module(f"{module.__name__}.{name}")
        return names
    own = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    return list(getattr(module, "__all__", own))


def _of_class(kind: type, path: str) -> Iterator[Door]:
    if issubclass(kind, BaseException) or getattr(kind, "_is_protocol", False):
        return
    if not kind.__module__.startswith(OWN) or issubclass(kind, torch.nn.Module):
        return  # modules are called by the model that they are part of
    yield from _of_call(kind, path, kind)
    for name in dir(kind):
        method = inspect.getattr_static(kind, name)
        if name.startswith("_") and name not in ("__getitem__", "__call__"):
            continue
        if isinstance(method, classmethod):
            yield from _of_call(getattr(kind, name), f"{path}.{name}", name, kind)
        elif inspect.isfunction(method) and method.__module__.startswith(OWN):
            yield from _of_call(method, f"{path}.{name}", name, kind, bound=True)


def _of_call(
    function: Callable[..., Any],
    path: str,
    call: Callable[..., Any] | str,
    owner: type | None = None,
    *,
    bound: bool = False,
) -> Iterator[Door]:
    parameters = tuple(inspect.signature(function).parameters.values())[bound:]
    if parameters:
        yield Door(path, parameters, call, owner)
