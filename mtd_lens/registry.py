"""Names for tasks and models.

A model's name is ``TASK/VARIANT``. Variants of a family exist for all of its tasks; further models
are registered one by one, here or by other packages through the entry-point groups
``mtd_lens.tasks`` (a callable that returns a task) and ``mtd_lens.models`` (a callable that returns
a model; the entry's name is ``TASK/VARIANT``).
"""

import functools
import importlib
import pkgutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib import metadata
from typing import Any

import torch

from mtd_lens import families
from mtd_lens.contracts import Family, Task
from mtd_lens.errors import ArgumentError, MTDLensError, UnknownNameError, nearest

DEFAULT_TASK = "mtd-q5-m3-t64"
DEFAULT_MODEL = f"{DEFAULT_TASK}/constructed-absolute"

_tasks: dict[str, Callable[[], Any]] = {}
_models: dict[str, Callable[[], Any]] = {}


@functools.cache
def _families_in(paths: tuple[str, ...]) -> dict[str, Family]:
    found = {}
    for module in pkgutil.iter_modules(paths, families.__name__ + "."):
        family = getattr(importlib.import_module(module.name), "FAMILY", None)
        if family is not None:
            found[family.name] = family
    return found


def list_families() -> dict[str, Family]:
    """Every task family, by name: one for each folder of ``mtd_lens.families``."""
    return dict(_families_in(tuple(families.__path__)))


def family_of(task: Any) -> Family:
    """The family of a task.

    Raises:
        ArgumentError: Not a task.
        UnknownNameError: Its family is not installed.
    """
    name = getattr(task, "family", None)
    if name is None:
        raise ArgumentError(
            f"expected a task; got {type(task).__name__}. Use load_task(name), or a task class "
            "such as MTDTask."
        )
    known = list_families()
    if name not in known:
        raise UnknownNameError(f"no task family {name!r} is installed. {nearest(name, known)}")
    return known[name]


def list_tasks() -> list[str]:
    """Names of all tasks, sorted."""
    return sorted(_task_loaders())


def load_task(name: str) -> Any:
    """The task of that name.

    Raises:
        UnknownNameError: Nothing is registered under ``name``; the message lists the nearest names.
    """
    loaders = _task_loaders()
    if name not in loaders:
        raise UnknownNameError(
            f"no task is named {name!r}. {nearest(name, loaders)} list_tasks() lists all."
        )
    return loaders[name]()


def register_task(name: str, task: Any) -> None:
    """Make a task loadable by name, and with it the models that its family builds for any task.

    Args:
        name: Without a slash, not taken yet.
        task: A task, or a callable without arguments that returns one.

    Raises:
        ArgumentError: The name is taken or holds a slash, or ``task`` is no task.
    """
    if not isinstance(name, str) or not name or "/" in name:
        raise ArgumentError(f"a task's name must be a string without a slash; got {name!r}.")
    if name in _task_loaders():
        raise ArgumentError(f"a task is named {name!r} already. Choose another name.")
    if not callable(task):
        family_of(task)
    _tasks[name] = task if callable(task) else lambda: task


def list_models() -> list[str]:
    """Names of all models, ``TASK/VARIANT``, sorted."""
    names = set(_model_loaders())
    for task_name, loader in _task_loaders().items():
        try:
            family = family_of(loader())
        except MTDLensError as error:
            warnings.warn(f"task {task_name!r} is left out: {error}", stacklevel=2)
            continue
        names |= {f"{task_name}/{variant}" for variant in family.variants()}
    return sorted(names)


def load_model(
    name: str = DEFAULT_MODEL,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> Any:
    """The HookedTransformer of that name, in evaluation mode; ``task_of(model)`` is its task.

    Args:
        name: ``TASK/VARIANT``; see ``list_models``.
        device: Default: the CPU.
        dtype: Default: float32 for analytic models, as registered for others.

    Raises:
        UnknownNameError: Nothing is registered under ``name``; the message lists the nearest names.
        ArgumentError: A device or dtype that does not exist here.
    """
    target = _checked_device(device)
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ArgumentError(f"dtype must be a floating-point torch dtype; got {dtype!r}.")
    loaders = _model_loaders()
    task_name, _, variant = str(name).partition("/")
    known_task = task_name in _task_loaders()
    variants: Mapping[str, Callable[..., Any]] = {}
    task = None
    if known_task:
        task = load_task(task_name)
        variants = family_of(task).variants()
    if name in loaders:
        model = loaders[name]()
        model = model if dtype is None else model.to(dtype, print_details=False)
    elif variant in variants:
        model = variants[variant](task, dtype or torch.float32)
    else:
        raise UnknownNameError(
            f"no model is named {name!r}. {nearest(name, list_models())} list_models() lists all."
        )
    if target is not None:
        model = model.to(target, print_details=False)
    return _knowing(model, name, task).eval()


def register_model(name: str, loader: Callable[[], Any]) -> None:
    """Make a model loadable by name.

    Args:
        name: ``TASK/VARIANT``, where TASK is a known task; not taken yet.
        loader: Called without arguments when the model is loaded; returns a HookedTransformer.

    Raises:
        ArgumentError: The name is taken or of another form, or ``loader`` is not callable.
        UnknownNameError: The task is not known.
    """
    task_name, slash, variant = str(name).partition("/")
    if not slash or not variant:
        raise ArgumentError(
            f"a model's name must be TASK/VARIANT, such as '{DEFAULT_TASK}/mine'; got {name!r}."
        )
    load_task(task_name)
    if name in list_models():
        raise ArgumentError(f"a model is named {name!r} already. Choose another name.")
    if not callable(loader):
        raise ArgumentError(
            f"loader must be a function without arguments that returns the model; got "
            f"{type(loader).__name__}. Wrap the model: lambda: model."
        )
    _models[name] = loader


def _knowing(model: Any, name: str, task: Any) -> Any:
    """``model``, knowing its name and task."""
    from mtd_lens.hooked import ModelInfo, info_of, with_info

    info = info_of(model)
    return with_info(model, replace(info, name=name) if info else ModelInfo(task, name))


def _task_loaders() -> dict[str, Callable[[], Any]]:
    loaders: dict[str, Callable[[], Any]] = {}
    for family in list_families().values():
        loaders |= family.presets()
    return loaders | _entry_points("mtd_lens.tasks", Task) | _tasks


def _model_loaders() -> dict[str, Callable[[], Any]]:
    return _entry_points("mtd_lens.models", None) | _models


def _entry_points(group: str, contract: Any) -> dict[str, Callable[[], Any]]:
    """Loaders that other packages offer; each package is imported only when its entry is used."""

    def loader(entry: metadata.EntryPoint) -> Any:
        try:
            found = entry.load()()
        except MTDLensError:
            raise
        except Exception as error:
            raise ArgumentError(
                f"the entry point {entry.name!r} in group {group!r} ({entry.value}) failed: "
                f"{error}. Mend or uninstall the package that offers it."
            ) from error
        if contract is not None and not isinstance(found, contract):
            raise ArgumentError(
                f"the entry point {entry.name!r} in group {group!r} ({entry.value}) returned "
                f"{type(found).__name__}, which is not what the group is for."
            )
        return found

    return {
        entry.name: functools.partial(loader, entry) for entry in metadata.entry_points(group=group)
    }


def _checked_device(device: str | torch.device | None) -> torch.device | None:
    if device is None:
        return None
    try:
        checked = torch.device(device)
        torch.empty(0, device=checked)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ArgumentError(
            f"device {device!r} cannot be used here: {str(error).splitlines()[0]} "
            "Use 'cpu', or a device that torch sees."
        ) from error
    return checked
