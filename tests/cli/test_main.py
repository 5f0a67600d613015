"""The frame of the command: help, unknown commands, errors, exit codes, plugin commands."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

import unlearn_cli
from unlearn_cli import cli, hooks
from unlearn_cli.errors import DataError, Interrupted, SpecError, Terminated, UsageError

Install = Callable[..., Path]


def status(*args: str) -> int | str | None:
    with pytest.raises(SystemExit) as left:
        cli.main(args)
    return left.value.code


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Make `unlearn fail` raise the given exception."""

    def make(error: BaseException) -> None:
        @click.command("fail")
        def fail() -> None:
            raise error

        monkeypatch.setitem(cli.unlearn.commands, "fail", fail)

    return make


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Each command of the table stands in `unlearn --help` with its line."""
    assert status("--help") == 0

    words = capsys.readouterr().out.split()
    assert [name for name in cli.COMMANDS if name not in words] == []


def test_every_command_of_the_table_exists() -> None:
    """What help promises can be imported, and is called as the table says."""
    context = click.Context(cli.unlearn)
    commands = {name: cli.unlearn.get_command(context, name) for name in cli.COMMANDS}

    assert {n: c.name if c else None for n, c in commands.items()} == {n: n for n in commands}


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` prints the version of the package."""
    assert status("--version") == 0
    assert unlearn_cli.__version__ in capsys.readouterr().out


def test_an_unknown_command_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, and the command that was meant."""
    assert status("list-method") == 2
    assert "did you mean 'list-methods'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (UsageError("what", where="here", hint="try"), 2, "error: here: what; try\n"),
        (DataError("no rows", where="a.jsonl"), 1, "error: a.jsonl: no rows\n"),
        (Interrupted("stopped"), 130, "error: stopped\n"),
        (Interrupted("stopped", by=signal.SIGTERM), 143, "error: stopped\n"),
        (KeyboardInterrupt(), 130, "\nerror: interrupted\n"),
        (Terminated(), 143, "\nerror: interrupted\n"),
        (
            OSError(28, "No space left", "a/b"),
            1,
            "error: a/b: cannot be changed: No space left; free some space\n",
        ),
        (SpecError([UsageError("a"), UsageError("b")]), 2, "error: a\nerror: b\n"),
    ],
)
def test_an_error_of_the_user_is_a_line_and_an_exit_code(
    failing: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    text: str,
) -> None:
    """One line for each thing that is wrong, on stderr, with the code of its family."""
    failing(error)

    assert status("fail") == code
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", text)


def test_a_bug_is_called_a_bug(
    failing: Callable[[BaseException], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """An exception that no user caused keeps its traceback and exits with 1."""
    failing(ZeroDivisionError("oops"))

    assert status("fail") == 1
    error = capsys.readouterr().err
    assert "ZeroDivisionError: oops" in error
    assert "in fail" in error
    assert "this is a bug in unlearn" in error


def test_a_reader_that_leaves_is_no_error() -> None:
    """`unlearn list-methods | true` writes nothing on stderr, whenever the pipe breaks."""
    command = f"{sys.executable} -m unlearn_cli show npo --json | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)  # noqa: S602

    assert done.stderr == ""


@pytest.fixture
def plugin(install: Install, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Install a hook module from its text; what it adds is gone after the test."""

    def make(text: str) -> None:
        install("unlearn-extra", {"unlearn": {"extra": "extra_hooks"}}, extra_hooks=text)
        hooks.loaded.cache_clear()

    monkeypatch.setattr(cli.unlearn, "commands", {})
    return make


HELLO = """
    import click
    from unlearn_cli.hooks import hookimpl

    @hookimpl
    def register_commands(cli):
        @cli.command("hello", short_help="Greet.")
        def hello():
            click.echo("hello")
"""


def test_a_plugin_adds_a_command(
    plugin: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """It runs, and stands in the help beside ours."""
    plugin(HELLO)

    assert status("hello") == 0
    assert capsys.readouterr().out == "hello\n"
    status("--help")
    assert "hello  Greet." in capsys.readouterr().out


@pytest.mark.parametrize("text", ["import no_such_library", HELLO.replace("cli.command", "cli.x")])
def test_a_broken_plugin_is_named_and_the_rest_works(
    plugin: Callable[[str], None], capsys: pytest.CaptureFixture[str], text: str
) -> None:
    """A warning on stderr, whether it fails on import or when asked; the command still runs."""
    plugin(text)

    assert status("list-methods") == 0
    captured = capsys.readouterr()
    assert "warning: " in captured.err
    assert "'extra'" in captured.err
    assert "npo" in captured.out


BROKEN = HELLO.replace('click.echo("hello")', "1 / 0")


def test_what_a_command_of_a_plugin_raises_is_put_down_to_its_distribution(
    plugin: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """The traceback stays, for its authors; it is no bug of ours."""
    plugin(BROKEN)

    assert status("hello") == 1
    error = capsys.readouterr().err
    assert "ZeroDivisionError" in error
    assert "this is a bug in unlearn-extra 1.2; please report" in error


@pytest.mark.parametrize("code", [0, 3])
def test_a_command_of_a_plugin_leaves_with_its_own_code(
    plugin: Callable[[str], None], code: int
) -> None:
    """It may call `sys.exit`."""
    plugin(HELLO.replace('click.echo("hello")', f"raise SystemExit({code})"))

    assert status("hello") == code


@pytest.mark.parametrize(
    "text", ["raise SystemExit(0)", HELLO.replace("@cli", "raise SystemExit(0)\n        @cli")]
)
def test_a_plugin_cannot_end_the_tool(
    plugin: Callable[[str], None], capsys: pytest.CaptureFixture[str], text: str
) -> None:
    """`sys.exit(0)` on import, or when asked, is a warning that names it; the command runs."""
    plugin(text)

    assert status("list-methods") == 0
    captured = capsys.readouterr()
    assert "'extra'" in captured.err
    assert "SystemExit: 0" in captured.err
    assert "npo" in captured.out


def test_a_command_of_ours_that_something_ended_has_not_worked(
    failing: Callable[[BaseException], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`sys.exit(0)` in what a command calls, say in a method: an error, exit code 1."""
    failing(SystemExit(0))
    monkeypatch.setitem(cli.COMMANDS, "fail", (f"{__name__}:fail", ""))
    monkeypatch.setattr(sys.modules[__name__], "fail", cli.unlearn.commands["fail"], raising=False)

    assert status("fail") == 1
    assert "sys.exit(0) was called before the command was done" in capsys.readouterr().err


def test_a_plugin_cannot_replace_a_command_of_ours(
    plugin: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """`list-methods` stays ours, and is listed once."""
    plugin(HELLO.replace('"hello"', '"list-methods"', 1))

    assert status("list-methods") == 0
    assert "npo" in capsys.readouterr().out
    status("--help")
    assert capsys.readouterr().out.count("list-methods") == 1
