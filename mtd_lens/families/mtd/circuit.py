"""Score and value of one attention layer at the last query, and what can be put in their place.

All is asked among sequences that share the query's own tokens (``Alike``), of the layer whose
pattern brings in most of the effect. Of a part of that layer, what depends on the evidence, its
difference from the mean of the group, is replaced by what a fitted form says of it. What remains
is scored as the share of the model's own predictions that is kept::

    1 - E KL(natural ‖ replaced) / E KL(natural ‖ mean of the group)

Forms are fitted on sequences of their own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

import probes
from mtd_lens.families.mtd.circuit_forms import (
    Basis,
    Scores,
    ValueForm,
    Values,
    pairs_of,
    parents_of,
)
from mtd_lens.families.mtd.score_claims import COMPETING
from mtd_lens.families.mtd.score_form import OF_LAST
from mtd_lens.measures.choice import earliest_best
from mtd_lens.measures.mean_pattern import PATTERN, Alike
from mtd_lens.measures.writing import at
from mtd_lens.trial import Trial

SEED = 0

SOFTMAX, FIRST, COVARIANCE = "softmax", "first order", "covariance"

ScoreTable = Float[Tensor, "pair parent head"]


@dataclass(frozen=True, eq=False)
class Circuit:
    """One attention layer's scores and values at the last query, and what stands in for them.

    Attributes:
        alike: Sequences that share the query's own tokens.
        basis: What forms are fitted on.
        layer: Whose pattern brings in most of the effect.
    """

    alike: Alike
    basis: Basis
    layer: int

    @classmethod
    def of(cls, trial: Trial, basis: Basis) -> "Circuit":
        """Of a model under test.

        Args:
            trial: Of an experiment with the algorithm ``fused``.
            basis: Of its task.
        """
        alike = Alike.of(trial)
        last = (trial.positions[-1],)
        sites = {n: probes.Site(f"blocks.{n}.{PATTERN}", last) for n in range(trial.n_layers)}
        return cls(alike, basis, earliest_best(alike.lost(sites)))

    @property
    def last(self) -> tuple[int]:
        """The last query."""
        return (self.alike.trial.positions[-1],)

    def site(self, name: str) -> probes.Site:
        """At the last query of the layer."""
        return probes.Site.at(name, self.layer, self.last)

    def scores_of(self, tokens: Tensor) -> Scores:
        """Of all keys at the last query."""
        site = probes.Site(f"blocks.{self.layer}.attn.hook_attn_scores", self.last)
        return self.alike.trial.activations(tokens, site)[:, :, 0].double().mT

    def values_of(self, tokens: Tensor) -> Values:
        """Of all keys."""
        site = probes.Site.at("v", self.layer)
        return self.alike.trial.activations(tokens, site).double()

    @cached_property
    def tokens(self) -> Tensor:
        """``[sequence, position]``: those that means are taken over, and then those for scores.

        All scores, values and outputs here are of them.
        """
        return torch.cat([self.alike.fit, self.alike.test])

    def mean(self, found: Tensor) -> Tensor:
        """For each sequence, the mean of its group."""
        of_fit = found[: len(self.alike.fit)]
        return torch.cat([self.alike.mean(of_fit, on_fit) for on_fit in (True, False)])

    def held(self, own: Tensor, fitted: Tensor) -> Tensor:
        """The group's mean, and by how much a form differs from its own mean."""
        return self.mean(own) + fitted - self.mean(fitted)

    @cached_property
    def scores(self) -> Scores:
        """As they are."""
        return self.scores_of(self.tokens)

    @cached_property
    def mean_scores(self) -> Scores:
        """Of the group."""
        return self.mean(self.scores)

    @cached_property
    def values(self) -> Values:
        """As they are."""
        return self.values_of(self.tokens)

    def value_form(self, kind: str) -> ValueForm:
        """A form of values."""
        return ValueForm(self.basis.task.order, self.basis.task.n_tokens, kind)

    def fitted_values(self, kind: str) -> Values:
        """Values whose dependence on the evidence is what a form says.

        Args:
            kind: See ``ValueForm``.
        """
        form = self.value_form(kind)
        fitted = form.fit(self.basis.tokens, self.values_of(self.basis.tokens))
        return self.held(self.values, form.of(self.tokens, fitted))

    @cached_property
    def moments(self) -> Float[Tensor, "feature head"]:
        """Of the features of scores, with scores."""
        return self.basis.with_scores(self.scores_of(self.basis.tokens))

    def score_table(self, form: str) -> ScoreTable:
        """What a form gives each product of a pair and a parent.

        Args:
            form: Of ``Products``; or ``COMPETING``, beside products of ``y_k`` and any parent.
        """
        basis = self.basis
        if form == COMPETING:
            found = basis.fit_bilinear(self.moments, OF_LAST, competing=True)
        else:
            design = basis.products.design(form)
            found = design @ basis.fit(design, self.moments)
        n_parents = basis.products.n_parents
        return found[-basis.products.n_products :].unflatten(0, (-1, n_parents))

    def fitted_scores(self, table: ScoreTable, relabelling: Sequence[int] | None = None) -> Scores:
        """Scores whose dependence on the evidence is what a table says.

        Args:
            table: See ``score_table``.
            relabelling: Other tokens for the query's parents.
        """
        task, tokens = self.basis.task, self.tokens
        queries = tokens if relabelling is None else torch.tensor(relabelling)[tokens]
        by_pair = torch.einsum("iph,np->nih", table, parents_of(task, queries))
        return self.held(self.scores, pairs_of(task, tokens) @ by_pair)

    def output(self, scores: Scores, values: Values, order: str = SOFTMAX) -> Tensor:
        """What heads put out, ``[sequence, head, feature]``.

        Args:
            scores: Of the keys.
            values: Of the keys.
            order: ``SOFTMAX``; ``FIRST``: to first order around the group's mean scores;
                ``COVARIANCE``: of that, the covariance over keys of score and value alone.
        """
        if order == SOFTMAX:
            return torch.einsum("nkh,nkhd->nhd", scores.softmax(1), values)
        around = self.mean_scores.softmax(1)
        change = scores - self.mean_scores
        change = around * (change - (around * change).sum(1, keepdim=True))
        covariance = torch.einsum("nkh,nkhd->nhd", change, values)
        if order == COVARIANCE:
            return covariance
        return covariance + torch.einsum("nkh,nkhd->nhd", around, values)

    def with_output(self, output: Tensor) -> Float[Tensor, "sequence outcome"]:
        """What the model predicts with other outputs of the layer's heads."""
        site = self.site("z")
        natural = at(self.alike.trial, self.alike.rows(False), site)
        written = output[len(self.alike.fit) :, None].to(natural)
        return self.alike.written({self.layer: [(site, written)]})[self.layer]

    def kept(self, predictions: Float[Tensor, "sequence outcome"]) -> list[float]:
        """The share of the model's own predictions that is kept, with its interval.

        Last, the share of the algorithm's effect that is in them, as in ``MeanPattern``.
        """
        natural = self.alike.natural()
        blind = self.alike.mean(self.alike.natural(on_fit=True))
        lost, whole = (
            probes.kl_divergence(natural.double(), p.double()) for p in (predictions, blind)
        )
        return [*interval(lost, whole), self.alike.share(predictions)]

    def share(self, scores: Scores, values: Values) -> list[float]:
        """What is kept with other scores and values."""
        return self.kept(self.with_output(self.output(scores, values)))

    def covariance(self, scores: Scores, values: Values) -> list[float]:
        """What is kept where the output differs from its group's mean by the covariance alone."""
        natural = self.output(self.scores, self.values)
        return self.kept(
            self.with_output(self.held(natural, self.output(scores, values, COVARIANCE)))
        )


def interval(lost: Tensor, whole: Tensor) -> list[float]:
    """``1 - lost / whole`` and the ends of its interval over sequences."""
    found = probes.one_minus_ratio(lost, whole, seed=SEED, expanded=True)
    return [found.score, found.low, found.high]
