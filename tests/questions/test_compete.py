"""Which algorithm a model runs: models that are known to run each, held against all."""

from dataclasses import dataclass, replace

import pytest
import torch
from known_truth import one_step
from known_truth.rivals import passes

import mtd_lens
from mtd_lens.families.mtd.constructions import random_construction
from mtd_lens.families.mtd.family import ONE_STEP, POSTERIOR
from mtd_lens.results.competition import Competition, Duel
from mtd_lens.verdicts import NOT_APPLICABLE, NOT_DIAGNOSTIC, PARTIAL, REFUTED, SUPPORTED
from probes.statistics.intervals import Interval

TRUTH = {
    "constructed-absolute": "one-step",
    "constructed-gated": "one-step",
    "constructed-posterior": "posterior",
    "constructed-product-of-likelihoods": "product-of-likelihoods",
    "constructed-two-pass": "two-pass",
    "constructed-fused": "fused",
}
"""By variant, the one algorithm that it runs."""

QUICK = ("constructed-absolute", "constructed-posterior")


@dataclass(frozen=True)
class Mixed(mtd_lens.MTDCausalModel):
    """One step's predictions, and a share of exact Bayes' in their place."""

    share: float = 0.0

    def run(self, tokens):
        found = super().run(tokens)
        rival = mtd_lens.PosteriorCausalModel(self.task).run(tokens)["prediction"]
        found["prediction"] = (1 - self.share) * found["prediction"] + self.share * rival
        return found

    last_prediction = None


def mixed(name, share):
    """An algorithm with one step's claims and no statistic; nothing of it is fitted."""

    def fit(task, tokens, predictions):
        return Mixed(task, mtd_lens.best_beta(task), share=share)

    return replace(ONE_STEP, name=name, id=name, fit=fit, statistic="", containing=())


def check(variant, name, seed):
    """The one that the model runs is supported, and no other."""
    found = mtd_lens.compete(mtd_lens.load_model(f"{name}/{variant}"), seed=seed)
    verdicts = {contender.id: contender.verdict for contender in found}
    assert verdicts.pop(TRUTH[variant]) == SUPPORTED, found
    assert SUPPORTED not in verdicts.values(), found
    assert found.nearest.id == TRUTH[variant]
    assert found.nearest.name in found.conclusion
    return found


@pytest.mark.parametrize("variant", QUICK)
def test_each_construction_runs_its_own_algorithm_alone(variant):
    found = check(variant, "mtd-q3-m2-t32", seed=0)
    assert found.nearest.interchange.low > 0.99
    assert found.nearest.scrubbing.low > 0.9
    assert all(duel.share.high < 0.01 for duel in found.against_nearest())


@pytest.mark.slow
@pytest.mark.parametrize("variant", sorted(set(TRUTH) - set(QUICK)))
def test_further_constructions_run_their_own_algorithms_alone(variant):
    """The page of the site has all tasks, in three seeds."""
    check(variant, "mtd-q5-m3-t32", seed=1)


@pytest.fixture(scope="module")
def model(task):
    return mtd_lens.construct(task, dtype=torch.float64)


def test_a_model_between_two_algorithms_runs_neither(model):
    found = mtd_lens.compete(
        model, n_sequences=256, algorithms=[mixed("one", 0.4), mixed("other", -0.6)]
    )
    (duel,) = found.duels
    assert (duel.one, duel.other) == ("one", "other")
    assert duel.share.score == pytest.approx(0.4, abs=1e-9)
    assert 0 < duel.predictions.score < 1
    assert duel.interchange is None
    assert found["one"].verdict == PARTIAL
    assert found["other"].verdict == REFUTED
    assert "0.400" in found.conclusion


def test_algorithms_that_predict_alike_are_one_group(model):
    twin = replace(ONE_STEP, name="the same", id="twin")
    found = mtd_lens.compete(model, n_sequences=256, algorithms=[ONE_STEP, twin, "posterior"])
    assert found["one-step"].alike == ("the same",)
    assert found["twin"].alike == ("one step",)
    assert {found[id].verdict for id in ("one-step", "twin")} == {NOT_DIAGNOSTIC}
    assert found["posterior"].verdict == REFUTED
    assert found.duels[0].apart == 0.0
    assert "cannot tell apart" in found.conclusion


def test_a_random_model_runs_none():
    found = mtd_lens.compete(mtd_lens.load_model("mtd-q3-m2-t32/random-absolute"))
    assert {contender.verdict for contender in found} == {REFUTED}
    assert "runs none" in found.conclusion
    ends = {
        c.id: [name for name in c.parameters if f"{name}_at_bound" in c.parameters] for c in found
    }
    assert any(ends.values())
    for contender in found:
        named = [f"{contender.parameters[name]:.4g}" for name in ends[contender.id]]
        assert ("end of its range" in contender.reason) == bool(named)
        assert all(value in contender.reason for value in named)


EVEN = [[0.1, 0.2, 0.3, 0.4]] * 4
"""Rows under which no evidence speaks for a lag."""


def made(transition, order):
    return mtd_lens.MTDTask(transition, order=order, seq_len=14, name="made")


@pytest.mark.parametrize("order", [1, 3])
def test_what_was_held_against_nothing_is_not_said_to_run(task, order):
    """On a task without evidence all algorithms predict alike, and a random model as none."""
    tested = made(task.transition if order == 1 else EVEN, order)
    model = random_construction(tested, form="absolute", dtype=torch.float64)
    found = mtd_lens.compete(model, n_sequences=128)
    assert {contender.verdict for contender in found} == {NOT_APPLICABLE}
    assert "does not vary" in found.nearest.reason
    assert "is not settled" in found.conclusion


def test_an_algorithm_that_claims_nothing_is_not_supported(model):
    algorithms = [replace(each, claims=lambda task: []) for each in (ONE_STEP, POSTERIOR)]
    found = mtd_lens.compete(model, n_sequences=128, algorithms=algorithms)
    assert found["one-step"].verdict == NOT_APPLICABLE
    assert "claims nothing" in found["one-step"].reason
    assert "is not settled" in found.conclusion


def test_twins_whose_swaps_fail_are_no_group_that_runs():
    """What predicts alike need not run: half of every stage goes around each layer."""
    tested = mtd_lens.load_task("mtd-q5-m3-t32")
    twin = replace(ONE_STEP, name="the same", id="twin")
    halves = one_step.all_in_halves(tested)
    found = mtd_lens.compete(halves, n_sequences=256, algorithms=[ONE_STEP, twin])
    assert {contender.verdict for contender in found} == {PARTIAL}
    assert "interchange" in found.nearest.reason
    assert "runs none" in found.conclusion
    assert "not told from the same" in found.conclusion


class Turned(mtd_lens.MTDCausalModel):
    """One step, but for what it does where its statistic is held: of each lag as of another."""

    def do(self, **values):
        return super().do(**{name: value.flip(-1) for name, value in values.items()})


def test_swaps_tell_algorithms_apart_that_predict_alike(model):
    def fit(task, tokens, predictions):
        return Turned(task, ONE_STEP.fit(task, tokens, predictions).beta)

    turned = replace(ONE_STEP, name="turned", id="turned", fit=fit)
    found = mtd_lens.compete(model, n_sequences=256, algorithms=[ONE_STEP, turned, "posterior"])
    assert found.duels[0].apart == 0.0
    assert found["one-step"].verdict == SUPPORTED
    assert found["turned"].verdict == REFUTED
    assert "swaps" in found["turned"].reason


def test_swaps_at_different_layers_are_not_held_against_each_other(task):
    """Both statistics of one algorithm act, each at its own layer; neither refutes the other."""
    model = mtd_lens.construct(task).to(torch.bfloat16)
    last = replace(ONE_STEP, name="last", id="last", statistic="responsibilities")
    found = mtd_lens.compete(model, n_sequences=256, algorithms=[ONE_STEP, last])
    assert len({contender.layer for contender in found}) == 2
    assert found.duels[0].interchange is None
    assert {contender.verdict for contender in found} == {NOT_DIAGNOSTIC}


def test_a_sentence_says_where_predictions_alone_speak():
    found = mtd_lens.compete(mtd_lens.load_model("ar-d3-t16/constructed-one-step"), n_sequences=128)
    assert found.nearest.verdict == SUPPORTED
    assert found.nearest.interchange is None
    assert found.conclusion.startswith("By predictions alone, ")


def test_a_task_with_impossible_contexts_is_held(task):
    """Each token has one next: most contexts of others are impossible under a query's own."""
    tested = made(torch.eye(4).roll(1, 1).tolist(), 2)
    found = mtd_lens.compete(mtd_lens.construct(tested, dtype=torch.float64), n_sequences=256)
    assert found["one-step"].interchange.low > 0.99
    assert found["one-step"].alike == ("product of likelihoods",)


def test_duels_are_of_the_sequences_on_which_two_differ_most(model, task):
    """Beside a loop that knows nothing of the instrument."""
    algorithms = [mixed("one", 0.25), mixed("other", -1.0)]
    n, seed = 256, 5
    (duel,) = mtd_lens.compete(model, n_sequences=n, seed=seed, algorithms=algorithms).duels
    tokens = task.sample(n, seed).tokens[n // 2 :]
    beta = mtd_lens.best_beta(task)
    predicted = model(tokens)[:, -1].detach().exp()
    one, other = (Mixed(task, beta, share=s).run(tokens)["prediction"][:, -1] for s in (0.25, -1.0))

    def kl(p, q):
        return sum(float(a) * float((a / b).log()) for a, b in zip(p, q, strict=True) if a > 0)

    rows = [kl(a, b) for a, b in zip(one, other, strict=True)]
    chosen = sorted(range(len(rows)), key=rows.__getitem__)[-n // 8 :]
    own, others = (sum(kl(a[i], predicted[i]) for i in chosen) for a in (one, other))
    assert duel.predictions.score == pytest.approx((others - own) / (others + own), rel=1e-6)


def test_a_duel_is_the_same_from_both_sides():
    duel = Duel("a", "b", Interval(0.5, 0.25, 0.75), None, Interval(0.25, 0.125, 0.5), 0.1)
    turned = duel.turned()
    assert (turned.one, turned.other) == ("b", "a")
    assert turned.predictions == Interval(-0.5, -0.75, -0.25)
    assert turned.share == Interval(0.75, 0.5, 0.875)
    assert turned.turned() == duel


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"algorithms": ["one-step"]}, "two algorithms or more.*one-step, posterior"),
        ({"algorithms": ["one-step", "one-step"]}, "of different ids and names"),
        ({"algorithms": ["one-step", "posteriori"]}, "posterior"),
        ({"algorithms": 3}, "algorithms"),
        ({"n_sequences": 64}, "128"),
        ({"threshold": 1.5}, "threshold"),
    ],
)
@pytest.mark.usefixtures("_no_type_checker")
def test_bad_input_is_refused(model, arguments, message):
    with pytest.raises(mtd_lens.ArgumentError, match=message):
        mtd_lens.compete(model, **arguments)


def test_results_are_read_again(model, tmp_path):
    found = mtd_lens.compete(model, n_sequences=128, algorithms=[ONE_STEP, POSTERIOR])
    path = tmp_path / "found.json"
    found.to_json(path)
    assert Competition.from_json(path) == found
    with pytest.raises(mtd_lens.ArgumentError, match="every two of the contenders"):
        Competition.from_dict(found.to_dict() | {"duels": []})
    table = found.to_dataframe()
    assert list(table["algorithm"]) == [contender.id for contender in found]
    assert found.conclusion in str(found)
    page = found.to_html()
    assert page.index("<h1") < page.index(found.conclusion) < page.index("<table")
    with pytest.raises(mtd_lens.UnknownNameError):
        found["posteriori"]


def test_the_figure_shows_what_was_found(model):
    found = mtd_lens.compete(model, n_sequences=128)
    left, right = found.plot().axes
    assert [label.get_text() for label in left.get_yticklabels()] == [c.name for c in found]
    words = {text.get_text() for axes in (left, right) for text in axes.texts}
    assert {c.verdict.replace("_", " ") for c in found} <= words


def test_the_axis_of_divergences_is_as_wide_as_what_is_drawn(model):
    found = mtd_lens.compete(model, n_sequences=128, algorithms=[ONE_STEP, POSTERIOR])
    near, far = Interval(0.005, 0.004, 0.006), Interval(0.008, 0.007, 0.009)
    close = [replace(c, divergence=d) for c, d in zip(found, (near, far), strict=True)]
    left, _ = replace(found, contenders=tuple(close)).plot().axes
    low, high = left.get_xlim()
    assert 0.002 < low < 0.004
    assert 0.009 < high < 0.02
    assert len([at for at in left.get_xticks() if low < at < high]) > 1
    exact = [
        replace(c, divergence=d) for c, d in zip(found, (Interval(0.0, 0.0, 0.0), far), strict=True)
    ]
    left, _ = replace(found, contenders=tuple(exact)).plot().axes
    assert left.get_xlim()[0] < 1e-6


@pytest.mark.usefixtures("_no_type_checker")
def test_nothing_else_is_drawn():
    with pytest.raises(mtd_lens.ArgumentError, match="compete returned"):
        mtd_lens.plot_competition(3)


def test_three_passes_are_none_of_the_algorithms(task):
    """Nobody named the algorithm: the one that is nearest leaves too much of it unexplained."""
    found = mtd_lens.compete(passes(task, 2), n_sequences=512)
    assert found.nearest.verdict == PARTIAL, found
    assert "runs none" in found.conclusion
