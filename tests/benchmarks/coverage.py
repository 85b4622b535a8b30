"""How often intervals hold the score of infinitely many sequences, where 95% is claimed.

Usage: python tests/benchmarks/coverage.py [--repeats 400] [--seed 991]

Repeats are drawn from one large pool of sequences, or of pairs, on which the model is run once; the
pool as a whole gives the value to be covered. Printed beside it is what the plain percentile
interval covers: for probes, that of a ridge probe with a cross-validated penalty that is fitted on
half of the sequences and resamples the other half.
"""

import argparse
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

import mtd_lens
import probes
from mtd_lens.contracts import EVERY, LAST
from mtd_lens.experiment import Experiment
from mtd_lens.families.mtd.claims import control_task
from mtd_lens.measures.probe import MAX_FURTHER, attainable_errors, probe_errors
from mtd_lens.printing import text_table
from probes.capture import NaturalRuns
from probes.linear import ROWS_A_FEATURE
from probes.subject import HookedModel

POOL = 20_000
WRITTEN_POOL = 6_000
SIZES = (64, 256, 768)
MODELS = ("mtd-q5-m3-t32/trained-gpt-3l-s0", "mtd-q5-m3-t32/trained-disentangled-3l-s0")
PROBED = (
    ("responsibilities", EVERY, "blocks.0.hook_attn_out"),
    ("mean_responsibility", LAST, "blocks.2.hook_attn_out"),
)
WRITTEN = (
    "responsibilities.interchange",
    "mean_responsibility.interchange",
    "mean_responsibility.interchange_given_query",
)


def attainable(features: torch.Tensor, targets: list[torch.Tensor]) -> list[float]:
    """R² for infinitely many sequences, from a pool, whose own residuals fall short by little."""
    fitted = probes.fit_ridges(features, targets, probes.linear.LEAST_PENALTY)
    scores = []
    for probe, target in zip(fitted, targets, strict=True):
        error, deviation = probe.errors(features, target)
        scores.append(1 - float(error.mean() / deviation.mean()) / probe.attainable)
    return scores


def covered(features, targets, n_sequences, repeats):
    """By target: shares of repeats in which the new and the old interval hold, and new widths."""
    rng, truths = np.random.default_rng(n_sequences), attainable(features, targets)
    half = n_sequences // 2
    needed = math.ceil(ROWS_A_FEATURE * features.shape[2] / features.shape[1])
    n_fit = half + min(max(needed - half, 0), MAX_FURTHER)
    held = np.zeros((len(targets), 3))
    for repeat in range(repeats):
        drawn = torch.from_numpy(rng.choice(len(features), n_fit + half, replace=False))
        fit, test = drawn[:n_fit], drawn[n_fit:]
        pair = [features[fit], features[test]]
        new = attainable_errors(pair, *(target[drawn] for target in targets))
        few = torch.cat([fit[:half], test])
        old = probe_errors([features[fit[:half]], pair[1]], *(target[few] for target in targets))
        for i, ((probe, ours), (_, rows), truth) in enumerate(zip(new, old, truths, strict=True)):
            found = probes.read_interval(*ours, probe.spread, repeat)
            before = probes.one_minus_ratio(*rows, seed=repeat)
            held[i] += (
                found.low <= truth <= found.high,
                before.low <= truth <= before.high,
                found.high - found.low,
            )
    return truths, held / repeats


def probe_rows(model: HookedModel, repeats: int, seed: int) -> Iterator[list[Any]]:
    """Probes of variables, and of the same variables' control tasks."""
    causal = Experiment.of(model, None, 0).drawn(256).causal_model
    tokens = causal.task.sample(POOL, seed=seed).tokens
    variables, positions = causal.run(tokens), causal.query_positions(tokens.shape[1])
    sites = [probes.Site(hook, positions[queries]) for _, queries, hook in PROBED]
    read = NaturalRuns(model, tokens).read(sites)
    for (variable, queries, _), features in zip(PROBED, read, strict=True):
        decoy = control_task(causal, tokens, variable, 0)
        targets = [values[:, queries] for values in (variables[variable], decoy)]
        for size in SIZES:
            truths, held = covered(features, targets, size, repeats)
            for what, truth, figures in zip(
                (f"{variable}.probe", f"{variable}.probe, control"), truths, held, strict=True
            ):
                yield [what, str(size), truth, *figures]


def written_rows(model: HookedModel, repeats: int, seed: int) -> Iterator[list[Any]]:
    """Interchange, at the layer that is best for the whole pool; a pair for two sequences."""
    experiment = Experiment.of(model, None, seed).drawn(2 * WRITTEN_POOL)
    trial = experiment.trial()
    claims = {claim.id: claim for claim in experiment.algorithm.claims(experiment.task)}
    for name in WRITTEN:
        found = max(claims[name].measure(trial), key=lambda m: m.selection)
        above, below = found.numerator, found.denominator
        truth = 1 - float(above.mean() / below.mean())
        for size in SIZES:
            rng, held = np.random.default_rng(size), np.zeros(3)
            for repeat in range(repeats):
                drawn = torch.from_numpy(rng.choice(len(above), size // 2, replace=False))
                for i, expanded in enumerate((True, False)):
                    pair = above[drawn], below[drawn]
                    limits = probes.one_minus_ratio(*pair, seed=repeat, expanded=expanded)
                    held[i] += limits.low <= truth <= limits.high
                    held[2] += (limits.high - limits.low) * expanded
            yield [name, str(size), truth, *(held / repeats)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=400)
    parser.add_argument("--seed", type=int, default=991)
    given, rows = parser.parse_args(), []
    for name in MODELS:
        model = mtd_lens.load_model(name)
        for of in (written_rows, probe_rows):
            rows += [[name.split("/")[1], *row] for row in of(model, given.repeats, given.seed)]
    header = ["model", "claim", "sequences", "score", "covered", "before", "width"]
    texts = [[x if isinstance(x, str) else f"{x:.3f}" for x in row] for row in rows]
    print(text_table(header, texts, left=(0, 1)))
    new, old = np.mean([row[4:6] for row in rows], 0)
    print(f"mean {new:.3f}, before {old:.3f}; least {min(row[4] for row in rows):.3f}")


if __name__ == "__main__":
    main()
