"""Scorecards beside each other: what differs between models, seeds, checkpoints or lengths."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from scipy import special, stats
from torch import Tensor

import probes
from mtd_lens.errors import ArgumentError
from mtd_lens.results.scorecard import ClaimResult, Scorecard
from mtd_lens.results.scorecard_comparison import (
    EXACT,
    PAIRED,
    UNPAIRED,
    ClaimBeside,
    ComparedCard,
    Difference,
    ScorecardComparison,
)
from probes import checks
from probes.statistics.intervals import CONFIDENCE, expanded_confidence, resample_weights

QUANTILE = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
"""Half the width of a 95% interval, in standard errors."""


def compare_scorecards(
    cards: Iterable[Scorecard], *, names: Iterable[str] | None = None
) -> ScorecardComparison:
    """Hold scorecards against the first of them, claim by claim.

    Of the same task, seed and number of sequences the scores are of the same sequences and pairs,
    and differences are paired: their interval is a bootstrap over sequences, their p that of sign
    flips, which exchange the two models (Fisher 1935). Otherwise, and of probes, whose fits make
    them uncertain too, they come from the two scores' intervals as those of independent estimates
    (Zou & Donner 2008); that is too wide where the sequences are the same, not too narrow. p values
    are corrected for all differences shown (Holm).

    Args:
        cards: Two or more, of the same algorithm; the others are held against the first.
        names: What they are called; by default after their models, and what else tells them apart.

    Returns:
        Every claim's scores and verdicts, and differences with interval and p.

    Raises:
        ArgumentError: Fewer than two scorecards, other objects, scorecards of different algorithms
            or task families, or names that are not as many, or not distinct.

    Examples:
        >>> import mtd_lens
        >>> model = mtd_lens.load_model("mtd-q3-m2-t32/constructed-relative")
        >>> other = mtd_lens.load_model("mtd-q3-m2-t32/random-relative")
        >>> cards = [mtd_lens.score(m, n_sequences=64, quick=True) for m in (model, other)]
        >>> found = mtd_lens.compare_scorecards(cards)
        >>> found["mixture_weights.attention"].differences[0].score < -0.5
        True
    """
    listed = checks.listed(cards, "cards", "what mtd_lens.score returned", ArgumentError, Scorecard)
    if len(listed) < 2:
        raise ArgumentError(f"cards must be two scorecards or more; got {len(listed)}.")
    first, *others = listed
    for card in others:
        one, two = (f"{c.algorithm} on {c.task_name} ({c.divergence})" for c in (first, card))
        if (card.algorithm, card.divergence) != (first.algorithm, first.divergence):
            raise ArgumentError(
                f"the scorecards are against {one} and against {two}: their claims are not the "
                "same. Compare models of one task family, scored with the same algorithm=…."
            )
    called = _named(listed) if names is None else _checked(names, len(listed))
    unlike = [""] + [_unlike(first, card) for card in others]
    ids = dict.fromkeys(claim.id for card in listed for claim in card)
    found = {name: [_claim(card, name) for card in listed] for name in ids}
    differences = {
        name: [
            None if one is None or two is None else _difference(one, two, not why, first.seed)
            for two, why in zip(rest, unlike[1:], strict=True)
        ]
        for name, (one, *rest) in found.items()
    }
    return ScorecardComparison(
        model=first.model, task=first.task, seed=first.seed, n_sequences=first.n_sequences,
        parameters=first.parameters, divergence=first.divergence, versions=first.versions,
        through=first.through, algorithm=first.algorithm,
        cards=tuple(
            ComparedCard(
                name=name, model=card.model, task=card.task_name, seed=card.seed,
                n_sequences=card.n_sequences, parameters=card.parameters, quick=card.quick,
                conclusion=card.conclusion, unpaired=why,
            )
            for name, card, why in zip(called, listed, unlike, strict=True)
        ),
        claims=tuple(
            ClaimBeside(
                id=name,
                statement=next(claim.statement for claim in claims if claim is not None),
                found=tuple(claim and replace(claim, rows=None) for claim in claims),
                differences=tuple(adjusted),
            )
            for (name, claims), adjusted in zip(
                found.items(), _adjusted(list(differences.values())), strict=True
            )
        ),
    )  # fmt: skip


def _claim(card: Scorecard, name: str) -> ClaimResult | None:
    return next((claim for claim in card if claim.id == name), None)


def _named(cards: Sequence[Scorecard]) -> list[str]:
    """What tells the scorecards apart: the model, the task, the seed, the number of sequences."""
    parts = [
        [card.model, f"on {card.task_name}", f"seed {card.seed}", f"{card.n_sequences} sequences"]
        for card in cards
    ]
    told, *columns = (list(column) for column in zip(*parts, strict=True))
    for column in columns:
        if len(set(told)) < len(told) and len(set(column)) > 1:
            told = [f"{name}, {part}" for name, part in zip(told, column, strict=True)]
    return [
        name if told.count(name) == 1 else f"{name} ({index})"
        for index, name in enumerate(told, start=1)
    ]


def _checked(names: Iterable[str], n: int) -> list[str]:
    listed = [
        checks.text(name, "a name", ArgumentError)
        for name in checks.listed(names, "names", "texts", ArgumentError, str)
    ]
    if len(listed) != n or len(set(listed)) != n:
        raise ArgumentError(f"names must be {n} distinct texts, one a scorecard; got {listed!r}.")
    return listed


def _unlike(one: Scorecard, two: Scorecard) -> str:
    """Why two scorecards are not of the same sequences; empty where they are."""
    kinds = {"task": "task", "seed": "seed", "n_sequences": "number of sequences"}
    unlike = [words for name, words in kinds.items() if getattr(one, name) != getattr(two, name)]
    return f"another {' and '.join(unlike)}" if unlike else ""


def _difference(one: ClaimResult, two: ClaimResult, same: bool, seed: int) -> Difference | None:
    """The second score minus the first, if both have one."""
    if one.score is None or two.score is None:
        return None
    apart = two.score - one.score
    if same and one.rows is not None and two.rows is not None and one.rows.shape == two.rows.shape:
        return _paired(apart, one.rows.double(), two.rows.double(), seed)
    below = math.hypot(_below(two), _above(one))
    above = math.hypot(_above(two), _below(one))
    towards_0 = below if apart > 0 else above
    if towards_0 == 0:
        return Difference(apart, apart, apart, p=None, p_adjusted=None, how=EXACT)
    p = float(2 * special.ndtr(-QUANTILE * abs(apart) / towards_0))
    return Difference(apart, apart - below, apart + above, p=p, p_adjusted=None, how=UNPAIRED)


def _paired(
    apart: float, one: Float[Tensor, "2 row"], two: Float[Tensor, "2 row"], seed: int
) -> Difference:
    """A difference over the same rows, which are resampled together.

    Where both scores are the same, so are the ratios of means: a row's discrepancies beyond what
    that ratio says then have either sign. Where references are equal too, as of swaps, flipping
    signs is exchanging the two models, row by row.
    """
    n_rows = one.shape[1]
    weights = resample_weights(n_rows, seed)
    ratios = [(weights @ above) / (weights @ below) for above, below in (one.numpy(), two.numpy())]
    tail = (1 - expanded_confidence(n_rows)) / 2
    low, high = np.quantile(ratios[0] - ratios[1], [tail, 1 - tail])
    ratio = (one[0].mean() + two[0].mean()) / 2
    beyond = (one[0] - ratio * one[1]) - (two[0] - ratio * two[1])
    p = float(probes.sign_flip_p_values(beyond, seed=seed))
    return Difference(apart, float(low), float(high), p=p, p_adjusted=None, how=PAIRED)


def _below(claim: ClaimResult) -> float:
    return 0.0 if claim.score is None or claim.low is None else claim.score - claim.low


def _above(claim: ClaimResult) -> float:
    return 0.0 if claim.score is None or claim.high is None else claim.high - claim.score


def _adjusted(found: list[list[Difference | None]]) -> list[list[Difference | None]]:
    """The same, with p corrected for how many there are."""
    p_values = [np.nan if d is None or d.p is None else d.p for row in found for d in row]
    adjusted = iter(probes.adjust_p_values(torch.tensor(p_values, dtype=torch.float64)).tolist())
    return [
        [
            d if math.isnan(p) or d is None else replace(d, p_adjusted=p)
            for d, p in zip(row, adjusted, strict=False)
        ]
        for row in found
    ]
