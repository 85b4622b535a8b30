"""Probes: can a variable be read linearly from a layer?"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import probes
from mtd_lens.claims import Measurement
from mtd_lens.contracts import EVERY
from mtd_lens.measures.pairs import negligible
from mtd_lens.measures.words import hook_of, where
from mtd_lens.trial import Trial, checked_trial
from probes.linear import LEAST_PENALTY, PENALTIES, ROWS_A_FEATURE
from probes.subject import Subject

ATTENTION_AND_STREAM = ("hook_attn_out", "hook_resid_post")

MAX_FURTHER = 2048
"""Sequences that are drawn for a probe's fit at most."""

TIE = 1e-6
"""Cross-validated R² this close differ by rounding alone; the hook that is listed first is taken.
"""


@dataclass(frozen=True)
class Probe:
    """Probes: R² on held-out sequences, beside a control task and the raw tokens.

    R² is that of the best linear map, for infinitely many sequences, and its interval covers that:
    probes are fitted on the split for fits and as many further sequences as they need, and what
    they lose for having been fitted on finitely many is corrected for.

    Attributes:
        variable: Of the causal model, ``[sequence, query, output]``.
        control: The control variable of token sequences, of the same shape:
            ``(causal model, tokens, variable, seed) -> values``.
        window: Tokens up to each query, whose raw features are probed too.
        queries: At which query positions.
        hooks: Within a block; the best one of each layer (cross-validated) is reported.

    Examples:
        >>> import mtd_lens
        >>> from mtd_lens import measures
        >>> from mtd_lens.contracts import LAST
        >>> model = mtd_lens.load_model("mtd-q3-m2-t32/constructed-absolute")
        >>> trial = mtd_lens.Experiment.of(model, None, seed=0).drawn(64).trial()
        >>> from mtd_lens.families.mtd.claims import control_task
        >>> window = trial.task.order + 1
        >>> test = measures.Probe("mean_responsibility", control_task, window, LAST)
        >>> [found.interval.score > 0.99 for found in test(trial)]  # by layer
        [False, True, True]
    """

    variable: str
    control: Callable[[Any, Tensor, str, int], Tensor]
    window: int
    queries: slice = field(default_factory=lambda: EVERY)
    hooks: Sequence[str | Callable[[Subject], str]] = ATTENTION_AND_STREAM

    def reads(self, trial: Trial) -> list[probes.Site]:
        """What is probed.

        Args:
            trial: The model under test.
        """
        checked_trial(trial)
        return [site for sites in self._sites(trial) for site in sites]

    def __call__(self, trial: Trial) -> list[Measurement]:
        """One measurement a layer.

        Args:
            trial: The model under test.
        """
        checked_trial(trial)
        positions = trial.positions[self.queries]
        layers = self._sites(trial)
        more = further(trial, [site for sites in layers for site in sites])
        target = self.target(trial, *more)
        if negligible((target - target.mean((0, 1))).square().sum(-1), target):
            return []
        decoy, baseline = self._decoy(trial, *more), self._raw_score(trial)
        measurements = []
        for layer, sites in enumerate(layers):
            fitted = [
                attainable_errors(read_halves(trial, site, *more), target, decoy) for site in sites
            ]
            found = [own.cross_validated for (own, _), _ in fitted]
            best = next(i for i, value in enumerate(found) if value >= max(found) - TIE)
            (probe, errors), (of_control, control_errors) = fitted[best]
            interval = probes.read_interval(*errors, probe.spread, trial.seed)
            control_interval = probes.read_interval(*control_errors, of_control.spread, trial.seed)
            score, control = interval.score, control_interval.score
            measurements.append(
                Measurement(
                    layer=layer,
                    site=f"{sites[best].hook} at {where(positions)}",
                    selection=probe.cross_validated,
                    numerator=errors[0],
                    denominator=errors[1],
                    controls={"the control task": control_interval},
                    details={
                        "control": control,
                        "selectivity": score - control,
                        "token_window": baseline,
                        "penalty": probe.penalty,
                    },
                    interval=interval,
                )
            )
        return measurements

    def target(self, trial: Trial, *more: Tensor) -> Tensor:
        """The variable on both splits, ``[sequence, query, output]``.

        Args:
            trial: The model under test.
            *more: Further sequences, ``[sequence, position]`` each, between those for fits and
                those for scores.
        """
        checked_trial(trial)
        fit, *others = trial.fit_tokens, *more, trial.tokens
        return trial.memo(
            "target",
            trial.causal_model,
            fit,
            *others,
            self.variable,
            str(self.queries),
            compute=lambda: torch.cat(
                [trial.run(tokens)[self.variable][:, self.queries] for tokens in (fit, *others)]
            ),
        )

    def _decoy(self, trial: Trial, *more: Tensor) -> Tensor:
        causal, seed = trial.causal_model, trial.seed
        parts = (trial.fit_tokens, *more, trial.tokens)
        return trial.memo(
            "decoy",
            self.control,
            causal,
            *parts,
            self.variable,
            str(self.queries),
            seed,
            compute=lambda: self.control(causal, torch.cat(parts), self.variable, seed)[
                :, self.queries
            ],
        )

    def _raw_score(self, trial: Trial) -> float:
        """R² of a probe on the raw tokens of each window."""
        target = self.target(trial)

        def compute() -> float:
            tokens, size = torch.cat(trial.splits), trial.task.inputs.size
            raw = probes.raw_features(tokens, trial.positions, self.window, size)
            halves = raw[:, self.queries].split([len(half) for half in trial.splits])
            [(_, errors)] = probe_errors(halves, target)
            return share_read(errors)

        return trial.memo("raw score", target, self.window, compute=compute)

    def _sites(self, trial: Trial) -> list[list[probes.Site]]:
        return probed_sites(trial, self.hooks, self.queries)


def probed_sites(
    trial: Trial, hooks: Sequence[str | Callable[[Subject], str]], queries: slice
) -> list[list[probes.Site]]:
    """For each layer, a site a hook.

    Args:
        trial: The model under test.
        hooks: Within a block.
        queries: At which query positions.
    """
    positions = trial.positions[queries]
    return [
        [probes.Site(f"blocks.{layer}.{hook_of(hook, trial)}", positions) for hook in hooks]
        for layer in range(trial.n_layers)
    ]


def further(trial: Trial, sites: Sequence[probes.Site]) -> tuple[Tensor, ...]:
    """Sequences to fit on beside the trial's own, until there are enough rows a feature.

    None for a null or a ceiling, whose scores need no narrow interval.

    Args:
        trial: The model under test.
        sites: What will be probed; what further sequences have there is read in one pass.

    Returns:
        None, or one tensor, ``[sequence, position]``.
    """
    if not trial.complete:
        return ()
    shapes = [values.shape for values in trial.read(trial.fit_tokens, sites)]
    needed = max((ROWS_A_FEATURE * d / max(p, 1) for _, p, d in shapes), default=0.0)
    missing = min(math.ceil(needed) - len(trial.fit_tokens), MAX_FURTHER)
    if missing <= 0:
        return ()
    tokens = trial.more(missing)
    trial.natural(tokens).read(sites)
    return (tokens,)


def read_halves(trial: Trial, site: probes.Site, *more: Tensor) -> list[Tensor]:
    """Activations at a site on the split for fits, with further ones, and on that for scores."""
    fit = torch.cat([trial.read(tokens, [site])[0] for tokens in (trial.fit_tokens, *more)])
    return [fit, *trial.read(trial.tokens, [site])]


def attainable_errors(
    halves: Sequence[Tensor], *targets: Tensor
) -> list[tuple[probes.RidgeProbe, tuple[Tensor, Tensor]]]:
    """Probes fitted on the first half, and estimates of the best linear maps' errors on the other.

    With enough rows a feature the penalty is the least one: what a larger one shrinks would be
    missing from R².

    Args:
        halves: Features, ``[sequence, position, feature]`` each.
        targets: Variables on all sequences, ``[sequence, position, output]`` each.
    """
    fit, test = halves
    n_rows, n_features = fit.shape[0] * fit.shape[1], fit.shape[2]
    penalties = LEAST_PENALTY if n_rows >= ROWS_A_FEATURE // 4 * n_features else PENALTIES
    fitted = probes.fit_ridges(fit, [target[: len(fit)] for target in targets], penalties)
    return [
        (probe, probe.attainable_errors(test, target[len(fit) :]))
        for probe, target in zip(fitted, targets, strict=True)
    ]


def probe_errors(
    halves: Sequence[Tensor], *targets: Tensor
) -> list[tuple[probes.RidgeProbe, tuple[Tensor, Tensor]]]:
    """Probes fitted on the first half of sequences, and their errors on the other.

    Args:
        halves: Features, ``[sequence, position, feature]`` each.
        targets: Variables on all sequences, ``[sequence, position, output]`` each.
    """
    fit, test = halves
    fitted = probes.fit_ridges(fit, [target[: len(fit)] for target in targets])
    return [
        (probe, probe.errors(test, target[len(fit) :]))
        for probe, target in zip(fitted, targets, strict=True)
    ]


def share_read(errors: tuple[Tensor, Tensor]) -> float:
    """R² from a probe's errors and deviations."""
    residual, deviation = errors
    return 1 - float(residual.mean() / deviation.mean())
