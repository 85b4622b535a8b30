"""A made inspection, fit and grid, and how tests read the figures that are drawn of them."""

import math
from dataclasses import replace

import numpy as np
import torch

import probes
from mtd_lens import MTDTask
from mtd_lens.contracts import Analysis, AnalyticPattern
from mtd_lens.head_scores import HeadScores
from mtd_lens.results.competition import Competition, Contender, Duel
from mtd_lens.results.fitted import FittedAlgorithm, Misfit, Resemblance
from mtd_lens.results.inspection import GivenQuery, Inspection
from probes import Interval

N_LAYERS, N_HEADS, N_SEQUENCES, LENGTH, ORDER = 3, 2, 2, 12, 3
SOURCES = ("truth", "exact Bayes", "guess", "one step", "model", "2 steps")  # not as drawn
IN_ORDER = ["model", "one step", "2 steps", "exact Bayes", "truth", "guess"]


GRID_AXES = {"layer": (0, 1, 2), "position": tuple(range(5))}


def simplex(generator, *shape):
    return torch.rand(*shape, generator=generator, dtype=torch.float64).softmax(-1)


def made_inspection():
    """Random, but for head 1 of layer 2, which is the banded pattern exactly."""
    generator = torch.Generator().manual_seed(0)
    banded = torch.zeros(N_SEQUENCES, LENGTH, LENGTH)
    average = torch.zeros(N_SEQUENCES, LENGTH, LENGTH)
    for query in range(ORDER, LENGTH):
        weights = simplex(generator, N_SEQUENCES, ORDER).float()
        banded[:, query, query - ORDER + 1 : query + 1] = weights.flip(-1)
        average[:, query, ORDER : query + 1] = 1 / (query + 1 - ORDER)
    banded[:, :ORDER] = average[:, :ORDER] = torch.nan
    raw = torch.rand(N_LAYERS, N_HEADS, N_SEQUENCES, LENGTH, LENGTH, generator=generator).tril()
    attention = raw / raw.sum(-1, keepdim=True)
    attention[2, 1] = banded.nan_to_num(0.2)
    latents, predictions = {}, {}
    for source in SOURCES:
        latents[source] = simplex(generator, N_SEQUENCES, LENGTH, ORDER)
        predictions[source] = simplex(generator, N_SEQUENCES, LENGTH, 5)
        latents[source][:, :ORDER] = predictions[source][:, :ORDER] = torch.nan
    latents["model"][0, 6] = torch.nan
    latents["truth"][:, ORDER:] = latents["truth"][:, ORDER : ORDER + 1]
    scores = torch.randn(2, N_LAYERS, N_HEADS, N_SEQUENCES, 5, generator=generator)
    analysis = Analysis(
        latent="mixture weights", components=("lag 1", "lag 2", "lag 3"),
        latents=latents, predictions=predictions,
        patterns=(
            AnalyticPattern("band", "weights", banded), AnalyticPattern("average", "mean", average),
        ),
        scores=HeadScores("a form", (3, 4, 5, 6, 7), *scores, explained=scores[0].mean((-1, -2))),
    )  # fmt: skip
    nearest = torch.zeros(N_LAYERS, LENGTH, dtype=torch.long)
    return Inspection(
        model="t/m", task="t", seed=7, n_sequences=N_SEQUENCES, parameters={"beta": 9.0},
        divergence="KL, nats",
        tokens=torch.randint(5, (N_SEQUENCES, LENGTH), generator=generator),
        token_names=tuple("abcde"), attention=attention, analysis=analysis,
        nearest_heads={"band": nearest.index_fill(0, torch.tensor(2), 1), "average": nearest},
        n_cut=0, algorithm="one step",
        drawn=("uniform", "one step", "2 steps", "maximum likelihood", "exact Bayes"),
        given_query=GivenQuery(
            "mean", 3, torch.zeros(N_SEQUENCES, LENGTH, dtype=torch.long),
            {"model, sequence": simplex(torch.Generator().manual_seed(1), N_SEQUENCES, 5)},
        ),
    )  # fmt: skip


def made_fitted():
    """Of two tokens and two lags; nearer than one reference and no nearer than another."""
    generator = torch.Generator().manual_seed(0)
    task = MTDTask([[0.9, 0.1], [0.4, 0.6]], 2, 8)
    explained, nearer = Interval(0.97, 0.96, 0.98), Interval(0.01, 0.005, 0.02)
    misfits = (
        Misfit("additive evidence", "fitted", Interval(0.001, 0.0, 0.002), explained, None, {}),
        Misfit("one step", "reference", Interval(0.011, 0.01, 0.02), Interval(0.9, 0.8, 0.95),
               nearer, {"step_size": 0.1}),
        Misfit("exact Bayes", "reference", Interval(0.001, 0.0, 0.003), explained,
               Interval(0.0, -0.001, 0.001), {}),
        Misfit("a random model", "control", Interval(0.5, 0.4, 0.6), None, None, {}),
    )  # fmt: skip
    table, shown, gamma = (
        torch.randn(*size, generator=generator, dtype=torch.float64)
        for size in ((1, 8, 2), (10, 2), (10, 2))
    )
    weights = tuple(Interval(1.2 - 0.08 * age, 1.0 - 0.08 * age, 1.4) for age in range(6))
    return FittedAlgorithm(
        model="t/m", task="t", seed=7, n_sequences=96, parameters={"entries": 16.0, "scale": 0.1},
        divergence="KL, nats", table_form="windows", table=table, position_weights=weights,
        slope=Interval(0.08, 0.05, 0.1), misfits=misfits,
        resemblances=(Resemblance("γ", Interval(0.9, 0.8, 0.95), gamma),), shown=shown,
        described=task.to_json(),
    )  # fmt: skip


def made_competition():
    """Of two algorithms, the second refuted; one test of it was not made."""
    near, far, score = Interval(0.01, 0.005, 0.02), Interval(0.3, 0.2, 0.4), Interval(0.9, 0.8, 1.0)
    contenders = (
        Contender("one-step", "one step", {"beta": 3.0}, near, score, score, 1, score, 0, {}, (),
                  "supported", "nearest"),
        Contender("posterior", "posterior", {}, far, None, None, None, None, None,
                  {"interchange": "it names no statistic"}, ("two-pass",), "refuted", "far off"),
    )  # fmt: skip
    duel = Duel("one step", "posterior", score, None, Interval(0.1, 0.0, 0.2), 0.25)
    return Competition(
        model="t/m", task="t", seed=7, n_sequences=96, parameters={}, divergence="KL, nats",
        contenders=contenders, duels=(duel,), conclusion="It is one step.",
    )  # fmt: skip


def changed(found, **fields):
    return replace(found, analysis=replace(found.analysis, **fields))


def lines_of(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def made_grid(axes=GRID_AXES, n_sequences=24, seed=0, gap=2.0, patched=True, share=None, **changed):
    """A grid whose site ``i`` goes the share ``i / n_sites`` of the way from base to source."""
    rng = np.random.default_rng(seed)
    shape = tuple(map(len, axes.values()))
    base, other = (torch.from_numpy(rng.normal(m, 1, n_sequences)) for m in (1, 1 + gap))
    if share is None:
        share = torch.arange(math.prod(shape), dtype=torch.float64) / math.prod(shape)
    noise = torch.from_numpy(rng.normal(0, 0.1, (*shape, n_sequences)))
    moved = share.reshape(*shape, 1) * (other - base)
    arguments = {
        "intervention": "denoising" if patched else "mean ablation",
        "component": "resid_pre",
        "axes": axes,
        "values": base + moved + noise,
        "base": base,
        "source": other if patched else None,
        "metric": "logit difference (nats)",
        "engine": "hooked loop",
    }
    return probes.Grid(**arguments | changed)
