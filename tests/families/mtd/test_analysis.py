"""The algorithm on single sequences: its attention, and the weights that predictions imply."""

import oracles
import pytest
import torch
from conftest import stock, transition
from scipy import optimize

import mtd_lens
from mtd_lens.families.mtd import analysis, iterative
from mtd_lens.families.mtd.posterior import refined_quadrature
from mtd_lens.families.mtd.references import tied_step_size
from mtd_lens.spaces import check_outputs


@pytest.fixture(scope="module")
def causal(task):
    return mtd_lens.MTDCausalModel(task, 6.0)


def test_analytic_patterns_are_distributions_that_hold_the_variables(task, tokens, causal):
    own, average, mixed = analysis.patterns(causal, tokens)
    found, order = causal.run(tokens), task.order
    for pattern in (own, average, mixed):
        assert pattern.values[:, :order].isnan().all()
        assert torch.allclose(pattern.values[:, order:].sum(-1), torch.ones(()).double())
        assert (pattern.values[:, order:].triu(order + 1) == 0).all()  # causal
    for n, t, g in [(0, 3, 1), (2, 7, 3), (5, 13, 2)]:
        assert own.values[n, t, t - g] == found["responsibilities"][n, t - order, g - 1]
        assert mixed.values[n, t, t + 1 - g] == found["mixture_weights"][n, t - order, g - 1]
    assert average.values[1, 5].tolist() == [0, 0, 0, 1 / 3, 1 / 3, 1 / 3, *[0] * 8]
    # Averaging with the second pattern what the first one attends to gives the mean.
    gamma = torch.zeros(*tokens.shape, order).double()
    gamma[:, order:] = found["responsibilities"]
    mean = average.values[:, order:] @ gamma
    assert torch.allclose(mean, found["mean_responsibility"])


@pytest.mark.parametrize("seed", range(4))
def test_predictions_of_known_weights_imply_them(seed):
    task = mtd_lens.MTDTask(transition(5, seed=seed), 3, 20)
    batch = task.sample(6, seed=seed)
    weights = batch.weights[:, None].expand(-1, 17, -1)
    predictions = mtd_lens.predict(task, batch.tokens, weights)
    implied = mtd_lens.implied_weights(task, batch.tokens, predictions)
    told = ~implied.isnan().any(-1)
    assert 0.2 < told.double().mean() < 0.8
    assert (implied - weights)[told].abs().max() < 1e-4
    windows = batch.tokens.unfold(1, 3, 1)[:, 1:]
    repeated = torch.tensor([[len(set(w)) < 3 for w in row] for row in windows.tolist()])
    assert not (told & repeated).any()


def test_implied_weights_minimise_the_divergence():
    task = mtd_lens.MTDTask(transition(4, seed=1), 2, 6)
    tokens = task.sample(5, seed=0).tokens
    generator = torch.Generator().manual_seed(0)
    predictions = torch.rand(5, 4, 4, generator=generator, dtype=torch.float64)
    predictions = predictions / predictions.sum(-1, keepdim=True)
    implied = mtd_lens.implied_weights(task, tokens, predictions, max_divergence=1e9)
    n_told = 0
    for n, q in (~implied.isnan().any(-1)).nonzero().tolist():
        parents = [int(tokens[n, q + 3 - g]) for g in (1, 2)]
        rows = [task.transition[parent] for parent in parents]

        def divergence(share, rows=rows, target=predictions[n, q]):
            mixture = share * rows[0] + (1 - share) * rows[1]
            return float((target * (target / mixture).log()).sum())

        best = optimize.minimize_scalar(divergence, bounds=(0, 1), method="bounded")
        assert divergence(float(implied[n, q, 0])) <= best.fun + 1e-9
        n_told += 1
    assert n_told > 5


def test_predictions_far_from_every_mixture_imply_nothing():
    rows = [[0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0.5, 0.5], [0.5, 0, 0, 0.5]]
    task = mtd_lens.MTDTask(rows, 2, 4)
    tokens = torch.tensor([[0, 0, 1, 0]])
    last = [[0.35, 0.5, 0.15, 0.0], [0.01, 0.01, 0.01, 0.97], [0.0, 0.0, 0.0, 1.0]]
    for prediction, told in zip(last, (True, False, False), strict=True):
        predictions = torch.tensor([[prediction, prediction]]).double()
        implied = mtd_lens.implied_weights(task, tokens, predictions)[0, -1]
        assert implied.isfinite().all() == told
    nearly = torch.tensor([[[0.25, 0.25, 0.25, 0.25]] * 2]).double()
    assert mtd_lens.implied_weights(task, tokens, nearly).isnan().all()


def test_more_lags_than_tokens_tell_nothing():
    task = mtd_lens.MTDTask(transition(2, seed=1), 3, 8)
    batch = task.sample(2, seed=0)
    predictions = mtd_lens.predict(task, batch.tokens, batch.weights[:, None].expand(-1, 5, -1))
    assert mtd_lens.implied_weights(task, batch.tokens, predictions).isnan().all()


def test_outcomes_that_no_lag_explains_are_left_out():
    likelihoods = torch.tensor([[[0.5, 0.2], [0.5, 0.8], [0.0, 0.0]]]).double()
    mass = torch.tensor([[0.4, 0.2, 0.4]]).double()
    found = iterative.likeliest_weights(likelihoods, mass)
    assert torch.allclose(found, torch.tensor([[1.0, 0.0]]).double(), atol=1e-9)


def test_mass_counts_as_repeated_evidence(task, tokens):
    likelihoods = mtd_lens.lag_likelihoods(task, tokens)
    mass = torch.ones(likelihoods.shape[:2]).double()
    mass[:, 4] = 3
    repeated = torch.cat([likelihoods, likelihoods[:, 4:5], likelihoods[:, 4:5]], 1)
    once = torch.ones(repeated.shape[:2]).double()
    found = iterative.likeliest_weights(likelihoods, mass)
    assert torch.allclose(found, iterative.likeliest_weights(repeated, once), atol=1e-8)


@pytest.mark.usefixtures("_no_type_checker")
def test_bad_predictions_are_refused(task, tokens):
    good = torch.full((12, 11, 4), 0.25)
    with pytest.raises(mtd_lens.ArgumentError, match="Leave out the first order = 3 positions"):
        mtd_lens.implied_weights(task, tokens, torch.full((12, 14, 4), 0.25))
    with pytest.raises(mtd_lens.ArgumentError, match="simplex"):
        mtd_lens.implied_weights(task, tokens, 2 * good)
    with pytest.raises(mtd_lens.ArgumentError, match="finite"):
        mtd_lens.implied_weights(task, tokens, good / 0)
    with pytest.raises(mtd_lens.ArgumentError, match=r"must be a tensor.*got a list"):
        mtd_lens.implied_weights(task, tokens, good.tolist())
    with pytest.raises(mtd_lens.ArgumentError, match="max_divergence"):
        mtd_lens.implied_weights(task, tokens, good, max_divergence=0)


def test_the_posterior_of_every_prefix(task, tokens):
    likelihoods = mtd_lens.lag_likelihoods(task, tokens)
    path = refined_quadrature(likelihoods, task.concentration, every_query=True)
    for length in (task.order + 1, 9, task.seq_len):
        expected = oracles.posterior_mean(task, tokens[0, :length].tolist())
        assert abs(path[0, length - task.order - 1].numpy() - expected).max() < 1e-12


def test_the_construction_is_what_it_computes(task):
    model = mtd_lens.construct(task, beta=6.0, dtype=torch.float64)
    batch = task.sample(8, seed=3)
    causal = mtd_lens.MTDCausalModel(task, 6.0)
    found = analysis.analyse(model, causal, batch.tokens, batch.tokens, batch)
    assert set(found.latents) == {"model", "one step", "2 steps", "exact Bayes", "truth"}
    for values in found.latents.values():
        assert values.shape == (8, 14, 3)
        assert values[:, :3].isnan().all()
    difference = found.latents["model"] - found.latents["one step"]
    assert difference[~difference.isnan()].abs().max() < 1e-4
    for source, predictions in found.predictions.items():
        assert torch.allclose(predictions[:, 3:].sum(-1), torch.ones(()).double()), source
    assert torch.allclose(
        found.predictions["model"][:, 3:], found.predictions["one step"][:, 3:], atol=1e-9
    )
    assert torch.equal(found.latents["truth"][:, 3:], batch.weights[:, None].expand(-1, 11, -1))


def test_the_step_size_of_two_steps_is_found(task):
    batch = task.sample(64, seed=3)
    two = mtd_lens.mirror_descent(task, batch.tokens, 0.07, 2)
    target = mtd_lens.predict(task, batch.tokens, two)
    assert tied_step_size(task, batch.tokens, target, 2) == pytest.approx(0.07, rel=1e-3)


def test_two_steps_have_a_size_that_falls_with_the_evidence(task, tokens):
    model = stock(task, "attn-only", d_model=8, n_heads=2)
    fit_tokens = task.sample(32, seed=9).tokens
    causal = mtd_lens.MTDCausalModel(task, 2.0)
    found = analysis.analyse(model, causal, tokens, fit_tokens, None).latents["2 steps"]
    target = mtd_lens.model_predictions(model, fit_tokens)
    size = tied_step_size(task, fit_tokens, target, 2)
    for length in (14, 8, 4):
        step = size * (14 - 3) / (length - 3)
        expected = mtd_lens.mirror_descent(task, tokens[:, :length], step, 2)
        assert torch.allclose(found[:, length - 1], expected, atol=1e-9)


def test_outputs_that_are_not_finite_are_named():
    output = torch.zeros(2, 7, 4)
    assert check_outputs(output) is output
    output[1, 5, 2] = torch.inf
    with pytest.raises(mtd_lens.ModelError, match="on sequence 1, position 5 they are"):
        check_outputs(output)


def test_tokens_of_ones_own_have_no_truth(task, tokens):
    model = stock(task, "attn-only", d_model=8, n_heads=2)
    found = analysis.analyse(model, mtd_lens.MTDCausalModel(task, 2.0), tokens, tokens, None)
    assert "truth" not in found.latents
    assert "truth" not in found.predictions
