"""Find where in a model each variable of the causal model lives.

Four questions a variable: at which single sites does an interchange act as the algorithm says, how
few sites swapped together carry it, from which sites can it be read, and in which order do the
variables appear? Sets of sites are chosen on the fit split and scored once on the other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from torch import Tensor

import probes
from mtd_lens.claims import NotApplicable
from mtd_lens.contracts import LAST, Algorithm, Carrier, Task
from mtd_lens.defaults import LOCALIZE
from mtd_lens.errors import ArgumentError, ModelError
from mtd_lens.experiment import Experiment, asked
from mtd_lens.questions.readable import probe_places
from mtd_lens.questions.sets import Places, smallest_set
from mtd_lens.questions.swaps import Swaps, in_words, places_of, site_of
from mtd_lens.results.localization import Localization
from mtd_lens.results.places import STAGES, ClassLoss, Finding, Place, ProbeScore, SiteScore
from mtd_lens.trial import Trial
from mtd_lens.verdicts import SUPPORTED, THRESHOLD, decide
from mtd_lens.vocabulary import Vocabulary
from probes import checks
from probes.progress import steps
from probes.sites import hook_suffix
from probes.statistics.significance import N_FLIPS
from probes.subject import HookedModel

N_SEQUENCES = LOCALIZE.default
LEVEL = 0.05
FLOOR = 0.1
"""The share of the way from the base run's prediction to the counterfactual, as divergences, that a
significant site must go: a random model's sites stay below it."""

WRONG = "a wrong source"

MAX_FLIPS = 10 * N_FLIPS
"""Of signs, of which there must be so many that the smallest p, corrected, is below the level."""


@asked
def localize(
    model: HookedModel,
    task: Task | str | None = None,
    n_sequences: int = N_SEQUENCES,
    seed: int = 0,
    *,
    threshold: float = THRESHOLD,
    level: float = LEVEL,
    name: str | None = None,
    vocabulary: Vocabulary | None = None,
    progress: bool | None = None,
    algorithm: str | Algorithm | None = None,
) -> Localization:
    """Find where each variable of the task's algorithm lives in a model of any shape.

    Half of the sequences are for fitting and for the choice of sets, half for scores. Interchange
    scores are ``1 - E D(counterfactual ‖ patched) / E D(counterfactual ‖ blind)`` on random pairs
    (Geiger et al. 2021), where blind is the best answer without a look at the source: swapping at
    sites that do nothing scores below 0. A set is grown greedily by whichever site raises the joint
    score most, until none raises it by ``GAIN``, nor any pair or whole layer; members that are
    worth less than that then leave. It is found where :func:`mtd_lens.verdicts.decide` supports it,
    with the values of a wrong source as what must not pass.

    Variables of the last query alone are sought a second time *given the query*, on sources that
    share the query's own tokens with their base, where the algorithm says which those are: a model
    may hold a variable in a code that depends on them. Since later layers then carry whatever was
    made of it, the set is of layers up to the first by which all sites together carry it.

    Args:
        model: A hooked model of any depth and width, of this package or not; it is left as it was
            found.
        task: What it is tested on, or its name; by default the task that the model knows.
        n_sequences: At least 64.
        seed: Of the sequences, pairs, controls and resampling.
        threshold: What the interval of a found set must lie above.
        level: Of the tests that a single site moves the prediction by more than ``FLOOR`` of
            what swapping nothing leaves, over all of them.
        name: What the result calls the model.
        vocabulary: Which of the model's ids stand for the task's tokens, if they are not the same.
        progress: Whether to show how far it is; by default where somebody looks on, on a terminal
            or in a notebook (see :func:`probes.progress.shown`).
        algorithm: What the model is held against, such as ``"one-step"`` or ``"posterior"`` on
            mixtures, or an algorithm of the caller's own; by default the family's first.

    Returns:
        The smallest set of sites of each variable, and the maps of single sites and probes.

    Raises:
        ArgumentError: Too few sequences, a threshold or level outside (0, 1), a vocabulary that
            does not fit, or an algorithm that the family does not have.
        MemoryLimitError: More sequences than there is memory for.
        ModelError: The model does not fit the task, no task is known, or the algorithm does not say
            where variables may be sought.
        SiteError: The model lacks a hook, or ignores edits of one.
    """
    threshold = checks.number(threshold, "threshold", 0, 1, ArgumentError)
    level = checks.number(level, "level", 0, 1, ArgumentError)
    experiment = Experiment.of(
        model, task, seed, name=name, vocabulary=vocabulary, algorithm=algorithm
    )
    experiment = experiment.drawn(n_sequences)
    carriers = carriers_of(experiment.algorithm, experiment.task)
    kinds = dict.fromkeys(kind for carrier in carriers for kind in carrier.kinds)
    for kind in kinds:
        checks.choice(kind, "kind of site", STAGES, ArgumentError)
    edited = tuple(hook_suffix(kind) for kind in kinds if places_of(experiment.model, (kind,)))
    probes.check_editable(experiment.model, experiment.tokens, edited)
    trial = experiment.trial()
    found = [
        _seek(trial, experiment.algorithm, carrier, threshold)
        for carrier in steps(carriers, "variables")
    ]
    singles = [single for _, singles, _ in found for single in singles]
    return Localization(
        **experiment.head,
        threshold=threshold,
        floor=FLOOR,
        level=level,
        findings=tuple(finding for findings, _, _ in found for finding in findings),
        sites=_tested(singles, level, experiment.seed),
        probes=tuple(entry for _, _, read in found for entry in read),
        algorithm=experiment.algorithm.name,
    )


def carriers_of(algorithm: Algorithm, task: Task) -> Sequence[Carrier]:
    """Where each variable of an algorithm may be sought.

    Raises:
        ModelError: The algorithm does not say.
    """
    if algorithm.carriers is None or algorithm.control is None:
        raise ModelError(
            f"the algorithm {algorithm.name!r} does not say where its variables may be sought. "
            "Give it carriers and a control; see mtd_lens.contracts.Algorithm."
        )
    return algorithm.carriers(task)


@dataclass(frozen=True)
class _Single:
    """Errors of swapping a variable at one place, of the base and blind, one value a pair."""

    finding: Finding
    place: Place
    patched: Tensor
    base: Tensor
    blind: Tensor


def _seek(
    trial: Trial, algorithm: Algorithm, carrier: Carrier, threshold: float
) -> tuple[list[Finding], list[_Single], list[ProbeScore]]:
    """One variable: its sets, its errors at every place, and its probes."""
    finding, singles = _find(trial, carrier, threshold, given_query=False)
    if finding.verdict == "not_applicable":
        return [finding], [], []
    read, probed, baseline = probe_places(trial, algorithm, carrier)
    findings = [replace(finding, probed=in_words(probed), token_window=baseline)]
    if trial.query is not None and carrier.queries == LAST:
        given, also = _find(trial, carrier, threshold, given_query=True)
        findings.append(given)
        singles += also
    return findings, singles, read


def _find(
    trial: Trial, carrier: Carrier, threshold: float, *, given_query: bool
) -> tuple[Finding, list[_Single]]:
    """The smallest set that carries a variable, and its errors at every place."""
    head = Finding(carrier.variable, "not_applicable", given_query=given_query)
    try:
        fit, swaps = (Swaps.of(trial, split, carrier, given_query) for split in trial.splits)
    except NotApplicable as reason:
        return replace(head, reason=str(reason)), []
    if not (fit.vary and swaps.vary):
        why = "the algorithm predicts the same whatever the variable's source value"
        return replace(head, reason=why), []
    places = places_of(trial.model, carrier.kinds)
    sought = _up_to_enough(fit, places, threshold) if given_query else places
    chosen, fit_score = smallest_set(fit.scores, sought)
    layers = [tuple(group) for _, group in groupby(places, key=lambda place: place.layer)]
    groups = [(), chosen, *layers, *((place,) for place in places)]
    base, joint, *errors = swaps.errors([swaps.sites(group) for group in groups])
    [of_wrong] = swaps.errors([swaps.sites(chosen)], swaps.pairs.wrong)
    score, wrong = (
        probes.one_minus_ratio(each, swaps.blind, trial.seed) for each in (joint, of_wrong)
    )
    verdict = decide(score, {WRONG: wrong}, None, threshold)
    is_found = verdict.name == SUPPORTED
    finding = replace(
        head,
        verdict="found" if is_found else "not_found",
        reason=verdict.reason,
        where=in_words(swaps.positions),
        places=chosen if is_found else (),
        tried=() if is_found else chosen,
        score=score.score,
        low=score.low,
        high=score.high,
        fit_score=fit_score,
        wrong=wrong,
        unswapped=1 - float(base.mean() / swaps.blind.mean()),
        whole_layers=tuple(
            1 - float(each.mean() / swaps.blind.mean()) for each in errors[: len(layers)]
        ),
        pairs=len(swaps.pairs),
        mean_denominator=float(swaps.blind.mean()),
        classes=_losses(swaps, carrier, chosen, joint),
    )
    singles = [
        _Single(finding, place, patched, base, swaps.blind)
        for place, patched in zip(places, errors[len(layers) :], strict=True)
    ]
    return finding, singles


def _up_to_enough(fit: Swaps, places: Sequence[Place], threshold: float) -> Sequence[Place]:
    """Places up to the earliest layer by which all of them together carry the variable.

    Given the query, whatever a later layer makes of the variable carries it just as well.
    """
    last = dict.fromkeys(place.layer for place in places)
    prefixes = [tuple(place for place in places if place.layer <= layer) for layer in last]
    scores = fit.scores(prefixes)
    enough = [p for p, score in zip(prefixes, scores, strict=True) if score > threshold]
    return enough[0] if enough else places


def _losses(swaps: Swaps, carrier: Carrier, chosen: Places, joint: Tensor) -> tuple[ClassLoss, ...]:
    """What each member of a set is worth at each class of positions, if there are several."""
    if carrier.classes is None or len(chosen) < 2:
        return ()
    names = dict.fromkeys(map(carrier.classes, swaps.positions))
    if len(names) < 2:
        return ()
    cells = [(place, name) for place in chosen for name in names]
    without = []
    for left_out, name in cells:
        elsewhere = [p for p in swaps.positions if carrier.classes(p) != name]
        others = tuple(place for place in chosen if place != left_out)
        without.append([*swaps.sites(others), site_of(left_out, elsewhere)])
    lost = torch.stack(swaps.errors(without)) - joint
    limits = zip(
        *probes.ratio_intervals(swaps.blind - lost, swaps.blind, swaps.trial.seed), strict=True
    )
    return tuple(
        ClassLoss(*map(float, found), place=place, positions=name)
        for (place, name), found in zip(cells, limits, strict=True)
    )


def _tested(singles: Sequence[_Single], level: float, seed: int) -> tuple[SiteScore, ...]:
    """Every place's score with its interval, and whether swapping there moves the prediction."""
    if not singles:
        return ()
    by_finding = [list(group) for _, group in groupby(singles, key=lambda s: id(s.finding))]
    n_flips = int(min(max(N_FLIPS, 2 * len(singles) / level), MAX_FLIPS))
    scores, p_values = [], []
    for group in by_finding:
        patched, base = (
            torch.stack([getattr(single, name) for single in group]) for name in ("patched", "base")
        )
        scores.append(torch.stack(probes.ratio_intervals(patched, group[0].blind, seed)))
        p_values.append(
            probes.sign_flip_p_values(
                (1 - FLOOR) * base - patched,
                n_flips=n_flips,
                seed=seed,
                alternative="greater",
            )
        )
    p = torch.cat(p_values)
    adjusted = probes.adjust_p_values(p, method="holm")
    columns = (c.tolist() for c in (*torch.cat(scores, 1), p, adjusted, adjusted <= level))
    names = ("score", "low", "high", "p_value", "adjusted_p_value", "significant")
    return tuple(
        SiteScore(
            variable=single.finding.variable,
            given_query=single.finding.given_query,
            place=single.place,
            **dict(zip(names, row, strict=True)),
        )
        for single, *row in zip(singles, *columns, strict=True)
    )
