"""TOFU: 200 fictitious authors, twenty questions each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from annotated_types import Gt

from unlearn_cli.api.data import Bundle, DataContext, Location, Row
from unlearn_cli.errors import DataError
from unlearn_plugins.datasets._read import Benchmark
from unlearn_plugins.datasets._rows import Columns, make_rows

EXPECTED = "a folder with forget10.jsonl and its kin, or locuslab/TOFU"
ROWS_PER_PERCENT = 40  # of 4,000


@dataclass(frozen=True)
class TOFU:
    """TOFU: forget some of 200 fictitious authors, keep the others (Maini et al., 2024).

    arXiv:2401.06121. A row's id is its index in the whole set of 4,000. Evaluated are the forget
    rows, the first 400 rows (retain), 100 real authors and 117 world facts, each with false
    answers, and with a paraphrase where the authors wrote one. Differs from the paper in one
    point: where `retain_rows` cuts training, only rows that were trained on are evaluated.
    """

    path: Location = "locuslab/TOFU"
    """Hub id, or a folder with a file `NAME.jsonl` for each part."""
    forget: str = "forget10"
    """Part to forget: `forget01`, `forget05` or `forget10`."""
    retain: str | None = None
    """Part to keep; by default the rest, e.g. `retain90` for `forget10`."""
    holdout: str | None = None
    """Part of authors that no model has seen: `holdout01`, `holdout05` or `holdout10`."""
    retain_rows: Annotated[int, Gt(0)] | None = None
    """Keep only the first so many rows of `retain`."""
    eval_rows: Annotated[int, Gt(0)] | None = None
    """Evaluate only the first so many rows of each set."""

    def load(self, context: DataContext) -> Bundle:
        """Read the parts.

        Raises:
            DataError: a part is missing, or `forget` and `retain` do not belong together.
        """
        source = Benchmark(self.path, context.base, EXPECTED)
        retain = _rows(source, _matching_retain(self.forget, self.retain))[: self.retain_rows]
        trained = {row.id for row in retain}
        kept = [row for row in _rows(source, "retain_perturbed") if row.id in trained]
        evaluation: dict[str, Sequence[Row]] = {
            "forget": _rows(source, f"{self.forget}_perturbed"),
            "retain": kept,
            "real_authors": _rows(source, "real_authors_perturbed"),
            "world_facts": _rows(source, "world_facts_perturbed"),
        }
        return Bundle(
            forget=_rows(source, self.forget),
            retain=retain,
            holdout=_rows(source, self.holdout) if self.holdout else (),
            evaluation={name: tuple(rows[: self.eval_rows]) for name, rows in evaluation.items()},
            columns={"path": source.where},
        )


def _matching_retain(forget: str, retain: str | None) -> str:
    """The retain part: derived, or checked against `forget` where both carry a percentage."""
    percent = re.fullmatch(r"forget(\d\d)", forget)
    if retain is None and percent is None:
        raise DataError(f"no retain part belongs to '{forget}'", hint="set [data].retain")
    derived = f"retain{100 - int(percent[1]):02}" if percent else None
    if retain is None or derived is None or not re.fullmatch(r"retain\d\d", retain):
        return str(retain or derived)
    if retain != derived:
        what = f"'{retain}' does not go with '{forget}': rows would be missing or in both"
        raise DataError(what, hint=f'use retain = "{derived}"')
    return retain


def first_id(part: str) -> int:
    """The index, in the whole set, of the first row of a part; 0 for parts from elsewhere."""
    percent = re.match(r"forget(\d\d)", part)
    return ROWS_PER_PERCENT * (100 - int(percent[1])) if percent else 0


def _rows(source: Benchmark, part: str) -> tuple[Row, ...]:
    """The rows of a part; ids count from `first_id`."""
    rows = make_rows(source.records(part), Columns(), "qa", settable=False).rows
    start = first_id(part)
    return tuple(replace(row, id=str(start + index)) for index, row in enumerate(rows))
