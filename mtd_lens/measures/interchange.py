"""Interchange: does another sequence's value, put into a layer, act as the algorithm says?"""

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

import probes
from mtd_lens.contracts import EVERY, Measurement
from mtd_lens.measures.pairs import Pairs, first, negligible, pairs_of, swap_errors
from mtd_lens.measures.words import hook_of, where
from mtd_lens.trial import Trial, checked_trial
from probes.interchange import streams_of
from probes.subject import Subject

N_SELECTION_PAIRS = 128  # of the fit split, by which the layer of an interchange claim is chosen


@dataclass(frozen=True)
class Interchange:
    """``1 - E D(counterfactual ‖ patched) / E D(counterfactual ‖ base)`` (Geiger et al. 2021).

    Attributes:
        variable: Of the causal model.
        hook: Within a block, all heads: ``"hook_attn_out"``, ``"attn.hook_pattern"``, or a function
            of the model that names it.
        queries: At which query positions to swap. With none of them the claim does not apply.
    """

    variable: str
    hook: str | Callable[[Subject], str]
    queries: slice = field(default_factory=lambda: EVERY)

    def edits(self, trial: Trial) -> str:
        """The hook within a block that is edited."""
        checked_trial(trial)
        return hook_of(self.hook, trial)

    def reads(self, trial: Trial) -> list[probes.Site]:
        """What is swapped, and the streams from which patched runs go on."""
        checked_trial(trial)
        if not trial.positions[self.queries]:
            return []
        return [*self._sites(trial).values(), *streams_of(trial.model)]

    def __call__(self, trial: Trial) -> list[Measurement]:
        """One measurement a layer.

        Args:
            trial: The model under test.
        """
        checked_trial(trial)
        positions = trial.positions[self.queries]
        if not positions:
            return []
        sites = self._sites(trial)
        few = first(trial, trial.fit_tokens, N_SELECTION_PAIRS)
        _, fit_base, fit_patched = self._errors(trial, trial.fit_tokens, few, sites, trial.seed)
        pairs, base, patched = self._errors(
            trial, trial.tokens, trial.tokens, sites, trial.seed + 1
        )
        if negligible(pairs.effect, pairs.counterfactual):
            return []
        return [
            Measurement(
                layer=layer,
                site=f"{sites[name].hook} at {where(positions)}",
                selection=1 - float(fit_patched[name].mean() / fit_base.mean()),
                numerator=patched[name],
                denominator=base,
                details={"pairs": float(len(base)), "mean_denominator": float(base.mean())},
            )
            for layer, name in enumerate(sites)
        ]

    def _sites(self, trial: Trial) -> dict[str, probes.Site]:
        hook, positions = self.edits(trial), trial.positions[self.queries]
        return {
            f"{layer}": probes.Site(f"blocks.{layer}.{hook}", positions)
            for layer in range(trial.n_layers)
        }

    def _errors(
        self,
        trial: Trial,
        split: Tensor,
        tokens: Tensor,
        sites: dict[str, probes.Site],
        seed: int,
    ) -> tuple[Pairs, Tensor, dict[str, Tensor]]:
        """The pairs, and errors of base and patched runs, one value a pair."""
        pairs = pairs_of(trial, tokens, self.variable, self.queries, seed)
        base, patched = swap_errors(
            trial.model,
            trial.task.outputs,
            pairs.counterfactual,
            tokens,
            pairs.source,
            sites,
            trial.natural(split),
        )
        return pairs, base, patched
