"""The n-gram family through everything that users have: contracts, commands, figures, training."""

import sys

import pytest
import torch

import mtd_lens
from mtd_lens import cli
from mtd_lens.contracts import Batch, CausalModel, Task
from mtd_lens.families.ngram import FAMILY, estimators
from mtd_lens.hooked import probabilities
from mtd_lens.spaces import last_predictions

NAME = "ngram-q3-s12-t32"


@pytest.fixture(scope="module")
def task():
    return mtd_lens.load_task(NAME)


@pytest.fixture(scope="module")
def model():
    return mtd_lens.load_model(f"{NAME}/constructed-absolute")


def run(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["mtd-lens", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code


def test_it_follows_the_contracts(task, model):
    assert mtd_lens.registry.family_of(task) is FAMILY
    assert isinstance(task, Task)
    assert isinstance(task.sample(2, 0), Batch)
    tokens = task.sample(256, seed=3).tokens
    found = FAMILY.algorithms[0].fit(task, tokens, last_predictions(model, tokens, task.outputs))
    assert isinstance(found, CausalModel)
    assert found.sharpness == pytest.approx(4.504, abs=0.01)
    assert FAMILY.task_from_json(task.to_json()) == task
    assert FAMILY.shortest(task) == 3


def test_models_of_another_shape_are_refused(task):
    other = mtd_lens.load_model("mtd-q5-m3-t32/constructed-relative")
    with pytest.raises(mtd_lens.ModelError, match="the task has 3 tokens, but the model reads 5"):
        mtd_lens.score(other, task)
    short = mtd_lens.construct_ngram(mtd_lens.NGramTask(3, (1, 2), 2, 16), 4.0)
    with pytest.raises(mtd_lens.ModelError, match="the model's context is 16"):
        mtd_lens.score(short, task)


def test_examples_have_a_target_and_a_distribution_at_every_query(task):
    drawn = FAMILY.examples(task, 64, 5, True)
    assert drawn.inputs.shape == (64, 32)
    assert drawn.targets.shape == (64, 30)
    assert torch.equal(drawn.targets[:, :-1], drawn.inputs[:, 3:])
    assert drawn.truth.shape == (64, 30, 3)
    of_targets = drawn.truth.gather(-1, drawn.targets[..., None])
    assert (of_targets > 0).all()
    assert FAMILY.examples(task, 4, 5, False).truth is None


def test_yardsticks(task, model):
    tokens, references = FAMILY.yardsticks(task, 32, 1)
    assert list(references) == ["KL from truth", "KL from kernel", "KL from exact Bayes"]
    output = model(tokens)[:, -1]
    outputs = task.outputs
    away = outputs.divergence(references["KL from kernel"], outputs.trained(output))
    assert away.abs().max() < 1e-4


def test_localize_finds_each_variable_where_it_was_built(model):
    found = mtd_lens.localize(model, n_sequences=128)
    places = {f.variable: {(p.layer, p.kind, p.head) for p in f.places} for f in found.findings}
    assert places == {
        "copied_parents": {(0, "z", 0), (0, "z", 1)},
        "selected_feature": {(0, "mlp_out", None)},
        "match_weights": {(1, "pattern", 0)},
    }
    assert all(f.verdict == "found" and f.score > 0.999 for f in found.findings)


def test_compare(model, task):
    found = mtd_lens.compare(model, lengths=[3, 32], n_sequences=256)
    at_end = {entry.name: entry for entry in found.rows[1]}
    best = min(at_end.values(), key=lambda entry: entry.divergence)
    assert best.name == "exact Bayes"
    assert at_end["model"].divergence == pytest.approx(at_end["kernel"].divergence, rel=0.02)
    assert {"uniform", "unigram", "maximum likelihood", "exact Bayes, lags {1}"} <= set(at_end)


def test_inspect(model, task):
    found = mtd_lens.inspect(model, n_sequences=2)
    analysis = found.analysis
    assert [p.name for p in analysis.patterns] == [
        "copy of lag 1",
        "copy of lag 2",
        "match weights",
    ]
    for pattern, (layer, head) in zip(analysis.patterns, [(0, 0), (0, 1), (1, 0)], strict=True):
        distances = found.distances(pattern)[layer, head]
        assert distances[:2].isnan().all()
        assert distances[2:].max() < 1e-5
    batch = task.sample(2, 0)
    truth = estimators.ngram_truth(task, batch.tokens, batch.tables)
    assert torch.equal(analysis.predictions["truth"][:, 2:], truth)
    model_row = probabilities(model, model(batch.tokens))[:, 2:]
    assert (analysis.predictions["model"][:, 2:] - model_row).abs().max() < 1e-6
    own = mtd_lens.inspect(model, batch.tokens)
    assert "truth" not in own.analysis.predictions
    assert {"model", "kernel", "maximum likelihood", "exact Bayes"} == set(own.analysis.latents)


@pytest.mark.parametrize("plot", ["plot_latents", "plot_simplex", "plot_predictions"])
def test_figures(model, plot):
    found = mtd_lens.inspect(model, n_sequences=1)
    assert getattr(mtd_lens, plot)(found) is not None


def test_the_commands_know_it(monkeypatch, capsys, tmp_path):
    run(monkeypatch, "tasks")
    assert NAME in capsys.readouterr().out
    run(
        monkeypatch,
        "dashboard",
        f"{NAME}/constructed-relative",
        "--no-score",
        "--out",
        tmp_path / "d.html",
    )
    page = (tmp_path / "d.html").read_text()
    assert "copy of lag 2" in page
    assert "row of the table in use" in page


def test_training_starts(tmp_path, task):
    config = mtd_lens.TrainingConfig(
        "gpt", 2, 16, 2, steps=4, batch_size=8, loss="distribution", warmup_steps=1, log_every=2,
        evaluate_every=2, evaluation_sequences=32, checkpoint_every=4, threads=1,
    )  # fmt: skip
    run = mtd_lens.train(task, config, tmp_path / "run")
    assert "KL from exact Bayes" in run.metrics[-1]
    loaded = mtd_lens.load_checkpoint(tmp_path / "run")
    assert mtd_lens.task_of(loaded) == task
