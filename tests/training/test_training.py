"""Training: what is drawn, what is minimised, and what a run leaves behind."""

import contextlib
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import mtd_lens
from mtd_lens import ArgumentError, OutputPathError, TrainingConfig, TrainingError, train
from mtd_lens.contracts import Examples
from mtd_lens.registry import family_of
from mtd_lens.training import loop as training, run_folder
from mtd_lens.training.config import (
    BOOKKEEPING,
    SETTINGS,
    descriptions,
    option_of,
    read_settings,
)
from mtd_lens.training.loop import loss_of, schedule

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


@pytest.fixture(scope="module")
def finished(task, tmp_path_factory):
    """A run that nothing disturbed."""
    return train(task, TrainingConfig(**TINY), tmp_path_factory.mktemp("runs") / "whole")


def weights_of(run):
    return (run.folder / f"step-{run.step:07d}" / "model.safetensors").read_bytes()


def untimed(run):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in run.metrics]


# Data and losses.


def test_examples_hold_the_next_token_at_every_query(task):
    drawn = family_of(task).examples(task, 50, 3, with_truth=True)
    assert drawn.inputs.shape == (50, task.seq_len)
    assert drawn.targets.shape == (50, task.seq_len - task.order)
    assert torch.equal(drawn.targets[:, :-1], drawn.inputs[:, task.order + 1 :])
    assert torch.allclose(drawn.truth.sum(-1), torch.ones(50, 8, dtype=torch.float64))


def test_the_truth_is_the_distribution_of_the_targets(task):
    """Mean negative log-likelihood of the targets is the mean entropy, in standard errors."""
    drawn = family_of(task).examples(task, 4000, 0, with_truth=True)
    entropy = -(drawn.truth * drawn.truth.log()).sum(-1)
    surprise = -drawn.truth.gather(-1, drawn.targets[..., None])[..., 0].log()
    difference = (surprise - entropy).mean(1)
    error = float(difference.std()) / math.sqrt(len(difference))
    assert abs(float(difference.mean())) < 4 * error
    shuffled = -drawn.truth.gather(-1, drawn.targets.roll(1, 0)[..., None])[..., 0].log()
    assert float((shuffled - entropy).mean()) > 20 * error


@pytest.mark.parametrize("seed", [0, 1])
def test_losses_against_loops(seed):
    generator = torch.Generator().manual_seed(seed)
    output = torch.randn(3, 7, 4, generator=generator, dtype=torch.float64)
    targets = torch.randint(4, (3, 5), generator=generator)
    truth = torch.rand(3, 5, 4, generator=generator, dtype=torch.float64)
    truth = truth / truth.sum(-1, keepdim=True)
    examples = Examples(torch.zeros(3, 7), targets, truth)
    token, soft, squared = 0.0, 0.0, 0.0
    for n in range(3):
        for query in range(5):
            logits = output[n, 2 + query]
            normalizer = math.log(sum(math.exp(value) for value in logits.tolist()))
            token += (normalizer - float(logits[targets[n, query]])) / 15
            for b in range(4):
                soft += float(truth[n, query, b]) * (normalizer - float(logits[b])) / 15
                if query == 4:
                    difference = math.exp(float(logits[b]) - normalizer) - float(truth[n, 4, b])
                    squared += difference**2 / 3
    for kind, expected in zip(
        ("next-token", "distribution", "last-squared-error"), (token, soft, squared), strict=True
    ):
        assert float(loss_of(kind, output, examples)) == pytest.approx(expected, abs=1e-12)


def test_schedule_warms_up_and_falls_to_zero():
    config = TrainingConfig(steps=1000, warmup_steps=100)
    assert schedule(config, 50) == pytest.approx(0.5)
    assert schedule(config, 100) == pytest.approx(1.0)
    assert schedule(config, 550) == pytest.approx(0.5)
    assert schedule(config, 1000) == pytest.approx(0.0)
    assert schedule(TrainingConfig(steps=10, warmup_steps=0), 1) > 0.9


# Runs.


def test_a_run_leaves_metrics_and_checkpoints(finished, task):
    assert [row["step"] for row in finished.metrics] == [10, 20, 30, 40, 50, 60]
    assert set(finished.metrics[2]) >= {"loss", "KL from truth", "KL from exact Bayes", "seconds"}
    assert sorted(path.name for path in finished.folder.iterdir()) == [
        "metrics.jsonl",
        "run.json",
        "step-0000040",
        "step-0000060",
    ]
    manifest = json.loads((finished.folder / "step-0000060" / "manifest.json").read_text())
    assert manifest["step"] == 60
    assert manifest["config"] == TrainingConfig(**TINY).to_json()
    assert manifest["metrics"]["loss"] == finished.metrics[-1]["loss"]
    assert mtd_lens.task_of(finished.model) == task


def test_training_learns(task, tmp_path):
    """Even 400 small steps bring the loss well below that of the initial, uniform predictions."""
    config = TrainingConfig(**TINY | {"steps": 400, "evaluate_every": 400, "batch_size": 32})
    run = train(task, config, tmp_path / "run")
    assert run.metrics[0]["loss"] > 1.0
    assert run.metrics[-1]["loss"] < 0.95


@pytest.mark.parametrize("changed", ["architecture", "loss", "seed", "dtype"])
def test_settings_that_decide_the_weights_do(finished, task, tmp_path, changed):
    value = {
        "architecture": "attn-only",
        "loss": "distribution",
        "seed": 1,
        "dtype": "float64",
    }[changed]
    run = train(task, TrainingConfig(**TINY | {changed: value, "steps": 60}), tmp_path / "run")
    assert weights_of(run) != weights_of(finished)


def test_the_same_run_twice_is_the_same_to_the_bit(finished, task, tmp_path):
    again = train(task, TrainingConfig(**TINY), tmp_path / "again")
    assert weights_of(again) == weights_of(finished)
    assert untimed(again) == untimed(finished)


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        assert torch.get_default_dtype() == dtype
        torch.set_default_dtype(before)


MODES = {
    "no gradients": torch.no_grad,
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "double": lambda: default_dtype(torch.float64),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("architecture", ["disentangled", "gpt"])
def test_modes_around_it_change_nothing(finished, task, tmp_path, mode, architecture):
    config = TrainingConfig(**TINY | {"architecture": architecture})
    plain = finished if architecture == "disentangled" else train(task, config, tmp_path / "plain")
    with MODES[mode]():
        same = mtd_lens.MTDTask(task.transition, task.order, task.seq_len)
        again = train(same, config, tmp_path / "again")
    assert weights_of(again) == weights_of(plain)
    assert untimed(again) == untimed(plain)
    assert not any(weight.is_inference() for weight in again.model.parameters())


@pytest.mark.parametrize("stop", [20, 30])
def test_stopped_and_resumed_is_the_same_to_the_bit(finished, task, tmp_path, stop):
    config = TrainingConfig(**TINY)
    stopped = train(task, config, tmp_path / "run", stop_after=stop)
    assert stopped.step == stop
    resumed = train(task, config, tmp_path / "run", resume=True)
    assert weights_of(resumed) == weights_of(finished)
    assert untimed(resumed) == untimed(finished)


def test_threads_and_random_state_are_left_alone(task, tmp_path):
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    train(task, TrainingConfig(**TINY), tmp_path / "run", stop_after=10)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


# What a user gets wrong.


def test_a_loss_that_is_not_finite_names_step_and_checkpoint(task, tmp_path, monkeypatch):
    losses = training.loss_of

    def explode(kind, output, examples):
        loss = losses(kind, output, examples)
        calls.append(1)
        return loss * math.nan if len(calls) == 47 else loss

    calls = []
    monkeypatch.setattr(training, "loss_of", explode)
    with pytest.raises(TrainingError, match=r"nan at step 47\..*step-0000040"):
        train(task, TrainingConfig(**TINY), tmp_path / "run")
    monkeypatch.undo()
    assert train(task, TrainingConfig(**TINY), tmp_path / "run", resume=True).step == 60


def test_a_folder_in_use_is_refused(finished, task, tmp_path):
    with pytest.raises(TrainingError, match="holds a run already"):
        train(task, TrainingConfig(**TINY), finished.folder)
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(TrainingError, match="holds other files"):
        train(task, TrainingConfig(**TINY), tmp_path)
    with pytest.raises(TrainingError, match=r"precious\.txt is a file, and a run is a folder"):
        train(task, TrainingConfig(**TINY), tmp_path / "precious.txt")


def test_resuming_another_run_is_refused(finished, task):
    config = TrainingConfig(**TINY | {"learning_rate": 0.02})
    before = weights_of(finished)
    with pytest.raises(TrainingError, match=r"config\.learning_rate differ .*0\.01 there"):
        train(task, config, finished.folder, resume=True)
    other = mtd_lens.MTDTask(task.transition, 1, 10)
    with pytest.raises(TrainingError, match=r"task\.order"):
        train(other, TrainingConfig(**TINY), finished.folder, resume=True)
    assert weights_of(finished) == before


def test_a_full_disk_leaves_the_last_checkpoint(task, tmp_path, monkeypatch):
    import safetensors.torch

    run = train(task, TrainingConfig(**TINY), tmp_path / "run", stop_after=20)

    def full(tensors, path):
        path.write_bytes(b"half a fi")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OutputPathError, match=r"No space left.*resume"):
        train(task, TrainingConfig(**TINY), run.folder, resume=True)
    monkeypatch.undo()
    assert not list(run.folder.glob(".mtd-lens-*"))
    assert mtd_lens.load_checkpoint(run.folder) is not None
    assert train(task, TrainingConfig(**TINY), run.folder, resume=True).step == 60


OUT_OF_RANGE = [
    ({"architecture": "mamba"}, "unknown architecture 'mamba'"),
    ({"loss": "hinge"}, "unknown loss 'hinge'"),
    ({"dtype": "int8"}, "unknown dtype 'int8'"),
    ({"n_layers": 0}, "n_layers must be an integer from 1 to 6"),
    ({"steps": 0}, "steps must be an integer of at least 1"),
    ({"learning_rate": -1.0}, "learning_rate must be a number above 0"),
    ({"beta2": 1.0}, "beta2 must be a number"),
    ({"n_heads": 5}, "n_heads must divide d_model; got 5 heads"),
    ({"checkpoint_every": 70}, "checkpoint_every must be a multiple of log_every, 50"),
]


def test_settings_out_of_range():
    for setting, message in OUT_OF_RANGE:
        with pytest.raises(ArgumentError, match=message):
            TrainingConfig(**setting)


@pytest.mark.usefixtures("_no_type_checker")
def test_what_is_refused_leaves_no_folder(task, tmp_path):
    with pytest.raises(ArgumentError, match="stop_after must be a multiple of log_every, 10"):
        train(task, TrainingConfig(**TINY), tmp_path / "run", stop_after=33)
    with pytest.raises(ArgumentError, match="cannot be the folder of a run"):
        train(task, TrainingConfig(**TINY), None)
    assert not (tmp_path / "run").exists()


def test_two_runs_into_one_folder_at_once_are_refused(finished, task):
    with run_folder.alone(finished.folder), pytest.raises(TrainingError, match="another process"):
        train(task, TrainingConfig(**TINY), finished.folder, resume=True)


def test_leftovers_of_a_start_that_was_killed_do_not_matter(task, tmp_path):
    (tmp_path / ".mtd-lens-abc").write_text("half")
    assert train(task, TrainingConfig(**TINY), tmp_path, stop_after=10).step == 10
    assert not list(tmp_path.glob(".mtd-lens-*"))


def test_a_device_that_is_not_there(task, tmp_path):
    with pytest.raises(ArgumentError, match="device 'cuda:7' cannot be used"):
        train(task, TrainingConfig(**TINY | {"device": "cuda:7"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_settings_from_toml(tmp_path):
    path = tmp_path / "settings.toml"
    path.write_text('# mine\narchitecture = "gpt"\nsteps = 10\n')
    assert read_settings(path) == {"architecture": "gpt", "steps": 10}
    path.write_text("steps = 10\n\nlerning_rate = 0.1\n")
    with pytest.raises(ArgumentError, match=r"line 3: unknown setting 'lerning_rate'.*learning"):
        read_settings(path)
    path.write_text("[training]\nsteps = 10\n")
    with pytest.raises(ArgumentError, match="line 1: unknown setting 'training'"):
        read_settings(path)
    path.write_text("steps = = 10\n")
    with pytest.raises(ArgumentError, match="cannot be read as TOML"):
        read_settings(path)
    path.write_text("a = " + "[" * 100_000 + "]" * 100_000)
    with pytest.raises(ArgumentError, match="cannot be read as TOML"):
        read_settings(path)
    with pytest.raises(ArgumentError, match="No such file"):
        read_settings(tmp_path / "none.toml")


def test_every_setting_has_an_option_and_the_command_of_a_run_gives_its_settings(monkeypatch):
    from mtd_lens.cli import app

    changed = {"architecture": "gpt", "loss": "distribution", "dtype": "float64", "d_model": 96}
    changed |= {"n_heads": 3, "beta1": 0.5, "steps": 7, "warmup_steps": 0, "weight_decay": 0.25}
    config = TrainingConfig(**changed, threads=1, evaluate_every=9)
    assert set(descriptions()) == set(SETTINGS) == set(config.to_json())
    words = config.command("mtd-q3-m2-t32", "a-folder")
    for name in BOOKKEEPING:
        assert option_of(name) not in words
        words += [option_of(name), str(getattr(config, name))]
    given = []
    monkeypatch.setattr(training, "train_or_resume", lambda *a, **k: given.append(a) or finished)
    finished = training.Run(Path("a-folder"), 7, [], None)
    app(words[1:], standalone_mode=False)
    [(task, settings, out, resume)] = given
    assert (task, str(out), resume) == ("mtd-q3-m2-t32", "a-folder", None)
    assert TrainingConfig(**settings) == config


def test_tensorboard_that_is_not_installed_is_said_before_any_work(task, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ArgumentError, match="pip install tensorboard"):
        train(task, TrainingConfig(**TINY), tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("_no_type_checker")
def test_settings_of_numpy_are_those_of_python():
    config = TrainingConfig(steps=np.int64(30), learning_rate=np.float32(0.5))
    assert (config.steps, config.learning_rate) == (30, 0.5)
    json.dumps(config.to_json())


def test_predictions_that_are_not_finite_end_the_run(task, tmp_path):
    settings = {"learning_rate": 1e6, "warmup_steps": 0, "evaluate_every": 1, "steps": 5}
    with pytest.raises(mtd_lens.TrainingError, match=r"not finite|loss is"):
        mtd_lens.train(task, TrainingConfig(**TINY | settings), tmp_path / "run")
