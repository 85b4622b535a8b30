"""Distributed alignment search: the subspace of a model's activations that carries a variable.

A rotation is learned on half of the sequences such that swapping a narrow subspace at a site acts
as swapping the variable in the causal model (Geiger et al. 2024, "Finding alignments between
interpretable causal variables and distributed neural representations"), and scored on the other
half beside what the same search finds where there is nothing to find, and beside the signs of a
dormant pathway (Makelov et al. 2023).
"""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

import probes
from mtd_lens.contracts import Algorithm, Carrier, Task
from mtd_lens.errors import ArgumentError, ModelError, SiteError
from mtd_lens.experiment import Experiment, asked
from mtd_lens.questions.dormant import far_directions, judged, noise_subspace
from mtd_lens.questions.localize import carriers_of
from mtd_lens.questions.subspace_search import Half, Search, half_of, within
from mtd_lens.results.alignment import AlignmentReport, Direction, Partner
from mtd_lens.trial import Trial
from mtd_lens.vocabulary import Vocabulary
from probes import checks
from probes.alignment import STEPS, Alignment
from probes.sites import HEADED, HEADLESS, component_of, hook_name
from probes.statistics import Interval
from probes.subject import HookedModel, subject_of
from probes.subspaces import TOLERANCE, Variation

N_SEQUENCES = 768

KINDS = (*HEADLESS, *HEADED)
"""Kinds of sites. Those with heads (``z``, ``q``, ``k``, ``v``) need one to be named."""


@asked
def align(
    model: HookedModel,
    variable: str | Sequence[str],
    layer: int | Sequence[int],
    width: int | None = None,
    *,
    kind: str = "resid_post",
    head: int | None = None,
    last: int | None = None,
    given_query: bool = False,
    tolerance: float | int = TOLERANCE,
    task: Task | str | None = None,
    n_sequences: int = N_SEQUENCES,
    seed: int = 0,
    steps: int = STEPS,
    vocabulary: Vocabulary | None = None,
    algorithm: str | Algorithm | None = None,
    progress: bool | None = None,
) -> AlignmentReport:
    """Seek the subspace of one site, or of several together, that carries a variable.

    The sites' positions are those at which the algorithm says the variable may be sought. Pairs are
    random, and scores are over blind: see :class:`mtd_lens.AlignmentReport`.

    Args:
        model: A hooked model of any depth and width; it is left as it was found.
        variable: Of the causal model, for example ``"mean_responsibility"``; or two that are sought
            at the same positions, for which one orthonormal basis is learned: its first ``width``
            columns for the first, the next for the second.
        layer: Counted from 0; or several, whose activations are one space. Each is then held at
            its base's natural value plus the swap's shift, so that what an earlier one would change
            in a later one is not passed on.
        width: Dimension of the subspace (of each variable's); by default one less than the variable
            has outputs, which is the dimension of their simplex.
        kind: Of site, one of ``mtd_lens.questions.align.KINDS``, by any of its names.
        head: Counted from 0; needed where the site has heads.
        last: So many last query positions as one space, for a variable that is sought at the last
            one.
        given_query: Sources share the query's own tokens with their base.
        tolerance: Directions in which natural runs vary by no more than this share of the largest
            standard deviation, among principal directions, are left out of the search.
        task: What the model is tested on, or its name; by default the task that the model knows.
        n_sequences: At least 64; half for the fit, half for the scores.
        seed: Of sequences, pairs, fits, controls and resampling.
        steps: Of each of the three fits.
        vocabulary: Which of the model's ids stand for the task's tokens, if they are not the same.
        algorithm: What the model is held against, such as ``"one-step"`` or ``"posterior"`` on
            mixtures, or an algorithm of the caller's own; by default the family's first.
        progress: Whether to show how far it is; by default where somebody looks on, on a terminal
            or in a notebook (see :func:`probes.progress.shown`).

    Returns:
        The scores of the learned subspace and of what stands beside it, with a verdict.

    Raises:
        ArgumentError: An unknown variable or kind, variables that are sought at different
            positions, too few sequences, a variable that does not vary, a query that has no
            tokens of its own, a vocabulary that does not fit, or an algorithm that the family does
            not have.
        MemoryLimitError: More sequences than there is memory for.
        ModelError: The model does not fit the task, no task is known, the algorithm does not say
            where variables may be sought, or its weights were made in inference mode.
        SiteError: A layer, head or hook that the model does not have.
        DataError: A width that the site does not have, or a site that leads to no prediction.
    """
    kind, _ = component_of(kind, layer if isinstance(layer, int) else None, ArgumentError)
    checks.choice(kind, "kind of site", KINDS, ArgumentError)
    steps = checks.integer(steps, "steps", 1, ArgumentError)
    given_query = checks.flag(given_query, "given_query", ArgumentError)
    tolerance = checks.number(tolerance, "tolerance", 0, 1, ArgumentError, low_included=True)
    experiment = Experiment.of(model, task, seed, vocabulary=vocabulary, algorithm=algorithm)
    experiment = experiment.drawn(n_sequences)
    model = experiment.model
    if any(parameter.is_inference() for parameter in subject_of(model).model.parameters()):
        raise ModelError(
            "align takes gradients, and the model's weights were made in inference mode, which has "
            "none. Load or build the model outside of torch.inference_mode()."
        )
    sought = _carriers(experiment, variable)
    subject = subject_of(model)
    listed: Sequence[object] = layer if isinstance(layer, list | tuple | range) else [layer]
    layers = [checks.integer(n, "layer", 0, SiteError, subject.n_layers - 1) for n in listed]
    if not layers:
        raise SiteError("a subspace is sought in one layer or more; got none.")
    if head is not None:
        head = checks.integer(head, "head", 0, SiteError, subject.n_heads - 1)

    trial = experiment.trial()
    names, queries = [carrier.variable for carrier in sought], sought[0].queries
    fitting, held_out = (
        half_of(trial, split, names, queries, given_query) for split in trial.splits
    )
    sites = [
        probes.Site(hook_name(kind, n), positions, head)
        for n in layers
        for positions in _positions(trial, queries, last)
    ]
    if width is None:
        width = max(fitting.pairs[0].natural.shape[-1] - 1, 1)
    search = Search(trial, fitting, sites, width, steps, tolerance)
    learned = search.fit([pairs.counterfactual for pairs in fitting.pairs])
    variation = Variation.of(search.held(fitting).values[: len(fitting)])
    swap = held_out.differences(search.held(held_out))
    far, furthest = far_directions(variation, within(swap, learned.parts[0]))
    scores = _scores(search, held_out, learned, far)
    scores |= _scores_of_other_fits(search, experiment.trial(experiment.null()), held_out)
    if not given_query and (whole := _whole_given_query(search, names, queries)) is not None:
        scores["whole_site_given_query"] = whole
    verdict = judged(
        scores, furthest, given_query=given_query, all_of_it=learned.span.shape[1] == learned.width
    )
    pairs, divergence = held_out.pairs[0], trial.task.outputs.divergence
    return AlignmentReport(
        **experiment.head,
        variable=names[0],
        layer=layers[0] if len(layers) == 1 else tuple(layers),
        kind=kind,
        head=head,
        width=width,
        n_components=len(learned.basis),
        scores=scores,
        unpatched=float(divergence(pairs.counterfactual, search.unpatched(held_out)).mean()),
        alignment=learned,
        last=last,
        given_query=given_query,
        blind=float(divergence(pairs.counterfactual, pairs.blind).mean()),
        n_pairs=len(pairs),
        directions=_directions(learned, swap),
        furthest=furthest,
        n_far=far.shape[1],
        partner=_partner(search, held_out, learned, names),
        verdict=verdict.name,
        reason=verdict.reason,
        floor=verdict.floor,
        algorithm=experiment.algorithm.name,
    )


def _scores(search: Search, half: Half, learned: Alignment, far: Tensor) -> dict[str, Interval]:
    """The learned subspace's scores, and those of other swaps at the same sites."""
    held, seed, own = search.held(half), search.trial.seed, learned.parts[0]
    swap, wrong = half.differences(held), half.differences(held, wrong=True)
    random = probes.random_subspace(learned.span.shape[1], search.width, seed)
    of_fit = search.fitting.differences(search.held(search.fitting))
    moved = within(swap, own)
    shifts = {
        "learned": moved,
        "random_rotation": within(swap, learned.span @ random),
        "wrong_source": within(wrong, own),
        "noise": within(swap, noise_subspace(of_fit, learned.span, search.width, seed)),
        "complement": swap - moved,
        "whole_site": swap,
    }
    if far.shape[1]:
        shifts["within_range"] = moved - within(moved, far)
    if len(learned.parts) > 1:
        shifts["other_variable"] = within(swap, learned.parts[1])
    return search.scores(half, shifts)


def _scores_of_other_fits(search: Search, null: Trial, half: Half) -> dict[str, Interval]:
    """Scores of the same search where there is nothing to find."""
    on_null, pairs = replace(search, trial=null), search.fitting.pairs[0]
    found: dict[str, Interval] = {}
    for name, other, target in (
        ("random_weights", on_null, pairs.counterfactual),
        ("arbitrary_labels", search, search.fitting.arbitrary),
    ):
        basis = other.fit([target]).basis
        shift = within(half.differences(other.held(half)), basis)
        arbitrary = name == "arbitrary_labels"
        found |= other.scores(half, {name: shift}, arbitrary=arbitrary)
    return found


def _partner(
    search: Search, half: Half, learned: Alignment, names: Sequence[str]
) -> Partner | None:
    """The second variable's scores, if there is one."""
    if len(names) == 1:
        return None
    held, (first, own) = search.held(half), learned.parts
    swap, wrong = half.differences(held), half.differences(held, wrong=True)
    shifts = {
        "learned": within(swap, own),
        "other_variable": within(swap, first),
        "wrong_source": within(wrong, own),
    }
    return Partner(names[1], own.shape[1], search.scores(half, shifts, of=1))


def _directions(learned: Alignment, swap: Tensor) -> tuple[Direction, ...]:
    """Each learned direction's natural deviation, and how far the swap shifts along it."""
    along = (swap @ learned.basis.to(swap)).flatten(0, -2)
    return tuple(
        Direction(
            float(deviation),
            float(shift.square().mean().sqrt() / deviation),
            float(shift.abs().max() / deviation),
        )
        for deviation, shift in zip(learned.deviations, along.T, strict=True)
    )


def _whole_given_query(search: Search, names: Sequence[str], queries: slice) -> Interval | None:
    """The whole site's score from sources that share the query's own tokens, if there are such."""
    if search.trial.query is None:
        return None
    try:
        half = half_of(search.trial, search.trial.tokens, names[:1], queries, True)
    except ArgumentError:  # too few contexts are possible there, or none changes a prediction
        return None
    swap = half.differences(search.held(half))
    return search.scores(half, {"whole": swap})["whole"]


def _carriers(experiment: Experiment, variable: object) -> list[Carrier]:
    """Where one variable, or each of two, is sought."""
    known = {c.variable: c for c in carriers_of(experiment.algorithm, experiment.task)}
    names = [variable] if isinstance(variable, str) else variable
    names = checks.listed(names, "variable", "names of variables", ArgumentError)
    sought = [known[checks.choice(name, "variable", known, ArgumentError)] for name in names]
    if len(sought) not in (1, 2) or len({carrier.variable for carrier in sought}) < len(sought):
        raise ArgumentError(f"variable must be one name or two different ones; got {names!r}.")
    if len({str(carrier.queries) for carrier in sought}) > 1:
        raise ArgumentError(
            f"{' and '.join(carrier.variable for carrier in sought)} are sought at different "
            "positions, and have no site in common. Align one after the other."
        )
    return sought


def _positions(trial: Trial, queries: slice, last: object) -> list[list[int]]:
    """The positions of each site: all that share a basis, or one after another as one space."""
    positions = list(trial.positions[queries])
    if last is None:
        return [positions]
    if len(positions) > 1:
        raise ArgumentError(
            f"last is for variables that are sought at the last query position; this one is at "
            f"{len(positions)}. Leave it out."
        )
    last = checks.integer(last, "last", 1, ArgumentError, len(trial.positions))
    return [[position] for position in trial.positions[-last:]]
