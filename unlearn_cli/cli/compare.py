"""`unlearn compare`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from unlearn_cli.cli.options import json_option, refuse_inside

if TYPE_CHECKING:
    from unlearn_cli.compare import Comparison


@click.command(short_help="Set runs side by side, over their seeds.")
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Write the plot to this SVG."
)
@json_option
def compare(runs: tuple[Path, ...], plot: Path | None, as_json: bool) -> None:
    """Set the finished runs in the folders RUN side by side; a sweep's folder is all its runs.

    Runs that differ only in their seed are one group: its mean, its 95 % confidence interval, and
    which differences between groups are beyond noise. --plot writes forgetting against utility.
    """
    from unlearn_cli.errors import UsageError

    if plot:
        refuse_inside(plot)
    comparison = compare_runs([run for given in runs for run in runs_of(given)])
    if plot and not write_plot(comparison, plot):
        hint = "evaluate with `tofu`, which measures both"
        raise UsageError("no run has forgetting and utility to plot", where="--plot", hint=hint)
    show(comparison, as_json)


def compare_runs(folders: Sequence[Path]) -> Comparison:
    """Read the runs in these folders, and compare them."""
    from unlearn_cli.compare import compare
    from unlearn_cli.results import read_result

    return compare([read_result(folder) for folder in folders])


def show(comparison: Comparison, as_json: bool) -> None:
    """A comparison on stdout."""
    from unlearn_cli import console

    if as_json:
        click.echo(json.dumps(_as_json(comparison), indent=2))
    else:
        console.print_comparison(comparison)


def write_plot(comparison: Comparison, path: Path) -> bool:
    """Write the plot; False where there is nothing to plot."""
    from unlearn_cli.files import write_atomically
    from unlearn_cli.report.scatter import forget_utility_plot

    if not (svg := forget_utility_plot(comparison)):
        return False
    write_atomically(path, svg)
    return True


def runs_of(folder: Path) -> list[Path]:
    """The folder itself, or the finished runs of the sweep that it holds."""
    from unlearn_cli.errors import UsageError
    from unlearn_cli.workers import finished_runs, is_sweep

    if not is_sweep(folder):
        return [folder]
    if not (found := finished_runs(folder)):
        hint = "issue the same `unlearn sweep` again to go on"
        raise UsageError("no run of the sweep is finished", where=str(folder), hint=hint)
    return found


def _as_json(comparison: Comparison) -> dict[str, Any]:
    groups = [
        {
            "label": group.label,
            "differs": group.differs,
            "seeds": group.seeds,
            "runs": [result.folder for result in group.results],
            "verdicts": group.verdicts,
            "before": {name: vars(mean) for name, mean in group.before.items()},
            "after": {name: vars(mean) for name, mean in group.after.items()},
        }
        for group in comparison.groups
    ]
    differences = [
        vars(found) | {"beyond_noise": found.beyond_noise} for found in comparison.differences
    ]
    return {
        "groups": groups,
        "differences": differences,
        "untested": comparison.untested,
        "notes": comparison.notes,
    }
