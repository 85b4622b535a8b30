"""Scrubbing: does anything but the variable pass through a layer?"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

import probes
from mtd_lens.claims import Measurement, NotApplicable
from mtd_lens.contracts import BUT_LAST
from mtd_lens.measures.choice import earliest_best
from mtd_lens.measures.matches import Matches, matched_positions, matched_sources
from mtd_lens.measures.words import where
from mtd_lens.measures.writing import (
    WritesAtLayers,
    at,
    natural_predictions,
    written_predictions,
)
from mtd_lens.trial import Trial, checked_trial
from probes.subject import Subject

PASSES = 0.1
"""A random source must move predictions by this share of what it moves the algorithm's by; or else
nothing passes there, and there is nothing to scrub."""


@dataclass(frozen=True)
class Scrubbing(WritesAtLayers):
    """``1 - E D(natural ‖ scrubbed) / E D(natural ‖ random source)``.

    The scrubbed run holds the activation of a source whose value of the variable is nearly the
    base's own, and in which all else is different. Where the score is 1 nothing else passes; it
    says nothing of how much of the variable does. Beside it stand the distance of the matches and
    what so near a match can reach at all (the noise floor).

    Given the query a source is another sequence's context under the base's own last tokens, nearest
    in the variable at the last query. At evidence positions each position has a source of its own,
    whose window differs from the base's.

    Attributes:
        variable: Of the causal model.
        hook: Within a block, all heads.
        queries: At which query positions.
        window: Tokens up to each position that the variable is a function of, for variables at
            evidence positions; None for one that is read at the last query, given the query.

    Examples:
        >>> import mtd_lens
        >>> from mtd_lens import measures
        >>> from mtd_lens.contracts import BUT_LAST
        >>> model = mtd_lens.load_model("mtd-q3-m2-t32/constructed-absolute")
        >>> trial = mtd_lens.Experiment.of(model, None, seed=0).drawn(64).trial()
        >>> window = trial.task.order + 1
        >>> test = measures.Scrubbing("responsibilities", "attn_out", BUT_LAST, window)
        >>> [found.layer for found in test(trial)]  # where anything passes
        [0]
    """

    variable: str
    hook: str | Callable[[Subject], str]
    queries: slice = field(default_factory=lambda: BUT_LAST)
    window: int | None = None

    def __call__(self, trial: Trial) -> list[Measurement]:
        """One measurement for each layer through which something passes.

        Args:
            trial: The model under test.

        Raises:
            NotApplicable: Nothing passes at any layer, or no match is near enough.
        """
        checked_trial(trial)
        if not trial.positions[self.queries]:
            return []
        fit, found = (self._matches(trial, split) for split in trial.splits)
        sites = self.sites(trial)
        fit_errors = self._errors(trial, fit, sites)
        moved = {n: float(random.mean()) for n, (_, random) in fit_errors.items()}
        sites = {n: site for n, site in sites.items() if moved[n] >= PASSES * fit.effect}
        if not sites:
            raise NotApplicable("the activation of a random source moves predictions at no layer")
        selection = {n: 1 - float(fit_errors[n][0].mean() / fit_errors[n][1].mean()) for n in sites}
        if not trial.complete:
            best = earliest_best(selection)
            sites = {best: sites[best]}
        errors = self._errors(trial, found, sites)
        floor = self._noise_floor(trial, found)
        return [
            Measurement(
                layer=layer,
                site=f"{site.hook} at {where(site.positions)}",
                selection=selection[layer],
                numerator=errors[layer][0],
                denominator=errors[layer][1],
                details={
                    "distance_of_matches": found.distance,
                    "noise_floor": floor,
                    "moved_by_random_source": float(errors[layer][1].mean()) / found.effect,
                },
            )
            for layer, site in sites.items()
        ]

    def _matches(self, trial: Trial, split: Tensor) -> Matches:
        """Sources of one split's bases, the same for the model, the null and the ceiling."""
        if self.window is None:
            return matched_sources(trial, split, self.variable, self.queries)
        return matched_positions(trial, split, self.variable, self.queries, self.window)

    def _errors(
        self, trial: Trial, matches: Matches, sites: Mapping[int, probes.Site]
    ) -> dict[int, tuple[Tensor, Tensor]]:
        """By layer, divergence from the natural prediction: scrubbed, and of a random source."""
        writes = {}
        for layer, site in sites.items():
            for name, source in (("near", matches.near), ("random", matches.random)):
                writes[f"{layer} {name}"] = [(site, at(trial, source, site))]
        found = written_predictions(trial, matches.base, writes)
        natural = natural_predictions(trial, matches.base)
        divergence = trial.task.outputs.divergence
        return {
            layer: (
                divergence(natural, found[f"{layer} near"]),
                divergence(natural, found[f"{layer} random"]),
            )
            for layer in sites
        }

    def _noise_floor(self, trial: Trial, matches: Matches) -> float:
        """What is left of the effect where nothing but the variable passes, for so near a match.

        Of the model's own outputs; for sources that are put together, which no model reads, of the
        algorithm's.
        """
        if self.window is not None:
            return matches.floor
        natural, near, random = (
            natural_predictions(trial, rows)
            for rows in (matches.base, matches.near, matches.random)
        )
        divergence = trial.task.outputs.divergence
        moved = divergence(natural, random).mean()
        return float(divergence(natural, near).mean() / moved) if moved > 0 else 0.0
