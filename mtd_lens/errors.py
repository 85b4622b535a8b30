"""The error tree: every refusal of bad input is a :class:`ProbesError`.

Those of this package are :class:`MTDLensError` s as well; the instruments, which it calls, raise
their own.
"""

import os
from collections.abc import Iterable

from probes.errors import (
    DataError,
    MemoryLimitError,
    OutputPathError,
    ProbesError,
    SiteError,
    nearest,
    shown,
)

__all__ = [
    "ArgumentError",
    "CheckpointError",
    "DataError",
    "MTDLensError",
    "MemoryLimitError",
    "ModelError",
    "OutputPathError",
    "ProbesError",
    "SiteError",
    "TaskError",
    "TokensError",
    "TrainingError",
    "UnknownNameError",
    "nearest",
    "no_additive_form",
    "shown",
    "unknown_model",
    "unknown_task",
]


class MTDLensError(ProbesError):
    """Bad input: the message says what was expected, what came, where, and what to do."""


class TaskError(MTDLensError):
    """A task that cannot be: a transition that is not stochastic, an order out of range, …"""


class TokensError(MTDLensError):
    """Token sequences that a task or model cannot take."""


class ArgumentError(MTDLensError):
    """Any other argument out of its range."""


class UnknownNameError(MTDLensError):
    """A name that nothing is registered under."""


def unknown_model(name: str, known: Iterable[str]) -> UnknownNameError:
    """The error of a model that is of none of the known names, and no folder."""
    there = "nor is there such a folder."
    if os.path.isfile(name):
        there = (
            "and this is a file; a model is the folder of a checkpoint. Of a task's JSON file "
            "train one first: `mtd-lens train FILE --out DIR`."
        )
    return UnknownNameError(
        f"no model is named {shown(name)}, {there} {nearest(name, known)} "
        "list_models() or `mtd-lens models` lists all; the folder of a training run or of a "
        "checkpoint is taken as well."
    )


def unknown_task(name: object, known: Iterable[str]) -> UnknownNameError:
    """The error of a task that is of none of the known names, and no file."""
    is_folder = isinstance(name, str) and os.path.isdir(name)
    there = "and this is a folder" if is_folder else "nor is there such a file"
    return UnknownNameError(
        f"no task is named {shown(name)}, {there}. {nearest(name, known)} "
        "list_tasks() or `mtd-lens tasks` lists all; a task's JSON file is taken as well."
    )


class ModelError(MTDLensError):
    """A model that does not fit the task, or that cannot do what is asked of it."""


def no_additive_form(family: str) -> ModelError:
    """The error of a model to which no table of evidence could be fitted."""
    return ModelError(
        f"the family {family!r} has no additive form that could be fitted. Choose a model on a "
        "task of another, such as mtd-q5-m3-t32/trained-gpt-3l-s0."
    )


class CheckpointError(MTDLensError):
    """A checkpoint that is missing, damaged, or of something else than what was asked for."""


class TrainingError(MTDLensError):
    """Training that cannot start, go on, or be resumed."""
