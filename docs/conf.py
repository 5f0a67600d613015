"""The documentation as a site: `nox -s site`. Pages are Markdown that reads the same on a forge."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pygments.lexers.special import TextLexer
from sphinx.errors import ExtensionError

if TYPE_CHECKING:
    from sphinx.application import Sphinx

HERE = Path(__file__).parent
NAVIGATION = {
    "Begin": ("first-run", "own-data", "from-open-unlearning"),
    "Use": (
        "choosing-a-method",
        "reading-a-report",
        "evaluation",
        "sweeps",
        "several-gpus",
        "evidence",
        "troubleshooting",
    ),
    "Know": ("metrics", "methods", "benchmarks", "architecture"),
    "Extend": ("writing-plugins", "example-plugin/README"),
    "Reference": (
        "reference/cli",
        "reference/spec",
        "reference/methods",
        "reference/plugins",
        "reference/api",
    ),
}
"""Heading -> pages, in the order of the side bar."""
ELSEWHERE = re.compile(
    r"""<(?:script|img|iframe)\b[^>]*\bsrc="(?:https?:)?//[^"]*"""
    r"""|<link\b[^>]*\brel="(?:stylesheet|preload|icon)"[^>]*\bhref="(?:https?:)?//[^"]*"""
    r"""|(?:@import|url\()\s*["']?(?:https?:)?//[^"')]*"""
)
"""What a browser would fetch by itself, from another host."""

project = "unlearn"
author = copyright = "The unlearn developers"  # noqa: A001 - the name that Sphinx reads
root_doc = "README"
extensions = ["myst_parser"]
exclude_patterns = ["bench"]
templates_path: list[str] = []
nitpicky = True

myst_heading_anchors = 4
myst_links_external_new_tab = False
suppress_warnings = ["myst.header"]  # generated pages begin deeper where a docstring has a heading

html_theme = "furo"
html_title = "unlearn"
html_copy_source = html_show_sourcelink = html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
pygments_style, pygments_dark_style = "default", "monokai"


def _add_navigation(app: Sphinx, page: str, source: list[str]) -> None:
    """Put the side bar into the first page, where a forge would show it as code."""
    if page == root_doc:
        source[0] += "".join(_toctree(*group) for group in NAVIGATION.items())


def _toctree(heading: str, pages: tuple[str, ...]) -> str:
    there = [page for page in pages if (HERE / f"{page}.md").exists()]
    lines = ["", "```{toctree}", ":hidden:", f":caption: {heading}", "", *there, "```", ""]
    return "\n".join(lines)


def _finish(app: Sphinx, error: Exception | None) -> None:
    """The first page under the name that servers look for; and nothing asks another host."""
    if error is not None:
        return
    site = Path(app.outdir)
    shutil.copyfile(site / f"{root_doc}.html", site / "index.html")
    for file in (*site.rglob("*.html"), *site.rglob("*.css")):
        if found := ELSEWHERE.search(file.read_text(encoding="utf-8")):
            raise ExtensionError(f"{file.name} is not complete without a network: {found[0]}")


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_lexer("mermaid", TextLexer)  # a forge draws it; here it is read as text
    app.connect("source-read", _add_navigation)
    app.connect("build-finished", _finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
