"""What the codes of score and value are: readings of them, beside relabellings of the tokens."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mtd_lens.families.mtd.circuit import Circuit
from mtd_lens.families.mtd.circuit_forms import ADDITIVE
from mtd_lens.families.mtd.score_form import main_codes
from mtd_lens.shapes import Transition
from probes.subject import subject_of

Figures = dict[str, Any]
"""Plain data, as JSON holds it."""

PairCode = Float[Tensor, "head lag token last"]
"""By ``y_{k-g}`` and ``y_k``."""


def pair_codes(
    circuit: Circuit, heads: Iterable[int]
) -> tuple[PairCode, Float[Tensor, "head token"]]:
    """The codes f of pairs and u of parents that pairs × own parent are fitted with.

    Args:
        circuit: Of a model.
        heads: Which heads are asked about.
    """
    own = circuit.basis.own_coefficients(circuit.moments)[list(heads)]
    u = main_codes(own)
    f = torch.einsum("hgpt,ht->hgp", own, u)
    q = u.shape[-1]
    return f.unflatten(-1, (q, q)).mT, u


def relabellings(q: int) -> list[list[int]]:
    """All of them, the identity first."""
    return [list(order) for order in itertools.permutations(range(q))]


def pair_figures(f: PairCode, u: Float[Tensor, "head token"], pi: Transition) -> Figures:
    """What the pair's code f is: shares of its variance, and its correlation with readings of it.

    ``evidence × sign``: ``r(y_{k-g}, y_k) s(y_k)`` with π divided by its columns' sums, and of each
    head the signs s that fit best at the other lags; of f as a whole, of a code that is f's
    additive part, and of what is left of f without that.

    Args:
        f: Code of pairs.
        u: Code of parents, of the same heads.
        pi: Rows of the task's transition.
    """
    pi, q = pi.double(), len(pi)
    f = f - f.mean((-1, -2), keepdim=True)
    before, last = f.mean(-1, keepdim=True), f.mean(-2, keepdim=True)
    total = f.square().sum((1, 2, 3))
    additive = (before + last).expand_as(f)
    parts = {"y_{k-g} alone": before, "y_k alone": last, "of the pair": f - additive}
    found: Figures = {
        name: float((x.expand_as(f).square().sum((1, 2, 3)) / total).mean())
        for name, x in parts.items()
    }
    orders = relabellings(q)
    found["y_{k-g} as the parent"] = _beside(
        [alike_codes(before[..., 0], u[:, order]) for order in orders]
    )
    signs = torch.tensor([(1, *s) for s in itertools.product((1, -1), repeat=q - 1)]).double()

    def evidence(order: list[int]) -> Tensor:
        rows = pi[order][:, order]
        rows = rows / rows.sum(0)
        return (rows - rows.mean(0)) * signs[:, None]

    def interaction(x: Tensor) -> Tensor:
        return (
            x - x.mean(-1, keepdim=True) - x.mean(-2, keepdim=True) + x.mean((-1, -2), keepdim=True)
        )

    def chosen(table: Tensor, readings: Tensor) -> float:
        """Of each lag, by the sign code that is best at the others, averaged."""
        table = table.flatten(-2)
        readings = readings - readings.mean((-1, -2), keepdim=True)
        cosines = functional.cosine_similarity(
            table[:, :, None], readings.flatten(-2)[None, None], dim=-1
        )
        n_lags = table.shape[1]
        scored = []
        for lag in range(n_lags):
            rest = [g for g in range(n_lags) if g != lag]
            best = cosines[:, rest].sum(1).abs().argmax(-1)
            direction = cosines[:, rest].sum(1).gather(1, best[:, None]).sign()[:, 0]
            scored.append(direction * cosines[:, lag].gather(1, best[:, None])[:, 0])
        return float(torch.stack(scored).mean())

    by_order = [evidence(order) for order in orders]
    found["evidence × sign"] = _beside([chosen(f, x) for x in by_order])
    found["evidence × sign, additive code"] = chosen(additive, by_order[0])
    found["evidence × sign, of the pair"] = _beside(
        [chosen(f - additive, interaction(x)) for x in by_order]
    )
    return found


def alike_codes(
    of_lags: Float[Tensor, "head lag token"], of_head: Float[Tensor, "head token"]
) -> float:
    """Size of the correlation over tokens, averaged over lags with its sign; mean over heads."""
    of_lags, of_head = (x - x.mean(-1, keepdim=True) for x in (of_lags, of_head))
    found = functional.cosine_similarity(of_lags, of_head[:, None], dim=-1)
    return float(found.mean(-1).abs().mean())


def with_errors(found: Sequence[Figures]) -> Figures:
    """The first figures, and the standard error of each over the rest, drawn again.

    Args:
        found: Of the fits themselves, and of those on endings drawn again.
    """

    def of(name: str, figures: Figures) -> float:
        value = figures[name]
        return float(value["value"] if isinstance(value, dict) else value)

    return {
        name: (value if isinstance(value, dict) else {"value": value})
        | {"error": float(torch.tensor([of(name, each) for each in found[1:]]).std())}
        for name, value in found[0].items()
    }


def _beside(found: Sequence[float]) -> Figures:
    """A figure beside those of relabellings: mean, 95th percentile, and the share as high."""
    own, null = found[0], torch.tensor(found[1:], dtype=torch.float64)
    return {
        "value": own,
        "null mean": float(null.mean()),
        "null 95%": float(null.quantile(0.95)),
        "as high": (1 + int((null >= own - 1e-12).sum())) / len(found),
    }


def product_figures(circuit: Circuit, form: str) -> Figures:
    """The product of score and value over heads, beside evidence × π.

    What a key adds to the covariance of score and value, as a function of its window, of a parent
    of the query at each lag, and of the outcome, by the heads' direct path to predictions::

        Σ_h score_h(window, parent at lag g) (value_h(window) - mean value under attention)

    with fitted scores and additive values, less what any window, any parent or any outcome has.
    Beside it, ``γ_g(window) π[parent, outcome]``, and others: correlations, windows counted as
    often as they come.

    Args:
        circuit: Of a model.
        form: Of scores.
    """
    task, model = circuit.basis.task, circuit.alike.trial.model
    q, m = task.n_tokens, task.order
    weights = subject_of(model).underlying.state_dict()
    out = weights[f"blocks.{circuit.layer}.attn.W_O"].double()
    read = weights["unembed.W_U"].double()
    if "ln_final.w" in weights:
        read = weights["ln_final.w"].double()[:, None] * read
    tokens = circuit.basis.tokens
    windows = tokens.unfold(1, m + 1, 1).flip(-1).flatten(0, 1)  # y_k first
    seen, counts = torch.unique(windows, dim=0, return_counts=True)
    weight = (counts / counts.sum()).double()[:, None, None]

    own = circuit.values_of(tokens)
    value_form = circuit.value_form(ADDITIVE)
    fitted = value_form.fit(tokens, own).reshape(m + 1, q + 1, *out.shape[:2])
    value = torch.stack([fitted[j][seen[:, j]] for j in range(m + 1)]).sum(0)  # [window, head, d]
    pattern = circuit.scores_of(tokens).softmax(1)
    under_attention = torch.einsum("nkh,nkhd->hd", pattern, own) / len(tokens)
    value = value - (weight * value).sum(0) + own[:, m:].mean((0, 1)) - under_attention
    value = torch.einsum("whd,hdr,rc->whc", value, out, read)
    share = torch.bincount(tokens.flatten(), minlength=q).double()
    share = share / share.sum()
    value = share * (value - (share * value).sum(-1, keepdim=True))

    pairs = torch.cat(
        [functional.one_hot(seen[:, 0] * q + seen[:, g], q * q) for g in range(1, m + 1)], -1
    )
    score = torch.einsum("wi,iph->wph", pairs.double(), circuit.score_table(form))
    score = (score - (weight * score).sum(0)).unflatten(1, (m, q))

    def centred(x: Float[Tensor, "lag window parent outcome"]) -> Tensor:
        x = x - (weight * x).sum(1, keepdim=True)
        x = x - x.mean(2, keepdim=True)
        return ((x - x.mean(3, keepdim=True)) * weight.sqrt()).flatten()

    made = centred(torch.einsum("wgph,whc->gwpc", score, value))

    def likelihoods(pi: Tensor) -> Float[Tensor, "lag window"]:
        return torch.stack([pi[seen[:, g], seen[:, 0]] for g in range(1, m + 1)])

    def times_rows(evidence: Float[Tensor, "lag window"], pi: Tensor) -> Tensor:
        return torch.einsum("gw,pc->gwpc", evidence, pi)

    def gamma(pi: Tensor) -> Tensor:
        p = likelihoods(pi)
        return p / p.sum(0)

    def correlation(target: Tensor) -> float:
        return float(functional.cosine_similarity(made, centred(target), dim=0))

    pi = task.transition.double()
    one_hot = torch.eye(q).double()
    before = torch.stack([one_hot[seen[:, g]] for g in range(1, m + 1)])
    relabelled = [pi[order][:, order] for order in relabellings(q)]
    p = likelihoods(pi)
    log_p = p.clamp_min(1e-9).log()
    rivals = {
        "γ × π, lags turned": gamma(pi).roll(1, 0),
        "p × π": p,
        "p × π, lags competing": p - p.mean(0),
        "log p × π": log_p,
        "log p × π, lags competing": log_p - log_p.mean(0),
    }
    copied = torch.einsum("gwp,wc->gwpc", before, one_hot[seen[:, 0]])
    return {
        "γ × π": _beside([correlation(times_rows(gamma(x), x)) for x in relabelled]),
        **{name: correlation(times_rows(x, pi)) for name, x in rivals.items()},
        "match and copy": correlation(copied),
        "match and copy, lags competing": correlation(copied - copied.mean(0)),
    }
