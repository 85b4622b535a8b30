"""What the results page of MTD models says of one, measured."""

from collections.abc import Iterable
from typing import Any

import torch
from model_pages import N_HELD_OUT, SEED, compared, interval, ratio

import mtd_lens
import probes
from mtd_lens.hooked import randomized

N_PATTERNS = 1024
N_NULLS = 20
"""Random models of the same architecture that figures stand beside."""


def measure(name: str) -> dict[str, Any]:
    """Everything that the page says of one model."""
    torch.set_num_threads(1)
    model = mtd_lens.load_model(name)
    found: dict[str, Any] = {"scorecard": mtd_lens.score(model, seed=SEED).to_dict()}
    if "@" not in name:
        found |= {
            "held_out": held_out(model),
            "patterns": patterns_beside_null(model),
            "weights": mtd_lens.read_weights(model).to_dict(),
            "content_correlations": content_correlations(model),
            "content_correlations_null": [
                spread(layer)
                for layer in zip(*map(content_correlations, nulls(model)), strict=True)
            ],
            "comparison": compared(name),
        }
    return found


def held_out(model: Any) -> dict[str, Any]:
    """Predictions at the last query of sequences that nothing was trained or fitted on."""
    task = mtd_lens.task_of(model)
    batch = task.sample(N_HELD_OUT, SEED)
    tokens = batch.tokens
    truth = mtd_lens.predict(task, tokens, batch.weights)
    prediction = mtd_lens.model_predictions(model, tokens)
    algorithm = mtd_lens.MTDCausalModel(task, mtd_lens.best_beta(task))
    one_step = algorithm.run(tokens)["prediction"][:, -1]
    uniform = mtd_lens.predict(task, tokens, torch.full_like(batch.weights, 1 / task.order))
    bayes = mtd_lens.predict(task, tokens, mtd_lens.posterior_mean(task, tokens))
    kl = probes.kl_divergence
    predictions = {
        "model": prediction,
        "one step": one_step,
        "exact Bayes": bayes,
        "uniform": uniform,
    }
    return {
        "n_sequences": N_HELD_OUT,
        "from_truth": {who: interval(kl(truth, value)) for who, value in predictions.items()},
        "over_one_step": ratio(kl(truth, prediction), kl(truth, one_step)),
        "share_of_uniform": ratio(kl(one_step, prediction), kl(one_step, uniform)),
    }


def nulls(model: Any) -> list[Any]:
    """Random models of the same architecture."""
    return [randomized(model, seed, "null") for seed in range(N_NULLS)]


def spread(figures: Iterable[float]) -> list[float]:
    """The 95% range of figures."""
    low, high = torch.tensor(list(figures)).quantile(torch.tensor([0.025, 0.975])).tolist()
    return [low, high]


def patterns_beside_null(model: Any) -> list[dict[str, Any]]:
    """``patterns``, with the ranges over random models of what departures go by."""
    found = patterns(model)
    for layer, *others in zip(found, *map(patterns, nulls(model)), strict=True):
        for name in ("explained_by_window", "correlation_with_decisiveness"):
            layer[f"{name}_null"] = spread(other[name] for other in others)
    return found


def patterns(model: Any) -> list[dict[str, Any]]:
    """Every layer's attention at the last query: its mean, and what departures from it go by."""
    task = mtd_lens.task_of(model)
    tokens = task.sample(N_PATTERNS, SEED).tokens
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)]
    _, cache = model.run_with_cache(tokens, names_filter=names)
    evidence = torch.zeros(task.seq_len, dtype=torch.float64)
    evidence[task.order :] = 1 / (task.seq_len - task.order)
    # The tokens that an evidence position's responsibilities depend on, as one number each, and how
    # decisive those are.
    base = task.n_tokens ** torch.arange(task.order + 1)
    windows = (tokens.unfold(1, task.order + 1, 1) * base).sum(-1).flatten()
    decisive = mtd_lens.responsibilities(task, tokens).amax(-1).flatten()
    found = []
    for layer, name in enumerate(names):
        pattern = cache[name][:, :, -1].to(torch.float64)  # [sequence, head, key]
        mean = pattern.mean(0)
        distance = probes.total_variation(mean, evidence.expand_as(mean))
        head = int(distance.argmin())
        departures = (pattern[:, head] - mean[head])[:, task.order :].flatten()
        from_mean = probes.total_variation(pattern[:, head], mean[head].expand(len(tokens), -1))
        found.append(
            {
                "layer": layer,
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


def explained(values: torch.Tensor, labels: torch.Tensor) -> float:
    """R² of the means of values with the same label; 0 where there is nothing to explain."""
    n = int(labels.max()) + 1
    sums = torch.zeros(n, dtype=values.dtype).index_add(0, labels, values)
    counts = torch.bincount(labels, minlength=n).clamp_min(1)
    total = float(((values - values.mean()) ** 2).sum())
    between = float((((sums / counts)[labels] - values.mean()) ** 2).sum())
    return between / total if total > 1e-12 else 0.0


def correlation(one: torch.Tensor, two: torch.Tensor) -> float:
    """Pearson's; 0 where one does not vary."""
    return float(torch.corrcoef(torch.stack([one, two]))[0, 1]) if one.std() > 1e-9 else 0.0


def content_correlations(model: Any) -> list[float]:
    """For each layer, the correlation of a head's content scores with the log transition.

    Both are centred over key tokens, as softmax ignores their mean; of several heads, the one of
    the largest absolute correlation.
    """
    target = mtd_lens.task_of(model).transition.log().T  # [query token, key token]
    target = target - target.mean(1, keepdim=True)
    found = []
    for layer in range(model.cfg.n_layers):
        heads = []
        for head in range(model.cfg.n_heads):
            scores = probes.token_scores(model, layer, head)
            scores = scores - scores.mean(1, keepdim=True)
            heads.append(float((scores * target).sum() / (scores.norm() * target.norm())))
        found.append(max(heads, key=abs))
    return found
