"""The folder of a training run: what run it is, its metrics, and its checkpoints.

``run.json`` says what makes the run the run that it is; ``metrics.jsonl`` has one row of figures a
line; ``step-…`` are the checkpoints.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mtd_lens import checkpoints, render
from mtd_lens.errors import CheckpointError, OutputPathError, TrainingError
from mtd_lens.training_config import BOOKKEEPING, TrainingConfig

RUN, METRICS = "run.json", "metrics.jsonl"


def describe_run(task: Any, config: TrainingConfig, n_processes: int) -> dict[str, Any]:
    """What makes a run the run that it is, as plain data."""
    return {"task": task.to_json(), "config": config.to_json(), "processes": n_processes}


def read_run(folder: Any) -> tuple[dict[str, Any], TrainingConfig]:
    """The description of the run in a folder, and its configuration.

    Raises:
        CheckpointError: There is none, or it cannot be read.
    """
    path = Path(folder) / RUN
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found, TrainingConfig(**found["config"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{folder} holds no training run that can be resumed: {RUN} cannot be used ({error}). "
            "Give the folder that a run was written to."
        ) from error


def start_run(folder: Path, description: Mapping[str, Any]) -> None:
    """Make the folder of a new run.

    Raises:
        TrainingError: There is something in it already.
        OutputPathError: It cannot be made.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        there = "a run already" if (folder / RUN).exists() else "other files"
        raise TrainingError(
            f"{folder} holds {there}. Use a new folder, or go on with a run (--resume DIR)."
        )
    render.make_folder(folder)
    render.json_text(description, folder / RUN)


def check_same_run(folder: Path, description: Mapping[str, Any]) -> None:
    """Raise a TrainingError if the run in a folder is another one."""
    there, here = (dict(_leaves(run)) for run in (read_run(folder)[0], description))
    different = sorted(
        name for name in there.keys() | here.keys() if there.get(name) != here.get(name)
    )
    different = [name for name in different if name.removeprefix("config.") not in BOOKKEEPING]
    if different:
        name = different[0]
        raise TrainingError(
            f"{folder} holds another run: {', '.join(different)} differ ({name} is "
            f"{there.get(name)!r} there, {here.get(name)!r} here). Leave the settings out to "
            "resume with the run's own, or train into a new folder."
        )


def _leaves(description: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in description.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{name}", entry) for name, entry in value.items())
        else:
            yield key, value


def tidy_run(folder: Path, step: int) -> None:
    """Remove what an interrupted run left unfinished, and metrics of steps after ``step``."""
    for pattern in (".mtd-lens-*", ".removed-*"):
        for path in folder.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    kept = [row for row in read_metrics(folder) if row["step"] <= step]
    render.write_text(folder / METRICS, "".join(json.dumps(row) + "\n" for row in kept))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics; a last line that was cut off is left out."""
    path = folder / METRICS
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def append_metrics(folder: Path, row: Mapping[str, Any]) -> None:
    """Add a row to a run's metrics.

    Raises:
        OutputPathError: It could not be written.
    """
    try:
        with (folder / METRICS).open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
    except OSError as error:
        raise OutputPathError(
            f"writing {folder / METRICS} failed: {error.strerror or error}. The checkpoints are "
            "unchanged; resume the run once there is space."
        ) from error


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Remove all but the last ``keep`` checkpoints; 0 keeps all."""
    if keep:
        for old in checkpoints.checkpoints_in(folder)[:-keep]:
            checkpoints.remove_checkpoint(old)


def export_checkpoint(path: Any, out: Any) -> Path:
    """Copy a checkpoint without what only training needs, with the metrics up to its step.

    Args:
        path: A checkpoint's folder, or that of a training run, whose last checkpoint is taken.
        out: A new folder.

    Raises:
        CheckpointError: The checkpoint is missing or damaged.
        OutputPathError: The folder exists, or cannot be written.
    """
    source, target = checkpoints.checkpoint_folder(path), Path(out)
    manifest = checkpoints.read_manifest(source)
    weights = checkpoints.read_tensors(source, manifest, checkpoints.MODEL)
    if target.exists() or not target.absolute().parent.is_dir():
        problem = "it is there already" if target.exists() else f"there is no {target.parent}"
        raise OutputPathError(f"cannot write {target}: {problem}. Give a new folder.")
    kept = {key: value for key, value in manifest.items() if key not in ("format", "sha256")}
    folder = source if (source / METRICS).exists() else source.parent
    rows = [row for row in read_metrics(folder) if row["step"] <= manifest["step"]]
    checkpoints.save_checkpoint(target, kept, {checkpoints.MODEL: weights})
    render.write_text(target / METRICS, "".join(json.dumps(row) + "\n" for row in rows))
    return target
