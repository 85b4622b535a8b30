"""Scorecards of n-gram constructions, nulls and broken models."""

import math
from dataclasses import replace

import ngram_oracles
import pytest
import torch
from verdict_sets import attainable, held, supported

import mtd_lens
from mtd_lens.families.ngram import FAMILY, claims
from mtd_lens.families.ngram.causal_model import fit_sharpness
from mtd_lens.families.ngram.references import wrong_parents
from mtd_lens.measures import Prediction, Probe
from mtd_lens.questions.estimators import from_model, from_truth
from mtd_lens.spaces import last_predictions

HALVES = (slice(0, 64), slice(64, None))

LAYERS = {
    "copied_parents.interchange": 0,
    "copied_parents.scrubbing": 0,
    "copied_parents.probe": 0,
    "copied_parents.attention": 0,
    "selected_feature.interchange": 0,
    "selected_feature.injection": 0,
    "selected_feature.probe": 0,
    "match_weights.interchange": 1,
    "match_weights.interchange_given_query": 1,
    "match_weights.attention": 1,
    "prediction.estimator": None,
    "prediction.algorithm": None,
}

ALGORITHM = {"prediction.algorithm"}
"""Which of like algorithms the predictions of a broken model are nearest to says nothing of it."""


# What each ablation must leave: claims about earlier parts. Everything downstream of the broken
# part is lost, and so is every interchange claim, since its effect passes through all parts. So is
# the match of the model whose values are broken: the sharpness that it is held against is read from
# its predictions, which follow none.
KEPT = {
    "copier": set(),
    "selector": {"copied_parents.probe", "copied_parents.attention"},
    "sharpness": {"copied_parents.probe", "copied_parents.attention", "selected_feature.probe"},
    "values": {
        "copied_parents.probe",
        "copied_parents.attention",
        "selected_feature.probe",
    },
}


def check_construction(card):
    assert [claim.id for claim in card.claims] == list(LAYERS)
    for claim in card.claims:
        assert claim.verdict == "supported", claim
        assert claim.score > attainable(claim) - 0.001, claim
        assert claim.layer == LAYERS[claim.id], claim


def check_null(card):
    assert not supported(card)
    for claim in card.claims:
        assert claim.verdict != "partial" or claim.score < 0.5, claim


@pytest.fixture(scope="module")
def task():
    return mtd_lens.NGramTask(3, (1, 2), 2, 24)


@pytest.mark.parametrize("form", ["absolute", "relative"])
def test_a_construction_supports_every_claim_in_its_own_layer(form):
    model = mtd_lens.load_model(f"ngram-q3-s12-t32/constructed-{form}")
    card = mtd_lens.score(model, n_sequences=64)
    check_construction(card)
    assert [e.name for e in card.estimators if e.closest] == ["kernel"]
    kernel = next(e for e in card.estimators if e.name == "kernel")
    assert kernel.parameters["sharpness"] == pytest.approx(card.parameters["sharpness"], rel=1e-3)
    assert set(card.parameters) == {"sharpness"}


@pytest.mark.parametrize("form", ["absolute", "relative"])
def test_a_random_model_supports_nothing(form):
    model = mtd_lens.load_model(f"ngram-q3-s12-t32/random-{form}")
    check_null(mtd_lens.score(model, n_sequences=64))


@pytest.mark.parametrize("part", list(mtd_lens.NGRAM_PARTS))
def test_a_broken_part_loses_its_claims_and_keeps_the_others(task, part):
    whole = mtd_lens.construct_ngram(task, 4.0, "relative")
    card = mtd_lens.score(mtd_lens.ablate_ngram(whole, part), n_sequences=64)
    assert held(card) - ALGORITHM == KEPT[part]
    assert part in card.model


@pytest.mark.slow
@pytest.mark.parametrize("part", list(mtd_lens.NGRAM_PARTS))
@pytest.mark.parametrize("parents", [(1,), (1, 3), (2,)], ids=str)
def test_broken_parts_of_other_shapes(parents, part):
    task = mtd_lens.NGramTask(3, parents, 3, 24)
    whole = mtd_lens.construct_ngram(task, 4.0, "absolute")
    n_sequences = 192 if parents == (1,) else 96  # its probe beats its control by less
    card = mtd_lens.score(mtd_lens.ablate_ngram(whole, part), n_sequences=n_sequences)
    trivial = {"selected_feature.probe"} if len(parents) == 1 and part == "selector" else set()
    if part != "copier":  # its copies are what passes layer 0, where there are matches to see it
        trivial |= held(card) & {"copied_parents.scrubbing"}
    assert held(card) - ALGORITHM == KEPT[part] | trivial  # a single parent's feature is its copy


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ngram-q3-s12-t100", "ngram-q3-s13-t60"])
@pytest.mark.parametrize("form", ["absolute", "relative"])
def test_constructions_and_nulls_of_longer_presets(name, form):
    built = mtd_lens.load_model(f"{name}/constructed-{form}")
    check_construction(mtd_lens.score(built, n_sequences=256))  # fewer have no near matches
    if form == "relative":  # the short preset's random models are tested in both forms
        check_null(mtd_lens.score(mtd_lens.load_model(f"{name}/random-{form}"), n_sequences=64))


def half_broken(task):
    """Only lag 1 is copied: the head of lag 2 attends to all positions so far alike."""
    model = mtd_lens.construct_ngram(task, 4.0, dtype=torch.float64)
    model.blocks[0].attn.W_Q.data[1] = 0
    return model


@pytest.fixture(scope="module")
def trial(task):
    tokens = task.sample(80, seed=3).tokens
    causal = mtd_lens.NGramCausalModel(task, 4.0)
    return mtd_lens.Trial(half_broken(task), task, causal, tokens[:50], tokens[50:], 0)


def test_attention_to_lags_is_measured_from_chance(trial):
    """The mean miss of both heads, one of which is uniform over the k + 1 positions so far."""
    positions = range(2, 24)
    missed = sum((1 - 1 / (k + 1)) / 2 for k in positions) / len(positions)
    found, _ = claims.Copying()(trial)
    assert (found.numerator - missed).abs().max() < 1e-12
    assert (found.denominator - 2 / 3).abs().max() < 1e-12
    assert found.selection == pytest.approx(1 - missed / (2 / 3), abs=1e-12)


def test_predictions_are_measured_from_the_unigram(trial):
    """KL(kernel ‖ model) and KL(kernel ‖ unigram), a sequence at a time, from loops over tokens."""
    [found] = Prediction(claims.without_evidence)(trial)
    output = trial.model(trial.tokens).detach()[:, -1].softmax(-1)
    for n, tokens in enumerate(trial.tokens):
        kernel = ngram_oracles.kernel(tokens, 23, 2, 3, 4.0, {(1, 2): 1.0})
        unigram = ngram_oracles.counts(tokens, 23, (), 2, 3) / 22
        errors = [
            sum(p * math.log(p / float(q)) for p, q in zip(kernel, other, strict=True) if p)
            for other in (output[n], unigram)
        ]
        assert float(found.numerator[n]) == pytest.approx(errors[0], abs=1e-9)
        assert float(found.denominator[n]) == pytest.approx(errors[1], abs=1e-9)
    assert found.numerator.mean() > 0.1 * found.denominator.mean()


def test_the_sharpness_of_the_table_is_fitted_on_the_fit_split_alone(trial):
    def fitted(fit, test):
        changed = replace(trial, fit_tokens=fit, tokens=test)
        return from_model(FAMILY, changed)["kernel"][1]["sharpness"]

    fit, test = trial.fit_tokens, trial.tokens
    assert fitted(fit, test) == fitted(fit, fit) != fitted(test, test)


def test_the_sharpness_of_a_comparison_is_fitted_on_the_first_half_alone(task, trial):
    found = from_truth(FAMILY, task, trial.model, 24, 64, 5)["kernel"][1]["sharpness"]
    batch = task.sample(128, seed=5)
    truth = mtd_lens.ngram_truth(task, batch.tokens, batch.tables)[:, -1]
    first, second = (fit_sharpness(task, batch.tokens[h], truth[h]) for h in HALVES)
    assert found == first
    assert abs(first - second) > 1e-3


def test_rows_do_not_depend_on_how_a_model_is_read(task):
    """The same function as log-probabilities, as probabilities, and in float64."""
    forms = [
        mtd_lens.construct_ngram(task, 5.0, read_out=read_out, dtype=dtype)
        for read_out in ("log_probs", "probs")
        for dtype in (torch.float32, torch.float64)
    ]
    tokens = task.sample(128, seed=0).tokens
    fit, test = (tokens[h] for h in HALVES)
    tables, trials = [], []
    for model in forms:
        predictions = last_predictions(model, fit, task.outputs)
        causal = FAMILY.algorithms[0].fit(task, fit, predictions)
        trials.append(mtd_lens.Trial(model, task, causal, fit, test, 0))
        rows = (from_truth(FAMILY, task, model, 24, 64, 0), from_model(FAMILY, trials[-1]))
        tables.append(torch.stack([x for row in rows for x, _ in row.values()]))
        assert causal.sharpness == pytest.approx(trials[0].causal_model.sharpness, abs=1e-4)
    assert all(torch.allclose(tables[0], table, rtol=1e-3, atol=1e-5) for table in tables)
    unseen = mtd_lens.ngram_counts(task, tokens, ())[:, -1].min(-1).values == 0
    assert unseen.any()  # or else no probability would be raised


def selection(task):
    """The probe of the selected feature, as the claim has it."""
    return next(c for c in claims.claims(task) if c.id == "selected_feature.probe").measure


@pytest.fixture(scope="module")
def wide():
    """Lag 4 is copied, and selected by neither key nor query."""
    return mtd_lens.NGramTask(3, (1, 3), 4, 24, 1.0)


def test_the_selector_drops_the_lags_that_are_no_parents(wide):
    """On uniform tokens, which say nothing of each other, an unselected lag cannot be read."""
    assert claims.unselected(wide) == [4]
    assert claims.unselected(mtd_lens.NGramTask(3, (1,), 3, 24)) == [2, 3]
    assert claims.unselected(mtd_lens.NGramTask(3, (1, 3), 3, 24)) == []
    generator = torch.Generator().manual_seed(0)
    uniform = torch.randint(3, (400, 24), generator=generator)
    causal = mtd_lens.NGramCausalModel(wide, 4.0)
    trials = [
        mtd_lens.Trial(model, wide, causal, uniform[:200], uniform[200:], 0)
        for whole in [mtd_lens.construct_ngram(wide, 4.0)]
        for model in (whole, mtd_lens.ablate_ngram(whole, "copier"))
    ]
    selected, _ = selection(wide)(trials[0])
    copies = Probe("copied_parents", claims.control_task, wide.window + 1)
    assert abs(selected.details["unselected_lags"]) < 0.02
    assert abs(selected.details["unselected_lags_in_feature"]) < 0.02
    copied = copies(trials[0])[0]
    assert (
        float(copied.numerator.mean() / copied.denominator.mean()) < 1e-6
    )  # until then it is there
    lost = copies(trials[1])[0]
    assert float(lost.numerator.mean() / lost.denominator.mean()) > 0.9


def test_the_probe_of_unselected_lags_can_succeed(wide):
    """A block that writes its copies last, without a selector, holds every lag."""
    tokens = wide.sample(200, seed=0).tokens
    model = mtd_lens.construct_ngram(wide, 4.0)
    copies = model.blocks[0].attn.W_O.data
    model.blocks[0].mlp.W_in.data.zero_()
    model.blocks[0].mlp.b_in.data.zero_()
    lag_4 = slice(copies[3, :3].abs().sum(0).argmax().item(), None)
    model.blocks[0].mlp.W_in.data[lag_4][:3, :3] = torch.eye(3)
    causal = mtd_lens.NGramCausalModel(wide, 4.0)
    trial = mtd_lens.Trial(model, wide, causal, tokens[:100], tokens[100:], 0)
    found, _ = selection(wide)(trial)
    assert found.details["unselected_lags"] > 0.99
    assert found.details["unselected_lags_in_feature"] < 0.5


def test_wrong_parents_differ_by_one_lag(wide, task):
    assert wrong_parents(task) == [(1,), (2,)]
    assert wrong_parents(wide) == [(1,), (1, 2, 3), (1, 3, 4), (3,)]


def test_attention_alone_is_tested_at_what_it_writes(task):
    from conftest import stock

    model = stock(task, "attn-only", d_model=16, n_heads=2)
    card = mtd_lens.score(model, task, n_sequences=64)
    assert not supported(card)
    assert "hook_attn_out" in card["selected_feature.interchange"].site
    assert card.parameters["sharpness_at_bound"]
