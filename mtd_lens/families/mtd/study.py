"""What is measured of a trained model beside its scorecard: predictions, patterns, scores."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

import probes
from mtd_lens.families.mtd import estimators
from mtd_lens.families.mtd.causal_model import MTDCausalModel, best_beta
from mtd_lens.families.mtd.posterior import posterior_mean
from mtd_lens.hooked import randomized, task_of
from mtd_lens.measures.held_out import N_SEQUENCES, SEED, interval, ratio, spread
from mtd_lens.spaces import last_predictions
from probes.subject import HookedModel, subject_of

N_PATTERNS = 1024
"""Sequences that attention is averaged over."""

N_NULLS = 20
"""Random models of the same architecture that figures stand beside."""

NEGLIGIBLE_SQUARES = 1e-12
"""Sums of squares up to this are nothing to explain."""

NEGLIGIBLE_SPREAD = 1e-9
"""Standard deviations up to this are none."""

Figures = dict[str, Any]
"""Plain data, as JSON holds it."""


def measure(model: HookedModel) -> Figures:
    """The figures of a model, in the order in which its page shows them."""
    nulls = [randomized(model, seed, "null") for seed in range(N_NULLS)]
    return {
        "held_out": held_out(model),
        "patterns": patterns_beside_null(model, nulls),
        "content_correlations": [
            {"value": value, "null": spread(null)}
            for value, *null in zip(
                content_correlations(model), *map(content_correlations, nulls), strict=True
            )
        ],
    }


def held_out(model: HookedModel) -> Figures:
    """KL from the truth at the last query, of the model and of what it is held against."""
    task = task_of(model)
    batch = task.sample(N_SEQUENCES, SEED)
    tokens = batch.tokens
    truth = estimators.predict(task, tokens, batch.weights)
    uniform = torch.full_like(batch.weights, 1 / task.order)
    predictions = {
        "model": last_predictions(model, tokens, task.outputs),
        "one step": MTDCausalModel(task, best_beta(task)).run(tokens)["prediction"][:, -1],
        "exact Bayes": estimators.predict(task, tokens, posterior_mean(task, tokens)),
        "uniform": estimators.predict(task, tokens, uniform),
    }
    kl = {source: probes.kl_divergence(truth, value) for source, value in predictions.items()}
    from_one_step = {
        source: probes.kl_divergence(predictions["one step"], predictions[source])
        for source in ("model", "uniform")
    }
    return {
        "n_sequences": N_SEQUENCES,
        "from_truth": {source: interval(value) for source, value in kl.items()},
        "over_one_step": ratio(kl["model"], kl["one step"]),
        "share_of_uniform": ratio(from_one_step["model"], from_one_step["uniform"]),
    }


def patterns_beside_null(model: HookedModel, nulls: list[HookedModel]) -> list[Figures]:
    """``patterns``, with the ranges over random models of what departures go by."""
    found = patterns(model)
    for layer, *others in zip(found, *map(patterns, nulls), strict=True):
        for name in ("explained_by_window", "correlation_with_decisiveness"):
            layer[f"{name}_null"] = spread(other[name] for other in others)
    return found


def patterns(model: HookedModel) -> list[Figures]:
    """Every layer's attention at the last query: its mean, and what departures from it go by."""
    task = task_of(model)
    tokens = task.sample(N_PATTERNS, SEED).tokens
    sites = {
        str(layer): probes.Site(f"blocks.{layer}.attn.hook_pattern", positions=[-1])
        for layer in range(subject_of(model).n_layers)
    }
    evidence = torch.zeros(task.seq_len, dtype=torch.float64)
    evidence[task.order :] = 1 / (task.seq_len - task.order)
    # The tokens that an evidence position's responsibilities depend on, as one number each, and how
    # decisive those are.
    base = task.n_tokens ** torch.arange(task.order + 1)
    windows = (tokens.unfold(1, task.order + 1, 1) * base).sum(-1).flatten()
    decisive = estimators.responsibilities(task, tokens).amax(-1).flatten()
    found = []
    for layer, read in probes.read_activations(model, tokens, sites).items():
        pattern = read[:, :, 0].to(torch.float64)  # [sequence, head, key]
        mean = pattern.mean(0)
        distance = probes.total_variation(mean, evidence.expand_as(mean))
        head = int(distance.argmin())
        departures = (pattern[:, head] - mean[head])[:, task.order :].flatten()
        from_mean = probes.total_variation(pattern[:, head], mean[head].expand(len(tokens), -1))
        found.append(
            {
                "layer": int(layer),
                "mean_over_heads": mean.mean(0).tolist(),
                "head": head,
                "mean_pattern_tv_from_uniform": float(distance[head]),
                "tv_between_sequence_and_mean": float(from_mean.mean()),
                "before_evidence": float(mean[head, : task.order].sum()),
                "explained_by_window": explained(departures, windows),
                "correlation_with_decisiveness": correlation(departures, decisive),
            }
        )
    return found


def explained(values: Float[Tensor, " entry"], labels: Int[Tensor, " entry"]) -> float:
    """R² of the means of values with the same label; 0 where there is nothing to explain."""
    n = int(labels.max()) + 1
    sums = torch.zeros(n, dtype=values.dtype).index_add(0, labels, values)
    counts = torch.bincount(labels, minlength=n).clamp_min(1)
    total = float(((values - values.mean()) ** 2).sum())
    between = float((((sums / counts)[labels] - values.mean()) ** 2).sum())
    return between / total if total > NEGLIGIBLE_SQUARES else 0.0


def correlation(one: Float[Tensor, " entry"], two: Float[Tensor, " entry"]) -> float:
    """Pearson's; 0 where the first does not vary."""
    varies = one.std() > NEGLIGIBLE_SPREAD
    return float(torch.corrcoef(torch.stack([one, two]))[0, 1]) if varies else 0.0


def content_correlations(model: HookedModel) -> list[float]:
    """For each layer, the correlation of a head's content scores with the log transition.

    Both are centred over key tokens, as softmax ignores their mean; of several heads, the one of
    the largest absolute correlation.
    """
    target = task_of(model).transition.log().T  # [query token, key token]
    target = target - target.mean(1, keepdim=True)
    subject = subject_of(model)
    found = []
    for layer in range(subject.n_layers):
        heads = []
        for head in range(subject.n_heads):
            scores = probes.token_scores(model, layer, head)
            scores = scores - scores.mean(1, keepdim=True)
            heads.append(float((scores * target).sum() / (scores.norm() * target.norm())))
        found.append(max(heads, key=abs))
    return found
