"""Sources whose value of a variable is nearly the base's own, and all else is different."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

import probes
from mtd_lens.claims import NotApplicable
from mtd_lens.contracts import last_prediction
from mtd_lens.measures.pairs import (
    N_SELECTION_PAIRS,
    Rows,
    negligible,
    pairs_of,
    prediction_with,
    spliced,
)
from mtd_lens.trial import Trial

N_POOL = 2048
"""Contexts among which a base's match is sought, given the query."""

POOL_SEED = 500_009
"""Of those contexts, on top of the experiment's."""

N_NEAREST = 12
"""Contexts that are nearest before they are put under the base's tokens, and tried there."""

MOST_FLOOR = 0.2
"""Matches are near enough if the algorithm itself changes by at most this share of what a random
source does: above it no model could score 0.8."""

CHUNK = 256
"""Sequences on which the algorithm is run at a time."""


@dataclass(frozen=True)
class Matches:
    """Bases, for each a source that is near in a variable, and a random one.

    Attributes:
        base: Sequences into whose runs is written.
        near: Sources that are near; at evidence positions, one for each position.
        random: Random ones, of the same kind.
        distance: Mean distance of the near ones over that of the random ones.
        effect: Divergence of the algorithm's prediction with the random source's value from that
            with the base's own.
        floor: The same with the near source's, as a share of it.
    """

    base: Rows
    near: Rows
    random: Rows
    distance: float
    effect: float
    floor: float


def matched_sources(trial: Trial, split: Tensor, variable: str, queries: slice) -> Matches:
    """Contexts that are near in a variable at the last query, under the base's own last tokens.

    Args:
        trial: Of the experiment; its model, null and ceiling get the same.
        split: Whose sequences are bases: ``trial.tokens``, or the first of ``trial.fit_tokens``.
        variable: Of the causal model.
        queries: At which query it is read: the last.

    Raises:
        NotApplicable: The query has no tokens of its own, or no context is near enough.
    """
    pairs = pairs_of(trial, split, variable, queries, given_query=True)
    query, causal = trial.query, trial.causal_model
    assert query is not None

    def match() -> Matches:
        contexts = trial.memo("pool", trial.task, trial.seed, compute=lambda: _pool(trial))
        held = trial.memo(
            "pool values", causal, contexts, variable, str(queries),
            compute=lambda: torch.cat(
                [causal.run(t)[variable][:, queries].flatten(1) for t in contexts.split(CHUNK)]
            ),
        )  # fmt: skip
        bases = pairs.base.sequences
        own = pairs.natural[:, queries].flatten(1)
        candidates = torch.cdist(own, held).topk(N_NEAREST, largest=False).indices
        best = own.new_full((len(own),), torch.inf)
        near, values = bases.clone(), pairs.natural.clone()
        for rank in range(N_NEAREST):
            tokens = spliced(contexts[candidates[:, rank]], bases, query)
            possible = torch.ones_like(best, dtype=torch.bool)
            if query.possible is not None:
                possible = query.possible(tokens)
                tokens = torch.where(possible[:, None], tokens, pairs.source.sequences)
            found = causal.run(tokens)[variable]
            away = (found[:, queries].flatten(1) - own).norm(dim=-1)
            better = (away < best) & possible
            best = torch.where(better, away, best)
            near = torch.where(better[:, None], tokens, near)
            values = torch.where(better.view(-1, *[1] * (found.ndim - 1)), found, values)
        if not best.isfinite().all():
            raise NotApplicable("for some bases no context is possible under the query's tokens")
        random = (pairs.swapped[:, queries].flatten(1) - own).norm(dim=-1)
        rows = Rows(near, torch.arange(len(near), device=near.device))
        return _checked(
            trial, variable, queries, pairs.base, (rows, pairs.source), (values, pairs.swapped),
            _share(best, random), len(contexts),
        )  # fmt: skip

    return trial.memo("matches", causal, pairs, variable, str(queries), compute=match)


def matched_positions(
    trial: Trial, split: Tensor, variable: str, queries: slice, window: int
) -> Matches:
    """For each evidence position, the same position of a sequence that is near in a variable there.

    Sources are of the fit split; their window up to the position differs from the base's.

    Args:
        trial: Of the experiment; its model, null and ceiling get the same.
        split: Whose sequences are bases: ``trial.tokens``, or the first of ``trial.fit_tokens``.
        variable: Of the causal model.
        queries: At which query positions.
        window: Tokens up to each position that have to differ in one at least.

    Raises:
        NotApplicable: No position is near enough.
    """
    causal, others = trial.causal_model, trial.fit_tokens
    own_split = split is others
    few = own_split or not trial.complete
    n = min(N_SELECTION_PAIRS, len(split)) if few else len(split)

    def match() -> Matches:
        base = Rows(split, torch.arange(n, device=split.device))
        natural, pool = trial.run(split)[variable][:n], trial.run(others)[variable]
        positions = trial.positions[queries]
        of_base, of_pool = (_windows(t, positions, window) for t in (split[:n], others))
        values, held = natural[:, queries], pool[:, queries]
        rng = torch.Generator(others.device).manual_seed(trial.seed + own_split)
        near, random, distances = [], [], []
        for index in range(len(positions)):  # one at a time, to hold little at once
            other = (of_base[:, None, index] != of_pool[None, :, index]).any(-1)
            if not other.any(1).all():
                raise NotApplicable("all sequences have the same window at some position")
            away = torch.cdist(values[:, index], held[:, index]).where(other, torch.inf)
            near.append(away.argmin(1))
            chance = torch.rand(away.shape, generator=rng, device=others.device)
            random.append(chance.where(other, -1.0).argmax(1))
            distances.append([away.gather(1, of[-1][:, None])[:, 0] for of in (near, random)])
        indices = [torch.stack(found, 1) for found in (near, random)]
        each = torch.arange(len(positions), device=others.device)
        swapped = [natural.clone() for _ in indices]
        for whole, chosen in zip(swapped, indices, strict=True):
            whole[:, queries] = held[chosen, each]
        rows = Rows(others, indices[0]), Rows(others, indices[1])
        distance = _share(*(torch.cat(found) for found in zip(*distances, strict=True)))
        return _checked(
            trial, variable, queries, base, rows, (swapped[0], swapped[1]), distance, len(others)
        )

    return trial.memo(
        "matched positions", causal, split, others, variable, str(queries), window, n, trial.seed,
        compute=match,
    )  # fmt: skip


def _share(near: Tensor, random: Tensor) -> float:
    """Mean distance of near sources over that of random ones."""
    return float(near.mean() / random.mean().clamp_min(torch.finfo(random.dtype).tiny))


def _pool(trial: Trial) -> Tensor:
    return trial.task.sample(N_POOL, trial.seed + POOL_SEED).tokens.to(trial.tokens.device)


def _windows(
    tokens: Tensor, positions: tuple[int, ...], window: int
) -> Int[Tensor, "sequence window length"] | Float[Tensor, "sequence window length"]:
    return probes.token_windows(tokens, positions, window).flatten(2)


def _checked(
    trial: Trial,
    variable: str,
    queries: slice,
    base: Rows,
    rows: tuple[Rows, Rows],
    values: tuple[Tensor, Tensor],
    distance: float,
    pool: int,
) -> Matches:
    """The matches, if they are near enough for the algorithm itself."""
    causal, tokens, divergence = trial.causal_model, base.sequences, trial.task.outputs.divergence
    natural = last_prediction(causal, tokens)
    near, random = (
        divergence(natural, prediction_with(causal, tokens, variable, held, queries))
        for held in values
    )
    if negligible(random, natural):
        raise NotApplicable("the variable does not vary")
    effect, floor = float(random.mean()), float(near.mean() / random.mean())
    if floor > MOST_FLOOR:
        # Distances to the nearest of n points in d dimensions fall as n^(-1/d), effects as squares.
        dimensions = int(torch.linalg.matrix_rank(values[1][:, queries].flatten(0, 1).T.cov()))
        would_do = pool * (floor / MOST_FLOOR) ** (dimensions / 2)
        raise NotApplicable(
            f"the nearest of {pool} sources are at {distance:.2g} of the distance of random ones, "
            f"where the algorithm itself changes by {floor:.2g} of what they do; about "
            f"{would_do:.0f} would do"
        )
    return Matches(base, *rows, distance, effect, floor)
