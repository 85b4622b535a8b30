"""In-context n-grams (Chen, Sheen, Wang & Yang 2024): the task and its sampler."""

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mtd_lens.errors import ArgumentError, TaskError
from mtd_lens.shapes import Tokens
from mtd_lens.spaces import Tokens as TokenSpace
from mtd_lens.tasks import CONCENTRATIONS, PlainData, check_name, draw
from probes import checks

MAX_ENTRIES = 2**16
"""Entries of one sequence's table, ``n_tokens ** (n_parents + 1)``: half a megabyte in float64."""

MAX_LENGTH = 10**6

FLOOR = torch.finfo(torch.float32).tiny
"""Least probability that a prediction is held to have given: the least that a float32 model's
log-probabilities can express. The kernel and maximum likelihood give 0 to tokens not seen yet."""

ROW_BITS = 62
"""Rows are numbered in int64."""

Parents = Iterable[int] | np.ndarray
"""Lags, in any order."""


@dataclass(frozen=True)
class NGramBatch:
    """Sequences with the tables that they were drawn from.

    Attributes:
        tokens: ``[sequence, position]``, int64.
        tables: ``[sequence, row, token]``, float64: the distribution of a token given its parents,
            one row for each tuple of parents; see ``NGramTask.rows``.
    """

    tokens: Tokens
    tables: Float[Tensor, "sequence row token"]


@dataclass(frozen=True, init=False)
class NGramTask(PlainData):
    """An n-gram task whose transition table must be inferred in context; immutable.

    Each sequence draws its own table: for every tuple of parents a distribution of the next token,
    ``~ Dirichlet(concentration, …)``. The first ``window`` tokens are uniform; every later one is
    drawn from the row of its parents, the tokens at the lags ``parents`` before it (Chen, Sheen,
    Wang & Yang 2024, arXiv 2409.10559, Section 2).

    Args:
        n_tokens: Number of tokens q, at least 2.
        parents: The lags h of the parents, distinct, from 1 to ``window``; kept in rising order.
        window: Number of lags N among which the parents are.
        seq_len: Length T of a sequence, above ``window`` and at most a million.
        concentration: Of the symmetric Dirichlet prior on each row, positive.
        name: Registry name, if it has one.

    Raises:
        TaskError: Any of these out of its range, or a table too large for memory.

    Examples:
        >>> import mtd_lens
        >>> task = mtd_lens.NGramTask(3, parents=(1, 2), window=2, seq_len=16)
        >>> task.sample(4, seed=0).tables.shape
        torch.Size([4, 9, 3])
    """

    n_tokens: int
    parents: tuple[int, ...]
    window: int
    seq_len: int
    concentration: float
    name: str | None

    family = "ngram"
    required = ("n_tokens", "parents", "window", "seq_len")

    def __init__(
        self,
        n_tokens: int,
        parents: Parents,
        window: int,
        seq_len: int,
        concentration: float | int = 0.1,
        name: str | None = None,
    ) -> None:
        n_tokens = checks.integer(n_tokens, "n_tokens", 2, TaskError)
        seq_len = checks.integer(seq_len, "seq_len", 2, TaskError, MAX_LENGTH)
        window = checks.integer(window, "window", 1, TaskError)
        if window >= seq_len:
            raise TaskError(
                f"window must be below seq_len; got window {window} and seq_len {seq_len}. Lower "
                "the window or lengthen the sequences."
            )
        parents = _checked_parents(parents, window)
        _check_table(n_tokens, len(parents))
        advice = "0.1 makes rows nearly deterministic, 1.0 uniform on the simplex."
        concentration = checks.number(
            concentration, "concentration", *CONCENTRATIONS, TaskError, advice, low_included=True
        )
        values = (n_tokens, parents, window, seq_len, concentration, check_name(name))
        for field, value in zip(fields(self), values, strict=True):
            object.__setattr__(self, field.name, value)

    @property
    def inputs(self) -> TokenSpace:
        """The vocabulary."""
        return TokenSpace(self.n_tokens, FLOOR)

    outputs = inputs

    @property
    def description(self) -> str:
        """What it is, in words."""
        parents = " and ".join(map(str, self.parents))
        seen = f"parents at lags {parents} of {self.window}" if parents else "no parents"
        return (
            f"{self.n_tokens} tokens, {seen}, context {self.seq_len}; transition rows drawn from "
            f"Dirichlet({self.concentration:g}) for each sequence"
        )

    @property
    def n_rows(self) -> int:
        """Rows of a table, ``n_tokens ** len(parents)``: one for each tuple of parents."""
        return self.n_tokens ** len(self.parents)

    def rows(
        self, tokens: Tensor, parents: tuple[int, ...] | None = None
    ) -> Int[Tensor, "sequence child"]:
        """The table row that each token from position ``window`` on, and the next, is drawn from.

        Args:
            tokens: ``[sequence, position]``.
            parents: Other lags than the task's, inside the window.

        Returns:
            ``[sequence, child]``, for children at positions ``window … T``: the tuple of parents
            read as a number in base q, the nearest parent its first digit.

        Raises:
            TokensError: Tokens that do not fit the task.
            TaskError: Parents that cannot be the task's, or too many to number their tuples.
        """
        tokens = check_tokens(self, tokens)
        lags = self.parents
        if parents is not None:
            lags = _checked_parents(parents, self.window)
        _check_row_numbers(self.n_tokens, len(lags))
        length = tokens.shape[1]
        row = torch.zeros_like(tokens[:, self.window - 1 :])
        for lag in lags:
            row = row * self.n_tokens + tokens[:, self.window - lag : length + 1 - lag]
        return row

    def sample(self, n: int, seed: int = 0) -> NGramBatch:
        """Draw ``n`` sequences, vectorised over sequences; the same seed draws the same ones.

        Args:
            n: How many.
            seed: At least 0.

        Returns:
            Tokens ``[sequence, position]`` and tables.

        Raises:
            ArgumentError: ``n`` is not a positive integer, or ``seed`` is negative.
        """
        n = checks.integer(n, "the number of sequences", 1, ArgumentError)
        rng = np.random.default_rng(checks.seed(seed, ArgumentError))
        q, window, length = self.n_tokens, self.window, self.seq_len
        tables = rng.dirichlet(np.full(q, self.concentration), (n, self.n_rows))
        tokens = np.empty((n, length), dtype=np.int64)
        tokens[:, :window] = rng.integers(q, size=(n, window))
        uniforms, each = rng.random((n, length)), np.arange(n)
        digits = q ** np.arange(len(self.parents))[::-1]
        lags = np.array(self.parents)
        for k in range(window, length):
            tokens[:, k] = draw(tables[each, tokens[:, k - lags] @ digits], uniforms[:, k])
        return NGramBatch(torch.from_numpy(tokens), torch.from_numpy(tables))

    def __repr__(self) -> str:
        label = f"{self.name!r}, " if self.name else ""
        return (
            f"NGramTask({label}n_tokens={self.n_tokens}, parents={self.parents}, "
            f"window={self.window}, seq_len={self.seq_len}, concentration={self.concentration:g})"
        )


def listed(parents: Parents) -> list[int]:
    """Parents as a list, empty if there are none.

    Raises:
        TaskError: They are no sequence.
    """
    try:
        lags = None if isinstance(parents, str) else [*parents]
    except TypeError:  # also for arrays and tensors without an axis
        lags = None
    if lags is None:
        raise TaskError(f"parents must list at least one lag, such as (1, 2); got {parents!r}.")
    return lags


def _checked_parents(parents: Parents, window: int) -> tuple[int, ...]:
    """Parents in rising order."""
    lags = listed(parents)
    if not lags:
        raise TaskError(f"parents must list at least one lag, such as (1, 2); got {parents!r}.")
    lags = sorted(checks.integer(lag, "a parent's lag", 1, TaskError) for lag in lags)
    repeated = [lag for lag, following in itertools.pairwise(lags) if lag == following]
    if repeated:
        raise TaskError(f"parents must be distinct lags; {repeated[0]} is repeated in {parents!r}.")
    if lags[-1] > window:
        raise TaskError(
            f"parents must lie inside the window of {window} lags; got lag {lags[-1]}. Widen the "
            "window or choose nearer parents."
        )
    return tuple(lags)


def _check_table(n_tokens: int, n_parents: int) -> None:
    too_many = n_parents >= MAX_ENTRIES.bit_length()  # then the power need not be computed
    if too_many or n_tokens ** (n_parents + 1) > MAX_ENTRIES:
        raise TaskError(
            f"the table of a sequence would have {n_tokens}^{n_parents} rows of {n_tokens} tokens; "
            f"that is too large for memory, at most {MAX_ENTRIES} entries. Use fewer tokens or "
            "parents."
        )


def _check_row_numbers(n_tokens: int, n_parents: int) -> None:
    if n_parents * math.log2(n_tokens) >= ROW_BITS:
        raise TaskError(
            f"{n_parents} parents of {n_tokens} tokens form {n_tokens}^{n_parents} tuples, too "
            f"many to be numbered, at most 2^{ROW_BITS}. Use fewer parents."
        )


def check_task(task: object) -> None:
    """Raise an error if ``task`` is no n-gram task.

    Raises:
        ArgumentError: It is none.
    """
    if not isinstance(task, NGramTask):
        raise ArgumentError(
            f"expected an NGramTask; got {task!r}. Use load_task(name) or "
            "NGramTask(n_tokens, parents, window, seq_len)."
        )


def check_tokens(task: NGramTask, tokens: Tensor, max_length: int | None = None) -> Tokens:
    """``tokens`` as int64, after every check that concerns a single sequence's form.

    Args:
        task: Whose vocabulary and window they must fit.
        tokens: ``[sequence, position]``, any integer dtype.
        max_length: A model's context, if one is involved.

    Raises:
        ArgumentError: The task is no n-gram task.
        TokensError: Not an integer tensor of rank 2, out of the vocabulary, too short or too long.
    """
    check_task(task)
    return task.inputs.check(tokens, ("window + 1", task.window + 1), max_length)


def resized(task: NGramTask, length: int) -> NGramTask:
    """The same task with sequences of another length."""
    return replace(task, seq_len=length)
