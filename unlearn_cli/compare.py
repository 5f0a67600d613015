"""Runs side by side: mean and confidence interval over seeds, and what is beyond noise.

Runs whose specs differ only in `seed` (and in what never touches a result) are one group; a seed
counts once. Intervals are Student's t over seeds, 95 %. Groups are compared with Welch's t-test,
its p-values corrected by Holm over the pairs of each metric. Both take the seeds' values for
normal, which a forget quality near 0 or 1 is not: read those as a guide. Imports no torch.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import fmean, variance
from typing import Any

from unlearn_cli.api.evaluate import Direction, Number
from unlearn_cli.errors import UsageError
from unlearn_cli.results import Result

CONFIDENCE = 0.95
SIGNIFICANT = 0.05
HEADLINES = ("forget_quality", "model_utility", "forget.probability", "kept_utility")
"""Metrics whose differences are tested, where the runs have them."""
METHOD = "method.name"
LONGEST_LABEL = 6
"""Keys in the label of a group."""


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


def mean(values: Sequence[float], direction: Direction = "higher", reason: str = "") -> Mean:
    """Mean and Student's t interval of independent values."""
    if not values:
        return Mean((), None, None, direction, reason)
    return Mean(tuple(values), fmean(values), _half_width(values), direction, reason)


def welch(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Two-sided p-value of Welch's t-test, for at least two values each.

    None where neither has any spread: what noise there is cannot be told from such values.

    Source: Welch 1947, doi:10.1093/biomet/34.1-2.28.
    """
    from scipy.stats import t

    a, b = variance(one) / len(one), variance(other) / len(other)
    gap = abs(fmean(one) - fmean(other))
    if a + b == 0:
        return None
    freedom = (a + b) ** 2 / (a**2 / (len(one) - 1) + b**2 / (len(other) - 1))
    return float(2 * t.sf(gap / math.sqrt(a + b), freedom))


def holm(p: Sequence[float]) -> list[float]:
    """P-values corrected for being several, in the order given (Holm 1979)."""
    corrected, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = largest
    return corrected


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
    if left := len(parts) - LONGEST_LABEL:
        parts = [*parts[:LONGEST_LABEL], f"and {left} more"] if left > 0 else parts
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
        found = [(a, b, _p(a, b, metric)) for a, b in combinations(tested, 2)]
        pairs = [(a, b, p) for a, b, p in found if p is not None]
        for (a, b, p), corrected in zip(pairs, holm([p for *_, p in pairs]), strict=True):
            gap = fmean(a.after[metric].values) - fmean(b.after[metric].values)
            yield Difference(metric, a.label, b.label, gap, p, corrected)


def _p(one: Group, other: Group, metric: str) -> float | None:
    return welch(one.after[metric].values, other.after[metric].values)


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
    headlines = [name for name in HEADLINES if any(name in group.after for group in groups)]
    if not headlines:
        yield f"None of {', '.join(HEADLINES)} was measured, so no difference is tested."
    for name in headlines:
        several = [group for group in groups if len(group.seeds) > 1]
        if few := [group.label for group in several if _seeds_of(group, name) < 2]:
            yield f"{name} has fewer than two values, and is not tested, in: {'; '.join(few)}."
        tested = [group for group in several if group.label not in few]
        flat = [(a, b) for a, b in combinations(tested, 2) if _p(a, b, name) is None]
        if flat:
            pairs = "; ".join(f"{a.label} and {b.label}" for a, b in flat)
            yield f"{name} is the same for every seed, so noise cannot be told, in: {pairs}."


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
