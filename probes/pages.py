"""HTML of results: one stylesheet, light and dark, for tables in notebooks and pages of their own.

A fragment follows the notebook, or the page, that it stands in: JupyterLab, VS Code and pages whose
root says ``data-theme`` are asked first, then the reader's own preference.
"""

from collections.abc import Iterable, Sequence
from html import escape

LIGHT = """color-scheme: light; --ink: #10202c; --quiet: #44555f; --paper: #ffffff; --line: #dde4e8;
 --good: #e0eefb; --good-ink: #08407a; --good-line: #6baed6;
 --half: #f2f8fd; --half-ink: #2c5f8f; --half-line: #a9cbe4;
 --bad: #fdeadb; --bad-ink: #8a3606; --bad-line: #e6955a;
 --other: #f1f3f4; --other-ink: #44555f; --other-line: #b7c3ca;"""
DARK = """color-scheme: dark; --ink: #e7edf1; --quiet: #a9b8c1; --paper: #121212; --line: #36424a;
 --good: #0e3354; --good-ink: #a9d4f5; --good-line: #3d7fae;
 --half: #16283a; --half-ink: #94bddd; --half-line: #33546f;
 --bad: #47230b; --bad-ink: #f8bd90; --bad-line: #a35f2c;
 --other: #262b2e; --other-ink: #b4c0c7; --other-line: #4d5a62;"""

DARK_PLACES = ('[data-theme="dark"]', '[data-jp-theme-light="false"]', ".vscode-dark")
LIGHT_PLACES = ('[data-theme="light"]', '[data-jp-theme-light="true"]', ".vscode-light")


def _within(places: Iterable[str]) -> str:
    return ", ".join(f"{place} .mtd-lens" for place in places)


STYLE = (
    f"""
.mtd-lens {{ {LIGHT} }}
@media (prefers-color-scheme: dark) {{ .mtd-lens {{ {DARK} }} }}
{_within(LIGHT_PLACES)} {{ {LIGHT} }}
{_within(DARK_PLACES)} {{ {DARK} }}
"""
    + """
.mtd-lens { font: 14px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; color: var(--ink); background: var(--paper); }
.mtd-lens h1 { font-size: 20px; margin: 0 0 2px; overflow-wrap: anywhere; }
.mtd-lens h2 { font-size: 16px; margin: 28px 0 6px; }
.mtd-lens p { margin: 0 0 10px; max-width: 75ch; color: var(--quiet); overflow-wrap: anywhere; }
.mtd-lens .title { color: var(--ink); font-weight: 600; white-space: pre-wrap; }
.mtd-lens .heading { margin: 18px 0 4px; color: var(--ink); }
.mtd-lens .scroll { overflow-x: auto; max-width: 100%; }
.mtd-lens table { border-collapse: collapse; margin: 6px 0 10px; font-size: inherit; color: var(--ink); background: var(--paper); }
.mtd-lens tr { background: var(--paper); }
.mtd-lens th, .mtd-lens td { padding: 5px 10px; text-align: right; vertical-align: top; border: 0; border-bottom: 1px solid var(--line); white-space: nowrap; font-variant-numeric: tabular-nums; }
.mtd-lens th { font-weight: 600; border-bottom: 2px solid var(--other-line); }
.mtd-lens td.name, .mtd-lens th.name { text-align: left; }
.mtd-lens td.long { white-space: normal; min-width: 24ch; max-width: 75ch; }
.mtd-lens .verdict { display: inline-block; padding: 0 8px; border-radius: 9px; border: 1px solid var(--other-line); background: var(--other); color: var(--other-ink); font-size: 12.5px; white-space: nowrap; }
.mtd-lens .supported { background: var(--good); color: var(--good-ink); border-color: var(--good-line); }
.mtd-lens .partial { background: var(--half); color: var(--half-ink); border-color: var(--half-line); }
.mtd-lens .refuted, .mtd-lens .illusion_suspected, .mtd-lens .not_found { background: var(--bad); color: var(--bad-ink); border-color: var(--bad-line); }
.mtd-lens .matrix td.cell { text-align: center; min-width: 76px; border: 2px solid var(--paper); }
.mtd-lens .matrix th { text-align: center; }
.mtd-lens .matrix th.name { text-align: left; }
.mtd-lens .matrix td.chosen { outline: 3px solid #e07b00; outline-offset: -3px; font-weight: 700; }
.mtd-lens .small { font-size: 12.5px; color: var(--quiet); }
.mtd-lens b { color: var(--ink); }
.mtd-lens wbr { display: none; }
@media (max-width: 640px) { .mtd-lens wbr { display: inline; } .mtd-lens th, .mtd-lens td { padding: 5px 6px; } .mtd-lens td.name { white-space: normal; } .mtd-lens td.long { min-width: 40ch; } }
"""
)
"""Of everything within an element of the class ``mtd-lens``."""

BODY = "body { margin: 0; padding: 20px; } body > .mtd-lens { max-width: 1280px; margin: 0 auto; }"
"""Of a page of its own, which is as light or dark as what it holds."""

WRAPPED = 48
"""Characters; longer cells of text may be broken into lines."""

VERDICT = "verdict"
"""Header of the columns whose cells are marked by what they say."""


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


def verdict(name: str) -> str:
    """A verdict, marked by what it says.

    Args:
        name: Of the verdict, which may have underscores.
    """
    return f'<span class="verdict {escape(name)}">{breakable(name.replace("_", " "))}</span>'


def breakable(text: str) -> str:
    """Text whose long names may be broken after a dot or an underscore.

    Args:
        text: Not markup.
    """
    return escape(text).replace("_", "_<wbr>").replace(".", ".<wbr>")


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
        '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
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
