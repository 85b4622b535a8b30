"""Estimators of the next token from counts, against slow oracles and brute-force integration."""

import numpy as np
import pytest
import torch
from ngram_oracles import counts, integrated_bayes, kernel

import mtd_lens
from mtd_lens.errors import ArgumentError, TaskError, TokensError
from mtd_lens.families.ngram import estimators

SHAPES = [(3, (1, 2), 2, 14), (4, (2,), 3, 12), (2, (1, 3), 3, 16), (3, (1, 2, 4), 4, 20)]


@pytest.fixture(scope="module", params=SHAPES, ids=str)
def sampled(request):
    task = mtd_lens.NGramTask(*request.param, 0.3)
    return task, task.sample(5, seed=2).tokens


def each_query(task, tokens):
    for sequence in range(len(tokens)):
        for index, query in enumerate(range(task.window, tokens.shape[1])):
            yield sequence, index, query


@pytest.mark.parametrize("lags", [None, (1,), (2,), (1, 2), ()], ids=str)
def test_counts_are_those_of_two_loops(sampled, lags):
    task, tokens = sampled
    found = mtd_lens.ngram_counts(task, tokens, lags)
    likeliest = mtd_lens.ngram_maximum_likelihood(task, tokens, lags)
    bayes = mtd_lens.ngram_bayes(task, tokens, lags)
    q, alpha = task.n_tokens, task.concentration
    for sequence, index, query in each_query(task, tokens):
        wanted = task.parents if lags is None else lags
        expected = torch.from_numpy(counts(tokens[sequence], query, wanted, task.window, q))
        assert torch.equal(found[sequence, index], expected)
        total = expected.sum()
        share = expected / total if total else torch.full_like(expected, 1 / q)
        assert (likeliest[sequence, index] - share).abs().max() < 1e-15
        posterior = (expected + alpha) / (total + q * alpha)
        assert (bayes[sequence, index] - posterior).abs().max() < 1e-15
    assert torch.equal(estimators.last_counts(task, tokens, lags), found[:, -1])


@pytest.mark.parametrize("subsets", [None, {(1,): 1.0, (1, 2): -0.5, (2,): 2.0}], ids=["own", "c"])
def test_the_kernel_is_that_of_two_loops(sampled, subsets):
    task, tokens = sampled
    found = mtd_lens.ngram_kernel(task, tokens, 3.0, subsets)
    for sequence, index, query in each_query(task, tokens):
        wanted = {task.parents: 1.0} if subsets is None else subsets
        expected = kernel(tokens[sequence], query, task.window, task.n_tokens, 3.0, wanted)
        assert (found[sequence, index] - torch.from_numpy(expected)).abs().max() < 1e-14


def test_the_kernel_in_closed_form_and_at_its_ends(sampled):
    task, tokens = sampled
    matching, everything = (mtd_lens.ngram_counts(task, tokens, lags) for lags in (None, ()))
    for sharpness in (0.0, 0.7, 5.0, 20.0):
        closed = estimators.of_counts(matching, everything, sharpness)
        assert (mtd_lens.ngram_kernel(task, tokens, sharpness) - closed).abs().max() < 1e-14
    unigram = mtd_lens.ngram_maximum_likelihood(task, tokens, ())
    assert (mtd_lens.ngram_kernel(task, tokens, 0) - unigram).abs().max() < 1e-15
    sharp, likeliest = (
        mtd_lens.ngram_kernel(task, tokens, 100),
        mtd_lens.ngram_maximum_likelihood(task, tokens),
    )
    known = matching.sum(-1) > 0
    assert (sharp - likeliest)[known].abs().max() < 1e-15
    assert (sharp - unigram)[~known].abs().max() < 1e-15  # new parents tell nothing


@pytest.mark.parametrize(("lags", "concentration"), [((1,), 2.0), ((2,), 3.0), ((1,), 5.0)])
def test_exact_bayes_is_the_integral_over_all_tables(lags, concentration):
    task = mtd_lens.NGramTask(2, lags, 2, 9, concentration)
    tokens = task.sample(3, seed=4).tokens
    found = mtd_lens.ngram_bayes(task, tokens)
    for sequence, index, query in each_query(task, tokens):
        expected = integrated_bayes(tokens[sequence], query, lags, task.window, concentration)
        assert abs(float(found[sequence, index, 0]) - expected) < 1e-8


def test_exact_bayes_is_the_best_predictor_of_all():
    task = mtd_lens.NGramTask(3, (1, 2), 2, 30, 0.5)
    batch = task.sample(4000, seed=0)
    truth = estimators.ngram_truth(task, batch.tokens, batch.tables)[:, -1]

    def loss(prediction):
        return -(truth * prediction[:, -1].clamp_min(1e-6).log()).sum(-1).mean()

    bayes = loss(mtd_lens.ngram_bayes(task, batch.tokens))
    others = [
        mtd_lens.ngram_bayes(task, batch.tokens, (1,)),
        mtd_lens.ngram_bayes(task, batch.tokens, (2,)),
        mtd_lens.ngram_maximum_likelihood(task, batch.tokens),
        mtd_lens.ngram_maximum_likelihood(task, batch.tokens, ()),
        mtd_lens.ngram_kernel(task, batch.tokens, 4.0),
    ]
    assert all(bayes < loss(other) - 0.01 for other in others)


@pytest.mark.usefixtures("_no_type_checker")
def test_bad_arguments():
    task = mtd_lens.NGramTask(3, (1, 2), 2, 8)
    tokens = task.sample(2, seed=0).tokens
    for wrong in (-1, 101, float("nan"), "much"):
        with pytest.raises(ArgumentError, match="sharpness must be a number of at least 0"):
            mtd_lens.ngram_kernel(task, tokens, wrong)
    with pytest.raises(ArgumentError, match="at least one subset needs a weight"):
        mtd_lens.ngram_kernel(task, tokens, 1.0, {(1,): 0.0})
    with pytest.raises(ArgumentError, match="at least one subset needs a weight"):
        mtd_lens.ngram_kernel(task, tokens, 1.0, {})
    with pytest.raises(ArgumentError, match="a subset's weight"):
        mtd_lens.ngram_kernel(task, tokens, 1.0, {(1,): "big"})
    with pytest.raises(TaskError, match="inside the window of 2 lags; got lag 3"):
        mtd_lens.ngram_bayes(task, tokens, (1, 3))
    for wrong in (5, "12", torch.tensor(1), np.array(1)):
        with pytest.raises(TaskError, match="parents must list at least one lag"):
            mtd_lens.ngram_counts(task, tokens, wrong)
    for wrong in (5, [(1,)], "12"):
        with pytest.raises(ArgumentError, match=r"subsets must map sets of lags .*; got"):
            mtd_lens.ngram_kernel(task, tokens, 1.0, wrong)
    with pytest.raises(TaskError, match=r"parents must list at least one lag.*; got 1"):
        mtd_lens.ngram_kernel(task, tokens, 1.0, {1: 1.0})
    tables = task.sample(2, seed=0).tables
    for wrong, kind in [(tables.tolist(), "list"), (tables.long(), "torch.int64")]:
        with pytest.raises(ArgumentError, match=f"tables must be a floating-point.*; got {kind}"):
            mtd_lens.ngram_truth(task, tokens, wrong)
    with pytest.raises(TokensError, match="two axes"):
        mtd_lens.ngram_truth(task, tokens[0], tables)


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize("wrong", ["ngram-q3-s12-t32", mtd_lens.load_task("mtd-q3-m2-t32")])
def test_tasks_of_another_kind(wrong):
    tokens = torch.zeros(2, 8, dtype=torch.long)
    calls = {
        mtd_lens.ngram_counts: (),
        mtd_lens.ngram_maximum_likelihood: (),
        mtd_lens.ngram_bayes: (),
        mtd_lens.ngram_kernel: (1.0,),
        mtd_lens.ngram_truth: (torch.ones(2, 9, 3),),
    }
    for function, arguments in calls.items():
        with pytest.raises(ArgumentError, match=r"expected an NGramTask; got .*Use load_task"):
            function(wrong, tokens, *arguments)


@pytest.mark.parametrize("nothing", [[], np.array([]), range(0)], ids=str)
def test_any_empty_sequence_is_no_parents(sampled, nothing):
    task, tokens = sampled
    unigram = mtd_lens.ngram_counts(task, tokens, ())
    assert torch.equal(mtd_lens.ngram_counts(task, tokens, nothing), unigram)
    assert torch.equal(
        mtd_lens.ngram_counts(task, tokens, [*task.parents]), mtd_lens.ngram_counts(task, tokens)
    )


def test_tuples_of_many_parents_are_told_apart_or_refused():
    task = mtd_lens.NGramTask(2, (1,), 70, 160)
    tokens = torch.zeros(1, 160, dtype=torch.long)
    tokens[0, 5] = 1  # in the window of early evidence, at distance 65 and more from position 70
    found = mtd_lens.ngram_counts(task, tokens, range(1, 62))
    assert found[0, -1].sum() == 90
    with pytest.raises(TaskError, match=r"70 parents of 2 tokens form 2\^70 tuples, too many"):
        mtd_lens.ngram_counts(task, tokens, range(1, 71))


def test_the_truth_is_the_row_that_the_next_token_is_drawn_from():
    task = mtd_lens.NGramTask(3, (1, 3), 4, 12)
    batch = task.sample(5, seed=2)
    found = mtd_lens.ngram_truth(task, batch.tokens, batch.tables)
    for n, tokens in enumerate(batch.tokens.tolist()):
        for t in range(task.window, task.seq_len):
            row = 0
            for lag in task.parents:
                row = row * task.n_tokens + tokens[t + 1 - lag]
            assert torch.equal(found[n, t - task.window], batch.tables[n, row])
    with pytest.raises(ArgumentError, match="tables must be one for each sequence"):
        mtd_lens.ngram_truth(task, batch.tokens, batch.tables[:2])
