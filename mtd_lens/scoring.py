"""Score any model on any task: every claim at every layer, beside a null and a ceiling."""

import platform
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import probes
from mtd_lens.contracts import Claim, Estimate, Measurement, Trial
from mtd_lens.errors import ArgumentError
from mtd_lens.registry import family_of
from mtd_lens.scorecard import ClaimResult, EstimatorResult, MatrixEntry, Scorecard
from probes.statistics import Interval

N_SEQUENCES = 768
MIN_SEQUENCES = 64
THRESHOLD = 0.8
TIE = 0.01
"""Layers whose score on the fit split is within this of the best tie; the earliest is taken."""

REFERENCE = 1e-6
"""The reference's score, 0, with room for rounding."""

NULL_SEED = 1_000_003
"""Seed of the null's weights, far from the seeds that the registry's random models use."""

EDITED_HOOKS = ("hook_attn_out", "attn.hook_pattern")


def score(
    model: Any,
    task: Any = None,
    n_sequences: int = N_SEQUENCES,
    seed: int = 0,
    *,
    threshold: float = THRESHOLD,
    progress: bool = False,
) -> Scorecard:
    """Test, layer by layer, whether a model computes its task's algorithm.

    Half of the sequences are for fitting and for every choice, half for scores. Each claim is
    measured at every layer of the model, of a null (the same architecture with random weights) and
    of the ceiling (the analytic construction).

    Args:
        model: A HookedTransformer of any depth and width, of this package or not; it is left as it
            was found.
        task: What it is tested on; by default the task that the model knows.
        n_sequences: At least 64.
        seed: Of the sequences, pairs, controls and resampling.
        threshold: What a supported claim's interval must lie above.
        progress: Show a progress bar on standard error once two seconds have passed.

    Raises:
        ArgumentError: Too few sequences, or a threshold outside (0, 1).
        ModelError: The model does not fit the task, or no task is known.
        SiteError: The model lacks a hook, or ignores edits of one.
    """
    from tqdm.auto import tqdm

    check_sampling(n_sequences, seed)
    if not 0 < threshold < 1:
        raise ArgumentError(f"threshold must lie between 0 and 1; got {threshold!r}.")
    task = task_for(model, task)
    family = family_of(task)
    family.check_model(model, task)
    tokens = task.sample(n_sequences, seed).tokens.to(_device_of(model))
    fit_tokens, tokens = tokens[: n_sequences // 2], tokens[n_sequences // 2 :]
    probes.check_editable(model, tokens, EDITED_HOOKS)

    causal_model = family.fit_causal_model(model, task, fit_tokens)
    subjects = {
        "model": model,
        "null": family.null(model, task, NULL_SEED + seed),
        "ceiling": family.ceiling(task, causal_model).to(_device_of(model), print_details=False),
    }
    trials = {
        name: Trial(subject, task, causal_model, fit_tokens, tokens, seed)
        for name, subject in subjects.items()
    }
    results, matrix = [], []
    claims = family.claims(task)
    for claim in tqdm(
        claims, desc="claims", disable=None if progress else True, delay=2, leave=False
    ):
        found = {name: claim.measure(trial) for name, trial in trials.items()}
        results.append(_decide(claim, found, threshold, seed))
        matrix += [_entry(claim, m, seed) for m in found["model"] if m.layer is not None]
    return Scorecard(
        model=name_of(model),
        task=task.name or task.to_json(),
        seed=seed,
        n_sequences=n_sequences,
        parameters=causal_model.parameters,
        claims=tuple(results),
        matrix=tuple(matrix),
        estimators=estimator_results(family.estimates(trials["model"]), seed),
        versions=versions(),
    )


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    packages = ("mtd-lens", "transformer-lens", "torch")
    return {"python": platform.python_version()} | {p: metadata.version(p) for p in packages}


def verdict_of(score: Interval, null: Interval, ceiling: Interval, threshold: float) -> str:
    """Decide a claim from its interval, the null's and the ceiling's.

    A score of 0 is no better than the reference by definition, so where the null is worse than
    that, the reference stands in for it. A test that the null passes, or that the construction
    fails, cannot tell: ``not_diagnostic``.
    """
    floor = max(null.high, REFERENCE)
    if floor >= threshold or ceiling.low <= threshold:
        return "not_diagnostic"
    if score.low > threshold:
        return "supported"
    return "refuted" if score.high <= floor else "inconclusive"


def _decide(
    claim: Claim, found: dict[str, Sequence[Measurement]], threshold: float, seed: int
) -> ClaimResult:
    if not all(found.values()):
        nothing: dict[str, Any] = dict.fromkeys(
            ("layer", "site", "score", "low", "high", "null", "null_high", "ceiling")
        )
        return ClaimResult(
            claim.id, claim.statement, threshold=threshold, verdict="not_applicable", **nothing
        )
    chosen = {name: _choose(measurements) for name, measurements in found.items()}
    score, null, ceiling = (_interval(chosen[name], seed) for name in ("model", "null", "ceiling"))
    details = dict(chosen["model"].details)
    control = chosen["model"].control
    if control is not None:
        control_interval = probes.one_minus_ratio(*control, seed=seed)
        details["random_model"] = null.score
        null = max(null, control_interval, key=lambda interval: interval.high)
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
        claim.id, measurement.layer, measurement.site, found.score, found.low, found.high
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


def check_sampling(n_sequences: Any, seed: Any, minimum: int = MIN_SEQUENCES) -> None:
    """Raise an ArgumentError for a number of sequences or a seed that cannot be used."""
    if isinstance(n_sequences, bool) or not isinstance(n_sequences, int):
        raise ArgumentError(f"n_sequences must be an integer; got {n_sequences!r}.")
    if n_sequences < minimum:
        raise ArgumentError(
            f"n_sequences = {n_sequences} is too few for the statistics. Use at least {minimum}."
        )
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ArgumentError(f"seed must be an integer of at least 0; got {seed!r}.")


def task_for(model: Any, task: Any) -> Any:
    """``task``, or the one that the model knows."""
    from mtd_lens.hooked import task_of

    return task_of(model) if task is None else task


def name_of(model: Any) -> str:
    """What results call a model."""
    from mtd_lens.hooked import info_of

    info = info_of(model)
    return info.name if info else getattr(model.cfg, "model_name", None) or type(model).__name__


def _device_of(model: Any) -> Any:
    return next(model.parameters()).device
