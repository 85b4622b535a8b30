"""Which algorithm: every one of a family against a model, where their predictions differ."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from jaxtyping import Float, Int
from torch import Tensor

import probes
from mtd_lens import verdicts
from mtd_lens.claims import Claim, Measurement, NotApplicable
from mtd_lens.contracts import LAST, Algorithm, Family, Task
from mtd_lens.defaults import COMPETE
from mtd_lens.errors import ArgumentError
from mtd_lens.experiment import Experiment, asked
from mtd_lens.measures import Interchange, Prediction, Scrubbing, pairs_of
from mtd_lens.measures.choice import chosen, controls_of, score_of
from mtd_lens.measures.pairs import negligible
from mtd_lens.results.competition import Competition, Contender, Duel
from mtd_lens.results.forms import at_bounds
from mtd_lens.trial import Trial
from mtd_lens.verdicts import THRESHOLD, Verdict, decide
from mtd_lens.vocabulary import Vocabulary
from probes import checks
from probes.progress import steps
from probes.statistics import Interval
from probes.statistics.intervals import CONFIDENCE, MIN_SEQUENCES
from probes.subject import HookedModel

N_SEQUENCES = COMPETE.default

DIFFER_MOST = 0.25
"""Share of the sequences, or pairs, on which two algorithms are held against each other: those on
which they differ most by themselves, whatever the model does."""

LEAST = COMPETE.least
"""Sequences, so that a quarter of the half that is for scores has enough of them."""

HOOK = "hook_attn_out"
"""At the last query, where an algorithm's statistic is swapped."""


@asked
def compete(
    model: HookedModel,
    task: Task | str | None = None,
    n_sequences: int = N_SEQUENCES,
    seed: int = 0,
    *,
    algorithms: Iterable[str | Algorithm] | None = None,
    threshold: float = THRESHOLD,
    name: str | None = None,
    vocabulary: Vocabulary | None = None,
    progress: bool | None = None,
) -> Competition:
    """Which of its task's algorithms a model runs, or whether it runs none of them.

    Each algorithm is fitted to the model's predictions on half of the sequences, and held against
    it on the other half: by predictions, by interchange of its statistic given the query, by
    scrubbing that statistic, and, two by two, on the quarter of sequences and pairs on which the
    two differ most. An algorithm is supported if all of it holds and each rival is told from it.

    Args:
        model: A hooked model of any depth and width; it is left as it was found.
        task: What it is tested on, or its name; by default the task that the model knows.
        n_sequences: At least 128, so that every quarter is enough for an interval.
        seed: Of the sequences, pairs and resampling.
        algorithms: Ids, or algorithms of the caller's own, two at least; by default all of the
            family's.
        threshold: What scores and the lead over every rival must lie above, and 1 minus the share
            of what is left that a rival may explain.
        name: What the result calls the model.
        vocabulary: Which of the model's ids stand for the task's tokens, if they are not the same.
        progress: Whether to show how far it is; by default where somebody looks on, on a terminal
            or in a notebook (see :func:`probes.progress.shown`).

    Returns:
        Every algorithm's scores and verdict, every two algorithms side by side, and a sentence.

    Raises:
        ArgumentError: Too few sequences, a threshold outside (0, 1), a vocabulary that does not
            fit, an algorithm that the family does not have, one twice, or fewer than two.
        MemoryLimitError: More sequences than there is memory for.
        ModelError: The model does not fit the task, or no task is known.
        SiteError: The model lacks a hook, or ignores edits of it.
    """
    threshold = checks.number(threshold, "threshold", 0, 1, ArgumentError)
    n_sequences = checks.integer(n_sequences, "n_sequences", LEAST, ArgumentError)
    experiment = Experiment.of(model, task, seed, name=name, vocabulary=vocabulary)
    rivals, head = _listed(experiment.family, algorithms), experiment.head
    experiment = experiment.drawn(n_sequences)
    if any(algorithm.statistic for algorithm in rivals):
        probes.check_editable(experiment.model, experiment.tokens, (HOOK,))
    held: list[_Held] = []
    for algorithm in steps(rivals, "algorithms"):
        own = replace(experiment, algorithm=algorithm)
        trial = held[0].trial.held_against(own.causal_model, algorithm) if held else own.trial()
        held.append(_held(trial, algorithm, threshold))
    held.sort(key=lambda contender: float(contender.divergences.mean()))
    pairs = steps(list(combinations(held, 2)), "pairs of algorithms")
    duels = tuple(_duel(*two, len(held) - 1, experiment.seed) for two in pairs)
    judged = tuple(_judged(each, held, duels, threshold) for each in held)
    return Competition(
        **head | {"n_sequences": n_sequences},
        contenders=judged,
        duels=duels,
        conclusion=_conclusion(experiment.name, judged),
    )


@dataclass(frozen=True)
class _Held:
    """An algorithm and what was found of it in a model.

    Attributes:
        algorithm: The algorithm.
        trial: Of the model, with the algorithm fitted to it.
        prediction: ``[sequence, outcome]``: the algorithm's.
        divergences: ``[sequence]``: of the model's predictions from it.
        found: By test, what was measured at its layer.
        notes: By test, why it was not made.
        scores: By test, the score.
        verdicts: By test, the verdict on it alone.
    """

    algorithm: Algorithm
    trial: Trial
    prediction: Float[Tensor, "sequence outcome"]
    divergences: Float[Tensor, " sequence"]
    found: Mapping[str, Measurement]
    notes: Mapping[str, str]
    scores: Mapping[str, Interval]
    verdicts: Mapping[str, Verdict]

    def holds(self, test: str) -> bool:
        """Whether a test was made, and is passed."""
        return test in self.verdicts and self.verdicts[test].name == verdicts.SUPPORTED

    @property
    def counterfactual(self) -> Float[Tensor, "pair outcome"]:
        """What it predicts for each pair when its statistic is swapped, given the query."""
        trial, statistic = self.trial, self.algorithm.statistic
        return pairs_of(trial, trial.tokens, statistic, LAST, given_query=True).counterfactual


def _listed(family: Family, wanted: Iterable[str | Algorithm] | None) -> list[Algorithm]:
    """The algorithms that compete."""
    made = "ids, or mtd_lens.Algorithm records"
    given = checks.listed(
        family.algorithms if wanted is None else wanted, "algorithms", made, ArgumentError
    )
    listed = [family.algorithm(each) for each in given]
    ids = [algorithm.id for algorithm in listed]
    for different in (ids, [algorithm.name for algorithm in listed]):
        if len(listed) < 2 or len(set(different)) < len(different):
            known = ", ".join(algorithm.id for algorithm in family.algorithms)
            raise ArgumentError(
                "a competition needs two algorithms or more, of different ids and names; got "
                f"{', '.join(ids) or 'none'}. The family {family.name!r} has {known}."
            )
    return listed


def _held(trial: Trial, algorithm: Algorithm, threshold: float) -> _Held:
    """What the tests find of one algorithm."""
    task, statistic = trial.task, algorithm.statistic
    claims = {}
    for claim in algorithm.claims(task):
        if isinstance(claim.measure, Prediction):
            claims["predictions"] = claim
    if statistic:
        swap = Interchange(statistic, HOOK, LAST, given_query=True)
        claims["interchange"] = Claim(statistic, "Swapped given the query, it acts.", swap)
        scrub = Scrubbing(statistic, HOOK, LAST)
        claims["scrubbing"] = Claim(statistic, "Given the query, nothing else passes.", scrub)
    trial.read_for(claims.values())
    found, notes = {}, {}
    for name, claim in claims.items():
        try:
            best = chosen(claim.measure(trial))
        except NotApplicable as reason:
            notes[name] = str(reason)
            continue
        if best is None:
            notes[name] = "the variable does not vary"
        else:
            found[name] = best
    prediction = trial.run(trial.tokens)[trial.causal_model.variables[-1]][:, -1]
    divergences = task.outputs.divergence(prediction, trial.predictions(trial.tokens))
    scores = {test: score_of(measurement, trial.seed) for test, measurement in found.items()}
    judged = {
        test: decide(score, controls_of(found[test], trial.seed), None, threshold)
        for test, score in scores.items()
    }
    return _Held(algorithm, trial, prediction, divergences, found, notes, scores, judged)


def _duel(one: _Held, other: _Held, n_rivals: int, seed: int) -> Duel:
    """Two algorithms where they differ most; intervals are for as many rivals (Bonferroni)."""
    divergence = one.trial.task.outputs.divergence
    confidence = 1 - (1 - CONFIDENCE) / n_rivals

    def beside(above: Tensor, below: Tensor) -> Interval:
        return Interval(*map(float, probes.ratio_intervals(above, below, seed, confidence)))

    def nearer(own: Tensor, others: Tensor, rows: Tensor) -> Interval:
        return beside(2 * own[rows], (own + others)[rows])

    names = one.algorithm.name, other.algorithm.name
    interchange = None
    swaps = [each.found["interchange"] for each in (one, other) if "interchange" in each.found]
    if len(swaps) == 2 and swaps[0].layer == swaps[1].layer:
        differ = divergence(one.counterfactual, other.counterfactual)
        if not negligible(differ, one.counterfactual):
            own, others = (swap.numerator for swap in swaps)
            interchange = nearer(own, others, _most(differ))
    apart = divergence(one.prediction, other.prediction)
    if negligible(apart, one.prediction):
        return Duel(*names, predictions=None, interchange=interchange, share=None, apart=0.0)
    rows = _most(apart)
    way = (other.prediction - one.prediction)[rows]
    gone = (one.trial.predictions(one.trial.tokens) - one.prediction)[rows]
    left = beside((gone * way).sum(-1), way.square().sum(-1))
    return Duel(
        *names,
        predictions=nearer(one.divergences, other.divergences, rows),
        interchange=interchange,
        share=Interval(1 - left.score, 1 - left.high, 1 - left.low),
        apart=float(apart.mean()),
    )


def _most(apart: Float[Tensor, " row"]) -> Int[Tensor, " chosen"]:
    """The rows on which two algorithms differ most."""
    n = max(MIN_SEQUENCES, round(DIFFER_MOST * len(apart)))
    return apart.topk(min(n, len(apart))).indices


def _judged(
    one: _Held, held: Iterable[_Held], duels: Iterable[Duel], threshold: float
) -> Contender:
    """An algorithm's row. Swaps speak for a rival only where they act as it says."""
    name = one.algorithm.name
    acting = [e.algorithm.name for e in held if e.holds("interchange")]
    beside = [
        duel if duel.one == name else duel.turned()
        for duel in duels
        if name in (duel.one, duel.other)
    ]
    nearer = {
        f"{duel.other} is nearer by {what}, {found}": found.score
        for duel in beside
        for what, found in (("predictions", duel.predictions), ("swaps", duel.interchange))
        if found is not None and found.high < 0
        if what == "predictions" or duel.other in acting
    }
    alike = tuple(
        duel.other
        for duel in beside
        if duel.predictions is None or duel.predictions.low <= 0 <= duel.predictions.high
        if not (name in acting and duel.interchange is not None and duel.interchange.low > 0)
    )
    if nearer:
        verdict, reason = verdicts.REFUTED, min(nearer, key=lambda words: nearer[words])
    else:
        verdict, reason = _of_the_nearest(one, beside, alike, threshold)
    parameters = one.trial.causal_model.parameters
    if ends := " and ".join(at_bounds(parameters)):
        reason += (
            f"; its fit is at the end of its range, {ends}: nothing is said of what lies beyond"
        )
    layers = {test: found.layer for test, found in one.found.items()}
    return Contender(
        id=one.algorithm.id,
        name=name,
        parameters=parameters,
        divergence=probes.mean_interval(one.divergences, one.trial.seed),
        predictions=one.scores.get("predictions"),
        interchange=one.scores.get("interchange"),
        layer=layers.get("interchange"),
        scrubbing=one.scores.get("scrubbing"),
        scrubbing_layer=layers.get("scrubbing"),
        notes=one.notes,
        alike=alike,
        verdict=verdict,
        reason=reason,
    )


def _of_the_nearest(
    one: _Held, beside: Sequence[Duel], alike: Sequence[str], threshold: float
) -> tuple[str, str]:
    """The verdict on an algorithm to which no rival is preferred, with its reason.

    What it leaves unexplained must be little beside what parts it from every rival: a model of an
    algorithm that nobody named may be nearer to one of them than to the others.
    """
    within = 1 - threshold
    if "predictions" not in one.verdicts:
        why = one.notes.get("predictions", "it claims nothing of them")
        return verdicts.NOT_APPLICABLE, f"what it predicts was held against nothing: {why}"
    failed = {test: _said(one, test) for test in one.verdicts if not one.holds(test)}
    if "predictions" in failed:
        return one.verdicts["predictions"].name, failed["predictions"]
    between = [
        f"predictions lie {duel.share} of the way from it to {duel.other}"
        for duel in beside
        if duel.share is not None and (duel.share.low > within or duel.share.high < -within)
    ]
    missing = [*filter(None, [" and ".join(between)]), *failed.values()]
    if missing:
        return verdicts.PARTIAL, "; ".join(missing)
    if alike:
        reason = f"it cannot be told from {', '.join(alike)} by these sequences"
        return verdicts.NOT_DIAGNOSTIC, reason
    leads = [
        f"its lead over {duel.other} is {duel.predictions}, not above {threshold:g}"
        for duel in beside
        if duel.predictions is not None and duel.predictions.low <= threshold
    ]
    if leads:
        return verdicts.PARTIAL, "; ".join(leads)
    scores = ", ".join(f"{test} {score}" for test, score in one.scores.items())
    reason = f"nearer than each of {len(beside)} rivals, none of which explains what is left"
    return verdicts.SUPPORTED, f"{scores}; {reason}"


def _said(one: _Held, test: str) -> str:
    return f"{test} {one.scores[test]}: {one.verdicts[test].reason}"


def _conclusion(model: str, judged: Sequence[Contender]) -> str:
    """What it comes to, in a sentence, which names no algorithm that is refuted as one that runs.

    Where no swap was made of what is said to run, predictions alone say so.
    """
    nearest = judged[0]
    found = [c for c in judged if c.verdict == verdicts.SUPPORTED]
    unsettled = [c for c in judged if c.verdict not in (verdicts.REFUTED, verdicts.PARTIAL)]
    if not found and nearest.verdict == verdicts.NOT_DIAGNOSTIC:
        found = [c for c in unsettled if c is nearest or c.name in nearest.alike]
    named = ", ".join(c.name for c in found)
    who = model if all(c.interchange for c in found) else f"By predictions alone, {model}"
    if len(found) > 1:
        return f"{who} runs one of a group that these sequences cannot tell apart: {named}."
    if found and found[0].verdict == verdicts.SUPPORTED:
        return f"{who} runs {named}: {found[0].reason}."
    text = f"{model} runs none of {len(judged)} algorithms"
    if unsettled:
        text = f"Whether {model} runs one of {len(judged)} algorithms is not settled"
    alike = f" (not told from {', '.join(nearest.alike)})" if nearest.alike else ""
    words = nearest.verdict.replace("_", " ")
    return f"{text}; {nearest.name} comes nearest{alike}, and is {words}: {nearest.reason}."
