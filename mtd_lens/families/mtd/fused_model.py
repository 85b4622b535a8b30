"""Mirror descent to first order, with its stages fused, as a causal model.

``responsibilities -> correction -> prediction``: posterior responsibilities under uniform weights;
what they add to the prediction for the query's own parents, to first order; and the prediction, at
every query position ``order … T-1``. No mean responsibility and no mixture weights stand anywhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from mtd_lens.algorithms import (
    around,
    check_fit,
    is_at_bound,
    nearest,
    with_flag,
)
from mtd_lens.families.mtd import estimators
from mtd_lens.families.mtd.causal_model import (
    BETA_RANGE,
    BETA_SPAN,
    MAX_BETA,
    OnMeans,
    check_beta,
    own_predictions,
)
from mtd_lens.families.mtd.task import MTDTask, check_task
from mtd_lens.shapes import Predictions, WeightsPerQuery

FLOOR = 0.05
"""Predicted probabilities that first order makes smaller, or negative, are raised to this share of
an even one, ``1/q``."""


@dataclass(frozen=True)
class FusedCausalModel(OnMeans):
    """One step of mirror descent to first order in β, with interventions.

    The prediction of one step is ``Σ_g softmax(β S_t)(g) π[y_{t+1-g}, ·]`` with the mean
    responsibility S (D'Angelo & Flammarion 2026, Proposition 3). To first order in β it is
    ``(1/m) Σ_g π[y_{t+1-g}, ·] + (β/m) c_t`` with the correction
    ``c_t = Σ_g (S_t(g) - 1/m) π[y_{t+1-g}, ·]``, which one attention layer can write without S.

    First order can fall below 0. Probabilities below ``FLOOR / q`` are raised to it, and all are
    divided by their sum; where none is below, nothing changes.

    Attributes:
        task: The task.
        beta: β of the step, at least 0; 0 gives uniform mixture weights.
        interventions: Variables held at values, ``[sequence, query, entry]`` each.
        beta_at_bound: True if β was fitted and lies at the end of the range that was searched, so
            that it is no estimate.

    Examples:
        >>> import mtd_lens
        >>> task = mtd_lens.MTDTask([[0.9, 0.1], [0.4, 0.6]], order=2, seq_len=8)
        >>> tokens = task.sample(4, seed=0).tokens
        >>> found = mtd_lens.FusedCausalModel(task, beta=2.0).run(tokens)
        >>> found["correction"].shape
        torch.Size([4, 6, 2])
        >>> bool(found["correction"].sum(-1).abs().max() < 1e-12)
        True
    """

    task: MTDTask
    beta: float | int
    interventions: Mapping[str, Tensor] = field(default_factory=dict)
    beta_at_bound: bool = False

    name = "one step to first order"
    variables = ("responsibilities", "correction", "prediction")
    probabilities = ("prediction",)

    def __post_init__(self) -> None:
        check_beta(self.beta)
        check_task(self.task)

    @property
    def parameters(self) -> dict[str, float]:
        """What is fitted to the model under test."""
        return with_flag("beta", float(self.beta), self.beta_at_bound)

    def run(self, tokens: Tensor) -> dict[str, Tensor]:
        """All variables at every query position, in float64.

        Args:
            tokens: ``[sequence, position]``.

        Returns:
            ``responsibilities`` as ``[sequence, query, lag]``, ``correction`` and ``prediction`` as
            ``[sequence, query, token]``.

        Raises:
            TokensError: Tokens that do not fit the task.
            ArgumentError: An intervention whose shape does not fit.
        """
        return self._run(tokens)

    def _from_mean(
        self, mean: Tensor, rows: Float[Tensor, "sequence query lag token"], queries: slice
    ) -> tuple[Tensor, Tensor]:
        """Correction and prediction at some queries, from what their parents predict."""
        correction = self.held("correction", delivered(mean, rows), queries)
        prediction = first_order(rows.mean(-2), correction, self.beta / self.task.order)
        return correction, self.held("prediction", prediction, queries)


def delivered(
    weights: WeightsPerQuery, rows: Float[Tensor, "sequence query lag token"]
) -> Float[Tensor, "sequence query token"]:
    """``Σ_g (weights(g) - 1/m) π[y_{t+1-g}, ·]``: what weights add to uniform ones' prediction."""
    return torch.einsum("nql,nqlb->nqb", weights - 1 / weights.shape[-1], rows)


def first_order(
    uniform: Float[Tensor, "*query token"], correction: Float[Tensor, "*query token"], factor: float
) -> Float[Tensor, "*query token"]:
    """``uniform + factor · correction``, raised to ``FLOOR / q`` and divided by its sum."""
    raised = (uniform + factor * correction).clamp_min(FLOOR / uniform.shape[-1])
    return raised / raised.sum(-1, keepdim=True)


def fit_first_order(
    task: MTDTask,
    tokens: Tensor,
    targets: Tensor,
    bounds: tuple[float, float] = BETA_RANGE,
) -> float:
    """The β whose first-order prediction at the last query is nearest to ``targets``.

    Minimises the mean KL(target ‖ prediction) over log β by bounded scalar search.

    Args:
        task: The task.
        tokens: ``[sequence, position]``.
        targets: ``[sequence, token]``, the distributions to follow.
        bounds: Of β.

    Raises:
        ArgumentError: Targets of another shape or not finite, or bounds out of order.
        TokensError: Tokens that do not fit the task.
    """
    mean = estimators.responsibilities(task, tokens).mean(1, keepdim=True)
    expected, axes = (len(mean), task.n_tokens), "[sequence, token]"
    bounds = check_fit("beta", targets, expected, axes, bounds, MAX_BETA)
    rows = estimators.parent_rows(task, tokens)[:, -1:]
    uniform, correction = rows.mean(-2)[:, 0], delivered(mean, rows)[:, 0]

    def predicted(beta: float) -> Predictions:
        return first_order(uniform, correction, beta / task.order)

    return nearest(predicted, targets, bounds)


def fit_fused(task: MTDTask, tokens: Tensor, predictions: Tensor) -> FusedCausalModel:
    """One step to first order, with the β that a model's predictions follow.

    Args:
        task: The task.
        tokens: ``[sequence, position]``.
        predictions: ``[sequence, token]``: the model's, after the last position.
    """
    bounds = around(best_fused_beta(task), BETA_SPAN, MAX_BETA)
    beta = fit_first_order(task, tokens, predictions, bounds)
    return FusedCausalModel(task, beta, beta_at_bound=is_at_bound(beta, bounds))


def best_fused(task: MTDTask) -> FusedCausalModel:
    """One step to first order with the β that predicts best on the task itself.

    Args:
        task: The task.
    """
    return FusedCausalModel(task, best_fused_beta(task))


def best_fused_beta(task: MTDTask) -> float:
    """The β whose first-order prediction is best on the task itself; compare ``best_beta``.

    Args:
        task: The task.

    Raises:
        ArgumentError: Something else than an MTDTask.
    """
    return fit_first_order(task, *own_predictions(task))
