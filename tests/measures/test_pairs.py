"""Random pairs, blind answers, spliced sources and matches, beside loops and rejection."""

from dataclasses import replace

import pytest
import torch
from known_truth.models import MODELS

import mtd_lens
from mtd_lens.claims import NotApplicable, QueryTokens
from mtd_lens.contracts import BUT_LAST, LAST
from mtd_lens.experiment import Experiment
from mtd_lens.measures import Interchange, matches, pairs_of, prediction_with
from mtd_lens.measures.pairs import N_BLIND, N_SELECTION_PAIRS
from mtd_lens.trial import Memo

BETA = 5.0


@pytest.fixture(scope="module")
def trial(task):
    return Experiment.of(mtd_lens.construct(task, BETA), None, 3).drawn(96).trial()


def answer(trial, tokens, mean):
    """The prediction of one sequence with the mean responsibility at a value."""
    task = trial.task
    weights = (trial.causal_model.beta * mean).softmax(-1)
    rows = [task.transition[tokens[task.seq_len - lag]] for lag in range(1, task.order + 1)]
    return sum(weight * row for weight, row in zip(weights, rows, strict=True))


def mean_of(trial, tokens):
    """The mean responsibility at the end of one sequence, by loops."""
    task, found = trial.task, []
    for k in range(task.order, task.seq_len):
        p = torch.stack(
            [task.transition[tokens[k - g], tokens[k]] for g in range(1, task.order + 1)]
        )
        found.append(p / p.sum())
    return torch.stack(found).mean(0)


@pytest.mark.parametrize("given_query", [False, True])
def test_counterfactuals_and_blind_answers(trial, given_query):
    pairs = pairs_of(trial, trial.tokens, "mean_responsibility", LAST, given_query=given_query)
    assert len(pairs) == 48
    for n in range(0, 48, 7):
        base, source = pairs.base.sequences[n], pairs.source.sequences[n]
        expected = answer(trial, base, mean_of(trial, source))
        assert torch.allclose(pairs.counterfactual[n], expected, atol=1e-12)
        assert torch.allclose(pairs.natural[n, -1], mean_of(trial, base), atol=1e-12)
        contexts = trial.fit_tokens.clone()
        if given_query:
            contexts[:, -3:] = base[-3:]
        every = torch.stack([answer(trial, base, mean_of(trial, c)) for c in contexts])
        away = (pairs.blind[n] - every.mean(0)).abs().max()
        assert away < 4 * float(every.std(0).max()) / N_BLIND**0.5


def test_sources_share_the_querys_tokens_and_nothing_else(trial):
    pairs = pairs_of(trial, trial.tokens, "mean_responsibility", LAST, given_query=True)
    for rows in (pairs.source, pairs.wrong):
        assert torch.equal(rows.sequences[:, -3:], pairs.base.sequences[:, -3:])
        fit = {tuple(row) for row in trial.fit_tokens[:, :-3].tolist()}
        assert {tuple(row) for row in rows.sequences[:, :-3].tolist()} <= fit
    assert not (pairs.source.sequences == pairs.wrong.sequences).all(1).any()


def test_pairs_of_different_splits_are_independent(trial):
    """Each base and each source is in one pair; on the fit split no sequence is its own source."""
    pairs = pairs_of(trial, trial.tokens, "responsibilities", BUT_LAST)
    assert pairs.base.tokens is trial.tokens
    assert pairs.source.tokens is trial.fit_tokens
    assert sorted(pairs.source.index.tolist()) == list(range(48))
    own = pairs_of(trial, trial.fit_tokens, "responsibilities", BUT_LAST)
    assert len(own) == min(N_SELECTION_PAIRS, 48)
    assert not (own.base.index == own.source.index).any()
    assert not (own.base.index == own.wrong.index).any()


def test_the_blind_answer_is_the_best_constant_one(trial):
    """No other answer that does not look at the source is nearer, on average over sources."""
    divergence = trial.task.outputs.divergence
    base = trial.tokens[:1].expand(48, -1)
    values = trial.run(trial.fit_tokens)["mean_responsibility"]
    answers = prediction_with(trial.causal_model, base, "mean_responsibility", values, LAST)
    mean = answers.mean(0).expand_as(answers)
    at_mean = prediction_with(
        trial.causal_model, base, "mean_responsibility", values.mean(0).expand_as(values), LAST
    )
    least = float(divergence(answers, mean).mean())
    assert least <= float(divergence(answers, at_mean).mean()) + 1e-12
    for shift in (0.01, -0.01):
        other = (mean + shift * torch.tensor([1.0, -1.0, *[0.0] * (mean.shape[1] - 2)])).abs()
        assert least < float(divergence(answers, other).mean())


def test_given_the_query_agrees_with_rejection():
    """Sequences that end alike, paired as they come, give the score that spliced sources give."""
    known = next(k for k in MODELS if k.name.startswith("60/40, read out in halves"))
    task, model = known.task, known.build(known.task)
    whole = Experiment.of(model, task, 0).drawn(768).trial()
    test = Interchange("mean_responsibility", "hook_attn_out", LAST)

    def score(trial, test):
        found = max(test(trial), key=lambda m: m.selection)
        return 1 - float(found.numerator.mean() / found.denominator.mean())

    spliced = score(whole, replace(test, given_query=True))
    tokens = task.sample(120_000, seed=5).tokens
    rejected = []
    for base in whole.tokens[:3]:  # of three endings
        alike = tokens[(tokens[:, -task.order :] == base[-task.order :]).all(1)][:768]
        assert len(alike) == 768
        rejected.append(
            score(replace(whole, fit_tokens=alike[:384], tokens=alike[384:], memo=Memo()), test)
        )
    assert spliced == pytest.approx(sum(rejected) / 3, abs=0.12)
    assert 0.2 < spliced < 0.8


def with_query(trial, possible):
    algorithm = replace(trial.algorithm, query=lambda task: QueryTokens(3, possible))
    return replace(trial, algorithm=algorithm, memo=Memo())


def test_impossible_splices_are_drawn_again(trial):
    def even(tokens):
        return tokens[:, 0] % 2 == 0

    changed = with_query(trial, even)
    pairs = pairs_of(changed, changed.tokens, "mean_responsibility", LAST, given_query=True)
    assert len(pairs) == 48
    assert even(pairs.source.sequences).all()
    assert even(pairs.wrong.sequences).all()


def test_too_few_possible_splices_are_no_test(trial):
    """With the number found."""
    changed = with_query(trial, lambda tokens: torch.zeros(len(tokens)).bool())
    with pytest.raises(NotApplicable, match="only 0 of 48 sequences have a source that can share"):
        pairs_of(changed, changed.tokens, "mean_responsibility", LAST, given_query=True)
    without = replace(trial, algorithm=replace(trial.algorithm, query=None), memo=Memo())
    with pytest.raises(NotApplicable, match="the query has no tokens of its own"):
        pairs_of(without, without.tokens, "mean_responsibility", LAST, given_query=True)


def test_a_transition_with_zeros_leaves_only_possible_splices():
    task = mtd_lens.MTDTask([[0.5, 0.5, 0], [0, 0.5, 0.5], [0.5, 0, 0.5]], 2, 16)
    trial = Experiment.of(mtd_lens.construct(task, BETA), None, 0).drawn(96).trial()
    pairs = pairs_of(trial, trial.tokens, "mean_responsibility", LAST, given_query=True)
    for rows in (pairs.source, pairs.wrong):  # impossible ones raise
        mtd_lens.responsibilities(task, rows.sequences)


def test_matched_positions_are_the_nearest_with_another_window(trial):
    found = matches.matched_positions(trial, trial.tokens, "responsibilities", BUT_LAST, 4)
    gamma, pool = (
        trial.run(tokens)["responsibilities"] for tokens in (trial.tokens, trial.fit_tokens)
    )
    for n in (0, 20, 47):
        for index in (0, 5):
            position = 3 + index
            window = trial.tokens[n, position - 3 : position + 1]
            distances = [
                float((gamma[n, index] - pool[row, index]).norm())
                if not torch.equal(trial.fit_tokens[row, position - 3 : position + 1], window)
                else float("inf")
                for row in range(48)
            ]
            assert distances[int(found.near.index[n, index])] == min(distances)
    assert 0 < found.distance < 0.6
    assert found.floor < 0.2


def test_matched_sources_are_near_under_the_querys_own_tokens(trial):
    found = matches.matched_sources(trial, trial.tokens, "mean_responsibility", LAST)
    near = found.near.sequences
    assert torch.equal(near[:, -3:], found.base.sequences[:, -3:])
    assert not (near == found.base.sequences).all(1).any()
    away = torch.stack([mean_of(trial, row) for row in near[:9]]) - torch.stack(
        [mean_of(trial, row) for row in found.base.sequences[:9]]
    )
    assert float(away.norm(dim=-1).mean()) < 0.05
    assert found.distance < 0.25


def test_a_pool_too_small_says_what_was_reached_and_what_would_do(monkeypatch, trial):
    monkeypatch.setattr(matches, "MOST_FLOOR", 1e-6)
    fresh = replace(trial, memo=Memo())
    with pytest.raises(
        NotApplicable, match=r"the nearest of \d+ sources are at .* about .* would do"
    ):
        matches.matched_sources(fresh, fresh.tokens, "mean_responsibility", LAST)
