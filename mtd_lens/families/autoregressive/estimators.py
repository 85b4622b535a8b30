"""Estimators of the hidden matrix from the vectors so far, and what they predict, at every query.

At query t the evidence is the pairs ``(s_{j-1}, s_j)``, j = 1 … t, and the loss is
``½ Σ_j ‖s_j - W s_{j-1}‖²``. Queries are the positions 1 … T-1.
"""

import math
import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mtd_lens.errors import ArgumentError, TaskError
from mtd_lens.families.autoregressive.task import (
    AutoregressiveTask,
    Vectors,
    check_task,
    check_tokens,
)
from probes import checks

RANK_TOLERANCE = 1e-10
"""Directions of the evidence below this share of its largest singular value count as not there."""

Estimates = Float[Tensor, "sequence query component component"]
PredictedVectors = Float[Tensor, "sequence query component"]

StepSizes = float | int | np.floating | Sequence[float | int] | np.ndarray | Tensor
"""One step size, or one for each step."""


def moments(tokens: Vectors, *, last_only: bool = False) -> tuple[Estimates, Estimates]:
    """``Σ_j s_j s_{j-1}ᵀ`` and ``Σ_j s_{j-1} s_{j-1}ᵀ`` over the evidence of every query.

    Args:
        tokens: ``[sequence, position, component]``.
        last_only: For the last query alone.

    Returns:
        The cross moments and the Gram matrices, ``[sequence, query, component, component]``.
    """
    before, after = tokens[:, :-1], tokens[:, 1:]
    if last_only:
        cross, gram = (torch.einsum("nji,njk->nik", x, before)[:, None] for x in (after, before))
        return cross, gram
    cross, gram = (torch.einsum("nji,njk->njik", x, before).cumsum(1) for x in (after, before))
    return cross, gram


def gradient_descent(
    tokens: Vectors, step_sizes: Float[Tensor, " step"], *, last_only: bool = False
) -> Estimates:
    """Gradient descent on the loss from 0; one step is ``η Σ_j s_j s_{j-1}ᵀ``.

    One layer of linear attention on augmented tokens does one step (Sander et al. 2024, section 3;
    von Oswald et al. 2023).

    Args:
        tokens: ``[sequence, position, component]``.
        step_sizes: ``[step]``: η of each step.
        last_only: For the last query alone.

    Returns:
        ``[sequence, query, component, component]``.
    """
    cross, gram = moments(tokens, last_only=last_only)
    estimate = torch.zeros_like(cross)
    for step_size in step_sizes:
        estimate = estimate + step_size * (cross - estimate @ gram)
    return estimate


def residual_steps(
    tokens: Vectors, step_sizes: Float[Tensor, " step"], *, causal: bool
) -> PredictedVectors:
    """What gradient descent predicts, as layers of attention compute it: without any matrix.

    Every layer keeps a residual ``r_j`` (at first ``s_j``) at each position, adds
    ``η Σ_i ⟨s_t, s_{i-1}⟩ r_i`` to the prediction at t, and takes
    ``η Σ_i ⟨s_{j-1}, s_{i-1}⟩ r_i`` from ``r_j``.

    Args:
        tokens: ``[sequence, position, component]``.
        step_sizes: ``[step]``: η of each step.
        causal: Sums run over i up to the position itself, so that from the second step on
            residuals are those of shorter contexts (the prefix variant); or else over the whole
            sequence, so that every query predicts with the estimate from all of it.

    Returns:
        ``[sequence, query, component]``; without ``causal``, or with one step, the last query's is
        that of :func:`gradient_descent`.
    """
    before, residual = tokens[:, :-1], tokens[:, 1:]
    to_query = torch.einsum("ntc,nic->nti", tokens[:, 1:], before)
    to_residual = torch.einsum("njc,nic->nji", before, before)
    if causal:
        to_query, to_residual = to_query.tril(), to_residual.tril()
    prediction = torch.zeros_like(residual)
    for step_size in step_sizes:
        prediction = prediction + step_size * to_query @ residual
        residual = residual - step_size * to_residual @ residual
    return prediction


def least_squares(tokens: Vectors, *, last_only: bool = False) -> Estimates:
    """The minimiser of the loss, of least Frobenius norm where there are several.

    Args:
        tokens: ``[sequence, position, component]``.
        last_only: For the last query alone.

    Returns:
        ``[sequence, query, component, component]``.
    """
    return fitted_matrices(tokens[:, :-1], tokens[:, 1:], last_only=last_only)


def fitted_matrices(
    before: Float[Tensor, "sequence evidence component"],
    after: Float[Tensor, "sequence evidence component"],
    *,
    last_only: bool = False,
) -> Estimates:
    """The matrices of least squares that take each vector before to the one after it.

    Args:
        before: ``[sequence, evidence, component]``.
        after: The same; the evidence of query t are the first t pairs.
        last_only: For the last query alone.
    """
    n_evidence = before.shape[1]
    known = torch.ones(n_evidence, n_evidence).to(before).tril()[..., None]
    if last_only:
        known = known[-1:]
    before, after = known * before[:, None], known * after[:, None]
    # [sequence, query, evidence, component]
    return (torch.linalg.pinv(before, rtol=RANK_TOLERANCE) @ after).transpose(-1, -2)


def predict_next(tokens: Vectors, estimates: Estimates) -> PredictedVectors:
    """``Ŵ s_t`` at the last queries.

    Args:
        tokens: ``[sequence, position, component]``.
        estimates: ``[sequence, query, component, component]`` for the last queries of the tokens.

    Returns:
        ``[sequence, query, component]``.
    """
    return torch.einsum("nqij,nqj->nqi", estimates, tokens[:, -estimates.shape[1] :])


def autoregressive_gradient_descent(
    task: AutoregressiveTask, tokens: Tensor, step_sizes: StepSizes, *, prefix: bool = False
) -> PredictedVectors:
    """What gradient descent from 0 on the squared error predicts at every query.

    One layer of linear attention on augmented tokens does one step (Sander et al. 2024, arXiv
    2402.05787, section 3; von Oswald et al. 2023).

    Args:
        task: The task.
        tokens: ``[sequence, position, component]``.
        step_sizes: One step size, or ``[step]``: one for each step.
        prefix: Steps as causal layers take them: from the second on, residuals at earlier positions
            are those of shorter contexts.

    Returns:
        ``[sequence, query, component]``, for the queries 1 … T-1.

    Raises:
        TokensError: Tokens that do not fit the task.
        ArgumentError: No AutoregressiveTask, no step sizes, or one that is no finite number.
    """
    prefix = checks.flag(prefix, "prefix", ArgumentError)
    vectors = check_tokens(task, tokens)
    sizes = vectors.new_tensor(checked_step_sizes(step_sizes))
    if prefix:
        return residual_steps(vectors, sizes, causal=True)
    return predict_next(vectors, gradient_descent(vectors, sizes))


def autoregressive_least_squares(task: AutoregressiveTask, tokens: Tensor) -> PredictedVectors:
    """What the least-squares estimate of least norm predicts at every query.

    Args:
        task: The task.
        tokens: ``[sequence, position, component]``.

    Returns:
        ``[sequence, query, component]``, for the queries 1 … T-1.

    Raises:
        ArgumentError: No AutoregressiveTask.
        TokensError: Tokens that do not fit the task.
    """
    vectors = check_tokens(task, tokens)
    return predict_next(vectors, least_squares(vectors))


def trigonometric_rule(task: AutoregressiveTask, tokens: Tensor) -> PredictedVectors:
    """The two-term rule of rotations, ``s_{t+1} = 2 cos θ s_t - s_{t-1}``, pair by pair.

    ``2 cos θ`` of a pair is fitted by least squares to the same rule over the context. It is the
    trigonometric relation that Sander et al. (2024, section 4) find in positional encodings.

    Args:
        task: A task of the unitary ensemble.
        tokens: ``[sequence, position, component]``.

    Returns:
        ``[sequence, query, component]``; where there is no evidence of the rule, at the first query
        and for a pair that was 0 so far, the cosine is 0.

    Raises:
        ArgumentError: No AutoregressiveTask.
        TaskError: The ensemble is another one.
        TokensError: Tokens that do not fit the task.
    """
    if check_task(task).ensemble != "unitary":
        raise TaskError(
            "the trigonometric rule is one of rotations of pairs of components; the task's "
            f"ensemble is {task.ensemble!r}. Use an AutoregressiveTask of the unitary ensemble."
        )
    pairs = check_tokens(task, tokens).unflatten(-1, (-1, 2))
    middle = pairs[:, 1:-1]
    products = ((pairs[:, 2:] + pairs[:, :-2]) * middle).sum(-1).cumsum(1)
    squares = middle.square().sum(-1).cumsum(1)
    known = torch.where(squares > 0, products / squares, 0.0)
    twice_cosine = functional.pad(known, (0, 0, 1, 0))  # [sequence, query, pair]
    return (twice_cosine[..., None] * pairs[:, 1:] - pairs[:, :-1]).flatten(2)


def checked_step_sizes(step_sizes: StepSizes) -> list[float]:
    """Step sizes as a list; a single number is one step. They may come from numpy or torch.

    Raises:
        ArgumentError: None, or one that is no finite number.
    """
    plain: Any = step_sizes
    if isinstance(step_sizes, Tensor):
        dense = step_sizes.layout == torch.strided and not step_sizes.is_meta
        plain = step_sizes.tolist() if dense else None
    elif isinstance(step_sizes, np.ndarray):
        plain = step_sizes.tolist()
    listed = plain if isinstance(plain, Sequence) else [plain]
    if not listed or not all(_is_finite(value) for value in listed):
        raise ArgumentError(
            f"step_sizes must be one finite number or more, one for each step; got {step_sizes!r}."
        )
    return [float(value) for value in listed]


def _is_finite(value: object) -> bool:
    """Whether it is a real number, no bool, that a float can hold."""
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
