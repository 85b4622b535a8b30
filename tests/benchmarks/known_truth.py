"""Scorecards of models of known truth: expected beside found, for every kind of test.

Usage: python tests/benchmarks/known_truth.py [--seeds 0 1 2] [--sequences 512] [--out FILE]

Prints, for each test, how many claims that are false were supported, and how many that are true
were kept; then every one that is not as expected. With --out, writes every claim's row as CSV.
"""

import argparse
import csv
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from known_truth.models import MODELS
from verdict_sets import held, supported

import mtd_lens

FIELDS = ("model", "seed", "claim", "expected", "verdict", "holds", "layer", "score", "low", "high")


def rows_of(known, seed, n_sequences):
    """A row for each claim whose truth is known."""
    card = mtd_lens.score(known.build(known.task), n_sequences=n_sequences, seed=seed)
    holds, taken = held(card), supported(card)
    for claim in card:
        expected = claim.id in known.true
        if not expected and claim.id not in known.false:
            continue
        found = claim.id in (holds if expected else taken)
        figures = (claim.layer, claim.score, claim.low, claim.high)
        row = (known.name, seed, claim.id, expected, claim.verdict, found, *figures)
        yield dict(zip(FIELDS, row, strict=True))


def summary(rows):
    """Counts by test, and the rows that are not as expected."""
    counts = Counter((r["claim"], r["expected"], r["holds"]) for r in rows)
    lines = [f"{'claim':42} {'false, supported':>18} {'true, kept':>14}"]
    for claim in dict.fromkeys(row["claim"] for row in rows):
        of = [counts[claim, expected, True] for expected in (False, True)]
        all_of = [of[i] + counts[claim, bool(i), False] for i in (0, 1)]
        lines.append(f"{claim:42} {f'{of[0]} of {all_of[0]}':>18} {f'{of[1]} of {all_of[1]}':>14}")
    lines += [f"NOT AS EXPECTED {row}" for row in rows if row["holds"] != row["expected"]]
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--sequences", type=int, default=512)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    rows = []
    for known in MODELS:
        for seed in given.seeds:
            rows += rows_of(known, seed, given.sequences)
            print(f"{known.name}, seed {seed}", file=sys.stderr, flush=True)
            if given.out:
                with given.out.open("w", newline="") as file:
                    writer = csv.DictWriter(file, FIELDS)
                    writer.writeheader()
                    writer.writerows(rows)
    print(summary(rows))


if __name__ == "__main__":
    main()
