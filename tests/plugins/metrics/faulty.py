"""Metrics with one fault each, in a module that is as light as a plugin's must be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from unlearn_cli.api import Direction, Need, Number, ScoredRow, Table


@dataclass(frozen=True)
class Certain:
    """Share of tokens above a probability of 1/2, with a fault."""

    fault: str = ""
    """Which."""

    needs: ClassVar[frozenset[Need]] = frozenset({"answer"})
    on_forget: ClassVar[Direction] = "lower"
    on_others: ClassVar[Direction] = "higher"
    asked: ClassVar[list[str]] = []

    def value(self, row: ScoredRow) -> float | None:
        if row.answer is None:
            return 0.0 if self.fault == "zero" else None
        self.asked.append(row.row.id)
        share = float(np.mean(row.answer.token_logp > -0.7))
        return share + (len(self.asked) if self.fault == "state" else 0)

    def aggregate(self, values: Sequence[float], set: str) -> float:  # noqa: A002
        if self.fault == "first":
            return values[0] + 0.5 * values[-1]
        return sum(values) if self.fault == "sum" else float(np.mean(values))


@dataclass(frozen=True)
class Undeclared(Certain):
    """Reads paraphrases without saying so."""

    def value(self, row: ScoredRow) -> float | None:
        return None if row.paraphrase is None else super().value(row)


@dataclass(frozen=True)
class Misspelt(Certain):
    """Needs what does not exist."""

    needs: ClassVar[frozenset[Any]] = frozenset({"answers"})


@dataclass(frozen=True)
class Worst:
    """Greatest loss of a forget row, with a fault."""

    fault: str = ""
    """Which."""

    def summary(self, table: Table, reference: Table | None) -> Number:
        known = table.rows.get("forget", {}).get("loss", {}).values()
        values = [value for value in known if value is not None]
        if reference is None and self.fault == "reason":
            return Number(None, "lower")
        if not values and self.fault != "zero":
            return Number(None, "lower", reason="no row of forget has a loss")
        value = math.inf if self.fault == "infinite" else max(values, default=0.0)
        return Number(value, "lower", n=len(values))
