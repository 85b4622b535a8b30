"""What the results page says of a trained model, measured and kept as JSON."""

from pathlib import Path
from typing import Any

import torch

import mtd_lens
import probes
from mtd_lens import render

DATA = Path(__file__).parent / "results"

N_HELD_OUT = 4096
N_COMPARED = 1024
N_PATTERNS = 512
SEED = 7
"""Of all evaluation sequences; training draws others."""


def measure(name: str) -> str:
    """Everything that the page says of one model, into its JSON file."""
    torch.set_num_threads(1)
    model = mtd_lens.load_model(name)
    found = {"name": name, "scorecard": mtd_lens.score(model, seed=SEED).to_dict()}
    if "@" not in name:
        found |= {
            "held_out": held_out(model),
            "patterns": patterns(model),
            "weights": mtd_lens.read_weights(model).to_dict(),
            "content_correlations": content_correlations(model),
            "comparison": compared(name).to_dict(),
        }
    render.json_text(found, data_file(name))
    return name


def compared(name: str) -> Any:
    """KL from the truth at several context lengths."""
    model = mtd_lens.load_model(name)
    return mtd_lens.compare(model, n_sequences=N_COMPARED, seed=SEED, name=name)


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
    from_truth = {"model": prediction, "one step": one_step, "exact Bayes": bayes}
    ratio = probes.one_minus_ratio(kl(truth, prediction), kl(truth, one_step), seed=SEED)
    share = probes.one_minus_ratio(kl(one_step, prediction), kl(one_step, uniform), seed=SEED)
    return {
        "n_sequences": N_HELD_OUT,
        "kl_from_truth": {
            who: vars(probes.mean_interval(kl(truth, values), seed=SEED))
            for who, values in (from_truth | {"uniform": uniform}).items()
        },
        "over_one_step": [1 - ratio.score, 1 - ratio.high, 1 - ratio.low],
        "share_of_uniform": [1 - share.score, 1 - share.high, 1 - share.low],
    }


def patterns(model: Any) -> list[dict[str, Any]]:
    """Every layer's attention at the last query, averaged over sequences and heads."""
    task = mtd_lens.task_of(model)
    tokens = task.sample(N_PATTERNS, SEED).tokens
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(model.cfg.n_layers)]
    _, cache = model.run_with_cache(tokens, names_filter=names)
    evidence = torch.zeros(task.seq_len, dtype=torch.float64)
    evidence[task.order :] = 1 / (task.seq_len - task.order)
    found = []
    for layer, name in enumerate(names):
        pattern = cache[name][:, :, -1].to(torch.float64)  # [sequence, head, key]
        mean = pattern.mean(0)
        distance = probes.total_variation(mean, evidence.expand_as(mean))
        head = int(distance.argmin())
        from_mean = probes.total_variation(pattern[:, head], mean[head].expand(len(tokens), -1))
        found.append(
            {
                "layer": layer,
                "mean_over_heads": mean.mean(0).tolist(),
                "head": head,
                "mean_pattern_tv_from_uniform": float(distance[head]),
                "tv_between_sequence_and_mean": float(from_mean.mean()),
                "before_evidence": float(mean[head, : task.order].sum()),
            }
        )
    return found


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


def data_file(name: str) -> Path:
    """Where the figures of a model are kept."""
    return DATA / f"{name.replace('/', '--')}.json"
