"""Runs side by side: mean and confidence interval over seeds, and what is beyond noise.

Runs whose specs differ only in `seed` (and in what never touches a result) are one group; a seed
counts once. Intervals are Student's t over seeds, 95 %. Groups are compared with Welch's t-test,
its p-values corrected by Holm over the pairs of each metric. Both take the seeds' values for
normal, which a forget quality near 0 or 1 is not: read those as a guide. Imports no torch.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from statistics import fmean, variance
from typing import Any

from unlearn_cli.api.evaluate import Direction, Number
from unlearn_cli.errors import RunError, UsageError
from unlearn_cli.runs import Evaluation, RunFolder
from unlearn_cli.verdict import UTILITIES

CONFIDENCE = 0.95
SIGNIFICANT = 0.05
HEADLINES = ("forget_quality", "model_utility", "forget.probability", "kept_utility")
"""Metrics whose differences are tested, where the runs have them."""
NO_RESULT = ("seed", "name", "output.", "train.micro_batch")
"""Keys and tables of the spec that do not make another experiment."""
METHOD = "method.name"


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


@dataclass(frozen=True)
class Mean:
    """A figure over seeds."""

    values: tuple[float, ...]
    """One a seed; those without a value are left out."""
    mean: float | None
    half_width: float | None
    """Half the confidence interval: mean - half_width to mean + half_width; None below two."""
    direction: Direction
    reason: str = ""
    """Why values are missing, where some are."""


@dataclass(frozen=True)
class Group:
    """Runs of one experiment, which differ in their seed."""

    label: str
    differs: Mapping[str, Any]
    """Keys in which it differs from other groups, beside the method's name; None is unset."""
    results: tuple[Result, ...]
    """By seed."""
    before: Mapping[str, Mean]
    after: Mapping[str, Mean]

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, ascending."""
        return tuple(result.seed for result in self.results)

    @property
    def verdicts(self) -> dict[str, int]:
        """Verdict -> number of runs, the most frequent first."""
        return dict(Counter(result.verdict for result in self.results).most_common())


@dataclass(frozen=True)
class Difference:
    """A headline metric of two groups."""

    metric: str
    one: str
    other: str
    """Labels of the groups."""
    difference: float
    """Mean of `one` minus mean of `other`."""
    p: float
    """Two-sided, Welch."""
    corrected: float
    """After Holm's correction over all pairs of the metric."""

    @property
    def beyond_noise(self) -> bool:
        """Whether chance alone is an unlikely explanation."""
        return self.corrected < SIGNIFICANT


@dataclass(frozen=True)
class Comparison:
    """Groups, their differences, and what the reader must know of them."""

    groups: tuple[Group, ...]
    differences: tuple[Difference, ...]
    untested: tuple[str, ...]
    """Why some, or all, differences could not be tested."""
    notes: tuple[str, ...]
    """In what else the runs differ."""

    @property
    def metrics(self) -> dict[str, Direction]:
        """All metrics in display order, the headlines first."""
        found = {name: m.direction for group in self.groups for name, m in group.after.items()}
        return {name: found[name] for name in (*HEADLINES, *found) if name in found}


def compare(results: Sequence[Result]) -> Comparison:
    """Group runs and compare the groups, in order of first appearance.

    Raises:
        UsageError: two runs are of one experiment and one seed, and would count twice.
    """
    members: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        members[_identity(result)].append(result)
    differing = _differing([runs[0].spec for runs in members.values()])
    groups = tuple(
        _group(runs, differs) for runs, differs in zip(members.values(), differing, strict=True)
    )
    tested = [*_differences(groups)]
    notes = (*_seed_notes(groups), *_condition_notes(results), *_input_notes(results))
    return Comparison(groups, tuple(tested), tuple(_untested(groups)), notes)


def read_result(folder: Path) -> Result:
    """Read a finished run.

    Raises:
        UsageError: there is no run, it is not finished, or nothing was evaluated.
        RunError: a file of the run is damaged.
    """
    run = RunFolder.open(folder)
    manifest = run.manifest
    _refuse_unfinished(run, manifest)
    spec = _read_spec(run)
    order = [table.get("evaluator") for table in spec.get("evaluate", ())]
    found = sorted(run.evaluations(), key=lambda e: _index(order, e.evaluator))
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


def mean(values: Sequence[float], direction: Direction = "higher", reason: str = "") -> Mean:
    """Mean and Student's t interval of independent values."""
    if not values:
        return Mean((), None, None, direction, reason)
    return Mean(tuple(values), fmean(values), _half_width(values), direction, reason)


def welch(one: Sequence[float], other: Sequence[float]) -> float:
    """Two-sided p-value of Welch's t-test, for at least two values each.

    Values without any spread differ for certain, or not at all: 0 or 1.

    Source: Welch 1947, doi:10.1093/biomet/34.1-2.28.
    """
    from scipy.stats import t

    a, b = variance(one) / len(one), variance(other) / len(other)
    gap = abs(fmean(one) - fmean(other))
    if a + b == 0:
        return 1.0 if gap < 1e-12 else 0.0
    freedom = (a + b) ** 2 / (a**2 / (len(one) - 1) + b**2 / (len(other) - 1))
    return float(2 * t.sf(gap / math.sqrt(a + b), freedom))


def holm(p: Sequence[float]) -> list[float]:
    """P-values corrected for being several, in the order given (Holm 1979)."""
    corrected, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = largest
    return corrected


def flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(Dotted key, value) of nested tables; the tables of a list are numbered from 0."""
    tables = isinstance(value, list) and value and all(isinstance(v, dict) for v in value)
    if isinstance(value, dict) or tables:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, inner in items:
            yield from flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _refuse_unfinished(run: RunFolder, manifest: Mapping[str, Any]) -> None:
    if (status := manifest.get("status")) != "finished":
        raise UsageError(
            f"the run is not finished ({status or 'not started'})",
            where=str(run.folder),
            hint=f"finish it with: unlearn run {run.spec} --resume, or leave it out",
        )


def _read_spec(run: RunFolder) -> dict[str, Any]:
    import tomlkit

    try:
        return tomlkit.parse(run.spec.read_text("utf-8")).unwrap()
    except (OSError, ValueError) as error:
        raise RunError(f"cannot be read: {error}", where=str(run.spec)) from None


def _index(order: Sequence[Any], name: str) -> int:
    return order.index(name) if name in order else len(order)


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
    return {key: str(value) for key, value in (*pairs, *places.items())}


def _inputs(manifest: Mapping[str, Any], evaluations: Iterable[Evaluation]) -> dict[str, str]:
    given = manifest.get("inputs", {})
    found = {("target" if key == "model" else f"{key} rows"): given[key] for key in given}
    if reference := manifest.get("retain_reference"):
        found["retain reference"] = reference
    for evaluation in evaluations:
        if evaluation.label == "unlearned":
            found[f"rows of evaluator {evaluation.evaluator}"] = evaluation.data
    return {key: str(value)[:12] for key, value in found.items()}


def _identity(result: Result) -> str:
    return repr(sorted(result.spec.items()))


def _differing(specs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each spec, the keys by which it is told from the others; options of a method tell
    apart only runs of that method."""
    keys = dict.fromkeys(key for spec in specs for key in spec if key != METHOD)

    def differs(key: str, spec: Mapping[str, Any]) -> bool:
        own = key.startswith("method.")
        others = [o for o in specs if not own or o.get(METHOD) == spec.get(METHOD)]
        return any(o.get(key) != spec.get(key) for o in others)

    return [{key: spec.get(key) for key in keys if differs(key, spec)} for spec in specs]


def _group(runs: Sequence[Result], differs: Mapping[str, Any]) -> Group:
    ordered = sorted(runs, key=lambda run: run.seed)
    for one, other in combinations(ordered, 2):
        if one.seed == other.seed:
            raise UsageError(
                f"is the same experiment as {one.folder}, seed {one.seed}: it would count twice",
                where=other.folder,
                hint="leave one of them out",
            )
    parts = [str(runs[0].spec.get(METHOD)), *(_part(*item) for item in differs.items())]
    before, after = _means([run.before for run in ordered]), _means([run.after for run in ordered])
    return Group(", ".join(parts), differs, tuple(ordered), before, after)


def _part(key: str, value: Any) -> str:
    short = key.removeprefix("method.")
    if value is None:
        return f"{short} unset"
    return f"{short}={value:g}" if isinstance(value, float) else f"{short}={value}"


def _means(tables: Sequence[Mapping[str, Number]]) -> dict[str, Mean]:
    names = dict.fromkeys(name for table in tables for name in table)
    return {name: _mean_of([table.get(name) for table in tables]) for name in names}


def _mean_of(figures: Sequence[Number | None]) -> Mean:
    known = [figure for figure in figures if figure is not None]
    values = [figure.value for figure in known if figure.value is not None]
    reasons = [figure.reason or "no row had a value" for figure in known if figure.value is None]
    reasons += ["not measured"] * (len(figures) - len(known))
    found = mean(values, known[0].direction)
    if not reasons:
        return found
    part = f"{len(reasons)} of {len(figures)} runs: " if values else ""
    return replace(found, reason=part + "; ".join(dict.fromkeys(reasons)))


def _half_width(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    from scipy.stats import t

    quantile = float(t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    return quantile * math.sqrt(variance(values) / len(values))


def _differences(groups: Sequence[Group]) -> Iterator[Difference]:
    for metric in HEADLINES:
        tested = [group for group in groups if _seeds_of(group, metric) > 1]
        pairs = [(a, b, a.after[metric], b.after[metric]) for a, b in combinations(tested, 2)]
        p = [welch(one.values, other.values) for _, _, one, other in pairs]
        for (a, b, one, other), raw, corrected in zip(pairs, p, holm(p), strict=True):
            gap = fmean(one.values) - fmean(other.values)
            yield Difference(metric, a.label, b.label, gap, raw, corrected)


def _seeds_of(group: Group, metric: str) -> int:
    return len(group.after[metric].values) if metric in group.after else 0


def _untested(groups: Sequence[Group]) -> Iterator[str]:
    if len(groups) < 2:
        yield "There is one group: nothing to compare it with."
        return
    single = [group.label for group in groups if len(group.seeds) == 1]
    if single:
        yield (
            f"Nothing can be said about noise where there is one seed: {'; '.join(single)}. "
            "Run more seeds, e.g. with `unlearn sweep --seeds 0,1,2`."
        )


def _seed_notes(groups: Sequence[Group]) -> Iterator[str]:
    if len({group.seeds for group in groups}) > 1:
        each = (f"{group.label}: {', '.join(map(str, group.seeds))}" for group in groups)
        yield f"The groups have different seeds ({'; '.join(each)})."


def _condition_notes(results: Sequence[Result]) -> Iterator[str]:
    for key in dict.fromkeys(key for result in results for key in result.conditions):
        places = _places({r.folder: r.conditions.get(key, "unset") for r in results})
        if places:
            yield f"Not under the same conditions, {key}: {places}."


def _input_notes(results: Sequence[Result]) -> Iterator[str]:
    for seed in sorted({result.seed for result in results}):
        same = [result for result in results if result.seed == seed]
        for key in dict.fromkeys(key for result in same for key in result.inputs):
            if places := _places({r.folder: r.inputs.get(key, "none") for r in same}):
                yield f"Not the same {key} at seed {seed}: {places}."


def _places(values: Mapping[str, str], most: int = 3) -> str:
    """Which value is where, as `1 (a, b); 2 (c)`; empty where all are the same."""
    where: dict[str, list[str]] = defaultdict(list)
    for folder, value in values.items():
        where[value].append(folder)
    if len(where) < 2:
        return ""
    return "; ".join(
        f"{value} ({', '.join(folders[:most])}{', ...' if len(folders) > most else ''})"
        for value, folders in where.items()
    )
