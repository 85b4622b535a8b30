"""The measured results of the autoregressive family: the closed form, and what the files say."""

import importlib
import itertools
import json
import sys
from pathlib import Path

import pytest
import torch

TUTORIALS = Path(__file__).parent.parent / "tutorials"


@pytest.fixture(scope="module")
def results():
    sys.path.insert(0, str(TUTORIALS))
    yield importlib.import_module("make_autoregression")
    sys.path.remove(str(TUTORIALS))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_closed_form_of_the_heads_loss_is_the_models_own_error(results, seed):
    """Against sampled phases, in standard errors."""
    generator = torch.Generator().manual_seed(seed)
    position = torch.randn(6, generator=generator, dtype=torch.float64)
    A, B = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    sampled = results.sampled_head_loss(position, A, B, n=100_000, seed=seed)
    error = float(sampled.std()) / len(sampled) ** 0.5
    expected = float(results.head_loss(position, A, B))
    assert abs(float(sampled.mean()) - expected) < 4 * error
    twice_the_diagonal = float(position[-2] ** 2 * (B.T @ A).square().sum())
    assert twice_the_diagonal > 10 * error  # a sum over i = j too would be noticed


def test_minimising_finds_orthogonal_heads_and_one_position(results, monkeypatch):
    monkeypatch.setattr(results, "DIM", 3)
    monkeypatch.setattr(results, "LENGTH", 5)
    monkeypatch.setattr(results, "STEPS", 1500)
    for n_heads in (1, 3):
        loss, position, A, B = results.minimise_heads(n_heads, seed=0)
        assert loss == pytest.approx(3 - n_heads, abs=1e-3)
        assert float(position[-2:].square().sum() / position.square().sum()) > 0.999
        products = position[-1] * A @ B.T
        assert torch.allclose(products, torch.eye(n_heads, dtype=products.dtype), atol=0.05)


def read(name):
    return json.loads((TUTORIALS / "autoregression" / f"{name}.json").read_text(encoding="utf-8"))


def test_every_head_takes_one_from_the_error():
    for row in read("heads"):
        assert row["loss"] == pytest.approx(row["floor"], abs=1e-6)
        assert row["weight_on_last"] > 0.9
        assert row["largest_cosine_between_heads"] < 1e-6


def test_ordered_vectors_are_fitted_better_than_shuffled_ones():
    rows = {(row["noise"], row["order"]): row for row in read("order")}
    for noise, order in rows:
        if order == "ordered":
            assert rows[noise, "ordered"]["high"] < 0.1 < rows[noise, "shuffled"]["low"]


def test_trained_models_are_better_the_deeper_they_are():
    rows = {(row["source"], row["depth"]): row for row in read("depth")}
    depths = sorted(depth for source, depth in rows if source == "linear attention")
    for shallow, deep in itertools.pairwise(depths):
        for source in ("linear attention", "gradient descent, free"):
            assert rows[source, deep]["high"] < rows[source, shallow]["low"]


def test_figures_and_tables_are_there(results):
    for name in results.PARTS:
        for ending, least in ((".png", 10_000), (".csv", 100)):
            assert (TUTORIALS / "autoregression" / f"{name}{ending}").stat().st_size > least


@pytest.mark.slow
def test_measuring_again_gives_the_same(results):
    for measured, kept in zip(results.measure_order(), read("order"), strict=True):
        assert measured == pytest.approx(kept, abs=1e-6)
    for measured, kept in zip(results.measure_depth(), read("depth"), strict=True):
        assert measured["error"] == pytest.approx(kept["error"], rel=1e-3)
