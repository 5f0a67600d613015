"""Who listens to a run that a command started: the console, and the plugins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click

from unlearn_cli import console, hooks
from unlearn_cli.errors import UnlearnError
from unlearn_cli.events import Event, Listener


@contextmanager
def watching(as_json: bool) -> Iterator[Listener]:
    """A listener that renders progress on stderr and passes each event to the plugins."""

    def warn(problem: UnlearnError) -> None:
        click.echo(f"warning: {problem.line()}", err=True)

    with console.open_console(json=as_json) as render:

        def listen(event: Event) -> None:
            render(event)
            hooks.call("run_event", warn, event=event)

        yield listen
