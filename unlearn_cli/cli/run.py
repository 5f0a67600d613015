"""`unlearn run`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unlearn_cli.cli.heavy import heavy_imports
from unlearn_cli.cli.options import json_option, refuse_code, set_option, trust_option
from unlearn_cli.profiles import choose, names

if TYPE_CHECKING:
    from unlearn_cli.spec.tables import Spec


@click.command()
@click.argument("spec", metavar="SPEC")
@set_option
@click.option("--name", help="Name of the run and of its folder.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the run.")
@click.option("--resume", is_flag=True, help="Continue the run that its folder holds.")
@click.option("--dry-run", is_flag=True, help="Print the plan and stop before any model loads.")
@click.option("--processes", type=click.IntRange(min=1), help="Start this many processes.")
@click.option(
    "--profile",
    type=click.Choice(names()),
    help="How processes share the model; see `profile`.",
)
@trust_option
@json_option
def run(
    spec: str,
    overrides: tuple[str, ...],
    name: str | None,
    seed: int | None,
    resume: bool,
    dry_run: bool,
    processes: int | None,
    profile: str | None,
    trusted: bool,
    as_json: bool,
) -> int:
    """Unlearn, as SPEC says: a TOML file, or the name of a preset such as `quickstart`."""
    from unlearn_cli.spec.load import dump_spec

    resolved = load_to_run(spec, overrides, name=name, seed=seed, trusted=trusted)
    if profile:
        choose(profile)
    if processes is not None and "LOCAL_RANK" not in os.environ:
        from unlearn_cli.engine.launch import launch

        return launch(processes, ["-m", "unlearn_cli", *sys.argv[1:]])
    if dry_run:
        return _dry_run(resolved, as_json)

    from unlearn_cli.cli.watch import watching

    with heavy_imports():
        from unlearn_cli.engine.run import execute

    with watching(as_json) as listener:
        folder = execute(resolved, dump_spec(resolved), resume=resume, listener=listener)
    if int(os.environ.get("RANK", "0")) == 0:
        from unlearn_cli.cli.result import show_result

        return show_result(folder, as_json)
    return 0


def load_to_run(
    source: str,
    overrides: Sequence[str],
    *,
    name: str | None = None,
    seed: int | None,
    trusted: bool,
) -> Spec:
    """The spec as it will run: plugins had their turn, and foreign code was allowed or refused.

    Plugins change a spec once: not again where it is that of a run folder, which says what ran.
    """
    from unlearn_cli import hooks
    from unlearn_cli.runs import RunFolder
    from unlearn_cli.spec.load import load_spec

    spec = load_spec(source, overrides, name=name, seed=seed)
    run = RunFolder(Path(source).parent)
    if Path(source) != run.spec or not run.manifest:
        spec = hooks.change_spec(spec)
    refuse_code(spec, trusted)
    return spec


def _dry_run(spec: Spec, as_json: bool) -> int:
    from unlearn_cli import console
    from unlearn_cli.cli.watch import watching

    with heavy_imports():
        from unlearn_cli.engine.dry_run import dry_run

    with watching(as_json) as listener:
        plan = dry_run(spec, listener)
    if as_json:
        import json

        examples = {name: [list(piece) for piece in pieces] for name, pieces in plan.examples}
        ahead = plan.forecast and plan.forecast.to_dict()
        told = {"plan": plan.lines, "forecast": ahead, "examples": examples}
        click.echo(json.dumps(told, indent=2))
        return 0
    console.print_plan(plan.lines)
    for split, pieces in plan.examples:
        console.print_tokens(f"first {split} row; what carries loss is marked", pieces)
    return 0
