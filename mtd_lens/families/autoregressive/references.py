"""The reference estimators that a model's predictions are held against, fitted to follow a target.

==================  ==============================================================================
zero                no estimate: the zero vector
last vector         the last vector again
one step            gradient descent from 0
k steps             k steps of the same size, k = 2, 3, 4
k steps, free       k steps, each of its own size
k steps, prefix     k steps of the same size, as causal layers can take them
least squares       the minimiser, of least norm
trigonometric rule  ``2 cos θ s_t - s_{t-1}`` (unitary ensemble alone)
==================  ==============================================================================
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

import probes
from mtd_lens.algorithms import FIT_SEED, N_FIT_SEQUENCES, search, with_flag
from mtd_lens.contracts import Reference
from mtd_lens.families.autoregressive import estimators
from mtd_lens.families.autoregressive.task import AutoregressiveTask, Vectors, check_tokens

MAX_STEPS = 4

DESCENTS = {
    "one step": (1, True),
    **{f"{k} steps": (k, False) for k in range(2, MAX_STEPS + 1)},
    **{f"{k} steps, prefix": (k, True) for k in range(2, MAX_STEPS + 1)},
}
"""Steps of one size: how many, and whether causal layers take them."""


def containing(name: str) -> tuple[str, ...]:
    """Estimators of which steps of one size are a special case, with further sizes at 0."""
    n_steps, causal = DESCENTS[name]
    if causal and n_steps > 1:
        return ()
    return tuple(f"{k} steps, free" for k in range(max(n_steps, 2), MAX_STEPS + 1))


STEP_SPAN = (1e-2, 1e1)
"""Common step sizes are sought between these multiples of the inverse mean eigenvalue."""

N_GRID = 40
"""Step sizes tried before the search, since the error has several minima in it."""

TIE = 1e-9
"""Free steps are better than fewer if their squared error is less by this share of the target."""

_AT_BOUND = 1e-3
"""A log step size this close to an end of its range counts as being there."""

Fitted = dict[str, float]
Predictor = Callable[[Vectors, Tensor], Tensor]


def references(
    task: AutoregressiveTask,
    fit_tokens: Float[Tensor, "fit position component"],
    fit_target: Float[Tensor, "fit component"],
    tokens: Vectors,
    target_first: bool = True,
) -> dict[str, Reference]:
    """Every reference estimator's prediction after ``tokens``, with what was fitted.

    Step sizes are fitted on the fit split, to follow ``fit_target``. Free steps that follow it no
    better than fewer are those.

    Args:
        task: The task.
        fit_tokens: ``[fit, position, component]``: for fitting.
        fit_target: ``[fit, component]``: vectors to follow, a model's or the truth.
        tokens: ``[sequence, position, component]``.
        target_first: Which way round the divergence is; squared error is the same both ways.

    Returns:
        By name, predictions and fitted parameters: ``step_size``, or ``step_size_1``, … where steps
        are free and real.
    """
    fit_tokens, tokens = check_tokens(task, fit_tokens), check_tokens(task, tokens)
    last = tokens[:, -1]
    found = {"zero": Reference(torch.zeros_like(last)), "last vector": Reference(last)}
    least = math.inf
    for n_steps in range(1, MAX_STEPS + 1):
        name = "one step" if n_steps == 1 else f"{n_steps} steps"
        fit_basis, basis = krylov(fit_tokens, n_steps), krylov(tokens, n_steps)
        fitted, coefficients = fit_tied(fit_tokens, fit_target, fit_basis)
        found[name] = Reference(basis @ coefficients, fitted)
        if n_steps == 1:
            free = found[name]
            least = _relative_error(fit_basis @ coefficients, fit_target)
            continue
        coefficients = fit_polynomial(fit_tokens, fit_target, n_steps)
        error = _relative_error(fit_basis @ coefficients, fit_target)
        if error < least - TIE:
            least = error
            free = Reference(basis @ coefficients, free_step_sizes(coefficients))
        found[f"{name}, free"] = free
        fit_basis, basis = krylov_prefix(fit_tokens, n_steps), krylov_prefix(tokens, n_steps)
        fitted, coefficients = fit_tied(fit_tokens, fit_target, fit_basis)
        found[f"{name}, prefix"] = Reference(basis @ coefficients, fitted)
    squares = estimators.least_squares(tokens, last_only=True)
    found["least squares"] = Reference(estimators.predict_next(tokens, squares)[:, 0])
    if task.ensemble == "unitary":
        rule = estimators.trigonometric_rule(task, tokens)[:, -1]
        found["trigonometric rule"] = Reference(rule)
    return found


def krylov(tokens: Vectors, n_steps: int) -> Float[Tensor, "sequence component step"]:
    """``C Gᵏ s`` for k = 0 … n_steps - 1, C the cross moments and G the Gram matrix.

    Predictions of ``n_steps`` steps of gradient descent are linear in these, whatever the sizes.
    """
    cross, gram = (moment[:, 0] for moment in estimators.moments(tokens, last_only=True))
    vector, powers = tokens[:, -1:].transpose(1, 2), []
    for _ in range(n_steps):
        powers.append(cross @ vector)
        vector = gram @ vector
    return torch.cat(powers, -1)


def krylov_prefix(tokens: Vectors, n_steps: int) -> Float[Tensor, "sequence component step"]:
    """``q Lᵏ r`` for k = 0 … n_steps - 1: what :func:`krylov` is to steps of causal layers.

    q holds the products of the last vector with the keys ``s_0 … s_{T-2}``, L is the lower triangle
    of the keys' products with each other, r the values ``s_1 … s_{T-1}``.
    """
    keys, values, powers = tokens[:, :-1], tokens[:, 1:], []
    query = torch.einsum("nc,nic->ni", tokens[:, -1], keys)
    lower = torch.einsum("njc,nic->nji", keys, keys).tril()
    for _ in range(n_steps):
        powers.append(torch.einsum("ni,nic->nc", query, values))
        values = lower @ values
    return torch.stack(powers, -1)


def step_coefficients(step_sizes: Sequence[float]) -> Float[Tensor, " step"]:
    """What steps of these sizes multiply :func:`krylov` by, and causal ones its prefix variant.

    They are those of p in ``1 - x p(x) = Π_i (1 - η_i x)``.
    """
    product = np.ones(1)
    for step_size in step_sizes:
        product = np.convolve(product, [1.0, -step_size])
    return torch.from_numpy(-product[1:])


def fit_polynomial(
    tokens: Vectors, target: Float[Tensor, "sequence component"], n_steps: int
) -> Float[Tensor, " step"]:
    """The coefficients of :func:`krylov` that follow a target best, by least squares.

    They stand for the best free step sizes, which are the inverse roots of
    ``1 - x Σ_k coefficient_k xᵏ`` (conjugate pairs of them count too).
    """
    basis = krylov(tokens, n_steps).flatten(0, 1)
    norms = basis.norm(dim=0)
    solution = torch.linalg.lstsq(basis / norms, target.to(basis).flatten()[:, None]).solution
    return solution[:, 0] / norms


def free_step_sizes(coefficients: Float[Tensor, " step"]) -> Fitted:
    """The step sizes that coefficients stand for, smallest first; none where some are complex."""
    polynomial = [*(-coefficients.flip(0)).tolist(), 1.0]
    roots = np.roots(polynomial)
    if len(roots) < len(coefficients) or np.abs(roots.imag).max() > 1e-9 * np.abs(roots).max():
        return {}
    sizes = sorted((1 / roots.real).tolist())
    return {f"step_size_{index}": size for index, size in enumerate(sizes, start=1)}


def fit_common(
    tokens: Vectors,
    target: Float[Tensor, "*row component"],
    predictor: Predictor,
    n_steps: int,
) -> Fitted:
    """The common step size with which so many steps follow a target best, with a flag at a bound.

    ``predictor`` is asked for every size tried; :func:`fit_tied` is faster at the last query.
    """

    def predict(step_size: float) -> Tensor:
        return predictor(tokens, torch.full((n_steps,), step_size, dtype=torch.float64))

    return _search(tokens, target, predict)


def fit_tied(
    tokens: Vectors,
    target: Float[Tensor, "sequence component"],
    basis: Float[Tensor, "sequence component step"],
) -> tuple[Fitted, Float[Tensor, " step"]]:
    """The common step size for :func:`krylov` or its prefix variant, and its coefficients."""
    n_steps = basis.shape[-1]

    def coefficients(step_size: float) -> Tensor:
        return step_coefficients([step_size] * n_steps).to(basis)

    fitted = _search(tokens, target, lambda step_size: basis @ coefficients(step_size))
    return fitted, coefficients(fitted["step_size"])


def _search(
    tokens: Vectors, target: Float[Tensor, "*row component"], predict: Callable[[float], Tensor]
) -> Fitted:
    """The step size whose prediction has the least squared error, with a flag at a bound.

    It is sought on a grid of logarithms and then by bounded scalar search.
    """
    mean_eigenvalue = float(tokens[:, :-1].square().sum((1, 2)).mean()) / tokens.shape[2]
    low, high = (math.log(factor / mean_eigenvalue) for factor in STEP_SPAN)

    def error(log_step: float) -> float:
        return float(probes.squared_error(target, predict(math.exp(log_step))).mean())

    grid = np.linspace(low, high, N_GRID)
    best = int(np.argmin([error(point) for point in grid]))
    around = (grid[max(best - 1, 0)], grid[min(best + 1, N_GRID - 1)])
    best_log = search(error, around, 1e-7)
    at_bound = min(best_log - low, high - best_log) < _AT_BOUND
    return with_flag("step_size", math.exp(best_log), at_bound)


def best_common_step_size(task: AutoregressiveTask, n_steps: int) -> float:
    """The step size with which so many steps predict best on the task itself."""
    batch = task.sample(N_FIT_SEQUENCES, seed=FIT_SEED)
    fitted, _ = fit_tied(batch.tokens, batch.truth, krylov(batch.tokens, n_steps))
    return fitted["step_size"]


def _relative_error(prediction: Tensor, target: Tensor) -> float:
    return float(probes.squared_error(target, prediction).mean() / target.square().sum(-1).mean())
