"""What a command prints when a run is done: figures on stdout, and the report on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from unlearn_cli import console, hooks
from unlearn_cli.cli import warn
from unlearn_cli.evaluations import Evaluation
from unlearn_cli.events import RunFinished, Sample
from unlearn_cli.runs import RunFolder
from unlearn_cli.safe_text import clean

REQUIREMENT_MISSED = 3
"""Exit code of a run that worked, and missed a threshold of its spec."""


def show_result(run: RunFolder, as_json: bool) -> int:
    """Write the report, print the table before / after / retain reference and the verdict.

    Returns the exit code: 3 where the run missed what its spec requires.
    """
    write(run)
    finished = _finished(run)
    found = run.evaluations()
    if as_json:
        click.echo(json.dumps(_as_json(run, finished, found), indent=2))
    elif unlearned := [e for e in found if e.label == "unlearned"]:
        main = unlearned[0].evaluator
        console.print_result(
            _find(found, "target", main),
            unlearned[0],
            _find(found, "retain_reference", main),
            finished,
            [(e, _find(found, "retain_reference", e.evaluator)) for e in unlearned[1:]],
        )
    else:
        click.echo(f"{finished.verdict}: {clean(finished.explanation)}\n{run.folder}")
    return REQUIREMENT_MISSED if finished.missed else 0


def _find(found: list[Evaluation], label: str, evaluator: str) -> Evaluation | None:
    return next((e for e in found if (e.label, e.evaluator) == (label, evaluator)), None)


def write(run: RunFolder, path: Path | None = None) -> Path:
    """Write the report, by default in the run folder, with the sections that plugins add; where."""
    from unlearn_cli.report import write_report

    return write_report(run, hooks.report_sections(run, warn), path)


def _finished(run: RunFolder) -> RunFinished:
    entry: dict[str, Any] = [e for e in run.events() if e["event"] == "RunFinished"][-1]
    return RunFinished(
        verdict=entry["verdict"],
        explanation=entry["explanation"],
        folder=entry["folder"],
        seconds=entry["seconds"],
        samples=tuple(Sample(**sample) for sample in entry["samples"]),
        missed=tuple(entry.get("missed", ())),
    )


def _as_json(
    run: RunFolder, finished: RunFinished, evaluations: list[Evaluation]
) -> dict[str, Any]:
    by_evaluator: dict[str, dict[str, Any]] = {}
    for evaluation in evaluations:
        labels = by_evaluator.setdefault(evaluation.evaluator, {})
        labels.setdefault(evaluation.label, numbers(evaluation))
    return {
        "folder": str(run.folder),
        "model": str(run.model),
        "report": str(run.report),
        "verdict": {"name": finished.verdict, "explanation": finished.explanation},
        "missed": finished.missed,
        "evaluations": by_evaluator,
    }


def numbers(evaluation: Evaluation) -> dict[str, Any]:
    """Metric -> value, direction, counts and reason, as JSON takes it."""
    return {name: vars(number) for name, number in evaluation.table.numbers.items()}
