"""From scored rows to figures: the table of one evaluation. Imports no torch.

The same functions make a table of rows that a model has just scored and of what others stored.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unlearn_cli import catalog
from unlearn_cli.api.data import Bundle
from unlearn_cli.api.evaluate import (
    Direction,
    Evaluator,
    Need,
    Number,
    RowMetric,
    ScoredRow,
    SummaryMetric,
    Table,
    about_forget,
)
from unlearn_cli.errors import DataError

Values = dict[str, dict[str, dict[str, float | None]]]
"""set -> metric -> row id -> value."""

NEEDS: Mapping[Need, str] = {
    "answer": "answer tokens",
    "paraphrase": "paraphrased answers",
    "perturbed": "perturbed answers",
    "generation": "generated answers",
    "samples": "drawn answers",
    "distribution": "distributions",
    "gradient": "gradients",
}


@dataclass(frozen=True)
class Metrics:
    """The metrics that an evaluator names, built."""

    names: Mapping[str, Sequence[str]]
    """Set -> names of its row metrics."""
    rows: Mapping[str, RowMetric]
    summaries: Mapping[str, SummaryMetric]

    @classmethod
    def of(cls, evaluator: Evaluator, data: Bundle) -> Metrics:
        """Build them; PluginError where a metric is missing or broken."""
        names, options = evaluator.metrics(data), evaluator.metric_options()

        def build(name: str) -> Any:
            return catalog.build("metric", name, options.get(name, {}))

        return cls(
            names,
            {name: build(name) for part in names.values() for name in part},
            {name: build(name) for name in evaluator.summaries()},
        )

    def only(self, sets: Collection[str]) -> Metrics:
        """The same, of these sets alone."""
        kept = {set_: names for set_, names in self.names.items() if set_ in sets}
        return Metrics(kept, self.rows, self.summaries)

    def needs(self, set_: str) -> frozenset[Need]:
        """What the row metrics of a set read."""
        return frozenset(need for name in self.names[set_] for need in self.rows[name].needs)

    def table(self, scored: Sequence[ScoredRow], reference: Table | None = None) -> Table:
        """Every figure, from rows that were scored once.

        Args:
            scored: what the evaluator's probes became.
            reference: table of the retain reference, where there is one.

        Raises:
            DataError: two rows of a set share an id.
        """
        by_set = {set_: [row for row in scored if row.set == set_] for set_ in self.names}
        reasons = {
            f"{set_}.{name}": missing(by_set[set_], self.rows[name])
            for set_ in self.names
            for name in self.names[set_]
        }
        values = row_values(by_set, self.names, self.rows)
        return aggregate_table(values, self.rows, self.summaries, reference, reasons)


def row_values(
    scored: Mapping[str, Sequence[ScoredRow]],
    names: Mapping[str, Sequence[str]],
    metrics: Mapping[str, RowMetric],
) -> Values:
    """The value of every row, by set and metric; what is not finite is None."""
    for set_, rows in scored.items():
        _refuse_equal_ids(set_, [row.row.id for row in rows])
    return {
        set_: {
            name: {row.row.id: _finite(metrics[name].value(row)) for row in scored[set_]}
            for name in names[set_]
        }
        for set_ in names
    }


def _refuse_equal_ids(set_: str, ids: Sequence[str]) -> None:
    seen: set[str] = set()
    for id_ in ids:
        if id_ in seen:
            raise DataError(f"two rows have the id {id_!r}", where=f"evaluation set {set_!r}")
        seen.add(id_)


def missing(rows: Sequence[ScoredRow], metric: RowMetric) -> str:
    """Why a metric has no value on any of the rows."""
    for need in sorted(metric.needs):
        if not any(_has(row, need) for row in rows):
            return f"no {NEEDS.get(need, need)}"
    return "no row has a value"


def _has(row: ScoredRow, need: Need) -> bool:
    if need == "distribution":
        return row.answer is not None and row.answer.expected_logp is not None
    if need == "gradient":
        return row.answer is not None and row.answer.gradient_norm is not None
    return getattr(row, need) not in (None, ())


def aggregate_table(
    values: Mapping[str, Mapping[str, Mapping[str, float | None]]],
    metrics: Mapping[str, RowMetric],
    summaries: Mapping[str, SummaryMetric],
    reference: Table | None = None,
    reasons: Mapping[str, str] | None = None,
) -> Table:
    """From values of rows to figures; pure, so it also reads what others have stored.

    Args:
        values: set -> metric -> row id -> value, None where there is none.
        metrics: the row metrics in `values`.
        summaries: computed in this order, each from the figures before it.
        reference: table of the retain reference, where there is one.
        reasons: `set.metric` -> why it is null where no row has a value.
    """
    numbers = {
        f"{set_}.{name}": _number(
            metrics[name], set_, list(rows.values()), (reasons or {}).get(f"{set_}.{name}", "")
        )
        for set_, by_metric in values.items()
        for name, rows in by_metric.items()
    }
    notes = tuple(
        f"{name}: {number.skipped} of {number.n + number.skipped} rows have no value; left out"
        for name, number in numbers.items()
        if number.n and number.skipped
    )
    for name, summary in summaries.items():
        found = summary.summary(Table(values, dict(numbers), notes), reference)
        if isinstance(found, Mapping):
            numbers |= {f"{name}.{key}": number for key, number in found.items()}
        else:
            numbers[name] = found
    return Table(values, numbers, notes)


def _number(metric: RowMetric, set_: str, values: list[float | None], reason: str) -> Number:
    direction: Direction = metric.on_forget if about_forget(set_) else metric.on_others
    known = [value for value in values if value is not None]
    skipped = len(values) - len(known)
    value = _finite(metric.aggregate(known, set_)) if known else None
    if value is None:
        reason = reason or "no row has a value"
        return Number(None, direction, len(known), skipped, reason)
    return Number(value, direction, len(known), skipped)


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
