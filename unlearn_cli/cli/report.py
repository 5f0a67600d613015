"""`unlearn report`: write the report of a run again, or one of several runs."""

from __future__ import annotations

import json
from pathlib import Path

import click

from unlearn_cli.cli.options import json_option, refuse_inside


@click.command(short_help="Write the report of a run again, or of several.")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write this file instead.",
)
@json_option
def report(runs: tuple[Path, ...], output: Path | None, as_json: bool) -> None:
    """Write RUN/report.html again from what the run folder RUN holds.

    Works on runs that are not finished: it shows what is known so far. With --output, one file: of
    one run, its report; of several, which must be finished, all side by side. A sweep's folder is
    all its runs.
    """
    from unlearn_cli.cli.result import write
    from unlearn_cli.runs import RunFolder

    if output:
        refuse_inside(output, "report.html")
    if output and len(runs) == 1 and (runs[0] / "spec.toml").is_file():
        written = [str(write(RunFolder.open(runs[0]), output))]
    elif output:
        from unlearn_cli.cli.compare import compare_runs, runs_of
        from unlearn_cli.report import write_comparison

        found = [run for given in runs for run in runs_of(given)]
        write_comparison(compare_runs(found), output)
        written = [str(output)]
    else:
        written = [str(write(RunFolder.open(run))) for run in runs]
    click.echo(json.dumps({"reports": written}) if as_json else "\n".join(written))
