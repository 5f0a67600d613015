"""A sweep that chooses its points by what the ones before them gave: Optuna, two objectives.

The study is not stored. Its sampler is seeded and the runs are on disk, so a search that is issued
again asks for the same points, finds them finished, and goes on where it ended. Imports optuna
late, and no torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from unlearn_cli.errors import UsageError
from unlearn_cli.results import read_result
from unlearn_cli.spec.tables import Spec
from unlearn_cli.sweep import Failure, Point, Range, Variant, run_all, variants

OBJECTIVES = ("forget_quality", "kept_utility")
INSTALL = "pip install 'unlearn-cli[optuna]'"


@dataclass(frozen=True)
class Found:
    """A point of the Pareto front: none of the others is better in one objective and no worse in
    the other."""

    point: Point
    values: tuple[float, ...]
    """Of each objective, mean over the seeds."""


def search(
    load: Callable[[Sequence[str], int | None], Spec],
    grid: Sequence[tuple[str, list[str]]],
    ranges: Sequence[Range],
    seeds: Sequence[int | None],
    name: str | None,
    trials: int,
    objectives: Sequence[str],
    run: Callable[[Variant, bool], None],
) -> tuple[Path, list[Found], list[Failure]]:
    """Run so many trials, each one point with all seeds.

    Args:
        load: from `--set` flags and a seed to a resolved spec.
        grid: keys with the values to choose from.
        ranges: keys with the ranges to draw from.
        seeds: of each point.
        name: of the sweep.
        trials: points, those of an earlier call included.
        objectives: figures, by which a point is good.
        run: runs one; see `sweep.run_all`.

    Returns:
        The sweep's folder, the Pareto front, and the runs that failed.

    Raises:
        UsageError: Optuna is not installed, or an objective has no direction.
        Interrupted: the user stopped it.
    """
    study, fail = _study(len(objectives))
    points: list[Point] = []
    failures: list[Failure] = []
    folder = Path()
    for _ in range(trials):
        trial = study.ask()
        points.append(_point(trial, grid, ranges))
        folder, runs = variants(load, points[-1:], seeds, name)
        failed = run_all(folder, runs, run)
        failures += [failure for failure in failed if failure not in failures]
        values = None if failed else _values(runs, objectives)
        if values is None:
            study.tell(trial, state=fail)
        else:
            study.tell(trial, values)
    front = {repr(t.params): Found(points[t.number], tuple(t.values)) for t in study.best_trials}
    return folder, [*front.values()], failures


def check_installed() -> None:
    """UsageError where Optuna is missing."""
    from importlib.util import find_spec

    if find_spec("optuna") is None:
        raise UsageError("Optuna is not installed", where="--optuna", hint=INSTALL)


def _study(objectives: int) -> tuple[Any, Any]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that parts of its sampler may change
        sampler = optuna.samplers.TPESampler(seed=0)
    # All are maximised: those that should be low enter with a minus.
    study = optuna.create_study(directions=["maximize"] * objectives, sampler=sampler)
    return study, optuna.trial.TrialState.FAIL


def _point(trial: Any, grid: Sequence[tuple[str, list[str]]], ranges: Sequence[Range]) -> Point:
    chosen = {key: str(trial.suggest_categorical(key, values)) for key, values in grid}
    return chosen | {r.key: _drawn(trial, r) for r in ranges}


def _drawn(trial: Any, r: Range) -> str:
    if r.whole:
        return str(trial.suggest_int(r.key, int(r.low), int(r.high), log=r.log))
    return f"{trial.suggest_float(r.key, r.low, r.high, log=r.log):.4g}"


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
