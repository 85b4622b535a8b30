"""Estimators of the mixture weights λ that take steps: mirror descent, EM, maximum likelihood.

Notation: at an evidence position k, ``p_k(g) = transition[y_{k-g}, y_k]``, and ``n`` counts the
evidence. Every function takes tokens ``[sequence, position]`` of any length from ``order + 1`` and
returns ``[sequence, lag]``, float64, from all the evidence or, with ``every_query=True``,
``[sequence, query, lag]`` from the evidence up to each query position ``order … T-1``, all prefixes
at once.

Common errors: :class:`~mtd_lens.errors.TokensError` for tokens that do not fit the task, or for a
sequence that is impossible under it; :class:`~mtd_lens.errors.ArgumentError` for step sizes or
counts that are not positive.
"""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mtd_lens.errors import ArgumentError
from mtd_lens.families.mtd.estimators import lag_likelihoods
from mtd_lens.families.mtd.task import MTDTask
from mtd_lens.shapes import Likelihoods, PerSequence, Weights, WeightsPerQuery
from probes import checks

StepSize = float | int | Tensor
"""One for all queries, or ``[query]``: one for each."""

_MIXTURE_FLOOR = 1e-150
"""Keeps gradients finite where a huge step has driven a weight to exactly 0."""


def mirror_descent(
    task: MTDTask,
    tokens: Tensor,
    step_size: StepSize | None = None,
    n_steps: int = 1,
    *,
    step_sizes: Iterable[StepSize] | None = None,
    prefix: bool = False,
    every_query: bool = False,
) -> Float[Tensor, "sequence *query lag"]:
    """Exponentiated gradient from the uniform point: ``λ ← λ exp(η ∇ℓ(λ))``, normalised.

    One step is ``softmax(η m Σ_k γ_k)``, what the three-layer construction computes with
    ``β = η m n`` (D'Angelo & Flammarion 2026, Proposition 3); with ``η = 1/(m+1)`` and a
    uniform prior it agrees with exact Bayes to first order around no evidence (their Theorem 1).

    The gradient at query t is ``Σ_{k≤t} p_k(g) / (λ_t · p_k)``. From the second step on its terms
    need the query's own λ_t, which an earlier position k of a causal network cannot know. With
    ``prefix=True`` each term is one that position k can form by itself, from the evidence up to
    and including k: writing ``λ_t^(i)`` for the weights at position t after i steps,

        λ_t^(i) ∝ λ_t^(i-1) exp(η_i Σ_{k≤t} p_k(g) / (λ_k^(i-1) · p_k)),  λ^(0) = 1/m,

    in which λ_k^(i-1) stands where λ_t^(i-1) would. The first step is the same in both.

    Args:
        task: The task.
        tokens: ``[sequence, position]``.
        step_size: η > 0: a number or, to use a different one at each query, a tensor ``[query]``.
        n_steps: Number of steps of size ``step_size``.
        step_sizes: In place of the two above, a number or tensor ``[query]`` for each step.
        prefix: Use position k's own weights at position k. Then a tensor ``[query]`` has an entry
            for every query position, with or without ``every_query``.
        every_query: Estimate from every prefix.

    Returns:
        ``[sequence, lag]`` or, with ``every_query``, ``[sequence, query, lag]``; float64.

    Raises:
        TokensError: Tokens that do not fit the task, or that are impossible under it.
        ArgumentError: Steps that are not positive, of other numbers, or so large that they
            overflow.

    Examples:
        >>> import mtd_lens, torch
        >>> task = mtd_lens.MTDTask([[0.9, 0.1], [0.4, 0.6]], order=2, seq_len=4)
        >>> mtd_lens.mirror_descent(task, torch.tensor([[0, 1, 0]]), step_size=1 / 3)
        tensor([[0.4362, 0.5638]], dtype=torch.float64)
    """
    likelihoods = lag_likelihoods(task, tokens)
    n_queries = likelihoods.shape[1] if prefix or every_query else 1
    steps = [
        _checked_step(step, what, n_queries, likelihoods)
        for step, what in _listed_steps(step_size, n_steps, step_sizes)
    ]
    take = prefix_steps if prefix else mirror_steps
    weights = take(likelihoods, steps, every_query=every_query)
    if not weights.isfinite().all():
        given = step_size if step_sizes is None else step_sizes
        raise ArgumentError(f"step_size {given!r} overflows float64. Use a smaller one.")
    return _squeeze(weights, every_query)


def mirror_steps(
    likelihoods: Likelihoods, steps: Iterable[Tensor], *, every_query: bool = False
) -> WeightsPerQuery:
    """``mirror_descent`` from likelihoods; differentiable in the steps, scalars or ``[query, 1]``.

    Returns:
        ``[sequence, query, lag]``, of one query unless ``every_query``.
    """
    steps = list(steps)
    if not every_query and all(step.numel() == 1 for step in steps):
        sizes = torch.stack([step.reshape(()) for step in steps]).to(likelihoods)
        return _ScalarSteps.apply(likelihoods, sizes)[:, None]
    seen = _seen(likelihoods, every_query)
    log_weights = _uniform(likelihoods, seen).log()
    for step in steps:
        gradient = _gradient(likelihoods, log_weights.exp(), seen)
        log_weights = torch.log_softmax(log_weights + step * gradient, -1)
    return log_weights.exp()


class _ScalarSteps(torch.autograd.Function):
    """Steps of one size each from all the evidence, with their derivatives in the sizes.

    A step's derivatives in all earlier sizes go through the Hessian of the log-likelihood, a small
    matrix a sequence, so that they cost one more product a step, whatever their number. The lag is
    kept in front, which is several times as fast.
    """

    @staticmethod
    def forward(ctx: Any, likelihoods: Likelihoods, sizes: Float[Tensor, " step"]) -> Weights:
        by_lag = likelihoods.permute(2, 0, 1).contiguous()
        n_lags, n = by_lag.shape[:2]
        log_weights = by_lag.new_full((n_lags, n), 1 / n_lags).log()
        slopes = by_lag.new_zeros(0, n_lags, n)  # of the log weights in the sizes so far
        sloped = ctx.needs_input_grad[1]
        for size in sizes:
            weights = log_weights.exp()
            ratios = _ratios(by_lag, weights[..., None])
            gradient = ratios.sum(-1)
            log_weights = torch.log_softmax(log_weights + size * gradient, 0)
            if not sloped:
                continue
            if len(slopes):
                by_sequence = ratios.transpose(0, 1)
                hessian = by_sequence @ by_sequence.transpose(1, 2)  # of minus the log-likelihood
                change = torch.einsum("ngh,khn->kgn", hessian, weights * slopes)
                slopes = slopes - size * change
            slopes = torch.cat([slopes, gradient[None]])
            slopes = slopes - (log_weights.exp() * slopes).sum(1, keepdim=True)
        weights = log_weights.exp()
        ctx.save_for_backward(weights * slopes)
        return weights.T.contiguous()

    @staticmethod
    def backward(ctx: Any, grad: Weights) -> tuple[None, Float[Tensor, " step"]]:
        (slopes,) = ctx.saved_tensors
        return None, torch.einsum("kgn,ng->k", slopes, grad)


def prefix_steps(
    likelihoods: Likelihoods, steps: Iterable[Tensor], *, every_query: bool = False
) -> WeightsPerQuery:
    """``mirror_descent`` with ``prefix=True`` from likelihoods; differentiable in the steps.

    Queries and evidence stand at the same positions, so each pass is one running sum. The lag is
    kept in front, which is several times as fast.
    """
    by_lag = likelihoods.permute(2, 0, 1).contiguous()
    first, *later = (step.squeeze(-1) for step in steps)
    uniform = by_lag.new_tensor(1 / len(by_lag))
    log_weights = first * _ratios(by_lag, uniform).cumsum(-1)
    for step in later:
        log_weights = log_weights + step * _ratios(by_lag, log_weights.softmax(0)).cumsum(-1)
    log_weights = log_weights if every_query else log_weights[..., -1:]
    return log_weights.softmax(0).permute(1, 2, 0)


def _ratios(by_lag: Float[Tensor, "lag sequence evidence"], weights: Tensor) -> Tensor:
    """``p_k(g) / (λ · p_k)``, the terms of the gradient, with the lag in front."""
    return by_lag / (by_lag * weights).sum(0).clamp_min(_MIXTURE_FLOOR)


def expectation_maximization(
    task: MTDTask, tokens: Tensor, n_steps: int = 1, *, every_query: bool = False
) -> Float[Tensor, "sequence *query lag"]:
    """EM from the uniform point: ``λ_g ← mean_k γ_k(g; λ)``.

    Args:
        task: The task.
        tokens: ``[sequence, position]``.
        n_steps: Number of steps.
        every_query: Estimate from every prefix.

    Returns:
        ``[sequence, lag]`` or, with ``every_query``, ``[sequence, query, lag]``; float64.

    Raises:
        TokensError: Tokens that do not fit the task, or that are impossible under it.
        ArgumentError: A number of steps below 1.

    Examples:
        >>> import mtd_lens, torch
        >>> task = mtd_lens.MTDTask([[0.9, 0.1], [0.4, 0.6]], order=2, seq_len=4)
        >>> mtd_lens.expectation_maximization(task, torch.tensor([[0, 1, 0]]))
        tensor([[0.3077, 0.6923]], dtype=torch.float64)
    """
    likelihoods = lag_likelihoods(task, tokens)
    seen = _seen(likelihoods, every_query)
    weights = _uniform(likelihoods, seen)
    for _ in range(checks.integer(n_steps, "n_steps", 1, ArgumentError)):
        weights = _em_step(likelihoods, weights, seen)
    return _squeeze(weights, every_query)


def em_path(likelihoods: Likelihoods, n_steps: int) -> list[Weights]:
    """The estimates of EM from all the evidence after 1, 2, …, ``n_steps`` steps."""
    seen = _seen(likelihoods, every_query=False)
    path = [_uniform(likelihoods, seen)]
    for _ in range(n_steps):
        path.append(_em_step(likelihoods, path[-1], seen))
    return [weights[:, 0] for weights in path[1:]]


def maximum_likelihood(
    task: MTDTask, tokens: Tensor, *, gap: float | int = 1e-12
) -> Float[Tensor, "sequence lag"]:
    """The maximum likelihood estimate of λ, by an interior-point Newton method.

    On the simplex ``Σ_g λ_g ∂_g ℓ`` is constant, so the constraint can be traded for a linear term:
    ``n Σ_g λ_g − ℓ(λ) − μ Σ_g log λ_g`` is minimised over the positive orthant by damped Newton
    steps while μ falls. Where the maximum is not unique, its analytic centre is found.

    Args:
        task: The task.
        tokens: ``[sequence, position]``.
        gap: Bound on ``max ℓ − ℓ(estimate)`` in nats, per evidence position.

    Returns:
        ``[sequence, lag]``, float64.

    Raises:
        TokensError: Tokens that do not fit the task, or that are impossible under it.
        ArgumentError: A gap outside (0, 1].
    """
    gap = checks.number(gap, "gap", 0.0, 1.0, ArgumentError)
    likelihoods = lag_likelihoods(task, tokens)
    return likeliest_weights(likelihoods, torch.ones_like(likelihoods[..., 0]), gap)


def likeliest_weights(
    likelihoods: Likelihoods, mass: Float[Tensor, "sequence evidence"], gap: float = 1e-12
) -> Weights:
    """The λ that maximises ``Σ_k mass_k log(λ · p_k)``, as in ``maximum_likelihood``.

    Args:
        likelihoods: ``[sequence, evidence, lag]``: p_k(g). Evidence that no lag can explain is left
            out.
        mass: How much each piece of evidence counts, at least 0, not 0 for all of a sequence.
        gap: Bound on what a sequence's maximum exceeds the estimate's value by, in nats, with the
            mass normalised.

    Returns:
        ``[sequence, lag]``, on the simplex, float64.
    """
    largest = likelihoods.amax(-1, keepdim=True)
    scaled = torch.where(largest > 0, likelihoods / largest, torch.ones_like(likelihoods))
    mass = torch.where(largest[..., 0] > 0, mass, torch.zeros_like(mass))
    mass = mass / mass.sum(-1, keepdim=True)
    n_lags = likelihoods.shape[-1]
    weights = likelihoods.new_full((len(likelihoods), n_lags), 1 / n_lags)
    barrier = 1.0
    while barrier > gap / n_lags:
        barrier = max(barrier / 10, gap / n_lags)
        for _ in range(_NEWTON_STEPS):
            weights, decrement = _newton_step(scaled, mass, weights, barrier)
            if float(decrement.max()) < _NEWTON_TOLERANCE * barrier:
                break
    return weights / weights.sum(-1, keepdim=True)


_NEWTON_STEPS = 50
_NEWTON_TOLERANCE = 1e-8
_BACKTRACKS = 40


def _newton_step(
    scaled: Likelihoods,
    mass: Float[Tensor, "sequence evidence"],
    weights: Float[Tensor, "sequence lag"],
    barrier: float,
) -> tuple[Float[Tensor, "sequence lag"], PerSequence]:
    """One Newton step with backtracking, and its decrement (predicted decrease, twice).

    Coordinates are scaled by the weights, so that a weight near 0 costs no precision.
    """

    def objective(at: Tensor) -> Tensor:
        mixture = torch.einsum("nel,nl->ne", scaled, at)
        return at.sum(-1) - (mass * mixture.log()).sum(-1) - barrier * at.log().sum(-1)

    ratios = scaled * weights[:, None] / torch.einsum("nel,nl->ne", scaled, weights)[..., None]
    gradient = weights - torch.einsum("ne,nel->nl", mass, ratios) - barrier
    hessian = torch.einsum("ne,nel,neh->nlh", mass, ratios, ratios)
    hessian = hessian + barrier * torch.eye(scaled.shape[-1]).to(hessian)
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


def _listed_steps(
    step_size: StepSize | None, n_steps: int, step_sizes: Iterable[StepSize] | None
) -> list[tuple[StepSize, str]]:
    """A step size for each step, with what to call it in errors."""
    if (step_size is None) == (step_sizes is None):
        came = "neither" if step_size is None else "both"
        raise ArgumentError(
            "give either step_size, with n_steps for more than one step, or step_sizes with one "
            f"entry a step; got {came}."
        )
    n_steps = checks.integer(n_steps, "n_steps", 1, ArgumentError)
    if step_size is not None:
        return [(step_size, "step_size")] * n_steps
    try:
        listed = [] if step_sizes is None or isinstance(step_sizes, str) else list(step_sizes)
    except TypeError:  # a number, or a tensor without axes
        listed = []
    if not listed or n_steps not in (1, len(listed)):
        raise ArgumentError(
            "step_sizes must list one step size for each step, and n_steps be left out; got "
            f"step_sizes={step_sizes!r}" + (f" and n_steps={n_steps}." if n_steps > 1 else ".")
        )
    return [(step, f"step_sizes[{index}]") for index, step in enumerate(listed)]


def _checked_step(value: StepSize, what: str, n_queries: int, like: Tensor) -> Tensor:
    """A step size as a scalar, or as ``[query, 1]``."""
    try:
        step = torch.as_tensor(value, dtype=torch.float64, device=like.device)
    except (TypeError, ValueError, RuntimeError):
        step = like.new_tensor(torch.nan)
    if not ((step > 0).all() and step.isfinite().all()) or step.ndim > 1:
        raise ArgumentError(
            f"{what} must be positive and finite, a number or one a query; got {value!r}."
        )
    if step.ndim == 1 and len(step) != n_queries:
        raise ArgumentError(
            f"{what} has {len(step)} entries for {n_queries} queries. Pass one number, or one "
            "entry a query together with every_query=True or prefix=True."
        )
    return step.reshape(-1, 1)


def _em_step(
    likelihoods: Likelihoods, weights: WeightsPerQuery, seen: Float[Tensor, "query evidence"]
) -> WeightsPerQuery:
    return weights * _gradient(likelihoods, weights, seen) / seen.sum(1)[:, None]


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
