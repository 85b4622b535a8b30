"""Checkpoints: read back exactly, refused when they are not what they say, and never half there."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import mtd_lens
from mtd_lens import CheckpointError, MTDLensError, OutputPathError, TrainingConfig, train
from mtd_lens.checkpoints import MANIFEST, MODEL, checkpoints_in
from mtd_lens.training.run_folder import export_checkpoint, read_metrics, read_run

SETTINGS = {
    "n_layers": 1,
    "steps": 20,
    "batch_size": 8,
    "log_every": 10,
    "checkpoint_every": 10,
    "evaluation_sequences": 16,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    task = mtd_lens.MTDTask([[0.8, 0.15, 0.05], [0.1, 0.6, 0.3], [0.3, 0.3, 0.4]], 2, 10)
    folder = tmp_path_factory.mktemp("runs") / "run"
    return train(task, TrainingConfig(**SETTINGS), folder).folder


@pytest.fixture
def copy(run, tmp_path):
    """A run that a test may damage."""
    return shutil.copytree(run, tmp_path / "copy")


def manifest_with(folder, **changes):
    path = folder / MANIFEST
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({**manifest, **changes}))


def test_a_run_or_one_of_its_checkpoints_can_be_loaded(run):
    task = mtd_lens.load_checkpoint(run)
    last, first = (mtd_lens.load_checkpoint(folder) for folder in reversed(checkpoints_in(run)))
    tokens = mtd_lens.task_of(task).sample(4, 0).tokens
    with torch.no_grad():
        assert torch.equal(task(tokens), last(tokens))
        assert not torch.allclose(task(tokens), first(tokens))
    assert not task.training


def test_a_loaded_model_can_be_scored_and_nulled(run):
    card = mtd_lens.score(mtd_lens.load_checkpoint(run), n_sequences=64)
    assert card["prediction.estimator"].verdict == "refuted"  # 20 steps teach nothing


def test_export_leaves_the_optimiser_behind(run, tmp_path):
    folder = export_checkpoint(run, tmp_path / "small")
    assert sorted(path.name for path in folder.iterdir()) == [MANIFEST, "metrics.jsonl", MODEL]
    whole, small = mtd_lens.load_checkpoint(run), mtd_lens.load_checkpoint(folder)
    for (name, a), b in zip(whole.named_parameters(), small.parameters(), strict=True):
        assert torch.equal(a, b), name
    with pytest.raises(OutputPathError, match="it is there already"):
        export_checkpoint(run, folder)
    with pytest.raises(OutputPathError, match="there is no"):
        export_checkpoint(run, tmp_path / "none" / "small")
    first = export_checkpoint(checkpoints_in(run)[0], tmp_path / "first")
    assert [row["step"] for row in read_metrics(first)] == [10]


def test_truncated_weights(copy):
    path = checkpoints_in(copy)[-1] / MODEL
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"its SHA-256 is .* truncated or changed"):
        mtd_lens.load_checkpoint(copy)


def test_tampered_weights(copy):
    path = checkpoints_in(copy)[-1] / MODEL
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(CheckpointError, match="is not the file that"):
        mtd_lens.load_checkpoint(copy)


def test_missing_weights(copy):
    (checkpoints_in(copy)[-1] / MODEL).unlink()
    with pytest.raises(CheckpointError, match=r"cannot be read: No such file"):
        mtd_lens.load_checkpoint(copy)


def test_a_manifest_of_another_version(copy):
    manifest_with(checkpoints_in(copy)[-1], format=99)
    with pytest.raises(CheckpointError, match=r"has format 99; this version .* reads format 1"):
        mtd_lens.load_checkpoint(copy)


def test_a_truncated_manifest(copy):
    path = checkpoints_in(copy)[-1] / MANIFEST
    path.write_text(path.read_text()[:-40])
    with pytest.raises(CheckpointError, match="cannot be read"):
        mtd_lens.load_checkpoint(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architecture": "gpt"}, "do not both have"),
        ({"n_layers": 2}, "do not both have"),
        ({"d_model": 32}, r"has shape \(.*64.*\)"),
        ({"architecture": "mamba"}, "unknown architecture"),
    ],
)
def test_a_manifest_of_another_architecture(copy, change, message):
    folder = checkpoints_in(copy)[-1]
    config = json.loads((folder / MANIFEST).read_text())["config"]
    manifest_with(folder, config=config | change)
    with pytest.raises(CheckpointError, match=message):
        mtd_lens.load_checkpoint(copy)


def test_a_manifest_of_another_task(copy):
    folder = checkpoints_in(copy)[-1]
    manifest_with(folder, task=mtd_lens.load_task("mtd-q5-m3-t32").to_json())
    with pytest.raises(CheckpointError, match="has shape"):
        mtd_lens.load_checkpoint(copy)
    manifest_with(folder, task={"family": "chess"})
    with pytest.raises(CheckpointError, match="family 'chess', which is not installed"):
        mtd_lens.load_checkpoint(copy)


def test_a_task_of_another_vocabulary(run):
    model = mtd_lens.load_checkpoint(run)
    with pytest.raises(mtd_lens.ModelError, match="the task has 5 tokens, but the model reads 3"):
        mtd_lens.score(model, task="mtd-q5-m3-t32")


def test_folders_without_a_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="there is no folder"):
        mtd_lens.load_checkpoint(tmp_path / "none")
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        mtd_lens.load_checkpoint(tmp_path)


def test_a_damaged_last_checkpoint_stops_a_resume_with_what_to_do(copy):
    last = checkpoints_in(copy)[-1]
    (last / "state.safetensors").write_bytes(b"x")
    run, config = read_run(copy)
    task = mtd_lens.MTDTask.from_json(run["task"])
    with pytest.raises(CheckpointError, match=rf"{last.name}.*truncated or changed"):
        train(task, config, copy, resume=True)
    shutil.rmtree(last)  # as the message says, use another one
    assert train(task, config, copy, resume=True).step == 20


def test_a_checkpoint_of_another_run_is_not_resumed(copy):
    last = checkpoints_in(copy)[-1]
    found, config = read_run(copy)
    task = mtd_lens.MTDTask.from_json(found["task"])
    manifest = json.loads((last / MANIFEST).read_text())
    manifest_with(last, config=manifest["config"] | {"seed": 9})
    with pytest.raises(CheckpointError, match=r"not a checkpoint of this run: config\.seed differ"):
        train(task, config, copy, resume=True)
    manifest_with(last, config=manifest["config"], step=10)
    with pytest.raises(CheckpointError, match="not a checkpoint of this run: its step is 10"):
        train(task, config, copy, resume=True)


@pytest.mark.parametrize(
    "change",
    [{"config": None}, {"config": []}, {"task": "mtd"}, {"sha256": None}, {"step": "a"}],
)
def test_a_manifest_with_fields_of_another_kind(copy, change):
    manifest_with(checkpoints_in(copy)[-1], **change)
    with pytest.raises(CheckpointError, match=f"lacks {next(iter(change))}, or holds something"):
        mtd_lens.load_checkpoint(copy)


def test_a_manifest_without_a_setting_or_a_task_that_cannot_be(copy):
    folder = checkpoints_in(copy)[-1]
    manifest = json.loads((folder / MANIFEST).read_text())
    config = {name: v for name, v in manifest["config"].items() if name != "n_layers"}
    manifest_with(folder, config=config)
    with pytest.raises(CheckpointError, match="the manifest lacks 'n_layers'"):
        mtd_lens.load_checkpoint(copy)
    manifest_with(folder, config=manifest["config"], task=manifest["task"] | {"order": 0})
    with pytest.raises(CheckpointError, match="describes no task: order must be"):
        mtd_lens.load_checkpoint(copy)


def test_lines_of_metrics_that_are_no_rows_hide_no_others(tmp_path):
    broken = b'{"step": 1, "loss": 2.0}\n[1]\n' + b"[" * 100_000 + b'\n{"step": 2}\n\xff'
    (tmp_path / "metrics.jsonl").write_bytes(broken)
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 2.0}, {"step": 2}]


def test_a_broken_line_of_metrics_does_not_take_the_others_along_on_resume(copy):
    path = copy / "metrics.jsonl"
    rows = read_metrics(copy)
    path.write_text('{"step": 5, "lo\n' + path.read_text())
    found, config = read_run(copy)
    train(mtd_lens.MTDTask.from_json(found["task"]), config, copy, resume=True)
    assert read_metrics(copy) == rows
    assert [row["step"] for row in rows] == [10, 20]


# Killed at any moment.

ARCHITECTURE = ["--arch", "disentangled", "--layers", "2", "--batch-size", "16", "--seed", "5"]
SCHEDULE = ["--steps", "1200", "--checkpoint-every", "50", "--learning-rate", "0.01"]
COMMAND = ["train", "mtd-q3-m2-t32", *ARCHITECTURE, *SCHEDULE]


def start(*arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "mtd_lens", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment,
    )


def finish(process):
    error = process.communicate(timeout=300)[1].decode()
    assert process.returncode == 0, error


@pytest.mark.slow
def test_killed_three_times_and_resumed_ends_the_same(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(*COMMAND, "--out", str(whole)))
    seconds = read_metrics(whole)[-1]["seconds"]
    random = np.random.default_rng()
    process = start(*COMMAND, "--out", str(killed))
    interrupted = 0
    for fraction in sorted(random.uniform(0.05, 0.8, size=3)):
        before = len(read_metrics(killed))
        while process.poll() is None and len(read_metrics(killed)) <= before:
            time.sleep(0.01)
        time.sleep(fraction * seconds / 3)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        interrupted += process.returncode == -signal.SIGKILL
        for folder in checkpoints_in(killed):  # whatever is there is whole
            mtd_lens.load_checkpoint(folder)
        process = start("train", "--resume", str(killed))
    finish(process)
    assert interrupted == 3
    ends = [folder / "step-0001200" for folder in (whole, killed)]
    for name in (MODEL, "state.safetensors", MANIFEST):
        assert (ends[0] / name).read_bytes() == (ends[1] / name).read_bytes(), name
    rows = [
        [{k: v for k, v in row.items() if k != "seconds"} for row in read_metrics(folder)]
        for folder in (whole, killed)
    ]
    assert rows[0] == rows[1]


@pytest.mark.slow
def test_two_processes_train_one_model(tmp_path):
    """Launched as torch's launcher does; the batch is the sum of both."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--module"]
    command = [
        *launcher,
        "mtd_lens",
        *COMMAND,
        "--out",
        str(tmp_path / "run"),
        "--stop-after",
        "100",
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    manifest = json.loads((tmp_path / "run" / "step-0000100" / MANIFEST).read_text())
    assert manifest["processes"] == 2
    task = mtd_lens.load_task("mtd-q3-m2-t32")
    config = TrainingConfig(**manifest["config"])
    with pytest.raises(MTDLensError, match="processes differ"):
        train(task, config, tmp_path / "run", resume=True)


def test_commands(tmp_path, capsys):
    from mtd_lens.cli import app

    def run(*arguments):
        app(list(arguments), standalone_mode=False)
        return capsys.readouterr()

    settings = tmp_path / "settings.toml"
    settings.write_text("batch_size = 8\nevaluation_sequences = 16\nsteps = 500\n")
    small = ["--arch", "attn-only", "--layers", "1", "--checkpoint-every", "50"]
    command = ["train", "mtd-q3-m2-t32", *small, "--steps", "100", "--config", str(settings)]
    folder = str(tmp_path / "run")
    assert "step 50 " in run(*command, "--out", folder, "--stop-after", "50").out
    assert "step 100 " in run("train", "--resume", folder).out
    run("export", folder, "--out", str(tmp_path / "small"))
    assert mtd_lens.load_checkpoint(tmp_path / "small").cfg.n_layers == 1
    with pytest.raises(mtd_lens.TrainingError, match=r"either a new folder .* or a run"):
        run(*command)
    with pytest.raises(mtd_lens.TrainingError, match="needs a task"):
        run("train", "--out", str(tmp_path / "other"))
    with pytest.raises(mtd_lens.TrainingError, match="seed differ"):
        run("train", "--resume", folder, "--seed", "3")
    with pytest.raises(CheckpointError, match="no training run"):
        run("train", "--resume", str(tmp_path / "none"))
