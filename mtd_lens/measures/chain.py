"""Chains: do several variables, swapped together and along the paths between them, act as one?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product

from jaxtyping import Float
from torch import Tensor

import probes
from mtd_lens.claims import Measurement, NotApplicable
from mtd_lens.contracts import last_prediction
from mtd_lens.errors import ArgumentError
from mtd_lens.measures.choice import earliest_best
from mtd_lens.measures.dose import dose
from mtd_lens.measures.interchange import Interchange
from mtd_lens.measures.pairs import Pairs, Rows, further_source, held_at, negligible
from mtd_lens.measures.words import where
from mtd_lens.measures.writing import (
    arriving_at,
    at,
    natural_predictions,
    written_predictions,
)
from mtd_lens.trial import Trial, checked_trial
from probes import checks

LONGEST = 3
"""Stages of a chain at most: beside each base there are so many sources."""


class OfStages:
    """A test of several variables at once.

    Attributes:
        stages: In causal order.
    """

    stages: tuple[Interchange, ...]

    def edits(self, trial: Trial) -> tuple[str, ...]:
        """The hooks within a block that are edited."""
        return tuple(dict.fromkeys(stage.edits(trial) for stage in self.stages))

    def reads(self, trial: Trial) -> list[probes.Site]:
        """What is written to, and the streams from which edited runs go on."""
        return list(dict.fromkeys(site for stage in self.stages for site in stage.reads(trial)))

    def vary(self, trial: Trial) -> bool:
        """Whether every stage has query positions, and swapping it moves the algorithm.

        Args:
            trial: The model under test.
        """
        if not all(checked_trial(trial).positions[stage.queries] for stage in self.stages):
            return False
        found = [stage.pairs(trial, trial.tokens) for stage in self.stages]
        divergence = trial.task.outputs.divergence
        return not any(
            negligible(divergence(pairs.counterfactual, pairs.blind), pairs.counterfactual)
            for pairs in found
        )

    def _scores(self, trial: Trial) -> list[dict[int, float]]:
        """Of each stage, by layer, its score on the fit split."""
        return [stage.selection(trial) for stage in self.stages]

    def _sites(self, trial: Trial, layers: Sequence[int]) -> list[probes.Site]:
        """Each stage's site, at its layer."""
        return [stage.sites(trial)[layer] for stage, layer in zip(self.stages, layers, strict=True)]


@dataclass(frozen=True)
class Path(OfStages):
    """``1 - E [D(counterfactual ‖ through) + D(natural ‖ around)] / E D(counterfactual ‖ blind)``.

    Each variable has the layer that is best for it alone on the fit split. Two runs of each base.
    *Through*: at the later variable's site it holds what arrives there when the earlier one is at
    its source value, and all else is the base's own. This path alone must act as swapping the
    earlier variable. *Around*: the earlier variable's site holds the source's activation, the later
    one's the base's own. All other paths together must do nothing. So a part p that goes around
    costs twice, and a score of 1 says that all goes through.

    Beside it stand the dose that goes through, and a wrong source; in the details, each run by
    itself: ``alone``, the score of the earlier variable's swap with nothing held; ``through``; and
    ``held``, ``1 - E D(natural ‖ around) / E D(natural ‖ alone)``, which is all but 1 where the
    swap does nothing of note, or where no other path leads to the output.

    Attributes:
        early: Swaps the variable whose effect is followed; of ``linear`` values for a dose.
        late: Swaps the variable through which it is to go.

    Examples:
        >>> import mtd_lens
        >>> from mtd_lens import measures
        >>> from mtd_lens.contracts import LAST
        >>> model = mtd_lens.load_model("mtd-q3-m2-t32/constructed-absolute")
        >>> trial = mtd_lens.Experiment.of(model, None, seed=0).drawn(64).trial()
        >>> average = measures.Interchange("mean_responsibility", "attn_out", LAST, linear=True)
        >>> weights = measures.Interchange("mixture_weights", "pattern", LAST)
        >>> [found] = measures.Path(average, weights)(trial)  # from the one through the other
        >>> found.site
        'blocks.1.hook_attn_out at position 31, then blocks.2.attn.hook_pattern at position 31'
        >>> 1 - float(found.numerator.mean() / found.denominator.mean()) > 0.99
        True
    """

    early: Interchange
    late: Interchange

    def __post_init__(self) -> None:
        for name in ("early", "late"):
            checks.instance(getattr(self, name), Interchange, name, ArgumentError)

    @property
    def stages(self) -> tuple[Interchange, ...]:  # type: ignore[override]
        """Both."""
        return self.early, self.late

    def __call__(self, trial: Trial) -> list[Measurement]:
        """One measurement, at the later variable's layer.

        Args:
            trial: The model under test.
        """
        if not self.vary(trial):
            return []
        scores = self._scores(trial)
        layers = [earliest_best(by_layer) for by_layer in scores]
        sites, selection = self._sites(trial, layers), _lowest(scores, layers)
        pairs = self.early.pairs(trial, trial.tokens)
        divergence = trial.task.outputs.divergence
        blind = divergence(pairs.counterfactual, pairs.blind)
        natural = natural_predictions(trial, pairs.base)

        def errors(runs: dict[str, Tensor]) -> Tensor:
            through = divergence(pairs.counterfactual, runs["through"])
            return through + divergence(natural, runs["around"])

        runs = self._runs(trial, pairs, pairs.source, sites)
        controls, found, details = {}, None, {}
        if trial.complete:
            wrong = self._runs(trial, pairs, pairs.wrong, sites)
            controls = {"a wrong source": (errors(wrong), blind)}
            if self.early.linear:
                early = self.early
                found = dose(trial, pairs, early.variable, early.queries, runs["through"])
            moved, around = (divergence(natural, runs[name]).mean() for name in ("alone", "around"))
            details = {
                name: 1 - float(divergence(pairs.counterfactual, runs[name]).mean() / blind.mean())
                for name in ("alone", "through")
            } | {"held": 1 - float(around / moved) if moved > 0 else 1.0}
        return [
            Measurement(
                layer=sites[-1].layer,
                site=_in_words(sites),
                selection=selection,
                numerator=errors(runs),
                denominator=blind,
                controls=controls,
                dose=found,
                details={"pairs": float(len(pairs)), **details},
            )
        ]

    def _runs(
        self, trial: Trial, pairs: Pairs, source: Rows, sites: Sequence[probes.Site]
    ) -> dict[str, Float[Tensor, "pair outcome"]]:
        """Predictions with the earlier swap: alone, around the later site, and through it."""
        early, late = sites
        swap = (early, at(trial, source, early))
        arriving = arriving_at(trial, pairs.base, [swap], late)
        return written_predictions(
            trial,
            pairs.base,
            {
                "around": [swap, (late, at(trial, pairs.base, late))],
                "alone": [swap],
                "through": [(late, arriving)],
            },
        )


@dataclass(frozen=True)
class Chain(OfStages):
    """``1 - E D(counterfactual ‖ patched) / E D(counterfactual ‖ blind)``, all swapped in one run.

    The layers are those that follow each other and whose scores on the fit split, of each variable
    swapped alone, sum to the most. Each variable has a source of its own. The counterfactual is the
    algorithm's prediction with all of them held; the last one settles it, whatever the others'
    sources were. A model in which a part of theirs reaches the output by another way departs from
    it. Blind is without a look at the last one's source. Beside it stand the score of the earlier
    sources (all but the last swapped) as the answer, and the dose: how much of the last source's
    value acts, from 0 where the earlier ones' does.

    Attributes:
        stages: Swaps of two or three variables, in causal order; all given the query, or none. The
            last one is of ``linear`` values for a dose.

    Examples:
        >>> import mtd_lens
        >>> from mtd_lens import measures
        >>> from mtd_lens.contracts import LAST
        >>> model = mtd_lens.load_model("mtd-q3-m2-t32/constructed-absolute")
        >>> trial = mtd_lens.Experiment.of(model, None, seed=0).drawn(64).trial()
        >>> average = measures.Interchange("mean_responsibility", "attn_out", LAST, linear=True)
        >>> weights = measures.Interchange("mixture_weights", "pattern", LAST)
        >>> [found] = measures.Chain((average, weights))(trial)  # both from sources of their own
        >>> 1 - float(found.numerator.mean() / found.denominator.mean()) > 0.99
        True
    """

    stages: tuple[Interchange, ...]

    def __post_init__(self) -> None:
        stages = checks.listed(self.stages, "stages", "interchanges", ArgumentError, Interchange)
        given = {stage.given_query for stage in stages}
        if not 2 <= len(stages) <= LONGEST or len(given) > 1:
            raise ArgumentError(
                f"a chain has 2 to {LONGEST} stages, all given the query or none; got "
                f"{len(stages)}, given_query {sorted(given)}. Test others as chains of their own."
            )
        object.__setattr__(self, "stages", tuple(stages))

    def __call__(self, trial: Trial) -> list[Measurement]:
        """One measurement, at the last variable's layer.

        Args:
            trial: The model under test.

        Raises:
            NotApplicable: There are fewer layers than stages, or the last variable does not settle
                the prediction.
        """
        if not self.vary(trial):
            return []
        scores = self._scores(trial)
        sums = {
            layers: sum(by_layer[n] for by_layer, n in zip(scores, layers, strict=True))
            for layers in product(*scores)
            if all(one < next_one for one, next_one in pairwise(layers))
        }
        if not sums:
            raise NotApplicable(
                f"{len(self.stages)} stages take as many layers, one after another; the model has "
                f"{len(scores[0])}"
            )
        layers = earliest_best(sums)
        sites, selection = self._sites(trial, layers), _lowest(scores, layers)
        last = self.stages[-1]
        pairs = last.pairs(trial, trial.tokens)
        divergence = trial.task.outputs.divergence
        further = further_source(trial, trial.tokens, pairs, given_query=last.given_query)
        sources = [further, pairs.wrong, pairs.source][-len(self.stages) :]
        values = {
            stage.variable: held_at(
                trial.run(rows.tokens)[stage.variable][rows.index], stage.queries
            )
            for stage, rows in zip(self.stages, sources, strict=True)
        }
        tokens, causal = pairs.base.sequences, trial.causal_model
        settled = last_prediction(causal.do(**values), tokens)
        if not negligible(divergence(pairs.counterfactual, settled), settled):
            raise NotApplicable(f"{last.variable} does not settle what is predicted")
        writes = [(site, at(trial, rows, site)) for site, rows in zip(sites, sources, strict=True)]
        patched = written_predictions(trial, pairs.base, {"all": writes})["all"]
        blind = divergence(pairs.counterfactual, pairs.blind)
        controls, found = {}, None
        if trial.complete:
            before = causal.do(**{n: held for n, held in values.items() if n != last.variable})
            earlier = last_prediction(before, tokens)
            controls["the earlier sources"] = (
                divergence(earlier, patched),
                divergence(earlier, pairs.blind),
            )
            if last.linear:
                between = replace(pairs, natural=before.run(tokens)[last.variable])
                found = dose(trial, between, last.variable, last.queries, patched)
        return [
            Measurement(
                layer=sites[-1].layer,
                site=_in_words(sites),
                selection=selection,
                numerator=divergence(pairs.counterfactual, patched),
                denominator=blind,
                controls=controls,
                dose=found,
                details={"pairs": float(len(pairs)), "blind": float(blind.mean())},
            )
        ]


def _lowest(scores: Sequence[Mapping[int, float]], layers: Sequence[int]) -> float:
    return min(by_layer[layer] for by_layer, layer in zip(scores, layers, strict=True))


def _in_words(sites: Sequence[probes.Site]) -> str:
    return ", then ".join(f"{site.hook} at {where(site.positions)}" for site in sites)
