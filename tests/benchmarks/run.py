"""Ratios of speed, each measured in one run against what a user would otherwise call.

Prints medians of paired repetitions; run with ``make bench``. Nothing here is an assertion:
machines are shared and noisy.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import mtd_lens
from mtd_lens.printing import text_table

REPETITIONS = 5


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare(name: str, ours: Callable[[], Any], theirs: Callable[[], Any], label: str) -> list[str]:
    """One row: medians over alternating runs, after a warm-up of ours."""
    ours()
    pairs = [(seconds(ours), seconds(theirs)) for _ in range(REPETITIONS)]
    fast, slow = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(b / a for a, b in pairs)
    return [name, label, f"{1e3 * fast:.1f}", f"{1e3 * slow:.1f}", f"{ratio:.0f}"]


def loop_sampler(task: Any, n: int) -> np.ndarray:
    """What one writes first: a token at a time."""
    rng = np.random.default_rng(0)
    transition, m = task.transition.numpy(), task.order
    tokens = np.zeros((n, task.seq_len), dtype=np.int64)
    for i in range(n):
        weights = rng.dirichlet(np.ones(m))
        tokens[i, :m] = rng.integers(task.n_tokens, size=m)
        for k in range(m, task.seq_len):
            lag = 1 + rng.choice(m, p=weights)
            tokens[i, k] = rng.choice(task.n_tokens, p=transition[tokens[i, k - lag]])
    return tokens


def loop_over_prefixes(task: Any, tokens: torch.Tensor) -> list[torch.Tensor]:
    return [
        mtd_lens.mirror_descent(task, tokens[:, :end], 0.1)
        for end in range(task.order + 1, task.seq_len + 1)
    ]


def main() -> None:
    long = mtd_lens.MTDTask(mtd_lens.load_task("mtd-q5-m3-t64").transition, 3, 128)
    task = mtd_lens.load_task("mtd-q5-m3-t64")
    tokens = task.sample(256, seed=0).tokens
    few = tokens[:64]
    rows = [
        compare(
            "sampler, 256 × 128",
            lambda: long.sample(256, seed=0),
            lambda: loop_sampler(long, 256),
            "a loop over tokens",
        ),
        compare(
            "posterior mean by quadrature, 16 × 64",
            lambda: mtd_lens.posterior_mean(task, tokens[:16], "quadrature"),
            lambda: mtd_lens.gibbs_posterior(task, tokens[:16], standard_error=1e-3),
            "Gibbs to a standard error of 1e-3",
        ),
        compare(
            "one step at every query, 256 × 64",
            lambda: mtd_lens.mirror_descent(task, tokens, 0.1, every_query=True),
            lambda: loop_over_prefixes(task, tokens),
            "a loop over prefixes",
        ),
        compare(
            "maximum likelihood, 64 × 64",
            lambda: mtd_lens.maximum_likelihood(task, few),
            lambda: mtd_lens.expectation_maximization(task, few, 2000),
            "2000 steps of EM",
        ),
    ]
    header = ["what", "against", "ms", "ms against", "ratio"]
    print(f"medians of {REPETITIONS} paired repetitions, {torch.get_num_threads()} threads")
    print(text_table(header, rows, left=(0, 1)))


if __name__ == "__main__":
    main()
