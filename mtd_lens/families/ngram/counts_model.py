"""Rivals of the induction head that count: exact Bayes, and its limit, maximum likelihood.

``copied_parents -> selected_feature -> matching_counts -> prediction``: copier and selector are the
induction head's; then how often each token came after the same parents, ``n(b | a)``, to which the
prior adds as much for every token. At every query position ``window … T-1``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from mtd_lens.algorithms import around, check_fit, is_at_bound, nearest, with_flag
from mtd_lens.errors import ArgumentError
from mtd_lens.families.ngram import estimators
from mtd_lens.families.ngram.causal_model import Selecting
from mtd_lens.families.ngram.task import NGramTask, check_task
from mtd_lens.shapes import Predictions
from probes import checks

MAX_CONCENTRATION = 1e4

SPAN = 8.0
"""A model's concentration is sought within this factor of the task's, on either side."""


@dataclass(frozen=True)
class NGramCountsModel(Selecting):
    """The posterior mean of the row in use, stage by stage, with interventions.

    ``(n(b | a) + α) / (n(a) + q α)``: the Dirichlet prior of the task (Chen et al. 2024, arXiv
    2409.10559, Section 2) is conjugate to the counts. With α = 0 it is maximum likelihood, uniform
    where the parents are new.

    Attributes:
        task: The task.
        concentration: α, what the prior adds to every count, from 0 to 10,000; the task's own by
            default.
        interventions: Variables held at values, ``[sequence, query, entry]`` each.
        at_bound: True if α was fitted and lies at the end of the range that was searched, so that
            it is no estimate.

    Raises:
        ArgumentError: No n-gram task, or a concentration out of range.

    Examples:
        >>> import mtd_lens
        >>> task = mtd_lens.NGramTask(3, parents=(1, 2), window=2, seq_len=16)
        >>> tokens = task.sample(4, seed=0).tokens
        >>> found = mtd_lens.NGramCountsModel(task).run(tokens)
        >>> bool((found["prediction"] - mtd_lens.ngram_bayes(task, tokens)).abs().max() < 1e-12)
        True
    """

    task: NGramTask
    concentration: Any = None
    interventions: Mapping[str, Tensor] = field(default_factory=dict)
    at_bound: bool = False

    variables = ("copied_parents", "selected_feature", "matching_counts", "prediction")
    probabilities = ("prediction",)

    def __post_init__(self) -> None:
        check_task(self.task)
        given = self.task.concentration if self.concentration is None else self.concentration
        advice = "0 is maximum likelihood; leave it out for the task's own."
        alpha = checks.number(
            given, "concentration", 0, MAX_CONCENTRATION, ArgumentError, advice, low_included=True
        )
        object.__setattr__(self, "concentration", alpha)

    @property
    def parameters(self) -> dict[str, float]:
        """What is fitted to the model under test: nothing of maximum likelihood."""
        if not self.concentration:
            return {}
        return with_flag("concentration", self.concentration, self.at_bound)

    @property
    def source(self) -> str:
        """What figures call its predictions."""
        return "exact Bayes" if self.concentration else "maximum likelihood"

    def run(self, tokens: Tensor) -> dict[str, Tensor]:
        """All variables at every query position, in float64.

        Args:
            tokens: ``[sequence, position]``.

        Returns:
            ``copied_parents`` and ``selected_feature`` as ``NGramCausalModel`` has them;
            ``matching_counts``, ``n(b | a)`` of each token b after the parents a of the token to be
            predicted, and ``prediction``, ``[sequence, query, token]``.

        Raises:
            TokensError: Tokens that do not fit the task.
            ArgumentError: An intervention whose shape does not fit.
        """
        return self._run(tokens)

    def _stages(self, tokens: Tensor, queries: slice) -> tuple[Tensor, ...]:
        """The variables in order, those after the features at some queries alone."""
        copied, feature, evidence = self._selected(tokens)
        key, query = feature.split(self.n_features, -1)
        matches = estimators.up_to(query[:, queries] @ key.transpose(1, 2), queries, 0.0)
        counts = self.held("matching_counts", matches @ evidence, queries)
        prediction = self.held("prediction", self._predicted(counts), queries)
        return copied, feature, counts, prediction

    def _predicted(self, counts: Tensor) -> Tensor:
        """What follows from the counts, ``[…, token]``."""
        if not self.concentration:
            return estimators.likeliest(counts)
        return estimators.posterior_mean(counts, self.concentration)


def fit_bayes(task: NGramTask, tokens: Tensor, predictions: Predictions) -> NGramCountsModel:
    """Exact Bayes under the concentration that a model's predictions follow.

    Minimises the mean KL(model ‖ posterior mean) at the last query by bounded scalar search.

    Args:
        task: The task.
        tokens: ``[sequence, position]``.
        predictions: ``[sequence, token]``: the model's, after the last position.
    """
    counts = estimators.last_counts(task, tokens)
    bounds = around(task.concentration, SPAN, MAX_CONCENTRATION)
    check_fit(
        "concentration", predictions, tuple(counts.shape), "[sequence, token]", bounds,
        MAX_CONCENTRATION,
    )  # fmt: skip
    value = nearest(lambda alpha: estimators.posterior_mean(counts, alpha), predictions, bounds)
    return NGramCountsModel(task, value, at_bound=is_at_bound(value, bounds))


def maximum_likelihood(
    task: NGramTask, tokens: Tensor, predictions: Predictions
) -> NGramCountsModel:
    """Maximum likelihood, which has nothing to fit.

    Args:
        task: The task.
        tokens: ``[sequence, position]``.
        predictions: ``[sequence, token]``: the model's, after the last position.
    """
    return NGramCountsModel(task, 0.0)
