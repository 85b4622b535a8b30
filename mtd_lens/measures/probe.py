"""Probes: can a variable be read linearly from a layer?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

import probes
from mtd_lens.contracts import EVERY, Measurement
from mtd_lens.measures.pairs import negligible
from mtd_lens.measures.words import hook_of, where
from mtd_lens.trial import Trial, checked_trial
from probes.subject import Subject

ATTENTION_AND_STREAM = ("hook_attn_out", "hook_resid_post")

_TIE = 1e-6
"""Cross-validated R² this close differ by rounding alone; the hook that is listed first is taken.
"""


@dataclass(frozen=True)
class Probe:
    """Ridge probes: R² on held-out sequences, beside a control task and the raw tokens.

    Attributes:
        variable: Of the causal model, ``[sequence, query, output]``.
        control: The control variable of token sequences, of the same shape:
            ``(causal model, tokens, variable, seed) -> values``.
        window: Tokens up to each query, whose raw features are probed too.
        queries: At which query positions.
        hooks: Within a block; the best one of each layer (cross-validated) is reported.
    """

    variable: str
    control: Callable[[Any, Tensor, str, int], Tensor]
    window: int
    queries: slice = field(default_factory=lambda: EVERY)
    hooks: Sequence[str | Callable[[Subject], str]] = ATTENTION_AND_STREAM

    def reads(self, trial: Trial) -> list[probes.Site]:
        """What is probed."""
        checked_trial(trial)
        return [site for sites in self._sites(trial) for site in sites]

    def __call__(self, trial: Trial) -> list[Measurement]:
        """One measurement a layer.

        Args:
            trial: The model under test.
        """
        checked_trial(trial)
        positions = trial.positions[self.queries]
        target = self.target(trial)
        if negligible((target - target.mean((0, 1))).square().sum(-1), target):
            return []
        decoy, baseline = self._decoy(trial), self._raw_score(trial, target)
        measurements = []
        for layer, sites in enumerate(self._sites(trial)):
            fitted = [probe_errors(read_halves(trial, site), target, decoy) for site in sites]
            found = [own.cross_validated for (own, _), _ in fitted]
            best = next(i for i, value in enumerate(found) if value >= max(found) - _TIE)
            (probe, errors), (_, control_errors) = fitted[best]
            score, control = share_read(errors), share_read(control_errors)
            measurements.append(
                Measurement(
                    layer=layer,
                    site=f"{sites[best].hook} at {where(positions)}",
                    selection=probe.cross_validated,
                    numerator=errors[0],
                    denominator=errors[1],
                    controls={"the control task": control_errors},
                    details={
                        "control": control,
                        "selectivity": score - control,
                        "token_window": baseline,
                        "penalty": probe.penalty,
                    },
                )
            )
        return measurements

    def target(self, trial: Trial) -> Tensor:
        """The variable on both splits, ``[sequence, query, output]``."""
        checked_trial(trial)
        return trial.memo(
            "target",
            trial.causal_model,
            *trial.splits,
            self.variable,
            str(self.queries),
            compute=lambda: torch.cat(
                [trial.run(tokens)[self.variable][:, self.queries] for tokens in trial.splits]
            ),
        )

    def _decoy(self, trial: Trial) -> Tensor:
        causal, seed = trial.causal_model, trial.seed
        return trial.memo(
            "decoy",
            self.control,
            causal,
            *trial.splits,
            self.variable,
            str(self.queries),
            seed,
            compute=lambda: self.control(causal, torch.cat(trial.splits), self.variable, seed)[
                :, self.queries
            ],
        )

    def _raw_score(self, trial: Trial, target: Tensor) -> float:
        """R² of a probe on the raw tokens of each window."""

        def compute() -> float:
            tokens, size = torch.cat(trial.splits), trial.task.inputs.size
            raw = probes.raw_features(tokens, trial.positions, self.window, size)
            halves = raw[:, self.queries].split([len(half) for half in trial.splits])
            [(_, errors)] = probe_errors(halves, target)
            return share_read(errors)

        return trial.memo("raw score", target, self.window, compute=compute)

    def _sites(self, trial: Trial) -> list[list[probes.Site]]:
        """For each layer, a site a hook."""
        positions = trial.positions[self.queries]
        return [
            [
                probes.Site(f"blocks.{layer}.{hook_of(hook, trial)}", positions)
                for hook in self.hooks
            ]
            for layer in range(trial.n_layers)
        ]


def read_halves(trial: Trial, site: probes.Site) -> list[Tensor]:
    """Activations at a site on the split for fits and on that for scores."""
    return [trial.read(tokens, [site])[0] for tokens in trial.splits]


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
