"""Small tasks, models and results, and one of every public class."""

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import mtd_lens
import probes
from mtd_lens import hooked, measures
from mtd_lens.architectures import Size, build_trainable
from probes.capture import NaturalRuns
from probes.statistics import Interval

TRANSITION = [[0.5, 0.25, 0.25], [0.125, 0.75, 0.125], [0.25, 0.25, 0.5]]
DRAWN = 64


@functools.cache
def task() -> Any:
    return mtd_lens.MTDTask(TRANSITION, order=2, seq_len=6, name="small")


@functools.cache
def ngram() -> Any:
    return mtd_lens.NGramTask(3, (1,), 2, 8)


@functools.cache
def vectors() -> Any:
    return mtd_lens.AutoregressiveTask(2, 5)


@functools.cache
def rotations() -> Any:
    return mtd_lens.AutoregressiveTask(4, 5, ensemble="unitary")


@functools.cache
def model() -> Any:
    return mtd_lens.construct(task(), 2.0)


def swaps() -> Any:
    variables = ("mean_responsibility", "mixture_weights")
    hooks = ("hook_attn_out", "attn.hook_pattern")
    return tuple(
        measures.Interchange(*both, slice(-1, None)) for both in zip(variables, hooks, strict=True)
    )


@functools.cache
def ngram_model() -> Any:
    return mtd_lens.construct_ngram(ngram(), 2.0)


@functools.cache
def vector_model() -> Any:
    return mtd_lens.construct_autoregressive(vectors(), 0.1)


@functools.cache
def tokens() -> Any:
    return task().sample(16, seed=0).tokens


@functools.cache
def natural_runs() -> Any:
    return NaturalRuns(model(), tokens())


@functools.cache
def others() -> Any:
    """Sequences that end in the first token, in which the metric is another."""
    return task().sample(16, seed=1).tokens.index_fill(1, torch.arange(3, 6), 0)


@functools.cache
def experiment() -> Any:
    return mtd_lens.Experiment.of(model(), task(), 0).drawn(DRAWN)


@functools.cache
def trial() -> Any:
    return experiment().trial()


@functools.cache
def batch(of: Callable[[], Any]) -> Any:
    return of().sample(4, seed=0)


def floats(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(shape, dtype=torch.float64, generator=generator) + 0.1


def rows(*shape: int) -> torch.Tensor:
    values = floats(*shape)
    return values / values.sum(-1, keepdim=True)


def metric(logits: torch.Tensor) -> torch.Tensor:
    return logits[:, 0]


@functools.cache
def grid() -> Any:
    return probes.patch_activations(model(), tokens(), others(), "z", metric)


@functools.cache
def inspection() -> Any:
    return mtd_lens.inspect(model(), n_sequences=1)


@functools.cache
def three_lags() -> Any:
    longer = mtd_lens.MTDTask(TRANSITION, order=3, seq_len=6)
    return mtd_lens.inspect(mtd_lens.construct(longer, 2.0), n_sequences=1)


@functools.cache
def card() -> Any:
    return mtd_lens.score(model(), n_sequences=DRAWN)


@functools.cache
def localization() -> Any:
    return mtd_lens.localize(model(), n_sequences=DRAWN)


@functools.cache
def comparison() -> Any:
    return mtd_lens.compare(model(), n_sequences=DRAWN, lengths=[6])


@functools.cache
def competition() -> Any:
    return mtd_lens.compete(model(), n_sequences=128)


@functools.cache
def scorecard_comparison() -> Any:
    return mtd_lens.compare_scorecards([card(), card()])


@functools.cache
def reading() -> Any:
    return mtd_lens.read_weights(model(), n_random=1)


@functools.cache
def alignment() -> Any:
    source, targets = torch.arange(16).flip(0), floats(16, 3)
    return probes.fit_alignment(
        *(model(), tokens(), source, targets, site(), 1),
        predict=lambda logits: logits,
        divergence=probes.squared_error,
        steps=1,
    )


@functools.cache
def report() -> Any:
    return mtd_lens.align(model(), "mixture_weights", 1, n_sequences=DRAWN, steps=1)


@functools.cache
def trained() -> Any:
    size = Size(3, 6, 1, d_model=4, n_heads=1)
    return build_trainable("attn-only", size, seed=0)


class AtWorkError(Exception):
    """All arguments were taken, and the model is run."""


@functools.cache
def idle() -> Any:
    """A model that stops at its first run, so that what is accepted is soon done."""

    def stop(*arguments: Any, **named: Any) -> None:
        raise AtWorkError

    idle = copy.deepcopy(model())
    idle.forward = stop
    return idle


@functools.cache
def relative() -> Any:
    return mtd_lens.construct(task(), 2.0, form="relative")


def site() -> Any:
    return probes.Site.at("resid_post", 0, positions=[-1])


def config(**settings: Any) -> Any:
    small = {"n_layers": 1, "d_model": 4, "n_heads": 1, "steps": 1, "batch_size": 2, "threads": 1}
    small |= {"warmup_steps": 0, "evaluate_every": 1, "evaluation_sequences": 64}
    return mtd_lens.TrainingConfig(**small | settings)


@functools.cache
def run_folder() -> str:
    folder = str(Path("run").resolve())
    mtd_lens.train(task(), config(), folder)
    return folder


@functools.cache
def fitted() -> Any:
    return mtd_lens.fit_algorithm(model(), n_sequences=DRAWN)


def additive() -> Any:
    return mtd_lens.AdditiveCausalModel(task(), floats(1, 27, 2), floats(4))


INSTANCES: dict[str, Callable[[], Any]] = {
    "Additive": lambda: experiment().family.additive,
    "AdditiveCausalModel": additive,
    "Algorithm": lambda: experiment().algorithm,
    "Agreement": lambda: probes.Agreement(4, 0.5, 0.75, 0.25, 1.0),
    "Alignment": alignment,
    "AlignmentReport": report,
    "Analysis": lambda: inspection().analysis,
    "AnalyticPattern": lambda: inspection().analysis.patterns[0],
    "Attention": lambda: measures.Attention("mixture_weights", (0, 1)),
    "AutoregressiveBatch": lambda: batch(vectors),
    "AutoregressiveCausalModel": lambda: mtd_lens.AutoregressiveCausalModel(vectors(), 0.1),
    "AutoregressiveTask": vectors,
    "Band": lambda: probes.Band("blocks.0.attn.hook_pattern", (2, 3), (0, 1)),
    "Carrier": lambda: experiment().algorithm.carriers(task())[0],
    "Chain": lambda: measures.Chain(swaps()),
    "Claim": lambda: experiment().algorithm.claims(task())[0],
    "Comparison": comparison,
    "Competition": competition,
    "ScorecardComparison": scorecard_comparison,
    "Content": lambda: measures.Content(floats(3, 3).softmax(-1), torch.arange(3)),
    "Dashboard": lambda: mtd_lens.Dashboard(inspection(), None),
    "Examples": lambda: experiment().family.examples(task(), 2, 0, True),
    "Experiment": experiment,
    "Family": lambda: experiment().family,
    "FittedAlgorithm": fitted,
    "Grid": grid,
    "Injection": lambda: measures.Injection("mixture_weights", "hook_attn_out"),
    "Inspection": inspection,
    "Interchange": lambda: measures.Interchange("mixture_weights", "hook_attn_out"),
    "Interchanged": lambda: probes.Interchanged(floats(2, 3), {"x": floats(2, 3)}),
    "Interval": lambda: Interval(0.5, 0.25, 0.75),
    "LeastSquaresCausalModel": lambda: mtd_lens.LeastSquaresCausalModel(vectors()),
    "Localization": localization,
    "MTDBatch": lambda: batch(task),
    "MTDCausalModel": lambda: mtd_lens.MTDCausalModel(task(), 2.0),
    "MTDTask": task,
    "Measurement": lambda: mtd_lens.Measurement(0, "L0 z", 0.5, floats(4), floats(4)),
    "MeanPattern": measures.MeanPattern,
    "ModelInfo": lambda: hooked.info_of(model()),
    "NGramBatch": lambda: batch(ngram),
    "NGramCausalModel": lambda: mtd_lens.NGramCausalModel(ngram(), 2.0),
    "NGramCountsModel": lambda: mtd_lens.NGramCountsModel(ngram()),
    "NGramTask": ngram,
    "Pairs": lambda: measures.pairs_of(trial(), trial().tokens, "mixture_weights", slice(None)),
    "Path": lambda: measures.Path(*swaps()),
    "Pattern": lambda: measures.Pattern("mixture_weights", (0, 1)),
    "Prediction": lambda: measures.Prediction(lambda task, tokens: rows(len(tokens), 3)),
    "Probe": lambda: measures.Probe("mixture_weights", experiment().algorithm.control, 2),
    "PosteriorCausalModel": lambda: mtd_lens.PosteriorCausalModel(task()),
    "FusedCausalModel": lambda: mtd_lens.FusedCausalModel(task(), 2.0),
    "ProbeGivenQuery": lambda: measures.ProbeGivenQuery(
        "mixture_weights", experiment().algorithm.control
    ),
    "QueryTokens": lambda: mtd_lens.QueryTokens(2, lambda tokens: tokens[:, 0] >= 0),
    "Reference": lambda: mtd_lens.contracts.Reference(rows(4, 3)),
    "RidgeProbe": lambda: probes.fit_ridge(floats(6, 2, 3), floats(6, 2, 2, seed=1)),
    "Run": lambda: mtd_lens.Run(Path(), 1, [], model()),
    "Scorecard": card,
    "Scrubbing": lambda: measures.Scrubbing("responsibilities", "hook_attn_out", window=2),
    "Site": site,
    "Subject": lambda: probes.subject_of(model()),
    "TrainingConfig": config,
    "Trial": trial,
    "TwoPassCausalModel": lambda: mtd_lens.TwoPassCausalModel(task(), 2.0, 2.0),
    "WeightFinding": lambda: reading().findings[0],
    "WeightReading": reading,
}
"""By class: one to try the methods of, and to take a constructor's arguments from."""
