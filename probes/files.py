"""Files: read only where they are regular and of a size that can be, and never half-written."""

import contextlib
import io
import json
import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from probes.errors import InputPathError, OutputPathError, ProbesError, shown

if TYPE_CHECKING:
    import matplotlib.figure

StrPath = str | os.PathLike[str]

FIGURE_FORMATS = (".png", ".svg")
PAGE_FORMATS = (".html", ".htm")
DOTS_PER_INCH = 200

MAX_TEXT_BYTES = 2**31
"""Of a file that is read as text; a grid takes about 20 bytes a value."""

_PREFIX = ".mtd-lens-"


def checked_path(path: object, error: type[ProbesError], problem: str) -> Path:
    """``path``, if the system can look it up; what it names need not exist.

    Args:
        path: What was given as a path.
        error: What to raise.
        problem: What to say of it otherwise, with braces for it: ``"cannot write {}"``.

    Raises:
        error: It is no path, is too long, holds a NUL, or its links lead round in a circle.
    """
    try:
        found = Path(path)  # type: ignore[arg-type]
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found.stat()
    except (TypeError, ValueError, OSError) as reason:
        said = problem.format(named(path))
        raise error(f"{said}: {reason_of(reason)}. Give another path.") from reason
    return found


def named(path: object) -> str:
    """A path in an error message."""
    return shown(str(path), 200)


def reason_of(error: Exception) -> str:
    """Why a file cannot be read or written, without the number and the path."""
    return getattr(error, "strerror", None) or str(error)


def open_regular(path: StrPath, limit: int | None = None) -> BinaryIO:
    """A regular file, opened for reading; every reader of these packages opens files here.

    What might never end or never begin, such as a pipe or a device, is not opened.

    Args:
        path: The file.
        limit: Bytes that it may have; None for any number, of which the caller reads a part.

    Raises:
        OSError: No such file, no regular file, or a larger one.
        TypeError, ValueError: No path.
    """
    status = Path(path).stat()
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is a folder, a pipe or a device, not a regular file")
    if limit is not None and status.st_size > limit:
        raise OSError(f"it has {status.st_size:,} bytes, more than the {limit:,} that it may have")
    return open(path, "rb")


def read_text(path: StrPath, *, errors: str = "strict") -> str:
    """The text of a regular file of at most ``MAX_TEXT_BYTES``, UTF-8.

    Args:
        path: The file.
        errors: What to do with other bytes, as for ``bytes.decode``.

    Raises:
        InputPathError: It cannot be read.
    """
    try:
        return _text(path, errors)
    except (OSError, TypeError, ValueError) as error:
        raise InputPathError(f"{named(path)} cannot be read: {reason_of(error)}.") from error


def read_json(source: StrPath) -> tuple[dict[str, Any], str]:
    """The mapping in a JSON file, or in JSON text that is given itself; and where that was.

    Args:
        source: A path, or text that begins with a brace.

    Returns:
        Plain data, and in words where they came from, for errors.

    Raises:
        InputPathError: It cannot be read, or holds no mapping.
    """
    is_text = isinstance(source, str) and source.lstrip().startswith("{")
    where = "this text" if is_text else named(source)
    try:
        data = parsed_json(str(source) if is_text else _text(source))
        if not isinstance(data, dict):
            raise TypeError(f"it holds a {type(data).__name__}, not a mapping")
    except (OSError, TypeError, ValueError) as error:
        raise InputPathError(f"{where} cannot be read as JSON: {reason_of(error)}.") from error
    return data, where


def parsed_json(text: str | bytes) -> Any:
    """The plain data in JSON text.

    Raises:
        ValueError: It is no JSON, or nested deeper than can be read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def check_output_path(path: StrPath) -> Path:
    """The path with links resolved, after checking that a file can be written there.

    Raises:
        OutputPathError: Its folder is missing or cannot be written to, or it is a folder.
    """
    try:
        target = checked_path(path, OutputPathError, "cannot write {}").resolve()
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
    except OSError as error:
        raise OutputPathError(
            f"cannot write {named(path)}: {reason_of(error)}. Choose another path, or change the "
            "folder's permissions."
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
            f"writing {target} failed: {reason_of(error)}. What was there is unchanged."
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


def check_page_path(path: StrPath, error: type[ProbesError] = OutputPathError) -> Path:
    """The path with links resolved, after checking that a page can be written there.

    Raises:
        OutputPathError: As ``check_output_path``.
        error: A file that ends in neither ``.html`` nor ``.htm``, and no browser would show.
    """
    target = check_output_path(path)
    if _replaceable(target) and target.suffix.lower() not in PAGE_FORMATS:
        raise error(
            f"a page is written as {' or '.join(PAGE_FORMATS)}; got {Path(path).name!r}. "
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
            f"cannot make the folder {path}: {reason_of(error)}. Choose another one."
        ) from error


def json_text(data: object, path: StrPath | None = None, indent: int | None = 2) -> str:
    """Plain data as JSON text, also written to ``path`` if one is given."""
    text = json.dumps(data, indent=indent, ensure_ascii=False, allow_nan=False) + "\n"
    if path is not None:
        write_text(path, text)
    return text


def _text(path: StrPath, errors: str = "strict") -> str:
    with open_regular(path, MAX_TEXT_BYTES) as file:
        return file.read(MAX_TEXT_BYTES).decode("utf-8", errors)


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
