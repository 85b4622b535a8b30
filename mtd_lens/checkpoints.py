"""Checkpoints: a folder with weights in safetensors and a JSON manifest, whole or not there at all.

The manifest names the format, the task, the training configuration, the step, the versions, and the
SHA-256 of every other file. Nothing is unpickled.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from mtd_lens.errors import CheckpointError, OutputPathError
from probes import files

FORMAT = 1
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
        _sync(temporary)
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        temporary.rename(folder)
        _sync(folder.parent)
    except (OSError, SafetensorError) as error:
        raise OutputPathError(
            f"writing the checkpoint {folder} failed: {getattr(error, 'strerror', None) or error}. "
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
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{folder} holds no checkpoint: there is no {MANIFEST}. Give the folder of a "
            "checkpoint or of a training run."
        ) from error
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}). Use another checkpoint of the run."
        ) from error
    if not isinstance(manifest, dict) or "format" not in manifest:
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


def read_tensors(folder: Path, manifest: Mapping[str, Any], name: str) -> dict[str, Tensor]:
    """The tensors of one file of a checkpoint, after checking its hash.

    Raises:
        CheckpointError: The file is missing, truncated, or not the one that the manifest names.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = folder / name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror}. Use another checkpoint of the run."
        ) from error
    found, expected = hashlib.sha256(data).hexdigest(), manifest["sha256"].get(name)
    if found != expected:
        raise CheckpointError(
            f"{path} is not the file that {MANIFEST} names: its SHA-256 is {found[:12]}…, expected "
            f"{str(expected)[:12]}…. It was truncated or changed; use another checkpoint."
        )
    try:
        return load(data)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is no safetensors file: {error}.") from error


def folder_name(step: int) -> str:
    """Of the checkpoint after a step."""
    return f"{STEP_PREFIX}{step:07d}"


def checkpoints_in(run: Path) -> list[Path]:
    """The checkpoints of a training run, by step."""
    folders = [p for p in run.glob(f"{STEP_PREFIX}*") if p.name[len(STEP_PREFIX) :].isdigit()]
    return sorted(folders, key=lambda path: int(path.name[len(STEP_PREFIX) :]))


def checkpoint_folder(path: str | os.PathLike[str]) -> Path:
    """``path`` itself if it is a checkpoint, else the last checkpoint of the run that it is.

    Raises:
        CheckpointError: It is neither.
    """
    folder = files.path_of(path, "the folder of a checkpoint", CheckpointError)
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


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
