"""What heads score keys by at the last query, and a form that fits where scores are made so."""

import pytest
import torch

import mtd_lens
from mtd_lens.families.mtd.head_scores import head_scores

TASK = "mtd-q3-m2-t32"


@pytest.fixture(scope="module")
def fused():
    return mtd_lens.construct(TASK, algorithm="fused")


def found(model, n=4, seed=0):
    task = mtd_lens.load_task(TASK)
    return head_scores(model, task, *(task.sample(k, seed + k).tokens for k in (n, 64)))


def test_a_softmax_of_the_scores_is_the_attention_to_these_keys(fused):
    task = mtd_lens.load_task(TASK)
    inspection = mtd_lens.inspect(fused)
    scores = inspection.analysis.scores
    assert scores.keys == tuple(range(task.order, task.seq_len - task.order))
    attention = inspection.attention[:, :, :, -1, list(scores.keys)]
    total = attention.sum(-1, keepdim=True)
    expected = torch.where(total > 1e-3, attention / total, scores.measured.softmax(-1))
    assert torch.allclose(scores.measured.softmax(-1), expected, atol=1e-5)
    assert (total > 1e-3).sum() > 20
    assert scores.measured.mean(-1).abs().max() < 1e-4


def test_the_form_fits_where_scores_are_made_so(fused):
    """In the fused algorithm's first layer; the second attends to all evidence alike."""
    scores = found(fused)
    fitted = ~scores.explained.isnan()
    assert fitted.nonzero().tolist() == [[0, 0], [0, 1]]  # those that read windows
    assert (scores.explained[fitted] > 0.99).all()
    left = (scores.measured - scores.fitted).square().sum((-1, -2))
    assert (left < 0.01 * scores.measured.square().sum((-1, -2)))[fitted].all()
    trained = mtd_lens.inspect(mtd_lens.load_model("mtd-q5-m3-t32/trained-gpt-3l-s0"))
    assert trained.analysis.scores.explained.min() < 0.9  # it is no form of every head


def test_contexts_of_another_length_have_none(fused):
    task = mtd_lens.load_task(TASK)
    tokens = task.sample(4, 0).tokens
    assert head_scores(fused, task, tokens[:, :20], tokens) is None
    assert mtd_lens.inspect(fused, tokens[:, :20]).analysis.scores is None


def test_too_many_products_have_none():
    task = mtd_lens.MTDTask(torch.eye(12).roll(1, 0) * 0.5 + 0.5 / 12, 4, 12)
    model = mtd_lens.construct(task, 3.0)
    tokens = task.sample(4, 0).tokens
    assert head_scores(model, task, tokens, tokens) is None
