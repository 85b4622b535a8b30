"""Writing results: text, JSON and figures in files that are never half-written."""

import io
import json
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from probes import checks
from probes.errors import OutputPathError, ProbesError

if TYPE_CHECKING:
    import matplotlib.figure

StrPath = str | os.PathLike[str]

FIGURE_FORMATS = (".png", ".svg")
DOTS_PER_INCH = 200

_PREFIX = ".mtd-lens-"


def path_of(path: object, what: str, error: type[ProbesError]) -> Path:
    """A path as a Path, whether or not anything is there.

    Raises:
        error: No path, or one that no file can have.
    """
    try:
        found = Path(path)  # type: ignore[arg-type]
        os.lstat(found)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass
    except (TypeError, ValueError, OSError) as problem:
        raise error(f"{checks.shown(path)} cannot be {what}: {problem}.") from problem
    return found


def check_output_path(path: StrPath) -> Path:
    """The path with links resolved, after checking that a file can be written there.

    Raises:
        OutputPathError: Its folder is missing or cannot be written to, or it is a folder.
    """
    try:
        target = Path(path).resolve()
        folder = target.parent
        if not folder.is_dir():
            raise OutputPathError(
                f"cannot write {target}: there is no folder {folder}. Create it first."
            )
        if target.is_dir():
            raise OutputPathError(f"cannot write {target}: it is a folder. Give a file name.")
        if _replaceable(target):
            with tempfile.NamedTemporaryFile(dir=folder, prefix=_PREFIX):
                pass
    except (OSError, TypeError, ValueError) as error:
        if isinstance(error, OutputPathError):
            raise
        raise OutputPathError(
            f"cannot write {str(path)!r}: {getattr(error, 'strerror', None) or error}. Choose "
            "another path, or change the folder's permissions."
        ) from error
    return target


def check_output_paths(*paths: StrPath | None) -> None:
    """Check several outputs of one run; None stands for one that is not wanted.

    Raises:
        OutputPathError: One cannot be written, or two are the same file.
    """
    targets = [check_output_path(path) for path in paths if path is not None]
    if len(set(targets)) < len(targets):
        raise OutputPathError(f"two outputs have the same path, {targets[0]}. Give them two names.")


def write_text(path: StrPath, text: str) -> Path:
    """Write a text file, UTF-8; see ``write_bytes``."""
    return write_bytes(path, text.encode("utf-8"))


def write_bytes(path: StrPath, content: bytes) -> Path:
    """Write a file whole or not at all: to a temporary file beside it, then renamed.

    An existing file keeps its permissions. What is no regular file (a terminal, a pipe) is written
    to directly.

    Raises:
        OutputPathError: The path cannot be written to.
    """
    target = check_output_path(path)
    try:
        if not _replaceable(target):
            target.write_bytes(content)
            return target
        _write_and_rename(target, content)
    except OSError as error:
        raise OutputPathError(
            f"writing {target} failed: {error.strerror or error}. What was there is unchanged."
        ) from error
    return target


def check_figure_path(path: StrPath, error: type[ProbesError] = OutputPathError) -> Path:
    """The path with links resolved, after checking that a figure can be written there.

    Raises:
        OutputPathError: As ``check_output_path``.
        error: It ends in neither ``.png`` nor ``.svg``.
    """
    target = check_output_path(path)
    if target.suffix.lower() not in FIGURE_FORMATS:
        raise error(
            f"a figure is written as {' or '.join(FIGURE_FORMATS)}; got {Path(path).name!r}. "
            "Change its ending."
        )
    return target


def write_figure(figure: "matplotlib.figure.Figure", path: StrPath) -> Path:
    """Write a matplotlib figure as PNG or SVG, by the path's ending; see ``write_bytes``.

    Raises:
        OutputPathError: Another ending, or the path cannot be written to.
    """
    target = check_figure_path(path)
    kind = target.suffix.lower()[1:]
    content = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else None
    figure.savefig(content, format=kind, dpi=DOTS_PER_INCH, metadata=metadata)
    return write_bytes(target, content.getvalue())


def make_folder(path: Path) -> None:
    """Make a folder, and those above it.

    Raises:
        OutputPathError: It cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputPathError(
            f"cannot make the folder {path}: {error.strerror or error}. Choose another one."
        ) from error


def json_text(data: object, path: StrPath | None = None, indent: int | None = 2) -> str:
    """Plain data as JSON text, also written to ``path`` if one is given."""
    text = json.dumps(data, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
    if path is not None:
        write_text(path, text)
    return text


def _replaceable(target: Path) -> bool:
    return target.is_file() or not target.exists()


def _write_and_rename(target: Path, content: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=_PREFIX)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        mode = target.stat().st_mode & 0o7777 if target.exists() else 0o666 & ~umask
        os.chmod(temporary, mode)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
