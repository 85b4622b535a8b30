"""The causal model: its stages against oracles, and interventions that reach only what follows."""

import numpy as np
import oracles
import pytest
import torch

import mtd_lens

NAMES = ("responsibilities", "mean_responsibility", "mixture_weights", "prediction")


@pytest.fixture(scope="module")
def model(task):
    return mtd_lens.MTDCausalModel(task, beta=6.0)


def test_stages_equal_oracles_at_every_query(model, task, tokens):
    values = model.run(tokens)
    assert tuple(values) == NAMES
    for i, row in enumerate(tokens.tolist()):
        gamma = oracles.responsibilities(task, row)
        assert values["responsibilities"][i].numpy() == pytest.approx(gamma, abs=1e-13)
        for index, position in enumerate(model.query_positions(len(row))):
            assert position == task.order + index
            mean = gamma[: index + 1].mean(0)
            weights = np.exp(6.0 * mean) / np.exp(6.0 * mean).sum()
            prediction = oracles.predict(task, row[: position + 1], weights)
            assert values["mean_responsibility"][i, index].numpy() == pytest.approx(mean)
            assert values["mixture_weights"][i, index].numpy() == pytest.approx(weights)
            assert values["prediction"][i, index].numpy() == pytest.approx(prediction)


def test_it_is_one_step_of_mirror_descent(model, task, tokens):
    counts = torch.arange(1, tokens.shape[1] - task.order + 1, dtype=torch.float64)
    steps = 6.0 / (task.order * counts)
    weights = mtd_lens.mirror_descent(task, tokens, steps, every_query=True)
    values = model.run(tokens)
    assert (values["mixture_weights"] - weights).abs().max() < 1e-12
    expected = mtd_lens.predict(task, tokens, weights)
    assert (values["prediction"] - expected).abs().max() < 1e-12


@pytest.mark.parametrize("index", range(4))
def test_an_intervention_reaches_what_follows_and_nothing_else(model, task, index):
    base, source = task.sample(8, seed=1).tokens, task.sample(8, seed=2).tokens
    natural, other = model.run(base), model.run(source)
    name = NAMES[index]
    held = model.do(**{name: other[name]}).run(base)
    for before in NAMES[:index]:
        assert torch.equal(held[before], natural[before])
    assert torch.equal(held[name], other[name])
    for after in NAMES[index + 1 :]:
        assert not torch.allclose(held[after], natural[after])
        # the base keeps its own tokens, so its prediction is not the source's
        if after == "prediction":
            assert not torch.allclose(held[after], other[after])
        else:
            assert torch.allclose(held[after], other[after])


@pytest.mark.parametrize("name", [None, *NAMES])
def test_the_last_prediction_is_that_of_a_whole_run(model, task, tokens, name):
    if name is not None:
        source = model.run(tokens)[name].roll(1, 0)
        for queries in (slice(None), slice(-1, None), slice(None, -1)):
            held = torch.full_like(source, torch.nan)
            held[:, queries] = source[:, queries]
            moved = model.do(**{name: held})
            expected = moved.run(tokens)["prediction"][:, -1]
            assert (moved.last_prediction(tokens) - expected).abs().max() < 1e-14
        model = model.do(**{name: source[0, 0]})
    expected = model.run(tokens)["prediction"][:, -1]
    assert (model.last_prediction(tokens) - expected).abs().max() < 1e-14


def test_nan_leaves_entries_to_their_cause(model, task, tokens):
    natural = model.run(tokens)
    held = torch.full_like(natural["responsibilities"], torch.nan)
    held[:, 2] = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    found = model.do(responsibilities=held).run(tokens)
    gamma = natural["responsibilities"].clone()
    gamma[:, 2] = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    assert torch.equal(found["responsibilities"], gamma)
    assert torch.equal(found["mean_responsibility"][:, :2], natural["mean_responsibility"][:, :2])
    last = (6.0 * gamma.mean(1)).softmax(-1)
    assert (found["mixture_weights"][:, -1] - last).abs().max() < 1e-12


def test_interventions_add_up_and_broadcast(model, task, tokens):
    first = torch.tensor([1.0, 0.0, 0.0])
    both = model.do(responsibilities=first).do(mixture_weights=first.flip(0))
    assert set(both.interventions) == {"responsibilities", "mixture_weights"}
    values = both.run(tokens)
    oldest = [row[: p + 1] for row in tokens.tolist() for p in model.query_positions(len(row))]
    expected = [oracles.predict(task, prefix, [0, 0, 1]) for prefix in oldest]
    assert values["prediction"].flatten(0, 1).numpy() == pytest.approx(np.array(expected))
    assert not model.interventions


def test_beta_is_found_again_from_its_own_predictions(task):
    tokens = task.sample(400, seed=0).tokens
    for beta in (0.5, 3.0, 20.0):
        target = mtd_lens.MTDCausalModel(task, beta).run(tokens)["prediction"][:, -1]
        assert mtd_lens.fit_beta(task, tokens, target) == pytest.approx(beta, rel=1e-5)


def test_best_beta_predicts_best(task):
    beta = mtd_lens.best_beta(task)
    batch = task.sample(4000, seed=77)
    truth = mtd_lens.predict(task, batch.tokens, batch.weights)

    def loss(value):
        predicted = mtd_lens.MTDCausalModel(task, value).run(batch.tokens)["prediction"][:, -1]
        return float(-(truth * predicted.log()).sum(-1).mean())

    assert loss(beta) < min(loss(beta / 2), loss(beta * 2), loss(0.0))
