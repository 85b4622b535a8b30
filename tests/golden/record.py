"""Ask every question of a few small models, and write down each number of the answers.

Only names of the public interface are used, so that the script records an older checkout too:

    PYTHONPATH=CHECKOUT OMP_NUM_THREADS=1 python tests/golden/record.py --out FOLDER

writes one file a case with every value in full: ``{command: {path: value}}``. What changes with the
wording or the machine is left out, see ``normalized``.
"""

import argparse
import json
import math
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cases import Case, cases_named

import mtd_lens
import probes

Value = float | int | bool | str | None | np.ndarray
Record = dict[str, dict[str, Value]]

N_PATCHED = 16
"""Sequences of every patched grid."""

OTHER_SEED = 100
"""Added to the seed for the sequences that activations are taken from."""


def record(case: Case) -> Record:
    """Every value of every answer, by command and path.

    Models are of float64: there the order of sums, which another processor or a faster engine
    changes, shows in the last digits alone, also after a fit or a search.
    """
    model = mtd_lens.load_model(case.model, dtype=torch.float64)
    return {
        command: dict(flattened(normalized(_ask(model, command, case.seed, options))))
        for command, options in case.commands.items()
    }


def _ask(model: Any, command: str, seed: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """The answer as plain data and arrays."""
    name, _, component = command.partition(" ")
    if name == "patch":
        return _patched(model, component, seed, options)
    ask: Callable[..., Any] = getattr(mtd_lens, name)
    answer = ask(model, seed=seed, **options)
    return _inspected(answer) if name == "inspect" else json.loads(answer.to_json())


def _patched(model: Any, component: str, seed: int, options: Mapping[str, Any]) -> dict[str, Any]:
    task = mtd_lens.task_of(model)
    clean = task.sample(N_PATCHED, seed).tokens
    corrupted = task.sample(N_PATCHED, seed + OTHER_SEED).tokens
    with torch.no_grad():
        answer = model(clean)[:, -1]
    metric = _nearness(answer) if clean.is_floating_point() else _log_probability(answer)
    grid = probes.patch_activations(model, clean, corrupted, component, metric, **options)
    with warnings.catch_warnings():  # random models may have no gap, and effects that are NaN
        warnings.filterwarnings("ignore", "no effects, but differences")
        table = grid.to_dataframe(seed)
    columns = {name: np.asarray(table[name]) for name in table if name not in grid.axes}
    return json.loads(grid.to_json()) | {"table": columns}


def _log_probability(answer: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Of the token that the model gives to the clean sequence: larger there than elsewhere."""
    tokens = answer.argmax(-1, keepdim=True)
    return lambda logits: logits.log_softmax(-1).gather(-1, tokens)[:, 0]


def _nearness(answer: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """Of vectors to what the model gives to the clean sequence."""
    return lambda vectors: -(vectors - answer).square().sum(-1)


def _inspected(found: Any) -> dict[str, Any]:
    analysis = found.analysis
    return {
        "model": found.model,
        "task": found.task,
        "seed": found.seed,
        "n_cut": found.n_cut,
        "parameters": dict(found.parameters),
        "tokens": found.tokens.numpy(),
        "attention": found.attention.numpy(),
        "nearest_heads": {name: heads.numpy() for name, heads in found.nearest_heads.items()},
        "patterns": {
            pattern.name: {
                "values": pattern.values.numpy(),
                "distances": found.distances(pattern).numpy(),
            }
            for pattern in analysis.patterns
        },
        "latents": {source: values.numpy() for source, values in analysis.latents.items()},
        "predictions": {source: values.numpy() for source, values in analysis.predictions.items()},
    }


WORDS = frozenset(
    ["statement", "divergence", "unit", "where", "probed", "metric", "engine", "inert_hooks"]
)
"""Texts that may be put in other words, and which say nothing that the numbers do not."""

SURROUNDINGS = frozenset(["version", "versions", "base64"])
"""What depends on the machine or on the form of the file; bytes of tensors do, to the last bit."""

SCORECARD = frozenset(
    ["model", "task", "seed", "n_sequences", "claims", "matrix", "estimators", "parameters"]
)


def normalized(answer: Mapping[str, Any]) -> dict[str, Any]:
    """An answer in the one form in which checkouts are compared.

    - What is listed in ``WORDS`` and ``SURROUNDINGS`` is left out, wherever it stands, unless it is
      a number (an estimator's ``divergence``).
    - Packed tensors are left out: of an alignment's directions the basis says what is found.
    - A ``site`` in words is replaced by the whole numbers in it: layer, heads and positions.
    - A scorecard's parameters, which its first form spreads among the other fields, are put under
      ``parameters``.
    """
    plain = _without_words(answer)
    if "claims" in plain:
        spread = {name: value for name, value in plain.items() if name not in SCORECARD}
        kept = {name: value for name, value in plain.items() if name in SCORECARD}
        plain = {**kept, "parameters": {**spread, **kept.get("parameters", {})}}
    return plain


def _without_words(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {
            name: " ".join(re.findall(r"\d+", inner))
            if name == "site" and isinstance(inner, str)
            else _without_words(inner)
            for name, inner in value.items()
            if name not in SURROUNDINGS and not (name in WORDS and isinstance(inner, str | list))
        }
    return [_without_words(inner) for inner in value] if isinstance(value, list) else value


IDENTITY = ("claim", "variable", "name", "length", "layer", "place")
"""Fields by which an entry of a list is told from the others, where it has no ``id``."""


def flattened(value: Any, path: str = "") -> Iterator[tuple[str, Value]]:
    """Every leaf with its path: ``claims[mixture_weights.probe].score``.

    Entries of a list are named by the fields in ``IDENTITY``, the second of the same name ``#2``,
    and so on; lists of numbers, nested ones as well, are one leaf, an array.
    """
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from flattened(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and (array := _as_array(value)) is None:
        if not value:
            yield path, "nothing"
        seen: Counter[str] = Counter()
        for index, inner in enumerate(value):
            label = _label(inner, index)
            seen[label] += 1
            again = f" #{seen[label]}" if seen[label] > 1 else ""
            yield from flattened(inner, f"{path}[{label}{again}]")
    else:
        yield path, array if isinstance(value, list) else value


def _as_array(value: list[Any]) -> np.ndarray | None:
    try:
        array = np.array(value)
    except ValueError:  # rows of several lengths
        return None
    return array if array.size and array.dtype.kind in "if" else None


def _label(entry: Any, index: int) -> str:
    if not isinstance(entry, Mapping):
        return str(index)
    if "id" in entry:
        return str(entry["id"])
    parts = [entry[name] for name in IDENTITY if name in entry]
    words = [
        " ".join(str(inner) for inner in part.values() if inner is not None)
        if isinstance(part, Mapping)
        else str(part)
        for part in parts
    ]
    return ", ".join(words) if words else str(index)


def to_plain(value: Value) -> Any:
    """A leaf as JSON can hold it; numbers that are not finite as texts."""
    if isinstance(value, np.ndarray):
        values = [to_plain(each) for each in value.flatten().tolist()]
        return {"shape": list(value.shape), "values": values}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def from_plain(plain: Any) -> Value:
    """The leaf that ``to_plain`` described."""
    if isinstance(plain, Mapping):
        values = [float(each) if isinstance(each, str) else each for each in plain["values"]]
        return np.array(values).reshape(plain["shape"])
    return float(plain) if plain in ("nan", "inf", "-inf") else plain


def write_record(path: Path, found: Record) -> None:
    """Write a record in full."""
    plain = {
        command: {name: to_plain(value) for name, value in values.items()}
        for command, values in found.items()
    }
    path.write_text(json.dumps(plain, allow_nan=False), encoding="utf-8")


def read_record(path: Path) -> Record:
    """The record that ``write_record`` wrote."""
    plain = json.loads(path.read_text(encoding="utf-8"))
    return {
        command: {name: from_plain(value) for name, value in values.items()}
        for command, values in plain.items()
    }


def main() -> None:
    """Record the checkout that Python finds."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--cases", nargs="*", default=[], help="parts of the names of models")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    print(f"recording {Path(mtd_lens.__file__).parent.parent}", file=sys.stderr)
    for case in cases_named(options.cases):
        start = time.perf_counter()
        write_record(options.out / f"{case.name}.json", record(case))
        print(f"{time.perf_counter() - start:6.1f} s  {case.model}", file=sys.stderr)


if __name__ == "__main__":
    main()
