"""Writing results: files that are never half-written, plain-text tables, HTML pages."""

import io
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mtd_lens.errors import OutputPathError


def check_output_path(path: str | os.PathLike[str]) -> Path:
    """The path, after checking that a file can be written there.

    Raises:
        OutputPathError: Its folder is missing or cannot be written to, or it is a folder.
    """
    target = Path(path)
    folder = target.parent
    if not folder.is_dir():
        raise OutputPathError(
            f"cannot write {target}: there is no folder {folder}. Create it first."
        )
    if target.is_dir():
        raise OutputPathError(f"cannot write {target}: it is a folder. Give a file name.")
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{target.name}."):
            pass
    except OSError as error:
        raise OutputPathError(
            f"cannot write {target}: {error.strerror}. Choose another folder, or change its "
            "permissions."
        ) from error
    return target


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write a file whole or not at all: to a temporary file beside it, then renamed."""
    target = check_output_path(path)
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return target


def text_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int] = (0,)
) -> str:
    """A plain-text table; columns in ``left`` are flush left, the others right."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for index, name in enumerate(header):
        table.add_column(name, justify="left" if index in left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = Console(file=io.StringIO(), width=200, color_system=None, legacy_windows=False)
    console.print(table)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in lines if line.strip())


def html(template: str, **values: Any) -> str:
    """A page or fragment from ``mtd_lens/templates``, with every value escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mtd_lens", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
