"""Injection: does the algorithm's own value, written into a layer, act as the algorithm says?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

import probes
from mtd_lens.claims import Code, Errors, Measurement
from mtd_lens.contracts import LAST
from mtd_lens.measures.choice import earliest_best
from mtd_lens.measures.pairs import N_SELECTION_PAIRS, Pairs, Rows, negligible, pairs_of
from mtd_lens.measures.words import where
from mtd_lens.measures.writing import WritesAtLayers, at, written_predictions
from mtd_lens.trial import Trial, checked_trial
from probes.subject import Subject

RANK = 1e-6
"""Directions smaller than this share of the largest are rounding."""

Key = TypeVar("Key")
Change = Float[Tensor, "pair position entry"]
"""Source minus base, of a code or of an activation."""


@dataclass(frozen=True)
class Injection(WritesAtLayers):
    """``1 - E D(counterfactual ‖ injected) / E D(counterfactual ‖ blind)``.

    To the base's activation is added ``(x_source - x_base) W``: x is the variable, or a code of it
    that the algorithm declares, and W a linear map fitted on other pairs. No activation of the
    source is used, so that nothing but what is written can do the work. Beside it stand random
    directions of the same size, a permuted map and a wrong source; in the details, rivals' codes,
    and swaps of the subspace that W writes to, of its complement and of one that was fitted to
    noise. In a site of few dimensions the last carries as much: a swap of a subspace alone shows
    only that the site has few.

    Near the output any model that predicts alike passes, so the earliest layer counts, and the one
    before must fail.

    Attributes:
        variable: Of the causal model.
        hook: Within a block, all heads.
        queries: At which query positions.
        given_query: Sources share the query's own tokens with their base.

    Examples:
        >>> import mtd_lens
        >>> from mtd_lens import measures
        >>> from mtd_lens.contracts import LAST
        >>> model = mtd_lens.load_model("mtd-q3-m2-t32/constructed-absolute")
        >>> trial = mtd_lens.Experiment.of(model, None, seed=0).drawn(64).trial()
        >>> test = measures.Injection("mean_responsibility", "attn_out", LAST, given_query=True)
        >>> max(test(trial), key=lambda found: found.selection).layer
        1
    """

    variable: str
    hook: str | Callable[[Subject], str]
    queries: slice = field(default_factory=lambda: LAST)
    given_query: bool = False

    def __call__(self, trial: Trial) -> list[Measurement]:
        """One measurement a layer.

        Args:
            trial: The model under test.
        """
        checked_trial(trial)
        positions = trial.positions[self.queries]
        if not positions:
            return []
        sites = self.sites(trial)
        fit, test = (_Injected(self, trial, self._pairs(trial, split)) for split in trial.splits)
        if negligible(test.blind, test.pairs.counterfactual):
            return []
        codes = self._codes(trial)
        own = [code for code in codes if not code.rival]
        maps = {(n, code.name): fit.map_of(code, site) for n, site in sites.items() for code in own}
        few = _Injected(self, trial, fit.pairs.first(N_SELECTION_PAIRS))
        scores = few.scores(
            {
                (n, code.name): (site, few.change(code) @ maps[n, code.name])
                for n, site in sites.items()
                for code in own
            }
        )
        chosen = {n: max(own, key=lambda code: scores[n, code.name]) for n in sites}
        selection = {n: scores[n, code.name] for n, code in chosen.items()}
        best = earliest_best(selection)
        measured = sites if trial.complete else {best: sites[best]}
        errors = test.errors(
            {
                n: (site, test.change(chosen[n]) @ maps[n, chosen[n].name])
                for n, site in measured.items()
            }
        )
        controls: dict[str, Errors] = {}
        details: dict[str, float | str] = {}
        if trial.complete:
            beside = _Beside(fit, test, sites[best], chosen[best])
            controls = {name: (error, test.blind) for name, error in beside.controls().items()}
            details |= beside.details(codes)
            if best - 1 in errors:
                details["layer before"] = test.score(errors[best - 1])
        return [
            Measurement(
                layer=layer,
                site=f"{site.hook} at {where(positions)}",
                selection=selection[layer],
                numerator=errors[layer],
                denominator=test.blind,
                controls=controls if layer == best else {},
                details={"code": chosen[layer].name} | (details if layer == best else {}),
            )
            for layer, site in measured.items()
        ]

    def _pairs(self, trial: Trial, split: Tensor) -> Pairs:
        return pairs_of(
            trial, split, self.variable, self.queries,
            given_query=self.given_query, n_bases=len(split),
        )  # fmt: skip

    def _codes(self, trial: Trial) -> list[Code]:
        """The variable as it is, and the codes that the algorithm declares for it."""
        declared = None if trial.algorithm is None else trial.algorithm.codes
        plain = Code(self.variable, self.variable, lambda causal, t: causal.run(t)[self.variable])
        further = [] if declared is None else declared(trial.task)
        return [plain, *(code for code in further if code.variable == self.variable)]


@dataclass(frozen=True)
class _Injected:
    """Runs of a test's bases with something added to their activations."""

    test: Injection
    trial: Trial
    pairs: Pairs

    @cached_property
    def blind(self) -> Float[Tensor, " pair"]:
        """Divergence of the counterfactual from the best answer without a look at the source."""
        return self.trial.task.outputs.divergence(self.pairs.counterfactual, self.pairs.blind)

    def change(self, code: Code, source: Rows | None = None) -> Change:
        """By how much a code differs between source and base."""
        causal, queries = self.trial.causal_model, self.test.queries
        source, base = self.pairs.source if source is None else source, self.pairs.base

        def coded(rows: Rows) -> Tensor:
            return code.values(causal, rows.sequences)[:, queries]

        found: Change = self.trial.memo(
            "coded", causal, source, base, code.name, compute=lambda: coded(source) - coded(base)
        )
        return found

    def moved(self, site: probes.Site) -> Change:
        """By how much the activation at a site differs between source and base."""
        source, base = (at(self.trial, r, site) for r in (self.pairs.source, self.pairs.base))
        return source.double() - base.double()

    def map_of(self, code: Code, site: probes.Site) -> Float[Tensor, "entry component"]:
        """What change of the activation goes with a change of the code."""
        return _fitted(self.change(code), self.moved(site))

    def errors(
        self, changes: Mapping[Key, tuple[probes.Site, Change]]
    ) -> dict[Key, Float[Tensor, " pair"]]:
        """By key, divergence from the counterfactual with a change added at a site."""
        names = {f"{index}": key for index, key in enumerate(changes)}
        writes = {}
        for name, key in names.items():
            site, change = changes[key]
            writes[name] = [(site, at(self.trial, self.pairs.base, site).double() + change)]
        found = written_predictions(self.trial, self.pairs.base, writes)
        divergence = self.trial.task.outputs.divergence
        return {names[n]: divergence(self.pairs.counterfactual, p) for n, p in found.items()}

    def scores(self, changes: Mapping[Key, tuple[probes.Site, Change]]) -> dict[Key, float]:
        """By key, the score of a change added at a site."""
        return {key: self.score(error) for key, error in self.errors(changes).items()}

    def score(self, errors: Float[Tensor, " pair"]) -> float:
        """Of errors, over blind."""
        return 1 - float(errors.mean() / self.blind.mean())


@dataclass(frozen=True)
class _Beside:
    """What stands beside an injection at a site: controls, rivals, and swaps of subspaces."""

    fit: _Injected
    test: _Injected
    site: probes.Site
    code: Code

    def controls(self) -> dict[str, Float[Tensor, " pair"]]:
        """Errors of what must not act as the hypothesis's own value does, by name."""
        weights, change = self.fit.map_of(self.code, self.site), self.test.change(self.code)
        written = change @ weights
        noise = torch.randn(written.shape, generator=self._generator(), dtype=torch.float64)
        noise = noise.to(written)
        size = written.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
        changes = {
            "random directions": noise * size,
            "a permuted map": change @ weights.roll(1, 0),
            "a wrong source": self.test.change(self.code, self.test.pairs.wrong) @ weights,
        }
        return self.test.errors({name: (self.site, change) for name, change in changes.items()})

    def details(self, codes: Sequence[Code]) -> dict[str, float]:
        """Scores of every code, and of subspaces swapped alone."""
        own, noise = _span(self.fit.map_of(self.code, self.site)), self._fitted_to_noise()
        moved = self.test.moved(self.site)
        changes = {
            f"injected: {code.name}": self.test.change(code) @ self.fit.map_of(code, self.site)
            for code in codes
        } | {
            "swapped: whole site": moved,
            f"swapped: subspace of {own.shape[1]}": moved @ own @ own.T,
            "swapped: its complement": moved - moved @ own @ own.T,
            f"swapped: {noise.shape[1]} fitted to noise": moved @ noise @ noise.T,
        }
        return self.test.scores({name: (self.site, change) for name, change in changes.items()})

    def _fitted_to_noise(self) -> Float[Tensor, "component direction"]:
        """What a map writes to that was fitted to codes of pairs in another order."""
        order = torch.randperm(len(self.fit.pairs), generator=self._generator())
        return _span(_fitted(self.fit.change(self.code)[order], self.fit.moved(self.site)))

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.test.trial.seed)


def _fitted(
    change: Float[Tensor, "pair position entry"], moved: Float[Tensor, "pair position component"]
) -> Float[Tensor, "entry component"]:
    """The least-squares map, of least norm where entries depend on each other."""
    x, y = change.flatten(0, 1), moved.flatten(0, 1)
    return torch.linalg.pinv(x.T @ x, hermitian=True, rtol=RANK) @ (x.T @ y)


def _span(weights: Float[Tensor, "entry component"]) -> Float[Tensor, "component direction"]:
    """An orthonormal basis of what a map writes to."""
    _, sizes, directions = torch.linalg.svd(weights, full_matrices=False)
    return directions[sizes > RANK * sizes.max()].T
