"""The measured results of the autoregressive family: the closed form, and what the files say."""

import importlib
import itertools
import sys
from pathlib import Path

import pytest
import torch

TUTORIALS = Path(__file__).parent.parent / "tutorials"


@pytest.fixture(scope="module")
def studies():
    sys.path.insert(0, str(TUTORIALS))
    yield importlib.import_module("autoregressive_studies")
    sys.path.remove(str(TUTORIALS))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_closed_form_of_the_heads_loss_is_the_models_own_error(studies, seed):
    """Against sampled phases, in standard errors."""
    generator = torch.Generator().manual_seed(seed)
    position = torch.randn(6, generator=generator, dtype=torch.float64)
    A, B = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    sampled = studies.sampled_head_loss(position, A, B, n=100_000, seed=seed)
    error = float(sampled.std()) / len(sampled) ** 0.5
    expected = float(studies.head_loss(position, A, B))
    assert abs(float(sampled.mean()) - expected) < 4 * error
    twice_the_diagonal = float(position[-2] ** 2 * (B.T @ A).square().sum())
    assert twice_the_diagonal > 10 * error  # a sum over i = j too would be noticed


def test_minimising_finds_orthogonal_heads_and_one_position(studies, monkeypatch):
    monkeypatch.setattr(studies, "DIM", 3)
    monkeypatch.setattr(studies, "LENGTH", 5)
    monkeypatch.setattr(studies, "STEPS", 1500)
    for n_heads in (1, 3):
        loss, position, A, B = studies.minimise_heads(n_heads, seed=0)
        assert loss == pytest.approx(3 - n_heads, abs=1e-3)
        assert float(position[-2:].square().sum() / position.square().sum()) > 0.999
        products = position[-1] * A @ B.T
        assert torch.allclose(products, torch.eye(n_heads, dtype=products.dtype), atol=0.05)


def test_every_head_takes_one_from_the_error(studies):
    for row in studies.data_of("heads"):
        assert row["loss"] == pytest.approx(row["floor"], abs=1e-6)
        assert row["weight_on_last"] > 0.9
        assert row["largest_cosine_between_heads"] < 1e-6


def test_ordered_vectors_are_fitted_better_than_shuffled_ones(studies):
    rows = {(row["noise"], row["order"]): row for row in studies.data_of("order")}
    for noise, order in rows:
        if order == "ordered":
            assert rows[noise, "ordered"]["high"] < 0.1 < rows[noise, "shuffled"]["low"]


def test_trained_models_are_better_the_deeper_they_are(studies):
    rows = {(row["source"], row["depth"]): row for row in studies.data_of("depth")}
    depths = sorted(depth for source, depth in rows if source == "linear attention")
    for shallow, deep in itertools.pairwise(depths):
        for source in ("linear attention", "gradient descent, free"):
            assert rows[source, deep]["high"] < rows[source, shallow]["low"]


@pytest.mark.slow
def test_measuring_the_order_again_gives_the_same(studies):
    for measured, kept in zip(studies.measure_order(), studies.data_of("order"), strict=True):
        assert measured == pytest.approx(kept, abs=1e-6)
