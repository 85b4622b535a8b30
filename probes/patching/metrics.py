"""Metrics: functions of the caller's, from logits to one value a sequence."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from probes import checks
from probes.errors import DataError, shown

Metric = Callable[[Tensor], Any]
"""From logits to one value a sequence: a tensor, an array or a list; a number for one sequence."""

_OF_SHAPE = re.compile(r"\b(shapes?|sizes?|dim(ension)?s?|axis|axes|indices)\b", re.IGNORECASE)
"""What torch's and NumPy's errors speak of where a metric takes logits for others than they are."""


def metric_name(metric: Metric) -> str:
    """As grids have it; a lambda has none of its own."""
    name = getattr(metric, "__name__", type(metric).__name__)
    return "metric" if name == "<lambda>" else name


def checked_metric(metric: Metric, n: int, *, last_only: bool) -> Callable[[Tensor], Tensor]:
    """``metric``, raising a DataError unless it gives one finite value for each of n sequences.

    Of models in 16 bits it is given logits in float32. Where gradients are on, they flow through.

    Args:
        metric: The caller's.
        n: Sequences.
        last_only: Whether it is given the last position's logits alone.

    Raises:
        DataError: No function, or one whose name cannot be shown; when it is called, an index or a
            shape that the logits do not have, or values of another kind.
    """
    checks.function(metric, "metric", DataError)
    checks.text(metric_name(metric), "the metric's name", DataError)

    def measure(outputs: Tensor) -> Tensor:
        half = outputs.dtype not in (torch.float32, torch.float64)
        own = outputs.float() if half else outputs.clone()  # which it may edit in place
        found = _called(metric, own, last_only)
        value = _as_tensor(found, n)
        if value is None or value.shape != (n,) or not value.isfinite().all():
            got = "NaN or infinity" if value is not None and value.shape == (n,) else shown(found)
            raise DataError(
                f"the metric must return one finite value for each of the {n} sequences; got "
                f"{got} from {_given(outputs, last_only)}. Leave out a final mean()."
            )
        value = value if torch.is_grad_enabled() else value.detach()
        # a copy, since it may be the same tensor at every call
        return value.clone() if value.is_floating_point() else value.double()

    return measure


def _called(metric: Metric, outputs: Tensor, last_only: bool) -> Any:
    try:
        return metric(outputs)
    except (IndexError, RuntimeError, TypeError, ValueError) as error:
        of_numpy = "numpy()" in str(error) or "convert cuda" in str(error)
        if of_numpy or isinstance(error, IndexError) or _OF_SHAPE.search(str(error)):
            advice = (
                "Use torch alone where gradients are asked for, and elsewhere logits.cpu().numpy()."
                if of_numpy
                else "Pass logits='all' for a metric of [sequence, position, token], or index "
                "tokens alone."
                if last_only
                else "Index [sequence, position, token]."
            )
            raise DataError(
                f"the metric {metric_name(metric)!r} failed on {_given(outputs, last_only)}: "
                f"{type(error).__name__}: {error}. {advice}"
            ) from error
        raise


def _given(outputs: Tensor, last_only: bool) -> str:
    where = "the last position alone" if last_only else "every position"
    axes = "[sequence, token]" if last_only else "[sequence, position, token]"
    return f"logits at {where}, {axes}, of shape {tuple(outputs.shape)}"


def _as_tensor(value: Any, n: int) -> Tensor | None:
    """A metric's value as a tensor of real numbers, of one axis; None for what is none."""
    if not isinstance(value, Tensor):
        try:
            value = torch.from_numpy(np.array(value, dtype=np.float64))
        except (TypeError, ValueError):
            return None
    if value.is_complex():
        return None
    return value[None] if n == 1 and value.ndim == 0 else value
