"""`unlearn convert`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import click

from unlearn_cli.cli.options import write_new
from unlearn_cli.errors import UsageError


@click.command(
    short_help="Turn a command of open-unlearning into a spec.",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.option(
    "--file", type=click.File(encoding="utf-8"), help="Read the command from a file; - is stdin."
)
@click.option("--output", type=click.Path(path_type=Path), help="Write the spec to a new file.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def convert(file: TextIO | None, output: Path | None, command: tuple[str, ...]) -> None:
    """Turn COMMAND, a command line of open-unlearning, into a spec.

    unlearn convert python src/train.py experiment=unlearn/tofu/default trainer=NPO task_name=npo

    COMMAND may begin with variables and a launcher, which say how many processes share a batch. The
    spec passes `unlearn check`. What has no counterpart is named on stderr and in the spec, each
    with the reason and what to do.
    """
    from unlearn_cli.convert import convert as convert_words
    from unlearn_cli.convert.command import HINT

    if (file is None) == (not command):
        raise UsageError("give either a command or --file", hint=HINT)
    words = _read(file) if file else _said(command)
    converted = convert_words(words, str(output)) if output else convert_words(words)
    if output:
        write_new(output, converted.text)
    else:
        click.echo(converted.text, nl=False)
    for note in converted.notes:
        click.echo(f"note: {note}", err=True)


def _read(file: TextIO) -> Sequence[str]:
    from unlearn_cli.convert.command import words_of

    try:
        return words_of(file.read())
    except UnicodeDecodeError:
        raise UsageError("is not UTF-8 text", where=f"--file {file.name}") from None


def _said(command: Sequence[str]) -> Sequence[str]:
    """The words; a command in quotes is one word, which the shell left whole."""
    from unlearn_cli.convert.command import words_of

    return words_of(command[0]) if len(command) == 1 else command
