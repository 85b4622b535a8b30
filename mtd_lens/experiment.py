"""A model, its task, the algorithm fitted to it, and all that is computed of them, once.

Every question starts from an :class:`Experiment`, which has checked its arguments. What depends on
the algorithm and the sequences alone (its variables, pairs, targets and decoys) is computed once
for the model, the null and the ceiling; what a test reads of one of them, in one pass.
"""

import functools
import inspect
import os
import platform
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import metadata
from typing import Any, ParamSpec, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from mtd_lens import hooked
from mtd_lens.contracts import Algorithm, CausalModel, Family, Task
from mtd_lens.defaults import MAX_SEED, MIN_SEQUENCES
from mtd_lens.errors import ArgumentError, ModelError, shown
from mtd_lens.hooked import info_of, task_of
from mtd_lens.registry import family_of, load_task
from mtd_lens.spaces import check_model, last_predictions
from mtd_lens.trial import Memo, Trial
from mtd_lens.vocabulary import Translated, Vocabulary, translated
from probes import checks
from probes.memory import check_memory, within_memory
from probes.passes import own_modes
from probes.progress import shown as progress_shown
from probes.subject import HookedModel, check_runs, subject_of
from probes.twins import stand_in, through

Parameters = ParamSpec("Parameters")
Answer = TypeVar("Answer")

FEWER_SEQUENCES = "Use fewer: lower n_sequences (--sequences)."

BYTES_A_POSITION = 16
"""To draw it: two integers and a uniform number, or a vector."""

NULL_SEED = 1_000_003
"""Seed of the null's weights, far from the seeds that the registry's random models use."""


def asked(question: Callable[Parameters, Answer]) -> Callable[Parameters, Answer]:
    """A question whose answer does not depend on the caller's inference mode or autocast.

    Where memory runs out it says what to lower. Its argument ``progress``, if it has one, is seen
    to here: see :func:`probes.progress.shown`.

    Both are switched off within, and gradients on: some estimators are fitted by them, and figures
    are those of the model's own dtype.
    """

    shows = "progress" in inspect.signature(question).parameters

    @functools.wraps(question)
    def answered(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Answer:
        wanted: Any = kwargs.get("progress")
        with ExitStack() as stack:
            if shows:
                stack.enter_context(progress_shown(question.__name__, wanted, ArgumentError))
            stack.enter_context(own_modes())
            stack.enter_context(torch.enable_grad())
            stack.enter_context(within_memory(FEWER_SEQUENCES))
            return question(*args, **kwargs)

    return answered


@dataclass(frozen=True, eq=False)
class Experiment:
    """What every question starts from; :meth:`of` checks it all before any work.

    Attributes:
        model: The model under test, or its exact twin where it has one; see :mod:`probes.twins`.
        task: What it is tested on.
        family: Of the task.
        algorithm: What the model is held against.
        seed: Of the sequences, pairs, controls and resampling.
        name: What results call the model.
        fit_tokens: ``[sequence, position]``: for fitting and for every choice; empty until drawn.
        tokens: ``[sequence, position]``: for scores alone; empty until drawn.
        memo: What is computed of them.
    """

    model: HookedModel
    task: Any
    family: Family
    algorithm: Algorithm
    seed: int
    name: str
    fit_tokens: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    tokens: Tensor = field(default_factory=lambda: torch.empty(0, 0))
    memo: Memo = field(default_factory=Memo, repr=False)

    @classmethod
    def of(
        cls,
        model: HookedModel,
        task: Task | str | os.PathLike[str] | None,
        seed: int,
        *,
        name: str | None = None,
        vocabulary: Vocabulary | None = None,
        algorithm: str | Algorithm | None = None,
    ) -> "Experiment":
        """The experiment, after every check of its arguments.

        Args:
            model: The model under test.
            task: What it is tested on, its name, or its JSON file; by default the task that the
                model knows.
            seed: Of everything random.
            name: What results call the model; by default its own.
            vocabulary: Which of the model's ids stand for the task's tokens, if they are not the
                same; the experiment's model is then one of the task's tokens.
            algorithm: What the model is held against, by its id, or one of the caller's own; the
                family's first by default.

        Raises:
            ArgumentError: A seed that cannot be used, a name that cannot be shown, a vocabulary
                that does not fit, or an algorithm that the family does not have.
            ModelError: The model does not fit the task, or no task is known.
            DataError: It is in training mode, with dropout, or compiled.
        """
        seed = checks.integer(seed, "seed", 0, ArgumentError, MAX_SEED)
        name = None if name is None else checks.text(name, "name", ArgumentError)
        if not isinstance(model, torch.nn.Module):
            example = shown(model) if isinstance(model, str) else "NAME"
            raise ModelError(f"expected a model; got {shown(model)}. Use load_model({example}).")
        named = load_task(task) if isinstance(task, str | os.PathLike) else task
        tested: Task = task_of(model) if named is None else named
        family = family_of(tested)
        chosen = family.algorithm(algorithm)
        check_runs(model)
        model = translated(stand_in(model), tested, vocabulary)
        check_model(model, tested)
        name = checks.text(name or name_of(model), "the model's name", ArgumentError)
        checks.texts((tested.name, tested.inputs.names), "a name of the task", ArgumentError)
        return cls(model, tested, family, chosen, seed, name)

    def drawn(self, n_sequences: int) -> "Experiment":
        """The same with sequences: half for fits and choices, half for scores.

        Args:
            n_sequences: How many, at least 64.

        Raises:
            ArgumentError: Too few sequences.
            MemoryLimitError: More than there is memory for.
        """
        n_sequences = check_sampling(n_sequences)
        check_room(n_sequences, self.task.seq_len)
        tokens = self.task.sample(n_sequences, self.seed).tokens.to(self.device)
        return replace(
            self, fit_tokens=tokens[: n_sequences // 2], tokens=tokens[n_sequences // 2 :]
        )

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return subject_of(self.model).device

    @cached_property
    def causal_model(self) -> CausalModel:
        """The algorithm with the parameters that the model's predictions follow."""
        tokens, outputs = self.fit_tokens, self.task.outputs
        predicted = last_predictions(self.model, tokens, outputs)
        fitted = self.algorithm.fit(self.task, tokens, predicted)
        for names in (fitted.variables, fitted.parameters):
            checks.texts(names, "a name of the causal model", ArgumentError)
        return fitted

    def trial(self, model: HookedModel | None = None) -> Trial:
        """The model, or another one in its place, with everything a claim may look at.

        Args:
            model: A null, or a ceiling, of which the best layer alone is measured; the model under
                test if None.
        """
        return Trial(
            self.model if model is None else model,
            self.task,
            self.causal_model,
            self.fit_tokens,
            self.tokens,
            self.seed,
            self.algorithm,
            model is None,
            self.memo,
        )

    def null(self, seed: int | None = None, over: HookedModel | None = None) -> HookedModel:
        """A model of the same architecture with random weights.

        Args:
            seed: Of the weights; by default one that is far from the experiment's own.
            over: A null that is done with, whose weights may be drawn anew in place of a copy's.

        Raises:
            ArgumentError: A seed that cannot be used.
            DataError: Something else than a model to draw over.
        """
        seed = NULL_SEED + self.seed if seed is None else checks.seed(seed, ArgumentError)
        over = None if over is None else subject_of(over).underlying
        model = subject_of(self.model).underlying
        if self.family.null is not None:
            drawn = self.family.null(model, self.task, seed)
        else:
            own = self.model.own if isinstance(self.model, Translated) else None
            drawn = hooked.randomized(model, seed, "null", over, own)
        return translated(drawn, self.task, self.vocabulary)

    @property
    def vocabulary(self) -> Vocabulary | None:
        """What stands for the task's tokens in the model; None where they are its own."""
        return self.model.vocabulary if isinstance(self.model, Translated) else None

    @property
    def outside_mass(self) -> float | None:
        """Mean probability, after the sequences for scores, of none of the vocabulary's ids."""
        if not isinstance(self.model, Translated):
            return None
        return float(self.model.outside(self.tokens).mean())

    def ceiling(self) -> HookedModel | None:
        """A model that computes the algorithm exactly, on the same device, if one is known."""
        if self.algorithm.construct is None:
            return None
        built = self.algorithm.construct(self.task, self.causal_model)
        return hooked.moved(built, self.device)

    @property
    def head(self) -> dict[str, Any]:
        """The fields that every result begins with; parameters where sequences were drawn."""
        return {
            "model": self.name,
            "task": self.task.name or self.task.to_json(),
            "seed": self.seed,
            "n_sequences": len(self.fit_tokens) + len(self.tokens),
            "parameters": self.causal_model.parameters if len(self.fit_tokens) else {},
            "divergence": self.task.outputs.unit,
            "versions": versions(),
            "through": through(self.model),
        }


@asked
def model_predictions(
    model: HookedModel,
    tokens: Tensor,
    task: Task | None = None,
    *,
    vocabulary: Vocabulary | None = None,
) -> Float[Tensor, "sequence outcome"]:
    """What a model predicts after the last position, whatever its read-out.

    Args:
        model: A hooked model.
        tokens: ``[sequence, position]``.
        task: Whose tokens they are; by default the task that the model knows.
        vocabulary: Which of the model's ids stand for the task's tokens, if they are not the same.

    Returns:
        ``[sequence, outcome]``, float64: distributions over the tokens, or vectors.

    Raises:
        ArgumentError: A vocabulary that does not fit the task or the model.
        TokensError: Tokens that do not fit the task, or longer than the model's context.
        ModelError: The model's output is not finite, or no task is known.
    """
    known: Any = task_of(model) if task is None else task
    model = translated(model, known, vocabulary)
    shortest = ("the task's shortest context", family_of(known).shortest(known))
    checked = known.inputs.check(tokens, shortest, subject_of(model).n_ctx)
    return last_predictions(model, checked, known.outputs)


def check_sampling(n_sequences: int) -> int:
    """``n_sequences``, if the statistics can be taken of so many.

    Raises:
        ArgumentError: No integer, or too few.
    """
    n_sequences = checks.integer(n_sequences, "n_sequences", 0, ArgumentError)
    if n_sequences < MIN_SEQUENCES:
        raise ArgumentError(
            f"n_sequences = {n_sequences} is too few for the statistics. "
            f"Use at least {MIN_SEQUENCES}."
        )
    return n_sequences


def check_room(n_sequences: int, length: int) -> None:
    """Raise a MemoryLimitError for more sequences than can be drawn."""
    needed = n_sequences * length * BYTES_A_POSITION
    check_memory(needed, "drawing the sequences", FEWER_SEQUENCES)


def name_of(model: HookedModel) -> str:
    """What results call a model."""
    info = info_of(model)
    return info.name if info else subject_of(model).name


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    packages = ("mtd-lens", "transformer-lens", "torch")
    return {"python": platform.python_version()} | {p: metadata.version(p) for p in packages}
