"""The suites of the two kinds of metrics: `check_metric` and `check_summary`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import numpy as np

from unlearn_cli.api import AnswerScore, Number, Row, RowMetric, ScoredRow, SummaryMetric, Table
from unlearn_cli.api.evaluate import Need
from unlearn_cli.testing.made_up import made_up_bundle
from unlearn_cli.testing.plugin import check_light, check_plugin
from unlearn_cli.testing.table import DIRECTIONS, check_numbers

Range = tuple[float, float]
UNBOUNDED: Range = (-math.inf, math.inf)
DRAWS = 16


def check_metric(
    metric: Any, *, within: Range = UNBOUNDED, rows: Sequence[ScoredRow] | None = None
) -> None:
    """Assert that a metric with a value a row keeps the contract.

    1. The tool can list it and build it from a spec (`unlearn_cli.testing.plugin`): a frozen
       dataclass, every option documented; importing its module imports no torch.
    2. `needs` names what the engine can give, and `on_forget` and `on_others` are directions.
    3. It reads nothing but what `needs` names: a row with just that has a value.
    4. Without any one of its needs a row has no value: None, never 0, and never an exception.
    5. A row's value depends on that row alone: the same when asked again, in any order.
    6. The figure of a set is finite, within the range, the same for the rows in any order; of
       equal rows it is what one of them gives.

    Args:
        metric: an instance.
        within: least and greatest figure of a set.
        rows: rows with all that it needs, each with an id of its own; by default
            `made_up_scores()`.

    Raises:
        AssertionError: which of the claims does not hold.
    """
    check_plugin(metric)
    check_light(metric)
    _check_declared(metric)
    rows = [_reduced(row, metric.needs) for row in rows or made_up_scores()]
    values = {row.row.id: metric.value(row) for row in rows}
    known = [value for value in values.values() if value is not None and math.isfinite(value)]
    assert known, "no row has a value: it reads more than `needs` names, or needs other `rows`"
    for need in metric.needs:
        _check_missing(metric, rows, need)
    again = {row.row.id: metric.value(row) for row in reversed(rows)}
    assert again == values, "a row's value is another when it is asked again, in another order"
    for set_ in ("forget", "retain"):
        _check_figure(metric, known, set_, within)


def check_summary(
    metric: Any,
    *,
    within: Range = UNBOUNDED,
    table: Table | None = None,
    reference: Table | None = None,
) -> None:
    """Assert that a metric over sets, or against the retain reference, keeps the contract.

    1. The tool can list it and build it from a spec (`unlearn_cli.testing.plugin`): a frozen
       dataclass, every option documented; importing its module imports no torch.
    2. From a table and a reference that have what it reads comes at least one value; every value is
       within the range, and the same when asked again.
    3. Every figure has a direction, and is finite or null with its reason: also without a
       reference, and where no row of the table has a value.
    4. An empty table has no value: null, or no figure at all, never 0, and never an exception.

    Args:
        metric: an instance.
        within: least and greatest value of its figures.
        table: what it reads; by default every row metric that is installed, on `made_up_scores()`
            of the sets forget, retain and holdout.
        reference: the same of the retain reference.

    Raises:
        AssertionError: which of the claims does not hold.
    """
    assert isinstance(metric, SummaryMetric), "it has no summary(table, reference)"
    check_plugin(metric)
    check_light(metric)
    table, reference = table or _made_up_table(0), reference or _made_up_table(1)
    figures = _figures(metric, table, reference)
    known = [number.value for number in figures.values() if number.value is not None]
    assert known, "no figure has a value: give a `table` and a `reference` with what it reads"
    outside = [value for value in known if not within[0] <= value <= within[1]]
    assert not outside, f"{outside[0]} is not within {within}"
    assert _figures(metric, table, reference) == figures, "asked again it says something else"
    _figures(metric, table, None)
    for nothing in (Table({}, {}), _without_values(table)):
        for other in (None, reference, nothing):
            for name, number in _figures(metric, nothing, other).items():
                assert number.value is None, f"{name} has a value where nothing was measured"


def made_up_scores(seed: int = 0, sets: Sequence[str] = ("forget",)) -> list[ScoredRow]:
    """Rows as a model with chance in its answers would be scored, with all that a metric may need:
    eight in each of the sets, of which some are the truth word by word."""
    bundle, draw = made_up_bundle(seed), np.random.default_rng(seed)
    rows = [row for row in (*bundle.forget, *bundle.retain, *bundle.holdout) if row.perturbed][:8]
    return [
        _scored(dataclasses.replace(row, id=f"{set_}-{k}"), set_, draw)
        for set_ in sets
        for k, row in enumerate(rows)
    ]


def _scored(row: Row, set_: str, draw: np.random.Generator) -> ScoredRow:
    words = row.answer.split()
    said = [
        row.answer,
        *(" ".join(draw.permutation(words)[: draw.integers(1, 6)]) for _ in range(DRAWS - 1)),
    ]
    return ScoredRow(
        set_,
        row,
        answer=_answer(draw),
        paraphrase=_answer(draw),
        perturbed=tuple(_answer(draw) for _ in row.perturbed),
        generation=said[draw.integers(DRAWS)],
        samples=tuple(said),
    )


def _answer(draw: np.random.Generator) -> AnswerScore:
    count = int(draw.integers(2, 9))
    return AnswerScore(
        token_logp=-draw.exponential(1.0, count),
        correct=draw.random(count) < 0.5,
        expected_logp=-draw.exponential(1.0, count),
        spread_logp=draw.exponential(1.0, count),
        gradient_norm=float(draw.exponential(1.0)),
    )


def _check_declared(metric: Any) -> None:
    """Claim 2."""
    assert isinstance(metric, RowMetric), "it lacks value, aggregate, needs or a direction"
    unknown = sorted({*metric.needs} - {*get_args(Need)})
    assert not unknown, f"needs names {', '.join(unknown)}; there is {', '.join(get_args(Need))}"
    assert metric.needs, "needs names nothing"
    for side in ("on_forget", "on_others"):
        assert getattr(metric, side) in DIRECTIONS, f"{side} is none of {', '.join(DIRECTIONS)}"


def _reduced(row: ScoredRow, needs: frozenset[Need]) -> ScoredRow:
    """The row with what `needs` names, and nothing else."""
    missing = [need for need in get_args(Need) if need not in needs]
    if "answer" in missing and {"distribution", "gradient"} & needs:
        missing.remove("answer")  # these two are of the true answer
    for need in missing:
        row = _without(row, need)
    return row


def _without(row: ScoredRow, need: Need) -> ScoredRow:
    lacking: Mapping[str, Mapping[str, Any]] = {
        "distribution": {"expected_logp": None, "spread_logp": None},
        "gradient": {"gradient_norm": None},
    }
    if need in lacking:
        answer = row.answer and dataclasses.replace(row.answer, **lacking[need])
        return dataclasses.replace(row, answer=answer)
    nothing: Any = () if need in ("perturbed", "samples") else None
    return dataclasses.replace(row, **{need: nothing})


def _check_missing(metric: Any, rows: Sequence[ScoredRow], need: Need) -> None:
    """Claim 4."""
    found = [metric.value(_without(row, need)) for row in rows]
    assert found == [None] * len(rows), f"without {need} a row has the value {found[0]}, not None"


def _check_figure(metric: Any, values: list[float], set_: str, within: Range) -> None:
    """Claim 6."""
    figure = metric.aggregate(values, set_)
    assert math.isfinite(figure), f"the figure of {set_} is {figure}"
    assert within[0] <= figure <= within[1], f"the figure of {set_}, {figure}, is not in {within}"
    turned = metric.aggregate(values[::-1], set_)
    assert math.isclose(turned, figure, rel_tol=1e-9), f"{set_}: the order of the rows counts"
    one, three = (metric.aggregate(values[:1] * count, set_) for count in (1, 3))
    assert math.isclose(one, three, rel_tol=1e-9), f"{set_}: the same row three times is {three}"


def _figures(metric: Any, table: Table, reference: Table | None) -> Mapping[str, Number]:
    found = metric.summary(table, reference)
    figures = found if isinstance(found, Mapping) else {"the figure": found}
    check_numbers(figures)
    return figures


def _made_up_table(seed: int) -> Table:
    """Every row metric that is installed and has defaults, on made-up scores."""
    from unlearn_cli import catalog
    from unlearn_cli.tables import Metrics

    installed = [p for p in catalog.plugins("metric") if not p.error]
    usable = [p.name for p in installed if not any(o.required for o in p.options)]
    built = {name: catalog.build("metric", name, {}) for name in usable}
    rows = {name: metric for name, metric in built.items() if isinstance(metric, RowMetric)}
    sets = ("forget", "retain", "holdout")
    return Metrics(dict.fromkeys(sets, tuple(rows)), rows, {}).table(made_up_scores(seed, sets))


def _without_values(table: Table) -> Table:
    """The same rows and figures, all null."""
    rows = {
        set_: {metric: dict.fromkeys(values) for metric, values in by_metric.items()}
        for set_, by_metric in table.rows.items()
    }
    numbers = {
        name: Number(None, number.direction, 0, number.n + number.skipped, "no row has a value")
        for name, number in table.numbers.items()
    }
    return Table(rows, numbers)
