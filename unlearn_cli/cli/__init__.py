"""The command `unlearn`: commands by name, errors as one line, exit codes.

A command is imported when it is called and not before, so that `unlearn --help` and the listings
start at once. JSON on stdout is ASCII, so that nothing in it can steer a terminal. Exit codes: 0
worked; 1 the run, or a verification, failed; 2 usage or spec; 3 a requirement of the spec is
missed; 130 interrupted; 143 ended by SIGTERM, 129 by SIGHUP.
"""

from __future__ import annotations

import atexit
import contextlib
import difflib
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import entry_points
from io import StringIO
from typing import NoReturn

import click

from unlearn_cli import __version__
from unlearn_cli.errors import SpecError, UnlearnError, signal_of
from unlearn_cli.safe_text import clean, guard, redact
from unlearn_cli.streams import open_closed, silence, unheard

COMMANDS = {
    "run": ("unlearn_cli.cli.run:run", "Unlearn, as a spec says."),
    "evaluate": ("unlearn_cli.cli.evaluate:evaluate", "Measure any model, as a spec says."),
    "compare": ("unlearn_cli.cli.compare:compare", "Set runs side by side, over their seeds."),
    "sweep": ("unlearn_cli.cli.sweep:sweep", "Run a spec many times over, and compare."),
    "meta": ("unlearn_cli.cli.meta:meta", "Score the metrics themselves, on finished runs."),
    "report": ("unlearn_cli.cli.report:report", "Write the report of a run again, or of several."),
    "certify": ("unlearn_cli.cli.evidence:certify", "Write evidence of a run: hashes, signed."),
    "verify": ("unlearn_cli.cli.evidence:verify", "Hold evidence against the run folder."),
    "profile": ("unlearn_cli.cli.profile:profile", "Print the file of a profile, for accelerate."),
    "check": ("unlearn_cli.cli.spec:check", "Say everything that is wrong with a spec."),
    "init": ("unlearn_cli.cli.spec:init", "Write a commented spec to start from."),
    "convert": (
        "unlearn_cli.cli.convert:convert",
        "Turn a command of open-unlearning into a spec.",
    ),
    "schema": ("unlearn_cli.cli.spec:schema", "Print the JSON Schema of the spec, for editors."),
    "list-methods": ("unlearn_cli.cli.listing:list_methods", "List the unlearning methods."),
    "list-datasets": ("unlearn_cli.cli.listing:list_datasets", "List the data sets."),
    "list-evaluators": ("unlearn_cli.cli.listing:list_evaluators", "List the evaluators."),
    "list-metrics": ("unlearn_cli.cli.listing:list_metrics", "List the metrics."),
    "show": ("unlearn_cli.cli.listing:show", "Show a plugin: options, paper, where it is defined."),
    "doctor": ("unlearn_cli.cli.doctor:doctor", "Say what there is to work with, and is broken."),
    "new-plugin": (
        "unlearn_cli.cli.new_plugin:new_plugin",
        "Write a plugin to start from, with tests that pass.",
    ),
}
"""Name of a command -> where it is defined, and its line in `unlearn --help`."""

_BUG_FRAMES = 6


class CommandTable(click.Group):
    """A group whose own commands are imported on use; plugins add theirs in memory."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Our commands in the order of the table, then those of plugins."""
        return [*COMMANDS, *self._added()]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, imported now; ours come before a plugin's of the same name."""
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def invoke(self, ctx: click.Context) -> object:
        """Call the command; one of ours never calls `sys.exit`, so who did has not finished it."""
        try:
            return super().invoke(ctx)
        except SystemExit as error:
            if ctx.invoked_subcommand not in COMMANDS:
                raise  # a plugin's command ends as it likes
            from unlearn_cli.catalog import author

            what = f"sys.exit({error.code!r}) was called before the command was done"
            raise UnlearnError(what, where=author(error)) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The lines of `unlearn --help`, without importing a command."""
        ours = [(name, summary) for name, (_, summary) in COMMANDS.items()]
        theirs = [(name, self.commands[name].get_short_help_str()) for name in self._added()]
        with formatter.section("Commands"):
            formatter.write_dl(ours)
        if theirs:
            with formatter.section("Commands of plugins"):
                formatter.write_dl(theirs)

    def _added(self) -> list[str]:
        return sorted(set(self.commands) - set(COMMANDS))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that is called; suggest one where the name is unknown."""
        known = self.list_commands(ctx)
        if args[0] not in known and not args[0].startswith("-"):
            close = difflib.get_close_matches(args[0], known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "`unlearn --help` lists them all"
            raise click.UsageError(f"there is no command {args[0]!r}; {hint}", ctx)
        return super().resolve_command(ctx, args)


@click.group(
    cls=CommandTable,
    name="unlearn",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Results go to stdout, progress to stderr. Every listing takes --json.",
)
@click.version_option(__version__, prog_name="unlearn")
def unlearn() -> None:
    """Make a language model forget chosen data, and prove what was done."""


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command and leave with its exit code."""
    open_closed()
    guard()
    status = _status(args)
    if _distributed():
        _leave_the_others(status)
    sys.exit(status)


def _distributed() -> bool:
    """Whether this is one process of several."""
    torch = sys.modules.get("torch.distributed")
    return bool(torch and torch.is_available() and torch.is_initialized())


def _leave_the_others(status: int) -> NoReturn:
    """End one process of several at once, its exit handlers run.

    Python takes itself apart while torch's threads still let go of tensors, for which they need
    Python: now and then one of them would abort the process, though its work is done.
    """
    if status == 0:  # elsewhere the others may be gone, and would be waited for
        sys.modules["torch.distributed"].destroy_process_group()
    atexit._run_exitfuncs()  # no public name for it
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # nobody reads it any more
            stream.flush()
    os._exit(status)


def _status(args: Sequence[str] | None) -> int:
    """The exit code; what went wrong is on stderr."""
    try:
        _add_plugin_commands()
        result = unlearn.main(args=args, prog_name="unlearn", standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        shown = StringIO()
        error.show(shown)
        say(shown.getvalue().rstrip("\n"), keep_newlines=True)
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        cause = error.__cause__ if isinstance(error, click.Abort) else error  # click wraps it
        return _complain("interrupted", 128 + signal_of(cause))
    except UnlearnError as error:
        return _complain_of(error)
    except BrokenPipeError:
        return _reader_left()
    except Exception as error:  # noqa: BLE001 - the last resort, so that a bug is called a bug
        known = _known(error)
        return _complain_of(known) if known else _confess(error)
    return result if isinstance(result, int) else 0


def _known(error: Exception) -> UnlearnError | None:
    """What a library raised, where it is no bug: a disk that refuses, a process that is gone."""
    from unlearn_cli.files import disk_error

    if (refused := disk_error(error)) or not _distributed():
        return refused
    from unlearn_cli.engine.launch import lost

    return lost(error)


def _add_plugin_commands() -> None:
    """Let plugins add commands; pluggy is imported only where there is a plugin."""
    if not entry_points(group="unlearn"):
        return
    from unlearn_cli import hooks

    for problem in hooks.problems():
        warn(problem)
    hooks.call("register_commands", warn, cli=unlearn)


def warn(problem: UnlearnError) -> None:
    """Say on stderr what went wrong with a plugin; the rest goes on."""
    say(f"warning: {problem.line()}")


def say(text: str, *, keep_newlines: bool = False) -> None:
    """Text on stderr, which can neither steer the terminal nor give a token away: one line, unless
    newlines are kept."""
    with unheard():
        click.echo(clean(redact(text), keep_newlines=keep_newlines), err=True)


def _complain(text: str, code: int) -> int:
    say(f"error: {text}")
    return code


def _complain_of(error: UnlearnError) -> int:
    """One line for each thing that is wrong."""
    problems = error.problems if isinstance(error, SpecError) else (error,)
    for problem in problems:
        _complain(problem.line(), error.exit_code)
    return error.exit_code


def _reader_left() -> int:
    """`unlearn list-methods | head -1`: nothing to say, and nothing left to flush at exit."""
    silence(sys.stdout)
    return 1


def _confess(error: Exception) -> int:
    """An exception that no user caused, put down to whose code it arose in."""
    from unlearn_cli.catalog import author

    lines = "".join(traceback.format_exception(error, limit=-_BUG_FRAMES))
    say(lines.rstrip("\n"), keep_newlines=True)
    return _complain(f"this is a bug in {author(error)}; please report the lines above", 1)
