"""Which claims a scorecard is asked for, by what ids, and whose test it was that failed."""

import traceback

import pytest
import torch

import mtd_lens
import probes
from mtd_lens import measures
from mtd_lens.contracts import LAST
from mtd_lens.results.scorecard import Scorecard

NAME = "mtd-q3-m2-t32/constructed-absolute"
FURTHER = mtd_lens.Claim(
    "mixture_weights.output",
    "Swapping a layer's output at the last query acts as swapping the mixture weights.",
    measures.Interchange("mixture_weights", "attn_out", LAST),
)


@pytest.fixture(scope="module")
def model():
    return mtd_lens.load_model(NAME)


def score(model, **options):
    return mtd_lens.score(model, n_sequences=64, **options)


def ids(card):
    return [claim.id for claim in card]


@pytest.fixture(scope="module")
def whole(model):
    return score(model, claims=[FURTHER])


@pytest.mark.parametrize(
    ("only", "expected"),
    [
        (["mixture_weights.attention"], ["mixture_weights.attention"]),
        (
            "*.interchange",
            [f"{name}.interchange" for name in ("responsibilities", "mean_responsibility")]
            + ["mixture_weights.interchange"],
        ),
        (["mixture_weights.out*", "prediction.algorithm"], ["prediction.algorithm", FURTHER.id]),
        (("responsibilities.[ap]*",), ["responsibilities.probe", "responsibilities.attention"]),
    ],
)
def test_only_some_claims_get_what_they_get_among_all(model, whole, only, expected):
    card = score(model, claims=[FURTHER], only=only)
    assert ids(card) == expected
    for claim in card:
        assert claim == whole[claim.id]
    assert card.matrix == tuple(entry for entry in whole.matrix if entry.claim in expected)
    assert card.estimators == whole.estimators
    assert card.only == ((only,) if isinstance(only, str) else tuple(only))
    assert Scorecard.from_json(card.to_json()) == card
    assert f"Only claims named {card.only[0]}" in str(card)
    assert "only" not in whole.to_dict()
    assert whole.only == ()


def test_refuted_predictions_count_though_they_are_not_asked_for():
    """A verdict is the one that the claim has among all."""
    broken = mtd_lens.ablate_construction(mtd_lens.load_model(NAME), "beta")
    every = score(broken)
    some = score(broken, only=["responsibilities.attention"])
    assert every["prediction.estimator"].verdict != "supported"
    assert some["responsibilities.attention"] == every["responsibilities.attention"]
    assert ids(some) == ["responsibilities.attention"]


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    ("only", "message"),
    [
        (["mixture_weight.attention"], "Nearest known: mixture_weights.attention"),
        (["mixture_weights.*", "attention"], "only='attention' names no claim.*Nearest known"),
        ([], "only names no claim"),
        ([3], "only must be a list of claims' ids"),
        (["a\n"], "cannot be shown"),
        (3, "only must be a list of claims' ids"),
    ],
)
def test_patterns_that_name_nothing_are_refused(model, only, message):
    with pytest.raises(mtd_lens.ArgumentError, match=message):
        score(model, only=only)


def test_what_quick_leaves_out_cannot_be_asked_for(model):
    with pytest.raises(mtd_lens.ArgumentError, match="quick=True leaves out prediction"):
        score(model, quick=True, only=["prediction.algorithm"])


def test_what_quick_leaves_out_of_what_was_asked_for_is_named(model):
    card = score(model, quick=True, only=["responsibilities.*", "prediction.*"])
    left = {"prediction.algorithm", "responsibilities.scrubbing", "responsibilities.injection"}
    assert left <= set(card.left_out)
    assert not set(card.left_out) & set(ids(card))
    assert f"Quick left out {', '.join(card.left_out)}.\n" in str(card)
    assert Scorecard.from_json(card.to_json()) == card
    asked = score(model, quick=True, only=["responsibilities.probe"])
    assert asked.left_out == ()
    assert "left_out" not in asked.to_dict()
    assert "Quick" not in str(asked)


def test_a_pattern_that_resembles_none_is_answered_with_all(model, whole):
    for unlike in ("?", "foo.*"):
        with pytest.raises(mtd_lens.ArgumentError, match="Known: ") as refused:
            score(model, claims=[FURTHER], only=unlike)
        listed = str(refused.value).partition("Known: ")[2].removesuffix(".").split(", ")
        assert set(listed) == {*ids(whole)}


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize("id", ["", " ", "a.b ", "a\nb", "\ud800", 3, None])
def test_ids_are_texts_that_can_be_shown(id):
    with pytest.raises(mtd_lens.ArgumentError, match=r"claim's id|Claim\.id"):
        mtd_lens.Claim(id, "s", lambda trial: [])


@pytest.mark.usefixtures("_no_type_checker")
def test_a_claim_has_a_sentence_and_a_test():
    with pytest.raises(mtd_lens.ArgumentError, match="must be a function"):
        mtd_lens.Claim("a.b", "s", None)
    with pytest.raises(mtd_lens.ArgumentError, match=r"statement of the claim .* must be"):
        mtd_lens.Claim("a.b", 3, lambda trial: [])


def test_two_claims_of_one_id_are_refused_before_any_work(model, monkeypatch):
    calls = []
    monkeypatch.setattr(
        mtd_lens.MTDTask, "sample", lambda *arguments, **options: calls.append(arguments)
    )
    twice = mtd_lens.Claim("a.b", "s", calls.append)
    with pytest.raises(mtd_lens.ArgumentError, match=r"is named .* already"):
        score(model, claims=[twice, twice])
    with pytest.raises(mtd_lens.ArgumentError, match=r"attention. already"):
        score(model, claims=[mtd_lens.Claim("mixture_weights.attention", "s", calls.append)])
    assert calls == []


def test_the_choice_between_algorithms_has_an_id_too(model):
    claim = mtd_lens.Claim("prediction.algorithm", "s", lambda trial: [])
    with pytest.raises(mtd_lens.ArgumentError, match=r"algorithm. already"):
        score(model, claims=[claim])


class Fails:
    """A test that fails in one of its functions."""

    def __init__(self, where):
        self.where = where

    def _maybe(self, where):
        if where == self.where:
            raise KeyError("of the user's own")

    def __call__(self, trial):
        self._maybe("measure")
        return []

    def reads(self, trial):
        self._maybe("reads")
        return []

    def edits(self, trial):
        self._maybe("edits")
        return "hook_attn_out"


@pytest.mark.parametrize("where", ["measure", "reads", "edits"])
def test_an_exception_names_the_claim(model, where):
    claim = mtd_lens.Claim("mine.own", "s", Fails(where))
    with pytest.raises(KeyError, match="of the user's own") as caught:
        score(model, quick=True, claims=[claim], only=["mine.own"])
    assert caught.value.__notes__ == ["Raised by the test of the claim 'mine.own'."]
    assert "mine.own" in "".join(traceback.format_exception(caught.value))


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    ("numerator", "denominator", "message"),
    [
        ([float("nan")] * 32, [1.0] * 32, "finite"),
        ([1.0] * 5, [1.0] * 5, "16"),
        ([1.0] * 32, [0.0] * 32, "0"),
        ([1.0] * 32, [1.0] * 31, "as many"),
    ],
)
def test_rows_of_which_no_score_can_be_made_name_the_claim(model, numerator, denominator, message):
    """Before the null and the construction are measured."""
    calls = []

    def wrong(trial):
        calls.append(trial)
        rows = torch.tensor(numerator), torch.tensor(denominator)
        return [mtd_lens.Measurement(0, "blocks.0", 0.5, *rows)]

    claim = mtd_lens.Claim("mine.own", "s", wrong)
    with pytest.raises(probes.ProbesError, match=message) as caught:
        score(model, quick=True, claims=[claim], only=["mine.own"])
    assert caught.value.__notes__ == ["Raised by the test of the claim 'mine.own'."]
    assert len(calls) == 1


def test_a_site_that_the_model_lacks_names_the_claim(model):
    for hook, message in (
        ("hook_attn", "unknown kind of hook 'hook_attn'"),
        ("blocks.0.hook_attn_out", r"every layer's hook is meant\. Use 'hook_attn_out'"),
    ):
        claim = mtd_lens.Claim("mine.own", "s", measures.Interchange("mixture_weights", hook, LAST))
        with pytest.raises(mtd_lens.SiteError, match=message):
            score(model, quick=True, claims=[claim], only=["mine.own"])


def test_a_hook_may_have_any_of_its_names(model):
    """In tests that write and in tests that read."""
    cards = [
        score(
            model,
            only=["mine.*"],
            claims=[
                mtd_lens.Claim("mine.a", "s", measures.Interchange("mixture_weights", a, LAST)),
                mtd_lens.Claim(
                    "mine.b",
                    "s",
                    measures.ProbeGivenQuery("mean_responsibility", control, hooks=[a, b]),
                ),
            ],
        )
        for a, b in (("hook_attn_out", "hook_resid_post"), ("attn_out", "resid_post"))
    ]
    assert cards[0]["mine.a"] == cards[1]["mine.a"]
    assert cards[0]["mine.b"] == cards[1]["mine.b"]


def control(causal_model, tokens, variable, seed):
    from mtd_lens.families.mtd.claims import control_task

    return control_task(causal_model, tokens, variable, seed)
