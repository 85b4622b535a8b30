"""What would a model be that runs a task's algorithm exactly?"""

import inspect
from collections.abc import Mapping
from typing import Any

from mtd_lens.contracts import Family, Task
from mtd_lens.errors import ArgumentError
from mtd_lens.registry import family_of, load_task
from probes.subject import HookedModel


def construct(task: Task | str, *args: Any, **options: Any) -> HookedModel:
    """A HookedTransformer whose weights are written so that it runs an algorithm of its task.

    Each family builds its own, with options of its own.

    Mixtures (D'Angelo & Flammarion 2026, Proposition 3) have, in this order, ``beta``, β = η m n of
    the step, fitted to the task if left out; ``form``, ``"absolute"`` in stock modules with
    ``order`` heads, ``"relative"`` in relative tables with one, or ``"gated"`` in a code of the
    query's own tokens; ``read_out``, ``"log_probs"`` or the paper's linear ``"probs"``; ``dtype``;
    and by name ``algorithm``, of which all but ``"one-step"`` have neither β nor another form. For
    n-grams see ``construct_ngram``, for vectors ``construct_autoregressive``, whose options are
    those.

    Args:
        task: Whose algorithm the weights hold, or its name.
        *args: Options of the family's construction, in order.
        **options: Options by name, such as ``algorithm="posterior"``.

    Returns:
        A HookedTransformer on the CPU, in evaluation mode. It predicts wherever the algorithm does.

    Raises:
        ArgumentError: Not a task, a family without a construction, or an option that its
            construction does not have or that cannot be used.
        UnknownNameError: No task has that name, or its family is not installed.

    Examples:
        >>> import mtd_lens
        >>> task = mtd_lens.MTDTask([[0.9, 0.1], [0.4, 0.6]], order=2, seq_len=8)
        >>> model = mtd_lens.construct(task, beta=4.0)
        >>> model(task.sample(3, seed=0).tokens).shape
        torch.Size([3, 8, 2])
        >>> model = mtd_lens.construct("ngram-q3-s12-t32", algorithm="exact-bayes")
    """
    known = load_task(task) if isinstance(task, str) else task
    family = family_of(known)
    if family.construct is None:
        raise ArgumentError(
            f"the family {family.name!r} has no construction. Choose a task of another, or give "
            "the family's record one (mtd_lens.contracts.Family.construct)."
        )
    _check_options(family, known, args, options)
    return family.construct(known, *args, **options)


def _check_options(
    family: Family, task: Task, args: tuple[Any, ...], options: Mapping[str, Any]
) -> None:
    """Raise an ArgumentError for what a family's construction does not take."""
    assert family.construct is not None
    taken = inspect.signature(family.construct)
    try:
        taken.bind(task, *args, **options)
    except TypeError as error:
        names = ", ".join(list(taken.parameters)[1:])
        raise ArgumentError(
            f"the construction of the family {family.name!r} cannot be asked so: {error}. It takes "
            f"a task and {names}."
        ) from error
