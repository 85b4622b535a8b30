"""The folder of a training run: what run it is, its metrics, and its checkpoints.

``run.json`` says what makes the run the run that it is; ``metrics.jsonl`` has one row of figures a
line; ``step-…`` are the checkpoints.
"""

import contextlib
import json
import os
import shlex
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mtd_lens import checkpoints
from mtd_lens.checkpoints import TEMPORARY
from mtd_lens.contracts import Task
from mtd_lens.errors import CheckpointError, OutputPathError, TrainingError
from mtd_lens.registry import task_from_json
from mtd_lens.training.config import BOOKKEEPING, TrainingConfig
from probes import files
from probes.errors import InputPathError

try:
    import fcntl
except ImportError:  # pragma: no cover (not on POSIX)
    fcntl = None  # type: ignore[assignment]

RUN, METRICS, TENSORBOARD = "run.json", "metrics.jsonl", "tensorboard"


def describe_run(task: Task, config: TrainingConfig, n_processes: int) -> dict[str, Any]:
    """What makes a run the run that it is, as plain data."""
    return {"task": task.to_json(), "config": config.to_json(), "processes": n_processes}


def read_run(folder: str | os.PathLike[str]) -> tuple[dict[str, Any], TrainingConfig]:
    """The description of the run in a folder, and its configuration.

    Raises:
        CheckpointError: There is none, or it cannot be read.
    """
    path = files.checked_path(folder, CheckpointError, "{} cannot be resumed") / RUN
    try:
        found, _ = files.read_json(path)
        if not isinstance(found["task"], dict):
            raise TypeError("it names no task")
        return found, TrainingConfig(**found["config"])
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{folder} holds no training run that can be resumed: {RUN} cannot be used ({error}). "
            "Give the folder that a run was written to."
        ) from error


def start_run(folder: Path, description: Mapping[str, Any]) -> bool:
    """Make the folder of a new run; returns whether it was not there, not even empty.

    Raises:
        TrainingError: There is something in it already.
        OutputPathError: It cannot be made.
    """
    if folder.is_file():
        raise TrainingError(f"{folder} is a file, and a run is a folder. Give a new folder.")
    if folder.exists() and (not folder.is_dir() or any(map(_is_content, folder.iterdir()))):
        there = "a run already" if (folder / RUN).exists() else "other files"
        raise TrainingError(
            f"{folder} holds {there}. Use a new folder, or go on with a run (--resume DIR)."
        )
    made = not folder.exists()
    files.make_folder(folder)
    files.json_text(description, folder / RUN)
    return made


@contextlib.contextmanager
def removed_if_empty(folder: Path, made: bool) -> Iterator[None]:
    """Take a new run away again if an error leaves nothing in it, so that another can start there.

    Args:
        folder: Of the run.
        made: The folder itself was made for it, and goes too.
    """
    try:
        yield
    except BaseException:
        if not checkpoints.checkpoints_in(folder) and not read_metrics(folder):
            shutil.rmtree(folder / TENSORBOARD, ignore_errors=True)
            for name in (METRICS, RUN):
                (folder / name).unlink(missing_ok=True)
            if made:
                with contextlib.suppress(OSError):  # something else is in it
                    folder.rmdir()
        raise


def standing(folder: Path, steps: int) -> str:
    """Where a run stands, in words."""
    found = checkpoints.checkpoints_in(folder)
    if not found:
        return f"{folder} holds no checkpoint: there is nothing to resume from"
    step = int(found[-1].name.removeprefix(checkpoints.STEP_PREFIX))
    return f"{folder} is saved up to step {step} of {steps}"


def how_to_go_on(folder: Path, steps: int) -> str:
    """Where a run stands, and the command that goes on with it if there is one."""
    there = standing(folder, steps)
    if not checkpoints.checkpoints_in(folder):
        return f"{there}."
    return f"{there}. Go on with: mtd-lens train --resume {shlex.quote(str(folder))}"


def check_same_run(folder: Path, description: Mapping[str, Any]) -> None:
    """Raise a TrainingError if the run in a folder is another one."""
    found = differences(read_run(folder)[0], description)
    if found:
        raise TrainingError(
            f"{folder} holds another run: {found}. Leave the settings out to resume with the run's "
            "own, or train into a new folder."
        )


def differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """What makes two descriptions those of different runs, in words; empty if nothing does."""
    one, two = dict(_leaves(there)), dict(_leaves(here))
    names = [
        name
        for name in two
        if one.get(name) != two[name] and name.removeprefix("config.") not in BOOKKEEPING
    ]
    if not names:
        return ""
    first = names[0]
    values = f"{first} is {one.get(first)!r} there, {two[first]!r} here"
    return f"{', '.join(sorted(names))} differ ({values})"


def last_checkpoint(folder: Path, description: Mapping[str, Any]) -> Path | None:
    """The last checkpoint of a run; None if there is none yet.

    Raises:
        CheckpointError: It is damaged, or of another run or step than its folder says.
    """
    found = checkpoints.checkpoints_in(folder)
    if not found:
        return None
    try:
        manifest = checkpoints.read_manifest(found[-1])
    except CheckpointError as error:
        raise CheckpointError(f"{error} Remove it to resume from the checkpoint before.") from error
    wrong = differences(manifest, description)
    if not wrong and checkpoints.folder_name(manifest["step"]) != found[-1].name:
        wrong = f"its step is {manifest['step']}"
    if wrong:
        raise CheckpointError(
            f"{found[-1]} is not a checkpoint of this run: {wrong}. Remove it to resume from the "
            "checkpoint before."
        )
    return found[-1]


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other processes from training into the same folder; given up when the process ends.

    Raises:
        TrainingError: Another one does.
    """
    if fcntl is None:  # pragma: no cover (not on POSIX)
        yield
        return
    with files.open_regular(folder / RUN) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise TrainingError(
                f"another process is training into {folder}. Wait for it or stop it."
            ) from error
        yield


def _is_content(path: Path) -> bool:
    """Not a temporary file of an interrupted run."""
    return not path.name.startswith(TEMPORARY)


def _leaves(description: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in description.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}.{name}", entry) for name, entry in value.items())
        else:
            yield key, value


def tidy_run(folder: Path, step: int) -> None:
    """Remove what an interrupted run left unfinished, and metrics of steps after ``step``."""
    for pattern in (f"{TEMPORARY}*", f"{checkpoints.REMOVED}*"):
        for path in folder.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
    kept = [row for row in read_metrics(folder) if row["step"] <= step]
    files.write_text(folder / METRICS, "".join(json.dumps(row) + "\n" for row in kept))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics; lines that are none, as where one was cut off, are left out.

    Raises:
        CheckpointError: They are in no regular file.
    """
    path, rows = folder / METRICS, []
    try:
        text = files.read_text(path, errors="replace") if path.exists() else ""
    except InputPathError as error:
        raise CheckpointError(f"{error} Remove it, or give the folder of another run.") from error
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            row = files.parsed_json(line)
            if isinstance(row, dict) and type(row.get("step")) is int:
                rows.append(row)
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
            try:
                checkpoints.remove_checkpoint(old)
            except OSError as error:
                warnings.warn(f"{old} could not be removed: {error.strerror}.", stacklevel=2)


def export_checkpoint(path: str | os.PathLike[str], out: str | os.PathLike[str]) -> Path:
    """Copy a checkpoint without what only training needs, with the metrics up to its step.

    Args:
        path: A checkpoint's folder, or that of a training run, whose last checkpoint is taken.
        out: A new folder.

    Returns:
        The new folder.

    Raises:
        CheckpointError: The checkpoint is missing or damaged.
        OutputPathError: The folder exists, or cannot be written.
    """
    source = checkpoints.checkpoint_folder(path)
    manifest = checkpoints.read_manifest(source)
    task = task_from_json(manifest["task"], str(source))
    trained = checkpoints.read_trained(source, manifest, task)
    target = files.checked_path(out, OutputPathError, "cannot write {}")
    if target.exists() or not target.absolute().parent.is_dir():
        problem = "it is there already. Give a new folder."
        if not target.exists():
            problem = f"there is no folder {target.parent}. Make it first."
        raise OutputPathError(f"cannot write {target}: {problem}")
    left = ("format", "sha256", "losses")
    kept = {key: value for key, value in manifest.items() if key not in left}
    folder = source if (source / METRICS).exists() else source.parent
    rows = [row for row in read_metrics(folder) if row["step"] <= manifest["step"]]
    metrics = "".join(json.dumps(row) + "\n" for row in rows)
    weights = {checkpoints.MODEL: dict(trained.named_parameters())}
    return checkpoints.save_checkpoint(target, kept, weights, {METRICS: metrics})


def diverged(folder: Path, what: str) -> TrainingError:
    """The error of a run whose numbers are finite no more."""
    kept = checkpoints.checkpoints_in(folder)
    return TrainingError(
        f"{what}. The last good checkpoint is {kept[-1] if kept else 'none'}. Start again with a "
        "lower learning_rate or clip_norm, or more warmup_steps."
    )
