"""The n-gram family's algorithms: stages beside oracles, constructions, fits, the truth table."""

import numpy as np
import pytest
import torch
from verdict_sets import supported

import mtd_lens
from mtd_lens import NGramCausalModel, NGramCountsModel
from mtd_lens.errors import ArgumentError
from mtd_lens.families.ngram import FAMILY
from mtd_lens.families.ngram.causal_model import fit_kernel
from mtd_lens.families.ngram.constructions import construct_causal
from mtd_lens.families.ngram.counts_model import fit_bayes
from mtd_lens.spaces import every_prediction

IDS = [algorithm.id for algorithm in FAMILY.algorithms]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6}


@pytest.fixture(scope="module")
def task():
    return mtd_lens.NGramTask(3, (1, 2), 2, 24)


def models_of(task):
    """Every algorithm with parameters that differ from what fits would give."""
    return {
        "kernel": NGramCausalModel(task, 3.0),
        "additive-kernel": NGramCausalModel(task, 3.0, match="tokens"),
        "exact-bayes": NGramCountsModel(task, 0.3),
        "maximum-likelihood": NGramCountsModel(task, 0.0),
    }


def test_the_kernel_comes_first_and_names_are_those_of_references(task):
    assert IDS == ["kernel", "additive-kernel", "exact-bayes", "maximum-likelihood"]
    tokens, target = task.sample(64, seed=0).tokens, torch.full((64, 3), 1 / 3).double()
    found = FAMILY.references(task, tokens, target, tokens, True)
    assert {a.name for a in FAMILY.algorithms} <= set(found)


def test_of_a_single_parent_there_is_one_kernel():
    task = mtd_lens.NGramTask(3, (2,), 3, 16)
    tokens, target = task.sample(64, seed=0).tokens, torch.full((64, 3), 1 / 3).double()
    found = FAMILY.references(task, tokens, target, tokens, True)
    assert "kernel" in found
    assert "additive kernel" not in found


def test_the_reference_is_the_additive_kernel(task):
    tokens = task.sample(128, seed=3).tokens
    target = NGramCausalModel(task, 4.0, match="tokens").last_prediction(tokens)
    for target_first in (True, False):
        found = FAMILY.references(task, tokens, target, tokens, target_first)["additive kernel"]
        assert found.parameters["sharpness"] == pytest.approx(4.0, abs=1e-3)
        assert (found.prediction - target).abs().max() < 1e-3


@pytest.mark.parametrize("parents", [(1,), (2,), (1, 2), (1, 3)], ids=str)
def test_predictions_equal_oracles_and_estimators_at_every_query(parents):
    task = mtd_lens.NGramTask(3, parents, 3, 16)
    tokens = task.sample(5, seed=1).tokens
    single = {(lag,): 1.0 for lag in parents}
    expected = {
        "kernel": mtd_lens.ngram_kernel(task, tokens, 3.0),
        "additive-kernel": mtd_lens.ngram_kernel(task, tokens, 3.0, single),
        "exact-bayes": oracle(task, tokens, 0.3),
        "maximum-likelihood": oracle(task, tokens, 0.0),
    }
    for name, model in models_of(task).items():
        found = model.run(tokens)
        assert tuple(found) == model.variables
        assert (found["prediction"] - expected[name]).abs().max() < 1e-12, name
        last = model.last_prediction(tokens)
        assert (last - found["prediction"][:, -1]).abs().max() < 1e-14, name


def oracle(task, tokens, alpha):
    """Counts by two loops, and what the prior makes of them."""
    found = []
    for row in tokens.tolist():
        rows = []
        for t in range(task.window, len(row)):
            parents = [row[t + 1 - lag] for lag in task.parents]
            counts = np.zeros(task.n_tokens)
            for k in range(task.window, t + 1):
                counts[row[k]] += [row[k - lag] for lag in task.parents] == parents
            total = counts.sum() + task.n_tokens * alpha
            rows.append((counts + alpha) / total if total else np.full(task.n_tokens, 1 / 3))
        found.append(rows)
    return torch.tensor(np.array(found))


def test_counts_settle_what_is_predicted_at_the_last_query(task):
    """The statistic: counts of other sequences, put there, give what these predict."""
    tokens = task.sample(8, seed=2).tokens
    for name in ("exact-bayes", "maximum-likelihood"):
        assert FAMILY.algorithm(name).statistic == "matching_counts"
        model = models_of(task)[name]
        found = model.run(tokens)
        held = model.do(matching_counts=found["matching_counts"].roll(1, 0)).run(tokens)
        assert torch.equal(held["prediction"], found["prediction"].roll(1, 0))
    assert not FAMILY.algorithm("kernel").statistic


def test_interventions_reach_only_what_follows(task):
    tokens = task.sample(8, seed=2).tokens
    for model in models_of(task).values():
        natural = model.run(tokens)
        for index, name in enumerate(model.variables[:-1]):
            held = model.do(**{name: natural[name].roll(1, 0)}).run(tokens)
            for before in model.variables[:index]:
                assert torch.equal(held[before], natural[before])
            assert not torch.equal(held["prediction"], natural["prediction"])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("parents", [(1,), (1, 2), (1, 3)], ids=str)
def test_constructions_compute_their_algorithms(parents, dtype):
    task = mtd_lens.NGramTask(3, parents, 3, 20)
    tokens = task.sample(32, seed=3).tokens
    for algorithm in FAMILY.algorithms:
        causal = models_of(task)[algorithm.id]
        model = construct_causal(causal, dtype=dtype)
        found = every_prediction(model, tokens, task.outputs)[:, task.window :]
        error = (found - causal.run(tokens)["prediction"]).abs().max()
        assert error < TOLERANCE[dtype], algorithm.id


@pytest.mark.parametrize("seed", range(3))
def test_fits_find_what_was_built(task, seed):
    tokens = task.sample(256, seed).tokens
    alpha = fit_bayes(task, tokens, NGramCountsModel(task, 0.3).last_prediction(tokens))
    assert alpha.parameters == {"concentration": pytest.approx(0.3, rel=1e-5)}
    built = NGramCausalModel(task, 5.0, match="tokens")
    kernel = fit_kernel(task, tokens, built.last_prediction(tokens), "tokens")
    assert kernel.parameters == {"sharpness": pytest.approx(5.0, rel=1e-4)}
    uniform = torch.full((256, 3), 1 / 3).double()
    assert "concentration_at_bound" in fit_bayes(task, tokens, uniform).parameters
    assert NGramCountsModel(task, 0.0).parameters == {}
    assert NGramCountsModel(task).concentration == task.concentration


def test_of_a_single_parent_both_kernels_are_one():
    task = mtd_lens.NGramTask(3, (2,), 2, 16)
    tokens = task.sample(16, seed=0).tokens
    one, other = (NGramCausalModel(task, 3.0, match=m).run(tokens) for m in ("tuple", "tokens"))
    for name, values in one.items():
        assert torch.equal(values, other[name])


# What the scorecard of every construction must say of every algorithm. Own rows support all that
# they claim. Of rivals the prediction's algorithm falls, for predictions are exact. Swaps of both
# kernels act much alike. Of the additive one there falls, too, the tuple, which is no linear
# function of the parents' single tokens, and the match given the query, where the kernels differ.
FALSE = {(made, held): {"prediction.algorithm"} for made in IDS for held in IDS if made != held}
FALSE["additive-kernel", "kernel"] |= {
    "selected_feature.probe",
    "match_weights.interchange_given_query",
}


def check_row(task, made, held, seed):
    model = mtd_lens.construct_ngram(task, algorithm=made, dtype=torch.float64)
    card = mtd_lens.score(model, n_sequences=192, seed=seed, algorithm=held)
    assert card.algorithm == FAMILY.algorithm(held).name
    if made == held:
        assert all(claim.verdict == "supported" for claim in card), card
        return
    assert not supported(card) & FALSE[made, held], card
    claim = card["prediction.algorithm"]
    if "prediction.algorithm" in FALSE[made, held]:
        assert claim.verdict in ("refuted", "not_diagnostic"), card
        assert FAMILY.algorithm(held).name in claim.reason


FAST = [*((made, made) for made in IDS), *(("kernel", held) for held in IDS[1:])]
FAST.append(("additive-kernel", "kernel"))


@pytest.mark.parametrize(("made", "held"), FAST)
def test_the_truth_table(task, made, held):
    check_row(task, made, held, 0)


@pytest.mark.slow
@pytest.mark.parametrize("held", IDS)
@pytest.mark.parametrize("made", IDS)
def test_the_whole_truth_table(task, made, held):
    check_row(task, made, held, seed=1)


@pytest.mark.parametrize("id", IDS)
def test_inspections_show_the_algorithms_own_patterns(task, id):
    model = mtd_lens.construct_ngram(task, algorithm=id)
    found = mtd_lens.inspect(model, n_sequences=2, algorithm=id)
    assert found.algorithm == FAMILY.algorithm(id).name
    assert found.algorithm in found.analysis.predictions
    names = [pattern.name for pattern in found.analysis.patterns]
    assert names[:2] == ["copy of lag 1", "copy of lag 2"]
    copies = found.nearest_distances(found.analysis.patterns[0])
    assert copies[0] < 1e-6
    own = found.analysis.predictions[found.algorithm]
    away = (own - found.analysis.predictions["model"]).nan_to_num().abs().max()
    assert away < 1e-3  # parameters are fitted


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda t: NGramCausalModel(t, 1.0, match="lags"), r"unknown match 'lags'.*tokens"),
        (lambda t: mtd_lens.best_sharpness(t, "lags"), r"unknown match 'lags'"),
        (lambda t: NGramCountsModel(t, -1), r"concentration must be .* got -1"),
        (lambda t: NGramCountsModel("x"), r"NGramTask"),
        (lambda t: mtd_lens.construct_ngram(t, algorithm="bayes"), r"unknown algorithm 'bayes'"),
        (
            lambda t: mtd_lens.construct_ngram(t, 2.0, algorithm="exact-bayes"),
            r"exact-bayes has no sharpness",
        ),
        (
            lambda t: mtd_lens.construct_ngram(t, form="relative", algorithm="exact-bayes"),
            r"Leave sharpness and form out",
        ),
    ],
)  # fmt: skip
def test_errors(task, call, message):
    with pytest.raises(ArgumentError, match=message):
        call(task)
