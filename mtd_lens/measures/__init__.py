"""The tests of claims: a causal model's variables against a model's activations.

Each function makes one kind of test at every layer, for any family whose causal model follows
:mod:`mtd_lens.contracts`. Choices (layer, head, penalty) are made on the fit split alone.
"""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

import probes
from mtd_lens.contracts import Measurement, Trial
from mtd_lens.measures.pairs import Divergence, Pairs, draw_pairs
from probes.statistics.intervals import NEGLIGIBLE

N_SELECTION_PAIRS = 128  # of the fit split, by which the layer of an interchange claim is chosen

Prediction = Callable[[object, Tensor], Tensor]


def measure_interchange(
    trial: Trial,
    variable: str,
    hook: str,
    prediction: Prediction,
    divergence: Divergence,
    *,
    last_only: bool,
    but_last: bool = False,
) -> list[Measurement]:
    """Interchange: ``1 - E D(counterfactual ‖ patched) / E D(counterfactual ‖ base)``.

    Args:
        trial: The model under test.
        variable: Of the causal model.
        hook: Within a block: ``"hook_attn_out"`` or ``"attn.hook_pattern"``, all heads.
        prediction: From a model and its raw output at the last position.
        divergence: Between predictions.
        last_only: Swap at the last query alone, or at every query position.
        but_last: Leave out the last query, where a later layer holds all that follows; with a
            single query the claim does not apply.
    """
    model, causal = trial.model, trial.causal_model
    positions = causal.query_positions(trial.tokens.shape[1])
    queries = slice(None, -1) if but_last else _queries(positions, last_only)
    if not positions[queries]:
        return []
    sites = {
        f"{layer}": probes.Site(f"blocks.{layer}.{hook}", positions[queries])
        for layer in range(model.cfg.n_layers)
    }

    def errors(tokens: Tensor, seed: int) -> tuple[Pairs, Tensor, dict[str, Tensor]]:
        pairs = draw_pairs(causal, tokens, variable, queries, divergence, seed)
        runs = probes.run_interchange(model, tokens, pairs.source, sites)

        def error(output: Tensor) -> Tensor:
            return divergence(pairs.counterfactual, prediction(model, output))

        return pairs, error(runs.base), {name: error(out) for name, out in runs.patched.items()}

    _, fit_base, fit_patched = errors(trial.fit_tokens[:N_SELECTION_PAIRS], trial.seed)
    pairs, base, patched = errors(trial.tokens, trial.seed + 1)
    if float(pairs.effect.mean()) <= NEGLIGIBLE:
        return []
    return [
        Measurement(
            layer=layer,
            site=f"{sites[name].hook} at {_where(positions[queries])}",
            selection=1 - float(fit_patched[name].mean() / fit_base.mean()),
            numerator=patched[name],
            denominator=base,
            details={"pairs": float(len(base)), "mean_denominator": float(base.mean())},
        )
        for layer, name in enumerate(sites)
    ]


def measure_probe(
    trial: Trial,
    variable: str,
    hooks: Sequence[str],
    control: Callable[[Tensor], Tensor],
    window: Callable[[Tensor], Tensor],
    *,
    last_only: bool,
) -> list[Measurement]:
    """Ridge probes: R² on held-out sequences, beside a control task and the raw tokens.

    Args:
        trial: The model under test.
        variable: Of the causal model, ``[sequence, query, output]``.
        hooks: Within a block; the best one of each layer (cross-validated) is reported.
        control: The control variable of token sequences, of the same shape.
        window: Raw-token features of token sequences, ``[sequence, query, feature]``.
        last_only: Probe at the last query alone, or at every query position.
    """
    model, causal = trial.model, trial.causal_model
    positions = causal.query_positions(trial.tokens.shape[1])
    queries = _queries(positions, last_only)
    n_fit = len(trial.fit_tokens)
    tokens = torch.cat([trial.fit_tokens, trial.tokens])
    target = causal.run(tokens)[variable][:, queries]
    if float(target.flatten(0, 1).var(0).sum()) <= NEGLIGIBLE:
        return []
    decoy, raw = control(tokens)[:, queries], window(tokens)[:, queries]
    raw_errors = _probe_errors(raw, target, n_fit)[1]
    baseline = 1 - float(raw_errors[0].mean() / raw_errors[1].mean())
    captured = probes.read_activations(
        model,
        tokens,
        {
            f"blocks.{layer}.{hook}": probes.Site(f"blocks.{layer}.{hook}", positions[queries])
            for layer in range(model.cfg.n_layers)
            for hook in hooks
        },
    )
    measurements = []
    for layer in range(model.cfg.n_layers):
        names = [f"blocks.{layer}.{hook}" for hook in hooks]
        fitted = {name: _probe_errors(captured[name], target, n_fit) for name in names}
        best = max(names, key=lambda name: fitted[name][0].cross_validated)
        probe, (residual, deviation) = fitted[best]
        control_errors = _probe_errors(captured[best], decoy, n_fit)[1]
        score, control_score = (
            1 - float(a.mean() / b.mean()) for a, b in ((residual, deviation), control_errors)
        )
        measurements.append(
            Measurement(
                layer=layer,
                site=f"{best} at {_where(positions[queries])}",
                selection=probe.cross_validated,
                numerator=residual,
                denominator=deviation,
                control=control_errors,
                details={
                    "control": control_score,
                    "selectivity": score - control_score,
                    "token_window": baseline,
                    "penalty": probe.penalty,
                },
            )
        )
    return measurements


def measure_attention(
    trial: Trial, variable: str, offsets: Sequence[int], *, last_only: bool
) -> list[Measurement]:
    """Attention to a band against a variable: ``1 - TV(model) / TV(uniform over the band)``.

    The band is not renormalised: attention outside it counts as error. The head is chosen at each
    query position, on the fit split.

    Args:
        trial: The model under test.
        variable: Of the causal model, a distribution over ``offsets``.
        offsets: Query position minus key position, for each entry of the variable.
        last_only: The last query alone, or every query position.
    """
    model, causal = trial.model, trial.causal_model
    positions = causal.query_positions(trial.tokens.shape[1])
    queries = _queries(positions, last_only)
    targets = [causal.run(t)[variable][:, queries] for t in (trial.fit_tokens, trial.tokens)]
    uniform = torch.full_like(targets[1], 1 / len(offsets))
    reference = probes.total_variation(uniform, targets[1]).mean(1)
    if float(reference.mean()) <= NEGLIGIBLE:
        return []
    fit_uniform = torch.full_like(targets[0], 1 / len(offsets))
    fit_reference = probes.total_variation(fit_uniform, targets[0])
    bands = {
        f"{layer}": probes.Band(
            f"blocks.{layer}.attn.hook_pattern", tuple(positions[queries]), tuple(offsets)
        )
        for layer in range(model.cfg.n_layers)
    }
    fit_attention, attention = (
        probes.read_activations(model, tokens, bands) for tokens in (trial.fit_tokens, trial.tokens)
    )
    measurements = []
    for layer, (name, band) in enumerate(bands.items()):
        fit_distance = _distance(fit_attention[name], targets[0])
        distance = _distance(attention[name], targets[1])
        heads = fit_distance.mean(0).argmin(0)  # [query]
        each = torch.arange(len(heads))
        fit_chosen, chosen = fit_distance[:, heads, each], distance[:, heads, each]
        measurements.append(
            Measurement(
                layer=layer,
                site=f"{band.hook}, {_heads(heads)}, at {_where(positions[queries])}",
                selection=1 - float(fit_chosen.mean() / fit_reference.mean()),
                numerator=chosen.mean(1),
                denominator=reference,
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


def measure_pattern(
    trial: Trial, variable: str, keys: Sequence[int], *, last_only: bool
) -> list[Measurement]:
    """A pattern that is no distribution against a variable: ``1 - E‖pattern - V‖² / E‖V‖²``.

    For attention without a softmax. Each head's pattern is scaled by a factor, which could be moved
    to its output matrix. Factors and head are chosen on the fit split.

    Args:
        trial: The model under test.
        variable: Of the causal model, a value for each key.
        keys: Positions of the keys.
        last_only: The last query alone, or every query position.
    """
    model, causal = trial.model, trial.causal_model
    positions = causal.query_positions(trial.tokens.shape[1])
    queries = _queries(positions, last_only)
    hooks = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)]
    sites = {hook: probes.Site(hook, positions[queries]) for hook in hooks}
    splits = []  # of each: what heads should be, [sequence, query, key], and what they are
    for tokens in (trial.fit_tokens, trial.tokens):
        values = causal.run(tokens)[variable][:, queries]
        target = values.new_zeros(*values.shape[:2], tokens.shape[1])
        target[..., list(keys)] = values
        splits.append((target, probes.read_activations(model, tokens, sites)))
    (fit_target, fit), (target, found) = splits
    fit_reference, reference = (x.square().sum((1, 2)) for x in (fit_target, target))
    if float(reference.mean()) <= NEGLIGIBLE:
        return []
    measurements = []
    for layer, hook in enumerate(hooks):
        pattern = fit[hook].to(fit_target)
        overlap = torch.einsum("nhqk,nqk->h", pattern, fit_target)
        scale = overlap / pattern.square().sum((0, 2, 3)).clamp_min(NEGLIGIBLE)
        fit_error = _scaled_distance(scale, pattern, fit_target)
        head = int(fit_error.mean(0).argmin())
        measurements.append(
            Measurement(
                layer=layer,
                site=f"{hook}, head {head}, at {_where(positions[queries])}",
                selection=1 - float(fit_error[:, head].mean() / fit_reference.mean()),
                numerator=_scaled_distance(scale, found[hook].to(target), target)[:, head],
                denominator=reference,
                details={"scale": float(scale[head])},
            )
        )
    return measurements


def _scaled_distance(scale: Tensor, pattern: Tensor, target: Tensor) -> Tensor:
    """Squared distance of every head's scaled pattern from the target, ``[sequence, head]``."""
    return (scale[:, None, None] * pattern - target[:, None]).square().sum((2, 3))


def measure_content(
    trial: Trial,
    target: Float[Tensor, "query_token key_token"],
    query_tokens: Int[Tensor, " query_token"],
) -> list[Measurement]:
    """Content score in the weights: ``1 - KL(model) / KL(uniform)`` of its softmax over key tokens.

    Args:
        trial: The model under test.
        target: Distribution over all key tokens for each query token.
        query_tokens: Which tokens the rows are of.
    """
    model = trial.model
    uniform = probes.key_softmax_divergence(torch.zeros_like(target), target)
    if float(uniform.mean()) <= NEGLIGIBLE:
        return []
    measurements = []
    for layer in range(model.cfg.n_layers):
        heads = range(model.cfg.n_heads)
        found = [
            probes.key_softmax_divergence(
                probes.token_scores(model, layer, head).cpu()[query_tokens], target
            )
            for head in heads
        ]
        best = min(heads, key=lambda head: float(found[head].mean()))
        measurements.append(
            Measurement(
                layer=layer,
                site=f"blocks.{layer}.attn.W_Q, W_K, head {best}",
                selection=1 - float(found[best].mean() / uniform.mean()),
                numerator=found[best],
                denominator=uniform,
                exact=True,
                details={"kl": float(found[best].mean())},
            )
        )
    return measurements


def _probe_errors(
    features: Tensor, target: Tensor, n_fit: int
) -> tuple[probes.RidgeProbe, tuple[Tensor, Tensor]]:
    """A probe fitted on the first ``n_fit`` sequences, and its errors on the rest."""
    probe = probes.fit_ridge(features[:n_fit], target[:n_fit])
    return probe, probe.errors(features[n_fit:], target[n_fit:])


def _queries(positions: Sequence[int], last_only: bool) -> slice:
    """The last query position, or all of them, as an index into the query axis."""
    return slice(len(positions) - 1, None) if last_only else slice(None)


def _where(positions: Sequence[int]) -> str:
    several = f"positions {positions[0]} to {positions[-1]}"
    return several if len(positions) > 1 else f"position {positions[0]}"


def _heads(heads: Tensor) -> str:
    distinct = heads.unique().tolist()
    several = f"heads {', '.join(map(str, distinct))} by query position"
    return several if len(distinct) > 1 else f"head {distinct[0]}"
