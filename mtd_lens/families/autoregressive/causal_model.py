"""The high-level algorithm that models are held against: one step of gradient descent.

``augmented_token -> inner_products -> prediction``: the pair ``(s_t, s_{t-1})``, the products
``η⟨s_t, s_{j-1}⟩`` with earlier vectors, and ``Σ_j η⟨s_t, s_{j-1}⟩ s_j``, which is ``Ŵ s_t`` with
``Ŵ = η Σ_j s_j s_{j-1}ᵀ``, at every query position 1 … T-1.
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
from mtd_lens.families.autoregressive.task import AutoregressiveTask, check_task, check_tokens
from probes import checks

MAX_STEP_SIZE = 1e6

STEP_SPAN = 2.0
"""A model's step size is sought within this factor of the task's best one, on either side."""

AT_BOUND = 1e-6
"""A fitted step size within this share of an end of its range counts as being there."""


@dataclass(frozen=True)
class AutoregressiveCausalModel(Intervenable):
    """One step of gradient descent from 0, stage by stage, with interventions.

    The stages are those of linear attention on augmented tokens (Sander et al. 2024, section 3).

    Attributes:
        task: The task.
        step_size: η of the step, at least 0; 0 predicts the zero vector.
        interventions: Variables held at values, ``[sequence, query, entry]`` each.
        step_size_at_bound: True if η was fitted and lies at the end of the range that was
            searched, so that it is no estimate.

    Raises:
        ArgumentError: No AutoregressiveTask, or a step size out of range.

    Examples:
        >>> import mtd_lens
        >>> task = mtd_lens.AutoregressiveTask(dim=3, seq_len=8)
        >>> tokens = task.sample(4, seed=0).tokens
        >>> found = mtd_lens.AutoregressiveCausalModel(task, step_size=0.4).run(tokens)
        >>> {name: tuple(value.shape) for name, value in found.items()}
        {'augmented_token': (4, 7, 6), 'inner_products': (4, 7, 7), 'prediction': (4, 7, 3)}
    """

    task: Any
    step_size: Any
    interventions: Mapping[str, Tensor] = field(default_factory=dict)
    step_size_at_bound: bool = False

    variables = ("augmented_token", "inner_products", "prediction")

    def __post_init__(self) -> None:
        check_task(self.task)
        object.__setattr__(self, "step_size", check_step_size(self.step_size))

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
            comes after the query; ``prediction`` as ``[sequence, query, component]``.

        Raises:
            TokensError: Tokens that do not fit the task.
            ArgumentError: An intervention whose shape does not fit.
        """
        vectors = check_tokens(self.task, tokens)
        augmented = self.held("augmented_token", torch.cat([vectors[:, 1:], vectors[:, :-1]], -1))
        current, previous = augmented.chunk(2, -1)
        products = self.step_size * torch.einsum("nqc,nec->nqe", current, previous).tril()
        products = self.held("inner_products", products)
        prediction = self.held("prediction", products @ current)
        return dict(zip(self.variables, (augmented, products, prediction), strict=True))


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
