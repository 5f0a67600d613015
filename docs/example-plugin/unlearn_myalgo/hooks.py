"""What this plugin does on occasions: one command, and a line when a run has ended."""

from typing import TYPE_CHECKING

import click
from unlearn_cli.hooks import hookimpl

if TYPE_CHECKING:
    from unlearn_cli.events import Event


@hookimpl
def register_commands(cli: click.Group) -> None:
    """Add `unlearn hello-myalgo`."""
    cli.add_command(hello)


@hookimpl
def run_event(event: "Event") -> None:
    """Say where the results are, on stderr, when a run is over."""
    from unlearn_cli.events import RunFinished

    if isinstance(event, RunFinished):
        click.echo(f"myalgo saw the end of {event.folder}: {event.verdict}", err=True)


@click.command("hello-myalgo")
def hello() -> None:
    """Say that the plugin is installed."""
    click.echo("hello from myalgo: try `unlearn show myalgo`")
