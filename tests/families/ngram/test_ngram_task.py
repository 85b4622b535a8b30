"""The n-gram task: its sampler, its rows, its errors, and its plain data."""

import json
import pickle

import numpy as np
import pytest
import torch
from ngram_oracles import feature

import mtd_lens
from mtd_lens.errors import ArgumentError, TaskError, TokensError
from mtd_lens.families.mtd import task as mtd_task
from mtd_lens.families.ngram import estimators


@pytest.fixture(scope="module")
def task():
    return mtd_lens.NGramTask(3, (1, 3), 4, 40, 0.5)


def test_tokens_follow_their_tables(task):
    """Every row that is used often: observed shares within 5 standard errors of the table's."""
    batch = mtd_lens.NGramTask(3, (1, 3), 4, 4000, 0.5).sample(4, seed=3)
    rows = task.rows(batch.tokens)[:, :-1]
    for sequence in range(4):
        children = batch.tokens[sequence, 4:]
        for row in range(9):
            here = children[rows[sequence] == row]
            if len(here) < 50:
                continue
            shares = torch.bincount(here, minlength=3) / len(here)
            expected = batch.tables[sequence, row]
            error = (expected * (1 - expected) / len(here)).sqrt().clamp_min(1e-3)
            assert ((shares - expected).abs() / error).max() < 5


def test_rows_of_tables_are_dirichlet(task):
    tables = task.sample(4000, seed=0).tables
    assert tables.shape == (4000, 9, 3)
    assert (tables.sum(-1) - 1).abs().max() < 1e-12
    flat = tables.flatten(0, 1)
    n, q, alpha = len(flat), 3, 0.5
    variance = (1 / q) * (1 - 1 / q) / (q * alpha + 1)
    assert ((flat.mean(0) - 1 / q).abs() < 5 * (variance / n) ** 0.5).all()
    assert ((flat.var(0) / variance - 1).abs() < 0.05).all()
    # rows of one table are drawn independently
    assert abs(float(np.corrcoef(tables[:, 0, 0], tables[:, 1, 0])[0, 1])) < 5 / 4000**0.5


def test_the_first_tokens_are_uniform(task):
    start = task.sample(6000, seed=1).tokens[:, :4].flatten()
    shares = torch.bincount(start, minlength=3) / len(start)
    assert ((shares - 1 / 3).abs() < 5 * (2 / 9 / len(start)) ** 0.5).all()


def test_the_same_seed_draws_the_same_sequences(task):
    first, again, other = (task.sample(5, seed) for seed in (7, 7, 8))
    assert torch.equal(first.tokens, again.tokens)
    assert torch.equal(first.tables, again.tables)
    assert not torch.equal(first.tokens, other.tokens)


def test_rows_are_those_of_the_parents(task):
    tokens = task.sample(6, seed=0).tokens
    rows = task.rows(tokens)
    assert rows.shape == (6, 40 - 4 + 1)
    for sequence in range(6):
        for index, position in enumerate(range(4, 41)):
            expected = feature(tokens[sequence], position, (1, 3), 3).argmax()
            assert rows[sequence, index] == expected
    true = estimators.ngram_truth(task, tokens, torch.rand(6, 9, 3, generator=_generator()))
    table = torch.rand(6, 9, 3, generator=_generator())
    assert torch.equal(true[2, -1], table[2, rows[2, -1]])


def _generator():
    return torch.Generator().manual_seed(0)


def test_parents_in_any_order_make_the_same_task():
    assert mtd_lens.NGramTask(3, [3, 1], 4, 40) == mtd_lens.NGramTask(3, (1, 3), 4, 40)


def test_plain_data_and_pickles_make_equal_tasks(task):
    data = json.loads(json.dumps(task.to_json()))
    assert mtd_lens.NGramTask.from_json(data) == task
    assert hash(mtd_lens.NGramTask.from_json(data)) == hash(task)
    assert pickle.loads(pickle.dumps(task)) == task
    preset = mtd_lens.load_task("ngram-q3-s13-t60")
    assert mtd_lens.NGramTask.from_json(preset.to_json()) == preset
    with pytest.raises(AttributeError):
        task.window = 3


def test_presets():
    shapes = {
        name: (t.n_tokens, t.parents, t.window, t.seq_len, t.concentration, t.name == name)
        for name in mtd_lens.list_tasks()
        if name.startswith("ngram")
        for t in [mtd_lens.load_task(name)]
    }
    assert shapes == {
        "ngram-q3-s12-t32": (3, (1, 2), 2, 32, 0.1, True),
        "ngram-q3-s12-t100": (3, (1, 2), 2, 100, 0.1, True),
        "ngram-q3-s13-t60": (3, (1, 3), 3, 60, 0.1, True),
    }


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, (1,), 1, 8), "n_tokens must be an integer of at least 2; got 1"),
        ((3, (0, 1), 2, 8), "a parent's lag must be an integer of at least 1; got 0"),
        ((3, (-2,), 2, 8), "a parent's lag must be an integer of at least 1; got -2"),
        ((3, (1.5,), 2, 8), "a parent's lag must be an integer of at least 1; got 1.5"),
        ((3, (1, 2, 1), 2, 8), r"distinct lags; 1 is repeated in \(1, 2, 1\)"),
        ((3, (1, 3), 2, 8), "inside the window of 2 lags; got lag 3. Widen the window"),
        ((3, (), 2, 8), r"at least one lag, such as \(1, 2\); got \(\)"),
        ((3, 2, 2, 8), "must list at least one lag"),
        ((3, "12", 2, 8), "must list at least one lag"),
        ((3, (1,), 8, 8), "window must be below seq_len; got window 8 and seq_len 8"),
        ((3, (1,), 1, 10**12), "seq_len must be an integer from 2 to 1000000; got 1000000000000"),
        ((3, np.array(1), 2, 8), r"must list at least one lag.*; got array\(1\)"),
        ((3, torch.tensor(1), 2, 8), r"must list at least one lag.*; got tensor\(1\)"),
        ((3, (1,), 0, 8), "window must be an integer of at least 1"),
        ((3, (1,), 1, 1), "seq_len must be an integer from 2 to 1000000; got 1"),
        ((3, (1,), 1, 8, 0), "concentration must be a number of at least 0.001"),
        ((3, (1,), 1, 8, float("nan")), "concentration must be a number"),
        ((50, (1, 2, 3), 3, 8), r"50\^3 rows of 50 tokens; .* memory, at most 65536"),
        ((2, tuple(range(1, 17)), 16, 32), r"2\^16 rows of 2 tokens"),
        ((10, range(1, 5001), 5001, 6000), r"10\^5000 rows of 10 tokens; that is too large"),
        ((3, (1,), 1, 8, 0.1, "a/b"), "name must be a string without a slash"),
    ],
)
def test_tasks_that_cannot_be(arguments, message):
    with pytest.raises(TaskError, match=message):
        mtd_lens.NGramTask(*arguments)


def test_plain_data_that_describes_no_task(task):
    with pytest.raises(TaskError, match=r"missing: \['window'\]"):
        mtd_lens.NGramTask.from_json({k: v for k, v in task.to_json().items() if k != "window"})
    with pytest.raises(TaskError, match="no field 'order'"):
        mtd_lens.NGramTask.from_json({**task.to_json(), "order": 2})
    with pytest.raises(TaskError, match=r"expected what NGramTask\.to_json returns"):
        mtd_lens.NGramTask.from_json(mtd_lens.load_task("mtd-q3-m2-t32").to_json())


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.zeros(2, 8), "integers, .*; got torch.float32"),
        (torch.zeros(8, dtype=torch.long), "two axes"),
        (torch.zeros(2, 4, dtype=torch.long), r"at least window \+ 1 = 5 positions"),
        (torch.full((2, 8), 3), r"lie in 0 … 2; sequence 0, position 0 holds 3"),
    ],
)
def test_tokens_that_do_not_fit(task, tokens, message):
    with pytest.raises(TokensError, match=message):
        mtd_lens.ngram_bayes(task, tokens)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8], ids=str)
def test_tokens_of_narrow_dtypes(dtype):
    """A vocabulary may hold more than the dtype can; tokens below are compared as they are."""
    n_tokens = 200 if dtype == torch.int8 else 256
    tokens = torch.tensor([[0, 1, 2, 1, 0]], dtype=dtype)
    ngram = mtd_lens.NGramTask(n_tokens, (1,), 1, 5)
    assert torch.equal(
        mtd_lens.ngram_counts(ngram, tokens), mtd_lens.ngram_counts(ngram, tokens.long())
    )
    mixture = mtd_lens.MTDTask(np.full((n_tokens, n_tokens), 1 / n_tokens), order=1, seq_len=5)
    assert mtd_task.check_tokens(mixture, tokens).tolist() == tokens.tolist()
    with pytest.raises(TokensError, match=f"0 … {n_tokens - 1}; sequence 0, position 2 holds -1"):
        mtd_task.check_tokens(mixture, torch.tensor([[0, 1, -1]], dtype=torch.int8))


def test_draws_that_cannot_be(task):
    with pytest.raises(ArgumentError, match="number of sequences"):
        task.sample(0)
    with pytest.raises(ArgumentError, match="seed"):
        task.sample(1, -1)
