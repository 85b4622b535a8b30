"""Training that is stopped by a signal is saved first, and goes on to the same bits."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

import mtd_lens
from mtd_lens import TrainingConfig, train
from mtd_lens.checkpoints import MODEL, checkpoints_in
from mtd_lens.training import loop as training
from mtd_lens.training.run_folder import read_metrics
from probes import progress

SETTINGS = {
    "n_layers": 1,
    "d_model": 8,
    "steps": 40,
    "batch_size": 4,
    "log_every": 10,
    "checkpoint_every": 20,
    "evaluation_sequences": 16,
    "threads": 1,
}
STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.fixture(autouse=True)
def _handlers_of_pythons_own():
    """Also where the tests themselves were started in the background, without SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def task():
    return mtd_lens.MTDTask([[0.8, 0.15, 0.05], [0.1, 0.6, 0.3], [0.3, 0.3, 0.4]], 2, 10)


@pytest.fixture(scope="module")
def whole(task, tmp_path_factory):
    """A run that nothing disturbed."""
    return train(task, TrainingConfig(**SETTINGS), tmp_path_factory.mktemp("runs") / "whole").folder


def weights(folder):
    return (checkpoints_in(folder)[-1] / MODEL).read_bytes()


def rows(folder):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(folder)]


def names(folder):
    return [path.name for path in checkpoints_in(folder)]


@pytest.fixture
def signals_at(monkeypatch):
    """``signals_at(5, SIGINT)``: the signal comes while step 5 is taken."""
    losses, calls = training.loss_of, []

    def at(step, *numbers):
        def loss_of(*arguments):
            calls.append(1)
            if len(calls) == step:
                for number in numbers:
                    signal.raise_signal(number)
            return losses(*arguments)

        calls.clear()
        monkeypatch.setattr(training, "loss_of", loss_of)

    return at


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
@pytest.mark.parametrize("step", [1, 10, 13])
def test_the_running_step_is_saved_and_the_run_goes_on(
    task, whole, tmp_path, signals_at, number, error, step
):
    before = {number: signal.getsignal(number) for number in STATUS}
    folder = tmp_path / "a run"
    signals_at(step, number)
    with pytest.raises(error, match=rf"step {step} of 40\. .*--resume '.*/a run'") as stopped:
        train(task, TrainingConfig(**SETTINGS), folder)
    assert stopped.value.exit_status == STATUS[number]
    assert before == {number: signal.getsignal(number) for number in STATUS}
    assert names(folder) == [f"step-{step:07d}"]
    signals_at(0)
    train(task, TrainingConfig(**SETTINGS), folder, resume=True)
    assert weights(folder) == weights(whole)
    assert rows(folder) == rows(whole)


@pytest.mark.parametrize("second", STATUS)
def test_a_second_signal_stops_at_once(task, tmp_path, signals_at, second):
    signals_at(33, signal.SIGINT, second)
    with pytest.raises((KeyboardInterrupt, SystemExit), match="saved up to step 20 of 40"):
        train(task, TrainingConfig(**SETTINGS), tmp_path / "run")
    assert names(tmp_path / "run") == ["step-0000020"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    "moment", [(training, "build_trainable"), (training._Trainer, "_yardsticks")]
)
@pytest.mark.parametrize("there", [False, True])
def test_before_the_first_step_nothing_is_left(task, tmp_path, monkeypatch, there, moment):
    folder = tmp_path / "run"
    if there:
        folder.mkdir()
    monkeypatch.setattr(*moment, lambda *a, **named: signal.raise_signal(signal.SIGINT))
    with pytest.raises(KeyboardInterrupt, match="there is nothing to resume from"):
        train(task, TrainingConfig(**SETTINGS), folder)
    assert list(tmp_path.iterdir()) == [folder] * there
    assert not there or not list(folder.iterdir())


def test_handlers_of_the_callers_own_are_left_in_charge(task, tmp_path, signals_at):
    came = []
    before = signal.signal(signal.SIGTERM, lambda *_: came.append(1))
    try:
        signals_at(5, signal.SIGTERM)
        assert train(task, TrainingConfig(**SETTINGS), tmp_path / "run").step == 40
    finally:
        signal.signal(signal.SIGTERM, before)
    assert came == [1]


def test_in_another_thread_it_trains_as_well(task, whole, tmp_path):
    folder = tmp_path / "run"
    thread = threading.Thread(target=train, args=(task, TrainingConfig(**SETTINGS), folder))
    thread.start()
    thread.join()
    assert weights(folder) == weights(whole)


def test_a_run_without_a_checkpoint_says_so_when_it_is_resumed(task, tmp_path, capsys):
    run = train(task, TrainingConfig(**SETTINGS), tmp_path / "run", stop_after=20)
    train(task, TrainingConfig(**SETTINGS), run.folder, resume=True, stop_after=20, progress=True)
    assert "saved up to step 20 of 40; it goes on from step 20" in capsys.readouterr().err
    for said in ("goes on from step 20", "saved up to step 40 of 40; it is finished\n"):
        train(task, TrainingConfig(**SETTINGS), run.folder, resume=True, progress=True)
        assert said in capsys.readouterr().err
    for folder in checkpoints_in(run.folder):
        folder.rename(tmp_path / folder.name)
    train(task, TrainingConfig(**SETTINGS), run.folder, resume=True, stop_after=10, progress=True)
    said = "holds no checkpoint: there is nothing to resume from; it goes on from step 0"
    assert said in capsys.readouterr().err


def test_losses_stand_beside_the_steps_before_an_evaluation(task, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    rare = TrainingConfig(**SETTINGS | {"evaluate_every": 40})
    run = train(task, rare, tmp_path / "run", progress=True)
    steps = [line for line in capsys.readouterr().err.splitlines() if "steps" in line]
    assert f"loss {run.metrics[0]['loss']:.4f}" in steps[10]
    assert "loss" in steps[-1]
    assert "KL from truth" in steps[-1]


def test_a_signal_that_comes_before_training_begins(monkeypatch, capsys):
    from mtd_lens.cli import app

    def stopped(*_, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "train_or_resume", stopped)
    assert app(["train", "mtd-q3-m2-t32", "--out", "x"], standalone_mode=False) == 130
    assert "stopped before its first step" in capsys.readouterr().err


def test_a_script_that_is_terminated_exits_with_143():
    code = "from mtd_lens.training.signals import Terminated; raise Terminated('said')"
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == 143


# The command, in a process of its own.

COMMAND = ["train", "mtd-q3-m2-t32", "--layers", "1", "--d-model", "8", "--batch-size", "8"]
COMMAND += ["--steps", "1500", "--log-every", "7", "--checkpoint-every", "70000", "--threads", "1"]


def start(*words):
    return subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def signal_once_it_trains(process, folder, send):
    while process.poll() is None and not read_metrics(folder):
        time.sleep(0.01)
    send()
    out, err = process.communicate(timeout=300)
    return out, err


@pytest.fixture(scope="module")
def whole_command(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands") / "whole"
    from mtd_lens.cli import app

    app([*COMMAND, "--out", str(folder)], standalone_mode=False)
    return folder


@pytest.mark.parametrize("number", STATUS)
def test_the_command_says_where_it_stands_and_goes_on(whole_command, tmp_path, number):
    from mtd_lens.cli import app

    folder = tmp_path / "run"
    process = start("-m", "mtd_lens", *COMMAND, "--out", str(folder))
    out, err = signal_once_it_trains(process, folder, lambda: process.send_signal(number))
    assert process.returncode == STATUS[number], err
    step = int(names(folder)[-1].removeprefix("step-"))
    assert 0 < step < 1500
    assert err.splitlines()[-1] == (
        f"training was stopped: {folder} is saved up to step {step} of 1500. Go on with: "
        f"mtd-lens train --resume {folder}"
    )
    assert "Traceback" not in err
    assert out == ""
    app(["train", "--resume", str(folder)], standalone_mode=False)
    assert weights(folder) == weights(whole_command)
    assert rows(folder) == rows(whole_command)


@pytest.mark.slow
@pytest.mark.parametrize("number", STATUS)
def test_processes_that_train_together_stop_together(tmp_path, number):
    """Ctrl-C in a terminal reaches the launcher and all that it has started."""
    folder = tmp_path / "run"
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--module", "mtd_lens"]
    process = start(*launcher, *COMMAND, "--out", str(folder))
    group = os.getpgid(process.pid)
    signal_once_it_trains(process, folder, lambda: os.killpg(group, number))
    step = int(names(folder)[-1].removeprefix("step-"))
    assert 0 < step < 1500
    assert not list(folder.glob(".mtd-lens-*"))
