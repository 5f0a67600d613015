"""Reports: one HTML file of one run or several; opens anywhere, without network or script."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unlearn_cli.files import write_atomically
from unlearn_cli.runs import RunFolder

if TYPE_CHECKING:
    from unlearn_cli.compare import Comparison, Group


def write_report(
    run: RunFolder, sections: Sequence[tuple[str, str]] = (), path: Path | None = None
) -> Path:
    """Write the report of what the run folder holds; works on unfinished runs too.

    Args:
        run: the run.
        sections: further (title, HTML) parts, e.g. of plugins, put in as they are: whoever makes
            them escapes what others wrote.
        path: where; `report.html` in the run folder if not given.

    Returns:
        The path of the report.

    Raises:
        RunError: the folder holds a damaged file, or cannot be written.
    """
    from markupsafe import Markup

    marked = [(title, Markup(html)) for title, html in sections]  # noqa: S704 - documented above
    path = path or run.report
    write_atomically(path, _render("run.html.j2", _run(run) | {"sections": marked}))
    return path


def write_comparison(comparison: Comparison, path: Path) -> None:
    """Write one report of all runs of a comparison; RunError where a file is damaged."""
    write_atomically(path, _render("runs.html.j2", _runs(comparison)))


def _render(template: str, context: Mapping[str, Any]) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("unlearn_cli.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template(template).render(context)


def _run(run: RunFolder) -> dict[str, Any]:
    from unlearn_cli.report import view
    from unlearn_cli.report.plane import plane
    from unlearn_cli.report.words import UNDER_STRESS, WANTED, words
    from unlearn_cli.safe_text import clean

    log = run.events()
    started: Mapping[str, Any] = next((e for e in reversed(log) if e["event"] == "RunStarted"), {})
    return {
        "name": clean(started.get("name") or run.folder.resolve().name),
        "started": {key: clean(str(value)) for key, value in started.items()},
        "verdict": view.verdict(log),
        "wanted": WANTED,
        "under_stress": [words(name) for name in UNDER_STRESS],
        "stress": view.stress(run),
        "plane": plane([view.course(run)]),
        "blocks": view.blocks(run),
        "training": view.training_charts(log),
        "notices": view.notices(log),
        "stages": view.stages(log),
        "spec": clean(run.spec.read_text("utf-8", "replace"), keep_newlines=True),
        "manifest": [*view.flatten(run.manifest)],
    }


def _runs(comparison: Comparison) -> dict[str, Any]:
    from unlearn_cli.compare import HEADLINES
    from unlearn_cli.report import view
    from unlearn_cli.report.plane import plane
    from unlearn_cli.report.words import UNDER_STRESS, words
    from unlearn_cli.safe_text import clean

    folders = [RunFolder(Path(r.folder)) for group in comparison.groups for r in group.results]
    headlines = [name for name in HEADLINES if name in comparison.metrics]
    return {
        "headlines": [words(name) for name in headlines],
        "groups": [_group(group, headlines) for group in comparison.groups],
        "said": [clean(line) for line in _said(comparison)],
        "plane": plane([view.course(run) for run in folders]),
        "under_stress": [words(name) for name in UNDER_STRESS],
        "runs": [
            {
                "name": clean(run.folder.resolve().name),
                "folder": clean(str(run.folder)),
                "verdict": view.verdict(run.events()),
                "stress": view.stress(run),
            }
            for run in folders
        ],
    }


def _group(group: Group, headlines: Sequence[str]) -> dict[str, Any]:
    from unlearn_cli.report.words import number
    from unlearn_cli.safe_text import clean

    def cell(name: str) -> str:
        found = group.after.get(name)
        if found is None or found.mean is None:
            return "–"
        width = "" if found.half_width is None else f" ± {number(found.half_width)}"
        return number(found.mean) + width

    verdicts = ", ".join(f"{count} {name}" for name, count in group.verdicts.items())
    return {
        "label": clean(group.label),
        "cells": [cell(name) for name in headlines],
        "seeds": len(group.seeds),
        "verdicts": clean(verdicts),
    }


def _said(comparison: Comparison) -> Iterator[str]:
    for found in comparison.differences:
        if found.beyond_noise:
            yield (
                f"Beyond noise: {found.metric} of {found.one} against {found.other}, "
                f"{found.difference:+.3g} (p = {found.corrected:.2g} after correction)."
            )
    yield from (*comparison.untested, *comparison.notes)
