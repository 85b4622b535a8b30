"""Checkpoints: a folder with weights in safetensors and a JSON manifest, whole or not there at all.

The manifest names the format, the task, the training configuration, the step, the versions, and the
SHA-256 of every other file. Nothing is unpickled.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import torch
from torch import Tensor

from mtd_lens.architectures import Trainable, build_trainable, size_for
from mtd_lens.errors import ArgumentError, CheckpointError, ModelError, OutputPathError
from probes import files
from probes.errors import InputPathError

if TYPE_CHECKING:
    import mtd_lens.contracts

FORMAT = 1
MAX_HEADER_BYTES = 2**24
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}
"""What weights may be, by the names that safetensors has for them."""
MANIFEST = "manifest.json"
MODEL = "model.safetensors"
STATE = "state.safetensors"
STEP_PREFIX = "step-"
TEMPORARY, REMOVED = ".mtd-lens-", ".removed-"
"""What names of unfinished and of doomed checkpoints begin with."""


def save_checkpoint(
    folder: Path,
    manifest: Mapping[str, Any],
    tensors: Mapping[str, Mapping[str, Tensor]],
    texts: Mapping[str, str] | None = None,
) -> Path:
    """Write a checkpoint: into a temporary folder beside it, which is then renamed.

    Args:
        folder: Must not exist yet; its parent must.
        manifest: Plain data; format and hashes are added.
        tensors: By file name, the tensors of each file by name.
        texts: By file name, further text files.

    Raises:
        OutputPathError: It could not be written (a full disk, permissions); nothing is left of it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    temporary = None
    try:
        temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=TEMPORARY))
        hashes = {}
        for name, values in tensors.items():
            path = temporary / name
            save_file({k: v.detach().cpu().contiguous() for k, v in values.items()}, path)
            hashes[name] = _sha256(path)
            _sync(path)
        for name, content in (texts or {}).items():
            (temporary / name).write_text(content, encoding="utf-8")
            hashes[name] = _sha256(temporary / name)
            _sync(temporary / name)
        text = json.dumps({"format": FORMAT, **manifest, "sha256": hashes}, indent=2)
        (temporary / MANIFEST).write_text(text + "\n", encoding="utf-8")
        _sync(temporary / MANIFEST)
        _sync_folder(temporary)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        temporary.rename(folder)
        _sync_folder(folder.parent)
    except (OSError, SafetensorError) as error:
        raise OutputPathError(
            f"writing the checkpoint {folder} failed: {files.reason_of(error)}. "
            "Earlier checkpoints are unchanged. Free some space or choose another folder, then "
            "resume."
        ) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder


def read_manifest(folder: Path) -> dict[str, Any]:
    """A checkpoint's manifest, after checking its form.

    Raises:
        CheckpointError: No manifest, or one that is truncated or of another format.
    """
    path = folder / MANIFEST
    try:
        manifest, _ = files.read_json(path)
    except InputPathError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise CheckpointError(
                f"{folder} holds no checkpoint: there is no {MANIFEST}. Give the folder of a "
                "checkpoint or of a training run."
            ) from error
        raise CheckpointError(f"{error} Use another checkpoint of the run.") from error
    if "format" not in manifest:
        raise CheckpointError(f"{path} is no checkpoint's manifest: it names no format.")
    if manifest["format"] != FORMAT:
        raise CheckpointError(
            f"{path} has format {manifest['format']!r}; this version of mtd-lens reads format "
            f"{FORMAT}. Use the version that wrote it: {manifest.get('versions')}."
        )
    kinds = {"task": dict, "config": dict, "step": int, "sha256": dict}
    wrong = [name for name, kind in kinds.items() if not isinstance(manifest.get(name), kind)]
    if wrong:
        raise CheckpointError(
            f"{path} lacks {', '.join(wrong)}, or holds something else there. Use another "
            "checkpoint."
        )
    return manifest


def read_tensors(
    folder: Path,
    manifest: Mapping[str, Any],
    name: str,
    expected: Mapping[str, Tensor],
    *,
    any_dtype: bool = False,
) -> dict[str, Tensor]:
    """The tensors of one file of a checkpoint, after checking what it says of them and its hash.

    No more of the file is read than the expected tensors take, and none of it before its header
    has been found to describe them.

    Args:
        folder: Of the checkpoint.
        manifest: Of the checkpoint.
        name: Of the file.
        expected: Tensors of the names, shapes and dtypes that it must hold; they may be without
            values, on the device ``"meta"``.
        any_dtype: The tensors may have another floating-point dtype, one for all.

    Raises:
        CheckpointError: The file is missing, truncated, not the one that the manifest names, or
            holds other tensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = folder / name
    try:
        with files.open_regular(path) as file:
            size = _checked_size(file, expected, any_dtype)
            file.seek(0)
            data = file.read(size + 1)
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {files.reason_of(error)}. Use another checkpoint of the run."
        ) from error
    except ValueError as error:
        raise CheckpointError(
            f"{path} does not hold what {MANIFEST} describes: {error}. It was truncated or "
            "changed; use another checkpoint of the run."
        ) from error
    found, named = hashlib.sha256(data).hexdigest(), manifest["sha256"].get(name)
    if found != named:
        raise CheckpointError(
            f"{path} is not the file that {MANIFEST} names: its SHA-256 is {found[:12]}…, expected "
            f"{str(named)[:12]}…. It was truncated or changed; use another checkpoint."
        )
    try:
        return load(data)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is no safetensors file: {error}.") from error


def _checked_size(file: BinaryIO, expected: Mapping[str, Tensor], any_dtype: bool) -> int:
    """How many bytes a safetensors file has, if its header describes the expected tensors.

    Raises:
        ValueError: It describes others, or is no header.
    """
    length = int.from_bytes(file.read(8), "little")
    if length > MAX_HEADER_BYTES:
        raise ValueError("it does not begin with the header of a safetensors file")
    try:
        header = dict(files.parsed_json(file.read(length)))
        header.pop("__metadata__", None)
        found = {
            name: (DTYPES.get(str(entry["dtype"])), tuple(entry["shape"]))
            for name, entry in header.items()
        }
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"its header cannot be read: {error}") from error
    wrong = sorted(set(found) ^ set(expected))
    if wrong:
        raise ValueError(f"the architecture and the file do not both have {wrong[0]}")
    size, dtypes = 8 + length, {dtype for dtype, _ in found.values()}
    for name, like in expected.items():
        dtype, shape = found[name]
        if shape != tuple(like.shape):
            raise ValueError(f"{name} has shape {shape!r:.60}; it should have {tuple(like.shape)}")
        if dtype is None or (len(dtypes) > 1 if any_dtype else dtype != like.dtype):
            wanted = f"one of {', '.join(DTYPES)} for all" if any_dtype else like.dtype
            raise ValueError(f"{name} is {header[name]['dtype']!r:.60}; it should be {wanted}")
        size += like.numel() * dtype.itemsize
    return size


def read_trained(
    folder: Path, manifest: Mapping[str, Any], task: "mtd_lens.contracts.Task"
) -> Trainable:
    """The trained weights of a checkpoint, of which nothing is built before its files are checked.

    Args:
        folder: Of the checkpoint.
        manifest: Of the checkpoint.
        task: That of the manifest.

    Raises:
        CheckpointError: The weights are missing, damaged, or not those of the architecture that the
            manifest names; or it names none.
    """
    config = manifest["config"]
    try:
        size = size_for(task, config["n_layers"], config["d_model"], config["n_heads"])
        trained = build_trainable(config["architecture"], size, seed=None)
        shapes = dict(trained.named_parameters())
        trained.load(read_tensors(folder, manifest, MODEL, shapes, any_dtype=True))
    except (ArgumentError, ModelError, KeyError) as error:
        reason = f"the manifest lacks {error}." if isinstance(error, KeyError) else error
        raise CheckpointError(
            f"the checkpoint {folder} cannot be loaded: {reason} Its manifest and its weights do "
            "not belong together; use another checkpoint."
        ) from error
    return trained


def folder_name(step: int) -> str:
    """Of the checkpoint after a step."""
    return f"{STEP_PREFIX}{step:07d}"


def checkpoints_in(run: Path) -> list[Path]:
    """The checkpoints of a training run, by step."""
    steps = {p: p.name.removeprefix(STEP_PREFIX) for p in run.glob(f"{STEP_PREFIX}*")}
    named = [path for path, step in steps.items() if step.isascii() and step.isdigit()]
    return sorted(named, key=lambda path: int(steps[path]))


def checkpoint_folder(path: str | os.PathLike[str]) -> Path:
    """``path`` itself if it is a checkpoint, else the last checkpoint of the run that it is.

    Raises:
        CheckpointError: It is neither.
    """
    folder = files.checked_path(path, CheckpointError, "{} cannot be loaded")
    if not folder.is_dir():
        raise CheckpointError(
            f"there is no folder {folder}. Give a checkpoint's or a run's folder."
        )
    if (folder / MANIFEST).exists():
        return folder
    found = checkpoints_in(folder)
    if not found:
        raise CheckpointError(
            f"{folder} holds no checkpoint: neither {MANIFEST} nor folders {STEP_PREFIX}…. "
            "Give the folder of a checkpoint or of a training run."
        )
    return found[-1]


def remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint; it is renamed first, so that no half of it is ever taken for one."""
    going = folder.with_name(f"{REMOVED}{folder.name}")
    shutil.rmtree(going, ignore_errors=True)
    folder.rename(going)
    shutil.rmtree(going)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _sync(path: Path, access: int = os.O_RDWR) -> None:
    descriptor = os.open(path, access)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    """As far as the system can: not all let a folder be opened."""
    with contextlib.suppress(OSError):
        _sync(path, os.O_RDONLY)
