"""What holds for the figures of every metric and evaluator."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from unlearn_cli.api import Number, Table
from unlearn_cli.api.evaluate import Direction

DIRECTIONS = get_args(Direction)


def check_numbers(numbers: Mapping[str, Any]) -> None:
    """Assert that each figure is finite or null with its reason, and has a direction."""
    for name, number in numbers.items():
        assert isinstance(number, Number), f"{name} is {type(number).__name__}, not a Number"
        assert number.direction in DIRECTIONS, f"{name} has the direction {number.direction!r}"
        assert number.n >= 0, f"{name} counts {number.n} rows"
        assert number.skipped >= 0, f"{name} counts {number.skipped} skipped rows"
        if number.value is None:
            assert number.reason, f"{name} is null without a reason"
        else:
            assert math.isfinite(number.value), f"{name} is {number.value}, which is not finite"


def check_table(table: Any, ids: Mapping[str, Iterable[str]] | None) -> None:
    """Assert that a table is whole.

    Args:
        table: of one evaluation.
        ids: the rows of each set; None where only the evaluator knows them.
    """
    assert isinstance(table, Table), f"the evaluation is {type(table).__name__}, not a Table"
    assert table.numbers, "the table has no figure"
    check_numbers(table.numbers)
    for set_, by_metric in table.rows.items():
        for metric, values in by_metric.items():
            name = f"{set_}.{metric}"
            assert name in table.numbers, f"rows have {name}, and no figure sums it up"
            known = [value for value in values.values() if value is not None]
            assert all(map(math.isfinite, known)), f"{name} has a row whose value is not finite"
            if ids is not None:
                assert list(values) == list(ids[set_]), f"the values of {name} are of other rows"
