"""Names for families, tasks and models.

A family is a folder of ``mtd_lens.families`` whose ``FAMILY`` is a record of it, or is registered.
A model's name is ``TASK/VARIANT``. Variants of a family exist for all of its tasks, or for those
that it says; further models are registered one by one. Other packages offer theirs through the
entry-point groups ``mtd_lens.families``, ``mtd_lens.tasks`` and ``mtd_lens.models``: an entry is a
family's record, or a callable that returns a family, a task or a model; a model's entry is named
``TASK/VARIANT``. Wherever a name is taken, so is the path of what was written: of a model its
checkpoint's folder or its training run's, of a task its JSON file.
"""

import copy
import functools
import importlib
import os
import pkgutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from mtd_lens import checkpoints, families, hooked
from mtd_lens.contracts import Family, Task
from mtd_lens.errors import (
    ArgumentError,
    CheckpointError,
    ProbesError,
    UnknownNameError,
    nearest,
    unknown_model,
    unknown_task,
)
from mtd_lens.hooked import ModelInfo, info_of, moved, with_info
from mtd_lens.loaders import called, checked_device, offered as offered_in
from mtd_lens.spaces import check_model
from probes import checks, files
from probes.errors import InputPathError
from probes.memory import within_memory
from probes.progress import tell
from probes.subject import HookedModel

DEFAULT_TASK = "mtd-q5-m3-t64"
DEFAULT_MODEL = f"{DEFAULT_TASK}/constructed-absolute"

_families: dict[str, Family] = {}
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


@functools.cache
def _shipped_in(paths: tuple[str, ...]) -> dict[str, Path]:
    """Checkpoints that families ship, ``models/TASK/VARIANT`` in a family's folder, by name."""
    return {
        f"{manifest.parent.parent.name}/{manifest.parent.name}": manifest.parent
        for path in paths
        for manifest in sorted(Path(path).glob(f"*/models/*/*/{checkpoints.MANIFEST}"))
    }


def shipped_checkpoints() -> dict[str, Path]:
    """Folders of the trained models that are part of the package, by registry name."""
    return dict(_shipped_in(tuple(families.__path__)))


def list_families() -> dict[str, Family]:
    """Every task family, by name: those of the package, registered ones, and other packages'."""
    offered = {}
    for name, loader in offered_in("mtd_lens.families").items():
        try:
            family = called(loader, f"family {name!r}", Family)
        except ProbesError as error:
            warnings.warn(f"family {name!r} is left out: {error}", stacklevel=2)
            continue
        offered[family.name] = family
    return offered | _families | _families_in(tuple(families.__path__))


def register_family(family: Family) -> None:
    """Make a family known, and with it its named tasks and their models.

    Args:
        family: A record of it; its name is not taken yet.

    Raises:
        ArgumentError: No record of a family, or a name that is taken.
    """
    if not isinstance(family, Family):
        raise ArgumentError(
            f"register_family takes a mtd_lens.contracts.Family; got {type(family).__name__}."
        )
    if family.name in list_families():
        raise ArgumentError(f"a family is named {family.name!r} already. Choose another name.")
    _families[family.name] = family


def family_of(task: Task) -> Family:
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
    """The names of all tasks, sorted.

    Examples:
        >>> import mtd_lens
        >>> [name for name in mtd_lens.list_tasks() if name.startswith("mtd-")]
        ['mtd-q10-m5-t192', 'mtd-q3-m2-t32', 'mtd-q5-m3-t32', 'mtd-q5-m3-t64']
    """
    return sorted(_task_loaders())


def load_task(name: str | os.PathLike[str]) -> Any:
    """The task of that name, or the one that a JSON file describes.

    Args:
        name: As ``list_tasks`` has it, or the path of a file that holds what a task's ``to_json``
            returned. A name goes before a file that is called the same: write ``./NAME`` for that.

    Returns:
        The task, which has that name; one of a file has its own, or else the file's without its
        ending.

    Raises:
        UnknownNameError: Neither a name nor a file; the message lists the nearest names.
        CheckpointError: A file that describes no task, or one of a family that is not installed.
        ArgumentError: What registered it is at fault: its loader fails, or returns no task.

    Examples:
        >>> import mtd_lens
        >>> mtd_lens.load_task("mtd-q5-m3-t32")
        MTDTask('mtd-q5-m3-t32', n_tokens=5, order=3, seq_len=32, concentration=1)
    """
    loaders = _task_loaders()
    if isinstance(name, str) and name in loaders:
        return _named(called(loaders[name], f"task {name!r}", Task), name)
    path = _existing(name, os.path.isfile)
    if path is None:
        raise unknown_task(_text(name), loaders)
    try:
        data, where = files.read_json(path)
    except InputPathError as error:
        raise CheckpointError(f"{error} Give the file of a task, or a task's name.") from error
    task = task_from_json(data, where)
    return task if task.name else _named(task, path.stem)


def register_task(name: str, task: Task) -> Any:
    """Make a task loadable by name, and with it the models that its family builds for any task.

    Args:
        name: Without a slash, not taken yet.
        task: The task.

    Returns:
        The task with that name, as ``load_task`` gives it: what is asked of it, or trained on it,
        bears the name.

    Raises:
        ArgumentError: The name is taken, holds a slash or cannot be shown, or ``task`` is no task.
        UnknownNameError: The family of the task is not installed.
    """
    if not isinstance(name, str) or not name or "/" in name:
        raise ArgumentError(f"a task's name must be a string without a slash; got {name!r}.")
    checks.text(name, "a task's name", ArgumentError)
    if name in _task_loaders():
        raise ArgumentError(f"a task is named {name!r} already. Choose another name.")
    named = _named(task, name)
    _tasks[name] = lambda: named
    return named


def list_models() -> list[str]:
    """The names of all models, ``TASK/VARIANT``, sorted."""
    names = set(_model_loaders())
    for task_name, loader in _task_loaders().items():
        try:
            task = called(loader, f"task {task_name!r}", Task)
            variants = family_of(task).variants_of(task)
        except ProbesError as error:
            warnings.warn(f"task {task_name!r} is left out: {error}", stacklevel=2)
            continue
        names |= {f"{task_name}/{variant}" for variant in variants}
    return sorted(names)


def load_model(
    name: str | os.PathLike[str] = DEFAULT_MODEL,
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
) -> HookedModel:
    """The HookedTransformer of that name or folder, in evaluation mode.

    ``task_of(model)`` is its task.

    Args:
        name: ``TASK/VARIANT``, see ``list_models``; or the folder of a checkpoint, exported or not,
            or of a training run, whose last checkpoint is taken. A name goes before a folder that
            is called the same: write ``./NAME`` for that.
        device: Default: the CPU.
        dtype: Default: float32 for analytic models, as registered or trained for others.

    Raises:
        UnknownNameError: Neither a name nor a folder; the message lists the nearest names.
        CheckpointError: A folder without a checkpoint, or with one that cannot be used.
        MemoryLimitError: A checkpoint's model too large for memory.
        ArgumentError: A device or dtype that does not exist here.

    Examples:
        >>> import mtd_lens
        >>> model = mtd_lens.load_model("mtd-q3-m2-t32/constructed-absolute")
        >>> mtd_lens.task_of(model).order
        2
    """
    target = checked_device(device)
    if dtype is not None:
        hooked.check_dtype(dtype)
    loaders = _model_loaders()
    name, given = checks.text(_text(name), "a model's name", UnknownNameError), name
    task_name, _, variant = name.partition("/")
    variants: Mapping[str, Callable[..., Any]] = {}
    task = None
    if task_name in _task_loaders():
        task = load_task(task_name)
        variants = family_of(task).variants_of(task)
    if name in loaders:
        model = copy.deepcopy(called(loaders[name], f"model {name!r}", torch.nn.Module))
        if task is not None:
            check_model(model, task)
        model = moved(model, dtype=dtype)
    elif variant in variants:
        model = variants[variant](task, dtype=dtype or torch.float32)
    elif (path := _existing(given, os.path.isdir)) is not None:
        folder = checkpoints.checkpoint_folder(path)
        if folder != path:
            tell(f"of {path}, its last checkpoint is taken, {folder.name}")
        return moved(load_checkpoint(folder, target), dtype=dtype).eval()
    else:
        raise unknown_model(name, list_models())
    return _knowing(moved(model, target), name, task).eval()


def _text(name: object) -> Any:
    """A path as a text, and all else as it is."""
    return os.fspath(name) if isinstance(name, os.PathLike) else name


def _existing(name: object, is_there: Callable[[Any], bool]) -> Path | None:
    """What was given as a name, as the path of what exists."""
    is_path = isinstance(name, str | os.PathLike) and is_there(name)
    return Path(name) if is_path else None  # type: ignore[arg-type]


def _named(task: Any, name: str) -> Any:
    """The same task with a name; itself where tasks of its family have none.

    Raises:
        ArgumentError: Not a task.
        UnknownNameError: Its family is not installed.
    """
    family = family_of(task)
    if task.name == name:
        return task
    data = task.to_json()
    return family.task_from_json(data | {"name": name}) if "name" in data else task


def task_from_json(data: Mapping[str, Any], where: str) -> Any:
    """The task that a file describes.

    Raises:
        CheckpointError: Its family is not installed, or it describes none.
    """
    name, known = data.get("family"), list_families()
    family = known.get(name) if isinstance(name, str) else None
    if family is None:
        raise CheckpointError(
            f"{where} is of the task family {name!r}, which is not installed. "
            f"{nearest(name, known)}"
        )
    try:
        return family.task_from_json(data)
    except ProbesError as error:
        raise CheckpointError(f"{where} describes no task: {error}") from error


@within_memory("Use a smaller model.")
def load_checkpoint(
    path: str | os.PathLike[str], device: str | torch.device | None = None
) -> HookedModel:
    """The HookedTransformer of a checkpoint, in evaluation mode; nothing is unpickled.

    Args:
        path: A checkpoint's folder, or that of a training run, whose last checkpoint is taken.
        device: Default: the CPU.

    Returns:
        The model, which knows its task (``task_of``).

    Raises:
        CheckpointError: Missing, truncated, tampered with, of another version, or with weights that
            are not those of the architecture that it names.
        MemoryLimitError: A model too large for memory.
        ArgumentError: A device that does not exist here.
    """
    target = checked_device(device)
    folder = checkpoints.checkpoint_folder(path)
    manifest = checkpoints.read_manifest(folder)
    task = task_from_json(manifest["task"], str(folder))
    trained = checkpoints.read_trained(folder, manifest, task)
    *_, run, own = folder.resolve().parts
    within = f"{run}/{own}" if own.startswith(checkpoints.STEP_PREFIX) else own
    label = f"{task.name or task.family}/{within}"
    info = ModelInfo(task, label, redraw=trained.redraw if trained.has_fixed_weights else None)
    model = hooked.assemble(trained.architecture, trained.weights(), info, trained.dtype)
    return moved(model, target)


def register_model(name: str, loader: Callable[[], HookedModel]) -> None:
    """Make a model loadable by name.

    Args:
        name: ``TASK/VARIANT``, where TASK is a known task; not taken yet.
        loader: Called without arguments when the model is loaded; returns a hooked model,
            of which ``load_model`` hands out a copy.

    Raises:
        ArgumentError: The name is taken or of another form, or ``loader`` is not callable.
        UnknownNameError: The task is not known.
    """
    task_name, slash, variant = str(name).partition("/")
    if not slash or not variant:
        raise ArgumentError(
            f"a model's name must be TASK/VARIANT, such as '{DEFAULT_TASK}/mine'; got {name!r}."
        )
    checks.text(name, "a model's name", ArgumentError)
    tasks = _task_loaders()
    if task_name not in tasks:
        raise unknown_task(task_name, tasks)
    if name in list_models():
        raise ArgumentError(f"a model is named {name!r} already. Choose another name.")
    if not callable(loader) or isinstance(loader, torch.nn.Module):
        raise ArgumentError(
            f"loader must be a function without arguments that returns the model; got "
            f"{type(loader).__name__}. Wrap the model: lambda: model."
        )
    _models[name] = loader


def _knowing(model: HookedModel, name: str, task: Task | None) -> HookedModel:
    """``model``, knowing its name and task."""
    info = info_of(model)
    known = replace(info, name=name, task=task or info.task) if info else ModelInfo(task, name)
    return with_info(model, known)


def _task_loaders() -> dict[str, Callable[[], Any]]:
    """Loaders by name; the package's own names cannot be taken by others."""
    presets: dict[str, Callable[[], Any]] = {}
    for family in list_families().values():
        presets |= family.presets
    return offered_in("mtd_lens.tasks") | _tasks | presets


def _model_loaders() -> dict[str, Callable[[], Any]]:
    shipped: dict[str, Callable[[], Any]] = {
        name: functools.partial(load_checkpoint, folder)
        for name, folder in shipped_checkpoints().items()
    }
    return offered_in("mtd_lens.models") | _models | shipped
