"""The page of algorithms that were read off trained models' own predictions."""

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from matplotlib.ticker import StrMethodFormatter

import mtd_lens
from mtd_lens.measures.held_out import SEED
from mtd_lens.registry import family_of, list_models, load_task
from mtd_lens.results.fitted import CONTROL, FITTED, REFERENCE, FittedAlgorithm
from mtd_lens.results.plain import to_plain
from mtd_lens.views.plots import style
from probes import files
from tutorials.site import RESULTS, measurements, pages

Figures = dict[str, Any]

DATA, FIGURE = RESULTS / "fitted.json", RESULTS / "fitted.png"

FIRST = 4
"""Weights of positions that the page shows: the query's own, and those before it."""

SHUFFLED, GAMMA, ALIKE = "shuffled context", "γ", 0.9
"""A control, a known rule, and the correlation above which a table is said to be like it."""

DRAWN = {
    FITTED: ("fitted sum of evidence", "o"),
    "best": ("nearest textbook estimator", "s"),
    "one step": ("one step", "1"),
    "exact Bayes": ("exact Bayes", "x"),
}


class Fitted:
    """What is fitted to trained models, and the page."""

    family = "fitted"
    page: Path = RESULTS / "fitted.md"

    def names(self) -> list[str]:
        """Trained models of families that have the additive form, at the end of their training."""
        return [
            name
            for name in list_models()
            if "/trained-" in name
            and "@" not in name
            and family_of(load_task(name.split("/")[0])).additive is not None
        ]

    def measure(self, *, missing: bool, processes: int) -> None:
        """Fit every model, or those that were not yet, about a minute each."""
        kept = self.read() if missing and DATA.exists() else {}
        wanted = [name for name in self.names() if name not in kept]
        with ProcessPoolExecutor(processes) as pool:
            for name, found in zip(wanted, pool.map(fit, wanted), strict=True):
                kept[name] = found
                measurements.write(DATA, {n: kept[n] for n in self.names() if n in kept})
                print(f"fitted {name}", flush=True)

    def read(self) -> Figures:
        """What was fitted, by model."""
        found: Figures = measurements.read(DATA)
        return found

    def draw(self, found: Figures) -> None:
        """How near the fitted sum and the textbook's estimators are to each model."""
        with style.applied():
            files.write_figure(draw_misfits(found), FIGURE)

    def pages(self, found: Figures) -> dict[Path, str]:
        """The text of the page, by its path."""
        below = [name for name, f in found.items() if f["is_nearest"]]
        text = (
            pages.templates()
            .get_template("fitted.md.jinja")
            .render(
                found=found,
                below=below,
                answers=answers(found),
                others=[name for name in found if name not in below],
                row=row,
                best=best,
                controls=controls,
                seed=SEED,
                first=FIRST,
                figure=FIGURE.name,
            )
        )
        return {self.page: text}


FITTED_PAGE = Fitted()


def fit(name: str) -> Figures:
    """What the page shows of a model's fitted algorithm."""
    torch.set_num_threads(1)
    return kept(mtd_lens.fit_algorithm(mtd_lens.load_model(name), seed=SEED))


def kept(found: FittedAlgorithm) -> Figures:
    """All but the tables themselves."""
    plain = to_plain(found.misfits)
    weights = to_plain(found.position_weights)
    return {
        "n_sequences": found.n_sequences,
        "table_form": found.table_form,
        "is_nearest": found.is_nearest,
        "misfits": [{k: v for k, v in misfit.items() if k != "parameters"} for misfit in plain],
        "resemblances": {r.name: to_plain(r.correlation) for r in found.resemblances},
        "position_weights": weights[:FIRST],
        "slope": to_plain(found.slope),
    }


def row(model: Figures, name: str) -> Figures:
    """What was found of one estimator or control."""
    return next(misfit for misfit in model["misfits"] if misfit["name"] == name)


def best(model: Figures) -> Figures:
    """The nearest of the textbook's estimators."""
    references = [misfit for misfit in model["misfits"] if misfit["kind"] == REFERENCE]
    return min(references, key=lambda misfit: misfit["divergence"]["score"])


def answers(found: Figures) -> list[str]:
    """How much the fitted sum explains beside its controls, and what its table is like."""
    own = [fitted_sum(model)["explained"] for model in found.values()]
    shuffled = [row(model, SHUFFLED)["explained"] for model in found.values()]
    explained = [interval["score"] for interval in own]
    above = sum(o["low"] > c["high"] for o, c in zip(own, shuffled, strict=True))
    gamma = [model["resemblances"][GAMMA]["score"] for model in found.values()]
    high = sum(value > ALIKE for value in gamma)
    return [
        f"The sum explains {min(explained):.2f} to {max(explained):.2f} of what no evidence "
        f"leaves, more than a sum fitted to shuffled contexts in {above} of {len(found)}.",
        f"Its table correlates above {ALIKE} with the responsibilities γ in {high} of "
        f"{len(found)} models ({min(gamma):.2f} to {max(gamma):.2f} over all).",
    ]


def fitted_sum(model: Figures) -> Figures:
    """What was found of the fitted sum itself."""
    return next(misfit for misfit in model["misfits"] if misfit["kind"] == FITTED)


def controls(model: Figures) -> list[Figures]:
    """What must not do as well."""
    return [misfit for misfit in model["misfits"] if misfit["kind"] == CONTROL]


def draw_misfits(found: Figures) -> Any:
    """A row for each model, KL on a logarithmic axis."""
    figure, [[axes]] = style.new_figure((8.0, 1.6 + 0.3 * len(found)))
    style.plain(axes, "x")
    axes.set_xscale("log")
    handles = {}
    for height, model in enumerate(found.values()):
        own = fitted_sum(model)
        shown = {FITTED: own, "best": best(model)}
        shown |= {name: row(model, name) for name in DRAWN if name not in shown}
        for index, (key, (label, marker)) in enumerate(DRAWN.items()):
            at = shown[key]["divergence"]
            colour: Any = style.MODEL_COLOURS[index] if index < 2 else (style.INK, 0.7)
            handles[label] = axes.plot(
                at["score"], height, marker, color=colour, markersize=6, linestyle="none"
            )[0]
            axes.plot([at["low"], at["high"]], [height] * 2, color=colour, linewidth=1.4)
    axes.set_yticks(range(len(found)), [name.replace("/trained-", "  ") for name in found])
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.tick_params(labelsize="small")
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.set_xlabel("KL(model ‖ fit) on held-out sequences, nats (bars: 95%)", fontsize="small")
    style.add_title(figure, "What a model's own predictions follow")
    style.add_legend_below(figure, handles)
    return figure
