"""The high-level algorithm that models are held against: a generalized induction head.

``copied_parents -> selected_feature -> match_weights -> prediction``: the tokens of the window
behind each position, one-hot; which tuple of parents they form, as a key for the token there and as
a query for the next; a softmax over earlier positions whose key is the query's; and the average of
their tokens (Chen, Sheen, Wang & Yang 2024, arXiv 2409.10559: copier, selector, classifier). At
every query position ``window … T-1``; evidence positions are the same. The additive kernel, a
rival, matches parents one by one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot

import probes
from mtd_lens.algorithms import (
    FIT_SEED,
    N_FIT_SEQUENCES,
    Staged,
    around,
    check_fit,
    is_at_bound,
    positions_from,
    search,
    with_flag,
)
from mtd_lens.errors import ArgumentError
from mtd_lens.families.ngram import estimators
from mtd_lens.families.ngram.task import NGramTask, check_task, check_tokens
from mtd_lens.shapes import Predictions
from probes import checks

MATCHES = {"tuple": "kernel", "tokens": "additive kernel"}
"""What the match may be of, and the name of the algorithm that it makes."""

SHARPNESS_RANGE = (1e-2, 20.0)
"""At the upper end a context of matches outweighs others 5e8 times: maximum likelihood."""

SHARPNESS_SPAN = 2.0
"""A model's sharpness is sought within this factor of the task's best one, on either side."""


class Selecting(Staged):
    """What the family's causal models share: the copier and the selector.

    Attributes:
        task: The task.
        match: What the selected feature says of the parents: ``"tuple"``, which tuple they form, or
            ``"tokens"``, the token of each.
    """

    task: NGramTask
    match: str = "tuple"

    @property
    def n_features(self) -> int:
        """Entries of a key, and of a query."""
        task = self.task
        return task.n_rows if self.match == "tuple" else len(task.parents) * task.n_tokens

    def query_positions(self, length: int) -> tuple[int, ...]:
        """The positions ``window … length - 1``, at which there is evidence.

        Args:
            length: Of the sequences.
        """
        return positions_from(self.task.window, length)

    def _selected(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The copies, the selected features, and the tokens of the evidence, one-hot."""
        task = self.task
        one_hots = one_hot(check_tokens(task, tokens), task.n_tokens).to(torch.float64)
        length = one_hots.shape[1]
        lagged = [one_hots[:, task.window - lag : length - lag] for lag in range(task.window + 1)]
        copied = self.held("copied_parents", torch.cat(lagged[1:], -1))
        copies = copied.unflatten(-1, (task.window, task.n_tokens))
        window = torch.cat([lagged[0][:, :, None], copies], 2)  # the current token is lag 0
        feature = joint if self.match == "tuple" else apart
        key = feature(window[:, :, list(task.parents)])
        query = feature(window[:, :, [lag - 1 for lag in task.parents]])
        return copied, self.held("selected_feature", torch.cat([key, query], -1)), lagged[0]


@dataclass(frozen=True)
class NGramCausalModel(Selecting):
    """A generalized induction head on the task's parents, stage by stage, with interventions.

    The stages are those of the construction (Chen et al. 2024, arXiv 2409.10559).

    Attributes:
        task: The task.
        sharpness: The inverse temperature a of the match, from 0 to 100; at 0 every earlier token
            counts the same.
        interventions: Variables held at values, ``[sequence, query, entry]`` each.
        sharpness_at_bound: True if the sharpness was fitted and lies at the end of the range that
            was searched, so that it is no estimate.
        match: ``"tuple"``: all parents must match, and the match is 1 or 0. ``"tokens"``: it is the
            share of the parents that match, the additive kernel.

    Raises:
        ArgumentError: No n-gram task, a sharpness out of range, or an unknown match.

    Examples:
        >>> import mtd_lens, torch
        >>> task = mtd_lens.NGramTask(3, parents=(1, 2), window=2, seq_len=16)
        >>> tokens = task.sample(4, seed=0).tokens
        >>> model = mtd_lens.NGramCausalModel(task, sharpness=5.0)
        >>> {name: tuple(value.shape[2:]) for name, value in model.run(tokens).items()}
        {'copied_parents': (6,), 'selected_feature': (18,), 'match_weights': (14,), 'prediction': (3,)}
    """  # noqa: E501

    task: NGramTask
    sharpness: Any
    interventions: Mapping[str, Tensor] = field(default_factory=dict)
    sharpness_at_bound: bool = False
    match: str = "tuple"

    variables = ("copied_parents", "selected_feature", "match_weights", "prediction")
    probabilities = ("match_weights", "prediction")

    def __post_init__(self) -> None:
        object.__setattr__(self, "sharpness", estimators.check_sharpness(self.sharpness))
        checks.choice(self.match, "match", MATCHES, ArgumentError)
        check_task(self.task)

    @property
    def parameters(self) -> dict[str, float]:
        """What is fitted to the model under test."""
        return with_flag("sharpness", self.sharpness, self.sharpness_at_bound)

    @property
    def source(self) -> str:
        """What figures call its predictions."""
        return MATCHES[self.match]

    def run(self, tokens: Tensor) -> dict[str, Tensor]:
        """All variables at every query position, in float64.

        Args:
            tokens: ``[sequence, position]``.

        Returns:
            ``copied_parents``, ``[sequence, query, window · token]``: the tokens 1 to ``window``
            before each position, one-hot, nearest first. ``selected_feature``,
            ``[sequence, query, 2 · row]``: the tuple of parents of the token there, then that of
            the token after it, one-hot; with single tokens matched, ``[sequence, query,
            2 · parent · token]``. ``match_weights``, ``[sequence, query, evidence]``.
            ``prediction``, ``[sequence, query, token]``.

        Raises:
            TokensError: Tokens that do not fit the task.
            ArgumentError: An intervention whose shape does not fit.
        """
        return self._run(tokens)

    def _stages(self, tokens: Tensor, queries: slice) -> tuple[Tensor, ...]:
        """The variables in order, those after the features at some queries alone."""
        copied, feature, evidence = self._selected(tokens)
        key, query = feature.split(self.n_features, -1)
        most = 1 if self.match == "tuple" else len(self.task.parents)
        scores = self.sharpness / most * query[:, queries] @ key.transpose(1, 2)
        weights = self.held("match_weights", estimators.attend(scores, queries), queries)
        prediction = self.held("prediction", weights @ evidence, queries)
        return copied, feature, weights, prediction


def joint(
    copies: Float[Tensor, "sequence query parent token"],
) -> Float[Tensor, "sequence query row"]:
    """Which tuple the parents form: the product of their one-hot vectors, one entry a tuple."""
    rows = copies[:, :, 0]
    for index in range(1, copies.shape[2]):
        rows = (rows[..., None] * copies[:, :, index, None]).flatten(-2)
    return rows


def apart(
    copies: Float[Tensor, "sequence query parent token"],
) -> Float[Tensor, "sequence query entry"]:
    """The token of each parent: their one-hot vectors side by side."""
    return copies.flatten(-2)


Kernel = Callable[[float], Predictions]
"""What a kernel predicts at the last query, by its sharpness."""


def kernel_of(task: NGramTask, tokens: Tensor, match: str = "tuple") -> Kernel:
    """The kernel's predictions after the same tokens, for any sharpness.

    Args:
        task: The task.
        tokens: ``[sequence, position]``.
        match: Of the tuple of parents, or of their single tokens.
    """
    if match == "tuple":
        everything = estimators.last_counts(task, tokens, ())
        matching = estimators.last_counts(task, tokens)
        return lambda sharpness: estimators.of_counts(matching, everything, sharpness)
    similarity = estimators.last_matches(task, tokens, task.parents[:1])
    for lag in task.parents[1:]:
        similarity = similarity + estimators.last_matches(task, tokens, (lag,))
    similarity = similarity / len(task.parents)
    return lambda sharpness: estimators.summed(task, tokens, (sharpness * similarity).softmax(-1))


def fit_sharpness(
    task: NGramTask,
    tokens: Tensor,
    targets: Tensor,
    bounds: tuple[float, float] = SHARPNESS_RANGE,
    *,
    match: str = "tuple",
) -> float:
    """The sharpness whose prediction at the last query is nearest to ``targets``.

    Minimises the mean KL(target ‖ prediction) by bounded scalar search, over the tokens that the
    context holds: others have probability 0 at any sharpness.

    Args:
        task: The task.
        tokens: ``[sequence, position]``.
        targets: ``[sequence, token]``, the distributions to follow.
        bounds: Of the sharpness.
        match: Of the kernel, as in ``NGramCausalModel``.

    Raises:
        ArgumentError: Targets of another shape or not finite, bounds out of order, or an unknown
            match.
        TokensError: Tokens that do not fit the task.
    """
    checks.choice(match, "match", MATCHES, ArgumentError)
    everything = estimators.last_counts(task, tokens, ())
    expected, axes = (len(everything), task.n_tokens), "[sequence, token]"
    ends = check_fit("sharpness", targets, expected, axes, bounds, estimators.MAX_SHARPNESS)
    kernel, seen = kernel_of(task, tokens, match), everything > 0
    targets = targets.to(everything)

    def cross_entropy(sharpness: float) -> float:
        prediction = kernel(sharpness)
        return -float((targets * prediction.where(seen, 1.0).log()).sum(-1).mean())

    return search(cross_entropy, ends, 1e-8)


def nearest_sharpness(
    task: NGramTask, tokens: Tensor, predictions: Predictions, *, match: str = "tuple"
) -> float:
    """The sharpness of least KL(kernel ‖ prediction) at the last query.

    Args:
        task: The task.
        tokens: ``[sequence, position]``.
        predictions: ``[sequence, token]``.
        match: Of the kernel, as in ``NGramCausalModel``.
    """
    kernel = kernel_of(task, tokens, match)

    def divergence(sharpness: float) -> float:
        return float(probes.kl_divergence(kernel(sharpness), predictions).mean())

    return search(divergence, SHARPNESS_RANGE, 1e-6)


def fit_kernel(
    task: NGramTask, tokens: Tensor, predictions: Predictions, match: str = "tuple"
) -> NGramCausalModel:
    """A generalized induction head with the sharpness that a model's predictions follow.

    Args:
        task: The task.
        tokens: ``[sequence, position]``.
        predictions: ``[sequence, token]``: the model's, after the last position.
        match: Of the tuple of parents, or of their single tokens.
    """
    bounds = around(best_sharpness(task, match), SHARPNESS_SPAN, SHARPNESS_RANGE[1])
    sharpness = fit_sharpness(task, tokens, predictions, bounds, match=match)
    at_bound = is_at_bound(sharpness, bounds)
    return NGramCausalModel(task, sharpness, sharpness_at_bound=at_bound, match=match)


def best_sharpness(task: NGramTask, match: str = "tuple") -> float:
    """The sharpness that predicts best on the task itself, fitted to the true distribution.

    Uses 2048 sequences with a fixed seed, so equal tasks get equal values.

    Args:
        task: The task.
        match: Of the kernel, as in ``NGramCausalModel``.

    Raises:
        ArgumentError: Something else than an NGramTask, or an unknown match.
    """
    check_task(task)
    batch = task.sample(N_FIT_SEQUENCES, seed=FIT_SEED)
    truth = estimators.ngram_truth(task, batch.tokens, batch.tables)[:, -1]
    return fit_sharpness(task, batch.tokens, truth, match=match)
