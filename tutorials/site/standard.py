"""The page that says how standard transformers do mirror descent, and what is measured for it."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

import mtd_lens
import probes
from mtd_lens.claims import Measurement, NotApplicable
from mtd_lens.families.mtd import circuit_study
from mtd_lens.families.mtd.score_claims import COMPETING, COMPETING_ALONE, ONE_CODE
from mtd_lens.families.mtd.score_form import ANY, OF_GAMMA, OF_LAST, OWN, PAIRS
from mtd_lens.hooked import randomized
from mtd_lens.measures.choice import chosen, controls_of, ratio_of
from mtd_lens.trial import Trial
from mtd_lens.views.plots import style
from probes import files
from probes.subject import HookedModel
from tutorials.site import RESULTS, measurements, pages, standard_circuit

SEED, N_SEQUENCES = 0, 768

DATA, PAGE, FIGURE = (RESULTS / f"standard-transformers.{kind}" for kind in ("json", "md", "png"))

SHORT, LONG = "mtd-q5-m3-t32", "mtd-q5-m3-t64"
TRAINED = [
    *[f"{SHORT}/trained-{kind}" for kind in ("gpt-3l-s0", "gpt-3l-s1")],
    *[f"{SHORT}/trained-attn-only-3l-s{seed}" for seed in range(3)],
    f"{LONG}/trained-attn-only-3l-s0",
]
BESIDE = [
    *[f"{SHORT}/trained-attn-only-{n}l-s0" for n in (2, 1)],
    *[f"{SHORT}/trained-disentangled-3l-{seed}" for seed in ("s0", "stuck-s1")],
    *[f"{SHORT}/{kind}" for kind in ("constructed-fused", "constructed-absolute")],
    f"{SHORT}/random-absolute",
]
STEPS = (1000, 2000, 4000, 6000, 8000, 12000)
LAST_STEP = 16_000
OVER_TRAINING = [f"{SHORT}/trained-attn-only-3l-s0@{step}" for step in STEPS]

CIRCUIT, CIRCUIT_RANDOM = "circuit", "circuit, random weights"
"""Of how score and value make the correction; and with random weights in place of a model's own."""

N_OF_CIRCUIT = 2048
OF_CIRCUIT = [*TRAINED, f"{SHORT}/constructed-fused"]
OF_RANDOM = [f"{SHORT}/trained-{kind}-3l-s0" for kind in ("gpt", "attn-only")]

FUSED, ONE_STEP = "fused", "one-step"
CLAIMS = {
    FUSED: (
        "correction.interchange_given_query",
        "correction.scrubbing_given_query",
        "correction.injection",
        "correction.pattern",
        "correction.scores",
        "correction.competing_scores",
        "correction.one_code",
        "prediction.estimator",
    ),
    ONE_STEP: (
        "mean_responsibility.interchange_given_query",
        "mean_responsibility.injection",
        "mean_responsibility.scrubbing_given_query",
        "prediction.estimator",
    ),
}

Figures = dict[str, Any]


def measure(name: str) -> Figures:
    """What the claims' tests find in a model, without null and ceiling."""
    found: Figures = {}
    for algorithm, ids in CLAIMS.items():
        experiment = mtd_lens.Experiment.of(
            mtd_lens.load_model(name), None, SEED, algorithm=algorithm
        ).drawn(N_SEQUENCES)
        trial = experiment.trial()
        found[algorithm] = {"parameters": dict(experiment.causal_model.parameters)}
        for claim in experiment.algorithm.claims(experiment.task):
            if claim.id in ids:
                try:
                    found[algorithm][claim.id] = figures(claim.measure(trial))
                except NotApplicable as reason:
                    found[algorithm][claim.id] = {"not applicable": str(reason)}
    return found


def measure_circuit(name: str, *, random: bool = False) -> Figures:
    """What score and value of the last layer are made of, beside another model's table of scores.

    Args:
        name: Of a model.
        random: With random weights in place of its own.
    """

    def trial(model: HookedModel) -> Trial:
        experiment = mtd_lens.Experiment.of(model, None, SEED, algorithm=FUSED)
        return experiment.drawn(N_OF_CIRCUIT).trial()

    model = mtd_lens.load_model(name)
    if random:
        model = randomized(model, SEED, "null")
    other = TRAINED[TRAINED.index(name) - 1] if name in TRAINED else None
    table = None
    if other is not None:
        table = circuit_study.score_table(trial(mtd_lens.load_model(other)))
    return circuit_study.measure(trial(model), table)


def figures(measured: Sequence[Measurement]) -> Figures:
    """The best layer's score with its interval, controls and details, and every layer's score."""
    best = chosen(measured) or measured[0]
    return {
        "layer": best.layer,
        "score, low, high": rounded(ratio_of(best.numerator, best.denominator, SEED)),
        "by layer": {
            str(m.layer): 1 - float(m.numerator.mean() / m.denominator.mean()) for m in measured
        },
        "dose": None if best.dose is None else list(vars(best.dose).values()),
        "controls": {name: rounded(found) for name, found in controls_of(best, SEED).items()},
        "details": dict(best.details),
    }


def rounded(found: probes.Interval) -> list[float]:
    """The score and the ends of its interval."""
    return [round(x, 4) for x in (found.score, found.low, found.high)]


def page(data: Figures) -> str:
    """The page."""
    where = "correction.interchange_given_query"

    def claim(model: Figures, name: str, algorithm: str = FUSED) -> Figures | None:
        found = model[algorithm].get(name)
        return None if found is None or "score, low, high" not in found else found

    def with_interval(found: Figures | None) -> str:
        if found is None:
            return "–"
        score, low, high = found["score, low, high"]
        return f"{score:.2f} [{low:.2f}, {high:.2f}]"

    def layers(name: str) -> Callable[[Figures], str]:
        def cell(model: Figures) -> str:
            found = claim(model, name)
            each = [] if found is None else found["by layer"].values()
            return ", ".join(f"{x:.2f}" for x in each) or "–"

        return cell

    def score(name: str, algorithm: str = FUSED) -> Callable[[Figures], str]:
        return lambda model: with_interval(claim(model, name, algorithm))

    def control(name: str, which: str) -> Callable[[Figures], str]:
        def cell(model: Figures) -> str:
            found = claim(model, name)
            known = None if found is None else found["controls"].get(which)
            return "–" if known is None else f"{known[0]:.2f}"

        return cell

    def detail(name: str, which: str, algorithm: str = FUSED) -> Callable[[Figures], str]:
        def cell(model: Figures) -> str:
            found = claim(model, name, algorithm)
            known = None if found is None else found["details"].get(which)
            return "–" if known is None else known if isinstance(known, str) else f"{known:.2f}"

        return cell

    def dose(model: Figures) -> str:
        found = claim(model, where)
        return "–" if found is None or found["dose"] is None else f"{found['dose'][0]:.2f}"

    def table(columns: dict[str, Callable[[Figures], str]], names: Sequence[str]) -> str:
        head = f"| model | {' | '.join(columns)} |\n|---{'|---' * len(columns)}|\n"
        rows = [
            f"| `{name.removeprefix(SHORT + '/')}` | "
            + " | ".join(cell(data[name]) for cell in columns.values())
            + " |"
            for name in names
            if name in data
        ]
        return head + "\n".join(rows)

    every = [*TRAINED, *BESIDE]
    injected, scores = "correction.injection", "correction.scores"
    swapped = {
        "score": score(where),
        "every layer": layers(where),
        "dose": dose,
        "wrong source": control(where, "a wrong source"),
        "nothing else passes": score("correction.scrubbing_given_query"),
        "of one step's mean": score("mean_responsibility.interchange_given_query", ONE_STEP),
    }
    written = {
        "c": score(injected),
        "layer before": detail(injected, "layer before"),
        "permuted map": control(injected, "a permuted map"),
        "wrong source": control(injected, "a wrong source"),
        "softmax(βS)": detail(injected, "injected: updated weights"),
        "mean log p": detail(injected, "injected: mean log likelihood"),
    }
    mean_injected = "mean_responsibility.injection"
    by_one_step = {
        "c": detail(mean_injected, "injected: correction", ONE_STEP),
        "softmax(βS)": detail(mean_injected, "injected: updated weights", ONE_STEP),
        "mean log p": detail(mean_injected, "injected: mean log likelihood", ONE_STEP),
    }
    pattern = {
        "lost": score("correction.pattern"),
        "every layer": layers("correction.pattern"),
        "remains": detail("correction.pattern", "remains"),
        "remains with mean values": detail("correction.pattern", "remains with mean values"),
    }
    forms = (ANY, OWN, PAIRS, OF_GAMMA, OF_LAST)
    made_of = {name: detail(scores, f"R²: {name}") for name in forms}
    made_of[COMPETING] = detail("correction.competing_scores", f"R²: {COMPETING_ALONE}")
    beyond = {
        ANY: score(scores),
        COMPETING: score("correction.competing_scores"),
        "wrong parents": control(scores, "parents of another query"),
    }
    code = "correction.one_code"
    codes = {
        ONE_CODE: score(code),
        "rank-one share": detail(code, "rank one between pair and parent"),
        "correlation between lags": detail(code, "correlation of codes between lags"),
        "distances as of rows of π": detail(code, "codes of parents as far apart as their rows"),
        "relabellings as near": detail(code, "relabellings as near"),
    }
    training = {
        "predicts like it": score("prediction.estimator"),
        "swap of c": score(where),
        "injected c": score(injected),
        "pattern": score("correction.pattern"),
        "scores": score(scores),
        "one code": score(code),
    }
    tables = {
        "swapped": swapped,
        "written": written,
        "by_one_step": by_one_step,
        "pattern": pattern,
        "made_of": made_of,
        "beyond": beyond,
        "codes": codes,
    }
    over_training = [*OVER_TRAINING, f"{SHORT}/trained-attn-only-3l-s0"]
    template = pages.templates().get_template("standard.md.jinja")
    circuits = circuits_of(data)
    return template.render(
        {name: table(columns, every) for name, columns in tables.items()},
        training=table(training, over_training),
        in_short=in_short(data),
        circuit=standard_circuit.tables(circuits),
        circuit_short=standard_circuit.sentences(circuits),
        n_of_circuit=N_OF_CIRCUIT // 2,
        figure=FIGURE.name,
        n_sequences=N_SEQUENCES,
        seed=SEED,
        short=SHORT,
    )


def circuits_of(data: Figures) -> dict[str, Figures]:
    """How score and value make the correction, by the words for a model, as far as measured."""
    of_random = [(CIRCUIT_RANDOM, name, ", random weights") for name in OF_RANDOM]
    return {
        f"`{name.removeprefix(SHORT + '/')}`{words}": data[name][key]
        for key, name, words in [*[(CIRCUIT, name, "") for name in OF_CIRCUIT], *of_random]
        if key in data.get(name, {})
    }


SHOWN = {
    "swap of c": "correction.interchange_given_query",
    "injected c": "correction.injection",
    "through the pattern": "correction.pattern",
    "scores, lags competing": "correction.competing_scores",
}
"""Claims that the figure shows, under its words for them."""

LOWEST = -1.0
"""Scores below it are drawn at it."""


def of_claim(model: Figures, claim: str) -> list[float] | None:
    """A claim's score with its interval, if its test could be made."""
    found: list[float] | None = model[FUSED].get(claim, {}).get("score, low, high")
    return found


def in_short(data: Figures) -> list[str]:
    """What is established, over all trained stock models of three layers, each with its figures."""

    def span(claim: str) -> str:
        scores = [found[0] for name in TRAINED if (found := of_claim(data[name], claim))]
        return f"{min(scores):.2f} to {max(scores):.2f}"

    before = max(
        score
        for name in TRAINED
        for layer, score in data[name][FUSED][SHOWN["swap of c"]]["by layer"].items()
        if int(layer) < 2
    )
    return [
        "The last layer's attention writes the correction at the last query: swapped in from a "
        f"sequence of the same last tokens it acts as such, {span(SHOWN['swap of c'])} over "
        f"{len(TRAINED)} models, and no layer before does ({before:.2f} at most).",
        f"Written in from the algorithm alone, it acts too: {span(SHOWN['injected c'])}.",
        "The evidence comes in through the attention pattern: with the pattern at its mean "
        f"{span(SHOWN['through the pattern'])} of its effect is lost.",
        "Scores compare windows of keys with the query's own parents, lags competing: "
        f"{span(SHOWN['scores, lags competing'])} of what is beyond last token × parents; one code "
        f"of parents serves all lags: {span('correction.one_code')}.",
        standard_circuit.as_covariance([data[name][CIRCUIT] for name in TRAINED]),
    ]


def draw_claims(data: Figures) -> Any:
    """Scores by model, and over the training of one of them."""
    figure, [[left, right]] = style.new_figure((11.0, 4.6), 1, 2, width_ratios=(3, 2))
    names = [*TRAINED, *BESIDE]
    steps = [*STEPS, LAST_STEP]
    over_training = [*OVER_TRAINING, OVER_TRAINING[0].partition("@")[0]]
    handles = {}
    for index, (words, claim) in enumerate(SHOWN.items()):
        look = style.model_style(index) | {"linewidth": 1.4, "markersize": 5}
        for height, name in enumerate(names):
            if found := of_claim(data[name], claim):
                score, low, high = (max(x, LOWEST) for x in found)
                at = height + 0.16 * (index - 1.5)
                left.plot([low, high], [at, at], color=look["color"], linewidth=1.4)
                left.plot(score, at, look["marker"], color=look["color"], markersize=5)
        scores = [of_claim(data[name], claim) for name in over_training]
        handles[words] = right.plot(
            steps, [max(found[0], LOWEST) if found else float("nan") for found in scores], **look
        )[0]
    left.set_yticks(range(len(names)), [name.removeprefix(f"{SHORT}/") for name in names])
    left.set_ylim(len(names) - 0.5, -0.5)
    left.set_xlim(LOWEST - 0.05, 1.3)
    left.set_xlabel(f"score, cut at {LOWEST:g} (bars: 95%)", fontsize="small")
    right.set_xticks([n for n in steps if n % 4000 == 0])
    right.set_xlabel("steps of training, attn-only-3l-s0", fontsize="small")
    right.set_ylim(LOWEST - 0.05, 1.3)
    style.plain(left, "x")
    style.plain(right)
    for axes in (left, right):
        axes.tick_params(labelsize="small")
    style.add_title(figure, "What stock transformers carry of the fused algorithm, beside controls")
    style.add_legend_below(figure, handles)
    return figure


class Standard:
    """What is measured of standard transformers and controls, and the page."""

    family = "standard-transformers"
    page = PAGE

    def measure(self, *, missing: bool, processes: int) -> None:
        """Measure every model, or those that were not yet: a minute or two each."""
        torch.set_num_threads(processes)
        data = self.read() if DATA.exists() else {}
        for name in [*TRAINED, *BESIDE, *OVER_TRAINING]:
            if not (missing and name in data):
                data[name] = measure(name)
                measurements.write(DATA, data)
                print(f"measured {name}", flush=True)
        self.measure_circuits(data, missing=missing)

    def measure_circuits(self, data: Figures, *, missing: bool) -> None:
        """The same of how score and value make the correction, which is added to the figures."""
        wanted = [(CIRCUIT, name) for name in OF_CIRCUIT]
        wanted += [(CIRCUIT_RANDOM, name) for name in OF_RANDOM]
        for key, name in wanted:
            if not (missing and key in data[name]):
                data[name][key] = measure_circuit(name, random=key == CIRCUIT_RANDOM)
                measurements.write(DATA, data)
                print(f"measured {name}: {key}", flush=True)

    def read(self) -> Any:
        """What was measured, by model."""
        return measurements.read(DATA)

    def draw(self, data: Figures) -> None:
        """Scores by model, and over training."""
        with style.applied():
            files.write_figure(draw_claims(data), FIGURE)

    def pages(self, data: Figures) -> dict[Path, str]:
        """The text of the page, by its path."""
        return {self.page: page(data)}


STANDARD = Standard()
