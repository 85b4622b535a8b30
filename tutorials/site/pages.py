"""Pages about trained models: what those of all families have in common."""

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jinja2

from mtd_lens.checkpoints import read_manifest
from mtd_lens.measures.held_out import N_SEQUENCES, SEED
from mtd_lens.registry import shipped_checkpoints
from mtd_lens.results import forms
from mtd_lens.results.comparison import Comparison
from mtd_lens.results.scorecard import EstimatorResult
from mtd_lens.training.config import TrainingConfig
from mtd_lens.training.run_folder import read_metrics
from mtd_lens.views.plots import style
from probes import files
from tutorials.site import RESULTS, TEMPLATES, measurements
from tutorials.site.answers import has
from tutorials.site.measurements import Study
from tutorials.site.verdict_figures import draw_claims

N_FIRST_STEPS = 200
"""Steps of training whose losses stand on a model's card."""

Model = dict[str, Any]
"""What is known of a trained model: its measurements, manifest and metrics, for the templates."""


class Page(Protocol):
    """A results page: what is measured for it, and what it says.

    Attributes:
        family: By which it is asked for.
        page: Its file.
    """

    @property
    def family(self) -> str: ...  # noqa: D102

    @property
    def page(self) -> Path: ...  # noqa: D102

    def measure(self, *, missing: bool, processes: int) -> None:
        """Measure all of it, or with ``missing`` what was not yet, and keep what was found."""

    def read(self) -> Any:
        """What was measured."""

    def draw(self, found: Any) -> None:
        """Draw its figures."""

    def pages(self, found: Any) -> dict[Path, str]:
        """The text of each file that it writes, by path."""


@dataclass(frozen=True)
class Results:
    """How the trained models of a family are measured, and what page says so.

    Attributes:
        family: Its name, and that of its page and of the page's template.
        study: What is measured of a model beside its scorecard and its comparison.
        draw_figures: Draw the page's figures but for that of its claims.
        context: What the page's template is given beside what all pages are.
        at_end: What a model's card says below its divergence from the truth.
        oddities: What a user of a model should know, for its card.
        answers: The sentences that the page begins with, of models at the end of training.
        measure_studies: Makes further measurements, once, not for each model; with ``missing``,
            those that were not made yet.
    """

    family: str
    study: Study
    draw_figures: Callable[[list[Model]], None]
    context: Callable[[list[Model]], dict[str, Any]]
    at_end: Callable[[Model], str]
    oddities: Callable[[Model], list[str]]
    answers: Callable[[list[Model]], list[str]]
    measure_studies: Callable[..., None] = lambda *, missing: None

    @property
    def page(self) -> Path:
        """The page's file."""
        return RESULTS / f"{self.family}.md"

    @property
    def figure(self) -> Path:
        """Every claim of every model, in one figure."""
        return RESULTS / f"claims-{self.family}.png"

    def names(self) -> list[str]:
        """The family's trained models, checkpoints of their training among them."""
        found = sorted(shipped_checkpoints().items())
        return [name for name, at in found if read_manifest(at)["task"]["family"] == self.family]

    def read(self) -> list[Model]:
        """What was measured of every model."""
        return [read_model(name) for name in self.names()]

    def draw(self, models: list[Model]) -> None:
        """Draw the page's figures."""
        title = "Verdicts on every claim (rows) of every kind of trained model, a disc a seed"
        with style.applied():
            files.write_figure(draw_claims(groups(final(models)), title), self.figure)
        self.draw_figures(models)

    def pages(self, models: list[Model]) -> dict[Path, str]:
        """The text of the page and of every final model's card, by path."""
        environment = templates()
        environment.globals |= {
            "verdicts": verdicts,
            "nearest_first": nearest_first,
            "at_end": self.at_end,
            "oddities": self.oddities,
        }
        finals = final(models)
        common = {
            "models": finals,
            "groups": groups(finals),
            "answers": self.answers(finals),
            "figure": self.figure.name,
            "n_held_out": N_SEQUENCES,
            "seed": SEED,
            "versions": finals[0]["scorecard"]["versions"],
        }
        page = environment.get_template(f"{self.family}.md.jinja").render(
            common | self.context(models)
        )
        card = environment.get_template("model_card.md.jinja")
        cards = {m["folder"] / "card.md": card.render(model=m) for m in finals}
        return {self.page: page} | cards

    def measure(self, *, missing: bool, processes: int) -> None:
        """Measure the family's models, or those that were not yet, and keep what was found."""
        self.measure_studies(missing=missing)
        names = [n for n in self.names() if not (missing and measurements.file_of(n).exists())]
        measurements.measure_all(names, self.study, processes)


def templates() -> jinja2.Environment:
    """The templates of pages and cards."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["figure"] = forms.figure
    return environment


def read_model(name: str) -> Model:
    """What was measured of a model, with its manifest and metrics."""
    folder = shipped_checkpoints()[name]
    manifest = read_manifest(folder)
    found: Model = measurements.read(measurements.file_of(name))
    config = TrainingConfig(**manifest["config"])
    measure, _, unit = found["scorecard"]["divergence"].partition(", ")
    return found | {
        "name": name,
        "from_truth": f"{measure} from the truth" + (f" ({unit})" if unit else ""),
        "variant": name.split("/")[1],
        "task": manifest["task"]["name"],
        "seq_len": manifest["task"]["seq_len"],
        "config": config,
        "step": manifest["step"],
        "versions": manifest["versions"],
        "metrics": manifest["metrics"],
        "command": shlex.join(config.command(manifest["task"]["name"], "DIR")),
        "first_losses": [row for row in read_metrics(folder) if row["step"] <= N_FIRST_STEPS],
        "claims": {claim["id"]: claim for claim in found["scorecard"]["claims"]},
        "folder": folder,
    }


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


def supported(model: Model) -> list[str]:
    """The claims that hold for a model."""
    return [name for name in model["claims"] if has(model, "supported", name)]


def verdicts(members: list[Model], claim: str) -> str:
    """How a group of models does on a claim: verdicts, and the range of scores."""
    found = [model["claims"][claim] for model in members]
    counts = {v: sum(c["verdict"] == v for c in found) for v in {c["verdict"] for c in found}}
    said = ", ".join(f"{n} {v.replace('_', ' ')}" for v, n in sorted(counts.items()))
    scores = sorted(c["score"] for c in found if c["score"] is not None)
    verdict = next(iter(counts)).replace("_", " ") if len(counts) == 1 else said
    if not scores:
        return verdict
    span = f"{scores[0]:.2f}" if len(scores) == 1 else f"{scores[0]:.2f} … {scores[-1]:.2f}"
    return f"**{verdict}** {span}" if verdict == "supported" else f"{verdict} {span}"


def nearest_first(model: Model) -> Model:
    """A model's estimator results by name, the nearest to its predictions first."""
    found = sorted(model["scorecard"]["estimators"], key=lambda entry: entry["divergence"])
    return {entry["name"]: entry for entry in found}


def comparison(model: Model) -> Comparison:
    """A model's comparison with the truth, as far as figures show it."""
    kept = model["comparison"]
    rows = [
        tuple(
            EstimatorResult(
                name=source,
                divergence=found["divergence"][index],
                low=found.get("low", found["divergence"])[index],
                high=found.get("high", found["divergence"])[index],
                parameters={},
                closest=False,
            )
            for source, found in kept["from_truth"].items()
        )
        for index in range(len(kept["lengths"]))
    ]
    return Comparison(
        model=model["name"],
        task=model["task"],
        seed=kept["seed"],
        n_sequences=kept["n_sequences"],
        parameters={},
        divergence=kept["divergence"],
        lengths=tuple(kept["lengths"]),
        rows=tuple(rows),
        drawn=tuple(kept["drawn"]),
    )
