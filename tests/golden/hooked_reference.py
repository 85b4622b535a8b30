"""What HookedTransformers compute under one version of transformer-lens, held against another.

    python tests/golden/hooked_reference.py record FILE    every answer in full
    python tests/golden/hooked_reference.py compare FILE   FILE with what is computed now, exactly
    python tests/golden/hooked_reference.py store          renew the stored checksums

Answers are those of ``hooked_cases.py``, of shipped models and of options of the class. Stored are,
of models in float64, the names in their order and two checksums of each answer, ``Σ x / √n`` and
``Σ cos(i) x / √n``, in ten digits; those in the repository are of transformer-lens 3.9.
"""

import argparse
import json
import math
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from hooked_cases import (
    MODELS,
    OPTIONS,
    Answers,
    apart,
    asked,
    computed,
    filled,
    inputs_of,
    names_of,
    some_tokens,
)
from torch import Tensor

import mtd_lens
from mtd_lens.hooked import HookedTransformer, HookedTransformerConfig

STORED = Path(__file__).parent / "hooked.json"
NAMES = (*MODELS, *OPTIONS)
DTYPES = (torch.float32, torch.float64)


def model_of(name: str, dtype: torch.dtype) -> Any:
    """A shipped model, or one of some options."""
    if name in OPTIONS:
        return filled(HookedTransformer, HookedTransformerConfig, OPTIONS[name], dtype)
    return mtd_lens.load_model(name, dtype=dtype)


def answers_of(name: str, model: Any) -> Answers:
    """What it computes."""
    if name in OPTIONS:
        return computed(model, some_tokens()) | asked(model)
    return computed(model, inputs_of(name))


def compact(name: str) -> dict[str, list[Any]]:
    """What is stored of a name: its hooks and weights, and checksums by the answers' names."""
    model = model_of(name, torch.float64)
    found = answers_of(name, model)
    sums = [float(f"{each:.10g}") for key in sorted(found) for each in checksums(found[key])]
    return {**names_of(model), "checksums": sums, "answers": [len(found)]}


def checksums(value: Tensor) -> tuple[float, float]:
    """Two sums that a change of an entry moves; minus infinity, of masked scores, counts 0."""
    flat = value.double().nan_to_num(neginf=0.0).flatten()
    waves = torch.arange(len(flat), dtype=torch.float64).cos()
    size = math.sqrt(max(1, len(flat)))
    return float(flat.sum()) / size, float((flat * waves).sum()) / size


def recorded() -> Iterator[tuple[str, Answers]]:
    """Every answer in full, by name and dtype."""
    for name in NAMES:
        for dtype in DTYPES:
            yield f"{name}, {dtype}", answers_of(name, model_of(name, dtype))


def main() -> int:
    """Record, compare or store as the arguments say; 1 if something is apart."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("record", "compare", "store"))
    parser.add_argument("file", type=Path, nargs="?")
    options = parser.parse_args()
    print(f"transformer-lens {version('transformer-lens')}")
    if options.what == "store":
        lines = [f"{json.dumps(name)}: {json.dumps(compact(name))}" for name in NAMES]
        STORED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        return 0
    if options.what == "record":
        torch.save(dict(recorded()), options.file)
        return 0
    before = torch.load(options.file)
    total = largest = 0.0
    for name, found in recorded():
        differences = dict(apart(before[name], found))
        total, largest = total + len(differences), max(largest, *differences.values())
        moved = {key: value for key, value in differences.items() if value > 0}
        print(f"{name:<60} {len(differences):>4} answers, {len(moved)} apart", moved or "")
    print(f"{total:.0f} answers, largest difference {largest:.3g}")
    return int(largest > 0)


if __name__ == "__main__":
    sys.exit(main())
