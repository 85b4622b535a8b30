"""Two passes as a causal model: responsibilities computed anew under the weights so far.

``responsibilities -> mean_responsibility -> prefix_weights -> second_responsibilities ->
second_mean_responsibility -> mixture_weights -> prediction``: one step of mirror descent from the
evidence up to each position, responsibilities under its weights, their running mean,
``softmax(β · mean)``, and the mixture of transition rows, at every query position ``order … T-1``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from mtd_lens.algorithms import (
    PRECISION,
    around,
    check_fit,
    cross_entropy,
    is_at_bound,
    nearest,
    search,
    with_flag,
)
from mtd_lens.errors import ArgumentError
from mtd_lens.families.mtd import estimators
from mtd_lens.families.mtd.causal_model import (
    BETA_RANGE,
    BETA_SPAN,
    MAX_BETA,
    OnMixtures,
    best_beta,
    own_predictions,
)
from mtd_lens.families.mtd.estimators import running_mean
from mtd_lens.families.mtd.task import MTDTask, check_task
from mtd_lens.shapes import Likelihoods, Predictions, Responsibilities, WeightsPerQuery
from probes import checks

FIRST_SPAN = 4.0
"""A model's β₁ is sought within this factor of the best one. Nearer to 0, the second
responsibilities are all but the first ones, and two passes one step."""

MAX_FIRST_BETA = 500.0
"""With it, prefix weights are ``exp(-500) / m`` or more, far above what underflows."""

LEAST_WEIGHT = 1e-250
"""To which prefix weights that are held are raised, so that none makes evidence impossible."""


@dataclass(frozen=True)
class TwoPassCausalModel(OnMixtures):
    """Two passes over the evidence, stage by stage, with interventions.

    Position k's second responsibilities are those under its own prefix weights, from the evidence
    up to and including k, which are all that a causal network has there:
    ``γ'_k(g) ∝ softmax(β₁ · mean_{j≤k} γ_j)(g) · p_k(g)``. They are computed from the likelihoods
    ``p_k`` themselves: to hold ``responsibilities`` moves them by way of the prefix weights alone.
    With β₁ = 0 they are the first ones, and two passes are one step of mirror descent.

    Attributes:
        task: The task.
        first_beta: β₁ of the prefix weights, at least 0.
        second_beta: β₂ of the mixture weights, at least 0.
        interventions: Variables held at values, ``[sequence, query, entry]`` each.
        first_beta_at_bound: True if β₁ was fitted and lies at the end of the range that was
            searched, so that it is no estimate.
        second_beta_at_bound: The same of β₂.

    Raises:
        ArgumentError: A β out of its range, or something else than an MTDTask.

    Examples:
        >>> import mtd_lens
        >>> task = mtd_lens.MTDTask([[0.9, 0.1], [0.4, 0.6]], order=2, seq_len=8)
        >>> tokens = task.sample(4, seed=0).tokens
        >>> found = mtd_lens.TwoPassCausalModel(task, 0.0, 4.0).run(tokens)
        >>> one_step = mtd_lens.MTDCausalModel(task, 4.0).run(tokens)
        >>> bool((found["prediction"] - one_step["prediction"]).abs().max() < 1e-12)
        True
    """

    task: MTDTask
    first_beta: float | int
    second_beta: float | int
    interventions: Mapping[str, Tensor] = field(default_factory=dict)
    first_beta_at_bound: bool = False
    second_beta_at_bound: bool = False

    name = "two passes"
    variables = (
        "responsibilities",
        "mean_responsibility",
        "prefix_weights",
        "second_responsibilities",
        "second_mean_responsibility",
        "mixture_weights",
        "prediction",
    )
    probabilities = ("prefix_weights", "mixture_weights", "prediction")

    def __post_init__(self) -> None:
        check_task(self.task)
        for name, most in (("first_beta", MAX_FIRST_BETA), ("second_beta", MAX_BETA)):
            value = getattr(self, name)
            checks.number(value, name, 0, most, ArgumentError, low_included=True)

    @property
    def parameters(self) -> dict[str, float]:
        """What is fitted to the model under test."""
        first = with_flag("first_beta", float(self.first_beta), self.first_beta_at_bound)
        return first | with_flag("second_beta", float(self.second_beta), self.second_beta_at_bound)

    def run(self, tokens: Tensor) -> dict[str, Tensor]:
        """All variables at every query position, in float64.

        Args:
            tokens: ``[sequence, position]``.

        Returns:
            ``prediction`` as ``[sequence, query, token]``, all others as
            ``[sequence, query, lag]``.

        Raises:
            TokensError: Tokens that do not fit the task.
            ArgumentError: An intervention whose shape does not fit.
        """
        likelihoods = estimators.lag_likelihoods(self.task, tokens)
        gamma = self.held("responsibilities", normalised(likelihoods))
        mean = self.held("mean_responsibility", running_mean(gamma))
        prefix = self.held("prefix_weights", (self.first_beta * mean).softmax(-1))
        second = self.held("second_responsibilities", under(prefix, likelihoods))
        second_mean = self.held("second_mean_responsibility", running_mean(second))
        weights = self.held("mixture_weights", (self.second_beta * second_mean).softmax(-1))
        rows = estimators.parent_rows(self.task, tokens)
        prediction = self.held("prediction", torch.einsum("nql,nqlb->nqb", weights, rows))
        values = (gamma, mean, prefix, second, second_mean, weights, prediction)
        return dict(zip(self.variables, values, strict=True))


def under(weights: WeightsPerQuery, likelihoods: Likelihoods) -> Responsibilities:
    """``λ_k(g) p_k(g) / Σ_h λ_k(h) p_k(h)``: responsibilities under each position's own weights."""
    return normalised(weights.clamp_min(LEAST_WEIGHT) * likelihoods)


def normalised(values: WeightsPerQuery) -> WeightsPerQuery:
    """Values over their sum."""
    return values / values.sum(-1, keepdim=True)


def best_two_passes(task: MTDTask) -> TwoPassCausalModel:
    """Two passes with the sizes that predict best on the task itself, one after the other.

    β₁ is that of the best one step, whose weights so far the second responsibilities are under;
    β₂ is then fitted to the true predictive distribution. (Fitted together, β₁ would be about 0 on
    many tasks: one step then predicts better than two passes.)

    Args:
        task: The task.

    Raises:
        ArgumentError: Something else than an MTDTask.
    """
    first = min(best_beta(task), MAX_FIRST_BETA)
    second, _ = _Fit(task, *own_predictions(task), BETA_RANGE).second_beta(first)
    return TwoPassCausalModel(task, first, second)


def fit_two_passes(task: MTDTask, tokens: Tensor, predictions: Tensor) -> TwoPassCausalModel:
    """Two passes with the sizes that a model's predictions follow.

    Minimises the mean KL(model ‖ two passes) at the last query, by bounded scalar search for β₁,
    each with its own best β₂.

    Args:
        task: The task.
        tokens: ``[sequence, position]``.
        predictions: ``[sequence, token]``: the model's, after the last position.
    """
    best = best_two_passes(task)
    of_first = around(best.first_beta, FIRST_SPAN, MAX_FIRST_BETA)
    of_second = around(best.second_beta, BETA_SPAN, MAX_BETA)
    expected, axes = (len(tokens), task.n_tokens), "[sequence, token]"
    low, high = check_fit("first_beta", predictions, expected, axes, of_first, MAX_FIRST_BETA)
    fit = _Fit(task, tokens, predictions, of_second)
    log_first = search(
        lambda log_beta: fit.second_beta(math.exp(log_beta))[1],
        (math.log(low), math.log(high)),
        PRECISION,
    )
    first = math.exp(log_first)
    second, _ = fit.second_beta(first)
    return TwoPassCausalModel(
        task, first, second,
        first_beta_at_bound=is_at_bound(first, of_first),
        second_beta_at_bound=is_at_bound(second, of_second),
    )  # fmt: skip


class _Fit:
    """What the fit of β₂, given β₁, looks at, computed once."""

    def __init__(
        self, task: MTDTask, tokens: Tensor, targets: Tensor, bounds: tuple[float, float]
    ) -> None:
        self.likelihoods = estimators.lag_likelihoods(task, tokens)
        self.mean = running_mean(normalised(self.likelihoods))
        self.rows = estimators.parent_rows(task, tokens)[:, -1]
        self.targets, self.bounds = targets, bounds

    def second_beta(self, first_beta: float) -> tuple[float, float]:
        """The best β₂ and its cross-entropy, in nats."""
        prefix = (first_beta * self.mean).softmax(-1)
        second_mean = under(prefix, self.likelihoods).mean(1)

        def predicted(beta: float) -> Predictions:
            return torch.einsum("nl,nlb->nb", (beta * second_mean).softmax(-1), self.rows)

        found = nearest(predicted, self.targets, self.bounds)
        return found, cross_entropy(self.targets, predicted(found))
