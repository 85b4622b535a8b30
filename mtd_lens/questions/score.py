"""Score any model on any task: every claim at every layer, beside a null and a ceiling."""

import math
import platform
from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib import metadata
from typing import Any

import numpy as np

import probes
from mtd_lens.contracts import Claim, Estimate, Family, Measurement, Trial
from mtd_lens.errors import ArgumentError, ModelError
from mtd_lens.registry import family_of, load_task
from mtd_lens.results.first_form import sources_of
from mtd_lens.results.scorecard import ClaimResult, EstimatorResult, MatrixEntry, Scorecard
from probes import checks
from probes.statistics.intervals import Interval

N_SEQUENCES = 768
MIN_SEQUENCES = 64
THRESHOLD = 0.8
TIE = 0.01
"""Layers whose score on the fit split is within this of the best tie; the earliest is taken."""

N_EXACT_NULLS = 20
"""Random models behind the null of a score that is read from parameters alone."""

REFERENCE = 1e-6
"""The reference's score, 0, with room for rounding."""

NULL_SEED = 1_000_003
"""Seed of the null's weights, far from the seeds that the registry's random models use."""


def score(
    model: Any,
    task: Any = None,
    n_sequences: Any = N_SEQUENCES,
    seed: Any = 0,
    *,
    claims: Any = (),
    threshold: Any = THRESHOLD,
    name: str | None = None,
    progress: bool = False,
) -> Scorecard:
    """Test, layer by layer, whether a model computes its task's algorithm.

    Half of the sequences are for fitting and for every choice, half for scores. Each claim is
    measured at every layer of the model, of a null (the same architecture with random weights) and
    of the ceiling (the analytic construction). Interchange follows Geiger et al. (2021), probes
    have the control tasks of Hewitt & Liang (2019).

    Args:
        model: A HookedTransformer of any depth and width, of this package or not; it is left as it
            was found.
        task: What it is tested on, or its name; by default the task that the model knows.
        n_sequences: At least 64.
        seed: Of the sequences, pairs, controls and resampling.
        claims: A list of further claims, tested after the family's own; ``mtd_lens.measures``
            holds what their tests can be made of.
        threshold: What a supported claim's interval must lie above.
        name: What the scorecard calls the model.
        progress: Show a progress bar on standard error once two seconds have passed.

    Returns:
        Every claim's score, interval, null, ceiling and verdict.

    Raises:
        ArgumentError: Too few sequences, a threshold outside (0, 1), or a further claim that is no
            Claim or bears the id of another.
        ModelError: The model does not fit the task, or no task is known.
        SiteError: The model lacks a hook, or ignores edits of one.
    """
    from tqdm.auto import tqdm

    check_sampling(n_sequences, seed)
    threshold = checks.number(threshold, "threshold", 0, 1, ArgumentError)
    task = task_for(model, task)
    family = family_of(task)
    family.check_model(model, task)
    tested = _all_claims(family.claims(task), claims)
    tokens = task.sample(n_sequences, seed).tokens.to(_device_of(model))
    fit_tokens, tokens = tokens[: n_sequences // 2], tokens[n_sequences // 2 :]
    probes.check_editable(model, tokens, _present(family.edited_hooks, model))

    causal_model = family.fit_causal_model(model, task, fit_tokens)
    subjects = {
        "model": model,
        "null": family.null(model, task, NULL_SEED + seed),
        "ceiling": family.ceiling(task, causal_model).to(_device_of(model), print_details=False),
    }
    trials = {
        who: Trial(subject, task, causal_model, fit_tokens, tokens, seed)
        for who, subject in subjects.items()
    }
    results, matrix = [], []
    for claim in tqdm(
        tested, desc="claims", disable=None if progress else True, delay=2, leave=False
    ):
        found = {who: _measured(claim, trial) for who, trial in trials.items()}
        null = (
            _null_interval(claim, found["null"], trials["null"], family) if found["null"] else None
        )
        results.append(_decide(claim, found, null, threshold, seed))
        matrix += [_entry(claim, m, seed) for m in found["model"] if m.layer is not None]
    estimators = estimator_results(family.estimates(trials["model"]), seed)
    return Scorecard(
        model=name or name_of(model),
        task=task.name or task.to_json(),
        seed=seed,
        n_sequences=n_sequences,
        parameters=causal_model.parameters,
        claims=tuple(results),
        matrix=tuple(matrix),
        estimators=estimators,
        algorithm=sources_of(estimator.name for estimator in estimators)[0],
        divergence=family.divergence,
        versions=versions(),
    )


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    packages = ("mtd-lens", "transformer-lens", "torch")
    return {"python": platform.python_version()} | {p: metadata.version(p) for p in packages}


def verdict_of(score: Interval, null: Interval, ceiling: Interval, threshold: float) -> str:
    """Decide a claim from its interval, the null's and the ceiling's.

    A score of 0 is no better than the reference by definition, so where the null is worse than
    that, the reference stands in for it. A test that the construction fails, or that the null
    passes as well as the model, cannot tell: ``not_diagnostic``.
    """
    floor = max(null.high, REFERENCE)
    if ceiling.low <= threshold:
        return "not_diagnostic"
    if score.high < threshold and score.high <= floor:
        return "refuted"
    if floor >= threshold:
        return "not_diagnostic"
    return "supported" if score.low > threshold else "inconclusive"


def _all_claims(own: Sequence[Claim], further: Any) -> list[Claim]:
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


def _measured(claim: Claim, trial: Trial) -> Sequence[Measurement]:
    """What a claim's test found, after checking that it is what a test may find."""
    found = claim.measure(trial)
    listed = isinstance(found, Sequence) and all(isinstance(m, Measurement) for m in found)
    if not listed or not all(math.isfinite(m.selection) for m in found):
        raise ArgumentError(
            f"the test of the claim {claim.id!r} must return a list of mtd_lens.Measurement, each "
            f"with a finite selection; got {found!r}."
        )
    return found


def _null_interval(
    claim: Claim, measurements: Sequence[Measurement], trial: Trial, family: Family
) -> Interval:
    """The null's score: over sequences, or over random models where sequences play no part."""
    chosen = _choose(measurements)
    if not chosen.exact:
        return _interval(chosen, trial.seed)
    scores = [_interval(chosen, trial.seed).score]
    for index in range(1, N_EXACT_NULLS):
        model = family.null(trial.model, trial.task, NULL_SEED + trial.seed + index)
        found = _measured(claim, replace(trial, model=model))
        scores.append(_interval(_choose(found), trial.seed).score)
    low, middle, high = np.quantile(scores, [0.025, 0.5, 0.975])
    return Interval(float(middle), float(low), float(high))


def _decide(
    claim: Claim,
    found: dict[str, Sequence[Measurement]],
    null: Interval | None,
    threshold: float,
    seed: int,
) -> ClaimResult:
    if null is None or not all(found.values()):
        nothing: dict[str, Any] = dict.fromkeys(
            ("layer", "site", "score", "low", "high", "null", "null_high", "ceiling")
        )
        return ClaimResult(
            claim.id, claim.statement, threshold=threshold, verdict="not_applicable", **nothing
        )
    chosen = {who: _choose(measurements) for who, measurements in found.items()}
    score, ceiling = (_interval(chosen[who], seed) for who in ("model", "ceiling"))
    details = dict(chosen["model"].details)
    control = chosen["model"].control
    if control is not None:
        control_interval = probes.one_minus_ratio(*control, seed=seed)
        details["random_model"] = null.score
        null = max(null, control_interval, key=lambda interval: interval.score)
    return ClaimResult(
        id=claim.id,
        statement=claim.statement,
        layer=chosen["model"].layer,
        site=chosen["model"].site,
        score=score.score,
        low=score.low,
        high=score.high,
        null=null.score,
        null_high=null.high,
        ceiling=ceiling.score,
        threshold=threshold,
        verdict=verdict_of(score, null, ceiling, threshold),
        details=details,
    )


def _choose(measurements: Sequence[Measurement]) -> Measurement:
    """The earliest layer among those that are best on the fit split, up to a tie."""
    best = max(m.selection for m in measurements)
    return next(m for m in measurements if m.selection >= best - TIE)


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


def estimator_results(estimates: Sequence[Estimate], seed: int) -> tuple[EstimatorResult, ...]:
    """Mean divergences with their intervals."""
    intervals = [probes.mean_interval(estimate.divergence, seed=seed) for estimate in estimates]
    best = min((interval.score for interval in intervals), default=0.0)
    return tuple(
        EstimatorResult(
            estimate.name,
            interval.score,
            interval.low,
            interval.high,
            estimate.parameters,
            interval.score == best,
        )
        for estimate, interval in zip(estimates, intervals, strict=True)
    )


def check_sampling(n_sequences: Any, seed: Any) -> None:
    """Raise an ArgumentError for a number of sequences or a seed that cannot be used."""
    n_sequences = checks.integer(n_sequences, "n_sequences", 0, ArgumentError)
    if n_sequences < MIN_SEQUENCES:
        raise ArgumentError(
            f"n_sequences = {n_sequences} is too few for the statistics. "
            f"Use at least {MIN_SEQUENCES}."
        )
    checks.seed(seed, ArgumentError)


def task_for(model: Any, task: Any) -> Any:
    """``task`` or the task of that name, or the one that the model knows."""
    from mtd_lens.hooked import task_of

    if isinstance(model, str):
        raise ModelError(f"expected a model; got the text {model!r}. Use load_model({model!r}).")
    if task is None:
        return task_of(model)
    return load_task(task) if isinstance(task, str) else task


def name_of(model: Any) -> str:
    """What results call a model."""
    from mtd_lens.hooked import info_of

    info = info_of(model)
    return info.name if info else getattr(model.cfg, "model_name", None) or type(model).__name__


def _present(hooks: Sequence[str], model: Any) -> tuple[str, ...]:
    """Those hooks that blocks of this model have: an attention-only one writes no MLP's output."""
    absent = {"hook_mlp_out"} if model.cfg.attn_only else set()
    return tuple(hook for hook in hooks if hook not in absent)


def _device_of(model: Any) -> Any:
    return next(model.parameters()).device
