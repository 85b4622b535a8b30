"""Formulas as MathML, which browsers show without any script: a hook of mkdocs.

Notebooks have them in lines and on their own, other pages on their own alone.
"""

import html
import re
from typing import Any

from latex2mathml.converter import convert

UNTOUCHED = re.compile(r"(<(pre|code|script|style|svg)\b.*?</\2>|<[^>]*>)", re.DOTALL)
FORMULA = re.compile(r"\$\$(.+?)\$\$|\$(?! )([^$]+?)(?<! )\$", re.DOTALL)
DISPLAYED = re.compile(r"^\$\$(.+?)\$\$$", re.DOTALL | re.MULTILINE)


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The text of a page with its formulas, ``$$…$$``, converted before Markdown reads them."""
    if page.file.src_uri.endswith(".ipynb"):
        return markdown
    return DISPLAYED.sub(lambda formula: f'<div class="formula">{_mathml(formula)}</div>', markdown)


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """The HTML of a notebook with its formulas, ``$…$`` and ``$$…$$``, converted."""
    return with_mathml(content) if page.file.src_uri.endswith(".ipynb") else content


def with_mathml(content: str) -> str:
    """HTML with the formulas of its text converted; code and tags are left as they are."""
    parts, end = [], 0
    for untouched in UNTOUCHED.finditer(content):
        parts += [FORMULA.sub(_mathml, content[end : untouched.start()]), untouched[0]]
        end = untouched.end()
    return "".join([*parts, FORMULA.sub(_mathml, content[end:])])


def _mathml(formula: re.Match[str]) -> str:
    display = "block" if formula[1] else "inline"
    return str(convert(html.unescape(formula[1] or formula[2]), display=display))
