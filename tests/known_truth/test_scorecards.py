"""Scorecards lose exactly what is false of models of known truth, and keep what is true."""

import pytest
from verdict_sets import held, supported

import mtd_lens
from known_truth.models import MODELS

QUICKEST = ("whole, absolute", "60/40", "lags permuted", "signed")
"""Of the small task, in every run of the tests."""


def check(known, n_sequences):
    card = mtd_lens.score(known.build(known.task), known.task, n_sequences=n_sequences)
    tested = {claim.id for claim in card}
    assert not supported(card) & known.false, known.why
    assert known.true & tested <= held(card), known.why


SMALL = [known for known in MODELS if known.task.order == 2]


@pytest.mark.parametrize("name", QUICKEST)
def test_some_models_of_known_truth(name):
    check(next(known for known in SMALL if known.name.startswith(name)), 256)


@pytest.mark.slow
@pytest.mark.parametrize("known", MODELS, ids=lambda known: known.name)
def test_models_of_known_truth(known):
    check(known, 256)
