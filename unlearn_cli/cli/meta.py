"""`unlearn meta`."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from unlearn_cli.cli.options import json_option


@click.command(short_help="Score the metrics themselves, on finished runs.")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@json_option
def meta(runs: tuple[Path, ...], as_json: bool) -> None:
    """Say how far each metric of the forget set can be trusted, from the finished runs in the
    folders RUN; a sweep's folder is all its runs.

    Faithful is a metric that tells the targets, which know the forget set, from the retain
    references, which do not. Robust is one that the stress tests `relearn` and `quantize` of the
    runs do not deceive.
    """
    from unlearn_cli import console
    from unlearn_cli.cli.compare import runs_of
    from unlearn_cli.meta import meta_evaluate

    found = meta_evaluate([run for given in runs for run in runs_of(given)])
    if as_json:
        rows = [
            asdict(trust) | {"robustness": trust.robustness, "overall": trust.overall}
            for trust in found.metrics
        ]
        click.echo(json.dumps(asdict(found) | {"metrics": rows}, indent=2))
    else:
        console.print_meta(found)
