"""Alignments of a task's variables, beside their controls."""

import json
from dataclasses import replace
from functools import partial

import pytest
import torch
from alignments import ORDER, predict, same, split_in_two, state, stored_and_unused
from conftest import stock

import mtd_lens
import probes
from mtd_lens.contracts import LAST
from mtd_lens.experiment import Experiment
from mtd_lens.measures.pairs import pairs_of
from mtd_lens.questions.align import KINDS
from mtd_lens.questions.dormant import MUST_NOT_PASS, judged
from mtd_lens.verdicts import ILLUSION, NOT_DIAGNOSTIC, REFUTED, SUPPORTED
from probes.sites import hook_name
from probes.statistics import Interval
from probes.subspaces import TOLERANCE


@pytest.fixture(scope="module")
def model(task):
    return mtd_lens.construct(task, 6.0, form="relative", dtype=torch.float64)


@pytest.fixture(scope="module")
def report(model):
    return mtd_lens.align(model, "mean_responsibility", 1, n_sequences=256)


@pytest.fixture(scope="module")
def dormant(task):
    """Of what is stored and never used, sought without a tolerance, and with the usual one."""
    model = stored_and_unused(task, 6.0)
    return [
        mtd_lens.align(
            model, "mean_responsibility", 1, kind=kind, n_sequences=256, tolerance=tolerance
        )
        for kind, tolerance in (("attn_out", 1e-6), ("resid_post", 1e-6), ("attn_out", TOLERANCE))
    ]


def test_a_construction_stands_out_from_every_control(report):
    scores = report.scores
    assert report.width == ORDER - 1
    assert report.score.low > 0.999
    for control in (*MUST_NOT_PASS, "noise", "complement", "whole_site"):
        if control != "other_variable":
            assert scores[control].high < 0.3, control
    assert report.blind < report.unpatched
    assert (report.verdict, report.n_far) == (SUPPORTED, 0)


def test_other_variables_at_a_site_make_its_whole_no_sign_of_an_illusion(report):
    """The token there is swapped as well, unless sources share the query's own tokens."""
    assert report.scores["whole_site"].high < 0
    assert report.scores["whole_site_given_query"].low > 0.999


def test_scores_are_those_of_a_slow_way_round(model, report):
    experiment = Experiment.of(model, None, 0).drawn(256)
    pairs = pairs_of(experiment.trial(), experiment.tokens, "mean_responsibility", LAST)
    projection = report.alignment.basis @ report.alignment.basis.T
    hook = "blocks.1.hook_resid_post"
    errors = {"learned": 0.0, "wrong_source": 0.0, "complement": 0.0}
    for n, base in enumerate(pairs.base.sequences):
        source, wrong = pairs.source.sequences[n], pairs.wrong.sequences[n]
        held = [model.run_with_cache(row[None])[1][hook][0, -1] for row in (base, source, wrong)]
        moved = {
            "learned": projection @ (held[1] - held[0]),
            "wrong_source": projection @ (held[2] - held[0]),
            "complement": (held[1] - held[0]) - projection @ (held[1] - held[0]),
        }
        for name, shift in moved.items():

            def write(activation, hook, shift=shift):
                activation[:, -1] += shift
                return activation

            with torch.no_grad():
                output = model.run_with_hooks(base[None], fwd_hooks=[(hook, write)])[0, -1]
            wanted = pairs.counterfactual[n]
            errors[name] += float(probes.kl_divergence(wanted, predict(output)))
    blind = probes.kl_divergence(pairs.counterfactual, pairs.blind)
    assert report.blind == pytest.approx(float(blind.mean()))
    for name, error in errors.items():
        slow = 1 - error / float(blind.sum())
        assert report.scores[name].score == pytest.approx(slow, abs=1e-6), name


def test_what_is_stored_and_never_used_is_found_without_tolerance_and_called_an_illusion(dormant):
    for found in dormant[:2]:
        assert found.score.low > 0.99
        assert found.verdict == ILLUSION
        assert "the variable there is inert" in found.reason
        assert "directions that natural runs do not use" in found.reason
        assert found.scores["whole_site_given_query"].high < 0
        assert found.scores["within_range"].high < 0
        assert found.furthest > 100
        # along the learned directions themselves nothing is to be seen of it
        assert max(each.shift for each in found.directions) < 2


def test_with_the_tolerance_it_is_not_found(dormant):
    found = dormant[2]
    assert found.score.high < 0
    assert found.verdict == REFUTED
    assert found.alignment.left_out == ORDER
    assert f"{ORDER} in which natural runs vary by less than 0.01 of the largest" in str(found)


def test_an_illusion_is_suspected_in_every_form(dormant):
    found = dormant[0]
    for text in (str(found), found._repr_html_()):
        assert "Verdict: illusion suspected: the subspace scores 1.000" in text
    assert json.loads(found.to_json())["verdict"] == "illusion_suspected"
    assert repr(found).endswith("illusion suspected)")


def test_the_used_copy_is_no_illusion_and_all_of_its_site(task):
    model = stored_and_unused(task, 6.0)
    found = mtd_lens.align(model, "mean_responsibility", 2, kind="attn_out", n_sequences=64)
    assert found.score.low > 0.999
    assert found.verdict == SUPPORTED
    assert "the subspace is all of the site that varies" in found.reason


def test_given_the_query_nothing_else_stands_at_the_site(model):
    found = mtd_lens.align(model, "mean_responsibility", 1, n_sequences=128, given_query=True)
    assert min(found.score.low, found.scores["whole_site"].low) > 0.999
    assert "whole_site_given_query" not in found.scores
    assert "resid_post, given the query; " in str(found)


def test_layers_that_hold_a_share_each_carry_it_together(task):
    model = split_in_two(task, 6.0, 0.6)
    half, both = (
        mtd_lens.align(model, "mean_responsibility", layer, kind="attn_out", n_sequences=128)
        for layer in (1, [1, 2])
    )
    assert both.score.low > 0.999
    assert half.score.high < 0.9
    assert (both.layer, both.n_components) == ((1, 2), 2 * model.cfg.d_model)
    assert "62 dimensions of layers 1, 2 attn_out" in str(both)
    again = mtd_lens.AlignmentReport.from_json(both.to_json())
    assert again == both
    assert torch.equal(again.alignment.basis, both.alignment.basis)


def test_the_last_queries_are_one_space(model):
    found = mtd_lens.align(
        model, "mean_responsibility", 1, kind="attn_out", n_sequences=128, last=3
    )
    assert [site.positions for site in found.alignment.sites] == [(11,), (12,), (13,)]
    assert found.n_components == 3 * model.cfg.d_model
    assert found.score.low > 0.999
    assert "attn_out, last 3 queries; " in str(found)


def test_two_variables_are_reported_with_a_score_each(model):
    names = ["mean_responsibility", "mixture_weights"]
    found = mtd_lens.align(model, names, 1, n_sequences=64, steps=5)
    assert (found.variable, found.partner.variable) == tuple(names)
    assert found.alignment.widths == (ORDER - 1, ORDER - 1)
    assert len(found.directions) == 2 * (ORDER - 1)
    assert set(found.partner.scores) == {"learned", "other_variable", "wrong_source"}
    assert "mixture_weights, the next 2 of the same basis" in str(found)
    again = mtd_lens.AlignmentReport.from_json(found.to_json())
    assert again == found


def test_the_reason_says_when_a_subspace_fitted_to_noise_carries_as_much():
    high, low = Interval(0.95, 0.94, 0.96), Interval(-1.0, -1.2, -0.8)
    scores = {"learned": high, "noise": Interval(0.95, 0.94, 0.96), "random_rotation": low}
    judge = partial(judged, furthest=8.0, given_query=True, all_of_it=False)
    supported = judge(scores)
    assert supported.name == SUPPORTED
    assert "fitted to noise scores 0.950 [0.940, 0.960], as much" in supported.reason
    assert "as much" not in judge(scores | {"noise": low}).reason
    # out of the natural range, but not for its effect: no illusion
    assert judge(scores | {"within_range": high, "whole_site": high}).name == SUPPORTED
    assert judge(scores | {"within_range": low}).name == ILLUSION
    assert judge(scores | {"whole_site": low}).name == ILLUSION
    # where other variables may be at the site, its whole is no sign
    assert judge(scores | {"whole_site": low}, given_query=False).name == SUPPORTED
    assert judge(scores | {"whole_site_given_query": low}, given_query=False).name == ILLUSION
    # what does not work is no illusion
    assert judge(scores | {"learned": low, "whole_site": low}).name == REFUTED
    passing = judge(scores | {"random_rotation": high})
    assert passing.name == NOT_DIAGNOSTIC
    assert "a random rotation scores" in passing.reason
    assert judge(scores | {"random_rotation": high}, all_of_it=True).name == SUPPORTED


def test_a_report_says_what_it_is(report, tmp_path):
    assert repr(report) == (
        "AlignmentReport('small/constructed-relative': mean_responsibility at layer 1 resid_post, "
        f"width 2: {report.score}, supported)"
    )
    text = str(report)
    place = "in 2 of 16 dimensions of layer 1 resid_post; 128 held-out"
    assert f"mean_responsibility of one step {place}" in text
    for row in (
        "learned subspace", "random rotation", "fit to arbitrary labels", "whole site",
        "its complement", "a wrong source", "fit to noise", "natural deviation",
        "Verdict: supported: the interval lies above 0.8",
    ):  # fmt: skip
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
    assert replace(again, scores={}) == replace(first, scores={})
    for name, found in first.scores.items():  # where arrays lie in memory may round sums otherwise
        assert vars(again.scores[name]) == pytest.approx(vars(found), rel=1e-12)
    assert torch.equal(again.alignment.basis, first.alignment.basis)
    assert same(before, state(model))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("nonsense", 1), "ArgumentError", "unknown variable 'nonsense'"),
        (("mean_responsibility", 3), "SiteError", "layer must be an integer from 0 to 2; got 3"),
        (("mean_responsibility", True), "SiteError", "layer must be an integer"),
        (("mean_responsibility", 1, 99), "DataError", "width must be an integer from 1 to 16"),
        (("mean_responsibility", 1, None, {"kind": "resid"}), "ArgumentError", "unknown component"),
        (("mean_responsibility", 1, None, {"kind": "z"}), "SiteError", "Name it: Site(hook"),
        (("mean_responsibility", 1, None, {"head": 0}), "SiteError", "has no head axis"),
        (("mean_responsibility", 1, None, {"head": 4}), "SiteError", "head must be an integer"),
        (("mean_responsibility", 1, None, {"kind": "mlp_out"}), "SiteError", "no hook|did not run"),
        (("mean_responsibility", 1, None, {"n_sequences": 8}), "ArgumentError", "at least 64"),
        (("responsibilities", 2), "DataError", "nothing leads from it"),
        (("mean_responsibility", []), "SiteError", "in one layer or more; got none"),
        (("mean_responsibility", [0, 3]), "SiteError", "layer must be an integer from 0 to 2"),
        (("mean_responsibility", 1, None, {"last": 12}), "ArgumentError", "last must be an"),
        (("responsibilities", 0, None, {"last": 2}), "ArgumentError", "Leave it out"),
        (("mean_responsibility", 1, None, {"tolerance": 2}), "ArgumentError", "tolerance must"),
        ((["mean_responsibility"] * 2, 1), "ArgumentError", "one name or two different ones"),
        ((["mean_responsibility", "responsibilities"], 1), "ArgumentError", "no site in common"),
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
