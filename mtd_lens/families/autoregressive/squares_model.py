"""A rival of gradient descent: least squares, as a causal model.

``augmented_token -> estimate -> prediction``: the pair ``(s_t, s_{t-1})``, the matrix that takes
each vector before to the one after it with least squared error, and what it makes of ``s_t``, at
every query position 1 … T-1.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from mtd_lens.algorithms import Staged, positions_from
from mtd_lens.contracts import LAST
from mtd_lens.families.autoregressive import estimators
from mtd_lens.families.autoregressive.task import AutoregressiveTask, check_task, check_tokens


@dataclass(frozen=True)
class LeastSquaresCausalModel(Staged):
    """Least squares on the context, stage by stage, with interventions.

    It is what many steps of gradient descent tend to (Sander et al. 2024, section 3). Where several
    matrices fit alike it is the one of least norm.

    Attributes:
        task: The task.
        interventions: Variables held at values, ``[sequence, query, entry]`` each.

    Raises:
        ArgumentError: No AutoregressiveTask.

    Examples:
        >>> import mtd_lens
        >>> task = mtd_lens.AutoregressiveTask(dim=3, seq_len=8)
        >>> found = mtd_lens.LeastSquaresCausalModel(task).run(task.sample(4, seed=0).tokens)
        >>> {name: tuple(value.shape) for name, value in found.items()}
        {'augmented_token': (4, 7, 6), 'estimate': (4, 7, 9), 'prediction': (4, 7, 3)}
    """

    task: Any
    interventions: Mapping[str, Tensor] = field(default_factory=dict)

    variables = ("augmented_token", "estimate", "prediction")
    source = "least squares"

    def __post_init__(self) -> None:
        check_task(self.task)

    @property
    def parameters(self) -> Mapping[str, float]:
        """None: there is nothing to fit."""
        return {}

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
            before it; ``estimate`` as ``[sequence, query, component · component]``, row by row;
            ``prediction`` as ``[sequence, query, component]``.

        Raises:
            TokensError: Tokens that do not fit the task.
            ArgumentError: An intervention whose shape does not fit.
        """
        return self._run(tokens)

    def _stages(self, tokens: Tensor, queries: slice) -> tuple[Tensor, ...]:
        """The variables in order, those after the augmented token at some queries alone."""
        vectors = check_tokens(self.task, tokens)
        augmented = self.held("augmented_token", torch.cat([vectors[:, 1:], vectors[:, :-1]], -1))
        current, previous = augmented.chunk(2, -1)
        last_only = queries == LAST
        fitted = estimators.fitted_matrices(previous, current, last_only=last_only)
        estimate = self.held("estimate", fitted.flatten(-2), queries)
        matrices = estimate.unflatten(-1, (self.task.dim, self.task.dim))
        prediction = torch.einsum("nqij,nqj->nqi", matrices, current[:, queries])
        return augmented, estimate, self.held("prediction", prediction, queries)


def least_squares_model(
    task: AutoregressiveTask, tokens: Tensor, predictions: Tensor
) -> LeastSquaresCausalModel:
    """Least squares, which has nothing to fit.

    Args:
        task: The task.
        tokens: ``[sequence, position, component]``.
        predictions: ``[sequence, component]``: the model's, after the last position.
    """
    return LeastSquaresCausalModel(task)
