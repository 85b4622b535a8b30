"""The posterior mean against two exact methods, and Gibbs in its own standard errors."""

import numpy as np
import oracles
import pytest
import torch
from conftest import transition

import mtd_lens
from mtd_lens.families.mtd import posterior
from mtd_lens.families.mtd.posterior import exact_nodes, simplex_rule


@pytest.mark.parametrize("concentration", [0.3, 1.0, 2.0])
@pytest.mark.parametrize(("order", "length"), [(1, 5), (2, 60), (3, 40), (4, 24)])
def test_quadrature_equals_the_dynamic_programme(order, length, concentration):
    task = mtd_lens.MTDTask(transition(4, seed=order), order, length, concentration)
    tokens = task.sample(3, seed=0).tokens
    found = mtd_lens.posterior_mean(task, tokens, method="quadrature")
    expected = np.array([oracles.posterior_mean(task, row) for row in tokens.tolist()])
    assert np.abs(found.numpy() - expected).max() < 1e-9


def test_the_dynamic_programme_equals_summing_over_all_lags():
    task = mtd_lens.MTDTask(transition(3, seed=2), 3, 9, 0.8)
    for row in task.sample(3, seed=0).tokens.tolist():
        assert oracles.posterior_mean(task, row) == pytest.approx(
            oracles.exact_small_posterior(task, row), abs=1e-13
        )


def test_more_nodes_change_nothing(task, tokens):
    exact = mtd_lens.posterior_mean(task, tokens)
    more = mtd_lens.posterior_mean(task, tokens, n_nodes=exact_nodes(task.seq_len) + 9)
    assert (exact - more).abs().max() < 1e-12


def test_zeros_in_the_transition():
    task = mtd_lens.MTDTask(transition(4, seed=3, zeros=0.5), 2, 30)
    tokens = task.sample(5, seed=0).tokens
    expected = np.array([oracles.posterior_mean(task, row) for row in tokens.tolist()])
    found = mtd_lens.posterior_mean(task, tokens, "quadrature").numpy()
    assert np.abs(found - expected).max() < 1e-9


@pytest.mark.parametrize("order", [1, 2, 4])
def test_the_rule_integrates_dirichlet_moments(order):
    nodes, log_mass = simplex_rule(order, 0.7, 6)
    mass = log_mass.exp()
    assert (nodes.sum(-1) - 1).abs().max() < 1e-14
    assert mass.sum() == pytest.approx(1)
    assert torch.allclose(mass @ nodes, torch.full((order,), 1 / order, dtype=torch.float64))
    second = 1.7 / (order * (0.7 * order + 1))
    assert torch.allclose(mass @ nodes**2, torch.full((order,), second, dtype=torch.float64))


@pytest.mark.parametrize("seed", range(3))
def test_gibbs_lies_within_its_own_standard_errors(seed):
    task = mtd_lens.MTDTask(transition(4, seed=seed), 3, 30)
    tokens = task.sample(16, seed=seed).tokens
    exact = mtd_lens.posterior_mean(task, tokens, "quadrature")
    mean, error = mtd_lens.gibbs_posterior(task, tokens, standard_error=3e-3, seed=seed)
    assert error.max() <= 3e-3
    assert (error > 0).all()
    standardised = (mean - exact) / error
    assert standardised.abs().max() < 4
    # Neither far too small nor far too large: z-scores of 16 chains have a t distribution.
    assert 0.5 < standardised.square().mean() < 2


def test_auto_refines_a_rule_where_the_exact_one_is_too_large(monkeypatch):
    task = mtd_lens.load_task("mtd-q10-m5-t192")
    tokens = task.sample(2, seed=0).tokens
    assert exact_nodes(187) ** 4 > posterior.MAX_NODES
    found, error = posterior.posterior_with_error(task, tokens)
    assert (error == 0).all()
    finer = mtd_lens.posterior_mean(task, tokens, "quadrature", n_nodes=20)
    assert (found - finer).abs().max() < 1e-6
    # where no rule of the allowed size is fine enough, it samples
    monkeypatch.setattr(posterior, "MAX_NODES", 1000)
    sampled, error = posterior.posterior_with_error(task, tokens, standard_error=0.01)
    assert (error > 0).all()
    assert ((sampled - finer) / error).abs().max() < 5


def test_gibbs_at_a_small_concentration_waits_until_it_has_mixed():
    task = mtd_lens.MTDTask(transition(3, seed=0), 2, 10, concentration=0.05)
    tokens = task.sample(6, seed=0).tokens
    mean, error = mtd_lens.gibbs_posterior(task, tokens, standard_error=0.03)
    exact = mtd_lens.posterior_mean(task, tokens)
    assert ((mean - exact) / error.clamp_min(1e-3)).abs().max() < 5
