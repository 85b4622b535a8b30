"""Probes given the query: can a variable be read among sequences that end alike?

What trained models hold of a variable at the query can depend on the query's own tokens: no single
linear map reads it, though one does for each ending.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import probes
from mtd_lens.claims import Measurement, NotApplicable, QueryTokens
from mtd_lens.contracts import LAST
from mtd_lens.measures.pairs import negligible, spliced
from mtd_lens.measures.probe import ATTENTION_AND_STREAM, TIE, attainable_errors, probed_sites
from mtd_lens.measures.words import where
from mtd_lens.trial import Trial, checked_trial
from probes.linear import N_FOLDS
from probes.subject import Subject

N_GROUPS = 4
"""Endings whose sequences are probed, each by a map of its own."""

ROWS_A_FEATURE = 8
"""Sequences that a group's map is fitted on, by the number of features; as far as the cap allows.
"""

MAX_FURTHER = 1024
"""Sequences that are drawn for the fits of all groups at most."""

MIN_GROUP = 16
"""Sequences of a group, below which it is left out."""

_LEAST_SCORED = 2
_MIN_ROWS = 16


@dataclass(frozen=True)
class Group:
    """Sequences that end alike: for fits, and for scores, ``[sequence, position]`` each."""

    fit: Tensor
    test: Tensor

    @property
    def splits(self) -> tuple[Tensor, Tensor]:
        """Both."""
        return self.fit, self.test


@dataclass(frozen=True)
class ProbeGivenQuery:
    """R² within groups of sequences with the same last tokens, beside a control task.

    Endings are drawn from sampled sequences, and each is put under the contexts of others. A map is
    fitted for each group; errors and deviations from the group's own mean are pooled. R² is that of
    the best linear maps for infinitely many sequences, as in ``Probe``, and its interval is for the
    endings that were drawn.

    Attributes:
        variable: Of the causal model, ``[sequence, query, output]``.
        control: The control variable of token sequences, of the same shape:
            ``(causal model, tokens, variable, seed) -> values``.
        queries: At which query positions.
        hooks: Within a block; the best one of each layer (cross-validated) is reported.

    Examples:
        >>> import mtd_lens
        >>> from mtd_lens import measures
        >>> model = mtd_lens.load_model("mtd-q3-m2-t32/constructed-absolute")
        >>> trial = mtd_lens.Experiment.of(model, None, seed=0).drawn(64).trial()
        >>> from mtd_lens.families.mtd.claims import control_task
        >>> test = measures.ProbeGivenQuery("mean_responsibility", control_task)
        >>> [found.interval.score > 0.99 for found in test(trial)]  # by layer
        [False, True, True]
    """

    variable: str
    control: Callable[[Any, Tensor, str, int], Tensor]
    queries: slice = field(default_factory=lambda: LAST)
    hooks: Sequence[str | Callable[[Subject], str]] = ATTENTION_AND_STREAM

    def __call__(self, trial: Trial) -> list[Measurement]:
        """One measurement a layer; none where the variable does not vary.

        Args:
            trial: The model under test.

        Raises:
            ArgumentError: No trial.
            NotApplicable: The query has no tokens of its own, or too few sequences can share them.
        """
        checked_trial(trial)
        groups = self.groups(trial)
        n_scored = sum(len(group.test) for group in groups)
        if n_scored < _MIN_ROWS:
            raise NotApplicable(
                f"only {n_scored} sequences can share the query's tokens in groups of {MIN_GROUP} "
                f"or more; {_MIN_ROWS} are needed"
            )
        targets, decoys = self._values(trial, groups)
        within = [target - target.mean((0, 1)) for target in targets]
        if negligible(torch.cat([w.square().sum(-1) for w in within]), torch.cat(targets)):
            return []
        positions, measurements = trial.positions[self.queries], []
        for layer, sites in enumerate(self._sites(trial)):
            fitted = [self._pooled(trial, groups, site, targets, decoys) for site in sites]
            selections = [selection for selection, _, _, _ in fitted]
            best = next(i for i, value in enumerate(selections) if value >= max(selections) - TIE)
            selection, errors, control_errors, spreads = fitted[best]
            interval, control = (
                probes.read_interval(*both, spread, trial.seed)
                for both, spread in zip((errors, control_errors), spreads, strict=True)
            )
            measurements.append(
                Measurement(
                    layer=layer,
                    site=f"{sites[best].hook} at {where(positions)}, given the query",
                    selection=selection,
                    numerator=errors[0],
                    denominator=errors[1],
                    controls={"the control task": control},
                    details={
                        "control": control.score,
                        "selectivity": interval.score - control.score,
                        "groups": len(groups),
                        "fitted_on": min(len(group.fit) for group in groups),
                    },
                    interval=interval,
                )
            )
        return measurements

    def groups(self, trial: Trial) -> list[Group]:
        """The groups, the same ones for every model of as many features.

        Args:
            trial: The model under test.
        """
        checked_trial(trial)
        site = self._sites(trial)[0][0]
        n_features = trial.read(trial.fit_tokens, [site])[0].shape[-1]
        missing = N_GROUPS * ROWS_A_FEATURE * n_features - len(trial.fit_tokens)
        parts = [trial.fit_tokens]
        if missing > 0 and trial.complete:
            parts.append(trial.more(min(missing, MAX_FURTHER)))
        query = trial.query
        if query is None:
            raise NotApplicable("the query has no tokens of its own that sequences could share")
        found: list[Group] = trial.memo(
            "groups given the query",
            *parts,
            trial.tokens,
            trial.seed,
            compute=lambda: grouped(torch.cat(parts), trial.tokens, query, trial.seed),
        )
        return found

    def _values(self, trial: Trial, groups: list[Group]) -> tuple[list[Tensor], list[Tensor]]:
        """The variable and its control for each group, ``[sequence, query, output]``."""
        causal, seed = trial.causal_model, trial.seed

        def compute() -> tuple[list[Tensor], list[Tensor]]:
            sizes = [len(group.fit) + len(group.test) for group in groups]
            tokens = torch.cat([part for group in groups for part in group.splits])
            own = causal.run(tokens)[self.variable]
            control = self.control(causal, tokens, self.variable, seed)
            split = [list(values[:, self.queries].split(sizes)) for values in (own, control)]
            return split[0], split[1]

        key = (causal, groups, self.control, self.variable, str(self.queries), seed)
        return trial.memo("values given the query", *key, compute=compute)

    def _pooled(
        self,
        trial: Trial,
        groups: list[Group],
        site: probes.Site,
        targets: list[Tensor],
        decoys: list[Tensor],
    ) -> tuple[float, tuple[Tensor, Tensor], tuple[Tensor, Tensor], list[float]]:
        """Cross-validated R², errors and deviations, own and the control's, and both spreads."""
        all_sites = [each for sites in self._sites(trial) for each in sites]
        missed = total = 0.0
        squares = [0.0, 0.0]
        rows: list[list[tuple[Tensor, Tensor]]] = [[], []]
        for group, target, decoy in zip(groups, targets, decoys, strict=True):
            for tokens in group.splits:
                trial.natural(tokens).read(all_sites)  # in one pass
            halves = [trial.read(tokens, [site])[0] for tokens in group.splits]
            (probe, errors), (of_control, control_errors) = attainable_errors(halves, target, decoy)
            own = target[: len(group.fit)]
            variation = float((own - own.mean((0, 1))).square().sum())
            missed += (1 - probe.cross_validated) * variation
            total += variation
            squares[0] += probe.spread**2
            squares[1] += of_control.spread**2
            rows[0].append(errors)
            rows[1].append(control_errors)
        pooled = [tuple(torch.cat(parts) for parts in zip(*each, strict=True)) for each in rows]
        selection = 1 - missed / total if total > 0 else 0.0
        spreads = [math.sqrt(square) / len(groups) for square in squares]
        return selection, (pooled[0][0], pooled[0][1]), (pooled[1][0], pooled[1][1]), spreads

    def _sites(self, trial: Trial) -> list[list[probes.Site]]:
        return probed_sites(trial, self.hooks, self.queries)


def grouped(
    fit: Tensor, tokens: Tensor, query: QueryTokens, seed: int, n_groups: int = N_GROUPS
) -> list[Group]:
    """Contexts dealt out in turn to endings that are drawn from them.

    Args:
        fit: ``[sequence, position]``: contexts for fits, and where endings are drawn from.
        tokens: ``[sequence, position]``: contexts for scores.
        query: The query's own tokens, which a group shares.
        seed: Of the draw.
        n_groups: How many endings at most.
    """
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(len(fit), generator=generator).to(fit.device)
    bases: list[Tensor] = []
    for base in fit[drawn[: 16 * n_groups]]:
        known = any(torch.equal(base[-query.count :], other[-query.count :]) for other in bases)
        if len(bases) < n_groups and not known:
            bases.append(base)

    def put(contexts: Tensor, base: Tensor) -> Tensor:
        found = spliced(contexts, base.expand_as(contexts), query)
        return found if query.possible is None else found[query.possible(found)]

    n = len(bases)
    groups = [Group(put(fit[i::n], base), put(tokens[i::n], base)) for i, base in enumerate(bases)]
    return [
        group
        for group in groups
        if len(group.fit) >= max(N_FOLDS, MIN_GROUP) and len(group.test) >= _LEAST_SCORED
    ]
