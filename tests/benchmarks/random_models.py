"""Verdicts on models of random architectures and weights, of which no claim is true.

Usage: python tests/benchmarks/random_models.py [--models 24] [--sequences 512]

Architectures are drawn: layers, heads, widths, MLPs, normalisation, positions, grouped keys. So is
the size of the weights, from that of a fresh model to one whose predictions vary as a trained
one's. Prints a row for each model and the verdicts of each kind of test.
"""

import argparse
import random
import sys
import warnings
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch

import mtd_lens
from mtd_lens.hooked import HookedTransformer, HookedTransformerConfig
from mtd_lens.printing import text_table
from mtd_lens.verdicts import REFUTED, SUPPORTED

TASKS = ("mtd-q5-m3-t32", "mtd-q3-m2-t32", "mtd-q5-m3-t32", "ngram-q3-s12-t32")


def drawn(seed, task):
    """A model of a random architecture, and its description."""
    draw = random.Random(seed)
    n_heads, d_head = draw.choice((1, 2, 4)), draw.choice((4, 8, 16))
    grouped = draw.choice((None, None, 1)) if n_heads > 1 else None
    shape = {
        "n_layers": draw.randint(1, 4),
        "n_heads": n_heads,
        "d_head": d_head,
        "d_model": draw.choice((8, 16, 32, 64)),
        "normalization_type": draw.choice((None, "LN", "RMS")),
        "positional_embedding_type": draw.choice(("standard", "standard", "rotary")),
        "n_key_value_heads": grouped,
        "act_fn": draw.choice(("gelu", "relu")),
        **draw.choice(({"attn_only": True}, {"d_mlp": 64})),
    }
    scale = draw.choice((1.0, 3.0, 10.0))
    if shape["positional_embedding_type"] == "rotary":
        shape["rotary_dim"] = d_head
    described = f"{shape['n_layers']} layers, {n_heads} x {d_head} of {shape['d_model']}"
    described += f", {shape['normalization_type']}, {shape['positional_embedding_type']}"
    described += ", MLPs" if "d_mlp" in shape else ""
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = HookedTransformer(
            HookedTransformerConfig(
                n_ctx=task.seq_len,
                d_vocab=task.n_tokens,
                default_prepend_bos=False,
                device="cpu",
                **shape,
            )
        )
    for name, weight in model.named_parameters():
        if ".W_" in name or name.startswith("W_"):
            weight.data *= scale
    return model.eval(), f"{described}, weights x {scale:g}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=24)
    parser.add_argument("--sequences", type=int, default=512)
    given = parser.parse_args()
    counts, found = Counter(), []
    for seed in range(given.models):
        name = TASKS[seed % len(TASKS)]
        task = mtd_lens.load_task(name)
        model, described = drawn(seed, task)
        card = mtd_lens.score(model, task, n_sequences=given.sequences, seed=seed)
        counts.update((claim.id.partition(".")[2], claim.verdict) for claim in card)
        verdicts = [claim.verdict for claim in card]
        found.append([name, described, *(str(verdicts.count(v)) for v in (SUPPORTED, REFUTED))])
        for claim in card:
            if claim.verdict == SUPPORTED:
                print(f"SUPPORTED: {name}, {described}: {claim.id} {claim.score:.3f}", flush=True)
    print(text_table(["task", "model", "supported", "refuted"], found, left=(0, 1)))
    verdicts = sorted({verdict for _, verdict in counts})
    tests = sorted({test for test, _ in counts})
    rows = [[test, *(str(counts[test, verdict]) for verdict in verdicts)] for test in tests]
    total = ["all", *(str(sum(counts[test, verdict] for test in tests)) for verdict in verdicts)]
    print(text_table(["test", *verdicts], [*rows, total], left=(0,)))


if __name__ == "__main__":
    main()
