"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

from unlearn_cli.errors import UsageError

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of the spec, e.g. --set method.beta=2; may be repeated.",
)


def write_new(file: Path, text: str) -> None:
    """Write a spec to a file that is not there yet. Raises UsageError where it is."""
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError:
        hint = "name another file, e.g. my-spec.toml"
        raise UsageError("there is a file already", where=str(file), hint=hint) from None
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", where=str(file)) from None
