"""HTML of results: one stylesheet, light and dark, for tables in notebooks and pages of their own.

A fragment follows the notebook, or the page, that it stands in: JupyterLab, VS Code and pages whose
root says ``data-theme`` are asked first, then the reader's own preference.
"""

import importlib.resources
from collections.abc import Iterable, Sequence
from html import escape

from probes import files

LIGHT = """color-scheme: light; --ink: #10202c; --quiet: #44555f; --paper: #ffffff; --line: #dde4e8;
 --good: #e0eefb; --good-ink: #08407a; --good-line: #6baed6;
 --half: #f2f8fd; --half-ink: #2c5f8f; --half-line: #a9cbe4;
 --bad: #fdeadb; --bad-ink: #8a3606; --bad-line: #e6955a;
 --other: #f1f3f4; --other-ink: #44555f; --other-line: #b7c3ca;
 --deep: 0 50 120; --deep-ink: #ffffff;"""
DARK = """color-scheme: dark; --ink: #e7edf1; --quiet: #a9b8c1; --paper: #121212; --line: #36424a;
 --good: #0e3354; --good-ink: #a9d4f5; --good-line: #3d7fae;
 --half: #16283a; --half-ink: #94bddd; --half-line: #33546f;
 --bad: #47230b; --bad-ink: #f8bd90; --bad-line: #a35f2c;
 --other: #262b2e; --other-ink: #b4c0c7; --other-line: #4d5a62;
 --deep: 30 110 180; --deep-ink: #e7edf1;"""

DARK_PLACES = ('[data-theme="dark"]', '[data-jp-theme-light="false"]', ".vscode-dark")
LIGHT_PLACES = ('[data-theme="light"]', '[data-jp-theme-light="true"]', ".vscode-light")


def _within(places: Iterable[str]) -> str:
    return ", ".join(f"{place} .mtd-lens" for place in places)


STYLE = "\n".join(
    [
        f".mtd-lens {{ {LIGHT} }}",
        f"@media (prefers-color-scheme: dark) {{ .mtd-lens {{ {DARK} }} }}",
        f"{_within(LIGHT_PLACES)} {{ {LIGHT} }}",
        f"{_within(DARK_PLACES)} {{ {DARK} }}",
        (importlib.resources.files("probes") / "pages.css").read_text("utf-8"),
    ]
)
"""Of everything within an element of the class ``mtd-lens``."""

BODY = "body { margin: 0; padding: 20px; } body > .mtd-lens { max-width: 1280px; margin: 0 auto; }"
"""Of a page of its own, which is as light or dark as what it holds."""

WRAPPED = 48
"""Characters; longer cells of text may be broken into lines."""

VERDICT = "verdict"
"""Header of the columns whose cells are marked by what they say."""


class Shown:
    """What has an HTML form, ``_repr_html_``, and so a page of its own."""

    def to_html(self, path: files.StrPath | None = None) -> str:
        """A self-contained page, also written to ``path`` if one is given.

        Args:
            path: Also write it there.

        Raises:
            OutputPathError: The path cannot be written to, or ends in neither ``.html`` nor
                ``.htm``.
        """
        target = None if path is None else files.check_page_path(path)
        text = page(self._page_title(), self._repr_html_())
        if target is not None:
            files.write_text(target, text)
        return text

    def _page_title(self) -> str:
        raise NotImplementedError

    def _repr_html_(self) -> str:
        raise NotImplementedError


def table(
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    left: Sequence[int] = (0,),
    title: str = "",
) -> str:
    """A table, its cells shown as they are: nothing in them is markup.

    Args:
        header: Of the columns.
        rows: Their cells.
        left: Which columns are flush left.
        title: Above it, unless empty.
    """
    heads = "".join(
        f"<th{_named(index in left)}>{escape(name)}</th>" for index, name in enumerate(header)
    )
    body = "\n".join(
        f"<tr>{''.join(_cell(header[i], cell, i in left) for i, cell in enumerate(row))}</tr>"
        for row in rows
    )
    above = f'<p class="heading">{escape(title)}</p>\n' if title else ""
    return (
        f'{above}<div class="scroll"><table>\n<thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def verdict(name: str, words: str = "") -> str:
    """A verdict, marked by what it says.

    Args:
        name: Of the verdict, which may have underscores.
        words: To be shown in place of the name.
    """
    shown = words or name.replace("_", " ")
    return f'<span class="verdict {escape(name)}">{escape(shown)}</span>'


def breakable(text: str) -> str:
    """Text whose long names may be broken after a dot or an underscore.

    Args:
        text: Not markup.
    """
    return escape(text).replace("_", "_<wbr>").replace(".", ".<wbr>")


def folded(summary: str, body: str) -> str:
    """What a reader may unfold.

    Args:
        summary: What is seen of it, in words.
        body: The markup.
    """
    return f"<details>\n<summary>{escape(summary)}</summary>\n{body}\n</details>"


def fragment(body: str) -> str:
    """What a notebook shows: some markup, in the one style.

    Args:
        body: The markup.
    """
    return f'<div class="mtd-lens">\n<style>{STYLE}</style>\n{body}\n</div>'


def page(title: str, body: str) -> str:
    """A page that needs nothing else.

    Args:
        title: In words.
        body: What ``fragment`` returned.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{BODY}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _cell(name: str, cell: str, left: bool) -> str:
    if name == VERDICT:
        return f'<td class="name">{verdict(cell)}</td>'
    if not left:
        return f"<td>{escape(cell)}</td>"
    if len(cell) > WRAPPED and " " in cell:
        return f'<td class="name long">{escape(cell)}</td>'
    return f'<td class="name">{breakable(cell)}</td>'


def _named(left: bool) -> str:
    return ' class="name"' if left else ""
