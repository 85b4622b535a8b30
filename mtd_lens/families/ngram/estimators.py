"""Predictions of the next token from counts in the context, at every query, in float64.

Evidence positions are ``k = window … T-1``, and so are queries ``t``: after position t,
``n(b | a)`` is how often token b followed the parents ``a`` of the token to be predicted, among
evidence positions up to t; ``n(a) = Σ_b n(b | a)``, and ``n(b)`` counts b among all of them.

Common errors: :class:`~mtd_lens.errors.ArgumentError` for a task of another family;
:class:`~mtd_lens.errors.TokensError` for tokens that do not fit the task;
:class:`~mtd_lens.errors.TaskError` for parents that cannot be the task's.
"""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

from mtd_lens.errors import ArgumentError
from mtd_lens.families.ngram.task import NGramTask, Parents, check_tokens, listed
from mtd_lens.shapes import PredictionsPerQuery
from probes import checks

MAX_SHARPNESS = 100.0
"""``exp(100)`` is far beyond where the kernel is maximum likelihood, and still a float32."""


def ngram_counts(
    task: NGramTask, tokens: Tensor, parents: Parents | None = None
) -> Float[Tensor, "sequence query token"]:
    """Counts ``n(b | a)`` of each token b after the parents a of the token to be predicted.

    They are what the classifier of a generalized induction head sums (Chen et al. 2024,
    arXiv 2409.10559).

    Args:
        task: The task.
        tokens: ``[sequence, position]``.
        parents: Lags inside the window; the task's if None, and none at all if empty.

    Returns:
        ``[sequence, query, token]``, whole numbers in float64.

    Raises:
        TokensError: Tokens that do not fit the task.
        TaskError: Parents that cannot be the task's.

    Examples:
        >>> import mtd_lens, torch
        >>> task = mtd_lens.NGramTask(2, parents=(1,), window=1, seq_len=5)
        >>> mtd_lens.ngram_counts(task, torch.tensor([[0, 1, 0, 1, 1]]))[0, -1]  # after a 1
        tensor([1., 1.], dtype=torch.float64)
    """
    return matches(task, tokens, parents) @ children(task, tokens)


def ngram_maximum_likelihood(
    task: NGramTask, tokens: Tensor, parents: Parents | None = None
) -> PredictionsPerQuery:
    """The maximum likelihood estimate ``n(b | a) / n(a)``; uniform where the parents are new.

    The estimator that a generalized induction head approaches as its match grows sharp (Chen et al.
    2024, arXiv 2409.10559).

    Args:
        task: The task.
        tokens: ``[sequence, position]``.
        parents: Lags inside the window; the task's if None, and none at all for the unigram
            ``n(b) / n``.

    Returns:
        ``[sequence, query, token]``, rows sum to 1.

    Raises:
        TokensError: Tokens that do not fit the task.
        TaskError: Parents that cannot be the task's.
    """
    return likeliest(ngram_counts(task, tokens, parents))


def ngram_bayes(
    task: NGramTask, tokens: Tensor, parents: Parents | None = None
) -> PredictionsPerQuery:
    """The exact posterior mean of the row in use, ``(n(b | a) + α) / (n(a) + q α)``.

    The Dirichlet prior of the task (Chen et al. 2024, arXiv 2409.10559, Section 2) is conjugate to
    the counts.

    Args:
        task: The task.
        tokens: ``[sequence, position]``.
        parents: Lags inside the window; the task's if None.

    Returns:
        ``[sequence, query, token]``, rows sum to 1.

    Raises:
        TokensError: Tokens that do not fit the task.
        TaskError: Parents that cannot be the task's.
    """
    return posterior_mean(ngram_counts(task, tokens, parents), task.concentration)


def ngram_kernel(
    task: NGramTask,
    tokens: Tensor,
    sharpness: float | int,
    subsets: Mapping[tuple[int, ...], float | int] | None = None,
) -> PredictionsPerQuery:
    """The prediction of a generalized induction head: tokens weighted by how their parents match.

    ``Σ_k w_k e_{y_k}`` with ``w_k ∝ exp(a ⟨φ_query, φ_k⟩)`` and
    ``⟨φ, φ'⟩ = Σ_S c_S² Π_{h∈S} 1[y_{-h} = y'_{-h}] / Σ_S c_S²`` (Chen et al. 2024, arXiv
    2409.10559, the generalized induction head). With the task's parents alone, it is
    ``((e^a - 1) n(b | a) + n(b)) / ((e^a - 1) n(a) + n)``.

    Args:
        task: The task.
        tokens: ``[sequence, position]``.
        sharpness: The inverse temperature a, from 0 (unigram) to 100.
        subsets: The weight c_S of each set of lags inside the window, ``{lags: weight}``; by
            default the task's parents alone.

    Returns:
        ``[sequence, query, token]``, rows sum to 1.

    Raises:
        TokensError: Tokens that do not fit the task.
        TaskError: Parents that cannot be the task's.
        ArgumentError: A sharpness out of its range, subsets that are no mapping, or weights that
            are all 0 or not numbers.
    """
    a = check_sharpness(sharpness)
    tokens = check_tokens(task, tokens)
    weights = {task.parents: 1.0} if subsets is None else subsets
    if not isinstance(weights, Mapping):
        raise ArgumentError(
            "subsets must map sets of lags to their weights, such as {(1,): 1.0, (1, 2): 0.5}; got "
            f"{subsets!r}."
        )
    squares = {
        lags: checks.number(c, "a subset's weight", -1e6, 1e6, ArgumentError) ** 2
        for lags, c in weights.items()
    }
    if not sum(squares.values()):
        raise ArgumentError(f"at least one subset needs a weight other than 0; got {subsets!r}.")
    agreement = [square * matches(task, tokens, lags) for lags, square in squares.items()]
    similarity = torch.stack(agreement).sum(0) / sum(squares.values())
    return attend(a * similarity) @ children(task, tokens)


def ngram_truth(task: NGramTask, tokens: Tensor, tables: Tensor) -> PredictionsPerQuery:
    """The row of the sequence's own table that the token after each query is drawn from.

    Args:
        task: The task.
        tokens: ``[sequence, position]``.
        tables: ``[sequence, row, token]``, a floating-point tensor, as the batch that the tokens
            were sampled in has them.

    Returns:
        ``[sequence, query, token]``, rows sum to 1.

    Raises:
        TokensError: Tokens that do not fit the task.
        ArgumentError: Tables that are no floating-point tensor, or of other sequences or of another
            task.
    """
    tokens = check_tokens(task, tokens)
    if not isinstance(tables, Tensor) or not tables.is_floating_point():
        kind = tables.dtype if isinstance(tables, Tensor) else type(tables).__name__
        raise ArgumentError(
            "tables must be a floating-point torch tensor, [sequence, row, token]; got "
            f"{kind}. Give those of the batch that the tokens are from."
        )
    rows = task.rows(tokens)[:, 1:]
    expected = (len(rows), task.n_rows, task.n_tokens)
    if tuple(tables.shape) != expected:
        raise ArgumentError(
            f"tables must be one for each sequence, {expected}; got {tuple(tables.shape)}. Give "
            "those of the batch that the tokens are from."
        )
    each = torch.arange(len(rows), device=rows.device)[:, None]
    return tables.to(rows.device)[each, rows]


def likeliest(counts: Float[Tensor, "*query token"]) -> Float[Tensor, "*query token"]:
    """Maximum likelihood from ``n(b | a)``; uniform where there are no counts."""
    total = counts.sum(-1, keepdim=True)
    return torch.where(total > 0, counts / total.clamp_min(1), 1 / counts.shape[-1])


def posterior_mean(
    counts: Float[Tensor, "*query token"], concentration: float
) -> Float[Tensor, "*query token"]:
    """Exact Bayes from ``n(b | a)`` and the concentration α of the prior."""
    posterior = counts + concentration
    return posterior / posterior.sum(-1, keepdim=True)


def of_counts(
    matching: Float[Tensor, "*query token"],
    everything: Float[Tensor, "*query token"],
    sharpness: float,
) -> Float[Tensor, "*query token"]:
    """The kernel in closed form, ``((e^a - 1) n(b | a) + n(b)) / ((e^a - 1) n(a) + n)``."""
    weighted = math.expm1(sharpness) * matching + everything
    return weighted / weighted.sum(-1, keepdim=True)


def check_sharpness(sharpness: float | int) -> float:
    """``sharpness`` as a float.

    Raises:
        ArgumentError: Not a finite number from 0 to ``MAX_SHARPNESS``.
    """
    advice = "Leave it out to have it fitted."
    return checks.number(
        sharpness, "sharpness", 0, MAX_SHARPNESS, ArgumentError, advice, low_included=True
    )


def matches(
    task: NGramTask, tokens: Tensor, parents: Parents | None = None
) -> Float[Tensor, "sequence query evidence"]:
    """1 where an evidence position up to the query has the parents of the token to be predicted."""
    rows = _rows(task, tokens, parents)
    return (rows[:, 1:, None] == rows[:, None, :-1]).to(torch.float64).tril()


def last_matches(
    task: NGramTask, tokens: Tensor, parents: Parents | None = None
) -> Float[Tensor, "sequence evidence"]:
    """``matches`` at the last query alone."""
    rows = _rows(task, tokens, parents)
    return (rows[:, -1:] == rows[:, :-1]).to(torch.float64)


def summed(
    task: NGramTask, tokens: Tensor, weights: Float[Tensor, "sequence evidence"]
) -> Float[Tensor, "sequence token"]:
    """How much weight the evidence positions of each token have together."""
    nothing = weights.new_zeros(len(tokens), task.n_tokens)
    return nothing.scatter_add(1, tokens[:, task.window :].long(), weights)


def last_counts(
    task: NGramTask, tokens: Tensor, parents: Parents | None = None
) -> Float[Tensor, "sequence token"]:
    """``ngram_counts`` at the last query alone."""
    return summed(task, tokens, last_matches(task, tokens, parents))


def up_to(
    scores: Float[Tensor, "sequence query evidence"], queries: slice, later: float
) -> Float[Tensor, "sequence query evidence"]:
    """Scores of the evidence positions up to each query; those of later ones are ``later``."""
    n = scores.shape[-1]
    after = torch.ones(n, n, dtype=torch.bool, device=scores.device).triu(1)[queries]
    return scores.masked_fill(after, later)


def attend(
    scores: Float[Tensor, "sequence query evidence"], queries: slice = slice(None)
) -> Float[Tensor, "sequence query evidence"]:
    """Softmax over the evidence positions up to each query, of which these are some."""
    return up_to(scores, queries, -torch.inf).softmax(-1)


def children(task: NGramTask, tokens: Tensor) -> Float[Tensor, "sequence evidence token"]:
    """The token at each evidence position, one-hot."""
    return one_hot(check_tokens(task, tokens)[:, task.window :], task.n_tokens).to(torch.float64)


def _rows(task: NGramTask, tokens: Tensor, parents: Parents | None) -> Tensor:
    """Which tuple the parents form before each position from the window on; one for no parents."""
    tokens = check_tokens(task, tokens)
    lags = task.parents if parents is None else tuple(listed(parents))
    return task.rows(tokens, lags) if lags else torch.zeros_like(tokens[:, task.window - 1 :])
