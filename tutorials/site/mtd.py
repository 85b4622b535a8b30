"""The results page of models trained on MTD tasks."""

import math
from typing import Any

import mtd_lens
from mtd_lens.families.mtd import study
from mtd_lens.results import forms
from probes.subject import HookedModel
from tutorials.site import RESULTS
from tutorials.site.answers import Answer, has, sentences
from tutorials.site.measurements import Figures
from tutorials.site.pages import Model, Results, comparison, final, groups, nearest_first

MODELS_A_FIGURE = 4

NEAR = 1.05
"""Estimators whose divergence is within this factor of the nearest one's are as near."""

INVERTED = 0.8
"""Content scores correlated with the log transition below minus this are said to be its inverse."""

GIVEN_QUERY = "mean_responsibility.interchange_given_query"
SCRUBBED = "mean_responsibility.scrubbing_given_query"
INJECTED = "mean_responsibility.injection"

CODES = {
    "correction": "c",
    "updated weights": "softmax(βS)",
    "mean log likelihood": "mean log p",
}
"""What is injected, under its column's heading; the first is the hypothesis."""

IN_CONSTRUCTION = {"responsibilities": 0, "mean_responsibility": 1, "mixture_weights": 2}
"""The layer in which the construction has each variable."""

SWAPS = {f"{v.replace('_', ' ')}": f"{v}.interchange" for v in IN_CONSTRUCTION}
"""Claims that layers carry the variables from any source, under their words."""

ESTIMATOR, ALGORITHM = "prediction.estimator", "prediction.algorithm"

MEAN_SCORES = {
    "mean responsibility given the query": GIVEN_QUERY,
    "for any source": SWAPS["mean responsibility"],
}

FURTHER = (*SWAPS.values(), "mixture_weights.interchange_given_query")
HELD = ("supported", "partial")

ANSWERS = (
    Answer(
        lambda m: has(m, "supported", *SWAPS.values()),
        "[carries|carry] the responsibilities, their mean and the mixture weights, each in one "
        "layer, as the construction does",
        SWAPS,
    ),
    Answer(
        lambda m: (
            has(m, "supported", GIVEN_QUERY, ESTIMATOR)
            and not any(m["claims"][claim]["verdict"] in HELD for claim in FURTHER)
        ),
        "[predicts|predict] like one step's group, but of the three [carries|carry] the mean "
        "responsibility alone, and that only between sequences that end in the same tokens",
        MEAN_SCORES,
    ),
    Answer(
        lambda m: has(m, "supported", ESTIMATOR) and has(m, "partial", GIVEN_QUERY),
        "[predicts|predict] like one step's group, and between sequences that end in the same "
        "tokens [carries|carry] the mean responsibility in part",
        MEAN_SCORES,
    ),
    Answer(
        lambda m: not has(m, "supported", ESTIMATOR),
        "[does|do] not predict like one step's group, or [does|do] so in part",
        {"predictions": ESTIMATOR},
    ),
    Answer(lambda m: True, "[does|do] none of this", {"predictions": ESTIMATOR}),
)
"""What models do, the first that holds."""

VIA_AVERAGE = "selector.via_average"

UNIFORM, POSITIONAL = 0.15, 0.15
"""Total variation below which a mean pattern counts as uniform, and a pattern as its mean."""


def kind_of(layer: dict[str, Any]) -> str:
    """What a layer's attention at the last query goes by."""
    uniform = layer["mean_pattern_tv_from_uniform"] < UNIFORM
    if layer["tv_between_sequence_and_mean"] < POSITIONAL:
        return "uniform average" if uniform else "by position alone"
    return "average weighted by content" if uniform else "by content"


def answers(finals: list[Model]) -> list[str]:
    """What models do, and how many predict as one step and as no rival."""
    alone = sum(has(model, "supported", ALGORITHM) for model in finals)
    nearer = sum(has(model, "refuted", ALGORITHM) for model in finals)
    return [
        *sentences(groups(finals), ANSWERS),
        f"Of the reference estimators, one step is nearer than every rival to {alone} of "
        f"{len(finals)} models, and a rival is nearer to {nearer}.",
    ]


def measure(model: HookedModel) -> Figures:
    """The figures of a model, its weights' among them."""
    return study.measure(model) | {"weights": best_findings(mtd_lens.read_weights(model))}


def best_findings(reading: mtd_lens.WeightReading) -> Figures:
    """For each kind of agreement of the weights with the construction, the best layer's."""
    best: dict[str, Any] = {}
    for found in reading.findings:
        known = best.get(found.name)
        if found.score is not None and (known is None or found.score > known.score):
            best[found.name] = found
    return {
        "n_random": reading.n_random,
        "findings": [
            {
                "name": name,
                "layers": list(found.layers),
                "value": found.value,
                "unit": found.unit,
                "null": list(found.null_value),
                "score": found.score,
            }
            for name, found in best.items()
        ],
    }


def findings(model: Model) -> list[dict[str, str]]:
    """The best-scoring layer for each kind of finding in the weights, as table cells."""
    return [
        {
            "name": found["name"],
            "layers": " → ".join(map(str, found["layers"])),
            "value": f"{found['value']:.3f}",
            "unit": found["unit"],
            "null": "{:.3f} … {:.3f}".format(*found["null"]),
            "score": f"{found['score']:.3f}",
        }
        for found in model["weights"]["findings"]
    ]


def as_near(model: Model) -> list[str]:
    """Estimators that are as near to the model's predictions as the nearest, which is left out."""
    nearest, *others = nearest_first(model).values()
    return [e["name"] for e in others if e["divergence"] <= NEAR * nearest["divergence"]]


def beside(value: float, null: list[float]) -> str:
    """A figure with the range of random models'."""
    return f"{value:.2f} [{null[0]:.2f}, {null[1]:.2f}]"


def at_end(model: Model) -> str:
    """How near the model's predictions are to one step."""
    share = model["held_out"]["share_of_uniform"][0]
    return f"KL(one step ‖ model) is {share:.3f} of\nKL(one step ‖ uniform weights)."


def given_query(model: Model) -> dict[str, str]:
    """The row of the table of what passes given the query's own tokens."""
    swap, scrubbed, injected = (
        model["claims"][claim] for claim in (GIVEN_QUERY, SCRUBBED, INJECTED)
    )
    others = [s for n, s in enumerate(swap["layers"]) if n < (swap["layer"] or 0)]
    dose, wrong, details = swap.get("dose"), swap["wrong_source"], injected["details"]
    first = next(iter(CODES))
    noise = next((v for k, v in details.items() if k.endswith("fitted to noise")), None)
    return {
        "layer": forms.NOTHING if swap["layer"] is None else str(swap["layer"]),
        "interchange": scored(swap, swap),
        "before": ", ".join(forms.figure(score, 2) for score in others) or forms.NOTHING,
        "wrong": forms.figure(wrong, 2),
        "dose": forms.NOTHING if dose is None else "{:.2f} [{:.2f}, {:.2f}]".format(*dose),
        "verdict": swap["verdict"].replace("_", " "),
        "scrubbing": scored(scrubbed, swap),
        "own": scored(injected, swap),
        "code": {first: CODES[first]}.get(details.get("code"), "S"),
        "noise": forms.figure(noise, 2),
    } | {code: forms.figure(details.get(f"injected: {code}"), 2) for code in CODES}


def scored(claim: Model, beside: Model) -> str:
    """A claim's score with its interval and, if it is another claim's no more, its layer."""
    if claim["score"] is None:
        return claim["verdict"].replace("_", " ")
    at = "" if claim["layer"] == beside["layer"] else f", layer {claim['layer']}"
    return f"{claim['score']:.2f} [{claim['low']:.2f}, {claim['high']:.2f}]{at}"


def injected_beside(finals: list[Model]) -> str:
    """How the injection of the correction, where it is the claim, stands to each rival's."""
    first, *rivals = CODES
    known = [
        model["claims"][INJECTED]["details"]
        for model in finals
        if model["claims"][INJECTED]["details"].get("code") == first
        and model["claims"][INJECTED]["verdict"] in ("supported", "partial")
    ]
    parts = [
        f"{CODES[rival]} scores higher than {CODES[first]} in "
        f"{sum(found[f'injected: {rival}'] > found[f'injected: {first}'] for found in known)}"
        for rival in rivals
    ]
    which = "models whose claim is of c, and holds at least in part"
    return f"Of {len(known)} {which}, {', '.join(parts)}."


def elsewhere(model: Model) -> list[str]:
    """Variables that are supported in another layer than the construction's."""
    found = []
    for variable, expected in IN_CONSTRUCTION.items():
        claims = [
            (claim["id"].partition(".")[2], claim["layer"])
            for claim in model["claims"].values()
            if claim["id"].partition(".")[0] == variable and claim["verdict"] == "supported"
        ]
        tests = [f"{test} at layer {layer}" for test, layer in claims if layer != expected]
        if tests:
            found.append(
                f"The construction has {variable.replace('_', ' ')} in layer {expected}; supported "
                f"here are {', '.join(tests)}."
            )
    return found


def oddities(model: Model) -> list[str]:
    """What a user of the model should know, read off its figures."""
    found = []
    claims = model["claims"]
    if "beta_at_bound" in model["scorecard"]["parameters"]:
        found.append("Its predictions fix no β: the fitted one lies at the end of the range.")
    found += elsewhere(model)
    attention = claims["responsibilities.attention"]
    interchange = claims["responsibilities.interchange"]
    if interchange["verdict"] == "supported" and attention["verdict"] != "supported":
        found.append(
            f"Layer {interchange['layer']}'s output carries the responsibilities (interchange "
            f"{interchange['score']:.2f}), but no head's pattern is them "
            f"({attention['score']:.2f})."
        )
    correlation = model["content_correlations"][0]["value"]
    if correlation < -INVERTED:
        betas = [f["value"] for f in model["weights"]["findings"] if f["name"] == VIA_AVERAGE]
        turned = ""
        if betas and betas[0] < 0:
            turned = f"; the path to the last layer turns it back (β {betas[0]:.1f})"
        found.append(
            "Layer 0's content scores are minus the log transition (correlation "
            f"{correlation:.2f}): it attends to the lags that do not explain a token{turned}."
        )
    ratio = model["held_out"]["over_one_step"]
    if ratio[2] < 1:
        found.append(
            f"It predicts better than the best one step of mirror descent: {ratio[0]:.3f} of its "
            "KL from the truth."
        )
    return found or ["None that its figures show."]


def kl_figures(finals: list[Model]) -> dict[str, list[Model]]:
    """Which models stand in which figure of KL against length, the first seed of each kind."""
    first = [members[0] for members in groups(finals).values()]
    found = {}
    for task in sorted({model["task"] for model in first}):
        members = [model for model in first if model["task"] == task]
        n_figures = math.ceil(len(members) / MODELS_A_FIGURE)
        for index in range(n_figures):
            name = f"kl-against-length-{task}-{index + 1}.png"
            found[name] = members[index::n_figures]
    return found


def training_figures(models: list[Model]) -> dict[str, list[Model]]:
    """Which checkpoints stand in which figure of claims over training."""
    found = {}
    for base in sorted({m["name"].split("@")[0] for m in models if "@" in m["name"]}):
        stages = [m for m in models if m["name"].split("@")[0] == base]
        found[f"over-training-{base.replace('/', '--')}.png"] = sorted(
            stages, key=lambda model: int(model["step"])
        )
    return found


def draw_figures(models: list[Model]) -> None:
    """KL against length, attention of the layers, and claims over training."""
    finals = final(models)
    for path, members in kl_figures(finals).items():
        mtd_lens.plot_comparisons(map(comparison, members), RESULTS / path)
    first = [members[0] for members in groups(finals).values()]
    mtd_lens.plot_attention(
        {
            m["variant"]: [layer["mean_over_heads"] for layer in m["patterns"]]
            for m in first
            if m["task"] == first[0]["task"]
        },
        RESULTS / "attention-at-the-last-query.png",
    )
    for path, stages in training_figures(models).items():
        mtd_lens.plot_training(
            [m["step"] for m in stages],
            {claim: [m["claims"][claim] for m in stages] for claim in stages[-1]["claims"]},
            RESULTS / path,
            title=stages[-1]["name"],
        )


def context(models: list[Model]) -> dict[str, Any]:
    """What the page's template is given."""
    return {
        "kl_figures": list(kl_figures(final(models))),
        "over_training": list(training_figures(models)),
        "near": NEAR,
        "n_patterns": study.N_PATTERNS,
        "n_nulls": study.N_NULLS,
        "uniform": UNIFORM,
        "positional": POSITIONAL,
        "kind_of": kind_of,
        "given_query": given_query,
        "codes": CODES,
        "injected_beside": injected_beside(final(models)),
        "oddities": oddities,
        "findings": findings,
        "as_near": as_near,
        "beside": beside,
    }


MTD = Results("mtd", measure, draw_figures, context, at_end, oddities, answers)
