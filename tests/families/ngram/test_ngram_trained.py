"""The trained n-gram models that the package ships: how near they come to exact Bayes."""

import pytest
import torch

import mtd_lens
import probes
from mtd_lens.families.ngram import estimators
from mtd_lens.hooked import probabilities
from mtd_lens.registry import shipped_checkpoints

GPT = "ngram-q3-s12-t32/trained-gpt-2l-s0"
REACHED = [GPT, "ngram-q3-s12-t100/trained-gpt-2l-s0"]


def excess(name):
    """KL from the truth at every query, of the model and of exact Bayes."""
    model = mtd_lens.load_model(name)
    task = mtd_lens.task_of(model)
    batch = task.sample(1024, seed=7)
    truth = estimators.ngram_truth(task, batch.tokens, batch.tables)
    with torch.no_grad():
        output = torch.cat([model(part) for part in batch.tokens.split(256)])[:, task.window :]
    bayes = mtd_lens.ngram_bayes(task, batch.tokens)
    return (probes.kl_divergence(truth, p) for p in (probabilities(model, output), bayes))


def test_all_that_should_be_there_is():
    assert set(REACHED) <= set(shipped_checkpoints())


@pytest.mark.parametrize("name", REACHED)
def test_excess_losses_are_within_a_tenth_of_exact_bayes(name):
    model, bayes = excess(name)
    assert model.mean() <= 1.1 * bayes.mean()
    assert model[:, -1].mean() <= 1.1 * bayes[:, -1].mean()


def test_one_layer_does_not_come_near():
    model, bayes = excess("ngram-q3-s12-t32/trained-gpt-1l-s0")
    assert model[:, -1].mean() > 3 * bayes[:, -1].mean()


@pytest.mark.slow
def test_what_two_layers_with_mlps_learn_of_the_generalized_induction_head():
    """Heads that copy one lag each and pass on nothing else, and a feature of both parents.

    Swaps of copies, feature and match do not act as the kernel says: their predictions are nearer
    to exact Bayes than to the kernel.
    """
    card = mtd_lens.score(mtd_lens.load_model(GPT), seed=7)
    found = {claim.id: claim.layer for claim in card.claims if claim.verdict == "supported"}
    assert found == {
        "copied_parents.scrubbing": 0,
        "copied_parents.probe": 0,
        "copied_parents.attention": 0,
        "selected_feature.probe": 0,
        "prediction.estimator": None,
    }
    assert card["prediction.algorithm"].verdict == "refuted"
    assert card["prediction.algorithm"].details["nearest_rival"] == "exact Bayes"
