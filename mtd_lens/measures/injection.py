"""Injection: does the algorithm's own value, written into a layer, act as the algorithm says?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

import probes
from mtd_lens.contracts import LAST, Code, Errors, Measurement
from mtd_lens.measures.choice import earliest_best
from mtd_lens.measures.pairs import Pairs, Rows, negligible, pairs_of
from mtd_lens.measures.words import hook_of, where
from mtd_lens.measures.writing import at, layer_sites, written_predictions
from mtd_lens.trial import Trial, checked_trial
from probes.interchange import streams_of
from probes.subject import Subject

RANK = 1e-6
"""Directions smaller than this share of the largest are rounding."""

Change = Float[Tensor, "pair position component"]
"""Source minus base, of an activation or of a code."""


@dataclass(frozen=True)
class Injection:
    """``1 - E D(counterfactual ‖ injected) / E D(counterfactual ‖ blind)``.

    To the base's activation is added ``(x_source - x_base) W``: x is the variable, or a code of it
    that the algorithm declares, and W a linear map fitted on other pairs. No activation of the
    source is used, so that nothing but what is written can do the work. Beside it stand random
    directions of the same size, a permuted map and a wrong source; in the details, rivals' codes,
    and the subspace that W writes to, its complement and one fitted to noise, swapped alone.

    Near the output any model that predicts alike passes, so the earliest layer counts, and the one
    before must fail.

    Attributes:
        variable: Of the causal model.
        hook: Within a block, all heads.
        queries: At which query positions.
        given_query: Sources share the query's own tokens with their base.
    """

    variable: str
    hook: str | Callable[[Subject], str]
    queries: slice = field(default_factory=lambda: LAST)
    given_query: bool = False

    def edits(self, trial: Trial) -> str:
        """The hook within a block that is edited."""
        checked_trial(trial)
        return hook_of(self.hook, trial)

    def reads(self, trial: Trial) -> list[probes.Site]:
        """What is written to, and the streams from which edited runs go on."""
        checked_trial(trial)
        if not trial.positions[self.queries]:
            return []
        return [*self._sites(trial).values(), *streams_of(trial.model)]

    def __call__(self, trial: Trial) -> list[Measurement]:
        """One measurement a layer.

        Args:
            trial: The model under test.
        """
        checked_trial(trial)
        if not trial.positions[self.queries]:
            return []
        fit, pairs = (
            pairs_of(
                trial, split, self.variable, self.queries,
                given_query=self.given_query, n_bases=len(split),
            )
            for split in trial.splits
        )  # fmt: skip
        blind = _blind(trial, pairs)
        if negligible(blind, pairs.counterfactual):
            return []
        sites, codes = self._sites(trial), self._codes(trial)
        own = [code for code in codes if not code.rival]
        maps = {}
        for layer, site in sites.items():
            target = _moved(trial, fit, site)
            for code in own:
                maps[layer, code.name] = _fitted(self.coded(trial, fit, code), target)
        writes = {
            (layer, code.name): self.coded(trial, fit, code) @ maps[layer, code.name]
            for layer in sites
            for code in own
        }
        fit_blind = _blind(trial, fit)
        errors = _errors(trial, fit, {key: (sites[key[0]], w) for key, w in writes.items()})
        scores = {key: 1 - float(e.mean() / fit_blind.mean()) for key, e in errors.items()}
        chosen = {n: max(own, key=lambda code: scores[n, code.name]) for n in sites}
        selection = {n: scores[n, code.name] for n, code in chosen.items()}
        best = earliest_best(selection)
        measured = sites if trial.complete else {best: sites[best]}
        written = {
            n: self.coded(trial, pairs, chosen[n]) @ maps[n, chosen[n].name] for n in measured
        }
        errors = _errors(trial, pairs, {n: (site, written[n]) for n, site in measured.items()})
        controls: dict[str, Errors] = {}
        details: dict[str, float | str] = {}
        if trial.complete:
            beside = _Beside(self, trial, fit, pairs, sites[best], chosen[best])
            controls = {name: (e, blind) for name, e in beside.controls(written[best]).items()}
            share = {name: 1 - float(e.mean() / blind.mean()) for name, e in errors.items()}
            details |= beside.details(codes, blind)
            if best - 1 in share:
                details["layer_before"] = share[best - 1]
        return [
            Measurement(
                layer=layer,
                site=f"{site.hook} at {where(site.positions)}",
                selection=selection[layer],
                numerator=errors[layer],
                denominator=blind,
                controls=controls if layer == best else {},
                details={"code": chosen[layer].name} | (details if layer == best else {}),
            )
            for layer, site in measured.items()
        ]

    def _sites(self, trial: Trial) -> dict[int, probes.Site]:
        return layer_sites(trial, self.edits(trial), trial.positions[self.queries])

    def _codes(self, trial: Trial) -> list[Code]:
        """The variable as it is, and the codes that the algorithm declares for it."""
        declared = None if trial.algorithm is None else trial.algorithm.codes
        plain = Code(self.variable, self.variable, lambda causal, t: causal.run(t)[self.variable])
        further = [] if declared is None else declared(trial.task)
        return [plain, *(code for code in further if code.variable == self.variable)]

    def coded(self, trial: Trial, pairs: Pairs, code: Code, source: Rows | None = None) -> Change:
        """By how much a code differs between source and base."""
        source = pairs.source if source is None else source
        causal = trial.causal_model

        def coded(rows: Rows) -> Tensor:
            return code.values(causal, rows.sequences)[:, self.queries]

        found: Change = trial.memo(
            "coded", causal, source, pairs.base, code.name,
            compute=lambda: coded(source) - coded(pairs.base),
        )  # fmt: skip
        return found


@dataclass(frozen=True)
class _Beside:
    """What stands beside an injection: controls, rivals, and swaps of subspaces alone."""

    test: Injection
    trial: Trial
    fit: Pairs
    pairs: Pairs
    site: probes.Site
    code: Code

    def controls(self, written: Change) -> dict[str, Tensor]:
        """Errors of what must not act as the hypothesis's own value does, by name."""
        generator = torch.Generator().manual_seed(self.trial.seed)
        noise = torch.randn(written.shape, generator=generator, dtype=torch.float64).to(written)
        size = written.norm(dim=-1, keepdim=True) / noise.norm(dim=-1, keepdim=True)
        change = self._change(self.pairs, self.code)
        writes = {
            "random directions": noise * size,
            "a permuted map": change @ self._map(self.code).roll(1, 0),
            "a wrong source": self._change(self.pairs, self.code, self.pairs.wrong)
            @ self._map(self.code),
        }
        return self._errors(writes)

    def details(self, codes: Sequence[Code], blind: Tensor) -> dict[str, float]:
        """Scores of every code, and of subspaces swapped alone."""
        moved = _moved(self.trial, self.pairs, self.site)
        own = _span(self._map(self.code))
        order = torch.randperm(
            len(self.fit), generator=torch.Generator().manual_seed(self.trial.seed)
        )
        of_noise = _span(
            _fitted(
                self._change(self.fit, self.code)[order], _moved(self.trial, self.fit, self.site)
            )
        )
        writes = {
            f"injected: {code.name}": self._change(self.pairs, code) @ self._map(code)
            for code in codes
        }
        writes["swapped: whole site"] = moved
        writes["swapped: subspace"] = moved @ own @ own.T
        writes["swapped: its complement"] = moved - moved @ own @ own.T
        writes["swapped: subspace fitted to noise"] = moved @ of_noise @ of_noise.T
        errors = self._errors(writes)
        found = {name: 1 - float(error.mean() / blind.mean()) for name, error in errors.items()}
        return found | {"width of the subspace": float(own.shape[1])}

    def _change(self, pairs: Pairs, code: Code, source: Rows | None = None) -> Change:
        return self.test.coded(self.trial, pairs, code, source)

    def _map(self, code: Code) -> Float[Tensor, "entry component"]:
        return _fitted(self._change(self.fit, code), _moved(self.trial, self.fit, self.site))

    def _errors(self, writes: Mapping[str, Change]) -> dict[str, Tensor]:
        sites = {name: (self.site, change) for name, change in writes.items()}
        return _errors(self.trial, self.pairs, sites)


def _blind(trial: Trial, pairs: Pairs) -> Tensor:
    return trial.task.outputs.divergence(pairs.counterfactual, pairs.blind)


def _moved(trial: Trial, pairs: Pairs, site: probes.Site) -> Change:
    """By how much the activation at a site differs between source and base, float64."""
    return at(trial, pairs.source, site).double() - at(trial, pairs.base, site).double()


def _errors(
    trial: Trial, pairs: Pairs, changes: Mapping[Any, tuple[probes.Site, Change]]
) -> dict[Any, Tensor]:
    """Divergence from the counterfactual with something added to a site in each base, by key."""
    names = {f"{index}": key for index, key in enumerate(changes)}
    writes = {
        name: [(changes[key][0], at(trial, pairs.base, changes[key][0]).double() + changes[key][1])]
        for name, key in names.items()
    }
    found = written_predictions(trial, pairs.base, writes)
    divergence = trial.task.outputs.divergence
    return {names[name]: divergence(pairs.counterfactual, p) for name, p in found.items()}


def _fitted(change: Change, moved: Change) -> Float[Tensor, "entry component"]:
    """The least-squares map, of least norm where entries depend on each other."""
    x, y = change.flatten(0, 1), moved.flatten(0, 1)
    return torch.linalg.pinv(x.T @ x, hermitian=True, rtol=RANK) @ (x.T @ y)


def _span(weights: Float[Tensor, "entry component"]) -> Float[Tensor, "component direction"]:
    """An orthonormal basis of what a map writes to."""
    _, sizes, directions = torch.linalg.svd(weights, full_matrices=False)
    return directions[sizes > RANK * sizes.max()].T
