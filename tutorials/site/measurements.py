"""What was measured of a shipped model, kept beside its card: as much as pages and figures show.

A file has one line for each kind of figure, with eight significant digits.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch

import mtd_lens
from mtd_lens.measures.held_out import SEED
from mtd_lens.registry import shipped_checkpoints
from mtd_lens.results.scorecard import ClaimResult
from probes import files
from probes.subject import HookedModel

Figures = dict[str, Any]
"""Plain data, as JSON holds it."""

Study = Callable[[HookedModel], Figures]
"""What a family measures of a model beside its scorecard."""

NAME = "measurements.json"
DIGITS = 8

N_COMPARED = 1024
"""Sequences a context length."""

CLAIM = ("id", "layer", "score", "low", "high", "floor", "threshold", "verdict")
BESIDE = ("injection", "scrubbing_given_query")
"""Tests whose further figures are kept too."""

LAYERS = ("interchange_given_query",)
"""Tests of which every layer's score is kept."""

ESTIMATOR = ("name", "divergence", "low", "high")
"""What is kept of a scorecard's entries."""


def file_of(name: str) -> Path:
    """Where the figures of a shipped model are kept."""
    return shipped_checkpoints()[name] / NAME


def read(path: Path) -> Any:
    """Figures that ``write`` kept."""
    return json.loads(path.read_text(encoding="utf-8"))


def write(path: Path, figures: Mapping[str, Any] | list[Any]) -> None:
    """Keep figures: one line for each entry."""
    if isinstance(figures, Mapping):
        lines = [f"{json.dumps(key)}:{_line(value)}" for key, value in figures.items()]
        opening, closing = "{}"
    else:
        lines = [_line(value) for value in figures]
        opening, closing = "[]"
    path.parent.mkdir(exist_ok=True)
    files.write_text(path, "\n".join([opening, ",\n".join(lines), closing, ""]))


def _line(value: Any) -> str:
    return json.dumps(rounded(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def rounded(value: Any) -> Any:
    """Plain data with every number to ``DIGITS`` significant digits."""
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(entry) for entry in value]
    return value


def measure_all(names: Iterable[str], study: Study, processes: int) -> None:
    """Measure models of a family, each in a process of its own, and keep what was found."""
    wanted = list(names)
    with ProcessPoolExecutor(processes) as pool:
        for name, found in zip(
            wanted, pool.map(partial(measure, study=study), wanted), strict=True
        ):
            write(file_of(name), found)
            print(f"measured {name}", flush=True)


def measure(name: str, study: Study) -> Figures:
    """The scorecard of a model; of those at the end of their training, all that pages say."""
    torch.set_num_threads(1)
    model = mtd_lens.load_model(name)
    found: Figures = {"scorecard": of_scorecard(mtd_lens.score(model, seed=SEED))}
    if "@" not in name:
        comparison = mtd_lens.compare(model, n_sequences=N_COMPARED, seed=SEED, name=name)
        found |= {
            "n_parameters": sum(parameter.numel() for parameter in model.parameters()),
            "comparison": of_comparison(comparison),
            **study(model),
        }
    return found


def of_scorecard(card: mtd_lens.Scorecard) -> Figures:
    """What pages show of a scorecard."""
    return {
        "n_sequences": card.n_sequences,
        "seed": card.seed,
        "divergence": card.divergence,
        "parameters": dict(card.parameters),
        "versions": dict(card.versions),
        "conclusion": card.conclusion,
        "claims": [_of_claim(claim, card) for claim in card.claims],
        "estimators": [_kept(entry, ESTIMATOR) for entry in card.estimators],
    }


def _of_claim(claim: ClaimResult, card: mtd_lens.Scorecard) -> Figures:
    """A claim's figures; those that it lacks are left out."""
    found = _kept(claim, CLAIM)
    test = claim.id.partition(".")[2]
    if claim.dose is not None:
        found["dose"] = [claim.dose.score, claim.dose.low, claim.dose.high]
    if test in BESIDE:
        found["details"] = dict(claim.details)
    if test in LAYERS:
        wrong = claim.controls.get("a wrong source")
        found["wrong_source"] = None if wrong is None else wrong.score
        found["layers"] = [entry.score for entry in card.matrix if entry.claim == claim.id]
    return found


def of_comparison(comparison: mtd_lens.Comparison) -> Figures:
    """What figures show of a comparison: each source's divergence from the truth by length."""
    found: Figures = {
        "n_sequences": comparison.n_sequences,
        "seed": comparison.seed,
        "divergence": comparison.divergence,
        "drawn": list(comparison.drawn),
        "lengths": list(comparison.lengths),
        "from_truth": {},
    }
    for entries in zip(*comparison.rows, strict=True):
        shown = ("divergence", "low", "high") if entries[0].name == "model" else ("divergence",)
        found["from_truth"][entries[0].name] = {
            key: [getattr(entry, key) for entry in entries] for key in shown
        }
    return found


def _kept(entry: object, fields: Iterable[str]) -> Figures:
    return {field: getattr(entry, field) for field in fields}
