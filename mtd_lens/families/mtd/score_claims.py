"""Tests of what attention scores at the last query are made of."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

import probes
from mtd_lens.claims import Errors, Measurement, NotApplicable
from mtd_lens.errors import ArgumentError
from mtd_lens.families.mtd.score_form import (
    ANY,
    CHUNK,
    OF_LAST,
    OWN,
    PAIRS,
    Coefficients,
    Products,
    Squares,
    agreement,
    follows_transition,
    rank_one_shares,
)
from mtd_lens.measures.choice import earliest_best
from mtd_lens.measures.mean_pattern import PATTERN, Alike
from mtd_lens.measures.words import where
from mtd_lens.trial import Trial, checked_trial
from probes import checks
from probes.subject import subject_of

COMPETING, ONE_CODE = "lags competing", "one code of parents"
COMPETING_ALONE = f"{COMPETING} alone"
BESIDE = ", "
"""Between names of forms that stand side by side."""

FULL = BESIDE.join([OWN, PAIRS, OF_LAST])
BASE = {ANY: OF_LAST, COMPETING: OF_LAST, ONE_CODE: BESIDE.join([PAIRS, OF_LAST])}
FORMS = tuple(BASE)

N_FURTHER = 1024
"""Sequences that are drawn for the fits, beside the fit split."""

PASSES = 0.1
"""Share of the effect that a layer's pattern must bring in to be the one that is asked about."""

LEAST = 0.02
"""Share of a head's scores that there must be to explain."""

PerHead = Float[Tensor, "sequence head"]


@dataclass(frozen=True)
class ScoreForm:
    """``1 - E[error of a form] / E[error of a simpler one]`` of scores at the last query.

    Fitted on other sequences, to the scores of keys before the query's own tokens, at the layer
    whose pattern brings in most of the algorithm's effect (see ``MeanPattern``). Heads count by the
    share that is lost with their own pattern at its mean.

    Every form stands beside products of ``y_k`` alone and any parent, which attention between
    tokens has in any model; and what it leaves is compared with what these leave.

    ===================  ==========================================================================
    pairs × any parent   any products of ``(y_{k-g}, y_k)`` and a parent of the query
    lags competing       ``Σ_g f_g(pair) (u[parent_g] - mean over lags)``
    one code of parents  ``Σ_g f_g(pair) u[parent_g]``, and pairs alone: the share that it has of
                         what products of pairs and their own parent add to pairs alone. It is 1
                         where these have rank one between pair and parent, after centring over
                         parents, with the same u at all lags
    ===================  ==========================================================================

    Control: the form with the parents of another sequence's query.

    Attributes:
        form: One of ``FORMS``.

    Raises:
        ArgumentError: An unknown form.
    """

    form: str

    def __post_init__(self) -> None:
        checks.choice(self.form, "form", FORMS, ArgumentError)

    def edits(self, trial: Trial) -> str:
        """The hook within a block that is edited."""
        checked_trial(trial)
        return PATTERN

    def __call__(self, trial: Trial) -> list[Measurement]:
        """One measurement, of the layer whose pattern brings in the effect; or else for all layers.

        Args:
            trial: The model under test.

        Raises:
            NotApplicable: Too many products of pairs and parents, or no scores of this form.
        """
        task = checked_trial(trial).task
        scores = LastScores(trial, Products(task))
        found = []
        for layer, weights in _weights(trial).items():
            rows = self._rows(scores, layer, weights)
            if rows is None:
                continue
            fit = self._rows(scores, layer, weights, on_fit=True)
            selection = -1.0 if fit is None else 1 - float(fit[0].mean() / fit[1].mean())
            controls: dict[str, Errors] = {}
            details: dict[str, float | str] = {}
            if trial.complete:
                wrong = self._rows(scores, layer, weights, wrong_parents=True)
                controls = {} if wrong is None else {"parents of another query": wrong}
                details = scores.details(layer, weights, self.form)
            found.append(
                Measurement(
                    layer=layer,
                    site=f"blocks.{layer}.attn.hook_attn_scores at {where(scores.last)}",
                    selection=selection,
                    numerator=rows[0],
                    denominator=rows[1],
                    controls=controls,
                    details=details,
                )
            )
        if not found:
            raise NotApplicable("no scores vary with what the form is made of")
        return found

    def _rows(
        self,
        scores: "LastScores",
        layer: int,
        weights: Float[Tensor, " head"],
        *,
        on_fit: bool = False,
        wrong_parents: bool = False,
    ) -> Errors | None:
        """Errors of the form and of the simpler one; None where there is nothing to explain."""

        def errors(form: str, wrong: bool = False) -> PerHead:
            return scores.errors(layer, form, on_fit, wrong)

        own, base = errors(self.form, wrong_parents), errors(BASE[self.form])
        if self.form == ONE_CODE:
            full = errors(FULL)
            own, base = own - full, base - full
        size = base.mean(0)
        counted = torch.where(size > LEAST * errors("").mean(0), weights, 0.0)
        if float(counted.sum()) <= 0:
            return None
        scale = counted / counted.sum() / torch.where(counted > 0, size, 1.0)
        return own @ scale, base @ scale


@dataclass(frozen=True, eq=False)
class LastScores:
    """Scores of one model at the last query, and their fits.

    Attributes:
        trial: The model under test.
        products: What scores are made of.
    """

    trial: Trial
    products: Products

    @property
    def last(self) -> tuple[int]:
        """The last query."""
        return (self.trial.positions[-1],)

    @property
    def fit_tokens(self) -> Tensor:
        """``[sequence, position]``: for fits."""
        parts = self.trial.fit_tokens, self.trial.more(N_FURTHER)
        found: Tensor = self.trial.memo("to fit scores", *parts, compute=lambda: torch.cat(parts))
        return found

    @property
    def squares(self) -> Squares:
        """Of the features, the same for every model."""
        tokens = self.fit_tokens
        found: Squares = self.trial.memo(
            "squares", tokens, compute=lambda: Squares(self.products, tokens)
        )
        return found

    def of(self, tokens: Tensor, layer: int) -> Float[Tensor, "sequence key head"]:
        """Scores of the keys, less their mean.

        Args:
            tokens: ``[sequence, position]``, which are kept.
            layer: Of the block.
        """
        site = probes.Site(f"blocks.{layer}.attn.hook_attn_scores", self.last)
        keys = self.products.keys
        found = self.trial.activations(tokens, site)[:, :, 0, keys.start : keys.stop].double().mT
        return found - found.mean(1, keepdim=True)

    def moments(self, layer: int) -> Coefficients:
        """Of the features with scores."""
        return self.trial.once(
            "moments",
            [layer],
            lambda: self.squares.with_scores(self.of(self.fit_tokens, layer)),
        )

    def fitted(self, layer: int, form: str) -> Coefficients:
        """What a form gives each feature."""

        def fit() -> Coefficients:
            moments = self.moments(layer)
            if form == COMPETING:
                return self.squares.fit_bilinear(moments, OF_LAST, competing=True)
            if form == COMPETING_ALONE:
                return self.squares.fit_bilinear(moments, competing=True)
            if form == ONE_CODE:
                return self.squares.fit_bilinear(moments, PAIRS, OF_LAST)
            design = self.products.design(*form.split(BESIDE))
            return design @ self.squares.fit(design, moments)

        return self.trial.once("fitted", [layer, form], fit)

    def errors(self, layer: int, form: str, on_fit: bool = False, wrong: bool = False) -> PerHead:
        """Squares of what a form leaves of scores, summed over keys.

        Args:
            layer: Of the block.
            form: Its name; empty for none, which leaves all.
            on_fit: Of the fit split, in place of the sequences for scores.
            wrong: With the parents of another sequence's query.
        """

        def compute() -> PerHead:
            tokens = self.trial.fit_tokens if on_fit else self.trial.tokens
            scores = self.of(tokens, layer)
            if not form:
                return scores.square().sum(1)
            fitted = self.fitted(layer, form)
            queries = tokens.roll(1, 0) if wrong else tokens
            parts = zip(tokens.split(CHUNK), queries.split(CHUNK), strict=True)
            explained = torch.cat([self.products.of(*part) @ fitted for part in parts])
            return (scores - explained).square().sum(1)

        return self.trial.once("errors of scores", [layer, form, str(on_fit), str(wrong)], compute)

    def details(
        self, layer: int, weights: Float[Tensor, " head"], form: str
    ) -> dict[str, float | str]:
        """R² of every form, over heads and head by head; ranks and codes of the fitted products."""
        carrying = weights >= weights.max() / 4
        heads = carrying.nonzero()[:, 0].tolist()
        found: dict[str, float | str] = {"heads that carry": ", ".join(map(str, heads))}
        if form == ONE_CODE:
            own = self.squares.own_coefficients(self.moments(layer))[carrying]
            found["rank one between pair and parent"] = _range(rank_one_shares(own))
            found["correlation of codes between lags"] = _range(agreement(own))
            transition = self.products.task.transition.to(own)
            if len(transition) > 2:
                found |= dict(
                    zip(
                        ("codes of parents as far apart as their rows", "relabellings as near"),
                        follows_transition(own, transition),
                        strict=True,
                    )
                )
            return found
        names = (COMPETING_ALONE,) if form == COMPETING else tuple(self.products.forms)
        total = self.errors(layer, "").mean(0)
        for name in names:
            shares = 1 - self.errors(layer, name).mean(0) / total
            found[f"R²: {name}"] = _range(shares[carrying])
        return found


def _range(values: Tensor) -> str:
    return f"{float(values.min()):.2f} to {float(values.max()):.2f}"


def _weights(trial: Trial) -> Mapping[int, Float[Tensor, " head"]]:
    """By layer, the share of the effect that each head's pattern brings in, none below 0.

    Of the layer whose pattern brings in most; where that is next to nothing, as in a model of
    random weights, heads of every layer count alike.
    """

    def compute() -> dict[int, Tensor]:
        alike = Alike.of(trial)
        last = (trial.positions[-1],)
        n_heads = subject_of(trial.model).n_heads
        layers = range(trial.n_layers)
        whole = alike.lost({n: probes.Site(f"blocks.{n}.{PATTERN}", last) for n in layers})
        most = earliest_best(whole)
        sites = {h: probes.Site(f"blocks.{most}.{PATTERN}", last, h) for h in range(n_heads)}
        shares = torch.tensor(list(alike.lost(sites).values())).double().clamp_min(0)
        if whole[most] >= PASSES and shares.any():
            return {most: shares}
        return {layer: torch.ones(n_heads).double() for layer in layers}

    return trial.once("weights of heads", [], compute)
