"""`unlearn new-plugin`."""

from __future__ import annotations

from pathlib import Path

import click

from unlearn_cli.catalog import KINDS, Kind


@click.command("new-plugin", short_help="Write a plugin to start from, with tests that pass.")
@click.argument("name")
@click.option(
    "--kind", type=click.Choice(KINDS), default="method", show_default=True, help="What it is."
)
@click.option("--hooks", is_flag=True, help="Add hooks: a command, and a line when a run ends.")
@click.option(
    "--output",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Folder to write, missing or empty; unlearn-NAME if not given.",
)
def new_plugin(name: str, kind: Kind, hooks: bool, output: Path | None) -> None:
    """Write a distribution with the plugin NAME: entry point, one class, tests, README, and a spec
    to try it with.

    It works as it is: replace what it does with yours. After `pip install -e .` in its folder,
    `unlearn` knows it, and its tests, ruff and mypy --strict pass.
    """
    from unlearn_cli.new_plugin import check_name, render, write

    check_name(name, kind)
    folder = output or Path(f"unlearn-{name.replace('_', '-')}")
    write(folder, render(name, kind, hooks=hooks))
    click.echo(f"wrote {folder}; next, in it: pip install -e . && pytest")
