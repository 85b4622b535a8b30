"""Exact Bayes as a causal model: a posterior over nodes of the simplex, stage by stage.

``node_log_likelihoods -> total_log_likelihoods -> node_posterior -> mixture_weights ->
prediction``: how well each node explains each piece of evidence, the sum over evidence so far, the
posterior over nodes, its mean, and the mixture of transition rows, at every query position
``order … T-1``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

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
from mtd_lens.architectures.writing import MARGIN, eye, zeros
from mtd_lens.errors import ArgumentError
from mtd_lens.families.mtd import estimators
from mtd_lens.families.mtd.causal_model import OnMixtures, own_predictions
from mtd_lens.families.mtd.posterior import exact_nodes, simplex_rule
from mtd_lens.families.mtd.task import MTDTask, check_task
from mtd_lens.shapes import Predictions
from probes import checks

RULES = {"quadrature": "exact Bayes", "vertices": "product of likelihoods"}
"""Of nodes, with the algorithm that each makes."""

MAX_INVERSE_TEMPERATURE = 1e3

SPAN = 8.0
"""A model's inverse temperature is sought within this factor of 1, on either side."""

LEAST_INVERSE_TEMPERATURE = 1e-4
"""From which on the product of likelihoods' best one on a task is sought."""

Nodes = Float[Tensor, "node lag"]
LogMasses = Float[Tensor, " node"]


@dataclass(frozen=True)
class PosteriorCausalModel(OnMixtures):
    """The posterior over a few values of the mixture weights, stage by stage, with interventions.

    With two lags it is exact Bayes; with more, as near to it as a conical-product Gauss-Jacobi rule
    (Stroud 1971) of so few nodes is. With the simplex's vertices as nodes it is the product of
    likelihoods: the posterior of the one lag that explains all evidence (Selective Induction Heads,
    arXiv 2509.08184).

    Attributes:
        task: The task.
        inverse_temperature: By which log-likelihoods are multiplied, at least 0: 1 is Bayes, 0 the
            prior alone, and a large one picks the likeliest node.
        rule: Of the nodes: ``"quadrature"`` integrates over the Dirichlet prior, ``"vertices"`` has
            one node a lag.
        n_nodes: Nodes a dimension for ``"quadrature"``. By default as many as make it exact, as far
            as the nodes together are no more than that: then every query of the context's second
            half has a position before it for each node.
        interventions: Variables held at values, ``[sequence, query, entry]`` each.
        at_bound: True if the inverse temperature was fitted and lies at the end of the range that
            was searched, so that it is no estimate.

    Raises:
        ArgumentError: A setting out of its range.

    Examples:
        >>> import mtd_lens
        >>> task = mtd_lens.MTDTask([[0.9, 0.1], [0.4, 0.6]], order=2, seq_len=8)
        >>> tokens = task.sample(4, seed=0).tokens
        >>> found = mtd_lens.PosteriorCausalModel(task).run(tokens)
        >>> exact = mtd_lens.posterior_mean(task, tokens)
        >>> bool((found["mixture_weights"][:, -1] - exact).abs().max() < 1e-12)
        True
    """

    task: MTDTask
    inverse_temperature: float | int = 1.0
    rule: str = "quadrature"
    n_nodes: int | None = None
    interventions: Mapping[str, Tensor] = field(default_factory=dict)
    at_bound: bool = False

    variables = (
        "node_log_likelihoods",
        "total_log_likelihoods",
        "node_posterior",
        "mixture_weights",
        "prediction",
    )
    probabilities = ("node_posterior", "mixture_weights", "prediction")

    def __post_init__(self) -> None:
        check_task(self.task)
        checks.choice(self.rule, "rule", RULES, ArgumentError)
        checks.number(
            self.inverse_temperature, "inverse_temperature", 0, MAX_INVERSE_TEMPERATURE,
            ArgumentError, low_included=True,
        )  # fmt: skip
        if self.n_nodes is None:
            return
        each = checks.integer(self.n_nodes, "n_nodes", 1, ArgumentError)
        order, length = self.task.order, self.task.seq_len
        if self.rule == "vertices":
            raise ArgumentError("vertices are one a lag. Leave n_nodes out.")
        if each ** (order - 1) > length:
            raise ArgumentError(
                f"n_nodes = {each} makes {each ** (order - 1):,} nodes, and a context of {length} "
                f"positions has room for {length}. Use n_nodes={_each(order, length)} or less, or "
                "leave it out."
            )

    @property
    def name(self) -> str:
        """The algorithm's."""
        return RULES[self.rule]

    @property
    def parameters(self) -> dict[str, float]:
        """What is fitted to the model under test."""
        return with_flag("inverse_temperature", float(self.inverse_temperature), self.at_bound)

    @cached_property
    def rule_nodes(self) -> tuple[Nodes, LogMasses]:
        """Nodes ``[node, lag]`` on the simplex, and the logarithm of their prior masses."""
        order, exact = self.task.order, exact_nodes(self.task.seq_len - self.task.order)
        if self.rule == "vertices":
            return eye(order), zeros(order) - math.log(order)
        each = _each(order, exact) if self.n_nodes is None else self.n_nodes
        return simplex_rule(order, self.task.concentration, each)

    @property
    def least(self) -> float:
        """No possible log-likelihood of a node is lower, unless it is none."""
        nodes, transition = self.rule_nodes[0], self.task.transition
        possible = transition[transition > 0]
        return float((nodes[nodes > 0].min() * possible.min() / possible.max()).log())

    @property
    def floor(self) -> float:
        """The log-likelihood of what a node on the simplex's edge excludes.

        So low that a node that excludes one piece of evidence falls behind every other that
        excludes none, by a factor of ``exp(MARGIN)`` at least.
        """
        return (self.task.seq_len - self.task.order) * self.least - MARGIN

    def run(self, tokens: Tensor) -> dict[str, Tensor]:
        """All variables at every query position, in float64.

        Args:
            tokens: ``[sequence, position]``.

        Returns:
            ``node_log_likelihoods`` of the last token, their sum ``total_log_likelihoods`` over all
            evidence so far, both in nats, and ``node_posterior`` as ``[sequence, query, node]``;
            ``mixture_weights`` as ``[sequence, query, lag]``, ``prediction`` as ``[sequence, query,
            token]``.

        Raises:
            TokensError: Tokens that do not fit the task.
            ArgumentError: An intervention whose shape does not fit.
        """
        likelihoods = estimators.lag_likelihoods(self.task, tokens)
        nodes, log_masses = (x.to(likelihoods.device) for x in self.rule_nodes)
        each = self.held("node_log_likelihoods", explained(self, likelihoods))
        total = self.held("total_log_likelihoods", each.cumsum(1))
        scores = self.inverse_temperature * total + log_masses
        posterior = self.held("node_posterior", scores.softmax(-1))
        weights = self.held("mixture_weights", posterior @ nodes)
        rows = estimators.parent_rows(self.task, tokens)
        prediction = torch.einsum("nql,nqlb->nqb", weights, rows)
        values = (each, total, posterior, weights, self.held("prediction", prediction))
        return dict(zip(self.variables, values, strict=True))


def product_of_likelihoods(task: MTDTask) -> PosteriorCausalModel:
    """The posterior of the one lag that explains all evidence, at temperature 1."""
    return PosteriorCausalModel(task, rule="vertices")


def explained(
    causal: PosteriorCausalModel, likelihoods: Float[Tensor, "*evidence lag"]
) -> Float[Tensor, "*evidence node"]:
    """``log(λ · p / max_g p(g))`` for each node λ: what is the same for all nodes is left out.

    Args:
        causal: Whose nodes.
        likelihoods: ``p(g)`` of each lag.

    Returns:
        In nats, at most 0, raised to ``floor``; 0 where no lag explains the evidence.
    """
    most = likelihoods.amax(-1, keepdim=True)
    ratios = likelihoods / torch.where(most > 0, most, 1.0) @ causal.rule_nodes[0].T.to(likelihoods)
    return torch.where(most > 0, ratios.log().clamp(causal.floor, 0.0), 0.0)


def fit_posterior(
    task: MTDTask, tokens: Tensor, predictions: Tensor, *, rule: str = "quadrature"
) -> PosteriorCausalModel:
    """The posterior with the inverse temperature that a model's predictions follow.

    Minimises the mean KL(model ‖ posterior) at the last query by bounded scalar search, around 1
    and, for vertices, down to around what predicts best on the task, which is far lower: a single
    lag never explains all evidence.

    Args:
        task: The task.
        tokens: ``[sequence, position]``.
        predictions: ``[sequence, token]``: the model's, after the last position.
        rule: Of the nodes.
    """
    causal = PosteriorCausalModel(task, rule=rule)
    low, high = around(1.0, SPAN)
    if rule == "vertices":
        low = _fitted(causal, *own_predictions(task), (LEAST_INVERSE_TEMPERATURE, 1.0)) / SPAN
    value = _fitted(causal, tokens, predictions, (low, high))
    at_bound = is_at_bound(value, (low, high))
    return PosteriorCausalModel(task, value, rule, at_bound=at_bound)


def _fitted(
    causal: PosteriorCausalModel, tokens: Tensor, targets: Tensor, bounds: tuple[float, float]
) -> float:
    """The inverse temperature whose prediction at the last query is nearest to targets."""
    task, found = causal.task, causal.run(tokens)
    total, rows = found["total_log_likelihoods"][:, -1], estimators.parent_rows(task, tokens)[:, -1]
    nodes, log_masses = (x.to(total) for x in causal.rule_nodes)
    expected, axes = (len(total), task.n_tokens), "[sequence, token]"
    bounds = check_fit(
        "inverse_temperature", targets, expected, axes, bounds, MAX_INVERSE_TEMPERATURE
    )

    def predicted(value: float) -> Predictions:
        weights = (value * total + log_masses).softmax(-1) @ nodes
        return torch.einsum("nl,nlb->nb", weights, rows)

    return nearest(predicted, targets, bounds)


def _each(order: int, most: int) -> int:
    """The most nodes a dimension that are together at most ``most``."""
    return max(each for each in range(1, most + 1) if each ** (order - 1) <= most)
