"""What estimates of the mixture weights λ are made of, batched and in float64.

Notation: at an evidence position k, ``p_k(g) = transition[y_{k-g}, y_k]``. Every function takes
tokens ``[sequence, position]`` of any length from ``order + 1``.

Common errors: :class:`~mtd_lens.errors.TokensError` for tokens that do not fit the task, or for a
sequence that is impossible under it; :class:`~mtd_lens.errors.ArgumentError` for weights off the
simplex.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from mtd_lens.errors import ArgumentError, TokensError
from mtd_lens.families.mtd.task import MTDTask, check_tokens
from mtd_lens.shapes import (
    Likelihoods,
    PerSequence,
    Responsibilities,
    Tokens,
    Weights,
    WeightsPerQuery,
)
from probes import checks

SIMPLEX_TOLERANCE = 1e-5


def lag_likelihoods(task: MTDTask, tokens: Tensor) -> Likelihoods:
    """The probability ``p_k(g)`` of each token given its parent at each lag (Raftery 1985).

    Args:
        task: The task.
        tokens: ``[sequence, position]``.

    Returns:
        ``[sequence, evidence, lag]``, float64, in [0, 1].

    Raises:
        TokensError: Tokens that do not fit the task, or that are impossible under it.

    Examples:
        >>> import mtd_lens, torch
        >>> task = mtd_lens.MTDTask([[0.9, 0.1], [0.4, 0.6]], order=2, seq_len=4)
        >>> mtd_lens.lag_likelihoods(task, torch.tensor([[0, 1, 0]]))  # 1 → 0 and 0 → 0
        tensor([[[0.4000, 0.9000]]], dtype=torch.float64)
    """
    tokens = check_tokens(task, tokens)
    transition = task.transition.to(tokens.device)
    children = tokens[:, task.order :, None]
    likelihoods = transition[_parents(task, tokens)[:, :-1], children]
    impossible = likelihoods.amax(-1) == 0
    if impossible.any():
        row, index = impossible.nonzero()[0].tolist()
        raise TokensError(
            f"sequence {row} is impossible under the transition: no lag can explain the token at "
            f"position {task.order + index}. Check that it was drawn from this task."
        )
    return likelihoods


def responsibilities(
    task: MTDTask, tokens: Tensor, weights: Tensor | None = None
) -> Responsibilities:
    """Posterior responsibility of each lag, ``γ_k(g) = λ_g p_k(g) / Σ_h λ_h p_k(h)``.

    Under uniform weights, what layer 0 of the construction computes (D'Angelo & Flammarion 2026,
    Proposition 3).

    Args:
        task: The task.
        tokens: ``[sequence, position]``.
        weights: ``[sequence, lag]`` or ``[lag]`` on the simplex; uniform if None.

    Returns:
        ``[sequence, evidence, lag]``, sums to 1 over lags; differentiable in ``weights``.

    Raises:
        TokensError: Tokens that do not fit the task, or that are impossible under it.
        ArgumentError: Weights of another shape, or off the simplex.

    Examples:
        >>> import mtd_lens, torch
        >>> task = mtd_lens.MTDTask([[0.9, 0.1], [0.4, 0.6]], order=2, seq_len=4)
        >>> mtd_lens.responsibilities(task, torch.tensor([[0, 1, 0]]))  # 0.4 and 0.9, normalised
        tensor([[[0.3077, 0.6923]]], dtype=torch.float64)
    """
    likelihoods = lag_likelihoods(task, tokens)
    weighted = likelihoods * _checked_weights(task, weights, likelihoods)[:, None]
    total = weighted.sum(-1, keepdim=True)
    if (total == 0).any():
        row, index = (total[..., 0] == 0).nonzero()[0].tolist()
        raise TokensError(
            f"sequence {row} is impossible under these weights: every lag of positive weight gives "
            f"the token at position {task.order + index} probability 0."
        )
    return weighted / total


def log_likelihood(task: MTDTask, tokens: Tensor, weights: Tensor | None = None) -> PerSequence:
    """``ℓ(λ) = Σ_k log Σ_g λ_g p_k(g)`` in nats; −∞ where the weights exclude a token.

    Of the evidence given the first ``order`` tokens (Raftery 1985).

    Args:
        task: The task.
        tokens: ``[sequence, position]``.
        weights: ``[sequence, lag]`` or ``[lag]`` on the simplex; uniform if None.

    Returns:
        ``[sequence]``, nats, float64; differentiable in ``weights``.

    Raises:
        TokensError: Tokens that do not fit the task, or that are impossible under it.
        ArgumentError: Weights of another shape, or off the simplex.

    Examples:
        >>> import mtd_lens, torch
        >>> task = mtd_lens.MTDTask([[0.9, 0.1], [0.4, 0.6]], order=2, seq_len=4)
        >>> mtd_lens.log_likelihood(task, torch.tensor([[0, 1, 0]]))  # log((0.4 + 0.9) / 2)
        tensor([-0.4308], dtype=torch.float64)
    """
    likelihoods = lag_likelihoods(task, tokens)
    weights = _checked_weights(task, weights, likelihoods)
    return (likelihoods * weights[:, None]).sum(-1).log().sum(-1)


def uniform_weights(task: MTDTask, tokens: Tokens) -> Weights:
    """1/m for every lag: the estimate without evidence."""
    shape = (len(tokens), task.order)
    return torch.full(shape, 1 / task.order, dtype=torch.float64, device=tokens.device)


def predict(
    task: MTDTask, tokens: Tensor, weights: Tensor
) -> Float[Tensor, "sequence *query token"]:
    """Distribution of the next token, ``P(y_{t+1} = b) = Σ_g λ_g transition[y_{t+1-g}, b]``.

    The mixture of transition distributions itself (Raftery 1985).

    Args:
        task: The task.
        tokens: ``[sequence, position]``.
        weights: ``[sequence, lag]`` to predict after the last position, or
            ``[sequence, query, lag]`` to predict after each query position ``order … T-1``.

    Returns:
        ``[sequence, token]`` or ``[sequence, query, token]``; differentiable in ``weights``.

    Raises:
        TokensError: Tokens that do not fit the task, or that are impossible under it.
        ArgumentError: Weights of another shape, or off the simplex.

    Examples:
        >>> import mtd_lens, torch
        >>> task = mtd_lens.MTDTask([[0.9, 0.1], [0.4, 0.6]], order=2, seq_len=4)
        >>> mtd_lens.predict(task, torch.tensor([[0, 1, 0]]), torch.tensor([[0.5, 0.5]]))
        tensor([[0.6500, 0.3500]], dtype=torch.float64)
    """
    rows = parent_rows(task, tokens)
    weights = checks.tensor(weights, "weights", "sequence, …, lag", ArgumentError)
    rows = rows if weights.ndim == 3 else rows[:, -1]
    weights = on_simplex(weights.to(rows.device, torch.float64), tuple(rows.shape[:-1]))
    return torch.einsum("...l,...lb->...b", weights, rows)


def parent_rows(task: MTDTask, tokens: Tensor) -> Float[Tensor, "sequence query lag token"]:
    """Rows of the transition that each query's next token may be drawn from, by lag."""
    tokens = check_tokens(task, tokens)
    return task.transition.to(tokens.device)[_parents(task, tokens)[:, 1:]]


def on_simplex(weights: Tensor, shape: tuple[int, ...]) -> Tensor:
    """``weights`` after checking that they have ``shape`` and lie on the simplex."""
    if tuple(weights.shape) != shape:
        raise ArgumentError(
            f"weights must have shape {shape}, one entry a lag; got {tuple(weights.shape)}."
        )
    detached = weights.detach()
    off = (detached.sum(-1) - 1).abs().nan_to_num(1.0) > SIMPLEX_TOLERANCE
    off = off | ~(detached >= -SIMPLEX_TOLERANCE).all(-1)
    if off.any():
        where = tuple(off.nonzero()[0].tolist())
        raise ArgumentError(
            "weights must lie on the simplex, not negative and with a sum of 1; entry "
            f"{list(where)} is {[round(x, 6) for x in detached[where].tolist()]}, with a sum of "
            f"{float(detached[where].sum()):.6g}."
        )
    return weights


def _parents(task: MTDTask, tokens: Tensor) -> Tensor:
    """Tokens at lags 1 … m before positions m … T: ``[sequence, evidence + 1, lag]``."""
    windows = tokens.unfold(1, task.order, 1)
    return windows.flip(-1)


def _checked_weights(task: MTDTask, weights: Tensor | None, like: Tensor) -> Tensor:
    n, m = like.shape[0], task.order
    if weights is None:
        return like.new_full((n, m), 1 / m)
    weights = checks.tensor(weights, "weights", "…, lag", ArgumentError)
    weights = weights.to(like.device, torch.float64)
    if weights.ndim == 1:
        return on_simplex(weights, (m,)).expand(n, m)
    return on_simplex(weights, (n, m))


def running_mean(values: Float[Tensor, "sequence query lag"]) -> WeightsPerQuery:
    """The mean over queries up to each one.

    Args:
        values: ``[sequence, query, lag]``.
    """
    counts = torch.arange(1, values.shape[1] + 1).to(values)[:, None]
    return values.cumsum(1) / counts
