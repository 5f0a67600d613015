"""`unlearn report`: write the report of a run again."""

from __future__ import annotations

import json
from pathlib import Path

import click

from unlearn_cli.cli.options import json_option


@click.command(short_help="Write the report of a run again.")
@click.argument("run", type=click.Path(path_type=Path))
@json_option
def report(run: Path, as_json: bool) -> None:
    """Write RUN/report.html again from what the run folder RUN holds.

    Works on runs that are not finished: it shows what is known so far.
    """
    from unlearn_cli.cli.result import write
    from unlearn_cli.runs import RunFolder

    path = str(write(RunFolder.open(run)))
    click.echo(json.dumps({"report": path}) if as_json else path)
