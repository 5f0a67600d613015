"""Who listens to a run that a command started: the console, and the plugins."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from unlearn_cli import console, hooks
from unlearn_cli.cli import warn
from unlearn_cli.events import Event, Listener
from unlearn_cli.streams import unheard


@contextmanager
def watching(as_json: bool) -> Iterator[Listener]:
    """A listener that renders progress on stderr, as long as that can be written, and passes each
    event to the plugins."""
    tell_plugins = hooks.watcher(warn)
    with console.open_console(json=as_json) as render:

        def listen(event: Event) -> None:
            with unheard():
                render(event)
            tell_plugins(event)

        yield listen
