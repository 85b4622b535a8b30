"""The page that says which algorithm models run: constructions of each, and trained models.

Constructions are the calibration: of each it is known what it runs, so the verdicts of ``compete``
on them are a confusion matrix.
"""

from concurrent.futures import ProcessPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

import mtd_lens
from mtd_lens import verdicts
from mtd_lens.measures.held_out import SEED
from mtd_lens.registry import list_models, load_task
from mtd_lens.results.competition import Competition
from mtd_lens.results.forms import figure as number, interval, parameters
from mtd_lens.views.plots import style
from probes import files
from tutorials.site import RESULTS, measurements, pages
from tutorials.site.verdict_figures import draw_seeds, legend_of

TASKS = ("mtd-q3-m2-t32", "mtd-q5-m3-t32", "mtd-q5-m3-t64")
SEEDS = (0, 1, 2)
"""Of the sequences on which constructions are held against every algorithm."""

FORMS = {"absolute": "one-step", "relative": "one-step", "gated": "one-step"}
"""Constructions that are called after their form, with the algorithm that they run; others are
called after it."""

DATA = RESULTS / "algorithms.json"
FIGURE = RESULTS / "algorithms.png"


class Algorithms:
    """How models are held against every algorithm of their family, and the page that says so."""

    family = "algorithms"
    page: Path = RESULTS / "algorithms.md"

    def names(self) -> list[str]:
        """The models: of each task every construction, and every trained one."""
        return [
            name
            for name in list_models()
            if name.split("/")[0] in TASKS
            and name.split("/")[1].startswith(("constructed-", "trained-"))
            and "@" not in name
        ]

    def runs(self) -> list[tuple[str, int]]:
        """Every model with every seed."""
        return [
            (name, seed)
            for name in self.names()
            for seed in (SEEDS if is_construction(name) else (SEED,))
        ]

    def measure(self, *, missing: bool, processes: int) -> None:
        """Hold every model, or those that were not yet, against every algorithm."""
        kept = {(f.model, f.seed): f for f in self.read()} if missing and DATA.exists() else {}
        wanted = [run for run in self.runs() if run not in kept]
        with ProcessPoolExecutor(processes) as pool:
            for run, found in zip(wanted, pool.map(compete, wanted), strict=True):
                kept[run] = found
                measurements.write(DATA, [kept[r].to_dict() for r in self.runs() if r in kept])
                print(f"measured {run[0]}, seed {run[1]}", flush=True)

    def read(self) -> list[Competition]:
        """What was measured."""
        return [Competition.from_dict(found) for found in measurements.read(DATA)]

    def draw(self, found: list[Competition]) -> None:
        """The confusion matrix of every task."""
        with style.applied():
            files.write_figure(draw_matrices(constructions(found)), FIGURE)

    def pages(self, found: list[Competition]) -> dict[Path, str]:
        """The text of the page, by its path."""
        by_task = constructions(found)
        text = (
            pages.templates()
            .get_template("algorithms.md.jinja")
            .render(
                by_task=by_task,
                seeds=SEEDS,
                n_sequences=found[0].n_sequences,
                versions=found[0].versions,
                figure=FIGURE.name,
                runs=runs,
                said=said,
                answers=answers(found),
                wrong=[text for members in by_task.values() for text in departures(members)],
                groups=named_groups(found),
                trained=[f for f in found if not is_construction(f.model)],
                number=number,
                interval=interval,
                parameters=parameters,
            )
        )
        return {self.page: text}


ALGORITHMS = Algorithms()


def compete(run: tuple[str, int]) -> Competition:
    """One model on sequences of one seed, to as many digits as are kept."""
    torch.set_num_threads(1)
    found = mtd_lens.compete(mtd_lens.load_model(run[0]), seed=run[1])
    return Competition.from_dict(measurements.rounded(found.to_dict()))


def is_construction(name: str) -> bool:
    """Whether it is known what a model runs."""
    return name.split("/")[1].startswith("constructed-")


def runs(name: str) -> str:
    """The id of the algorithm that a construction runs."""
    form = name.split("/")[1].removeprefix("constructed-")
    return FORMS.get(form, form)


def constructions(found: list[Competition]) -> dict[str, dict[str, list[Competition]]]:
    """By task, in the page's order, and by construction: what each seed says."""
    known = [f for f in found if is_construction(f.model)]
    by_task: dict[str, dict[str, list[Competition]]] = {}
    for task in TASKS:
        own = [f for f in known if f.model.split("/")[0] == task]
        by_model = {n: list(each) for n, each in groupby(own, key=lambda f: f.model)}
        ids = [algorithm.id for algorithm in algorithms(task)]
        by_task[task] = dict(sorted(by_model.items(), key=lambda item: ids.index(runs(item[0]))))
    return by_task


def algorithms(task: str) -> tuple[mtd_lens.Algorithm, ...]:
    """The algorithms that models of a task are held against, in their family's order."""
    return mtd_lens.registry.family_of(load_task(task)).algorithms


def said(members: list[Competition], id: str) -> str:
    """The verdicts of the seeds on one algorithm, in words."""
    found = [f[id].verdict for f in members]
    counts = {v: found.count(v) for v in dict.fromkeys(found)}
    words = ", ".join(
        v.replace("_", " ") + (f" ({n} of {len(found)})" if len(counts) > 1 else "")
        for v, n in counts.items()
    )
    return f"**{words}**" if set(found) == {verdicts.SUPPORTED} else words


def answers(found: list[Competition]) -> list[str]:
    """What constructions are found to run, and how many trained models run one algorithm."""
    by_task = constructions(found)
    wrong = [text for members in by_task.values() for text in departures(members)]
    runs_of = [f for f in found if is_construction(f.model)]
    right = (
        "in every one, what the construction runs is supported, and nothing else is"
        if not wrong
        else f"there are {len(wrong)} departures from what is known, which stand below"
    )
    trained = [f for f in found if not is_construction(f.model)]
    one = sum(any(c.verdict == verdicts.SUPPORTED for c in f) for f in trained)
    nearest = [f.nearest.name for f in trained]
    said = ", ".join(f"{name} of {nearest.count(name)}" for name in dict.fromkeys(nearest))
    between = [
        f
        for f in trained
        if f.nearest.predictions is not None and f.nearest.predictions.low > verdicts.THRESHOLD
    ]
    parted = [
        f
        for f in between
        if any(d.share is not None and d.share.low > 0 for d in f.against_nearest())
    ]
    return [
        f"Constructions of known algorithms were held against every algorithm, {len(runs_of)} runs "
        f"on {len(by_task)} tasks: {right}.",
        f"Of {len(trained)} trained models, {one} run one of these algorithms by all tests. "
        f"Nearest to predictions is {said}.",
        f"{len(between)} of them predict like their nearest algorithm (a score above "
        f"{verdicts.THRESHOLD}); {len(parted)} of these lie part of the "
        "way to a rival (a share whose interval lies above 0).",
    ]


def departures(members: dict[str, list[Competition]]) -> list[str]:
    """Where a construction's own algorithm is not supported, or another is."""
    return [
        f"`{f.model}`, seed {f.seed}: {c.name} is {c.verdict.replace('_', ' ')}: {c.reason}."
        for name, found in members.items()
        for f in found
        for c in f
        if (c.verdict == verdicts.SUPPORTED) != (c.id == runs(name))
    ]


def named_groups(found: list[Competition]) -> list[str]:
    """Algorithms that sequences could not tell apart on some construction."""
    groups = {
        (f.task_name, tuple(sorted((c.name, *c.alike))))
        for f in found
        if is_construction(f.model)
        for c in f
        if c.verdict == verdicts.NOT_DIAGNOSTIC and c.alike
    }
    return [f"{', '.join(names)} on {task}" for task, names in sorted(groups)]


def draw_matrices(by_task: dict[str, dict[str, list[Competition]]]) -> Any:
    """A panel for each task: rows are constructions, columns algorithms, a disc a verdict."""
    n_rows = max(len(members) for members in by_task.values())
    n_columns = max(len(algorithms(task)) for task in by_task)
    inches = (1.8 + len(by_task) * (0.55 * n_columns + 0.4), 2.6 + 0.36 * n_rows)
    figure, [panels] = style.new_figure(inches, 1, len(by_task))
    for axes, (task, members) in zip(panels, by_task.items(), strict=True):
        held = algorithms(task)
        for row, (name, found) in enumerate(members.items()):
            for column, algorithm in enumerate(held):
                draw_seeds(axes, column, row, [f[algorithm.id].verdict for f in found])
                if algorithm.id == runs(name):
                    axes.add_patch(_frame(column, row))
        labels = [name.split("/")[1].removeprefix("constructed-") for name in members]
        axes.set_yticks(range(len(labels)), labels, fontsize="small")
        names = [algorithm.name for algorithm in held]
        axes.set_xticks(range(len(held)), names, rotation=40, ha="left", fontsize="small")
        axes.xaxis.tick_top()
        axes.set_xlim(-0.6, len(held) - 0.4)
        axes.set_ylim(n_rows - 0.4, -0.6)
        axes.set_xlabel(task, fontsize="small")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    style.add_legend_below(
        figure,
        legend_of(
            axes,
            {
                "supported": verdicts.SUPPORTED,
                "partial": verdicts.PARTIAL,
                "refuted": verdicts.REFUTED,
                "cannot be told apart": verdicts.NOT_DIAGNOSTIC,
            },
        ),
    )
    style.add_title(
        figure,
        f"Constructions (rows) held against every algorithm, a disc for each of {len(SEEDS)} seeds"
        "\nframed: what the construction runs",
    )
    return figure


def _frame(column: int, row: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(
        (column - 0.45, row - 0.4), 0.9, 0.8, fill=False, edgecolor=style.INK, linewidth=0.8
    )
