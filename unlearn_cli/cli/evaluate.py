"""`unlearn evaluate`."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from unlearn_cli.cli.heavy import heavy_imports
from unlearn_cli.cli.options import (
    json_option,
    refuse_code,
    refuse_inside,
    set_option,
    trust_option,
)


@click.command()
@click.argument("spec", metavar="SPEC|RUN")
@click.option("--model", help="Model to evaluate instead: hub id, folder, .gguf file or run.")
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), help="Folder for the JSON files."
)
@set_option
@trust_option
@json_option
def evaluate(
    spec: str,
    model: str | None,
    output: Path | None,
    overrides: tuple[str, ...],
    trusted: bool,
    as_json: bool,
) -> int:
    """Measure a model, as SPEC says, without unlearning anything.

    SPEC is a TOML file or a preset, and names the model, unless --model does; or the folder of a
    run, whose unlearned model is measured.
    """
    from unlearn_cli import console
    from unlearn_cli.cli import say
    from unlearn_cli.cli.result import REQUIREMENT_MISSED, numbers
    from unlearn_cli.cli.watch import watching
    from unlearn_cli.files import write_atomically
    from unlearn_cli.require import missed
    from unlearn_cli.runs import RunFolder
    from unlearn_cli.spec.load import load_spec

    if output:
        refuse_inside(output)
    run = RunFolder.open(Path(spec)) if Path(spec).is_dir() else None
    resolved = load_spec(str(run.spec) if run else spec, overrides)
    refuse_code(resolved, trusted)

    with heavy_imports():
        from unlearn_cli.engine.measure import measure

    with watching(as_json) as listener:
        found, references = measure(resolved, model=model, run=run, listener=listener)
    if int(os.environ.get("RANK", "0")) != 0:
        return 0
    if output:
        output.mkdir(parents=True, exist_ok=True)
        for evaluation in found:
            write_atomically(output / f"{evaluation.evaluator}.json", evaluation.to_json())
    if as_json:
        click.echo(json.dumps({e.evaluator: numbers(e) for e in found}, indent=2))
    by_name = {reference.evaluator: reference for reference in references}
    for evaluation in () if as_json else found:
        console.print_table(evaluation, by_name.get(evaluation.evaluator))
    failed = missed(resolved.require, found)
    for line in failed:
        say(f"missed: {line}")
    return REQUIREMENT_MISSED if failed else 0
