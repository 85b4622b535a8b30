"""What a family declares so that an algorithm can be read off a model: how sums of evidence fit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from mtd_lens.claims import Record
from mtd_lens.errors import ArgumentError
from probes import checks


@dataclass(frozen=True)
class Additive(Record):
    """How sums of evidence, of which a family's algorithms are special cases, are fitted to models.

    Their causal models have a ``table``, ``position_weights`` from the query's own on, and as their
    first two variables the evidence and its total. Without any, where the total is 0, they predict
    as without a context.

    Attributes:
        sizes: ``task -> by form of a table, how many numbers are fitted``: the most general form
            first, each a special case of the one before.
        check: ``(task, form) -> form``: it refuses a form that there is not, or whose table is too
            large, before any model is run.
        fit: ``(task, form, tokens, predictions) -> causal model``: that of least
            ``D(predictions ‖ causal model)`` after ``tokens``.
        restore: ``(task, table, position weights) -> causal model``: the one that was fitted.
        algorithm: ``causal model -> algorithm``: what models are held against with it.
        rules: ``(task, tokens) -> by name, [sequence, evidence, lag]``: evidence as known
            algorithms have it, up to a constant over lags, which a fitted table is held beside.

    Raises:
        ArgumentError: One of them is no function.
    """

    sizes: Callable[[Any], Mapping[str, int]]
    check: Callable[[Any, str], str]
    fit: Callable[[Any, str, Tensor, Tensor], Any]
    restore: Callable[[Any, Tensor, Tensor], Any]
    algorithm: Callable[[Any], Any]
    rules: Callable[[Any, Tensor], Mapping[str, Tensor]]

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("sizes", "check", "fit", "restore", "algorithm", "rules"):
            checks.function(getattr(self, name), name, ArgumentError)
