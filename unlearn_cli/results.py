"""What a comparison needs of a run, read from its folder. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unlearn_cli.api.evaluate import Number
from unlearn_cli.errors import RunError, UsageError
from unlearn_cli.evaluations import Evaluation
from unlearn_cli.files import read_toml
from unlearn_cli.runs import RunFolder
from unlearn_cli.shapes import misfit
from unlearn_cli.verdict import UTILITIES

NO_RESULT = ("seed", "name", "output.", "train.micro_batch", "verdict.", "require.")
"""Keys and tables of the spec that do not make another experiment."""


@dataclass(frozen=True)
class _Method:
    name: str


@dataclass(frozen=True)
class _Resolved:
    """What is read of a resolved spec besides comparing it."""

    name: str
    method: _Method
    seed: int = 0


@dataclass(frozen=True)
class Result:
    """What one finished run found out, and under what conditions."""

    folder: str
    seed: int
    spec: Mapping[str, Any]
    """Dotted key -> value, of the keys that decide the result."""
    verdict: str
    before: Mapping[str, Number]
    """Metric -> figure of the target."""
    after: Mapping[str, Number]
    """Metric -> figure of the unlearned model."""
    conditions: Mapping[str, str]
    """Versions, threads, device: should be the same in all runs."""
    inputs: Mapping[str, str]
    """Fingerprints of weights and rows: should be the same in all runs of one seed."""


def read_result(folder: Path) -> Result:
    """Read a finished run.

    Raises:
        UsageError: there is no run, it is not finished, or nothing was evaluated.
        RunError: a file of the run is damaged.
    """
    run = RunFolder.open(folder)
    manifest = run.manifest
    refuse_unfinished(run, manifest)
    spec = read_spec(run)
    found = run.evaluations()
    before, after = (
        _numbers([e for e in found if e.label == label]) for label in ("target", "unlearned")
    )
    if not after:
        hint = "add an [[evaluate]] to its spec and run it again"
        raise UsageError("the run evaluated nothing", where=str(folder), hint=hint)
    events = run.events()
    return Result(
        folder=str(folder),
        seed=spec.get("seed", 0),
        spec={key: value for key, value in flatten(spec) if not key.startswith(NO_RESULT)},
        verdict=manifest.get("verdict", {}).get("name", "unknown"),
        before=before,
        after=after | {"kept_utility": _kept(before, after), "train_seconds": _seconds(events)},
        conditions=_conditions(manifest, events),
        inputs=_inputs(manifest, found),
    )


def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(Dotted key, value) of nested tables; the tables of a list are numbered from 0."""
    tables = isinstance(value, list) and value and all(isinstance(v, dict) for v in value)
    if isinstance(value, dict) or tables:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def refuse_unfinished(run: RunFolder, manifest: Mapping[str, Any]) -> None:
    """Raise UsageError where the run did not come to its end."""
    if (status := manifest.get("status")) != "finished":
        raise UsageError(
            f"the run is not finished ({status or 'not started'})",
            where=str(run.folder),
            hint=f"finish it with: unlearn run {run.spec} --resume, or leave it out",
        )


def read_spec(run: RunFolder) -> dict[str, Any]:
    """The resolved spec as tables; RunError where the file is damaged."""
    found = read_toml(run.spec)
    if wrong := misfit(found, _Resolved):
        raise RunError(f"is no spec of a run: {wrong}", where=str(run.spec))
    return found


def _numbers(evaluations: Iterable[Evaluation]) -> dict[str, Number]:
    """Figures of all evaluators; a name that is taken gets its evaluator's in front."""
    found: dict[str, Number] = {}
    for evaluation in evaluations:
        for name, figure in evaluation.table.numbers.items():
            found[f"{evaluation.evaluator}.{name}" if name in found else name] = figure
    return found


def _kept(before: Mapping[str, Number], after: Mapping[str, Number]) -> Number:
    """Share of the target's utility that is left, of the kind that the verdict takes."""
    for name in UTILITIES:
        was, now = (numbers[name].value if name in numbers else None for numbers in (before, after))
        if was and now is not None:
            return Number(now / was, "higher")
    return Number(None, "higher", reason="there is no utility to compare")


def _seconds(events: Sequence[Mapping[str, Any]]) -> Number:
    """Seconds of unlearning alone: making the target and evaluating it are not the method's."""
    if sum(entry["event"] == "RunStarted" for entry in events) > 1:
        return Number(None, "lower", reason="the run was resumed: its time says little")
    took = [e for e in events if e["event"] == "StageFinished" and e["stage"] == "train"]
    if not took:
        return Number(None, "lower", reason="the log has no time of training")
    return Number(took[-1]["seconds"], "lower")


def _conditions(manifest: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    started = [entry for entry in events if entry["event"] == "RunStarted"][-1:]
    places = {key: entry.get(key) for entry in started for key in ("device", "processes")}
    pairs = flatten(manifest.get("environment", {}))
    return {key: _shown(value) for key, value in (*pairs, *places.items())}


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _inputs(manifest: Mapping[str, Any], evaluations: Iterable[Evaluation]) -> dict[str, str]:
    given = manifest.get("inputs", {})
    found = {("target" if key == "model" else f"{key} rows"): given[key] for key in given}
    if reference := manifest.get("retain_reference"):
        found["retain reference"] = reference
    for evaluation in evaluations:
        if evaluation.label == "unlearned":
            found[f"rows of evaluator {evaluation.evaluator}"] = evaluation.data
    return {key: str(value)[:12] for key, value in found.items()}
