"""The report of a run: one HTML file that opens anywhere, without network and without script."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unlearn_cli.runs import RunFolder, write_atomically


def write_report(run: RunFolder, sections: Sequence[tuple[str, str]] = ()) -> Path:
    """Write `report.html` from what the run folder holds; works on unfinished runs too.

    Args:
        run: the run.
        sections: further (title, HTML) parts, e.g. of plugins, put in as they are: whoever makes
            them escapes what others wrote.

    Returns:
        The path of the report.

    Raises:
        RunError: the folder holds a damaged file, or cannot be written.
    """
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("unlearn_cli.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    template = environment.get_template("template.html.j2")
    marked = [(title, Markup(html)) for title, html in sections]  # noqa: S704 - documented above
    write_atomically(run.report, template.render(_context(run), sections=marked))
    return run.report


def _context(run: RunFolder) -> dict[str, Any]:
    from unlearn_cli.report import view
    from unlearn_cli.report.words import WANTED, clean

    log = run.events()
    started: Mapping[str, Any] = next((e for e in reversed(log) if e["event"] == "RunStarted"), {})
    return {
        "name": clean(started.get("name") or run.folder.resolve().name),
        "started": {key: clean(str(value)) for key, value in started.items()},
        "verdict": view.verdict(log),
        "wanted": WANTED,
        "blocks": view.blocks(run),
        "training": view.training_charts(log),
        "notices": view.notices(log),
        "stages": view.stages(log),
        "spec": clean(run.spec.read_text("utf-8", "replace"), keep_newlines=True),
        "manifest": [*view.flatten(run.manifest)],
    }
