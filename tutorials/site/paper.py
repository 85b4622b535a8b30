"""The page that answers what the paper left open, from measurements of its own.

Whether five layers are two steps or Bayes, whether step sizes are tied and can be read off, whether
a second step gives the second order of the posterior mean, and what the middle layer attends to.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import mtd_lens
import probes
from mtd_lens.families.mtd import iterative
from mtd_lens.families.mtd.expansions import N_EVIDENCE, expand
from mtd_lens.families.mtd.posterior import exact_nodes, simplex_rule
from mtd_lens.measures.held_out import SEED, interval, ratio
from mtd_lens.registry import family_of
from mtd_lens.results.competition import Competition
from mtd_lens.results.forms import interval as limits, parameters
from mtd_lens.shapes import Likelihoods, Weights
from mtd_lens.views.plots import style
from probes import files
from tutorials.site import RESULTS, algorithms, measurements, pages

LAGS = (3, 4)

FIVE = "mtd-q5-m3-t32/trained-disentangled-5l-s0"
DISENTANGLED = (
    *(f"mtd-q5-m3-t32/trained-disentangled-3l-s{seed}" for seed in range(3)),
    FIVE,
    "mtd-q5-m3-t64/trained-disentangled-3l-s2",
)
"""The trained models of the paper's architecture that learned the task."""

STEPS = ("one step", "2 steps", "2 steps, free", "2 steps, prefix", "3 steps, free", "exact Bayes")
"""Estimators that are fitted to the model of five layers."""

SEEDS = (7, 8, 9)
"""Of the sequences that step sizes are fitted on; what they differ by says how well they can be."""

N_FITTED, N_PATTERNS = 2048, 1024
MIDDLE = 1
"""The layer that averages in the construction."""

N_OFFSETS = 8

DATA, FIGURE = RESULTS / "paper.json", RESULTS / "paper.png"

SECOND_STEPS = ("two steps, equal", "two steps, 4 : 1", "two steps, 1 : 4, prefix")
NONE = 1e-6
"""Below which a coefficient of an expansion counts as none."""


class Paper:
    """What is measured for the page, and the page."""

    family = "paper"
    page: Path = RESULTS / "paper.md"

    def measure(self, *, missing: bool, processes: int) -> None:
        """Measure all of it, and keep what was found."""
        if missing and DATA.exists():
            return
        torch.set_num_threads(processes)
        found = {
            "expansions": [row for m in LAGS for row in expansions(m)],
            "steps": [steps(mtd_lens.load_model(FIVE), seed) for seed in SEEDS],
            "selectors": {name: selector(name) for name in DISENTANGLED},
            "middle": {name: middle_layer(mtd_lens.load_model(name)) for name in DISENTANGLED},
        }
        measurements.write(DATA, found)

    def read(self) -> Any:
        """What was measured."""
        return measurements.read(DATA)

    def draw(self, found: Any) -> None:
        """Five layers beside each algorithm, and what the middle layer attends to."""
        with style.applied():
            files.write_figure(draw_answers(of_five_layers(), found["middle"]), FIGURE)

    def pages(self, found: Any) -> dict[Path, str]:
        """The text of the page, by its path."""
        competition = of_five_layers()
        text = (
            pages.templates()
            .get_template("paper.md.jinja")
            .render(
                found=found,
                answers=answers(found, competition),
                figure=FIGURE.name,
                five=FIVE,
                competition=competition,
                nearer=nearer(competition),
                tied=tied(found["steps"]),
                names=STEPS,
                seeds=SEEDS,
                n_fitted=N_FITTED,
                n_patterns=N_PATTERNS,
                limits=limits,
                parameters=parameters,
                short=lambda name: name.replace("trained-disentangled-", ""),
            )
        )
        return {self.page: text}


PAPER = Paper()


def of_five_layers() -> Competition:
    """What was found of the model of five layers, beside every algorithm."""
    return next(f for f in algorithms.ALGORITHMS.read() if f.model == FIVE)


def answers(found: dict[str, Any], competition: Competition) -> list[str]:
    """The page's answers, in its order."""
    second = [e for e in found["expansions"] if e["name"] in SECOND_STEPS]
    bayes = [e for e in found["expansions"] if e["name"] == "posterior mean"]
    none = all(abs(e["sum_of_squares"]) < NONE for e in second)
    some = all(abs(e["sum_of_squares"]) > NONE for e in bayes)
    costs = [m["cost"][what][0] for m in found["middle"].values() for what in ("uniform", "mean")]
    lows = [m["cost"][what][1] for m in found["middle"].values() for what in ("uniform", "mean")]
    dearer = sum(low > 1 for low in lows)
    return [
        f"Are five layers two steps, or Bayes? {competition.conclusion.replace(FIVE, 'The model')}",
        f"Are step sizes tied? {tied(found['steps'])}",
        "Does a second step give the second order of the posterior mean? "
        + ("No: " if none and some else "Yes, in part: ")
        + f"of the coefficient b, which the posterior mean has, {len(SECOND_STEPS)} kinds of two "
        f"steps have {'none' if none else 'some'}.",
        "Does the middle layer average alone? Its pattern replaced by a uniform or a mean one "
        f"costs {min(costs):.2f} to {max(costs):.2f} times the KL from the truth; the 95% "
        f"interval lies above 1 in {dearer} of {len(lows)} cases.",
    ]


def draw_answers(competition: Competition, middle: dict[str, Any]) -> Any:
    """KL of every algorithm from the model of five layers, and attention by offset."""
    figure, [[left, right]] = style.new_figure((8.0, 3.2), 1, 2)
    for row, contender in enumerate(competition):
        kl, colour = contender.divergence, style.MODEL_COLOURS[0]
        left.plot([kl.low, kl.high], [row, row], color=colour, linewidth=1.4)
        left.plot(kl.score, row, "o", color=colour, markersize=5)
    left.set_yticks(range(len(competition)), [c.name for c in competition])
    left.set_ylim(len(competition) - 0.5, -0.5)
    left.set_xlim(0, None)
    left.set_xlabel("KL(algorithm ‖ five layers), nats (bars: 95%)", fontsize="small")
    handles = {}
    for index, (name, found) in enumerate(middle.items()):
        look = style.model_style(index) | {"linewidth": 1.4, "markersize": 4}
        label = name.replace("trained-disentangled-", "")
        handles[label] = right.plot(found["by_offset"], **look)[0]
    right.axhline(1, color=style.INK, linewidth=0.8)
    right.set_ylim(0, None)
    right.set_xlabel("tokens before the query", fontsize="small")
    right.set_ylabel("attention, of a uniform average's", fontsize="small")
    style.plain(left, "x")
    style.plain(right)
    for axes in (left, right):
        axes.tick_params(labelsize="small")
    style.add_title(figure, "Five layers beside each algorithm, and what middle layers attend to")
    style.add_legend_below(figure, handles)
    return figure


def expansions(m: int) -> list[dict[str, Any]]:
    """Coefficients of every estimator's expansion, of m lags; sizes agree with Bayes' first order.

    Steps of mirror descent add up to 1/(m+1), and the exponent of the likelihoods is that.
    """
    whole = 1 / (m + 1)
    nodes, log_masses = simplex_rule(m, 1.0, exact_nodes(N_EVIDENCE))

    def posterior(p: Likelihoods) -> Weights:
        return ((p @ nodes.T).log().sum(1) + log_masses).softmax(-1) @ nodes

    def stepped(*shares: float, prefix: bool = False) -> Any:
        take = iterative.prefix_steps if prefix else iterative.mirror_steps
        sizes = [torch.tensor(share * whole, dtype=torch.float64) for share in shares]
        return lambda p: take(p, sizes)[:, -1]

    estimators = {
        "posterior mean": posterior,
        "one step": stepped(1.0),
        "two steps, equal": stepped(0.5, 0.5),
        "two steps, 4 : 1": stepped(0.8, 0.2),
        "two steps, 1 : 4, prefix": stepped(0.2, 0.8, prefix=True),
        "five steps, equal": stepped(*[0.2] * 5),
        "product of likelihoods": lambda p: (whole * p.log().sum(1)).softmax(-1),
    }
    return [{"lags": m, "name": name} | vars(expand(e, m)) for name, e in estimators.items()]


def steps(model: Any, seed: int) -> dict[str, Any]:
    """Every estimator of ``STEPS`` fitted to a model on sequences of one seed."""
    task = mtd_lens.task_of(model)
    tokens = task.sample(2 * N_FITTED, seed).tokens
    predicted = mtd_lens.model_predictions(model, tokens)
    fit, held = slice(0, N_FITTED), slice(N_FITTED, None)
    references = family_of(task).references(task, tokens[fit], predicted[fit], tokens[held], False)
    found = {}
    for name in STEPS:
        away = probes.kl_divergence(references[name].prediction, predicted[held])
        found[name] = interval(away) | {"parameters": dict(references[name].parameters)}
    return found


def tied(fits: list[dict[str, Any]]) -> str:
    """Whether two free step sizes that follow the model are one, in a sentence."""
    sizes = [[f["2 steps, free"]["parameters"][f"step_size_{i}"] for f in fits] for i in (1, 2)]
    first, second = ([min(each), max(each)] for each in sizes)
    apart = first[1] < second[0] or second[1] < first[0]
    said = "so they are not tied" if apart else "which overlap, so that they may be tied"
    nearer = min(fits[0], key=lambda name: fits[0][name]["score"])
    return (
        f"Over seeds the first of two free steps is from {first[0]:.3f} to {first[1]:.3f}, the "
        f"second from {second[0]:.3f} to {second[1]:.3f}, {said}. "
        f"Of all these, {nearer} is nearest."
    )


def selector(name: str) -> dict[str, Any]:
    """The β that a model's weights hold along the path through the average."""
    reading = mtd_lens.read_weights(mtd_lens.load_model(name))
    best = max(reading["selector.via_average"], key=lambda finding: finding.score or 0.0)
    return {
        "layers": list(best.layers),
        "beta": best.value,
        "explained": best.score,
        "null": list(best.null_score or ()),
    }


def middle_layer(model: Any) -> dict[str, Any]:
    """The middle layer's attention: its mean by offset, and what it costs to make it uniform."""
    task, hook = mtd_lens.task_of(model), f"blocks.{MIDDLE}.attn.hook_pattern"
    batch = task.sample(N_PATTERNS, SEED)
    tokens, first, length = batch.tokens, task.order, task.seq_len
    site = probes.Site(hook)
    pattern = probes.read_activations(model, tokens, {"pattern": site})["pattern"].double()
    mean = pattern.mean((0, 1))
    query, key = torch.arange(length)[:, None], torch.arange(length)
    uniform = ((key >= first) & (key <= query)).double()
    uniform = uniform / uniform.sum(1, keepdim=True).clamp_min(1)
    late = torch.arange(length // 2 + N_OFFSETS, length)
    by_offset = [
        float((mean[late, late - o] / uniform[late, late - o]).mean()) for o in range(N_OFFSETS)
    ]

    def replaced(with_what: Tensor) -> Tensor:
        def edit(values: Tensor, hook: Any) -> Tensor:
            edited = values.clone()
            edited[:, :, first:] = with_what[first:].to(values)
            return edited

        with model.hooks([(hook, edit)]):
            return mtd_lens.model_predictions(model, tokens)

    natural = mtd_lens.model_predictions(model, tokens)
    truth = mtd_lens.predict(task, tokens, batch.weights)
    from_truth = probes.kl_divergence(truth, natural)
    return {
        "by_offset": by_offset,
        "away_at_last": float(probes.total_variation(mean[-1], uniform[-1])),
        "cost": {
            what: ratio(probes.kl_divergence(truth, replaced(values)), from_truth)
            for what, values in (("uniform", uniform), ("mean", mean))
        },
    }


def nearer(found: Competition) -> dict[str, str]:
    """By name of a rival, how much nearer the nearest algorithm is to the model."""
    return {
        duel.other: "alike" if duel.predictions is None else str(duel.predictions)
        for duel in found.against_nearest()
    }
