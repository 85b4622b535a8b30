"""The one story of README, home page and third notebook, with its drawing, from what was measured.

Each of the three has a place for it; what stands there is written by ``make results``.
"""

import re
import textwrap
from functools import partial
from pathlib import Path
from typing import Any

import nbformat

from mtd_lens.registry import load_task
from mtd_lens.results.competition import Competition
from tutorials.site import NOTEBOOKS, PICTURES, TUTORIALS, algorithms, diagrams, pages, standard
from tutorials.site.diagrams import ONE_STEP, Stage
from tutorials.site.pages import Model

FOLLOWS = "mtd-q5-m3-t32/trained-disentangled-3l-s0"
OWN = "mtd-q5-m3-t32/trained-attn-only-3l-s0"

README, HOME = TUTORIALS.parent / "README.md", TUTORIALS / "index.md"
NOTEBOOK = NOTEBOOKS / "3_testing_a_trained_model.ipynb"
PLACE = re.compile(r"(<!-- story -->\n).*?(<!-- end of the story -->)", re.DOTALL)
TAG = "story"
"""Of the notebook's cell."""

SWAPS = ("responsibilities", "mean_responsibility", "mixture_weights")
GIVEN = "mean_responsibility.interchange_given_query"
ESTIMATOR = "prediction.estimator"
NUMBERS = {2: "two", 3: "three"}


class Story:
    """What two models of one task do, and where that is told."""

    family = "story"
    page: Path = README

    def measure(self, *, missing: bool, processes: int) -> None:
        """Nothing that other pages do not measure."""

    def read(self) -> dict[str, Any]:
        """Of both models, and of constructions, what other pages have measured."""
        return {
            "follows": pages.read_model(FOLLOWS),
            "own": pages.read_model(OWN),
            **{
                name: standard.STANDARD.read()[OWN][key]["together"]
                for name, key in (
                    ("together", standard.CIRCUIT),
                    ("random", standard.CIRCUIT_RANDOM),
                )
            },
            "calibration": algorithms.ALGORITHMS.read(),
        }

    def draw(self, found: dict[str, Any]) -> None:
        """The drawing is text, and one of the pages."""

    def pages(self, found: dict[str, Any]) -> dict[Path, str]:
        """The texts of the three places and of the drawings, by their paths."""
        told = text(found)
        written = {path: in_place(path, told) for path in (README, HOME)}
        written[NOTEBOOK] = in_notebook(NOTEBOOK, told)
        for name, (title, stages) in diagrams.FLOWS.items():
            written[PICTURES / f"{name}.svg"] = diagrams.flow(title, stages)
        written[PICTURES / "story.svg"] = drawing(found["follows"], found["own"])
        return written


STORY = Story()


def text(found: dict[str, Any]) -> str:
    """The story.

    Raises:
        ValueError: What was measured is another story.
    """
    follows, own, together = found["follows"], found["own"], found["together"]
    by_task = algorithms.constructions(found["calibration"])
    members = [m for constructed in by_task.values() for m in constructed.items()]
    told = {
        **{(FOLLOWS, f"{name}.interchange"): "supported" for name in SWAPS},
        **{(OWN, f"{name}.interchange"): "refuted" for name in SWAPS},
        **{(name, ESTIMATOR): "supported" for name in (FOLLOWS, OWN)},
        (OWN, GIVEN): "supported",
    }
    claims = {FOLLOWS: follows["claims"], OWN: own["claims"]}
    others = [f"{m}: {c}" for (m, c), v in told.items() if claims[m][c]["verdict"] != v]
    for constructed in by_task.values():
        others += algorithms.departures(constructed)
    parts = ("covariance, own parts", "mean scores", "mean values")
    kept, kept_of_random = (
        [runs[name][0] for name in parts] for runs in (together, found["random"])
    )
    others += [f"{OWN}: {share:.2f} is kept at the mean" for share in kept[1:] if share > 0]
    if others:
        raise ValueError(f"the story of the README no longer holds: {'; '.join(others)}")
    template = pages.templates().get_template("story.md.jinja")
    rendered = template.render(
        lags=NUMBERS[load_task(follows["task"]).order],
        follows=follows,
        own=own,
        of_follows=[_score(follows, f"{name}.interchange") for name in SWAPS],
        of_own=[_score(own, f"{name}.interchange") for name in SWAPS],
        estimator=[_score(model, ESTIMATOR) for model in (follows, own)],
        given=_score(own, GIVEN),
        given_layer=own["claims"][GIVEN]["layer"],
        kept=list(map(_number, kept)),
        kept_of_random=list(map(_number, kept_of_random)),
        parted=[_parted(found["calibration"], name) for name in (FOLLOWS, OWN)],
        n_constructions=len(members),
        n_algorithms=len({algorithms.runs(name) for name, _ in members}),
        n_seeds=len(algorithms.SEEDS),
    )
    wrapped = partial(textwrap.fill, width=120, break_long_words=False, break_on_hyphens=False)
    return "\n\n".join(map(wrapped, rendered.split("\n\n")))


def drawing(follows: Model, own: Model) -> str:
    """The construction's stages, and beside each what was found of both models."""

    def cells(claim: str) -> list[Model]:
        return [model["claims"][claim] for model in (follows, own)]

    first, mean, weights, prediction = ONE_STEP
    given = Stage("… given the query", "swaps between equal endings", "", cells(GIVEN), aside=True)
    stages = [
        Stage(first.what, first.words, first.where, cells("responsibilities.interchange")),
        Stage(mean.what, mean.words, mean.where, cells("mean_responsibility.interchange")),
        given,
        Stage(weights.what, weights.words, weights.where, cells("mixture_weights.interchange")),
        Stage(prediction.what, prediction.words, prediction.where, cells(ESTIMATOR)),
    ]
    return diagrams.beside(
        "The construction's stages, and the scores of two trained models at each",
        stages,
        ("The construction", "one step of mirror descent"),
        [
            ("follows it", follows["variant"].removeprefix("trained-")),
            ("its own way", own["variant"].removeprefix("trained-")),
        ],
        [
            "Does another sequence's value, put into a layer, act as the algorithm",
            "says? 1: it does; 0: no better than the best guess without it. Last",
            "row: are predictions the algorithm's (1), or those of even weights (0)?",
        ],
    )


def in_place(path: Path, told: str) -> str:
    """A page with the story in its place."""
    page, count = PLACE.subn(lambda m: f"{m[1]}\n{told}\n{m[2]}", path.read_text(encoding="utf-8"))
    if count != 1:
        raise ValueError(f"{path} has {count} places for the story; it must have one")
    return page


def in_notebook(path: Path, told: str) -> str:
    """A notebook with the story in the cell that is tagged for it."""
    notebook = nbformat.read(path, as_version=4)
    [cell] = [c for c in notebook.cells if TAG in c.metadata.get("tags", ())]
    cell.source = told.strip()
    return f"{nbformat.writes(notebook)}\n"


def _parted(found: list[Competition], name: str) -> dict[str, str]:
    """How far a model's predictions lie from the nearest algorithm to the rival that draws most."""
    competition = next(f for f in found if f.model == name)
    duels = [duel for duel in competition.against_nearest() if duel.share is not None]
    most = max(duels, key=lambda duel: duel.share.score if duel.share else 0.0)
    share = "" if most.share is None else _number(most.share.score)
    return {"nearest": competition.nearest.name, "other": most.other, "share": share}


def _score(model: Model, claim: str) -> str:
    return _number(model["claims"][claim]["score"])


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")
