"""Score any model on any task: every claim at every layer, beside a null and a ceiling."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

import probes
from mtd_lens.contracts import Claim, Measurement, Task
from mtd_lens.errors import ArgumentError
from mtd_lens.experiment import FEWER_SEQUENCES, NULL_SEED, Experiment
from mtd_lens.questions.estimators import from_model, means
from mtd_lens.results.scorecard import ClaimResult, MatrixEntry, Scorecard
from mtd_lens.trial import Trial
from probes import checks
from probes.memory import within_memory
from probes.statistics import Interval
from probes.subject import HookedModel

N_SEQUENCES = 768
THRESHOLD = 0.8
TIE = 0.01
"""Layers whose score on the fit split is within this of the best tie; the earliest is taken."""

N_EXACT_NULLS = 20
"""Random models behind the null of a score that is read from parameters alone."""

REFERENCE = 1e-6
"""The reference's score, 0, with room for rounding."""

Found = Sequence[Measurement]


@within_memory(FEWER_SEQUENCES)
def score(
    model: HookedModel,
    task: Task | str | None = None,
    n_sequences: int = N_SEQUENCES,
    seed: int = 0,
    *,
    claims: Iterable[Claim] = (),
    threshold: float = THRESHOLD,
    name: str | None = None,
    progress: bool = False,
) -> Scorecard:
    """Test, layer by layer, whether a model computes its task's algorithm.

    Half of the sequences are for fitting and for every choice, half for scores. Each claim is
    measured at every layer of the model, of a null (the same architecture with random weights) and
    of the ceiling (the analytic construction, where the algorithm has one). Interchange follows
    Geiger et al. (2021), probes have the control tasks of Hewitt & Liang (2019).

    Args:
        model: A HookedTransformer of any depth and width, of this package or not; it is left as it
            was found.
        task: What it is tested on, or its name; by default the task that the model knows.
        n_sequences: At least 64.
        seed: Of the sequences, pairs, controls and resampling.
        claims: Further claims, tested after the family's own; ``mtd_lens.measures`` holds what
            their tests can be made of.
        threshold: What a supported claim's interval must lie above.
        name: What the scorecard calls the model.
        progress: Show a progress bar on standard error once two seconds have passed.

    Returns:
        Every claim's score, interval, null, ceiling and verdict.

    Raises:
        ArgumentError: Too few sequences, a threshold outside (0, 1), or a further claim that is no
            Claim or bears the id of another.
        MemoryLimitError: More sequences than there is memory for.
        ModelError: The model does not fit the task, or no task is known.
        SiteError: The model lacks a hook, or ignores edits of one.
    """
    from tqdm.auto import tqdm

    threshold = checks.number(threshold, "threshold", 0, 1, ArgumentError)
    experiment = Experiment.of(model, task, seed, name=name).drawn(n_sequences)
    tested = _all_claims(experiment.algorithm.claims(experiment.task), claims)
    trial = experiment.trial()
    probes.check_editable(model, experiment.tokens, _edited(tested, trial))

    ceiling = experiment.ceiling()
    n_tests = (2 if ceiling is None else 3) * len(tested)
    shown = None if progress else True
    bar = tqdm(total=n_tests, desc="claims", disable=shown, delay=2, leave=False)

    def measured(who: Trial) -> list[Found]:
        who.read_for(tested)
        found = []
        for claim in tested:
            found.append(_measured(claim, who))
            bar.update()
        return found

    with bar:  # what was read of a subject goes before the next one's turn
        trial.read_for(tested)  # what the estimators are held against, in the same pass
        estimators = means(from_model(experiment.family, trial), seed)
        of_model = measured(trial)
        del trial
        null = experiment.null()
        of_null = measured(experiment.trial(null))
        of_ceiling: list[Found | None] = (
            [None] * len(tested) if ceiling is None else [*measured(experiment.trial(ceiling))]
        )
        floors = _floors(tested, of_null, null, experiment)
    results = [
        _decide(*parts, threshold, seed)
        for parts in zip(tested, of_model, floors, of_ceiling, strict=True)
    ]
    return Scorecard(
        **experiment.head,
        claims=tuple(results),
        matrix=tuple(
            _entry(claim, m, seed)
            for claim, found in zip(tested, of_model, strict=True)
            for m in found
            if m.layer is not None
        ),
        estimators=estimators,
        algorithm=experiment.algorithm.name,
    )


def verdict_of(score: Interval, null: Interval, ceiling: Interval | None, threshold: float) -> str:
    """Decide a claim from its interval, the null's and the ceiling's.

    A score of 0 is no better than the reference by definition, so where the null is worse than
    that, the reference stands in for it. A test that the construction fails, or that the null
    passes as well as the model, cannot tell: ``not_diagnostic``. Where there is no construction, a
    claim is held against the null alone.
    """
    floor = max(null.high, REFERENCE)
    if ceiling is not None and ceiling.low <= threshold:
        return "not_diagnostic"
    if score.high < threshold and score.high <= floor:
        return "refuted"
    if floor >= threshold:
        return "not_diagnostic"
    return "supported" if score.low > threshold else "inconclusive"


def _all_claims(own: Sequence[Claim], further: Iterable[Claim]) -> list[Claim]:
    """The family's claims and then the caller's, each with an id of its own."""
    tested = list(own)
    for claim in further if isinstance(further, Iterable) else [None]:
        if not isinstance(claim, Claim):
            raise ArgumentError(
                f"claims must be a list of mtd_lens.Claim(id, statement, measure); got {further!r}."
            )
        if not isinstance(claim.id, str) or not claim.id:
            raise ArgumentError(f"a claim's id must be a text, variable.test; got {claim.id!r}.")
        if claim.id in {known.id for known in tested}:
            raise ArgumentError(f"a claim is named {claim.id!r} already. Choose another id.")
        tested.append(claim)
    return tested


def _edited(claims: Iterable[Claim], trial: Trial) -> tuple[str, ...]:
    """The hooks within a block that tests edit, each once."""
    tests = [claim.measure for claim in claims]
    return tuple(dict.fromkeys(test.edits(trial) for test in tests if hasattr(test, "edits")))


def _measured(claim: Claim, trial: Trial) -> Found:
    """What a claim's test found, after checking that it is what a test may find."""
    found = claim.measure(trial)
    listed = isinstance(found, Sequence) and all(isinstance(m, Measurement) for m in found)
    if not listed or not all(math.isfinite(m.selection) for m in found):
        raise ArgumentError(
            f"the test of the claim {claim.id!r} must return a list of mtd_lens.Measurement, each "
            f"with a finite selection; got {found!r}."
        )
    return found


def _floors(
    claims: Sequence[Claim], of_null: Sequence[Found], null: HookedModel, experiment: Experiment
) -> list[Interval | None]:
    """The null's scores: over sequences, or over random models where sequences play no part."""
    seed = experiment.seed
    floors = [_interval(_choose(found), seed) if found else None for found in of_null]
    exact = [i for i, found in enumerate(of_null) if found and _choose(found).exact]
    drawn = [[floors[i]] for i in exact]
    for number in range(1, N_EXACT_NULLS if exact else 0):
        null = experiment.null(NULL_SEED + seed + number, over=null)
        trial = experiment.trial(null)
        for i, intervals in zip(exact, drawn, strict=True):
            intervals.append(_interval(_choose(_measured(claims[i], trial)), seed))
    for i, intervals in zip(exact, drawn, strict=True):
        scores = [interval.score for interval in intervals if interval]
        low, middle, high = np.quantile(scores, [0.025, 0.5, 0.975])
        floors[i] = Interval(float(middle), float(low), float(high))
    return floors


def _decide(
    claim: Claim,
    of_model: Found,
    null: Interval | None,
    of_ceiling: Found | None,
    threshold: float,
    seed: int,
) -> ClaimResult:
    """A claim's result. ``of_ceiling`` is None where the algorithm has no construction."""
    missing = of_ceiling is not None and not of_ceiling
    if null is None or not of_model or missing:
        nothing: dict[str, Any] = dict.fromkeys(
            ("layer", "site", "score", "low", "high", "null", "null_high", "ceiling")
        )
        return ClaimResult(
            claim.id, claim.statement, threshold=threshold, verdict="not_applicable", **nothing
        )
    chosen = _choose(of_model)
    score = _interval(chosen, seed)
    ceiling = _interval(_choose(of_ceiling), seed) if of_ceiling else None
    details = dict(chosen.details)
    if chosen.control is not None:
        details["random_model"] = null.score
        control = probes.one_minus_ratio(*chosen.control, seed=seed)
        null = max(null, control, key=lambda interval: interval.score)
    return ClaimResult(
        id=claim.id,
        statement=claim.statement,
        layer=chosen.layer,
        site=chosen.site,
        score=score.score,
        low=score.low,
        high=score.high,
        null=null.score,
        null_high=null.high,
        ceiling=None if ceiling is None else ceiling.score,
        threshold=threshold,
        verdict=verdict_of(score, null, ceiling, threshold),
        details=details,
    )


def _choose(found: Found) -> Measurement:
    """The earliest layer among those that are best on the fit split, up to a tie."""
    best = max(m.selection for m in found)
    return next(m for m in found if m.selection >= best - TIE)


def _interval(measurement: Measurement, seed: int) -> Interval:
    if measurement.exact:
        value = 1 - float(measurement.numerator.mean() / measurement.denominator.mean())
        return Interval(value, value, value)
    return probes.one_minus_ratio(measurement.numerator, measurement.denominator, seed=seed)


def _entry(claim: Claim, measurement: Measurement, seed: int) -> MatrixEntry:
    found = _interval(measurement, seed)
    assert measurement.layer is not None
    return MatrixEntry(
        **vars(found), claim=claim.id, layer=measurement.layer, site=measurement.site
    )
