"""A sweep that chooses its points by what the ones before them gave: Optuna, several objectives.

Without a storage the study is not kept. What it asks for follows from what it was told, and the
runs are on disk: a search that is issued again asks for the same points, finds them finished, and
goes on where it ended. With one, any number of workers share it. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from unlearn_cli.errors import UsageError
from unlearn_cli.results import read_result
from unlearn_cli.spec.tables import Spec
from unlearn_cli.study import Study
from unlearn_cli.sweep import Point, Range, Variant, experiment, sweep_folder, variants
from unlearn_cli.workers import Outcome, run_all

OBJECTIVES = ("forget_quality", "kept_utility")
INSTALL = "pip install 'unlearn-cli[optuna]'"


@dataclass(frozen=True)
class Found:
    """A point of the Pareto front: none of the others is better in one objective and no worse in
    the other."""

    point: Point
    values: tuple[float, ...]
    """Of each objective, mean over the seeds."""


@dataclass
class Search(Outcome):
    """What became of a search, as far as this worker went."""

    folder: Path = Path()
    front: list[Found] = field(default_factory=list)


def search(
    load: Callable[[Sequence[str], int | None], Spec],
    grid: Sequence[tuple[str, list[str]]],
    ranges: Sequence[Range],
    seeds: Sequence[int | None],
    name: str | None,
    trials: int,
    objectives: Sequence[str],
    run: Callable[[Variant, bool], None],
    *,
    storage: str | None = None,
    study: str | None = None,
) -> Search:
    """Run trials, each one point with all seeds, until there are so many.

    Args:
        load: from `--set` flags and a seed to a resolved spec.
        grid: keys with the values to choose from.
        ranges: keys with the ranges to draw from.
        seeds: of each point.
        name: of the sweep.
        trials: points, those of earlier calls and of other workers included.
        objectives: figures, by which a point is good.
        run: runs one; see `workers.run_all`.
        storage: where the study is, for several workers; see `study.Study`.
        study: its name there; by default that of the sweep.

    Raises:
        UsageError: an objective has no direction; or as `Study` does.
        Interrupted: the user stopped it.
    """
    lowest = {key: values[0] for key, values in grid} | {r.key: r.text(r.low) for r in ranges}
    base = load([f"{key}={value}" for key, value in lowest.items()], seeds[0])
    folder = sweep_folder(base, name)
    about = {
        "--objectives": list(objectives),
        "--seeds": list(seeds),
        "--grid": dict(grid),
        "--range": {r.key: [r.low, r.high, r.log] for r in ranges},
        **experiment(base),
    }
    shared = Study(folder, storage, study or folder.name, len(objectives), about)
    found = Search(folder=folder)
    while True:
        with shared.next(trials) as trial:
            if trial is None:
                break
            values = _tried(_ask(trial, grid, ranges), load, seeds, name, objectives, run, found)
            shared.tell(trial, values)
    front = {repr(p): Found(_point(p, ranges), values) for p, values in shared.best()}
    found.front = [*front.values()]
    points = [_point(parameters, ranges) for parameters in shared.running()]
    found.elsewhere = [" ".join(f"{k}={v}" for k, v in point.items()) for point in points]
    return found


def _tried(
    point: Point,
    load: Callable[[Sequence[str], int | None], Spec],
    seeds: Sequence[int | None],
    name: str | None,
    objectives: Sequence[str],
    run: Callable[[Variant, bool], None],
    found: Search,
) -> list[float] | None:
    """Run a point with all seeds; its values, None where a run of it failed."""
    folder, runs = variants(load, [point], seeds, name)
    failed = run_all(folder, runs, run, wait=True).failures
    found.failures += [failure for failure in failed if failure not in found.failures]
    return None if failed else _values(runs, objectives)


def check_installed() -> None:
    """UsageError where Optuna is missing."""
    from importlib.util import find_spec

    if find_spec("optuna") is None:
        raise UsageError("Optuna is not installed", where="--optuna", hint=INSTALL)


def _ask(trial: Any, grid: Sequence[tuple[str, list[str]]], ranges: Sequence[Range]) -> Point:
    for key, values in grid:
        trial.suggest_categorical(key, values)
    for r in ranges:
        if r.whole:
            trial.suggest_int(r.key, int(r.low), int(r.high), log=r.log)
        else:
            trial.suggest_float(r.key, r.low, r.high, log=r.log)
    return _point(trial.params, ranges)


def _point(parameters: Mapping[str, Any], ranges: Sequence[Range]) -> Point:
    drawn = {r.key: r for r in ranges}
    return {k: drawn[k].text(v) if k in drawn else str(v) for k, v in parameters.items()}


def _values(runs: Sequence[Variant], objectives: Sequence[str]) -> list[float] | None:
    """Of each objective the mean over the runs, the larger the better; None where one is null."""
    results = [read_result(variant.folder).after for variant in runs]
    found = []
    for name in objectives:
        numbers = [after.get(name) for after in results]
        known = [number for number in numbers if number is not None]
        if len(known) < len(numbers):
            hint = f"there is {', '.join(results[0])}"
            raise UsageError(f"no figure is called {name}", where="--objectives", hint=hint)
        values = [number.value for number in known if number.value is not None]
        if len(values) < len(known):
            return None
        found.append(_sign(name, known[0].direction) * fmean(values))
    return found


def _sign(name: str, direction: str) -> int:
    if direction == "reference":
        what = f"{name} should equal the retain reference: it has no better direction"
        raise UsageError(what, where="--objectives", hint="use forget_quality, which compares it")
    return 1 if direction == "higher" else -1
