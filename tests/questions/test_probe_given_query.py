"""Probes among sequences that end alike, and the further sequences that probes are fitted on."""

from dataclasses import replace

import pytest
import torch

import mtd_lens
from mtd_lens import measures
from mtd_lens.claims import NotApplicable, QueryTokens
from mtd_lens.contracts import LAST
from mtd_lens.experiment import MAX_SEED, Experiment
from mtd_lens.families.mtd.claims import control_task
from mtd_lens.trial import Memo

GIVEN = measures.ProbeGivenQuery("mean_responsibility", control_task)
GENERIC = measures.Probe("mean_responsibility", control_task, 4, LAST)


def trial_of(name, n_sequences=256):
    model = (
        mtd_lens.load_model(name) if "/" in name else mtd_lens.construct(mtd_lens.load_task(name))
    )
    return Experiment.of(model, None, 0).drawn(n_sequences).trial()


@pytest.fixture(scope="module")
def construction():
    return trial_of("mtd-q5-m3-t32")


def test_the_construction_holds_the_mean_at_layer_1_given_the_query(construction):
    first, second, _ = GIVEN(construction)
    assert second.interval.score > 0.999
    assert first.interval.high < 0.3
    assert second.controls["the control task"].high < 0.4
    assert second.site == "blocks.1.hook_attn_out at position 31, given the query"
    assert 1 - float(second.numerator.mean() / second.denominator.mean()) == pytest.approx(
        second.interval.score
    )


def test_a_random_model_holds_nothing_of_it(construction):
    experiment = Experiment.of(construction.model, None, 0).drawn(256)
    for found in GIVEN(experiment.trial(experiment.null())):
        assert found.interval.low < 0.05
        assert found.interval.high < 0.4


@pytest.mark.slow
def test_a_trained_model_whose_code_depends_on_the_query():
    trial = trial_of("mtd-q5-m3-t32/trained-gpt-3l-s0")
    generic, given = GENERIC(trial), GIVEN(trial)
    assert given[2].interval.low > 0.9 > 0.8 > generic[2].interval.high
    assert max(found.interval.score for found in given[:2]) < 0.1


def test_groups_end_alike_and_differ_in_their_contexts(construction):
    groups = GIVEN.groups(construction)
    endings = {tuple(group.fit[0, -3:].tolist()) for group in groups}
    assert len(endings) == len(groups) == 4
    for group in groups:
        for tokens in group.splits:
            assert (tokens[:, -3:] == group.fit[0, -3:]).all()
    contexts = torch.cat([tokens[:, :-3] for group in groups for tokens in group.splits])
    assert len(torch.unique(contexts, dim=0)) == len(contexts)
    more = len(contexts) - 256
    own = torch.cat([*construction.splits])[:, :-3]
    seen = {tuple(context) for context in contexts.tolist()}
    assert sum(tuple(context) in seen for context in own.tolist()) == 256
    assert more > 256
    assert GIVEN.groups(construction) is groups


def test_impossible_endings_are_dropped(construction):
    def even(tokens):
        return tokens[:, 0] % 2 == 0

    def given(possible):
        query = QueryTokens(3, possible)
        algorithm = replace(construction.algorithm, query=lambda task: query)
        return replace(construction, algorithm=algorithm, memo=Memo())

    for group in GIVEN.groups(given(even)):
        assert all(even(tokens).all() for tokens in group.splits)
    assert GIVEN(given(even))[1].interval.score > 0.999
    with pytest.raises(NotApplicable, match="only 0 sequences can share the query's tokens"):
        GIVEN(given(lambda tokens: torch.zeros(len(tokens)).bool()))
    with pytest.raises(NotApplicable, match="the query has no tokens of its own"):
        GIVEN(replace(construction, algorithm=None))


def test_further_sequences_are_shared_and_no_others(construction):
    more = construction.more(40)
    assert construction.more(40) is more
    assert more.shape == (40, 32)
    own = {tuple(sequence) for tokens in construction.splits for sequence in tokens.tolist()}
    assert not own & {tuple(sequence) for sequence in more.tolist()}
    experiment = Experiment.of(construction.model, None, MAX_SEED).drawn(64)
    assert experiment.trial().more(8) is experiment.trial(experiment.null()).more(8)
