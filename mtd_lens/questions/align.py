"""Distributed alignment search: the subspace of a model's activations that carries a variable.

A rotation is learned on half of the sequences such that swapping a narrow subspace at a site acts
as swapping the variable in the causal model (Geiger et al. 2024, "Finding alignments between
interpretable causal variables and distributed neural representations"), and scored on the other
half beside what the same search finds where there is nothing to find.
"""

from dataclasses import dataclass, field, replace

from torch import Tensor

import probes
from mtd_lens.contracts import Carrier, Task
from mtd_lens.errors import ArgumentError, SiteError
from mtd_lens.experiment import FEWER_SEQUENCES, Experiment
from mtd_lens.measures.pairs import draw_pairs, prediction_with
from mtd_lens.questions.localize import carriers_of
from mtd_lens.results.alignment import AlignmentReport
from mtd_lens.spaces import Space, check_outputs
from mtd_lens.trial import Memo
from probes import checks
from probes.alignment import STEPS, Alignment
from probes.capture import NaturalRuns
from probes.memory import within_memory
from probes.sites import HEADED, HEADLESS, hook_name
from probes.statistics import NEGLIGIBLE, Interval
from probes.subject import HookedModel, subject_of

N_SEQUENCES = 768

KINDS = (*HEADLESS, *HEADED)
"""Kinds of sites. Those with heads (``z``, ``q``, ``k``, ``v``) need one to be named."""


@within_memory(FEWER_SEQUENCES)
def align(
    model: HookedModel,
    variable: str,
    layer: int,
    width: int | None = None,
    *,
    kind: str = "resid_post",
    head: int | None = None,
    task: Task | str | None = None,
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
        MemoryLimitError: More sequences than there is memory for.
        ModelError: The model does not fit the task, no task is known, or its family does not say
            where variables may be sought.
        SiteError: A layer, head or hook that the model does not have.
        DataError: A width that the site does not have, or a site that leads to no prediction.
    """
    checks.choice(kind, "kind of site", KINDS, ArgumentError)
    experiment = Experiment.of(model, task, seed).drawn(n_sequences)
    carriers = {c.variable: c for c in carriers_of(experiment.algorithm, experiment.task)}
    checks.choice(variable, "variable", carriers, ArgumentError)
    subject = subject_of(model)
    layer = checks.integer(layer, "layer", 0, SiteError, subject.n_layers - 1)
    if head is not None:
        head = checks.integer(head, "head", 0, SiteError, subject.n_heads - 1)

    search = _prepare(experiment, carriers[variable])
    if width is None:
        width = search.default_width
    site = probes.Site(hook_name(kind, layer), search.positions, head)
    null = experiment.null()

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
        **experiment.head,
        variable=variable,
        layer=layer,
        kind=kind,
        head=head,
        width=learned.width,
        n_components=len(learned.basis),
        scores=scores,
        unpatched=float(search.unpatched(model).mean()),
        alignment=learned,
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

    outputs: Space
    positions: tuple[int, ...]
    default_width: int
    fitting: _Half
    held_out: _Half
    seed: int
    memo: Memo = field(default_factory=Memo)

    def natural(self, model: HookedModel, tokens: Tensor) -> NaturalRuns:
        """A model's unedited runs on one half, the same every time."""
        return self.memo("runs", model, tokens, compute=lambda: NaturalRuns(model, tokens))

    def fit(
        self,
        model: HookedModel,
        site: probes.Site,
        width: int,
        steps: int,
        *,
        arbitrary: bool = False,
    ) -> Alignment:
        half = self.fitting
        return probes.fit_alignment(
            model,
            half.tokens,
            half.source,
            half.arbitrary if arbitrary else half.target,
            site,
            width,
            predict=lambda output: self.outputs.prediction(model, output),
            divergence=self.outputs.divergence,
            steps=steps,
            seed=self.seed,
            natural=self.natural(model, half.tokens),
        )

    def score(self, model: HookedModel, site: probes.Site, *, arbitrary: bool = False) -> Interval:
        half = self.held_out
        runs = probes.run_interchange(
            model,
            half.tokens,
            half.source,
            {"swapped": site},
            natural=self.natural(model, half.tokens),
        )
        target = half.arbitrary if arbitrary else half.target
        base, patched = (
            self.outputs.divergence(target, self.outputs.prediction(model, output))
            for output in (runs.base, runs.patched["swapped"])
        )
        return probes.one_minus_ratio(patched, base, seed=self.seed)

    def score_mean(self, model: HookedModel) -> Interval:
        patched = self.outputs.divergence(self.held_out.target, self.held_out.mean)
        return probes.one_minus_ratio(patched, self.unpatched(model), seed=self.seed)

    def unpatched(self, model: HookedModel) -> Tensor:
        """Divergence of each counterfactual from the unpatched prediction."""
        half = self.held_out
        output = check_outputs(self.natural(model, half.tokens).outputs)
        return self.outputs.divergence(half.target, self.outputs.prediction(model, output))


def _prepare(experiment: Experiment, carrier: Carrier) -> _Search:
    """Pairs of both splits: those for scores are apart from those for fits."""
    algorithm, causal_model = experiment.algorithm, experiment.causal_model
    variable, queries, seed = carrier.variable, carrier.queries, experiment.seed
    outputs, control = experiment.task.outputs, algorithm.control
    natural = causal_model.run(experiment.fit_tokens)[variable]
    assert control is not None

    def half(tokens: Tensor, pair_seed: int) -> _Half:
        pairs = draw_pairs(causal_model, tokens, variable, queries, outputs.divergence, pair_seed)
        if float(pairs.effect.mean()) <= NEGLIGIBLE:
            raise ArgumentError(
                f"{variable} does not vary on this task, or swapping it changes no prediction, so "
                "there is nothing to align."
            )

        def outcome(values: Tensor) -> Tensor:
            return prediction_with(causal_model, tokens, variable, values, queries)

        decoy = control(causal_model, tokens, variable, seed)[pairs.source]
        return _Half(
            tokens,
            pairs.source,
            pairs.counterfactual,
            arbitrary=outcome(decoy),
            mean=outcome(natural.mean(0).expand_as(decoy)),
        )

    return _Search(
        outputs=outputs,
        positions=causal_model.query_positions(experiment.tokens.shape[1])[queries],
        default_width=max(natural.shape[-1] - 1, 1),
        fitting=half(experiment.fit_tokens, seed),
        held_out=half(experiment.tokens, seed + 1),
        seed=seed,
    )


def _random_site(learned: Alignment, seed: int) -> probes.Site:
    """A random subspace among the directions that the learned one was sought in."""
    span = learned.span
    random = probes.random_subspace(span.shape[1], learned.width, seed)
    return replace(learned.site, subspace=span @ random)
