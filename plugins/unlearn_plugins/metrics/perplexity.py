"""Perplexity of the true answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from unlearn_cli.api import ScoredRow
from unlearn_cli.api.evaluate import Direction, Need


@dataclass(frozen=True)
class Perplexity:
    """exp of the mean loss of an answer token, at least 1.

    A row's value is exp(M), M its mean loss in nats; a set's value is exp(mean of M over its rows),
    the geometric mean of its rows: each row counts alike, however long. Higher is more forgotten on
    the forget set (the ideal is the value of the retain reference), lower is better elsewhere.

    Difference from the perplexity of a corpus: that weighs each token alike.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"answer"})
    on_forget: ClassVar[Direction] = "reference"
    on_others: ClassVar[Direction] = "lower"

    def value(self, row: ScoredRow) -> float | None:
        """exp(M); not finite, and so null, above exp(709)."""
        if row.answer is None:
            return None
        loss = -row.answer.mean_logp
        return math.exp(loss) if loss < 709 else math.inf

    def aggregate(self, values: Sequence[float], set: str) -> float:  # noqa: A002
        """The geometric mean."""
        return float(np.exp(np.mean(np.log(values))))
