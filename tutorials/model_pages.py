"""Pages about trained models: what those of all families have in common."""

import json
import re
import shlex
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import torch
from torch import Tensor

import mtd_lens
import probes
from mtd_lens.checkpoints import read_manifest
from mtd_lens.registry import shipped_checkpoints
from mtd_lens.results import forms as render
from mtd_lens.training.config import TrainingConfig
from mtd_lens.training.run_folder import read_metrics

HERE = Path(__file__).parent
DATA = HERE / "results"

SEED = 7
"""Of all evaluation sequences; training draws others."""

N_HELD_OUT = 4096
N_COMPARED = 1024

Model = dict[str, Any]


@dataclass(frozen=True)
class Results:
    """How the trained models of a family are measured, and what page says so.

    Attributes:
        family: Its name.
        page: The page's name in ``tutorials/``.
        measure: What the page says of the model of a name, for its JSON file; called in a process
            of its own.
        draw: Draw the page's figures.
        context: What the page's template is given beside what all pages are.
        at_end: What a model's card says below its divergence from the truth.
        oddities: What a user of a model should know, for its card.
        studies: Makes further measurements, once, not for each model; with ``missing``, those that
            were not made yet.
    """

    family: str
    page: str
    measure: Callable[[str], Model]
    draw: Callable[[list[Model]], None]
    context: Callable[[list[Model]], dict[str, Any]]
    at_end: Callable[[Model], str]
    oddities: Callable[[Model], list[str]]
    studies: Callable[..., None] = lambda *, missing: None

    def names(self) -> list[str]:
        """The family's trained models, checkpoints of their training among them."""
        found = sorted(shipped_checkpoints().items())
        return [name for name, at in found if read_manifest(at)["task"]["family"] == self.family]

    def read(self) -> list[Model]:
        """What was measured of every model."""
        return [read_model(name) for name in self.names()]

    def pages(self, models: list[Model]) -> dict[Path, str]:
        """The text of the page and of every final model's card, by path."""
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader(HERE / "templates"),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        environment.globals |= {
            "verdicts": verdicts,
            "summary": summary,
            "nearest_first": nearest_first,
            "at_end": self.at_end,
            "oddities": self.oddities,
        }
        finals = final(models)
        common = {
            "models": finals,
            "groups": groups(finals),
            "n_held_out": N_HELD_OUT,
            "seed": SEED,
            "versions": finals[0]["scorecard"]["versions"],
        }
        page = environment.get_template(f"{self.page}.jinja").render(common | self.context(models))
        card = environment.get_template("model_card.md.jinja")
        cards = {m["folder"] / "card.md": card.render(model=m) for m in finals}
        return {HERE / self.page: page} | cards

    def measure_all(self, names: list[str], processes: int) -> None:
        """Measure models of the family, and keep what was found."""
        DATA.mkdir(exist_ok=True)
        with ProcessPoolExecutor(processes) as pool:
            for name, found in zip(names, pool.map(self.measure, names), strict=True):
                render.json_text({"name": name} | found, data_file(name))
                print(f"measured {name}", flush=True)


def data_file(name: str) -> Path:
    """Where the figures of a model are kept."""
    return DATA / f"{name.replace('/', '--')}.json"


def read_model(name: str) -> Model:
    """What was measured of a model, with its manifest and metrics."""
    folder = shipped_checkpoints()[name]
    manifest = read_manifest(folder)
    found: Model = json.loads(data_file(name).read_text(encoding="utf-8"))
    config = TrainingConfig(**manifest["config"])
    model = mtd_lens.load_model(name)
    measure, _, unit = found["scorecard"]["divergence"].partition(", ")
    return found | {
        "from_truth": f"{measure} from the truth" + (f" ({unit})" if unit else ""),
        "variant": name.split("/")[1],
        "task": manifest["task"]["name"],
        "seq_len": manifest["task"]["seq_len"],
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


def measured(name: str, held_out: Callable[[Any], Model]) -> Model:
    """A model's scorecard, its comparison with the truth, and what ``held_out`` finds of it."""
    torch.set_num_threads(1)
    model = mtd_lens.load_model(name)
    return {
        "scorecard": mtd_lens.score(model, seed=SEED).to_dict(),
        "held_out": held_out(model),
        "comparison": compared(name),
    }


def compared(name: str) -> Model:
    """Divergence from the truth at several context lengths, of a model and the estimators."""
    model = mtd_lens.load_model(name)
    found: Model = mtd_lens.compare(model, n_sequences=N_COMPARED, seed=SEED, name=name).to_dict()
    return found


def interval(values: Tensor) -> dict[str, float]:
    """The mean of values, one a sequence, with its 95% interval."""
    return vars(probes.mean_interval(values, seed=SEED))


def ratio(values: Tensor, others: Tensor) -> list[float]:
    """The ratio of the means of paired values, one a sequence, and its 95% interval."""
    found = probes.one_minus_ratio(values, others, seed=SEED)
    return [1 - found.score, 1 - found.high, 1 - found.low]


def final(models: list[Model]) -> list[Model]:
    """Models at the end of their training."""
    return [model for model in models if "@" not in model["name"]]


def groups(models: list[Model]) -> dict[str, list[Model]]:
    """Models that differ in their seed alone, under what they have in common."""
    found: dict[str, list[Model]] = {}
    for model in models:
        stem = re.sub(r"-s\d+$", "", model["variant"]).removeprefix("trained-")
        found.setdefault(f"{stem}, T = {model['seq_len']}", []).append(model)
    for label, members in found.items():
        recipes = {tuple(m["config"].changed({"seed": 0}).command("", "")) for m in members}
        if len(recipes) > 1:
            raise ValueError(f"models of {label} differ in more than their seed: {recipes}")
    return dict(sorted(found.items(), key=_deep_first))


def _deep_first(group: tuple[str, list[Model]]) -> tuple[Any, ...]:
    label, members = group
    config = members[0]["config"]
    return members[0]["seq_len"], -config.n_layers, config.architecture != "disentangled", label


def summary(members: list[Model]) -> str:
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


def _all(members: list[Model], claim: str, verdict: str) -> bool:
    return all(model["claims"][claim]["verdict"] == verdict for model in members)


def _any(members: list[Model], claim: str, verdict: str) -> bool:
    return any(model["claims"][claim]["verdict"] == verdict for model in members)


def supported(model: Model) -> list[str]:
    """The claims that hold for a model."""
    return [name for name in model["claims"] if _all([model], name, "supported")]


def verdicts(members: list[Model], claim: str) -> str:
    """How a group of models does on a claim: verdicts, and the range of scores."""
    found = [model["claims"][claim] for model in members]
    counts = {v: sum(c["verdict"] == v for c in found) for v in {c["verdict"] for c in found}}
    said = ", ".join(f"{n} {v.replace('_', ' ')}" for v, n in sorted(counts.items()))
    scores = sorted(c["score"] for c in found)
    span = f"{scores[0]:.2f}" if len(scores) == 1 else f"{scores[0]:.2f} … {scores[-1]:.2f}"
    verdict = next(iter(counts)).replace("_", " ") if len(counts) == 1 else said
    return f"**{verdict}** {span}" if verdict == "supported" else f"{verdict} {span}"


def nearest_first(model: Model) -> Model:
    """A model's estimator results by name, the nearest to its predictions first."""
    found = sorted(model["scorecard"]["estimators"], key=lambda entry: entry["divergence"])
    return {entry["name"]: entry for entry in found}
