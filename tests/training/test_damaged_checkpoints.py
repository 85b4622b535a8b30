"""Checkpoints whose files are not what they say: checked before they are believed."""

import hashlib
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

import mtd_lens
from mtd_lens import CheckpointError, TrainingConfig, train
from mtd_lens.checkpoints import MANIFEST, MODEL, STATE, checkpoints_in
from mtd_lens.training.run_folder import read_run

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


def rewritten(copy, name, tensors):
    """A file of the last checkpoint, with a hash in the manifest that is right."""
    folder = checkpoints_in(copy)[-1]
    save_file(tensors, folder / name)
    hashed(folder, name)


def hashed(folder, name):
    hashes = json.loads((folder / MANIFEST).read_text())["sha256"]
    hashes[name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    manifest_with(folder, sha256=hashes)


def resumed(copy):
    found, config = read_run(copy)
    return train(mtd_lens.MTDTask.from_json(found["task"]), config, copy, resume=True)


SPOILT_STATES = {
    "half": (lambda name, x: x.half(), "is 'F16'; it should be torch.float32"),
    "integer": (lambda name, x: x.long(), "is 'I64'; it should be torch.float32"),
    "double": (lambda name, x: x.double(), "is 'F64'; it should be torch.float32"),
    "steps": (
        lambda name, x: x.expand(3).clone() if name.endswith("/step") else x,
        r"/step has shape \(3,\); it should have \(\)",
    ),
    "moments": (
        lambda name, x: x[:1].clone() if name == "unembed.W_U/exp_avg" else x,
        r"exp_avg has shape \(1, 3\); it should have \(64, 3\)",
    ),
    "not finite": (lambda name, x: x * torch.nan, "is not finite"),
    "another step": (
        lambda name, x: x * 0 + 1 if name.endswith("/step") else x,
        r"/step is not what AdamW holds after step",
    ),
    "negative squares": (
        lambda name, x: -x - 1 if name.endswith("/exp_avg_sq") else x,
        r"/exp_avg_sq is not what AdamW holds after step",
    ),
}


@pytest.mark.parametrize("spoilt", SPOILT_STATES)
def test_an_optimiser_state_that_adamw_would_not_hold_is_not_resumed(copy, spoilt):
    change, message = SPOILT_STATES[spoilt]
    state = load_file(checkpoints_in(copy)[-1] / STATE)
    rewritten(copy, STATE, {name: change(name, value) for name, value in state.items()})
    with pytest.raises(CheckpointError, match=message):
        resumed(copy)


def test_an_empty_folder_of_a_later_step_is_to_be_removed(copy):
    (copy / "step-9999999").mkdir()
    with pytest.raises(CheckpointError, match=r"step-9999999.* Remove it to resume from"):
        resumed(copy)


def test_losses_that_are_no_list_are_said(copy):
    manifest_with(checkpoints_in(copy)[-1], losses=None)
    with pytest.raises(CheckpointError, match="losses must be a list of numbers; got None"):
        resumed(copy)


def test_an_optimiser_state_with_other_names_is_not_resumed(copy):
    state = load_file(checkpoints_in(copy)[-1] / STATE)
    rewritten(copy, STATE, state | {"extra/step": torch.zeros(())})
    with pytest.raises(CheckpointError, match="do not both have extra/step"):
        resumed(copy)
    rewritten(copy, STATE, {name: x for name, x in state.items() if name != "pos_embed.W_pos/step"})
    with pytest.raises(CheckpointError, match=r"do not both have pos_embed\.W_pos/step"):
        resumed(copy)


def test_weights_of_another_dtype_are_loaded_but_not_resumed(copy):
    weights = load_file(checkpoints_in(copy)[-1] / MODEL)
    rewritten(copy, MODEL, {name: value.half() for name, value in weights.items()})
    assert mtd_lens.load_checkpoint(copy).cfg.dtype == torch.float16
    with pytest.raises(CheckpointError, match=r"is 'F16'; it should be torch\.float32"):
        resumed(copy)
    rewritten(copy, MODEL, weights | {"unembed.b_U": weights["unembed.b_U"].half()})
    with pytest.raises(CheckpointError, match="should be one of F64, F32, BF16, F16 for all"):
        mtd_lens.load_checkpoint(copy)


@pytest.mark.parametrize("losses", [3, ["a"], [float("nan")]])
def test_losses_that_are_none_are_not_resumed(copy, losses):
    manifest_with(checkpoints_in(copy)[-1], losses=losses)
    with pytest.raises(CheckpointError, match="cannot be resumed"):
        resumed(copy)


def test_sizes_in_a_manifest_are_not_built_before_they_are_checked(copy):
    folder = checkpoints_in(copy)[-1]
    config = json.loads((folder / MANIFEST).read_text())["config"]
    manifest_with(folder, config=config | {"d_model": 2**20})  # a terabyte
    with pytest.raises(CheckpointError, match=r"has shape \(3, 64\); it should have \(3, 1048576"):
        mtd_lens.load_checkpoint(copy)
    manifest_with(folder, config=config | {"d_model": 10**9})
    with pytest.raises(CheckpointError, match="d_model must be an integer from 1 to 1048576"):
        mtd_lens.load_checkpoint(copy)


@pytest.mark.parametrize("dtype", ["F4", "F8_E8M0", "F8_E4M3", "I32", "BOOL", "C64", ["F32"], None])
def test_dtypes_that_weights_cannot_have(copy, dtype):
    path = checkpoints_in(copy)[-1] / MODEL
    data = path.read_bytes()
    end = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:end])
    header["embed.W_E"]["dtype"] = dtype
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[end:])
    hashed(path.parent, MODEL)
    with pytest.raises(CheckpointError, match=r"embed\.W_E is .*should be one of F64, F32"):
        mtd_lens.load_checkpoint(copy)


@pytest.mark.parametrize(
    "start", [b"", b"x", b"\xff" * 20, (4).to_bytes(8, "little") + b"[[[[", b"\0" * 100]
)
def test_what_does_not_begin_like_safetensors(copy, start):
    path = checkpoints_in(copy)[-1] / MODEL
    path.write_bytes(start)
    hashed(path.parent, MODEL)
    with pytest.raises(CheckpointError, match=r"header.*truncated or changed"):
        mtd_lens.load_checkpoint(copy)


@pytest.mark.parametrize("name", [MODEL, MANIFEST, STATE])
def test_no_more_is_read_than_belongs_there(copy, name):
    path = checkpoints_in(copy)[-1] / name
    os.truncate(path, 50 * 2**30)  # sparse
    with pytest.raises(CheckpointError, match=r"53,687,091,200 bytes, more than|not the file that"):
        resumed(copy)


def test_other_names_that_begin_like_steps_are_no_checkpoints(copy):
    there = checkpoints_in(copy)
    for name in ("step-²", "step-", "step-12a", "step--3"):
        (copy / name).mkdir()
    assert checkpoints_in(copy) == there
    mtd_lens.load_checkpoint(copy)


def test_folders_that_cannot_be_opened_are_not_synced(task, tmp_path, monkeypatch):
    """As on Windows."""
    opened = os.open

    def refuse(path, *arguments, **named):
        if os.path.isdir(path):
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments, **named)

    monkeypatch.setattr(os, "open", refuse)
    assert train(task, TrainingConfig(**SETTINGS), tmp_path / "run").step == 20
