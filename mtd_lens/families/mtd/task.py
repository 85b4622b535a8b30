"""Mixture of Transition Distributions (Raftery 1985): the task and its sampler."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from mtd_lens.errors import ArgumentError, TaskError
from mtd_lens.shapes import Tokens, Transition, Weights
from mtd_lens.spaces import Tokens as TokenSpace
from mtd_lens.tasks import CONCENTRATIONS, check_name, checked_fields, draw
from probes import checks

ROW_SUM_TOLERANCE = 1e-6
"""Rows of a transition may miss a sum of 1 by this much; they are then divided by their sum."""


TransitionLike = Sequence[Sequence[float | int]] | np.ndarray | Tensor
"""What a transition is made from, ``[n_tokens, n_tokens]``."""


@dataclass(frozen=True)
class MTDBatch:
    """Sequences with their latent variables.

    Attributes:
        tokens: ``[sequence, position]``, int64.
        weights: ``[sequence, lag]``, float64: the mixture weights λ of each sequence.
        lags: ``[sequence, position]``, int64: the lag each token was drawn through, 1 … order;
            0 at the first ``order`` positions, which have none.
    """

    tokens: Tokens
    weights: Weights
    lags: Int[Tensor, "sequence position"]


class MTDTask:
    """A Mixture of Transition Distributions task; immutable.

    Each sequence draws mixture weights ``λ ~ Dirichlet(concentration, …)`` over ``order`` lags. Its
    first ``order`` tokens are uniform; every later one is drawn from row ``y[k - z_k]`` of
    ``transition``, where the lag ``z_k ~ Categorical(λ)``.

    Args:
        transition: ``[n_tokens, n_tokens]``, rows sum to 1: what a model stores in its weights.
        order: Number of lags m, from 1 to ``seq_len - 1``.
        seq_len: Length T of a sequence.
        concentration: Of the symmetric Dirichlet prior on λ, positive.
        name: Registry name, if it has one.

    Raises:
        TaskError: Any of these out of its range.

    Examples:
        >>> task = MTDTask([[0.9, 0.1], [0.4, 0.6]], order=2, seq_len=8)
        >>> task.sample(4, seed=0).tokens.shape
        torch.Size([4, 8])
    """

    family = "mtd"

    __slots__ = ("_concentration", "_name", "_order", "_seq_len", "_transition")
    _transition: Transition
    _order: int
    _seq_len: int
    _concentration: float
    _name: str | None

    def __init__(
        self,
        transition: TransitionLike,
        order: int,
        seq_len: int,
        concentration: float | int = 1.0,
        *,
        name: str | None = None,
    ) -> None:
        seq_len = checks.integer(seq_len, "seq_len", 2, TaskError)
        order = checks.integer(order, "order", 1, TaskError)
        if order >= seq_len:
            raise TaskError(
                f"order must be below seq_len; got order {order} and seq_len {seq_len}. "
                "Lower the order or lengthen the sequences."
            )
        object.__setattr__(self, "_transition", _checked_transition(transition))
        object.__setattr__(self, "_order", order)
        object.__setattr__(self, "_seq_len", seq_len)
        object.__setattr__(
            self,
            "_concentration",
            checks.number(
                concentration,
                "concentration",
                *CONCENTRATIONS,
                TaskError,
                "1.0 makes the prior on the mixture weights uniform.",
                low_included=True,
            ),
        )
        object.__setattr__(self, "_name", check_name(name))

    def __setattr__(self, attribute: str, value: object) -> None:
        raise AttributeError(f"MTDTask is immutable; make a new one to change {attribute!r}.")

    @property
    def transition(self) -> Transition:
        """``[token, token]`` float64, rows sum to 1; a copy."""
        return self._transition.clone()

    @property
    def n_tokens(self) -> int:
        """Number of tokens q."""
        return len(self._transition)

    @property
    def inputs(self) -> TokenSpace:
        """The vocabulary."""
        return TokenSpace(self.n_tokens)

    outputs = inputs

    @property
    def order(self) -> int:
        """Number of lags m."""
        return self._order

    @property
    def seq_len(self) -> int:
        """Length T of a sequence."""
        return self._seq_len

    @property
    def concentration(self) -> float:
        """Of the symmetric Dirichlet prior on the mixture weights."""
        return self._concentration

    @property
    def name(self) -> str | None:
        """Registry name, if it has one."""
        return self._name

    @property
    def description(self) -> str:
        """What it is, in words."""
        return (
            f"{self.n_tokens} tokens, order {self.order}, context {self.seq_len}; a fixed "
            f"transition matrix, weights of lags drawn from Dirichlet({self.concentration:g}) for "
            "each sequence"
        )

    def sample(self, n: int, seed: int = 0) -> MTDBatch:
        """Draw ``n`` sequences, vectorised over sequences; the same seed draws the same ones.

        Args:
            n: How many.
            seed: At least 0.

        Returns:
            Tokens ``[sequence, position]``, mixture weights and lags.

        Raises:
            ArgumentError: ``n`` is not a positive integer, or ``seed`` is negative.
        """
        n = checks.integer(n, "the number of sequences", 1, ArgumentError)
        rng = np.random.default_rng(checks.seed(seed, ArgumentError))
        m, length = self.order, self.seq_len
        weights = rng.dirichlet(np.full(m, self.concentration), n)
        lags = np.zeros((n, length), dtype=np.int64)
        lags[:, m:] = 1 + draw(weights[:, None, :], rng.random((n, length - m)))
        tokens = np.empty((n, length), dtype=np.int64)
        tokens[:, :m] = rng.integers(self.n_tokens, size=(n, m))
        uniforms = rng.random((n, length))
        transition, rows = self._transition.numpy(), np.arange(n)
        for k in range(m, length):
            parents = tokens[rows, k - lags[:, k]]
            tokens[:, k] = draw(transition[parents], uniforms[:, k])
        return MTDBatch(*(torch.from_numpy(array) for array in (tokens, weights, lags)))

    def to_json(self) -> dict[str, Any]:
        """Plain data; ``MTDTask.from_json`` makes an equal task of it, to the last bit."""
        return {
            "family": self.family,
            "name": self.name,
            "order": self.order,
            "seq_len": self.seq_len,
            "concentration": self.concentration,
            "transition": self._transition.tolist(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "MTDTask":
        """The task that ``to_json`` described.

        Args:
            data: What ``to_json`` returned.

        Raises:
            TaskError: A field is missing, not known or out of its range.
        """
        required = ("transition", "order", "seq_len")
        return cls(**checked_fields(cls, data, required, (*required, "concentration", "name")))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MTDTask) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash((self.name, self.order, self.seq_len, self.concentration, self.n_tokens))

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_json, (self.to_json(),)

    def __repr__(self) -> str:
        label = f"{self.name!r}, " if self.name else ""
        return (
            f"MTDTask({label}n_tokens={self.n_tokens}, order={self.order}, "
            f"seq_len={self.seq_len}, concentration={self.concentration:g})"
        )


def _from_json(data: Mapping[str, Any]) -> MTDTask:
    return MTDTask.from_json(data)


def _checked_transition(transition: object) -> Transition:
    """A float64 copy with rows that sum to 1 exactly."""
    try:
        given = torch.as_tensor(transition)
        if given.is_complex() or given.layout != torch.strided:
            raise TypeError("it is complex, or sparse")
        exact = torch.as_tensor(transition, dtype=torch.float64)
        matrix = exact.detach().cpu().clone()
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TaskError(
            f"transition must be a square matrix of numbers; got {type(transition).__name__}, "
            f"which is not one ({error})."
        ) from error
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 1:
        raise TaskError(
            f"transition must be square, one row and one column a token; got shape "
            f"{tuple(matrix.shape)}."
        )
    if not matrix.isfinite().all():
        row, column = (~matrix.isfinite()).nonzero()[0].tolist()
        raise TaskError(
            f"transition entries must be finite; entry [{row}, {column}] is {matrix[row, column]}."
        )
    if (matrix < 0).any():
        row, column = (matrix < 0).nonzero()[0].tolist()
        raise TaskError(
            f"transition entries must not be negative; entry [{row}, {column}] is "
            f"{matrix[row, column]:.6g}."
        )
    sums = matrix.sum(1)
    wrong = (sums - 1).abs() > ROW_SUM_TOLERANCE
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise TaskError(
            f"transition rows must sum to 1; row {row} sums to {sums[row]:.6g}. "
            "Divide each row by its sum."
        )
    exact = (sums - 1).abs() <= len(matrix) * torch.finfo(torch.float64).eps
    return torch.where(exact[:, None], matrix, matrix / sums[:, None])


def check_tokens(task: MTDTask, tokens: Tensor, max_length: int | None = None) -> Tokens:
    """``tokens`` as int64, after every check that concerns a single sequence's form.

    Args:
        task: Whose vocabulary and order they must fit.
        tokens: ``[sequence, position]``, any integer dtype.
        max_length: A model's context, if one is involved.

    Raises:
        ArgumentError: The task is no MTD task.
        TokensError: Not an integer tensor of rank 2, out of the vocabulary, too short or too long.
    """
    return check_task(task).inputs.check(tokens, ("order + 1", task.order + 1), max_length)


def check_task(task: object) -> MTDTask:
    """``task``, if it is one of this family.

    Raises:
        ArgumentError: It is not.
    """
    if not isinstance(task, MTDTask):
        raise ArgumentError(
            f"expected an MTDTask; got {task!r}. Use load_task(name) or "
            "MTDTask(transition, order, seq_len)."
        )
    return task


def resized(task: MTDTask, length: int) -> MTDTask:
    """The same task with sequences of another length."""
    return MTDTask(task.transition, task.order, length, task.concentration)
