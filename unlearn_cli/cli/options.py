"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from unlearn_cli.errors import UsageError

if TYPE_CHECKING:
    from unlearn_cli.spec.tables import Spec

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of the spec, e.g. --set method.beta=2; may be repeated.",
)
TRUST = "trust_remote_code"
trust_option = click.option(
    "--trust-remote-code",
    "trusted",
    is_flag=True,
    help=f"Run Python code that comes with models or data, where the spec says `{TRUST}` too.",
)


def refuse_code(spec: Spec, trusted: bool) -> None:
    """Raise UsageError where a spec lets foreign code run, and whoever runs it does not.

    A spec may come from somebody else: that it says so is not enough.
    """
    from unlearn_cli.results import flatten

    asked = [k for k, v in flatten(spec.model_dump(mode="json")) if k.endswith(TRUST) and v]
    if asked and not trusted:
        raise UsageError(
            "the spec lets Python code run that comes with the model or the data",
            where=", ".join(asked),
            hint="if you have read that code and trust it, say --trust-remote-code as well",
        )


def refuse_inside(path: Path, own: str | None = None) -> None:
    """Raise UsageError where what is to be written, a file or a folder, would be a part of a run.

    `own` is the name of a file that belongs into a run's folder. What else stands there is what the
    run is judged by, and certified for.
    """
    place = path.resolve()
    for run in (place, *place.parents):
        is_run = all((run / name).is_file() for name in ("spec.toml", "manifest.json"))
        if is_run and not (own and place == run / own):
            hint = f"name {run / own}, or a place outside" if own else "name a place outside"
            raise UsageError(f"would be a part of the run in {run}", where=str(path), hint=hint)


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
