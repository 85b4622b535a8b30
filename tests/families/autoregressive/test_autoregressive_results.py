"""The measured results of the autoregressive family: the closed form, and what the files say."""

import itertools

import pytest
import torch

from mtd_lens.families.autoregressive import study
from tutorials.site.autoregressive import data_of


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_closed_form_of_the_heads_loss_is_the_models_own_error(seed):
    """Against sampled phases, in standard errors."""
    generator = torch.Generator().manual_seed(seed)
    position = torch.randn(6, generator=generator, dtype=torch.float64)
    A, B = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    sampled = study.sampled_head_loss(position, A, B, n=100_000, seed=seed)
    error = float(sampled.std()) / len(sampled) ** 0.5
    expected = float(study.head_loss(position, A, B))
    assert abs(float(sampled.mean()) - expected) < 4 * error
    twice_the_diagonal = float(position[-2] ** 2 * (B.T @ A).square().sum())
    assert twice_the_diagonal > 10 * error  # a sum over i = j too would be noticed


def test_minimising_finds_orthogonal_heads_and_one_position(monkeypatch):
    monkeypatch.setattr(study, "DIM", 3)
    monkeypatch.setattr(study, "LENGTH", 5)
    monkeypatch.setattr(study, "STEPS", 1500)
    for n_heads in (1, 3):
        loss, position, A, B = study.minimise_heads(n_heads, seed=0)
        assert loss == pytest.approx(3 - n_heads, abs=1e-3)
        assert float(position[-2:].square().sum() / position.square().sum()) > 0.999
        products = position[-1] * A @ B.T
        assert torch.allclose(products, torch.eye(n_heads, dtype=products.dtype), atol=0.05)


def test_every_head_takes_one_from_the_error():
    for row in data_of("heads"):
        assert row["loss"] == pytest.approx(row["floor"], abs=1e-6)
        assert row["weight_on_last"] > 0.9
        assert row["largest_cosine_between_heads"] < 1e-6


def test_ordered_vectors_are_fitted_better_than_shuffled_ones():
    rows = {(row["noise"], row["order"]): row for row in data_of("order")}
    for noise, order in rows:
        if order == "ordered":
            assert rows[noise, "ordered"]["high"] < 0.1 < rows[noise, "shuffled"]["low"]


def test_trained_models_are_better_the_deeper_they_are():
    rows = {(row["source"], row["depth"]): row for row in data_of("depth")}
    depths = sorted(depth for source, depth in rows if source == "linear attention")
    for shallow, deep in itertools.pairwise(depths):
        for source in ("linear attention", "gradient descent, free"):
            assert rows[source, deep]["high"] < rows[source, shallow]["low"]


@pytest.mark.slow
def test_measuring_the_order_again_gives_the_same():
    for measured, kept in zip(study.measure_order(), data_of("order"), strict=True):
        assert measured == pytest.approx(kept, abs=1e-6)
