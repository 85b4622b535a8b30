"""What the tests of alignments share: pairs, predictions, and what a model must keep."""

from dataclasses import replace

import torch

import probes
from mtd_lens.architectures.layout import Layout
from mtd_lens.families.mtd import absolute
from mtd_lens.families.mtd.plan import Plan, unembed
from mtd_lens.hooked import ModelInfo, assemble
from mtd_lens.measures.pairs import prediction_with

LAST = slice(-1, None)
ORDER = 3


def predict(output):
    return output.double().softmax(-1)


def prepare(task, causal_model, variable="mean_responsibility", queries=LAST, tokens=None, seed=0):
    """Tokens, sources and counterfactuals."""
    tokens = task.sample(192, seed).tokens if tokens is None else tokens
    source = torch.arange(len(tokens)).roll(1 + seed)
    values = causal_model.run(tokens)[variable][source]
    return tokens, source, prediction_with(causal_model, tokens, variable, values, queries)


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


LEAK, GAIN = 2e-4, 3.0
"""Of what is read and hardly varies, and of what varies and is not read."""


def stored_and_unused(task, beta):
    """A construction of four layers whose layer 1 stores the mean where nothing reads it.

    Layer 2 computes it once more where layer 3 reads it. Of layer 1's output the stored mean makes
    up nearly all; where layer 3 reads, it holds a trace of the tokens, ``LEAK`` in size.
    """
    plan, m, q = Plan(task, beta), task.order, task.n_tokens
    layout, elsewhere = _layouts(task)
    stored = absolute.average(plan, elsewhere)
    W_V, W_O = stored["blocks.1.attn.W_V"], stored["blocks.1.attn.W_O"]
    W_O *= GAIN
    for c in range(m):
        W_V[c, layout["token"], m : m + q] = torch.eye(q).double()
        W_O[c, m : m + q, layout["class"]] = LEAK * probes.random_subspace(q, m, c)
    return _four_layers(plan, layout, stored, absolute.average(plan, layout))


def split_in_two(task, beta, share):
    """A construction whose layer 1 writes a share of the mean, and layer 2 the rest."""
    plan = Plan(task, beta)
    layout, _ = _layouts(task)
    parts = [absolute.average(plan, layout) for _ in range(2)]
    for part, size in zip(parts, (share, 1 - share), strict=True):
        part["blocks.1.attn.W_O"] *= size
    return _four_layers(plan, layout, *parts)


def _layouts(task):
    """Where the mean is read, and the same with its place and a spare one exchanged."""
    m = task.order
    first, last = {"token": task.n_tokens, "position": task.seq_len, "lag": m}, task.n_tokens
    return tuple(
        Layout({**first, **dict.fromkeys(names, m), "output": last})
        for names in (("class", "spare"), ("spare", "class"))
    )


def _four_layers(plan, layout, first, second):
    """Embedding, responsibilities, two blocks that are written as layer 1, and the read-out."""
    weights = absolute.embed(plan, layout) | absolute.responsibilities(plan, layout) | first
    weights |= _moved(second, 2) | _moved(absolute.read_out(plan, layout), 3)
    weights |= unembed(plan, layout)
    whole, _ = absolute.construct_absolute(plan)
    architecture = replace(whole, n_layers=4, d_model=layout.size)
    return assemble(architecture, weights, ModelInfo(plan.task, "made"), torch.float64)


def _moved(block, layer):
    return {f"blocks.{layer}.{name.split('.', 2)[2]}": value for name, value in block.items()}
