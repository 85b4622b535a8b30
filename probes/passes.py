"""Forward passes that depend on the model and its input alone.

What an instrument computes must not change with what the caller's process is doing at the time:
another thread that adds hooks to the same model, autocast, or inference mode.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from threading import Lock, RLock
from typing import Any, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import torch

from probes.subject import check_runs, subject_of
from probes.twins import stand_in

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_locks: "WeakKeyDictionary[Any, Any]" = WeakKeyDictionary()
_making = Lock()


@contextmanager
def undisturbed(model: object) -> Iterator[None]:
    """A context in which a model's passes are exact, and this thread's alone.

    Other threads that enter it with the same model wait, so that no hook of theirs acts here;
    the same thread may enter again. Autocast and inference mode are off. Functions of the caller's
    run within it too: one that waits for another thread that needs the same model waits for ever.

    Args:
        model: A hooked model.

    Raises:
        DataError: It is none, it is compiled, or its passes differ by chance.
    """
    hooked = subject_of(model).underlying
    with _making:
        lock = _locks.setdefault(hooked, RLock())
    with lock, own_modes():
        check_runs(model)
        yield


@contextmanager
def own_modes() -> Iterator[None]:
    """A context without the caller's inference mode and autocast; gradients stay as they are."""
    with_gradients = torch.is_grad_enabled()
    with ExitStack() as off:
        off.enter_context(torch.inference_mode(False))
        off.enter_context(torch.set_grad_enabled(with_gradients))
        for kind in ("cpu", "cuda", "mps", "xpu"):
            if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
                off.enter_context(torch.autocast(kind, enabled=False))
        yield


def alone(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A function of a model, its first argument, that runs in :func:`undisturbed`.

    It runs on the model's exact twin where there is one; see :mod:`probes.twins`.

    Args:
        function: The function.
    """

    @wraps(function)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        model: Any = args[0] if args else kwargs.get("model")
        with undisturbed(model):
            twin = stand_in(model)
            if twin is model:
                return function(*args, **kwargs)
            given: Any = ((twin, *args[1:]), kwargs) if args else ((), kwargs | {"model": twin})
            return function(*given[0], **given[1])

    return run
