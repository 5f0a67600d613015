"""What a command prints when a run is done: figures on stdout, and the report on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from unlearn_cli import console, hooks
from unlearn_cli.cli import warn
from unlearn_cli.events import RunFinished, Sample
from unlearn_cli.runs import Evaluation, RunFolder


def show_result(run: RunFolder, as_json: bool) -> None:
    """Write the report, print the table before / after / retain reference and the verdict."""
    write(run)
    finished = _finished(run)
    by_label: dict[str, Evaluation] = {}
    for evaluation in run.evaluations():
        by_label.setdefault(evaluation.label, evaluation)
    if as_json:
        click.echo(json.dumps(_as_json(run, by_label), indent=2, ensure_ascii=False))
    elif "unlearned" in by_label:
        console.print_result(
            by_label.get("target"),
            by_label["unlearned"],
            by_label.get("retain_reference"),
            finished,
        )
    else:
        click.echo(f"{finished.verdict}: {finished.explanation}\n{run.folder}")


def write(run: RunFolder) -> Path:
    """Write report.html, with the sections that plugins add; its path."""
    from unlearn_cli.report import write_report

    added = hooks.call("report_sections", warn, run=run)
    return write_report(run, [section for sections in added for section in sections])


def _finished(run: RunFolder) -> RunFinished:
    entry: dict[str, Any] = [e for e in run.events() if e["event"] == "RunFinished"][-1]
    return RunFinished(
        verdict=entry["verdict"],
        explanation=entry["explanation"],
        folder=entry["folder"],
        seconds=entry["seconds"],
        samples=tuple(Sample(**sample) for sample in entry["samples"]),
    )


def _as_json(run: RunFolder, evaluations: dict[str, Evaluation]) -> dict[str, Any]:
    manifest = run.manifest
    return {
        "folder": str(run.folder),
        "model": str(run.model),
        "report": str(run.report),
        "verdict": manifest.get("verdict"),
        "metrics": {label: numbers(evaluation) for label, evaluation in evaluations.items()},
    }


def numbers(evaluation: Evaluation) -> dict[str, Any]:
    """Metric -> value, direction, counts and reason, as JSON takes it."""
    return {name: vars(number) for name, number in evaluation.table.numbers.items()}
