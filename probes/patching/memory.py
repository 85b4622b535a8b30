"""Verdicts on a model that hold as long as the model is what it was.

A trial before a grid is a pure function of the model, of the few tokens it runs on and of the edits
it tries. Its verdict is remembered under all of these, the tokens among them; of the model, every
parameter and buffer by a checksum of its contents (and dtype, shape and device), every module with
its class and mode, the attributes of classes and modules, and the configuration. Contents are read
anew at each call, so that no edit goes unseen, be it made through ``.data`` or under ``no_grad``.
Attributes that are no plain data are told by which object they are.

A model whose behaviour cannot be told in this way is tried each time: one with hooks of any kind,
with a method replaced on a module rather than on its class, with attributes that cannot be referred
to weakly, or away from the CPU, where reading all weights may cost more than the trial. What
modules call outside themselves, as global functions, and what closures hold, is not seen.
"""

import zlib
from collections.abc import Callable, Hashable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

Verdict = TypeVar("Verdict")

MOST_VERDICTS = 32
"""Of one state of a model; with more they are all forgotten."""

_known: WeakKeyDictionary[nn.Module, tuple[Hashable, dict[Hashable, Any]]] = WeakKeyDictionary()

_HOOKS = (
    "_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks",
    "fwd_hooks", "bwd_hooks",
)  # fmt: skip
"""Of torch's modules, and of TransformerLens's hook points."""

_PLAIN = frozenset({type(None), bool, int, float, str, bytes, torch.dtype, torch.device})
_OF_EVERY_MODULE = frozenset(vars(nn.Module())) - {"training"}


class _UnknownError(Exception):
    """Something cannot be told by its contents."""


def remembered(model: object, trial: Hashable, find: Callable[[], Verdict]) -> Verdict:
    """What ``find`` returned for the same trial of the same model in the same state, or returns.

    Args:
        model: A model; only weak references to it and to its parts are kept.
        trial: What the verdict depends on beside the model.
        find: Finds the verdict; what it raises is not remembered.
    """
    state = state_of(model)
    if state is None or not isinstance(model, nn.Module):
        return find()
    before, verdicts = _known.get(model, (None, {}))
    if before != state or len(verdicts) >= MOST_VERDICTS:
        verdicts = {}
    if trial not in verdicts:
        verdicts[trial] = find()
    _known[model] = (state, verdicts)
    return verdicts[trial]


def state_of(model: object) -> Hashable | None:
    """All that a model's runs depend on; None if that cannot be told."""
    if not isinstance(model, nn.Module) or any(map(len, _global_hooks())):
        return None
    shared: dict[int, Any] = {}
    try:
        modules = _module(model, shared)
        told = (_class(x) if isinstance(x, type) else _frozen(vars(x)) for x in shared.values())
        return modules, tuple(told), _process()
    except (_UnknownError, TypeError):
        return None


def fingerprint(tensor: Tensor) -> Hashable:
    """A tensor's contents, shape and kind."""
    flat = tensor.detach().cpu().contiguous().view(-1)
    contents: Any = flat.view(torch.uint8).numpy()
    kind = (tensor.dtype, tensor.device, tuple(tensor.shape), tensor.stride())
    return *kind, zlib.crc32(contents)


def _module(module: nn.Module | None, shared: dict[int, Any]) -> Hashable:
    """A module with those in it; their classes and configurations go to ``shared``, by identity."""
    if module is None:
        return None
    own, kind = vars(module), type(module)
    attributes = [(name, value) for name, value in own.items() if name not in _OF_EVERY_MODULE]
    tensors = [*own["_parameters"].items(), *own["_buffers"].items()]
    replaced = any(callable(value) and hasattr(kind, name) for name, value in attributes)
    away = any(tensor is not None and tensor.device.type != "cpu" for _, tensor in tensors)
    if replaced or away or any(own.get(name) for name in _HOOKS):
        raise _UnknownError
    shared[id(kind)] = kind
    if "cfg" in own:
        shared[id(own["cfg"])] = own["cfg"]
    return (
        _Same(kind),
        tuple((name, _frozen(tensor)) for name, tensor in tensors),
        tuple((name, _frozen(value)) for name, value in attributes),
        tuple((name, _module(inner, shared)) for name, inner in own["_modules"].items()),
    )


def _class(kind: type) -> Hashable:
    """A class with all that it and its bases define, down to torch's own."""
    own = [base for base in kind.__mro__ if base not in nn.Module.__mro__]
    return _Same(kind), tuple(
        (name, _frozen(value))
        for base in own
        for name, value in vars(base).items()
        if callable(value) or not name.startswith(("__", "_abc_"))
    )


def _frozen(value: object) -> Hashable:
    """A value by its contents where it is plain, else by which object it is."""
    if type(value) in _PLAIN or isinstance(value, float):  # floats of NumPy's too
        return type(value), value
    if isinstance(value, Tensor):
        return fingerprint(value)
    if isinstance(value, list | tuple | set | frozenset):
        return type(value), tuple(map(_frozen, value))
    if isinstance(value, dict):
        return tuple((_frozen(key), _frozen(entry)) for key, entry in value.items())
    if isinstance(value, staticmethod | classmethod):
        return type(value), _frozen(value.__func__)
    if isinstance(value, property):
        return tuple(map(_frozen, (value.fget, value.fset, value.fdel)))
    return _Same(value)


class _Same:
    """Equal to another of the same object while that lives; the object is not kept alive."""

    __slots__ = ("_hash", "_thing")

    def __init__(self, thing: object) -> None:
        self._thing, self._hash = ref(thing), id(thing)

    def __eq__(self, other: object) -> bool:
        thing = self._thing()
        return isinstance(other, _Same) and thing is not None and thing is other._thing()

    def __hash__(self) -> int:
        return self._hash


def _process() -> Hashable:
    """Settings of the process that change arithmetic."""
    return (
        torch.is_autocast_enabled("cpu"),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_float32_matmul_precision(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
    )


def _global_hooks() -> list[dict[int, Any]]:
    names = ("forward_hooks", "forward_pre_hooks", "backward_hooks", "backward_pre_hooks")
    return [getattr(torch_module, f"_global_{name}", {}) for name in names]
