"""Models with a vocabulary of their own, as models of a task's tokens.

A :class:`Vocabulary` says which of a model's token ids stands for each token of a task, and what is
put before every sequence. A :class:`Translated` model reads and predicts the task's tokens, and its
hooks show the task's positions alone: whatever is asked of a model can be asked of it.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mtd_lens.errors import ArgumentError
from mtd_lens.hooked import info_of, probabilities, with_info
from mtd_lens.spaces import Vectors
from probes import checks
from probes.capture import last_outputs
from probes.sites import sequence_axes
from probes.subject import HookedModel, subject_of

Hook = Callable[..., Any]

PARTS = ("blocks", "ln_final", "W_E", "W_U", "W_pos")
"""What else than a call is asked of a model, by TransformerLens's names."""


@dataclass(frozen=True)
class Vocabulary:
    """Which ids of a model's vocabulary stand for a task's tokens, and what comes before them.

    Attributes:
        ids: The id of each of the task's tokens, in their order; or a mapping from tokens to ids.
            Kept as a tuple.
        bos: Id of a token that every sequence begins with; None for none.
        prefix: Ids that come after it, before the task's tokens.

    Raises:
        ArgumentError: Ids that are no integers from 0 on or not distinct, or tokens other than
            0, 1, ….

    Examples:
        >>> import mtd_lens
        >>> vocabulary = mtd_lens.Vocabulary([15, 16, 17], bos=50256, prefix=[198])
        >>> vocabulary.before
        (50256, 198)
        >>> mtd_lens.Vocabulary({0: 15, 1: 16, 2: 17}).ids
        (15, 16, 17)
    """

    ids: Sequence[int] | Mapping[int, int]
    bos: int | None = None
    prefix: Sequence[int] = ()

    def __post_init__(self) -> None:
        listed = self.ids
        if isinstance(listed, Mapping):
            tokens = checks.integers(list(listed), "tokens of the vocabulary", ArgumentError, 0)
            if sorted(tokens) != list(range(len(tokens))):
                raise ArgumentError(
                    f"the vocabulary must map every token 0 … {max(len(tokens) - 1, 0)} to an id; "
                    f"it maps {sorted(tokens)}."
                )
            listed = [listed[token] for token in sorted(listed)]
        ids = checks.integers(listed, "ids of the vocabulary", ArgumentError, 0)
        for token, each in enumerate(ids):
            if (first := ids.index(each)) < token:
                raise ArgumentError(
                    f"ids of the vocabulary must be distinct; tokens {first} and {token} both have "
                    f"id {each}. Give each an id of its own."
                )
        if self.bos is not None:
            object.__setattr__(self, "bos", checks.integer(self.bos, "bos", 0, ArgumentError))
        prefix = checks.integers(self.prefix, "prefix", ArgumentError, 0)
        object.__setattr__(self, "ids", tuple(ids))
        object.__setattr__(self, "prefix", tuple(prefix))

    @property
    def before(self) -> tuple[int, ...]:
        """Ids that every sequence begins with, before the task's tokens."""
        return (() if self.bos is None else (self.bos,)) + tuple(self.prefix)


def translated(model: Any, task: Any, vocabulary: Vocabulary | None) -> Any:
    """A model as one of a task's tokens; itself without a vocabulary, or if it is no hooked model.

    Args:
        model: The model.
        task: Whose tokens they are.
        vocabulary: What stands for them in the model.

    Raises:
        ArgumentError: A vocabulary that does not fit the task or the model.
    """
    if vocabulary is None or not isinstance(model, HookedModel):
        return model
    made = "Use mtd_lens.Vocabulary(ids)."
    checks.instance(vocabulary, Vocabulary, "vocabulary", ArgumentError, made)
    subject = subject_of(model)
    if isinstance(task.inputs, Vectors) or subject.vector_size is not None:
        whose = "the task's tokens are" if isinstance(task.inputs, Vectors) else "the model reads"
        raise ArgumentError(
            f"a vocabulary is one of token ids, but {whose} vectors. Leave vocabulary out."
        )
    if len(vocabulary.ids) != task.inputs.size:
        raise ArgumentError(
            f"the vocabulary has {len(vocabulary.ids)} ids, but the task has {task.inputs.size} "
            "tokens. Give an id for each."
        )
    for what, ids, n_known in (
        ("ids of the vocabulary", vocabulary.ids, min(subject.n_inputs, subject.n_outputs)),
        ("bos and prefix", vocabulary.before, subject.n_inputs),
    ):
        for each in ids:
            if each >= n_known:
                raise ArgumentError(
                    f"{what} must lie in 0 … {n_known - 1}, the model's own; got {each}. Look them "
                    "up in its tokenizer."
                )
    n_before = len(vocabulary.before)
    if n_before + task.seq_len > subject.n_ctx:
        raise ArgumentError(
            f"bos and prefix put {n_before} ids before the task's {task.seq_len} tokens, but the "
            f"model's context is {subject.n_ctx}. Use a shorter prefix, or a task with a shorter "
            "seq_len."
        )
    if n_before and not subject.causal:
        raise ArgumentError(
            "bos and prefix need a model in which they do not depend on what follows; this one's "
            "attention is bidirectional. Leave them out."
        )
    return Translated(model, vocabulary)


class Translated(nn.Module):
    """A model whose tokens are a task's: it reads and predicts those that a vocabulary names.

    Hooks are the model's own, and see the task's positions alone; of patterns, attention of these
    positions to each other. Edits act there, and what lies before stays as the model computes it.
    Weights have their TransformerLens names, for the task's tokens and positions.

    Args:
        underlying: A hooked model; it is not changed.
        vocabulary: That fits it.

    Attributes:
        underlying: The model itself.
        n_before: Positions that it puts before every sequence.
        cfg: The model's configuration, with the sizes of the task's tokens.
        own: By a weight's name, the index of the part of it that is the task's.
    """

    def __init__(self, underlying: HookedModel, vocabulary: Vocabulary) -> None:
        super().__init__()
        subject = subject_of(underlying)
        self.underlying: Any = underlying
        self.vocabulary, self.n_before = vocabulary, len(vocabulary.before)
        self.cfg = copy.copy(underlying.cfg)
        self.cfg.d_vocab = self.cfg.d_vocab_out = len(vocabulary.ids)
        self.cfg.n_ctx = subject.n_ctx - self.n_before
        self._ids, self._before = (
            torch.tensor(ids, dtype=torch.long, device=subject.device)
            for ids in (vocabulary.ids, vocabulary.before)
        )
        ids = self._ids.cpu()
        self.own = {"W_E": ids, "W_U": (slice(None), ids), "W_pos": slice(self.n_before, None)}
        self._unseen = False
        if (info := info_of(underlying)) is not None:
            with_info(self, info)

    def forward(
        self,
        input: Tensor,
        *,
        start_at_layer: int | None = None,
        stop_at_layer: int | None = None,
    ) -> Float[Tensor, "sequence position outcome"]:
        """Outputs for the task's tokens, or a residual stream, at the task's positions.

        Args:
            input: ``[sequence, position]``, or with ``start_at_layer`` a residual stream.
            start_at_layer: As TransformerLens has it.
            stop_at_layer: As TransformerLens has it.
        """
        if start_at_layer is None:
            given = self.spelt(input)
        else:
            given = self.with_before(start_at_layer, input) if self.n_before else input
        output = self.underlying(given, start_at_layer=start_at_layer, stop_at_layer=stop_at_layer)
        output = output[:, self.n_before :]
        return output if stop_at_layer is not None else output[..., self._ids]

    def spelt(self, tokens: Int[Tensor, "sequence position"]) -> Int[Tensor, "sequence id"]:
        """What the model reads for the task's tokens, with what comes before them.

        Args:
            tokens: ``[sequence, position]``, the task's.
        """
        before = self._before.expand(len(tokens), self.n_before)
        return torch.cat([before, self._ids[tokens.long()]], 1)

    def with_before(
        self, layer: int, stream: Float[Tensor, "sequence position d_model"]
    ) -> Float[Tensor, "sequence model_position d_model"]:
        """A residual stream with what the positions before it hold, which no sequence changes.

        Args:
            layer: That reads it.
            stream: ``[sequence, position, d_model]``.
        """
        any_tokens = torch.zeros(1, stream.shape[1], dtype=torch.long, device=stream.device)
        self._unseen = True  # no run of the caller's
        try:
            with torch.no_grad():
                run = self.underlying(self.spelt(any_tokens), stop_at_layer=layer)
        finally:
            self._unseen = False
        before = run[:, : self.n_before].expand(len(stream), -1, -1)
        return torch.cat([before, stream], 1)

    @property
    def hook_dict(self) -> Mapping[str, Any]:
        """The model's own hook points."""
        return self.underlying.hook_dict

    def hooks(
        self,
        fwd_hooks: Iterable[tuple[Any, Hook]] = (),
        bwd_hooks: Iterable[tuple[Any, Hook]] = (),
    ) -> AbstractContextManager[object]:
        """A context in which hooks act on the task's positions."""
        narrowed = (
            [(name, self._narrowed(f)) for name, f in each] for each in (fwd_hooks, bwd_hooks)
        )
        return self.underlying.hooks(*narrowed)

    def _narrowed(self, function: Hook) -> Hook:
        def act(activation: Tensor, hook: Any) -> Any:
            if self._unseen:
                return None
            axes = sequence_axes(hook.name)
            own = tuple(
                slice(self.n_before if axis in axes else 0, None) for axis in range(activation.ndim)
            )
            edited = function(activation[own], hook=hook)
            if edited is None:
                return None
            whole = activation.clone()
            whole[own] = edited
            return whole

        return act if self.n_before else function

    def run_with_hooks(
        self,
        *args: Any,
        fwd_hooks: Iterable[tuple[Any, Hook]] = (),
        bwd_hooks: Iterable[tuple[Any, Hook]] = (),
        **kwargs: Any,
    ) -> Any:
        """A call in which hooks act on the task's positions."""
        with self.hooks(fwd_hooks, bwd_hooks):
            return self(*args, **kwargs)

    def run_with_cache(
        self, *args: Any, names_filter: Any = None, **kwargs: Any
    ) -> tuple[Any, dict[str, Tensor]]:
        """A call whose activations are kept, by the names of their hooks."""
        found: dict[str, Tensor] = {}

        def keep(activation: Tensor, hook: Any) -> None:
            found[hook.name] = activation.detach().clone()

        chosen = [names_filter] if isinstance(names_filter, str) else names_filter
        if not callable(chosen):
            names = self.hook_dict if chosen is None else chosen
            chosen = set(names).__contains__
        with self.hooks([(chosen, keep)]):
            return self(*args, **kwargs), found

    def outside(self, tokens: Int[Tensor, "sequence position"]) -> Float[Tensor, " sequence"]:
        """The probability that the model gives, after the last position, to no token of the task.

        Args:
            tokens: ``[sequence, position]``, the task's.
        """
        output = last_outputs(self.underlying, self.spelt(tokens))
        mass = probabilities(self.underlying, output).clamp_min(0)
        others = mass.index_fill(1, self._ids, 0)
        return others.sum(1) / mass.sum(1)

    def __getattr__(self, name: str) -> Any:
        """The model's own parts, and of its embeddings what is the task's."""
        if name not in PARTS:
            return super().__getattr__(name)
        whole = getattr(self.underlying, name)
        return whole[self.own[name]] if name in self.own else whole

    def unembed(self, stream: Float[Tensor, "*row d_model"]) -> Float[Tensor, "*row token"]:
        """Outputs for the task's tokens.

        Args:
            stream: ``[…, d_model]``: the last one, normalised.
        """
        return self.underlying.unembed(stream)[..., self._ids]

    def input_to_embed(self, tokens: Int[Tensor, "sequence position"]) -> Any:
        """As TransformerLens has it.

        Args:
            tokens: ``[sequence, position]``, the task's.
        """
        return self.underlying.input_to_embed(self.spelt(tokens))
