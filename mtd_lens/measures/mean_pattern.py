"""Mean patterns: does what a query's tokens do not say come in through the attention pattern?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

import probes
from mtd_lens.claims import Measurement, NotApplicable
from mtd_lens.contracts import LAST, last_prediction
from mtd_lens.measures.choice import earliest_best
from mtd_lens.measures.pairs import Rows, negligible
from mtd_lens.measures.probe_given_query import MIN_GROUP, grouped
from mtd_lens.measures.words import where
from mtd_lens.measures.writing import (
    WritesAtLayers,
    at,
    natural_predictions,
    written_predictions,
)
from mtd_lens.trial import Trial, checked_trial
from probes.patching.swaps import Write

N_ENDINGS = 8
"""Query tokens under which contexts are put, at most."""

PATTERN = "attn.hook_pattern"


@dataclass(frozen=True)
class MeanPattern(WritesAtLayers):
    """``E (natural - mean pattern) · effect / E |effect|²``, given the query's own tokens.

    In sequences that share the query's own tokens, a layer's attention pattern at the last query is
    replaced by its mean over others of them; values stay their own. The effect is what the
    algorithm's predictions differ by from their mean in the group. The score is the share of it
    that the model's predictions lose: 1 where it comes in through the pattern, 0 where no pattern,
    or no model, brings it in. In the details stands what remains, and what does with the mean
    values and the pattern of its own.

    Endings are drawn from sampled sequences, and each is put under the contexts of others; the
    interval is for the endings that were drawn.

    Examples:
        >>> import mtd_lens
        >>> from mtd_lens import measures
        >>> model = mtd_lens.load_model("mtd-q3-m2-t32/constructed-absolute")
        >>> trial = mtd_lens.Experiment.of(model, None, seed=0).drawn(64).trial()
        >>> test = measures.MeanPattern()
        >>> max(test(trial), key=lambda found: found.selection).layer
        2
    """

    hook = PATTERN
    queries = LAST

    def __call__(self, trial: Trial) -> list[Measurement]:
        """One measurement a layer.

        Args:
            trial: The model under test.

        Raises:
            ArgumentError: No trial.
            NotApplicable: The query has no tokens of its own, or too few sequences can share them.
        """
        alike = Alike.of(trial)
        effect = alike.effect()
        size = effect.square().sum(-1)
        if negligible(size, alike.algorithm()):
            return []
        sites = self.sites(trial)
        selection = alike.lost(sites)
        best = earliest_best(selection)
        measured = sites if trial.complete else {best: sites[best]}
        held = alike.with_mean(measured)
        details = {layer: {"remains": alike.share(found)} for layer, found in held.items()}
        if trial.complete:
            details[best] |= {
                "whole effect": alike.share(alike.natural()),
                "remains with mean values": alike.share(alike.with_mean_values(best)),
            }
        return [
            Measurement(
                layer=layer,
                site=f"{site.hook} at {where(site.positions)}, given the query",
                selection=selection[layer],
                numerator=size - ((alike.natural() - held[layer]) * effect).sum(-1),
                denominator=size,
                details=details[layer],
            )
            for layer, site in measured.items()
        ]


@dataclass(frozen=True)
class Alike:
    """Sequences that share the query's own tokens, in groups, of one model under test.

    Attributes:
        trial: The model under test.
        fit: ``[sequence, position]``: those that means are taken over, of every group.
        test: ``[sequence, position]``: those for scores.
        fit_group: ``[sequence]``: which group each is of.
        test_group: ``[sequence]``: the same.
    """

    trial: Trial
    fit: Tensor
    test: Tensor
    fit_group: Int[Tensor, " sequence"]
    test_group: Int[Tensor, " sequence"]

    @classmethod
    def of(cls, trial: Trial) -> "Alike":
        """The same sequences for the model, the null and the ceiling.

        Args:
            trial: Of the experiment.

        Raises:
            ArgumentError: No trial.
            NotApplicable: The query has no tokens of its own, or too few sequences can share them.
        """
        query = checked_trial(trial).query
        if query is None:
            raise NotApplicable("the query has no tokens of its own that sequences could share")

        def draw() -> tuple[Tensor, Tensor, Tensor, Tensor]:
            n_groups = max(1, min(N_ENDINGS, len(trial.fit_tokens) // MIN_GROUP))
            groups = grouped(*trial.splits, query, trial.seed, n_groups)
            if not groups:
                raise NotApplicable("too few sequences can share the query's tokens")
            fit, test = ([getattr(g, name) for g in groups] for name in ("fit", "test"))
            sizes = [torch.tensor([len(t) for t in parts]) for parts in (fit, test)]
            ids = [torch.arange(len(groups)).repeat_interleave(size) for size in sizes]
            device = trial.tokens.device
            return torch.cat(fit), torch.cat(test), ids[0].to(device), ids[1].to(device)

        return cls(trial, *trial.memo("alike", *trial.splits, trial.seed, compute=draw))

    def rows(self, on_fit: bool) -> Rows:
        """Their rows: those that means are taken over, or those for scores."""
        tokens = self.fit if on_fit else self.test
        return Rows(tokens, torch.arange(len(tokens), device=tokens.device))

    def natural(self, on_fit: bool = False) -> Float[Tensor, "sequence outcome"]:
        """What the model predicts."""
        return natural_predictions(self.trial, self.rows(on_fit))

    def mean(self, values: Tensor, on_fit: bool = False) -> Tensor:
        """For each sequence, the mean of its group.

        Args:
            values: ``[sequence, …]``, of those that means are taken over.
            on_fit: For these themselves.
        """
        n_groups = int(self.fit_group.max()) + 1
        member = torch.nn.functional.one_hot(self.fit_group, n_groups).to(values)
        means = torch.tensordot(member / member.sum(0), values, ([0], [0]))
        return means[self.fit_group if on_fit else self.test_group]

    def algorithm(self, on_fit: bool = False) -> Float[Tensor, "sequence outcome"]:
        """What the algorithm predicts."""
        causal, tokens = self.trial.causal_model, self.fit if on_fit else self.test
        found: Tensor = self.trial.memo(
            "last prediction", causal, tokens, compute=lambda: last_prediction(causal, tokens)
        )
        return found

    def effect(self, on_fit: bool = False) -> Float[Tensor, "sequence outcome"]:
        """By how much what the algorithm predicts differs from its mean in the group."""
        return self.algorithm(on_fit) - self.mean(self.algorithm(on_fit=True), on_fit)

    def share(self, predictions: Float[Tensor, "sequence outcome"]) -> float:
        """Of the effect, in predictions of the sequences for scores."""
        effect = self.effect()
        found = ((predictions - self.mean(self.natural(on_fit=True))) * effect).sum(-1)
        return float(found.mean() / effect.square().sum(-1).mean())

    def lost(self, sites: Mapping[int, probes.Site]) -> dict[int, float]:
        """By key, the share of the effect that is lost with the group's mean at a site.

        Of the sequences that means are taken over, by which choices are made.
        """
        natural, effect = self.natural(on_fit=True), self.effect(on_fit=True)
        return {
            key: float(((natural - held) * effect).sum(-1).mean() / effect.square().sum(-1).mean())
            for key, held in self.with_mean(sites, on_fit=True).items()
        }

    def with_mean(
        self, sites: Mapping[int, probes.Site], on_fit: bool = False
    ) -> dict[int, Float[Tensor, "sequence outcome"]]:
        """By key, what the model predicts with the group's mean at a site."""
        means = {
            key: self.mean(at(self.trial, self.rows(True), site), on_fit)
            for key, site in sites.items()
        }
        return self.written({key: [(sites[key], means[key])] for key in sites}, on_fit)

    def with_mean_values(self, layer: int) -> Float[Tensor, "sequence outcome"]:
        """What the model predicts with the group's mean values at a layer, and its own pattern."""
        last = (self.trial.positions[-1],)
        pattern, z = (probes.Site.at(name, layer, last) for name in ("pattern", "z"))
        value = probes.Site.at("v", layer)
        shares, written, own = (at(self.trial, self.rows(False), s) for s in (pattern, z, value))
        change = own - self.mean(at(self.trial, self.rows(True), value))
        change = change.repeat_interleave(shares.shape[1] // change.shape[2], 2)
        gone = torch.einsum("nhqk,nkhd->nqhd", shares, change)
        return self.written({layer: [(z, written - gone)]})[layer]

    def written(
        self, writes: Mapping[int, Sequence[Write]], on_fit: bool = False
    ) -> dict[int, Float[Tensor, "sequence outcome"]]:
        """By key, what the model predicts with values written at sites."""
        named = {f"{key}": written for key, written in writes.items()}
        found = written_predictions(self.trial, self.rows(on_fit), named)
        return {key: found[f"{key}"] for key in writes}
