"""The high-level algorithm that models are held against.

``responsibilities -> mean_responsibility -> mixture_weights -> prediction``: posterior
responsibilities under uniform weights, their running mean, ``softmax(β · mean)``, and the mixture
of transition rows, at every query position ``order … T-1``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from scipy import optimize
from torch import Tensor

from mtd_lens import algorithms as interventions
from mtd_lens.errors import ArgumentError
from mtd_lens.families.mtd import estimators
from mtd_lens.families.mtd.task import MTDTask
from probes import checks

PROBABILITIES = ("mixture_weights", "prediction")
VARIABLES = ("responsibilities", "mean_responsibility", "mixture_weights", "prediction")

BETA_RANGE = (1e-2, 1e3)
MAX_BETA = 1e4
N_FIT_SEQUENCES = 2048
FIT_SEED = 0


@dataclass(frozen=True)
class MTDCausalModel:
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

    variables = VARIABLES

    def __post_init__(self) -> None:
        check_beta(self.beta)
        if not isinstance(self.task, MTDTask):
            raise ArgumentError(f"MTDCausalModel needs an MTDTask; got {self.task!r}.")

    @property
    def parameters(self) -> dict[str, float]:
        """What is fitted to the model under test."""
        return {"beta": float(self.beta)} | ({"beta_at_bound": 1.0} if self.beta_at_bound else {})

    def query_positions(self, length: int) -> tuple[int, ...]:
        """The positions ``order … length - 1``, at which all m parents are there.

        Args:
            length: Of the sequences.
        """
        return tuple(range(self.task.order, length))

    def do(self, **values: Tensor) -> "MTDCausalModel":
        """This model with variables held at values, on top of earlier interventions.

        Args:
            **values: A tensor for each variable, ``[sequence, query, entry]`` as ``run`` gives it,
                or one that broadcasts to it. NaN entries are left to their cause, so that a
                variable can be held at some positions only.

        Returns:
            A new causal model; this one stays as it is.

        Raises:
            ArgumentError: An unknown variable, or mixture weights or a prediction off the simplex.
        """
        new = interventions.checked(values, VARIABLES, PROBABILITIES)
        return replace(self, interventions={**self.interventions, **new})

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
        gamma = self._held("responsibilities", estimators.responsibilities(self.task, tokens))
        counts = torch.arange(1, gamma.shape[1] + 1).to(gamma)[:, None]
        mean = self._held("mean_responsibility", gamma.cumsum(1) / counts)
        weights = self._held("mixture_weights", (self.beta * mean).softmax(-1))
        rows = estimators.parent_rows(self.task, tokens)
        prediction = torch.einsum("nql,nqlb->nqb", weights, rows)
        values = (gamma, mean, weights, self._held("prediction", prediction))
        return dict(zip(VARIABLES, values, strict=True))

    def _held(self, name: str, natural: Tensor) -> Tensor:
        return interventions.held(self.interventions, name, natural)


def check_beta(beta: Any) -> float:
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
    if tuple(targets.shape) != (len(tokens), task.n_tokens) or not targets.isfinite().all():
        raise ArgumentError(
            f"targets must be finite, [sequence, token] = {(len(tokens), task.n_tokens)}; got "
            f"shape {tuple(targets.shape)}."
        )
    if not 0 < bounds[0] < bounds[1] <= MAX_BETA:
        raise ArgumentError(f"bounds of beta must be positive and increasing; got {bounds!r}.")
    mean = estimators.responsibilities(task, tokens).mean(1)
    rows = estimators.parent_rows(task, tokens)[:, -1]
    targets = targets.to(mean)

    def cross_entropy(log_beta: float) -> float:
        weights = (math.exp(log_beta) * mean).softmax(-1)
        prediction = torch.einsum("nl,nlb->nb", weights, rows)
        return -float(torch.xlogy(targets, prediction.clamp_min(1e-300)).sum(-1).mean())

    low, high = (math.log(bound) for bound in bounds)
    result = optimize.minimize_scalar(
        cross_entropy, bounds=(low, high), method="bounded", options={"xatol": 1e-10}
    )
    return math.exp(result.x)


def best_beta(task: Any) -> float:
    """The β that predicts best on the task itself, fitted to the true predictive distribution.

    Uses 2048 sequences with a fixed seed, so equal tasks get equal values.

    Args:
        task: The task.

    Raises:
        ArgumentError: Something else than an MTDTask.
    """
    if not isinstance(task, MTDTask):
        raise ArgumentError(f"expected an MTDTask; got {task!r}.")
    batch = task.sample(N_FIT_SEQUENCES, seed=FIT_SEED)
    return fit_beta(task, batch.tokens, estimators.predict(task, batch.tokens, batch.weights))
