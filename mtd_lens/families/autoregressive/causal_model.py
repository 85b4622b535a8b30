"""The high-level algorithm that models are held against: steps of gradient descent, at first one.

``augmented_token -> inner_products -> prediction``: the pair ``(s_t, s_{t-1})``, the products
``η⟨s_t, s_{j-1}⟩`` with earlier vectors, and ``Σ_j η⟨s_t, s_{j-1}⟩ s_j``, which is ``Ŵ s_t`` with
``Ŵ = η Σ_j s_j s_{j-1}ᵀ``, at every query position 1 … T-1. Of several steps, each but the last
takes a correction ``η Σ_i ⟨s_{j-1}, s_{i-1}⟩ r_i`` from the residuals ``r_j``, at first ``s_j``,
which the next one sums in their place.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mtd_lens.algorithms import (
    FIT_SEED,
    N_FIT_SEQUENCES,
    Intervenable,
    around,
    check_fit,
    is_at_bound,
    positions_from,
    with_flag,
)
from mtd_lens.errors import ArgumentError, TokensError
from mtd_lens.families.autoregressive import estimators
from mtd_lens.families.autoregressive.references import fit_tied, krylov, krylov_prefix
from mtd_lens.families.autoregressive.task import AutoregressiveTask, check_task, check_tokens
from probes import checks

MAX_STEP_SIZE = 1e6

MAX_STEPS = 8

STEP_SPAN = 2.0
"""A model's step size is sought within this factor of the task's best one, on either side."""

AT_BOUND = 1e-6
"""A fitted step size within this share of an end of its range counts as being there."""


@dataclass(frozen=True)
class AutoregressiveCausalModel(Intervenable):
    """Gradient descent from 0, by default one step, stage by stage, with interventions.

    The stages are those of linear attention on augmented tokens (Sander et al. 2024, section 3;
    von Oswald et al. 2023 for several layers).

    Attributes:
        task: The task.
        step_size: η of each step, at least 0; 0 predicts the zero vector.
        interventions: Variables held at values, ``[sequence, query, entry]`` each.
        step_size_at_bound: True if η was fitted and lies at the end of the range that was
            searched, so that it is no estimate.
        n_steps: How many steps, 1 to 8.
        causal: Sums at a position run over what comes up to there, so that from the second step on
            residuals are those of shorter contexts (the prefix variant); or else over the whole
            sequence, so that the last query predicts as gradient descent on all of it.

    Raises:
        ArgumentError: No AutoregressiveTask, a step size or number of steps out of range, or
            ``causal`` no bool.

    Examples:
        >>> import mtd_lens
        >>> task = mtd_lens.AutoregressiveTask(dim=3, seq_len=8)
        >>> tokens = task.sample(4, seed=0).tokens
        >>> found = mtd_lens.AutoregressiveCausalModel(task, step_size=0.4).run(tokens)
        >>> {name: tuple(value.shape) for name, value in found.items()}
        {'augmented_token': (4, 7, 6), 'inner_products': (4, 7, 7), 'prediction': (4, 7, 3)}
        >>> mtd_lens.AutoregressiveCausalModel(task, step_size=0.4, n_steps=3).variables[2:]
        ('correction_1', 'correction_2', 'prediction')
    """

    task: Any
    step_size: Any
    interventions: Mapping[str, Tensor] = field(default_factory=dict)
    step_size_at_bound: bool = False
    n_steps: Any = 1
    causal: Any = True

    def __post_init__(self) -> None:
        check_task(self.task)
        object.__setattr__(self, "step_size", check_step_size(self.step_size))
        n_steps = checks.integer(self.n_steps, "n_steps", 1, ArgumentError, MAX_STEPS)
        object.__setattr__(self, "n_steps", n_steps)
        object.__setattr__(self, "causal", checks.flag(self.causal, "causal", ArgumentError))

    @property
    def variables(self) -> tuple[str, ...]:
        """``augmented_token``, ``inner_products``, a correction a step but the last, and so on."""
        return ("augmented_token", "inner_products", *corrections(self.n_steps), "prediction")

    @property
    def source(self) -> str:
        """What figures call its predictions."""
        if self.n_steps == 1:
            return "one step"
        return f"{self.n_steps} steps{', prefix' if self.causal else ''}"

    @property
    def parameters(self) -> Mapping[str, float]:
        """``step_size``, with a flag where it is no estimate."""
        return with_flag("step_size", float(self.step_size), self.step_size_at_bound)

    def query_positions(self, length: int) -> tuple[int, ...]:
        """The positions ``1 … length - 1``, before which there is a pair of vectors.

        Args:
            length: Of the sequences.
        """
        return positions_from(1, length)

    def run(self, tokens: Tensor) -> dict[str, Tensor]:
        """All variables at every query position, in float64.

        Args:
            tokens: ``[sequence, position, component]``.

        Returns:
            ``augmented_token`` as ``[sequence, query, 2 · component]``, the vector and then the one
            before it; ``inner_products`` as ``[sequence, query, evidence]``, 0 where the evidence
            comes after the query of causal steps; ``correction_1``, … of several steps, and
            ``prediction``, as ``[sequence, query, component]``.

        Raises:
            TokensError: Tokens that do not fit the task.
            ArgumentError: An intervention whose shape does not fit.
        """
        vectors = check_tokens(self.task, tokens)
        augmented = self.held("augmented_token", torch.cat([vectors[:, 1:], vectors[:, :-1]], -1))
        current, previous = augmented.chunk(2, -1)
        products = self.held("inner_products", self._products(current, previous))
        residual, found = current, []
        prediction = products @ residual
        for name in corrections(self.n_steps):
            found.append(self.held(name, self._products(previous, previous) @ residual))
            residual = residual - found[-1]
            prediction = prediction + products @ residual
        values = (augmented, products, *found, self.held("prediction", prediction))
        return dict(zip(self.variables, values, strict=True))

    def _products(self, queries: Tensor, keys: Tensor) -> Tensor:
        """``η⟨query, key⟩`` of those that the steps sum over."""
        products = self.step_size * torch.einsum("nqc,nec->nqe", queries, keys)
        return products.tril() if self.causal else products


def corrections(n_steps: int) -> tuple[str, ...]:
    """Names of what each step but the last takes from the residuals."""
    return tuple(f"correction_{step}" for step in range(1, n_steps))


def check_step_size(step_size: float | int) -> float:
    """``step_size`` as a float.

    Raises:
        ArgumentError: Not a finite number from 0 to ``MAX_STEP_SIZE``.
    """
    advice = "Leave it out to have it fitted."
    return checks.number(
        step_size, "step_size", 0, MAX_STEP_SIZE, ArgumentError, advice, low_included=True
    )


def fit_step_size(
    task: AutoregressiveTask,
    tokens: Tensor,
    targets: Tensor,
    bounds: tuple[float, float] = (0.0, MAX_STEP_SIZE),
) -> float:
    """The step size whose prediction at the last query is nearest to ``targets``.

    Minimises the mean squared error, in closed form: the prediction is proportional to it.

    Args:
        task: The task.
        tokens: ``[sequence, position, component]``.
        targets: ``[sequence, component]``, the vectors to follow.
        bounds: Of the step size; a minimiser outside is moved to the nearer end.

    Raises:
        ArgumentError: No AutoregressiveTask, targets of another shape or not finite, or bounds out
            of order.
        TokensError: Tokens that do not fit the task, or after which one step predicts nothing.
    """
    vectors = check_tokens(task, tokens)
    expected, axes = (len(vectors), task.dim), "[sequence, component]"
    low, high = check_fit(
        "step_size", targets, expected, axes, bounds, MAX_STEP_SIZE, from_zero=True
    )
    one = estimators.gradient_descent(vectors, torch.ones(1), last_only=True)
    unit = estimators.predict_next(vectors, one)[:, 0]
    square = float(unit.square().sum())
    if not 0 < square < math.inf:
        raise TokensError(
            "tokens must be vectors after which one step of gradient descent predicts something "
            f"finite and not 0; the sum of its predictions' squares is {square:g} at step_size 1, "
            "so none can be fitted. Scale them, or leave out sequences of zero vectors."
        )
    best = float((unit * targets.to(unit)).sum()) / square
    return min(max(best, low), high)


def fit_one_step(
    task: AutoregressiveTask, tokens: Tensor, predictions: Tensor
) -> AutoregressiveCausalModel:
    """One step of gradient descent with the step size that a model's predictions follow.

    Args:
        task: The task.
        tokens: ``[sequence, position, component]``.
        predictions: ``[sequence, component]``: the model's, after the last position.
    """
    bounds = around(best_step_size(task), STEP_SPAN)
    found = fit_step_size(task, tokens, predictions, bounds)
    at_bound = is_at_bound(found, bounds, AT_BOUND)
    return AutoregressiveCausalModel(task, found, step_size_at_bound=at_bound)


def fit_steps(
    task: AutoregressiveTask, tokens: Tensor, predictions: Tensor, n_steps: int, causal: bool
) -> AutoregressiveCausalModel:
    """Steps of gradient descent of the one size that a model's predictions follow.

    Args:
        task: The task.
        tokens: ``[sequence, position, component]``.
        predictions: ``[sequence, component]``: the model's, after the last position.
        n_steps: How many.
        causal: Whether they are those of causal layers.
    """
    basis = krylov_prefix if causal else krylov
    vectors = check_tokens(task, tokens)
    fitted, _ = fit_tied(vectors, predictions.to(vectors), basis(vectors, n_steps))
    at_bound = "step_size_at_bound" in fitted
    return AutoregressiveCausalModel(task, fitted["step_size"], {}, at_bound, n_steps, causal)


def best_step_size(task: AutoregressiveTask) -> float:
    """The step size that predicts best on the task itself, fitted to the true next vectors.

    Uses 2048 sequences with a fixed seed, so equal tasks get equal values.

    Args:
        task: The task.

    Raises:
        ArgumentError: No AutoregressiveTask.
    """
    batch = check_task(task).sample(N_FIT_SEQUENCES, seed=FIT_SEED)
    return fit_step_size(task, batch.tokens, batch.truth)
