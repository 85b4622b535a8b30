"""Writing results: plain-text tables, HTML pages, and the files they go to."""

import io
from collections.abc import Iterable, Sequence
from typing import Any

from probes.files import (
    check_output_path,
    check_output_paths,
    json_text,
    make_folder,
    write_bytes,
    write_text,
)

__all__ = [
    "check_output_path",
    "check_output_paths",
    "html",
    "json_text",
    "make_folder",
    "text_table",
    "write_bytes",
    "write_text",
]

MAX_TABLE_WIDTH = 1000
"""Characters; tables are as wide as what they hold, and cut off beyond this."""


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
    console = Console(
        file=io.StringIO(), width=MAX_TABLE_WIDTH, color_system=None, legacy_windows=False
    )
    console.print(table)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return "\n".join(line.rstrip() for line in lines if line.strip())


def html(template: str, **values: Any) -> str:
    """A page or fragment from ``mtd_lens/views/templates``, with every value escaped."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("mtd_lens", "views/templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
