"""Base and source sequences, and what the algorithm predicts when a variable is swapped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from mtd_lens.claims import NotApplicable, QueryTokens
from mtd_lens.contracts import CausalModel, last_prediction
from mtd_lens.errors import ArgumentError
from mtd_lens.trial import Trial, checked_trial
from probes import checks
from probes.errors import shown
from probes.statistics import NEGLIGIBLE
from probes.statistics.intervals import MIN_SEQUENCES

N_BLIND = 16
"""Sources over which the best answer without a look at the source is taken."""

N_SELECTION_PAIRS = 128
"""Of the fit split, by which layers are chosen."""

N_SPLICES = 16
"""Contexts that are tried under a query's own tokens until one is possible there."""


@dataclass(frozen=True)
class Rows:
    """Some sequences, as rows of tokens on which a model's runs are kept.

    Attributes:
        tokens: ``[sequence, position]``.
        index: ``[row]``: which of them; or ``[row, position]``, for each position its own.
    """

    tokens: Tensor
    index: Int[Tensor, "row *position"]

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, rows: slice) -> "Rows":
        return Rows(self.tokens, self.index[rows])

    @property
    def sequences(self) -> Shaped[Tensor, "row position *component"]:
        """The sequences themselves."""
        return self.tokens[self.index]


@dataclass(frozen=True)
class Pairs:
    """Random pairs of base and source, with what the algorithm predicts for each.

    Attributes:
        base: The sequences into whose runs values are written.
        source: Those that the values are of.
        wrong: Sources other than the counterfactual's.
        natural: ``[pair, query, …]``: the variable in the bases.
        swapped: ``[pair, query, …]``: the variable in the sources.
        counterfactual: ``[pair, outcome]``: prediction at the last query of the base with the
            variable at its source value.
        blind: ``[pair, outcome]``: the best answer without a look at the source: the mean of the
            counterfactual predictions over other sources.

    Examples:
        >>> import mtd_lens
        >>> from mtd_lens import measures
        >>> from mtd_lens.contracts import LAST
        >>> model = mtd_lens.load_model("mtd-q3-m2-t32/constructed-absolute")
        >>> trial = mtd_lens.Experiment.of(model, None, seed=0).drawn(64).trial()
        >>> pairs = measures.pairs_of(trial, trial.tokens, "mixture_weights", LAST)
        >>> pairs.base.sequences.shape, pairs.counterfactual.shape
        (torch.Size([32, 32]), torch.Size([32, 3]))
    """

    base: Rows
    source: Rows
    wrong: Rows
    natural: Tensor
    swapped: Tensor
    counterfactual: Float[Tensor, "pair outcome"]
    blind: Float[Tensor, "pair outcome"]

    def __len__(self) -> int:
        return len(self.base)

    def first(self, n: int) -> "Pairs":
        """The first of them.

        Args:
            n: How many, at least 1.

        Raises:
            ArgumentError: No such number.
        """
        n = checks.integer(n, "n", 1, ArgumentError)
        return Pairs(*(getattr(self, each.name)[:n] for each in fields(self)))


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

    Returns:
        ``[sequence, outcome]``.

    Raises:
        ArgumentError: Any of these of another kind, or an unknown variable.
        TokensError: Tokens that do not fit the task.
    """
    _check_held(causal_model, variable, queries)
    checks.tensor(values, "values", "sequence, query, …", ArgumentError)
    return last_prediction(causal_model.do(**{variable: held_at(values, queries)}), tokens)


def held_at(values: Tensor, queries: slice) -> Tensor:
    """Values at some query positions, and NaN at the others, which are left to their cause.

    Args:
        values: ``[sequence, query, …]``.
        queries: At which query positions.
    """
    held = torch.full_like(values, torch.nan)
    held[:, queries] = values[:, queries]
    return held


def pairs_of(
    trial: Trial,
    split: Tensor,
    variable: str,
    queries: slice,
    *,
    given_query: bool = False,
    n_bases: int | None = None,
) -> Pairs:
    """Random pairs, drawn once for the model, the null and the ceiling of an experiment.

    Bases and sources are of different splits, so that pairs are independent of each other; on the
    fit split, where choices are made, of the same one. Given the query, a source is a context of
    another sequence under the base's own last tokens.

    Args:
        trial: Of the experiment.
        split: ``[sequence, position]``: ``trial.tokens``, whose sequences are bases, or
            ``trial.fit_tokens``, of which the first are.
        variable: What is put at its source value.
        queries: At which query positions (index into the variable's query axis).
        given_query: Whether sources share the query's own tokens with their base.
        n_bases: How many bases at most, 1 or more; by default all, of the fit split
            ``N_SELECTION_PAIRS``. Of a null or a ceiling there are never more than these.

    Returns:
        The same pairs whenever they are asked for.

    Raises:
        ArgumentError: An unknown variable, other sequences than a split's, or too few of them.
        NotApplicable: The query has no tokens of its own, or too few contexts are possible there.
    """
    _check_held(checked_trial(trial).causal_model, variable, queries)
    if not any(split is known for known in trial.splits):
        raise ArgumentError(
            f"split must be trial.tokens or trial.fit_tokens itself; got {shown(split)}."
        )
    given_query = checks.flag(given_query, "given_query", ArgumentError)
    if n_bases is not None:
        n_bases = checks.integer(n_bases, "n_bases", 1, ArgumentError)
    every = len(split)
    if n_bases is None or not trial.complete:
        few = split is trial.fit_tokens or not trial.complete
        n_bases = min(N_SELECTION_PAIRS, every) if few else every
    return trial.memo(
        "pairs", trial.causal_model, split, variable, str(queries), given_query, n_bases,
        trial.complete, trial.seed,
        compute=lambda: _Draw(trial, split, given_query).pairs(variable, queries, n_bases),
    )  # fmt: skip


def further_source(trial: Trial, split: Tensor, pairs: Pairs, *, given_query: bool) -> Rows:
    """A third source for each of a split's pairs; the wrong one, where no other is possible.

    Args:
        trial: Of the experiment.
        split: Whose sequences the pairs' bases are.
        pairs: Drawn by :func:`pairs_of`.
        given_query: As they were drawn.
    """

    def compute() -> Rows:
        draw = _Draw(trial, split, given_query)
        found, possible = draw._sources(pairs.base.index, draw.shifts[:1:-1][:N_SPLICES])
        if possible.all():
            return found
        every = torch.where(possible[:, None], found.sequences, pairs.wrong.sequences)
        return Rows(every, torch.arange(len(every), device=every.device))

    found: Rows = trial.memo("further", split, pairs, given_query, compute=compute)
    return found


class _Draw:
    """Bases of one split, and sources for them."""

    def __init__(self, trial: Trial, split: Tensor, given_query: bool) -> None:
        self.causal_model, self.memo, self.seed = trial.causal_model, trial.memo, trial.seed
        self.split, self.others, self.complete = split, trial.fit_tokens, trial.complete
        if len(self.others) < MIN_SEQUENCES:
            raise ArgumentError(
                f"pairs are made of {MIN_SEQUENCES} sequences a split or more; got "
                f"{len(self.others)}. Draw more."
            )
        rng = np.random.default_rng(self.seed + (split is not self.others))
        self.shifts = [int(shift) + 1 for shift in rng.permutation(len(self.others) - 1)]
        self.query = trial.query if given_query else None
        if given_query and self.query is None:
            raise NotApplicable("the query has no tokens of its own that sequences could share")

    def pairs(self, variable: str, queries: slice, n_bases: int) -> Pairs:
        # A choice is made of the same splices as a fit.
        n = len(self.split) if self.complete else n_bases
        base, source, wrong = (
            rows[:n_bases]
            for rows in self.memo(
                "rows",
                self.split,
                self.others,
                self.query is None,
                n,
                self.seed,
                compute=lambda: self._rows(n),
            )
        )
        tokens = base.sequences

        def outcome(values: Tensor) -> Tensor:
            return prediction_with(self.causal_model, tokens, variable, values, queries)

        swapped = self._values(source, variable)
        natural, counterfactual = self._values(base, variable), outcome(swapped)
        total, count = torch.zeros_like(counterfactual), counterfactual.new_zeros(len(base), 1)
        for shift in self.shifts[2 : 2 + N_BLIND] or self.shifts[-1:]:
            other, possible = self._sources(base.index, [shift])
            if not possible.all():  # the source stands in for an impossible one, and counts nothing
                every = torch.where(possible[:, None], other.sequences, source.sequences)
                other = Rows(every, torch.arange(len(base), device=every.device))
            total += torch.where(possible[:, None], outcome(self._values(other, variable)), 0)
            count += possible[:, None]
        blind = torch.where(count > 0, total / count.clamp_min(1), counterfactual)
        return Pairs(base, source, wrong, natural, swapped, counterfactual, blind)

    def _rows(self, n: int) -> tuple[Rows, Rows, Rows]:
        """Base, source and wrong source of the first sequences of the split that have them."""
        every = torch.arange(n, device=self.split.device)
        turns = self.shifts[2:]
        source, possible = self._sources(every, [self.shifts[0], *turns[:N_SPLICES]])
        wrong, also = self._sources(every, [self.shifts[1], *turns[N_SPLICES:][:N_SPLICES]])
        kept = (possible & also).nonzero()[:, 0]
        if self.query is not None and len(kept) < MIN_SEQUENCES:
            raise NotApplicable(
                f"only {len(kept)} of {len(every)} sequences have a source that can share the "
                f"query's last {self.query.count} tokens; {MIN_SEQUENCES} are needed"
            )
        source, wrong = (Rows(rows.tokens, rows.index[kept]) for rows in (source, wrong))
        return Rows(self.split, kept), source, wrong

    def _sources(
        self, bases: Int[Tensor, " base"], shifts: Sequence[int]
    ) -> tuple[Rows, Bool[Tensor, " base"]]:
        """Sources at the first shift at which they are possible, and whether they are at any.

        Where they are not, the base itself stands in, of which every algorithm can be run.
        """
        index = (bases + shifts[0]) % len(self.others)
        possible = torch.ones_like(bases, dtype=torch.bool)
        if self.query is None:
            return Rows(self.others, index), possible
        own = self.split[bases]
        tokens = spliced(self.others[index], own, self.query)
        if self.query.possible is not None:
            possible = self.query.possible(tokens)
            for shift in shifts[1:]:
                left = (~possible).nonzero()[:, 0]
                if not len(left):
                    break
                others = self.others[(bases[left] + shift) % len(self.others)]
                tokens[left] = spliced(others, own[left], self.query)
                possible[left] = self.query.possible(tokens[left])
            tokens[~possible] = own[~possible]
        return Rows(tokens, torch.arange(len(bases), device=bases.device)), possible

    def _values(self, rows: Rows, variable: str) -> Tensor:
        """A variable in sequences, which is computed of all rows of their tokens at once."""
        return self._run(rows.tokens)[variable][rows.index]

    def _run(self, tokens: Tensor) -> Mapping[str, Tensor]:
        causal = self.causal_model
        if tokens is self.split or tokens is self.others:
            return self.memo("run", causal, tokens, compute=lambda: causal.run(tokens))
        return causal.run(tokens)


def spliced(
    contexts: Int[Tensor, "sequence position"],
    bases: Int[Tensor, "sequence position"],
    query: QueryTokens,
) -> Int[Tensor, "sequence position"]:
    """Contexts with the bases' last tokens put under them.

    Args:
        contexts: ``[sequence, position]``: whose tokens come before the query's own.
        bases: ``[sequence, position]``: whose last tokens are the query's own.
        query: How many those are.
    """
    return torch.cat([contexts[:, : -query.count], bases[:, -query.count :]], 1)


def _check_held(causal_model: CausalModel, variable: str, queries: slice) -> None:
    if not isinstance(causal_model, CausalModel):
        raise ArgumentError(f"causal_model must be a causal model; got {shown(causal_model)}.")
    checks.choice(variable, "variable", causal_model.variables, ArgumentError)
    checks.instance(queries, slice, "queries", ArgumentError, "EVERY is slice(None).")


def negligible(divergence: Tensor, reference: Float[Tensor, "*row outcome"]) -> bool:
    """Whether a mean divergence is rounding beside the mean square of what it is from.

    A divergence in nats is, for small ones, a squared difference of probabilities over them.

    Args:
        divergence: Non-negative.
        reference: ``[…, outcome]``: predictions or values, in the unit of the divergence's root.
    """
    size = float(reference.square().sum(-1).mean())
    return float(divergence.mean()) <= NEGLIGIBLE * size
