"""Distributed alignment search: the subspace of a model's activations that carries a variable.

A rotation is learned on half of the sequences such that swapping a narrow subspace at a site acts
as swapping the variable in the causal model (Geiger et al. 2024, "Finding alignments between
interpretable causal variables and distributed neural representations"), and scored on the other
half beside what the same search finds where there is nothing to find.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor

import probes
from mtd_lens.contracts import Carrier, CausalModel
from mtd_lens.errors import ArgumentError, SiteError
from mtd_lens.measures.pairs import draw_pairs, prediction_with
from mtd_lens.questions.score import NULL_SEED, check_sampling, name_of, task_for, versions
from mtd_lens.registry import localizable_family_of
from mtd_lens.results import forms as render
from probes import checks
from probes.alignment import STEPS, Alignment
from probes.sites import HEADED, HEADLESS, hook_name
from probes.statistics.intervals import NEGLIGIBLE, Interval

N_SEQUENCES = 768

KINDS = (*HEADLESS, *HEADED)
"""Kinds of sites. Those with heads (``z``, ``q``, ``k``, ``v``) need one to be named."""

ROWS = {
    "learned": "learned subspace",
    "random_rotation": "random rotation",
    "random_weights": "fit on random weights",
    "arbitrary_labels": "fit to arbitrary labels",
    "whole_site": "whole site",
    "mean_value": "no swap: variable at its mean",
}


@dataclass(frozen=True)
class AlignmentReport:
    """How well a learned subspace carries a variable, beside its controls.

    Every score is ``1 - E D(counterfactual ‖ patched) / E D(counterfactual ‖ unpatched)`` on
    sequences that the subspace was not fitted on: 1 where swapping acts as in the causal model, 0
    where it is no better than no swap, negative where it does harm.

    Attributes:
        model: Its name.
        task: Its name, or its description.
        variable: Of the causal model.
        layer: Block index.
        kind: Of site, one of ``KINDS``.
        head: Of a site that has heads; otherwise None.
        width: Dimension of the subspace.
        n_components: Dimension of the activation.
        scores: ``learned``, and the controls: ``random_rotation``, a random subspace of the same
            width within the directions that the learned one was sought in; ``random_weights``, the
            same fit on a model of the same architecture with random weights; ``arbitrary_labels``,
            the same fit towards an arbitrary variable's counterfactuals, scored against those;
            ``whole_site``, everything at the site swapped; ``mean_value``, no swap, but the causal
            model's prediction with the variable at its mean: what can be reached without looking at
            the source, by drawing predictions together. Hold the learned score against these, not
            against 0.
        unpatched: Mean divergence of the counterfactual from the unpatched model, the score's
            denominator.
        divergence: Its name and unit.
        parameters: Of the causal model, fitted to the model.
        seed: Of sequences, pairs, fits and resampling.
        n_sequences: Half for the fit, half for the scores.
        alignment: The learned subspace.
        versions: Of what the result depends on.
    """

    model: str
    task: str | Mapping[str, Any]
    variable: str
    layer: int
    kind: str
    head: int | None
    width: int
    n_components: int
    scores: Mapping[str, Interval]
    unpatched: float
    divergence: str
    parameters: Mapping[str, float]
    seed: int
    n_sequences: int
    alignment: Alignment = field(repr=False, compare=False)
    versions: Mapping[str, str] = field(repr=False, default_factory=dict)

    @property
    def score(self) -> Interval:
        """Of the learned subspace."""
        return self.scores["learned"]

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as ``to_json`` writes it."""
        return dict(
            vars(self),
            scores={name: vars(interval) for name, interval in self.scores.items()},
            parameters=dict(self.parameters),
            alignment=self.alignment.to_dict(),
            versions=dict(self.versions),
        )

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """The report as JSON text, also written to ``path`` if one is given.

        Args:
            path: Also write it there.

        Raises:
            OutputPathError: The path cannot be written to.
        """
        return render.json_text(self.to_dict(), path)

    def __repr__(self) -> str:
        return (
            f"AlignmentReport({self.model!r}: {self.variable} at {self._place}, width "
            f"{self.width}: {self.score})"
        )

    def __str__(self) -> str:
        return f"{self._title}\n\n{render.text_table(*self._table())}"

    def _repr_html_(self) -> str:
        header, rows = self._table()
        return render.html(
            "comparison.html",
            title=self._title,
            header=header,
            rows=rows,
            fitted_title="",
            fitted_header=[],
            fitted_rows=[],
        )

    @property
    def _place(self) -> str:
        head = "" if self.head is None else f" head {self.head}"
        return f"layer {self.layer} {self.kind}{head}"

    @property
    def _title(self) -> str:
        n_pairs = self.n_sequences - self.n_sequences // 2
        return (
            f"{self.model}: {self.variable} in {self.width} of {self.n_components} dimensions of "
            f"{self._place}; {n_pairs} held-out pairs, unpatched {self.unpatched:.4f} "
            f"({self.divergence})"
        )

    def _table(self) -> tuple[list[str], list[list[str]]]:
        body = [
            [ROWS[name], f"{i.score:.3f}", f"[{i.low:.3f}, {i.high:.3f}]"]
            for name, i in self.scores.items()
        ]
        return ["what is swapped", "score", "95% interval"], body


def align(
    model: Any,
    variable: str,
    layer: int,
    width: int | None = None,
    *,
    kind: str = "resid_post",
    head: int | None = None,
    task: Any = None,
    n_sequences: int = N_SEQUENCES,
    seed: int = 0,
    steps: int = STEPS,
) -> AlignmentReport:
    """Seek the subspace of one site that carries a variable of the task's causal model.

    The site's positions are those at which the family says the variable may be sought.

    Args:
        model: A HookedTransformer of any depth and width; it is left as it was found.
        variable: Of the causal model, for example ``"mean_responsibility"``.
        layer: Counted from 0.
        width: Dimension of the subspace; by default one less than the variable has outputs, which
            is the dimension of their simplex.
        kind: Of site, one of ``mtd_lens.questions.align.KINDS``.
        head: Counted from 0; needed where the site has heads.
        task: What the model is tested on, or its name; by default the task that the model knows.
        n_sequences: At least 64; half for the fit, half for the scores.
        seed: Of sequences, pairs, fits, controls and resampling.
        steps: Of each of the three fits.

    Returns:
        The scores of the learned subspace and of its controls.

    Raises:
        ArgumentError: An unknown variable or kind, too few sequences, or a variable that does not
            vary.
        ModelError: The model does not fit the task, no task is known, or its family does not say
            where variables may be sought.
        SiteError: A layer, head or hook that the model does not have.
        DataError: A width that the site does not have, or a site that leads to no prediction.
    """
    check_sampling(n_sequences, seed)
    checks.choice(kind, "kind of site", KINDS, ArgumentError)
    task = task_for(model, task)
    family = localizable_family_of(task)
    carriers = {carrier.variable: carrier for carrier in family.carriers(task)}
    checks.choice(variable, "variable", carriers, ArgumentError)
    family.check_model(model, task)
    layer = checks.integer(layer, "layer", 0, SiteError, model.cfg.n_layers - 1)
    if head is not None:
        head = checks.integer(head, "head", 0, SiteError, model.cfg.n_heads - 1)

    search = _prepare(model, task, family, carriers[variable], n_sequences, seed)
    if width is None:
        width = search.default_width
    site = probes.Site(hook_name(kind, layer), search.positions, head)
    null = family.null(model, task, NULL_SEED + seed)

    learned = search.fit(model, site, width, steps)
    on_null = search.fit(null, site, width, steps)
    to_arbitrary = search.fit(model, site, width, steps, arbitrary=True)
    scores = {
        "learned": search.score(model, learned.site),
        "random_rotation": search.score(model, _random_site(learned, seed)),
        "random_weights": search.score(null, on_null.site),
        "arbitrary_labels": search.score(model, to_arbitrary.site, arbitrary=True),
        "whole_site": search.score(model, site),
        "mean_value": search.score_mean(model),
    }
    return AlignmentReport(
        model=name_of(model),
        task=task.name or task.to_json(),
        variable=variable,
        layer=layer,
        kind=kind,
        head=head,
        width=learned.width,
        n_components=len(learned.basis),
        scores=scores,
        unpatched=float(search.unpatched(model).mean()),
        divergence=family.divergence,
        parameters=search.causal_model.parameters,
        seed=seed,
        n_sequences=n_sequences,
        alignment=learned,
        versions=versions(),
    )


@dataclass(frozen=True)
class _Half:
    """Sequences, their sources, and what the causal model says of each pair.

    Attributes:
        tokens: ``[sequence, position]``.
        source: ``[sequence]``: the row of each base's source.
        target: ``[sequence, outcome]``: the prediction with the variable at its source value.
        arbitrary: The same with it at the source's value of an arbitrary variable.
        mean: The same with it at its mean.
    """

    tokens: Tensor
    source: Tensor
    target: Tensor
    arbitrary: Tensor
    mean: Tensor


@dataclass(frozen=True)
class _Search:
    """What every fit and every score of a report shares."""

    family: Any
    causal_model: CausalModel
    positions: tuple[int, ...]
    default_width: int
    fitting: _Half
    held_out: _Half
    seed: int

    def fit(
        self, model: Any, site: probes.Site, width: int, steps: int, *, arbitrary: bool = False
    ) -> Alignment:
        half = self.fitting
        return probes.fit_alignment(
            model,
            half.tokens,
            half.source,
            half.arbitrary if arbitrary else half.target,
            site,
            width,
            predict=lambda output: self.family.predicted(model, output),
            divergence=self.family.divergences,
            steps=steps,
            seed=self.seed,
        )

    def score(self, model: Any, site: probes.Site, *, arbitrary: bool = False) -> Interval:
        half = self.held_out
        runs = probes.run_interchange(model, half.tokens, half.source, {"swapped": site})
        target = half.arbitrary if arbitrary else half.target
        base, patched = (
            self.family.divergences(target, self.family.predicted(model, output))
            for output in (runs.base, runs.patched["swapped"])
        )
        return probes.one_minus_ratio(patched, base, seed=self.seed)

    def score_mean(self, model: Any) -> Interval:
        patched = self.family.divergences(self.held_out.target, self.held_out.mean)
        return probes.one_minus_ratio(patched, self.unpatched(model), seed=self.seed)

    def unpatched(self, model: Any) -> Tensor:
        """Divergence of each counterfactual from the unpatched prediction."""
        half = self.held_out
        prediction = self.family.predicted(model, probes.last_outputs(model, half.tokens))
        return self.family.divergences(half.target, prediction)


def _prepare(
    model: Any, task: Any, family: Any, carrier: Carrier, n_sequences: int, seed: int
) -> _Search:
    """Sequences and pairs; those for scores are apart from those for fits."""
    tokens = task.sample(n_sequences, seed).tokens.to(next(model.parameters()).device)
    fit_tokens, held_out = tokens[: n_sequences // 2], tokens[n_sequences // 2 :]
    causal_model = family.fit_causal_model(model, task, fit_tokens)
    variable, queries = carrier.variable, carrier.queries
    natural = causal_model.run(fit_tokens)[variable]

    def half(tokens: Tensor, pair_seed: int) -> _Half:
        pairs = draw_pairs(causal_model, tokens, variable, queries, family.divergences, pair_seed)
        if float(pairs.effect.mean()) <= NEGLIGIBLE:
            raise ArgumentError(
                f"{variable} does not vary on this task, or swapping it changes no prediction, so "
                "there is nothing to align."
            )

        def outcome(values: Tensor) -> Tensor:
            return prediction_with(causal_model, tokens, variable, values, queries)

        control = family.control(task, tokens, variable, seed)[pairs.source]
        return _Half(
            tokens,
            pairs.source,
            pairs.counterfactual,
            arbitrary=outcome(control),
            mean=outcome(natural.mean(0).expand_as(control)),
        )

    return _Search(
        family=family,
        causal_model=causal_model,
        positions=causal_model.query_positions(tokens.shape[1])[queries],
        default_width=max(natural.shape[-1] - 1, 1),
        fitting=half(fit_tokens, seed),
        held_out=half(held_out, seed + 1),
        seed=seed,
    )


def _random_site(learned: Alignment, seed: int) -> probes.Site:
    """A random subspace among the directions that the learned one was sought in."""
    span = learned.span
    random = probes.random_subspace(span.shape[1], learned.width, seed)
    return replace(learned.site, subspace=span @ random)
