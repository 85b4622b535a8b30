"""What the tests of alignments share: pairs, predictions, and what a model must keep."""

import torch

import probes
from mtd_lens.measures.pairs import draw_pairs

LAST = slice(-1, None)
ORDER = 3


def predict(output):
    return output.double().softmax(-1)


def prepare(task, causal_model, variable="mean_responsibility", queries=LAST, tokens=None, seed=0):
    """Tokens, sources and counterfactuals."""
    tokens = task.sample(192, seed).tokens if tokens is None else tokens
    pairs = draw_pairs(causal_model, tokens, variable, queries, probes.kl_divergence, seed)
    return tokens, pairs.source, pairs.counterfactual


def state(model):
    return (
        model.training,
        [p.requires_grad for p in model.parameters()],
        [None if p.grad is None else p.grad.clone() for p in model.parameters()],
        [len(point.fwd_hooks) for point in model.hook_dict.values()],
        [p.detach().clone() for p in model.parameters()],
        repr(model.cfg),
    )


def same(first, second):
    def equal(a, b):
        if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
            return torch.equal(a, b)
        return a is b if a is None or b is None else a == b

    return all(
        all(map(equal, a, b)) and len(a) == len(b) if isinstance(a, list) else a == b
        for a, b in zip(first, second, strict=True)
    )
