"""What does not fit into memory is refused in one line, before or when it runs out."""

import pytest
import torch

import mtd_lens
from mtd_lens import ArgumentError, TrainingConfig, train
from mtd_lens.training import loop as training
from probes.memory import check_memory, free_memory, within_memory

TINY = {
    "architecture": "disentangled",
    "n_layers": 2,
    "steps": 60,
    "batch_size": 8,
    "log_every": 10,
    "checkpoint_every": 20,
    "evaluate_every": 30,
    "evaluation_sequences": 16,
    "warmup_steps": 10,
    "learning_rate": 0.01,
}


@pytest.fixture(scope="module")
def task():
    return mtd_lens.MTDTask([[0.8, 0.15, 0.05], [0.1, 0.6, 0.3], [0.3, 0.3, 0.4]], 2, 10)


TOO_LARGE = [
    ({"batch_size": 10**12}, mtd_lens.MemoryLimitError, "GiB are free. Lower batch_size, d_model"),
    ({"evaluation_sequences": 10**15}, mtd_lens.MemoryLimitError, "or evaluation_sequences"),
    ({"d_model": 2**20}, mtd_lens.MemoryLimitError, "Lower batch_size, d_model"),
    ({"d_model": 10**9}, ArgumentError, "d_model must be an integer from 1 to 1048576"),
    ({"threads": 10**9}, ArgumentError, "threads must be an integer from 1 to 4096"),
]


def test_what_does_not_fit_into_memory_is_refused_and_leaves_no_folder(task, tmp_path):
    for setting, error, message in TOO_LARGE:
        with pytest.raises(error, match=message):
            train(
                task,
                TrainingConfig(**TINY | {"architecture": "attn-only"} | setting),
                tmp_path / "run",
            )
        assert not (tmp_path / "run").exists()


EXHAUSTED = [
    MemoryError(),
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 12 bytes."),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 12 bytes."),
    RuntimeError("MPS backend out of memory"),
]


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("error", EXHAUSTED, ids=str)
def test_memory_that_runs_out_is_said_and_the_folder_can_be_used_again(
    task, tmp_path, monkeypatch, error, there
):
    def exhausted(*_):
        raise error

    if there:
        (tmp_path / "run").mkdir()
    monkeypatch.setattr(training, "loss_of", exhausted)
    with pytest.raises(mtd_lens.MemoryLimitError, match=r"memory ran out .*Lower batch_size"):
        train(task, TrainingConfig(**TINY), tmp_path / "run")
    assert (tmp_path / "run").exists() == there
    monkeypatch.undo()
    assert train(task, TrainingConfig(**TINY), tmp_path / "run", stop_after=10).step == 10


def test_another_error_of_torch_is_not_called_one_of_memory(task, tmp_path, monkeypatch):
    def fail(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(training, "loss_of", fail)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        train(task, TrainingConfig(**TINY), tmp_path / "run")
    assert not (tmp_path / "run").exists()


QUESTIONS = {
    "score": mtd_lens.score,
    "compare": mtd_lens.compare,
    "localize": mtd_lens.localize,
    "align": lambda model: mtd_lens.align(model, "mixture_weights", 2),
    "inspect": mtd_lens.inspect,
    "dashboard": mtd_lens.dashboard,
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_memory_that_runs_out_while_a_model_is_tested_is_said(monkeypatch, question):
    model = mtd_lens.load_model("mtd-q3-m2-t32/random-relative")

    def exhausted(*_, **named):
        raise EXHAUSTED[2]

    monkeypatch.setattr(type(model), "forward", exhausted)
    with pytest.raises(mtd_lens.MemoryLimitError, match=r"memory ran out .*lower n_sequences"):
        QUESTIONS[question](model)


def test_what_is_free_is_not_refused():
    free = free_memory("cpu")
    check_memory(free // 2, "half", "Less.")
    with pytest.raises(mtd_lens.MemoryLimitError, match=r"^all of it needs at least .* Less\.$"):
        check_memory(2 * free, "all of it", "Less.")


def test_an_allocation_that_fails_is_named():
    message = r"memory ran out .* Take less\."
    with pytest.raises(mtd_lens.MemoryLimitError, match=message), within_memory("Take less."):
        torch.empty(2**45)
