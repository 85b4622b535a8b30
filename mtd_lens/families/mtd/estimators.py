"""Reference estimators of the mixture weights λ, batched and in float64.

Notation: at an evidence position k, ``p_k(g) = transition[y_{k-g}, y_k]``. Every function takes
tokens ``[sequence, position]`` of any length from ``order + 1``. Those that estimate λ return
``[sequence, lag]`` from all the evidence or, with ``every_query=True``, ``[sequence, query, lag]``
from the evidence up to each query position ``order … T-1``, all prefixes at once.

Common errors: :class:`~mtd_lens.errors.TokensError` for tokens that do not fit the task, or for a
sequence that is impossible under it; :class:`~mtd_lens.errors.ArgumentError` for weights off the
simplex and step sizes or counts that are not positive.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mtd_lens.errors import ArgumentError, TokensError
from mtd_lens.families.mtd.task import MTDTask, check_tokens
from mtd_lens.shapes import Likelihoods, PerSequence, Responsibilities
from probes import checks

SIMPLEX_TOLERANCE = 1e-5

_MIXTURE_FLOOR = 1e-150
"""Keeps gradients finite where a huge step has driven a weight to exactly 0."""


def lag_likelihoods(task: MTDTask, tokens: Tensor) -> Likelihoods:
    """``p_k(g)``, the probability of each token given its parent at each lag.

    Returns:
        ``[sequence, evidence, lag]``, float64, in [0, 1].
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

    Args:
        task: The task.
        tokens: ``[sequence, position]``.
        weights: ``[sequence, lag]`` or ``[lag]`` on the simplex; uniform if None.

    Returns:
        ``[sequence, evidence, lag]``, sums to 1 over lags; differentiable in ``weights``.
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

    Args:
        task: The task.
        tokens: ``[sequence, position]``.
        weights: ``[sequence, lag]`` or ``[lag]`` on the simplex; uniform if None.

    Returns:
        ``[sequence]``; differentiable in ``weights``.
    """
    likelihoods = lag_likelihoods(task, tokens)
    weights = _checked_weights(task, weights, likelihoods)
    return (likelihoods * weights[:, None]).sum(-1).log().sum(-1)


def mirror_descent(
    task: MTDTask,
    tokens: Tensor,
    step_size: Any,
    n_steps: Any = 1,
    *,
    every_query: bool = False,
) -> Float[Tensor, "sequence *query lag"]:
    """Exponentiated gradient from the uniform point: ``λ ← λ exp(η ∇ℓ(λ))``, normalised.

    One step is ``softmax(η m Σ_k γ_k)``, what the three-layer construction computes with
    ``β = η m n`` (D'Angelo & Flammarion 2026).

    Args:
        task: The task.
        tokens: ``[sequence, position]``.
        step_size: η > 0: a number or, to use a different one at each query, a tensor ``[query]``.
        n_steps: Number of steps.
        every_query: Estimate from every prefix.
    """
    likelihoods = lag_likelihoods(task, tokens)
    seen = _seen(likelihoods, every_query)
    try:
        step = torch.as_tensor(step_size, dtype=torch.float64, device=likelihoods.device)
    except (TypeError, ValueError, RuntimeError):
        step = likelihoods.new_tensor(torch.nan)
    if not ((step > 0).all() and step.isfinite().all()) or step.ndim > 1:
        raise ArgumentError(
            f"step_size must be positive and finite, a number or one a query; got {step_size!r}."
        )
    if step.ndim == 1 and len(step) != len(seen):
        raise ArgumentError(
            f"step_size has {len(step)} entries for {len(seen)} queries. "
            "Pass one number, or one entry a query together with every_query=True."
        )
    step = step.reshape(-1, 1)
    n_steps = checks.integer(n_steps, "n_steps", 1, ArgumentError)
    log_weights = _uniform(likelihoods, seen).log()
    for _ in range(n_steps):
        gradient = _gradient(likelihoods, log_weights.exp(), seen)
        log_weights = torch.log_softmax(log_weights + step * gradient, -1)
    if not log_weights.isfinite().all():
        raise ArgumentError(f"step_size {step_size!r} overflows float64. Use a smaller one.")
    return _squeeze(log_weights.exp(), every_query)


def expectation_maximization(
    task: MTDTask, tokens: Tensor, n_steps: Any = 1, *, every_query: bool = False
) -> Float[Tensor, "sequence *query lag"]:
    """EM from the uniform point: ``λ_g ← mean_k γ_k(g; λ)``.

    Args:
        task: The task.
        tokens: ``[sequence, position]``.
        n_steps: Number of steps.
        every_query: Estimate from every prefix.
    """
    likelihoods = lag_likelihoods(task, tokens)
    seen = _seen(likelihoods, every_query)
    counts = seen.sum(1)[:, None]
    weights = _uniform(likelihoods, seen)
    for _ in range(checks.integer(n_steps, "n_steps", 1, ArgumentError)):
        weights = weights * _gradient(likelihoods, weights, seen) / counts
    return _squeeze(weights, every_query)


def maximum_likelihood(
    task: MTDTask, tokens: Tensor, *, gap: Any = 1e-12
) -> Float[Tensor, "sequence lag"]:
    """The maximum likelihood estimate of λ, by an interior-point Newton method.

    On the simplex ``Σ_g λ_g ∂_g ℓ`` is constant, so the constraint can be traded for a linear term:
    ``n Σ_g λ_g − ℓ(λ) − μ Σ_g log λ_g`` is minimised over the positive orthant by damped Newton
    steps while μ falls. Where the maximum is not unique, its analytic centre is found.

    Args:
        task: The task.
        tokens: ``[sequence, position]``.
        gap: Bound on ``max ℓ − ℓ(estimate)`` in nats, per evidence position.
    """
    gap = checks.number(gap, "gap", 0.0, 1.0, ArgumentError)
    likelihoods = lag_likelihoods(task, tokens)
    scaled = likelihoods / likelihoods.amax(-1, keepdim=True)
    weights = likelihoods.new_full((len(likelihoods), task.order), 1 / task.order)
    barrier = 1.0
    while barrier > gap / task.order:
        barrier = max(barrier / 10, gap / task.order)
        for _ in range(_NEWTON_STEPS):
            weights, decrement = _newton_step(scaled, weights, barrier)
            if float(decrement.max()) < _NEWTON_TOLERANCE * barrier:
                break
    return weights / weights.sum(-1, keepdim=True)


_NEWTON_STEPS = 50
_NEWTON_TOLERANCE = 1e-8
_BACKTRACKS = 40


def _newton_step(
    scaled: Likelihoods, weights: Float[Tensor, "sequence lag"], barrier: float
) -> tuple[Float[Tensor, "sequence lag"], PerSequence]:
    """One Newton step with backtracking, and its decrement (predicted decrease, twice).

    Coordinates are scaled by the weights, so that a weight near 0 costs no precision.
    """

    def objective(at: Tensor) -> Tensor:
        mixture = torch.einsum("nel,nl->ne", scaled, at)
        return at.sum(-1) - mixture.log().mean(-1) - barrier * at.log().sum(-1)

    n_evidence, m = scaled.shape[1:]
    ratios = scaled * weights[:, None] / torch.einsum("nel,nl->ne", scaled, weights)[..., None]
    gradient = weights - ratios.mean(1) - barrier
    hessian = torch.einsum("nel,neh->nlh", ratios, ratios) / n_evidence
    hessian = hessian + barrier * torch.eye(m).to(hessian)
    direction = torch.linalg.solve(hessian, -gradient)
    decrement = -(gradient * direction).sum(-1)
    step = (0.9 / direction.abs().amax(-1).clamp_min(0.9)).unsqueeze(-1)
    before = objective(weights)
    rounding = 4 * torch.finfo(before.dtype).eps * before.abs().clamp_min(1)
    for _ in range(_BACKTRACKS):
        proposal = weights * (1 + step * direction)
        worse = objective(proposal) > before - 1e-4 * step[:, 0] * decrement + rounding
        if not worse.any():
            break
        step = torch.where(worse[:, None], step / 2, step)
    return proposal, decrement


def predict(
    task: MTDTask, tokens: Tensor, weights: Tensor
) -> Float[Tensor, "sequence *query token"]:
    """Distribution of the next token, ``P(y_{t+1} = b) = Σ_g λ_g transition[y_{t+1-g}, b]``.

    Args:
        task: The task.
        tokens: ``[sequence, position]``.
        weights: ``[sequence, lag]`` to predict after the last position, or
            ``[sequence, query, lag]`` to predict after each query position ``order … T-1``.

    Returns:
        ``[sequence, token]`` or ``[sequence, query, token]``; differentiable in ``weights``.
    """
    rows = parent_rows(task, tokens)
    if not isinstance(weights, Tensor) or weights.ndim not in (2, 3):
        raise ArgumentError(
            "weights must be a tensor, [sequence, lag] or [sequence, query, lag]; got "
            f"{tuple(weights.shape) if isinstance(weights, Tensor) else type(weights).__name__}."
        )
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
    if not isinstance(weights, Tensor) or not weights.is_floating_point():
        raise ArgumentError("weights must be a floating-point tensor, [sequence, lag] or [lag].")
    weights = weights.to(like.device, torch.float64)
    if weights.ndim == 1:
        return on_simplex(weights, (m,)).expand(n, m)
    return on_simplex(weights, (n, m))


def _seen(likelihoods: Likelihoods, every_query: bool) -> Float[Tensor, "query evidence"]:
    """Which evidence each query uses: all of it for the last query, or every prefix."""
    n_evidence = likelihoods.shape[1]
    everything = likelihoods.new_ones(n_evidence, n_evidence).tril()
    return everything if every_query else everything[-1:]


def _uniform(likelihoods: Tensor, seen: Tensor) -> Tensor:
    n, _, m = likelihoods.shape
    return likelihoods.new_full((n, len(seen), m), 1 / m)


def _gradient(
    likelihoods: Likelihoods,
    weights: Float[Tensor, "sequence query lag"],
    seen: Float[Tensor, "query evidence"],
) -> Float[Tensor, "sequence query lag"]:
    """``∇_g ℓ = Σ_k p_k(g) / (λ · p_k)``, the sum over the evidence of each query."""
    mixture = torch.einsum("nel,nql->nqe", likelihoods, weights).clamp_min(_MIXTURE_FLOOR)
    return torch.einsum("nqe,nel->nql", seen / mixture, likelihoods)


def _squeeze(weights: Tensor, every_query: bool) -> Tensor:
    return weights if every_query else weights[:, 0]
