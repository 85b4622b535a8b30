"""Models with a vocabulary of their own, made of models that read a task's tokens."""

import warnings
from dataclasses import replace

import torch
from conftest import transition
from random_models import build

import mtd_lens
from mtd_lens import Vocabulary
from mtd_lens.hooked import HookedTransformer

TASK = mtd_lens.MTDTask(transition(4, seed=5), order=2, seq_len=4, name="short")
"""Of four tokens, for the random models of seven and of six positions."""

VOCABULARIES = {
    "ids": Vocabulary([5, 2, 6, 1]),
    "bos and prefix": Vocabulary([5, 2, 6, 1], bos=0, prefix=[3]),
}

HIDDEN = 1e4
"""Score by which no query attends to what comes before the task's tokens."""


def spread(model, ids, n_ids, *, before=0, bias=-2.0, seed=5):
    """A model that does with ``ids`` what ``model`` does with its tokens.

    Other ids have random embeddings, and each of them the logit ``bias``; ``before`` further
    positions come before its own. Only of a model without normalisation are those hidden: in one
    more component of the stream, which the model's own tokens do not have, keys that no query of
    any head attends to.
    """
    generator = torch.Generator().manual_seed(seed)
    more = int(before > 0)
    cfg = replace(
        model.cfg,
        d_vocab=n_ids,
        d_vocab_out=n_ids,
        n_ctx=model.cfg.n_ctx + before,
        d_model=model.cfg.d_model + more,
        d_head=model.cfg.d_head + more,
        attn_scale=model.cfg.attn_scale,
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        wide = HookedTransformer(cfg).eval()
    own = dict(model.named_parameters())
    rows = {"W_E": ids, "W_pos": range(before, cfg.n_ctx)}
    with torch.no_grad():
        for name, weight in wide.named_parameters():
            kind, plain = name.rsplit(".", 1)[-1], own[name]
            weight.zero_()
            if kind in rows:
                weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64))
                weight[list(rows[kind])] = 0
                weight[list(rows[kind]), : plain.shape[1]] = plain
            elif kind == "W_U":
                weight[: len(plain), list(ids)] = plain
            elif kind == "b_U":
                weight.fill_(bias)
                weight[list(ids)] = plain
            else:
                weight[tuple(map(slice, plain.shape))] = plain
        if before:
            others = [each for each in range(n_ids) if each not in ids]
            wide.W_E[others, -1], wide.W_pos[:, -1] = 1, 0
            for block in wide.blocks:
                block.attn.W_K[:, -1, -1], block.attn.b_Q[:, -1] = -HIDDEN, 1
    return wide


def random_model(name):
    model = build(name)
    with torch.no_grad():
        model.unembed.b_U[0] += 1.0  # much mass outside
    return model


def logits_by_hand(model, vocabulary, tokens):
    """The model's logits after the last position, and its probability of all ids not asked for."""
    rows = [[*vocabulary.before, *(vocabulary.ids[t] for t in row)] for row in tokens.tolist()]
    with torch.no_grad():
        output = model(torch.tensor(rows))[:, -1].double()
    asked = list(vocabulary.ids)
    return output[:, asked], 1 - output.softmax(-1)[:, asked].sum(-1)
