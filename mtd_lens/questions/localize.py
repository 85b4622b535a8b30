"""Find where in a model each variable of the causal model lives.

Four questions a variable: at which single sites does an interchange act as the algorithm says, how
few sites swapped together carry it, from which sites can it be read, and in which order do the
variables appear? Sets of sites are chosen on the fit split and scored once on the other.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

import probes
from mtd_lens.contracts import Algorithm, Carrier, Task
from mtd_lens.errors import ArgumentError, ModelError
from mtd_lens.experiment import Experiment, asked
from mtd_lens.measures.interchange import N_SELECTION_PAIRS
from mtd_lens.measures.pairs import (
    Pairs,
    first,
    negligible,
    pairs_of,
    prediction_with,
    swap_errors,
)
from mtd_lens.measures.probe import probe_errors, share_read
from mtd_lens.results.localization import (
    STAGES,
    Finding,
    Localization,
    Place,
    ProbeScore,
    SiteScore,
)
from mtd_lens.trial import Trial
from mtd_lens.verdicts import THRESHOLD
from probes import checks
from probes.sites import hook_name, hook_suffix
from probes.subject import HookedModel, subject_of

N_SEQUENCES = 512
LEVEL = 0.05
FLOOR = 0.1
"""What a single site's score is tested against: a random model's sites stay below it."""

GAIN = 0.01
"""A site joins the set if it raises the joint score by this, and stays if it is worth that."""

MAX_PROBED = 16
"""Query positions that a probe reads, evenly spaced where a carrier has more."""

FAINT = 1e-12
"""A head whose output varies by less than this share of its layer's largest variance is silent.

Added to the others' it would be lost in float32's rounding; a probe, which is free of scale, would
read it all the same.
"""

BATCH_SIZE = 64

PROBED = ("z", "attn_out", "mlp_out", "resid_post")
WITH_HEADS = ("pattern", "z")

Places = tuple[Place, ...]


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
    progress: bool = False,
) -> Localization:
    """Find where each variable of the task's algorithm lives in a model of any shape.

    Half of the sequences are for fitting and for the choice of sets, half for scores. Interchange
    scores are ``1 - E D(counterfactual ‖ patched) / E D(counterfactual ‖ base)`` (Geiger et al.
    2021); a set is grown greedily, from the best single site, by whichever site raises the joint
    score most, until none raises it by ``GAIN``; members that are worth less than that then leave.

    Args:
        model: A HookedTransformer of any depth and width, of this package or not; it is left as it
            was found.
        task: What it is tested on, or its name; by default the task that the model knows.
        n_sequences: At least 64.
        seed: Of the sequences, pairs, controls and resampling.
        threshold: What the interval of a found set must lie above.
        level: Of the tests that a single site's score exceeds ``FLOOR``, over all of them.
        name: What the result calls the model.
        progress: Show a progress bar on standard error once two seconds have passed.

    Returns:
        The smallest set of sites of each variable, and the maps of single sites and probes.

    Raises:
        ArgumentError: Too few sequences, or a threshold or level outside (0, 1).
        MemoryLimitError: More sequences than there is memory for.
        ModelError: The model does not fit the task, no task is known, or its family does not say
            where variables may be sought.
        SiteError: The model lacks a hook, or ignores edits of one.
    """
    from tqdm.auto import tqdm

    threshold = checks.number(threshold, "threshold", 0, 1, ArgumentError)
    level = checks.number(level, "level", 0, 1, ArgumentError)
    progress = checks.flag(progress, "progress", ArgumentError)
    experiment = Experiment.of(model, task, seed, name=name).drawn(n_sequences)
    seed = experiment.seed
    carriers = carriers_of(experiment.algorithm, experiment.task)
    kinds = dict.fromkeys(kind for carrier in carriers for kind in carrier.kinds)
    for kind in kinds:
        checks.choice(kind, "kind of site", STAGES, ArgumentError)
    edited = tuple(hook_suffix(kind) for kind in kinds if _places(model, (kind,)))
    probes.check_editable(model, experiment.tokens, edited)
    trial = experiment.trial()
    found = [
        _seek(trial, experiment.algorithm, carrier, threshold)
        for carrier in tqdm(
            carriers, desc="variables", disable=None if progress else True, delay=2, leave=False
        )
    ]
    return Localization(
        **experiment.head,
        threshold=threshold,
        floor=FLOOR,
        level=level,
        findings=tuple(finding for finding, _, _ in found),
        sites=_tested([single for _, singles, _ in found for single in singles], level, seed),
        probes=tuple(entry for _, _, read in found for entry in read),
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
    """Errors of swapping a variable at one place: patched and base, one value a pair."""

    variable: str
    place: Place
    patched: Tensor
    base: Tensor


def _seek(
    trial: Trial, algorithm: Algorithm, carrier: Carrier, threshold: float
) -> tuple[Finding, list[_Single], list[ProbeScore]]:
    """One variable: its smallest set, its errors at every place, and its probes."""
    positions = trial.positions[carrier.queries]
    few = first(trial, trial.fit_tokens, N_SELECTION_PAIRS)
    fit = _Swaps.of(trial, carrier, trial.fit_tokens, few, trial.seed)
    swaps = _Swaps.of(trial, carrier, trial.tokens, trial.tokens, trial.seed + 1)
    if negligible(swaps.pairs.effect, swaps.pairs.counterfactual):
        return Finding(carrier.variable, "not_applicable"), [], []
    places = _places(trial.model, carrier.kinds)
    chosen, fit_score = smallest_set(fit.scores, places)
    layers = [tuple(group) for _, group in groupby(places, key=lambda place: place.layer)]
    base, patched = swaps.errors([chosen, *layers, *((place,) for place in places)])
    joint = probes.one_minus_ratio(patched[chosen], base, seed=trial.seed)
    read, probed, baseline = _probe(trial, algorithm, carrier)
    means = trial.run(trial.fit_tokens)[carrier.variable].mean(0)
    at_mean = prediction_with(
        trial.causal_model,
        trial.tokens,
        carrier.variable,
        means.expand(len(trial.tokens), *means.shape),
        carrier.queries,
    )
    blind = trial.task.outputs.divergence(swaps.pairs.counterfactual, at_mean)
    finding = Finding(
        variable=carrier.variable,
        verdict="found" if joint.low > threshold else "not_found",
        where=_in_words(positions),
        places=chosen,
        score=joint.score,
        low=joint.low,
        high=joint.high,
        fit_score=fit_score,
        whole_layers=tuple(1 - float(patched[layer].mean() / base.mean()) for layer in layers),
        pairs=len(base),
        mean_denominator=float(base.mean()),
        blind=1 - float(blind.mean() / base.mean()),
        probed=_in_words(probed),
        token_window=baseline,
    )
    singles = [_Single(carrier.variable, place, patched[place,], base) for place in places]
    return finding, singles, read


def smallest_set(
    scores: Callable[[Sequence[Places]], Sequence[float]], places: Sequence[Place]
) -> tuple[Places, float]:
    """A small set of places with a high joint score, by greedy growth and pruning.

    Args:
        scores: Of several candidate sets.
        places: In the order of layers: the earliest of equals is taken.

    Returns:
        The set in the order of ``places``, and its score.
    """
    chosen: Places = ()
    score = -np.inf
    while len(chosen) < len(places):
        candidates = [(*chosen, place) for place in places if place not in chosen]
        found = scores(candidates)
        best = int(np.argmax(found))
        if chosen and found[best] - score < GAIN:
            break
        chosen, score = candidates[best], found[best]
    while len(chosen) > 1:
        candidates = [tuple(p for p in chosen if p != member) for member in chosen]
        found = scores(candidates)
        best = int(np.argmax(found))
        if score - found[best] >= GAIN:
            break
        chosen, score = candidates[best], found[best]
    return tuple(place for place in places if place in chosen), float(score)


@dataclass(frozen=True)
class _Swaps:
    """Interchanges of one variable on pairs of one split, or of its first sequences."""

    trial: Trial
    positions: tuple[int, ...]
    split: Tensor
    tokens: Tensor
    pairs: Pairs

    @classmethod
    def of(
        cls, trial: Trial, carrier: Carrier, split: Tensor, tokens: Tensor, seed: int
    ) -> "_Swaps":
        pairs = pairs_of(trial, tokens, carrier.variable, carrier.queries, seed)
        return cls(trial, trial.positions[carrier.queries], split, tokens, pairs)

    def errors(self, sets: Sequence[Places]) -> tuple[Tensor, dict[Places, Tensor]]:
        """Divergence from the counterfactual: of base runs, and with each set swapped at once."""
        sites = {place: _site(place, self.positions) for group in sets for place in group}
        distinct = {str(group): group for group in sets}
        base, patched = swap_errors(
            self.trial.model,
            self.trial.task.outputs,
            self.pairs.counterfactual,
            self.tokens,
            self.pairs.source,
            {name: [sites[place] for place in group] for name, group in distinct.items()},
            self.trial.natural(self.split),
            BATCH_SIZE,
        )
        return base, {distinct[name]: errors for name, errors in patched.items()}

    def scores(self, sets: Sequence[Places]) -> list[float]:
        """Joint score of each set."""
        base, patched = self.errors(sets)
        return [1 - float(patched[group].mean() / base.mean()) for group in sets]


def _tested(singles: Sequence[_Single], level: float, seed: int) -> tuple[SiteScore, ...]:
    """Every place's score with its interval, and whether it exceeds the floor."""
    if not singles:
        return ()
    patched = torch.stack([single.patched for single in singles])
    base = torch.stack([single.base for single in singles])
    scores = probes.ratio_intervals(patched, base, seed)
    p_values = probes.sign_flip_p_values(
        (1 - FLOOR) * base - patched, seed=seed, alternative="greater"
    )
    adjusted = probes.adjust_p_values(p_values, method="holm")
    columns = (values.tolist() for values in (*scores, p_values, adjusted, adjusted <= level))
    names = ("score", "low", "high", "p_value", "adjusted_p_value", "significant")
    return tuple(
        SiteScore(
            variable=single.variable, place=single.place, **dict(zip(names, row, strict=True))
        )
        for single, *row in zip(singles, *columns, strict=True)
    )


def _probe(
    trial: Trial, algorithm: Algorithm, carrier: Carrier
) -> tuple[list[ProbeScore], tuple[int, ...], float]:
    """Ridge probes of every place, the positions that they read, and the raw tokens' R²."""
    assert algorithm.control is not None
    queries, tokens = trial.positions, torch.cat(trial.splits)
    sizes = [len(half) for half in trial.splits]
    indices = list(range(len(queries)))[carrier.queries]
    spread = np.linspace(0, len(indices) - 1, min(MAX_PROBED, len(indices))).round()
    indices = [indices[int(i)] for i in spread]
    positions = tuple(queries[i] for i in indices)
    target = torch.cat([trial.run(t)[carrier.variable] for t in trial.splits])[:, indices]
    decoy = algorithm.control(trial.causal_model, tokens, carrier.variable, trial.seed)[:, indices]
    places = _places(trial.model, PROBED)
    sites = [_site(place, positions) for place in places]
    halves = zip(*(trial.read(t, sites) for t in trial.splits), strict=True)
    captured = dict(zip(places, map(torch.cat, halves), strict=True))

    for _, heads in groupby((p for p in places if p.kind == "z"), key=lambda p: p.layer):
        _silence([captured[place] for place in heads])

    fitted = [probe_errors(captured[place].split(sizes), target, decoy) for place in places]
    of_target, of_decoy = (
        _intervals([of[index][1] for of in fitted], trial.seed) for index in (0, 1)
    )
    raw = probes.raw_features(tokens, positions, queries[0] + 1, trial.task.inputs.size)
    [(_, errors)] = probe_errors(raw.split(sizes), target)
    read = [
        ProbeScore(
            **vars(found),
            variable=carrier.variable,
            place=place,
            control=control.score,
            control_low=control.low,
            control_high=control.high,
        )
        for place, found, control in zip(places, of_target, of_decoy, strict=True)
    ]
    return read, positions, share_read(errors)


def _intervals(errors: Sequence[tuple[Tensor, Tensor]], seed: int) -> list[probes.Interval]:
    """R² of every place, from its errors and deviations."""
    residual, deviation = (torch.stack(parts) for parts in zip(*errors, strict=True))
    scores = probes.ratio_intervals(residual, deviation, seed)
    return [probes.Interval(*map(float, found)) for found in zip(*scores, strict=True)]


def _silence(heads: Sequence[Tensor]) -> None:
    """Set to 0 what heads of a layer write too faintly to be added to the others'."""
    variances = [float(head.to(torch.float64).flatten(0, 1).var(0).sum()) for head in heads]
    for head, variance in zip(heads, variances, strict=True):
        if variance < FAINT * max(variances):
            head.zero_()


def _places(model: HookedModel, kinds: Sequence[str]) -> list[Place]:
    """Every place of some kinds that a model has, by layer."""
    subject = subject_of(model)
    return [
        Place(layer, kind, head)
        for layer in range(subject.n_layers)
        for kind in kinds
        if kind != "mlp_out" or subject.has_mlp
        if kind != "attn_out" or subject.n_heads > 1  # it holds what the head's z does
        for head in (range(subject.n_heads) if kind in WITH_HEADS else (None,))
    ]


def _site(place: Place, positions: Sequence[int]) -> probes.Site:
    return probes.Site(hook_name(place.kind, place.layer), positions, place.head)


def _in_words(positions: Sequence[int]) -> str:
    if len(positions) == 1:
        return f"position {positions[0]}"
    skipped = len(positions) < positions[-1] - positions[0] + 1
    note = f", {len(positions)} of them" if skipped else ""
    return f"positions {positions[0]} to {positions[-1]}{note}"
