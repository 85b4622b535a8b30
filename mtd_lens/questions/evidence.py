"""What fitted evidence is like: the weights of positions, and rules that it resembles.

Intervals resample sequences. A figure that solves an equation of means moves, to first order, by
the mean of its *influence*, one value a sequence (Hampel 1974), so that its interval is a mean's.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

import probes
from mtd_lens.contracts import last_prediction
from mtd_lens.results.fitted import Resemblance
from mtd_lens.shapes import Tokens
from probes import Interval
from probes.statistics.intervals import NEGLIGIBLE

AT_ONCE = 1024
"""Sequences whose variables are held in memory."""

Evidence = Float[Tensor, "sequence evidence lag"]


def evidence_of(causal_model: Any, tokens: Tokens) -> Evidence:
    """The evidence in sequences, centred over lags.

    Args:
        causal_model: Additive evidence.
        tokens: ``[sequence, position]``.
    """
    name = causal_model.variables[0]
    return centred(torch.cat([causal_model.run(part)[name] for part in tokens.split(AT_ONCE)]))


def centred(evidence: Tensor) -> Tensor:
    """Without what is the same for all lags, which counts for nothing."""
    return evidence - evidence.mean(-1, keepdim=True)


def position_weights(
    causal_model: Any, tokens: Tokens, target: Tensor, seed: int
) -> tuple[tuple[Interval, ...], Interval]:
    """The weights of positions, from the query's own on, and the slope of all but that one.

    Intervals are of weights that are fitted to resampled sequences, with the table as it is and a
    mean of 1: by one step of Newton's from the fitted ones.

    Args:
        causal_model: Additive evidence.
        tokens: ``[sequence, position]``: what it was fitted to.
        target: ``[sequence, outcome]``: the model's predictions after them.
        seed: Of the resampling.
    """
    weights, n = causal_model.position_weights, len(causal_model.position_weights)
    gradients, curvature = [], torch.zeros(n, n, dtype=torch.float64)
    for part, predicted in zip(tokens.split(AT_ONCE), target.split(AT_ONCE), strict=True):
        evidence = evidence_of(causal_model, part).flip(1)
        slopes, bends = _derivatives(causal_model, part, predicted)
        gradients.append(torch.einsum("nl,nkl->nk", slopes, evidence))
        bent = torch.einsum("nlj,nkj->nlk", bends, evidence)
        curvature += torch.einsum("nkl,nlj->kj", evidence, bent) / len(tokens)
    gradient = torch.cat(gradients)
    free = torch.eye(n, dtype=torch.float64) - 1 / n  # ways to move with the mean at 1
    step = torch.linalg.pinv(free @ curvature @ free, hermitian=True, rtol=NEGLIGIBLE)
    influence = weights - (gradient - gradient.mean(0)) @ step
    found = [
        Interval(*map(float, row))
        for row in zip(*probes.mean_intervals(influence.T, seed), strict=True)
    ]
    nearness = -torch.arange(n - 1, dtype=torch.float64)
    nearness = nearness - nearness.mean() if n > 1 else nearness
    nearness = nearness / nearness.square().sum().clamp_min(1.0)
    return tuple(found), probes.mean_interval(influence[:, 1:] @ nearness, seed)


def _derivatives(
    causal_model: Any, tokens: Tokens, target: Tensor
) -> tuple[Float[Tensor, "sequence lag"], Float[Tensor, "sequence lag lag"]]:
    """First and second derivatives of each sequence's divergence in its total evidence."""
    name = causal_model.variables[1]
    total = causal_model.run(tokens)[name][:, -1:].detach().requires_grad_()
    prediction = last_prediction(causal_model.do(**{name: total}), tokens)
    # What no evidence makes possible stays impossible, and bends nothing.
    prediction = prediction.clamp_min(torch.finfo(prediction.dtype).tiny)
    loss = -torch.xlogy(target.to(prediction), prediction).sum()
    (slopes,) = torch.autograd.grad(loss, total, create_graph=True)
    each = slopes[:, 0].sum(0).unbind()
    bends = [torch.autograd.grad(slope, total, retain_graph=True)[0][:, 0] for slope in each]
    return slopes[:, 0].detach(), torch.stack(bends, 1)


def resemblances(
    evidence: Evidence, rules: Mapping[str, Tensor], n_shown: int, seed: int
) -> tuple[Resemblance, ...]:
    """How evidence correlates with that of known rules, over windows as often as they occur.

    Args:
        evidence: Fitted, centred over lags.
        rules: By name, evidence of the same shape.
        n_shown: Windows that are kept to be shown.
        seed: Of the resampling.
    """
    return tuple(
        Resemblance(name, _correlation(evidence, rule, seed), some(rule, n_shown))
        for name, rule in ((name, centred(rule)) for name, rule in rules.items())
    )


def some(evidence: Evidence, n_shown: int) -> Float[Tensor, "window lag"]:
    """The evidence of one window each of the first sequences.

    Args:
        evidence: In sequences.
        n_shown: How many windows at most.
    """
    at = torch.arange(min(n_shown, len(evidence)))
    return evidence[at, at % evidence.shape[1]].clone()


def _correlation(one: Evidence, other: Evidence, seed: int) -> Interval:
    """Of centred evidence, 0 where one of the two does not vary."""
    products = [(a * b).sum((1, 2)) for a, b in ((one, other), (one, one), (other, other))]
    cross, own, others = (p.mean() for p in products)
    spread = (own * others).sqrt()
    if spread == 0:
        return Interval(0.0, 0.0, 0.0)
    r = cross / spread
    influence = products[0] / spread - r / 2 * (products[1] / own + products[2] / others - 2)
    return probes.mean_interval(influence, seed)
