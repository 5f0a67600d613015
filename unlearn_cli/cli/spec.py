"""`unlearn check`, `unlearn schema`, `unlearn init`: everything about the spec but running it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unlearn_cli.cli.options import json_option, set_option, write_new
from unlearn_cli.errors import SpecError, UnlearnError, UsageError

if TYPE_CHECKING:
    from unlearn_cli.spec import Spec


@click.command
@click.argument("spec")
@set_option
@json_option
@click.pass_context
def check(ctx: click.Context, spec: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Say everything that is wrong with SPEC, a TOML file or the name of a preset.

    Nothing is loaded or downloaded. Exit code 2 where something is wrong.
    """
    from unlearn_cli.spec import load_spec

    try:
        loaded = load_spec(spec, overrides)
    except SpecError as error:
        if not as_json:
            raise
        problems = [_as_json(problem) for problem in error.problems]
        click.echo(json.dumps({"ok": False, "problems": problems}, indent=2))
        ctx.exit(error.exit_code)
    if as_json:
        resolved = loaded.model_dump(mode="json", exclude_none=True)
        click.echo(json.dumps({"ok": True, "spec": resolved}, indent=2))
    else:
        click.echo(f"ok: {_summary(loaded)}")


@click.command
def schema() -> None:
    """Print the JSON Schema of the spec, for editors.

    A first line `#:schema ./unlearn.schema.json` in a spec makes an editor use it.
    """
    click.echo(_schema_text(), nl=False)


@click.command
@click.option("--preset", default="tofu", show_default=True, help="Preset to start from.")
@click.argument("file", type=click.Path(path_type=Path), default="spec.toml")
def init(preset: str, file: Path) -> None:
    """Write a commented spec to FILE (spec.toml), and its schema for editors beside it.

    Every key of the spec stands in it with its meaning; what the preset does not set is commented
    out. A file that is there already is never overwritten.
    """
    from unlearn_cli.spec.template import SCHEMA_FILE, commented_spec

    text = commented_spec(preset)
    beside = file.parent / SCHEMA_FILE
    _refuse_foreign(beside)
    write_new(file, text)
    beside.write_text(_schema_text(), encoding="utf-8")
    click.echo(f"wrote {file} and {beside}; next: unlearn check {file}")


def _as_json(problem: UnlearnError) -> dict[str, str]:
    return {"where": problem.where, "what": problem.what, "hint": problem.hint}


def _summary(spec: Spec) -> str:
    length = f"{spec.train.steps} steps" if spec.train.steps else f"{spec.train.epochs:g} epochs"
    evaluators = ", ".join(table.evaluator for table in spec.evaluate) or "nothing"
    return (
        f"{spec.name}: {spec.method.name} on {spec.data.dataset}, {length} of batches of "
        f"{spec.train.batch_size}, evaluated by {evaluators}"
    )


def _schema_text() -> str:
    from unlearn_cli.spec.schema import spec_schema

    return json.dumps(spec_schema(), indent=2) + "\n"


def _refuse_foreign(file: Path) -> None:
    """An earlier schema of ours is replaced, so that it knows new plugins; nothing else is."""
    from unlearn_cli.spec.schema import TITLE

    try:
        found: Any = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return
    except (OSError, ValueError):
        found = None
    if not isinstance(found, dict) or found.get("title") != TITLE:
        hint = "init writes the schema of the spec there; move the file away"
        raise UsageError("is not a schema of unlearn", where=str(file), hint=hint)
