"""Base and source sequences, and what the algorithm predicts when a variable is swapped."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

import probes
from mtd_lens.contracts import CausalModel
from mtd_lens.errors import ArgumentError
from mtd_lens.spaces import Space
from mtd_lens.trial import Trial
from probes import checks
from probes.capture import BATCH_SIZE, NaturalRuns
from probes.errors import shown
from probes.statistics import NEGLIGIBLE
from probes.subject import HookedModel

N_CANDIDATES = 8
"""Sources tried for each base; the one whose counterfactual differs most is used."""

TIE = 1e-9
"""Effects that differ by this share of a typical one differ by rounding; the first source stays."""

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

    Raises:
        ArgumentError: Any of these of another kind, or an unknown variable.
        TokensError: Tokens that do not fit the task.
    """
    _check_held(causal_model, variable, queries)
    checks.tensor(values, "values", "sequence, query, …", ArgumentError)
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

    Raises:
        ArgumentError: Any of these of another kind, or an unknown variable.
        TokensError: Tokens that do not fit the task.
    """
    _check_held(causal_model, variable, queries)
    checks.function(divergence, "divergence", ArgumentError)
    seed = checks.seed(seed, ArgumentError)
    natural = causal_model.run(tokens)
    if len(tokens) < 2:
        raise ArgumentError("pairs are made of two sequences or more; got one. Draw more.")
    base, values = natural["prediction"][:, -1], natural[variable]
    rows = torch.arange(len(tokens), device=tokens.device)
    shifts = 1 + np.random.default_rng(seed).permutation(len(tokens) - 1)[:N_CANDIDATES]
    best: Pairs | None = None
    for shift in shifts:
        source = (rows + int(shift)) % len(tokens)
        outcome = prediction_with(causal_model, tokens, variable, values[source], queries)
        effect = divergence(outcome, base)
        checks.tensor(effect, "what divergence returns", "sequence", ArgumentError)
        if best is None:
            best, typical = Pairs(source, outcome, effect), effect.mean()
            continue
        better = effect > best.effect + TIE * typical
        best = Pairs(
            torch.where(better, source, best.source),
            torch.where(better[:, None], outcome, best.counterfactual),
            torch.where(better, effect, best.effect),
        )
    assert best is not None
    return best


def _check_held(causal_model: CausalModel, variable: str, queries: slice) -> None:
    if not isinstance(causal_model, CausalModel):
        raise ArgumentError(f"causal_model must be a causal model; got {shown(causal_model)}.")
    checks.choice(variable, "variable", causal_model.variables, ArgumentError)
    checks.instance(queries, slice, "queries", ArgumentError, "EVERY is slice(None).")


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


def negligible(divergence: Tensor, reference: Float[Tensor, "*row outcome"]) -> bool:
    """Whether a mean divergence is rounding beside the mean square of what it is from.

    A divergence in nats is, for small ones, a squared difference of probabilities over them.

    Args:
        divergence: Non-negative.
        reference: ``[…, outcome]``: predictions or values, in the unit of the divergence's root.
    """
    size = float(reference.square().sum(-1).mean())
    return float(divergence.mean()) <= NEGLIGIBLE * size


def swap_errors(
    model: HookedModel,
    outputs: Space,
    target: Float[Tensor, "sequence outcome"],
    tokens: Tensor,
    source: Int[Tensor, " sequence"],
    sites: Mapping[str, probes.Site | Sequence[probes.Site]],
    natural: NaturalRuns,
    batch_size: int = BATCH_SIZE,
) -> tuple[Float[Tensor, " sequence"], dict[str, Float[Tensor, " sequence"]]]:
    """Divergences from a target: of unpatched runs, and by name of those with sites swapped.

    Args:
        model: The model.
        outputs: What it predicts.
        target: What each patched run should predict.
        tokens: ``[sequence, position]``.
        source: The row of each sequence's source.
        sites: What is swapped; see ``probes.run_interchange``.
        natural: The model's unedited runs on ``tokens``, or on more that begin with them.
        batch_size: Sequences a forward pass.
    """
    runs = probes.run_interchange(model, tokens, source, sites, batch_size, natural=natural)

    def error(output: Tensor) -> Tensor:
        return outputs.divergence(target, outputs.prediction(model, output))

    return error(runs.base), {name: error(output) for name, output in runs.patched.items()}


def first(trial: Trial, tokens: Tensor, n: int) -> Tensor:
    """The first sequences of a split, the same tensor every time.

    Args:
        trial: Of the experiment.
        tokens: One of its splits.
        n: How many.
    """
    return trial.memo("first", tokens, n, compute=lambda: tokens[:n])
