"""Interchange of a variable at any sites of a model together, on one split's pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

import probes
from mtd_lens.contracts import Carrier
from mtd_lens.measures.pairs import Pairs, Rows, negligible, pairs_of
from mtd_lens.measures.writing import at, natural_predictions
from mtd_lens.questions.sets import Places
from mtd_lens.results.places import Place
from mtd_lens.spaces import check_outputs
from mtd_lens.trial import Trial
from probes.interchange import streams_of
from probes.patching.swaps import Write
from probes.sites import hook_name
from probes.subject import HookedModel, subject_of

WITH_HEADS = ("pattern", "z")

BATCH_SIZE = 128
"""Runs a forward pass: of many sets, a small model's passes cost more than what is in them."""


@dataclass(frozen=True)
class Swaps:
    """Random pairs of one split, in whose bases a variable's sites are put at source values.

    Attributes:
        trial: Of the experiment.
        positions: At which the variable is swapped.
        pairs: Of bases and sources.
        blind: ``[pair]``: divergence of the best answer without a look at the source from the
            counterfactual, in the family's unit.
    """

    trial: Trial
    positions: tuple[int, ...]
    pairs: Pairs
    blind: Tensor

    @classmethod
    def of(cls, trial: Trial, split: Tensor, carrier: Carrier, given_query: bool) -> "Swaps":
        """Those of a variable.

        Args:
            trial: Of the experiment.
            split: Whose sequences are bases.
            carrier: Says which variable, and at which queries.
            given_query: Whether sources share the query's own tokens with their base.

        Raises:
            NotApplicable: Sources cannot share them.
        """
        pairs = pairs_of(trial, split, carrier.variable, carrier.queries, given_query=given_query)
        blind = trial.task.outputs.divergence(pairs.counterfactual, pairs.blind)
        return cls(trial, trial.positions[carrier.queries], pairs, blind)

    @property
    def vary(self) -> bool:
        """Whether the source matters to the counterfactual at all."""
        return not negligible(self.blind, self.pairs.counterfactual)

    def errors(
        self, groups: Sequence[Sequence[probes.Site]], source: Rows | None = None
    ) -> list[Tensor]:
        """Divergence from the counterfactual with each group of sites swapped, ``[pair]`` each.

        Args:
            groups: Sites that are swapped together; of none, the base runs are as they are.
            source: Whose values are swapped in; by default the pairs' own sources.
        """
        rows = self.pairs.source if source is None else source
        sites = list(dict.fromkeys(site for group in groups for site in group))
        # All in one pass: what is read of the same sequences again is there.
        self.trial.natural(rows.tokens).read(sites)
        self.trial.natural(self.pairs.base.tokens).read([*sites, *streams_of(self.trial.model)])
        values = {site: at(self.trial, rows, site) for site in sites}
        writes = {
            f"{index}": [(site, values[site]) for site in group]
            for index, group in enumerate(groups)
            if group
        }
        found = self._written(writes) if writes else {}
        if len(found) < len(groups):
            natural = natural_predictions(self.trial, self.pairs.base)
            found |= {f"{index}": natural for index, group in enumerate(groups) if not group}
        divergence = self.trial.task.outputs.divergence
        return [
            divergence(self.pairs.counterfactual, found[f"{index}"]) for index in range(len(groups))
        ]

    def _written(self, writes: Mapping[str, Sequence[Write]]) -> dict[str, Tensor]:
        """Predictions with values written, by name."""
        trial, base = self.trial, self.pairs.base
        runs, read_out = trial.natural(base.tokens), trial.task.outputs.prediction
        outputs = probes.run_written(trial.model, runs, base.index, writes, BATCH_SIZE)
        return {name: read_out(trial.model, check_outputs(o)) for name, o in outputs.items()}

    def scores(self, sets: Sequence[Places]) -> list[float]:
        """``1 - E D(counterfactual ‖ patched) / E D(counterfactual ‖ blind)`` of each set.

        Args:
            sets: Places that are swapped together.
        """
        errors = self.errors([self.sites(places) for places in sets])
        return [1 - float(each.mean() / self.blind.mean()) for each in errors]

    def sites(self, places: Places) -> list[probes.Site]:
        """Places at all positions.

        Args:
            places: Of the model.
        """
        return [site_of(place, self.positions) for place in places]


def places_of(model: HookedModel, kinds: Sequence[str]) -> list[Place]:
    """Every place of some kinds that a model has, by layer.

    Args:
        model: A hooked model.
        kinds: Last parts of hooks' names.
    """
    subject = subject_of(model)
    return [
        Place(layer, kind, head)
        for layer in range(subject.n_layers)
        for kind in kinds
        if kind != "mlp_out" or subject.has_mlp
        if kind != "attn_out" or subject.n_heads > 1  # it holds what the head's z does
        for head in (range(subject.n_heads) if kind in WITH_HEADS else (None,))
    ]


def site_of(place: Place, positions: Sequence[int]) -> probes.Site:
    """A place at some positions.

    Args:
        place: Of the model.
        positions: In a sequence.
    """
    return probes.Site(hook_name(place.kind, place.layer), positions, place.head)


def in_words(positions: Sequence[int]) -> str:
    """Positions for a reader: ``"positions 3 to 30"``.

    Args:
        positions: In order.
    """
    if len(positions) == 1:
        return f"position {positions[0]}"
    skipped = len(positions) < positions[-1] - positions[0] + 1
    note = f", {len(positions)} of them" if skipped else ""
    return f"positions {positions[0]} to {positions[-1]}{note}"
