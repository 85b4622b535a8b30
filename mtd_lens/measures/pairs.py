"""Base and source sequences, and what the algorithm predicts when a variable is swapped."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from mtd_lens.contracts import CausalModel
from mtd_lens.trial import Trial

N_CANDIDATES = 8
"""Sources tried for each base; the one whose counterfactual differs most is used."""

TIE = 1e-9
"""Effects whose ratio is this close to 1 differ by rounding alone; the source tried first stays."""

Divergence = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Pairs:
    """Base and source sequences with what the algorithm predicts for each pair.

    Attributes:
        source: Row of the source of each base.
        counterfactual: Prediction at the last query with the variable at its source value.
        effect: Divergence of the counterfactual from the causal model's base prediction.
    """

    source: Int[Tensor, " sequence"]
    counterfactual: Float[Tensor, "sequence outcome"]
    effect: Float[Tensor, " sequence"]


def prediction_with(
    causal_model: CausalModel, tokens: Tensor, variable: str, values: Tensor, queries: slice
) -> Float[Tensor, "sequence outcome"]:
    """The algorithm's prediction at the last query with a variable held at values.

    Args:
        causal_model: The algorithm.
        tokens: ``[sequence, position]``.
        variable: What is held.
        values: At what, ``[sequence, query, …]``.
        queries: At which query positions (index into the variable's query axis).
    """
    held = torch.full_like(values, torch.nan)
    held[:, queries] = values[:, queries]
    return causal_model.do(**{variable: held}).run(tokens)["prediction"][:, -1]


def draw_pairs(
    causal_model: CausalModel,
    tokens: Tensor,
    variable: str,
    queries: slice,
    divergence: Divergence,
    seed: int,
) -> Pairs:
    """Pair every sequence with the one of eight random others that would change it most.

    Args:
        causal_model: The algorithm.
        tokens: ``[sequence, position]``.
        variable: What is put at its source value.
        queries: At which query positions (index into the variable's query axis).
        divergence: Between predictions.
        seed: Of the candidates.
    """
    natural = causal_model.run(tokens)
    base, values = natural["prediction"][:, -1], natural[variable]
    rows = torch.arange(len(tokens), device=tokens.device)
    shifts = 1 + np.random.default_rng(seed).permutation(len(tokens) - 1)[:N_CANDIDATES]
    best: Pairs | None = None
    for shift in shifts:
        source = (rows + int(shift)) % len(tokens)
        outcome = prediction_with(causal_model, tokens, variable, values[source], queries)
        effect = divergence(outcome, base)
        if best is None:
            best = Pairs(source, outcome, effect)
            continue
        better = effect > best.effect * (1 + TIE)
        best = Pairs(
            torch.where(better, source, best.source),
            torch.where(better[:, None], outcome, best.counterfactual),
            torch.where(better, effect, best.effect),
        )
    assert best is not None
    return best


def pairs_of(trial: Trial, tokens: Tensor, variable: str, queries: slice, seed: int) -> Pairs:
    """The pairs of an experiment, drawn once for its model, null and ceiling.

    Args:
        trial: Of the experiment.
        tokens: One of its splits, or a part of it from :func:`first`.
        variable: What is put at its source value.
        queries: At which query positions.
        seed: Of the candidates.
    """
    return trial.memo(
        "pairs",
        trial.causal_model,
        tokens,
        variable,
        str(queries),
        seed,
        compute=lambda: draw_pairs(
            trial.causal_model, tokens, variable, queries, trial.task.outputs.divergence, seed
        ),
    )


def first(trial: Trial, tokens: Tensor, n: int) -> Tensor:
    """The first sequences of a split, the same tensor every time.

    Args:
        trial: Of the experiment.
        tokens: One of its splits.
        n: How many.
    """
    return trial.memo("first", tokens, n, compute=lambda: tokens[:n])
