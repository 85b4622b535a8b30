"""Measure every trained model of MTD tasks and write the results page and the model cards.

    python tutorials/make_results.py            # everything, about a minute a model on one core
    python tutorials/make_results.py --page     # only the pages, from figures measured before

Writes ``tutorials/results.md``, ``tutorials/results/`` (data as JSON, figures) and, beside each
checkpoint, ``card.md``. No measured number of the page is typed.
"""

import argparse
import json
import math
import re
import shlex
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import jinja2
from measurements import DATA, N_HELD_OUT, N_NULLS, N_PATTERNS, SEED, data_file, measure

import mtd_lens
from mtd_lens import render
from mtd_lens.checkpoints import read_manifest
from mtd_lens.registry import shipped_checkpoints
from mtd_lens.run_folder import read_metrics
from mtd_lens.training_config import TrainingConfig

HERE = Path(__file__).parent
PAGE = HERE / "results.md"

MODELS_A_FIGURE = 4

NEAR = 1.05
"""Estimators whose divergence is within this factor of the nearest one's are as near."""

INVERTED = 0.8
"""Content scores correlated with the log transition below minus this are said to be its inverse."""

VIA_AVERAGE = "selector.via_average"

UNIFORM, POSITIONAL = 0.15, 0.15
"""Total variation below which a mean pattern counts as uniform, and a pattern as its mean."""


# Reading what was measured.


def models_of_the_page() -> list[str]:
    """The trained models on MTD tasks, which the page is about."""
    return [name for name in sorted(shipped_checkpoints()) if name.startswith("mtd-")]


def read_model(name: str) -> dict[str, Any]:
    """What was measured of a model, with its manifest and metrics."""
    folder = shipped_checkpoints()[name]
    manifest = read_manifest(folder)
    found: dict[str, Any] = json.loads(data_file(name).read_text(encoding="utf-8"))
    config = TrainingConfig(**manifest["config"])
    model = mtd_lens.load_model(name)
    return found | {
        "variant": name.split("/")[1],
        "task": manifest["task"]["name"],
        "config": config,
        "step": manifest["step"],
        "versions": manifest["versions"],
        "metrics": manifest["metrics"],
        "command": shlex.join(config.command(manifest["task"]["name"], "DIR")),
        "first_losses": [row for row in read_metrics(folder) if row["step"] <= 200],
        "claims": {claim["id"]: claim for claim in found["scorecard"]["claims"]},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "folder": folder,
    }


def groups(models: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Models that differ in their seed alone, under what they have in common."""
    found: dict[str, list[dict[str, Any]]] = {}
    for model in models:
        stem = re.sub(r"-s\d+$", "", model["variant"]).removeprefix("trained-")
        length = model["task"].rsplit("-t", 1)[1]
        found.setdefault(f"{stem}, T = {length}", []).append(model)
    for label, members in found.items():
        recipes = {tuple(m["config"].changed({"seed": 0}).command("", "")) for m in members}
        if len(recipes) > 1:
            raise ValueError(f"models of {label} differ in more than their seed: {recipes}")
    return dict(sorted(found.items(), key=_deep_first))


def _deep_first(group: tuple[str, list[dict[str, Any]]]) -> tuple[Any, ...]:
    label, members = group
    config = members[0]["config"]
    return members[0]["task"], -config.n_layers, config.architecture != "disentangled", label


def summary(members: list[dict[str, Any]]) -> str:
    """Which claims all seeds of a group support, and which none does."""
    every = [c for c in members[0]["claims"] if _all(members, c, "supported")]
    none = [c for c in members[0]["claims"] if not _any(members, c, "supported")]
    some = [c for c in members[0]["claims"] if c not in every + none]
    seeds = f"each of {len(members)} seeds" if len(members) > 1 else "its one seed"
    parts = [f"supported in {seeds}: {', '.join(every) or 'nothing'}"]
    if some:
        parts.append(f"in some seeds: {', '.join(some)}")
    if none:
        parts.append(f"in none: {', '.join(none)}")
    return "; ".join(parts) + "."


def _all(members: list[dict[str, Any]], claim: str, verdict: str) -> bool:
    return all(model["claims"][claim]["verdict"] == verdict for model in members)


def _any(members: list[dict[str, Any]], claim: str, verdict: str) -> bool:
    return any(model["claims"][claim]["verdict"] == verdict for model in members)


def kind_of(layer: dict[str, Any]) -> str:
    """What a layer's attention at the last query goes by."""
    uniform = layer["mean_pattern_tv_from_uniform"] < UNIFORM
    if layer["tv_between_sequence_and_mean"] < POSITIONAL:
        return "uniform average" if uniform else "by position alone"
    return "average weighted by content" if uniform else "by content"


def verdicts(members: list[dict[str, Any]], claim: str) -> str:
    """How a group of models does on a claim: verdicts, and the range of scores."""
    found = [model["claims"][claim] for model in members]
    counts = {v: sum(c["verdict"] == v for c in found) for v in {c["verdict"] for c in found}}
    said = ", ".join(f"{n} {v.replace('_', ' ')}" for v, n in sorted(counts.items()))
    scores = sorted(c["score"] for c in found)
    span = f"{scores[0]:.2f}" if len(scores) == 1 else f"{scores[0]:.2f} … {scores[-1]:.2f}"
    verdict = next(iter(counts)).replace("_", " ") if len(counts) == 1 else said
    return f"**{verdict}** {span}" if verdict == "supported" else f"{verdict} {span}"


def estimators(model: dict[str, Any]) -> dict[str, Any]:
    """A model's estimator results by name, the nearest first."""
    found = sorted(model["scorecard"]["estimators"], key=lambda entry: entry["divergence"])
    return {entry["name"]: entry for entry in found}


def best_findings(model: dict[str, Any]) -> list[dict[str, str]]:
    """The best-scoring layer for each kind of finding in the weights, as table cells."""
    best: dict[str, dict[str, Any]] = {}
    for finding in model["weights"]["findings"]:
        known = best.get(finding["name"])
        if finding["score"] is None or (known and known["score"] >= finding["score"]):
            continue
        best[finding["name"]] = finding
    return [
        {
            "name": name,
            "layers": " → ".join(str(layer) for layer in dict.fromkeys(h[0] for h in f["heads"])),
            "value": f"{f['value']:.3f}",
            "unit": f["unit"],
            "null": "{:.3f} … {:.3f}".format(*f["null_value"]),
            "score": f"{f['score']:.3f}",
        }
        for name, f in best.items()
    ]


def as_near(model: dict[str, Any]) -> list[str]:
    """Estimators that are as near to the model's predictions as the nearest, which is left out."""
    nearest, *others = estimators(model).values()
    return [e["name"] for e in others if e["divergence"] <= NEAR * nearest["divergence"]]


def beside(value: float, null: list[float]) -> str:
    """A figure with the range of random models'."""
    return f"{value:.2f} [{null[0]:.2f}, {null[1]:.2f}]"


def oddities(model: dict[str, Any]) -> list[str]:
    """What a user of the model should know, read off its figures."""
    found = []
    scorecard, claims = model["scorecard"], model["claims"]
    if "beta_at_bound" in scorecard:
        found.append("Its predictions fix no β: the fitted one lies at the end of the range.")
    for claim in claims.values():
        expected = {"responsibilities": 0, "mean_responsibility": 1, "mixture_weights": 2}
        layer = expected.get(claim["id"].split(".")[0])
        if claim["verdict"] == "supported" and layer not in (None, claim["layer"]):
            found.append(f"{claim['id']} is supported at layer {claim['layer']}, not {layer}.")
    attention = claims["responsibilities.attention"]
    interchange = claims["responsibilities.interchange"]
    if interchange["verdict"] == "supported" and attention["verdict"] != "supported":
        found.append(
            f"Layer {interchange['layer']}'s output carries the responsibilities (interchange "
            f"{interchange['score']:.2f}), but no head's pattern is them "
            f"({attention['score']:.2f})."
        )
    correlation = model["content_correlations"][0]
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


# Writing.


def kl_figures(finals: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Which models stand in which figure of KL against length, the first seed of each kind."""
    first = [members[0] for members in groups(finals).values()]
    found = {}
    for task in sorted({model["task"] for model in first}):
        members = [model for model in first if model["task"] == task]
        n_figures = math.ceil(len(members) / MODELS_A_FIGURE)
        for index in range(n_figures):
            name = f"results/kl-against-length-{task}-{index + 1}.png"
            found[name] = members[index::n_figures]
    return found


def training_figures(models: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Which checkpoints stand in which figure of claims over training."""
    found = {}
    for base in sorted({m["name"].split("@")[0] for m in models if "@" in m["name"]}):
        stages = [m for m in models if m["name"].split("@")[0] == base]
        found[f"results/over-training-{base.replace('/', '--')}.png"] = sorted(
            stages, key=lambda model: int(model["step"])
        )
    return found


def draw_figures(models: list[dict[str, Any]]) -> None:
    """KL against length, attention of the layers, and claims over training."""
    finals = [model for model in models if "@" not in model["name"]]
    for path, members in kl_figures(finals).items():
        compared = [mtd_lens.Comparison.from_dict(m["comparison"]) for m in members]
        mtd_lens.plot_comparisons(compared, HERE / path)
    first = [members[0] for members in groups(finals).values()]
    mtd_lens.plot_attention(
        {
            m["variant"]: [layer["mean_over_heads"] for layer in m["patterns"]]
            for m in first
            if m["task"] == first[0]["task"]
        },
        DATA / "attention-at-the-last-query.png",
    )
    for path, stages in training_figures(models).items():
        mtd_lens.plot_training(
            [m["step"] for m in stages],
            {claim: [m["claims"][claim] for m in stages] for claim in stages[-1]["claims"]},
            HERE / path,
            title=stages[-1]["name"],
        )


def pages(models: list[dict[str, Any]]) -> dict[Path, str]:
    """The text of the results page and of every final model's card, by path."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    for function in (
        verdicts,
        summary,
        kind_of,
        oddities,
        estimators,
        best_findings,
        as_near,
        beside,
    ):
        environment.globals[function.__name__] = function
    finals = [model for model in models if "@" not in model["name"]]
    card = environment.get_template("model_card.md.jinja")
    page = environment.get_template("results.md.jinja").render(
        models=finals,
        groups=groups(finals),
        kl_figures=list(kl_figures(finals)),
        over_training=list(training_figures(models)),
        near=NEAR,
        versions=finals[0]["scorecard"]["versions"],
        seed=SEED,
        n_held_out=N_HELD_OUT,
        n_patterns=N_PATTERNS,
        n_nulls=N_NULLS,
        uniform=UNIFORM,
        positional=POSITIONAL,
    )
    return {PAGE: page} | {m["folder"] / "card.md": card.render(model=m) for m in finals}


def main() -> None:
    """Measure, unless told not to, and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", action="store_true", help="write the pages only")
    parser.add_argument("--missing", action="store_true", help="measure only what was not yet")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    names = models_of_the_page()
    DATA.mkdir(exist_ok=True)
    wanted = [n for n in names if not (arguments.missing and data_file(n).exists())]
    if not arguments.page:
        with ProcessPoolExecutor(arguments.processes) as pool:
            for name in pool.map(measure, wanted):
                print(f"measured {name}", flush=True)
    models = [read_model(name) for name in names]
    draw_figures(models)
    for path, text in pages(models).items():
        render.write_text(path, text)
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
