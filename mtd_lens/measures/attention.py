"""Attention: is a head's pattern a variable of the algorithm?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

import probes
from mtd_lens.claims import Measurement
from mtd_lens.contracts import EVERY
from mtd_lens.errors import ArgumentError
from mtd_lens.measures.words import heads_in_words, where
from mtd_lens.trial import Trial, checked_trial
from probes import checks
from probes.statistics import NEGLIGIBLE

PATTERN = "attn.hook_pattern"


@dataclass(frozen=True)
class Attention:
    """Attention to a band against a variable: ``1 - TV(model) / TV(uniform over the band)``.

    The band is not renormalised: attention outside it counts as error. The head is chosen at each
    query position, on the fit split.

    Attributes:
        variable: Of the causal model, a distribution over the offsets.
        offsets: Query position minus key position, for each entry of the variable; or a function of
            the sequences' length.
        queries: At which query positions.

    Examples:
        >>> import mtd_lens
        >>> from mtd_lens import measures
        >>> from mtd_lens.contracts import LAST
        >>> model = mtd_lens.load_model("mtd-q3-m2-t32/constructed-absolute")
        >>> trial = mtd_lens.Experiment.of(model, None, seed=0).drawn(64).trial()
        >>> test = measures.Attention("mixture_weights", range(trial.task.order), LAST)
        >>> max(test(trial), key=lambda found: found.selection).layer
        2
    """

    variable: str
    offsets: Sequence[int] | Callable[[int], Sequence[int]]
    queries: slice = field(default_factory=lambda: EVERY)

    def reads(self, trial: Trial) -> list[probes.Band]:
        """The band at every query.

        Args:
            trial: The model under test.
        """
        checked_trial(trial)
        length = trial.tokens.shape[1]
        offsets = self.offsets(length) if callable(self.offsets) else self.offsets
        positions = trial.positions[self.queries]
        return [
            probes.Band(f"blocks.{layer}.{PATTERN}", positions, tuple(offsets))
            for layer in range(trial.n_layers)
        ]

    def __call__(self, trial: Trial) -> list[Measurement]:
        """One measurement a layer.

        Args:
            trial: The model under test.
        """
        checked_trial(trial)
        fit, test = (trial.run(t)[self.variable][:, self.queries] for t in trial.splits)
        fit_reference, reference = (
            probes.total_variation(torch.full_like(x, 1 / x.shape[-1]), x) for x in (fit, test)
        )
        if float(reference.mean(1).mean()) <= NEGLIGIBLE:
            return []
        bands = self.reads(trial)
        fit_found, found = (trial.read(tokens, bands) for tokens in trial.splits)
        measurements = []
        for layer, band in enumerate(bands):
            fit_distance = _distance(fit_found[layer], fit)
            distance = _distance(found[layer], test)
            heads = fit_distance.mean(0).argmin(0)  # [query]
            each = torch.arange(len(heads))
            fit_chosen, chosen = fit_distance[:, heads, each], distance[:, heads, each]
            measurements.append(
                Measurement(
                    layer=layer,
                    site=f"{band.hook}, {heads_in_words(heads)}, at {where(band.queries)}",
                    selection=1 - float(fit_chosen.mean() / fit_reference.mean()),
                    numerator=chosen.mean(1),
                    denominator=reference.mean(1),
                )
            )
        return measurements


def _distance(
    attention: Float[Tensor, "sequence head query offset"],
    target: Float[Tensor, "sequence query offset"],
) -> Float[Tensor, "sequence head query"]:
    """Total variation from the target over all keys: attention outside the band is error."""
    attention = attention.to(target)
    outside = (1 - attention.sum(-1)).clamp_min(0)
    return probes.total_variation(attention, target[:, None].expand_as(attention)) + outside / 2


@dataclass(frozen=True)
class Pattern:
    """A pattern that is no distribution against a variable: ``1 - E‖pattern - V‖² / E‖V‖²``.

    For attention without a softmax. Each head's pattern is scaled by a factor, which could be moved
    to its output matrix. Factors and head are chosen on the fit split.

    Attributes:
        variable: Of the causal model, a value for each key.
        keys: Positions of the keys.
        queries: At which query positions.

    Examples:
        >>> import mtd_lens
        >>> from mtd_lens import measures
        >>> from mtd_lens.contracts import EVERY
        >>> model = mtd_lens.load_model("ar-d5-t32/constructed-one-step")
        >>> trial = mtd_lens.Experiment.of(model, None, seed=0).drawn(64).trial()
        >>> test = measures.Pattern("inner_products", range(1, trial.task.seq_len), EVERY)
        >>> max(test(trial), key=lambda found: found.selection).layer
        1
    """

    variable: str
    keys: Sequence[int]
    queries: slice = field(default_factory=lambda: EVERY)

    def reads(self, trial: Trial) -> list[probes.Site]:
        """The patterns at every query.

        Args:
            trial: The model under test.
        """
        checked_trial(trial)
        positions = trial.positions[self.queries]
        return [
            probes.Site(f"blocks.{layer}.{PATTERN}", positions) for layer in range(trial.n_layers)
        ]

    def __call__(self, trial: Trial) -> list[Measurement]:
        """One measurement a layer.

        Args:
            trial: The model under test.
        """
        checked_trial(trial)
        sites, splits = self.reads(trial), []
        for (
            tokens
        ) in trial.splits:  # what heads should be, [sequence, query, key], and what they are
            values = trial.run(tokens)[self.variable][:, self.queries]
            target = values.new_zeros(*values.shape[:2], tokens.shape[1])
            target[..., list(self.keys)] = values
            splits.append((target, trial.read(tokens, sites)))
        (fit_target, fit), (target, found) = splits
        fit_reference, reference = (x.square().sum((1, 2)) for x in (fit_target, target))
        if not reference.any():
            return []
        measurements = []
        for layer, site in enumerate(sites):
            pattern = fit[layer].to(fit_target)
            overlap = torch.einsum("nhqk,nqk->h", pattern, fit_target)
            size = pattern.square().sum((0, 2, 3))
            scale = torch.where(size > 0, overlap / size, 0)
            fit_error = _scaled_distance(scale, pattern, fit_target)
            head = int(fit_error.mean(0).argmin())
            measurements.append(
                Measurement(
                    layer=layer,
                    site=f"{site.hook}, head {head}, at {where(trial.positions[self.queries])}",
                    selection=1 - float(fit_error[:, head].mean() / fit_reference.mean()),
                    numerator=_scaled_distance(scale, found[layer].to(target), target)[:, head],
                    denominator=reference,
                    details={"scale": float(scale[head])},
                )
            )
        return measurements


def _scaled_distance(scale: Tensor, pattern: Tensor, target: Tensor) -> Tensor:
    """Squared distance of every head's scaled pattern from the target, ``[sequence, head]``."""
    return (scale[:, None, None] * pattern - target[:, None]).square().sum((2, 3))


def signed_shares(
    pattern: Float[Tensor, "*row query key"],
) -> Float[Tensor, "*row query key"]:
    """Attention without a softmax as shares of its magnitude at each query, with their signs.

    Magnitudes sum to 1 at each query. Patterns that are distributions stay as they are; a query
    that attends to nothing keeps zeros.

    Args:
        pattern: ``[…, query, key]``.

    Returns:
        ``[…, query, key]``.

    Raises:
        ArgumentError: Something else.
    """
    checks.tensor(pattern, "pattern", "…, query, key", ArgumentError)
    total = pattern.abs().sum(-1, keepdim=True)
    return pattern / torch.where(total > 0, total, 1.0)
