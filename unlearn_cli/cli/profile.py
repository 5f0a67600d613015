"""`unlearn profile`."""

from __future__ import annotations

import click

from unlearn_cli import profiles


@click.command()
@click.argument("name", type=click.Choice(profiles.names()), required=False)
def profile(name: str | None) -> None:
    """Print the path of a profile: a configuration for `accelerate launch --config_file`. Without
    NAME, list them.

    \b
    accelerate launch --config_file "$(unlearn profile fsdp2)" --num_processes 8 \\
        -m unlearn_cli run SPEC
    """
    if name:
        click.echo(profiles.path(name))
        return
    for known in profiles.names():
        click.echo(f"{known:8}{profiles.summary(known)}")
