"""`unlearn sweep`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from unlearn_cli.cli.heavy import heavy_imports
from unlearn_cli.cli.options import json_option, set_option, trust_option

if TYPE_CHECKING:
    from unlearn_cli.spec.tables import Spec
    from unlearn_cli.sweep import Range, Variant
    from unlearn_cli.workers import Outcome

PLOT = "forget-utility.svg"


@click.command(short_help="Run a spec many times over, and compare.")
@click.argument("spec", metavar="SPEC")
@click.option("--grid", multiple=True, metavar="KEY=V,V...", help="Each of these; repeatable.")
@click.option("--range", "ranges", multiple=True, metavar="KEY=LOW:HIGH[:log]", help="Draw here.")
@click.option("--random", "draws", type=click.IntRange(min=1), help="This many draws of --range.")
@click.option(
    "--optuna",
    "trials",
    type=click.IntRange(min=1),
    help="Let Optuna choose this many points of --range and --grid (extra `optuna`).",
)
@click.option(
    "--objectives",
    metavar="A,B",
    default="forget_quality,kept_utility",
    show_default=True,
    help="Figures that Optuna makes good.",
)
@click.option(
    "--storage",
    metavar="WHERE",
    help="Keep the Optuna study here, for several workers: a file, sqlite:///FILE, or the URL of a "
    "database.",
)
@click.option("--study", metavar="NAME", help="Name of the study there; the sweep's by default.")
@click.option("--seeds", metavar="N,N...", help="Run everything with each of these seeds.")
@click.option("--name", help="Name of the sweep and of its folder.")
@click.option("--dry-run", is_flag=True, help="Check all runs, list them and stop.")
@set_option
@trust_option
@json_option
def sweep(
    spec: str,
    grid: tuple[str, ...],
    ranges: tuple[str, ...],
    draws: int | None,
    trials: int | None,
    objectives: str,
    storage: str | None,
    study: str | None,
    seeds: str | None,
    name: str | None,
    dry_run: bool,
    overrides: tuple[str, ...],
    trusted: bool,
    as_json: bool,
) -> int:
    """Run SPEC once for each combination of the values of --grid, draws of --range and --seeds.

    Everything is checked before anything runs. The same command again skips what is finished,
    resumes what was interrupted, and tries again what failed. Ends with `unlearn compare`.

    Issued several times at once, on machines that share the folder, it is one sweep of as many
    workers; no run is made twice. With --optuna they share a study, kept in --storage.

    A range whose ends are whole numbers gives whole numbers: write 1.0:2.0 for others. With
    --optuna the points are chosen by what those before them gave, and the best trade-offs are
    listed.
    """
    from unlearn_cli.cli.run import load_to_run
    from unlearn_cli.errors import UsageError
    from unlearn_cli.sweep import parse_grid, parse_range, points, variants
    from unlearn_cli.workers import run_all

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("a sweep runs in one process", hint="start it without a launcher")
    if draws and trials:
        raise UsageError("--random and --optuna both choose points", hint="give one of them")
    if (storage and not trials) or (study and not storage):
        hint = "they go with --optuna; other sweeps need none"
        raise UsageError("--storage keeps a study, and --study names it", hint=hint)
    if bool(ranges) != bool(draws or trials) and not (trials and grid):
        hint = "say how many, and from where"
        raise UsageError("--random or --optuna, and --range go together", hint=hint)
    if not (grid or ranges or seeds):
        raise UsageError("nothing to vary", hint="give --grid, --random with --range, or --seeds")

    def load(flags: Sequence[str], seed: int | None) -> Spec:
        return load_to_run(spec, [*overrides, *flags], seed=seed, trusted=trusted)

    choices, drawn = [parse_grid(g) for g in grid], [parse_range(r) for r in ranges]
    if trials:
        kept = {"storage": storage, "study": study}
        return _search(load, choices, drawn, _seeds(seeds), name, trials, objectives, kept, as_json)
    varied = points(choices, drawn, draws or 0)
    folder, runs = variants(load, varied, _seeds(seeds), name)
    if dry_run:
        return _list(runs, as_json)
    outcome = run_all(folder, runs, _runner(runs, as_json))
    return _end(folder, outcome, as_json)


def _search(
    load: Callable[[Sequence[str], int | None], Spec],
    grid: Sequence[tuple[str, list[str]]],
    ranges: Sequence[Range],
    seeds: Sequence[int | None],
    name: str | None,
    trials: int,
    objectives: str,
    kept: Mapping[str, str | None],
    as_json: bool,
) -> int:
    from unlearn_cli.search import check_installed, search

    check_installed()
    names = [part.strip() for part in objectives.split(",")]
    run = _runner((), as_json)
    outcome = search(load, grid, ranges, seeds, name, trials, names, run, **kept)
    code = _end(outcome.folder, outcome, as_json)
    for found in outcome.front:
        point = " ".join(f"{key}={value}" for key, value in found.point.items())
        values = ", ".join(f"{n} {abs(v):.4g}" for n, v in zip(names, found.values, strict=True))
        click.echo(f"best     {point}: {values}", err=as_json)
    return code


def _seeds(text: str | None) -> list[int | None]:
    from unlearn_cli.errors import UsageError

    if text is None:
        return [None]
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() for part in parts):
        hint = "write --seeds 0,1,2"
        raise UsageError("not whole numbers from 0", where=f"--seeds {text}", hint=hint)
    return list(dict.fromkeys(int(part) for part in parts))


def _list(runs: Sequence[Variant], as_json: bool) -> int:
    folders = [str(variant.folder) for variant in runs]
    click.echo(json.dumps({"runs": folders}, indent=2) if as_json else "\n".join(folders))
    return 0


def _runner(runs: Sequence[Variant], as_json: bool) -> Callable[[Variant, bool], None]:
    """Runs one variant as `unlearn run` does, and says on stderr which of how many it is."""
    place = {variant.name: n for n, variant in enumerate(runs, 1)}

    def run(variant: Variant, resume: bool) -> None:
        from unlearn_cli.cli import say
        from unlearn_cli.cli.result import write
        from unlearn_cli.cli.watch import watching

        with heavy_imports():
            from unlearn_cli.engine.run import execute

        of = f" {place[variant.name]} of {len(runs)}" if runs else ""
        say(f"run{of}: {variant.name}")
        with watching(as_json) as listener:
            write(execute(variant.spec, variant.toml, resume=resume, listener=listener))

    return run


def _end(folder: Path, outcome: Outcome, as_json: bool) -> int:
    """The comparison on stdout, with the command that makes it again; what failed, and what other
    workers are still at, on stderr."""
    from unlearn_cli.cli import say
    from unlearn_cli.cli.compare import compare_runs, show, write_plot
    from unlearn_cli.workers import finished_runs

    if finished := finished_runs(folder):
        comparison = compare_runs(finished)
        show(comparison, as_json)
        plotted = write_plot(comparison, folder / PLOT)
        if not as_json:
            plot = f"plot     {folder / PLOT}\n" if plotted else ""
            click.echo(f"\n{plot}again    unlearn compare {folder}")
    for name in outcome.elsewhere:
        say(f"another worker is at {name}")
    for failure in outcome.failures:
        say(f"error: run {failure.name} failed: {failure.error}")
    return 1 if outcome.failures else 0
