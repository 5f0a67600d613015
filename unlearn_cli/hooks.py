"""Occasions on which a plugin may act: every hook there is, each documented with an example.

A plugin is a module named by an entry point of the group `unlearn`; it imports nothing heavy,
because it is imported whenever the command starts (`unlearn_cli.events` brings numpy: import it in
a function):

    [project.entry-points.unlearn]
    myalgo = "unlearn_myalgo.hooks"

Its functions are marked with `hookimpl` and may take any subset of a hook's arguments. A plugin
that fails to import is a problem with a name; the others work. The examples are run by
`tests/test_hooks.py`.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any, NamedTuple

import pluggy

from unlearn_cli.errors import FAULTS, PluginError

if TYPE_CHECKING:
    import click

    from unlearn_cli.events import Event
    from unlearn_cli.runs import RunFolder
    from unlearn_cli.spec.tables import Spec

__all__ = ["Hooks", "hookimpl"]

GROUP = "unlearn"
"""Name of the pluggy project and of the entry-point group."""

hookspec = pluggy.HookspecMarker(GROUP)
hookimpl = pluggy.HookimplMarker(GROUP)
"""Marks a function of a plugin's module as one of the hooks."""


class Hooks:
    """The hooks. Read as documentation; never instantiated."""

    @hookspec
    def register_commands(self, cli: click.Group) -> None:
        """Add commands to `unlearn`. A name that is taken stays as it is.

        Commands are made with click. What they need they should import when they are called.

            import click

            from unlearn_cli.hooks import hookimpl


            @hookimpl
            def register_commands(cli):
                cli.add_command(hello)


            @click.command(help="Greet.")
            def hello():
                click.echo("hello")
        """

    @hookspec
    def run_event(self, event: Event) -> None:
        """Watch a run: called on the main process with every event (`unlearn_cli.events`).

        A watcher that raises is named once and then left out; the run goes on.

            from pathlib import Path

            from unlearn_cli.hooks import hookimpl


            @hookimpl
            def run_event(event):
                from unlearn_cli.events import RunFinished

                if isinstance(event, RunFinished):
                    with Path("finished.txt").open("a") as file:
                        print(event.folder, event.verdict, file=file)
        """

    @hookspec
    def change_spec(self, spec: Spec) -> Spec | None:
        """Change a spec before it runs: return a changed copy, or None to leave it.

        Plugins are asked one after the other, each with what the one before it returned. What comes
        out is checked like a spec that is read, and written to the run folder, so a run says what
        it did; resumed from there, it is not changed again. Where one raises, nothing runs.

            from unlearn_cli.hooks import hookimpl


            @hookimpl
            def change_spec(spec):
                output = spec.output.model_copy(update={"folder": f"runs-of-{spec.method.name}"})
                return spec.model_copy(update={"output": output})
        """

    @hookspec
    def report_sections(self, run: RunFolder) -> list[tuple[str, str]] | None:
        """Add sections to the report of a run: (title, HTML), placed after the tool's own.

        Of the run, `folder`, `manifest`, `events()` and `evaluations()` may be read. The HTML goes
        into the page as it is: escape what came out of data.

            from html import escape

            from unlearn_cli.hooks import hookimpl


            @hookimpl
            def report_sections(run):
                return [("Approval", f"<p>To be approved: {escape(run.folder.name)}</p>")]
        """


class Loaded(NamedTuple):
    """The plugins that work, and what is wrong with those that do not."""

    manager: pluggy.PluginManager
    problems: tuple[PluginError, ...]


@cache
def loaded() -> Loaded:
    """Import every plugin of the group once."""
    manager = pluggy.PluginManager(GROUP)
    manager.add_hookspecs(Hooks)
    entries = entry_points(group=GROUP)
    failures = (_register(manager, entry) for entry in entries)
    return Loaded(manager, tuple(failure for failure in failures if failure))


def manager() -> pluggy.PluginManager:
    """The plugin manager, made on first use."""
    return loaded().manager


def problems() -> tuple[PluginError, ...]:
    """One error for every plugin that could not be loaded."""
    return loaded().problems


def call(
    hook: str,
    warn: Callable[[PluginError], None],
    check: Callable[[Any], Any] = lambda result: result,
    **arguments: Any,
) -> list[Any]:
    """Call a hook of every plugin and collect, through `check`, what they return, None left out.

    A plugin that raises, or returns what `check` refuses, is handed to `warn` as an error that
    names it; the rest are called.
    """
    results = []
    for name, caller in _callers(hook):
        try:
            results += [check(result) for result in caller(**arguments)]
        except FAULTS as error:  # noqa: PERF203 - one failure must not end the loop
            warn(_failed(name, hook, error))
    return results


def change_spec(spec: Spec) -> Spec:
    """The spec after every plugin had its turn, checked after each.

    Raises:
        PluginError: a plugin failed; what it wanted changed is unknown, so nothing may run.
        SpecError: it returned a spec that cannot run.
    """
    for name, caller in _callers("change_spec"):
        spec = _changed(spec, name, caller)
    return spec


def report_sections(run: RunFolder, warn: Callable[[PluginError], None]) -> list[tuple[str, str]]:
    """The sections that plugins add to a report; one that fails is handed to `warn`."""
    added = call("report_sections", warn, _sections, run=run)
    return [section for sections in added for section in sections]


def watcher(warn: Callable[[PluginError], None]) -> Callable[[Event], None]:
    """A listener that hands events to the plugins; one that raises is named once, then left out."""
    watching = dict(_callers("run_event"))

    def listen(event: Event) -> None:
        for name, caller in [*watching.items()]:
            try:
                caller(event=event)
            except FAULTS as error:  # noqa: PERF203 - a watcher must not stop the run
                del watching[name]
                warn(_failed(name, "run_event", error))

    return listen


def _register(manager: pluggy.PluginManager, entry: EntryPoint) -> PluginError | None:
    """Import and register one plugin; says what went wrong."""
    plugin: Any = None
    try:
        plugin = entry.load()
        manager.register(plugin, name=entry.name)
        manager.check_pending()
    except FAULTS as error:  # whatever a plugin's import raises is its own fault
        if manager.is_registered(plugin):
            manager.unregister(plugin)
        owner = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "unknown distribution"
        return PluginError(
            f"plugin {entry.name!r} of {owner} is left out: {type(error).__name__}: {error}",
            where=entry.module,
        )
    return None


def _callers(hook: str) -> Iterator[tuple[str, Callable[..., list[Any]]]]:
    """(plugin's name, the hook as that plugin alone implements it), in order of registration."""
    everyone = manager().get_plugins()
    for name, plugin in manager().list_name_plugin():
        if plugin is not None:
            yield name, manager().subset_hook_caller(hook, everyone - {plugin})


def _changed(spec: Spec, name: str, caller: Callable[..., list[Any]]) -> Spec:
    """What one plugin makes of a spec."""
    from unlearn_cli.spec.load import check_again
    from unlearn_cli.spec.tables import Spec

    try:
        returned = caller(spec=spec)
    except FAULTS as error:
        raise _failed(name, "change_spec", error) from error
    for changed in returned:
        if not isinstance(changed, Spec):
            what = f"plugin {name!r} returned {reprlib.repr(changed)} from change_spec"
            raise PluginError(what, hint="return a Spec, made by spec.model_copy, or None")
        spec = check_again(changed, f"plugin {name!r} in change_spec")
    return spec


def _sections(added: Any) -> list[tuple[str, str]]:
    """What a plugin adds to a report; TypeError where that is nothing to put into one."""
    if not (isinstance(added, list | tuple) and all(map(_is_section, added))):
        raise TypeError(f"it returned {reprlib.repr(added)}, which is no list of (title, HTML)")
    return [(title, html) for title, html in added]


def _is_section(value: Any) -> bool:
    pair = isinstance(value, list | tuple) and len(value) == 2
    return pair and all(isinstance(part, str) for part in value)


def _failed(name: str, hook: str, error: BaseException) -> PluginError:
    return PluginError(f"plugin {name!r} failed in {hook}: {type(error).__name__}: {error}")
