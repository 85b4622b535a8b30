"""Score any model on any task: every claim at every layer, beside a null and a ceiling."""

import math
from collections.abc import Iterable, Sequence, Set as AbstractSet
from fnmatch import fnmatchcase

import numpy as np

import probes
from mtd_lens.claims import Claim, Measurement, NotApplicable, naming
from mtd_lens.contracts import Algorithm, Task
from mtd_lens.defaults import SCORE
from mtd_lens.errors import ArgumentError, nearest
from mtd_lens.experiment import NULL_SEED, Experiment, asked
from mtd_lens.measures.choice import chosen, controls_of, rows_of, score_of
from mtd_lens.questions.conclusion import conclusion
from mtd_lens.questions.estimators import from_model, means
from mtd_lens.questions.rivals import TEST as RIVALS, nearest_algorithm
from mtd_lens.results.scorecard import ClaimResult, MatrixEntry, Scorecard
from mtd_lens.trial import Trial
from mtd_lens.verdicts import REFUTED, THRESHOLD, decide
from mtd_lens.vocabulary import Vocabulary
from probes import checks
from probes.progress import part, step as progress_step
from probes.statistics import Interval
from probes.subject import HookedModel

N_SEQUENCES = SCORE.default

N_EXACT_NULLS = 20
"""Random models behind the null of a score that is read from parameters alone."""

NULL = "a random model"

Found = Sequence[Measurement] | NotApplicable


@asked
def score(
    model: HookedModel,
    task: Task | str | None = None,
    n_sequences: int = N_SEQUENCES,
    seed: int = 0,
    *,
    claims: Iterable[Claim] = (),
    threshold: float = THRESHOLD,
    quick: bool = False,
    name: str | None = None,
    vocabulary: Vocabulary | None = None,
    progress: bool | None = None,
    algorithm: str | Algorithm | None = None,
    only: str | Iterable[str] | None = None,
) -> Scorecard:
    """Test, layer by layer, whether a model computes its task's algorithm.

    Half of the sequences are for fitting and for every choice, half for scores. Each claim is
    measured at every layer of the model, of a null (the same architecture with random weights) and
    of the ceiling (the analytic construction, where the algorithm has one). Interchange follows
    Geiger et al. (2021), probes have the control tasks of Hewitt & Liang (2019).

    Args:
        model: A hooked model of any depth and width, of this package or not; it is left as it was
            found.
        task: What it is tested on, or its name; by default the task that the model knows.
        n_sequences: At least 64.
        seed: Of the sequences, pairs, controls and resampling.
        claims: Further claims, tested after the family's own; ``mtd_lens.measures`` holds what
            their tests can be made of.
        threshold: What a supported claim's interval must lie above.
        quick: Leave out the slow tests, such as scrubbing, injection and paths, and which algorithm
            of a group it is.
        name: What the scorecard calls the model.
        vocabulary: Which of the model's ids stand for the task's tokens, if they are not the same.
        progress: Whether to show how far it is; by default where somebody looks on, on a terminal
            or in a notebook (see :func:`probes.progress.shown`).
        algorithm: What the model is held against, such as ``"one-step"`` or ``"two-pass"`` on
            mixtures, or an algorithm of the caller's own; by default the family's first.
        only: Which claims, the caller's own among them: ids, or patterns of ids such as
            ``"*.interchange"`` and ``"mixture_weights.*"``. They get the scores and verdicts that
            they get among all.

    Returns:
        Every claim's score, interval, null, ceiling and verdict.

    Raises:
        ArgumentError: Too few sequences, a threshold outside (0, 1), a further claim that is no
            Claim or bears the id of another, a pattern of ids that names none, a vocabulary that
            does not fit, or an algorithm that the family does not have. What a claim's test raises
            comes as it is, with a note that names the claim.
        MemoryLimitError: More sequences than there is memory for.
        ModelError: The model does not fit the task, or no task is known.
        SiteError: The model lacks a hook, or ignores edits of one.
    """
    threshold = checks.number(threshold, "threshold", 0, 1, ArgumentError)
    quick = checks.flag(quick, "quick", ArgumentError)
    further = _distinct([], claims)
    patterns = _patterns(only)
    experiment = Experiment.of(
        model, task, seed, name=name, vocabulary=vocabulary, algorithm=algorithm
    )
    own = _distinct([], experiment.algorithm.claims(experiment.task))
    own_ids = {claim.id for claim in own}
    every = _distinct(own, further)
    experiment = experiment.drawn(n_sequences)
    seed = experiment.seed
    prediction = experiment.causal_model.variables[-1]
    rivals = f"{prediction}.{RIVALS}"
    _check_free(rivals, every)
    left_out = {rivals, *(claim.id for claim in own if claim.slow)} if quick else set()
    ids = [*(claim.id for claim in every), rivals]
    named = _named(ids, patterns, left_out)
    asked_for = named - left_out
    # what is refuted of the predictions limits what can be said of layers
    beside = {id for id in own_ids - left_out if id.startswith(f"{prediction}.")}
    tested = [claim for claim in every if claim.id in asked_for | beside]
    trial = experiment.trial()
    probes.check_editable(experiment.model, experiment.tokens, _edited(tested, trial))

    ceiling = experiment.ceiling()
    n_tests = (2 if ceiling is None else 3) * len(tested)

    def measured(who: Trial) -> list[Found]:
        who.read_for(tested)
        found = []
        for claim in tested:
            found.append(_measured(claim, who))
            progress_step()
        return found

    with part(
        "tests of claims", n_tests
    ):  # what was read of a subject goes before the next one's turn
        trial.read_for(tested)  # what the estimators are held against, in the same pass
        references = from_model(experiment.family, trial)
        of_model = measured(trial)
        for claim, found in zip(tested, of_model, strict=True):
            if claim in further and (best := _chosen(found)):  # said before more is measured
                _scored(claim, best, seed)
        del trial
        null = experiment.null()
        of_null = measured(experiment.trial(null))
        of_ceiling: list[Found | None] = (
            [None] * len(tested) if ceiling is None else [*measured(experiment.trial(ceiling))]
        )
        floors = _floors(tested, of_null, null, experiment)
    parted = list(zip(tested, of_model, floors, of_ceiling, strict=True))
    of_output = [parts for parts in parted if _is_of_output(parts[1])]
    results = {parts[0].id: _decided(*parts, threshold, seed) for parts in of_output}
    refuted = next((id for id, result in results.items() if result.verdict == REFUTED), None)
    results |= {
        parts[0].id: _decided(*parts, threshold, seed, refuted)
        for parts in parted
        if not _is_of_output(parts[1])
    }
    listed = [results[claim.id] for claim in tested if claim.id in asked_for]
    if rivals in asked_for:
        nearest_one = nearest_algorithm(experiment.algorithm, prediction, references, seed)
        listed.insert(len(asked_for & own_ids), nearest_one)
    matrix = tuple(
        _entry(claim, m, seed)
        for claim, found in zip(tested, of_model, strict=True)
        if claim.id in asked_for and not isinstance(found, NotApplicable)
        for m in found
        if m.layer is not None
    )
    return Scorecard(
        **experiment.head,
        claims=tuple(listed),
        matrix=matrix,
        estimators=means(references, seed),
        algorithm=experiment.algorithm.name,
        conclusion=conclusion(experiment.causal_model.variables, listed, matrix),
        quick=quick,
        only=patterns or (),
        left_out=tuple(id for id in ids if id in named & left_out),
        outside_mass=experiment.outside_mass,
    )


def _distinct(known: Sequence[Claim], claims: object) -> list[Claim]:
    """Claims after those that are known, each with an id of its own."""
    listed, made = list(known), "mtd_lens.Claim(id, statement, measure)"
    for claim in checks.listed(claims, "claims", made, ArgumentError, Claim):
        _check_free(claim.id, listed)
        listed.append(claim)
    return listed


def _check_free(id: str, claims: Sequence[Claim]) -> None:
    if id in {claim.id for claim in claims}:
        raise ArgumentError(f"a claim is named {id!r} already. Choose another id.")


def _patterns(only: str | Iterable[str] | None) -> tuple[str, ...] | None:
    """The patterns of ids that are asked for; None for all."""
    if only is None:
        return None
    listed = [only] if isinstance(only, str) else only
    patterns = checks.listed(listed, "only", "claims' ids, or patterns of them", ArgumentError, str)
    if not patterns:
        raise ArgumentError("only names no claim. Leave it out for all of them.")
    return tuple(checks.text(pattern, "a pattern in only", ArgumentError) for pattern in patterns)


def _named(
    ids: Sequence[str], patterns: tuple[str, ...] | None, left_out: AbstractSet[str]
) -> set[str]:
    """Those ids that patterns name, each of them one that is not left out; all without any."""
    found = set() if patterns else {*ids}
    for pattern in patterns or ():
        alike = {id for id in ids if id == pattern or fnmatchcase(id, pattern)}
        if not alike - left_out:
            why = (
                f"quick=True leaves out {', '.join(sorted(alike))}."
                if alike
                else nearest(pattern, ids, limit=len(ids))
            )
            raise ArgumentError(f"only={pattern!r} names no claim that is tested. {why}")
        found |= alike
    return found


def _edited(claims: Iterable[Claim], trial: Trial) -> tuple[str, ...]:
    """The hooks within a block that tests edit, each once."""
    edited = []
    for claim in claims:
        if hasattr(claim.measure, "edits"):
            with naming(claim):
                edited.append(claim.measure.edits(trial))
    listed = [(hooks,) if isinstance(hooks, str) else hooks for hooks in edited]
    return tuple(dict.fromkeys(hook for hooks in listed for hook in hooks))


def _measured(claim: Claim, trial: Trial) -> Found:
    """What a claim's test found, after checking that it is what a test may find."""
    try:
        with naming(claim):
            found = claim.measure(trial)
    except NotApplicable as reason:
        return reason
    listed = isinstance(found, Sequence) and all(isinstance(m, Measurement) for m in found)
    if not listed or not all(math.isfinite(m.selection) for m in found):
        raise ArgumentError(
            f"the test of the claim {claim.id!r} must return a list of mtd_lens.Measurement, each "
            f"with a finite selection; got {found!r}."
        )
    return found


def _chosen(found: Found | None) -> Measurement | None:
    """The layer that a claim is about, if its test could be made."""
    return None if found is None or isinstance(found, NotApplicable) else chosen(found)


def _scored(claim: Claim, measurement: Measurement, seed: int) -> Interval:
    with naming(claim):  # rows of a claim of the caller's own may be of any kind
        return score_of(measurement, seed)


def _floors(
    claims: Sequence[Claim], of_null: Sequence[Found], null: HookedModel, experiment: Experiment
) -> list[Interval | None]:
    """The null's scores: over sequences, or over random models where sequences play no part."""
    seed = experiment.seed
    best_of = [_chosen(found) for found in of_null]
    floors = [
        None if best is None else _scored(claim, best, seed)
        for claim, best in zip(claims, best_of, strict=True)
    ]
    exact = [i for i, best in enumerate(best_of) if best is not None and best.exact]
    drawn = [[floors[i]] for i in exact]
    for number in range(1, N_EXACT_NULLS if exact else 0):
        null = experiment.null(NULL_SEED + seed + number, over=null)
        trial = experiment.trial(null)
        for i, intervals in zip(exact, drawn, strict=True):
            best = _chosen(_measured(claims[i], trial))
            intervals.append(None if best is None else _scored(claims[i], best, seed))
    for i, intervals in zip(exact, drawn, strict=True):
        scores = [interval.score for interval in intervals if interval]
        low, middle, high = np.quantile(scores, [0.025, 0.5, 0.975])
        floors[i] = Interval(float(middle), float(low), float(high))
    return floors


def _decided(
    claim: Claim,
    of_model: Found,
    null: Interval | None,
    of_ceiling: Found | None,
    threshold: float,
    seed: int,
    refuted: str | None = None,
) -> ClaimResult:
    """A claim's result. ``of_ceiling`` is None where the algorithm has no construction."""
    best, built = _chosen(of_model), _chosen(of_ceiling)
    if best is None:
        said = isinstance(of_model, NotApplicable)
        reason = str(of_model) if said else "the variable does not vary"
        return ClaimResult.not_made(claim.id, claim.statement, reason, threshold)
    score = _scored(claim, best, seed)
    ceiling = None if built is None else _scored(claim, built, seed)
    with naming(claim):
        controls = controls_of(best, seed)
    beside = controls if null is None else {NULL: null} | controls
    verdict = decide(score, beside, ceiling, threshold, best.dose, refuted)
    return ClaimResult(
        id=claim.id,
        statement=claim.statement,
        layer=best.layer,
        site=best.site,
        score=score.score,
        low=score.low,
        high=score.high,
        null=None if null is None else null.score,
        null_high=None if null is None else null.high,
        ceiling=None if ceiling is None else ceiling.score,
        threshold=threshold,
        verdict=verdict.name,
        reason=verdict.reason,
        floor=verdict.floor,
        controls=controls,
        dose=best.dose,
        details=best.details,
        rows=rows_of(best),
    )


def _is_of_output(found: Found) -> bool:
    """Whether a claim is of the model's output, and not of a layer."""
    best = _chosen(found)
    return best is not None and best.layer is None


def _entry(claim: Claim, measurement: Measurement, seed: int) -> MatrixEntry:
    found = _scored(claim, measurement, seed)
    assert measurement.layer is not None
    return MatrixEntry(
        **vars(found), claim=claim.id, layer=measurement.layer, site=measurement.site
    )
