"""Scorecards of constructions, nulls, broken models and a user's own model."""

import json
import re

import pytest
import torch
from conftest import transition
from random_models import users_model
from verdict_sets import attainable, held, supported

import mtd_lens
import probes
from mtd_lens import measures
from mtd_lens.contracts import LAST
from mtd_lens.results.scorecard import ClaimResult, Scorecard

CLAIMS = (
    "responsibilities.interchange",
    "responsibilities.scrubbing",
    "responsibilities.injection",
    "responsibilities.probe",
    "responsibilities.attention",
    "responsibilities.weights",
    "mean_responsibility.interchange",
    "mean_responsibility.interchange_given_query",
    "mean_responsibility.scrubbing_given_query",
    "mean_responsibility.injection",
    "mean_responsibility.probe",
    "mean_responsibility.probe_given_query",
    "mixture_weights.interchange",
    "mixture_weights.interchange_given_query",
    "mixture_weights.attention",
    "prediction.estimator",
    "prediction.algorithm",
)
LAYERS = dict(zip(CLAIMS, (0,) * 6 + (1,) * 6 + (2,) * 3 + (None,) * 2, strict=True))
SLOW = {claim for claim in CLAIMS if claim.rpartition(".")[2].startswith(("scrub", "inj", "algo"))}

ALGORITHM = {"prediction.algorithm"}
"""Which of like algorithms the predictions of a broken model are nearest to says nothing of it."""

READABLE = {f"responsibilities.{test}" for test in ("probe", "attention", "weights")}
MEAN = {"mean_responsibility.probe", "mean_responsibility.probe_given_query"}
SCRUBBED = {"responsibilities.scrubbing", "mean_responsibility.scrubbing_given_query"}

# What each ablation must leave: claims about earlier parts. Everything downstream of the broken
# part is lost, and so is every interchange claim, since its effect passes through all parts. What
# passes a layer is not changed by a later part that uses it in another way.
KEPT = {
    "transition": set(),
    "average": READABLE | {"responsibilities.scrubbing"},
    "beta": READABLE | MEAN,
    "lag": READABLE | MEAN | SCRUBBED,
}
UNKNOWN = {
    "transition": SCRUBBED,
    "average": {"mean_responsibility.scrubbing_given_query"},
    "beta": SCRUBBED,
    "lag": set(),
}
"""Claims that the ablation says nothing of: whether what passes instead is a function of γ."""


def check_construction(card):
    assert tuple(claim.id for claim in card.claims) == CLAIMS
    for claim in card.claims:
        assert claim.verdict == "supported", claim
        assert claim.score >= (0.99 if "probe" in claim.id else attainable(claim) - 0.001), claim
        assert claim.layer == LAYERS[claim.id], claim


def check_null(card):
    assert not supported(card)
    for claim in card.claims:
        if "interchange" in claim.id:
            assert claim.verdict == "refuted", claim


@pytest.mark.parametrize("form", ["absolute", "relative"])
def test_a_construction_supports_every_claim_in_its_own_layer(form):
    model = mtd_lens.load_model(f"mtd-q3-m2-t32/constructed-{form}")
    card = mtd_lens.score(model, n_sequences=256)
    check_construction(card)
    assert card["prediction.estimator"].low > 0.999
    closest = [e for e in card.estimators if e.closest]
    assert [e.name for e in closest] == ["one step"]
    # β = η m n: the step size that is read off is the construction's own
    assert closest[0].parameters["step_size"] * 2 * 30 == pytest.approx(
        card.parameters["beta"], rel=1e-3
    )
    assert card.parameters["beta_as_step_size"] * 2 * 30 == card.parameters["beta"]


@pytest.mark.parametrize("form", ["absolute", pytest.param("relative", marks=pytest.mark.slow)])
def test_a_random_model_supports_nothing(form):
    model = mtd_lens.load_model(f"mtd-q3-m2-t32/random-{form}")
    check_null(mtd_lens.score(model, n_sequences=256))


@pytest.mark.slow
@pytest.mark.parametrize("task_name", [n for n in mtd_lens.list_tasks() if n.startswith("mtd-")])
@pytest.mark.parametrize("form", ["absolute", "relative"])
def test_constructions_and_nulls_of_every_preset(task_name, form):
    n_sequences = 128 if task_name.endswith("t192") else 768  # minutes, not an hour
    built = mtd_lens.load_model(f"{task_name}/constructed-{form}")
    check_construction(mtd_lens.score(built, n_sequences=n_sequences))
    random = mtd_lens.load_model(f"{task_name}/random-{form}")
    check_null(mtd_lens.score(random, n_sequences=n_sequences))


@pytest.mark.slow
@pytest.mark.parametrize("form", ["absolute", "relative"])
def test_other_random_weights_support_nothing_either(form):
    model = mtd_lens.load_model(f"mtd-q5-m3-t32/constructed-{form}")
    for seed in range(1, 4):
        card = mtd_lens.score(mtd_lens.hooked.randomized(model, seed, "null"), seed=seed)
        assert all(claim.verdict != "supported" for claim in card.claims)


@pytest.mark.parametrize("part", list(mtd_lens.PARTS))
@pytest.mark.parametrize("form", ["absolute", pytest.param("relative", marks=pytest.mark.slow)])
def test_a_broken_part_loses_its_claims_and_keeps_the_others(form, part):
    whole = mtd_lens.load_model(f"mtd-q5-m3-t32/constructed-{form}")
    card = mtd_lens.score(mtd_lens.ablate_construction(whole, part), n_sequences=384)
    assert held(card) - UNKNOWN[part] - ALGORITHM == KEPT[part]
    assert part in card.model


@pytest.fixture(scope="module")
def own_model():
    return users_model(n_heads=3, d_model=24, d_mlp=48, n_ctx=32)


def test_a_users_own_model_is_scored_and_left_alone(own_model):
    task = mtd_lens.load_task("mtd-q3-m2-t32")
    weights = {name: value.clone() for name, value in own_model.state_dict().items()}
    own_model.train()
    calls = []
    own_model.add_hook("blocks.0.hook_attn_out", lambda a, hook: calls.append(None))
    try:
        card = mtd_lens.score(own_model, task=task, n_sequences=128)
        hooks = sum(len(point.fwd_hooks) for point in own_model.hook_dict.values())
    finally:
        own_model.reset_hooks()
    assert hooks == 1
    assert own_model.training
    assert all(torch.equal(weights[n], v) for n, v in own_model.state_dict().items())
    assert not hasattr(own_model, "mtd_lens_info")
    assert not supported(card)
    assert card.n_layers == 2
    json.loads(card.to_json())


@pytest.mark.parametrize("part", ["beta", "lag"])
def test_a_beta_at_the_end_of_its_range_is_no_estimate(task, part):
    broken = mtd_lens.ablate_construction(mtd_lens.construct(task, 5.0), part)
    card = mtd_lens.score(broken, n_sequences=64)
    assert card.parameters["beta_at_bound"]
    assert "no estimate" in str(card)
    assert "no estimate" in card.to_html()


def test_tokens_that_never_follow_do_not_count_against_the_weights():
    rows = [[0.5, 0.5, 0.0], [0.2, 0.8, 0.0], [0.6, 0.4, 0.0]]
    model = mtd_lens.construct(mtd_lens.MTDTask(rows, 2, 12), 4.0)
    model.blocks[0].attn.W_K.data[:, :3, 2] = torch.tensor([5.0, -3.0, 1.0])
    card = mtd_lens.score(model, n_sequences=64)
    assert card["responsibilities.weights"].score > 0.999


def test_a_doubled_model_is_scored_and_ablated(task):
    model = mtd_lens.construct(task, 5.0).double()
    card = mtd_lens.score(model, n_sequences=64)
    assert card["prediction.estimator"].score > 0.999
    step_size = 5.0 / (task.order * (task.seq_len - task.order))
    assert card.parameters == {  # nor is it at a bound
        "beta": pytest.approx(5.0, rel=1e-3),
        "beta_as_step_size": pytest.approx(step_size, rel=1e-3),
    }
    shown = [line for line in str(card).splitlines() if "β" in line]
    assert len(shown) == 1  # a card has one β, beside the step size that it equals
    assert f"β {card.parameters['beta']:.4g} (step size " in shown[0]
    broken = mtd_lens.ablate_construction(model, "lag")
    assert next(broken.parameters()).dtype == torch.float64


def test_further_claims_are_tested_after_the_familys_own(task):
    def leaky(causal_model, tokens, variable, seed):
        return causal_model.run(tokens)[variable]  # no control at all: it is what is looked for

    rows = measures.Attention("responsibilities", range(1, task.order + 1), LAST)
    probe = measures.Probe("mean_responsibility", leaky, window=4, queries=LAST)
    last = mtd_lens.Claim("responsibilities.at_the_end", "The last query attends by γ.", rows)
    leaks = mtd_lens.Claim("mean_responsibility.leaky_probe", "The control is no control.", probe)
    card = mtd_lens.score(mtd_lens.construct(task), n_sequences=64, claims=[last, leaks])
    assert tuple(result.id for result in card) == (*CLAIMS, last.id, leaks.id)
    found = card[last.id]
    assert (found.verdict, found.layer, found.statement) == ("supported", 0, last.statement)
    assert found.null < 0.5 < found.ceiling
    assert {entry.layer for entry in card.matrix if entry.claim == last.id} == {0, 1, 2}
    own, further = card["mean_responsibility.probe"], card[leaks.id]
    assert further.details["control"] == pytest.approx(own.score, abs=1e-9)
    assert further.details["selectivity"] == pytest.approx(0, abs=1e-9)
    assert own.details["control"] < 0.5


@pytest.mark.usefixtures("_no_type_checker")
def test_further_claims_are_claims_with_ids_of_their_own(task):
    model, taken = mtd_lens.construct(task), mtd_lens.Claim(CLAIMS[0], "", lambda trial: [])
    with pytest.raises(mtd_lens.ArgumentError, match=r"named 'responsibilities\.interchange' al"):
        mtd_lens.score(model, claims=[taken])
    for wrong in (taken, [CLAIMS[0]], CLAIMS[0]):
        with pytest.raises(mtd_lens.ArgumentError, match=r"claims must be a list of mtd_lens\.Cl"):
            mtd_lens.score(model, claims=wrong)


UNCHOSEN = mtd_lens.Measurement(0, "", float("nan"), torch.ones(3), torch.ones(3))


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize("found", [None, [3], [UNCHOSEN]])
def test_what_a_further_claims_test_returns_is_checked(task, found):
    claim = mtd_lens.Claim("mine.test", "", lambda trial: found)
    with pytest.raises(mtd_lens.ArgumentError, match=r"'mine\.test' must return a list"):
        mtd_lens.score(mtd_lens.construct(task), n_sequences=64, claims=[claim])


@pytest.fixture(scope="module")
def card(task):
    return mtd_lens.score(mtd_lens.construct(task), n_sequences=64)


def test_the_same_seed_gives_the_same_scorecard(task, card):
    model = mtd_lens.construct(task)
    again, other = (mtd_lens.score(model, n_sequences=64, seed=seed).to_dict() for seed in (0, 1))
    assert again == card.to_dict()
    assert again["claims"] != other["claims"]


def test_json_holds_what_is_promised(card, tmp_path):
    text = card.to_json(tmp_path / "card.json")
    assert (tmp_path / "card.json").read_text() == text
    data = json.loads(text)
    assert list(data) == [
        "form",
        "model",
        "task",
        "seed",
        "n_sequences",
        "parameters",
        "divergence",
        "versions",
        "claims",
        "matrix",
        "estimators",
        "algorithm",
        "conclusion",
        "quick",
    ]
    assert data["parameters"] == card.parameters
    assert data["algorithm"] == "one step"
    wanted = {
        *("id", "layer", "site", "score", "low", "high"),
        *("null", "ceiling", "threshold", "verdict"),
    }
    assert all(wanted <= set(claim) for claim in data["claims"])
    everywhere = [entry for entry in data["matrix"] if "scrubbing" not in entry["claim"]]
    assert {(entry["claim"], entry["layer"]) for entry in everywhere} == {
        (claim, layer) for claim in CLAIMS[:-2] if "scrubbing" not in claim for layer in range(3)
    }
    assert set(data["versions"]) == {"python", "mtd-lens", "transformer-lens", "torch"}
    claims = {claim["id"]: claim for claim in data["claims"]}
    probe = claims["responsibilities.probe"]
    assert {"control", "selectivity", "token_window"} <= set(probe["details"])
    assert set(probe["controls"]) == {"the control task"}
    swapped = claims["mean_responsibility.interchange_given_query"]
    assert swapped["details"]["pairs"] == 32
    assert set(swapped["dose"]) == {"score", "low", "high"}
    assert set(swapped["controls"]) == {"a wrong source"}
    assert data["task"] == "small"


def test_a_task_without_a_name_is_written_whole(task):
    anonymous = mtd_lens.MTDTask(task.transition, 3, 14)
    model = mtd_lens.construct(anonymous)
    data = json.loads(mtd_lens.score(model, n_sequences=64).to_json())
    assert mtd_lens.MTDTask.from_json(data["task"]) == anonymous


def test_the_page_is_self_contained_and_escaped(card, tmp_path):
    page = card.to_html(tmp_path / "card.html")
    assert page.startswith("<!doctype html>")
    assert not re.search(r"(src|href)=|https?://|<script", page)
    assert page.count('class="cell') == 15 * 3
    assert page.count("cell chosen") == 15
    hostile = Scorecard(**{**vars(card), "model": "</title><script>alert(1)</script>"})
    assert "<script>" not in hostile.to_html()
    assert "<script>" not in hostile._repr_html_()


def test_the_table_and_the_one_line_form(card):
    text = str(card)
    for claim in CLAIMS:
        assert re.search(rf"{claim} .*supported", text)
    assert "one step" in text
    assert re.search(r"mixture_weights.interchange +\S+ +\S+ +1.00\*", text)  # the matrix
    assert [claim.id for claim in card] == list(CLAIMS)
    assert repr(card) == "Scorecard('small/constructed-absolute': 17 supported)"
    assert isinstance(card["prediction.estimator"], ClaimResult)


def test_what_does_not_vary_is_not_applicable():
    task = mtd_lens.MTDTask(transition(6, seed=0), order=1, seq_len=10)
    card = mtd_lens.score(mtd_lens.construct(task), n_sequences=64)
    verdicts = {claim.id: claim.verdict for claim in card.claims}
    assert verdicts.pop("responsibilities.weights") == "supported"
    assert verdicts.pop("prediction.algorithm") == "not_diagnostic"
    assert set(verdicts.values()) == {"not_applicable"}
    json.loads(card.to_json())
    card.to_html()
    assert "not_applicable" in str(card)


def test_shortest_sequences_have_a_scorecard():
    task = mtd_lens.MTDTask([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8], [0.3, 0.4, 0.3]], 2, 3)
    card = mtd_lens.score(mtd_lens.construct(task, dtype=torch.float64), n_sequences=128)
    assert card["prediction.estimator"].verdict == "supported"
    json.loads(card.to_json())


def test_comparison_with_the_truth(tmp_path):
    model = mtd_lens.load_model("mtd-q5-m3-t64/constructed-relative")
    found = mtd_lens.compare(model, lengths=[8, 64], n_sequences=128)
    rows = [{entry.name: entry for entry in entries} for entries in found.rows]
    for row in rows:
        assert (
            row["uniform"].divergence
            > row["one step"].divergence
            > row["exact Bayes"].divergence
            > 0
        )
        assert row["maximum likelihood"].divergence > row["exact Bayes"].divergence
    # the model's β is fitted at the full length: there it is the one-step estimator
    assert rows[1]["model"].divergence == pytest.approx(rows[1]["one step"].divergence, rel=0.1)
    assert rows[0]["one step"].parameters["step_size"] > rows[1]["one step"].parameters["step_size"]
    data = json.loads(found.to_json(tmp_path / "c.json"))
    assert [entry["length"] for entry in data["lengths"]] == [8, 64]
    assert "T = 64" in str(found)
    assert "<table>" in found._repr_html_()
    default = mtd_lens.compare(model, n_sequences=64)
    assert default.lengths == (8, 16, 32, 64)


def test_what_a_claim_edits_stays_its_own(task):
    model = mtd_lens.construct(task, 5.0, "relative")

    def spoil(trial):
        site = probes.Site("blocks.0.hook_attn_out", trial.positions)
        for tokens in trial.splits:
            trial.predictions(tokens).zero_()
            for values in trial.run(tokens).values():
                values.zero_()
            trial.read(tokens, [site])[0].zero_()
        return []

    plain = mtd_lens.score(model, n_sequences=64)
    spoilt = mtd_lens.Claim("spoilt.test", "it edits what it is given", spoil)
    beside = mtd_lens.score(model, n_sequences=64, claims=[spoilt])
    assert beside["spoilt.test"].verdict == "not_applicable"
    assert beside.estimators == plain.estimators
    for claim in plain.claims:
        assert beside[claim.id] == claim
