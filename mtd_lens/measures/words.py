"""Hooks and places of a test, in words."""

from collections.abc import Callable, Sequence

from torch import Tensor

from mtd_lens.trial import Trial
from probes.sites import suffix_of
from probes.subject import Subject, subject_of


def last_write(subject: Subject) -> str:
    """The hook of what each block writes last: its MLP's output, or its heads' without one."""
    return "hook_mlp_out" if subject.has_mlp else "hook_attn_out"


def hook_of(hook: str | Callable[[Subject], str], trial: Trial) -> str:
    """A hook within a block, by any of its names, or what a function of the model names.

    Raises:
        SiteError: A full name, which is of one block.
    """
    return suffix_of(hook if isinstance(hook, str) else hook(subject_of(trial.model)))


def where(positions: Sequence[int] | None) -> str:
    """Positions in words."""
    if not positions:
        return "every position"
    several = f"positions {positions[0]} to {positions[-1]}"
    return several if len(positions) > 1 else f"position {positions[0]}"


def heads_in_words(heads: Tensor) -> str:
    """Heads ``[query]`` in words."""
    distinct = heads.unique().tolist()
    several = f"heads {', '.join(map(str, distinct))} by query position"
    return several if len(distinct) > 1 else f"head {distinct[0]}"
