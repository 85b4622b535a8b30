"""Questions by algorithm: exact Bayes is found where its construction has it, and said to be it."""

import json
import sys
from dataclasses import replace

import pytest
import torch

import mtd_lens
from mtd_lens import ArgumentError, ModelError, cli
from mtd_lens.registry import family_of

NAME = "mtd-q3-m2-t32/constructed-posterior"
HELD = {"algorithm": "posterior", "n_sequences": 128}
SITES = {
    "node_log_likelihoods": {(0, "mlp_out")},
    "total_log_likelihoods": {(1, "z")},
    "node_posterior": {(2, "pattern")},
    "mixture_weights": {(1, "z")},  # they follow from the sums, and so does all that they say
}


@pytest.fixture(scope="module")
def model():
    return mtd_lens.load_model(NAME, dtype=torch.float64)


@pytest.fixture(scope="module")
def found(model):
    return mtd_lens.localize(model, **HELD)


def test_localize_finds_what_the_claims_say(found):
    assert [finding.variable for finding in found.findings if not finding.given_query] == [*SITES]
    for finding in found.findings:
        assert finding.verdict == "found", finding
        places = {(place.layer, place.kind) for place in finding.places}
        assert places == SITES[finding.variable], finding
        assert finding.score > 0.999
    assert found.parameters == {"inverse_temperature": pytest.approx(1, abs=1e-3)}


@pytest.mark.parametrize("given_query", [False, True])
def test_align_finds_the_sums(model, given_query):
    report = mtd_lens.align(
        *(model, "total_log_likelihoods", 1, 2), kind="attn_out", steps=60,
        given_query=given_query, **HELD,
    )  # fmt: skip
    assert report.score.low > 0.9
    assert report.scores["random_rotation"].high < 0.5
    assert report.scores["random_weights"].high < 0.5
    assert report.algorithm == "exact Bayes"
    assert "total_log_likelihoods of exact Bayes in 2 of" in str(report)
    again = mtd_lens.AlignmentReport.from_json(report.to_json())
    assert again.algorithm == "exact Bayes"


def test_inspections_show_the_posterior(model):
    seen = mtd_lens.inspect(model, n_sequences=2, algorithm="posterior")
    assert seen.algorithm == "exact Bayes"
    names = [pattern.name for pattern in seen.analysis.patterns]
    assert names == ["sum over evidence", "posterior over nodes"]
    for pattern, layer in zip(seen.analysis.patterns, (1, 2), strict=True):
        assert seen.nearest_distances(pattern)[layer] < 1e-3
    latents, predictions = seen.analysis.latents, seen.analysis.predictions
    assert [*latents] == ["model", "one step", "2 steps", "exact Bayes", "truth"]
    last = predictions["exact Bayes"][:, -1] - predictions["model"][:, -1]
    assert last.abs().max() < 1e-3
    assert str(seen).startswith(f"{NAME}   against exact Bayes   inverse temperature 1")
    of_one_step = mtd_lens.inspect(model, n_sequences=2)
    for source in ("one step", "2 steps", "model", "truth"):
        same = of_one_step.analysis.predictions[source].nan_to_num()
        assert torch.allclose(same, predictions[source].nan_to_num(), atol=1e-9), source
    exact = of_one_step.analysis.predictions["exact Bayes"]
    away = (exact - predictions["exact Bayes"]).nan_to_num().abs().max()
    assert 0 < away < 1e-3  # one integrates, the other is fitted to the model


def test_dashboards_show_the_posterior(model):
    page = mtd_lens.dashboard(model, n_sequences=1, algorithm="posterior")
    text = page.to_html()
    assert "posterior over nodes" in text
    assert "against exact Bayes" in text
    card = mtd_lens.score(model, n_sequences=64, quick=True, algorithm="posterior")
    assert "against exact Bayes" in page.with_scorecard(card).to_html()
    other = mtd_lens.score(model, n_sequences=64, quick=True)
    with pytest.raises(ArgumentError, match="against one step, the dashboard against exact Bayes"):
        page.with_scorecard(other)


def test_results_say_what_the_model_was_held_against(found):
    assert found.algorithm == "exact Bayes"
    assert str(found).startswith(f"{NAME}   against exact Bayes   ")
    data = json.loads(found.to_json())
    assert data["algorithm"] == "exact Bayes"
    assert mtd_lens.Localization.from_dict(data) == found


def test_older_files_do_not_say(found):
    data = found.to_dict()
    del data["algorithm"]
    older = mtd_lens.Localization.from_dict(data)
    assert older.algorithm == ""
    assert "against" not in str(older).splitlines()[0]
    assert older.findings == found.findings


def test_the_default_is_the_first(model):
    task = mtd_lens.task_of(model)
    first = family_of(task).algorithms[0]
    mine = replace(first, name="mine", id="mine")
    for algorithm, name in ((None, "one step"), ("one-step", "one step"), (mine, "mine")):
        seen = mtd_lens.inspect(model, n_sequences=1, algorithm=algorithm)
        assert seen.algorithm == name
        assert mtd_lens.dashboard(model, n_sequences=1, algorithm=algorithm).to_html()


QUESTIONS = {
    "score": lambda model, algorithm: mtd_lens.score(model, algorithm=algorithm),
    "localize": lambda model, algorithm: mtd_lens.localize(model, algorithm=algorithm),
    "align": lambda model, algorithm: mtd_lens.align(
        model, "mixture_weights", 1, algorithm=algorithm
    ),
    "inspect": lambda model, algorithm: mtd_lens.inspect(model, algorithm=algorithm),
    "dashboard": lambda model, algorithm: mtd_lens.dashboard(model, algorithm=algorithm),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_unknown_algorithms_are_refused(model, question):
    with pytest.raises(ArgumentError, match=r"unknown mtd algorithm 'posteriors'.*posterior"):
        QUESTIONS[question](model, "posteriors")


def test_an_algorithm_without_carriers_is_named(model):
    first = family_of(mtd_lens.task_of(model)).algorithm("posterior")
    with pytest.raises(ModelError, match="the algorithm 'exact Bayes' does not say where"):
        mtd_lens.localize(model, n_sequences=64, algorithm=replace(first, carriers=None))


def test_commands_take_an_algorithm(capsys, monkeypatch, tmp_path):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mtd-lens", *arguments])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        assert not stopped.value.code, capsys.readouterr().err
        return capsys.readouterr().out

    held = ("--algorithm", "posterior", "--sequences")
    assert "node_posterior" in run("localize", NAME, *held, "64")
    page = tmp_path / "page.html"
    run("dashboard", NAME, "--out", str(page), *held, "1", "--no-score")
    assert "posterior over nodes" in page.read_text("utf-8")
