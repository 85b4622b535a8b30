"""The results page of models trained on autoregressive tasks."""

from collections.abc import Mapping
from itertools import groupby
from operator import itemgetter
from typing import Any

import autoregressive_studies as studies
from model_pages import N_HELD_OUT, SEED, Model, Results, interval, measured, ratio, supported

import mtd_lens
import probes
from mtd_lens.families.autoregressive.claims import predicted_vectors
from mtd_lens.families.autoregressive.references import MAX_STEPS, reference_predictions


def measure(name: str) -> dict[str, Any]:
    """Everything that the page says of one model."""
    return measured(name, held_out)


def held_out(model: Any) -> dict[str, Any]:
    """Squared error at the last query of sequences that nothing was trained or fitted on."""
    task = mtd_lens.task_of(model)
    batch, fit = task.sample(N_HELD_OUT, SEED), task.sample(N_HELD_OUT, SEED + 1)
    found = reference_predictions(task, fit.tokens, fit.truth, batch.tokens)
    n_steps = min(model.cfg.n_layers, MAX_STEPS)
    steps = "one step" if n_steps == 1 else f"{n_steps} steps, free"
    predictions = {"model": predicted_vectors(model, batch.tokens, task)} | {
        name: found[name][0] for name in dict.fromkeys(("one step", steps, "zero"))
    }
    errors = {name: probes.squared_error(batch.truth, value) for name, value in predictions.items()}
    return {
        "n_sequences": N_HELD_OUT,
        "from_truth": {name: interval(value) for name, value in errors.items()},
        "median": float(errors["model"].median()),
        "over_as_many_steps": ratio(errors["model"], errors[steps]),
    }


def at_end(model: Model) -> str:
    """How the model's error stands to that of gradient descent."""
    found, low, high = model["held_out"]["over_as_many_steps"]
    n_steps = min(model["config"].n_layers, MAX_STEPS)
    steps = "one step" if n_steps == 1 else f"{n_steps} steps, each of its own best size,"
    return (
        f"This model's is {found:.3f} [{low:.3f}, {high:.3f}] times that of {steps}\n"
        "of gradient descent."
    )


def oddities(model: Model) -> list[str]:
    """What a user of the model should know, read off its figures."""
    found = []
    if "augmented" in model["config"].architecture:
        found.append(
            "Its embedding reads the last two vectors, so that augmented tokens are there before "
            "any layer: swapping a layer's output does not swap them, and "
            "`augmented_token.interchange` cannot be supported."
        )
    found.append(f"Claims that hold for it: {', '.join(supported(model)) or 'none'}.")
    return found


def context(models: list[Model]) -> dict[str, Any]:
    """What the page's template is given."""
    depth = {(row["source"], row["depth"]): row for row in studies.data_of("depth")}
    order = {(row["noise"], row["order"]): row for row in studies.data_of("order")}
    return {
        "task": studies.TASK,
        "depth": depth,
        "depths": studies.DEPTHS,
        "sources": list(dict.fromkeys(source for source, _ in depth)),
        "against_descent": against_descent(depth),
        "heads": heads(studies.data_of("heads")),
        "heads_dim": studies.DIM,
        "heads_length": studies.LENGTH,
        "starts": len(studies.STARTS),
        "order": [
            (noise, order[noise, "ordered"], order[noise, "shuffled"]) for noise in studies.NOISES
        ],
    }


def against_descent(depth: Mapping[tuple[str, int], dict[str, float]]) -> str:
    """At which depths the trained models are better, or worse, than the best free steps."""
    better, worse = [], []
    for d in studies.DEPTHS:
        model, steps = (
            depth[source, d] for source in ("linear attention", "gradient descent, free")
        )
        if model["high"] < steps["low"]:
            better.append(d)
        elif model["low"] > steps["high"]:
            worse.append(d)
    one, prefix = depth["linear attention", 1], depth["gradient descent, prefix", 1]
    trained_on_all = (
        "\nOne layer, trained on all queries, leaves less than one step fitted to all (prefix)."
        if one["high"] < prefix["low"]
        else ""
    )
    return (
        "Where intervals do not overlap, linear attention leaves less error than as many free\n"
        f"steps at depth {listed(better)}, and more at depth {listed(worse)}.{trained_on_all}"
    )


def listed(numbers: list[int]) -> str:
    """Numbers in words of a sentence."""
    return ", ".join(map(str, numbers)) or "none"


def heads(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The worst of the starts for each number of heads."""
    by_number = groupby(rows, key=itemgetter("n_heads"))
    return [
        {
            "n_heads": number,
            "floor": starts[0]["floor"],
            "loss": max(start["loss"] for start in starts),
            "weight": min(start["weight_on_last"] for start in starts),
            "cosine": max(start["largest_cosine_between_heads"] for start in starts),
        }
        for number, starts in ((number, list(found)) for number, found in by_number)
    ]


AUTOREGRESSIVE = Results(
    "autoregressive",
    "results-autoregression.md",
    measure,
    lambda models: studies.draw_studies(),
    context,
    at_end,
    oddities,
    studies.measure_studies,
)
