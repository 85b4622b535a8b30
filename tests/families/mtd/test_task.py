"""The MTD task: sampler statistics in standard errors, JSON, immutability."""

import copy
import json
import pickle

import numpy as np
import pytest
import torch
from conftest import transition
from hypothesis import given, settings, strategies as st

import mtd_lens


def test_shapes_dtypes_and_the_lags_of_the_first_tokens(task):
    batch = task.sample(7, seed=3)
    assert batch.tokens.shape == batch.lags.shape == (7, task.seq_len)
    assert batch.tokens.dtype == batch.lags.dtype == torch.int64
    assert batch.weights.shape == (7, task.order)
    assert batch.weights.dtype == torch.float64
    assert (batch.lags[:, : task.order] == 0).all()
    assert (batch.lags[:, task.order :] >= 1).all()
    assert (batch.lags <= task.order).all()


def test_the_seed_decides_and_the_count_is_free(task):
    assert torch.equal(task.sample(5, seed=2).tokens, task.sample(5, seed=2).tokens)
    assert not torch.equal(task.sample(5, seed=2).tokens, task.sample(5, seed=3).tokens)


def test_first_tokens_are_uniform_and_transitions_follow_the_drawn_lag():
    task = mtd_lens.MTDTask(transition(3, seed=1), order=2, seq_len=40)
    batch = task.sample(4000, seed=0)
    first = torch.bincount(batch.tokens[:, :2].flatten(), minlength=3) / 8000
    assert ((first - 1 / 3).abs() < 4 * (2 / 9 / 8000) ** 0.5).all()

    rows = torch.arange(4000)[:, None]
    positions = torch.arange(2, 40)
    parents = batch.tokens[rows, positions - batch.lags[:, 2:]]
    children = batch.tokens[:, 2:]
    for a in range(3):
        drawn = children[parents == a]
        found = torch.bincount(drawn, minlength=3) / len(drawn)
        expected = task.transition[a]
        error = (expected * (1 - expected) / len(drawn)).sqrt()
        assert ((found - expected).abs() < 4.5 * error + 1e-12).all()


def test_lags_follow_the_weights_and_weights_the_prior():
    task = mtd_lens.MTDTask(transition(3, seed=1), order=3, seq_len=103, concentration=0.7)
    batch = task.sample(3000, seed=4)
    counts = torch.stack([(batch.lags == g).sum(1) for g in (1, 2, 3)], -1)
    residual = counts - 100 * batch.weights
    deviation = (100 * batch.weights * (1 - batch.weights)).sum(0).sqrt()
    assert (residual.sum(0).abs() < 4 * deviation).all()
    # Dirichlet(α, α, α): mean 1/3, variance (1/3)(2/3)/(3α+1)
    variance = 2 / 9 / (3 * 0.7 + 1)
    assert ((batch.weights.mean(0) - 1 / 3).abs() < 4 * (variance / 3000) ** 0.5).all()
    assert ((batch.weights.var(0) / variance - 1).abs() < 0.1).all()


def test_an_impossible_token_is_never_drawn():
    rows = [[0.0, 0.5, 0.5], [1.0, 0.0, 0.0], [0.3, 0.7, 0.0]]
    task = mtd_lens.MTDTask(rows, order=1, seq_len=30)
    tokens = task.sample(2000, seed=0).tokens
    pairs = set(map(tuple, tokens.unfold(1, 2, 1).reshape(-1, 2).tolist()))
    assert pairs == {(0, 1), (0, 2), (1, 0), (2, 0), (2, 1)}


@settings(max_examples=30, deadline=None)
@given(
    q=st.integers(1, 6),
    order=st.integers(1, 4),
    extra=st.integers(1, 20),
    concentration=st.floats(0.01, 50),
    seed=st.integers(0, 2**31),
)
def test_json_round_trip_is_exact(q, order, extra, concentration, seed):
    task = mtd_lens.MTDTask(
        transition(q, seed, zeros=0.3), order, order + extra, concentration, name="x"
    )
    again = mtd_lens.MTDTask.from_json(json.loads(json.dumps(task.to_json())))
    assert again == task
    assert hash(again) == hash(task)
    assert torch.equal(again.transition, task.transition)
    assert torch.equal(again.sample(3, seed=0).tokens, task.sample(3, seed=0).tokens)


def test_it_is_immutable(task):
    with pytest.raises(AttributeError, match="immutable"):
        task.order = 2
    task.transition.zero_()
    assert float(task.transition.sum()) == pytest.approx(4)
    source = torch.tensor(transition(4, seed=5))
    made = mtd_lens.MTDTask(source, 2, 8)
    source.zero_()
    assert float(made.transition.sum()) == pytest.approx(4)


def test_copies_and_pickles_are_equal(task):
    assert copy.deepcopy(task) == task
    assert pickle.loads(pickle.dumps(task)) == task
    assert repr(task) == "MTDTask('small', n_tokens=4, order=3, seq_len=14, concentration=1)"


def test_rows_are_stored_in_float64_whatever_they_came_in():
    rows = transition(4, seed=0)
    single = mtd_lens.MTDTask(rows.astype(np.float32), 2, 8)
    assert single.transition.dtype == torch.float64
    assert (single.transition.sum(1) - 1).abs().max() < 1e-15


def test_presets_are_stored_not_regenerated():
    preset = mtd_lens.load_task("mtd-q5-m3-t64")
    assert preset.transition[0, 0].item() == 0.04666622065381965
    shapes = {
        name: (t.n_tokens, t.order, t.seq_len, t.concentration)
        for name in mtd_lens.list_tasks()
        if name.startswith("mtd-")
        for t in [mtd_lens.load_task(name)]
    }
    assert shapes == {
        "mtd-q3-m2-t32": (3, 2, 32, 1.0),
        "mtd-q5-m3-t32": (5, 3, 32, 1.0),
        "mtd-q5-m3-t64": (5, 3, 64, 1.0),
        "mtd-q10-m5-t192": (10, 5, 192, 1.0),
    }
    short, long = mtd_lens.load_task("mtd-q5-m3-t32"), preset
    assert torch.equal(short.transition, long.transition)
