"""Alignments of a task's variables, beside their controls."""

import json
from dataclasses import replace

import pytest
import torch
from alignments import ORDER, predict, prepare, same, state
from conftest import stock

import mtd_lens
import probes
from mtd_lens.questions.align import KINDS
from probes.sites import hook_name


@pytest.fixture(scope="module")
def model(task):
    return mtd_lens.construct(task, 6.0, form="relative", dtype=torch.float64)


@pytest.fixture(scope="module")
def report(model):
    return mtd_lens.align(model, "mean_responsibility", 1, n_sequences=256)


def test_a_construction_stands_out_from_every_control(report):
    scores = report.scores
    assert report.width == ORDER - 1
    assert report.score.low > 0.999
    for control in (
        "random_rotation",
        "random_weights",
        "arbitrary_labels",
        "whole_site",
        "mean_value",
    ):
        assert scores[control].high < 0.7, control
    assert report.unpatched > 0.01


def test_a_prediction_at_the_mean_scores_well_without_looking_at_the_source(task, model, report):
    """Why 0 is no floor: the slow way round to the last control."""
    tokens = task.sample(256, 0).tokens
    causal = mtd_lens.MTDCausalModel(task, report.parameters["beta"])
    held_out, _, target = prepare(task, causal, tokens=tokens[128:], seed=1)
    means = [causal.run(row[None])["mean_responsibility"][0, -1] for row in tokens[:128]]
    mean = torch.stack(means).mean(0)
    above = below = 0.0
    for row, wanted in zip(held_out, target, strict=True):
        at_mean = causal.do(mean_responsibility=mean).run(row[None])["prediction"][0, -1]
        above += float(probes.kl_divergence(wanted, at_mean))
        output = model(row[None])[0, -1].detach()
        below += float(probes.kl_divergence(wanted, predict(output)))
    assert report.scores["mean_value"].score == pytest.approx(1 - above / below, abs=1e-6)
    assert report.scores["mean_value"].low > 0.2


def test_a_report_says_what_it_is(report, tmp_path):
    assert repr(report) == (
        "AlignmentReport('small/constructed-relative': mean_responsibility at layer 1 resid_post, "
        f"width 2: {report.score})"
    )
    text = str(report)
    assert "mean_responsibility in 2 of 16 dimensions of layer 1 resid_post; 128 held-out" in text
    for row in ("learned subspace", "random rotation", "fit to arbitrary labels", "whole site"):
        assert row in text
        assert row in report._repr_html_()
    plain = json.loads(report.to_json(tmp_path / "it.json"))
    assert json.loads((tmp_path / "it.json").read_text()) == plain
    assert plain["scores"]["learned"]["score"] == report.score.score
    assert plain["alignment"]["width"] == 2


def test_a_report_is_reproduced_and_leaves_no_trace(model):
    before = state(model)
    first, again = (
        mtd_lens.align(model, "mean_responsibility", 1, n_sequences=64, steps=3) for _ in range(2)
    )
    assert again == first
    assert torch.equal(again.alignment.basis, first.alignment.basis)
    assert same(before, state(model))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("nonsense", 1), "ArgumentError", "unknown variable 'nonsense'"),
        (("mean_responsibility", 3), "SiteError", "layer must be an integer from 0 to 2; got 3"),
        (("mean_responsibility", True), "SiteError", "layer must be an integer"),
        (("mean_responsibility", 1, 99), "DataError", "width must be an integer from 1 to 16"),
        (("mean_responsibility", 1, None, {"kind": "resid"}), "ArgumentError", "unknown kind of"),
        (("mean_responsibility", 1, None, {"kind": "z"}), "SiteError", "Name it: Site(hook"),
        (("mean_responsibility", 1, None, {"head": 0}), "SiteError", "has no head axis"),
        (("mean_responsibility", 1, None, {"head": 4}), "SiteError", "head must be an integer"),
        (("mean_responsibility", 1, None, {"kind": "mlp_out"}), "SiteError", "no hook|did not run"),
        (("mean_responsibility", 1, None, {"n_sequences": 8}), "ArgumentError", "at least 64"),
        (("responsibilities", 2), "DataError", "nothing leads from it"),
    ],
)
def test_errors_of_a_report_say_what_came(model, arguments, error, message):
    *positional, options = arguments if isinstance(arguments[-1], dict) else (*arguments, {})
    with pytest.raises(getattr(mtd_lens, error), match=message.replace("(", r"\(")):
        mtd_lens.align(model, *positional, **options)


def test_a_variable_that_does_not_vary_cannot_be_aligned():
    task = mtd_lens.MTDTask([[0.9, 0.1], [0.4, 0.6]], order=1, seq_len=8)
    model = mtd_lens.construct(task, 1.0)
    with pytest.raises(mtd_lens.ArgumentError, match="nothing to align"):
        mtd_lens.align(model, "mean_responsibility", 1)


def test_an_algorithm_must_say_where_variables_may_be_sought(model, task, monkeypatch):
    family = mtd_lens.registry.family_of(task)
    silent = replace(family.algorithms[0], carriers=None)
    monkeypatch.setattr(
        "mtd_lens.experiment.family_of", lambda task: replace(family, algorithms=(silent,))
    )
    with pytest.raises(mtd_lens.ModelError, match=r"'one step' does not say.*Give it carriers"):
        mtd_lens.align(model, "mean_responsibility", 1)


def test_every_kind_is_a_hook_of_a_block(task):
    names = stock(task, "gpt", n_heads=2, d_model=16).hook_dict
    assert all(hook_name(kind, 0) in names for kind in KINDS)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["absolute", "relative"])
@pytest.mark.parametrize(
    ("variable", "layer"), [("mean_responsibility", 1), ("responsibilities", 0)]
)
def test_registered_constructions_hold_each_variable_in_its_layer(form, variable, layer):
    model = mtd_lens.load_model(f"mtd-q5-m3-t32/constructed-{form}")
    scores = mtd_lens.align(model, variable, layer).scores
    assert scores["learned"].low > 0.99
    assert scores["random_weights"].high < 0.5
    assert scores["arbitrary_labels"].high < 0.5
