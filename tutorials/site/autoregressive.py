"""The results page of models trained on autoregressive tasks."""

from collections.abc import Mapping
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import mtd_lens
from mtd_lens.families.autoregressive import study
from tutorials.site import measurements
from tutorials.site.answers import Answer, has, sentences
from tutorials.site.autoregressive_figures import draw_studies
from tutorials.site.pages import Model, Results, groups, supported

TASK = "ar-d5-t32"
TRAINED = {
    "linear attention": [f"trained-linear-augmented-{depth}l-s0" for depth in study.DEPTHS],
    "softmax attention": ["trained-softmax-augmented-2l-s0"],
}
"""Models of ``TASK`` that are held against gradient descent, by what their kind is called."""

FOLDER = Path(study.__file__).parent / "studies"


ESTIMATOR, INNER = "prediction.estimator", "inner_products.attention"

ANSWERS = (
    Answer(
        lambda m: has(m, "supported", ESTIMATOR),
        "[predicts|predict] like one step of gradient descent",
        {"predictions": ESTIMATOR, "inner products as a pattern": INNER},
    ),
    Answer(
        lambda m: has(m, "supported", INNER) and has(m, "partial", ESTIMATOR),
        "[attends|attend] by the inner products that one step takes, and [predicts|predict] like "
        "it in part",
        {"inner products as a pattern": INNER, "predictions": ESTIMATOR},
    ),
    Answer(
        lambda m: True,
        "[does|do] neither, or in part",
        {"inner products as a pattern": INNER, "predictions": ESTIMATOR},
    ),
)
"""What models do, the first that holds."""


def answers(finals: list[Model]) -> list[str]:
    """How depth compares with steps, and what models do."""
    depth = {(row["source"], row["depth"]): row for row in data_of("depth")}
    return [against_descent(depth).replace("\n", " "), *sentences(groups(finals), ANSWERS)]


def measure_depth() -> list[dict[str, Any]]:
    """Errors of the trained models, and of gradient descent."""
    models = {
        kind: [mtd_lens.load_model(f"{TASK}/{name}") for name in names]
        for kind, names in TRAINED.items()
    }
    return study.measure_depth(models)


STUDIES = {
    "depth": measure_depth,
    "heads": study.measure_heads,
    "order": study.measure_order,
}


def file_of(name: str) -> Path:
    """Where what was measured in a study is kept."""
    return FOLDER / f"{name}.json"


def data_of(name: str) -> list[dict[str, Any]]:
    """What was measured in a study."""
    rows: list[dict[str, Any]] = measurements.read(file_of(name))
    return rows


def measure_studies(*, missing: bool) -> None:
    """Measure every study, or those that were not yet, and keep what was found."""
    for name, measure in STUDIES.items():
        if not (missing and file_of(name).exists()):
            measurements.write(file_of(name), measure())
            print(f"measured {name}", flush=True)


def draw(models: list[Model]) -> None:
    """Every study's figure; the models have none of their own."""
    draw_studies(TASK, **{name: data_of(name) for name in STUDIES})


def at_end(model: Model) -> str:
    """How the model's error stands to that of gradient descent."""
    found, low, high = model["held_out"]["over_as_many_steps"]
    n_steps = model["held_out"]["n_steps"]
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
            "any layer: editing a layer's output does not edit them, and "
            "`augmented_token.interchange` and `.injection` cannot be supported."
        )
    found.append(f"Claims that hold for it: {', '.join(supported(model)) or 'none'}.")
    return found


def context(models: list[Model]) -> dict[str, Any]:
    """What the page's template is given."""
    depth = {(row["source"], row["depth"]): row for row in data_of("depth")}
    order = {(row["noise"], row["order"]): row for row in data_of("order")}
    return {
        "task": TASK,
        "depth": depth,
        "depths": study.DEPTHS,
        "sources": list(dict.fromkeys(source for source, _ in depth)),
        "heads": heads(data_of("heads")),
        "heads_dim": study.DIM,
        "heads_length": study.LENGTH,
        "starts": len(study.STARTS),
        "order": [
            (noise, order[noise, "ordered"], order[noise, "shuffled"]) for noise in study.NOISES
        ],
    }


def against_descent(depth: Mapping[tuple[str, int], dict[str, float]]) -> str:
    """At which depths the trained models are better, or worse, than the best free steps."""
    better, worse = [], []
    for d in study.DEPTHS:
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
    study.measure,
    draw,
    context,
    at_end,
    oddities,
    answers,
    measure_studies,
)
