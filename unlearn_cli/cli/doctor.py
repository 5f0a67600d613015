"""`unlearn doctor`."""

from __future__ import annotations

import json

import click

from unlearn_cli.cli.options import json_option
from unlearn_cli.safe_text import clean

UNHEALTHY = 1
"""Exit code where something is broken."""


@click.command()
@json_option
def doctor(as_json: bool) -> int:
    """Say what the tool would work with here, and what is broken.

    Versions, devices, extras, plugins, the cache, the hub's settings and the profiles. No network
    is asked, and of a token no more than whether there is one. What is `missing` nobody has to
    have; exit code 1 where something is `broken`.
    """
    from unlearn_cli import doctor as examining

    findings = examining.examine()
    if as_json:
        click.echo(json.dumps(examining.as_json(findings), indent=2))
    for found in () if as_json else findings:
        line = f"{found.state:<8} {found.part:<10} {found.name:<18} {found.text}"
        click.echo(clean(line, keep_newlines=True).rstrip())
    return 0 if examining.healthy(findings) else UNHEALTHY
