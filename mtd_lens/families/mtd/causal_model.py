"""The high-level algorithm that models are held against.

``responsibilities -> mean_responsibility -> mixture_weights -> prediction``: posterior
responsibilities under uniform weights, their running mean, ``softmax(β · mean)``, and the mixture
of transition rows, at every query position ``order … T-1``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from mtd_lens.algorithms import (
    FIT_SEED,
    N_FIT_SEQUENCES,
    Intervenable,
    Staged,
    around,
    check_fit,
    is_at_bound,
    nearest,
    positions_from,
    with_flag,
)
from mtd_lens.contracts import EVERY
from mtd_lens.errors import ArgumentError
from mtd_lens.families.mtd import estimators
from mtd_lens.families.mtd.task import MTDTask, check_task
from mtd_lens.shapes import Predictions, Tokens
from probes import checks

BETA_RANGE = (1e-2, 1e3)
MAX_BETA = 1e4

BETA_SPAN = 8.0
"""A model's β is sought within this factor of the task's best one, on either side."""


class OnMixtures(Intervenable):
    """What the family's causal models share: where they predict.

    Attributes:
        task: The task.
    """

    task: MTDTask

    def query_positions(self, length: int) -> tuple[int, ...]:
        """The positions ``order … length - 1``, at which all m parents are there.

        Args:
            length: Of the sequences.
        """
        return positions_from(self.task.order, length)

    def _rows(self, tokens: Tensor, queries: slice) -> Float[Tensor, "sequence query lag token"]:
        """What the parents at some queries predict."""
        return estimators.parent_rows(
            self.task, tokens if queries == EVERY else tokens[:, -self.task.order - 1 :]
        )


class OnMeans(OnMixtures, Staged):
    """What follows from the mean of the responsibilities."""

    def _stages(self, tokens: Tensor, queries: slice) -> tuple[Tensor, ...]:
        gamma = self.held("responsibilities", estimators.responsibilities(self.task, tokens))
        every = queries == EVERY
        mean = estimators.running_mean(gamma) if every else gamma.mean(1, keepdim=True)
        return gamma, *self._from_mean(mean, self._rows(tokens, queries), queries)

    def _from_mean(
        self, mean: Tensor, rows: Float[Tensor, "sequence query lag token"], queries: slice
    ) -> tuple[Tensor, ...]:
        """The variables from the mean on, at some queries, from what their parents predict."""
        raise NotImplementedError


@dataclass(frozen=True)
class MTDCausalModel(OnMeans):
    """One step of mirror descent, stage by stage, with interventions.

    The stages are those of the construction (D'Angelo & Flammarion 2026, Proposition 3).

    Attributes:
        task: The task.
        beta: β = η m n of the step, at least 0; 0 gives uniform mixture weights.
        interventions: Variables held at values, ``[sequence, query, entry]`` each.
        beta_at_bound: True if β was fitted and lies at the end of the range that was searched, so
            that it is no estimate.

    Examples:
        >>> import mtd_lens, torch
        >>> task = mtd_lens.MTDTask([[0.9, 0.1], [0.4, 0.6]], order=2, seq_len=8)
        >>> tokens = task.sample(4, seed=0).tokens
        >>> model = mtd_lens.MTDCausalModel(task, beta=4.0)
        >>> only_lag_1 = torch.tensor([1.0, 0.0]).expand(4, 7 - 1, 2)
        >>> model.do(mixture_weights=only_lag_1).run(tokens)["prediction"].shape
        torch.Size([4, 6, 2])
    """

    task: MTDTask
    beta: float | int
    interventions: Mapping[str, Tensor] = field(default_factory=dict)
    beta_at_bound: bool = False

    name = "one step"
    variables = ("responsibilities", "mean_responsibility", "mixture_weights", "prediction")
    probabilities = ("mixture_weights", "prediction")

    def __post_init__(self) -> None:
        check_beta(self.beta)
        check_task(self.task)

    @property
    def parameters(self) -> dict[str, float]:
        """What is fitted to the model under test: β, and η, the step size that it equals."""
        n_evidence = self.task.seq_len - self.task.order
        same = {"beta_as_step_size": self.beta / (self.task.order * n_evidence)}
        return with_flag("beta", float(self.beta), self.beta_at_bound) | same

    def run(self, tokens: Tensor) -> dict[str, Tensor]:
        """All variables at every query position, in float64.

        Args:
            tokens: ``[sequence, position]``.

        Returns:
            ``responsibilities``, ``mean_responsibility`` and ``mixture_weights`` as
            ``[sequence, query, lag]``, ``prediction`` as ``[sequence, query, token]``.

        Raises:
            TokensError: Tokens that do not fit the task.
            ArgumentError: An intervention whose shape does not fit.
        """
        return self._run(tokens)

    def _from_mean(
        self, mean: Tensor, rows: Float[Tensor, "sequence query lag token"], queries: slice
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The variables from the mean on, at some queries, from what their parents predict."""
        mean = self.held("mean_responsibility", mean, queries)
        weights = self.held("mixture_weights", (self.beta * mean).softmax(-1), queries)
        prediction = torch.einsum("nql,nqlb->nqb", weights, rows)
        return mean, weights, self.held("prediction", prediction, queries)


def check_beta(beta: float | int) -> float:
    """``beta`` as a float.

    Raises:
        ArgumentError: Not a finite number from 0 to ``MAX_BETA``.
    """
    advice = "Leave it out to have it fitted."
    return checks.number(beta, "beta", 0, MAX_BETA, ArgumentError, advice, low_included=True)


def fit_beta(
    task: MTDTask,
    tokens: Tensor,
    targets: Tensor,
    bounds: tuple[float, float] = BETA_RANGE,
) -> float:
    """The β whose prediction at the last query is nearest to ``targets``.

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
    mean = estimators.responsibilities(task, tokens).mean(1)
    expected, axes = (len(mean), task.n_tokens), "[sequence, token]"
    bounds = check_fit("beta", targets, expected, axes, bounds, MAX_BETA)
    rows = estimators.parent_rows(task, tokens)[:, -1]

    def predicted(beta: float) -> Predictions:
        return torch.einsum("nl,nlb->nb", (beta * mean).softmax(-1), rows)

    return nearest(predicted, targets, bounds)


def fit_one_step(task: MTDTask, tokens: Tensor, predictions: Tensor) -> MTDCausalModel:
    """One step of mirror descent with the β that a model's predictions follow.

    Args:
        task: The task.
        tokens: ``[sequence, position]``.
        predictions: ``[sequence, token]``: the model's, after the last position.
    """
    bounds = around(best_beta(task), BETA_SPAN, MAX_BETA)
    beta = fit_beta(task, tokens, predictions, bounds)
    return MTDCausalModel(task, beta, beta_at_bound=is_at_bound(beta, bounds))


def best_beta(task: MTDTask) -> float:
    """The β that predicts best on the task itself, fitted to the true predictive distribution.

    Uses 2048 sequences with a fixed seed, so equal tasks get equal values.

    Args:
        task: The task.

    Raises:
        ArgumentError: Something else than an MTDTask.
    """
    return fit_beta(task, *own_predictions(task))


def own_predictions(task: MTDTask) -> tuple[Tokens, Predictions]:
    """Sequences of a task, and the true distribution of what comes next: what to fit on it.

    Args:
        task: The task.

    Raises:
        ArgumentError: Something else than an MTDTask.
    """
    batch = check_task(task).sample(N_FIT_SEQUENCES, seed=FIT_SEED)
    return batch.tokens, estimators.predict(task, batch.tokens, batch.weights)
