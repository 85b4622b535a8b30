"""The error tree: every refusal of bad input is a :class:`ProbesError`.

Those of this package are :class:`MTDLensError` s as well; the instruments, which it calls, raise
their own.
"""

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
    "shown",
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


class ModelError(MTDLensError):
    """A model that does not fit the task, or that cannot do what is asked of it."""


class CheckpointError(MTDLensError):
    """A checkpoint that is missing, damaged, or of something else than what was asked for."""


class TrainingError(MTDLensError):
    """Training that cannot start, go on, or be resumed."""
