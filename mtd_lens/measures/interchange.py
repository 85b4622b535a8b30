"""Interchange: does another sequence's value, put into a layer, act as the algorithm says?"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

import probes
from mtd_lens.claims import Measurement
from mtd_lens.contracts import EVERY
from mtd_lens.measures.choice import earliest_best
from mtd_lens.measures.dose import dose
from mtd_lens.measures.pairs import Pairs, Rows, negligible, pairs_of
from mtd_lens.measures.words import where
from mtd_lens.measures.writing import (
    WritesAtLayers,
    at,
    natural_predictions,
    written_predictions,
)
from mtd_lens.trial import Trial, checked_trial
from probes.subject import Subject


@dataclass(frozen=True)
class Interchange(WritesAtLayers):
    """``1 - E D(counterfactual ‖ patched) / E D(counterfactual ‖ blind)``, on random pairs.

    The patched run is the base's with the source's activation (Geiger et al. 2021); the
    counterfactual is the algorithm's prediction with the variable at its source value; blind is the
    best answer without a look at the source. Beside it stand the same score with the activation of
    a wrong source, and the dose: how much of the source's value the patched model acts on. In the
    details, ``no swap`` is the score of the base's own prediction.

    Attributes:
        variable: Of the causal model.
        hook: Within a block, all heads: ``"hook_attn_out"``, ``"attn.hook_pattern"``, or a function
            of the model that names it.
        queries: At which query positions to swap. With none of them the claim does not apply.
        given_query: Sources share the query's own tokens with their base.
        linear: The variable's values are points of a linear space, so that it has doses.

    Examples:
        Does a layer's attention pattern at the last query carry the mixture weights?

        >>> import mtd_lens
        >>> from mtd_lens import measures
        >>> from mtd_lens.contracts import LAST
        >>> claim = mtd_lens.Claim(
        ...     "mixture_weights.swap",
        ...     "Swapping a layer's pattern at the last query acts as swapping the weights.",
        ...     measures.Interchange("mixture_weights", "pattern", LAST),
        ... )
        >>> model = mtd_lens.load_model("mtd-q3-m2-t32/constructed-absolute")
        >>> card = mtd_lens.score(model, n_sequences=64, claims=[claim], only=[claim.id])
        >>> card[claim.id].layer, card[claim.id].verdict
        (2, 'supported')
    """

    variable: str
    hook: str | Callable[[Subject], str]
    queries: slice = field(default_factory=lambda: EVERY)
    given_query: bool = False
    linear: bool = False

    def __call__(self, trial: Trial) -> list[Measurement]:
        """One measurement a layer.

        Args:
            trial: The model under test.
        """
        checked_trial(trial)
        if not trial.positions[self.queries]:
            return []
        pairs, sites = self.pairs(trial, trial.tokens), self.sites(trial)
        blind = trial.task.outputs.divergence(pairs.counterfactual, pairs.blind)
        if negligible(blind, pairs.counterfactual):
            return []

        selection = self.selection(trial)
        best = earliest_best(selection)
        measured = sites if trial.complete else {best: sites[best]}
        errors, patched = self._errors(trial, pairs, pairs.source, measured)
        controls, found = {}, None
        details = {"pairs": float(len(pairs)), "blind": float(blind.mean())}
        if trial.complete:
            natural = natural_predictions(trial, pairs.base)
            left = trial.task.outputs.divergence(pairs.counterfactual, natural)
            details["no swap"] = 1 - float(left.mean() / blind.mean())
            wrong, _ = self._errors(trial, pairs, pairs.wrong, {best: sites[best]})
            controls = {"a wrong source": (wrong[best], blind)}
            if self.linear:
                found = dose(trial, pairs, self.variable, self.queries, patched[best])
        return [
            Measurement(
                layer=layer,
                site=f"{site.hook} at {where(site.positions)}",
                selection=selection[layer],
                numerator=errors[layer],
                denominator=blind,
                controls=controls if layer == best else {},
                dose=found if layer == best else None,
                details=details,
            )
            for layer, site in measured.items()
        ]

    def pairs(self, trial: Trial, split: Tensor) -> Pairs:
        """Random pairs of a split that differ in the variable.

        Args:
            trial: The model under test.
            split: ``trial.tokens`` or ``trial.fit_tokens``, ``[sequence, position]``.

        Returns:
            The same ones for the model, the null and the ceiling.
        """
        return pairs_of(trial, split, self.variable, self.queries, given_query=self.given_query)

    def selection(self, trial: Trial) -> dict[int, float]:
        """By layer, the score on the fit split, by which the variable's own layer is chosen.

        Args:
            trial: The model under test.

        Returns:
            A score for every layer.
        """
        pairs = self.pairs(checked_trial(trial), trial.fit_tokens)
        blind = trial.task.outputs.divergence(pairs.counterfactual, pairs.blind).mean()
        errors, _ = self._errors(trial, pairs, pairs.source, self.sites(trial))
        return {layer: 1 - float(error.mean() / blind) for layer, error in errors.items()}

    def _errors(
        self, trial: Trial, pairs: Pairs, source: Rows, sites: Mapping[int, probes.Site]
    ) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """By layer, divergence of patched predictions from the counterfactual, and themselves."""
        writes = {f"{n}": [(site, at(trial, source, site))] for n, site in sites.items()}
        found = written_predictions(trial, pairs.base, writes)
        patched = {layer: found[f"{layer}"] for layer in sites}
        divergence = trial.task.outputs.divergence
        return {n: divergence(pairs.counterfactual, p) for n, p in patched.items()}, patched
