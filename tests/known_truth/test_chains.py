"""Chains lose exactly what is false of models of known truth, and keep what is true."""

import pytest
from verdict_sets import held, supported

import mtd_lens
from known_truth.chains import ALL, CHAINS
from known_truth.models import MODELS
from mtd_lens.families.mtd.chains import chain_claims

QUICKEST = ("whole, absolute", "60/40", "lags permuted")
"""Of the small task, in every run of the tests."""

KNOWN = [known for known in MODELS if known.name.rpartition(",")[0] in CHAINS]


def check(known, n_sequences):
    true, false, why = CHAINS[known.name.rpartition(",")[0]]
    card = mtd_lens.score(
        known.build(known.task),
        known.task,
        n_sequences=n_sequences,
        quick=True,
        claims=chain_claims(known.task),
    )
    assert not supported(card) & false, why
    assert true <= held(card), why


def test_every_chain_is_true_of_one_model_and_false_of_another():
    names = {known.name.rpartition(",")[0] for known in MODELS}
    assert set(CHAINS) <= names
    assert {claim.id for claim in chain_claims(MODELS[0].task)} == ALL
    for true, false, why in CHAINS.values():
        assert not true & false
        assert true | false
        assert why
    assert frozenset().union(*(true for true, _, _ in CHAINS.values())) == ALL
    assert frozenset().union(*(false for _, false, _ in CHAINS.values())) == ALL


@pytest.mark.parametrize("name", QUICKEST)
def test_some_models_of_known_truth(name):
    check(next(k for k in KNOWN if k.name == f"{name}, q3-m2"), 256)


@pytest.mark.slow
@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_models_of_known_truth(known):
    check(known, 320)
