"""The high-level algorithm that models are held against: a generalized induction head.

``copied_parents -> selected_feature -> match_weights -> prediction``: the tokens of the window
behind each position, one-hot; which tuple of parents they form, as a key for the token there and as
a query for the next; a softmax over earlier positions whose key is the query's; and the average of
their tokens (Chen, Sheen, Wang & Yang 2024, arXiv 2409.10559: copier, selector, classifier). At
every query position ``window … T-1``; evidence positions are the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from scipy import optimize
from torch import Tensor
from torch.nn.functional import one_hot

from mtd_lens import algorithms as interventions
from mtd_lens.errors import ArgumentError
from mtd_lens.families.ngram import estimators
from mtd_lens.families.ngram.task import NGramTask, check_tokens

VARIABLES = ("copied_parents", "selected_feature", "match_weights", "prediction")
PROBABILITIES = ("match_weights", "prediction")

SHARPNESS_RANGE = (1e-2, 20.0)
"""At the upper end a context of matches outweighs others 5e8 times: maximum likelihood."""

N_FIT_SEQUENCES = 2048
FIT_SEED = 0


@dataclass(frozen=True)
class NGramCausalModel:
    """A generalized induction head on the task's parents, stage by stage, with interventions.

    The stages are those of the construction (Chen et al. 2024, arXiv 2409.10559).

    Attributes:
        task: The task.
        sharpness: The inverse temperature a of the match, from 0 to 100; at 0 every earlier token
            counts the same.
        interventions: Variables held at values, ``[sequence, query, entry]`` each.
        sharpness_at_bound: True if the sharpness was fitted and lies at the end of the range that
            was searched, so that it is no estimate.

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

    variables = VARIABLES

    def __post_init__(self) -> None:
        object.__setattr__(self, "sharpness", estimators.check_sharpness(self.sharpness))
        if not isinstance(self.task, NGramTask):
            raise ArgumentError(f"NGramCausalModel needs an NGramTask; got {self.task!r}.")

    @property
    def parameters(self) -> dict[str, float]:
        """What is fitted to the model under test."""
        flag = {"sharpness_at_bound": 1.0} if self.sharpness_at_bound else {}
        return {"sharpness": self.sharpness} | flag

    def query_positions(self, length: int) -> tuple[int, ...]:
        """The positions ``window … length - 1``, at which there is evidence.

        Args:
            length: Of the sequences.
        """
        return tuple(range(self.task.window, length))

    def do(self, **values: Tensor) -> "NGramCausalModel":
        """This model with variables held at values, on top of earlier interventions.

        Args:
            **values: A tensor for each variable, ``[sequence, query, entry]`` as ``run`` gives it,
                or one that broadcasts to it. NaN entries are left to their cause, so that a
                variable can be held at some positions only.

        Returns:
            A new causal model; this one stays as it is.

        Raises:
            ArgumentError: An unknown variable, or match weights or a prediction off the simplex.
        """
        new = interventions.checked(values, VARIABLES, PROBABILITIES)
        return replace(self, interventions={**self.interventions, **new})

    def run(self, tokens: Tensor) -> dict[str, Tensor]:
        """All variables at every query position, in float64.

        Args:
            tokens: ``[sequence, position]``.

        Returns:
            ``copied_parents``, ``[sequence, query, window · token]``: the tokens 1 to ``window``
            before each position, one-hot, nearest first. ``selected_feature``,
            ``[sequence, query, 2 · row]``: the tuple of parents of the token there, then that of
            the token after it, one-hot. ``match_weights``, ``[sequence, query, evidence]``.
            ``prediction``, ``[sequence, query, token]``.

        Raises:
            TokensError: Tokens that do not fit the task.
            ArgumentError: An intervention whose shape does not fit.
        """
        task = self.task
        one_hots = one_hot(check_tokens(task, tokens), task.n_tokens).to(torch.float64)
        length = one_hots.shape[1]
        lagged = [one_hots[:, task.window - lag : length - lag] for lag in range(task.window + 1)]
        copied = self._held("copied_parents", torch.cat(lagged[1:], -1))
        copies = copied.unflatten(-1, (task.window, task.n_tokens))
        window = torch.cat([lagged[0][:, :, None], copies], 2)  # the current token is lag 0
        key = joint(window[:, :, list(task.parents)])
        query = joint(window[:, :, [lag - 1 for lag in task.parents]])
        feature = self._held("selected_feature", torch.cat([key, query], -1))
        key, query = feature.split(task.n_rows, -1)
        scores = self.sharpness * query @ key.transpose(1, 2)
        weights = self._held("match_weights", estimators.attend(scores))
        prediction = self._held("prediction", weights @ lagged[0])
        return dict(zip(VARIABLES, (copied, feature, weights, prediction), strict=True))

    def _held(self, name: str, natural: Tensor) -> Tensor:
        return interventions.held(self.interventions, name, natural)


def joint(
    copies: Float[Tensor, "sequence query parent token"],
) -> Float[Tensor, "sequence query row"]:
    """Which tuple the parents form: the product of their one-hot vectors, one entry a tuple."""
    rows = copies[:, :, 0]
    for index in range(1, copies.shape[2]):
        rows = (rows[..., None] * copies[:, :, index, None]).flatten(-2)
    return rows


def fit_sharpness(
    task: NGramTask,
    tokens: Tensor,
    targets: Tensor,
    bounds: tuple[float, float] = SHARPNESS_RANGE,
) -> float:
    """The sharpness whose prediction at the last query is nearest to ``targets``.

    Minimises the mean KL(target ‖ prediction) by bounded scalar search, over the tokens that the
    context holds: others have probability 0 at any sharpness.

    Args:
        task: The task.
        tokens: ``[sequence, position]``.
        targets: ``[sequence, token]``, the distributions to follow.
        bounds: Of the sharpness.

    Raises:
        ArgumentError: Targets of another shape or not finite, or bounds out of order.
        TokensError: Tokens that do not fit the task.
    """
    if tuple(targets.shape) != (len(tokens), task.n_tokens) or not targets.isfinite().all():
        raise ArgumentError(
            f"targets must be finite, [sequence, token] = {(len(tokens), task.n_tokens)}; got "
            f"shape {tuple(targets.shape)}."
        )
    if not 0 < bounds[0] < bounds[1] <= estimators.MAX_SHARPNESS:
        raise ArgumentError(f"bounds of sharpness must be positive and increasing; got {bounds!r}.")
    everything = estimators.last_counts(task, tokens, ())
    matching = estimators.last_counts(task, tokens)
    seen = everything > 0
    targets = targets.to(everything)

    def cross_entropy(sharpness: float) -> float:
        prediction = estimators.of_counts(matching, everything, sharpness)
        return -float((targets * prediction.where(seen, 1.0).log()).sum(-1).mean())

    result = optimize.minimize_scalar(
        cross_entropy, bounds=bounds, method="bounded", options={"xatol": 1e-8}
    )
    return float(result.x)


def best_sharpness(task: NGramTask) -> float:
    """The sharpness that predicts best on the task itself, fitted to the true distribution.

    Uses 2048 sequences with a fixed seed, so equal tasks get equal values.

    Args:
        task: The task.
    """
    batch = task.sample(N_FIT_SEQUENCES, seed=FIT_SEED)
    truth = estimators.ngram_truth(task, batch.tokens, batch.tables)[:, -1]
    return fit_sharpness(task, batch.tokens, truth)
