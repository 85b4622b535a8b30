"""The autoregressive task: what is drawn, its plain data, and what is refused."""

import dataclasses
import json
import math
import pickle

import numpy as np
import pytest
import torch

import mtd_lens
from mtd_lens import AutoregressiveTask
from mtd_lens.contracts import Batch, Task
from mtd_lens.errors import ArgumentError, ModelError, TaskError, TokensError
from mtd_lens.families.autoregressive.presets import PRESETS
from mtd_lens.families.autoregressive.task import check_tokens
from mtd_lens.registry import family_of
from mtd_lens.spaces import Vectors, check_model

ORTHOGONAL = AutoregressiveTask(4, 9)
UNITARY = AutoregressiveTask(6, 9, "unitary")
NOISY = AutoregressiveTask(3, 9, noise=0.2)


@pytest.mark.parametrize("task", [ORTHOGONAL, UNITARY, NOISY], ids=["haar", "unitary", "noisy"])
def test_it_follows_the_contracts(task):
    assert isinstance(task, Task)
    assert isinstance(task.inputs, Vectors)
    assert not isinstance(mtd_lens.load_task("mtd-q3-m2-t32").inputs, Vectors)
    batch = task.sample(5, seed=2)
    assert isinstance(batch, Batch)
    assert batch.tokens.shape == (5, task.seq_len, task.dim)
    assert torch.equal(batch.tokens, task.sample(5, seed=2).tokens)
    assert not torch.equal(batch.tokens, task.sample(5, seed=3).tokens)
    again = family_of(task).task_from_json(json.loads(json.dumps(task.to_json())))
    assert again == task
    assert hash(again) == hash(task)
    assert pickle.loads(pickle.dumps(task)) == task
    with pytest.raises(dataclasses.FrozenInstanceError):
        task.dim = 7


@pytest.mark.parametrize("task", [ORTHOGONAL, UNITARY], ids=["haar", "unitary"])
def test_every_vector_is_the_matrix_times_the_one_before(task):
    batch = task.sample(7, seed=0)
    for n in range(7):
        W = batch.matrices[n]
        assert torch.allclose(W @ W.T, torch.eye(task.dim, dtype=W.dtype), atol=1e-12)
        for t in range(1, task.seq_len):
            assert torch.allclose(batch.tokens[n, t], W @ batch.tokens[n, t - 1], atol=1e-12)
        assert torch.allclose(batch.truth[n], W @ batch.tokens[n, -1], atol=1e-12)


def test_haar_moments():
    """Entries have mean 0, variance 1/d and fourth moment 3/(d(d+2)); half have determinant -1."""
    d, n = 4, 20_000
    W = AutoregressiveTask(d, 2).sample(n, seed=1).matrices
    error = 4 / math.sqrt(n)
    assert W.mean(0).abs().max() < error / math.sqrt(d)
    assert (W.square().mean(0) - 1 / d).abs().max() < error * math.sqrt(3 / (d * (d + 2)))
    assert (W.pow(4).mean(0) - 3 / (d * (d + 2))).abs().max() < error * 0.35
    assert abs(float((W.det() < 0).double().mean()) - 0.5) < error / 2


def test_unitary_matrices_commute_and_rotate_pairs():
    batch = UNITARY.sample(3000, seed=4)
    a, b = batch.matrices[0], batch.matrices[1]
    assert torch.allclose(a @ b, b @ a, atol=1e-14)
    assert torch.allclose(batch.tokens[:, 0], torch.tensor([1.0, 0.0] * 3, dtype=torch.float64))
    pairs = batch.tokens.unflatten(-1, (3, 2))
    phases = torch.view_as_complex(pairs[:, 1].contiguous())
    for t in range(UNITARY.seq_len):
        assert torch.allclose(torch.view_as_complex(pairs[:, t].contiguous()), phases**t)
    assert phases.mean(0).abs().max() < 4 / math.sqrt(3000)  # uniform on the circle


def test_noise_has_its_standard_deviation():
    batch = NOISY.sample(4000, seed=5)
    steps = torch.einsum("nij,ntj->nti", batch.matrices, batch.tokens[:, :-1])
    residual = batch.tokens[:, 1:] - steps
    n = residual.numel()
    assert abs(float(residual.std()) - 0.2) < 4 * 0.2 / math.sqrt(2 * n)
    assert abs(float(residual.mean())) < 4 * 0.2 / math.sqrt(n)


def test_presets_are_registered():
    assert set(PRESETS) <= set(mtd_lens.list_tasks())
    for name, task in PRESETS.items():
        assert mtd_lens.load_task(name) == task
        assert f"{name}/constructed-one-step" in mtd_lens.list_models()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, 8, "unitary"), r"dim must be even .* got 3\. Use 4"),
        ((0, 8), "dim must be an integer of at least 1; got 0"),
        ((2.5, 8), "dim must be an integer"),
        ((3, 1), "seq_len must be an integer of at least 2; got 1"),
        ((3, 8, "unitray"), "unknown ensemble 'unitray'.*unitary"),
        ((3, 8, "orthogonal", -0.1), "noise must be a number of at least 0.*got -0.1"),
        ((3, 8, "orthogonal", math.nan), "noise must be a number"),
        ((3, 8, "orthogonal", 0.0, "a/b"), "without a slash; got 'a/b'"),
        ((10**5, 8), "8 vectors of 100000 components.*too large for memory.*Use a smaller dim"),
        ((3, 10**12), "1000000000000 vectors of 3 components.*more than 1048576 entries"),
        ((True, 8), "dim must be an integer of at least 1; got True"),
    ],
)
def test_bad_tasks_are_refused(arguments, message):
    with pytest.raises(TaskError, match=message):
        AutoregressiveTask(*arguments)


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"family": "mtd"}, "expected what AutoregressiveTask.to_json returns"),
        ({"family": "autoregressive", "dim": 3}, r"missing: \['seq_len'\]"),
        ({"dim": 3, "seq_len": 8, "nosie": 0.3}, "a task in JSON has no field 'nosie'"),
        ([], "expected what AutoregressiveTask.to_json returns"),
    ],
)
def test_bad_plain_data_is_refused(data, message):
    with pytest.raises(TaskError, match=message):
        AutoregressiveTask.from_json(data)


def test_the_largest_tasks_are_at_the_bound():
    for dim, seq_len in ((1024, 2), (1, 2**20), (2, 2**19)):
        AutoregressiveTask(dim, seq_len)
        with pytest.raises(TaskError, match="too large for memory"):
            AutoregressiveTask(dim + 1, seq_len)


def test_numbers_of_numpy_are_kept_as_plain_ones():
    task = AutoregressiveTask(np.int64(3), np.int32(8), noise=np.float32(0.5))
    assert task == AutoregressiveTask(3, 8, noise=0.5)
    assert {type(task.dim), type(task.seq_len), type(task.noise)} == {int, float}
    assert AutoregressiveTask.from_json(json.loads(json.dumps(task.to_json()))) == task


def test_bad_draws_are_refused():
    with pytest.raises(ArgumentError, match="number of sequences must be an integer"):
        ORTHOGONAL.sample(0)
    with pytest.raises(ArgumentError, match="seed"):
        ORTHOGONAL.sample(2, seed=-1)


@pytest.mark.usefixtures("_no_type_checker")
@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.zeros(2, 9, dtype=torch.long), "tokens are vectors.*got torch.int64"),
        ([[0.0]], "tokens are vectors.*got list"),
        (torch.zeros(2, 9, 3), r"with 4 components; got shape \(2, 9, 3\)"),
        (torch.zeros(9, 4), r"Use tokens\[None\] for a single sequence"),
        (torch.zeros(2, 1, 4), "at least 2 positions"),
        (torch.zeros(2, 12, 4), "12 vectors are longer than the model's context of 9"),
        (torch.full((2, 9, 4), math.nan), "sequence 0, position 0 is not"),
    ],
)
def test_bad_tokens_are_refused(tokens, message):
    with pytest.raises(TokensError, match=message):
        check_tokens(ORTHOGONAL, tokens, max_length=9)


def test_models_that_do_not_fit_are_refused():
    of_tokens = mtd_lens.load_model("mtd-q3-m2-t32/constructed-absolute")
    with pytest.raises(ModelError, match="vectors of 4 components, but this model reads token num"):
        check_model(of_tokens, ORTHOGONAL)
    with pytest.raises(ModelError, match="vectors have 4 components, but the model reads 3"):
        check_model(mtd_lens.load_model("ar-d3-t16/constructed-one-step"), ORTHOGONAL)
    short = mtd_lens.construct_autoregressive(AutoregressiveTask(4, 5), 0.1)
    with pytest.raises(ModelError, match="9 vectors, but the model's context is 5"):
        check_model(short, ORTHOGONAL)
    with pytest.raises(ModelError, match=r"HookedTransformer.*hooks; got Identity"):
        check_model(torch.nn.Identity(), ORTHOGONAL)
