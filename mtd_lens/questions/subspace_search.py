"""The search for a subspace that carries a variable, and the scores of swaps in it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import probes
from mtd_lens.claims import NotApplicable
from mtd_lens.errors import ArgumentError
from mtd_lens.measures.pairs import N_BLIND, Pairs, negligible, pairs_of, prediction_with
from mtd_lens.spaces import check_outputs
from mtd_lens.trial import Trial
from probes.alignment import Alignment
from probes.statistics import Interval
from probes.subspaces import Held, held_at


@dataclass(frozen=True, eq=False)
class Half:
    """The sequences of one split, and what the causal model says of each pair.

    Attributes:
        tokens: ``[sequence, position]``: all bases, then all sources, then all wrong ones.
        pairs: Of each variable; bases and sources are the same.
        arbitrary: ``[pair, outcome]``: the first variable's counterfactual with an arbitrary one's
            source value in its place.
        arbitrary_blind: ``[pair, outcome]``: the mean of such over other sources' values.
    """

    tokens: Tensor
    pairs: Sequence[Pairs]
    arbitrary: Tensor
    arbitrary_blind: Tensor

    def __len__(self) -> int:
        return len(self.pairs[0])

    @property
    def source(self) -> Tensor:
        """``[pair]``: the row of each base's source."""
        return torch.arange(len(self), 2 * len(self), device=self.tokens.device)

    def differences(self, held: Held, *, wrong: bool = False) -> Tensor:
        """``[pair, position, component]``: sources, or wrong ones, less bases, in float64."""
        base, source, other = held.values.double().split(len(self))
        return (other if wrong else source) - base


def half_of(
    trial: Trial, split: Tensor, names: Sequence[str], queries: slice, given_query: bool
) -> Half:
    """Random pairs of one split, with what the causal model says of each variable.

    Args:
        trial: Of the model under test.
        split: Whose sequences are bases.
        names: Of one variable, or of two.
        queries: At which query positions.
        given_query: Whether sources share the query's own tokens with their base.

    Raises:
        ArgumentError: A variable does not vary, or the query has no tokens of its own.
    """
    assert trial.algorithm is not None
    control = trial.algorithm.control
    assert control is not None
    drawn = []
    for name in names:
        try:
            pairs = pairs_of(
                trial, split, name, queries, given_query=given_query, n_bases=len(split)
            )
        except NotApplicable as reason:
            raise ArgumentError(
                f"{name} cannot be aligned given the query: {reason}. Use given_query=False."
            ) from reason
        blind = trial.task.outputs.divergence(pairs.counterfactual, pairs.blind)
        if negligible(blind, pairs.counterfactual):
            raise ArgumentError(
                f"{name} does not vary on this task, or swapping it changes no prediction, so "
                "there is nothing to align."
            )
        drawn.append(pairs)
    base, source = drawn[0].base.sequences, drawn[0].source.sequences
    decoy = control(trial.causal_model, source, names[0], trial.seed)

    def outcome(values: Tensor) -> Tensor:
        return prediction_with(trial.causal_model, base, names[0], values, queries)

    return Half(
        torch.cat([base, source, drawn[0].wrong.sequences]),
        drawn,
        outcome(decoy),
        torch.stack([outcome(decoy.roll(n + 1, 0)) for n in range(N_BLIND)]).mean(0),
    )


@dataclass(frozen=True, eq=False)
class Search:
    """A model, and where in it a subspace is sought."""

    trial: Trial
    fitting: Half
    sites: Sequence[probes.Site]
    width: int
    steps: int
    tolerance: float

    def held(self, half: Half) -> Held:
        """What natural runs hold at the sites."""
        return held_at(self.trial.natural(half.tokens), self.sites)

    def unpatched(self, half: Half) -> Tensor:
        """``[pair, outcome]``: the model's predictions on the bases."""
        return self.trial.predictions(half.tokens)[: len(half)]

    def fit(self, targets: Sequence[Tensor]) -> Alignment:
        """The subspace whose swap brings predictions nearest to targets, one set a variable.

        Args:
            targets: ``[pair, outcome]`` each.
        """
        half, outputs = self.fitting, self.trial.task.outputs
        return probes.fit_alignment(
            self.trial.model,
            half.tokens,
            half.source,
            list(targets),
            self.sites,
            [self.width] * len(targets),
            predict=lambda output: outputs.prediction(self.trial.model, output),
            divergence=outputs.divergence,
            steps=self.steps,
            seed=self.trial.seed,
            natural=self.trial.natural(half.tokens),
            tolerance=self.tolerance,
        )

    def scores(
        self, half: Half, shifts: Mapping[str, Tensor], *, arbitrary: bool = False, of: int = 0
    ) -> dict[str, Interval]:
        """By name, how well shifting each base's activations acts as the algorithm says.

        Args:
            half: Of which split.
            shifts: By name, ``[pair, position, component]``.
            arbitrary: Against the arbitrary variable.
            of: Which variable.
        """
        held, outputs = self.held(half), self.trial.task.outputs
        base = held.values[: len(half)].double()
        rows = torch.arange(len(half), device=base.device)
        found = probes.run_written(
            self.trial.model,
            self.trial.natural(half.tokens),
            rows,
            {name: held.writes(base + shift) for name, shift in shifts.items()},
        )
        pairs = half.pairs[of]
        target, blind = pairs.counterfactual, pairs.blind
        if arbitrary:
            target, blind = half.arbitrary, half.arbitrary_blind
        below = outputs.divergence(target, blind)
        return {
            name: probes.one_minus_ratio(
                outputs.divergence(
                    target, outputs.prediction(self.trial.model, check_outputs(output))
                ),
                below,
                seed=self.trial.seed,
            )
            for name, output in found.items()
        }


def within(differences: Tensor, basis: Tensor) -> Tensor:
    """The part of differences that lies in a subspace.

    Args:
        differences: ``[pair, position, component]``.
        basis: ``[component, width]``: orthonormal columns.
    """
    basis = basis.to(differences)
    return differences @ basis @ basis.T
